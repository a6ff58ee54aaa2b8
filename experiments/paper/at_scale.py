"""What Natural Questions over DPR's 21 million passages needs on 8 and on 64 accelerators, on paper.

Nothing of it was run at this size: sizes follow from the models' shapes, times from the rates that
`experiments/benchmarks/device_check.py` has measured on one card; every assumption is a constant here.
"""

import json
from pathlib import Path
from typing import Any

from ragjax.evaluation.tables import MarkdownTable
from ragjax.origin import commit_text

CARD = Path(__file__).parents[1] / "results" / "device_check" / "NVIDIA_H200.json"
DEVICES = (8, 64)
PASSAGES, WIDTH, TOKENS = 21_015_324, 768, 256  # of DPR's dump, embeddings, tokens of a passage
ENCODER, READER = 109e6, 406e6  # parameters of BERT-base, of which there are two, and of BART-large
BATCH, K, QUESTION, ANSWER = 128, 5, 64, 24  # questions of a step, passages of each, and lengths
SHARE = 0.4  # of the product's measured rate that a transformer reaches; assumed
LINK = 4.5e11  # bytes a second that a card exchanges with the others of its host; published for NVLink 4
NETWORK = 5e10  # bytes a second between hosts of 8 cards, each its own; published for 400 Gb/s


def operations() -> dict[str, float]:
    """Operations of a step and of a refresh: 6 a parameter and token that is learned, 2 if only read."""
    read = BATCH * K * (QUESTION + TOKENS)
    reader = 6 * READER / 2 * read + 6 * READER / 2 * BATCH * K * ANSWER  # encoder, decoder
    questions = 6 * ENCODER * BATCH * QUESTION
    passages = 2 * ENCODER * BATCH * K * TOKENS  # embedded anew, without a gradient
    return {"step": reader + questions + passages, "refresh": 2.0 * ENCODER * PASSAGES * TOKENS}


def needs(devices: int, card: dict[str, Any]) -> dict[str, str]:
    """What each of so many devices holds, computes and exchanges: label -> figure."""
    rate = SHARE * 1e12 * card["machine"]["teraflops_bfloat16"]
    found = card["search"]
    reading = 1e9 * found["float32_256"]["gigabytes_s"]
    embeddings, tokens = 4 * WIDTH * PASSAGES, 4 * TOKENS * PASSAGES
    parameters = 2 * ENCODER + READER
    state = 4 * parameters + 8 * (
        ENCODER + READER
    )  # float32, and Adam's two moments of what is trained
    gradients = 4 * (ENCODER + READER)
    link = LINK if devices <= 8 else NETWORK
    work = operations()
    return {
        "embeddings, GB": f"{embeddings / devices / 1e9:.2f}",
        "tokens of the passages, GB": f"{tokens / devices / 1e9:.2f}",
        "parameters and moments, replicated, GB": f"{state / 1e9:.1f}",
        "parameters and moments, sharded, GB": f"{state / devices / 1e9:.2f}",
        "search of a step's questions, ms": f"{1e3 * embeddings / devices / reading:.1f}",
        "the models' part of a step, ms": f"{1e3 * work['step'] / devices / rate:.0f}",
        "gradients that are summed, ms a step": f"{1e3 * 2 * gradients / link:.1f}",
        "queries and best groups that are exchanged, MB a step": _exchanged(devices),
        "a refresh of the index, min": f"{work['refresh'] / devices / rate / 60:.1f}",
    }


def _exchanged(devices: int) -> str:
    """Megabytes that a device gets in a search: queries, maxima of each device, best scores."""
    return f"{4 * BATCH * (WIDTH + 2 * K * devices + 2 * 32 * K) / 1e6:.2f}"


def get_table() -> MarkdownTable:
    """The needs as a table."""
    card = json.loads(CARD.read_text())
    columns = [needs(devices, card) for devices in DEVICES]
    lines = [f"| each of | {' | '.join(f'{of} devices' for of in DEVICES)} |"]
    lines.append(f"| --- |{' ---: |' * len(DEVICES)}")
    for label in columns[0]:
        lines.append(f"| {label} | {' | '.join(column[label] for column in columns)} |")
    machine = card["machine"]
    rate = machine["teraflops_bfloat16"]
    body = "\n".join(lines) + (
        f"\n\n{PASSAGES:,} passages of {TOKENS} tokens, two encoders of BERT-base's size, of which that "
        f"of questions is trained, and a reader of BART-large's; {BATCH} questions a step with {K} "
        f"passages each. Rates of one {machine['device']}: a product in bfloat16 ({rate:.0f} TFLOP/s, "
        f"of which {SHARE:.0%} are assumed to be reached), and what exact search reads a second for 256 "
        f"queries over float32 embeddings of {card['search']['width']} numbers. Exchanges go by "
        f"published rates: {LINK / 1e9:.0f} GB/s within a host of 8, {NETWORK / 1e9:.0f} GB/s between "
        "hosts. A refresh is needed only where the passages' encoder is trained. One device measures, "
        f"for which it holds all tokens throughout ({4 * TOKENS * PASSAGES / 1e9:.0f} GB) and the whole "
        f"index then ({4 * WIDTH * PASSAGES / 1e9:.0f} GB)."
    )
    return MarkdownTable(
        title="Natural Questions over 21 million passages, on paper",
        body=body,
        source=f"Computed from rates recorded at git commit {commit_text(card['search'])}.",
    )
