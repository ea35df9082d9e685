"""Checks of what goes into a model."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def embed_inputs(
    stack: PreTrainedModel,
    prefix: str,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past_length: Tensor | int | None = None,
) -> Tensor:
    """Return the embeddings (batch, length, hidden_size) of `input_ids` (batch, length), by the table of `stack`,
    or those that were given. `prefix` is what the names of the arguments begin with where they come from a user:
    "decoder_" or nothing.

    Raises:
        ValueError: for neither or both, for ids outside of the vocabulary, and for what does not fit in shape.
    """
    config: Any = stack.config
    width, table = config.hidden_size, stack.get_input_embeddings()
    if input_ids is not None and inputs_embeds is None:
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"`{prefix}input_ids` must be (batch, length >= 1), got {tuple(input_ids.shape)}.")
        size = getattr(table, "num_embeddings", config.vocab_size)  # an adapter around the table has no sizes
        check_ids(input_ids, size, f"{prefix}input_ids", "vocab_size")
        inputs_embeds = table(input_ids)
    elif inputs_embeds is None or input_ids is not None:
        raise ValueError(f"Give exactly one of `{prefix}input_ids` and `{prefix}inputs_embeds`.")
    elif inputs_embeds.ndim != 3 or inputs_embeds.shape[1] == 0 or inputs_embeds.shape[2] != width:
        got = tuple(inputs_embeds.shape)
        raise ValueError(f"`{prefix}inputs_embeds` must be (batch, length >= 1, {width}), got {got}.")
    check_mask(attention_mask, inputs_embeds, f"{prefix}attention_mask", past_length)
    batch, length = inputs_embeds.shape[:2]
    if position_ids is not None and position_ids.shape not in ((length,), (1, length), (batch, length)):
        got = tuple(position_ids.shape)
        raise ValueError(f"`{prefix}position_ids` must be ({batch} or 1, {length}), got {got}.")
    return inputs_embeds


def check_source(states: Tensor, mask: Tensor | None, inputs_embeds: Tensor) -> None:
    """Raise `ValueError` for encoder states of another batch than `inputs_embeds`, and masks of another shape."""
    if states.shape[0] != inputs_embeds.shape[0]:
        batches = f"{states.shape[0]} sources and {inputs_embeds.shape[0]} targets"
        raise ValueError(f"`input_ids` and `decoder_input_ids` must be of one batch, got {batches}.")
    check_mask(mask, states, "attention_mask")


def check_mask(mask: Tensor | None, embeds: Tensor, name: str, past_length: Tensor | int | None = None) -> None:
    """Raise `ValueError` for a mask that is neither 4D nor (batch, length) like `embeds` (batch, length, ...) or, with
    a cache, long enough for its `past_length` tokens and those of `embeds`."""
    if not isinstance(mask, Tensor) or mask.ndim == 4 or torch.compiler.is_compiling():
        return
    batch, length = embeds.shape[:2]
    least = length if past_length is None else length + int(past_length)
    fits = mask.ndim == 2 and mask.shape[0] == batch
    if not fits or mask.shape[1] < least or (past_length is None and mask.shape[1] > length):
        raise ValueError(f"`{name}` must be ({batch}, {least}) like the tokens, or 4D, got {tuple(mask.shape)}.")


def check_smoothing(label_smoothing: float) -> None:
    """Raise `ValueError` outside of [0, 1]."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1], got {label_smoothing}.")


def check_ids(ids: Tensor, size: int, name: str, field: str, ignored: int | None = None) -> None:
    """Raise `ValueError` for ids outside [0, size), other than `ignored`; on CPU alone, for elsewhere the host would
    have to wait for the device."""
    if ids.is_floating_point():
        raise ValueError(f"`{name}` must be integers, got {ids.dtype}.")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    wrong = ((ids < 0) | (ids >= size)) & (True if ignored is None else ids != ignored)
    if wrong.any():
        raise ValueError(f"`{name}` must lie in [0, {size}), which is {field}, got {ids[wrong][0].item()}.")
