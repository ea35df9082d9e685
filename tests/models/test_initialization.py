"""How weights start, and how many there are."""

import pytest
import torch
from families import MODELS, small_model
from torch import nn

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_initial_weights(model_class, norm_position):
    """N(0, 0.02^2), or N(0, 0.02^2 / n) where one of n pre-norm sub-layers ends; biases 0; norms the identity."""
    sizes = {"vocab_size": 900, "hidden_size": 96, "intermediate_size": 160, "max_position_embeddings": 300}
    options = {"norm_position": norm_position, "position_embedding_type": "learned", "embedding_norm": True}
    depths = {"encoder_layers": 2, "decoder_layers": 3} if model_class.config_class is VanillaConfig else {}
    model = small_model(model_class, **sizes, **options, tie_word_embeddings=False, **depths)
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if module.weight.numel() > 2_000:
                ends_sublayer = norm_position == "pre" and name.endswith(("o_proj", "linear2"))
                sublayers = 9 if "decoder" in name and model.config.is_encoder_decoder else 4
                std = 0.02 / sublayers**0.5 if ends_sublayer else 0.02
                assert module.weight.std().item() == pytest.approx(std, rel=0.05), name
                assert abs(module.weight.mean().item()) < 0.05 * 0.02, name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
        else:
            assert not list(module.parameters(recurse=False)), name
            continue
        if module.bias is not None if hasattr(module, "bias") else False:
            assert (module.bias == 0).all(), name
        seen.add(name)
    assert {name.rpartition(".")[0] for name, _ in model.named_parameters()} == seen


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_initial_weights_by_the_authors_rule(model_class, norm_position):
    """Matrices uniform in +-sqrt(6 / (fan_in + fan_out)), embeddings and learned positions from N(0, 1 / d_model)."""
    sizes = {"vocab_size": 900, "hidden_size": 96, "intermediate_size": 160, "max_position_embeddings": 300}
    options = {"norm_position": norm_position, "position_embedding_type": "learned", "initializer": "xavier"}
    model = small_model(model_class, **sizes, **options, tie_word_embeddings=False)
    kinds = set()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.numel() > 2_000:
            weight, is_matrix = module.weight, isinstance(module, nn.Linear)
            bound = (6 / sum(weight.shape)) ** 0.5
            std, fourth = (bound / 3**0.5, 9 / 5) if is_matrix else (96**-0.5, 3)
            assert weight.std().item() == pytest.approx(std, rel=0.05), name
            assert (weight / weight.std()).pow(4).mean().item() == pytest.approx(fourth, rel=0.1), name
            assert not is_matrix or weight.abs().max() <= bound
            assert not is_matrix or module.bias is None or (module.bias == 0).all(), name
            kinds.add(is_matrix)
    assert kinds == {True, False}


def test_shared_matrix_starts_as_embedding():
    """Tying wins over the output layer's own initialisation, whatever the order in which both happen."""
    model = small_model(VanillaForConditionalGeneration, vocab_size=900, hidden_size=96)
    tables = [model.lm_head.weight, model.model.encoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight]
    assert len({table.data_ptr() for table in tables}) == 1
    assert tables[0].std().item() == pytest.approx(0.02, rel=0.02)


# Table 3 of the paper: what a row changes in the base model, and its parameters in millions.
TABLE_3 = [
    ({"d_k": 16}, 58),
    ({"d_k": 32}, 60),
    ({"N": 2}, 36),
    ({"N": 4}, 50),
    ({"N": 8}, 80),
    ({"d_model": 256, "d_k": 32, "d_v": 32}, 28),
    ({"d_model": 1024, "d_k": 128, "d_v": 128}, 168),
    ({"d_ff": 1024}, 53),
    ({"d_ff": 4096}, 90),
    ({"d_model": 1024, "d_ff": 4096, "h": 16}, 213),
]


def millions(**changes: int) -> float:
    """Parameters of the paper's model with `changes`, a shared matrix counted once."""
    with torch.device("meta"):
        model = VanillaForConditionalGeneration(VanillaConfig(**changes))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(("changes", "paper"), TABLE_3)
def test_parameters_of_table_3(changes, paper):
    """Differences to base agree: within 1M where the embeddings are as wide as in base; the paper does not give its
    vocabulary's size, which shows in the rows of another width."""
    tolerance = 3.5 if "d_model" in changes else 1.0
    assert millions(**changes) - millions() == pytest.approx(paper - 65, abs=tolerance)


def test_base_model_is_about_as_large_as_the_paper_says():
    """44.1M in the layers and 37,000 x 512 in the shared matrix; the paper rounds to 65M with its own vocabulary."""
    layer = 4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512
    cross_attention = 4 * (512 * 512 + 512) + 2 * 512
    assert millions() == pytest.approx((12 * layer + 6 * cross_attention + 37_000 * 512) / 1e6, abs=1e-9)
    assert millions() == pytest.approx(65, abs=2.5)
