"""An index that is made beside the training: swapped in whole, one at a time, errors and all."""

import threading

import jax
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


class Counted:
    """The age of an index on the device, which counts how often it is read there."""

    def __init__(self, step):
        self.step, self.read = step, 0

    def __int__(self):
        self.read += 1
        return self.step


def test_the_age_is_read_from_the_device_once():
    """To read it waits for the step before, so that no step would be dispatched ahead."""
    embedder = Embedder()
    embedder.go_on.set()
    refresh, age = BackgroundRefresh(embedder, every=3), Counted(0)
    index = IndexState(jnp.zeros((3, 2)), age)
    for step in range(1, 4):
        assert refresh.between_steps(params_of(step), CORPUS, index, step) is index
    wait(refresh)
    index = refresh.between_steps(params_of(4), CORPUS, index, 4)
    assert int(index.built_at_step) == 3
    index = index.replace(built_at_step=Counted(3))
    for step in (5, 6, 7):
        refresh.between_steps(params_of(step), CORPUS, index, step)
    refresh.close()
    assert embedder.begun == [3.0, 6.0]
    assert (age.read, index.built_at_step.read) == (1, 0)


def test_the_first_index_is_as_old_as_the_step_that_made_it():
    embedder = Embedder()
    embedder.go_on.set()
    refresh, index = BackgroundRefresh(embedder, every=2), index_of(0.0, -1)
    for step in (5, 6, 7):
        assert refresh.between_steps(params_of(step), CORPUS, index, step) is index
    refresh.close()
    assert embedder.begun == [7.0]


def test_after_other_steps_what_was_being_made_is_dropped():
    embedder = Embedder()
    refresh, index = BackgroundRefresh(embedder, every=1), index_of(0.0, 0)
    refresh.between_steps(params_of(1.0), CORPUS, index, 1)
    embedder.go_on.set()
    wait(refresh)
    never = index_of(0.0, -1)  # to be made by step 9, of newer parameters than those of step 1
    assert refresh.between_steps(params_of(9.0), CORPUS, never, 9) is never
    assert refresh._running is None


@pytest.mark.parametrize("error", [None, ValueError("no memory")])
def test_closed_it_has_ended_and_says_what_went_wrong(error):
    embedder = Embedder(error)
    refresh = BackgroundRefresh(embedder, every=1)
    refresh.close()  # nothing is running
    refresh.between_steps(params_of(1.0), CORPUS, index_of(0.0, 0), 1)
    thread = refresh._running
    assert not thread.daemon  # a process waits for it, so that none dies inside of XLA
    threading.Timer(0.05, embedder.go_on.set).start()
    if error:
        with pytest.raises(ValueError, match="no memory"):
            refresh.close()
    else:
        refresh.close()
    assert not thread.is_alive()
    refresh.close()


def test_the_thread_computes_in_single_precision():
    """As the run does; what it sets for itself is not set for other threads."""
    jax.config.update("jax_enable_x64", True)
    try:
        assert jnp.zeros(1).dtype == jnp.float64
        refresh = BackgroundRefresh(lambda params, corpus: jnp.zeros(1), every=1)
        refresh.between_steps(params_of(1.0), CORPUS, index_of(0.0, 0), 1)
        wait(refresh)
        made = refresh.between_steps(params_of(1.0), CORPUS, index_of(0.0, 0), 2)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert made.embeddings.dtype == jnp.float32
