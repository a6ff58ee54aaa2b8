"""Policy gradients on environments whose right answers are known, with published scores beside them."""

from pathlib import Path

from ragjax.evaluation.plots import Line, Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Column, Row, Table

ZOO = "rl-baselines3-zoo, benchmark.md"
# Environment -> its rows: label, config, published score (algorithm's own, of SB3's zoo or rlax).
ROWS = {
    "CartPole-v1": (
        ("PPO, 1e5 steps", "ppo_cartpole", "500.0 ± 0.0"),
        ("A2C, 5e5 steps", "a2c_cartpole", "500.0 ± 0.0"),
        ("REINFORCE, 1e6 steps", "reinforce_cartpole", ""),
        ("V-trace, 5e5 steps", "vtrace_cartpole", ""),
    ),
    "Acrobot-v1": (
        ("PPO, 1e6 steps", "ppo_acrobot", "-73.5 ± 18.2"),
        ("A2C, 5e5 steps", "a2c_acrobot", "-83.4 ± 17.2"),
    ),
    "MountainCar-v0": (
        ("PPO, 1e6 steps", "ppo_mountain_car", "-110.4 ± 19.5"),
        ("A2C, 1e6 steps", "a2c_mountain_car", "-111.3 ± 24.1"),
    ),
    "Catch": (
        ("PPO, 300 x 64 episodes", "ppo_catch", ""),
        ("A2C, 300 x 64 episodes", "a2c_catch", ""),
    ),
}

NOTES = """\
Published scores are those of other code and other evaluations.

A time limit is no termination here, and nothing leaks from one episode into the next across an
automatic reset (`ragjax/ops/returns.py`). Losses are sums over the steps that count, divided once.
Any library's estimator of returns can be held against the cases of
`tests/support/boundary_cases.py`.

Each of these environments is one of Gymnasium, too: `as_gymnasium(CartPole())`, or several side
by side by `as_gymnasium_vector` (`ragjax/envs/to_gymnasium.py`)."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/classic_control.py --run` makes what is missing."""
    published = f"published ({ZOO})"
    return Table(
        name="classic_control",
        title="Mean return of an episode in classic control",
        notes=NOTES,
        caption="The final policy in fresh environments, with its likeliest actions (greedy) and with "
        "drawn ones; MountainCar and Acrobot with normalised observations and rewards.",
        rows=tuple(
            Row(
                f"{environment}, {label}",
                f"configs/classic_control/{name}.py",
                published={published: score} if score else {},
            )
            for environment, rows in ROWS.items()
            for label, name, score in rows
        ),
        columns=(
            Column("return, greedy", "greedy_return", scale=1, digits=2, statistic="iqm"),
            Column("return, sampled", "sampled_return", scale=1, digits=2, statistic="iqm"),
            Column(published),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves, a plot an environment; `ragjax plot experiments/classic_control.py`."""
    table = get_table()
    plots = []
    for environment, rows in ROWS.items():
        runs = {
            label: load_runs(table.results / table.name / name, table.seeds)
            for label, name, _ in rows
        }
        lines = tuple(
            Line(f"published, {label.split(',')[0]}", float(score.split()[0]), ZOO)
            for label, _, score in rows
            if score
        )
        plots.append(
            Plot(
                name=environment.lower(),
                title=f"{environment}: mean return while training",
                x_label="environment steps",
                y_label="mean return, drawn actions",
                curves=learning_curves(runs),
                lines=lines,
                note="Interquartile mean of the seeds; the band reaches from their lowest to their "
                "highest. Each point plays 20 episodes in fresh environments.",
            )
        )
    return tuple(plots)
