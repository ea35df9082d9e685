"""The README's Python runs, snippet by snippet, as a reader would run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_each_family_has_a_snippet():
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet(snippet, tmp_path):
    assert len(snippet.splitlines()) <= 15
    result = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines
    for printed in re.findall(r"print\(.*\)  # (der .*)", snippet):
        assert printed in lines
