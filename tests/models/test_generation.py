"""`generate`, on both families that have it: what transformers' own tests of generation ask of a model."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from families import MODELS, small_model, words
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    CompileConfig,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    set_seed,
)
from transformers.generation.utils import GenerateOutput

from hf_vanilla import VanillaDecoderForCausalLM, VanillaForConditionalGeneration

BATCH, PROMPT, NEW, BEAMS = 2, 5, 4, 3
HEADS, WIDTH, LAYERS = 4, 16, 2
SEARCHES = {
    "greedy": {},
    "sample": {"do_sample": True},
    "samples": {"do_sample": True, "num_return_sequences": 2},
    "beam": {"num_beams": BEAMS},
    "beams": {"num_beams": BEAMS, "num_return_sequences": 2},
    "beam sample": {"num_beams": BEAMS, "do_sample": True},
}
search = pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)


@pytest.fixture(params=[VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A small model that generates; its logits are spread so that no two tokens are close."""
    model = small_model(request.param, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.normal_()
    return model


@pytest.fixture
def prompt() -> Tensor:
    """Ids (BATCH, PROMPT): a source, or the beginning of a text."""
    torch.manual_seed(2)
    return words(BATCH, PROMPT)


def generate(model: PreTrainedModel, prompt: Tensor | None = None, new: int = NEW, **options: Any) -> GenerateOutput:
    """Generate exactly `new` tokens, the same ones for the same options, and return all that is known of them."""
    set_seed(0)
    if prompt is not None:
        options.setdefault("attention_mask", torch.ones_like(prompt))
    return model.generate(
        prompt, min_new_tokens=new, max_new_tokens=new, return_dict_in_generate=True, output_logits=True, **options
    )


def assert_same(result: GenerateOutput, expected: GenerateOutput) -> None:
    """The same tokens, from the same logits."""
    assert result.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.stack(result.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-4)


def given_length(model: PreTrainedModel) -> int:
    """How many tokens the decoder has before it generates: the start token, or the prompt."""
    return 1 if model.config.is_encoder_decoder else PROMPT


# Searches


@search
def test_search_gives_the_same_with_and_without_a_cache(model: PreTrainedModel, prompt: Tensor, options: dict) -> None:
    cached = generate(model, prompt, **options)
    rows = BATCH * options.get("num_return_sequences", 1)
    assert cached.sequences.shape == (rows, given_length(model) + NEW)
    assert_same(generate(model, prompt, use_cache=False, **options), cached)


@search
def test_plain_result_is_the_sequences(model: PreTrainedModel, prompt: Tensor, options: dict) -> None:
    expected = generate(model, prompt, **options).sequences
    set_seed(0)
    mask = torch.ones_like(prompt)
    plain = model.generate(prompt, attention_mask=mask, min_new_tokens=NEW, max_new_tokens=NEW, **options)
    assert plain.tolist() == expected.tolist()


def test_greedy_is_the_argmax_of_the_full_forward(model: PreTrainedModel, prompt: Tensor) -> None:
    seq2seq = model.config.is_encoder_decoder
    tokens = torch.full((BATCH, 1), model.config.decoder_start_token_id) if seq2seq else prompt
    for _ in range(NEW):
        inputs = {"input_ids": prompt, "decoder_input_ids": tokens} if seq2seq else {"input_ids": tokens}
        logits = model(**inputs, use_cache=False).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    assert generate(model, prompt).sequences.tolist() == tokens.tolist()
    assert generate(model, prompt, num_beams=1).sequences.tolist() == tokens.tolist()


def test_wide_beam_is_an_exhaustive_search(model: PreTrainedModel, prompt: Tensor) -> None:
    prompt, vocabulary, eos = prompt[:1], range(3, 8), model.config.eos_token_id
    others = [token for token in range(model.config.vocab_size) if token not in vocabulary and token != eos]
    found = generate(model, prompt, new=3, num_beams=len(vocabulary) ** 2, suppress_tokens=others, length_penalty=0.0)
    continuations = torch.tensor(list(product(vocabulary, repeat=3)))
    rows = prompt.expand(len(continuations), -1)
    if model.config.is_encoder_decoder:
        start = torch.full((len(rows), 1), model.config.decoder_start_token_id)
        logits = model(rows, decoder_input_ids=torch.cat((start, continuations), 1)).logits[:, :-1]
    else:
        logits = model(torch.cat((rows, continuations), 1)).logits[:, PROMPT - 1 : -1]
    scores = logits.log_softmax(-1).gather(-1, continuations[..., None]).sum((1, 2))
    assert found.sequences[0, -3:].tolist() == continuations[scores.argmax()].tolist()


# Outputs


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("beams", [1, BEAMS], ids=["greedy", "beam"])
def test_outputs_have_the_documented_shapes(
    model: PreTrainedModel, prompt: Tensor, beams: int, use_cache: bool
) -> None:
    wanted = {"output_scores": True, "output_hidden_states": True, "output_attentions": True}
    result = generate(model, prompt, num_beams=beams, use_cache=use_cache, **wanted)
    seq2seq, rows, given = model.config.is_encoder_decoder, BATCH * beams, given_length(model)
    for per_step in (result.scores, result.logits):
        assert [tuple(step.shape) for step in per_step] == [(rows, model.config.vocab_size)] * NEW
    hidden_states = result.decoder_hidden_states if seq2seq else result.hidden_states
    attentions = result.decoder_attentions if seq2seq else result.attentions
    assert len(hidden_states) == len(attentions) == NEW
    for step, (states, weights) in enumerate(zip(hidden_states, attentions, strict=True)):
        keys = given + step
        queries = 1 if use_cache and step > 0 else keys
        assert [tuple(layer.shape) for layer in states] == [(rows, queries, WIDTH)] * (LAYERS + 1)
        assert [tuple(layer.shape) for layer in weights] == [(rows, HEADS, queries, keys)] * LAYERS
        if seq2seq:
            cross = [tuple(layer.shape) for layer in result.cross_attentions[step]]
            assert cross == [(rows, HEADS, queries, PROMPT)] * LAYERS
    if seq2seq:
        states, weights = result.encoder_hidden_states, result.encoder_attentions
        assert [tuple(layer.shape) for layer in states] == [(BATCH, PROMPT, WIDTH)] * (LAYERS + 1)
        assert [tuple(layer.shape) for layer in weights] == [(BATCH, HEADS, PROMPT, PROMPT)] * LAYERS
    assert (result.past_key_values is not None) == use_cache


@pytest.mark.parametrize("beams", [1, BEAMS], ids=["greedy", "beam"])
def test_cache_has_the_documented_shapes(model: PreTrainedModel, prompt: Tensor, beams: int) -> None:
    cache = generate(model, prompt, num_beams=beams).past_key_values
    seq2seq, rows = model.config.is_encoder_decoder, BATCH * beams
    assert isinstance(cache, EncoderDecoderCache if seq2seq else DynamicCache)
    # The last token is generated, not read.
    lengths = {given_length(model) + NEW - 1: cache.self_attention_cache if seq2seq else cache}
    if seq2seq:
        lengths[PROMPT] = cache.cross_attention_cache
    for length, part in lengths.items():
        assert part.get_seq_length() == length and len(part) == LAYERS
        for layer in part.layers:
            assert layer.keys.shape == layer.values.shape == (rows, HEADS, length, WIDTH // HEADS)


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model_class: model_class.__name__)
def test_models_with_a_language_model_head_generate_and_no_others(model_class: type[PreTrainedModel]) -> None:
    generates = model_class in (VanillaForConditionalGeneration, VanillaDecoderForCausalLM)
    assert model_class.can_generate() == hasattr(model_class, "generate") == generates


# Caches and compilation


@search
def test_static_cache_gives_the_same(model: PreTrainedModel, prompt: Tensor, options: dict) -> None:
    result = generate(model, prompt, cache_implementation="static", **options)
    assert result.past_key_values.is_compileable
    assert_same(result, generate(model, prompt, **options))


def test_compiled_without_graph_breaks_gives_the_same(model: PreTrainedModel, prompt: Tensor) -> None:
    torch.compiler.reset()  # what other tests compiled counts for the limit of recompilations
    expected = generate(model, prompt)
    config = CompileConfig(fullgraph=True, dynamic=False, backend="eager")
    config._compile_all_devices = True  # `generate` compiles on GPUs alone unless told so
    result = generate(model, prompt, cache_implementation="static", compile_config=config)
    assert model._compiled_call is not None
    assert_same(result, expected)


def test_generation_continues_from_a_cache(model: PreTrainedModel, prompt: Tensor) -> None:
    whole = generate(model, prompt)
    begun = generate(model, prompt, new=1)
    given = {"past_key_values": begun.past_key_values}
    if model.config.is_encoder_decoder:
        # `generate` tells from the target's mask that a part of the target is in the cache.
        given |= {"decoder_input_ids": begun.sequences, "decoder_attention_mask": torch.ones_like(begun.sequences)}
    rest = generate(model, prompt if model.config.is_encoder_decoder else begun.sequences, new=NEW - 1, **given)
    assert rest.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(torch.stack(rest.logits), torch.stack(whole.logits[1:]), rtol=1e-4, atol=1e-4)


def test_prompt_read_in_chunks_gives_the_same(prompt: Tensor) -> None:
    model = small_model(VanillaDecoderForCausalLM)
    assert_same(generate(model, prompt, prefill_chunk_size=2), generate(model, prompt))


@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 2])], ids=["last", "three", "chosen"])
def test_logits_to_keep(model: PreTrainedModel, prompt: Tensor, kept: int | Tensor) -> None:
    target = {"decoder_input_ids": prompt} if model.config.is_encoder_decoder else {}
    logits = model(prompt, **target).logits
    expected = logits[:, -kept:] if isinstance(kept, int) else logits[:, kept]
    torch.testing.assert_close(model(prompt, **target, logits_to_keep=kept).logits, expected)


# Inputs


@pytest.mark.parametrize("options", [SEARCHES["greedy"], SEARCHES["beams"]], ids=["greedy", "beams"])
def test_batch_is_generated_as_one_by_one(model: PreTrainedModel, prompt: Tensor, options: dict) -> None:
    # Sources are padded on the right, beginnings of texts on the left.
    lengths = (PROMPT, PROMPT - 2)
    alone = [generate(model, row[None, :length], **options) for row, length in zip(prompt, lengths, strict=True)]
    mask = torch.stack([torch.arange(PROMPT) < length for length in lengths]).long()
    batch = torch.where(mask.bool(), prompt, model.config.pad_token_id)
    if not model.config.is_encoder_decoder:
        batch[1], mask[1] = batch[1].roll(PROMPT - lengths[1]), mask[1].flip(0)
    together = generate(model, batch, attention_mask=mask, **options)
    new_tokens = torch.cat([result.sequences[:, -NEW:] for result in alone])
    assert together.sequences[:, -NEW:].tolist() == new_tokens.tolist()
    logits = torch.cat([torch.stack(result.logits) for result in alone], dim=1)
    torch.testing.assert_close(torch.stack(together.logits), logits, rtol=1e-4, atol=1e-4)


def test_left_padding_changes_no_logits(prompt: Tensor) -> None:
    model = small_model(VanillaDecoderForCausalLM)
    padding = torch.full((BATCH, 3), model.config.pad_token_id)
    mask = torch.cat((torch.zeros_like(padding), torch.ones_like(prompt)), dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = model(torch.cat((padding, prompt), dim=1), attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(padded[:, 3:], model(prompt).logits)


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
@pytest.mark.parametrize("beams", [1, BEAMS], ids=["greedy", "beam"])
def test_embeddings_generate_what_their_ids_do(
    model: PreTrainedModel, prompt: Tensor, beams: int, cache: dict
) -> None:
    embeddings = model.get_input_embeddings()(prompt).detach()
    expected = generate(model, prompt, num_beams=beams)
    result = generate(model, inputs_embeds=embeddings, num_beams=beams, **cache)
    # Embeddings of a text's beginning have no ids to return.
    assert result.sequences[:, -NEW:].tolist() == expected.sequences[:, -NEW:].tolist()
    assert result.sequences.shape[1] == NEW + model.config.is_encoder_decoder
    torch.testing.assert_close(torch.stack(result.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-4)
    other = generate(model, inputs_embeds=torch.randn_like(embeddings), num_beams=beams, **cache)
    assert not torch.allclose(other.logits[0], expected.logits[0])


def test_without_a_prompt_generation_starts_from_the_first_token(model: PreTrainedModel) -> None:
    first = torch.full((1, 1), model.config.bos_token_id)
    assert_same(generate(model), generate(model, first))


# Assistance


@pytest.mark.parametrize("assistant", ["itself", "another"])
def test_assisted_decoding_gives_what_greedy_search_does(
    model: PreTrainedModel, prompt: Tensor, assistant: str
) -> None:
    other = model if assistant == "itself" else small_model(type(model), hidden_size=8)
    result = generate(model, prompt[:1], new=8, assistant_model=other)
    assert_same(result, generate(model, prompt[:1], new=8))


def test_prompt_lookup_gives_what_greedy_search_does(model: PreTrainedModel) -> None:
    prompt = torch.tensor([[5, 6, 7, 5, 6]])
    assert_same(generate(model, prompt, new=8, prompt_lookup_num_tokens=2), generate(model, prompt, new=8))


# Auto classes


def test_every_auto_class_for_generation_generates(model: PreTrainedModel, prompt: Tensor, tmp_path: Path) -> None:
    auto_class = AutoModelForSeq2SeqLM if model.config.is_encoder_decoder else AutoModelForCausalLM
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert_same(generate(loaded, prompt), generate(model, prompt))
