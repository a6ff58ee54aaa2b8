"""Retrievers that need no search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import specs_of

from ragjax.errors import UserError
from ragjax.models.retriever import Dense
from ragjax.retrieval.fixed import ClosedBook, Fixed, Oracle, Random
from ragjax.types import Passage, Question, TopK

PASSAGES = tuple(Passage(name, "", name) for name in "abc")
QUESTIONS = tuple(
    Question(str(n), "?", ("!",), positives, "r", "e")
    for n, positives in enumerate([("c", "b"), ("a",), ("b",)])
)


def test_oracle_gives_the_first_gold_passage():
    found = Oracle().lookup(PASSAGES, QUESTIONS, 4)
    assert found.ids.tolist() == [[2], [0], [1]]
    assert found.ids.dtype == np.int32
    assert found.scores.tolist() == [[0.0]] * 3
    assert np.all(found.valid)
    assert Oracle().passages_per_question(4) == 1


def test_oracle_needs_a_gold_passage():
    bare = Question("q7", "?", ("!",), (), "r", "e")
    with pytest.raises(
        UserError, match="Question 'q7' names no gold passage, which retriever Oracle"
    ):
        Oracle().lookup(PASSAGES, (*QUESTIONS, bare), 1)


def test_closed_book_gives_one_empty_passage_that_counts():
    found = ClosedBook().lookup(PASSAGES, QUESTIONS, 4)
    assert found.ids.tolist() == [[-1]] * 3
    assert found.scores.tolist() == [[0.0]] * 3
    assert np.all(found.valid)
    assert ClosedBook().passages_per_question(4) == 1


MANY = tuple(Passage(str(n), "", str(n)) for n in range(40))


def test_random_passages_are_distinct_and_the_same_every_time():
    asked = [Question(str(n), f"who is {n}?", ("!",), (), "r", "e") for n in range(300)]
    found = Random(passage_seed=3).lookup(MANY, asked, 5)
    assert found.ids.shape == (300, 5)
    assert found.ids.dtype == np.int32
    assert all(len(set(row)) == 5 for row in found.ids.tolist())
    assert np.all(found.valid)
    assert not np.any(found.scores)  # a uniform p(d|x)
    # By its text alone, and not by the questions that are asked with it.
    again = Question("asked", " who is 7? ", ("",), (), "", "")
    one = Random(passage_seed=3).lookup(MANY, [again], 5)
    np.testing.assert_array_equal(one.ids[0], found.ids[7])
    other = Random().lookup(MANY, asked, 5)
    assert np.mean(other.ids == found.ids) < 0.1
    # Each passage as often: 1,500 draws of 40, so 37.5 ± 6 of each.
    counts = np.bincount(found.ids.ravel(), minlength=40)
    assert counts.min() > 15
    assert counts.max() < 65


def test_all_passages_or_too_many():
    everything = Random().lookup(PASSAGES, QUESTIONS, 3)
    np.testing.assert_array_equal(np.sort(everything.ids), [[0, 1, 2]] * 3)
    with pytest.raises(UserError, match="k is 4, but there are 3 passages"):
        Random().lookup(PASSAGES, QUESTIONS, 4)
    with pytest.raises(UserError, match=r"retriever.passage_seed is -1; it must not be"):
        Random(passage_seed=-1)


def test_only_the_dense_retriever_is_searched_in_the_step():
    assert Dense().learned
    assert not Oracle().learned
    assert not ClosedBook().learned
    assert Dense().passages_per_question(4) == 4
    with pytest.raises(NotImplementedError, match="Dense is searched inside"):
        Dense().lookup(PASSAGES, QUESTIONS, 1)


@pytest.mark.parametrize("kind", specs_of(Fixed))
def test_its_scores_pass_through_a_learned_temperature(kind):
    retriever = kind(initial_scale=4.0).build()
    params = {"retriever": retriever.init(jax.random.PRNGKey(0))}
    assert params["retriever"].keys() == {"log_scale"}
    assert kind(initial_scale=4.0).weights == {"initial_scale": 4.0}
    np.testing.assert_allclose(retriever.scale(params), 4.0, rtol=1e-6)
    topk = TopK(
        jnp.array([[3, 1, -1]]),
        jnp.array([[0.5, 0.25, -jnp.inf]]),
        jnp.array([[True, True, False]]),
    )
    prior = np.exp(retriever.log_prior(params, None, None, topk))
    chance = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(prior, [[chance, 1 - chance, 0.0]], rtol=1e-5)
    assert retriever.index(params, None) is None
    with pytest.raises(NotImplementedError, match=f"{kind.__name__} is looked up before training"):
        retriever.query(params, None)


@pytest.mark.parametrize("kind", specs_of(Fixed))
def test_bad_fields_are_named(kind):
    with pytest.raises(UserError, match=r"retriever.initial_scale is 0.0; it must be"):
        kind(initial_scale=0.0)
