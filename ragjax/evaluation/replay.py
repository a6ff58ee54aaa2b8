"""Episodes that a trained policy plays anew to be looked at: every decision, with what it came of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.base import Environment
from ragjax.evaluation.play import policy_inputs
from ragjax.models.policy import Policy
from ragjax.ops.distributions import JointCategorical, MarginalCategorical
from ragjax.training.learner import State
from ragjax.types import Env, PRNGKey, Retrieved, Timestep


class Step(NamedTuple):
    """One step of E environments, on the host.

    Attributes:
      before: state of the environments that was acted in.
      action: [E], or [E,slate], what the environments made of the policy's choice.
      probabilities: [E,A] π(·|s) of all actions; None where an action is a slate.
      ids: [E,K] rows of the retrieved passages, see `types.Retrieved`; None if none are retrieved.
      prior: [E,K] p(d|s); None where the policy sums over no passages.
      posterior: [E,K] p(d|s,a) of the action; None likewise.
      after: state that the action led to.
      timestep: what it led to.
    """

    before: Any
    action: np.ndarray
    probabilities: np.ndarray | None
    ids: np.ndarray | None
    prior: np.ndarray | None
    posterior: np.ndarray | None
    after: Any
    timestep: Timestep


@dataclass(frozen=True)
class Found:
    """A retrieved passage.

    Attributes:
      row: of the passage; negative for the empty one, which is read where nothing is found.
      text: what it says, in a few words.
      prior: p(d|s); None where the policy sums over no passages.
      posterior: p(d|s,a); None likewise.
    """

    row: int
    text: str
    prior: float | None
    posterior: float | None

    @property
    def title(self) -> str:
        """By which it is named."""
        return f"passage {self.row}" if self.row >= 0 else "the empty passage"


@dataclass(frozen=True)
class Decision:
    """What a policy decided in one step of one episode.

    Attributes:
      taken: the action, in words.
      actions: (name, π(a|s)) of every action, in their order; none where an action is a slate.
      passages: the retrieved ones, the best first by p(d|s); of weights of 0 none.
    """

    taken: str
    actions: Sequence[tuple[str, float]]
    passages: Sequence[Found]


def replay(
    state: State, policy: Policy, env: Env, key: PRNGKey, limit: int, *, greedy: bool = True
) -> Iterator[Step]:
    """Plays E episodes, one step after another.

    Args:
      state: the run.
      policy: its policy.
      env: E environments; what they do after their episodes' ends is theirs.
      key: PRNG key.
      limit: steps.
      greedy: whether the likeliest action is taken, by the likeliest passages where an estimator draws
        them, and not one that is drawn.
    """
    decide, step = jax.jit(_decider(state, policy, env, greedy)), jax.jit(env.step)
    inner, shown = env.reset(env.params, key)
    for number in range(limit):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        decision = decide(shown.observation, keys[0], keys[1])
        before = inner
        inner, shown = step(env.params, keys[2], before, decision[0])
        yield Step(*jax.device_get((before, *decision, inner, shown)))


def _decider(
    state: State, spec: Policy, env: Env, greedy: bool
) -> Callable[..., tuple[Any, Any, Any, Any, Any]]:
    """(observation [E,O...], two keys) -> action, probabilities, ids, prior and posterior of `Step`."""
    policy = spec.build(env)
    inputs = policy_inputs(state, policy)

    def decide(observation, action_key, input_key):
        found = inputs(None if greedy else input_key, observation)
        distribution = policy.apply(state.params, found)[0]
        choice = distribution.mode() if greedy else distribution.sample(action_key)
        action = distribution.executed(choice)
        if isinstance(distribution, JointCategorical):  # whose choices are pairs with passages
            distribution = MarginalCategorical(distribution.log_prior, distribution.logits)
        single = action.ndim == 1
        probabilities = jnp.exp(distribution.log_probs) if single else None
        ids = found.ids if isinstance(found, Retrieved) else None
        prior = posterior = None
        if ids is not None and isinstance(distribution, MarginalCategorical):
            prior = jnp.exp(distribution.log_prior)
            posterior = jnp.exp(distribution.log_posterior(action))
        return action, probabilities, ids, prior, posterior

    return decide


class Describer:
    """Says steps in the words of their environment."""

    def __init__(self, spec: Environment, env: Env):
        """Takes the environment as it is played, and what was built of it."""
        self._spec = spec
        self._passages = None if env.passages is None else np.asarray(env.passages)

    def decision(self, step: Step, place: int) -> Decision:
        """What was decided in one of the environments."""
        taken = self._spec.describe_action(np.asarray(step.action[place]))
        shares = [] if step.probabilities is None else step.probabilities[place].tolist()
        actions = [(self._spec.action_name(action), share) for action, share in enumerate(shares)]
        return Decision(taken, actions, self._found(step, place))

    def _found(self, step: Step, place: int) -> list[Found]:
        if step.ids is None:
            return []
        ids = step.ids[place].tolist()
        if step.prior is None or step.posterior is None:
            return [Found(row, self._text(row), None, None) for row in ids if row != -1]
        weights = step.prior[place].tolist(), step.posterior[place].tolist()
        order = np.argsort(-step.prior[place], kind="stable").tolist()
        found = [Found(ids[k], self._text(ids[k]), weights[0][k], weights[1][k]) for k in order]
        return [passage for passage in found if passage.prior]

    def _text(self, row: int) -> str:
        if row < 0 or self._passages is None:
            return ""
        return self._spec.describe_passage(row, self._passages[row])
