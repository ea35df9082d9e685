"""Columns of text from files and from data sets on the Hub, and labelled rows from files, as data sets."""

import logging
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset

from hf_vanilla.data.files import (
    BATCH,
    Columns,
    Placed,
    Row,
    Splits,
    as_regular_file,
    build_dataset,
    flatten,
    generate_documents,
    load_hub,
    require_file,
    text_features,
    text_of,
    unreadable,
)
from hf_vanilla.data.formats import READERS, format_of, open_parquet, read_rows
from hf_vanilla.data.memories import read_catalogue

logger = logging.getLogger(__name__)
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*[1-9]|\.0)?")  # as JSON and Python write it


def load_hub_or_table(
    path: Path,
    columns: Columns,
    configuration: str | None,
    streaming: bool,
    num_proc: int | None,
    alternative: str,
    names: tuple[str, ...] = (),
    references: tuple[str, ...] = (),
) -> Splits:
    """Return the splits of the Hub data set `path`, or the split `train` of the file `path`, with `columns` alone.

    `names` are those of the columns of a file without a header; `references`, if there are any, the columns that
    become the list `references`. Errors are those of [`read_rows`], FileNotFoundError if there is no such data set
    either, and ValueError if a column holds no text, or the suffix of a file is not in `READERS`: the message says to
    give `alternative` instead.
    """
    if format_of(path):
        return {"train": _load_table(path, columns, streaming, names, references)}
    if path.exists():
        raise ValueError(f"{path}: expected a {', '.join(READERS)} file, or {alternative}")
    if names or references:
        raise ValueError(f"{path}: no such file; columns and several target columns are for files")
    return load_hub(path.as_posix(), columns, configuration, streaming, num_proc)


def _load_table(
    path: Path, columns: Columns, streaming: bool, names: tuple[str, ...], references: tuple[str, ...]
) -> Dataset | IterableDataset:
    require_file(path)
    path = as_regular_file(path)
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if format_of(path) == ".po":
        rows, left_out = read_catalogue(path)
        found = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        logger.info("%s: %s; left out %s", path, f"{len(rows):,} translations", found or "none")
    features = text_features([*columns, "references"] if references else columns)
    arguments = {"columns": dict(columns), "names": names, "references": references}
    return build_dataset(generate_texts, features, streaming, path=path, **arguments)


def generate_texts(path: Path, columns: Columns, names: tuple[str, ...], references: tuple[str, ...]) -> Iterator[Row]:
    """Yield the texts of `columns`, stripped, of each row of a file; what is missing or null is empty.

    A column that no row has is a ValueError, and so is the first cell that holds anything but text. A row that lacks
    one of the `references`, the columns whose texts become one list, counts as one with an empty target.
    """
    wanted = tuple(dict.fromkeys([*columns.values(), *references]))
    unseen, known = set(wanted), dict[str, Any]()
    for place, row in read_rows(path, wanted, names):
        try:
            texts = {column: str.strip(row[column]) for column in wanted}  # nearly all rows have text in each column
            unseen.clear()
        except (KeyError, TypeError):
            texts = {column: text_of(row, column, path, place, unseen) for column in wanted}
        if unseen:
            known |= flatten(row) if len(known) < BATCH else {}
            if format_of(path) in (".csv", ".tsv", ".parquet"):
                break  # each row has the same columns
        found: Row = {name: texts[column] for name, column in columns.items()}
        if references:
            found["references"] = [texts[column] for column in references]
            found["target"] = found["target"] if all(found["references"]) else ""
        yield found
    if unseen and known:
        column = min(unseen, key=wanted.index)
        raise ValueError(f"{path}: no column {column!r}; its columns are {', '.join(known)}")


def load_file(path: Path, names: tuple[str, ...] = ()) -> Dataset:
    """Return all rows of a file with columns, or the paragraphs of a `.txt` file.

    CSV and TSV hold text. A column of theirs is of numbers if each of its cells is empty or a number as Python writes
    it, `7` or `-0.5`; where one is `0111` or `1.10`, all stay text. In other formats, values have the types that they
    were written with. A file that does not exist is a FileNotFoundError; one that is empty or cannot be read, or a
    column whose values have different types, is a ValueError.
    """
    suffix = format_of(path)
    if suffix is None and ".txt" not in path.suffixes:
        raise ValueError(f"{path}: expected a {', '.join([*READERS, '.txt'])} file")
    require_file(path)
    path = as_regular_file(path)
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if suffix is None:
        return build_dataset(generate_documents, text_features(["text"]), path=path)
    if suffix in (".csv", ".tsv"):
        features = _types_of_text(path, names)
        return build_dataset(generate_cells, features, path=path, names=names, types=_casts(features))
    if suffix == ".parquet":
        with open_parquet(path) as file:
            features = Features.from_arrow_schema(pa.schema(map(_as_plain_text, file.schema_arrow)))
    else:
        features = _types_of_values(path)
    return build_dataset(generate_cells, features, path=path, names=names, types=())


def generate_cells(path: Path, names: tuple[str, ...], types: tuple[tuple[str, type], ...]) -> Iterator[Row]:
    """Yield the rows of a file; columns that have one of the `types` become numbers."""
    for _, row in read_rows(path, names=names):
        for column, kind in types:
            row[column] = kind(row[column]) if row[column] else None
        yield row


def _types_of_text(path: Path, names: tuple[str, ...]) -> Features:
    types: dict[str, str] = {}
    for _, row in read_rows(path, names=names):
        types = types or dict.fromkeys(row, "null")
        for column, kind in types.items():
            text = row[column]
            if kind == "string" or not text:
                continue
            match = NUMBER.fullmatch(text) if len(text) < 16 and text != "-0" else None
            types[column] = "string" if not match else "float64" if match[2] or kind == "float64" else "int64"
    return Features.from_arrow_schema(
        pa.schema({name: pa.type_for_alias("string" if kind == "null" else kind) for name, kind in types.items()})
    )


def _casts(features: Features) -> tuple[tuple[str, type], ...]:
    numbers = {"int64": int, "float64": float}
    return tuple((name, numbers[kind.dtype]) for name, kind in features.items() if kind.dtype in numbers)


def _as_plain_text(field: pa.Field) -> pa.Field:
    value = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return field.with_type(pa.string()) if str(value) in ("string", "large_string", "string_view") else field


def _types_of_values(path: Path) -> Features:
    """Return the types of the columns of a file, each of which fits all of its values."""
    schema, rows = pa.schema([]), read_rows(path)
    while batch := list(islice(rows, BATCH)):
        for column in dict.fromkeys(name for _, row in batch for name in row):
            schema = _widen(schema, column, batch, path)
    return Features.from_arrow_schema(schema)


def _widen(schema: pa.Schema, column: str, batch: list[Placed], path: Path) -> pa.Schema:
    def widen(part: list[Placed]) -> pa.Schema:
        found = pa.schema({column: pa.array([row.get(column) for _, row in part]).type})
        return pa.unify_schemas([schema, found], promote_options="permissive")

    try:
        return widen(batch)
    except (pa.ArrowException, OverflowError):
        fits, fails = 0, len(batch)  # the first row that does not fit is the last of the fewest that do not
        while fits + 1 < fails:
            middle = (fits + fails) // 2
            try:
                widen(batch[:middle])
                fits = middle
            except (pa.ArrowException, OverflowError):
                fails = middle
        place, row = batch[fails - 1]
        value = row.get(column)
        kinds = f"{type(value).__name__} ({value!r}), other rows another type"
        raise unreadable(path, f"{place}: column {column!r} holds {kinds}: write them alike") from None
