"""The card says what was recorded, is valid, and lets text of data be nothing but text."""

import dataclasses
import functools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from families import MODELS, small_model
from huggingface_hub import ModelCard
from test_hub import ROOT, blocks_of, runs  # noqa: F401  a fixture: a run of each family
from transformers import pipeline

from hf_vanilla import RecurrentForConditionalGeneration, RecurrentModel, VanillaForConditionalGeneration, cli
from hf_vanilla.data.hub_names import hub_id
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.metadata import check_languages
from hf_vanilla.hub.model_card import EXAMPLE, MODULE_FILES, RECORDS, WIDGET, render_card
from hf_vanilla.hub.push import push, write_card
from hf_vanilla.hub.staging import load_model_and_tokenizer, stage
from hf_vanilla.training.config import TrainingConfig


def test_a_card_tells_what_was_recorded(runs, tmp_path):  # noqa: F811
    stage(runs / "translation", tmp_path / "staged", "user/numbers", languages=["en", "de"], license="mit")
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    data = card.data.to_dict()
    summary = json.loads((runs / "translation" / "training_summary.json").read_text())
    (scores,) = json.loads((runs / "translation" / "evaluation.json").read_text())
    assert data["language"] == ["en", "de"] and data["license"] == "mit" and data["pipeline_tag"] == "translation"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["bleu"].metric_value == round(scores["bleu"], 4)
    assert results["bleu"].metric_args["signature"] == scores["bleu_signature"]
    assert results["perplexity"].metric_value == round(summary["final"]["validation_perplexity"], 4)
    assert f"{summary['updates']:,} updates" in card.text and "± " in card.text and summary["hardware"] in card.text
    # By these classes, the Hub shows one picture in its light theme and the other in its dark one.
    for name in ("attention", "curves"):
        light, dark = (tmp_path / "staged" / f"{name}{ending}.png" for ending in ("", "_dark"))
        assert light.is_file() and dark.is_file() and light.read_bytes() != dark.read_bytes()
        assert f'<img class="dark:hidden" src="{name}.png"' in card.text
        assert f'<img class="hidden dark:block" src="{name}_dark.png"' in card.text
    # Scores of other weights are not told.
    model = VanillaForConditionalGeneration.from_pretrained(runs / "translation")
    other = shutil.copytree(runs / "translation", tmp_path / "other")
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    model.save_pretrained(other)
    assert "BLEU" not in str(render_card(other, "user/numbers"))


@pytest.mark.parametrize(
    "model_class",
    [*MODELS, RecurrentForConditionalGeneration, RecurrentModel],
    ids=lambda model_class: model_class.__name__,
)
def test_the_code_in_the_card_of_each_head_runs(model_class, tmp_path, capsys):
    family = model_class.config_class.model_type.removeprefix("vanilla_")
    tokenizer = train_tokenizer([EXAMPLE], 300, **({"family": family} if family in ("encoder", "decoder") else {}))
    small_model(model_class, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    codes = blocks_of(render_card(tmp_path, "user/name").text)
    for code in codes:
        exec(code.replace('"user/name"', repr(str(tmp_path))), {})
    assert codes and capsys.readouterr().out


EVIL = 'x\n---\nlicense: stolen\n---\n<script>alert(1)</script> | `"""\nimport os` [a](javascript:x) {{ 7 * 7 }} $x$'


def test_text_of_data_and_files_is_text_in_a_card(runs, tmp_path):  # noqa: F811
    run = shutil.copytree(runs / "translation", tmp_path / "run")
    summary = json.loads((run / "training_summary.json").read_text())
    summary["configuration"]["corpus"] = summary["hardware"] = EVIL
    summary["dropped_examples"], summary["command"] = {EVIL: 3}, EVIL + "\n```\n<script>"
    (run / "training_summary.json").write_text(json.dumps(summary))
    (run / "samples.jsonl").write_text(json.dumps({"source": EVIL, "target": EVIL, "translation": EVIL}) + "\n")
    scores = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps([{**scores[0], "set": EVIL}]))
    card = render_card(run, "user/evil")
    assert card.data.license == "apache-2.0" and "stolen" not in json.dumps(sorted(card.data.to_dict()))
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    outside = re.sub("^```.*?^```", "", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "49" not in re.sub(r"\d[\d.,]{3,}", "", outside)
    assert not re.search(r"(?<!\\)\[a(?<!\\)\]", outside)
    for code in blocks_of(card.text):
        compile(code, "card", "exec")
        assert "\nimport os" not in code
    tables = [line for line in outside.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5) for line in tables)


def test_a_text_that_cannot_be_drawn_costs_a_card_its_picture_alone(runs, tmp_path, monkeypatch):  # noqa: F811
    def fail(*arguments):
        raise ValueError("no such script")

    monkeypatch.setattr("hf_vanilla.hub.staging.draw_attention", fail)
    stage(runs / "translation", tmp_path / "staged", "user/blank")
    assert not (tmp_path / "staged" / "attention.png").exists()
    assert "attention.png" not in (tmp_path / "staged" / "README.md").read_text()


def test_languages_and_licences_come_from_the_command_line(runs, tmp_path, capsys):  # noqa: F811
    options = ["--languages", "en", "de", "--license", "cc0-1.0"]
    cli.main(["card", str(runs / "translation"), "user/name", str(tmp_path / "card"), *options])
    assert {path.name for path in (tmp_path / "card").iterdir()} | {WIDGET, *MODULE_FILES} == {"README.md", *RECORDS}
    written = (tmp_path / "card" / "README.md").read_text()
    assert ModelCard(written).data.license == "cc0-1.0"
    # From the records alone it is the same.
    cli.main(["card", str(tmp_path / "card"), "user/name", str(tmp_path / "again"), *options])
    assert (tmp_path / "again" / "README.md").read_text() == written


def test_a_card_that_is_written_anew_links_what_a_push_made(runs, tmp_path):  # noqa: F811
    links = ["https://huggingface.co/spaces/user/name", "https://huggingface.co/user/name-marian"]
    for source in (runs / "translation", tmp_path / "card"):
        for folder, options in (("plain", []), ("card", ["--space", "--twin", "user/name-marian"])):
            cli.main(["card", str(source), "user/name", str(tmp_path / folder), *options])
            written = (tmp_path / folder / "README.md").read_text()
            assert [link in written for link in links] == [bool(options)] * 2


@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_a_language_model_s_widget_shows_what_the_model_gives(task, runs, tmp_path):  # noqa: F811
    stage(runs / task, tmp_path / "staged", "user/name")
    model, tokenizer = load_model_and_tokenizer(tmp_path / "staged")
    examples = ModelCard.load(tmp_path / "staged" / "README.md").data.widget
    assert len(examples) == 3
    for example in examples:
        if task == "masked_lm":
            answers = pipeline("fill-mask", model=model, tokenizer=tokenizer)(example["text"])
            assert [label["label"] for label in example["output"]] == [each["token_str"].strip() for each in answers]
            scores = [label["score"] for label in example["output"]]
            assert scores == pytest.approx([each["score"] for each in answers], abs=1e-3)
        else:
            batch = tokenizer([example["text"]], return_tensors="pt")
            tokens = model.generate(**batch, max_new_tokens=20, do_sample=False)
            expected = " ".join(tokenizer.decode(tokens[0], skip_special_tokens=True).split())
            assert example["output"]["text"] == expected and len(expected) > len(example["text"])


def test_weights_that_come_from_elsewhere_get_no_licence_of_ours(runs, tmp_path):  # noqa: F811
    folder = shutil.copytree(runs / "translation", tmp_path / "run")
    assert render_card(folder, "user/name").data.license == "apache-2.0"
    (folder / "training_summary.json").write_text(json.dumps({"configuration": {"initial_model": "other/model"}}))
    assert render_card(folder, "user/name").data.license is None
    (folder / "training_summary.json").write_text(json.dumps({"arguments": {}}))  # a Trainer does not know
    assert render_card(folder, "user/name").data.license is None
    (folder / "training_summary.json").unlink()  # as in what `convert` writes
    assert render_card(folder, "user/name").data.license is None
    assert render_card(folder, "user/name", license="mit").data.license == "mit"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"corpus": "verses_ko"}, "translates English into Korean"),
        ({"corpus": "verses_ko", "source_column": "ko", "target_column": "en"}, "translates Korean into English"),
        ({"corpus": "user/pairs"}, "translates"),
    ],
)
def test_a_card_says_from_which_language_into_which_if_the_corpus_does(fields, said, runs, tmp_path):  # noqa: F811
    folder = shutil.copytree(runs / "translation", tmp_path / "run")
    (folder / "training_summary.json").write_text(json.dumps({"configuration": fields}))
    card = render_card(folder, "user/name")
    assert f"encoder-decoder Transformer that {said}, as in" in card.text
    assert card.data.language == (["en", "ko"] if "ko" in fields["corpus"] else None)


@pytest.mark.parametrize("folder", sorted((ROOT / "model_cards").glob("*/")), ids=lambda folder: folder.name)
def test_the_cards_of_this_project_are_what_templates_and_records_give(folder):
    written = (folder / "README.md").read_text(encoding="utf-8")
    repo_id = re.search(r'from_pretrained\("([^"]+)"', written)[1]
    assert str(render_card(folder, repo_id)) == written
    card = ModelCard(written, ignore_metadata_errors=False)
    assert card.data.eval_results and card.data.pipeline_tag and card.data.language
    summary = json.loads((folder / "training_summary.json").read_text())
    assert card.data.license or summary["configuration"]["initial_model"]
    command = summary["command"] or "hf-vanilla train training_config.yaml"  # a script's run: the file beside the card
    assert command in card.text
    path, *overrides = shlex.split(command)[2:]
    path = (ROOT if summary["command"] else folder) / path
    typed, recorded = dataclasses.asdict(TrainingConfig.load(path, overrides)), summary["configuration"]
    recorded |= {"loader_workers": recorded["loader_workers"] or None}  # 0 was the default of before
    unknown = dataclasses.asdict(TrainingConfig(max_steps=1))  # fields that came later
    typed["initial_model"] = typed["initial_model"] and Path(typed["initial_model"]).name  # no path is published
    assert typed | {"output_dir": ""} == unknown | recorded | {"output_dir": ""}
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert (folder / picture).is_file()


def test_each_family_has_a_card():
    kinds = {json.loads(path.read_text())["model_type"] for path in (ROOT / "model_cards").glob("*/config.json")}
    assert kinds == {"vanilla", "vanilla_encoder", "vanilla_decoder"}


def test_each_result_set_has_an_entry_of_its_own(runs, tmp_path):  # noqa: F811
    run = shutil.copytree(runs / "translation", tmp_path / "run")
    (scores,) = json.loads((run / "evaluation.json").read_text())
    kinds = [{}, {"set": "at most 50 tokens a side"}, {"references": 2}, {"num_beams": 8}, {"precision": "int8"}]
    rows = [scores | {"split": "test"} | kind | {"bleu": float(n)} for n, kind in enumerate(kinds)]
    (run / "evaluation.json").write_text(json.dumps(rows))
    (index,) = render_card(run, "user/name").data.to_dict()["model-index"]
    values = [[metric["value"] for metric in result["metrics"]] for result in index["results"]]
    assert len(values) == len(kinds) + 1 and [row[0] for row in values[:-1]] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len({result["dataset"]["config"] for result in index["results"]}) == len(values)


@pytest.mark.parametrize(
    ("options", "suggestion"),
    [
        ({"languages": ["English"]}, "did you mean en?"),
        ({"languages": ["en", "germn"]}, "did you mean de?"),
        ({"languages": ["EN"]}, "did you mean en?"),
        ({"languages": ["xx"]}, "is no ISO 639 code"),
        ({"languages": ["en-"]}, "is no ISO 639 code"),
        ({"license": "Apache 2.0"}, "did you mean apache-2.0?"),
        ({"license": "MIT License"}, "did you mean mit?"),
        ({"license": "CC BY-SA 4.0"}, "did you mean cc-by-sa-4.0?"),
        ({"license": "mine, all mine"}, "such as apache-2.0, mit or other"),
    ],
)
def test_languages_and_licenses_are_those_of_the_hub(options, suggestion, tmp_path):
    for write in (render_card, push, functools.partial(write_card, tmp_path)):
        with pytest.raises(ValueError, match=re.escape(suggestion)):
            write(tmp_path, "user/name", **options)


def test_codes_of_languages_with_a_script_or_region_are_taken():
    check_languages(["en", "gsw", "zh-TW", "sr-Latn", "zho"])


@pytest.mark.parametrize("name", ["org/model-v1.5", "org/data.set", "gpt2", "org/some.json"])
def test_ids_of_the_hub_may_have_a_dot_and_files_are_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id(name) == name
    (tmp_path / name).mkdir(parents=True)
    assert hub_id(name) is None
    for path in (
        f"./{name}",
        f"../{name}",
        str(tmp_path / "gone" / name),
        f"~/{name}",
        f"C:\\runs\\{name}",
        f"s3://{name}",
    ):
        assert hub_id(path) is None


def test_what_was_a_path_in_training_is_never_published(runs, tmp_path, monkeypatch):  # noqa: F811
    run = shutil.copytree(runs / "translation", tmp_path / "run")
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["hub"] == {"dataset": None, "base_model": None}
    summary["configuration"] |= {"corpus": "data/corpus.v2", "initial_model": "runs/base"}  # that are gone by now
    (run / "training_summary.json").write_text(json.dumps(summary))
    data = render_card(run, "user/name").data
    assert data.base_model is None and data.datasets is None
    summary["hub"] = {"dataset": "org/corpus.v2", "base_model": "org/model-v1.5"}
    (run / "training_summary.json").write_text(json.dumps(summary))
    data = render_card(run, "user/name").data
    assert data.base_model == "org/model-v1.5" and data.datasets == ["org/corpus.v2"]
