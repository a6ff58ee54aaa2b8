"""What is said of a run's data: counts by hand, and rows that are others than they were."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_pretrained import TOKENS, write_tokenizer
from tiny_task import TinyTask

from ragjax.data.prepared import PreparedText
from ragjax.data.report import DataReport, digests
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import UserError
from ragjax.retrieval.base import OwnTokens

SPEC = TokenizerSpec(vocab_size=400, question_length=7, passage_length=11, answer_length=3)


@pytest.fixture(scope="module")
def data():
    """With a test question without gold, of two words that nobody knows."""
    data = TinyTask().generate()
    first, *others = data.splits["test"]
    odd = dataclasses.replace(first, question="Where exactly does zzyzx live?", positives=())
    return dataclasses.replace(
        data, splits=data.splits | {"test": (odd, *others)}, notes=("a note",)
    )


@pytest.fixture(scope="module")
def text(data):
    return PreparedText.make(SPEC, data)


@pytest.fixture(scope="module")
def own_tokens(tmp_path_factory):
    """Of a retriever that reads 11 tokens of a question: its ends, "in", and eight of the text."""
    path = tmp_path_factory.mktemp("own") / "tokenizer.json"
    write_tokenizer(path)
    return OwnTokens(path.read_text(), str(path), len(TOKENS), (11, 20), ("in ", ""))


@pytest.fixture(scope="module")
def report(data, text):
    return DataReport.measure(data, text)


def test_cut_questions_and_answers_are_counted(data, text, report):
    """Of every split, questions as they are read; an answer needs room for its end."""
    encode = text.tokenizer.encode
    for split, questions in data.splits.items():
        asked = [len(encode(text.known_words(question.question)[0])) for question in questions]
        told = [len(encode(question.answers[0])) for question in questions]
        assert report.splits[split].cut_questions == sum(length > 7 for length in asked) > 0
        assert report.splits[split].cut_answers == sum(length > 2 for length in told) > 0
        assert report.splits[split].questions == len(questions)
    assert report.cut_passages == text.corpus.cut > 0


def test_other_accepted_answers_that_are_too_long_are_counted(data, text):
    """Of each split; all of a question's but the first, which is counted by itself."""
    assert len(text.tokenizer.encode("lives")) == 1
    splits = {}
    for number, (split, (first, *others)) in enumerate(data.splits.items()):
        answers = ("lives", *(f"lives lives lives {n}" for n in range(number)), "lives lives")
        splits[split] = (dataclasses.replace(first, answers=answers), *others)
    report = DataReport.measure(dataclasses.replace(data, splits=splits), text)
    found = {split: of.cut_other_answers for split, of in report.splits.items()}
    assert found == {"train": 0, "dev": 1, "test": 2}
    told = "\n".join(report.sentences())
    assert (
        "2 other accepted answers of test questions do not fit into tokenizer.answer_length" in told
    )
    assert "accepted answers of train" not in told


def test_questions_that_the_retriever_does_not_read_whole_are_counted(data, own_tokens):
    """By its own tokenizer, which knows no letter of "zzyzx" as a word."""
    text = PreparedText.make(dataclasses.replace(SPEC, question_length=40), data, own_tokens)
    report = DataReport.measure(data, text)
    for split, asked in data.splits.items():
        cut = sum(bool(text.own.cut(question.question)) for question in asked)
        assert report.splits[split].cut_for_retriever == cut
        assert report.splits[split].cut_questions == 0
    assert 0 < report.splits["dev"].cut_for_retriever < 12
    said = "12 dev questions are longer than the question_length of the retriever's encoder"
    assert said in "\n".join(report.sentences())


def test_a_report_of_an_older_run_is_read(report, tmp_path):
    """It has not counted what is counted now."""
    report.save(tmp_path)
    value = json.loads((tmp_path / "data.json").read_text())
    for split in value["splits"].values():
        del split["cut_other_answers"], split["cut_for_retriever"]
    (tmp_path / "data.json").write_text(json.dumps(value))
    assert DataReport.load(tmp_path) == report


def test_unknown_words_and_missing_gold_are_counted(report):
    found = {split: (of.unknown_words, of.with_gold) for split, of in report.splits.items()}
    assert found == {"train": (0, 60), "dev": (0, 12), "test": (2, 11)}


def test_a_question_of_several_gold_passages_counts_once(data, text):
    first, second, *others = data.splits["train"]
    both = dataclasses.replace(first, positives=("p0", "p1"))
    none = dataclasses.replace(second, positives=())
    splits = data.splits | {"train": (both, none, *others)}
    report = DataReport.measure(dataclasses.replace(data, splits=splits), text)
    assert report.splits["train"].with_gold == len(data.splits["train"]) - 1


def test_all_of_it_is_said(report):
    told = "\n".join(report.sentences())
    assert told.startswith("a note\n30 passages; questions: 60 train, 12 dev, 12 test")
    assert "2 words of test questions are in no passage and no training question" in told
    assert "1 of 12 test questions have no gold passage" in told
    assert f"{report.splits['dev'].cut_answers} of 12 dev answers do not fit into" in told


def test_it_is_the_same_again(report, tmp_path):
    report.save(tmp_path)
    assert DataReport.load(tmp_path) == report
    value = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(value | {"splits": {"train": {}}}))
    with pytest.raises(UserError, match=r"data\.json is malformed"):
        DataReport.load(tmp_path)


@pytest.mark.parametrize("field", ["id", "question", "answers", "positives", "relation", "entity"])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_any_change_of_a_question_is_noticed(data, report, tmp_path, split, field):
    report.require_same(data, tmp_path, "tiny")
    *others, last = data.splits[split]
    new = ("p0", "x") if field in ("answers", "positives") else getattr(last, field) + "x"
    changed = (*others, dataclasses.replace(last, **{field: new}))
    edited = dataclasses.replace(data, splits=data.splits | {split: changed})
    with pytest.raises(UserError, match=f"Task tiny makes other {split} questions now than"):
        report.require_same(edited, tmp_path, "tiny")


@pytest.mark.parametrize("field", ["id", "title", "text"])
def test_any_change_of_a_passage_is_noticed(data, report, tmp_path, field):
    report.require_passages(data.passages, tmp_path)
    first, *others = data.passages
    passages = (dataclasses.replace(first, **{field: getattr(first, field) + "x"}), *others)
    with pytest.raises(UserError, match="are not those that it began with"):
        report.require_passages(passages, tmp_path)
    with pytest.raises(UserError, match="Task tiny makes other passages now than"):
        report.require_same(dataclasses.replace(data, passages=passages), tmp_path, "tiny")


def other(value, rng):
    """Another text, or other texts, than these: as little is changed as may be."""
    if value == ():
        return ("",)
    if isinstance(value, str):
        place, letter = int(rng.integers(len(value) + 1)), chr(rng.integers(32, 0x3000))
        drawn = (
            value[:place] + letter + value[place:],
            value[:place] + value[place + 1 :],
            value[:place] + value[place : place + 1].swapcase() + value[place + 1 :],
            value[::-1],
        )
    else:
        place = int(rng.integers(len(value)))
        texts = list(value)
        texts[place] = other(texts[place], rng)
        drawn = ((*value, ""), value[:-1], (value[0], *value), tuple(texts), value[::-1])
    changed = drawn[rng.integers(len(drawn))]
    return changed if changed != value else other(value, rng)


OF_ROWS = ("moved", "swapped", "lost", "twice")


def test_a_drawn_edit_of_any_row_is_noticed(data, report, tmp_path):
    """Of a field; of two fields between which a text has moved; or of the rows and their order."""
    rng = np.random.default_rng(0)
    report.require_same(data, tmp_path, "tiny")
    tables = {"passages": data.passages} | data.splits
    cases = [(of, kind) for of, rows in tables.items() for kind in (*vars(rows[0]), *OF_ROWS)]
    for name, kind in cases * 10:
        rows = list(tables[name])
        place = int(rng.integers(len(rows)))
        row = rows[place]
        if kind not in OF_ROWS:
            rows[place] = dataclasses.replace(row, **{kind: other(getattr(row, kind), rng)})
        elif kind == "moved":
            one, two = ("title", "text") if name == "passages" else ("relation", "entity")
            first, second = getattr(row, one), getattr(row, two)
            moved = {one: first + second[:1], two: second[1:]}
            rows[place] = dataclasses.replace(row, **moved)
        elif kind == "swapped":
            rows[place - 1], rows[place] = rows[place], rows[place - 1]
        elif kind == "lost":
            del rows[place]
        else:
            rows.insert(place, row)
        if name == "passages":
            edited = dataclasses.replace(data, passages=tuple(rows))
            with pytest.raises(UserError, match="are not those that it began with"):
                report.require_passages(edited.passages, tmp_path)
        else:
            edited = dataclasses.replace(data, splits=data.splits | {name: tuple(rows)})
        what = name if name == "passages" else f"{name} questions"
        with pytest.raises(UserError, match=f"Task tiny makes other {what} now than"):
            report.require_same(edited, tmp_path, "tiny")
        same = {of for of, digest in digests(edited).items() if digest == report.digests[of]}
        assert same == {*report.digests} - {name}
