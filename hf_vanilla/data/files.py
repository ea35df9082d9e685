"""Bytes and lines of files, compressed or not, and data sets that are built from rows and kept in the cache."""

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.arrow_writer import ArrowWriter
from datasets.fingerprint import Hasher

Row = dict[str, Any]
Splits = dict[str, Dataset | IterableDataset]
Columns = Mapping[str, str]  # from our names to those of the corpus
Placed = tuple[str, Row]  # "line 3" or "row 3", as an error names it, and the row
RowGenerator = Callable[..., Iterator[Row]]
STRINGS = ("string", "large_string", "string_view", "str", "NoneType", "null")  # types of columns of text
MISSING = object()
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
COMPRESSIONS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
"""For each suffix the compression, and the bytes that such a file begins with, which no text in UTF-8 begins with."""
WHOLE, ENDS = 64 << 20, 1 << 20  # bytes: larger files are told apart by their time, and by so many at both ends
BATCH = 1_000  # rows
# The source code of this folder. It is part of every fingerprint, for a cached result of the same fingerprint is used,
# and what an older version of this code has made would otherwise go on to be.
CODE = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]


def require_file(path: Path) -> None:
    """Raise FileNotFoundError if there is nothing to read at `path`: a file, a pipe or a device."""
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"{path}: no such file")


def as_regular_file(path: Path) -> Path:
    """Return `path`, or a copy of what a pipe or a device holds, which can be read once only and by one process."""
    if path.is_dir() or not path.exists() or (path.is_file() and path.parts[:2] not in (("/", "dev"), ("/", "proc"))):
        return path
    folder = Path(tempfile.mkdtemp(prefix="hf_vanilla_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with path.open("rb") as source, (folder / path.name).open("wb") as copy:
        shutil.copyfileobj(source, copy, ENDS)
    return folder / path.name


def open_bytes(path: Path) -> "io.BufferedReader[Any]":
    """Open a file for reading; one that begins as gzip or zstd do, or has the latter's suffix, is decompressed."""
    require_file(path)
    file = io.BufferedReader(path.open("rb", buffering=0), ENDS)
    head = file.peek(4)
    for suffix, (compression, magic) in COMPRESSIONS.items():
        # What zstd writes in parallel begins with other bytes.
        if head.startswith(magic) or (head and compression == "zstd" and path.suffix.lower() == suffix):
            return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression), ENDS)
    return file


def read_raw_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, compressed or not, with their endings. Only a line feed ends a line.

    A file that is not there is a FileNotFoundError. A line that is not UTF-8, or that the compressed file ends before,
    is a ValueError that names file and line.
    """
    number = 0
    with open_bytes(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            kind = ": it looks like UTF-16" if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
            reason = f"{error.reason} at byte {error.start + 1}{kind}"
            raise ValueError(f"{path}, line {number}: not UTF-8 ({reason})") from None
        except OSError as error:
            raise ValueError(f"{path}, line {number + 1}: cannot be decompressed: {error}") from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file as [`read_raw_lines`] does, without their endings: LF or CRLF."""
    for line in read_raw_lines(path):
        yield without_end(line)


def without_end(line: str) -> str:
    """Return a line without the LF or CRLF that ends it."""
    return line[: -2 if line.endswith("\r\n") else -1] if line.endswith("\n") else line


def unreadable(path: Path, reason: object) -> ValueError:
    """Return the error for a file that is not what its suffix says."""
    suffix = path.with_suffix("").suffix if path.suffix.lower() in COMPRESSIONS else path.suffix
    return ValueError(f"{path}: cannot be read as {suffix}: {reason}")


def text_features(columns: Iterable[str]) -> Features:
    """Return the types of columns of text; `references` is the one column that holds a list of texts in each row."""
    text = Value("string")
    return Features({column: List(text) if column == "references" else text for column in columns})


def build_dataset(
    generator: RowGenerator, features: Features, streaming: bool = False, **arguments: Any
) -> Dataset | IterableDataset:
    """Return the rows that `generator(**arguments)` yields, from the cache if no file among `arguments` changed.

    A stream runs the generator anew each time that it is iterated over. Errors of the generator are raised as they
    are, a file that is missing is a FileNotFoundError, and if there are no rows, that is a ValueError.
    """
    files = [value for value in arguments.values() if isinstance(value, Path)]
    for file in files:
        require_file(file)
    if next(generator(**arguments), None) is None:
        raise ValueError(f"{files[0]}: the corpus is empty")
    if streaming:
        return IterableDataset.from_generator(generator, features=features, gen_kwargs=arguments)
    settings = [value for value in arguments.values() if value not in files]
    state = [features, *map(_digest_of_content, files), settings]
    fingerprint = Hasher.hash((generator.__module__, generator.__qualname__, state, CODE))
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "hf_vanilla" / fingerprint / "rows.arrow"
    if not cached.exists():
        _write_rows(generator(**arguments), features, cached)
    dataset = Dataset.from_file(str(cached))
    dataset._fingerprint = fingerprint  # what is computed from these rows is cached by it
    return dataset


def _write_rows(rows: Iterator[Row], features: Features, path: Path) -> None:
    """Write rows as an Arrow file, which is there when it is whole: two processes may write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{uuid4()}.partial")
    is_text = features == text_features(features)
    try:
        with ArrowWriter(path=str(unfinished), features=features) as writer:
            while batch := list(islice(rows, BATCH)):
                encoded = batch if is_text else map(features.encode_example, batch)
                writer.write_table(pa.Table.from_pylist(list(encoded), schema=features.arrow_schema))
            writer.finalize()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _digest_of_content(path: Path) -> str:
    """Return what files of different content differ in, wherever they lie."""
    size, digest = path.stat().st_size, blake2b()
    with path.open("rb") as file:
        if size <= WHOLE:
            while chunk := file.read(ENDS):
                digest.update(chunk)
        else:
            digest.update(f"{size} {path.stat().st_mtime_ns}".encode())
            for place in (0, size - ENDS):
                file.seek(place)
                digest.update(file.read(ENDS))
    return digest.hexdigest()


def read_text_pair(source_path: Path, target_path: Path, streaming: bool) -> Dataset | IterableDataset:
    """Return the columns `source` and `target`: row n holds line n of each of two text files.

    Errors are those of `read_lines`, and a ValueError if the files have different numbers of lines.
    """
    paths = as_regular_file(source_path), as_regular_file(target_path)
    sizes = [sum(1 for _ in read_raw_lines(path)) for path in paths]
    if sizes[0] != sizes[1]:
        counts = f"{source_path} has {sizes[0]} lines, {target_path} has {sizes[1]}"
        raise ValueError(f"{counts}: expected line n of one to translate line n of the other")
    if sizes[0] == 1:
        refuse_carriage_returns(source_path, next(read_raw_lines(paths[0])))
    features = text_features(["source", "target"])
    return build_dataset(_generate_pairs, features, streaming, source_path=paths[0], target_path=paths[1])


def refuse_carriage_returns(path: Path, only_line: str) -> None:
    """Raise ValueError if the only line of a file is many that end as in Mac OS 9: then no line feed ends a row."""
    if not only_line.endswith("\n") and "\r" in only_line:
        problem = "lines end in CR alone, and only LF or CRLF ends a row"
        raise ValueError(f"{path}, line 1: {problem}: convert it, for instance with tr '\\r' '\\n'")


def _generate_pairs(source_path: Path, target_path: Path) -> Iterator[Row]:
    for source, target in zip(read_raw_lines(source_path), read_raw_lines(target_path), strict=True):
        yield {"source": source.strip(), "target": target.strip()}


def generate_documents(path: Path) -> Iterator[Row]:
    """Yield the documents of a text file, which blank lines separate, as rows with the column `text`."""
    for has_text, lines in groupby(read_lines(path), key=lambda line: bool(line.strip())):
        if has_text:
            yield {"text": "\n".join(lines).strip()}


def load_hub(name: str, columns: Columns, configuration: str | None, streaming: bool, num_proc: int | None) -> Splits:
    """Return the splits of a data set on the Hub with `columns` alone.

    If there is no such data set, it is a FileNotFoundError; if a column is missing or holds no text, a ValueError.
    """
    try:
        loaded = load_dataset(name, configuration, streaming=streaming, num_proc=None if streaming else num_proc)
    except OSError as error:
        nowhere = "no built-in corpus, no file, and no data set on the Hub that can be reached"
        raise FileNotFoundError(f"{name}: {nowhere}: {error}") from error
    select = _select_columns_of_stream if streaming else _select_columns
    return {split: select(loaded[split], columns, name) for split in SPLITS if split in loaded}


def _select_columns(dataset: Dataset, columns: Columns, name: str) -> Dataset:
    dataset = dataset.flatten()
    types = {column: getattr(kind, "dtype", type(kind).__name__) for column, kind in dataset.features.items()}
    for column in columns.values():
        if column not in types:
            raise ValueError(f"{name}: no column {column!r}; its columns are {', '.join(types)}")
        if types[column] not in STRINGS:
            raise ValueError(f"{name}: column {column!r} holds {types[column]}, expected text")
    return dataset.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})


def _select_columns_of_stream(stream: IterableDataset, columns: Columns, name: str) -> IterableDataset:
    first: Row = next(iter(stream), {})  # shows whether the columns exist and hold text
    if first:
        unseen = set(columns.values())
        for column in columns.values():
            text_of(first, column, name, "row 1", unseen)
            if column in unseen and "." not in column:
                raise ValueError(f"{name}: no column {column!r}; its columns are {', '.join(flatten(first))}")
    options = {"remove_columns": list(first), "features": text_features(columns), "with_indices": True}
    return stream.map(_pick, fn_kwargs={"columns": columns, "name": name}, **options)


def _pick(row: Row, index: int, columns: Columns, name: str) -> Row:
    return {ours: text_of(row, theirs, name, f"row {index + 1}", set()) for ours, theirs in columns.items()}


def text_of(row: Row, column: str, path: Path | str, place: str, unseen: set[str]) -> str:
    """Return the stripped text of a cell, "" if it is missing or null; a column that is there leaves `unseen`.

    Anything else in the cell is a ValueError that names it by path and place.
    """
    value = row.get(column, MISSING)
    if value is MISSING:
        value = _look_up(row, column)
        if value is MISSING:
            return ""
    if unseen:
        unseen.discard(column)
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return ""
    raise ValueError(f"{path}, {place}: column {column!r} holds {_describe(value, column)}")


def _look_up(row: Row, column: str) -> Any:
    """Return what `a.b` names in `{"a": {"b": ...}}`, where names may have dots themselves, or else `MISSING`."""
    for place, mark in enumerate(column):
        inner = row.get(column[:place]) if mark == "." else None
        if isinstance(inner, dict):
            rest = column[place + 1 :]
            value = inner[rest] if rest in inner else _look_up(inner, rest)
            if value is not MISSING:
                return value
        elif mark == "." and column[:place] in row and inner is None:
            return None
    return MISSING


def _describe(value: object, column: str) -> str:
    """Return what an error says about a value that is no text: its type, and what to do."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"{kind}, expected text: did you mean {', '.join(f'{column}.{key}' for key in value)}?"
    shown = repr(value) if len(repr(value)) < 40 else f"{repr(value)[:40]}..."
    remedy = f': write it as text, "{value}"' if isinstance(value, bool | int | float | date | time) else ""
    return f"{kind}, expected text: {shown}{remedy}"


def flatten(row: Row, prefix: str = "") -> Row:
    """Return a row without nesting: the key of `row["translation"]["en"]` becomes `translation.en`."""
    flat: Row = {}
    for name, value in row.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
