"""Updates that go wrong: what fp16 skips is counted, what failed is never saved, a process that is missing is named.
And the host reads once what an update did."""

import dataclasses
import json
import math
import textwrap
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from families import small_model
from test_training import read_log, start
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vanilla import VanillaForConditionalGeneration
from hf_vanilla.training import step
from hf_vanilla.training.loop import MOST_SKIPPED, train
from hf_vanilla.training.optim import adam, make_optimizer


def changed(monkeypatch, change):
    """Let `change(number, outcome)` return what each update of a run tells instead of its outcome."""
    numbers, outcomes = iter(range(1, 10**6)), step.Update.outcome
    monkeypatch.setattr(step.Update, "outcome", lambda update: change(next(numbers), outcomes(update)))


def test_the_scaler_of_fp16_skips_an_update_and_the_step_says_so(monkeypatch):
    """Its scale is 2^126: a loss of 8 overflows float32, one of 1/8 does not."""
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(1, 1, bias=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    accelerator.scaler = scaler
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")  # which Accelerate lets GPUs alone have
    optimizer = AcceleratedOptimizer(adam(model.parameters(), 1e-2), scaler=scaler)
    accelerator._optimizers = [optimizer]
    losses = iter((8.0, 0.125))
    task = SimpleNamespace(
        loss=lambda model, batch, tokens: model.weight.sum() * next(losses), config=SimpleNamespace(max_grad_norm=None)
    )
    batch = SimpleNamespace(to=lambda *args, **options: None)
    before = model.weight.detach().clone()
    first = step.training_step(task, model, optimizer, accelerator, [batch], 1)
    assert first.outcome().was_skipped and model.weight.equal(before)
    second = step.training_step(task, model, optimizer, accelerator, [batch], 1)
    assert not second.outcome().was_skipped and not model.weight.equal(before)


def test_updates_that_fp16_skips_are_counted_in_the_log_and_the_summary(config, tmp_path, monkeypatch):
    changed(monkeypatch, lambda number, outcome: outcome._replace(was_skipped=number in (2, 3, 7)))
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=8))
    counts = [record.get("skipped_updates", 0) for record in read_log(folder) if "loss" in record]
    assert counts == [0, 1, 2, 2, 2, 2, 3, 3]
    assert json.loads((folder / "training_summary.json").read_text())["skipped_updates"] == 3


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_run_ends_once_fp16_has_skipped_too_many_updates_in_a_row(config, tmp_path, monkeypatch, log_every):
    changed(monkeypatch, lambda number, outcome: outcome._replace(was_skipped=number > 3))
    long = dataclasses.replace(config, output_dir=str(tmp_path), max_steps=60, evaluations=1, log_every=log_every)
    message = (
        f"in fp16, {MOST_SKIPPED} updates in a row have overflowed and were skipped, at update {3 + MOST_SKIPPED}"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(long)


@pytest.mark.parametrize("bad", [6, 8, 9])
def test_an_update_that_failed_is_never_saved(config, tmp_path, monkeypatch, bad):
    """What it did is read late; but before a checkpoint, a snapshot, a validation and the end."""

    nan = {"loss": math.nan, "own_loss": math.nan}
    changed(monkeypatch, lambda number, outcome: outcome._replace(**nan) if number == bad else outcome)
    every = {"checkpoint_every": 4, "average_every": 4, "evaluations": 2, "log_every": 100}
    with pytest.raises(FloatingPointError, match=f"the loss is nan, the norm .* at update {bad}, learning rate"):
        train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=9, **every))
    saved = sorted(path.name for kind in ("checkpoints", "snapshots") for path in (tmp_path / kind).glob("step-*"))
    assert saved == ["step-4", "step-4"] if bad < 9 else ["step-4", "step-4", "step-8", "step-8"]


def test_the_log_tells_the_loss_of_its_own_updates(config, tmp_path, monkeypatch):
    losses = {}

    def note(number, outcome):
        losses[number] = outcome.loss
        return outcome

    changed(monkeypatch, note)
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=9, log_every=1))
    logged = {record["step"]: record["loss"] for record in read_log(folder) if "loss" in record}
    assert logged == pytest.approx(losses, rel=1e-6)


def test_a_process_that_the_others_wait_for_is_named(tmp_path):
    """Of three processes one sleeps; the others say which after a second."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from datetime import timedelta
            from accelerate import Accelerator
            from hf_vanilla.training import distributed

            distributed.TIMEOUT, distributed.ROLL_CALL = timedelta(seconds=2), timedelta(seconds=1)
            accelerator = Accelerator()
            hosts = distributed.Hosts(accelerator)
            with hosts.main_process_first():  # for which they wait longer
                time.sleep(4 * accelerator.is_main_process)
            assert hosts.sum([accelerator.process_index, 0.5]) == [3.0, 1.5]
            if accelerator.process_index == 1:
                time.sleep(8)
            else:
                hosts.sum([1.0])
            """
        )
    )
    process = start([str(script)], 3)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "TimeoutError: the run cannot go on, for processes are missing" in errors
    assert "Ranks 1 failed to pass monitoredBarrier" in errors


class Stopwatch:
    """Stands for an event of a GPU."""

    waited = 0

    def record(self):
        assert not Stopwatch.waited

    def synchronize(self):
        Stopwatch.waited += 1


def test_on_a_gpu_the_copy_to_the_host_is_launched_with_the_update(monkeypatch):
    """So that to read it waits for this update alone, not for what is launched after it."""
    numbers = torch.tensor([1.0, 2.0, 3.0, 0.0])
    copies, empty_like = [], torch.empty_like

    def pinned(like, device, pin_memory):
        assert (device, pin_memory) == ("cpu", True)
        copies.append(empty_like(numbers))
        return copies[-1]

    monkeypatch.setattr(torch, "empty_like", pinned)
    monkeypatch.setattr(torch.cuda, "Event", Stopwatch)
    on_gpu = mock.MagicMock(wraps=numbers, device=torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "copy_", lambda own, other, non_blocking: own.set_(numbers.clone()))
    read = step.reader(on_gpu)
    assert copies[0].tolist() == [1.0, 2.0, 3.0, 0.0] and not Stopwatch.waited
    assert step.Update([], 1, read).outcome() == (1.0, 2.0, 3.0, False) and Stopwatch.waited == 1


class Reads(TorchDispatchMode):
    """Counts how often the host reads a number of the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__.partition(".")[0] in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_an_update_waits_once_for_the_device_and_late(config, monkeypatch, optimizer):
    """Of the step and what the loop reads of it; for the passes of the models see tests/models/test_gpu_path.py."""
    accelerator = Accelerator(cpu=True)
    model = small_model(VanillaForConditionalGeneration)
    made = make_optimizer(optimizer, model, 1e-3, "no")
    task = SimpleNamespace(
        loss=lambda model, batch, tokens: sum(weight.square().sum() for weight in model.parameters()),
        config=SimpleNamespace(max_grad_norm=1.0),
    )
    batch = SimpleNamespace(to=lambda *args, **options: None)
    model, made = accelerator.prepare(model, made)
    # What is copied to a device blocks until it is there, and no mode of torch sees it.
    monkeypatch.setattr(torch, "as_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    with Reads() as reads:
        update = step.training_step(task, model, made, accelerator, [batch, batch], 7)
    assert reads.count == 0
    assert update.outcome().norm > 0 and not update.outcome().was_skipped
