"""Batches of about equally many tokens (section 5.1 of the paper)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from torch.utils.data import IterableDataset, Sampler

Example = Mapping[str, Sequence[int]]
"""The columns of one example, such as its `input_ids` and `labels`."""


@dataclass(eq=False)
class TokenBatches:
    """Cuts examples into batches, and knows the share of one process in them.

    An epoch is shuffled, cut into pools, sorted by length within each, and cut into *global* batches: the examples of
    one update. These are shuffled, and each is dealt out to all processes and their micro-batches in turn, so that
    they get equal work.
    """

    batch_tokens: int  # the most tokens, with padding, of any side of a global batch (the paper: about 25,000)
    num_processes: int = 1  # the processes that share the global batches
    process_index: int = 0  # the number of this process among them
    accumulation_steps: int = 1  # the micro-batches of each process in a global batch, which are yielded in turn
    seed: int = 0  # determines every order, with the epoch set by `set_epoch`
    pool_batches: int = 200  # how many are sorted together; more means less padding and less random batches

    def __post_init__(self) -> None:
        self.parts = self.num_processes * self.accumulation_steps
        self.pool_tokens = self.pool_batches * self.batch_tokens

    def share_of(self, batch: np.ndarray) -> list[list[int]]:
        """Return the examples of a global batch that this process gets, by micro-batch."""
        own = range(self.process_index, self.parts, self.num_processes)
        return [batch[part :: self.parts].tolist() for part in own]

    def check(self, lengths: np.ndarray) -> None:
        """Raise a ValueError unless each micro-batch gets an example, and has room for two of the longest.

        `lengths` are (sides, examples), in tokens.
        """
        examples, longest = lengths.shape[1], int(lengths.max(initial=0))
        if examples < self.parts:
            raise ValueError(f"{examples} examples cannot be dealt out to {self.parts} micro-batches")
        if self.batch_tokens < (least := 2 * longest * self.parts):
            needed = f"2 x {longest} tokens (the longest example) x {self.num_processes} processes"
            needed += f" x {self.accumulation_steps} micro-batches"
            raise ValueError(f"batch_tokens is {self.batch_tokens}; expected at least {least}: {needed}")

    def cut(self, lengths: np.ndarray, pool_size: int, *place: int) -> list[np.ndarray]:
        """Return the numbers of all examples of `lengths` (sides, examples) in shuffled global batches.

        `pool_size` examples are sorted together; with the seed, `place` (the epoch, ...) determines the order.
        """
        random = np.random.default_rng([self.seed, *place])
        order = sort_in_pools(lengths, random.permutation(lengths.shape[1]), pool_size)
        longest_side = lengths.max(axis=0)[order]
        borders, longest = [0], 0
        for position, length in enumerate(longest_side.tolist()):
            longest = max(longest, length)
            if longest * (position + 1 - borders[-1]) > self.batch_tokens:
                borders.append(position)
                longest = length
        if len(borders) > 1:
            # The last batch may hold a single example: it takes from the one before as long as it does not get larger
            # than what remains of that, and in any case until it can be dealt out.
            start, middle = borders[-2:]
            while middle - start - 1 > self.parts and (
                len(order) - middle < self.parts
                or longest_side[middle - 1 :].max() * (len(order) - middle + 1)
                <= longest_side[start : middle - 1].max() * (middle - start - 1)
            ):
                middle -= 1
            borders[-1] = middle
        batches = np.split(order, borders[1:])
        return [batches[index] for index in random.permutation(len(batches))]


class TokenBatchSampler(TokenBatches, Sampler[list[int]]):
    """Yield the row numbers of batches that hold each example once an epoch, whatever the number of processes.

    `lengths` (sides, examples) are the tokens of each example; a translation has a source and a target side. The other
    arguments are those of `TokenBatches`, and lengths that do not pass its `check` are a ValueError.
    """

    def __init__(self, lengths: Sequence[Sequence[int]] | np.ndarray, batch_tokens: int, **share: int) -> None:
        super().__init__(batch_tokens, **share)
        self.lengths = np.asarray(lengths)
        self.check(self.lengths)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Draw the batches of epoch number `epoch`, and leave out the first `start` global ones, to resume there."""
        pool_size = max(1, int(self.pool_tokens / self.lengths.mean(axis=1).max()))
        self.batches, self.start = self.cut(self.lengths, pool_size, epoch), start

    def __len__(self) -> int:
        return (len(self.batches) - self.start) * self.accumulation_steps

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches[self.start :]:
            yield from self.share_of(batch)


class TokenBatchStream(TokenBatches, IterableDataset):
    """Yield batches as `TokenBatchSampler` does, as lists of examples, from a stream of unknown length.

    Two pools at most are in memory. Every process reads the whole stream and takes its share of each global batch; to
    resume, it reads the stream again and leaves out the batches that are done.

    `examples` are shuffled by their own `shuffle`, in another order in each epoch; the lengths of `columns` count. The
    other arguments are those of `TokenBatches`.
    """

    def __init__(
        self, examples: datasets.IterableDataset, columns: Sequence[str], batch_tokens: int, **share: int
    ) -> None:
        super().__init__(batch_tokens, **share)
        self.examples = examples.shuffle(seed=self.seed, buffer_size=10_000)
        self.columns = columns
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.examples.set_epoch(epoch)
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[Example]]:
        done = 0
        for number, pool in enumerate(self._pools()):
            lengths = np.array([[len(example[column]) for example in pool] for column in self.columns])
            self.check(lengths)
            for batch in self.cut(lengths, len(pool), self.epoch, number):
                if done >= self.start:
                    yield from ([pool[row] for row in rows] for rows in self.share_of(batch))
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
            yield rest


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
