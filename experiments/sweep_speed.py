"""What a sweep saves by running side by side, and what its bookkeeping costs.

`ragjax plot experiments/sweep_speed.py --run` measures, in about half an hour; it needs an idle machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.compiled import keep_compiled
from ragjax.config import load_config
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.overrides import override
from ragjax.printing import PlainConsole
from ragjax.sweep.plan import Plan
from ragjax.sweep.samplers import Grid, Random
from ragjax.sweep.space import Choice, LogUniform, Vary
from ragjax.sweep.spec import Sweep
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.training import Trainer
from ragjax.sweep.worker import Worker

SMALL = (
    *("--retriever.encoder.width", "64", "--reader.width", "16", "--reader.heads", "2"),
    *("--reader.encoder_layers", "1", "--optimizer.warmup_steps", "10", "--evaluation.every", "0"),
    *("--phases.0.steps", "30", "--phases.0.batch_size", "16", "--phases.0.k", "2"),
    *("--phases.1.steps", "30", "--phases.1.batch_size", "16", "--phases.1.k", "2"),
)
FIELD = "optimizer.retriever_rate"
RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 3e-2, 8).round(6))
SEEDS = 16
SAMPLE = 3  # processes that are timed of the 128
TRIALS, WORKERS, PAUSE = 1000, 4, 0.001


def text_sweep(rates: tuple[float, ...], seeds: int) -> Sweep:
    """RAG-Sequence on world_facts, small enough for 128 runs."""
    base = override(load_config(Path("world_facts/rag_sequence")), SMALL)
    return Sweep(
        base=base,
        space=(Vary(FIELD, Choice(rates)),),
        sampler=Grid(),
        seeds=seeds,
        metric="em",
        side_by_side=len(rates) * seeds,
    )


def toy_sweep() -> Sweep:
    """A thousand trials that nothing is trained for."""
    space = (Vary(FIELD, LogUniform(1e-4, 1e-1)),)
    base = load_config(Path("world_facts/rag_sequence"))
    return Sweep(
        base=base, space=space, sampler=Random(), trials=TRIALS, metric="em", side_by_side=1
    )


def planned(store: Store) -> Plan:
    """The plan of a sweep that does not learn."""
    return Plan(store.generations)


def toy(batch: Any, store: Store, plan: Any, check_lease: Any) -> None:
    """Makes a run of a millisecond."""
    for run in batch.runs:
        time.sleep(PAUSE)
        store.record(run, Outcome("finished", 0.5))


def work(what: str, directory: Path) -> None:
    """Works on a sweep until it is done, without a winner: what each timed process does."""
    console = PlainConsole(stderr=True)
    store = Store(directory)
    if what == "toy":
        store.open()
        began = time.perf_counter()
        Worker(store, console).work(toy)
        print(time.perf_counter() - began)
        return
    keep_compiled()
    one = what != "all"
    sweep = text_sweep((RATES[int(what)],) if one else RATES, 1 if one else SEEDS)
    store.begin(sweep, planned)
    Worker(store, console).work(Trainer(console))


def seconds(what: str, directory: Path, cache: str) -> float:
    """Wall time of one process, from its start to its end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, what, str(directory)],
        check=True,
        env=os.environ | {"RAGJAX_COMPILATION_CACHE": cache},
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def measure() -> dict[str, Any]:
    """Times the sample of processes, the one program, and the bookkeeping."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        seconds("0", base / "data", "off")  # what prepares the task's data does not count
        cold = [seconds(str(n), base / f"cold_{n}", "off") for n in range(SAMPLE)]
        warm = [seconds(str(n), base / f"warm_{n}", "on") for n in range(SAMPLE + 1)][1:]
        together = seconds("all", base / "all", "off")
        Store(base / "toy").begin(toy_sweep(), planned)
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "toy", str(base / "toy")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(WORKERS)
        ]
        spent = [float(worker.communicate()[0]) for worker in workers]
    return {
        "cold": cold,
        "warm": warm,
        "together": together,
        "runs": len(RATES) * SEEDS,
        "bookkeeping_ms": 1000 * (sum(spent) / TRIALS - PAUSE),
        "cores": len(os.sched_getaffinity(0)),
    }


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    runs, together = numbers["runs"], numbers["together"]
    lines = ["| | one after another | in one program |", "| --- | ---: | ---: |"]
    for name, label in (("cold", "compiling anew"), ("warm", "what was compiled kept")):
        ratio = runs * float(np.mean(numbers[name])) / together
        lines.append(f"| {label} | {ratio:.1f} | 1 |")
    lines += [
        "",
        f"Wall time of {runs} runs of a small RAG-Sequence on world_facts ({SEEDS} seeds of each of "
        f"{len(RATES)} learning rates, measured on development data), in units of the one program's, "
        f"which compiles anew; of the processes one after another {SAMPLE} were timed. On "
        f"{numbers['cores']} CPU cores.",
        "",
        f"The bookkeeping of a sweep takes {numbers['bookkeeping_ms']:.0f} ms of a worker's time a "
        f"trial, at {TRIALS:,} trials and {WORKERS} workers.",
    ]
    return MarkdownTable(
        title="What a sweep saves side by side",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/sweep_speed.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
