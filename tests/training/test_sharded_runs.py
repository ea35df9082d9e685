"""Runs that FSDP2 shards, from the corpus to the saved model, through Accelerate as its launcher's file sets it up."""

import dataclasses
import json

import pytest
import small_runs
from launcher_files import launch_environment
from small_runs import of_task
from test_training import assert_same_but_for_rounding, finish, read_log, start, write

from hf_vanilla.training.loop import train

TASKS = ("translation", "masked_lm", "causal_lm")


def train_sharded(processes, folder, *configs):
    """Train in processes that share each parameter, one run after the other."""
    files = [write(config, folder / f"{number}.yaml") for number, config in enumerate(configs)]
    environment = launch_environment("fsdp2") | {"ACCELERATE_USE_CPU": "true"}
    finish(start([small_runs.__file__, *files], processes, env=environment))


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_fewer_processes(config, tmp_path):
    """Four processes, then two, of which each has two micro-batches: batches, and so the weights, are the same."""
    settings = {"average_last": 1, "average_every": 8, "checkpoint_every": 8, "batch_tokens": 800, "evaluations": 1}
    whole = dataclasses.replace(config, output_dir=str(tmp_path / "whole"), schedule="constant", **settings)
    train(dataclasses.replace(whole, max_steps=16))
    parts = dataclasses.replace(whole, output_dir=str(tmp_path / "parts"))
    train_sharded(4, tmp_path, dataclasses.replace(parts, max_steps=8))
    train_sharded(2, tmp_path, dataclasses.replace(parts, max_steps=16))
    assert_same_but_for_rounding(tmp_path / "parts", tmp_path / "whole", tolerance=1e-5)
    summary = json.loads((tmp_path / "parts" / "training_summary.json").read_text())
    assert (summary["processes"], summary["updates"]) == (2, 16)


@pytest.mark.parametrize("task", TASKS)
def test_sharded_processes_learn_and_measure_what_one_does(config, tmp_path, task):
    settings = {"max_steps": 12, "average_last": 2, "average_every": 4, "checkpoint_every": 4, "batch_tokens": 400}
    whole = of_task(config, task, output_dir=str(tmp_path / "whole"), **settings)
    names = {"sharded": {"accumulation_steps": 2}, "halves": {"mixed_precision": "bf16"}}
    others = {name: dataclasses.replace(whole, output_dir=str(tmp_path / name), **own) for name, own in names.items()}
    train(whole)
    train_sharded(2, tmp_path, *others.values())
    assert_same_but_for_rounding(tmp_path / "sharded", tmp_path / "whole", tolerance=1e-5)
    expected = read_log(tmp_path / "whole")
    for name, tolerance in {"sharded": 1e-4, "halves": 0.05}.items():
        summary = json.loads((tmp_path / name / "training_summary.json").read_text())
        assert (summary["distributed_type"], summary["processes"]) == ("FSDP", 2)
        log = read_log(tmp_path / name)
        assert [record.keys() for record in log] == [record.keys() for record in expected]
        for kind in ("loss", "validation_loss"):
            losses, wanted = ([record[kind] for record in records if kind in record] for records in (log, expected))
            assert losses == pytest.approx(wanted, rel=tolerance)
    # In half precision, the parts that add up to a loss are multiples of 1/512 at least.
    assert read_log(tmp_path / "halves")[0]["loss"] * 4096 % 1
