"""Driving: policies that retrieve scenes of other drivers, beside one that does not."""

import json
from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Reference, Row, Table

PPO, RETRIEVAL, CASES = (f"configs/highway/{name}.py" for name in ("ppo", "retrieval", "cases"))
LONG = ("--env-steps", str(2**19))
BOTH = ("--policy.reads", "both")
ARMS = {
    "retrieval": ("memory of 4,096 scenes", ()),
    "oracle": ("the best of four times as many", ("--env.memory.kind", "oracle")),
    "shuffled": ("outcomes of other scenes", ("--env.memory.kind", "shuffled")),
    "empty": ("scenes of zeros", ("--env.memory.kind", "empty")),
    "frozen_keys": ("frozen keys", ("--policy.retriever.train-passages", "False")),
    "sampled": ("one scene drawn, not summed over", ("--policy.estimator", "sampled")),
}
NOTES = """\
`highway_fast` is HighwayEnv's `highway-fast-v0`, step by step. A scene of the memory is what another
driver saw and did, and what came of it in 5 s; four are retrieved, and summed over. Half of the drivers
go by rules (IDM and MOBIL), half by chance. `cases` has eight of 8,192 by rules.

- All rows but the long ones are of equal environment steps, 2^18. Braking all the time returns 20.9:
  beside a good return stands a speed above 20 m/s.
- No memory makes a policy better than none, and scenes of zeros serve as well as any. That what is
  observed decides the next seconds, so that scenes tell nothing new, would explain it; it isn't shown.
  Trained longer, the policy of 4,096 scenes crashes most.
- `cases`: an action depends on what was done in the scenes, and what came of it, alone. The policy
  begins by doing what was done in each with its p(d|s); the matrix that finds scenes is learned, and
  what to make of their outcomes. With another memory it drives differently (next table).
- `cases and observation`: what is observed is read as well.
- `outcomes of other scenes` and `scenes of zeros` do not say what to do; `the best` are those
  without a crash, the fastest first."""


def steps_a_second() -> float:
    """Of highway_fast with PPO learning, as `experiments/benchmarks/highway_steps.py` has recorded."""
    path = Path(__file__).parent / "results/benchmarks/highway_steps.json"
    return json.loads(path.read_text(encoding="utf-8"))["ppo"]["per_second"]


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/driving.py --run` makes what is missing."""
    arms = (Row(label, RETRIEVAL, change, name) for name, (label, change) in ARMS.items())
    return Table(
        name="driving",
        title="highway_fast: 30 seconds among 20 other vehicles",
        notes=NOTES,
        caption="Seeds 0 to 4, each with 300 episodes by the likeliest actions and as many by drawn "
        "ones. pass^4: in all of four episodes there is no crash. With PPO learning highway_fast makes "
        f"{steps_a_second():,.0f} steps a second on two cores; HighwayEnv 33 to 44 on one, without.",
        rows=(
            Row("PPO, no retrieval", PPO),
            *arms,
            Row("cases: acts as its scenes did", CASES),
            Row("cases, after one update", CASES, ("--env-steps", "1024"), "cases_untrained"),
            Row("cases and observation", CASES, BOTH, "cases_both"),
            Row("long, 2^19 steps: PPO, no retrieval", PPO, LONG, "ppo_long"),
            Row("long, 2^19 steps: memory of 4,096 scenes", RETRIEVAL, LONG, "retrieval_long"),
            Row("long, 2^19 steps: cases and observation", CASES, (*BOTH, *LONG), "cases_long"),
        ),
        columns=(
            Column("return", "greedy_return", scale=1, digits=2),
            Column("speed, m/s", "greedy_speed", scale=1, digits=2),
            Column("crashed", "greedy_crashed", scale=1, digits=3),
            Column("pass^4", "greedy_pass^4", scale=1, digits=2),
            Column("return, drawn actions", "sampled_return", scale=1, digits=2),
        ),
        references=(
            Reference(
                "always SLOWER",
                "measured with HighwayEnv 1.12.1, 300 episodes",
                {"return": "20.93", "speed, m/s": "20.0", "crashed": ".027"},
            ),
            Reference("DQN, 2e4 steps", "HighwayEnv issue 460", {"return": "19.7"}),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
        claims=(
            Claim("retrieval_long", "return", 20.93, "always SLOWER"),
            Claim("ppo_long", "return", "retrieval_long"),
            Claim("cases", "return", "cases_untrained"),
            Claim("cases", "crashed", "cases_untrained", below=True),
            Claim("cases_long", "return", "retrieval_long"),
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves of the rows of equal steps."""
    table = get_table()
    named = {"PPO, no retrieval": "ppo"} | {
        ARMS[name][0]: name for name in ("retrieval", "oracle", "shuffled", "empty", "sampled")
    }
    runs = {
        label: load_runs(table.results / table.name / name, table.seeds)
        for label, name in named.items()
    }
    return (
        Plot(
            name="returns",
            title="highway_fast: mean return while training",
            x_label="steps of environments",
            y_label="return, likeliest actions",
            curves=learning_curves(runs, mode="greedy"),
            note="Interquartile mean of the seeds; the band reaches from their lowest to their highest. "
            "Each point plays 50 episodes in fresh environments.",
        ),
    )
