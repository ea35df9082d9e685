"""Where a long text may be cut, and how the translations of its parts are joined, in any script."""

import functools
import re
import unicodedata

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that put no blank between words; in these each character may be a word."""

# White space, but for blanks that hold together what is around them.
BREAKS = re.compile(r"[^\S\u00a0\u2007\u202f]")
# What makes a translation more than one line, and blanks that stand beside each other.
LINE_BREAKS = re.compile(r"[ \t-\r\x1c-\x1f\x85\u2028\u2029]+")
# An ordinal, the number of an item of a list, or an initial: what ends so ends no sentence.
NO_END = re.compile(r"(?:^|\s|\()(?:\d{1,3}|[^\W\d_])\.\s*$")
JOINERS = "\u200c\u200d"


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Return the sentences of a text, with the blanks after them: joined, they are the text.

    `language` is a code such as `"de"`, whose abbreviations end no sentence; of one that sentencex does not know, the
    punctuation alone decides.
    """
    from sentencex import segment  # a text is hardly ever too long

    sentences: list[str] = []
    for part in segment(language, text):
        if sentences and (not part.strip() or NO_END.search(sentences[-1])):
            sentences[-1] += part
        else:
            sentences.append(part)
    return sentences if "".join(sentences) == text else [text]


def find_cut(text: str, start: int, end: int) -> int:
    """Return where to cut `text[start:]` so that the part ends at `end` or before.

    That is after the last blank; without one, it is where no mark is cut from its letter, if there is such a place.
    """
    blanks = [match.start() for match in BREAKS.finditer(text, start + 1, end + 1)]
    if blanks:
        return blanks[-1]
    end = place = max(end, start + 1)
    while start + 1 < place < len(text) and _continues(text[place - 1], text[place]):
        place -= 1
    return end if place == start + 1 else place


def join_parts(parts: list[str]) -> str:
    """Return the translations of parts as one text, with a blank between two where their script has blanks."""
    text = ""
    for part in filter(None, parts):
        text += part if not text or _is_unspaced_end(text) or _is_unspaced_end(part[::-1]) else f" {part}"
    return text


def one_line(text: str) -> str:
    """Return a translation as a line of text: line breaks and rows of blanks become one blank, others stay."""
    return LINE_BREAKS.sub(" ", text).strip(" ")


@functools.cache
def is_unspaced(letter: str) -> bool:
    """True for a letter of a script that puts no blank between words."""
    return letter.isalpha() and unicodedata.name(letter, "").startswith(UNSPACED)


def _continues(before: str, letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M" or letter in JOINERS or before in JOINERS


def _is_unspaced_end(text: str) -> bool:
    """True if a text ends in a script without blanks: with a letter, perhaps with marks and wide signs after it."""
    for letter in reversed(text):
        if letter.isalpha():
            return is_unspaced(letter)
        if letter.isspace():
            return False
        is_mark = unicodedata.category(letter)[0] == "M"
        if not is_mark and unicodedata.east_asian_width(letter) not in ("W", "F") and letter.isalnum():
            return False
    return False
