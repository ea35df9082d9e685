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
# # Why self-attention
#
# Section 4 of the paper compares four kinds of layers that map $n$ vectors of width $d$ to $n$ others: self-attention, recurrent,
# convolutional with kernel $k$, and self-attention restricted to $r$ neighbours. Table 1 says what a layer costs, how many steps must
# wait for each other, and how far apart two words are. Here each entry is **measured** rather than believed.

# %% [markdown]
# ## The table
#
# | layer | complexity per layer | sequential operations | longest path |
# |---|---|---|---|
# | self-attention | $n^2 d$ | $1$ | $1$ |
# | recurrent | $n d^2$ | $n$ | $n$ |
# | convolutional | $k n d^2$ | $1$ | $n / k$ (dilated: $\log_k n$) |
# | restricted self-attention | $r n d$ | $1$ | $n / r$ |

# %% [markdown]
# ## Complexity: counted, not timed
#
# torch can count the multiplications of a call. That is exact, where a stopwatch is not. The plain layers have a few lines each; $QK^\top$ and the
# weights times $V$ are the two products of self-attention.

# %%
import math
import time

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import MultiHeadAttention


def self_attention(x):
    return (x @ x.T / x.shape[1] ** 0.5).softmax(-1) @ x


def recurrent(x):
    w, u, state, states = torch.eye(x.shape[1]), torch.eye(x.shape[1]), torch.zeros(1, x.shape[1]), []
    for word in x.split(1):
        state = torch.tanh(word @ w + state @ u)
        states.append(state)
    return torch.cat(states)


def convolution(x, k=3):
    return F.conv1d(x.T[None], x.new_full((x.shape[1], x.shape[1], k), 1 / (x.shape[1] * k)), padding=k // 2)[0].T


def restricted(x, r=9):
    windows = F.pad(x, (0, 0, r // 2, r // 2)).unfold(0, r, 1)
    weights = (x[:, None] @ windows / x.shape[1] ** 0.5).softmax(-1)
    return (windows @ weights.transpose(1, 2)).squeeze(2)


def multiplications(layer, n, d):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(n, d))
    return counter.get_total_flops() // 2


layers = {
    "self-attention": (self_attention, 2, 1),
    "recurrent": (recurrent, 1, 2),
    "convolutional": (convolution, 1, 2),
    "restricted": (restricted, 1, 1),
}
for name, (layer, by_n, by_d) in layers.items():
    start = multiplications(layer, 64, 32)
    n, d = (math.log2(multiplications(layer, *size) / start) for size in ((128, 32), (64, 64)))
    assert (n, d) == (by_n, by_d)
    print(f"{start:>9,}  n^{n:.0f} d^{d:.0f}  {name}")

# %% [markdown]
# All four exponents are those of Table 1, exactly.
#
# ## The same in this package
#
# `MultiHeadAttention` has four projections beside the two products, which Table 1 leaves out: together $4 n d^2 + 2 n^2 d$
# multiplications.


# %%
def formula(n, d):
    return 4 * n * d**2 + 2 * n**2 * d


for n, d in ((16, 64), (64, 64), (256, 64), (64, 128)):
    attention = MultiHeadAttention(VanillaConfig(d_model=d, attn_implementation="eager"), layer_idx=0).eval()
    counted = multiplications(lambda x, attention=attention: attention(x[None])[0], n, d)
    assert counted == formula(n, d)
    print(f"n = {n:>3}, d = {d:>3}: {counted:>10,}", "the two products", f"{2 * n * n * d / counted:.0%}")

# %% [markdown]
# > **A remark on the study notes.** "Self-attention is cheaper" holds per layer **while $n < d$**: $n^2 d$ against $n d^2$. Sentences of
# > 30 words in a model 512 wide are far on the good side. Whole books are not.
#
# ## Sequential operations
#
# The longest chain of operations in which each waits for the one before, read from autograd's graph: what no parallel
# machine can shorten.


# %%
def chain(n, layer):
    depth, nodes = {}, [layer(torch.randn(n, 16, requires_grad=True)).grad_fn]
    while nodes:
        node = nodes[-1]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        waiting = [parent for parent in parents if parent not in depth]
        if waiting:
            nodes += waiting
        else:
            depth[nodes.pop()] = 1 + max((depth[parent] for parent in parents), default=0)
    return max(depth.values())


for name, (layer, *_) in layers.items():
    chains = [chain(n, layer) for n in (16, 32, 64)]
    print(chains, name)
    assert (chains[0] == chains[2]) == (layer is not recurrent)

# %% [markdown]
# ## Path lengths
#
# How many steps a signal needs from the first word to the last: layers are stacked until the gradient of the last output
# reaches the first input. A recurrent layer reaches it in one layer, but through $n$ steps.


# %%
def path(layer, n):
    if layer is recurrent:  # one layer, but n steps within it
        return n
    start = torch.randn(n, 8, dtype=torch.float64, requires_grad=True)
    states = start
    for steps in range(1, n + 1):
        states = layer(states)
        if torch.autograd.grad(states[-1].sum(), start, retain_graph=True)[0][0].abs().sum() > 0:
            return steps


sizes = [4, 8, 16, 32, 64]
figure, axes = plt.subplots()
for name, (layer, *_) in layers.items():
    axes.loglog(sizes, [path(layer, n) for n in sizes], "o-", label=name)
axes.set(xlabel="length n", ylabel="steps from first to last")
axes.set_xticks(sizes, sizes)
axes.set_yticks([1, 4, 16, 64], [1, 4, 16, 64])
axes.minorticks_off()
axes.legend()
assert path(self_attention, 64) == 1 and path(convolution, 64) == 63 and path(restricted, 64) == 16

# %% [markdown]
# ## And the clock
#
# Seconds, measured on the machine that built this page, which says nothing about yours. For short sentences the loop of the
# recurrent layer costs most; for long ones $n^2$ catches up.


# %%
def seconds(layer, n, d=64):
    x, times = torch.randn(n, d), []
    for _ in range(4):
        begin = time.perf_counter()
        with torch.no_grad():
            layer(x)
        times.append(time.perf_counter() - begin)
    return min(times)


sizes = [32, 128, 512, 2048]
figure, axes = plt.subplots()
for name, (layer, *_) in layers.items():
    axes.loglog(sizes, [1000 * seconds(layer, n) for n in sizes], "o-", label=name)
axes.set(xlabel="length n (d = 64)", ylabel="milliseconds")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend()

# %% [markdown]
# ## Exercises
#
# 1. At what length do the two products of `MultiHeadAttention` cost as much as its four projections?
# 2. How many layers of convolution with $k = 3$ does it take to connect two words 63 apart? Why did the code find 63 for $n = 64$?
# 3. Which column of Table 1 is the reason for the paper's short training times, and why would one CPU core not show it?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. $2 n^2 d = 4 n d^2$ gives $n = 2d$: 1,024 words for the base model.
# 2. Each layer carries a signal $(k - 1) / 2 = 1$ word to either side, so 63. Table 1 speaks of the order $n / k$, in which a constant
#    factor does not count.
# 3. Sequential operations. With one core there is nothing to do at the same time, so operations that need not wait do not help.
#
# </details>
