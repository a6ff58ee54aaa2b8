"""What the commands do that train nothing: answer, table, plot, pages and config.

Each takes its parsed options, the overrides of a config, and the console of progress. It returns the
exit code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Table as RichTable
from tyro.conf import Positional, arg

from ragjax.errors import UserError, require
from ragjax.printing import (
    PlainConsole,
    print_error,
    print_json,
    print_line,
    print_text,
    typed_lines,
)
from ragjax.text import counted, shortened

# As in `ragjax.cli`, what is slow to import is imported by the commands that need it.


@dataclass(frozen=True)
class Answer:
    """Ask a run, or a config of pretrained weights; without a question, ask one after another."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory; or, with --passages, a config whose model comes with weights."""
    question: Positional[str | None] = None
    """The question."""
    json: bool = False
    """Print answer, probability and passages as JSON, a line for each question."""
    force: bool = False
    """Give an answer that the run is not sure of."""
    passages: Path | None = None
    """Other passages to answer from: a file of JSON lines, CSV or TSV, or a folder of texts."""


@dataclass(frozen=True)
class Export:
    """Write the pretrained models that a run has trained as directories that transformers opens."""

    run_dir: Positional[Path]
    """The run's directory."""
    directory: Positional[Path]
    """Where they go: `reader` and `encoder`, or whichever of them began with pretrained weights."""


@dataclass(frozen=True)
class Table:
    """Print the table of an experiment from its recorded runs."""

    experiment: Positional[Path]
    """The experiment's file, e.g. experiments/world_facts.py."""
    format: Literal["markdown", "latex", "csv"] = "markdown"
    """How to print it."""
    run: bool = False
    """Make and record the runs that are missing first."""
    runs: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where --run trains; runs if not given."""
    partial: bool = False
    """Print it though runs are missing."""
    check: bool = False
    """Say instead whether the runs support what the table claims; exit code 2 if not."""


@dataclass(frozen=True)
class Plot:
    """Draw the curves of runs, or the plots of an experiment from its recorded numbers."""

    what: Positional[tuple[Path, ...]]
    """Directories of runs, or of seed_<n> runs; or an experiment's file."""
    output: Annotated[Path | None, arg(metavar="PATH")] = None
    """The PNG of the runs' curves (curves.png if not given), or the directory of an experiment's
    pictures (results/<name of the file>, beside the file)."""
    figures: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Of runs: what to draw, by the names in metrics.jsonl; the main figures if not given."""
    run: bool = False
    """Of an experiment: measure and record the numbers anew first."""


@dataclass(frozen=True)
class Pages:
    """Write the pages of all tables and configs anew from the recorded runs."""

    directory: Positional[Path] = Path(".")
    """What holds experiments/, configs/ and README.md."""


@dataclass(frozen=True)
class Configs:
    """List the configs that came with the package, by name, with the first line of their docstring."""

    directory: Positional[Path | None] = None
    """Another directory of configs to list instead."""


@dataclass(frozen=True)
class ConfigShow:
    """Print all fields of a config: ragjax config show CONFIG|RUN [--field.sub value ...]."""

    config: Positional[Path]
    """A config file or name, or the directory of a run."""
    json: bool = False
    """As JSON, which a run's config.json holds."""


@dataclass(frozen=True)
class ConfigDiff:
    """Print the fields in which two configs differ, with both values."""

    first: Positional[Path]
    """A config file or name, or the directory of a run."""
    second: Positional[Path]
    """Another."""


def table(options: Any, _: list[str], console: PlainConsole) -> int:
    """Prints the table of an experiment, after making its missing runs if asked to."""
    from ragjax.evaluation.claims import checked_claims, require_complete
    from ragjax.evaluation.making import make_missing
    from ragjax.evaluation.rendering import render
    from ragjax.evaluation.tables import load_table

    require(
        options.run or options.runs is None,
        f"--runs is {options.runs}, but nothing is trained without --run; add that or leave it out.",
    )
    declared = load_table(options.experiment)
    if options.run:
        make_missing(declared, options.runs or Path("runs"), console)
    if not options.partial:
        require_complete(declared)
    if options.check:
        checked = checked_claims(declared)
        for claim in checked:
            print_line(claim.sentence)
        wrong = sum(not claim.supported for claim in checked)
        require(
            wrong == 0, f"{counted(wrong, 'claim')} of {len(checked)} not supported by the runs."
        )
        return 0
    print_text(render(declared, options.format).removesuffix("\n"))
    return 0


def plot(options: Any, _: list[str], console: PlainConsole) -> int:
    """Draws the curves of runs, or the plots of an experiment."""
    require(bool(options.what), "There is nothing to draw; name runs or an experiment's file.")
    if any(path.suffix == ".py" for path in options.what):
        return _plot_experiment(options, console)
    from ragjax.evaluation.curves import run_plots
    from ragjax.evaluation.plots import draw_panels

    require(not options.run, "--run is for an experiment's file; leave it out to draw runs.")
    output = options.output or Path("curves.png")
    require(
        output.suffix == ".png", f"--output is {output}; give the curves of runs a name in .png."
    )
    draw_panels(run_plots(options.what, options.figures), output)
    print_line(str(output))
    return 0


def _plot_experiment(options: Any, console: PlainConsole) -> int:
    from ragjax.evaluation import plots
    from ragjax.origin import provenance

    require(len(options.what) == 1, "An experiment's file is drawn by itself; name it alone.")
    require(not options.figures, "--figures is for runs; leave it out to draw an experiment.")
    (experiment,) = options.what
    results = plots.results_of(experiment)
    if options.run:
        console.print(f"measuring {experiment}")
        numbers = plots.measure(experiment)
        console.print(f"recorded {plots.record_figures(results, numbers | provenance())}")
    for declared in plots.load_plots(experiment):
        path = (options.output or results) / f"{declared.name}.png"
        plots.draw(declared, path)
        print_line(str(path))
    return 0


def pages(options: Any, _: list[str], console: PlainConsole) -> int:
    """Writes the generated pages anew and prints those that changed."""
    from ragjax.evaluation.pages import write_pages

    del console
    for path in write_pages(options.directory):
        print_line(str(path))
    return 0


def configs(options: Any, _: list[str], console: PlainConsole) -> int:
    """Prints the name and the first line of the docstring of each config."""
    from ragjax.evaluation.pages import config_summaries
    from ragjax.shipped import SHIPPED, config_name

    del console
    directory = options.directory or SHIPPED
    require(
        directory.is_dir(),
        f"{directory} is not a directory; name the one that holds the configs.",
    )
    for path, summary in config_summaries(directory).items():
        print_line(f"{config_name(path)}  {summary}")
    return 0


def config_show(options: Any, overrides: list[str], console: PlainConsole) -> int:
    """Prints all fields of a config or of a run's, after overrides."""
    from ragjax.config_views import show_config

    del console
    print_text(show_config(options.config, overrides, as_json=options.json))
    return 0


def config_diff(options: Any, _: list[str], console: PlainConsole) -> int:
    """Prints the fields in which two configs differ."""
    from ragjax.config_views import diff_configs

    del console
    print_text(diff_configs(options.first, options.second))
    return 0


def answer(options: Any, _: list[str], console: PlainConsole) -> int:
    """Answers a question or, without one, those of standard input one after another."""
    require(
        options.question is None or bool(options.question.strip()),
        "The question is empty; ask one in words.",
    )
    from ragjax import compiled
    from ragjax.commands import open_run
    from ragjax.config import load_config
    from ragjax.run_dir import untrained_run
    from ragjax.shipped import find_config

    compiled.keep_compiled()
    config = find_config(options.run_dir)
    if config.is_file() and config.suffix == ".py":
        require(
            options.passages is not None,
            f"{options.run_dir} is a config, of which nothing is trained yet; add --passages FILE for "
            "what its pretrained model is to answer from, or name a run.",
        )
        run = untrained_run(load_config(config), options.passages)
    else:
        run = open_run(options.run_dir, console)
        run = run if options.passages is None else run.over(options.passages)
    if options.passages is not None:
        asked: Any = run.learner  # of questions: no other is asked over passages
        for note in asked.report.sentences():
            console.print(note)
    if options.question is not None:
        _print_answer(run.answer(options.question, force=options.force), options.json)
        return 0
    code = 0
    for question in typed_lines("question> "):
        if question.strip():
            try:
                _print_answer(run.answer(question, force=options.force), options.json)
            except UserError as error:  # the next question may be a better one
                if options.json:
                    print_json({"question": question, "answer": None, "error": str(error)})
                else:
                    print_error(error)
                code = 2
    return code


def export(options: Any, _: list[str], console: PlainConsole) -> int:
    """Writes the pretrained models of a run, as it has trained them, for transformers to open."""
    from ragjax.commands import open_run
    from ragjax.models.pretrained.saving import save_all

    require(
        not options.directory.exists(),
        f"{options.directory} exists; name a directory that does not.",
    )
    run = open_run(options.run_dir, console)
    for path in save_all(options.directory, run.exported()):
        print_line(str(path))
    return 0


def _print_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    sure = f"confidence {answer['confidence']:.3f}" if "confidence" in answer else ""
    if answer["answer"] is None:
        reasons = ", ".join(answer.get("reasons", ()))
        least = f"at least {answer['threshold']:.3f} is asked" if sure else ""
        if sure and answer["threshold"] > 1:
            least = "on development questions more answers were wrong than right, at any confidence"
        print_line(f"no answer: {reasons} ({sure}; {least})" if sure else "no answer")
        if sure and answer["probability"] is not None:
            print_line("  note: --force shows the guess")
    else:
        said = answer["answer"] or "(an empty answer)"
        print_line(f"{said}  (probability {answer['probability']:.3f}{', ' * bool(sure)}{sure})")
    if "query" in answer:
        print_line(f"  searched for: {answer['query'] or '(nothing)'}")
    for note in answer["notes"]:
        print_line(f"  note: {note}")
    for decision in answer.get("decisions", ()):
        query = f": {decision['query']}" if "query" in decision else ""
        print_line(f"{decision['probability']:.3f}  {decision['action']}{query}")
        if "passages" in decision:
            print_passages(decision["passages"], ("prior",))
    if answer.get("passages"):
        print_passages(answer["passages"], ("prior", "posterior"))


def print_passages(passages: Sequence[dict[str, Any]], figures: Sequence[str]) -> None:
    """Prints passages as a table, each with some of its figures and the beginning of its text."""
    table = RichTable(*figures, box=None, pad_edge=False)
    table.add_column("passage", overflow="fold")
    for passage in passages:
        title = f"[{passage['title']}] " if passage["title"] else ""
        shown = shortened(f"{title}{passage['text']}")
        table.add_row(*(f"{passage[name]:.3f}" for name in figures), shown)
    PlainConsole().print(table)


def print_report(tables: Sequence[Any]) -> None:
    """Prints tables; where one is wider than the screen it is narrowed, and no word is cut short."""
    console = PlainConsole()
    for table in tables:
        shown = RichTable(*table.columns, title=table.title or None)
        for place, column in enumerate(shown.columns):
            column.justify, column.overflow = "right" if place else "left", "fold"
        for row in table.rows:
            shown.add_row(*row)
        roomy = console.options.update(max_width=1000)
        if console.measure(shown, options=roomy).maximum > console.width:
            shown.padding = 0
        console.print(shown)
