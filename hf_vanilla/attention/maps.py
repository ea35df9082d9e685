"""All attention maps of a text."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hf_vanilla.attention.page import frame_page, render_page
from hf_vanilla.attention.weights import KINDS, AttentionMap


@dataclass(frozen=True)
class AttentionMaps:
    """All that a model's heads look at in one text. A notebook shows it as a page.

    Attributes:
        model: the model's name.
        source, target: the text, and its translation or continuation, "" if there is none.
        encoder: the encoder's self-attention, if the model has it, as for the other kinds.
        decoder: the decoder's self-attention; its tokens are those that the decoder reads.
        cross: the decoder's attention to the encoder; its queries are the tokens that the decoder writes.
    """

    model: str
    source: str
    target: str
    encoder: AttentionMap | None = None
    decoder: AttentionMap | None = None
    cross: AttentionMap | None = None

    @property
    def kinds(self) -> dict[str, AttentionMap]:
        """The maps that the model has, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) is not None}

    def __getitem__(self, kind: str) -> AttentionMap:
        """Return the map of a kind; a kind that the model does not have is a ValueError."""
        if kind in self.kinds:
            return self.kinds[kind]
        raise ValueError(f"{self.model} has no attention of kind {kind!r}; expected one of {', '.join(self.kinds)}")

    def joined(self) -> "AttentionMaps":
        """Return the maps between words instead of tokens."""
        joined = {kind: attention.joined() for kind, attention in self.kinds.items()}
        return AttentionMaps(self.model, self.source, self.target, **joined)

    def rollout(self, kind: str) -> Tensor:
        """Return how much of each input token has arrived at each query after each layer (layers, queries, keys).

        It is the product over layers of the mean over heads, half of it the residual connection (Abnar and Zuidema,
        2020, arXiv:2005.00928). For cross-attention, it is each layer's mean over heads times the encoder's rollout.
        Rows sum to 1. A kind of attention that the model does not have is a ValueError.
        """
        means = self[kind].weights.mean(1)
        if kind == "cross":
            return means @ self.rollout("encoder")[-1]
        steps = (means + torch.eye(means.shape[-1])) / 2
        return torch.stack(list(itertools.accumulate(steps, lambda below, step: step @ below)))

    def to_html(self) -> str:
        """Return a self-contained page, which shows every weight; see `hf_vanilla.attention.page.render_page`."""
        return render_page(self.model, self.source, self.target, list(self.kinds.values()))

    def save_html(self, path: str | Path) -> None:
        """Write the page of `to_html` to a file."""
        Path(path).write_text(self.to_html(), encoding="utf-8", newline="\n")

    def _repr_html_(self) -> str:
        return frame_page(self.model, self.to_html())
