"""The optimiser: Adam with a rate for each group of parameters, and rates that are traced."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ragjax.errors import require
from ragjax.types import Params

ScheduleName = Literal["cosine", "linear", "constant"]
Counts = Literal["updates", "steps"]
Norm = Literal["group", "all"]


class AverageState(NamedTuple):
    """State of `parameter_average`: the averaged parameters."""

    average: Params


class RateState(NamedTuple):
    """State of `scale_by_rate`: updates made."""

    count: Array


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


def scale_by_rate(
    name: str, schedule: Callable[[Any, Any], Array], counts: Counts
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus a scheduled learning rate whose peak is traced.

    Args:
      name: of the peak rate in `hyper`.
      schedule: (peak, count) -> rate.
      counts: whether the schedule goes on with every update or with every step of the run.

    Returns:
      A transformation whose update takes `hyper` and `step`.
    """

    def init(params):
        del params
        return RateState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **traced):
        del params
        hyper, step = traced["hyper"], traced.get("step")
        count = step if counts == "steps" else state.count
        rate = schedule(hyper[name], count)
        scaled = jax.tree.map(lambda leaf: jnp.asarray(-1 * rate, leaf.dtype) * leaf, updates)
        return scaled, RateState(jnp.asarray(optax.safe_increment(state.count)))

    return optax.GradientTransformationExtraArgs(init, update)


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimiser specs.

    Attributes:
      accumulate: micro-batches whose gradients are summed before one update.
    """

    accumulate: int = 1

    def hyper(self) -> dict[str, float]:
        """The numbers that are traced, such as peak rates."""
        raise NotImplementedError

    @property
    def depends_on_length(self) -> bool:
        """Whether rates depend on how long the run will be, so that it can't be lengthened."""
        return True

    def check(self, steps: int, updates: int) -> None:
        """Checks that the schedule fits a run of so many steps and updates.

        Raises:
          UserError: it doesn't.
        """
        del steps, updates

    def build(
        self, groups: Sequence[str], steps: int, updates: int | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Returns the gradient transformation; its update takes `hyper` and `step` too.

        Args:
          groups: the top level of the parameters' tree.
          steps: of the whole run.
          updates: of the whole run; as many as steps if None.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """AdamW with a peak learning rate for each group of parameters.

    Peak rates are traced: one compilation serves all of them. `Adam.for_policies` has the settings that
    are usual for policy gradients.

    Attributes:
      learning_rate: peak learning rate of groups that have none of their own.
      retriever_rate: that of encoders and temperature.
      reader_rate: that of the reader.
      critic_rate: that of the critic of an objective on answers.
      schedule: after the warm-up, `cosine` or `linear` decay to `final_fraction`, or `constant`.
      counts: whether the schedule counts `updates` or `steps` of the run, all of whose updates then
        have one rate.
      warmup_steps: updates (or steps) of linear warm-up from 0.
      final_fraction: of the peak rate, where the decay would arrive one step after the last.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled weight decay, times the learning rate.
      max_grad_norm: largest norm of the gradient.
      norm_of: whether that is the norm of each `group`, or of `all` groups together.
      average: decay of a moving average of the parameters, used in evaluation; 0 keeps none.
    """

    GROUPS: ClassVar[tuple[str, ...]] = ("retriever", "reader", "critic")  # that may have a rate

    learning_rate: float = 1e-3
    retriever_rate: float | None = 1e-2
    reader_rate: float | None = 5e-3
    critic_rate: float | None = 1e-2
    schedule: ScheduleName = "cosine"
    counts: Counts = "updates"
    warmup_steps: int = 100
    final_fraction: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    norm_of: Norm = "group"
    average: float = 0.0

    @classmethod
    def for_policies(cls, learning_rate: float = 2.5e-4, **fields: Any) -> "Adam":
        """One rate for all that falls linearly to 0, ε 1e-5, and one gradient norm, at most 0.5.

        Those of PPO (Huang et al. 2022, "The 37 implementation details of PPO").

        Args:
          learning_rate: peak.
          **fields: whatever else is to differ.
        """
        usual = {
            "retriever_rate": None,
            "reader_rate": None,
            "critic_rate": None,
            "schedule": "linear",
            "counts": "steps",
            "warmup_steps": 0,
            "final_fraction": 0.0,
            "b2": 0.999,
            "epsilon": 1e-5,
            "max_grad_norm": 0.5,
            "norm_of": "all",
        }
        return cls(**{**usual, "learning_rate": learning_rate, **fields})

    def __post_init__(self):
        """Checks the fields."""
        rates = ("learning_rate", *(f"{group}_rate" for group in self.GROUPS))
        for name in (*rates, "weight_decay", "epsilon"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value < math.inf,
                f"optimizer.{name} is {value}; it must be a finite number of at least 0.",
            )
        for name in ("b1", "b2", "average"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be at least 0, below 1.")
        require(
            0 <= self.final_fraction <= 1,
            f"optimizer.final_fraction is {self.final_fraction}; it must lie between 0 and 1.",
        )
        for name, kind in (("schedule", ScheduleName), ("counts", Counts), ("norm_of", Norm)):
            value, options = getattr(self, name), get_args(kind)
            require(
                value in options,
                f"optimizer.{name} is {value!r}; choose {', '.join(options[:-1])} or {options[-1]}.",
            )
        require(
            self.max_grad_norm > 0,
            f"optimizer.max_grad_norm is {self.max_grad_norm}; it must be positive.",
        )
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps is {self.warmup_steps}; it must not be negative.",
        )
        require(
            self.accumulate >= 1,
            f"optimizer.accumulate is {self.accumulate}; it must be at least 1.",
        )

    def hyper(self) -> dict[str, float]:
        """The peak rates, which are traced."""
        rates = {f"{group}_rate": getattr(self, f"{group}_rate") for group in self.GROUPS}
        given = {name: rate for name, rate in rates.items() if rate is not None}
        return {"learning_rate": self.learning_rate} | given

    def rate_at(self, peak: Any, count: Any, total: int) -> Array:
        """The rate of an update, or of a step.

        Args:
          peak: peak rate, may be traced.
          count: updates (or steps) made before, may be traced.
          total: of the whole run.
        """
        decay_steps = max(total - self.warmup_steps, 1)
        if self.schedule == "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps, self.final_fraction)
        elif self.schedule == "linear":
            decay = optax.linear_schedule(peak, peak * self.final_fraction, decay_steps)
        else:
            decay = optax.constant_schedule(peak)
        if not self.warmup_steps:
            return jnp.asarray(decay(count))
        warmup = optax.linear_schedule(0.0, peak, self.warmup_steps)
        return jnp.asarray(optax.join_schedules([warmup, decay], [self.warmup_steps])(count))

    @property
    def depends_on_length(self) -> bool:
        """See `Optimizer.depends_on_length`: a constant rate does not."""
        return self.schedule != "constant"

    def check(self, steps: int, updates: int) -> None:
        """See `Optimizer.check`: the warm-up has to end within the run."""
        total = steps if self.counts == "steps" else updates
        require(
            self.warmup_steps <= total,
            f"optimizer.warmup_steps is {self.warmup_steps}, more than the {total} {self.counts} of the "
            "run, which would never reach its learning rate; lower --optimizer.warmup-steps, or "
            "train longer.",
        )

    def build(
        self, groups: Sequence[str], steps: int, updates: int | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Returns the gradient transformation, see `Optimizer.build`."""
        total = steps if self.counts == "steps" or updates is None else updates

        def schedule(peak, count):
            return self.rate_at(peak, count, total)

        def group(name: str) -> optax.GradientTransformationExtraArgs:
            own = f"{name}_rate"
            rate = own if self.hyper().get(own) is not None else "learning_rate"
            parts: list[Any] = [optax.scale_by_adam(self.b1, self.b2, self.epsilon)]
            if self.norm_of == "group":
                parts.insert(0, optax.clip_by_global_norm(self.max_grad_norm))
            if self.weight_decay:
                parts.append(optax.add_decayed_weights(self.weight_decay))
            return optax.chain(*parts, scale_by_rate(rate, schedule, self.counts))

        transformations: dict[Hashable, Any] = {name: group(name) for name in groups}
        parts: list[Any] = [optax.partition(transformations, {name: name for name in groups})]
        if self.norm_of == "all":
            parts.insert(0, optax.clip_by_global_norm(self.max_grad_norm))
        if self.average:
            parts.append(parameter_average(self.average))
        return optax.with_extra_args_support(optax.chain(*parts))
