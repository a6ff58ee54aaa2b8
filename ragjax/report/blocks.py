"""What a page consists of: sections of blocks, which the page's scripts draw from their JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

Number = int | float


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Attributes:
      KIND: by which the scripts know it.
    """

    KIND: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Its kind and its fields."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {"kind": self.KIND} | {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Block):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Words(Block):
    """Paragraphs, in which backticks and double stars mean what they do in Markdown.

    Attributes:
      paragraphs: one after another.
      note: whether they say what is cut, missing or to be known of what stands beside them.
    """

    KIND: ClassVar[str] = "words"

    paragraphs: Sequence[str]
    note: bool = False


@dataclass(frozen=True)
class Table(Block):
    """A table that can be sorted by each column; a column of numbers is sorted as numbers.

    Attributes:
      title: its caption.
      columns: their labels.
      rows: the cells.
      note: what the cells are.
    """

    KIND: ClassVar[str] = "table"

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Folded(Block):
    """Blocks that are shown when their reader asks for them."""

    KIND: ClassVar[str] = "folded"

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Line:
    """A curve, or points.

    Attributes:
      label: what the legend calls it.
      color: number of its colour; equal numbers are equal colours on the whole page.
      x: [n] positions.
      y: [n] heights; NaN leaves a gap.
      low: [n] lower edge of the band, or None.
      high: [n] upper edge.
      dash: solid, dashed or dotted.
    """

    label: str
    color: int
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None
    dash: str = "solid"


@dataclass(frozen=True)
class Chart(Block):
    """Curves, or points, over numbers or names.

    Attributes:
      title: its heading.
      x_label: what the horizontal axis shows.
      y_label: what the vertical axis shows.
      lines: what is drawn.
      marks: (label, height) of horizontal lines for reference.
      points: whether the points stand alone, not joined to curves.
      log: whether the horizontal axis is logarithmic.
      names: (position, name) of what stands below the axis instead of numbers.
      range: lowest and highest height shown; None for all.
      note: sentences below.
    """

    KIND: ClassVar[str] = "chart"

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[tuple[str, Number]] = ()
    points: bool = False
    log: bool = False
    names: Sequence[tuple[Number, str]] = ()
    range: tuple[Number, Number] | None = None
    note: str = ""


@dataclass(frozen=True)
class Bars(Block):
    """Named numbers as bars, those of several labels side by side.

    Attributes:
      title: its heading.
      names: [n] what each group of bars is.
      labels: [m] what the legend calls each bar of a group.
      values: [m] of [n] lengths.
      note: sentences below.
    """

    KIND: ClassVar[str] = "bars"

    title: str
    names: Sequence[str]
    labels: Sequence[str]
    values: Sequence[Sequence[Number]]
    note: str = ""


@dataclass(frozen=True)
class Parallel(Block):
    """Lines through parallel axes, one for each trial, the best first.

    Attributes:
      title: its heading.
      axes: (label, lower end, upper end) of each.
      lines: of each trial its heights in [0, 1], NaN where it is not on the axis.
      labels: of each trial what it is.
      note: sentences below.
    """

    KIND: ClassVar[str] = "parallel"

    title: str
    axes: Sequence[tuple[str, str, str]]
    lines: Sequence[Sequence[Number]]
    labels: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class Grid(Block):
    """Blocks side by side, as many in a row as there is room for."""

    KIND: ClassVar[str] = "grid"

    blocks: Sequence[Block]


@dataclass(frozen=True)
class Explorer(Block):
    """Questions with what was answered and retrieved, to be filtered and looked at one by one.

    Attributes:
      passages: (id, title, text) of every passage; the text is None where it is not recorded.
      runs: of each its label, what is left out of it, and its questions, each by `columns`.
      columns: names of what a question is a list of.
    """

    KIND: ClassVar[str] = "explorer"

    passages: Sequence[tuple[str, str, str | None]]
    runs: Sequence[Mapping[str, Any]]
    columns: Sequence[str]


@dataclass(frozen=True)
class Decisions(Block):
    """Episodes, each a list of decisions with their probabilities.

    Attributes:
      episodes: of each {"label", "facts", "right" (None if nobody can tell), "decisions"}; a decision
        has "taken", "actions" [(name, probability)], "facts" and "passages" [(title, text, prior,
        posterior or None)].
    """

    KIND: ClassVar[str] = "decisions"

    episodes: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
      title: its heading.
      sections: in order; those without blocks are left out.
    """

    title: str
    sections: Sequence[Section]

    def to_json(self) -> dict[str, Any]:
        """What the scripts draw it from."""
        shown = [section for section in self.sections if section.blocks]
        sections = [
            {"title": each.title, "blocks": [block.to_json() for block in each.blocks]}
            for each in shown
        ]
        return {"title": self.title, "sections": sections}
