"""The survey: it finds what was planted, counts alignment errors as their definition does, and switches heads off."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from families import small_config
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)
from hf_vanilla.attention.heads import HeadCounts
from hf_vanilla.attention.reader import Reader, attention_maps
from hf_vanilla.attention.survey import read_alignments, survey
from hf_vanilla.attention.switching import find_switches, perplexity, switched_off
from hf_vanilla.attention.weights import AttentionMap
from hf_vanilla.data.tokenization import train_tokenizer

NOUNS = [("cat", "dog", "house"), ("dog", "mouse", "river"), ("mouse", "cat", "hill"), ("bird", "horse", "sea")]
TEXTS = [f"the {first} sees the {second} and runs to the {third}" for first, second, third in NOUNS]
GERMAN = ["die Katze sieht den Hund", "der Hund sieht die Maus", "die Maus rennt", "der Vogel fliegt zum Meer"]
TOKENIZERS = {
    family: train_tokenizer([*TEXTS, *GERMAN] * 2, 330, family=family) for family in ("seq2seq", "encoder", "decoder")
}


def plant(model, layer, head, offset):
    """Make a head of a model with sinusoidal positions look `offset` tokens away, whatever the tokens are.

    Sine and cosine of a frequency w at position p + k are those at p, turned by the angle w k: with keys that are the
    positions themselves and queries that are turned positions, the score of p and q is a sum of cos(w (p + k - q)),
    which is largest at q = p + k.
    """
    stack = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    for name in ("encoder", "decoder"):
        stack = getattr(stack, name, stack)
    width = model.config.hidden_size
    attention = stack.layers[layer].self_attention
    size = attention.qk_head_dim
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    turn, keep = torch.zeros(size, width), torch.zeros(size, width)
    for pair in range(size // 2):
        angle = frequencies[pair] * offset
        block = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        turn[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = block
        keep[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = torch.eye(2)
    rows = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        stack.embed_tokens.weight.mul_(0.001)
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = turn * 12, keep * 12
        attention.q_proj.bias[rows] = attention.k_proj.bias[rows] = 0


@pytest.mark.parametrize(
    "family, model_class", [("encoder", VanillaEncoderForMaskedLM), ("decoder", VanillaDecoderForCausalLM)]
)
def test_a_planted_head_that_copies_the_previous_token_is_found(family, model_class):
    tokenizer = TOKENIZERS[family]
    torch.manual_seed(0)
    config = small_config(model_class.config_class, vocab_size=len(tokenizer), hidden_size=64)
    model = model_class(config).eval()
    plant(model, 0, 2, -1)
    found = survey(model, tokenizer, TEXTS, metric="none")
    assert [head.head for head in found.heads if head.type == "previous token" and head.layer == 0] == [2]
    planted = next(head for head in found.heads if (head.layer, head.head) == (0, 2))
    assert planted.shares["previous token"] == 1 and planted.statistics["previous"] > 0.8
    assert planted.statistics["entropy"] < 1
    assert "| 1 | 3 | previous token | 1.00 |" in found.to_markdown()


@pytest.mark.parametrize("offset, name", [(1, "next token"), (0, "same token"), (-3, "positional (-3)")])
def test_other_positions_are_found(offset, name):
    tokenizer = TOKENIZERS["encoder"]
    torch.manual_seed(0)
    model = VanillaEncoderModel(
        small_config(VanillaEncoderModel.config_class, vocab_size=len(tokenizer), hidden_size=64)
    )
    plant(model.eval(), 0, 1, offset)
    found = survey(model, tokenizer, TEXTS)
    assert found.heads[1].type == name
    assert found.note == "no effects: VanillaEncoderModel has no language model's head, so no perplexity"


def looking_at(column, attention):
    weights = torch.zeros_like(attention.weights)
    weights[..., column] = 1
    return AttentionMap(attention.kind, weights, attention.queries, attention.keys)


def test_delimiters_first_tokens_and_rare_words_are_found():
    tokenizer = TOKENIZERS["encoder"]
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    attention = attention_maps(BertForMaskedLM(config), tokenizer, "the cat runs.").encoder
    assert attention.keys.labels == ("<s>", "the", "cat", "runs", ".", "</s>")
    rank = {"the": 9, "cat": 1, "runs": 2, ".": 9}
    for column, name in ((0, "first token"), (4, "delimiter"), (5, "delimiter"), (2, "rare word"), (3, "rare word")):
        counts = HeadCounts(attention)
        counts.add(looking_at(column, attention), rank)
        assert {head.type for head in counts.heads_of("encoder", {})} == {name}
    counts = HeadCounts(attention)
    looks = torch.eye(6)[torch.tensor([0, 1, 4, 1, 3, 0])].expand(1, 2, 6, 6)
    counts.add(AttentionMap("encoder", looks, attention.queries, attention.keys), rank)
    assert next(counts.heads_of("encoder", {})).type == "mixed"


def test_alignment_error_rate_by_hand():
    """A = {0-0, 1-1, 2-2, 3-3}; one text, words in order, and gold alignments that leave the diagonal."""
    tokenizer = TOKENIZERS["seq2seq"]
    config = small_config(VanillaForConditionalGeneration.config_class, vocab_size=len(tokenizer))
    maps = attention_maps(
        VanillaForConditionalGeneration(config), tokenizer, "the cat sees runs", "die Katze sieht den"
    )
    cross = maps.cross
    weights = torch.zeros_like(cross.weights)
    for row, column in zip(cross.queries.words, cross.keys.words, strict=True):
        for token in row:
            weights[:, :, token, column[0]] = 1
    diagonal = AttentionMap("cross", weights, cross.queries, cross.keys)
    planted = dataclasses.replace(maps, cross=diagonal)
    for sure, possible, expected in [
        ({(0, 0), (1, 1), (2, 2), (3, 3)}, set(), 0.0),
        ({(0, 1), (1, 0)}, set(), 1.0),
        ({(0, 0), (1, 0)}, {(1, 1), (0, 3)}, 1 - (1 + 2) / (4 + 2)),
    ]:
        counts = HeadCounts(diagonal)
        counts.align(planted, tokenizer, (sure, possible), 1)
        assert_close(counts.errors(), torch.full((2, 5), expected))
    with pytest.raises(ValueError, match="gold alignment 7 has 4-0, but the source has 4 words, the target 4"):
        counts.align(planted, tokenizer, ({(4, 0)}, set()), 7)


def without(model, module_name, head, heads):
    """A copy whose output projection ignores a head."""
    other = copy.deepcopy(model)
    module = other.get_submodule(module_name)
    weight = module.weight.data
    width = weight.shape[0 if type(module).__name__ == "Conv1D" else 1] // heads
    columns = slice(head * width, (head + 1) * width)
    if type(module).__name__ == "Conv1D":
        weight[columns] = 0
    else:
        weight[:, columns] = 0
    return other


def models():
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    stack = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 4), ("ffn_dim", 24))}  # fmt: skip
    size = len(TOKENIZERS["seq2seq"])
    torch.manual_seed(0)
    ours = VanillaForConditionalGeneration(
        small_config(VanillaForConditionalGeneration.config_class, vocab_size=size, initializer_range=0.3)
    )
    yield "seq2seq", ours, ("encoder", 1), "model.encoder.layers.1.self_attention.o_proj"
    yield "seq2seq", ours, ("decoder", 0), "model.decoder.layers.0.self_attention.o_proj"
    yield "seq2seq", ours, ("cross", 1), "model.decoder.layers.1.cross_attention.o_proj"
    marian = MarianMTModel(
        MarianConfig(vocab_size=size, d_model=16, init_std=0.3, decoder_start_token_id=0, **sides, **ids)
    )
    yield "seq2seq", marian, ("cross", 0), "model.decoder.layers.0.encoder_attn.out_proj"
    bert = BertForMaskedLM(BertConfig(vocab_size=len(TOKENIZERS["encoder"]), initializer_range=0.3, **stack, **ids))
    yield "encoder", bert, ("encoder", 1), "bert.encoder.layer.1.attention.output.dense"
    gpt2 = GPT2Config(
        vocab_size=len(TOKENIZERS["decoder"]), n_embd=16, n_layer=2, n_head=4, initializer_range=0.3, **ids
    )
    yield "decoder", GPT2LMHeadModel(gpt2), ("decoder", 0), "transformer.h.0.attn.c_proj"


@pytest.mark.parametrize("family, model, place, module", list(models()))
def test_a_head_that_is_switched_off_gives_nothing(family, model, place, module):
    tokenizer = TOKENIZERS[family]
    model.eval()
    targets = GERMAN if family == "seq2seq" else None
    reader = Reader(model, tokenizer)
    readings = [reader.read(text, targets[row] if targets else None) for row, text in enumerate(TEXTS)]
    layers = dict.fromkeys(attention_maps(model, tokenizer, TEXTS[0], GERMAN[0]).kinds, 2)
    switches, note = find_switches(reader, layers)
    assert note == "" and set(switches) == {(kind, layer) for kind in layers for layer in range(2)}
    whole = perplexity(reader, readings)
    with switched_off(model, switches[place], 3):
        switched = perplexity(reader, readings)
    expected = perplexity(Reader(without(model, module, 3, 4), tokenizer), readings)
    assert switched == pytest.approx(expected, rel=1e-5) and abs(switched - whole) > 1e-3 * whole
    assert model.config._attn_implementation == "sdpa" and perplexity(reader, readings) == pytest.approx(whole)
    found = survey(model, tokenizer, TEXTS, targets)
    effect = next(head.effect for head in found.heads if (head.kind, head.layer, head.head) == (*place, 3))
    assert found.score == pytest.approx(whole) and effect == pytest.approx(switched - whole, abs=1e-3 * whole)


def test_perplexity_is_that_of_the_models_own_loss():
    tokenizer = TOKENIZERS["decoder"]
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).eval()
    reader = Reader(model, tokenizer)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    loss = model(ids, labels=ids).loss.detach()
    assert perplexity(reader, [reader.read(TEXTS[0], None)]) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_bleu_table_and_json():
    tokenizer = TOKENIZERS["seq2seq"]
    config = small_config(
        VanillaForConditionalGeneration.config_class, vocab_size=len(tokenizer), num_attention_heads=1
    )
    model = VanillaForConditionalGeneration(config)
    gold = [({(0, 0)}, {(1, 1)})] * 2
    found = survey(model, tokenizer, TEXTS[:2], GERMAN[:2], gold=gold, metric="bleu")
    table = found.to_markdown().splitlines()
    assert len([line for line in table if line.startswith("|")]) == 2 + len(found.heads) == 8
    assert "AER" in table[0] and "loss of BLEU" in table[0] and "AER of the mean of layer 2's heads" in table[-1]
    assert all(len(line.split("|")) == len(table[0].split("|")) for line in table if line.startswith("|"))
    loaded = json.loads(found.to_json())
    assert loaded["sentences"] == 2 and len(loaded["heads"]) == 6 and loaded["metric"] == "bleu"
    # Without references, the model's own translations are looked at.
    assert survey(model, tokenizer, TEXTS[:1], metric="none").heads[-1].kind == "cross"


def test_a_model_whose_heads_cannot_be_switched_off_says_so():
    from transformers import AlbertConfig, AlbertForMaskedLM

    tokenizer = TOKENIZERS["encoder"]
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=len(tokenizer), embedding_size=8, **shape))
    found = survey(model, tokenizer, TEXTS[:1])
    assert len(found.heads) == 4 and found.score is None
    assert "albert models do not call transformers' attention interface once for each layer" in found.to_markdown()


def test_alignments_are_read_and_what_is_none_is_named(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("0-0 1-2 2?1\n\n3p4\n")
    assert read_alignments(path) == [({(0, 0), (1, 2)}, {(2, 1)}), (set(), set()), (set(), {(3, 4)})]
    path.write_text("0-0\n1:2\n")
    with pytest.raises(ValueError, match=r"gold.txt:2: '1:2' is no alignment; expected pairs such as 0-0"):
        read_alignments(path)


@pytest.mark.parametrize(
    "sources, options, message",
    [
        ([], {}, "there are no texts to survey"),
        (TEXTS, {"metric": "rouge"}, "effect is 'rouge'; expected one of perplexity, bleu, none"),
        (TEXTS, {"metric": "bleu"}, "BLEU takes a model that translates"),
        (TEXTS, {"gold": []}, "gold alignments take an encoder-decoder"),
        (["a", " "], {}, "source 2 is empty"),
    ],
)
def test_bad_surveys_are_named(sources, options, message):
    tokenizer = TOKENIZERS["encoder"]
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match=message):
        survey(BertForMaskedLM(config), tokenizer, sources, **options)
