r"""Predict what a run of `hf-vanilla train` takes on GPUs: memory, FLOPs, exchange, time and cost.

    python scripts/plan_training.py scripts/configs/paper/wmt14_en_de_big.yaml --gpus 8 --gpu-memory 80 \
        --peak-tflops 990 --bandwidth 400 --price 3
    python scripts/plan_training.py scripts/configs/paper/wmt14_en_de_base.yaml --gpus 8 --gpu-memory 16 \
        --peak-tflops 9.5 --bandwidth 10 --memory-bandwidth 732 --mixed_precision no  # the paper's 12 hours, 8 P100
    python scripts/plan_training.py scripts/configs/tiny.yaml --measure       # memory, beside what a step takes here

Fields of the configuration can follow, as for `hf-vanilla train`. The defaults are those of an H100. The prediction is
arithmetic (scripts/paper/arithmetic.py) on assumptions that it prints; only `--measure` runs anything.
"""

import argparse
import itertools
import math
import operator
from bisect import bisect_left
from dataclasses import dataclass
from unittest import mock

import torch
from paper.arithmetic import Work, activation_peak, depths, kept_bytes, training_flops
from paper.runs import markdown_table
from torch import nn
from transformers import PreTrainedModel

from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import choose_precision
from hf_vanilla.models.configuration_vanilla import VanillaBaseConfig
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.optim import flops_of_muon, matrices_of
from hf_vanilla.training.tasks import TASKS

USABLE = 0.92  # of a GPU's memory; the rest is CUDA's, NCCL's, and gaps between blocks
# Counted on our model (tests/scripts/test_plan_training.py), in float32 (4 bytes) and under autocast (2). First the
# bytes that kernels other than products and attention read and write: for each byte that is kept for the backward
# pass, each logit, and each parameter. Then the kernels of an encoder layer, of a decoder layer, and of all else.
PASSES, PASSES_OF_LOGITS, PASSES_OF_WEIGHTS = {4: 6, 2: 8}, 60, {4: 12, 2: 24}
KERNELS = {4: (60, 96, 95), 2: (94, 153, 100)}
PASSES_OF_ADAM = 28  # reads weight, gradient and two moments, writes all but the gradient
LIMITS = {"products": "compute", "other passes": "memory bandwidth", "exchange": "communication"}


@dataclass(frozen=True)
class Machine:
    """A number of equal GPUs."""

    gpus: int
    memory: float  # GiB of each
    tflops: float  # peak of each in the precision of training
    bandwidth: float  # GB a second that each sends to others while it receives as much
    memory_bandwidth: float  # GB a second that each reads and writes in its own memory
    utilisation: float  # share of its peak that products of matrices reach
    launch: float  # microseconds that a kernel takes beside its work

    def holds(self, memory: dict[str, float]) -> bool:
        return sum(memory.values()) <= USABLE * self.memory * 2**30


@dataclass(frozen=True)
class Plan:
    """What an update takes in one way of sharing the work between GPUs."""

    memory: dict[str, float]  # bytes on each GPU, by part
    flops: int  # on all GPUs together
    sent: float  # bytes that each GPU sends to others
    seconds: dict[str, float]  # by part; none hides behind another
    most_tokens: int  # a side that fit a GPU

    @property
    def step(self) -> float:
        return sum(self.seconds.values())  # of an update


def build(config: TrainingConfig, device: str = "meta") -> PreTrainedModel:
    """Build the model of a configuration, on `meta` without weights; raise a ValueError if it is a recurrent one."""
    if config.architecture != "transformer":
        raise ValueError(f"architecture is {config.architecture}; expected transformer, which alone is counted here")
    task = TASKS[config.task](config)
    with torch.device(device):
        return task.auto_class.from_config(task.model_config(vocab_size=config.vocab_size))


def layer_sizes(model: nn.Module) -> list[int]:
    """Return the number of parameters of each layer of all stacks."""
    layers = [layer for stack in model.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    return [sum(weight.numel() for weight in layer.parameters()) for layer in layers]


def passes(config: VanillaBaseConfig, work: Work, itemsize: int, parameters: int, checkpointing: bool) -> float:
    """Return the bytes that kernels of forward and backward other than products and attention read and write."""
    encoder_layer, decoder_layer, rest = kept_bytes(config, work, itemsize)
    encoder, decoder = depths(config)
    layers = (encoder * encoder_layer + decoder * decoder_layer) * (4 / 3 if checkpointing else 1)
    logits = PASSES_OF_LOGITS * work.labels * config.vocab_size
    return PASSES[itemsize] * (layers + rest) + PASSES_OF_WEIGHTS[itemsize] * parameters + logits


def launches(config: VanillaBaseConfig, itemsize: int, checkpointing: bool) -> float:
    """Return the number of kernels of forward and backward."""
    (encoder, decoder), (of_encoder, of_decoder, rest) = depths(config), KERNELS[itemsize]
    return (encoder * of_encoder + decoder * of_decoder) * (4 / 3 if checkpointing else 1) + rest


def make_plan(
    config: TrainingConfig, machine: Machine, length: int, sharded: bool = False, checkpointing: bool = False
) -> Plan:
    """Predict an update of `batch_tokens` in rows of `length`, under DDP or, if `sharded`, FSDP2."""
    model = build(config)
    shape, gpus, micro_batches = model.config, machine.gpus, config.accumulation_steps
    rows = config.batch_tokens // length
    if rows < gpus * micro_batches:
        raise ValueError(
            f"batch_tokens is {config.batch_tokens}, {rows} rows of {length} tokens; expected at least "
            f"{gpus * micro_batches * length}: a row for each of {gpus} GPUs and {micro_batches} micro-batches"
        )
    itemsize = 4 if config.mixed_precision == "no" else 2
    moved_by_muon = matrices_of(model) if config.optimizer == "muon" else []
    moments = 2 * model.num_parameters() - sum(matrix.numel() for matrix in moved_by_muon)
    parameters, share, others = model.num_parameters(), gpus if sharded else 1, (gpus - 1) / gpus
    in_layers, largest = sum(layer_sizes(model)), max(layer_sizes(model))
    root = parameters - in_layers
    copies = 4 * parameters * bool(config.ema_decay)
    if sharded:  # what is gathered: the embeddings, a layer and the next, and their gradients
        copies += itemsize * (root + 4 * largest)
        copies += itemsize * parameters * (micro_batches > 1)  # gradients are whole until they are exchanged
        sent = others * (itemsize * micro_batches * (2 * in_layers + root) + 4 * parameters)
    else:
        copies += 4 * parameters * (gpus > 1) + 2 * in_layers * (itemsize == 2)  # DDP's buckets, autocast's halves
        sent = 2 * others * 4 * parameters

    def memory(rows: int) -> dict[str, float]:
        peak = activation_peak(
            shape, Work.of_rows(shape, rows, length), itemsize, checkpointing, machine.memory * 2**30
        )
        states = dict.fromkeys(("weights", "gradients"), 4 * parameters / share)
        return states | {"optimiser": 4 * moments / share, "copies": copies, "activations": peak}

    too_many = 1
    while machine.holds(memory(too_many)):
        too_many *= 2
    most = bisect_left(range(too_many), True, key=lambda rows: not machine.holds(memory(rows))) - 1
    own_rows = -(-rows // (gpus * micro_batches))
    own = Work.of_rows(shape, own_rows, length)
    flops = training_flops(shape, Work.of_rows(shape, rows, length), checkpointing)
    own_flops = micro_batches * training_flops(shape, own, checkpointing) + flops_of_muon(moved_by_muon)
    moved = micro_batches * passes(shape, own, itemsize, parameters, checkpointing)
    seconds = {
        "products": own_flops / (machine.tflops * 1e12 * machine.utilisation),
        "other passes": (moved + PASSES_OF_ADAM * parameters / share) / (machine.memory_bandwidth * 1e9),
        "launches": micro_batches * launches(shape, itemsize, checkpointing) * machine.launch * 1e-6,
        "exchange": sent / (machine.bandwidth * 1e9),
    }
    return Plan(memory(own_rows), flops, sent, seconds, max(0, most) * length)


def measure(config: TrainingConfig, rows: int, length: int) -> tuple[float, float]:
    """Return the bytes at the peak of forward and backward of `rows` of `length` tokens: predicted, and taken here."""
    from peers.measuring import make_batch, peak_memory

    model = build(config, "cpu").train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.manual_seed(0)
    batch = make_batch(family := TASKS[config.task].family, rows, length, 0.0, config.vocab_size)
    if family == "decoder":  # two documents in each row
        del batch["attention_mask"]
        batch["position_ids"] = (torch.arange(length) % -(-length // 2)).expand(rows, length)
    half = choose_precision(config.mixed_precision) != "no"

    def step() -> None:
        # As on a GPU, sdpa's kernel computes all attention; on CPU, short rows would have plain products.
        with mock.patch("hf_vanilla.models.unpadding_vanilla.SHORT_IN_ONEDNN", 0):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(**batch, label_smoothing=config.label_smoothing, output_logits=False).loss
            loss.backward()

    work = Work.of_rows(model.config, rows, length)
    shared = 2 * sum(layer_sizes(model)) * half
    predicted = activation_peak(model.config, work, 2 if half else 4, config.gradient_checkpointing)
    return predicted + shared, peak_memory(step) * 2**20


def report(config: TrainingConfig, machine: Machine, length: int, steps: int, price: float | None) -> str:
    """Return the table of what the ways to share the work take, in Markdown."""
    plans, ways = {}, {"DDP": False}
    if config.optimizer != "muon":  # which needs whole matrices
        ways["FSDP2"] = True
    for (name, sharded), again in itertools.product(ways.items(), (False, True)):
        plans[f"{name}{', checkpointing' * again}"] = make_plan(config, machine, length, sharded, again)

    def column(plan: Plan) -> dict[str, str]:
        hours, longest = plan.step * steps / 3600, max(plan.seconds, key=plan.seconds.__getitem__)
        limit = LIMITS.get(longest, longest) if machine.holds(plan.memory) else "does not fit: memory"
        return {
            **{f"{part}, GiB": f"{size / 2**30:.2f}" for part, size in plan.memory.items()},
            f"together, of {machine.memory:g} GiB": f"{sum(plan.memory.values()) / 2**30:.2f}",
            "most tokens a side that fit a GPU": f"{plan.most_tokens:,}",
            "TFLOP an update, all GPUs": f"{plan.flops / 1e12:.3f}",
            "MB that each GPU sends an update": f"{plan.sent / 1e6:,.0f}",
            **{f"{part}, ms": f"{seconds * 1e3:.1f}" for part, seconds in plan.seconds.items()},
            "an update, ms": f"{plan.step * 1e3:.1f}",
            "target tokens a second": f"{config.batch_tokens // length * length / plan.step:,.0f}",
            f"{steps:,} updates, hours": f"{hours:.2f}",
            **({} if price is None else {"cost": f"{hours * machine.gpus * price:,.0f}"}),
            "limited by": limit,
        }

    columns = [column(plan) for plan in plans.values()]
    return markdown_table(["", *plans], [[line, *(each[line] for each in columns)] for line in columns[0]])


ASSUMPTIONS = """
Assumed:
- rows of {length} tokens on each side, without padding;
- products of matrices at {utilisation:.0%} of {tflops:g} TFLOPS ({precision});
- all else but attention reads and writes {passes} bytes for each that is kept for the backward pass, {logits} for each
  logit, {weights} for each parameter, and Adam {adam} for each parameter, at {memory_bandwidth:,g} GB/s;
- each kernel takes {launch:g} microseconds beside its work;
- rings that send at {bandwidth:g} GB/s: float32 gradients, and under FSDP2 {precision} weights;
- nothing happens at the same time as anything else: where exchange or launches hide behind products, a run is faster;
- memory: weights, gradients and Adam's two moments (Muon's one of a matrix) in float32; copies (DDP's buckets,
  autocast's halves, what FSDP2 gathers); activations at their peak, a chunk of logits with them; {usable:.0%} of a
  GPU's memory is usable;
- validation, snapshots and checkpoints are not in it.
"""


def main() -> None:
    """Print the plan, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file of scripts/configs, or one like it")
    parser.add_argument("--gpus", type=int, default=8, help="number of GPUs (default: 8)")
    for name, default, what in (
        ("gpu-memory", 80, "GiB of a GPU"),
        ("peak-tflops", 990, "TFLOPS of a GPU in the precision of training"),
        ("bandwidth", 400, "GB/s that a GPU sends to others"),
        ("memory-bandwidth", 3350, "GB/s within a GPU"),
        ("utilisation", 0.45, "share of the peak that products reach"),
        ("launch", 10, "microseconds a kernel"),
    ):
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        parser.add_argument(*spellings, type=float, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--length", type=int, help="tokens a row (default: 30, of a language model max_length)")
    parser.add_argument("--steps", type=int, help="updates of the run (default: max_steps of the configuration)")
    parser.add_argument("--price", type=float, help="price of a GPU for an hour")
    parser.add_argument("--measure", action="store_true", help="instead, measure the memory of a step on this CPU")
    options, given = parser.parse_known_args()
    for name, value in vars(options).items():
        if type(value) in (int, float) and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} is {value:g}; expected a positive number")
    if options.utilisation > 1:
        parser.error(f"--utilisation is {options.utilisation:g}; expected a share of the peak, 1 at most")
    try:
        config = TrainingConfig.load(options.config, given)
        length = options.length or (30 if config.task == "translation" else config.max_length)
        if options.measure:
            rows = max(1, config.batch_tokens // length // (options.gpus * config.accumulation_steps))
            predicted, taken = (size / 2**20 for size in measure(config, rows, length))
            print(
                f"{options.config}: {rows} rows of {length} tokens, peak beyond weights, gradients and optimiser:",
                end=" ",
            )
            print(f"predicted {predicted:.1f} MiB, taken {taken:.1f} MiB ({predicted / taken - 1:+.1%})")
            return
        steps = options.steps or config.max_steps
        if steps is None:
            parser.error(f"{options.config} limits a run by train_minutes; give --steps")
        own = "gpus gpu_memory peak_tflops bandwidth memory_bandwidth utilisation launch"
        machine = Machine(*operator.attrgetter(*own.split())(options))
        parameters, rows = build(config).num_parameters(), config.batch_tokens // length
        print(f"{options.config}: {parameters:,} parameters, {rows:,} rows an update, {machine.gpus} GPUs\n")
        print(report(config, machine, length, steps, options.price))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    itemsize, precision = (4, "float32") if config.mixed_precision == "no" else (2, "half")
    assumed = {"passes": PASSES[itemsize], "weights": PASSES_OF_WEIGHTS[itemsize], "logits": PASSES_OF_LOGITS}
    assumed |= {"adam": PASSES_OF_ADAM, "usable": USABLE, "length": length, "precision": precision}
    print(ASSUMPTIONS.format(**vars(machine), **assumed))


if __name__ == "__main__":
    run_program(main)
