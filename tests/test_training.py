"""The loop: it learns, what it saves is what it measured, and processes and micro-batches change nothing."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_vanilla.decoding import translate
from hf_vanilla.training import TrainingConfig, choose_precision, train

SCRIPT = Path(__file__).parent.parent / "scripts" / "train_translation.py"
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs", "ten": "zehn"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny model, without dropout, of a language that is translated word by word."""
    folder = tmp_path_factory.mktemp("corpus")
    randomness = random.Random(0)
    sentences = [randomness.choices(list(WORDS), k=randomness.randint(2, 7)) for _ in range(600)]
    (folder / "en").write_text("".join(" ".join(words) + "\n" for words in sentences), encoding="utf-8")
    translations = [" ".join(map(WORDS.get, words)) for words in sentences]
    (folder / "de").write_text("".join(f"{words}\n" for words in translations), encoding="utf-8")
    return TrainingConfig(
        output_dir=str(folder / "run"),
        corpus=str(folder / "en"),
        target_path=str(folder / "de"),
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        dropout=0.0,
        batch_tokens=400,
        schedule="linear",
        learning_rate=1e-2,
        warmup_steps=5,
        max_steps=12,
        log_every=1,
        average_last=1,
        evaluations=2,
        mixed_precision="no",
    )


def read_log(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def test_it_learns_and_the_saved_model_is_the_one_that_was_measured(config, tmp_path):
    settings = {"max_steps": 250, "log_every": 10, "average_last": 3, "average_every": 5, "label_smoothing": 0.0}
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), **settings))
    log = read_log(folder)
    validations = [record for record in log if "validation_loss" in record]
    assert [record["step"] for record in validations] == [125, 250]
    assert validations[-1]["validation_perplexity"] < 1.5 < validations[0]["validation_perplexity"]
    steps = [record for record in log if "loss" in record]
    assert [record["step"] for record in steps] == list(range(10, 251, 10))
    assert steps[-1]["loss"] < steps[0]["loss"] / 2 and all(record["tokens_per_second"] > 0 for record in steps)

    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= set(os.listdir(folder))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.num_beams == 4
    assert translate(model, tokenizer, ["two five one"]) == ["zwei fünf eins"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    translations = translate(model, tokenizer, [sample["source"] for sample in samples])
    assert len(samples) == 5 and [sample["translation"] for sample in samples] == translations


def test_two_processes_and_three_micro_batches_train_the_same_model_as_one_batch(config, tmp_path):
    whole = train(dataclasses.replace(config, output_dir=str(tmp_path / "whole")))
    micro = train(dataclasses.replace(config, output_dir=str(tmp_path / "micro"), accumulation_steps=3))
    shared = dataclasses.replace(config, output_dir=str(tmp_path / "shared"))
    (tmp_path / "shared.yaml").write_text(json.dumps(dataclasses.asdict(shared)))
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launcher, str(SCRIPT), str(tmp_path / "shared.yaml")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "2 process(es)" in result.stderr

    expected = load_file(whole / "model.safetensors")
    for folder in (micro, tmp_path / "shared"):
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            if name.endswith("k_proj.bias"):
                continue  # Softmax cancels it: its gradient is rounding noise, which Adam scales up to whole steps.
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-6, msg=f"{folder.name}: {name}")
        for record, reference in zip(read_log(folder), read_log(whole), strict=True):
            assert record.pop("tokens_per_second", 1) > 0
            reference.pop("tokens_per_second", None)
            assert record == pytest.approx(reference, rel=1e-5)
            assert record.get("learning_rate") == reference.get("learning_rate")


def test_a_run_ends_in_time_with_a_learning_rate_near_zero(config, tmp_path):
    start = time.monotonic()
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=None, train_minutes=0.05))
    assert time.monotonic() - start < 15
    rates = [record["learning_rate"] for record in read_log(folder) if "learning_rate" in record]
    assert max(rates) > 0.005 and rates[-1] < 0.1 * max(rates)


def test_a_loss_that_is_not_a_number_ends_the_run_with_update_and_rate(config, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at update \d+, learning rate [24]e\+28"):
        train(dataclasses.replace(config, output_dir=str(tmp_path), learning_rate=1e29))


def test_configuration_comes_from_a_file_and_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 3e-4\nmax_steps: 7\nnorm_position: pre\nmax_grad_norm: null\n")
    config = TrainingConfig.load(path, ["--seed", "5", "--max_steps", "9"])
    assert (config.learning_rate, config.max_steps, config.seed, config.norm_position) == (3e-4, 9, 5, "pre")
    assert config.max_grad_norm is None and config.hidden_size == 512


@pytest.mark.parametrize("name", ["tiny", "verses_demo"])
def test_the_configurations_in_the_repository_load(name):
    assert TrainingConfig.load(SCRIPT.parent / "configs" / f"{name}.yaml").output_dir == f"runs/{name}"


@pytest.mark.parametrize(
    "content, message",
    [
        ("lerning_rate: 1", "unknown field 'lerning_rate'; did you mean 'learning_rate'"),
        ("max_steps: -1", "max_steps is -1; expected a positive number"),
        ("label_smoothing: 1.0\nmax_steps: 1", r"label_smoothing is 1.0; expected a number in \[0, 1\)"),
        ("seed: 1", "max_steps is None; expected a limit here or in train_minutes"),
        ("- a list", "expected lines of the form `field: value`"),
        ("a: [", "not YAML"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path)


def test_sentences_that_are_all_too_long_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match="max_length is 2; expected more"):
        train(dataclasses.replace(config, output_dir=str(tmp_path), max_length=2))


def test_bf16_is_chosen_only_where_the_processor_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert choose_precision("auto") == "no" and choose_precision("bf16") == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_precision("auto") == "bf16"
