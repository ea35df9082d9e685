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
# # One vector for a sentence
#
# Before the Transformer, a translator was made of two recurrent networks. The **encoder** reads the source from left to
# right and changes its state at every word. The **decoder** starts from what the encoder has left and writes the
# translation, one word after the other. Section 1 of *Attention Is All You Need* names what is wrong with this design,
# and this notebook shows it: the steps must wait for each other, and the whole sentence must pass through one vector.
#
# The models are those of Sutskever et al. (2014, [arXiv:1409.3215](https://arxiv.org/abs/1409.3215)) and Cho et al. (2014,
# [arXiv:1406.1078](https://arxiv.org/abs/1406.1078)).

# %% [markdown]
# ## The equations
#
# A gated recurrent unit (GRU) computes its next state $h_t$ from the word $x_t$ and the state before it:
#
# $$
# \begin{aligned}
# r_t &= \sigma(W_r x_t + U_r h_{t-1}) \\
# z_t &= \sigma(W_z x_t + U_z h_{t-1}) \\
# \tilde h_t &= \tanh(W x_t + r_t \odot U h_{t-1}) \\
# h_t &= (1 - z_t) \odot \tilde h_t + z_t \odot h_{t-1}
# \end{aligned}
# $$
#
# The reset gate $r_t$ says how much of the past the candidate $\tilde h_t$ uses, and the update gate $z_t$ how much of the
# old state stays. (Biases are left out here; the code has them.) The decoder does the same with its own weights, from the
# first state $s_0 = \tanh(W_0 c)$, where $c$ is the encoder's last state: **the one vector**.

# %% [markdown]
# ## A plain version

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import RecurrentConfig, RecurrentForConditionalGeneration


def read(x, h, layer, suffix=""):
    """Return the states of a GRU (length, width) that reads x (length, width)."""
    states = []
    w, u = getattr(layer, "weight_ih_l0" + suffix), getattr(layer, "weight_hh_l0" + suffix)
    b, c = getattr(layer, "bias_ih_l0" + suffix), getattr(layer, "bias_hh_l0" + suffix)
    for word in x:
        (r, z, new), (r_h, z_h, new_h) = (w @ word + b).chunk(3), (u @ h + c).chunk(3)
        r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
        h = (1 - z) * torch.tanh(new + r * new_h) + z * h
        states.append(h)
    return torch.stack(states)


# %% [markdown]
# The loop shows the first weakness. No step can begin before the one before it has ended, however many processors there are.
# Section 4 of the paper counts this as $O(n)$ sequential operations.
#
# ## The same in this package
#
# `RecurrentForConditionalGeneration` (in `hf_vanilla/models/modeling_recurrent.py`) is such a translator. With
# `attention_type="none"` the decoder knows the source by one vector alone. Its encoder reads the sentence in both
# directions, with half of the width for each, as Bahdanau et al. did: $c$ joins the last state from the left and the last
# from the right.

# %%
sizes = {"vocab_size": 30, "hidden_size": 16, "N": 1, "cell_type": "gru"}
model = RecurrentForConditionalGeneration(RecurrentConfig(**sizes, attention_type="none")).eval()
encoder, decoder = model.model.encoder, model.model.decoder
source, target = torch.randint(4, 30, (7,)), torch.randint(4, 30, (5,))

with torch.no_grad():
    x = encoder.embed_tokens(source) * 16**0.5
    forward = read(x, torch.zeros(8), encoder.layers[0])
    backward = read(x.flip(0), torch.zeros(8), encoder.layers[0], "_reverse")
    c = torch.cat((forward[-1], backward[-1]))
    s_0 = torch.tanh(decoder.initial_proj(c))
    states = read(decoder.embed_tokens(target) * 16**0.5, s_0, decoder.layers[0])
    plain = states @ model.lm_head.weight.T
    packaged = model(input_ids=source[None], decoder_input_ids=target[None]).logits[0]

torch.testing.assert_close(plain, packaged)
print("logits", tuple(plain.shape), "largest difference", f"{(plain - packaged).abs().max():.1e}")
print("numbers between the two networks:", c.numel())

# %% [markdown]
# ## What is lost over distance
#
# The sentence may have seven words or seventy: what passes from encoder to decoder has the same size. The picture shows how
# strongly the last state of an untrained network still depends on each word: the norm of its gradient. In a simple
# recurrent network (an *Elman* network, without gates) it vanishes fast. Gates make it fade more slowly, but it fades.

# %%
torch.manual_seed(1)
figure, axes = plt.subplots()
for name, network in {"simple RNN": torch.nn.RNN(64, 64), "GRU": torch.nn.GRU(64, 64)}.items():
    words = torch.randn(60, 64, requires_grad=True)
    network(words)[0][-1].norm().backward()
    influence = words.grad.norm(dim=1)
    axes.semilogy(range(59, -1, -1), influence / influence[-1], label=name)
axes.set_xlabel("words between the word and the end of the sentence")
axes.set_ylabel("gradient, last word = 1")
axes.legend()

# %% [markdown]
# ## What one vector costs
#
# Let two models learn to write sequences of symbols backwards. They have the same cells and see the same examples, but the
# second one may look at all states of the encoder (by dot-product attention, the subject of the
# [next notebook](02_attention_before.md)). Then count by length how many symbols they get right.


# %%
def examples(length, count):
    symbols = torch.randint(4, 30, (count, length))
    return {"input_ids": symbols, "labels": symbols.flip(1)}


def learn(attention_type):
    torch.manual_seed(0)
    config = RecurrentConfig(**sizes | {"hidden_size": 48}, attention_type=attention_type, dropout=0.0)
    model = RecurrentForConditionalGeneration(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for update in range(250):
        loss = model(**examples(4 + update % 17, 32)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def share_right(model, length):
    batch = examples(length, 100)
    with torch.no_grad():
        return (model(**batch).logits.argmax(-1) == batch["labels"]).float().mean().item()


lengths = [4, 8, 12, 16, 20]
one_vector, attention = ([share_right(learn(kind), each) for each in lengths] for kind in ("none", "dot"))
assert attention[-1] > one_vector[-1] + 0.2

figure, axes = plt.subplots()
axes.plot(lengths, attention, "o-", label="with attention")
axes.plot(lengths, one_vector, "o-", label="one vector")
axes.set(xlabel="length of the sequence", ylabel="share of symbols right", ylim=(0, 1.05))
axes.legend()

# %% [markdown]
# (Each symbol is predicted from the right symbols before it, as in training.) The one vector is enough for short sequences and
# not for long ones. Attention keeps one vector **for each word** and lets the decoder choose.
#
# ## Exercises
#
# 1. How many numbers pass from encoder to decoder for sentences of 7 and of 70 words, with one vector and with attention?
# 2. Why does the decoder of this notebook learn in one call per batch, although it must write word by word later?
# 3. Could a wider state solve the problem for good?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. With one vector, `hidden_size` numbers in both cases. With attention, 7 and 70 times as many: the memory grows with the
#    sentence.
# 2. In training the right translation is known, so that each step can read the right word before it (*teacher forcing*).
#    The steps still wait for each other, but no word has to be chosen between them.
# 3. No. Whatever its width, there is a length from which it holds less than the sentence does; and what was read first has
#    to survive all steps that follow. Sutskever et al. used 8,000 numbers and reversed the source to shorten some of the ways.
#
# </details>
