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
# # Positions
#
# A recurrent network knows the order of words because it reads them in order. Attention does not: it compares vectors, wherever
# they stand. Without further help, "I am a cat" and "cat I a am" are the same to it. Section 3.5 of the paper adds the
# position to each word's vector.

# %% [markdown]
# ## Without positions, order is lost
#
# A layer of the encoder without positions gives each word the same vector in both sentences.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig, VanillaModel
from hf_vanilla.models.modeling_vanilla import EncoderLayer, SinusoidalPositionalEmbedding

torch.manual_seed(0)
config = VanillaConfig(vocab_size=50, d_model=32, num_attention_heads=4, N=2, attn_implementation="eager")
vectors = dict(zip(["I", "am", "a", "cat"], torch.randn(4, 32), strict=True))
layer = EncoderLayer(config, layer_idx=0).eval().requires_grad_(False)


def encode(sentence):
    words = sentence.split()
    states = layer(torch.stack([vectors[word] for word in words])[None])[0]
    return dict(zip(words, states, strict=True))


one, other = encode("I am a cat"), encode("cat I a am")
for word in vectors:
    torch.testing.assert_close(one[word], other[word])
print("'cat' in both sentences, largest difference:", f"{(one['cat'] - other['cat']).abs().max():.1e}")

encoder = VanillaModel(config).eval().encoder
ids = torch.tensor([[4, 5, 6, 7]])
order = [3, 0, 2, 1]
with torch.no_grad():
    straight, mixed = encoder(ids).last_hidden_state[0], encoder(ids[:, order]).last_hidden_state[0]
difference = (straight[order] - mixed).abs().max()
assert difference > 0.01
print("the same with positions:", f"{difference:.2f}")

# %% [markdown]
# ## The equation
#
# $$
# PE_{(pos, 2i)} = \sin\left(\frac{pos}{10000^{2i / d_{\text{model}}}}\right), \qquad
# PE_{(pos, 2i + 1)} = \cos\left(\frac{pos}{10000^{2i / d_{\text{model}}}}\right)
# $$
#
# Here $pos$ counts the words (the **rows** of the picture below), and $i$ counts the **pairs** of columns: even columns hold
# sines, odd ones cosines, and both of a pair have the same wavelength. Wavelengths run from $2\pi$ to $10000 \cdot 2\pi$, like
# the hands of a clock that has seconds, minutes, hours and many more.

# %% [markdown]
# ## A plain version, and the same in this package


# %%
def encoding(length, width):
    """Return PE (length, width)."""
    table = torch.zeros(length, width)
    for pos in range(length):
        for i in range(width // 2):
            angle = torch.tensor(pos / 10000 ** (2 * i / width), dtype=torch.float64)
            table[pos, 2 * i], table[pos, 2 * i + 1] = angle.sin(), angle.cos()
    return table


plain = encoding(60, 32)
packaged = SinusoidalPositionalEmbedding(config)(torch.arange(60)[None])[0]
torch.testing.assert_close(plain, packaged)
print("largest difference", f"{(plain - packaged).abs().max():.1e}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.4), width_ratios=(1, 1.2))
panels[0].imshow(plain.add(1).div(2), aspect="auto")
panels[0].set(xlabel="column", ylabel="position")
for column in (0, 8, 14):
    panels[1].plot(plain[:, column], label=f"2i = {column}")
panels[1].set(xlabel="position", ylabel="sine")
panels[1].legend(loc="upper right", ncols=3, fontsize=10)
panels[1].set_ylim(-1.1, 1.6)

# %% [markdown]
# ## Why sines?
#
# The authors chose them because, for any fixed distance $k$, the encoding of $pos + k$ is a **linear function** of that of
# $pos$: each pair is a point on a circle, and moving by $k$ turns it by a fixed angle $\omega k$.
#
# $$
# \begin{pmatrix} \sin \omega (pos + k) \\ \cos \omega (pos + k) \end{pmatrix} =
# \begin{pmatrix} \cos \omega k & \sin \omega k \\ -\sin \omega k & \cos \omega k \end{pmatrix}
# \begin{pmatrix} \sin \omega\, pos \\ \cos \omega\, pos \end{pmatrix}
# $$
#
# So one matrix, the same for all positions, can mean "three words to the left". It also follows that the product of two encodings
# depends on their distance alone.

# %%
k = 3
move = torch.zeros(32, 32)
for i in range(16):
    angle = torch.tensor(k / 10000 ** (2 * i / 32))
    c, s = angle.cos(), angle.sin()
    move[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, s], [-s, c]])
torch.testing.assert_close(plain[:-k] @ move.T, plain[k:], atol=1e-5, rtol=0)

products = plain @ plain.T
for distance in (1, 5, 20):
    assert products.diagonal(distance).std() < 1e-5
figure, axes = plt.subplots()
axes.plot(range(-25, 35), products[25])
axes.set(xlabel="distance between two positions", ylabel="product of their encodings")

# %% [markdown]
# ## Added, not appended
#
# Positions are **added** to the embeddings, which section 3.4 multiplies by $\sqrt{d_{\text{model}}}$ first. `VanillaStack.embed`
# does both.

# %%
with torch.no_grad():
    words = encoder.embed_tokens(ids)
    torch.testing.assert_close(words * 32**0.5 + plain[:4], encoder.embed(words, torch.arange(4)[None]))
    print("Both agree.")

# %% [markdown]
# ## Exercises
#
# 1. What is the encoding of position 0?
# 2. Does the *output* of an encoder without positions know how often a word occurs?
# 3. Table 3 (E) of the paper replaces the sines by learned vectors. What can the sines do that those cannot?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. 0, 1, 0, 1, ...: all sines are 0, all cosines 1.
# 2. Yes. A word that occurs twice is a key twice and so gets twice the weight. What is lost is the order, not the count.
# 3. They exist for positions beyond the longest sentence seen in training. A table of learned vectors ends. (Table 3 finds both
#    equally good within that length.)
#
# </details>
