"""The heads' losses, and the checks of what goes into them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.configuration_utils import PreTrainedConfig

from .checks_vanilla import check_ids, check_smoothing
from .fused_loss_vanilla import LinearCrossEntropy
from .unpadding_vanilla import is_transformed


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


def is_watched(module: nn.Module) -> bool:
    """Whether more happens in a call of `module` than its class says."""
    own = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in own) or "forward" in vars(module) or _has_any_global_hook()
