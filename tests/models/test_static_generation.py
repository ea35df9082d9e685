"""The search whose shapes never change, for GPUs: on a CPU it finds what the other finds, as it is and compiled."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from families import small_model, words
from test_gpu_path import WAITING
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessor, LogitsProcessorList

from hf_vanilla import VanillaDecoderForCausalLM, VanillaForConditionalGeneration, beam_search
from hf_vanilla.models import static_generation_vanilla
from hf_vanilla.models.static_generation_vanilla import StaticDecoder

HEADS = [VanillaForConditionalGeneration, VanillaDecoderForCausalLM]


def model_of(head, **changes):
    """A model whose hypotheses end at different lengths."""
    fields = {"norm_position": "pre", "position_embedding_type": "learned", "max_position_embeddings": 64} | changes
    model = small_model(head, initializer_range=1.0, tie_word_embeddings=False, **fields)
    model.generation_config.eos_token_id = None
    found = search(model, prompts_of(head, 8), num_beams=4).sequences
    model.generation_config.eos_token_id = sorted({2, *found[::3, -14].tolist(), *found[1::3, -6].tolist()})
    return model


def prompts_of(head, rows=5):
    torch.manual_seed(rows)
    ids, mask = words(rows, 9), torch.ones(rows, 9, dtype=torch.long)
    for row in range(1, rows):
        hidden = slice(0, row % 6) if head is VanillaDecoderForCausalLM else slice(9 - row % 6, 9)
        mask[row, hidden] = 0
    return {"input_ids": ids, "attention_mask": mask}


def search(model, inputs, decoder=None, **options):
    options = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, **options, custom_generate=beam_search, incremental_decoder=decoder)


def assert_same(found, expected):
    assert found.sequences.equal(expected.sequences) and found.beam_indices.equal(expected.beam_indices)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm_position": "post", "position_embedding_type": "sinusoidal"}, {"qk_head_dim": 8, "v_head_dim": 2}],
)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_it_finds_what_the_other_search_finds(head, changes):
    model = model_of(head, **changes)
    decoder = StaticDecoder(model)
    for rows, options in [
        (5, {"num_beams": 1}),
        (5, {"num_beams": 4, "num_return_sequences": 4}),
        (3, {"num_beams": 4, "length_penalty": 0.0}),
        (8, {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True}),
        (5, {"num_beams": 4, "length_penalty_form": "transformers", "num_return_sequences": 2}),
        (5, {"num_beams": 4, "length_penalty_form": "transformers", "early_stopping": "never"}),
        (1, {"num_beams": 2, "max_new_tokens": 1}),
        (2, {"num_beams": 2, "max_new_tokens": 40}),
        (2, {"num_beams": 2, "max_new_tokens": 32, "eos_token_id": 1}),  # a bucket that is filled to its end
    ]:
        inputs = prompts_of(head, rows)
        assert_same(search(model, inputs, decoder, **options), search(model, inputs, **options))
    lengths = search(model, prompts_of(head, 8), decoder, num_beams=4).beam_indices.ge(0).sum(1)
    assert len(lengths.unique()) > 2 or changes, "all hypotheses are of about one length"


def test_each_sentence_may_have_a_limit_of_its_own():
    model = model_of(VanillaForConditionalGeneration)
    model.generation_config.eos_token_id = 39  # few end before
    inputs = prompts_of(VanillaForConditionalGeneration)
    options = {"num_beams": 4, "max_extra_tokens": 3, "max_new_tokens": 30}
    expected = search(model, inputs, **options)
    assert len(expected.beam_indices.ge(0).sum(1).unique()) > 2
    assert_same(search(model, inputs, StaticDecoder(model), **options), expected)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_a_bucket_is_prepared_once_and_forgets_its_last_search(head):
    prepared = []

    def prepare(step):
        prepared.append(step)
        step()  # as a capture does
        return step

    model = model_of(head)
    decoder = StaticDecoder(model, prepare)
    for rows in (5, 8, 6, 5, 7):
        inputs = prompts_of(head, rows)
        assert_same(search(model, inputs, decoder, num_beams=4), search(model, inputs, num_beams=4))
    assert len(prepared) == 1
    search(model, prompts_of(head, 5), decoder, num_beams=3)
    assert len(prepared) == 2


def test_the_bucket_that_was_not_used_for_longest_goes_first(monkeypatch):
    monkeypatch.setattr(static_generation_vanilla, "BUCKETS_KEPT", 2)
    model = model_of(VanillaForConditionalGeneration)
    decoder = StaticDecoder(model)
    for beams in (1, 2, 1, 3):
        search(model, prompts_of(VanillaForConditionalGeneration, 2), decoder, num_beams=beams)
    assert [key[1] for key in decoder.buckets] == [1, 3]


class Operations(TorchDispatchMode):
    """Notes what is dispatched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.partition(".")[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("head", "most"), [(VanillaForConditionalGeneration, 200), (VanillaDecoderForCausalLM, 170)])
def test_the_host_looks_at_the_device_every_few_tokens_alone(head, most):
    """And a step launches no more than it did: each launch costs a host microseconds where there is no graph."""
    model = model_of(head, norm_position="post", position_embedding_type="sinusoidal")
    model.generation_config.eos_token_id = 1  # which is never among the best
    steps, all_operations = [], Operations()

    def prepare(step):
        def counted():
            start = len(all_operations.names)
            step()
            steps.append((start, len(all_operations.names)))

        return counted

    decoder, inputs = StaticDecoder(model, prepare), prompts_of(head, 4)
    with all_operations:
        search(model, inputs, decoder, num_beams=2, max_new_tokens=40)
    names = all_operations.names
    assert len(steps) == 39 and not any(WAITING.intersection(names[start:end]) for start, end in steps)
    between = [names[end:start] for (_, end), (start, _) in pairwise(steps)]
    waits = [sum(name in WAITING for name in each) for each in between]
    assert waits == [int(number % 8 == 0) for number in range(1, 39)]
    assert max(end - start for start, end in steps) <= most


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_a_step_is_one_graph(head, backend):
    """Compiled as a whole, it has no shape that depends on data, and reads nothing on the host."""
    torch._dynamo.reset()
    model = model_of(head)
    compiled = StaticDecoder(model, partial(torch.compile, fullgraph=True, dynamic=False, backend=backend))
    for options in ({"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 2}):
        inputs = prompts_of(head)
        assert_same(search(model, inputs, compiled, **options), search(model, inputs, **options))
    torch._dynamo.reset()


def test_a_search_that_is_looked_at_from_outside_goes_as_ever():
    class Never(LogitsProcessor):
        def __call__(self, ids, scores):
            return scores.index_fill(1, torch.tensor([5]), -torch.inf)

    model = model_of(VanillaForConditionalGeneration)
    decoder, inputs = StaticDecoder(model), prompts_of(VanillaForConditionalGeneration)
    for options in ({"logits_processor": LogitsProcessorList([Never()])}, {"output_scores": True}):
        assert_same(
            search(model, inputs, decoder, num_beams=3, **options), search(model, inputs, num_beams=3, **options)
        )
    assert not decoder.buckets


def test_what_it_returns_may_be_used_where_gradients_are_kept():
    model = model_of(VanillaForConditionalGeneration)
    found = search(model, prompts_of(VanillaForConditionalGeneration), StaticDecoder(model), num_beams=2)
    assert not found.sequences.is_inference() and not found.sequences_scores.is_inference()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_a_step_may_be_recorded_and_played_again(head):
    """As a CUDA graph is: the operations that it once made, on the same tensors, without any of its Python."""

    def record(step):
        recorded, nothing = make_fx(lambda _: step())(torch.zeros(())), torch.zeros(())
        return lambda: recorded(nothing)

    model = model_of(head, position_embedding_type="sinusoidal")  # on CPU, learned positions are checked
    decoder = StaticDecoder(model, record)
    for rows in (5, 8):
        inputs = prompts_of(head, rows)
        for options in ({"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 2}):
            assert_same(search(model, inputs, decoder, **options), search(model, inputs, **options))
