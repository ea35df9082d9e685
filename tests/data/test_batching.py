"""Batches by tokens: complete, little padded, the same for any number of processes; masks as BERT's; packing."""

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla import VanillaDecoderConfig, VanillaDecoderForCausalLM
from hf_vanilla.data.batching import TokenBatchSampler, TokenBatchStream
from hf_vanilla.data.collators import (
    MaskedLanguageModelCollator,
    TranslationCollator,
    causal_language_model_collator,
    pack_documents,
)
from hf_vanilla.data.tokenization import train_tokenizer


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
            (source, target),
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
    for batches in zip(*shares, strict=True):
        batch = list(itertools.chain(*batches))
        assert len(batch) * max(source[batch].max(), target[batch].max()) <= 2000
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(count))


@pytest.mark.parametrize("num_processes, accumulation_steps", [(2, 1), (1, 4), (2, 3)])
def test_global_batches_do_not_depend_on_processes_or_accumulation(num_processes, accumulation_steps):
    source, target = sentence_lengths(2000)
    shares = [
        list(
            TokenBatchSampler(
                (source, target),
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
    assert updates == [set(batch) for batch in TokenBatchSampler((source, target), 2000)]


def test_batches_keep_the_budget_and_waste_at_most_five_percent():
    source, target = sentence_lengths()
    sampler = TokenBatchSampler((source, target), 3000)
    padded = [len(batch) * np.array([source[batch].max(), target[batch].max()]) for batch in sampler]
    assert np.max(padded) <= 3000
    assert 1 - (source.sum() + target.sum()) / np.sum(padded) < 0.05


def test_order_is_a_matter_of_seed_and_epoch_alone():
    source, target = sentence_lengths(1000)

    def batches(seed, epoch):
        sampler = TokenBatchSampler((source, target), 1000, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3) and batches(1, 2) != batches(2, 2)


def test_the_parts_of_a_batch_are_of_equal_work():
    source, target = sentence_lengths()
    shares = [TokenBatchSampler((source, target), 4000, num_processes=2, process_index=index) for index in range(2)]
    for first, second in zip(*shares, strict=True):
        assert 0 <= len(first) - len(second) <= 1


def test_what_cannot_be_dealt_out_is_refused():
    with pytest.raises(ValueError, match="batch_tokens is 100; expected at least 240: 2 x 60 tokens"):
        TokenBatchSampler([[5, 60], [7, 3]], 100, num_processes=2)
    with pytest.raises(ValueError, match="2 examples cannot be dealt out to 3 micro-batches"):
        TokenBatchSampler([[5, 6], [7, 3]], 100, accumulation_steps=3)


def test_an_epoch_can_be_entered_in_the_middle():
    source, target = sentence_lengths(1000)
    sampler = TokenBatchSampler((source, target), 1000, accumulation_steps=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, start=5)
    assert list(sampler) == whole[10:] and len(sampler) == len(whole) - 10


# Streams


def stream(count, **options):
    source, target = sentence_lengths(count)
    rows = {"input_ids": [[n] * length for n, length in enumerate(source)], "labels": [[0] * n for n in target]}
    examples = Dataset.from_dict(rows).to_iterable_dataset()
    return TokenBatchStream(examples, ("input_ids", "labels"), 1000, pool_batches=3, **options)


def names(batches):
    return [[example["input_ids"][0] for example in batch] for batch in batches]


def test_a_stream_gives_each_example_once_in_batches_that_processes_share():
    whole = names(stream(500))
    assert sorted(itertools.chain(*whole)) == list(range(500))
    shares = [names(stream(500, num_processes=2, process_index=index)) for index in range(2)]
    assert [set(first + second) for first, second in zip(*shares, strict=True)] == [set(batch) for batch in whole]


def test_a_stream_keeps_the_budget_and_can_be_entered_in_the_middle_of_any_epoch():
    batches = stream(500)
    for epoch in range(2):
        batches.set_epoch(epoch)
        whole = list(batches)
        padded = [len(batch) * max(len(row[side]) for row in batch) for batch in whole for side in batches.columns]
        assert max(padded) <= 1000
        batches.set_epoch(epoch, start=4)
        assert names(batches) == names(whole)[4:]
        assert names(whole) == names(whole)
    batches.set_epoch(0)
    assert names(batches) != names(whole)


def test_a_sentence_of_a_stream_that_does_not_fit_is_refused():
    examples = Dataset.from_dict({"input_ids": [[1] * 60, [1]]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="batch_tokens is 100; expected at least 120"):
        list(TokenBatchStream(examples, ("input_ids",), 100))


# Masks


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a sentence of unbelievable words, unbelievably long"] * 5, 300, family="encoder")


def masked(tokenizer, count=400, length=100, **options):
    """Input ids and what became of them, (count, length), special tokens at both ends."""
    random = np.random.default_rng(0)
    ids = random.integers(4, len(tokenizer), (count, length))
    ids[:, 0], ids[:, -1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    examples = [{"input_ids": row.tolist()} for row in ids]
    if options.get("whole_words"):
        words = np.repeat(np.arange(length // 2), 2)
        examples = [example | {"word_ids": [-1, *words[: length - 2], -1]} for example in examples]
    return torch.from_numpy(ids), MaskedLanguageModelCollator(tokenizer, **options)(examples)


def test_of_the_tokens_that_are_not_special_15_percent_are_predicted_of_which_80_10_10(tokenizer):
    ids, batch = masked(tokenizer)
    chosen = batch["labels"] != -100
    assert not chosen[:, [0, -1]].any() and batch["attention_mask"].all()
    assert (chosen.sum(1) == round(0.15 * 98)).all()  # in every sentence, as BERT counts
    assert batch["labels"][chosen].equal(ids[chosen]) and batch["input_ids"][~chosen].equal(ids[~chosen])
    inputs = batch["input_ids"][chosen]
    is_mask, is_kept = inputs == tokenizer.mask_token_id, inputs == ids[chosen]
    # 6,000 tokens: a standard deviation is half a percent.
    assert is_mask.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert is_kept.float().mean().item() == pytest.approx(0.1, abs=0.016)
    replaced = inputs[~is_mask & ~is_kept]
    assert len(replaced) / len(inputs) == pytest.approx(0.1, abs=0.016)
    assert replaced.min() >= 4 and len(replaced.unique()) > 150  # any token but the special ones
    positions = chosen.float().mean(0)[1:-1]
    assert positions.min() > 0.05 and positions.max() < 0.27  # everywhere alike


def test_masks_depend_on_seed_epoch_and_sentence_only(tokenizer):
    def labels(epoch=0, **options):
        ids, _ = masked(tokenizer, 8)
        collator = MaskedLanguageModelCollator(tokenizer, **options)
        collator.epoch = epoch
        together = collator([{"input_ids": row.tolist()} for row in ids])
        alone = [collator([{"input_ids": row.tolist()}]) for row in ids]
        for row, single in enumerate(alone):
            assert single["input_ids"][0].equal(together["input_ids"][row])
        return together["labels"]

    assert labels().equal(labels())
    assert not labels().equal(labels(seed=1)) and not labels().equal(labels(epoch=1))


def test_whole_words_are_predicted_whole(tokenizer):
    _, batch = masked(tokenizer, whole_words=True)
    pairs = (batch["labels"] != -100)[:, 1:-1].unflatten(1, (-1, 2))
    assert pairs[..., 0].equal(pairs[..., 1])
    assert (pairs.sum((1, 2)) == 14).all()  # the 15th token would belong to an eighth word


def test_a_word_that_is_longer_than_may_be_predicted_is_drawn_like_any_other(tokenizer):
    words = {"word_ids": [-1, 0, 0, 0, 0, 1, 1, 1, 1, -1]}
    collator = MaskedLanguageModelCollator(tokenizer, whole_words=True)
    chosen = {
        tuple((collator([{"input_ids": [1, *ids, 2], **words}])["labels"][0] != -100).nonzero()[:, 0].tolist())
        for ids in ([5 + n + k for k in range(8)] for n in range(20))
    }
    assert chosen == {(1, 2, 3, 4), (5, 6, 7, 8)}


def test_short_sentences_are_padded_and_have_one_prediction(tokenizer):
    batch = MaskedLanguageModelCollator(tokenizer)(
        [{"input_ids": [1, 9, 2]}, {"input_ids": [1, 7, 8, 10, 2]}, {"input_ids": [1, 2]}]
    )
    assert (batch["labels"] != -100).sum(1).tolist() == [1, 1, 0]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 2] and batch["labels"].shape == (3, 5)
    with pytest.raises(ValueError, match="no mask token"):
        other = train_tokenizer(["a"], 300)
        other.mask_token = None
        MaskedLanguageModelCollator(other)


def test_ids_beyond_the_tokenizer_are_words_and_padding_is_needed(tokenizer):
    batch = MaskedLanguageModelCollator(tokenizer, seed=-1)([{"input_ids": [1, 5000, 5001, 2]}] * 20)
    assert set(batch["labels"].unique().tolist()) <= {-100, 5000, 5001}
    other = train_tokenizer(["a"], 300, family="encoder")
    other.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        MaskedLanguageModelCollator(other)


# Packing


def test_lengths_may_be_multiples_of_a_number_and_hold_the_same_tokens(tokenizer):
    rows = [{"input_ids": list(range(5, 5 + n)), "labels": list(range(5, 8 + n))} for n in (3, 9, 6)]
    shift = SimpleNamespace(prepare_decoder_input_ids_from_labels=lambda labels: labels)
    for kind in (partial(TranslationCollator, tokenizer, shift), partial(MaskedLanguageModelCollator, tokenizer)):
        plain, wide = kind()(rows), kind(pad_to_multiple_of=8)(rows)
        for name, tensor in wide.items():
            length = plain[name].shape[1]
            assert tensor.shape == (3, 16) and tensor[:, :length].equal(plain[name])
            filling = {"attention_mask": 0, "input_ids": tokenizer.pad_token_id}.get(name, -100)
            assert tensor[:, length:].unique().tolist() == [filling]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(2, 16))
def test_packing_keeps_every_token_in_order_and_counts_positions_anew_in_each_document(lengths, block_length):
    documents = [list(range(100 * number, 100 * number + length)) for number, length in enumerate(lengths, start=1)]
    packed = pack_documents(documents, block_length, pad_token_id=0)
    tokens, positions = np.concatenate(packed["input_ids"]), np.concatenate(packed["position_ids"])
    assert {len(block) for block in packed["input_ids"]} == {block_length}
    assert tokens[: sum(lengths)].tolist() == list(itertools.chain(*documents))
    assert len(tokens) - sum(lengths) < block_length and not tokens[sum(lengths) :].any()
    starts = {0, *np.cumsum(lengths).tolist()} | set(range(0, len(tokens), block_length))
    starts |= set(range(sum(lengths), len(tokens)))
    expected = [index - max(start for start in starts if start <= index) for index in range(len(tokens))]
    assert positions.tolist() == expected


def test_packed_documents_do_not_see_each_other():
    torch.manual_seed(0)
    model = VanillaDecoderForCausalLM(small_config(VanillaDecoderConfig)).eval()
    documents = [torch.randint(3, 40, (length,)).tolist() for length in (5, 9, 4, 2)]
    packed = pack_documents(documents, 10, pad_token_id=0)
    examples = [dict(zip(packed, block, strict=True)) for block in zip(*packed.values(), strict=True)]
    batch = causal_language_model_collator(examples)
    together = model(**batch).loss * (batch["labels"][:, 1:] != -100).sum()
    alone = 0
    for piece in (documents[0], documents[1][:5], documents[1][5:], documents[2], documents[3]):
        if len(piece) > 1:
            ids = torch.tensor([piece])
            alone += model(input_ids=ids, labels=ids).loss * (len(piece) - 1)
    torch.testing.assert_close(together, alone)
