"""Episodes that a policy plays anew for a page, by its likeliest actions: each decision in full."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.errors import UserError
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.matching import exact_match
from ragjax.evaluation.play import policy_inputs
from ragjax.ops.distributions import JointCategorical, MarginalCategorical
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.report.blocks import Block, Decisions, Section, Words
from ragjax.report.questions import LETTERS
from ragjax.report.runs import Group
from ragjax.run_dir import CHECKPOINTS, Run, load_run
from ragjax.text import counted, shortened
from ragjax.types import Env, Question, Retrieved

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
    env = learner.env.on_split("test").vectorise(count)
    decide, step = _decider(run, env), jax.jit(env.step)
    key = jax.random.PRNGKey(run.config.seed)
    state, shown = env.reset(env.params, key)
    decisions: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    totals, lengths = np.zeros(count), np.zeros(count, int)
    going = np.ones(count, bool)
    for number in range(learner.config.env.limit):
        action, probabilities, passages = jax.device_get(decide(shown.observation))
        state, shown = step(env.params, jax.random.fold_in(key, number), state, action)
        reward, done = jax.device_get((shown.reward, shown.done))
        for place in np.flatnonzero(going).tolist() if number < STEPS else ():
            shares = enumerate(probabilities[place].tolist())
            decisions[place].append(
                {
                    "taken": _action(action[place]),
                    "actions": [(_action(other), share) for other, share in shares],
                    "facts": [f"reward {reward[place]:g}"],
                    "passages": _passages(passages, place),
                }
            )
        totals, lengths = totals + going * reward, lengths + going
        going &= ~done
        if not going.any():
            break
    return [
        _episode(place, totals[place], int(lengths[place]), decisions[place])
        for place in range(count)
    ]


def _decider(run: Run, env: Env) -> Callable[[Any], Any]:
    """Observation [E,O...] -> (action [E], probabilities [E,A], passages).

    Of the passages the rows, the prior and the posterior, [E,K] each; None if nothing is retrieved.
    """
    learner: Any = run.learner
    policy = learner.config.policy.build(env)
    inputs = policy_inputs(run.state, policy)

    def decide(observation):
        found = inputs(None, observation)
        distribution = policy.apply(run.state.params, found)[0]
        action = distribution.executed(distribution.mode())
        if isinstance(distribution, JointCategorical):  # whose choices are pairs with passages
            distribution = MarginalCategorical(distribution.log_prior, distribution.logits)
        passages = None
        if isinstance(distribution, MarginalCategorical) and isinstance(found, Retrieved):
            posterior = distribution.log_posterior(action)
            passages = found.ids, jnp.exp(distribution.log_prior), jnp.exp(posterior)
        return action, jnp.exp(distribution.log_probs), passages

    return jax.jit(decide)


def _episode(place: int, total: float, length: int, decisions: list[dict[str, Any]]) -> Episode:
    facts = [f"return {total:.6g}", counted(length, "step")]
    if length > STEPS:
        facts.append(f"the first {STEPS} steps are shown")
    label = f"episode {place + 1}"
    return {"label": label, "facts": facts, "right": None, "decisions": decisions}


def _action(number: Any) -> str:
    return f"action {int(number)}"


def _passages(passages: Any, place: int) -> list[tuple[str, str, float, float]]:
    """The passages of a decision, the likeliest first, by their rows in the environment."""
    if passages is None:
        return []
    ids, prior, posterior = (values[place] for values in passages)
    order = np.argsort(-posterior, kind="stable")
    return [
        (
            f"passage {ids[k]}" if ids[k] >= 0 else "the empty passage",
            "",
            float(prior[k]),
            float(posterior[k]),
        )
        for k in order
        if prior[k] > 0
    ]
