"""The run whose parameters another one begins with."""

from pathlib import Path
from typing import Any

from ragjax.config import read_json, to_json
from ragjax.config_differences import differing_fields
from ragjax.errors import UserError, require
from ragjax.files import read_json_object
from ragjax.run_dir import CONFIG, RESULT


def _model_fields(config: Any) -> dict[str, Any]:
    """What decides the shapes and the meaning of parameters, as JSON."""
    fields = {"task": to_json(config.task.vocabulary_task)}
    fields |= {name: to_json(getattr(config, name)) for name in ("tokenizer", "reader")}
    weights = {name: to_json(value) for name, value in config.retriever.weights.items()}
    return fields | {"retriever": weights}


def require_start(config: Any, seed: int) -> None:
    """Checks the run that a config's `start` names for a seed.

    Raises:
      UserError: that run is missing or not finished, or is one of another model.
    """
    directory = config.start_dir(seed)
    require(
        (directory / RESULT).is_file(),
        f"start is {config.start!r}, but {directory} holds no finished run; train it first or name one.",
    )
    theirs: Any = read_json(directory / CONFIG)
    if type(theirs) is not type(config):
        raise UserError(f"start is {config.start!r}, which is no run of a reader.")
    differing = differing_fields(_model_fields(theirs), _model_fields(config))
    require(
        not differing,
        f"start is {config.start!r}, but that run differs in {', '.join(differing)}; give the same "
        "values or another start.",
    )
    mine, other = config.labels, theirs.labels
    require(
        mine.complete
        or (other.share <= mine.share and other.seed == mine.seed and _seed_of(directory) == seed),
        f"start is {config.start!r}, but {directory} learned from labels that labels.share {mine.share} "
        f"leaves out for labels.seed {mine.seed} and seed {seed}; give a start with the same labels.",
    )


def _seed_of(directory: Path) -> Any:
    """The seed of a finished run."""
    return read_json_object(directory / RESULT, "train it again.").get("seed")
