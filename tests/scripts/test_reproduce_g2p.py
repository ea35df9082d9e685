"""`reproduce_g2p.py`: error rates have known values, runs that are done stay, and the card shows what is kept."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import reproduce_g2p as g2p

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "scripts" / "results" / "g2p" / "results.json"
RIGHT = {"read": ["R EH D", "R IY D"], "cat": ["K AE T"], "a": ["AH"]}


def test_the_nearest_answer_counts_in_each_rate():
    answers = {"greedy": [["R IY T"], ["K AE T"], [""]], "beam 4": [["R IY T"], ["K AE T"], [""]]}
    answers["5 best"] = [["R IY T", "R EH D"], ["K AE"], ["AE", "AH"]]
    found = g2p.score(RIGHT, answers)
    assert found["greedy"] == pytest.approx({"per": 100 * 2 / 7, "wer": 100 * 2 / 3})
    assert found["recall_5"] == pytest.approx(100 * 2 / 3)
    assert found["wer_by_letters"] == {"1-4": {"wer": pytest.approx(200 / 3), "words": 3}}
    assert sorted(found["confusions"]) == [["AH", "-", 1], ["D", "T", 1]]


def test_an_interval_holds_the_score_and_shrinks_with_the_words(tmp_path):
    """Half of the words are wrong: the standard error of the share is 50 / sqrt(words) percent."""
    widths = []
    for words in (100, 1600):
        right = {str(number): ["A B"] for number in range(words)}
        texts = [["A B" if number % 2 else "A C"] for number in range(words)]
        for seed in (1, 2):
            folder = tmp_path / f"{words}-{seed}"
            folder.mkdir()
            kept = {"right": right, "answers": dict.fromkeys(g2p.DECODED, texts)}
            (folder / "answers.json").write_text(json.dumps(kept))
        found = g2p.intervals([tmp_path / f"{words}-{seed}" for seed in (1, 2)])
        low, high = found["greedy wer"]
        assert low < 50 < high and high - low == pytest.approx(2 * 1.96 * 50 / words**0.5, rel=0.15)
        assert found["greedy per"] == pytest.approx((low / 2, high / 2))
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.2)


def test_a_system_that_differs_by_seed_has_an_interval_that_says_so(tmp_path):
    right, folders = {str(number): ["A"] for number in range(400)}, []
    for seed, share in ((1, 0.2), (2, 0.4)):
        folders.append(tmp_path / str(seed))
        folders[-1].mkdir()
        texts = [["B" if number < 400 * share else "A"] for number in range(400)]
        kept = {"right": right, "answers": dict.fromkeys(g2p.DECODED, texts)}
        (folders[-1] / "answers.json").write_text(json.dumps(kept))
    low, high = g2p.intervals(folders)["beam 4 wer"]
    assert low < 21 and high > 39


def write_run(folder, name, seed, config):
    folder = folder / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    answers = dict.fromkeys(g2p.DECODED, [["R EH D"], ["K AE T"], ["AE"]])
    (folder / "answers.json").write_text(json.dumps({"right": RIGHT, "answers": answers}))
    result = {"system": name, "seed": seed, "words": 3, "seconds": 60, "hardware": "a machine"}
    result["configuration"] = config
    (folder / "result.json").write_text(json.dumps(result | g2p.score(RIGHT, answers)))


def test_what_is_done_is_reported_and_not_done_again(tmp_path, monkeypatch, capsys):
    import dataclasses

    for seed in (1, 2):
        run = {"output_dir": tmp_path / f"marian-seed{seed}" / "model", "seed": seed}
        write_run(tmp_path, "marian", seed, dataclasses.asdict(g2p.training_config("marian", run, [])))
    monkeypatch.setattr(g2p, "measure", None)
    command = ["reproduce_g2p.py", str(tmp_path), "--systems", "marian", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--keep", str(tmp_path / "kept")])
    g2p.main()
    printed = capsys.readouterr().out
    assert "| marian |" in printed and "33.33 (" in printed and "AH → AE (1)" in printed and "5.23" in printed
    kept = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert [each["seed"] for each in kept] == [1, 2] and g2p.report(kept) in printed
    monkeypatch.setattr(sys, "argv", [*command, "--hidden_size", "64"])
    with pytest.raises(SystemExit):
        g2p.main()
    assert "hidden_size was 128, now 64: choose another folder" in capsys.readouterr().err


def test_all_neural_systems_learn_from_the_same_batches_in_about_one_size():
    from hf_vanilla.training.tasks import TASKS

    sizes, alike = {}, set()
    for name in ("transformer", "recurrent", "marian"):
        config = g2p.training_config(name, {"seed": 1}, [])
        alike.add((config.batch_tokens, config.max_length, config.tokenizer_type, config.train_minutes))
        model = TASKS["translation"](config)
        if name != "marian":
            from transformers import AutoModelForSeq2SeqLM

            built = AutoModelForSeq2SeqLM.from_config(model.model_config(vocab_size=340, pad_token_id=0))
            sizes[name] = sum(weight.numel() for weight in built.parameters())
    assert len(alike) == 1
    assert np.isclose(sizes["transformer"], 1.95e6, rtol=0.1) and np.isclose(sizes["recurrent"], 1.95e6, rtol=0.25)


@pytest.mark.skipif(not KEPT.exists(), reason="the long runs have left no results yet")
def test_the_card_shows_the_results_that_are_kept():
    card = (ROOT / "model_cards" / "g2p.md").read_text(encoding="utf-8")
    lines = g2p.report(json.loads(KEPT.read_text(encoding="utf-8"))).splitlines()
    assert len(lines) > 10 and [line for line in lines if line not in card] == []
