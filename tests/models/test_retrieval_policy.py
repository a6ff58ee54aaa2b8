"""Policies that retrieve, against the sum over passages written out."""

import itertools
import json
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted
from tiny_env import TinyMdp

from ragjax.config import config_json, from_json
from ragjax.envs.cartpole import CartPole
from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodesConfig
from ragjax.models.hybrid import Hybrid
from ragjax.models.retrieval_policy import RetrievalPolicy, two_matrices
from ragjax.objectives import algorithm
from ragjax.objectives.ppo import PPO
from ragjax.ops.distributions import MarginalCategorical
from ragjax.overrides import override
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.fixed import Oracle
from ragjax.training.rollout import rollout, start
from ragjax.types import PolicyBatch, Retrieved, Rollout

SPEC = Lookup(passages=6, actions=3, key_width=4, steps=2, time_limit=2)
WHOLE = Lookup(passages=6, actions=3, key_width=4, steps=2, time_limit=2, history=True)
E, K = 5, 3


class WithoutParts(Lookup):
    """`Lookup` that does not say what its passages are joined of."""

    def build(self):
        return super().build()._replace(passage_parts=None)


WITHOUT_PARTS = WithoutParts(passages=6, actions=3)


def built(spec, env, seed=0):
    """The policy, its parameters made larger than at the start, and its index."""
    policy = jitted(spec.build(env))
    params = policy.init(jax.random.PRNGKey(seed))
    params = jax.tree.map(
        lambda leaf: (
            leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)
        ),
        params,
    )
    return policy, params, policy.embed(params)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def test_the_k_best_passages_are_retrieved_and_scored():
    env = jitted(SPEC.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K, hidden=(8,), retriever=two_matrices(8)), env)
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    seen = policy.retrieve(params, index, None, observation)
    distribution, value = policy.apply(params, seen)
    tower = params["retriever"]
    query = np.asarray(observation) @ np.asarray(tower["observed"]["Dense_0"]["kernel"])
    stored = np.asarray(env.passages) @ np.asarray(tower["stored"]["Dense_0"]["kernel"])
    query, stored = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, stored))
    scores = np.exp(float(tower["log_scale"])) * query @ stored.T
    for row in range(E):
        best = np.argsort(-scores[row])[:K]
        np.testing.assert_array_equal(seen.ids[row], best)
        np.testing.assert_allclose(
            np.exp(distribution.log_prior[row]), softmax(scores[row, best]), rtol=1e-4
        )
    assert value.shape == (E,)
    np.testing.assert_allclose(np.exp(distribution.log_probs).sum(axis=-1), 1, rtol=1e-5)


def test_a_miss_counts_for_nothing():
    env = jitted(SPEC.vectorise(E))
    policy, params, _ = built(RetrievalPolicy(k=K), env)
    observation = jnp.ones((E, *env.low.shape))
    ids = jnp.tile(jnp.array([4, 1, -1], jnp.int32), (E, 1))
    with_miss, value = policy.apply(params, Retrieved(observation, ids, None))
    without, other = policy.apply(params, Retrieved(observation, ids[:, :2], None))
    np.testing.assert_allclose(with_miss.log_probs, without.log_probs, atol=1e-6)
    np.testing.assert_allclose(value, other, atol=1e-6)


def test_the_critic_does_not_train_the_retriever():
    env = jitted(SPEC.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K), env)
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    seen = policy.retrieve(params, index, None, observation)
    gradient = jax.grad(lambda params: jnp.sum(policy.apply(params, seen)[1]))(params)
    for group in ("retriever", "policy"):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient[group]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["value"]))


@pytest.mark.parametrize("estimator", ["marginal", "sampled", "gumbel", "attention"])
def test_what_was_acted_on_gives_the_same_probabilities_again(estimator):
    """With an index of other parameters, too: the ratio of acting to learning starts at exactly 1."""
    env = jitted(SPEC.vectorise(E))
    spec = RetrievalPolicy(k=K, estimator=estimator)
    policy, params, _ = built(spec, env)
    stale = built(spec, env, seed=7)[2]
    carry = start(env, jax.random.PRNGKey(2))

    def act(seen):
        return policy.apply(params, seen)[0]

    def look(key, observation):
        return policy.retrieve(params, stale, key, observation)

    _, made = jax.jit(
        lambda carry: rollout(env, act, carry, jax.random.PRNGKey(3), 4, inputs=look)
    )(carry)
    again = policy.apply(params, made.observation)[0]
    np.testing.assert_allclose(made.log_probs, again.log_probs, atol=1e-6)
    assert made.observation.ids.shape == (4, E, K)
    # Retrieving anew would be another policy: the index chooses other passages.
    fresh = policy.retrieve(params, policy.embed(params), None, made.observation.observation)
    assert np.any(np.sort(fresh.ids) != np.sort(made.observation.ids))
    if estimator in ("marginal", "attention"):
        other = policy.apply(params, fresh)[0].log_probs
        assert np.max(np.abs(other - made.log_probs)) > 1e-2


def test_figures_of_a_retriever_are_of_the_action_that_was_taken(monkeypatch):
    """Which is not the choice, where passage and action are drawn together."""
    told = []
    monkeypatch.setattr(algorithm, "retrieval_figures", lambda *given: told.append(given) or {})
    env = jitted(SPEC.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K, estimator="sampled"), env)
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    seen = policy.retrieve(params, index, None, observation)
    choice = policy.apply(params, seen)[0].sample(jax.random.PRNGKey(2))
    assert np.any(choice >= SPEC.actions)
    batch = PolicyBatch(seen, choice, *[jnp.ones(E)] * 5)
    steps = Rollout(*[None] * 9, metrics={})
    algorithm.retriever_figures(policy, params, batch, steps, {"passages": env.passages})
    [(_, log_posterior, ids, weight, count, gold)] = told
    assert (count, gold) == (6, None)
    np.testing.assert_array_equal(weight, batch.weight)
    for row in range(E):
        prior, read, _ = by_hand(params, env.passages, observation[row], ids[row])
        posterior = prior * read[:, int(choice[row]) % SPEC.actions]
        np.testing.assert_allclose(
            np.exp(log_posterior[row]), posterior / posterior.sum(), rtol=1e-4
        )


def by_hand(tree, passages, observation, ids):
    """(prior [K], π(a|s,d) [K,A], v(s,d) [K]) of one observation over given passages, in float64."""
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    observation, features = (
        np.asarray(x, np.float64) for x in (observation, np.asarray(passages)[ids])
    )

    def perceptron(layers, x):
        hidden = np.tanh(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
        return hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]

    tower = tree["retriever"]
    query = observation @ tower["observed"]["Dense_0"]["kernel"]
    stored = features @ tower["stored"]["Dense_0"]["kernel"]
    query, stored = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, stored))
    prior = softmax(np.exp(tower["log_scale"]) * stored @ query)
    both = np.concatenate([np.tile(observation, (len(ids), 1)), features], axis=-1)
    read = [softmax(logits) for logits in perceptron(tree["policy"], both)]
    return prior, np.array(read), perceptron(tree["value"], both)[:, 0]


def ppo_by_hand(old, new, passages, batch, clip):
    """The figures of PPO by the sum over passages, batch.observation.ids, written out for every step."""
    out = dict.fromkeys(("policy_loss", "kl", "clip_fraction"), 0.0)
    for row, observation in enumerate(batch.observation.observation):
        ids, action = batch.observation.ids[row], batch.action[row]
        then, now = (
            prior @ read
            for prior, read, _ in (by_hand(tree, passages, observation, ids) for tree in (old, new))
        )
        ratio, advantage = now[action] / then[action], float(batch.advantage[row])
        bounded = np.clip(ratio, 1 - clip, 1 + clip)
        out["policy_loss"] -= min(ratio * advantage, bounded * advantage)
        out["kl"] += then @ np.log(then / now)
        out["clip_fraction"] += abs(ratio - 1) > clip
    return {name: value / len(batch.action) for name, value in out.items()}


def test_ppos_ratio_is_that_of_the_passages_acted_on():
    """Index and parameters have both moved since: the marginals are over the stored passages."""
    env = jitted(SPEC.vectorise(E))
    spec = RetrievalPolicy(k=K, hidden=(8,), retriever=two_matrices(8))
    policy, old, _ = built(spec, env)
    algorithm = PPO(
        num_envs=E, rollout_length=4, minibatches=1, normalise_advantage=False, clip_eps=0.1
    )
    hyper = {name: jnp.float32(value) for name, value in algorithm.hyper().items()}
    stale = built(spec, env, seed=7)[2]  # as if the index had not been refreshed for long
    new = jax.tree.map(lambda old, other: (old + other) / 2, old, built(spec, env, seed=3)[1])

    @jax.jit
    def learn(key):
        _, made = rollout(
            env,
            lambda seen: policy.apply(old, seen)[0],
            start(env, key),
            key,
            4,
            inputs=lambda key, observation: policy.retrieve(old, stale, key, observation),
        )
        batch, _ = algorithm.batch(policy, old, made, hyper, key=key, extra=None)
        refreshed = policy.retrieve(new, policy.embed(new), None, batch.observation.observation)
        return batch, refreshed, algorithm.loss(policy, new, key, batch, hyper)

    batch, refreshed, loss = jax.device_get(learn(jax.random.PRNGKey(3)))
    expected = ppo_by_hand(old, new, env.passages, batch, algorithm.clip_eps)
    assert 0 < expected["clip_fraction"] < 1
    for name, value in expected.items():
        total, count = loss.metrics[name]
        np.testing.assert_allclose(total / count, value, rtol=1e-3, err_msg=name)
    # Retrieved anew, other passages would be summed over, and all of this be something else.
    assert np.any(np.sort(refreshed.ids) != np.sort(batch.observation.ids))
    anew = ppo_by_hand(
        old, new, env.passages, batch.replace(observation=refreshed), algorithm.clip_eps
    )
    assert all(abs(anew[name] - value) > 0.01 * abs(value) for name, value in expected.items())


def test_gumbel_draws_other_passages_with_every_key():
    env = jitted(SPEC.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K, estimator="gumbel"), env)
    observation = jnp.ones((E, *env.low.shape))
    one, other, none = (
        policy.retrieve(params, index, key, observation).noise
        for key in (jax.random.PRNGKey(0), jax.random.PRNGKey(1), None)
    )
    assert np.all(one != other)
    assert not np.any(none)


def test_gumbels_fields_reach_its_distribution():
    env = jitted(SPEC.vectorise(E))
    spec = RetrievalPolicy(k=K, estimator="gumbel", drawn=2, temperature=0.5)
    policy, params, index = built(spec, env)
    seen = policy.retrieve(params, index, None, jnp.ones((E, *env.low.shape)))
    distribution = policy.apply(params, seen)[0]
    assert (distribution.drawn, distribution.temperature) == (2, 0.5)


def test_an_episodes_actions_have_the_marginal_of_the_whole_episode():
    """Π_t π(a_t|h_t) = Σ_d p(d|s_0) Π_t π(a_t|s_t,d), for every sequence of actions."""
    env = jitted(WHOLE.vectorise(1))
    policy, params, index = built(RetrievalPolicy(k=K, hidden=(8,), latent="episode"), env)
    step = jax.jit(env.step)
    look = jax.jit(lambda observation: policy.retrieve(params, index, None, observation))
    apply = jax.jit(policy.apply)
    state, first = env.reset(env.params, jax.random.PRNGKey(5))
    single = jitted(RetrievalPolicy(k=K, hidden=(8,)).build(SPEC.vectorise(1)))
    total = 0.0
    for actions in itertools.product(range(3), repeat=2):
        now, shown, product, parts = state, first, 1.0, []
        for action in actions:
            seen = look(shown.observation)
            product *= float(jnp.exp(apply(params, seen)[0].log_probs)[0, action])
            rows = shown.observation[0, :, :6]
            current = int(shown.observation[0, :, -1].sum()) - 1
            plain = single.apply(params, Retrieved(rows[current : current + 1], seen.ids, None))[0]
            parts.append(np.exp(plain.component_log_probs)[0, :, action])
            now, shown = step(env.params, jax.random.PRNGKey(6), now, jnp.array([action]))
        prior = np.exp(
            single.apply(params, Retrieved(first.observation[:, 0, :6], seen0(look, first), None))[
                0
            ].log_prior
        )[0]
        expected = np.sum(prior * parts[0] * parts[1])
        assert product == pytest.approx(expected, rel=1e-4)
        total += product
    assert total == pytest.approx(1.0, rel=1e-4)


def seen0(look, first):
    return look(first.observation).ids


def test_an_episodes_passages_are_those_of_its_first_observation():
    env = jitted(WHOLE.vectorise(1))
    policy, params, index = built(RetrievalPolicy(k=K, latent="episode"), env)
    state, first = env.reset(env.params, jax.random.PRNGKey(5))
    _, second = env.step(env.params, jax.random.PRNGKey(6), state, jnp.array([1]))
    one, other = (
        policy.retrieve(params, index, None, shown.observation).ids for shown in (first, second)
    )
    np.testing.assert_array_equal(one, other)


@dataclass(frozen=True)
class Shelf(TinyMdp):
    """The tiny process with passages, so that a time limit ends episodes that would go on."""

    time_limit: int = 2
    horizon: int = 9

    def build(self):
        passages = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
        return super().build()._replace(passages=passages)


def test_a_time_limit_bootstraps_from_the_observation_after_the_last_step():
    """V(s_T) = Σ_d w_T(d) v(s_T,d), and not that of the last observation acted on."""
    spec = RetrievalPolicy(k=K, hidden=(8,), retriever=two_matrices(8), latent="episode")
    env, plain = (Shelf(history=history).vectorise(16) for history in (True, False))
    policy, params, index = built(spec, env)
    actions = jax.random.randint(jax.random.PRNGKey(1), (2, 16), 0, 2, jnp.int32)

    @jax.jit
    def play(key):
        def steps(env):
            state, shown = env.reset(env.params, key)
            made = [shown]
            for action in actions:
                state, shown = env.step(env.params, key, state, action)
                made.append(shown)
            return made

        seeing = steps(env)
        seen = policy.retrieve(params, index, None, seeing[-1].final_observation)
        return steps(plain), seeing[-1], seen.ids, policy.apply(params, seen)[1]

    (first, second, last), end, ids, value = jax.device_get(play(jax.random.PRNGKey(2)))
    cut = np.flatnonzero(~second.terminated & last.truncated & ~last.terminated)
    assert len(cut) > 3
    moved = []
    for row in cut:
        # Row 2 of the history is the state that the last step led to.
        np.testing.assert_array_equal(
            end.final_observation[row, 2, :3], last.final_observation[row]
        )
        np.testing.assert_array_equal(end.final_observation[row, :, -1], 1)
        shown = (first.observation, second.observation, last.final_observation)
        parts = [by_hand(params, env.passages, s[row], ids[row]) for s in shown]
        weight = parts[0][0] * parts[0][1][:, actions[0, row]] * parts[1][1][:, actions[1, row]]
        expected = weight @ parts[2][2] / weight.sum()
        np.testing.assert_allclose(value[row], expected, rtol=1e-4)
        moved.append(abs(expected - weight @ parts[1][2] / weight.sum()))
    assert max(moved) > 0.1


def test_contents_in_another_order_change_what_is_read_alone():
    """Search and p(d|s) stay those of the passages; so it is with a latent of the episode."""
    for spec, env in (
        (RetrievalPolicy(k=K), SPEC.vectorise(E)),
        (RetrievalPolicy(k=K, latent="episode"), WHOLE.vectorise(E)),
    ):
        policy, params, index = built(spec, env)
        order = jnp.array([2, 0, 1, 4, 5, 3])
        blind = spec.build(env, env.passages[order])
        np.testing.assert_array_equal(blind.embed(params), index)
        _, first = env.reset(env.params, jax.random.PRNGKey(0))
        seen = policy.retrieve(params, index, None, first.observation)
        same = blind.retrieve(params, index, None, first.observation)
        np.testing.assert_array_equal(same.ids, seen.ids)
        (own, _), (other, _) = policy.apply(params, seen), blind.apply(params, seen)
        np.testing.assert_array_equal(other.log_prior, own.log_prior)
        swapped = policy.apply(params, Retrieved(first.observation, order[seen.ids], None))[0]
        np.testing.assert_allclose(other.logits, swapped.logits, atol=1e-6)
        assert np.max(np.abs(other.logits - own.logits)) > 1e-2


def test_the_distribution_is_the_marginal_by_default():
    env = jitted(SPEC.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K), env)
    seen = policy.retrieve(params, index, None, jnp.ones((E, *env.low.shape)))
    assert isinstance(policy.apply(params, seen)[0], MarginalCategorical)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, r"policy.k is 0; it must be at least 1"),
        ({"temperature": 0.0}, r"policy.temperature is 0.0; it must be positive"),
        ({"k": 2, "drawn": 3}, r"policy.drawn is 3, more than the policy.k 2"),
        (
            {"latent": "episode", "estimator": "sampled"},
            r"policy.latent is 'episode' with policy.estimator 'sampled'",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        RetrievalPolicy(**fields)


@dataclass(frozen=True)
class Other(RetrieverSpec):
    """A user's own retriever of two matrices, which is no Dense."""

    learned: ClassVar[bool] = True

    width: int = 8

    @property
    def refresh_every_in_step(self):
        return 3

    def build(self, vocabulary=None, **sizes):
        return two_matrices(self.width).build(vocabulary, **sizes)


def test_any_learned_retriever_fits():
    env, observation = SPEC.vectorise(E), jnp.ones((E, 6))
    first, second = (
        built(RetrievalPolicy(k=K, hidden=(8,), retriever=retriever), env)
        for retriever in (Other(), two_matrices(8))
    )
    assert first[0].refresh_every == 3
    found = [
        policy.apply(params, policy.retrieve(params, index, None, observation))[0].log_probs
        for policy, params, index in (first, second)
    ]
    np.testing.assert_array_equal(*found)
    config = EpisodesConfig(
        env=SPEC, algorithm=PPO(), policy=RetrievalPolicy(k=K, retriever=Other())
    )
    kept = json.loads(json.dumps(config_json(config)))
    modules = kept.pop("modules")
    assert from_json(kept, modules) == config
    changed = override(config, ["--policy.retriever.width", "4"])
    assert changed.policy == RetrievalPolicy(k=K, retriever=Other(width=4))


@pytest.mark.parametrize("latent", ["step", "episode"])
def test_a_policy_copies_what_was_done_in_its_passages(latent):
    """π(a|s) = Σ_d p(d|s) softmax(c · [a was done in d]) where it has learned nothing else."""
    env = jitted((WHOLE if latent == "episode" else SPEC).vectorise(E))
    spec = RetrievalPolicy(k=K, hidden=(8,), latent=latent, copy_scale=2.0)
    policy, params, index = built(spec, env)
    params["policy"] = jax.tree.map(jnp.zeros_like, params["policy"])
    params["copy"] = {"scale": jnp.asarray(1.5)}
    observation = env.reset(env.params, jax.random.PRNGKey(1))[1].observation
    seen = policy.retrieve(params, index, None, observation)
    distribution, _ = policy.apply(params, seen)
    prior, passages = np.exp(distribution.log_prior), np.asarray(env.passages)
    for row in range(E):
        said = passages[seen.ids[row], SPEC.key_width :]
        assert np.all(said.sum(axis=-1) == 1)
        expected = sum(p * softmax(1.5 * one) for p, one in zip(prior[row], said, strict=True))
        np.testing.assert_allclose(np.exp(distribution.log_probs[row]), expected, rtol=1e-5)
    slope = jax.grad(lambda params: policy.apply(params, seen)[0].log_probs[0, 0])(params)
    assert slope["copy"]["scale"] != 0
    assert spec.build(env).init(jax.random.PRNGKey(0))["copy"]["scale"] == 2.0


def test_a_policy_that_reads_values_acts_by_the_key_in_retrieval_alone():
    """Other keys in the place of the retrieved passages' own change the critic, but no action."""
    env = jitted(SPEC.vectorise(E))
    other = np.array(env.passages)
    other[:, : SPEC.key_width] += 1.0
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    acts = {}
    for reads in ("value", "passage"):
        spec = RetrievalPolicy(k=K, reads=reads)
        policy, params, index = built(spec, env)
        blind = spec.build(env, jnp.asarray(other))
        seen = policy.retrieve(params, index, None, observation)
        acts[reads] = [made.apply(params, seen) for made in (policy, blind)]
    (own, value), (changed, other_value) = acts["value"]
    np.testing.assert_array_equal(own.logits, changed.logits)
    assert np.all(np.abs(value - other_value) > 1e-4)
    (own, _), (changed, _) = acts["passage"]
    assert np.max(np.abs(own.logits - changed.logits)) > 1e-3


@pytest.mark.parametrize("retriever", [BM25(), Hybrid(), Oracle()])
def test_a_retriever_that_goes_by_words_is_refused(retriever):
    with pytest.raises(UserError) as caught:
        RetrievalPolicy(k=2, retriever=retriever).build(SPEC.vectorise(2))
    assert str(caught.value) == (
        f"policy.retriever is a {type(retriever).__name__}, which looks up the words of questions and "
        "can't score observations; choose a learned one that goes by embeddings alone, such as Dense."
    )


@pytest.mark.parametrize(
    ("spec", "env", "message"),
    [
        (RetrievalPolicy(), CartPole(), r"the environment has no passages to retrieve"),
        (RetrievalPolicy(k=7), SPEC, r"policy.k is 7, but the environment has 6 passages"),
        (
            RetrievalPolicy(k=2, latent="episode"),
            SPEC,
            r"observations have shape \(6,\); set env.hist",
        ),
        (RetrievalPolicy(k=2), WHOLE, r"observations have shape \(3, 10\); unset env.history"),
        (
            RetrievalPolicy(k=2, copy_scale=1.0),
            WITHOUT_PARTS,
            r"copy_scale is 1.0, but the environment",
        ),
        (RetrievalPolicy(k=2, reads="value"), WITHOUT_PARTS, r"policy.reads is 'value'.* no key"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(spec, env, message):
    with pytest.raises(UserError, match=message):
        spec.build(env.vectorise(2))
