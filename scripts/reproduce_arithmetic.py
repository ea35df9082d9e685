"""The arithmetic of "Attention Is All You Need", worked out anew from our code without training anything.

    python scripts/reproduce_arithmetic.py scripts/figures

Prints parameter counts (Table 3), the schedule (equation 3), the matrices that shift positional encodings (section
3.5), FLOPs of a training step and the training costs of Table 2, and Table 1 in numbers, each beside what the paper
says; draws `paper_schedule.png` and `paper_positions.png` into the folder. Seconds on one core.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from paper.arithmetic import Work, forward_flops, training_flops
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration
from hf_vanilla.cli.streams import run_program
from hf_vanilla.models.modeling_vanilla import SinusoidalPositionalEmbedding
from hf_vanilla.training.optim import noam_schedule

COLOURS = ("#1f5fa8", "#d98c00", "#2a9d4a")
Fields = dict[str, float | str]
BIG: Fields = {"d_model": 1024, "d_ff": 4096, "h": 16, "dropout": 0.3}
# Rows of Table 3: what differs from the base model, and the paper's millions of parameters where it gives them.
TABLE_3: list[tuple[str, Fields, int | None]] = [
    ("base", {}, 65),
    ("A: h 1, d_k 512", {"h": 1}, None),
    ("A: h 4, d_k 128", {"h": 4}, None),
    ("A: h 16, d_k 32", {"h": 16}, None),
    ("A: h 32, d_k 16", {"h": 32}, None),
    ("B: d_k 16", {"d_k": 16}, 58),
    ("B: d_k 32", {"d_k": 32}, 60),
    ("C: N 2", {"N": 2}, 36),
    ("C: N 4", {"N": 4}, 50),
    ("C: N 8", {"N": 8}, 80),
    ("C: d_model 256, d_k 32", {"d_model": 256}, 28),
    ("C: d_model 1024, d_k 128", {"d_model": 1024}, 168),
    ("C: d_ff 1024", {"d_ff": 1024}, 53),
    ("C: d_ff 4096", {"d_ff": 4096}, 90),
    ("D: dropout 0", {"dropout": 0.0}, None),
    ("D: dropout 0.2", {"dropout": 0.2}, None),
    ("D: label smoothing 0 or 0.2", {}, None),
    ("E: learned positions", {"position_embedding_type": "learned"}, None),
    ("big", BIG, 213),
]
PARTS = {
    "one matrix of source, target and output": lambda name: "embed_tokens" in name,
    "matrices of attention": lambda name: "attention." in name and "weight" in name,
    "matrices of feed-forward networks": lambda name: ".linear" in name and "weight" in name,
    "biases of attention": lambda name: "attention." in name and "bias" in name,
    "biases of feed-forward networks": lambda name: ".linear" in name and "bias" in name,
    "layer normalizations": lambda name: "_norm." in name,
}

# Table 2: the paper's FLOPs, and the GPUs, days and TFLOPS by which they come about. The paper gives TFLOPS, and days
# of its own runs; those of the others are from Wu et al. (2016), Gehring et al. (2017) and Shazeer et al. (2017).
# Deep-Att and ensembles are left out: what is known of their hardware does not give the paper's numbers.
TABLE_2 = [
    ("GNMT + RL, EN-DE", 2.3e19, 96, "K80", 1.0, 2.8),
    ("GNMT + RL, EN-FR", 1.4e20, 96, "K80", 6.0, 2.8),
    ("ConvS2S, EN-DE", 9.6e18, 1, "M40", 18.5, 6.0),
    ("ConvS2S, EN-FR", 1.5e20, 8, "M40", 37.0, 6.0),
    ("MoE, EN-DE", 2.0e19, 64, "K40", 1.0, 3.7),
    ("MoE, EN-FR", 1.2e20, 64, "K40", 6.0, 3.7),
    ("Transformer (base)", 3.3e18, 8, "P100", 0.5, 9.5),
    ("Transformer (big)", 2.3e19, 8, "P100", 3.5, 9.5),
]
RUNS = [("base", {}, 100_000, 0.4), ("big", BIG, 300_000, 1.0)]
BATCH, SENTENCE = 25_000, 25  # tokens a side of a batch (section 5.1), and of a sentence, about as in WMT 2014
TABLE_1 = {
    "self-attention": ("n^2 d", "1", "1", lambda n, d, k, r: n * n * d),
    "recurrent": ("n d^2", "n", "n", lambda n, d, k, r: n * d * d),
    "convolutional": ("k n d^2", "1", "log_k(n)", lambda n, d, k, r: k * n * d * d),
    "restricted": ("r n d", "1", "n / r", lambda n, d, k, r: min(r, n) * n * d),
}
SIZES = [(30, 512), (70, 512), (512, 512), (2048, 512)]
KERNEL, NEIGHBOURHOOD = 3, 31


def heading(*columns: str) -> None:
    """Print the first two lines of a Markdown table."""
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def meta_model(**fields: float | str) -> VanillaForConditionalGeneration:
    """Make our model on the meta device, without the values of its weights."""
    with torch.device("meta"):
        return VanillaForConditionalGeneration(VanillaConfig(**fields))


def count(fields: Fields) -> tuple[int, int, int]:
    """Return the number of parameters, of those outside the vocabulary's matrix, and the width of that matrix."""
    model = meta_model(**fields)
    total, table = model.num_parameters(), model.get_input_embeddings().weight
    return total, total - table.numel(), table.shape[1]


def vocabularies(millions: int, body: int, width: int) -> tuple[int, int]:
    """Return the least and the largest vocabulary for which `body` and a shared matrix round to so many millions."""
    return math.ceil((millions * 10**6 - 500_000 - body) / width), (millions * 10**6 + 499_999 - body) // width


def most_agreed(intervals: dict[str, tuple[int, int]]) -> tuple[int, int, list[str]]:
    """Return the range that lies in the most of these intervals, and the names of those in which it does not lie."""
    best = max((low for low, _ in intervals.values()), key=lambda at: sum(a <= at <= b for a, b in intervals.values()))
    inside = [(low, high) for low, high in intervals.values() if low <= best <= high]
    others = [name for name, (low, high) in intervals.items() if not low <= best <= high]
    return max(low for low, _ in inside), min(high for _, high in inside), others


def table_3() -> None:
    """Print the parameter counts of Table 3."""
    print("## Table 3, parameters in millions\n")
    columns = ("row", "paper", "ours, V = 37,000", "ours - paper", "row - base, paper", "row - base, ours")
    heading(*columns, "V for the paper's")
    base, intervals = count({})[0], {}
    for name, fields, paper in TABLE_3:
        total, body, width = count(fields)
        more, ours = (total - base) / 1e6, f"{total / 1e6:.3f}"
        if paper is None:
            print(f"| {name} | | {ours} | | | {more:+.3f} | |")
            continue
        low, high = intervals[name] = vocabularies(paper, body, width)
        off = " (!)" if abs(more - (paper - 65)) > 1 else ""  # each of the two is rounded
        row_less_base = f"{paper - 65:+d}{off} | {more:+.3f}"
        print(f"| {name} | {paper} | {ours} | {total / 1e6 - paper:+.2f} | {row_less_base} | {low:,} to {high:,} |")
    low, high, others = most_agreed(intervals)
    explained = "gives all of the paper's counts but those of"
    print(f"\nOne vocabulary of {low:,} to {high:,} {explained}: {', '.join(others)}.")
    print("(!): by more than the rounding of both, not what the architecture adds to or takes from base.\n")
    heading("of ours", "base", "big")
    models = [meta_model(**fields) for fields in ({}, BIG)]
    for part, wanted in PARTS.items():
        counts = (sum(w.numel() for name, w in model.named_parameters() if wanted(name)) for model in models)
        print(f"| {part} | {' | '.join(f'{number:,}' for number in counts)} |")
    untied = [f"{count({**fields, 'tie_word_embeddings': False})[0]:,}" for fields in ({}, BIG)]
    print(f"| all, if source, target and output had a matrix each | {' | '.join(untied)} |")


def rates(width: int, warmup: int, steps: int) -> Tensor:
    """Return the learning rates of the first updates, as our schedule gives them: (steps), float64."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    rate = noam_schedule(optimizer, width, warmup).lr_lambdas[0]
    return torch.tensor([rate(updates) for updates in range(steps)], dtype=torch.float64)


def schedule(figure: Path) -> None:
    """Print the peaks of equation 3, and draw its curves."""
    print("\n## The schedule (equation 3)\n")
    heading("d_model", "warm-up", "peak", "at step", "(d_model warm-up)^-0.5")
    _, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (width, warmup), colour in zip([(512, 4000), (1024, 4000), (512, 8000)], COLOURS, strict=True):
        curve = rates(width, warmup, 30_000)
        peak = int(curve.argmax())
        print(f"| {width} | {warmup:,} | {curve[peak]:.6e} | {peak + 1:,} | {(width * warmup) ** -0.5:.6e} |")
        label = f"d_model {width}, warm-up {warmup:,}"
        axis.plot(range(1, len(curve) + 1), curve, color=colour, label=label)
        axis.plot(peak + 1, curve[peak], "o", color=colour, markersize=4)
    axis.set(xlabel="step", ylabel="learning rate", xlim=(0, 30_000), ylim=(0, None))
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.grid(True, alpha=0.3)
    axis.legend(frameon=False)
    axis.figure.savefig(figure, dpi=110)
    print(f"\ndrawn in {figure}")


def encodings(positions: Tensor, width: int) -> Tensor:
    """Return PE(pos) in float64, (positions, width), as our module computes it before it rounds to float32."""
    angles = positions.double()[:, None] * 10000.0 ** (-torch.arange(0, width, 2).double() / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def shift(offset: int, width: int) -> Tensor:
    """Return M_k (width, width), which gives PE(pos + k) = M_k PE(pos): pair i turns by k / 10000^(2i / d_model)."""
    angles = offset * 10000.0 ** (-torch.arange(0, width, 2).double() / width)
    sin, cos = angles.sin(), angles.cos()
    return torch.block_diag(*torch.stack((cos, sin, -sin, cos), dim=-1).view(-1, 2, 2))


def fitted_shift(offset: int, width: int, positions: Tensor) -> Tensor:
    """Return the blocks (width / 2, 2, 2) of M_k by least squares over these positions, no rotation assumed."""
    before, after = (encodings(positions + k, width).view(-1, width // 2, 2).transpose(0, 1) for k in (0, offset))
    return torch.linalg.lstsq(before, after).solution.transpose(1, 2)


def positions(figure: Path) -> None:
    """Print how exactly a shift of encodings is linear (section 3.5), and draw encodings and their products."""
    print("\n## Positional encodings (section 3.5)\n")
    heading("k", "largest error of M_k PE(pos), pos < 10,000", "largest difference of M_k from a fit to pos < 1,000")
    width, every = 512, torch.arange(10_000)
    for offset in (1, 2, 10, 100, 1000):
        matrix = shift(offset, width)
        error = (encodings(every + offset, width) - encodings(every, width) @ matrix.T).abs().max()
        blocks = torch.stack([matrix[i : i + 2, i : i + 2] for i in range(0, width, 2)])
        difference = (fitted_shift(offset, width, every[:1000]) - blocks).abs().max()
        print(f"| {offset:,} | {error:.1e} | {difference:.1e} |")
    module = SinusoidalPositionalEmbedding(VanillaConfig())
    ours = (module(every[None])[0] - encodings(every, width).float()).abs().max()
    print("\nM_k: for each pair (sin, cos) of frequency w the block [[cos wk, sin wk], [-sin wk, cos wk]].")
    print(f"Difference of our module from these encodings, rounded to float32: {ours:.1e}.")
    figure_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    image = left.imshow(encodings(torch.arange(100), 128).numpy(), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    figure_.colorbar(image, ax=left)
    left.set(xlabel="dimension (d_model = 128)", ylabel="position")
    at = torch.arange(-100, 101)
    for position, colour, style in zip((100, 300, 1000), COLOURS, ("-", (0, (4, 8)), (6, (4, 8))), strict=True):
        products = encodings(position + at, width) @ encodings(torch.tensor([position]), width)[0]
        right.plot(at, products, color=colour, label=f"pos = {position:,}", linestyle=style)
    right.set(xlabel="offset k", ylabel="PE(pos + k) · PE(pos), d_model = 512")
    right.grid(True, alpha=0.3)
    right.legend(frameon=False)
    figure_.savefig(figure, dpi=100)
    print(f"drawn in {figure}")


def counted_flops(fields: Fields, rows: int, length: int) -> int:
    """Return the FLOPs of a training step that torch counts, on tensors without values."""
    model = meta_model(**fields, attn_implementation="eager").train()
    ids = torch.ones(rows, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, decoder_input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops()


def table_2() -> None:
    """Print the FLOPs of a training step, and those of whole trainings (Table 2)."""
    print(f"\n## FLOPs of a step of {BATCH:,} + {BATCH:,} tokens, sentences of {SENTENCE}\n")
    heading("", "base", "big")
    configs = [VanillaConfig(**fields) for _, fields, _, _ in RUNS]
    work = Work.of_rows(configs[0], BATCH // SENTENCE, SENTENCE)
    parts = [forward_flops(config, work) for config in configs]
    for part in parts[0]:
        print(f"| forward: {part} | " + " | ".join(f"{of[part]:.3e}" for of in parts) + " |")
    steps = [training_flops(config, work, fused_attention=False) for config in configs]
    counters = [counted_flops(fields, BATCH // SENTENCE, SENTENCE) for _, fields, _, _ in RUNS]
    print("| forward and backward, 3 times as much | " + " | ".join(f"{step:.6e}" for step in steps) + " |")
    print("| the same by torch.utils.flop_counter | " + " | ".join(f"{counter:.6e}" for counter in counters) + " |")
    print("\n## Table 2, training cost in FLOPs: time x GPUs x TFLOPS\n")
    heading("", "paper", "from", "recomputed")
    for name, paper, gpus, kind, days, tflops in TABLE_2:
        cost = days * 86400 * gpus * tflops * 1e12
        print(f"| {name} | {paper:.1e} | {days:g} days x {gpus} {kind} x {tflops} | {cost:.2e} |")
    print()
    heading("", "steps", "FLOPs of products", "of the paper's", "hours: steps x seconds", "the paper's hours")
    for (name, _, count, seconds), step, (_, paper, _, _, days, _) in zip(RUNS, steps, TABLE_2[-2:], strict=True):
        cells = f"{count * step:.2e} | {count * step / paper:.0%} | {count * seconds / 3600:.1f} | {24 * days:g}"
        print(f"| {name} | {count:,} | {cells} |")


def table_1() -> None:
    """Print the operations of layers (Table 1)."""
    print(f"\n## Table 1 in numbers, without constant factors (k = {KERNEL}, r = {NEIGHBOURHOOD})\n")
    heading("layer", "complexity", "sequential", "path", *(f"n = {n}, d = {d}" for n, d in SIZES))
    for name, (formula, sequential, path, operations) in TABLE_1.items():
        numbers = " | ".join(f"{operations(n, d, KERNEL, NEIGHBOURHOOD):.2e}" for n, d in SIZES)
        print(f"| {name} | {formula} | {sequential} | {path} | {numbers} |")
    print("\nSelf-attention costs less than a recurrent layer where n < d; scripts/benchmark_layers.py measures them.")


def main() -> None:
    """Print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="folder for the PNGs")
    folder = parser.parse_args().figures
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{folder} cannot be the folder of the figures: {error.strerror}")
    table_3()
    schedule(folder / "paper_schedule.png")
    positions(folder / "paper_positions.png")
    table_2()
    table_1()


if __name__ == "__main__":
    run_program(main)
