"""How fast RAG models train and write here and in transformers, with the same weights and inputs.

`ragjax plot experiments/transformers_speed.py --run` measures, each side in processes of its own, one at
a time. It needs an environment that also has torch and transformers, and an idle machine.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import require
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable

THREADS, ROUNDS = 2, 7
BATCH, K, QUESTION, SOURCE, TARGET = 8, 5, 32, 128, 16
VOCAB, WIDTH, LAYERS, HEADS = 8192, 256, 4, 4
BEAMS, BUCKETS = 4, 4
# Words of the paragraphs of MuSiQue (Trivedi et al. 2022): at 5, 25, 50, 75 and 95% of 1,890 of them.
WORDS = ((0.05, 0.25, 0.5, 0.75, 0.95), (24, 42, 65, 98, 167))
TOKENS_PER_WORD, ASKED = 1.3, 14  # and tokens of a question before it
OURS, THEIRS = "ragjax", "transformers"
JOBS = {
    "training, all contexts of one length": ("step", "padded", {}),
    f"training, contexts of real lengths, ours in {BUCKETS} groups": ("step", "real", {}),
    "RAG-Token, greedy": ("write", "padded", {"kind": "token", "num_beams": 1}),
    f"RAG-Token, {BEAMS} beams": ("write", "padded", {"kind": "token", "num_beams": BEAMS}),
    f"RAG-Sequence, {BEAMS} beams, all passages score all": (
        "write",
        "padded",
        {"kind": "sequence", "num_beams": BEAMS},
    ),
}
# Of both sides: memory that is freed is kept, not given back and asked for again.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": "4294967296"}
XLA = "--xla_cpu_prefer_vector_width=512"


def inputs(lengths: str) -> dict[str, np.ndarray]:
    """Questions with K contexts each, and answers; contexts of `SOURCE` tokens, or as real ones vary."""
    rng = np.random.default_rng(0)

    def texts(rows: int, length: int, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.arange(length) < used[:, None]
        return np.where(mask, rng.integers(5, VOCAB, (rows, length)), 1), mask.astype(np.int64)

    used = np.full(BATCH * K, SOURCE)
    if lengths == "real":
        words = np.interp(rng.random(BATCH * K), *WORDS)
        used = np.minimum(ASKED + TOKENS_PER_WORD * words, SOURCE).astype(int)
    contexts, contexts_mask = texts(BATCH * K, SOURCE, used)
    question, question_mask = texts(BATCH, QUESTION, np.full(BATCH, QUESTION))
    labels = rng.integers(5, VOCAB, (BATCH, TARGET))
    labels[:, 0] = 2  # what decoding starts from
    return {
        "context_input_ids": contexts,
        "context_attention_mask": contexts_mask,
        "input_ids": question,
        "attention_mask": question_mask,
        "retrieved_doc_embeds": rng.normal(size=(BATCH, K, WIDTH)).astype(np.float32),
        "labels": labels,
    }


def write_model(path: Path) -> None:
    """A RAG model of random weights, as transformers saves it."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    question = hf.DPRConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
    )
    generator = hf.BartConfig(
        vocab_size=VOCAB,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=256,
        dropout=0.0,
        forced_eos_token_id=None,
        min_length=TARGET + 1,  # so that both sides write equally much
        max_length=TARGET + 1,
    )
    config = hf.RagConfig.from_question_encoder_generator_configs(question, generator, n_docs=K)
    model = hf.RagTokenForGeneration(
        config=config,
        question_encoder=hf.DPRQuestionEncoder(question),
        generator=hf.BartForConditionalGeneration(generator),
    )
    # No answer ends before its time.
    with torch.no_grad():
        model.rag.generator.final_logits_bias[:, generator.eos_token_id] = -1e4
    model.save_pretrained(path)


def median_seconds(work: Callable[[], Any]) -> float:
    """Median over rounds, after a first time that is not counted."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def ours(job: str, path: Path) -> tuple[float, Any]:
    """Seconds of a job here, and what came of it."""
    import jax
    import jax.numpy as jnp
    import optax

    from ragjax.models.pretrained.rag import load_rag

    what, lengths, options = JOBS[job]
    given = {name: jnp.asarray(each) for name, each in inputs(lengths).items()}
    kind, buckets = options.get("kind", "token"), BUCKETS if lengths == "real" else 1
    model = load_rag(path, kind, "hf", buckets=buckets)
    if what == "write":
        del given["labels"]
        write = jax.jit(
            lambda params, given: model.generate(
                params, **given, num_beams=options["num_beams"], max_length=TARGET + 1
            )
        )
        run = lambda: jax.block_until_ready(write(model.params, given).tokens)  # noqa: E731
        return median_seconds(run), np.asarray(write(model.params, given).tokens[:, 0]).tolist()
    optimizer = optax.adamw(1e-4)

    def step(state, given):
        params, moments = state

        def loss(params):
            return model.loss(params, **given, reduce_loss=True)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    step = jax.jit(step, donate_argnums=0)
    params = jax.tree.map(jnp.asarray, model.params)
    state, losses = (params, optimizer.init(params)), []

    def run():
        nonlocal state
        state, value = step(state, given)
        losses.append(float(value))

    return median_seconds(run), losses


def theirs(job: str, path: Path) -> tuple[float, Any]:
    """Seconds of a job by transformers, and what came of it; contexts are as wide as their longest."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(THREADS)
    what, lengths, options = JOBS[job]
    given = {name: torch.from_numpy(each) for name, each in inputs(lengths).items()}
    longest = int(given["context_attention_mask"].sum(1).max())
    contexts = {
        name: given[name][:, :longest] for name in ("context_input_ids", "context_attention_mask")
    }
    sequence = options.get("kind") == "sequence"
    kind = hf.RagSequenceForGeneration if sequence else hf.RagTokenForGeneration
    model = kind.from_pretrained(path).eval()

    def scores():
        query = model.rag.question_encoder(
            given["input_ids"], attention_mask=given["attention_mask"]
        )[0]
        return torch.bmm(query[:, None], given["retrieved_doc_embeds"].transpose(1, 2))[:, 0]

    if what == "write":

        def write():
            with torch.no_grad():
                return model.generate(
                    **contexts,
                    doc_scores=scores(),
                    num_beams=options["num_beams"],
                    max_length=TARGET + 1,
                )

        return median_seconds(write), write()[:, : TARGET + 1].tolist()
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-4), []

    def run():
        optimizer.zero_grad()
        told = model(**contexts, doc_scores=scores(), labels=given["labels"], reduce_loss=True)
        told.loss.backward()
        optimizer.step()
        losses.append(float(told.loss))

    return median_seconds(run), losses


def measure() -> dict[str, Any]:
    """Seconds of each job on both sides."""
    rows = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        write_model(path)
        for job in JOBS:
            told = {side: _alone(side, job, path) for side in (THEIRS, OURS)}
            first, second = (told[side]["made"] for side in (THEIRS, OURS))
            require(  # losses, or tokens
                bool(np.allclose(first, second, rtol=1e-3 if JOBS[job][0] == "step" else 0)),
                f"{job}: {THEIRS} made {first}, {OURS} {second}; both sides must compute the same.",
            )
            rows[job] = {side: each["seconds"] for side, each in told.items()}
    peers = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {"rows": rows, "peers": peers}


def _alone(side: str, job: str, path: Path) -> dict[str, Any]:
    """What a process of its own measures."""
    limits = {"OMP_NUM_THREADS": str(THREADS), "XLA_FLAGS": XLA, **MALLOC}
    command = [sys.executable, __file__, side, job, str(path)]
    told = subprocess.run(
        command, env=os.environ | limits, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(told.stdout.splitlines()[-1])


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = ["| | transformers, s | ragjax, s | times faster |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {job} | {row[THEIRS]:.3f} | {row[OURS]:.3f} | {row[THEIRS] / row[OURS]:.2f} |"
        for job, row in numbers["rows"].items()
    ]
    used = numbers.get("peers", {}) | {"jax": numbers["versions"]["jax"]}
    versions = ", ".join(f"{name} {version}" for name, version in used.items())
    lines += [
        "",
        f"Medians of {ROUNDS} on {THREADS} CPU cores, float32, the same random weights and inputs "
        f"({versions}): DPR of {LAYERS} layers and BART of {LAYERS} + {LAYERS}, width {WIDTH}, "
        f"vocabulary {VOCAB:,}; {BATCH} questions, {K} passages each of {SOURCE} tokens with the "
        f"question, targets of {TARGET}. A training step is loss, gradient and AdamW. Contexts of real "
        "lengths vary as MuSiQue's paragraphs do, up to the same length: transformers reads them as "
        f"wide as the longest, we in {BUCKETS} groups of similar length. Compilation is not counted. "
        "Both sides have the same settings of malloc, and write the same tokens; losses of training "
        "are compared, too.",
    ]
    return MarkdownTable(
        title="RAG models, trained and asked: how fast beside transformers",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/transformers_speed.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()


if __name__ == "__main__":
    side, job, path = sys.argv[1:]
    seconds, made = {OURS: ours, THEIRS: theirs}[side](job, Path(path))
    print(json.dumps({"seconds": seconds, "made": made}))
