"""The notebooks of docs/, which are text in jupytext's percent format: how they are read, compared and run.

They run as plain Python in this process, a cell after the other, without a kernel: torch is imported once for all.
"""

import ast
import contextlib
import html
import importlib.metadata
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
INK = "#010203"
"""A colour that no figure has by itself. A page replaces it by that of its text, which depends on the theme."""
BLUE = (0.16, 0.47, 0.80)
HANGUL = "NanumGothic"
HANGUL_PACKAGE = "koreanize-matplotlib"
CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


@dataclass
class Cell:
    """A cell of a notebook, and once it has run, what it printed and the figures that it drew, as SVG."""

    is_code: bool
    is_answer: bool  # hidden until the reader asks for it
    text: str
    output: str = ""
    figures: list[str] = field(default_factory=list)


def find_notebooks(language: str = "en") -> list[Path]:
    """Return the notebooks about the paper in a language, "en" or "ko", in their order."""
    return sorted((DOCS / "paper" if language == "en" else DOCS / language / "paper").glob("*.py"))


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a notebook; the text of those that are prose is Markdown."""
    parts = CELL.split(path.read_text(encoding="utf-8"))[1:]  # before the first cell is jupytext's header
    cells = []
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        is_code = "[markdown]" not in mark
        text = text.strip("\n")
        text = text if is_code else re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        cells.append(Cell(is_code, '"answer"' in mark, text))
    return cells


def outline(cells: list[Cell]) -> list[str]:
    """Return what a notebook and its translation have in common: the levels of its headings, how many answers each
    cell of prose hides, and its code without comments and without the characters of strings."""

    class Strings(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant("") if isinstance(node.value, str) else node

    lines = []
    for cell in cells:
        if cell.is_code:
            lines.append(ast.unparse(Strings().visit(ast.parse(cell.text))))
        else:
            levels = " ".join(re.findall(r"^#+(?= )", cell.text, flags=re.MULTILINE))
            lines.append(f"prose {levels} {cell.text.count('<details')}")
    return lines


def add_hangul_font() -> bool:
    """Make a font with Hangul known to matplotlib, from a package that brings one; return False if there is none."""
    from matplotlib import font_manager

    if HANGUL not in font_manager.get_font_names():
        try:
            files = importlib.metadata.files(HANGUL_PACKAGE) or []
        except importlib.metadata.PackageNotFoundError:
            return False
        for file in files:
            if file.name in (f"{HANGUL}.ttf", f"{HANGUL}Bold.ttf"):
                font_manager.fontManager.addfont(str(file.locate()))
    return HANGUL in font_manager.get_font_names()


def find_style(has_hangul: bool) -> dict[str, Any]:
    """Return the settings of matplotlib for figures without a background, which a page in any theme can show."""
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "lines.color")
    return {
        **dict.fromkeys(inks, INK),
        "font.family": ["DejaVu Sans", *([HANGUL] if has_hangul else [])],
        "font.size": 12,
        "axes.titlesize": 12,
        "axes.unicode_minus": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": _cycle(),
        "figure.constrained_layout.use": True,
        "figure.figsize": (6.4, 3.4),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "grid.color": "#88888855",
        "image.cmap": "ink",
        "image.interpolation": "nearest",
        "lines.linewidth": 2,
        "svg.fonttype": "path",
        "svg.hashsalt": "hf_vanilla",
    }


def _cycle() -> Any:
    from cycler import cycler

    # Okabe and Ito's colours, without those that are too light or too dark for one of the themes.
    return cycler(color=["#2f80d0", "#e08e00", "#0f9d76", "#d9603b", "#c26fa5", "#8a8a8a"])


def _add_colours() -> None:
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap

    if "ink" not in mpl.colormaps:  # from nothing to blue, on paper of any colour
        mpl.colormaps.register(LinearSegmentedColormap.from_list("ink", [(*BLUE, 0.0), (*BLUE, 0.85)]))


def as_svg(figure: Any, name: str) -> str:
    """Return a figure as SVG that stands in a page: it has the colour of the page's text, and ids of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    titles = [figure.get_suptitle(), *(axes.get_title() or axes.get_ylabel() for axes in figure.axes)]
    label = html.escape("; ".join(title for title in titles if title) or name, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return re.sub(r"\n\s*", " ", svg).strip()


def run(path: Path) -> list[Cell]:
    """Run a notebook and return its cells with what they gave. What a cell raises, an assertion too, is raised with
    the name of the notebook and the number of the cell.

    A Korean notebook runs as the English one of its name does where no font has Hangul: labels of figures are then
    English rather than boxes, and the page says so.
    """
    import matplotlib
    import torch

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # Nanum Gothic's bold is not quite bold
    _add_colours()
    has_hangul = add_hangul_font()
    cells = read_cells(path)
    if path.parents[1].name == "ko" and not has_hangul:
        for cell, english in zip(cells, read_cells(DOCS / "paper" / path.name), strict=True):
            cell.text = english.text if cell.is_code else cell.text
        note = f"`{HANGUL_PACKAGE}`이 설치되어 있지 않아 그림의 글자를 영어로 적었습니다."
        cells.insert(1, Cell(False, False, note))
    globals_of_cells: dict[str, Any] = {"__name__": "__main__"}
    names = _names(path.stem)
    torch.manual_seed(0)
    with plt.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph .* missing")  # it would be a box
        plt.rcParams.update(find_style(has_hangul))
        for number, cell in enumerate(cells, start=1):
            if not cell.is_code:
                continue
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    _execute(cell.text, globals_of_cells, f"{path}, cell {number}")
            except Exception as error:
                error.add_note(f"in {path}, cell {number}")
                raise
            cell.output = printed.getvalue().rstrip()
            cell.figures = [as_svg(plt.figure(each), next(names)) for each in plt.get_fignums()]
            plt.close("all")
    return cells


def _names(stem: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"f{stem.split('_')[0]}-{number}"


def _execute(code: str, names: dict[str, Any], where: str) -> None:
    """Run the code of a cell, whose last line may be an expression that a notebook would show."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if isinstance(last, ast.Expr):
        eval(compile(ast.Expression(last.value), where, "eval"), names)


def as_markdown(cells: list[Cell], answer: str) -> str:
    """Return a notebook that has run as Markdown; `answer` is what opens a hidden cell. Figures stand in it as empty
    elements, `<div class="plot" data-figure="NUMBER"></div>`, counted from 0 through the notebook."""
    parts, number = [], 0
    for cell in cells:
        if not cell.is_code:
            parts.append(cell.text)
            continue
        lines = [f"```python\n{cell.text}\n```"]
        if cell.output:
            lines.append(f"``` {{ .text .output }}\n{cell.output}\n```")
        for _ in cell.figures:
            lines.append(f'<div class="plot" data-figure="{number}"></div>')
            number += 1
        text = "\n\n".join(lines)
        parts.append(
            f'<details markdown="1">\n<summary>{answer}</summary>\n\n{text}\n\n</details>' if cell.is_answer else text
        )
    return "\n\n".join(parts) + "\n"
