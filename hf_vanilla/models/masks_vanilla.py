"""What each query may look at, for every implementation of attention: its own document, and no padding.

Rows are packed if they hold several documents: `position_ids` then restart within a row, or `cu_seq_lens_q` says where
the documents begin. Flash attention takes no masks but those of padding (batch, length), and transformers takes
padding out of queries and keys by the same one. Where that is not enough, [`Segments`] says what attends to what.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_bidirectional_mask,
    create_causal_mask,
)

from .unpadding_vanilla import (
    PACKED,
    AttentionMask,
    Segments,
    Unpadding,
    config_of_masks,
    host_runs_ahead,
    is_transformed,
    takes_padding_alone,
    takes_segments,
    unpad_mask,
)


def mask_of_self_attention(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Any,
    position_ids: Tensor | None,
    options: Mapping[str, Any],
    unpadding: Unpadding,
    is_causal: bool = False,
    cache: Cache | None = None,
) -> AttentionMask:
    """Return the mask with which tokens look at each other whose padding `unpadding` took out; see [`mask_of_rows`].
    Where it knows the lengths of rows, these say all that a mask would."""
    if unpadding.borders is not None:
        return unpad_mask(None, unpadding, unpadding)
    mask = mask_of_rows(config, inputs_embeds, attention_mask, position_ids, options, is_causal, cache)
    return unpad_mask(mask, unpadding, unpadding, is_causal)


def mask_of_rows(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Any,
    position_ids: Tensor | None,
    options: Mapping[str, Any],
    is_causal: bool = False,
    cache: Cache | None = None,
) -> AttentionMask:
    """Return the mask with which tokens (batch, length, hidden_size) look at each other, in what
    `config._attn_implementation` understands; documents that are packed into a row do not see each other.

    Args:
        attention_mask: 1 for tokens, 0 for padding (batch, cached + length); or what [`check_given_mask`] lets pass.
        position_ids: absolute positions (batch or 1, length), if they are given.
        options: the other arguments of the model's `forward`; `cu_seq_lens_q` holds where documents begin and end.
        is_causal: whether a token sees no later ones; it then sees those of `cache`, too.

    Raises:
        ValueError: where the implementation cannot do that; for documents that begin after cached tokens, tokens after
            cached documents, and packed targets, which would all look at one source.
    """
    config = config_of_masks(config, options)
    attention_mask = check_given_mask(config, attention_mask)
    length = inputs_embeds.shape[1]
    if getattr(cache, "is_packed", False) and cached_length(cache):
        raise ValueError("The cache holds packed documents: to continue documents, give each a row of its own.")
    documents = None
    # An implementation that is not of transformers (vLLM's, paged caches) gets no mask: it knows what is in a row.
    knows_masks = config._attn_implementation in ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    if knows_masks and (attention_mask is None or len(attention_mask.shape) == 2) and length > 1:
        documents = find_documents(inputs_embeds, attention_mask, position_ids, options.get(PACKED), cache)
    if documents is not None and is_causal and config.is_encoder_decoder:
        raise ValueError("`decoder_position_ids` or `cu_seq_lens_q` pack targets: give each a row, as its source has.")
    if documents is not None and cache is not None:
        cache.is_packed = True  # type: ignore[attr-defined]
    longest: Any = tuple(options.get(name) for name in ("max_length_q", "max_length_k"))
    knows_segments = PACKED in options and None not in longest and attention_mask is None and cache is None
    if documents is not None and knows_segments and host_runs_ahead(inputs_embeds):
        if takes_segments(config, inputs_embeds):
            return Segments(None, None, length, options[PACKED], options["cu_seq_lens_k"], *longest)
    if documents is not None and takes_padding_alone(config):
        return segments_of_documents(documents, None if attention_mask is None else attention_mask[:, :length])
    if documents is not None and config._attn_implementation == "sdpa" and attention_mask is None and cache is None:
        same = documents[:, None, :, None] == documents[:, None, None, :]
        return same.tril() if is_causal else same
    given: dict[str, Any] = {"config": config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
    if is_causal and cache is None and attention_mask is None and PACKED not in options:
        # transformers sees here what a row holds, and its function is faster without one of ours.
        positions = None if documents is None or position_ids is None else position_ids.reshape(-1, length)
        return create_causal_mask(**given, past_key_values=None, position_ids=positions)
    if documents is not None:
        given["and_mask_function"] = same_document(documents, cache)
    elif cache is None:
        given["attention_mask"] = of_every_query(attention_mask, inputs_embeds, config, is_causal)
    if not is_causal:
        mask = create_bidirectional_mask(**given, past_key_values=cache)
        return take_out_padding(mask, inputs_embeds, config)
    if cache is not None and attention_mask is None and takes_padding_alone(config):
        # Without a mask, flash attention would look at what a static cache has not been filled with.
        past_length = cached_length(cache)
        if cache.get_mask_sizes(length, 0)[0] > past_length + length:
            given["attention_mask"] = inputs_embeds.new_ones(inputs_embeds.shape[0], past_length + length)
    return create_causal_mask(**given, past_key_values=cache)


def mask_of_cross_attention(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Any,
    encoder_hidden_states: Tensor,
    options: Mapping[str, Any],
    queries: Unpadding,
    keys: Unpadding,
) -> AttentionMask:
    """Return the mask with which a target (batch, target, hidden_size) looks at the encoder's output (batch, source,
    hidden_size), whose padding is 0 in `attention_mask` (batch, source), once `queries` and `keys` took the padding
    out of either; see [`mask_of_self_attention`]."""
    if queries.borders is not None and keys.borders is not None:
        return unpad_mask(None, queries, keys)
    config = config_of_masks(config, options)
    mask = create_bidirectional_mask(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=of_every_query(check_given_mask(config, attention_mask), inputs_embeds, config),
        encoder_hidden_states=encoder_hidden_states,
    )
    return unpad_mask(take_out_padding(mask, inputs_embeds, config), queries, keys)


def of_every_query(mask: Any, inputs_embeds: Tensor, config: PreTrainedConfig, is_causal: bool = False) -> Any:
    """Return a mask of padding (batch, key length), for sdpa on a GPU, as (batch, 1, length, key length); others as
    they are. transformers would first see whether it hides anything, for which the host waits for the device."""
    is_for_sdpa = host_runs_ahead(inputs_embeds) and config._attn_implementation == "sdpa"
    if not is_for_sdpa or not isinstance(mask, Tensor) or mask.ndim != 2:
        return mask
    mask = mask.to(inputs_embeds.device, torch.bool)[:, None, None].expand(-1, 1, inputs_embeds.shape[1], -1)
    return mask.tril() if is_causal else mask


def take_out_padding(mask: Any, inputs_embeds: Tensor, config: PreTrainedConfig) -> AttentionMask:
    """Return a mask of keys (batch, key length), in flash attention that is not causal, as segments: each query of
    `inputs_embeds` (batch, length, hidden_size) looks at the tokens of its row. Others are returned as they are."""
    if mask is None or not takes_padding_alone(config):
        return mask
    (batch, length), tokens = inputs_embeds.shape[:2], mask.sum(1)
    return Segments(
        query_places=None,
        key_places=mask.flatten().nonzero().squeeze(1),
        key_length=mask.shape[1],
        cu_seq_lens_q=borders(tokens.new_full((batch,), length)),
        cu_seq_lens_k=borders(tokens),
        max_length_q=length,
        max_length_k=int(tokens.max()),
    )


def check_given_mask(config: PreTrainedConfig, mask: Tensor | BlockMask | None) -> Any:
    """Return a mask as transformers takes it, from None, one of padding (batch, length), or 4D, boolean and true where
    a query may look, or added to the scores; flex attention also takes a `BlockMask`.

    Raises:
        ValueError: for a mask that the implementation would misread, and for head sizes that it does not have.
    """
    name = config._attn_implementation
    if takes_padding_alone(config):
        d_k, d_v = config.qk_head_dim, config.v_head_dim
        width = config.hidden_size // config.num_attention_heads
        if (d_k or width) != (d_v or width):
            sizes = f"`qk_head_dim` {d_k or width} and `v_head_dim` {d_v or width}"
            raise ValueError(f"{name} needs heads of one size, got {sizes}: use sdpa or eager attention.")
        if mask is not None and len(mask.shape) != 2:
            raise ValueError(f"{name} takes masks (batch, length), got {tuple(mask.shape)}: use sdpa or eager.")
    if isinstance(mask, BlockMask) and name != "flex_attention":
        raise ValueError(f"{name} takes no `BlockMask`: use flex_attention.")
    if isinstance(mask, Tensor) and mask.ndim == 4 and name == "flex_attention":
        if mask.dtype == torch.bool:  # transformers would add it to the scores
            rows, heads, length, key_length = mask.shape
            return create_block_mask(look_up(mask), rows, heads, length, key_length, device=mask.device)
        if mask.shape[1] != 1:
            raise ValueError(f"{name} takes one added mask for all heads, got {tuple(mask.shape)}: use sdpa or eager.")
    return mask


def look_up(mask: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return a boolean mask (batch or 1, heads or 1, length, key length) as the function of places that flex attention
    asks."""
    rows, heads = mask.shape[:2]
    return lambda row, head, query, key: mask[row % rows, head % heads, query, key]


def find_documents(
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seq_lens: Tensor | None,
    cache: Cache | None,
) -> Tensor | None:
    """Return the number (batch, length) of the document that each token of a row is of, or None if all rows hold one.

    A document begins where a token's position is not the next one after that of the token before. Where padding lies
    between the two, positions may or may not count it.
    """
    batch, length = inputs_embeds.shape[:2]
    if cu_seq_lens is not None:
        places = torch.arange(batch * length, device=inputs_embeds.device)
        return torch.searchsorted(cu_seq_lens.to(places)[1:], places, right=True).view(batch, length)
    if position_ids is None or (cache is not None and is_transformed()):
        return None
    positions = position_ids.reshape(-1, length).expand(batch, -1)
    past_length = cached_length(cache)
    begins = positions.diff(dim=1) != 1
    if attention_mask is not None:
        is_token = attention_mask[:, past_length : past_length + length].bool()
        places = torch.arange(length, device=positions.device).expand(batch, -1)
        before = torch.where(is_token, places, -1).cummax(1).values[:, :-1]  # the last token before each place
        steps = positions[:, 1:] - positions.gather(1, before.clamp(min=0))
        begins = is_token[:, 1:] & (before >= 0) & (steps != 1) & (steps != places[:, 1:] - before)
    if not is_transformed() and not begins.any():
        return None
    if past_length:
        raise ValueError("`position_ids` restart after cached tokens: continue documents that are packed one by one.")
    return F.pad(begins, (1, 0)).cumsum(1)


def cached_length(cache: Any) -> int:
    """Return how many tokens `cache` holds, 0 for None; not to be called in compiled code."""
    return 0 if cache is None else int(cache.get_seq_length())


def same_document(documents: Tensor, cache: Cache | None) -> Callable[..., Tensor]:
    """Return a function of transformers' masks that is true where query and key are of one of `documents` (batch,
    length); a static cache has keys beyond these, which are of none."""
    if cache is not None:
        length = documents.shape[1]
        documents = F.pad(documents, (0, cache.get_mask_sizes(length, 0)[0] - length), value=-1)
    return lambda row, head, query, key: documents[row, query] == documents[row, key]


def segments_of_documents(documents: Tensor, attention_mask: Tensor | None) -> Segments:
    """Return what keeps `documents` (batch, length), without their padding, apart in flash attention."""
    batch, length = documents.shape
    numbers = (documents + torch.arange(batch, device=documents.device)[:, None] * length).flatten()
    places = None if attention_mask is None else attention_mask.flatten().nonzero().squeeze(1)
    numbers = numbers if places is None else numbers[places]
    lengths = numbers.unique_consecutive(return_counts=True)[1]
    cumulated, longest = borders(lengths), int(lengths.max())
    return Segments(places, places, length, cumulated, cumulated, longest, longest)


def borders(lengths: Tensor) -> Tensor:
    """Return where segments of `lengths` (segments) begin, and where the last one ends (segments + 1), int32."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


def default_positions(inputs_embeds: Tensor, options: Mapping[str, Any], past_length: Tensor | int | None) -> Tensor:
    """Return positions (1, length) from 0, or from `past_length` with a cache; of packed documents, if
    `cu_seq_lens_q` in `options` says where they begin, those within each (batch, length)."""
    batch, length = inputs_embeds.shape[:2]
    if (starts := options.get(PACKED)) is not None and past_length is None:
        places = torch.arange(batch * length, device=inputs_embeds.device)
        starts = starts.to(places)
        return (places - starts[torch.searchsorted(starts, places, right=True) - 1]).view(batch, length)
    position_ids = torch.arange(length, device=inputs_embeds.device)[None]
    return position_ids if past_length is None else position_ids + past_length
