"""Batches of about equally many tokens, made of sentences of about equal length (section 5.1 of the paper)."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class TokenBatchSampler(Sampler[list[int]]):
    """Each example once an epoch, in batches that are the same whatever the number of processes.

    An epoch is shuffled, cut into pools, sorted by length within each pool, and cut into *global* batches: the
    examples of one update. The global batches are shuffled, and each is dealt out, example by example, to all
    processes and their micro-batches, so that these get equal work.

    Args:
        source_lengths, target_lengths: tokens of each example.
        batch_tokens: the most tokens, padding included, that either side of a global batch may have (the paper: about
            25,000). Only the two that share what is left at the end of an epoch may go slightly over it.
        num_processes, process_index: who shares the global batches, and whose share this is.
        accumulation_steps: the micro-batches that each process makes of its share; they are yielded in turn.
        seed: with the epoch set by `set_epoch`, decides every order.
        pool_batches: how many batches are sorted together. More means less padding and less random batches.

    Raises:
        ValueError: there are fewer examples than micro-batches, or the longest examples would not fit.
    """

    def __init__(
        self,
        source_lengths: Sequence[int],
        target_lengths: Sequence[int],
        batch_tokens: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        accumulation_steps: int = 1,
        seed: int = 0,
        pool_batches: int = 200,
    ) -> None:
        self.lengths = np.array([source_lengths, target_lengths])
        self.accumulation_steps = accumulation_steps
        self.parts = num_processes * accumulation_steps
        if self.lengths.shape[1] < self.parts:
            raise ValueError(f"{self.lengths.shape[1]} examples cannot be dealt out to {self.parts} micro-batches")
        longest = self.lengths.max()
        if 2 * longest * self.parts > batch_tokens:
            raise ValueError(
                f"batch_tokens is {batch_tokens}; expected at least {2 * longest * self.parts}: 2 x {longest} tokens "
                f"(the longest example) x {num_processes} processes x {accumulation_steps} micro-batches"
            )
        self.batch_tokens = batch_tokens
        self.own_parts = range(process_index, self.parts, num_processes)
        self.seed = seed
        self.pool_size = max(1, int(pool_batches * batch_tokens / self.lengths.mean(axis=1).max()))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of epoch number `epoch`."""
        random = np.random.default_rng([self.seed, epoch])
        shuffled = random.permutation(self.lengths.shape[1])
        order: list[int] = []
        for number, start in enumerate(range(0, len(shuffled), self.pool_size)):
            pool = shuffled[start : start + self.pool_size]
            source, target = self.lengths[:, pool]
            # Sorted by the longer side, then by which side that is, there and back; and each second pool backwards, so
            # that neighbours are alike across every border.
            longest, surplus = np.maximum(source, target), source - target
            pool = pool[np.lexsort((np.where(longest % 2, surplus, -surplus), longest))]
            order.extend(pool[:: -1 if number % 2 else 1])
        batches = self._cut(order)
        self.batches = [batches[index] for index in random.permutation(len(batches))]

    def _cut(self, order: list[int]) -> list[list[int]]:
        batches: list[list[int]] = [[]]
        longest = 0
        for example in order:
            longest = max(longest, self.lengths[:, example].max())
            if longest * (len(batches[-1]) + 1) > self.batch_tokens:
                batches.append([])
                longest = self.lengths[:, example].max()
            batches[-1].append(int(example))
        if len(batches) > 1:  # The last may be a single example, which could not be dealt out.
            rest = batches.pop() + batches.pop()
            batches += [rest[::2], rest[1::2]]
        return batches

    def __len__(self) -> int:
        return len(self.batches) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            for part in self.own_parts:
                yield batch[part :: self.parts]
