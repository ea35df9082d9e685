"""Figures of what the heads look at, for papers and model cards."""

import functools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_vanilla.attention.maps import AttentionMap

FORMATS = (".png", ".svg", ".pdf")
THEMES: dict[str, Any] = {
    "light": {"paper": "#ffffff", "ink": "#1b1f24", "ramp": ["#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08285a"]},
    "dark": {"paper": "#14171c", "ink": "#e8eaed", "ramp": ["#1d2128", "#243e6c", "#346eaa", "#78b9dc", "#fafad7"]},
}
# Okabe and Ito's colours, which colour-blind readers tell apart; beyond eight heads they come again, dashed.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#b8a900")
LONGEST = 24
"""Letters of a word that are shown."""


def plot_grid(attention: AttentionMap, theme: str = "light") -> Any:
    """All heads at a glance: a matplotlib figure, a row for each layer, a column for each head.

    Within a picture, rows look and columns are looked at. The colour follows the square root of the weight, which is
    from 0 to 1 in all figures here, so that equal colours are equal weights.
    """
    layers, heads = attention.weights.shape[:2]
    figure, paint = canvas(heads * 1.1 + 1.0, layers * 1.1 + 0.8, theme)
    grid = figure.subplots(layers, heads, squeeze=False)
    image: Any = None
    for (layer, head), axes in grid_of(grid):
        image = paint(axes, attention.weights[layer, head])
        axes.set_xticks([])
        axes.set_yticks([])
        if layer == 0:
            axes.set_title(f"head {head + 1}", fontsize=8)
        if head == 0:
            axes.set_ylabel(f"layer {layer + 1}", fontsize=8)
    scale(figure, image, grid)
    return figure


def plot_heads(attention: AttentionMap, layer: int = -1, theme: str = "light") -> Any:
    """The heads of one layer, from 0 or, below 0, from the last, with their words: a matplotlib figure.

    Raises:
        ValueError: there is no such layer.
    """
    weights = attention.weights[index(layer, attention.weights.shape[0], "layer")]
    columns = min(4, len(weights)) if len(weights) != 6 else 3
    rows = math.ceil(len(weights) / columns)
    cell = cell_of(attention)
    labels = 0.07 * max(map(len, map(shorten, [*attention.queries.labels, *attention.keys.labels]))) + 0.2
    width, height = (max(1.2, cell * len(tokens)) for tokens in (attention.keys, attention.queries))
    figure, paint = canvas(columns * (width + 0.15) + labels + 0.9, rows * (height + 0.35) + labels, theme)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for head, axes in enumerate(grid.flat):
        if head >= len(weights):
            axes.remove()
            continue
        image = paint(axes, weights[head])
        axes.set_title(f"head {head + 1}", fontsize=9)
        name_axes(axes, attention, cell)
        axes.tick_params(labelbottom=head + columns >= len(weights))
    scale(figure, image, figure.axes)
    return figure


def plot_alignment(
    attention: AttentionMap, layer: int | None = None, head: int | None = None, theme: str = "light"
) -> Any:
    """One matrix: which word, a row, looks at which, a column. A matplotlib figure.

    Args:
        attention: what to draw; cross-attention is an alignment of two texts.
        layer: from 0; by default the last but one, as in `Translator.align`.
        head: from 0; by default the mean of the layer's heads.
        theme: "light" or "dark".

    Raises:
        ValueError: there is no such layer or head.
    """
    layers, heads = attention.weights.shape[:2]
    layer = max(0, layers - 2) if layer is None else index(layer, layers, "layer")
    weights = attention.weights[layer]
    weights = weights.mean(0) if head is None else weights[index(head, heads, "head")]
    cell = max(0.16, cell_of(attention))
    labels = 0.07 * max(map(len, map(shorten, [*attention.queries.labels, *attention.keys.labels]))) + 0.3
    figure, paint = canvas(
        cell * len(attention.keys) + labels + 0.9, cell * len(attention.queries) + labels + 0.3, theme
    )
    axes = figure.subplots()
    image = paint(axes, weights)
    axes.set_title(f"layer {layer + 1}, {'mean of its heads' if head is None else f'head {head + 1}'}", fontsize=9)
    name_axes(axes, attention, cell)
    axes.tick_params(labeltop=True, labelbottom=False, top=True, bottom=False)
    scale(figure, image, axes)
    return figure


def plot_lines(
    attention: AttentionMap,
    layer: int = -1,
    heads: Sequence[int] | None = None,
    word: int | str | None = None,
    theme: str = "light",
) -> Any:
    """Lines from words to those that they look at, as in the paper's figures 3 to 5 turned by a quarter, one colour a
    head. A matplotlib figure.

    Args:
        attention: what to draw.
        layer: from 0, or, below 0, from the last.
        heads: from 0; by default all.
        word: the number, from 0, or the letters of the only one whose lines are drawn (figure 3). Without it, lines
            of weights below 0.1 are left out.
        theme: "light" or "dark".

    Raises:
        ValueError: there is no such layer, head or word.
    """
    layers, count = attention.weights.shape[:2]
    layer = index(layer, layers, "layer")
    heads = range(count) if heads is None else [index(head, count, "head") for head in heads]
    labels = (attention.queries.labels, attention.keys.labels)
    rows = range(len(labels[0])) if word is None else [find(word, labels[0])]
    least, power = (0.1, 1.0) if word is None else (0.02, 0.5)
    widest = [max(1.0, 0.085 * max(map(len, map(shorten, side))) + 0.2) for side in labels]
    length, gap = max(map(len, labels)), 3.0
    figure, _ = canvas(sum(widest) + gap, 0.19 * length + 0.7, theme)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-widest[0], gap + widest[1])
    axes.set_ylim(length - 0.4, -2.2)
    ink, fonts = THEMES[theme]["ink"], families([*labels[0], *labels[1]])
    for side, (x, align) in zip(labels, ((-0.06, "right"), (gap + 0.06, "left")), strict=True):
        for y, label in enumerate(side):
            chosen = word is not None and align == "right" and y in rows
            axes.text(
                x, y, shorten(label), ha=align, va="center", color=ink, fontsize=9, family=fonts, parse_math=False,
                weight="bold" if chosen else "normal",
            )  # fmt: skip
    for head in heads:
        colour, dash = COLOURS[head % len(COLOURS)], "-" if head < len(COLOURS) else "--"
        weights = attention.weights[layer, head]
        for row in rows:
            for column, weight in enumerate(weights[row].tolist()):
                if weight > least:
                    axes.plot(
                        [0, gap], [row, column], dash, color=colour, alpha=min(1.0, weight**power), linewidth=1.6
                    )
    step = gap / max(8, len(heads))
    axes.text(-0.06, -1.3, f"layer {layer + 1}, heads", color=ink, fontsize=8, ha="right", va="center")
    for place, head in enumerate(heads):
        x, colour = place * step, COLOURS[head % len(COLOURS)]
        axes.plot([x, x + step * 0.6], [-1.0, -1.0], "-" if head < len(COLOURS) else "--", color=colour, linewidth=3)
        axes.text(x + step * 0.3, -1.6, str(head + 1), color=ink, fontsize=7, ha="center", va="center")
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as its file's ending says.

    Raises:
        ValueError: it is none of PNG, SVG and PDF.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: expected a file that ends in one of {', '.join(FORMATS)}")
    figure.savefig(path, dpi=150)


def canvas(width: float, height: float, theme: str) -> tuple[Any, Any]:
    """An empty figure of so many inches, and what paints weights on axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such theme.
    """
    try:
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'hf-vanilla[plots]'") from error
    if theme not in THEMES:
        raise ValueError(f"theme is {theme!r}; expected one of {', '.join(THEMES)}")
    colours = THEMES[theme]
    ramp = LinearSegmentedColormap.from_list("weights", colours["ramp"])
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=colours["paper"])

    def paint(axes: Any, weights: Tensor) -> Any:
        axes.set_facecolor(colours["paper"])
        axes.tick_params(colors=colours["ink"], length=0)
        for spine in axes.spines.values():
            spine.set_color("#888888")
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(colours["ink"])
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        return axes.imshow(weights.numpy(), cmap=ramp, norm=norm, aspect="auto", interpolation="nearest")

    return figure, paint


def scale(figure: Any, image: Any, axes: Any) -> None:
    """What the colours mean."""
    width, height = figure.get_size_inches()
    size = {"shrink": min(0.8, 4 / height), "fraction": min(0.15, 0.5 / width), "pad": min(0.02, 0.1 / width)}
    bar = figure.colorbar(image, ax=axes, aspect=25, ticks=[0, 0.05, 0.25, 0.5, 1], **size)
    ink = figure.axes[0].yaxis.label.get_color()
    bar.ax.tick_params(colors=ink, labelsize=7)
    bar.set_label("weight", color=ink, fontsize=8)
    bar.outline.set_edgecolor("#888888")


def grid_of(grid: Any) -> Iterable[tuple[tuple[int, int], Any]]:
    """Places and axes."""
    return (((row, column), axes) for row, line in enumerate(grid) for column, axes in enumerate(line))


def cell_of(attention: AttentionMap) -> float:
    """Inches of a square: smaller where there are many."""
    longest = max(len(attention.queries), len(attention.keys))
    return 0.22 if longest <= 16 else max(0.12, 3.5 / longest)


def name_axes(axes: Any, attention: AttentionMap, cell: float) -> None:
    """Words on both axes; text of users is shown as it is: "$" starts no formula."""
    options = {"fontsize": min(9, 58 * cell), "parse_math": False}
    for tokens, ticks, turn in ((attention.keys, axes.set_xticks, 90), (attention.queries, axes.set_yticks, 0)):
        labels = [shorten(label) for label in tokens.labels]
        ticks(range(len(labels)), labels, rotation=turn, family=families(labels), **options)


def index(number: int, count: int, name: str) -> int:
    """A layer's or head's number from 0, where it may be given from the end.

    Raises:
        ValueError: there is none.
    """
    if not -count <= number < count:
        raise ValueError(f"{name} is {number}; expected 0 to {count - 1}, or -{count} to -1 from the end")
    return number % count


def find(word: int | str, labels: Sequence[str]) -> int:
    """The number of a word, from 0.

    Raises:
        ValueError: there is none.
    """
    if isinstance(word, str):
        if word not in labels:
            raise ValueError(f"no token is {word!r}; expected one of {' '.join(labels)}")
        return labels.index(word)
    return index(word, len(labels), "word")


def shorten(label: str) -> str:
    """A word that is not too long for a figure."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def families(labels: Iterable[str]) -> list[str]:
    """Font families that have all letters of some texts, as far as they are installed; each serves where those before
    it have no such letter. What none has, matplotlib warns of."""
    return list(families_of("".join(sorted(set("".join(labels))))))


@functools.lru_cache(maxsize=256)
def families_of(letters: str) -> tuple[str, ...]:
    """As [`families`], for a set of letters."""
    from matplotlib import font_manager

    chosen = ["DejaVu Sans"]
    missing = {ord(letter) for letter in letters if unicodedata.category(letter)[0] != "C"}
    missing -= set(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())

    def rank(entry: Any) -> tuple[bool, bool, int, str]:
        return not entry.name.startswith("Noto Sans"), "CJK" in entry.name, len(entry.name), entry.name

    installed = font_manager.fontManager.ttflist
    regular = [f for f in installed if f.style == "normal" and f.weight == 400 and "Last Resort" not in f.name]
    for entry in sorted(regular, key=rank) if missing else ():
        if not missing:
            break
        found = missing & set(font_manager.get_font(entry.fname).get_charmap())
        if found and entry.name not in chosen:
            chosen.append(entry.name)
            missing -= found
    return tuple(chosen)
