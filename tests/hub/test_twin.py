"""The twin of a model: what is refused, what is sent, and what a stranger, transformers alone, gets from it."""

import ast
import json
import re
import sys

import pytest
import torch
from families import small_model
from hub_server import Fault
from hub_snippets import snippets
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from test_hub import TOKEN, api_of, hub, online, python, server, unchecked  # noqa: F401  fixtures
from transformers import AutoConfig, AutoTokenizer
from transformers_js import IS_THERE, REASON, run_transformers_js

import hf_vanilla
from hf_vanilla import cli
from hf_vanilla.conversion.convert import convert
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.model_card import auto_class_of
from hf_vanilla.hub.push import push
from hf_vanilla.hub.staging import load_model_and_tokenizer
from hf_vanilla.hub.twin import SENTENCES, check_twin, sentences_of, stage_twin

LEARNED = {"position_embedding_type": "learned", "scale_embedding": False}
FAMILIES = {
    "seq2seq": ("VanillaForConditionalGeneration", "marian", {}),
    "encoder": ("VanillaEncoderForMaskedLM", "bert", LEARNED | {"embedding_norm": True}),
    "decoder": ("VanillaDecoderForCausalLM", "gpt2", LEARNED | {"norm_position": "pre"}),
}
SAMPLE = {"source": "Two six. Ten!", "text": "Two six. Ten!", "target": "Zwei sechs.", "translation": "Zwei."}


def make_model(folder, family, class_name=None, **changes):
    """Save a model of a family that has learned nothing, of wide weights so that no two tokens tie, with a sample."""
    default, _, fields = FAMILIES[family]
    tokenizer = train_tokenizer(["Six two ten.", "Sechs zwei zehn!"] * 3, vocab_size=300, family=family)
    torch.manual_seed(1)
    fields = (
        {"vocab_size": len(tokenizer), "initializer_range": 0.3, "max_position_embeddings": 512} | fields | changes
    )
    model = small_model(getattr(hf_vanilla, class_name or default), **fields)
    if model.can_generate():
        model.generation_config.update(num_beams=4, length_penalty=0.6, max_new_tokens=12)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    return folder


# It has its own process, without the package, and trusts code in nothing but the card's block that says so.
STRANGER = """
import contextlib, io, json, re, sys
sys.modules["hf_vanilla"] = None
from pathlib import Path
import transformers
from huggingface_hub import hf_hub_download, list_repo_files

repo, twin, printed_by_hub = sys.argv[1:]
for code in json.loads(printed_by_hub):
    exec(code, {})
assert not [name for name in list_repo_files(twin) if name.endswith(".py")]
assert "auto_map" not in json.loads(Path(hf_hub_download(twin, "config.json")).read_text())
results = []
for page in (repo, twin):
    card = Path(hf_hub_download(page, "README.md")).read_text()
    for code in re.findall("^```python\\n(.*?)^```", card, re.DOTALL | re.MULTILINE):
        if "hf_vanilla" not in code:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, {})
            results.append([page, code, printed.getvalue()])
print(json.dumps(results))
"""


WITH_PACKAGE = """
import contextlib, io, json, re, sys
import hf_vanilla
from pathlib import Path
from huggingface_hub import hf_hub_download

card = Path(hf_hub_download(sys.argv[1], "README.md")).read_text()
printed = []
for code in re.findall("^```python\\n(.*?)^```", card, re.DOTALL | re.MULTILINE):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_s_page_gives_a_stranger_what_ours_gives(family, tmp_path, hub, online):  # noqa: F811
    repo, kind = f"user/page_{family}", FAMILIES[family][1]
    push(make_model(tmp_path / "model", family), repo, twin=True, tag="v1", api=api_of(hub), license="mit")
    twin = f"{repo}-{kind}"
    files = hub.files(twin)
    assert json.loads(files["config.json"])["model_type"] == kind and hub.repos["models", twin].tags.keys() == {"v1"}
    cards = {name: ModelCard(hub.files(name)["README.md"].decode()) for name in (repo, twin)}
    assert f"https://huggingface.co/{twin}" in cards[repo].text and f"huggingface.co/{repo}" in cards[twin].text
    data = cards[twin].data
    assert (data.base_model, data.license, data.library_name) == (repo, "mit", "transformers")
    assert data.pipeline_tag == cards[repo].data.pipeline_tag and {"onnx", "transformers.js"} <= set(data.tags)
    # What the Hub counts in the weights' headers is what the card says.
    counted = api_of(hub).get_safetensors_metadata(repo).parameter_count
    assert counted.keys() == {"F32"} and f"{counted['F32'] / 1e6:,.1f} million parameters" in cards[repo].text
    # The Hub says of translators without code of their own that transformers 5 has no pipeline for them.
    codes = []
    for name in (repo, twin):
        config = json.loads(hub.files(name)["config.json"])
        found = snippets(
            cards[name].data,
            name,
            "transformers",
            config,
            auto_class_of(AutoConfig.from_pretrained(tmp_path / "model")),
        )
        assert len(found) == 2 and all(("trust_remote_code" in code) == (name == repo) for code in found)
        codes += [code for code in found if not (name == twin and family == "seq2seq" and "pipe = " in code)]
    assert ("custom_generate" in cards[repo].data.tags) == (family != "encoder")
    found = json.loads(python(STRANGER, hub, tmp_path, repo, twin, json.dumps(codes)).splitlines()[-1])
    printed = {page: [(code, out) for name, code, out in found if name == page] for page in (repo, twin)}
    if family == "seq2seq":
        # The block that asks for the paper's search gives what the page of ours gives.
        ours, paper = (
            printed[repo][0][1],
            {code: out for code, out in printed[twin] if "custom_generate" in code},
        )
        assert [ours] == list(paper.values()) and len(printed[twin]) == 2
    assert all(out.strip() for rows in printed.values() for _, out in rows)
    ours, *others = json.loads(python(WITH_PACKAGE, hub, tmp_path, repo).splitlines()[-1])
    if family == "seq2seq":  # `Translator` gives what `generate` does
        assert ours == printed[repo][0][1] and [text.strip() for text in others] == ast.literal_eval(ours)
    elif family == "encoder":
        ours, alone = (ast.literal_eval(each)[0] for each in (ours, printed[repo][0][1]))
        assert ours["token_str"] == alone["token_str"] and ours["score"] == pytest.approx(alone["score"], abs=1e-4)

    graphs = {name.removeprefix("onnx/") for name in files if name.startswith("onnx/")}
    names = ["encoder_model", "decoder_model_merged"] if family == "seq2seq" else ["model"]
    assert graphs == {f"{name}{kind}.onnx" for name in names for kind in ("", "_fp16", "_int8", "_quantized")}
    api_of(hub).snapshot_download(twin, local_dir=tmp_path / "user" / twin.split("/")[1])
    check_in_node(family, tmp_path, twin, dict(printed[twin]))


def check_in_node(family, folder, twin, printed):
    """transformers.js gives PyTorch's tokens, in each precision something, and the code of cards what Python gives."""
    if not IS_THERE:
        pytest.skip(REASON)
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    words = "six two Ten sechs zwei \u00e9 don't 12 ?!".split()
    texts = [" ".join(words[(i * k + i) % len(words)] for k in range(1 + i % 7)) for i in range(50)]
    classes = {"seq2seq": ("tokens", AutoModelForSeq2SeqLM), "decoder": ("continuation", AutoModelForCausalLM)}
    kind, auto_class = classes.get(family, ("logits", AutoModelForMaskedLM))
    options = {"max_new_tokens": 8, "num_beams": 1, "do_sample": False}
    tasks = [
        {"action": "model", "kind": kind, "texts": texts[: 50 if dtype == "fp32" else 2], "dtype": dtype}
        | {"options": options}
        for dtype in ("fp32", "fp16", "int8", "q8")
    ]
    card = ModelCard.load(folder / twin / "README.md")
    (code,) = re.findall("^```js\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    (hub_s,) = snippets(card.data, twin, "transformers.js")
    tasks += [{"action": "ids", "texts": texts}, {"action": "code", "text": code}]
    tasks += [{"action": "code", "text": f"{hub_s} result.push(await pipe({json.dumps(literal_in(code))}));"}]
    exact, *smaller, ids, (shown,), (again,) = run_transformers_js(folder, tasks, twin)
    model = auto_class.from_pretrained(folder / twin).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / twin)
    assert ids == [tokenizer(text).input_ids for text in texts]
    for text, found in zip(texts, exact, strict=True):
        batch = tokenizer(text, return_tensors="pt")
        if kind == "logits":
            torch.testing.assert_close(torch.tensor(found), model(**batch).logits[0], rtol=1e-4, atol=1e-4)
        else:
            assert found == model.generate(**batch, **options)[0].tolist()
    assert all(len(results) == 2 and all(results) for results in smaller) and again[0].keys() == shown[0].keys()
    if family == "seq2seq":
        example = tokenizer(literal_in(code), return_tensors="pt")
        greedy = model.generate(**example, num_beams=1)
        assert shown[0]["translation_text"] == tokenizer.decode(greedy[0], skip_special_tokens=True)
    else:
        name = {"encoder": "token_str", "decoder": "generated_text"}[family]
        (python_s,) = (ast.literal_eval(out) for code, out in printed.items() if "pipeline(" in code)
        assert shown[0][name].strip() == python_s[0][name].strip()


def literal_in(code):
    """The first text that a block of JavaScript gives to `pipe`."""
    return json.loads(re.search(r'pipe\(("(?:[^"\\]|\\.)*")', code)[1])


# What has no twin, and what is none


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("seq2seq", {"class_name": "RecurrentForConditionalGeneration"}, "`model_type` is 'vanilla_recurrent'"),
        ("seq2seq", {"qk_head_dim": 8}, "marian cannot hold it: `qk_head_dim` is 8, and there always 4"),
        ("seq2seq", {"norm_position": "pre"}, "`norm_position` is 'pre', and there always 'post'"),
        ("seq2seq", {"class_name": "VanillaModel"}, "`architectures` names no class with a head"),
        ("encoder", {"scale_embedding": True}, "bert cannot hold it: `scale_embedding` is True"),
        ("decoder", {"embedding_norm": True}, "gpt2 cannot hold it: `embedding_norm` is True"),
    ],
)
def test_a_model_without_a_twin_is_refused_by_the_field(family, changes, expected, tmp_path, hub, capsys):  # noqa: F811
    if "class_name" in changes and changes["class_name"].startswith("Recurrent"):
        tokenizer = train_tokenizer(["six"], vocab_size=270)
        small_model(hf_vanilla.RecurrentForConditionalGeneration, vocab_size=270).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    else:
        make_model(tmp_path, family, **changes)
    before = len(hub.requests)
    with pytest.raises(SystemExit) as ended:
        cli.main(["push", str(tmp_path), "user/none", "--twin"])
    assert expected in str(ended.value) and "\n" not in str(ended.value) and len(hub.requests) == before


@pytest.mark.parametrize(
    ("family", "weight", "where"),
    [
        ("seq2seq", "model.encoder.layers.1.fc1.weight", "encoder layer 2"),
        ("seq2seq", "model.decoder.layers.0.fc2.weight", "decoder layer 1"),
        ("encoder", "bert.embeddings.position_embeddings.weight", "what enters the first layer"),
        ("decoder", "transformer.h.1.mlp.c_fc.weight", "layer 2"),
    ],
)
def test_a_twin_that_differs_is_refused_by_the_first_layer(family, weight, where, tmp_path):
    folder = make_model(tmp_path / "model", family)
    convert(folder, tmp_path / "twin")
    model, tokenizer = load_model_and_tokenizer(folder)
    check_twin(tmp_path / "twin", model, tokenizer, folder)
    weights = load_file(tmp_path / "twin" / "model.safetensors")
    weights[weight] *= 1.1
    save_file(weights, tmp_path / "twin" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"nothing was sent: the twin gives other logits; .* first is {where}$"):
        check_twin(tmp_path / "twin", model, tokenizer, folder)


def test_a_twin_is_checked_on_samples_and_beyond_them_on_random_tokens(tmp_path):
    model, tokenizer = load_model_and_tokenizer(make_model(tmp_path, "seq2seq"))
    sentences = list(sentences_of(tokenizer, model, tmp_path))
    assert len(sentences) == SENTENCES
    assert sentences[:2] == [tokenizer(text).input_ids for text in ("Two six.", "Ten!")]
    assert len({len(ids) for ids in sentences}) > 4 and all(0 < len(ids) <= 20 for ids in sentences)


# A Hub that says no


@pytest.fixture
def plain(tmp_path, monkeypatch, unchecked):  # noqa: F811
    """A translation model whose twin is neither checked nor has graphs, for tests about the Hub."""
    monkeypatch.setattr(sys.modules["hf_vanilla.hub.twin"], "GRAPHS", ("no class",))
    monkeypatch.setattr(sys.modules["hf_vanilla.hub.twin"], "check_twin", lambda *arguments: None)
    return make_model(tmp_path / "model", "seq2seq")


def has_model(hub, repo):  # noqa: F811
    return ("models", repo) in hub.repos and "config.json" in hub.files(repo)


def test_without_rights_for_the_second_repository_none_is_written(plain, hub, online):  # noqa: F811
    hub.faults.append(Fault("POST", "/api/repos/create", 403))
    with pytest.raises(ValueError, match="may not write to user/rights-marian"):
        push(plain, "user/rights", twin=True, api=api_of(hub))
    assert not has_model(hub, "user/rights") and not has_model(hub, "user/rights-marian")
    push(plain, "user/rights", twin=True, api=api_of(hub))
    assert has_model(hub, "user/rights") and has_model(hub, "user/rights-marian")


@pytest.mark.parametrize("taken", ["user/name", "user/name-marian"])
def test_a_name_of_either_that_is_taken_is_refused_before_anything_is_sent(taken, plain, hub, online, tmp_path):  # noqa: F811
    hub.repos.clear()
    push(make_model(tmp_path / "other", "encoder"), taken, api=api_of(hub))
    with pytest.raises(ValueError, match=f"{taken} is taken by a model of type 'vanilla_encoder'"):
        push(plain, "user/name", twin=True, api=api_of(hub))
    assert [repo for repo in ("user/name", "user/name-marian") if has_model(hub, repo)] == [taken]


def test_a_stranger_s_model_that_has_the_twin_s_name_and_type_stays(plain, hub, online, tmp_path):  # noqa: F811
    hub.repos.clear()
    push(plain, "user/first", twin=True, api=api_of(hub))
    hub.repos["models", "user/other-marian"] = hub.repos["models", "user/first-marian"]
    before = hub.files("user/other-marian")
    with pytest.raises(ValueError, match="user/other-marian is taken by a model that is not made of user/other"):
        push(plain, "user/other", twin=True, api=api_of(hub))
    assert hub.files("user/other-marian") == before and not has_model(hub, "user/other")
    push(plain, "user/first", twin=True, api=api_of(hub))  # its own twin may be written again


def test_a_vocabulary_for_each_side_has_no_twin(tmp_path):
    options = {"tokenizer_type": "characters", "target_texts": ["K AE T"], "target_tokenizer_type": "words"}
    tokenizer = train_tokenizer(["cat"], 300, **options)
    with pytest.raises(ValueError, match="user/name has no twin: its tokenizer has a vocabulary for each side"):
        stage_twin(tmp_path, tmp_path / "twin", None, tokenizer, "user/name", "user/name-marian")
    assert not (tmp_path / "twin").exists()


def test_a_tag_that_either_has_is_refused_before_anything_is_sent(plain, hub, online):  # noqa: F811
    push(plain, "user/tagged", twin=True, tag="v1", api=api_of(hub))
    model = hf_vanilla.VanillaForConditionalGeneration.from_pretrained(plain)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(plain)
    before = {repo: hub.files(repo) for repo in ("user/tagged", "user/tagged-marian")}
    with pytest.raises(ValueError, match="user/tagged-marian has a tag v1 already"):
        push(plain, "user/tagged", twin=True, tag="v1", api=api_of(hub))
    assert before == {repo: hub.files(repo) for repo in before}


@pytest.mark.parametrize("broken", ["user/off", "user/off-marian"])
def test_a_push_that_breaks_off_at_either_is_completed_by_the_same_command(
    broken,
    plain,
    hub,  # noqa: F811
    online,  # noqa: F811
    monkeypatch,
    capsys,
):
    hub.repos.clear()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's own tries
    monkeypatch.setattr(sys.modules["hf_vanilla.hub.push"], "HfApi", lambda: api_of(hub))
    hub.faults.append(Fault("POST", f"{broken}/commit/", "drop", times=20))
    with pytest.raises(SystemExit, match="half-written; the same command completes it"):
        cli.main(["push", str(plain), "user/off", "--twin"])
    assert not has_model(hub, broken)
    hub.faults.clear()
    cli.main(["push", str(plain), "user/off", "--twin"])
    assert has_model(hub, "user/off") and has_model(hub, "user/off-marian")
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_push_that_leaves_a_twin_of_earlier_weights_says_so(plain, hub, online, caplog):  # noqa: F811
    push(plain, "user/older", twin=True, api=api_of(hub))
    push(plain, "user/older", api=api_of(hub))
    assert "earlier weights" not in caplog.text  # they are the same
    model = hf_vanilla.VanillaForConditionalGeneration.from_pretrained(plain)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    model.save_pretrained(plain)
    push(plain, "user/older", api=api_of(hub))
    assert "user/older-marian is of earlier weights now; a push with --twin writes it anew" in caplog.text
    assert "user/older-marian" not in hub.files("user/older")["README.md"].decode()


def test_a_dry_run_shows_both(plain, hub, capsys):  # noqa: F811
    before = len(hub.requests)
    cli.main(["push", str(plain), "user/dry", "--twin", "--dry-run"])
    printed = capsys.readouterr().out
    assert "bytes would go to user/dry\n" in printed and "bytes would go to user/dry-marian\n" in printed
    assert len(hub.requests) == before
