"""One question, answered by the likeliest decisions of a policy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.agents.adaptive_retrieval.decisions import (
    ACTIONS,
    ANSWER,
    READ,
    REFORMULATE,
    RETRIEVE,
)
from ragjax.agents.adaptive_retrieval.reader import MEMORY, RetrievalTrace, TrainedReader
from ragjax.types import Env


def answer_question(
    env: Env,
    act: Callable[[Array], Any],
    reader: TrainedReader,
    trace: RetrievalTrace,
    text: str,
    *,
    limit: int,
) -> dict[str, Any]:
    """Decides until the question is answered.

    Args:
      env: the `decision_process` of this question alone.
      act: observation [E,O] -> action distribution.
      reader: the reader that was asked.
      trace: what it retrieves and answers, of this question alone.
      text: the question.
      limit: decisions at most.

    Returns:
      {"question", "answer" (None if it abstains), "probability" of the reader's answer, "decisions":
      [{"action", "probability", "query", "passages": [{"id", "title", "text", "prior"}]}]}, query and
      passages being those of a retrieval.
    """
    key = jax.random.PRNGKey(0)  # nothing is drawn
    state, shown = env.reset(env.params, key)
    decisions: list[dict[str, Any]] = []
    answered = None  # the stage whose answer is given
    for _ in range(limit):
        distribution = act(shown.observation[None])
        action, stage = int(distribution.mode()[0]), int(state.stage)
        probabilities = np.exp(distribution.log_probs[0])
        if stage == MEMORY:
            # Before anything was retrieved, two actions each do the same as another one.
            probabilities[RETRIEVE] += probabilities[REFORMULATE]
            probabilities[ANSWER] += probabilities[READ]
            action = {REFORMULATE: RETRIEVE, READ: ANSWER}.get(action, action)
        state, shown = env.step(env.params, key, state, jnp.int32(action))
        decision = {"action": ACTIONS[action], "probability": float(probabilities[action])}
        if action in (RETRIEVE, REFORMULATE):
            decision |= reader.retrieval(trace, int(state.stage), text)
        decisions.append(decision)
        if shown.done:
            answered = {ANSWER: MEMORY, READ: stage}.get(action)
            break
    given = answered is not None
    return {
        "question": text,
        "answer": reader.text(trace.answer[0, answered]) if given else None,
        "probability": float(np.exp(trace.log_prob[0, answered])) if given else None,
        "decisions": decisions,
    }
