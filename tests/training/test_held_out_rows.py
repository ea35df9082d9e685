"""What a run was trained on is known again, and one run at a time writes into a folder."""

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import filelock
import pytest
from small_runs import of_task

from hf_vanilla import cli
from hf_vanilla.data import locks
from hf_vanilla.training.loop import train
from hf_vanilla.training.state import LOCK, only_writer


def grow(config, folder, **changes):
    """The same run on a copy of its corpus, and a function that puts five new rows before this copy's first."""
    paths = [Path(path) for path in (config.corpus, config.target_path) if path]
    copies = [folder / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())

    def add_rows():
        for copy in copies:
            rows = "".join(f"new {n}\n" for n in range(5))
            if copy.suffix == ".jsonl":
                rows = "".join(json.dumps({"text": f"one two new {n}"}) + "\n" for n in range(5))
            copy.write_text(rows + copy.read_text(encoding="utf-8"), encoding="utf-8")

    names = {"corpus": str(copies[0]), "target_path": str(copies[1]) if len(copies) > 1 else None}
    return dataclasses.replace(config, output_dir=str(folder / "run"), max_steps=6, **names, **changes), add_rows


def test_evaluate_knows_the_rows_that_were_held_out_and_refuses_others(config, tmp_path, capsys):
    run, add_rows = grow(config, tmp_path)
    folder = train(run)
    fingerprints = json.loads((folder / "training_summary.json").read_text())["splits"]
    assert fingerprints.keys() == {"train", "validation", "test"}
    cli.main(["evaluate", str(folder), "--show", "0"])
    assert (folder / "evaluation.json").exists()
    (folder / "evaluation.json").unlink()
    with pytest.raises(SystemExit, match="now has other rows in its test split than when .* was trained"):
        cli.main(["evaluate", str(folder), "--target_path", run.corpus])  # what is given comes before what the run had
    add_rows()
    with pytest.raises(SystemExit, match="now has other rows in its test split than when .* was trained"):
        cli.main(["evaluate", str(folder)])
    with pytest.raises(SystemExit, match="now has other rows in its test split than when .* was trained"):
        cli.main(["attend", str(folder), "--survey"])
    with pytest.raises(ValueError, match=r"step-6: (trained on|the corpus has changed)"):
        train(run)
    capsys.readouterr()
    cli.main(["evaluate", str(folder), "--corpus", run.corpus, "--target_path", run.target_path])
    printed = capsys.readouterr()
    assert (
        "warning: " in printed.err and "not recorded" in printed.err and f"test split of {run.corpus}" in printed.out
    )
    assert not (folder / "evaluation.json").exists()


def test_a_run_of_an_earlier_version_is_not_scored_on_rows_that_it_may_have_learned(config, tmp_path):
    run, _ = grow(config, tmp_path)
    path = train(run) / "training_summary.json"
    summary = json.loads(path.read_text())
    del summary["splits"]
    path.write_text(json.dumps(summary))
    with pytest.raises(SystemExit, match="does not record which rows of .* it held out"):
        cli.main(["evaluate", run.output_dir])


def test_a_streamed_run_is_scored_on_what_it_held_out_or_not_at_all(config, tmp_path):
    run, add_rows = grow(config, tmp_path, streaming=True)
    folder = str(train(run))
    with pytest.raises(SystemExit, match="--split is 'test'; expected one of"):
        cli.main(["evaluate", folder])
    cli.main(["evaluate", folder, "--split", "validation", "--show", "0"])
    add_rows()
    with pytest.raises(SystemExit, match="now has other rows in its validation split"):
        cli.main(["evaluate", folder, "--split", "validation"])


def test_a_survey_of_a_language_model_knows_its_rows(config, tmp_path):
    run, add_rows = grow(of_task(config, "causal_lm"), tmp_path)
    folder = str(train(run))
    cli.main(["attend", folder, "--survey", "--effect", "none", "--sentences", "2"])
    add_rows()
    with pytest.raises(SystemExit, match="now has other rows in its test split"):
        cli.main(["attend", folder, "--survey", "--effect", "none"])


def test_a_second_run_into_a_folder_is_refused(config, tmp_path):
    run = dataclasses.replace(config, output_dir=str(tmp_path / "runs" / "mine"), max_steps=6)
    with only_writer(Path(run.output_dir)):
        with pytest.raises(ValueError, match="mine is being written by another run: wait for it, or choose another"):
            train(run)
    assert not list(tmp_path.iterdir())
    train(run)
    assert not (Path(run.output_dir) / LOCK).exists()


def hold(lock, held):
    with locks.alone_at(lock, "busy"):
        held.set()
        signal.pause()


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_lock_keeps_others_away_until_its_process_is_killed(has_locks, tmp_path, monkeypatch, caplog):
    if not has_locks:  # as on NFS without its lock daemon

        def refuse(*arguments):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(60)
    with pytest.raises(ValueError, match="busy .*lock"), locks.alone_at(tmp_path / "lock", "busy"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "lock").exists()
    with locks.alone_at(tmp_path / "lock", "busy"):
        pass
    assert not (tmp_path / "lock").exists() and has_locks != ("has no locks" in caplog.text)
