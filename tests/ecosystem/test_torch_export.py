"""`torch.export` and `torch.compile` of forward passes, each family beside the in-tree model of its size."""

import pytest
import torch
from families import BASES, HEADS, VOCABULARY, batch_for, small_model, words
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from hf_vanilla import VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM, VanillaForConditionalGeneration

PAIRS = {
    "encoder": (VanillaEncoderForMaskedLM, BertForMaskedLM),
    "decoder": (VanillaDecoderForCausalLM, GPT2LMHeadModel),
    "seq2seq": (VanillaForConditionalGeneration, BartForConditionalGeneration),
}
WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24}


def theirs(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    if model_class is BertForMaskedLM:
        config = BertConfig(**WIDTH, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32)
    elif model_class is GPT2LMHeadModel:
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=32)
    else:
        sizes = {"layers": 2, "ffn_dim": 24, "attention_heads": 4}
        sizes = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in sizes.items()}
        config = BartConfig(vocab_size=VOCABULARY, d_model=16, max_position_embeddings=32, **sizes)
    return model_class(config).eval()


def inputs_of(family: str, length: int) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": words(2, length), "attention_mask": torch.ones(2, length, dtype=torch.long)}
    inputs["attention_mask"][0, -2:] = 0
    return inputs | ({"decoder_input_ids": words(2, 5)} if family == "seq2seq" else {})


@pytest.mark.parametrize("owner", ["ours", "theirs"])
@pytest.mark.parametrize("family", PAIRS)
def test_exported_forward_takes_other_lengths(family, owner):
    """The length of the input is left open; padding is given."""
    ours, other = PAIRS[family]
    model = small_model(ours) if owner == "ours" else theirs(other)
    model.config.use_cache = False
    length = torch.export.Dim("length", min=4, max=30)
    shapes = {name: {1: length} if not name.startswith("decoder") else None for name in inputs_of(family, 9)}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs_of(family, 9), dynamic_shapes=shapes, strict=False).module()
        for count in (9, 12, 5):
            inputs = inputs_of(family, count)
            torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_class", [*BASES, *HEADS])
def test_every_model_is_exported(model_class):
    model, inputs = small_model(model_class), batch_for(model_class, labels=False)
    model.config.use_cache = False
    with torch.no_grad():
        outputs = torch.export.export(model, (), inputs, strict=False).module()(**inputs)
        torch.testing.assert_close(outputs[0], model(**inputs)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("owner", ["ours", "theirs"])
@pytest.mark.parametrize("family", PAIRS)
def test_forward_is_one_graph(family, owner):
    """`fullgraph=True` raises where the graph would break."""
    ours, other = PAIRS[family]
    model = small_model(ours) if owner == "ours" else theirs(other)
    inputs = inputs_of(family, 9)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(**inputs, use_cache=False).logits if family != "encoder" else compiled(**inputs).logits,
            model(**inputs).logits,
            atol=1e-5,
            rtol=1e-4,
        )
        if family == "decoder" and owner == "ours":  # packed documents, too
            packed = {"input_ids": words(2, 9), "position_ids": (torch.arange(9) % 4).expand(2, -1)}
            states = compiled(**packed, use_cache=False).logits
            torch.testing.assert_close(states, model(**packed).logits, atol=1e-5, rtol=1e-4)
