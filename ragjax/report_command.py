"""The report command: `ragjax report RUN... | SWEEP | EXPERIMENT`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ragjax.errors import require
from ragjax.files import check_output
from ragjax.printing import PlainConsole, print_line

# As in `ragjax.cli`, what is slow to import is imported where it is needed.


@dataclass(frozen=True)
class Report:
    """Write one HTML page of runs, of a sweep or of an experiment, to be opened anywhere."""

    what: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN|SWEEP|EXPERIMENT")]
    """Directories of runs, of seed_<n> runs or of sweeps, or files of experiments."""
    output: Annotated[Path, arg(metavar="PATH.html", aliases=["-o"])] = Path("report.html")
    """The page."""
    episodes: int = 12
    """Episodes that a policy plays anew, so that its decisions are shown; 0 for none."""


def report(options: Any, _: list[str], console: PlainConsole) -> int:
    """Writes the page and says where it is and how large."""
    require(
        bool(options.what),
        "There is nothing to report; name runs, a sweep or an experiment's file.",
    )
    output = options.output
    require(output.suffix == ".html", f"--output is {output}; give the page a name in .html.")
    check_output("--output", output, {})
    require(options.episodes >= 0, f"--episodes is {options.episodes}; give 0 or more.")
    from ragjax.report.contents import report_page
    from ragjax.report.page import write_page

    page, older = report_page(options.what, options.episodes, console), output.exists()
    size = write_page(page, output)
    print_line(f"{output}: {size / 1e6:.2f} MB{', in place of the one that was there' * older}")
    return 0
