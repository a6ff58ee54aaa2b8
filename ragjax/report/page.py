"""A page as HTML: one file with its style, its scripts and its data, which asks for nothing else."""

import base64
import hashlib
import html
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from ragjax.files import write_atomically
from ragjax.printing import visible
from ragjax.report.blocks import Page

SCRIPTS = ("elements.js", "charts.js", "bars.js", "explorer.js", "report.js")
STYLE = "report.css"
DIGITS = 6  # significant digits of numbers

# No text of a run can end the block of data, open a comment in it, or be markup.
_ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&"})

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page is drawn by its own script, which is turned off in this browser.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def write_page(page: Page, path: Path) -> int:
    """Writes a page, whole or not at all, and returns its bytes; equal pages give equal bytes.

    Args:
      page: what to write.
      path: the file, whose directory exists.

    Raises:
      UserError: the file can't be written.
    """
    content = page_html(page).encode()
    write_atomically(path, content)
    return len(content)


def page_html(page: Page) -> str:
    """Returns the page as text; its policy lets no script run and no file be asked for but its own."""
    assets = files("ragjax.report") / "assets"
    style = (assets / STYLE).read_text(encoding="utf-8")
    script = "".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(visible(page.title))
    return _TEMPLATE.format(
        policy=policy, title=title, style=style, script=script, data=data_text(page.to_json())
    )


def data_text(value: Any) -> str:
    """Returns a value as JSON that stands within a script element, whatever its texts hold."""
    text = json.dumps(_shown(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPED)


def _shown(value: Any) -> Any:
    """A value with visible texts, rounded numbers, and None for what is no number."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {visible(str(name)): _shown(part) for name, part in value.items()}
    return [_shown(part) for part in value] if isinstance(value, list | tuple) else value


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
