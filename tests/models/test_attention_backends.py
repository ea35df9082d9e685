"""Every implementation of attention computes what the eager one does: padded, packed, cached and in static caches.

Flash attention has no kernel for the CPU: transformers' own code runs with one that computes the same, exactly, and
asks for what the real one does.
"""

from types import SimpleNamespace

import pytest
import torch
from families import HEADS, LANGUAGE_MODELS, batch_for, small_model, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DataCollatorWithFlattening, DynamicCache, EncoderDecoderCache, StaticCache
from transformers import modeling_flash_attention_utils as flash_utils

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderModel,
    VanillaEncoderForMaskedLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
    VanillaModel,
)
from hf_vanilla.data.collators import causal_language_model_collator, pack_documents

FLASH = ["flash_attention_2", "flash_attention_3"]
IMPLEMENTATIONS = ["eager", "sdpa", *FLASH]
FLASH_KWARGS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}


def exact_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    """Equation 1 in float64 for one sequence: (length, heads, width); causal masks end at the last key."""
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * scale
    if causal:
        queries, keys = torch.arange(len(q))[:, None] + len(k) - len(q), torch.arange(len(k))
        scores = scores.masked_fill(keys > queries, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)  # a query that sees nothing gets zeros
    return torch.einsum("hqk,khd->qhd", weights, v.double()).to(q.dtype)


class Calls(list):
    """What the kernel was called with; short in the report of a failure."""

    def __repr__(self) -> str:
        return f"{len(self)} calls"


@pytest.fixture(scope="module")
def kernel():
    """Stands in for the kernels of flash attention; notes the dropout, dtype and number of sequences of each call."""
    calls = Calls()

    def check(q, k, v, dropout_p, softmax_scale):
        assert q.dtype == k.dtype == v.dtype and q.shape[-2:] == k.shape[-2:] == v.shape[-2:]
        return softmax_scale or q.shape[-1] ** -0.5

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), **_):
        scale = check(q, k, v, dropout_p, softmax_scale)
        calls.append(SimpleNamespace(dropout=dropout_p, dtype=q.dtype, sequences=len(q)))
        return torch.stack([exact_attention(*row, causal, scale) for row in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), deterministic=False,
    ):  # fmt: skip
        scale = check(q, k, v, dropout_p, softmax_scale)
        calls.append(SimpleNamespace(dropout=dropout_p, dtype=q.dtype, sequences=len(cu_seqlens_q) - 1))
        outputs = []
        for cu, states, longest in ((cu_seqlens_q, q, max_seqlen_q), (cu_seqlens_k, k, max_seqlen_k)):
            assert cu.dtype == torch.int32 and cu[0] == 0 and cu[-1] == len(states) and cu.diff().max() <= longest
        for (start_q, end_q), (start_k, end_k) in zip(pairs(cu_seqlens_q), pairs(cu_seqlens_k), strict=True):
            keys = slice(start_k, end_k)
            outputs.append(exact_attention(q[start_q:end_q], k[keys], v[keys], causal, scale))
        return torch.cat(outputs)

    def lazy_imports(*_, **__):
        pad, unpad = flash_utils._pad_input, flash_utils._unpad_input
        return flash_attn_func, flash_attn_varlen_func, None, pad, unpad

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_utils, "_lazy_imports", lazy_imports)
        patch.setattr(flash_utils, "_loaded_implementation", None)
        yield calls


def pairs(borders: Tensor) -> list[tuple[int, int]]:
    return list(zip(borders.tolist(), borders.tolist()[1:], strict=False))


def model_with(implementation: str, model_class, **changes):
    """A small model that says it has an implementation, whether or not there is a kernel."""
    model = small_model(model_class, initializer_range=0.3, **changes)
    model.config._attn_implementation = implementation
    return model


def random_mask(shape, random: torch.Generator, side: str) -> Tensor:
    """Rows of any number of tokens, at least one; `side` is where the padding is."""
    lengths = torch.randint(1, shape[-1] + 1, shape[:-1], generator=random)
    mask = (torch.arange(shape[-1]) < lengths[..., None]).long()
    return mask.flip(-1) if side == "left" else mask


def assert_same_at_tokens(outputs, expected, mask: Tensor | None) -> None:
    for name in ("logits", "last_hidden_state"):
        if name in outputs and (mask is None or outputs[name].shape[: mask.ndim] == mask.shape):
            kept = slice(None) if mask is None else mask.bool()
            torch.testing.assert_close(outputs[name][kept], expected[name][kept], atol=2e-5, rtol=1e-4)
        elif name in outputs:
            torch.testing.assert_close(outputs[name], expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("model_class", [VanillaModel, VanillaEncoderModel, VanillaDecoderModel, *HEADS])
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sides=st.tuples(st.sampled_from(["left", "right"]), st.sampled_from(["left", "right", "none"])),
    target=st.integers(1, 9),
    implementation=st.sampled_from(["sdpa", *FLASH]),
    norm_position=st.sampled_from(["post", "pre"]),
)
def test_padding_on_any_side(kernel, model_class, seed, sides, target, implementation, norm_position):
    """Sources and targets of any lengths, padded on either side, and targets of other lengths than sources."""
    random = torch.Generator().manual_seed(seed)
    batch = batch_for(model_class, labels=False)
    batch["attention_mask"] = random_mask(batch["attention_mask"].shape, random, sides[0])
    mask = batch["attention_mask"]
    if "decoder_input_ids" in batch:
        batch["decoder_input_ids"] = words(3, target)
        mask = torch.ones(3, target, dtype=torch.long)
        batch.pop("decoder_attention_mask")
        if sides[1] != "none":
            batch["decoder_attention_mask"] = mask = random_mask((3, target), random, sides[1])
    model = model_with("eager", model_class, norm_position=norm_position)
    with torch.no_grad():
        expected = model(**batch)
        model.config._attn_implementation = implementation
        assert_same_at_tokens(model(**batch), expected, mask)


