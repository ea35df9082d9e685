"""Rows of text as a model reads them, and the limits of their length."""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from datasets import DatasetDict
from torch import nn
from transformers import BatchEncoding, DataCollatorForSeq2Seq, PreTrainedTokenizerBase, TrainingArguments

from hf_vanilla.data.labelled import cell

Batch = dict[str, list[Any]]
"""Columns of rows."""


def encode(
    splits: DatasetDict, training: TrainingArguments, function: Callable[..., Batch | BatchEncoding], **options: object
) -> DatasetDict:
    """Return what `function` makes of the rows. The first process does so first, and the others read its cache.

    Args:
        function: called with columns of a batch of rows, the numbers of these rows, and `split=`, their split.
        options: told `function`, too.
    """
    encoded = DatasetDict()
    with training.main_process_first():
        for split, rows in splits.items():
            told = {"fn_kwargs": {"split": split, **options}, "with_indices": True, "batched": True}
            encoded[split] = rows.map(function, remove_columns=rows.column_names, **told)
    return encoded


def sequence_limit(model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None) -> int | None:
    """Return how many tokens the model takes; None for no limit, as with sinusoidal positions.

    Raises:
        ValueError: `max_seq_length` is more than that, or leaves no room for a text.
    """
    config: Any = model.config
    limits = [tokenizer.model_max_length]
    if getattr(config, "position_embedding_type", None) != "sinusoidal":
        positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        # RoBERTa's positions begin after that of padding.
        tables = [layer for name, layer in model.named_modules() if name.endswith("position_embeddings")]
        padded = [index for table in tables if (index := getattr(table, "padding_idx", None)) is not None]
        limits.append(positions - max(padded, default=-1) - 1)
    limit = min(limits) if min(limits) < 10**9 else None  # a tokenizer without a limit has one of 10**30
    if limit is not None and max_seq_length is not None and max_seq_length > limit:
        raise ValueError(f"max_seq_length is {max_seq_length}, the model takes {limit} tokens")
    if max_seq_length is not None and max_seq_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"max_seq_length is {max_seq_length}, and the tokenizer adds {special}: no room for a text")
    return limit


def check_lengths(encoded: DatasetDict, column: str, limit: int | None, ids: str = "input_ids") -> None:
    """Raise `ValueError` for the first row of more tokens than a model takes.

    Args:
        column: the column of the text, for the error.
        ids: the column of its tokens, or of a list of them for each choice.
    """
    if limit is None:
        return
    for split, rows in encoded.items():
        for row, tokens in enumerate(rows[ids] if ids in rows.column_names else ()):
            length = max(map(len, tokens)) if tokens and isinstance(tokens[0], list) else len(tokens)
            if length > limit:
                raise ValueError(
                    f"{cell(split, row, column)} has {length} tokens, the model takes {limit}: "
                    "shorten it, or give --max_seq_length"
                )


def encode_words(
    rows: Batch,
    indices: Sequence[int],
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    column: str,
    labels: Mapping[str, list[list[int]]],
    max_length: int | None,
    unspaced: bool,
) -> BatchEncoding:
    """Return texts of words as tokens, with the label of each word at its first token.

    Args:
        labels: an id for each word of `column`, in the splits that have labels.
        unspaced: true if no spaces stand between the words.

    Returns:
        What the tokenizer gives; `first`, true for the first token of a word; and, where there are labels, `labels`,
        -100 for the other tokens.

    Raises:
        ValueError: the tokenizer makes no token of a word.
    """
    # A byte-level tokenizer takes a word without a space before it for the start of a text.
    space = "" if unspaced or "".join(tokenizer.tokenize(" a")) == "a" else " "
    texts = [[(space if i else "") + word for i, word in enumerate(words)] for words in rows[column]]
    batch = tokenizer(texts, is_split_into_words=True, truncation=max_length is not None, max_length=max_length)
    batch["first"] = []
    if split in labels:
        batch["labels"] = []
    for number, (index, words) in enumerate(zip(indices, rows[column], strict=True)):
        word_ids = batch.word_ids(number)
        first = [
            word is not None and word != before for word, before in zip(word_ids, [None, *word_ids], strict=False)
        ]
        seen = list(compress(word_ids, first))
        is_whole = max_length is None or len(word_ids) < max_length
        if seen != list(range(len(words) if is_whole else len(seen))):
            raise ValueError(f"{cell(split, index, column)} holds a word that is no token: leave the row out")
        batch["first"].append(first)
        if split in labels:
            of_word = labels[split][index]
            batch["labels"].append(
                [of_word[word] if begins else -100 for word, begins in zip(word_ids, first, strict=True)]
            )
    return batch


def decode(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return generated texts without special tokens, for ids (rows, length) that are -100 after the end of a row."""
    texts = tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
    return [text.strip() for text in texts]


class TranslationCollator(DataCollatorForSeq2Seq):
    """The stock collator, which gives None for labels that rows lack; Seq2SeqTrainer would take that for labels."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        """Return a padded batch of encoded rows."""
        batch = super().__call__(features, return_tensors)
        return {name: values for name, values in batch.items() if values is not None}
