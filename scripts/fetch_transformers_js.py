"""Fetch @huggingface/transformers (transformers.js) by npm, for the tests that run the twins of models in node.

    python scripts/fetch_transformers_js.py

It goes to the folder that HF_TRANSFORMERS_JS names, or else to ~/.cache/hf_vanilla/transformers_js. No script of a
package runs: such scripts would fetch what only a GPU needs.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hf_vanilla.cli.streams import run_program

PACKAGE = "@huggingface/transformers@4.3.2"


def main() -> None:
    """Install it, unless it is there, and print where."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    cache = Path.home() / ".cache" / "hf_vanilla" / "transformers_js"
    folder = Path(os.environ.get("HF_TRANSFORMERS_JS") or cache)
    if shutil.which("npm") is None:
        sys.exit("fetch_transformers_js.py: `npm` is not installed: install Node.js")
    if not (folder / "node_modules" / "@huggingface" / "transformers").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
        result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode:
            sys.exit(f"fetch_transformers_js.py: npm could not install {PACKAGE}:\n{result.stdout}")
    print(folder)


if __name__ == "__main__":
    run_program(main)
