"""Tables inside a README, regenerated between two marker lines.

The first marker names the experiment file, `<!-- table:experiments/world_facts.py -->`, the second
one is `<!-- /table -->`. What stands between them is the output of `rendering.render`.
"""

import re
from itertools import pairwise
from pathlib import Path

from ragjax.errors import UserError, require
from ragjax.evaluation.rendering import render
from ragjax.evaluation.tables import load_table
from ragjax.files import write_atomically

_OPEN = re.compile(r"^<!-- table:(\S+) -->\n", re.MULTILINE)
_CLOSE = "<!-- /table -->"


def table_blocks(text: str) -> list[str]:
    """Returns the experiment files whose tables a README embeds; refuses unclosed blocks."""
    opened = list(_OPEN.finditer(text))
    limits = [*(match.start() for match in opened), len(text)]
    for match, (start, limit) in zip(opened, pairwise(limits), strict=True):
        require(
            f"\n{_CLOSE}" in text[start:limit],
            f"the block {match[0].strip()} isn't closed; add a line {_CLOSE} below it.",
        )
    return [match[1] for match in opened]


def replace_block(readme_text: str, name: str, table_text: str) -> str:
    """Returns a README with what stands between the markers of `name` replaced by a table."""
    count = table_blocks(readme_text).count(name)
    marker = f"<!-- table:{name} -->\n"
    require(count > 0, f"the README has no line {marker.strip()}; add it with {_CLOSE} below.")
    require(count == 1, f"the README has {count} lines {marker.strip()}; leave one of them.")
    start = readme_text.index(marker) + len(marker)
    end = readme_text.index(f"\n{_CLOSE}", start - 1)
    return f"{readme_text[:start]}{table_text.rstrip()}{readme_text[end:]}"


def update_readme(path: Path) -> bool:
    """Renders every table that a README embeds; returns whether the file changed.

    Experiment files are found from the README's directory.
    """
    path = Path(path)
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); name a README.") from error
    new = old
    for name in table_blocks(old):
        new = replace_block(new, name, render(load_table(path.parent / name)))
    if new != old:
        write_atomically(path, new.encode())
    return new != old
