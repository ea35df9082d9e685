"""Translating a file line by line, interrupted or not."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hf_vanilla.translation.translator import POOL, Translator


def translate_file(
    translator: Translator, source: Path, target: Path, identity: dict[str, Any], **options: Any
) -> list[int]:
    """Translate a file of any size line by line. Interrupted, it goes on where it was, and ends with the same file.

    Until it is done, its lines are in TARGET.partial, what it was made from is in TARGET.partial.json, and
    TARGET.partial.lock is held.

    Args:
        translator: the translator.
        source: text in UTF-8, one text a line.
        target: where the translations go, as many lines.
        identity: what else the translations depend on, to know again what was begun.
        options: those of [`Translator.stream`].

    Returns:
        Numbers, from 1, of the lines that are not UTF-8; their translations are empty.

    Raises:
        ValueError: something else was begun with this target, or another process is at it.
    """
    target = target.resolve()
    partial, notes, lock = (target.with_name(f"{target.name}.partial{suffix}") for suffix in ("", ".json", ".lock"))
    if source.resolve() in (target, partial, notes, lock):
        raise ValueError(f"{source} is the input: give another output")
    with alone_at(target, lock):
        if partial.exists() and not notes.exists():
            raise ValueError(f"{partial} is in the way, and not of this program: move it")
        with source.open("rb") as file:
            digest, count = hashlib.sha256(), 0
            for line in file:
                digest.update(line)
                count += 1
        begun = json.dumps({"source_sha256": digest.hexdigest(), **identity}, sort_keys=True)
        done = 0
        if partial.exists():
            if notes.read_text(encoding="utf-8") != begun:
                raise ValueError(f"{partial} is from another input, model or search: delete it to begin anew")
            with partial.open("r+b") as file:
                # Whole pools only: so batches, and with them the last bits of a score, are those of an unbroken run.
                done = sum(1 for line in file if line.endswith(b"\n")) // POOL * POOL
                file.seek(0)
                size = sum(len(line) for line in itertools.islice(file, done))
                file.truncate(size)
        else:
            partial.write_bytes(b"")
            notes.write_text(begun, encoding="utf-8")
        bad: list[int] = []
        with source.open("rb") as lines, partial.open("a", encoding="utf-8", newline="\n") as file:
            rest = itertools.islice(texts_of_lines(lines, bad), done, None)
            bar = tqdm(
                translator.stream(rest, pool=POOL, **options),
                "translating",
                count,
                initial=done,
                unit=" lines",
                mininterval=1,
            )
            for number, text in enumerate(bar, start=1):
                file.write(f"{text}\n")
                if number % POOL == 0:
                    file.flush()
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
        notes.unlink()
        return bad


@contextlib.contextmanager
def alone_at(target: Path, lock: Path) -> Iterator[None]:
    """Holds `lock`, a file that is there as long.

    Raises:
        ValueError: another process holds it.
    """
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise ValueError(
            f"{target} is being written by another process: wait for it, or give another output"
        ) from None


def identity_of(translator: Translator, name: str, **options: Any) -> dict[str, Any]:
    """What the translations of a model of this name depend on."""
    files = [
        path for path in sorted(Path(name).glob("*")) if path.suffix in (".json", ".safetensors", ".bin", ".model")
    ]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    revision = getattr(translator.model.config, "_commit_hash", None)
    search = translator.model.generation_config.to_diff_dict()
    return {"model": str(name), "revision": revision, "files": stats, "search": str(search), **options}


def texts_of_lines(lines: Iterable[bytes], bad: list[int]) -> Iterator[str]:
    """Lines in UTF-8 without their ends; empty for those that are not, whose numbers go to `bad`."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            bad.append(number)
            yield ""
