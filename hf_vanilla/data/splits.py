"""Training, validation and test rows that share no text."""

import logging
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDatasetDict
from datasets.fingerprint import Hasher

from hf_vanilla.data.files import CODE, HELD_OUT, SPLITS, Row, _features

logger = logging.getLogger(__name__)
STREAMED_VALIDATION = 1_000  # rows


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
