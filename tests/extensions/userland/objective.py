"""An objective: halfway between a passage for the whole answer and one for each token."""

from dataclasses import dataclass

from ragjax.objectives.likelihood import RagToken
from ragjax.ops.marginal import rag_sequence, rag_token


@dataclass(frozen=True)
class Halfway(RagToken):
    """share · RAG-Sequence + (1 - share) · RAG-Token, in log-likelihood.

    Attributes:
      share: weight of RAG-Sequence.
    """

    share: float = 0.5

    def log_marginal(self, log_prior, token_logprobs, mask):
        whole = rag_sequence(log_prior, token_logprobs, mask)
        each = rag_token(log_prior, token_logprobs, mask)
        return self.share * whole + (1.0 - self.share) * each
