"""Measure a training step: random batches, seconds, memory at the peak, and the products of matrices that it needs."""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .models import HEADS, Batch, Builder, Shape

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
TWO_SIDES = ("seq2seq", "recurrent", "recurrent_luong")
CHOICES = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_ids(rows: int, length: int, padding: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return random ids and their mask (rows, length), of lengths spread evenly; a share `padding` is empty."""
    lengths = torch.linspace(length, max(1.0, (1 - 2 * padding) * length), rows).round().long()[torch.randperm(rows)]
    mask = (torch.arange(length) < lengths[:, None]).long()
    return torch.randint(3, vocabulary, (rows, length)) * mask, mask


def make_batch(family: str, rows: int, length: int, padding: float, vocabulary: int) -> Batch:
    """Return a random batch, with the labels that a family of models learns from."""
    ids, mask = random_ids(rows, length, padding, vocabulary)
    batch = {"input_ids": ids, "attention_mask": mask}
    if family in TWO_SIDES:
        targets, target_mask = random_ids(rows, length, padding, vocabulary)
        shifted = torch.cat([torch.ones(rows, 1, dtype=torch.long), targets[:, :-1]], dim=1)
        return batch | {"decoder_input_ids": shifted, "labels": targets.masked_fill(target_mask == 0, -100)}
    if family == "question_answering":
        return batch | dict.fromkeys(("start_positions", "end_positions"), mask.sum(1) // 2)
    if family == "multiple_choice":
        batch = {name: each.view(-1, CHOICES, length) for name, each in batch.items()}
        return batch | {"labels": torch.randint(CHOICES, (rows // CHOICES,))}
    if family == "sequence_classification":
        return batch | {"labels": torch.randint(2, (rows,))}
    left_out = (mask == 0) | (torch.rand(ids.shape) > 0.15) if family == "encoder" else mask == 0
    return batch | {"labels": (ids % 2 if family == "token_classification" else ids).masked_fill(left_out, -100)}


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes, with what it launches on a GPU."""
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def peak_memory(function: Callable[[], object], device: str = "cpu") -> float:
    """Return the MiB that are allocated on a device at the peak of a call, beyond those that were before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        function()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(held.max(initial=0)) / 2**20


class Runner:
    """A model with its loss and its optimiser, built with torch's seed 0."""

    def __init__(
        self, build: Builder, shape: Shape, is_half: bool = False, checkpointing: bool = False, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.is_half, self.compiled = is_half, compiled
        self.model, self.loss = build(shape)
        self.model.to(DEVICE).train()
        if checkpointing and hasattr(self.model, "gradient_checkpointing_enable"):
            self.model.gradient_checkpointing_enable()
        if compiled:
            self.model.compile(dynamic=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def forward_and_backward(self, batch: Batch) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.is_half):
            loss = self.loss(dict(batch))
        loss.backward()
        return loss

    def step(self, batch: Batch) -> float:
        def whole() -> None:
            loss = self.forward_and_backward(batch)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()  # waits for a GPU

        return seconds_of(whole)

    def peak_memory(self, batch: Batch) -> float:
        """Return the MiB at the peak of forward and backward, beyond parameters, gradients and optimiser."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        peak = peak_memory(lambda: self.forward_and_backward(batch), DEVICE)
        self.optimizer.zero_grad()
        return peak

    def parts(self, batch: Batch, shape: Shape) -> dict[str, float]:
        """Return the share of a step's time that each of its parts takes, the largest first."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as measured:
            self.step(batch)
        shares: Counter[str] = Counter()
        for event in measured.key_averages(group_by_input_shape=True):
            shares[part_of(event.key, event.input_shapes, shape)] += event.self_cpu_time_total
        return {part: time / shares.total() for part, time in shares.most_common()}


def part_of(operation: str, shapes: Sequence[Sequence[object]], shape: Shape) -> str:
    """Return the part of a step that an operation belongs to, by its name and the sizes of its inputs."""
    sizes = {size for dimensions in shapes for size in dimensions if isinstance(size, int)}
    if "adam" in operation:
        return "optimiser"
    if "embedding" in operation:
        return "embedding"
    if shape.vocabulary in sizes or operation == "LinearCrossEntropy":
        return "output projection and loss"
    if any(name in operation for name in ("scaled_dot_product", "bmm", "_softmax")):
        return "attention core"
    if any(name in operation for name in ("aten::mm", "aten::addmm")):
        return "feed-forward" if shape.inner in sizes else "attention projections"
    return "dropout, norms, sums, copies"


def measured_peak(precision: str) -> float:
    """Return the GFLOP a second that a large product of matrices reaches."""
    size, products = (8192, 10) if DEVICE == "cuda" else (2048, 1)  # so many at once, or a GPU's launches count
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(products):
            result = left @ right
        result[0, 0].item()  # waits for it

    return products * 2 * size**3 / min(seconds_of(multiply) for _ in range(20)) / 1e9


def counted_tokens(batch: Batch, family: str) -> int:
    """Return the number of tokens that a step predicts, or that it reads where the family is a head of an encoder."""
    return int(batch["attention_mask"].sum() if family in HEADS else (batch["labels"] != -100).sum())


def needed_products(batch: Batch, family: str, shape: Shape) -> float:
    """Return the GFLOP of a step's products with weights, on tokens alone: 6 for each weight that a token meets."""
    tokens, labels = int(batch["attention_mask"].sum()), 0 if family in HEADS else counted_tokens(batch, family)
    attention, inner = 4 * shape.width**2, 2 * shape.width * shape.inner
    if family.startswith("recurrent"):  # 4 gates of (inputs + states), 2 directions of half the width in the encoder
        own = 2 if family == "recurrent" else 1
        weights = tokens * 6 * shape.layers * shape.width**2
        weights += labels * (8 * shape.layers + 4 * (own - 1) + own + 1) * shape.width**2
    elif family == "seq2seq":  # of cross-attention, keys and values belong to the source, queries to the target
        weights = (tokens + labels) * shape.layers * (1.5 * attention + inner)
    else:
        weights = tokens * shape.layers * (attention + inner)
    return 6 * (weights + labels * shape.vocabulary * shape.width) / 1e9


def exponent(values: Sequence[int], costs: Sequence[float]) -> float:
    """Return the exponent of the power law through the upper half of a curve."""
    half = len(values) // 2
    return float(np.polyfit(np.log(values[half:]), np.log(costs[half:]), 1)[0])


def mark_sizes(axis: Any, values: Sequence[int], rotation: int = 0) -> None:
    """Label the sizes on the logarithmic x axis of a figure, and no others."""
    from matplotlib.ticker import NullLocator

    axis.set_xticks(values, [f"{value:,}" for value in values], rotation=rotation)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True, alpha=0.3)


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Save a figure in a folder that need not be there, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    print(f"drawn in {path}")
