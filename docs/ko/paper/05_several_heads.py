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
# # 멀티 헤드 어텐션
#
# 어텐션 하나는 단어마다 밸류를 섞은 결과 하나를 돌려줍니다. 그런데 한 단어가 주어와 이웃 단어와 문장 끝을 동시에 보아야 할 수도
# 있습니다. 소프트맥스가 하나뿐이면 이들을 평균할 수밖에 없습니다. 그래서 논문 3.2.2절은 작은 어텐션 여러 개를 나란히 돌립니다. 이
# 하나하나가 **헤드**입니다.

# %% [markdown]
# ## 수식
#
# $$
# \begin{aligned}
# \mathrm{MultiHead}(Q, K, V) &= \mathrm{Concat}(\mathrm{head}_1, \dots, \mathrm{head}_h)\, W^O \\
# \mathrm{head}_i &= \mathrm{Attention}(Q W_i^Q, K W_i^K, V W_i^V)
# \end{aligned}
# $$
#
# $d_{\text{model}} = 64$, $h = 8$이면 헤드마다 $d_k = d_v = 64 / 8 = 8$차원에서 계산합니다. 너비가 8인 출력 여덟 개를 이어 붙이면 다시
# 64가 되고, 이것을 $W^O$(64 × 64)가 섞습니다. (논문의 base 모델은 512차원에 헤드 8개이므로 헤드마다 64차원입니다.)

# %% [markdown]
# ## 직접 짠 코드
#
# 수식 그대로 헤드를 하나씩 계산합니다. 텐서 모양을 바꾸는 기교 없이, 헤드마다 행렬에서 자기 몫의 행만 가져다 씁니다.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import MultiHeadAttention


def one_head(x, attention, i, d_k=8):
    """헤드 i의 출력 (length, d_k)를 돌려준다."""
    rows = slice(i * d_k, (i + 1) * d_k)
    q, k, v = (
        x @ each.weight[rows].T + each.bias[rows] for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (q @ k.T / d_k**0.5).softmax(dim=-1)
    return weights @ v, weights


def multi_head(x, attention, heads=8):
    """(length, d_model)을 돌려준다."""
    joined = torch.cat([one_head(x, attention, i)[0] for i in range(heads)], dim=-1)
    return joined @ attention.o_proj.weight.T + attention.o_proj.bias


# %% [markdown]
# ## 이 패키지의 클래스
#
# `MultiHeadAttention`(`hf_vanilla/models/modeling_vanilla.py`)은 행렬 곱 한 번으로 모든 헤드를 계산한 다음 64개의 열을 8 × 8로
# 나눕니다.

# %%
config = VanillaConfig(d_model=64, num_attention_heads=8, attn_implementation="eager")
attention = MultiHeadAttention(config, layer_idx=0).eval().requires_grad_(False)
x = torch.randn(5, 64)

plain = multi_head(x, attention)
packaged, weights = attention(x[None])
torch.testing.assert_close(plain, packaged[0])
torch.testing.assert_close(one_head(x, attention, 3)[1], weights[0, 3])
print("출력", tuple(packaged.shape), " 가중치", tuple(weights.shape))

# %% [markdown]
# ## 마지막 행렬의 역할
#
# 헤드를 이어 붙여 $W^O$를 곱하는 것은, 헤드마다 $W^O$에서 자기 몫의 행 8개를 곱해 **모두 더하는** 것과 같습니다. 따라서 모든 헤드가
# 64개 차원 전체에 쓸 수 있고, 출력에 헤드마다 정해진 자리가 있는 것이 아닙니다.

# %%
parts = [one_head(x, attention, i)[0] @ attention.o_proj.weight[:, i * 8 : i * 8 + 8].T for i in range(8)]
torch.testing.assert_close(sum(parts) + attention.o_proj.bias, plain)
print("헤드별 합은 이어 붙여 W_O를 곱한 것과 같다.")

# %% [markdown]
# ## 소프트맥스 하나로는 할 수 없는 일
#
# 어떤 단어가 위치 3과 위치 12의 정보를 둘 다 필요로 하고, 둘을 **구별**해야 한다고 합시다. 헤드 하나는 두 위치에 가중치를 반씩 줄 수
# 있지만, 그러면 평균만 나옵니다. 두 밸류를 맞바꾸어도 결과가 같습니다. 헤드가 둘이면 두 값을 나란히 돌려줄 수 있습니다.

# %%
values = torch.randn(16, 8)
swapped = values.clone()
swapped[[2, 11]] = values[[11, 2]]
halves = torch.zeros(16)
halves[[2, 11]] = 0.5
torch.testing.assert_close(halves @ values, halves @ swapped)
sharp = torch.eye(16)[[2, 11]]
assert not torch.allclose((sharp @ values).flatten(), (sharp @ swapped).flatten())

figure, panels = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
titles = ["헤드 하나", "헤드 둘: 첫째", "헤드 둘: 둘째"]
for axes, title, row in zip(panels, titles, [halves, *sharp], strict=True):
    axes.bar(range(1, 17), row)
    axes.set(title=title, xlabel="위치", xticks=[1, 3, 12, 16])
panels[0].set_ylabel("가중치")

# %% [markdown]
# ## 비용
#
# 너비 8짜리 헤드 여덟 개는 너비 64짜리 헤드 하나와 가중치 수가 같고, 사영에 드는 곱셈 수도 같습니다. 논문은 일부러 비용을 같게
# 맞추었습니다.

# %%
for heads in (1, 2, 4, 8, 16):
    layer = MultiHeadAttention(VanillaConfig(d_model=64, num_attention_heads=heads), layer_idx=0)
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert count == 4 * 64 * 64 + 4 * 64
    print(f"{heads:>2} x {64 // heads:<2} {count:,} 개")

# %% [markdown]
# ## 연습 문제
#
# 1. 모델의 너비가 64이고 헤드가 8개일 때, $W_i^Q$와 $W^O$의 모양은 각각 무엇입니까?
# 2. 학습 전에도 헤드 8개는 서로 다릅니까? 만약 모두 같은 값에서 시작한다면 어떻게 됩니까?
# 3. `VanillaConfig`에는 `qk_head_dim`과 `v_head_dim`이 있습니다. 논문 표 3의 어느 행에 필요합니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. $W_i^Q$는 64 × 8입니다. $W^O$는 $8 \cdot 8 = 64$이므로 64 × 64입니다.
# 2. 서로 다른 난수에서 시작합니다. 헤드가 모두 같고 $W^O$의 몫까지 같다면 기울기도 같으므로 끝까지 같은 채로 남습니다. 일은
#    여덟 배로 하면서 헤드 하나와 다를 바가 없습니다.
# 3. (B)행은 밸류의 너비를 그대로 두고 키를 좁힙니다($d_k = 16$ 또는 $32$).
#
# </details>
