"""Loads RAG models of transformers, see `PretrainedRag`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, overload

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.errors import UserError, require
from ragjax.files import read_json_object
from ragjax.models.pretrained.layers import EncoderDecoder
from ragjax.models.pretrained.loading import Pretrained
from ragjax.models.pretrained.loading import load as load_part
from ragjax.models.pretrained.rag_generation import Writing
from ragjax.models.pretrained.rag_losses import RagKind, Semantics
from ragjax.models.pretrained.rag_model import PretrainedRag
from ragjax.models.pretrained.sources import local
from ragjax.models.pretrained.text_encoder import TextEncoderModule

CONFIG, AGAIN = "config.json", "download the model again."
CLASSES: dict[str, RagKind] = {
    "RagSequenceForGeneration": "sequence",
    "RagTokenForGeneration": "token",
}


@overload
def load(
    source: Path | str,
    part: str = "",
    *,
    semantics: None = None,
    compute: DTypeLike = jnp.float32,
    dtype: DTypeLike = jnp.float32,
) -> Pretrained: ...


@overload
def load(
    source: Path | str,
    part: str = "",
    *,
    semantics: Semantics,
    compute: DTypeLike = jnp.float32,
    dtype: DTypeLike = jnp.float32,
) -> PretrainedRag: ...


def load(
    source: Path | str,
    part: str = "",
    *,
    semantics: Semantics | None = None,
    compute: DTypeLike = jnp.float32,
    dtype: DTypeLike = jnp.float32,
) -> Pretrained | PretrainedRag:
    """Loads a model: one of `loading.load`, or with `semantics` the whole of a RAG model.

    Args:
      source: as of `loading.load`.
      part: of a model of type rag, "question_encoder" or "generator"; else "".
      semantics: "paper" or "hf" for the whole of a model of type rag, see `load_rag`; else None.
      compute: dtype of the computation.
      dtype: of the parameters.

    Raises:
      UserError: the source is missing, broken or not supported.
    """
    if semantics is None:
        return load_part(source, part, compute=compute, dtype=dtype)
    require(not part, f"load has both part {part!r} and semantics {semantics!r}; give one.")
    return load_rag(source, semantics=semantics, compute=compute, dtype=dtype)


class RagDescription(NamedTuple):
    """What a RAG model's config.json says of it.

    Attributes:
      kind: RAG-Sequence or RAG-Token; None if it does not tell.
      passages: K, of each question.
      title_separator: what its generator reads between a passage's title and its text.
    """

    kind: RagKind | None
    passages: int
    title_separator: str


def describe_rag(source: Path | str) -> RagDescription | None:
    """What is told of a RAG model; None of any other."""
    file = local(source) / CONFIG
    config = read_json_object(file, AGAIN) if file.is_file() else {}
    if config.get("model_type") != "rag":
        return None
    names = config.get("architectures") or [""]
    separator = config.get("title_sep", " / ")
    return RagDescription(CLASSES.get(names[0]), config.get("n_docs", 5), separator)


def load_rag(
    source: Path | str,
    kind: RagKind | None = None,
    semantics: Semantics = "paper",
    *,
    compute: DTypeLike = jnp.float32,
    dtype: DTypeLike = jnp.float32,
    buckets: int = 1,
) -> PretrainedRag:
    """Loads a RAG model.

    Args:
      source: a directory that transformers wrote, with a config.json of model_type rag, or the id of a
        model on the Hugging Face hub.
      kind: RAG-Sequence or RAG-Token; None for what config.json names.
      semantics: "paper" or "hf".
      compute: dtype of the computation.
      dtype: of the parameters.
      buckets: widths at which contexts are read, short ones at narrow ones; 1 reads all at one.

    Raises:
      UserError: the source is missing, broken or not supported.
    """
    require(
        semantics in get_args(Semantics), f'semantics is {semantics!r}; choose "paper" or "hf".'
    )
    path = local(source)
    require(path.is_dir(), f"{path} is no directory, as a RAG model is; name one.")
    config, described = read_json_object(path / CONFIG, AGAIN), describe_rag(path)
    if described is None:
        raise UserError(
            f"{path} holds a model of type {config.get('model_type')!r}; load it without semantics."
        )
    parts = {
        name: load_part(path, name, compute=compute, dtype=dtype)
        for name in ("question_encoder", "generator")
    }
    kind = described.kind if kind is None else kind
    require(
        kind in get_args(RagKind),
        f"{path}: config.json does not tell whether it is RAG-Sequence or RAG-Token; say "
        'kind="sequence" or kind="token".'
        if kind is None
        else f'kind is {kind!r}; choose "sequence" or "token".',
    )
    question, generator = parts["question_encoder"], parts["generator"]
    require(
        isinstance(question.module, TextEncoderModule)
        and isinstance(generator.module, EncoderDecoder),
        f"{path} has a question encoder of type {question.kind!r} and a generator of type "
        f"{generator.kind!r}; only dpr or bert with bart or t5 are supported.",
    )
    encoder: Any = question.module
    module: Any = generator.module
    options = _generation(path, config, generator.config, kind)  # pyright: ignore
    return PretrainedRag(
        config=config,
        kind=kind,  # pyright: ignore
        semantics=semantics,
        question_encoder=encoder,
        generator=module,
        params={name: part.params for name, part in parts.items()},
        writing=_writing(module, config, generator.config, options),
        generation=options,
        source=path,
        buckets=buckets,
    )


def _generation(
    path: Path, config: Mapping[str, Any], generator: Mapping[str, Any], kind: RagKind
) -> dict[str, Any]:
    """The options of generation, from where transformers takes them.

    RAG-Token has its own generation_config.json, or else reads them from its config.json and, where that
    is silent, from the generator's part; in RAG-Sequence it is the generator that generates.
    """
    if kind == "sequence":
        own = {name: config.get(name) for name in ("num_beams", "num_return_sequences")}
        return {**generator, **own}
    file = path / "generation_config.json"
    if file.exists():
        return dict(read_json_object(file, AGAIN))
    return {**generator, **{name: value for name, value in config.items() if value is not None}}


def _writing(
    module: nn.Module,
    config: Mapping[str, Any],
    generator: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Writing:
    sizes: Any = module.sizes  # pyright: ignore[reportAttributeAccessIssue]

    def stated(name: str, default: Any) -> Any:
        value = options.get(name)
        return default if value is None else value

    first, last = (stated(f"forced_{name}_token_id", None) for name in ("bos", "eos"))
    require(
        all(value is None or isinstance(value, int) for value in (first, last)),
        f"The model forces the tokens {first!r} and {last!r} on its answers; each must be one token.",
    )
    return Writing(
        vocab_size=sizes.vocab_size,
        start=stated("decoder_start_token_id", sizes.start),
        end=stated("eos_token_id", sizes.end),
        pad=sizes.pad,
        bos=config.get("bos_token_id") or generator.get("bos_token_id"),
        first=first,
        last=last,
    )
