"""Writes models as directories that transformers opens."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from ragjax.files import read_json_object
from ragjax.models.pretrained.checkpoint import write_checkpoint
from ragjax.models.pretrained.gguf_header import read_header
from ragjax.models.pretrained.gguf_tokenizer import gguf_tokenizer
from ragjax.models.pretrained.loading import KINDS, PARTS, Pretrained
from ragjax.models.pretrained.loading import load as load_part
from ragjax.models.pretrained.parameters import tensors_of
from ragjax.models.pretrained.rag_model import PretrainedRag
from ragjax.models.pretrained.text_encoder import MODULES
from ragjax.models.pretrained.tokenizer_files import tokenizer_folder
from ragjax.types import Params

# Files that are copied beside the weights: those of tokenizers, of generation and of pooling.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"),
    "chat_template.jinja",
)
GENERATION = "generation_config.json"
BESIDE = (GENERATION, MODULES, "sentence_bert_config.json", "1_Pooling/config.json")
WHOLE = "rag"  # the directory of a whole RAG model, and what the names of its tensors begin with


def save(path: Path | str, model: Pretrained | PretrainedRag, params: Params | None = None) -> None:
    """Writes a directory that transformers opens, whole or not at all.

    Tokenizer and pooling are those from where the model came from; tensors that the module does not
    use, such as BERT's pooler, are not written.

    Args:
      path: the directory, which must not exist yet.
      model: what was loaded.
      params: the parameters to write, if others than its own.

    Raises:
      UserError: the directory exists, or can't be written.
    """
    weights: Any = model.params if params is None else params
    if isinstance(model, PretrainedRag):
        _save_whole(
            Path(path),
            {name: replace(load_part(model.source, name), params=weights[name]) for name in PARTS},
        )
        return
    tensors = _tensors(model, weights)
    folder = tokenizer_folder(model.source, model.part)
    beside: dict[str, Path | bytes] = {}
    if model.source.suffix == ".gguf":
        if "tokenizer.ggml.model" in read_header(model.source).facts:  # else it brings none
            beside = {"tokenizer.json": gguf_tokenizer(model.source).json.encode()}
    elif model.source.is_dir():
        beside = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
        # What lies beside a part of a RAG model is of the whole.
        others = () if model.part else BESIDE
        beside |= {name: model.source / name for name in others if (model.source / name).is_file()}
    write_checkpoint(Path(path), _config(model.config, tensors), tensors, beside)


def save_all(directory: Path, models: Mapping[str, Pretrained]) -> list[Path]:
    """Writes each model into a directory of its name; both parts of one RAG model as a whole, `rag`.

    Raises:
      UserError: a directory exists, or can't be written.
    """
    parts = {model.part: name for name, model in models.items() if model.part}
    whole = {part: models[name] for part, name in parts.items()}
    written = []
    if whole.keys() == PARTS.keys() and len({model.source for model in whole.values()}) == 1:
        _save_whole(directory / WHOLE, whole)
        written.append(directory / WHOLE)
        models = {name: model for name, model in models.items() if not model.part}
    for name, model in models.items():
        save(directory / name, model)
        written.append(directory / name)
    return written


def _save_whole(path: Path, parts: Mapping[str, Pretrained]) -> None:
    """Writes a RAG model, given both its parts, which came from one directory."""
    source = parts["generator"].source
    tensors: dict[str, jax.Array] = {}
    for name, start in PARTS.items():
        own = _tensors(parts[name], parts[name].params)
        tensors |= {f"{WHOLE}.{start}{tensor}": array for tensor, array in own.items()}
    beside: dict[str, Path | bytes] = {}
    for folder in (tokenizer_folder(source, name) for name in PARTS):
        files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        beside |= {str(file.relative_to(source)): file for file in files}
    if (source / GENERATION).is_file():
        beside[GENERATION] = source / GENERATION
    config = read_json_object(source / "config.json", "download the model again.")
    write_checkpoint(path, _config(config, tensors), tensors, beside)


def _tensors(model: Pretrained, params: Params) -> dict[str, jax.Array]:
    return tensors_of(params, model.prefix, KINDS[model.kind].strip)


def _config(config: Mapping[str, Any], tensors: Mapping[str, jax.Array]) -> dict[str, Any]:
    """config.json with the type of the tensors, which older files name otherwise."""
    kept = {name: value for name, value in config.items() if name != "torch_dtype"}
    return kept | {"dtype": str(next(iter(tensors.values())).dtype)}
