"""Beam search against an independent one in plain Python, and against all answers there are."""

import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.decoding.beam import Beam, beam_by_passage, beam_marginal, beam_search
from ragjax.decoding.greedy import greedy_by_passage
from ragjax.decoding.marginal import (
    decode_rag_sequence,
    decode_rag_token,
    nbest_rag_sequence,
    nbest_rag_token,
)
from ragjax.errors import UserError

EOS = 2


class Answer(NamedTuple):
    score: float
    tokens: tuple[int, ...]


def by_score(answers):
    return sorted(answers, key=lambda answer: -answer.score)


def in_plain_python(table, beam, *, stops=True):
    """What transformers' beam search finds in one table [T,V,V]: its answers, and its steps."""
    length, vocab, _ = table.shape
    running, ended, step = [Answer(0.0, ())], [], 0
    while step < length and running:
        grown = []
        for total, tokens in running:
            row = table[step, tokens[-1] if tokens else 1]
            for token in range(vocab):
                gain = float(row[token]) if token not in (0, 1, *beam.suppressed) else -np.inf
                if step == 0 and beam.forced_first is not None:
                    gain = 0.0 if token == beam.forced_first else -np.inf
                if step == length - 1 and beam.forced_last is not None:
                    gain = 0.0 if token == beam.forced_last else -np.inf
                if gain > -np.inf:
                    grown.append(Answer(total + gain, (*tokens, token)))
        step += 1
        best = by_score(grown)[: 2 * beam.beams]
        done = [answer.tokens[-1] == EOS or step == length for answer in best]
        for answer, over in zip(best[: beam.beams], done, strict=False):
            if over:
                ended.append(Answer(answer.score / step**beam.length_penalty, answer.tokens))
        ended = by_score(ended)[: beam.beams]
        running = [answer for answer, over in zip(best, done, strict=True) if not over]
        running = running[: beam.beams]
        if stops and running and len(ended) == beam.beams:
            hope = running[0].score / step**beam.length_penalty
            if beam.early_stopping or hope <= ended[-1].score:
                break
    return ended[: beam.returned], step


def search(tables, beam, noted=lambda position: None):
    """`beam_search` of tables [B,T,V,V], which need no cache."""
    batch, length = tables.shape[:2]

    def step(cache, token, position):
        jax.debug.callback(noted, position)
        return tables[jnp.arange(batch), position, token], cache

    return beam_search(step, jnp.zeros(beam.beams), (batch,), length=length, beam=beam)


def text(tokens):
    return tuple(int(token) for token in tokens if token)


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


# -- the search --


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


# -- over passages, against all answers --

B, K, T, V = 6, 3, 3, 5
ALL = 15  # answers of tokens 2 to 4 in three places


@pytest.fixture(scope="module")
def reader(table_reader):
    return table_reader(B, K, vocab=V, length=T)


@pytest.fixture(scope="module")
def answers(all_answers):
    answers = [text(row) for row in all_answers(V, T) if 1 not in row]
    assert len(answers) == ALL
    return answers


def given(reader):
    return {"passages": reader.passages, "log_prior": reader.log_prior}


@pytest.fixture(scope="module")
def everything(table_model, reader):
    """Name -> what is found by as many beams as there are answers, and how often sources were read."""
    beam, read = Beam(ALL + 1, 1.0, returned=ALL + 1), []

    def encode(params, question, passages):
        jax.debug.callback(lambda: read.append(1))
        return params

    model = table_model._replace(encode=encode)

    @jax.jit
    def run(tables, question, given):
        arrays, given = (model, tables, question), given | {"length": T}
        shape = {"length": T, "beam": beam}
        return {
            "passage": beam_by_passage(model, tables, tables, (B, K), **shape),
            "marginal": beam_marginal(model, tables, tables, given["log_prior"], **shape),
            "rescored": nbest_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
            "fast": nbest_rag_sequence(*arrays, **given, beam=beam),
            "token": nbest_rag_token(*arrays, **given, beam=beam),
            "best": decode_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
            "best token": decode_rag_token(*arrays, **given, beam=beam),
        }

    out = jax.device_get(run(reader.tables, reader.question, given(reader)))
    jax.effects_barrier()
    return out, read


def by_token(reader, b, answer):
    """log p(y|x_b) under RAG-Token, in float64."""
    total = 0.0
    for t, last, token in zip(itertools.count(), (1, *answer), answer, strict=False):
        total += np.log(
            sum(
                np.exp(reader.log_prior[b, k] + reader.tables[b, k, t, last, token])
                for k in range(K)
            )
        )
    return total


def check_all(tokens, values, expected):
    """One row of n-best is every answer by its value, and then nothing."""
    ranked = by_score(Answer(value, answer) for answer, value in expected.items())
    assert [text(row) for row in tokens] == [answer.tokens for answer in ranked] + [()]
    np.testing.assert_allclose(values[:-1], [answer.score for answer in ranked], rtol=1e-4)
    assert np.isneginf(values[-1])


def test_each_passage_ranks_all_answers(everything, reader, answers):
    out = everything[0]["passage"]
    for b, k in itertools.product(range(B), range(K)):
        scores = {y: reader.total(b, k, y) / len(y) for y in answers}
        check_all(out.tokens[b, k], out.score[b, k], scores)


def test_rag_token_ranks_all_answers(everything, reader, answers):
    out, told = everything[0]["marginal"], everything[0]["token"]
    for b in range(B):
        scores = {y: by_token(reader, b, y) / len(y) for y in answers}
        check_all(out.tokens[b], out.score[b], scores)
        assert text(everything[0]["best token"].tokens[b]) == max(scores, key=scores.__getitem__)
    np.testing.assert_array_equal(told.tokens, out.tokens)
    np.testing.assert_allclose(told.log_prob, out.log_prob, rtol=1e-4)
    np.testing.assert_allclose(np.exp(told.log_posterior[:, :-1]).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["rescored", "fast"])
def test_rag_sequence_ranks_all_answers(everything, reader, answers, name):
    """Every passage proposes every answer, so that fast decoding is exact, too."""
    out, best = everything[0][name], everything[0]["best"]
    for b in range(B):
        values = {y: np.log(reader.marginal(b, y)) for y in answers}
        check_all(out.tokens[b], out.log_prob[b], values)
        for i, row in enumerate(out.tokens[b][:-1]):
            joint = [
                np.exp(reader.log_prior[b, k] + reader.total(b, k, text(row))) for k in range(K)
            ]
            expected = np.array(joint) / np.sum(joint)
            np.testing.assert_allclose(
                np.exp(out.log_posterior[b, i]), expected, rtol=1e-4, atol=1e-7
            )
        assert text(best.tokens[b]) == max(values, key=values.__getitem__)
    np.testing.assert_array_equal(best.log_prob, everything[0]["rescored"].log_prob[:, 0])


def test_sources_are_read_once(everything):
    assert len(everything[1]) == 5  # by each of the decoders that are given questions


# -- few beams: candidates, misses, greedy decoding --


@pytest.fixture(scope="module")
def few(table_model, table_reader, answers):
    """A reader with a row of misses only, and what is found.

    Other misses propose an answer that would often be among the best two, but is not proposed elsewhere.
    """
    reader = table_reader(40, K, seed=3, vocab=V, length=T)
    planted = 0
    for b in range(0, 40, 3):
        candidates = votes(reader, b)
        others = set(answers) - set(candidates)
        best = max(others, key=lambda answer, b=b: reader.marginal(b, answer))
        second = sorted(reader.marginal(b, answer) for answer in candidates)[-2]
        planted += reader.marginal(b, best) > second
        reader.plant(b, K - 1, best)
    assert planted > 0
    reader.log_prior[1] = -np.inf
    beam = Beam(2, returned=2)

    @jax.jit
    def run(tables, question, given):
        arrays, given = (table_model, tables, question), given | {"length": T, "beam": beam}
        return {
            "rescored": nbest_rag_sequence(*arrays, **given, rescore_all=True),
            "fast": nbest_rag_sequence(*arrays, **given),
            "token": nbest_rag_token(*arrays, **given),
        }

    return reader, jax.device_get(run(reader.tables, reader.question, given(reader)))


def proposed(reader, b, k):
    found, _ = in_plain_python(reader.tables[b, k], Beam(2, returned=2))
    return [answer.tokens for answer in found]


def votes(reader, b):
    """Answer -> the passages that propose it."""
    found = {}
    for k in range(K):
        if np.isfinite(reader.log_prior[b, k]):
            for answer in proposed(reader, b, k):
                found.setdefault(answer, []).append(k)
    return found


@pytest.mark.parametrize("name", ["rescored", "fast"])
def test_rag_sequence_ranks_the_candidates(few, name):
    reader, out = few
    counted = 0
    for b in [b for b in range(40) if b != 1]:
        candidates = votes(reader, b)
        counted += any(1 < len(passages) < K for passages in candidates.values())
        values = {
            y: reader.marginal(b, y, None if name == "rescored" else passages)
            for y, passages in candidates.items()
        }
        ranked = sorted(values, key=values.__getitem__, reverse=True)[:2]
        assert [text(row) for row in out[name].tokens[b]] == ranked
        log_probs = [np.log(reader.marginal(b, answer)) for answer in ranked]
        np.testing.assert_allclose(out[name].log_prob[b], log_probs, rtol=1e-4)
    assert counted > 0
    assert np.any(out["rescored"].tokens != out["fast"].tokens)


def test_where_all_are_misses_there_is_no_answer(few):
    for out in few[1].values():
        assert not np.any(out.tokens[1])
        assert np.all(np.isneginf(out.log_prob[1]))
        assert np.all(np.isneginf(out.log_posterior[1]))
        rest = np.delete(np.arange(40), 1)
        assert np.all(np.isfinite(out.log_prob[rest]))
        assert np.all(out.tokens[rest, :, 0] > 1)


def test_one_beam_is_greedy_decoding(table_model, table_reader):
    reader = table_reader(40, K, seed=4, vocab=V, length=T, never=(0, 1))

    @jax.jit
    def run(tables, question, given, beam=None):
        arrays, given = (table_model, tables, question), given | {"length": T}
        return [
            [
                decode_rag_sequence(*arrays, **given, beam=beam),
                decode_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
                decode_rag_token(*arrays, **given, beam=beam),
            ]
            for beam in (None, Beam(1))
        ]

    greedy, beams = jax.device_get(run(reader.tables, reader.question, given(reader)))
    for one, other in zip(greedy, beams, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.log_prob, other.log_prob, rtol=1e-5)
        np.testing.assert_allclose(one.log_posterior, other.log_posterior, rtol=1e-5, atol=1e-6)


# -- the real reader --


@pytest.fixture(scope="module")
def memory(toy, corpus, batch):
    passages = np.asarray(corpus)[np.array([[0, 3, 1], [2, 5, 4], [1, 0, 2], [3, 4, 5]])]
    return toy.encode(toy.params, batch.question, passages)


def test_the_real_reader_follows_its_beams(toy, memory):
    """Probabilities are those of teacher forcing, which they would not be over another beam's cache."""
    beam = Beam(3, 0.0, returned=3)

    @jax.jit
    def run(params, memory):
        found = beam_by_passage(toy.model, params, memory, (4, 3), length=5, beam=beam)
        return found, greedy_by_passage(toy.model, params, memory, (4, 3), 5)

    out, (_, greedy) = jax.device_get(run(toy.params, memory))
    for k, i in itertools.product(range(3), range(3)):
        tokens = out.tokens[:, k, i]
        forced = np.asarray(toy.logprobs(toy.params, memory, tokens))[:, k]
        expected = np.where(tokens != 0, forced, 0).sum(-1)
        np.testing.assert_allclose(out.log_prob[:, k, i], expected, atol=1e-4)
    assert np.any(out.log_prob[..., 0] > greedy + 1e-3)
    assert np.unique(out.tokens.reshape(-1, 5), axis=0).shape[0] > 6


def test_beams_share_the_memory(toy, memory):
    """No array of the program is keys or values of the source times the number of beams."""

    def shapes(run):
        program = str(jax.make_jaxpr(run)(toy.params, memory))
        found = re.findall(r"\w+\[([\d,]+)\]", program)
        return {tuple(sorted(map(int, shape.split(",")))) for shape in found}

    cross = memory.cross[0].key.shape
    beams = tuple(sorted((7, *cross)))
    beam = Beam(7)

    def searched(params, memory):
        return beam_by_passage(toy.model, params, memory, (4, 3), length=3, beam=beam)

    found = shapes(searched)
    assert tuple(sorted(cross)) in found
    assert beams not in found
    repeated = shapes(lambda params, memory: jnp.stack([memory.cross[0].key] * 7))
    assert beams in repeated


# -- options --


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
