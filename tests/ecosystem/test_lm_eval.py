"""lm-evaluation-harness on a small decoder, beside GPT-2 of the same size: its numbers are the model's own."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_vanilla import VanillaDecoderConfig, VanillaDecoderForCausalLM, train_tokenizer

pytest.importorskip("lm_eval")

TEXTS = ["In the beginning God made heaven and earth.", "And God said, Let there be light."]
TOKENIZER = train_tokenizer(TEXTS * 3, 350, "decoder")
SPECIAL = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def models():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    yield VanillaDecoderForCausalLM(VanillaDecoderConfig(**sizes, max_position_embeddings=64, **SPECIAL)).eval()
    yield GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL)).eval()


def request(kind, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
@torch.no_grad()
def test_likelihoods_and_texts_are_those_of_the_model(model):
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=TOKENIZER, backend="causal", batch_size=2, device="cpu", max_length=64)
    pairs = [("In the", " beginning"), ("And God said,", " Let there be light."), ("And", " God</s>")]
    found = harness.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (context, end), (score, is_greedy) in zip(pairs, found, strict=True):
        known, ids = (TOKENIZER(text, return_tensors="pt")["input_ids"] for text in (context, context + end))
        logits = model(ids).logits[0, known.shape[1] - 1 : -1].log_softmax(-1)
        tokens = ids[0, known.shape[1] :]
        assert score == pytest.approx(logits.gather(1, tokens[:, None]).sum().item(), abs=1e-3)
        assert is_greedy == bool((logits.argmax(-1) == tokens).all())
    options = {"max_gen_toks": 8, "until": ["</s>"], "do_sample": False}
    written = harness.generate_until([request("generate_until", text, options) for text in TEXTS], disable_tqdm=True)
    for text, own in zip(TEXTS, written, strict=True):
        batch = TOKENIZER(text, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=8, do_sample=False)[0, batch["input_ids"].shape[1] :]
        assert own == TOKENIZER.decode(ids, skip_special_tokens=True).split("</s>")[0]
