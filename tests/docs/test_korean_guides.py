"""Guides in Korean have the sections and the code of the English ones, and the navigation names them."""

import re

import pytest
from pages import notebooks

KOREAN = sorted((notebooks.DOCS / "ko" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def outline(page):
    """The levels of a page's headings, and its code without comments."""
    text = page.read_text(encoding="utf-8")
    code = [re.sub(r" *(?<!\S)# .*", "", block) for block in BLOCK.findall(text)]
    return re.findall(r"^#+(?= )", BLOCK.sub("", text), flags=re.MULTILINE), code


@pytest.mark.parametrize("page", KOREAN, ids=lambda page: page.stem)
def test_a_guide_has_the_sections_and_the_code_of_the_english_one(page):
    headings, code = outline(page)
    assert len(headings) > 5 and len(code) > 4
    assert (headings, code) == outline(notebooks.DOCS / "guides" / page.name)


def test_the_korean_navigation_names_its_guides_in_the_order_of_the_english():
    english, korean = (
        re.findall(r"guides/(\w+)\.md", (notebooks.DOCS.parent / name).read_text(encoding="utf-8"))
        for name in ("mkdocs.yml", "mkdocs.ko.yml")
    )
    assert sorted(korean) == [page.stem for page in KOREAN]
    assert korean == [name for name in english if name in korean]
