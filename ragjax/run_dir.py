"""A run's directory: its files, what may start or continue there, and the one way to load a run."""

import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from ragjax.config import Config, config_json, read_json
from ragjax.config_differences import differing_fields, without_place
from ragjax.data.checks import checked, in_plain_text
from ragjax.data.readers import passages_with_text
from ragjax.errors import UserError, require
from ragjax.files import parse_json
from ragjax.origin import changes_since, require_same_files
from ragjax.precision import single_precision
from ragjax.tasks.base import SPLITS
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.learner import Learner, State
from ragjax.training.program import starting_state, state_shapes
from ragjax.types import QaData

CONFIG, RESULT, CHECKPOINTS = "config.json", "result.json", "checkpoints"


@dataclass(frozen=True)
class Run:
    """A run loaded for use.

    Attributes:
      config: its config.
      learner: the functions of its config.
      state: its newest whole checkpoint, finished: an index is of the state's own parameters.
      step: of that checkpoint.
      damaged: steps of newer checkpoints that were damaged and passed over.
      changes: what of the code and the packages is not what the run began with, a sentence each.
    """

    config: Config
    learner: Learner
    state: State
    step: int
    damaged: list[int]
    changes: list[str]

    @single_precision
    def answer(self, question: str, *, force: bool = False) -> dict[str, Any]:
        """Answers one question, or says why not; see `training.learner.Learner.answer`.

        Args:
          question: in words.
          force: whether an answer is given that the run is not sure of.

        Raises:
          UserError: the question can't be read, or the run answers none.
        """
        return self.learner.answer(self.state, question, force=force)

    @single_precision
    def over(self, passages: Path | str) -> "Run":
        """The same parameters over other passages.

        Args:
          passages: a file or a folder, see `data.readers.passages_with_text`.

        Raises:
          UserError: it can't be read, or the run has no corpus.
        """
        learner, state = self.learner.over(self.state, _corpus(passages))
        return replace(self, learner=learner, state=state)

    @single_precision
    def exported(self) -> dict[str, Any]:
        """Its pretrained models as it has trained them; see `training.learner.Learner.exported`."""
        return self.learner.exported(self.state)

    @single_precision
    def evaluate(self, split: str | None = None, episodes: int | None = None) -> dict[str, Any]:
        """The figures of a split, or of episodes; see `training.learner.Learner.evaluate`."""
        records, facts = self.learner.evaluate(self.state, split, episodes=episodes)
        return facts | records.summary()


def _corpus(passages: Path | str, *splits: str) -> QaData:
    """The passages of a file or a folder that have a text, beside splits without questions."""
    found, notes = passages_with_text(Path(passages))
    return in_plain_text(checked(QaData(found, dict.fromkeys(splits, ()), notes), str(passages)))


@single_precision
def untrained_run(config: Config, passages: Path | str) -> Run:
    """What a config begins with, over passages and without any training.

    Args:
      config: of a model whose weights come from elsewhere.
      passages: a file or a folder, see `data.readers.passages_with_text`.

    Raises:
      UserError: it has nothing to answer before it is trained, or the passages can't be read.
    """
    learner = config.untrained(_corpus(passages, *SPLITS))
    state = learner.finish(starting_state(learner, (config.seed,)))
    return Run(config, learner, state, step=0, damaged=[], changes=[])


@single_precision
def load_run(run_dir: Path | str) -> Run:
    """Loads the run in a directory, of whatever learner.

    Raises:
      UserError: it is missing, holds no run of a single seed, has no whole checkpoint, or has a file
        that was edited.
    """
    run_dir = Path(run_dir)
    require(run_dir.is_dir(), f"{run_dir} is not a directory; name the directory of a run.")
    require(
        is_run(run_dir),
        f"{run_dir / CONFIG} is not there, so that this is no run; name the directory of a run.",
    )
    config = read_json(run_dir / CONFIG)
    require(
        config.num_seeds == 1,
        f"{run_dir} holds {config.num_seeds} seeds; name the directory of one of them, such as "
        f"{run_dir / f'seed_{config.seed}'}.",
    )
    learner = config.load(run_dir)
    step, state, damaged = Checkpoints(run_dir / CHECKPOINTS).restore(
        state_shapes(learner, config.seeds)
    )
    require_same_files(run_dir)
    changes = changes_since(run_dir, config)
    return Run(config, learner, learner.finish(state), step, damaged, changes)


def parameter_counts(params: Any) -> dict[str, int]:
    """Number of parameters of each group."""
    return {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()
    }


def parameter_lines(params: Any) -> list[str]:
    """A line for each component of each group: its arrays and numbers, or its only array's shape."""
    components: dict[str, list[tuple[str, Any]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        component, name = (
            jax.tree_util.keystr(part, simple=True, separator=".") for part in (path[:2], path)
        )
        components.setdefault(component, []).append((name, leaf))
    return [
        f"{leaves[0][0]}  {leaves[0][1].dtype}{list(leaves[0][1].shape)}"
        if len(leaves) == 1
        else f"{component}  {sum(leaf.size for _, leaf in leaves):,} in {len(leaves)} arrays"
        for component, leaves in components.items()
    ]


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    return round(peak / (1_000_000 if sys.platform == "darwin" else 1_000))


def is_run(run_dir: Path) -> bool:
    """Whether a run was begun in `run_dir`, so that it can be resumed."""
    return (run_dir / CONFIG).exists()


def check_run_dir(config: Config, run_dir: Path, resume: bool) -> None:
    """Checks that a run may start or continue in `run_dir`.

    It may also continue beyond the end that it had, if no rate depends on where that is.

    Raises:
      UserError: it holds a run and `resume` is off, holds none and it is on, or was made by another
        config.
    """
    remedy = "add --resume to continue it or name another --run-dir"
    if (run_dir / RESULT).exists():
        remedy = "it is finished, so name another --run-dir"
        if not config.optimizer.depends_on_length:
            remedy += ", or add --resume and more steps"
    require(resume or not is_run(run_dir), f"{run_dir} already holds a run; {remedy}.")
    if resume:
        require(
            is_run(run_dir), f"{run_dir} holds no run to resume; leave out --resume to start one."
        )
        begun, wanted = read_json(run_dir / CONFIG), without_place(config_json(config))
        longer = without_place(config_json(begun.lengthened_to(config))) == wanted
        if longer and not config.optimizer.depends_on_length:
            return
        differing = differing_fields(without_place(config_json(begun)), wanted)
        how = "; a run is lengthened only where optimizer.schedule is constant" * longer
        require(
            not differing,
            f"{run_dir} was made by another config; it differs in {', '.join(differing)}; give the "
            f"same values or another --run-dir{how}.",
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl.

    Raises:
      UserError: it can't be read.
    """
    try:
        return [parse_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); train the run again.") from error
