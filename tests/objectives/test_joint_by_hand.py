"""Every term of the joint objective made by hand, with its gradient, at weights other than 0 and 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import TINY, VOCABULARY, B, Hand, K, T, V, tiny_answers, tiny_batch, tiny_params

from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward, Samples
from ragjax.objectives.base import Context
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence
from ragjax.objectives.rewards import TokenF1
from ragjax.ops.augmentation import corrupt_words, random_renaming

G = 3
CONTEXT = Context(TINY, VOCABULARY, Dense(), K)


def joint(likelihood_weight, weight, documents="retrieved", **reward):
    noise = {"rename_reader": 1.0, "rename_retriever": 1.0, "corrupt_words": 0.5}
    return Joint(
        likelihood=RagSequence(documents=documents, **noise),
        likelihood_weight=likelihood_weight,
        reward=AnswerReward(weight=weight, samples=G, reward=TokenF1(), **reward),
    )


OBJECTIVES = {
    "rloo": joint(0.7, 2.5, "index"),
    "grpo": joint(0.4, 3.0, advantage="grpo", kl_coef=0.3),
    "reinforce": joint(
        **{"likelihood_weight": 1.3, "weight": 0.6, "documents": "index"},
        **{"updates": 2, "clip_eps": 0.15, "kl_coef": 0.6, "entropy_coef": 0.2},
        advantage="reinforce",
    ),
    "gae": joint(0.0, 1.7, "index", advantage="gae", gae_lambda=0.6),
    "ppo": joint(
        **{"likelihood_weight": 0.2, "weight": 0.8, "documents": "retrieved"},
        **{"updates": 3, "clip_eps": 0.3, "kl_coef": 0.4, "entropy_coef": 0.1},
        **{"advantage": "gae", "gae_lambda": 0.3, "whiten": True},
    ),
    "whitened": joint(2.0, 0.5, "index", whiten=True),
}


@functools.cache
def differentiate(objective):
    """Jitted (params, key, batch, corpus, index, samples, reference) -> (gradient, `Loss`)."""

    def total(params, key, batch, corpus, index, samples, reference):
        constants = {"corpus": corpus, "index": index, "reference": reference}
        loss = objective.loss(CONTEXT, params, key, batch, samples=samples, **constants)
        return loss.sum, loss

    return jax.jit(jax.grad(total, has_aux=True))


@functools.cache
def draw(objective):
    """Jitted (params, key, batch, corpus, index) -> what a step of several updates learns from."""

    def sample(params, key, batch, corpus, index):
        return objective.sample(CONTEXT, params, key, batch, corpus=corpus, index=index)

    return jax.jit(sample)


class Case:
    """A batch with answers of another policy, of which some repeat others."""

    def __init__(self, objective, seed):
        rng, self.key = np.random.default_rng(seed), jax.random.PRNGKey(seed)
        self.objective, self.params, self.reference = objective, tiny_params(seed), tiny_params(99)
        self.batch, self.corpus, self.index = tiny_batch(seed)
        reader, retriever, words = jax.random.split(self.key, 3)
        content, noise = VOCABULARY.content, objective.likelihood
        self.asked = corrupt_words(words, self.batch.question, content, noise.corrupt_words)
        self.names = (
            random_renaming(reader, content, noise.rename_reader),
            random_renaming(retriever, content, noise.rename_retriever),
        )
        answers = tiny_answers(rng, B, G)
        answers[0, 2] = answers[0, 0]
        answers[1, :] = answers[1, 0]
        now = self.hand(self.params)
        behaviour = [[now.marginals(b, answer) for answer in answers[b]] for b in range(B)]
        noise = 0.5 * rng.normal(size=answers.shape) * (answers != 0)
        reward = rng.normal(size=(B, G))
        reward[2] = np.nan  # of the question that fills up
        self.samples = Samples(
            jnp.asarray(answers),
            jnp.asarray(behaviour + noise, jnp.float32),
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(rng.normal(size=answers.shape), jnp.float32) if objective.critic else None,
        )
        if not objective.critic:
            self.params = {room: self.params[room] for room in ("retriever", "reader")}

    @property
    def arrays(self):
        return self.key, self.batch, self.corpus, self.index

    def hand(self, params, ids=None):
        """What is retrieved and read with the noise of the key."""
        arrays = params, self.asked, self.corpus, self.index, self.names
        return Hand(*arrays, documents=self.objective.likelihood.documents, ids=ids)


def advantages(term, samples, real, b, g):
    """[T] advantages of an answer, before they are whitened."""
    reward = np.asarray(samples.reward, np.float64)
    others = np.delete(reward[b], g)
    if term.advantage == "rloo":
        return np.full(T, reward[b, g] - others.mean())
    if term.advantage == "grpo":
        spread = reward[b].std()
        return np.full(T, (reward[b, g] - reward[b].mean()) / spread if spread else 0.0)
    if term.advantage == "reinforce":
        return np.full(T, reward[b, g] - np.mean([reward[c].mean() for c in real if c != b]))
    value, length = samples.values[b, g], np.sum(samples.answers[b, g] != 0)
    found, later = np.zeros(T), 0.0
    for t in reversed(range(length)):
        following = reward[b, g] if t == length - 1 else value[t + 1]
        later = following - value[t] + term.gae_lambda * later
        found[t] = later
    return found


def by_hand(given, now, base, far, metrics):
    """The loss with the parameters of `now`, where those of `base` make all that has no gradient."""
    term = given.objective.reward
    samples = Samples(*(None if leaf is None else np.asarray(leaf) for leaf in given.samples))
    real, target = np.flatnonzero(given.batch.weight), now.names[np.asarray(given.batch.target)]
    places = [(b, g, t) for b in real for g in range(G) for t in range(T)]
    places = [place for place in places if samples.answers[place] != 0]
    pairs = [(b, g) for b in real for g in range(G)]
    advantage = {pair: advantages(term, samples, real, *pair) for pair in pairs}
    credit = {place: advantage[place[:2]][place[2]] for place in places}
    if term.whiten:
        everywhere = list(credit.values())
        mean, spread = np.mean(everywhere), np.std(everywhere)
        credit = {place: (value - mean) / spread for place, value in credit.items()}
    sums = dict.fromkeys(("policy", "kl", "score", "entropy", "value", "clipped"), 0.0)
    likelihood = sum(np.log(now.likelihood(b, target[b])) for b in real)
    clips = term.updates > 1
    for b, g in advantage:
        answer = samples.answers[b, g]
        log_pi, log_base = now.marginals(b, answer), base.marginals(b, answer)
        gap = log_base - far.marginals(b, answer)
        entropy = now.entropies(b, answer)
        value = base.values(b, answer, now.params["critic"]) if term.critic else None
        for t in range(np.sum(answer != 0)):
            a = credit[b, g, t]
            ratio = np.exp(log_pi[t] - samples.behaviour[b, g, t]) if clips else 1.0
            cut = np.clip(ratio, 1 - term.clip_eps, 1 + term.clip_eps)
            sums["policy"] -= min(ratio * a, cut * a) if clips else log_pi[t] * a
            sums["clipped"] += cut * a < ratio * a
            weight = np.exp(log_base[t] - samples.behaviour[b, g, t]) if clips else 1.0
            sums["kl"] += weight * (np.exp(-gap[t]) - 1 + gap[t])
            sums["score"] += weight * gap[t:].sum() * (log_pi[t] - log_base[t])
            sums["entropy"] += entropy[t]
            if term.critic:
                aim = advantage[b, g][t] + samples.values[b, g, t]
                sums["value"] += 0.5 * (value[t] - aim) ** 2
    rewarded = term.weight * sums["policy"] + sums["value"]
    rewarded += term.kl_coef * (sums["kl"] + sums["score"])
    rewarded -= term.entropy_coef * sums["entropy"]
    tokens = len(places)
    answers = [[tuple(answer) for answer in samples.answers[b]] for b in real]
    metrics |= {
        "reward": np.mean(samples.reward[real]),
        "sampled_entropy": -np.mean(samples.behaviour[real].sum(axis=-1)),
        "distinct": np.mean([len(set(row)) / G for row in answers]),
        "clipped": sums["clipped"] / tokens,
        "kl": sums["kl"] / G / len(real),
        "entropy": sums["entropy"] / tokens,
        "value_loss": sums["value"] / tokens,
    }
    return -given.objective.likelihood_weight * likelihood + rewarded / G


def of_its_own(term):
    """Names of the figures that depend on what is paid for."""
    return {
        *({"clipped"} if term.updates > 1 else ()),
        *({"kl"} if term.kl_coef else ()),
        *({"entropy"} if term.entropy_coef else ()),
        *({"value_loss"} if term.critic else ()),
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_figures_and_gradient_by_hand(name, seed):
    given = Case(objective := OBJECTIVES[name], seed)
    reference = given.reference if objective.needs_reference else None
    gradient, loss = differentiate(objective)(given.params, *given.arrays, given.samples, reference)
    base = given.hand(given.params)
    far = given.hand(given.reference, base.ids)  # of the same passages, words and names

    def total(params, metrics):
        now = given.hand(params, base.ids)
        return by_hand(given, now, base, far, metrics)

    expected = {}
    np.testing.assert_allclose(loss.sum, total(given.params, expected), rtol=3e-4)
    assert loss.denom == 3
    figures = {"reward", "sampled_entropy", "distinct", *of_its_own(objective.reward)}
    everything = {"reward", "sampled_entropy", *expected}
    assert loss.metrics.keys() & everything == figures
    for figure in figures:
        whole, count = loss.metrics[figure]
        np.testing.assert_allclose(whole / count, expected[figure], rtol=1e-3, err_msg=figure)
    rng = np.random.default_rng(seed)
    for room, leaves in jax.device_get(given.params).items():
        size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient[room])))
        assert size > 0.02
        for _ in range(3):
            along = jax.tree.map(lambda leaf: rng.normal(size=np.shape(leaf)), leaves)
            ends = []
            for step in (1e-4, -1e-4):
                moved = jax.tree.map(lambda x, d, step=step: x + step * d, leaves, along)
                ends.append(total(given.params | {room: moved}, {}))
            slopes = jax.tree.map(lambda g, d: np.sum(g * d), gradient[room], along)
            np.testing.assert_allclose(
                sum(jax.tree.leaves(slopes)),
                (ends[0] - ends[1]) / 2e-4,
                rtol=2e-3,
                atol=1e-3 * size,
                err_msg=room,
            )


@pytest.mark.parametrize("name", ["rloo", "ppo"])
def test_answers_are_drawn_once_with_the_figures_of_that_moment(name):
    """Passages, log-probabilities, values and rewards, in the words and names of the key."""
    given = Case(objective := OBJECTIVES[name], 4)
    batch, samples = jax.device_get(draw(objective)(given.params, *given.arrays))
    made = given.hand(given.params)
    np.testing.assert_array_equal(batch.retrieved.ids, made.ids)
    np.testing.assert_array_equal(batch.question, given.batch.question)  # words are corrupted later
    for b in range(B):
        for g, answer in enumerate(samples.answers[b]):
            said = made.marginals(b, answer)
            np.testing.assert_allclose(samples.behaviour[b, g], said, rtol=1e-3, atol=1e-5)
            if objective.critic:
                kept = answer != 0
                value = made.values(b, answer)
                np.testing.assert_allclose(samples.values[b, g][kept], value[kept], rtol=1e-3)
    assert (samples.values is not None) == objective.critic
    own = np.argsort(made.names)[samples.answers]
    score = objective.reward.reward.score(jnp.asarray(own), given.batch.accepted)
    np.testing.assert_allclose(samples.reward, score, rtol=1e-6)
    assert len(np.unique(samples.reward)) > 2


@pytest.mark.parametrize("name", ["rloo", "gae"])
def test_one_update_draws_its_own_answers(name):
    """Those that `sample` draws with the same key."""
    given = Case(objective := OBJECTIVES[name], 5)
    batch, samples = draw(objective)(given.params, *given.arrays)
    after = given.key, batch, given.corpus, given.index
    drawn = differentiate(objective)(given.params, *after, samples, None)
    alone = differentiate(objective)(given.params, *given.arrays, None, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), drawn, alone)


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_later_updates_learn_from_the_first_ones_answers_and_passages(name):
    """By hand on what the first parameters found, where later ones find others."""
    given = Case(objective := OBJECTIVES[name], 6)
    batch, given.samples = draw(objective)(given.params, *given.arrays)
    arrays = given.key, batch, given.corpus, given.index, given.samples, given.reference
    first, real = given.hand(given.params).ids, np.flatnonzero(given.batch.weight)
    far, others = given.hand(given.reference, first), tiny_params(50)
    moved, clipped = [], []
    for share in (0.0, 0.3, 0.6):
        params = {
            room: jax.tree.map(lambda a, b, w=share: a + w * (b - a), leaves, others[room])
            for room, leaves in given.params.items()
        }
        _, loss = differentiate(objective)(params, *arrays)
        now = given.hand(params, first)
        np.testing.assert_allclose(loss.sum, by_hand(given, now, now, far, {}), rtol=3e-4)
        found = np.sort(given.hand(params).ids) != np.sort(first)
        moved.append(bool(np.any(found[real])))
        clipped.append(float(np.divide(*loss.metrics["clipped"])))
    assert moved == [False, True, True]
    assert clipped[0] == 0 < clipped[1]  # the first ratio is 1


def test_the_divergence_is_that_of_all_answers(all_answers):
    """Estimated from drawn ones, against Σ_y p(y|x) log p(y|x)/q(y|x); q has another p(d|x)."""
    reward = AnswerReward(samples=128, kl_coef=0.25)
    objective = Joint(likelihood_weight=0.0, reward=reward)
    given, answers = Case(objective, 7), all_answers(V, T)
    reference = given.params | {"retriever": given.reference["retriever"]}

    @jax.jit
    def estimated(params, reference, keys):
        def one(key):
            constants = {"corpus": given.corpus, "index": given.index, "reference": reference}
            found = objective.loss(CONTEXT, params, key, given.batch, **constants)
            return jnp.divide(*found.metrics["kl"])

        return jax.lax.map(one, keys)

    keys = jax.random.split(jax.random.PRNGKey(3), 100)
    found = np.asarray(estimated(given.params, reference, keys), np.float64)
    error = found.std(ddof=1) / np.sqrt(len(found))
    mine = given.hand(given.params)
    theirs = given.hand(reference, mine.ids)
    real, exact = np.flatnonzero(given.batch.weight), 0.0
    for b in real:
        chance, other = (
            np.array([of.likelihood(b, answer) for answer in answers]) for of in (mine, theirs)
        )
        np.testing.assert_allclose([chance.sum(), other.sum()], 1.0, rtol=1e-6)
        exact += chance @ np.log(chance / other) / len(real)
    assert abs(found.mean() - exact) < 4 * error < exact / 5
