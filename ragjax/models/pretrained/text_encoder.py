"""An encoder of texts with pretrained weights: BERT, DPR or a sentence-transformers model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import UserError, require
from ragjax.files import parse_json, read_json_object
from ragjax.models.layers import Linear, unit_length
from ragjax.models.pretrained.bert import Bert, BertModule

MODULES = "modules.json"
REMEDY = "download the model again."


@dataclass(frozen=True)
class Pooling:
    """How the states of a text become one vector.

    Attributes:
      kind: the state of the first token, or the mean over all tokens.
      unit: whether the vector is divided by its length.
    """

    kind: Literal["first", "mean"] = "first"
    unit: bool = False


def read_pooling(path: Path) -> Pooling:
    """What a directory of sentence-transformers says of its pooling; any other takes the first state.

    Raises:
      UserError: it names a step that is not supported.
    """
    if not (path / MODULES).exists():
        return Pooling()
    try:
        steps = [(step["type"].split(".")[-1], step["path"]) for step in _modules(path)]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path / MODULES} is no list of modules ({error!r}); {REMEDY}") from error
    kind, unit = "first", False
    for number, (name, place) in enumerate(steps):
        require(
            (number, name) == (0, "Transformer")
            or (number > 0 and name in ("Pooling", "Normalize")),
            f"{path / MODULES} has a step {name!r}; only Transformer, Pooling and Normalize are "
            "supported.",
        )
        if name == "Pooling":
            kind = _pooling_kind(path / place / "config.json")
        unit = unit or name == "Normalize"
    return Pooling(kind, unit)


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        return parse_json((path / MODULES).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path / MODULES} can't be read ({error}); {REMEDY}") from error


def _pooling_kind(file: Path) -> Literal["first", "mean"]:
    """The one pooling mode that is switched on."""
    config = read_json_object(file, REMEDY)
    modes = sorted(name for name, on in config.items() if name.startswith("pooling_mode_") and on)
    kinds: dict[str, Literal["first", "mean"]] = {
        "pooling_mode_cls_token": "first",
        "pooling_mode_mean_tokens": "mean",
    }
    require(
        len(modes) == 1 and modes[0] in kinds,
        f"{file} pools by {', '.join(modes) or 'nothing'}; only the first token's state or the mean "
        "over tokens are supported.",
    )
    return kinds[modes[0]]


class TextEncoderModule(nn.Module):
    """BERT, pooled, and projected as DPR may be.

    Attributes:
      sizes: of BERT.
      pooling: of its states.
      dtype: of the computation.
      remat: see `layers.through`.
    """

    sizes: Bert
    pooling: Pooling
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "*batch n"], mask: Bool[Array, "*batch n"]
    ) -> Float[Array, "*batch D"]:
        """Embeds [...,n] tokens as [...,D], float32; positions where `mask` is False are not read."""
        states = BertModule(self.sizes, self.dtype, self.remat, name="bert_model")(tokens, mask)
        if self.pooling.kind == "mean":
            counted = mask[..., None].astype(jnp.float32)
            total = jnp.sum(states.astype(jnp.float32) * counted, axis=-2)
            pooled = total / jnp.maximum(jnp.sum(counted, axis=-2), 1e-9)
        else:
            pooled = states[..., 0, :].astype(jnp.float32)
        if self.sizes.projection:
            pooled = Linear(self.sizes.projection, name="encode_proj")(pooled)
        if self.pooling.unit:
            pooled = unit_length(pooled)
        return pooled
