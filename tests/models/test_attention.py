"""Attention against arithmetic done by hand and against plain loops over equation 1."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from families import BASES, HEADS, batch_for, small_config, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla import VanillaConfig, VanillaDecoderForCausalLM, VanillaForConditionalGeneration
from hf_vanilla.models.modeling_vanilla import MultiHeadAttention, eager_attention_forward

IMPLEMENTATIONS = ["eager", "sdpa"]


def attend(query, key, value, mask=None):
    """Equation 1 for one head in Python numbers: rows of d_k, d_k and d_v numbers; `mask` is true where seen."""
    outputs, weights = [], []
    for i, q in enumerate(query):
        scores = [sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in key]
        visible = [j for j in range(len(key)) if mask is None or mask[i][j]]
        total = sum(math.exp(scores[j]) for j in visible)
        row = [math.exp(scores[j]) / total if j in visible else 0.0 for j in range(len(key))]
        weights.append(row)
        outputs.append([sum(w * v[d] for w, v in zip(row, value, strict=True)) for d in range(len(value[0]))])
    return outputs, weights


def test_four_words():
    """ "I love play game": the query of "I" meets the key of each word, and the softmax mixes their values.

    Query [.1 .2 .3 .4], key [.5 .6 .7 .8], value [.9 1. 1.1 1.2] belong to "I", each next word's are 0.1 higher.

        I . I    = .1*.5 + .2*.6 + .3*.7 + .4*.8 = .05 + .12 + .21 + .32 = .70
        I . love = .1*.6 + .2*.7 + .3*.8 + .4*.9 = .70 + .1*(.1+.2+.3+.4) = .80, then .90 and 1.00
        over sqrt(4):  .35  .40  .45  .50
        exp:           e^.35 * (1, e^.05, e^.10, e^.15), which sums to e^.35 * 4.318276
        softmax:       .231574  .243447  .255929  .269050

    Values rise by 0.1 a word, so every dimension of the output for "I" is .1 * (1*.243447 + 2*.255929 + 3*.269050)
    = .156246 above the value of "I": [1.056246 1.156246 1.256246 1.356246]. (The study notes that the example comes
    from give 0.5 for the first product. It is 0.70.)

    The query of "love" adds .1 * (.5+.6+.7+.8) = .26 to its first score and .04 more with each next key, that is
    .96, 1.10, 1.24, 1.38: half of these apart by .07, not .05, so that "love" looks further right than "I" does.
    """
    steps = torch.arange(4.0)[:, None] / 10
    query, key, value = (torch.tensor(first) + steps for first in ([0.1, 0.2, 0.3, 0.4],) * 3)
    key, value = key + 0.4, value + 0.8
    torch.testing.assert_close(
        query @ key.T,
        torch.tensor(
            [[0.70, 0.80, 0.90, 1.00], [0.96, 1.10, 1.24, 1.38], [1.22, 1.40, 1.58, 1.76], [1.48, 1.70, 1.92, 2.14]]
        ),
    )

    output, weights = eager_attention_forward(
        torch.nn.Module(), query[None, None], key[None, None], value[None, None], None, scaling=1 / math.sqrt(4)
    )
    output, weights = output[0, :, 0], weights[0, 0]
    by_hand = torch.tensor([0.231574, 0.243447, 0.255929, 0.269050])
    torch.testing.assert_close(weights[0], by_hand, atol=5e-7, rtol=0)
    torch.testing.assert_close(output[0], torch.tensor([1.056246, 1.156246, 1.256246, 1.356246]), atol=5e-7, rtol=0)

    # All four rows, in decimals.
    getcontext().prec = 30
    for i in range(4):
        raised = [((Decimal(70) + 26 * i + (10 + 4 * i) * j) / 200).exp() for j in range(4)]
        row = [e / sum(raised) for e in raised]
        above = sum(w * j for j, w in enumerate(row)) / 10
        torch.testing.assert_close(weights[i], torch.tensor([float(w) for w in row]))
        torch.testing.assert_close(output[i], torch.tensor([float(Decimal(9 + d) / 10 + above) for d in range(4)]))
    assert weights[1, 3] > weights[0, 3]


@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    queries=st.integers(1, 5),
    keys=st.integers(1, 6),
    qk_head_dim=st.integers(1, 6),
    v_head_dim=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_equation_1(queries, keys, qk_head_dim, v_head_dim, seed):
    torch.manual_seed(seed)
    query, key = torch.randn(2, 3, queries, qk_head_dim), torch.randn(2, 3, keys, qk_head_dim)
    value = torch.randn(2, 3, keys, v_head_dim)
    mask = torch.rand(2, 1, queries, keys) < 0.7
    mask[..., 0] = True
    hidden = torch.finfo(torch.float32).min
    scaling = qk_head_dim**-0.5
    for attention_mask in (mask, torch.zeros(mask.shape).masked_fill(~mask, hidden)):
        output, weights = eager_attention_forward(torch.nn.Module(), query, key, value, attention_mask, scaling)
        assert output.shape == (2, queries, 3, v_head_dim)
        for batch in range(2):
            for head in range(3):
                rows = (tensor[batch, head].tolist() for tensor in (query, key, value))
                expected, expected_weights = attend(*rows, mask[batch, 0].tolist())
                torch.testing.assert_close(output[batch, :, head], torch.tensor(expected), atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(weights[batch, head], torch.tensor(expected_weights), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("use", ["encoder self", "masked decoder self", "encoder-decoder"])
@pytest.mark.parametrize(("heads", "qk_head_dim", "v_head_dim"), [(4, None, None), (3, 5, 2), (1, 2, 7), (2, 8, 8)])
def test_multi_head_attention_in_its_three_uses(heads, qk_head_dim, v_head_dim, use, implementation):
    """Concat(head_1, ..., head_h) W^O, each head with its own rows of the projections (3.2.2, 3.2.3)."""
    torch.manual_seed(0)
    widths = {"num_attention_heads": heads, "qk_head_dim": qk_head_dim, "v_head_dim": v_head_dim}
    config = small_config(VanillaConfig, attn_implementation=implementation, **widths)
    attention = MultiHeadAttention(config, layer_idx=0, is_causal=use == "masked decoder self").eval()
    length, source_length = 5, 5 if "self" in use else 3
    hidden_states = torch.randn(2, length, config.hidden_size)
    source = hidden_states if "self" in use else torch.randn(2, source_length, config.hidden_size)
    mask = torch.ones(length, source_length, dtype=torch.bool)
    if use == "masked decoder self":
        mask = mask.tril()
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    output, weights = attention(
        hidden_states,
        encoder_hidden_states=None if "self" in use else source,
        attention_mask=(mask if implementation == "sdpa" else additive)[None, None],
    )

    d_k, d_v = qk_head_dim or config.hidden_size // heads, v_head_dim or config.hidden_size // heads
    for batch in range(2):
        concatenated = []
        for head in range(heads):
            rows_k, rows_v = slice(head * d_k, (head + 1) * d_k), slice(head * d_v, (head + 1) * d_v)
            projections = [
                (attention.q_proj, rows_k, hidden_states),
                (attention.k_proj, rows_k, source),
                (attention.v_proj, rows_v, source),
            ]
            vectors = [x[batch] @ linear.weight[rows].T + linear.bias[rows] for linear, rows, x in projections]
            concatenated.append(torch.tensor(attend(*(v.tolist() for v in vectors), mask.tolist())[0]))
        expected = torch.cat(concatenated, dim=1) @ attention.o_proj.weight.T + attention.o_proj.bias
        torch.testing.assert_close(output[batch], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [False, float("-inf"), "lowest"])
def test_query_that_sees_nothing_stays_finite(hidden, dtype):
    hidden = torch.finfo(dtype).min if hidden == "lowest" else hidden
    mask = torch.ones(1, 1, 2, 3, dtype=torch.bool) if hidden is False else torch.zeros(1, 1, 2, 3, dtype=dtype)
    mask[..., 1, :] = hidden
    tensors = [torch.randn(1, 2, n, 4, dtype=dtype, requires_grad=True) for n in (2, 3, 3)]
    output, weights = eager_attention_forward(torch.nn.Module(), *tensors, mask, scaling=0.5)
    output.float().sum().backward()
    assert output.isfinite().all() and weights.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", [*BASES, *HEADS])
def test_row_of_nothing_but_padding_stays_finite(model_class, dtype, implementation):
    """Forward and backward, with the first sentence all padding on both sides, the second padded left, one whole."""
    model = small_model(model_class, attn_implementation=implementation).to(dtype).train()
    batch = batch_for(model_class)
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in batch:
            batch[name][0] = 0
            batch[name][1, ..., :2] = 0
    outputs = model(**batch)
    tensors = [tensor for tensor in outputs.values() if isinstance(tensor, torch.Tensor)]
    assert all(tensor.isfinite().all() for tensor in tensors)
    sum(tensor.float().square().sum() for tensor in tensors).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_hooks_find_the_inputs_of_each_part_by_name(model_class):
    """What watches a model, such as Accelerate's hooks, looks for masks, caches and ids among the keywords."""
    model = small_model(model_class)
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda module, arguments, options, name=name: seen.__setitem__(name, set(options)), with_kwargs=True
        )
    model(**batch_for(model_class))
    decoder = "model.decoder" if model.config.is_encoder_decoder else "decoder"
    assert {"input_ids", "attention_mask", "past_key_values"} <= seen[decoder]
    asked = {"attention_mask", "past_key_values"}
    assert asked <= seen[f"{decoder}.layers.0.self_attention"]
    if model.config.is_encoder_decoder:
        assert asked | {"encoder_hidden_states"} <= seen[f"{decoder}.layers.0.cross_attention"]
        assert {"input_ids", "attention_mask"} <= seen["model.encoder"]
        assert {"decoder_input_ids", "encoder_outputs"} <= seen["model"]
        assert "encoder_hidden_states" in seen[decoder]
