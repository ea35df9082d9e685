"""The README's Python runs, snippet by snippet, as a reader would run it in one session, and so do its commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import run_python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = re.search(r"## From the command line\n\n```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE).group(1)


def test_each_family_has_a_snippet():
    assert len(SNIPPETS) == 3


def test_the_snippets_run(tmp_path):
    """Each with names of its own, in one process."""
    assert all(len(snippet.splitlines()) <= 15 for snippet in SNIPPETS)
    code = "import json, sys\nfor code in json.loads(sys.argv[1]):\n    exec(code, {})\n    print('-' * 80)"
    result = run_python(code, json.dumps(SNIPPETS), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    outputs = result.stdout.split("-" * 80 + "\n")[:-1]
    for snippet, output in zip(SNIPPETS, outputs, strict=True):
        assert output
        for printed in re.findall(r"print\(.*\)  # (der .*)", snippet):
            assert printed in output.splitlines()


@pytest.mark.slow
def test_the_commands_run_in_any_locale_and_folder_and_into_a_pipe(tmp_path):
    """Those from the command line, in a folder with blanks, where output is to be ASCII: none may die of a letter."""
    folder = tmp_path / "a folder, and ß"
    shutil.copytree(ROOT / "scripts" / "configs", folder / "scripts" / "configs")
    text = "In the beginning God made heaven.\nAnd he said: “Ä!”\n"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    run_python(SNIPPETS[2], cwd=folder, env=variables, check=True)
    variables |= {"LANG": "C", "PYTHONIOENCODING": "ascii"}
    # A model that has learned nothing takes long to translate all verses.
    quick = {"train": " --max_steps 3 --warmup_steps 1", "evaluate": " --source english.txt --reference german.txt"}
    echo, *commands = COMMANDS.splitlines()
    assert echo == f'echo "{text.splitlines()[0]}" > english.txt'
    (folder / "english.txt").write_text(text, encoding="utf-8")
    for command in commands:
        program, verb, *_ = command.split()
        assert program == "hf-vanilla"
        command = command.partition("  ")[0].replace(program, f"'{sys.executable}' -m hf_vanilla.cli", 1)
        piped = f"set -o pipefail; {command}{quick.get(verb, '')} | cat"
        result = subprocess.run(["bash", "-c", piped], cwd=folder, env=variables, capture_output=True)
        assert result.returncode == 0, (command, result.stderr.decode("utf-8"))
        printed = result.stdout.decode("utf-8")
        assert "Traceback" not in result.stderr.decode("utf-8") and (printed or verb == "translate")
    assert len((folder / "german.txt").read_text(encoding="utf-8").split("\n")) == 3
    written = ("runs/tiny/training_summary.json", "attention.html", "page.html", "runs/marian", "runs/card/README.md")
    assert all((folder / name).exists() for name in written)
