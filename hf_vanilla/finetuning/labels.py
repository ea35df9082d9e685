"""Labelled rows for fine-tuning: built-in corpora, local files and Hub ids, and the checks of what goes into training.

An error names the cell that it is about as Python would, `train[17]["text"]`: split, row (counted from 0) and column,
as they were given: a row that was held out of the training split for validation is one of that split.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Value
from transformers import AutoConfig

from hf_vanilla.data.labelled import cell, require_column

MISSING = (None, "")  # labels: CSV has no other way to say so


def with_test_labels(splits: DatasetDict, column: str) -> DatasetDict:
    """All splits but a test split whose labels are not published: without the column, or with nothing in it."""
    return DatasetDict(
        {
            split: rows
            for split, rows in splits.items()
            if split != "test" or (column in rows.column_names and not all(map(_is_missing, rows[column])))
        }
    )


def _is_missing(label: Any) -> bool:
    if isinstance(label, dict):  # of a question
        label = label.get("text")
    return label in (*MISSING, [])


def check_texts(splits: DatasetDict, column: str, argument: str) -> None:
    """Raises `ValueError` for a column that is missing, is not text, or is empty in a row."""
    require_column(splits, column, argument)
    for split, rows in splits.items():
        feature = rows.features[column]
        if getattr(feature, "dtype", None) not in ("string", "large_string") or isinstance(feature, ClassLabel):
            kind = getattr(feature, "dtype", feature)
            raise ValueError(f"column {column!r} of the {split} split holds {kind}, expected text: see --{argument}")
        for row, text in enumerate(rows[column]):
            if not (text or "").strip():
                raise ValueError(f"{cell(split, row, column)} is empty, expected text: leave the row out")


def check_words(splits: DatasetDict, column: str, argument: str) -> None:
    """Raises `ValueError` for a column that is missing, holds no lists of words, or an empty list or word in a row."""
    require_column(splits, column, argument)
    for split, rows in splits.items():
        feature = rows.features[column]
        if getattr(getattr(feature, "feature", None), "dtype", None) not in ("string", "large_string"):
            kind = getattr(feature, "dtype", feature)
            raise ValueError(f"column {column!r} of the {split} split holds {kind}, expected lists of words")
        for row, words in enumerate(rows[column]):
            if not words or not all((word or "").strip() for word in words):
                raise ValueError(f"{cell(split, row, column)} is empty or holds an empty word: leave the row out")


def check_choices(splits: DatasetDict, columns: Sequence[str]) -> int:
    """The number of choices of each row, which stand in one column as lists, or in a column each.

    Raises:
        ValueError: a row has another number of them than the first, one is empty, or fewer than two.
    """
    several = len(columns) > 1
    for column in columns:
        require_column(splits, column, "choice_column_names")
    first, at = splits["train"][0][columns[0]], cell(next(iter(splits)), 0, columns[0])
    if not several and not isinstance(first, list):
        raise ValueError(f"{at} is {first!r}, expected a list of choices")
    count = len(columns) if several else len(first)
    if count < 2:
        raise ValueError(f"{at} has {count} choices, expected two at least")
    for split, rows in splits.items():
        if several:
            for column in columns:
                check_texts(DatasetDict({split: rows}), column, "choice_column_names")
            continue
        for row, choices in enumerate(rows[columns[0]]):
            if not isinstance(choices, list) or len(choices) != count:
                found = len(choices) if isinstance(choices, list) else repr(choices)
                raise ValueError(
                    f"{cell(split, row, columns[0])} has {found} choices, {at} {count}: "
                    "expected the same number in each row"
                )
            if not all(isinstance(choice, str) and choice.strip() for choice in choices):
                raise ValueError(f"{cell(split, row, columns[0])} holds an empty choice: leave the row out")
    return count


def problem_type(train: Dataset, column: str) -> str:
    """What labels of texts ask for, by its name in transformers: lists for several classes, floats for a value."""
    feature = train.features[column]
    if hasattr(feature, "feature"):
        return "multi_label_classification"
    floats = not isinstance(feature, ClassLabel) and str(getattr(feature, "dtype", "")).startswith("float")
    return "regression" if floats else "single_label_classification"


def class_names(splits: DatasetDict, column: str, given: Sequence[str] | None = None) -> list[str]:
    """The names of the classes: those given, those of the data set's own type, or those that occur in training,
    sorted (numbers by value).

    Raises:
        ValueError: labels are neither text nor numbers, there are fewer than two, some are given twice, or training
            rows hold one only.
    """
    feature = splits["train"].features[column]
    feature = getattr(feature, "feature", feature)
    if not isinstance(feature, ClassLabel | Value):
        raise ValueError(f"column {column!r} of the train split holds {feature}, expected names or numbers of classes")
    values = {value for values in splits["train"][column] for value in _each(values)} - set(MISSING)
    names = list(given or [])
    if not names and isinstance(feature, ClassLabel):
        names = list(feature.names)
        values = {names[value] if 0 <= value < len(names) else str(value) for value in values}
    elif not names:
        names = [_name(value) for value in sorted(values)]
    if len(set(names)) != len(names):
        raise ValueError(f"classes are named twice: {', '.join(names)}")
    if len(values) < 2 or len(names) < 2:
        only = ", ".join(repr(value) for value in sorted(map(str, values)))
        raise ValueError(f"column {column!r} of the train split has one class only, {only}: nothing can be learned")
    return names


def encode_classes(
    splits: DatasetDict, column: str, names: Sequence[str], argument: str, beside: str | None = None
) -> dict[str, list[Any]]:
    """The labels of each split as indices into `names`, in lists where the column has lists; of `beside`, if it is
    given, as many as there are words in that column.

    A test split whose labels are all -1 or missing, as benchmarks publish it, has none, and is left out.

    Raises:
        ValueError: a label that is none of `names`, or is missing; a row with more labels than words, or fewer.
    """
    index = {name: position for position, name in enumerate(names)}
    nothing = MISSING if "-1" in index else (*MISSING, -1)
    are_lists = hasattr(splits["train"].features[column], "feature")
    encoded = {}
    for split, rows in splits.items():
        if column not in rows.column_names:
            if split == "test":
                continue
            require_column(splits, column, argument)
        if split == "test" and all(value in nothing for values in rows[column] for value in _each(values)):
            continue
        if hasattr(rows.features[column], "feature") != are_lists:
            lists, single = ("the train split", f"the {split} split")[:: 1 if are_lists else -1]
            raise ValueError(f"column {column!r} holds lists in {lists}, but not in {single}")
        feature = getattr(rows.features[column], "feature", rows.features[column])
        own = feature.names if isinstance(feature, ClassLabel) else None
        if are_lists and beside is None and own is None and _are_flags(rows[column]):
            raise ValueError(
                f"column {column!r} of the {split} split holds a 0 or 1 for each class, as in {rows[column][0]!r}: "
                "expected the names of a text's classes"
            )
        both = zip(rows[column], rows[beside], strict=True) if beside is not None else ()
        for row, (labels, words) in enumerate(both):
            if not isinstance(labels, list) or len(labels) != len(words):
                found = len(labels) if isinstance(labels, list) else repr(labels)
                raise ValueError(
                    f"{cell(split, row, column)} has {found} labels for the {len(words)} words of {beside!r}: "
                    "expected one each"
                )

        def class_of(value: Any, row: int, split: str = split, own: list[str] | None = own) -> int:
            inside = own is not None and value is not None and 0 <= value < len(own)
            name = own[value] if inside and own is not None else _name(value)
            if value in MISSING or name not in index:
                known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise ValueError(
                    f"{cell(split, row, column)} is {value!r}, none of the {len(names)} classes {known}: "
                    "correct it, or name all classes with --class_names"
                )
            return index[name]

        encoded[split] = [
            [class_of(value, row) for value in values] if isinstance(values, list) else class_of(values, row)
            for row, values in enumerate(rows[column])
        ]
    return encoded


def _are_flags(labels: Iterable[list[Any] | None]) -> bool:
    """Whether lists are as long as each other, and hold 0 and 1 alone."""
    lists = [row or [] for row in labels]
    alike = len(set(map(len, lists))) == 1 and len(lists[0]) > 1
    return alike and all(not isinstance(value, str) and value in (0, 1) for row in lists for value in row)


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _each(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list) else [values]


def check_lengths(
    lengths: Iterable[int], split: str, column: str, limit: int | None, remedy: str = "give --max_seq_length"
) -> None:
    """Raises `ValueError` for the first row of more tokens than a model takes."""
    for row, length in enumerate(lengths):
        if limit is not None and length > limit:
            raise ValueError(
                f"{cell(split, row, column)} has {length} tokens, the model takes {limit}: shorten it, or {remedy}"
            )


def encode_values(splits: DatasetDict, column: str, argument: str) -> dict[str, list[float]]:
    """The labels of each split as numbers.

    Raises:
        ValueError: one is missing, or is no finite number; or training rows have the same one always.
    """
    encoded = {}
    for split, rows in with_test_labels(splits, column).items():
        require_column(splits, column, argument)
        for row, value in enumerate(rows[column]):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{cell(split, row, column)} is {value!r}, expected a number: correct it")
        encoded[split] = [float(value) for value in rows[column]]
    if len(set(encoded["train"])) == 1:
        raise ValueError(
            f"column {column!r} of the train split is always {encoded['train'][0]}: nothing can be learned"
        )
    return encoded


def agree_with_checkpoint(names: list[str], checkpoint: str | None, **source: Any) -> list[str]:
    """`names` in the order of the classes of a checkpoint that has the same, so that its head keeps their meaning;
    `source` is told `from_pretrained`."""
    if checkpoint is None:
        return names
    config = AutoConfig.from_pretrained(checkpoint, **source)
    own = [config.id2label[i] for i in sorted(config.id2label)] if config.id2label else []
    return own if sorted(own) == sorted(names) else names


def with_labels(encoded: DatasetDict, labels: Mapping[str, list[Any]]) -> DatasetDict:
    """Encoded rows with the column `labels`, in the splits that have them."""
    return DatasetDict(
        {
            split: rows.add_column("labels", labels[split]) if split in labels else rows
            for split, rows in encoded.items()
        }
    )


def encode_choice(splits: DatasetDict, column: str, count: int) -> dict[str, list[int]]:
    """Which of `count` choices is right, in the splits that say so; numbers may be written as text.

    Raises:
        ValueError: a label is missing or no number of a choice, or training rows have the same one always.
    """
    encoded = {}
    for split, rows in splits.items():
        if split == "test" and (column not in rows.column_names or set(map(str, rows[column])) <= {"-1", "None", ""}):
            continue
        require_column(DatasetDict({split: rows}), column, "label_column_name")
        for row, value in enumerate(rows[column]):
            if _name(value) not in map(str, range(count)):
                raise ValueError(f"{cell(split, row, column)} is {value!r}, expected 0 to {count - 1}: correct it")
        encoded[split] = [int(_name(value)) for value in rows[column]]
    if len(set(encoded["train"])) == 1:
        raise ValueError(
            f"column {column!r} of the train split is always {encoded['train'][0]}: nothing can be learned"
        )
    return encoded
