"""What the Hub reads of a page is right: its metadata by huggingface_hub's own checks, and the headers of weights."""

import json
import math
import shutil

import pytest
import torch
from families import small_model
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from test_hub import TASKS, api_of, hub, online, runs, server, unchecked  # noqa: F401  fixtures

import hf_vanilla
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.metadata import LICENSES, language_names
from hf_vanilla.hub.push import push
from hf_vanilla.hub.staging import stage

HEADER = "timestamp,project_name,run_id,duration,emissions,country_name,country_iso_code\n"


@pytest.mark.parametrize("task", TASKS)
def test_huggingface_hub_takes_the_metadata(task, runs, tmp_path):  # noqa: F811
    run = shutil.copytree(runs / task, tmp_path / "run")
    summary = json.loads((run / "training_summary.json").read_text())
    summary["hub"] = {"dataset": "org/corpus", "base_model": "org/base"}
    summary["configuration"] |= {"corpus": "org/corpus", "initial_model": "org/base"}
    (run / "training_summary.json").write_text(json.dumps(summary))
    stage(run, tmp_path / "staged", "user/name", languages=["en", "de"], license="cc-by-4.0")
    card = ModelCard((tmp_path / "staged" / "README.md").read_text(), ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert set(data["language"]) <= language_names().keys() and data["license"] in LICENSES
    assert (data["base_model"], data["datasets"], data["library_name"]) == ("org/base", ["org/corpus"], "transformers")
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "name" and {result.metric_type for result in results} <= {*data["metrics"]}
    assert all(result.task_type == data["pipeline_tag"] and math.isfinite(result.metric_value) for result in results)
    assert {result.dataset_type for result in results} == {"org/corpus"}
    assert data["thumbnail"].endswith("attention.png") and data["widget"][0].keys() == {"text", "output"}
    assert "co2_eq_emissions" not in data and "energy that it took is not known" in card.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_hub_counts_the_parameters_that_the_card_names(dtype, hub, online, unchecked, tmp_path):  # noqa: F811
    tokenizer = train_tokenizer(["six two ten"], vocab_size=280, family="decoder")
    model = small_model(hf_vanilla.VanillaDecoderForCausalLM, vocab_size=len(tokenizer), hidden_size=256)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    repo = f"user/counted_{dtype}"
    push(tmp_path, repo, max_shard_size="200KB", api=api_of(hub))
    metadata = api_of(hub).get_safetensors_metadata(repo)
    assert metadata.sharded and metadata.parameter_count == {
        {"float32": "F32", "bfloat16": "BF16"}[dtype]: model.num_parameters()
    }
    assert f"{model.num_parameters() / 1e6:,.1f} million parameters" in hub.files(repo)["README.md"].decode()


def test_emissions_are_those_that_codecarbon_measured(runs, tmp_path):  # noqa: F811
    run = shutil.copytree(runs / "causal_lm", tmp_path / "run")
    rows = ["a,x,1,60,0.001,Republic of Korea,KOR", "b,x,1,90,0.0015,Republic of Korea,KOR"]  # one run, at two times
    rows.append("c,x,2,10,0.0005,Republic of Korea,KOR")
    (run / "emissions.csv").write_text(HEADER + "\n".join(rows) + "\n")
    stage(run, tmp_path / "staged", "user/name")
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    found = card.data.to_dict()["co2_eq_emissions"]
    assert found["emissions"] == 2.0 and found["source"] == "CodeCarbon" and found["training_type"] == "pre-training"
    assert found["geographical_location"] == "Republic of Korea" and "It emitted 2 g of CO2 equivalents" in card.text
    assert not (tmp_path / "staged" / "emissions.csv").exists()
    (run / "emissions.csv").write_text(HEADER + "a,x,1,60,0.001,,\n", encoding="utf-8-sig")
    stage(run, tmp_path / "nowhere", "user/name")
    assert "geographical_location" not in ModelCard.load(tmp_path / "nowhere" / "README.md").data["co2_eq_emissions"]
    whole = "a,x,1,60,0.001,Republic of Korea,KOR\n"
    wrong = [
        whole.replace("0.001", "many"),
        whole.replace("0.001", "1e-7"),
        whole.replace(",1,", ",,"),
        "a,x,1,60,0.001\n",
    ]
    for text in (HEADER, "a,b\n1,2\n", *(HEADER + row for row in wrong)):
        (run / "emissions.csv").write_text(text)
        with pytest.raises(ValueError, match="emissions.csv is not as CodeCarbon writes it"):
            stage(run, tmp_path / "again", "user/name")
