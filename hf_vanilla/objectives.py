"""What training minimises."""

from torch import Tensor
from torch.nn import functional as F


def label_smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, num_items: int | Tensor | None = None
) -> Tensor:
    """Cross-entropy with label smoothing (section 5.4 of the paper), per target token.

    The gold token gets probability 1 - smoothing; `smoothing` is spread evenly over the vocabulary.

    Args:
        logits: (batch, length, vocabulary), of any float type; the sums are taken in float32.
        labels: (batch, length), int64; -100 marks padding, which counts for nothing.
        smoothing: the paper's 0.1; 0 gives the plain cross-entropy, in nats.
        num_items: what to divide the sum by: the target tokens of the whole update, which other micro-batches and
            processes may share. By default those of this batch.

    Returns:
        A float32 scalar; 0 where all labels are padding.
    """
    total = F.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), label_smoothing=smoothing, ignore_index=-100, reduction="sum"
    )
    if num_items is None:
        num_items = (labels != -100).sum().clamp(min=1)
    return total / num_items
