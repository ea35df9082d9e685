"""The figure of a survey of heads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_vanilla.attention.figures import INK, PAPER, canvas
from hf_vanilla.attention.heads import Head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TYPE_COLOURS = {
    "previous token": "#56b4e9",
    "next token": "#8fc7ee",
    "same token": "#c2def2",
    "positional": "#dcecf7",
    "first token": "#f0c987",
    "delimiter": "#e69f00",
    "rare word": "#cc79a7",
    "alignment": "#4dbb95",
    "mixed": "#dddddd",
}


def plot_survey(heads: Sequence[Head], effect: str, texts: int, theme: str = "light") -> "Figure":
    """Return a figure with a row for each kind of attention: types, effects and alignment error rates of its heads.

    `effect` says what effects measure, `texts` is how many were read. Errors are those of `canvas`.
    """
    panels = {kind: [head for head in heads if head.kind == kind] for kind in dict.fromkeys(h.kind for h in heads)}
    shapes = {kind: (panel[-1].layer + 1, panel[-1].head + 1) for kind, panel in panels.items()}
    titles = {"type": "type", "effect": f"{effect} without it", "alignment_error": "alignment error rate"}
    shown = [name for name in titles if any(getattr(head, name) is not None for head in heads)]
    width = max(count for _, count in shapes.values()) * 0.55 + 0.9
    heights = [layers * 0.45 + 0.6 for layers, _ in shapes.values()]
    figure, paint = canvas(width * len(shown) + 1.6, sum(heights) + 0.4, theme)
    from matplotlib.patches import Rectangle

    grid = figure.subplots(len(panels), len(shown), squeeze=False, height_ratios=heights)
    largest = max((abs(head.effect) for head in heads if head.effect is not None), default=0.0) or 1.0
    for (row, column), axes in np.ndenumerate(grid):
        kind, name = list(panels)[row], shown[column]
        values = {(head.head, head.layer): getattr(head, name) for head in panels[kind]}
        if None in values.values():
            axes.remove()
            continue
        weights = torch.zeros(shapes[kind])
        for (x, y), value in values.items():
            weights[y, x] = 0 if name == "type" else abs(value) / (largest if name == "effect" else 1)
        paint(axes, weights)
        axes.set_title(f"{kind}: {titles[name]}", fontsize=9)
        for set_ticks, count in zip((axes.set_yticks, axes.set_xticks), shapes[kind], strict=True):
            set_ticks(range(count), range(1, count + 1), fontsize=7)
        axes.set_xlabel("head", fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        for (x, y), value in values.items():
            if name == "type":
                colour = TYPE_COLOURS[value.split(" (")[0]]
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER[theme]))
                text, ink = value.replace("positional ", "").replace(" ", "\n"), "#111111"
            else:
                text = f"{value:+.2g}" if name == "effect" else f"{value:.2f}"
                is_dark = (float(weights[y, x]) ** 0.5 > 0.55) == (theme == "light")
                ink = "#ffffff" if is_dark else "#111111"
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=ink)
    figure.text(0.005, 0.005, f"{texts} texts", color=INK[theme], fontsize=7)
    return figure
