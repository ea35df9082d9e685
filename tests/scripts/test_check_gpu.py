"""The script that checks a GPU: it runs in miniature, says what fails, and wants a GPU for more."""

import json
import sys

import check_gpu
import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        check_gpu.main()
    return stopped.value.code


def results(folder):
    return {each["name"]: each for each in json.loads((folder / "results.json").read_text())}


def test_in_miniature_all_but_launches_and_speeds_is_right(monkeypatch, tmp_path, capsys):
    sections = [name for name in check_gpu.CHECKS if name not in ("launches", "speed", "decoding")]
    assert run(monkeypatch, tmp_path, "--miniature", "--only", *sections) == 0
    found = results(tmp_path)
    assert all(each["ok"] in (True, None) for each in found.values())
    assert sum(name.startswith("gradients of") for name in found) == len(check_gpu.HEADS) + 1
    assert {"waits in a step", "without padding bf16", "beam 4 VanillaForConditionalGeneration"} <= found.keys()
    assert "failed: nothing" in capsys.readouterr().out
    table = (tmp_path / "results.md").read_text().splitlines()
    assert len(table) == 4 + len(found) and table[2] == "| check | | |"


@pytest.mark.slow
def test_in_miniature_launches_and_speeds_run(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, "--miniature", "--only", "speed", "launches", "decoding") == 0
    found = results(tmp_path)
    assert found["a resumed run"]["ok"] and found["launch plain"]["ok"]
    assert {"step small hf_vanilla", "step small Marian"} <= found.keys()


def test_what_fails_is_named_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    def broken(report, miniature):
        report.note("something", False, "is wrong")
        raise RuntimeError("no | such kernel")

    monkeypatch.setitem(check_gpu.CHECKS, "waits", (3, broken))
    assert run(monkeypatch, tmp_path, "--miniature", "--only", "waits", "machine") == 1
    printed = capsys.readouterr().out
    assert "FAIL waits: RuntimeError: no | such kernel" in printed and "failed: something; waits" in printed
    assert "| waits | **FAIL** | RuntimeError: no / such kernel |" in (tmp_path / "results.md").read_text()
    assert "peak" in results(tmp_path)


def test_what_there_is_no_time_for_is_skipped(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, "--miniature", "--seconds", "5") == 0
    found = results(tmp_path)
    assert found["launches"]["text"] == found["compile"]["text"] == "skipped: no time"


def test_without_a_gpu_only_the_miniature_runs(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path / "new") == 2
    assert "there is no GPU here. Give --miniature" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
