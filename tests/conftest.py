"""What every test shares: two simulated devices, strict dtypes, checked annotations, a toy."""
# ruff: noqa: E402 - XLA reads its flags, and the hook the modules, when they are first imported

import functools
import gc
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

# Compilation dominates these tests: unoptimised code halves it, old-style fusions halve it again.
FLAGS = ["--xla_force_host_platform_device_count=2", "--xla_backend_optimization_level=0"]
FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")  # of many small programs each is one part
if version("jaxlib").startswith("0.10."):  # later versions do not start with a flag they dropped
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Processes of one session share what they compile and prepare; the first sets it, the others inherit it.
if "RAGJAX_TEST_SHARED" not in os.environ:
    os.environ["RAGJAX_TEST_SHARED"] = tempfile.mkdtemp(prefix="ragjax-tests-")
SHARED = os.environ["RAGJAX_TEST_SHARED"]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(SHARED, "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["RAGJAX_DATA_DIR"] = os.path.join(SHARED, "prepared")  # apart from the user's

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Annotations of public functions are checked while the tests run. The hook must precede the imports.
install_import_hook("ragjax", "beartype.beartype")

from command_line import the_sentence

from ragjax.models.encoder import BagEncoder
from ragjax.models.rag import build_model
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.types import RagBatch, RagModel, TopK, Vocabulary

# Traced programs are many small objects that live on; to search them for cycles as often as Python does
# takes time and finds little.
gc.set_threshold(200_000, 20, 50)

# Whole files are dealt to the processes in this order, and then the others: the long ones first, so that
# none is left alone at the end.
LONG_FILES = (
    *("test_policy_resume.py", "test_resume.py", "test_cli.py", "test_tables.py"),
    *("test_questions.py", "test_episodes.py", "test_policy_cli.py", "test_joint.py"),
    *("test_rag.py", "test_reader.py", "test_trained.py"),
)


def pytest_collection_modifyitems(config, items):
    """Puts the long files first, and leaves out what is slow unless it is asked for (-m)."""
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_unconfigure(config):
    """Removes what the session's processes shared, when the last of them ends."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(SHARED, ignore_errors=True)


def generic_params(model: RagModel, seed: int) -> Any:
    """Random parameters of which none is zero or one, without compiling the initialisers."""
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "log_scale":
            value = np.log(3.0)
        elif name in ("scale", "idf_power", "continuation"):
            value = 1.0 + 0.2 * noise
        elif name == "embedding" and path[0].key == "retriever":
            value = noise
        elif name in ("embedding", "segment", "match"):
            value = noise * leaf.shape[-1] ** -0.5
        elif name == "kernel":
            value = noise * leaf.shape[0] ** -0.5
        else:
            value = 0.2 * noise
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@dataclass(frozen=True, eq=False)
class Toy:
    """A tiny model and its jitted reader.

    The first tokens after the four special ones are template words, the others names; the last name
    is the upper-case form of the one before it.
    """

    model: RagModel
    params: Any
    vocabulary: Vocabulary

    @functools.cached_property
    def encode(self):
        return jax.jit(self.model.encode)

    @functools.cached_property
    def logprobs(self):
        """(params, memory, target [B,T]) -> [B,K,T] by teacher forcing."""
        return jax.jit(self.model.token_logprobs)

    @functools.cached_property
    def stepwise(self):
        """(params, memory, target [B,T]) -> [B,K,T,V] by decoding step by step from a cache."""

        def run(params, memory, target):
            batch, count = memory.passage.shape[:2]
            previous = jnp.concatenate([jnp.ones_like(target[:, :1]), target[:, :-1]], axis=1)

            def step(cache, inputs):
                token, position = inputs
                token = jnp.broadcast_to(token[:, None], (batch, count))
                logprobs, cache = self.model.decode_step(params, memory, cache, token, position)
                return cache, logprobs

            length = target.shape[1]
            cache = self.model.init_cache(params, memory, length)
            _, logprobs = jax.lax.scan(step, cache, (previous.T, jnp.arange(length)))
            return jnp.moveaxis(logprobs, 0, 2)

        return jax.jit(run)


@pytest.fixture(scope="session")
def make_toy():
    """(vocab_size, encoder, siamese, dtype, seed) -> `Toy`; equal arguments give the same one."""

    @functools.cache
    def build(vocab_size=12, encoder=None, siamese=True, dtype="float32", seed=0):
        bag = BagEncoder(width=8)
        fold = np.arange(vocab_size, dtype=np.int32)
        fold[-1] = max(vocab_size - 2, 3)
        ids = np.arange(vocab_size)
        vocabulary = Vocabulary(
            fold=jnp.asarray(fold),
            idf=jnp.asarray(np.where(ids > 3, 0.3 * ids, 0.0), jnp.float32),
            content=jnp.asarray(ids > 6),
        )
        model = build_model(
            Dense(encoder or bag, None if siamese else encoder or bag),
            TransformerReader(width=8, heads=2, encoder_layers=1, decoder_layers=1),
            vocabulary,
            dtype=jnp.dtype(dtype),
        )
        return Toy(model, generic_params(model, seed), vocabulary)

    return build


@pytest.fixture(scope="session")
def toy(make_toy):
    """The `Toy` of most tests: V=12, a siamese bag, float32."""
    return make_toy()


@pytest.fixture(scope="session")
def corpus():
    """[N=6,P=5] passages in the toy's tokens."""
    rows = [
        [4, 7, 8, 5, 0],
        [4, 8, 9, 0, 0],
        [6, 9, 10, 7, 5],
        [5, 10, 4, 8, 0],
        [6, 11, 7, 9, 8],
        [4, 5, 9, 11, 0],
    ]
    return jnp.asarray(rows, jnp.int32)


@pytest.fixture(scope="session")
def batch():
    """B=4 questions on the corpus with K=3 retrieved passages, misses among them; the third weighs 0."""
    retrieved = np.array([[0, 3, -1], [2, 5, 4], [1, -1, -1], [3, 0, -1]], np.int32)
    scores = np.where(retrieved >= 0, np.array([0.9, 0.4, 0.1], np.float32), -np.inf)
    target = np.array([[7, 8, 2, 0], [9, 10, 7, 2], [8, 2, 0, 0], [10, 4, 8, 2]], np.int32)
    other = np.array([[9, 2, 0, 0], [0, 0, 0, 0], [7, 7, 2, 0], [0, 0, 0, 0]], np.int32)
    return jax.tree.map(
        jnp.asarray,
        RagBatch(
            question=np.array([[6, 7, 4, 0], [5, 9, 11, 6], [4, 8, 0, 0], [6, 10, 5, 7]], np.int32),
            target=target,
            accepted=np.stack([target, other], axis=1),
            positives=np.array([[0, -1], [2, 5], [1, -1], [4, 0]], np.int32),
            retrieved=TopK(retrieved, scores.astype(np.float32), retrieved >= 0),
            weight=np.array([1, 1, 0, 1], np.float32),
        ),
    )


@pytest.fixture(scope="session")
def all_answers():
    """(V, T) -> every answer: closed by the end of sequence within T tokens, or T tokens without."""

    def enumerate_answers(vocab_size: int, length: int) -> np.ndarray:
        open_answers, closed = [[]], []
        for _ in range(length):
            grown = [[*answer, token] for answer in open_answers for token in range(1, vocab_size)]
            closed += [answer for answer in grown if answer[-1] == 2]
            open_answers = [answer for answer in grown if answer[-1] != 2]
        answers = closed + open_answers
        return np.array([row + [0] * (length - len(row)) for row in answers], np.int32)

    return enumerate_answers


@pytest.fixture(scope="session")
def repeat_memory():
    """(memory of one question, n) -> the memory of n copies of it."""
    return lambda memory, times: jax.tree.map(lambda leaf: jnp.repeat(leaf, times, 0), memory)


@pytest.fixture
def ragjax(capfd):
    """(words) -> (exit code, stdout, stderr) of a command."""
    from ragjax.cli import main

    def run(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def refused(ragjax):
    """(words) -> the one sentence that bad input gets."""

    def run(*words):
        code, out, err = ragjax(*words)
        assert code == 2, (out, err)
        assert out == ""
        return the_sentence(err)

    return run
