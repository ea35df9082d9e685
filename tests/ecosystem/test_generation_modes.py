"""Ways of generating that transformers offers, each beside the in-tree model of the same size on the same call."""

import pytest
import torch
from families import VOCABULARY, small_model, words
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
)

from hf_vanilla import VanillaDecoderForCausalLM, VanillaForConditionalGeneration

DECODERS = ["ours", "gpt2"]
TRANSLATORS = ["ours", "marian"]


def decoder(name: str, seed: int = 0) -> PreTrainedModel:
    """A small decoder with weights that make choices clear."""
    torch.manual_seed(seed)
    if name == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128}
        tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(**sizes, **tokens, initializer_range=0.5)).eval()
    torch.manual_seed(seed)
    return small_model(VanillaDecoderForCausalLM, initializer_range=0.5)


def translator(name: str) -> PreTrainedModel:
    if name == "ours":
        return small_model(VanillaForConditionalGeneration, initializer_range=0.5)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "max_position_embeddings": 64, "init_std": 0.5}
    sizes |= {f"{stack}_{size}": value for stack in ("encoder", "decoder") for size, value in SIZES.items()}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return MarianMTModel(MarianConfig(**sizes, **tokens, forced_eos_token_id=None)).eval()


SIZES = {"layers": 2, "ffn_dim": 24, "attention_heads": 4}


def prompts(count: int, least: int = 2) -> list[list[int]]:
    torch.manual_seed(3)
    return [words(least + number).tolist() for number in range(count)]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_continuous_batching_gives_what_each_prompt_gives_alone(name, implementation):
    """More prompts than fit into a batch, of different lengths, so that requests come and go."""
    model = decoder(name)
    model.set_attn_implementation(implementation)
    options = {"max_new_tokens": 6, "do_sample": False}
    alone = [model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() for prompt in prompts(5)]
    batching = ContinuousBatchingConfig(num_blocks=16, block_size=4, max_batch_tokens=16)
    generation = GenerationConfig(**options, eos_token_id=2, pad_token_id=0, bos_token_id=1)
    outputs = model.generate_batch(
        prompts(5), generation_config=generation, continuous_batching_config=batching, progress_bar=False
    )
    assert [outputs[key].generated_tokens for key in sorted(outputs, key=lambda key: int(key.split("_")[-1]))] == alone


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("how", ["assistant", "prompt lookup", "static", "prefill", "assistant, sampled"])
def test_decoders_generate_the_same_tokens_by_every_way(name, how):
    model, ids = decoder(name), torch.tensor(prompts(1, least=8))
    ids = torch.cat([ids, ids], dim=1)  # something to look up
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = model.generate(ids, **options)
    if how.startswith("assistant"):
        options["assistant_model"] = decoder(name, seed=5)
    elif how == "prompt lookup":
        options["prompt_lookup_num_tokens"] = 3
    elif how == "static":
        options |= {"cache_implementation": "static", "compile_config": CompileConfig(backend="eager")}
    elif how == "prefill":
        options["prefill_chunk_size"] = 5
    if "sampled" in how:
        torch.manual_seed(0)
        generated = model.generate(ids, **(options | {"do_sample": True}))
        assert generated.shape == expected.shape and generated[:, :16].equal(ids)
    else:
        assert model.generate(ids, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("name", TRANSLATORS)
@pytest.mark.parametrize("how", ["assistant", "prompt lookup", "static"])
def test_translators_generate_the_same_tokens_by_every_way(name, how):
    model, ids = translator(name), torch.tensor(prompts(1, least=8))
    options = {"max_new_tokens": 10, "do_sample": False, "num_beams": 1, "eos_token_id": None}
    expected = model.generate(ids, **options)
    if how == "assistant":
        torch.manual_seed(9)
        options["assistant_model"] = translator(name)
    elif how == "prompt lookup":
        options["prompt_lookup_num_tokens"] = 2
    else:
        options |= {"cache_implementation": "static", "compile_config": CompileConfig(backend="eager")}
    assert model.generate(ids, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("name", DECODERS)
def test_sizes_of_weights_that_torchao_quantises(name):
    """Weights in int8: the logits stay close, and generation goes on with them."""
    quantization = pytest.importorskip("torchao.quantization")
    model, ids = decoder(name), torch.tensor(prompts(1, least=8))
    with torch.no_grad():
        expected = model(ids).logits
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        logits = model(ids).logits
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()
    assert model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 11)
