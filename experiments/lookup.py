"""Four estimators of the policy gradient through retrieval, on the smallest environment for it."""

from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Column, Row, Table

ROWS = {
    "marginal, exact": "marginal",
    "sampled passage": "sampled",
    "straight-through Gumbel": "gumbel",
    "attention, for comparison": "attention",
    "marginal, of sentences": "text",
    "marginal of the episode, of 3": "episode",
}

NOTES = """\
`Lookup` is a small environment made for policies that retrieve. The state names a passage by its
key, and the passage says which action is right. Other passages that say the same serve as well,
and an encoder can learn by heart which these are. So recall of the named passage can stay at
chance while the return is near its best.

To a return of 0.8 each of the exact sum's seeds needs fewer episodes than any of the sampled
passage's.

While a policy or a reader that retrieves is trained, its log holds figures of its retriever:
entropies of prior and posterior, the effective number of passages, recall, the share of the most
retrieved passage, and what is gained over random passages. A warning names what lasts: a hub, a
collapse, a retriever that is ignored or does harm (`ragjax/training/monitor.py`)."""


def row(label: str, name: str) -> Row:
    """The row of a config, or of an estimator that differs from `marginal.py` in that alone."""
    if name in ("sampled", "gumbel", "attention"):
        return Row(label, "configs/lookup/marginal.py", ("--policy.estimator", name), name)
    return Row(label, f"configs/lookup/{name}.py")


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/lookup.py --run` makes what is missing."""
    return Table(
        name="lookup",
        title="Return on Lookup by estimator of the policy gradient",
        notes=NOTES,
        caption="A2C, 38,400 episodes of one step, K = 8 of 32 passages; best is 1. The sentences are "
        "the 36 of `TextLookup`, embedded as bags of words, and chance is 0.25. The last row: PPO, "
        "25,600 episodes of three steps, whose passage is named in the first; best is 3, or 1.5 for a "
        "policy that forgets it.",
        rows=tuple(row(label, name) for label, name in ROWS.items()),
        columns=(
            Column("return, greedy", "greedy_return", scale=1, digits=3, statistic="iqm"),
            Column("return, sampled", "sampled_return", scale=1, digits=3, statistic="iqm"),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves of the one-step rows; `ragjax plot experiments/lookup.py`."""
    table = get_table()
    runs = {
        label: load_runs(table.results / table.name / name, table.seeds)
        for label, name in ROWS.items()
        if name not in ("episode", "text")
    }
    return (
        Plot(
            name="estimators",
            title="Lookup: mean return while training",
            x_label="episodes",
            y_label="mean return, drawn actions",
            curves=learning_curves(runs),
            note="A2C, K = 8 of 32 passages. Interquartile mean of the seeds; the band reaches from "
            "their lowest to their highest. Each point plays 200 episodes in fresh environments.",
        ),
    )
