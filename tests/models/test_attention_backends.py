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
NO_POSITIONS = {"return_flash_attn_kwargs": True, "return_position_ids": False}


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


def cache_of(kind: str, model):
    """A new cache, static ones with more room than is needed."""
    if kind == "dynamic":
        return DynamicCache(config=model.config)
    static = StaticCache(config=model.config, max_cache_len=16)
    return (
        EncoderDecoderCache(static, DynamicCache(config=model.config)) if model.config.is_encoder_decoder else static
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_decoding_in_steps_of_any_length_gives_what_one_pass_gives(kernel, model_class, side, kind, implementation):
    """With a cache, by steps of 4, 1 and 2 tokens; without a mask of the target, too."""
    model = model_with(implementation, model_class)
    random = torch.Generator().manual_seed(0)
    ids = words(3, 7)
    mask = None if side == "none" else random_mask((3, 4), random, side)
    mask = None if mask is None else torch.cat([mask, torch.ones(3, 3, dtype=torch.long)], dim=1)
    prefix, given_always = "", {}
    if model.config.is_encoder_decoder:
        prefix, source_mask = "decoder_", random_mask((3, 9), random, "right")
        given_always = {"input_ids": words(3, 9), "attention_mask": source_mask}
    with torch.no_grad():
        outputs, cache = [], cache_of(kind, model)
        for start, end in ((0, 4), (4, 5), (5, 7)):
            given = {f"{prefix}input_ids": ids[:, start:end], "past_key_values": cache, **given_always}
            if mask is not None:
                given[f"{prefix}attention_mask"] = mask[:, :end]
            outputs.append(model(**given).logits)
        model.config._attn_implementation = "eager"
        given = {f"{prefix}input_ids": ids, "use_cache": False, **given_always}
        if mask is not None:
            given[f"{prefix}attention_mask"] = mask
        expected = model(**given).logits
    kept = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(torch.cat(outputs, dim=1)[kept], expected[kept], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", FLASH[:1])
@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_flash_attention_generates_what_eager_attention_generates(kernel, model_class, implementation):
    model = model_with("eager", model_class)
    random = torch.Generator().manual_seed(1)
    side = "right" if model.config.is_encoder_decoder else "left"
    inputs = {"input_ids": words(3, 7), "attention_mask": random_mask((3, 7), random, side)}
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    for search in ({"do_sample": False}, {"num_beams": 3}):
        model.config._attn_implementation = "eager"
        expected = model.generate(**inputs, **options, **search)
        model.config._attn_implementation = implementation
        calls = len(kernel)
        generated = model.generate(**inputs, **options, **search)
        assert len(kernel) > calls and generated.sequences.tolist() == expected.sequences.tolist()
        for scores, others in zip(generated.scores, expected.scores, strict=True):
            torch.testing.assert_close(scores, others, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, *LANGUAGE_MODELS[1:]])
def test_flash_attention_learns_what_eager_attention_learns(kernel, model_class):
    """Gradients, too; in bfloat16 the kernel is called with bfloat16; it is told the dropout in training alone."""
    batch = batch_for(model_class)
    batch["attention_mask"][0, 4:] = 0
    batch["labels"][0, 4:] = -100
    gradients = {}
    for implementation in ("eager", "flash_attention_2"):
        model = model_with(implementation, model_class).train()
        model(**batch).loss.backward()
        gradients[implementation] = [parameter.grad for parameter in model.parameters()]
    for gradient, expected in zip(*gradients.values(), strict=True):
        if expected is not None:
            torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)
    model = model_with("flash_attention_2", model_class, attention_dropout=0.25).bfloat16()
    kernel.clear()
    model.train()(**batch)
    assert kernel and all((call.dropout, call.dtype) == (0.25, torch.bfloat16) for call in kernel)
    kernel.clear()
    model.eval()(**batch)
    assert kernel and all(call.dropout == 0 for call in kernel)


# Packed documents


def packed_rows(random: torch.Generator, rows: int, length: int) -> tuple[Tensor, list[list[int]]]:
    """Positions (rows, length) that restart, and the lengths of the documents of each row."""
    lengths = []
    for _ in range(rows):
        cuts = sorted(set(torch.randint(1, length, (2,), generator=random).tolist()))
        lengths.append([end - start for start, end in zip([0, *cuts], [*cuts, length], strict=True)])
    positions = [torch.cat([torch.arange(count) for count in row]) for row in lengths]
    return torch.stack(positions), lengths


@pytest.mark.parametrize("model_class", [VanillaDecoderModel, VanillaEncoderModel])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 3),
    ask=st.sampled_from(["nothing", "mask", "padding", "no cache", "static", "weights", "cu_seq_lens"]),
)
def test_packed_documents_do_not_see_each_other(kernel, model_class, implementation, seed, rows, ask):
    """Whatever else is asked for, each document's states are those that it has in a row of its own."""
    random = torch.Generator().manual_seed(seed)
    model = model_with(implementation, model_class)
    is_decoder = model_class is VanillaDecoderModel
    positions, lengths = packed_rows(random, rows, 9)
    ids, mask, options = words(rows, 9), torch.ones(rows, 9, dtype=torch.long), {"position_ids": positions}
    if ask in ("mask", "padding"):
        options["attention_mask"] = mask
    if ask == "padding":
        mask[0, -lengths[0][-1] :] = 0  # the last document is padding
        mask[-1, 0] = 0
    if ask == "no cache" and is_decoder:
        options["use_cache"] = False
    if ask == "static" and is_decoder:
        options["past_key_values"] = cache_of("static", model)
    if ask == "weights":
        options["output_attentions"] = True
    if ask == "cu_seq_lens":
        borders = torch.tensor([0, *(count for row in lengths for count in row)]).cumsum(0).int()
        options = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": 9, "max_length_k": 9}
    with torch.no_grad():
        states = model(ids, **options).last_hidden_state
        model.config._attn_implementation = "eager"
        for row, counts in enumerate(lengths):
            start = 0
            for count in counts:
                place = slice(start, start + count)
                kept = mask[row, place].bool()
                if kept.any():
                    alone = model(
                        ids[row : row + 1, place],
                        attention_mask=mask[row : row + 1, place],
                        position_ids=positions[row : row + 1, place],
                    ).last_hidden_state[0]
                    torch.testing.assert_close(states[row, place][kept], alone[kept], atol=2e-5, rtol=1e-4)
                start += count


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("positions", [[0, 0, 0, 1, 2, 3], [1, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
def test_positions_of_padding_begin_no_document(kernel, implementation, positions):
    """As `generate` numbers what is padded on the left, and rows with padding between tokens."""
    model = model_with(implementation, VanillaDecoderModel)
    ids, positions = words(1, 6), torch.tensor([positions])
    for mask in ([0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1]):
        mask = torch.tensor([mask])
        with torch.no_grad():
            states = model(ids, attention_mask=mask, position_ids=positions).last_hidden_state
            kept = mask[0].bool()
            alone = model(ids[:, kept], position_ids=positions[:, kept][:, :1] + torch.arange(int(kept.sum())))
        if (positions[0, kept].diff() == 1).all():
            torch.testing.assert_close(states[:, kept], alone.last_hidden_state, atol=2e-5, rtol=1e-4)
    counted = torch.tensor([[0, 1, 1, 2, 2, 3]])
    mask = torch.tensor([[1, 1, 0, 1, 0, 1]])
    with torch.no_grad():
        states = model(ids, attention_mask=mask, position_ids=counted).last_hidden_state[:, mask[0].bool()]
        alone = model(ids[:, mask[0].bool()]).last_hidden_state
    torch.testing.assert_close(states, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("asked", [{}, {"return_flash_attn_kwargs": True}, NO_POSITIONS])
def test_documents_that_collators_join_cost_what_they_cost_alone(kernel, implementation, asked):
    """transformers' own collator, with positions, with borders, or with both; and blocks of `pack_documents`."""
    model = model_with(implementation, VanillaDecoderForCausalLM)
    documents = [words(length) for length in (5, 2, 6)]
    batch = DataCollatorWithFlattening(**asked)([{"input_ids": document.tolist()} for document in documents])
    with torch.no_grad():
        loss, logits = model(**batch, use_cache=True).loss, model(**batch).logits[0]
        packed = pack_documents([document.numpy() for document in documents], 13, 0)
        rows = [dict(zip(packed, row, strict=True)) for row in zip(*packed.values(), strict=True)]
        own = model(**causal_language_model_collator(rows)).loss
        model.config._attn_implementation = "eager"
        alone = [model(document[None]).logits[0] for document in documents]
    torch.testing.assert_close(logits, torch.cat(alone), atol=2e-5, rtol=1e-4)
    losses = [
        torch.nn.functional.cross_entropy(rows[:-1], document[1:], reduction="sum")
        for rows, document in zip(alone, documents, strict=True)
    ]
    torch.testing.assert_close(loss, sum(losses) / 10, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, loss, atol=1e-5, rtol=1e-5)


def test_positions_reach_attention():
    """Implementations that others register look for packed documents by themselves; sources have other positions."""
    seen = []

    def note(module, query, key, value, attention_mask, **options):
        seen.append((module.is_causal, query.shape[2] == key.shape[2], options.get("position_ids")))
        return torch.zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[3]), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(flash_registry(), "noting", note)
        for model_class in (VanillaEncoderModel, VanillaDecoderModel, VanillaModel):
            model = model_with("noting", model_class)
            batch = batch_for(model_class)
            positions = torch.arange(7)[None] + 3
            seen.clear()
            model(**batch, position_ids=positions)
            for is_causal, looks_at_itself, given in seen:
                own = positions if not (is_causal and model.config.is_encoder_decoder) else torch.arange(5)[None]
                assert (given is None) if not looks_at_itself else given.equal(own)


def flash_registry():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS._global_mapping


# Refusals


def test_what_cannot_be_packed_or_continued_is_refused():
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    ids = words(1, 7)
    decoder = small_model(VanillaDecoderForCausalLM)
    with pytest.raises(ValueError, match="packed documents.*row"):
        decoder.generate(ids, position_ids=positions, max_new_tokens=3)
    with pytest.raises(ValueError, match="`position_ids` restart after cached tokens"):
        decoder(ids, position_ids=positions, past_key_values=decoder(ids).past_key_values)
    seq2seq = small_model(VanillaForConditionalGeneration)
    with pytest.raises(ValueError, match="`decoder_position_ids`.*pack targets"):
        seq2seq(input_ids=ids, decoder_input_ids=ids, decoder_position_ids=positions)
    borders = {"cu_seq_lens_q": torch.tensor([0, 3, 7]), "cu_seq_lens_k": torch.tensor([0, 3, 7])}
    with pytest.raises(ValueError, match="`cu_seq_lens_q` pack targets"):
        seq2seq(input_ids=ids, decoder_input_ids=ids, **borders)


@pytest.mark.parametrize("implementation", FLASH)
def test_flash_attention_refuses_what_its_kernels_cannot_do(kernel, implementation):
    for model_class in (VanillaModel, VanillaEncoderModel, VanillaDecoderModel):
        model = model_with(implementation, model_class, qk_head_dim=3)
        with pytest.raises(ValueError, match=f"{implementation}.*`qk_head_dim` 3 and `v_head_dim` 4.*sdpa"):
            model(**batch_for(model_class))
        model = model_with(implementation, model_class)
        batch = batch_for(model_class)
        batch["attention_mask"] = torch.ones(3, 1, 7, 7, dtype=torch.bool)
        with pytest.raises(ValueError, match=rf"{implementation}.*\(batch, length\).*\(3, 1, 7, 7\).*sdpa"):
            model(**batch)


@pytest.mark.parametrize("heads", [1, 4])
def test_flex_attention_reads_boolean_masks(heads):
    """transformers would add them to the scores."""
    model, batch = small_model(VanillaEncoderForMaskedLM), batch_for(VanillaEncoderForMaskedLM, labels=False)
    batch["attention_mask"] = torch.rand(3, heads, 7, 7) < 0.7
    batch["attention_mask"][..., 0] = True
    with torch.no_grad():
        expected = model(**batch).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)
        if heads > 1:
            batch["attention_mask"] = torch.zeros(3, heads, 7, 7)
            with pytest.raises(ValueError, match=r"one added mask for all heads.*\(3, 4, 7, 7\)"):
                model(**batch)
