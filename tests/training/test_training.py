"""The loop: what it saves is what it measured, and neither processes, micro-batches nor a kill change anything."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import accelerate
import psutil
import pytest
import small_runs
import torch
import yaml
from safetensors.torch import load_file
from small_runs import WORDS, of_task
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from hf_vanilla import environment
from hf_vanilla.training.checkpointing import find_corruption, numbered_folders
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train
from hf_vanilla.translation.translator import Translator

SCRIPTS = Path(__file__).parents[2] / "scripts"


TASKS = ("translation", "masked_lm", "causal_lm")


def write(config, path):
    """A configuration as a file."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    return str(path)


def launch(config, folder, processes=1, **options):
    """A process, or several under torchrun, that trains as its user has it train; `folder` holds its configuration."""
    return start(
        [str(SCRIPTS / f"train_{config.task}.py"), write(config, folder / "config.yaml")], processes, **options
    )


def start(program, processes=1, **options):
    """A program of Python in a process of its own, or in several under torchrun."""
    launcher = [sys.executable]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment["ACCELERATE_USE_CPU"] = "true"
    return subprocess.Popen(
        [*launcher, *program],
        env=os.environ | environment | options.pop("env", {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process, code=0):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return errors


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def read_log(folder):
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return []


def assert_same_weights(folder, expected):
    weights, expected = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), f"{folder.name}: {name}"


def assert_same_but_for_rounding(folder, expected, tolerance=1e-7):
    """Rounding alone moves a weight by 1e-8, but where it decides whether ReLU lets a token through, by some 1e-6."""
    weights, expected = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == expected.keys()
    # Softmax cancels the bias of keys: its gradient is rounding noise, which Adam scales up to whole steps.
    names = [name for name in weights if not name.endswith("k_proj.bias")]
    differences = torch.cat([(weights[name] - expected[name]).abs().flatten() for name in names])
    assert differences.quantile(0.99) < tolerance and differences.max() < 1e-4, differences.sort().values[-200:]


def test_it_learns_and_the_saved_model_is_the_one_that_was_measured(config, tmp_path):
    settings = {"max_steps": 250, "log_every": 10, "average_last": 3, "average_every": 5, "label_smoothing": 0.0}
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), **settings))
    log = read_log(folder)
    validations = [record for record in log if "validation_loss" in record]
    assert [record["step"] for record in validations] == [125, 250]
    assert validations[0]["bleu"] < validations[1]["bleu"] and validations[1]["chrf"] > 70
    assert validations[-1]["validation_perplexity"] < 1.5 < validations[0]["validation_perplexity"]
    steps = [record for record in log if "loss" in record]
    assert [record["step"] for record in steps] == list(range(10, 251, 10))
    assert steps[-1]["loss"] < steps[0]["loss"] / 2 and all(record["tokens_per_second"] > 0 for record in steps)
    assert all(0 <= record["padding"] < 0.2 and record["memory_gib"] > 0 for record in steps)

    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= set(os.listdir(folder))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.num_beams == 4
    assert Translator(model, tokenizer)(["two five one"]) == ["zwei fünf eins"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    translations = Translator(model, tokenizer)([sample["source"] for sample in samples])
    assert len(samples) == 5 and [sample["translation"] for sample in samples] == translations

    summary = json.loads((folder / "training_summary.json").read_text())
    assert summary["updates"] == 250 and summary["final"]["bleu"] == validations[1]["bleu"]
    assert summary["configuration"]["seed"] == config.seed and summary["training_examples"] == len_of_training(config)
    assert summary["tokenizer"]["tokens_per_word"] > 0 and summary["tokenizer"]["share_of_bytes"] == 0
    assert len(numbered_folders(folder / "snapshots")) == 3 and (folder / "best" / "model.safetensors").exists()


def len_of_training(config):
    from hf_vanilla.data.corpora import load_corpus

    return len(load_corpus(config.corpus, config.target_path)["train"])


def by_equation_3(config, task, folder):
    """A run of a few updates; so early on, the likeliest token is a matter of rounding, so nothing is translated."""
    options = {"schedule": "noam", "learning_rate": 0.01, "max_steps": 8, "bleu_sentences": 0}
    return of_task(config, task, output_dir=str(folder), **options)


@pytest.fixture(scope="module")
def shared(config, tmp_path_factory):
    """What two processes wrote that trained a model for each task, one after the other."""
    folder = tmp_path_factory.mktemp("shared")
    paths = [write(by_equation_3(config, task, folder / task), folder / f"{task}.yaml") for task in TASKS]
    errors = finish(start([small_runs.__file__, *paths], processes=2))
    assert errors.count("2 process(es) on cpu, MULTI_CPU") == len(TASKS)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_and_three_micro_batches_train_the_same_model_as_one_batch(config, tmp_path, task, shared):
    config = by_equation_3(config, task, tmp_path / "whole")
    whole = train(config)
    micro = train(dataclasses.replace(config, output_dir=str(tmp_path / "micro"), accumulation_steps=3))
    for record in read_log(shared / task):
        equation_3 = 32**-0.5 * min(record["step"] ** -0.5, record["step"] * 5**-1.5)
        assert record.get("learning_rate", 0.01 * equation_3) == pytest.approx(0.01 * equation_3, rel=1e-12)
    for folder in (micro, shared / task):
        assert_same_but_for_rounding(folder, whole)
        for record, reference in zip(read_log(folder), read_log(whole), strict=True):
            for name in ("tokens_per_second", "seconds_per_update", "memory_gib", "padding"):
                assert record.pop(name, 0) >= 0
                reference.pop(name, None)
            assert record == pytest.approx(reference, rel=1e-5)
            assert record.get("learning_rate") == reference.get("learning_rate")


@pytest.mark.parametrize(
    "task, auto_class", [("masked_lm", AutoModelForMaskedLM), ("causal_lm", AutoModelForCausalLM)]
)
def test_language_models_learn_and_load(config, tmp_path, task, auto_class):
    config = of_task(config, task, output_dir=str(tmp_path), max_steps=100, log_every=10)
    log = read_log(train(config))
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < 0.6 * losses[0] and "bleu" not in log[-1]
    model, tokenizer = auto_class.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model(**tokenizer("one two", return_tensors="pt")).logits.isfinite().all()


def test_whole_words_and_streaming_train_with_a_loader_of_their_own(config, tmp_path):
    options = {"whole_word_masking": True, "streaming": True, "loader_workers": 1, "max_steps": 12}
    folder = train(of_task(config, "masked_lm", output_dir=str(tmp_path / "a"), **options))
    again = train(of_task(config, "masked_lm", output_dir=str(tmp_path / "b"), **options))
    assert_same_weights(folder, again)
    assert json.loads((folder / "training_summary.json").read_text())["training_examples"] is None


# Killed, and started again


def test_a_run_that_is_killed_three_times_ends_as_the_uninterrupted_one_bit_by_bit(config, tmp_path, capsys):
    changes = {"dropout": 0.1, "loader_workers": 1, "max_steps": 42, "average_last": 2, "average_every": 14}
    changes |= {"checkpoint_every": 7, "ema_decay": None, "evaluations": 2}
    expected = train(dataclasses.replace(config, output_dir=str(tmp_path / "whole"), **changes))
    killed = dataclasses.replace(config, output_dir=str(tmp_path / "killed"), **changes)
    folder = Path(killed.output_dir)

    def at_step(step):
        return lambda: any(record["step"] >= step for record in read_log(folder))

    def while_saving():
        return any(folder.glob("checkpoints/*.unfinished")) or at_step(35)()

    for moment in (at_step(3), at_step(15), while_saving):
        process = launch(killed, tmp_path)
        wait_for(moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "training_summary.json").exists()
    assert_same_weights(train(killed), expected)
    assert "going on after update" in capsys.readouterr().err
    for record, reference in zip(read_log(folder), read_log(expected), strict=True):
        for name in ("tokens_per_second", "seconds_per_update", "memory_gib"):
            record.pop(name, None), reference.pop(name, None)
        assert record == reference


@pytest.mark.slow
def test_two_processes_that_are_killed_end_as_uninterrupted_ones_bit_by_bit(config, tmp_path):
    changes = {"dropout": 0.1, "max_steps": 60, "checkpoint_every": 10, "ema_decay": 0.9}
    whole = dataclasses.replace(config, output_dir=str(tmp_path / "whole"), **changes)
    finish(launch(whole, tmp_path, processes=2))
    killed = dataclasses.replace(whole, output_dir=str(tmp_path / "killed"))
    folder = Path(killed.output_dir)
    process = launch(killed, tmp_path, processes=2)
    wait_for(lambda: any(record["step"] >= 25 for record in read_log(folder)), process)
    os.killpg(process.pid, signal.SIGKILL)
    for worker in psutil.process_iter(["cmdline"]):  # torchrun gives its workers sessions of their own
        if any(str(tmp_path) in argument for argument in worker.info["cmdline"] or []):
            worker.kill()
    process.communicate()
    assert not (folder / "training_summary.json").exists()
    assert "2 process(es)" in finish(launch(killed, tmp_path, processes=2))
    assert_same_weights(folder, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_with_a_message(config, tmp_path, number):
    stopped = dataclasses.replace(config, output_dir=str(tmp_path / "run"), max_steps=60, dropout=0.1)
    process = launch(stopped, tmp_path)
    wait_for(lambda: len(read_log(tmp_path / "run")) > 5, process)
    process.send_signal(number)
    assert "the same command goes on from there" in finish(process, code=128 + number)
    (checkpoint,) = numbered_folders(tmp_path / "run" / "checkpoints")
    assert 5 < int(checkpoint.name[5:]) < 60 and find_corruption(checkpoint) is None
    whole = train(dataclasses.replace(stopped, output_dir=str(tmp_path / "whole")))
    assert_same_weights(train(stopped), whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(config, tmp_path, caplog):
    changes = {"schedule": "noam", "dropout": 0.1, "checkpoint_every": 10}
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), **changes)
    train(run)
    weights = tmp_path / "run" / "checkpoints" / "step-20" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    longer = train(dataclasses.replace(run, max_steps=30))
    assert "step-20 is damaged (model.safetensors has changed); trying the checkpoint before it" in caplog.text
    assert_same_weights(longer, train(dataclasses.replace(run, max_steps=30, output_dir=str(tmp_path / "whole"))))


def test_a_full_disk_leaves_the_last_checkpoint_intact_and_training_goes_on(config, tmp_path, monkeypatch, capsys):
    save_state = accelerate.Accelerator.save_state

    def fill_the_disk(self, folder, **options):
        save_state(self, folder, **options)
        if "step-20" in folder:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(accelerate.Accelerator, "save_state", fill_the_disk)
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=25, checkpoint_every=10))
    assert [path.name for path in (folder / "checkpoints").iterdir()] in (
        ["step-10", "step-25"],
        ["step-25", "step-10"],
    )
    assert all(find_corruption(path) is None for path in (folder / "checkpoints").iterdir())
    assert "step-20 could not be written: OSError: [Errno 28] No space left" in capsys.readouterr().err


def test_a_finished_run_is_left_alone_and_a_changed_one_is_refused(config, tmp_path, caplog):
    run = dataclasses.replace(config, output_dir=str(tmp_path), max_steps=6)
    train(run)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert train(run) == tmp_path and "trained already, 6 updates" in caplog.text
    with pytest.raises(ValueError, match="other settings: batch_tokens was 400, now 500; seed was 1, now 2"):
        train(dataclasses.replace(run, batch_tokens=500, seed=2))
    (tmp_path / "en").write_text("".join(f"another {n}\n" for n in range(100)))
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_corpus_or_a_folder_of_something_else_is_refused(config, tmp_path):
    sentences = [f"{one} {two}" for one in WORDS for two in WORDS]
    for name in ("en", "de"):
        (tmp_path / name).write_text("".join(f"{sentence} {name}\n" for sentence in sentences))
    own = {"corpus": str(tmp_path / "en"), "target_path": str(tmp_path / "de"), "schedule": "noam"}
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), max_steps=3, **own)
    train(run)
    for name in ("en", "de"):
        (tmp_path / name).write_text("".join(f"{sentence} {name}\n" for sentence in sentences[:-5]))
    with pytest.raises(ValueError, match="step-3: trained on 47 examples; now the corpus gives 42"):
        train(dataclasses.replace(run, max_steps=5))
    with pytest.raises(ValueError, match="holds files, but no run to go on with; choose another output_dir"):
        train(dataclasses.replace(run, output_dir=str(tmp_path)))
    with pytest.raises(OSError, match="Not a directory|File exists"):
        train(dataclasses.replace(run, output_dir=str(tmp_path / "en" / "run")))


# Input that is not fit for use


def test_a_run_that_is_refused_leaves_nothing_behind(config, tmp_path):
    run = dataclasses.replace(config, output_dir=str(tmp_path / "runs" / "mine"))
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        train(dataclasses.replace(run, corpus=str(tmp_path / "missing.jsonl"), target_path=None))
    with pytest.raises(ValueError, match="batch_tokens is 3; expected at least"):
        train(dataclasses.replace(run, batch_tokens=3))
    assert not list(tmp_path.iterdir())


def test_a_run_ends_in_time_with_a_learning_rate_near_zero(config, tmp_path):
    start = time.monotonic()
    limits = {"max_steps": None, "train_minutes": 0.05, "warmup_steps": 0.2}
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), **limits))
    assert time.monotonic() - start < 30
    rates = [record["learning_rate"] for record in read_log(folder) if "learning_rate" in record]
    assert max(rates) > 0.005 and rates[-1] < 0.1 * max(rates)


@pytest.mark.parametrize(
    "limits, updates",
    [
        ({"max_steps": 2, "schedule": "noam"}, "2"),
        ({"max_steps": None, "train_minutes": 0.05}, r"\d+"),
        ({"max_steps": None, "train_minutes": 0.05, "schedule": "noam"}, r"\d+"),
    ],
)
def test_a_run_that_cannot_leave_its_warm_up_says_so(config, tmp_path, capsys, limits, updates):
    train(dataclasses.replace(config, output_dir=str(tmp_path), warmup_steps=4000, bleu_sentences=0, **limits))
    assert re.search(
        rf"warning: the run will have about {updates} updates, and its warm-up takes 4,000", capsys.readouterr().err
    )


def test_a_loss_that_is_not_a_number_ends_the_run_with_update_rate_and_examples(config, tmp_path):
    message = r"the loss is (nan|inf), the norm .* at update \d+, learning rate [24]e\+28, in a batch of \d+ examples"
    with pytest.raises(FloatingPointError, match=message) as raised:
        train(dataclasses.replace(config, output_dir=str(tmp_path), learning_rate=1e29))
    examples = json.loads((tmp_path / "bad_examples.json").read_text())
    assert examples and all(set(text.split()) <= set(WORDS) for text in examples) and examples[0] in str(raised.value)


def test_a_loss_that_is_not_a_number_on_one_of_two_processes_ends_both(config, tmp_path):
    broken = dataclasses.replace(config, output_dir=str(tmp_path / "run"), learning_rate=1e29)
    errors = finish(launch(broken, tmp_path, processes=2), code=1)
    assert "hf-vanilla train: the loss is" in errors


@pytest.mark.parametrize(
    "kind, message",
    [
        ("FSDP", "FSDP was asked for, but Accelerate runs NO on cpu: parameters would not be sharded"),
        ("DEEPSPEED", "DEEPSPEED was asked for, but (it is not installed|Accelerate runs NO)"),
    ],
)
def test_sharding_that_is_not_in_force_is_refused(config, tmp_path, monkeypatch, kind, message):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_tracker_gets_what_the_log_gets_and_an_absent_one_is_named(config, tmp_path):
    folder = train(dataclasses.replace(config, output_dir=str(tmp_path), max_steps=6, trackers=["tensorboard"]))
    assert list(folder.rglob("events.out.tfevents*"))
    with pytest.raises(ValueError, match="trackers names swanlab, which is not installed; installed: .*tensorboard"):
        train(dataclasses.replace(config, trackers=["swanlab"]))


def test_a_model_can_be_gone_on_from_and_must_fit_its_vocabulary(config, tmp_path):
    config = dataclasses.replace(config, max_steps=2, warmup_steps=1)
    first = train(dataclasses.replace(config, output_dir=str(tmp_path / "first")))
    second = train(dataclasses.replace(config, output_dir=str(tmp_path / "second"), initial_model=str(first)))
    losses = [read_log(folder)[0]["loss"] for folder in (first, second)]
    assert losses[1] < losses[0]
    tokenizer = AutoTokenizer.from_pretrained(first)
    tokenizer.add_tokens([f"word{number}" for number in range(50)])
    tokenizer.save_pretrained(first)
    with pytest.raises(ValueError, match=r"has a vocabulary of 300, its tokenizer one of 350"):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "third"), initial_model=str(first)))


@pytest.mark.parametrize("task", TASKS)
def test_a_run_by_muon_learns_and_goes_on_where_it_stopped(config, tmp_path, task):
    changes = {"schedule": "constant", "learning_rate": 1e-2, "dropout": 0.1, "optimizer": "muon", "log_every": 4}
    whole = of_task(config, task, output_dir=str(tmp_path / "whole"), max_steps=16, **changes)
    losses = [record["loss"] for record in read_log(train(whole)) if "loss" in record]
    assert losses[-1] < losses[0] - 0.5
    stopped = dataclasses.replace(whole, output_dir=str(tmp_path / "stopped"))
    train(dataclasses.replace(stopped, max_steps=8))
    assert_same_weights(train(stopped), tmp_path / "whole")


def test_muon_is_refused_where_matrices_are_divided(config, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_vanilla.training.distributed.is_sharded", lambda accelerator: True)
    with pytest.raises(
        ValueError, match="optimizer is muon; expected adam: Muon needs whole matrices, which NO divides"
    ):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "run"), optimizer="muon"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_model_trains_the_same_weights(config, tmp_path):
    plain = train(dataclasses.replace(config, output_dir=str(tmp_path / "plain")))
    compiled = train(dataclasses.replace(config, output_dir=str(tmp_path / "compiled"), compile=True))
    assert_same_but_for_rounding(compiled, plain, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_million_pairs_train_in_less_than_4_gigabytes(config, tmp_path):
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    randomness = random.Random(0)
    paths = [tmp_path / name for name in ("en", "de")]
    with paths[0].open("w") as source, paths[1].open("w") as target:
        for _ in range(5_000_000):
            words = ["".join(randomness.choices(syllables, k=3)) for _ in range(randomness.randint(6, 14))]
            print(*words, file=source)
            print(*(word[::-1] for word in words), file=target)
    own = {"corpus": str(paths[0]), "target_path": str(paths[1]), "vocab_size": 2000, "batch_tokens": 4000}
    large = dataclasses.replace(config, output_dir=str(tmp_path / "run"), log_every=10, **own)
    process = launch(large, tmp_path, env={"HF_DATASETS_CACHE": str(tmp_path / "cache")})
    _, errors = process.communicate(timeout=7000)
    assert process.returncode == 0, errors
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["training_examples"] > 4_000_000
    assert max(record["memory_gib"] for record in read_log(tmp_path / "run") if "memory_gib" in record) < 4


@pytest.mark.parametrize("path", sorted((SCRIPTS / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_in_the_repository_load(path):
    assert TrainingConfig.load(path).output_dir == f"runs/{path.stem}"


def test_sentences_that_are_all_too_long_are_refused(config, tmp_path):
    with pytest.raises(
        ValueError, match="no example of the validation split is left: dropped 13 longer than 3 tokens"
    ):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "run"), max_length=3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("capabilities", "is_amd", "chosen"),
    [
        ({"avx2": True, "avx512_bf16": False}, True, "no"),
        ({"avx512_bf16": True}, True, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": True}, False, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, False, "no"),
    ],
)
def test_bf16_is_chosen_only_where_the_processor_is_faster_in_it(monkeypatch, capabilities, is_amd, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(environment, "is_amd", lambda: is_amd)
    assert environment.choose_precision("auto") == chosen and environment.choose_precision("bf16") == "bf16"
