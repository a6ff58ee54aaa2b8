"""A task of the user's files: splits, identity, what is left out, and what is refused."""

import json
from pathlib import Path

import pytest

from ragjax.errors import UserError
from ragjax.tasks.base import SPLITS
from ragjax.tasks.own_data import OwnData


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def passages(tmp_path):
    rows = [{"id": f"p{n}", "title": f"T{n // 2}", "text": f"text {n}"} for n in range(40)]
    return write(tmp_path / "passages.jsonl", rows)


def asked(count=200, **more):
    return [
        {
            "id": f"q{n}",
            "question": f"What is {n}?",
            "answers": [str(n)],
            "positives": [f"p{n % 40}"],
        }
        | {name: value(n) for name, value in more.items()}
        for n in range(count)
    ]


def test_a_hash_of_the_question_splits(passages, tmp_path):
    """Shares are about those asked for, and a question stays where it is, whatever stands around it."""
    rows = asked(1000)
    all_of_them = OwnData(passages, write(tmp_path / "q.jsonl", rows), dev_share=0.2).load()
    sizes = {split: len(all_of_them.splits[split]) for split in SPLITS}
    assert sizes["test"] == pytest.approx(200, abs=40)
    assert sizes["dev"] == pytest.approx(200, abs=40)
    assert sum(sizes.values()) == 1000
    assert all_of_them.notes == ("questions are split by a hash of their question",)
    some = OwnData(passages, write(tmp_path / "r.jsonl", rows[::-3]), dev_share=0.2).load()
    for split in SPLITS:
        ids = {question.id for question in all_of_them.splits[split]}
        assert {question.id for question in some.splits[split]} <= ids
    again = write(tmp_path / "s.jsonl", [*rows, rows[5] | {"id": "x", "question": "what  IS 5?"}])
    splits = OwnData(passages, again).load().splits
    (there,) = [split for split in SPLITS if any(q.id == "q5" for q in splits[split])]
    assert any(question.id == "x" for question in splits[there])
    loud = [row | {"question": row["question"].upper()} for row in rows]
    shouted = OwnData(passages, write(tmp_path / "t.jsonl", loud), dev_share=0.2).load()
    for split in SPLITS:
        found, wanted = shouted.splits[split], all_of_them.splits[split]
        assert [question.id for question in found] == [question.id for question in wanted]


def test_a_hash_of_titles_keeps_them_apart(passages, tmp_path):
    data = OwnData(passages, write(tmp_path / "q.jsonl", asked()), split_by="title").load()
    title = {passage.id: passage.title for passage in data.passages}
    titles = [{title[q.positives[0]] for q in data.splits[split]} for split in SPLITS]
    assert all(titles)
    assert sum(map(len, titles)) == len(set.union(*titles)) == 20
    bare = [{name: row[name] for name in ("question", "answers")} for row in asked(9)]
    task = OwnData(passages, write(tmp_path / "r.jsonl", bare), split_by="title")
    with pytest.raises(UserError, match="has no gold passage of which the corpus knows a title"):
        task.load()


def test_a_column_splits(passages, tmp_path):
    names = ("train", "validation", "TEST")
    path = write(tmp_path / "q.jsonl", asked(9, split=lambda n: names[n % 3]))
    data = OwnData(passages, path).load()
    assert [[q.id for q in data.splits[split]] for split in SPLITS] == [
        ["q0", "q3", "q6"],
        ["q1", "q4", "q7"],
        ["q2", "q5", "q8"],
    ]
    assert data.notes == ("questions are split by their 'split'",)
    assert (
        OwnData(passages, path, split_field="").load().notes[0].endswith("hash of their question")
    )
    odd = write(tmp_path / "odd.jsonl", asked(3, split=lambda n: "held-out"))
    with pytest.raises(UserError, match="has split 'held-out'; use one of train, dev, test"):
        OwnData(passages, odd).load()
    part = write(tmp_path / "part.jsonl", asked(3, split=lambda n: "train" if n < 2 else ""))
    with pytest.raises(UserError, match="'q2' has no 'split', unlike those before"):
        OwnData(passages, part).load()


def test_files_split(passages, tmp_path):
    rows = asked(6)
    paths = [write(tmp_path / f"{n}.jsonl", rows[n::3]) for n in range(3)]
    data = OwnData(passages, paths[0], dev=paths[1], test=paths[2]).load()
    assert [len(data.splits[split]) for split in SPLITS] == [2, 2, 2]
    assert data.splits["test"][0].id == "q2"
    with pytest.raises(UserError, match=r"task\.dev and task\.test names a file and the other"):
        OwnData(passages, paths[0], dev=paths[1])


def test_columns_have_other_names_in_every_file(passages, tmp_path):
    rows = [
        {"id": row["id"], "Frage": row["question"], "Antwort": row["answers"]} for row in asked(6)
    ]
    paths = [write(tmp_path / f"{n}.jsonl", rows[n::3]) for n in range(3)]
    fields = "question=Frage,answers=Antwort"
    data = OwnData(passages, paths[0], dev=paths[1], test=paths[2], fields=fields).load()
    for number, split in enumerate(SPLITS):
        assert [q.question for q in data.splits[split]] == [row["Frage"] for row in rows[number::3]]


def test_what_is_left_out_is_counted(tmp_path):
    passages = [{"id": "a", "text": "x"}, {"id": "b", "text": " "}, {"id": "c", "text": ""}]
    questions = [{"question": f"Who is {n}?", "answers": [] if n % 4 else ["x"]} for n in range(40)]
    data = OwnData(
        write(tmp_path / "p.jsonl", passages), write(tmp_path / "q.jsonl", questions)
    ).load()
    assert [passage.id for passage in data.passages] == ["a"]
    assert sum(map(len, data.splits.values())) == 10
    assert "2 of 3 passages have no text and are left out" in data.notes
    left_out = [int(note.split()[0]) for note in data.notes if "have no answer" in note]
    assert sum(left_out) == 30


def test_passages_alone(passages):
    data = OwnData(passages).load()
    assert (len(data.passages), data.splits) == (40, dict.fromkeys(SPLITS, ()))


def test_paths_are_absolute(passages, monkeypatch):
    monkeypatch.chdir(Path(passages).parent)
    task = OwnData("passages.jsonl")
    assert task.passages == passages
    assert task == OwnData(passages)
    monkeypatch.chdir("/")
    assert len(task.load().passages) == 40


def test_an_edited_file_is_another_task(passages, tmp_path):
    task = OwnData(passages, write(tmp_path / "q.jsonl", asked(9)))
    before, data = task.fingerprint(), task.load()
    assert task.fingerprint() == before
    text = Path(passages).read_text()
    Path(passages).write_text(text.replace("text 3", "text 33", 1))
    assert task.fingerprint() != before
    assert task.load() != data
    Path(passages).write_text(text)
    assert task.fingerprint() == before


@pytest.mark.parametrize(
    ("passages", "questions", "message"),
    [
        ([("a", "x"), ("a", "y")], [], "passage 'a' occurs twice"),
        ([], [], "has no passage with a text"),
        ([("a", "x")], [("q", "Who?", ["x"], [])] * 2, "question 'q' occurs twice"),
        ([("a", "x")], [("q", "Who?", ["x"], ["b"])], "has the gold passage 'b', which is not in"),
        ([("a", "x")], [("q", "Who?", ["x", " "], [])], "has an empty answers"),
    ],
)
def test_rows_are_checked_before_anything_else(tmp_path, passages, questions, message):
    """In every split: the file has the questions of the test split last."""
    rows = [{"id": id, "text": text} for id, text in passages]
    asked = [
        {"id": id, "question": text, "answers": answers, "positives": positives, "split": "test"}
        for id, text, answers, positives in questions
    ]
    with pytest.raises(UserError, match=message):
        OwnData(write(tmp_path / "p.jsonl", rows), write(tmp_path / "q.jsonl", asked)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dev_share": 0.0}, "task.dev_share is 0.0; it is a share"),
        ({"dev_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"passage_words": 0}, "task.passage_words is 0"),
        ({"fields": "tittle=Titel"}, "task.fields has 'tittle=Titel'; write it as column=name"),
        ({"overlap": 100}, "task.overlap is 100; it must be less than task.passage_words 100"),
    ],
)
def test_fields_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        OwnData(**options)
    with pytest.raises(UserError, match=r"task\.passages names no file"):
        OwnData().load()


def test_questions_without_any_answer_are_refused(passages, tmp_path):
    """Of a column by another name, or of none; of single questions it is told."""
    rows = [{"question": row["question"], "answer_text": row["answers"]} for row in asked(20)]
    path = write(tmp_path / "q.jsonl", rows)
    with pytest.raises(UserError) as error:
        OwnData(passages, path).load()
    assert str(error.value) == (
        f"{path} has no question with an answer; add a column 'answers', or give the name of it: "
        "--task.fields answers=NAME."
    )
    found = OwnData(passages, path, fields="answers=answer_text").load()
    assert sum(map(len, found.splits.values())) == 20


def test_no_file_of_questions_is_told(passages):
    assert OwnData(passages).load().notes == ("task.questions names no file",)


def test_only_passages_that_a_ranking_names(passages, tmp_path):
    run = tmp_path / "found.trec"
    run.write_text("q Q0 p7 1 3.0 t\nq Q0 p3 2 2.0 t\n")
    task = OwnData(passages, ranking=str(run))
    assert [passage.id for passage in task.load().passages] == ["p3", "p7"]
    assert task.load().notes[0] == "38 of 40 passages are not ranked and are left out"
    before = task.fingerprint()
    run.write_text("q Q0 p7 1 3.0 t\n")
    assert task.fingerprint() != before
