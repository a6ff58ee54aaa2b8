"""A person and a trained policy: what it believes, what it finds, and what it decides, in words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.conversation import Conversation
from ragjax.errors import require
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.play import policy_inputs
from ragjax.ops.distributions import MarginalCategorical
from ragjax.types import Retrieved


class Talk:
    """One conversation with the policy of a run.

    Attributes:
      conversation: with the environment's side of it.
    """

    conversation: Conversation

    def __init__(self, run: Any, sampled: bool, seed: int):
        """Begins a dialogue.

        Args:
          run: from `commands.open_run`.
          sampled: whether decisions are drawn.
          seed: of the draws.

        Raises:
          UserError: the run's environment is no dialogue.
        """
        conversation, learner = None, run.learner
        if issubclass(run.config.records, Episodes):
            self._env = learner.env.on_split("test")
            conversation = self._env.conversation()
        require(
            conversation is not None,
            "The run is not one of a dialogue; name a run of environment kb_infobot or movie_booking, "
            "or use ragjax answer where questions are answered.",
        )
        assert conversation is not None  # as was required
        self.conversation = conversation
        self._sampled, self._key, self._turns = sampled, jax.random.key(seed), 0
        policy = learner.policy(learner.data)
        inputs = policy_inputs(run.state, policy)

        @jax.jit
        def decide(observation, key):
            found = inputs(key if sampled else None, observation[None])
            distribution = policy.apply(run.state.params, found)[0]
            choice = distribution.sample(key) if sampled else distribution.mode()
            retrieved = None
            if isinstance(found, Retrieved) and isinstance(distribution, MarginalCategorical):
                retrieved = found.ids[0], jnp.exp(distribution.log_prior[0])
            return distribution.executed(choice)[0], jnp.exp(distribution.log_acts[0]), retrieved

        self._decide = decide

    def turn(self, rows: int, decisions: int) -> list[str]:
        """The policy's turn: what is shown of it, and what it says, a line each.

        Args:
          rows: shown, the likeliest ones.
          decisions: shown, the likeliest ones.
        """
        key = jax.random.fold_in(self._key, self._turns)
        self._turns += 1
        observation = jnp.asarray(self.conversation.observation())
        action, acts, retrieved = jax.device_get(self._decide(observation, key))
        lines = ["  believes"] + [f"    {line}" for line in self.conversation.believed()]
        if retrieved is not None:
            ids, prior = retrieved
            best = np.argsort(-prior, kind="stable")[:rows]
            found = [(int(ids[k]), float(prior[k])) for k in best if ids[k] >= 0]
            lines.append("  retrieves, with p(d|s)")
        else:
            found = self.conversation.rows(rows)
            lines.append("  finds, with its posterior")
        for row, share in found:
            lines.append(f"    {share:.3f}  {self._env.describe_passage(row, np.zeros(0))}")
        if not found:
            lines.append("    nothing")
        order = np.argsort(-acts, kind="stable")[:decisions]
        shares = ", ".join(f"{self.conversation.names[act]} {acts[act]:.2f}" for act in order)
        lines.append(f"  decides: {shares}" + (" (drawn)" if self._sampled else ""))
        return lines + [f"agent> {said}" for said in self.conversation.act(action)]
