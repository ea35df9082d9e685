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
# # Attention is a soft dictionary
#
# Section 3.2 of the paper describes attention as a function of a query and a set of key-value pairs. Those are the words of a
# dictionary, and a dictionary is the best way in: an ordinary one returns the value of the key that **equals** the query, a
# soft one returns a mixture of all values, in which the most **similar** keys weigh most.

# %% [markdown]
# ## An exact dictionary

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla.models.modeling_vanilla import eager_attention_forward

prices = {"lemon": 2.0, "honey": 9.0, "orange": 3.0, "chilli": 4.0}
print(prices["honey"])
print(prices.get("something sweet"))

# %% [markdown]
# Nothing in it is called "something sweet", so the answer is nothing. The dictionary cannot know that honey would have been
# close.
#
# ## A soft dictionary
#
# Describe each key by a vector, here by how sour, sweet and hot it is, and the query likewise. Three steps follow, and they are
# equation 1 for a single query:
#
# $$
# e_j = q \cdot k_j, \qquad \alpha_j = \frac{\exp(\beta e_j)}{\sum_i \exp(\beta e_i)}, \qquad \text{output} = \sum_j \alpha_j v_j
# $$
#
# The factor $\beta$ is $1 / \sqrt{d_k}$ in the paper. Here it can be turned, to see what it does.

# %%
keys = torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.5, 0.7, 0.0], [0.0, 0.0, 1.0]])
values = torch.tensor([[2.0], [9.0], [3.0], [4.0]])
query = torch.tensor([0.0, 1.0, 0.0])


def look_up(query, keys, values, beta):
    scores = keys @ query
    weights = (beta * scores).exp() / (beta * scores).exp().sum()
    return weights @ values, weights


for beta in (0.0, 1.0, 5.0, 50.0):
    price, weights = look_up(query, keys, values, beta)
    print(f"beta {beta:>4}: price {price.item():.2f}, weights", [round(w, 2) for w in weights.tolist()])

torch.testing.assert_close(look_up(query, keys, values, 0.0)[0], values.mean(0))
torch.testing.assert_close(look_up(query, keys, values, 80.0)[0], values[1])

# %% [markdown]
# With $\beta = 0$ the query does not matter and the output is the mean of all values. With a large $\beta$ the soft dictionary
# becomes the exact one: only the most similar key counts. In between it mixes, and that is why it can learn, for a small
# change of a key or a query changes the output a little.

# %%
figure, panels = plt.subplots(1, 3, figsize=(8, 2.8), sharey=True)
for axes, beta in zip(panels, (0.6, 3.0, 15.0), strict=True):
    axes.bar(list(prices), look_up(query, keys, values, beta)[1])
    axes.set_title(f"beta = {beta}")
    axes.tick_params(axis="x", labelrotation=45)
panels[0].set_ylabel("weight")

# %% [markdown]
# ## The same in this package
#
# `eager_attention_forward` (in `hf_vanilla/models/modeling_vanilla.py`) looks up many queries at once, in a batch, in several
# heads. One query is the special case with sizes of 1.


# %%
def package(query, keys, values, beta):
    q, k, v = query[None, None, None], keys[None, None], values[None, None]
    output, weights = eager_attention_forward(None, q, k, v, attention_mask=None, scaling=beta)
    return output[0, 0, 0], weights[0, 0, 0]


for beta in (0.5, 3**-0.5, 5.0):
    torch.testing.assert_close(package(query, keys, values, beta), look_up(query, keys, values, beta))
print("Both agree.")

# %% [markdown]
# ## Three things that are easily confused
#
# - **Keys and values need not be equal**, nor have the same width. Keys above have three numbers, values have one. In
#   self-attention both are made *from the same words*, but by different matrices.
# - **Values are not what the softmax returns.** The softmax returns weights. The values come from outside, and the output is
#   their sum by these weights.
# - **A softmax is no sigmoid.** A sigmoid maps each score by itself, and the results need not add up to 1. In a softmax the
#   scores compete: whoever gains takes from all others.
#
# One of the study notes had each of these a little wrong, so here they are as code.

# %%
scores = torch.tensor([2.0, 1.0, 0.0])
raised = torch.tensor([3.0, 1.0, 0.0])
print("softmax", scores.softmax(0).tolist(), "->", raised.softmax(0).tolist())
print("sigmoid", scores.sigmoid().tolist(), "->", raised.sigmoid().tolist())
assert abs(scores.softmax(0).sum() - 1) < 1e-6 and abs(scores.sigmoid().sum() - 1) > 1
assert (raised.softmax(0) < scores.softmax(0))[1:].all() and (raised.sigmoid() == scores.sigmoid())[1:].all()

# %% [markdown]
# The sigmoid of two scores is hidden in a softmax all the same: with only two keys, the first weight is
# $\sigma(e_1 - e_2)$. That may be where the confusion began.
#
# ## Exercises
#
# 1. What does the soft dictionary return for a query of zeros?
# 2. What happens to the weights if the same number is added to all scores?
# 3. Two keys are equal, and their values are 2 and 9. What does the dictionary return for a query that matches both, as
#    $\beta$ grows?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. All scores are 0, so all weights are equal: the mean of the values, 4.5.
# 2. Nothing: the factor $\exp(c)$ stands in numerator and denominator. Implementations use this and subtract the largest
#    score first, so that no exponential overflows.
# 3. Both keys always get the same weight, so the output approaches their mean, 5.5, and never one of the two.
#
# </details>
