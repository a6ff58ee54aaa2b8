"""What a retriever learns from what a reader says of each passage.

Every loss is of one example, [B]: a sum over its K passages. The objective adds the examples up and
divides by their number, so that a divergence is summed over K and averaged over the batch. The code
released with FiD, Atlas and REPLUG averages over B·K (`KLDivLoss()`): the gradient is 1/K of this one.

The reader's part has no gradient in any of them: they train the retriever alone. `log_prior` is
log p(d_k|x), -inf at a miss, which has no weight and no gradient, whatever the reader said there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ragjax.ops.marginal import marginal, rag_token, sequence_logprobs
from ragjax.ops.masking import masked_log_softmax, masked_logsumexp


def kl_divergence(
    log_p: Float[Array, "*batch K"], log_q: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Computes KL(p || q) = Σ_k p_k (log p_k - log q_k); where p_k is 0 (-inf) nothing is added.

    Where q adds up to less than one over these K, the rest of it lies where p is 0, and the value is
    still the divergence of the whole distributions.

    Args:
      log_p: [...,K].
      log_q: [...,K]; at least 0 wherever p is.

    Returns:
      [...] in nats.
    """
    possible = ~jnp.isneginf(log_p)
    difference = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.sum(jnp.where(possible, jnp.exp(log_p) * difference, 0.0), axis=-1)


def distil(
    log_prior: Float[Array, "B K"], scores: Float[Array, "B K"], temperature: float = 1.0
) -> Float[Array, "B"]:
    """Computes KL(softmax_k(scores / temperature) || p(d|x)), the softmax over the hits.

    Args:
      log_prior: [B,K] log p(d_k|x).
      scores: [B,K] what each passage is worth to the reader; no gradient.
      temperature: of the target.

    Returns:
      [B]; 0 where there are misses alone.
    """
    valid = ~jnp.isneginf(log_prior)
    target = masked_log_softmax(jax.lax.stop_gradient(scores) / temperature, valid)
    return kl_divergence(target, log_prior)


def answer_scores(
    token_logprobs: Float[Array, "B K T"], mask: Bool[Array, "B T"], per_token: bool
) -> Float[Array, "B K"]:
    """Computes log p(y|x,d_k), divided by the answer's length if `per_token`."""
    whole = sequence_logprobs(token_logprobs, mask)
    if not per_token:
        return whole
    return whole / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(whole.dtype)


def emdr2_sequence(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B"]:
    """The retriever's term of EMDR2 as published (Sachan et al., arXiv 2106.05346, section 2.3).

        -log Σ_k p(d_k|x) sg(p(y|x,d_k)),   sg without gradient

    Args:
      log_prior: [B,K] log p(d_k|x).
      token_logprobs: [B,K,T] log p(y_t|x,d_k,y_<t); no gradient.
      mask: [B,T] True on the target's tokens.

    Returns:
      [B]; infinite, without a gradient, where there are misses alone.
    """
    return -marginal(log_prior, jax.lax.stop_gradient(sequence_logprobs(token_logprobs, mask)))


def emdr2_token(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B"]:
    """The same, marginal at each token, as in the released code and as Atlas' "EMDR2".

        -Σ_t log Σ_k p(d_k|x) sg(p(y_t|x,d_k,y_<t))

    Atlas averages over the tokens of the batch; here tokens are added up. Arguments as of
    `emdr2_sequence`.
    """
    # What stands at padding must not reach the gradient either, where 0 * inf is NaN.
    said = jnp.where(mask[:, None], jax.lax.stop_gradient(token_logprobs), 0.0)
    return -rag_token(log_prior, said, mask)


def perplexity_distillation(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
    *,
    temperature: float = 1.0,
    per_token: bool = True,
) -> Float[Array, "B"]:
    """Perplexity distillation, PDist (Izacard et al., arXiv 2208.03299, section 2.2).

        KL(softmax_k(log p(y|x,d_k) / temperature) || p(d|x))

    The paper writes log p(y|x,d_k); its code ("ppmean") takes the mean over the tokens.

    Args:
      log_prior: [B,K] log p(d_k|x).
      token_logprobs: [B,K,T] log p(y_t|x,d_k,y_<t); no gradient.
      mask: [B,T] True on the target's tokens.
      temperature: of the target.
      per_token: whether log p(y|x,d_k) is divided by the answer's length.

    Returns:
      [B].
    """
    return distil(log_prior, answer_scores(token_logprobs, mask, per_token), temperature)


def leave_one_out_scores(
    log_prior: Float[Array, "B K"], log_likelihood: Float[Array, "B K"]
) -> Float[Array, "B K"]:
    """Computes log p(y|x, D - d_k), the marginal over all passages but one.

        p(y|x, D - d_k) = Σ_{j≠k} p(d_j|x) p(y|x,d_j) / Σ_{j≠k} p(d_j|x)

    A mixture has no other meaning of "without the passage": the prior is renormalised over the rest.

    Args:
      log_prior: [B,K] log p(d_k|x); it need not sum to one.
      log_likelihood: [B,K] log p(y|x,d_k).

    Returns:
      [B,K]; 0 where no other passage is left.
    """
    valid = ~jnp.isneginf(log_prior)
    size = valid.shape[-1]
    others = valid[:, None, :] & ~jnp.eye(size, dtype=bool)
    left = jnp.any(others, axis=-1)

    def total(logits):
        spread = jnp.broadcast_to(logits[:, None, :], others.shape)
        return jnp.where(left, masked_logsumexp(spread, others), 0.0)

    prior = jnp.where(valid, log_prior, 0.0)
    return total(prior + log_likelihood) - total(prior)


def leave_one_out(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
    *,
    temperature: float = 1.0,
    per_token: bool = True,
) -> Float[Array, "B"]:
    """Leave-one-out perplexity distillation, LOOP (Izacard et al., arXiv 2208.03299, section 2.2).

        KL(softmax_k(-log p(y|x, D - d_k) / temperature) || p(d|x))

    The reader of the paper sees the other K-1 passages at once; here it is their mixture, see
    `leave_one_out_scores`. Arguments as of `perplexity_distillation`.

    Returns:
      [B]; 0 of an example with fewer than two hits, of which nothing can be left out.
    """
    likelihood = sequence_logprobs(token_logprobs, mask)
    scores = -leave_one_out_scores(log_prior, likelihood)
    if per_token:
        scores = scores / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(scores.dtype)
    enough = jnp.sum(~jnp.isneginf(log_prior), axis=-1) >= 2
    return jnp.where(enough, distil(log_prior, scores, temperature), 0.0)


def replug(
    log_prior: Float[Array, "B K"],
    scores: Float[Array, "B K"],
    *,
    retriever_temperature: float = 1.0,
    reader_temperature: float = 1.0,
) -> Float[Array, "B"]:
    """LM-supervised retrieval, LSR (Shi et al., arXiv 2301.12652, section 4).

        KL(P || Q),   P = softmax_k(log p(d_k|x) / γ),   Q = softmax_k(scores / β)

    It is the retriever that weighs the logarithms, unlike in distillation. The released code has them
    the other way round.

    Args:
      log_prior: [B,K] log p(d_k|x); P is over the hits, whatever it was normalised over.
      scores: [B,K] what each passage is worth to the reader; no gradient.
      retriever_temperature: γ.
      reader_temperature: β.

    Returns:
      [B]; 0 where there are misses alone.
    """
    valid = ~jnp.isneginf(log_prior)
    # Divided only where it is finite: the gradient of an infinite one is no number.
    retriever = masked_log_softmax(jnp.where(valid, log_prior, 0.0) / retriever_temperature, valid)
    reader = masked_log_softmax(jax.lax.stop_gradient(scores) / reader_temperature, valid)
    return kl_divergence(retriever, reader)


def attention_scores(
    logits: Float[Array, "B K J T S"],
    source: Bool[Array, "B K S"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B K"]:
    """The mean pre-softmax cross-attention score of each passage, after Izacard & Grave (2012.04584).

    The mean is over the source's tokens, the question's among them, over heads and layers, and over the
    tokens of the answer, of which the released code takes the first. Scores before the softmax can be
    compared between passages that were read apart; weights after it add up to one for each.

    Args:
      logits: [B,K,J,T,S] of J heads in all layers.
      source: [B,K,S] True on the source's tokens.
      mask: [B,T] True on the target's tokens.

    Returns:
      [B,K].
    """
    kept = source[:, :, None, None, :] & mask[:, None, None, :, None]
    count = jnp.sum(kept, axis=(2, 3, 4)) * logits.shape[2]
    total = jnp.sum(jnp.where(kept, logits, 0.0), axis=(2, 3, 4))
    return total / jnp.maximum(count, 1).astype(total.dtype)


def attention_mass(
    logits: Float[Array, "B K J T S"],
    value_norms: Float[Array, "B K J S"],
    source: Bool[Array, "B K S"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B K"]:
    """The attention that falls on each passage, weighted by its values (arXiv 2208.03299, section 2.2).

        s_k = mean_{j,t} Σ_{i in d_k} a_jti ||v_ji||,   a_jt = softmax over the tokens of all K passages

    The reader of the paper attends to all passages at once. Here each was read alone, and the softmax
    joins what the K readings would have attended to.

    Args:
      logits: [B,K,J,T,S] of J heads in all layers.
      value_norms: [B,K,J,S] Euclidean norms of the values.
      source: [B,K,S] True on the source's tokens of passages that count.
      mask: [B,T] True on the target's tokens.

    Returns:
      [B,K].
    """
    kept = jnp.broadcast_to(source[:, :, None, None, :], logits.shape)
    # [B,J,T,K,S], so that the last two axes are those of the softmax.
    logits, kept = jnp.moveaxis(logits, 1, 3), jnp.moveaxis(kept, 1, 3)
    flat = (*logits.shape[:3], -1)
    weights = jnp.exp(masked_log_softmax(logits.reshape(flat), kept.reshape(flat)))
    norms = jnp.moveaxis(value_norms, 1, 2)[:, :, None]
    mass = jnp.sum(jnp.where(kept, weights.reshape(logits.shape) * norms, 0.0), axis=-1)
    answered = mask[:, None, :, None]
    total = jnp.sum(jnp.where(answered, mass, 0.0), axis=(1, 2))
    count = jnp.maximum(jnp.sum(mask, axis=-1) * logits.shape[1], 1)
    return total / count[:, None].astype(total.dtype)
