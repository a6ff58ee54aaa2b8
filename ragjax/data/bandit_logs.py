"""Logs of rounds in which a policy chose and was rewarded, for `ops.off_policy`: JSON lines, CSV, TSV.

A row is a round:

    column      holds                                                     may be called
    context     a number or text, or a list of such; may be missing       context
    action      an item's id, or a list of them: an ordered slate         action, actions, item_id
    position    the place of a single item, from 1; may be missing        position
    propensity  the chance with which the logging policy chose it         propensity, pscore,
                                                                          propensity_score
    reward      a number                                                  reward, rewards, click
    target      the chance with which the policy that is evaluated        target
                chooses it; may be missing

A slate has one propensity (and target) of its own or a list with that of each place, and one reward or a
list likewise. In a table's cell a list is JSON. A log without propensities says nothing of another
policy: a missing one, and one that isn't above 0 and at most 1, is refused. Other lines that can't be
read are counted and named. From a log with targets to an estimate:

    log = load_log(Path("log.jsonl"))
    ratio = jnp.asarray(log.target / log.propensity)  # [n,1] of wholes, or [n,P] of places
    reward = jnp.asarray(log.reward)
    ips(reward.sum(axis=1), whole_weights(ratio))
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragjax.data.rows import parse_fields, read_rows
from ragjax.errors import UserError, require
from ragjax.files import parse_json

NAMES = {
    "context": ("context",),
    "action": ("action", "actions", "item_id"),
    "position": ("position",),
    "propensity": ("propensity", "pscore", "propensity_score"),
    "reward": ("reward", "rewards", "click"),
    "target": ("target",),
}
_SHOWN = 10  # line numbers that a message names
_KINDS = 1000  # of a text in the context, each of which is a column
_LARGEST = float(np.finfo(np.float32).max)


class LoggedRound(NamedTuple):
    """A round as it was logged.

    Attributes:
      line: of the file.
      context: numbers and texts.
      actions: ids of the items, the first place first.
      position: the place of a single item, from 0.
      propensities: of the whole, or of each place.
      rewards: of the whole, or of each place.
      targets: as the propensities; None where the log has none.
    """

    line: int
    context: tuple[float | str, ...]
    actions: tuple[str, ...]
    position: int
    propensities: tuple[float, ...]
    rewards: tuple[float, ...]
    targets: tuple[float, ...] | None


@dataclass(frozen=True)
class BanditLog:
    """A log as arrays of n rounds, slates of at most P places, and C numbers of context.

    Attributes:
      context: [n,C] float32; a text is a one among the zeros of all texts of its kind, in their order.
      items: ids, in the order of their text.
      action: [n,P] int32 rows of `items`, -1 for a place that a shorter slate doesn't have.
      position: [n] int32 the place of a single item, from 0.
      propensity: [n,1] of whole slates, or [n,P] of places, 1 for one that isn't there.
      reward: [n,1] of whole slates, or [n,P] of places, 0 for one that isn't there.
      target: as the propensity; None where the log has none.
      broken: (line, what is wrong with it) of the lines that were left out.
    """

    context: np.ndarray
    items: tuple[str, ...]
    action: np.ndarray
    position: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    target: np.ndarray | None
    broken: tuple[tuple[int, str], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, one sentence each."""
        if not self.broken:
            return ()
        total = len(self.action) + len(self.broken)
        return (
            f"{len(self.broken)} of {total} lines can't be read and are left out "
            f"({_lines(self.broken)})",
        )


def load_log(
    path: Path,
    *,
    fields: str = "",
    context: Sequence[str] = (),
    leave_out_broken: bool = False,
) -> BanditLog:
    """Reads a log into arrays.

    Args:
      path: a file of JSON lines, CSV or TSV, `.gz` or not; Open Bandit's are such.
      fields: what the file calls its columns, "action=shown,reward=bought".
      context: what the names of the columns begin with that are the context, in place of `context`: of
        Open Bandit's "user_feature_", "user-item_affinity_", or both.
      leave_out_broken: whether lines that can't be read are left out and counted (`BanditLog.notes`);
        else they are refused.

    Raises:
      UserError: there is no round, lines can't be read, a propensity is missing or impossible, a text of
        the context is of too many kinds, or rounds don't agree in whether there is one propensity,
        reward or target a slate or one a place.
    """
    broken: list[tuple[int, str]] = []
    rounds = list(read_rounds(path, fields=fields, context=context, broken=broken))
    if broken and not leave_out_broken:
        raise UserError(
            f"{path} has {len(broken)} of {len(rounds) + len(broken)} lines that can't be read "
            f"({_lines(broken)}), the first because {broken[0][1]}"
        )
    require(bool(rounds), f"{path} holds no round; name a log that does.")
    names = tuple(sorted({item for one in rounds for item in one.actions}))
    rows = {item: row for row, item in enumerate(names)}
    places = max(len(one.actions) for one in rounds)
    action = np.full((len(rounds), places), -1, np.int32)
    for number, one in enumerate(rounds):
        action[number, : len(one.actions)] = [rows[item] for item in one.actions]
    targets = [one.targets for one in rounds if one.targets is not None]
    require(
        len(targets) in (0, len(rounds)),
        f"{path} has a target in {len(targets)} of {len(rounds)} rounds; give all of them one, or none.",
    )
    return BanditLog(
        context=_encoded(path, [one.context for one in rounds]),
        items=names,
        action=action,
        position=np.array([one.position for one in rounds], np.int32),
        propensity=_columns(path, rounds, "propensities", 1.0),
        reward=_columns(path, rounds, "rewards", 0.0),
        target=_columns(path, rounds, "targets", 1.0) if targets else None,
        broken=tuple(broken),
    )


def read_rounds(
    path: Path,
    *,
    fields: str = "",
    context: Sequence[str] = (),
    broken: list[tuple[int, str]] | None = None,
) -> Iterator[LoggedRound]:
    """Yields the rounds of a log, one line after the other.

    Args:
      path: see `load_log`, as `fields` and `context`.
      fields: see `load_log`.
      context: see `load_log`.
      broken: takes (line, what is wrong with it) of every line that can't be read, which is then passed
        over; None to stop there.

    Raises:
      UserError: names the line that can't be read, or whose propensity is missing or impossible.
    """
    given = parse_fields(fields, tuple(NAMES), "fields")
    names = {column: (given[column],) if column in given else NAMES[column] for column in NAMES}

    def fail(number: int, error: UserError) -> None:
        if broken is None:
            raise error
        broken.append((number, str(error)))

    width = None
    for number, values in read_rows(path, fail):
        row = _Round(f"{path}, line {number}", values, names)
        propensities = row.propensities()
        try:
            one = row.read(number, propensities, context)
            width = len(one.context) if width is None else width
            require(
                len(one.context) == width,
                f"{row.where} has {len(one.context)} entries of context, but the first round {width}; "
                "give all as many.",
            )
        except UserError as error:
            fail(number, error)
        else:
            yield one


class _Round:
    """One row, whose columns are read by what they hold."""

    def __init__(self, where: str, values: dict[str, Any], names: dict[str, tuple[str, ...]]):
        self.where, self._values, self._names = where, values, names

    def read(
        self, number: int, propensities: tuple[float, ...], context: Sequence[str]
    ) -> LoggedRound:
        """All of the round."""
        actions = self._actions()
        rewards = self._numbers("reward")
        require(
            bool(rewards), f"{self.where} has no 'reward'; add it, or name its column in fields."
        )
        targets = self._numbers("target") or None
        for name, found in (("propensity", propensities), ("reward", rewards), ("target", targets)):
            require(
                found is None or len(found) in (1, len(actions)),
                f"{self.where} has {len(found or ())} of {name!r} for {len(actions)} items; give "
                "one, or one for each.",
            )
        for target in targets or ():
            require(
                0 <= target <= 1,
                f"{self.where}: 'target' is {target:g}; it must be within 0 and 1.",
            )
        return LoggedRound(
            line=number,
            context=self._context(context),
            actions=actions,
            position=self._position(len(actions)),
            propensities=propensities,
            rewards=rewards,
            targets=targets,
        )

    def propensities(self) -> tuple[float, ...]:
        """What no round is without."""
        values = self._numbers("propensity")
        require(
            bool(values),
            f"{self.where} has no 'propensity', without which nothing can be said of another policy; "
            "add it, or name its column in fields.",
        )
        for value in values:
            require(
                0 < value <= 1,
                f"{self.where}: 'propensity' is {value:g}; a choice that was made had a chance above 0 "
                "and at most 1.",
            )
        return values

    def _list(self, column: str) -> tuple[Any, ...]:
        """The entries of a column, () where it is missing or empty."""
        name = next((name for name in self._names[column] if name in self._values), None)
        value = None if name is None else self._values[name]
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError as error:
                raise UserError(
                    f"{self.where}: {column!r} is {value!r}, which begins like a JSON list and is none "
                    f"({error}); mend it."
                ) from error
        if value is None or value == "":
            return ()
        return tuple(value) if isinstance(value, list) else (value,)

    def _numbers(self, column: str) -> tuple[float, ...]:
        return tuple(self._number(column, value) for value in self._list(column))

    def _number(self, column: str, value: Any) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        require(
            math.isfinite(found),
            f"{self.where}: {column!r} is {value!r}; it must be a finite number.",
        )
        return found

    def _actions(self) -> tuple[str, ...]:
        found = self._list("action")
        require(bool(found), f"{self.where} has no 'action'; add it, or name its column in fields.")
        for item in found:
            whole = isinstance(item, int) and not isinstance(item, bool)
            require(
                whole or (isinstance(item, str) and bool(item)),
                f"{self.where}: 'action' holds {item!r}; an item is a text or a whole number.",
            )
        names = tuple(str(item) for item in found)
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"{self.where} shows {twice!r} twice; a slate shows an item once.")
        return names

    def _position(self, places: int) -> int:
        found = self._numbers("position")
        require(
            not found or (places == 1 and len(found) == 1),
            f"{self.where} gives a 'position' to a slate, whose items stand in order; leave it out.",
        )
        place = found[0] if found else 1.0
        require(
            place >= 1 and place.is_integer(),
            f"{self.where}: 'position' is {place:g}; it must be a whole number from 1.",
        )
        return int(place) - 1

    def _context(self, prefixes: Sequence[str]) -> tuple[float | str, ...]:
        if not prefixes:
            return tuple(self._feature(value) for value in self._list("context"))
        names = [name for name in self._values if name.startswith(tuple(prefixes))]
        require(
            bool(names),
            f"{self.where} has no column that begins with {' or '.join(prefixes)}; name the context's.",
        )
        return tuple(self._feature(self._values[name]) for name in names)

    def _feature(self, value: Any) -> float | str:
        """A finite number where it is or reads like one, else a text."""
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            require(
                isinstance(value, str),
                f"{self.where}: 'context' holds {value!r}; write numbers and texts.",
            )
            return value
        require(
            abs(found) <= _LARGEST,
            f"{self.where}: 'context' holds {value!r}; write finite numbers, at most {_LARGEST:.2g}.",
        )
        return found


def _columns(path: Path, rounds: Sequence[LoggedRound], name: str, fill: float) -> np.ndarray:
    """[n,1] of the wholes, or [n,P] of the places."""
    found = [getattr(one, name) for one in rounds]
    whole = [one for one in rounds if len(one.actions) > 1 == len(getattr(one, name))]
    apart = [one for one in rounds if len(getattr(one, name)) > 1]
    if whole and apart:
        raise UserError(
            f"{path} has one of the {name} for the slate of line {whole[0].line}, and one for each "
            f"place in line {apart[0].line}; write all in one way."
        )
    out = np.full((len(rounds), max(map(len, found))), fill)
    for number, values in enumerate(found):
        out[number, : len(values)] = values
    return out


def _encoded(path: Path, contexts: Sequence[tuple[float | str, ...]]) -> np.ndarray:
    """[n,C] the numbers, and a column of ones and zeros for each text."""
    columns = []
    for number, column in enumerate(zip(*contexts, strict=True), start=1):
        if not any(isinstance(value, str) for value in column):
            columns.append(np.array(column, np.float32)[:, None])
            continue
        kinds = sorted({str(value) for value in column})
        require(
            len(kinds) <= _KINDS,
            f"{path} has {len(kinds):,} different texts in entry {number} of the context, each of which "
            f"would be a column; leave it out, or group them into {_KINDS:,} at most.",
        )
        rows = {kind: row for row, kind in enumerate(kinds)}
        columns.append(np.eye(len(kinds), dtype=np.float32)[[rows[str(value)] for value in column]])
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(contexts), 0), np.float32)


def _lines(broken: Sequence[tuple[int, str]]) -> str:
    """Which lines, the first of them by their number."""
    shown = ", ".join(str(number) for number, _ in broken[:_SHOWN])
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return f"line{'s' * (len(broken) > 1)} {shown}{more}"
