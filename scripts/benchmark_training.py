"""A training step of ours beside those of its peers: the same batches, loss and optimiser, step by step in turn.

    python scripts/benchmark_training.py                                   # the paper's base model, 32 x 32 tokens
    python scripts/benchmark_training.py --size small --batch 16x64 verses --rounds 9
    python scripts/benchmark_training.py --family encoder --padding 0.5 --batch 32x64
    python scripts/benchmark_training.py --family sequence_classification --size small --batch 32x64  # or another head
    python scripts/benchmark_training.py --family recurrent --size small  # additive; recurrent_luong: s^T W h
    python scripts/benchmark_training.py --parts                           # where the time goes
    python scripts/benchmark_training.py --loop scripts/configs/verses_demo.yaml

Prints, for each batch, tokens to predict a second of each model (tokens to read, for a head of an encoder), its speed
as a multiple of the first peer's (median and quartiles over steps that followed each other), the peak memory of a step
beyond parameters, gradients and optimiser, and the share of the measured peak that products without padding need.
Dropout is 0.1 as in the paper, but for Llama and ModernBERT, which have none; Adam is fused. Libraries that are not
installed are left out. All models share the allocator and float32 products that `hf-vanilla train` sets, unless
`--as_it_comes`. `--loop` prints the time of the training loop, log and loading of batches included, as a multiple of
what forward, backward and optimiser step take in it.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from peers import measuring
from peers.measuring import CHOICES, DEVICE, TWO_SIDES, Runner
from peers.models import FAMILIES, SIZES, Batch, Shape

from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train
from hf_vanilla.training.tasks import TASKS, Task

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids", "labels")


def verses(vocabulary: int, tokens: int, count: int) -> list[Batch]:
    """Return `count` batches of so many tokens from the built-in corpus, as `hf-vanilla train` makes them."""
    sizes = {"hidden_size": 64, "encoder_layers": 1, "decoder_layers": 1, "max_length": 100}
    config = TrainingConfig(vocab_size=min(vocabulary, 8000), batch_tokens=tokens, max_steps=1, **sizes)
    task = TASKS["translation"](config)
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    batches = task.batches(task.examples(corpus, "train", tokenizer), tokenizer, task.build_model(tokenizer))
    made = [batch for _, (_, _, (batch,)) in zip(range(count), batches.updates(0, 0), strict=False)]
    # Peers take no `counts` and `loss_places`.
    return [{name: batch[name] for name in batch if name in INPUTS} for batch in made]


def loop_overhead(config: TrainingConfig, updates: int) -> float:
    """Return the seconds of a run of `updates` over those of forward, backward and optimiser step in it."""
    times: list[float] = []  # when a timed call began and ended, in turn

    def timed(owner: type, name: str) -> AbstractContextManager[object]:
        original = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            times.append(time.perf_counter())
            result = original(*args, **kwargs)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            return result

        return mock.patch.object(owner, name, call)

    with (
        tempfile.TemporaryDirectory() as folder,
        timed(Task, "loss"),
        timed(Accelerator, "backward"),
        timed(AcceleratedOptimizer, "step"),
    ):
        # Without validation, checkpoints and snapshots, which a run makes at intervals.
        own = {"output_dir": folder, "max_steps": updates, "train_minutes": None, "average_last": 1}
        own |= {"schedule": "noam", "learning_rate": 1.0, "evaluations": 1, "bleu_sentences": 0}
        train(dataclasses.replace(config, **own, average_every=10**6, checkpoint_every=10**6))
    return (times[-1] - times[0]) / (sum(times[1::2]) - sum(times[::2]))


def compare(options: argparse.Namespace, shape: Shape, name: str, batches: list[Batch], peak: float) -> None:
    """Let the models make steps in turn, and print the table; `peak` is what products reach, in GFLOP a second."""
    runners = {}
    for peer, build in FAMILIES[options.family].items():
        if options.peers and peer not in (*options.peers, "hf_vanilla"):
            continue
        try:
            for compiled in (False, True)[: 1 + options.compile]:
                runner = Runner(build, shape, options.precision == "bf16", options.checkpointing, compiled)
                runners[f"{peer}{', compiled' * compiled}"] = runner
        except ImportError as error:
            print(f"{peer} is left out: {error}")
    seconds: dict[str, list[float]] = {model: [] for model in runners}
    for number in range(options.rounds + 1):
        for model, runner in runners.items():
            taken = runner.step(batches[number % len(batches)])
            seconds[model] += [taken] * bool(number)  # the first warms up
    tokens = statistics.median(measuring.counted_tokens(batch, options.family) for batch in batches)
    work = statistics.median(measuring.needed_products(batch, options.family, shape) for batch in batches)
    reference = seconds[next((model for model in runners if "hf_vanilla" not in model), "hf_vanilla")]
    print(f"\n{options.family}, {options.size}, {name}, {options.precision}, {torch.get_num_threads()} threads")
    print("| | tokens/s | times | quartiles | memory, MiB | of peak |\n|---|---|---|---|---|---|")
    for model, runner in runners.items():
        ratios = [other / mine for mine, other in zip(seconds[model], reference, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        step = statistics.median(seconds[model])
        memory = float("nan") if runner.compiled else runner.peak_memory(batches[0])
        cells = f"{tokens / step:,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} | {memory:,.0f}"
        print(f"| {model} | {cells} | {work / step / peak:.0%} |")
    for model, runner in runners.items() if options.parts else ():
        shares = runner.parts(batches[0], shape)
        print(f"{model}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))


def main() -> None:
    """Read the options, and print a table for each batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="seq2seq")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", nargs="+", default=["32x32"], help="ROWSxLENGTH, or verses (default: 32x32)")
    parser.add_argument("--padding", type=float, default=0.2, help="share of padding on each side (default: 0.2)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--peers", nargs="+", help="models beside ours (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each model (default: 7)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true", help="measure compiled models, too (a minute or more each)")
    parser.add_argument("--checkpointing", action="store_true", help="use activation checkpointing if a model has it")
    parser.add_argument("--as_it_comes", action="store_true", help="leave allocator and float32 products as they are")
    parser.add_argument("--parts", action="store_true", help="print what share of a step each part takes, too")
    parser.add_argument("--loop", metavar="CONFIG", help="instead, measure the training loop with this configuration")
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
    peak = measuring.measured_peak(options.precision)
    shape = SIZES[options.size]
    for name in options.batch:
        if name == "verses":
            batches = verses(shape.vocabulary, 2500, options.rounds + 1)
        else:
            torch.manual_seed(1)
            wanted = (options.family, *map(int, name.split("x")), options.padding, shape.vocabulary)
            batches = [measuring.make_batch(*wanted) for _ in range(3)]
        batches = [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches]
        compare(options, shape, name, batches, peak)


if __name__ == "__main__":
    run_program(main)
