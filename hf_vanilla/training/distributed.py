"""Training on several processes: Accelerate, sharded parameters, the process group, and signals."""

import atexit
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast, is_deepspeed_available, parse_flag_from_env
from torch import Tensor
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel

from hf_vanilla.environment import choose_precision
from hf_vanilla.training.config import TrainingConfig

Handler = Callable[[int, FrameType | None], object] | int | None
SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)
TIMEOUT = timedelta(minutes=30)
"""After so long a process that the others wait for is missing."""
ROLL_CALL = timedelta(minutes=1)
"""How long they then wait for each other, to find out which it is."""
PREPARATION = timedelta(hours=6)
"""How long the others wait while the main process downloads and tokenises a corpus."""


def leave_together(accelerator: Accelerator) -> None:
    """Wait for the other processes, then close trackers and process group."""
    accelerator.wait_for_everyone()
    free_group_at_exit()
    accelerator.end_training()


def free_group_at_exit() -> None:
    """Have the process group freed after the models that use it, but before the interpreter ends.

    If the last model freed it, gloo would wait for its thread while holding the interpreter's lock; that thread may
    need the lock to free the tensors of its last reduction: a deadlock. If the group outlived the interpreter, the
    thread would ask for a lock that no longer exists, and the process would abort.
    """
    if torch.distributed.is_initialized():
        atexit.register(_free_last, [torch.distributed.group.WORLD])


def _free_last(groups: list[ProcessGroup | None]) -> None:
    gc.collect()  # the models that use the groups
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    groups.clear()  # Python releases its lock meanwhile


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Return an accelerator as the launcher set it up. Trackers or sharding that cannot be had are a ValueError."""
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in available:
            installed = ", ".join(available) or "none"
            raise ValueError(f"trackers names {tracker}, which is not installed; installed: {installed}")
    asked_for = [kind for kind in SHARDING if parse_flag_from_env(f"ACCELERATE_USE_{kind.value}")]
    if DistributedType.DEEPSPEED in asked_for and not is_deepspeed_available():
        raise ValueError("DEEPSPEED was asked for, but it is not installed: pip install deepspeed")
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.mixed_precision),
        log_with=list(config.trackers) or None,
        project_dir=config.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it warns of tied weights
    for kind in asked_for:
        if accelerator.distributed_type != kind:
            raise ValueError(
                f"{kind.value} was asked for, but Accelerate runs {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}: parameters would not be sharded. Launch on GPUs, or without {kind.value}"
            )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        deepspeed = accelerator.state.deepspeed_plugin.deepspeed_config
        deepspeed["train_micro_batch_size_per_gpu"] = 1  # it varies, but DeepSpeed only reports it
        deepspeed["gradient_clipping"] = config.max_grad_norm or 0.0
    if accelerator.is_fsdp2 and accelerator.mixed_precision != "no":
        reduce_in_float32(accelerator)
    if config.ema_decay and is_sharded(accelerator):
        raise ValueError(
            "ema_decay needs whole parameters; leave it out with FSDP and DeepSpeed, and average snapshots"
        )
    return accelerator


def reduce_in_float32(accelerator: Accelerator) -> None:
    """Have FSDP2 add gradients, and keep what layers hand on, in float32, as autocast does in one process. (By the
    policy of Accelerate all is in half precision.) Weights are gathered in half precision, and autocast multiplies."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin: Any = accelerator.state.fsdp_plugin
    half = plugin.mixed_precision_policy.param_dtype
    exact: dict[str, Any] = {
        "reduce_dtype": torch.float32,
        "output_dtype": torch.float32,
        "cast_forward_inputs": False,
    }
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, **exact)


class Hosts:
    """The processes of a run, as hosts that tell each other what they know, while their devices are at work."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.is_main_process, self.processes = accelerator.is_main_process, accelerator.num_processes
        if self.processes > 1:
            # After a failure nothing more can be sent in a group, and a group has one patience for all it does.
            limits = (TIMEOUT, ROLL_CALL, PREPARATION)
            self.group, self.roll, self.preparation = (dist.new_group(timeout=each, backend="gloo") for each in limits)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each of `values`, summed over the processes.

        Raises:
            TimeoutError: a process did not give its own for half an hour, or has ended. It names the process.
        """
        if self.processes == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        try:
            dist.all_reduce(sums, group=self.group)
        except RuntimeError as error:
            raise TimeoutError(f"{self.missing()} ({str(error).splitlines()[0]})") from error
        return sums.tolist()

    def missing(self) -> str:
        """Return which of the processes do not answer."""
        try:
            dist.monitored_barrier(self.roll, ROLL_CALL, wait_all_ranks=True)
        except RuntimeError as error:
            return f"the run cannot go on, for processes are missing: {str(error).splitlines()[0]}"
        return f"the processes of the run waited for each other for {TIMEOUT}, though all answer now"

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process do what is in the `with` block before the others do it."""
        if self.processes > 1 and not self.is_main_process:
            dist.monitored_barrier(self.preparation, PREPARATION)
        yield
        if self.processes > 1 and self.is_main_process:
            dist.monitored_barrier(self.preparation, PREPARATION)


def is_sharded(accelerator: Accelerator) -> bool:
    """True if no process holds the whole model."""
    return accelerator.distributed_type in SHARDING


def share_weights(weights: dict[str, Tensor], like: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Return on each process, and its device, the whole weights that the main process has; `like` has their shapes."""
    device = accelerator.device
    if accelerator.is_main_process:
        own = {name: weights[name].to(device, shape.dtype) for name, shape in like.items()}
    else:
        own = {name: torch.empty_like(shape, device=device) for name, shape in like.items()}
    return broadcast(own)


def group_tied_embeddings(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Put all tied matrices of an encoder-decoder into one group of FSDP2. Accelerate forgets the decoder's input."""
    if accelerator.is_fsdp2 and model.config.is_encoder_decoder and model.config.tie_word_embeddings:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = accelerator.state.fsdp_plugin.mixed_precision_policy or MixedPrecisionPolicy()
        tied = [model.get_input_embeddings(), model.get_decoder().embed_tokens, model.get_output_embeddings()]
        fully_shard(tied, reshard_after_forward=False, mp_policy=policy)


class StopSignal:
    """Takes note of SIGTERM and Ctrl-C, so that a run ends between two updates. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.handlers: dict[int, Handler] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
