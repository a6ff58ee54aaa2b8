"""RecoGym with 1,000 products: clicks of a policy that retrieves, beside fixed policies and LinUCB.

`ragjax plot experiments/recogym.py --run` plays LinUCB; then
`ragjax table experiments/recogym.py --run` trains the policies.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.config import load_config
from ragjax.envs.recommendation.linucb import LinUCB
from ragjax.evaluation.plots import Plot, learning_curves, read_figures, recorded_by, results_of
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import Claim, Column, Row, Table

CONFIGS = "configs/recommendation"
FIXED = {
    "random": "random",
    "popularity": "most popular",
    "viewed": "viewed most by the user",
    "affinity": "oracle: taste",
}
LEARNED = {
    "recogym": "PPO, one embedding of each product",
    "recogym_joint": "PPO, and the likelihood of what is viewed next",
}
BANDIT, BANDIT_ENVS = LinUCB(width=16), 128
SEEDS = (0, 1, 2, 3, 4)
PARTS = 5  # of LinUCB's steps, of which the last is looked at
CLICKS = "clicks, % of shown"
NOTES = """\
A user's views of a shop are seen, then one product of 1,000 is shown, again and again, and is clicked or
not. The best product is a maximum inner product of the user's taste, which is not seen, and of the
products, which are not either: a policy has to learn embeddings of them.

- Products appeal to everybody with deviation 1 in place of RecoGym's 3, so that taste decides.
- `one embedding`: the query is the mean embedding of the products last viewed, and the same embeddings
  are searched. Untrained, it shows what the user viewed most, which is better than what all users view
  most. That is what its figure comes of: clicks added nothing to it in these steps (second column), for
  the few hundredths of shown products that are clicked tell little of 1,000 embeddings.
- `what is viewed next`: the products that a user views of its own accord are labels, which the retriever
  learns by likelihood beside the reward of clicks. That is above what the user viewed most, from a third
  of the steps; those that it draws are clicked less. It differs from `one embedding` in its rate, its
  scale, its epochs and how many products it tells apart, too, so that its lead over that row is not the
  likelihood's alone.
- `LinUCB` learns while it shows, from as many steps as the policies. Its figure is the share of what it
  showed in the last fifth of them that was clicked, users who stay longer counting for more."""


def bandit_clicks(seed: int) -> np.ndarray:
    """Clicks [T,E] of LinUCB in the last fifth of as many steps as the policies are trained."""
    config: Any = load_config(Path(f"{CONFIGS}/recogym.py"))
    steps = config.env_steps // BANDIT_ENVS
    played = BANDIT.play(config.env, jax.random.PRNGKey(seed), BANDIT_ENVS, steps)
    return np.asarray(played["reward"])[-(steps // PARTS) :]


def measure() -> dict[str, Any]:
    """LinUCB's clicks, a number a user for each seed."""
    return {"seeds": list(SEEDS), "clicks": [bandit_clicks(n).mean(axis=0).tolist() for n in SEEDS]}


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/recogym.py --run` makes what is missing."""
    numbers = read_figures(results_of(Path(__file__)))
    clicks = [100 * np.array(users) for users in numbers["clicks"]]
    bandit = bootstrap_interval(clicks, paired=False)
    recorded = recorded_by(numbers, "ragjax plot experiments/recogym.py --run")
    oracle = ("--env.reveal", "True")
    fixed = (
        Row(
            label,
            f"{CONFIGS}/recogym_fixed.py",
            () if name == "random" else ("--policy.by", name, *(oracle * (name == "affinity"))),
            name,
        )
        for name, label in FIXED.items()
    )
    return Table(
        name="recogym",
        title="RecoGym: clicks on one product shown of 1,000",
        notes=NOTES,
        caption="Clicks: mean over users of the probability that what they are shown is clicked, of the "
        "likeliest product or of one that the policy draws. Clicks a user: their number until the user "
        f"is gone. LinUCB, {BANDIT.width} random projections of views: {bandit.mean:.2f} ± "
        f"{bandit.half_width:.2f} % clicks. {recorded}",
        rows=(*fixed, *(Row(label, f"{CONFIGS}/{name}.py") for name, label in LEARNED.items())),
        columns=(
            Column(CLICKS, "greedy_click_chance", digits=2),
            Column("less `viewed most`", "greedy_click_chance", digits=2, against="viewed"),
            Column("drawn, %", "sampled_click_chance", digits=2),
            Column("best product, %", "greedy_best_chance", digits=2),
            Column("clicks a user", "greedy_return", scale=1, digits=2),
        ),
        seeds=SEEDS,
        results=Path(__file__).parent / "results",
        side_by_side=True,
        claims=(
            Claim("recogym", CLICKS, "popularity"),
            Claim("recogym", CLICKS, round(bandit.high, 2), "the upper end of LinUCB's interval"),
            Claim("recogym_joint", CLICKS, "viewed"),
            Claim("recogym_joint", CLICKS, "recogym"),
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """The learning curves of the policies."""
    table = get_table()
    runs = {
        label: load_runs(table.results / table.name / name, table.seeds)
        for name, label in LEARNED.items()
    }
    return (
        Plot(
            name="clicks",
            title="RecoGym: clicks a user while training",
            x_label="steps of environments",
            y_label="clicks until the user is gone, likeliest products",
            curves=learning_curves(runs, mode="greedy"),
            note="Interquartile mean of the seeds; the band reaches from their lowest to their highest. "
            "Each point plays 40 episodes in fresh environments.",
        ),
    )
