"""Checkpoints: written completely or not at all, checked before they are read, and averaged from snapshots."""

import contextlib
import copy
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
from huggingface_hub.utils.sha import sha_fileobj
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

MANIFEST, STATE, WEIGHTS = "manifest.json", "state.json", "weights.safetensors"
UNFINISHED, OLD, DAMAGED = ".unfinished", ".old", ".damaged"


class CheckpointError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


@contextlib.contextmanager
def atomic_folder(folder: Path, accelerator: Accelerator) -> Iterator[Path]:
    """Yield a new folder to write into, which takes the place of `folder` once every process is done with it.

    If any process could not write, a CheckpointError is raised on each, and what was at `folder` is left as it was.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    try:
        with _same_outcome_everywhere(folder, accelerator):
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
        with _same_outcome_everywhere(folder, accelerator):
            yield unfinished
        with _same_outcome_everywhere(folder, accelerator):
            if accelerator.is_main_process:
                _write_manifest(unfinished)
                _replace(folder, unfinished)
    except CheckpointError:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def _same_outcome_everywhere(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Wait for all processes; if something was raised in any of them, raise a CheckpointError in each."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        problem = error
    problems = [found for found in gather_object([problem and f"{type(problem).__name__}: {problem}"]) if found]
    if problems:
        raise CheckpointError(f"{folder} could not be written: {problems[0]}") from problem


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder to write a model into, which takes the place of `folder` at the end of the `with` block.

    This is for one process. If anything is raised, what was at `folder` is left as it was. That it is a file, or is
    not empty and `overwrite` is false or it does not hold just a model, is a FileExistsError.
    """
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{folder} is not empty: give a folder that does not exist, or --overwrite")
        if not (folder / "config.json").is_file():
            raise FileExistsError(f"{folder} holds no model (no config.json), so it is not overwritten: give another")
        runs = ("best", "checkpoint", "snapshot")
        left = next((path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith(runs)), None)
        if left:
            raise FileExistsError(f"{folder} holds what a run left ({left}), so it is not overwritten: give another")
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
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    directory = os.open(folder.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    shutil.rmtree(old, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    """Write names, sizes and SHA-256 of the files, and wait until all of them are on the disk."""
    manifest = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        manifest[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": digest(file)}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return sha_fileobj(stream).hex()


def find_corruption(folder: Path) -> str | None:
    """Return what is wrong with a folder that `atomic_folder` wrote; None if every file is as it was written."""
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


def numbered_folders(folder: Path) -> list[Path]:
    """Return the folders `step-N` in a folder, N ascending."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdigit())
    return sorted(found, key=lambda path: int(path.name[5:]))


class Checkpoints:
    """The last few checkpoints of a run, as `checkpoints/step-N` in its folder: all that is needed to resume it.

    Model, optimiser, scaler and random states are written by `Accelerator.save_state`, sharded where the model is.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, keep: int) -> None:
        self.folder, self.accelerator, self.keep = folder / "checkpoints", accelerator, keep

    def save(self, step: int, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Write a checkpoint by `atomic_folder`, with `state` (JSON) and `weights`, and drop all but the last few."""
        with atomic_folder(self.folder / f"step-{step}", self.accelerator) as folder:
            self.accelerator.save_state(str(folder))
            if self.accelerator.is_main_process:
                (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
                save_file(weights, folder / WEIGHTS)
        keep_newest(self.folder, self.keep, self.accelerator)

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is not damaged, the same on all processes; warn of each that is."""
        found: list[Path | None] = [None]
        if self.accelerator.is_main_process:
            for folder in reversed(numbered_folders(self.folder)):
                if (problem := find_corruption(folder)) is None:
                    found = [folder]
                    break
                logger.warning("%s is damaged (%s); trying the checkpoint before it", folder, problem)
                folder.rename(folder.with_name(folder.name + DAMAGED))
        return broadcast_object_list(found)[0]

    def load(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Restore what `save` wrote, and return its `state` and `weights`."""
        self.accelerator.load_state(str(folder))
        return json.loads((folder / STATE).read_text(encoding="utf-8")), load_file(folder / WEIGHTS)


def make_skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the same class and configuration without memory for weights, for `with_weights`."""
    with torch.device("meta"):
        skeleton = type(model)(model.config)
    for name, buffer in model.named_buffers():  # some are not saved with the weights
        owner, _, own_name = name.rpartition(".")
        setattr(skeleton.get_submodule(owner), own_name, buffer.detach().clone())
    if model.can_generate():
        skeleton.generation_config = model.generation_config
    return skeleton


def with_weights(skeleton: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Return a copy of the skeleton that has these weights; of those that are tied, one is enough.

    If one is missing, or unknown to the model, it is a RuntimeError.
    """
    model = copy.deepcopy(skeleton)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if unexpected or any(parameter.is_meta for parameter in model.parameters()):
        raise RuntimeError(f"weights do not fit {type(model).__name__}: missing {missing}, unexpected {unexpected}")
    return model.eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights that `save_pretrained` wrote into a folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def discard_after(step: int, folder: Path) -> None:
    """Remove from the folder of an interrupted run what it left unfinished, and its snapshots after update `step`.

    The run saves these snapshots again, unless its time ends before it gets there.
    """
    for ending in (UNFINISHED, OLD, DAMAGED):
        for path in (*folder.glob(f"*{ending}"), *folder.glob(f"*/*{ending}")):
            shutil.rmtree(path)
    if not step:
        shutil.rmtree(folder / "best", ignore_errors=True)
    for snapshot in numbered_folders(folder / "snapshots"):
        if int(snapshot.name[5:]) > step:
            shutil.rmtree(snapshot)


def keep_newest(folder: Path, count: int, accelerator: Accelerator) -> None:
    """Remove all but the newest `count` folders `step-N` from a folder."""
    if accelerator.is_main_process:
        for old in numbered_folders(folder)[:-count]:
            shutil.rmtree(old, ignore_errors=True)
