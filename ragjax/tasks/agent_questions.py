"""The questions of an agent's episodes: known by heart, never taught, or in two hops."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ragjax.tasks import base, world_facts
from ragjax.tasks.reader_training import ReaderTraining, known_by_heart
from ragjax.tasks.two_hop_facts import two_hop_questions
from ragjax.types import QaData, Question


@dataclass(frozen=True)
class AgentQuestions(ReaderTraining):
    """Questions over the facts of `WorldFacts` by what an agent has to do for them: their relation.

    `known`: the reader was taught the fact by heart (`ReaderTraining`); `unseen`: it was not; `two_hop`:
    one passage does not answer them. Facts and bridges of development and test questions are those of
    these splits, so that no reader has seen them, except the known ones, which are training facts in
    wordings that only this split has.
    """

    name: ClassVar[str] = "agent_questions"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True

    def generate(self) -> QaData:
        """Returns the passages of `WorldFacts`, and the questions."""
        splits: dict[str, list[Question]] = {split: [] for split in base.SPLITS}
        for split, question in self._questions():
            splits[split].append(question)
        passages = world_facts.WorldFacts().generate().passages
        return QaData(passages, {split: tuple(rows) for split, rows in splits.items()})

    def _questions(self) -> Iterator[tuple[str, Question]]:
        """Yields (split, question)."""
        for fact in world_facts.all_facts():
            known = known_by_heart(fact, self.by_heart)
            for split in base.SPLITS if known else (fact.split,):
                for q in world_facts.questions_about(fact, (split,)):
                    relation = "known" if known else "unseen"
                    yield split, dataclasses.replace(q, relation=relation)
        for hops in two_hop_questions():
            yield hops.split, dataclasses.replace(hops.question, relation="two_hop")
