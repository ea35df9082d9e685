"""Rows with labels, for fine-tuning."""

import glob
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from hf_vanilla.data.built_in import (
    BIBLE,
    BROWN,
    GENRES,
    REVIEWS,
    TAGS,
    VERSES,
    _load_genres,
    _load_reviews,
    _load_tags,
)
from hf_vanilla.data.corpora import load_corpus, load_texts
from hf_vanilla.data.files import FORMATS, SPLITS, csv_format

HELD_OUT_SHARE, HELD_OUT_SEED = 0.1, 42


class Drawn(str):
    """The name of a split that was drawn from the training split, with the place of each row there."""

    places: np.ndarray


def load_rows(
    name: str | None = None, configuration: str | None = None, files: Mapping[str, str | None] | None = None
) -> DatasetDict:
    """The rows to learn from, in the splits `train`, `validation` and, where there is one, `test`.

    Args:
        name: one of
            - `"movie_reviews"`, built in: `text`, `score` (float, -4 to 4, the mean of 20 people), `label` ("negative"
              or "positive", its sign); every tenth sentence is for validation, another for test;
            - `"brown_tags"`: `tokens` and `tags`, the 92 parts of speech of the Brown corpus without their markers of
              titles, headlines, foreign and merged words; `"brown_genres"`: `text`, passages of about 100 words, and
              `label`, 15 genres. Both are split by sample;
            - `"brown"`, `"bible"`: `text`, see [`load_texts`]; `"verses"`: `source`, `target`, see [`load_corpus`];
            - the id of a data set on the Hub.
        configuration: of a Hub data set.
        files: in place of `name`, a `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt` file for each split; of a
            `.txt` file, paragraphs are the rows, in the column `text`.

    Without a validation split, a tenth of the training rows, drawn at random and always the same, becomes one.

    Raises:
        FileNotFoundError: a file, or the package of a built-in corpus, is missing.
        ValueError: there is neither a name nor a training file, or both; a file cannot be read; there are no rows.
    """
    given = {split: file for split, file in (files or {}).items() if file}
    if unknown := given.keys() - set(SPLITS):
        raise ValueError(f"files: there are no splits but {', '.join(SPLITS)}, got {', '.join(sorted(unknown))}")
    if (name is None and "train" not in given) or (name is not None and given):
        raise ValueError("give either a data set (dataset_name) or files (train_file at least), not both")
    if name in BUILT_IN and configuration is not None:
        raise ValueError(f"{name} is built in and has no configuration, got dataset_config_name {configuration!r}")
    if name is None:
        splits = {split: _read_file(Path(file)) for split, file in given.items()}
        name = given["train"]
    elif name in BUILT_IN:
        splits = BUILT_IN[name]()
    else:
        loaded = load_dataset(name, configuration)
        splits = {split: loaded[split] for split in SPLITS if split in loaded}
    if "train" not in splits:
        raise ValueError(f"{name}: there is no split called train")
    if "validation" not in splits and len(splits["train"]) > 1:
        splits |= _hold_out(splits.pop("train"))
    for split in SPLITS[:2]:
        if split not in splits or not len(splits[split]):
            alone = ": one training row cannot be shared out" if "train" in splits and split == "validation" else ""
            raise ValueError(f"{name}: no rows for the {split} split{alone}")
    return DatasetDict({split: splits[split] for split in sorted(splits, key=SPLITS.index)})


def _hold_out(train: Dataset) -> dict[str, Dataset]:
    count = max(1, int(len(train) * HELD_OUT_SHARE))
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(train))
    parts: dict[Drawn, Any] = {Drawn("train"): order[count:], Drawn("validation"): order[:count]}
    for split, places in parts.items():
        split.places = places
    return {split: train.select(places) for split, places in parts.items()}


def _read_file(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    builder = "text" if suffix == ".txt" else FORMATS.get(suffix)
    if builder is None:
        raise ValueError(f"{path}: expected a {', '.join([*FORMATS, '.txt'])} file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    options: dict[str, Any] = {"sample_by": "paragraph", "encoding": "utf-8-sig"} if builder == "text" else {}
    if builder == "csv":
        options, _ = csv_format(path, suffix)
    try:
        return load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as {suffix}: {error.__cause__ or error}") from error


BUILT_IN: dict[str, Callable[[], dict[str, Dataset]]] = {
    REVIEWS: _load_reviews,
    TAGS: _load_tags,
    GENRES: _load_genres,
    BROWN: lambda: dict(load_texts(BROWN)),
    BIBLE: lambda: dict(load_texts(BIBLE)),
    VERSES: lambda: dict(load_corpus(VERSES)),
}

# Checks


def cell(split: str, row: int, column: str) -> str:
    """What an error calls a cell."""
    if isinstance(split, Drawn):
        row, split = int(split.places[row]), "train"
    return f'{split}[{row}]["{column}"]'


def require_column(splits: DatasetDict, column: str, argument: str) -> None:
    """Raises `ValueError` where a split has no such column; `argument` is what names it."""
    for split, rows in splits.items():
        if column not in rows.column_names:
            found = ", ".join(rows.column_names)
            raise ValueError(f"the {split} split has no column {column!r}, its columns are {found}: give --{argument}")
