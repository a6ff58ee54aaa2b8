"""What vehicles do: the ego carries out meta-actions, the others drive by IDM and MOBIL.

IDM is the intelligent driver model of Treiber, Hennecke & Helbing (2000), which says how to accelerate
behind a leader; MOBIL (Kesting, Treiber & Helbing 2007) says when to change lanes.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.envs.highway.lanes import (
    END,
    VEHICLE_LENGTH,
    Lanes,
    Road,
    headings,
    local_coordinates,
    not_zero,
    on_lane,
    pick,
    reachable,
    wrap,
)
from ragjax.envs.highway.vehicles import Vehicles

LANE_LEFT, IDLE, LANE_RIGHT, FASTER, SLOWER = range(5)
SLOWEST, SPEED_STEP, SPEEDS = 20.0, 5.0, 3  # speeds that the ego may choose: 20, 25, 30 m/s

SPEED_GAIN = 1 / 0.6  # 1/s
LATERAL_GAIN = 1 / 0.6  # 1/s
HEADING_GAIN = 5.0  # 1/s, 1 / 0.2 s
LOOK_AHEAD = 0.1  # s
MAX_STEERING = math.pi / 3
MAX_COMMAND = math.pi / 4  # of the heading to a lane

MAX_ACCELERATION = 6.0  # m/s²
COMFORT_ACCELERATION = 3.0  # A, m/s²
COMFORT_BRAKING = 5.0  # B, m/s²
JAM_DISTANCE = 10.0  # d_0, m
TIME_GAP = 1.5  # τ, s
MIN_GAIN = 0.2  # of a change of lanes, m/s²
MAX_IMPOSED_BRAKING = 2.0  # m/s²
DECISION_PERIOD = 1.0  # s
MARGIN = 1.0  # beside a lane in which vehicles still count as on it, m


class Seen(NamedTuple):
    """What drivers know of all vehicles and obstacles, J; all are [J].

    An obstacle stands still and is no vehicle.
    """

    x: Array
    speed: Array
    velocity_x: Array
    velocity_y: Array
    cosine: Array
    sine: Array
    desired: Array
    is_vehicle: Array

    def of(self, rows: Int[Array, "*V"]) -> "Seen":
        """Those of given rows; of row -1 anything."""
        return Seen(*(leaf[rows] for leaf in self))


def apply_action(lanes: Lanes, vehicles: Vehicles, action: Int[Array, ""]) -> Vehicles:
    """Sets the ego's targets.

    FASTER and SLOWER go one step up and down from the nearest speed of 20, 25, 30 m/s to the current
    one (of equals the even step); LANE_LEFT and LANE_RIGHT go one lane from the target lane, if the ego
    can reach it; IDLE changes nothing.
    """
    s, r = local_coordinates(lanes, vehicles.x[:1], vehicles.y[:1])
    speed, target = vehicles.speed[0], turned(lanes, vehicles.target_lane[:1], s)[0]
    step = jnp.clip((speed - SLOWEST) / SPEED_STEP, 0.0, SPEEDS - 1.0)
    change = (action == FASTER).astype(speed.dtype) - (action == SLOWER).astype(speed.dtype)
    chosen = SLOWEST + SPEED_STEP * jnp.clip(jnp.round(step) + change, 0.0, SPEEDS - 1.0)
    target_speed = jnp.where(change == 0, vehicles.target_speed[0], chosen)
    side = jnp.where(action == LANE_LEFT, lanes.left[target], lanes.right[target])
    changes = (action == LANE_LEFT) | (action == LANE_RIGHT)
    changes &= reachable(lanes, s, r)[side, 0]
    return dataclasses.replace(
        vehicles,
        target_lane=vehicles.target_lane.at[0].set(jnp.where(changes, side, target)),
        target_speed=vehicles.target_speed.at[0].set(target_speed),
    )


class Judgement(NamedTuple):
    """What drivers think of their lanes; all are [V].

    Attributes:
      acceleration: behind the leader on the current lane, m/s².
      lane: the lane that MOBIL would go to, or else the target lane.
    """

    acceleration: Array
    lane: Array


class Sight(NamedTuple):
    """Where everybody is.

    Attributes:
      s: [L,V] along the lanes, m.
      r: [L,V] to the right of them, m.
      seen: [J] what is known of vehicles and obstacles.
      ahead: [L,V] rows of leaders, -1 where there is none.
      behind: [L,V] rows of followers.
    """

    s: Array
    r: Array
    seen: Seen
    ahead: Array
    behind: Array

    @property
    def me(self) -> Seen:
        """What is known of the vehicles [V]."""
        return Seen(*(leaf[: self.s.shape[1]] for leaf in self.seen))


def act(road: Road, vehicles: Vehicles) -> Vehicles:
    """Sets the commands of all vehicles, and target lanes and timers of those that think of changing.

    A crashed driver does nothing.
    """
    lanes, before = road.lanes, vehicles.target_lane
    is_ego = jnp.arange(len(vehicles.x)) == 0
    drives = ~vehicles.crashed & ~is_ego
    sight = look(road, vehicles)

    # Lanes
    target = jnp.where(drives | is_ego, turned(lanes, before, sight.s), before)
    judged = judge(lanes, vehicles, sight, target)
    thinks = drives & (vehicles.lane == target) & (vehicles.timer > DECISION_PERIOD)
    same_road = pick(lanes.road, vehicles.lane) == pick(lanes.road, target)
    changing = drives & (vehicles.lane != target) & same_road
    after = jnp.where(thinks, judged.lane, target)
    aborts = gives_way(vehicles, sight.me, changing, before, after)
    after = jnp.where(aborts, vehicles.lane, after)

    # Commands
    leader = behind_leader(vehicles, sight, pick(sight.ahead, after))
    commanded = jnp.minimum(judged.acceleration, leader)
    commanded = jnp.where(vehicles.lane != after, commanded, judged.acceleration)
    commanded = jnp.clip(commanded, -MAX_ACCELERATION, MAX_ACCELERATION)
    chased = SPEED_GAIN * (vehicles.target_speed - vehicles.speed)
    commanded = jnp.where(is_ego, chased, commanded)
    steering = steering_to(lanes, vehicles, after, sight.s, sight.r)
    return dataclasses.replace(
        vehicles,
        target_lane=after,
        timer=jnp.where(thinks, 0.0, vehicles.timer),
        steering=jnp.where(drives | is_ego, steering, vehicles.steering),
        acceleration=jnp.where(drives | is_ego, commanded, vehicles.acceleration),
    )


def judge(lanes: Lanes, vehicles: Vehicles, sight: Sight, target: Int[Array, "V"]) -> Judgement:
    """How to accelerate by IDM, and where to go by MOBIL: of two better lanes to the right one.

    A lane is better if one's own acceleration there is greater by 0.2 m/s² at least, and the follower
    there need not brake by more than 2 m/s². All judge others by their own exponent.

    Args:
      lanes: of the road.
      vehicles: all.
      sight: where they are.
      target: [V] their target lanes.
    """
    me, chosen = sight.me, target
    now = behind_leader(vehicles, sight, pick(sight.ahead, vehicles.lane))
    in_reach = reachable(lanes, sight.s, sight.r)
    for side in (lanes.left, lanes.right):
        beside = pick(side, vehicles.lane)
        follower = pick(sight.behind, beside)
        them = sight.seen.of(follower)
        imposed = free_acceleration(them.speed, them.desired, vehicles.exponent)
        imposed -= interaction(them, me)
        gentle = (follower < 0) | ~them.is_vehicle | (imposed >= -MAX_IMPOSED_BRAKING)
        gain = behind_leader(vehicles, sight, pick(sight.ahead, beside)) - now
        moves = (beside != vehicles.lane) & pick(in_reach, beside) & (jnp.abs(me.speed) >= 1)
        chosen = jnp.where(moves & gentle & (gain >= MIN_GAIN), beside, chosen)
    return Judgement(now, chosen)


def behind_leader(vehicles: Vehicles, sight: Sight, leader: Int[Array, "V"]) -> Float[Array, "V"]:
    """The acceleration of IDM with a leader, of row -1 without one."""
    me = sight.me
    free = free_acceleration(me.speed, me.desired, vehicles.exponent)
    return jnp.where(leader >= 0, free - interaction(me, sight.seen.of(leader)), free)


def turned(lanes: Lanes, target: Int[Array, "V"], s: Float[Array, "L V"]) -> Int[Array, "V"]:
    """The target lane, or the one that follows on it for a vehicle that is at its end."""
    past = pick(s - lanes.length[:, None] > -END, target)
    return jnp.where(past, pick(lanes.following, target), target)


def steering_to(
    lanes: Lanes,
    vehicles: Vehicles,
    target: Int[Array, "V"],
    s: Float[Array, "L V"],
    r: Float[Array, "L V"],
) -> Float[Array, "V"]:
    """The steering [V], rad, that brings each vehicle to the centre of its target lane.

    A lateral speed in proportion to -r asks for a heading, whose difference to the vehicle's own asks
    for a rate of turning, and this for a slip β with v sin β / (length / 2) = rate; tan δ = 2 tan β.
    """
    divisor = not_zero(vehicles.speed)
    lateral = -LATERAL_GAIN * pick(r, target)
    command = jnp.arcsin(jnp.clip(lateral / divisor, -1.0, 1.0))
    command = jnp.clip(command, -MAX_COMMAND, MAX_COMMAND)
    command += pick(headings(lanes, s + LOOK_AHEAD * vehicles.speed), target)
    rate = HEADING_GAIN * wrap(command - vehicles.heading)
    sine = jnp.clip(VEHICLE_LENGTH / 2 / divisor * rate, -1.0, 1.0)
    steering = jnp.arctan2(2 * sine, jnp.sqrt(1 - sine**2))
    return jnp.clip(steering, -MAX_STEERING, MAX_STEERING)


def look(road: Road, vehicles: Vehicles) -> Sight:
    """Finds the leader and the follower that each vehicle has on each lane.

    A leader is the one of least x among those that are not behind, a follower the one of greatest x
    among those that are; of several of one x the later leads and the earlier follows.
    """
    lanes, obstacles, count = road.lanes, road.obstacles, len(vehicles.x)
    s, r = local_coordinates(lanes, vehicles.x, vehicles.y)
    cosine, sine = jnp.cos(vehicles.heading), jnp.sin(vehicles.heading)
    seen = Seen(
        x=vehicles.x,
        speed=vehicles.speed,
        velocity_x=vehicles.speed * cosine,
        velocity_y=vehicles.speed * sine,
        cosine=cosine,
        sine=sine,
        desired=jnp.clip(vehicles.target_speed, 0.0, road.limit),
        is_vehicle=jnp.ones(count, bool),
    )
    there = on_lane(lanes, s, r, MARGIN)
    if obstacles is not None:
        still = jnp.zeros_like(obstacles[:, 0])
        fixed = Seen(obstacles[:, 0], *[still] * 6, is_vehicle=still.astype(bool))
        seen = jax.tree.map(lambda *parts: jnp.concatenate(parts), seen, fixed)
        beside = on_lane(lanes, *local_coordinates(lanes, *obstacles.T), MARGIN)
        there = jnp.concatenate([there, beside], axis=1)
    if lanes.searched is not None:
        there = jnp.any(lanes.searched[:, :, None] & there, axis=1)

    # Rows in the order of x
    rows = jnp.arange(len(seen.x), dtype=jnp.int32)
    before = seen.x[:, None] < seen.x
    before |= (seen.x[:, None] == seen.x) & (rows[:, None] > rows)
    rank = jnp.sum(before, axis=0, dtype=jnp.int32)
    is_row = rank[:, None] == rows  # [J, rank]
    by_rank = jnp.sum(jnp.where(is_row, rows[:, None], 0), axis=0, dtype=jnp.int32)

    leads = (seen.x[:, None] >= vehicles.x) & (rows[:, None] != rows[:count])  # [J,V]
    follows = seen.x[:, None] < vehicles.x
    on = there.T[:, :, None]  # [J,L,1]
    ranked = rank[:, None, None]
    ahead = jnp.min(jnp.where(leads[:, None] & on, ranked, len(rows)), axis=0)
    behind = jnp.max(jnp.where(follows[:, None] & on, ranked, -1), axis=0)
    by_rank = jnp.concatenate([by_rank, jnp.full((1,), -1, jnp.int32)])
    return Sight(s, r, seen, by_rank[ahead], by_rank[behind])


def free_acceleration(
    speed: Float[Array, "V"], desired: Float[Array, "V"], exponent: Float[Array, "V"]
) -> Float[Array, "V"]:
    """A (1 - (v / v_0)^δ), m/s², without a leader."""
    ratio = jnp.maximum(speed, 0.0) / jnp.abs(not_zero(desired))
    return COMFORT_ACCELERATION * (1 - ratio**exponent)


def interaction(me: Seen, leader: Seen) -> Float[Array, "V"]:
    """A (d* / d)², m/s², which a leader at distance d takes off the acceleration."""
    distance = not_zero(leader.x - me.x)
    return COMFORT_ACCELERATION * (desired_gap(me, leader) / distance) ** 2


def desired_gap(me: Seen, leader: Seen) -> Float[Array, "..."]:
    """d* = d_0 + v τ + v Δv / (2 √(A B)), m, of the difference Δv of velocities along my heading."""
    closing = (me.velocity_x - leader.velocity_x) * me.cosine
    closing += (me.velocity_y - leader.velocity_y) * me.sine
    braking = 2 * math.sqrt(COMFORT_ACCELERATION * COMFORT_BRAKING)
    return JAM_DISTANCE + me.speed * TIME_GAP + me.speed * closing / braking


def gives_way(
    vehicles: Vehicles,
    me: Seen,
    changing: Bool[Array, "V"],
    before: Int[Array, "V"],
    after: Int[Array, "V"],
) -> Bool[Array, "V"]:
    """Who gives up to change lanes, since another that is close ahead changes to the same one.

    Drivers decide one after another: of those earlier in the list they see what these have decided just
    now, and giving up is a part of that. Decisions are made again until they agree.

    Args:
      vehicles: all.
      me: what is known of them.
      changing: who is on the way to another lane.
      before: target lanes that are still those of later drivers.
      after: target lanes unless somebody gives up.
    """
    rows = jnp.arange(len(vehicles.x))
    leader = jax.tree.map(lambda leaf: leaf[:, None], me)
    distance = leader.x - me.x  # [other, me]
    close = (distance > 0) & (distance < desired_gap(me, leader))
    rival = changing & close & (vehicles.lane[:, None] != after)
    later = rival & (rows[:, None] > rows) & (before[:, None] == after)
    earlier = rival & (rows[:, None] < rows) & (after[:, None] == after)
    at_once = jnp.any(later, axis=0)

    def decide(aborts):
        return at_once | jnp.any(earlier & ~aborts[:, None], axis=0)

    def disagree(decisions):
        return jnp.any(decisions[0] != decisions[1])

    def again(decisions):
        return decisions[1], decide(decisions[1])

    return jax.lax.while_loop(disagree, again, (at_once, decide(at_once)))[1]
