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
# # BERT and GPT: the two halves
#
# The Transformer was built to translate. Soon after, each half went its own way. The **encoder** alone, which sees the whole sentence,
# became BERT (Devlin et al., 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805)). The **decoder** alone, which sees only the past,
# became GPT (Radford et al., 2018). This notebook shows what changes in the model, which is almost nothing, and what changes in the
# task.

# %% [markdown]
# ## The equations
#
# BERT hides some words and learns to guess them from **both sides**. With $M$ the set of chosen positions and $\tilde x$ the damaged sentence:
#
# $$
# \mathcal{L}_{\text{BERT}} = -\frac{1}{|M|} \sum_{i \in M} \log p(x_i \mid \tilde x)
# $$
#
# GPT learns to guess each word from those **before** it:
#
# $$
# \mathcal{L}_{\text{GPT}} = -\frac{1}{n - 1} \sum_{t=2}^{n} \log p(x_t \mid x_1, \dots, x_{t-1})
# $$

# %% [markdown]
# ## A decoder without an encoder is an encoder that looks back
#
# Take an encoder layer and give it the look-ahead mask: that is all of GPT's layer, for without an encoder there is no cross-attention.
# The next cell copies the weights of an `EncoderLayer` into a `DecoderLayer` and compares.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import (
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    load_corpus,
    train_tokenizer,
)
from hf_vanilla.data.collators import MaskedLanguageModelCollator
from hf_vanilla.models.modeling_vanilla import DecoderLayer, EncoderLayer
from hf_vanilla.training.optim import adam

sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "attn_implementation": "eager"}
encoder_layer = EncoderLayer(VanillaEncoderConfig(**sizes), layer_idx=0).eval().requires_grad_(False)
decoder_layer = DecoderLayer(VanillaDecoderConfig(**sizes), layer_idx=0).eval().requires_grad_(False)
decoder_layer.load_state_dict(encoder_layer.state_dict())

x, look_ahead = torch.randn(1, 6, 64), torch.ones(1, 1, 6, 6).tril().bool()
torch.testing.assert_close(encoder_layer(x, look_ahead), decoder_layer(x, look_ahead))
print("The same layer: it has the same weights and gives the same states.")

# %% [markdown]
# ## BERT's masks: 15 % of the words, of which 80 / 10 / 10
#
# Of all words 15 % are chosen to be predicted. If all of them became `[MASK]`, the model would learn only to repair sentences with that
# mark in them, and later texts have none. So of the chosen, 80 % become the mark, 10 % a random word, and 10 % stay as they are.
# The model cannot know which unmarked words it will be asked for, and must keep a good idea of all.


# %%
def mask(ids, mask_id, vocab_size, first_word=4):
    """Return damaged ids and labels, -100 where nothing is predicted."""
    chosen = torch.rand(ids.shape) < 0.15
    fate = torch.rand(ids.shape)
    damaged = ids.clone()
    damaged[chosen & (fate < 0.8)] = mask_id
    randomly = chosen & (fate >= 0.8) & (fate < 0.9)
    damaged[randomly] = torch.randint(first_word, vocab_size, ids.shape)[randomly]
    return damaged, ids.masked_fill(~chosen, -100)


def shares(damaged, labels, mask_id):
    """Return the shares chosen, and of these marked, changed and kept."""
    chosen = labels != -100
    marked, kept = damaged[chosen] == mask_id, damaged[chosen] == labels[chosen]
    numbers = [chosen.float().mean(), marked.float().mean(), (~marked & ~kept).float().mean(), kept.float().mean()]
    return torch.stack(numbers)


verses = load_corpus("verses")["train"][:4000]["source"]
tokenizer = train_tokenizer(verses, 1000, family="encoder")
ids = torch.randint(4, len(tokenizer), (400, 100))
torch.manual_seed(0)
plain = shares(*mask(ids, tokenizer.mask_token_id, len(tokenizer)), tokenizer.mask_token_id)
batch = MaskedLanguageModelCollator(tokenizer)([{"input_ids": row} for row in ids.tolist()])
packaged = shares(batch["input_ids"], batch["labels"], tokenizer.mask_token_id)
for name, each in {"plain": plain, "package": packaged}.items():
    print([f"{share:.1%}" for share in each.tolist()], name)
    torch.testing.assert_close(each, torch.tensor([0.15, 0.8, 0.1, 0.1]), atol=0.015, rtol=0)

# %% [markdown]
# Two random masks cannot be equal, so here the **shares** agree. (The package chooses exactly 15 % of each sentence, at least one token, and
# its masks depend on seed, epoch and sentence alone, so that a run can be repeated.)
#
# ## Both losses, and the same in this package


# %%
def cross_entropy(logits, labels):
    """Return the mean of -log p over the labels that are not -100."""
    at = labels != -100
    log_p = logits[at] - logits[at].exp().sum(-1, keepdim=True).log()
    return -log_p.gather(1, labels[at][:, None]).mean()


options = sizes | {"vocab_size": len(tokenizer), "num_hidden_layers": 2}
bert = VanillaEncoderForMaskedLM(VanillaEncoderConfig(**options)).eval()
gpt = VanillaDecoderForCausalLM(VanillaDecoderConfig(**options)).eval()
few = {name: tensor[:4] for name, tensor in batch.items()}
with torch.no_grad():
    outputs = bert(**few)
    torch.testing.assert_close(cross_entropy(outputs.logits, few["labels"]), outputs.loss)
    outputs = gpt(input_ids=ids[:4], labels=ids[:4])
    torch.testing.assert_close(cross_entropy(outputs.logits[:, :-1], ids[:4, 1:]), outputs.loss)
print("Both losses agree; GPT's at the start:", f"{outputs.loss:.2f},", "log 1000 = 6.91")

# %% [markdown]
# GPT's labels are the input itself, **shifted by one**: the logits at a word are compared with the next. An untrained model is
# about as unsure as one that draws from a thousand words.
#
# ## What each can see
#
# Change the last word of a sentence. BERT's view of the first word changes. GPT's must not.

# %%
one = ids[:1, :8]
other = one.clone()
other[0, -1] = 4 + (one[0, -1] - 3) % (len(tokenizer) - 4)
with torch.no_grad():
    for name, model in {"BERT": bert, "GPT": gpt}.items():
        change = (model(one).logits - model(other).logits).abs().amax(-1)[0]
        print(f"{name:>4}:", [f"{number:.0e}" for number in change.tolist()])
        assert (change[:-1] == 0).all() == (name == "GPT")

# %% [markdown]
# ## A small GPT learns
#
# A minute is too short for a good model and long enough to see it learn. Two layers, 64 wide, read Bible verses in Basic English; then the
# model goes on from two words.

# %%
text = tokenizer(" ".join(verses), add_special_tokens=False, verbose=False)["input_ids"]
blocks = torch.tensor(text[: len(text) // 48 * 48]).view(-1, 48)
gpt = VanillaDecoderForCausalLM(VanillaDecoderConfig(**options, norm_position="pre", dropout=0.0))
optimizer, losses = adam(gpt.parameters(), 4e-3), []
for _ in range(200):
    rows = blocks[torch.randint(len(blocks), (24,))]
    loss = gpt(input_ids=rows, labels=rows).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert sum(losses[-10:]) / 10 < 4.5

figure, axes = plt.subplots()
axes.plot(losses)
axes.set(xlabel="updates", ylabel="loss")
for start in ("And God", "The king"):
    prompt = tokenizer(start, add_special_tokens=False, return_tensors="pt")["input_ids"]
    written = gpt.eval().generate(prompt, max_new_tokens=16, do_sample=False, repetition_penalty=1.2, pad_token_id=0)
    print(tokenizer.decode(written[0]))

# %% [markdown]
# ## Exercises
#
# 1. In a sentence of 100 words, how many does BERT predict, and how many of them does it see unchanged?
# 2. GPT learns from every word and BERT from 15 %. Why does BERT not predict all words at once?
# 3. Which of the two could translate, if it had to?
#
# <details markdown="1"><summary>Answers</summary>
#
# 1. 15, of which 1.5 on average are left unchanged.
# 2. Where nothing is hidden, the answer stands in the input, and the model would copy it. GPT can predict all words, since its mask hides
#    each answer.
# 3. GPT: it can go on writing after the source, as large language models do. BERT fills gaps and does not write from left to right.
#
# </details>
