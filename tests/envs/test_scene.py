"""Scenes: what environments look like says what their states say."""

import dataclasses
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_specs import traceable_specs

from ragjax.envs import acrobot, cartpole, catch, lookup, mountain_car, testbed, text_lookup
from ragjax.envs.base import Environment
from ragjax.envs.highway.highway import HighwayFast
from ragjax.envs.highway.merge import Merge
from ragjax.envs.random_walk import RandomWalk
from ragjax.envs.recommendation import recogym
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.scene import Circle, Label, Line, Polygon, Rectangle, Role, Scene, bars
from ragjax.errors import UserError

DRAWN = [kind for kind in traceable_specs() if kind.scene is not Environment.scene]


def played(spec, steps=6, seed=0):
    """Params and the states of an episode of random actions, on the host."""
    env = spec.build()
    draw, step = np.random.default_rng(seed), jax.jit(env.step)
    state, _ = jax.jit(env.reset)(env.params, jax.random.key(seed))
    states = [state]
    for number in range(steps):
        shape = (env.slate,) if env.slate else ()
        action = jnp.asarray(draw.choice(env.num_actions, shape, replace=False), jnp.int32)
        state, _ = step(env.params, jax.random.key(number), states[-1], action)
        states.append(state)
    return jax.device_get((env.params, states))


def numbers(shape):
    """Every number of a shape."""
    values = [value for value in vars(shape).values() if not isinstance(value, str)]
    return np.concatenate([np.ravel(np.asarray(value, float)) for value in values])


def of_kind(scene, kind, role=None):
    return [
        shape
        for shape in scene.shapes
        if isinstance(shape, kind) and (role is None or shape.role == role)
    ]


def test_environments_are_found():
    names = {"cartpole", "mountain_car", "acrobot", "catch", "lookup", "text_lookup", "testbed"}
    names |= {"highway_fast", "highway", "merge", "interest_evolution", "interest_exploration"}
    names |= {"long_term_satisfaction", "recogym"}
    assert {kind.name for kind in DRAWN} >= names


@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.name)
def test_every_state_can_be_drawn(kind):
    """Also those after an end; with NumPy's arrays, and a view whose size stays."""
    spec = kind()
    params, states = played(spec)
    sizes = set()
    for state in states:
        scene = spec.scene(params, state)
        assert scene.shapes
        for shape in scene.shapes:
            assert np.all(np.isfinite(numbers(shape)))
        sizes.add(tuple(abs(float(high) - float(low)) for low, high in (scene.x, scene.y)))
    assert len(sizes) == 1


@pytest.mark.parametrize("kind", traceable_specs(), ids=lambda kind: kind.name)
def test_actions_and_passages_have_words(kind):
    spec = kind()
    env = spec.build()
    names = [spec.action_name(action) for action in range(env.num_actions)]
    assert all(names)
    assert len(set(names)) == len(names)
    for row in range(0 if env.passages is None else 3):
        text = spec.describe_passage(row, np.asarray(env.passages)[row])
        assert text
        assert text.isprintable()


def test_the_default_says_little():
    spec = RandomWalk()
    assert spec.scene((), None) is None
    assert spec.action_name(3) == "3"
    assert spec.describe_passage(0, np.array([0.5, -1.0])) == "0.5 -1"
    six = np.array([0.123456, 1, 2, 3, 4, 5], np.float32)
    assert spec.describe_passage(0, six) == "0.123 1 2 3 and 2 more numbers"
    assert spec.describe_passage(0, np.array([7, 8, 0])) == "7 8 0"


# What each shows


@pytest.mark.parametrize(
    ("position", "angle", "failed"), [(0.5, 0.1, False), (-2.5, 0.0, True), (1.0, -0.3, True)]
)
def test_cart_and_pole(position, angle, failed):
    state = cartpole.State(*np.float32([position, 0.0, angle, 0.0]))
    scene = cartpole.CartPole().scene(cartpole.Physics(), state)
    cart, pole = of_kind(scene, Rectangle)
    assert (cart.x, cart.y) == (pytest.approx(position), 0)
    # The pole is 1 m long and begins in the cart; a positive angle leans it to the right.
    assert pole.height == 1.0
    assert pole.x == pytest.approx(position + 0.5 * math.sin(angle))
    assert pole.y == pytest.approx(0.5 * math.cos(angle))
    assert pole.angle == pytest.approx(-angle)
    assert (pole.role == "danger") == failed
    assert f"{position:.2f} m" in scene.caption


def test_the_car_stands_on_the_hill():
    state = mountain_car.State(*np.float32([-0.7, 0.02]))
    scene = mountain_car.MountainCar().scene(mountain_car.Physics(), state)
    (car,) = of_kind(scene, Rectangle)
    (hill,) = of_kind(scene, Polygon, "ground")
    x, y = np.array(hill.points[1:-1]).T  # without the corners below
    assert np.hypot(car.x + 0.7, car.y - np.interp(-0.7, x, y)) == pytest.approx(0.05, abs=2e-3)
    rise = np.interp(-0.69, x, y) - np.interp(-0.71, x, y)
    assert math.tan(car.angle) == pytest.approx(rise / 0.02, rel=0.05)
    (flag,) = of_kind(scene, Polygon, "goal")
    assert flag.points[0][0] == 0.5


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.4, -1.1), (math.pi, 0.0)])
def test_both_links(angles):
    """The tip is where the rule of the end says."""
    state = acrobot.State(*np.float32([*angles, 0.0, 0.0]))
    scene = acrobot.Acrobot().scene(acrobot.Physics(), state)
    upper, lower = of_kind(scene, Rectangle)
    joint = np.array([math.sin(angles[0]), -math.cos(angles[0])])
    assert (upper.x, upper.y) == pytest.approx(joint / 2, abs=1e-6)
    turned = sum(angles)
    tip = joint + np.array([math.sin(turned), -math.cos(turned)])
    assert (lower.x, lower.y) == pytest.approx((joint + tip) / 2, abs=1e-6)
    (line,) = of_kind(scene, Line, "goal")
    assert {y for _, y in line.points} == {1.0}
    assert f"{tip[1]:.2f}" in scene.caption


@pytest.mark.parametrize(
    ("row", "column", "paddle", "caption"),
    [(3, 1, 2, ""), (9, 4, 4, "caught"), (9, 0, 1, "missed")],
)
def test_ball_and_paddle(row, column, paddle, caption):
    state = catch.State(*np.int32([row, column, paddle]))
    scene = catch.Catch().scene((), state)
    (ball,) = of_kind(scene, Circle)
    (board,) = of_kind(scene, Rectangle)
    assert (ball.x, ball.y) == (column, row)
    assert board.x == paddle
    assert scene.caption == caption
    assert (ball.role == "danger") == (caption == "missed")
    assert scene.y[0] > scene.y[1]  # rows are counted downwards


def test_the_table_of_lookup():
    spec = lookup.Lookup(passages=6, actions=3, steps=2)
    params, (state, *_, over) = played(spec, steps=2)
    scene = spec.scene(params, state)
    cells, named = of_kind(scene, Rectangle), int(state.passage)
    said = params.answers[named]
    for row, cell in enumerate(cells):
        right = "part" if params.answers[row] == said else "muted"
        assert cell.role == ("goal" if row == named else right)
    texts = [label.text for label in of_kind(scene, Label)]
    assert texts[::2] == [str(row) for row in range(6)]
    assert texts[1::2] == [str(answer) for answer in params.answers]
    assert f"passage {named} is named and says {said}; step 0 of 2" in scene.caption
    assert spec.scene(params, over).caption == f"passage {named} was named and says {said}"
    passages = np.asarray(spec.build().passages)
    assert [spec.describe_passage(row, passages[row]) for row in range(6)] == [
        f"says {answer}" for answer in params.answers
    ]


def test_the_right_direction_is_marked():
    spec = text_lookup.TextLookup()
    params, states = played(spec)
    scene = spec.scene(params, states[0])
    arrows = of_kind(scene, Polygon)
    right = params.answers[int(states[0])]
    assert [arrow.role == "goal" for arrow in arrows] == [action == right for action in range(4)]
    middles = [np.mean(arrow.points, axis=0) for arrow in arrows]
    north, east, south, west = middles
    assert (north[1], east[0], -south[1], -west[0]) == pytest.approx([north[1]] * 4)
    assert north[1] > 1
    subject = of_kind(scene, Label)[0].text
    sentences, _ = spec.write()
    content = np.asarray(spec.build().passages)[0]
    assert subject in spec.describe_passage(int(states[0]), content)
    assert spec.describe_passage(3, content) == sentences[3]


def test_the_best_arm_is_marked():
    spec = testbed.Testbed(arms=4)
    params, states = played(spec, steps=1)
    rows = of_kind(spec.scene(params, states[0]), Rectangle)
    assert [row.role == "goal" for row in rows] == [
        value == max(states[0].values) for value in states[0].values
    ]


# Scenes themselves


@pytest.mark.parametrize("kind", [HighwayFast, Merge])
def test_the_road_around_the_ego(kind):
    spec = kind()
    params, states = played(spec, steps=1)
    cars = states[1].vehicles
    number = np.arange(len(cars.x))
    x = np.where(number == 1, cars.x[0] + 10.0, cars.x)
    cars = dataclasses.replace(cars, x=x, crashed=number == 1)
    scene = spec.scene(params, dataclasses.replace(states[1], vehicles=cars))
    left, right = scene.x
    assert right - left == 140.0
    assert left == cars.x[0] - 30.0
    assert scene.y[0] > scene.y[1]  # to the right is down
    assert scene.caption.endswith("m/s")
    (ego,) = of_kind(scene, Rectangle, "agent")
    assert scene.shapes[-1] is ego
    assert (ego.x, ego.y, ego.angle) == (cars.x[0], cars.y[0], cars.heading[0])
    wreck = of_kind(scene, Rectangle, "danger")[-1]
    assert (wreck.x, wreck.y) == (cars.x[1], cars.y[1])
    within = (cars.x > left) & (cars.x < right) & ~cars.crashed
    assert len(of_kind(scene, Rectangle, "other")) == np.sum(within[1:])
    crashed = dataclasses.replace(states[1], vehicles=dataclasses.replace(cars, crashed=cars.x > 0))
    assert spec.scene(params, crashed).caption.endswith("m/s, crashed")


def test_the_ramp_bends_as_the_vehicles_on_it_drive():
    spec = Merge()
    params, (state,) = played(spec, steps=0)
    scene = spec.scene(
        params, state
    )  # the ramp begins to bend at 150 m, of -10 to 140 m none is seen
    assert len(of_kind(scene, Polygon, "road")) == 3
    cars = dataclasses.replace(state.vehicles, x=state.vehicles.x + 130.0)
    roads = of_kind(spec.scene(params, dataclasses.replace(state, vehicles=cars)), Polygon, "road")
    (bend,) = [road for road in roads if len({y for _, y in road.points}) > 6]
    for x, y in bend.points[: len(bend.points) // 2]:  # of the upper edge
        expected = 11.25 + 3.25 * math.cos(math.tau * (x - 150.0) / 160.0) - 2.0
        assert y == pytest.approx(expected, abs=1e-4)


def test_a_remembered_scene_in_words():
    content = np.zeros(35, np.float32)
    content[[26 + 3, 33]] = 1.0, 0.8  # faster, at 0.8 of 30 m/s
    content[[32, 34]] = 0.25, 0.4
    said = HighwayFast().describe_passage(7, content)
    assert said == "faster: 24.0 m/s, 2 lane changes, 2.5 s to collision"
    content[32] = 1.0  # as far as it is measured
    assert HighwayFast().describe_passage(7, content).endswith("over 10 s to collision")
    content[31] = 1.0
    content[34] = 0.2
    assert HighwayFast().describe_passage(7, content).endswith(", 1 lane change, crashed")
    assert HighwayFast().describe_passage(7, np.zeros(35)).startswith("nothing: 0.0 m/s")


@pytest.mark.parametrize("memory", [0, 6])
def test_interests_by_topic(memory):
    spec = InterestEvolution(dealt=True, memory=memory)
    params, states = played(spec, steps=2)
    state = states[2].inner if memory else states[2]
    scene = spec.scene(params, states[2])
    good = params.rules.topic_quality[state.user.dealt] > 0
    roles = [shape.role for shape in of_kind(scene, Rectangle)]
    assert roles == ["goal" if each else "danger" for each in good]
    told = [shape.text for shape in of_kind(scene, Label)][1::2]
    assert told == [f"{interest:.3g}" for interest in state.user.interests]
    mean = float(state.totals["watched"]) / 2
    assert scene.caption.startswith(f"time left {float(state.user.budget):.1f}, click rate")
    assert scene.caption.endswith(f"watched {mean:.2f} a step")


@pytest.mark.parametrize(("tokens", "width"), [(False, 20), (True, 2)])
def test_a_document_in_words(tokens, width):
    spec = InterestEvolution(corpus=30, tokens=tokens)
    env = spec.build()
    assert env.passages.shape == (30, width)
    for row in range(3):
        said = spec.describe_passage(row, np.asarray(env.passages[row]))
        assert said == f"topic {int(env.params.corpus.topic[row])}"
    assert spec.action_name(4) == "document 4"


def test_the_user_s_own_items_are_documents(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("topic,quality\n" + "3,0.5\n" * 4)
    assert InterestEvolution(items=str(path)).action_name(2) == "document 2"
    assert InterestEvolution().action_name(2) == "candidate 2"


def test_the_likeliest_products_are_drawn():
    spec = recogym.RecoGym(products=30)
    params, states = played(spec, steps=1)
    scene = spec.scene(params, states[1])
    score = params.products @ states[1].taste + params.appeal
    names = [shape.text for shape in of_kind(scene, Label)][::2]
    assert names == [f"product {row}" for row in np.argsort(-score)[:10]]
    shown = f"product {int(states[1].shown)}"
    roles = [shape.role for shape in of_kind(scene, Rectangle)]
    assert roles == ["agent" if name == shown else "goal" for name in names]


def test_bars_are_as_long_as_their_numbers():
    scene = bars([("a", 1.0, "agent"), ("b", -0.5, "other"), ("c", np.float32(9.0), "goal")], -1, 2)
    one, minus, beyond = of_kind(scene, Rectangle)
    assert minus.width == pytest.approx(one.width / 2)
    assert one.x - one.width / 2 == pytest.approx(minus.x + minus.width / 2)  # zero
    assert beyond.width == pytest.approx(2 * one.width)  # as far as there is room
    assert [label.text for label in of_kind(scene, Label)] == ["a", "1", "b", "-0.5", "c", "9"]
    assert [one.y, minus.y, beyond.y] == [0, 1, 2]
    (axis,) = of_kind(scene, Line)
    assert axis.points[0][0] == pytest.approx(one.x - one.width / 2)


@pytest.mark.parametrize(("rows", "low", "high"), [([], 0, 1), ([("a", 1.0, "ink")], 1, 2)])
def test_bars_need_a_range(rows, low, high):
    with pytest.raises(UserError, match=f"bars of {len(rows)} rows from {low} to {high}; "):
        bars(rows, low, high)


@pytest.mark.parametrize("edges", [(1.0, 1.0), (0.0, math.inf), (-math.inf, 0.0), (math.nan, 1.0)])
def test_a_view_has_a_size(edges):
    with pytest.raises(UserError, match=r"a scene's y is \("):
        Scene([], (0.0, 1.0), edges)
    with pytest.raises(UserError, match=r"a scene's x is \("):
        Scene([], edges, (0.0, 1.0))
    assert Scene([], (0.0, 1.0), (1.0, 0.0)).y == (1.0, 0.0)


def test_roles_are_known():
    unknown = dataclasses.replace(Circle(0, 0, 1))
    object.__setattr__(unknown, "role", "pink")  # past the check of annotations
    with pytest.raises(UserError, match="a Circle of a scene has role 'pink'; choose one of ink, "):
        Scene([unknown], (0, 1), (0, 1))
    assert {"ink", "agent", "road"} <= set(get_args(Role))
