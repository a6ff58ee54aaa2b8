"""Runs of few labels: what they refuse, what they tell, and that they go on and run side by side."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_config import get_config

from ragjax.config import write_config
from ragjax.data import stream
from ragjax.data.labels import Labels
from ragjax.errors import UserError
from ragjax.files import write_json
from ragjax.learners.questions import Phase
from ragjax.learners.start import require_start
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.contrastive import Contrastive
from ragjax.objectives.distillation import Replug
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, RagToken
from ragjax.retrieval.fixed import Oracle
from ragjax.training.program import first_state, state_of_seed, training_program

LABELS = Labels(share=0.2, seed=5)
PHASES = (Phase(steps=2, batch_size=4, k=2, labelled=2), Phase(steps=2, batch_size=4, k=2))
REWARD = AnswerReward(samples=2)


def configured(**fields):
    fields = {"labels": LABELS, "phases": PHASES, "objective": Joint(reward=REWARD)} | fields
    return dataclasses.replace(get_config(), **fields)


@pytest.fixture(scope="module")
def learner():
    return configured().create()


def advanced(learner, seeds, state, steps):
    """(state, [steps] losses) of the program that the commands run."""
    program, losses = training_program(learner, seeds, learner.config), []
    for number in steps:
        state, row = program.advance(jax.tree.map(np.array, state), number)
        losses.append(np.asarray(row["loss"]))
    return state, losses


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits_and_seeds_run_side_by_side(learner):
    """Each seed with labels of its own."""
    whole, losses = advanced(learner, (1,), first_state(learner, (1,)), range(4))
    half, _ = advanced(learner, (1,), first_state(learner, (1,)), range(3))
    again = configured().create()
    again.compiled.update(learner.compiled)
    resumed, last = advanced(again, (1,), half, [3])
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert last == losses[3:]
    both, together = advanced(learner, (0, 1), first_state(learner, (0, 1)), range(4))
    np.testing.assert_allclose([of[1] for of in together], losses, rtol=1e-3)
    leaves = jax.tree.leaves(state_of_seed(both, 1).params), jax.tree.leaves(whole.params)
    for found, expected in zip(*leaves, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_all_arms_of_a_seed_have_the_same_labels(learner, monkeypatch):
    """Whatever they learn, and wherever their questions live."""
    arms = [
        configured(objective=RagToken(), phases=PHASES),
        configured(objective=Joint(likelihood_weight=0.0, reward=REWARD)),
    ]
    questions = learner.data["questions"][0].question  # on the device
    monkeypatch.setattr(stream, "ON_DEVICE", 0)
    for arm in (config.create() for config in arms):
        for step in range(4):
            rows, batch = learner.feed(2, step), arm.feed(2, step)
            np.testing.assert_array_equal(rows.label_weight, batch.label_weight)
            np.testing.assert_array_equal(questions[rows.rows], batch.question)
    assert not np.array_equal(learner.feed(2, 0).rows, learner.feed(3, 0).rows)


def test_the_labels_are_counted(learner):
    said = "labelled 12 of 60 train questions; the others tell whether a given answer is right"
    assert said in learner.notes()
    state = first_state(learner, (0,))
    assert learner.facts(state, [], 0)["labelled"] == 12
    complete = configured(labels=Labels(), phases=(Phase(steps=2),)).create()
    assert not any("labelled" in note for note in complete.notes())
    assert "labelled" not in complete.facts(state, [], 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": Replug()}, "objective Replug, as it is set, learns"),
        ({"objective": Contrastive()}, "objective Contrastive, as it is set, learns"),
        ({"objective": RagSequence(from_memory=True)}, "objective RagSequence, as it is set"),
        ({"objective": RagSequence(), "retriever": Oracle()}, "Oracle retrieves gold passages"),
        ({"phases": (Phase(steps=2, candidates=Oracle()),)}, "Oracle retrieves gold passages"),
    ],
)
def test_what_would_learn_from_hidden_answers_is_refused(fields, message):
    objective = RagSequence()
    with pytest.raises(UserError, match=rf"^labels.share is 0.2, but .*{message}"):
        configured(**{"objective": objective} | fields)


def test_labelled_questions_of_a_batch_are_for_few_labels():
    with pytest.raises(UserError, match=r"^phases.0.labelled is 2, but labels.share is 1.0, so"):
        configured(labels=Labels())


def test_a_start_that_knows_more_labels_is_refused(tmp_path):
    def begins_with(labels, seed=0):
        """Whether a run may begin with a finished one of these labels and seed."""
        write_config(tmp_path / "config.json", configured(labels=labels, phases=(Phase(steps=2),)))
        write_json(tmp_path / "result.json", {"seed": seed})
        require_start(configured(start=str(tmp_path)), 0)

    begins_with(LABELS)
    begins_with(Labels(0.1, 5))
    for labels, seed in ((Labels(), 0), (Labels(0.3, 5), 0), (Labels(0.2, 6), 0), (LABELS, 1)):
        with pytest.raises(
            UserError, match=r"learned from labels that labels.share 0.2 leaves out"
        ):
            begins_with(labels, seed)
    write_config(tmp_path / "config.json", configured())
    require_start(configured(labels=Labels(), start=str(tmp_path), phases=(Phase(steps=2),)), 0)
