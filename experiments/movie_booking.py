"""Booking movie tickets over a made table: the rule agent, PPO after it, and retrieval of rows."""

from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Row, Table

CONFIGS = "configs/movie_booking"
LEARNED = {"ppo": "PPO", "retrieval": "PPO, retrieving rows"}
HELD_OUT = ("--env.users", "split")
NOTES = """\
TC-Bot's rules: a user wants a ticket for a showing that meets what it constrains, and be told the
rest. The agent asks for slots, informs from the table, and completes the task; a success gives 80, a
failure -40, and each exchange before costs 1. Table and goals are made, shaped like TC-Bot's (a user's
own by `--env.table` and `--env.goals`; figures over TC-Bot's are in the next table).

- The rule agent asks for six slots in a fixed order and completes the task. It never answers the
  questions of the half of users that have some.
- Learned policies begin by imitating it, in 5 of 109 rollouts, by the likelihood of its actions.
- `retrieving rows`: what is known is seen as the sum of a vector for each value, and four rows that
  agree with it are retrieved and summed over, π(a\\|s) = Σ_d p(d\\|s) π(a\\|s,d).
- `held out`: learned with four of five goals, and measured with the others."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/movie_booking.py --run` makes what is missing."""
    return Table(
        name="movie_booking",
        title="Booking movie tickets: success within 20 exchanges",
        notes=NOTES,
        caption="2,000 dialogues of each seed, of 128 goals or of the 26 that are held out. Exchanges: "
        "the agent's and the user's turns count as one.",
        rows=(
            Row("random", f"{CONFIGS}/fixed.py", ("--policy.by", "random"), "random"),
            Row("rule agent", f"{CONFIGS}/fixed.py", (), "rule"),
            *(Row(label, f"{CONFIGS}/{name}.py") for name, label in LEARNED.items()),
            *(
                Row(f"{label}, held out", f"{CONFIGS}/{name}.py", HELD_OUT, f"{name}_held_out")
                for name, label in LEARNED.items()
            ),
        ),
        columns=(
            Column("success, greedy", "greedy_success", scale=1, digits=3),
            Column("success, sampled", "sampled_success", scale=1, digits=3),
            Column("return, greedy", "greedy_return", scale=1, digits=1),
            Column("exchanges, greedy", "greedy_length", scale=1, digits=1),
            Column("pass^4", "greedy_pass^4", scale=1, digits=3),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
        claims=(
            Claim("ppo", "success, greedy", "rule"),
            Claim("retrieval", "success, greedy", "rule"),
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves of the learned rows."""
    table = get_table()
    runs = {
        label: load_runs(table.results / table.name / name, table.seeds)
        for name, label in LEARNED.items()
    }
    return (
        Plot(
            name="success",
            title="Booking movie tickets: mean return while training",
            x_label="exchanges with users",
            y_label="return, likeliest actions",
            curves=learning_curves(runs, mode="greedy"),
            note="Interquartile mean of the seeds; the band reaches from their lowest to their highest. "
            "Each point plays 200 dialogues with fresh users.",
        ),
    )
