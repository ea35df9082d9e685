"""The three configurations: defaults, the paper's names, round trips. What they refuse is in test_bad_input.py."""

import pytest
from families import small_config

from hf_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig

CONFIGS = [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_default_is_the_base_model_of_the_paper(config_class):
    config = config_class()
    sizes = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_hidden_layers)
    assert sizes == (512, 2048, 8, 6)
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0, 0)
    assert (config.norm_position, config.position_embedding_type) == ("post", "sinusoidal")
    assert config.scale_embedding and config.tie_word_embeddings and not config.embedding_norm


@pytest.mark.parametrize("config_class", CONFIGS)
def test_names_of_the_paper(config_class):
    config = config_class(d_model=24, d_ff=48, h=3, d_k=4, d_v=5, P_drop=0.2)
    fields = ("hidden_size", "intermediate_size", "num_attention_heads", "qk_head_dim", "v_head_dim", "dropout")
    assert [getattr(config, field) for field in fields] == [24, 48, 3, 4, 5, 0.2]
    assert (config.d_model, config.d_ff, config.h, config.d_k, config.d_v, config.P_drop) == (24, 48, 3, 4, 5, 0.2)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_saved_and_loaded_config_is_equal(config_class, tmp_path):
    config = small_config(config_class, qk_head_dim=3, norm_position="pre", activation_function="gelu", dropout=0.25)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_generation_finds_the_depth_of_each_stack():
    """Caches read their number of layers from `num_hidden_layers` of the decoder's view of the configuration."""
    config = VanillaConfig(encoder_layers=2, decoder_layers=5)
    assert config.get_text_config(decoder=True).num_hidden_layers == 5
    assert config.get_text_config(encoder=True).num_hidden_layers == 2
