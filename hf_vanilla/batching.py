"""Batches of about equally many tokens (section 5.1 of the paper), and what the language models learn from in them."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Sampler
from transformers import BatchEncoding, PreTrainedTokenizerBase

Lengths = Sequence[Sequence[int]] | np.ndarray


class TokenBatchSampler(Sampler[list[int]]):
    """Each example once an epoch, in batches that are the same whatever the number of processes.

    An epoch is shuffled, cut into pools, sorted by length within each pool, and cut into *global* batches: the
    examples of one update. The global batches are shuffled, and each is dealt out, example by example, to all
    processes and their micro-batches, so that these get equal work.

    Args:
        lengths: (sides, examples): tokens of each example; a translation has a source and a target side.
        batch_tokens: the most tokens, padding included, that any side of a global batch may have (the paper: about
            25,000).
        num_processes, process_index: who shares the global batches, and whose share this is.
        accumulation_steps: the micro-batches that each process makes of its share; they are yielded in turn.
        seed: with the epoch set by `set_epoch`, decides every order.
        pool_batches: how many batches are sorted together. More means less padding and less random batches.

    Raises:
        ValueError: there are fewer examples than micro-batches, or the longest examples would not fit.
    """

    def __init__(
        self,
        lengths: Lengths,
        batch_tokens: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        accumulation_steps: int = 1,
        seed: int = 0,
        pool_batches: int = 200,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.accumulation_steps = accumulation_steps
        self.parts = num_processes * accumulation_steps
        if self.lengths.shape[1] < self.parts:
            raise ValueError(f"{self.lengths.shape[1]} examples cannot be dealt out to {self.parts} micro-batches")
        check_budget(batch_tokens, int(self.lengths.max()), num_processes, accumulation_steps)
        self.batch_tokens = batch_tokens
        self.own_parts = range(process_index, self.parts, num_processes)
        self.seed = seed
        self.pool_size = max(1, int(pool_batches * batch_tokens / self.lengths.mean(axis=1).max()))
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Draw the batches of epoch number `epoch`, and leave out the first `start` of them: a run resumes there."""
        random = np.random.default_rng([self.seed, epoch])
        self.batches = cut_batches(self.lengths, self.batch_tokens, self.pool_size, self.parts, random)
        self.start = start

    def __len__(self) -> int:
        return (len(self.batches) - self.start) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches[self.start :]:
            for part in self.own_parts:
                yield batch[part :: self.parts].tolist()


class TokenBatchStream(IterableDataset):
    """What `TokenBatchSampler` does, for examples that come one after the other: yields lists of them.

    One pool at a time is in memory. Every process reads the whole stream and takes its share of each global batch; to
    resume, it reads again and leaves out what was done.

    Args:
        examples: a streaming data set; shuffled by its own `shuffle`, again in each epoch.
        columns: those whose lengths count.

    The others are as for `TokenBatchSampler`.
    """

    def __init__(
        self,
        examples: Any,
        columns: Sequence[str],
        batch_tokens: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        accumulation_steps: int = 1,
        seed: int = 0,
        pool_batches: int = 200,
    ) -> None:
        self.examples = examples.shuffle(seed=seed, buffer_size=10_000)
        self.columns = columns
        self.batch_tokens = batch_tokens
        self.pool_tokens = pool_batches * batch_tokens
        self.accumulation_steps = accumulation_steps
        self.num_processes = num_processes
        self.parts = num_processes * accumulation_steps
        self.own_parts = range(process_index, self.parts, num_processes)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Draw the batches of epoch number `epoch`, and leave out the first `start` of them: a run resumes there."""
        self.examples.set_epoch(epoch)
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        done = 0
        for number, pool in enumerate(self._pools()):
            lengths = np.array([[len(example[column]) for example in pool] for column in self.columns])
            check_budget(self.batch_tokens, int(lengths.max()), self.num_processes, self.accumulation_steps)
            random = np.random.default_rng([self.seed, self.epoch, number])
            for batch in cut_batches(lengths, self.batch_tokens, len(pool), self.parts, random):
                if done >= self.start:
                    for part in self.own_parts:
                        yield [pool[row] for row in batch[part :: self.parts]]
                done += 1

    def _pools(self) -> Iterator[list[dict[str, Any]]]:
        complete: list[dict[str, Any]] = []
        growing: list[dict[str, Any]] = []
        tokens = 0
        for example in self.examples:
            growing.append(example)
            tokens += max(len(example[column]) for column in self.columns)
            if tokens >= self.pool_tokens:
                if complete:
                    yield complete
                complete, growing, tokens = growing, [], 0
        # The rest may be too few to be dealt out.
        if rest := complete + growing:
            if len(rest) < self.parts:
                raise ValueError(f"{len(rest)} examples cannot be dealt out to {self.parts} micro-batches")
            yield rest


def check_budget(batch_tokens: int, longest: int, num_processes: int, accumulation_steps: int) -> None:
    """Raise a ValueError if a global batch cannot give two of the longest examples to each micro-batch."""
    least = 2 * longest * num_processes * accumulation_steps
    if batch_tokens < least:
        raise ValueError(
            f"batch_tokens is {batch_tokens}; expected at least {least}: 2 x {longest} tokens (the longest example) x "
            f"{num_processes} processes x {accumulation_steps} micro-batches"
        )


def cut_batches(
    lengths: np.ndarray, batch_tokens: int, pool_size: int, parts: int, random: np.random.Generator
) -> list[np.ndarray]:
    """All examples, in random order: batches of `parts` examples or more, of `batch_tokens` a side or less."""
    shuffled = random.permutation(lengths.shape[1])
    pools = []
    for number, start in enumerate(range(0, len(shuffled), pool_size)):
        pool = shuffled[start : start + pool_size]
        longest, surplus = lengths[:, pool].max(axis=0), lengths[0, pool] - lengths[-1, pool]
        # Sorted by the longer side, then by which side that is, there and back; and each second pool backwards, so
        # that neighbours are alike across every border.
        pool = pool[np.lexsort((np.where(longest % 2, surplus, -surplus), longest))]
        pools.append(pool[:: -1 if number % 2 else 1])
    order = np.concatenate(pools)
    borders = [0]
    longest_of_batch = 0
    for position, length in enumerate(lengths.max(axis=0)[order].tolist()):
        longest_of_batch = max(longest_of_batch, length)
        if longest_of_batch * (position + 1 - borders[-1]) > batch_tokens:
            borders.append(position)
            longest_of_batch = length
    batches = np.split(order, borders[1:])
    if len(batches) > 1:  # The last may be a single example: it gets some of the batch before it.
        rest = np.concatenate(batches[-2:])
        longest_at = lengths.max(axis=0)[rest]
        middle = len(batches[-2])
        while (
            len(rest) - middle < parts
            or longest_at[middle - 1 :].max() * (len(rest) - middle + 1)
            <= longest_at[: middle - 1].max() * (middle - 1)
        ) and middle - 1 > parts:
            middle -= 1
        batches[-2:] = [rest[:middle], rest[middle:]]
    return [batches[index] for index in random.permutation(len(batches))]


@dataclass
class MaskedLanguageModelCollator:
    """Pads, and masks as BERT does: 15 % of the tokens that are not special, at least one, are to be predicted.

    Of these, 80 % become `<mask>`, 10 % a random token that is not special, 10 % stay. What is masked depends on seed,
    epoch and the sentence itself, so that neither workers nor processes nor a restart change it.

    Args:
        tokenizer: with a mask token.
        seed: of the masks; `epoch` may be changed between epochs.
        whole_words: choose words, all of whose tokens are to be predicted; examples then hold `word_ids` (int, -1 for
            special tokens), and a word that would exceed 15 % gives way to another.
        probability: the share of tokens to predict.

    Called with examples that hold `input_ids`, it returns `input_ids`, `attention_mask` and `labels` (batch, length),
    int64; the labels are -100 where there is nothing to predict.
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

    def __call__(self, examples: Sequence[dict[str, Any]]) -> BatchEncoding:
        masked = [self.mask(example) for example in examples]
        batch = self.tokenizer.pad({"input_ids": [inputs.tolist() for inputs, _ in masked]}, return_tensors="pt")
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for row, (_, labels) in zip(batch["labels"], masked, strict=True):
            own = slice(None, len(labels)) if self.tokenizer.padding_side == "right" else slice(-len(labels), None)
            row[own] = torch.from_numpy(labels)
        return batch

    def mask(self, example: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Input ids and labels (length), int64, of one example."""
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
        chosen = chosen or list(candidates[words == words[0]])  # no word is as short as that
        labels[chosen] = input_ids[chosen]
        fate = random.random(len(chosen))
        replacements = np.where(fate < 0.8, self.tokenizer.mask_token_id, input_ids[chosen])
        randomly = (fate >= 0.8) & (fate < 0.9)
        replacements[randomly] = random.choice(self.ordinary_ids, randomly.sum())
        input_ids[chosen] = replacements
        return input_ids, labels


def pack_documents(documents: Iterable[Sequence[int]], block_length: int, pad_token_id: int) -> dict[str, list[Any]]:
    """Join documents, and cut them into blocks of `block_length` tokens; only the last is filled up with padding.

    Returns:
        `input_ids` and `position_ids`, a row for each block. Positions begin at 0 with each document and each block:
        from that the models see that documents must not attend to each other (padding is a document of its own each).
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


def causal_language_model_collator(examples: Sequence[dict[str, Any]]) -> BatchEncoding:
    """Stack blocks of `pack_documents`; labels are the tokens, but -100 where a document or padding begins.

    Position t of the labels is what the logits at t - 1 predict: the first token of a document follows from nothing.
    """
    batch = {
        name: torch.from_numpy(np.array([example[name] for example in examples], dtype=np.int64))
        for name in ("input_ids", "position_ids")
    }
    return BatchEncoding(batch | {"labels": batch["input_ids"].masked_fill(batch["position_ids"] == 0, -100)})


Collator = Callable[[Sequence[dict[str, Any]]], BatchEncoding]
