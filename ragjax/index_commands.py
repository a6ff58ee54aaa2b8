"""`ragjax index`: a corpus of any size on disk, the embeddings that a run gives it, and searching them.

A directory holds `passages`, a store of the corpus, and `embeddings` if a run was named.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ragjax.errors import UserError, require
from ragjax.files import write_atomically
from ragjax.printing import PlainConsole, print_json, print_line, print_text
from ragjax.result_commands import print_passages

if TYPE_CHECKING:
    from ragjax.data.corpus_encoding import CorpusEncoder
    from ragjax.data.passage_store import PassageStore
    from ragjax.run_dir import Run
    from ragjax.types import Question, TopK

# As in `ragjax.cli`, what is slow to import is imported by the commands that need it.

PASSAGES, EMBEDDINGS = "passages", "embeddings"


@dataclass(frozen=True)
class IndexBuild:
    """Store passages in a directory: ragjax index build PASSAGES DIR [--run RUN].

    The same command again goes on where it was stopped.
    """

    passages: Positional[Path]
    """A file of JSON lines, CSV or TSV (.gz or not), or a folder of texts."""
    directory: Positional[Path]
    """Where they are stored."""
    run: Path | None = None
    """A run whose retriever embeds them; without one, they are searched by BM25."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the embeddings on disk."""
    words: int = 100
    """Words of a passage that is cut from a text."""
    overlap: int = 20
    """Words that such a passage and the next have in common."""
    fields: str = ""
    """What the file calls its columns: text=Absatz,id=Nummer."""
    drop_repeats: bool = False
    """Leave out passages with title and text of an earlier one."""
    force: bool = False
    """Replace passages and embeddings that are there and are others."""


@dataclass(frozen=True)
class IndexSearch:
    """Find the passages nearest to a question or to each of a file: ragjax index search DIR."""

    directory: Positional[Path]
    """From `ragjax index build`."""
    question: Positional[str | None] = None
    """The question."""
    questions: Path | None = None
    """A file of questions instead: JSON lines, CSV or TSV."""
    fields: str = ""
    """What that file calls its columns: question=Frage."""
    run: Path | None = None
    """The run that embeds the questions; the one that embedded the passages if not given."""
    force: bool = False
    """Search embeddings that another run has made."""
    k: int = 10
    """Passages found for each question."""
    json: bool = False
    """Print JSON, a line for each question."""
    output: Path | None = None
    """A file for what is found for a file of questions, in the format of TREC runs."""


def build(options: IndexBuild, _: list[str], console: PlainConsole) -> int:
    """Stores passages and, with a run, their embeddings."""
    from ragjax.data.readers import PASSAGE_NAMES, parse_fields
    from ragjax.lease import leased

    require(options.words >= 1, f"--words is {options.words}; it must be at least 1.")
    require(
        0 <= options.overlap < options.words,
        f"--overlap is {options.overlap}; it must be at least 0 and below --words {options.words}.",
    )
    parse_fields(options.fields, tuple(PASSAGE_NAMES), "--fields")
    # Whatever the run lacks is said before anything is written.
    run = None if options.run is None else _open_run(options.run, console)
    encoder = None if run is None else run.learner.corpus_encoder(run.state)
    with leased([options.directory], console.print):
        store = _store(options, console)
        told = [f"{store.directory}: {len(store)} passages"]
        if run is not None and encoder is not None:
            try:
                told += _embed(options, store, encoder, run.step, console)
            except KeyboardInterrupt:
                print_text("stopped; the same command goes on from there", sys.stderr)
                raise
    for line in told:
        print_line(line)
    return 0


def _store(options: IndexBuild, console: PlainConsole) -> "PassageStore":
    """The store of the passages, as it is there or made now."""
    from ragjax.data.passage_store import PassageStore, build_store, source_of
    from ragjax.manifests import remove_abandoned

    directory = options.directory / PASSAGES
    for made in (directory, options.directory / EMBEDDINGS):
        remove_abandoned(made)
    names = ("words", "overlap", "fields", "drop_repeats")
    reading = {name: getattr(options, name) for name in names}
    source, store = source_of(options.passages, **reading), None
    try:
        store = PassageStore(directory) if directory.exists() else None
    except UserError:
        if not options.force:
            raise
    if store is None or store.facts["source"] != source:
        require(
            store is None or options.force,
            f"{directory} was not built from {options.passages} as it is now, with these options; name "
            "another directory, or replace what is there with --force.",
        )
        console.print(f"storing {options.passages}")
        store = build_store(options.passages, directory, replace=options.force, **reading)
        if options.force:
            for others in (EMBEDDINGS, f"{EMBEDDINGS}.partial"):
                shutil.rmtree(options.directory / others, ignore_errors=True)
        for note in store.notes():
            console.print(note)
    return store


def _embed(
    options: IndexBuild,
    store: "PassageStore",
    encoder: "CorpusEncoder",
    step: int,
    console: PlainConsole,
) -> list[str]:
    """Embeds the passages; returns what came of it, a line each."""
    from ragjax.data.corpus_encoding import encode_store

    directory = options.directory / EMBEDDINGS
    with _bars(console) as progress:
        embeddings = encode_store(
            encoder,
            store,
            directory,
            dtype=options.dtype,
            force=options.force,
            facts={"run": str(options.run), "step": step},
            progress=progress,
        )
    count, width = embeddings.rows.shape
    if cut := embeddings.facts["cut"]:
        console.print(
            f"{cut} of {count} passages are longer than tokenizer.passage_length; their ends are not "
            "embedded"
        )
    return [f"{directory}: {count} embeddings of {width} numbers, {options.dtype}"]


def _open_run(run_dir: Path, console: PlainConsole) -> "Run":
    from ragjax.commands import open_run

    return open_run(run_dir, console)


@contextlib.contextmanager
def _bars(console: PlainConsole) -> Iterator[Callable[[str, int, int], None]]:
    """Yields what is told (what is being done, passages done, of how many); draws a bar of each."""
    from ragjax.training.logging import RunProgress

    with contextlib.ExitStack() as stack:
        bars: dict[str, RunProgress] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in bars:
                stack.close()  # the bar before this one
                console.print(what)
                bars[what] = stack.enter_context(RunProgress(console, total, done, "passage"))
            bars[what].advance(done, {})

        yield told


# Searching


def search(options: IndexSearch, _: list[str], console: PlainConsole) -> int:
    """Finds passages for one question, or for each of a file."""
    from ragjax.data.passage_store import PassageStore

    require(
        (options.question is None) != (options.questions is None),
        "Give either a question or --questions FILE.",
    )
    require(
        options.output is None or options.questions is not None,
        f"--output is {options.output}, but holds what is found for --questions FILE; give that too.",
    )
    questions = _asked(options)
    store = PassageStore(options.directory / PASSAGES)
    topk, notes = _found(options, store, questions, console)
    found = [_hits(store, ids, scores) for ids, scores in zip(topk.ids, topk.scores, strict=True)]
    nothing = [question.id for question, hits in zip(questions, found, strict=True) if not hits]
    if nothing and options.questions is not None:
        console.print(
            f"{len(nothing)} of {len(questions)} questions find nothing, such as {nothing[0]}"
        )
    if options.output is not None:
        write_atomically(options.output, _trec(questions, found).encode())
        print_line(f"{options.output}: {sum(map(len, found))} passages, {len(found)} questions")
        return 0
    for question, hits in zip(questions, found, strict=True):
        asked = {} if options.questions is None else {"id": question.id}
        if options.json:
            print_json(asked | {"question": question.question, "passages": hits, "notes": notes})
            continue
        if asked:
            print_line(question.question)
        for note in notes:
            print_line(f"  note: {note}")
        print_passages(hits, ("score",)) if hits else print_line("nothing found")
    return 0


def _asked(options: IndexSearch) -> list["Question"]:
    """The questions; of a file, each with an id of its own."""
    from ragjax.data.readers import QUESTION_NAMES, parse_fields, read_questions
    from ragjax.types import Question

    if options.questions is None:
        text = options.question or ""
        require(bool(text.strip()), "The question is empty; ask one in words.")
        return [Question("asked", text, (), (), "", "")]
    parse_fields(options.fields, tuple(QUESTION_NAMES), "--fields")
    questions: dict[str, Question] = {}
    for question, _ in read_questions(options.questions, fields=options.fields):
        require(
            question.id not in questions,
            f"{options.questions} has two questions with the id {question.id!r}; give each its own.",
        )
        questions[question.id] = question
    require(bool(questions), f"{options.questions} has no questions; give it at least one.")
    return list(questions.values())


def _found(
    options: IndexSearch,
    store: "PassageStore",
    questions: Sequence["Question"],
    console: PlainConsole,
) -> tuple["TopK", list[str]]:
    """What is found for each question, and notes on a single one."""
    directory = options.directory / EMBEDDINGS
    if directory.exists():
        return _nearest(options, store, questions, console)
    partial = directory.with_name(f"{EMBEDDINGS}.partial")
    require(
        not partial.exists(),
        f"{directory} is not complete yet; give the `ragjax index build` command again, which goes on, "
        f"or delete {partial} to search by BM25.",
    )
    require(
        options.run is None,
        f"{options.directory} has no embeddings, which --run is for; make them with `ragjax index build "
        "... --run`, or leave it out to search by BM25.",
    )
    from ragjax.retrieval.bm25 import BM25

    return BM25().lookup(store, questions, options.k), []


def _nearest(
    options: IndexSearch,
    store: "PassageStore",
    questions: Sequence["Question"],
    console: PlainConsole,
) -> tuple["TopK", list[str]]:
    """What is found by the embeddings."""
    import numpy as np

    from ragjax.data.corpus_encoding import FittedEncoder
    from ragjax.retrieval.embeddings import StoredEmbeddings, search_rows
    from ragjax.types import TopK

    stored = StoredEmbeddings(options.directory / EMBEDDINGS)
    stored.require_made({"corpus": store.digest})
    run = _open_run(options.run or Path(stored.facts["run"]), console)
    encoder = run.learner.corpus_encoder(run.state)
    stored.require_made(encoder.digests, allow_other=options.force)
    fitted = FittedEncoder.of(encoder, store, stored.directory)
    if fitted.retriever.weigh is not None:
        console.print("the run's retriever also counts words; its embeddings alone are searched")
    notes: list[str] = []
    if options.questions is None:
        _, notes = fitted.text.check_question(questions[0].question)
    embedded, known = fitted.questions([question.question for question in questions])
    topk = search_rows(stored, embedded, options.k)
    # A question without a known word has no embedding, and is near to nothing.
    ids = np.where(np.array(known)[:, None], topk.ids, -1)
    return TopK(ids, topk.scores, ids >= 0), notes


def _hits(store: "PassageStore", ids: Any, scores: Any) -> list[dict[str, Any]]:
    return [
        vars(store[int(row)]) | {"score": float(score)}
        for row, score in zip(ids, scores, strict=True)
        if row >= 0
    ]


def _trec(questions: Sequence["Question"], found: Sequence[Sequence[dict[str, Any]]]) -> str:
    """The lines `question Q0 passage rank score tag` of a TREC run."""
    lines = []
    for question, hits in zip(questions, found, strict=True):
        for rank, hit in enumerate(hits, 1):
            for name in (question.id, hit["id"]):
                require(
                    len(name.split()) == 1,
                    f"The id {name!r} has white space, which the format of --output can't hold; rename "
                    "it, or use --json.",
                )
            lines.append(f"{question.id} Q0 {hit['id']} {rank} {hit['score']:.9g} ragjax\n")
    return "".join(lines)
