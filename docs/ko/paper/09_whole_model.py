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
# # 전체 모델을 실제 글로 학습시키기
#
# 이제 부품이 모두 갖추어졌습니다. 이 노트북에서는 논문의 그림 1대로 부품을 조립해 패키지와 비교하고, 작은 인코더-디코더가 기초 영어
# 성경 구절을 독일어로 옮기도록 학습시킵니다. 저자들은 GPU 여덟 개로 열두 시간을 썼지만 여기서는 코어 하나로 1분 남짓 학습합니다. 훌륭한
# 독일어를 기대하기는 어렵지만, 어느 단어가 어느 단어와 짝인지 모델이 알아 가는 모습은 볼 수 있습니다.

# %% [markdown]
# ## 함수 하나로 쓴 모델
#
# 그림 1을 아래에서 위로 따라갑니다. 서브층마다 잔차 연결과 층 정규화가 있고(3.1절), 임베딩은 $\sqrt{d_{\text{model}}}$을 곱하고 출력층과
# 가중치를 함께 쓰며(3.4절), 위치를 더합니다(3.5절).

# %%
import random

import matplotlib.pyplot as plt
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, attention_maps, load_corpus, train_tokenizer
from hf_vanilla.conversion.html_page import export_to_html
from hf_vanilla.data.collators import TranslationCollator
from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.training.optim import make_optimizer, noam_schedule


def attend(x, source, layer, mask=None, heads=4):
    q, k, v = (
        (linear(states)).unflatten(-1, (heads, -1)).transpose(0, 1)
        for linear, states in ((layer.q_proj, x), (layer.k_proj, source), (layer.v_proj, source))
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return layer.o_proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


def add_norm(x, change, norm):
    x = x + change
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + norm.eps) ** 0.5
    return x * norm.weight + norm.bias


def transformer(model, source, target):
    encoder, decoder = model.model.encoder, model.model.decoder
    table, width = model.lm_head.weight, model.config.hidden_size
    x, y = (table[ids] * width**0.5 + encoder.embed_positions(torch.arange(len(ids))) for ids in (source, target))
    past = torch.ones(len(target), len(target)).tril().bool()
    for layer in encoder.layers:
        x = add_norm(x, attend(x, x, layer.self_attention), layer.self_attention_norm)
        x = add_norm(x, layer.feed_forward(x), layer.feed_forward_norm)
    for layer in decoder.layers:
        y = add_norm(y, attend(y, y, layer.self_attention, past), layer.self_attention_norm)
        y = add_norm(y, attend(y, x, layer.cross_attention), layer.cross_attention_norm)
        y = add_norm(y, layer.feed_forward(y), layer.feed_forward_norm)
    return y @ table.T


config = VanillaConfig(vocab_size=40, d_model=32, intermediate_size=64, num_attention_heads=4, N=2)
model = VanillaForConditionalGeneration(config).eval()
source, target = torch.randint(4, 40, (7,)), torch.randint(4, 40, (5,))
with torch.no_grad():
    plain = transformer(model, source, target)
    packaged = model(input_ids=source[None], decoder_input_ids=target[None]).logits[0]
torch.testing.assert_close(plain, packaged, atol=1e-5, rtol=1e-4)
print("로짓", tuple(plain.shape), "최대 차이", f"{(plain - packaged).abs().max():.1e}")

# %% [markdown]
# ## 학습 방법: 식 (3)과 레이블 스무딩
#
# 5.3절은 처음에 학습률을 서서히 올려 아직 학습되지 않은 층을 보호하고, 그다음에 내립니다.
#
# $$
# \mathit{lrate} = d_{\text{model}}^{-0.5} \cdot \min(\mathit{step}^{-0.5}, \mathit{step} \cdot \mathit{warmup}^{-1.5})
# $$
#
# 5.4절은 정답 단어의 확률이 1이 되기를 요구하지 않고, $\epsilon = 0.1$만큼을 어휘 전체에 고르게 나눕니다.
#
# $$
# \mathcal{L} = -(1 - \epsilon) \log p(y) - \frac{\epsilon}{|V|} \sum_{w \in V} \log p(w)
# $$


# %%
def rate(step, d_model=512, warmup=4000):
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
schedule, found = noam_schedule(optimizer, 512, 4000), []
for _ in range(12000):
    found.append(schedule.get_last_lr()[0])
    optimizer.step()
    schedule.step()
steps = [*range(1, 12001)]
torch.testing.assert_close(torch.tensor(found), torch.tensor([rate(step) for step in steps]))

logits, labels = torch.randn(6, 40), torch.randint(40, (6,))
log_p = logits.log_softmax(-1)
smoothed = -0.9 * log_p.gather(1, labels[:, None]).mean() - 0.1 / 40 * log_p.sum(-1).mean()
torch.testing.assert_close(cross_entropy(logits[None], labels[None], label_smoothing=0.1), smoothed)
print("학습률과 손실이 일치한다. 가장 높은 학습률:", f"{max(found):.1e}")

figure, axes = plt.subplots()
axes.plot(steps, found)
axes.set(xlabel="단계", ylabel="학습률", xticks=[1, 4000, 8000, 12000])

# %% [markdown]
# ## 데이터
#
# `load_corpus`는 설치된 패키지에서 성경 구절을 읽고, `train_tokenizer`는 두 언어가 함께 쓰는 어휘를 학습합니다(5.1절). 1분 안에 여러 번 볼
# 수 있도록 짧은 구절만 고릅니다.

# %%
verses = load_corpus("verses")
short = [row for row in verses["train"] if len(row["source"].split()) <= 14]
tokenizer = train_tokenizer([row[side] for row in short for side in ("source", "target")], 1500)
examples = [
    {"input_ids": tokenizer(row["source"])["input_ids"], "labels": tokenizer(row["target"])["input_ids"]}
    for row in short
]
print(f"{len(short):,}", "쌍, 예를 들면:", short[0]["source"], "/", short[0]["target"])
print(tokenizer.convert_ids_to_tokens(examples[0]["input_ids"]))

# %% [markdown]
# ## 학습
#
# 반복문은 늘 보던 것입니다. 손실을 구하고, 기울기를 구하고, 가중치를 갱신합니다. 길이가 비슷한 문장끼리 배치를 이룹니다. 시간이 1분뿐이므로
# `make demo`와 같이 pre-norm 모델을 쓰고 행렬은 Muon으로 학습합니다. 옵티마이저를 `adam`으로, 학습률을 `noam_schedule`로 바꾸면 같은 갱신
# 횟수로 논문의 방법이 어디까지 가는지 볼 수 있습니다.

# %%
torch.manual_seed(0)
random.seed(0)
config = VanillaConfig(
    vocab_size=len(tokenizer),
    d_model=128,
    intermediate_size=512,
    num_attention_heads=4,
    N=2,
    dropout=0.0,
    norm_position="pre",
    initializer="xavier",
)
model = VanillaForConditionalGeneration(config)
collate = TranslationCollator(tokenizer, model)
examples.sort(key=lambda example: len(example["labels"]))
batches = [examples[i : i + 48] for i in range(0, len(examples), 48)]

updates, losses = 400, []
optimizer = make_optimizer("muon", model, 4e-3, "no")
schedule = LambdaLR(optimizer, lambda update: min((update + 1) / 40, (updates - update) / (updates - 40)))
for _ in range(updates):
    loss = model(**collate(random.choice(batches)), label_smoothing=0.1).loss
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    losses.append(loss.item())
first, last = (sum(part) / 20 for part in (losses[:20], losses[-20:]))
assert last < first - 2

figure, axes = plt.subplots()
axes.plot(losses, alpha=0.35)
axes.plot(range(19, updates), torch.tensor(losses).unfold(0, 20, 1).mean(1), color="C0")
axes.set(xlabel="갱신 횟수", ylabel="손실")

# %% [markdown]
# ## 번역
#
# 모델이 보지 못한 구절을 너비 4의 빔 서치(6.1절)로 번역합니다. 자주 나오는 구절과 이름 몇 개는 배웠습니다. 나머지를
# 배우기에는 1분이 부족합니다.

# %%
model.eval()
unseen = [row for row in verses["validation"] if len(row["source"].split()) <= 8][:6]
for row in unseen:
    ids = model.generate(**tokenizer(row["source"], return_tensors="pt"), num_beams=4, max_new_tokens=40)
    print(row["source"], "\n  ->", tokenizer.decode(ids[0], skip_special_tokens=True), "\n   =", row["target"])

# %% [markdown]
# ## 크로스 어텐션이 찾은 짝
#
# 행은 올바른 번역의 독일어 단어, 열은 영어 단어입니다. 어느 단어가 어느 단어의 짝인지 아무도 가르쳐 주지
# 않았지만, 1분 뒤에는 몇 쌍을 알고 있습니다. 각 행에서 가장 진한 칸이 모델이 가장 많이 보는 곳입니다.

# %%
maps = attention_maps(
    model, tokenizer, "Reuben, Simeon, Levi, and Judah;", "Ruben, Simeon, Levi und Juda;", words=True
)
cross = maps["cross"]
figure, panels = plt.subplots(1, 2, figsize=(8.4, 4.2), sharey=True)
for number, axes in enumerate(panels):
    axes.imshow(cross.weights[number].mean(0), vmin=0, vmax=1, aspect="auto")
    axes.set(title="층" + f" {number + 1}", xticks=range(len(cross.keys.labels)))
    axes.set_xticklabels(cross.keys.labels, rotation=60, ha="right")
panels[0].set_yticks(range(len(cross.queries.labels)), cross.queries.labels)

# %% [markdown]
# ## 브라우저에서 돌아가는 모델
#
# 방금 학습한 모델을 HTML 파일 하나로 만듭니다. 파일에는 가중치와 토크나이저, JavaScript로 쓴 엔진이 들어 있고, 다른 컴퓨터에는 아무것도
# 요청하지 않습니다. [따로 열어 보거나](translator.html) 아래에서 바로 써 보십시오. 문장을 쓰고, 단어를 가리켜 헤드마다 어디를 보았는지
# 살펴보고, 다른 단어를 골라 뒤가 어떻게 바뀌는지 볼 수 있습니다. 1분 동안 배운 모델이라 아는 것은 구절 몇 개와 이름 몇 개뿐입니다. 엉뚱한
# 말을 자주 하지만, 그럴 때는 확률이 낮습니다.

# %%
export_to_html(
    model,
    tokenizer,
    "translator.html",
    title="1분 동안 학습한 번역기",
    language="ko",
    examples=[row["source"] for row in unseen],
)

# %% [markdown]
# ## 연습 문제
#
# 1. 디코더는 왜 번역문을 오른쪽으로 한 칸 민 것을 읽으며, 첫 입력은 무엇입니까?
# 2. 레이블 스무딩을 쓰면 완벽한 모델의 손실도 0이 아닙니다. 왜 그렇습니까?
# 3. `make demo`는 같은 방법으로 코어 두 개에서 7분 동안 학습합니다. 무엇이 먼저 나아지겠습니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 위치 $t$는 앞 단어들로 $t$번째 단어를 예측해야 합니다. 첫 위치에는 앞 단어가 없으므로 시작 토큰 `<s>`를 읽습니다.
# 2. 가장 좋은 예측은 정답에 $1 - \epsilon + \epsilon / |V|$, 나머지 단어에 각각 $\epsilon / |V|$를 주는 것입니다. 그 손실은 이 분포의
#    엔트로피이며, 다음 셀에서 계산합니다.
# 3. 자주 나오는 단어와 구절이 먼저 나아지고, 그다음에 어형의 일치가, 드문 단어는 마지막에 나아집니다. 결과와 수치는
#    `model_cards/verses_demo`에 있습니다.
#
# </details>

# %% tags=["answer"]
best = torch.full((len(tokenizer),), 0.1 / len(tokenizer))
best[0] += 0.9
print("가능한 가장 낮은 손실:", f"{-(best * best.log()).sum():.2f}")
