"""Policies that retrieve: π(a|s) = Σ_d p(d|s) π(a|s,d) over the top-K passages of an environment.

The latent passage is one of a step (as in RAG-Token) or one of an episode (as in RAG-Sequence). Of an
episode it is retrieved by the first observation, and what was done since says which passage it was:

    π(a_t|h_t) = Σ_d w_t(d) π(a_t|s_t,d),   w_t(d) ∝ p(d|s_0) Π_{i<t} π(a_i|s_i,d)

so that Π_t π(a_t|h_t) = Σ_d p(d|s_0) Π_t π(a_t|s_t,d), the marginal of the whole episode.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.encoder import PerceptronEncoder
from ragjax.models.layers import Perceptron
from ragjax.models.policy import Policy, require_single_actions, require_widths
from ragjax.models.retriever import Dense
from ragjax.ops.distributions import (
    Categorical,
    JointCategorical,
    MarginalCategorical,
    StraightThroughCategorical,
)
from ragjax.ops.marginal import log_posterior
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.corpus import gather_passages
from ragjax.types import Env, PolicyModel, Retrieved, TopK

MISS, EMPTY = (
    -1,
    -2,
)  # rows of `Retrieved`: nothing, and the empty passage that is read if nothing is found
Estimator = Literal["marginal", "sampled", "gumbel", "attention"]
Latent = Literal["step", "episode"]
Reads = Literal["both", "passage", "value"]


def two_matrices(width: int = 32, initial_scale: float = 5.0, refresh_every: int = 1) -> Dense:
    """A retriever that embeds observations and the features of passages by one matrix each."""
    matrix = PerceptronEncoder(width=width)
    return Dense(matrix, matrix, initial_scale=initial_scale, refresh_every=refresh_every)


@dataclass(frozen=True)
class RetrievalPolicy(Policy):
    """A policy that reads K passages of its environment, with a critic over the same ones.

    Observation and passages are embedded, the K best are found in an index, and every one of them is
    read together with the observation by the policy's perceptron. Of a passage that is text, its
    embedding is read. The critic is Σ_d p(d|s) v(s,d); it does not train the retriever.

    Attributes:
      k: K.
      hidden: widths of the hidden layers of policy and critic.
      retriever: how p(d|s) comes about, with an encoder for observations and one for passages; a
        learned one that goes by embeddings alone.
      latent: whether a passage explains one `step` or a whole `episode`; the latter needs an environment
        whose observations hold the episode (`history`).
      estimator: how the policy gradient passes the sum over passages. `marginal`: exactly. `sampled`:
        a passage is drawn with each action, and both are scored. `gumbel`: passages are drawn first,
        with a relaxed gradient. `attention`: no sum over passages but one over their features,
        Σ_d p(d|s) d, which is read in their place.
      reads: what the policy's heads see: the observation and the passage (`both`), or the `passage`
        alone, so that the observation acts through retrieval only and can't be learned by heart; or its
        `value`, all but the key that it is found by. The critic sees both.
      copy_scale: c at the start, learned: logits grow by c times what was done in the passage, one-hot.
        So a policy begins by acting as was done in the passages that it finds, each by p(d|s). 0 for
        none, else of an environment whose passages tell what was done.
      drawn: passages that `gumbel` draws.
      temperature: of the relaxation of `gumbel`.
    """

    k: int = 4
    hidden: tuple[int, ...] = (64,)
    retriever: RetrieverSpec = field(default_factory=two_matrices)
    latent: Latent = "step"
    estimator: Estimator = "marginal"
    reads: Reads = "both"
    copy_scale: float = 0.0
    drawn: int = 1
    temperature: float = 1.0

    @property
    def on_mesh(self) -> bool:
        """What its retriever says."""
        return self.retriever.on_mesh

    def __post_init__(self):
        """Checks the fields."""
        for name in ("k", "drawn"):
            value = getattr(self, name)
            require(value >= 1, f"policy.{name} is {value}; it must be at least 1.")
        require_widths(self.hidden)
        require(
            self.temperature > 0,
            f"policy.temperature is {self.temperature}; it must be positive.",
        )
        for name, kind in (("latent", Latent), ("estimator", Estimator), ("reads", Reads)):
            value, options = getattr(self, name), get_args(kind)
            require(
                value in options, f"policy.{name} is {value!r}; choose one of {', '.join(options)}."
            )
        require(
            0 <= self.copy_scale < math.inf,
            f"policy.copy_scale is {self.copy_scale}; it must be finite and not negative.",
        )
        require_refreshed_in_steps(self.retriever)
        require(
            self.drawn <= self.k,
            f"policy.drawn is {self.drawn}, more than the policy.k {self.k} passages retrieved.",
        )
        require(
            self.latent == "step" or self.estimator == "marginal",
            f"policy.latent is 'episode' with policy.estimator {self.estimator!r}; the posterior over "
            "an episode's passages is that of the marginal, so use policy.estimator marginal.",
        )

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations, passages and actions.

        Args:
          env: the environment; its arrays may be traced.
          contents: [N,F] features or [N,P] tokens that are read in each passage's place, its own if
            None. Search and p(d|s) are always those of the passages: with contents in another order,
            what is read is not what was found.

        Raises:
          UserError: the retriever can't score observations, the environment has no passages or too
            few, its passages are text and the retriever's encoder reads numbers, or the other way
            round, or its observations do not hold the episode where the latent is one of the episode.
        """
        require_single_actions(env, "a RetrievalPolicy")
        stored = require_retrievable(self.retriever, env, self.k)
        contents = stored if contents is None else contents
        shape = jnp.shape(env.low)
        whole = self.latent == "episode"
        require(
            len(shape) == (2 if whole else 1),
            f"policy.latent is {self.latent!r}, but observations have shape {shape}; "
            + ("set env.history." if whole else "unset env.history."),
        )
        actions = env.num_actions
        size = shape[-1] - actions - 1 if whole else shape[-1]
        retriever = self.retriever.build(
            env.vocabulary, query_width=size, passage_width=stored.shape[-1]
        )
        text = jnp.issubdtype(stored.dtype, jnp.integer)
        parts = self._passage_parts(env)
        value = np.setdiff1d(np.arange(stored.shape[-1]), parts.get("key", []))
        policy = Perceptron(self.hidden, actions, "tanh", 0.01)
        critic = Perceptron(self.hidden, 1, "tanh", 1.0)

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            keys = jax.random.split(key, 3)
            params = {"retriever": retriever.init(keys[0])}
            width = stored.shape[-1]
            if text:
                width = jax.eval_shape(retriever.embed, params, stored[:1]).shape[-1]
            both = jnp.zeros((size + width,))
            alone = {"both": both, "passage": both[size:], "value": both[size:][value]}
            if self.copy_scale:
                params["copy"] = {"scale": jnp.full((), self.copy_scale, jnp.float32)}
            return params | {
                "policy": policy.init(keys[1], alone[self.reads])["params"],
                "value": critic.init(keys[2], both)["params"],
            }

        def embed(params):
            return retriever.index(params, stored)

        def asked_of(observation):
            """[...,O] what is retrieved by: the observation, or the first one of an episode."""
            return observation[..., 0, :size] if whole else observation

        def retrieve(params, index, key, observation):
            query = retriever.query(params, asked_of(observation))
            found = retriever.search(index, query, self.k)
            noise = None
            if self.estimator == "gumbel":
                shape = found.ids.shape
                noise = jnp.zeros(shape) if key is None else jax.random.gumbel(key, shape)
            ids = jnp.where(found.valid & (found.ids < 0), EMPTY, found.ids)
            return Retrieved(observation, ids, noise)

        def read(module, params, observation, features) -> Any:
            """[...,O] and [...,K,F] -> the module's output [...,K,n]."""
            if module is policy and self.reads != "both":
                alone = features[..., value] if self.reads == "value" else features
                return module.apply({"params": params}, alone)
            wide = (*features.shape[:-1], observation.shape[-1])
            observed = jnp.broadcast_to(observation[..., None, :], wide)
            return module.apply({"params": params}, jnp.concatenate([observed, features], axis=-1))

        def logits_of(params, observation, features):
            """[...,K,A] of the policy that has read each passage."""
            logits = read(policy, params["policy"], observation, features)
            if self.copy_scale:
                logits += params["copy"]["scale"] * features[..., parts["action"]]
            return logits

        def apply(params, seen: Retrieved):
            features = gather_passages(contents, seen.ids)
            if text:
                features = retriever.embed(params, features)
            asked = asked_of(seen.observation)
            query = retriever.query(params, asked)
            found = TopK(seen.ids, None, seen.ids != MISS)
            log_prior = retriever.log_prior(params, query, stored, found)
            now = asked
            if whole:
                log_prior, now = follow(params, seen.observation, features, log_prior)
            weight, known = jax.lax.stop_gradient((jnp.exp(log_prior), features))
            expected = jnp.sum(weight * read(critic, params["value"], now, known)[..., 0], axis=-1)
            if self.estimator == "attention":
                mixed = jnp.einsum("...k,...kf->...f", jnp.exp(log_prior), features)
                logits = logits_of(params, now, mixed[..., None, :])[..., 0, :]
                return Categorical(logits), expected
            logits = logits_of(params, now, features)
            return self._distribution(log_prior, logits, seen.noise), expected

        def follow(params, history, features, log_prior):
            """The weights w_t(d) [...,K] after what was done so far, and the observation now [...,O]."""
            steps, done = history[..., :size], history[..., size : size + actions]
            several = jnp.broadcast_to(
                features[..., None, :, :], (*steps.shape[:-1], *features.shape[-2:])
            )
            log_probs = jax.nn.log_softmax(logits_of(params, steps, several), axis=-1)
            # Rows of steps that are still to come, and the current one, have no action: all zeros.
            log_likelihood = jnp.einsum("...la,...lka->...k", done, log_probs)
            present = history[..., -1]
            current = jnp.sum(present, axis=-1).astype(jnp.int32) - 1
            row = jnp.maximum(current, 0)[..., None, None]
            now = jnp.take_along_axis(steps, row, axis=-2)[..., 0, :]
            return log_posterior(log_prior, log_likelihood), now

        # Weight decay may move embeddings that no gradient moves.
        every = self.retriever.refresh_every_in_step or 1
        return PolicyModel(init, apply, embed, retrieve, every)

    def _passage_parts(self, env: Env) -> dict[str, np.ndarray]:
        """Name -> which of a passage's features these are.

        Raises:
          UserError: `reads` or `copy_scale` is about one that the environment's passages don't have.
        """
        widths = env.passage_parts or {}
        ends = np.cumsum(list(widths.values()), dtype=int)
        parts = {
            name: np.arange(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }
        require(
            self.reads != "value" or "key" in parts,
            "policy.reads is 'value', but the environment's passages have no key apart from a value; "
            "choose 'passage'.",
        )
        require(
            self.copy_scale == 0 or len(parts.get("action", ())) == env.num_actions,
            f"policy.copy_scale is {self.copy_scale}, but the environment's passages don't tell what "
            "was done; leave it at 0.",
        )
        return parts

    def _distribution(self, log_prior: Array, logits: Array, noise: Array | None) -> Any:
        """Over actions, or over passages and actions, from log p(d|s) [...,K] and logits [...,K,A]."""
        if self.estimator == "sampled":
            return JointCategorical(log_prior, logits)
        if self.estimator == "gumbel":
            return StraightThroughCategorical(
                log_prior, logits, noise, self.drawn, self.temperature
            )
        return MarginalCategorical(log_prior, logits)


def require_refreshed_in_steps(retriever: RetrieverSpec) -> None:
    """Raises a `UserError` if a policy's retriever refreshes its index beside the steps."""
    require(
        not retriever.refresh_every_beside,
        "policy.retriever refreshes its index beside the training, but a policy's is refreshed in its "
        "steps; set policy.retriever.asynchronous to false.",
    )


def require_retrievable(retriever: RetrieverSpec, env: Env, k: int) -> Array:
    """Returns the passages of an environment, [N,F] or [N,P], if a policy can retrieve k of them.

    Raises:
      UserError: the retriever can't score observations, or the environment has no passages or too few.
    """
    require(
        retriever.learned and not retriever.fuses,
        f"policy.retriever is a {type(retriever).__name__}, which looks up the words of questions and "
        "can't score observations; choose a learned one that goes by embeddings alone, such as Dense.",
    )
    require(
        retriever.reads is None,
        "policy.retriever.encoder has a tokenizer of its own, but an environment's texts are tokens "
        "already; choose an encoder that reads any, such as BagEncoder.",
    )
    require(
        env.passages is not None,
        "policy is one that retrieves, but the environment has no passages to retrieve; choose one "
        "that has, or policy ActorCritic.",
    )
    count = len(env.passages)
    require(
        k <= count,
        f"policy.k is {k}, but the environment has {count} passages; choose at most that many.",
    )
    return jnp.asarray(env.passages)
