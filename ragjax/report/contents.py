"""What stands on the page of some paths: of runs, sweeps and experiments."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ragjax.errors import require
from ragjax.printing import PlainConsole
from ragjax.report.blocks import Page, Section
from ragjax.report.curves import curves_section
from ragjax.report.decisions import decisions_section
from ragjax.report.experiments import experiment_sections
from ragjax.report.figures import episodes_section, questions_section
from ragjax.report.questions import explorer_section
from ragjax.report.runs import Group, grouped, read_run, run_directories, runs_section
from ragjax.report.sweeps import sweep_report
from ragjax.sweep.store import SWEEP

NAMED = 4  # paths in a title


def report_page(paths: Sequence[Path], episodes: int, console: PlainConsole) -> Page:
    """Returns the page.

    Args:
      paths: directories of runs, of `seed_<n>` runs or of sweeps, and files of experiments.
      episodes: that each policy plays anew, to show its decisions.
      console: where progress is told.

    Raises:
      UserError: a path is none of them or given twice, or what it holds can't be read.
    """
    sections: list[Section] = []
    measured: list[Group] = []
    directories: list[Path] = []
    given: set[Path] = set()
    for path in paths:
        require(
            path.exists(), f"{path} does not exist; name a run, a sweep or an experiment's file."
        )
        require(path.resolve() not in given, f"{path} is given more than once; give it once.")
        given.add(path.resolve())
        if path.is_file() and path.suffix == ".py":
            sections += experiment_sections(path)
        elif (path / SWEEP).is_file():
            found, groups = sweep_report(path)
            sections += found
            measured += groups
        else:
            directories += run_directories(path)
    once = list({place.resolve(): place for place in directories}.values())
    groups = _told_apart([*grouped([read_run(place) for place in once]), *measured])
    if groups:
        sections += [
            runs_section(groups),
            questions_section(groups),
            episodes_section(groups),
            curves_section(groups),
            explorer_section(groups),
            decisions_section(groups, episodes, console),
        ]
    names = [path.resolve().name for path in paths]
    more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
    return Page(", ".join(names[:NAMED]) + more, sections)


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """Numbers groups of one label, such as trials of several sweeps."""
    labels = [group.label for group in groups]
    return [
        group
        if labels.count(group.label) == 1
        else replace(group, label=f"{group.label} ({1 + labels[:place].count(group.label)})")
        for place, group in enumerate(groups)
    ]
