"""Reading of text files, of tables and of data sets on the Hub, into data sets whose columns are text."""

import csv
import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

Row = dict[str, Any]
Splits = dict[str, Dataset | IterableDataset]
Columns = Mapping[str, str]  # from our names to those of the corpus
RowGenerator = Callable[..., Iterator[Row]]
TABLE_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""For each suffix of a file with columns, the builder of `datasets` that reads it."""
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{0,14}[1-9]|\.0)?")  # as JSON and Python write it
# The source code of this folder. It is part of every fingerprint, for `datasets` reuses a cached result of the same
# fingerprint, and would otherwise go on to use what an older version of this code has made.
CODE = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their line endings. Only a line feed ends a line.

    A file that is not there is a FileNotFoundError, a line that is not UTF-8 a ValueError that names both.
    """
    require_file(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                reason = f"{error.reason} at byte {error.start + 1}"
                raise ValueError(f"{path}, line {number}: not UTF-8 ({reason})") from None


def require_file(path: Path) -> None:
    """Raise FileNotFoundError if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _require_text(types: Mapping[str, str], columns: Columns, name: str) -> None:
    """Raise a ValueError if a corpus, which has columns of these types, lacks one of ours, or it holds no text."""
    for column in columns.values():
        if column not in types:
            raise ValueError(f"{name}: no column {column!r}; its columns are {', '.join(types)}")
        if types[column] not in ("string", "large_string", "str", "NoneType"):
            raise ValueError(f"{name}: column {column!r} holds {types[column]}, expected text")


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
    # By default the fingerprint covers the name of a file, but not its content.
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    settings = [value for value in arguments.values() if value not in files]
    fingerprint = Hasher.hash((generator, state, settings, CODE))
    try:
        return Dataset.from_generator(generator, features=features, gen_kwargs=arguments, fingerprint=fingerprint)
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def read_text_pair(source_path: Path, target_path: Path, streaming: bool) -> Dataset | IterableDataset:
    """Return the columns `source` and `target`: row n holds line n of each of two text files.

    Errors are those of `read_lines`, and a ValueError if the files have different numbers of lines.
    """
    sizes = []
    for path in (source_path, target_path):
        require_file(path)
        with path.open("rb") as file:
            sizes.append(sum(1 for _ in file))
    if sizes[0] != sizes[1]:
        counts = f"{source_path} has {sizes[0]} lines, {target_path} has {sizes[1]}"
        raise ValueError(f"{counts}: expected line n of one to translate line n of the other")
    features = text_features(["source", "target"])
    return build_dataset(_generate_pairs, features, streaming, source_path=source_path, target_path=target_path)


def _generate_pairs(source_path: Path, target_path: Path) -> Iterator[Row]:
    for source, target in zip(read_lines(source_path), read_lines(target_path), strict=True):
        yield {"source": source.strip(), "target": target.strip()}


def generate_documents(path: Path) -> Iterator[Row]:
    """Yield the documents of a text file, which blank lines separate, as rows with the column `text`."""
    for has_text, lines in groupby(read_lines(path), key=lambda line: bool(line.strip())):
        if has_text:
            yield {"text": "\n".join(lines).strip()}


def load_hub_or_table(
    path: Path, columns: Columns, configuration: str | None, streaming: bool, num_proc: int | None, alternative: str
) -> Splits:
    """Return the splits of the Hub data set `path`, or the split `train` of the file `path`, with `columns` alone.

    Errors are those of `load_file`, FileNotFoundError if there is no such data set either, and ValueError if a column
    holds no text, or the suffix of a file is not in `TABLE_BUILDERS`: the message says to give `alternative` instead.
    """
    select = _select_columns_of_stream if streaming else _select_columns
    if path.suffix.lower() in TABLE_BUILDERS:
        return {"train": select(load_file(path, columns, streaming), columns, str(path))}
    if path.exists():
        raise ValueError(f"{path}: expected a {', '.join(TABLE_BUILDERS)} file, or {alternative}")
    name = path.as_posix()
    try:
        loaded = load_dataset(name, configuration, streaming=streaming, num_proc=None if streaming else num_proc)
    except OSError as error:
        nowhere = "no built-in corpus, no file, and no data set on the Hub that can be reached"
        raise FileNotFoundError(f"{name}: {nowhere}: {error}") from error
    return {split: select(loaded[split], columns, name) for split in SPLITS if split in loaded}


def load_file(path: Path, columns: Columns | None = None, streaming: bool = False) -> Dataset | IterableDataset:
    """Return the rows of a file with columns, or the paragraphs of a `.txt` file.

    `columns`, if given, are those to read as text. Else CSV and TSV hold text, but for columns of numbers alone, all
    written as Python writes them: `7` and `-0.5`, but not `0111` or `1.10`. A file that does not exist is a
    FileNotFoundError; one that is empty, cannot be read, or lacks a column is a ValueError.
    """
    builders = {**TABLE_BUILDERS, ".txt": "text"}
    if (builder := builders.get(path.suffix.lower())) is None:
        raise ValueError(f"{path}: expected a {', '.join(builders)} file")
    require_file(path)
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if builder != "parquet" and not streaming:
        for _ in read_lines(path):
            pass  # its error names the line that is not UTF-8; that of `datasets` does not
    options: dict[str, Any] = {"sample_by": "paragraph", "encoding": "utf-8-sig"} if builder == "text" else {}
    if builder == "csv":
        options, header = _csv_format(path)
        if columns:
            _require_text(dict.fromkeys(header, "string"), columns, str(path))
            options["features"] = text_features(columns.values())  # pandas would guess other types than text
        else:
            options["features"] = _types_of_cells(path, options, header)
    try:
        pattern = glob.escape(str(path))
        table = load_dataset(builder, data_files=pattern, split="train", streaming=streaming, **options)
        if streaming:
            next(iter(table), None)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix}: {error.__cause__ or error}") from error
    return table


def _csv_format(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return how `load_dataset` must read a `.csv` or `.tsv` file, and its header; a longer first row is an error."""
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    dialect = tabs if path.suffix.lower() == ".tsv" else {}
    rows = filter(None, csv.reader((f"{line}\n" for line in read_lines(path)), **dialect))  # skips blank lines
    header, first = next(rows, []), list[str]()
    with suppress(csv.Error):  # a document may be longer than the longest field that `csv` reads
        first = next(rows, [])
    if len(first) > len(header):  # pandas would take the first field for the name of the row
        raise ValueError(f"{path}: the first row has {len(first)} fields, the header names {len(header)}")
    return {**dialect, "keep_default_na": False}, header  # "NA" is text, not a missing value


def _types_of_cells(path: Path, options: Mapping[str, Any], header: list[str]) -> Features:
    dialect = {name: options[name] for name in ("delimiter", "quoting") if name in options}
    kinds = dict.fromkeys(header, "int64")
    with suppress(csv.Error):
        rows = csv.reader((f"{line}\n" for line in read_lines(path)), **dialect)
        for row in islice(rows, 1, None):
            for column, text in zip(header, row, strict=False):
                number = NUMBER.fullmatch(text)
                if not number or text == "-0":
                    kinds[column] = "string"
                elif number[2] and kinds[column] == "int64":
                    kinds[column] = "float64"
    return Features({column: Value(kind) for column, kind in kinds.items()})


def _select_columns(dataset: Dataset, columns: Columns, name: str) -> Dataset:
    dataset = dataset.flatten()
    types = {column: getattr(kind, "dtype", type(kind).__name__) for column, kind in dataset.features.items()}
    _require_text(types, columns, name)
    return dataset.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})


def _select_columns_of_stream(stream: IterableDataset, columns: Columns, name: str) -> IterableDataset:
    first: Row = next(iter(stream), {})  # shows whether the columns exist and hold text
    if first:
        _require_text({column: type(value).__name__ for column, value in _flatten(first).items()}, columns, name)
    options = {"remove_columns": list(first), "features": text_features(columns)}
    return stream.map(_pick, fn_kwargs={"columns": columns}, **options)


def _flatten(row: Row, prefix: str = "") -> Row:
    """Return a row without nesting: the key of `row["translation"]["en"]` becomes `translation.en`."""
    flat: Row = {}
    for name, value in row.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _pick(row: Row, columns: Columns) -> Row:
    flat = _flatten(row)
    return {name: (flat[column] or "").strip() for name, column in columns.items()}
