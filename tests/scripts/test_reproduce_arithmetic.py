"""The paper's arithmetic, against what is worked out by hand or counted by torch."""

import runpy
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import SinusoidalPositionalEmbedding
from hf_vanilla.training.optim import noam_schedule

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPTS / "reproduce_arithmetic.py"))


def by_hand(d=512, d_ff=2048, keys=512, values=512, layers=6, vocabulary=37_000):
    """Parameters, biases and all: an encoder layer attends once, a decoder layer twice."""
    attention = 2 * (d * keys + keys) + (d * values + values) + (values * d + d)
    network, norm = 2 * d * d_ff + d_ff + d, 2 * d
    return layers * (3 * attention + 2 * network + 5 * norm) + vocabulary * d


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ("base", {}),
        ("A: h 32, d_k 16", {}),
        ("B: d_k 16", {"keys": 8 * 16}),
        ("C: N 2", {"layers": 2}),
        ("C: d_model 256, d_k 32", {"d": 256, "keys": 256, "values": 256}),
        ("C: d_model 1024, d_k 128", {"d": 1024, "keys": 1024, "values": 1024}),
        ("C: d_ff 4096", {"d_ff": 4096}),
        ("big", {"d": 1024, "d_ff": 4096, "keys": 1024, "values": 1024}),
    ],
)
def test_parameters_are_those_counted_by_hand(script, row, shape):
    fields = {name: fields for name, fields, _ in script["TABLE_3"]}[row]
    total, body, width = script["count"](fields)
    assert total == by_hand(**shape)
    assert (body, width) == (by_hand(**shape, vocabulary=0), shape.get("d", 512))


def test_one_vocabulary_explains_every_count_of_table_3_but_the_big_model_s(script):
    rows = {name: (paper, *script["count"](fields)) for name, fields, paper in script["TABLE_3"] if paper}
    base, off = rows["base"], set()
    for name, (paper, total, _, _) in rows.items():
        if abs((total - base[1]) / 1e6 - (paper - base[0])) > 1:
            off.add(name)
    assert off == {"C: d_model 1024, d_k 128", "big"}  # at a vocabulary of 37,000
    low, high, others = script["most_agreed"](
        {name: script["vocabularies"](paper, body, width) for name, (paper, _, body, width) in rows.items()}
    )
    assert others == ["big"]
    for vocabulary in (low, high):
        assert all(round((b + vocabulary * d) / 1e6) == paper for n, (paper, _, b, d) in rows.items() if n != "big")
    for vocabulary in (low - 1, high + 1):
        assert any(round((b + vocabulary * d) / 1e6) != paper for n, (paper, _, b, d) in rows.items() if n != "big")


def test_the_range_that_most_intervals_share(script):
    intervals = {"a": (0, 10), "b": (5, 20), "c": (8, 9), "d": (30, 40)}
    assert script["most_agreed"](intervals) == (8, 9, ["d"])


@pytest.mark.parametrize(("width", "warmup"), [(512, 4000), (1024, 100)])
def test_the_curve_is_equation_3(script, width, warmup):
    step = torch.arange(1, 5001).double()
    expected = width**-0.5 * torch.minimum(step**-0.5, step * warmup**-1.5)
    curve = script["rates"](width, warmup, 5000)
    torch.testing.assert_close(curve, expected, rtol=1e-14, atol=0)
    assert int(curve.argmax()) + 1 == warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule = noam_schedule(optimizer, width, warmup)
    for rate in curve[:200]:
        assert optimizer.param_groups[0]["lr"] == rate
        optimizer.step(), schedule.step()


@pytest.mark.parametrize("width", [6, 512])
def test_a_shift_of_positions_is_a_matrix(script, width):
    positions, encode, shift = torch.arange(2000), script["encodings"], script["shift"]
    eps = torch.finfo(torch.float64).eps
    for offset in (0, 1, 64, 5000):
        matrix = shift(offset, width)
        error = (encode(positions + offset, width) - encode(positions, width) @ matrix.T).abs().max()
        assert error < 10_000 * eps  # an angle of so many radians is known to half of that
        blocks = torch.stack([matrix[i : i + 2, i : i + 2] for i in range(0, width, 2)])
        torch.testing.assert_close(script["fitted_shift"](offset, width, positions), blocks, rtol=0, atol=1e-7)
    torch.testing.assert_close(shift(7, width) @ shift(-2, width), shift(5, width), rtol=0, atol=1e-12)
    assert not torch.allclose(encode(positions + 1, width), encode(positions, width) @ shift(2, width).T, atol=0.1)


def test_encodings_are_those_of_the_model(script):
    module = SinusoidalPositionalEmbedding(VanillaConfig(d_model=64, h=2))
    positions = torch.arange(3000)
    torch.testing.assert_close(module(positions[None])[0], script["encodings"](positions, 64).float(), rtol=0, atol=0)


def test_training_costs_are_the_paper_s_to_two_digits(script):
    for name, paper, gpus, _, days, tflops in script["TABLE_2"]:
        assert float(f"{days * 86400 * gpus * tflops * 1e12:.1e}") == paper, name


@pytest.mark.parametrize(
    ("name", "constant"), [("self-attention", 2), ("recurrent", 8), ("convolutional", 1), ("restricted", 2)]
)
def test_operations_of_table_1_are_those_that_torch_counts(script, name, constant):
    """But for a constant: attention makes two products, an LSTM four gates of two."""
    layers = runpy.run_path(str(SCRIPTS / "benchmark_layers.py"))
    for n, d, k, r in ((12, 8, 3, 5), (24, 8, 3, 5), (12, 32, 5, 7)):
        layer = layers["Recurrent"](d, by_step=True) if name == "recurrent" else layers["LAYERS"][name](d, k, r)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(torch.randn(n, d))
        assert counter.get_total_flops() == 2 * constant * script["TABLE_1"][name][3](n, d, k, r)


def test_all_of_it_is_printed_and_drawn_and_is_what_the_card_says(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reproduce_arithmetic.py", str(tmp_path)])
    script["main"]()
    printed = capsys.readouterr().out
    assert "all of the paper's counts but those of: big." in printed
    counted, torch_counted = (
        next(line for line in printed.splitlines() if start in line).split("|")[2:4]
        for start in ("forward and backward", "by torch.utils.flop_counter")
    )
    assert counted == torch_counted
    for name in ("paper_schedule.png", "paper_positions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    card = (SCRIPTS.parent / "model_cards" / "paper.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in printed.splitlines() if line.startswith("|") and "e-1" not in line]  # no rounding errors
    assert len(rows) > 60 and [row for row in rows if row not in card] == []
