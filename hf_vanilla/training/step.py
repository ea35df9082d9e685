"""One update of the model: forward and backward passes over the micro-batches, and a step of the optimiser."""

import contextlib
import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import BatchEncoding

from hf_vanilla.training.tasks import Task


def training_step(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    micro_batches: Sequence[BatchEncoding],
    target_tokens: int,
) -> tuple[float, Tensor, float]:
    """Update the weights by the gradient of the mean loss over `target_tokens`, those of all processes together.

    Return the loss of all processes, in nats per target token; this process's part in it, (); and the norm of the
    gradient before clipping, 0 where it is not known. If one is not finite, the weights are left as they are.
    """
    model.train()
    own_loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(micro_batches, start=1):
        is_last = number == len(micro_batches)
        accelerator.sync_gradients = is_last  # DeepSpeed then makes its step within `backward`
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            loss = task.loss(model, batch.to(accelerator.device), target_tokens)
            # The gradient of an update is the sum over the processes, but DDP takes their mean.
            accelerator.backward(loss * accelerator.num_processes)
        own_loss += loss.detach()
    update_loss = accelerator.reduce(own_loss).item()
    norm = accelerator.clip_grad_norm_(model.parameters(), task.config.max_grad_norm or math.inf)
    # In fp16 it may overflow: the gradient scaler then leaves out this update.
    norm = 0.0 if norm is None or accelerator.mixed_precision == "fp16" else float(norm)
    if math.isfinite(update_loss + norm):
        optimizer.step()
        optimizer.zero_grad()
    return update_loss, own_loss, norm
