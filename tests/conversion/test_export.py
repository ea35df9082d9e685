"""What other engines make of our checkpoints: our tokens, our scores."""

import re
from pathlib import Path

import pytest
import torch
from families import small_config
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, beam_search, cli
from hf_vanilla.conversion.export import export_to_ctranslate2, export_to_onnx
from hf_vanilla.data.tokenization import train_tokenizer

TEXTS = ["one two three", "four", "five six seven eight nine ten", "ten two"]
CHANGES = [
    {},
    {"norm_position": "pre"},
    {"tie_word_embeddings": False},
    {"position_embedding_type": "learned", "activation_function": "gelu"},
    {"embedding_norm": True, "scale_embedding": False},
    {"position_embedding_type": "sinusoidal_halves", "logits_bias": True, "activation_function": "swish"},
]


def model_and_tokenizer(**changes):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(1)
    fields = {"vocab_size": len(tokenizer) + 3, "initializer_range": 0.4, **ids, **changes}
    config = small_config(VanillaConfig, decoder_start_token_id=tokenizer.bos_token_id, **fields)
    return VanillaForConditionalGeneration(config).eval(), tokenizer


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("changes", CHANGES)
def test_ctranslate2_gives_our_tokens_and_scores(changes, beams, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    model, tokenizer = model_and_tokenizer(**changes)
    export_to_ctranslate2(model, tokenizer, tmp_path / "ct2")
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    ours = model.generate(
        **batch,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=0.0,
        early_stopping=True,
        max_new_tokens=20,
        custom_generate=beam_search,
        return_dict_in_generate=True,
    )
    engine = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="float32")
    sources = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in TEXTS]
    theirs = engine.translate_batch(
        sources,
        beam_size=beams,
        num_hypotheses=beams,
        length_penalty=0.0,
        max_decoding_length=20,
        min_decoding_length=0,
        return_scores=True,
        return_end_token=True,
    )
    for row, result in enumerate(theirs):
        best = result.hypotheses[0]
        own = model.generate(**tokenizer(TEXTS[row], return_tensors="pt"), max_new_tokens=20) if beams == 1 else None
        words = tokenizer.convert_ids_to_tokens((ours.sequences[row * beams] if own is None else own[0])[1:].tolist())
        assert words[: len(best)] == best
        assert float(ours.sequences_scores[row * beams]) == pytest.approx(result.scores[0], abs=1e-4)


class InOnnxruntime(VanillaForConditionalGeneration):
    """A model that computes nothing itself, so that transformers' `generate` can drive what was exported."""

    def open(self, folder, sources, beams):
        onnxruntime = pytest.importorskip("onnxruntime")
        encoder, self.session = (
            onnxruntime.InferenceSession(folder / f"{name}_model.onnx") for name in ("encoder", "decoder")
        )
        outputs = encoder.run(None, {name: ids.numpy() for name, ids in sources.items()})
        names = [output.name.replace("present", "past_key_values") for output in encoder.get_outputs()]
        self.source = {name: states.repeat(beams, 0) for name, states in zip(names, outputs, strict=True)}

    def forward(self, decoder_input_ids, attention_mask, past_key_values, **kwargs):
        layers = past_key_values.self_attention_cache.layers
        past = [states.numpy() for each in layers if each.keys is not None for states in (each.keys, each.values)]
        past = past or [states[:, :, :0] for states in self.source.values()]
        names = [name.replace("encoder", "decoder") for name in self.source]
        logits, *states = self.session.run(
            None,
            {
                "input_ids": decoder_input_ids.numpy(),
                "encoder_attention_mask": attention_mask.numpy(),
                **self.source,
                **dict(zip(names, past, strict=True)),
            },
        )
        states = [torch.tensor(each) for each in states]
        cache = DynamicCache(list(zip(states[::2], states[1::2], strict=True)))
        return Seq2SeqLMOutput(logits=torch.tensor(logits), past_key_values=EncoderDecoderCache(cache, DynamicCache()))


# An export takes half a minute, so all fields that change what is computed go into two models beside the paper's.
SIZES = {"qk_head_dim": 3, "v_head_dim": 5}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The paper's model, its tokenizer, and the folder that the command exported both to."""
    pytest.importorskip("onnx")
    model, tokenizer = model_and_tokenizer()
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    cli.main(["export", str(folder / "model"), str(folder / "onnx"), "--format", "onnx"])
    return model, tokenizer, folder / "onnx"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        CHANGES[1] | CHANGES[2] | CHANGES[3] | SIZES,
        pytest.param(CHANGES[4] | CHANGES[5], marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_our_tokens_and_scores(changes, tmp_path, exported):
    model, tokenizer, folder = exported
    if changes:
        model, tokenizer = model_and_tokenizer(**changes)
        folder = tmp_path / "onnx"
        export_to_onnx(model, tokenizer, folder)
    theirs = InOnnxruntime(model.config)
    theirs.generation_config = model.generation_config
    for beams, texts in ((1, TEXTS), (4, TEXTS), (4, TEXTS[2:3])):
        sources = tokenizer(texts, return_tensors="pt", padding=True)
        theirs.open(folder, sources, beams)
        options = {
            "num_beams": beams,
            "num_return_sequences": beams,
            "max_new_tokens": 12,
            "return_dict_in_generate": True,
            "output_scores": True,
        }
        paper = {"custom_generate": beam_search, "length_penalty_form": "transformers"} if beams > 1 else {}
        one, other = model.generate(**sources, **options, **paper), theirs.generate(**sources, **options)
        torch.testing.assert_close(one.sequences, other.sequences)
        one_score, other_score = (
            torch.stack(each.scores) if beams == 1 else each.sequences_scores for each in (one, other)
        )
        torch.testing.assert_close(one_score, other_score, atol=1e-4, rtol=0)


def test_several_tokens_at_once_are_those_one_after_the_other(exported):
    model, tokenizer, folder = exported
    theirs = InOnnxruntime(model.config)
    sources = tokenizer(TEXTS, return_tensors="pt", padding=True)
    theirs.open(folder, sources, 1)
    targets = torch.randint(5, model.config.vocab_size, (len(TEXTS), 6))
    mask = sources["attention_mask"]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    some = theirs(targets[:, :2], mask, cache)
    more = theirs(targets[:, 2:], mask, some.past_key_values)
    logits = torch.cat((some.logits, more.logits), dim=1)
    torch.testing.assert_close(logits, model(**sources, decoder_input_ids=targets).logits, atol=1e-4, rtol=0)


def test_what_ctranslate2_cannot_express_is_refused(tmp_path):
    pytest.importorskip("ctranslate2")
    for changes, message in (
        ({"qk_head_dim": 3}, "heads of other sizes"),
        ({"final_norm": True}, "norm behind a stack"),
    ):
        model, tokenizer = model_and_tokenizer(**changes)
        with pytest.raises(ValueError, match=message):
            export_to_ctranslate2(model, tokenizer, tmp_path / "ct2")
    model, tokenizer = model_and_tokenizer()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        export_to_ctranslate2(model, tokenizer, tmp_path / "full")


def test_the_command_and_the_guide(exported, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    model, tokenizer, folder = exported
    source = str(folder.with_name("model"))
    cli.main(["export", source, str(tmp_path / "ctranslate2"), "--format", "ctranslate2"])
    assert (tmp_path / "ctranslate2" / "model.bin").is_file() and (folder / "decoder_model.onnx").is_file()
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "convert.md").read_text(encoding="utf-8")
    (snippet,) = (part for part in re.findall(r"```py\w*\n(.*?)```", guide, re.DOTALL) if "onnxruntime" in part)
    assert snippet.count("exported/onnx") == 2
    exec(snippet.replace("exported/onnx", str(folder)), {})
    inputs = tokenizer("God is good.", return_tensors="pt")
    own = model.generate(**inputs, num_beams=1, max_length=50)[0]
    assert capsys.readouterr().out.splitlines()[-1] == tokenizer.decode(own, skip_special_tokens=True)
    with pytest.raises(SystemExit, match="expected one of ctranslate2, onnx"):
        cli.main(["export", source, str(tmp_path / "other"), "--format", "tensorrt"])
