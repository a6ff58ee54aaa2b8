"""Likelihood and reward together: each alone is what it should be, and both reach the retriever."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from ragjax.errors import UserError
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, retrieve
from ragjax.objectives.rewards import ExactMatch, HostReward, Reward, Total
from ragjax.ops.marginal import log_posterior, marginal, rag_sequence
from ragjax.ops.noise import random_renaming
from ragjax.retrieval.corpus import gather_passages
from ragjax.retrieval.dense import Dense
from ragjax.training.step import init_state, make_train_step
from ragjax.types import BOS_ID, PAD_ID

K = 3


@dataclass(frozen=True)
class FirstToken(Reward):
    """A reward that is dense and whose expectation is a sum over one token."""

    def score(self, answers, target):
        return value(answers[..., 0])


def value(token):
    return jnp.sin(3.0 * token.astype(jnp.float32))


@pytest.fixture(scope="module")
def problem(make_toy, corpus, batch):
    """(loss(objective, batch) -> (params, key) -> Loss, toy, batch, index)."""
    toy = make_toy(siamese=False)
    embeddings = jax.jit(toy.model.embed_passage)(toy.params, corpus)
    given = batch.replace(retrieved=None)

    def loss_of(objective, batch=given):
        def loss(params, key):
            fixed = toy.model, toy.vocabulary, Dense()
            return objective.loss(*fixed, params, key, batch, corpus, embeddings, k=K)

        return loss

    return loss_of, toy, given, embeddings


def test_likelihood_alone_is_rag_sequence_to_the_bit(problem):
    loss_of, toy, *_ = problem
    gradients = []
    for objective in (RagSequence(), Joint(reward_weight=0.0)):
        loss = loss_of(objective)
        gradient = jax.jit(
            jax.value_and_grad(lambda params, loss=loss: loss(params, jax.random.PRNGKey(0)).sum)
        )
        gradients.append(gradient(toy.params))
    jax.tree.map(np.testing.assert_array_equal, *gradients)


CRITIC = {
    "kernel": np.linspace(-1, 1, 8, dtype=np.float32)[:, None],
    "bias": np.ones(1, np.float32),
}
DRAWS = jax.random.split(jax.random.PRNGKey(1), 400)


def gradients(loss, params, keys):
    """Gradients [M,P] of a loss, one a key, and its metrics; with a critic of any values, too."""

    def one(key):
        def total(params):
            found = loss(params | {"critic": CRITIC}, key)
            return found.sum, found

        gradient, found = jax.grad(total, has_aux=True)(params)
        return ravel_pytree(gradient)[0], found.metrics

    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


def agreement(drawn, exact):
    """Distance of the mean of gradients from the exact one, in standard errors, and their cosine."""
    mean, error = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    distance = np.linalg.norm(mean - exact) / np.linalg.norm(error)
    return distance, mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact)


@pytest.fixture(scope="module")
def gradients_by(problem):
    """Advantage -> `gradients` of reward alone."""
    loss_of, toy, *_ = problem

    @functools.cache
    def run(advantage):
        fields = {"likelihood_weight": 0.0, "samples": 8, "reward": FirstToken(), "trace": 1.0}
        return gradients(loss_of(Joint(advantage=advantage, **fields)), toy.params, DRAWS)

    return run


@pytest.fixture(scope="module", params=["rloo", "reinforce", "gae"])
def sampled(gradients_by, request):
    """`gradients` of the advantages that leave the expected one as it is."""
    return gradients_by(request.param)


@pytest.fixture(scope="module")
def of_the_expected_reward(problem, corpus):
    """-∇ Σ_b Σ_v p(y_1 = v|x_b) R(v), with every token of the vocabulary."""
    _, toy, given, embeddings = problem
    model = toy.model

    def expected(params):
        topk, log_prior = retrieve(
            RagSequence(), model, Dense(), params, given, corpus, embeddings, k=K
        )
        memory = model.encode(params, given.question, gather_passages(corpus, topk.ids))
        cache = model.init_cache(params, memory, given.target.shape[1])
        start = jnp.full(log_prior.shape, BOS_ID, jnp.int32)
        logprobs, _ = model.decode_step(params, memory, cache, start, jnp.int32(0))
        log_prior = log_posterior(log_prior, jnp.zeros_like(log_prior))
        chance = jnp.exp(marginal(log_prior[:, None], jnp.swapaxes(logprobs, 1, 2)))
        return -jnp.sum(given.weight * (chance @ value(jnp.arange(chance.shape[-1]))))

    return jax.jit(jax.grad(expected))(toy.params)


def test_reward_alone_has_the_gradient_of_the_expected_reward(of_the_expected_reward, sampled):
    """Through the retriever, too."""
    gradient = of_the_expected_reward
    distance, cosine = agreement(np.asarray(sampled[0]), np.asarray(ravel_pytree(gradient)[0]))
    assert 0.5 < distance < 1.5
    assert cosine > 0.9
    retriever = ravel_pytree(gradient["retriever"])[0]
    assert np.linalg.norm(retriever) > 1e-3


@pytest.fixture(scope="module")
def by_hand(problem, corpus):
    """(what a step draws with the first key, advantages [B,G] -> the gradient that they make of it)."""
    _, toy, given, embeddings = problem
    model = toy.model
    objective = Joint(samples=8, reward=FirstToken())

    @jax.jit
    def draw(params):
        fixed = model, toy.vocabulary, Dense(), params, DRAWS[0]
        return objective.sample(*fixed, given, corpus, embeddings, k=K)

    batch, samples = draw(toy.params)

    @jax.jit
    def gradient(advantage):
        def loss(params):
            arrays = params, batch, corpus, embeddings
            topk, log_prior = retrieve(RagSequence(), model, Dense(), *arrays, k=K)
            memory = model.encode(params, batch.question, gather_passages(corpus, topk.ids))

            def log_prob(answer):
                said = model.token_logprobs(params, memory, answer)
                return rag_sequence(log_prior, said, answer != PAD_ID)

            log_probs = jax.vmap(log_prob, in_axes=1, out_axes=1)(samples.answers)
            return -jnp.sum(batch.weight[:, None] * advantage * log_probs) / 8

        return ravel_pytree(jax.grad(loss)(toy.params))[0]

    return samples, gradient


def minus_the_others(rewards, weight):
    total = rewards.sum(axis=1, keepdims=True)
    return rewards - (total - rewards) / (rewards.shape[1] - 1)


def in_deviations(rewards, weight):
    return (rewards - rewards.mean(axis=1, keepdims=True)) / rewards.std(axis=1, keepdims=True)


def minus_other_rows(rewards, weight):
    real = np.flatnonzero(weight)
    baselines = [rewards[real[real != row]].mean() for row in range(len(rewards))]
    return rewards - np.array(baselines)[:, None]


@pytest.mark.parametrize(
    ("advantage", "definition"),
    [("rloo", minus_the_others), ("grpo", in_deviations), ("reinforce", minus_other_rows)],
)
def test_each_advantage_has_the_gradient_made_by_hand(
    problem, gradients_by, by_hand, advantage, definition
):
    """-Σ_b Σ_g A_bg ∇log p(y_bg|x_b) / G of the very answers drawn, and of no other advantage."""
    *_, given, _ = problem
    samples, gradient = by_hand
    rewards = np.asarray(value(samples.answers[..., 0]), np.float64)
    made = definition(rewards, np.asarray(given.weight))
    found = gradients_by(advantage)[0][0]
    exact = np.asarray(gradient(np.asarray(made, np.float32)))
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4 * scale)
    for other in (minus_the_others, in_deviations, minus_other_rows):
        if other is not definition:
            theirs = gradient(np.asarray(other(rewards, np.asarray(given.weight)), np.float32))
            assert np.abs(theirs - exact).max() > 0.01 * scale


@pytest.mark.parametrize("documents", ["retrieved", "index"])
def test_exact_match_moves_by_the_likelihood_times_the_gradient_of_its_logarithm(
    problem, corpus, documents
):
    """∇E[1(y=y*)] = p(y*|x) ∇log p(y*|x), p(d|x) over the K retrieved, in retriever and generator."""
    loss_of, toy, given, embeddings = problem
    model = toy.model
    target = jnp.asarray([[4, 8], [6, 9], [7, 5], [4, 8]])  # likely, so that some are drawn
    short = given.replace(target=target, accepted=jnp.stack([target, 0 * target], axis=1))
    objective = Joint(likelihood_weight=0.0, samples=16, reward=ExactMatch(), documents=documents)

    @jax.jit
    def gradient(renormalised):
        """-Σ_b p(y*|x_b) ∇log p(y*|x_b)."""

        def expected(params):
            arrays = params, short, corpus, embeddings
            topk, log_prior = retrieve(objective, model, Dense(), *arrays, k=K)
            memory = model.encode(params, short.question, gather_passages(corpus, topk.ids))
            said = model.token_logprobs(params, memory, target)
            among = log_posterior(log_prior, jnp.zeros_like(log_prior))
            log_prior = jnp.where(renormalised, among, log_prior)
            log_prob = rag_sequence(log_prior, said, target != PAD_ID)
            return -jnp.sum(short.weight * jax.lax.stop_gradient(jnp.exp(log_prob)) * log_prob)

        return ravel_pytree(jax.grad(expected)(toy.params))[0]

    def parts(rows):
        """Of generator and retriever."""
        size = ravel_pytree(toy.params["generator"])[0].size
        return np.split(np.asarray(rows), [size], axis=-1)

    drawn = parts(gradients(loss_of(objective, short), toy.params, DRAWS)[0])
    for mine, exact, whole in zip(
        drawn, parts(gradient(True)), parts(gradient(False)), strict=True
    ):
        assert np.linalg.norm(exact) > 1e-2
        distance, cosine = agreement(mine, exact)
        assert distance < 1.5
        assert cosine > 0.99
        if documents == "index":  # of the whole index's p(d|x) it is another
            assert agreement(mine, whole)[0] > 4


@dataclass(frozen=True)
class Says(HostReward):
    """A user's own: 10 for an answer that holds the token."""

    token: int = 8

    def on_host(self, answers, accepted):
        return 10.0 * np.any(answers == self.token, axis=-1)


def test_answers_are_rewarded_in_their_own_names(problem, corpus):
    """Whatever names the reader was shown; a question read from memory was shown its own."""
    _, toy, given, embeddings = problem
    target = given.target[:, :1]
    short = given.replace(
        target=target,
        accepted=jnp.stack([target, jnp.full_like(target, 9)], axis=1),
        positives=given.positives.at[0].set(-1),
    )
    objective = Joint(
        samples=64, reward=Total((Says(), ExactMatch())), rename_reader=1.0, from_memory=True
    )
    key = jax.random.PRNGKey(2)

    @jax.jit
    def draw(params):
        fixed = toy.model, toy.vocabulary, Dense()
        return objective.sample(*fixed, params, key, short, corpus, embeddings, k=K)

    _, samples = draw(toy.params)
    shown = np.tile(
        random_renaming(jax.random.split(key, 3)[0], toy.vocabulary.content, 1.0), (4, 1)
    )
    shown[0] = np.arange(12)
    back = np.argsort(shown, axis=-1)
    assert np.all(shown[1:, [8, 9]] != [8, 9])
    assert np.all(shown[1:, [8, 9]] != back[1:, [8, 9]])
    answers = np.asarray(samples.answers)
    says = np.any(answers == shown[:, None, [8]], axis=-1)
    renamed = np.take_along_axis(shown[:, None], np.asarray(short.accepted), axis=-1)
    exact = np.any(np.all(answers[:, :, None] == renamed[:, None], axis=-1), axis=-1)
    np.testing.assert_array_equal(samples.reward, 10.0 * says + exact)
    assert says[1:].any()
    assert (exact & ~says).any()
    # Given the same answers, nothing depends on the names.
    own = np.take_along_axis(back[:, None], answers, axis=-1)
    score = ExactMatch().score
    plain = score(jnp.asarray(own), short.accepted)
    np.testing.assert_array_equal(plain, score(samples.answers, jnp.asarray(renamed)))
    np.testing.assert_array_equal(plain, exact)


def test_metrics_of_the_samples(problem, sampled):
    *_, given, _ = problem
    count = float(jnp.sum(given.weight))
    for name, (low, high) in {
        "reward": (-1, 1),
        "distinct": (0, 1),
        "sampled_entropy": (0, 1e3),
    }.items():
        total, denom = sampled[1][name]
        np.testing.assert_allclose(denom, count)
        assert np.all((low <= total / denom) & (total / denom <= high))


def test_the_critic_alone_learns_its_values(problem):
    """With a reward that weighs next to nothing: no other parameter has any gradient."""
    loss_of, toy, *_ = problem
    objective = Joint(
        likelihood_weight=0.0, reward_weight=1e-30, advantage="gae", reward=FirstToken()
    )
    gradient = jax.jit(
        jax.grad(lambda params: loss_of(objective)(params, jax.random.PRNGKey(0)).sum)
    )(toy.params | {"critic": CRITIC})
    assert all(np.abs(leaf).min() > 1e-3 for leaf in jax.tree.leaves(gradient.pop("critic")))
    assert np.abs(ravel_pytree(gradient)[0]).max() < 1e-20


def test_the_bonus_is_the_entropy_of_the_marginal(problem, corpus):
    """Of answers of one token, whose entropy no sampling touches; and so is its gradient."""
    _, toy, given, embeddings = problem
    model = toy.model
    short = given.replace(target=given.target[:, :1])
    objective = Joint(
        likelihood_weight=0.0, reward_weight=1e-30, entropy_weight=0.5, reward=FirstToken()
    )

    def bonus(params):
        fixed = model, toy.vocabulary, Dense()
        arrays = params, jax.random.PRNGKey(0), short, corpus, embeddings
        found = objective.loss(*fixed, *arrays, k=K)
        entropy, count = found.metrics["entropy"]
        return found.sum, entropy / count

    def expected(params):
        topk, log_prior = retrieve(
            RagSequence(), model, Dense(), params, short, corpus, embeddings, k=K
        )
        passages = gather_passages(corpus, topk.ids)
        memory = model.encode(params, short.question, passages, identity(len(short.weight)))
        cache = model.init_cache(params, memory, 1)
        start = jnp.full(log_prior.shape, BOS_ID, jnp.int32)
        logprobs, _ = model.decode_step(params, memory, cache, start, jnp.int32(0))
        chance = jnp.sum(jnp.exp(log_prior[..., None] + logprobs), axis=1)
        entropy = -jnp.sum(chance * jnp.log(chance), axis=-1)
        real = jnp.asarray(short.weight > 0, jnp.float32)
        return -0.5 * real @ entropy, real @ entropy / jnp.sum(real)

    found, exact = (
        jax.jit(jax.value_and_grad(function, has_aux=True))(toy.params)
        for function in (bonus, expected)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, exact)
    assert np.linalg.norm(ravel_pytree(exact[1]["retriever"])[0]) > 1e-3


def test_rows_that_fill_up_a_batch_change_nothing(problem, corpus):
    _, toy, given, embeddings = problem
    objective = Joint(reward=FirstToken())
    weight = np.ones(len(given.weight), np.float32)
    weight[-1] = 0.0
    filled = given.replace(weight=weight)
    other = filled.replace(
        target=np.concatenate([np.asarray(given.target[:-1]), np.asarray(given.target[:1])])
    )

    @jax.jit
    def total(batch):
        fixed = toy.model, toy.vocabulary, Dense()
        return objective.loss(
            *fixed, toy.params, jax.random.PRNGKey(0), batch, corpus, embeddings, k=K
        ).sum

    assert total(filled) == total(other)


@pytest.fixture(scope="module")
def anchored(problem, corpus):
    """((reference, kl_weight, keys) -> gradients [M,P] and `kl` [M], the batch) with short answers."""
    _, toy, given, embeddings = problem
    short = given.replace(target=given.target[:, :2])

    @jax.jit
    def run(reference, kl_weight, keys):
        def one(key):
            def total(params):
                objective = Joint(
                    likelihood_weight=0.0, samples=8, reward=FirstToken(), kl_weight=1.0
                )
                object.__setattr__(objective, "kl_weight", kl_weight)  # traced
                arrays = params, key, short, corpus, embeddings
                fixed = toy.model, toy.vocabulary, Dense()
                found = objective.loss(*fixed, *arrays, k=K, reference=reference)
                return found.sum, found.metrics["kl"]

            gradient, (kl, count) = jax.grad(total, has_aux=True)(toy.params)
            return ravel_pytree(gradient)[0], kl / count

        return jax.lax.map(one, keys)

    return run, short


KEYS = jax.random.split(jax.random.PRNGKey(3), 300)


def test_nothing_is_paid_for_staying_at_the_reference(problem, anchored):
    _, toy, *_ = problem
    run, _ = anchored
    free, _ = run(toy.params, jnp.float32(0), KEYS[:4])
    paid, kl = run(toy.params, jnp.float32(1), KEYS[:4])
    np.testing.assert_allclose(kl, 0.0, atol=1e-5)
    np.testing.assert_allclose(paid, free, rtol=1e-3, atol=1e-4)


def test_the_divergence_is_that_of_all_answers(problem, anchored, corpus, all_answers):
    """Estimated from samples, against Σ_y p(y|x) log p(y|x)/q(y|x), q over the passages of p."""
    _, toy, _, embeddings = problem
    run, short = anchored
    other = jax.tree.map(lambda leaf: leaf * 1.3, toy.params)
    _, kl = run(other, jnp.float32(1), KEYS)
    answers = jnp.asarray(all_answers(12, 2))
    model, batch = toy.model, short
    topk, _ = retrieve(RagSequence(), model, Dense(), toy.params, batch, corpus, embeddings, k=K)
    batch = batch.replace(retrieved=topk)

    @jax.jit
    def log_probs(params):
        _, log_prior = retrieve(
            RagSequence(), model, Dense(), params, batch, corpus, embeddings, k=K
        )
        memory = model.encode(
            params, batch.question, gather_passages(corpus, topk.ids), identity(4)
        )

        def score(answer):
            each = jnp.broadcast_to(answer, (4, 2))
            return rag_sequence(log_prior, model.token_logprobs(params, memory, each), each != 0)

        return jax.vmap(score)(answers)  # [M,B]

    mine, theirs = log_probs(toy.params), log_probs(other)
    np.testing.assert_allclose(jnp.sum(jnp.exp(mine), axis=0), 1.0, rtol=1e-3)
    expected = jnp.sum(jnp.exp(mine) * (mine - theirs), axis=0)
    weight = np.asarray(batch.weight)
    expected = float(np.sum(weight * np.asarray(expected)) / weight.sum())
    error = np.std(kl, ddof=1) / np.sqrt(len(kl))
    assert expected > 10 * error
    assert abs(np.mean(kl) - expected) < 4 * error


def identity(rows):
    return jnp.broadcast_to(jnp.arange(12), (rows, 12))


@pytest.fixture(scope="module")
def repeated(problem, corpus):
    """Three updates a step: (jitted step, state, objective's functions)."""
    _, toy, given, embeddings = problem
    objective = Joint(updates=3, samples=4, reward=FirstToken(), rename_reader=1.0)
    fixed = toy.model, toy.vocabulary, Dense()

    def prepare(params, key, batch):
        return objective.sample(*fixed, params, key, batch, corpus, embeddings, k=K)

    def loss(params, key, prepared):
        batch, samples = prepared
        arrays = params, key, batch, corpus, embeddings
        return objective.loss(*fixed, *arrays, k=K, samples=samples)

    optimizer = optax.sgd(0.05)
    step = make_train_step(loss, optimizer, prepare=prepare, times=3)
    state = init_state(jax.tree.map(jnp.copy, toy.params), optimizer, jax.random.PRNGKey(9))
    return step, state, prepare, loss, given


def test_several_updates_are_one_step_and_one_compilation(repeated):
    step, state, prepare, loss, given = repeated
    # By hand: drawn once with the first parameters, then three descents on the same answers.
    params = jax.tree.map(jnp.copy, state.params)
    key = jax.random.fold_in(state.key, 0)
    prepared = jax.jit(prepare)(params, key, given)

    @jax.jit
    def descend(params):
        def total(params):
            found = loss(params, key, prepared)
            return found.sum / found.denom, found.metrics["clipped"][0]

        gradient, clipped = jax.grad(total, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), clipped

    for number in range(3):
        params, clipped = descend(params)
        if number == 0:
            assert clipped == 0  # the first ratio is 1
    state, metrics = step(jax.tree.map(jnp.copy, state), given)
    assert state.step == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), state.params, params
    )
    assert np.isfinite(metrics["loss"])
    step(state, given)
    assert step._cache_size() == 1


def test_the_first_of_several_updates_is_that_of_one(problem, repeated):
    loss_of, toy, *_ = problem
    _, _, prepare, loss, given = repeated
    key = jax.random.PRNGKey(5)
    single = loss_of(Joint(samples=4, reward=FirstToken(), rename_reader=1.0))

    @jax.jit
    def both(params):
        prepared = prepare(params, key, given)
        first = jax.grad(lambda params: loss(params, key, prepared).sum)(params)
        return first, jax.grad(lambda params: single(params, key).sum)(params)

    first, alone = both(toy.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), first, alone)


@pytest.mark.parametrize("fields", [{}, {"advantage": "gae", "whiten": True}])
def test_steps_on_the_reward_raise_it(problem, fields):
    loss_of, toy, *_ = problem
    loss = loss_of(Joint(likelihood_weight=0.0, samples=8, reward=FirstToken(), **fields))
    critic = {"kernel": np.zeros((8, 1), np.float32), "bias": np.zeros(1, np.float32)}

    @jax.jit
    def run(params):
        def step(params, key):
            def total(params):
                found = loss(params, key)
                return found.sum / found.denom, found.metrics["reward"]

            gradient, (reward, count) = jax.grad(total, has_aux=True)(params)
            rates = {"retriever": 0.2, "generator": 0.2, "critic": 0.01}
            steps = {
                name: jax.tree.map(lambda g, rate=rate: rate * g, gradient[name])
                for name, rate in rates.items()
            }
            return jax.tree.map(jnp.subtract, params, steps), reward / count

        return jax.lax.scan(step, params, jax.random.split(jax.random.PRNGKey(2), 150))[1]

    rewards = np.asarray(run(toy.params | {"critic": critic}))
    assert rewards[-20:].mean() > rewards[:20].mean() + 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 1}, r"objective.samples is 1; objective.advantage rloo needs at least 2"),
        ({"samples": 0, "advantage": "reinforce"}, r"objective.samples is 0; .* at least 1"),
        ({"updates": 0}, r"objective.updates is 0; it must be at least 1"),
        ({"trace": 1.5}, r"objective.trace is 1.5; it must lie between 0 and 1"),
        ({"samples": 0, "advantage": "gae"}, r"objective.samples is 0; .* gae needs at least 1"),
        ({"entropy_weight": -1.0}, r"objective.entropy_weight is -1.0; it must not be negative"),
        (
            {"reward_weight": 0.0, "advantage": "gae"},
            r"objective.reward_weight is 0, so objective.advantage gae's critic has nothing",
        ),
        (
            {"reward_weight": 0.0, "whiten": True},
            r"objective.reward_weight is 0, .* that objective.whiten could be about; leave it at",
        ),
        ({"clip": 0.0}, r"objective.clip is 0.0; it must be positive"),
        ({"kl_weight": -0.1}, r"objective.kl_weight is -0.1; it must not be negative"),
        (
            {"reward_weight": 0.0, "kl_weight": 0.1},
            r"objective.reward_weight is 0, so there are no",
        ),
        ({"reward_weight": -1.0}, r"objective.reward_weight is -1.0; it must not be negative"),
        (
            {"likelihood_weight": 0.0, "reward_weight": 0.0},
            r"objective.likelihood_weight and objective.reward_weight are both 0",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Joint(**fields)
