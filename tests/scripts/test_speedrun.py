"""The speed run: attempts are told from recipes, what is done is kept, and the peer stops when its time is over."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest
import torch
from paper import runs

from hf_vanilla import Translator

SCRIPT = Path(__file__).parents[2] / "scripts" / "speedrun.py"


@pytest.fixture(scope="module")
def speedrun():
    return runpy.run_path(str(SCRIPT))


def test_an_attempt_is_a_recipe_with_other_fields(speedrun):
    name, system, fields = speedrun["parse_attempt"](["system=marian", "learning_rate=1e-3", "dropout=0"])
    assert (name, system) == ("marian+dropout=0+learning_rate=1e-3", "marian")
    assert fields == {"learning_rate": "1e-3", "dropout": "0"}
    assert speedrun["parse_attempt"](["dropout=0"])[1] == "ours"
    for words, message in ((["dropout"], "expected FIELD=VALUE"), (["system=bert", "dropout=0"], "system=bert; exp")):
        with pytest.raises(ValueError, match=message):
            speedrun["parse_attempt"](words)


def test_a_gain_is_told_with_its_probability_by_chance(speedrun):
    shared = {
        "updates": 5,
        "perplexity": 2.5,
        "minutes": 1,
        "split": "test",
        "sentences": 9,
        "hardware": "x",
        "gflops": 1.0,
        "corpus": "verses",
    }
    own, base = ([shared | {"bleu": value, "chrf": 2 * value} for value in of] for of in ((9, 10, 11), (6, 7, 8)))
    kept = speedrun["describe_attempt"]("ours+a=1", {"a": "1"}, own, base)
    assert kept["bleu_gain"] == 3 and kept["chrf_gain"] == 6 and kept["bleu_of_recipe"] == [6, 7, 8]
    assert kept["bleu_p_value"] == pytest.approx(0.0213, abs=1e-4)  # t = 3 / sqrt(2 / 3), 4 degrees of freedom
    assert "bleu_p_value" not in speedrun["describe_attempt"]("ours+a=1", {}, own[:1], base)
    same = speedrun["describe_attempt"]("ours+a=1", {}, own[:1] * 2, own[:1] * 2)
    assert same["bleu_gain"] == 0 and same["bleu_p_value"] is None


def test_the_card_s_table_is_of_the_attempts_that_are_kept(speedrun):
    lines = (SCRIPT.parent / "results" / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    card = (SCRIPT.parents[1] / "model_cards" / "speedrun.md").read_text(encoding="utf-8")
    assert speedrun["table_of_attempts"](lines) in card


def one_after_the_other(measure, todo, workers, report):
    for run in todo:
        report(run, measure(*run), 0.0)


def test_all_systems_are_trained_for_their_time_and_none_twice(speedrun, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "side_by_side", one_after_the_other)
    small = "--hidden_size 32 --intermediate_size 64 --vocab_size 300 --batch_tokens 400 --encoder_layers 1"
    corpus = ["--corpus", config.corpus, "--target_path", config.target_path, "--decoder_layers", "1"]
    options = ["--minutes", "0.02", "--seeds", "1", "2", "--sentences", "3", "--systems", "ours", "marian"]
    attempt = ["--attempt", "learning_rate=1e-3"]
    monkeypatch.setattr("sys.argv", ["speedrun.py", str(tmp_path), *options, *attempt, *small.split(), *corpus])
    speedrun["main"]()
    table = (tmp_path / "speedrun.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out + "\n" and table.count("| 0.02 |") == 3
    results = {path: path.read_text() for path in tmp_path.rglob("result.json")}
    assert len(results) == 6 and all(json.loads(text)["updates"] > 0 for text in results.values())
    (line,) = (tmp_path / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    kept = json.loads(line)
    assert kept["fields"] == {"learning_rate": "1e-3"} and len(kept["bleu"]) == len(kept["bleu_of_recipe"]) == 2
    speedrun["main"]()
    assert results == {path: path.read_text() for path in tmp_path.rglob("result.json")}
    for other, message in (
        (["--split", "validation", *small.split()], "was scored on another split"),
        ([*small.split(), "--dropout", "0.3"], "dropout was 0.1, now 0.3: choose another folder"),
    ):
        monkeypatch.setattr("sys.argv", ["speedrun.py", str(tmp_path), *options, *other, *corpus])
        with pytest.raises(SystemExit):
            speedrun["main"]()
        assert message in capsys.readouterr().err


def test_what_is_not_installed_is_said_before_anything_is_trained(speedrun, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speedrun["main"].__globals__, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["speedrun.py", str(tmp_path), "--systems", "ours", "joey"])
    with pytest.raises(SystemExit):
        speedrun["main"]()
    assert "joey: JoeyNMT is not installed; scripts/peers/joey.py says how" in capsys.readouterr().err


def test_joeynmt_is_trained_and_decodes_by_our_search(config, tmp_path):
    """Where it is installed. Padding of the source and the future of the target are hidden from it."""
    pytest.importorskip("joeynmt")
    from peers.training import build_joey, train_peer

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "norm_position": "pre"}
    own = dataclasses.replace(config, output_dir=str(tmp_path), max_steps=6, bleu_sentences=0, **sizes)
    assert train_peer(own, tmp_path, build_joey)["updates"] == 6
    translator = Translator.from_pretrained(tmp_path, device="cpu")
    assert len(translator(["one two", "three"], num_beams=4)) == 2
    model = translator.model
    assert model.decoder.output_layer.weight is model.encoder.src_embed.lut.weight
    source, target = (torch.randint(4, len(translator.tokenizer), size) for size in ((2, 9), (2, 7)))
    mask = torch.ones_like(source)
    mask[1, 6:] = 0
    one = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    source[1, 6:], target[:, 4:] = 3, 3
    other = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    torch.testing.assert_close(one[:, :4], other[:, :4], atol=0, rtol=0)
