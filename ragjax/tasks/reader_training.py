"""What the reader of an agent that decides when to retrieve is trained on, as questions with answers.

Beside the questions of `world_facts`, answered from a passage, it learns part of the facts by heart, and
to write the query of a further retrieval from a question and a first passage: a two-hop question about
"the country whose capital is Paris" becomes "currency of France". Queries are asked as questions, too.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import ragjax.tasks._sources as sources
from ragjax.errors import require
from ragjax.tasks import base, world_facts
from ragjax.tasks.two_hop_facts import two_hop_questions
from ragjax.types import QaData, Question

REWRITE = "Rewrite:"  # stands before a question whose next query is asked for, not its answer
QUERIES = {
    "capital": "capital of {n}",
    "currency": "currency of {n}",
    "highest_point": "highest point of {n}",
    "anthem": "anthem of {n}",
    "calling_code": "calling code of {n}",
    "city_country": "country of {n}",
    "element_number": "number of {n}",
    "number_element": "element number {n}",
}


@dataclass(frozen=True)
class ReaderTraining(world_facts.WorldFacts):
    """The passages and questions of `WorldFacts`, and three kinds of questions beside them.

    Their relation names the kind. `memory`: training questions about the facts to be known by heart,
    which name no passage (`objectives.likelihood.Likelihood.from_memory`); `query`: a fact asked for by
    its query; `rewrite`: `REWRITE` and a question, answered by its query. Of a two-hop question that is
    the query of the second hop, and its passage is that of the first: the reader is shown what the
    first hop has to find (supervision of the first hop).

    Attributes:
      by_heart: share of the training facts to be known by heart.
    """

    name: ClassVar[str] = "reader_training"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True

    by_heart: float = 0.2

    def __post_init__(self):
        """Checks the fields."""
        require(
            0 <= self.by_heart <= 1, f"task.by_heart is {self.by_heart}; it is a share, 0 to 1."
        )

    def generate(self) -> QaData:
        """Returns the passages of `WorldFacts`, and all questions."""
        plain = super().generate()
        questions = [(split, q) for split, rows in plain.splits.items() for q in rows]
        questions.extend(self._further_questions())
        return QaData(passages=plain.passages, splits=base.assemble(questions))

    def _further_questions(self) -> Iterator[tuple[str, Question]]:
        """Yields (split, question) for everything beside the plain questions."""
        for fact in world_facts.all_facts():
            if known_by_heart(fact, self.by_heart):
                for q in world_facts.questions_about(fact, thorough=True):
                    yield (
                        fact.split,
                        dataclasses.replace(
                            q, id=f"memory/{q.id}", positives=(), relation="memory"
                        ),
                    )
            query = query_for(fact)
            asked = tuple(world_facts.questions_about(fact))
            some = base.pick(asked, f"rewrite/{fact.relation}/{fact.subject}")
            yield (
                fact.split,
                dataclasses.replace(some, id=f"query/{some.id}", question=query, relation="query"),
            )
            yield fact.split, _rewriting(some, query, some.positives)
        for hops in two_hop_questions():
            query = query_for(hops.second)
            yield hops.split, _rewriting(hops.question, query, hops.question.positives[:1])


def known_by_heart(fact: world_facts.Fact, share: float) -> bool:
    """Whether a fact is one that the reader is to know by heart: `share` of the training facts are."""
    key = f"by_heart/{fact.relation}/{sources.slug(fact.subject)}"
    return fact.split == "train" and base.fraction(key) < share


def query_for(fact: world_facts.Fact) -> str:
    """The query that asks for a fact in few words."""
    return QUERIES[fact.relation].format(n=fact.phrase.removeprefix("the "))


def _rewriting(question: Question, query: str, positives: tuple[str, ...]) -> Question:
    """The question whose answer is the query made of another question and its first passage."""
    return dataclasses.replace(
        question,
        id=f"rewrite/{question.id}",
        question=f"{REWRITE} {question.question}",
        answers=(query,),
        positives=positives,
        relation="rewrite",
    )
