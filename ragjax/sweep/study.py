"""What a sampler that learns remembers: a study of Optuna's, in a journal file or a database.

Workers ask for trials in groups, which are dealt to batches as those of other samplers are; the run
directories say what became of them, and the study is told. A trial whose worker died stays asked for,
and whoever takes its batch over goes on with it.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragjax.errors import UserError
from ragjax.sweep.plan import Generation, Plan
from ragjax.sweep.space import Space
from ragjax.sweep.spec import Sweep
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.trials import Trial, traced_fields

JOURNAL = "study.log"
_GROUP = "group"  # the attribute of a trial that says which others it was asked for with


class Study:
    """The studies of a sweep, one for each generation whose sampler learns.

    Every call holds the other workers off, so that the journal has one writer at a time.
    """

    def __init__(self, store: Store):
        """Opens the storage.

        Raises:
          UserError: Optuna is not installed, or the storage can't be used.
        """
        self._store, self._studies = store, dict[int, Any]()
        self._values: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._optuna = require_optuna()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other workers out of the storage, and mends what one that was killed left there."""
        with self._store.exclusive("study"):
            if not self._store.sweep.storage:
                mend_journal(self._store.directory / JOURNAL)
            yield

    def _storage(self, sweep: Sweep) -> Any:
        try:
            if sweep.storage:
                return self._optuna.storages.RDBStorage(sweep.storage)
            from optuna.storages.journal import JournalFileBackend

            path = str(self._store.directory / JOURNAL)
            backend = JournalFileBackend(path, lock_obj=_held_by_lease())
            return self._optuna.storages.JournalStorage(backend)
        except Exception as error:  # of Optuna, of SQLAlchemy and of a database's own package
            where = sweep.storage or self._store.directory / JOURNAL
            raise UserError(
                f"The storage {where} can't be used ({' '.join(str(error).split())[:200]}); start it, "
                "mend its address, or leave --storage out."
            ) from error

    def _study(self, place: int) -> Any:
        """The study of a generation."""
        if place not in self._studies:
            generation = self._store.generations[place]
            sweep = generation.sweep
            self._studies[place] = self._optuna.create_study(
                storage=self._storage(sweep),
                study_name=f"{self._store.name}-{place}",
                direction=sweep.direction,
                load_if_exists=True,
            )
        return self._studies[place]

    def groups(self, place: int) -> list[list[Mapping[str, Any]]]:
        """Field -> value of all trials of a generation, as they were asked for together."""
        with self._alone():
            trials = self._study(place).get_trials(deepcopy=False)
        groups: dict[int, list[Mapping[str, Any]]] = {}
        for trial in trials:
            if _GROUP in trial.user_attrs:  # else it is of an earlier generation, or half asked for
                key = (place, trial.number)
                if key not in self._values:
                    self._values[key] = self._drawn(self._store.generations[place], trial)
                groups.setdefault(trial.user_attrs[_GROUP], []).append(self._values[key])
        return list(groups.values())

    @staticmethod
    def _drawn(generation: Generation, trial: Any) -> dict[str, Any]:
        """What a trial suggests, field by field, since one may be varied given another."""
        values: dict[str, Any] = {}
        for vary in generation.sweep.space:
            if vary.given is None or vary.given.holds(values):
                values[vary.field] = vary.values.suggested(trial, vary.field)
        return values

    def ask(self, before: list[tuple[Trial, Outcome]]) -> int:
        """Draws the next trials of the newest generation, as many as one program takes.

        Args:
          before: the trials of earlier generations, from which it learns, too.

        Returns:
          How many; 0 if all are drawn.
        """
        place = len(self._store.generations) - 1
        generation = self._store.generations[place]
        sweep = generation.sweep
        with self._alone():
            study = self._study(place)
            trials, states = study.get_trials(deepcopy=False), self._optuna.trial.TrialState
            asked = [trial for trial in trials if _GROUP in trial.user_attrs]
            for trial in trials:  # of a worker that was killed while it drew
                if trial.state == states.RUNNING and _GROUP not in trial.user_attrs:
                    study.tell(trial.number, state=states.FAIL)
            if not asked:
                self._teach(study, sweep, before)
            left = sweep.count - generation.begun - len(asked)
            # As many as one program takes: one, unless it takes all trials of this space.
            shared = {vary.field for vary in sweep.space} <= traced_fields(sweep.base)
            count = max(0, min(left, max(1, sweep.side_by_side // sweep.seeds) if shared else 1))
            # Anew each time: else workers with one seed would all draw the same.
            study.sampler = sweep.sampler.optuna(sweep.sampler_seed + generation.begun + len(asked))
            for _ in range(count):
                trial = study.ask()
                self._drawn(generation, trial)
                trial.set_user_attr(_GROUP, len(asked))
        return count

    def _teach(self, study: Any, sweep: Sweep, before: list[tuple[Trial, Outcome]]) -> None:
        """Tells a new study the results of trials that lie in its space."""
        if study.get_trials(deepcopy=False):
            return
        found = [
            (trial, outcome.value)
            for trial, outcome in before
            if outcome.status == "finished" and outcome.value is not None
        ]
        study.add_trials(known_trials(sweep.space, found))

    def tell(self, trials: list[Trial], place: int) -> None:
        """Tells what has become of the trials of a generation.

        Args:
          trials: of the plan, which are found by their values.
          place: the generation.
        """
        states = self._optuna.trial.TrialState
        known = {_key(trial.values): self._store.outcome(trial) for trial in trials}
        with self._alone():
            study = self._study(place)
            for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                values = self._values.get((place, trial.number))
                outcome = Outcome() if values is None else known.get(_key(values), Outcome())
                if outcome.status == "open":
                    continue
                if outcome.status == "finished":
                    study.tell(trial.number, outcome.value)
                    continue
                stopped = outcome.status == "stopped"
                study.tell(trial.number, state=states.PRUNED if stopped else states.FAIL)


def plan_of(store: Store) -> Plan:
    """The plan of a sweep as it stands.

    Raises:
      UserError: a sampler that learns can't be asked what it has drawn.
    """
    if any(sweep.sampler.learns for sweep, _ in store.generations):
        return Plan(store.generations, Study(store).groups)
    return Plan(store.generations)


def known_trials(space: Space, found: Sequence[tuple[Trial, float]]) -> list[Any]:
    """Trials with their values as Optuna has them: those that vary every field of a space within it."""
    optuna, known = require_optuna(), []
    for trial, value in found:
        inside = trial.values.keys() == {vary.field for vary in space} and all(
            vary.values.holds(trial.values[vary.field]) for vary in space
        )
        if inside:
            params = {v.field: v.values.parameter(trial.values[v.field]) for v in space}
            drawn = optuna.trial.FixedTrial(params)
            for vary in space:
                vary.values.suggested(drawn, vary.field)
            known.append(
                optuna.trial.create_trial(
                    params=drawn.params, distributions=drawn.distributions, value=value
                )
            )
    return known


def require_optuna() -> Any:
    """The package, quiet.

    Raises:
      UserError: it isn't installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"A sampler that learns, or the importance of fields, needs Optuna ({error}); install it "
            "with `pip install 'ragjax[sweep]'`, or choose grid, random or sobol."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items(), key=lambda item: item[0]))


def mend_journal(path: Path) -> None:
    """Cuts off half a line at the end of a journal, which a killed worker left.

    Optuna reads a journal that ends so, but none that goes on after it.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _held_by_lease() -> Any:
    """A lock of Optuna's journal that does nothing: every writer holds a lease of ours."""
    from optuna.storages.journal._file import BaseJournalFileLock

    class Held(BaseJournalFileLock):
        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    return Held()
