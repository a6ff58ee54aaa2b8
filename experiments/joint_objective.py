"""Likelihood and reward on one retriever and reader: what each adds to a finished run."""

from pathlib import Path

import numpy as np

from ragjax.evaluation.plots import Curve, Plot
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Row, Table

JOINT = "configs/world_facts/joint.py"
REWARD_ALONE = ("--objective.likelihood_weight", "0")
REWARDED = ("rloo", "ppo", "joint", "frozen")  # that learn from drawn answers

NOTES = """\
All rows below the first go on from the parameters of the first. Reward makes the model surer of
answers that are right already: drawn answers are right more often. In exact match of the likeliest
answer and in recall it gains nothing over likelihood alone, at equal compute."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/joint_objective.py --run` makes what is missing."""
    return Table(
        name="joint_objective",
        title="Likelihood and reward, from the parameters of the first row",
        notes=NOTES,
        caption="Exact match and recall on the test questions of world_facts, in per cent. Drawn EM: "
        "how often an answer drawn from the model is the greedy one and right. Gains are over "
        "likelihood alone, seed by seed; below 0 is a loss. Reward: exact match of drawn answers, with "
        "RLOO's advantages, or PPO's of a critic of tokens and a divergence from the start to pay for. "
        "Joint: reward (RLOO) weighs five times the likelihood. Likelihood alone makes three times the "
        "steps, so that all rows below the first compute about as long.",
        rows=(
            Row("likelihood, the start", "configs/world_facts/rag_sequence.py"),
            Row(
                "likelihood, 300 steps more",
                JOINT,
                ("--objective.reward.weight", "0", "--phases.0.steps", "300"),
                "likelihood",
            ),
            Row("reward by RLOO, 100 steps", JOINT, REWARD_ALONE, "rloo"),
            Row(
                "reward by PPO, 50 steps of 2 updates",
                JOINT,
                (
                    *REWARD_ALONE,
                    *("--objective.reward.advantage", "gae", "--objective.reward.whiten", "True"),
                    *("--objective.reward.updates", "2", "--objective.reward.kl_coef", "0.05"),
                    *("--phases.0.steps", "50"),
                ),
                "ppo",
            ),
            Row("joint, 100 steps", JOINT),
            Row("joint, retriever frozen", JOINT, ("--optimizer.retriever_rate", "0"), "frozen"),
        ),
        columns=(
            Column("EM", "em"),
            Column("gain", "em", against="likelihood"),
            Column("drawn EM", "drawn_em"),
            Column("gain, drawn", "drawn_em", against="likelihood"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("gain, R@5", "recall@5", against="likelihood"),
            Column("CPU, s", "train_cpu_seconds", scale=1, digits=0),
        ),
        seeds=(0, 1, 2),
        results=Path(__file__).parent / "results",
        claims=tuple(Claim(key, "drawn EM", above="likelihood") for key in REWARDED),
    )


def get_plots() -> tuple[Plot, ...]:
    """Reward of drawn training answers over the run; `ragjax plot experiments/joint_objective.py`."""
    table, curves = get_table(), []
    for row in table.rows:
        if row.directory in REWARDED:
            runs = load_runs(table.results / table.name / row.directory, table.seeds)
            rewards = np.array([run.result["curve"]["reward"] for run in runs])
            curves.append(
                Curve(
                    row.label,
                    runs[0].result["curve"]["step"],
                    rewards.mean(axis=0).tolist(),
                    rewards.min(axis=0).tolist(),
                    rewards.max(axis=0).tolist(),
                )
            )
    return (
        Plot(
            name="joint_objective",
            title="world_facts: reward of drawn answers while training",
            x_label="steps",
            y_label="exact match of drawn answers",
            curves=tuple(curves),
            note="Training questions, with renamed entities and corrupted wordings; each point is one "
            "batch of 64 questions, four answers each. Mean of the seeds; the band reaches from their "
            "lowest to their highest.",
        ),
    )
