"""The same runs on one device and on eight simulated ones; prints what came of them as JSON.

XLA_FLAGS="--xla_force_host_platform_device_count=8 ..." python on_devices.py NAME
"""

import atexit
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny_config
import tiny_policy_config
from tiny_pretrained import write_pretrained
from tiny_reader import write_reader

from ragjax.learners.questions import Phase
from ragjax.mesh import DeviceMesh
from ragjax.models.encoder import BagEncoder
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval import blocks
from ragjax.retrieval.blocks import ShardedRows
from ragjax.retrieval.exact import Exact
from ragjax.training import placement
from ragjax.training.placement import Placement
from ragjax.training.program import starting_state, training_program

STEPS = 50


def questions(parameters, accumulate, compute="float32"):
    config = tiny_config.get_config()
    return dataclasses.replace(
        config,
        retriever=Dense(encoder=BagEncoder(width=16), refresh_every=7),
        objective=RagSequence(rename_reader=0.5, rename_retriever=0.5, corrupt_words=0.2),
        optimizer=dataclasses.replace(config.optimizer, accumulate=accumulate),
        phases=(Phase(steps=STEPS, batch_size=16, k=3),),
        compute=compute,
        mesh=DeviceMesh(8, parameters),
    )


def rematerialised(parameters, accumulate):
    """Retriever and reader of pretrained weights, whose layers are computed twice."""
    root, config = Path(tempfile.mkdtemp()), questions(parameters, accumulate)
    atexit.register(shutil.rmtree, root)
    encoder = write_pretrained(root / "encoder", hidden_size=16)
    reader = write_reader(root / "reader", "llama")
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(
            config.tokenizer, question_length=24, passage_length=18, answer_length=8
        ),
        retriever=dataclasses.replace(
            config.retriever,
            encoder=PretrainedEncoder(
                str(encoder), question_length=24, passage_length=28, remat=True
            ),
        ),
        reader=PretrainedReader(str(reader), remat=True),
        objective=RagSequence(),
    )


def policy(parameters):
    config = tiny_policy_config.get_config()
    algorithm = dataclasses.replace(config.algorithm, num_envs=8)
    return dataclasses.replace(
        config,
        algorithm=algorithm,
        env_steps=STEPS * algorithm.batch_size,
        mesh=DeviceMesh(8, parameters),
    )


CONFIGS = {
    "rag": lambda: questions("replicated", 1),
    "rag_sharded": lambda: questions("sharded", 2),
    "rag_bfloat16": lambda: questions("sharded", 2, "bfloat16"),
    "remat": lambda: rematerialised("replicated", 1),
    "remat_sharded": lambda: rematerialised("sharded", 2),
    "ppo": lambda: policy("replicated"),
    "ppo_sharded": lambda: policy("sharded"),
}


def trained(learner, config, mesh):
    """(losses, the last state on its devices, it as a plain one, compilations of its step)."""
    program = training_program(learner, [0], config, None, mesh)
    state, losses = program.place(starting_state(learner, [0])), []
    for step in range(STEPS):
        state, metrics = program.advance(state, step)
        losses.append(float(np.asarray(metrics["loss"])))
    (compiled,) = [of for kind, of in learner.compiled.items() if kind[0] in learner.stages]
    return losses, state, program.gather(state), compiled._cache_size()


def found(index, query):
    return np.asarray(
        jax.jit(lambda index, query: Exact().search(index, query, 5).ids)(index, query)
    )


def report(name):
    # So that 30 passages and 16 numbers count as many.
    blocks.BLOCK, blocks.GROUP, placement.LARGE = 8, 4, 16
    config, again_computed, remat = CONFIGS[name](), [], nn.remat
    nn.remat = lambda layer: again_computed.append(layer) or remat(layer)
    one, _, plain, _ = trained(config.create(), config, None)
    learner, mesh = config.create(), config.mesh.build()
    many, state, gathered, compilations = trained(learner, config, mesh)
    place = Placement(config.mesh, mesh, learner)
    again = place.gather(place.place(plain))
    params = jax.tree.leaves(state.params)
    told = {
        "one": one,
        "many": many,
        "layers_computed_again": len(again_computed),
        "compilations": compilations,
        "same_shapes": jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, gathered),
        "parts": [leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in params],
        # What one device saves, eight go on with, and the reverse.
        "back_and_forth": all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True)
        ),
    }
    if name.startswith(("rag", "remat")):
        rows = state.index.embeddings
        query = jax.random.normal(jax.random.PRNGKey(0), (16, 16))
        told["rows_of_each"] = rows.rows.sharding.shard_shape(rows.rows.shape)[0]
        told["is_sharded"] = isinstance(rows, ShardedRows)
        told["ids"] = [
            found(index, query).tolist()
            for index in (plain.index.embeddings, gathered.index.embeddings, rows)
        ]
    else:
        carry = jax.tree.leaves(state.carry)
        told["environments_of_each"] = sorted(
            {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in carry if leaf.shape[:1] == (8,)}
        )
    print(json.dumps(told))


if __name__ == "__main__":
    if not sys.argv[1].endswith("bfloat16"):  # Flax itself promotes there
        jax.config.update("jax_numpy_dtype_promotion", "strict")
    report(sys.argv[1])
