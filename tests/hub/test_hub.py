"""To the Hub and back: real huggingface_hub, `from_pretrained` and `Trainer`, over HTTP, to a Hub of our own."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from families import small_model
from fresh import run_python
from hub_server import Fault, File, HubServer, environment
from huggingface_hub import CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status
from safetensors.torch import load_file, save_file
from small_runs import of_task

from hf_vanilla import VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM, VanillaForConditionalGeneration, cli
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub import push
from hf_vanilla.hub.push import STALE
from hf_vanilla.hub.staging import CHECK, stage
from hf_vanilla.training.loop import train

ROOT = Path(__file__).parents[2]
TOKEN, OTHERS, READER = "hf_recognisable_secret", "hf_other_secret", "hf_reader_secret"
TASKS = {
    "translation": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
}


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """A run of each family, the translator's evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        train(of_task(config, task, output_dir=str(folder / task)))
    files = ["--source", config.corpus, "--reference", config.target_path]
    small = folder / "small"
    small.mkdir()
    for option, name in zip(files[::2], files[1::2], strict=True):
        lines = Path(name).read_text(encoding="utf-8").splitlines()[:20]
        (small / option[2:]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    cli.main(
        ["evaluate", str(folder / "translation"), "--source", str(small / "source"), "--reference"]
        + [str(small / "reference")]
    )
    return folder


@pytest.fixture(scope="module")
def server():
    with HubServer(tokens={TOKEN: "user", OTHERS: "other"}, read_only={READER: "user"}) as server:
        yield server


@pytest.fixture
def hub(server):
    """One Hub for all, without the last test's faults."""
    server.faults.clear()
    return server


@pytest.fixture
def unchecked(monkeypatch):
    """For tests that push and are about something else: a process less each time."""
    monkeypatch.setattr(sys.modules["hf_vanilla.hub.push"], "check_stands_alone", lambda *arguments: None)


@pytest.fixture
def online(monkeypatch, tmp_path):
    """This process may use the network; CI says that it may not."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def api_of(hub, token=TOKEN):
    return HfApi(endpoint=hub.url, token=token)


def files_of(hub, repo, revision="main"):
    return hub.files(repo, revision)


def python(code, hub, home, *arguments, token=None, **variables):
    """Standard output of a program that has this Hub for its Hub."""
    result = run_python(code, *arguments, env=environment(hub, home, token=token) | variables, cwd=home)
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-3000:]
    assert TOKEN not in result.stdout + result.stderr
    return result.stdout


# Loads a model from the Hub through every Auto class, by branch, tag and commit; runs the code of its card, and what
# else it is given.
STRANGER = """
import json, re, sys
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
import torch, transformers
from huggingface_hub import hf_hub_download, HfApi
from pathlib import Path

repo, auto_class, commit, more = sys.argv[1:]
trusted = {"trust_remote_code": True}
config = json.loads(Path(hf_hub_download(repo, "config.json")).read_text())
assert len(config["auto_map"]) >= 3
ids = torch.tensor([[5, 6, 7, 8]])
outputs = []
for name in config["auto_map"]:
    if name == "AutoConfig":
        continue
    model = getattr(transformers, name).from_pretrained(repo, **trusted)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    if name == auto_class:
        for options in ({"revision": "v1.0"}, {"revision": commit}, {"dtype": "auto"}, {"device_map": "auto"}):
            again = getattr(transformers, name).from_pretrained(repo, **trusted, **options)
            inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            outputs.append(again(input_ids=ids, **inputs).logits)
assert all(output.equal(outputs[0]) for output in outputs)
print(json.dumps(outputs[0].tolist()))
card = Path(hf_hub_download(repo, "README.md")).read_text()
for code in re.findall("^```python\\n(.*?)^```", card, re.DOTALL | re.MULTILINE):
    if "hf_vanilla" not in code:
        exec(code, {})
        print("ran", len(code.splitlines()), "lines")
exec(more, {})
"""


@pytest.mark.parametrize("task", TASKS)
def test_a_run_becomes_a_page_that_anybody_can_use(task, runs, hub, online, tmp_path):
    repo = "user/verses_demo" if task == "translation" else f"user/{task}"  # as the README has it
    sharded = {"max_shard_size": "30KB"} if task == "masked_lm" else {}
    assert push(runs / task, repo, tag="v1.0", api=api_of(hub), **sharded) == f"{hub.url}/{repo}"
    files = files_of(hub, repo)
    assert ("model.safetensors.index.json" if sharded else "model.safetensors") in files
    assert {"config.json", "README.md", "tokenizer.json", "requirements.txt"} <= set(files)
    assert {"training_summary.json", "training_config.yaml", "curves.png", "attention.png"} <= set(files)
    # What a later push would remove, if the model had other files then.
    assert all(STALE.fullmatch(name) for name in files if name.endswith(".py") and "/" not in name)
    needed = [re.split("[<>=]", line)[0] for line in files["requirements.txt"].decode().splitlines()]
    assert needed == ["torch", "transformers", "tokenizers", "safetensors"]
    commits = HfApi(endpoint=hub.url).list_repo_commits(repo)
    assert commits[0].title == "Add model, tokenizer, code and card"
    everything = b"".join(files.values())
    assert TOKEN.encode() not in everything and str(runs.parent).encode() not in everything

    more = readme_lines() if task == "translation" else ""
    printed = python(STRANGER, hub, tmp_path, repo, TASKS[task], commits[0].commit_id, more)
    theirs, *ran = printed.splitlines()
    assert any(line.startswith("ran ") for line in ran)
    classes = {
        "translation": VanillaForConditionalGeneration,
        "masked_lm": VanillaEncoderForMaskedLM,
        "causal_lm": VanillaDecoderForCausalLM,
    }
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"decoder_input_ids": ids} if task == "translation" else {}
    ours = classes[task].from_pretrained(runs / task).eval()(input_ids=ids, **inputs).logits
    torch.testing.assert_close(torch.tensor(json.loads(theirs)), ours.detach())

    if task == "causal_lm":  # and from the cache, when there is no network
        offline = python(STRANGER, hub, tmp_path, repo, TASKS[task], commits[0].commit_id, "", HF_HUB_OFFLINE="1")
        assert offline.splitlines()[0] == theirs


def test_with_the_package_nothing_needs_to_be_trusted(runs, hub, online, tmp_path, unchecked):
    push(runs / "translation", "user/installed", api=api_of(hub))
    card = files_of(hub, "user/installed")["README.md"].decode()
    (code,) = [code for code in blocks_of(card) if "hf_vanilla" in code]
    loaded = (
        "\nfrom transformers import AutoModel\nprint(type(AutoModel.from_pretrained('user/installed')).__module__)"
    )
    printed = python(code + loaded, hub, tmp_path)
    assert printed.splitlines()[-1].startswith("hf_vanilla.models.")


def blocks_of(card):
    return re.findall("^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def readme_lines():
    """The five lines that load and use a model, in the README's section on the Hub."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### On the Hub")[1].split("\n##")[0]
    (code,) = re.findall("^```py\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line]) <= 5
    return code


# What a push sends, and what it does not


def test_a_second_push_sends_what_changed_and_removes_what_is_stale(runs, hub, online, tmp_path, unchecked):
    api = api_of(hub)
    folder = shutil.copytree(runs / "masked_lm", tmp_path / "run")
    push(folder, "user/twice", api=api, max_shard_size="30KB")
    names = set(files_of(hub, "user/twice"))
    assert "model.safetensors.index.json" in names and len([n for n in names if n.endswith(".safetensors")]) > 1
    for _ in range(2):  # as where a Space failed that was to follow
        push(folder, "user/twice", api=api, max_shard_size="30KB", tag="same")
    assert len(api.list_repo_commits("user/twice")) == 2  # that which made it, and the first push
    push(folder, "user/twice", api=api)
    names = set(files_of(hub, "user/twice"))
    assert "model.safetensors" in names and "model.safetensors.index.json" not in names
    newest = api.list_repo_commits("user/twice")[0]
    assert newest.title == "Change weights" and "add model.safetensors" in newest.message
    with pytest.raises(ValueError, match="has a tag same already"):
        push(folder, "user/twice", api=api, tag="same")


def test_branches_private_repositories_and_messages(runs, hub, online, unchecked):
    push(runs / "causal_lm", "user/aside", private=True, revision="next", message="a try", api=api_of(hub))
    assert "config.json" not in files_of(hub, "user/aside") and "config.json" in files_of(hub, "user/aside", "next")
    assert api_of(hub).list_repo_commits("user/aside", revision="next")[0].title == "a try"
    assert not HfApi(endpoint=hub.url).repo_exists("user/aside") and api_of(hub).repo_info("user/aside").private


def test_a_dry_run_shows_what_would_go_and_sends_nothing(runs, hub, capsys, unchecked):
    before = len(hub.requests)
    cli.main(["push", str(runs / "translation"), "user/dry", "--dry-run"])
    printed = capsys.readouterr().out
    sizes = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ *([\d,]+)  (\S+)$", printed, re.M)}
    assert sizes["model.safetensors"] > 10_000 and "custom_generate/generate.py" in sizes
    total = int(re.search(r"([\d,]+)  bytes would go to user/dry", printed)[1].replace(",", ""))
    assert total == sum(sizes.values())
    assert len(hub.requests) == before


def test_what_lies_beside_a_model_stays_at_home(runs, hub, online, tmp_path, unchecked):
    folder = shutil.copytree(runs / "masked_lm", tmp_path / "run")
    for name in ("notes.txt", "training_args.bin", ".env", "optimizer.pt"):
        (folder / name).write_text("private")
    push(folder, "user/tidy", api=api_of(hub))
    names = files_of(hub, "user/tidy")
    assert not {"notes.txt", "training_args.bin", ".env", "optimizer.pt", "log.jsonl"} & set(names)
    assert not any(name.startswith(("checkpoints", "snapshots", "best")) for name in names)


def test_nothing_is_sent_that_does_not_load_without_the_package(runs, hub, online, monkeypatch):
    def broken(*arguments, **options):
        staged = stage(*arguments, **options)
        code = arguments[1] / "modeling_vanilla_encoder.py"
        code.write_text("import hf_vanilla\n" + code.read_text(encoding="utf-8"), encoding="utf-8")
        return staged

    monkeypatch.setattr(sys.modules["hf_vanilla.hub.push"], "stage", broken)
    with pytest.raises(ValueError, match="nothing was sent: loaded without hf_vanilla, it fails: .*hf_vanilla"):
        push(runs / "masked_lm", "user/broken", api=api_of(hub))
    assert not api_of(hub).repo_exists("user/broken")


# Bad input, and a Hub that says no


@pytest.fixture
def folder(tmp_path):
    """A small model without records, and its tokenizer."""
    small_model(VanillaEncoderForMaskedLM, vocab_size=300).save_pretrained(tmp_path / "model")
    tokenizer = train_tokenizer(["some text"], vocab_size=270, family="encoder")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed_config(folder, **fields):
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | fields))


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_a_weight_less(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.0.feed_forward.linear_1.weight", None) or weights.popitem()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_nan(folder):
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "another model": (lambda folder: changed_config(folder, model_type="bert"), "model_type is 'bert'; expected one"),
    "no head": (lambda folder: changed_config(folder, architectures=["X"]), "architectures names 'X'; expected one"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights: expected model.safetensors"),
    "a pickle": (as_pickle, "a pickle, which may run code when it is loaded"),
    "a weight less": (with_a_weight_less, "missing_keys"),
    "not a number": (with_nan, "values that are not finite numbers"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "no tokenizer that loads",
    ),
    "another tokenizer": (
        lambda folder: train_tokenizer([f"{n}" for n in range(999)], 400, family="encoder").save_pretrained(folder),
        "the tokenizer has ids up to",
    ),
    "other ids": (lambda folder: changed_config(folder, pad_token_id=7), "pad_token_id is 7 in config.json, and 0 in"),
    "weights cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:9000]),
        "its weights do not load",
    ),
    "a field": (
        lambda folder: changed_config(folder, num_attention_heads="four"),
        "config.json: .*num_attention_heads",
    ),
    "weights elsewhere": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../b.safetensors"}}'
        ),
        "'../b.safetensors' is not in this folder",
    ),
    "a template elsewhere": (
        lambda folder: (folder / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": [{"name": "default", "template": ""}, {"name": "../../x", "template": ""}]})
        ),
        "a chat template named '../../x'",
    ),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_folder_that_is_not_fit_is_refused(problem, folder, hub, capsys):
    spoil, expected = BROKEN[problem]
    spoil(folder)
    before = len(hub.requests)
    with pytest.raises(SystemExit) as ended:
        cli.main(["push", str(folder), "user/refused"])
    assert re.search(expected, str(ended.value)), ended.value
    assert "\n" not in str(ended.value) and len(hub.requests) == before


def test_every_file_of_a_model_s_code_is_known_to_a_push():
    """So that a later one removes what its model no longer has."""
    code = {path.name for path in (ROOT / "hf_vanilla" / "models").glob("[!_]*.py")}
    assert code and {name for name in code if not STALE.fullmatch(name)} == set()


@pytest.mark.parametrize("repo_id", ["model", "user/", "a/b/c", "user/../x", "user/na me", "-x/y", "user/x.git"])
def test_a_name_that_is_none_is_refused(repo_id, folder):
    with pytest.raises(ValueError, match="no name of a repository"):
        push(folder, repo_id)


@pytest.mark.parametrize(
    ("token", "repo_id", "expected"),
    [
        (None, "user/x", "there is no token: run `hf auth login`"),
        ("hf_expired", "user/x", "does not take the token"),
        (READER, "user/x", "may not write to user/x"),
        (TOKEN, "other/x", "may not write to other/x"),
    ],
)
def test_who_may_not_write_is_told_so(token, repo_id, expected, folder, hub, online, unchecked):
    with pytest.raises(ValueError, match=expected) as raised:
        push(folder, repo_id, api=api_of(hub, token))
    assert "hf_" not in str(raised.value) and "\n" not in str(raised.value)
    assert not api_of(hub, OTHERS).repo_exists(repo_id)


def test_a_name_that_another_model_has_is_refused(folder, runs, hub, online, unchecked):
    push(folder, "user/taken", api=api_of(hub))
    before = files_of(hub, "user/taken")
    with pytest.raises(ValueError, match="taken by a model of type 'vanilla_encoder', this is 'vanilla_decoder'"):
        push(runs / "causal_lm", "user/taken", api=api_of(hub))
    assert files_of(hub, "user/taken") == before


def test_a_network_that_goes_while_it_asks_what_is_there_is_said(folder, hub, online, monkeypatch, unchecked):
    push(folder, "user/goes", api=api_of(hub))
    hub.faults.append(Fault("HEAD", "config.json", "drop", times=20))
    with pytest.raises(ConnectionError, match="broke off .*; the same command completes it"):
        push(folder, "user/goes", api=api_of(hub))


def test_without_a_network_the_remedy_is_said(folder, online, monkeypatch, unchecked):
    with pytest.raises(ConnectionError, match="cannot be reached.*; the same command completes it"):
        push(folder, "user/x", api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        push(folder, "user/x", api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))


@pytest.mark.parametrize(("method", "path"), [("PUT", "lfs"), ("POST", "/commit/")])
@pytest.mark.parametrize("kind", ["drop", 500])
def test_a_push_that_broke_off_changes_nothing_and_is_completed_by_the_next(
    method, path, kind, folder, hub, online, monkeypatch, unchecked
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's own tries
    repo, api = f"user/broken-{method}-{kind}".lower(), api_of(hub)
    hub.faults.append(Fault(method, path, kind, times=20))
    with pytest.raises(ConnectionError, match="Nothing there is left half-written; the same command"):
        push(folder, repo, api=api)
    hub.faults.clear()
    assert "config.json" not in files_of(hub, repo)
    sent = len(hub.requests)
    push(folder, repo, api=api)
    assert "config.json" in files_of(hub, repo)
    again = [request for request in hub.requests[sent:] if request[0] == "PUT"]
    assert bool(again) is (method == "PUT")  # weights that had arrived are not sent again


# Safety


def test_trust_is_switched_on_for_nothing_but_the_copy_of_our_own_code():
    for path in [*(ROOT / "hf_vanilla").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert not isinstance(node.value, ast.Constant) or node.value.value is not True, path
    assert CHECK.count("trust_remote_code=True") == 2  # the process that loads what `push` has just written


def test_a_name_of_a_file_leads_out_of_no_folder(hub, online, tmp_path):
    api = api_of(hub)
    api.create_repo("user/evil")
    for name in ("../evil.txt", "x/../../evil.txt"):
        with pytest.raises(ValueError, match="Invalid `path_in_repo`"):
            api.upload_file(path_or_fileobj=b"out", path_in_repo=name, repo_id="user/evil")
    # Were there such a file, nobody would write it.
    hub.repos["models", "user/evil"].branches["main"].files["../evil.txt"] = File(b"out", large=False)
    with pytest.raises(ValueError, match="cannot contain a '..' path segment"):
        api.snapshot_download("user/evil", cache_dir=tmp_path / "cache", local_dir=tmp_path / "deep" / "folder")
    assert not (tmp_path / "deep" / "evil.txt").exists()


# The Hub that these tests bring


def test_the_hub_verifies_what_it_is_sent(hub, online, tmp_path, monkeypatch):
    api = api_of(hub)
    api.create_repo("user/data", repo_type="dataset")
    (tmp_path / "rows.bin").write_bytes(bytes(range(256)) * 99)
    sent = api.upload_file(
        path_or_fileobj=tmp_path / "rows.bin", path_in_repo="a/rows.bin", repo_id="user/data", repo_type="dataset"
    )
    with pytest.raises(HfHubHTTPError, match="412"):
        stale = api.list_repo_commits("user/data", repo_type="dataset")[1].commit_id
        api.create_commit(
            "user/data", [CommitOperationDelete("a/", is_folder=True)], commit_message="late", repo_type="dataset",
            parent_commit=stale,
        )  # fmt: skip
    with pytest.raises(HfHubHTTPError, match="not what was announced"):
        hf_raise_for_status(get_session().put(f"{hub.url}/lfs/user/data/{'0' * 64}", content=b"something else"))
    # A download that breaks off is completed, and one answer late is waited for.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.faults += [Fault("GET", "rows.bin", "cut"), Fault("HEAD", "rows.bin", "slow")]
    path = api.hf_hub_download("user/data", "a/rows.bin", repo_type="dataset", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == (tmp_path / "rows.bin").read_bytes() and sent.oid in path
    assert not any(fault.times for fault in hub.faults)
    hub.faults.clear()
    # A repository of another kind has the same name.
    assert not api.repo_exists("user/data") and api.repo_exists("user/data", repo_type="dataset")


# What stock tools push


STOCK = """
import sys
from datasets import Dataset
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
import hf_vanilla
from hf_vanilla.model_card import use_model_card

run, output = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(run)
names = {0: "few <b>", 1: "many"}
model = AutoModelForSequenceClassification.from_pretrained(run, num_labels=2, id2label=names)
rows = Dataset.from_dict({"text": ["one two", "ten six"] * 8, "labels": [0, 1] * 8})
rows = rows.map(lambda row: tokenizer(row["text"]))
arguments = TrainingArguments(output, max_steps=3, report_to=[], use_cpu=True, push_to_hub=True,
                              hub_model_id="user/classifier", eval_strategy="steps", eval_steps=3,
                              save_strategy="no", disable_tqdm=True)
trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
                  compute_metrics=lambda p: {"accuracy": float((p[0].argmax(-1) == p[1]).mean())})
use_model_card(trainer)
trainer.train()
trainer.push_to_hub(dataset="user/numbers", language="en")
card = ModelCard.load("user/classifier")
assert card.data.pipeline_tag == "text-classification" and card.data.language == ["en"]
assert card.data.datasets == ["user/numbers"]
assert {result.metric_type for result in card.data.eval_results} == {"loss", "accuracy"}
assert "few &lt;b&gt;, many" in card.text and "fine-tuned from" in card.text and "Trainer" not in card.text
assert run not in str(card), "a path of this machine"

model.push_to_hub("user/plain")
tokenizer.push_to_hub("user/plain")
again = AutoModelForSequenceClassification.from_pretrained("user/plain")
assert again.config.id2label == names and len(AutoTokenizer.from_pretrained("user/plain")) == len(tokenizer)
hf_hub_download("user/plain", "modeling_vanilla_encoder.py")
"""


def test_what_trainer_and_models_push_loads_and_has_our_card(runs, hub, online, tmp_path, monkeypatch, capfd):
    python(STOCK, hub, tmp_path, runs / "masked_lm", tmp_path / "out", token=TOKEN)
    # And the whole of it, by ours, from what Trainer left.
    monkeypatch.setattr(sys.modules["hf_vanilla.hub.push"], "HfApi", lambda: api_of(hub))
    cli.main(["push", str(tmp_path / "out"), "user/classifier"])
    printed, said = capfd.readouterr()
    assert f"see {hub.url}/user/classifier" in printed and TOKEN not in printed + said
    assert "fine-tuned from" in files_of(hub, "user/classifier")["README.md"].decode()


ADAPTERS = """
import sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
import hf_vanilla
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

ids = torch.tensor([[5, 6, 7, 8]])
for auto_class, kind in ((AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"), (AutoModelForMaskedLM, None),
                         (AutoModelForCausalLM, "CAUSAL_LM")):
    repo = {"SEQ_2_SEQ_LM": "translation", None: "masked_lm", "CAUSAL_LM": "causal_lm"}[kind]
    base = auto_class.from_pretrained(f"{sys.argv[1]}/{repo}")
    model = get_peft_model(base, LoraConfig(task_type=kind, r=2, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    model.eval()
    model.push_to_hub(f"user/lora-{repo}")
    inputs = {"decoder_input_ids": ids} if kind == "SEQ_2_SEQ_LM" else {}
    expected = model(input_ids=ids, **inputs).logits
    fresh = auto_class.from_pretrained(f"{sys.argv[1]}/{repo}").eval()
    assert not torch.allclose(fresh(input_ids=ids, **inputs).logits, expected, atol=1e-5), "nothing was learned"
    again = PeftModel.from_pretrained(fresh, f"user/lora-{repo}").eval()
    torch.testing.assert_close(again(input_ids=ids, **inputs).logits, expected)
"""


def test_adapters_are_trained_pushed_and_loaded(runs, hub, tmp_path):
    pytest.importorskip("peft")
    python(ADAPTERS, hub, tmp_path, runs, token=TOKEN)


PARALLEL = """
import sys
import torch, torch.distributed
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
import hf_vanilla

for repo, auto_class in zip(("translation", "masked_lm", "causal_lm"),
                            (AutoModelForSeq2SeqLM, AutoModelForMaskedLM, AutoModelForCausalLM)):
    whole = auto_class.from_pretrained(f"{sys.argv[1]}/{repo}").eval()
    split = auto_class.from_pretrained(f"{sys.argv[1]}/{repo}", tp_plan="auto").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"decoder_input_ids": ids} if repo == "translation" else {}
    with torch.no_grad():
        torch.testing.assert_close(split(input_ids=ids, **inputs).logits, whole(input_ids=ids, **inputs).logits)
    assert torch.distributed.get_world_size() == 2
    mine = sum(getattr(weight, "to_local", lambda: weight)().numel() for weight in split.parameters())
    assert mine < 0.8 * sum(weight.numel() for weight in whole.parameters()), mine
    print("the same", repo)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_a_model(runs, tmp_path):
    (tmp_path / "parallel.py").write_text(PARALLEL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launch, str(tmp_path / "parallel.py"), str(runs)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert all(f"the same {task}" in result.stdout for task in TASKS)


def test_a_pickle_is_refused_with_the_reason_where_models_are_loaded(folder):
    as_pickle(folder)
    with pytest.raises(OSError, match="pickle"):
        VanillaEncoderForMaskedLM.from_pretrained(folder)


def test_quantised_by_torchao(runs):
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    ids = torch.tensor([[5, 6, 7, 8]])
    whole = AutoModelForCausalLM.from_pretrained(runs / "causal_lm").eval()
    quantised = AutoModelForCausalLM.from_pretrained(
        runs / "causal_lm", quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    ).eval()
    difference = (quantised(input_ids=ids).logits - whole(input_ids=ids).logits).abs().max()
    assert 0 < difference < 0.2 * whole(input_ids=ids).logits.std()
