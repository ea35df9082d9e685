"""Contexts with several choices: checks, what a model reads of them, and which choice is right."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import DatasetDict
from transformers import DataCollatorForMultipleChoice, PreTrainedTokenizerBase

from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.encoding import Batch
from hf_vanilla.finetuning.labels import MISSING, check_texts, convert_labels, labelled_splits, name_of


def check_choices(splits: DatasetDict, columns: Sequence[str]) -> int:
    """Return the number of choices of each row, which stand in one column as lists, or in a column each.

    Raises:
        ValueError: a row has another number of them than the first, one is empty, or there are fewer than two.
    """
    if len(columns) > 1:
        for column in columns:
            check_texts(splits, column, "choice_column_names")
        return len(columns)
    (column,) = columns
    require_column(splits, column, "choice_column_names")
    first, at = splits["train"][0][column], cell(next(iter(splits)), 0, column)
    if not isinstance(first, list):
        raise ValueError(f"{at} is {first!r}, expected a list of choices")
    if len(first) < 2:
        raise ValueError(f"{at} has {len(first)} choices, expected two at least")
    for split, rows in splits.items():
        for row, choices in enumerate(rows[column]):
            if not isinstance(choices, list) or len(choices) != len(first):
                found = len(choices) if isinstance(choices, list) else repr(choices)
                raise ValueError(
                    f"{cell(split, row, column)} has {found} choices, {at} {len(first)}: "
                    "expected the same number in each row"
                )
            if not all(isinstance(choice, str) and choice.strip() for choice in choices):
                raise ValueError(f"{cell(split, row, column)} holds an empty choice: leave the row out")
    return len(first)


def encode_right_choices(splits: DatasetDict, column: str, count: int) -> dict[str, list[int]]:
    """Return which of `count` choices is right in each split that says so; numbers may be written as text.

    Raises:
        ValueError: a label is missing or no number of a choice, or all training rows have the same one.
    """
    numbers = {str(number): number for number in range(count)}

    def number_of(label: object, at: str) -> int:
        if (name := name_of(label)) not in numbers:
            raise ValueError(f"{at} is {label!r}, expected 0 to {count - 1}: correct it")
        return numbers[name]

    labelled = labelled_splits(splits, column, (*MISSING, -1, "-1"))
    return convert_labels(labelled, column, "label_column_name", number_of)


def choices_of(row: Mapping[str, Any], columns: Sequence[str], question: str | None) -> list[str]:
    """Return the choices of a row, each after the question if there is one.

    Args:
        columns: one of lists, or one for each choice.
    """
    choices = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
    return [f"{row[question]} {choice}" for choice in choices] if question else choices


def encode_choices(
    rows: Batch,
    indices: Sequence[int],
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    question: str | None,
    columns: Sequence[str],
    max_length: int | None,
) -> Batch:
    """Return each context with each of its choices, as a list of inputs, and `length`, the tokens of the longest.

    Raises:
        ValueError: a choice leaves no room for the context in `max_length` tokens.
    """
    batch: Batch = defaultdict(list)
    # The context gives way, for a choice that is cut might be another one.
    cut = {"truncation": "only_first" if max_length else False, "max_length": max_length}
    for number, index in enumerate(indices):
        row = {column: values[number] for column, values in rows.items()}
        choices = choices_of(row, columns, question)
        longest = max(map(len, tokenizer(["" for _ in choices], choices)["input_ids"]))
        if max_length and longest >= max_length:
            raise ValueError(
                f"{cell(split, index, columns[0])}: a choice has {longest} tokens, max_seq_length is {max_length}: "
                "no room for the context"
            )
        encoded = tokenizer([row[context]] * len(choices), choices, **cut)
        for name, values in encoded.items():
            batch[name].append(values)
        batch["length"].append(max(map(len, encoded["input_ids"])))  # which group_by_length reads
    return batch


class ChoiceCollator(DataCollatorForMultipleChoice):
    """The stock collator, for rows without labels, too."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a padded batch (rows, choices, length) of encoded rows."""
        if "labels" in examples[0]:
            return super().torch_call(examples)
        batch = super().torch_call([{**row, "labels": 0} for row in examples])
        del batch["labels"]
        return batch
