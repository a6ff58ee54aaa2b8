"""Whether recorded runs support what a table claims: a row above another, or above a figure."""

import dataclasses
from typing import NamedTuple

from ragjax.errors import require
from ragjax.evaluation.rendering import measured_cell, recorded_runs
from ragjax.evaluation.statistics import LEVEL
from ragjax.evaluation.tables import Claim, MarkdownTable, Table, missing_runs

NAMED = 3  # missing runs that are named


class Checked(NamedTuple):
    """A claim, whether the runs support it, and both in words."""

    claim: Claim
    supported: bool
    sentence: str


def require_complete(table: Table | MarkdownTable) -> None:
    """Checks that no declared run is missing.

    Raises:
      UserError: names some that are.
    """
    missing = missing_runs(table)
    if isinstance(table, MarkdownTable):
        return
    some = ", ".join(f"{row.directory} seed {seed}" for row, seed, _ in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" * (len(missing) > NAMED)
    require(
        not missing,
        f"{len(missing)} of the {len(table.rows) * len(table.seeds)} runs of table {table.name!r} are "
        f"not recorded ({some}{more}); add --run to make them, or --partial to go without.",
    )


def checked_claims(table: Table | MarkdownTable) -> list[Checked]:
    """Looks at each claim of a table.

    A claim about two rows is supported if the interval of their paired difference (same seeds, same
    questions) lies on its side of 0; one about a figure, if the row's interval lies on its side of that.

    Raises:
      UserError: the table claims nothing, or its runs aren't comparable.
    """
    claims = () if isinstance(table, MarkdownTable) else table.claims
    require(bool(claims), "The table claims nothing; declare its claims, or leave --check out.")
    assert isinstance(table, Table)
    return [_checked(table, claim) for claim in claims]


def _checked(table: Table, claim: Claim) -> Checked:
    loaded = recorded_runs(table)
    rows = {row.directory: row for row in table.rows}
    column = next(column for column in table.columns if column.label == claim.column)
    paired = isinstance(claim.above, str)
    if isinstance(claim.above, str):
        other, bar = rows[claim.above].label, 0.0
        column = dataclasses.replace(column, against=claim.above)
    else:
        other, bar = f"{claim.above} ({claim.source})", float(claim.above)
    found = measured_cell(column, rows[claim.row], loaded)
    side = "below" if claim.below else "above"
    what = f"{rows[claim.row].label} {side} {other} in {claim.column}"
    if found is None:
        return Checked(claim, False, f"not measured: {what}")
    supported = found.high < bar if claim.below else found.low > bar
    digits = column.digits
    interval = f"{found.low:.{digits}f} to {found.high:.{digits}f}"
    told = f"{'difference ' * paired}{found.mean:.{digits}f}, {LEVEL:.0%} interval {interval}"
    return Checked(
        claim, supported, f"{'supported' if supported else 'NOT SUPPORTED'}: {what} ({told})"
    )
