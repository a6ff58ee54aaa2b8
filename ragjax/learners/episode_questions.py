"""The questions that a policy's environment asks: that they are those that its run began with."""

from pathlib import Path

from ragjax.data.report import REPORT, DataReport, digests
from ragjax.envs.base import Environment
from ragjax.origin import read_origin
from ragjax.training.learner import Learner


class EpisodeQuestions(Learner):
    """The part of a learner of episodes that keeps digests of the questions that are asked in them.

    Attributes:
      env: the environment's spec as this run uses it.
    """

    env: Environment

    @property
    def files(self) -> tuple[str, ...]:
        """See `Learner.files`."""
        return () if self.env.asks() is None else (REPORT,)

    def save(self, run_dir: Path) -> None:
        """Writes the digests; how much of the questions is read, is their reader's to say."""
        if asked := self.env.asks():
            _, data = asked
            DataReport(digests(data), len(data.passages), None, {}, data.notes).save(run_dir)

    def require_same_questions(self, run_dir: Path) -> None:
        """Checks that the questions are still those that a run began with.

        Raises:
          UserError: says which of them are others.
        """
        asked = self.env.asks()
        if asked and REPORT in read_origin(run_dir)["files"]:  # runs of older versions kept none
            task, data = asked
            DataReport.load(run_dir).require_same(data, run_dir, task)
