"""Each message that the page about troubleshooting quotes is still in the sources, by the parts that stay the same."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from pages import notebooks

ROOT = notebooks.DOCS.parent
PAGE = notebooks.DOCS / "troubleshooting.md"
THEIRS = (
    "dynamic_module_utils.py generation/utils.py models/auto/auto_factory.py models/auto/configuration_auto.py "
    "pipelines/base.py tokenization_utils_base.py utils/hub.py utils/loading_report.py"
).split()
ENTRY = re.compile(r"^(.+)\n:   \S", re.MULTILINE)
QUOTED = re.compile(r"^(`+)(.+)\1$")
JOINTS = re.compile(r"…|[:;] | is |expected ")  # where messages are put together


def texts(path: Path) -> Iterator[str]:
    """Yield the parts of strings in a file that stay the same, but not its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


@pytest.fixture(scope="module")
def known() -> str:
    """All such parts of the package, and of the modules of transformers whose messages the page quotes."""
    package = Path(transformers.__file__).parent
    paths = [*(ROOT / "hf_vanilla").rglob("*.py"), *(package / name for name in THEIRS)]
    return "\0".join(text for path in paths for text in texts(path))


def constant_parts(message: str) -> list[str]:
    return [part.strip(" `'.,") for part in JOINTS.split(message) if re.search(r"\w{3}", part)]


MESSAGES = [quoted[2] for entry in ENTRY.findall(PAGE.read_text(encoding="utf-8")) if (quoted := QUOTED.match(entry))]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_in_the_sources(known, message):
    parts = constant_parts(message)
    assert parts, "nothing of it stays the same"
    for part in parts:
        assert part in known, f"no source says {part!r}"


def test_most_of_the_page_is_checked():
    assert len(MESSAGES) > 60 and len(set(MESSAGES)) == len(MESSAGES)


def test_another_message_would_be_missed(known):
    assert "this is said by nobody" not in known
