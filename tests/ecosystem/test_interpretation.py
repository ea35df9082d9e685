"""Captum and bertviz on small models, beside in-tree ones of the same size."""

import re

import pytest
import torch
from families import small_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MarianConfig,
    MarianMTModel,
)

from hf_vanilla import (
    VanillaDecoderForSequenceClassification,
    VanillaEncoderForSequenceClassification,
    VanillaForConditionalGeneration,
    train_tokenizer,
)

SIZES = {"vocab_size": 300, "max_position_embeddings": 64}
IN_TREE = {"vocab_size": 300, "num_labels": 4, "pad_token_id": 0}


def classifiers():
    yield small_model(VanillaEncoderForSequenceClassification, **SIZES)
    yield small_model(VanillaDecoderForSequenceClassification, **SIZES)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    yield BertForSequenceClassification(BertConfig(**sizes, **IN_TREE)).eval()
    yield GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=2, n_head=4, **IN_TREE)).eval()


@pytest.mark.parametrize("model", classifiers(), ids=lambda model: type(model).__name__)
def test_integrated_gradients_add_up_to_the_difference(model):
    """Sundararajan et al. (2017), arXiv:1703.01365: what the tokens contribute is the logit less the baseline's."""
    attr = pytest.importorskip("captum.attr")

    def logit(ids, mask):
        return model(input_ids=ids, attention_mask=mask).logits[:, 1]

    ids = torch.randint(4, 300, (2, 6))
    mask, baseline = torch.ones_like(ids), torch.full_like(ids, 3)
    explained = attr.LayerIntegratedGradients(logit, model.get_input_embeddings())
    found = explained.attribute(ids, baseline, additional_forward_args=(mask,), n_steps=200)
    assert found.shape == (2, 6, 16)
    with torch.no_grad():
        expected = logit(ids, mask) - logit(baseline, mask)
    torch.testing.assert_close(found.sum((1, 2)).float(), expected, atol=2e-3, rtol=1e-2)


def data_of(page):
    """The weights that a page of bertviz holds."""
    return [float(number) for number in re.findall(r"0\.\d+", page)]


@pytest.mark.parametrize("view", ["head_view", "model_view"])
def test_bertviz_shows_our_attention(view):
    bertviz = pytest.importorskip("bertviz")
    pytest.importorskip("IPython")

    show, tokenizer = getattr(bertviz, view), train_tokenizer(["a b c d"] * 3, 300, "encoder")
    ids = tokenizer("a b c", return_tensors="pt")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids[0])
    for model in classifiers():
        model.set_attn_implementation("eager")
        output = model(ids, output_attentions=True)
        page = show(output.attentions, tokens, html_action="return").data
        first = output.attentions[0][0, 0, -1, 0].item()
        assert any(abs(shown - first) < 1e-6 for shown in data_of(page))
    ours = small_model(VanillaForConditionalGeneration, **SIZES)
    fields = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    fields |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0, **SIZES}
    for model in (ours, MarianMTModel(MarianConfig(**fields, decoder_start_token_id=1)).eval()):
        model.set_attn_implementation("eager")
        output = model(ids, decoder_input_ids=ids[:, :3], output_attentions=True)
        page = show(
            encoder_attention=output.encoder_attentions,
            decoder_attention=output.decoder_attentions,
            cross_attention=output.cross_attentions,
            encoder_tokens=tokens,
            decoder_tokens=tokens[:3],
            html_action="return",
        ).data
        first = output.cross_attentions[0][0, 0, 0, 0].item()
        assert any(abs(shown - first) < 1e-6 for shown in data_of(page))
