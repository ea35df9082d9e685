"""What each head of a model does, counted over the attention maps of many texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_vanilla.attention.maps import AttentionMaps
from hf_vanilla.attention.weights import AttentionMap
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.translation.loading import words_of_tokens

OFFSETS = range(-5, 6)
MOSTLY = 0.5
Links = set[tuple[int, int]]
"""Pairs (source word, target word) that translate each other, counted from 0."""


@dataclass(frozen=True)
class Head:
    """What one head does.

    Its type is what at least half of the tokens look most at: the "previous token", "next token", "same token",
    "positional" (a token from 2 to 5 places away), the "first token", a "delimiter" (punctuation, or no text), a "rare
    word" (one of the two tokens of the text that are rarest in the corpus), in cross-attention "alignment" (other
    words for other words; with gold alignments, half of the links right), or else "mixed".
    """

    kind: str  # "encoder", "decoder" or "cross"
    layer: int  # from 0
    head: int  # from 0
    type: str
    shares: dict[str, float]  # for each type, the share of the tokens that look most at what it names
    statistics: dict[str, float]  # the means of the measures in `hf_vanilla.attention.weights.STATISTICS`
    alignment_error: float | None = None  # the alignment error rate, from 0 to 1, if there are gold alignments
    effect: float | None = None  # by how much perplexity rises, or BLEU falls, if the head is switched off


class HeadCounts:
    """Counts (layers, heads, ...) of what the heads of one kind of attention look at; `attention` is any such map."""

    def __init__(self, attention: AttentionMap):
        self.layers, self.heads = shape = attention.weights.shape[:2]
        self.is_cross = attention.kind == "cross"
        self.statistics: dict[str, Tensor] = {}  # sums over the queries of all texts
        self.queries = 0
        self.voters = 0  # the queries that count for the types
        self.offsets = torch.zeros(*shape, len(OFFSETS))
        self.votes = {name: torch.zeros(shape) for name in ("first token", "delimiter", "rare word")}
        self.covered = torch.zeros(shape)  # how many different words are looked at most by a token
        self.most_covered = 0  # how many could be
        self.sure = 0  # sure gold links
        self.links: Tensor | None = None  # of each head and of the layer's mean: sure, sure or possible, and all links

    def add(self, attention: AttentionMap, frequencies: Mapping[str, int]) -> None:
        """Count one text; `frequencies` are those of its tokens in the corpus.

        Special tokens do not vote for types, and neither does the first one, which in a decoder sees itself alone.
        """
        count, keys = len(attention.queries), attention.keys
        for name, values in attention.statistics().items():
            self.statistics[name] = self.statistics.get(name, 0) + values * count
        self.queries += count
        rows = [row for row in range(0 if self.is_cross else 1, count) if not attention.queries.special[row]]
        if not rows:
            return
        self.voters += len(rows)
        best = attention.weights[:, :, rows].argmax(-1)  # (layers, heads, rows)
        distances = best - torch.tensor(rows)
        self.offsets += torch.stack([(distances == offset).sum(-1) for offset in OFFSETS], -1)
        delimiters = torch.tensor(keys.special) | torch.tensor(keys.punctuation)
        words = (~delimiters).nonzero()[:, 0].tolist()
        rare = sorted(words, key=lambda column: frequencies.get(keys.labels[column], 0))[:2]
        self.votes["first token"] += (best == 0).sum(-1)
        self.votes["delimiter"] += delimiters[best].sum(-1)
        self.votes["rare word"] += torch.isin(best, torch.tensor(rare, dtype=torch.long)).sum(-1)
        self.covered += (F.one_hot(best, len(keys)).amax(2) * ~delimiters).sum(-1)
        self.most_covered += max(1, min(len(rows), len(words)))

    def align(
        self, maps: AttentionMaps, tokenizer: PreTrainedTokenizerBase, gold: tuple[Links, Links], number: int
    ) -> None:
        """Count which of the links of each head, and of each layer's mean, are gold: sure and possible ones.

        A target word is linked to the source word that it looks at most. Words are what is between blanks. A tokenizer
        that is not fast is a ValueError, as are words in the gold alignment, called `number`, that the texts lack.
        """
        sources = tokens_of_words(tokenizer, text=maps.source)
        targets = tokens_of_words(tokenizer, text_target=maps.target)
        sure, possible = gold
        for i, j in sorted(sure | possible):
            if i >= len(sources) or j >= len(targets):
                sizes = f"the source has {len(sources)} words, the target {len(targets)}"
                raise ValueError(f"gold alignment {number} has {i}-{j}, but {sizes}")
        rows, columns = ([word for word, tokens in enumerate(side) if tokens] for side in (targets, sources))
        weights = maps["cross"].grouped([*filter(None, targets)], [*filter(None, sources)])
        best = torch.cat([weights, weights.mean(1, keepdim=True)], 1).argmax(-1)  # (layers, heads + 1, rows)
        if self.links is None:
            self.links = torch.zeros(self.layers, self.heads + 1, 3)
        for place in np.ndindex(self.layers, self.heads + 1):
            links = {(columns[column], rows[row]) for row, column in enumerate(best[place].tolist())}
            self.links[place] += torch.tensor([len(links & sure), len(links & (sure | possible)), len(links)])
        self.sure += len(sure)

    def errors(self) -> Tensor | None:
        """Return alignment error rates (layers, heads + 1), the last column those of the mean of the heads.

        The rate is 1 - (|A & S| + |A & P|) / (|A| + |S|) (Och and Ney, 2003). None without gold alignments.
        """
        if self.links is None:
            return None
        sure, possible, all_links = self.links.unbind(-1)
        return 1 - (sure + possible) / (all_links + self.sure)

    def heads_of(self, kind: str, effects: Mapping[tuple[str, int, int], float]) -> Iterator[Head]:
        """Yield what each head does; `effects` has those that are known, by kind, layer and head."""
        errors = self.errors()
        for layer, head in np.ndindex(self.layers, self.heads):
            error = None if errors is None else float(errors[layer, head])
            shares, offset = self.shares(layer, head, error)
            name = max(shares, key=lambda name: shares[name])
            if shares[name] < MOSTLY:
                name = "mixed"
            elif name == "positional":
                name = f"positional ({offset:+d})"
            means = {measure: float(sums[layer, head]) / self.queries for measure, sums in self.statistics.items()}
            yield Head(kind, layer, head, name, shares, means, error, effects.get((kind, layer, head)))

    def shares(self, layer: int, head: int, error: float | None) -> tuple[dict[str, float], int]:
        """Return the share of each type, and which offset that of "positional" is of."""
        voters = max(1, self.voters)
        others = {name: float(values[layer, head]) / voters for name, values in self.votes.items()}
        if self.is_cross:
            covered = float(self.covered[layer, head]) / max(1, self.most_covered)
            return {"alignment": covered if error is None else 1 - error, **others}, 0
        by_offset = {offset: float(self.offsets[layer, head, place]) / voters for place, offset in enumerate(OFFSETS)}
        far = max((offset for offset in OFFSETS if abs(offset) > 1), key=lambda offset: by_offset[offset])
        near = {"previous token": by_offset[-1], "next token": by_offset[1], "same token": by_offset[0]}
        return {**near, "positional": by_offset[far], **others}, far


def tokens_of_words(tokenizer: PreTrainedTokenizerBase, **texts: Any) -> list[list[int]]:
    """Return the numbers of the tokens of each word of a text, which is given as `text` or as `text_target`."""
    if not tokenizer.is_fast:
        raise ValueError(f"alignments take a fast tokenizer, and this is {type(tokenizer).__name__}")
    (text,) = texts.values()
    encoded = encode_texts(tokenizer, return_offsets_mapping=True, **texts)
    tokens: list[list[int]] = [[] for _ in text.split()]
    for token, word in enumerate(words_of_tokens(text, encoded["offset_mapping"])):
        if word is not None:
            tokens[word].append(token)
    return tokens
