"""Training, validation and test rows that share no text."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from datasets import Dataset, DatasetDict, IterableDatasetDict
from datasets.fingerprint import Hasher

from hf_vanilla.data.files import CODE, HELD_OUT, SPLITS, Columns, Row, Splits, text_features

logger = logging.getLogger(__name__)
STREAMED_VALIDATION = 1_000  # rows
EVERY = 40  # one of so many rows is held out for each held-out split that a corpus lacks
PLACES = {"validation": 1 / 3, "test": 2 / 3}  # where among so many rows
NO_KEY = regex.compile(r"[^\p{L}\p{M}\p{N}\p{Sm}\p{Sc}\p{So}]+|\p{Default_Ignorable_Code_Point}+")
"""What does not make two sentences different: punctuation, white space, and characters that nobody sees."""


NOTHING = np.empty(0, np.int64)  # no hashes


class CleanCorpus(DatasetDict):
    """Splits without empty and repeated rows, and the fingerprint of each: equal for the same rows in any order."""

    fingerprints: dict[str, str]


class CleanStream(IterableDatasetDict):
    """The splits of a stream, and the fingerprint of the first rows of its validation split."""

    fingerprints: dict[str, str]


def split_stream(splits: Splits, name: str, columns: Columns, exact: bool = False) -> CleanStream:
    """Return the splits `train` and `validation` of a stream without rows that have an empty column.

    If there is no validation split, the first rows become it, and training rows that share a text with them are
    dropped, or if `exact` those whose source is the same. An empty split is a ValueError, which calls the corpus
    `name`.
    """
    if "train" not in splits:
        raise ValueError(f"{name}: the corpus is empty; expected a train split")
    streams = {split: splits[split].filter(_is_full) for split in ("train", "validation") if split in splits}
    if "validation" not in streams:
        rows = list(islice(streams["train"], STREAMED_VALIDATION + 1))
        held_out = rows[: STREAMED_VALIDATION if len(rows) > STREAMED_VALIDATION else max(1, len(rows) // EVERY)]
        compared = ("source",) if exact else tuple(columns)
        keys = frozenset(key for row in held_out for key in _keys_of(row, compared, exact))
        # Not `take` and `skip`: of a stream of several shards, each worker counts its own rows alone, so that
        # held-out rows would be trained on.
        given = {"keys": keys, "compared": compared, "exact": exact}
        streams["train"] = streams["train"].filter(_is_disjoint, fn_kwargs=given)
        streams["validation"] = Dataset.from_list(held_out, features=text_features(columns)).to_iterable_dataset()
    for split in reversed(streams):
        if next(iter(streams[split]), None) is None:
            raise ValueError(f"{name}: the corpus is empty once cleaned: nothing is left for its {split} split")
    corpus = CleanStream(streams)
    rows = list(islice(streams["validation"], STREAMED_VALIDATION))
    hashes = _hash({column: [row[column] for row in rows] for column in columns}, columns)["row"]
    corpus.fingerprints = {"validation": _fingerprint(np.array(hashes, np.int64))}
    return corpus


def _is_full(row: Row) -> bool:
    return all(row.values())


def _is_disjoint(row: Row, keys: frozenset[int], compared: tuple[str, ...], exact: bool) -> bool:
    return keys.isdisjoint(_keys_of(row, compared, exact))


def _keys_of(row: Row, compared: tuple[str, ...], exact: bool) -> Iterator[int]:
    return (digest(row[column] if exact else key_of(row[column])) for column in compared)


@dataclass
class _Selection:
    """The rows of a data set that make a split."""

    dataset: Dataset  # has other rows, too
    hashes: dict[str, np.ndarray]  # for "row" and each column, of each row of `dataset`, int64
    rows: np.ndarray  # the numbers of the rows of the split, ascending
    dropped: dict[str, int] = field(default_factory=dict)  # for each reason, how many rows
    first_empty: str = ""  # where the first row is that has an empty column, and which

    def keys(self, column: str) -> np.ndarray:
        """Return the hashes of what the rows of the split have in a column: (rows), int64."""
        return self.hashes[column][self.rows]


def split_corpus(
    splits: Splits, name: str, columns: Columns, num_proc: int | None, exact: bool = False
) -> CleanCorpus:
    """Return the splits `train`, `validation` and `test` without empty and repeated rows, and without texts in common.

    The splits that are missing are held out of the training split, see `_hold_out`. The test split stays whole;
    validation loses the rows whose text occurs in it, and training those whose text occurs in either. Rows are
    compared by 64-bit hashes: that any two of 5 million texts have the same one has a probability of one in a million.

    If `exact`, texts are the same if they are equal, and sources alone are compared; the log says how many sources of
    a split have several targets, all of which are kept.

    A split that is or becomes empty is a ValueError, and so are too few rows to hold out.
    """
    names = list(columns)
    unit, empty = ("document", "that are empty") if names == ["text"] else ("pair", "with an empty side")
    if "train" not in splits or not all(map(len, splits.values())):
        raise ValueError(f"{name}: the corpus is empty; expected at least one {unit} in each split")
    selections = {}
    for split, dataset in splits.items():
        desc = f"Hashing the {split} split of {name}"
        selections[split] = _select_clean(dataset, names, num_proc, empty, desc, exact)
    missing = [split for split in HELD_OUT if split not in splits]
    if missing and len(selections["train"].rows):
        hint = " (in a .txt file, blank lines separate them)" if unit == "document" else ""
        taken = [selections[split].keys(names[0]) for split in HELD_OUT if split in splits]
        try:
            selections |= _hold_out(selections["train"], names[0], missing, np.concatenate([*taken, NOTHING]))
        except ValueError as error:
            what = f"too few {unit}s to hold out {' and '.join(missing)}"
            raise ValueError(f"{name}: {what}: {error}{hint}") from None

    compared = names[:1] if missing or exact else names
    seen = NOTHING
    separated, fingerprints = {}, {}
    for split in reversed(SPLITS):
        selection = selections.get(split, selections["train"])
        keys = [selection.keys(column) for column in compared]
        leaks = np.any([np.isin(side, seen) for side in keys], axis=0)
        seen = np.concatenate([seen, *keys])
        if leaks.all():
            raise ValueError(f"{name}: the corpus is empty once cleaned: no {unit} is left for its {split} split")
        kept = selection.rows[~leaks]
        fingerprints[split] = _fingerprint(selection.hashes["row"][kept])
        separated[split] = _write_rows(selection.dataset, kept, names, f"Writing the {split} split of {name}")
        dropped = selection.dropped | {"that occur in a held-out split": int(leaks.sum())}
        losses = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count) or "none"
        logger.info("%s, %s: %s; dropped %s", name, split, f"{len(kept):,} {unit}s", losses)
        if exact and selection.first_empty:
            logger.info("%s, %s: the first of those %s is %s", name, split, empty, selection.first_empty)
        if exact:
            _log_answers(f"{name}, {split}", separated[split], selection.hashes[names[0]][kept])
    corpus = CleanCorpus({split: separated[split] for split in SPLITS})
    corpus.fingerprints = {split: fingerprints[split] for split in SPLITS}
    return corpus


def _log_answers(name: str, rows: Dataset, sources: np.ndarray) -> None:
    """Log how many sources, given the hash of that of each row, have several targets, and the first of them."""
    keys, first, counts = np.unique(sources, return_index=True, return_counts=True)
    if (several := counts > 1).any():
        place = first[several].min()
        some = rows.select(np.flatnonzero(sources == sources[place]))
        told = f"{some['source'][0]!r}: {' | '.join(some['target'])}"
        message = "%s: %s of %s sources have several answers, all of which are kept, such as %s"
        logger.info(message, name, f"{several.sum():,}", f"{len(keys):,}", told)


def _select_clean(
    dataset: Dataset, columns: list[str], num_proc: int | None, empty: str, desc: str, exact: bool
) -> _Selection:
    """Return the rows whose columns all have text, each distinct row once; `empty` names the others in the log."""
    arguments = {"columns": columns, "exact": exact}
    hashed = _map(_hash, dataset, arguments, desc, remove_columns=dataset.column_names, num_proc=num_proc)
    hashes = {column: hashed.data.column(column).to_numpy() for column in hashed.column_names}
    full = np.flatnonzero(hashes["row"])
    _, first = np.unique(hashes["row"][full], return_index=True)
    dropped = {empty: len(dataset) - len(full), "repeated": len(full) - len(first)}
    selection = _Selection(dataset, hashes, full[np.sort(first)], dropped)
    if len(full) < len(dataset):
        selection.first_empty = _place_of(dataset, int(np.flatnonzero(hashes["row"] == 0)[0]), columns)
    return selection


def _place_of(dataset: Dataset, row: int, columns: list[str]) -> str:
    """Return the number of a row, from 1, and which of its columns is empty."""
    return f"row {row + 1}, {next(column for column in columns if not (dataset[row][column] or '').strip())}"


def _map(function: Callable, dataset: Dataset, arguments: dict[str, Any], desc: str, **options: Any) -> Dataset:
    """Map batches of rows; the result comes from the cache if the same code has made it of the same arguments."""
    fingerprint = Hasher.hash((dataset._fingerprint, function.__name__, arguments, CODE))
    options |= {"fn_kwargs": arguments, "new_fingerprint": fingerprint, "desc": desc}
    return dataset.map(function, batched=True, **options)


def _hold_out(train: _Selection, column: str, missing: list[str], taken: np.ndarray) -> dict[str, _Selection]:
    """Move a 40th of the training rows, spread over the whole, to a selection for each of the `missing` splits.

    All rows with the same text in `column` go to one split; those whose text is among the keys `taken`, which other
    splits have, stay. Only texts that occur seldom are moved, those that make up the rarer half of the rows: in a
    dialogue, "Yes." must be learned from, and asking for it would show nothing.

    That there are no more different texts than splits, is a ValueError.
    """
    _, first, groups = np.unique(train.keys(column), return_index=True, return_inverse=True)
    counts = np.bincount(groups)
    free = np.flatnonzero(~np.isin(train.keys(column)[first], taken))
    if len(free) < len(missing) or len(counts) <= len(missing):
        some = min(len(free), len(counts))
        raise ValueError(f"{some}, expected at least {len(missing) + 1} that differ")
    rarest = free[np.lexsort((first[free], counts[free]))]
    rows = np.cumsum(counts[rarest])
    most = counts[rarest[np.searchsorted(rows, rows[-1] / 2)]]  # of the rows with one text
    rarest = rarest[counts[rarest] <= most]
    # Of what is rare more is held out than of the whole, so that splits have their size.
    step = min(EVERY * counts[rarest].sum() / counts[free].sum(), len(rarest))
    held_out, moved = {}, np.zeros(len(groups), bool)
    for split in missing:
        places = np.arange(PLACES[split] * step, len(rarest) - 1e-9, step).astype(int)
        own = np.isin(groups, rarest[places])
        held_out[split] = _Selection(train.dataset, train.hashes, train.rows[own])
        moved |= own
    train.rows = train.rows[~moved]
    return held_out


def _fingerprint(hashes: np.ndarray) -> str:
    """Return a digest of rows, given the hash of each, whatever their order: 32 hexadecimal digits."""
    return blake2b(np.sort(hashes).astype("<i8").tobytes(), digest_size=16).hexdigest()


def _hash(rows: Mapping[str, list[str | None]], columns: Iterable[str], exact: bool = False) -> dict[str, list[int]]:
    """Return a hash of each row, 0 if it has an empty column, and of each column's text, if `exact`, or its key."""
    sides = {column: [(text or "").strip() for text in rows[column]] for column in columns}
    whole = [digest("\0".join(row)) if all(row) else 0 for row in zip(*sides.values(), strict=True)]
    key = str if exact else key_of
    return {"row": whole, **{column: [digest(key(text)) for text in side] for column, side in sides.items()}}


def digest(text: str) -> int:
    """Return a hash of a text, a signed number of 64 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def key_of(sentence: str) -> str:
    """Return what makes two sentences count as the same, in any script: letters with their marks, digits and symbols.

    Neither case counts, nor how Unicode encodes a character (definition D146 of its standard, compatibility caseless).
    """
    text = normalize("NFD", sentence)
    for _ in range(2):
        text = normalize("NFKD", text.casefold())
    return NO_KEY.sub("", text) or text


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
