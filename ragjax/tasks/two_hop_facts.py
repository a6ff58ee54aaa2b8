"""The facts of `world_facts`, with questions that take two passages: "the country where Lyon lies".

A two-hop question names a country by its capital or by one of its cities, and asks for another fact
about it. The first passage tells the country, the second the answer.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import ragjax.tasks._sources as sources
from ragjax.tasks import base, world_facts
from ragjax.types import QaData, Question

# How a two-hop question names the country, by the relation of its first hop and the split.
BRIDGES = {
    "capital": {
        "train": (
            "the country whose capital is {n}",
            "the country governed from {n}",
            "the country with the capital {n}",
        ),
        "dev": ("the country that has {n} as its capital",),
        "test": ("the country that {n} is the capital of", "the nation whose capital is {n}"),
    },
    "city": {
        "train": (
            "the country where {n} lies",
            "the country with the city {n}",
            "the country that {n} belongs to",
        ),
        "dev": ("the country in which {n} is found",),
        "test": ("the country in which {n} lies", "the nation with the city of {n}"),
    },
}
SECOND_HOPS = ("capital", "currency", "highest_point", "anthem", "calling_code")
_ASKED = 2  # phrasings of each two-hop question


class TwoHops(NamedTuple):
    """A two-hop question, its split, and the two facts that answer it."""

    split: str
    question: Question
    first: world_facts.Fact
    second: world_facts.Fact


@dataclass(frozen=True)
class TwoHopFacts(world_facts.WorldFacts):
    """The passages and questions of `WorldFacts`, and two-hop questions over its countries.

    The relation of a two-hop question is that of its hops, such as "capital_currency"; its positives
    are both passages, first hop first; its entity is the capital or city that it names, and its split
    that of the country.
    """

    name: ClassVar[str] = "two_hop_facts"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True

    def generate(self) -> QaData:
        """Returns the passages of `WorldFacts`, its questions and the two-hop questions."""
        single = super().generate()
        questions = [(split, q) for split, rows in single.splits.items() for q in rows]
        questions.extend((hops.split, hops.question) for hops in two_hop_questions())
        return QaData(passages=single.passages, splits=base.assemble(questions))


def _bare(name: str) -> str:
    """Returns a name's letters and digits, in which no two splits may agree (`base.assemble`)."""
    return "".join(c for c in name.casefold() if c.isalnum())


def two_hop_questions() -> Iterator[TwoHops]:
    """Yields the questions about every capital and city with a fact about its country."""
    facts = list(world_facts.country_facts())
    about = {(fact.subject, fact.relation): fact for fact in facts}
    capitals = [fact for fact in facts if fact.relation == "capital"]
    names = Counter(_bare(fact.answers[0]) for fact in capitals)
    names.update({_bare(fact.subject) for fact in facts})
    bridges = [
        ("capital", fact.answers[0], fact.subject, fact)
        for fact in capitals
        if names[_bare(fact.answers[0])] == 1  # "Georgetown" and "George Town" tell no country
    ]
    bridges += [("city", fact.subject, fact.answers[0], fact) for fact in world_facts.city_facts()]
    for kind, named, country, first in bridges:
        for relation in SECOND_HOPS:
            second = about.get((country, relation))
            if second is None or relation == kind:
                continue
            if any(answer in named for answer in second.answers):  # New Taipei City and Taipei
                continue
            positives = tuple(world_facts.passage_of(fact).id for fact in (first, second))
            asked = world_facts.wordings(relation)[second.split]
            ways = BRIDGES[kind][second.split]
            for number in range(_ASKED):
                key = f"{kind}_{relation}/{sources.slug(named)}/{number + 1}"
                # Neighbouring places in the list, so that the phrasings of a question differ.
                start = int(base.fraction(f"two_hop/{kind}_{relation}/{named}") * len(asked))
                phrase = base.pick(ways, f"bridge/{key}").format(n=named)
                wording = asked[(start + number) % len(asked)]
                question = Question(
                    id=key,
                    question=wording.format(n=phrase, N=world_facts.capitalised(phrase)),
                    answers=second.answers,
                    positives=positives,
                    relation=f"{kind}_{relation}",
                    entity=named,
                )
                yield TwoHops(second.split, question, first, second)
