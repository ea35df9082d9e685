"""The schedules in closed form, Adam as the paper sets it, and the mean of snapshots."""

import itertools

import pytest
import torch

from hf_vanilla.optim import adam, average_weights, linear_schedule, noam_schedule


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


def test_linear_goes_up_to_the_peak_and_ends_at_zero():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 3e-3)
    progress = itertools.count()
    used = rates(optimizer, linear_schedule(optimizer, 10, lambda: next(progress) / 110), 110)
    assert used[0] == pytest.approx(3e-4) and used[9] == pytest.approx(3e-3) and max(used) <= 3e-3
    slopes = torch.tensor(used[10:], dtype=torch.float64).diff()
    torch.testing.assert_close(slopes, slopes[0].expand_as(slopes))
    assert optimizer.param_groups[0]["lr"] == 0


def test_linear_follows_time_and_not_steps_where_time_is_short():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 1.0)
    progress = iter([0.0, 0.0, 0.0, 0.5, 0.9, 1.0, 1.0])
    scheduler = linear_schedule(optimizer, 2, lambda: next(progress))
    assert rates(optimizer, scheduler, 6) == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.1, 0.0])


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
