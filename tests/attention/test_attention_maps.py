"""Attention maps: the weights are the model's own, whatever runs it, and the words are those of the text."""

import copy
import itertools
import logging
from types import SimpleNamespace

import pytest
import torch
from families import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderModel,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForMultipleChoice,
    VanillaForConditionalGeneration,
    VanillaModel,
    attention_maps,
    beam_search,
)
from hf_vanilla.attention import reader as reader_module
from hf_vanilla.attention.maps import AttentionMaps
from hf_vanilla.attention.reader import Reader, load_attention_model, stream_attention_maps
from hf_vanilla.attention.weights import AttentionMap
from hf_vanilla.attention.words import EncodedText, Tokens, encode_decoded, to_tokens
from hf_vanilla.data.tokenization import train_tokenizer

SOURCES = ["the animal didn't cross the street.", "it was too tired", "a cat, a dog and a mouse"]
TARGETS = ["das Tier überquerte die Straße nicht.", "es war zu müde", "eine Katze"]
SCRIPTS = ["שלום עולם", "日本語を勉強する", "नमस्ते दुनिया", "สวัสดี", "ке́т"]
SEQ2SEQ = {"seq2seq": [VanillaForConditionalGeneration, VanillaModel, BartForConditionalGeneration, MarianMTModel]}
ONE_STACK = {
    "encoder": [VanillaEncoderForMaskedLM, VanillaEncoderForMultipleChoice, BertForMaskedLM, RobertaModel],
    "decoder": [VanillaDecoderForCausalLM, VanillaDecoderModel, GPT2LMHeadModel, LlamaForCausalLM],
}
MODELS = [(family, each) for family, classes in (SEQ2SEQ | ONE_STACK).items() for each in classes]


def tokenizer_of(family):
    return train_tokenizer([*SOURCES, *TARGETS] * 2, 320, family=family)


TOKENIZERS = {family: tokenizer_of(family) for family in ("seq2seq", "encoder", "decoder")}


def model_of(model_class, tokenizer, **changes):
    """A small model of a class, with heads sharp enough to be told apart."""
    torch.manual_seed(0)
    size, tokens = len(tokenizer), {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    stack = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 4), ("ffn_dim", 24))}  # fmt: skip
    pair = {
        "d_model": 16,
        **sides,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": None,
        "max_position_embeddings": 64,
    }
    configs = {
        BertConfig: stack | {"max_position_embeddings": 64},
        RobertaConfig: stack | {"max_position_embeddings": 64},
        LlamaConfig: stack | {"num_key_value_heads": 2, "max_position_embeddings": 64},
        GPT2Config: {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
        BartConfig: pair,
        MarianConfig: pair,
    }
    kind = model_class.config_class
    if kind in configs:
        config = kind(vocab_size=size, **tokens, **(configs[kind] | changes))
    else:
        config = small_config(kind, vocab_size=size, **changes)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("q_proj.weight", "query.weight", "c_attn.weight")):
                parameter.normal_(std=0.5)
    return model


def expected(model, reading):
    """The attentions of one text, from the stock call of an eager copy of the model."""
    eager = copy.deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    inputs = {"input_ids": torch.tensor([reading.ids])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([list(reading.decoder_ids)])
        output = eager(**inputs, output_attentions=True)
        return {
            "encoder": output.encoder_attentions,
            "decoder": output.decoder_attentions,
            "cross": output.cross_attentions,
        }
    base = eager.base_model if isinstance(model, VanillaEncoderForMultipleChoice) else eager
    return {"any": base(**inputs, output_attentions=True).attentions}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family, model_class", MODELS)
def test_weights_are_the_models_own_in_a_batch_of_unequal_lengths(family, model_class, implementation):
    tokenizer = TOKENIZERS[family]
    model = model_of(model_class, tokenizer)
    model.set_attn_implementation(implementation)
    model.train()
    model.base_model.eval()
    modes = [module.training for module in model.modules()]
    targets = TARGETS if family == "seq2seq" else None
    every = attention_maps(model, tokenizer, SOURCES, targets)
    assert [module.training for module in model.modules()] == modes
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    assert {part.config._attn_implementation for part in parts} == {implementation}
    reader = Reader(model, tokenizer)
    for row, maps in enumerate(every):
        own = expected(model, reader.read(SOURCES[row], targets[row] if targets else None))
        wanted = {"seq2seq": ["encoder", "decoder", "cross"], "encoder": ["encoder"], "decoder": ["decoder"]}[family]
        assert list(maps.kinds) == wanted
        for kind, attention in maps.kinds.items():
            weights = torch.cat(own.get(kind, own.get("any")))
            assert attention.weights.dtype == torch.float32
            assert attention.weights.shape == (2, 4, len(attention.queries), len(attention.keys))
            assert_close(attention.weights, weights, atol=1e-6, rtol=0)
            assert_close(attention.weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6, rtol=0)
            assert_close(attention.joined().weights.sum(-1).mean(), torch.tensor(1.0), atol=1e-6, rtol=0)
    heads = every[0][wanted[-1]].weights
    assert (heads[0, 0] - heads[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("model_class", [VanillaEncoderForMaskedLM, BertForMaskedLM])
def test_flex_attention_falls_back_for_this_call_alone(model_class):
    tokenizer = TOKENIZERS["encoder"]
    model = model_of(model_class, tokenizer)
    eager = attention_maps(model, tokenizer, SOURCES[0]).encoder.weights
    model.set_attn_implementation("flex_attention")
    # What torch.compile makes of a model holds it so.
    assert_close(
        attention_maps(SimpleNamespace(_orig_mod=model), tokenizer, SOURCES[0]).encoder.weights, eager, atol=0, rtol=0
    )
    assert model.config._attn_implementation == "flex_attention"


def test_a_tokenizer_that_does_not_say_where_its_tokens_are():
    """One of bytes, in plain Python, to which no script is foreign."""
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    shape = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **shape))
    maps = attention_maps(model, tokenizer, "ein Weg", "aé 本")
    assert maps.cross.keys.labels == ("e", "i", "n", "␣", "W", "e", "g", "</s>")
    assert maps.cross.keys.names == ("ein", "Weg", "</s>") and maps.cross.queries.names == ("aé", "本", "</s>")
    assert maps.cross.queries.labels == ("a", "é", "·", "␣", "本", "·", "·", "</s>")
    assert_close(maps.cross.weights.sum(-1), torch.ones(1, 2, 8), atol=1e-6, rtol=0)
    assert len(attention_maps(model, tokenizer, "ein Weg", max_new_tokens=4).cross.queries) <= 4


def test_a_model_is_as_it_was_after_an_error():
    tokenizer = TOKENIZERS["encoder"]
    model = model_of(BertForMaskedLM, tokenizer).train()
    model.bert.encoder.layer[1].forward = None
    with pytest.raises(TypeError):
        attention_maps(model, tokenizer, SOURCES[0])
    assert model.config._attn_implementation == "sdpa" and model.training and model.bert.training


def test_texts_come_one_by_one_in_bounded_memory(monkeypatch):
    tokenizer = TOKENIZERS["encoder"]
    model = model_of(VanillaEncoderForMaskedLM, tokenizer)
    sizes, taken = [], []
    compute_maps = Reader.compute_maps
    monkeypatch.setattr(
        Reader,
        "compute_maps",
        lambda self, batch, words: sizes.append(len(batch)) or compute_maps(self, batch, words),
    )
    monkeypatch.setattr(reader_module, "MAX_PAIRS", 1000)

    def texts():
        for number in itertools.count():
            taken.append(number)
            yield SOURCES[number % 3]

    stream = stream_attention_maps(model, tokenizer, texts())
    for row in range(30):
        assert next(stream).source == SOURCES[row % 3]
    assert max(sizes) > 1 and len(taken) <= 30 + 2 * max(sizes)
    longest = max(len(tokenizer(text)["input_ids"]) for text in SOURCES)
    assert max(sizes) * longest**2 <= 1000 + longest**2


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, BartForConditionalGeneration, MarianMTModel])
def test_a_generated_target_is_what_the_model_generates(model_class):
    tokenizer = TOKENIZERS["seq2seq"]
    model = model_of(model_class, tokenizer)
    maps = attention_maps(model, tokenizer, SOURCES[0], max_new_tokens=9)
    inputs = tokenizer(SOURCES[:1], return_tensors="pt")
    search = {"custom_generate": beam_search} if model_class is VanillaForConditionalGeneration else {}
    ids = model.eval().generate(**inputs, max_new_tokens=9, do_sample=False, **search)
    output = model(**inputs, decoder_input_ids=ids[:, :-1], output_attentions=True)
    if not search:
        model.set_attn_implementation("eager")
        output = model(**inputs, decoder_input_ids=ids[:, :-1], output_attentions=True)
    assert_close(maps.cross.weights, torch.cat(output.cross_attentions), atol=1e-6, rtol=0)
    assert len(maps.cross.queries) == len(maps.decoder.queries) == ids.shape[1] - 1
    assert maps.target == tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    # The decoder reads at each place what it wrote at the one before.
    assert maps.decoder.queries.labels[0] == "<s>"


def test_a_decoder_goes_on_where_it_is_asked_to():
    tokenizer = TOKENIZERS["decoder"]
    model = model_of(GPT2LMHeadModel, tokenizer)
    alone = attention_maps(model, tokenizer, "the cat")
    written = attention_maps(model, tokenizer, "the cat", max_new_tokens=5)
    forced = attention_maps(model, tokenizer, "the cat", "and a mouse")
    assert len(written.decoder.keys) == len(alone.decoder.keys) + 5
    assert forced.decoder.keys.names == ("the", "cat", "and", "a", "mouse") and forced.target == "and a mouse"


def test_an_encoder_reads_pairs():
    tokenizer = TOKENIZERS["encoder"]
    model = model_of(BertForMaskedLM, tokenizer)
    keys = attention_maps(model, tokenizer, "a cat", "a dog, a mouse").encoder.keys
    assert keys.names == ("<s>", "a", "cat", "</s>", "a", "dog", ",", "a", "mouse", "</s>")
    assert [keys.names[i] for i, special in enumerate(keys.joined().special) if special] == ["<s>", "</s>", "</s>"]


def test_tokens_join_into_words():
    tokenizer = TOKENIZERS["seq2seq"]
    model = model_of(VanillaForConditionalGeneration, tokenizer)
    maps = attention_maps(model, tokenizer, SOURCES[0], TARGETS[0])
    joined = attention_maps(model, tokenizer, SOURCES[0], TARGETS[0], words=True)
    keys, queries = joined.cross.keys, joined.cross.queries
    assert keys.labels == ("the", "animal", "didn't", "cross", "the", "street", ".", "</s>")
    assert queries.labels == ("das", "Tier", "überquerte", "die", "Straße", "nicht", ".", "</s>")
    assert joined.decoder.keys.labels == ("<s>", *queries.labels[:-1])
    assert keys.punctuation == [False] * 6 + [True, False]
    rows, columns = maps.cross.queries.words, maps.cross.keys.words
    for (r, row), (c, column) in itertools.product(enumerate(rows), enumerate(columns)):
        block = maps.cross.weights[:, :, row][..., column]
        assert_close(joined.cross.weights[:, :, r, c], block.sum(-1).mean(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "text, words",
    [
        (SCRIPTS[0], ["שלום", "עולם"]),
        (SCRIPTS[2], ["नमस्ते", "दुनिया"]),
        (SCRIPTS[4], ["ке́т"]),
        ("they're well-known ('so-so')", ["they're", "well-known", "(", "'", "so-so", "')"]),
        ("a\nb  c", ["a", "b", "c"]),
    ],
)
def test_words_of_scripts(text, words):
    tokenizer = TOKENIZERS["decoder"]
    model = model_of(GPT2LMHeadModel, tokenizer)
    names = attention_maps(model, tokenizer, text).decoder.keys.names
    # Which marks stand together depends on the tokenizer.
    assert [letter for name in names for letter in name] == [letter for word in words for letter in word]
    assert [name for name in names if name[0].isalnum()] == [word for word in words if word[0].isalnum()]


def test_scripts_without_blanks_keep_their_tokens_and_characters_are_whole():
    tokenizer = TOKENIZERS["decoder"]
    model = model_of(GPT2LMHeadModel, tokenizer)
    keys = attention_maps(model, tokenizer, "日本語").decoder.keys
    assert keys.names == ("日", "本", "語") and keys.labels == ("日", "·", "·", "本", "·", "·", "語", "·", "·")
    trained = train_tokenizer(["日本 日本 日本"], 300, family="decoder")
    model = model_of(GPT2LMHeadModel, trained)
    assert attention_maps(model, trained, "日本語").decoder.keys.names == ("日本", "語")
    mark = attention_maps(model_of(GPT2LMHeadModel, tokenizer), tokenizer, "e\u0301").decoder.keys
    assert mark.labels[:2] == ("e", "◌\u0301") and mark.names == ("e\u0301",)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_words_are_a_partition_of_the_tokens_in_order(text):
    tokenizer = TOKENIZERS["seq2seq"]
    text = text.encode("utf-8", "replace").decode()
    fast = tokenizer(text, return_offsets_mapping=True)
    offsets = EncodedText(list(fast["input_ids"]), list(fast["offset_mapping"]), text)
    for encoded in (offsets, encode_decoded(tokenizer, offsets.ids)):
        tokens = to_tokens(encoded, tokenizer)
        assert [token for word in tokens.words for token in word] == list(range(len(encoded.ids)))
        assert len(tokens.labels) == len(tokens.special) == len(encoded.ids)
        assert all(tokens.labels) and all(tokens.names) and len(tokens.names) == len(tokens.words)
        shown = "".join(
            name for name, word in zip(tokens.names, tokens.words, strict=True) if word[-1] < len(tokens) - 1
        )
        assert [c for c in shown if c.isalnum()] == [c for c in text if c.isalnum()]


def plain(*labels, special=()):
    return Tokens(labels, tuple(label in special for label in labels), tuple((i,) for i in range(len(labels))), labels)


def test_statistics_by_hand():
    keys = plain("<s>", "a", ".", special=("<s>",))
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])[None, None]
    values = {name: float(value) for name, value in AttentionMap("encoder", weights, keys, keys).statistics().items()}
    assert values == pytest.approx(
        {
            "entropy": (1.5 + 0 + 1.5) / 3,
            "distance": (0.75 + 0 + 0.75) / 3,
            "previous": (0.0 + 0.25) / 2,
            "same": (0.5 + 1 + 0.5) / 3,
            "next": (0.25 + 0) / 2,
            "first": 0.75 / 3,
            "special": 0.75 / 3,
            "punctuation": 0.75 / 3,
        }
    )
    crossing = AttentionMap("cross", torch.eye(3)[None, None], keys, keys).statistics()
    assert float(crossing["distance"]) == 0 and "previous" not in crossing


def test_rollout_is_the_product_of_halved_means():
    tokenizer = TOKENIZERS["seq2seq"]
    maps = attention_maps(model_of(VanillaModel, tokenizer), tokenizer, SOURCES[0], TARGETS[0])
    for kind in ("encoder", "decoder"):
        first, second = maps[kind].weights.double().mean(1).numpy()
        identity = torch.eye(len(first)).double().numpy()
        product = (0.5 * second + 0.5 * identity) @ (0.5 * first + 0.5 * identity)
        assert_close(maps.rollout(kind)[1].double().numpy(), product, atol=1e-6, rtol=0)
    assert_close(
        maps.rollout("cross")[0], maps.cross.weights[0].mean(0) @ maps.rollout("encoder")[1], atol=1e-6, rtol=0
    )
    assert_close(maps.rollout("cross").sum(-1), torch.ones(2, len(maps.cross.queries)), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="has no attention of kind 'self'; expected one of encoder, decoder, cross"):
        maps["self"]


def test_a_model_with_cross_attention_alone():
    """As recurrent models are: their encoder and decoder look at nothing of their own."""
    tokenizer = TOKENIZERS["seq2seq"]
    model = model_of(VanillaForConditionalGeneration, tokenizer)
    forward = model.base_model.forward

    def without(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.encoder_attentions = output.decoder_attentions = None
        output.cross_attentions = (output.cross_attentions[0][:, :1],)
        return output

    model.base_model.forward = without
    maps = attention_maps(model, tokenizer, SOURCES, TARGETS)[1]
    assert list(maps.kinds) == ["cross"] and maps.cross.weights.shape[:2] == (1, 1)
    assert "<iframe" in maps._repr_html_()
    with pytest.raises(ValueError, match="no attention of kind 'encoder'"):
        maps.rollout("cross")


@pytest.mark.parametrize(
    "model_class, family, arguments, error, message",
    [
        (BertForMaskedLM, "encoder", (" \n",), ValueError, "source is empty"),
        (BertForMaskedLM, "encoder", (["a", ""],), ValueError, "source 2 is empty"),
        (BertForMaskedLM, "encoder", (["a", 3],), TypeError, "source 2 is int; expected a text"),
        (BertForMaskedLM, "encoder", ("a cat " * 40,), ValueError, r"source has \d+ tokens, more than the model's 64"),
        (MarianMTModel, "seq2seq", ("a", "die " * 90), ValueError, r"target has \d+ tokens, more than the model's 64"),
        (
            MarianMTModel,
            "seq2seq",
            ("a", "日本語"),
            ValueError,
            "target is in a script that the tokenizer does not kn",
        ),
        (GPT2LMHeadModel, "decoder", ("a", "日本語"), ValueError, "target is in a script that the tokenizer does not"),
        (MarianMTModel, "seq2seq", (["a", "b"], ["c"]), ValueError, "as many texts as `source`: 2"),
        (MarianMTModel, "seq2seq", (["a", "b"], "c"), ValueError, "as many texts as `source`: 2"),
        (MarianMTModel, "seq2seq", ("a", ["c"]), TypeError, "`target` is list"),
        (VanillaModel, "seq2seq", ("a",), ValueError, "VanillaModel writes no text; give a target"),
        (VanillaDecoderForCausalLM, "decoder", ("a cat " * 40_000,), ValueError, "whose weights take .* GiB"),
    ],
)
def test_bad_input_is_named(model_class, family, arguments, error, message):
    with pytest.raises(error, match=message):
        attention_maps(model_of(model_class, TOKENIZERS[family]), TOKENIZERS[family], *arguments)


def test_bad_models_and_tokenizers_are_named():
    tokenizer = TOKENIZERS["decoder"]
    mamba = MambaModel(MambaConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(ValueError, match="MambaModel, a mamba model, gives no attentions"):
        attention_maps(mamba, tokenizer, "a cat")
    with pytest.raises(TypeError, match="`model` is Linear; expected a model of transformers"):
        attention_maps(torch.nn.Linear(2, 2), tokenizer, "a cat")
    small = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ValueError, match="tokens, the model 50: it is not the model's"):
        attention_maps(small, tokenizer, "a cat")
    with pytest.raises(ValueError, match="source has 1 tokens, with 64 new ones more than the model's 64"):
        attention_maps(model_of(GPT2LMHeadModel, tokenizer), tokenizer, "a", max_new_tokens=64)
    with pytest.raises(ValueError, match="`max_new_tokens` must be at least 1, got 0"):
        attention_maps(model_of(GPT2LMHeadModel, tokenizer), tokenizer, "a", max_new_tokens=0)


def test_unknown_words_alone_are_a_script_that_the_tokenizer_does_not_know():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    model = BertForMaskedLM(BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match="source is in a script that the tokenizer does not know at all: 'кот'"):
        attention_maps(model, tokenizer, "кот")
    # One that is unknown is shown as it is in the text.
    assert attention_maps(model, tokenizer, "a кот").encoder.keys.labels == ("a", "кот")


@pytest.mark.parametrize("family, model_class", [("seq2seq", MarianMTModel), ("encoder", BertForMaskedLM)])
def test_loading_takes_the_class_that_was_saved(family, model_class, tmp_path, caplog):
    tokenizer = TOKENIZERS[family]
    model_of(model_class, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, loaded = load_attention_model(tmp_path)
    assert type(model) is model_class and not model.training and loaded.is_fast
    assert isinstance(attention_maps(model, loaded, SOURCES[1], TARGETS[1]), AttentionMaps)
