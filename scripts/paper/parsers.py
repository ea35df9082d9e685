"""Parsers that see parts of speech alone: beside them, Table 4 shows what words are worth.

They are given the right parts of speech, which the models are not. All have `parse(leaves)`, which returns the tree of
words with their parts of speech.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from .trees import DELETED_TAGS, Tree, brackets, delinearise, linearise, plain_label

Cell = dict[str, tuple[float, tuple[int, str, str] | str | None]]
"""For each symbol of a span its log-probability, and what it is made of: two symbols and where they meet, or one."""
Chart = dict[tuple[int, int], Cell]
UNLIKELY = 12.0
"""A symbol that is so much (in nats) less probable than the best of its span is dropped."""


class RightBranching:
    """Opens a bracket at each word that ends before the full stop, with the label that its first tag begins most."""

    def __init__(self, trees: Sequence[Tree]):
        labels: dict[str, Counter[str]] = defaultdict(Counter)
        for tree in trees:
            tags = [leaf.label for leaf in tree.leaves() if leaf.label not in DELETED_TAGS]  # as brackets counts
            for (label, start, _), count in brackets(tree)[1].items():
                labels[tags[start]][label] += count
        self.labels = {tag: counter.most_common(1)[0][0] for tag, counter in labels.items()}

    def parse(self, leaves: Sequence[Tree]) -> Tree:
        stop = leaves[-1:] if leaves[-1].label == "." else []
        tree: list[Tree] = []
        for leaf in reversed(leaves[: len(leaves) - len(stop)]):
            tree = [Tree(self.labels.get(leaf.label, "NP"), (leaf, *tree))]
        return Tree("S", (*tree[0].children, *stop)) if tree else leaves[-1]


class MostFrequentTree:
    """Takes the most frequent tree of the same parts of speech in training, or asks another parser."""

    def __init__(self, trees: Sequence[Tree], otherwise: RightBranching):
        self.trees: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for tree in trees:
            self.trees[tuple(leaf.label for leaf in tree.leaves())][linearise(tree)] += 1
        self.otherwise = otherwise

    def parse(self, leaves: Sequence[Tree]) -> Tree:
        found = self.trees.get(tuple(leaf.label for leaf in leaves))
        return delinearise(found.most_common(1)[0][0], leaves)[0] if found else self.otherwise.parse(leaves)


class TreebankGrammar:
    """Finds the most probable tree by the rules of the training trees and their frequencies (Charniak, 1996), by CKY.

    Labels are annotated with that of their parent (Johnson, 1998), and of a long rule each child depends on the one
    before it (Klein and Manning, 2003: v = 2, h = 1). If a sentence has no such tree, another parser is asked.
    """

    def __init__(self, trees: Sequence[Tree], otherwise: RightBranching):
        counts: Counter[tuple[str, ...]] = Counter()
        for tree in trees:
            self.count(tree, "TOP", counts)
        totals: Counter[str] = Counter()
        for (parent, *_), count in counts.items():
            totals[parent] += count
        self.unary: dict[str, list[tuple[str, float]]] = defaultdict(list)
        self.binary: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
        for (parent, *children), count in counts.items():
            value = math.log(count / totals[parent])
            if len(children) == 1:
                self.unary[children[0]].append((parent, value))
            else:
                self.binary[children[0]].append((children[1], parent, value))
        self.otherwise = otherwise

    def count(self, tree: Tree, parent: str, counts: Counter[tuple[str, ...]]) -> str:
        """Count the rules of a tree, and return its symbol. What follows a child is a symbol that begins with "@"."""
        if tree.is_word:
            return tree.label
        symbol = f"{plain_label(tree.label)}^{parent}"
        children = [self.count(child, plain_label(tree.label), counts) for child in tree.children]
        rest = symbol
        for i, child in enumerate(children[:-1]):
            after = f"@{symbol}|{child}" if i < len(children) - 2 else children[-1]
            counts[rest, child, after] += 1
            rest = after
        if len(children) == 1:
            counts[symbol, children[0]] += 1
        if parent == "TOP":
            counts["TOP", symbol] += 1
        return symbol

    def parse(self, leaves: Sequence[Tree]) -> Tree:
        n = len(leaves)
        chart: Chart = {}
        for width in range(1, n + 1):
            for start in range(n - width + 1):
                end = start + width
                cell: Cell = {leaves[start].label: (0.0, None)} if width == 1 else {}
                for middle in range(start + 1, end):
                    right_cell = chart[middle, end]
                    for left, (left_value, _) in chart[start, middle].items():
                        for right, parent, value in self.binary.get(left, ()):
                            if right in right_cell:
                                total = value + left_value + right_cell[right][0]
                                if parent not in cell or total > cell[parent][0]:
                                    cell[parent] = (total, (middle, left, right))
                todo = list(cell)
                while todo:
                    child = todo.pop()
                    for parent, value in self.unary.get(child, ()):
                        total = value + cell[child][0]
                        if parent not in cell or total > cell[parent][0]:
                            cell[parent] = (total, child)
                            todo.append(parent)
                least = max((value for value, _ in cell.values()), default=0.0) - UNLIKELY
                chart[start, end] = {symbol: entry for symbol, entry in cell.items() if entry[0] >= least}
        if "TOP" not in chart[0, n]:
            return self.otherwise.parse(leaves)
        return Tree("TOP", tuple(self.build(chart, leaves, 0, n, "TOP")))

    def build(self, chart: Chart, leaves: Sequence[Tree], start: int, end: int, symbol: str) -> list[Tree]:
        """Return the tree of a symbol, or the trees within TOP and within a symbol that begins with "@"."""
        origin = chart[start, end][symbol][1]
        if origin is None:
            return [leaves[start]]
        if isinstance(origin, str):
            inner = self.build(chart, leaves, start, end, origin)
        else:
            middle, left, right = origin
            inner = self.build(chart, leaves, start, middle, left) + self.build(chart, leaves, middle, end, right)
        return inner if symbol == "TOP" or symbol.startswith("@") else [Tree(symbol.split("^")[0], tuple(inner))]
