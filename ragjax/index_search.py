"""`ragjax index search` and `evaluate`: what is found in a directory of `ragjax index build`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from ragjax.errors import require
from ragjax.files import check_output
from ragjax.index_commands import PASSAGES
from ragjax.index_methods import Found, Searches, Searching, depth_of
from ragjax.printing import PlainConsole, print_json, print_line
from ragjax.result_commands import print_passages, print_report
from ragjax.text import counted

if TYPE_CHECKING:
    from ragjax.data.passage_store import PassageStore
    from ragjax.types import Question, TopK

# As in `ragjax.cli`, what is slow to import is imported by the commands that need it.


@dataclass(frozen=True)
class IndexSearch(Searching):
    """Find the passages nearest to a question or to each of a file: ragjax index search DIR."""

    question: Positional[str | None] = None
    """The question, if there is no file of them."""


@dataclass(frozen=True)
class IndexEvaluate(Searching):
    """Measure what is found for questions with answers or gold passages: ragjax index evaluate DIR."""

    qrels: Path | None = None
    """Judgements in TREC's or BEIR's format; the questions' own gold passages if not given."""
    ranking: Path | None = None
    """What another program has found, as a TREC run, to measure that instead of searching."""
    per_question: Path | None = None
    """A file for the figures of each question, as JSON lines."""
    write_qrels: Path | None = None
    """A file for the questions' gold passages as judgements; in BEIR's format if it ends in .tsv."""


def search(options: IndexSearch, _: list[str], console: PlainConsole) -> int:
    """Finds passages for one question, or for each of a file."""
    require(
        (options.question is None) != (options.questions is None),
        "Give either a question or --questions FILE.",
    )
    require(
        options.output is None or options.questions is not None,
        f"--output is {options.output}, but holds what is found for --questions FILE; give that too.",
    )
    _check_outputs(options, ("output",))
    questions = _asked(options, options.question)
    store, found = _search(options, questions, console)
    if options.output is not None:
        _write(options.output, questions, store, found.topk)
        return 0
    rankings = [_hits(store, *row) for row in zip(found.topk.ids, found.topk.scores, strict=True)]
    for question, hits in zip(questions, rankings, strict=True):
        asked = {} if options.questions is None else {"id": question.id}
        if options.json:
            told = {"question": question.question, "passages": hits, "notes": found.notes}
            print_json(asked | told)
            continue
        if asked:
            print_line(question.question)
        for note in found.notes:
            print_line(f"  note: {note}")
        print_passages(hits, ("score",)) if hits else print_line("nothing found")
    return 0


def evaluate(options: IndexEvaluate, _: list[str], console: PlainConsole) -> int:
    """Measures what is found for a file of questions."""
    from ragjax.data.trec import read_qrels, write_qrels
    from ragjax.evaluation.metrics import write_predictions
    from ragjax.evaluation.retrieval_measures import (
        FIGURES,
        import_ir_measures,
        measure_retrieval,
    )
    from ragjax.records import ReportTable

    require(options.questions is not None, "--questions is missing; give a file of them.")
    _check_outputs(options, ("output", "per_question", "write_qrels"))
    questions = _asked(options, None)
    qrels = None if options.qrels is None else read_qrels(options.qrels)
    judged = bool(qrels) or any(question.positives for question in questions)
    require(
        judged or any(question.answers for question in questions),
        f"{options.questions} has neither answers nor gold passages, so that nothing can be measured; "
        "add a column answers or positives, or give --qrels.",
    )
    if judged:
        import_ir_measures()  # that it is missing is said before a search of minutes
    if options.write_qrels is not None:
        gold = {q.id: dict.fromkeys(q.positives, 1) for q in questions if q.positives}
        require(
            bool(gold),
            f"--write-qrels is {options.write_qrels}, but no question of {options.questions} names a "
            "gold passage; leave it out.",
        )
        write_qrels(options.write_qrels, gold)
        console.print(f"{options.write_qrels}: {sum(map(len, gold.values()))} judgements")
    if options.ranking is None:
        store, found = _search(options, questions, console)
    else:
        store, found = _given(options, questions)
    topk, deep = found.topk, found.topk.ids.shape[1]
    names = [name for name in FIGURES if int(name.partition("@")[2] or 0) <= deep]
    outcomes = measure_retrieval(store, questions, topk.ids, topk.scores, qrels, names)
    if options.output is not None:
        _write(options.output, questions, store, topk)
    if options.per_question is not None:
        write_predictions(options.per_question, outcomes.rows())
    figures = outcomes.summary()
    if options.json:
        print_json(figures | {"notes": found.notes}, indent=2)
        return 0
    for note in found.notes:
        print_line(note)
    rows = [(name, _shown(value)) for name, value in figures.items()]
    print_report([ReportTable("", ("", "measured"), rows)])
    return 0


def _check_outputs(options: Searching, names: Sequence[str]) -> None:
    """Checks the files for results that options name; none is a file that another option names."""
    inputs = ("questions", "tune", "qrels", "ranking")
    given = {f"--{name}": getattr(options, name, None) for name in inputs}
    for name in names:
        option, path = f"--{name.replace('_', '-')}", getattr(options, name)
        check_output(option, path, given)
        given[option] = path


def _shown(value: float | int | None) -> str:
    if value is None:
        return "not measured"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _search(
    options: Searching, questions: Sequence["Question"], console: PlainConsole
) -> tuple["PassageStore", Found]:
    """The passages, and what is found for the questions."""
    from ragjax.precision import single_precision

    store = _store(options.directory)
    found = single_precision(Searches(options, store, console).find)(questions)
    nothing = [q.id for q, valid in zip(questions, found.topk.valid, strict=True) if not any(valid)]
    if nothing and options.questions is not None:
        console.print(
            f"{len(nothing)} of {len(questions)} questions find nothing, such as {nothing[0]}"
        )
    return store, found


def _given(options: IndexEvaluate, questions: Sequence["Question"]) -> tuple["PassageStore", Found]:
    """The passages, and what a TREC run holds for the questions."""
    import numpy as np

    from ragjax.data.trec import read_run
    from ragjax.types import TopK

    assert options.ranking is not None
    given = [name for name in ("how", "run", "weight", "tune") if getattr(options, name)]
    require(
        not given,
        f"--ranking is {options.ranking}, which is measured as it is, but --{' and --'.join(given)} say "
        "how to search; leave one or the other out.",
    )
    store, ranking = _store(options.directory), read_run(options.ranking)
    k = depth_of(options, store)
    ids = np.full((len(questions), k), -1, np.int64)
    scores = np.full(ids.shape, -np.inf, np.float32)
    for place, question in enumerate(questions):
        hits = ranking.pop(question.id, [])[:k]
        rows = store.row_of([name for name, _ in hits])
        for (name, _), row in zip(hits, rows, strict=True):
            require(
                bool(row >= 0),
                f"{options.ranking} has passage {name!r} for question {question.id!r}, but "
                f"{store.directory} has not; name the directory whose passages were searched.",
            )
        ids[place, : len(hits)], scores[place, : len(hits)] = rows, [score for _, score in hits]
    none = int(np.sum(np.all(ids < 0, axis=1)))
    notes = [f"{none} of {len(questions)} questions have no line in {options.ranking}"] * (none > 0)
    if ranking:
        notes.append(
            f"{len(ranking)} questions of {options.ranking} are not asked and not measured"
        )
    return store, Found(TopK(ids, scores, ids >= 0), notes)


def _store(directory: Path) -> "PassageStore":
    """The passages of a directory of `ragjax index build`."""
    from ragjax.data.passage_store import PassageStore

    require(
        directory.is_dir(),
        f"{directory} is not a directory; name one that `ragjax index build` has made.",
    )
    return PassageStore(directory / PASSAGES)


def _asked(options: Searching, text: str | None) -> list["Question"]:
    """The questions; of a file, each with an id of its own."""
    from ragjax.data.readers import read_asked
    from ragjax.types import Question

    if options.questions is not None:
        return read_asked(options.questions, options.fields)
    require(bool((text or "").strip()), "The question is empty; ask one in words.")
    return [Question("asked", text or "", (), (), "", "")]


def _hits(store: "PassageStore", ids: Any, scores: Any) -> list[dict[str, Any]]:
    return [
        vars(store[int(row)]) | {"score": float(score)}
        for row, score in zip(ids, scores, strict=True)
        if row >= 0
    ]


def _write(
    path: Path, questions: Sequence["Question"], store: "PassageStore", topk: "TopK"
) -> None:
    from ragjax.data.trec import write_run

    run = {
        question.id: [(hit["id"], hit["score"]) for hit in _hits(store, ids, scores)]
        for question, ids, scores in zip(questions, topk.ids, topk.scores, strict=True)
    }
    write_run(path, run)
    found = counted(sum(map(len, run.values())), "passage")
    print_line(f"{path}: {found}, {counted(len(run), 'question')}")
