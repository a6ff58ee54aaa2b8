"""Learning from questions: the config of retriever and reader, by the marginal over passages."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from jax.sharding import Mesh

from ragjax.config import Config
from ragjax.data.checks import require_splits
from ragjax.data.labels import Labels
from ragjax.data.prepared import PreparedText
from ragjax.data.report import DataReport
from ragjax.data.stream import Phase as Phase
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import require
from ragjax.evaluation.answers import Answers
from ragjax.learners.question_learner import QuestionsLearner
from ragjax.learners.start import require_start
from ragjax.mesh import require_divided
from ragjax.models.adapters import All, Trained
from ragjax.models.reader import Reader, TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Objective
from ragjax.objectives.likelihood import RagSequence
from ragjax.origin import found_from
from ragjax.ranges import BATCH, require_few_updates
from ragjax.retrieval.base import RetrieverSpec, require_gold
from ragjax.tasks.base import SPLITS, Task
from ragjax.text import counted
from ragjax.training.optimizer import Adam, Optimizer
from ragjax.types import QaData


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured.

    Attributes:
      k: passages retrieved for each question.
      batch_size: questions decoded at once.
      every: steps between measurements on the development split while training, the last step
        included; 0 for none.
      questions: development questions measured while training; the final figures use whole splits.
    """

    k: int = 8
    batch_size: int = field(default=64, metadata=BATCH)
    every: int = 100
    questions: int = 128

    def __post_init__(self):
        """Checks the fields."""
        for name in ("k", "batch_size", "questions"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{name} is {value}; it must be at least 1.")
        require(self.every >= 0, f"evaluation.every is {self.every}; it must not be negative.")


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(Config):
    """One experiment in retrieval-augmented generation.

    Attributes:
      task: corpus and questions.
      tokenizer: how text becomes arrays.
      retriever: where passages come from, and p(d|x).
      reader: the reader.
      objective: the loss and its decoder.
      trained: which parameters are trained.
      phases: stretches of training, in order; none for a run that is measured and asked as it begins.
      evaluation: how the model is measured.
      compute: dtype of the computation; parameters and sums are always float32.
      labels: which training questions have an answer to learn from.
      start: the directory of a finished run whose parameters training starts from, with "{seed}" in the
        place of the seed; it has the same task, tokenizer and model. "" starts from new parameters.
    """

    records: ClassVar[type[Answers]] = Answers

    task: Task
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    retriever: RetrieverSpec = field(default_factory=Dense)
    reader: Reader = field(default_factory=TransformerReader)
    objective: Objective = field(default_factory=RagSequence)
    trained: Trained = field(default_factory=All)
    optimizer: Optimizer = field(default_factory=Adam)
    phases: tuple[Phase, ...] = (Phase(steps=400),)
    evaluation: Evaluation = field(default_factory=Evaluation)
    compute: Literal["float32", "bfloat16"] = "float32"
    labels: Labels = field(default_factory=Labels)
    start: str = ""

    def __post_init__(self):
        """Checks what single components can't."""
        super().__post_init__()
        require(
            len(self.phases) > 0 or self.reader.comes_trained or bool(self.start),
            "phases is empty, so that nothing is trained, but the reader is a new one; give at least "
            "one phase, a pretrained reader, or start.",
        )
        for number, phase in enumerate(self.phases):
            require(
                phase.batch_size % self.optimizer.accumulate == 0,
                f"phases.{number}.batch_size is {phase.batch_size}, which optimizer.accumulate "
                f"{self.optimizer.accumulate} does not divide; choose a multiple of it.",
            )
            self.objective.check(self.retriever, phase.k)
        require_few_updates(f"phases has {self.steps} steps", self.updates)
        require(
            self.retriever.learned or self.objective.normalised_over == "retrieved",
            f"The objective's documents is {self.objective.normalised_over!r}, but a fixed retriever "
            "has scores for the passages it returns only; choose retrieved.",
        )
        require(
            self.retriever.scores_all or self.objective.normalised_over != "index",
            "The objective's documents is 'index', but retriever.index does not score every passage; "
            "use an index that does, such as Exact, or choose in_batch.",
        )
        require(
            self.retriever.learned or all(phase.candidates is None for phase in self.phases),
            "phases.candidates names a retriever, but the run's own is a fixed one, which brings its "
            "passages; leave it out.",
        )
        require(
            self.compute in ("float32", "bfloat16"),
            f"compute is {self.compute!r}; choose float32 or bfloat16.",
        )
        require(
            not self.refresh_every_beside or self.num_seeds == 1,
            f"num_seeds is {self.num_seeds}, but retriever.asynchronous refreshes the index of one run "
            "only; train the seeds one by one, or set it to false.",
        )
        self._check_labels()
        decay = getattr(self.optimizer, "weight_decay", 0.0)
        ages = self.retriever.learned and (
            self.retriever.refresh_every_in_step or self.retriever.refresh_every_beside
        )
        require(
            not decay or not self.trained.everything or not self.retriever.learned or bool(ages),
            f"optimizer.weight_decay is {decay}, which moves the passages' encoder, too, but the "
            "retriever's train_passages is false; set weight_decay to 0, or train_passages to true.",
        )
        self.trained.check(self.retriever)
        if self.phases:
            self.optimizer.check(self.steps, self.updates)

    def _check_labels(self) -> None:
        """Checks that answers and gold passages of unlabelled questions are not learned from."""
        share = f"labels.share is {self.labels.share}"
        if self.labels.complete:
            for number, phase in enumerate(self.phases):
                require(
                    phase.labelled is None,
                    f"phases.{number}.labelled is {phase.labelled}, but {share}, so that every question "
                    "is labelled; leave one of them out.",
                )
            return
        require(
            self.objective.few_labels,
            f"{share}, but the objective {type(self.objective).__name__}, as it is set, learns from "
            "every question's answer or gold passages; choose RagSequence, RagToken or Joint without "
            "from_memory, or set the share to 1.",
        )
        for retriever in (self.retriever, *(phase.candidates for phase in self.phases)):
            require(
                retriever is None or not retriever.needs_gold,
                f"{share}, but {type(retriever).__name__} retrieves gold passages, which unlabelled "
                "questions do not name; choose another retriever, or set the share to 1.",
            )

    def check_mesh(self, mesh: Mesh) -> None:
        """See `Config.check_mesh`."""
        require(
            self.retriever.on_mesh,
            f"mesh.devices is {self.mesh.devices}, but the retriever {type(self.retriever).__name__} of "
            "this config works on one device; choose a fixed one, or Dense with an Exact index that is "
            "not asynchronous, or set mesh.devices to 1.",
        )
        accumulate = self.optimizer.accumulate
        for number, phase in enumerate(self.phases):
            name = f"phases.{number}.batch_size" + " / optimizer.accumulate" * (accumulate > 1)
            require_divided(name, phase.batch_size // accumulate, mesh)

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def searches(self, phase: Phase) -> bool:
        """Whether a phase takes passages from an index that ages."""
        return (
            self.retriever.learned
            and self.objective.normalised_over != "index"
            and phase.candidates is None
        )

    @property
    def refresh_every_beside(self) -> int:
        """That of the retriever; 0 where no phase searches its index."""
        searched = any(self.searches(phase) for phase in self.phases)
        return self.retriever.refresh_every_beside if searched else 0

    @property
    def updates(self) -> int:
        """Updates of the parameters in the whole run."""
        return self.steps * self.objective.updates

    def lengthened_to(self, other: Config) -> Config:
        """See `Config.lengthened_to`: the last phase goes on."""
        if not isinstance(other, QuestionsConfig) or len(other.phases) != len(self.phases):
            return self
        if not self.phases:
            return self
        steps = max(self.phases[-1].steps, other.phases[-1].steps)
        return replace(self, phases=(*self.phases[:-1], replace(self.phases[-1], steps=steps)))

    @property
    def evaluate_every(self) -> int:
        """Steps between measurements."""
        return self.evaluation.every

    @property
    def subject(self) -> str:
        """Name of the task."""
        return self.task.name

    def start_dir(self, seed: int) -> Path:
        """The directory that `start` names for a seed."""
        return Path(self.start.replace("{seed}", str(seed)))

    def create(self) -> QuestionsLearner:
        """Prepares the task's text for a new run."""
        if self.start:
            for seed in self.seeds:
                require_start(self, seed)  # before anything is made
        data = self.task.load()
        require_splits(data, self.task.name, SPLITS)
        if self.retriever.needs_gold:
            for split, asked in data.splits.items():
                name = f"Task {self.task.name}: {split} question"
                require_gold(asked, type(self.retriever).__name__, name)
        self.check_depths(len(data.passages))
        own, borrowed = self.retriever.reads, self.reader.reads
        require(
            own is None or not self.objective.alters_words,
            "The objective shows the retriever renamed or corrupted words, but retriever.encoder has a "
            "tokenizer of its own, which does not know them; set rename_retriever, corrupt_words and "
            "remove_question to 0.",
        )
        self._check_lengths()
        known = self.task.vocabulary_task
        text = PreparedText.make(
            self.tokenizer, data if known is self.task else known.load(), own, borrowed
        )
        return QuestionsLearner(self, text, DataReport.measure(data, text), data)

    def load(self, run_dir: Path) -> QuestionsLearner:
        """Reads the text that a run prepared; its task's questions are made when they are needed."""
        text = PreparedText.load(self.tokenizer, run_dir, self.retriever.reads, self.reader.reads)
        report = DataReport.load(run_dir)
        report.require_passages(text.corpus.passages, run_dir)
        config = self
        if self.start:  # which a run that is continued at step 0 begins with again
            config = replace(self, start=found_from(run_dir, self.start, self.seed))
        return QuestionsLearner(config, text, report, origin=run_dir)

    def untrained(self, data: QaData) -> QuestionsLearner:
        """See `Config.untrained`; of few passages, all are retrieved."""
        require(
            self.reader.comes_trained or bool(self.start),
            "The config's reader is a new one, which has no answers before it is trained; train it and "
            "ask the run, or name a config with a pretrained reader.",
        )
        self._check_lengths()
        k = min(self.evaluation.k, len(data.passages))
        config = replace(self, evaluation=replace(self.evaluation, k=k))
        text = PreparedText.make(self.tokenizer, data, self.retriever.reads, self.reader.reads)
        return QuestionsLearner(config, text, DataReport.measure(data, text), data)

    def _check_lengths(self) -> None:
        """Checks that the reader has room for the texts."""
        lengths = self.tokenizer
        self.reader.check(lengths.question_length, lengths.passage_length, lengths.answer_length)

    def check_depths(self, passages: int) -> None:
        """Checks that the corpus has as many passages as are to be retrieved.

        Raises:
          UserError: names the fields that ask for too many.
        """
        depths = {f"phases.{number}.k": phase.k for number, phase in enumerate(self.phases)}
        depths["evaluation.k"] = self.evaluation.k
        deep = [f"{name} is {k}" for name, k in depths.items() if k > passages]
        require(
            not deep,
            f"{' and '.join(deep)}, but the corpus of task {self.task.name} has "
            f"{counted(passages, 'passage')}; choose at most that many.",
        )
