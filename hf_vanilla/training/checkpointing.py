"""Checkpoints that are whole or not there, and the newest of them that is fit for use."""

import contextlib
import copy
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
UNFINISHED = ".unfinished"
OLD = ".old"
DAMAGED = ".damaged"


class CheckpointError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


@contextlib.contextmanager
def whole_folder(folder: Path, accelerator: Accelerator) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` only when every process is done with it.

    Raises:
        CheckpointError: on every process, if any of them could not write. What was at `folder` is left as it was.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    problem: Exception | None = None
    try:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
    except OSError as error:
        problem = error
    _agree(problem, folder, accelerator)
    try:
        yield unfinished
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        problem = error
    try:
        _agree(problem, folder, accelerator)
        try:
            if accelerator.is_main_process:
                _write_manifest(unfinished)
                _replace(folder, unfinished)
        except OSError as error:
            problem = error
        _agree(problem, folder, accelerator)
    except CheckpointError:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder for a model to be written into, which takes the place of `folder` only when all is done.

    For one process. If anything is raised, what was at `folder` is left as it was.

    Raises:
        FileExistsError: `folder` is a file, or holds something, and `overwrite` is false, or it is no model.
    """
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{folder} is not empty: give a folder that does not exist, or --overwrite")
        if not (folder / "config.json").is_file():
            raise FileExistsError(f"{folder} holds no model (no config.json), so it is not overwritten: give another")
        runs = ("best", "checkpoint", "snapshot")
        if kept := [path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith(runs)]:
            raise FileExistsError(
                f"{folder} holds what a run left ({kept[0]}), so it is not overwritten: give another"
            )
    folder = folder.resolve()
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _replace(folder, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _replace(folder: Path, unfinished: Path) -> None:
    """Put `unfinished` in the place of `folder`, if there is one."""
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    directory = os.open(folder.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    shutil.rmtree(old, ignore_errors=True)


def _agree(problem: Exception | None, folder: Path, accelerator: Accelerator) -> None:
    problems = [found for found in gather_object([problem and f"{type(problem).__name__}: {problem}"]) if found]
    if problems:
        raise CheckpointError(f"{folder} could not be written: {problems[0]}") from problem


def _write_manifest(folder: Path) -> None:
    """Names, sizes and SHA-256 of the files, all of them on the disk before the folder gets its name."""
    manifest = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
            manifest[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": digest(file)}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 22):
            sha256.update(part)
    return sha256.hexdigest()


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `whole_folder` wrote; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, expected {expected['bytes']}"
            if digest(file) != expected["sha256"]:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def numbered(folder: Path) -> list[Path]:
    """The folders `step-N` in a folder, N ascending."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


class Checkpoints:
    """The newest few full states of a run, as `checkpoints/step-N` in its folder.

    Model, optimiser, scaler and random states are written by `Accelerator.save_state`, sharded where the model is.

    Args:
        folder: of the run.
        accelerator: with model and optimiser prepared.
        keep: how many to keep.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, keep: int) -> None:
        self.folder = folder / "checkpoints"
        self.accelerator = accelerator
        self.keep = keep

    def save(self, step: int, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Write a checkpoint with `state` (JSON) and more `weights` beside the rest, then remove the oldest.

        Raises:
            CheckpointError: see `whole_folder`.
        """
        with whole_folder(self.folder / f"step-{step}", self.accelerator) as folder:
            self.accelerator.save_state(str(folder))
            if self.accelerator.is_main_process:
                (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
                save_file(weights, folder / WEIGHTS)
        keep_newest(self.folder, self.keep, self.accelerator)

    def newest(self) -> Path | None:
        """The newest checkpoint that is fit for use, with a warning for each that is not; on all processes alike."""
        found: list[Path | None] = [None]
        if self.accelerator.is_main_process:
            for folder in reversed(numbered(self.folder)):
                if (problem := damage(folder)) is None:
                    found = [folder]
                    break
                logger.warning("%s is damaged (%s); trying the checkpoint before it", folder, problem)
                folder.rename(folder.with_name(folder.name + DAMAGED))
        return broadcast_object_list(found)[0]

    def load(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Restore what `save` wrote; returns its `state` and `weights`."""
        self.accelerator.load_state(str(folder))
        return json.loads((folder / STATE).read_text(encoding="utf-8")), load_file(folder / WEIGHTS)


def make_skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configuration, without memory for weights: what `with_weights` gives them to."""
    with torch.device("meta"):
        skeleton = type(model)(model.config)
    for name, buffer in model.named_buffers():  # which weights need not hold
        owner, _, own_name = name.rpartition(".")
        setattr(skeleton.get_submodule(owner), own_name, buffer.detach().clone())
    if model.can_generate():
        skeleton.generation_config = model.generation_config
    return skeleton


def with_weights(skeleton: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model with these weights; of tied ones, one is enough.

    Raises:
        RuntimeError: a weight is missing, or is none of the model's.
    """
    model = copy.deepcopy(skeleton)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if unexpected or any(parameter.is_meta for parameter in model.parameters()):
        raise RuntimeError(f"weights do not fit {type(model).__name__}: missing {missing}, unexpected {unexpected}")
    return model.eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that `save_pretrained` wrote into a folder."""
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


def save_model(
    folder: Path,
    weights: dict[str, Tensor],
    skeleton: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
) -> None:
    """Write whole weights and tokenizer, for `from_pretrained`, into `folder`: it is there complete or not at all.

    Raises:
        CheckpointError: see `whole_folder`.
    """
    with whole_folder(folder, accelerator) as unfinished:
        if accelerator.is_main_process:
            # Not by the model itself: sharding gives it another class, the code of which would be saved with it.
            with_weights(skeleton, weights).save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)


def forget_what_came_after(step: int, folder: Path) -> None:
    """Remove from the folder of a run what an interrupted run left unfinished, and its snapshots after update `step`.

    The run will take them again, but if time limits it, not necessarily at as late an update.
    """
    for ending in (UNFINISHED, OLD, DAMAGED):
        for path in (*folder.glob(f"*{ending}"), *folder.glob(f"*/*{ending}")):
            shutil.rmtree(path)
    if not step:
        shutil.rmtree(folder / "best", ignore_errors=True)
    for snapshot in numbered(folder / "snapshots"):
        if int(snapshot.name[5:]) > step:
            shutil.rmtree(snapshot)


def keep_newest(folder: Path, count: int, accelerator: Accelerator) -> None:
    """Remove all but the newest `step-N` from a folder."""
    if accelerator.is_main_process:
        for old in numbered(folder)[:-count]:
            shutil.rmtree(old, ignore_errors=True)
