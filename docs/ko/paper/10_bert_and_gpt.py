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
# # BERT와 GPT: 트랜스포머의 두 반쪽
#
# 트랜스포머는 번역을 위해 만들어졌지만, 곧 두 반쪽이 제각기 길을 떠났습니다. 문장 전체를 보는 **인코더**는 BERT(Devlin 등, 2019,
# [arXiv:1810.04805](https://arxiv.org/abs/1810.04805))가 되었고, 지나온 쪽만 보는 **디코더**는 GPT(Radford 등, 2018)가 되었습니다. 이
# 노트북에서는 모델에서 무엇이 달라지는지(거의 없습니다), 그리고 과제에서 무엇이 달라지는지 살펴봅니다.

# %% [markdown]
# ## 수식
#
# BERT는 단어 몇 개를 가리고 **양쪽 문맥**으로 알아맞히는 법을 배웁니다. $M$을 고른 위치의 집합, $\tilde x$를 손상된 문장이라 하면 손실은
# 다음과 같습니다.
#
# $$
# \mathcal{L}_{\text{BERT}} = -\frac{1}{|M|} \sum_{i \in M} \log p(x_i \mid \tilde x)
# $$
#
# GPT는 각 단어를 **앞의** 단어들만 보고 알아맞히는 법을 배웁니다.
#
# $$
# \mathcal{L}_{\text{GPT}} = -\frac{1}{n - 1} \sum_{t=2}^{n} \log p(x_t \mid x_1, \dots, x_{t-1})
# $$

# %% [markdown]
# ## 인코더가 없는 디코더는 뒤만 돌아보는 인코더이다
#
# 인코더 층에 룩 어헤드 마스크를 씌우면 그대로 GPT의 층이 됩니다. 인코더가 없으니 크로스 어텐션도 없기 때문입니다. 다음 셀에서는
# `EncoderLayer`의 가중치를 `DecoderLayer`로 옮겨 비교합니다.

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
print("가중치도 결과도 같은, 같은 층이다.")

# %% [markdown]
# ## BERT의 마스크: 단어의 15 %, 그 가운데 80 / 10 / 10
#
# 전체 단어의 15 %를 골라 예측하게 합니다. 고른 단어를 모두 `[MASK]`로 바꾸면 모델은 그 표시가 있는 문장만 고칠 줄 알게 되는데, 나중에 쓸
# 글에는 그런 표시가 없습니다. 그래서 고른 단어의 80 %만 표시로 바꾸고, 10 %는 아무 단어로나 바꾸고, 10 %는 그대로 둡니다. 모델은 표시가
# 없는 단어 가운데 어느 것을 질문받을지 모르므로 모든 단어를 잘 이해하고 있어야 합니다.


# %%
def mask(ids, mask_id, vocab_size, first_word=4):
    """손상된 id와 레이블을 돌려준다. 예측하지 않는 곳은 -100이다."""
    chosen = torch.rand(ids.shape) < 0.15
    fate = torch.rand(ids.shape)
    damaged = ids.clone()
    damaged[chosen & (fate < 0.8)] = mask_id
    randomly = chosen & (fate >= 0.8) & (fate < 0.9)
    damaged[randomly] = torch.randint(first_word, vocab_size, ids.shape)[randomly]
    return damaged, ids.masked_fill(~chosen, -100)


def shares(damaged, labels, mask_id):
    """고른 비율과, 그 가운데 표시한 것, 바꾼 것, 그대로 둔 것의 비율을 돌려준다."""
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
for name, each in {"직접": plain, "패키지": packaged}.items():
    print([f"{share:.1%}" for share in each.tolist()], name)
    torch.testing.assert_close(each, torch.tensor([0.15, 0.8, 0.1, 0.1]), atol=0.015, rtol=0)

# %% [markdown]
# 무작위 마스크 두 개가 똑같을 수는 없으므로 여기서는 **비율**이 일치하는지 봅니다. (이 패키지는 문장마다 정확히 15 %를, 적어도 한 토큰을
# 고릅니다. 마스크는 시드와 에포크와 문장에만 달려 있어서 실험을 되풀이할 수 있습니다.)
#
# ## 두 손실과 이 패키지의 클래스


# %%
def cross_entropy(logits, labels):
    """-100이 아닌 레이블에 대한 -log p의 평균을 돌려준다."""
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
print("두 손실이 모두 일치한다. 학습 전 GPT의 손실:", f"{outputs.loss:.2f},", "log 1000 = 6.91")

# %% [markdown]
# GPT의 레이블은 입력 자체를 **한 칸 민 것**입니다. 한 단어 위치의 로짓을 다음 단어와 비교합니다. 학습하지 않은 모델은 단어 천 개 가운데
# 아무것이나 뽑는 것만큼 불확실합니다.
#
# ## 각각 무엇을 볼 수 있는가
#
# 문장의 마지막 단어를 바꿔 봅시다. BERT가 보는 첫 단어는 달라집니다. GPT가 보는 첫 단어는 달라져서는 안 됩니다.

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
# ## 작은 GPT를 학습시키기
#
# 좋은 모델을 만들기에는 짧지만 배우는 모습을 보기에는 충분합니다. 너비 64의 두 층짜리 모델이 기초 영어로 쓰인 성경 구절을 읽고, 그다음
# 두 단어를 받아 이어 씁니다.

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
axes.set(xlabel="갱신 횟수", ylabel="손실")
for start in ("And God", "The king"):
    prompt = tokenizer(start, add_special_tokens=False, return_tensors="pt")["input_ids"]
    written = gpt.eval().generate(prompt, max_new_tokens=16, do_sample=False, repetition_penalty=1.2, pad_token_id=0)
    print(tokenizer.decode(written[0]))

# %% [markdown]
# ## 연습 문제
#
# 1. 100단어짜리 문장에서 BERT는 몇 단어를 예측하며, 그 가운데 몇 단어가 바뀌지 않은 채로 보입니까?
# 2. GPT는 모든 단어에서 배우고 BERT는 15 %에서만 배웁니다. BERT는 왜 모든 단어를 한꺼번에 예측하지 않습니까?
# 3. 둘 가운데 꼭 번역을 해야 한다면 어느 쪽이 할 수 있겠습니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 15단어를 예측하고, 그중 평균 1.5단어가 그대로 보입니다.
# 2. 가리지 않으면 정답이 입력에 그대로 있어서 베끼기만 하면 됩니다. GPT는 마스크가 정답을 하나하나 가려 주므로 모든 단어를 예측할 수
#    있습니다.
# 3. GPT입니다. 대규모 언어 모델처럼 원문 뒤에 이어서 쓰면 됩니다. BERT는 빈칸을 채울 뿐 왼쪽부터 써 나가지 않습니다.
#
# </details>
