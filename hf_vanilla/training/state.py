"""The state of a run: what a checkpoint keeps of it, what may lie in its folder, and what its processes share."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from transformers import BatchEncoding

from hf_vanilla.data.locks import alone_at
from hf_vanilla.training.checkpointing import numbered_folders
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.distributed import Hosts, StopSignal
from hf_vanilla.training.run_log import memory_gib
from hf_vanilla.training.yaml_files import read_yaml

CONFIG, SUMMARY, LOCK = (
    "training_config.yaml",
    "training_summary.json",
    "_lock",
)  # Trainer pushes no file that begins like this
WINDOW = ("loss", "tokens", "filled", "slots", "seconds", "updates")
"""What is summed for a line of the log. `slots` are the positions of batches, `filled` those that hold a token."""


@dataclass
class RunState:
    """Where a run is: what a checkpoint holds beside weights, optimiser and random states."""

    step: int = 0  # updates done
    epoch: int = 0
    next_update: int = 0  # number of the next update within the epoch
    elapsed: float = 0.0  # seconds of training, those before an interruption included
    done: float = 0.0  # the share of the run that is done, in [0, 1]
    end_of_warmup: float = 0.0  # what `done` was when the warm-up ended
    target_tokens: int = 0
    validations: int = 0
    best_validation_loss: float | None = None
    examples: int | None = None  # of the training split, None if streamed; if it differs, the corpus has changed
    lengths: int = 0  # a checksum of the lengths of these examples, by which a change shows as well
    splits: dict[str, str] = field(default_factory=dict)  # the fingerprint of each, see `hf_vanilla.data.splits`
    processes: int = 1
    skipped: int = 0  # updates that fp16 left out because the gradient had overflowed
    skipped_in_a_row: int = 0  # of them, the last ones
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WINDOW, 0.0))  # since the log's last line

    def add_to_window(self, *values: float) -> None:
        """Add what one update counted, in the order of `WINDOW`."""
        self.window = {name: self.window[name] + value for name, value in zip(WINDOW, values, strict=True)}

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

    If that run has other settings, or what is there is no run, it is a ValueError; if it cannot be written to, an
    OSError.
    """
    problem: Exception | None = None
    started = False
    if accelerator.is_main_process:
        try:
            # Only tests that it can be written to.
            with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
                pass
            started = bool(numbered_folders(folder / "checkpoints"))
            if (folder / CONFIG).exists():
                if not started and (folder / SUMMARY).exists():
                    raise ValueError(f"{folder} holds a trained model, but no checkpoint; choose another output_dir")
                earlier = read_yaml(folder / CONFIG)
                if started and (changes := config.changes(earlier)):
                    raise ValueError(
                        f"{folder} holds a run with other settings: {'; '.join(changes)}. "
                        "Set them back to go on with it, or choose another output_dir"
                    )
            elif folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
                raise ValueError(f"{folder} holds files, but no run to go on with; choose another output_dir")
        except (ValueError, OSError) as error:
            problem = error
    problem, started = broadcast_object_list([problem, started])
    if problem:
        raise problem
    return started


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`, on all processes alike; what was made for this alone is removed in the end.

    That another run writes there is a ValueError on each process, that nobody can an OSError.
    """
    state = PartialState()
    with contextlib.ExitStack() as stack:
        problem: Exception | None = None
        if state.is_main_process:
            new = [path for path in (folder, *folder.parents) if not path.exists()]
            busy = f"{folder} is being written by another run: wait for it, or choose another output_dir"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.callback(_remove_if_empty, new)
                stack.enter_context(alone_at(folder / LOCK, busy))
            except (ValueError, OSError) as error:
                problem = error
        (problem,) = broadcast_object_list([problem])
        if problem:
            raise problem
        yield


def _remove_if_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def share_counts(
    micro_batches: Sequence[BatchEncoding], seconds: float, stop: StopSignal, hosts: Hosts
) -> dict[str, float]:
    """Return what all processes must know alike before an update, summed over them, without waiting for devices.

    That is `tokens`, the target tokens of the update; `elapsed`, the `seconds` of training on the main process;
    `stopped`, positive if a process was told to stop; `filled` and `slots`, see `WINDOW`.
    """
    counts = [batch["counts"] for batch in micro_batches]
    own = {
        "tokens": sum(count["tokens"] for count in counts),
        "elapsed": seconds if hosts.is_main_process else 0.0,
        "stopped": stop.received is not None,
        "filled": sum(count["filled"] for count in counts),
        "slots": sum(count["slots"] for count in counts),
    }
    return dict(zip(own, hosts.sum(list(own.values())), strict=True))
