"""A policy that learns from rollouts: the life of an episode, and how it is measured."""

import contextlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.envs.base import Environment, EpisodeList
from ragjax.envs.wrappers import bind_env, env_data, normalise_observations, normalise_rewards
from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.play import play_policy, policy_inputs
from ragjax.learners.episode_questions import EpisodeQuestions
from ragjax.objectives.algorithm import explained_variance, retriever_figures
from ragjax.ops.masking import known_mean
from ragjax.ranges import BELOW
from ragjax.retrieval.corpus import IndexState
from ragjax.training.learner import Learner, Stage, State, step_keys, traced_scalars
from ragjax.training.rollout import episode_means, rollout, start, start_episodes
from ragjax.types import Env, Loss, Params, PolicyBatch, PolicyModel

DEVELOPMENT = 2**32 - 3  # what is chosen by is played with fold_in(run key, this) as the run's key


class EpisodesLearner(EpisodeQuestions):
    """A policy that learns from rollouts.

    Attributes:
      config: the `episodes.EpisodesConfig`.
      env: the environment's spec as this run uses it.
    """

    def __init__(self, config: Any, learning_env: Environment | None = None):
        """Prepares the environment, which may load a trained part.

        Args:
          config: an `episodes.EpisodesConfig`.
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
        return traced_scalars(self.config.hyper())

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
        return self.config.optimizer.build(list(params), self.config.steps, self.config.updates)

    def policy(self, data: Any) -> PolicyModel:
        """The policy's pure functions over the arrays of `data`."""
        return self.config.algorithm.model(self.config.policy, bind_env(self.raw_env, data))

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
    ) -> tuple[State, PolicyBatch, dict[str, Any]]:
        """Makes a rollout, and advantages and value targets of it.

        Returns:
          The state, the steps in no order, and metrics: `episode_return`, `episode_length` and what else
          the environment reports of the episodes that ended, if any did; `step_reward`, the mean of
          what is learned from, normalised if that is on; `explained_variance` of the value targets; and
          those of `objectives.algorithm.retriever_figures`.
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
            lambda seen: algorithm.act(policy, acting, seen, hyper, state.step),
            carry,
            keys.collect,
            algorithm.rollout_length,
            episodic=algorithm.episodic,
            inputs=partial(policy.retrieve, acting, index and index.embeddings),
        )

        # What is learned from it
        drawn = jax.random.fold_in(keys.reset, 1)  # not the one by which episodes began
        batch, extra = algorithm.batch(policy, state.params, steps, hyper, key=drawn, extra=extra)
        metrics = {
            "step_reward": jnp.mean(steps.reward, where=steps.weight > 0),
            "explained_variance": explained_variance(batch),
        }
        metrics |= episode_means(steps)
        metrics |= retriever_figures(policy, state.params, batch, steps, data)
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

    def resume(self, state: State) -> tuple[State, list[str]]:
        """Starts episodes anew where their environments lived outside JAX."""
        if self.config.env.traceable:
            return state, []
        key = jax.random.fold_in(state.key, state.step)
        carry = start_episodes(self.raw_env, state.carry, key)
        # Observations stand in it twice, but what is donated must have a buffer of its own.
        state = state.replace(carry=jax.tree.map(jnp.copy, carry))
        return state, ["its environments lived outside JAX: their episodes start anew"]

    @property
    def environments(self) -> int:
        """E."""
        return self.config.algorithm.num_envs

    def counts(self, steps: int) -> dict[str, int]:
        """`env_steps`, which the device's integers may be too short for."""
        return {"env_steps": steps * self.config.algorithm.batch_size}

    def play(
        self,
        state: State,
        episodes: int | None,
        *,
        split: str = "test",
        blind: bool = False,
        data: Any = None,
    ) -> dict[str, dict[str, Any]]:
        """Plays whole episodes, see `evaluation.play.play_policy`.

        Args:
          state: the run.
          episodes: drawn episodes of each mode, or None for every episode that the split has.
          split: of the questions, where the environment has any.
          blind: whether the passages that are read are others than those that are found.
          data: the arrays of these environments (`env_data`) where they are traced.
        """
        env, count = self.evaluation_env(episodes, split)
        env = env if data is None else bind_env(env, data)
        shape = {"count": count, "limit": self.config.env.limit}
        return play_policy(state, self.config.policy, env, **shape, blind=blind)

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

        Where an estimator draws passages, the likeliest are read; normalisers stay as the run has them.
        """
        policy = self.policy(self.data)
        inputs = policy_inputs(state, policy)
        return lambda observation: policy.apply(state.params, inputs(None, observation))[0]

    def figures(self, state: State, data: Any = None) -> dict[str, Any]:
        """Mean returns while training: `eval/greedy_return` and `eval/sampled_return`.

        Also `eval/greedy_<name>` of what else the environment reports, and of a policy that retrieves
        `eval/retrieval_gain`, by how much the sampled return exceeds that of the blind policy. For the
        arguments see `play`.
        """
        during = self.config.evaluation.during
        played = self.play(state, during, split="dev", data=data)
        found: dict[str, Any] = {
            f"eval/{mode}_return": of["return"].mean() for mode, of in played.items()
        }
        found |= {
            f"eval/greedy_{name}": known_mean(values)
            for name, values in played["greedy"].items()
            if name not in ("return", "length")
        }
        if state.index is not None:
            blind = self.play(state, during, split="dev", blind=True, data=data)["sampled"]
            found["eval/retrieval_gain"] = found["eval/sampled_return"] - blind["return"].mean()
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
        require(episodes is None or episodes < BELOW, f"--episodes is {episodes}; play fewer.")
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

    def development(
        self, state: State, *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, Any]:
        """Of the development split, or of episodes drawn apart from those of `evaluate`."""
        if self.config.env.splits:
            return super().development(state, progress=progress)
        apart = state.replace(key=jax.random.fold_in(state.key, DEVELOPMENT))
        source = "episodes of other random keys than those of the final figures"
        return {"source": source} | self.evaluate(apart)[0].summary()

    def answer(self, state: State, text: str, *, force: bool = False) -> dict[str, Any]:
        """Lets the policy answer one question, where its environment is one of questions."""
        require(
            not force, "--force is for runs of questions; a policy decides to abstain by itself."
        )
        answered = self.env.answer(self._unplayed.acting(state), text)
        if answered is None:
            raise UserError(
                f"This run is a policy for environment {self.config.env.name}, which answers no "
                "questions; name a run of questions, or of an agent that answers them."
            )
        return answered

    def origins(self, seed: int) -> dict[str, Any]:
        """The runs that the environment is built on."""
        del seed  # several seeds share one environment
        return self.env.origins()

    def facts(self, state: State, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """Steps of the environments, and the learning curve."""
        del state, seed
        measured = [row for row in rows if "eval/greedy_return" in row]
        curve = {
            "env_steps": [self.counts(row["step"])["env_steps"] for row in measured],
            "greedy": [row["eval/greedy_return"] for row in measured],
            "sampled": [row["eval/sampled_return"] for row in measured],
        }
        return self.counts(self.config.steps) | {"curve": curve}

    def notes(self) -> list[str]:
        """See `Learner.notes`."""
        return self.config.notes

    def first_batch(self) -> list[str]:
        """What the first environment shows after its reset."""
        key = jax.random.PRNGKey(self.config.seed)
        with self.guard():
            shown = np.asarray(self.init(key, self.hyper, self.data).carry.timestep.observation)[0]
        numbers = np.array2string(shown, precision=3, threshold=20)
        return [f"observation {shown.shape}: {numbers}", f"{self.raw_env.num_actions} actions"]
