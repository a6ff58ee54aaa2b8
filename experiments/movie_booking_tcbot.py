"""Booking movie tickets over TC-Bot's own table and goals, beside what was published.

`TCBOT=DIR ragjax plot experiments/movie_booking_tcbot.py --run` measures, with DIR a folder that holds
TC-Bot's `movie_kb.1k.json` and its first-turn goals as `user_goals_part.json`. They are no part of this
project: only figures are recorded.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.envs.dialogue.movie_booking import FOLD, HELD_OUT
from ragjax.envs.dialogue.movie_booking_ceiling import meetable
from ragjax.envs.dialogue.movie_booking_files import read_showings
from ragjax.errors import require
from ragjax.evaluation.plots import Plot, read_figures, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.files import read_json_object
from ragjax.records import commit_text

SEEDS = 5
RUNS = Path("runs/movie_booking_tcbot")
ARMS = {
    "rule": ("rule agent", "fixed", ()),
    "ppo": ("PPO", "ppo", ()),
    "ppo_held_out": ("PPO, held out", "ppo", ("--env.users", "split")),
    "retrieval": ("PPO, retrieving rows", "retrieval", ()),
    "retrieval_held_out": (
        "PPO, retrieving rows, held out",
        "retrieval",
        ("--env.users", "split"),
    ),
    "rule_act_slot_.05": (
        "rule agent, 5 % of slots and acts mistaken",
        "fixed",
        ("--env.slot-error", "0.05", "--env.act-error", "0.05"),
    ),
    "rule_slot_.1": ("rule agent, 10 % of slots", "fixed", ("--env.slot-error", "0.1")),
    "rule_slot_.2": ("rule agent, 20 % of slots", "fixed", ("--env.slot-error", "0.2")),
}
FIGURES = ("greedy_success", "sampled_success", "greedy_return", "greedy_length")
ORIGINAL = {  # success measured with TC-Bot, 2,000 dialogues: mean and standard error
    "rule": (0.416, 0.011),
    "rule_act_slot_.05": (0.297, 0.010),
    "rule_slot_.1": (0.216, 0.009),
    "rule_slot_.2": (0.114, 0.007),
}
DQN = 0.914  # mean success of the last 50 of its 600 epochs of 100 dialogues, TC-Bot's record
NOTES = """\
The same configs as in the table before, over the table and the goals that TC-Bot was measured with. A
goal can be met at all if in some order of telling and asking there is an answer to each question and a
row is left; no policy is above the share of such goals. Users, rewards, what the agent informs and the
272 numbers that it sees are TC-Bot's own: driven by the same actions and choices, both say the same."""


def files() -> tuple[Path, Path]:
    """TC-Bot's table and goals.

    Raises:
      UserError: TCBOT doesn't name the folder that holds them.
    """
    folder = os.environ.get("TCBOT", "")
    require(bool(folder), "TCBOT is not set; set it to the folder of TC-Bot's movie_kb.1k.json.")
    found = Path(folder) / "movie_kb.1k.json", Path(folder) / "user_goals_part.json"
    for path in found:
        require(path.is_file(), f"TCBOT is {folder}, which holds no {path.name}; put it there.")
    return found


def made(arm: str) -> dict[str, Any]:
    """The figures of an arm's seeds, which are trained in one program if they haven't been before.

    And the git commit that they were made at.
    """
    table, goals = files()
    _, config, overrides = ARMS[arm]
    results = [RUNS / arm / f"seed_{seed}" / "result.json" for seed in range(SEEDS)]
    if not all(path.is_file() for path in results):
        words = ["train", f"configs/movie_booking/{config}.py", *overrides]
        words += ["--env.table", str(table), "--env.goals", str(goals)]
        words += ["--num-seeds", str(SEEDS), "--run-dir", str(RUNS / arm)]
        code = subprocess.run([sys.executable, "-m", "ragjax", *words], check=False).returncode
        require(
            code == 0, f"The run {RUNS / arm} ended with exit code {code}; mend it, start again."
        )
    found = [read_json_object(path, "train it again.") for path in results]
    figures = {name: [result[name] for result in found] for name in FIGURES}
    return figures | {name: found[0][name] for name in ("git_commit", "uncommitted")}


def measure() -> dict[str, Any]:
    """Figures of every arm and seed, and how many goals can be met.

    Arms that are recorded are kept as they are: delete an arm in `figures.json` to measure it again.
    """
    table, goals = files()
    met = np.array(meetable(read_showings(table, goals)))
    held_out = np.arange(len(met)) % FOLD == HELD_OUT
    results = results_of(Path(__file__))
    recorded = read_figures(results)["arms"] if results.is_dir() else {}
    return {
        "goals": [len(met), int(held_out.sum())],
        "meetable": [int(met.sum()), int(met[held_out].sum())],
        "arms": {arm: recorded.get(arm) or made(arm) for arm in ARMS},
    }


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = [
        "|  | success, greedy | success, sampled | return, greedy | exchanges | TC-Bot itself |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm, figures in numbers["arms"].items():
        cells = [ARMS[arm][0]]
        cells += [
            f"{np.mean(figures[name]):.{digits}f} ± {np.std(figures[name], ddof=1):.{digits}f}"
            for name, digits in zip(FIGURES, (3, 3, 1, 1), strict=True)
        ]
        known = ORIGINAL.get(arm)
        cells.append(f"{known[0]:.3f} ± {known[1]:.3f}" if known else "–")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"| DQN, published |  |  |  |  | {DQN} |")
    commits = sorted({commit_text(figures) for figures in numbers["arms"].values()})
    (all_, few), (met, met_few) = numbers["goals"], numbers["meetable"]
    lines += [
        "",
        f"Mean ± deviation of {SEEDS} seeds, 2,000 dialogues each. {met} of {all_} goals can be met, "
        f"{met / all_:.3f}; of those held out {met_few} of {few}, {met_few / few:.3f}. Policies learn "
        "from 450,000 exchanges, about 60,000 dialogues, as many as the published DQN. TC-Bot itself: "
        "success measured with it, 2,000 dialogues ± standard error; of DQN the mean of its last 50 "
        "epochs.",
    ]
    return MarkdownTable(
        title="Booking movie tickets over TC-Bot's table",
        body="\n".join(lines),
        source=f"Arms were recorded at git commit {', '.join(commits)} by `TCBOT=DIR ragjax plot "
        "experiments/movie_booking_tcbot.py --run`.",
        notes=NOTES,
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
