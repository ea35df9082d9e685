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
# # Masks
#
# Attention lets every position look at every other. Two things must be hidden all the same: **padding**, which is no text, and
# in the decoder **the future**, which is what it shall predict. Section 3.2.3 of the paper describes the second; the first
# comes with every batch of sentences of unequal length.

# %% [markdown]
# ## The equation
#
# A mask sets the scores of hidden keys to $-\infty$ **before** the softmax, whose exponential turns them into weights of 0:
#
# $$
# \alpha = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d_k}} + M\right), \qquad
# M_{ij} = \begin{cases} 0 & \text{if query } i \text{ may look at key } j \\ -\infty & \text{otherwise} \end{cases}
# $$
#
# It must happen before: setting weights to 0 after the softmax would leave rows that do not add up to 1.

# %% [markdown]
# ## The masks as pictures
#
# A row is a query, a column a key, and what is blue may be seen. The sentence has four words and two of padding.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig, VanillaModel
from hf_vanilla.models.modeling_vanilla import eager_attention_forward

words = ["I", "love", "play", "game", "pad", "pad"]
is_token = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
padding = is_token[None].expand(6, 6)
look_ahead = torch.ones(6, 6).tril().bool()
masks = {"padding": padding, "look-ahead": look_ahead, "both": padding & look_ahead}

figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.2), sharey=True)
for axes, (title, mask) in zip(panels, masks.items(), strict=True):
    axes.imshow(mask.float(), vmin=0, vmax=1)
    axes.set(title=title, xticks=range(6), yticks=range(6), yticklabels=words)
    axes.set_xticklabels(words, rotation=60)
panels[0].set_ylabel("queries")
figure.supxlabel("keys")

# %% [markdown]
# - The encoder uses the padding mask.
# - The decoder's self-attention uses both.
# - Cross-attention uses the padding mask **of the source**, for its keys are the source's words. It may look at the whole
#   source, also at words far behind the present position: the source is not secret.
#
# ## A plain version


# %%
def masked_attention(q, k, v, mask):
    scores = q @ k.T / k.shape[1] ** 0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights @ v, weights


q, k, v = torch.randn(3, 6, 8)
for mask in masks.values():
    output, weights = masked_attention(q, k, v, mask)
    given = [each[None, None] for each in (q, k, v, mask)]
    its_output, its_weights = eager_attention_forward(None, *given, scaling=8**-0.5)
    torch.testing.assert_close(its_output[0, :, 0], output)
    torch.testing.assert_close(its_weights[0, 0], weights)
    assert (weights[~mask] == 0).all()
print("Both agree for all three masks.")

# %% [markdown]
# One detail differs. A query that may see nothing at all has only scores of $-\infty$, and the plain softmax divides 0 by 0. The
# package takes the lowest number of float32 instead of $-\infty$, as the study notes do: such a row gets equal weights and no
# NaN, which would spoil the whole batch.

# %%
nothing = torch.zeros(6, 6).bool()
print("plain:", masked_attention(q, k, v, nothing)[1][0].tolist())
blind = eager_attention_forward(None, *[each[None, None] for each in (q, k, v, nothing)], scaling=8**-0.5)
print("package:", [round(weight, 4) for weight in blind[1][0, 0, 0].tolist()])
assert masked_attention(q, k, v, nothing)[1].isnan().all() and not blind[1].isnan().any()

# %% [markdown]
# ## What a mask guarantees
#
# A mask is right if what it hides has **no influence**. For a whole model this can be seen in the gradients: cell $(i, j)$ shows
# how strongly output $i$ depends on input $j$, through all layers, norms and residual connections.

# %%
torch.manual_seed(0)
model = VanillaModel(VanillaConfig(vocab_size=50, d_model=32, num_attention_heads=4, N=2, initializer="xavier")).eval()
mask = is_token.long()[None]


def influence(run, x):
    """Return how strongly each output depends on each input (outputs, inputs)."""
    jacobian = torch.autograd.functional.jacobian(lambda x: run(x).last_hidden_state[0], x)
    return jacobian[:, :, 0].pow(2).sum(dim=(1, 3)).sqrt()


source, target = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
encoded = model.encoder(inputs_embeds=source, attention_mask=mask).last_hidden_state.detach()
to_source = {"encoder_hidden_states": encoded, "encoder_attention_mask": mask}
found = {
    "encoder, padding": influence(lambda x: model.encoder(inputs_embeds=x, attention_mask=mask), source),
    "decoder, look-ahead": influence(lambda x: model.decoder(inputs_embeds=x, **to_source), target),
}
encoder, decoder = found.values()
assert (encoder[:4, 4:] == 0).all() and (encoder[:4, :4] > 0).all()
assert (decoder.triu(1) == 0).all() and (decoder[look_ahead] > 0).all()

figure, panels = plt.subplots(1, 2, figsize=(7, 3.2))
for axes, (title, matrix) in zip(panels, found.items(), strict=True):
    axes.imshow(matrix**0.5)
    axes.set(title=title, xlabel="input", xticks=range(6), xticklabels=range(1, 7), yticks=range(6))
    axes.set_yticklabels(range(1, 7))
panels[0].set_ylabel("output")

# %% [markdown]
# Above the diagonal of the decoder, every number is exactly 0. This is what makes training in parallel honest: all positions of
# a translation learn in one call, and none can copy its answer from the next.
#
# ## Exercises
#
# 1. Why does the padding mask hide columns and not rows?
# 2. In generation the decoder has no future to look at. Does it need the look-ahead mask all the same?
# 3. Which entries would remain in the third picture if padding stood on the left?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. A column is a key: hiding it keeps others from reading it. The row of a padding position computes something too, but
#    nobody reads it, and the loss ignores it.
# 2. Each new word is the last one, so its own row hides nothing. But when a prompt is read in one call, its words must see
#    what they saw in training, so the mask stays.
# 3. The columns of the words, 3 to 6, from the diagonal downwards. Rows 1 and 2 would be empty: the case of the row that sees
#    nothing.
#
# </details>
