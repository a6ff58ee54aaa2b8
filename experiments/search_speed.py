"""How fast passages are found: exact search against faiss, ScaNN against HNSW and IVF, by size.

`ragjax plot experiments/search_speed.py --run` measures, in processes of their own, one at a time; it
needs faiss-cpu (`pip install -e '.[benchmarks]'`) and an idle machine.
"""

import functools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import require
from ragjax.evaluation.plots import Curve, Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable

K, QUERIES, ROUNDS = 10, 1024, 7
RECALL = 0.95
MIDDLE, LARGE = (200_000, 128), (1_000_000, 128)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
WORDS, STRIDE = 20, 10  # of a passage of the real embeddings, and to the next one

# DPR's Wikipedia on eight accelerators: passages, numbers of an embedding, devices, bytes a second that
# a device reads of its memory and exchanges with the others (an H100's HBM3 and NVLink, published).
WIKIPEDIA = (21_015_324, 768, 8, 3.35e12, 4.5e11)


# Data


def clustered(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[N,D] rows around 1,000 Gaussian centres, and [M,D] queries around them, all of length 1."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((1000, width), np.float32)

    def drawn(number: int) -> np.ndarray:
        found = centres[rng.integers(0, len(centres), number)]
        found += 0.7 * rng.standard_normal((number, width), np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return drawn(count), drawn(QUERIES)


def real(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of text by an encoder as it begins: passages of factbook, cut; and its questions.

    Every passage is 20 words of one of factbook's, beginning in the middle of the one before.
    """
    import jax
    import jax.numpy as jnp

    from ragjax.data.prepared import PreparedText
    from ragjax.data.tokenizer import TokenizerSpec
    from ragjax.models.encoder import BagEncoder
    from ragjax.models.retriever import Dense
    from ragjax.tasks.factbook import Factbook
    from ragjax.types import Passage, QaData

    task = Factbook().load()
    cut = []
    for passage in task.passages:
        words = passage.text.split()
        for start in range(0, max(1, len(words) - WORDS), STRIDE):
            cut.append(Passage(str(len(cut)), "", " ".join(words[start : start + WORDS])))
    spec = TokenizerSpec(vocab_size=12000, passage_length=32)
    text = PreparedText.make(spec, QaData(tuple(cut), task.splits))
    vocabulary = jax.tree.map(jnp.asarray, text.corpus.vocabulary)
    retriever = Dense(encoder=BagEncoder(width=width)).build(vocabulary)
    params = {"retriever": retriever.init(jax.random.PRNGKey(0))}
    rows = jax.jit(retriever.index)(params, text.corpus.tokens)
    questions = [question.question for question in task.splits["train"][:QUERIES]]
    asked, _ = text.tokenizer.encode_batch(questions, spec.question_length)
    return np.asarray(rows), np.asarray(jax.jit(retriever.query)(params, jnp.asarray(asked)))


# What is measured, each in a process of its own


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def medians(works: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each work, done in turn, after a first time that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a work gives, and its seconds."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def exact_search(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ours inside jit: queries -> ids."""
    import jax
    import jax.numpy as jnp

    from ragjax.retrieval.exact import Exact

    index = jnp.asarray(rows)
    search = jax.jit(lambda index, query: Exact().search(index, query, K).ids)
    return lambda queries: np.asarray(search(index, jnp.asarray(queries)))


def shared(found: np.ndarray, right: np.ndarray) -> float:
    """recall@10: the share of the right rows that is found."""
    from ragjax.retrieval.auto import recall_of

    return recall_of(*([set(row) for row in rows.tolist()] for rows in (found, right)))


def exact_against_flat() -> dict[str, Any]:
    """Both exact searches of the same 200,000 rows."""
    import faiss  # pyright: ignore[reportMissingImports] - an extra

    rng = np.random.default_rng(0)
    rows = rng.standard_normal(MIDDLE, np.float32)
    queries = rng.standard_normal((QUERIES, MIDDLE[1]), np.float32)
    flat = faiss.IndexFlatIP(MIDDLE[1])
    flat.add(rows)  # pyright: ignore[reportCallIssue]
    search = exact_search(rows)
    seconds = medians(
        {"ragjax": lambda: search(queries), "faiss Flat": lambda: flat.search(queries, K)}  # pyright: ignore
    )
    return {"seconds": seconds, "same": shared(search(queries), flat.search(queries, K)[1])}  # pyright: ignore


def approximate(name: str) -> dict[str, Any]:
    """ScaNN tuned to a recall of .95, and HNSW and IVF to the one it has then, on the same rows."""
    rows, queries = clustered(*MIDDLE) if name == "clustered" else real(int(name))
    right = exact_search(rows)(queries)
    tuning, asked = queries[: QUERIES // 2], queries[QUERIES // 2 :]
    right_tuning, right = right[: QUERIES // 2], right[QUERIES // 2 :]
    found: dict[str, dict[str, float]] = {}
    target = RECALL
    works: dict[str, Callable[[], np.ndarray]] = {}
    for kind, build in (("ScaNN", _scann), ("HNSW", _hnsw), ("IVF", _ivf)):
        searches, seconds = timed(functools.partial(build, rows, tuning))
        # The first setting that is good enough for the one half of the queries is timed with the other.
        for search in searches:
            if shared(search(tuning), right_tuning) >= target:
                break
        if kind == "ScaNN":
            target = max(target, shared(search(tuning), right_tuning))
        works[kind] = functools.partial(search, asked)
        found[kind] = {"build": seconds, "recall": shared(search(asked), right)}
    for kind, seconds in medians(works).items():
        found[kind]["rate"] = len(asked) / seconds
    return {"rows": list(rows.shape), "kinds": found}


Searches = list[Callable[[np.ndarray], np.ndarray]]


def _scann(rows: np.ndarray, queries: np.ndarray) -> Searches:
    from ragjax.retrieval.scann import Scann, build_searcher

    searcher = build_searcher(rows, Scann(recall=RECALL), queries)
    return [lambda asked: searcher.search(asked, K).ids]


def _hnsw(rows: np.ndarray, queries: np.ndarray) -> Searches:
    import faiss  # pyright: ignore[reportMissingImports] - an extra

    del queries
    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(rows)  # pyright: ignore[reportCallIssue]

    def search(asked: np.ndarray, depth: int) -> np.ndarray:
        index.hnsw.efSearch = depth
        return index.search(asked, K)[1]  # pyright: ignore[reportCallIssue]

    return [functools.partial(search, depth=int(16 * 1.25**power)) for power in range(24)]


def _ivf(rows: np.ndarray, queries: np.ndarray) -> Searches:
    import faiss  # pyright: ignore[reportMissingImports] - an extra

    del queries
    lists = 4 * math.isqrt(len(rows))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    index.train(rows)  # pyright: ignore[reportCallIssue]
    index.add(rows)  # pyright: ignore[reportCallIssue]

    def search(asked: np.ndarray, probes: int) -> np.ndarray:
        index.nprobe = probes
        return index.search(asked, K)[1]  # pyright: ignore[reportCallIssue]

    probes = sorted({min(lists, math.ceil(1.25**power)) for power in range(36)})
    return [functools.partial(search, probes=probe) for probe in probes]


def million() -> dict[str, Any]:
    """ScaNN over a million rows: building, searching, recall and memory."""
    before = peak()
    rows, queries = clustered(*LARGE)
    from ragjax.retrieval.scann import Scann, build_searcher

    searcher, seconds = timed(lambda: build_searcher(rows, Scann(recall=RECALL)))
    rate = QUERIES / medians({"": lambda: searcher.search(queries, K)})[""]
    memory = peak() - before  # before the exact search adds its own
    right = exact_search(rows)(queries)
    recall = shared(searcher.search(queries, K).ids, right)
    return {"build": seconds, "rate": rate, "memory": memory, "recall": recall}


def roofline() -> dict[str, Any]:
    """Exact search of a million rows by batch size, beside what memory and arithmetic allow.

    The limits are measured: the seconds that a sum over all rows takes, which reads them once, and the
    multiplications a second of a product of matrices.
    """
    import jax
    import jax.numpy as jnp

    rows, queries = clustered(*LARGE)
    index, search = jnp.asarray(rows), exact_search(rows)
    total = jax.jit(jnp.sum)
    square = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    batches = (1, 2, 4, 8, 16, 64, 256)
    works: dict[str, Callable[[], Any]] = {
        "read": lambda: total(index).block_until_ready(),
        "product": lambda: product(square).block_until_ready(),
    }
    works |= {str(size): functools.partial(search, queries[:size]) for size in batches}
    seconds = medians(works)
    flops = 2 * 2048**3 / seconds["product"]
    limits = {size: max(seconds["read"], 2 * size * rows.size / flops) for size in batches}
    return {
        "bandwidth": rows.nbytes / seconds["read"],
        "flops": flops,
        "batches": {str(size): [seconds[str(size)], limits[size]] for size in batches},
    }


def growth(kind: str, count: int) -> dict[str, Any]:
    """Time of a query, in a batch and alone, and memory, of a corpus of `count` rows."""
    rows, queries = clustered(count, MIDDLE[1])
    exact_search(rows[:K])(queries[:1])  # what the libraries themselves take is not counted
    before = peak()
    if kind == "exact":
        search, seconds = timed(lambda: exact_search(rows))
    else:
        searches, seconds = timed(lambda: _scann(rows, queries[:256]))
        search = searches[0]
    found = medians({"batch": lambda: search(queries[:256]), "one": lambda: search(queries[:1])})
    return {
        "build": seconds,
        "batch": found["batch"] / 256,
        "one": found["one"],
        "memory": peak() - before,
    }


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "exact": exact_against_flat,
    "approximate": approximate,
    "million": million,
    "roofline": roofline,
    "growth": lambda kind, count: growth(kind, int(count)),
}


def in_a_process(*words: Any) -> dict[str, Any]:
    """One of `PARTS` in a process of its own."""
    # Set on some machines for the sake of older processors; they slow today's NumPy and faiss.
    hidden = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    # Else faiss's threads, when they have done their work, keep the cores that ScaNN's need next.
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    words = tuple(map(str, words))
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, env=env)
    require(done.returncode == 0, f"{' '.join(words)} has failed; see what it says above.")
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict[str, Any]:
    """All figures."""
    return {
        "exact": in_a_process("exact"),
        "approximate": {
            name: in_a_process("approximate", name) for name in ("clustered", "768", "1024")
        },
        "million": in_a_process("million"),
        "roofline": in_a_process("roofline"),
        "growth": {
            kind: {str(count): in_a_process("growth", kind, count) for count in SIZES}
            for kind in ("exact", "scann")
        },
    }


# The tables


def _row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "| --- |" + " ---: |" * (len(cells) - 1)]


def _approximate_lines(numbers: Mapping[str, Any]) -> list[str]:
    labels = {
        "clustered": "1,000 clusters",
        "768": "text, 768 numbers",
        "1024": "text, 1,024 numbers",
    }
    lines = _head("rows", "kind", "recall@10", "queries/s", "built in, s", "ScaNN's rate is")
    for name, measured in numbers.items():
        kinds = measured["kinds"]
        count, width = measured["rows"]
        for kind, of in kinds.items():
            ratio = f"{kinds['ScaNN']['rate'] / of['rate']:.2f} ×" if kind != "ScaNN" else ""
            lines.append(
                _row(
                    f"{labels[name]}, {count:,} × {width}",
                    *(kind, f"{of['recall']:.3f}", f"{of['rate']:,.0f}", f"{of['build']:,.0f}"),
                    ratio,
                )
            )
    return lines


def _wikipedia_lines() -> list[str]:
    count, width, devices, bandwidth, link = WIKIPEDIA
    batch = 64
    exchanged = batch * devices * K * 8 + batch * K * 32 * 4
    lines = _head("21 million × 768 (DPR's Wikipedia), on 8 accelerators", "float32", "bfloat16")
    sizes = [count * width * size for size in (4, 2)]
    codes = count * width // 4  # ScaNN: 4 bits for 2 dimensions
    return [
        *lines,
        _row("all embeddings, GB", *(f"{size / 1e9:.1f}" for size in sizes)),
        _row("a device's part, GB", *(f"{size / devices / 1e9:.1f}" for size in sizes)),
        _row(
            f"exact: reading it once, for a batch of up to {batch}, ms",
            *(f"{1e3 * size / devices / bandwidth:.1f}" for size in sizes),
        ),
        _row(
            f"exact: what {batch} queries exchange, ms",
            *[f"{1e3 * exchanged / link:.4f}"] * 2,
        ),
        _row(
            "ScaNN on a host: codes and rows to score again, GB",
            *(f"{(codes + size) / 1e9:.1f}" for size in sizes),
        ),
    ]


def get_table() -> MarkdownTable:
    """The recorded figures."""
    numbers = read_figures(results_of(Path(__file__)))
    exact, large, roof = numbers["exact"], numbers["million"], numbers["roofline"]
    seconds = exact["seconds"]
    ratio = seconds["faiss Flat"] / seconds["ragjax"]
    lines = [
        *_head("exact search of 200,000 × 128, 1,024 queries, k = 10", "queries/s", "ratio"),
        *(
            _row(name, f"{QUERIES / of:,.0f}", f"{seconds['faiss Flat'] / of:.2f}")
            for name, of in seconds.items()
        ),
        "",
        f"Inside jit {ratio:.2f} times the queries a second of faiss-cpu Flat, whose results are "
        f"{100 * exact['same']:.2f} per cent the same (neighbours that differ by rounding aside).",
        "",
        *_approximate_lines(numbers["approximate"]),
        "",
        "ScaNN as it tunes itself with half of 1,024 queries to recall@10 .95; HNSW and IVF at their "
        "first setting that reaches ScaNN's recall there, or, if none does, at their last. All timed "
        "with the other half, while idle threads of OpenMP sleep (OMP_WAIT_POLICY=PASSIVE), as faiss's "
        "would else hold up ScaNN's. HNSW: 32 links, efConstruction 200. IVF: 4√N lists. The text is "
        "factbook's, in overlapping windows of 20 words, embedded by a bag encoder as it begins; the "
        "queries are its training questions.",
        "",
        *_head("a million × 128, clustered: ScaNN", "measured"),
        _row("built in, s", f"{large['build']:,.0f}"),
        _row("queries/s", f"{large['rate']:,.0f}"),
        _row("recall@10", f"{large['recall']:.3f}"),
        _row("memory over the interpreter's, rows included, GB", f"{large['memory'] / 1e9:.2f}"),
        "",
        *_head(
            "a million × 128: queries searched exactly inside jit",
            "ms",
            "limit, ms",
            "times the limit",
        ),
        *(
            _row(
                f"{size} at once",
                *(f"{1e3 * took:.0f}", f"{1e3 * limit:.0f}", f"{took / limit:.2f}"),
            )
            for size, (took, limit) in roof["batches"].items()
        ),
        "",
        f"The limit is the larger of reading all rows once ({roof['bandwidth'] / 1e9:.1f} GB/s, measured"
        f" by a sum) and of their products ({roof['flops'] / 1e9:.0f} GFLOP/s, measured by a product of "
        "square matrices).",
        "",
        *_wikipedia_lines(),
        "",
        "A calculation, not measured: a device reads its memory at 3.35 TB/s and exchanges with others "
        "at 450 GB/s (H100, published). In exact search every device gathers the maxima of each other's "
        "10 best groups and the scores of the 10 best groups of all; no embedding moves.",
    ]
    return MarkdownTable(
        title="How fast passages are found, on 2 CPU cores",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/search_speed.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """Cost as the corpus grows."""
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]] = read_figures(
        results_of(Path(__file__))
    )["growth"]
    names = {"exact": "exact", "scann": "ScaNN"}
    ticks = {math.log10(size): f"{size:,}" for size in SIZES}

    def curves(value: Callable[[Mapping[str, float]], float]) -> Sequence[Curve]:
        return tuple(
            Curve(
                label,
                list(ticks),
                [math.log10(max(value(numbers[kind][str(size)]), 1e-6)) for size in SIZES],
            )
            for kind, label in names.items()
        )

    return (
        Plot(
            name="time",
            title="A query's time as the corpus grows",
            x_label="passages",
            y_label="log10 of ms a query, in batches of 256",
            curves=curves(lambda of: 1e3 * of["batch"]),
            x_names=ticks,
            note="128 numbers a passage. ScaNN scores all below 20,000.",
        ),
        Plot(
            name="memory",
            title="Memory as the corpus grows",
            x_label="passages",
            y_label="log10 of MB",
            curves=curves(lambda of: of["memory"] / 1e6),
            x_names=ticks,
            note="What building and searching add to the rows themselves.",
        ),
    )


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
