"""The tokenizer that a GGUF file brings along, as the `tokenizers` package reads it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragjax.errors import UserError, require
from ragjax.models.pretrained.gguf_header import read_header

_REMEDY = "name a GGUF file that llama.cpp's converter wrote of late, or the model's directory."
_SPACE = "\u2581"  # what stands for a space in the tokens of SentencePiece
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4  # tokenizer.ggml.token_type


def _split(digits: str) -> list[dict[str, Any]]:
    """Words with what precedes them, numbers of so many digits, signs, and white space."""
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+"
        r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
    return [split, _bytes(split=False)]


def _bytes(split: bool) -> dict[str, Any]:
    """Bytes as letters, if asked for of words that are split as GPT-2 has it."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split,
    }


@dataclass(frozen=True)
class _Pre:
    """How the models that share a tokenizer.ggml.pre cut a text before bytes are merged.

    Attributes:
      steps: pre-tokenizers.
      composed: whether accents are joined with their letters first.
      whole: whether a word that is a token is taken as it is, whatever the merges say.
      add_bos: whether a text begins with `bos` where the file does not tell.
    """

    steps: list[dict[str, Any]]
    composed: bool = False
    whole: bool = False
    add_bos: bool = False


_GPT2 = _Pre([_bytes(split=True)])
_LLAMA3 = _Pre(_split("{1,3}"), whole=True, add_bos=True)
_PRES = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _Pre([{"type": "Digits", "individual_digits": True}, _bytes(split=True)]),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _Pre(_split(""), composed=True),
}


@dataclass(frozen=True)
class GgufTokenizer:
    """A tokenizer, and what the file tells of its use.

    Attributes:
      json: all that makes it; `tokenizers.Tokenizer.from_str` reads it.
      bos: id of the token that begins a text, if there is one.
      eos: of the one that ends it.
      pad: of padding.
      unk: of what is not in the vocabulary.
      add_bos: whether the tokenizer begins a text with `bos`.
      add_eos: whether it ends it with `eos`.
      chat_template: a Jinja template that makes a text of a conversation.
    """

    json: str
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def gguf_tokenizer(path: Path | str) -> GgufTokenizer:
    """Makes the tokenizer of a GGUF file, equal to the tokenizer.json of the model that it came from.

    Raises:
      UserError: the file is broken, tells no tokenizer, or one of a kind that is not supported.
    """
    facts = _Facts(Path(path))
    kind = facts.get("tokenizer.ggml.model", str)
    require(
        kind in ("gpt2", "llama"),
        f"{path} has tokenizer.ggml.model {kind!r}; only 'gpt2' and 'llama' are supported.",
    )
    tokens = facts.several("tokenizer.ggml.tokens", str)
    types = facts.several("tokenizer.ggml.token_type", int, len(tokens))
    ids = {token: number for number, token in enumerate(tokens)}
    require(
        len(ids) == len(tokens),
        f"{path} has {len(tokens) - len(ids)} of its tokenizer.ggml.tokens twice; {_REMEDY}",
    )
    names = ("bos", "eos", "padding", "unknown")
    bos, eos, pad, unk = (facts.token(f"tokenizer.ggml.{name}_token_id", tokens) for name in names)
    if kind == "gpt2":
        parts, add_bos = _byte_level(facts, ids)
    else:
        unknown = None if unk is None else tokens[unk]
        parts, add_bos = _sentencepiece(facts, ids, types, unknown), True
    add_bos = facts.get("tokenizer.ggml.add_bos_token", bool, add_bos)
    add_eos = facts.get("tokenizer.ggml.add_eos_token", bool, False)
    for add, which, token in ((add_bos, "bos", bos), (add_eos, "eos", eos)):
        require(
            not add or token is not None,
            f"{path} adds a {which} token, but does not say its tokenizer.ggml.{which}_token_id; "
            f"{_REMEDY}",
        )
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **{"id": number, "content": token, "special": types[number] != _USER},
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
            for number, token in enumerate(tokens)
            if types[number] in (_UNKNOWN, _CONTROL, _USER)
        ],
        "post_processor": _ends(tokens, bos if add_bos else None, eos if add_eos else None),
        **parts,
    }
    return GgufTokenizer(
        json.dumps(whole, ensure_ascii=False),
        *(bos, eos, pad, unk, add_bos, add_eos),
        facts.get("tokenizer.chat_template", str, None),
    )


class _Facts:
    """A file's metadata; what is missing or of another type is refused."""

    def __init__(self, path: Path):
        self.path = path
        self._facts = read_header(path).facts

    def get(self, name: str, kind: type, default: Any = ...) -> Any:
        """A value, or the default if there is one."""
        value = self._facts.get(name, default)
        require(value is not ..., f"{self.path} does not say its {name}; {_REMEDY}")
        require(
            value is default or type(value) is kind,
            f"{self.path} has a {name} that is no {kind.__name__}; {_REMEDY}",
        )
        return value

    def several(self, name: str, kind: type, count: int | None = None) -> list[Any]:
        """A list of values of a type, as many as are asked for."""
        values = self.get(name, list)
        require(
            all(type(value) is kind for value in values) and count in (None, len(values)),
            f"{self.path} has a {name} that is no list of {'' if count is None else count} "
            f"{kind.__name__}; {_REMEDY}",
        )
        return values

    def token(self, name: str, tokens: Sequence[str]) -> int | None:
        """The id of a token."""
        value = self.get(name, int, None)
        require(
            value is None or 0 <= value < len(tokens),
            f"{self.path} has {name} {value}, but {len(tokens)} tokens; {_REMEDY}",
        )
        return value


def _byte_level(facts: _Facts, ids: dict[str, int]) -> tuple[dict[str, Any], bool]:
    """The parts of a tokenizer that merges bytes, and whether a text begins with `bos`."""
    name = facts.get("tokenizer.ggml.pre", str)
    pre = _PRES.get(name)
    if pre is None:
        raise UserError(
            f"{facts.path} has tokenizer.ggml.pre {name!r}; only {', '.join(_PRES)} are supported."
        )
    merges = [merge.split(" ") for merge in facts.several("tokenizer.ggml.merges", str)]
    for merge in merges:
        require(
            len(merge) == 2 and {*merge, "".join(merge)} <= ids.keys(),
            f"{facts.path} merges {' '.join(merge)!r}, which are no two tokens that make a third; "
            f"{_REMEDY}",
        )
    return {
        "normalizer": {"type": "NFC"} if pre.composed else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre.steps},
        "decoder": _bytes(split=True),
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": pre.whole},
    }, pre.add_bos


def _sentencepiece(
    facts: _Facts, ids: dict[str, int], types: Sequence[int], unknown: str | None
) -> dict[str, Any]:
    """The parts of a tokenizer of SentencePiece that merges letters, and spells others as bytes."""
    scores = facts.several("tokenizer.ggml.scores", float, len(ids))
    prefix = facts.get("tokenizer.ggml.add_space_prefix", bool, True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": _SPACE}] * prefix + [replace],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *[strip] * prefix],
        },
        "model": {
            **{"type": "BPE", "vocab": ids, "merges": _merges(ids, types, scores)},
            **{"unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
        },
    }


def _merges(ids: dict[str, int], types: Sequence[int], scores: Sequence[float]) -> list[list[str]]:
    """Every pair of tokens that makes a third, in the order of the third's score.

    SentencePiece keeps no merges: it joins whichever neighbours make the token of the highest score.
    """
    found = []
    for token, number in ids.items():
        if types[number] == _NORMAL:
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in ids and right in ids:
                    order = (-scores[number], number, ids[left], ids[right])
                    found.append((order, [left, right]))
    return [pair for _, pair in sorted(found)]


def _ends(tokens: Sequence[str], bos: int | None, eos: int | None) -> dict[str, Any] | None:
    """Adds the tokens that begin and end each text."""

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        begin, end = (
            [] if number is None else [{"SpecialToken": {"id": tokens[number], "type_id": kind}}]
            for number in (bos, eos)
        )
        return [*begin, {"Sequence": {"id": text, "type_id": kind}}, *end]

    added = {tokens[number]: number for number in (bos, eos) if number is not None}
    if not added:
        return None
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in added.items()
        },
    }
