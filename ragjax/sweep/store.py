"""The store of a sweep is its directory: what is to be done, what is done, and who does what.

    <sweep>/sweep.json              the sweep, and what it was before it was extended
            runs/<identity>/        a run, as `ragjax train` leaves it, and what became of it:
                  outcome.json      finished, failed or stopped; there once nothing is left to do
                  rung_<n>.json     its figures at a rung
            batches/<identity>/     the common state of runs that are trained in one program
            workers/<process>/      a lease for as long as a worker lives
            study.log               what a sampler that learns remembers
            winner.json             the trials whose runs were measured on test data

Every file is written whole and by one worker at a time, who holds a lease (`ragjax.lease`): whoever
finds what another one left, dead or alive, reads the truth. Nothing else is kept anywhere.
"""

import contextlib
import json
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ragjax.config import MODULES, config_json, from_json, to_json
from ragjax.config_differences import differing_fields, first_difference
from ragjax.errors import UserError, require
from ragjax.files import read_json_object, write_json
from ragjax.lease import InUseError, Lease, Owner, acquire, holder
from ragjax.sweep.plan import Generation, Plan
from ragjax.sweep.spec import Sweep
from ragjax.sweep.trials import Batch, SweepRun, Trial

SWEEP, OUTCOME, WINNER = "sweep.json", "outcome.json", "winner.json"
# What may change from one call of `ragjax sweep` to the next, if no worker is at work.
EXTENDS = ("space", "sampler", "trials", "seeds", "side_by_side", "sampler_seed")
POLL = 0.02  # seconds between two attempts to get what another worker holds for a moment

Status = Literal["open", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """What has become of a run, or of a trial.

    Attributes:
      status: open while something is left to do; stopped at a rung.
      value: the metric on development data, at the end or at the last rung; None if it has none.
      why: of a failed one.
      facts: of a run, what result.json has beside the figures of test data.
    """

    status: Status = "open"
    value: float | None = None
    why: str = ""
    facts: dict[str, Any] | None = None


class Store:
    """A sweep's directory.

    Attributes:
      directory: see above.
      generations: the sweep as it was first asked for, and as it was extended; from `open` on.
    """

    def __init__(self, directory: Path):
        """Names the directory; see `begin` and `open`."""
        self.directory, self.generations = directory, list[Generation]()
        self.name = ""  # that no other sweep has
        self._outcomes: dict[str, Outcome] = {}  # of runs that are done, which nothing changes
        self._rungs: dict[tuple[str, int], float] = {}

    # The sweep

    @property
    def sweep(self) -> Sweep:
        """The sweep as it was last asked for."""
        return self.generations[-1].sweep

    def open(self) -> None:
        """Reads a sweep that was begun.

        Raises:
          UserError: there is none.
        """
        path, remedy = self.directory / SWEEP, "begin the sweep again in another directory."
        require(
            path.is_file(),
            f"{path} is not there, so that this is no sweep; name a sweep file, a config with --vary, "
            "or the directory of a sweep.",
        )
        content = read_json_object(path, remedy)
        try:
            self.name, modules = content["name"], content[MODULES]
            found = [
                (from_json(of["sweep"], modules), int(of["begun"])) for of in content["generations"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is not a sweep's ({error!r}); {remedy}") from error
        self.generations = [Generation(sweep, begun) for sweep, begun in found]
        require(
            bool(found) and all(isinstance(sweep, Sweep) for sweep, _ in found),
            f"{path} does not hold a sweep; {remedy}",
        )

    def begin(self, sweep: Sweep, planned: Callable[["Store"], Plan]) -> list[str]:
        """Begins a sweep, or goes on with one that may have been extended.

        Args:
          sweep: as it is asked for.
          planned: gives the plan of this store, once it is open.

        Returns:
          A sentence on what is extended, if anything.

        Raises:
          UserError: it differs from the one that was begun in what can't be extended, or while others
            work on that; or it can't be written to JSON.
        """
        again = from_json(json.loads(json.dumps(to_json(sweep))), config_json(sweep)[MODULES])
        differs = first_difference(sweep, again)
        require(
            differs is None,
            f"{(differs or '').strip('.') or 'A part'} of the sweep is not the same once it was written "
            "as JSON and read again; hold it in plain values, tuples and dataclasses.",
        )
        with self.exclusive("begin"):
            if not (self.directory / SWEEP).is_file():
                self.name, self.generations = secrets.token_hex(6), [Generation(sweep, 0)]
                self._write()
                return []
            self.open()
            fields = differing_fields(to_json(self.sweep), to_json(sweep))
            if not fields:
                return []
            plan = planned(self)
            extended = Generation(sweep, self.generations[-1].begun + plan.drawn[-1])
            self._require_extends(extended, fields, plan)
            self.generations.append(extended)
            self._write()
            return [f"the sweep is extended; it differs in {', '.join(fields)}"]

    def _require_extends(self, extended: Generation, fields: Sequence[str], plan: Plan) -> None:
        sweep = extended.sweep
        where = f"The sweep in {self.directory}"
        fixed = [name for name in fields if name.partition(".")[0] not in EXTENDS]
        require(
            not fixed,
            f"{where} was begun with another {', '.join(fixed)}; give the same values or another "
            "--sweep-dir.",
        )
        alive, named = self.workers(), ", ".join(fields)
        require(
            not alive,
            f"{where} differs in {named}, but is at work with the former values ({', '.join(alive)}); "
            "stop that first, or give the same.",
        )
        had = self.sweep.seeds
        require(
            sweep.seeds >= had,
            f"seeds is {sweep.seeds}, but {where.lower()} has {had} already; give at least as many.",
        )
        if sweep.seeds > had:
            return
        new = sweep.count > extended.begun
        if not sweep.sampler.learns:
            known = {trial.runs[0].name for trial in plan.trials if trial.runs}
            drawn = Plan([extended]).trials
            new = any(trial.runs and trial.runs[0].name not in known for trial in drawn)
        require(
            new,
            f"{where} differs in {named}, but {extended.begun} trials are drawn and it would get no new "
            "one; give more --trials, or a wider space.",
        )

    def _write(self) -> None:
        modules: dict[str, str] = {}
        for sweep, _ in self.generations:
            modules |= config_json(sweep)[MODULES]
        listed = [{"sweep": to_json(sweep), "begun": begun} for sweep, begun in self.generations]
        content = {"name": self.name, "generations": listed, MODULES: modules}
        write_json(self.directory / SWEEP, content)

    def forget(self) -> None:
        """Reads anew, next time, what has become of runs."""
        self._outcomes.clear()
        self._rungs.clear()

    # Who does what

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Waits until no other worker is in a block of this name, and keeps them out."""
        lease = None
        while lease is None:
            try:
                lease = acquire(self.directory / f".{name}", lambda _: None)
            except InUseError:
                time.sleep(POLL * (0.5 + random.random()))
        try:
            yield
        finally:
            lease.release()

    def join(self) -> Lease:
        """Counts this process among the workers until the lease is released."""
        self.workers()
        return acquire(self.directory / "workers" / Owner.this().tag)

    def workers(self) -> list[str]:
        """The workers that live, in words; what dead ones left is removed."""
        place, found = self.directory / "workers", []
        for each in sorted(place.iterdir()) if place.is_dir() else []:
            who = holder(each)
            if who is None:
                shutil.rmtree(each, ignore_errors=True)
            else:
                found.append(who)
        return found

    def claim(self, batch: Batch, say: Callable[[str], None] = print) -> Lease | None:
        """Takes a batch for this worker; None if another one has it, or all is done.

        Args:
          batch: of the plan.
          say: told if it was taken over from a worker that is dead.
        """
        if self.is_done(batch):
            return None
        try:
            lease = acquire(self.place(batch), say)
        except InUseError:
            return None
        if self.is_done(batch):  # by who had it just now
            lease.release()
            return None
        return lease

    # What is done

    def run_dir(self, run: SweepRun) -> Path:
        """The directory of a run."""
        return self.directory / "runs" / run.name

    def place(self, batch: Batch) -> Path:
        """The directory of a batch; that of its run if it has a single one."""
        if len(batch.runs) == 1:
            return self.run_dir(batch.runs[0])
        return self.directory / "batches" / batch.name

    def run_outcome(self, run: SweepRun) -> Outcome:
        """What has become of a run.

        Raises:
          UserError: its file can't be read.
        """
        if run.name not in self._outcomes:
            path = self.run_dir(run) / OUTCOME
            if not path.exists():
                return Outcome()
            try:
                outcome = Outcome(**read_json_object(path, "delete it."))
            except TypeError as error:
                raise UserError(f"{path} is not an outcome ({error}); delete it.") from error
            value, number = outcome.value, isinstance(outcome.value, int | float)
            require(
                outcome.status in get_args(Status)
                and (number or (value is None and outcome.status != "finished")),
                f"{path} is not an outcome (status {outcome.status!r}, value {value!r}); delete it.",
            )
            self._outcomes[run.name] = outcome
        return self._outcomes[run.name]

    def record(self, run: SweepRun, outcome: Outcome) -> None:
        """Writes what has become of a run."""
        directory = self.run_dir(run)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / OUTCOME, asdict(outcome))
        self._outcomes[run.name] = outcome

    def outcome(self, trial: Trial) -> Outcome:
        """What has become of a trial: its value is the mean over its runs.

        It has failed or was stopped once one of its runs has or was.
        """
        if trial.refused:
            return Outcome("failed", why=trial.refused)
        each = [self.run_outcome(run) for run in trial.runs]
        values = [of.value for of in each if of.value is not None]
        mean = sum(values) / len(values) if values else None
        for status in ("failed", "stopped"):
            if found := [of for of in each if of.status == status]:
                return Outcome(status, mean if status == "stopped" else None, found[0].why)
        return Outcome() if any(of.status == "open" for of in each) else Outcome("finished", mean)

    def is_done(self, batch: Batch) -> bool:
        """Whether nothing is left to do for a batch."""
        return all(
            self.run_outcome(run).status != "open" or self.outcome(trial).status != "open"
            for trial in batch.trials
            for run in batch.runs_of(trial)
        )

    def runs_done(self) -> int:
        """Runs of which nothing is left to do."""
        return sum(1 for _ in (self.directory / "runs").glob(f"*/{OUTCOME}"))

    # Rungs

    def record_rung(self, run: SweepRun, rung: int, value: float, facts: dict[str, Any]) -> None:
        """Writes the figures of a run at a rung."""
        write_json(self._rung(run, rung), {"value": value} | facts)

    def _rung(self, run: SweepRun, rung: int) -> Path:
        return self.run_dir(run) / f"rung_{rung}.json"

    def rung_value(self, run: SweepRun, rung: int) -> float | None:
        """The value of a run at a rung; None if it hasn't been there."""
        if (run.name, rung) not in self._rungs:
            path = self._rung(run, rung)
            if not path.exists():
                return None
            found = read_json_object(path, "delete the sweep's directory and begin it again.")
            self._rungs[run.name, rung] = found["value"]
        return self._rungs[run.name, rung]

    def trial_at(self, trial: Trial, rung: int) -> float | None:
        """The mean value of a trial at a rung; None unless all of its runs have been there."""
        values = [self.rung_value(run, rung) for run in trial.runs]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if values and len(known) == len(values) else None

    def going(self, batch: Batch, rung: int) -> list[str] | None:
        """Which runs of a batch went on from a rung; None if that isn't decided."""
        path = self.place(batch) / f"going_{rung}.json"
        remedy = "delete the sweep's directory and begin it again."
        return read_json_object(path, remedy)["runs"] if path.exists() else None

    def decide(self, batch: Batch, rung: int, runs: Sequence[SweepRun]) -> None:
        """Writes which runs of a batch go on from a rung, before anything is done about it."""
        content = {"runs": [run.name for run in runs]}
        write_json(self.place(batch) / f"going_{rung}.json", content)
