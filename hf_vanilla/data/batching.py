"""Batches of about equally many tokens (section 5.1 of the paper)."""

from collections.abc import Iterator, Mapping, Sequence

import datasets
import numpy as np
from torch.utils.data import IterableDataset, Sampler

Example = Mapping[str, Sequence[int]]
"""The columns of one example, such as its `input_ids` and `labels`."""
Lengths = Sequence[Sequence[int]] | np.ndarray


class TokenBatchSampler(Sampler[list[int]]):
    """Yield the row numbers of batches that hold each example once an epoch, whatever the number of processes.

    An epoch is shuffled, cut into pools, sorted by length within each pool, and cut into *global* batches: the
    examples of one update. The global batches are shuffled, and the examples of each are dealt out to all processes
    and their micro-batches in turn, so that these get equal work.

    Args:
        lengths: (sides, examples): tokens of each example; a translation has a source and a target side.
        batch_tokens: the most tokens, padding included, that any side of a global batch may have (the paper: about
            25,000).
        num_processes: how many processes share the global batches.
        process_index: which of them this one is, from 0.
        accumulation_steps: into how many micro-batches each process divides its share; they are yielded in turn.
        seed: with the epoch set by `set_epoch`, determines every order.
        pool_batches: how many batches are sorted together. More means less padding and less random batches.

    Raises:
        ValueError: there are fewer examples than micro-batches, or the longest examples do not fit into the budget.
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
        check_parts(self.lengths.shape[1], self.parts)
        check_budget(batch_tokens, int(self.lengths.max()), num_processes, accumulation_steps)
        self.batch_tokens = batch_tokens
        self.own_parts = range(process_index, self.parts, num_processes)
        self.seed = seed
        self.pool_size = max(1, int(pool_batches * batch_tokens / self.lengths.mean(axis=1).max()))
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Draw the batches of epoch number `epoch`, and leave out the first `start` global ones, to resume there."""
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
    """Yield batches as `TokenBatchSampler` does, as lists of examples, from a stream of unknown length.

    Two pools at most are in memory. Every process reads the whole stream and takes its share of each global batch; to
    resume, it reads the stream again and leaves out the batches that are done.

    Args:
        examples: a streaming data set, which is shuffled by its own `shuffle`, in another order in each epoch.
        columns: the columns whose lengths count.
        batch_tokens, num_processes, process_index, accumulation_steps, seed, pool_batches: as for
            `TokenBatchSampler`.
    """

    def __init__(
        self,
        examples: datasets.IterableDataset,
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
        """Set the order of epoch number `epoch`, and leave out its first `start` global batches, to resume there."""
        self.examples.set_epoch(epoch)
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[list[Example]]:
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

    def _pools(self) -> Iterator[list[Example]]:
        complete: list[Example] = []
        growing: list[Example] = []
        tokens = 0
        for example in self.examples:
            growing.append(example)
            tokens += max(len(example[column]) for column in self.columns)
            if tokens >= self.pool_tokens:
                if complete:
                    yield complete
                complete, growing, tokens = growing, [], 0
        # The rest joins the last complete pool, for by itself it may be too small to be dealt out.
        if rest := complete + growing:
            check_parts(len(rest), self.parts)
            yield rest


def check_parts(examples: int, parts: int) -> None:
    """Raise a ValueError if there is not an example for each of so many micro-batches."""
    if examples < parts:
        raise ValueError(f"{examples} examples cannot be dealt out to {parts} micro-batches")


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
    """Return all examples, by number, in batches of at least `parts` examples and at most `batch_tokens` a side.

    `lengths` are (sides, examples), in tokens; `pool_size` examples are sorted together; `random` shuffles the
    examples and the batches.
    """
    order = sort_in_pools(lengths, random.permutation(lengths.shape[1]), pool_size)
    longest_side = lengths.max(axis=0)[order]
    borders = [0]
    longest = 0
    for position, length in enumerate(longest_side.tolist()):
        longest = max(longest, length)
        if longest * (position + 1 - borders[-1]) > batch_tokens:
            borders.append(position)
            longest = length
    if len(borders) > 1:
        # The last batch may hold a single example: it takes from the one before as long as it does not get larger
        # than what remains of that, and in any case until it can be dealt out.
        start, middle = borders[-2], borders[-1]
        while middle - start - 1 > parts and (
            len(order) - middle < parts
            or longest_side[middle - 1 :].max() * (len(order) - middle + 1)
            <= longest_side[start : middle - 1].max() * (middle - start - 1)
        ):
            middle -= 1
        borders[-1] = middle
    batches = np.split(order, borders[1:])
    return [batches[index] for index in random.permutation(len(batches))]


def sort_in_pools(lengths: np.ndarray, shuffled: np.ndarray, pool_size: int) -> np.ndarray:
    """Return examples in an order in which neighbours are of like lengths, across the borders of pools, too.

    Each pool is sorted by the longer side, and examples of the same by the difference between the sides, in turn
    upwards and downwards; each second pool is sorted backwards.
    """
    pools = []
    for number, start in enumerate(range(0, len(shuffled), pool_size)):
        pool = shuffled[start : start + pool_size]
        longest, surplus = lengths[:, pool].max(axis=0), lengths[0, pool] - lengths[-1, pool]
        pool = pool[np.lexsort((np.where(longest % 2, surplus, -surplus), longest))]
        pools.append(pool[::-1] if number % 2 else pool)
    return np.concatenate(pools)
