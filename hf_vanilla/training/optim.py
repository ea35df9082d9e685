"""The paper's optimiser and schedules (section 5.3), and averages of weights (section 6.1)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import get_scheduler


def adam(parameters: Iterable[Tensor], learning_rate: float = 1.0) -> Adam:
    """Return Adam with the paper's betas (0.9, 0.98) and epsilon 1e-9, fused: one kernel for all parameters."""
    return Adam(parameters, lr=learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True)


class Progress:
    """The share of a run that is done: of its updates or of its time, whichever is larger.

    Args:
        max_steps: number of updates of the run; None for no limit.
        train_minutes: minutes that the run takes; None for no limit.
        warmup_steps: number of updates after which `linear_schedule` goes down.
    """

    def __init__(self, max_steps: int | None, train_minutes: float | None, warmup_steps: int = 0) -> None:
        self.max_steps = max_steps or float("inf")
        self.seconds = (train_minutes or float("inf")) * 60
        self.warmup_steps = warmup_steps
        self.done = 0.0
        """The share, in [0, 1]."""
        self.end_of_warmup = 0.0
        """What `done` was when the warm-up ended."""

    def update(self, steps: int, elapsed: float) -> None:
        """Take note that `steps` updates are done, `elapsed` seconds after the start."""
        self.done = min(1.0, max(steps / self.max_steps, elapsed / self.seconds))
        if steps < self.warmup_steps:
            self.end_of_warmup = self.done


def make_schedule(
    name: str, optimizer: Optimizer, progress: Progress, hidden_size: int, warmup_steps: int, max_steps: int | None
) -> LambdaLR:
    """Return a schedule: equation 3 (`"noam"`), one that follows the clock (`"linear"`, in a run that time limits), or
    one of transformers by name."""
    if name == "noam":
        return noam_schedule(optimizer, hidden_size, warmup_steps)
    if name == "linear" and progress.seconds < float("inf"):
        return linear_schedule(optimizer, warmup_steps, progress)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_steps)


def noam_schedule(optimizer: Optimizer, hidden_size: int, warmup_steps: int = 4000) -> LambdaLR:
    """Return equation 3: hidden_size^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), times the optimiser's own rate.

    Steps count from 1, and the first update uses the rate of step 1. Call `step()` once after each update.
    """

    def rate(updates: int) -> float:
        step = updates + 1
        return hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)

    return LambdaLR(optimizer, rate)


def linear_schedule(optimizer: Optimizer, warmup_steps: int, progress: Progress) -> LambdaLR:
    """Return a rate that rises to the optimiser's own in `warmup_steps` updates, and falls to 0 at the end of the run.

    A run that must end in ten minutes ends with a rate of 0 however fast the machine is.
    """

    def rate(updates: int) -> float:
        if updates < warmup_steps:
            return (updates + 1) / warmup_steps
        return (1 - progress.done) / max(1 - progress.end_of_warmup, 1e-9)

    return LambdaLR(optimizer, rate)


def average_weights(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several `state_dict`s of one model, tensor by tensor (the paper: the last 5 checkpoints).

    Only one state is in memory at a time, beside the sums, which are float32.

    Raises:
        ValueError: there are no states, or they differ in their keys.
    """
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        if count and state.keys() != sums.keys():
            raise ValueError("states have different keys; expected snapshots of one model")
        for name, tensor in state.items():
            sums[name] = sums[name] + tensor.float() if count else tensor.to(torch.float32, copy=True)
            dtypes[name] = tensor.dtype
        count += 1
    if not count:
        raise ValueError("states is empty; expected at least one state_dict to average")
    return {name: (total / count).to(dtypes[name]) for name, total in sums.items()}


class ExponentialMovingAverage:
    """An average of the weights over the updates, in which an update counts `decay` times as much as the next one.

    After n updates, `decay` is at most (1 + n) / (10 + n), so that the initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def update(self, model: nn.Module, updates: int) -> None:
        """Add the model's weights after so many updates to the average."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages, parameters = list(self.weights.values()), [parameter.detach() for parameter in model.parameters()]
        get_ema_multi_avg_fn(decay)(averages, parameters, None)
