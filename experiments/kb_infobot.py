"""KB-InfoBot over two tables: what a policy sees, what it retrieves, and what it learns from."""

from pathlib import Path

from ragjax.evaluation.plots import Plot, learning_curves
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.tables import Claim, Column, Row, Table

CONFIGS = "configs/kb_infobot"
TABLES = {"countries": "249 countries", "made": "428 made rows"}
REWARD, LABELS = ("--algorithm.share", "0"), ("--algorithm.reward_coef", "0")

NOTES = """\
A user looks for a row of a table and knows half of its values; a fifth of the agent's cells is missing.
A request costs 0.1; a list of five rows ends the dialogue, with 2 for the row in the first place, 0.4 in
the fifth and -1 if it isn't there. The rules of the user follow KB-InfoBot (Dhingra et al. 2017), whose
movies can't be had: the order of its arms is compared, not its figures.

- `none`, `hard`, `soft`: PPO that sees the entropies of slots, the rows that match besides, or the
  entropies under the posterior over rows. All three name the rows of the hand-made posterior.
- `rows`: p(d\\|s) is that posterior times what is learned from embedded belief and rows. A request sums
  over rows, π(a\\|s) = Σ_d p(d\\|s) π(a\\|s,d); a list is drawn from p(d\\|s).
- Labelled turns are those of the rule in 1 of 16 dialogues: its request, or that it informed and which
  row was looked for. `labels` learns from these alone, `reward` from rewards alone, `joint` from both,
  each of the same number of turns.
- `words`: nothing is made by hand; the words of the user are the query, by the encoder of question
  answering, and rows are texts. Learned by rewards alone."""


def rows_of(name: str) -> tuple[Row, ...]:
    """The arms over one table."""
    words, joint = TABLES[name], f"{CONFIGS}/{name}_joint.py"
    return (
        Row(f"{words}: rule", f"{CONFIGS}/{name}_rule.py", (), f"{name}_rule"),
        *(
            Row(
                f"{words}: {sees}",
                f"{CONFIGS}/{name}_ppo.py",
                () if sees == "soft" else ("--env.sees", sees),
                f"{name}_{sees}",
            )
            for sees in ("none", "hard", "soft")
        ),
        Row(f"{words}: rows, labels", joint, LABELS, f"{name}_labels"),
        Row(f"{words}: rows, reward", joint, REWARD, f"{name}_reward"),
        Row(f"{words}: rows, joint", joint, (), f"{name}_joint"),
    )


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/kb_infobot.py --run` makes what is missing."""
    return Table(
        name="kb_infobot",
        title="KB-InfoBot: finding a row that a user half knows",
        notes=NOTES,
        caption="Likeliest decisions in 4,000 dialogues of each seed, with 245,760 turns to learn from. "
        "Success: the row is one of the five that are named.",
        rows=(
            *(row for name in TABLES for row in rows_of(name)),
            Row("249 countries: words, reward", f"{CONFIGS}/countries_words.py"),
        ),
        columns=(
            Column("reward", "greedy_return", scale=1, digits=3),
            Column("success", "greedy_success", scale=1, digits=3),
            Column("turns", "greedy_length", scale=1, digits=2),
            Column("reward, drawn", "sampled_return", scale=1, digits=3),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
        side_by_side=True,
        claims=(
            Claim("countries_words", "reward", above="countries_reward"),
            Claim("made_hard", "reward", above="made_none"),
            Claim("made_soft", "reward", above="made_hard"),
            Claim("countries_soft", "reward", above="countries_none"),
            *(
                Claim(f"{name}_joint", "reward", above=f"{name}_{arm}")
                for name in TABLES
                for arm in ("soft", "labels", "reward")
            ),
        ),
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves over the countries."""
    table = get_table()
    arms = ("none", "hard", "soft", "labels", "reward", "joint")
    runs = {
        arm: load_runs(table.results / table.name / f"countries_{arm}", table.seeds) for arm in arms
    }
    return (
        Plot(
            name="kb_infobot",
            title="KB-InfoBot over countries: mean reward while training",
            x_label="turns of users",
            y_label="reward, likeliest decisions",
            curves=learning_curves(runs, mode="greedy"),
            note="Interquartile mean of the seeds; the band reaches from their lowest to their highest. "
            "Each point plays 200 dialogues with fresh users.",
        ),
    )
