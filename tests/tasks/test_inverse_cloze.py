"""Sentences of passages as questions, and a run that starts from one on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
import wiring
from prose_task import ProseTask
from tiny_task import CachedTask, TinyTask

from ragjax.config import read_json
from ragjax.data.prepared import PreparedText
from ragjax.errors import UserError
from ragjax.learners.questions import Evaluation, Phase
from ragjax.models.retriever import Dense
from ragjax.objectives.contrastive import Contrastive
from ragjax.objectives.likelihood import RagSequence
from ragjax.ops.augmentation import without_span
from ragjax.retrieval.bm25 import BM25
from ragjax.tasks.inverse_cloze import InverseCloze, split_sentences
from ragjax.training.program import starting_state

SPEC = dataclasses.replace(tiny_config.get_config().tokenizer, passage_length=40)


@pytest.fixture(scope="module")
def data():
    return InverseCloze(ProseTask(), sentences=2, min_length=10).load()


def test_each_question_is_a_sentence_of_its_passage(data):
    texts = {passage.id: passage for passage in data.passages}
    for question in data.splits["train"]:
        (gold,) = question.positives
        assert question.question in split_sentences(texts[gold].text)
        assert question.answers == (texts[gold].title,)
    # Two sentences of each passage are its own; the last passage has no other sentence.
    assert len(data.splits["train"]) == 2 * 29
    assert len({question.id for question in data.splits["train"]}) == 58
    assert {question.positives[0] for question in data.splits["train"]} == {
        f"p{i}" for i in range(29)
    }


def test_the_rest_is_the_other_task_s(data):
    other = ProseTask().load()
    assert data.passages == other.passages
    assert {split: data.splits[split] for split in ("dev", "test")} == {
        split: other.splits[split] for split in ("dev", "test")
    }
    assert data.notes == (
        "made up",
        "1 of 30 passages have no sentence to ask for",
        "58 sentences stand in several places and are not asked for",
    )


@dataclasses.dataclass(frozen=True)
class SongTask(ProseTask):
    """`ProseTask` whose first passage says one sentence twice."""

    name = "song"

    def generate(self):
        first, *rest = (data := super().generate()).passages
        refrain = dataclasses.replace(
            first, text=f"All is well here. {first.text} All is well here."
        )
        return dataclasses.replace(data, passages=(refrain, *rest))


def test_a_sentence_that_its_passage_repeats_is_not_asked():
    """In the passage without it, it would still stand."""
    song = InverseCloze(SongTask(), sentences=9, min_length=10).load()
    plain = InverseCloze(ProseTask(), sentences=9, min_length=10).load()
    assert song.splits["train"] == plain.splits["train"]
    assert song.notes[-1].startswith("60 sentences stand in several places")


def test_the_draw_is_the_seed_s():
    one, same, other = (
        InverseCloze(ProseTask(), min_length=10, seed=seed).load().splits["train"]
        for seed in (0, 0, 1)
    )
    assert one == same
    assert len(one) == len(other) == 29
    different = sum(a.question != b.question for a, b in zip(one, other, strict=True))
    assert 5 < different < 25
    assert [a.positives for a in one] == [b.positives for b in other]


def test_short_sentences_and_lone_ones_are_refused():
    with pytest.raises(UserError, match=r"Task tiny has no passage of two sentences or more"):
        InverseCloze(TinyTask()).load()
    with pytest.raises(UserError, match=r"task\.min_length 900 characters long"):
        InverseCloze(ProseTask(), min_length=900).load()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sentences": 0}, "task.sentences is 0; it must be at least 1"),
        ({"min_length": 0}, "task.min_length is 0; it must be at least 1"),
        ({"seed": -1}, "task.seed is -1; it must not be negative"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(UserError, match=message):
        InverseCloze(ProseTask(), **fields)


def test_the_fingerprint_is_of_both_tasks():
    prints = {
        InverseCloze(task, seed=seed).fingerprint()
        for task in (ProseTask(), CachedTask())
        for seed in (0, 1)
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "One is here. Two is there! Is three? 4 is.",
            ["One is here.", "Two is there!", "Is three?", "4 is."],
        ),
        ("No end", ["No end"]),
        ("It is 3.5 km long, i.e. short.", ["It is 3.5 km long, i.e. short."]),
        ("東京です。大阪です。", ["東京です。", "大阪です。"]),
        ("  ", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_a_question_s_tokens_stand_in_its_passage(data):
    """So that they can be taken out: the same words, the same tokens."""
    text = PreparedText.make(SPEC, ProseTask().load())
    encoded = text.encode(data.splits["train"], Dense(), 1).arrays
    whole = np.asarray(encoded.question)[:, -1] == 0  # others are cut
    passages = text.corpus.tokens[encoded.positives[:, 0]]
    rest, found = without_span(jnp.asarray(passages), jnp.asarray(encoded.question))
    assert np.all(np.asarray(found))
    assert whole.sum() > 20
    for row in np.flatnonzero(whole):
        kept = text.tokenizer.decode(np.asarray(rest)[row])
        assert data.splits["train"][row].question not in kept
        assert "Nobody here is rich or poor." in kept


def config(task, **fields):
    return dataclasses.replace(
        tiny_config.get_config(),
        **{
            "task": task,
            "tokenizer": SPEC,
            "retriever": Dense(tiny_config.get_config().retriever.encoder),
        },
        **fields,
    )


@pytest.mark.slow
def test_a_run_on_the_task_starts_from_one_on_its_passages(tmp_path):
    warm = config(
        InverseCloze(ProseTask(), min_length=10),
        objective=Contrastive(remove_question=0.9),
        evaluation=Evaluation(k=2, batch_size=12, every=0),
        phases=(Phase(steps=2, batch_size=6, k=3, candidates=BM25()),),
    )
    wiring.train(warm, tmp_path / "warm")
    assert read_json(tmp_path / "warm" / "config.json") == warm
    removed = wiring.column(tmp_path / "warm", "removed")
    assert 0.5 < np.mean(removed) <= 1.0
    after = config(ProseTask(), objective=RagSequence(), start=str(tmp_path / "warm"))
    state = starting_state(after.create(), after.seeds)
    learned = wiring.left(tmp_path / "warm").average["retriever"]
    jax.tree.map(np.testing.assert_array_equal, state.params["retriever"], learned)
    with pytest.raises(UserError, match=r"that run differs in task"):
        config(TinyTask(), start=str(tmp_path / "warm")).create()
