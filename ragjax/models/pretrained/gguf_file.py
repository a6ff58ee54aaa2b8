"""A GGUF file, as llama.cpp has them, read as if it were a Hugging Face directory."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import UserError, require
from ragjax.models.pretrained.checkpoint import Checkpoint
from ragjax.models.pretrained.gguf_header import read_header

# What GGUF calls a tensor -> what Hugging Face does; a layer's number stands for {}.
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_QUANTISATIONS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0")


def open_gguf(path: Path) -> Checkpoint:
    """Opens a file; tensors are read, and made float32, when they are asked for.

    Raises:
      UserError: it is truncated or something else, of another architecture or quantisation, or the
        gguf package is missing.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            f"{path} is a GGUF file, which needs the gguf package: pip install gguf."
        ) from error
    header = read_header(path)
    facts, tensors = header.facts, {_name(name): one for name, one in header.tensors.items()}
    architecture = facts.get("general.architecture")
    require(
        architecture in _ARCHITECTURES,
        f"{path} holds a model of architecture {architecture!r}; only {', '.join(_ARCHITECTURES)} are "
        "supported.",
    )
    kinds = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    others = {kinds.get(one.kind, str(one.kind)) for one in tensors.values()} - {*_QUANTISATIONS}
    require(
        not others,
        f"{path} is quantised as {', '.join(sorted(others))}; only {', '.join(_QUANTISATIONS)} are "
        "supported.",
    )
    widths = {}  # bytes of a row of each tensor
    for name, one in tensors.items():
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(one.kind)]
        widths[name] = one.shape[-1] // block * block_bytes
        require(
            one.shape[-1] % block == 0 and one.start + one.rows * widths[name] <= header.size,
            f"{path} is not a whole GGUF file (it does not hold all of {name}); download it again.",
        )
    require(
        "rope_freqs.weight" not in tensors,
        f"{path} has rotations that are scaled by rope_freqs.weight, which is not supported; name the "
        "model's directory of Hugging Face instead.",
    )
    config = _config(path, facts, tied="lm_head.weight" not in tensors)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        # Read, not mapped: the array stays what it is whatever becomes of the file.
        data = np.fromfile(path, np.uint8, tensor.rows * widths[name], offset=tensor.start)
        data = data.reshape(tensor.rows, widths[name])
        kind = gguf.GGMLQuantizationType(tensor.kind)
        array = gguf.dequantize(data, kind).reshape(tensor.shape)
        if architecture == "llama":
            for part, heads in (
                ("q_proj", config["num_attention_heads"]),
                ("k_proj", config["num_key_value_heads"]),
            ):
                if f".{part}." in name:
                    array = _halves(array, heads)
        return array

    return Checkpoint(path, config, {name: one.shape for name, one in tensors.items()}, read)


def _name(name: str) -> str:
    """The name of a tensor in a Hugging Face directory; its own where it has none there."""
    stem, _, last = name.rpartition(".")
    number = re.search(r"\d+", stem)
    layer = number.group() if number else ""
    known = _NAMES.get(stem.replace(f".{layer}.", ".{}.") if layer else stem)
    return f"{known.format(layer)}.{last}" if known else name


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's order of a head's rows, where those that are turned together are neighbours."""
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return np.swapaxes(pairs, 1, 2).reshape(weight.shape)


def _config(path: Path, facts: dict[str, Any], tied: bool) -> dict[str, Any]:
    """config.json, from the file's metadata."""
    kind = facts["general.architecture"]

    def fact(name: str, default: Any = None) -> Any:
        value = facts.get(f"{kind}.{name}", default)
        require(value is not None, f"{path} does not say its {kind}.{name}; name another file.")
        return value

    def number(name: str, default: Any = None, of: type = int) -> Any:
        value = fact(name, default)
        require(
            type(value) is of and value > 0,
            f"{path} has {value!r} as its {kind}.{name}; name another file.",
        )
        return value

    scaling = fact("rope.scaling.type", "none")
    require(
        scaling in ("none", ""),
        f"{path} has rope.scaling.type {scaling!r}, which is not supported.",
    )
    heads = number("attention.head_count")
    width = number("embedding_length")
    tokens = facts.get("tokenizer.ggml.tokens")
    return {
        "model_type": kind,
        "vocab_size": number("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        "hidden_size": width,
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": number("attention.key_length", width // heads),
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        "hidden_act": "silu",
        # The file holds a float32: the shortest number that is the same one is what was meant.
        "rms_norm_eps": float(
            str(np.float32(number("attention.layer_norm_rms_epsilon", of=float)))
        ),
        "rope_theta": number("rope.freq_base", 10_000.0, float),
        "tie_word_embeddings": tied,
        "bos_token_id": _optional(facts, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _optional(facts, "tokenizer.ggml.eos_token_id"),
    }


def _optional(facts: dict[str, Any], name: str) -> int | None:
    value = facts.get(name)
    return value if type(value) is int else None
