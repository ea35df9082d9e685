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
# # 스케일드 닷 프로덕트 어텐션을 손으로 계산하기
#
# 이 노트북에서는 수 네 개짜리 벡터로 "I love play game"이라는 문장의 어텐션을 종이에 쓰듯이 계산합니다. 그런 다음 논문 3.2.1절이 짧게만
# 언급하는 물음, 곧 점수를 왜 $\sqrt{d_k}$로 나누는지에 답합니다.

# %% [markdown]
# ## 수식
#
# 논문의 식 (1)은 부드러운 사전을 모든 쿼리에 한꺼번에 적용한 것입니다. $Q$, $K$, $V$의 행이 각각 쿼리, 키, 밸류입니다.
#
# $$
# \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V
# $$

# %% [markdown]
# ## 예제
#
# "I"의 벡터는 $q = [0.1, 0.2, 0.3, 0.4]$, $k = [0.5, 0.6, 0.7, 0.8]$, $v = [0.9, 1.0, 1.1, 1.2]$입니다. 다음 단어로 갈 때마다 모든
# 자리가 0.1씩 커집니다.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla.models.modeling_vanilla import eager_attention_forward

words = ["I", "love", "play", "game"]
steps = 0.1 * torch.arange(4)[:, None]
Q = torch.tensor([0.1, 0.2, 0.3, 0.4]) + steps
K = torch.tensor([0.5, 0.6, 0.7, 0.8]) + steps
V = torch.tensor([0.9, 1.0, 1.1, 1.2]) + steps

first = 0.1 * 0.5 + 0.2 * 0.6 + 0.3 * 0.7 + 0.4 * 0.8
print(f"0.05 + 0.12 + 0.21 + 0.32 = {first:.2f}")
assert round(first, 10) == 0.70

# %% [markdown]
# > **학습 노트에서 바로잡을 점.** 노트에는 이 첫 번째 내적이 0.5로 적혀 있습니다. 네 항은 맞지만 합은 **0.70**입니다. 그 뒤의 값도 모두
# > 조금씩 달라지므로 처음부터 다시 계산합니다.


# %%
def attention(Q, K, V):
    """식 (1)을 한 줄에 한 단계씩."""
    scores = Q @ K.T
    scaled = scores / K.shape[1] ** 0.5
    weights = scaled.exp() / scaled.exp().sum(dim=1, keepdim=True)
    return scores, scaled, weights, weights @ V


torch.set_printoptions(precision=4, sci_mode=False)
scores, scaled, weights, output = attention(Q, K, V)
for name, each in {"점수": scores, "2로 나눈 값": scaled, "가중치": weights, "출력": output}.items():
    print(f"{name} (I):", [round(number, 4) for number in each[0].tolist()])
torch.testing.assert_close(scores[0], torch.tensor([0.70, 0.80, 0.90, 1.00]))
torch.testing.assert_close(weights[0], torch.tensor([0.2316, 0.2434, 0.2559, 0.2691]), atol=5e-5, rtol=0)
torch.testing.assert_close(output[0], torch.tensor([1.0562, 1.1562, 1.2562, 1.3562]), atol=5e-5, rtol=0)

# %% [markdown]
# 예제의 벡터가 서로 거의 비슷하므로 "I"는 네 단어를 거의 고르게 보고 "game"을 조금 더 봅니다. 학습된 모델에서는 벡터들이 뚜렷이
# 달라집니다. 각 행의 가중치를 더하면 1이고, "I"의 출력은 네 밸류를 섞은 것입니다.
#
# $$
# \begin{aligned}
# &0.2316\, v_{\text{I}} + 0.2434\, v_{\text{love}} + 0.2559\, v_{\text{play}} + 0.2691\, v_{\text{game}} \\
# &= [1.0562, 1.1562, 1.2562, 1.3562]
# \end{aligned}
# $$

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.4))
for axes, (title, matrix) in zip(panels, {"점수": scores, "가중치": weights}.items(), strict=True):
    axes.imshow(matrix)
    axes.set(title=title, xticks=range(4), yticks=range(4), xticklabels=words, yticklabels=words)
    for row in range(4):
        for column in range(4):
            axes.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", fontsize=11)
panels[0].set_ylabel("쿼리")
figure.supxlabel("키")

# %% [markdown]
# ## 이 패키지의 함수
#
# 이 패키지의 모든 헤드는 `eager_attention_forward`를 부릅니다. 이 함수의 독스트링에도 같은 예제가 있습니다.

# %%
inputs = [each[None, None] for each in (Q, K, V)]
ours, its_weights = eager_attention_forward(None, *inputs, attention_mask=None, scaling=4**-0.5)
torch.testing.assert_close(ours[0, :, 0], output)
torch.testing.assert_close(its_weights[0, 0], weights)
print("최대 차이", f"{(ours[0, :, 0] - output).abs().max():.1e}")

# %% [markdown]
# ## 왜 제곱근으로 나누는가
#
# 논문의 각주 4는 이렇게 설명합니다. $q$와 $k$의 성분이 서로 독립이고 평균 0, 분산 1이라면 $q \cdot k$는 분산이 1인 항 $d_k$개의
# 합이므로 분산이 $d_k$입니다. 그래서 헤드가 넓을수록 점수가 커지고, 소프트맥스는 키 하나에 가중치를 거의 다 몰아주며, 기울기는
# 사라지다시피 합니다. $\sqrt{d_k}$로 나누면 너비와 상관없이 분산이 다시 1이 됩니다.

# %%
torch.manual_seed(0)
widths = [4, 16, 64, 256, 1024]
results = {"나누지 않음": [], "나눔": []}
print("d_k   점수의 분산")
for d_k in widths:
    q, k = torch.randn(2000, d_k), torch.randn(2000, 16, d_k)
    scores = (k @ q[:, :, None])[..., 0]
    print(f"{d_k:<5} {scores.var():.0f}")
    assert abs(scores.var() / d_k - 1) < 0.1
    for name, scaling in zip(results, (1.0, d_k**-0.5), strict=True):
        largest = (scores * scaling).softmax(-1).amax(-1)
        results[name].append((largest * (1 - largest)).mean().item())

figure, axes = plt.subplots()
for name, gradients in results.items():
    axes.semilogx(widths, gradients, "o-", label=name)
axes.set(xlabel="$d_k$", ylabel="소프트맥스의 기울기")
axes.set_xticks(widths, widths)
axes.minorticks_off()
axes.legend()

# %% [markdown]
# (여기서 기울기는 가장 큰 가중치를 자기 점수로 미분한 $\alpha(1 - \alpha)$의 평균입니다.)
#
# ## 연습 문제
#
# 1. "game"의 가중치를 손으로 계산해 보십시오. 쿼리는 $[0.4, 0.5, 0.6, 0.7]$입니다.
# 2. $V = K$라면 예제의 결과는 어떻게 됩니까? 가중치도 달라집니까?
# 3. 왜 $d_k$가 아니라 $\sqrt{d_k}$로 나눕니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 첫 점수는 $0.4 \cdot 0.5 + 0.5 \cdot 0.6 + 0.6 \cdot 0.7 + 0.7 \cdot 0.8 = 1.48$이고, 다음 점수는 $0.1 \cdot 2.2 = 0.22$씩
#    커져 1.48, 1.70, 1.92, 2.14입니다. 반으로 나누어 소프트맥스를 취하면 0.2104, 0.2348, 0.2621, 0.2926입니다. 다음 셀에서
#    확인합니다.
# 2. 가중치는 $Q$와 $K$로만 정해지므로 그대로입니다. 출력은 같은 비율로 키를 섞은 것이 됩니다.
# 3. $d_k$로 나누면 분산이 $1 / d_k$가 되어, 넓은 헤드에서는 학습을 시작할 때 모든 가중치가 거의 같아집니다.
#
# </details>

# %% tags=["answer"]
print([round(number, 4) for number in weights[3].tolist()])
torch.testing.assert_close(weights[3], torch.tensor([0.2104, 0.2348, 0.2621, 0.2926]), atol=5e-5, rtol=0)
