"""The heads' losses, and the checks of what goes into them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.configuration_utils import PreTrainedConfig

# Where a loss is computed from hidden states: bytes of logits that are held at a time; and on CPU, for these fit into
# its cache, rows of them whose softmax is taken at a time, and classes whose gradient becomes float32 at a time.
CHUNK = 2**25
ROWS = 8
CLASSES = 2048


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
        ValueError: for labels of another shape, or outside of the classes (checked on CPU), or a smoothing outside of
            [0, 1].
    """
    check_smoothing(label_smoothing)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"`{name}` must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}.")
    check_ids(labels, logits.shape[-1], name, "the number of classes", ignored=-100)
    labels = labels.to(logits.device, torch.long)
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
    with no more than `CHUNK` bytes of logits at a time.

    Args:
        projection: gives logits. Those of one that is more than a linear layer, such as an adapter's, are held whole.
        transform: of each position by itself.
        hidden_states: (..., hidden_size).
    """
    if is_transformed():
        return cross_entropy(projection(transform(hidden_states)), labels, num_items_in_batch, label_smoothing)
    check_smoothing(label_smoothing)
    if labels.shape != hidden_states.shape[:-1]:
        expected = tuple(hidden_states.shape[:-1])
        raise ValueError(f"`labels` must be {expected} like the tokens, got {tuple(labels.shape)}.")
    labels = labels.flatten().to(hidden_states.device, torch.long)
    labelled = (labels != -100).nonzero().squeeze(1)
    count = len(labelled) if num_items_in_batch is None else num_items_in_batch
    hidden_states, labels = transform(hidden_states.flatten(0, -2).index_select(0, labelled)), labels[labelled]
    if type(projection) is not nn.Linear or type(projection.weight) is not nn.Parameter or is_watched(projection):
        return cross_entropy(projection(hidden_states), labels, count, label_smoothing)
    check_ids(labels, projection.out_features, "labels", "the number of classes")
    weights, differentiate = (projection.weight, projection.bias), torch.is_grad_enabled()
    count = count_of(labels, count)
    return LinearCrossEntropy.apply(hidden_states, *weights, labels, count, label_smoothing, differentiate)


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
        count: torch.Tensor | int,
        epsilon: float,
        differentiate: bool,
    ) -> torch.Tensor:
        """The loss, float32, of `hidden_states` (rows, hidden_size) and `labels` (rows)."""
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        needs_x, needs_w, needs_b = (differentiate and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(device, enabled=False):
            x, w = hidden_states.to(dtype), weight.to(dtype)
            b = None if bias is None else bias.to(dtype)
            total = torch.zeros((), device=x.device)
            # The inputs' gradients are those of the sum: those of the mean would be too small for float16.
            grad_x = torch.empty_like(x) if needs_x else None
            grad_w = torch.zeros_like(weight, dtype=torch.float32) if needs_w else None
            grad_b = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_b else None
            rows = max(1, CHUNK // (len(w) * dtype.itemsize))
            for start in range(0, len(x), rows):
                chunk = x[start : start + rows]
                logits = F.linear(chunk, w, b)
                parts = ROWS if x.device.type == "cpu" else rows
                for part, label in zip(logits.split(parts), labels[start : start + rows].split(parts), strict=True):
                    scores = part.log_softmax(dim=-1, dtype=torch.float32)
                    total -= (1 - epsilon) * scores.gather(1, label[:, None]).sum()
                    if epsilon:
                        total -= epsilon * scores.mean(dim=-1).sum()
                    if differentiate:
                        scores.exp_()[torch.arange(len(label), device=x.device), label] -= 1 - epsilon
                        part.copy_(scores.sub_(epsilon / len(w)))
                p_minus_q = logits
                if grad_x is not None:
                    torch.mm(p_minus_q, w, out=grad_x[start : start + rows])
                if grad_w is not None and dtype == torch.float32:
                    grad_w.addmm_(p_minus_q.t(), chunk)
                elif grad_w is not None:
                    classes = CLASSES if x.device.type == "cpu" else len(w)
                    for grad, part in zip(grad_w.split(classes), p_minus_q.split(classes, dim=1), strict=True):
                        grad += part.t() @ chunk
                if grad_b is not None:
                    grad_b += p_minus_q.sum(0)
                del logits, p_minus_q, part  # or the next chunk's come beside them
        means = (grad if grad is None else grad.div_(count) for grad in (grad_w, grad_b))
        ctx.save_for_backward(grad_x, *means)
        ctx.count, ctx.dtypes = count, (hidden_states.dtype, weight.dtype)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scales what forward has prepared."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "This loss can be differentiated once; for more, call the model with output_logits=True."
            )
        grad_x, grad_w, grad_b = ctx.saved_tensors
        of_x, of_w = ctx.dtypes
        if grad_x is not None:
            grad_x = (grad_x.float() * (grad / ctx.count)).to(of_x)
        if grad.device.type != "cpu" or grad != 1:  # if it is, no second copy of the largest matrix is made
            grad_w, grad_b = (of if of is None else of * grad for of in (grad_w, grad_b))
        grad_w, grad_b = (of if of is None else of.to(of_w) for of in (grad_w, grad_b))
        return grad_x, grad_w, grad_b, None, None, None, None


def sequence_classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs: Any,
) -> torch.Tensor:
    """The loss of `config.problem_type`, which is told from the labels if it is not set, and then kept.

    Args:
        logits: (batch, num_labels).
        labels: classes (batch,) for "single_label_classification"; 0 or 1 for each label (batch, num_labels) for
            "multi_label_classification"; values (batch,) or (batch, num_labels) for "regression".
        num_items_in_batch, label_smoothing: see [`cross_entropy`]; only classes can be smoothed.

    Raises:
        ValueError: for labels of another shape, and for smoothing where there are no classes.
    """
    if config.problem_type is None:
        if logits.shape[-1] == 1:
            config.problem_type = "regression"
        elif labels.is_floating_point():
            config.problem_type = "multi_label_classification"
        else:
            config.problem_type = "single_label_classification"
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, labels.view(-1), num_items_in_batch, label_smoothing)
    if label_smoothing:
        raise ValueError(f"`label_smoothing` is for one class a text, not for {config.problem_type}.")
    if labels.shape != logits.shape and labels.shape != logits.squeeze(-1).shape:
        raise ValueError(f"`labels` must be {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}.")
    labels = labels.to(logits.device, torch.float32).view_as(logits)
    loss = F.mse_loss if config.problem_type == "regression" else F.binary_cross_entropy_with_logits
    return loss(logits.float(), labels, reduction="sum") / count_of(labels == labels, num_items_in_batch)


def count_of(counted: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """`num_items_in_batch`, or else how many are `counted`, but at least 1: without labels, a loss is 0."""
    if num_items_in_batch is None:
        return counted.sum().clamp(min=1)
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.to(counted.device).clamp(min=1)
    return max(num_items_in_batch, 1)


def is_transformed() -> bool:
    """Whether this is compiled, or differentiated by `torch.func`: to these, operations must be plain ones."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_watched(module: nn.Module) -> bool:
    """Whether more happens in a call of `module` than its class says."""
    own = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in own) or "forward" in vars(module) or _has_any_global_hook()


def check_smoothing(label_smoothing: float) -> None:
    """Raises `ValueError` outside of [0, 1]."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1], got {label_smoothing}.")


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
