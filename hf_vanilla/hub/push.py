"""To the Hub: a folder that loads without this package, checked before any of it is sent, and sent in one commit."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from hf_vanilla.hub.model_card import ATTENTION, CARD, RECORDS, auto_class_of, read_json, render
from hf_vanilla.hub.staging import KINDS, STALE, check, explained, stage, write_space
from hf_vanilla.training.checkpointing import digest


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
