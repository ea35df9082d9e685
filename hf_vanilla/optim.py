"""The paper's optimiser and schedules (section 5.3), and the averaging of weights (section 6.1)."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def adam(parameters: Iterable[Tensor], learning_rate: float = 1.0) -> Adam:
    """Adam with the paper's betas (0.9, 0.98) and epsilon 1e-9, fused: one kernel for all parameters."""
    return Adam(parameters, lr=learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True)


def noam_schedule(optimizer: Optimizer, hidden_size: int, warmup_steps: int = 4000) -> LambdaLR:
    """Equation 3: hidden_size^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), times the optimiser's own rate.

    Steps count from 1, and the first update uses the rate of step 1. Call `step()` once after each update.
    """

    def rate(updates: int) -> float:
        step = updates + 1
        return hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)

    return LambdaLR(optimizer, rate)


def linear_schedule(optimizer: Optimizer, warmup_steps: int, progress: Callable[[], float]) -> LambdaLR:
    """Up to the optimiser's own rate in `warmup_steps` updates, then down to 0 where `progress()` reaches 1.

    `progress` is the share of the run that lies behind, in [0, 1]: of its steps, or of its time, so that a run which
    must end in ten minutes ends with a rate of 0 however fast the machine is.
    """
    end_of_warmup = 0.0

    def rate(updates: int) -> float:
        nonlocal end_of_warmup
        if updates < warmup_steps:
            end_of_warmup = progress()
            return (updates + 1) / warmup_steps
        return (1 - progress()) / max(1 - end_of_warmup, 1e-9)

    return LambdaLR(optimizer, rate)


def average_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several `state_dict`s of one model, tensor by tensor (the paper: the last 5 checkpoints).

    Raises:
        ValueError: there is none, or they differ in their keys.
    """
    if not states:
        raise ValueError("states is empty; expected at least one state_dict to average")
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("states have different keys; expected snapshots of one model")
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }
