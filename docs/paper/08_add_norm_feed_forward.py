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
# # Add & Norm, and the feed-forward network
#
# Attention moves information between words. Two more parts make a layer of it: the **feed-forward network**, which works on each
# word by itself, and **Add & Norm**, which stands around both and lets many layers be stacked. Sections 3.1 and 3.3 describe
# them.

# %% [markdown]
# ## The equations
#
# $$
# \mathrm{AddNorm}(x) = \mathrm{LayerNorm}(x + \mathrm{Sublayer}(x))
# $$
#
# $$
# \mathrm{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta, \qquad
# \mu = \frac{1}{d} \sum_j x_j, \quad \sigma^2 = \frac{1}{d} \sum_j (x_j - \mu)^2
# $$
#
# $$
# \mathrm{FFN}(x) = \max(0, x W_1 + b_1) W_2 + b_2
# $$
#
# The last is equation 2 of the paper. The mean $\mu$ and the variance $\sigma^2$ are taken over the $d$ numbers of **one** word,
# not over the batch. At the start $\gamma$ is 1 and $\beta$ is 0. (Layer normalization is from Ba et al., 2016,
# [arXiv:1607.06450](https://arxiv.org/abs/1607.06450).)

# %% [markdown]
# ## With numbers
#
# Let a word be $x = [1, 2, 3, 4]$ and let the sub-layer return $[1, 0, 1, 0]$. The sum is $[2, 2, 4, 4]$, its mean 3, its variance
# 1, so the norm gives $[-1, -1, 1, 1]$.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import AddNorm, EncoderLayer, FeedForward


def layer_norm(x, gamma, beta, eps=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps) ** 0.5 * gamma + beta


def feed_forward(x, w_1, b_1, w_2, b_2):
    return (x @ w_1 + b_1).clamp(min=0) @ w_2 + b_2


x, sublayer = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
print("x + Sublayer(x) =", (x + sublayer).tolist())
normalized = layer_norm(x + sublayer, gamma=torch.ones(4), beta=torch.zeros(4))
print("LayerNorm       =", [round(number, 4) for number in normalized.tolist()])
torch.testing.assert_close(normalized, torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-4, rtol=0)

w_1, w_2 = torch.tensor([[1.0, -1.0]]).T @ torch.ones(1, 2), torch.ones(2, 1)
print("FFN([3, 1])     =", feed_forward(torch.tensor([3.0, 1.0]), w_1, torch.zeros(2), w_2, torch.zeros(1)).tolist())
print("FFN([1, 3])     =", feed_forward(torch.tensor([1.0, 3.0]), w_1, torch.zeros(2), w_2, torch.zeros(1)).tolist())

# %% [markdown]
# The feed-forward network computes $x_1 - x_2$ twice and adds the two. For $[1, 3]$ the difference is negative, and the maximum
# with 0 (the *ReLU*) makes it 0. This bend is the only thing in it that is not linear.
#
# ## The same in this package
#
# `AddNorm` takes a vector and the sub-layer as a function; `FeedForward` is equation 2. An `EncoderLayer` is two of the one
# around attention and the other.

# %%
config = VanillaConfig(d_model=64, intermediate_size=256, num_attention_heads=8, attn_implementation="eager")
layer = EncoderLayer(config, layer_idx=0).eval().requires_grad_(False)
x = torch.randn(5, 64)

norm = AddNorm(config).eval().requires_grad_(False)
assert (norm.weight == 1).all() and (norm.bias == 0).all()
plain = layer_norm(x + torch.sin(x), norm.weight, norm.bias)
torch.testing.assert_close(norm(x, torch.sin), plain)

network = FeedForward(config).eval().requires_grad_(False)
weights = [network.linear1.weight.T, network.linear1.bias, network.linear2.weight.T, network.linear2.bias]
torch.testing.assert_close(network(x), feed_forward(x, *weights))

ffn, norm_1, norm_2 = layer.feed_forward, layer.self_attention_norm, layer.feed_forward_norm
weights = [ffn.linear1.weight.T, ffn.linear1.bias, ffn.linear2.weight.T, ffn.linear2.bias]
y = layer_norm(x + layer.self_attention(x[None])[0][0], norm_1.weight, norm_1.bias)
y = layer_norm(y + feed_forward(y, *weights), norm_2.weight, norm_2.bias)
torch.testing.assert_close(layer(x[None])[0], y)
print("A whole encoder layer agrees; largest difference", f"{(layer(x[None])[0] - y).abs().max():.1e}")

# %% [markdown]
# *Position-wise* means that each word passes through the same network by itself. Changing one word changes no other:

# %%
changed = x.clone()
changed[2] += 1
same = [torch.equal(a, b) for a, b in zip(network(x), network(changed), strict=True)]
print(same)
assert same == [True, True, False, True, True]
count = sum(parameter.numel() for parameter in FeedForward(VanillaConfig()).parameters())
print("weights of one feed-forward network of the base model:", f"{count:,}")
assert count == 2 * 512 * 2048 + 2048 + 512

# %% [markdown]
# ## What the residual connection is for
#
# Stack 24 feed-forward networks, with and without "x +", and look how strongly the output still depends on the input. Without the
# residual connection, each layer multiplies the gradient by a small number. With it, there is always the straight way.

# %%
torch.manual_seed(0)
networks = [FeedForward(config) for _ in range(24)]
figure, axes = plt.subplots()
for name, keeps_x in {"with x +": 1.0, "without": 0.0}.items():
    start = torch.randn(1, 64, requires_grad=True)
    states, gradients = start, []
    for network in networks:
        states = keeps_x * states + network(states)
        gradients.append(torch.autograd.grad(states.norm(), start, retain_graph=True)[0].norm().item())
    axes.semilogy(range(1, 25), gradients, "o-", markersize=4, label=name)
assert gradients[-1] < 1e-6
axes.set(xlabel="layers", ylabel="gradient at the input")
axes.legend()

# %% [markdown]
# The norm answers the opposite danger: sums of many layers would grow and grow. The paper puts it **after** the sum
# (*post-norm*). GPT-2 and most later models put it before the sub-layer (*pre-norm*), which trains more easily when the stack is
# deep: `norm_position="pre"`.
#
# ## Exercises
#
# 1. Compute LayerNorm of $[1, 2, 3, 4]$ by hand, with $\epsilon = 0$.
# 2. What does LayerNorm return for a word whose numbers are all equal, and what saves it from dividing by zero?
# 3. How many weights has the base model's attention layer, compared with its feed-forward network?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. The mean is 2.5, the variance $(2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25$, its root 1.1180: $[-1.3416, -0.4472, 0.4472, 1.3416]$.
# 2. $x - \mu$ is 0, so it returns $\beta$; $\epsilon$ keeps the denominator above 0.
# 3. $4 \cdot 512^2 + 4 \cdot 512 = 1{,}050{,}624$: half of the feed-forward network's 2,099,712.
#
# </details>
