"""The figure of a survey of heads."""

from typing import TYPE_CHECKING, Any

import torch

from hf_vanilla.attention.figures import THEMES, canvas, grid_of

if TYPE_CHECKING:
    from hf_vanilla.attention.survey import Survey
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


def plot_survey(survey: "Survey", theme: str = "light") -> Any:
    """What a survey found, a row for each kind of attention: types of heads, effects of switching them off, alignment
    error rates. A matplotlib figure."""
    kinds = list(dict.fromkeys(head.kind for head in survey.heads))
    panels = {kind: [head for head in survey.heads if head.kind == kind] for kind in kinds}
    shapes = {kind: (panels[kind][-1].layer + 1, panels[kind][-1].head + 1) for kind in kinds}
    columns = ["type", "effect", "alignment_error"]
    shown = [name for name in columns if name == "type" or any(getattr(h, name) is not None for h in survey.heads)]
    width = max(heads for _, heads in shapes.values()) * 0.55 + 0.9
    heights = [layers * 0.45 + 0.6 for layers, _ in shapes.values()]
    figure, paint = canvas(width * len(shown) + 1.6, sum(heights) + 0.4, theme)
    grid = figure.subplots(len(kinds), len(shown), squeeze=False, height_ratios=heights)
    ink, paper = THEMES[theme]["ink"], THEMES[theme]["paper"]
    titles = {"type": "type", "effect": f"{survey.effect_name} without it", "alignment_error": "alignment error rate"}
    effects = [abs(head.effect) for head in survey.heads if head.effect is not None]
    most = max(effects, default=0.0) or 1.0
    for (row, column), axes in grid_of(grid):
        kind, name = kinds[row], shown[column]
        values = [getattr(head, name) for head in panels[kind]]
        if all(value is None for value in values):
            axes.remove()
            continue
        weights = torch.zeros(shapes[kind])
        for head, value in zip(panels[kind], values, strict=True):
            weights[head.layer, head.head] = abs(value) / (most if name == "effect" else 1) if name != "type" else 0
        paint(axes, weights)
        axes.set_title(f"{kind}: {titles[name]}", fontsize=9)
        axes.set_xticks(range(shapes[kind][1]), range(1, shapes[kind][1] + 1), fontsize=7)
        axes.set_yticks(range(shapes[kind][0]), range(1, shapes[kind][0] + 1), fontsize=7)
        axes.set_xlabel("head", fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        for head, value in zip(panels[kind], values, strict=True):
            x, y = head.head, head.layer
            if name == "type":
                colour, text = TYPE_COLOURS[value.split(" (")[0]], value.replace("positional ", "").replace(" ", "\n")
                axes.add_patch(rectangle(x - 0.5, y - 0.5, colour, paper))
                axes.text(x, y, text, ha="center", va="center", fontsize=6, color="#111111")
            else:
                dark = (float(weights[y, x]) ** 0.5 > 0.55) == (theme == "light")
                text = f"{value:+.2g}" if name == "effect" else f"{value:.2f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=6, color="#ffffff" if dark else "#111111")
    figure.text(0.005, 0.005, f"{survey.sentences} texts", color=ink, fontsize=7)
    return figure


def rectangle(x: float, y: float, colour: str, edge: str) -> Any:
    """A square of a colour."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, facecolor=colour, edgecolor=edge)
