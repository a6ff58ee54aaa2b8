"""Learning from episodes: a policy, by policy gradients on vectorised environments."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.config import Config
from ragjax.envs.base import Environment, EpisodeList
from ragjax.envs.wrappers import (
    normalise_observations,
    normalise_rewards,
    normalised,
    observation_moments,
)
from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes
from ragjax.models.policy import ActorCritic, Policy
from ragjax.objectives.algorithm import Algorithm
from ragjax.ops.augmentation import random_order
from ragjax.ops.distributions import MarginalCategorical
from ragjax.ops.health import retrieval_health
from ragjax.retrieval.corpus import IndexState
from ragjax.training.learner import Learner, Stage, State, step_keys, traced_scalars
from ragjax.training.optimizer import Adam, Optimizer
from ragjax.training.rollout import (
    episode_means,
    play_episodes,
    rollout,
    start,
    start_episodes,
)
from ragjax.types import Env, Loss, Params, PolicyBatch, PolicyModel, Retrieved, Rollout

EVALUATIONS = 2**32 - 2  # evaluations take fold_in(fold_in(run key, this), step)


@dataclass(frozen=True)
class EpisodeEvaluation:
    """How a policy is measured: whole episodes in fresh environments, with and without drawing.

    Attributes:
      episodes: episodes of the final figures, of an environment that can't list its episodes.
      every: steps between measurements while training, the last step included; 0 for none.
      during: episodes of each of those.
    """

    episodes: int = 100
    every: int = 50
    during: int = 20

    def __post_init__(self):
        """Checks the fields."""
        for name in ("episodes", "during"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{name} is {value}; it must be at least 1.")
        require(self.every >= 0, f"evaluation.every is {self.every}; it must not be negative.")


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig(Config):
    """One policy-gradient experiment. A step of the run is one rollout and what is learned from it.

    Attributes:
      env: the environment.
      algorithm: rollout, targets and loss.
      policy: the policy and its critic.
      env_steps: budget, in steps of all environments together; whole rollouts within it are made, and
        none by a policy that learns nothing.
      normalise_observations: whether observations are shifted and scaled by what was seen so far.
      normalise_rewards: whether rewards are divided by the deviation of the discounted return so far.
      evaluation: how the policy is measured.
    """

    records: ClassVar[type[Episodes]] = Episodes

    env: Environment
    algorithm: Algorithm
    policy: Policy = field(default_factory=ActorCritic)
    optimizer: Optimizer = field(default_factory=Adam.for_policies)
    env_steps: int = 500_000
    normalise_observations: bool = False
    normalise_rewards: bool = False
    evaluation: EpisodeEvaluation = field(default_factory=EpisodeEvaluation)

    def __post_init__(self):
        """Checks what single components can't."""
        super().__post_init__()
        require(
            self.num_seeds == 1 or self.env.same_for_all_seeds(),
            f"num_seeds is {self.num_seeds}, but environment {self.env.name} has a trained part of its "
            "own for each seed; train the seeds one after another with --seed.",
        )
        require(
            self.num_seeds == 1 or self.env.traceable,
            f"num_seeds is {self.num_seeds}, but environment {self.env.name} lives outside JAX and "
            "can't run several seeds in one program; train them one after another with --seed.",
        )
        require(
            not self.policy.learns or self.env_steps >= self.algorithm.batch_size,
            f"env_steps is {self.env_steps}, less than the {self.algorithm.batch_size} steps of one "
            "rollout (algorithm.num_envs x algorithm.rollout_length); raise it.",
        )
        require(
            not (self.normalise_observations and self.env.history),
            "normalise_observations is on together with env.history, but it would rescale the marks and "
            "actions of the steps that a history holds; turn one of them off.",
        )
        require(
            self.optimizer.accumulate == 1,
            f"optimizer.accumulate is {self.optimizer.accumulate}, but a policy's batches are divided "
            "by algorithm.minibatches; leave it at 1.",
        )

    @property
    def steps(self) -> int:
        """Rollouts of the whole run; none for a policy that learns nothing."""
        return self.env_steps // self.algorithm.batch_size if self.policy.learns else 0

    @property
    def evaluate_every(self) -> int:
        """Steps between measurements."""
        return self.evaluation.every

    @property
    def subject(self) -> str:
        """Name of the environment."""
        return self.env.name

    def create(self) -> "EpisodesLearner":
        """Prepares the environment."""
        return EpisodesLearner(self)

    def load(self, run_dir: Path) -> "EpisodesLearner":
        """The same: nothing of the environment is kept in the run's directory."""
        del run_dir
        return EpisodesLearner(self)


class EpisodesLearner(Learner):
    """A policy that learns from rollouts.

    Attributes:
      config: the config.
      env: the environment's spec as this run uses it.
    """

    def __init__(self, config: EpisodesConfig, learning_env: Environment | None = None):
        """Prepares the environment, which may load a trained part.

        Args:
          config: the config.
          learning_env: what is learned in; the training split of the config's environment if None.
        """
        self.config = config
        with jax.ensure_compile_time_eval():
            self.env = config.env.prepare(config.seed) if learning_env is None else learning_env
        self._learning_env = learning_env
        self._envs: dict[tuple[int | None, str], tuple[Env, int]] = {}
        self._plays: dict[tuple[int | None, str], Callable[..., Any]] = {}

    # What a run is made of

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """One stage: all rollouts have one shape."""
        algorithm = self.config.algorithm
        return (
            Stage(
                self.config.steps,
                epochs=algorithm.epochs,
                minibatches=algorithm.minibatches,
                shuffle=True,
                target_kl=algorithm.target_kl,
            ),
        )

    @cached_property
    def hyper(self) -> dict[str, Array]:
        """The algorithm's and the optimiser's traced scalars."""
        return traced_scalars(self.config.optimizer.hyper() | self.config.algorithm.hyper())

    @cached_property
    def raw_env(self) -> Env:
        """The batch of environments to learn in, without normalisers."""
        # The first use may be within a trace, but arrays among an environment's constants outlive it.
        with jax.ensure_compile_time_eval():
            env = self._learning_env or self.env.on_split("train")
            return env.vectorise(self.config.algorithm.num_envs)

    @cached_property
    def _unplayed(self) -> "EpisodesLearner":
        """The same over an environment of the same shapes that is quick to make: to answer with."""
        return EpisodesLearner(self.config, self.env.for_answering())

    def state_shapes(self) -> State:
        """The shapes of `init`, for which an environment need not be able to play."""
        return Learner.state_shapes(self._unplayed if self._learning_env is None else self)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The environment's constants and the passages that a policy retrieves from."""
        return env_data(self.raw_env)

    @cached_property
    def optimizer(self):
        """The optax transformation."""
        params = jax.eval_shape(self.policy(self.data).init, jax.random.PRNGKey(0))
        algorithm, steps = self.config.algorithm, self.config.steps
        updates = steps * algorithm.epochs * algorithm.minibatches
        return self.config.optimizer.build(list(params), steps, updates)

    def policy(self, data: Any) -> PolicyModel:
        """The policy's pure functions over the arrays of `data`."""
        return self.config.policy.build(bind_env(self.raw_env, data))

    def learning_env(self, data: Any, discount: Array) -> Env:
        """The environments to learn in; the reward's normaliser needs the discount."""
        env = bind_env(self.raw_env, data)
        if self.config.normalise_rewards:
            env = normalise_rewards(env, discount)
        if self.config.normalise_observations:
            env = normalise_observations(env)
        return env

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Within it the environment's functions may run."""
        return self.env.guard()

    # The life of an episode

    def init(self, key: Array, hyper: dict[str, Array], data: Any) -> State:
        """The state before the first rollout."""
        init_key, env_key, run_key = jax.random.split(key, 3)
        policy = self.policy(data)
        params = policy.init(init_key)
        index = None
        if policy.embed is not None:
            index = IndexState(policy.embed(params), jnp.full((), -1, jnp.int32))
        carry = start(self.learning_env(data, hyper["discount"]), env_key)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            key=run_key,
            index=index,
            carry=carry,
            extra=self.config.algorithm.begin(policy, params, carry.timestep),
        )

    def collect(
        self, state: State, fed: Any, *, stage: Stage, hyper: dict[str, Array], data: Any
    ) -> tuple[State, PolicyBatch, dict[str, Array]]:
        """Makes a rollout, and advantages and value targets of it.

        Returns:
          The state, the steps in no order, and metrics: `episode_return`, `episode_length` and what else
          the environment reports of the episodes that ended (NaN if none did); `explained_variance` of
          the value targets; `env_steps`, made so far; and of a policy that retrieves those of
          `ops.health.retrieval_health`.
        """
        del fed, stage
        algorithm, policy, keys = self.config.algorithm, self.policy(data), step_keys(state)
        env, carry = self.learning_env(data, hyper["discount"]), state.carry

        # Act
        acting, extra = algorithm.behave(state.params, state.extra, state.step)
        index = state.index
        if index is not None:
            due = (index.built_at_step < 0) | (
                state.step - index.built_at_step >= policy.refresh_every
            )
            embed: Any = policy.embed  # there is one, for there is an index
            embeddings = jax.lax.cond(due, lambda: embed(state.params), lambda: index.embeddings)
            index = IndexState(embeddings, jnp.where(due, state.step, index.built_at_step))
        if algorithm.episodic:
            carry = start_episodes(bind_env(self.raw_env, data), carry, keys.reset)
        carry, steps = rollout(
            env,
            lambda seen: algorithm.explore(policy.apply(acting, seen)[0], hyper, state.step),
            carry,
            keys.collect,
            algorithm.rollout_length,
            episodic=algorithm.episodic,
            look=partial(policy.retrieve, acting, index and index.embeddings),
        )

        # What is learned from it
        batch, extra = algorithm.batch(
            policy, state.params, steps, hyper, key=keys.reset, extra=extra
        )
        metrics = {
            "explained_variance": explained_variance(batch),
            "env_steps": (state.step + 1) * algorithm.batch_size,
        }
        metrics |= episode_means(steps) | self._health(policy, state.params, batch, steps, data)
        return state.replace(index=index, carry=carry, extra=extra), batch, metrics

    def loss(
        self,
        params: Params,
        key: Array,
        batch: PolicyBatch,
        *,
        stage: Stage,
        state: State,
        hyper: dict[str, Array],
        data: Any,
    ) -> Loss:
        """The algorithm's loss."""
        del stage
        algorithm = self.config.algorithm
        return algorithm.loss(self.policy(data), params, key, batch, hyper, extra=state.extra)

    def _health(
        self, policy: PolicyModel, params: Params, batch: PolicyBatch, steps: Rollout, data: Any
    ) -> dict[str, Array]:
        """Figures of the retriever before it learns from these steps, where it sums over passages."""
        if not isinstance(batch.observation, Retrieved):
            return {}
        distribution, _ = policy.apply(params, batch.observation)
        if not isinstance(distribution, MarginalCategorical):
            return {}
        ids, gold = batch.observation.ids, None
        if "gold" in steps.metrics:
            gold = ids == steps.metrics["gold"].reshape(-1, 1)
        posterior = distribution.log_posterior(distribution.executed(batch.action))
        passages = len(data["passages"])
        return retrieval_health(
            distribution.log_prior, posterior, ids, batch.weight, passages, gold
        )

    def resume(self, state: State) -> tuple[State, list[str]]:
        """Starts episodes anew where their environments lived outside JAX."""
        if self.config.env.traceable:
            return state, []
        key = jax.random.fold_in(state.key, state.step)
        carry = start_episodes(self.raw_env, state.carry, key)
        # Observations stand in it twice, but what is donated must have a buffer of its own.
        state = state.replace(carry=jax.tree.map(jnp.copy, carry))
        return state, ["its environments lived outside JAX: their episodes start anew"]

    # Measuring

    def play(
        self,
        state: State,
        episodes: int | None,
        *,
        split: str = "test",
        blind: bool = False,
        data: Any = None,
    ) -> dict[str, dict[str, Array]]:
        """Plays whole episodes in fresh environments, with the normaliser's statistics as they are.

        Args:
          state: the run.
          episodes: drawn episodes of each mode, or None for every episode that the split has.
          split: of the questions, where the environment has any.
          blind: of a policy that retrieves, let it read the passages in a random order: what it searches
            and scores belongs to other passages than what it reads, the same ones all along.
          data: the arrays of these environments (`env_data`) where they are traced.

        Returns:
          "greedy" (likeliest actions, with the likeliest passages where an estimator draws them) and
          "sampled" (as in rollouts) -> `return`, `length` and what else the environment reports of an
          episode, [episodes] each.
        """
        env, count = self.evaluation_env(episodes, split)
        data = env_data(env) if data is None else data
        key = jax.random.fold_in(jax.random.fold_in(state.key, EVALUATIONS), state.step)
        greedy = jnp.arange(2 * count) < count
        env, spec = bind_env(env, data), self.config.policy
        policy = spec.build(env)
        see = _seeing(state, policy)
        if blind:
            passages = jnp.asarray(data["passages"])
            order = random_order(key, len(passages))
            policy = spec.build(env, passages[order])

        def look(key, observation):
            seen = see(key, observation)
            if isinstance(seen, Retrieved) and seen.noise is not None:
                noise = jnp.where(greedy[:, None], 0.0, seen.noise)
                seen = dataclasses.replace(seen, noise=noise)
            return seen

        def act(seen):
            return policy.apply(state.params, seen)[0]

        played = play_episodes(env, act, key, self.config.env.limit, greedy, look=look)
        return {
            "greedy": {name: values[:count] for name, values in played.items()},
            "sampled": {name: values[count:] for name, values in played.items()},
        }

    def listed(self, split: str) -> EpisodeList | None:
        """Every episode of a split, for both modes of playing; None where they can't be listed."""
        with jax.ensure_compile_time_eval():
            return self.env.on_split(split).every_episode(times=2)

    def evaluation_env(self, episodes: int | None, split: str) -> tuple[Env, int]:
        """2n fresh environments, and n; those of one size are made once, since some live on the host.

        Args:
          episodes: n, or None for as many as the split's episodes.
          split: its name.
        """
        if (episodes, split) not in self._envs:
            if episodes is None:
                listed = self.listed(split)
                assert listed is not None, (
                    "only an environment that lists episodes has a number of them"
                )
                self._envs[episodes, split] = listed.env, len(listed.ids)
            else:
                with jax.ensure_compile_time_eval():
                    env = self.env.on_split(split).vectorise(2 * episodes)
                self._envs[episodes, split] = env, episodes
        return self._envs[episodes, split]

    def acting(self, state: State) -> Callable[[Array], Any]:
        """The policy that a run has learned: observation [E,O...] -> action distribution.

        Where an estimator draws passages, the likeliest ones are read.

        Args:
          state: the run, whose normaliser's statistics are taken as they are.
        """
        policy = self.policy(self.data)
        see = _seeing(state, policy)
        return lambda observation: policy.apply(state.params, see(None, observation))[0]

    def figures(self, state: State, data: Any = None) -> dict[str, Array]:
        """Mean returns while training: `eval/greedy_return` and `eval/sampled_return`.

        Also `eval/greedy_<name>` of what else the environment reports, and of a policy that retrieves
        `eval/retrieval_gain`, by how much the sampled return exceeds that of the blind policy.

        Args:
          state: the run.
          data: as in `play`.
        """
        during = self.config.evaluation.during
        played = self.play(state, during, split="dev", data=data)
        found = {f"eval/{mode}_return": of["return"].mean() for mode, of in played.items()}
        found |= {
            f"eval/greedy_{name}": jnp.nanmean(values)
            for name, values in played["greedy"].items()
            if name not in ("return", "length")
        }
        if state.index is not None:
            blind = self.play(state, during, split="dev", blind=True, data=data)
            blind = blind["sampled"]["return"].mean()
            found["eval/retrieval_gain"] = found["eval/sampled_return"] - blind
        return found

    @cached_property
    def _figures(self):
        return jax.jit(self.figures)

    def measure(self, state: State) -> dict[str, Any]:
        """The figures of `figures`, by one program."""
        env, _ = self.evaluation_env(self.config.evaluation.during, "dev")
        return self._figures(state, env_data(env))

    def evaluate(
        self,
        state: State,
        split: str | None = None,
        *,
        episodes: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Episodes, dict[str, Any]]:
        """Plays whole episodes with likeliest and with drawn actions."""
        del progress  # one program, which tells nothing until it ends
        known = self.config.env.splits
        if split is not None:
            require(
                bool(known),
                f"--split is {split!r}, but environment {self.config.env.name} has no questions that "
                "are split; leave it out.",
            )
            require(split in known, f"--split is {split!r}; choose one of {', '.join(known)}.")
        split = split or "test"
        listed = self.listed(split)
        require(
            listed is None or episodes is None,
            f"--episodes is {episodes}, but environment {self.config.env.name} plays each episode of "
            "the split once; leave it out.",
        )
        if listed is None and episodes is None:
            episodes = self.config.evaluation.episodes
        require(episodes is None or episodes >= 1, f"--episodes is {episodes}; play at least 1.")
        env, _ = self.evaluation_env(episodes, split)
        if (episodes, split) not in self._plays:  # compiled once for all states
            play = partial(self.play, episodes=episodes, split=split)
            self._plays[episodes, split] = jax.jit(lambda state, arrays: play(state, data=arrays))
        facts: dict[str, Any] = {"environment": self.config.env.name, "seed": self.config.seed}
        if known:
            facts["split"] = split
        with self.guard():
            played = jax.device_get(self._plays[episodes, split](state, env_data(env)))
        names = {} if listed is None else {"ids": listed.ids, "kinds": listed.kinds}
        return Episodes.from_played(played, **names), facts

    def answer(self, state: State, text: str) -> dict[str, Any]:
        """Lets the policy answer one question, where its environment is one of questions."""
        answered = self.env.answer(self._unplayed.acting(state), text)
        if answered is None:
            raise UserError(
                f"This run is a policy for environment {self.config.env.name}, which answers no "
                "questions; name a run of questions, or of an agent that answers them."
            )
        return answered

    def facts(self, state: State, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Steps of the environments, the learning curve, and what the environment says of itself."""
        del state
        size = self.config.algorithm.batch_size
        measured = [row for row in rows if "eval/greedy_return" in row]
        curve = {
            "env_steps": [row["step"] * size for row in measured],
            "greedy": [row["eval/greedy_return"] for row in measured],
            "sampled": [row["eval/sampled_return"] for row in measured],
        }
        return {"env_steps": self.config.steps * size, "curve": curve} | self.env.facts()

    def first_batch(self) -> list[str]:
        """What the first environment shows after its reset."""
        with self.guard():
            state = self.init(jax.random.PRNGKey(self.config.seed), self.hyper, self.data)
            shown = np.asarray(state.carry.timestep.observation)
        return [
            f"observation {shown.shape[1:]} of environment 0: "
            + np.array2string(shown[0], precision=3, threshold=20),
            f"{self.raw_env.num_actions} actions",
        ]


def env_data(env: Env) -> dict[str, Any]:
    """The arrays of an environment that programs take as an argument: passages, tables of questions.

    Scalars, such as the constants of its physics, are left out: compiled in, they are folded.
    """
    arrays = jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) else None, env.params)
    return {"env": arrays, "passages": env.passages}


def bind_env(env: Env, data: Any) -> Env:
    """An environment over the arrays of `env_data`, which may be traced."""
    params = jax.tree.map(
        lambda own, given: own if given is None else given,
        env.params,
        data["env"],
        is_leaf=lambda leaf: leaf is None,
    )
    return env._replace(params=params, passages=data["passages"])


def _seeing(state: State, policy: PolicyModel) -> Callable[[Array | None, Array], Any]:
    """(key, observation [E,O...]) -> what the policy acts on; without a key nothing is drawn."""
    moments = observation_moments(state.carry.env_state)
    index = None if policy.embed is None else policy.embed(state.params)

    def see(key, observation):
        if moments is not None:
            observation = normalised(moments, observation)
        return policy.retrieve(state.params, index, key, observation)

    return see


def explained_variance(batch: PolicyBatch) -> Array:
    """1 - Var(G - V) / Var(G) over the steps that count; 0 where the targets don't vary."""
    weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)

    def variance(values):
        mean = jnp.sum(weight * values)
        return jnp.sum(weight * jnp.square(values - mean))

    total = variance(batch.value_target)
    rest = variance(batch.value_target - batch.value)
    return jnp.where(total > 0, 1.0 - rest / jnp.where(total > 0, total, 1.0), 0.0)
