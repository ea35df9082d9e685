"""Rows with labels, for fine-tuning."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from hf_vanilla.data.built_in import BIBLE, BROWN, BUILT_IN, read_built_in
from hf_vanilla.data.corpora import load_corpus, load_texts
from hf_vanilla.data.files import SPLITS
from hf_vanilla.data.pairs import PAIRS
from hf_vanilla.data.paths import local_path, split_names
from hf_vanilla.data.splits import digest, key_of
from hf_vanilla.data.tables import load_file

HELD_OUT_SHARE, HELD_OUT_SEED = 0.1, 42
TEXT_COLUMNS = ("context", "source", "text", "tokens")
"""Where the fine-tuning scripts look for a text, unless they are told another column."""
LOADERS: dict[str, Callable[..., Mapping]] = dict.fromkeys(PAIRS, load_corpus) | dict.fromkeys(
    (BIBLE, BROWN), load_texts
)
"""The function that cleans a built-in corpus of plain text; those with labels are read as they are."""


class Drawn(str):
    """The name of a split that was drawn from the training split, with the place of each row there.

    It is a key like every other name of a split, so that an error can name a row of the file wherever the key goes.
    """

    places: np.ndarray


def load_rows(
    name: str | None = None,
    configuration: str | None = None,
    files: Mapping[str, str | None] | None = None,
    columns: str | Sequence[str] | None = None,
    together: str | None = None,
) -> DatasetDict:
    """Return the rows to learn from, in the splits `train`, `validation` and, where there is one, `test`.

    Without a validation split, a tenth of the training rows, drawn at random and always the same, becomes one. Rows
    with the same text stay together.

    Args:
        name: one of
            - `"movie_reviews"`, built in: `text`, `score` (float, -4 to 4, the mean of 20 people), `label` ("negative"
              or "positive", its sign); every tenth sentence is for validation, another for test;
            - `"brown_tags"`: `tokens` and `tags`, the 92 parts of speech of the Brown corpus without their markers of
              titles, headlines, foreign and merged words; `"brown_genres"`: `text`, passages of about 100 words, and
              `label`, 15 genres. Both are split by sample;
            - `"brown"`, `"bible"`: `text`, see [`load_texts`]; `"verses"`, `"verses_ko"`: `source`, `target`,
              see [`load_corpus`];
            - the id of a data set on the Hub, of which `configuration` may name one.
        files: in place of `name`, a file for each split that [`load_file`] reads.
        columns: the names of the columns of `.csv` or `.tsv` files without a header.
        together: the column that holds this text, or its words; `a.b` is b of a (default: the first that there is of
            context, source, text and tokens).

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
        splits = {split: load_file(local_path(file), split_names(columns)) for split, file in given.items()}
        name = given["train"]
    elif name in BUILT_IN:
        splits = dict(LOADERS.get(name, read_built_in)(name))
    else:
        loaded = load_dataset(name, configuration)
        splits = {split: loaded[split] for split in SPLITS if split in loaded}
    if "train" not in splits:
        raise ValueError(f"{name}: there is no split called train")
    if "validation" not in splits and len(splits["train"]) > 1:
        splits |= _hold_out(splits.pop("train"), together)
    for split in SPLITS[:2]:
        if not len(splits.get(split, ())):
            alone = ": one training row cannot be shared out, nor those of one text" if split == "validation" else ""
            raise ValueError(f"{name}: no rows for the {split} split{alone}")
    return DatasetDict({split: splits[split] for split in sorted(splits, key=SPLITS.index)})


def _hold_out(train: Dataset, together: str | None) -> dict[str, Dataset]:
    flat = train.flatten()
    columns = [column for column in (together, *TEXT_COLUMNS) if column in flat.column_names]
    texts = flat[columns[0]][:] if columns else range(len(train))
    keys = [digest(key_of(" ".join(map(str, text)) if isinstance(text, list) else str(text))) for text in texts]
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    groups = np.argsort(np.argsort(first))[groups]  # numbered as they come
    counts = np.bincount(groups)
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(counts))
    size = max(counts.min(), int(len(train) * HELD_OUT_SHARE))
    order = order[np.argsort(counts[order] > size, kind="stable")]  # a frequent text must be learned from
    chosen = np.cumsum(counts[order]) <= size
    chosen[-1] = False
    rows = np.argsort(np.argsort(order)[groups], kind="stable")  # of each text in turn
    count = counts[order[chosen]].sum()
    held_out, rest = Drawn("validation"), Drawn("train")
    held_out.places, rest.places = rows[:count], rows[count:]
    return {split: train.select(split.places) for split in (rest, held_out)}


def cell(split: str, row: int, column: str) -> str:
    """Return what an error calls a cell, `train[17]["text"]`; a row that was drawn counts as it did before."""
    if isinstance(split, Drawn):
        row, split = int(split.places[row]), "train"
    return f'{split}[{row}]["{column}"]'


def require_column(splits: Mapping[str, Dataset], column: str, argument: str) -> None:
    """Raise `ValueError` if a split has no such column, which `argument` names."""
    for split, rows in splits.items():
        if column not in rows.column_names:
            found = f"its columns are {', '.join(rows.column_names)}"
            raise ValueError(f"the {split} split has no column {column!r}, {found}: give --{argument}")
