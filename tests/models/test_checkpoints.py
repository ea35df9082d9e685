"""Saving and loading: every Auto class, every head from every other, one family from another."""

import json

import pytest
import torch
import transformers
from families import BASES, HEADS, MODELS, batch_for, small_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderModel,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
    VanillaModel,
)

CONFIGS = [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig]
SAME_FAMILY = [
    (source, target) for source in MODELS for target in MODELS if source.config_class is target.config_class
]


def auto_class_of(model_class):
    """The name of the Auto class that loads `model_class`."""
    served = model_class.config_class.family_auto_map
    return next(auto for auto, reference in served.items() if reference.endswith("." + model_class.__name__))


def tensors_of(model):
    """Parameters and buffers, persistent or not, tied ones under each of their names."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return tensors | dict(model.named_buffers(remove_duplicate=False))


def assert_same_tensors(ours, theirs):
    ours, theirs = tensors_of(ours), tensors_of(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_every_class_is_served_by_one_auto_class():
    served = {reference.split(".")[1] for config in CONFIGS for reference in config.family_auto_map.values()}
    assert served == {c.__name__ for c in MODELS} | {c.__name__ for c in CONFIGS}


@pytest.mark.parametrize("position_embedding_type", ["sinusoidal", "learned"])
@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize("model_class", MODELS)
def test_what_is_saved_is_loaded(model_class, tie_word_embeddings, position_embedding_type, tmp_path):
    model = small_model(
        model_class, tie_word_embeddings=tie_word_embeddings, position_embedding_type=position_embedding_type
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # so that nothing equals what initialisation gives
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, auto_class_of(model_class)).from_pretrained(tmp_path)
    assert type(loaded) is model_class
    assert type(AutoConfig.from_pretrained(tmp_path)) is model_class.config_class
    assert_same_tensors(model, loaded)
    shared = {tensor.data_ptr() for tensor in tensors_of(loaded).values()}
    assert len(shared) == len({tensor.data_ptr() for tensor in tensors_of(model).values()})
    inputs = batch_for(model_class)
    with torch.no_grad():
        for ours, theirs in zip(model(**inputs).to_tuple(), loaded(**inputs).to_tuple(), strict=True):
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("source", "target"), SAME_FAMILY)
def test_a_head_loads_from_any_other_of_its_family(source, target, tmp_path):
    model = small_model(source)
    model.save_pretrained(tmp_path)
    loaded, info = getattr(transformers, auto_class_of(target)).from_pretrained(tmp_path, output_loading_info=True)
    base = {f"{loaded.base_model_prefix}.{name}" for name in loaded.base_model.state_dict()}
    own = {name for name in loaded.state_dict() if target not in BASES and name not in base}
    tied = set(loaded.all_tied_weights_keys)
    expected = set() if source is target else {name for name in own - tied if name not in model.state_dict()}
    same_shape = {n for n in own - tied if n in model.state_dict() and n not in expected}
    assert all(model.state_dict()[n].shape == loaded.state_dict()[n].shape for n in same_shape)
    assert set(info["missing_keys"]) == expected
    assert_same_tensors(model.base_model, loaded.base_model)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize("source", [VanillaModel, VanillaForConditionalGeneration])
@pytest.mark.parametrize("target", [VanillaEncoderModel, VanillaEncoderForMaskedLM])
def test_an_encoder_from_a_seq2seq_checkpoint(target, source, tie_word_embeddings, tmp_path):
    seq2seq = small_model(source, tie_word_embeddings=tie_word_embeddings, encoder_layers=3)
    seq2seq.save_pretrained(tmp_path / "seq2seq")
    encoder, info = target.from_pretrained(tmp_path / "seq2seq", output_loading_info=True, dropout=0.3)
    assert encoder.config.num_hidden_layers == 3
    assert encoder.config.dropout == 0.3
    assert not info["unexpected_keys"]
    assert all(name.startswith(("transform.", "lm_head.")) for name in info["missing_keys"])
    assert_same_tensors(seq2seq.base_model.encoder, encoder.base_model)
    encoder.save_pretrained(tmp_path / "encoder")
    again = AutoModel.from_pretrained(tmp_path / "encoder")
    assert type(again) is VanillaEncoderModel
    assert_same_tensors(encoder.base_model, again)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize("source", [VanillaModel, VanillaForConditionalGeneration])
@pytest.mark.parametrize("target", [VanillaDecoderModel, VanillaDecoderForCausalLM])
def test_a_decoder_from_a_seq2seq_checkpoint(target, source, tie_word_embeddings, tmp_path):
    seq2seq = small_model(source, tie_word_embeddings=tie_word_embeddings, decoder_layers=3)
    seq2seq.save_pretrained(tmp_path / "seq2seq")
    decoder, info = target.from_pretrained(tmp_path / "seq2seq", output_loading_info=True)
    assert decoder.config.num_hidden_layers == 3
    assert not any("cross_attention" in name for name in tensors_of(decoder))
    theirs = tensors_of(seq2seq.base_model.decoder)
    for name, tensor in tensors_of(decoder.base_model).items():
        assert torch.equal(tensor, theirs[name]), name
    has_projection = tie_word_embeddings or source is VanillaForConditionalGeneration
    assert set(info["missing_keys"]) == (
        set() if has_projection or target is VanillaDecoderModel else {"lm_head.weight"}
    )
    if target is VanillaDecoderForCausalLM and source is VanillaForConditionalGeneration:
        assert torch.equal(decoder.lm_head.weight, seq2seq.lm_head.weight)
    decoder.save_pretrained(tmp_path / "decoder")
    assert_same_tensors(decoder, target.from_pretrained(tmp_path / "decoder"))


@pytest.mark.parametrize("target", [VanillaModel, VanillaForConditionalGeneration])
def test_a_seq2seq_model_from_an_encoder_and_a_decoder(target, tmp_path):
    encoder, decoder = small_model(VanillaEncoderForMaskedLM), small_model(VanillaDecoderForCausalLM)
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    model = target.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", decoder_start_token_id=2
    )
    assert model.config.decoder_start_token_id == 2
    assert_same_tensors(encoder.encoder, model.base_model.encoder)
    theirs = tensors_of(model.base_model.decoder)
    for name, tensor in tensors_of(decoder.decoder).items():
        assert torch.equal(tensor, theirs[name]), name
    if target is VanillaForConditionalGeneration:
        assert torch.equal(model.lm_head.weight, decoder.lm_head.weight)
    model.save_pretrained(tmp_path / "seq2seq")
    assert_same_tensors(model, target.from_pretrained(tmp_path / "seq2seq"))


def test_a_seq2seq_model_from_checkpoints_that_disagree(tmp_path):
    small_model(VanillaEncoderModel, norm_position="pre").save_pretrained(tmp_path / "encoder")
    small_model(VanillaDecoderModel).save_pretrained(tmp_path / "decoder")
    with pytest.raises(ValueError, match=r"`norm_position` is 'pre' .* 'post'"):
        VanillaModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")


@pytest.mark.parametrize("target", MODELS)
def test_a_checkpoint_of_another_model_type_is_refused(target, tmp_path):
    BertModel(BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model_type` is 'bert'"):
        target.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM),
        (VanillaDecoderForCausalLM, VanillaEncoderForSequenceClassification),
        (VanillaDecoderForSequenceClassification, VanillaForConditionalGeneration),
    ],
)
def test_a_checkpoint_of_another_family_is_refused(source, target, tmp_path):
    small_model(source).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model_type` is 'vanilla_.*Auto class"):
        target.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_class", HEADS)
def test_a_folder_holds_the_map_of_its_family_and_the_code(model_class, tmp_path):
    small_model(model_class).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == model_class.config_class.family_auto_map
    for reference in auto_map.values():
        module, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{module}.py").read_text()
    assert not list(tmp_path.glob("*.bin"))


def test_a_field_changed_while_loading_is_checked(tmp_path):
    small_model(VanillaEncoderModel).save_pretrained(tmp_path)
    assert VanillaEncoderModel.from_pretrained(tmp_path, norm_position="pre").config.norm_position == "pre"
    with pytest.raises(ValueError, match="`norm_position` must be one of post, pre, got 'Pre'"):
        VanillaEncoderModel.from_pretrained(tmp_path, norm_position="Pre")


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16])
def test_a_stack_loads_in_a_given_precision(dtype, tmp_path):
    small_model(VanillaForConditionalGeneration).to(torch.bfloat16).save_pretrained(tmp_path)
    assert VanillaEncoderModel.from_pretrained(tmp_path, dtype=dtype).dtype is torch.bfloat16


def test_a_tied_matrix_is_stored_once(tmp_path):
    small_model(VanillaForConditionalGeneration).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert [n for n in names if "embed_tokens" in n or "lm_head" in n] == ["model.encoder.embed_tokens.weight"]


def test_sharded_checkpoints_load(tmp_path):
    model = small_model(VanillaForConditionalGeneration)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_tensors(model, VanillaForConditionalGeneration.from_pretrained(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_survives(dtype, tmp_path):
    model = small_model(VanillaForConditionalGeneration).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = VanillaForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype is dtype
    assert_same_tensors(model, loaded)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize("size", [55, 20])
@pytest.mark.parametrize(
    "model_class",
    [VanillaForConditionalGeneration, VanillaModel, VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM],
)
def test_every_matrix_of_the_vocabulary_is_resized(model_class, size, tie_word_embeddings, tmp_path):
    model = small_model(model_class, tie_word_embeddings=tie_word_embeddings)
    old = {name: tensor.clone() for name, tensor in tensors_of(model).items() if tensor.shape[0] == 40}
    model.resize_token_embeddings(size)
    resized = tensors_of(model)
    assert old
    for name, before in old.items():
        assert resized[name].shape == (size, *before.shape[1:])
        assert torch.equal(resized[name][: min(size, 40)], before[:size])
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert_same_tensors(model, loaded)
    assert loaded.config.vocab_size == size
    inputs = batch_for(model_class)
    loaded(**{name: tensor.clamp(max=size - 1) for name, tensor in inputs.items()})
