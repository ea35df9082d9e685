"""The paper's optimiser and schedules (section 5.3), and averages of weights (section 6.1)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import PreTrainedModel, get_scheduler

STEPS = 5  # of the polynomial that makes singular values alike
ADAM: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-9, "fused": True}


def adam(parameters: Iterable[Tensor], learning_rate: float = 1.0) -> Adam:
    """Return Adam with the paper's betas (0.9, 0.98) and epsilon 1e-9, fused: one kernel for all parameters."""
    return Adam(parameters, lr=learning_rate, **ADAM)


def make_optimizer(name: str, model: PreTrainedModel, learning_rate: float, mixed_precision: str) -> Adam:
    """Return `adam` or, if the name is "muon", `Muon`, which multiplies in bfloat16 where the training does."""
    if name == "adam":
        return adam(model.parameters(), learning_rate)
    return Muon(model, learning_rate, torch.bfloat16 if mixed_precision == "bf16" else torch.float32)


def matrices_of(model: PreTrainedModel) -> list[Tensor]:
    """Return the weights of a model's `nn.Linear`s, each once, but not the output's."""
    others = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    linears = (each.weight for each in model.modules() if isinstance(each, nn.Linear))
    return list({id(weight): weight for weight in linears if id(weight) not in others}.values())


class Muon(Adam):
    """The paper's Adam for vectors, embeddings and output; for the matrices of its layers, Muon.

    Muon (Jordan et al., 2024) moves a matrix by its momentum M = U S V^T with all singular values alike, U V^T, which
    no direction of the gradient dominates. The step has the size that Adam's would have, lr * 0.2 in each component
    (Liu et al., 2025, arXiv:2502.16982), so that learning rates of Adam serve. It takes products of each matrix with
    itself: time that pays where a batch is larger than a matrix is wide.

    Args:
        model: a model all of whose parameters are whole, not sharded. `matrices_of` it says what Muon moves.
        learning_rate: of both.
        dtype: of the products: bfloat16 is fast where the hardware multiplies in it, float32 anywhere.
    """

    momentum = 0.95

    def __init__(self, model: PreTrainedModel, learning_rate: float, dtype: torch.dtype = torch.float32) -> None:
        matrices = matrices_of(model)
        ids = set(map(id, matrices))
        rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
        self.dtype = dtype
        groups = ({"params": matrices, "matrices": True}, {"params": rest, "matrices": False})
        super().__init__(groups, lr=learning_rate, **ADAM)
        self._step_supports_amp_scaling = False  # a scaler of fp16 leaves out updates that are not finite

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the matrices and then, by Adam, whatever else has a gradient."""
        for group in self.param_groups:
            if group["matrices"]:
                self._move_matrices([weight for weight in group["params"] if weight.grad is not None], group["lr"])
        return super().step(closure)

    def _move_matrices(self, weights: list[Any], learning_rate: float) -> None:
        alike: dict[tuple[int, ...], list[Any]] = {}
        for weight in weights:
            alike.setdefault(tuple(weight.shape), []).append(weight)
        for (rows, columns), matrices in alike.items():
            directions = []
            for weight in matrices:
                if not (state := self.state[weight]):
                    state |= {"step": weight.new_zeros(()), "exp_avg": torch.zeros_like(weight)}
                average = state["exp_avg"].lerp_(weight.grad, 1 - self.momentum)
                directions.append(weight.grad.lerp_(average, self.momentum))  # Nesterov's momentum
                weight.grad = None  # Adam leaves it alone
            size = learning_rate * 0.2 * max(rows, columns) ** 0.5
            for weight, step in zip(matrices, orthogonalise(torch.stack(directions).to(self.dtype)), strict=True):
                weight.add_(step, alpha=-size)


def flops_of_muon(matrices: Iterable[Tensor]) -> int:
    """Return the operations of `orthogonalise` for matrices (rows, columns): three products in each step."""
    sides = (sorted(matrix.shape) for matrix in matrices)
    return sum(STEPS * (4 * short**2 * long + 2 * short**3) for short, long in sides)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return U V^T of matrices U S V^T (number, rows, columns), roughly: their singular values become 0.7 to 1.2.

    STEPS of a polynomial that Jordan et al. chose to raise small singular values fast.
    """
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        squares = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(squares, squares, squares, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


@dataclass
class Progress:
    """The share of a run that is done: of its updates or of its time, whichever is larger. None is no limit."""

    max_steps: int | None
    train_minutes: float | None
    warmup_steps: float = 0  # updates, or below 1 a share of the run
    done: float = 0.0  # the share, in [0, 1]
    end_of_warmup: float = 0.0  # what `done` was when the warm-up ended

    def update(self, steps: int, elapsed: float) -> None:
        """Take note that `steps` updates are done, `elapsed` seconds after the start."""
        seconds = (self.train_minutes or math.inf) * 60
        self.done = min(1.0, max(steps / (self.max_steps or math.inf), elapsed / seconds))
        if self.warmup_steps < 1:
            self.end_of_warmup = float(self.warmup_steps)
        elif steps < self.warmup_steps:
            self.end_of_warmup = self.done

    def updates_in_all(self, steps: int) -> float:
        """Return how many updates there will be at the speed so far: `steps` are done. At first time is no limit."""
        return min(self.max_steps or math.inf, steps / self.done if self.done else math.inf)


def make_schedule(name: str, optimizer: Optimizer, progress: Progress, hidden_size: int) -> LambdaLR:
    """Return a schedule: equation 3 (`"noam"`), one that follows the clock (`"linear"`, in a run that time limits), or
    one of transformers by name."""
    if name == "linear" and progress.train_minutes:
        return linear_schedule(optimizer, progress)
    warmup = progress.warmup_steps
    updates = math.ceil(warmup * (progress.max_steps or 0)) if warmup < 1 else int(warmup)
    if name == "noam":
        return noam_schedule(optimizer, hidden_size, updates)
    return get_scheduler(name, optimizer, updates, progress.max_steps)


def noam_schedule(optimizer: Optimizer, hidden_size: int, warmup_steps: int = 4000) -> LambdaLR:
    """Return equation 3: hidden_size^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), times the optimiser's own rate.

    Steps count from 1, and the first update uses the rate of step 1. Call `step()` once after each update.

    Examples:
        >>> import torch
        >>> from hf_vanilla.training.optim import noam_schedule
        >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = noam_schedule(optimizer, hidden_size=512)
        >>> for _ in range(3999):
        ...     optimizer.step()
        ...     schedule.step()
        >>> f"{schedule.get_last_lr()[0]:.1e}"  # the highest rate, at the end of the warm-up
        '7.0e-04'
    """

    def rate(updates: int) -> float:
        step = updates + 1
        return hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)

    return LambdaLR(optimizer, rate)


def linear_schedule(optimizer: Optimizer, progress: Progress) -> LambdaLR:
    """Return a rate that rises to the optimiser's own while the run warms up, and falls to 0 at its end.

    A run that must end in ten minutes ends with a rate of 0 however fast the machine is.
    """

    def rate(updates: int) -> float:
        if progress.done < progress.warmup_steps < 1:
            return progress.done / progress.warmup_steps
        if updates < progress.warmup_steps:
            return (updates + 1) / progress.warmup_steps
        return (1 - progress.done) / max(1 - progress.end_of_warmup, 1e-9)

    return LambdaLR(optimizer, rate)


def average_weights(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several `state_dict`s of one model, tensor by tensor (the paper: the last 5 checkpoints).

    Only one state is in memory at a time, beside the sums, which are float32. No states, or states that differ in
    their keys, are a ValueError.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for count, state in enumerate(states, start=1):
        if count > 1 and state.keys() != sums.keys():
            raise ValueError("states have different keys; expected snapshots of one model")
        for name, tensor in state.items():
            sums[name] = sums[name] + tensor.float() if count > 1 else tensor.to(torch.float32, copy=True)
    if not count:
        raise ValueError("states is empty; expected at least one state_dict to average")
    return {name: (total / count).to(state[name].dtype) for name, total in sums.items()}


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
