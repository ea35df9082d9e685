"""Why self-attention (section 4, Table 1): what a layer costs, what it must do in turn, and how far apart tokens are.

    python scripts/benchmark_layers.py scripts/figures/layers.png

It measures forward and backward passes on a sequence of n vectors of width d: of self-attention (without projections,
whose n d^2 would hide n^2 d), a recurrent layer (torch's LSTM), a convolution of kernel k, and self-attention that is
restricted to a neighbourhood of r. For each layer, beside what Table 1 says, it prints:

- the exponents of time and memory over n, d, k and r: straight lines through the upper half of the logarithms, since
  the constant cost of a call weighs on small sizes;
- sequential operations: how the longest chain of dependent operations in autograd's graph grows when n doubles;
- path length: the layers after which the gradient of the last output reaches the first input, and the steps, one
  after the other, that it goes through.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from paper.runs import markdown_table
from peers.measuring import exponent, mark_sizes, peak_memory, save_figure, seconds_of
from torch import Tensor, nn
from torch.nn import functional as F

from hf_vanilla.cli.streams import run_program

VALUES = {
    "n": [64, 128, 256, 512, 1024, 2048],
    "d": [32, 64, 128, 256, 512, 1024],
    "k": [3, 5, 9, 17, 33],
    "r": [17, 33, 65, 129],
}
PATHS = [4, 8, 16, 32, 64]
START = {"n": 256, "d": 128, "k": 3, "r": 33}  # where others vary


class SelfAttention(nn.Module):
    """softmax(X X^T / sqrt(d)) X of (n, d): every position attends to every other."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.t() / x.shape[1] ** 0.5).softmax(-1) @ x


class RestrictedSelfAttention(nn.Module):
    """Self-attention of each position to the r around it, where those beyond the ends are zeros."""

    def __init__(self, neighbourhood: int) -> None:
        super().__init__()
        self.neighbourhood = neighbourhood

    def forward(self, x: Tensor) -> Tensor:
        half = self.neighbourhood // 2
        windows = F.pad(x, (0, 0, half, half)).unfold(0, self.neighbourhood, 1)  # (n, d, r)
        weights = (x[:, None] @ windows / x.shape[1] ** 0.5).softmax(-1)
        return (windows @ weights.transpose(1, 2)).squeeze(2)


class Recurrent(nn.Module):
    """torch's LSTM, or its cell `by_step`, whose graph shows each step; (n, d) to the same."""

    def __init__(self, width: int, by_step: bool = False) -> None:
        super().__init__()
        self.layer = nn.LSTMCell(width, width) if by_step else nn.LSTM(width, width)
        self.by_step = by_step

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_step:
            return self.layer(x)[0]
        state, states = None, []
        for step in x.split(1):
            state = self.layer(step, state)
            states.append(state[0])
        return torch.cat(states)


class Convolution(nn.Module):
    """A convolution, which computes each position from the k around it; (n, d) to the same."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.t()[None])[0].t()


LAYERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "self-attention": lambda d, k, r: SelfAttention(),
    "recurrent": lambda d, k, r: Recurrent(d),
    "convolutional": lambda d, k, r: Convolution(d, k),
    "restricted": lambda d, k, r: RestrictedSelfAttention(r),
}
STEPWISE = LAYERS | {"recurrent": lambda d, k, r: Recurrent(d, by_step=True)}  # each step is in autograd's graph
THEORY = {
    "self-attention": ("n^2 d", {"n": 2, "d": 1}, "1", "1"),
    "recurrent": ("n d^2", {"n": 1, "d": 2}, "n", "n"),
    "convolutional": ("k n d^2", {"n": 1, "d": 2, "k": 1}, "1", "n / k (dilated: log_k(n))"),
    "restricted": ("r n d", {"n": 1, "d": 1, "r": 1}, "1", "n / r"),
}
COLOURS = dict(zip(LAYERS, ("#1f5fa8", "#7f7f7f", "#d98c00", "#2a9d4a"), strict=True))


def measure(name: str, rounds: int, **sizes: int) -> tuple[float, float]:
    """Return the median seconds of forward and backward over the rounds, and the MiB at their peak."""
    torch.manual_seed(0)
    n, d, k, r = (START | sizes).values()
    layer, x = LAYERS[name](d, k, r), torch.randn(n, d, requires_grad=True)

    def step() -> None:
        layer(x).sum().backward()

    step()
    return statistics.median(seconds_of(step) for _ in range(rounds)), peak_memory(step)


def chain(output: Tensor) -> int:
    """Return the number of operations on the longest path through autograd's graph to a tensor."""
    longest: dict[torch.autograd.graph.Node, int] = {}
    stack = [(output.grad_fn, False)]
    while stack:
        node, ready = stack.pop()
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if ready:
            longest[node] = 1 + max((longest[parent] for parent in parents), default=0)
        elif node not in longest:
            stack.append((node, True))
            stack += [(parent, False) for parent in parents if parent not in longest]
    return longest[output.grad_fn]


def path(name: str, n: int, k: int, r: int) -> tuple[int, int]:
    """Return the layers until the first input has a gradient from the last output, and the steps on that path.

    Each layer is one step, and one more for each vector after the first that makes its chain of operations longer.
    """
    torch.manual_seed(0)
    x = torch.randn(n, 8, requires_grad=True)
    one, two, whole = (chain(STEPWISE[name](8, k, r)(x[:length])) for length in (1, 2, n))
    outputs = x.double()
    for layers in range(1, n + 2):
        outputs = STEPWISE[name](8, k, r).double()(outputs)
        (gradient,) = torch.autograd.grad(outputs[-1].sum(), x, retain_graph=True)
        if gradient[0].abs().sum() > 0:
            return layers, layers * (1 + (whole - one) // max(1, two - one))
    raise RuntimeError(f"{name}: the first input never reaches the last output")


def report_costs(rounds: int, axes: Sequence[Any]) -> None:
    """Print how time and memory grow, and draw time by n and d, and memory by n, on the first three axes."""
    curves = [("n", 0, 0), ("d", 1, 0), ("n", 2, 1)]
    print("| layer | Table 1 | time, by | memory, by |\n|---|---|---|---|")
    for name, (theory, expected, *_) in THEORY.items():
        cells: list[list[str]] = [[], []]
        for variable, exponent_of_theory in expected.items():
            values = VALUES[variable]
            points = list(zip(*(measure(name, rounds, **{variable: value}) for value in values), strict=True))
            for cell, costs in zip(cells, points, strict=True):
                cell.append(f"{variable} {exponent(values, costs):.2f}")
            cells[0][-1] += f" ({exponent_of_theory})"
            for on, axis, cost in curves:
                if on == variable:
                    axes[axis].loglog(values, points[cost], "o-", color=COLOURS[name], markersize=4, label=name)
        print(f"| {name} | {theory} | {', '.join(cells[0])} | {', '.join(cells[1])} |", flush=True)


def report_paths(axis: Any) -> None:
    """Print sequential operations and path lengths, and draw the paths' steps."""
    columns = ["layer", "sequential operations, Table 1", "chain of n = 64 over that of n = 32"]
    columns += ["path length, Table 1", *(f"n = {n}: layers, steps" for n in PATHS)]
    rows = []
    for name, (_, _, sequential, length) in THEORY.items():
        layer = STEPWISE[name](8, START["k"], 5)
        short, long = (chain(layer(torch.randn(n, 8, requires_grad=True))) for n in (32, 64))
        found = [path(name, n, START["k"], 5) for n in PATHS]
        axis.loglog(PATHS, [steps for _, steps in found], "o-", color=COLOURS[name], markersize=4, label=name)
        ways = [f"{layers}, {steps}" for layers, steps in found]
        rows.append([name, sequential, f"{long / short:.2f}", length, *ways])
    print(f"\n{markdown_table(columns, rows)}")


def main() -> None:
    """Measure, print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path, help="where the PNG goes")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps at each point (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.figure.suffix != ".png":
        parser.error(f"{options.figure} is no PNG: its name must end in .png")
    torch.set_num_threads(options.threads)
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.9), layout="constrained")
    report_costs(options.rounds, axes)
    report_paths(axes[3])
    labels = ["length n", "width d", "length n", "length n (k = 3, r = 5)"]
    titles = ["seconds, d = 128", "seconds, n = 256", "MiB, d = 128", "steps from the first to the last"]
    sizes = [VALUES["n"], VALUES["d"], VALUES["n"], PATHS]
    for axis, label, title, values in zip(axes, labels, titles, sizes, strict=True):
        axis.set_xlabel(label)
        axis.set_title(title, fontsize=10)
        mark_sizes(axis, values)
    axes[0].legend(frameon=False, fontsize=9)
    print()
    save_figure(figure, options.figure, dpi=110)


if __name__ == "__main__":
    run_program(main)
