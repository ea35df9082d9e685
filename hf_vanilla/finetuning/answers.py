"""Questions and texts as a model reads them, and what it gives as answers: spans of a text, choices, translations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import BatchEncoding, DataCollatorForMultipleChoice, DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.labels import MISSING, Batch, check_texts, convert_labels, labelled_splits, name_of
from hf_vanilla.models.texts_vanilla import encode_texts

Columns = tuple[str, str, str]
"""Those of questions, texts, and answers `{"text": [...], "answer_start": [...]}`, as in SQuAD."""


def check_questions(splits: DatasetDict, columns: Columns, may_be_missing: bool) -> DatasetDict:
    """Return the rows, without the column of answers in a test split whose answers are not published.

    `ValueError`: a column is missing, a text is empty, an answer does not stand in its text where it says that it
    does, or there is none and `may_be_missing` is false.
    """
    question, context, answers = columns
    check_texts(splits, question, "question_column_name")
    check_texts(splits, context, "context_column_name")
    answered = labelled_splits(splits, answers)
    require_column(answered, answers, "answer_column_name")
    for split, rows in answered.items():
        for row, (text, given) in enumerate(zip(rows[context], rows[answers], strict=True)):
            _check_answer(given, text, cell(split, row, answers), cell(split, row, context), may_be_missing)
    return DatasetDict({split: splits[split].select_columns([question, context]) for split in splits} | answered)


def _check_answer(given: object, text: str, at: str, text_at: str, may_be_missing: bool) -> None:
    if not isinstance(given, dict) or not isinstance(given.get("text"), list):
        expected = '{"text": [...], "answer_start": [...]}'
        raise ValueError(f"{at} is {given!r}, expected {expected}")
    if not given["text"] and not may_be_missing:
        raise ValueError(f"{at} has no answer: leave the row out, or allow it by argument")
    starts = given.get("answer_start")
    if not isinstance(starts, list) or len(starts) != len(given["text"]):
        raise ValueError(f"{at}: answer_start is {starts!r}, expected one for each text")
    for answer, start in zip(given["text"], starts, strict=True):
        if not isinstance(answer, str) or not isinstance(start, int):
            raise ValueError(f"{at} is {given!r}, expected texts, and characters from 0")
        if not answer.strip():
            raise ValueError(f"{at} holds an empty text; no answer is an empty list")
        if not 0 <= start <= len(text) - len(answer):
            raise ValueError(f"{at}: {answer!r} at {start} lies outside of the {len(text)} characters of {text_at}")
        if (found := text[start : start + len(answer)]) != answer:
            raise ValueError(f"{at}: at {start} of {text_at} stands {found!r}, not {answer!r}")


def encode_questions(
    rows: Batch, indices: list[int], split: str, tokenizer: PreTrainedTokenizerBase, columns: Columns, **window: int
) -> BatchEncoding:
    """Return windows of question and text, as many as the text needs, with the place of the answer in each.

    A `window` has `max_length` tokens and shares `stride` with the next; `ValueError` if there is no room for a text.
    Beside what the tokenizer gives, there are `row`, the number of the row; `offsets`, where each token stands in the
    text, (0, 0) for tokens outside it; and, where there are answers, `start_positions` and `end_positions`, their
    first and last token, or 0 for a window that does not hold the whole answer.
    """
    question, context, answers = columns
    for index, ids in zip(indices, encode_texts(tokenizer, rows[question], masks=True)["input_ids"], strict=True):
        if len(ids) + window["stride"] + 2 >= window["max_length"]:
            windows = f"windows of {window['max_length']} that share {window['stride']} leave no room for a text"
            advice = "give a larger --max_seq_length or a smaller --doc_stride"
            raise ValueError(f"{cell(split, index, question)} has {len(ids)} tokens: {windows}; {advice}")
    asked: dict[str, Any] = {"return_overflowing_tokens": True, "return_offsets_mapping": True, **window}
    pairs = (rows[question], rows[context])
    batch = encode_texts(tokenizer, *pairs, masks=True, truncation="only_second", **asked)
    owners = batch.pop("overflow_to_sample_mapping")
    batch["row"] = [indices[owner] for owner in owners]
    batch["offsets"] = [
        [place if of == 1 else (0, 0) for place, of in zip(places, batch.sequence_ids(number), strict=True)]
        for number, places in enumerate(batch.pop("offset_mapping"))
    ]
    if answers in rows:
        spans = [span_of(rows[answers][owner], at) for owner, at in zip(owners, batch["offsets"], strict=True)]
        batch["start_positions"], batch["end_positions"] = (list(side) for side in zip(*spans, strict=True))
    return batch


def span_of(answer: Batch, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first and last token of the first answer, without its outer blanks; (0, 0) if the window lacks it."""
    if not answer["text"]:
        return 0, 0
    text = answer["text"][0]
    start = answer["answer_start"][0] + len(text) - len(text.lstrip())
    end = start + len(text.strip())
    tokens = [i for i, (first, last) in enumerate(offsets) if last > first]
    if not tokens or offsets[tokens[0]][0] > start or offsets[tokens[-1]][1] < end:
        return 0, 0
    inside = [i for i in tokens if offsets[i][0] < end and offsets[i][1] > start]
    return (inside[0], inside[-1]) if inside else (0, 0)


def best_answers(
    logits: Sequence[np.ndarray], windows: Dataset, contexts: Sequence[str], longest: int, may_be_missing: bool
) -> list[str]:
    """Return for each text the span of the highest score, the sum of its start's and its end's, in all its windows.

    The first two `logits` are those of starts and ends, (windows, length) each, for what [`encode_questions`] makes. A
    span has at most as many tokens as the `longest`. If answers `may_be_missing`, "" is the answer where, in all
    windows, the first token scores higher than any span.
    """
    best, missing = [(-np.inf, "")] * len(contexts), [np.inf] * len(contexts)
    for start, end, row, offsets in zip(*logits[:2], windows["row"], windows["offsets"], strict=True):
        places = np.array(offsets)
        scores = start[: len(places), None] + end[None, : len(places)]
        missing[row] = min(missing[row], float(scores[0, 0]))
        is_text = places[:, 1] > places[:, 0]
        is_span = np.tril(np.triu(np.outer(is_text, is_text)), longest - 1)  # from row to column, first to last token
        scores = np.where(is_span, scores, -np.inf)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        if scores[first, last] > best[row][0]:
            best[row] = (float(scores[first, last]), contexts[row][places[first, 0] : places[last, 1]])
    return ["" if may_be_missing and none > score else text for none, (score, text) in zip(missing, best, strict=True)]


def check_choices(splits: DatasetDict, columns: Sequence[str]) -> int:
    """Return the number of choices of each row, which stand in one column as lists, or in a column each.

    `ValueError`: a row has another number of them than the first, one is empty, or there are fewer than two.
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
                found = f"{len(choices) if isinstance(choices, list) else repr(choices)} choices, {at} {len(first)}"
                raise ValueError(f"{cell(split, row, column)} has {found}: expected the same number in each row")
            if not all(isinstance(choice, str) and choice.strip() for choice in choices):
                raise ValueError(f"{cell(split, row, column)} holds an empty choice: leave the row out")
    return len(first)


def encode_right_choices(splits: DatasetDict, column: str, count: int) -> dict[str, list[int]]:
    """Return which of `count` choices is right in each split that says so; numbers may be written as text."""

    def number_of(label: object, at: str) -> int:
        if (name := name_of(label)) not in map(str, range(count)):
            raise ValueError(f"{at} is {label!r}, expected 0 to {count - 1}: correct it")
        return int(name)

    labelled = labelled_splits(splits, column, (*MISSING, -1, "-1"))
    return convert_labels(labelled, column, number_of)


def choices_of(row: Mapping[str, Any], columns: Sequence[str], question: str | None) -> list[str]:
    """Return the choices of a row, from a column of lists or one for each choice, each after the question if any."""
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

    A choice that leaves no room for the context in `max_length` tokens raises `ValueError`.
    """
    encoded = []
    # The context gives way, for a choice that is cut might be another one.
    cut = {"truncation": "only_first" if max_length else False, "max_length": max_length}
    for number, index in enumerate(indices):
        row = {column: values[number] for column, values in rows.items()}
        choices = choices_of(row, columns, question)
        longest = max(map(len, encode_texts(tokenizer, [""] * len(choices), choices, masks=True)["input_ids"]))
        if max_length and longest >= max_length:
            too_long = f"a choice has {longest} tokens, max_seq_length is {max_length}: no room for the context"
            raise ValueError(f"{cell(split, index, columns[0])}: {too_long}")
        inputs = encode_texts(tokenizer, [row[context]] * len(choices), choices, masks=True, **cut)
        encoded.append({**inputs, "length": max(map(len, inputs["input_ids"]))})  # which group_by_length reads
    return {name: [inputs[name] for inputs in encoded] for name in encoded[0]}


class ChoiceCollator(DataCollatorForMultipleChoice):
    """The stock collator, for rows without labels, too."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().torch_call([{"labels": 0, **row} for row in examples])
        return {name: values for name, values in batch.items() if name != "labels" or name in examples[0]}


def decode(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return generated texts without special tokens, for ids (rows, length) that are -100 after the end of a row."""
    texts = tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
    return [text.strip() for text in texts]


class TranslationCollator(DataCollatorForSeq2Seq):
    """The stock collator, which gives None for labels that rows lack; Seq2SeqTrainer would take that for labels."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        return {name: of for name, of in super().__call__(features, return_tensors).items() if of is not None}
