"""Text before it is read: Unicode normal forms, invisible characters, and scripts without spaces."""

import re
import unicodedata

PASSAGE_WORDS, OVERLAP = 100, 20  # of passages that are cut from a text, if nobody says otherwise

# Soft hyphens, joiners of words, byte order marks, and marks of the writing direction.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_ASCII_SIGNS = str.maketrans("‘’ʼ“”‐‑‒–—−", "'''\"\"------")
_OTHER_SPACE = re.compile(r"[^\S ]")

# Scripts that put no space between words, with their marks and digits.
UNSPACED = (
    # Chinese and Japanese, bopomofo and kana; planes 2 and 3 are kept for ideographs
    "\u3005-\u3007\u3031-\u3035\u303b\u303c\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003fffd"
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf\ua000-\ua48c"  # Tai Le, Lue, Tham and Viet; Yi
)
_RUN = re.compile(f"[{UNSPACED}]+")


def plain(text: str) -> str:
    """Returns the text in Unicode's normal form C, blanks for white space, without what is invisible."""
    if text.isascii() and not _OTHER_SPACE.search(text):
        return text
    return _OTHER_SPACE.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", text)))


def is_empty(text: str) -> bool:
    """Whether there is nothing to read in a text: white space and invisible characters at most."""
    return not plain(text).strip()


def half_character(text: str) -> str:
    r"""Returns the first half of a surrogate pair in a text, which no encoding can hold; "" of none.

    Such halves come of JSON's \ud800, and of bytes on the command line that are in another encoding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def shortened(text: str, letters: int = 300) -> str:
    """Returns a text, or its beginning with the number of letters that are left out."""
    # What would be left out is as long as the note that it was.
    if len(text) <= letters + 30:
        return text
    kept = text[:letters]
    whole, _, last = kept.rpartition(" ")  # no word is cut where there are words
    kept = whole if whole and len(last) < 30 else kept
    return f"{kept} ... ({len(text) - len(kept)} letters more)"


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun: "1 passage", "2 passages"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def same_word(word: str) -> str:
    """What spellings of a word have in common: compatible characters and signs, whatever the case."""
    return unicodedata.normalize("NFKC", word).translate(_ASCII_SIGNS).strip().casefold()


def with_word_breaks(text: str) -> str:
    """Returns `plain` text for a search by words: letters of scripts without spaces, and pairs of them.

    Each such letter stands twice, as a word of two letters, for a search may leave out words of one.
    """

    def broken(found: re.Match[str]) -> str:
        run = found.group()
        pairs = [run[place : place + 2] for place in range(len(run) - 1)]
        return f" {' '.join([letter * 2 for letter in run] + pairs)} "

    return _RUN.sub(broken, plain(text))
