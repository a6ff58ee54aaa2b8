"""Questions whose answer stands anywhere in a corpus: no retriever can find what isn't there."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from ragjax.evaluation.matching import tokenised


def answers_in_corpus(
    texts: Iterable[str], answers: Sequence[Sequence[str]]
) -> Bool[np.ndarray, "M"]:
    """Tells of each question whether any passage holds one of its answers, as `matching.answer_rank`.

    The passages are read once, as a stream. An answer is sought only in passages that have its rarest
    token (that of fewest answers), and no longer once it is found.

    Args:
      texts: the passages' texts, as they are.
      answers: the accepted answers of M questions; a question without any is held by no passage.

    Returns:
      [M].
    """
    questions: dict[str, list[int]] = {}
    for question, accepted in enumerate(answers):
        for answer in accepted:
            questions.setdefault(tokenised(answer), []).append(question)
    questions.pop(" ", None)  # of answers without a token
    frequency = Counter(token for answer in questions for token in set(answer.split()))
    sought: dict[str, list[str]] = {}
    for answer in questions:
        rarest = min(answer.split(), key=frequency.__getitem__)
        sought.setdefault(rarest, []).append(answer)

    held = np.zeros(len(answers), bool)
    for text in texts:
        passage = tokenised(text)
        for token in sought.keys() & set(passage.split()):
            for answer in [answer for answer in sought[token] if answer in passage]:
                held[questions[answer]] = True
                sought[token].remove(answer)
                if not sought[token]:
                    del sought[token]
    return held
