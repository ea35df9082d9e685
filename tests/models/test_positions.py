"""Sinusoidal positions against 50-digit arithmetic, learned positions against their table."""

import mpmath
import pytest
import torch
from families import BASES, batch_for, small_config, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import LearnedPositionalEmbedding, SinusoidalPositionalEmbedding

POSITIONS = [0, 1, 2, 31, 511, 512, 4_095, 10_000, 65_537, 100_000]


def sinusoids(position_ids, hidden_size: int = 16) -> torch.Tensor:
    """The module's encodings (length, hidden_size) of a list of positions."""
    config = small_config(VanillaConfig, hidden_size=hidden_size, num_attention_heads=1)
    return SinusoidalPositionalEmbedding(config)(torch.tensor([position_ids]))[0]


@pytest.mark.parametrize("hidden_size", [2, 6, 64, 512])
def test_sinusoids_are_exact_to_float32(hidden_size):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(the same): even columns are sines."""
    encodings = sinusoids(POSITIONS, hidden_size)
    assert encodings.dtype == torch.float32
    columns = {*range(min(8, hidden_size)), hidden_size // 2, hidden_size - 2, hidden_size - 1}
    with mpmath.workdps(50):
        for row, position in enumerate(POSITIONS):
            for column in columns:
                angle = position / mpmath.mpf(10_000) ** (mpmath.mpf(column - column % 2) / hidden_size)
                exact = mpmath.cos(angle) if column % 2 else mpmath.sin(angle)
                # Half a unit in the last place of float32, and a little for the angle's own rounding in float64.
                limit = 2**-24 * abs(exact) + 1e-10
                assert abs(float(encodings[row, column]) - exact) <= limit, (position, column)


def test_position_zero_alternates_zero_and_one():
    torch.testing.assert_close(sinusoids([0], 6)[0], torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), atol=0, rtol=0)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(position=st.integers(0, 50_000), offset=st.integers(0, 50_000))
def test_an_offset_is_a_rotation(position, offset):
    """Section 3.5: PE(pos + k) is a linear function of PE(pos), the same at every position."""
    here, there, turn = sinusoids([position, position + offset, offset]).double().view(3, -1, 2)
    (sine, cosine), (turn_sine, turn_cosine) = here.unbind(-1), turn.unbind(-1)
    rotated = torch.stack([sine * turn_cosine + cosine * turn_sine, cosine * turn_cosine - sine * turn_sine], dim=-1)
    torch.testing.assert_close(rotated, there, atol=3e-7, rtol=0)


def test_positions_beyond_any_table():
    """No upper length: a stack takes more tokens than `max_position_embeddings`, and far positions."""
    for model_class in BASES:
        model = small_model(model_class, max_position_embeddings=4)
        assert model(**batch_for(model_class, length=50))[0].isfinite().all()
    assert sinusoids([10_000_000]).isfinite().all()


@pytest.mark.parametrize("model_class", BASES[1:])
def test_half_precision_positions_are_not_rounded_before_the_sine(model_class):
    """bfloat16 has 8 bits: positions 256 and 257 are the same number in it, but not the same position."""
    model = small_model(model_class).bfloat16()
    positions = torch.tensor([[256, 257]])
    torch.testing.assert_close(model.embed_positions(positions)[0], sinusoids([256, 257]), atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.embed_positions(positions)[0], sinusoids([256, 257]), atol=0, rtol=0)


@pytest.mark.parametrize("model_class", BASES[1:])
@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_position_ids_are_absolute(model_class, kind):
    """Given 0, 1, 2, ... they change nothing; shifted by 5 they give what the table has from 5 on."""
    model = small_model(model_class, position_embedding_type=kind)
    batch = batch_for(model_class)
    default = model(**batch)[0]
    positions = torch.arange(7)[None]
    torch.testing.assert_close(model(**batch, position_ids=positions)[0], default, atol=0, rtol=0)
    shifted = model(**batch, position_ids=positions + 5)[0]
    assert (shifted - default).abs().max() > 1e-3

    scaled = model.embed_tokens(batch["input_ids"]) * 4  # sqrt(16)
    sums = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: sums.append(arguments[0]))
    model(**batch, position_ids=positions + 5)
    torch.testing.assert_close(sums[0], scaled + model.embed_positions(positions + 5))


def test_learned_positions_are_rows_of_their_table():
    table = LearnedPositionalEmbedding(small_config(VanillaConfig, position_embedding_type="learned"))
    assert table.weight.shape == (32, 16)
    torch.testing.assert_close(table(torch.tensor([[3, 31]]))[0], table.weight[[3, 31]], atol=0, rtol=0)
