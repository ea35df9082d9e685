"""The schedules in closed form, Adam as the paper sets it, and the mean of snapshots."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, get_scheduler

from hf_vanilla import VanillaConfig
from hf_vanilla.training.optim import (
    ExponentialMovingAverage,
    Muon,
    Progress,
    adam,
    average_weights,
    linear_schedule,
    make_schedule,
    noam_schedule,
    orthogonalise,
)


def rates(optimizer, scheduler, steps):
    """The learning rate that each of `steps` updates uses."""
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


@pytest.fixture
def optimizer():
    return adam([torch.nn.Parameter(torch.zeros(1))])


def test_noam_is_equation_3_from_the_first_update_on(optimizer):
    warmup = 40
    used = rates(optimizer, noam_schedule(optimizer, 512, warmup), 10 * warmup)
    assert used[0] == pytest.approx(512**-0.5 * 1 * warmup**-1.5, rel=1e-12)
    assert used[warmup - 1] == pytest.approx(512**-0.5 * warmup**-0.5, rel=1e-12)
    assert used[10 * warmup - 1] == pytest.approx(512**-0.5 * (10 * warmup) ** -0.5, rel=1e-12)
    assert max(used) == used[warmup - 1]
    assert used[1] == pytest.approx(2 * used[0])


def rates_in_time(optimizer, progress, times):
    """The learning rates of updates that end at `times` (seconds)."""
    scheduler = linear_schedule(optimizer, progress)
    used = []
    for step, elapsed in enumerate(times, start=1):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        progress.update(step, elapsed)
        scheduler.step()
    return used


def test_linear_goes_up_to_the_peak_and_ends_at_zero():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 3e-3)
    used = rates_in_time(optimizer, Progress(None, 1.1, warmup_steps=10), [0.6 * step for step in range(1, 111)])
    assert used[0] == pytest.approx(3e-4) and used[9] == pytest.approx(3e-3) and max(used) <= 3e-3
    slopes = torch.tensor(used[10:], dtype=torch.float64).diff()
    torch.testing.assert_close(slopes, slopes[0].expand_as(slopes))
    assert optimizer.param_groups[0]["lr"] == 0


def test_linear_follows_time_and_not_steps_where_time_is_short():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 1.0)
    used = rates_in_time(optimizer, Progress(10**9, 1, warmup_steps=2), [0, 0, 30, 54, 60])
    assert used == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.1], rel=1e-6) and optimizer.param_groups[0]["lr"] == 0


def test_warm_up_may_be_a_share_of_the_time():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 1.0)
    used = rates_in_time(optimizer, Progress(None, 1, warmup_steps=0.2), [6, 12, 24, 36, 48, 60])
    assert used == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25]) and optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize("name", ["noam", "linear", "cosine", "inverse_sqrt"])
def test_warm_up_may_be_a_share_of_the_updates(name):
    optimizers = [adam([torch.nn.Parameter(torch.zeros(1))], 1e-3) for _ in range(2)]
    share, number = (
        make_schedule(name, optimizer, Progress(45, None, warmup), 512)
        for optimizer, warmup in zip(optimizers, (0.2, 9), strict=True)
    )
    assert rates(optimizers[0], share, 45) == rates(optimizers[1], number, 45)


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "constant_with_warmup", "inverse_sqrt"])
def test_schedules_of_transformers_come_by_name(name):
    optimizers = [adam([torch.nn.Parameter(torch.zeros(1))], 1e-3) for _ in range(2)]
    own = make_schedule(name, optimizers[0], Progress(50, None, 10), 512)
    theirs = get_scheduler(name, optimizers[1], num_warmup_steps=10, num_training_steps=50)
    assert rates(optimizers[0], own, 50) == rates(optimizers[1], theirs, 50)


def test_moving_average_forgets_the_first_weights_and_then_follows_slowly():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = ExponentialMovingAverage(model, 0.9)
    expected = 0.0
    for step in range(1, 200):
        torch.nn.init.constant_(model.weight, step)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected) == pytest.approx(199 - 9, abs=0.1)


def test_adam_has_the_papers_settings_and_is_fused():
    settings = adam([torch.nn.Parameter(torch.zeros(1))], 0.5).param_groups[0]
    assert (settings["betas"], settings["eps"], settings["lr"], settings["fused"]) == ((0.9, 0.98), 1e-9, 0.5, True)


def test_average_is_the_mean_of_each_tensor_in_its_own_type():
    halves = torch.tensor([[1], [2], [6]], dtype=torch.bfloat16)
    states = [{"weight": torch.full((2,), half.item()), "half": half} for half in halves]
    mean = average_weights(states)
    assert mean["weight"].tolist() == [3.0, 3.0]
    assert mean["half"].item() == 3.0 and mean["half"].dtype == torch.bfloat16
    assert average_weights(states[:1])["weight"].equal(states[0]["weight"])


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="states is empty"):
        average_weights([])
    with pytest.raises(ValueError, match="different keys"):
        average_weights([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 9), scale=st.floats(1e-6, 1e6))
def test_what_is_orthogonalised_keeps_its_directions_and_loses_its_singular_values(rows, columns, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(3, rows, columns, generator=generator), full_matrices=False)
    values = torch.linspace(0.2, 1, u.shape[-1]).expand(3, -1)  # the polynomial has five steps, and no more, for 0.2
    found = orthogonalise(scale * u @ values.diag_embed() @ v)
    turned = u.mT @ found @ v.mT
    diagonal = turned.diagonal(dim1=1, dim2=2)
    assert (diagonal > 0.6).all() and (diagonal < 1.25).all()
    torch.testing.assert_close(turned, diagonal.diag_embed(), atol=2e-3, rtol=0)


@pytest.fixture
def small_model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "N": 1}
    return AutoModelForSeq2SeqLM.from_config(VanillaConfig(**sizes))


def test_muon_moves_matrices_as_torch_s_and_the_rest_as_adam(small_model):
    matrices = {name for name, weight in small_model.named_parameters() if weight.dim() == 2 and "embed" not in name}
    start = {name: weight.detach().clone() for name, weight in small_model.named_parameters()}
    expected = {name: torch.nn.Parameter(weight.clone()) for name, weight in start.items()}
    muon = Muon(small_model, 1e-2, torch.bfloat16)
    alone = [expected[name] for name in expected if name in matrices]
    peer = torch.optim.Muon(alone, 1e-2, weight_decay=0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    rest = adam([expected[name] for name in expected if name not in matrices], 1e-2)
    for _ in range(4):
        for name, weight in small_model.named_parameters():
            weight.grad = torch.randn_like(weight)
            expected[name].grad = weight.grad.clone()
        for each in (muon, peer, rest):
            each.step()
    assert len(matrices) == 2 + 4 + 2 + 4 + 4  # two attentions of the decoder, one of the encoder, two feed-forwards
    for name, weight in small_model.named_parameters():
        moved, other = weight - start[name], expected[name] - start[name]
        tolerance = 0.02 * other.abs().max().item() if name in matrices else 1e-7  # torch's rounds to bfloat16
        torch.testing.assert_close(moved, other, atol=tolerance, rtol=0, msg=name)


def test_muon_goes_on_from_its_state(small_model):
    def move(model, optimizer, seed):
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()

    muon = Muon(small_model, 1e-2)
    move(small_model, muon, 1)
    again = AutoModelForSeq2SeqLM.from_config(small_model.config)
    again.load_state_dict(small_model.state_dict())
    resumed = Muon(again, 1.0)
    resumed.load_state_dict(copy.deepcopy(muon.state_dict()))
    for model, optimizer in ((small_model, muon), (again, resumed)):
        move(model, optimizer, 2)
    assert all(map(torch.equal, small_model.parameters(), again.parameters()))
