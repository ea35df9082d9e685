"""The tokens of a text as a reader sees them, and how they join into words."""

import unicodedata
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hf_vanilla.translation.cutting import is_unspaced


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text as a reader sees them, and the words that they make.

    Punctuation is a word of its own. In scripts without blanks between words, so is each token.
    """

    labels: tuple[str, ...]  # for each token, its characters; "·" for one that ends a character begun before it
    special: tuple[bool, ...]  # for each token, whether it is no part of the text, as `</s>` and `[CLS]`
    words: tuple[tuple[int, ...], ...]  # for each word, the numbers of its tokens
    names: tuple[str, ...]  # for each word, its characters

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def punctuation(self) -> list[bool]:
        """For each token, whether it consists of punctuation and symbols alone."""
        return [
            not special and label != "·" and all(unicodedata.category(c)[0] in "PS" for c in label)
            for label, special in zip(self.labels, self.special, strict=True)
        ]

    def joined(self) -> "Tokens":
        special = tuple(self.special[word[0]] for word in self.words)
        return Tokens(self.names, special, tuple((i,) for i in range(len(self.words))), self.names)


@dataclass(frozen=True)
class EncodedText:
    """A text with its token ids, and with the span of characters (start, end) of each; special tokens have any."""

    ids: list[int]
    spans: list[tuple[int, int]]
    text: str


def encode_decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> EncodedText:
    """Return the text that token ids decode to, and the span of each of them in it."""
    spans, text = [], ""
    for count in range(1, len(ids) + 1):
        start = len(text)
        decoded = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text = str(decoded).rstrip("\ufffd")  # stands for a character that is not complete yet
        spans.append((min(start, len(text)), len(text)))
    for i in reversed(range(len(ids) - 1)):  # a token that begins a character gets the span of the character
        first, last = spans[i + 1]
        if spans[i][0] == spans[i][1] == first < last and not text[first].isascii():
            spans[i] = (first, first + 1)
    return EncodedText(ids, spans, text)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of tokens that are no part of a text; an unknown one is part of it, unless it marks ends, too."""
    marks = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep", "mask")]
    others = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return {mark for mark in marks if mark is not None} | others


def to_tokens(encoded: EncodedText, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return the tokens of a text, and the words that they join into."""
    text, labels, words = encoded.text, list[str](), list[list[int]]()
    no_text = special_ids(tokenizer)
    special = tuple(id_ in no_text for id_ in encoded.ids)
    end, blank = -1, False  # where the token before ends, and whether it consists of blanks; -1 after a special token
    for i, (first, last) in enumerate(encoded.spans):
        if special[i]:
            labels.append(str(tokenizer.convert_ids_to_tokens(encoded.ids[i])))
            words.append([i])
            end, blank = -1, False
            continue
        piece = text[first:last]
        inside = 0 <= end and (first < end or first == last)
        label = piece.strip() or ("␣" if piece else "·")
        # A mark that combines with the character before it is shown on a circle.
        label = f"\u25cc{label}" if unicodedata.category(label[0])[0] == "M" else label
        labels.append("·" if inside else label)
        if end >= 0 and (inside or blank or not begins_word(text, end, first + len(piece) - len(piece.lstrip()))):
            words[-1].append(i)
        else:
            words.append([i])
        end, blank = max(last, end), bool(piece) and not piece.strip()
    names = []
    for word in words:
        covered = text[encoded.spans[word[0]][0] : max(encoded.spans[i][1] for i in word)]
        names.append(labels[word[0]] if special[word[0]] else " ".join(covered.split()) or labels[word[0]])
    return Tokens(tuple(labels), special, tuple(map(tuple, words)), tuple(names))


def begins_word(text: str, end: int, start: int) -> bool:
    """True if the character at `start` belongs to another word than the one before `end`."""
    if start >= len(text) or any(letter.isspace() for letter in text[end:start]):
        return True
    before, after = text[start - 1], text[start]
    if unicodedata.category(after)[0] == "M":  # a mark combines with what is before it
        return False
    if before.isspace() or is_unspaced(before) or is_unspaced(after):
        return True
    return is_word_character(text, start - 1) != is_word_character(text, start)


def is_word_character(text: str, place: int) -> bool:
    """True for a letter, a digit, a mark and an underscore, and for an apostrophe or a hyphen between two of these."""
    if text[place].isalnum() or unicodedata.category(text[place])[0] == "M" or text[place] == "_":
        return True
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    return text[place] in "'’-\u2010" and len(around) == 2 and around[0].isalnum() and around[1].isalnum()


def join_texts(first: str, second: str) -> str:
    """Return two texts as one, with a blank between them if that separates two words."""
    apart = first[-1].isspace() or second[0].isspace() or not is_word_character(second, 0) or is_unspaced(second[0])
    return first + second if apart else f"{first} {second}"
