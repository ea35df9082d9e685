"""Beam search: that of transformers token for token, an exhaustive one, and greedy search, where it should be."""

import itertools

import pytest
import torch
from families import VOCABULARY, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicCache

from hf_vanilla import IncrementalDecoder, VanillaDecoderForCausalLM, VanillaForConditionalGeneration, beam_search
from hf_vanilla.models import generation_vanilla
from hf_vanilla.models.generation_vanilla import NotServed, PackedLinear, fast_topk, length_penalty

FAMILIES = [VanillaForConditionalGeneration, VanillaDecoderForCausalLM]
THEIRS = {"custom_generate": beam_search, "length_penalty_form": "transformers"}


def model_of(model_class, **changes):
    """A model whose distributions are not flat, so that searches differ, and end at different lengths."""
    torch.manual_seed(changes.pop("seed", 0))
    # Where padding is 0, transformers' beam search pads with the end of a sentence.
    padding = changes.get("vocab_size", VOCABULARY) - 1
    changes = {"initializer_range": 0.4, "pad_token_id": padding, "bos_token_id": 1, "eos_token_id": 2} | changes
    if model_class is VanillaForConditionalGeneration:
        changes["decoder_start_token_id"] = 1
    return small_model(model_class, **changes).eval()


def sources(model, rows=4, length=7, seed=0):
    """Sentences of unequal length, padded on the side that `generate` wants."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        kept = int(torch.randint(1, length + 1, (), generator=generator))
        (mask[row, kept:] if model.config.is_encoder_decoder else mask[row, :-kept]).zero_()
    return {"input_ids": ids * mask, "attention_mask": mask}


@settings(max_examples=40, deadline=None)
@given(
    model_class=st.sampled_from(FAMILIES),
    changes=st.fixed_dictionaries(
        {
            "norm_position": st.sampled_from(["pre", "post"]),
            "position_embedding_type": st.sampled_from(["sinusoidal", "learned"]),
            "tie_word_embeddings": st.booleans(),
            "embedding_norm": st.booleans(),
            "qk_head_dim": st.sampled_from([None, 3]),
            "seed": st.integers(0, 99),
        }
    ),
    search=st.fixed_dictionaries(
        {
            "num_beams": st.sampled_from([2, 3, 5]),
            "length_penalty": st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0]),
            "early_stopping": st.sampled_from([False, True, "never"]),
            "max_new_tokens": st.sampled_from([1, 4, 20]),
        },
        optional={
            "num_return_sequences": st.just(2),
            "min_new_tokens": st.just(3),
            "repetition_penalty": st.just(1.5),
            "no_repeat_ngram_size": st.just(2),
            "suppress_tokens": st.just([5, 6, 7]),
            "forced_eos_token_id": st.just(2),
            "eos_token_id": st.sampled_from([[2, 9, 10], None]),
        },
    ),
)
def test_with_transformers_penalty_it_is_their_beam_search(model_class, changes, search):
    model = model_of(model_class, **changes)
    asked = {**sources(model), **search, "return_dict_in_generate": True, "output_scores": True}
    theirs, ours = model.generate(**asked), model.generate(**asked, **THEIRS)
    # Theirs goes on for all sentences until none can get better, so it may be wider by columns of padding.
    width = min(theirs.sequences.shape[1], ours.sequences.shape[1])
    found = theirs.sequences_scores > -1e6  # theirs fills up with hypotheses that there are not
    assert torch.equal(theirs.sequences[found, :width], ours.sequences[found, :width])
    torch.testing.assert_close(ours.sequences_scores[found], theirs.sequences_scores[found], atol=1e-4, rtol=1e-5)


def test_it_gives_scores_logits_and_origins_by_step_as_transformers_does():
    model = model_of(VanillaForConditionalGeneration)
    options = {"num_beams": 3, "max_new_tokens": 12, "return_dict_in_generate": True}
    asked = {**sources(model), **options, "output_scores": True, "output_logits": True}
    theirs, ours = model.generate(**asked), model.generate(**asked, **THEIRS)
    assert torch.equal(theirs.beam_indices, ours.beam_indices)
    for name in ("scores", "logits"):
        for one, other in zip(getattr(theirs, name), getattr(ours, name), strict=False):
            alive = one > -1e8  # theirs and ours go on differently with hypotheses that there are not
            torch.testing.assert_close(other[alive], one[alive], atol=1e-4, rtol=1e-4)
    of_theirs, of_ours = (
        model.compute_transition_scores(out.sequences, out.scores, out.beam_indices) for out in (theirs, ours)
    )
    torch.testing.assert_close(of_ours, of_theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_class", FAMILIES)
@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy_search(model_class, seed):
    model = model_of(model_class, seed=seed)
    asked = {**sources(model, seed=seed), "max_new_tokens": 15}
    assert torch.equal(model.generate(**asked, num_beams=1), model.generate(**asked, custom_generate=beam_search))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_with_beams_enough_it_is_an_exhaustive_search(alpha, seed):
    tokens, most = 6, 3
    model = model_of(VanillaForConditionalGeneration, vocab_size=tokens, seed=seed)
    source = torch.tensor([[3, 5, 4]])
    scored = []
    for words in itertools.product(range(tokens), repeat=most):
        end = words.index(2) + 1 if 2 in words else most
        scored.append(words[:end])
    hypotheses = sorted(set(scored))

    def score(words):
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([[1, *words[:-1]]])).logits[0]
        each = log_softmax(logits, dim=-1)[range(len(words)), list(words)]
        return float(each.sum()) / ((5 + len(words)) / 6) ** alpha

    with torch.no_grad():
        best_first = sorted(hypotheses, key=score, reverse=True)
    found = model.generate(
        input_ids=source,
        num_beams=tokens**most,
        num_return_sequences=5,
        max_new_tokens=most,
        length_penalty=alpha,
        custom_generate=beam_search,
        return_dict_in_generate=True,
    )
    for row, words, value in zip(found.sequences.tolist(), best_first, found.sequences_scores.tolist(), strict=False):
        assert tuple(row[1 : 1 + len(words)]) == words
        assert value == pytest.approx(score(words), abs=1e-4)


def test_the_paper_s_penalty_by_hand():
    assert length_penalty(7, 0.6, "paper") == pytest.approx(2**0.6)
    assert length_penalty(7, 0.6, "transformers") == pytest.approx(7**0.6)


@pytest.mark.parametrize("model_class", FAMILIES)
def test_a_sentence_s_hypotheses_do_not_depend_on_its_batch(model_class):
    model = model_of(model_class, seed=3)
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 18, "custom_generate": beam_search}
    if model.config.is_encoder_decoder:
        asked["max_extra_tokens"] = 6
    batch = sources(model, rows=12)
    together = model.generate(**batch, **asked)
    prompt = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    for row in range(12):
        kept = batch["attention_mask"][row].bool()
        ids = batch["input_ids"][row : row + 1, kept]
        alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **asked)
        words = alone[:, (1 if model.config.is_encoder_decoder else int(kept.sum())) :]
        others = together[3 * row : 3 * row + 3, prompt:]
        assert torch.equal(others[:, : words.shape[1]], words)
        assert (others[:, words.shape[1] :] == model.config.pad_token_id).all()


@pytest.mark.parametrize("model_class", FAMILIES)
def test_a_long_search_forgets_what_nobody_descends_from(model_class, monkeypatch):
    model = model_of(model_class, seed=4)
    asked = {**sources(model, rows=5), "num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 60}
    asked |= {"eos_token_id": None, "custom_generate": beam_search, "return_dict_in_generate": True}
    whole, longest = model.generate(**asked), 0
    update = generation_vanilla.GrowingCache.update

    def watched(cache, *states):
        nonlocal longest
        kept = update(cache, *states)
        longest = max(longest, kept[0].shape[2])
        return kept

    monkeypatch.setattr(generation_vanilla, "PRUNE_FROM", 16)
    monkeypatch.setattr(generation_vanilla.GrowingCache, "update", watched)
    partly = model.generate(**asked)
    assert torch.equal(partly.sequences, whole.sequences)
    torch.testing.assert_close(partly.sequences_scores, whole.sequences_scores, atol=1e-4, rtol=1e-5)
    assert longest < 5 * 60  # of five hypotheses of 60 tokens


def test_a_translation_has_at_most_so_many_tokens_more_than_its_own_source():
    model = model_of(VanillaForConditionalGeneration)
    batch = sources(model, rows=6)
    found = model.generate(
        **batch, eos_token_id=None, max_new_tokens=50, max_extra_tokens=3, num_beams=2, custom_generate=beam_search
    )
    most = batch["attention_mask"].sum(1) + 3
    for row, limit in zip(found[:, 1:], most, strict=True):
        assert (row[limit:] == model.config.pad_token_id).all()
    assert found.shape[1] == 1 + most.max()


def test_stopping_criteria_end_a_hypothesis():
    class AfterNine(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return (input_ids == 9).any(1)

    model = model_of(VanillaForConditionalGeneration, seed=1)
    asked = {**sources(model), "num_beams": 3, "max_new_tokens": 15, "return_dict_in_generate": True}
    asked |= {"stopping_criteria": StoppingCriteriaList([AfterNine()]), "output_scores": True}
    theirs, ours = model.generate(**asked), model.generate(**asked, **THEIRS)
    assert torch.equal(theirs.sequences, ours.sequences)
    for row in ours.sequences.tolist():
        assert 9 not in row or set(row[row.index(9) + 1 :]) <= {model.config.pad_token_id}


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_repetition_penalty": 3.0},
        {"encoder_no_repeat_ngram_size": 1},
        {"prefix_allowed_tokens_fn": lambda row, ids: [2] if row == 0 else list(range(5 * row, 5 * row + 6)) + [2]},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_processors_that_know_each_sentence_by_its_number(options, seed):
    model = model_of(VanillaForConditionalGeneration, seed=seed)
    asked = {**sources(model, rows=6, seed=seed), "num_beams": 3, "max_new_tokens": 12, **options}
    asked["eos_token_id"] = [2, 9, 13, 15, 20]  # so that some end early
    assert torch.equal(model.generate(**asked), model.generate(**asked, **THEIRS))


@pytest.mark.parametrize("mask", [[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1]])
def test_what_a_translation_begins_with_may_be_masked(mask):
    model = model_of(VanillaForConditionalGeneration)
    begun = {"decoder_input_ids": torch.tensor([[1, 5, 6, 7]] * 4), "decoder_attention_mask": torch.tensor([mask] * 4)}
    asked = {**sources(model), **begun, "num_beams": 3, "max_new_tokens": 8}
    assert torch.equal(model.generate(**asked), model.generate(**asked, **THEIRS))


def test_positions_that_are_given():
    model = model_of(VanillaDecoderForCausalLM)
    asked = {**sources(model), "num_beams": 3, "max_new_tokens": 8}
    asked["position_ids"] = torch.arange(7).expand(4, -1) + 3
    assert torch.equal(model.generate(**asked), model.generate(**asked, **THEIRS))


@pytest.mark.parametrize("model_class", FAMILIES)
def test_greedy_search_with_processors_of_logits(model_class):
    model = model_of(model_class)
    asked = {**sources(model), "max_new_tokens": 12, "repetition_penalty": 1.5}
    assert torch.equal(model.generate(**asked), model.generate(**asked, custom_generate=beam_search))


def test_ends_of_one_s_own():
    model = model_of(VanillaForConditionalGeneration)
    for criterion in (EosTokenCriteria(13), MaxLengthCriteria(4)):
        asked = {**sources(model), "max_new_tokens": 9, "stopping_criteria": StoppingCriteriaList([criterion])}
        assert torch.equal(model.generate(**asked), model.generate(**asked, custom_generate=beam_search))


def test_padding_in_half_precision_is_no_nan():
    model = model_of(VanillaDecoderForCausalLM, initializer_range=1.0).half()
    asked = {**sources(model), "max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    assert not model.generate(**asked, custom_generate=beam_search).logits[0].isnan().any()


def test_words_that_are_allowed_by_prefix():
    model = model_of(VanillaForConditionalGeneration)
    asked = {**sources(model), "num_beams": 3, "max_new_tokens": 9}
    asked["prefix_allowed_tokens_fn"] = lambda row, ids: [2, 11, 12 + row]
    theirs, ours = model.generate(**asked), model.generate(**asked, **THEIRS)
    assert torch.equal(theirs, ours)


def test_more_beams_than_the_vocabulary_has_words():
    model = model_of(VanillaForConditionalGeneration, vocab_size=5)
    found = model.generate(
        input_ids=torch.tensor([[3, 4]]),
        num_beams=9,
        num_return_sequences=9,
        max_new_tokens=5,
        custom_generate=beam_search,
    )
    assert len({tuple(row) for row in found.tolist()}) == 9


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"do_sample": True}, "does not sample"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "attentions"),
        ({"num_beams": 2, "length_penalty_form": "mine"}, "'paper' or 'transformers'"),
        ({"synced_gpus": True}, "sharded"),
    ],
)
def test_what_it_does_not_do_is_said(options, reason):
    model = model_of(VanillaForConditionalGeneration)
    if "synced_gpus" in options:  # `generate` passes it on to functions of its own alone
        config = GenerationConfig(num_beams=1, num_return_sequences=1)
        with pytest.raises(NotServed, match=reason):
            beam_search(model, torch.ones(1, 1), LogitsProcessorList(), StoppingCriteriaList(), config, **options)
        return
    with pytest.raises(NotServed, match=reason):
        model.generate(**sources(model), **options, custom_generate=beam_search)


def test_a_cache_and_the_length_of_no_source_are_refused():
    model = model_of(VanillaDecoderForCausalLM)
    with pytest.raises(NotServed, match="inputs_embeds"):
        embeds = model.get_input_embeddings()(sources(model)["input_ids"])
        model.generate(inputs_embeds=embeds, custom_generate=beam_search)
    with pytest.raises(NotServed, match="has none"):
        model.generate(**sources(model), max_extra_tokens=5, custom_generate=beam_search)
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[3, 4, 5, 6]])
    model(input_ids=ids[:, :3], past_key_values=cache, use_cache=True)
    with pytest.raises(NotServed, match="past_key_values"):
        model.generate(input_ids=ids, past_key_values=cache, custom_generate=beam_search)


@given(st.integers(1, 9), st.integers(1, 6000), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_best_are_the_best(count, many, rows, seed):
    scores = torch.randn(rows, many, generator=torch.Generator().manual_seed(seed))
    count = min(count, many)
    values, indices = fast_topk(scores, count)
    assert torch.equal(values, scores.topk(count)[0]) and torch.equal(scores.gather(1, indices), values)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 3e-2)])
@pytest.mark.parametrize("shape", [(1, 64), (3, 4, 64), (70, 64)])
def test_packed_products(precision, tolerance, shape):
    torch.manual_seed(0)
    linear, states = torch.nn.Linear(64, 50), torch.randn(shape)
    expected = linear(states)
    error = (PackedLinear(linear.weight, linear.bias, precision)(states) - expected).abs().max()
    assert error <= tolerance * expected.abs().max()


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_decoder_made_once_serves_many_calls(precision):
    model = model_of(VanillaForConditionalGeneration, initializer_range=0.5)
    decoder = IncrementalDecoder(model, precision)
    asked = {"num_beams": 2, "max_new_tokens": 8, "custom_generate": beam_search, "return_dict_in_generate": True}
    for seed in range(3):
        batch = sources(model, seed=seed)
        found = model.generate(**batch, **asked, incremental_decoder=decoder)
        exact = model.generate(**batch, **asked)
        torch.testing.assert_close(found.sequences_scores, exact.sequences_scores, atol=0.1, rtol=0.05)


def test_weights_that_changed_since_are_seen_by_the_next_call():
    model = model_of(VanillaForConditionalGeneration)
    asked = {**sources(model), "num_beams": 2, "max_new_tokens": 8}
    model.generate(**asked, **THEIRS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(-1.3)
    assert torch.equal(model.generate(**asked), model.generate(**asked, **THEIRS))


def test_what_is_no_plain_linear_layer_is_called():
    class Adapted(torch.nn.Module):
        """As an adapter of low rank wraps a layer."""

        def __init__(self, linear):
            super().__init__()
            self.linear, self.out_features = linear, linear.out_features
            self.down, self.up = torch.randn(2, linear.in_features), torch.randn(linear.out_features, 2)

        def forward(self, states):
            return self.linear(states) + states @ self.down.T @ self.up.T

    model = model_of(VanillaForConditionalGeneration)
    for layer in model.model.decoder.layers:
        layer.self_attention.v_proj = Adapted(layer.self_attention.v_proj)
        layer.cross_attention.q_proj = Adapted(layer.cross_attention.q_proj)
        layer.feed_forward.linear1 = Adapted(layer.feed_forward.linear1)
    asked = {**sources(model), "num_beams": 2, "max_new_tokens": 8}
    assert torch.equal(model.generate(**asked), model.generate(**asked, **THEIRS))


def test_half_precision():
    model = model_of(VanillaForConditionalGeneration).to(torch.bfloat16)
    found = model.generate(**sources(model), num_beams=2, max_new_tokens=8, custom_generate=beam_search)
    assert found.shape[0] == 4
