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
# # 포지셔널 인코딩
#
# 순환 신경망은 단어를 순서대로 읽으므로 어순을 압니다. 어텐션은 그렇지 않습니다. 벡터가 어디에 있든 서로 비교할 뿐입니다. 그대로 두면
# 어텐션에게 "I am a cat"과 "cat I a am"은 같은 문장입니다. 그래서 논문 3.5절은 단어 벡터에 위치를 더합니다.

# %% [markdown]
# ## 위치가 없으면 어순이 사라진다
#
# 위치를 더하지 않은 인코더 층은 두 문장에서 각 단어에 똑같은 벡터를 줍니다.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig, VanillaModel
from hf_vanilla.models.modeling_vanilla import EncoderLayer, SinusoidalPositionalEmbedding

torch.manual_seed(0)
config = VanillaConfig(vocab_size=50, d_model=32, num_attention_heads=4, N=2, attn_implementation="eager")
vectors = dict(zip(["I", "am", "a", "cat"], torch.randn(4, 32), strict=True))
layer = EncoderLayer(config, layer_idx=0).eval().requires_grad_(False)


def encode(sentence):
    words = sentence.split()
    states = layer(torch.stack([vectors[word] for word in words])[None])[0]
    return dict(zip(words, states, strict=True))


one, other = encode("I am a cat"), encode("cat I a am")
for word in vectors:
    torch.testing.assert_close(one[word], other[word])
print("두 문장의 'cat', 최대 차이:", f"{(one['cat'] - other['cat']).abs().max():.1e}")

encoder = VanillaModel(config).eval().encoder
ids = torch.tensor([[4, 5, 6, 7]])
order = [3, 0, 2, 1]
with torch.no_grad():
    straight, mixed = encoder(ids).last_hidden_state[0], encoder(ids[:, order]).last_hidden_state[0]
difference = (straight[order] - mixed).abs().max()
assert difference > 0.01
print("위치를 더한 인코더:", f"{difference:.2f}")

# %% [markdown]
# ## 수식
#
# $$
# PE_{(pos, 2i)} = \sin\left(\frac{pos}{10000^{2i / d_{\text{model}}}}\right), \qquad
# PE_{(pos, 2i + 1)} = \cos\left(\frac{pos}{10000^{2i / d_{\text{model}}}}\right)
# $$
#
# $pos$는 단어의 번호(아래 그림의 **행**)이고, $i$는 열 **쌍**의 번호입니다. 짝수 열은 사인, 홀수 열은 코사인이며, 한 쌍의 두 열은
# 파장이 같습니다. 파장은 $2\pi$에서 $10000 \cdot 2\pi$까지 이어집니다. 초침, 분침, 시침이 있고 그보다 느린 바늘이 훨씬 더 많은 시계와
# 같습니다.

# %% [markdown]
# ## 직접 짠 코드와 이 패키지의 클래스


# %%
def encoding(length, width):
    """PE (length, width)를 돌려준다."""
    table = torch.zeros(length, width)
    for pos in range(length):
        for i in range(width // 2):
            angle = torch.tensor(pos / 10000 ** (2 * i / width), dtype=torch.float64)
            table[pos, 2 * i], table[pos, 2 * i + 1] = angle.sin(), angle.cos()
    return table


plain = encoding(60, 32)
packaged = SinusoidalPositionalEmbedding(config)(torch.arange(60)[None])[0]
torch.testing.assert_close(plain, packaged)
print("최대 차이", f"{(plain - packaged).abs().max():.1e}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.4), width_ratios=(1, 1.2))
panels[0].imshow(plain.add(1).div(2), aspect="auto")
panels[0].set(xlabel="열", ylabel="위치")
for column in (0, 8, 14):
    panels[1].plot(plain[:, column], label=f"2i = {column}")
panels[1].set(xlabel="위치", ylabel="사인")
panels[1].legend(loc="upper right", ncols=3, fontsize=10)
panels[1].set_ylim(-1.1, 1.6)

# %% [markdown]
# ## 왜 사인인가
#
# 저자들이 사인을 고른 까닭은, 거리 $k$가 정해지면 $pos + k$의 인코딩이 $pos$의 인코딩에 대한 **선형 함수**가 되기 때문입니다. 한 쌍은 원
# 위의 한 점이고, $k$만큼 옮기면 언제나 같은 각도 $\omega k$만큼 돕니다.
#
# $$
# \begin{pmatrix} \sin \omega (pos + k) \\ \cos \omega (pos + k) \end{pmatrix} =
# \begin{pmatrix} \cos \omega k & \sin \omega k \\ -\sin \omega k & \cos \omega k \end{pmatrix}
# \begin{pmatrix} \sin \omega\, pos \\ \cos \omega\, pos \end{pmatrix}
# $$
#
# 그래서 위치와 상관없이 행렬 하나로 '왼쪽으로 세 단어'를 나타낼 수 있습니다. 두 인코딩의 내적이 거리에만 달려 있다는 것도 여기서
# 나옵니다.

# %%
k = 3
move = torch.zeros(32, 32)
for i in range(16):
    angle = torch.tensor(k / 10000 ** (2 * i / 32))
    c, s = angle.cos(), angle.sin()
    move[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, s], [-s, c]])
torch.testing.assert_close(plain[:-k] @ move.T, plain[k:], atol=1e-5, rtol=0)

products = plain @ plain.T
for distance in (1, 5, 20):
    assert products.diagonal(distance).std() < 1e-5
figure, axes = plt.subplots()
axes.plot(range(-25, 35), products[25])
axes.set(xlabel="두 위치 사이의 거리", ylabel="인코딩의 내적")

# %% [markdown]
# ## 이어 붙이지 않고 더한다
#
# 위치는 임베딩에 **더합니다**. 그 전에 3.4절에 따라 임베딩에 $\sqrt{d_{\text{model}}}$을 곱합니다. 두 일 모두 `VanillaStack.embed`가
# 합니다.

# %%
with torch.no_grad():
    words = encoder.embed_tokens(ids)
    torch.testing.assert_close(words * 32**0.5 + plain[:4], encoder.embed(words, torch.arange(4)[None]))
    print("두 결과가 같다.")

# %% [markdown]
# ## 연습 문제
#
# 1. 위치 0의 인코딩은 무엇입니까?
# 2. 위치가 없는 인코더의 *출력*은 어떤 단어가 몇 번 나오는지 압니까?
# 3. 논문 표 3의 (E)행은 사인 대신 학습한 벡터를 씁니다. 학습한 벡터는 못 하고 사인은 할 수 있는 일은 무엇입니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 0, 1, 0, 1, …입니다. 사인은 모두 0이고 코사인은 모두 1입니다.
# 2. 압니다. 두 번 나오는 단어는 키도 두 개이므로 가중치를 두 배로 받습니다. 사라지는 것은 순서이지 횟수가 아닙니다.
# 3. 사인은 학습할 때 본 가장 긴 문장보다 뒤의 위치에도 있습니다. 학습한 벡터의 표에는 끝이 있습니다. (표 3에 따르면 그 길이
#    안에서는 둘의 성능이 같습니다.)
#
# </details>
