"""The schedules in closed form, Adam as the paper sets it, and the mean of snapshots."""

import pytest
import torch
from transformers import get_scheduler

from hf_vanilla.training.optim import (
    ExponentialMovingAverage,
    Progress,
    adam,
    average_weights,
    linear_schedule,
    make_schedule,
    noam_schedule,
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
