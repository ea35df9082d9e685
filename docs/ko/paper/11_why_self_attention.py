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
# # 왜 셀프 어텐션인가
#
# 논문 4절은 너비 $d$인 벡터 $n$개를 다시 $n$개의 벡터로 바꾸는 네 가지 층을 비교합니다. 셀프 어텐션, 순환층, 커널이 $k$인 합성곱층, 이웃
# $r$개만 보는 제한된 셀프 어텐션입니다. 표 1은 층의 계산량, 서로 기다려야 하는 단계의 수, 두 단어 사이의 거리를 적어 둡니다. 여기서는
# 표를 믿는 대신 하나하나 **재어** 봅니다.

# %% [markdown]
# ## 표 1
#
# | 층 | 층당 계산량 | 순차 연산 | 가장 긴 경로 |
# |---|---|---|---|
# | 셀프 어텐션 | $n^2 d$ | $1$ | $1$ |
# | 순환층 | $n d^2$ | $n$ | $n$ |
# | 합성곱층 | $k n d^2$ | $1$ | $n / k$(팽창 합성곱은 $\log_k n$) |
# | 제한된 셀프 어텐션 | $r n d$ | $1$ | $n / r$ |

# %% [markdown]
# ## 계산량: 재지 않고 세기
#
# torch는 호출 한 번에 드는 곱셈의 수를 셀 수 있습니다. 초시계와 달리 오차가 없습니다. 층마다 몇 줄이면 됩니다. 셀프 어텐션의 곱은
# $QK^\top$와 가중치 곱하기 $V$, 이렇게 둘입니다.

# %%
import math
import time

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import MultiHeadAttention


def self_attention(x):
    return (x @ x.T / x.shape[1] ** 0.5).softmax(-1) @ x


def recurrent(x):
    w, u, state, states = torch.eye(x.shape[1]), torch.eye(x.shape[1]), torch.zeros(1, x.shape[1]), []
    for word in x.split(1):
        state = torch.tanh(word @ w + state @ u)
        states.append(state)
    return torch.cat(states)


def convolution(x, k=3):
    return F.conv1d(x.T[None], x.new_full((x.shape[1], x.shape[1], k), 1 / (x.shape[1] * k)), padding=k // 2)[0].T


def restricted(x, r=9):
    windows = F.pad(x, (0, 0, r // 2, r // 2)).unfold(0, r, 1)
    weights = (x[:, None] @ windows / x.shape[1] ** 0.5).softmax(-1)
    return (windows @ weights.transpose(1, 2)).squeeze(2)


def multiplications(layer, n, d):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(n, d))
    return counter.get_total_flops() // 2


layers = {
    "셀프 어텐션": (self_attention, 2, 1),
    "순환층": (recurrent, 1, 2),
    "합성곱층": (convolution, 1, 2),
    "제한된 셀프 어텐션": (restricted, 1, 1),
}
for name, (layer, by_n, by_d) in layers.items():
    start = multiplications(layer, 64, 32)
    n, d = (math.log2(multiplications(layer, *size) / start) for size in ((128, 32), (64, 64)))
    assert (n, d) == (by_n, by_d)
    print(f"{start:>9,}  n^{n:.0f} d^{d:.0f}  {name}")

# %% [markdown]
# 네 층의 지수가 모두 표 1과 정확히 일치합니다.
#
# ## 이 패키지의 클래스
#
# `MultiHeadAttention`에는 두 번의 곱 말고도 표 1이 뺀 사영이 네 번 있습니다. 모두 합하면 곱셈이 $4 n d^2 + 2 n^2 d$번입니다.


# %%
def formula(n, d):
    return 4 * n * d**2 + 2 * n**2 * d


for n, d in ((16, 64), (64, 64), (256, 64), (64, 128)):
    attention = MultiHeadAttention(VanillaConfig(d_model=d, attn_implementation="eager"), layer_idx=0).eval()
    counted = multiplications(lambda x, attention=attention: attention(x[None])[0], n, d)
    assert counted == formula(n, d)
    print(f"n = {n:>3}, d = {d:>3}: {counted:>10,}", "두 번의 곱", f"{2 * n * n * d / counted:.0%}")

# %% [markdown]
# > **학습 노트에 덧붙이는 말.** 셀프 어텐션의 층당 계산량이 더 적다는 말은 **$n < d$일 때** 맞습니다. $n^2 d$와 $n d^2$의 비교이기 때문입니다.
# > 너비 512인 모델에서 30단어짜리 문장은 여유 있게 이 조건을 만족하지만, 책 한 권은 그렇지 않습니다.
#
# ## 순차 연산
#
# 앞의 것을 기다려야 하는 연산들의 가장 긴 사슬을 autograd의 그래프에서 읽습니다. 병렬 계산기로도 줄일 수 없는 부분입니다.


# %%
def chain(n, layer):
    depth, nodes = {}, [layer(torch.randn(n, 16, requires_grad=True)).grad_fn]
    while nodes:
        node = nodes[-1]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        waiting = [parent for parent in parents if parent not in depth]
        if waiting:
            nodes += waiting
        else:
            depth[nodes.pop()] = 1 + max((depth[parent] for parent in parents), default=0)
    return max(depth.values())


for name, (layer, *_) in layers.items():
    chains = [chain(n, layer) for n in (16, 32, 64)]
    print(chains, name)
    assert (chains[0] == chains[2]) == (layer is not recurrent)

# %% [markdown]
# ## 경로의 길이
#
# 첫 단어의 신호가 마지막 단어에 닿기까지 몇 단계가 필요한지 셉니다. 마지막 출력의 기울기가 첫 입력에 닿을 때까지 층을 쌓습니다. 순환층은
# 한 층이면 닿지만, 그 안에서 $n$단계를 거칩니다.


# %%
def path(layer, n):
    if layer is recurrent:  # 층은 하나지만 그 안에서 n단계를 거친다
        return n
    start = torch.randn(n, 8, dtype=torch.float64, requires_grad=True)
    states = start
    for steps in range(1, n + 1):
        states = layer(states)
        if torch.autograd.grad(states[-1].sum(), start, retain_graph=True)[0][0].abs().sum() > 0:
            return steps


sizes = [4, 8, 16, 32, 64]
figure, axes = plt.subplots()
for name, (layer, *_) in layers.items():
    axes.loglog(sizes, [path(layer, n) for n in sizes], "o-", label=name)
axes.set(xlabel="길이 n", ylabel="첫 단어에서 마지막 단어까지의 단계")
axes.set_xticks(sizes, sizes)
axes.set_yticks([1, 4, 16, 64], [1, 4, 16, 64])
axes.minorticks_off()
axes.legend()
assert path(self_attention, 64) == 1 and path(convolution, 64) == 63 and path(restricted, 64) == 16

# %% [markdown]
# ## 실제 시간
#
# 이 페이지를 만든 컴퓨터에서 잰 시간이므로 다른 컴퓨터에서는 다를 수 있습니다. 문장이 짧으면 순환층의 반복이 가장 오래 걸리고, 길어지면
# $n^2$이 따라붙습니다.


# %%
def seconds(layer, n, d=64):
    x, times = torch.randn(n, d), []
    for _ in range(4):
        begin = time.perf_counter()
        with torch.no_grad():
            layer(x)
        times.append(time.perf_counter() - begin)
    return min(times)


sizes = [32, 128, 512, 2048]
figure, axes = plt.subplots()
for name, (layer, *_) in layers.items():
    axes.loglog(sizes, [1000 * seconds(layer, n) for n in sizes], "o-", label=name)
axes.set(xlabel="길이 n (d = 64)", ylabel="밀리초")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend()

# %% [markdown]
# ## 연습 문제
#
# 1. 길이가 얼마일 때 `MultiHeadAttention`의 두 번의 곱과 네 번의 사영이 같은 비용이 됩니까?
# 2. 63칸 떨어진 두 단어를 이으려면 $k = 3$인 합성곱층이 몇 층 필요합니까? 코드는 왜 $n = 64$에서 63이라고 했습니까?
# 3. 논문의 짧은 학습 시간은 표 1의 어느 열에서 나옵니까? 왜 CPU 코어 하나에서는 드러나지 않습니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. $2 n^2 d = 4 n d^2$에서 $n = 2d$입니다. base 모델이라면 1,024단어입니다.
# 2. 층마다 신호가 양쪽으로 $(k - 1) / 2 = 1$단어씩 가므로 63층입니다. 표 1의 $n / k$는 차수를 말하므로 상수배는 따지지 않습니다.
# 3. 순차 연산입니다. 코어가 하나뿐이면 동시에 할 일이 없으므로, 기다리지 않아도 되는 연산이 있어도 이득이 없습니다.
#
# </details>
