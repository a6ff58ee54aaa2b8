"""`ragjax index`: passages are stored, embedded by a run, and found again."""

import dataclasses
import json
import os
import shutil
from pkgutil import resolve_name

import jax
import numpy as np
import pytest
from tiny_task import PEOPLE, TOWNS, TinyTask

from ragjax import commands, index_methods
from ragjax.cli import main
from ragjax.data.passage_store import PassageStore
from ragjax.index_commands import IndexBuild
from ragjax.learners.questions import QuestionsLearner
from ragjax.lease import leased
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.embeddings import StoredEmbeddings
from ragjax.run_dir import load_run
from ragjax.tasks.own_data import OwnData
from ragjax.training.learner import Learner
from ragjax.training.optimizer import evaluation_params
from ragjax.types import Question

pytest_plugins = ["tiny_run"]

ASKED = f"Where does {PEOPLE[3]} live?"


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    """Those of the run's task, and some that it has never seen."""
    rows = [vars(passage) for passage in TinyTask().generate().passages]
    rows += [
        {"id": "new", "title": "Zebra", "text": "The zebra lives in Kenya."},
        {"id": "steering", "title": "", "text": "A \x1b[31mred\x1b[0m town."},
        {"id": "empty", "title": "Nothing", "text": " "},
        {"id": "again", "title": "Ada", "text": f"Ada lives in {TOWNS[0]}, a quiet town."},
    ]
    return write_jsonl(tmp_path_factory.mktemp("files") / "passages.jsonl", rows)


@pytest.fixture(scope="module")
def questions(passages):
    rows = [{"id": f"q{row}", "question": f"Where does {PEOPLE[row]} live?"} for row in range(4)]
    rows.append({"id": "unknown", "question": "xylophone"})
    return write_jsonl(passages.with_name("questions.jsonl"), rows)


@pytest.fixture(scope="module")
def embedded(trained, passages, tmp_path_factory):
    """A directory with embeddings."""
    directory = tmp_path_factory.mktemp("index") / "embedded"
    assert main(["index", "build", str(passages), str(directory), "--run", str(trained)]) == 0
    return directory


@pytest.fixture(scope="module")
def worded(passages, tmp_path_factory):
    """A directory without."""
    directory = tmp_path_factory.mktemp("index") / "worded"
    assert main(["index", "build", str(passages), str(directory)]) == 0
    return directory


def snapshot(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def hits_of(out):
    return [json.loads(line) for line in out.splitlines()]


# Building


def test_building_says_what_it_does(ragjax, passages, trained, embedded, tmp_path):
    directory = tmp_path / "new" / "index"
    code, out, err = ragjax("index", "build", passages, directory, "--run", trained)
    assert code == 0
    assert out.splitlines() == [
        f"{directory}/passages: 33 passages",
        f"{directory}/embeddings: 33 embeddings of 16 numbers, float32",
    ]
    told = " ".join(err.split())
    assert f"1 passage without a text left out: {passages}, line 33" in told
    repeat = f"{passages}, line 34 repeats {passages}, line 1"
    assert "1 passage with title and text of an earlier one kept" in told
    assert repeat in told
    assert "of 33 passages are longer than tokenizer.passage_length; their ends are not" in told
    assert "passage 33/33" in told
    assert snapshot(directory) == snapshot(embedded)
    assert sorted(path.name for path in directory.iterdir()) == ["embeddings", "passages"]
    # Once more, there is nothing to be done.
    times = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    assert ragjax("index", "build", passages, directory, "--run", trained)[:2] == (0, out)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_embeddings_are_those_that_answers_come_from(embedded, passages, trained):
    run = load_run(trained).over(write_sound(passages))
    stored = StoredEmbeddings(embedded / "embeddings")
    assert stored.facts["step"] == 11
    np.testing.assert_allclose(stored.rows, run.state.index.embeddings, atol=1e-5)


def write_sound(passages):
    """The passages without the one that has no text."""
    rows = [json.loads(line) for line in passages.read_text().splitlines()]
    sound = [row for row in rows if row["id"] != "empty"]
    return write_jsonl(passages.with_name("sound.jsonl"), sound)


def test_a_folder_is_cut_as_asked(ragjax, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one two three four five")
    words = ["index", "build", tmp_path / "texts", tmp_path / "index"]
    assert ragjax(*words, "--words", 3, "--overlap", 1)[0] == 0
    store = PassageStore(tmp_path / "index" / "passages")
    assert [passage.text for passage in store] == ["one two three", "three four five"]


def test_columns_are_named_and_repeats_dropped(ragjax, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("Nummer,Absatz\n7,x\n8,y\n9,x\n")
    words = ["index", "build", path, tmp_path / "index", "--fields", "id=Nummer,text=Absatz"]
    code, _, err = ragjax(*words, "--drop-repeats")
    assert code == 0
    assert "left out: " in err
    assert [passage.id for passage in PassageStore(tmp_path / "index" / "passages")] == ["7", "8"]


def test_embeddings_of_fewer_bits_replace_others_if_asked(
    ragjax, refused, embedded, passages, trained, tmp_path
):
    directory = shutil.copytree(embedded, tmp_path / "index")
    words = ["index", "build", passages, directory, "--run", trained, "--dtype", "bfloat16"]
    assert "made with another dtype (float32) than is given now (bfloat16)" in refused(*words)
    assert snapshot(directory) == snapshot(embedded)
    assert ragjax(*words, "--force")[0] == 0
    found = StoredEmbeddings(directory / "embeddings")
    exact = StoredEmbeddings(embedded / "embeddings").rows
    np.testing.assert_allclose(found.block(0, 33), exact, rtol=2.0**-8, atol=1e-6)
    code, out, _ = ragjax("index", "search", directory, ASKED, "--json")
    assert code == 0
    (few,), (many,) = hits_of(out), hits_of(ragjax("index", "search", embedded, ASKED, "--json")[1])
    for one, other in zip(few["passages"], many["passages"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.02)


def test_other_passages_replace_those_that_are_there_if_asked(
    ragjax, refused, embedded, passages, tmp_path
):
    directory = shutil.copytree(embedded, tmp_path / "index")
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": "x"}])
    for path, options in ((other, ()), (passages, ("--drop-repeats",))):
        message = refused("index", "build", path, directory, *options)
        assert f"was not built from {path} as it is now, with these options" in message
    assert snapshot(directory) == snapshot(embedded)
    broken = write_jsonl(tmp_path / "broken.jsonl", [{"text": "x"}, {"id": " ", "text": "y"}])
    code, out, err = ragjax("index", "build", broken, directory, "--force")
    assert (code, out) == (2, "")
    assert "line 2 has an empty id" in err
    assert snapshot(directory) == snapshot(embedded)
    (directory / "scann").mkdir(exist_ok=True)  # an index of the old ones
    assert ragjax("index", "build", other, directory, "--force")[0] == 0
    assert [path.name for path in directory.iterdir()] == ["passages"]
    assert len(PassageStore(directory / "passages")) == 1


def test_embeddings_of_the_same_passages_stay(ragjax, refused, embedded, passages, tmp_path):
    """Whatever their file is called now."""
    directory = shutil.copytree(embedded, tmp_path / "index")
    (directory / "scann").mkdir(exist_ok=True)
    renamed = shutil.copy(passages, tmp_path / "renamed.jsonl")
    assert "was not built from" in refused("index", "build", renamed, directory)
    assert ragjax("index", "build", renamed, directory, "--force")[0] == 0
    assert PassageStore(directory / "passages").facts["source"]["name"] == "renamed.jsonl"
    assert snapshot(directory / "embeddings") == snapshot(embedded / "embeddings")
    assert (directory / "scann").is_dir()


def test_the_run_is_found_from_another_directory(
    ragjax, passages, trained, embedded, tmp_path, monkeypatch
):
    monkeypatch.chdir(trained.parent)
    words = ["index", "build", passages, tmp_path / "index", "--run", trained.name]
    assert ragjax(*words)[0] == 0
    monkeypatch.chdir(tmp_path)
    found = ragjax("index", "search", "index", ASKED, "--json")
    assert found == ragjax("index", "search", embedded, ASKED, "--json")


@pytest.mark.parametrize("after", ["write_passages", "FittedEncoder.of"])
def test_a_directory_that_was_taken_over_is_left_alone(
    after, ragjax, passages, trained, tmp_path, monkeypatch
):
    """Nothing is put in place, and no chunk is recorded."""
    directory = tmp_path / "index"
    home = "passage_store" if after == "write_passages" else "corpus_encoding"
    place = f"ragjax.data.{home}.{after}"
    do = resolve_name(place)

    def taken_over(*args, **kwargs):
        done = do(*args, **kwargs)
        (directory / "lock.1").unlink()
        return done

    monkeypatch.setattr(place, taken_over)
    code, out, err = ragjax("index", "build", passages, directory, "--run", trained)
    assert (code, out) == (2, "")
    assert "index was taken over by another process while" in err
    left = ["embeddings.partial", "passages"] if after == "FittedEncoder.of" else []
    assert sorted(path.name for path in directory.glob("*")) == left
    assert not list(directory.glob("*/done.txt"))


def test_texts_are_cut_as_those_of_a_run():
    cut = OwnData.passage_words, OwnData.overlap
    assert (IndexBuild.words, IndexBuild.overlap) == cut


def test_a_run_s_directory_takes_no_passages(refused, trained, passages):
    before = snapshot(trained)
    assert refused("index", "build", passages, trained) == (
        f"{trained} is the directory of a run or a model; name one of its own."
    )
    assert snapshot(trained) == before


def test_damaged_passages_are_built_again_if_asked(ragjax, refused, worded, passages, tmp_path):
    directory = shutil.copytree(worded, tmp_path / "index")
    (directory / "passages" / "text.bin").write_bytes(b"")
    words = ["index", "build", passages, directory]
    assert "text.bin has 0 bytes, but its manifest says" in refused(*words)
    assert ragjax(*words, "--force")[0] == 0
    assert snapshot(directory) == snapshot(worded)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--words", "0"], "--words is 0; it must be at least 1 and below 2147483648."),
        (
            ["--words", "9" * 20],
            f"--words is {'9' * 20}; it must be at least 1 and below 2147483648.",
        ),
        (["--overlap", "100"], "--overlap is 100; it must be at least 0 and below --words 100."),
        (
            ["--fields", "txt=x"],
            "--fields has 'txt=x'; write it as column=name, with a column of id",
        ),
        (["--dtype", "int8"], "int8"),
        (["--run", "nowhere"], "nowhere is not a directory; name the directory of a run."),
    ],
)
def test_bad_options_are_refused(words, message, refused, passages, tmp_path):
    assert message in refused("index", "build", passages, tmp_path / "index", *words)
    assert list(tmp_path.iterdir()) == []


def test_bad_passages_leave_nothing(ragjax, tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "text": "x"}] * 2)
    code, out, err = ragjax("index", "build", path, tmp_path / "new" / "index")
    assert (code, out) == (2, "")
    assert "1 passage has the id of an earlier one: 'a' of" in err
    assert [item.name for item in tmp_path.iterdir()] == ["p.jsonl"]
    missing = ragjax("index", "build", tmp_path / "q.jsonl", tmp_path / "index")
    assert "q.jsonl does not exist" in missing[2]


def test_a_run_that_embeds_nothing_is_refused(refused, passages, trained, tmp_path, monkeypatch):
    words = ["index", "build", passages, tmp_path / "index", "--run", trained]
    load = commands.open_run

    def open_run(run_dir, console):
        run = load(run_dir, console)
        monkeypatch.setattr(Dense, "learned", learned)
        return run

    learned = False
    monkeypatch.setattr(commands, "open_run", open_run)
    assert refused(*words).startswith("The run's retriever is Dense, which embeds nothing; leave")
    learned = True
    monkeypatch.setattr(Dense, "learned", learned)
    monkeypatch.setattr(QuestionsLearner, "corpus_encoder", Learner.corpus_encoder)
    assert refused(*words).startswith("--run names a run of a policy; name one of questions")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_another_process_holds_is_refused(refused, worded, passages, tmp_path):
    directory = shutil.copytree(worded, tmp_path / "index")
    with leased([directory]):
        message = refused("index", "build", passages, directory)
    assert message.startswith(f"{directory} is in use by process ")
    assert message.endswith("or name another directory.")


# Searching


def test_a_question_finds_what_its_answer_is_read_from(ragjax, embedded, passages, trained):
    """Its passages are those of `answer --passages`, and their scores make its prior."""
    code, out, _ = ragjax("index", "search", embedded, ASKED, "--k", 5, "--json")
    assert code == 0
    (told,) = hits_of(out)
    run = load_run(trained).over(write_sound(passages))
    read = run.answer(ASKED, force=True)
    prior = {passage["id"]: passage["prior"] for passage in read["passages"]}
    assert told["question"] == ASKED
    assert told["notes"] == []
    assert {hit["id"] for hit in told["passages"]} == prior.keys()
    scores = np.array([hit["score"] for hit in told["passages"]])
    assert (np.diff(scores) <= 0).all()
    params = evaluation_params(run.state.params, run.state.opt_state)
    logits = scores * np.exp(float(params["retriever"]["log_scale"]))
    expected = [prior[hit["id"]] for hit in told["passages"]]
    found = np.exp(logits) / np.exp(logits).sum() * sum(expected)  # of all passages, not of five
    np.testing.assert_allclose(found, expected, atol=1e-4)
    store = PassageStore(embedded / "passages")
    for hit in told["passages"]:
        (row,) = store.row_of([hit["id"]])
        assert (hit["title"], hit["text"]) == (store[row].title, store[row].text)


def test_passages_are_shown_and_steer_nothing(ragjax, embedded, worded):
    code, out, _ = ragjax("index", "search", embedded, "Where does the zebra live?", "--k", 33)
    assert code == 0
    assert "[Zebra] The zebra lives in Kenya." in out
    assert "A \\x1b[31mred\\x1b[0m town." in out
    assert "\x1b" not in out
    code, out, _ = ragjax("index", "search", embedded, "Where does xylophonia live?")
    assert "  note: unknown words left out: xylophonia\n" in out
    assert ragjax("index", "search", worded, "xylophone")[:2] == (0, "nothing found\n")


def test_a_file_of_questions_is_searched(ragjax, embedded, worded, questions):
    """In order, by embeddings and by BM25; a question of unknown words finds nothing."""
    asked = [json.loads(line) for line in questions.read_text().splitlines()]
    for directory in (embedded, worded):
        words = ["index", "search", directory, "--questions", questions, "--k", 3]
        code, out, err = ragjax(*words, "--json")
        assert code == 0
        assert "1 of 5 questions find nothing, such as unknown" in err
        rows = hits_of(out)
        assert [(row["id"], row["question"]) for row in rows] == [
            (row["id"], row["question"]) for row in asked
        ]
        assert rows[4]["passages"] == []
        for row in rows[:1]:
            alone = hits_of(
                ragjax("index", "search", directory, row["question"], "--k", 3, "--json")[1]
            )[0]
            assert [hit["id"] for hit in row["passages"]] == [
                hit["id"] for hit in alone["passages"]
            ]
    code, text, _ = ragjax(*words)
    lines = text.splitlines()
    assert [line for line in lines if line.endswith("?")] == [row["question"] for row in asked[:4]]
    assert lines[-2:] == ["xylophone", "nothing found"]


def test_without_embeddings_bm25_searches(ragjax, worded):
    store = PassageStore(worded / "passages")
    topk = BM25().lookup(tuple(store), [Question("q", ASKED, (), (), "", "")], 4)
    (told,) = hits_of(ragjax("index", "search", worded, ASKED, "--k", 4, "--json")[1])
    expected = [
        (store[row].id, score)
        for row, score in zip(topk.ids[0], topk.scores[0].tolist(), strict=True)
        if row >= 0
    ]
    assert [(hit["id"], hit["score"]) for hit in told["passages"]] == expected
    assert told["passages"][0]["title"] == PEOPLE[3]


def test_a_trec_run_is_written(ragjax, refused, embedded, questions, tmp_path):
    path = tmp_path / "run.trec"
    words = ["index", "search", embedded, "--questions", questions, "--k", 3]
    code, out, _ = ragjax(*words, "--output", path)
    assert (code, out) == (0, f"{path}: 12 passages, 5 questions\n")
    rows = hits_of(ragjax(*words, "--json")[1])
    expected = [
        (row["id"], "Q0", hit["id"], rank, np.float32(hit["score"]), "ragjax")
        for row in rows
        for rank, hit in enumerate(row["passages"], 1)
    ]
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [
        (asked, q0, name, int(rank), np.float32(score), tag)
        for asked, q0, name, rank, score, tag in lines
    ] == expected
    spaced = write_jsonl(tmp_path / "q.jsonl", [{"id": "a b", "question": ASKED}])
    words = ["index", "search", embedded, "--questions", spaced, "--output", tmp_path / "no.trec"]
    assert "'a b' is empty or holds white space" in refused(*words)
    assert not (tmp_path / "no.trec").exists()


def test_another_run_is_refused_unless_it_is_allowed(
    ragjax, refused, embedded, trained, monkeypatch
):
    """One with other parameters, of the same shapes."""
    made = QuestionsLearner.corpus_encoder

    def other(self, state):
        encoder = made(self, state)
        params = {"retriever": jax.tree.map(lambda leaf: -leaf, encoder.params["retriever"])}
        return dataclasses.replace(encoder, params=params)

    words = ["index", "search", embedded, ASKED, "--json"]
    code, ours, _ = ragjax(*words, "--run", trained)
    assert code == 0
    monkeypatch.setattr(QuestionsLearner, "corpus_encoder", other)
    message = refused(*words)
    assert message.startswith(
        f"{embedded}/embeddings was made with another encoder (that of {trained}, "
    )
    code, theirs, _ = ragjax(*words, "--force")
    assert code == 0
    assert len(hits_of(theirs)[0]["passages"]) == 10
    assert theirs != ours


def test_embeddings_of_other_passages_are_refused(refused, embedded, ragjax, tmp_path):
    directory = tmp_path / "index"
    path = write_jsonl(tmp_path / "p.jsonl", [{"text": "zebra"}])
    assert ragjax("index", "build", path, directory)[0] == 0
    message = refused("index", "search", directory, ASKED, "--run", "nowhere", "--k", 1)
    assert f"{directory} has no embeddings, which --run is for" in message
    assert "--k is 2, but there is 1 passage to" in refused(
        "index", "search", directory, "x", "--k", 2
    )
    code, out, _ = ragjax("index", "search", directory, "zebra", "--json")  # all of less than ten
    assert (code, [hit["text"] for hit in hits_of(out)[0]["passages"]]) == (0, ["zebra"])
    shutil.copytree(embedded / "embeddings", directory / "embeddings")
    message = refused("index", "search", directory, ASKED, "--force", "--k", 1)
    assert "embeddings was made with another corpus" in message
    (directory / "embeddings").rename(directory / "embeddings.partial")
    message = refused("index", "search", directory, ASKED, "--k", 1)
    assert "embeddings is not complete yet; give the `ragjax index build` command again" in message


def test_a_misspelt_option_has_a_hint(refused, embedded):
    assert refused("index", "search", embedded, ASKED, "--hwo", "bm25") == (
        "Unrecognized options: --hwo, bm25 (did you mean --how?); `ragjax index search --help` lists "
        "the options."
    )


def test_bad_questions_are_refused(refused, embedded, questions, tmp_path):
    search = ["index", "search", embedded]
    for words in ([], [ASKED, "--questions", questions]):
        assert refused(*search, *words) == "Give either a question or --questions FILE."
    assert refused(*search, " ") == "The question is empty; ask one in words."
    assert "No word of 'xylophone' is in the corpus" in refused(*search, "xylophone")
    assert "--output is x, but holds what is found for" in refused(*search, ASKED, "--output", "x")
    assert "k is 34, but there are 33 passages" in refused(*search, ASKED, "--k", 34)
    twice = write_jsonl(tmp_path / "q.jsonl", [{"id": "a", "question": ASKED}] * 2)
    message = refused(*search, "--questions", twice)
    assert f"{twice} has two questions with the id 'a'; give each its own." in message
    assert "q.jsonl has no questions" in refused(*search, "--questions", write_jsonl(twice, []))
    message = refused("index", "search", tmp_path / "nothing", ASKED)
    assert "nothing is not a directory; name one that `ragjax index build` has made." in message
    (tmp_path / "empty").mkdir()
    assert "empty/passages is not a directory of passages; build it again" in refused(
        "index", "search", tmp_path / "empty", ASKED
    )


# Ways of searching, and measuring them


@pytest.fixture(scope="module")
def judged(passages):
    """Questions with gold passages and answers."""
    rows = [
        {
            "id": f"q{row}",
            "question": f"Where does {PEOPLE[row]} live?",
            "answers": [TOWNS[row]],
            "positives": [TinyTask().generate().passages[row].id],
        }
        for row in range(4)
    ]
    return write_jsonl(passages.with_name("judged.jsonl"), rows)


def found_by(ragjax, directory, questions, *words):
    """Question id -> [(passage id, score)]."""
    code, out, err = ragjax(
        "index", "search", directory, "--questions", questions, "--json", *map(str, words)
    )
    assert code == 0, err
    return {
        row["id"]: [(hit["id"], hit["score"]) for hit in row["passages"]] for row in hits_of(out)
    }


def test_questions_that_the_run_has_learned_from_are_counted(ragjax, embedded, tmp_path):
    """Whatever they are called in the file; of others nothing is said."""
    splits = TinyTask().generate().splits
    for name, questions, count in (
        ("mixed", (*splits["train"][:3], *splits["test"][:2]), 3),
        ("held_out", splits["test"][:2], 0),
    ):
        rows = [
            {"id": f"a{n}", "question": f" {q.question} ", "positives": q.positives}
            for n, q in enumerate(questions)
        ]
        asked = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        words = ("index", "evaluate", embedded, "--questions", asked, "--k", 5, "--json")
        code, out, _ = ragjax(*words)
        assert code == 0
        told = f"{count} of {len(rows)} questions are among those that the run was trained with"
        assert json.loads(out)["notes"] == ([told] if count else [])


def test_a_fused_ranking_looks_as_deep_as_is_asked(ragjax, embedded, judged, monkeypatch):
    monkeypatch.setattr(index_methods, "DEPTH", 1)
    found = found_by(ragjax, embedded, judged, "--how", "rrf", "--k", 9)
    assert all(len(hits) == 9 for hits in found.values())


def test_scann_of_few_passages_and_the_faster_one_are_exact_and_kept(ragjax, embedded, judged):
    exact = found_by(ragjax, embedded, judged, "--how", "exact", "--k", 3)
    scann = found_by(ragjax, embedded, judged, "--how", "scann", "--k", 3)
    again = found_by(ragjax, embedded, judged, "--how", "scann", "--k", 3)
    auto = found_by(ragjax, embedded, judged, "--how", "auto", "--k", 3)
    assert (embedded / "scann").is_dir()
    assert scann == again
    for other in (scann, auto):
        for name, hits in exact.items():
            assert [hit for hit, _ in hits] == [hit for hit, _ in other[name]]
    code, out, _ = ragjax("index", "evaluate", embedded, "--questions", judged, "--how", "auto")
    assert code == 0
    assert "scann: recall@10 1.000, " in out


def test_one_device_and_several_find_the_same(ragjax, refused, embedded, judged):
    words = ("--how", "exact", "--k", 5, "--devices")
    one, two = (found_by(ragjax, embedded, judged, *words, count) for count in (1, 2))
    assert one == two
    assert refused("index", "search", embedded, ASKED, *words, 9).startswith(
        "9 devices are asked for, but JAX has 2 here"
    )


def test_fused_rankings_by_hand(ragjax, embedded, judged):
    """score = inner product + weight * BM25, and 1 / (60 + rank) of both."""
    everything = ("--k", 33)
    dense = found_by(ragjax, embedded, judged, "--how", "exact", *everything)
    words = found_by(ragjax, embedded, judged, "--how", "bm25", *everything)
    hybrid = found_by(ragjax, embedded, judged, "--how", "hybrid", "--weight", 0.3, *everything)
    rrf = found_by(ragjax, embedded, judged, "--how", "rrf", *everything)
    for name in dense:
        lexical = dict(words[name])
        expected = {hit: score + 0.3 * lexical.get(hit, 0.0) for hit, score in dense[name]}
        assert dict(hybrid[name]) == pytest.approx(expected, rel=1e-5)
        ranks: dict[str, float] = {}
        for ranking in (dense[name], words[name]):
            for rank, (hit, _) in enumerate(ranking, 1):
                ranks[hit] = ranks.get(hit, 0.0) + 1 / (60 + rank)
        assert dict(rrf[name]) == pytest.approx(ranks, rel=1e-5)


def test_a_weight_is_chosen_on_development_questions(ragjax, refused, embedded, judged):
    words = ["index", "search", embedded, ASKED, "--how", "hybrid", "--k", "2"]
    assert refused(*words).startswith("--how hybrid has no weight")
    code, out, _ = ragjax(*words, "--tune", judged)
    assert code == 0
    assert "by hit@2 on 4 development questions (" in out
    assert "--weight is of --how hybrid, but --how is exact" in refused(
        "index", "search", embedded, ASKED, "--weight", 1
    )


def test_random_and_gold_passages_to_compare_with(ragjax, embedded, judged):
    gold = found_by(ragjax, embedded, judged, "--how", "oracle")
    assert {name: hits[0][0] for name, hits in gold.items()} == {
        row["id"]: row["positives"][0] for row in map(json.loads, judged.read_text().splitlines())
    }
    drawn = found_by(ragjax, embedded, judged, "--how", "random", "--k", 5)
    assert all(len({hit for hit, _ in hits}) == 5 for hits in drawn.values())
    assert drawn == found_by(ragjax, embedded, judged, "--how", "random", "--k", 5)


def test_figures_of_what_is_found(ragjax, embedded, judged, tmp_path):
    words = ["index", "evaluate", embedded, "--questions", judged, "--how", "bm25", "--k", 5]
    code, out, err = ragjax(*words, "--json", "--per-question", tmp_path / "each.jsonl")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    found = found_by(ragjax, embedded, judged, "--how", "bm25", "--k", 5)
    gold = {
        row["id"]: row["positives"][0] for row in map(json.loads, judged.read_text().splitlines())
    }
    ranks = [
        next((rank for rank, (hit, _) in enumerate(found[name], 1) if hit == gold[name]), None)
        for name in gold
    ]
    assert figures["hit@1"] == np.mean([rank == 1 for rank in ranks])
    assert figures["mrr"] == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    assert figures["coverage"] == 1.0
    assert figures["questions"] == 4
    assert "hit@100" not in figures
    each = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    assert [row["id"] for row in each] == list(gold)
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("".join(f"{name} 0 {found[name][0][0]} 2\n" for name in gold))
    code, out, _ = ragjax(*words, "--qrels", qrels)
    assert code == 0
    shown = dict(row.split("\u2502")[1:3] for row in out.splitlines() if row.count("\u2502") == 3)
    assert {name.strip(): value.strip() for name, value in shown.items()}["mrr"] == "1.000"


def test_a_ranking_of_another_program_is_measured(ragjax, refused, embedded, judged, tmp_path):
    ranking, qrels = tmp_path / "run.txt", tmp_path / "gold.tsv"
    asked = ["--questions", judged, "--k", 5]
    assert ragjax("index", "search", embedded, *asked, "--how", "bm25", "--output", ranking)[0] == 0
    evaluate = ["index", "evaluate", embedded, *asked, "--json"]
    searched = json.loads(ragjax(*evaluate, "--how", "bm25", "--write-qrels", qrels)[1])
    code, out, _ = ragjax(*evaluate, "--ranking", ranking, "--qrels", qrels)
    assert code == 0
    assert json.loads(out) == searched
    # a question that it lacks finds nothing, and one that is not asked is told
    lines = ranking.read_text().splitlines()
    first = lines[0].split()[0]
    left = [line for line in lines if line.split()[0] != first]
    ranking.write_text("\n".join([*left, lines[0].replace(first, "stranger")]) + "\n")
    figures = json.loads(ragjax(*evaluate, "--ranking", ranking)[1])
    assert figures["hit@5"] < searched["hit@5"]
    assert figures["notes"] == [
        f"1 of 4 questions have no line in {ranking}",
        f"1 questions of {ranking} are not asked and not measured",
    ]
    ranking.write_text(f"{first} Q0 nowhere 1 2.5 tag\n")
    assert "has passage 'nowhere' for question" in refused(*evaluate, "--ranking", ranking)
    assert "--how" in refused(*evaluate, "--ranking", ranking, "--how", "bm25")
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"id": "q", "question": "Who?", "answers": ["x"]}\n')
    words = ["index", "evaluate", embedded, "--questions", bare, "--write-qrels", tmp_path / "none"]
    assert "names a gold passage" in refused(*words)
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_read_or_is_none_takes_no_results(refused, embedded, judged, tmp_path):
    evaluate = ["index", "evaluate", embedded, "--questions", judged]
    before = judged.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(judged)
    for command, option, path in (
        (["index", "search", embedded, "--questions", judged], "--output", judged),
        (evaluate, "--output", link),
        (evaluate, "--per-question", judged),
        (evaluate, "--write-qrels", judged),
    ):
        assert refused(*command, option, path) == (
            f"{option} is {path}, which --questions names, too; name another file."
        )
    assert judged.read_bytes() == before
    twice = tmp_path / "x"
    assert refused(*evaluate, "--output", twice, "--per-question", twice) == (
        f"--per-question is {twice}, which --output names, too; name another file."
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        assert refused(*evaluate, "--output", place) == (
            f"--output is {place}, which is no file; name a file."
        )
    assert f"{tmp_path / 'no'} is not a directory" in refused(
        *evaluate, "--output", tmp_path / "no" / "x"
    )


@pytest.mark.parametrize("weight", ["nan", "-1", "1e300", "inf"])
def test_a_weight_has_its_range(refused, embedded, weight):
    """Which is said before any question is read."""
    words = ["index", "search", embedded, "xylophone", "--how", "hybrid", f"--weight={weight}"]
    assert refused(*words) == (
        f"--weight is {float(weight)}; it must be at least 0, and at most 1e+06."
    )


def test_passages_go_into_a_directory_of_their_own(refused, passages, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    for words in (["index", "build", passages, ""], ["index", "build", passages, "."]):
        assert refused(*words) == (
            "DIR is the current directory, which holds other files; name a directory of its own."
        )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_can_t_be_measured(refused, ragjax, embedded, worded, judged, tmp_path):
    evaluate = ["index", "evaluate", embedded]
    assert refused(*evaluate).startswith("--questions is missing")
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"question": ASKED}])
    assert f"{bare} has neither answers nor gold passages" in refused(
        *evaluate, "--questions", bare
    )
    bad = tmp_path / "qrels.txt"
    bad.write_text("q0 0 doc one\n")
    assert f"{bad}, line 1" in refused(*evaluate, "--questions", judged, "--qrels", bad)
    assert "k is 34, but there are 33 passages" in refused(
        *evaluate, "--questions", judged, "--k", 34
    )
    assert f"{worded} has no embeddings, which --how rrf is for" in refused(
        "index", "search", worded, ASKED, "--how", "rrf"
    )
