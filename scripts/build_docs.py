"""Build the site of docs/ in English and Korean, and check its links.

    python scripts/build_docs.py

Its pages lie in site/, where they can be opened as files. All notebooks run first, which takes some minutes, unless
they did before and neither they nor the package has changed since (`.cache/docs`). Nothing is fetched from a network.
The build fails at an assertion of a notebook, at a warning of MkDocs, at a link or an anchor that leads nowhere, and
at anything that a page would load from elsewhere.
"""

import argparse
import logging
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DISABLE_MKDOCS_2_WARNING", "true")
os.environ.setdefault("NO_MKDOCS_2_WARNING", "true")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from pages.links import find_broken

from hf_vanilla.cli.streams import run_program

ROOT = Path(__file__).parents[1]
CONFIGS = ("mkdocs.yml", "mkdocs.ko.yml")  # the second lies in a folder of the first


def main() -> None:
    """Build both languages, then check all links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.chdir(ROOT)
    for name in CONFIGS:
        config = load_config(name, strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        except Abort as error:
            raise SystemExit(f"{name}: {error}") from None
        finally:
            config.plugins.on_shutdown()
    broken = list(find_broken(ROOT / "site"))
    if broken:
        raise SystemExit("\n".join(broken))
    print(
        f"{ROOT / 'site' / 'index.html'}: {len(list((ROOT / 'site').rglob('*.html')))} pages, all links lead somewhere"
    )


if __name__ == "__main__":
    run_program(main)
