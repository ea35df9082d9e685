"""What MkDocs calls while it builds the site: notebooks become pages, formulas MathML, and languages know each other.

Nothing here needs a network, and no page does: formulas are rendered while the site is built, and the letters of
Hangul that it uses come with it.
"""

import hashlib
import html
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import torch
from fontTools import subset
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from pages import notebooks

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "docs"
ANSWER = {"en": "The answer in code", "ko": "코드로 확인한 정답"}
DOWNLOAD = {
    "en": "This page is a notebook that ran while the site was built: [{name}]({name}).",
    "ko": "이 쪽은 사이트를 만들 때 실행한 노트북입니다: [{name}]({name}).",
}
FONTS = {"assets/hangul.woff2": 400, "assets/hangul-bold.woff2": 700}
figures: dict[str, list[str]] = {}
"""For each page of a notebook, its figures as SVG."""


def language_of(config: Any) -> str:
    """Return the language of the site that is built, "en" or "ko"."""
    return str(config["theme"]["language"])


def run_cached(path: Path) -> list[notebooks.Cell]:
    """Run a notebook, unless neither it nor anything that it may call has changed since it ran last."""
    key = hashlib.sha256(torch.__version__.encode())
    sources = [path, notebooks.DOCS / "paper" / path.name, Path(notebooks.__file__)]
    for each in [*sources, *sorted((ROOT / "hf_vanilla").rglob("*.py"))]:
        key.update(each.read_bytes())
    kept = CACHE / f"{key.hexdigest()}.json"
    if not kept.is_file():
        cells = notebooks.run(path)
        CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([vars(cell) for cell in cells]), encoding="utf-8")
    return [notebooks.Cell(**cell) for cell in json.loads(kept.read_text(encoding="utf-8"))]


def on_files(files: Any, config: Any) -> Any:
    """Run each notebook, and add its page beside it."""
    language = language_of(config)
    for path in notebooks.find_notebooks(language):
        cells = run_cached(path)
        name = f"paper/{path.stem}.md"
        figures[name] = [figure for cell in cells for figure in cell.figures]
        text = notebooks.as_markdown(cells, ANSWER[language])
        text += "\n---\n\n" + DOWNLOAD[language].format(name=path.name) + "\n{ .download }\n"
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put figures where they belong, and render formulas."""
    for number, figure in enumerate(figures.get(page.file.src_uri, [])):
        empty = f'<div class="plot" data-figure="{number}"></div>'
        assert empty in content, f"{page.file.src_uri} has no place for figure {number}"
        content = content.replace(empty, f'<div class="plot">{figure}</div>')
    if page.file.src_uri == "reference.md":
        content = re.sub(r"<tr class=\"doc-section-item\">.*?</tr>", tidy_field, content, flags=re.DOTALL)
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', render_inline, content, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', render_block, content, flags=re.DOTALL)


def tidy_field(row: re.Match[str]) -> str:
    """Return a row of a table of arguments; where the docstring says what the default is, as transformers writes it,
    no column says otherwise."""
    written = re.search(r"<code>(`\w+`[^<]*)</code>", row[0])
    if written is None:
        return row[0]
    kind = re.sub(r"`([^`]*)`", r"<code>\1</code>", written[1]).replace("*optional*", "<em>optional</em>")
    return row[0].replace(written[0], kind).replace("<em>required</em>", "")


def render_inline(formula: re.Match[str]) -> str:
    """Return a formula within a line as MathML."""
    return as_mathml(formula[1])


def render_block(formula: re.Match[str]) -> str:
    """Return a formula on lines of its own as MathML, which scrolls where it is wider than the page."""
    return f'<div class="formula">{as_mathml(formula[1], display="block")}</div>'


def as_mathml(formula: str, display: str = "inline") -> str:
    """Return LaTeX, as it stands in HTML, as MathML."""
    mathml = convert(html.unescape(formula).strip(), display=display)
    return re.sub("<mo>(&#x0?221E;|∞)</mo>", r"<mi>\1</mi>", mathml)  # a number: no space after a minus before it


def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """Let the language switch lead to the same page in the other language, or to its start if there is none."""
    language = language_of(config)
    here = page.url or "index.html"
    twin = ROOT / "docs" / ("ko" if language == "en" else "") / page.file.src_uri
    exists = twin.is_file() or twin.with_suffix(".py").is_file()
    target = here if exists else "index.html"
    target = f"ko/{target}" if language == "en" else f"../{target}"
    other = posixpath.relpath(target, posixpath.dirname(here) or ".")
    own = posixpath.basename(here)
    names = {"en": "English", "ko": "한국어"}
    context["languages"] = [
        {"name": name, "lang": code, "link": own if code == language else other} for code, name in names.items()
    ]
    return context


def on_post_build(config: Any) -> None:
    """Write fonts with those letters of Hangul that the pages use, for readers whose device has none."""
    site = Path(config["site_dir"])
    pages = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    text = "".join(sorted({letter for letter in pages if "\u1100" <= letter <= "\ud7ff"}))
    if not notebooks.add_hangul_font():
        raise PluginError(f"no font has Hangul: pip install {notebooks.HANGUL_PACKAGE}")
    from matplotlib import font_manager

    for name, weight in FONTS.items():
        font = TTFont(font_manager.findfont(font_manager.FontProperties(notebooks.HANGUL, weight=weight)))
        hints = ["TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # the sources of hints, which only an editor reads
        subsetter = subset.Subsetter(subset.Options(layout_features=["*"], drop_tables=hints))
        subsetter.populate(text=text)
        subsetter.subset(font)
        for record in font["name"].names:  # its licence keeps the name for the font as it was
            record.string = record.toUnicode().replace("Nanum", "Hangul ").replace("나눔", "한글 ")
        font.flavor = "woff2"
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        font.save(site / name)
