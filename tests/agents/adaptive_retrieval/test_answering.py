"""Which answer of the reader a policy's decisions give, with decisions at will."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ragjax.agents.adaptive_retrieval.answering import answer_question
from ragjax.agents.adaptive_retrieval.decisions import (
    ABSTAIN,
    ACTIONS,
    ANSWER,
    READ,
    REFORMULATE,
    RETRIEVE,
)
from ragjax.agents.adaptive_retrieval.reader import RetrievalTrace, TrainedReader
from ragjax.types import Env

LOG_PROB = np.log(np.array([[0.5, 0.25, 0.125]], np.float32))
TRACE = RetrievalTrace(
    **dict.fromkeys(field.name for field in dataclasses.fields(RetrievalTrace))
    | {"answer": np.arange(3)[None], "log_prob": LOG_PROB}
)
TOLD = ("from memory", "of the first passages", "of the second passages")


class Reads(TrainedReader):
    """Says which of its answers is given."""

    def __init__(self):
        pass

    def text(self, tokens):
        return TOLD[int(tokens)]

    def retrieval(self, trace, stage, text):
        return {"query": f"{text} {stage}"}


def answered(*actions):
    """What is shown of a question for which a policy decides so, one action after another."""
    left = list(actions)

    def act(observation):
        log_probs = np.log(np.full((1, len(ACTIONS)), 1 / len(ACTIONS)))
        return SimpleNamespace(mode=lambda: np.array([left.pop(0)]), log_probs=log_probs)

    def step(params, key, state, action):
        searches = int(action) in (RETRIEVE, REFORMULATE)
        return SimpleNamespace(stage=state.stage + searches), shown(not searches)

    def shown(done):
        return SimpleNamespace(observation=np.zeros(3), done=done)

    def reset(params, key):
        return SimpleNamespace(stage=0), shown(False)

    env = Env((), reset, step, len(ACTIONS), low=np.zeros(3), high=np.ones(3))
    return answer_question(env, act, Reads(), TRACE, "Who?", limit=5)


@pytest.mark.parametrize(
    ("actions", "stage"),
    [
        ((ANSWER,), 0),
        ((READ,), 0),  # before anything was retrieved there is nothing else to read
        ((RETRIEVE, ANSWER), 0),
        ((RETRIEVE, READ), 1),
        ((RETRIEVE, REFORMULATE, ANSWER), 0),
        ((RETRIEVE, REFORMULATE, READ), 2),
        ((ABSTAIN,), None),
        ((RETRIEVE, ABSTAIN), None),
    ],
)
def test_the_answer_is_that_of_what_was_read_last(actions, stage):
    told = answered(*actions)
    given = (None, None) if stage is None else (TOLD[stage], 0.5 ** (stage + 1))
    assert (told["answer"], told["probability"]) == given
    assert len(told["decisions"]) == len(actions)
