"""Parts of a policy's run that tell on those who use them; see spied.py."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.base import Environment, timestep
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.actor_critic import policy_batch
from ragjax.objectives.ppo import PPO
from ragjax.ops.distributions import Categorical
from ragjax.types import Env, PolicyModel, Retrieved

PAGES = 8
REWARDS = {"train": 100.0, "dev": 200.0, "test": 300.0}


@dataclass(frozen=True)
class Split(Environment):
    """Two steps, each of which is paid if its action is that of the page shown: 100, 200 or 300.

    Observations are a thousand at the page's place and 0 elsewhere; page n says action n.

    Attributes:
      split: whose environment this is, and with it what is paid; nothing where it is of none.
    """

    name: ClassVar[str] = "split"
    splits: ClassVar[tuple[str, ...]] = tuple(REWARDS)

    split: str = ""

    def on_split(self, split):
        return dataclasses.replace(self, split=split)

    def build(self) -> Env:
        pays = REWARDS.get(self.split, 0.0)
        pages = jnp.eye(PAGES)

        def reset(params, key):
            page = jax.random.randint(key, (), 0, PAGES)
            return (page, jnp.zeros((), jnp.int32)), timestep(1000.0 * params[page])

        def step(params, key, state, action):
            page, steps = state
            paid = jnp.where(action == page, pays, 0.0)
            made = timestep(1000.0 * params[page], paid, terminated=steps == 1)
            return (page, steps + 1), made

        low = np.zeros(PAGES, np.float32)
        return Env(pages, reset, step, PAGES, low, low + 1000.0, passages=pages)


@dataclass(frozen=True)
class Perfect(RetrievalPolicy):
    """Finds the page shown, does what it says, and shows how old the index is that it was found in.

    Attributes:
      refresh_every: as of a `Dense` retriever, which it does without.
    """

    refresh_every: int = 1

    def build(self, env, contents=None) -> PolicyModel:
        said = env.passages if contents is None else contents

        def init(key):
            policy = {"marker": jnp.zeros(()), "luck": jax.random.uniform(key)}
            return {"policy": policy, "value": {"none": jnp.zeros(())}}

        def embed(params) -> Any:
            return jnp.full((PAGES, 1), params["policy"]["marker"])

        def retrieve(params, index, key, observation):
            shown = jnp.broadcast_to(index[0], (*observation.shape[:-1], 1))
            ids = jnp.argmax(observation, axis=-1)[..., None]
            return Retrieved(jnp.concatenate([observation, shown], axis=-1), ids, None)

        def apply(params, seen):
            return Categorical(50.0 * said[seen.ids[..., 0]]), jnp.zeros(seen.ids.shape[:-1])

        return PolicyModel(init, apply, embed, retrieve, self.refresh_every)


@dataclass(frozen=True)
class Counting(PPO):
    """Pulls the policy's marker with a force that never changes, and tells what it learns from.

    Its divergence `kl` is the number of updates made, each of which moves the marker by 0.1.

    Attributes:
      poison: the loss of a policy with less luck than this is NaN after its first update.
    """

    epochs: int = 1
    minibatches: int = 1
    poison: float = 0.0

    def targets(self, policy, params, rollout, hyper):
        nothing = jnp.zeros_like(rollout.reward)
        return policy_batch(rollout, nothing, rollout.reward, nothing)

    def loss(self, policy, params, key, batch, hyper, *, extra=None):
        marker, luck = params["policy"]["marker"], jax.lax.stop_gradient(params["policy"]["luck"])
        seen, count = batch.observation.observation, jnp.sum(batch.weight)
        nothing = jnp.zeros(())
        figures = {
            "marker": marker,
            "luck": luck,
            "kl": -10.0 * marker,
            "index_marker": jnp.mean(seen[:, -1]),
            "reward_size": jnp.max(jnp.abs(batch.advantage)),
            "observation_size": jnp.max(jnp.abs(seen)),
        }
        ill = (luck < self.poison) & (marker < 0)
        pull = count * (marker + jnp.where(ill, jnp.nan, 0.0))
        parts = {"policy_loss": pull, "value_loss": nothing, "entropy": nothing}
        parts |= {name: count * value for name, value in figures.items()}
        return self.total(parts, batch.weight, hyper)
