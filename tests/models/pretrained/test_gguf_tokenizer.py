"""The tokenizer of a GGUF file: ids as transformers has them, texts that come back, what is refused."""

import contextlib
import json
import random
import unicodedata
from pathlib import Path

import gguf
import pytest
import tokenizers
from command_line import the_sentence

from ragjax.errors import UserError
from ragjax.models.pretrained.gguf_tokenizer import gguf_tokenizer

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens/gguf_tokenizers.json").read_text("utf-8"))
BYTE_LEVEL = [name for name in GOLDEN["ids"] if name != "llama"]
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
KINDS = {"<unk>": UNKNOWN, "<s>": CONTROL, "<end>": CONTROL, "<tool>": USER}


def kind_of(token):
    return BYTE if token.startswith("<0x") else KINDS.get(token, NORMAL)


def facts_of(name):
    """The metadata of a golden, by the names that the file has without `tokenizer.ggml.`."""
    pieces = name == "llama"
    tokens = GOLDEN["pieces" if pieces else "tokens"]
    facts = {
        "model": "llama" if pieces else "gpt2",
        "pre": "default" if pieces else name,
        "tokens": tokens,
        "token_type": [kind_of(token) for token in tokens],
        "eos_token_id": tokens.index("<end>"),
        "add_bos_token": False,
    }
    if pieces:
        return facts | {"scores": GOLDEN["scores"], "unknown_token_id": tokens.index("<unk>")}
    return facts | {"merges": GOLDEN["merges"]}


def write(path, facts, **others):
    """A GGUF file of metadata alone."""
    written = gguf.GGUFWriter(path, "llama")
    for name, value in {f"tokenizer.ggml.{name}": value for name, value in facts.items()}.items():
        if isinstance(value, bool):
            written.add_bool(name, value)
        elif isinstance(value, list):
            written.add_array(name, value)
        else:
            (written.add_string if isinstance(value, str) else written.add_uint32)(name, value)
    for name, value in others.items():
        written.add_string(f"tokenizer.{name}", value)
    written.write_header_to_file()
    written.write_kv_data_to_file()
    written.close()
    return path


@pytest.fixture
def made(tmp_path):
    """A function that makes the tokenizer of a golden, some of whose metadata are changed."""

    def make(name, **changes):
        facts = {key: value for key, value in (facts_of(name) | changes).items() if value != ...}
        told = gguf_tokenizer(write(tmp_path / "model.gguf", facts))
        return told, tokenizers.Tokenizer.from_str(told.json)

    return make


def drawn_texts(letters=None):
    """Texts of any letters, white space and special tokens."""
    drawn = random.Random(0)
    for _ in range(300):
        parts = [chr(drawn.randrange(0x110000)) for _ in range(20)] + [
            "<end>",
            "<tool>",
            "the",
            "12",
        ]
        parts += [chr(drawn.randrange(0x250)) for _ in range(20)] + [" ", "  ", "\n", "\t", "😀"]
        if letters:
            parts = [*letters, " ", "  ", "the"]
        text = "".join(drawn.choices(parts, k=drawn.randrange(30)))
        yield "".join(letter for letter in text if unicodedata.category(letter) != "Cs")


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_ids_are_those_of_transformers(name, made):
    _, tokenizer = made(name)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True):
        assert tokenizer.encode(text).ids == ids, text


@pytest.mark.parametrize(
    ("name", "same"), [("default", "gpt-2"), ("llama3", "llama-bpe"), ("llama-v3", "llama-bpe")]
)
def test_one_way_of_splitting_has_several_names(name, same, made):
    assert made(same, pre=name)[0] == made(same)[0]


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_a_text_comes_back(name, made):
    _, tokenizer = made(name)
    for text in (*GOLDEN["texts"], *drawn_texts()):
        ids = tokenizer.encode(text).ids
        expected = unicodedata.normalize("NFC", text) if name == "qwen2" else text
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if name == "llama":  # a space and what stands for it are one; each piece begins with one
            back, expected = (one.replace("▁", "").replace(" ", "") for one in (back, expected))
        assert back == expected
        tokens = GOLDEN["pieces" if name == "llama" else "tokens"]
        assert all(0 <= number < len(tokens) for number in ids)


def test_spaces_come_back_of_a_sentencepiece_vocabulary(made):
    _, tokenizer = made("llama")
    for text in drawn_texts(letters="thewor日é\n"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    _, tokenizer = made("llama", add_space_prefix=False)
    assert tokenizer.encode("the").tokens == ["t", "he"]
    assert tokenizer.decode(tokenizer.encode(" the").ids) == " the"


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_control_and_user_defined_tokens_are_not_cut(name, made):
    _, tokenizer = made(name)
    tokens = tokenizer.encode("<end>the<tool>").tokens
    assert tokens[0] == "<end>"
    assert tokens[-1] == "<tool>"
    ids = tokenizer.encode("<end>the<tool>").ids
    assert tokenizer.decode(ids).strip() == "the<tool>"  # special tokens are left out
    types = facts_of(name)["token_type"]
    _, tokenizer = made(name, token_type=[{CONTROL: NORMAL}.get(kind, kind) for kind in types])
    assert "<end>" not in tokenizer.encode("<end>the").tokens


@pytest.mark.parametrize(
    ("name", "first"), [("gpt-2", False), ("llama-bpe", True), ("llama", True)]
)
def test_a_text_begins_and_ends_as_the_file_says(name, first, made):
    tokens = facts_of(name)["tokens"]
    start, end = tokens.index("<s>"), tokens.index("<end>")
    bare = made(name)[1].encode("the").ids
    told, tokenizer = made(name, bos_token_id=start, add_bos_token=...)
    assert (told.add_bos, told.add_eos) == (first, False)
    assert tokenizer.encode("the").ids == [start] * first + bare
    told, tokenizer = made(name, bos_token_id=start, add_bos_token=True, add_eos_token=True)
    assert (told.add_bos, told.add_eos) == (True, True)
    assert tokenizer.encode("the").ids == [start, *bare, end]
    assert tokenizer.encode("the", "the").ids == [start, *bare, end, start, *bare, end]
    assert tokenizer.encode("the", add_special_tokens=False).ids == bare


def test_special_ids_and_the_chat_template_are_told(tmp_path):
    facts = facts_of("smollm") | {"padding_token_id": 7, "bos_token_id": 5}
    told = gguf_tokenizer(str(write(tmp_path / "model.gguf", facts, chat_template="{{ x }}")))
    assert (told.bos, told.pad, told.unk, told.chat_template) == (5, 7, None, "{{ x }}")
    assert told.eos == GOLDEN["tokens"].index("<end>")
    told = gguf_tokenizer(write(tmp_path / "model.gguf", facts_of("llama")))
    assert (told.bos, told.pad, told.unk, told.chat_template) == (None, None, 0, None)


# ---- what is refused


def refused(made, name, **changes):
    with pytest.raises(UserError, match=r"model\.gguf") as error:
        made(name, **changes)
    return the_sentence(f"ragjax: {error.value}\n")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("smollm", key) for key in ("model", "pre", "tokens", "token_type", "merges")),
        ("llama", "scores"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named(name, key, made):
    assert f"does not say its tokenizer.ggml.{key};" in refused(made, name, **{key: ...})
    assert f"tokenizer.ggml.{key} that is no" in refused(made, name, **{key: 3})
    if isinstance(facts_of(name)[key], list):
        assert f"tokenizer.ggml.{key} that is no" in refused(made, name, **{key: [True]})


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("smollm", {"pre": "unheard-of"}, "'unheard-of'; only default, gpt-2, smollm, llama-bpe"),
        ("smollm", {"model": "bert"}, "'bert'; only 'gpt2' and 'llama'"),
        ("smollm", {"merges": ["a b c"]}, "'a b c'"),
        ("smollm", {"merges": ["a ☃"]}, "'a ☃'"),
        ("smollm", {"token_type": [1, 1]}, "token_type"),
        ("smollm", {"eos_token_id": 4000}, "4000"),
        ("smollm", {"add_bos_token": True}, "bos_token_id"),
        ("smollm", {"add_eos_token": True, "eos_token_id": ...}, "eos_token_id"),
        ("smollm", {"tokens": ["a", "a"], "token_type": [1, 1]}, "twice"),
        ("llama", {"scores": [0.0]}, "scores"),
    ],
)
def test_what_can_not_be_meant_is_refused(name, changes, told, made):
    assert told in refused(made, name, **changes)


def test_a_spoilt_file_is_refused(tmp_path):
    path = write(tmp_path / "model.gguf", facts_of("llama"))
    whole = path.read_bytes()
    for data in (
        *(whole[: len(whole) * part // 12] for part in range(12)),
        b"GGML" + whole[4:],  # another format
        whole[:4] + b"\0\0\0\3" + whole[8:],  # of a machine with the other order of bytes
        whole[:16] + b"\xff" * 8 + whole[24:],  # more values than there are bytes
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"model\.gguf") as error:
            gguf_tokenizer(path)
        the_sentence(f"ragjax: {error.value}\n")
    with pytest.raises(UserError, match="can't be read"):
        gguf_tokenizer(tmp_path / "none.gguf")


def test_any_spoilt_byte_is_refused_or_makes_a_tokenizer(tmp_path):
    """Whatever the lengths and types say: no other error, and no memory that the file does not fill."""
    path = write(tmp_path / "model.gguf", facts_of("smollm"))
    whole, drawn = path.read_bytes(), random.Random(0)
    for _ in range(300):
        spoilt = bytearray(whole)
        for _ in range(drawn.randrange(1, 4)):
            spoilt[drawn.randrange(len(spoilt))] = drawn.randrange(256)
        path.write_bytes(spoilt)
        with contextlib.suppress(UserError):
            tokenizers.Tokenizer.from_str(gguf_tokenizer(path).json)
