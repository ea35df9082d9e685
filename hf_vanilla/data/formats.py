"""Formats of files with columns: for each, a generator of its rows, each with the place that an error names.

Nothing is guessed from a value, text stays as it is, and no file is held in memory, but for JSON whose columns lie one
after the other, for catalogues of messages (PO), and for Parquet files that are compressed as a whole.
"""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_vanilla.data.files import (
    COMPRESSIONS,
    Placed,
    open_bytes,
    read_raw_lines,
    refuse_carriage_returns,
    unreadable,
    without_end,
)
from hf_vanilla.data.json_rows import read_json, read_json_lines
from hf_vanilla.data.memories import read_po, read_tmx

QUOTED = re.compile(r'[^"]*(?:""[^"]*)*')  # what may stand between two quotation marks


def format_of(path: Path) -> str | None:
    """Return the suffix of `path`, without that of a compression, if it is that of a file with columns."""
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    suffix = path.suffix.lower()
    return suffix if suffix in READERS else None


def read_rows(path: Path, wanted: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> Iterator[Placed]:
    """Yield the rows of a file with columns, and the place of each.

    Args:
        path: a file whose suffix is in `READERS`, or one with the suffix of a compression after that.
        wanted: the columns that are needed; by default all. Rows may have more, or lack some.
        names: those of the columns of a CSV or TSV file without a header.

    Raises:
        ValueError: the file is not what its suffix says; the message names the line.
        FileNotFoundError: there is no such file.
        ImportError: a library that reads the format is not installed.
    """
    suffix = format_of(path) or ""
    if names and suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path}: its columns have names of their own: columns are for CSV and TSV without a header")
    return READERS[suffix](path, names if suffix in (".csv", ".tsv") else wanted)


def _read_csv(path: Path, names: tuple[str, ...]) -> Iterator[Placed]:
    return _name_fields(path, _split_csv(path, enumerate(read_raw_lines(path), start=1)), names)


def _read_tsv(path: Path, names: tuple[str, ...]) -> Iterator[Placed]:
    lines = enumerate(read_raw_lines(path), start=1)
    return _name_fields(path, ((n, without_end(line).split("\t")) for n, line in lines if line.strip("\r\n")), names)


def _name_fields(path: Path, records: Iterator[tuple[int, list[str]]], names: tuple[str, ...]) -> Iterator[Placed]:
    """Yield records as rows; the first one has the names of the columns if there are no `names`."""
    header = list(names)
    if not names:
        refuse_carriage_returns(path, next(read_raw_lines(path), ""))
        _, header = next(records, (0, []))
    if doubled := {name for name in header if header.count(name) > 1}:
        raise ValueError(f"{path}: several columns are called {', '.join(map(repr, sorted(doubled)))}")
    which, where = "the first row", "columns name" if names else "the header names"
    for number, fields in records:
        if len(fields) > len(header):
            raise unreadable(path, f"line {number}: {which} has {len(fields)} fields, {where} {len(header)}")
        which = "this row"
        yield f"line {number}", dict(zip(header, fields + [""] * (len(header) - len(fields)), strict=True))


def _split_csv(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each record (RFC 4180); blank lines are passed over.

    A quotation mark in a field that does not begin with one is text. One that is never closed, or is closed before the
    field ends, is a ValueError that names the line where it opens.
    """
    for number, line in lines:
        fields, at, current = list[str](), 0, number
        if '"' not in line:
            if line.strip("\r\n"):
                yield number, without_end(line).split(",")
            continue
        try:
            yield number, next(csv.reader([without_end(line)], strict=True))
        except (
            csv.Error
        ):  # a field goes on in the next line, is longer than `csv` takes, or has a CR; or it is a fault
            pass
        else:
            continue
        while True:
            if line.startswith('"', at):
                opened, parts, at = current, list[str](), at + 1
                while True:
                    match = QUOTED.match(line, at)
                    parts.append(match[0] if match else "")
                    at += len(parts[-1]) + 1
                    if at <= len(line):
                        break
                    current, line = next(lines, (0, ""))
                    if not line:
                        raise ValueError(f"{path}, line {opened}: the quotation mark that opens here is never closed")
                    at = 0
                fields.append("".join(parts).replace('""', '"'))
                end = len(without_end(line))
                if at < end and line[at] != ",":
                    problem = f"is followed by {line[at:end][:20]!r} where it closes, in line {current}"
                    raise ValueError(f"{path}, line {opened}: the quotation mark that opens here {problem}")
            else:
                end = len(without_end(line))
                stop = line.find(",", at, end)
                fields.append(line[at : end if stop < 0 else stop])
                at = end if stop < 0 else stop
            if at >= end:
                break
            at += 1
        yield number, fields


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> Iterator[Placed]:
    """Yield the rows of a Parquet file: text of every Arrow type for it, in the columns `wanted` alone."""
    with open_parquet(path) as file:
        present = file.schema_arrow.names
        columns = [column if column in present else column.split(".")[0] for column in wanted]
        if not set(columns) <= set(present):
            columns = []  # all, so that the error for the missing one can name them
        number = 0
        try:
            for batch in file.iter_batches(columns=columns or None):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, f"row {number + 1}: {error}") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; a ValueError says why it cannot be."""
    try:
        with path.open("rb") as plain, open_bytes(path) as file:
            if plain.read(4) == b"PAR1":
                return pq.ParquetFile(str(path), memory_map=True)
            return pq.ParquetFile(pa.BufferReader(file.read()))  # it is read from its end, where no stream can go
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Placed]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".tmx": read_tmx,
    ".po": read_po,
}
"""For each suffix of a file with columns what reads it."""
