"""@huggingface/transformers in node, offline. HF_TRANSFORMERS_JS names a folder in which npm has installed it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARY = Path(os.environ.get("HF_TRANSFORMERS_JS") or Path.home() / ".cache" / "hf_vanilla" / "transformers_js")
NODE, RUNNER = shutil.which("node"), Path(__file__).with_name("run_transformers_js.mjs")
IS_THERE = NODE and (LIBRARY / "node_modules" / "@huggingface" / "transformers").is_dir()
REASON = f"no node, or no @huggingface/transformers in {LIBRARY}: HF_TRANSFORMERS_JS, scripts/fetch_transformers_js.py"
in_transformers_js = pytest.mark.skipif(not IS_THERE, reason=REASON)


def run_transformers_js(folder, tasks, model="."):
    """What each task of `run_transformers_js.mjs` gives, with the `model` in a folder."""
    given = {"library": str(LIBRARY), "models": str(folder), "model": model, "tasks": tasks}
    done = subprocess.run([NODE, str(RUNNER)], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
