"""Reading corpora from files and from the Hub."""

import csv
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

Row = dict[str, Any]
Columns = Mapping[str, str]  # from our names to those of the corpus
Generator = Callable[..., Iterator[Row]]
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
CODE = Path(__file__).read_bytes()  # what `datasets` has cached of another version of it is not used


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, without their ends; only a line feed ends a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not UTF-8; file and line are named.
    """
    _require_file(path)
    with path.open("rb") as file:
        yield from decode_lines(file, str(path))


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """`read_lines` for what is open already; `name` is for the error."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1})") from None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _require_columns(available: Iterable[str], columns: Columns, name: str) -> None:
    for column in columns.values():
        if column not in available:
            raise ValueError(f"{name}: no column {column!r}; its columns are {', '.join(available)}")


def _features(columns: Iterable[str]) -> Features:
    text = Value("string")
    return Features({column: List(text) if column == "references" else text for column in columns})


def generate(
    generator: Generator, columns: Iterable[str] | Features, streaming: bool = False, **arguments: Any
) -> Any:
    """The rows of a generator, whose own error is raised where it fails; its arguments that are paths it reads.

    `columns` are names of columns of text, or the types of all.
    """
    features = columns if isinstance(columns, Features) else _features(columns)
    files = [value for value in arguments.values() if isinstance(value, Path)]
    for file in files:
        _require_file(file)
    if next(generator(**arguments), None) is None:
        raise ValueError(f"{files[0]}: the corpus is empty")
    if streaming:
        return IterableDataset.from_generator(generator, features=features, gen_kwargs=arguments)
    # Of itself `datasets` would not notice that a file has changed.
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    settings = [value for value in arguments.values() if value not in files]
    fingerprint = Hasher.hash((generator, state, settings, CODE))
    try:
        return Dataset.from_generator(generator, features=features, gen_kwargs=arguments, fingerprint=fingerprint)
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def _read_text_pair(source_path: Path, target_path: Path, streaming: bool) -> Any:
    sources, targets = _count_lines(source_path), _count_lines(target_path)
    if sources != targets:
        raise ValueError(
            f"{source_path} has {sources} lines, {target_path} has {targets}: "
            "expected line n of one to translate line n of the other"
        )
    columns = ("source", "target")
    return generate(_generate_pairs, columns, streaming, source_path=source_path, target_path=target_path)


def _count_lines(path: Path) -> int:
    _require_file(path)
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _generate_pairs(source_path: Path, target_path: Path) -> Iterator[Row]:
    for source, target in zip(read_lines(source_path), read_lines(target_path), strict=True):
        yield {"source": source.strip(), "target": target.strip()}


def _generate_documents(path: Path) -> Iterator[Row]:
    for has_text, lines in groupby(read_lines(path), key=lambda line: bool(line.strip())):
        if has_text:
            yield {"text": "\n".join(lines).strip()}


def _load(
    path: Path, columns: Columns, configuration: str | None, streaming: bool, num_proc: int | None, alternative: str
) -> dict[str, Any]:
    """The splits of a Hub data set, or of a file that `datasets` has a builder for."""
    select = _select_columns_of_stream if streaming else _select_columns
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        if path.exists():
            raise ValueError(f"{path}: expected a {', '.join(FORMATS)} file, or {alternative}")
        name = path.as_posix()
        try:
            loaded = load_dataset(name, configuration, streaming=streaming, num_proc=None if streaming else num_proc)
        except OSError as error:
            raise FileNotFoundError(
                f"{name}: no built-in corpus, no file, and no data set on the Hub that can be reached: {error}"
            ) from error
        return {split: select(loaded[split], columns, name) for split in SPLITS if split in loaded}
    _require_file(path)
    if not path.stat().st_size:
        raise ValueError(f"{path}: the corpus is empty")
    if suffix != ".parquet" and not streaming:
        for _ in read_lines(path):
            pass  # for its error, which names the line
    options = _csv_options(path, suffix, columns) if FORMATS[suffix] == "csv" else {}
    try:
        pattern = glob.escape(str(path))
        loaded = load_dataset(FORMATS[suffix], data_files=pattern, split="train", streaming=streaming, **options)
        if streaming:
            next(iter(loaded), None)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix}: {error.__cause__ or error}") from error
    return {"train": select(loaded, columns, str(path))}


def _csv_options(path: Path, suffix: str, columns: Columns) -> dict[str, Any]:
    """How to read a `.csv` or `.tsv` file as text: of itself pandas guesses types and takes "NA" for no value."""
    options, header = csv_format(path, suffix)
    _require_columns(header, columns, str(path))
    return {**options, "features": _features(columns.values())}


def csv_format(path: Path, suffix: str) -> tuple[dict[str, Any], list[str]]:
    """How to read a `.csv` or `.tsv` file, and its header.

    Raises:
        ValueError: the first row has more fields than the header.
    """
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    dialect = tabs if suffix == ".tsv" else {}
    rows = filter(None, csv.reader((f"{line}\n" for line in read_lines(path)), **dialect))  # blank lines are none
    header: list[str] = next(rows, [])
    first: list[str] = []
    with suppress(csv.Error):  # a document may be longer than `csv` reads
        first = next(rows, [])
    if len(first) > len(header):  # pandas would take the first field for a name of the row
        raise ValueError(f"{path}: the first row has {len(first)} fields, the header names {len(header)}")
    return {**dialect, "keep_default_na": False}, header


def _select_columns(dataset: Dataset, columns: Columns, name: str) -> Dataset:
    dataset = dataset.flatten()
    _require_columns(dataset.column_names, columns, name)
    for column in columns.values():
        if dataset.features[column].dtype not in ("string", "large_string"):
            raise ValueError(f"{name}: column {column!r} holds {dataset.features[column].dtype}, expected text")
    return dataset.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})


def _select_columns_of_stream(stream: IterableDataset, columns: Columns, name: str) -> IterableDataset:
    first: Row = next(iter(stream), {})
    flat = _flatten(first)
    if first:
        _require_columns(flat, columns, name)
    for column in columns.values():
        if not isinstance(flat.get(column), str | None):
            raise ValueError(f"{name}: column {column!r} holds {type(flat[column]).__name__}, expected text")
    return stream.map(_pick, fn_kwargs={"columns": columns}, remove_columns=list(first), features=_features(columns))


def _flatten(row: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for name, value in row.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _pick(row: Row, columns: Columns) -> Row:
    flat = _flatten(row)
    return {name: (flat[column] or "").strip() for name, column in columns.items()}
