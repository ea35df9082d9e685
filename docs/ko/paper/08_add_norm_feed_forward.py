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
# # 잔차 연결과 층 정규화, 피드 포워드 신경망
#
# 어텐션은 단어 사이에서 정보를 옮깁니다. 여기에 두 부분이 더 있어야 하나의 층이 됩니다. **피드 포워드 신경망**은 단어마다 따로 계산하고,
# **Add & Norm**(잔차 연결과 층 정규화)은 두 서브층을 감싸 층을 여러 개 쌓을 수 있게 합니다. 논문 3.1절과 3.3절의 내용입니다.

# %% [markdown]
# ## 수식
#
# $$
# \mathrm{AddNorm}(x) = \mathrm{LayerNorm}(x + \mathrm{Sublayer}(x))
# $$
#
# $$
# \mathrm{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta, \qquad
# \mu = \frac{1}{d} \sum_j x_j, \quad \sigma^2 = \frac{1}{d} \sum_j (x_j - \mu)^2
# $$
#
# $$
# \mathrm{FFN}(x) = \max(0, x W_1 + b_1) W_2 + b_2
# $$
#
# 마지막 식이 논문의 식 (2)입니다. 평균 $\mu$와 분산 $\sigma^2$은 배치가 아니라 **한 단어**의 수 $d$개에 대해 구합니다. 처음에 $\gamma$는 1,
# $\beta$는 0입니다. (층 정규화는 Ba 등(2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450))이 제안했습니다.)

# %% [markdown]
# ## 숫자로 확인하기
#
# 한 단어가 $x = [1, 2, 3, 4]$이고 서브층이 $[1, 0, 1, 0]$을 돌려준다고 합시다. 합은 $[2, 2, 4, 4]$, 평균은 3, 분산은 1이므로 층
# 정규화의 결과는 $[-1, -1, 1, 1]$입니다.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import AddNorm, EncoderLayer, FeedForward


def layer_norm(x, gamma, beta, eps=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps) ** 0.5 * gamma + beta


def feed_forward(x, w_1, b_1, w_2, b_2):
    return (x @ w_1 + b_1).clamp(min=0) @ w_2 + b_2


x, sublayer = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
print("x + Sublayer(x) =", (x + sublayer).tolist())
normalized = layer_norm(x + sublayer, gamma=torch.ones(4), beta=torch.zeros(4))
print("LayerNorm       =", [round(number, 4) for number in normalized.tolist()])
torch.testing.assert_close(normalized, torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-4, rtol=0)

w_1, w_2 = torch.tensor([[1.0, -1.0]]).T @ torch.ones(1, 2), torch.ones(2, 1)
print("FFN([3, 1])     =", feed_forward(torch.tensor([3.0, 1.0]), w_1, torch.zeros(2), w_2, torch.zeros(1)).tolist())
print("FFN([1, 3])     =", feed_forward(torch.tensor([1.0, 3.0]), w_1, torch.zeros(2), w_2, torch.zeros(1)).tolist())

# %% [markdown]
# 이 피드 포워드 신경망은 $x_1 - x_2$를 두 번 계산해 더합니다. $[1, 3]$에서는 차가 음수이므로 0과의 최댓값(*ReLU*)이 0이 됩니다. 여기서
# 꺾이는 것이 이 신경망에서 유일하게 선형이 아닌 부분입니다.
#
# ## 이 패키지의 클래스
#
# `AddNorm`은 벡터와 서브층 함수를 받고, `FeedForward`는 식 (2)입니다. `EncoderLayer`는 어텐션과 피드 포워드 신경망을 각각 `AddNorm`으로
# 감싼 것입니다.

# %%
config = VanillaConfig(d_model=64, intermediate_size=256, num_attention_heads=8, attn_implementation="eager")
layer = EncoderLayer(config, layer_idx=0).eval().requires_grad_(False)
x = torch.randn(5, 64)

norm = AddNorm(config).eval().requires_grad_(False)
assert (norm.weight == 1).all() and (norm.bias == 0).all()
plain = layer_norm(x + torch.sin(x), norm.weight, norm.bias)
torch.testing.assert_close(norm(x, torch.sin), plain)

network = FeedForward(config).eval().requires_grad_(False)
weights = [network.linear1.weight.T, network.linear1.bias, network.linear2.weight.T, network.linear2.bias]
torch.testing.assert_close(network(x), feed_forward(x, *weights))

ffn, norm_1, norm_2 = layer.feed_forward, layer.self_attention_norm, layer.feed_forward_norm
weights = [ffn.linear1.weight.T, ffn.linear1.bias, ffn.linear2.weight.T, ffn.linear2.bias]
y = layer_norm(x + layer.self_attention(x[None])[0][0], norm_1.weight, norm_1.bias)
y = layer_norm(y + feed_forward(y, *weights), norm_2.weight, norm_2.bias)
torch.testing.assert_close(layer(x[None])[0], y)
print("인코더 층 전체가 일치한다. 최대 차이", f"{(layer(x[None])[0] - y).abs().max():.1e}")

# %% [markdown]
# *position-wise*란 단어마다 같은 신경망을 따로 통과한다는 뜻입니다. 한 단어를 바꾸어도 다른 단어의 결과는 그대로입니다.

# %%
changed = x.clone()
changed[2] += 1
same = [torch.equal(a, b) for a, b in zip(network(x), network(changed), strict=True)]
print(same)
assert same == [True, True, False, True, True]
count = sum(parameter.numel() for parameter in FeedForward(VanillaConfig()).parameters())
print("base 모델의 피드 포워드 신경망 하나의 가중치 수:", f"{count:,}")
assert count == 2 * 512 * 2048 + 2048 + 512

# %% [markdown]
# ## 잔차 연결은 무엇을 위한 것인가
#
# 피드 포워드 신경망 24개를 "x +"가 있게, 또 없게 쌓고 출력이 입력에 얼마나 의존하는지 봅시다. 잔차 연결이 없으면 층마다 기울기에 작은 수가
# 곱해집니다. 잔차 연결이 있으면 언제나 곧은 길이 하나 남습니다.

# %%
torch.manual_seed(0)
networks = [FeedForward(config) for _ in range(24)]
figure, axes = plt.subplots()
for name, keeps_x in {"잔차 연결 있음": 1.0, "잔차 연결 없음": 0.0}.items():
    start = torch.randn(1, 64, requires_grad=True)
    states, gradients = start, []
    for network in networks:
        states = keeps_x * states + network(states)
        gradients.append(torch.autograd.grad(states.norm(), start, retain_graph=True)[0].norm().item())
    axes.semilogy(range(1, 25), gradients, "o-", markersize=4, label=name)
assert gradients[-1] < 1e-6
axes.set(xlabel="층 수", ylabel="입력의 기울기")
axes.legend()

# %% [markdown]
# 층 정규화는 반대쪽 위험을 막습니다. 여러 층을 더하기만 하면 값이 끝없이 커지기 때문입니다. 논문은 정규화를 합 **뒤에** 둡니다
# (*post-norm*). GPT-2와 그 뒤의 모델 대부분은 서브층 앞에 둡니다(*pre-norm*). 층이 깊을 때 학습하기 더 쉽습니다. 이 패키지에서는
# `norm_position="pre"`입니다.
#
# ## 연습 문제
#
# 1. $\epsilon = 0$일 때 $[1, 2, 3, 4]$의 층 정규화를 손으로 계산해 보십시오.
# 2. 모든 수가 같은 단어를 넣으면 층 정규화는 무엇을 돌려주며, 0으로 나누는 일은 무엇이 막아 줍니까?
# 3. base 모델에서 어텐션 하나의 가중치 수를 피드 포워드 신경망의 가중치 수와 비교해 보십시오.
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 평균은 2.5, 분산은 $(2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25$, 그 제곱근은 1.1180이므로 $[-1.3416, -0.4472, 0.4472, 1.3416]$입니다.
# 2. $x - \mu$가 0이므로 $\beta$를 돌려줍니다. $\epsilon$이 분모를 0보다 크게 유지합니다.
# 3. $4 \cdot 512^2 + 4 \cdot 512 = 1{,}050{,}624$개로, 피드 포워드 신경망의 2,099,712개의 절반입니다.
#
# </details>
