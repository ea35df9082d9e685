"""The attention weights of a text, with its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_vanilla.attention.words import Tokens

KINDS = ("encoder", "decoder", "cross")
"""Encoder self-attention, decoder self-attention, and attention from decoder to encoder (section 3.2.3)."""
STATISTICS = {
    "entropy": "how broadly it looks, in bits: n bits are 2^n tokens with equal weights, 0 bits a single token",
    "distance": "how far away it looks, in tokens; between two texts: how far from the diagonal",
    "previous": "share on the token before",
    "same": "share on the token itself",
    "next": "share on the token after",
    "first": "share on the first token",
    "special": "share on tokens that are no text, such as the end of a sentence",
    "punctuation": "share on punctuation",
}


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one kind, "encoder", "decoder" or "cross", in one text.

    Attributes:
        weights: (layers, heads, queries, keys), float32 on CPU: how much each query looks at each key. Rows sum to 1,
            except those of local attention, which its Gaussian lowers.
        queries, keys: the tokens that look, and those that are looked at.
    """

    kind: str
    weights: Tensor
    queries: Tokens
    keys: Tokens

    def joined(self) -> "AttentionMap":
        """Return the attention between words instead of tokens (Clark et al., 2019, arXiv:1906.04341, section 4.1).

        The weights of a word's tokens as keys are summed, as queries averaged.
        """
        weights = self.grouped(self.queries.words, self.keys.words)
        return AttentionMap(self.kind, weights, self.queries.joined(), self.keys.joined())

    def grouped(self, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> Tensor:
        """Return the weights (layers, heads, rows, columns) between groups of tokens; groups are not empty."""
        averages = torch.zeros(len(rows), len(self.queries))
        for row, tokens in enumerate(rows):
            averages[row, list(tokens)] = 1 / len(tokens)
        sums = torch.zeros(len(self.keys), len(columns))
        for column, tokens in enumerate(columns):
            sums[list(tokens), column] = 1
        return averages @ self.weights @ sums

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean over the queries of each measure in `STATISTICS`, (layers, heads), float32.

        Cross-attention has no "previous", "same" and "next", for its tokens are of two texts.
        """
        weights, (count, width) = self.weights, self.weights.shape[-2:]
        rows, columns = torch.arange(count)[:, None], torch.arange(width)[None]
        slope = 1.0 if self.kind != "cross" else (width - 1) / max(1, count - 1)
        logs = torch.where(weights > 0, weights, 1).log2()
        neighbours = {} if self.kind == "cross" else {"previous": -1, "same": 0, "next": 1}
        measures = {
            "entropy": -(weights * logs).sum(-1),
            "distance": (weights * (columns - rows * slope).abs()).sum(-1),
            **{name: weights.diagonal(offset, -2, -1) for name, offset in neighbours.items()},
            "first": weights[..., 0],
            "special": weights[..., torch.tensor(self.keys.special)].sum(-1),
            "punctuation": weights[..., torch.tensor(self.keys.punctuation)].sum(-1),
        }
        # A text of one token has no neighbours, and 0 as their mean.
        return {name: values.sum(-1) / max(1, values.shape[-1]) for name, values in measures.items()}
