"""Where a run is, and how it goes on."""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import BatchEncoding

from hf_vanilla.training.checkpointing import Checkpoints, numbered
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.optim import ExponentialMovingAverage, Progress
from hf_vanilla.training.run_log import memory_gib

logger = logging.getLogger(__name__)

CONFIG = "training_config.yaml"
SUMMARY = "training_summary.json"
WINDOW = ("loss", "tokens", "filled", "slots", "seconds", "updates")


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
    end_of_warmup: float = 0.0
    target_tokens: int = 0
    validations: int = 0
    best_validation_loss: float | None = None
    examples: int | None = None
    """Of the training split, None if streamed: another number, or checksum of their `lengths`, is another corpus."""
    lengths: int = 0
    processes: int = 1
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WINDOW, 0.0))
    """Sums over the updates since the last line of the log."""


def check_folder(folder: Path, config: TrainingConfig, accelerator: Accelerator) -> bool:
    """Whether a run was started in `folder`; the answer, or the error, is the same on every process.

    Raises:
        ValueError: the run there was started with other settings, or what is there is no run.
        OSError: it cannot be written to.
    """
    problem: Exception | None = None
    started = False
    if accelerator.is_main_process:
        try:
            # A run that is refused leaves no folder behind.
            with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
                pass  # for its error
            started = bool(numbered(folder / "checkpoints"))
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
    """Load the checkpoint `newest`.

    Raises:
        ValueError: it was trained on another corpus than `fresh` begins with.
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
    if state.done < loaded["done"]:  # a longer run now
        state.validations = int(state.validations * state.done / loaded["done"])
    return state


class Clock:
    """Seconds of training, those of an earlier part of the run included."""

    def __init__(self, earlier: float) -> None:
        self.start = time.monotonic() - earlier
        self.last = time.monotonic()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def lap(self) -> float:
        """Since the last lap."""
        now = time.monotonic()
        lap, self.last = now - self.last, now
        return lap


def fill(micro_batches: Sequence[BatchEncoding]) -> tuple[int, int]:
    """How many of the places in a batch, on all sides, hold tokens; and how many places there are."""
    filled = slots = 0
    for batch in micro_batches:
        if "attention_mask" not in batch:  # packed
            filled, slots = filled + batch["input_ids"].numel(), slots + batch["input_ids"].numel()
            continue
        filled, slots = filled + int(batch["attention_mask"].sum()), slots + batch["attention_mask"].numel()
        if "decoder_input_ids" in batch:
            filled, slots = filled + int((batch["labels"] != -100).sum()), slots + batch["labels"].numel()
    return filled, slots


def means(window: dict[str, float]) -> dict[str, float]:
    """A line of the log: loss per target token, speed, share of padding, peak memory in GiB."""
    return {
        "loss": window["loss"] / window["tokens"],
        "tokens_per_second": window["tokens"] / window["seconds"],
        "seconds_per_update": window["seconds"] / window["updates"],
        "padding": 1 - window["filled"] / window["slots"],
        "memory_gib": memory_gib(),
    }
