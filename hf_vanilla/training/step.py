"""One update of the model: forward and backward passes over the micro-batches, and a step of the optimiser."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import BatchEncoding

from hf_vanilla.training.tasks import Task


class Outcome(NamedTuple):
    """What an update did."""

    loss: float  # of all processes, in nats per target token
    own_loss: float  # this process's part in it
    norm: float  # of the gradient before clipping, 0 where it is not known
    was_skipped: bool  # because the gradient had overflowed in fp16: the weights are as they were


@dataclass
class Update:
    """An update that was launched, and may still be under way on the device."""

    micro_batches: Sequence[BatchEncoding]
    target_tokens: int  # of all processes together
    read: Callable[[], list[float]]  # waits for the numbers of its outcome, and returns them

    def outcome(self) -> Outcome:
        """Wait until the device has made the update, and return what it did."""
        loss, own_loss, norm, was_skipped = self.read()
        return Outcome(loss, own_loss, norm, bool(was_skipped))


def reader(numbers: Tensor) -> Callable[[], list[float]]:
    """Have numbers copied to the host, once the device has made them, and return what waits for that copy alone, not
    for what is launched after it."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    copied = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def read() -> list[float]:
        done.synchronize()
        return copied.tolist()

    return read


def training_step(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    micro_batches: Sequence[BatchEncoding],
    target_tokens: int,
) -> Update:
    """Update the weights by the gradient of the mean loss over `target_tokens`, those of all processes together.

    The update may still be under way when this returns, and it is made even if it is not finite: who saves the weights
    must have looked at its `outcome` before.
    """
    model.train()
    own_loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(micro_batches, start=1):
        is_last = number == len(micro_batches)
        accelerator.sync_gradients = is_last  # DeepSpeed then makes its step within `backward`
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            # Accelerate puts autocast around the model itself, but not around one that FSDP2 shards.
            with accelerator.autocast() if accelerator.is_fsdp2 else contextlib.nullcontext():
                loss = task.loss(model, batch.to(accelerator.device, non_blocking=True), target_tokens)
            # The gradient of an update is the sum over the processes, but DDP takes their mean.
            accelerator.backward(loss * accelerator.num_processes)
        own_loss += loss.detach()
    loss = accelerator.reduce(own_loss.clone())
    norm = accelerator.clip_grad_norm_(model.parameters(), task.config.max_grad_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad()
    norm = 0.0 if norm is None else norm  # DeepSpeed may keep it for itself
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    # Accelerate sees only what a scaler skips on the host, and the scaler leaves it to a fused optimiser to skip.
    skipped = accelerator.optimizer_step_was_skipped
    if accelerator.mixed_precision == "fp16" and isinstance(norm, Tensor):
        skipped = ~norm.isfinite()
    # To fill a tensor on the device does not wait for it; to copy a number there does.
    numbers = [
        each.float() if isinstance(each, Tensor) else torch.full((), float(each), device=loss.device)
        for each in (loss, own_loss, norm, skipped)
    ]
    return Update(micro_batches, target_tokens, reader(torch.stack(numbers)))
