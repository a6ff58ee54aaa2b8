"""A learner of any loss on any batch, for tests of the step, the loop and the program around it."""

from typing import ClassVar

import jax.numpy as jnp

from ragjax.training.learner import Learner, Stage, State


class LossLearner(Learner):
    """Its batch is what it is fed; its loss is (params, key, batch, *data) -> `Loss`."""

    stages = (Stage(1),)
    hyper: ClassVar[dict] = {}
    data = ()
    optimizer = None

    def __init__(self, loss, optimizer, params=None, **fields):
        """Fields are those of `Learner` that are data: stages, hyper, data."""
        self.of_batch, self.optimizer, self.params = loss, optimizer, params
        vars(self).update(fields)

    def begun(self, key, params):
        """The state before the first step, of given parameters."""
        return State(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), key)

    def init(self, key, hyper, data):
        del hyper, data
        return self.begun(key, self.params)

    def collect(self, state, fed, *, stage, hyper, data):
        del stage, hyper, data
        return state, fed, {}

    def loss(self, params, key, batch, *, stage, state, hyper, data):
        del stage, state, hyper
        return self.of_batch(params, key, batch, *data)
