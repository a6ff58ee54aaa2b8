"""Which parameters are trained: all, those of the queries, or low-rank adapters of the kernels.

The tree θ of a model's parameters is split into what training moves and what it leaves as it is,

    split:  θ -> (moved, frozen)        merged:  (moved, frozen) -> θ

and `merged` undoes `split`, number by number. The training step and the optimiser with its moments,
norms, decay and moving average know `moved` alone. Everything that computes with the model is given what
`merged` makes, once for each loss or evaluation: objectives, decoders and indexes know nothing of this
file. `moved` has top-level groups of θ, so that each keeps the learning rate that it has in the config.

Two things of the retriever and the objective are always moved, since they are no weights of a model that
was loaded: the scales of its scores (`log_scale`, and `log_lexical_weight` of a hybrid), which move no
embedding, and the critic of an objective that has one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict
from jaxtyping import Array

from ragjax.errors import UserError, require
from ragjax.models.layers import normal
from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import Params

Part = Literal["reader", "retriever"]
Path = tuple[str, ...]
Flat = dict[Path, Any]

KERNEL = "kernel"
LEFT, RIGHT = "lora_a", "lora_b"  # beside a kernel's own name, A and B
# What our own encoders and readers, BERT, BART, T5 and the Llama family call these modules.
ATTENTION_AND_FEED_FORWARD = (
    r"(?i)attention|attn|feed_?forward|densereludense|mlp|fc[12]$|intermediate\.dense|output\.dense"
)


class Split(NamedTuple):
    """The parameters that training moves, and the others; no `frozen` where there are no others."""

    moved: Params
    frozen: Params


@dataclass(frozen=True)
class Trained:
    """Base of the specs of which parameters are trained.

    Attributes:
      everything: whether all are, also those that the loss sends no gradient.
    """

    everything: ClassVar[bool] = False

    def check(self, retriever: RetrieverSpec) -> None:
        """Checks that it suits a retriever.

        Raises:
          UserError: it doesn't.
        """
        del retriever

    def split(self, params: Params, key: Array, retriever: RetrieverSpec) -> Split:
        """Splits a model's parameters before the first step.

        Args:
          params: of the whole model.
          key: PRNG key of what is new.
          retriever: spec of its retriever.

        Raises:
          UserError: there is nothing of what is to be trained.
        """
        raise NotImplementedError

    def merged(self, moved: Params, frozen: Params) -> Params:
        """The parameters of the whole model, or of those groups that both arguments are of."""
        raise NotImplementedError


@dataclass(frozen=True)
class All(Trained):
    """All parameters are trained."""

    everything: ClassVar[bool] = True

    def split(self, params: Params, key: Array, retriever: RetrieverSpec) -> Split:
        """See `Trained.split`: nothing is frozen."""
        del key, retriever
        return Split(params, None)

    def merged(self, moved: Params, frozen: Params) -> Params:
        """See `Trained.merged`: what is moved."""
        del frozen
        return moved


@dataclass(frozen=True)
class QueryOnly(Trained):
    """The encoder of queries is trained, and neither that of passages nor the reader.

    It wants a retriever with an encoder of passages apart that is not trained, `query_encoder` and
    `train_passages` false of a `Dense`: the index is then embedded once and never ages.
    """

    def check(self, retriever: RetrieverSpec) -> None:
        """See `Trained.check`: the passages' encoder must not be trained."""
        require(
            bool(retriever.untrained),
            f"trained is QueryOnly, but retriever {type(retriever).__name__} has no encoder of passages "
            "that stays as it is; use a Dense one with a query_encoder, and train_passages false.",
        )

    def split(self, params: Params, key: Array, retriever: RetrieverSpec) -> Split:
        """See `Trained.split`."""
        del key

        def is_moved(path: Path, leaf: Any) -> bool:
            asks = path[0] == "retriever" and path[1] not in retriever.untrained
            return asks or _always(path, leaf)

        return _parted(_flat(params), is_moved)

    def merged(self, moved: Params, frozen: Params) -> Params:
        """See `Trained.merged`."""
        return unflatten_dict(_flat(frozen) | _flat(moved))


@dataclass(frozen=True)
class Lora(Trained):
    """Low-rank adapters of kernels are trained in place of these (Hu et al., arXiv 2106.09685).

        W' = W + (alpha / rank) · A B,   A [in,rank],  B [rank,out] of a kernel W [in,out]

    A is drawn from N(0, 1/in) and B is 0, so that a run begins with the very model that it was given.
    Kernels with more than two axes and embeddings have none. A passages' encoder that the retriever does
    not train has none either. A moving average is that of A and of B, each by itself.

    A run that starts from another one takes that one's whole parameters, its adapters merged into them,
    and begins with new adapters.

    Attributes:
      rank: of the change of a kernel, at most.
      alpha: scale of the change, times `rank`.
      parts: of the model that have adapters.
      modules: regular expression that is found in the path of each module that has one below its part,
        such as `encoder_0/Attention_0/query`; as it is, those of attention and feed-forward.
    """

    rank: int = 8
    alpha: float = 16.0
    parts: tuple[Part, ...] = ("reader", "retriever")
    modules: str = ATTENTION_AND_FEED_FORWARD

    def __post_init__(self):
        """Checks the fields."""
        require(self.rank >= 1, f"trained.rank is {self.rank}; it must be at least 1.")
        require(
            0 < self.alpha < float("inf"),
            f"trained.alpha is {self.alpha}; it must be positive and finite.",
        )
        known = get_args(Part)
        require(len(self.parts) > 0, f"trained.parts is empty; choose of {' and '.join(known)}.")
        for number, part in enumerate(self.parts):
            require(
                part in known,
                f"trained.parts.{number} is {part!r}; choose {' or '.join(known)}.",
            )
        require(
            len(set(self.parts)) == len(self.parts),
            f"trained.parts is {self.parts}; name each part once.",
        )
        try:
            re.compile(self.modules)
        except re.error as error:
            raise UserError(
                f"trained.modules is {self.modules!r}, which is no regular expression ({error}); give "
                "one, such as 'query|value'."
            ) from error

    def split(self, params: Params, key: Array, retriever: RetrieverSpec) -> Split:
        """See `Trained.split`."""
        flat = _flat(params)
        adapted = self._adapted(flat, retriever)
        moved, frozen = _parted(flat, _always)
        adapters: Flat = {}
        for path, own in zip(adapted, jax.random.split(key, len(adapted)), strict=True):
            rows, columns = flat[path].shape
            adapters[*path[:-1], LEFT] = normal(rows**-0.5)(own, (rows, self.rank), jnp.float32)
            adapters[*path[:-1], RIGHT] = jnp.zeros((self.rank, columns), jnp.float32)
        return Split(unflatten_dict(_flat(moved) | adapters), frozen)

    def merged(self, moved: Params, frozen: Params) -> Params:
        """See `Trained.merged`."""
        flat, whole = _flat(moved), _flat(frozen)
        for path in [path for path in flat if path[-1] == LEFT]:
            left, right = flat.pop(path), flat.pop((*path[:-1], RIGHT))
            change = self.alpha / self.rank * jnp.matmul(left, right, precision=FULL_PRECISION)
            kernel = (*path[:-1], KERNEL)
            whole[kernel] = whole[kernel] + change.astype(whole[kernel].dtype)
        return unflatten_dict(whole | flat)

    def _adapted(self, flat: Flat, retriever: RetrieverSpec) -> list[Path]:
        """The kernels that have adapters, in order.

        Raises:
          UserError: a part has none.
        """
        found: list[Path] = []
        for part in self.parts:
            kernels = [
                path
                for path, leaf in sorted(flat.items())
                if path[0] == part and path[-1] == KERNEL and leaf.ndim == 2
                if part != "retriever" or path[1] not in retriever.untrained
            ]
            own = [path for path in kernels if re.search(self.modules, "/".join(path[1:-1]))]
            require(
                bool(kernels),
                f"trained.parts has {part!r}, but the {part} has no kernels that could have adapters; "
                f"leave {part} out.",
            )
            some = ", ".join("/".join(path[1:-1]) for path in kernels[:3])
            require(
                bool(own),
                f"trained.modules is {self.modules!r}, which is found in none of the {part}'s "
                f"{len(kernels)} modules ({some}, ...); give another expression, or leave {part} out of "
                "trained.parts.",
            )
            found += own
        return found


def _flat(params: Mapping[str, Any]) -> Flat:
    """Path -> array; a group without arrays keeps its place."""
    return flatten_dict(params, keep_empty_nodes=True)


def _always(path: Path, leaf: Any) -> bool:
    """Whether a parameter is moved whatever else is: a scale of the retriever's, or the critic's."""
    if leaf is empty_node:
        return False
    return path[0] == "critic" or (path[0] == "retriever" and len(path) == 2 and leaf.ndim == 0)


def _parted(flat: Flat, is_moved: Any) -> Split:
    """The parameters that `is_moved` (path, array) says, and the others."""
    moved = {path: leaf for path, leaf in flat.items() if is_moved(path, leaf)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in moved}
    return Split(unflatten_dict(moved), unflatten_dict(frozen))
