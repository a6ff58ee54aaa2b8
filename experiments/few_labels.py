"""Few labels, many rewards: most training questions only tell whether a given answer is right."""

from pathlib import Path

import numpy as np

from ragjax.evaluation.plots import Curve, Plot
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Row, Table

CONFIG = "configs/world_facts/few_labels.py"
UNREWARDED = ("--objective.reward.weight", "0")
LIKELIHOOD = (*UNREWARDED, "--phases.0.labelled", "32", "--phases.1.labelled", "64")
ALL = ("--phases.0.labelled", "None", "--phases.1.labelled", "None")  # as they come
FIVE = ("--labels.share", "0.05")
AUGMENTED = (
    *("--objective.likelihood.rename_reader", "0.9"),
    *("--objective.likelihood.rename_retriever", "1.0"),
    *("--objective.likelihood.corrupt_words", "0.2"),
)
POINTS = "five points of exact match, set before anything was run"

NOTES = """\
A twentieth or a tenth of the 5,425 training questions is labelled, drawn anew for each seed and the same
for all rows of it, the smaller part in the larger one. Of the others an answer can be drawn from the
model, and is rewarded if it is right, as a user's thumb tells; their answers and gold passages are never
learned from. With these rewards a twentieth of the labels comes to about what all of them come to.

Reward alone, from new parameters, hardly ever draws a right answer and learns nothing.

The gain is one of training as it is here, without the replaced names and corrupted words of the other
tables. With these, likelihood of the labelled tenth alone is better than joint without them."""


def _row(label: str, key: str, overrides: tuple[str, ...], *gains: str) -> Row:
    """A row of all figures but those gains that aren't named."""
    columns = ("EM", "R@1", "R@5", "CPU, s", *gains)
    return Row(label, CONFIG, overrides, key, columns=columns)


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/few_labels.py --run` makes what is missing."""
    return Table(
        name="few_labels",
        title="Likelihood of few labelled questions, and reward of all",
        notes=NOTES,
        caption="Exact match and recall on the test questions of world_facts, in per cent. The first "
        "words of a row say what share of the training questions is labelled. Gains are over likelihood "
        "alone of as many labels, a tenth unless said, and over reward alone, seed by seed. "
        "Reward: exact match of four drawn answers, with RLOO's advantages, weighs five times the "
        "likelihood. Rows make 300 steps but for reward alone; joint computes about twice as long.",
        rows=(
            _row("5%: likelihood", "likelihood_5", (*LIKELIHOOD, *FIVE), "gain at 5%"),
            _row("5%: joint", "joint_5", FIVE, "gain at 5%"),
            _row("10%: likelihood", "likelihood", LIKELIHOOD, "gain", "over reward", "gain in R@5"),
            _row("10%: joint", "joint", (), "gain", "over reward", "gain in R@5"),
            _row(
                "10%: likelihood, names replaced and words corrupted",
                "augmented",
                (*LIKELIHOOD, *AUGMENTED),
                *("gain", "gain in R@5"),
            ),
            _row(
                "all: likelihood",
                "all",
                (*UNREWARDED, *ALL, "--labels.share", "1"),
                *("gain", "gain in R@5"),
            ),
            _row(
                "none: reward alone, 100 steps",
                "reward",
                (
                    *(*ALL, "--objective.likelihood_weight", "0"),
                    *("--phases.0.steps", "30", "--phases.1.steps", "70"),
                ),
                *("gain", "over reward", "gain in R@5"),
            ),
        ),
        columns=(
            Column("EM", "em"),
            Column("gain at 5%", "em", against="likelihood_5"),
            Column("gain", "em", against="likelihood"),
            Column("over reward", "em", against="reward"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("gain in R@5", "recall@5", against="likelihood"),
            Column("CPU, s", "train_cpu_seconds", scale=1, digits=0),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        claims=(
            Claim("joint_5", "gain at 5%", above=5.0, source="as of a tenth"),
            Claim("joint_5", "R@5", above="likelihood_5"),
            Claim("joint", "gain", above=5.0, source=POINTS),
            Claim("joint", "over reward", above=5.0, source=POINTS),
            Claim("joint", "R@5", above="likelihood"),
            Claim("joint", "R@5", above="reward"),
            Claim("augmented", "EM", above="joint"),
        ),
    )


def _curves(kind: str, figure: str, keys: tuple[str, ...], scale: float = 1.0) -> tuple[Curve, ...]:
    """The course of a figure in recorded runs: the mean of the seeds, from their lowest to highest."""
    table, curves = get_table(), []
    for row in table.rows:
        if row.directory in keys:
            runs = load_runs(table.directory(row), table.seeds)
            values = scale * np.array([run.result[kind][figure] for run in runs])
            edges = values.min(axis=0).tolist(), values.max(axis=0).tolist()
            steps = runs[0].result[kind]["step"]
            curves.append(Curve(row.label, steps, values.mean(axis=0).tolist(), *edges))
    return tuple(curves)


def get_plots() -> tuple[Plot, ...]:
    """The course of the runs; `ragjax plot experiments/few_labels.py`."""
    keys = ("likelihood", "joint", "reward")
    rewarded = ("joint", "reward")
    band = "Mean of the seeds; the band reaches from their lowest to their highest."
    return (
        Plot(
            name="few_labels",
            title="world_facts, 10% labelled: development questions while training",
            x_label="steps",
            y_label="exact match, %",
            curves=_curves("measured", "dev/em", keys, 100.0),
            note=f"500 development questions. {band}",
        ),
        Plot(
            name="few_labels_reward",
            title="world_facts, 10% labelled: reward of drawn answers while training",
            x_label="steps",
            y_label="exact match of drawn answers",
            curves=_curves("curve", "reward", rewarded),
            note=f"Training questions, labelled ones among them. {band}",
        ),
        Plot(
            name="few_labels_health",
            title="world_facts, 10% labelled: largest share of p(d|x) on one passage",
            x_label="steps",
            y_label="share of the hub",
            curves=_curves("health", "hub_share", keys),
            note=f"Of a batch of training questions; near 1, all would get the same passage. {band}",
        ),
    )
