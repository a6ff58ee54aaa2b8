"""The learned retriever: p(d|x) from the inner product of two embeddings."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.errors import require
from ragjax.models.encoder import BagEncoder, Encoder
from ragjax.ops.masking import masked_log_softmax
from ragjax.ops.scoring import inner_products
from ragjax.retrieval.base import Index, OwnTokens, RetrieverSpec, or_empty
from ragjax.retrieval.corpus import embed_in_chunks, gather_passages
from ragjax.retrieval.exact import Exact
from ragjax.types import Params, Retriever, Vocabulary


class TwoTowers(nn.Module):
    """Two encoders whose parameters are made together, each under its own name.

    Attributes:
      observed: of what asks.
      stored: of passages.
    """

    observed: nn.Module
    stored: nn.Module

    def __call__(self, query: tuple[Any, Any], passage: tuple[Any, Any]) -> tuple[Any, Any]:
        """Embeds one of each kind: (x, idf) and (x, idf)."""
        return self.observed(*query, 0), self.stored(*passage, 1)


class Tower(NamedTuple):
    """An encoder in its place.

    Attributes:
      field: the config's name of it.
      encoder: its spec.
      module: what that built.
      group: name of its parameters.
      side: 0 of what asks, 1 of passages.
      own: tokens of a text that it reads by a tokenizer of its own; 0 if it has none.
    """

    field: str
    encoder: Encoder
    module: nn.Module
    group: str
    side: int
    own: int


@dataclass(frozen=True)
class Dense(RetrieverSpec):
    """Retrieval by learned embeddings, trained through the marginal.

        log p(d|x) = τ · <q(x), e(d)> - log Σ_d' exp(τ · <q(x), e(d')>)

    The parameters are {"query", "log_scale"} where questions and passages share one encoder, and
    otherwise {"observed", "stored", "log_scale"}.

    Attributes:
      encoder: e, of passages.
      query_encoder: q, of questions or observations; None for `encoder` and its parameters (siamese).
      initial_scale: τ at the start.
      refresh_every: steps after which the index is embedded anew. The index only chooses passages;
        scores inside the step always come from the current parameters. Not used by a
        likelihood with `documents="index"`, which embeds the whole corpus in every step.
      asynchronous: whether training goes on with the old index meanwhile, and the new one is swapped in
        when it is ready. When that is hangs on the machine, so that two runs are not equal to the bit.
        What it costs: see `retrieval.refresh`.
      train_passages: whether passages' embeddings are trained; False for the queries' alone, where the
        index never ages. It wants a `query_encoder`.
      index: how the K best passages are found.
    """

    learned: ClassVar[bool] = True

    encoder: Encoder = field(default_factory=BagEncoder)
    query_encoder: Encoder | None = None
    initial_scale: float = 20.0
    refresh_every: int = 25
    asynchronous: bool = False
    train_passages: bool = True
    index: Index = field(default_factory=Exact)

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.initial_scale > 0,
            f"retriever.initial_scale is {self.initial_scale}; it must be positive.",
        )
        require(
            self.refresh_every >= 1,
            f"retriever.refresh_every is {self.refresh_every}; it must be at least 1 step.",
        )
        require(
            self.train_passages or self.query_encoder is not None,
            "retriever.train_passages is false, but queries and passages share one encoder; give "
            "retriever.query_encoder.",
        )
        require(
            self.train_passages or not self.asynchronous,
            "retriever.asynchronous is true, but with retriever.train_passages false there is nothing "
            "to refresh; leave one of them out.",
        )

    @property
    def untrained(self) -> tuple[str, ...]:
        """The encoder of passages, if these are not trained."""
        return () if self.train_passages else ("stored",)

    @property
    def scores_all(self) -> bool:
        """What its index says."""
        return self.index.scores_all

    @property
    def on_mesh(self) -> bool:
        """See `RetrieverSpec.on_mesh`: what its index says, where no index is made beside the steps."""
        return self.index.on_mesh and not self.asynchronous

    @property
    def refresh_every_in_step(self) -> int:
        """See `RetrieverSpec.refresh_every_in_step`."""
        return 0 if self.asynchronous or not self.train_passages else self.refresh_every

    @property
    def refresh_every_beside(self) -> int:
        """See `RetrieverSpec.refresh_every_beside`."""
        return self.refresh_every if self.asynchronous else 0

    def prepare(self, index: Any) -> None:
        """See `Index.prepare`."""
        self.index.prepare(index)

    @property
    def weights(self) -> dict[str, Any]:
        """Encoders and temperature."""
        names = ("encoder", "query_encoder", "initial_scale")
        return {name: getattr(self, name) for name in names}

    @property
    def _towers(self) -> dict[str, Encoder]:
        """The encoders by the names of their parameters."""
        if self.query_encoder is None:
            return {"query": self.encoder}
        return {"observed": self.query_encoder, "stored": self.encoder}

    @property
    def reads(self) -> OwnTokens | None:
        """That of its encoders of texts, which have to share it; each says how its own texts are read.

        Raises:
          UserError: they have two, or only one of them has one.
        """
        towers = [encoder for encoder in self._towers.values() if encoder.reads_tokens]
        asks, *others = [encoder.reads for encoder in towers] or [None]
        stores = others[0] if others else asks
        tokenizers = {own and own.json for own in (asks, stores)}
        require(
            len(tokenizers) == 1,
            "retriever.encoder and retriever.query_encoder have different tokenizers; choose two that "
            "share one.",
        )
        if asks is None or stores is None:
            return None
        return stores._replace(
            vocab_size=min(asks.vocab_size, stores.vocab_size),
            lengths=(asks.lengths[0], stores.lengths[1]),
            prefixes=(asks.prefixes[0], stores.prefixes[1]),
        )

    def pretrained(self) -> dict[str, Params]:
        """Those of its encoders."""
        found = {name: encoder.pretrained() for name, encoder in self._towers.items()}
        return {name: params for name, params in found.items() if params is not None}

    def exported(self, params: Params) -> dict[str, Any]:
        """See `RetrieverSpec.exported`: encoder, or query_encoder and passage_encoder."""
        names = {"query": "encoder", "observed": "query_encoder", "stored": "passage_encoder"}
        found = {
            names[name]: encoder.exported(params[name]) for name, encoder in self._towers.items()
        }
        return {name: model for name, model in found.items() if model is not None}

    def build(
        self,
        vocabulary: Vocabulary | None = None,
        *,
        query_width: int = 0,
        passage_width: int = 0,
        dtype: DTypeLike = jnp.float32,
    ) -> Retriever:
        """See `RetrieverSpec.build`."""
        size = 0 if vocabulary is None else vocabulary.idf.shape[0]
        siamese = self.query_encoder is None
        asks = self.encoder if self.query_encoder is None else self.query_encoder
        reads = self.reads
        lengths = (0, 0) if reads is None else reads.lengths
        asking = Tower("query_encoder", asks, asks.build(size, dtype), "observed", 0, lengths[0])
        stores = self.encoder.build(size, dtype)
        storing = Tower("encoder", self.encoder, stores, "stored", 1, lengths[1])
        if siamese:
            storing = storing._replace(group="query")
            asking = storing._replace(side=0, own=lengths[0])
        for tower in (asking, storing):
            require(
                vocabulary is not None or not tower.encoder.takes_tokens(tower.side),
                f"retriever.{tower.field} is a {type(tower.encoder).__name__}, which reads tokens, but "
                "there is no text here; choose one that reads numbers, such as PerceptronEncoder.",
            )

        def example(tower, width):
            if tower.encoder.takes_tokens(tower.side):
                return jnp.ones((1, 2), jnp.int32), None if tower.own else jnp.ones((1, 2))
            return jnp.zeros((1, width)), None

        def init(key):
            query, passage = example(asking, query_width), example(storing, passage_width)
            if siamese:
                params = {"query": asking.module.init(key, *query, 0)["params"]}
            else:
                towers = TwoTowers(asking.module, storing.module)
                params = dict(towers.init(key, query, passage)["params"])
            return params | {"log_scale": jnp.log(jnp.float32(self.initial_scale))}

        def encoded(tower, params, x, rename) -> Any:
            tokens = jnp.issubdtype(x.dtype, jnp.integer)
            require(
                tokens == tower.encoder.takes_tokens(tower.side),
                f"retriever.{tower.field} is a {type(tower.encoder).__name__}, which reads "
                + (
                    "numbers, but it is given tokens." if tokens else "tokens, but it gets numbers."
                ),
            )
            idf = None
            if tower.own:  # `rename` is of the reader's tokens
                x = x[..., -tower.own :]
            elif vocabulary is not None and tokens:
                folded = vocabulary.fold[x]
                x, idf = folded if rename is None else rename[folded], vocabulary.idf[folded]
            return tower.module.apply(
                {"params": params["retriever"][tower.group]}, x, idf, tower.side
            )

        def query(params, x, rename=None):
            return encoded(asking, params, x, rename)

        def embed(params, passages, rename=None):
            if not self.train_passages:
                params = jax.lax.stop_gradient(params)
            return encoded(storing, params, passages, rename)

        def index(params, corpus):
            return self.index.build(embed_in_chunks(lambda rows: embed(params, rows), corpus))

        def search(index, query, k):
            return or_empty(self.index.search(index, jax.lax.stop_gradient(query), k))

        def search_exactly(index, query, k):
            return or_empty(self.index.search_exactly(index, jax.lax.stop_gradient(query), k))

        def scale(params):
            return jnp.exp(params["retriever"]["log_scale"])

        def log_prior(params, query, corpus, topk, rename=None):
            passages = embed(params, gather_passages(corpus, topk.ids), rename)
            scores = scale(params) * inner_products(query, passages)
            return masked_log_softmax(scores, topk.valid)

        return Retriever(
            init=init,
            query=query,
            embed=embed,
            index=index,
            search=search,
            search_exactly=search_exactly,
            scores=self.index.scores,
            scale=scale,
            log_prior=log_prior,
        )
