"""Attention weights of a text, with its tokens."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_vanilla.attention.words import Tokens

KINDS = {
    "encoder": "the encoder looks at itself",
    "decoder": "the decoder looks at what it has read and written so far",
    "cross": "the decoder looks at the source, from the state that writes the word",
}
STATISTICS = {
    "entropy": "how broadly it looks, in bits: 0 is one token, n bits are 2^n tokens alike",
    "distance": "how far it looks, in tokens; between two texts: from the diagonal",
    "previous": "share on the token before",
    "same": "share on the token itself",
    "next": "share on the token after",
    "first": "share on the first token",
    "special": "share on tokens that are no text, such as the end of a sentence",
    "punctuation": "share on punctuation",
}


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one kind in one text.

    Attributes:
        kind: "encoder", "decoder" or "cross".
        weights: (layers, heads, queries, keys), float32 on CPU; how much each query looks at each key. Rows sum to 1,
            but for those of local attention, which its Gaussian lowers.
        queries: what looks.
        keys: what is looked at.
    """

    kind: str
    weights: Tensor
    queries: Tokens
    keys: Tokens

    def joined(self) -> "AttentionMap":
        """From tokens to words: what is looked at adds up, what looks is averaged (Clark et al., 2019,
        arXiv:1906.04341, section 4.1)."""
        weights = self.grouped(self.queries.words, self.keys.words)
        return AttentionMap(self.kind, weights, self.queries.joined(), self.keys.joined())

    def grouped(self, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> Tensor:
        """The weights (layers, heads, rows, columns) between any groups of tokens, by their numbers, none empty."""
        averages = torch.zeros(len(rows), len(self.queries))
        for row, tokens in enumerate(rows):
            averages[row, list(tokens)] = 1 / len(tokens)
        sums = torch.zeros(len(self.keys), len(columns))
        for column, tokens in enumerate(columns):
            sums[list(tokens), column] = 1
        return averages @ self.weights @ sums

    def statistics(self) -> dict[str, Tensor]:
        """The means over queries of what `STATISTICS` names, each (layers, heads), float32.

        Between two texts there is no token before or after: there, these are left out.
        """
        weights, (count, width) = self.weights, self.weights.shape[-2:]
        rows, columns = torch.arange(count)[:, None], torch.arange(width)[None]
        slope = 1.0 if self.kind != "cross" else (width - 1) / max(1, count - 1)
        logs = torch.where(weights > 0, weights, 1).log2()
        measures = {
            "entropy": -(weights * logs).sum(-1).mean(-1),
            "distance": (weights * (columns - rows * slope).abs()).sum(-1).mean(-1),
        }
        if self.kind != "cross":
            for name, offset in (("previous", -1), ("same", 0), ("next", 1)):
                diagonal = weights.diagonal(offset, -2, -1)
                measures[name] = diagonal.mean(-1) if diagonal.shape[-1] else torch.zeros(weights.shape[:2])
        measures["first"] = weights[..., 0].mean(-1)
        measures["special"] = weights[..., torch.tensor(self.keys.special)].sum(-1).mean(-1)
        measures["punctuation"] = weights[..., torch.tensor(self.keys.punctuation)].sum(-1).mean(-1)
        return measures


@dataclass(frozen=True)
class AttentionMaps:
    """All that a model's heads look at in one text; in a notebook, the page of it.

    Attributes:
        model: the model's name.
        source: the text.
        target: its translation or continuation, "" if there is none.
        encoder: the encoder's attention to itself, if the model has it.
        decoder: the decoder's attention to itself, if the model has it. Its tokens are those that it reads.
        cross: the decoder's attention to the encoder, if the model has it. Its queries are the tokens that it writes.
    """

    model: str
    source: str
    target: str
    encoder: AttentionMap | None = None
    decoder: AttentionMap | None = None
    cross: AttentionMap | None = None

    @property
    def kinds(self) -> dict[str, AttentionMap]:
        """The maps that there are, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) is not None}

    def __getitem__(self, kind: str) -> AttentionMap:
        """The map of a kind.

        Raises:
            ValueError: the model has no such attention.
        """
        if kind not in self.kinds:
            raise ValueError(
                f"{self.model} has no attention of kind {kind!r}; expected one of {', '.join(self.kinds)}"
            )
        return self.kinds[kind]

    def joined(self) -> "AttentionMaps":
        """From tokens to words, each map of it."""
        joined: dict[str, Any] = {kind: attention.joined() for kind, attention in self.kinds.items()}
        return dataclasses.replace(self, **joined)

    def rollout(self, kind: str) -> Tensor:
        """How much of each token has arrived where each query is, after each layer (Abnar and Zuidema, 2020,
        arXiv:2005.00928): the product over layers of the mean over heads, half of it the residual connection.

        Of cross-attention, it is each layer's mean over heads times the encoder's rollout.

        Returns:
            (layers, queries, keys), float32; rows sum to 1.

        Raises:
            ValueError: the model has no such attention.
        """
        means = self[kind].weights.mean(1)
        if kind == "cross":
            return means @ self.rollout("encoder")[-1]
        steps = (means + torch.eye(means.shape[-1])) / 2
        return torch.stack(list(itertools.accumulate(steps, lambda below, step: step @ below)))

    def to_html(self) -> str:
        """One self-contained page; see [`hf_vanilla.attention_page.render`]."""
        from hf_vanilla.attention.page import render

        return render(self)

    def save_html(self, path: str | Path) -> None:
        """Write the page."""
        Path(path).write_text(self.to_html(), encoding="utf-8", newline="\n")

    def _repr_html_(self) -> str:
        from hf_vanilla.attention.page import frame

        return frame(self)
