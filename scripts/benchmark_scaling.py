"""How the cost of a training step grows: time and memory against length, batch, depth, width and vocabulary.

    python scripts/benchmark_scaling.py runs/scaling.png

Everything but what varies is as in the small model (3 + 3 layers, 256 wide, d_ff 4 times that, vocabulary 8,000), 8
sentences of 64 tokens without padding. Prints medians and the exponent of the upper half of each curve (a straight
line through logarithms), and draws the curves. Theory: length approaches 2 (attention), width approaches 2 (all
matrices), batch, depth and vocabulary approach 1 from below, for what they add to is constant.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import LogLocator, NullLocator
from peers.measuring import Runner, exponent, make_batch, mark_sizes, save_figure
from peers.models import Shape, vanilla

from hf_vanilla.cli.streams import run_program

START = {"length": 64, "batch": 8, "depth": 3, "width": 256, "vocabulary": 8000}
VALUES = {
    "length": [32, 64, 128, 256, 512, 1024, 2048, 4096],
    "batch": [1, 2, 4, 8, 16, 32],
    "depth": [1, 2, 3, 6, 12],
    "width": [64, 128, 256, 512, 1024],
    "vocabulary": [1000, 2000, 4000, 8000, 16000, 32000],
}


def measure(rounds: int, length: int, batch: int, depth: int, width: int, vocabulary: int) -> tuple[float, float]:
    """Return the median of a step's seconds over the rounds, and the MiB at its peak."""
    runner = Runner(vanilla, Shape(depth, width, max(1, width // 64), 4 * width, vocabulary, length))
    torch.manual_seed(0)
    inputs = make_batch("seq2seq", batch, length, 0.0, vocabulary)
    runner.step(inputs)
    return statistics.median(runner.step(inputs) for _ in range(rounds)), runner.peak_memory(inputs)


def main() -> None:
    """Measure, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path, help="where the PNG goes")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps at each point (default: 5)")
    options = parser.parse_args()
    figure, axes = plt.subplots(2, len(VALUES), figsize=(3.2 * len(VALUES), 6), layout="constrained")
    print("| | from | to | exponent of time | exponent of memory |\n|---|---|---|---|---|")
    for column, (name, values) in enumerate(VALUES.items()):
        points = [measure(options.rounds, **{**START, name: value}) for value in values]
        exponents = []
        for axis, costs, unit in zip(axes[:, column], zip(*points, strict=True), ("seconds", "MiB"), strict=True):
            exponents.append(exponent(values, list(costs)))
            axis.loglog(values, costs, "o-", color="#1f5fa8", markersize=4)
            axis.set_title(f"{name}: exponent {exponents[-1]:.2f}", fontsize=10)
            axis.set_ylabel(f"{unit} a step" if column == 0 else "")
            mark_sizes(axis, values, rotation=60)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
        print(f"| {name} | {values[0]:,} | {values[-1]:,} | {exponents[0]:.2f} | {exponents[1]:.2f} |", flush=True)
    save_figure(figure, options.figure, dpi=120)


if __name__ == "__main__":
    run_program(main)
