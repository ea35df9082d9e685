"""Fields by which models of transformers compute something else: what our models cannot do is refused by its name."""

import pytest
from families import small_config, small_model
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from hf_vanilla import (
    RecurrentConfig,
    RecurrentModel,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderModel,
    VanillaEncoderConfig,
    VanillaEncoderModel,
    VanillaModel,
)

MODELS = [VanillaModel, VanillaEncoderModel, VanillaDecoderModel, RecurrentModel]
CONFIGS = [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig, RecurrentConfig]
ANYWHERE = [
    {"tie_encoder_decoder": True},
    {"pruned_heads": {0: [1]}},
    {"cross_attention_hidden_size": 8},
    {"sliding_window": 4},
    {"layer_types": ["full_attention"]},
    {"rope_theta": 10000.0},
    {"encoder_layerdrop": 0.1},
    {"final_logit_softcapping": 30.0},
    {"per_layer_config": {0: {"dropout": 0.5}}},
]
# What the family is not.
IN_FAMILY = [
    (VanillaConfig, {"is_encoder_decoder": False}),
    (VanillaConfig, {"is_decoder": True}),
    (VanillaConfig, {"is_causal": False}),
    (VanillaEncoderConfig, {"is_decoder": True}),
    (VanillaEncoderConfig, {"add_cross_attention": True}),
    (VanillaEncoderConfig, {"is_encoder_decoder": True}),
    (VanillaEncoderConfig, {"is_causal": True}),
    (VanillaDecoderConfig, {"is_causal": False}),
    (VanillaDecoderConfig, {"use_bidirectional_attention": True}),
    (VanillaDecoderConfig, {"add_cross_attention": True}),
    (VanillaDecoderConfig, {"is_encoder_decoder": True}),
    (RecurrentConfig, {"is_encoder_decoder": False}),
    (RecurrentConfig, {"is_decoder": True}),
]


@pytest.mark.parametrize(
    ("config_class", "field"), [(each, field) for each in CONFIGS for field in ANYWHERE] + IN_FAMILY, ids=str
)
def test_what_would_change_nothing_is_refused(config_class, field):
    (name,) = field
    with pytest.raises(StrictDataclassError, match=f"has no `{name}="):
        small_config(config_class, **field)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_what_is_so_anyway_may_be_said(config_class):
    """Configurations that transformers 4 wrote name fields that are switched off."""
    off = {"is_decoder": False, "add_cross_attention": False, "tie_encoder_decoder": False, "pruned_heads": {}}
    small_config(config_class, chunk_size_feed_forward=0, cross_attention_hidden_size=None, sliding_window=None, **off)


def test_a_decoder_is_one():
    small_config(VanillaDecoderConfig, is_decoder=True, is_causal=True)


@pytest.mark.parametrize("model_class", MODELS)
def test_fields_given_later_are_refused_too(model_class, tmp_path):
    """To `from_pretrained`, which drops what a configuration does not have, and to a configuration that there is."""
    model = small_model(model_class)
    model.save_pretrained(tmp_path)
    for load in (model_class, type(model.config), AutoModel, AutoConfig):
        with pytest.raises(StrictDataclassError, match="has no `tie_encoder_decoder=True`"):
            load.from_pretrained(tmp_path, tie_encoder_decoder=True)
        load.from_pretrained(tmp_path, tie_encoder_decoder=False)
    model.config.pruned_heads = {0: [1]}
    with pytest.raises(ValueError, match="has no `pruned_heads={0: "):
        model_class(model.config)
