"""Tokenizers from the files of older directories, against what transformers makes of them."""

import json
from pathlib import Path

import pytest
import tokenizers

from ragjax.errors import UserError
from ragjax.models.pretrained.tokenizer_files import tokenizer_json

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens/tokenizer_files.json").read_text("utf-8"))


def write_files(folder, case, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    for file in case["files"]:
        (folder / file).write_text(GOLDEN["files"][file], "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(case["settings"] | settings))


def words_of(folder, part=""):
    return tokenizers.Tokenizer.from_str(tokenizer_json(folder, part, "source is 'x'"))


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_word_lists_read_as_in_transformers(name, tmp_path):
    case = GOLDEN["cases"][name]
    write_files(tmp_path, case)
    words = words_of(tmp_path)
    assert [words.encode(text).ids for text in GOLDEN["texts"]] == case["ids"]


def test_a_part_has_a_folder_of_its_own(tmp_path):
    for part, name in (("question_encoder", "bert"), ("generator", "bart")):
        write_files(tmp_path / f"{part}_tokenizer", GOLDEN["cases"][name])
        ids = [words_of(tmp_path, part).encode(text).ids for text in GOLDEN["texts"]]
        assert ids == GOLDEN["cases"][name]["ids"]


def test_one_tokenizer_json_comes_before_word_lists(tmp_path):
    write_files(tmp_path, GOLDEN["cases"]["bert"])
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.save(str(tmp_path / "tokenizer.json"))
    assert words_of(tmp_path).get_vocab_size() == 1


def test_special_tokens_may_be_written_as_objects(tmp_path):
    case = GOLDEN["cases"]["bert"]
    write_files(tmp_path, case, cls_token={"content": "[CLS]", "lstrip": False})
    assert [words_of(tmp_path).encode(text).ids for text in GOLDEN["texts"]] == case["ids"]


def test_what_can_not_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match=r"x', which has no tokenizer.json, vocab.txt"):
        tokenizer_json(tmp_path, "", "source is 'x'")
    write_files(tmp_path, GOLDEN["cases"]["bert"], sep_token="[END]")
    with pytest.raises(UserError, match=r"vocab.txt has no \[END\]"):
        words_of(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    write_files(tmp_path, GOLDEN["cases"]["bart"], eos_token="<none>")
    with pytest.raises(UserError, match=r"vocab.json has no <none>"):
        words_of(tmp_path)
    (tmp_path / "merges.txt").write_text("no merge\n")
    with pytest.raises(UserError, match=r"can't be read"):
        words_of(tmp_path)
