"""Training state and the one training step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from ragjax.types import Leaf, Loss, Params


@struct.dataclass
class TrainState:
    """What the optimiser advances.

    Attributes:
      step: [] updates made so far.
      params: parameters.
      opt_state: state of the optax transformation.
      key: PRNG key of the run; step t uses fold_in(key, t) and the key itself never changes.
    """

    step: Leaf
    params: Params
    opt_state: Leaf
    key: Leaf


LossFunction = Callable[..., Loss]  # (params, key, batch, *constants) -> Loss


def init_state(params: Params, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def summed_gradients(
    loss: LossFunction, params: Params, key: Array, batch: Any, constants: tuple, accumulate: int
) -> tuple[Params, Loss]:
    """Gradient of Loss.sum and the `Loss` itself, both summed over micro-batches.

    The batch's rows are dealt to `accumulate` micro-batches of equal size. All share the step's key,
    so that the sums are those of the undivided batch, but for what depends on its shape: in-batch
    negatives, which are then those of the micro-batch, and the draws of `ops.noise.corrupt_words`.

    Args:
      loss: (params, key, batch, *constants) -> Loss.
      params: differentiated.
      key: of the step.
      batch: a pytree whose leaves all lead with the batch axis.
      constants: further arguments, without gradient.
      accumulate: number of micro-batches; divides the batch.

    Returns:
      The gradient, not yet divided by the denominator, and the summed loss.
    """

    def objective(params, micro):
        result = loss(params, key, micro, *constants)
        return result.sum, result

    gradient = jax.grad(objective, has_aux=True)
    if accumulate == 1:
        return gradient(params, batch)
    micro_batches = jax.tree.map(
        lambda leaf: leaf.reshape(accumulate, leaf.shape[0] // accumulate, *leaf.shape[1:]), batch
    )

    def add(total, micro):
        return jax.tree.map(jnp.add, total, gradient(params, micro)), None

    first = jax.tree.map(lambda leaf: leaf[0], micro_batches)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, params, first)
    )
    total, _ = jax.lax.scan(add, zeros, micro_batches)
    return total


TrainStep = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_update(
    loss: LossFunction, optimizer: optax.GradientTransformation, accumulate: int = 1
) -> TrainStep:
    """Builds the training step, to be traced within a larger program or jitted by itself.

    Args:
      loss: (params, key, batch, *constants) -> Loss.
      optimizer: optax transformation.
      accumulate: micro-batches per update.

    Returns:
      (state, batch, *constants) -> (state, metrics). The metrics are scalars: `loss`, `grad_norm` and
      those of the loss, each sum divided once by its denominator.
    """

    def update(state: TrainState, batch: Any, *constants: Any):
        key = jax.random.fold_in(state.key, state.step)
        gradient, total = summed_gradients(loss, state.params, key, batch, constants, accumulate)
        denom = jnp.maximum(total.denom, 1e-9)
        gradient = jax.tree.map(lambda leaf: leaf / denom, gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: value / jnp.maximum(n, 1e-9) for name, (value, n) in total.metrics.items()}
        metrics |= {"loss": total.sum / denom, "grad_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return update


def repeat_update(update: TrainStep, prepare: Callable[..., Any], times: int) -> TrainStep:
    """Builds a step of several updates on what is made of its batch before the first.

    Args:
      update: from `make_update`; its batch is what `prepare` gives. All updates have the step's key.
      prepare: (params, key, batch, *constants) -> the batch that `update` is given.
      times: updates.

    Returns:
      (state, batch, *constants) -> (state, metrics), the metrics averaged over the updates.
    """

    def step(state: TrainState, batch: Any, *constants: Any):
        prepared = prepare(
            state.params, jax.random.fold_in(state.key, state.step), batch, *constants
        )

        def once(state, _):
            new, metrics = update(state, prepared, *constants)
            return TrainState(state.step, new.params, new.opt_state, new.key), metrics

        state, metrics = jax.lax.scan(once, state, length=times)
        done = TrainState(state.step + 1, state.params, state.opt_state, state.key)
        return done, jax.tree.map(jnp.mean, metrics)

    return step


def make_train_step(
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    *,
    prepare: Callable[..., Any] | None = None,
    times: int = 1,
) -> TrainStep:
    """The step as a program, compiled once a batch shape; the state is donated.

    Args:
      loss: (params, key, batch, *constants) -> Loss.
      optimizer: optax transformation.
      accumulate: micro-batches per update.
      prepare: where a step has several updates, what makes their batch; see `repeat_update`.
      times: updates of a step.

    Returns:
      (state, batch, *constants) -> (state, metrics).
    """
    step = make_update(loss, optimizer, accumulate)
    if prepare is not None:
        step = repeat_update(step, prepare, times)
    return jax.jit(step, donate_argnums=0)
