"""The tokenizer beside a model's weights, from whichever files a directory of transformers has.

RagTokenizer writes two of them, in folders of their own; older directories have word lists instead of
one tokenizer.json.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ragjax.errors import UserError, require
from ragjax.files import read_json_object

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
WORDS = "vocab.txt"  # of WordPiece: BERT and DPR
BYTES = ("vocab.json", "merges.txt")  # of byte-level BPE: BART
AGAIN = "download the model again."


def tokenizer_folder(directory: Path, part: str) -> Path:
    """Where a model's tokenizer lies: that of a part of a RAG model may have a folder of its own."""
    folder = directory / f"{part}_tokenizer"
    return folder if part and folder.is_dir() else directory


def tokenizer_json(directory: Path, part: str, named: str) -> str:
    """A tokenizer in the format of the `tokenizers` package.

    Args:
      directory: of the model.
      part: of a model of type rag, whose tokenizer may lie in the folder <part>_tokenizer; else "".
      named: what an error calls the model: field and value.

    Raises:
      UserError: the directory has no files of a tokenizer, or they are damaged.
    """
    folder = tokenizer_folder(directory, part)
    if (folder / TOKENIZER).is_file():
        return (folder / TOKENIZER).read_text("utf-8")
    if (folder / WORDS).is_file():
        return _word_piece(folder)
    require(
        all((folder / name).is_file() for name in BYTES),
        f"{named}, which has no {TOKENIZER}, {WORDS}, or {' with '.join(BYTES)} in {folder}; write one "
        "with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers.",
    )
    return _byte_level(folder)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    return read_json_object(file, AGAIN) if file.is_file() else {}


def _special(settings: dict[str, Any], name: str, usual: str) -> str:
    """A special token, which is written as its text or as an object that has it."""
    given = settings.get(f"{name}_token", usual)
    return given["content"] if isinstance(given, dict) else given


def _word_piece(folder: Path) -> str:
    """BERT's tokenizer over the words of vocab.txt, a line each."""
    settings = _settings(folder)
    words = (folder / WORDS).read_text("utf-8").removesuffix("\n").split("\n")
    unknown, first, last, padding, hidden = (
        _special(settings, name, f"[{name.upper()}]")
        for name in ("unk", "cls", "sep", "pad", "mask")
    )
    numbers = {word: number for number, word in enumerate(words)}
    for token in (unknown, first, last, padding):
        require(token in numbers, f"{folder / WORDS} has no {token}; {AGAIN}")
    inner = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token=unknown))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, numbers[token]) for token in (first, last)],
    )
    known = [token for token in (padding, unknown, first, last, hidden) if token in numbers]
    inner.add_special_tokens(known)
    return inner.to_str()


def _byte_level(folder: Path) -> str:
    """The byte-level BPE of BART and RoBERTa."""
    settings = _settings(folder)
    try:
        model = models.BPE.from_file(*(str(folder / name) for name in BYTES))
    except Exception as error:  # the package raises bare Exception
        raise UserError(
            f"{' and '.join(BYTES)} in {folder} can't be read ({error}); {AGAIN}"
        ) from error
    numbers = json.loads((folder / BYTES[0]).read_text("utf-8"))
    usual = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    special = {name: _special(settings, name, text) for name, text in usual.items()}
    first, padding, last = (special[name] for name in ("bos", "pad", "eos"))
    for token in (first, last, padding):
        require(token in numbers, f"{folder / BYTES[0]} has no {token}; {AGAIN}")
    inner = tokenizers.Tokenizer(model)
    spaced = settings.get("add_prefix_space", False)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([token for token in special.values() if token in numbers])
    inner.post_processor = processors.RobertaProcessing(
        (last, numbers[last]), (first, numbers[first]), True, spaced
    )
    return inner.to_str()
