"""A policy-gradient experiment: a config with its environments and the pure functions of its run.

    init    key, hyperparameters -> state
    update  state, hyperparameters -> state, metrics       one rollout, and what is learned from it
    train   key, hyperparameters -> state, curve           a whole run

All three can be jitted and vmapped, over keys (seeds) and hyperparameters at once: one compilation
serves them all.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.envs.base import Environment, EpisodeList
from ragjax.envs.wrappers import (
    normalise_observations,
    normalise_rewards,
    normalised,
    observation_moments,
)
from ragjax.ops.distributions import MarginalCategorical
from ragjax.ops.health import retrieval_health
from ragjax.ops.noise import random_order
from ragjax.policy_config import PolicyConfig
from ragjax.training.loop import Program
from ragjax.training.optimizer import with_learning_rate
from ragjax.training.rollout import (
    RolloutCarry,
    episode_means,
    play_episodes,
    rollout,
    start,
    start_episodes,
)
from ragjax.training.step import TrainState, init_state, make_update
from ragjax.types import (
    Env,
    Hyperparameters,
    Leaf,
    Params,
    PolicyBatch,
    Retrieved,
    Rollout,
)


@struct.dataclass
class PolicyState:
    """All that a checkpoint of a policy's run holds.

    Attributes:
      train: optimiser steps, parameters, optimiser, key.
      rollout: where the environments stand, their normalisers included.
      actor: parameters of the behaviour policy where they lag behind, else None.
      index: [N,D] embeddings that a policy searches its passages by, or None.
      updates: [] rollouts made and learned from.
    """

    train: TrainState
    rollout: RolloutCarry
    actor: Params
    index: Leaf
    updates: Leaf


# Rollouts and evaluations take fold_in(fold_in(run key, one of these), update), apart from each other
# and from the optimiser's steps, which take fold_in(run key, step).
ROLLOUTS, EVALUATIONS = 2**32 - 1, 2**32 - 2


@dataclass(frozen=True)
class PolicyExperiment:
    """A config with the environments and functions that it stands for.

    Attributes:
      config: the config.
      answering: whether the policy is only to answer questions, not to play or to learn
        (`Environment.for_answering`).
    """

    config: PolicyConfig
    answering: bool = False

    @cached_property
    def prepared(self) -> Environment:
        """The environment of this seed, with what it has to load."""
        # The first use may be within a trace, but arrays among an environment's constants outlive it.
        with jax.ensure_compile_time_eval():
            return self.config.env.prepare(self.config.seed)

    @cached_property
    def raw_env(self) -> Env:
        """The batch of environments to learn in, without normalisers."""
        return self._build_env(self.config.algorithm.num_envs, "train")

    @cached_property
    def policy(self):
        """The policy's pure functions."""
        return self.config.policy.build(self.raw_env)

    @cached_property
    def optimizer(self):
        """The optax transformation."""
        return self.config.optimizer.build()

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The config's traced scalars."""
        return self.config.algorithm.hyperparameters(self.config.optimizer.learning_rate)

    def env(self, discount: Array) -> Env:
        """The environments to learn in; the reward's normaliser needs the discount."""
        env = self.raw_env
        if self.config.normalise_rewards:
            env = normalise_rewards(env, discount)
        if self.config.normalise_observations:
            env = normalise_observations(env)
        return env

    def init(self, key: Array, hyper: Hyperparameters) -> PolicyState:
        """The state before the first update."""
        init_key, env_key, run_key = jax.random.split(key, 3)
        params = self.policy.init(init_key)
        actor = params if self.config.algorithm.refresh_actor_every > 1 else None
        return PolicyState(
            init_state(params, self.optimizer, run_key),
            start(self.env(hyper.discount), env_key),
            jax.tree.map(jnp.copy, actor),
            self.policy.embed(params),
            jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: PolicyState, hyper: Hyperparameters
    ) -> tuple[PolicyState, dict[str, Array]]:
        """Makes one rollout and learns from it.

        Args:
          state: the run.
          hyper: traced scalars.

        Returns:
          The new state, and metrics: those of the loss, averaged over minibatches, skipped ones
          included; `episode_return`, `episode_length` and what else the environment reports of the
          episodes that ended (NaN if none did);
          `explained_variance` of the value targets; `env_steps`, made so far; and of a policy that
          retrieves those of `ops.health.retrieval_health`.
        """
        config, algorithm = self.config, self.config.algorithm
        key = jax.random.fold_in(jax.random.fold_in(state.train.key, ROLLOUTS), state.updates)
        rollout_key, reset_key, shuffle_key = jax.random.split(key, 3)
        params, env, carry = state.train.params, self.env(hyper.discount), state.rollout

        actor = state.actor
        if actor is not None:
            fresh = state.updates % algorithm.refresh_actor_every == 0
            actor = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), params, actor)
        acting = params if actor is None else actor
        index = state.index
        if index is not None:
            due = state.updates % self.policy.refresh_every == 0
            index = jnp.where(due, self.policy.embed(params), index)
        if algorithm.episodic:
            carry = start_episodes(self.raw_env, carry, reset_key)
        carry, steps = rollout(
            env,
            lambda seen: self.policy.apply(acting, seen)[0],
            carry,
            rollout_key,
            algorithm.rollout_length,
            episodic=algorithm.episodic,
            look=partial(self.policy.retrieve, acting, index),
        )
        batch = algorithm.targets(self.policy, params, steps, hyper)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

        left = 1.0 - state.updates / config.steps if config.optimizer.anneal else 1.0
        rate = jnp.asarray(hyper.learning_rate * left, jnp.float32)
        opt_state = with_learning_rate(state.train.opt_state, rate)
        train = TrainState(state.train.step, params, opt_state, state.train.key)
        train, metrics = self._learn(train, batch, shuffle_key, hyper)

        updates = state.updates + 1
        metrics |= {
            "explained_variance": explained_variance(batch),
            "env_steps": updates * algorithm.batch_size,
        }
        metrics |= episode_means(steps) | self._health(params, batch, steps)
        return PolicyState(train, carry, actor, index, updates), metrics

    def _health(self, params: Params, batch: PolicyBatch, steps: Rollout) -> dict[str, Array]:
        """Figures of the retriever before it learns from these steps, where it sums over passages."""
        if not isinstance(batch.observation, Retrieved):
            return {}
        distribution, _ = self.policy.apply(params, batch.observation)
        if not isinstance(distribution, MarginalCategorical):
            return {}
        ids, gold = batch.observation.ids, None
        if "gold" in steps.metrics:
            gold = ids == steps.metrics["gold"].reshape(-1, 1)
        posterior = distribution.log_posterior(distribution.executed(batch.action))
        passages = len(self.raw_env.passages)
        return retrieval_health(
            distribution.log_prior, posterior, ids, batch.weight, passages, gold
        )

    def _learn(
        self, train: TrainState, batch: PolicyBatch, key: Array, hyper: Hyperparameters
    ) -> tuple[TrainState, dict[str, Array]]:
        """Updates on every minibatch of every epoch, until the policy has moved too far."""
        algorithm = self.config.algorithm
        update = make_update(partial(algorithm.loss, self.policy), self.optimizer)
        if algorithm.epochs * algorithm.minibatches == 1:
            return update(train, batch, hyper)
        keys = jax.random.split(key, algorithm.epochs)
        orders = jax.vmap(lambda key: random_order(key, algorithm.batch_size))(keys)
        rows = orders.reshape(algorithm.epochs * algorithm.minibatches, -1)

        def learn(carry, rows):
            train, going = carry
            new, metrics = update(train, jax.tree.map(lambda leaf: leaf[rows], batch), hyper)
            if algorithm.target_kl:
                going &= metrics["kl"] <= algorithm.target_kl
                new = jax.tree.map(lambda new, old: jnp.where(going, new, old), new, train)
            return (new, going), metrics | {"updates_made": going}

        (train, _), metrics = jax.lax.scan(learn, (train, jnp.asarray(True)), rows)
        return train, {name: jnp.mean(values) for name, values in metrics.items()}

    def evaluate(
        self,
        state: PolicyState,
        episodes: int | None,
        *,
        split: str = "test",
        blind: bool = False,
    ) -> dict[str, dict[str, Array]]:
        """Plays whole episodes in fresh environments, with the normaliser's statistics as they are.

        Args:
          state: the run.
          episodes: drawn episodes of each kind, or None for `every_episode` of the split.
          split: of the questions, where the environment has any.
          blind: of a policy that retrieves, let it read the passages in a random order: what it searches
            and scores belongs to other passages than what it reads, the same ones all along.

        Returns:
          "greedy" (likeliest actions, with the likeliest passages where an estimator draws them) and
          "sampled" (as in rollouts) -> `return`, `length` and what else the environment reports of an
          episode, [episodes] each.
        """
        if episodes is None:
            listed = self.every_episode(split)
            assert listed is not None, "every_episode tells whether they can be listed"
            env, episodes = listed.env, len(listed.ids)
        else:
            env = self._evaluation_env(2 * episodes, split)
        key = jax.random.fold_in(jax.random.fold_in(state.train.key, EVALUATIONS), state.updates)
        greedy = jnp.arange(2 * episodes) < episodes
        policy, see = self.policy, self._seeing(state)
        if blind:
            spec: Any = self.config.policy  # one that retrieves, or nothing could be hidden from it
            passages = jnp.asarray(self.raw_env.passages)
            order = random_order(key, len(passages))
            policy = spec.build(self.raw_env, passages[order])

        def look(key, observation):
            seen = see(key, observation)
            if isinstance(seen, Retrieved) and seen.noise is not None:
                noise = jnp.where(greedy[:, None], 0.0, seen.noise)
                seen = dataclasses.replace(seen, noise=noise)
            return seen

        def act(seen):
            return policy.apply(state.train.params, seen)[0]

        played = play_episodes(env, act, key, self.config.env.limit, greedy, look=look)
        return {
            "greedy": {name: values[:episodes] for name, values in played.items()},
            "sampled": {name: values[episodes:] for name, values in played.items()},
        }

    def acting(self, state: PolicyState) -> Callable[[Array], Any]:
        """The policy that a run has learned: observation [E,O...] -> action distribution.

        Where an estimator draws passages, the likeliest ones are read.

        Args:
          state: the run, whose normaliser's statistics are taken as they are.
        """
        see = self._seeing(state)
        return lambda observation: self.policy.apply(state.train.params, see(None, observation))[0]

    def _seeing(self, state: PolicyState) -> Callable[[Array | None, Array], Any]:
        """(key, observation [E,O...]) -> what the policy acts on; without a key nothing is drawn."""
        moments = observation_moments(state.rollout.env_state)
        params = state.train.params
        index = self.policy.embed(params)

        def see(key, observation):
            if moments is not None:
                observation = normalised(moments, observation)
            return self.policy.retrieve(params, index, key, observation)

        return see

    @cached_property
    def _envs(self) -> dict[tuple[int, str], Env]:
        return {}

    def _evaluation_env(self, episodes: int, split: str) -> Env:
        """Fresh environments; those of one size are made once, since some live on the host."""
        if (episodes, split) not in self._envs:
            self._envs[episodes, split] = self._build_env(episodes, split)
        return self._envs[episodes, split]

    def _build_env(self, num_envs: int, split: str) -> Env:
        with jax.ensure_compile_time_eval():
            env = self.prepared.for_answering() if self.answering else self.prepared.on_split(split)
            return env.vectorise(num_envs)

    def every_episode(self, split: str) -> EpisodeList | None:
        """The episodes of a split, for both modes of playing; None where they can't be listed."""
        with jax.ensure_compile_time_eval():
            return self.prepared.on_split(split).every_episode(times=2)

    def figures(self, state: PolicyState) -> dict[str, Array]:
        """Mean returns while training: `eval/greedy_return` and `eval/sampled_return`.

        Also `eval/greedy_<name>` of what else the environment reports, and of a policy that retrieves
        `eval/retrieval_gain`, by how much the sampled return exceeds that of the blind policy.
        """
        during = self.config.evaluation.during
        played = self.evaluate(state, during, split="dev")
        found = {f"eval/{mode}_return": of["return"].mean() for mode, of in played.items()}
        found |= {
            f"eval/greedy_{name}": jnp.nanmean(values)
            for name, values in played["greedy"].items()
            if name not in ("return", "length")
        }
        if state.index is not None:
            blind = self.evaluate(state, during, split="dev", blind=True)
            blind = blind["sampled"]["return"].mean()
            found["eval/retrieval_gain"] = found["eval/sampled_return"] - blind
        return found

    def train(self, key: Array, hyper: Hyperparameters) -> tuple[PolicyState, dict[str, Array]]:
        """A whole run as one pure function.

        Args:
          key: PRNG key; that of seed n is `jax.random.PRNGKey(n)`.
          hyper: traced scalars.

        Returns:
          The last state, and the curve: figures [n] and `env_steps` [n] every `evaluation.every`
          updates (empty if that is 0).
        """
        steps, every = self.config.steps, self.config.evaluation.every or self.config.steps

        def several(state, count):
            body = lambda state, _: (self.update(state, hyper)[0], None)  # noqa: E731
            return jax.lax.scan(body, state, length=count)[0]

        def measured(state, _):
            state = several(state, every)
            figures = self.figures(state) if self.config.evaluation.every else {}
            made = state.updates * self.config.algorithm.batch_size
            return state, figures | {"env_steps": made}

        state, curve = jax.lax.scan(measured, self.init(key, hyper), length=steps // every)
        return several(state, steps % every), curve


def explained_variance(batch: PolicyBatch) -> Array:
    """1 - Var(G - V) / Var(G) over the steps that count; 0 where the targets don't vary."""
    weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)

    def variance(values):
        mean = jnp.sum(weight * values)
        return jnp.sum(weight * jnp.square(values - mean))

    total = variance(batch.value_target)
    rest = variance(batch.value_target - batch.value)
    return jnp.where(total > 0, 1.0 - rest / jnp.where(total > 0, total, 1.0), 0.0)


def stack_keys(seeds: Any) -> Array:
    """[n,2] keys of n seeds."""
    return jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])


def policy_program(experiment: PolicyExperiment, *, side_by_side: bool = False) -> Program:
    """The run of an experiment, for `training.loop.fit`.

    Args:
      experiment: the experiment.
      side_by_side: whether the state is that of several seeds, and all figures too.
    """
    config, hyper = experiment.config, experiment.hyperparameters
    update, figures = experiment.update, experiment.figures
    if side_by_side:
        update, figures = jax.vmap(update, in_axes=(0, None)), jax.vmap(figures)
    update, figures = jax.jit(update, donate_argnums=0), jax.jit(figures)

    def advance(state: PolicyState, step: int):
        del step
        return update(state, hyper)

    def evaluate(state: PolicyState, step: int) -> Mapping[str, Array]:
        del step
        return figures(state)

    return Program(
        total=config.steps,
        advance=advance,
        evaluate=evaluate,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.evaluation.every,
    )
