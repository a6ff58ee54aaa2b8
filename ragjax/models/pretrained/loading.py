"""Loads a model of any supported architecture."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.errors import UserError, require
from ragjax.models.pretrained.bart import Bart, BartModule
from ragjax.models.pretrained.bert import Bert
from ragjax.models.pretrained.checkpoint import Checkpoint, open_checkpoint
from ragjax.models.pretrained.gguf_file import open_gguf
from ragjax.models.pretrained.llama import Llama, LlamaModule
from ragjax.models.pretrained.parameters import read_params
from ragjax.models.pretrained.sources import local
from ragjax.models.pretrained.t5 import T5, T5Module
from ragjax.models.pretrained.text_encoder import TextEncoderModule, read_pooling
from ragjax.types import Params

# The parts of a model of type rag, and what the names of their tensors begin with.
PARTS = {"question_encoder": "question_encoder.", "generator": "generator."}


class Kind(NamedTuple):
    """What a model_type stands for.

    Attributes:
      sizes: reads config.json.
      module: of the sizes.
      arguments: how many the module is called with, of tokens, mask and tokens that are fed.
      prefixes: what the names of a directory's tensors may begin with.
      strip: what the module's names begin with and a directory's do not.
    """

    sizes: type[Bert | Bart | T5 | Llama]
    module: Callable[..., nn.Module]
    arguments: int = 2
    prefixes: tuple[str, ...] = ("",)
    strip: str = ""


KINDS = {
    "bert": Kind(Bert, TextEncoderModule, prefixes=("bert.", ""), strip="bert_model."),
    "dpr": Kind(Bert, TextEncoderModule, prefixes=("question_encoder.", "ctx_encoder.")),
    "bart": Kind(Bart, BartModule, arguments=3),
    "t5": Kind(T5, T5Module, arguments=3),
    "llama": Kind(Llama, LlamaModule),
    "qwen2": Kind(Llama, LlamaModule),
    "qwen3": Kind(Llama, LlamaModule),
}


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      config: config.json of the model.
      module: a `TextEncoderModule`, `BartModule`, `T5Module` or `LlamaModule`, called as
        `module.apply({"params": params}, ...)`.
      params: its parameters.
      prefix: what the names of its tensors begin with, where it is a directory's one model.
      source: the directory or file that it came from.
      part: which part of a model of type rag it is, of `PARTS`; else "".
    """

    config: Mapping[str, Any]
    module: nn.Module
    params: Params
    prefix: str
    source: Path
    part: str = ""

    @property
    def kind(self) -> str:
        """config.json's model_type."""
        return self.config["model_type"]


def load(
    source: Path | str,
    part: str = "",
    *,
    compute: DTypeLike = jnp.float32,
    dtype: DTypeLike = jnp.float32,
) -> Pretrained:
    """Loads a model.

    Args:
      source: a directory that transformers or sentence-transformers wrote, or a GGUF file; or where
        else `sources.local` finds one.
      part: of a model of type rag, "question_encoder" or "generator"; else "".
      compute: dtype of the computation.
      dtype: of the parameters.

    Raises:
      UserError: the source is missing, broken or not supported.
    """
    path = local(source)
    with ExitStack() as files:
        checkpoint = _opened(path, files)
        config, kind, start, prefix, module = _described(checkpoint, part, compute)
        params = read_params(
            checkpoint,
            _shapes(module, kind),
            prefix=start + prefix,
            strip=kind.strip,
            unused=module.sizes.unused,  # pyright: ignore[reportAttributeAccessIssue]
            dtype=dtype,
        )
    return Pretrained(config, module, params, prefix, path, part)


class Description(NamedTuple):
    """A model without its weights.

    Attributes:
      config: config.json of the model.
      module: as of `Pretrained`.
    """

    config: Mapping[str, Any]
    module: nn.Module


def describe(
    source: Path | str, part: str = "", *, compute: DTypeLike = jnp.float32
) -> Description:
    """A model whose weights are not read; see `load`."""
    with ExitStack() as files:
        config, *_, module = _described(_opened(local(source), files), part, compute)
        return Description(config, module)


def _opened(path: Path, files: ExitStack) -> Checkpoint:
    return open_gguf(path) if path.suffix == ".gguf" else open_checkpoint(path, files)


def _described(
    checkpoint: Checkpoint, part: str, compute: DTypeLike
) -> tuple[dict[str, Any], Kind, str, str, nn.Module]:
    """Config, kind, what the names of tensors begin with (of a part, and within it), and the module."""
    path = checkpoint.path
    config, start = _part_of(checkpoint, part)
    known = config.get("model_type")
    require(
        known in KINDS,
        f"{path} holds a model of type {known!r}; the types {', '.join(KINDS)} and rag are supported.",
    )
    kind = KINDS[str(known)]
    prefix = _prefix_of(checkpoint, kind, start)
    whole = start + prefix
    names = {name.removeprefix(whole) for name in checkpoint.shapes if name.startswith(whole)}
    sizes = kind.sizes.from_config(config, str(path), names)
    if kind.module is TextEncoderModule:
        module = TextEncoderModule(sizes, read_pooling(path), compute)  # pyright: ignore
    else:
        module = kind.module(sizes, compute)
    return config, kind, start, prefix, module


def _part_of(checkpoint: Checkpoint, part: str) -> tuple[dict[str, Any], str]:
    """The config of a part, and what the names of its tensors begin with."""
    config, path = checkpoint.config, checkpoint.path
    if config.get("model_type") != "rag":
        require(
            not part,
            f"{path} holds a model of type {config.get('model_type')!r}, which has no part {part!r}.",
        )
        return config, ""
    require(
        part in PARTS,
        f"{path} holds a model of type 'rag'; name the part to load, {' or '.join(PARTS)}, or the "
        "semantics of the whole, paper or hf.",
    )
    inner = config.get(part)
    if not isinstance(inner, dict):
        raise UserError(f"{path}: config.json has no {part}; download it again.")
    outer = "rag." if any(name.startswith("rag.") for name in checkpoint.shapes) else ""
    return inner, outer + PARTS[part]


def _prefix_of(checkpoint: Checkpoint, kind: Kind, start: str) -> str:
    """The first of a kind's prefixes that some tensor has."""
    for prefix in kind.prefixes[:-1]:
        if any(name.startswith(start + prefix) for name in checkpoint.shapes):
            return prefix
    return kind.prefixes[-1]


def _shapes(module: nn.Module, kind: Kind) -> Params:
    """The shapes of a module's parameters."""
    tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    arguments = (tokens, mask, tokens)[: kind.arguments]
    return jax.eval_shape(module.init, jax.random.PRNGKey(0), *arguments)["params"]
