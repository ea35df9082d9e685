"""Batches of about equally many tokens (section 5.1 of the paper), and what the language models learn from in them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, Sampler

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
