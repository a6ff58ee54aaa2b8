"""The ways of searching a directory of `ragjax index build`: by embeddings, by words, by both."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tyro.conf import Positional

from ragjax.errors import UserError, require
from ragjax.index_commands import EMBEDDINGS, SCANN, SOURCES, open_run
from ragjax.printing import PlainConsole
from ragjax.text import plain

if TYPE_CHECKING:
    import numpy as np

    from ragjax.data.corpus_encoding import FittedEncoder
    from ragjax.data.passage_store import PassageStore
    from ragjax.retrieval.embeddings import StoredEmbeddings
    from ragjax.run_dir import Run
    from ragjax.types import Question, TopK

# As in `ragjax.cli`, what is slow to import is imported by the commands that need it.

How = Literal["", "auto", "exact", "scann", "bm25", "hybrid", "rrf", "random", "oracle"]
K = 10  # passages that are found, if nobody says otherwise
DEPTH = 100  # passages that each ranking proposes to a fused one, at least
WEIGHTS = (0.0, *(0.001 * 2.0**power for power in range(12)))  # λ, of which --tune chooses
HEAVIEST = 1e6  # λ of --weight at most, so that sums of scores are finite
SAMPLE = 256  # questions that `auto` measures with


@dataclass(frozen=True)
class Searching:
    """The options that searching and evaluating have in common."""

    directory: Positional[Path]
    """From `ragjax index build`."""
    questions: Path | None = None
    """A file of questions: JSON lines, CSV or TSV."""
    fields: str = ""
    """What that file calls its columns: question=Frage."""
    how: How = ""
    """exact or scann: the nearest embeddings; auto: the faster of them that finds 95% of what is
    nearest, measured on the questions; bm25: words in common; hybrid: embeddings and --weight times
    BM25; rrf: both rankings by rank alone; random and oracle (gold passages): to compare with. exact if
    not given, and bm25 without embeddings."""
    run: Path | None = None
    """The run that embeds the questions; the one that embedded the passages if not given."""
    force: bool = False
    """Search embeddings that another run has made."""
    k: int | None = None
    """Passages found for each question; 10 if not given, or all where there are fewer."""
    devices: int = 0
    """Devices that exact search is spread over, each with its part of the embeddings; 0 for all."""
    weight: float | None = None
    """Of BM25 in hybrid; what a hybrid run has learned if not given."""
    tune: Path | None = None
    """Development questions with gold passages, on which the weight of hybrid is chosen instead."""
    output: Path | None = None
    """A file for what is found for a file of questions, in the format of TREC runs."""
    json: bool = False
    """Print JSON."""


def depth_of(options: Searching, store: "PassageStore") -> int:
    """Passages that are found for each question; more than there are can't be asked for."""
    from ragjax.retrieval.base import require_depth

    if options.k is None:
        return min(K, len(store))
    require_depth(options.k, len(store), "--k")
    return options.k


class Found(NamedTuple):
    """What a search has found.

    Attributes:
      topk: NumPy `TopK` of [M,k].
      notes: what the user should know of it.
    """

    topk: "TopK"
    notes: list[str]


class Searches:
    """The ways of searching one directory."""

    def __init__(self, options: Searching, store: "PassageStore", console: PlainConsole):
        """Opens nothing yet, but refuses what can't be searched."""
        self.options, self.store, self.console = options, store, console
        self.k = depth_of(options, store)
        self.directory = options.directory / EMBEDDINGS
        self.how = options.how or ("exact" if self.directory.exists() else "bm25")
        partial = self.directory.with_name(f"{EMBEDDINGS}.partial")
        require(
            self.directory.exists() or not partial.exists(),
            f"{self.directory} is not complete yet; give the `ragjax index build` command again, which "
            f"goes on, or delete {partial} to search by BM25.",
        )
        wants = self.how in ("auto", "exact", "scann", "hybrid", "rrf")
        require(
            self.directory.exists() or not (wants or options.run),
            f"{options.directory} has no embeddings, which {'--how ' + self.how if wants else '--run'} "
            "is for; make them with `ragjax index build ... --run`, or leave it out to search by BM25.",
        )
        require(
            options.weight is None or 0 <= options.weight <= HEAVIEST,
            f"--weight is {options.weight}; it must be at least 0, and at most {HEAVIEST:g}.",
        )
        for name in ("weight", "tune"):
            require(
                getattr(options, name) is None or self.how == "hybrid",
                f"--{name} is of --how hybrid, but --how is {self.how}; leave it out.",
            )

    def find(self, questions: Sequence["Question"]) -> Found:
        """What `how` says."""
        from ragjax.retrieval.fusion import reciprocal_rank_fusion

        k, depth = self.k, self._depth
        if self.how == "hybrid":
            return self._hybrid(questions)
        if self.how == "rrf":
            notes = self._notes(questions)
            both = [self._nearest(questions, depth), self._by_words(questions, depth)]
            return Found(_on_host(reciprocal_rank_fusion(both, k)), notes)
        if self.how == "bm25":
            return Found(self._by_words(questions, k), [])
        if self.how in ("random", "oracle"):
            return Found(self._fixed(questions, k), [])
        notes = self._notes(questions)
        return Found(self._nearest(questions, k, notes), notes)

    @property
    def _depth(self) -> int:
        """Passages that each ranking proposes to a fused one."""
        return min(max(DEPTH, self.k), len(self.store))

    # Of words

    def _fixed(self, questions: Sequence["Question"], k: int) -> "TopK":
        from ragjax.retrieval.fixed import Oracle, Random

        return (Oracle() if self.how == "oracle" else Random()).lookup(self.store, questions, k)

    def _by_words(self, questions: Sequence["Question"], k: int) -> "TopK":
        found = self._bm25.lookup(self.store, questions, k)
        # The empty passage stands for no hit in a reader's batch; here it is none.
        return _masked(found, found.ids >= 0)

    @functools.cached_property
    def _bm25(self) -> Any:
        from ragjax.retrieval.bm25 import BM25

        return BM25()

    # Of embeddings

    @functools.cached_property
    def _stored(self) -> "StoredEmbeddings":
        from ragjax.retrieval.embeddings import StoredEmbeddings

        stored = StoredEmbeddings(self.directory)
        stored.require_made({"corpus": self.store.digest})
        return stored

    @functools.cached_property
    def _run(self) -> "Run | None":
        """The run that embeds the questions; None where a pretrained encoder does."""
        if self._stored.facts.get("source") is not None and self.options.run is None:
            return None
        return open_run(self.options.run or Path(self._stored.facts["run"]), self.console)

    @functools.cached_property
    def _fitted(self) -> "FittedEncoder":
        """The encoder of the questions."""
        from ragjax.data.corpus_encoding import FittedEncoder
        from ragjax.data.pretrained_encoding import pretrained_corpus_encoder

        run = self._run
        if run is None:
            named = [self._stored.facts.get(name) for name in SOURCES]
            sources = [Path(name) for name in named if name is not None]
            for source in sources:
                require(
                    source.exists(),
                    f"{self.directory} was made with the encoder {source}, which is not there any more; "
                    "put it back, or give `ragjax index build` again with where it is now.",
                )
            encoder = pretrained_corpus_encoder(*sources)
        else:
            encoder = run.learner.corpus_encoder(run.state)
        self._stored.require_made(encoder.digests, allow_other=self.options.force)
        return FittedEncoder.of(encoder, self.store, self._stored.directory)

    def _notes(self, questions: Sequence["Question"]) -> list[str]:
        """What of a single question can't be read; of a file, how many the run has learned from."""
        text, asked = self._fitted.text, questions[0].question
        if self.options.questions is not None:
            learned = [] if self._run is None else self._learned_from(self._run, questions)
            return [*learned, *self._cut(questions)]
        notes = text.check_question(asked)[1]
        if text.own is not None:
            return self._cut(questions)  # it reads every word
        require(
            text.has_known_word(asked),
            f"No word of {asked.strip()!r} is in the corpus; ask about what its passages say.",
        )
        return notes

    def _cut(self, questions: Sequence["Question"]) -> list[str]:
        """How many questions an encoder with a tokenizer of its own does not read to their ends."""
        own = self._fitted.text.own
        cut = 0 if own is None else own.questions([asked.question for asked in questions])[1]
        return [f"the ends of {cut} of {len(questions)} questions are not read"] if cut else []

    def _learned_from(self, run: "Run", questions: Sequence["Question"]) -> list[str]:
        learner: Any = run.learner  # of questions, for it embeds them
        try:
            learned = {question.question.strip() for question in learner.task.splits["train"]}
        except UserError as error:
            return [f"whether the run has learned from these questions is not known: {error}"]
        count = sum(plain(question.question).strip() in learned for question in questions)
        told = (
            f"{count} of {len(questions)} questions are among those that the run was trained with"
        )
        return [told] if count else []

    def _nearest(
        self, questions: Sequence["Question"], k: int, notes: list[str] | None = None
    ) -> "TopK":
        """The nearest embeddings."""
        import numpy as np

        embedded, known = self._fitted.questions([asked.question for asked in questions])
        how = self.how
        if notes is not None and self._fitted.retriever.weigh is not None:
            notes.append("the run's retriever also counts words (--how hybrid); these are left out")
        if how == "auto":
            how = self._fastest(embedded, k, [] if notes is None else notes)
        find = self._scann.search if how == "scann" else self._exactly
        topk = find(embedded, k)
        # A question without a known word has no embedding, and is near to nothing.
        return _masked(topk, np.array(known)[:, None] & topk.valid)

    def _exactly(self, queries: "np.ndarray", k: int) -> "TopK":
        from ragjax.retrieval.embeddings import search_rows

        if self._sharded is None:
            return search_rows(self._stored, queries, k)
        return _on_host(self._sharded(queries, k))

    @functools.cached_property
    def _sharded(self) -> Callable[..., "TopK"] | None:
        """Search of embeddings that lie on several devices; None of one, which reads them from disk."""
        import jax
        import jax.numpy as jnp

        from ragjax.mesh import data_mesh
        from ragjax.retrieval.blocks import best_in_shards, shard_rows

        mesh = data_mesh(self.options.devices)
        if mesh.size == 1:
            return None
        rows = shard_rows(self._stored.rows, mesh)
        find = jax.jit(best_in_shards, static_argnames="k")
        return lambda queries, k: find(rows, jnp.asarray(queries), k=k)

    @functools.cached_property
    def _scann(self) -> Any:
        """The ScaNN index of the embeddings, read or made."""
        import numpy as np

        from ragjax.retrieval.scann import Scann, build_searcher
        from ragjax.retrieval.scann_searcher import load

        directory, rows = self.options.directory / SCANN, self._stored.rows
        rows = np.asarray(rows, np.float32)
        if directory.exists():
            return load(directory, rows)
        self.console.print(f"making {directory}")
        searcher = build_searcher(rows, Scann())
        searcher.save(directory)
        return searcher

    def _fastest(self, queries: "np.ndarray", k: int, notes: list[str]) -> str:
        """Exact or scann, by what is measured."""
        from ragjax.retrieval.auto import choose_index

        exact = _Callable(self._exactly)
        choice = choose_index({"scann": self._scann}, exact, queries[:SAMPLE], k)
        notes += [
            f"{row.name}: recall@{k} {row.recall:.3f}, {row.queries_per_second:,.0f} queries/s"
            for row in choice.table
        ]
        notes.append(choice.reason)
        return choice.name

    # Of both

    def _hybrid(self, questions: Sequence["Question"]) -> Found:
        import jax.numpy as jnp

        from ragjax.retrieval.fusion import weighted
        from ragjax.types import TopK

        options, notes = self.options, self._notes(questions)
        weight = options.weight if options.tune is None else self._tuned(options.tune, notes)
        if weight is None:
            retriever = self._fitted.retriever
            if retriever.weigh is None:
                raise UserError(
                    "--how hybrid has no weight: the run's retriever has learned none; give --weight, "
                    "or --tune FILE with development questions."
                )
            unit = TopK(*(jnp.ones((1, 1), kind) for kind in (jnp.int32, jnp.float32, bool)))
            weight = float(retriever.weigh(self._fitted.encoder.params, unit).scores[0, 0])
        both = self._both(questions)
        topk = weighted(*both.topks, weight, self.k, dense_of_lexical=both.dense_of_lexical)
        return Found(_on_host(topk), [*notes, f"BM25 counts {weight:.4g} times"])

    def _tuned(self, path: Path, notes: list[str]) -> float:
        """λ by hits on development questions."""
        import numpy as np

        from ragjax.data.readers import read_asked
        from ragjax.retrieval.fusion import choose_weight

        options = self.options
        asked = read_asked(path, options.fields)
        wanted = sorted({name for question in asked for name in question.positives})
        rows = dict(zip(wanted, self.store.row_of(wanted), strict=True))
        most = max(1, *(len(question.positives) for question in asked))
        gold = np.full((len(asked), most), -1, np.int32)
        for place, question in enumerate(asked):
            gold[place, : len(question.positives)] = [rows[name] for name in question.positives]
        both = self._both(asked)
        choice = choose_weight(
            *both.topks, gold, WEIGHTS, self.k, dense_of_lexical=both.dense_of_lexical
        )
        notes.append(
            f"by hit@{self.k} on {choice.questions} development questions ({choice.recall:.3f})"
        )
        return choice.weight

    def _both(self, questions: Sequence["Question"]) -> "_Both":
        """Both rankings, and the inner products of what words have found."""
        import numpy as np

        embedded, known = self._fitted.questions([asked.question for asked in questions])
        topk = self._exactly(embedded, self._depth)
        dense = _masked(topk, np.array(known)[:, None] & topk.valid)
        lexical = self._by_words(questions, self._depth)
        products = [
            np.asarray(self._stored.rows[np.maximum(ids, 0)], np.float32) @ query
            for ids, query in zip(lexical.ids, embedded, strict=True)
        ]
        return _Both((dense, lexical), np.where(np.array(known)[:, None], products, 0.0))


class _Both(NamedTuple):
    topks: tuple["TopK", "TopK"]
    dense_of_lexical: Any


class _Callable(NamedTuple):
    """An index that is a function."""

    search: Callable[..., "TopK"]


def _masked(topk: "TopK", valid: Any) -> "TopK":
    """The hits where `valid`, and misses elsewhere."""
    import numpy as np

    from ragjax.types import TopK

    ids, scores = np.where(valid, topk.ids, -1), np.where(valid, topk.scores, -np.inf)
    return TopK(ids, scores, ids >= 0)


def _on_host(topk: "TopK") -> "TopK":
    import jax

    return jax.device_get(topk)
