"""The pages of what other libraries make of our models: what the Hub prints for them, and their cards' code, runs."""

import json
import re

import pytest
from families import small_model
from hub_snippets import snippets
from huggingface_hub import ModelCard
from test_hub import TOKEN, api_of, hub, online, python, server, unchecked  # noqa: F401  fixtures
from test_twin import make_model

from hf_vanilla import VanillaDecoderForCausalLM, VanillaEncoderForSequenceClassification, VanillaEncoderModel
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.adapter import stage_adapter
from hf_vanilla.hub.model_card import PIPELINES
from hf_vanilla.hub.push import push

STRANGER = """
import contextlib, io, json, sys
sys.modules["hf_vanilla"] = None if sys.argv[1] == "alone" else __import__("hf_vanilla")
for code in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    print(json.dumps(printed.getvalue()))
"""


def run_blocks(codes, hub, home, who="alone"):  # noqa: F811
    """What each block of code prints in one process, in which hf_vanilla is, or is not, installed."""
    printed = python(STRANGER, hub, home, who, json.dumps(codes)).splitlines()
    return [json.loads(line) for line in printed if line.startswith('"')]


def blocks_of(card):
    return re.findall("^```python\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def sentence_model(request, tmp_path):
    """The folder of a small model of sentence-transformers, "similarity" or "ranking"."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    is_ranking = request.param == "ranking"
    tokenizer = train_tokenizer(["In the beginning God made the heaven"], 300, family="encoder")
    model_class = VanillaEncoderForSequenceClassification if is_ranking else VanillaEncoderModel
    fields = {"vocab_size": len(tokenizer), "initializer_range": 0.3, "max_position_embeddings": 128}
    small_model(model_class, **fields | ({"num_labels": 1} if is_ranking else {})).save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    if is_ranking:
        CrossEncoder(str(tmp_path / "words"), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "model"))
    else:
        words = Transformer(str(tmp_path / "words"))
        model = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())], device="cpu")
        model.save_pretrained(str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("sentence_model", "task"),
    [("similarity", "sentence-similarity"), ("ranking", "text-ranking")],
    indirect=["sentence_model"],
)
def test_a_folder_of_sentence_transformers_has_a_page(sentence_model, task, hub, online, unchecked, tmp_path):  # noqa: F811
    repo = f"user/{task}"
    push(sentence_model, repo, languages=["en"], license="mit", api=api_of(hub))
    files = hub.files(repo)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", task)
    assert "sentence-transformers" in card.data.tags and "modules.json" in files and "notebook.ipynb" not in files
    assert "sentence-transformers" in files["requirements.txt"].decode()
    (hub_s,) = snippets(card.data, repo, "sentence-transformers", json.loads(files["config.json"]))
    (ours,) = blocks_of(card)
    alone = run_blocks([hub_s, ours], hub, tmp_path)
    assert alone == run_blocks([hub_s, ours], hub, tmp_path, "with the package")
    assert ("[3, 3]" in alone[0]) == (task == "sentence-similarity") and "[" in alone[1]


# Puts an adapter on a model of a page, changes it, saves it, and pushes it by the command.
ADAPT = """
import sys
import torch, transformers
from peft import LoraConfig, get_peft_model
from hf_vanilla import cli

repo, base, auto_class, task, labels = sys.argv[1:]
fields = {"num_labels": int(labels)} if labels else {}
model = getattr(transformers, auto_class).from_pretrained(base, **fields)
saved = ["classifier"] if labels else None
config = LoraConfig(task_type=task or None, r=2, init_lora_weights=False, modules_to_save=saved)
get_peft_model(model, config).save_pretrained("adapter", save_embedding_layers=False)
cli.main(["push", "adapter", repo, "--license", "mit"])
"""


@pytest.mark.parametrize(
    ("family", "auto_class", "task", "labels"),
    [
        ("seq2seq", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ""),
        ("decoder", "AutoModelForCausalLM", "CAUSAL_LM", ""),
        ("encoder", "AutoModelForMaskedLM", "", ""),
        ("encoder", "AutoModelForSequenceClassification", "SEQ_CLS", "3"),
    ],
)
def test_an_adapter_has_a_page(family, auto_class, task, labels, hub, online, unchecked, tmp_path):  # noqa: F811
    pytest.importorskip("peft")
    base, repo = f"user/base_{family}", f"user/adapter_{auto_class}"
    push(make_model(tmp_path / "model", family), base, api=api_of(hub))
    python(ADAPT, hub, tmp_path, repo, base, auto_class, task, labels, token=TOKEN)
    files = hub.files(repo)
    card = ModelCard(files["README.md"].decode(), ignore_metadata_errors=False)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} < set(
        files
    ) and "config.json" not in files
    data = card.data
    assert (data.base_model, data.base_model_relation, data.library_name) == (base, "adapter", "peft")
    assert data.pipeline_tag == PIPELINES[auto_class] and data.license == "mit" and "lora" in data.tags
    (ours,) = blocks_of(card)
    assert ("num_labels=3" in ours) == (labels == "3")
    (alone,) = run_blocks([ours], hub, tmp_path)
    # The Hub's own has the number of labels of the base, which no adapter for others fits.
    hub_s = snippets(data, repo, "peft", peft=json.loads(files["adapter_config.json"]))
    codes = [ours, *(hub_s if not labels else [])]
    assert len(hub_s) == bool(task)
    again = run_blocks(codes, hub, tmp_path, "with the package")
    assert alone.strip() and (again[0] == alone or auto_class == "AutoModelForCausalLM")  # which samples
    with pytest.raises(ValueError, match=f"{repo} is taken by a model of type 'adapter, LORA', this is"):
        push(tmp_path / "model", repo, api=api_of(hub))


def test_an_adapter_that_fits_no_base_is_refused(hub, online, unchecked, tmp_path):  # noqa: F811
    peft = pytest.importorskip("peft")
    push(make_model(tmp_path / "model", "decoder"), "user/fit", api=api_of(hub))
    push(make_model(tmp_path / "other", "decoder", hidden_size=32), "user/wide", api=api_of(hub))
    model = VanillaDecoderForCausalLM.from_pretrained(tmp_path / "model")
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())

    def refuse(expected, **options):
        with pytest.raises((ValueError, FileNotFoundError), match=expected) as raised:
            push(tmp_path / "adapter", "user/none", api=api_of(hub), **options)
        assert "\n" not in str(raised.value) and not api_of(hub).repo_exists("user/none")

    refuse("base_model_name_or_path is .*; push the base first, and put its id, user/name, there")
    for base, expected in (("user/wide", "does not fit its base user/wide"), ("user/missing", "is not there")):
        path.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        refuse(expected)
    for broken in ([config], "text", config | {"auto_mapping": "text"}):
        path.write_text(json.dumps(broken))
        refuse("adapter_config.json is not as PEFT writes it")
    path.write_text(json.dumps(config | {"base_model_name_or_path": "user/fit"}))
    refuse("has no twin and no Space", twin=True)
    path.write_text(json.dumps(config | {"base_model_name_or_path": "user/fit", "revision": "main"}))
    stage_adapter(tmp_path / "adapter", tmp_path / "staged", "user/none", api_of(hub))
    assert 'trust_remote_code=True, revision="main")' in (tmp_path / "staged" / "README.md").read_text()
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    refuse("has no adapter_model.safetensors")


@pytest.mark.parametrize("sentence_model", ["similarity"], indirect=True)
def test_modules_of_others_and_paths_that_lead_out_are_refused(sentence_model, hub):  # noqa: F811
    modules = json.loads((sentence_model / "modules.json").read_text())
    before = len(hub.requests)
    for change, expected in (
        ({"type": "os.system"}, "type is 'os.system'; expected a module of sentence_transformers"),
        ({"path": "../elsewhere"}, "leads out of the folder"),
        ({"path": ""}, "path is ''; only the first module is the folder's own"),
    ):
        (sentence_model / "modules.json").write_text(json.dumps([modules[0], modules[1] | change]))
        with pytest.raises(ValueError, match=expected):
            push(sentence_model, "user/refused", api=api_of(hub))
    for broken in ({"type": "x"}, [1], "text"):
        (sentence_model / "modules.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="modules.json is no list of modules"):
            push(sentence_model, "user/refused", api=api_of(hub))
    (sentence_model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="has no twin: `modules.json` makes it a model of sentence-transformers"):
        push(sentence_model, "user/refused", twin=True, api=api_of(hub))
    assert len(hub.requests) == before
