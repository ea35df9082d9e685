"""From examples to batches of tensors, for each of the three tasks. Python itself touches no token: to collate the
25,000 tokens of a batch must take less time than a GPU takes to learn from them (`scripts/benchmark_collation.py`)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_vanilla.data.batching import Example

Collator = Callable[[Sequence[Example]], BatchEncoding]
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples are far from each other."""


def join(examples: Sequence[Example], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all tokens of a column in one row (tokens,), int64, and how many of them each example has (examples,)."""
    rows = [example[column] for example in examples]
    return np.concatenate(rows).astype(np.int64, copy=False), np.fromiter(map(len, rows), np.int64, len(rows))


def pad(
    tokens: np.ndarray, lengths: np.ndarray, padding: int, side: str = "right", multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Return `tokens` (tokens,) in rows of `lengths` (rows,), padded on a side to the longest, or from there to the
    next `multiple`: (rows, length), int64; and where they are (rows, length), bool."""
    places = np.arange(-(-lengths.max(initial=0) // multiple) * multiple)
    is_token = places < lengths[:, None] if side == "right" else places >= len(places) - lengths[:, None]
    padded = np.full(is_token.shape, padding, dtype=np.int64)
    padded[is_token] = tokens
    return torch.from_numpy(padded), torch.from_numpy(is_token)


class TranslationCollator:
    """Pad sources and targets, and shift targets right for the decoder, as `model` does it. Lengths are multiples of
    `pad_to_multiple_of`, so that shapes repeat.

    Called with examples that hold `input_ids` and `labels`, it returns `input_ids` and `attention_mask` (batch,
    source), `labels` and `decoder_input_ids` (batch, target), int64; labels are -100 where there is padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: Any, pad_to_multiple_of: int = 1) -> None:
        self.pad_token_id = tokenizer.pad_token_id
        self.options: dict[str, Any] = {"side": tokenizer.padding_side, "multiple": pad_to_multiple_of}
        self.shift_right = model.prepare_decoder_input_ids_from_labels

    def __call__(self, examples: Sequence[Example]) -> BatchEncoding:
        ids, mask = pad(*join(examples, "input_ids"), self.pad_token_id, **self.options)
        labels, _ = pad(*join(examples, "labels"), -100, **self.options)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        return BatchEncoding(batch | {"decoder_input_ids": self.shift_right(labels=labels)})


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
    pad_to_multiple_of: int = 1
    epoch: int = 0  # may be changed between epochs

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token; train one with family='encoder'")
        if self.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token; give it one as `pad_token`")
        self.special_ids = np.array(self.tokenizer.all_special_ids)
        self.ordinary_ids = np.setdiff1d(np.arange(len(self.tokenizer)), self.special_ids)

    def __call__(self, examples: Sequence[Example]) -> BatchEncoding:
        tokens, lengths = join(examples, "input_ids")
        bits = random_bits(tokens, lengths, self.seed, self.epoch)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        candidates = np.flatnonzero(~np.isin(tokens, self.special_ids))
        # Each row's candidates in random order: the row above, random bits below.
        order = (rows[candidates].astype(np.uint64) << np.uint64(40)) | (bits[candidates] >> np.uint64(24))
        candidates = candidates[order.argsort(kind="stable")]
        counts = np.bincount(rows[candidates], minlength=len(lengths))
        wanted = np.maximum(np.rint(0.15 * counts), 1).astype(np.int64)
        if self.whole_words:
            words = join(examples, "word_ids")[0][candidates]
            parts = np.split(np.arange(len(candidates)), counts.cumsum()[:-1])
            rows_of = zip(parts, wanted.tolist(), strict=True)
            drawn = [part[draw_words(words[part], candidates[part], most)] for part, most in rows_of]
            chosen = candidates[np.concatenate(drawn)]
        else:
            rank = np.arange(len(candidates)) - np.repeat(counts.cumsum() - counts, counts)
            chosen = candidates[rank < np.repeat(wanted, counts)]

        labels, inputs = np.full_like(tokens, -100), tokens.copy()
        labels[chosen] = tokens[chosen]
        fate = (scramble(bits[chosen] + np.uint64(1)) >> np.uint64(11)) * 2.0**-53
        inputs[chosen[fate < 0.8]] = self.tokenizer.mask_token_id
        randomly = chosen[(fate >= 0.8) & (fate < 0.9)]
        others = scramble(bits[randomly] + np.uint64(2)) % np.uint64(len(self.ordinary_ids))
        inputs[randomly] = self.ordinary_ids[others.astype(np.int64)]
        layout: dict[str, Any] = {"side": self.tokenizer.padding_side, "multiple": self.pad_to_multiple_of}
        ids, mask = pad(inputs, lengths, self.tokenizer.pad_token_id, **layout)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": pad(labels, lengths, -100, **layout)[0]}
        return BatchEncoding(batch)


@dataclass
class Counted:
    """A collator, with what the host knows of its batches, so that it need not ask the device, which would keep both
    waiting. A batch then also holds

    - `counts`: its target `tokens`, the positions that are `filled` with tokens, and all of its `slots`, int;
    - `loss_places`: where there are labels among all positions (labels,), int64; with `next_tokens` they are those of
      the tokens before;
    - if they are asked for, and rows have padding at their end alone: `row_lengths`, how many tokens there are in each
      row of the "source" and, if there is one, of the "target", ints (batch,);
    - where a row holds several documents, `cu_seq_lens_q` and `cu_seq_lens_k`: where in all positions they begin and
      the last one ends (documents + 1,), int32; and `max_length_q` and `max_length_k`, how long the longest is, int.
    """

    collator: Collator
    next_tokens: bool = False  # whether each position has the label of the next one, as in causal language models
    row_lengths: bool = False  # whether to give them, for models that can leave padding out on a GPU

    def __call__(self, examples: Sequence[Example]) -> BatchEncoding:
        batch = self.collator(examples)
        labels = batch["labels"]
        has_label = labels != -100
        tokens, slots = int(has_label.sum()), batch["input_ids"].numel()
        filled = int(batch["attention_mask"].sum()) if "attention_mask" in batch else slots
        if "decoder_input_ids" in batch:
            filled, slots = filled + tokens, slots + labels.numel()
        if "position_ids" in batch:
            starts = (batch["position_ids"] == 0).flatten().nonzero().squeeze(1).int()
            borders = torch.cat((starts, starts.new_tensor([slots])))
            longest = int(borders.diff().max())
            if len(starts) == len(labels):  # each row is one document: attention from position 0 needs no mask
                batch.pop("position_ids")
            else:
                batch.update({"cu_seq_lens_q": borders, "cu_seq_lens_k": borders})
                batch.update({"max_length_q": longest, "max_length_k": longest})
        if self.next_tokens:
            has_label = has_label[:, 1:].nonzero()
            places = has_label[:, 0] * labels.shape[1] + has_label[:, 1]
        else:
            places = has_label.flatten().nonzero().squeeze(1)
        if self.row_lengths and "attention_mask" in batch:
            masks = {"source": batch["attention_mask"].bool()}
            masks |= {"target": has_label} if "decoder_input_ids" in batch else {}
            counts = {side: mask.sum(1) for side, mask in masks.items()}
            begins = {side: torch.arange(mask.shape[1]) < counts[side][:, None] for side, mask in masks.items()}
            if all(mask.equal(begins[side]) for side, mask in masks.items()):
                batch["row_lengths"] = {side: tuple(count.tolist()) for side, count in counts.items()}
        batch.update({"loss_places": places, "counts": {"tokens": tokens, "filled": filled, "slots": slots}})
        return batch


def random_bits(tokens: np.ndarray, lengths: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return random bits for each of `tokens` (tokens,), uint64, by its place, the row of `lengths` (rows,) that it is
    in, seed and epoch."""
    ends = lengths.cumsum()
    places = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)
    steps = places.astype(np.uint64) * np.uint64(GOLDEN)
    run = scramble(scramble(np.array([seed]).astype(np.uint64)) + np.array([epoch], np.uint64))
    sums = np.cumsum(scramble(scramble(steps + run) + tokens.astype(np.uint64)))
    sums = np.concatenate((np.zeros(1, np.uint64), sums))
    of_rows = sums[ends] - sums[ends - lengths]
    return scramble(np.repeat(of_rows, lengths) + steps)


def scramble(numbers: np.ndarray) -> np.ndarray:
    """Return bits that look random for each of `numbers`, uint64: what SplitMix64 makes of its state (Steele et al.,
    2014, "Fast splittable pseudorandom number generators")."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def draw_words(words: np.ndarray, places: np.ndarray, most: int) -> np.ndarray:
    """Return which tokens of `words` (tokens,), in random order, to take, at most `most` of them, and of each word all
    or none: each word that still has room, in the order of their first tokens by `places`; the first if none has."""
    kinds, kind_of, sizes = np.unique(words, return_inverse=True, return_counts=True)
    in_text = places.argsort()
    order = in_text[np.unique(words[in_text], return_index=True)[1]].argsort()
    taken = np.zeros(len(kinds), dtype=bool)
    for kind in order:
        if sizes[kind] <= most:
            taken[kind], most = True, most - sizes[kind]
    taken[order[:1]] |= not taken.any()
    return np.flatnonzero(taken[kind_of])


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
    columns = (join(examples, name)[0].reshape(len(examples), -1) for name in ("input_ids", "position_ids"))
    ids, positions = map(torch.from_numpy, columns)
    return BatchEncoding(
        {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
    )
