"""Why self-attention (section 4, Table 1): what a layer costs, what it must do in turn, and how far apart tokens are.

    python scripts/benchmark_layers.py scripts/figures/layers.png

For a sequence of n vectors of width d, forward and backward: self-attention; a recurrent layer (torch's LSTM); a
convolution of kernel k; and self-attention restricted to a neighbourhood of r. As in Table 1, self-attention is
without its projections (their n d^2 would hide n^2 d). Printed are, for each, beside what Table 1 says:

- exponents of time and memory over n, d, k and r: straight lines through the upper half of the logarithms. Small sizes
  cost more than theory says, for a call costs something, too;
- sequential operations: how the longest chain of dependent operations in autograd's graph grows when n doubles;
- path length: the layers after which the gradient of the last output reaches the first input, and the steps, one
  after the other, that it goes through.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_scaling import exponent
from benchmark_training import peak_memory
from torch import Tensor, nn
from torch.nn import functional as F

LENGTHS = [64, 128, 256, 512, 1024, 2048]
WIDTHS = [32, 64, 128, 256, 512, 1024]
KERNELS = [3, 5, 9, 17, 33]
NEIGHBOURHOODS = [17, 33, 65, 129]
PATHS = [4, 8, 16, 32, 64]
LENGTH, WIDTH, KERNEL, NEIGHBOURHOOD = 256, 128, 3, 33  # where others vary


class SelfAttention(nn.Module):
    """softmax(X X^T / sqrt(d)) X: every position looks at every other."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to the same."""
        return (x @ x.t() / x.shape[1] ** 0.5).softmax(-1) @ x


class RestrictedSelfAttention(nn.Module):
    """The same where a position looks at the r around it, those beyond the ends being zeros."""

    def __init__(self, neighbourhood: int) -> None:
        super().__init__()
        self.neighbourhood = neighbourhood

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to the same."""
        half = self.neighbourhood // 2
        windows = F.pad(x, (0, 0, half, half)).unfold(0, self.neighbourhood, 1)  # (n, d, r)
        weights = (x[:, None] @ windows / x.shape[1] ** 0.5).softmax(-1)
        return (windows @ weights.transpose(1, 2)).squeeze(2)


class Recurrent(nn.Module):
    """h_t from h_(t-1) and x_t: torch's LSTM, or step by step its cell, whose graph shows each."""

    def __init__(self, width: int, by_step: bool = False) -> None:
        super().__init__()
        self.layer: Any = nn.LSTMCell(width, width) if by_step else nn.LSTM(width, width)
        self.by_step = by_step

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to the same."""
        if not self.by_step:
            return self.layer(x)[0]
        state, states = None, []
        for step in x.split(1):
            state = self.layer(step, state)
            states.append(state[0])
        return torch.cat(states)


class Convolution(nn.Module):
    """Each position from the k around it."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to the same."""
        return self.layer(x.t()[None])[0].t()


LAYERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "self-attention": lambda d, k, r: SelfAttention(),
    "recurrent": lambda d, k, r: Recurrent(d),
    "convolutional": lambda d, k, r: Convolution(d, k),
    "restricted": lambda d, k, r: RestrictedSelfAttention(r),
}
THEORY = {
    "self-attention": ("n^2 d", {"n": 2, "d": 1}, "1", "1"),
    "recurrent": ("n d^2", {"n": 1, "d": 2}, "n", "n"),
    "convolutional": ("k n d^2", {"n": 1, "d": 2, "k": 1}, "1", "n / k (dilated: log_k(n))"),
    "restricted": ("r n d", {"n": 1, "d": 1, "r": 1}, "1", "n / r"),
}
COLOURS = dict(zip(LAYERS, ("#1f5fa8", "#7f7f7f", "#d98c00", "#2a9d4a"), strict=True))


def measure(name: str, rounds: int, n: int = LENGTH, d: int = WIDTH, k: int = KERNEL, r: int = NEIGHBOURHOOD) -> Any:
    """Median seconds of forward and backward, and MiB at the peak."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](d, k, r), torch.randn(n, d, requires_grad=True)

    def step() -> None:
        layer(x).sum().backward()

    step()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), peak_memory(step)


def chain(output: Tensor) -> int:
    """Operations on the longest path from a tensor to what it was made of, in autograd's graph."""
    longest: dict[Any, int] = {}
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


def make_layer(name: str, d: int, k: int, r: int) -> nn.Module:
    """A layer whose graph shows each of its steps."""
    return Recurrent(d, by_step=True) if name == "recurrent" else LAYERS[name](d, k, r)


def path(name: str, n: int, k: int, r: int) -> tuple[int, int]:
    """Layers until the first input changes the last output, by the gradient, and steps on that way: in each layer one,
    and one more for each vector after the first that makes the chain of its operations longer."""
    torch.manual_seed(0)
    d = 8
    x = torch.randn(n, d, requires_grad=True)
    one, two, whole = (chain(make_layer(name, d, k, r)(x[:length])) for length in (1, 2, n))
    outputs, layers = x.double(), 0
    while layers <= n:
        outputs, layers = make_layer(name, d, k, r).double()(outputs), layers + 1
        (gradient,) = torch.autograd.grad(outputs[-1].sum(), x, retain_graph=True)
        if gradient[0].abs().sum() > 0:
            return layers, layers * (1 + (whole - one) // max(1, two - one))
    raise RuntimeError(f"{name}: the first input never reaches the last output")


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path, help="where the PNG goes")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps at each point (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.figure.suffix != ".png":
        parser.error(f"{options.figure} is no PNG: its name must end in .png")
    torch.set_num_threads(options.threads)
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.9), layout="constrained")
    curves = [("n", LENGTHS, 0, 0), ("d", WIDTHS, 1, 0), ("n", LENGTHS, 2, 1)]
    print("| layer | Table 1 | time, by | memory, by |\n|---|---|---|---|")
    for name in LAYERS:
        theory, expected, *_ = THEORY[name]
        cells: list[list[str]] = [[], []]
        for variable, values in (("n", LENGTHS), ("d", WIDTHS), ("k", KERNELS), ("r", NEIGHBOURHOODS)):
            if variable not in expected:
                continue
            points = list(zip(*[measure(name, options.rounds, **{variable: value}) for value in values], strict=True))
            for cell, costs in zip(cells, points, strict=True):
                cell.append(f"{variable} {exponent(values, list(costs)):.2f}")
            cells[0][-1] += f" ({expected[variable]})"
            for on, _, axis, cost in curves:
                if on == variable:
                    axes[axis].loglog(values, points[cost], "o-", color=COLOURS[name], markersize=4, label=name)
        print(f"| {name} | {theory} | {', '.join(cells[0])} | {', '.join(cells[1])} |", flush=True)
    print(
        "\n| layer | sequential operations, Table 1 | chain of n = 64 over that of n = 32 | path length, Table 1 | "
        + " | ".join(f"n = {n}: layers, steps" for n in PATHS)
        + " |\n|"
        + "---|" * (4 + len(PATHS))
    )
    for name in LAYERS:
        layer = make_layer(name, 8, KERNEL, 5)
        short, long = (chain(layer(torch.randn(n, 8, requires_grad=True))) for n in (32, 64))
        found = [path(name, n, KERNEL, 5) for n in PATHS]
        axes[3].loglog(PATHS, [steps for _, steps in found], "o-", color=COLOURS[name], markersize=4, label=name)
        ways = " | ".join(f"{layers}, {steps}" for layers, steps in found)
        print(f"| {name} | {THEORY[name][2]} | {long / short:.2f} | {THEORY[name][3]} | {ways} |")
    labels = ["length n", "width d", "length n", "length n (k = 3, r = 5)"]
    titles = ["seconds, d = 128", "seconds, n = 256", "MiB, d = 128", "steps from the first to the last"]
    for axis, label, title, values in zip(axes, labels, titles, (LENGTHS, WIDTHS, LENGTHS, PATHS), strict=True):
        axis.set_xlabel(label)
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(title, fontsize=10)
        axis.grid(True, alpha=0.3)
    axes[0].legend(frameon=False, fontsize=9)
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.figure, dpi=110)
    print(f"\ndrawn in {options.figure}")


if __name__ == "__main__":
    main()
