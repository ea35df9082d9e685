"""Every fine-tuning script, on slices of real text or generated rows: it trains, evaluates, saves, reloads, predicts.

The file is also the script that the two processes of a distributed run execute.
"""

import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
)
from hf_vanilla.data import built_in
from hf_vanilla.data.files import SPLITS
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.finetuning.run import sequence_limit

SCRIPTS = Path(__file__).parents[2] / "scripts"
TASKS = {
    "sequence_classification": ("encoder", AutoModelForSequenceClassification),
    "token_classification": ("encoder", AutoModelForTokenClassification),
    "question_answering": ("encoder", AutoModelForQuestionAnswering),
    "multiple_choice": ("encoder", AutoModelForMultipleChoice),
    "causal_lm": ("decoder", AutoModelForCausalLM),
    "translation": ("seq2seq", AutoModelForSeq2SeqLM),
}
KINDS = {"nn": "noun", "vb": "verb", "jj": "adjective", "at": "article"}
FILES = {"question_answering": "questions", "multiple_choice": "choices"}
OPTIONS = {
    "sequence_classification": ["--max_seq_length", "48"],
    "token_classification": ["--max_seq_length", "96"],
    "question_answering": ["--max_seq_length", "64", "--doc_stride", "16", "--per_device_eval_batch_size", "4"],
    "multiple_choice": [],
    "causal_lm": ["--block_size", "16"],
    "translation": ["--predict_with_generate", "true", "--generation_max_length", "12", "--max_seq_length", "32"]
    + ["--label_smoothing_factor", "0.1", "--metrics", "bleu", "chrf", "exact_match", "character_error_rate"],
}
STEPS, BATCH = 4, 8
SEARCHED = "sequence_classification"
COMMON = ["--max_steps", str(STEPS), "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
COMMON += ["--save_steps", "2", "--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "0.3"]
COMMON += ["--optim", "sgd", "--lr_scheduler_type", "constant", "--max_train_samples", "40"]
COMMON += ["--max_eval_samples", "10"]
# A run that only evaluates and predicts with the weights that it is given.
PREDICT_ONLY = ["--learning_rate", "0", "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
PREDICT_ONLY += ["--load_best_model_at_end", "false"]


@cache
def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def finetune(task: str, *options: str) -> None:
    script(f"finetune_{task}").main(list(options))


def command(task: str, data: Path, output: Path, *options: str, batch: int = BATCH) -> list[str]:
    name = FILES.get(task, task)
    files = [part for split in SPLITS for part in (f"--{split}_file", str(data / f"{name}_{split}.jsonl"))]
    model = ["--model_name_or_path", str(data / TASKS[task][0]), "--per_device_train_batch_size", str(batch)]
    return [*files, *model, "--output_dir", str(output), *COMMON, *OPTIONS[task], *options]


def read(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files with a few rows for each task, and a small checkpoint of each family."""
    folder = tmp_path_factory.mktemp("data")
    try:
        brown = {"archive": built_in.downloaded(built_in.BROWN_PACKAGE)}
        reviews = {"archive": built_in.downloaded(built_in.REVIEWS_PACKAGE)}
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for split in SPLITS:
        count = 40 if split == "train" else 10
        texts = (row["text"][:500] for row in built_in._generate_brown_texts(split=split, **brown))
        tags = (
            {"tokens": row["tokens"][:20], "tags": [KINDS.get(tag[:2], "other") for tag in row["tags"][:20]]}
            for row in built_in._generate_tags(split=split, **brown)
        )
        rows = {
            "sequence_classification": built_in._generate_reviews(split=split, **reviews),
            "token_classification": tags,
            "causal_lm": ({"text": text} for text in texts),
            "translation": (
                {"source": f"{number} and {number}", "target": f"{number} und {number}"}
                for number in range(count * 7, 10**6)
            ),
        }
        names = {0: "negative", 1: "positive"}
        for task, of_task in rows.items():
            kept = [{**row, "label": names[row["label"]]} if "score" in row else row for row in islice(of_task, count)]
            (folder / f"{task}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    generator = script("generate_reading_tasks")
    for number, split in enumerate(SPLITS):
        pairs = list(generator.rows(40 if split == "train" else 10, people=2, seed=number))
        for name, of_kind in zip(("questions", "choices"), zip(*pairs, strict=True), strict=True):
            (folder / f"{name}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_kind))
    learned = [line for path in sorted(folder.glob("*_train.jsonl")) for line in path.read_text().splitlines()]
    for family, (config_class, head) in {
        "encoder": (VanillaEncoderConfig, VanillaEncoderForMaskedLM),
        "decoder": (VanillaDecoderConfig, VanillaDecoderForCausalLM),
        "seq2seq": (VanillaConfig, VanillaForConditionalGeneration),
    }.items():
        tokenizer = train_tokenizer(learned, 500, family)
        torch.manual_seed(0)
        depth = {"N": 1} if family == "seq2seq" else {"num_hidden_layers": 1}
        labels = {} if family == "seq2seq" else {"classifier_dropout": 0.0}
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "dropout": 0.0}
        head(config_class(vocab_size=len(tokenizer), **shape, **depth, **labels)).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """What each script leaves, by one process."""
    folder = tmp_path_factory.mktemp("runs")

    def run(task: str) -> Path:
        if not (folder / task / "README.md").exists():
            finetune(task, *command(task, data, folder / task))
        return folder / task

    return run


@pytest.mark.parametrize("task", TASKS)
def test_a_script_trains_evaluates_saves_and_writes_a_card(task, data, runs):
    folder = runs(task)
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_loss"] > 0 and results["test_loss"] > 0 and np.isfinite(results["eval_loss"])
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == STEPS and state["best_model_checkpoint"]
    before, model = (TASKS[task][1].from_pretrained(of) for of in (data / TASKS[task][0], folder))
    assert max(
        (a - b).abs().max() for a, b in zip(before.base_model.parameters(), model.base_model.parameters(), strict=True)
    ) > (1e-6 if task == "multiple_choice" else 1e-4)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == {
        "causal_lm": "text-generation",
        "sequence_classification": "text-classification",
    }.get(task, task.replace("_", "-"))
    assert "loss" in {result.metric_type for result in card.data.eval_results}
    assert str(data) not in str(card)


def test_what_was_saved_predicts_what_was_written(data, runs):
    """By other code than the scripts': pipelines, or the model itself."""
    folder = runs("sequence_classification")
    rows = read(data / "sequence_classification_test.jsonl")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForSequenceClassification.from_pretrained(folder),
    )
    assert model.config.label2id == {"negative": 0, "positive": 1}
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True, max_length=48)
    assert [answer["label"] for answer in classify([row["text"] for row in rows])] == read(
        folder / "predictions.jsonl"
    )

    folder = runs("token_classification")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForTokenClassification.from_pretrained(folder)
    for row, tags in zip(
        read(data / "token_classification_test.jsonl"), read(folder / "predictions.jsonl"), strict=True
    ):
        text = " ".join(row["tokens"])
        batch = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        offsets = batch.pop("offset_mapping")[0].tolist()
        classes = model(**batch).logits[0].argmax(-1)
        starts = np.cumsum([0] + [len(word) + 1 for word in row["tokens"][:-1]])
        firsts = [next(i for i, (a, b) in enumerate(offsets) if b > a and b > start) for start in starts]
        assert [model.config.id2label[int(classes[i])] for i in firsts] == tags

    folder = runs("question_answering")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    for row, answer in zip(read(data / "questions_test.jsonl"), read(folder / "predictions.jsonl"), strict=True):
        assert answer and answer in row["context"]

    folder = runs("multiple_choice")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMultipleChoice.from_pretrained(folder)
    for row, choice in zip(read(data / "choices_test.jsonl"), read(folder / "predictions.jsonl"), strict=True):
        batch = tokenizer([row["context"]] * 4, row["choices"], padding=True, return_tensors="pt")
        assert int(model(**{name: ids[None] for name, ids in batch.items()}).logits.argmax()) == choice

    folder = runs("translation")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    rows, written = read(data / "translation_test.jsonl"), read(folder / "predictions.jsonl")
    batch = tokenizer([row["source"] for row in rows], padding=True, return_tensors="pt")
    again = tokenizer.batch_decode(model.generate(**batch, max_length=12, num_beams=1), skip_special_tokens=True)
    assert [text.strip() for text in again] == written


def test_translations_are_scored_as_asked_and_labels_and_tags_of_other_kinds_are_learned(runs, data, tmp_path):
    results = json.loads((runs("translation") / "all_results.json").read_text())
    for split in ("eval", "test"):
        assert {
            f"{split}_{name}" for name in ("bleu", "chrf", "exact_match", "character_error_rate")
        } <= results.keys()
    rows = [f"number {row},{('0111', '0112', '2834')[row % 3]}" for row in range(30)]
    (tmp_path / "codes.csv").write_text("".join(f"{row}\n" for row in ("text,label", *rows)))
    options = ["--model_name_or_path", str(data / "encoder"), "--use_cpu", "true", "--max_steps", "1"]
    finetune(
        "sequence_classification",
        "--train_file",
        str(tmp_path / "codes.csv"),
        "--output_dir",
        str(tmp_path / "codes"),
        *options,
    )
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "codes").config
    assert config.id2label == {0: "0111", 1: "0112", 2: "2834"}


@pytest.mark.parametrize("family", ["ours", "gpt2"])
def test_perplexity_is_the_mean_over_what_is_predicted(family, data, tmp_path):
    """Of GPT-2's class Trainer counts the first token of each block, too, which nothing predicts."""
    tokenizer = AutoTokenizer.from_pretrained(data / "decoder")
    checkpoint = data / "decoder"
    if family == "gpt2":
        checkpoint = tmp_path / "gpt2"
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).save_pretrained(
            checkpoint
        )
        tokenizer.save_pretrained(checkpoint)
    options = ["--model_name_or_path", str(checkpoint), "--per_device_eval_batch_size", "1024"]  # all in one batch
    finetune("causal_lm", *command("causal_lm", data, tmp_path / "run", *options))
    texts = [row["text"] for row in read(data / "causal_lm_test.jsonl")]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([token for text in encoded for token in [*text, tokenizer.eos_token_id]])
    blocks = ids[: len(ids) // 16 * 16].view(-1, 16)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()(blocks).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), blocks[:, 1:].flatten())
    written = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert written["test_perplexity"] == pytest.approx(loss.exp().item(), rel=1e-4)


@pytest.mark.parametrize("argument", ["model_name_or_path", "config_name", "tokenizer_name"])
def test_what_is_not_there_is_named(argument, data, tmp_path):
    options = command(SEARCHED, data, tmp_path / "run", f"--{argument}", "runs/nothing")
    if argument == "config_name":
        options = [part for part in options if part not in ("--model_name_or_path", str(data / "encoder"))]
    with pytest.raises(FileNotFoundError, match="runs/nothing: no such folder"):
        finetune(SEARCHED, *options)


def test_a_question_that_leaves_no_room_is_named_by_its_row_of_the_file(data, tmp_path):
    rows = read(data / "questions_train.jsonl")
    rows[17]["question"] = "who " * 200
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = command("question_answering", data, tmp_path / "run", "--train_file", str(path))
    place = options.index("--validation_file")
    with pytest.raises(ValueError, match=r'train\[17\]\["question"\] has \d+ tokens'):
        finetune("question_answering", *options[:place], *options[place + 2 :])


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(data, runs, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*launcher, __file__, str(data), str(tmp_path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    for task in TASKS:
        # Trainer's loss of an evaluation counts rows twice where the last batch is not full; the weights are the same.
        one, two = (
            load_file(of / f"checkpoint-{STEPS}" / "model.safetensors") for of in (runs(task), tmp_path / task)
        )
        for name in one:
            torch.testing.assert_close(
                two[name],
                one[name],
                rtol=0,
                atol=1e-5,
                msg=lambda text, task=task, name=name: f"{task}, {name}: {text}",
            )
        results = json.loads((tmp_path / task / "all_results.json").read_text())
        assert np.isfinite(results["eval_loss"]) and results["test_loss"] > 0
        if task != "causal_lm":
            assert len(read(tmp_path / task / "predictions.jsonl")) == 10
    assert len(read(tmp_path / "search" / "predictions.jsonl")) == 10
    assert [(tmp_path / f"freed-{rank}").read_text() for rank in range(2)] == ["True", "True"]


def test_the_same_command_goes_on(data, runs, tmp_path):
    """Half of the steps, then all of them: the weights of a run that was not interrupted."""
    options = command("sequence_classification", data, tmp_path / "run")
    finetune("sequence_classification", *options, "--max_steps", str(STEPS // 2))
    for steps, state in ((3, None), (6, '{"global_step": 6, '), (7, "")):  # killed while they were written
        broken = shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "run" / f"checkpoint-{steps}")
        (broken / "trainer_state.json").unlink()
        if state is not None:
            (broken / "trainer_state.json").write_text(state)
    finetune("sequence_classification", *options)
    one = AutoModelForSequenceClassification.from_pretrained(runs("sequence_classification")).state_dict()
    two = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match="max_seq_length was 48, is 40; give another output_dir"):
        finetune("sequence_classification", *options, "--max_seq_length", "40")


def test_what_is_finished_stays_as_it_is(data, runs, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(runs("multiple_choice"), tmp_path / "run")
    options = command("multiple_choice", data, runs("multiple_choice"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options[options.index("--output_dir") + 1] = str(folder)
    with pytest.raises(SystemExit) as end:
        finetune("multiple_choice", *options)
    assert not end.value.code and f"{folder} is finished" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as gone:  # what it began with may be gone
        gone.setattr(AutoConfig, "from_pretrained", None)
        with pytest.raises(SystemExit):
            finetune("multiple_choice", *options)

    other = shutil.copy(data / "choices_train.jsonl", tmp_path / "choices_train.jsonl")
    with pytest.raises(ValueError, match="train_file was .*, is .*choices_train.jsonl"):
        finetune("multiple_choice", *options, "--train_file", str(other))
    with pytest.raises(SystemExit):
        finetune("multiple_choice", *options, "--max_steps", str(STEPS - 1))
    with pytest.raises(ValueError, match="is finished: `hf-vanilla push"):
        finetune("multiple_choice", *options, "--push_to_hub", "true")
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        finetune("multiple_choice", *options, "--max_seq_length", "64")
    (folder / "finetuning.json").unlink()
    with pytest.raises(ValueError, match="holds a model that no fine-tuning left there"):
        finetune("multiple_choice", *options)


def test_rows_that_have_changed_are_other_data(data, tmp_path):
    file = Path(shutil.copy(data / "choices_train.jsonl", tmp_path / "train.jsonl"))
    options = command("multiple_choice", data, tmp_path / "run", "--train_file", str(file), "--max_steps", "2")
    finetune("multiple_choice", *options)
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with pytest.raises(ValueError, match="train_file_sha256 was"):
        finetune("multiple_choice", *options, "--max_steps", "4")


@pytest.mark.parametrize("task", [task for task in TASKS if task != "causal_lm"])
def test_a_test_split_without_labels_is_predicted_all_the_same(task, data, runs, tmp_path):
    labels = {"question_answering": "answers", "token_classification": "tags", "translation": "target"}
    label, name = labels.get(task, "label"), FILES.get(task, task)
    empty = {"question_answering": {"text": [], "answer_start": []}, "translation": ""}
    for column in ({}, {label: empty.get(task)}):
        rows = [
            {key: value for key, value in row.items() if key != label} | column
            for row in read(data / f"{name}_test.jsonl")
        ]
        path = tmp_path / f"{len(column)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = tmp_path / f"run-{len(column)}"
        options = ["--test_file", str(path), "--model_name_or_path", str(runs(task)), *PREDICT_ONLY]
        finetune(task, *command(task, data, run, *options))
        assert read(run / "predictions.jsonl") == read(runs(task) / "predictions.jsonl")
        results = json.loads((run / "all_results.json").read_text())
        assert "eval_loss" in results and not {"test_loss", "test_accuracy", "test_f1", "test_bleu"} & results.keys()


def test_left_padding_changes_no_prediction(data, runs, tmp_path):
    for task in ("token_classification", "question_answering"):
        left = shutil.copytree(runs(task), tmp_path / f"left_{task}")
        settings = json.loads((left / "tokenizer_config.json").read_text())
        (left / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
        options = ["--model_name_or_path", str(left), *PREDICT_ONLY]
        finetune(task, *command(task, data, tmp_path / task, *options))
        assert read(tmp_path / task / "predictions.jsonl") == read(runs(task) / "predictions.jsonl")


@pytest.mark.parametrize(("metric", "better"), [(None, "f1"), ("loss", "loss"), ("exact_match", "exact_match")])
def test_the_best_is_best_by_its_metric(metric, better, data, tmp_path):
    """Of constant evaluations the first is best, of falling losses the last."""
    options = ["--learning_rate", "0.01", *(["--metric_for_best_model", metric] if metric else [])]
    finetune("question_answering", *command("question_answering", data, tmp_path, *options))
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    scores = [entry[f"eval_{better}"] for entry in state["log_history"] if f"eval_{better}" in entry][:2]
    assert state["best_metric"] == (min if better == "loss" else max)(scores)


def test_a_value_with_a_lower_error_is_better(data, tmp_path):
    options = ["--label_column_name", "score", "--metric_for_best_model", "mse", "--learning_rate", "0.01"]
    finetune("sequence_classification", *command("sequence_classification", data, tmp_path, *options))
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_metric"] == min(entry["eval_mse"] for entry in state["log_history"] if "eval_mse" in entry)


def test_the_end_of_a_text_is_learned_where_it_also_pads(data, tmp_path):
    model = shutil.copytree(data / "decoder", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(model)
    options = ["--model_name_or_path", str(model), "--learning_rate", "0"]
    finetune("causal_lm", *command("causal_lm", data, tmp_path / "run", *options))
    texts = [row["text"] for row in read(data / "causal_lm_validation.jsonl")]
    ids = [
        i for text in texts for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    blocks = torch.tensor([ids[i : i + 16] for i in range(0, len(ids) - 15, 16)])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(model)(input_ids=blocks, labels=blocks).loss
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert abs(results["eval_loss"] - float(expected)) < 1e-4


def test_encoder_decoders_of_transformers_classify_and_take_adapters(data, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(data / "seq2seq")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["decoder_start_token_id"] = tokenizer.bos_token_id
    width = {"d_model": 16, "vocab_size": len(tokenizer)}
    layers = {f"{stack}_{what}": 1 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    bart = BartForSequenceClassification(
        BartConfig(**width, **layers, **ids, encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=2)
    )
    t5 = T5ForConditionalGeneration(T5Config(**width, **ids, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    for name, model in (("bart", bart), ("t5", t5)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for name, task, extra in (("bart", "sequence_classification", []), ("t5", "translation", ["--use_peft", "true"])):
        finetune(task, *command(task, data, tmp_path / task, "--model_name_or_path", str(tmp_path / name), *extra))
        assert len(read(tmp_path / task / "predictions.jsonl")) == 10
        assert str(tmp_path) not in (tmp_path / task / "README.md").read_text()
    adapted = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "translation")
    assert torch.equal(adapted.shared.weight, t5.shared.weight)  # and so the output projection
    options = ["--model_name_or_path", str(tmp_path / "translation"), *PREDICT_ONLY]
    finetune("translation", *command("translation", data, tmp_path / "again", *options))
    trained, merged = (
        json.loads((tmp_path / run / "all_results.json").read_text()) for run in ("translation", "again")
    )
    assert abs(trained["eval_loss"] - merged["eval_loss"]) < 1e-4


def test_what_came_to_no_number_is_not_saved(data, tmp_path):
    options = ["--max_grad_norm", "0", "--learning_rate", "1e30", "--load_best_model_at_end", "false"]
    with pytest.raises(ValueError, match="the loss is nan in the end"):
        finetune("multiple_choice", *command("multiple_choice", data, tmp_path, *options))
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "predictions.jsonl").exists()


def test_other_classes_than_the_checkpoints_need_a_new_head(data, runs, tmp_path):
    options = ["--model_name_or_path", str(runs("sequence_classification"))]
    options += ["--label_column_name", "score", "--ignore_mismatched_sizes", "true"]
    finetune("sequence_classification", *command("sequence_classification", data, tmp_path, *options))
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_labels == 1


def test_positions_that_begin_after_that_of_padding_are_fewer(data):
    tokenizer = AutoTokenizer.from_pretrained(data / "encoder")
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "max_position_embeddings": 20}
    roberta = RobertaForMaskedLM(RobertaConfig(**sizes, pad_token_id=1))
    assert sequence_limit(roberta, tokenizer, 18) == 18
    with pytest.raises(ValueError, match="max_seq_length is 19, the model takes 18"):
        sequence_limit(roberta, tokenizer, 19)
    assert sequence_limit(BertForMaskedLM(BertConfig(**sizes | {"vocab_size": 20})), tokenizer, None) == 20


def test_a_yaml_file_says_what_the_command_line_would(data, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    fields = "class_names: [positive, negative]\nlora_target_modules: []\nmax_steps: 2\nlearning_rate: 1e-3\n"
    path.write_text(fields + "bf16: false\nlogging_strategy: no\nrun_name: -a\n")
    options = command("sequence_classification", data, tmp_path / "run")
    place = options.index("--max_steps")
    del options[place : place + 2]
    finetune("sequence_classification", str(path), *options)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").config
    assert config.id2label == {0: "positive", 1: "negative"}
    for text, message in (
        ("a: [", "run.yaml, line 1: "),
        ("- a", "field: value"),
        ("maxsteps: 1", "line 1: unknown field 'maxsteps'"),
    ):
        path.write_text(text)
        with pytest.raises(SystemExit):
            finetune("sequence_classification", str(path), *options)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("task", ["sequence_classification", "question_answering", "causal_lm", "translation"])
def test_lora_leaves_the_adapter_and_a_whole_model(task, data, tmp_path):
    from peft import PeftModel

    options = ["--use_peft", "true", "--lora_r", "2"]
    finetune(task, *command(task, data, tmp_path, *options, "--early_stopping_patience", "3"))
    auto_class = TASKS[task][1]
    whole = auto_class.from_pretrained(tmp_path)
    base = auto_class.from_pretrained(data / TASKS[task][0], **({"num_labels": 2} if "class" in task else {}))
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for name, merged in whole.named_parameters():
        torch.testing.assert_close(merged, adapted.state_dict()[name], msg=name)
    embedding = auto_class.from_pretrained(data / TASKS[task][0]).get_input_embeddings().weight
    torch.testing.assert_close(whole.get_input_embeddings().weight, embedding)  # frozen
    assert (tmp_path / "README.md").exists()


def test_new_weights_a_tokenizer_of_its_own_and_a_yaml_file(data, tmp_path):
    config = VanillaEncoderConfig(vocab_size=400, d_model=32, h=2, d_ff=64, N=1)
    config.save_pretrained(tmp_path / "config")
    options = command("sequence_classification", data, tmp_path / "run")
    place = options.index("--model_name_or_path")
    options[place : place + 2] = ["--config_name", str(tmp_path / "config")]
    (tmp_path / "run.yaml").write_text("label_column_name: score\nnum_train_epochs: 1\n")
    finetune("sequence_classification", str(tmp_path / "run.yaml"), *options)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "run")) <= 400
    assert {"eval_mse", "eval_pearson"} <= json.loads((tmp_path / "run" / "all_results.json").read_text()).keys()


def test_training_stops_early_where_nothing_improves(data, tmp_path):
    options = ["--learning_rate", "0", "--max_steps", "10", "--early_stopping_patience", "1"]
    finetune("token_classification", *command("token_classification", data, tmp_path, *options))
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4


@pytest.mark.parametrize("extra", [pytest.param([], marks=pytest.mark.slow), ["--use_peft", "true"]])
def test_a_search_trains_with_the_best_that_it_found(extra, data, tmp_path):
    options = command(SEARCHED, data, tmp_path, "--search_trials", "2", "--logging_steps", "1", *extra)
    finetune(SEARCHED, *options)
    trials = []
    for path in tmp_path.glob("run-*/checkpoint-4/trainer_state.json"):
        trial = json.loads(path.read_text())
        trials.append((trial["log_history"][-1]["eval_accuracy"], trial["trial_params"]))
    chosen = json.loads((tmp_path / "search.json").read_text())
    assert len(trials) == 2 and (max(score for score, _ in trials), chosen) in trials

    def check() -> None:
        state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
        assert state["train_batch_size"] == chosen["per_device_train_batch_size"]
        assert state["log_history"][0]["learning_rate"] == chosen["learning_rate"]

    check()
    shutil.rmtree(tmp_path / "checkpoint-4")
    for path in tmp_path.glob("run-*"):
        shutil.rmtree(path)
    unfinish(tmp_path)
    finetune(SEARCHED, *options)  # and nothing is searched for again
    assert not list(tmp_path.glob("run-*"))
    check()


def unfinish(folder: Path) -> None:
    """As if the run had been interrupted."""
    settings = json.loads((folder / "finetuning.json").read_text())
    assert settings.pop("finished")
    (folder / "finetuning.json").write_text(json.dumps(settings))


ROWS = {"text": ["good", "bad", "fine", "poor"], "label": ["p", "n", "p", "n"]}
ANSWER = {"question": ["who?"], "context": ["Ann did."]}
CHOICE = {"context": ["a", "b"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("task", "rows", "options", "message"),
    [
        (
            "sequence_classification",
            {**ROWS, "text": ["good", " ", "fine", "poor"]},
            [],
            r'train\[1\]\["text"\] is empty',
        ),
        (
            "sequence_classification",
            {**ROWS, "text": [1, 2, 3, 4]},
            [],
            "column 'text' of the train split holds int64",
        ),
        ("sequence_classification", {**ROWS, "label": ["p"] * 4}, [], "one class only, 'p'"),
        ("sequence_classification", {**ROWS, "label": ["p", "n", None, "n"]}, [], r'train\[2\]\["label"\] is None'),
        (
            "sequence_classification",
            ROWS,
            ["--class_names", "p", "q"],
            r'train\[1\]\["label"\] is \'n\', none of the 2',
        ),
        ("sequence_classification", ROWS, ["--label_column_name", "x"], "no column 'x', its columns are text, label"),
        (
            "sequence_classification",
            {**ROWS, "text": ["good", "bad " * 600, "a", "b"]},
            [],
            r'train\[1\]\["text"\] has \d+ tokens, the model takes 512',
        ),
        ("sequence_classification", {**ROWS, "label": ["p", "n", "", "n"]}, [], r'train\[2\]\["label"\] is \'\''),
        ("sequence_classification", {**ROWS, "label": [[1, 0], [0, 1]] * 2}, [], "a 0 or 1 for each class"),
        ("sequence_classification", {**ROWS, "label": [[1, 0, 1]] * 4}, [], "a 0 or 1 for each class"),
        ("sequence_classification", {**ROWS, "label": [{"a": 1}] * 4}, [], "expected names or numbers of classes"),
        ("sequence_classification", {**ROWS, "label": [0.5] * 4}, [], "is always 0.5: nothing can be learned"),
        ("sequence_classification", {**ROWS, "label": [0.5, 1, 2, 3]}, ["--class_names", "a", "b"], "holds numbers"),
        ("sequence_classification", ROWS, ["--max_seq_length", "2"], "the tokenizer adds 2: no room for a text"),
        ("sequence_classification", ROWS, ["--max_seq_length", "0"], "max_seq_length is 0; expected 1 at least"),
        ("sequence_classification", ROWS, ["--max_eval_samples", "0"], "max_eval_samples is 0; expected 1 at least"),
        ("sequence_classification", ROWS, ["--search_trials", "-1"], "search_trials is -1; expected 0 at least"),
        ("sequence_classification", ROWS, ["--early_stopping_patience", "0"], "patience is 0; expected 1 at least"),
        ("sequence_classification", ROWS, ["--dataset_name", "brown"], "not both"),
        (
            "sequence_classification",
            ROWS,
            ["--search_trials", "1", "--metric_for_best_model", "zz", "--load_best_model_at_end", "false"],
            "there is no eval_zz, but eval_loss",
        ),
        ("token_classification", {"tokens": [["a"], ["b"]], "tags": [["x"], [""]]}, [], "one class only"),
        (
            "question_answering",
            {**ANSWER, "answers": [{"text": ["Ann"], "answer_start": ["0"]}]},
            [],
            "expected texts",
        ),
        ("question_answering", {**ANSWER, "answers": [{"text": [" "], "answer_start": [3]}]}, [], "an empty text"),
        ("question_answering", ANSWER, ["--doc_stride", "-1"], "doc_stride is -1; expected 0 at least"),
        ("question_answering", ANSWER, ["--label_smoothing_factor", "0.1"], "does not smooth"),
        ("multiple_choice", CHOICE, [], "no column 'choices'"),
        ("multiple_choice", {**CHOICE, "choices": ["xy", "yz"]}, [], "is 'xy', expected a list of choices"),
        (
            "multiple_choice",
            {**CHOICE, "choices": [["x", "y"], ["x y z x y z", "y"]]},
            ["--max_seq_length", "8"],
            r'train\[1\]\["choices"\]: a choice has .* no room for the context',
        ),
        ("causal_lm", {"text": ["short"]}, ["--max_seq_length", "64"], "see block_size"),
        ("sequence_classification", ROWS, ["--max_seq_length", "600"], "max_seq_length is 600, the model takes 512"),
        (
            "token_classification",
            {"tokens": [["a", "b"], ["c"]], "tags": [["x"], ["y"]]},
            [],
            r'train\[0\]\["tags"\] has 1 labels for the 2 words',
        ),
        ("token_classification", {"tokens": [["a"], []], "tags": [["x"], []]}, [], r'train\[1\]\["tokens"\] is empty'),
        ("token_classification", {"tokens": ["a b", "c"], "tags": [["x"], ["y"]]}, [], "expected lists of words"),
        (
            "question_answering",
            {"question": ["who?"], "context": ["Ann did."], "answers": [{"text": ["Ann"], "answer_start": [7]}]},
            [],
            r'train\[0\]\["answers"\]: \'Ann\' at 7 lies outside of the 8 characters',
        ),
        (
            "question_answering",
            {"question": ["who?"], "context": ["Ann did."], "answers": [{"text": ["Ann"], "answer_start": [1]}]},
            [],
            "stands 'nn ', not 'Ann'",
        ),
        (
            "question_answering",
            {"question": ["who?"], "context": ["Ann did."], "answers": [{"text": [], "answer_start": []}]},
            [],
            "has no answer",
        ),
        (
            "multiple_choice",
            {"context": ["a", "b"], "choices": [["x", "y"], ["x"]], "label": [0, 1]},
            [],
            r'train\[1\]\["choices"\] has 1 choices, train\[0\]\["choices"\] 2',
        ),
        (
            "multiple_choice",
            {"context": ["a", "b"], "choices": [["x", "y"], ["x", "y"]], "label": [0, 2]},
            [],
            r'train\[1\]\["label"\] is 2, expected 0 to 1',
        ),
        ("causal_lm", {"text": ["short"]}, ["--block_size", "64"], "shorter than a block of 64 tokens"),
        ("translation", {"source": ["a", ""], "target": ["b", "c"]}, [], r'train\[1\]\["source"\] is empty'),
    ],
)
def test_bad_rows_are_named_and_nothing_is_trained(task, rows, options, message, data, tmp_path):
    count = len(next(iter(rows.values())))
    lines = [json.dumps({name: column[row] for name, column in rows.items()}) for row in range(count)]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    checkpoint = data / TASKS[task][0]
    if "512" in message:  # only learned positions end somewhere
        checkpoint = shutil.copytree(checkpoint, tmp_path / "learned")
        config = VanillaEncoderConfig.from_pretrained(checkpoint, position_embedding_type="learned")
        VanillaEncoderForMaskedLM(config).save_pretrained(checkpoint)
    file = str(tmp_path / "bad.jsonl")
    arguments = ["--train_file", file, "--validation_file", file, "--model_name_or_path", str(checkpoint)]
    with pytest.raises(ValueError, match=message):
        finetune(task, *arguments, "--output_dir", str(tmp_path / "run"), "--use_cpu", "true", *options)
    assert not list((tmp_path / "run").glob("checkpoint-*")) and not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize("task", TASKS)
def test_a_script_is_short_and_says_how_it_is_launched(task):
    source = (SCRIPTS / f"finetune_{task}.py").read_text()
    assert len(source.splitlines()) <= 80
    assert f"python scripts/finetune_{task}.py" in source and "torchrun --nproc-per-node 2" in source


def train_in_one_of_two_processes(data: Path, output: Path) -> None:
    """All scripts, on this process's half of each batch."""
    # Of what is to be done at exit, the first that is asked for is done last.
    freed = output / f"freed-{os.environ['RANK']}"
    atexit.register(lambda: freed.write_text(str(not torch.distributed.is_initialized())))
    for task in TASKS:
        finetune(task, *command(task, data, output / task, batch=BATCH // 2))
        assert torch.distributed.get_world_size() == 2
    # From the sixth trial on, the pruner that optuna takes by default would stop one process alone.
    options = ["--search_trials", "7", "--metric_for_best_model", "loss", "--max_steps", "2"]
    finetune(SEARCHED, *command(SEARCHED, data, output / "search", *options))


if __name__ == "__main__":
    train_in_one_of_two_processes(Path(sys.argv[1]), Path(sys.argv[2]))
