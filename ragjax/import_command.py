"""`ragjax import`: pretrained models as a run, to be asked, trained further and exported."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from ragjax.errors import require
from ragjax.printing import PlainConsole, print_line

if TYPE_CHECKING:
    from ragjax.learners.questions import QuestionsConfig

# As in `ragjax.cli`, what is slow to import is imported when it is needed.

QUESTION, PASSAGE, ANSWER, DEPTH = 48, 256, 32, 5
COSINE_SCALE = 20.0  # τ of encoders whose embeddings have length 1


@dataclass(frozen=True)
class Import:
    """Make a run of pretrained models: ragjax import SOURCE RUN --passages P [--field.sub value ...].

    The run answers from the passages as the models are; `ragjax train CONFIG --start RUN` goes on from
    it, and `ragjax export` takes the models out again.
    """

    source: Positional[str]
    """A RAG model or a reader (BART, T5, Llama, Qwen2, Qwen3): a directory that transformers wrote, a
    GGUF file, a model of the Hugging Face hub (owner/name), or a file of an installed package,
    package:NAME/FILE."""
    run_dir: Positional[Path]
    """Where the run goes."""
    passages: Path
    """What it answers from: a file of JSON lines, CSV or TSV, or a folder of texts."""
    encoder: str = ""
    """The encoder that finds passages: of a RAG model, the one of its passages, such as DPR's context
    encoder; of a reader, one such as MiniLM. Without it, a reader's passages are found by BM25."""


def import_run(options: Import, overrides: list[str], console: PlainConsole) -> int:
    """Writes a run that nothing has trained yet."""
    from ragjax.config import require_rebuilt, write_config
    from ragjax.lease import leased
    from ragjax.origin import write_origin
    from ragjax.overrides import override
    from ragjax.run_dir import CHECKPOINTS, CONFIG, check_run_dir, is_run, untrained_run
    from ragjax.training.checkpoint import Checkpoints

    require(
        not is_run(options.run_dir),
        f"{options.run_dir} already holds a run; name another directory.",
    )
    words = ["ragjax", "import", options.source, str(options.run_dir)]
    made = config_of(options.source, options.encoder, options.passages)
    config = override(made, overrides, shlex.join(words))
    run = untrained_run(config, options.passages)
    learner: Any = run.learner
    config = learner.config  # asks for no more passages than there are
    require_rebuilt(config)
    directory = options.run_dir
    with leased([directory], console.print) as check_lease:
        check_run_dir(config, directory, resume=False)
        directory.mkdir(parents=True, exist_ok=True)
        learner.save(directory)
        Checkpoints(directory / CHECKPOINTS, may_write=check_lease).save(0, run.state)
        write_origin(directory, config, {}, learner.files)
        # Last, since it marks the directory as a run.
        write_config(directory / CONFIG, config)
    for note in learner.notes():
        console.print(note)
    print_line(f"{directory}: ask it by `ragjax answer {shlex.quote(str(directory))}`")
    return 0


def config_of(source: str, encoder: str, passages: Path) -> "QuestionsConfig":
    """The config of a run of pretrained models, which trains nothing.

    Args:
      source: of a RAG model or a reader.
      encoder: of passages, and with a reader alone of questions, too; "" for BM25.
      passages: what is answered from.

    Raises:
      UserError: the source is missing, not supported or writes no text; or it is a RAG model, which
        lacks an encoder of passages, and there is none.
    """
    from ragjax.data.tokenizer import TokenizerSpec
    from ragjax.learners.questions import Evaluation, QuestionsConfig
    from ragjax.models.pretrained.encoder import PretrainedEncoder
    from ragjax.models.pretrained.rag import describe_rag
    from ragjax.models.pretrained.reader import CHAT, PretrainedReader
    from ragjax.models.retriever import Dense
    from ragjax.objectives.likelihood import RagSequence, RagToken
    from ragjax.retrieval.bm25 import BM25
    from ragjax.tasks.own_data import OwnData
    from ragjax.training.optimizer import Adam

    rag = describe_rag(source)
    part = "" if rag is None else "generator"
    reader = PretrainedReader(source, part=part)
    reader = replace(reader, template=CHAT) if reader.chats else reader
    objective = RagSequence() if rag is not None and rag.kind == "sequence" else RagToken()
    depth = DEPTH if rag is None else rag.passages
    retriever: Any = BM25(initial_scale=1.0)
    if encoder:
        stored = PretrainedEncoder(encoder, question_length=QUESTION, passage_length=PASSAGE)
        retriever = Dense(stored, initial_scale=COSINE_SCALE if stored.unit else 1.0)
    if rag is not None:
        require(
            bool(encoder),
            f"{source} is a RAG model, whose files hold no encoder of passages; add --encoder MODEL, "
            "such as facebook/dpr-ctx_encoder-multiset-base.",
        )
        asked = replace(stored, source=source, part="question_encoder")
        # As DPR's passages are encoded, whose scores are inner products.
        retriever = Dense(replace(stored, title_separator=" [SEP] "), asked, initial_scale=1.0)
    lengths = TokenizerSpec(
        question_length=QUESTION,
        passage_length=PASSAGE,
        answer_length=ANSWER,
        with_title=True,
        title_separator=" " if rag is None else rag.title_separator,
    )
    return QuestionsConfig(
        task=OwnData(passages=str(passages)),
        tokenizer=lengths,
        retriever=retriever,
        reader=reader,
        objective=objective,
        optimizer=Adam(retriever_rate=1e-5, reader_rate=1e-5, warmup_steps=0),
        phases=(),
        evaluation=Evaluation(k=depth, batch_size=8, every=0),
    )
