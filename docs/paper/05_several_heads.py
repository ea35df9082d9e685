# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Several heads
#
# One attention returns one mixture of values for each word. But a word may need to look at its subject, at its neighbour and at
# the end of the sentence, all at once, and a single softmax would have to average these. Section 3.2.2 of the paper therefore
# runs several smaller attentions side by side: the **heads**.

# %% [markdown]
# ## The equation
#
# $$
# \begin{aligned}
# \mathrm{MultiHead}(Q, K, V) &= \mathrm{Concat}(\mathrm{head}_1, \dots, \mathrm{head}_h)\, W^O \\
# \mathrm{head}_i &= \mathrm{Attention}(Q W_i^Q, K W_i^K, V W_i^V)
# \end{aligned}
# $$
#
# With $d_{\text{model}} = 64$ and $h = 8$, each head works in $d_k = d_v = 64 / 8 = 8$ dimensions. Eight outputs of width 8 are put
# next to each other and give 64 again, and $W^O$ (64 by 64) mixes them. (The paper's base model has 512 and 8, so 64 each.)

# %% [markdown]
# ## A plain version
#
# One head after the other, as the equation has it. Nothing is reshaped: each head takes its own rows of the matrices.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import MultiHeadAttention


def one_head(x, attention, i, d_k=8):
    """Return the output (length, d_k) of head i."""
    rows = slice(i * d_k, (i + 1) * d_k)
    q, k, v = (
        x @ each.weight[rows].T + each.bias[rows] for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (q @ k.T / d_k**0.5).softmax(dim=-1)
    return weights @ v, weights


def multi_head(x, attention, heads=8):
    """Return (length, d_model)."""
    joined = torch.cat([one_head(x, attention, i)[0] for i in range(heads)], dim=-1)
    return joined @ attention.o_proj.weight.T + attention.o_proj.bias


# %% [markdown]
# ## The same in this package
#
# `MultiHeadAttention` (in `hf_vanilla/models/modeling_vanilla.py`) computes all heads in one product and then splits the 64
# columns into 8 times 8.

# %%
config = VanillaConfig(d_model=64, num_attention_heads=8, attn_implementation="eager")
attention = MultiHeadAttention(config, layer_idx=0).eval().requires_grad_(False)
x = torch.randn(5, 64)

plain = multi_head(x, attention)
packaged, weights = attention(x[None])
torch.testing.assert_close(plain, packaged[0])
torch.testing.assert_close(one_head(x, attention, 3)[1], weights[0, 3])
print("output", tuple(packaged.shape), " weights", tuple(weights.shape))

# %% [markdown]
# ## What the last matrix does
#
# Joining the heads and multiplying by $W^O$ is the same as giving each head its own 8 rows of $W^O$ and **adding up** the
# results. So each head writes into all 64 dimensions, and no head has a fixed place in the output.

# %%
parts = [one_head(x, attention, i)[0] @ attention.o_proj.weight[:, i * 8 : i * 8 + 8].T for i in range(8)]
torch.testing.assert_close(sum(parts) + attention.o_proj.bias, plain)
print("The sum over heads is the concatenation times W_O.")

# %% [markdown]
# ## What a single softmax cannot do
#
# A word wants half of its output from position 3 and half from position 12, and wants to **tell them apart**. One head can put
# half of its weight on each, but then it returns their mean: exchanging both values changes nothing. Two heads return
# both, side by side.

# %%
values = torch.randn(16, 8)
swapped = values.clone()
swapped[[2, 11]] = values[[11, 2]]
halves = torch.zeros(16)
halves[[2, 11]] = 0.5
torch.testing.assert_close(halves @ values, halves @ swapped)
sharp = torch.eye(16)[[2, 11]]
assert not torch.allclose((sharp @ values).flatten(), (sharp @ swapped).flatten())

figure, panels = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
titles = ["one head", "two heads: the first", "two heads: the second"]
for axes, title, row in zip(panels, titles, [halves, *sharp], strict=True):
    axes.bar(range(1, 17), row)
    axes.set(title=title, xlabel="position", xticks=[1, 3, 12, 16])
panels[0].set_ylabel("weight")

# %% [markdown]
# ## What it costs
#
# Eight heads of width 8 have as many weights as one of width 64, and as many multiplications in their projections: the paper
# keeps the cost the same on purpose.

# %%
for heads in (1, 2, 4, 8, 16):
    layer = MultiHeadAttention(VanillaConfig(d_model=64, num_attention_heads=heads), layer_idx=0)
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert count == 4 * 64 * 64 + 4 * 64
    print(f"{heads:>2} x {64 // heads:<2} {count:,} weights")

# %% [markdown]
# ## Exercises
#
# 1. The model is 64 wide and has 8 heads. What are the shapes of $W_i^Q$ and of $W^O$?
# 2. Are the 8 heads different from each other before training? What would happen if they started equal?
# 3. `VanillaConfig` has `qk_head_dim` and `v_head_dim`. Which row of the paper's Table 3 needs them?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. $W_i^Q$ is 64 by 8. $W^O$ is $8 \cdot 8 = 64$ by 64.
# 2. They start from different random numbers. Equal heads with equal slices of $W^O$ would get equal gradients and stay equal
#    forever: eight times the work of one.
# 3. Row (B) makes the keys narrower ($d_k = 16$ or $32$) while the values keep their width.
#
# </details>
