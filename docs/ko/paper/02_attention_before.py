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
# # 트랜스포머 이전의 어텐션
#
# 벡터 하나가 너무 작다면, 디코더가 인코더의 상태를 **모두** 보고 단계마다 무엇이 중요한지 정하게 하면 됩니다. 이 방법은 Bahdanau
# 등(2015, [arXiv:1409.0473](https://arxiv.org/abs/1409.0473))이 처음 썼고, Luong 등(2015,
# [arXiv:1508.04025](https://arxiv.org/abs/1508.04025))이 더 단순하게 다듬었습니다. 논문은 1절과 3.2.1절에서 이 두 연구를 출발점으로
# 인용합니다.

# %% [markdown]
# ## 수식
#
# 어느 변형이든 디코더의 단계 $t$에서 하는 일은 세 가지입니다. 인코더 상태 $h_j$마다 점수를 매기고, 소프트맥스로 점수를 가중치로
# 바꾸고, 그 가중치로 상태를 더합니다. 이렇게 얻은 합 $c_t$가 *컨텍스트 벡터*입니다.
#
# $$
# \alpha_{tj} = \frac{\exp e_{tj}}{\sum_k \exp e_{tk}}, \qquad c_t = \sum_j \alpha_{tj} h_j
# $$
#
# 요즘 말로 하면 디코더의 상태가 **쿼리**이고, 인코더의 상태가 **키**이면서 **밸류**입니다. 변형마다 다른 것은 점수를 매기는 식과,
# 디코더의 어느 상태로 묻느냐입니다.
#
# | 변형 | 점수 $e_{tj}$ | 묻는 상태 | 보는 범위 |
# |---|---|---|---|
# | 가산 어텐션(Bahdanau) | $v^\top \tanh(W s_{t-1} + U h_j)$ | 직전 상태 $s_{t-1}$ | 모든 위치 |
# | 닷 프로덕트(Luong) | $s_t^\top h_j$ | 현재 상태 $s_t$ | 모든 위치 |
# | general(Luong) | $s_t^\top W h_j$ | 현재 상태 $s_t$ | 모든 위치 |
# | 로컬(Luong) | 윈도 안에서 general | 현재 상태 $s_t$ | $2D + 1$개 위치 |

# %% [markdown]
# > **학습 노트에서 바로잡을 점.** 노트 하나에는 닷 프로덕트 어텐션이 상태를 $2D + 1$개만 본다고 적혀 있습니다. 이 윈도는 닷 프로덕트가 아니라 Luong의 **로컬**
# > 어텐션에 속합니다. Luong의 *글로벌* 어텐션은 어떤 점수를 쓰든 모든 상태를 봅니다. 둘이 같은 논문에 나오니 헷갈리기 쉬운
# > 대목입니다.

# %% [markdown]
# ## 직접 짠 코드

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
    """컨텍스트 벡터 (width)와 가중치 (source)를 돌려준다."""
    weights = scores.exp() / scores.exp().sum()
    return weights @ h, weights


def monotonic(s, h, w, t, d):
    """위치 t를 둘러싼 2D + 1개 위치의 general 점수."""
    places = torch.arange(len(h))
    return (h @ w.T @ s).masked_fill((places - t).abs() > d, -torch.inf)


# %% [markdown]
# ## 이 패키지의 클래스
#
# `hf_vanilla/models/modeling_recurrent.py`의 `Attention`은 여러 쿼리를 한꺼번에 받아 모든 변형을 계산합니다. `query_proj`,
# `key_proj`, `energy`가 각각 $W$, $U$, $v$입니다.

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
print("닷 프로덕트: 가중치가 0보다 큰 상태:", int((weights > 0).sum()), "/", length)

layer, context, weights = package("local", t=5, local_alignment="monotonic", attention_window=2)
torch.testing.assert_close(look(monotonic(s, h, layer.key_proj.weight, 5, 2), h), (context, weights))
print("로컬, D = 2: 가중치가 0보다 큰 상태:", int((weights > 0).sum()), "/", length)

# %% [markdown]
# ## 세 방식은 어디를 보는가
#
# 쿼리와 상태는 같고 점수만 다릅니다. 가중치가 아예 없는 위치가 있는 것은 로컬 어텐션뿐입니다.

# %%
torch.manual_seed(2)
named = {"가산": {"kind": "additive"}, "닷 프로덕트": {"kind": "dot"}}
named["로컬, D = 2"] = {"kind": "local", "t": 5, "local_alignment": "monotonic", "attention_window": 2}
figure, panels = plt.subplots(1, 3, figsize=(8, 2.8), sharex=True)
for axes, (name, options) in zip(panels, named.items(), strict=True):
    axes.bar(range(1, length + 1), package(**options)[2])
    axes.set(title=name, xlabel="원문 위치")
panels[0].set_ylabel("가중치")

# %% [markdown]
# ## 무엇이 무엇을 기다리는가
#
# Bahdanau의 디코더는 **직전** 상태로 묻고, 컨텍스트 벡터를 다음 단계의 입력에 넣습니다. Luong의 디코더는 한 단계를 마친 뒤 **현재**
# 상태로 묻습니다. 이 차이는 밖에서도 확인할 수 있습니다. 디코더가 읽는 마지막 단어를 바꿔 보십시오. 가산 어텐션의 마지막 행은
# 그 단어를 읽기 전에 계산되었으므로 변하지 않아야 합니다.

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
    print(f"{kind:>8}:", "마지막 행이 그대로이다" if same else "마지막 행이 바뀐다")

# %% [markdown]
# Bahdanau의 순환은 단계마다 어텐션을 기다려야 합니다. Luong의 디코더는 번역문 전체를 먼저 훑은 다음 행렬 곱 한 번으로 원문을 볼 수
# 있어서 더 빨리 학습합니다. 트랜스포머는 여기서 한 걸음 더 나아가, 순환을 버리고 어텐션만 남깁니다.
#
# ## 연습 문제
#
# 1. $D = 2$인 로컬 어텐션이 원문의 첫 위치에 서 있습니다. 몇 개의 위치를 봅니까?
# 2. 닷 프로덕트에는 왜 가중치 행렬이 필요 없습니까? 그 대신 $s$와 $h$의 너비는 어떤 조건을 만족해야 합니까?
# 3. 쿼리 $n$개와 키 $m$개의 모든 쌍을 계산할 때 두 점수 가운데 어느 쪽이 더 저렴하며, 그 까닭은 무엇입니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 세 개입니다. 자기 자신과 오른쪽 두 위치를 봅니다. $2D + 1 = 5$개 가운데 둘은 문장 앞쪽 바깥이므로 무시합니다.
# 2. 두 벡터를 있는 그대로 비교하므로 너비가 같아야 합니다. *general*은 사이에 행렬을 두므로 이 조건에서 벗어납니다.
# 3. 닷 프로덕트입니다. 모든 점수가 $n \times d$ 행렬과 $d \times m$ 행렬의 곱 한 번으로 나옵니다. 가산 점수는 $nm$개의 쌍마다 수
#    $d$개의 tanh를 계산해야 합니다. 논문 3.2.1절이 닷 프로덕트를 택한 이유도 이것입니다.
#
# </details>
