"""Optimiser specs: Adam by parameter group for text, and Adam with a traced rate for policies."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import optax

from ragjax.errors import require
from ragjax.types import Params


class AverageState(NamedTuple):
    """State of `parameter_average`: the averaged parameters."""

    average: Params


def parameter_average(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters; must be the last of a chain.

        a_0 = θ_0,  a_n = decay · a_{n-1} + (1 - decay) · θ_n

    Args:
      decay: between 0 and 1.

    Returns:
      A transformation that leaves the updates as they are.
    """

    def init(params):
        return AverageState(jax.tree.map(lambda leaf: leaf.copy(), params))

    def update(updates, state, params: Any = None):
        new = optax.apply_updates(params, updates)
        average = optax.incremental_update(new, state.average, 1.0 - decay)
        return updates, AverageState(average)

    return optax.GradientTransformation(init, update)


def evaluation_params(params: Params, opt_state: optax.OptState) -> Params:
    """The parameters to evaluate with: their moving average if the optimiser keeps one."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, AverageState))
    averages = [leaf.average for leaf in leaves if isinstance(leaf, AverageState)]
    return averages[0] if averages else params


@dataclass(frozen=True)
class Adam:
    """AdamW with a peak learning rate for each group of parameters.

    Attributes:
      retriever_rate: peak learning rate of encoder and temperature.
      generator_rate: peak learning rate of the reader.
      critic_rate: peak learning rate of the critic, where the objective has one.
      schedule: after the warm-up, `cosine` or `linear` decay to `final_fraction`, or `constant`.
      warmup_steps: steps of linear warm-up from 0.
      final_fraction: of the peak rate, where the decay would arrive one step after the last.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay, times the learning rate.
      clip: largest gradient norm of each group.
      average: decay of a moving average of the parameters, used in evaluation; 0 keeps none.
      accumulate: micro-batches whose gradients are summed before one update.
    """

    retriever_rate: float = 1e-2
    generator_rate: float = 5e-3
    critic_rate: float = 1e-2
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.0
    accumulate: int = 1

    def __post_init__(self):
        """Checks the fields."""
        for name in ("retriever_rate", "generator_rate", "critic_rate", "weight_decay"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name} is {value}; it must not be negative.")
        for name in ("b1", "b2", "average"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be at least 0, below 1.")
        require(
            0 <= self.final_fraction <= 1,
            f"optimizer.final_fraction is {self.final_fraction}; it must lie between 0 and 1.",
        )
        require(
            self.schedule in ("cosine", "linear", "constant"),
            f"optimizer.schedule is {self.schedule!r}; choose cosine, linear or constant.",
        )
        require(self.clip > 0, f"optimizer.clip is {self.clip}; it must be positive.")
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps is {self.warmup_steps}; it must not be negative.",
        )
        require(
            self.accumulate >= 1,
            f"optimizer.accumulate is {self.accumulate}; it must be at least 1.",
        )

    def learning_rate(self, peak: float, steps: int) -> optax.Schedule:
        """The schedule of a run of `steps` updates."""
        decay_steps = max(steps - self.warmup_steps, 1)
        if self.schedule == "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps, self.final_fraction)
        elif self.schedule == "linear":
            decay = optax.linear_schedule(peak, peak * self.final_fraction, decay_steps)
        else:
            decay = optax.constant_schedule(peak)
        warmup = optax.linear_schedule(0.0, peak, max(self.warmup_steps, 1))
        return optax.join_schedules([warmup, decay], [self.warmup_steps])

    def build(self, steps: int, *, critic: bool = False) -> optax.GradientTransformation:
        """Returns the gradient transformation of a run of `steps` updates.

        Args:
          steps: updates.
          critic: whether the parameters have a critic's.
        """

        def group(peak):
            return optax.chain(
                optax.clip_by_global_norm(self.clip),
                optax.scale_by_adam(self.b1, self.b2),
                optax.add_decayed_weights(self.weight_decay),
                optax.scale_by_learning_rate(self.learning_rate(peak, steps)),
            )

        groups: dict[Hashable, optax.GradientTransformation] = {
            "retriever": group(self.retriever_rate),
            "generator": group(self.generator_rate),
        }
        if critic:
            groups["critic"] = group(self.critic_rate)
        optimizer = optax.partition(groups, {name: name for name in groups})
        if self.average:
            optimizer = optax.chain(optimizer, parameter_average(self.average))
        return optimizer


@dataclass(frozen=True)
class TracedAdam:
    """Adam with one learning rate, which is an input of the compiled program rather than part of it.

    So one compilation serves a sweep over learning rates. The rate of update n of N is

        learning_rate · (1 - n / N) if annealed, else learning_rate.

    Attributes:
      learning_rate: peak learning rate.
      anneal: whether it falls linearly to 0.
      epsilon: added to the root of the second moment.
      clip: largest gradient norm.
    """

    learning_rate: float = 2.5e-4
    anneal: bool = True
    epsilon: float = 1e-5
    clip: float = 0.5

    def __post_init__(self):
        """Checks the fields."""
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name} is {value}; it must not be negative.")
        require(self.clip > 0, f"optimizer.clip is {self.clip}; it must be positive.")

    def build(self) -> optax.GradientTransformation:
        """Returns the transformation; `with_learning_rate` sets its rate before each update."""

        def chain(learning_rate):
            return optax.chain(
                optax.clip_by_global_norm(self.clip),
                optax.adam(learning_rate, eps=self.epsilon),
            )

        return optax.inject_hyperparams(chain)(learning_rate=self.learning_rate)


def with_learning_rate(opt_state: Any, rate: Any) -> Any:
    """The state of an injected optimiser with its learning rate set."""
    return opt_state._replace(hyperparams=opt_state.hyperparams | {"learning_rate": rate})
