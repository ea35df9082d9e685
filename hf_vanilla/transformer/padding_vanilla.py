"""Leaving padding out of a training step: everything but attention treats each position alike, and need not see it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .losses_vanilla import is_transformed

# The share of padding from which on it is faster to leave it out.
WORTH_IT = 0.05


class Packing:
    """The tokens of a batch in one row, without its padding, and back into rows, where attention needs them.

    Args:
        kept: positions to keep, bool (batch, length).
    """

    def __init__(self, kept: torch.Tensor):
        self.shape = kept.shape
        self.kept = kept.flatten().nonzero().squeeze(1)

    def pack(self, rows: torch.Tensor) -> torch.Tensor:
        """(batch, length, ...) to (1, tokens, ...)."""
        return rows.flatten(0, 1).index_select(0, self.kept)[None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(1, tokens, ...) to (batch, length, ...), with zeros for padding."""
        rows = packed.new_zeros(self.shape.numel(), *packed.shape[2:])
        return rows.index_add_(0, self.kept, packed[0]).unflatten(0, self.shape)


def packing_of(
    stack: Any,
    states: torch.Tensor,
    mask: torch.Tensor | None,
    needed: torch.Tensor | None,
    options: dict[str, Any],
    is_causal: bool = False,
) -> Packing | None:
    """What leaves out the padding of `states` (batch, length, hidden_size) in `stack`, but for positions that are
    `needed` (batch, length) even so.

    None without `needed`, by which a head says that it can do without the others; where leaving out is not worth its
    cost; outside of training; where `options` ask for the states inside of the stack; and where attention is not by
    sdpa, for then a position that may see nothing sees padding.
    """
    asked = (options.get(name, getattr(stack.config, name)) for name in ("output_attentions", "output_hidden_states"))
    # To count padding elsewhere than on CPU would wait for the device.
    if needed is None or not stack.training or states.device.type != "cpu" or any(asked):
        return None
    shape = states.shape[:2]
    if stack.config._attn_implementation != "sdpa" or is_transformed() or needed.shape != shape:
        return None
    if isinstance(mask, torch.Tensor) and mask.shape == shape:
        kept = mask.bool() | needed.bool()
    elif mask is None and is_causal:
        kept = needed.flip(1).cummax(1).values.flip(1)  # and all that comes before it
    else:
        return None
    worth_it = 0 < kept.count_nonzero() <= (1 - WORTH_IT) * kept.numel()
    return Packing(kept) if worth_it else None


def packed_attention(
    attention: Callable[..., Any], packing: Packing | None, encoder_packing: Packing | None
) -> Callable[..., Any]:
    """`attention` where queries come without padding by `packing`, keys and values by `encoder_packing`, all
    (1, heads, tokens, d_k): padding comes back for it alone.

    The copies with padding are made again on the way back, not kept: little work, and half of a step's memory.
    """

    def unpack(packing: Packing | None, states: torch.Tensor) -> torch.Tensor:
        return packing.unpack(states.transpose(1, 2)).transpose(1, 2) if packing else states

    def attend(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key, value = unpack(encoder_packing, key), unpack(encoder_packing, value)
        output, weights = attention(module, unpack(packing, query), key, value, *args, **kwargs)
        return packing.pack(output) if packing else output, weights

    return partial(checkpoint, attend, use_reentrant=False)


def first_token(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """True at the first position of each row of (batch, length), which a head may read even if it is padding."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    first = torch.zeros_like(attention_mask, dtype=torch.bool)
    first[:, 0] = True
    return first
