"""Likelihood and reward together: each alone is what it should be, and both reach the retriever."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ragjax.errors import UserError
from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.base import Context
from ragjax.objectives.distillation import Replug
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, RagToken, retrieve
from ragjax.objectives.rewards import ExactMatch, HostReward, Reward, Total
from ragjax.ops.augmentation import random_renaming
from ragjax.ops.marginal import log_posterior, marginal, rag_sequence
from ragjax.retrieval.corpus import gather_passages
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
    embeddings = jax.jit(toy.model.retriever.embed)(toy.params, corpus)
    given = batch.replace(retrieved=None)

    def loss_of(objective, batch=given):
        def loss(params, key):
            context = Context(toy.model, toy.vocabulary, Dense(), K)
            return objective.loss(context, params, key, batch, corpus=corpus, index=embeddings)

        return loss

    return loss_of, toy, given, embeddings


def test_likelihood_alone_is_rag_sequence_to_the_bit(problem):
    loss_of, toy, *_ = problem
    gradients = []
    for objective in (RagSequence(), Joint(reward=AnswerReward(weight=0.0))):
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
    """Gradients [M,P] of a loss, one a key; with a critic of any values, too."""

    def one(key):
        gradient = jax.grad(lambda params: loss(params | {"critic": CRITIC}, key).sum)(params)
        return ravel_pytree(gradient)[0]

    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


def agreement(drawn, exact):
    """Distance of the mean of gradients from the exact one, in standard errors, and their cosine."""
    mean, error = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    distance = np.linalg.norm(mean - exact) / np.linalg.norm(error)
    return distance, mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact)


@pytest.fixture(scope="module", params=["rloo", "reinforce", "gae"])
def sampled(problem, request):
    """`gradients` of reward alone, by the advantages that leave the expected one as it is."""
    loss_of, toy, *_ = problem
    fields = {"samples": 8, "reward": FirstToken(), "gae_lambda": 1.0}
    reward = AnswerReward(advantage=request.param, **fields)
    return gradients(loss_of(Joint(likelihood_weight=0.0, reward=reward)), toy.params, DRAWS)


@pytest.fixture(scope="module")
def of_the_expected_reward(problem, corpus):
    """-∇ Σ_b Σ_v p(y_1 = v|x_b) R(v), with every token of the vocabulary."""
    _, toy, given, embeddings = problem
    model = toy.model

    def expected(params):
        context = Context(model, toy.vocabulary, Dense(), K)
        topk, log_prior = retrieve(
            RagSequence(), context, params, given, corpus=corpus, index=embeddings
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
    distance, cosine = agreement(np.asarray(sampled), np.asarray(ravel_pytree(gradient)[0]))
    assert 0.5 < distance < 1.5
    assert cosine > 0.9
    retriever = ravel_pytree(gradient["retriever"])[0]
    assert np.linalg.norm(retriever) > 1e-3


@pytest.mark.parametrize("documents", ["retrieved", pytest.param("index", marks=pytest.mark.slow)])
def test_exact_match_moves_by_the_likelihood_times_the_gradient_of_its_logarithm(
    problem, corpus, documents
):
    """∇E[1(y=y*)] = p(y*|x) ∇log p(y*|x), p(d|x) over the K retrieved, in retriever and reader."""
    loss_of, toy, given, embeddings = problem
    model = toy.model
    target = jnp.asarray([[4, 8], [6, 9], [7, 5], [4, 8]])  # likely, so that some are drawn
    short = given.replace(target=target, accepted=jnp.stack([target, 0 * target], axis=1))
    likelihood = RagSequence(documents=documents)
    objective = Joint(likelihood, 0.0, AnswerReward(samples=16, reward=ExactMatch()))

    @jax.jit
    def gradient(renormalised):
        """-Σ_b p(y*|x_b) ∇log p(y*|x_b)."""

        def expected(params):
            context = Context(model, toy.vocabulary, Dense(), K)
            topk, log_prior = retrieve(
                likelihood, context, params, short, corpus=corpus, index=embeddings
            )
            memory = model.encode(params, short.question, gather_passages(corpus, topk.ids))
            said = model.token_logprobs(params, memory, target)
            among = log_posterior(log_prior, jnp.zeros_like(log_prior))
            log_prior = jnp.where(renormalised, among, log_prior)
            log_prob = rag_sequence(log_prior, said, target != PAD_ID)
            return -jnp.sum(short.weight * jax.lax.stop_gradient(jnp.exp(log_prob)) * log_prob)

        return ravel_pytree(jax.grad(expected)(toy.params))[0]

    def parts(rows):
        """Of reader and retriever."""
        size = ravel_pytree(toy.params["reader"])[0].size
        return np.split(np.asarray(rows), [size], axis=-1)

    drawn = parts(gradients(loss_of(objective, short), toy.params, DRAWS))
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
        likelihood=RagSequence(rename_reader=1.0, from_memory=True),
        reward=AnswerReward(samples=64, reward=Total((Says(), ExactMatch()))),
    )
    key = jax.random.PRNGKey(2)

    @jax.jit
    def draw(params):
        context = Context(toy.model, toy.vocabulary, Dense(), K)
        return objective.sample(context, params, key, short, corpus=corpus, index=embeddings)

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


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"advantage": "gae", "whiten": True}, marks=pytest.mark.slow)]
)
def test_steps_on_the_reward_raise_it(problem, fields):
    loss_of, toy, *_ = problem
    reward = AnswerReward(samples=8, reward=FirstToken(), **fields)
    loss = loss_of(Joint(likelihood_weight=0.0, reward=reward))
    critic = {"kernel": np.zeros((8, 1), np.float32), "bias": np.zeros(1, np.float32)}

    @jax.jit
    def run(params):
        def step(params, key):
            def total(params):
                found = loss(params, key)
                return found.sum / found.denom, found.metrics["reward"]

            gradient, (reward, count) = jax.grad(total, has_aux=True)(params)
            rates = {"retriever": 0.2, "reader": 0.2, "critic": 0.01}
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
        ({"samples": 1}, r"samples is 1; objective.reward.advantage rloo needs at least 2"),
        ({"samples": 1, "advantage": "grpo"}, r"samples is 1; .* grpo needs at least 2"),
        ({"samples": 0, "advantage": "reinforce"}, r"samples is 0; .* at least 1"),
        ({"samples": 0, "advantage": "gae"}, r"samples is 0; .* gae needs at least 1"),
        ({"updates": 0}, r"updates is 0; it must be at least 1"),
        ({"gae_lambda": 1.5}, r"gae_lambda is 1.5; it must lie between 0 and 1"),
        ({"clip_eps": 0.0}, r"clip_eps is 0.0; it must be positive"),
        ({"weight": -1.0}, r"weight is -1.0; it must not be negative"),
        ({"kl_coef": -0.1}, r"kl_coef is -0.1; it must not be negative"),
        ({"entropy_coef": -1.0}, r"entropy_coef is -1.0; it must not be negative"),
        ({"weight": 0.0, "advantage": "gae"}, r"weight is 0, .* gae's critic has nothing"),
        *(
            (
                {"weight": 0.0, name: value},
                rf"weight is 0, .* objective.reward.{name} could be about",
            )
            for name, value in zip(
                ("whiten", "updates", "kl_coef", "entropy_coef"), (True, 2, 0.1, 0.1), strict=True
            )
        ),
    ],
)
def test_bad_fields_of_the_reward_are_named(fields, message):
    with pytest.raises(UserError, match=rf"^objective\.reward\.{message}"):
        AnswerReward(**fields)


def test_bad_fields_are_named():
    nothing = AnswerReward(weight=0.0)
    for fields, message in (
        ({"likelihood_weight": -1.0}, r"objective.likelihood_weight is -1.0; it must not"),
        (
            {"likelihood_weight": 0.0, "reward": nothing},
            r"objective.likelihood_weight and objective.reward.weight are both 0",
        ),
    ):
        with pytest.raises(UserError, match=message):
            Joint(**fields)
    with pytest.raises(UserError, match=r"objective.likelihood is a Replug, but Joint .* give one"):
        Joint(Replug())
    joint = Joint()
    object.__setattr__(joint, "likelihood", RagToken())  # else the tests' own check comes first
    with pytest.raises(UserError, match=r"objective.likelihood is a RagToken, .* give one"):
        joint.__post_init__()
