"""Beam search against an independent one in plain Python."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_beam import in_plain_python, text

from ragjax.decoding.beam import Beam, beam_search
from ragjax.errors import UserError

EOS = 2


def search(tables, beam, noted=lambda position: None):
    """`beam_search` of tables [B,T,V,V], which need no cache."""
    batch, length = tables.shape[:2]

    def step(cache, token, position):
        jax.debug.callback(noted, position)
        return tables[jnp.arange(batch), position, token], cache

    return beam_search(step, jnp.zeros(beam.beams), (batch,), length=length, beam=beam)


def random_tables(batch, length=5, vocab=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(batch, length, vocab, vocab))
    logits[..., EOS] += rng.choice([-1.0, 1.0, 2.0], batch)[:, None, None]
    return np.array(jax.nn.log_softmax(logits.astype(np.float32)))


def check(found, tables, beam):
    """Ids, scores and the number of steps are those of plain Python."""
    expected = [in_plain_python(table, beam) for table in tables]
    for b, (answers, _) in enumerate(expected):
        rows = [text(row) for row in found.tokens[b]]
        assert rows == [answer.tokens for answer in answers] + [()] * (len(rows) - len(answers))
        scores = [answer.score for answer in answers]
        np.testing.assert_allclose(found.score[b, : len(answers)], scores, rtol=1e-5, atol=1e-5)
        assert np.all(np.isneginf(found.score[b, len(answers) :]))
        assert np.all(np.isneginf(found.log_prob[b, len(answers) :]))
    assert found.steps == max(steps for _, steps in expected)
    return expected


@pytest.fixture(scope="module")
def tables():
    return random_tables(60)


@pytest.fixture(scope="module")
def found(tables):
    """(α, early stopping) -> `Beams`."""
    grid = itertools.product((0.0, 0.6, 1.0, 2.0), (False, True))

    @jax.jit
    def run(tables):
        return {
            (alpha, early): search(tables, Beam(4, alpha, 4, early_stopping=early))
            for alpha, early in grid
        }

    return jax.device_get(run(tables))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_as_in_plain_python(found, tables, alpha, early):
    out = found[alpha, early]
    check(out, tables, Beam(4, alpha, 4, early_stopping=early))
    # Written once and from the first place on; sorted; distinct.
    assert not np.any(out.tokens == 1)
    real = out.tokens != 0
    assert np.all(np.sort(real, axis=-1)[..., ::-1] == real)
    assert np.all(np.diff(out.score, axis=-1) <= 0)
    for rows in out.tokens:
        assert len(np.unique(rows, axis=0)) == 4
    sizes = real.sum(-1)
    np.testing.assert_allclose(out.score * sizes**alpha, out.log_prob, rtol=1e-5)
    last = np.take_along_axis(out.tokens, sizes[..., None] - 1, axis=-1)[..., 0]
    assert np.all((last == EOS) | (sizes == tables.shape[1]))
    assert np.any(last != EOS)
    assert np.any(sizes < tables.shape[1])


def test_options_change_what_is_found(found, tables):
    """Without this the test above would not notice an option that does nothing."""
    for alpha in (0.6, 1.0, 2.0):
        assert np.any(found[alpha, False].tokens != found[0.0, False].tokens)
    assert np.any(found[1.0, False].tokens != found[1.0, True].tokens)
    # And a beam finds answers that greedy decoding does not.
    alone = [in_plain_python(table, Beam(1, 0.0))[0][0] for table in tables]
    best = found[0.0, False].score[:, 0]
    gained = best - [answer.score for answer in alone]
    assert np.sum(gained > 0.01) > 5


@pytest.mark.parametrize(
    "beam",
    [
        Beam(3, returned=2, forced_first=5),
        Beam(3, 0.6, returned=3, forced_last=EOS),
        Beam(3, returned=3, suppressed=(3, 6)),
        Beam(3, returned=3, forced_first=1, forced_last=4, suppressed=(EOS,), early_stopping=True),
    ],
    ids=["first", "last", "never", "all"],
)
def test_forced_and_suppressed_tokens(tables, beam):
    out = jax.device_get(jax.jit(lambda tables: search(tables, beam))(tables))
    check(out, tables, beam)
    length = tables.shape[1]
    sizes = (out.tokens != 0).sum(-1)
    if beam.forced_first:
        assert np.all(out.tokens[..., 0] == beam.forced_first)
    if beam.forced_last:
        assert np.any(sizes == length)
        assert np.all(out.tokens[sizes == length, -1] == beam.forced_last)
    assert not np.any(np.isin(out.tokens, beam.suppressed))
    # Their probability is the model's own, whatever was certain to the search.
    for b, i in itertools.product(range(10), range(beam.returned)):
        answer = text(out.tokens[b, i])
        steps = zip(range(length), (1, *answer), answer, strict=False)
        total = sum(float(tables[b, t, last, token]) for t, last, token in steps)
        np.testing.assert_allclose(out.log_prob[b, i], total, rtol=1e-5)


def test_fewer_answers_than_beams():
    """Three tokens that can be written and two places: nine answers at most, seven in fact."""
    tables, beam = random_tables(5, length=2, vocab=5), Beam(8, returned=8)
    out = jax.device_get(jax.jit(lambda tables: search(tables, beam))(tables))
    check(out, tables, beam)
    assert np.all(np.isneginf(out.score).sum(-1) == 1)


def test_length_penalty_by_hand():
    """End at once, p = 1/2, or write 3 4 and end, p = 1/2 · 0.9 · 0.9 = 0.405."""
    table = np.full((3, 5, 5), np.log(0.01), np.float32)
    table[0, 1, [EOS, 3]] = np.log(0.5)
    table[1, 3, 4] = table[2, 4, EOS] = np.log(0.9)
    expected = {0.0: [([2, 0, 0], 0.5)], 1.0: [([3, 4, 2], 0.405)]}
    for alpha, [(tokens, probability)] in expected.items():
        out = search(jnp.asarray(table[None]), Beam(2, alpha))
        assert out.tokens[0, 0].tolist() == tokens
        np.testing.assert_allclose(np.exp(out.log_prob[0, 0]), probability, rtol=1e-5)
        size = sum(token != 0 for token in tokens)
        np.testing.assert_allclose(out.score[0, 0], np.log(probability) / size**alpha, rtol=1e-5)


@pytest.mark.parametrize("early", [False, True])
def test_it_stops_when_nothing_can_be_gained(early):
    length, beam = 30, Beam(2, 0.0, 2, early_stopping=early)
    table = np.full((length, 5, 5), np.log(0.02), np.float32)
    table[..., EOS] = np.log(0.9)
    tables = np.stack([table, table])
    tables[1, :3] = np.roll(tables[1, :3], 1, axis=-1)  # ends three tokens later
    called = []
    out = jax.jit(lambda tables: search(tables, beam, called.append))(tables)
    jax.effects_barrier()
    assert sorted(map(int, called)) == list(range(int(out.steps)))
    assert int(out.steps) == max(in_plain_python(table, beam)[1] for table in tables) <= 6
    # To the end one finds the same, unless the search was told to stop before.
    for b in range(1 if early else 2):
        whole, steps = in_plain_python(tables[b], beam, stops=False)
        assert steps == length
        assert [text(row) for row in out.tokens[b]] == [answer.tokens for answer in whole]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beams", 0),
        ("returned", 0),
        ("returned", 5),
        ("length_penalty", float("nan")),
        ("length_penalty", 11.0),
        ("forced_first", 0),
        ("forced_last", 7),
        ("suppressed", (7, -1)),
    ],
)
def test_bad_options_are_refused(field, value):
    with pytest.raises(
        UserError, match=rf"^beam\.{field} .*{re.escape(str(value).strip('(,)')[-2:])}"
    ):
        Beam(**{"suppressed": (7,)} | {field: value})


def test_a_forced_token_must_exist(tables):
    with pytest.raises(UserError, match=r"^beam\.forced_last is 7; it must be below 7"):
        search(jnp.asarray(tables), Beam(forced_last=7))
