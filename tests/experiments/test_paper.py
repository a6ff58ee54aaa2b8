"""The RAG paper's table by the commands of its page, over tiny stand-ins of its data and its models."""

import csv
import gzip
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tensorflow_datasets.question_answering  # which knows web_questions
from tiny_pretrained import write_dpr
from tiny_reader import write_reader
from tiny_task import PEOPLE, TOWNS

from ragjax.cli import main
from ragjax.config import load_config
from ragjax.data.builder import quiet
from ragjax.data.passage_store import PassageStore
from ragjax.data.readers import read_questions
from ragjax.data.trec import ranked_passages, read_run
from ragjax.errors import UserError
from ragjax.evaluation.making import make_missing
from ragjax.evaluation.rendering import render
from ragjax.evaluation.tables import load_table
from ragjax.files import load_module
from ragjax.models.pretrained import load
from ragjax.overrides import override
from ragjax.printing import PlainConsole
from ragjax.retrieval.embeddings import StoredEmbeddings
from ragjax.run_dir import load_run
from ragjax.training.program import starting_state
from ragjax.types import Question

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "experiments" / "paper"
PAGE = (PAPER / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs" / "paper").glob("*.py"))
SIZES = (
    *("--tokenizer.question_length", "16", "--tokenizer.passage_length", "24"),
    *("--tokenizer.answer_length", "6"),
    *(
        word
        for encoder in ("encoder", "query_encoder")
        for side, length in (("question", 16), ("passage", 32))
        for word in (f"--retriever.{encoder}.{side}_length", str(length))
    ),
    *("--optimizer.warmup_steps", "1", "--optimizer.accumulate", "2"),
    *("--phases.0.steps", "3", "--phases.0.batch_size", "4", "--phases.0.k", "2"),
    *("--evaluation.k", "4", "--evaluation.batch_size", "8"),
)


def script(name):
    """The module of a script of the experiment."""
    return load_module(PAPER / f"{name}.py", f"paper_{name}")


def commands(start, **options):
    """The words of the page's commands that start so, with other values of some options."""
    found = re.findall(rf"^ +ragjax ({start} .+)$", PAGE, re.MULTILINE)
    given = [shlex.split(command) for command in found]
    for words in given:
        for name, value in options.items():
            words[words.index(f"--{name}") + 1] = value
    return given


def asked(people):
    return [{"question": f"Where does {PEOPLE[n]} live?", "answer": [TOWNS[n]]} for n in people]


def prepare(dataset, data_dir, files):
    """Has TFDS's own code prepare a dataset of files that nothing has downloaded."""
    builder = tfds.builder(dataset, data_dir=str(data_dir), file_format="array_record")
    makes = builder._generate_examples
    # The code of TriviaQA looks for its files with TensorFlow, which is not needed to read them.
    builder._split_generators = lambda _: {
        split: makes([path], None, None) if "trivia" in dataset else makes(path)
        for split, path in files.items()
    }
    with quiet():
        builder.download_and_prepare()


def write_trivia_qa(path, people):
    """As its files are laid out: the reader goes by the indentation."""
    names = ("Aliases", "NormalizedAliases")
    rows = [
        {
            "Answer": {name: [f"the {TOWNS[n]}", TOWNS[n]] for name in names}
            | {"NormalizedValue": TOWNS[n].lower(), "Type": "WikipediaEntity", "Value": TOWNS[n]},
            "Question": f"Where does {PEOPLE[n]} live?",
            "QuestionId": f"tc_{n}",
            "QuestionSource": "",
        }
        for n in people
    ]
    path.write_text(json.dumps({"Data": rows}, indent=4).replace("},\n        {", "},\n        {"))


@pytest.fixture(autouse=True)
def mixed():
    """Flax's LayerNorm mixes bfloat16, in which the configs compute, and float32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory with all that the page says to get, tiny: 40 passages, and questions about 30."""
    root = tmp_path_factory.mktemp("paper")
    paper, data = root / "runs" / "paper", root / "tfds"
    (paper / "models").mkdir(parents=True)
    with gzip.open(paper / "psgs_w100.tsv.gz", "wt", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("id", "text", "title"))
        texts = [
            f'{name} lives in {town}, a "quiet" town.'
            for name, town in zip(PEOPLE, TOWNS, strict=True)
        ]
        texts += [f"Nobody lives in place {n}." for n in range(10)]
        writer.writerows((n, text, text.split()[0]) for n, text in enumerate(texts, 1))
    write_dpr(paper / "models" / "dpr_passages", 0)
    write_dpr(paper / "models" / "dpr_questions", 1)
    write_reader(paper / "models" / "bart_large", "bart")
    splits = {"train": range(20), "validation": range(20, 26), "test": range(26, 30)}
    for split, people in splits.items():
        rows = asked(people)
        (root / f"nq_{split}").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [
            {
                "url": "",
                "utterance": row["question"],
                "targetValue": f'(list (description "{row["answer"][0]}"))',
            }
            for row in rows
        ]
        (root / f"wq_{split}").write_text(json.dumps(rows))
        write_trivia_qa(root / f"tqa_{split}", people)
        name = {"validation": "dev"}.get(split, split)
        rows = [(f"Where does {PEOPLE[n]} live?", f"({TOWNS[n]}|Nowhere at all)") for n in people]
        lines = "".join(f"{question}\t{answer}\n" for question, answer in rows)
        (paper / f"curated_trec_{name}.tsv").write_text(f"question\tanswers\n{lines}")
    of = {split: root / f"{{}}_{split}" for split in splits}
    for dataset, short, names in (
        ("natural_questions_open", "nq", ("train", "validation")),
        ("web_questions", "wq", ("train", "test")),
        ("trivia_qa/unfiltered.nocontext", "tqa", ("train", "validation", "test")),
    ):
        prepare(dataset, data, {name: str(of[name]).format(short) for name in names})
    return root


def overrides(config, work):
    """What of a config differs: where its files lie, and sizes."""
    paper, loaded = work / "runs" / "paper", load_config(config)

    def there(source):
        return str(work / source)

    places = {
        "task.passages": paper / "psgs_w100.tsv.gz",
        "task.ranking": paper / "found" / Path(loaded.task.ranking).name,
        "retriever.encoder.source": there(loaded.retriever.encoder.source),
        "retriever.query_encoder.source": there(loaded.retriever.query_encoder.source),
        "reader.source": there(loaded.reader.source),
    }
    if loaded.task.name == "tfds_questions":
        places["task.data_dir"] = work / "tfds"
    else:
        for name in ("questions", "dev", "test"):
            places[f"task.{name}"] = paper / "curated_trec" / Path(getattr(loaded.task, name)).name
    return [word for name, place in places.items() for word in (f"--{name}", str(place))] + list(
        SIZES
    )


@pytest.fixture(scope="module")
def found(work):
    """Steps 1 to 3 of the page: an index, and what it finds for all questions."""
    paper = work / "runs" / "paper"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        (paper / "found").mkdir()
        for name in script("questions").OF_TFDS:
            config = ROOT / "configs" / "paper" / f"{name}_rag_sequence.py"
            task = override(load_config(config), overrides(config, work)).task
            script("questions").write_questions(task, paper / "questions", name)
        for words in [*commands("index build"), *commands("index search", k="5")]:
            assert main(words) == 0
        script("curated_trec").main(paper)
    return paper


def table_of(work, *keys):
    """The table with its configs over the stand-ins, the rows of some keys or all."""
    table = load_table(PAPER / "open_domain.py")
    rows = tuple(
        replace(row, overrides=tuple(overrides(ROOT / row.config, work)))
        for row in table.rows
        if not keys or row.directory in keys
    )
    return replace(table, rows=rows, results=work / "experiments" / "results")


def train(work, key):
    """`ragjax train` of a row, where `ragjax table --run` looks for it."""
    config = f"configs/paper/{key}.py"
    run_dir = work / "runs" / "open_domain" / key / "seed_0"
    words = ["train", config, *overrides(ROOT / config, work), "--seed", "0"]
    assert main([*words, "--run-dir", str(run_dir)]) == 0
    return run_dir


def test_a_cell_comes_of_index_training_and_record(found, work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    run_dir = train(work, "nq_rag_sequence")
    told = json.loads((run_dir / "data.json").read_text())
    assert told["notes"][0].endswith("of 40 passages are not ranked and are left out")
    assert told["passages"] == len(ranked_passages(found / "found" / "nq.trec")) < 40
    assert told["splits"]["test"]["questions"] == 6
    config = json.loads((run_dir / "config.json").read_text())
    assert config["compute"] == "bfloat16"
    # DPR's encoder of questions has moved, and its encoder of passages has not.
    params, sources = load_run(run_dir).state.params, found / "models"
    for trained, source, moves in (
        (params["retriever"]["observed"], "dpr_questions", True),
        (params["retriever"]["stored"], "dpr_passages", False),
    ):
        before = jax.tree.leaves(load(sources / source).params)
        pairs = zip(before, jax.tree.leaves(trained), strict=True)
        assert any(not np.array_equal(*pair) for pair in pairs) == moves
    table = table_of(work, "nq_rag_sequence")
    make_missing(table, work / "runs", PlainConsole())
    result = json.loads((run_dir / "result.json").read_text())
    assert result["index_built_at_step"] == 3
    text = render(table_of(work))
    (line, *_) = [line for line in text.splitlines() if line.startswith("| RAG-Sequence |")]
    assert line.split(" | ")[0] == "| RAG-Sequence"
    cells = line.removesuffix(" |").split(" | ")[1:]
    assert cells[0].startswith(f"{100 * result['em']:.1f} ± ")
    assert cells[1:] == ["–"] * 3
    assert "over seed 0 and 6 questions (NQ)" in text
    assert "| RAG-Sequence (published: Lewis et al. 2020, table 1) | 44.5 | 56.8 / 68.0 |" in text
    # What the trained encoder finds among all passages, of which 26 have an answer to some question.
    capsys.readouterr()
    (words,) = commands("index evaluate", k="40")
    assert main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["questions"], figures["has_answer@20"] > 0) == (6, True)


def test_the_runs_embed_passages_as_the_index_does_that_found_them(found, work):
    """But for bfloat16."""
    config = ROOT / "configs/paper/nq_rag_sequence.py"
    learner = override(load_config(config), overrides(config, work)).create()
    state = starting_state(learner, (0,))
    rows = np.asarray(learner._embed(learner.whole(state), learner.corpus), np.float32)
    store = PassageStore(found / "index" / "passages")
    stored = StoredEmbeddings(found / "index" / "embeddings")
    ids = [passage.id for passage in learner.text.corpus.passages]
    wanted = np.asarray(stored.rows[store.row_of(ids)], np.float32)
    np.testing.assert_allclose(rows, wanted, atol=0.05)


@pytest.mark.slow
def test_the_whole_table(found, work, monkeypatch):
    """Steps 4 and 5: all eight cells, those of the small sets from what NQ has taught."""
    monkeypatch.chdir(work)
    for kind in ("rag_token", "rag_sequence"):
        run_dir = work / "runs" / "open_domain" / f"nq_{kind}" / "seed_0"
        if not (run_dir / "result.json").exists():
            train(work, f"nq_{kind}")
        assert main(["export", str(run_dir), str(found / f"nq_{kind}")]) == 0
    for key in (path.stem for path in CONFIGS):
        if not key.startswith("nq_"):
            train(work, key)
    table = table_of(work)
    make_missing(table, work / "runs", PlainConsole())
    lines = render(table).splitlines()[4:6]
    assert [line.split(" | ")[0] for line in lines] == ["| RAG-Token", "| RAG-Sequence"]
    assert all("–" not in line for line in lines)


def test_questions_of_tfds_are_those_of_the_configs(found, work):
    """Of all splits, with the answers in the order in which they are learned from."""
    rows = {
        name: list(read_questions(found / "questions" / f"{name}.jsonl"))
        for name in ("nq", "trivia_qa", "web_questions")
    }
    assert {name: len(of) for name, of in rows.items()} == {
        "nq": 26,
        "trivia_qa": 26,  # those of its test split have no answers, and no config reads them
        "web_questions": 24,
    }
    assert {question.answers for question, _ in rows["trivia_qa"]} == {
        (town, f"the {town}") for town in TOWNS[:26]
    }
    config = ROOT / "configs/paper/trivia_qa_rag_sequence.py"
    data = override(load_config(config), overrides(config, work)).task.load()
    assert {question.answers[0] for question in data.splits["test"]} == set(TOWNS[20:26])


def test_curated_trec_is_made_of_patterns_and_what_is_found(found, work):
    (first, *_) = read_questions(found / "curated_trec" / "test.jsonl")
    question, _ = first
    assert question.question == "Where does Abel live?"
    assert question.patterns == ("(Aarau|Nowhere at all)",)
    config = ROOT / "configs/paper/curated_trec_rag_token.py"
    data = override(load_config(config), overrides(config, work)).task.load()
    assert [len(data.splits[split]) for split in ("train", "dev", "test")] == [20, 6, 4]
    asked = {question.id for questions in data.splits.values() for question in questions}
    assert asked == set(read_run(found / "found" / "curated_trec.trec"))


@pytest.mark.parametrize(
    ("patterns", "texts", "answer", "held"),
    [
        (["Nice"], ["a nice day", "Nice is nice"], "nice", True),
        (["19[67]\\d"], ["in 1969", "1970, 1970"], "1970", True),
        (["(Neil\\s)?Armstrong"], ["Neil Armstrong", "Louis Armstrong"], "Neil Armstrong", True),
        (["Neil\\sArmstrong"], ["Neil\nArmstrong"], "Neil Armstrong", True),
        (["(Neil (A\\. )?)?Armstrong|Aldrin"], ["Collins"], "Neil A Armstrong", False),
        (["St\\. (Louis|Paul)"], [], "St Louis", False),
        (["x*"], ["abc"], "x", False),
    ],
)
def test_the_answer_that_is_learned_from(patterns, texts, answer, held):
    question = Question("q", "?", tuple(patterns), (), "", "")
    assert script("curated_trec").target(question, texts) == (answer, held)


def test_a_pattern_without_a_text_is_named():
    question = Question("q", "?", (r"\d+",), (), "", "")
    with pytest.raises(UserError, match="matches nothing that is found and has no text of its own"):
        script("curated_trec").target(question, ["none"])


def test_the_page_names_every_config_and_the_files_that_they_read():
    table = load_table(PAPER / "open_domain.py")
    assert {row.config for row in table.rows} == {
        path.relative_to(ROOT).as_posix() for path in CONFIGS
    }
    outputs = set(re.findall(r"--output (\S+)", PAGE)) | {"runs/paper/found/curated_trec.trec"}
    exported = set(re.findall(r"ragjax export \S+ (\S+)", PAGE))
    for path in CONFIGS:
        config = load_config(path)
        assert str(Path(config.task.ranking).relative_to(Path.cwd())) in outputs
        assert config.retriever.encoder.source in PAGE
        for source in (config.retriever.query_encoder.source, config.reader.source):
            assert (
                source in PAGE or str(Path(source).parent) in exported or Path(source).name in PAGE
            )
