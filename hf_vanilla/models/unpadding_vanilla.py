"""Leaving padding out of a training step: everything but attention treats each position alike, and need not see it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# Feed-forward (section 3.3), and dropout (section 5.4)


def dropout(hidden_states: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """As `F.dropout`, which on CPU takes twice the time, and keeps four bytes an element for the way back, not one."""
    if not training or p == 0 or hidden_states.device.type != "cpu":
        return F.dropout(hidden_states, p, training)
    return hidden_states * (torch.rand_like(hidden_states, dtype=torch.float32) >= p) / (1 - p)


def is_transformed() -> bool:
    """Whether this is compiled, or differentiated by `torch.func`: to these, operations must be plain ones."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


# The share of padding from which on it is faster to leave it out.
WORTH_IT = 0.05

# Up to this length, attention over all rows at once, padding and all, is faster than one row after the other.
SHORT = 64

# Up to this length, plain products are faster than sdpa's kernel where oneDNN makes both.
SHORT_IN_ONEDNN = 128


class Packing:
    """The tokens of a batch in one row, without its padding, and back into rows, where attention needs them.

    Args:
        kept: positions to keep, bool (batch, length).
    """

    def __init__(self, kept: torch.Tensor):
        self.shape = kept.shape
        self.kept = kept.flatten().nonzero().squeeze(1)
        self.lengths = kept.sum(1).tolist()

    def pack(self, rows: torch.Tensor) -> torch.Tensor:
        """(batch, length, ...) to (1, tokens, ...)."""
        return rows.flatten(0, 1).index_select(0, self.kept)[None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(1, tokens, ...) to (batch, length, ...), with zeros for padding."""
        return Unpack.apply(packed[0], self.kept, self.shape.numel()).unflatten(0, self.shape)

    def columns(self) -> tuple[torch.Tensor, ...]:
        """The positions kept of each row, (tokens of it)."""
        return (self.kept % self.shape[1]).split(self.lengths)


class Unpack(torch.autograd.Function):
    """Rows to their places among zeros, as `index_copy` does, which would keep the rows for its way back."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor, count: int) -> torch.Tensor:
        """`count` rows, of which those at `places` are the given ones."""
        ctx.save_for_backward(places)
        return rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of these places."""
        return grad.index_select(0, *ctx.saved_tensors), None, None


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
    worth_it = kept.count_nonzero() <= (1 - WORTH_IT) * kept.numel() and kept.any(1).all()
    return Packing(kept) if worth_it else None


def packed_mask(
    mask: torch.Tensor | None, packing: Packing | None, encoder_packing: Packing | None, is_causal: bool = False
) -> torch.Tensor | list[torch.Tensor | None] | None:
    """`mask` (batch, 1, length, key length), true where a query may look, as [`packed_attention`] wants it: whole, if
    rows are short, else for each row without its padding, and None for a row that needs none: every query sees every
    key, or, if `is_causal`, every key up to its own position.
    """
    lengths = [each.shape[1] for each in (packing, encoder_packing) if each]
    if mask is not None:
        lengths += mask.shape[-2:]
    if max(lengths) <= SHORT:
        if mask is None and is_causal:
            return torch.ones(1, 1, lengths[0], lengths[0], dtype=torch.bool).tril()
        if mask is None or mask.any(-1).all():  # to a query that sees nothing, sdpa alone gives zeros
            return mask
    either = packing or encoder_packing
    assert either is not None
    every: tuple[Any, ...] = (slice(None),) * either.shape[0]
    queries, keys = (each.columns() if each else every for each in (packing, encoder_packing))
    masks: list[torch.Tensor | None] = [None] * either.shape[0]
    if mask is None:
        return masks
    for row in range(len(masks)):
        kept = mask[row : row + 1, :, queries[row]][..., keys[row]]
        full = torch.ones_like(kept)
        masks[row] = None if kept.equal(full.tril() if is_causal else full) else kept
    return masks


def packed_attention(
    packing: Packing | None, encoder_packing: Packing | None, plain: Callable[..., Any]
) -> Callable[..., Any]:
    """Attention where queries come without padding by `packing`, keys and values by `encoder_packing`, all
    (1, heads, tokens, d_k), and masks as [`packed_mask`] makes them: `plain` over short rows with their padding, which
    they get back for it, or sdpa, one long row after the other, none of it padding."""

    def rows(packing: Packing | None, states: torch.Tensor) -> list[torch.Tensor]:
        each = states.transpose(1, 2)
        return [row.transpose(1, 2) for row in (each.split(packing.lengths, dim=1) if packing else each.split(1))]

    def padded(packing: Packing | None, states: torch.Tensor) -> torch.Tensor:
        return packing.unpack(states.transpose(1, 2)).transpose(1, 2) if packing else states

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        masks: torch.Tensor | list[torch.Tensor | None] | None,
        dropout: float,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        if not isinstance(masks, list):
            query, key, value = (
                padded(packing, query),
                padded(encoder_packing, key),
                padded(encoder_packing, value),
            )
            output = plain(module, query, key, value, masks, dropout=dropout, scaling=scaling)[0]
            return packing.pack(output) if packing else output, None
        outputs = [
            F.scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=mask is None and module.is_causal, scale=scaling
            ).transpose(1, 2)
            for q, k, v, mask in zip(
                rows(packing, query), rows(encoder_packing, key), rows(encoder_packing, value), masks, strict=True
            )
        ]
        return torch.cat(outputs, dim=1 if packing else 0), None

    return attend


def trains_faster_plain(module: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether attention by plain products of all rows and heads trains faster than by sdpa, which it is asked for:
    `query` (batch, heads, length, d_k), `key` (batch, heads, key length, d_k), `mask` as for sdpa.

    On CPU, sdpa's kernel makes a product for each row and head. Through oneDNN, which gets those of bfloat16, and of
    float32 where less than the "highest" precision is allowed, a small one takes longer to set up than to make. Plain
    products round scores to the type of the query; sdpa's kernel keeps them in float32.
    """
    if not module.training or query.device.type != "cpu" or module.config._attn_implementation != "sdpa":
        return False
    if is_transformed() or query.shape[-2] == 1 or key.shape[-2] > SHORT_IN_ONEDNN:
        return False
    if query.dtype == torch.float32:
        onednn: Any = torch.backends.mkldnn
        if onednn.matmul.fp32_precision not in ("bf16", "tf32"):
            return False
    elif query.dtype != torch.bfloat16:
        return False
    # To a query that sees nothing, sdpa alone gives zeros.
    return mask is None or (mask.dtype == torch.bool and bool(mask.any(-1).all()))


def first_token(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """True at the first position of each row of (batch, length), which a head may read even if it is padding."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    first = torch.zeros_like(attention_mask, dtype=torch.bool)
    first[:, 0] = True
    return first
