"""Figures of attention maps and surveys, for papers and model cards. Only drawing imports matplotlib."""

import contextlib
import functools
import importlib.metadata
import logging
import math
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hf_vanilla.attention.heads import Head
from hf_vanilla.attention.weights import AttentionMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry
    from matplotlib.image import AxesImage

logger = logging.getLogger(__name__)
FIGURE_FORMATS = (".png", ".svg", ".pdf")
PAPER = {"light": "#ffffff", "dark": "#14171c"}
INK = {"light": "#1b1f24", "dark": "#e8eaed"}
RAMPS = {  # for each theme, the colours of weights from 0 to 1
    "light": ("#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08285a"),
    "dark": ("#1d2128", "#243e6c", "#346eaa", "#78b9dc", "#fafad7"),
}
# Okabe and Ito's colours, which colour-blind readers tell apart. The ninth head has the first one again, dashed.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#b8a900")
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
MAX_LABEL = 24  # the most characters of a word that a figure shows
FONT_PACKAGE = "koreanize-matplotlib"
"""Brings Nanum Gothic, which has Hangul."""
REMEDY = (
    "Debian's fonts-noto-cjk has Chinese, Japanese and Korean and fonts-noto-core most other scripts, "
    "and pip install 'hf-vanilla[fonts]' brings Hangul"
)
_warned_of: set[str] = set()


def plot_grid(attention: AttentionMap, theme: str = "light") -> "Figure":
    """Return a figure of all heads at a glance, a row for each layer and a column for each head.

    Within a picture, rows are queries and columns are keys. In every figure of this module, colours follow the square
    root of the weight on the same scale from 0 to 1, so that equal colours are equal weights.

    Raises:
        ImportError, ValueError: matplotlib is not installed; there is no such theme.
    """
    layers, heads = attention.weights.shape[:2]
    figure, paint = canvas(heads * 1.1 + 1.0, layers * 1.1 + 0.8, theme)
    for (layer, head), axes in np.ndenumerate(figure.subplots(layers, heads, squeeze=False)):
        image = paint(axes, attention.weights[layer, head])
        axes.set(xticks=[], yticks=[])
        axes.set_title("" if layer else f"head {head + 1}", fontsize=8)
        axes.set_ylabel("" if head else f"layer {layer + 1}", fontsize=8)
    add_colour_scale(figure, image)
    return figure


def plot_heads(attention: AttentionMap, layer: int = -1, theme: str = "light") -> "Figure":
    """Return a figure of the heads of one layer, counted from 0 or, below 0, from the last, with their words.

    Errors are those of `plot_grid`, and a ValueError if there is no such layer.
    """
    weights = attention.weights[resolve_index(layer, attention.weights.shape[0], "layer")]
    columns = min(4, len(weights)) if len(weights) != 6 else 3
    rows = math.ceil(len(weights) / columns)
    cell, labels = measure(attention)
    width, height = (max(1.2, cell * len(tokens)) for tokens in (attention.keys, attention.queries))
    figure, paint = canvas(columns * (width + 0.15) + labels + 1.1, rows * (height + 0.35) + labels + 0.2, theme)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(weights) :]:
        axes.remove()
    for head, axes in enumerate(grid.flat[: len(weights)]):
        image = paint(axes, weights[head])
        axes.set_title(f"head {head + 1}", fontsize=9)
        label_axes(axes, attention, cell)
        axes.tick_params(labelbottom=head + columns >= len(weights))
    add_colour_scale(figure, image)
    return figure


def plot_alignment(
    attention: AttentionMap, layer: int | None = None, head: int | None = None, theme: str = "light"
) -> "Figure":
    """Return a figure of one matrix: which word, a row, looks at which, a column; that of two texts is an alignment.

    `layer` counts from 0, and is by default the last but one, as in `Translator.align`; `head` counts from 0, and
    without it the mean of the layer's heads is drawn. Errors are those of `plot_heads`.
    """
    layers, heads = attention.weights.shape[:2]
    layer = max(0, layers - 2) if layer is None else resolve_index(layer, layers, "layer")
    weights = attention.weights[layer]
    weights = weights.mean(0) if head is None else weights[resolve_index(head, heads, "head")]
    cell, labels = measure(attention, smallest=0.16)
    width, height = (cell * len(tokens) + labels for tokens in (attention.keys, attention.queries))
    figure, paint = canvas(width + 1.2, height + 0.6, theme)
    axes = figure.subplots()
    image = paint(axes, weights)
    axes.set_title(f"layer {layer + 1}, {'mean of its heads' if head is None else f'head {head + 1}'}", fontsize=9)
    label_axes(axes, attention, cell)
    axes.tick_params(labeltop=True, labelbottom=False, top=True, bottom=False)
    add_colour_scale(figure, image)
    return figure


def plot_lines(
    attention: AttentionMap,
    layer: int = -1,
    heads: Sequence[int] | None = None,
    word: int | str | None = None,
    theme: str = "light",
) -> "Figure":
    """Return a figure of lines from words to those that they look at, in one colour for each head.

    These are the paper's figures 3 to 5, turned by a quarter. `layer`, and each of `heads` (default: all), are as for
    `plot_heads`, and so are the errors. With `word`, its number from 0 or its characters, only the lines of that word
    are drawn, as in figure 3; by default those of all words, except for weights below 0.1.
    """
    layers, count = attention.weights.shape[:2]
    layer = resolve_index(layer, layers, "layer")
    heads = range(count) if heads is None else [resolve_index(head, count, "head") for head in heads]
    labels = (attention.queries.labels, attention.keys.labels)
    if isinstance(word, str) and word not in labels[0]:
        raise ValueError(f"no token is {word!r}; expected one of {' '.join(labels[0])}")
    number = labels[0].index(word) if isinstance(word, str) else word
    rows = range(len(labels[0])) if number is None else [resolve_index(number, len(labels[0]), "word")]
    least, power = (0.1, 1.0) if word is None else (0.02, 0.5)
    widest = [max(1.0, 0.085 * max(map(len, map(shorten, side))) + 0.2) for side in labels]
    length, gap = max(map(len, labels)), 3.0
    figure, _ = canvas(sum(widest) + gap, 0.19 * length + 0.7, theme)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(-widest[0], gap + widest[1]), ylim=(length - 0.4, -2.2))
    ink, fonts = INK[theme], font_families("".join(labels[0] + labels[1]))
    for side, (x, align) in zip(labels, ((-0.06, "right"), (gap + 0.06, "left")), strict=True):
        for y, label in enumerate(side):
            weight = "bold" if word is not None and align == "right" and y in rows else "normal"
            text = axes.text(x, y, shorten(label), ha=align, va="center", color=ink, parse_math=False)
            text.set(fontsize=9, family=fonts, weight=weight)
    step = gap / max(8, len(heads))
    axes.text(-0.06, -1.3, f"layer {layer + 1}, heads", color=ink, fontsize=8, ha="right", va="center")
    for place, head in enumerate(heads):
        colour, dash = COLOURS[head % len(COLOURS)], "-" if head < len(COLOURS) else "--"
        for row in rows:
            for column, value in enumerate(attention.weights[layer, head, row].tolist()):
                if value > least:
                    ends = [0, gap], [row, column]
                    axes.plot(*ends, dash, color=colour, alpha=min(1.0, value**power), linewidth=1.6)
        x = place * step
        axes.plot([x, x + step * 0.6], [-1.0, -1.0], dash, color=colour, linewidth=3)
        axes.text(x + step * 0.3, -1.6, str(head + 1), color=ink, fontsize=7, ha="center", va="center")
    return figure


def plot_survey(heads: Sequence[Head], effect: str, texts: int, theme: str = "light") -> "Figure":
    """Return a figure with a row for each kind of attention: types, effects and alignment error rates of its heads.

    `effect` says what effects measure, `texts` is how many were read. Errors are those of `plot_grid`.
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


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format that the ending of `path` names; one not in `FIGURE_FORMATS` is a ValueError."""
    if Path(path).suffix.lower() not in FIGURE_FORMATS:
        raise ValueError(f"{path}: expected a file that ends in one of {', '.join(FIGURE_FORMATS)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # [`font_families`] has named the script
        figure.savefig(path, dpi=150)


def canvas(width: float, height: float, theme: str) -> tuple["Figure", Callable[["Axes", Tensor], "AxesImage"]]:
    """Return an empty figure of a size in inches, and a function that paints weights (rows, columns) on axes."""
    try:
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'hf-vanilla[plots]'") from error
    if theme not in RAMPS:
        raise ValueError(f"theme is {theme!r}; expected one of {', '.join(RAMPS)}")
    ramp = LinearSegmentedColormap.from_list("weights", RAMPS[theme])

    def paint(axes: "Axes", weights: Tensor) -> "AxesImage":
        axes.set_facecolor(PAPER[theme])
        axes.tick_params(colors=INK[theme], length=0)
        for spine in axes.spines.values():
            spine.set_color("#888888")
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK[theme])
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        return axes.imshow(weights.numpy(), cmap=ramp, norm=norm, aspect="auto", interpolation="nearest")

    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER[theme]), paint


def add_colour_scale(figure: "Figure", image: "AxesImage") -> None:
    """Draw beside all axes of a figure which colour of `image` is which weight."""
    width, height = figure.get_size_inches()
    size = {"shrink": min(0.8, 4 / height), "fraction": min(0.15, 0.5 / width), "pad": min(0.02, 0.1 / width)}
    bar = figure.colorbar(image, ax=figure.axes, aspect=25, ticks=[0, 0.05, 0.25, 0.5, 1], **size)
    ink = figure.axes[0].yaxis.label.get_color()
    bar.ax.tick_params(colors=ink, labelsize=7)
    bar.set_label("weight", color=ink, fontsize=8)
    bar.outline.set_edgecolor("#888888")


def measure(attention: AttentionMap, smallest: float = 0.12) -> tuple[float, float]:
    """Return the size of a square, less where there are many, and about that of the longest label, both in inches."""
    longest = max(len(attention.queries), len(attention.keys))
    labels = map(shorten, [*attention.queries.labels, *attention.keys.labels])
    return 0.22 if longest <= 16 else max(smallest, 3.5 / longest), 0.07 * max(map(len, labels))


def label_axes(axes: "Axes", attention: AttentionMap, cell: float) -> None:
    """Write the words along both axes, as they are: a "$" in them begins no formula."""
    size = min(9, 58 * cell)
    for tokens, ticks, turn in ((attention.keys, axes.set_xticks, 90), (attention.queries, axes.set_yticks, 0)):
        labels = [shorten(label) for label in tokens.labels]
        ticks(
            range(len(labels)),
            labels,
            rotation=turn,
            fontsize=size,
            family=font_families("".join(labels)),
            parse_math=False,
        )


def resolve_index(number: int, count: int, name: str) -> int:
    """Return the number, from 0, of one of `count` that may be given from the end; `name` is for the ValueError."""
    if not -count <= number < count:
        raise ValueError(f"{name} is {number}; expected 0 to {count - 1}, or -{count} to -1 from the end")
    return number % count


def shorten(label: str) -> str:
    """Return a word, cut to `MAX_LABEL` characters."""
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"


@functools.lru_cache(maxsize=256)
def font_families(text: str) -> list[str]:
    """Return installed font families that together have all characters of a text, as far as there are any.

    matplotlib takes each character from the first family that has it. A script that no font has is drawn as boxes; the
    first time, a warning names it.
    """
    from matplotlib import font_manager

    chosen = ["DejaVu Sans"]
    missing = {ord(letter) for letter in text if unicodedata.category(letter)[0] != "C"}
    missing -= _characters(font_manager.findfont("DejaVu Sans"))
    for find_more in (None, add_new_fonts):
        if missing and find_more:
            find_more()
        for entry in sorted(_regular_fonts(), key=_rank):
            if missing and entry.name not in chosen and (found := missing & _characters(entry.fname)):
                chosen.append(entry.name)
                missing -= found
    if scripts := {_script_of(chr(code)) for code in missing} - _warned_of:
        _warned_of.update(scripts)
        logger.warning("no font here has %s: figures show boxes in its place; %s", ", ".join(sorted(scripts)), REMEDY)
    return chosen


@functools.cache
def add_new_fonts() -> None:
    """Make fonts known to matplotlib that were installed since it last looked, or that come with a package."""
    from matplotlib import font_manager

    found = {*font_manager.findSystemFonts(), *_packaged_fonts()}
    for path in sorted(found - {entry.fname for entry in font_manager.fontManager.ttflist}):
        with contextlib.suppress(OSError, RuntimeError):  # a file that is no font, or of a kind that is not drawn
            font_manager.fontManager.addfont(path)


def _packaged_fonts() -> list[str]:
    try:
        files = importlib.metadata.files(FONT_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [str(file.locate()) for file in files if file.suffix == ".ttf"]


def _regular_fonts() -> "list[FontEntry]":
    from matplotlib import font_manager

    installed = font_manager.fontManager.ttflist
    return [f for f in installed if f.style == "normal" and f.weight == 400 and "Last Resort" not in f.name]


def _rank(entry: "FontEntry") -> tuple[bool, bool, int, str]:
    return not entry.name.startswith("Noto Sans"), "CJK" in entry.name, len(entry.name), entry.name


@functools.cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())


def _script_of(letter: str) -> str:
    """Return the name of a letter's script, with which the letter's own name begins: "HANGUL SYLLABLE GA"."""
    script = unicodedata.name(letter, "?").split()[0].title()
    is_letter = unicodedata.category(letter)[0] in "LM"
    return {"Cjk": "Han"}.get(script, script) if is_letter else f"the symbol {letter}"
