"""An index that is made beside the training: swapped in whole, one at a time, errors and all."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.retrieval.corpus import IndexState
from ragjax.retrieval.refresh import BackgroundRefresh

CORPUS = jnp.ones((3, 2), jnp.int32)


class Embedder:
    """Embeds when it is told to go on, and remembers what it was given."""

    def __init__(self, error=None):
        self.go_on, self.begun, self.error = threading.Event(), [], error

    def __call__(self, params, corpus):
        self.begun.append(float(params["w"]))
        assert self.go_on.wait(10)
        if self.error:
            raise self.error
        return params["w"] * jnp.ones((corpus.shape[0], 2))


def index_of(value, step):
    return IndexState(jnp.full((3, 2), value), jnp.asarray(step, jnp.int32))


def params_of(value):
    return {"w": jnp.asarray(value, jnp.float32)}


def wait(refresh):
    refresh._running.join(10)
    assert not refresh._running.is_alive()


def test_the_old_index_is_searched_until_the_new_one_is_whole():
    embedder = Embedder()
    refresh = BackgroundRefresh(embedder, every=4)
    index = index_of(0.0, 0)
    for step in range(1, 4):
        assert refresh.between_steps(params_of(step), CORPUS, index, step) is index
    assert embedder.begun == []
    for step in range(4, 9):  # due from here on, and begun once
        assert refresh.between_steps(params_of(step), CORPUS, index, step) is index
    embedder.go_on.set()
    wait(refresh)
    fresh = refresh.between_steps(params_of(9), CORPUS, index, 9)
    assert embedder.begun == [4.0]
    np.testing.assert_array_equal(fresh.embeddings, np.full((3, 2), 4.0))
    assert int(fresh.built_at_step) == 4  # whose parameters it was made of, not when it was ready
    # The next one begins from the age of the one that has come in.
    assert refresh.between_steps(params_of(10), CORPUS, fresh, 10) is fresh
    wait(refresh)
    again = refresh.between_steps(params_of(11), CORPUS, fresh, 11)
    assert int(again.built_at_step) == 10
    assert embedder.begun == [4.0, 10.0]


def test_an_index_that_was_never_built_is_the_step_s_own_work():
    embedder = Embedder()
    refresh = BackgroundRefresh(embedder, every=1)
    index = index_of(0.0, -1)
    assert refresh.between_steps(params_of(5), CORPUS, index, 5) is index
    assert embedder.begun == []


def test_parameters_may_be_overwritten_meanwhile():
    embedder = Embedder()
    refresh = BackgroundRefresh(embedder, every=1)
    params = params_of(2.0)
    index = refresh.between_steps(params, CORPUS, index_of(0.0, 0), 1)
    params["w"].delete()  # as a step does to what is donated to it
    embedder.go_on.set()
    wait(refresh)
    fresh = refresh.between_steps(params_of(3.0), CORPUS, index, 2)
    np.testing.assert_array_equal(fresh.embeddings, np.full((3, 2), 2.0))


def test_what_goes_wrong_there_is_raised_here():
    embedder = Embedder(ValueError("no memory"))
    refresh = BackgroundRefresh(embedder, every=1)
    index = refresh.between_steps(params_of(1.0), CORPUS, index_of(0.0, 0), 1)
    embedder.go_on.set()
    wait(refresh)
    with pytest.raises(ValueError, match="no memory"):
        refresh.between_steps(params_of(1.0), CORPUS, index, 2)
