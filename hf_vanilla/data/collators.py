"""From examples to batches of tensors, for masked and causal language modelling."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_vanilla.data.batching import Example

Collator = Callable[[Sequence[Example]], BatchEncoding]


@dataclass
class MaskedLanguageModelCollator:
    """Pad examples, and mask them as BERT does: 15 % of the tokens that are not special, at least one, are predicted.

    Of these, 80 % become `<mask>`, 10 % become a random token that is not special, and 10 % stay. The masks depend on
    the seed, the epoch and the sentence alone, so that neither workers nor processes nor a restart change them.

    With `whole_words`, all tokens of a word are masked together; examples must then hold `word_ids` (int, -1 for
    special tokens), and a word that would exceed 15 % is passed over for another; if each would, one is drawn.

    Called with examples that hold `input_ids`, it returns `input_ids`, `attention_mask` and `labels` (batch, length),
    int64; labels are -100 where nothing is predicted. A tokenizer without a mask token is a ValueError.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int = 0
    whole_words: bool = False
    epoch: int = 0  # may be changed between epochs

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token; train one with family='encoder'")
        self.special_ids = np.array(self.tokenizer.all_special_ids)
        self.ordinary_ids = np.setdiff1d(np.arange(len(self.tokenizer)), self.special_ids)

    def __call__(self, examples: Sequence[Example]) -> BatchEncoding:
        inputs, labels = zip(*map(self.mask, examples), strict=True)
        batch = self.tokenizer.pad({"input_ids": [ids.tolist() for ids in inputs]}, return_tensors="pt")
        rows, side = [torch.from_numpy(row) for row in labels], self.tokenizer.padding_side
        batch["labels"] = pad_sequence(rows, batch_first=True, padding_value=-100, padding_side=side)
        return batch

    def mask(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Return the input ids and the labels of one example, both (length), int64."""
        input_ids = np.array(example["input_ids"], dtype=np.int64)
        random = np.random.default_rng([self.seed, self.epoch, zlib.crc32(input_ids.tobytes())])
        candidates = np.flatnonzero(~np.isin(input_ids, self.special_ids))
        labels = np.full_like(input_ids, -100)
        if not len(candidates):
            return input_ids, labels
        wanted = max(1, round(0.15 * len(candidates)))
        words = np.array(example["word_ids"])[candidates] if self.whole_words else candidates
        chosen: list[int] = []
        order = random.permutation(np.unique(words))
        for word in order:
            tokens = candidates[words == word]
            if len(chosen) + len(tokens) <= wanted:
                chosen.extend(tokens)
            if len(chosen) >= wanted:
                break
        chosen = chosen or list(candidates[words == order[0]])
        labels[chosen] = input_ids[chosen]
        fate, chosen_ids = random.random(len(chosen)), np.array(chosen)
        randomly = chosen_ids[(fate >= 0.8) & (fate < 0.9)]
        input_ids[chosen_ids[fate < 0.8]] = self.tokenizer.mask_token_id
        input_ids[randomly] = random.choice(self.ordinary_ids, len(randomly))
        return input_ids, labels


def pack_documents(
    documents: Iterable[Sequence[int]], block_length: int, pad_token_id: int
) -> dict[str, list[np.ndarray]]:
    """Join documents, and cut them into blocks of `block_length` tokens. Only the last block is padded.

    Return `input_ids` and `position_ids`: for each block, a row (block_length), int32. Positions begin at 0 with each
    document and each block, which tells the models that documents must not attend to each other, in every
    implementation of attention, with and without labels, masks and caches. Nothing can be generated from such rows.
    Each padding token is a document of its own.
    """
    arrays = [np.asarray(document, dtype=np.int32) for document in documents]
    ends = np.cumsum([*map(len, arrays)])
    tokens = np.concatenate([*arrays, np.full(-ends[-1] % block_length, pad_token_id, dtype=np.int32)])
    places = np.arange(len(tokens))
    is_start = (places % block_length == 0) | (places >= ends[-1]) | np.isin(places, ends)
    positions = places - np.maximum.accumulate(np.where(is_start, places, 0))
    packed = {"input_ids": tokens, "position_ids": positions.astype(np.int32)}
    return {name: list(column.reshape(-1, block_length)) for name, column in packed.items()}


def causal_language_model_collator(examples: Sequence[Example]) -> BatchEncoding:
    """Stack blocks of `pack_documents`, as `input_ids`, `position_ids` and `labels` (batch, block_length), int64.

    Labels are the tokens, which the models shift themselves: the logits at t - 1 predict the label at t. They are -100
    at the first token of each document, which follows from nothing, and at padding.
    """
    ids, positions = (
        torch.from_numpy(np.array([example[name] for example in examples], dtype=np.int64))
        for name in ("input_ids", "position_ids")
    )
    return BatchEncoding(
        {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
    )
