"""The check of links finds what is wrong with them, and the navigation names all notebooks in both languages."""

import re

import pytest
from pages import links, notebooks

ROOT = notebooks.DOCS.parent


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="other.html#there">', None),
        ('<a href="https://example.org/x">', None),
        ('<a href="mailto:x@example.org">', None),
        ('<a href="#here"><h1 id="here">', None),
        ('<a href="folder/">', None),
        ('<a href="missing.html">', "which is not there"),
        ('<a href="other.html#nowhere">', "no such anchor"),
        ('<a href="#nowhere">', "no such anchor"),
        ('<img src="missing.png">', "which is not there"),
        ('<script src="https://example.org/x.js"></script>', "from another site"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from another site"),
        ('<link rel="canonical" href="https://example.org/">', None),
    ],
)
def test_broken_links_and_what_is_loaded_from_elsewhere_are_found(tmp_path, html, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text("")
    (tmp_path / "other.html").write_text('<p id="there">')
    (tmp_path / "page.html").write_text(html)
    found = list(links.find_broken(tmp_path))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_both_navigations_name_every_page():
    english, korean = (
        re.findall(r"paper/\w+\.md", (ROOT / name).read_text()) for name in ("mkdocs.yml", "mkdocs.ko.yml")
    )
    pages = ["paper/index.md", *(f"paper/{path.stem}.md" for path in notebooks.find_notebooks())]
    assert english == korean == pages


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_overview_names_every_notebook(language):
    folder = notebooks.find_notebooks(language)[0].parent
    text = (folder / "index.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in text for path in notebooks.find_notebooks(language))


@pytest.mark.parametrize("page", sorted(notebooks.DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_programs_tests_and_configurations_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/])scripts/[\w/]+\.(?:py|yaml)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"[\w/]*\btest_\w+\.py", text):
        assert any((ROOT / folder / name).is_file() for folder in ("", "tests", "tests/ecosystem")), name


def test_the_pages_that_embed_the_translator_are_those_that_say_what_it_is():
    pages = {path for path in notebooks.DOCS.rglob("*.md") if "<iframe" in path.read_text(encoding="utf-8")}
    assert pages == {notebooks.DOCS / "guides" / "attention.md", notebooks.DOCS / "ko" / "index.md"}
    for page in pages:
        said = re.findall("one minute|1분", page.read_text(encoding="utf-8"))
        assert len(said) > 1, page
