"""Generate a treebank: English-like sentences with trees in the Penn Treebank's notation (scripts/paper/treebank.py).

    python scripts/generate_treebank.py runs/treebank
    python scripts/generate_treebank.py runs/treebank --train 40000 --test 2000 --seed 1

Writes FOLDER/train.mrg and FOLDER/test.mrg, a tree a line; no sentence occurs twice.
"""

import argparse
from pathlib import Path

from paper.treebank import write_treebank

from hf_vanilla.cli.streams import run_program


def main() -> None:
    """Write the two files, and print the size of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=20_000, help="trees to learn from (default: 20000)")
    parser.add_argument("--test", type=int, default=500, help="trees to test with (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    options = parser.parse_args()
    if min(options.train, options.test) < 1:
        parser.error("--train and --test must be at least 1")
    options.folder.mkdir(parents=True, exist_ok=True)
    for path, trees in write_treebank(options.folder, options.train, options.test, options.seed).items():
        words = sum(len(tree.words()) for tree in trees)
        print(f"{len(trees):6,} trees, {words / len(trees):.1f} words each: {path}")


if __name__ == "__main__":
    run_program(main)
