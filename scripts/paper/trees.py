"""Trees of constituents: read, written as sequences for a model and read back, and scored as by evalb.

`score` counts as evalb does with COLLINS.prm: words tagged , : `` '' . or -NONE- are left out with the brackets that
hold no others, TOP (and S1, ROOT, and the nameless bracket around a tree of the Penn Treebank) is no bracket, ADVP and
PRT are one label, and of a label such as NP-SBJ=2 only NP counts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DELETED_TAGS = {",", ":", "``", "''", ".", "-NONE-"}
DELETED_LABELS = {"TOP", "S1", "ROOT", ""} | DELETED_TAGS
EQUAL_LABELS = {"PRT": "ADVP"}
UNKNOWN = "XX"
"""Stands for a word that is not in the sentence, and for its part of speech."""


@dataclass(frozen=True)
class Tree:
    """A bracket: its label, and what is in it, brackets or (alone, below its part of speech) a word."""

    label: str
    children: "tuple[Tree | str, ...]"

    @property
    def is_word(self) -> bool:
        return len(self.children) == 1 and isinstance(self.children[0], str)

    def leaves(self) -> "list[Tree]":
        """Return the words with their parts of speech."""
        return [self] if self.is_word else [leaf for child in self.children for leaf in child.leaves()]

    def words(self) -> list[str]:
        return [leaf.children[0] for leaf in self.leaves()]

    def __str__(self) -> str:
        return f"({self.label} {' '.join(map(str, self.children))})"


def read_trees(text: str, name: str = "the text") -> Iterator[Tree]:
    """Yield the trees of a text in the Penn Treebank's notation; a ValueError names its first mistake and `name`."""
    stack: list[tuple[str, list[Tree | str]]] = []

    def problem(what: str, match: re.Match[str]) -> ValueError:
        return ValueError(f"{name}, line {text.count(chr(10), 0, match.start()) + 1}: {what}")

    for match in re.finditer(r"\(\s*([^\s()]*)|\)|[^\s()]+", text):
        token = match.group()
        if token.startswith("("):
            stack.append((match.group(1), []))
        elif not stack:
            raise problem(f"{token!r} stands outside of all brackets", match)
        elif token == ")":
            label, children = stack.pop()
            if not children or (len(children) > 1 and any(isinstance(child, str) for child in children)):
                raise problem(f"the bracket {label!r} holds neither brackets nor one word", match)
            tree = Tree(label, tuple(children))
            if stack:
                stack[-1][1].append(tree)
            else:
                yield tree
        else:
            stack[-1][1].append(token)
    if stack:
        raise ValueError(f"{name}: {len(stack)} brackets are not closed at its end")


def read_treebank(path: Path) -> list[Tree]:
    """Return the trees of a file; raise a ValueError if there are none, or as [`read_trees`] does."""
    if not (trees := list(read_trees(path.read_text(encoding="utf-8"), str(path)))):
        raise ValueError(f"{path}: no trees; expected some such as (S (NP (PRP It)) (VP (VBZ rains)))")
    return trees


def plain_label(label: str) -> str:
    """Return a label without function tags and indices, such as NP for NP-SBJ=2."""
    return label if label in DELETED_TAGS else re.split("[-=]", label)[0]


def linearise(tree: Tree) -> str:
    """Write a tree without words and empty elements, such as "(S (NP DT NN )NP (VP VBZ )VP )S" (arXiv:1412.7449)."""
    if tree.is_word:
        return "" if tree.label == "-NONE-" else tree.label
    inner = " ".join(filter(None, map(linearise, tree.children)))
    label = plain_label(tree.label)
    return inner if label in DELETED_LABELS or not inner else f"({label} {inner} ){label}"


def delinearise(text: str, leaves: Sequence[Tree]) -> tuple[Tree, bool]:
    """Return the tree that a sequence stands for, mended where it is malformed, and whether it was well-formed.

    A closing bracket closes the last open one of its label, and all that are open within it; it is left out where
    there is none. What is open at the end is closed there. The sequence's parts of speech are ignored: words and tags
    are the `leaves` of the sentence. If the sequence has more or fewer, all words of the tree are `UNKNOWN`, and so
    none of its brackets is right.
    """
    tokens, leaves = text.split(), [leaf for leaf in leaves if leaf.label != "-NONE-"]
    opening, closing = ([len(token) > 1 and token[0] == sign for token in tokens] for sign in "()")
    fits = len(tokens) - sum(opening) - sum(closing) == len(leaves)
    words = iter(leaves if fits else [Tree(UNKNOWN, (UNKNOWN,))] * len(tokens))
    stack: list[tuple[str, list[Tree]]] = [("TOP", [])]
    correct = fits

    def close() -> None:
        label, children = stack.pop()
        if children:  # else it holds nothing
            stack[-1][1].append(Tree(label, tuple(children)))

    for token, opens, closes in zip(tokens, opening, closing, strict=True):
        if opens:
            stack.append((token[1:], []))
        elif not closes:
            stack[-1][1].append(next(words))
        elif any(label == token[1:] for label, _ in stack[1:]):
            correct &= stack[-1][0] == token[1:] and bool(stack[-1][1])
            while stack[-1][0] != token[1:]:
                close()
            close()
        else:
            correct = False
    correct &= len(stack) == 1 and len(stack[0][1]) == 1
    while len(stack) > 1:
        close()
    return Tree("TOP", tuple(stack[0][1]) or (Tree(UNKNOWN, (UNKNOWN,)),)), correct


def brackets(tree: Tree) -> tuple[list[str], Counter[tuple[str, int, int]]]:
    """Return the words that count, and how often each bracket (label, first word, after the last word) occurs."""
    words: list[str] = []
    found: Counter[tuple[str, int, int]] = Counter()

    def visit(part: Tree) -> None:
        if part.is_word:
            words.extend(() if part.label in DELETED_TAGS else part.children)
            return
        start = len(words)
        for child in part.children:
            visit(child)
        label = plain_label(part.label)
        if label not in DELETED_LABELS and len(words) > start:
            found[EQUAL_LABELS.get(label, label), start, len(words)] += 1

    visit(tree)
    return words, found


def score(gold: Iterable[Tree], predicted: Iterable[Tree]) -> dict[str, float]:
    """Return `precision`, `recall`, `f1`, `f1_of_valid` (evalb's) and `complete_match` in percent, and the numbers of
    `sentences` and of `other_words`, those whose words are not the gold tree's.
    """
    sums: Counter[str] = Counter()
    for own, other in zip(gold, predicted, strict=True):
        (words, right), (other_words, guessed) = brackets(own), brackets(other)
        common, both = (right & guessed).total(), right.total() + guessed.total()
        sums.update({"expected": right.total(), "found": guessed.total(), "sentences": 1})
        if words == other_words:
            sums.update({"matched": common, "valid": both, "same_words": 1, "complete": int(2 * common == both)})
    return {
        "precision": 100 * sums["matched"] / max(1, sums["found"]),
        "recall": 100 * sums["matched"] / max(1, sums["expected"]),
        "f1": 200 * sums["matched"] / max(1, sums["expected"] + sums["found"]),
        "f1_of_valid": 200 * sums["matched"] / max(1, sums["valid"]),
        "complete_match": 100 * sums["complete"] / max(1, sums["sentences"]),
        "sentences": sums["sentences"],
        "other_words": sums["sentences"] - sums["same_words"],
    }
