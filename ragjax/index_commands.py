"""`ragjax index build`: a corpus of any size on disk, and the embeddings that a run gives it.

A directory holds `passages`, a store of the corpus; `embeddings` if a run was named; and `scann`, an
index of these, once it was asked for.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ragjax.errors import UserError, require
from ragjax.files import check_place
from ragjax.printing import PlainConsole, print_line, print_text
from ragjax.ranges import BELOW
from ragjax.text import OVERLAP, PASSAGE_WORDS, counted

if TYPE_CHECKING:
    from ragjax.data.corpus_encoding import CorpusEncoder
    from ragjax.data.passage_store import PassageStore
    from ragjax.run_dir import Run

# As in `ragjax.cli`, what is slow to import is imported by the commands that need it.

PASSAGES, EMBEDDINGS, SCANN = "passages", "embeddings", "scann"
# What embeddings call the pretrained encoders of passages and of questions that they were made with.
SOURCES = ("source", "query_source")


@dataclass(frozen=True)
class IndexBuild:
    """Store passages in a directory: ragjax index build PASSAGES DIR [--run RUN | --encoder MODEL].

    The same command again goes on where it was stopped.
    """

    passages: Annotated[Positional[Path], arg(metavar="PASSAGES")]
    """A file of JSON lines, CSV or TSV (.gz or not), or a folder of texts."""
    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """Where they are stored."""
    run: Path | None = None
    """A run whose retriever embeds them; without one, they are searched by BM25."""
    encoder: str | None = None
    """A pretrained encoder that embeds them instead: a directory that sentence-transformers or
    transformers wrote, a model of the Hugging Face hub (owner/name), or package:NAME/FILE, a file of an
    installed package."""
    query_encoder: str | None = None
    """Another pretrained encoder that embeds the questions, as DPR has two; --encoder if not given."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the embeddings on disk."""
    words: int = PASSAGE_WORDS
    """Words of a passage that is cut from a text."""
    overlap: int = OVERLAP
    """Words that such a passage and the next have in common."""
    fields: str = ""
    """What the file calls its columns: text=Absatz,id=Nummer."""
    drop_repeats: bool = False
    """Leave out passages with title and text of an earlier one."""
    force: bool = False
    """Replace passages and embeddings that are there and are others."""


def build(options: IndexBuild, _: list[str], console: PlainConsole) -> int:
    """Stores passages and, with a run, their embeddings."""
    from ragjax.data.rows import PASSAGE_NAMES, parse_fields
    from ragjax.lease import leased

    require(
        1 <= options.words < BELOW,
        f"--words is {options.words}; it must be at least 1 and below {BELOW}.",
    )
    require(
        0 <= options.overlap < options.words,
        f"--overlap is {options.overlap}; it must be at least 0 and below --words {options.words}.",
    )
    require(
        not (options.directory / "config.json").exists(),
        f"{options.directory} is the directory of a run or a model; name one of its own.",
    )
    check_place("DIR", options.directory, PASSAGES)
    require(
        options.run is None or options.encoder is None,
        f"--run is {options.run} and --encoder {options.encoder}; one of them embeds the passages, so "
        "leave out the other.",
    )
    require(
        options.query_encoder is None or options.encoder is not None,
        f"--query-encoder is {options.query_encoder}, but there is no --encoder of passages; add it.",
    )
    parse_fields(options.fields, tuple(PASSAGE_NAMES), "--fields")
    # Whatever the run lacks is said before anything is written.
    encoder: Any = None
    made: dict[str, Any] = {}
    if options.run is not None:
        run = open_run(options.run, console)
        encoder = run.learner.corpus_encoder(run.state)
        made = {"run": str(options.run.absolute()), "step": run.step}
    elif options.encoder is not None:
        from ragjax.data.pretrained_encoding import pretrained_corpus_encoder
        from ragjax.models.pretrained.sources import local

        named = (options.encoder, options.query_encoder)
        sources = [local(name).absolute() for name in named if name is not None]
        encoder = pretrained_corpus_encoder(*sources)
        made = dict(zip(SOURCES, map(str, sources), strict=False))
    with leased([options.directory], console.print) as check:
        store = _store(options, check, console)
        told = [f"{store.directory}: {counted(len(store), 'passage')}"]
        if encoder is not None:
            try:
                told += _embed(options, store, encoder, made, check, console)
            except KeyboardInterrupt:
                print_text("stopped; the same command goes on from there", sys.stderr)
                raise
    for line in told:
        print_line(line)
    return 0


def _store(options: IndexBuild, check: Callable[[], None], console: PlainConsole) -> "PassageStore":
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
        digest = None if store is None else store.digest
        store = build_store(
            options.passages, directory, replace=options.force, check=check, **reading
        )
        if options.force and store.digest != digest:
            for others in (EMBEDDINGS, f"{EMBEDDINGS}.partial", SCANN):
                shutil.rmtree(options.directory / others, ignore_errors=True)
        for note in store.notes():
            console.print(note)
    return store


def _embed(
    options: IndexBuild,
    store: "PassageStore",
    encoder: "CorpusEncoder",
    made: dict[str, Any],
    check: Callable[[], None],
    console: PlainConsole,
) -> list[str]:
    """Embeds the passages, and notes what they are `made` with; returns what came of it, a line each."""
    from ragjax.data.corpus_encoding import encode_store

    directory = options.directory / EMBEDDINGS
    with _bars(console) as progress:
        embeddings = encode_store(
            encoder,
            store,
            directory,
            dtype=options.dtype,
            force=options.force,
            facts=made,
            check=check,
            progress=progress,
        )
    count, width = embeddings.rows.shape
    if cut := embeddings.facts["cut"]:
        most = "tokenizer.passage_length" if encoder.text.own is None else "the encoder reads"
        console.print(
            f"{cut} of {count} passages are longer than {most}; their ends are not embedded"
        )
    return [f"{directory}: {counted(count, 'embedding')} of {width} numbers, {options.dtype}"]


def open_run(run_dir: Path, console: PlainConsole) -> "Run":
    """Loads a run, and says what of it is other than it was."""
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
