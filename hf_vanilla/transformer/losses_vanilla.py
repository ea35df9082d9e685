"""The heads' losses, and the checks of what goes into them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.configuration_utils import PreTrainedConfig

# Logits that are held at a time where a loss is computed from hidden states: 32 MiB in float32.
CHUNK = 2**23


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    name: str = "labels",
    **kwargs: Any,
) -> torch.Tensor:
    """Cross-entropy in float32: its mean over all labels but -100, or its sum over `num_items_in_batch`, the number of
    labels in the global batch, so that micro-batches add up to one batch. Without any label it is 0.

    Args:
        logits: (..., classes).
        labels: (...), from 0 to classes - 1, or -100.
        label_smoothing: epsilon_ls (section 5.4): the label gets probability 1 - epsilon_ls, and all classes
            together, the label's among them, share epsilon_ls evenly.
        name: what an error calls the labels.

    Raises:
        ValueError: for labels of another shape, or outside of the classes (checked on CPU).
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"`{name}` must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}.")
    check_ids(labels, logits.shape[-1], name, "the number of classes", ignored=-100)
    labels = labels.to(logits.device)
    total = F.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    return total / count_of(labels != -100, num_items_in_batch)


def logits_and_loss(
    model: Any,
    hidden_states: torch.Tensor,
    labels: torch.Tensor | None,
    output_logits: bool | None,
    transform: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.contiguous,
    **kwargs: Any,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The logits (batch, length, vocab_size) that `model.lm_head` makes of (batch, length, hidden_size), after
    `transform`, and the cross-entropy of `labels` (batch, length) if there are any.

    In training, where only the loss is used, the logits of a batch (3.7 GB for the paper's 25,000 tokens and 37,000
    words) are made and used in parts, and not returned unless `output_logits` says so.
    """
    if labels is not None and not (output_logits or (output_logits is None and not model.training)):
        return None, projected_cross_entropy(model.lm_head, transform, hidden_states, labels, **kwargs)
    logits = model.lm_head(transform(hidden_states))
    return logits, None if labels is None else cross_entropy(logits, labels, **kwargs)


def projected_cross_entropy(
    projection: nn.Module,
    transform: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs: Any,
) -> torch.Tensor:
    """`cross_entropy(projection(transform(hidden_states)), labels, ...)`, computed only where there is a label, and
    with no more than `CHUNK` logits at a time.

    Args:
        projection: gives logits. Those of one that is more than a linear layer, such as an adapter's, are held whole.
        transform: of each position by itself.
        hidden_states: (..., hidden_size).
    """
    if torch.compiler.is_compiling():
        return cross_entropy(projection(transform(hidden_states)), labels, num_items_in_batch, label_smoothing)
    if labels.shape != hidden_states.shape[:-1]:
        expected = tuple(hidden_states.shape[:-1])
        raise ValueError(f"`labels` must be {expected} like the tokens, got {tuple(labels.shape)}.")
    labels = labels.to(hidden_states.device)
    labelled = labels != -100
    count = count_of(labelled, num_items_in_batch)
    hidden_states, labels = transform(hidden_states[labelled]), labels[labelled]
    overridden = projection._forward_hooks or projection._forward_pre_hooks or "forward" in vars(projection)
    if type(projection) is not nn.Linear or type(projection.weight) is not nn.Parameter or overridden:
        return cross_entropy(projection(hidden_states), labels, count, label_smoothing)
    check_ids(labels, projection.out_features, "labels", "the number of classes")
    return LinearCrossEntropy.apply(hidden_states, projection.weight, projection.bias, labels, count, label_smoothing)


class LinearCrossEntropy(torch.autograd.Function):
    """The sum of the cross-entropies, smoothed, of x W^T + b, over a count; a chunk of rows at a time.

    With p the softmax of a row of logits, and q its smoothed label, 1 - epsilon there and epsilon / V everywhere: the
    loss is -q log p, and its derivative by the logits p - q. Forward computes both from one look at a chunk, so that
    nothing of its size is kept for the way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        count: torch.Tensor,
        epsilon: float,
    ) -> torch.Tensor:
        """The loss, float32, of `hidden_states` (rows, hidden_size) and `labels` (rows)."""
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        with torch.autocast(device, enabled=False):
            x, w = hidden_states.to(dtype), weight.to(dtype)
            b = None if bias is None else bias.to(dtype)
            backward = any(ctx.needs_input_grad)
            total = torch.zeros((), device=x.device)
            # The inputs' gradients are those of the sum: those of the mean would be too small for float16.
            grad_x, grad_w = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
            grad_b = None if b is None else torch.zeros_like(b, dtype=torch.float32)
            rows = max(1, CHUNK // len(w))
            for chunk, label, grad in zip(x.split(rows), labels.split(rows), grad_x.split(rows), strict=True):
                scores = F.linear(chunk, w, b).float()
                torch.log_softmax(scores, dim=-1, out=scores)
                total -= (1 - epsilon) * scores.gather(1, label[:, None]).sum()
                if epsilon:
                    total -= epsilon * scores.mean(dim=-1).sum()
                if backward:
                    scores.exp_()[torch.arange(len(label), device=x.device), label] -= 1 - epsilon
                    p_minus_q = scores.sub_(epsilon / len(w)).to(dtype)
                    torch.mm(p_minus_q, w, out=grad)
                    if dtype == torch.float32:
                        grad_w.addmm_(p_minus_q.t(), chunk)
                    else:
                        grad_w += p_minus_q.t() @ chunk
                    if grad_b is not None:
                        grad_b += p_minus_q.sum(0)
                    del p_minus_q
                del scores  # or the next chunk's come beside them
        if backward:
            ctx.save_for_backward(grad_x, grad_w.div_(count), None if grad_b is None else grad_b.div_(count), count)
            ctx.dtypes = hidden_states.dtype, weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scales what forward has prepared."""
        grad_x, grad_w, grad_b, count = ctx.saved_tensors
        of_x, of_w = ctx.dtypes
        if grad.device.type != "cpu" or grad != 1:  # if it is, no second copy of the largest matrix is made
            grad_w, grad_b = grad_w * grad, None if grad_b is None else grad_b * grad
        grad_b = None if grad_b is None else grad_b.to(of_w)
        return (grad_x * (grad / count)).to(of_x), grad_w.to(of_w), grad_b, None, None, None


def sequence_classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """The loss of `config.problem_type`, which is told from the labels if it is not set, and then kept.

    Args:
        logits: (batch, num_labels).
        labels: classes (batch,) for "single_label_classification"; 0 or 1 for each label (batch, num_labels) for
            "multi_label_classification"; values (batch,) or (batch, num_labels) for "regression".

    Raises:
        ValueError: for labels of another shape.
    """
    if config.problem_type is None:
        if logits.shape[-1] == 1:
            config.problem_type = "regression"
        elif labels.is_floating_point():
            config.problem_type = "multi_label_classification"
        else:
            config.problem_type = "single_label_classification"
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, labels.view(-1), num_items_in_batch)
    if labels.shape != logits.shape and labels.shape != logits.squeeze(-1).shape:
        raise ValueError(f"`labels` must be {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}.")
    labels = labels.to(logits.device, torch.float32).view_as(logits)
    loss = F.mse_loss if config.problem_type == "regression" else F.binary_cross_entropy_with_logits
    return loss(logits.float(), labels, reduction="sum") / count_of(labels == labels, num_items_in_batch)


def count_of(counted: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """`num_items_in_batch`, or else how many are `counted`, but at least 1: without labels, a loss is 0."""
    count = counted.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=counted.device)
    return count.clamp(min=1)


def check_ids(ids: torch.Tensor, size: int, name: str, field: str, ignored: int | None = None) -> None:
    """Raises `ValueError` for ids outside [0, size), other than `ignored`.

    Values are looked at on CPU alone, where that costs nothing; elsewhere it would wait for the device.
    """
    if ids.is_floating_point():
        raise ValueError(f"`{name}` must be integers, got {ids.dtype}.")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    wrong = (ids < 0) | (ids >= size)
    if ignored is not None:
        wrong &= ids != ignored
    if wrong.any():
        raise ValueError(f"`{name}` must lie in [0, {size}), which is {field}, got {ids[wrong][0].item()}.")
