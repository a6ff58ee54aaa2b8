"""A user's files through the command line: train, measure, ask, and ask over other passages."""

import json
from pathlib import Path

import pytest
from command_line import notes_of_cut, the_sentence
from tiny_task import write_tiny_files

from ragjax.cli import main
from ragjax.tasks.own_data import OwnData

CONFIG = Path(__file__).parents[1] / "configs" / "own_data" / "rag_sequence.py"
TINY = (
    *("--tokenizer.vocab_size", "400", "--tokenizer.question_length", "10"),
    *("--tokenizer.passage_length", "12", "--tokenizer.answer_length", "6"),
    *("--retriever.encoder.width", "16", "--reader.width", "16", "--reader.heads", "2"),
    *("--reader.encoder_layers", "1", "--phases.0.steps", "3", "--phases.0.batch_size", "4"),
    *("--phases.1.steps", "3", "--phases.1.batch_size", "4", "--evaluation.k", "4"),
    *("--evaluation.batch_size", "8", "--evaluation.every", "0", "--optimizer.warmup_steps", "2"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Passages as a table, and questions that say their split."""
    directory = tmp_path_factory.mktemp("files")
    write_tiny_files(directory)
    return directory


@pytest.fixture(scope="module")
def run_dir(files):
    words = ["train", str(CONFIG), "--run-dir", str(files / "run"), *TINY]
    words += ["--task.passages", str(files / "passages.tsv")]
    assert main([*words, "--task.questions", str(files / "questions.jsonl")]) == 0
    return files / "run"


@pytest.fixture
def ask(run_dir, capsys):
    def ask(*words):
        """-> (exit code, what is printed, the error)."""
        capsys.readouterr()
        code = main(["answer", str(run_dir), *map(str, words)])
        return code, *capsys.readouterr()

    return ask


def test_one_command_trains_and_measures(run_dir, files):
    result = json.loads((run_dir / "result.json").read_text())
    assert result["questions"] == 12
    assert result["data"]["passages"] == 30
    assert result["data"]["notes"] == ["questions are split by their 'split'"]
    assert result["data"]["splits"]["train"]["with_gold"] == 60
    assert main(["evaluate", str(run_dir), "--split", "dev"]) == 0
    config = json.loads((run_dir / "config.json").read_text())
    assert config["modules"] == {}
    assert config["task"]["passages"] == str(files / "passages.tsv")


def test_a_batch_of_more_questions_than_there_are_is_told(files, capsys):
    words = ["train", str(CONFIG), "--check", *TINY, "--phases.1.batch_size", "61"]
    words += ["--task.passages", str(files / "passages.tsv")]
    assert main([*words, "--task.questions", str(files / "questions.jsonl")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "phases.1.batch_size is 61, but there are 60 train questions, so that a batch holds some of "
        "them more than once"
    ) in said
    assert "phases.0.batch_size" not in said


@pytest.mark.parametrize(
    ("split", "lost", "why"),
    [
        *((split, "all", "") for split in ("train", "dev", "test")),
        ("dev", "answers", "; 12 of 12 dev questions have no answer and are left out"),
    ],
)
def test_a_split_without_questions_is_refused_before_the_first_step(
    files, tmp_path, capsys, split, lost, why
):
    """With what was left out of it, of questions that have no answer."""
    rows = [json.loads(line) for line in (files / "questions.jsonl").read_text().splitlines()]
    if lost == "answers":
        rows = [row | {"answers": []} if row["split"] == split else row for row in rows]
    else:
        rows = [row for row in rows if row["split"] != split]
    asked, run = tmp_path / "questions.jsonl", tmp_path / "run"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", str(CONFIG), "--run-dir", str(run), *TINY, "--task.questions", str(asked)]
    assert main([*words, "--task.passages", str(files / "passages.tsv")]) == 2
    assert the_sentence(capsys.readouterr().err) == (
        f"Task own_data has no {split} questions (questions are split by their 'split'{why}); give it "
        "at least one."
    )
    assert not run.exists()


def test_an_edited_file_is_noticed(run_dir, files, capsys):
    path = files / "questions.jsonl"
    before = path.read_text()
    path.write_text(before.replace('"Arles"', '"Avignon"', 1))
    capsys.readouterr()
    assert main(["evaluate", str(run_dir)]) == 2
    message = the_sentence(capsys.readouterr().err)
    assert f"makes other train questions now than {run_dir} began with" in message
    path.write_text(before)
    assert main(["evaluate", str(run_dir)]) == 0


def test_other_passages_are_retrieved_and_read(ask, run_dir, tmp_path):
    other = [f"{name} lives in {name}stadt." for name in ("Urs", "Pia", "Ada", "Eva")]
    for name, text in zip("abcd", other, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "empty.txt").write_text(" \n")
    left_out = "1 of 5 passages have no text and are left out"
    no_questions = "task.questions names no file"
    assert OwnData(str(tmp_path)).load().notes == (left_out, no_questions)  # as in training
    asked = ("Where does Pia live?", "--force", "--json")
    code, out, err = ask(*asked, "--passages", tmp_path)
    assert code == 0, err
    said = " ".join(err.split())
    assert said.startswith(
        f"{left_out} 4 passages 2 of 4 passages are longer than tokenizer.passage_"
    )
    told = json.loads(out)
    assert {passage["text"] for passage in told["passages"]} == set(other)
    assert told["passages"][0]["id"].endswith(".txt#0")
    best = max(told["passages"], key=lambda passage: passage["prior"])
    assert best["text"] == other[1]  # by a name that the run has never seen
    assert told["notes"] == notes_of_cut(
        run_dir, told["answer"]
    )  # and Pia is no unknown word there
    code, out, _ = ask(*asked)
    told = json.loads(out)
    cut = notes_of_cut(run_dir, told["answer"])
    assert told["notes"] == ["unknown words left out: Pia", *cut]


def test_few_other_passages(ask, tmp_path):
    (tmp_path / "a.txt").write_text("Urs lives in Ulm.")
    code, out, _ = ask("Where does Urs live?", "--json", "--passages", tmp_path)
    assert code == 0
    assert [passage["text"] for passage in json.loads(out)["passages"]] == ["Urs lives in Ulm."]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "empty.txt").touch()
    code, _, err = ask("Where does Urs live?", "--passages", tmp_path / "b")
    assert (code, "has no passage with a text" in the_sentence(err)) == (2, True)
    code, _, err = ask("Where does Urs live?", "--passages", tmp_path / "nowhere")
    assert code == 2
    assert "does not exist" in the_sentence(err)
