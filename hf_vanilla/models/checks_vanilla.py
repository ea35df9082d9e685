"""Checks of what goes into a model."""

import torch

# Checks, masks, and one family from another


def check_mask(
    mask: torch.Tensor | None, embeds: torch.Tensor, name: str, past_length: torch.Tensor | int | None = None
) -> None:
    """Raises `ValueError` for a mask that is neither 4D nor (batch, length) like `embeds` (batch, length, ...).

    With a cache, `past_length` tokens and those of `embeds` are the least that the mask must cover.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim == 4 or torch.compiler.is_compiling():
        return
    batch, length = embeds.shape[:2]
    least = length if past_length is None else length + int(past_length)
    fits = mask.ndim == 2 and mask.shape[0] == batch
    if not fits or mask.shape[1] < least or (past_length is None and mask.shape[1] > length):
        raise ValueError(f"`{name}` must be ({batch}, {least}) like the tokens, or 4D, got {tuple(mask.shape)}.")


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
