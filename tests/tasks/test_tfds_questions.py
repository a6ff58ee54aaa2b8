"""Any dataset of TFDS by its name and a mapping of fields, over a small builder made here."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ragjax.errors import UserError
from ragjax.tasks.tfds_questions import TfdsQuestions
from ragjax.types import Passage, Question


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


def test_only_passages_that_a_ranking_names(data_dir, tmp_path):
    rows = "".join(f'{{"id": "{name}", "text": "{name * 2}"}}\n' for name in "abcd")
    (tmp_path / "p.jsonl").write_text(rows + '{"id": "e", "text": ""}\n')
    run = tmp_path / "found.trec"
    run.write_text("q Q0 c 1 3.0 t\nq Q0 e 2 2.0 t\nr Q0 a 1 1.0 t\nr Q0 c 2 0.5 t\n")
    task = TfdsQuestions(
        "mini_questions",
        "answers=answers/text",
        passages=str(tmp_path / "p.jsonl"),
        ranking=str(run),
        data_dir=data_dir,
    )
    data = task.load()
    assert [passage.id for passage in data.passages] == ["a", "c"]
    assert data.notes[:2] == (
        "2 of 5 passages are not ranked and are left out",
        "1 of 3 passages have no text and are left out",
    )
    assert set(task.files) == {tmp_path / "p.jsonl", run}
    run.write_text("q Q0 z 1 3.0 t\nq Q0 a 2 2.0 t\nq Q0 y 3 1.0 t\n")
    with pytest.raises(
        UserError, match=r"names 2 passages that .*p\.jsonl does not have, such as 'y'"
    ):
        task.load()
    run.write_text("\n")
    with pytest.raises(UserError, match="holds no line of a run"):
        task.load()


def test_each_answer_is_learned_from(data_dir):
    """Of training questions alone; that which stands first is the target of a row."""
    splits = {"dev_split": "validation[:5]", "test_split": "validation[5:]"}
    options = splits | {"data_dir": data_dir}
    once = TfdsQuestions("mini_questions", FIELDS, **options).load()
    twice = TfdsQuestions("mini_questions", FIELDS, **options, each_answer=True).load()
    assert twice.splits["test"] == once.splits["test"]
    assert twice.splits["dev"] == once.splits["dev"]
    rows = [(question.id, question.answers) for question in twice.splits["train"]]
    assert rows[:4] == [
        ("q0#0", ("0", "ß")),
        ("q0#1", ("ß", "0")),
        ("q1#0", ("1", "ß")),
        ("q1#1", ("ß", "1")),
    ]
    assert len(rows) == 2 * len(once.splits["train"])
    assert twice.notes[-1] == "each answer of 39 train questions is learned from"


def test_answers_of_several_fields(data_dir):
    """The first answer is of the field that is named first; what stands in both is there once."""
    fields = "answers=page/title+answers/text,context=context,id=qid"
    ((_, first), *_) = TfdsQuestions("mini_questions", fields, data_dir=data_dir).asked()
    assert first == Question(
        "q0", "Wer ist Nummer 0?", ("Seite 0", "0", "ß"), first.positives, "", ""
    )


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
        ({"ranking": "found.trec"}, r"task\.ranking is .*found\.trec, but task\.passages names no"),
    ],
)
def test_what_does_not_fit_is_named(data_dir, options, message):
    fields = {"dataset": "mini_questions", "fields": FIELDS, "data_dir": data_dir} | options
    with pytest.raises(UserError, match=message):
        TfdsQuestions(**fields).load()
