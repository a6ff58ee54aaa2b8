"""Traffic: one decision of the ego, carried out in sub-steps, and what the ego sees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.envs.highway.collisions import collide
from ragjax.envs.highway.drivers import act, apply_action
from ragjax.envs.highway.lanes import Road
from ragjax.envs.highway.vehicles import Vehicles, move, velocity

ROWS, COLUMNS = 5, 5  # of an observation: the ego and four others; presence, x, y, v_x, v_y
MAX_DISTANCE = 200.0  # of vehicles that are seen, m
BEHIND = 10.0  # the way behind the ego within which they are, m
SPEED_SCALE = 80.0  # m/s
# Mean and deviation of each number of an observation, roughly, over the scenes of a `SceneMemory` by
# default. Presence is nearly always 1.
USUAL = np.array([[1, 1, 1 / 3, 0.3, 0], *([1, x, 0, -0.03, 0] for x in (0.06, 0.17, 0.29, 0.4))])
SPREAD = np.array([[1, 0.06, 0.25, 0.04, 0.01], *[[1, 0.06, 0.4, 0.04, 0.01]] * 4])


def drive(
    road: Road, vehicles: Vehicles, action: Int[Array, ""], *, hertz: int, everyone: bool
) -> Vehicles:
    """One second of traffic with a meta-action of the ego.

    Args:
      road: the road.
      vehicles: all; the floating-point type is theirs and the road's.
      action: the meta-action.
      hertz: sub-steps of the second.
      everyone: whether all collisions are looked for, or only the ego's.
    """
    vehicles = apply_action(road.lanes, vehicles, action)

    def sub_step(vehicles: Vehicles, _: Any):
        vehicles = act(road, vehicles)
        vehicles = move(road.lanes, vehicles, 1 / hertz)
        vehicles = collide(vehicles, road.obstacles, 1 / hertz, everyone=everyone)
        return vehicles, None

    return jax.lax.scan(sub_step, vehicles, length=hertz)[0]


def observe(road: Road, vehicles: Vehicles, height: float) -> Float[Array, "5 5"]:
    """The ego, and the four others that are nearest to it along the road.

    Seen are those less than 200 m away and less than 10 m behind. Columns: 1, x / 200, y / height,
    v_x / 80, v_y / 80, cut to ±1; of others relative to the ego. Rows of nobody are zeros.

    Args:
      road: the road, whose obstacles are seen too.
      vehicles: all.
      height: that y is divided by, m.
    """
    columns = [vehicles.x, vehicles.y, *velocity(vehicles)]
    if road.obstacles is not None:
        still = jnp.zeros_like(road.obstacles[:, 0])
        fixed = [*road.obstacles.T, still, still]
        columns = [jnp.concatenate(parts) for parts in zip(columns, fixed, strict=True)]
    table = jnp.stack(columns, axis=-1)
    ego, others = table[0], table[1:] - table[0]
    ahead = others[:, 0]
    seen = (jnp.hypot(ahead, others[:, 1]) < MAX_DISTANCE) & (ahead > -BEHIND)
    distance = jnp.where(seen, jnp.abs(ahead), jnp.inf)
    nearest = jnp.argsort(distance, stable=True)[: ROWS - 1]
    shown = jnp.where(seen[nearest, None], others[nearest], 0.0)
    present = jnp.concatenate([jnp.ones_like(ego[:1]), seen[nearest].astype(ego.dtype)])
    scale = jnp.asarray([MAX_DISTANCE, height, SPEED_SCALE, SPEED_SCALE], ego.dtype)
    numbers = jnp.clip(jnp.concatenate([ego[None], shown]) / scale, -1.0, 1.0)
    rows = jnp.concatenate([present[:, None], numbers], axis=-1)
    return jnp.pad(rows, ((0, ROWS - len(rows)), (0, 0)))
