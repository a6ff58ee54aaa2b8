"""Interest evolution: what is shown, retrieved and remembered, beside fixed policies and SlateQ."""

from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Reference, Row, Table

CONFIGS = "configs/recommendation"
FIXED = {
    "random": "random",
    "affinity": "greedy by affinity",
    "affinity_quality": "affinity x quality",
    "quality": "oracle: quality",
}
LEARNED = {
    "ppo": "PPO, slates of 10 candidates",
    "reinforce": "REINFORCE, exact gradient of the slate",
    "top_k_reinforce": "REINFORCE with top-K correction",
    "retrieval": "PPO, retrieving from 10,000 items",
    "memory": "dealt anew: PPO, memory of responses",
    "no_memory": "dealt anew: PPO, no memory",
}
NOTES = """\
The environment SlateQ was measured in: a user's interests drift with what is watched, and documents of
good quality give time back. The return is the time that is watched. Quality can't be seen.

- A slate is an action without replacement (Plackett-Luce): its log-probability, entropy and divergence
  are exact in every term, and candidates that are not shown are summed over.
- `top-K correction`: the approximation of Chen et al. 2019, which takes the clicked item of a slate for
  one of independent draws. The plain one beside it, like all other rows, takes the slate's own gradient.
- `retrieving`: the candidates are not offered but found, by query and embedding among 10,000 items that
  stay the same. While it draws, ten more are drawn evenly from all items.
- `dealt anew`: each episode deals the qualities of topics out among them, so that only this episode's
  responses tell them. A memory of 48 responses grows inside the episode; for each candidate the three
  most alike are recalled and summed over, z = log Σ_m p(m\\|c) exp f(s, c, m). That it begins with the
  responses of 16 earlier users makes no difference that is beyond chance. After 16 slates it holds the
  user's own alone."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/recommendation.py --run` makes what is missing."""
    fixed = (
        Row(label, f"{CONFIGS}/fixed.py", () if name == "random" else ("--policy.by", name), name)
        for name, label in FIXED.items()
    )
    slate_q = (
        Row(
            f"SlateQ, {rule} slates",
            f"{CONFIGS}/slate_q.py",
            () if rule == "optimal" else ("--policy.rule", rule),
            f"slate_q_{rule}",
        )
        for rule in ("top", "greedy", "optimal")
    )
    learned = (Row(label, f"{CONFIGS}/{name}.py") for name, label in LEARNED.items())
    earlier = Row(
        "dealt anew: PPO, memory that begins with 16 earlier users",
        f"{CONFIGS}/memory.py",
        ("--env.earlier", "48"),
        "earlier",
    )
    return Table(
        name="recommendation",
        title="Interest evolution: time watched until the user's time is spent",
        notes=NOTES,
        caption="Slates of 3, `exact` rows of 10 candidates as in RecSim 0.2.4, one row of a corpus. "
        "Clicks and mean quality of what is shown are of a step. pass^4: all of four users watch at "
        "least as long as they had time for.",
        rows=(*fixed, *slate_q, *learned, earlier),
        columns=(
            Column("return, greedy", "greedy_return", scale=1, digits=1),
            Column("return, sampled", "sampled_return", scale=1, digits=1),
            Column("clicks", "greedy_click_rate", scale=1, digits=2),
            Column("quality shown", "greedy_shown_quality", scale=1, digits=2),
            Column("pass^1", "greedy_success", scale=1, digits=2),
            Column("pass^4", "greedy_pass^4", scale=1, digits=2),
        ),
        references=(
            Reference(
                "RecSim itself: random / affinity / affinity x quality / oracle",
                "measured with RecSim 0.2.4, 1,000 episodes each",
                {"return, greedy": "159.7 / 167.5 / 214.3 / 264.4"},
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
        claims=(
            Claim("slate_q_optimal", "return, greedy", 162.0, "RLlib's stop of its SlateQ example"),
            Claim("memory", "return, greedy", "no_memory"),
            Claim("top_k_reinforce", "return, greedy", "reinforce"),
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves of the learned rows."""
    table = get_table()
    runs = {
        label: load_runs(table.results / table.name / name, table.seeds)
        for name, label in LEARNED.items()
    }
    runs["SlateQ, optimal slates"] = load_runs(
        table.results / table.name / "slate_q_optimal", table.seeds
    )
    return (
        Plot(
            name="returns",
            title="Interest evolution: mean return while training",
            x_label="steps of environments",
            y_label="time watched, likeliest slates",
            curves=learning_curves(runs, mode="greedy"),
            note="Interquartile mean of the seeds; the band reaches from their lowest to their highest. "
            "Each point plays 40 episodes in fresh environments.",
        ),
    )
