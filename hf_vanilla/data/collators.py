"""From examples to batches of tensors, for masked and causal language modelling."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_vanilla.data.batching import Example

Collator = Callable[[Sequence[Example]], BatchEncoding]


@dataclass
class MaskedLanguageModelCollator:
    """Pad examples, and mask them as BERT does: 15 % of the tokens that are not special, at least one, are predicted.

    Of these, 80 % become `<mask>`, 10 % become a random token that is not special, and 10 % stay. The masks depend on
    the seed, the epoch and the sentence alone, so that neither workers nor processes nor a restart change them.

    Args:
        tokenizer: has a mask token.
        seed: of the masks; `epoch` may be changed between epochs.
        whole_words: mask all tokens of a word together. Examples must then hold `word_ids` (int, -1 for special
            tokens); a word that would exceed 15 % is passed over for another.
        probability: the share of tokens to predict.

    Called with examples that hold `input_ids`, it returns `input_ids`, `attention_mask` and `labels` (batch, length),
    int64; labels are -100 where nothing is predicted.

    Raises:
        ValueError: the tokenizer has no mask token.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int = 0
    whole_words: bool = False
    probability: float = 0.15
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token; train one with family='encoder'")
        self.special_ids = np.array(self.tokenizer.all_special_ids)
        self.ordinary_ids = np.setdiff1d(np.arange(len(self.tokenizer)), self.special_ids)

    def __call__(self, examples: Sequence[Example]) -> BatchEncoding:
        masked = [self.mask(example) for example in examples]
        batch = self.tokenizer.pad({"input_ids": [inputs.tolist() for inputs, _ in masked]}, return_tensors="pt")
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for row, (_, labels) in zip(batch["labels"], masked, strict=True):
            own = slice(None, len(labels)) if self.tokenizer.padding_side == "right" else slice(-len(labels), None)
            row[own] = torch.from_numpy(labels)
        return batch

    def mask(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Return the input ids and the labels of one example, both (length), int64."""
        input_ids = np.array(example["input_ids"], dtype=np.int64)
        random = np.random.default_rng([self.seed, self.epoch, zlib.crc32(input_ids.tobytes())])
        candidates = np.flatnonzero(~np.isin(input_ids, self.special_ids))
        labels = np.full_like(input_ids, -100)
        if not len(candidates):
            return input_ids, labels
        wanted = max(1, round(self.probability * len(candidates)))
        words = np.array(example["word_ids"])[candidates] if self.whole_words else candidates
        chosen: list[int] = []
        for word in random.permutation(np.unique(words)):
            tokens = candidates[words == word]
            if len(chosen) + len(tokens) <= wanted:
                chosen.extend(tokens)
            if len(chosen) >= wanted:
                break
        chosen = chosen or list(candidates[words == words[0]])  # every word has more tokens than wanted
        labels[chosen] = input_ids[chosen]
        fate = random.random(len(chosen))
        replacements = np.where(fate < 0.8, self.tokenizer.mask_token_id, input_ids[chosen])
        randomly = (fate >= 0.8) & (fate < 0.9)
        replacements[randomly] = random.choice(self.ordinary_ids, randomly.sum())
        input_ids[chosen] = replacements
        return input_ids, labels


def pack_documents(
    documents: Iterable[Sequence[int]], block_length: int, pad_token_id: int
) -> dict[str, list[np.ndarray]]:
    """Join documents, and cut them into blocks of `block_length` tokens. Only the last block is padded.

    Returns:
        `input_ids` and `position_ids`: for each block, a row (block_length), int32. Positions begin at 0 with each
        document and each block, which tells the models that documents must not attend to each other. Each padding
        token is a document of its own.
    """
    arrays = [np.asarray(document, dtype=np.int32) for document in documents]
    tokens = np.concatenate(arrays)
    starts = np.cumsum([0, *map(len, arrays)])[:-1]
    padding = -len(tokens) % block_length
    starts = np.union1d(starts, np.arange(0, len(tokens) + padding, block_length))
    starts = np.union1d(starts, np.arange(len(tokens), len(tokens) + padding)).astype(int)
    positions = np.arange(len(tokens) + padding)
    positions -= np.repeat(starts, np.diff(starts, append=len(positions)))
    tokens = np.concatenate([tokens, np.full(padding, pad_token_id, dtype=np.int32)])
    return {
        "input_ids": list(tokens.reshape(-1, block_length)),
        "position_ids": list(positions.astype(np.int32).reshape(-1, block_length)),
    }


def causal_language_model_collator(examples: Sequence[Example]) -> BatchEncoding:
    """Stack blocks of `pack_documents`, as `input_ids`, `position_ids` and `labels` (batch, block_length), int64.

    Labels are the tokens, which the models shift themselves: the logits at t - 1 predict the label at t. They are -100
    at the first token of each document, which follows from nothing, and at padding.
    """
    batch = {
        name: torch.from_numpy(np.array([example[name] for example in examples], dtype=np.int64))
        for name in ("input_ids", "position_ids")
    }
    return BatchEncoding(batch | {"labels": batch["input_ids"].masked_fill(batch["position_ids"] == 0, -100)})
