"""A dialogue policy that retrieves rows of a table: it asks for a slot, or names the rows that it found.

    p(d|s) ∝ q(d|s) exp(τ <f(s), g(d)>)          over the K best rows
    π(request j|s) = Σ_d p(d|s) π(j|s,d)
    π(d_1, d_2, ...|s) = p(d_1|s) π(inform|s,d_1) Π_p PlackettLuce(d_p | those before)

q is the environment's own posterior over rows, where it tells one.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.layers import Perceptron
from ragjax.models.policy import Policy, require_widths
from ragjax.models.retrieval_policy import require_refreshed_in_steps, require_retrievable
from ragjax.models.retriever import Dense
from ragjax.models.slate_policy import split
from ragjax.ops.masking import masked_log_softmax
from ragjax.ops.request_or_list import RequestOrList
from ragjax.ops.scoring import inner_products
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import Env, PolicyModel, Retrieved

FOUND_BY = ("words", "belief")  # parts of an observation by which rows are retrieved
UNLIKELY = -20.0  # the least log p(d|s) that is read


def belief_and_rows(width: int = 32) -> Dense:
    """A retriever that embeds the belief by one matrix and the row as a bag of its values."""
    return Dense(
        BagEncoder(width=width), PerceptronEncoder(width=width), initial_scale=1.0, refresh_every=1
    )


@dataclass(frozen=True)
class RowRetrieval(Policy):
    """Requests a slot, or names the best of K rows, summed over the K rows that it retrieves.

    Each row is read together with log p(d|s) and the observation by the policy's perceptron. Of the
    observation, `words` (tokens) or `belief` are what rows are retrieved by and nothing else, and
    `log_prior` is log q; the other parts are read. The critic reads these and the K log-probabilities.

    Attributes:
      k: K.
      hidden: widths of the hidden layers of policy and critic.
      retriever: of f, g and τ; a learned one that goes by embeddings alone.
    """

    k: int = 16
    hidden: tuple[int, ...] = (64,)
    retriever: RetrieverSpec = field(default_factory=belief_and_rows)

    def __post_init__(self):
        """Checks the fields."""
        require(self.k >= 1, f"policy.k is {self.k}; it must be at least 1.")
        require_widths(self.hidden)
        require_refreshed_in_steps(self.retriever)

    @property
    def on_mesh(self) -> bool:
        """What its retriever says."""
        return self.retriever.on_mesh

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment whose slates are of requests and of its passages.

        Args:
          env: the environment; its arrays may be traced.
          contents: [N,P] tokens that are read in each passage's place, its own if None.

        Raises:
          UserError: the environment is another one, or the retriever can't retrieve its passages.
        """
        parts = dict(env.parts or {})
        queries = [name for name in FOUND_BY if name in parts]
        require(
            env.slate > 0 and len(queries) == 1 and env.passages is not None,
            "policy is a RowRetrieval, which is one of dialogues about the rows of a table; choose "
            "environment kb_infobot with env.sees rows or words, or another policy.",
        )
        stored = require_retrievable(self.retriever, env, self.k)
        require(
            env.slate <= self.k,
            f"policy.k is {self.k}, fewer rows than the {env.slate} that a list names; raise it.",
        )
        require(
            "log_prior" not in parts or self.retriever.scores_all,
            "policy.retriever.index can't score all rows, as it has to where the environment tells a "
            "posterior over them; choose Exact.",
        )
        contents = stored if contents is None else contents
        by, requests = queries[0], env.num_actions - len(stored)
        retriever = self.retriever.build(
            env.vocabulary, query_width=parts[by][-1], passage_width=stored.shape[-1]
        )
        size = sum(
            shape[-1] for name, shape in parts.items() if name not in (*FOUND_BY, "log_prior")
        )
        policy = Perceptron(self.hidden, requests + 1, "tanh", 0.01)
        critic = Perceptron(self.hidden, 1, "tanh", 1.0)

        def read_apart(observation):
            """Of [...,O] what is retrieved by, log q [...,N] or None, and the rest [...,size]."""
            given = split(env, observation)
            asked = given.pop(by)
            if by == "words":
                asked = asked.astype(jnp.int32)
            prior = given.pop("log_prior", None)
            return asked, prior, jnp.concatenate(list(given.values()), axis=-1)

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            keys = jax.random.split(key, 3)
            params = {"retriever": retriever.init(keys[0])}
            width = jax.eval_shape(retriever.embed, params, stored[:1]).shape[-1]
            return params | {
                "policy": policy.init(keys[1], jnp.zeros((size + 1 + width,)))["params"],
                "value": critic.init(keys[2], jnp.zeros((size + self.k,)))["params"],
            }

        def embed(params):
            return retriever.index(params, stored)

        def retrieve(params, index, key, observation):
            del key
            asked, prior, _ = read_apart(observation)
            query = retriever.query(params, asked)
            if prior is None:
                return Retrieved(observation, retriever.search(index, query, self.k).ids, None)
            scores = prior + retriever.scale(params) * retriever.scores(index, query)
            return Retrieved(observation, jax.lax.top_k(scores, self.k)[1].astype(jnp.int32), None)

        def apply(params, seen: Retrieved):
            asked, prior, context = read_apart(seen.observation)
            valid = seen.ids >= 0
            place = jnp.maximum(seen.ids, 0)
            # All rows are embedded once, and not each as often as it was found: a table is small.
            embedded = retriever.embed(params, stored)
            query = retriever.query(params, asked)
            scores = retriever.scale(params) * inner_products(query, embedded[place])
            if prior is not None:
                scores = scores + jnp.take_along_axis(prior, place, axis=-1)
            log_prior = masked_log_softmax(scores, valid)
            rows = embedded if contents is stored else retriever.embed(params, contents)
            rows = jnp.where(valid[..., None], rows[place], 0.0)
            sure = jax.lax.stop_gradient(jnp.maximum(log_prior, UNLIKELY))
            wide = jnp.broadcast_to(context[..., None, :], (*rows.shape[:-1], size))
            logits = policy.apply(
                {"params": params["policy"]},
                jnp.concatenate([wide, sure[..., None], rows], axis=-1),
            )
            value: Any = critic.apply(
                {"params": params["value"]}, jnp.concatenate([context, sure], axis=-1)
            )
            return RequestOrList(log_prior, logits, seen.ids, env.slate), value[..., 0]

        return PolicyModel(init, apply, embed, retrieve, self.retriever.refresh_every_in_step or 1)
