"""Recorded runs: the small form of finished runs that tables are made of.

    <results>/<table>/<row>/seed_<n>/config.json       the run's configuration
                                     result.json       its figures, seed, versions and commit
                                     outcomes.json.gz  per question what `metrics.Outcomes` holds,
                                                       or per episode what `episodes.Episodes` does

`record_run` extracts it from a run directory; `load_runs` reads the runs of one row of a table and
refuses to hand over what isn't comparable.
"""

import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes, read_episodes
from ragjax.evaluation.metrics import Outcomes, read_predictions, summarise_outcomes
from ragjax.files import parse_json, read_json_object

REQUIRED_FIGURES = {
    Outcomes: ("em", "f1", "recall@1", "recall@5"),
    Episodes: ("greedy_return", "sampled_return", "env_steps"),
}
REQUIRED_FACTS = ("train_seconds", "steps", "seed", "versions")

RECORDS = {"predictions.jsonl": Outcomes, "episodes.jsonl": Episodes}
OUTCOMES = "outcomes.json.gz"
_FILES = ("config.json", "result.json", OUTCOMES)
_MASS_DIGITS = 6


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    directory: Path
    seed: int
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    outcomes: Outcomes | Episodes

    def figure(self, name: str, relation: str | None = None) -> np.ndarray | None:
        """Returns the outcomes of a figure, or [1] the value that `result.json` gives the run.

        Of what `result.json` nests, dots part the names, as in `dev.em`. None means that the run can't
        measure it. A name that is neither raises `KeyError`. Episodes that were drawn have no figures of
        their own: a seed's mean return is one number. `strata` says how those of listed ones are
        averaged.
        """
        try:
            if isinstance(self.outcomes, Episodes):
                if relation is not None:
                    raise KeyError(name)
                return self.outcomes.figure(name)[0]
            outcomes = self.outcomes.figure(name)
        except KeyError:
            given = flatten(self.result)
            if relation is not None or not (name in given and _is_number_or_none(given[name])):
                raise
            return None if given[name] is None else np.array([given[name]], float)
        if outcomes is None or relation is None:
            return outcomes
        assert isinstance(self.outcomes, Outcomes)
        asked = self.outcomes.of(relation)
        require(
            bool(asked.any()),
            f"{self.directory} has no question of the relation {relation!r}; "
            f"use one of {', '.join(sorted(set(self.outcomes.relations)))}.",
        )
        return self.outcomes.figure(name, relation)

    def is_single(self, name: str) -> bool:
        """Whether a figure is a number of the run, such as its seconds, and no mean of its records."""
        if isinstance(self.outcomes, Episodes):
            return name not in self.outcomes.summary()
        try:
            self.outcomes.figure(name)
        except KeyError:
            return True
        return False

    def strata(self, name: str) -> np.ndarray | None:
        """Returns [M] kinds, which count alike in the mean of a figure; None if there are none."""
        if isinstance(self.outcomes, Episodes):
            with contextlib.suppress(KeyError):
                return self.outcomes.figure(name)[1]
        return None


def record_run(run_dir: Path, destination: Path, *, overwrite: bool = False) -> Path:
    """Extracts a finished run into its small form, whole or not at all.

    Args:
      run_dir: a run directory with `config.json`, `result.json` and `predictions.jsonl` or
        `episodes.jsonl`.
      destination: the directory to make, `<results>/<table>/<row>/seed_<n>`.
      overwrite: whether to replace a run that is recorded there.

    Returns:
      The destination. Raises `UserError` if the run isn't finished, if `result.json` differs from
      the figures of its records by more than 1e-6, or if the destination is taken.
    """
    run_dir, destination = Path(run_dir), Path(destination)
    records = _require_finished(run_dir)
    config, result = (read_json_object(run_dir / name, "run it again.") for name in _FILES[:2])
    _require_result(run_dir, config, result, RECORDS[records])
    outcomes: Outcomes | Episodes
    if RECORDS[records] is Episodes:
        outcomes = read_episodes(run_dir / records)
    else:
        outcomes = Outcomes.from_records(read_predictions(run_dir / records))
    _require_agreement(run_dir, result, outcomes, records, 1e-6)
    require(
        overwrite or not destination.exists(),
        f"{destination} already holds a recorded run; remove it or choose another destination.",
    )
    try:
        _write_run(destination, config, result, outcomes)
    except OSError as error:
        raise UserError(
            f"{destination} can't be written ({error.strerror}); free space or choose another one."
        ) from error
    return destination


def _write_run(
    destination: Path,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    outcomes: Outcomes | Episodes,
) -> None:
    """Writes a recorded run beside its destination and renames it into place."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        for name, content in (("config.json", config), ("result.json", result)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (new / name).write_text(text, encoding="utf-8")
        (new / OUTCOMES).write_bytes(_pack(outcomes))
        if destination.exists():
            destination.rename(old)
        new.rename(destination)
    except OSError:
        if old.exists() and not destination.exists():
            old.rename(destination)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pack(outcomes: Outcomes | Episodes) -> bytes:
    """Returns outcomes as gzipped JSON columns; equal outcomes give equal bytes."""
    columns = vars(outcomes) if isinstance(outcomes, Episodes) else _question_columns(outcomes)
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _question_columns(outcomes: Outcomes) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    if outcomes.strict_em is not None:
        measured["strict_em"] = [int(value) for value in outcomes.strict_em]
    if outcomes.contains is not None:
        measured["contains"] = [int(value) for value in outcomes.contains]
    if outcomes.answer_rank is not None:
        measured["answer_rank"] = [int(rank) or None for rank in outcomes.answer_rank]
    return {
        "retrieved": outcomes.retrieved,
        "id": outcomes.ids,
        "relation": outcomes.relations,
        "em": [int(value) for value in outcomes.em],
        "f1": outcomes.f1.tolist(),
        "rank": [int(rank) or None for rank in outcomes.rank],
        # null of a question that has no gold passage
        "posterior_mass": [
            round(float(mass), _MASS_DIGITS) if gold else None
            for mass, gold in zip(outcomes.mass, outcomes.gold, strict=True)
        ],
    } | measured


def read_outcomes(path: Path) -> Outcomes | Episodes:
    """Reads the outcomes of a recorded run.

    Raises:
      UserError: they can't be read.
    """
    try:
        columns = parse_json(gzip.decompress(path.read_bytes()))
        if "returns" in columns:
            return Episodes(**columns)
        outcomes = Outcomes(
            ids=tuple(columns["id"]),
            relations=tuple(columns["relation"]),
            em=np.array(columns["em"], float),
            strict_em=np.array(columns["strict_em"], float) if "strict_em" in columns else None,
            answer_rank=_ranks(columns["answer_rank"]) if "answer_rank" in columns else None,
            f1=np.array(columns["f1"], float),
            contains=np.array(columns["contains"], float) if "contains" in columns else None,
            rank=_ranks(columns["rank"]),
            mass=np.array(columns["posterior_mass"], float),
            retrieved=columns["retrieved"],
        )
        lengths = {len(columns[name]) for name in columns if name != "retrieved"}
        if lengths != {len(set(outcomes.ids))} or not outcomes.ids:
            raise ValueError("columns of unequal length or repeated ids")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}); record the run again.") from error
    return outcomes


def _ranks(column: Sequence[int | None]) -> np.ndarray:
    return np.array([rank or 0 for rank in column], int)


def load_runs(row_dir: Path, seeds: Sequence[int]) -> list[Run]:
    """Reads the recorded runs of one row, by ascending seed; those that aren't there are left out.

    Args:
      row_dir: `<results>/<table>/<row>`, which may be missing.
      seeds: the seeds that the table declares.

    Returns:
      The runs. Raises `UserError` if a run has a seed that isn't declared (a mean over a choice of
      seeds is no mean), or if the configs of two runs differ in anything but the seed.
    """
    declared = {f"seed_{seed}": seed for seed in sorted(seeds)}
    for found in sorted(row_dir.glob("seed_*")):
        require(
            found.name in declared,
            f"{found} is a run of a seed that the table doesn't declare; "
            "add it to the table's seeds or remove the run.",
        )
    runs = [
        _load_run(row_dir / name, seed)
        for name, seed in declared.items()
        if (row_dir / name / "result.json").exists()
    ]
    for run in runs[1:]:
        fields = _differences(_without_seed(runs[0].config), _without_seed(run.config))
        require(
            not fields,
            f"{run.directory} and {runs[0].directory.name} differ in {', '.join(fields)}, so they "
            "are no runs of one row; run one config with every seed.",
        )
    return runs


def require_same_questions(runs: Sequence[Run]) -> None:
    """Raises `UserError` unless all runs that answer questions answered the same ones."""
    asked = [(run, *_questions(run.outcomes)) for run in runs if run.outcomes.ids]
    others = [run for run in runs if not run.outcomes.ids]
    require(
        not asked or not others,
        f"{others and others[0].directory} has drawn its episodes and {asked and asked[0][0].directory} "
        "has played each question; run and record the former again.",
    )
    for run, ids, kinds in asked[1:]:
        first, first_ids, first_kinds = asked[0]
        apart = set(first_ids) ^ set(ids)
        require(
            not apart,
            f"{run.directory} and {first.directory} answer different questions, {len(apart)} of "
            f"them in one only (such as {min(apart, default='')!r}); evaluate both on one split.",
        )
        require(
            first_ids == ids and first_kinds == kinds,
            f"{run.directory} and {first.directory} order or classify the same questions "
            "differently; record both again from one version of the task.",
        )


def _questions(outcomes: Outcomes | Episodes) -> tuple[list[str], list[Any]]:
    """Returns the ids and the kinds of the questions answered, and whether they have gold passages."""
    if isinstance(outcomes, Episodes):
        return list(outcomes.ids), list(outcomes.kinds)
    kinds = zip(outcomes.relations, outcomes.gold.tolist(), strict=True)
    return list(outcomes.ids), list(kinds)


def _load_run(directory: Path, seed: int) -> Run:
    config, result = (
        read_json_object(directory / name, "record the run again.") for name in _FILES[:2]
    )
    outcomes = read_outcomes(directory / OUTCOMES)
    _require_result(directory, config, result, type(outcomes))
    require(
        result["seed"] == seed,
        f"{directory} holds a run with seed {result['seed']}; move it to seed_{result['seed']}.",
    )
    _require_agreement(directory, result, outcomes, OUTCOMES, 10.0 ** (1 - _MASS_DIGITS))
    return Run(directory, seed, config, result, outcomes)


def _require_finished(run_dir: Path) -> str:
    """Checks that a run has ended; returns the name of its records, by questions or by episodes."""
    require(run_dir.is_dir(), f"run directory {run_dir} doesn't exist; name one that does.")
    found = next((name for name in RECORDS if (run_dir / name).is_file()), "predictions.jsonl")
    for name in ("result.json", "config.json", found):
        require(
            (run_dir / name).is_file(),
            f"run directory {run_dir} has no {name}, so the run isn't finished; resume it first.",
        )
    return found


def _require_result(
    directory: Path, config: Mapping[str, Any], result: Mapping[str, Any], kind: type
) -> None:
    lacking = [name for name in (*REQUIRED_FIGURES[kind], *REQUIRED_FACTS) if name not in result]
    require(
        not lacking,
        f"{directory / 'result.json'} lacks {', '.join(lacking)}; evaluate the run again.",
    )
    require(
        config.get("seed") == result["seed"],
        f"{directory} has seed {config.get('seed')} in config.json but {result['seed']} in "
        "result.json; run it again.",
    )


def _require_agreement(
    directory: Path,
    result: Mapping[str, Any],
    outcomes: Outcomes | Episodes,
    source: str,
    tolerance: float,
) -> None:
    """Refuses a result with a figure that differs from the one that its records give."""
    given = flatten(result)
    episodes = isinstance(outcomes, Episodes)
    found = outcomes.summary() if episodes else summarise_outcomes(outcomes)
    for name, value in flatten(found).items():
        if name not in given:
            continue  # a figure that this result doesn't report
        same = given[name] is value
        if _is_number(given[name]) and _is_number(value):
            same = abs(given[name] - value) <= tolerance
        require(
            same,
            f"{directory / 'result.json'} gives {name} as {given[name]}, but {source} beside it "
            f"gives {value}; evaluate the run again.",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config but for its seed, and the devices, which don't make it another."""
    return {name: value for name, value in config.items() if name not in ("seed", "mesh")}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"a.b": leaf} of nested mappings; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return leaves


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns "field (one value against the other)" for each field that differs."""
    here, there = flatten(first), flatten(second)
    absent = "nothing"
    return [
        f"{name} ({here.get(name, absent)!r} against {there.get(name, absent)!r})"
        for name in sorted({*here, *there})
        if (name in here) != (name in there) or here.get(name) != there.get(name)
    ]
