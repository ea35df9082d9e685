"""A training step of ours beside those of its peers: the same batches, loss and optimiser, step by step in turn.

    python scripts/benchmark_training.py                                   # the paper's base model, 32 x 32 tokens
    python scripts/benchmark_training.py --size small --batch 16x64 verses --rounds 9
    python scripts/benchmark_training.py --family encoder --padding 0.5 --batch 32x64
    python scripts/benchmark_training.py --family sequence_classification --size small --batch 32x64  # or another head
    python scripts/benchmark_training.py --family recurrent --size small  # additive; recurrent_luong: s^T W h
    python scripts/benchmark_training.py --parts                           # where the time goes
    python scripts/benchmark_training.py --loop scripts/configs/verses_demo.yaml

Prints, for each batch, tokens to predict a second of each model (tokens to read, for a head of an encoder), its speed
as a multiple of the first peer's (median and quartiles of the ratios of steps that followed each other), the peak
memory of a step beyond parameters, gradients and optimiser, and the share of the matrix unit's measured peak that the
products of a step without padding would need. Dropout 0.1 as in the paper, but for Llama and ModernBERT, which have
none; Adam, fused. Libraries that are not installed are named and left out. What `hf-vanilla train` has of its process
for nothing, all models have: glibc keeps freed memory, and on AMD CPUs oneDNN makes float32 products; `--as_it_comes`
leaves both as the peers' users have them.

With `--loop` it prints what the loop of `hf-vanilla train` takes, log and loading of batches included, as a multiple
of what forward, backward and optimiser step take in it.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from training_peers import FAMILIES, HEADS, Batch, Shape

from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train
from hf_vanilla.training.tasks import TASKS, Task

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
SIZES = {
    "base": {"layers": 6, "width": 512, "heads": 8, "inner": 2048, "vocabulary": 37000},
    "small": {"layers": 3, "width": 256, "heads": 4, "inner": 1024, "vocabulary": 8000},
}
TWO_SIDES = ("seq2seq", "recurrent", "recurrent_luong")
CHOICES = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_ids(rows: int, length: int, padding: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (rows, length); lengths are spread evenly, so that a share `padding` of the places is empty."""
    shortest = max(1.0, (1 - 2 * padding) * length)
    lengths = torch.linspace(length, shortest, rows).round().long()[torch.randperm(rows)]
    mask = (torch.arange(length) < lengths[:, None]).long()
    return torch.randint(3, vocabulary, (rows, length)) * mask, mask


def make_batch(family: str, rows: int, length: int, padding: float, vocabulary: int) -> Batch:
    """A random batch for a family."""
    ids, mask = random_ids(rows, length, padding, vocabulary)
    if family in TWO_SIDES:
        targets, target_mask = random_ids(rows, length, padding, vocabulary)
        shifted = torch.cat([torch.ones(rows, 1, dtype=torch.long), targets[:, :-1]], dim=1)
        batch = {"decoder_input_ids": shifted, "labels": targets.masked_fill(target_mask == 0, -100)}
    elif family == "encoder":
        batch = {"labels": ids.masked_fill((mask == 0) | (torch.rand(ids.shape) > 0.15), -100)}
    elif family == "sequence_classification":
        batch = {"labels": torch.randint(2, (rows,))}
    elif family == "token_classification":
        batch = {"labels": (ids % 2).masked_fill(mask == 0, -100)}
    elif family == "question_answering":
        batch = dict.fromkeys(("start_positions", "end_positions"), mask.sum(1) // 2)
    elif family == "multiple_choice":
        ids, mask = (each.view(-1, CHOICES, length) for each in (ids, mask))
        batch = {"labels": torch.randint(CHOICES, (len(ids),))}
    else:
        batch = {"labels": ids.masked_fill(mask == 0, -100)}
    return {"input_ids": ids, "attention_mask": mask, **batch}


def verses(vocabulary: int, tokens: int, count: int) -> list[Batch]:
    """Batches by tokens from the built-in corpus, as `hf-vanilla train` makes them."""
    sizes: dict[str, Any] = {"hidden_size": 64, "encoder_layers": 1, "decoder_layers": 1, "max_length": 100}
    config = TrainingConfig(vocab_size=min(vocabulary, 8000), batch_tokens=tokens, max_steps=1, **sizes)
    task = TASKS["translation"](config)
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    model = task.build_model(tokenizer)
    batches = task.batches(task.examples(corpus, "train", tokenizer), tokenizer, model, Accelerator())
    return [dict(batch) for _, (_, _, (batch,)) in zip(range(count), batches.updates(0, 0), strict=False)]


class Runner:
    """A model, its loss and its optimiser."""

    def __init__(
        self, name: str, build: Callable[[Shape], Any], shape: Shape, options: argparse.Namespace, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        self.name, self.compiled = f"{name}, compiled" if compiled else name, compiled
        self.model, self.loss = build(shape)
        self.model.to(DEVICE).train()
        if options.checkpointing and hasattr(self.model, "gradient_checkpointing_enable"):
            self.model.gradient_checkpointing_enable()
        if compiled:
            self.model.compile(dynamic=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self.precision = torch.bfloat16 if options.precision == "bf16" else torch.float32

    def step(self, batch: Batch) -> float:
        """Seconds of a step."""
        start = time.perf_counter()
        with torch.autocast(DEVICE, self.precision, enabled=self.precision != torch.float32):
            loss = self.loss(dict(batch))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # waits for a GPU
        return time.perf_counter() - start

    def peak_memory(self, batch: Batch) -> float:
        """MiB at the peak of forward and backward, beyond parameters, gradients and optimiser."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        precision = torch.autocast(DEVICE, self.precision, enabled=self.precision != torch.float32)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            with precision:
                self.loss(dict(batch)).backward()
            self.optimizer.zero_grad()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        with precision:
            peak = peak_memory(lambda: self.loss(dict(batch)).backward())
        self.optimizer.zero_grad()
        return peak

    def parts(self, batch: Batch, shape: Shape) -> dict[str, float]:
        """Share of a step's time, by part."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as measured:
            self.step(batch)
        shares: Counter[str] = Counter()
        for event in measured.key_averages(group_by_input_shape=True):
            shares[part_of(event.key, event.input_shapes, shape)] += event.self_cpu_time_total
        return {part: time / shares.total() for part, time in shares.most_common()}


def peak_memory(function: Callable[[], Any]) -> float:
    """MiB on the CPU at the peak of a call, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        function()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def part_of(operation: str, shapes: Any, shape: Shape) -> str:
    """What an operation belongs to, by its name and the sizes of what goes in."""
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
    """GFLOP a second of a large product of matrices."""
    size, products = (8192, 10) if DEVICE == "cuda" else (2048, 1)  # so many at once, or a GPU's launches count
    left, right = (torch.randn(size, size, device=DEVICE) for _ in range(2))
    if precision == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(products):
            result = left @ right
        result[0, 0].item()  # waits for it
        seconds.append(time.perf_counter() - start)
    return products * 2 * size**3 / min(seconds) / 1e9


def counted_tokens(batch: Batch, family: str) -> int:
    """Those that a step predicts, or reads for a head of an encoder."""
    return int(batch["attention_mask"].sum() if family in HEADS else (batch["labels"] != -100).sum())


def needed_products(batch: Batch, family: str, shape: Shape) -> float:
    """GFLOP of a step's matrix products on tokens alone: 6 for each weight that a token meets, attention left out."""
    tokens, labels = int(batch["attention_mask"].sum()), 0 if family in HEADS else counted_tokens(batch, family)
    attention, inner = 4 * shape.width**2, 2 * shape.width * shape.inner
    if family.startswith("recurrent"):  # 4 gates of (inputs + states), 2 directions of half the width in the encoder
        own = 2 if family == "recurrent" else 1
        weights = tokens * 6 * shape.layers * shape.width**2
        weights += labels * (8 * shape.layers + 4 * (own - 1) + own + 1) * shape.width**2
    elif family == "seq2seq":
        weights = tokens * shape.layers * (1.5 * attention + inner) + labels * shape.layers * (1.5 * attention + inner)
    else:
        weights = tokens * shape.layers * (attention + inner)
    return 6 * (weights + labels * shape.vocabulary * shape.width) / 1e9


def loop_overhead(config: TrainingConfig, updates: int) -> float:
    """Seconds of a run of so many updates, from its first forward pass to its last optimiser step, over those spent in
    forward, backward and optimiser step.
    """
    spent, times = 0.0, []

    def timed(owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            times.append(time.perf_counter())
            result = original(*args, **kwargs)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            spent += times[-1] - times[-2]
            return result

        return mock.patch.object(owner, name, call)

    with (
        tempfile.TemporaryDirectory() as folder,
        timed(Task, "loss"),
        timed(Accelerator, "backward"),
        timed(AcceleratedOptimizer, "step"),
    ):
        # Without what a run does at intervals: validation, checkpoints, snapshots.
        own: dict[str, Any] = {"output_dir": folder, "max_steps": updates, "train_minutes": None, "average_last": 1}
        own |= {"schedule": "noam", "learning_rate": 1.0, "evaluations": 1, "bleu_sentences": 0}
        train(dataclasses.replace(config, **own, average_every=10**6, checkpoint_every=10**6))
    return (times[-1] - times[0]) / spent


def load_batches(options: argparse.Namespace, shape: Shape) -> Iterator[tuple[str, list[Batch]]]:
    """Names and batches."""
    for name in options.batch:
        if name == "verses":
            yield name, verses(shape.vocabulary, 2500, options.rounds + 1)
            continue
        rows, length = map(int, name.split("x"))
        torch.manual_seed(1)
        vocabulary = shape.vocabulary
        batches = [make_batch(options.family, rows, length, options.padding, vocabulary) for _ in range(3)]
        yield name, batches


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="seq2seq")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", nargs="+", default=["32x32"], help="rows x length, or verses (default: 32x32)")
    parser.add_argument("--padding", type=float, default=0.2, help="share of padding on each side (default: 0.2)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--peers", nargs="+", help="(default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each model (default: 7)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true", help="also each model compiled (a minute or more each)")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing, where a model has it")
    parser.add_argument("--as_it_comes", action="store_true", help="leave allocator and float32 products alone")
    parser.add_argument("--parts", action="store_true", help="also the shares of the parts of a step")
    parser.add_argument(
        "--loop", metavar="CONFIG", help="instead: what the training loop costs, for this configuration"
    )
    options = parser.parse_args()
    if options.loop:
        ratios = sorted(loop_overhead(TrainingConfig.load(options.loop), updates=50) for _ in range(options.rounds))
        low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
        print(f"loop / (forward + backward + optimiser step): {middle:.3f} ({low:.3f} to {high:.3f})")
        return
    if "verses" in options.batch and options.family not in TWO_SIDES:
        parser.error(f"--batch verses is for --family {', '.join(TWO_SIDES)}")
    if options.family == "multiple_choice" and any(int(name.split("x")[0]) % CHOICES for name in options.batch):
        parser.error(f"--batch: the rows of multiple_choice must be a multiple of {CHOICES}")
    if not options.as_it_comes:
        keep_freed_memory()
        use_onednn_for_float32()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    peak = measured_peak(options.precision)
    for name, batches in load_batches(options, shape := Shape(**SIZES[options.size], length=512)):
        batches = [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches]
        runners = []
        for peer, build in FAMILIES[options.family].items():
            if options.peers and peer not in (*options.peers, "hf_vanilla"):
                continue
            try:
                for compiled in (False, True)[: 1 + options.compile]:
                    runners.append(Runner(peer, build, shape, options, compiled))
            except ImportError as error:
                print(f"{peer} is left out: {error}")
        seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
        for number in range(options.rounds + 1):
            for runner in runners:
                taken = runner.step(batches[number % len(batches)])
                if number:  # the first warms up
                    seconds[runner.name].append(taken)
        tokens = [counted_tokens(batch, options.family) for batch in batches]
        reference = seconds[next((runner.name for runner in runners if "hf_vanilla" not in runner.name), "hf_vanilla")]
        print(f"\n{options.family}, {options.size}, {name}, {options.precision}, {torch.get_num_threads()} threads")
        print("| | tokens/s | times | quartiles | memory, MiB | of peak |\n|---|---|---|---|---|---|")
        for runner in runners:
            own = seconds[runner.name]
            ratios = [other / mine for mine, other in zip(own, reference, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            speed = statistics.median(tokens) / statistics.median(own)
            work = statistics.median(needed_products(batch, options.family, shape) for batch in batches)
            memory = float("nan") if runner.compiled else runner.peak_memory(batches[0])
            print(
                f"| {runner.name} | {speed:,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} | {memory:,.0f} | "
                f"{work / statistics.median(own) / peak:.0%} |"
            )
        if options.parts:
            for runner in runners:
                shares = runner.parts(batches[0], shape)
                print(f"{runner.name}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))


if __name__ == "__main__":
    main()
