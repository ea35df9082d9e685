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
# # Scaled dot-product attention, by hand
#
# This notebook computes one attention with pencil and paper, for the sentence "I love play game" with vectors of four numbers,
# and then answers a question that section 3.2.1 of the paper only touches: why the scores are divided by $\sqrt{d_k}$.

# %% [markdown]
# ## The equation
#
# Equation 1 of the paper is the soft dictionary for all queries at once. The rows of $Q$, $K$ and $V$ are queries, keys and
# values:
#
# $$
# \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V
# $$

# %% [markdown]
# ## The worked example
#
# The vectors of "I" are $q = [0.1, 0.2, 0.3, 0.4]$, $k = [0.5, 0.6, 0.7, 0.8]$ and $v = [0.9, 1.0, 1.1, 1.2]$. Those of each next
# word are larger by 0.1 in every place.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla.models.modeling_vanilla import eager_attention_forward

words = ["I", "love", "play", "game"]
steps = 0.1 * torch.arange(4)[:, None]
Q = torch.tensor([0.1, 0.2, 0.3, 0.4]) + steps
K = torch.tensor([0.5, 0.6, 0.7, 0.8]) + steps
V = torch.tensor([0.9, 1.0, 1.1, 1.2]) + steps

first = 0.1 * 0.5 + 0.2 * 0.6 + 0.3 * 0.7 + 0.4 * 0.8
print(f"0.05 + 0.12 + 0.21 + 0.32 = {first:.2f}")
assert round(first, 10) == 0.70

# %% [markdown]
# > **A correction to the study notes.** They give this first product as 0.5. The four terms are right, and their sum is **0.70**.
# > Everything after it changes a little, so here is the whole way again.


# %%
def attention(Q, K, V):
    """Equation 1, with a step a line."""
    scores = Q @ K.T
    scaled = scores / K.shape[1] ** 0.5
    weights = scaled.exp() / scaled.exp().sum(dim=1, keepdim=True)
    return scores, scaled, weights, weights @ V


torch.set_printoptions(precision=4, sci_mode=False)
scores, scaled, weights, output = attention(Q, K, V)
for name, each in {"scores": scores, "divided by 2": scaled, "weights": weights, "output": output}.items():
    print(f"{name} (I):", [round(number, 4) for number in each[0].tolist()])
torch.testing.assert_close(scores[0], torch.tensor([0.70, 0.80, 0.90, 1.00]))
torch.testing.assert_close(weights[0], torch.tensor([0.2316, 0.2434, 0.2559, 0.2691]), atol=5e-5, rtol=0)
torch.testing.assert_close(output[0], torch.tensor([1.0562, 1.1562, 1.2562, 1.3562]), atol=5e-5, rtol=0)

# %% [markdown]
# "I" looks at all four words almost alike, a little more at "game", because the vectors of the example hardly differ. A trained
# model makes them differ. The weights of each row add up to 1, and the output for "I" is a mixture of the four values:
#
# $$
# \begin{aligned}
# &0.2316\, v_{\text{I}} + 0.2434\, v_{\text{love}} + 0.2559\, v_{\text{play}} + 0.2691\, v_{\text{game}} \\
# &= [1.0562, 1.1562, 1.2562, 1.3562]
# \end{aligned}
# $$

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.4))
for axes, (title, matrix) in zip(panels, {"scores": scores, "weights": weights}.items(), strict=True):
    axes.imshow(matrix)
    axes.set(title=title, xticks=range(4), yticks=range(4), xticklabels=words, yticklabels=words)
    for row in range(4):
        for column in range(4):
            axes.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", fontsize=11)
panels[0].set_ylabel("queries")
figure.supxlabel("keys")

# %% [markdown]
# ## The same in this package
#
# The function behind every head of this package is `eager_attention_forward`; its docstring holds this very example.

# %%
inputs = [each[None, None] for each in (Q, K, V)]
ours, its_weights = eager_attention_forward(None, *inputs, attention_mask=None, scaling=4**-0.5)
torch.testing.assert_close(ours[0, :, 0], output)
torch.testing.assert_close(its_weights[0, 0], weights)
print("largest difference", f"{(ours[0, :, 0] - output).abs().max():.1e}")

# %% [markdown]
# ## Why divide by the square root?
#
# Footnote 4 of the paper: if the components of $q$ and $k$ are independent with mean 0 and variance 1, the product
# $q \cdot k$ is a sum of $d_k$ terms of variance 1 each, so its variance is $d_k$. Scores of a wide head are therefore large, the
# softmax gives nearly all weight to one key, and its gradient nearly vanishes. Dividing by $\sqrt{d_k}$ brings the variance
# back to 1, whatever the width.

# %%
torch.manual_seed(0)
widths = [4, 16, 64, 256, 1024]
results = {"not scaled": [], "scaled": []}
print("d_k   variance of the scores")
for d_k in widths:
    q, k = torch.randn(2000, d_k), torch.randn(2000, 16, d_k)
    scores = (k @ q[:, :, None])[..., 0]
    print(f"{d_k:<5} {scores.var():.0f}")
    assert abs(scores.var() / d_k - 1) < 0.1
    for name, scaling in zip(results, (1.0, d_k**-0.5), strict=True):
        largest = (scores * scaling).softmax(-1).amax(-1)
        results[name].append((largest * (1 - largest)).mean().item())

figure, axes = plt.subplots()
for name, gradients in results.items():
    axes.semilogx(widths, gradients, "o-", label=name)
axes.set(xlabel="$d_k$", ylabel="slope of the softmax")
axes.set_xticks(widths, widths)
axes.minorticks_off()
axes.legend()

# %% [markdown]
# (The slope is the mean of $\alpha(1 - \alpha)$, the derivative of the largest weight by its own score.)
#
# ## Exercises
#
# 1. Compute the weights of "game" by hand: its query is $[0.4, 0.5, 0.6, 0.7]$.
# 2. What would the example give with $V = K$? Would the weights change?
# 3. Why does the paper divide by $\sqrt{d_k}$ and not by $d_k$?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. The first score is $0.4 \cdot 0.5 + 0.5 \cdot 0.6 + 0.6 \cdot 0.7 + 0.7 \cdot 0.8 = 1.48$, and each next one adds
#    $0.1 \cdot 2.2 = 0.22$: 1.48, 1.70, 1.92, 2.14. Halved and through the softmax: 0.2104, 0.2348, 0.2621, 0.2926. The next
#    cell checks it.
# 2. The weights stay, for they depend on $Q$ and $K$ alone. The output would be the same mixture of the keys.
# 3. Dividing by $d_k$ would give a variance of $1 / d_k$: in wide heads all weights would be nearly equal at the start.
#
# </details>

# %% tags=["answer"]
print([round(number, 4) for number in weights[3].tolist()])
torch.testing.assert_close(weights[3], torch.tensor([0.2104, 0.2348, 0.2621, 0.2926]), atol=5e-5, rtol=0)
