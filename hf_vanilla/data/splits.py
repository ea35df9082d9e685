"""Training, validation and test rows that share no text."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDatasetDict
from datasets.fingerprint import Hasher

from hf_vanilla.data.files import CODE, HELD_OUT, SPLITS, Columns, Row, Splits, text_features

logger = logging.getLogger(__name__)
STREAMED_VALIDATION = 1_000  # rows
EVERY = 40  # one of so many rows is held out for each held-out split that a corpus lacks


def split_stream(splits: Splits, name: str, columns: Columns) -> IterableDatasetDict:
    """Return the splits `train` and `validation` of a stream without rows that have an empty column.

    If there is no validation split, the first rows become it, and training rows that share a text with them are
    dropped. An empty split is a ValueError, which calls the corpus `name`.
    """
    if "train" not in splits:
        raise ValueError(f"{name}: the corpus is empty; expected a train split")
    streams = {split: splits[split].filter(_is_full) for split in ("train", "validation") if split in splits}
    if "validation" not in streams:
        rows = list(islice(streams["train"], STREAMED_VALIDATION + 1))
        held_out = rows[: STREAMED_VALIDATION if len(rows) > STREAMED_VALIDATION else max(1, len(rows) // EVERY)]
        keys = frozenset(_digest(_key(text)) for row in held_out for text in row.values())
        # Not `take` and `skip`: of a stream of several shards, each worker counts its own rows alone, so that
        # held-out rows would be trained on.
        streams["train"] = streams["train"].filter(_is_disjoint, fn_kwargs={"keys": keys})
        streams["validation"] = Dataset.from_list(held_out, features=text_features(columns)).to_iterable_dataset()
    for split in reversed(streams):
        if next(iter(streams[split]), None) is None:
            raise ValueError(f"{name}: the corpus is empty once cleaned: nothing is left for its {split} split")
    return IterableDatasetDict(streams)


def _is_full(row: Row) -> bool:
    return all(row.values())


def _is_disjoint(row: Row, keys: frozenset[int]) -> bool:
    return keys.isdisjoint(_digest(_key(text)) for text in row.values())


@dataclass
class _Selection:
    """The rows of a data set that make a split."""

    dataset: Dataset  # has other rows, too
    hashes: dict[str, np.ndarray]  # for "row" and each column, of each row of `dataset`, int64
    rows: np.ndarray  # the numbers of the rows of the split, ascending
    dropped: dict[str, int] = field(default_factory=dict)  # for each reason, how many rows


def split_corpus(splits: Splits, name: str, columns: Columns, num_proc: int | None) -> DatasetDict:
    """Return the splits `train`, `validation` and `test` without empty and repeated rows, and without texts in common.

    The splits that are missing are held out of the training split. The test split stays whole; validation loses the
    rows whose text occurs in it, and training those whose text occurs in either. Rows are compared by 64-bit hashes:
    that any two of 5 million texts have the same one has a probability of one in a million.

    A split that is or becomes empty is a ValueError, and so are too few rows to hold out.
    """
    names = list(columns)
    unit, empty = ("document", "that are empty") if names == ["text"] else ("pair", "with an empty side")
    if "train" not in splits or not all(map(len, splits.values())):
        raise ValueError(f"{name}: the corpus is empty; expected at least one {unit} in each split")
    selections = {}
    for split, dataset in splits.items():
        selections[split] = _select_clean(dataset, names, num_proc, empty, f"Hashing the {split} split of {name}")
    missing = [split for split in HELD_OUT if split not in splits]
    count = len(selections["train"].rows)
    if 0 < count <= len(missing):
        hint = " (in a .txt file, blank lines separate them)" if unit == "document" else ""
        few = f"too few {unit}s to hold out {' and '.join(missing)}: {count}, expected at least {len(missing) + 1}"
        raise ValueError(f"{name}: {few}{hint}")
    for split in missing:
        selections[split] = _hold_out(selections["train"], names[0], len(missing), 13 if split == "validation" else 26)

    compared = names[:1] if missing else names
    seen = np.empty(0, np.int64)
    separated = {}
    for split in reversed(SPLITS):
        selection = selections[split]
        keys = [selection.hashes[column][selection.rows] for column in compared]
        leaks = np.any([np.isin(side, seen) for side in keys], axis=0)
        seen = np.concatenate([seen, *keys])
        if leaks.all():
            raise ValueError(f"{name}: the corpus is empty once cleaned: no {unit} is left for its {split} split")
        kept = selection.rows[~leaks]
        separated[split] = _write_rows(selection.dataset, kept, names, f"Writing the {split} split of {name}")
        dropped = selection.dropped | {"that occur in a held-out split": int(leaks.sum())}
        losses = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count) or "none"
        logger.info("%s, %s: %s; dropped %s", name, split, f"{len(kept):,} {unit}s", losses)
    return DatasetDict({split: separated[split] for split in SPLITS})


def _select_clean(dataset: Dataset, columns: list[str], num_proc: int | None, empty: str, desc: str) -> _Selection:
    """Return the rows whose columns all have text, each distinct row once; `empty` names the others in the log."""
    hashed = _map(_hash, dataset, {"columns": columns}, desc, remove_columns=dataset.column_names, num_proc=num_proc)
    hashes = {column: hashed.data.column(column).to_numpy() for column in hashed.column_names}
    full = np.flatnonzero(hashes["row"])
    _, first = np.unique(hashes["row"][full], return_index=True)
    dropped = {empty: len(dataset) - len(full), "repeated": len(full) - len(first)}
    return _Selection(dataset, hashes, full[np.sort(first)], dropped)


def _map(function: Callable, dataset: Dataset, arguments: dict[str, Any], desc: str, **options: Any) -> Dataset:
    """Map batches of rows; the result comes from the cache if the same code has made it of the same arguments."""
    fingerprint = Hasher.hash((dataset._fingerprint, function.__name__, arguments, CODE))
    options |= {"fn_kwargs": arguments, "new_fingerprint": fingerprint, "desc": desc}
    return dataset.map(function, batched=True, **options)


def _hold_out(train: _Selection, column: str, missing: int, offset: int) -> _Selection:
    """Move one of `EVERY` rows from the training rows to a selection of their own, and return that.

    Only rows whose text in `column` occurs once are taken: in a dialogue, "Yes." must be learned from, and asking for
    it would show nothing. If there are no more than `missing` of these, all rows may be taken.
    """
    _, inverse, counts = np.unique(train.hashes[column][train.rows], return_inverse=True, return_counts=True)
    unique = np.flatnonzero(counts[inverse] == 1)
    if len(unique) <= missing:
        unique = np.arange(len(train.rows))
    taken = unique[offset % min(EVERY, len(unique) or 1) :: EVERY]
    held_out = _Selection(train.dataset, train.hashes, train.rows[taken])
    train.rows = np.delete(train.rows, taken)
    return held_out


def _hash(rows: Mapping[str, list[str | None]], columns: Iterable[str]) -> dict[str, list[int]]:
    """Return a hash of each row, 0 if it has an empty column, and for each column the hash of its text's key."""
    sides = {column: [(text or "").strip() for text in rows[column]] for column in columns}
    whole = [_digest("\0".join(row)) if all(row) else 0 for row in zip(*sides.values(), strict=True)]
    return {"row": whole, **{column: [_digest(_key(text)) for text in side] for column, side in sides.items()}}


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _key(sentence: str) -> str:
    """Return what makes two sentences count as the same: their letters and digits, whatever their case."""
    return re.sub(r"[\W_]+", "", sentence.casefold()) or sentence


def _write_rows(dataset: Dataset, rows: np.ndarray, columns: list[str], desc: str) -> Dataset:
    """Return some rows in their order, as a new table; `select` would read each of them through a list of indices."""
    kept = np.zeros(len(dataset), bool)
    kept[rows] = True
    arguments, features = {"kept": kept, "columns": columns}, text_features(dataset.column_names)
    arrow = dataset.with_format("arrow")
    return _map(_filter_and_strip, arrow, arguments, desc, with_indices=True, features=features).with_format(None)


def _filter_and_strip(table: pa.Table, indices: list[int], kept: np.ndarray, columns: list[str]) -> pa.Table:
    table = table.filter(kept[indices])
    for column in columns:
        position = table.column_names.index(column)
        table = table.set_column(position, column, pc.utf8_trim_whitespace(table[column]))
    return table
