"""Beam search in plain Python, after transformers and apart from the package's own."""

from typing import NamedTuple

import numpy as np

from ragjax.decoding.beam import Beam
from ragjax.types import BOS_ID, EOS_ID, PAD_ID


class Answer(NamedTuple):
    """An answer, and what it is ranked by."""

    score: float
    tokens: tuple[int, ...]


def by_score(answers) -> list[Answer]:
    """Best first."""
    return sorted(answers, key=lambda answer: -answer.score)


def in_plain_python(
    table: np.ndarray, beam: Beam, *, stops: bool = True
) -> tuple[list[Answer], int]:
    """What transformers' beam search finds in one table [T,V,V]: its answers, and its steps."""
    length, vocab, _ = table.shape
    running, ended, step = [Answer(0.0, ())], [], 0
    while step < length and running:
        grown = []
        for total, tokens in running:
            row = table[step, tokens[-1] if tokens else BOS_ID]
            for token in range(vocab):
                gain = (
                    float(row[token])
                    if token not in (PAD_ID, BOS_ID, *beam.suppressed)
                    else -np.inf
                )
                if step == 0 and beam.forced_first is not None:
                    gain = 0.0 if token == beam.forced_first else -np.inf
                if step == length - 1 and beam.forced_last is not None:
                    gain = 0.0 if token == beam.forced_last else -np.inf
                if gain > -np.inf:
                    grown.append(Answer(total + gain, (*tokens, token)))
        step += 1
        best = by_score(grown)[: 2 * beam.beams]
        done = [answer.tokens[-1] == EOS_ID or step == length for answer in best]
        for answer, over in zip(best[: beam.beams], done, strict=False):
            if over:
                ended.append(Answer(answer.score / step**beam.length_penalty, answer.tokens))
        ended = by_score(ended)[: beam.beams]
        running = [answer for answer, over in zip(best, done, strict=True) if not over]
        running = running[: beam.beams]
        if stops and running and len(ended) == beam.beams:
            hope = running[0].score / step**beam.length_penalty
            if beam.early_stopping or hope <= ended[-1].score:
                break
    return ended[: beam.returned], step


def text(tokens) -> tuple[int, ...]:
    """Tokens without padding."""
    return tuple(int(token) for token in tokens if token)
