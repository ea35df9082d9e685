"""The state of a run: what a checkpoint keeps of it, and how it is resumed."""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import BatchEncoding

from hf_vanilla.training.checkpointing import Checkpoints, numbered_folders
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.distributed import StopSignal
from hf_vanilla.training.optim import ExponentialMovingAverage, Progress
from hf_vanilla.training.run_log import memory_gib

logger = logging.getLogger(__name__)

CONFIG = "training_config.yaml"
SUMMARY = "training_summary.json"
WINDOW = ("loss", "tokens", "filled", "slots", "seconds", "updates")
"""What is summed for a line of the log. `slots` are the positions of batches, `filled` those that hold a token."""


@dataclass
class RunState:
    """Where a run is: what a checkpoint holds beside weights, optimiser and random states."""

    step: int = 0
    """Updates done."""
    epoch: int = 0
    next_update: int = 0
    """Number of the next update within the epoch."""
    elapsed: float = 0.0
    """Seconds of training, those before an interruption included."""
    done: float = 0.0
    """The share of the run that is done, in [0, 1]."""
    end_of_warmup: float = 0.0
    """What `done` was when the warm-up ended."""
    target_tokens: int = 0
    validations: int = 0
    best_validation_loss: float | None = None
    examples: int | None = None
    """Of the training split, None if streamed. If this or `lengths` differs, the corpus has changed."""
    lengths: int = 0
    """A checksum of the lengths of the training examples."""
    processes: int = 1
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WINDOW, 0.0))
    """Sums over the updates since the last line of the log."""

    def add_to_window(self, *values: float) -> None:
        """Add what one update counted, in the order of `WINDOW`."""
        for name, value in zip(WINDOW, values, strict=True):
            self.window[name] += value

    def take_means(self) -> dict[str, float]:
        """Return loss per target token, speed, share of padding and peak memory, and begin to sum anew."""
        sums, self.window = self.window, dict.fromkeys(WINDOW, 0.0)
        return {
            "loss": sums["loss"] / sums["tokens"],
            "tokens_per_second": sums["tokens"] / sums["seconds"],
            "seconds_per_update": sums["seconds"] / sums["updates"],
            "padding": 1 - sums["filled"] / sums["slots"],
            "memory_gib": memory_gib(),
        }

    def is_best(self, validation_loss: float) -> bool:
        """True if this loss is lower than all before, of which the lowest is kept."""
        if not validation_loss < (self.best_validation_loss or float("inf")):
            return False
        self.best_validation_loss = validation_loss
        return True


def check_folder(folder: Path, config: TrainingConfig, accelerator: Accelerator) -> bool:
    """Return whether a run was started in `folder`. The answer, or the error, is the same on every process.

    Raises:
        ValueError: the run there was started with other settings, or what is there is no run.
        OSError: it cannot be written to.
    """
    problem: Exception | None = None
    started = False
    if accelerator.is_main_process:
        try:
            # Only tests that it can be written to: a run that is refused leaves no folder behind.
            with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
                pass
            started = bool(numbered_folders(folder / "checkpoints"))
            if (folder / CONFIG).exists():
                earlier = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
                finished = (folder / SUMMARY).exists()
                if finished and not started:
                    raise ValueError(f"{folder} holds a trained model, but no checkpoint; choose another output_dir")
                if (started or finished) and (changes := config.changes(earlier)):
                    raise ValueError(
                        f"{folder} holds a run with other settings: {'; '.join(changes)}. "
                        "Set them back to go on with it, or choose another output_dir"
                    )
            elif folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} holds files, but no run to go on with; choose another output_dir")
        except (ValueError, OSError) as error:
            problem = error
    problem, started = broadcast_object_list([problem, started])
    if problem:
        raise problem
    return started


def resume(
    checkpoints: Checkpoints,
    newest: Path,
    fresh: RunState,
    progress: Progress,
    scheduler: LambdaLR,
    average: ExponentialMovingAverage | None,
) -> RunState:
    """Load the checkpoint `newest` into model, optimiser, `progress`, `scheduler` and `average`, and return its state.

    Raises:
        ValueError: it was trained on another corpus than that of `fresh`, the state of a run that begins now.
    """
    loaded, weights = checkpoints.load(newest)
    scheduler.load_state_dict(loaded.pop("schedule"))
    if average:
        average.weights = {name: weights[name].to(weight.device) for name, weight in average.weights.items()}
    state = RunState(**loaded)
    if state.examples != fresh.examples:
        raise ValueError(f"{newest}: trained on {state.examples} examples; now the corpus gives {fresh.examples}")
    if state.lengths != fresh.lengths:
        raise ValueError(f"{newest}: trained on {state.examples} examples of other lengths: the corpus has changed")
    if state.processes != fresh.processes:
        logger.warning("%s: %d processes, now %d: dropout will differ", newest, state.processes, fresh.processes)
        state.processes = fresh.processes
    progress.end_of_warmup = state.end_of_warmup
    progress.update(state.step, state.elapsed)
    state.done = progress.done
    if state.done < loaded["done"]:  # the run was made longer: its evaluations are spread anew
        state.validations = int(state.validations * state.done / loaded["done"])
    return state


class Clock:
    """Measures the seconds of training.

    Args:
        earlier: the seconds before an interruption.
    """

    def __init__(self, earlier: float) -> None:
        self.start = time.monotonic() - earlier
        self.last = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the start, the earlier ones included."""
        return time.monotonic() - self.start

    def lap(self) -> float:
        """Return the seconds since the last call, or since the clock was made."""
        now = time.monotonic()
        lap, self.last = now - self.last, now
        return lap


def share_counts(
    micro_batches: Sequence[BatchEncoding], clock: Clock, stop: StopSignal, accelerator: Accelerator
) -> dict[str, float]:
    """Return what all processes must know alike before an update, summed over them.

    That is `tokens`, the target tokens of the update; `elapsed`, the seconds of training by the main process's clock;
    `stopped`, positive if a process was told to stop; `filled` and `slots`, see `WINDOW`.
    """
    filled, slots = count_positions(micro_batches)
    own = {
        "tokens": sum(int((batch["labels"] != -100).sum()) for batch in micro_batches),
        "elapsed": clock.seconds() if accelerator.is_main_process else 0.0,
        "stopped": stop.received is not None,
        "filled": filled,
        "slots": slots,
    }
    values = torch.tensor(list(own.values()), device=accelerator.device, dtype=torch.float32)
    return dict(zip(own, accelerator.reduce(values).tolist(), strict=True))


def count_positions(micro_batches: Sequence[BatchEncoding]) -> tuple[int, int]:
    """Return how many positions of the batches, on all sides, hold tokens, and how many positions there are."""
    filled = slots = 0
    for batch in micro_batches:
        if "attention_mask" not in batch:  # documents packed into full blocks
            filled, slots = filled + batch["input_ids"].numel(), slots + batch["input_ids"].numel()
            continue
        filled, slots = filled + int(batch["attention_mask"].sum()), slots + batch["attention_mask"].numel()
        if "decoder_input_ids" in batch:
            filled, slots = filled + int((batch["labels"] != -100).sum()), slots + batch["labels"].numel()
    return filled, slots
