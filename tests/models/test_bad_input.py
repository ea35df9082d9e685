"""Each bad configuration or batch gets one error that names the field or argument and what would be right."""

import pytest
import torch
from families import BASES, HEADS, MODELS, VOCABULARY, batch_for, small_config, small_model
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig, BertForMaskedLM

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForMultipleChoice,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaForConditionalGeneration,
    VanillaModel,
)

SIZES = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "qk_head_dim",
    "v_head_dim",
    "max_position_embeddings",
]

# Fields, and what the message says: the field first, then the remedy.
BAD_FIELDS = [
    *(({name: value}, rf"`{name}`.* at least 1, got {value}") for name in SIZES for value in (0, -2)),
    *(
        ({name: value}, rf"`{name}`.*\[0, 1\), got {value}")
        for name in ("dropout", "attention_dropout", "activation_dropout")
        for value in (-0.1, 1.0, 1.5, float("nan"))
    ),
    ({"hidden_size": 18}, r"`hidden_size` \(18\).*multiple of `num_attention_heads`.*4"),
    ({"hidden_size": 15, "num_attention_heads": 3}, r"`hidden_size` must be even.*15.*learned"),
    ({"activation_function": "rleu"}, r"`activation_function` must be one of .*relu.*'rleu'"),
    ({"position_embedding_type": "rotary"}, r"`position_embedding_type` must be one of sinusoidal, learned.*'rotary'"),
    ({"norm_position": "middle"}, r"`norm_position` must be one of post, pre.*'middle'"),
    ({"layer_norm_eps": 0.0}, r"`layer_norm_eps` must be positive"),
]


@pytest.mark.parametrize("config_class", [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig])
@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_field(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=f"ValueError: {message}"):
        small_config(config_class, **fields)


@pytest.mark.parametrize(
    ("config_class", "depth"),
    [
        (VanillaConfig, "encoder_layers"),
        (VanillaConfig, "decoder_layers"),
        (VanillaEncoderConfig, "num_hidden_layers"),
        (VanillaDecoderConfig, "num_hidden_layers"),
    ],
)
def test_bad_depth(config_class, depth):
    with pytest.raises(StrictDataclassError, match=f"`{depth}`.* at least 1, got 0"):
        small_config(config_class, **{depth: 0})


def test_heads_of_given_width_need_not_divide_hidden_size():
    assert small_config(VanillaConfig, hidden_size=18, qk_head_dim=5, v_head_dim=3).hidden_size == 18


def test_odd_hidden_size_with_learned_positions():
    config = small_config(
        VanillaEncoderConfig, hidden_size=15, num_attention_heads=3, position_embedding_type="learned"
    )
    assert config.hidden_size == 15


def change(**changes):
    """Edits of a good batch: a function replaces the argument by its value at it, None removes it."""

    def edit(batch):
        for name, value in changes.items():
            batch[name] = value(batch.get(name)) if callable(value) else value
        return {name: value for name, value in batch.items() if value is not None}

    return edit


def set_last(value):
    """Replaces the last entry by `value`."""

    def edit(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return edit


def shorter(tensor):
    """One element less in the last dimension."""
    return tensor[..., :-1]


EMBEDDINGS = torch.zeros(3, 7, 16)
SEQ2SEQ = [VanillaModel, VanillaForConditionalGeneration]
LABELLED = [
    VanillaForConditionalGeneration,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForTokenClassification,
    VanillaDecoderForCausalLM,
]
ONE_SOURCE = r"[Ee]xactly one of `input_ids` and `inputs_embeds`"
ONE_TARGET = r"[Ee]xactly one of `decoder_input_ids` and `decoder_inputs_embeds`"

# A model, what is wrong with its batch, and what the message says: the argument, what would be right, what was given.
BAD_BATCHES = [
    *((model, change(input_ids=set_last(VOCABULARY)), r"`input_ids`.*\[0, 40\).*vocab_size.*40") for model in MODELS),
    *((model, change(input_ids=set_last(-1)), r"`input_ids`.*\[0, 40\).*vocab_size.*-1") for model in MODELS),
    *((model, change(input_ids=lambda ids: ids.float()), r"`input_ids`.*integers.*float32") for model in MODELS),
    *((model, change(decoder_input_ids=set_last(99)), r"`decoder_input_ids`.*\[0, 40\).*99") for model in SEQ2SEQ),
    *((model, change(input_ids=None), ONE_SOURCE) for model in [*BASES, VanillaForConditionalGeneration]),
    *((model, change(inputs_embeds=EMBEDDINGS), ONE_SOURCE) for model in [*BASES, VanillaForConditionalGeneration]),
    *((model, change(decoder_inputs_embeds=EMBEDDINGS), ONE_TARGET) for model in SEQ2SEQ),
    (
        VanillaForConditionalGeneration,
        change(decoder_input_ids=None, decoder_attention_mask=None, labels=None),
        r"`labels`, `decoder_input_ids` or `decoder_inputs_embeds`",
    ),
    *(
        (model, change(input_ids=None, inputs_embeds=EMBEDDINGS[..., :-1]), r"`inputs_embeds`.*16.*15")
        for model in BASES
    ),
    *((model, change(attention_mask=shorter), r"`attention_mask`.*\(3, 7\).*\(3, 6\)") for model in BASES),
    *((model, change(attention_mask=lambda mask: mask[0]), r"`attention_mask`.*\(3, 7\).*\(7,\)") for model in BASES),
    *(
        (model, change(attention_mask=lambda mask: mask[:2]), r"`attention_mask`.*\(3, 7\).*\(2, 7\)")
        for model in BASES
    ),
    *(
        (model, change(decoder_attention_mask=shorter), r"`decoder_attention_mask`.*\(3, 5\).*\(3, 4\)")
        for model in SEQ2SEQ
    ),
    *((model, change(labels=shorter), r"`labels`.*\(3, \d\).*\(3, \d\)") for model in LABELLED),
    *((model, change(labels=lambda labels: labels[:2]), r"`labels`.*\(3, \d\).*\(2, \d\)") for model in LABELLED),
    *(
        (model, change(labels=set_last(99)), r"`labels`.*\[0, \d+\).*99")
        for model in [*LABELLED, VanillaEncoderForSequenceClassification, VanillaEncoderForMultipleChoice]
    ),
    (VanillaEncoderForSequenceClassification, change(labels=shorter), r"`labels`.*\(3,\).*\(2,\)"),
    (VanillaEncoderForMultipleChoice, change(labels=shorter), r"`labels`.*\(3,\).*\(2,\)"),
    (
        VanillaEncoderForMultipleChoice,
        change(input_ids=lambda ids: ids[:, 0]),
        r"`input_ids`.*\(batch, choices, length\)",
    ),
    (VanillaEncoderForQuestionAnswering, change(start_positions=shorter), r"`start_positions`.*\(3,\).*\(2,\)"),
    (VanillaEncoderForQuestionAnswering, change(end_positions=None), r"both `start_positions` and `end_positions`"),
    (VanillaDecoderForCausalLM, change(labels=lambda labels: labels.clone().fill_(99)), r"`labels`.*\[0, 40\).*99"),
    *((model, change(position_ids=torch.arange(6)[None]), r"`position_ids`.*\(1, 6\)") for model in BASES),
    *((model, change(position_ids=torch.arange(7).repeat(2, 1)), r"`position_ids`.*\(2, 7\)") for model in BASES),
    *(
        (
            model,
            change(labels=lambda labels: labels[0], decoder_input_ids=None, decoder_attention_mask=None),
            r"`labels`.*\(\d,\)",
        )
        for model in (VanillaForConditionalGeneration, VanillaDecoderForCausalLM)
    ),
    *(
        (model, change(decoder_position_ids=torch.arange(6)[None]), r"`decoder_position_ids`.*\(1, 6\)")
        for model in SEQ2SEQ
    ),
    *(
        (model, change(input_ids=lambda ids: ids[:, :0], attention_mask=None), r"`input_ids`.*length >= 1.*\(3, 0\)")
        for model in BASES
    ),
    *(
        (
            model,
            change(decoder_input_ids=lambda ids: ids[:2], decoder_attention_mask=None, labels=None),
            r"`input_ids` and `decoder_input_ids`.*3 sources and 2 targets",
        )
        for model in SEQ2SEQ
    ),
]


@pytest.mark.parametrize(("model_class", "edit", "message"), BAD_BATCHES)
def test_bad_batch(model_class, edit, message):
    batch = batch_for(model_class)
    model = small_model(model_class)
    model(**batch)
    with pytest.raises(ValueError, match=message):
        model(**edit(batch))


def test_mask_shorter_than_the_cache():
    """It has to cover the tokens before, not those of this step alone."""
    model = small_model(VanillaDecoderForCausalLM)
    batch = batch_for(VanillaDecoderForCausalLM, labels=False)
    cache = model(**batch, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"`attention_mask`.*\(3, 3\)"):
        model(batch["input_ids"][:, :1], attention_mask=batch["attention_mask"][:, :3], past_key_values=cache)


@pytest.mark.parametrize("model_class", BASES)
def test_position_past_a_learned_table(model_class):
    model = small_model(model_class, position_embedding_type="learned", max_position_embeddings=6)
    with pytest.raises(ValueError, match=r"`position_ids`.*\[0, 6\).*max_position_embeddings.*6"):
        model(**batch_for(model_class))


@pytest.mark.parametrize("model_class", BASES[1:])
def test_position_ids_past_a_learned_table(model_class):
    model = small_model(model_class, position_embedding_type="learned")
    batch = batch_for(model_class)
    for bad in (32, -1):
        with pytest.raises(ValueError, match=rf"`position_ids`.*\[0, 32\).*{bad}"):
            model(**batch, position_ids=set_last(bad)(torch.arange(7)[None]))


@pytest.fixture(scope="module")
def bert_checkpoint(tmp_path_factory):
    """A folder with a small BERT."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(**sizes, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_class", MODELS)
def test_checkpoint_of_another_model_type(model_class, bert_checkpoint):
    expected = model_class.config_class.model_type
    with pytest.raises(ValueError, match=rf"(?s)bert.*{expected}"):
        model_class.from_pretrained(bert_checkpoint)
    with pytest.raises(ValueError, match=rf"(?s)bert.*{expected}"):
        model_class.config_class.from_pretrained(bert_checkpoint)


@pytest.mark.parametrize("saved", HEADS)
@pytest.mark.parametrize("loaded", BASES)
def test_checkpoint_of_another_family(loaded, saved, tmp_path):
    ours, theirs = loaded.config_class, saved.config_class
    if ours is theirs or theirs is VanillaConfig:
        return  # the same family, or a stack of an encoder-decoder: these load
    small_model(saved).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{theirs.model_type}.*{ours.model_type}"):
        loaded.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == theirs.model_type
