"""The README's Python runs, snippet by snippet, as a reader would run it in one session."""

import json
import re
import subprocess
import sys
from pathlib import Path

SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_each_family_has_a_snippet():
    assert len(SNIPPETS) == 3


def test_the_snippets_run(tmp_path):
    """Each with names of its own, in one process."""
    assert all(len(snippet.splitlines()) <= 15 for snippet in SNIPPETS)
    code = "import json, sys\nfor code in json.loads(sys.argv[1]):\n    exec(code, {})\n    print('-' * 80)"
    command = [sys.executable, "-c", code, json.dumps(SNIPPETS)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    outputs = result.stdout.split("-" * 80 + "\n")[:-1]
    for snippet, output in zip(SNIPPETS, outputs, strict=True):
        assert output
        for printed in re.findall(r"print\(.*\)  # (der .*)", snippet):
            assert printed in output.splitlines()
