"""The pages of what other libraries make of our models: what the Hub prints for them, and their cards' code, runs."""

import json
import re

import pytest
from families import small_model
from hub_snippets import snippets
from huggingface_hub import ModelCard
from test_hub import TOKEN, api_of, hub, online, python, server, unchecked  # noqa: F401  fixtures

from hf_vanilla import VanillaEncoderForSequenceClassification, VanillaEncoderModel
from hf_vanilla.data.tokenization import train_tokenizer
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
    (sentence_model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="has no twin: `modules.json` makes it a model of sentence-transformers"):
        push(sentence_model, "user/refused", twin=True, api=api_of(hub))
    assert len(hub.requests) == before
