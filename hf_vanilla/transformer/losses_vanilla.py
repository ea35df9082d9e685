"""The heads' losses, and the checks of what goes into them."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.configuration_utils import PreTrainedConfig


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    name: str = "labels",
    **kwargs: Any,
) -> torch.Tensor:
    """Cross-entropy in float32: its mean over all labels but -100, or its sum over `num_items_in_batch`, the number of
    labels in the global batch, so that micro-batches add up to one batch. Without any label it is 0.

    Args:
        logits: (..., classes).
        labels: (...), from 0 to classes - 1, or -100.
        name: what an error calls the labels.

    Raises:
        ValueError: for labels of another shape, or outside of the classes (checked on CPU).
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"`{name}` must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}.")
    check_ids(labels, logits.shape[-1], name, "the number of classes", ignored=-100)
    labels = labels.to(logits.device)
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / count_of(labels != -100, num_items_in_batch)


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
