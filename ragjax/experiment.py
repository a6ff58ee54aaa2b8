"""An experiment: a config with its data, tokenizer and pure functions; built, saved and loaded."""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ragjax.config import Config, Phase, differing_fields, read_json, to_json
from ragjax.data.batching import (
    EncodedCorpus,
    EncodedQuestions,
    encode_corpus,
    encode_questions,
    stream_rows,
    train_tokenizer,
)
from ragjax.data.lexicon import Lexicon
from ragjax.data.tokenizer import Tokenizer
from ragjax.errors import UserError, require
from ragjax.evaluation.evaluator import evaluate_questions, make_answer_function
from ragjax.evaluation.metrics import summarise
from ragjax.files import write_atomically
from ragjax.models.rag import build_model
from ragjax.retrieval.base import Retriever
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.corpus import IndexState, embed_corpus
from ragjax.run_dir import CHECKPOINTS, CONFIG, RESULT
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.loop import Program
from ragjax.training.optimizer import evaluation_params
from ragjax.training.step import TrainState, init_state, make_train_step
from ragjax.types import Leaf, Params, Passage, QaData, Question, RagBatch, Vocabulary

TOKENIZER, LEXICON = "tokenizer.json", "lexicon.json"
PASSAGES, ARRAYS = "passages.jsonl", "corpus.npz"
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)  # what np.load raises, beside ValueError
GAIN_QUESTIONS = 128  # of the development sample, answered once more with random passages
VOCABULARY = [field.name for field in dataclasses.fields(Vocabulary)]


@struct.dataclass
class RunState:
    """All that a checkpoint holds.

    Attributes:
      train: step, parameters, optimiser, key.
      index: the retrieval index and its age.
      position: [] training examples drawn so far, the position in the shuffled stream.
    """

    train: TrainState
    index: IndexState
    position: Leaf


@struct.dataclass
class AnchoredState(RunState):
    """The state of a run whose objective needs the parameters that it began with.

    Attributes:
      reference: those parameters.
    """

    reference: Params


@dataclass
class Experiment:
    """A config with the data, tokenizer and pure functions that it stands for.

    Attributes:
      config: the config.
      tokenizer: trained on the corpus.
      corpus: the encoded passages.
      device_corpus: [N,P] passage tokens on the device.
      vocabulary: token statistics on the device.
      model: the model's pure functions.
    """

    config: Config
    tokenizer: Tokenizer
    corpus: EncodedCorpus

    def __post_init__(self):
        """Puts the constant arrays on the device and builds the model's functions."""
        config = self.config
        self.device_corpus = jnp.asarray(self.corpus.tokens)
        self.vocabulary = jax.tree.map(jnp.asarray, self.corpus.vocabulary)
        self.model = build_model(
            config.encoder,
            config.generator,
            self.vocabulary,
            siamese=config.scorer.siamese,
            initial_scale=config.scorer.initial_scale,
            critic=config.objective.critic,
            dtype=config.dtype,
        )

    @cached_property
    def optimizer(self):
        """The optax transformation."""
        objective = self.config.objective
        return self.config.optimizer.build(
            self.config.steps * objective.updates, critic=objective.critic
        )

    @cached_property
    def refresh(self) -> Callable[..., Array]:
        """The jitted (params, corpus) -> [N,D] index."""
        return jax.jit(lambda params, corpus: embed_corpus(self.model, params, corpus))

    @cached_property
    def answer(self):
        """The jitted function that answers a batch."""
        return self._answer_function()

    @cached_property
    def answer_one(self):
        """The same for single questions: compiling takes longer than answering them."""
        return self._answer_function(quickly_compiled=True)

    def _answer_function(self, *, quickly_compiled: bool = False):
        config = self.config
        return make_answer_function(
            self.model,
            config.objective,
            config.retriever,
            k=config.retriever.passages_per_question(config.evaluation.k),
            length=config.tokenizer.answer_length,
            quickly_compiled=quickly_compiled,
        )

    def encode(
        self, questions: Sequence[Question], k: int, retriever: Retriever | None = None
    ) -> EncodedQuestions:
        """Tokenises questions and looks up their passages if the retriever is a fixed one.

        Args:
          questions: M questions.
          k: passages to look up.
          retriever: the config's if None.
        """
        retriever = retriever or self.config.retriever
        return encode_questions(
            self.tokenizer, self.config.tokenizer, self.corpus, questions, retriever, k
        )

    def understood(self, text: str) -> tuple[str, list[str]]:
        """Checks a question that is not of the task.

        Args:
          text: the question.

        Returns:
          The question without white space around it, and notes on what of it is not read.

        Raises:
          UserError: it is empty or has no known word.
        """
        text = text.strip()
        require(bool(text), "The question is empty; ask one in words.")
        known, left_out = self.corpus.lexicon.known_form(self.tokenizer, text)
        require(
            any(letter.isalnum() for letter in known),
            f"No word of {text!r} is in the corpus; ask about what its passages say.",
        )
        notes = [f"unknown words left out: {', '.join(left_out)}"] if left_out else []
        tokens, length = self.tokenizer.encode(known), self.config.tokenizer.question_length
        if len(tokens) > length:
            cut = self.tokenizer.decode(tokens[length:])
            notes.append(f"only {length} tokens are read; cut: {cut}")
        return text, notes

    def init_state(self) -> RunState:
        """The state before the first step."""
        init_key, run_key = jax.random.split(jax.random.PRNGKey(self.config.seed))
        params = jax.jit(self.model.init)(init_key)
        width = jax.eval_shape(self.model.embed_passage, params, self.device_corpus[:1]).shape[-1]
        count = len(self.corpus.passages)
        index = IndexState(jnp.zeros((count, width)), jnp.full((), -1, jnp.int32))
        zero = jnp.zeros((), jnp.int32)
        return self.begin(RunState(init_state(params, self.optimizer, run_key), index, zero))

    def begin(self, state: RunState) -> RunState:
        """A state before the first step, with its reference where the objective needs one."""
        if not self.config.objective.anchored:
            return state
        # A copy, for the parameters that are trained are donated.
        reference = jax.tree.map(jnp.copy, state.train.params)
        return AnchoredState(state.train, state.index, state.position, reference)

    @property
    def searches_index(self) -> bool:
        """Whether training chooses passages from an index that ages."""
        return self.config.retriever.learned and self.config.objective.documents != "index"

    def load_state(self, checkpoints: Checkpoints) -> tuple[RunState, int, list[int]]:
        """Restores the newest whole checkpoint.

        Returns:
          The state, its step, and the steps of damaged checkpoints that were passed over.

        Raises:
          UserError: there is none, or it does not fit the config.
        """
        step, state, damaged = checkpoints.restore(jax.eval_shape(self.init_state))
        return state, step, damaged

    def fresh_index(self, state: RunState) -> IndexState:
        """The index of the state's own evaluation parameters, made anew if the one it has is older."""
        if not self.config.retriever.learned or state.index.built_at_step == state.train.step:
            return state.index
        params = evaluation_params(state.train.params, state.train.opt_state)
        return IndexState(self.refresh(params, self.device_corpus), state.train.step)

    def evaluate(
        self,
        state: RunState,
        encoded: EncodedQuestions,
        progress: Callable[[int], None] = lambda done: None,
        *,
        blind: bool = False,
    ) -> list[dict[str, Any]]:
        """Answers questions with an index made from the current parameters.

        Args:
          state: whose evaluation parameters answer.
          encoded: the questions.
          progress: told how many questions are done.
          blind: whether the passages of a learned retriever are exchanged at random.

        Returns:
          One record a question; see `evaluation.evaluator.evaluate_questions`.
        """
        params = evaluation_params(state.train.params, state.train.opt_state)
        embeddings = self.fresh_index(state).embeddings
        if blind:
            embeddings = embeddings[np.random.default_rng(0).permutation(len(embeddings))]
        return evaluate_questions(
            self.answer,
            params,
            self.tokenizer,
            self.corpus,
            self.device_corpus,
            embeddings,
            encoded,
            self.config.evaluation.batch_size,
            progress,
        )


# What decides the shapes and the meaning of parameters.
MODEL_FIELDS = ("task", "tokenizer", "encoder", "scorer", "generator")


def starting_config(config: Config) -> Config:
    """The config of the run `config.start`.

    Raises:
      UserError: that run is missing or not finished, or is one of another model.
    """
    directory = config.start_dir
    require(
        (directory / RESULT).is_file(),
        f"start is {config.start!r}, but {directory} holds no finished run; train it first or name one.",
    )
    theirs = read_json(directory / CONFIG)
    require(
        isinstance(theirs, Config), f"start is {config.start!r}, which is no run of a generator."
    )
    for name in MODEL_FIELDS:
        differing = differing_fields(
            to_json(getattr(theirs, name)), to_json(getattr(config, name)), f"{name}."
        )
        require(
            not differing,
            f"start is {config.start!r}, but that run differs in {', '.join(differing)}; give the same "
            "values or another start.",
        )
    return theirs


def start_state(experiment: Experiment) -> RunState:
    """The state before the first step: of new parameters, or of those of the run `config.start`.

    Raises:
      UserError: that run does not fit, see `starting_config`, or its passages are others.
    """
    config, state = experiment.config, experiment.init_state()
    if not config.start:
        return state
    theirs, directory = starting_config(config), config.start_dir
    other = load_experiment(theirs, directory)
    require(
        other.corpus.passages == experiment.corpus.passages
        and np.array_equal(other.corpus.tokens, experiment.corpus.tokens),
        f"start is {config.start!r}, but its passages are not those that task {config.task.name} makes "
        "now; train it again.",
    )
    found, _, _ = other.load_state(Checkpoints(directory / CHECKPOINTS))
    trained = evaluation_params(found.train.params, found.train.opt_state)
    # A critic starts anew: theirs may be of another reward, or there may be none.
    params = state.train.params | {name: trained[name] for name in ("retriever", "generator")}
    train = init_state(params, experiment.optimizer, state.train.key)
    return experiment.begin(dataclasses.replace(state, train=train))


def training_program(
    experiment: Experiment, questions: Mapping[str, Sequence[Question]]
) -> Program:
    """The training run of an experiment, for `training.loop.fit`."""
    config = experiment.config
    deepest = max(phase.k for phase in config.phases)
    train = {
        source: experiment.encode(questions["train"], deepest, BM25() if source == "bm25" else None)
        for source in {phase.candidates for phase in config.phases}
    }
    # A sample: the split is ordered by relation. It is the same for every seed.
    order = np.random.default_rng(0).permutation(len(questions["dev"]))
    sample = [questions["dev"][row] for row in order[: config.evaluation.questions]]
    measured = experiment.encode(sample, config.evaluation.k)
    doubted = experiment.encode(sample[:GAIN_QUESTIONS], config.evaluation.k)

    def build_step(phase: Phase):
        k = config.retriever.passages_per_question(phase.k)

        objective = config.objective
        fixed = experiment.model, experiment.vocabulary, config.retriever

        def prepare(params, key, batch: RagBatch, corpus, embeddings, reference):
            del reference
            return objective.sample(*fixed, params, key, batch, corpus, embeddings, k=k)

        def loss(params, key, prepared, corpus, embeddings, reference):
            batch, samples = prepared if objective.updates > 1 else (prepared, None)
            arrays = params, key, batch, corpus, embeddings
            return objective.loss(*fixed, *arrays, k=k, samples=samples, reference=reference)

        return make_train_step(
            loss,
            experiment.optimizer,
            config.optimizer.accumulate,
            prepare=prepare if objective.updates > 1 else None,
            times=objective.updates,
        )

    steps = {phase: build_step(phase) for phase in config.phases}

    def advance(state: RunState, step: int):
        phase, index = config.phase_at(step), state.index
        searches = experiment.searches_index and phase.candidates == "index"
        built = int(index.built_at_step)
        retriever: Any = config.retriever  # a learned one, if searched
        if searches and (built < 0 or step - built >= retriever.refresh_every):
            embeddings = experiment.refresh(state.train.params, experiment.device_corpus)
            index = IndexState(embeddings, jnp.asarray(step, jnp.int32))
        position = int(state.position)
        encoded = train[phase.candidates]
        rows = stream_rows(config.seed, position, phase.batch_size, len(encoded.questions))
        trained, metrics = steps[phase](
            state.train,
            encoded.rows(rows),
            experiment.device_corpus,
            index.embeddings,
            state.reference if isinstance(state, AnchoredState) else None,
        )
        if searches:
            metrics["index_age"] = step - index.built_at_step
        position = jnp.asarray(position + phase.batch_size, jnp.int32)
        return dataclasses.replace(state, train=trained, index=index, position=position), metrics

    def evaluate(state: RunState, step: int) -> dict[str, float]:
        answered = experiment.evaluate(state, measured)
        summary = summarise(answered)
        if config.retriever.learned:
            blind = summarise(experiment.evaluate(state, doubted, blind=True))["em"]
            summary["retrieval_gain"] = summarise(answered[:GAIN_QUESTIONS])["em"] - blind
        return {
            f"dev/{name}": summary[name]
            for name in ("em", "f1", "recall@1", "recall@5", "retrieval_gain")
            if summary.get(name) is not None
        }

    return Program(
        total=config.steps,
        advance=advance,
        evaluate=evaluate,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.evaluation.every,
    )


def create_experiment(config: Config, data: QaData, run_dir: Path) -> Experiment:
    """Trains the tokenizer, encodes the corpus, and writes both into the run's directory."""
    tokenizer = train_tokenizer(config.tokenizer, data)
    corpus = encode_corpus(tokenizer, config.tokenizer, data.passages, data.splits["train"])
    run_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run_dir / TOKENIZER)
    words = json.dumps(corpus.lexicon.words, ensure_ascii=False)
    write_atomically(run_dir / LEXICON, words.encode())
    lines = [json.dumps(vars(passage), ensure_ascii=False) for passage in corpus.passages]
    write_atomically(run_dir / PASSAGES, "".join(line + "\n" for line in lines).encode())
    arrays = io.BytesIO()
    np.savez(arrays, tokens=corpus.tokens, cut=corpus.cut, **vars(corpus.vocabulary))
    write_atomically(run_dir / ARRAYS, arrays.getvalue())
    return Experiment(config, tokenizer, corpus)


def load_experiment(config: Config, run_dir: Path) -> Experiment:
    """Reads what `create_experiment` wrote.

    Raises:
      UserError: a file is missing or malformed.
    """
    tokenizer = Tokenizer.load(run_dir / TOKENIZER)
    try:
        lines = (run_dir / PASSAGES).read_bytes().decode().split("\n")
        passages = tuple(Passage(**json.loads(line)) for line in lines if line)
        lexicon = Lexicon(json.loads((run_dir / LEXICON).read_bytes()))
        # From memory, for np.load leaves a malformed file open.
        with np.load(io.BytesIO((run_dir / ARRAYS).read_bytes())) as arrays:
            vocabulary = Vocabulary(**{name: arrays[name] for name in VOCABULARY})
            corpus = EncodedCorpus(
                passages, arrays["tokens"], int(arrays["cut"]), vocabulary, lexicon
            )
    except (OSError, ValueError, TypeError, KeyError, EOFError, *BROKEN_ZIP) as error:
        raise UserError(
            f"{run_dir} has no readable corpus ({error}); train the run again."
        ) from error
    for name, fits in (
        (PASSAGES, len(corpus.passages) == len(corpus.tokens)),
        (TOKENIZER, tokenizer.vocab_size == len(vocabulary.fold)),
    ):
        require(fits, f"{run_dir / name} and {run_dir / ARRAYS} disagree; train the run again.")
    return Experiment(config, tokenizer, corpus)
