"""Checks of labelled rows, and their labels as the numbers that a model learns. Errors name cells as [`cell`] does."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Literal, TypeVar

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value
from transformers import AutoConfig, BatchEncoding, PreTrainedTokenizerBase

from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.arguments import FineTuningArguments
from hf_vanilla.models.texts_vanilla import encode_texts

logger = logging.getLogger(__name__)
MISSING = (None, "")  # labels that are not there: CSV has no other way to say so
STRINGS = ("string", "large_string")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
Label = TypeVar("Label", int, float)
Batch = dict[str, list[Any]]  # columns of rows


def check_texts(splits: DatasetDict, column: str, argument: str, words: bool = False) -> None:
    """Raise `ValueError` for a column that is missing, holds no texts (or no lists of `words`), or an empty one."""
    require_column(splits, column, argument)
    expected = "lists of words" if words else f"text: see --{argument}"
    empty = "is empty or holds an empty word" if words else "is empty, expected text"
    for split, rows in splits.items():
        feature = rows.features[column]
        if getattr(getattr(feature, "feature", None) if words else feature, "dtype", None) not in STRINGS:
            kind = getattr(feature, "dtype", feature)
            raise ValueError(f"column {column!r} of the {split} split holds {kind}, expected {expected}")
        for row, value in enumerate(rows[column]):
            if not value or not all((text or "").strip() for text in _each(value)):
                raise ValueError(f"{cell(split, row, column)} {empty}: leave the row out")


def labelled_splits(splits: DatasetDict, column: str, missing: Sequence[object] = MISSING) -> DatasetDict:
    """Return all splits but a test split whose labels are not published: it lacks the column, or all are `missing`."""

    def has_none(label: object) -> bool:
        if isinstance(label, dict):  # the answers to a question
            return label.get("text") in (*MISSING, [])
        return all(is_missing(value) or value in missing for value in _each(label))

    test = splits.get("test")
    if test is None or (column in test.column_names and not all(map(has_none, test[column]))):
        return splits
    return DatasetDict({split: rows for split, rows in splits.items() if split != "test"})


def is_missing(label: object) -> bool:
    """True for a label that is not there; of tables that hold numbers, that is NaN."""
    return label in MISSING or (isinstance(label, float) and math.isnan(label))


def class_names(
    splits: DatasetDict, column: str, given: Sequence[str] | None, arguments: FineTuningArguments
) -> list[str]:
    """Return the names of the classes in the order of their ids.

    They are those given, or else those of the data set's own type or of the training rows, as [`name_of`] writes them,
    sorted (by value if all are numbers: "2", "9", "10", and "01" before "1", which is another class); in the order of
    the checkpoint if it has the same, so that its head keeps their meaning. `ValueError`: labels are neither text nor
    numbers, a class is named twice, or there are fewer than two, by name or in the training rows.
    """
    kind = _type_of_labels(splits["train"], column)
    if not isinstance(kind, ClassLabel | Value):
        raise ValueError(f"column {column!r} of the train split holds {kind}, expected names or numbers of classes")
    own: list[str] = getattr(kind, "names", [])
    labels = chain.from_iterable(map(_each, splits["train"][column]))
    values = {name_of(label, own) for label in labels if not is_missing(label)}
    by_value = all(map(NUMBER.fullmatch, values))
    names = list(given or own or sorted(values, key=lambda name: (float(name) if by_value else 0.0, name)))
    if len(set(names)) != len(names):
        raise ValueError(f"classes are named twice: {', '.join(names)}")
    if len(values) < 2 or len(names) < 2:
        only = ", ".join(sorted(map(repr, values)))
        raise ValueError(f"column {column!r} of the train split has one class only, {only}: nothing can be learned")
    if not given and (checkpoint := arguments.model_name_or_path) is not None:
        known = AutoConfig.from_pretrained(checkpoint, **arguments.source).id2label or {}
        if sorted(known.values()) == sorted(names):
            names = [known[i] for i in sorted(known)]
    return names


def fields_of_classes(names: Sequence[str]) -> dict[str, dict[int, str] | dict[str, int]]:
    """Return the fields of a configuration that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def encode_classes(
    splits: DatasetDict, column: str, given: list[str] | None, arguments: FineTuningArguments, words: str | None = None
) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the names of classes, see [`class_names`], and for each split the ids, or lists of ids, of its labels.

    A test split whose labels are all -1 or missing, as benchmarks publish it, is left out. For labels of words, the
    column of these is `words`. `ValueError`: a label is missing or of no class; a row has more labels than words, or
    fewer.
    """
    require_column(labelled_splits(splits, column), column, "tag_column_name" if words else "label_column_name")
    names = class_names(splits, column, given, arguments)
    index = {name: position for position, name in enumerate(names)}
    labelled = labelled_splits(splits, column, MISSING if "-1" in index else (*MISSING, -1, "-1"))

    def class_of(value: object, own: Sequence[str], split: str, row: int) -> int:
        if is_missing(value) or (name := name_of(value, own)) not in index:
            known = f"none of the {len(names)} classes {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            advice = "correct it, or name all classes with --class_names"
            raise ValueError(f"{cell(split, row, column)} is {value!r}, {known}: {advice}")
        return index[name]

    encoded: dict[str, list[Any]] = {}
    for split, rows in labelled.items():
        are_lists = hasattr(rows.features[column], "feature")
        own: list[str] = getattr(_type_of_labels(rows, column), "names", [])
        if are_lists != hasattr(splits["train"].features[column], "feature"):
            lists, single = (split, "train") if are_lists else ("train", split)
            raise ValueError(f"column {column!r} holds lists in the {lists} split, but not in the {single} split")
        if words is not None:
            _check_counts(split, rows, column, words)
        elif are_lists and not own and _are_flags(rows[column]):
            flags = f"a 0 or 1 for each class, as in {rows[column][0]!r}: expected the names of a text's classes"
            raise ValueError(f"column {column!r} of the {split} split holds {flags}")
        ids = [
            [class_of(value, own, split, row) for value in _each(labels)] for row, labels in enumerate(rows[column])
        ]
        encoded[split] = ids if are_lists else [only for (only,) in ids]
    return names, encoded


def _check_counts(split: str, rows: Dataset, column: str, beside: str) -> None:
    for row, (labels, words) in enumerate(zip(rows[column], rows[beside], strict=True)):
        if not isinstance(labels, list) or len(labels) != len(words):
            found = f"has {len(labels) if isinstance(labels, list) else repr(labels)} labels"
            expected = f"for the {len(words)} words of {beside!r}: expected one each"
            raise ValueError(f"{cell(split, row, column)} {found} {expected}")


def _are_flags(labels: Sequence[list[object] | None]) -> bool:
    """True if all lists have the same length, and hold 0 and 1 alone."""
    lists = [row or [] for row in labels]
    return len(set(map(len, lists))) == 1 < len(lists[0]) and set(chain.from_iterable(lists)) <= {0, 1}


def name_of(value: object, own: Sequence[str] = ()) -> str:
    """Return a label as text: the name that its type, with names of its `own`, has for it; text as it is written.

    Numbers and truth values are written as JSON has them, and a whole number without a point, for it may have become a
    float beside missing ones: `1.0` is "1", `2.50` is "2.5", `True` is "true".
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and 0 <= value < len(own):
        return own[value]
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _type_of_labels(rows: Dataset, column: str) -> object:
    return getattr(rows.features[column], "feature", rows.features[column])


def _each(values: object) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _value_of(label: object, at: str) -> float:
    text = str(label)
    if isinstance(label, bool) or not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"{at} is {label!r}, expected a number: correct it")
    return float(text)


def _find_problem_type(labelled: DatasetDict, column: str, given: list[str] | None) -> str:
    """Return what labels ask for where no argument says it; the log has it where it is a guess."""
    features = [rows.features[column] for rows in labelled.values()]
    if hasattr(features[0], "feature"):
        return "multi_label_classification"
    is_float = any(str(getattr(feature, "dtype", "")).startswith("float") for feature in features)
    labels = [label for rows in labelled.values() for label in rows[column] if not is_missing(label)]
    broken = [label for label in labels if is_float and not float(label).is_integer()]
    if given and (odd := next((label for label in broken if name_of(label) not in given), None)) is not None:
        raise ValueError(f"class_names are given, but {column!r} holds numbers such as {odd}, which is none of them")
    if given or not is_float:
        if not given and (text := next((label for label in labels if _is_value(label)), None)) is not None:
            why = f"column {column!r} holds text such as {text!r}: each is the name of a class"
            logger.warning("%s; if they are values to learn, give --problem_type regression", why)
        return "single_label_classification"
    if broken:
        other = "if they are names of classes, give --problem_type single_label_classification"
        logger.info("column %r holds numbers that are not whole: they are learned as values; %s", column, other)
        return "regression"
    other = "if they are values to learn, give --problem_type regression"
    logger.info("column %r holds whole numbers: each is the name of a class; %s", column, other)
    return "single_label_classification"


def _is_value(label: object) -> bool:
    return isinstance(label, str) and "." in label and bool(NUMBER.fullmatch(label))


def convert_labels(
    labelled: DatasetDict, column: str, convert: Callable[[object, str], Label]
) -> dict[str, list[Label]]:
    """Return what `convert` makes of labels and the names of their cells; `ValueError` if all of training are one."""
    require_column(labelled, column, "label_column_name")
    encoded = {
        split: [convert(label, cell(split, row, column)) for row, label in enumerate(rows[column])]
        for split, rows in labelled.items()
    }
    if len(set(encoded["train"])) == 1:
        always = f"is always {encoded['train'][0]}: nothing can be learned"
        raise ValueError(f"column {column!r} of the train split {always}")
    return encoded


def encode_words(
    rows: Batch,
    indices: Sequence[int],
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    column: str,
    unspaced: bool,
    max_length: int | None,
) -> BatchEncoding:
    """Return lists of words, which no spaces join if they are `unspaced`, as tokens.

    The column `first` is true for the first token of a word. A word that is no token raises `ValueError`.
    """
    # A byte-level tokenizer takes a word without a space before it for the start of a text.
    space = "" if unspaced or "".join(tokenizer.tokenize(" a")) == "a" else " "
    texts = [[(space if i else "") + word for i, word in enumerate(words)] for words in rows[column]]
    cut = {"truncation": max_length is not None, "max_length": max_length}
    batch = encode_texts(tokenizer, texts, masks=True, is_split_into_words=True, **cut)
    batch["first"] = []
    for number, (index, words) in enumerate(zip(indices, texts, strict=True)):
        word_ids = batch.word_ids(number)
        first = [word not in (None, before) for word, before in zip(word_ids, [None, *word_ids], strict=False)]
        seen = list(compress(word_ids, first))
        is_whole = max_length is None or len(word_ids) < max_length
        if seen != list(range(len(words) if is_whole else len(seen))):
            raise ValueError(f"{cell(split, index, column)} holds a word that is no token: leave the row out")
        batch["first"].append(first)
    return batch


def label_words(encoded: DatasetDict, labels: dict[str, list[list[int]]]) -> DatasetDict:
    """Return encoded words with the column `labels`: that of each word at its first token, and -100 at the others."""
    found = {}
    for split, of_split in labels.items():
        pairs = zip(encoded[split]["first"], map(iter, of_split), strict=True)
        found[split] = [[next(of_words) if begins else -100 for begins in first] for first, of_words in pairs]
    return with_labels(encoded, found)


@dataclass
class TextLabels:
    """What is learned of texts: classes, which have `names` in the order of their ids, or values, without names.

    `encoded` has, for each split with labels, an id, a 0.0 or 1.0 for each class, or a value for each row.
    """

    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"]
    names: list[str]
    encoded: Mapping[str, Sequence[object]]

    @property
    def config_fields(self) -> dict[str, object]:
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
    splits: DatasetDict,
    column: str,
    given: list[str] | None,
    arguments: FineTuningArguments,
    problem_type: str | None = None,
) -> TextLabels:
    """Return the labels of texts, without those of a test split that has none.

    Without a `problem_type`, lists are several classes of a text, and numbers in a column of floats are values if one
    of them is not whole and no classes are named; all else are names of classes.

    `ValueError`: as [`class_names`] and [`encode_classes`]; the column cannot hold what `problem_type` says; there are
    names for values, a value is missing or no finite number, or all training rows have the same one.
    """
    require_column(DatasetDict(train=splits["train"]), column, "label_column_name")
    require_column(labelled := labelled_splits(splits, column), column, "label_column_name")
    found = problem_type or _find_problem_type(labelled, column, given)
    if found not in PROBLEM_TYPES:
        raise ValueError(f"problem_type is {found!r}; expected one of {', '.join(PROBLEM_TYPES)}")
    are_lists = hasattr(splits["train"].features[column], "feature")
    if are_lists != (found == "multi_label_classification"):
        holds = f"column {column!r} holds {'lists' if are_lists else 'one label in each row'}"
        raise ValueError(f"problem_type is {found!r}, but {holds}")
    if found == "regression":
        if given:
            raise ValueError(f"class_names are given, but {column!r} holds values to learn")
        return TextLabels("regression", [], convert_labels(labelled, column, _value_of))
    names, encoded = encode_classes(splits, column, given, arguments)
    if not are_lists:
        return TextLabels("single_label_classification", names, encoded)
    flags = {split: [[float(i in row) for i in range(len(names))] for row in rows] for split, rows in encoded.items()}
    return TextLabels("multi_label_classification", names, flags)


def with_labels(encoded: DatasetDict, labels: Mapping[str, Sequence[object]]) -> DatasetDict:
    """Return encoded rows with the column `labels` in the splits that have them."""
    added = {split: encoded[split].add_column("labels", values) for split, values in labels.items()}
    return DatasetDict({**encoded, **added})
