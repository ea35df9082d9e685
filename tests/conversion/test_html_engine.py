"""The engine of exported pages gives what PyTorch gives: logits, attention, tokens and scores of every family."""

import pytest
import torch
from families import small_model
from html_engine import in_node, rounded, run_model, run_node, search_in_torch
from torch.testing import assert_close
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.activations import ACT2FN

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
)
from hf_vanilla.attention.switching import switched_off
from hf_vanilla.conversion.html_page import ACTIVATIONS, ARCHITECTURES
from hf_vanilla.data.tokenization import train_tokenizer

pytestmark = in_node

TEXTS = ["one two three", "four", "five six seven eight nine ten", "ten two"]
COMMON = [
    {},
    {"norm_position": "pre", "tie_word_embeddings": False},
    {"position_embedding_type": "learned", "activation_function": "gelu", "position_offset": 2},
    {"embedding_norm": True, "scale_embedding": False, "activation_function": "gelu_new", "final_norm": True},
    {"position_embedding_type": "sinusoidal_halves", "activation_function": "swish", "layer_norm_eps": 1e-3},
    {"qk_head_dim": 3, "v_head_dim": 5, "norm_position": "pre", "final_norm": False},
]
SEQ2SEQ = [*COMMON, {"logits_bias": True, "encoder_layers": 1, "decoder_layers": 3}]
ENCODER = [*COMMON, {"type_vocab_size": 2}]
RECURRENT = [
    {"attention_type": "none"},
    {"attention_type": "none", "cell_type": "gru", "encoder_layers": 1},
    {"attention_type": "additive"},
    {"attention_type": "additive", "cell_type": "gru", "decoder_layers": 1, "tie_word_embeddings": False},
    {"attention_type": "dot", "cell_type": "gru", "input_feeding": True},
    {"attention_type": "general"},
    {"attention_type": "concat", "input_feeding": True},
    {"attention_type": "local", "attention_window": 2},
    {"attention_type": "local", "attention_window": 1, "local_alignment": "monotonic", "cell_type": "gru"},
]
CLASSES = {"seq2seq": VanillaForConditionalGeneration, "decoder": VanillaDecoderForCausalLM}
CLASSES |= {"encoder": VanillaEncoderForMaskedLM, "recurrent": RecurrentForConditionalGeneration}
CASES = [("seq2seq", each) for each in SEQ2SEQ] + [("decoder", each) for each in COMMON]
CASES += [("encoder", each) for each in ENCODER] + [("recurrent", each) for each in RECURRENT]


def make(family, precision="float16", **changes):
    """A model whose distributions are not flat, with weights as a page holds them, and its tokenizer."""
    kind = "seq2seq" if family == "recurrent" else family
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, family=kind)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    fields = {"vocab_size": len(tokenizer) + 3, "initializer_range": 0.4} | ids | changes
    if kind == "seq2seq":
        fields["decoder_start_token_id"] = tokenizer.bos_token_id
    return rounded(small_model(CLASSES[family], **fields), precision), tokenizer


def attention_of(layers):
    """What the engine gives for the weights (length, layers, heads * keys), as PyTorch has those of each layer."""
    return [[torch.tensor(row[number], dtype=torch.float32) for row in layers] for number in range(len(layers[0]))]


def check_attention(found, expected):
    assert len(found[0]) == len(expected)
    for rows, layer in zip(attention_of(found), expected, strict=True):
        for place, row in enumerate(rows):
            weights = row.view(layer.shape[1], -1)
            assert_close(weights, layer[0, :, place, : weights.shape[1]], atol=1e-5, rtol=0)


def check_search(found, tokens, scores):
    """The best hypothesis is the same, and the scores of all; two that are equal to rounding may change places."""
    assert found[0]["tokens"] == tokens[0]
    assert [each["score"] for each in found] == pytest.approx(scores[: len(found)], abs=2e-3, rel=1e-6)


@pytest.mark.parametrize(
    ("family", "changes"), CASES, ids=lambda case: case if isinstance(case, str) else "-".join(map(str, case.values()))
)
def test_logits_attention_tokens_and_scores_are_those_of_pytorch(family, changes):
    model, tokenizer = make(family, **changes)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS[1:3]]
    ids, target = rows[1], [1, 9, 40, 7, 100]
    limits = [12 if family == "decoder" else len(row) + 9 for row in rows]
    searches = [(beams, *pair) for beams in (1, 4) for pair in zip(rows, limits, strict=True) if family != "encoder"]
    tasks = [{"run": "search", "beams": beams, "ids": row, "limit": limit} for beams, row, limit in searches]
    found, *results = run_model(model, tokenizer, [{"run": "read", "ids": ids, "target": target}, *tasks])
    inputs = {"input_ids": torch.tensor([ids])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([target])
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    assert_close(torch.tensor(found["logits"]), output.logits[0], atol=1e-4, rtol=1e-4)
    if family == "seq2seq":
        check_attention(found["encoder"], output.encoder_attentions)
        check_attention(found["self"], output.decoder_attentions)
        check_attention(found["cross"], output.cross_attentions)
    elif family == "recurrent" and changes["attention_type"] != "none":
        check_attention(found["cross"], output.cross_attentions)
    elif family != "recurrent":
        check_attention(found["self"], output.attentions)
    for (beams, row, limit), hypotheses in zip(searches, results, strict=True):
        check_search(hypotheses, *search_in_torch(model, row, beams, max_new_tokens=limit))


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_both_precisions_compute_with_the_weights_that_they_hold(precision):
    model, tokenizer = make("seq2seq", precision)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    tasks = [{"run": "search", "ids": ids, "beams": 4, "limit": 15} for ids in rows]
    for ids, found in zip(rows, run_model(model, tokenizer, tasks, precision), strict=True):
        tokens, scores = search_in_torch(model, ids, 4, max_new_tokens=15)
        check_search(found, tokens, scores)


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True, "length_penalty": 1.0},
        {"early_stopping": "never", "length_penalty": 0.6, "length_penalty_form": "transformers"},
        {"length_penalty": -1.0, "length_penalty_form": "transformers"},
        {"length_penalty": 0.0},
        {"length_penalty": 2.0},
    ],
)
def test_the_search_follows_the_generation_config(options):
    model, tokenizer = make("seq2seq")
    model.generation_config.update(**options)
    model.generation_config.length_penalty_form = options.get("length_penalty_form", "paper")
    rows = [tokenizer(text)["input_ids"] for text in TEXTS[:2]]
    forced = [1, 9, 40]
    tasks = [
        {"run": "search", "ids": ids, "beams": 3, "limit": 20, "prompt": prompt}
        for ids in rows
        for prompt in ([1], forced)
    ]
    results = iter(run_model(model, tokenizer, tasks))
    for ids in rows:
        for prompt in ([1], forced):
            tokens, scores = search_in_torch(model, ids, 3, prompt, max_new_tokens=20)
            check_search(next(results), tokens, scores)


@pytest.mark.parametrize("positions", [None, 20])
def test_a_translation_is_at_most_fifty_tokens_longer_than_its_source_and_fits_the_positions(positions):
    changes = {"position_embedding_type": "learned", "max_position_embeddings": positions} if positions else {}
    model, tokenizer = make("seq2seq", **changes)
    model.generation_config.eos_token_id = model.config.vocab_size - 1
    with torch.no_grad():
        model.model.encoder.embed_tokens.weight[-1] = 0  # the end is never the most probable token
    ids = tokenizer(TEXTS[2])["input_ids"]
    (found,) = run_model(model, tokenizer, [{"run": "search", "ids": ids, "beams": 1}])
    assert len(found[0]["tokens"]) == (positions - 1 if positions else len(ids) + 50)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_a_head_that_is_switched_off_gives_nothing(kind):
    model, tokenizer = make("seq2seq", norm_position="pre")
    ids, target = tokenizer(TEXTS[2])["input_ids"], [1, 9, 40]
    stack = model.get_encoder() if kind == "encoder" else model.get_decoder()
    layer = stack.layers[1]
    module = layer.cross_attention if kind == "cross" else layer.self_attention
    task = {"run": "read", "ids": ids, "target": target}
    off, on = run_model(model, tokenizer, [task | {"off": [[kind, 1, 2]]}, task])
    inputs = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([target])}
    with torch.no_grad():
        whole = model(**inputs).logits[0]
        with switched_off(model, module, 2):
            without = model(**inputs).logits[0]
    assert_close(torch.tensor(off["logits"]), without, atol=1e-4, rtol=1e-4)
    assert_close(torch.tensor(on["logits"]), whole, atol=1e-4, rtol=1e-4)
    assert (without - whole).abs().max() > 1e-2


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"topK": 5}, {"topP": 0.8}, {"temperature": 1.5, "topK": 9, "topP": 0.6}]
)
def test_tokens_are_drawn_from_the_distribution_of_transformers(options):
    torch.manual_seed(0)
    logits = torch.randn(1, 50) * 2
    warpers = LogitsProcessorList([TemperatureLogitsWarper(options.get("temperature", 1.0))])
    warpers += [TopKLogitsWarper(options["topK"])] if "topK" in options else []
    warpers += [TopPLogitsWarper(options["topP"])] if "topP" in options else []
    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits).softmax(-1)[0]
    task = {"run": "distribution", "logProbs": logits.log_softmax(-1)[0].tolist(), "options": options}
    (found,) = run_node([task])
    drawn = torch.zeros(50)
    for each in found:
        drawn[each["token"]] = each["probability"]
    assert_close(drawn, expected, atol=1e-6, rtol=0)


def test_drawn_texts_have_the_frequencies_of_the_model():
    model, tokenizer = make("decoder", norm_position="pre", initializer_range=0.1)
    ids = tokenizer("one")["input_ids"]
    tasks = [
        {"run": "search", "ids": ids, "limit": 1, "seed": 7919 * seed + 1, "sampling": {"topK": 3}}
        for seed in range(600)
    ]
    drawn = [found[0]["tokens"][0] for found in run_model(model, tokenizer, tasks)]
    with torch.no_grad():
        best = model(torch.tensor([ids])).logits[0, -1].topk(3)
    for token, probability in zip(best.indices.tolist(), best.values.softmax(0).tolist(), strict=True):
        assert drawn.count(token) / len(drawn) == pytest.approx(probability, abs=0.08)


def test_activations_and_architectures_are_those_that_the_export_lets_pass():
    values = torch.linspace(-9, 9, 73, dtype=torch.float64)
    found, names = run_node([{"run": "activations", "values": values.tolist()}, {"run": "names"}])
    assert sorted(found) == sorted(ACTIVATIONS) and sorted(names) == sorted(ARCHITECTURES)
    for name, results in found.items():
        assert_close(torch.tensor(results, dtype=torch.float64), ACT2FN[name](values), atol=1e-9, rtol=1e-9)
