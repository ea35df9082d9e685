"""What a visitor sees first, README in both languages above all, agrees with the code, and its links lead to files."""

import ast
import re
from pathlib import Path

import pytest
from mkdocs.config import load_config
from pages import outside
from ruamel.yaml import YAML

from hf_vanilla import __version__

ROOT = Path(__file__).parents[2]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")}
PAGES = [*READMES, "CONTRIBUTING.md", "SECURITY.md", "llms.txt"]


def read_yaml(path):
    return YAML(typ="safe").load((ROOT / path).read_text(encoding="utf-8"))


def parts_of_the_paper(text, folder):
    """Return the file and the names of each row of the table from the paper to the code, files from the repository."""
    rows = re.findall(r"^\|[^|\n]+\| (`[^|\n]+`) \| (?:\[[^]]*\]\(([^)]+)\)|`([^`]+)`) \|", text, re.MULTILINE)
    for names, link, name in rows:
        path = link or (name if name.startswith("scripts/") else f"{folder}{name}")
        yield path, re.findall("`([^`]+)`", names)


def definitions(path):
    """Return the names of what a file defines, methods with their class."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
            yield from (f"{node.name}.{each.name}" for each in ast.walk(node) if isinstance(each, ast.FunctionDef))


@pytest.mark.parametrize("name", READMES)
def test_each_part_of_the_paper_is_where_the_tables_say(name):
    parts = list(parts_of_the_paper(READMES[name], ""))
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert parts == list(parts_of_the_paper(architecture, "hf_vanilla/")) and len(parts) == 16
    for path, names in parts:
        assert not set(names) - set(definitions(path)), path
    assert "**equation 1**" in READMES["README.md"] and "**식 (1)**" in READMES["README.ko.md"]


@pytest.mark.parametrize("name", READMES)
def test_readme_is_a_page(name):
    lines = READMES[name].splitlines()
    assert len(lines) <= 190
    assert not [line for line in lines if len(line) > 130 and not line.startswith("|")]


def test_both_readmes_have_the_same_sections_code_and_numbers():
    def outline(text):
        blocks = re.findall(r"^(```\w+\n.*?)^```", text, re.DOTALL | re.MULTILINE)
        code = [re.sub(r" *# .*", "", block) for block in blocks]
        return re.findall("^#+(?= )", re.sub("^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.M), code

    english, korean = READMES.values()
    assert outline(english) == outline(korean)
    tables = [re.findall(r"^\| .*\d.*", text, re.MULTILINE) for text in (english, korean)]
    for rows in zip(*tables, strict=True):
        numbers = [sorted(re.findall(r"\d[\d.]*\d|\d", row)) for row in rows]
        assert numbers[0] == numbers[1], rows


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)\"", text)
    paths = {link or image for link, image in links if "://" not in (link or image)}
    assert paths or name == "SECURITY.md"
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_llms_txt_has_the_format_and_names_every_guide():
    title, summary, *_ = text = (ROOT / "llms.txt").read_text(encoding="utf-8").split("\n\n")
    assert title == "# hf_vanilla" and summary.startswith("> ")
    lists = [part for part in text if part.startswith("- ")]
    assert len(lists) == sum(part.startswith("## ") for part in text)
    lines = "\n".join(lists).splitlines()
    linked = [re.fullmatch(r"- \[[^]]+\]\(([^)]+)\): .+\.", line) for line in filter(None, lines)]
    assert all(linked)
    pages = {str(page.relative_to(ROOT)) for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md")]}
    assert not pages - {"docs/index.md"} - {link[1] for link in linked}


def test_citation_agrees_with_the_package():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["authors"] == [{"name": "the hf_vanilla authors"}] and citation["type"] == "software"
    assert citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (paper,) = citation["references"]
    assert paper["title"] == "Attention Is All You Need" and paper["year"] == 2017 and len(paper["authors"]) == 8
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
    bibtex = (ROOT / "docs" / "cite.md").read_text(encoding="utf-8")
    assert f"version = {{{__version__}}}" in bibtex and paper["url"] in bibtex


def test_issue_forms_have_what_github_wants():
    forms = {path.stem: read_yaml(path) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")}
    assert forms.pop("config").keys() == {"blank_issues_enabled"} and forms.keys() == {"bug", "question"}
    for form in forms.values():
        assert form["name"] and form["description"] and form["body"]
        for field in form["body"]:
            assert field["type"] == "textarea" and field["id"] and field["attributes"]["label"]
    assert any("hf-vanilla env" in field["attributes"]["label"] for field in forms["bug"]["body"])


@pytest.mark.parametrize(
    ("page", "link", "placed"),
    [
        ("benchmarks.md", "../model_cards/paper.md#x", "model_cards/paper.md#x"),
        ("guides/train.md", "../../scripts/figures/layers.png", "../scripts/figures/layers.png"),
        ("guides/train.md", "../benchmarks.md", "../benchmarks.md"),
        ("architecture.md", "paper/05_several_heads.py", "paper/05_several_heads.md"),
        ("paper/index.md", "05_several_heads.py#x", "05_several_heads.md#x"),
        ("model_cards/paper.md", "../docs/history.md", "../history.md"),
        ("model_cards/paper.md", "../scripts/figures/layers.png", "../scripts/figures/layers.png"),
    ],
)
def test_links_out_of_the_documentation_hold_in_the_site(page, link, placed):
    assert outside.place_links(f"[a]({link})", page) == f"[a]({placed})"


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_english_site_shows_the_pages_of_model_cards_and_the_pictures(tmp_path, language):
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\ntheme:\n  name: material\n  language: {language}\n")
    files = outside.on_files([], load_config(str(tmp_path / "mkdocs.yml")))
    names = {file.src_uri: Path(file.abs_src_path) for file in files}
    assert {"model_cards/paper.md", "scripts/figures/layers.png"} <= names.keys() if language == "en" else not names
    assert all(path == ROOT / name and path.is_file() for name, path in names.items())


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_documentation_hold_in_the_repository(page):
    links = re.findall(r"\]\((?!https?:|\")([^)\s#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists() and not link.endswith("translator.html")]
    assert not missing
