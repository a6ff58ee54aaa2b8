"""Each loss against its formula in loops of float64, and its gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops import distillation as ops

B, K, T = 24, 4, 3
TEMPERATURE, GAMMA, BETA = 0.7, 0.8, 0.4
OPTIONS = {"temperature": TEMPERATURE}


def replug(log_prior, token_logprobs, mask):
    scores = ops.answer_scores(token_logprobs, mask, True)
    return ops.replug(log_prior, scores, retriever_temperature=GAMMA, reader_temperature=BETA)


LOSSES = {
    "emdr2_sequence": ops.emdr2_sequence,
    "emdr2_token": ops.emdr2_token,
    "perplexity": lambda *a: ops.perplexity_distillation(*a, **OPTIONS),
    "perplexity_whole": lambda *a: ops.perplexity_distillation(*a, **OPTIONS, per_token=False),
    "leave_one_out": lambda *a: ops.leave_one_out(*a, **OPTIONS),
    "leave_one_out_whole": lambda *a: ops.leave_one_out(*a, **OPTIONS, per_token=False),
    "replug": replug,
}


@jax.jit
def values(log_prior, token_logprobs, mask):
    """Name -> [B]."""
    return {name: loss(log_prior, token_logprobs, mask) for name, loss in LOSSES.items()}


@jax.jit
def gradients(log_prior, token_logprobs, mask):
    """Name -> gradients of the sum over all but impossible rows, by both arrays."""
    some = jnp.any(~jnp.isneginf(log_prior), axis=-1)

    def of(loss):
        def total(*arrays):
            return jnp.sum(jnp.where(some, loss(*arrays, mask), 0.0))

        return jax.grad(total, (0, 1))(log_prior, token_logprobs)

    return {name: of(loss) for name, loss in LOSSES.items()}


def softmax(scores):
    weights = [np.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def by_hand(prior, chance, length):
    """The losses of one example, of its hits alone: prior [k] and chance [k,T], plain numbers."""
    count = len(prior)
    whole = [np.prod(chance[k][:length]) for k in range(count)]
    found = {
        "emdr2_sequence": -np.log(sum(prior[k] * whole[k] for k in range(count))),
        "emdr2_token": -sum(
            np.log(sum(prior[k] * chance[k][t] for k in range(count))) for t in range(length)
        ),
    }
    without = []
    for k in range(count):
        rest = [j for j in range(count) if j != k]
        if rest:
            mass = sum(prior[j] for j in rest)
            without.append(sum(prior[j] / mass * whole[j] for j in rest))
    for suffix, divisor in (("", length), ("_whole", 1)):
        scores = [np.log(each) / divisor for each in whole]
        found[f"perplexity{suffix}"] = kl(softmax([s / TEMPERATURE for s in scores]), prior)
        left = [-np.log(each) / divisor / TEMPERATURE for each in without]
        found[f"leave_one_out{suffix}"] = kl(softmax(left), prior) if left else 0.0
        if not suffix:
            retriever = softmax([np.log(each) / GAMMA for each in prior])
            found["replug"] = kl(retriever, softmax([score / BETA for score in scores]))
    return found


def cases(total=1.0, seed=0):
    """Drawn examples with misses, ties and short answers; the priors of a row add up to `total`."""
    rng = np.random.default_rng(seed)
    prior, chance = rng.dirichlet(np.ones(K), B), rng.uniform(0.02, 1.0, (B, K, T))
    chance[3, 1], prior[3, 1] = chance[3, 0], prior[3, 0]  # a tie
    chance[4] = chance[4, :1]  # a reader that tells nothing apart
    prior[5] = 1 / K
    hits = rng.random((B, K)) < 0.8
    hits[:6], hits[6], hits[7] = True, [True, False, False, False], [False, False, True, True]
    hits[~hits.any(-1), 2] = True
    prior = np.where(hits, prior, 0.0)
    prior *= total / prior.sum(-1, keepdims=True)
    length = rng.integers(1, T + 1, B)
    return prior, chance, hits, length


def arrays_of(prior, chance, hits, length, garbage=-3.0):
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior).astype(np.float32)
    told = np.where(hits[..., None], np.log(chance), garbage).astype(np.float32)
    mask = np.arange(T) < length[:, None]
    return log_prior, np.where(mask[:, None], told, np.float32(garbage)), mask


@pytest.mark.parametrize("total", [1.0, 0.6])
def test_values_by_hand(total):
    """Where the prior adds up to less than one the rest lies on passages of which the target is 0."""
    prior, chance, hits, length = cases(total)
    found = values(*arrays_of(prior, chance, hits, length))
    for b in range(B):
        expected = by_hand(prior[b][hits[b]], chance[b][hits[b]], length[b])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][b], value, rtol=1e-4, atol=2e-6, err_msg=name)
    assert all(np.all(np.isfinite(value)) for value in found.values())
    if total == 1:
        for name in set(LOSSES) - {"emdr2_sequence", "emdr2_token"}:
            assert np.all(np.asarray(found[name]) > -1e-6), name  # a divergence
        # A reader that tells nothing apart teaches the uniform prior; which row 5 has already.
        assert abs(found["perplexity"][5]) > 1e-3


def test_a_retriever_that_agrees_has_nothing_to_learn():
    """The prior is the target: value and gradient by the scores are 0."""
    _, chance, hits, length = cases()
    whole = [[np.prod(chance[b, k][: length[b]]) for k in range(K)] for b in range(B)]
    agreed = np.where(hits, np.array(whole) ** (1 / TEMPERATURE), 0.0)
    agreed /= agreed.sum(-1, keepdims=True)
    log_prior, told, mask = arrays_of(agreed, chance, hits, length)
    assert np.max(np.abs(values(log_prior, told, mask)["perplexity_whole"])) < 1e-5
    (by_prior, _) = gradients(log_prior, told, mask)["perplexity_whole"]
    np.testing.assert_allclose(
        by_prior, -agreed, atol=1e-5
    )  # through a softmax: agreed - prior = 0


def test_the_direction_of_each_divergence():
    """Weight on a passage of which the reader thinks nothing costs REPLUG's retriever most."""
    told = np.log(np.array([[[0.9], [0.9], [1e-6]]], np.float32))
    log_prior, mask = np.log(np.full((1, 3), 1 / 3, np.float32)), np.ones((1, 1), bool)
    each = values(log_prior, told, mask)
    assert each["replug"][0] > 5  # 1/3 log (1/3 / Q(3)), Q(3) = 1e-15
    np.testing.assert_allclose(each["perplexity"][0], np.log(3 / 2), rtol=1e-3)


def test_only_the_prior_learns():
    for name, (by_prior, by_reader) in gradients(*arrays_of(*cases())).items():
        assert np.all(np.asarray(by_reader) == 0), name
        moved = np.any(np.asarray(by_prior) != 0, axis=-1)
        single = cases()[2].sum(-1) < 2
        expected = ~single if name.startswith("leave_one_out") else np.ones(B, bool)
        if name == "replug":  # a softmax over one hit
            expected = ~single
        np.testing.assert_array_equal(moved, expected, err_msg=name)


@pytest.mark.parametrize("name", [name for name in LOSSES if "leave_one_out" not in name])
def test_gradients(name):
    """By the scores behind the prior, in float64."""
    prior, chance, hits, length = (part[:8] for part in cases())
    _, told, mask = arrays_of(prior, chance, hits, length)
    with jax.enable_x64(True):
        arrays = jnp.asarray(told, jnp.float64), jnp.asarray(mask)

        def loss(logits):
            log_prior = jax.nn.log_softmax(jnp.where(hits, logits, -1e9))
            return LOSSES[name](jnp.where(hits, log_prior, -jnp.inf), *arrays)

        check_grads(jax.jit(loss), (np.log(np.where(hits, prior, 1.0)),), order=1, modes=["rev"])


def test_leaving_one_out_moves_the_prior_and_not_its_own_target():
    """The target is made of the prior, too, so that finite differences would be wrong."""
    prior, chance, hits, length = cases()
    found = gradients(*arrays_of(prior, chance, hits, length))["leave_one_out"][0]
    for b in range(B):
        rows, target = np.flatnonzero(hits[b]), np.zeros(K)
        if len(rows) > 1:
            left = [
                sum(prior[b, j] * np.prod(chance[b, j, : length[b]]) for j in rows if j != k)
                / sum(prior[b, j] for j in rows if j != k)
                for k in rows
            ]
            target[rows] = softmax([-np.log(each) / length[b] / TEMPERATURE for each in left])
        np.testing.assert_allclose(found[b], -target, atol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_a_miss_has_no_weight_and_no_gradient(garbage):
    case = cases()
    clean, dirty = arrays_of(*case), arrays_of(*case, garbage=garbage)
    for name, value in values(*dirty).items():
        np.testing.assert_array_equal(value, values(*clean)[name])
        for slope, expected in zip(gradients(*dirty)[name], gradients(*clean)[name], strict=True):
            np.testing.assert_array_equal(slope, expected)
        assert np.all(np.asarray(gradients(*dirty)[name][0])[~case[2]] == 0)


def test_misses_alone_teach_nothing():
    log_prior, told, mask = arrays_of(*cases())
    log_prior[0], told[0] = -np.inf, np.nan
    for name, value in values(log_prior, told, mask).items():
        assert value[0] == (np.inf if name.startswith("emdr2") else 0.0), name
        assert np.all(np.isfinite(value[1:])), name
        for slope in gradients(log_prior, told, mask)[name]:
            assert np.all(np.asarray(slope)[0] == 0), name


def test_one_passage():
    """It is certain: there is nothing to learn, and the likelihood is the reader's own."""
    log_prior, told, mask = (
        np.zeros((2, 1), np.float32),
        np.log([[[0.5]], [[0.2]]]),
        np.ones((2, 1), bool),
    )
    for name, value in values(log_prior, told.astype(np.float32), mask).items():
        expected = -told[:, 0, 0] if name.startswith("emdr2") else [0.0, 0.0]
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


def test_leave_one_out_scores_by_hand():
    prior, chance, hits, _ = cases()
    whole = np.prod(chance, -1)
    with np.errstate(divide="ignore"):
        found = np.exp(
            ops.leave_one_out_scores(
                *map(
                    jnp.asarray,
                    (np.log(prior).astype(np.float32), np.log(whole).astype(np.float32)),
                )
            )
        )
    for b in range(B):
        for k in range(K):
            rest = [j for j in range(K) if j != k and hits[b, j]]
            mass = sum(prior[b, j] for j in rest)
            expected = sum(prior[b, j] * whole[b, j] for j in rest) / mass if rest else 1.0
            np.testing.assert_allclose(found[b, k], expected, rtol=1e-4)


def attention(seed=0, J=2, S=5):
    rng = np.random.default_rng(seed)
    logits, norms = rng.normal(size=(3, K, J, T, S)), rng.uniform(0.5, 2, (3, K, J, S))
    source, mask = rng.random((3, K, S)) < 0.7, np.arange(T) < np.array([3, 1, 2])[:, None]
    source[..., 0] = True
    source[1, 2] = False  # a miss
    return logits.astype(np.float32), norms.astype(np.float32), source, mask


def test_attention_by_hand():
    logits, norms, source, mask = attention()
    scores = jax.jit(ops.attention_scores)(logits, source, mask)
    mass = jax.jit(ops.attention_mass)(logits, norms, source, mask)
    for b in range(3):
        answered = [t for t in range(T) if mask[b, t]]
        heads = [(j, t) for j in range(2) for t in answered]
        for k in range(K):
            read = [s for s in range(5) if source[b, k, s]]
            each = [logits[b, k, j, t, s] for j, t in heads for s in read]
            np.testing.assert_allclose(scores[b, k], np.mean(each) if each else 0.0, rtol=1e-4)
            total = 0.0
            for j, t in heads:
                everywhere = np.where(source[b], np.exp(logits[b, :, j, t].astype(float)), 0.0)
                shares = everywhere / everywhere.sum()
                total += sum(shares[k, s] * norms[b, k, j, s] for s in read)
            np.testing.assert_allclose(mass[b, k], total / len(heads), rtol=1e-4)


def test_attention_of_equal_norms_is_shared_out():
    logits, norms, source, mask = attention()
    mass = ops.attention_mass(*map(jnp.asarray, (logits, np.ones_like(norms), source, mask)))
    np.testing.assert_allclose(jnp.sum(mass, axis=-1), 1.0, rtol=1e-5)


def test_where_nothing_is_read_or_said_attention_is_finite():
    logits, norms, source, mask = attention()
    arrays = map(jnp.asarray, (logits, norms, np.zeros_like(source), mask))
    assert np.all(np.asarray(ops.attention_mass(*arrays)) == 0)
    silent = jnp.zeros_like(jnp.asarray(mask))
    assert np.all(
        np.asarray(ops.attention_scores(jnp.asarray(logits), jnp.asarray(source), silent)) == 0
    )
