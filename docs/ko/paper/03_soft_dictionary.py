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
# # 어텐션은 부드러운 사전이다
#
# 논문 3.2절은 어텐션을 쿼리 하나와 키-밸류 쌍의 모음에 대한 함수로 설명합니다. 모두 사전에서 온 말이고, 사전은 어텐션으로 들어가는
# 가장 쉬운 문입니다. 보통 사전은 쿼리와 **똑같은** 키의 밸류를 돌려줍니다. 부드러운 사전은 모든 밸류를 섞어서 돌려주되, 쿼리와
# **비슷한** 키의 밸류를 더 많이 섞습니다.

# %% [markdown]
# ## 정확히 일치해야 하는 사전

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla.models.modeling_vanilla import eager_attention_forward

prices = {"레몬": 2.0, "꿀": 9.0, "오렌지": 3.0, "고추": 4.0}
print(prices["꿀"])
print(prices.get("달콤한 것"))

# %% [markdown]
# 사전에 '달콤한 것'이라는 키가 없으므로 아무것도 나오지 않습니다. 꿀이 그 말에 가깝다는 사실을 사전은 알 길이 없습니다.
#
# ## 부드러운 사전
#
# 키마다 신맛, 단맛, 매운맛의 정도를 적은 벡터를 붙이고 쿼리도 같은 방식으로 나타냅니다. 나머지는 세 단계이며, 쿼리가 하나일 때의
# 식 (1)과 같습니다.
#
# $$
# e_j = q \cdot k_j, \qquad \alpha_j = \frac{\exp(\beta e_j)}{\sum_i \exp(\beta e_i)}, \qquad \text{output} = \sum_j \alpha_j v_j
# $$
#
# 논문에서 $\beta$는 $1 / \sqrt{d_k}$입니다. 여기서는 값을 바꿔 가며 어떤 역할을 하는지 살펴봅니다.

# %%
keys = torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.5, 0.7, 0.0], [0.0, 0.0, 1.0]])
values = torch.tensor([[2.0], [9.0], [3.0], [4.0]])
query = torch.tensor([0.0, 1.0, 0.0])


def look_up(query, keys, values, beta):
    scores = keys @ query
    weights = (beta * scores).exp() / (beta * scores).exp().sum()
    return weights @ values, weights


for beta in (0.0, 1.0, 5.0, 50.0):
    price, weights = look_up(query, keys, values, beta)
    print(f"beta {beta:>4}: 가격 {price.item():.2f}, 가중치", [round(w, 2) for w in weights.tolist()])

torch.testing.assert_close(look_up(query, keys, values, 0.0)[0], values.mean(0))
torch.testing.assert_close(look_up(query, keys, values, 80.0)[0], values[1])

# %% [markdown]
# $\beta = 0$이면 쿼리는 아무 영향이 없고 출력은 모든 밸류의 평균입니다. $\beta$가 크면 부드러운 사전이 정확한 사전과 같아져서 가장
# 비슷한 키 하나만 남습니다. 그 사이에서는 섞입니다. 키나 쿼리가 조금 바뀌면 출력도 조금 바뀌므로, 바로 이 성질 덕분에 학습할 수
# 있습니다.

# %%
figure, panels = plt.subplots(1, 3, figsize=(8, 2.8), sharey=True)
for axes, beta in zip(panels, (0.6, 3.0, 15.0), strict=True):
    axes.bar(list(prices), look_up(query, keys, values, beta)[1])
    axes.set_title(f"beta = {beta}")
    axes.tick_params(axis="x", labelrotation=45)
panels[0].set_ylabel("가중치")

# %% [markdown]
# ## 이 패키지의 함수
#
# `eager_attention_forward`(`hf_vanilla/models/modeling_vanilla.py`)는 배치와 여러 헤드에 걸쳐 많은 쿼리를 한꺼번에 찾습니다. 쿼리
# 하나는 크기가 모두 1인 특별한 경우입니다.


# %%
def package(query, keys, values, beta):
    q, k, v = query[None, None, None], keys[None, None], values[None, None]
    output, weights = eager_attention_forward(None, q, k, v, attention_mask=None, scaling=beta)
    return output[0, 0, 0], weights[0, 0, 0]


for beta in (0.5, 3**-0.5, 5.0):
    torch.testing.assert_close(package(query, keys, values, beta), look_up(query, keys, values, beta))
print("두 결과가 같다.")

# %% [markdown]
# ## 헷갈리기 쉬운 세 가지
#
# - **키와 밸류는 같을 필요가 없고** 너비도 달라도 됩니다. 위의 키는 수가 세 개, 밸류는 한 개입니다. 셀프 어텐션에서는 둘 다 *같은
#   단어에서* 나오지만, 서로 다른 행렬을 거칩니다.
# - **밸류는 소프트맥스의 결과가 아닙니다.** 소프트맥스가 돌려주는 것은 가중치입니다. 밸류는 따로 주어지며, 출력은 이 가중치로 더한
#   밸류의 합입니다.
# - **소프트맥스는 시그모이드가 아닙니다.** 시그모이드는 점수를 하나씩 따로 바꾸므로 결과를 더해도 1이 되지 않습니다. 소프트맥스에서는
#   점수들이 경쟁합니다. 하나가 커지면 나머지가 모두 작아집니다.
#
# 학습 노트에서 조금씩 어긋나 있던 대목이라, 코드로 확인해 둡니다.

# %%
scores = torch.tensor([2.0, 1.0, 0.0])
raised = torch.tensor([3.0, 1.0, 0.0])
print("softmax", scores.softmax(0).tolist(), "->", raised.softmax(0).tolist())
print("sigmoid", scores.sigmoid().tolist(), "->", raised.sigmoid().tolist())
assert abs(scores.softmax(0).sum() - 1) < 1e-6 and abs(scores.sigmoid().sum() - 1) > 1
assert (raised.softmax(0) < scores.softmax(0))[1:].all() and (raised.sigmoid() == scores.sigmoid())[1:].all()

# %% [markdown]
# 그래도 소프트맥스 안에는 두 점수의 시그모이드가 숨어 있습니다. 키가 둘뿐이면 첫 번째 가중치는 $\sigma(e_1 - e_2)$입니다. 아마
# 여기서 혼동이 시작되었을 것입니다.
#
# ## 연습 문제
#
# 1. 쿼리가 영벡터이면 부드러운 사전은 무엇을 돌려줍니까?
# 2. 모든 점수에 같은 수를 더하면 가중치는 어떻게 됩니까?
# 3. 키 두 개가 서로 같고 밸류는 각각 2와 9입니다. 두 키와 잘 맞는 쿼리를 넣고 $\beta$를 키우면 사전은 무엇을 돌려줍니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 점수가 모두 0이므로 가중치가 모두 같습니다. 출력은 밸류의 평균인 4.5입니다.
# 2. 변하지 않습니다. $\exp(c)$가 분자와 분모에 똑같이 들어가기 때문입니다. 실제 구현은 이 성질을 이용해 가장 큰 점수를 먼저 빼서
#    지수 함수가 넘치지 않게 합니다.
# 3. 두 키의 가중치는 언제나 같으므로 출력은 두 밸류의 평균인 5.5에 가까워지며, 어느 한쪽이 되지는 않습니다.
#
# </details>
