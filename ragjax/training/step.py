"""The one training step: collect a batch, then one or several updates of the parameters on it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ragjax.ops.augmentation import random_order
from ragjax.training.learner import Learner, Stage, State, step_keys
from ragjax.types import Figure, Loss, Params

LossFunction = Callable[[Params, Array, Any], Loss]  # (params, key, batch)
Metrics = dict[str, Any]  # name -> [] number or `Figure`
Step = Callable[..., tuple[State, Metrics]]


def summed_gradients(
    loss: LossFunction,
    params: Params,
    key: Array,
    batch: Any,
    accumulate: int,
    *,
    one_key: bool = False,
) -> tuple[Params, Loss]:
    """Gradient of Loss.sum and the `Loss` itself, both summed over micro-batches.

    The batch's rows are dealt to `accumulate` micro-batches of equal size. Each has a key of its own, so
    that no two of them draw the same answers, names or words. The sums are those of the undivided batch
    but for these draws, and for in-batch negatives, which are then those of the micro-batch.

    Args:
      loss: (params, key, batch) -> Loss.
      params: differentiated.
      key: of the step.
      batch: a pytree whose leaves all lead with the batch axis.
      accumulate: number of micro-batches; divides the batch.
      one_key: whether all have the step's key nevertheless, since the batch was drawn with it.

    Returns:
      The gradient, not yet divided by the denominator, and the summed loss.
    """

    def objective(params, key, micro):
        result = loss(params, key, micro)
        return result.sum, result

    gradient = jax.grad(objective, has_aux=True)
    if accumulate == 1:
        return gradient(params, key, batch)
    micro_batches = jax.tree.map(
        lambda leaf: leaf.reshape(accumulate, leaf.shape[0] // accumulate, *leaf.shape[1:]), batch
    )

    def add(total, micro):
        return jax.tree.map(jnp.add, total, gradient(params, *micro)), None

    keys = jnp.stack([key] * accumulate) if one_key else jax.random.split(key, accumulate)
    own = keys, micro_batches
    first = jax.tree.map(lambda leaf: leaf[0], own)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, params, *first)
    )
    total, _ = jax.lax.scan(add, zeros, own)
    return total


def update(
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    state: State,
    key: Array,
    batch: Any,
    *,
    accumulate: int = 1,
    one_key: bool = False,
    **traced: Any,
) -> tuple[State, Metrics]:
    """One update of the parameters.

    Args:
      loss: (params, key, batch) -> Loss.
      optimizer: optax transformation.
      state: of which parameters and optimiser state move.
      key: of the step.
      batch: a pytree whose leaves all lead with the batch axis.
      accumulate: micro-batches.
      one_key: see `summed_gradients`.
      **traced: further arguments of the optimiser's update.

    Returns:
      The new state, and scalars: `loss`, `grad_norm` and the metrics of the loss, each sum divided once
      by its denominator; a metric is a `Figure`, of nothing where its denominator is 0.
    """
    gradient, total = summed_gradients(loss, state.params, key, batch, accumulate, one_key=one_key)
    denom = jnp.maximum(total.denom, 1e-9)
    gradient = jax.tree.map(lambda leaf: leaf / denom, gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            gradient, state.opt_state, state.params, **traced
        )
    params = optax.apply_updates(state.params, updates)
    metrics = {
        name: Figure(jnp.where(n > 0, value / jnp.maximum(n, 1e-9), 0.0), n > 0)
        for name, (value, n) in total.metrics.items()
    }
    metrics |= {"loss": total.sum / denom, "grad_norm": optax.tree.norm(gradient)}
    return state.replace(params=params, opt_state=opt_state), metrics


def repeated_updates(
    step: Callable[[State, Any], tuple[State, Metrics]],
    state: State,
    batch: Any,
    *,
    stage: Stage,
    key: Array,
) -> tuple[State, Metrics]:
    """Goes through a batch `stage.epochs` times, in `stage.minibatches` parts.

    Args:
      step: (state, part) -> (state, metrics), one update.
      state: before.
      batch: a pytree whose leaves all lead with the batch axis.
      stage: how often, in how many parts, and when to stop.
      key: of the shuffling.

    Returns:
      The state, and the metrics averaged over all updates, those left out included, and of nothing if
      one of them is; `updates_made` is the share that was not left out.
    """
    count = stage.epochs * stage.minibatches
    rows = None
    if stage.shuffle or stage.minibatches > 1:
        size = jax.tree.leaves(batch)[0].shape[0]
        order = jnp.tile(jnp.arange(size), (stage.epochs, 1))
        if stage.shuffle:
            keys = jax.random.split(key, stage.epochs)
            order = jax.vmap(lambda key: random_order(key, size))(keys)
        rows = order.reshape(count, size // stage.minibatches)

    def learn(carry, rows):
        state, going = carry
        part = batch if rows is None else jax.tree.map(lambda leaf: leaf[rows], batch)
        new, metrics = step(state, part)
        if stage.target_kl:
            kl = Figure.of(metrics["kl"])  # of nothing in a part without weight
            going &= ~(kl.known & (kl.value > stage.target_kl))
            new = jax.tree.map(lambda new, old: jnp.where(going, new, old), new, state)
        return (new, going), metrics | {"updates_made": going}

    (state, _), metrics = jax.lax.scan(learn, (state, jnp.asarray(True)), rows, length=count)

    def mean(values):
        if isinstance(values, Figure):
            return Figure(jnp.mean(values.value), jnp.all(values.known))
        return jnp.mean(values)

    return state, {name: mean(values) for name, values in metrics.items()}


def make_step(
    learner: Learner, stage: Stage, spread: Callable[[Any], Any] = lambda rows: rows
) -> Step:
    """Builds one step of a run: a pure function, to be jitted, vmapped or scanned.

    Args:
      learner: what is trained.
      stage: static.
      spread: deals the rows of a batch, or of a part of it, out to devices, see `Placement.spread`.

    Returns:
      (state, fed, hyper, data) -> (state, metrics): `fed` from `Learner.feed`, `hyper` traced scalars,
      `data` the arrays of `Learner.data`. The metrics are scalars, of collecting and of the updates.
    """
    several = stage.epochs * stage.minibatches > 1

    def step(state: State, fed: Any, hyper: Any, data: Any) -> tuple[State, Metrics]:
        keys = step_keys(state)
        state, batch, collected = learner.collect(state, fed, stage=stage, hyper=hyper, data=data)
        before = jax.lax.stop_gradient(state)

        def loss(params: Params, key: Array, rows: Any) -> Loss:
            given = {"stage": stage, "state": before, "hyper": hyper, "data": data}
            return learner.loss(params, key, spread(rows), **given)

        def once(state: State, part: Any) -> tuple[State, Metrics]:
            return update(
                loss,
                learner.optimizer,
                state,
                keys.loss,
                part,
                accumulate=stage.accumulate,
                # Of several updates, all are shown the names in which answers were drawn before.
                one_key=several,
                hyper=hyper,
                step=state.step,
            )

        if not several:
            state, learned = once(state, batch)
        else:
            # Only what an update moves is carried, so that nothing else is copied at each of them.
            moved = State(state.step, state.params, state.opt_state, state.key)
            moved, learned = repeated_updates(once, moved, batch, stage=stage, key=keys.shuffle)
            state = state.replace(params=moved.params, opt_state=moved.opt_state)
        return state.replace(step=state.step + 1), collected | learned

    return step
