"""What makes a training step faster on a given device, with the results of the plain step: padding is left out of all
but attention, which alone looks at more than one position. The models do not know the device: all about it is here.

On CPUs, attention without padding takes one row after the other. GPUs have kernels for rows of unequal lengths:
that of torch (`torch.nn.attention.varlen`), or flash attention's where the configuration names it. A host that had to
count the tokens of a row there would wait for the device, so who makes the batch tells it: see [`find_unpadding`].
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from .generation_vanilla import find_obstacle

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    HAS_VARLEN = False
else:
    HAS_VARLEN = {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()

# What looks like an argument of attention that only some implementations read, but says what the model computes.
PACKED = "cu_seq_lens_q"
# Leave padding out where it is at least this share of a batch: less does not pay for what leaving it out costs.
WORTH_IT = 0.05
# Up to this length, attention over all rows at once, with their padding, is faster than over one row after the other.
SHORT = 64
# Up to this length, plain products are faster than the kernel of sdpa if oneDNN computes both.
SHORT_IN_ONEDNN = 128


class Dropout(nn.Dropout):
    """Dropout as others expect it, who set `p = 0` to switch it off. On CPU, the kernel of torch takes twice as long,
    and keeps four bytes an element for the backward pass, not one."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return hidden_states
        if hidden_states.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(hidden_states)
        return hidden_states * (torch.rand_like(hidden_states, dtype=torch.float32) >= self.p) / (1 - self.p)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the most precise floating-point type that a device computes in: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_transformed() -> bool:
    """True while code is compiled or transformed by `torch.func`, which cannot follow shapes that depend on data."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def host_runs_ahead(states: Tensor) -> bool:
    """True where the host runs ahead of the device that holds `states`, until it has to read something there."""
    return states.device.type != "cpu"


class Unpadding:
    """Takes the padding out of a batch, so that its tokens stand in one row, and puts them back into their places.
    `kept` is true at the positions to keep (batch, length); without it, nothing is taken out."""

    borders: Tensor | None = None  # where rows begin and the last one ends, for kernels (batch + 1,), int32

    def __init__(self, kept: Tensor | None = None):
        self.is_active = kept is not None
        if kept is not None:
            self.shape = kept.shape
            self.places = kept.flatten().nonzero().squeeze(1)
            self.lengths = kept.sum(1).tolist()

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], length: int, device: torch.device) -> "Unpadding":
        """Return what keeps the first `lengths` (batch,) tokens of rows of `length`, without waiting for `device`."""
        own, batch = cls(), len(lengths)
        own.is_active, own.shape, own.lengths = True, torch.Size((batch, length)), list(lengths)
        counts = torch.tensor(own.lengths, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        starts = F.pad(counts.cumsum(0), (1, 0))
        shifts = torch.arange(batch, device=device) * length - starts[:-1]
        tokens = sum(own.lengths)
        own.places = torch.arange(tokens, device=device) + shifts.repeat_interleave(counts, output_size=tokens)
        own.borders = starts.int()
        return own

    def remove(self, rows: Tensor) -> Tensor:
        """Return the tokens (1, tokens, ...) of `rows` (batch, length, ...)."""
        return rows.flatten(0, 1).index_select(0, self.places)[None] if self.is_active else rows

    def restore(self, tokens: Tensor) -> Tensor:
        """Return rows (batch, length, ...) with `tokens` (1, tokens, ...) in their places, and zeros for padding."""
        if not self.is_active:
            return tokens
        return PutInPlace.apply(tokens[0], self.places, self.shape.numel()).unflatten(0, self.shape)

    def columns(self) -> tuple[Tensor, ...]:
        """Return the positions kept of each row, (tokens of the row,)."""
        return (self.places % self.shape[1]).split(self.lengths)

    def split(self, states: Tensor) -> list[Tensor]:
        """Return each row of `states` (1, heads, tokens, width) by itself, (1, heads, tokens of the row, width)."""
        return list(states.split(self.lengths, dim=2) if self.is_active else states.split(1))


class PutInPlace(torch.autograd.Function):
    """`index_copy` of tokens (tokens, ...) into `count` zeros, which does not keep them for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.new_zeros(count, *tokens.shape[1:]).index_copy_(0, places, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad.index_select(0, *ctx.saved_tensors), None, None


@dataclass
class UnpaddedMask:
    """What attention needs where `queries` and `keys` took the padding out of its own; made by [`unpad_mask`].
    For short rows, which get their padding back for attention, `mask` is one (batch, 1, length, key length). For long
    ones it is a list of masks (1, 1, tokens of the row, keys of the row), None where a query may look at every key or,
    in causal attention, at every key up to its own position.
    """

    queries: Unpadding
    keys: Unpadding
    mask: Tensor | list[Tensor | None] | None


class Segments(NamedTuple):
    """Which tokens look at each other in flash attention, where its mask of padding does not say so: the n-th segment
    of the queries looks at the n-th of the keys. Both stand in one row, one segment after the other. A tuple, for
    Accelerate moves tuples to the device of a layer.
    """

    query_places: Tensor | None  # of the queries to keep in (batch * length), None for all
    key_places: Tensor | None  # of the keys to keep in (batch * key_length), None for all
    key_length: int  # keys of a row, of which a static cache may have more
    cu_seq_lens_q: Tensor  # where segments begin and the last one ends (segments + 1), int32
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int


# What may say how many tokens each row begins with: ints (batch,) by the side, "source" or "target", that has them.
RowLengths: TypeAlias = Mapping[str, Sequence[int]]
AttentionMask: TypeAlias = Tensor | BlockMask | UnpaddedMask | Segments | None
AttentionFunction: TypeAlias = Callable[..., tuple[Tensor, Tensor | None]]


def find_unpadding(
    stack: PreTrainedModel,
    states: Tensor | None,
    mask: Tensor | None,
    label_mask: Tensor | None,
    options: Any,
    row_lengths: RowLengths | None = None,
    is_causal: bool = False,
    side: str = "source",
) -> Unpadding:
    """Return what takes the padding out of `states` (batch, length, hidden_size) in `stack`. It keeps the tokens of
    `mask` and the positions of `label_mask` (batch, length); causal attention without a mask, all up to the latter.
    On a GPU it keeps what `row_lengths` says of this `side`, for nothing else is known there without waiting.

    It takes nothing out without `label_mask`, for the caller may then read every position; outside of training; where
    there is little padding, or `options` ask for the states inside; with attention that knows no rows without padding,
    or in which a position that may see nothing sees padding; and where others have changed the stack, for they may
    count rows.

    Raises:
        ValueError: for lengths that do not fit; on CPU also for those that are not what `mask` and `label_mask` keep.
    """
    nothing = Unpadding()
    asked = (options.get(name, getattr(stack.config, name)) for name in ("output_attentions", "output_hidden_states"))
    if states is None or label_mask is None or not stack.training or any(asked) or is_transformed():
        return nothing
    if (shape := states.shape[:2]) != label_mask.shape:
        return nothing
    lengths = None if row_lengths is None else row_lengths.get(side)
    if lengths is not None and (len(lengths) != shape[0] or max(lengths) > shape[1] or min(lengths) < 0):
        raise ValueError(f"`row_lengths` of the {side} must be {shape[0]} numbers up to {shape[1]}, got {lengths}.")
    if host_runs_ahead(states):
        if row_lengths is None or lengths is None or min(map(min, row_lengths.values())) == 0:
            return nothing
        if {"position_ids", PACKED} & {name for name, value in options.items() if value is not None}:
            return nothing  # they may tell documents apart
        if not takes_segments(stack.config, states) or find_obstacle(stack, may_shard=True):
            return nothing
        return Unpadding.of_lengths(lengths, shape[1], states.device)
    if mask is None and is_causal:
        kept = up_to_last(label_mask)
    elif mask is not None and mask.shape == shape:
        kept = mask.bool() | label_mask.bool()
    else:
        return nothing
    if lengths is not None and not kept.equal(torch.arange(shape[1]) < torch.tensor(lengths)[:, None]):
        raise ValueError(f"`row_lengths` of the {side} must be how many tokens each row begins with, before padding.")
    if stack.config._attn_implementation != "sdpa":
        return nothing
    worth_it = kept.count_nonzero() <= (1 - WORTH_IT) * kept.numel() and kept.any(1).all()
    return Unpadding(kept) if worth_it and find_obstacle(stack) is None else nothing


def takes_padding_alone(config: PreTrainedConfig) -> bool:
    """True for flash attention of any version or kernel, whose masks are (batch, length)."""
    masks = ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    return masks.get(config._attn_implementation) is flash_attention_mask


def takes_segments(config: PreTrainedConfig, states: Tensor) -> bool:
    """True if attention of `config` has a kernel for [`Segments`] on the device of `states`: flash attention, and in
    place of sdpa that of torch, which takes half precision and heads of one size, and drops no weights."""
    if takes_padding_alone(config):
        return True
    if config._attn_implementation != "sdpa" or not HAS_VARLEN or config.attention_dropout:
        return False
    device, heads = states.device, config.num_attention_heads
    d_k, d_v = (size or config.hidden_size // heads for size in (config.qk_head_dim, config.v_head_dim))
    is_autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_autocast else states.dtype
    is_half = dtype in (torch.float16, torch.bfloat16)
    if device.type != "cuda" or not is_half or d_k != d_v or d_k % 8 or d_k > 256:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def up_to_last(label_mask: Tensor) -> Tensor:
    """Return a mask (batch, length) that is true up to the last true position of each row of `label_mask`."""
    return label_mask.flip(1).cummax(1).values.flip(1)


def first_token(attention_mask: Tensor | None) -> Tensor | None:
    """Return a mask (batch, length) that is true at the first position of each row, which a head may read even if it
    is padding; None without a mask of that shape."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    return (torch.arange(attention_mask.shape[1], device=attention_mask.device) == 0).expand_as(attention_mask)


def unpad_mask(mask: AttentionMask, queries: Unpadding, keys: Unpadding, is_causal: bool = False) -> AttentionMask:
    """Return `mask` (batch, 1, length, key length), true where a query may look, for queries and keys without their
    padding; as it is if neither had any taken out."""
    if not (queries.is_active or keys.is_active):
        return mask
    if queries.borders is not None or keys.borders is not None:
        if queries.borders is None or keys.borders is None:
            raise ValueError("`row_lengths` must be of source and target, with an `attention_mask` of the source.")
        ends = (queries.borders, keys.borders, max(queries.lengths), max(keys.lengths))
        return Segments(None, None, sum(keys.lengths), *ends)
    assert mask is None or isinstance(mask, Tensor)  # sdpa has no others
    lengths = [each.shape[1] for each in (queries, keys) if each.is_active]
    if max(lengths + ([] if mask is None else list(mask.shape[-2:]))) <= SHORT:
        if mask is None and is_causal:
            mask = queries.places.new_ones(1, 1, lengths[0], lengths[0], dtype=torch.bool).tril()
        if mask is None or mask.any(-1).all():  # a query that sees nothing gets zeros from sdpa alone
            return UnpaddedMask(queries, keys, mask)
    batch = (queries if queries.is_active else keys).shape[0]
    masks: list[Tensor | None] = [None] * batch
    if mask is not None:
        every = (slice(None),) * batch
        columns = (each.columns() if each.is_active else every for each in (queries, keys))
        for row, (rows, places) in enumerate(zip(*columns, strict=True)):
            kept = mask[row : row + 1, :, rows][..., places]
            full = torch.ones_like(kept)
            masks[row] = None if kept.equal(full.tril() if is_causal else full) else kept
    return UnpaddedMask(queries, keys, masks)


def config_of_masks(config: PreTrainedConfig, options: Any) -> PreTrainedConfig:
    """Return the configuration to make attention masks for: that of eager attention if `options` ask for weights."""
    if options.get("output_attentions"):
        config = copy.copy(config)
        config._attn_implementation = "eager"
    return config


def attend(
    function: AttentionFunction,
    plain: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: AttentionMask,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return the output (batch, length, heads, d_v) of an attention function, and its weights if it gives any: of
    `function`, which the configuration names, through [`segmented_attention`] where the mask is [`Segments`]; but of
    [`unpadded_attention`] for rows without padding, and of `plain`, which is equation 1 as it is written, where
    weights are asked for or it trains faster."""
    if isinstance(attention_mask, UnpaddedMask):
        return unpadded_attention(plain, module, (query, key, value), attention_mask, **kwargs)
    if isinstance(attention_mask, Segments):
        function = varlen_attention if function is sdpa_attention_forward else function
        return segmented_attention(function, module, (query, key, value), attention_mask, **kwargs)
    if kwargs.get("output_attentions"):
        function = plain
    elif function is sdpa_attention_forward and "is_causal" not in kwargs:
        if trains_faster_plain(module, query, key, attention_mask):
            function = plain
            if attention_mask is None and module.is_causal:
                attention_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    return function(module, query, key, value, attention_mask, **kwargs)


def unpadded_attention(
    plain: AttentionFunction, module: nn.Module, states: tuple[Tensor, ...], unpadded: UnpaddedMask, **options: Any
) -> tuple[Tensor, None]:
    """Return the output of attention (1, tokens, heads, d_v) for queries, keys and values (1, heads, tokens, width)
    without padding: by `plain` for short rows, with their padding; by sdpa for one long row after the other."""
    queries, keys, mask = unpadded.queries, unpadded.keys, unpadded.mask
    pairs = list(zip((queries, keys, keys), states, strict=True))
    if not isinstance(mask, list):
        restored = [each.restore(state.transpose(1, 2)).transpose(1, 2) for each, state in pairs]
        return queries.remove(plain(module, *restored, mask, **options)[0]), None
    rows = zip(*(each.split(state) for each, state in pairs), mask, strict=True)
    attention = partial(F.scaled_dot_product_attention, dropout_p=options["dropout"], scale=options["scaling"])
    outputs = [
        attention(query, key, value, row_mask, is_causal=row_mask is None and bool(module.is_causal)).transpose(1, 2)
        for query, key, value, row_mask in rows
    ]
    return torch.cat(outputs, dim=1 if queries.is_active else 0), None


def segmented_attention(
    function: AttentionFunction,
    module: nn.Module,
    states: tuple[Tensor, ...],
    segments: Segments,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return the output (batch, length, heads, d_v) of flash attention within segments, for queries, keys and values
    (batch, heads, length, width); 0 for queries that are in none."""

    def keep(state: Tensor, places: Tensor | None) -> Tensor:
        if places is None:
            return state
        return state.transpose(1, 2).flatten(0, 1).index_select(0, places)[None].transpose(1, 2)

    query, *others = states
    batch, _, length, _ = query.shape
    key, value = (keep(state[:, :, : segments.key_length], segments.key_places) for state in others)
    lengths = {name: getattr(segments, name) for name in Segments._fields[3:]}
    query = keep(query, segments.query_places)
    output = function(module, query, key, value, None, **(options | lengths))[0]
    if segments.query_places is not None:
        output = PutInPlace.apply(output[0], segments.query_places, batch * length).unflatten(0, (batch, length))
    return output, None


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    cu_seq_lens_k: Tensor,
    max_length_q: int,
    max_length_k: int,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return the output (batch, length, heads, d_v) of attention within segments by the kernel of torch, called as
    flash attention is in transformers: queries, keys and values are (batch, heads, length, width)."""
    rows = [state.transpose(1, 2).flatten(0, 1) for state in (query, key, value)]
    ends: Any = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
    attention: Any = varlen_attn
    output = attention(*rows, *ends, scale=scaling, window_size=(-1, 0) if module.is_causal else (-1, -1))
    return output.unflatten(0, (query.shape[0], query.shape[2])), None


def trains_faster_plain(module: nn.Module, query: Tensor, key: Tensor, mask: AttentionMask) -> bool:
    """True if attention in `module` by plain products of all rows and heads trains faster than by sdpa: `query`
    (batch, heads, length, d_k), `key` (batch, heads, key length, d_k), `mask` as for sdpa.

    On CPU, the kernel of sdpa makes a product for each row and head. Through oneDNN, which computes those of bfloat16,
    and those of float32 if less than the "highest" precision is allowed, setting up a small product takes longer than
    computing it. Plain products round scores to the type of the query; sdpa keeps them in float32.
    """
    if not module.training or query.device.type != "cpu" or is_transformed():
        return False
    if query.shape[-2] == 1 or key.shape[-2] > SHORT_IN_ONEDNN:
        return False
    onednn: Any = torch.backends.mkldnn
    rounds = query.dtype == torch.float32 and onednn.matmul.fp32_precision in ("bf16", "tf32")
    if query.dtype != torch.bfloat16 and not rounds:
        return False
    # A query that sees nothing gets zeros from sdpa alone.
    return mask is None or (isinstance(mask, Tensor) and mask.dtype == torch.bool and bool(mask.any(-1).all()))
