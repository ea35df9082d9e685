"""Training on several processes: Accelerate, sharded parameters, the process group, and signals."""

import atexit
import gc
import logging
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, is_deepspeed_available, parse_flag_from_env
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel

from hf_vanilla.environment import choose_precision
from hf_vanilla.training.config import TrainingConfig

Handler = Callable[[int, FrameType | None], object] | int | None
SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)


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
        # The others wait while the main process downloads and tokenises the corpus.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
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
    if config.ema_decay and is_sharded(accelerator):
        raise ValueError(
            "ema_decay needs whole parameters; leave it out with FSDP and DeepSpeed, and average snapshots"
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """True if no process holds the whole model."""
    return accelerator.distributed_type in SHARDING


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
