"""Fetch the tests that transformers ships in its source distribution, for `tests/transformers_suite`.

    python scripts/fetch_transformers_tests.py

pip downloads them into `.cache/`, in the version of the installed transformers, unless they are there already.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from hf_vanilla.cli.streams import run_program

CACHE = Path(__file__).resolve().parents[1] / ".cache"


def fetch_tests(release: str, cache: Path = CACHE) -> Path:
    """Return the folder `cache/transformers-{release}/tests`, and download it if it is missing.

    Raises:
        SystemExit: pip cannot download the source distribution; the message has its output.
    """
    folder = cache / f"transformers-{release}"
    if folder.exists():
        return folder / "tests"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        # Without build isolation pip installs nothing; the sources are only unpacked, never built.
        pip = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation"]
        command = [*pip, "--dest", scratch, f"transformers=={release}"]
        download = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if download.returncode != 0:
            raise SystemExit(
                f"pip could not download the source distribution of transformers {release}, whose tests the project's "
                f"test suite runs:\n{download.stdout}"
            )
        with tarfile.open(Path(scratch, f"transformers-{release}.tar.gz")) as archive:
            tests = [member for member in archive if member.name.startswith(f"transformers-{release}/tests/")]
            archive.extractall(scratch, tests, filter="data")
        unpacked = Path(scratch, folder.name)
        # test_configuration_common.py reads its own package's __init__.py, which the source distribution lacks.
        (unpacked / "tests" / "__init__.py").touch()
        os.replace(unpacked, folder)
    return folder / "tests"


def main() -> None:
    """Fetch them, and print their folder."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    print(fetch_tests(version("transformers")))


if __name__ == "__main__":
    run_program(main)
