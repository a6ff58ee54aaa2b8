"""KB-InfoBot against its rules, written once more in plain Python and NumPy."""

import dataclasses
import itertools
import math
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.dialogue import kb_infobot_belief as beliefs
from ragjax.envs.dialogue.kb_infobot import (
    LIST,
    KBInfoBot,
    encoded,
    made_table,
    place_in,
    rank_of,
    rank_reward,
)
from ragjax.envs.dialogue.kb_infobot_knowledge import MISSING, drawn_goal, encode, goals_of
from ragjax.envs.dialogue.kb_infobot_user import Luck, Slips, blur, first_slots, utterance
from ragjax.envs.dialogue.tables import Countries, Elements, Generated, table_of, words_of
from ragjax.errors import UserError
from ragjax.types import PAD_ID, UNK_ID

SMALL = Generated(rows=30, values=(6, 5, 4), seed=1)
LARGE = Generated(rows=3523, values=(600, 600, 20, 5, 90, 70))


def plain_values(table):
    """(slot, value or None) of each number of `encode`, in its order."""
    return [(j, v) for j, values in enumerate(table.values) for v in (*values, None)]


def words_by_token(knowledge, table):
    """What each token says."""
    texts = [value or "" for _, value in plain_values(table)] + list(table.slots)
    rows = [*np.asarray(knowledge.tokens).tolist(), *np.asarray(knowledge.names).tolist()]
    return {
        token: word
        for text, row in zip(texts, rows, strict=True)
        for token, word in zip(row, words_of(text), strict=False)  # rows are padded
    }


class PlainTracker:
    """The belief tracker over dictionaries, and the posterior as a product, in exact fractions."""

    def __init__(self, table, cells, evidence):
        self.table, self.evidence = table, Fraction(evidence)
        self.rows = [
            [
                None if cell == MISSING else values[cell]
                for cell, values in zip(row, table.values, strict=True)
            ]
            for row in cells.tolist()
        ]
        self.columns = [Counter(column) for column in zip(*self.rows, strict=True)]
        self.counts = []
        for values, column in zip(table.values, self.columns, strict=True):
            total = sum(n for value, n in column.items() if value is not None)
            self.counts.append({v: Fraction(column[v], max(total, 1)) for v in values})
        self.dropped, self.detected = set(), set()

    def hear(self, words, requested):
        for j, slot in enumerate(self.table.slots):
            named = [word in words for word in words_of(slot)]
            matched = False
            for value in self.counts[j]:
                said = [word in words for word in words_of(value)]
                match = Fraction(sum(said), len(said))
                if match > 0:
                    matched = True
                    bonus = (j == requested) + Fraction(sum(named), len(named))
                    self.counts[j][value] += self.evidence * (match + bonus)
            if matched:
                self.detected.add(j)
            elif j == requested:
                self.dropped.add(j)

    def belief(self, j):
        total = sum(self.counts[j].values())
        return {value: count / total for value, count in self.counts[j].items()}

    def posterior(self):
        believed = [self.belief(j) for j in range(len(self.table.slots))]
        weights = []
        for row in self.rows:
            weight = Fraction(1)
            for j, value in enumerate(row):
                if j in self.dropped:
                    continue
                share = Fraction(self.columns[j][None], len(self.rows))
                p = share if value is None else believed[j][value] * (1 - share)
                weight *= p / self.columns[j][value]
            weights.append(weight)
        return [weight / sum(weights) for weight in weights]

    def value_masses(self, q, j):
        mass = dict.fromkeys(self.table.values[j], Fraction(0))
        total = sum(n for value, n in self.columns[j].items() if value is not None)
        for chance, row in zip(q, self.rows, strict=True):
            for value in mass:
                if row[j] is None:
                    mass[value] += chance * Fraction(self.columns[j][value], total)
                elif row[j] == value:
                    mass[value] += chance
        whole = sum(mass.values())
        return {value: of / whole for value, of in mass.items()}


def bits(chances):
    return -sum(float(p) * math.log2(p) for p in chances if p > 0)


def agent_cells(knowledge, table):
    """[N,M] of `encode`'s agent table, in the numbers of the table."""
    values = plain_values(table)
    places = [
        [MISSING if values[g][1] is None else table.values[j].index(values[g][1])
         for j, g in enumerate(row)]
        for row in np.asarray(knowledge.cells).tolist()
    ]  # fmt: skip
    return np.array(places)


UTTERANCES = [
    # (values said of slots, words dropped or added, slot requested before)
    ([(0, 1)], [], None),
    ([(0, 0), (1, 2)], ["title"], None),
    ([(2, 3)], ["style"], 2),
    ([], [], 1),
    ([(1, 1)], ["nothing"], 0),
]


@pytest.mark.parametrize("source", [SMALL, Elements()], ids=["made", "elements"])
def test_belief_and_posterior_equal_exact_fractions(source):
    """After each of several utterances: counts, flags, posterior, entropies and matches."""
    table = made_table(source)
    knowledge = encode(table, 0.2, 5)
    plain = PlainTracker(table, agent_cells(knowledge, table), 5)
    tokens = {word: token for token, word in words_by_token(knowledge, table).items()}
    belief = beliefs.first_belief(knowledge)
    for said, more, requested in UTTERANCES:
        words = [w for j, v in said for w in words_of(table.values[j][v])][:5] + more
        plain.hear(set(words), requested)
        heard = jnp.asarray([tokens.get(word, UNK_ID) for word in words] + [PAD_ID] * 3)
        asked = jnp.arange(len(table.slots)) == (-1 if requested is None else requested)
        belief = jax.jit(beliefs.heard)(knowledge, belief, heard, asked, jnp.float32(5.0))
        expected = [0 if v is None else plain.counts[j][v] for j, v in plain_values(table)]
        np.testing.assert_allclose(belief.counts, np.array(expected, float), rtol=1e-6)
        slots = range(len(table.slots))
        np.testing.assert_array_equal(belief.dropped, [j in plain.dropped for j in slots])
        np.testing.assert_array_equal(belief.detected, [j in plain.detected for j in slots])
        p = beliefs.probabilities(knowledge, belief.counts)
        q = plain.posterior()
        log_q = beliefs.log_posterior(knowledge, p, belief.dropped)
        np.testing.assert_allclose(np.exp(log_q), np.array(q, float), rtol=2e-5)
        assert float(beliefs.entropy(log_q)) == pytest.approx(bits(q), rel=1e-5)
        np.testing.assert_allclose(
            beliefs.slot_entropies(knowledge, p),
            [bits(plain.belief(j).values()) for j in slots], rtol=1e-5,
        )  # fmt: skip
        masses = beliefs.value_masses(knowledge, jnp.exp(log_q))
        np.testing.assert_allclose(
            beliefs.slot_entropies(knowledge, masses),
            [bits(plain.value_masses(q, j).values()) for j in slots], rtol=1e-4,
        )  # fmt: skip
        best = {j: max(plain.counts[j], key=lambda v: plain.belief(j)[v]) for j in plain.detected}
        agree = sum(all(row[j] == v for j, v in best.items()) for row in plain.rows)
        assert int(beliefs.agreeing_rows(knowledge, p, belief.detected)) == agree


def test_posterior_of_3523_rows_does_not_overflow():
    """Against a direct product in double precision, where beliefs are as sharp as they get."""
    knowledge = encoded(LARGE, 0.2, 0)
    counts = np.asarray(knowledge.prior, np.float64).copy()
    row = 7
    for _ in range(30):
        counts[np.asarray(knowledge.full[row])] += 1000.0
    dropped = jnp.asarray([False, True, False, False, False, False])
    p = beliefs.probabilities(knowledge, jnp.asarray(counts, jnp.float32))
    log_q = np.asarray(beliefs.log_posterior(knowledge, p, dropped))
    slot, unknown = np.asarray(knowledge.slot, np.float64), np.asarray(knowledge.unknown)
    share = counts / (slot @ (counts @ slot))
    weight = np.ones(len(log_q))
    for j in (0, 2, 3, 4, 5):
        cells = np.asarray(knowledge.cells)[:, j]
        missing = np.asarray(knowledge.missing)[cells]
        smoothed = np.where(missing, unknown[j], share[cells] * (1 - unknown[j]))
        weight *= smoothed / np.asarray(knowledge.rows, np.float64)[cells]
    assert weight.min() < 1e-38 < weight.max()  # of which single precision would lose some
    np.testing.assert_allclose(np.exp(log_q), weight / weight.sum(), rtol=2e-4, atol=1e-12)
    np.testing.assert_allclose(log_q, np.log(weight / weight.sum()), rtol=1e-5, atol=1e-5)
    assert np.exp(log_q, dtype=np.float64).sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("source", [SMALL, Countries(), LARGE], ids=["made", "countries", "large"])
def test_at_most_5_rows_agree_with_a_goal(source):
    cells = made_table(source).cells
    goals = encoded(source, 0.2, 0).goals
    draws = jax.random.uniform(jax.random.key(0), (2, 300))
    targets, knows = jax.vmap(drawn_goal, (None, 0, 0))(goals, *draws)
    for target, known in zip(np.asarray(targets), np.asarray(knows), strict=True):
        own = cells[target]
        assert np.all(own[known] != MISSING)
        assert known.sum() == max(np.sum(own != MISSING) // 2, 1)
        agreeing = np.all(cells[:, known] == own[known], axis=1)
        assert 1 <= agreeing.sum() <= 5


def test_goals_have_the_chances_of_drawing_anew():
    """Rows whose goals are often refused are rarer; against rejection, enumerated and by chi-square."""
    cells = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, MISSING],
                      [MISSING, MISSING]], np.int32)  # fmt: skip
    goals = goals_of(cells)
    expected: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for row, own in enumerate(cells):
        known = np.flatnonzero(own != MISSING)
        chosen = list(itertools.combinations(known, max(len(known) // 2, 1)))
        for one in chosen if len(known) else []:
            if np.all(cells[:, one] == own[list(one)], axis=1).sum() <= 5:
                expected[row, one] = 1 / len(chosen)
    assert (0, (0,)) not in expected  # six rows have this value
    total = sum(expected.values())
    count = 20_000
    draws = jax.random.uniform(jax.random.key(1), (2, count))
    targets, knows = jax.vmap(drawn_goal, (None, 0, 0))(goals, *draws)
    found = Counter(
        (int(row), tuple(np.flatnonzero(known)))
        for row, known in zip(np.asarray(targets), np.asarray(knows), strict=True)
    )
    assert set(found) == set(expected)
    squares = [
        (found[goal] - count * share / total) ** 2 / (count * share / total)
        for goal, share in expected.items()
    ]
    assert sum(squares) < 29.6  # 0.1% of 10 degrees of freedom
    row, _ = drawn_goal(goals, jnp.float32(0.99999994), jnp.float32(0.99999994))
    assert row == 7  # the last one that has a goal


def test_a_table_whose_rows_can_t_be_told_apart_is_refused():
    table = table_of(("a", "b"), [{"a": "x", "b": "y"}] * 6, ["r"] * 6)
    with pytest.raises(
        UserError, match=r"env\.table has no row that a user can look for: more than 5"
    ):
        encode(table, 0.0, 0)


TALK = table_of(
    ("name", "year", "long rating"),
    [{"name": "red apple pie", "year": "1990", "long rating": "4.5"},
     {"name": "blue", "year": "1991", "long rating": "5.0"},
     {"name": "green tea", "year": "1992", "long rating": "4.6"}],
    ["a", "b", "c"],
)  # fmt: skip
EXACT = {"replaced": 0.0, "corrupted": 0.0, "mentioned": 0.0, "value": 0.0, "word": 0.0}


def said(knowledge, slots, blurs=(0.0, 0.0, 0.0), slips=(0.05, 0.5, 0.5), **luck):
    """The words of row 0, of slots that are told, in the order of slots."""
    words = words_by_token(knowledge, TALK)
    words |= {UNK_ID: "?"}
    made = Luck(
        **{name: jnp.broadcast_to(jnp.float32(v), (3,)) for name, v in (EXACT | luck).items()},
        blur=jnp.broadcast_to(jnp.asarray(blurs, jnp.float32)[:, None], (3, 3)),
    )
    told = jnp.asarray(np.isin(np.arange(3), slots))
    tokens = utterance(knowledge, Slips(*map(jnp.float32, slips)), knowledge.full[0], told, made)
    return [words[int(token)] for token in np.asarray(tokens).reshape(-1) if token != PAD_ID]


@pytest.mark.parametrize(
    ("slots", "luck", "words"),
    [
        ([0], {"replaced": 0.5, "corrupted": 0.9, "mentioned": 0.9}, "red apple pie"),
        ([0, 2], {"replaced": 0.5, "corrupted": 0.9, "mentioned": 0.2},
         "red apple pie name 4.5 long rating"),
        ([0], {"replaced": 0.04, "value": 0.99, "corrupted": 0.9, "mentioned": 0.9}, "green tea"),
        ([0], {"replaced": 0.04, "value": 0.4, "corrupted": 0.9, "mentioned": 0.9}, "blue"),
        ([0], {"replaced": 0.5, "corrupted": 0.1, "word": 0.4, "mentioned": 0.9}, "red pie"),
        ([0], {"replaced": 0.5, "corrupted": 0.1, "word": 0.99, "mentioned": 0.9}, "red apple"),
        ([1], {"replaced": 0.5, "corrupted": 0.1, "mentioned": 0.9}, "1990"),  # one word stays
        ([], {"mentioned": 0.0}, ""),
    ],
)  # fmt: skip
def test_an_utterance_by_given_luck(slots, luck, words):
    assert " ".join(said(encode(TALK, 0.0, 0), slots, **luck)) == words


@pytest.mark.parametrize(
    ("blurs", "words"),
    [
        ((0.0, 1.98, 0.0), "1990 4.5"),  # int(1990.99)
        ((0.0, 2.02, 0.0), "1991 4.5"),
        ((0.0, -0.02, 0.0), "? 4.5"),  # int(1989.99), which no row has
        ((0.0, 0.0, 0.18), "1990 4.6"),  # 4.59
        ((0.0, 0.0, 1.02), "1990 5.0"),  # 5.01
        ((0.0, 0.0, 0.5), "1990 ?"),  # 4.75
    ],
)
def test_numbers_are_blurred(blurs, words):
    made = said(encode(TALK, 0.0, 0), [1, 2], blurs, replaced=0.5, corrupted=0.1, mentioned=0.9)
    assert " ".join(made) == words


def test_blurred_numbers_have_the_chances_of_a_truncated_normal():
    """By chi-square over neighbours of one whole number."""
    table = table_of(("n",), [{"n": str(n)} for n in range(95, 106)], [""] * 11)
    knowledge = encode(table, 0.0, 0)
    normal = jax.random.normal(jax.random.key(0), (20_000, 1, 1))
    token = knowledge.tokens[jnp.asarray([5])]  # 100
    made = np.asarray(jax.vmap(lambda z: blur(knowledge, token, z))(normal))[:, 0, 0]
    amounts = np.asarray(knowledge.amount)[made]

    def below(x):
        return 0.5 * (1 + math.erf((x - 100) / (0.5 * math.sqrt(2))))

    squares = 0.0
    for n in (98, 99, 100, 101):
        expected = 20_000 * (below(n + 1) - below(n))
        squares += (np.sum(amounts == n) - expected) ** 2 / expected
    assert squares < 18.5  # 0.1% of 4 degrees of freedom


@pytest.mark.parametrize(("known", "most"), [(3, 5), (6, 5), (1, 5), (4, 2)])
def test_a_user_begins_with_one_to_five_known_slots(known, most):
    """Each count and each slot as likely, by chi-square."""
    knows = jnp.arange(7) < known
    keys = jax.random.split(jax.random.key(known), 6000)
    told = np.asarray(jax.vmap(lambda key: first_slots(knows, most, key))(keys))
    assert not np.any(told[:, known:])
    largest = min(known, most)
    counts = np.bincount(told.sum(1), minlength=largest + 1)
    assert counts[0] == 0
    assert len(counts) == largest + 1
    expected = 6000 / largest
    assert np.sum((counts[1:] - expected) ** 2 / expected) < 24  # 0.1% of up to 7
    slots = told[:, :known].sum(0)
    np.testing.assert_allclose(slots, 6000 * (largest + 1) / 2 / known, rtol=0.08)


def test_rank_reward_enumerated():
    found = [float(rank_reward(jnp.asarray(rank))) for rank in range(7)]
    np.testing.assert_allclose(found, [2.0, 1.6, 1.2, 0.8, 0.4, -1.0, -1.0], rtol=1e-6)
    listed = jnp.asarray([4, 2, 9, 0, 1])
    assert [int(place_in(listed, jnp.asarray(row))) for row in (4, 2, 9, 0, 1, 3)] == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    log_q = jnp.asarray([-1.0, -0.5, -1.0, -3.0])
    assert [int(rank_of(log_q, jnp.asarray(row))) for row in range(4)] == [1, 0, 2, 3]
    best = np.asarray(jax.lax.top_k(log_q, 4)[1])
    assert best.tolist() == [1, 0, 2, 3]


def no_slips(**changes):
    given = {"table": SMALL, "replaced": 0.0, "corrupted": 0.0, "missing": 0.0}
    return KBInfoBot(**given | changes)


def begun(spec, target, known, told):
    """A dialogue of a given goal."""
    env = spec.build()
    luck = no_luck(env.params.knowledge)
    knows, first = (jnp.isin(jnp.arange(3), jnp.asarray(of)) for of in (known, told))
    return env, luck, spec.begin(env.params, jnp.asarray(target), knows, first, luck)


def no_luck(knowledge):
    """Nothing slips, and no slot is mentioned."""
    slots, length = knowledge.names.shape[0], knowledge.tokens.shape[1]
    each = [jnp.ones(slots)] * 5
    return Luck(*each, jnp.zeros((slots, length)))


@pytest.mark.parametrize("turn", range(1, 11))
@pytest.mark.parametrize("informs", [False, True])
def test_rewards_and_ends(turn, informs):
    """Requests cost 0.1 each; a list ends the dialogue, and so does the tenth turn, a list or not."""
    spec = no_slips(sees="soft")
    env, luck, (state, first) = begun(spec, 3, [0, 1], [0])
    assert not first.reward
    assert not first.done
    for number in range(1, turn):
        state, made = spec.advance(env.params, state, jnp.asarray(number % 3), luck)
        assert float(made.reward) == pytest.approx(-0.1)
        assert not made.done
    q = beliefs.log_posterior(
        env.params.knowledge,
        beliefs.probabilities(env.params.knowledge, state.belief.counts),
        state.belief.dropped,
    )
    order = np.argsort(-np.asarray(q), kind="stable").tolist()
    rank = order.index(3)
    state, made = spec.advance(env.params, state, jnp.asarray(3 if informs else 0), luck)
    assert int(state.turns) == turn
    if turn == 10:
        expected, ended, rank = -1.0, True, LIST
    elif informs:
        expected, ended = (2 * (1 - rank / 5) if rank < 5 else -1.0), True
    else:
        expected, ended, rank = -0.1, False, LIST
    assert float(made.reward) == pytest.approx(expected)
    assert bool(made.terminated) == ended
    assert float(made.metrics["episode_success"]) == (expected > 0)
    assert float(made.metrics["episode_rank"]) == min(rank, LIST)
    assert int(made.metrics["gold"]) == 3


def test_a_list_of_rows_is_ranked_as_it_is_shown():
    spec = no_slips(sees="rows")
    env, luck, (state, _) = begun(spec, 3, [0, 1], [0])
    for listed, reward in (
        ([3, 1, 2, 4, 5], 2.0),
        ([1, 3, 2, 4, 5], 1.6),
        ([1, 2, 4, 5, 3], 0.4),
        ([1, 2, 4, 5, 6], -1.0),
    ):
        _, made = spec.advance(env.params, state, 3 + jnp.asarray(listed), luck)
        assert float(made.reward) == pytest.approx(reward)
        assert made.terminated
    _, made = spec.advance(env.params, state, jnp.asarray([1, 6, 2, 4, 5]), luck)
    assert float(made.reward) == pytest.approx(-0.1)  # the first is a request


def test_what_the_user_answers():
    """The value if it is known; nothing if not, whereupon the slot is dropped."""
    spec = no_slips(sees="soft")
    env, luck, (state, _first) = begun(spec, 3, [0, 1], [0])
    knowledge = env.params.knowledge
    assert np.any(np.asarray(state.history.words[0, 0]))
    assert not np.any(np.asarray(state.history.words[0, 1:]))
    state, _ = spec.advance(env.params, state, jnp.asarray(1), luck)
    own = np.asarray(knowledge.tokens[knowledge.full[3, 1]])
    np.testing.assert_array_equal(np.asarray(state.history.words[1, 1])[: len(own)], own)
    assert state.belief.dropped.tolist() == [False, False, False]
    state, made = spec.advance(env.params, state, jnp.asarray(2), luck)
    assert not np.any(np.asarray(state.history.words[1, 2]))
    assert state.belief.dropped.tolist() == [False, False, True]
    seen = np.split(np.asarray(made.observation), [3, 6, 9, 12])
    assert seen[1].tolist() == [0, 0, 1]  # dropped
    assert seen[2].tolist() == [0, 0, 1]  # last
    assert seen[3].tolist() == [0, 1, 1]  # asked
    assert len(seen[4]) == 1


@pytest.mark.parametrize(
    ("sees", "counted", "size"),
    [("none", False, 18), ("hard", False, 24), ("soft", False, 19), ("soft", True, 25)],
)
def test_numbers_of_an_observation(sees, counted, size):
    spec = KBInfoBot(sees=sees, counts_asked=counted)
    env = spec.build()
    assert env.num_actions == 7
    assert jax.eval_shape(env.reset, env.params, jax.random.key(0))[1].observation.shape == (size,)


def test_arms_differ_only_in_what_is_seen():
    """The same actions under the same keys give the same rewards, whatever the policy sees."""
    rewards = []
    for sees in ("none", "hard", "soft"):
        env = KBInfoBot(table=SMALL, sees=sees).vectorise(8)
        state, _ = jax.jit(env.reset)(env.params, jax.random.key(3))
        step, made = jax.jit(env.step), []
        for number in range(12):
            action = (jnp.arange(8) + number) % 4
            state, timestep = step(env.params, jax.random.key(number), state, action)
            made.append(np.asarray(timestep.reward))
        rewards.append(made)
    np.testing.assert_array_equal(rewards[0], rewards[1])
    np.testing.assert_array_equal(rewards[0], rewards[2])
    assert len(np.unique(rewards[0])) > 3


def test_rows_as_passages():
    spec = KBInfoBot(table=SMALL, sees="rows")
    env, table = spec.build(), made_table(SMALL)
    assert env.num_actions == 3 + 30
    values = plain_values(table)
    for row, tokens in enumerate(np.asarray(env.passages)):
        said = [values[token - UNK_ID - 1] for token in tokens if token != PAD_ID]
        words = ", ".join(f"{table.slots[j]} {value}" for j, value in said)
        assert spec.describe_passage(row, tokens) == f"row {row}: {words}"
    assert env.vocabulary.idf.shape[0] == UNK_ID + 1 + len(values)
    assert spec.action_name(2) == "ask for style"
    assert spec.action_name(3) == "name row 0"
    assert KBInfoBot(table=SMALL).action_name(3) == "inform"
    assert spec.describe_action(np.array([1, 5, 6, 7, 8])) == "ask for title"
    assert spec.describe_action(np.array([4, 3, 6, 7, 8])).startswith("name row 1, name row 0, ")
    assert KBInfoBot(table=SMALL).describe_action(np.array(3)) == "inform"


def test_words_are_what_the_user_began_with_and_last_answered():
    """Rows are the words of their cells, and the user's words have the same numbers."""
    spec = no_slips(sees="words")
    env, luck, (state, first) = begun(spec, 3, [0, 1], [0])
    knowledge, table = env.params.knowledge, made_table(SMALL)
    said = words_by_token(knowledge, table)
    words = np.asarray(env.passages)
    for row in range(30):
        cells = [plain_values(table)[g][1] or "" for g in np.asarray(knowledge.cells)[row]]
        expected = [word for cell in cells for word in words_of(cell)]
        assert [said[token] for token in words[row].tolist() if token] == expected
    assert env.vocabulary.idf.shape[0] == len(knowledge.kind)
    state, made = spec.advance(env.params, state, jnp.asarray([1, 5, 6, 7, 8]), luck)
    state, made = spec.advance(env.params, state, jnp.asarray([2, 5, 6, 7, 8]), luck)
    heard = np.asarray(made.observation)[9:].astype(int)
    began, answered = np.split(heard, 2)
    values = [table.values[j][table.cells[3, j]] for j in (0, 1)]
    assert [said[token] for token in began.tolist() if token] == words_of(values[0])
    assert [said[token] for token in answered.tolist() if token] == words_of(values[1])
    np.testing.assert_array_equal(np.asarray(first.observation)[9 + len(began) :], 0)
    seen = np.split(np.asarray(made.observation)[:9], 3)
    assert seen[0].tolist() == [0, 0, 1]  # silent
    assert seen[1].tolist() == [0, 0, 1]  # last
    assert seen[2].tolist() == [0, 1, 1]  # asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing": 1.5}, r"env\.missing is 1\.5; it is a share, 0 to 1\."),
        ({"replaced": -0.1}, r"env\.replaced is -0\.1"),
        ({"evidence": 0.0}, r"env\.evidence is 0\.0; it must be positive\."),
        ({"passage_seed": -1}, r"env\.passage_seed is -1"),
        ({"max_turns": 0}, r"env\.max_turns is 0; it must be at least 1"),
        ({"max_turns": 11}, r"env\.max_turns is 11; .* at most env\.time_limit 10"),
    ],
)
def test_fields_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        KBInfoBot(**changes)


@pytest.mark.parametrize("sees", ["soft", "rows"])
def test_a_list_names_every_row_of_a_table_that_has_fewer(sees):
    spec = no_slips(table=Generated(rows=4, values=(4, 4, 4), seed=1), sees=sees)
    env, luck, (state, _) = begun(spec, 2, [0], [0])
    assert env.slate == (4 if sees == "rows" else 0)
    inform = 3 + jnp.asarray([3, 1, 0, 2]) if sees == "rows" else jnp.asarray(3)
    _, made = spec.advance(env.params, state, inform, luck)
    assert float(made.metrics["episode_success"]) == 1.0
    if sees == "rows":
        assert float(made.reward) == pytest.approx(2 * (1 - 3 / 5))


def test_a_table_of_one_row_is_refused():
    spec = dataclasses.replace(KBInfoBot(), table=Generated(rows=1, values=(4, 4)))
    with pytest.raises(UserError, match=r"env\.table has 1 row; there is nothing to find"):
        spec.build()


def test_a_scene_is_of_the_row():
    spec = KBInfoBot(table=SMALL)
    env = spec.build()
    state, _ = env.reset(env.params, jax.random.key(0))
    scene = spec.scene(*jax.tree.map(np.asarray, (env.params, state)))
    assert len(scene.shapes) == 4
