r"""Whether an answer is right, and whether a passage holds one: comparisons of texts.

Exact match and token F1 behave as the official SQuAD v1.1 evaluation script does (Rajpurkar et al.
2016), except where nothing is left of an answer: an answer is normalised, then compared as a whole
(exact match) or as a bag of tokens (F1), with the best score over the accepted answers. An answer that
contains the reference is not a match.

SQuAD's normalisation deletes all punctuation, hence "42" matches "4.2" and "C" matches "C++". Strict
exact match keeps such answers apart by one rule. Symbols (`# $ % & * + / < = > @ \ ^ _ | ~`) stay. Any
other mark stays between two digits, and a dot or hyphen also before a number (".5", "-5", "-$5"); only a
comma that groups digits in threes is deleted there. A dot that begins a word stays (".NET"), a hyphen
after a last word of one or two letters ("O-", "B-"), and a quotation mark after a digit that closes no
quotation (5' and 5"). Elsewhere marks are deleted. The minus sign (U+2212) is a hyphen. Case, articles
and white space are as in SQuAD. What matches strictly matches in SQuAD's sense, but for that minus sign
and for answers of which SQuAD's normalisation leaves nothing.

An answer of which normalisation leaves nothing, such as "the" or "!!!", equals only itself, white space
around it aside. This is the one deviation from SQuAD's script, where all such answers are alike, and
have an F1 of 0.

Where regular expressions say what is accepted, as in CuratedTREC, exact match is that of DrQA (Chen et
al. 2017, `regex_match_score`): one of them matches from the answer's first character on, whatever the
case, and more may follow. Strict exact match wants the whole answer matched.

Whether a passage holds an answer is told as by DPR (Karpukhin et al. 2020, `has_answer` with its
`SimpleTokenizer`): the answer's tokens stand in the passage's text, one after the other. Tokens are runs
of letters, numbers and marks, and single other characters that are no white space, of the text in
Unicode's form NFD and in lower case. The passage's title is not looked at. One thing goes beyond DPR,
which takes for one token what no space divides: where a script puts no space between words
(`text.UNSPACED`), a letter with its marks is a token by itself, so that 北京 stands in 北京は首都です
(and 京都 in 東京都, for nobody says where a word ends). Other text has DPR's tokens.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ragjax.text import UNSPACED

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")
_MINUS = "\u2212"
_THOUSANDS = re.compile(r"(?<!\d)(?<!\d[.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_MARK = r"""[!"'(),\-.:;?\[\]`{}]"""  # ASCII punctuation that is no symbol
_LETTER = r"[^\W\d_]"
_TELLING_MARK = (
    rf"(?<![^\s(\[]) \. (?={_LETTER})"  # a dot that begins a word: .NET
    rf"|(?: (?<=\b{_LETTER}) | (?<=\b{_LETTER}{{2}}) ) - (?=\W*$)"  # after one or two letters: O-, AB-
    rf"|(?<=\d) ['\"] (?!{_LETTER})"  # of feet and inches, minutes and seconds
)
_IDLE_MARK = re.compile(
    rf"(?!{_TELLING_MARK})(?:"
    rf"(?<!\d){_MARK}(?<![.\-])"  # not after a digit, and no dot or hyphen
    rf"|(?<!\d)[.\-](?![^\w\s]*\d)"  # a dot or hyphen before no number
    rf"|(?<=\d){_MARK}(?![^\w\s]*\d)"  # after a digit, but before none
    ")",
    re.VERBOSE,
)
_QUOTED = [re.compile(rf"(?<!\w){sign}(.*?){sign}(?!\w)") for sign in "\"'"]


def normalise_answer(text: str) -> str:
    """Returns `text` in lower case without punctuation, articles and superfluous white space.

    The order matters: ASCII punctuation is deleted (joining what it separated, so "St. Lucia's"
    becomes "st lucias"), and only then are the whole words a, an and the replaced by a space.
    Other punctuation, such as a typographic dash, stays.
    """
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def normalise_strictly(text: str) -> str:
    """Returns `text` as strict exact match compares it: see the rule at the head of this file.

    "-1,234.50 %" becomes "-1234.50 %", "U.S." becomes "us", "C++" stays "c++" and "O-" "o-".
    """
    grouped = text.lower().replace(_MINUS, "-")
    plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), grouped)
    plain = plain.replace("''", '"')
    for quoted in _QUOTED:
        plain = quoted.sub(r"\1", plain)
    words = _IDLE_MARK.sub("", plain).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _same(prediction: str, answer: str, normalise: Callable[[str], str]) -> bool:
    """Whether two answers are equal once normalised, or as they are where that leaves nothing."""
    left, right = normalise(prediction), normalise(answer)
    return left == right if left and right else prediction.strip() == answer.strip()


def exact_match(prediction: str, answers: Sequence[str], patterns: Sequence[str] = ()) -> int:
    """Returns 1 if the normalised prediction equals any normalised answer, else 0.

    Where either normalises to nothing they are compared as they are, see the head of this file. If there
    are `patterns`, these regular expressions decide instead, see there, too.
    """
    _require_answers(answers)
    if patterns:
        said = prediction.strip()
        return int(any(answer_pattern(pattern).match(said) for pattern in patterns))
    return int(any(_same(prediction, answer, normalise_answer) for answer in answers))


def answer_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression of accepted answers, as DrQA reads it."""
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def strict_match(prediction: str, answers: Sequence[str], patterns: Sequence[str] = ()) -> int:
    """Returns 1 if the prediction is an answer with digits, signs, decimals and symbols kept, else 0.

    Where either normalises to nothing they are compared as they are, see the head of this file. If there
    are `patterns`, one has to match the whole prediction instead.
    """
    _require_answers(answers)
    if patterns:
        said = prediction.strip()
        return int(any(answer_pattern(pattern).fullmatch(said) for pattern in patterns))
    return int(any(_same(prediction, answer, normalise_strictly) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 of the prediction's bag of tokens against each answer's.

    No common token gives 0; where either side normalises to nothing F1 is the exact match.
    """
    _require_answers(answers)
    return max(_bag_f1(prediction, answer) for answer in answers)


def _bag_f1(prediction: str, answer: str) -> float:
    """Returns the harmonic mean of precision and recall, 2·common / (predicted + expected)."""
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    if not predicted or not expected:
        return float(_same(prediction, answer, normalise_answer))
    common = (Counter(predicted) & Counter(expected)).total()
    return 2.0 * common / (len(predicted) + len(expected))


def tokenised(text: str) -> str:
    """Returns the tokens of a text as DPR makes them, in lower case, with a space around each.

    "St. Étienne" becomes " st . étienne " (its É in two characters), "in 北京" becomes " in 北 京 ", a
    text without a token " ".
    """
    separated = unicodedata.normalize("NFD", text).translate(_SEPARATED)
    if not text.isascii():
        separated = _UNSPACED_LETTER.sub(r" \g<0> ", separated)
    tokens = separated.split()
    return " ".join(["", *tokens, ""]).lower() if tokens else " "


class _Separated(dict[int, str]):
    """Code point -> its character, with blanks around one that is a token by itself, or a blank."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        made = character if kind in "LNM" else " " if kind in "ZC" else f" {character} "
        self[code] = made
        return made


_SEPARATED = _Separated()
# With its marks; in what _SEPARATED made, blanks stand around all other signs.
_UNSPACED_LETTER = re.compile(rf"[{UNSPACED}](?<=[^\W\d])[^\w\s]*")


def answer_rank(passages: Iterable[str], answers: Sequence[str]) -> int | None:
    """Returns the rank (from 1) of the first passage that holds an answer, or None.

    Args:
      passages: texts from `tokenised`, best first.
      answers: accepted answers; one without a token is held by no passage.
    """
    _require_answers(answers)
    sought = [tokens for tokens in map(tokenised, answers) if tokens != " "]
    return next(
        (
            rank
            for rank, passage in enumerate(passages, 1)
            if any(tokens in passage for tokens in sought)
        ),
        None,
    )


def holds_answer(prediction: str, answers: Sequence[str]) -> int:
    """Returns 1 if the prediction's text holds an answer, as a passage does, else 0.

    It says whether a model that writes sentences has found what was asked; it is no exact match, and a
    long text holds more.
    """
    return int(answer_rank([tokenised(prediction)], answers) is not None)


def _require_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers is {answers!r}: give a non-empty sequence of strings")
