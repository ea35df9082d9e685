"""Checks of labelled rows, and their labels as the numbers that a model learns.

An error names the cell that it is about as Python would, `train[17]["text"]`: split, row (counted from 0) and column
of the data as they were given; a row that was held out of the training split for validation is one of that split.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value
from transformers import AutoConfig

from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.arguments import FineTuningArguments

MISSING = (None, "")  # labels that are not there: CSV has no other way to say so
STRINGS = ("string", "large_string")
Label = TypeVar("Label", int, float)


def check_texts(splits: DatasetDict, column: str, argument: str) -> None:
    """Raise `ValueError` for a column that is missing, is not text, or is empty in a row."""
    require_column(splits, column, argument)
    for split, rows in splits.items():
        kind = getattr(rows.features[column], "dtype", rows.features[column])
        if kind not in STRINGS:
            raise ValueError(f"column {column!r} of the {split} split holds {kind}, expected text: see --{argument}")
        for row, text in enumerate(rows[column]):
            if not (text or "").strip():
                raise ValueError(f"{cell(split, row, column)} is empty, expected text: leave the row out")


def check_words(splits: DatasetDict, column: str, argument: str) -> None:
    """Raise `ValueError` for a column that is missing, holds no lists of words, or an empty list or word in a row."""
    require_column(splits, column, argument)
    for split, rows in splits.items():
        feature = rows.features[column]
        if getattr(getattr(feature, "feature", None), "dtype", None) not in STRINGS:
            kind = getattr(feature, "dtype", feature)
            raise ValueError(f"column {column!r} of the {split} split holds {kind}, expected lists of words")
        for row, words in enumerate(rows[column]):
            if not words or not all((word or "").strip() for word in words):
                raise ValueError(f"{cell(split, row, column)} is empty or holds an empty word: leave the row out")


def labelled_splits(splits: DatasetDict, column: str, missing: Sequence[object] = MISSING) -> DatasetDict:
    """Return all splits but a test split whose labels are not published: it lacks the column, or all are `missing`."""

    def is_missing(label: object) -> bool:
        if isinstance(label, dict):  # the answers to a question
            return label.get("text") in (*MISSING, [])
        return all(value in missing for value in _each(label))

    return DatasetDict(
        {
            split: rows
            for split, rows in splits.items()
            if split != "test" or (column in rows.column_names and not all(map(is_missing, rows[column])))
        }
    )


def class_names(
    splits: DatasetDict,
    column: str,
    given: Sequence[str] | None = None,
    checkpoint: str | None = None,
    **source: str | bool,
) -> list[str]:
    """Return the names of the classes in the order of their ids.

    They are those given, or else those of the data set's own type or of the training rows, sorted (numbers by value);
    in the order of the checkpoint if it has the same, so that its head keeps their meaning.

    Args:
        source: what `from_pretrained` is told beside the checkpoint.

    Raises:
        ValueError: labels are neither text nor numbers, a class is named twice, or there are fewer than two, by name
            or in the training rows.
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
        names = [name_of(value) for value in sorted(values)]
    if len(set(names)) != len(names):
        raise ValueError(f"classes are named twice: {', '.join(names)}")
    if len(values) < 2 or len(names) < 2:
        only = ", ".join(repr(value) for value in sorted(map(str, values)))
        raise ValueError(f"column {column!r} of the train split has one class only, {only}: nothing can be learned")
    if not given and checkpoint is not None:
        own = AutoConfig.from_pretrained(checkpoint, **source).id2label or {}
        if sorted(own.values()) == sorted(names):
            names = [own[i] for i in sorted(own)]
    return names


def fields_of_classes(names: Sequence[str]) -> dict[str, dict[int, str] | dict[str, int]]:
    """Return the fields of a configuration that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def encode_classes(
    splits: DatasetDict, column: str, names: Sequence[str], argument: str, beside: str | None = None
) -> dict[str, list[Any]]:
    """Return the labels of each split as indices into `names`, in lists where the column has lists.

    A test split whose labels are all -1 or missing, as benchmarks publish it, is left out.

    Args:
        argument: the name of the argument that names `column`.
        beside: a column of lists of words, for labels of words.

    Raises:
        ValueError: a label that is none of `names`, or is missing; a row with more labels than words, or fewer.
    """
    index = {name: position for position, name in enumerate(names)}
    are_lists = hasattr(splits["train"].features[column], "feature")
    labelled = labelled_splits(splits, column, MISSING if "-1" in index else (*MISSING, -1))
    require_column(labelled, column, argument)
    encoded = {}
    for split, rows in labelled.items():
        if hasattr(rows.features[column], "feature") != are_lists:
            lists, single = ("train", split) if are_lists else (split, "train")
            raise ValueError(f"column {column!r} holds lists in the {lists} split, but not in the {single} split")
        feature = getattr(rows.features[column], "feature", rows.features[column])
        own: list[str] = feature.names if isinstance(feature, ClassLabel) else []
        if beside is not None:
            _check_counts(split, rows, column, beside)
        elif are_lists and not own and _are_flags(rows[column]):
            raise ValueError(
                f"column {column!r} of the {split} split holds a 0 or 1 for each class, as in {rows[column][0]!r}: "
                "expected the names of a text's classes"
            )

        def class_of(value: object, row: int, split: str = split, own: list[str] = own) -> int:
            name = own[value] if isinstance(value, int) and 0 <= value < len(own) else name_of(value)
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


def _check_counts(split: str, rows: Dataset, column: str, beside: str) -> None:
    for row, (labels, words) in enumerate(zip(rows[column], rows[beside], strict=True)):
        if not isinstance(labels, list) or len(labels) != len(words):
            found = len(labels) if isinstance(labels, list) else repr(labels)
            raise ValueError(
                f"{cell(split, row, column)} has {found} labels for the {len(words)} words of {beside!r}: "
                "expected one each"
            )


def _are_flags(labels: Iterable[list[object] | None]) -> bool:
    """True if all lists have the same length, and hold 0 and 1 alone."""
    lists = [row or [] for row in labels]
    alike = len(set(map(len, lists))) == 1 and len(lists[0]) > 1
    return alike and all(not isinstance(value, str) and value in (0, 1) for row in lists for value in row)


def name_of(value: object) -> str:
    """Return a label as text; a whole number that became a float beside missing ones is still that number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _each(values: object) -> list[Any]:
    return values if isinstance(values, list) else [values]


def encode_values(splits: DatasetDict, column: str, argument: str) -> dict[str, list[float]]:
    """Return the labels of each split as numbers; a test split without labels is left out.

    Raises:
        ValueError: one is missing or no finite number, or all training rows have the same one.
    """

    def value_of(label: object, at: str) -> float:
        if not isinstance(label, int | float) or not math.isfinite(label):
            raise ValueError(f"{at} is {label!r}, expected a number: correct it")
        return float(label)

    return convert_labels(labelled_splits(splits, column), column, argument, value_of)


def convert_labels(
    labelled: DatasetDict, column: str, argument: str, convert: Callable[[object, str], Label]
) -> dict[str, list[Label]]:
    """Return what `convert` makes of each label; its second argument is what an error calls the label's cell.

    Raises:
        ValueError: the column, which `argument` names, is missing, or all training rows have the same label.
    """
    require_column(labelled, column, argument)
    encoded = {
        split: [convert(label, cell(split, row, column)) for row, label in enumerate(rows[column])]
        for split, rows in labelled.items()
    }
    if len(set(encoded["train"])) == 1:
        raise ValueError(
            f"column {column!r} of the train split is always {encoded['train'][0]}: nothing can be learned"
        )
    return encoded


@dataclass
class TextLabels:
    """What is learned of texts.

    Attributes:
        problem_type: "single_label_classification", "multi_label_classification" or "regression".
        names: those of the classes in the order of their ids; empty for regression.
        encoded: for each split with labels, an id, a 0.0 or 1.0 for each class, or a value for each row.
    """

    problem_type: str
    names: list[str]
    encoded: Mapping[str, Sequence[object]]

    @property
    def config_fields(self) -> dict[str, object]:
        """The fields of the model's configuration that say what is learned."""
        fields: Mapping[str, object] = fields_of_classes(self.names) if self.names else {"num_labels": 1}
        return {"problem_type": self.problem_type, **fields}

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Return ids (n,), a 0 or 1 for each class (n, classes), or values (n,), for a head's scores (n, classes)."""
        if self.problem_type == "regression":
            return scores[:, 0]
        return scores.argmax(-1) if self.problem_type == "single_label_classification" else (scores > 0).astype(int)

    def answers(self, scores: np.ndarray) -> list[object]:
        """Return a name, a list of names or a value for each text."""
        decided = self.decide(scores)
        if self.problem_type == "multi_label_classification":
            return [[self.names[i] for i in np.flatnonzero(row)] for row in decided]
        return [self.names[i] for i in decided] if self.names else decided.tolist()


def encode_text_labels(
    splits: DatasetDict, column: str, given: list[str] | None, arguments: FineTuningArguments
) -> TextLabels:
    """Return the labels of texts; their type says what is learned.

    Raises:
        ValueError: as [`class_names`], [`encode_classes`] and [`encode_values`]; or there are names for values.
    """
    require_column(DatasetDict(train=splits["train"]), column, "label_column_name")
    feature = splits["train"].features[column]
    kind = "multi_label_classification" if hasattr(feature, "feature") else "single_label_classification"
    if str(getattr(feature, "dtype", "")).startswith("float"):
        if given:
            raise ValueError(f"class_names are given, but {column!r} holds numbers")
        return TextLabels("regression", [], encode_values(splits, column, "label_column_name"))
    names = class_names(splits, column, given, arguments.model_name_or_path, **arguments.source)
    encoded = encode_classes(splits, column, names, "label_column_name")
    if kind == "multi_label_classification":
        ids = range(len(names))
        encoded = {split: [[float(i in row) for i in ids] for row in rows] for split, rows in encoded.items()}
    return TextLabels(kind, names, encoded)


def with_labels(encoded: DatasetDict, labels: Mapping[str, Sequence[object]]) -> DatasetDict:
    """Return encoded rows with the column `labels` in the splits that have them."""
    added = {split: encoded[split].add_column("labels", values) for split, values in labels.items()}
    return DatasetDict({**encoded, **added})
