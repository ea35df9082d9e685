"""Rows of text as a model reads them, and the limits of their length."""

from collections.abc import Callable, Sequence
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

    It is called with columns of a batch of rows, the numbers of these rows, and, by name, their `split` and `options`.
    """
    encoded = DatasetDict()
    with training.main_process_first():
        for split, rows in splits.items():
            told = {"fn_kwargs": {"split": split, **options}, "with_indices": True, "batched": True}
            encoded[split] = rows.map(function, remove_columns=rows.column_names, **told)
    return encoded


def sequence_limit(model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None) -> int | None:
    """Return how many tokens the model takes; None for no limit, as with sinusoidal positions.

    `ValueError`: `max_seq_length` is more than that, or leaves no room for a text.
    """
    config: Any = model.config
    limit = tokenizer.model_max_length
    if getattr(config, "position_embedding_type", None) != "sinusoidal":
        tables = [layer for name, layer in model.named_modules() if name.endswith("position_embeddings")]
        padding = [index for table in tables if (index := getattr(table, "padding_idx", None)) is not None]
        positions = getattr(config, "max_position_embeddings", None) or limit
        limit = min(limit, positions - max(padding, default=-1) - 1)  # RoBERTa's begin after that of padding
    if max_seq_length is not None and max_seq_length > limit:
        raise ValueError(f"max_seq_length is {max_seq_length}, the model takes {limit} tokens")
    if max_seq_length is not None and max_seq_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"max_seq_length is {max_seq_length}, and the tokenizer adds {special}: no room for a text")
    return limit if limit < 10**9 else None  # a tokenizer without a limit has one of 10**30


def check_lengths(encoded: DatasetDict, column: str, limit: int | None, ids: str = "input_ids") -> None:
    """Raise `ValueError` for the first row of more tokens than a model takes, named by `column`, that of its text.

    The column `ids` holds its tokens, or a list of them for each choice.
    """
    if limit is None:
        return
    for split, rows in encoded.items():
        for row, tokens in enumerate(rows[ids] if ids in rows.column_names else ()):
            length = max(map(len, tokens)) if tokens and isinstance(tokens[0], list) else len(tokens)
            if length > limit:
                too_long = f"{cell(split, row, column)} has {length} tokens, the model takes {limit}"
                raise ValueError(f"{too_long}: shorten it, or give --max_seq_length")


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
    batch = tokenizer(texts, is_split_into_words=True, truncation=max_length is not None, max_length=max_length)
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


def label_first_tokens(encoded: DatasetDict, labels: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Return the label of each word at its first token, and -100 at the others, in the splits that have `labels`."""
    found = {}
    for split, of_split in labels.items():
        pairs = zip(encoded[split]["first"], map(iter, of_split), strict=True)
        found[split] = [[next(of_words) if begins else -100 for begins in first] for first, of_words in pairs]
    return found


def decode(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return generated texts without special tokens, for ids (rows, length) that are -100 after the end of a row."""
    texts = tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
    return [text.strip() for text in texts]


class TranslationCollator(DataCollatorForSeq2Seq):
    """The stock collator, which gives None for labels that rows lack; Seq2SeqTrainer would take that for labels."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        return {name: of for name, of in super().__call__(features, return_tensors).items() if of is not None}
