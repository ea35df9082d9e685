"""Figures hold the model's weights, in any script, theme and format."""

import importlib.metadata
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from hf_vanilla.attention import figures
from hf_vanilla.attention.figures import COLOURS, plot_alignment, plot_grid, plot_heads, plot_lines, save_figure
from hf_vanilla.attention.heads import Head
from hf_vanilla.attention.maps import AttentionMaps
from hf_vanilla.attention.survey import Survey
from hf_vanilla.attention.weights import AttentionMap
from hf_vanilla.attention.words import Tokens

WORDS = [
    "the",
    "animal",
    "שלום",
    "السلام",
    "日本",
    "e\u0301",
    "$x_2$",
    "Donaudampfschifffahrtsgesellschaft",
    ".",
    "</s>",
]


def tokens(words):
    return Tokens(
        tuple(words), tuple(w == "</s>" for w in words), tuple((i,) for i in range(len(words))), tuple(words)
    )


def attention(queries=10, keys=9, layers=2, heads=5, kind="cross"):
    torch.manual_seed(0)
    weights = (torch.randn(layers, heads, queries, keys) * 3).softmax(-1)
    words = [WORDS * 10][0]
    return AttentionMap(kind, weights, tokens(words[:queries]), tokens(words[:keys]))


def images(figure):
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def test_each_picture_holds_the_weights_of_its_head():
    maps = attention()
    weights = maps.weights.numpy()
    grid = images(plot_grid(maps))
    assert len(grid) == 10
    for picture, own in zip(grid, weights.reshape(10, 10, 9), strict=True):
        np.testing.assert_allclose(picture, own, atol=1e-6)
    for layer in (0, -1):
        for picture, own in zip(images(plot_heads(maps, layer)), weights[layer], strict=True):
            np.testing.assert_allclose(picture, own, atol=1e-6)
    np.testing.assert_allclose(images(plot_alignment(maps))[0], weights[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(images(plot_alignment(maps, 1, 3))[0], weights[1, 3], atol=1e-6)


def test_lines_go_from_words_to_those_that_they_look_at_in_the_colour_of_the_head():
    maps = attention()
    figure = plot_lines(maps, layer=1, heads=[0, 3], word="animal")
    lines = [line for line in figure.axes[0].lines if line.get_xdata()[0] == 0 and line.get_ydata()[0] >= 0]
    assert {float(line.get_ydata()[0]) for line in lines} == {1.0}
    for head in (0, 3):
        ends = {int(line.get_ydata()[1]) for line in lines if line.get_color() == COLOURS[head]}
        assert ends == {column for column in range(9) if maps.weights[1, head, 1, column] > 0.02}
    for line in lines:
        head = COLOURS.index(line.get_color())
        weight = float(maps.weights[1, head, 1, int(line.get_ydata()[1])])
        assert line.get_alpha() == pytest.approx(weight**0.5, abs=1e-6)
    assert len(plot_lines(maps, heads=[0]).axes[0].lines) > len(plot_lines(maps, heads=[0], word=0).axes[0].lines)


@pytest.mark.parametrize("suffix, theme", [(".png", "dark"), (".svg", "light"), (".pdf", "dark")])
def test_formats_and_themes(suffix, theme, tmp_path):
    for name, plot in {"heads": plot_heads, "lines": plot_lines, "alignment": plot_alignment}.items():
        path = tmp_path / f"{name}{suffix}"
        save_figure(plot(attention(heads=2), theme=theme), path)
        assert path.read_bytes().startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


@pytest.fixture
def fonts(monkeypatch):
    """Nothing but matplotlib's own fonts, and no memory of others."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    monkeypatch.setattr(figures, "_warned_of", set())
    for function in (figures.font_families, figures.add_new_fonts):
        function.cache_clear()
    yield monkeypatch
    for function in (figures.font_families, figures.add_new_fonts):
        function.cache_clear()


def write_font(path, name, letters):
    """A font whose letters all are one square."""
    builder, pen = FontBuilder(1000), TTGlyphPen(None)
    for move, point in zip((pen.moveTo, *[pen.lineTo] * 3), ((0, 0), (0, 700), (700, 700), (700, 0)), strict=True):
        move(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter)}" for letter in letters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): glyph for letter, glyph in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_a_font_that_was_installed_since_matplotlib_looked_draws_what_others_lack(fonts, tmp_path, caplog):
    paths = [
        write_font(tmp_path / "a.ttf", "Some Hangul", "태초에"),
        write_font(tmp_path / "b.ttf", "Some Han", "日本"),
    ]
    fonts.setattr(font_manager, "findSystemFonts", lambda: [*paths, str(tmp_path / "absent.ttf")])
    assert figures.font_families("In 태초에") == ["DejaVu Sans", "Some Hangul"]
    assert figures.font_families("태초 日本") == ["DejaVu Sans", "Some Han", "Some Hangul"]
    assert figures.font_families("Donaudampfschiff") == ["DejaVu Sans"] and not caplog.text
    words = tokens(["태초에", "日本", "a"])
    weights = torch.eye(3)[None, None]
    figure = plot_alignment(AttentionMap("cross", weights, words, words))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.png")


def test_a_font_that_comes_with_a_package_is_found(fonts, tmp_path):
    path = write_font(tmp_path / "c.ttf", "Packaged Hangul", "태초에")
    of_package = SimpleNamespace(suffix=".ttf", locate=lambda: path)
    fonts.setattr(importlib.metadata, "files", {figures.FONT_PACKAGE: [of_package]}.get)
    assert figures.font_families("태초에") == ["DejaVu Sans", "Packaged Hangul"]


def test_scripts_that_no_font_has_are_named_once_with_the_remedy(fonts, tmp_path, caplog):
    words = tokens(["태초에", "日本", "ひらがな"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            save_figure(
                plot_alignment(AttentionMap("cross", torch.eye(3)[None, None], words, words)), tmp_path / "a.png"
            )
    (record,) = caplog.records
    assert record.getMessage().startswith("no font here has Han, Hangul, Hiragana: figures show boxes")
    assert "fonts-noto-cjk" in record.getMessage() and "hf-vanilla[fonts]" in record.getMessage()
    figures.font_families("태초에 नमः")
    assert [record.getMessage().split(":")[0] for record in caplog.records][1:] == ["no font here has Devanagari"]


def overlaps(figure, labels):
    """How many neighbours among text labels cover each other."""
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in labels]
    return sum(a.overlaps(b) and min(a.y1, b.y1) - max(a.y0, b.y0) > 1 and min(a.x1, b.x1) - max(a.x0, b.x0) > 1
               for a, b in zip(boxes, boxes[1:], strict=False))  # fmt: skip


def test_sixty_tokens_and_long_words_do_not_cover_each_other():
    maps = attention(60, 60, layers=1, heads=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for figure in (plot_alignment(maps), plot_heads(maps)):
            axes = figure.axes[0]
            assert overlaps(figure, axes.get_xticklabels()) == overlaps(figure, axes.get_yticklabels()) == 0
        figure = plot_lines(maps)
        left = [text for text in figure.axes[0].texts if text.get_ha() == "right"]
        assert len(left) == 61 and overlaps(figure, left) == 0
    width, height = figure.get_size_inches()
    assert width < 12 and height < 15


def test_more_heads_than_colours_are_dashed():
    figure = plot_lines(attention(heads=12), word=0)
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if line.get_ydata()[0] < 0}
    assert len(styles) == 12


def test_a_survey_is_drawn():
    heads = [
        Head(kind, layer, head, kind_type, {kind_type: 1.0}, {}, 0.2 if kind == "cross" else None, 0.1 * head)
        for kind, kind_type in (("encoder", "positional (-2)"), ("cross", "alignment"))
        for layer in range(2)
        for head in range(3)
    ]
    figure = Survey("model", 4, heads, "perplexity", 9.0).plot()
    titles = {axes.get_title() for axes in figure.axes}
    names = {"encoder": ("type", "rise of perplexity without it"), "cross": ("type", "rise of perplexity without it")}
    expected = {f"{kind}: {name}" for kind, both in names.items() for name in both}
    assert titles == expected | {"cross: alignment error rate"}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plot_heads(attention(), 2), "layer is 2; expected 0 to 1, or -2 to -1 from the end"),
        (lambda: plot_alignment(attention(), 0, 5), "head is 5; expected 0 to 4"),
        (lambda: plot_lines(attention(), word="cow"), "no token is 'cow'; expected one of the animal"),
        (lambda: plot_lines(attention(), word=10), "word is 10; expected 0 to 9"),
        (lambda: plot_grid(attention(), "sepia"), "theme is 'sepia'; expected one of light, dark"),
        (lambda: save_figure(None, "a.gif"), r"a.gif: expected a file that ends in one of .png, .svg, .pdf"),
    ],
)
def test_bad_figures_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_figures_alone_need_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    maps = attention()
    assert "<html" in AttentionMaps("model", "source", "", cross=maps).to_html()
    with pytest.raises(ImportError, match=r"figures need matplotlib: pip install 'hf-vanilla\[plots\]'"):
        plot_grid(maps)
