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
# # Attention before the Transformer
#
# If one vector is too small, the decoder should see **all** states of the encoder, and decide at each step which of them
# matter. Bahdanau et al. (2015, [arXiv:1409.0473](https://arxiv.org/abs/1409.0473)) did this first, Luong et al. (2015,
# [arXiv:1508.04025](https://arxiv.org/abs/1508.04025)) made it simpler. The paper cites both in sections 1 and 3.2.1 as what
# it starts from.

# %% [markdown]
# ## The equations
#
# All variants do three things at step $t$ of the decoder: they give each encoder state $h_j$ a score, turn the scores into
# weights by a softmax, and add up the states by these weights. The sum $c_t$ is the *context*.
#
# $$
# \alpha_{tj} = \frac{\exp e_{tj}}{\sum_k \exp e_{tk}}, \qquad c_t = \sum_j \alpha_{tj} h_j
# $$
#
# In today's words the decoder's state is the **query**, and the encoder's states are both **keys** and **values**. What
# differs is the score, and which state of the decoder asks:
#
# | variant | score $e_{tj}$ | asks with | looks at |
# |---|---|---|---|
# | additive (Bahdanau) | $v^\top \tanh(W s_{t-1} + U h_j)$ | the previous state $s_{t-1}$ | all positions |
# | dot product (Luong) | $s_t^\top h_j$ | the current state $s_t$ | all positions |
# | general (Luong) | $s_t^\top W h_j$ | the current state $s_t$ | all positions |
# | local (Luong) | general, in a window | the current state $s_t$ | $2D + 1$ positions |

# %% [markdown]
# > **A correction to the study notes.** One of the notes says that dot-product attention sees only $2D + 1$ states. The window belongs to Luong's **local**
# > attention, not to the dot product. Luong's *global* attention sees all states, with any of his scores. It is an easy
# > slip, for both are in the same paper.

# %% [markdown]
# ## A plain version

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import RecurrentConfig, RecurrentForConditionalGeneration
from hf_vanilla.models.modeling_recurrent import Attention


def additive(s, h, w, u, v):
    return torch.tanh(s @ w.T + h @ u.T) @ v


def dot(s, h):
    return h @ s


def look(scores, h):
    """Return the context (width) and the weights (source)."""
    weights = scores.exp() / scores.exp().sum()
    return weights @ h, weights


def monotonic(s, h, w, t, d):
    """General scores in the window of 2D + 1 positions around position t."""
    places = torch.arange(len(h))
    return (h @ w.T @ s).masked_fill((places - t).abs() > d, -torch.inf)


# %% [markdown]
# ## The same in this package
#
# `Attention` in `hf_vanilla/models/modeling_recurrent.py` computes all variants, for many queries at once. Its `query_proj`,
# `key_proj` and `energy` are $W$, $U$ and $v$.

# %%
length, width = 12, 16
h, s = torch.randn(length, width), torch.randn(width)


def package(kind, t=0, **options):
    config = RecurrentConfig(vocab_size=30, hidden_size=width, attention_type=kind, **options)
    attention = Attention(config).requires_grad_(False)
    context, weights = attention(s[None, None], attention.look_at(h[None], None), torch.tensor([[t]]))
    return attention, context[0, 0], weights[0, 0]


layer, context, weights = package("additive")
scores = additive(s, h, layer.query_proj.weight, layer.key_proj.weight, layer.energy.weight[0])
torch.testing.assert_close(look(scores, h), (context, weights))

layer, context, weights = package("dot")
torch.testing.assert_close(look(dot(s, h), h), (context, weights))
print("dot product: states with a weight above 0:", int((weights > 0).sum()), "/", length)

layer, context, weights = package("local", t=5, local_alignment="monotonic", attention_window=2)
torch.testing.assert_close(look(monotonic(s, h, layer.key_proj.weight, 5, 2), h), (context, weights))
print("local, D = 2: states with a weight above 0:", int((weights > 0).sum()), "/", length)

# %% [markdown]
# ## What the three look at
#
# The same query and the same states, three scores. Only local attention has positions with no weight at all.

# %%
torch.manual_seed(2)
named = {"additive": {"kind": "additive"}, "dot product": {"kind": "dot"}}
named["local, D = 2"] = {"kind": "local", "t": 5, "local_alignment": "monotonic", "attention_window": 2}
figure, panels = plt.subplots(1, 3, figsize=(8, 2.8), sharex=True)
for axes, (name, options) in zip(panels, named.items(), strict=True):
    axes.bar(range(1, length + 1), package(**options)[2])
    axes.set(title=name, xlabel="source position")
panels[0].set_ylabel("weight")

# %% [markdown]
# ## Who waits for whom
#
# Bahdanau's decoder asks with the **previous** state, and the context is a part of the next step's input. Luong's asks with the
# **current** state, after the step. This can be seen from outside: change the last word that the decoder reads. With
# additive attention the last row of weights must stay as it is, for it was computed before that word was read.

# %%
source, target = torch.randint(4, 30, (1, 8)), torch.randint(4, 29, (1, 5))
changed = target.clone()
changed[0, -1] += 1
for kind in ("additive", "dot"):
    config = RecurrentConfig(vocab_size=30, hidden_size=width, N=1, attention_type=kind)
    model = RecurrentForConditionalGeneration(config).eval()
    rows = [
        model(input_ids=source, decoder_input_ids=ids, output_attentions=True).cross_attentions[0][0, 0, -1]
        for ids in (target, changed)
    ]
    same = torch.allclose(*rows)
    assert same == (kind == "additive")
    print(f"{kind:>8}:", "the last row stays" if same else "the last row changes")

# %% [markdown]
# So Bahdanau's recurrence waits for its attention at every step. Luong's can run through the whole target first and look at the
# source afterwards, in one product of matrices, which is why it trains faster. The Transformer goes one step further: it
# drops the recurrence and keeps the attention.
#
# ## Exercises
#
# 1. Local attention with $D = 2$ stands at position 1 of the source, the first. How many positions does it see?
# 2. Why does the dot product need no weights of its own, and what must then be true of the widths of $s$ and $h$?
# 3. Which of the two scores is cheaper to compute for all pairs of $n$ queries and $m$ keys, and why?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. Three: itself and two to the right. Of the $2D + 1 = 5$ positions, two lie before the sentence and are ignored.
# 2. It compares the vectors as they are, so both must have the same width. *General* puts a matrix between them and is free
#    of this condition.
# 3. The dot product: all scores are one product of an $n \times d$ and a $d \times m$ matrix. The additive score needs a tanh
#    of $d$ numbers for each of the $nm$ pairs. Section 3.2.1 gives this as the reason to prefer the dot product.
#
# </details>
