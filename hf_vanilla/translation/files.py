"""Translating a file line by line, interrupted or not."""

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_vanilla.data.files import open_bytes
from hf_vanilla.data.locks import alone_at
from hf_vanilla.translation.translator import POOL, Hypothesis, Translator


def translate_file(
    translator: Translator, source: Path, target: Path, identity: Mapping[str, object], **options: Any
) -> list[int]:
    """Translate a text file of any size, one text a line, and continue where an interrupted call was.

    Until it is done, its lines are in TARGET.partial, what they were made from is in TARGET.partial.json, and
    TARGET.partial.lock is held. The file ends the same whether there was an interruption or not. A partial file of
    other work, which `identity` tells (see [`identity_of`]), or of another process at work, is a ValueError.
    `options` are those of [`Translator.stream`].

    Returns:
        Numbers, from 1, of the lines that are not UTF-8; their translations are empty.
    """
    target = target.resolve()
    partial, notes, lock = (target.with_name(f"{target.name}.partial{suffix}") for suffix in ("", ".json", ".lock"))
    if source.resolve() in (target, partial, notes, lock):
        raise ValueError(f"{source} is the input: give another output")
    list(translator.stream((), **options))  # a search that cannot be is refused before anything is written
    with alone_at(lock, f"{target} is being written by another process: wait for it, or give another output"):
        if partial.exists() and not notes.exists():
            raise ValueError(f"{partial} is in the way, and not of this program: move it")
        digest = hashlib.sha256()
        with open_bytes(source) as file:
            try:
                count = sum(1 for _ in map(digest.update, file))
            except OSError as error:
                raise ValueError(f"{source}: cannot be read: {error}") from error
        work = json.dumps({"source_sha256": digest.hexdigest(), **identity}, sort_keys=True)
        if not partial.exists():
            partial.touch()
            notes.write_text(work, encoding="utf-8")
        elif notes.read_text(encoding="utf-8") != work:
            raise ValueError(f"{partial} is from another input, model or search: delete it to begin anew")
        # With whole pools, batches are those of an uninterrupted run, and with them the last bits of each score.
        pool = POOL if translator.is_language else translator.pool
        with partial.open("r+b") as file:
            done = sum(line.endswith(b"\n") for line in file) // pool * pool
            file.seek(0)
            file.truncate(sum(map(len, itertools.islice(file, done))))
        undecodable: list[int] = []
        with open_bytes(source) as lines, partial.open("a", encoding="utf-8", newline="\n") as file:
            rest = itertools.islice(texts_of_lines(lines, undecodable), done, None)
            stream = translator.stream(rest, pool=pool, **options)
            bar = tqdm(stream, "translating", count, initial=done, unit=" lines", mininterval=1)
            for number, translated in enumerate(bar, start=1):
                print(line_of(translated), file=file, flush=number % POOL == 0)
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
        notes.unlink()
        return undecodable


def line_of(translated: str | list[Hypothesis]) -> str:
    """Return a translation as it is, or hypotheses as one line of JSON: a list of objects with `text` and `score`.

    A score that is no number is null, for JSON has neither NaN nor infinity.
    """
    if isinstance(translated, str):
        return translated
    scores = (hypothesis.score if math.isfinite(hypothesis.score) else None for hypothesis in translated)
    rows = [{"text": own.text, "score": score} for own, score in zip(translated, scores, strict=True)]
    return json.dumps(rows, ensure_ascii=False)


def identity_of(translator: Translator, name: str, **options: object) -> dict[str, object]:
    """Return what translations depend on: the files of the model `name`, its search, and the `options` given."""
    model, suffixes = translator.model, (".json", ".safetensors", ".bin", ".model")
    files = [(path, path.stat()) for path in sorted(Path(name).glob("*")) if path.suffix in suffixes]
    return {
        "model": str(name),
        "revision": getattr(model.config, "_commit_hash", None),
        "files": [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in files],
        "search": str(model.generation_config.to_diff_dict()),
        **options,
    }


def texts_of_lines(lines: Iterable[bytes], undecodable: list[int]) -> Iterator[str]:
    """Yield lines in UTF-8 without their ends; "" for one that is not UTF-8, whose number goes to `undecodable`."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            undecodable.append(number)
            yield ""
