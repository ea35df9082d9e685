"""Table 3 at small scale: rows change what the paper's rows change; runs are done once, whatever interrupts them."""

import dataclasses
import json
import os
import random
import shutil
import signal

import pytest
import reproduce_table3 as table3
import torch

from hf_vanilla.training.run_log import RunLog
from hf_vanilla.training.tasks import TASKS

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}
SMALL = {"max_length": 20, "vocab_size": 270, "hidden_size": 32, "intermediate_size": 32, "batch_tokens": 300}
SMALL |= {"encoder_layers": 1, "decoder_layers": 1, "log_every": 1, "checkpoint_every": 2}


@pytest.fixture
def given(tmp_path):
    """Options: the tiniest of models, and a language that is translated word by word."""
    randomness = random.Random(0)
    sentences = [randomness.choices(list(WORDS), k=randomness.randint(2, 6)) for _ in range(200)]
    for side, texts in (("en", sentences), ("de", [[WORDS[word] for word in words] for words in sentences])):
        (tmp_path / side).write_text("".join(" ".join(words) + "\n" for words in texts), encoding="utf-8")
    options = SMALL | {"corpus": tmp_path / "en", "target_path": tmp_path / "de"}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def model_of(row, tmp_path):
    task = TASKS["translation"](table3.training_config(row, 1, tmp_path, []))
    return task.auto_class.from_config(task.model_config(vocab_size=task.config.vocab_size))


def test_each_row_changes_what_the_paper_s_row_changes_by_the_same_factor(tmp_path):
    """By the paper's names, at its size: base of Table 3 with widths over 4 and depth over 2."""
    base = {"d_model": 128, "d_ff": 512, "h": 8, "encoder_layers": 3, "decoder_layers": 3}
    base |= {"P_drop": 0.1, "position_embedding_type": "sinusoidal", "d_k": None, "d_v": None}
    expected = {
        "base": {},
        "h=1": {"h": 1},
        "h=32": {"h": 32},
        "d_k=16": {"d_k": 4},
        "d_k=32": {"d_k": 8},
        "N=2": {"encoder_layers": 1, "decoder_layers": 1},
        "N=4": {"encoder_layers": 2, "decoder_layers": 2},
        "N=8": {"encoder_layers": 4, "decoder_layers": 4},
        "d_model=256": {"d_model": 64},
        "d_model=1024": {"d_model": 256},
        "d_ff=1024": {"d_ff": 256},
        "d_ff=4096": {"d_ff": 1024},
        "P_drop=0.0": {"P_drop": 0.0},
        "P_drop=0.2": {"P_drop": 0.2},
        "positions=learned": {"position_embedding_type": "learned"},
    }
    for row, changes in expected.items():
        config = model_of(row, tmp_path).config
        assert {name: getattr(config, name) for name in base} == base | changes, row
    for row in table3.PAPER:
        smoothing = {"eps_ls=0.0": 0.0, "eps_ls=0.2": 0.2}.get(row, 0.1)
        assert table3.training_config(row, 1, tmp_path, []).label_smoothing == smoothing


def test_heads_cost_the_same_and_d_k_costs_what_its_projections_have(tmp_path):
    counts = {
        row: sum(weight.numel() for weight in model_of(row, tmp_path).parameters())
        for row in ("base", "h=1", "h=32", "d_k=16", "d_k=32")
    }
    assert counts["base"] == counts["h=1"] == counts["h=32"]  # "keeping the amount of computation constant"
    attentions, projections, width, heads = 3 * (1 + 2), 2, 128 + 1, 8
    for row, d_k in (("d_k=16", 4), ("d_k=32", 8)):
        assert counts["base"] - counts[row] == attentions * projections * width * heads * (16 - d_k)


def write_results(folder, row, perplexities, bleus):
    for seed, (perplexity, bleu) in enumerate(zip(perplexities, bleus, strict=True), start=1):
        own = folder / f"{row}-seed{seed}"
        own.mkdir()
        result = {"row": row, "seed": seed, "perplexity": perplexity, "bleu": bleu, "chrf": 20.0, "parameters": 1234}
        result |= {"training_seconds": 60.0, "seconds": 70.0, "updates": 5, "target_tokens": 10**6, "sentences": 9}
        result |= {"hardware": "a CPU", "bleu_signature": "nrefs:1", "chrf_signature": "nc:6"}
        (own / "result.json").write_text(json.dumps(result))


def test_the_table_says_by_the_spread_whether_the_paper_s_direction_holds(tmp_path):
    write_results(tmp_path, "base", (10.0, 11.0, 12.0), (8.0, 8.0, 8.0))  # perplexity 11 ± 1
    write_results(tmp_path, "N=2", (20.0, 20.0, 20.0), (8.5, 9.0, 9.5))  # the paper: worse, worse
    write_results(tmp_path, "h=4", (12.0, 12.5, 13.0), (8.0, 7.9, 7.6))  # a little worse, a little worse
    write_results(tmp_path, "positions=learned", (10.5, 11.0, 11.5), (7.0, 7.0, 7.0))  # the same, a little worse
    write_results(tmp_path, "h=16", (9.0,), (8.0,))
    lines = table3.report(tmp_path).splitlines()
    rows = {cells[2]: cells for line in lines[4:] if len(cells := [cell.strip() for cell in line.split("|")]) > 2}
    assert rows["base"][5:8] == ["11.00 ± 1.00", "8.00 ± 0.00", "20.0 ± 0.0"] and rows["base"][10:13] == [
        "4.92",
        "",
        "",
    ]
    assert rows["N=2"][3:5] == ["N=1", "1,234"]
    assert rows["N=2"][10:13] == ["6.11 (+1.19)", "+9.00 ± 1.00", "holds"]
    assert rows["N=2"][13:16] == ["23.7 (-2.10)", "+1.00 ± 0.50", "opposite"]
    assert rows["h=4"][11:13] == ["+1.50 ± 1.12", "holds"] and rows["h=4"][14:16] == ["-0.17 ± 0.21", "within spread"]
    assert rows["positions=learned"][11:13] == ["+0.00 ± 1.12", "holds"]
    assert rows["h=16"][11:13] == ["-1.00", "one seed"]  # beside the base of the same seed
    assert "Differences from the base: holds 4, one seed 2, opposite 1, within spread 1." in lines[0]
    assert table3.verdict(0.0, [3.0, 3.1], [1.0, 1.1])[1] == "differs"


def test_a_run_that_was_interrupted_goes_on_and_one_that_is_done_stays(given, tmp_path, monkeypatch, capsys):
    folder, precision = tmp_path / "runs", torch.get_float32_matmul_precision()
    settings = [*given, "--max_steps", "6"]

    def table(*options):
        monkeypatch.setattr("sys.argv", ["reproduce_table3.py", str(folder), "--seeds", "1", *options])
        table3.main()
        return capsys.readouterr().out

    def stop_at_three(log, done, advance=RunLog.advance):
        advance(log, done)
        if done == 0.5:
            os.kill(os.getpid(), signal.SIGTERM)

    own = folder / "N=2-seed1"
    own.mkdir(parents=True)
    write_results(folder, "base", (300.0,), (1.0,))  # done before
    of = dataclasses.asdict(table3.training_config("base", 1, folder, settings))
    (folder / "settings.json").write_text(json.dumps(of))
    tokenizer = ["--tokenizer", str(folder / "tokenizer")]
    task = TASKS["translation"](table3.training_config("base", 1, folder, settings))
    task.load_tokenizer(task.load_corpus()).save_pretrained(folder / "tokenizer")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RunLog, "advance", stop_at_three)
        table3.run("N=2", 1, own, [*settings, *tokenizer])
    assert not (own / "result.json").exists() and (own / "model" / "checkpoints" / "step-3").is_dir()

    out = table(*given, "--updates", "6", "--rows", "N=2", "--workers", "1")
    assert "1 of 2 runs to do, 1 side by side" in out and "base, seed" not in out
    assert "2/2 N=2, seed 1: perplexity" in out
    log = [json.loads(line) for line in (own / "model" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert "going on after update 3" in (own / "output.txt").read_text()
    result = json.loads((own / "result.json").read_text())
    assert result["updates"] == 6 and result["sentences"] == 4 and not (own / "model" / "checkpoints").exists()
    assert result["perplexity"] == log[-1]["validation_perplexity"]
    assert f"| N=2 | N=1 | {result['parameters']:,} |" in out and (folder / "table3.md").read_text().strip() in out

    again = table(*given, "--updates", "6", "--rows", "N=2")
    assert "to do" not in again and json.loads((own / "result.json").read_text()) == result
    with pytest.raises(SystemExit):
        table(*given, "--updates", "7", "--rows", "N=2")
    assert "holds runs with other settings: max_steps was 6, now 7" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        table(*given, "--updates", "6", "--learning_rate", "2")
    assert "learning_rate was 0.3, now 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        table(*given, "--rows", "h=3")
    assert "invalid choice: 'h=3'" in capsys.readouterr().err
    torch.set_float32_matmul_precision(precision)


def test_kept_results_are_not_taken_for_those_of_other_settings(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs"
    shutil.copytree(table3.CONFIG.parents[2] / "results" / "table3", folder)

    def table(*options):
        monkeypatch.setattr("sys.argv", ["reproduce_table3.py", str(folder), "--rows", "N=2", *options])
        table3.main()

    with pytest.raises(SystemExit):
        table("--updates", "50")
    assert "max_steps was 1000, now 50" in capsys.readouterr().err
    (folder / "N=2-seed1" / "result.json").write_text('{"row": "N')
    with pytest.raises(SystemExit):
        table()
    assert "N=2-seed1/result.json is not whole: delete it" in capsys.readouterr().err
    (folder / "settings.json").unlink()
    with pytest.raises(SystemExit):
        table()
    assert "result.json is of settings that" in capsys.readouterr().err


def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs"
    monkeypatch.setattr("sys.argv", ["reproduce_table3.py", str(folder), "--corpus", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit):
        table3.main()
    assert "none.jsonl" in capsys.readouterr().err and not folder.exists()


def test_what_a_row_makes_impossible_is_refused_before_it_begins(given, tmp_path, monkeypatch, capsys):
    options = ["--rows", "A", "--hidden_size", "24"]
    monkeypatch.setattr("sys.argv", ["reproduce_table3.py", str(tmp_path / "runs"), *given, *options])
    with pytest.raises(SystemExit):
        table3.main()
    assert "`hidden_size` (24) must be a multiple of `num_attention_heads` (16)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_card_s_table_is_of_the_results_that_are_kept():
    root = table3.CONFIG.parents[3]
    card = (root / "model_cards" / "paper.md").read_text(encoding="utf-8")
    rows = table3.report(root / "scripts" / "results" / "table3").splitlines()
    assert len(rows) > 10 and [row for row in rows if row not in card] == []
