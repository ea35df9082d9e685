"""The notebook beside the weights: it is valid, it runs for whoever has transformers alone, and data in it is text."""

import ast
import json

import nbformat
import pytest
from families import MODELS, small_model
from test_hub import TOKEN, api_of, hub, online, python, server, unchecked  # noqa: F401  fixtures
from test_model_card import EVIL
from test_twin import make_model

import hf_vanilla
from hf_vanilla import RecurrentForConditionalGeneration, RecurrentModel, VanillaEncoderForSequenceClassification
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.model_card import EXAMPLE, NOTEBOOK
from hf_vanilla.hub.notebook import write_notebook
from hf_vanilla.hub.push import push


def read_notebook(text):
    """The cells of a valid notebook, as pairs: its kind and its text."""
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def code_of(text):
    """What a notebook runs, cell after cell, and trains for half a second instead of a minute."""
    code = "\n".join(source for kind, source in read_notebook(text) if kind == "code")
    return code.replace("seconds = 60", "seconds = 0.5")


STRANGER = """
import sys
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
from pathlib import Path
from huggingface_hub import hf_hub_download
code = sys.argv[2]
exec(code, {})
assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path(sys.argv[1]).iterdir()}
"""


@pytest.mark.parametrize("family", ["seq2seq", "encoder", "decoder"])
def test_a_stranger_runs_it_from_the_hub(family, tmp_path, hub, online, unchecked):  # noqa: F811
    repo = f"user/notebook_{family}"
    push(make_model(tmp_path / "model", family), repo, api=api_of(hub))
    text, card = hub.files(repo)[NOTEBOOK].decode(), hub.files(repo)["README.md"].decode()
    assert f"https://huggingface.co/{repo}/blob/main/{NOTEBOOK}" in card and TOKEN not in text
    printed = python(STRANGER, hub, tmp_path, f"notebook_{family}-mine", code_of(text), MPLBACKEND="Agg")
    assert "update 0: loss " in printed and len(printed.splitlines()) > 1


@pytest.mark.parametrize(
    "model_class", [*MODELS, RecurrentForConditionalGeneration, RecurrentModel], ids=lambda each: each.__name__
)
def test_it_runs_for_each_head(model_class, tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    family = model_class.config_class.model_type.removeprefix("vanilla_")
    tokenizer = train_tokenizer([EXAMPLE], 300, **({"family": family} if family in ("encoder", "decoder") else {}))
    small_model(model_class, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_notebook(tmp_path / "model", "user/name")
    monkeypatch.chdir(tmp_path)
    code = code_of((tmp_path / "model" / NOTEBOOK).read_text(encoding="utf-8"))
    exec(code.replace('"user/name"', repr(str(tmp_path / "model"))), {})
    assert ("output_attentions=True" in code) == ("MultipleChoice" not in model_class.__name__)
    assert (tmp_path / "name-mine" / "model.safetensors").is_file() and capsys.readouterr().out


@pytest.mark.parametrize("family", ["seq2seq", "encoder", "decoder", "classifier"])
def test_texts_and_names_of_a_run_are_no_code_in_it(family, tmp_path):
    if family == "classifier":
        tokenizer = train_tokenizer([EXAMPLE], 300, family="encoder")
        fields = {"vocab_size": len(tokenizer), "num_labels": 2, "id2label": {0: EVIL, 1: 'b"]\nimport os'}}
        small_model(VanillaEncoderForSequenceClassification, **fields).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    else:
        make_model(tmp_path, family)
    evil = dict.fromkeys(("source", "target", "text", "translation"), EVIL + '"]; import os #\n# %%\nimport os')
    (tmp_path / "samples.jsonl").write_text(json.dumps(evil) + "\n")
    summary = {"configuration": {"corpus": EVIL}, "base_model": EVIL, "command": f"hf_token={TOKEN}"}
    (tmp_path / "training_summary.json").write_text(json.dumps(summary))
    write_notebook(tmp_path, "user/name")
    text = (tmp_path / NOTEBOOK).read_text(encoding="utf-8")
    imported = set()
    for kind, source in read_notebook(text):
        if kind == "markdown":
            assert "<script" not in source and not source.startswith("import")
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported |= {getattr(node, "module", None) or node.names[0].name}
    assert imported == {"transformers", "torch", "time", "matplotlib.pyplot"} and TOKEN not in text
    assert hf_vanilla.__name__ not in code_of(text)
