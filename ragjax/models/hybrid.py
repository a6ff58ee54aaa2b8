"""The hybrid retriever: p(d|x) from the inner product of two embeddings and the words in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.errors import require
from ragjax.models.retriever import Dense
from ragjax.ops.masking import masked_log_softmax
from ragjax.ops.scoring import inner_products
from ragjax.retrieval.base import OwnTokens, RetrieverSpec, or_empty
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.corpus import gather_passages
from ragjax.retrieval.fixed import Fixed
from ragjax.retrieval.fusion import listed_scores, weighted
from ragjax.types import Params, Passage, Question, Retriever, TopK, Vocabulary


@dataclass(frozen=True)
class Hybrid(RetrieverSpec):
    """Retrieval by learned embeddings and by words in common, trained through the marginal.

        log p(d|x) = s(x,d) - log Σ_d' exp s(x,d'),   s(x,d) = τ · (<q(x), e(d)> + λ · lexical(x,d))

    The lexical scores are BM25's, of the question as it was asked: neither renaming nor corrupted words
    reach them. They are looked up once for every question, on the host, for its `depth` best passages;
    any other passage has lexical score 0, whatever p(d|x) is normalised over. That is its BM25 if it has
    no word in common with the question, and too little if it has some but `depth` others score more; a
    `depth` as large as the corpus makes all scores exact. The K passages that are read are the best of
    those `depth` and of as many that the index finds.

    BM25 rises with the number of passages, so a λ that was learned on one corpus counts for more on a
    larger one. The parameters are those of the dense retriever and, where λ is learned,
    "log_lexical_weight".

    Attributes:
      dense: encoders, temperature τ, and index, whose `rows` score what words in common find.
      lexical: a fixed retriever, which scores words in common; its own temperature isn't used.
      lexical_weight: λ, at the start if it is learned. 0.05 lets a BM25 of 20 count as much as the
        inner product of two embeddings that are the same.
      learn_weight: whether λ is learned.
      depth: passages that either ranking proposes, the index K if that is more; where the corpus has
        fewer, all of them.
    """

    learned: ClassVar[bool] = True
    fuses: ClassVar[bool] = True

    dense: Dense = field(default_factory=Dense)
    lexical: Fixed = field(default_factory=BM25)
    lexical_weight: float = 0.05
    learn_weight: bool = True
    depth: int = 32

    def __post_init__(self):
        """Checks the fields."""
        weight = self.lexical_weight
        require(
            0 < weight < float("inf") or (weight == 0 and not self.learn_weight),
            f"retriever.lexical_weight is {weight}; it must be positive, or 0 where "
            "retriever.learn_weight is unset.",
        )
        require(self.depth >= 1, f"retriever.depth is {self.depth}; it must be at least 1.")
        require(
            not self.lexical.needs_gold,
            f"retriever.lexical is a {type(self.lexical).__name__}, which reads the gold passages; "
            "choose one that goes by the question, such as BM25.",
        )

    @property
    def reads(self) -> OwnTokens | None:
        """That of the dense retriever."""
        return self.dense.reads

    def pretrained(self) -> dict[str, Params]:
        """Those of the dense retriever."""
        return self.dense.pretrained()

    def exported(self, params: Params) -> dict[str, Any]:
        """Those of its dense part."""
        return self.dense.exported(params)

    @property
    def untrained(self) -> tuple[str, ...]:
        """That of the dense retriever."""
        return self.dense.untrained

    @property
    def scores_all(self) -> bool:
        """What the dense retriever's index says; beyond the `depth` best, lexical scores count as 0."""
        return self.dense.scores_all

    @property
    def refresh_every_in_step(self) -> int:
        """That of the dense retriever."""
        return self.dense.refresh_every_in_step

    @property
    def refresh_every_beside(self) -> int:
        """That of the dense retriever."""
        return self.dense.refresh_every_beside

    def prepare(self, index: Any) -> None:
        """See `Index.prepare`."""
        self.dense.prepare(index)

    @property
    def weights(self) -> dict[str, Any]:
        """Those of the dense retriever, and λ with what it multiplies."""
        names = ("lexical", "lexical_weight", "learn_weight")
        return self.dense.weights | {name: getattr(self, name) for name in names}

    def lexical_hits(self, passages: Sequence[Passage], questions: Sequence[Question]) -> TopK:
        """See `RetrieverSpec.lexical_hits`; [M,C] of the `depth` best."""
        return self.lexical.lookup(passages, questions, min(self.depth, len(passages)))

    def build(
        self,
        vocabulary: Vocabulary | None = None,
        *,
        query_width: int = 0,
        passage_width: int = 0,
        dtype: DTypeLike = jnp.float32,
    ) -> Retriever:
        """See `RetrieverSpec.build`; `search` and `log_prior` take what `weigh` gives, too."""
        dense = self.dense.build(
            vocabulary, query_width=query_width, passage_width=passage_width, dtype=dtype
        )

        def init(key):
            params = dense.init(key)
            if self.learn_weight:
                params["log_lexical_weight"] = jnp.log(jnp.float32(self.lexical_weight))
            return params

        def weigh(params, hits):
            weight = jnp.float32(self.lexical_weight)
            if self.learn_weight:
                weight = jnp.exp(params["retriever"]["log_lexical_weight"])
            # A miss scores -inf, and the gradient of the weight would be 0 * -inf.
            scores = jnp.where(hits.valid, hits.scores, 0.0)
            return TopK(hits.ids, jnp.where(hits.valid, weight * scores, -jnp.inf), hits.valid)

        def fused(find, index, query, k, hits):
            query, hits = jax.lax.stop_gradient((query, hits))
            embeddings = self.dense.index.rows(index)
            found = find(index, query, min(max(k, self.depth), embeddings.shape[0]))
            stored = gather_passages(embeddings, hits.ids).astype(query.dtype)
            scores = inner_products(query, stored)
            return or_empty(weighted(found, hits, 1.0, k, dense_of_lexical=scores))

        def log_prior(params, query, corpus, topk, rename, hits):
            passages = dense.embed(params, gather_passages(corpus, topk.ids), rename)
            scores = inner_products(query, passages)
            scores = dense.scale(params) * (scores + listed_scores(hits, topk.ids))
            return masked_log_softmax(scores, topk.valid)

        return dense._replace(
            init=init,
            search=partial(fused, dense.search),
            search_exactly=partial(fused, dense.search_exactly),
            log_prior=log_prior,
            weigh=weigh,
        )
