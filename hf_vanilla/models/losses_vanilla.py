"""The losses of the heads."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .checks_vanilla import check_ids, check_smoothing
from .fused_loss_vanilla import LinearCrossEntropy
from .generation_vanilla import class_of, find_obstacle
from .unpadding_vanilla import is_transformed

OutputType = TypeVar("OutputType", bound=ModelOutput)
TensorMap: TypeAlias = Callable[[Tensor], Tensor]
# The package whose classes a fast path knows: this file travels with those of the models.
HOME = __name__.rpartition(".")[0]


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    name: str = "labels",
    **kwargs: Any,
) -> Tensor:
    """Return the cross-entropy in float32: its mean over all labels but -100, 0 without any, or its sum divided by
    `num_items_in_batch`, the number of labels in the global batch, so that micro-batches add up to one batch.

    Args:
        logits, labels: (..., classes), and (...) from 0 to classes - 1, or -100.
        label_smoothing: epsilon_ls (section 5.4): the label gets probability 1 - epsilon_ls, and all classes
            together, the label's among them, share epsilon_ls evenly (Szegedy et al., 2016, and torch; in the authors'
            code it is the others alone that share it).
        name: what an error calls the labels.

    Raises:
        ValueError: for labels of another shape or that are no class (checked on CPU), or smoothing outside of [0, 1].

    Examples:
        >>> import torch
        >>> from hf_vanilla.models.losses_vanilla import cross_entropy
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> cross_entropy(logits, torch.tensor([0, -100]))  # the second one is padding
        tensor(0.1269)
        >>> cross_entropy(logits, torch.tensor([0, -100]), label_smoothing=0.1)
        tensor(0.2269)
    """
    check_smoothing(label_smoothing)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"`{name}` must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}.")
    check_ids(labels, logits.shape[-1], name, "the number of classes", ignored=-100)
    labels, logits = labels.to(logits.device, torch.long).flatten(), logits.flatten(0, -2).float()
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    return total / count_of(labels != -100, num_items_in_batch)


def find_read(
    labels: Tensor | None, returns_logits: bool, attention_mask: Tensor | None, logits_to_keep: int | Tensor = 0
) -> Tensor | None:
    """Return a mask of the positions (batch, length) whose output is read: those that have a label, and if a head
    `returns_logits`, all tokens of `attention_mask`. None without labels, and where they are not those of all
    positions, but of the last `logits_to_keep` or of those that it lists."""
    all_kept = isinstance(logits_to_keep, int) and logits_to_keep == 0
    if labels is None or not all_kept:
        return None
    has_label = labels != -100
    if not returns_logits:
        return has_label
    if attention_mask is None or attention_mask.shape != labels.shape:
        return torch.ones_like(has_label)
    return has_label | attention_mask.to(labels.device, torch.bool)


def returns_logits(model: PreTrainedModel, labels: Tensor | None, output_logits: bool | None) -> bool:
    """True if a language model returns logits: always without `labels`, and with them unless `output_logits=False` is
    given in the call, or where it is not given in the configuration, which holds in training alone."""
    if output_logits is None:
        output_logits = model.config.output_logits is not False or not model.training
    return labels is None or output_logits


def logits_and_loss(
    projection: nn.Module,
    hidden_states: Tensor,
    labels: Tensor | None,
    with_logits: bool,
    logits_to_keep: int | Tensor = 0,
    transform: TensorMap = Tensor.contiguous,
    **kwargs: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the logits (batch, length, vocab_size), `projection(transform(hidden_states))`, and the cross-entropy of
    `labels` (batch, length) if there are any; for the last `logits_to_keep` positions, all for 0, or those it lists.

    Where only the loss is used, without `with_logits`, the logits of a batch (3.7 GB for the paper's 25,000 tokens and
    37,000 words) are computed and used in parts, and not returned.
    """
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    hidden_states = hidden_states[:, kept]
    if labels is not None and not with_logits:
        return None, projected_cross_entropy(projection, transform, hidden_states, labels, **kwargs)
    logits = projection(transform(hidden_states))
    return logits, None if labels is None else cross_entropy(logits, labels, **kwargs)


def make_output(output_class: type[OutputType], outputs: ModelOutput, **own: Tensor | None) -> OutputType:
    """Return the output of a head: its `own` loss and logits, and what its class shares with the base model's."""
    return output_class(**own, **{name: value for name, value in outputs.items() if hasattr(output_class, name)})


def projected_cross_entropy(
    projection: nn.Module,
    transform: TensorMap,
    hidden_states: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    loss_places: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return `cross_entropy(projection(transform(hidden_states)), labels, ...)`, computed only where there is a label,
    and with no more than `chunk_bytes` of logits at a time; all of them at once where others have changed either, as
    an adapter does. `transform` sees each position of `hidden_states` (..., hidden_size) by itself. If `loss_places`
    (labels,) say where labels are among all positions, the host need not wait until the device has found them."""
    parts = [part for part in (projection, transform) if isinstance(part, nn.Module)]
    if not is_transformed():
        gather(projection)
    are_plain = all(find_obstacle(part, HOME, may_shard=True) is None for part in parts)
    if is_transformed() or class_of(projection) is not nn.Linear or not are_plain:
        return cross_entropy(projection(transform(hidden_states)), labels, num_items_in_batch, label_smoothing)
    check_smoothing(label_smoothing)
    if labels.shape != hidden_states.shape[:-1]:
        expected = tuple(hidden_states.shape[:-1])
        raise ValueError(f"`labels` must be {expected} like the tokens, got {tuple(labels.shape)}.")
    labels = labels.flatten().to(hidden_states.device, torch.long)
    if loss_places is None or labels.device.type == "cpu":
        labelled = (labels != -100).nonzero().squeeze(1)
        if loss_places is not None and not loss_places.equal(labelled):
            raise ValueError("`loss_places` must be where in all positions `labels` are not -100, in their order.")
    else:
        labelled = loss_places.to(labels.device)
    count = len(labelled) if num_items_in_batch is None else num_items_in_batch
    hidden_states, labels = transform(hidden_states.flatten(0, -2).index_select(0, labelled)), labels[labelled]
    check_ids(labels, len(projection.weight), "labels", "the number of classes")  # type: ignore[arg-type]
    options = (labels, count_of(labels, count), label_smoothing, torch.is_grad_enabled())
    return LinearCrossEntropy.apply(hidden_states, projection.weight, projection.bias, *options)


def gather(module: nn.Module) -> None:
    """Have FSDP2 gather the weights of a module that it shards by itself, as calling the module would."""
    if class_of(module) is not type(module):
        module.unshard()  # type: ignore[operator]


def sequence_classification_loss(
    logits: Tensor,
    labels: Tensor,
    config: PreTrainedConfig,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs: Any,
) -> Tensor:
    """Return the loss of `logits` (batch, num_labels) for `config.problem_type`, set by the kind of labels if None.

    Args:
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


def count_of(counted: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | int:
    """Return `num_items_in_batch`, or else how many are `counted`; at least 1, so that without labels a loss is 0."""
    if num_items_in_batch is None:
        return counted.sum().clamp(min=1)
    if isinstance(num_items_in_batch, Tensor):
        return num_items_in_batch.to(counted.device).clamp(min=1)
    return max(num_items_in_batch, 1)
