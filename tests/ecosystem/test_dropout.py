"""Dropout as others handle it: a module, whose rate they set (TRL's trainers to 0) or which they switch by itself."""

from typing import Any

import pytest
import torch
from families import MODELS, VOCABULARY, batch_for, small_config, small_model, words
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    RecurrentModel,
    VanillaDecoderModel,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForSequenceClassification,
    VanillaForConditionalGeneration,
)
from hf_vanilla.models.modeling_vanilla import eager_attention_forward
from hf_vanilla.models.unpadding_vanilla import Dropout

RATES = {"dropout": 0.4, "attention_dropout": 0.3, "activation_dropout": 0.3}
RECURRENT = [RecurrentModel, RecurrentForConditionalGeneration]
CASES: list[tuple[type, dict[str, Any]]] = [(each, RATES) for each in MODELS]
CASES += [(each, RATES | {"norm_position": "pre", "embedding_norm": True}) for each in MODELS[:3]]
CASES += [
    (RecurrentForConditionalGeneration, {"dropout": 0.4, "cell_type": cell, "attention_type": kind} | more)
    for cell in ("lstm", "gru")
    for kind, more in (("none", {}), ("additive", {}), ("dot", {"input_feeding": True}), ("local", {}), ("concat", {}))
]
CASES += [(RecurrentModel, {"dropout": 0.4})]


def with_heads(model_class: type, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with dropout in the head where there is one that classifies."""
    has_rate = hasattr(small_config(model_class.config_class), "classifier_dropout")
    return fields | ({"classifier_dropout": 0.3} if has_rate else {})


CASES = [
    (each, with_heads(each, fields) | implementation)
    for each, fields in CASES
    for implementation in (
        [{}] if each in RECURRENT else [{"attn_implementation": name} for name in ("eager", "sdpa")]
    )
]


def tensors(output: Any) -> list[Tensor]:
    return [each for each in output.values() if isinstance(each, Tensor)]


def padded(batch: dict[str, Any]) -> dict[str, Any]:
    """With padding behind the tokens of the first row."""
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in batch:
            batch[name] = batch[name].clone()
            batch[name][0, ..., 3:] = 0
    return batch


def dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [module for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(("model_class", "fields"), CASES)
def test_a_rate_of_zero_switches_dropout_off(model_class, fields):
    model = small_model(model_class, **fields).train()
    batch = padded(batch_for(model_class, batch=4))
    assert dropouts(model)
    pairs = zip(tensors(model(**batch)), tensors(model(**batch)), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)
    for module in dropouts(model):
        module.p = 0
    first, second = model(**batch), model(**batch)
    torch.testing.assert_close(tensors(first), tensors(second), rtol=0, atol=0)
    if "loss" in first:
        torch.testing.assert_close(first.loss, model.eval()(**batch).loss)


@pytest.mark.parametrize(("model_class", "fields"), CASES)
def test_a_module_in_evaluation_drops_nothing(model_class, fields):
    model = small_model(model_class, **fields).train()
    for module in dropouts(model):
        module.eval()
    batch = batch_for(model_class)
    torch.testing.assert_close(tensors(model(**batch)), tensors(model(**batch)), rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dropout_alone_in_training_drops(implementation):
    """As for estimates of a model's uncertainty from what it answers with dropout (Gal and Ghahramani, 2016)."""
    model = small_model(VanillaDecoderModel, attention_dropout=0.5, attn_implementation=implementation)
    batch = batch_for(VanillaDecoderModel)
    expected = model(**batch)[0]
    for module in dropouts(model):
        module.train()
    assert not torch.equal(model(**batch)[0], expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("place", ["dropout", "attention_dropout", "activation_dropout"])
def test_any_other_rate_is_honoured(place, implementation):
    """Of a model that was made without: where it is set to 1, nothing comes through."""
    model = small_model(VanillaForConditionalGeneration, attn_implementation=implementation).train()
    batch = batch_for(VanillaForConditionalGeneration, labels=False)
    layer = model.model.decoder.layers[0]
    parts = {"dropout": layer.feed_forward_norm, "attention_dropout": layer.self_attention}
    part = parts.get(place, layer.feed_forward)
    before = model(**batch).logits
    part.dropout.p = 1.0
    silenced = model(**batch).logits
    assert not torch.allclose(silenced, before)
    # What that leaves of a sub-layer is its last bias, or with its own dropout nothing.
    last = {"dropout": layer.feed_forward.linear2, "attention_dropout": layer.self_attention.o_proj}
    with torch.no_grad():
        last.get(place, layer.feed_forward.linear2).weight.zero_()
        if place == "dropout":
            last[place].bias.zero_()
    part.dropout.p = 0.0
    torch.testing.assert_close(model(**batch).logits, silenced)


def test_any_attention_function_gets_the_rate_of_the_module(monkeypatch):
    """Such as those that run on GPUs alone."""
    rates = []

    def note(module, query, key, value, attention_mask, dropout=0.0, **kwargs):
        rates.append(dropout)
        return eager_attention_forward(module, query, key, value, None, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "noted", note)
    model = small_model(VanillaDecoderModel, attention_dropout=0.5, attn_implementation="noted").train()
    batch = batch_for(VanillaDecoderModel)
    model(**batch)
    model.layers[0].self_attention.dropout.p = 0.0
    model(**batch)
    model.eval()(**batch)
    assert rates == [0.5, 0.5, 0.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("p", [0, 0.0, 0.25, 1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_torch_has_at_any_rate(p, dtype):
    states = torch.ones(100, 100, dtype=dtype)
    output = Dropout(p)(states)
    assert output.dtype == dtype
    dropped = (output == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=0.03)
    assert output.float().mean().item() == pytest.approx(1 if p < 1 else 0, abs=0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


@pytest.mark.parametrize(
    "model_class", [VanillaEncoderForSequenceClassification, VanillaForConditionalGeneration, *RECURRENT]
)
def test_it_adds_nothing_to_a_checkpoint(model_class):
    assert not any("dropout" in name for name in small_model(model_class).state_dict())


@pytest.mark.parametrize("length", [9, 80])
def test_attention_without_padding_has_the_rate_of_its_module(length):
    """For rows that get their padding back for attention, and for long ones, which are attended to one by one."""
    config = small_config(
        VanillaEncoderForMaskedLM.config_class, max_position_embeddings=length, attention_dropout=0.5
    )
    model = VanillaEncoderForMaskedLM(config).train()
    ids = words(3, length)
    mask = (torch.arange(length) < torch.tensor([[length], [length // 2], [3]])).long()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids % VOCABULARY, "output_logits": False}
    assert model(**batch).loss != model(**batch).loss
    for module in dropouts(model):
        module.p = 0.0
    assert model(**batch).loss == model(**batch).loss
