"""The fast training step: without padding and without whole logits, and yet the same loss and gradients."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from families import HEADS, LANGUAGE_MODELS, VOCABULARY, batch_for, small_config, small_model, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    VanillaConfig,
    VanillaDecoderForCausalLM,
    VanillaDecoderForTokenClassification,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)
from hf_vanilla.models import fused_loss_vanilla, unpadding_vanilla
from hf_vanilla.models.losses_vanilla import cross_entropy, projected_cross_entropy
from hf_vanilla.models.modeling_vanilla import eager_attention_forward


@pytest.fixture
def unpadded(monkeypatch):
    """The shapes (batch, length) of what had its padding taken out."""
    shapes = []
    remove = unpadding_vanilla.Unpadding.remove

    def note(self, rows):
        if self.is_active:
            shapes.append(tuple(self.shape))
        return remove(self, rows)

    monkeypatch.setattr(unpadding_vanilla.Unpadding, "remove", note)
    return shapes


def loss_and_gradients(model, batch, unpadding=True, **options) -> tuple[Tensor, list[Tensor | None]]:
    worth = unpadding_vanilla.WORTH_IT
    try:
        unpadding_vanilla.WORTH_IT = worth if unpadding else 2
        loss = model(**batch, **options).loss
    finally:
        unpadding_vanilla.WORTH_IT = worth
    return loss, list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def assert_same(model, batch, **options):
    """The fast step's loss and gradients are those of the plain one, which keeps padding and whole logits."""
    fast, whole = ({"output_logits": asked} if type(model) in LANGUAGE_MODELS else {} for asked in (False, True))
    loss, gradients = loss_and_gradients(model, batch, **fast, **options)
    expected_loss, expected = loss_and_gradients(model, batch, unpadding=False, **whole, **options)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        if other is None:
            assert gradient is None or not gradient.any()
        else:
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def with_padding(batch: dict, random: torch.Generator, left: bool) -> dict:
    """Any number of tokens in each row, and labels wherever the batch has them, padding included."""
    for prefix in ("", "decoder_"):
        if f"{prefix}attention_mask" in batch:
            mask = batch[f"{prefix}attention_mask"]
            lengths = torch.randint(1, mask.shape[-1] + 1, mask.shape[:-1], generator=random)
            mask = (torch.arange(mask.shape[-1]) < lengths[..., None]).long()
            batch[f"{prefix}attention_mask"] = mask.flip(-1) if left else mask
    if "labels" in batch and batch["labels"].ndim == 2:
        batch["labels"][torch.rand(batch["labels"].shape, generator=random) < 0.4] = -100
    return batch


@pytest.mark.parametrize("model_class", HEADS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    left=st.booleans(),
    norm_position=st.sampled_from(["post", "pre"]),
    implementation=st.sampled_from(["sdpa", "eager"]),
    empty=st.sampled_from([0, 1, 4]),
)
def test_any_padding_gives_the_loss_and_the_gradients_of_the_plain_step(
    model_class, seed, left, norm_position, implementation, empty
):
    """Also where rows, or all of them, are nothing but padding."""
    random = torch.Generator().manual_seed(seed)
    model = small_model(model_class, norm_position=norm_position, attn_implementation=implementation).train()
    batch = with_padding(batch_for(model_class, batch=4), random, left)
    batch["attention_mask"][:empty] = 0
    assert_same(model, batch)


@pytest.fixture
def plain_masks(monkeypatch):
    """The masks with which attention was by plain products, on a CPU where oneDNN makes those of float32."""
    masks = []

    def note(*args, **kwargs):
        masks.append(args[4])
        return eager_attention_forward(*args, **kwargs)

    monkeypatch.setattr("hf_vanilla.models.modeling_vanilla.eager_attention_forward", note)
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", SimpleNamespace(fp32_precision="tf32"))
    return masks


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("padding", [False, True])
def test_short_rows_attend_by_plain_products_where_onednn_makes_them(model_class, padding, plain_masks, monkeypatch):
    model, batch = small_model(model_class).train(), batch_for(model_class, batch=4)
    if padding:
        batch = with_padding(batch, torch.Generator().manual_seed(0), left=False)
    loss, gradients = loss_and_gradients(model, batch, unpadding=False)
    assert plain_masks and all(mask is None or mask.any(-1).all() for mask in plain_masks)
    plain_masks.clear()
    monkeypatch.setattr(unpadding_vanilla, "SHORT_IN_ONEDNN", 4)
    expected_loss, expected = loss_and_gradients(model, batch, unpadding=False)
    assert not plain_masks
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_sdpa_stays_where_plain_products_would_differ_or_are_not_faster(plain_masks, monkeypatch):
    batch = batch_for(VanillaForConditionalGeneration)
    model = small_model(VanillaForConditionalGeneration)
    model.eval()(**batch)
    model.train()(**batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])})
    assert len(plain_masks) == model.config.decoder_layers  # to sources that are all padding nothing else looks
    plain_masks.clear()
    additive = torch.zeros(batch["input_ids"].shape[0], 1, *batch["decoder_input_ids"].shape[-1:] * 2)
    model(**batch | {"decoder_attention_mask": additive})
    assert len(plain_masks) == model.config.encoder_layers + model.config.decoder_layers  # where masks are boolean
    plain_masks.clear()
    small_model(VanillaForConditionalGeneration).double().train()(**batch)
    monkeypatch.setattr(torch.backends.mkldnn.matmul, "fp32_precision", "ieee")
    model(**batch)
    assert not plain_masks
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    assert plain_masks


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
@pytest.mark.parametrize("mask", [True, False])
def test_a_batch_without_labels_has_a_loss_of_zero(model_class, mask):
    batch = batch_for(model_class)
    batch["labels"][:] = -100
    if not mask:
        batch = {name: value for name, value in batch.items() if not name.endswith("mask")}
    loss, gradients = loss_and_gradients(small_model(model_class).train(), batch)
    assert loss == 0 and not any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_positions_in_another_order_keep_their_labels(model_class):
    batch = {"input_ids": words(2, 5), "labels": words(2, 5)}
    batch["labels"][:, 3:] = -100
    if model_class is VanillaDecoderForCausalLM:
        batch["shift_labels"] = batch.pop("labels")
    assert_same(small_model(model_class).train(), batch, logits_to_keep=torch.tensor([4, 3, 2, 1, 0]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), smoothing=st.sampled_from([0.0, 0.1]), tied=st.booleans())
def test_targets_without_a_mask_end_with_their_last_label(seed, smoothing, tied):
    torch.manual_seed(seed)
    model = small_model(VanillaForConditionalGeneration, tie_word_embeddings=tied).train()
    labels = words(4, 9)
    for row, length in zip(labels, torch.randint(10, (4,)), strict=True):
        row[length:] = -100
    labels[:, 1] = -100  # neither is a prompt padding
    assert_same(model, {"input_ids": words(4, 6), "labels": labels}, label_smoothing=smoothing, num_items_in_batch=11)


@pytest.mark.parametrize("model_class", [head for head in HEADS if head is not VanillaEncoderForQuestionAnswering])
def test_padding_is_left_out(model_class, unpadded):
    model = small_model(model_class).train()
    batch = batch_for(model_class, batch=4)
    model(**batch)
    assert not unpadded
    model(**with_padding(batch, torch.Generator().manual_seed(0), left=False))
    assert unpadded


@pytest.mark.parametrize("asked", [{"output_hidden_states": True}, {"output_attentions": True}, {"use_cache": True}])
def test_what_is_asked_for_comes_with_its_padding(asked, unpadded):
    model = small_model(VanillaForConditionalGeneration)
    batch = with_padding(batch_for(VanillaForConditionalGeneration), torch.Generator().manual_seed(0), left=False)
    expected = model(**batch, **asked)
    output = model.train()(**batch, **asked, output_logits=True)
    assert ("use_cache" in asked) == bool(unpadded)  # the encoder's
    assert output.keys() == expected.keys()
    for name in ("logits", "encoder_last_hidden_state"):
        real = batch["decoder_attention_mask" if name == "logits" else "attention_mask"].bool()
        torch.testing.assert_close(output[name][real], expected[name][real], rtol=1e-5, atol=1e-6)
    for name in ("encoder_hidden_states", "decoder_attentions", "cross_attentions"):
        for state, other in zip(output.get(name) or (), expected.get(name) or (), strict=True):
            torch.testing.assert_close(state, other, rtol=1e-5, atol=1e-6)


def test_states_of_padding_are_those_of_the_plain_step_where_a_user_takes_them(unpadded):
    """A base model does not know what is made of its states."""
    batch = with_padding(batch_for(VanillaEncoderModel), torch.Generator().manual_seed(0), left=False)
    model = small_model(VanillaEncoderModel)
    expected = model(**batch).last_hidden_state
    torch.testing.assert_close(model.train()(**batch).last_hidden_state, expected)
    assert not unpadded


GENERATORS = [*LANGUAGE_MODELS, RecurrentForConditionalGeneration]


@pytest.mark.parametrize("model_class", GENERATORS)
def test_logits_come_with_the_loss_unless_they_are_declined(model_class):
    """By a call, or in training by the configuration, which a call overrules."""
    model, batch = small_model(model_class), batch_for(model_class)
    expected = model(**batch).logits
    for training, in_config, asked in itertools.product((False, True), (None, True, False), (None, True, False)):
        model.config.output_logits = in_config
        output = model.train(training)(**batch, output_logits=asked)
        assert output.loss.isfinite()
        declined = (training and in_config is False) if asked is None else not asked
        assert (output.logits is None) == declined, (training, in_config, asked)
        assert "logits" in output or declined
        if not declined:
            torch.testing.assert_close(output.logits, expected)
        unlabelled = {name: each for name, each in batch.items() if name != "labels"}
        torch.testing.assert_close(model(**unlabelled, output_logits=asked).logits, expected)


@pytest.mark.parametrize("model_class", GENERATORS)
def test_logits_that_come_with_the_loss_are_those_of_all_tokens(model_class):
    """Also of those without a label, and behind the last that has one, with a mask or without."""
    model, batch = small_model(model_class), batch_for(model_class, batch=4)
    for has_mask in (True, False):
        if not has_mask:
            batch = {name: each for name, each in batch.items() if not name.endswith("mask")}
        batch["labels"] = words(*batch["labels"].shape)
        batch["labels"][:, :2] = batch["labels"][:, 3:] = -100
        expected = model.eval()(**batch)
        output = model.train()(**batch)
        torch.testing.assert_close([output.logits, output.loss], [expected.logits, expected.loss])


def test_classes_of_tokens_behind_the_last_label_are_right_in_training():
    model, batch = small_model(VanillaDecoderForTokenClassification), batch_for(VanillaDecoderForTokenClassification)
    del batch["attention_mask"]
    batch["labels"][:, 3:] = -100
    expected = model(**batch).logits
    torch.testing.assert_close(model.train()(**batch).logits, expected)


def test_a_configuration_without_logits_can_be_saved_and_loaded(tmp_path):
    """Though `output_logits` is a parameter of generation, too."""
    model = small_model(VanillaForConditionalGeneration, output_logits=False)
    model.save_pretrained(tmp_path)
    loaded = VanillaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.output_logits is False and not loaded.generation_config.output_logits
    assert loaded.generate(words(2, 5), max_new_tokens=3).shape[0] == 2
    assert VanillaForConditionalGeneration.from_pretrained(tmp_path, output_logits=None).config.output_logits is None


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_activations_computed_twice_give_the_same(model_class):
    model = small_model(model_class).train()
    batch = with_padding(batch_for(model_class, batch=4), torch.Generator().manual_seed(1), left=False)
    for output_logits in (True, False):
        loss, gradients = loss_and_gradients(model, batch, output_logits=output_logits)
        model.gradient_checkpointing_enable()
        again, same = loss_and_gradients(model, batch, output_logits=output_logits)
        torch.testing.assert_close([loss, *gradients], [again, *same])
        for reentrant in (True, False):
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model(**batch, output_logits=output_logits).loss.backward()
            taken = [parameter.grad for parameter in model.parameters()]
            torch.testing.assert_close(taken, gradients)
            model.zero_grad()
        model.gradient_checkpointing_disable()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that anything makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


@pytest.mark.parametrize("output_logits", [True, False])
def test_logits_are_never_held_whole(output_logits, monkeypatch):
    monkeypatch.setattr(fused_loss_vanilla, "CHUNK", 16000)
    model = VanillaForConditionalGeneration(small_config(VanillaConfig, vocab_size=1000)).train()
    with Largest() as largest:
        model(input_ids=words(4, 30), labels=words(4, 30), output_logits=output_logits).loss.backward()
    assert (largest.numel >= 4 * 30 * 1000) is output_logits
    assert output_logits or largest.numel <= 1000 * model.config.hidden_size  # the embeddings


@pytest.fixture
def head():
    torch.manual_seed(0)
    labels = torch.randint(50, (4, 6))
    labels[0, 3:] = labels[2] = -100
    return nn.Linear(8, 50), torch.randn(4, 6, 8, requires_grad=True), labels


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("bias", [True, False])
def test_the_chunked_loss_equals_torch(head, rows, smoothing, bias, monkeypatch):
    monkeypatch.setattr(fused_loss_vanilla, "CHUNK", 4 * 50 * rows)
    linear, states, labels = head
    if not bias:
        linear.bias = None
    inputs = [states, *linear.parameters()]
    loss = projected_cross_entropy(linear, torch.tanh, states, labels, None, smoothing)
    logits = linear(states.tanh()).flatten(0, 1)
    expected = F.cross_entropy(logits, labels.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * expected, inputs, retain_graph=True))
    torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), gradients)  # twice the same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_a_cast_of_the_gradients(head, dtype):
    linear, states, labels = head
    with torch.no_grad():
        states *= 3
    expected = cross_entropy(linear(states), labels, None, 0.1)
    exact = torch.autograd.grad(expected, [states, *linear.parameters()])
    with torch.autocast("cpu", dtype):
        loss = projected_cross_entropy(linear, torch.clone, states, labels, None, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)
    for gradient, other in zip(torch.autograd.grad(loss, [states, *linear.parameters()]), exact, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() < 0.01 * other.norm()


def test_a_projection_that_is_more_than_a_matrix_is_called(head):
    """An adapter, a sharded or quantised layer, a hook: what it does must not be passed over."""
    linear, states, labels = head
    expected = cross_entropy(linear(states) * 2, labels)
    handle = linear.register_forward_hook(lambda module, inputs, output: output * 2)
    torch.testing.assert_close(projected_cross_entropy(linear, torch.clone, states, labels), expected)
    handle.remove()
    called = []
    linear.register_full_backward_hook(lambda *args: called.append(args))
    projected_cross_entropy(linear, torch.clone, states, labels).backward()
    assert called
    adapted = nn.Sequential(linear, nn.Hardtanh(-0.1, 0.1))
    expected = cross_entropy(adapted(states), labels)
    torch.testing.assert_close(projected_cross_entropy(adapted, torch.clone, states, labels), expected)


@pytest.mark.parametrize("frozen", ["weight", "bias", "states"])
def test_what_is_frozen_needs_no_gradient(head, frozen):
    linear, states, labels = head
    tensors = {"weight": linear.weight, "bias": linear.bias, "states": states}
    tensors.pop(frozen).requires_grad_(False)
    loss = projected_cross_entropy(linear, torch.clone, states, labels, None, 0.1)
    expected = cross_entropy(linear(states), labels, None, 0.1)
    inputs = list(tensors.values())
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs))
    with torch.no_grad():
        loss = projected_cross_entropy(linear, torch.clone, states, labels, None, 0.1)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


def test_a_second_derivative_is_refused_or_right(head):
    linear, states, labels = head
    loss = projected_cross_entropy(linear, torch.clone, states, labels)
    with pytest.raises(RuntimeError, match="output_logits=True"):
        torch.autograd.grad(loss, states, create_graph=True)

    def fast(weight):
        head = nn.Linear(8, 50)
        return torch.func.functional_call(Loss(head), {"head.weight": weight}, (states.detach(), labels))

    def plain(weight):
        return F.cross_entropy(F.linear(states.detach(), weight).flatten(0, 1), labels.flatten())

    class Loss(nn.Module):
        def __init__(self, head):
            super().__init__()
            head.bias = None
            self.head = head

        def forward(self, states, labels):
            return projected_cross_entropy(self.head, torch.clone, states, labels)

    gradients = [torch.func.grad(function)(linear.weight.detach()) for function in (fast, plain)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("output_logits", [True, False])
@pytest.mark.parametrize("model_class", GENERATORS)
def test_gradients_that_are_taken_again_are_the_same_whatever_was_done_to_the_first(model_class, output_logits):
    model, batch = small_model(model_class).train(), batch_for(model_class)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model(**batch, output_logits=output_logits).loss
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    kept = [None if each is None else each.clone() for each in first]
    for each in first:
        if each is not None:
            each.mul_(-3)
    for retain in (True, False):
        again = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
        for each, other in zip(again, kept, strict=True):
            assert (each is None) == (other is None)
            if each is not None:
                torch.testing.assert_close(each, other, rtol=0, atol=0)
                each.zero_()


@pytest.mark.parametrize("output_logits", [True, False])
@pytest.mark.parametrize("model_class", GENERATORS)
def test_gradients_of_several_losses_at_once(model_class, output_logits):
    model, batch = small_model(model_class).train(), batch_for(model_class)
    weight = model.lm_head.weight
    expected = torch.autograd.grad(model(**batch, output_logits=output_logits).loss, weight)[0]
    loss, factors = model(**batch, output_logits=output_logits).loss, torch.tensor([1.0, -2.0])
    both = torch.autograd.grad(loss, weight, factors, is_grads_batched=True)[0]
    torch.testing.assert_close(both, torch.stack([expected, -2 * expected]))


@pytest.mark.parametrize("output_logits", [True, False])
@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_functional_gradients_are_those_of_autograd(model_class, output_logits):
    model = small_model(model_class, attn_implementation="eager").train()
    batch, parameters = batch_for(model_class), {name: each.detach() for name, each in model.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(model, parameters, kwargs=batch | {"output_logits": output_logits}).loss

    loss_and_gradients = torch.func.grad_and_value(loss)(parameters)
    model(**batch, output_logits=output_logits).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(loss_and_gradients[0][name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_a_loss_with_logits_has_a_second_derivative(model_class):
    model, batch = small_model(model_class, attn_implementation="eager").train(), batch_for(model_class)
    bias = model.get_decoder().layers[0].feed_forward.linear1.bias
    (gradient,) = torch.autograd.grad(model(**batch).loss, bias, create_graph=True)
    gradient.square().sum().backward()
    assert bias.grad.any()
    with pytest.raises(RuntimeError, match="output_logits=True"):
        torch.autograd.grad(model(**batch, output_logits=False).loss, bias, create_graph=True)


@pytest.mark.parametrize("output_logits", [True, False])
@pytest.mark.parametrize("smoothing", [-0.1, 1.5])
def test_a_smoothing_that_is_no_share_is_refused(output_logits, smoothing):
    model, batch = small_model(VanillaEncoderForMaskedLM).train(), batch_for(VanillaEncoderForMaskedLM)
    with pytest.raises(ValueError, match=r"`label_smoothing` must lie in \[0, 1\]"):
        model(**batch, label_smoothing=smoothing, output_logits=output_logits)


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_labels_of_any_integer_type_give_the_same(model_class):
    model, batch = small_model(model_class).train(), batch_for(model_class)
    expected = model(**batch).loss
    batch["labels"] = batch["labels"].int()
    for output_logits in (True, False):
        torch.testing.assert_close(model(**batch, output_logits=output_logits).loss, expected)


@pytest.mark.parametrize("model_class", HEADS)
def test_a_mask_of_another_shape_is_named_in_training_too(model_class):
    model, batch = small_model(model_class).train(), batch_for(model_class)
    batch["attention_mask"] = batch["attention_mask"].flatten()[:7]
    with pytest.raises(ValueError, match="`attention_mask` must be"):
        model(**batch)


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_a_compiled_step_is_compiled_once(model_class):
    """Though the number of labels in an update varies, as `hf-vanilla train` and `Trainer` give it."""
    model = small_model(model_class).train()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=True)
    graphs = []
    for number in (100, 101, 102):
        batch = batch_for(model_class)
        loss = compiled(**batch, num_items_in_batch=number, label_smoothing=0.1).loss
        torch.testing.assert_close(loss, model(**batch, num_items_in_batch=number, label_smoothing=0.1).loss)
        graphs.append(counter.frame_count)
    assert graphs[1] == graphs[2]


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS, ids=lambda model_class: model_class.__name__)
def test_with_the_loss_beside_it_the_compiled_model_is_one_graph_for_all_shapes(model_class, monkeypatch):
    """As `hf-vanilla train` compiles it: the loss still never holds all logits."""
    chunks = []
    apply = fused_loss_vanilla.LinearCrossEntropy.apply
    monkeypatch.setattr(
        fused_loss_vanilla.LinearCrossEntropy, "apply", lambda *inputs: chunks.append(1) or apply(*inputs)
    )
    model, other = small_model(model_class).train(), small_model(model_class).train()
    counter = CompileCounter()
    model.base_model.compile(dynamic=True, backend=counter)
    options = {"num_items_in_batch": 100, "output_logits": False}
    graphs = []
    for rows, length in ((3, 7), (4, 9), (5, 6), (6, 11)):
        batch = batch_for(model_class, rows, length)
        loss, expected = model(**batch, **options).loss, other(**batch, **options).loss
        torch.testing.assert_close(loss, expected)
        loss.backward()
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1 and graphs[0] <= 1 and len(chunks) == 8


def test_without_labels_the_loss_is_zero_and_so_is_the_gradient(head):
    linear, states, labels = head
    loss = projected_cross_entropy(linear, torch.clone, states, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0 and not linear.weight.grad.any() and not states.grad.any()


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_wrong_labels_are_named_in_training_too(model_class):
    model, batch = small_model(model_class).train(), batch_for(model_class)
    batch["labels"][0, 1] = VOCABULARY
    with pytest.raises(ValueError, match=rf"`labels` must lie in \[0, {VOCABULARY}\)"):
        model(**batch)
    batch["labels"] = words(2, 3)
    with pytest.raises(ValueError, match="`labels` must be"):
        model(**batch)
