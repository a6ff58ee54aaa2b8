"""Movie booking: the made table, what is looked up, errors of understanding, and fixed policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted
from plain_booking import SLOTS

from ragjax.envs.cartpole import CartPole
from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_acts import SLOT
from ragjax.envs.dialogue.movie_booking_knowledge import (
    AVAILABLE,
    DONT_CARE,
    NO_MATCH,
    Goal,
    Showings,
    encode,
    filled,
    known_code,
    row_counts,
    row_passages,
    value_numbers,
)
from ragjax.envs.dialogue.movie_booking_made import make_showings
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.envs.dialogue.movie_booking_user import Noise, User, corrupted
from ragjax.errors import UserError
from ragjax.training.rollout import play_episodes

TABLE = Showings(
    rows=(
        {"moviename": "Heat", "city": "york", "date": "friday"},
        {"moviename": "heat", "city": "York", "date": "sunday"},
        {"moviename": "heat", "city": "bath", "date": "sunday"},
        {"moviename": "room", "city": "bath"},
        *({"moviename": f"film {row}", "city": "hull"} for row in range(40)),
    ),
    goals=(Goal({"moviename": "heat", "numberofpeople": "2"}, ("city",)),),
)
NUMBER = value_numbers(TABLE)
KNOWLEDGE = encode(TABLE, 8)


def known(**values):
    numbers = [NUMBER[values[slot]] if slot in values else 0 for slot in SLOTS]
    return jnp.asarray(numbers, jnp.int32)


def informed(slot, **values):
    number = int(filled(KNOWLEDGE, known(**values), jnp.asarray(SLOT[slot])))
    return next(text for text, n in NUMBER.items() if n == number)


@pytest.mark.parametrize(
    ("slot", "values", "expected"),
    [
        # Without regard to case two rows each: the spelling that the table has first.
        ("city", {"moviename": "HEAT"}, "york"),
        ("date", {"moviename": "heat"}, "sunday"),
        ("date", {"moviename": "heat", "city": "york"}, "friday"),
        ("date", {"moviename": "room"}, "no match"),
        ("city", {"moviename": "heat", "date": "don't care", "numberofpeople": "2"}, "york"),
        ("city", {"date": "sunday", "city": "no match"}, "no match"),
        ("city", {}, "hull"),
        ("ticket", {"moviename": "heat"}, "available"),
        ("taskcomplete", {"moviename": "heat", "city": "hull"}, "no match"),
        # A row beyond the first 32, which another word of bits holds.
        ("city", {"moviename": "film 39"}, "hull"),
    ],
)
def test_what_the_agent_informs(slot, values, expected):
    if "moviename" in values and values["moviename"] == "HEAT":
        values = {"moviename": "Heat"}
    assert informed(slot, **values) == expected


def test_special_values_are_those_of_their_names():
    assert [NUMBER[text] for text in ("no match", "don't care", "available")] == [
        NO_MATCH,
        DONT_CARE,
        AVAILABLE,
    ]


@pytest.mark.parametrize(
    ("values", "alone", "together"),
    [
        ({"moviename": "heat"}, {"moviename": 3}, 3),
        ({"moviename": "heat", "city": "bath"}, {"moviename": 3, "city": 2}, 1),
        ({"moviename": "heat", "date": "don't care"}, {"moviename": 3, "date": 0}, 3),
        ({"moviename": "heat", "ticket": "available"}, {"moviename": 3, "ticket": 0}, 3),
        # No row says for how many people it is.
        ({"moviename": "heat", "numberofpeople": "2"}, {"moviename": 3, "numberofpeople": 0}, 0),
    ],
)
def test_counts_of_rows(values, alone, together):
    expected = [alone.get(slot, together) for slot in SLOTS] + [together]
    np.testing.assert_array_equal(row_counts(KNOWLEDGE, known(**values)), expected)


def test_passages_tell_which_rows_agree():
    """The more of what is known a row has, the larger its product with the code of that."""
    knowledge = encode(TABLE, 512)
    passages = np.asarray(row_passages(knowledge))
    assert passages.shape == (44, 512 + 29)
    np.testing.assert_array_equal(passages[:, 512:], np.asarray(knowledge.cells) > 0)
    seen = known(moviename="heat", city="bath", numberofpeople="2")
    product = passages[:, :512] @ np.asarray(known_code(knowledge, seen))
    np.testing.assert_allclose(product[:4], [1, 1, 2, 1], atol=0.3)
    assert product.argmax() == 2


def test_the_made_table():
    showings = make_showings(991, 128, 0)
    assert showings == make_showings.__wrapped__(991, 128, 0)
    assert showings != make_showings(991, 128, 1)
    assert (len(showings.rows), len(showings.goals)) == (991, 128)
    share = {slot: np.mean([slot in row for row in showings.rows]) for slot in SLOTS}
    expected = {"moviename": 0.973, "theater": 0.927, "date": 0.918, "state": 0.62, "zip": 0.326}
    for slot, value in expected.items():  # of TC-Bot's table, in 991 rows
        assert share[slot] == pytest.approx(value, abs=0.05)
    asked = np.mean([not goal.requests for goal in showings.goals])
    assert asked == pytest.approx(61 / 128, abs=0.14)
    meetable = [
        any(
            goal.constraints.items() - {("numberofpeople", n)} <= row.items()
            for row in showings.rows
        )
        for goal in showings.goals
        for n in [goal.constraints["numberofpeople"]]
    ]
    assert 0.9 < np.mean(meetable) < 1


def test_held_out_goals_are_every_fifth():
    """And values are numbered alike in all splits."""
    spec = MovieBooking(made_goals=12, users="split")
    whole = MovieBooking(made_goals=12).knowledge()
    held_out = [1, 6, 11]
    for split, rows in (("test", held_out), ("train", sorted({*range(12)} - {*held_out}))):
        found = spec.on_split(split).knowledge()
        np.testing.assert_array_equal(found.constraints, whole.constraints[np.array(rows)])
        np.testing.assert_array_equal(found.cells, whole.cells)
    assert spec.on_split("dev") == spec.on_split("train")
    assert MovieBooking().on_split("test") == MovieBooking()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("made_rows", 0, "must be at least 1"),
        ("max_turn", 1, "must be at least 2"),
        ("code", -1, "must not be negative"),
        ("slot_error", 1.5, "must lie between 0 and 1"),
    ],
)
def test_fields_are_checked(field, value, message):
    with pytest.raises(UserError, match=rf"env\.{field} is {value!r}.*{message}"):
        MovieBooking(**{field: value})


# Errors of understanding

USER = User(
    goal=jnp.asarray(0),
    history=known(),
    informs=known(moviename="heat", city="york"),
    requests=jnp.zeros(29, bool),
    rest=jnp.zeros(29, bool),
    act=jnp.asarray(1, jnp.int32),
    consistent=jnp.zeros((), bool),
)


def understood(noise_kind, *, kind=0.0, act_error=1.0, wrong="city", other=0.0):
    """The values understood, and the act, where one slot goes wrong."""
    of_slots = {name: jnp.full(29, 0.999) for name in ("value", "other_value")}
    noise = Noise(
        error=jnp.where(jnp.arange(29) == SLOT[wrong], 0.0, 0.5),
        kind=jnp.full(29, kind),
        other=jnp.full(29, other),
        act_error=jnp.asarray(act_error),
        act=jnp.asarray(0.999),
        **of_slots,
    )
    found = corrupted(KNOWLEDGE, USER, noise, slot_error=0.1, slot_noise=noise_kind, act_error=0.1)
    texts = list(NUMBER)
    values = {SLOTS[place]: texts[n] for place, n in enumerate(np.asarray(found.informs)) if n}
    return values, int(found.act)


@pytest.mark.parametrize(
    ("noise", "kind", "expected"),
    [
        ("value", 0.0, {"moviename": "heat", "city": "hull"}),
        ("deletion", 0.0, {"moviename": "heat"}),
        # Slots that have values: city, date, moviename, numberofpeople.
        ("slot", 0.0, {"moviename": "heat", "date": "sunday"}),
        ("mixed", 0.1, {"moviename": "heat", "city": "hull"}),
        ("mixed", 0.5, {"moviename": "heat", "date": "sunday"}),
        ("mixed", 0.9, {"moviename": "heat"}),
    ],
)
def test_a_slot_goes_wrong(noise, kind, expected):
    values, act = understood(noise, kind=kind, other=0.3)
    assert values == expected
    assert act == 1


def test_a_slot_that_comes_in_another_s_place_may_be_informed_already():
    assert understood("slot", other=0.6)[0] == {"moviename": "film 39"}


def test_an_act_goes_wrong():
    assert understood("deletion", act_error=0.05)[1] == 10


# Fixed policies


def played(spec, policy, count=400):
    env = jitted(spec.vectorise(count))
    model = jitted(policy.build(env))
    params = model.init(jax.random.PRNGKey(0))
    greedy = jnp.zeros(count, bool)

    def play(key):
        return play_episodes(env, lambda seen: model.apply(params, seen)[0], key, 30, greedy)

    return jax.device_get(jax.jit(play)(jax.random.PRNGKey(1)))


def test_the_rule_agent():
    """Eight exchanges; a success costs 7, and so does a failure before its end."""
    figures = played(MovieBooking(), MovieBookingBaseline())
    assert np.all(figures["length"] == 8)
    np.testing.assert_array_equal(figures["return"], np.where(figures["success"] > 0, 73.0, -47.0))
    full = [not goal.requests for goal in MovieBooking().showings.goals]
    assert 0.3 < figures["success"].mean() <= np.mean(full) + 0.1


@pytest.mark.slow
def test_errors_of_understanding_cost_the_rule_agent_successes():
    clean = played(MovieBooking(), MovieBookingBaseline())["success"].mean()
    noisy = played(MovieBooking(slot_error=0.2), MovieBookingBaseline())["success"].mean()
    assert noisy < clean - 0.15


@pytest.mark.slow
def test_random_actions_hardly_ever_succeed():
    figures = played(MovieBooking(), MovieBookingBaseline(by="random"))
    assert figures["success"].mean() < 0.02
    assert figures["length"].max() <= 21
    too_long = figures["length"] == 21
    assert np.any(too_long)
    assert np.all(figures["return"][too_long] == -60)


def test_a_fixed_policy_wants_this_environment():
    with pytest.raises(
        UserError, match="policy is a MovieBookingBaseline, but the environment is "
    ):
        MovieBookingBaseline().build(CartPole().build())


def test_a_row_is_described_by_its_values():
    spec = MovieBooking(made_rows=40, code=8)
    said = spec.describe_passage(3, np.asarray(spec.build().passages)[3])
    assert said == ", ".join(f"{slot} {value}" for slot, value in spec.showings.rows[3].items())
    assert said.count(", ") >= 2


def test_actions_have_names():
    spec = MovieBooking()
    names = [spec.action_name(action) for action in range(43)]
    assert names[:5] == [
        "confirm_question",
        "confirm_answer",
        "thanks",
        "deny",
        "inform(moviename)",
    ]
    assert names[-1] == "request(numberofkids)"
