"""When to retrieve: a learned policy of the question-answering agent against fixed ones."""

from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Row, Table

FIXED = "configs/adaptive_retrieval/fixed.py"
KINDS = ("known", "unseen", "two_hop")
NOTES = """\
An episode is a question. The agent answers from memory, retrieves, lets the reader write the query
of a second retrieval from the first passage, reads and answers, or abstains. Its reader has
learned part of the facts by heart, so that the choice is real. Two-hop questions ("What is the
currency of the country whose capital is Paris?") need two retrievals.

The learned policy earns more than every fixed one, with each reader."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/adaptive_retrieval.py --run` makes what is missing.

    The readers are those of `experiments/reader_training.py`, whose runs have to be made first.
    """

    def plan(label: str, key: str, retrievals: int, *more: str) -> Row:
        return Row(label, FIXED, ("--policy.retrievals", str(retrievals), *more), key)

    # Of 0.2, 0.3 ... 0.9, 0.95 and 0.99 the best on development questions, mean of the five readers.
    memory, every = "0.7", "0.99"
    return Table(
        name="adaptive_retrieval",
        title="When to retrieve: facts known by heart, facts never taught, and two-hop questions",
        notes=NOTES,
        caption="Reward: exact match - 0.1 for each retrieval, or 0.2 for no answer, over the three "
        "kinds of test questions equally; actions drawn from the policy. Minus learned: less the reward "
        "of the learned policy with the same reader, seed by seed. Each seed has a reader of its own, "
        "which was shown what the first of two hops has to find.",
        rows=(
            plan("never", "never", 0),
            Row("always once", FIXED, key="once"),
            plan("always twice", "twice", 2),
            plan("random", "random", 0, "--policy.random", "True"),
            plan(
                f"from memory if p > {memory}, else once",
                "threshold_1",
                1,
                *("--policy.threshold", memory),
            ),
            plan(
                f"from memory if p > {memory}, else twice",
                "threshold_2",
                2,
                *("--policy.threshold", memory),
            ),
            plan(
                f"until p > {every}, at most twice",
                "until_sure",
                2,
                *("--policy.threshold", every, "--policy.checked", "every"),
            ),
            Row("learned (PPO)", "configs/adaptive_retrieval/ppo.py"),
        ),
        columns=(
            Column("reward", "sampled_return", scale=1, digits=3, statistic="mean"),
            Column(
                "minus learned",
                "sampled_return",
                scale=1,
                digits=3,
                statistic="mean",
                against="ppo",
            ),
            *(
                Column(
                    f"{name}, {kind.replace('_', '-')}",
                    f"sampled_{metric}_{kind}",
                    scale=scale,
                    digits=digits,
                    statistic="mean",
                )
                for name, metric, scale, digits in (
                    ("retrievals", "retrievals", 1, 2),
                    ("EM", "score", 100, 1),
                )
                for kind in KINDS
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        claims=tuple(
            Claim("ppo", "reward", above=key)
            for key in (
                *("never", "once", "twice", "random"),
                *("threshold_1", "threshold_2", "until_sure"),
            )
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """The learned policy's reward while it learns; `ragjax plot experiments/adaptive_retrieval.py`."""
    table = get_table()
    row = table.rows[-1]
    runs = {row.label: load_runs(table.results / table.name / row.directory, table.seeds)}
    return (
        Plot(
            name="adaptive_retrieval",
            title="When to retrieve: mean reward while training",
            x_label="decisions",
            y_label="mean reward, drawn actions",
            curves=learning_curves(runs),
            note="Development questions, 1,000 episodes a point. Interquartile mean of the seeds; the "
            "band reaches from their lowest to their highest.",
        ),
    )
