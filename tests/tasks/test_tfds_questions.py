"""Any dataset of TFDS by its name and a mapping of fields, over a small builder made here."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ragjax.errors import UserError
from ragjax.tasks.tfds_questions import TfdsQuestions
from ragjax.types import Passage


class MiniQuestions(tfds.core.GeneratorBasedBuilder):
    """Laid out as SQuAD and TriviaQA are: answers within other fields, contexts that repeat."""

    VERSION = tfds.core.Version("1.2.0")
    code_path = None

    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "qid": text,
                    "question": text,
                    "context": text,
                    "page": {"title": text},
                    "answers": tfds.features.Sequence({"text": text, "start": np.int32}),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 40),
            "validation": self._generate_examples(40, 50),
        }

    def _generate_examples(self, first, last):
        for n in range(first, last):
            yield (
                n,
                {
                    "qid": f"q{n}",
                    "question": f"Wer ist Nummer {n}?",
                    "context": f"Straße {n // 4}",
                    "page": {"title": f"Seite {n // 8}"},
                    "answers": [
                        {"text": t, "start": 0} for t in ([] if n == 3 else [f"{n}", "ß", f"{n}"])
                    ],
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    builder = MiniQuestions(data_dir=str(directory), file_format="array_record")
    builder.download_and_prepare()
    return str(directory)


FIELDS = "answers=answers/text,id=qid,context=context,title=page/title"


def test_contexts_are_the_passages(data_dir):
    data = TfdsQuestions("mini_questions", FIELDS, data_dir=data_dir).load()
    assert [passage.text for passage in data.passages] == [f"Straße {n}" for n in range(13)]
    assert {passage.title for passage in data.passages} == {f"Seite {n}" for n in range(7)}
    texts = {passage.id: passage.text for passage in data.passages}
    for questions in data.splits.values():
        for question in questions:
            number = int(question.id[1:])
            assert question.question == f"Wer ist Nummer {number}?"
            assert question.answers == (str(number), "ß")
            assert [texts[gold] for gold in question.positives] == [f"Straße {number // 4}"]
    assert [question.id for question in data.splits["test"]] == [f"q{n}" for n in range(40, 50)]
    own = {question.id for split in ("train", "dev") for question in data.splits[split]}
    assert own == {f"q{n}" for n in range(40)} - {"q3"}
    assert 0 < len(data.splits["dev"]) < 15
    assert data.notes == (
        "a share 0.1 of train, by a hash, is dev",
        f"1 of {len(data.splits['train']) + 1} train questions have no answer and are left out",
    )


def test_questions_without_an_answer_are_counted_for_each_split(data_dir):
    """Its one stands in dev and test here."""
    options = {"test_split": "train[:10]", "dev_share": 0.9, "data_dir": data_dir}
    data = TfdsQuestions("mini_questions", FIELDS, **options).generate()
    left_out = "questions have no answer and are left out"
    assert data.notes[1:] == (
        f"1 of {len(data.splits['dev']) + 1} dev {left_out}",
        f"1 of 10 test {left_out}",
    )


def test_contexts_of_questions_without_an_answer_are_passages_too(data_dir):
    """Here of the only question of its split, which stands beside "Straße 0"."""
    options = {"train_split": "validation", "test_split": "train[3:4]", "data_dir": data_dir}
    data = TfdsQuestions("mini_questions", FIELDS, **options).generate()
    assert data.splits["test"] == ()
    assert "Straße 0" in {passage.text for passage in data.passages}


def test_what_is_dev_comes_of_train_alone(data_dir):
    data = TfdsQuestions("mini_questions", FIELDS, dev_share=0.9, data_dir=data_dir).load()
    assert [question.id for question in data.splits["test"]] == [f"q{n}" for n in range(40, 50)]
    assert len(data.splits["dev"]) > len(data.splits["train"]) > 0


def test_passages_of_ones_own(data_dir, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "Straße"}\n{"id": "b", "text": ""}\n')
    task = TfdsQuestions(
        "mini_questions",
        "answers=answers/text",
        passages=str(tmp_path / "p.jsonl"),
        dev_split="validation[:50%]",
        test_split="validation[50%:]",
        data_dir=data_dir,
    )
    data = task.load()
    assert data.passages == (Passage("a", "", "Straße"),)
    assert data.notes[0] == "1 of 2 passages have no text and are left out"
    assert [len(data.splits[split]) for split in ("train", "dev", "test")] == [39, 5, 5]
    assert data.splits["test"][0].id == "validation[50%:]/0"
    assert data.splits["test"][0].positives == ()
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "text": "x"}\n' * 2)
    twice = dataclasses.replace(task, passages=str(tmp_path / "twice.jsonl"))
    with pytest.raises(UserError, match="passage 'a' occurs twice"):
        twice.load()
    before = task.fingerprint()
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "Strasse"}\n')
    assert task.fingerprint() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "no_such_dataset"}, "TFDS can't give the split 'train' of 'no_such_dataset'"),
        ({"test_split": "held_out"}, "TFDS can't give the split 'held_out' of 'mini_questions'"),
        ({"fields": "context=answers/start"}, "where a text is wanted; name another"),
        ({"fields": "answers=answers/words,context=context"}, "has no field 'answers/words'"),
        ({"fields": "answer=answers/text"}, "write it as column=name, with a column of question"),
        ({"fields": "answers=answers/text"}, "give one of both"),
        ({"dataset": ""}, r"task\.dataset is empty"),
    ],
)
def test_what_does_not_fit_is_named(data_dir, options, message):
    fields = {"dataset": "mini_questions", "fields": FIELDS, "data_dir": data_dir} | options
    with pytest.raises(UserError, match=message):
        TfdsQuestions(**fields).load()
