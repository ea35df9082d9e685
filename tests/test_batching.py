"""Batches by tokens: complete, within budget, little padded, and the same for any number of processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla.batching import TokenBatchSampler


def sentence_lengths(count=20_000, seed=0):
    """Lengths like those of `verses`: source about 36 tokens, the target within some 15 % of it."""
    random = np.random.default_rng(seed)
    source = np.clip(random.gamma(5.0, 7.0, count), 3, 120).astype(int)
    return source, np.clip(source * random.normal(1.05, 0.15, count), 3, 120).astype(int)


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(10, 300),
    num_processes=st.integers(1, 4),
    accumulation_steps=st.integers(1, 2),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 5),
)
def test_each_example_comes_once_an_epoch_in_equally_many_batches_for_each_process(
    count, num_processes, accumulation_steps, epoch, seed
):
    source, target = sentence_lengths(count, seed)
    shares = []
    for process_index in range(num_processes):
        sampler = TokenBatchSampler(
            source,
            target,
            2000,
            num_processes=num_processes,
            process_index=process_index,
            accumulation_steps=accumulation_steps,
            seed=seed,
            pool_batches=2,
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) and all(shares[-1])
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) % accumulation_steps == 0
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(count))


@pytest.mark.parametrize("num_processes, accumulation_steps", [(2, 1), (1, 4), (2, 3)])
def test_global_batches_do_not_depend_on_processes_or_accumulation(num_processes, accumulation_steps):
    source, target = sentence_lengths(2000)
    shares = [
        list(
            TokenBatchSampler(
                source,
                target,
                2000,
                num_processes=num_processes,
                process_index=process_index,
                accumulation_steps=accumulation_steps,
            )
        )
        for process_index in range(num_processes)
    ]
    updates = [
        {row for share in shares for batch in share[start : start + accumulation_steps] for row in batch}
        for start in range(0, len(shares[0]), accumulation_steps)
    ]
    assert updates == [set(batch) for batch in TokenBatchSampler(source, target, 2000)]


def test_batches_keep_the_budget_and_waste_at_most_five_percent():
    source, target = sentence_lengths()
    sampler = TokenBatchSampler(source, target, 3000)
    padded = [len(batch) * np.array([source[batch].max(), target[batch].max()]) for batch in sampler]
    # Two share what is left at the end.
    assert np.sort(np.max(padded, axis=1))[-3] <= 3000
    assert 1 - (source.sum() + target.sum()) / np.sum(padded) < 0.05


def test_order_is_a_matter_of_seed_and_epoch_alone():
    source, target = sentence_lengths(1000)

    def batches(seed, epoch):
        sampler = TokenBatchSampler(source, target, 1000, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3) and batches(1, 2) != batches(2, 2)


def test_the_parts_of_a_batch_are_of_equal_work():
    source, target = sentence_lengths()
    shares = [TokenBatchSampler(source, target, 4000, num_processes=2, process_index=index) for index in range(2)]
    for first, second in zip(*shares, strict=True):
        assert 0 <= len(first) - len(second) <= 1


def test_what_cannot_be_dealt_out_is_refused():
    with pytest.raises(ValueError, match="batch_tokens is 100; expected at least 240: 2 x 60 tokens"):
        TokenBatchSampler([5, 60], [7, 3], 100, num_processes=2)
    with pytest.raises(ValueError, match="2 examples cannot be dealt out to 3 micro-batches"):
        TokenBatchSampler([5, 6], [7, 3], 100, accumulation_steps=3)
