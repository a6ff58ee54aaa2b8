"""Episodes that a policy plays anew for a page, by its likeliest actions: each decision in full."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.errors import UserError
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.matching import exact_match
from ragjax.evaluation.replay import Decision, Describer, replay
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.report.blocks import Block, Decisions, Section, Words
from ragjax.report.questions import LETTERS
from ragjax.report.runs import Group
from ragjax.run_dir import CHECKPOINTS, Run, load_run
from ragjax.text import counted, shortened
from ragjax.types import Question

STEPS = 60  # of an episode that are shown

Episode = dict[str, Any]


def decisions_section(groups: Sequence[Group], count: int, console: PlainConsole) -> Section:
    """Episodes of the first run of each group of policies.

    Args:
      groups: of runs.
      count: episodes of each.
      console: told which run plays.
    """
    blocks: list[Block] = []
    for group in groups:
        played = [run for run in group.runs if isinstance(run.outcomes, Episodes)]
        if not played or count == 0:
            continue
        first = played[0]
        if not (first.directory / CHECKPOINTS).is_dir():
            said = (
                f"{first.directory} has no checkpoints, so that its policy plays no episode here."
            )
            blocks.append(Words([said], note=True))
            continue
        console.print(f"playing {counted(count, 'episode')} of {first.directory}")
        blocks += _played_blocks(group.label, first.directory, count)
    return Section("Decisions", blocks)


def _played_blocks(label: str, directory: Path, count: int) -> list[Block]:
    try:
        run = load_run(directory)
        episodes = play(run, count)
    except UserError as error:
        return [Words([f"The policy of {directory} can't play here: {error}"], note=True)]
    said = (
        f"**{label}**: {counted(len(episodes), 'episode')} that {directory} played for this page by its "
        "likeliest actions."
    )
    blocks: list[Block] = [Words([said]), Decisions(episodes)]
    return [*blocks, Words(run.changes, note=True)] if run.changes else blocks


@single_precision
def play(run: Run, count: int) -> list[Episode]:
    """Lets a run's policy play.

    Args:
      run: of a policy.
      count: episodes; of a policy that is asked questions, as many of its test questions, at equal
        distances in the order of their relations.

    Raises:
      UserError: its environment can't play.
    """
    learner: Any = run.learner
    asked = learner.env.asks()
    if asked is None:
        with learner.guard():
            return _steps(run, count)
    questions = sorted(asked[1].splits["test"], key=lambda question: question.relation)
    count = min(count, len(questions))
    chosen = [questions[place * len(questions) // count] for place in range(count)]
    return [_answered(run, question) for question in chosen]


def _answered(run: Run, question: Question) -> Episode:
    """One question, decision by decision."""
    answer = run.answer(question.question)
    said = answer["answer"]
    facts = [f"gold: {' or '.join(question.answers)}", f"kind: {question.relation}"]
    if said is None:
        facts.insert(0, "no answer")
    else:
        facts.insert(0, f"answer: {said} (probability {answer['probability']:.3f})")
    decisions = [
        {
            "taken": decision["action"],
            "actions": [(decision["action"], decision["probability"])],
            "facts": [f"searched for: {decision['query']}"] if decision.get("query") else [],
            "passages": [
                (passage["title"], shortened(passage["text"], LETTERS), passage["prior"], None)
                for passage in decision.get("passages", ())
            ],
        }
        for decision in answer["decisions"]
    ]
    right = None if said is None else bool(exact_match(said, question.answers))
    return {
        "label": question.question,
        "facts": [*facts, *answer["notes"]],
        "right": right,
        "decisions": decisions,
    }


def _steps(run: Run, count: int) -> list[Episode]:
    """Whole episodes side by side, of which the first steps are kept."""
    learner: Any = run.learner
    spec = learner.env.on_split("test")
    env = spec.vectorise(count)
    describer, key = Describer(spec, env), jax.random.PRNGKey(run.config.seed)
    decisions: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    totals, lengths = np.zeros(count), np.zeros(count, int)
    going = np.ones(count, bool)
    for number, step in enumerate(
        replay(run.state, learner.config.policy, env, key, learner.config.env.limit)
    ):
        reward = step.timestep.reward
        for place in np.flatnonzero(going).tolist() if number < STEPS else ():
            decisions[place].append(_told(describer.decision(step, place), float(reward[place])))
        totals, lengths = totals + going * reward, lengths + going
        going &= ~step.timestep.done
        if not going.any():
            break
    return [
        _episode(place, totals[place], int(lengths[place]), decisions[place])
        for place in range(count)
    ]


def _told(decision: Decision, reward: float) -> dict[str, Any]:
    """A decision as the page's scripts know it; its passages by what the action says of them."""
    passages = sorted(decision.passages, key=lambda passage: -(passage.posterior or 0.0))
    return {
        "taken": decision.taken,
        "actions": decision.actions,
        "facts": [f"reward {reward:g}"],
        "passages": [
            (each.title, shortened(each.text, LETTERS), each.prior, each.posterior)
            for each in passages
        ],
    }


def _episode(place: int, total: float, length: int, decisions: list[dict[str, Any]]) -> Episode:
    facts = [f"return {total:.6g}", counted(length, "step")]
    if length > STEPS:
        facts.append(f"the first {STEPS} steps are shown")
    label = f"episode {place + 1}"
    return {"label": label, "facts": facts, "right": None, "decisions": decisions}
