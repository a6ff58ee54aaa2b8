"""A pretrained model's vocabulary in the order of this package: padding, start, end and unknown first.

Tokens 0 to 3 have their meaning everywhere here (`types.py`), and another in every pretrained model. So
its tokens get other numbers, and the rows of its embedding another order. A role that the model has no
token of its own for, as decoding's start never is, gets a row of zeros that is never read or written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ragjax.errors import require
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Params

NOTHING = -1
# Parameters with an axis of the vocabulary, by their last names, and which axis it is.
_AXES = {
    ("model.shared", "embedding"): 0,
    ("shared", "embedding"): 0,
    ("model.embed_tokens", "embedding"): 0,
    ("lm_head", "kernel"): 1,
    ("final_logits_bias",): 1,
}


class ReaderTokens(NamedTuple):
    """The tokenizer of a reader that brings one, by which questions, passages and answers are read.

    Attributes:
      json: as the `tokenizers` package writes it.
      order: [V] its number of each token, or -1 of a token that it does not have; tokens 0 to 3 are
        those of `types.py`.
      source: where it comes from, for messages.
    """

    json: str
    order: np.ndarray
    source: str


def token_order(
    vocab_size: int, *, end: int, pad: int | None = None, unknown: int | None = None
) -> np.ndarray:
    """Which of a model's tokens each of ours is.

    Args:
      vocab_size: the model's tokens.
      end: its token that ends a text.
      pad: its padding; None, or the end, where it has none of its own.
      unknown: its unknown token, if it has one.

    Returns:
      [V] the model's token of each of ours, or `NOTHING`; all that have no role keep their order.
    """
    roles = {
        PAD_ID: NOTHING if pad is None or pad == end else pad,
        BOS_ID: NOTHING,
        EOS_ID: end,
        UNK_ID: NOTHING if unknown is None or unknown in (pad, end) else unknown,
    }
    first = np.array([roles[role] for role in sorted(roles)], np.int32)
    return np.concatenate([first, np.setdiff1d(np.arange(vocab_size, dtype=np.int32), first)])


def numbers_here(order: np.ndarray) -> np.ndarray:
    """[tokens of the model] our number of each, the inverse of `token_order`."""
    numbers = np.empty(order.max() + 1, np.int32)
    numbers[order[order != NOTHING]] = np.flatnonzero(order != NOTHING)
    return numbers


def reordered(params: Params, order: np.ndarray) -> Params:
    """A model's parameters with the rows of its vocabulary in our order, zeros where there is none."""
    return _mapped(params, lambda leaf: _taken(leaf, order))


def restored(params: Params, order: np.ndarray) -> Params:
    """The inverse of `reordered`."""
    numbers = numbers_here(order)
    return _mapped(params, lambda leaf: leaf[numbers])


def _taken(leaf: np.ndarray, order: np.ndarray) -> np.ndarray:
    rows = leaf[np.maximum(order, 0)]
    rows[order == NOTHING] = 0
    return rows


def _mapped(params: Params, function: Any) -> Params:
    flat: Any = traverse_util.flatten_dict(params)
    for path, axis in _AXES.items():
        if path in flat:
            leaf = np.asarray(flat[path])
            flat[path] = np.moveaxis(function(np.moveaxis(leaf, axis, 0)), 0, axis)
    return traverse_util.unflatten_dict(flat)


def special_tokens(config: Mapping[str, Any], source: Path) -> tuple[int, int | None, int | None]:
    """The tokens by which a model ends, pads and begins to decode, as its config.json names them.

    Raises:
      UserError: it names no end.
    """
    end: Any = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    require(
        isinstance(end, int),
        f"{source}: config.json has eos_token_id {end!r}, so that no answer could end; name the token "
        "that ends a text there.",
    )
    return end, config.get("pad_token_id"), config.get("decoder_start_token_id")
