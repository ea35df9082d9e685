"""To the Hub: a folder that loads without this package, checked before any of it is sent, and sent in one commit."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    SpaceCard,
    SpaceCardData,
    get_token,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import hf_vanilla
from hf_vanilla.attention_figures import plot_heads, save_figure
from hf_vanilla.attention_maps import attention_maps
from hf_vanilla.checkpointing import digest
from hf_vanilla.corpora import read_lines
from hf_vanilla.model_card import (
    ATTENTION,
    CARD,
    CONFIG,
    CURVES,
    EVALUATION,
    RECORDS,
    SAMPLES,
    SUMMARY,
    auto_class_of,
    current_evaluations,
    load_config,
    oneline,
    public,
    read_json,
    render,
    weights_digest,
)
from hf_vanilla.transformer.generation_vanilla import beam_search

logger = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CODE = r"(configuration|generation|losses|modeling|padding)_(vanilla|recurrent)(_\w+)?\.py"
STALE = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|{CODE}|hf_vanilla/.*\.py")
"""What a push removes from a repository if it is not among what it sends: weights and code of an earlier one."""
MOST_WORDS = 16
"""Words of a text in the card's picture."""
GRADIO = "6.31.0"
"""What the Space was driven with."""
STAND_ALONE = re.compile(r"(torch|transformers|tokenizers|safetensors)[<>=~!]")
"""The packages that a checkpoint needs where `hf_vanilla` is not installed."""
KINDS = {
    "weights": (".safetensors", ".index.json"),
    "code": (".py",),
    "card": (".md", ".png"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
    "configuration": ("config.json",),
}
"""What a commit's message calls files that end so; the others are records."""

# Loads a folder as a stranger to this package would, through every Auto class that its configuration names, and
# compares what the model and its search give. Only what `push` has just written is given to it.
SEARCH: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 5, "do_sample": False, "num_return_sequences": 1}
SEARCH |= dict.fromkeys(("return_dict_in_generate", "output_attentions", "output_hidden_states"), False)
"""Whatever a model's own generation config says, by this its tokens are compared."""
CHECK = """
import json, sys
from pathlib import Path
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
import torch, transformers
from safetensors.torch import load_file

transformers.utils.logging.set_verbosity_error()
folder, expected = Path(sys.argv[1]), load_file(sys.argv[2])
inputs = {name.removeprefix("input."): tensor for name, tensor in expected.items() if name.startswith("input.")}
outputs = {name.removeprefix("output."): tensor for name, tensor in expected.items() if name.startswith("output.")}
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
for name in json.loads((folder / "config.json").read_text())["auto_map"]:
    if name == "AutoConfig":
        continue
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    if name == sys.argv[3]:
        with torch.no_grad():
            given = model(**inputs)
        for output, tensor in outputs.items():
            torch.testing.assert_close(given[output].float(), tensor, msg=lambda text: f"{output} differs: {text}")
        if "tokens" in expected:
            found = model.generate(inputs["input_ids"], **json.loads(sys.argv[4]))
            assert found.equal(expected["tokens"]), f"generate gives {found.tolist()}"
"""


def push(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    message: str | None = None,
    languages: Sequence[str] | None = None,
    license: str | None = None,
    space: bool = False,
    max_shard_size: str = "5GB",
    dry_run: bool = False,
    api: HfApi | None = None,
) -> str:
    """Send a model, with all that a stranger needs to load, judge and use it, to the Hub.

    What goes there is first written into a folder of its own, loaded back in a process that cannot import
    `hf_vanilla`, and compared. It is sent in one commit: a push that fails, or is interrupted, changes nothing, and
    the same call completes it; weights that had arrived are not sent again.

    Args:
        source: folder of a run of `hf-vanilla train`, or of any model of this package with its tokenizer.
        repo_id: `user/name`; made if it is not there.
        private: whether a repository that is made is private (default: as your account has it).
        revision: branch; made if it is not there.
        tag: a name for this state, such as `"v1.0"`.
        message: of the commit (default: what changed).
        languages, license: see [`render`].
        space: also make a Space of the same name, which translates and shows attention.
        max_shard_size: weights beyond this are split.
        dry_run: print what would be sent, and send nothing.
        api: says to which Hub, and by which token (default: as `hf auth login` or HF_ENDPOINT and HF_TOKEN have it).

    Returns:
        The address of the model's page.

    Raises:
        FileNotFoundError, ValueError: the folder holds no model that is fit for this, or the Hub does not take it;
            nothing was sent.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    source, api = Path(source), api or HfApi()
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        model, tokenizer = stage(source, folder, repo_id, languages, license, max_shard_size)
        if space and auto_class_of(model.config) != "AutoModelForSeq2SeqLM":
            raise ValueError("the Space translates: it is for models of AutoModelForSeq2SeqLM")
        check(folder, model, tokenizer)
        app = Path(temporary, "space")
        if dry_run:
            show(folder, repo_id)
            if space:
                write_space(app, folder, repo_id, "0" * 40, license)
                show(app, f"spaces/{repo_id}")
        else:
            with explained(repo_id):
                commit = send(api, repo_id, "model", folder, private, revision, tag, message)
                if space:
                    write_space(app, folder, repo_id, commit, license)
                    send(api, repo_id, "space", app, private, "main", None, f"Show {repo_id} at {commit[:8]}")
    return f"{api.endpoint}/{repo_id}"


def files_in(folder: Path) -> dict[str, Path]:
    """The files of a folder by the names that they will have in a repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def show(folder: Path, destination: str) -> None:
    """Print what would be sent, and its size."""
    sizes = {name: path.stat().st_size for name, path in files_in(folder).items()}
    for name, size in sizes.items():
        print(f"{size:>13,}  {name}")
    print(f"{sum(sizes.values()):>13,}  bytes would go to {destination}")


def check_repo_id(repo_id: str) -> None:
    """Raises `ValueError` for what is not `user/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a repository: {error}") from None
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no name of a repository: expected user/name")


def load(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of this package and its tokenizer, from a folder.

    Raises:
        FileNotFoundError, ValueError: something is missing, is a pickle, or does not fit together.
    """
    if (source / "adapter_config.json").is_file():
        raise ValueError(f"{source} holds an adapter: push that by PEFT, `model.push_to_hub(...)`")
    config = load_config(source)
    auto_class_of(config)
    for index in source.glob("*.index.json"):
        for name in set((read_json(index) or {}).get("weight_map", {}).values()):
            if Path(name).name != name:
                raise ValueError(f"{index}: {name!r} is not in this folder; weights must lie beside their index")
    if not list(source.glob("*.safetensors")):
        pickles = [
            path.name for path in source.iterdir() if path.suffix in PICKLES and path.name != "training_args.bin"
        ]
        if pickles:
            raise ValueError(
                f"{source} has its weights in {pickles[0]}, a pickle, which may run code when it is loaded: save them "
                "as safetensors, `model.save_pretrained(...)`, where you trust it"
            )
        raise FileNotFoundError(f"{source} has no weights: expected model.safetensors")
    model_class = getattr(hf_vanilla, config.architectures[0])
    local: dict[str, Any] = {"local_files_only": True}
    try:
        model, loading = model_class.from_pretrained(source, dtype="auto", output_loading_info=True, **local)
    except Exception as error:  # of many libraries
        raise ValueError(f"{source}: its weights do not load: {oneline(error)}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            names = ", ".join(sorted(map(str, loading[problem]))[:3])
            raise ValueError(f"{source}: the weights are not those of {model_class.__name__}, {problem}: {names}")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{source}: {name} holds values that are not finite numbers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
    except Exception as error:
        raise ValueError(f"{source} has no tokenizer that loads; save it there: {oneline(error)}") from None
    for name in tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else ():
        if Path(name).name != name:
            raise ValueError(f"{source}: the tokenizer has a chat template named {name!r}, which is no name of a file")
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last >= config.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has ids up to {last}, the model {config.vocab_size} embeddings: one of them is "
            "of another model"
        )
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        own, theirs = getattr(config, name, None), getattr(tokenizer, name)
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(f"{source}: {name} is {own} in config.json, and {theirs} in the tokenizer")
    return model.eval(), tokenizer


def stage(
    source: Path,
    folder: Path,
    repo_id: str,
    languages: Sequence[str] | None = None,
    license: str | None = None,
    max_shard_size: str = "5GB",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Write all that a repository will hold into a new `folder`; what came to lie in `source` otherwise stays there.

    Returns:
        Model and tokenizer.
    """
    model, tokenizer = load(source)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    if (source / CURVES).is_file():
        shutil.copyfile(source / CURVES, folder / CURVES)
    if evaluations := current_evaluations(source):
        # Saved anew, the same weights may lie in other files.
        own = {"weights": weights_digest(folder)}
        write_json(folder / EVALUATION, [scores | {"set": public(scores["set"])} | own for scores in evaluations])
    if (source / SAMPLES).is_file():
        shutil.copyfile(source / SAMPLES, folder / SAMPLES)
    if summary := read_json(source / SUMMARY):
        for part in ("configuration", "arguments"):
            if part in summary:
                summary[part] = {name: public(value) for name, value in summary[part].items()}
        if command := summary.get("command"):
            # Of an absolute path its last part alone is for others.
            outside = r"(^|=)(?:[~/]|\.\.?[/\\]|file:|[A-Za-z]:[/\\]).*[/\\]"
            words = (re.sub(outside, r"\1", word) for word in shlex.split(command))
            summary["command"] = shlex.join(words)
        write_json(folder / SUMMARY, summary)
        if "configuration" in summary:
            text = yaml.safe_dump(summary["configuration"], sort_keys=False)
            (folder / CONFIG).write_text(text, encoding="utf-8")
    with contextlib.suppress(ValueError):  # a text that cannot be drawn is no reason not to push
        draw_attention(model, tokenizer, source / SAMPLES, folder / ATTENTION)
    write_requirements(folder)
    render(folder, repo_id, languages, license).save(folder / CARD)
    return model, tokenizer


def write_card(
    source: Path, folder: Path, repo_id: str, languages: Sequence[str] | None = None, license: str | None = None
) -> None:
    """Write the card that [`push`] would send, with the records and pictures that it is made of, into `folder`.

    Where no weights lie in `source`, as in such a folder, the card alone is written anew.
    """
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        if any(source.glob("*.safetensors")):
            stage(source, staged, repo_id, languages, license)
        else:
            card = render(source, repo_id, languages, license)
            for name in RECORDS:
                if (source / name).is_file():
                    shutil.copyfile(source / name, staged / name)
            card.save(staged / CARD)
        folder.mkdir(parents=True, exist_ok=True)
        # A run's own records stay as they are: those of a card tell less.
        names = (CARD, ATTENTION) if folder.resolve() == source.resolve() else (CARD, *RECORDS)
        for name in names:
            if (staged / name).is_file():
                shutil.copyfile(staged / name, folder / name)


def write_requirements(folder: Path, *others: str) -> None:
    """What pip must install for the code in a folder, with the lower bounds of this package."""
    needed = [line for line in requires("hf_vanilla") or [] if STAND_ALONE.match(line)]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in (*needed, *others)), encoding="utf-8")


def draw_attention(model: Any, tokenizer: PreTrainedTokenizerBase, samples: Path, picture: Path) -> None:
    """The heads of the last layer on a run's shortest sample, or its first words; nothing where there is no sample."""
    rows = [json.loads(line) for line in read_lines(samples)] if samples.is_file() else []
    if rows and getattr(model.config, "attention_type", None) != "none":
        row = min(rows, key=lambda row: len(row.get("source") or row["text"]))
        text = row.get("source") or " ".join(row["text"].split()[:MOST_WORDS])
        maps = attention_maps(model, tokenizer, text, row.get("translation") or row.get("target"))
        try:
            save_figure(plot_heads(list(maps.kinds.values())[-1]), picture)
        except ImportError as error:
            logger.warning("no %s: %s", picture.name, error)


def write_json(path: Path, value: Any) -> None:
    """As the run writes its records."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Load a staged folder in a process that cannot import `hf_vanilla`, and compare what the model gives there.

    Raises:
        ValueError: it does not load, or gives something else.
    """
    auto_class = auto_class_of(model.config)
    torch.manual_seed(0)
    choices = (2,) if auto_class == "AutoModelForMultipleChoice" else ()
    words = torch.randint(min(len(tokenizer), model.config.vocab_size), (2, *choices, 7))
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = words[:, :5].contiguous()
    expected = {f"input.{name}": tensor for name, tensor in inputs.items()}
    with torch.no_grad():
        for name, value in model(**inputs).items():
            if isinstance(value, torch.Tensor):
                expected[f"output.{name}"] = value.float().contiguous()
        if model.can_generate():
            expected["tokens"] = model.generate(words, custom_generate=beam_search, **SEARCH)
    with tempfile.TemporaryDirectory() as temporary:
        tensors = Path(temporary, "expected.safetensors")
        save_file(expected, tensors)
        # It needs neither the network nor a token, and is to find no module but those of the folder.
        hidden = ("TOKEN", "PYTHONPATH", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE")
        environment = {name: value for name, value in os.environ.items() if not name.endswith(hidden)}
        environment |= {"HF_HOME": temporary, "HF_HUB_OFFLINE": "1"}
        checked = subprocess.run(
            [sys.executable, "-c", CHECK, str(folder), str(tensors), auto_class, json.dumps(SEARCH)],
            cwd=temporary,
            env=environment,
            capture_output=True,
            text=True,
        )
    if checked.returncode:
        lines = checked.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"nothing was sent: loaded without hf_vanilla, it fails: {oneline(lines[-1])}")


def send(
    api: HfApi,
    repo_id: str,
    kind: str,
    folder: Path,
    private: bool | None,
    revision: str,
    tag: str | None,
    message: str | None,
) -> str:
    """Make of a repository's branch what a folder holds, in one commit; what is there already is not sent again.

    Returns:
        The commit's hash.
    """
    if not api.token and not get_token():
        raise LocalTokenNotFoundError
    api.whoami()
    sdk = "gradio" if kind == "space" else None
    api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
    if revision != "main":
        api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
    staged = files_in(folder)
    head = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
    tree = api.list_repo_tree(repo_id, repo_type=kind, revision=head, recursive=True)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    if kind == "model" and "config.json" in there:
        with tempfile.TemporaryDirectory() as temporary:
            name = api.hf_hub_download(repo_id, "config.json", revision=head, local_dir=temporary)
            other = (read_json(Path(name)) or {}).get("model_type")
        own = read_json(staged["config.json"])["model_type"]
        if other != own:
            raise ValueError(f"{repo_id} is taken by a model of type {other!r}, this is {own!r}: choose another name")
    changed = {name: path for name, path in staged.items() if name not in there or not is_same(path, there[name])}
    removed = [name for name in there if name not in staged and STALE.fullmatch(name)]
    tags = {known.name: known.target_commit for known in api.list_repo_refs(repo_id, repo_type=kind).tags}
    if tag in tags and (changed or removed or tags[tag] != head):
        raise ValueError(f"{repo_id} has a tag {tag} already; tags stay what they are: choose another")
    if changed or removed:
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in changed.items()]
        operations += [CommitOperationDelete(name) for name in removed]
        details = [f"{'change' if name in there else 'add'} {name}" for name in changed]
        details += [f"remove {name}" for name in removed]
        head = api.create_commit(
            repo_id,
            operations,
            repo_type=kind,
            revision=revision,
            commit_message=message or message_of([*changed, *removed], first="config.json" not in there),
            commit_description="\n".join(details),
            parent_commit=head,
        ).oid
    if tag and tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=head, repo_type=kind)
    return str(head)


def is_same(path: Path, there: RepoFile) -> bool:
    """Whether a file is what a repository holds, by the hash that it is kept under there."""
    if there.lfs:
        return digest(path) == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def message_of(names: Sequence[str], first: bool) -> str:
    """What a commit changes, in a line."""
    if first:
        return "Add model, tokenizer, code and card"
    kinds = {next((kind for kind, endings in KINDS.items() if name.endswith(endings)), "records") for name in names}
    return f"Change {' and '.join(filter(None, [', '.join(sorted(kinds)[:-1]), sorted(kinds)[-1]]))}"


def write_space(app: Path, model: Path, repo_id: str, commit: str, license: str | None) -> None:
    """Write a Space that shows the staged `model` at one commit into a new folder `app`.

    The package goes with it: the Space then needs to trust no code but its own.
    """
    shutil.copytree(
        str(files("hf_vanilla")), app / "hf_vanilla", ignore=shutil.ignore_patterns("templates", "__pycache__")
    )
    shutil.copyfile(str(files("hf_vanilla") / "templates" / "space" / "app.py"), app / "app.py")
    rows = [json.loads(line) for line in read_lines(model / SAMPLES)] if (model / SAMPLES).is_file() else []
    examples = sorted((row["source"] for row in rows), key=len)[:3]
    write_json(app / "model.json", {"model": repo_id, "revision": commit, "examples": examples})
    write_requirements(app, "matplotlib")
    data = SpaceCardData(
        title=repo_id.split("/")[-1],
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        license=license or "apache-2.0",
        models=[repo_id],
    )
    SpaceCard(f"---\n{data}\n---\nTranslates with [{repo_id}](https://huggingface.co/{repo_id}).\n").save(app / CARD)


@contextlib.contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """What the Hub, or the way to it, refuses, said in one line with what to do about it.

    Raises:
        ValueError, ConnectionError: in place of huggingface_hub's errors.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError("there is no token: run `hf auth login`, or set HF_TOKEN to one that may write") from None
    except OfflineModeIsEnabled:
        raise ConnectionError("HF_HUB_OFFLINE is set: unset it to push") from None
    except (HfHubHTTPError, HTTPError, RuntimeError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        # huggingface_hub raises these two from what it was: where an upload fails, and a download.
        wraps = isinstance(error, RuntimeError | LocalEntryNotFoundError)
        cause = error.__cause__ if wraps and error.__cause__ else error
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        refusals = {
            401: "the Hub does not take the token; is it expired? `hf auth login` asks for another",
            403: f"the token may not write to {repo_id}: the name is another's, or the token may only read",
            404: f"{repo_id}, or a part of it, is not there for this token",
        }
        if status in refusals:
            raise ValueError(refusals[status]) from None
        if status == 412:
            reason = f"{repo_id} changed meanwhile"
        elif isinstance(cause, HfHubHTTPError):
            reason = f"the Hub answered {status}: {oneline(cause.server_message or '')}"
        else:
            reason = f"the Hub cannot be reached, or broke off ({type(cause).__name__})"
        raise ConnectionError(f"{reason}. Nothing there is left half-written; the same command completes it") from None
