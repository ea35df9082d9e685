"""To the Hub: a folder that loads without this package, checked before any of it is sent, and sent in one commit."""

import contextlib
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, errors
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from hf_vanilla.hub.adapter import ADAPTER, is_adapter, stage_adapter
from hf_vanilla.hub.metadata import check_languages, check_license
from hf_vanilla.hub.model_card import (
    CARD,
    NOTEBOOK,
    PICTURES,
    RECORDS,
    WIDGET,
    auto_class_of,
    oneline,
    read_json,
    render_card,
)
from hf_vanilla.hub.staging import check_stands_alone, stage, write_space, write_static_space
from hf_vanilla.hub.twin import name_twin, stage_twin
from hf_vanilla.training.checkpointing import digest

logger = logging.getLogger(__name__)

CODE = "checks|configuration|fused_loss|generation|losses|masks|modeling|padding|pipeline|pretrained"
CODE += "|static_generation|texts|tokenization|unpadding"
STALE = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|({CODE})_(vanilla|recurrent)(_\w+)?\.py|hf_vanilla/.*\.py")
"""What a push removes from a repository if it is not among what it sends: weights and code of an earlier one."""
SPACES = ("gradio", "static")
KINDS = {"weights": (".safetensors", ".index.json", ".onnx"), "code": (".py",), "card": (".md", ".png", ".ipynb")}
KINDS |= {"tokenizer": ("tokenizer.json", "tokenizer_config.json"), "configuration": ("config.json",)}
"""How a commit's message calls a file, by the first of these endings that its name has; all others are records."""


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
    space: bool | str | None = None,
    twin: bool = False,
    max_shard_size: str = "5GB",
    dry_run: bool = False,
    api: HfApi | None = None,
) -> str:
    """Send a model, with all that a stranger needs to load, judge and use it, to the Hub; return its page's address.

    What goes there is first written into a folder of its own, loaded back in a process that cannot import
    `hf_vanilla`, and compared. It is sent in one commit a repository, once all of them are known to take theirs: a
    push that fails, or is interrupted, leaves none half-written, and the same call completes it; weights that had
    arrived are not sent again.

    Args:
        source: folder of a run of `hf-vanilla train`, of any model of this package with its tokenizer, of a model of
            sentence-transformers that begins with one, or of an adapter of PEFT, see [`stage_adapter`].
        repo_id, revision: `user/name`, and branch; each is made if it is not there.
        private: whether a repository that is made is private (default: as your account has it).
        tag: a name for this state, such as `"v1.0"`.
        message: of the commit (default: what changed).
        languages, license: see [`render_card`].
        space: also make a Space of the same name, which shows attention: `"gradio"` (or True) for one that translates
            on a server, with a twin by transformers alone; `"static"` for one page that runs any model of
            [`export_to_html`] in the reader's browser.
        twin: also publish the weights as the class of transformers that computes the same, without code of ours and
            for transformers.js, as `user/name-marian` or whatever its type is; see [`stage_twin`].
        max_shard_size: weights beyond this are split.
        dry_run: print what would be sent, and send nothing.
        api: says to which Hub, and by which token (default: as `hf auth login` or HF_ENDPOINT and HF_TOKEN have it).

    Raises:
        FileNotFoundError, ValueError: the model is not fit for this, or the Hub does not take it; nothing was sent.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    source, api = Path(source), api or HfApi()
    sdk = "gradio" if space is True else space or None
    if sdk not in (None, *SPACES):
        raise ValueError(f"space is {space!r}; expected one of {', '.join(SPACES)}")
    check_repo_id(repo_id)
    check_languages(languages or ())
    check_license(license or "other")
    if is_adapter(source):
        if twin or sdk:
            raise ValueError(f"{source} holds an adapter, which has no twin and no Space; those of its base have")
        push_adapter(source, repo_id, api, languages, license, private, revision, tag or "", message or "", dry_run)
        return f"{api.endpoint}/{repo_id}"
    with tempfile.TemporaryDirectory() as temporary:
        folder, app, double = (Path(temporary, name) for name in ("model", "space", "twin"))
        twin_id = name_twin(source, repo_id) if twin else ""
        check_repo_id(twin_id or repo_id)
        card: dict[str, Any] = {"languages": languages, "license": license, "space": sdk is not None, "twin": twin_id}
        model, tokenizer = stage(source, folder, repo_id, max_shard_size, **card)
        if sdk == "gradio" and auto_class_of(model.config) != "AutoModelForSeq2SeqLM":
            what = "the Space translates: it is for models of AutoModelForSeq2SeqLM"
            raise ValueError(f'{what}; one that is "static" runs language models, too')
        if sdk == "static":  # before anything is sent, for it refuses what a page cannot compute
            write_static_space(app, model, tokenizer, folder, repo_id, license)
        check_stands_alone(folder, model, tokenizer)
        if twin:
            stage_twin(folder, double, model, tokenizer, repo_id, twin_id)
        if dry_run:
            if sdk == "gradio":
                write_space(app, folder, repo_id, "0" * 40, license, twin_id)
            for staged, name in ((folder, repo_id), (double, twin_id), (app, f"spaces/{repo_id}")):
                if staged.is_dir():
                    show(staged, name)
            return f"{api.endpoint}/{repo_id}"
        # The twin goes first: its repository, the second, is the one that the Hub may refuse.
        models = ({twin_id: double} if twin else {}) | {repo_id: folder}
        uploads = []
        for name, staged in models.items():
            with explained(name):
                made_of = repo_id if name == twin_id else None
                uploads.append(prepare(api, name, None, staged, private, revision, tag or "", made_of))
        if sdk:
            with explained(f"the Space {repo_id}"):
                open_repository(api, repo_id, sdk, private, "main")
        if not twin:
            with explained(repo_id):
                warn_of_older_twin(api, source, uploads[0])
        commits = {}
        for upload in uploads:
            with explained(upload.repo_id):
                commits[upload.repo_id] = upload.send(message or "")
        if sdk == "gradio":
            write_space(app, folder, repo_id, commits[twin_id or repo_id], license, twin_id)
        if sdk:
            with explained(f"the Space {repo_id}"):
                prepare(api, repo_id, sdk, app, private, "main", "").send(f"Show {repo_id} at {commits[repo_id][:8]}")
    return f"{api.endpoint}/{repo_id}"


def push_adapter(
    source: Path,
    repo_id: str,
    api: HfApi,
    languages: Sequence[str] | None,
    license: str | None,
    private: bool | None,
    revision: str,
    tag: str,
    message: str,
    dry_run: bool,
) -> None:
    """Send an adapter of PEFT alone, after it was put on its base; arguments and errors are those of [`push`]."""
    with tempfile.TemporaryDirectory() as temporary:
        with explained("the adapter's base"):
            stage_adapter(source, Path(temporary), repo_id, api, languages, license)
        if dry_run:
            return show(Path(temporary), repo_id)
        with explained(repo_id):
            prepare(api, repo_id, None, Path(temporary), private, revision, tag).send(message)


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by the names that they will have in a repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def show(folder: Path, destination: str) -> None:
    """Print what would be sent, and its size in bytes."""
    sizes = {name: path.stat().st_size for name, path in files_in(folder).items()}
    for name, size in sizes.items():
        print(f"{size:>13,}  {name}")
    print(f"{sum(sizes.values()):>13,}  bytes would go to {destination}")


def check_repo_id(repo_id: str) -> None:
    """Raise `ValueError` for what is not `user/name`."""
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("expected user/name")
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a repository: {error}") from None


def write_card(
    source: Path,
    folder: Path,
    repo_id: str,
    languages: Sequence[str] | None = None,
    license: str | None = None,
    space: bool = False,
    twin: str = "",
) -> None:
    """Write the card that [`push`] would send, with the records and pictures that it is made of, into `folder`.

    Where no weights lie in `source`, as in such a folder, the card alone is written anew. For `space` and `twin` see
    [`render_card`].
    """
    check_repo_id(repo_id)
    check_repo_id(twin or repo_id)
    check_languages(languages or ())
    check_license(license or "other")
    card: dict[str, Any] = {"languages": languages, "license": license, "space": space, "twin": twin}
    with tempfile.TemporaryDirectory() as temporary:
        records = Path(temporary) if any(source.glob("*.safetensors")) else source
        if records != source:
            stage(source, records, repo_id, **card)
        rendered = render_card(records, repo_id, **card)
        folder.mkdir(parents=True, exist_ok=True)
        # A run's own records stay as they are: those of a card tell less.
        made = (*PICTURES, NOTEBOOK, WIDGET)
        for name in made if folder.resolve() == source.resolve() else RECORDS:
            if (records / name).is_file() and (records / name).resolve() != (folder / name).resolve():
                shutil.copyfile(records / name, folder / name)
        rendered.save(folder / CARD)


@dataclass
class Upload:
    """What a push changes in a branch of a repository, of which `head` is the newest commit.

    Attributes:
        kind: "model" or "space".
        staged: the files that it sends or that are there already, by their names.
        present: names of the files in the repository.
        changed, removed: names of the files that differ, or are new, and of those that go.
        tag: name for the state that this leaves, unless it has it already.
    """

    api: HfApi
    repo_id: str
    kind: str
    revision: str
    head: str
    staged: dict[str, Path]
    present: set[str]
    changed: list[str]
    removed: list[str]
    tag: str

    def send(self, message: str) -> str:
        """Commit what changed, with a `message` or one that says what; return the hash of the branch's newest."""
        if self.changed or self.removed:
            details = [f"{'change' if name in self.present else 'add'} {name}" for name in self.changed]
            additions = [CommitOperationAdd(name, self.staged[name]) for name in self.changed]
            first = not {"config.json", ADAPTER} & self.present
            self.head = self.api.create_commit(
                self.repo_id,
                [*additions, *map(CommitOperationDelete, self.removed)],
                repo_type=self.kind,
                revision=self.revision,
                commit_message=message or message_of([*self.changed, *self.removed], first),
                commit_description="\n".join([*details, *(f"remove {name}" for name in self.removed)]),
                parent_commit=self.head,
            ).oid
        if self.tag:
            self.api.create_tag(self.repo_id, tag=self.tag, revision=self.head, repo_type=self.kind)
        return str(self.head)


def open_repository(api: HfApi, repo_id: str, sdk: str | None, private: bool | None, revision: str) -> str:
    """Make a repository, and a branch in it, where they are not there; return the repository's kind. It is a Space
    with an `sdk`, and a model's without one."""
    api.whoami()
    kind = "space" if sdk else "model"
    api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
    if revision != "main":
        api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
    return kind


def prepare(
    api: HfApi,
    repo_id: str,
    sdk: str | None,
    folder: Path,
    private: bool | None,
    revision: str,
    tag: str,
    made_of: str | None = None,
) -> Upload:
    """Return what sending a folder changes in a repository's branch, both of which are there from now on.

    Raises:
        ValueError: the repository holds another type of model, or one whose card does not say that it is `made_of`
            that one; or it has the tag at another state.
    """
    kind = open_repository(api, repo_id, sdk, private, revision)
    staged = files_in(folder)
    head = str(api.repo_info(repo_id, repo_type=kind, revision=revision).sha)
    tree = api.list_repo_tree(repo_id, repo_type=kind, revision=head, recursive=True)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    if kind == "model" and {"config.json", ADAPTER} & set(there):
        with tempfile.TemporaryDirectory() as temporary:
            for name in {"config.json", ADAPTER, CARD} & set(there):
                api.hf_hub_download(repo_id, name, revision=head, local_dir=temporary)
            card = Path(temporary, CARD)
            other, own = type_in(Path(temporary)), type_in(folder)
            base = ModelCard.load(card).data.base_model if made_of and card.exists() else None
        if other != own:
            raise ValueError(f"{repo_id} is taken by a model of type {other!r}, this is {own!r}: choose another name")
        if made_of not in (None, base):  # the name was derived, so its owner may not have thought of it
            raise ValueError(f"{repo_id} is taken by a model that is not made of {made_of}: choose another name")
    # `upload_folder` does not serve here: with hf_xet it may make several commits, and it does not say beforehand what
    # changes, which decides whether the tag may be set, and makes the message.
    changed = [name for name, path in staged.items() if name not in there or not is_same(path, there[name])]
    removed = [name for name in there if name not in staged and STALE.fullmatch(name)]
    tags = {known.name: known.target_commit for known in api.list_repo_refs(repo_id, repo_type=kind).tags}
    if tag in tags and (changed or removed or tags[tag] != head):
        raise ValueError(f"{repo_id} has a tag {tag} already; tags stay what they are: choose another")
    new_tag = "" if tag in tags else tag
    return Upload(api, repo_id, kind, revision, head, staged, set(there), changed, removed, new_tag)


def warn_of_older_twin(api: HfApi, source: Path, upload: Upload) -> None:
    """Warn if a push changes the weights of a model and leaves its twin, which it does not write, as it is."""
    if "config.json" in upload.present and any(name.endswith(".safetensors") for name in upload.changed):
        with contextlib.suppress(ValueError):  # it has none
            twin_id = name_twin(source, upload.repo_id)
            if api.repo_exists(twin_id):
                logger.warning("%s is of earlier weights now; a push with --twin writes it anew", twin_id)


def type_in(folder: Path) -> str | None:
    """Return the type of the model, or the kind of the adapter, in a folder."""
    if is_adapter(folder):
        return f"adapter, {(read_json(folder / ADAPTER) or {}).get('peft_type')}"
    return (read_json(folder / "config.json") or {}).get("model_type")


def is_same(path: Path, there: RepoFile) -> bool:
    """True if a file has the hash under which the repository keeps it."""
    return digest(path) == there.lfs.sha256 if there.lfs else git_hash(path.read_bytes()) == there.blob_id


def message_of(names: Sequence[str], first: bool) -> str:
    """Return the title of a commit that changes these files; `first` if there was no model before it."""
    if first:
        return "Add model, tokenizer, code and card"
    kinds = {next((kind for kind in KINDS if name.endswith(KINDS[kind])), "records") for name in names}
    *others, last = sorted(kinds)
    return f"Change {', '.join(others)} and {last}" if others else f"Change {last}"


@contextlib.contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Raise, in place of huggingface_hub's errors, `ValueError` or `ConnectionError` with one line and a remedy."""
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise ValueError("there is no token: run `hf auth login`, or set HF_TOKEN to one that may write") from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionError("HF_HUB_OFFLINE is set: unset it to push") from None
    except (
        HfHubHTTPError,
        errors.HTTPError,
        RuntimeError,
        LocalEntryNotFoundError,
        ConnectionError,
        TimeoutError,
    ) as error:
        # Where an upload or a download fails, huggingface_hub raises one of these two from the true cause.
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
        reason = f"the Hub cannot be reached, or broke off ({type(cause).__name__})"
        if isinstance(cause, HfHubHTTPError):
            reason = f"the Hub answered {status}: {oneline(cause.server_message or '')}"
        if status == 412:
            reason = f"{repo_id} changed meanwhile"
        raise ConnectionError(f"{reason}. Nothing there is left half-written; the same command completes it") from None
