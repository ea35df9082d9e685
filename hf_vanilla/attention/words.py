"""Tokens as a reader of attention sees them, and how they join into words."""

import functools
import unicodedata
from dataclasses import dataclass

# Scripts that put no blank between words: there each character may stand alone.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text as a reader sees them.

    Attributes:
        labels: of each token, what it stands for in the text; "·" for one that ends a character begun before it.
        special: whether it is no part of the text: `</s>`, `[CLS]`.
        words: the numbers of the tokens of each word. Punctuation is a word of its own, and so is, where words have no
            blanks between them, what the tokenizer took for one.
        names: of each word, its letters.
    """

    labels: tuple[str, ...]
    special: tuple[bool, ...]
    words: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def punctuation(self) -> list[bool]:
        """Whether each token is nothing but punctuation or symbols."""
        return [
            not special and label != "·" and all(unicodedata.category(c)[0] in "PS" for c in label)
            for label, special in zip(self.labels, self.special, strict=True)
        ]

    def joined(self) -> "Tokens":
        """Its words, as if each was one token."""
        special = tuple(self.special[word[0]] for word in self.words)
        return Tokens(self.names, special, tuple((i,) for i in range(len(self.words))), self.names)


def begins_word(text: str, end: int, start: int) -> bool:
    """Whether what begins at `start` is another word than what ends at `end`."""
    if start >= len(text) or any(letter.isspace() for letter in text[end:start]):
        return True
    before, after = text[start - 1], text[start]
    if unicodedata.category(after)[0] == "M":  # a mark combines with what is before it
        return False
    if before.isspace() or is_unspaced(before) or is_unspaced(after):
        return True
    return begins_letter(text, start - 1) != begins_letter(text, start)


def begins_letter(text: str, place: int) -> bool:
    """Whether there is a letter, a digit, a mark, or what joins two: an apostrophe, a hyphen."""
    if text[place].isalnum() or unicodedata.category(text[place])[0] == "M" or text[place] == "_":
        return True
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    return text[place] in "'’-\u2010" and len(around) == 2 and around[0].isalnum() and around[1].isalnum()


@functools.cache
def is_unspaced(letter: str) -> bool:
    """Whether it is of a script that puts no blank between words."""
    return letter.isalpha() and unicodedata.name(letter, "").startswith(UNSPACED)
