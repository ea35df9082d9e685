"""PEFT's adapters around single layers: a wrapper has no attributes of the layer, and looks rows up by itself."""

import copy
from typing import Any

import pytest
import torch
from families import MODELS, batch_for, small_model
from torch import Tensor, nn

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    RecurrentModel,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)

peft: Any = pytest.importorskip("peft")

LEARNED = {"position_embedding_type": "learned", "position_offset": 2}
# After merging, a shared matrix has the adapters of each that shares it: so does PEFT with models of transformers.
UNTIED = {"tie_word_embeddings": False}
CASES: list[tuple[type, dict[str, Any]]] = [(each, UNTIED) for each in MODELS]
CASES += [(each, UNTIED | LEARNED) for each in (VanillaForConditionalGeneration, VanillaEncoderForMaskedLM)]
CASES += [(VanillaDecoderForCausalLM, UNTIED | LEARNED | {"norm_position": "pre"})]
CASES += [(VanillaEncoderModel, LEARNED | {"type_vocab_size": 2, "add_pooling_layer": True})]
CASES += [(RecurrentModel, UNTIED)]
CASES += [
    (RecurrentForConditionalGeneration, UNTIED | {"attention_type": kind} | more)
    for kind, more in (("none", {}), ("additive", {}), ("general", {"input_feeding": True}), ("local", {}))
]


def result(output: Any) -> Tensor:
    """What can be compared of a model's output."""
    names = ("logits", "start_logits", "pooler_output", "last_hidden_state")
    return next(output[name] for name in names if output.get(name) is not None)


def names_of(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kind)}
    return sorted(found)


def adapt(model: nn.Module, config: Any) -> Any:
    """The model with adapters that have an effect, in evaluation mode."""
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    torch.manual_seed(3)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    return adapted


def check(model: nn.Module, batch: dict[str, Any], config: Any) -> None:
    """Adapters change the result, get gradients in training, with all logits and without, and can be merged."""
    adapted = adapt(model, config)
    expected = result(adapted(**batch))
    assert not torch.allclose(expected, result(model(**batch)), rtol=0, atol=1e-6)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    declined = [{}, {"output_logits": False}] if model.can_generate() else [{}]
    gradients = []
    for options in declined:
        output = adapted.train()(**batch, **options)
        loss = output["loss"] if "loss" in output else result(output).square().mean()
        gradients.append(torch.autograd.grad(loss, trained, allow_unused=True))
        assert any(each is not None and each.any() for each in gradients[-1])
    torch.testing.assert_close(gradients[0], gradients[-1], rtol=1e-3, atol=1e-5)
    merged = adapted.eval().merge_and_unload()
    torch.testing.assert_close(result(merged(**batch)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model_class", "fields"), CASES)
def test_each_layer_may_be_adapted(model_class, fields):
    model, batch = small_model(model_class, initializer_range=0.3, **fields), batch_for(model_class)
    for name in [*names_of(model, nn.Linear), *names_of(model, nn.Embedding)]:
        if name in ("dense",) and model_class is VanillaEncoderModel:
            continue  # the pooler, whose output stands beside what the others change
        check(model, batch, peft.LoraConfig(target_modules=[name], r=2))
    check(model, batch, peft.LoraConfig(target_modules="all-linear", r=2, use_dora=True))
    check(model, batch, peft.LoraConfig(target_modules="all-linear", modules_to_save=["embed_tokens"], r=2))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("model_class", [*MODELS, RecurrentModel, RecurrentForConditionalGeneration])
def test_embeddings_of_single_tokens_may_be_trained(model_class, ties):
    model, batch = small_model(model_class, tie_word_embeddings=ties), batch_for(model_class)
    tokens = batch["input_ids"].flatten()[:3].unique().tolist()
    check(model, batch, peft.TrainableTokensConfig(token_indices=tokens))
    if not ties or not model.config.is_encoder_decoder:  # PEFT wraps a shared one twice, in Marian, too
        check(model, batch, peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=tokens))
        options = {"r": 2, "trainable_token_indices": {"embed_tokens": tokens}}
        check(model, batch, peft.LoraConfig(target_modules="all-linear", **options))


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_an_adapter_of_positions_is_of_the_rows_that_they_are(model_class):
    """With `position_offset`, the row of position 0 is not the first."""
    model, batch = small_model(model_class, **LEARNED), batch_for(model_class)
    adapted = adapt(model, peft.LoraConfig(target_modules=["embed_positions"], r=2))
    tables = [module for module in adapted.modules() if isinstance(module, peft.tuners.lora.Embedding)]
    for table in tables:  # an adapter of the rows before those of positions
        with torch.no_grad():
            table.lora_embedding_A["default"][:, 2:] = 0
    assert tables
    torch.testing.assert_close(result(adapted(**batch)), result(model(**batch)))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_layer_may_be_trained_beside_adapters(cell):
    model = small_model(RecurrentForConditionalGeneration, cell_type=cell)
    batch = batch_for(RecurrentForConditionalGeneration)
    check(model, batch, peft.LoraConfig(target_modules=["initial_proj"], modules_to_save=["layers.0"], r=2))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("kind", ["none", "additive", "dot"])
def test_a_pruned_recurrent_layer_has_the_weights_of_its_mask(cell, kind):
    """torch computes them before each call of the layer, of which a step of the decoder is one."""
    from torch.nn.utils import prune

    model = small_model(RecurrentForConditionalGeneration, cell_type=cell, attention_type=kind)
    batch, expected = batch_for(RecurrentForConditionalGeneration), copy.deepcopy(model)
    for stack, other in ((model.model.encoder, expected.model.encoder), (model.model.decoder, expected.model.decoder)):
        prune.l1_unstructured(stack.layers[0], "weight_hh_l0", amount=0.5)
        stack.layers[0].weight_hh_l0_orig.data *= 2  # after pruning, as an optimiser changes it
        other.layers[0].weight_hh_l0.data *= 2 * stack.layers[0].weight_hh_l0_mask
    for training in (False, True):
        batches = [batch, batch | {"attention_mask": batch["attention_mask"].index_fill(1, torch.tensor([6]), 0)}]
        for each in batches:
            pruned, plain = model.train(training)(**each), expected.train(training)(**each)
            torch.testing.assert_close(pruned.logits, plain.logits)
    options = {"max_new_tokens": 4, "do_sample": False}
    ids = batch["input_ids"]
    assert torch.equal(model.eval().generate(ids, **options), expected.eval().generate(ids, **options))
