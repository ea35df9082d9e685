"""The path of GPUs without one: on torch's `meta` device, where tensors have shapes and no values. Each operation for
which a host would wait for its device is noted, or an error there."""

import contextlib
import copy
from unittest import mock

import pytest
import torch
from families import HEADS, LANGUAGE_MODELS, batch_for, small_model, words
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BatchEncoding

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
    VanillaForConditionalGeneration,
)
from hf_vanilla.data.collators import Counted, TranslationCollator, causal_language_model_collator, pack_documents
from hf_vanilla.models import fused_loss_vanilla, losses_vanilla, masks_vanilla, modeling_vanilla, unpadding_vanilla
from hf_vanilla.models.fused_loss_vanilla import CHUNK, LinearCrossEntropy, chunk_bytes, memory_of

LENGTHS = (9, 5, 7, 3)
# Their positions count tokens, which the host looks at: they may tell documents apart.
COUNTING = (VanillaDecoderForSequenceClassification, VanillaDecoderForTokenClassification)
# The host needs their results, or how large they are.
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_consecutive", "_unique2"}


class Waits(TorchDispatchMode):
    """Notes the operations for which a host waits."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        by_mask = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        to_host = name == "_to_copy" and args[0].is_meta and (kwargs or {}).get("device") == torch.device("cpu")
        if name in WAITING or by_mask or to_host:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


class Tokenizer:
    pad_token_id, padding_side = 0, "right"


def collated(head, model, row_lengths=False):
    """A batch of rows of unequal lengths, as the training loop makes it for this head."""
    torch.manual_seed(0)
    rows = [words(1, length)[0].numpy() for length in LENGTHS]
    if head is VanillaForConditionalGeneration:
        pairs = [{"input_ids": row, "labels": other} for row, other in zip(rows, rows[::-1], strict=True)]
        return Counted(TranslationCollator(Tokenizer, model), row_lengths=row_lengths)(pairs)
    if head is VanillaDecoderForCausalLM:
        blocks = pack_documents(rows, 8, 0)
        names = blocks.keys()
        examples = [dict(zip(names, row, strict=True)) for row in zip(*blocks.values(), strict=True)]
        return Counted(causal_language_model_collator, next_tokens=True)(examples)

    def masked(rows):
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
        labels = ids.masked_fill((ids == 0) | (torch.arange(ids.shape[1]) % 3 != 1), -100)
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels})

    return Counted(masked, row_lengths=row_lengths)(rows)


class Kernel:
    """Stands in for kernels of GPUs that take rows of unequal lengths: equation 1, one segment after the other."""

    def __init__(self, monkeypatch):
        self.calls = 0
        for module in (unpadding_vanilla, masks_vanilla):
            monkeypatch.setattr(module, "host_runs_ahead", lambda states: True)
            monkeypatch.setattr(module, "takes_segments", lambda config, states: True)
        monkeypatch.setattr(unpadding_vanilla, "varlen_attn", self)

    def __call__(self, query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
        self.calls += 1
        assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q.is_meta == query.is_meta
        assert query.ndim == 3 and len(cu_q) == len(cu_k)
        if query.is_meta:
            return query.new_empty(*query.shape[:2], value.shape[2])
        sizes, key_sizes = cu_q.diff().tolist(), cu_k.diff().tolist()
        assert (max(sizes), max(key_sizes)) == (max_q, max_k)
        assert (sum(sizes), sum(key_sizes)) == (len(query), len(key)) == (int(cu_q[-1]), int(cu_k[-1]))
        outputs = []
        for q, k, v in zip(query.split(sizes), key.split(key_sizes), value.split(key_sizes), strict=True):
            scores = torch.einsum("qhd,khd->hqk", q, k) * scale
            if window_size == (-1, 0):
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
        return torch.cat(outputs)


def loss_and_gradients(model, batch, **options):
    counts = {"num_items_in_batch": batch["counts"]["tokens"]}
    inputs = {name: value for name, value in batch.items() if name != "counts"}
    loss = model(**inputs, **counts, **options, output_logits=False).loss
    return loss, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_what_the_host_counts_changes_no_loss_and_no_gradient(head):
    model = small_model(head).train()
    batch = collated(head, model)
    known = ("loss_places", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    unknown = BatchEncoding({name: value for name, value in batch.items() if name not in known})
    assert batch["counts"]["tokens"] == len(batch["loss_places"])
    assert batch["counts"]["filled"] <= batch["counts"]["slots"]
    assert "loss_places" in batch and "loss_places" not in unknown
    (loss, gradients), (expected, wanted) = (loss_and_gradients(model, each) for each in (batch, unknown))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for own, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)


def test_blocks_that_hold_a_document_each_need_no_mask():
    rows = [{"input_ids": words(1, 8)[0].numpy(), "position_ids": torch.arange(8).numpy()} for _ in range(3)]
    batch = Counted(causal_language_model_collator, next_tokens=True)(rows)
    assert batch.keys() == {"input_ids", "labels", "loss_places", "counts"}
    several = [rows[0], rows[1] | {"position_ids": (torch.arange(8) % 5).numpy()}]
    packed = Counted(causal_language_model_collator, next_tokens=True)(several)
    assert packed["cu_seq_lens_q"].tolist() == [0, 8, 13, 16] and packed["max_length_k"] == 8


@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_no_forward_and_no_backward_pass_waits_for_the_device(head, monkeypatch):
    monkeypatch.setattr(losses_vanilla, "find_obstacle", lambda *args, **options: None)  # weights on `meta` are one
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    model = small_model(head, dropout=0.1).train()
    batch = collated(head, model)
    device = copy.deepcopy(model).to("meta")
    on_device = copy.copy(batch).to("meta")
    assert on_device["input_ids"].is_meta and isinstance(on_device["counts"], dict)
    with Waits() as waits:
        loss, gradients = loss_and_gradients(device, on_device, label_smoothing=0.1)
    assert not waits.seen
    assert loss.is_meta and all(gradient.is_meta for gradient in gradients if gradient is not None)
    # The host has to ask for what a batch does not tell it.
    unknown = BatchEncoding({name: value for name, value in on_device.items() if name != "loss_places"})
    with Waits() as waits, contextlib.suppress(RuntimeError):
        loss_and_gradients(device, unknown)
    assert "nonzero" in waits.seen


@pytest.mark.parametrize("changes", [{}, {"norm_position": "pre"}, {"position_embedding_type": "learned"}])
@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_kernels_of_gpus_train_as_padded_rows_do(head, changes, monkeypatch):
    model = small_model(head, initializer_range=0.2, **changes).train()
    batch = collated(head, model, row_lengths=True)
    plain = BatchEncoding({name: value for name, value in batch.items() if name != "row_lengths"})
    with mock.patch.object(modeling_vanilla, "find_unpadding", return_value=unpadding_vanilla.Unpadding()):
        expected, wanted = loss_and_gradients(model, plain)
    kernel = Kernel(monkeypatch)
    for name in {"input_ids", "decoder_input_ids"} & batch.keys():  # what stands in place of padding is not looked at
        batch[name] = torch.where(batch[name] == 0, words(*batch[name].shape), batch[name])
    loss, gradients = loss_and_gradients(model, batch)
    assert kernel.calls == (6 if head is VanillaForConditionalGeneration else 2)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for own, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_kernels_of_gpus_wait_for_nothing(head, monkeypatch):
    monkeypatch.setattr(losses_vanilla, "find_obstacle", lambda *args, **options: None)  # weights on `meta` are one
    monkeypatch.setattr(unpadding_vanilla, "find_obstacle", lambda *args, **options: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    kernel = Kernel(monkeypatch)
    model = small_model(head, dropout=0.1).train()
    batch = collated(head, model, row_lengths=True).to("meta")
    with Waits() as waits:
        loss_and_gradients(model.to("meta"), batch, label_smoothing=0.1)
    assert not waits.seen and kernel.calls == (6 if head is VanillaForConditionalGeneration else 2)


def test_logits_that_are_returned_are_of_all_positions_whatever_lengths_are_given(monkeypatch):
    head = VanillaForConditionalGeneration
    model = small_model(head).train()
    batch = collated(head, model, row_lengths=True)
    lengths, _ = batch.pop("row_lengths"), batch.pop("counts")
    expected = model(**batch, output_logits=True).logits
    kernel = Kernel(monkeypatch)
    found = model(**batch, output_logits=True, row_lengths=lengths).logits
    assert kernel.calls == 0 and found[-1].abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": (9, 5, 7, 4)},  # the last has 3
        {"source": (9, 5, 7)},
        {"source": (10, 5, 7, 3)},
        {"source": (9, 5, 7, 3), "target": (3, 7, 5, 8)},
    ],
)
def test_lengths_that_are_not_those_of_the_rows_are_refused(wrong):
    model = small_model(VanillaForConditionalGeneration).train()
    batch = collated(VanillaForConditionalGeneration, model, row_lengths=True)
    assert batch["row_lengths"] == {"source": (9, 5, 7, 3), "target": (3, 7, 5, 9)}
    with pytest.raises(ValueError, match="`row_lengths` of the (source|target) must be"):
        loss_and_gradients(model, BatchEncoding(dict(batch) | {"row_lengths": wrong}))


def test_lengths_of_one_side_alone_are_refused_where_they_would_count(monkeypatch):
    model = small_model(VanillaForConditionalGeneration).train()
    batch = collated(VanillaForConditionalGeneration, model, row_lengths=True)
    Kernel(monkeypatch)
    for side in ("source", "target"):
        own = BatchEncoding(dict(batch) | {"row_lengths": {side: batch["row_lengths"][side]}})
        with pytest.raises(ValueError, match="`row_lengths` must be of source and target"):
            loss_and_gradients(model, own)


def test_rows_that_are_padded_in_front_have_no_lengths():
    class Left(Tokenizer):
        padding_side = "left"

    model = small_model(VanillaForConditionalGeneration)
    rows = [{"input_ids": words(1, n)[0].numpy(), "labels": words(1, n)[0].numpy()} for n in LENGTHS]
    assert "row_lengths" not in Counted(TranslationCollator(Left, model), row_lengths=True)(rows)


@pytest.mark.parametrize(
    "changes, takes",
    [
        ({}, True),
        ({"attention_dropout": 0.1}, False),
        ({"v_head_dim": 16}, False),
        ({"num_attention_heads": 4}, False),
    ],
)
def test_the_kernel_of_torch_is_used_for_what_it_computes_alone(changes, takes, monkeypatch):
    """It takes half precision and heads of one size, a multiple of 8, and drops no weights of attention."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = small_model(VanillaForConditionalGeneration, **({"num_attention_heads": 2} | changes)).config
    config._attn_implementation = "sdpa"
    states = mock.Mock(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert unpadding_vanilla.takes_segments(config, states) == takes
    states.dtype = torch.float32
    assert not unpadding_vanilla.takes_segments(config, states)
    assert not unpadding_vanilla.takes_segments(config, torch.zeros(1, 2, 16, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", [head for head in HEADS if head not in COUNTING], ids=lambda head: head.__name__)
def test_all_that_a_head_makes_is_on_its_device_and_of_its_type(head, dtype):
    model = small_model(head, dropout=0.1, norm_position="pre").train().to("meta", dtype)
    batch = {name: each.to("meta") for name, each in batch_for(head).items()}
    outputs = model(**batch, output_hidden_states=True)
    loss = outputs.loss
    assert loss.is_meta and loss.dtype == torch.float32
    loss.backward()
    assert all(weight.grad is None or weight.grad.dtype == dtype for weight in model.parameters())
    tensors = [each for value in outputs.values() for each in (value if isinstance(value, tuple) else (value,))]
    tensors = [each for each in tensors if isinstance(each, torch.Tensor) and each is not loss]
    assert len(tensors) > 2 and all(each.is_meta and each.dtype == dtype for each in tensors)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_masks_of_gpus_are_those_of_cpus(head, padding_side):
    model = small_model(head, initializer_range=0.3).eval()
    batch = batch_for(head, labels=False)
    for name in {"attention_mask", "decoder_attention_mask"} & batch.keys():
        batch[name][1, -2:] = batch[name][2, -4:] = 0
        batch[name] = batch[name].flip(1) if padding_side == "left" else batch[name]
    expected = model(**batch, use_cache=False).logits
    with mock.patch.object(masks_vanilla, "host_runs_ahead", return_value=True) as asked:
        found = model(**batch, use_cache=False).logits
    assert asked.call_count == (3 if head is VanillaForConditionalGeneration else 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    mask, states = batch["attention_mask"], torch.zeros(3, 7, 16, device="meta")
    wide = masks_vanilla.of_every_query(mask, states, model.config, "Decoder" in head.__name__)
    assert wide.shape == (3, 1, 7, 7)


def test_loss_places_that_are_not_those_of_the_labels_are_refused():
    model = small_model(VanillaForConditionalGeneration).train()
    batch = collated(VanillaForConditionalGeneration, model)
    for wrong in (batch["loss_places"][:-1], batch["loss_places"] * 0, batch["loss_places"].flip(0)):
        with pytest.raises(ValueError, match="`loss_places` must be where in all positions"):
            loss_and_gradients(model, BatchEncoding(dict(batch) | {"loss_places": wrong}))


def test_chunks_of_the_loss_grow_with_the_memory_of_the_gpu():
    gib = 2**30
    sizes = {memory: chunk_bytes(memory * gib) for memory in (0, 8, 16, 24, 80, 141)}
    assert sizes == {0: 2**25, 8: 2**25, 16: 2**25, 24: 2**25, 80: 2**27, 141: 2**28}
    assert memory_of(torch.device("cpu")) == 0 and CHUNK == 2**25


def test_the_gradients_of_the_loss_do_not_overflow_in_float16(monkeypatch):
    """100,000 rows that all pull at the same weights by 1: their sum is beyond 65,504."""
    rows, classes = 100_000, 2
    monkeypatch.setattr(fused_loss_vanilla, "CHUNK", 2**30)
    states = torch.ones(rows, 4, dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[0.0] * 4, [8.0] * 4], dtype=torch.float16, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float16, requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.long)
    loss = LinearCrossEntropy.apply(states, weight, bias, labels, rows, 0.0, True)
    gradients = torch.autograd.grad(loss, (states, weight, bias))
    assert loss.item() == pytest.approx(32, rel=1e-3)
    torch.testing.assert_close(gradients[1], torch.tensor([[-1.0] * 4, [1.0] * 4], dtype=torch.float16))
    torch.testing.assert_close(gradients[2], torch.tensor([-1.0, 1.0], dtype=torch.float16))


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-3])
def test_small_gradients_keep_their_digits_in_float16(size):
    """16,384 rows of small states: what keeps large sums from overflowing must not round small ones to nothing."""
    torch.manual_seed(0)
    states, weight, labels = torch.randn(16_384, 16) * size, torch.randn(30, 16) / 4, torch.randint(30, (16_384,))
    gradients = []
    for dtype in (torch.float16, torch.float32):
        own = weight.to(dtype).float().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):
            loss = LinearCrossEntropy.apply(states.to(torch.float16).to(dtype), own, None, labels, 16_384, 0.1, True)
        gradients.append(torch.autograd.grad(loss, own)[0])
    assert (gradients[0] - gradients[1]).norm() < 0.005 * gradients[1].norm()


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_in_float16_gradients_are_those_of_float32(rows):
    torch.manual_seed(0)
    states, weight, labels = torch.randn(rows, 16), torch.randn(30, 16) / 4, torch.randint(30, (rows,))
    found = []
    for dtype in (torch.float16, torch.float32):
        given = [each.to(dtype).requires_grad_() for each in (states, weight)]
        loss = LinearCrossEntropy.apply(*given, None, labels, rows, 0.1, True)
        found.append([loss, *(each.float() for each in torch.autograd.grad(loss, given))])
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=0.02, atol=2e-3)
