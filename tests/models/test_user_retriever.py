"""A user's encoder and index in a config: trained, measured and asked, with nothing else changed."""

import dataclasses
import json

import jax
import numpy as np
import tiny_config
from user_retriever import Plain, Sparse

from ragjax.config import config_json, from_json, to_json
from ragjax.models.retriever import Dense
from ragjax.overrides import override
from ragjax.training.program import first_state, training_program


def config_of():
    """The tiny run with their parts, over the passages retrieved: the index ages and is searched."""
    config = tiny_config.get_config()
    retriever = Dense(Plain(), Plain(), refresh_every=3, index=Sparse(0.3))
    objective = dataclasses.replace(config.objective, documents="retrieved")
    return dataclasses.replace(config, retriever=retriever, objective=objective)


def test_it_goes_to_json_and_back():
    config = config_of()
    kept = json.loads(json.dumps(config_json(config)))
    modules = kept.pop("modules")
    assert "user_retriever" in modules
    assert from_json(kept, modules) == config
    assert to_json(config)["retriever"]["index"] == {"type": "user_retriever.Sparse", "least": 0.3}


def test_its_fields_can_be_overridden():
    changed = override(
        config_of(), ["--retriever.index.least", "0.1", "--retriever.encoder.width=8"]
    )
    assert changed.retriever.index == Sparse(0.1)
    assert changed.retriever.encoder == Plain(8)
    assert changed.retriever.query_encoder == Plain()


def test_a_run_with_it():
    config = config_of()
    learner = config.create()
    state = first_state(learner, [0])
    assert set(state.index.embeddings) == {"left", "right"}
    program = training_program(learner, [0], config)
    ages = []
    for step in range(5):
        state, metrics = program.advance(state, step)
        assert np.isfinite(metrics["loss"])
        ages.append(int(metrics["index_age"]))
    assert ages == [0, 1, 2, 0, 1]
    figures = program.evaluate(state, 5)
    assert all(np.isfinite(value) for value in figures.values())
    answer = learner.answer(learner.finish(state), "Where is Ada?")
    assert all(np.isfinite(passage["prior"]) for passage in answer["passages"])
    assert len(answer["passages"]) < config.evaluation.k  # the others score too little
    assert jax.tree.leaves(state.params["retriever"]["stored"])[0].shape[-1] == 6
