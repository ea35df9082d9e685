"""Labelled brackets of predicted trees against those of a treebank, scored as by evalb with COLLINS.prm.

    python scripts/evaluate_trees.py GOLD.mrg PREDICTED.mrg

Both files hold trees in the Penn Treebank's notation, in the same order. Precision, recall and F1 are of all brackets
together (Collins, 1997); scripts/paper/trees.py lists what is left out, and labels that count as one. Evalb leaves a
sentence out where the predicted tree has other words. Here none of its brackets is right; F1 without such sentences,
and their number, are printed beside.
"""

import argparse
import sys
from pathlib import Path

from paper.trees import read_treebank, score

from hf_vanilla.cli.streams import run_program


def main() -> None:
    """Score one file of trees against the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gold", type=Path)
    parser.add_argument("predicted", type=Path)
    options = parser.parse_args()
    try:
        gold, predicted = read_treebank(options.gold), read_treebank(options.predicted)
        if len(gold) != len(predicted):
            numbers = f"{options.gold} has {len(gold)} trees, {options.predicted} {len(predicted)}"
            raise ValueError(f"{numbers}; expected as many")
        scores = score(gold, predicted)
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate_trees.py: {error}")
    for name, value in scores.items():
        print(f"{name:15} {value:9.2f}")


if __name__ == "__main__":
    run_program(main)
