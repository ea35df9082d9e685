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
# # 마스크
#
# 어텐션은 모든 위치가 다른 모든 위치를 보게 합니다. 그래도 두 가지는 가려야 합니다. 하나는 글이 아닌 **패딩**이고, 다른 하나는 디코더가
# 예측해야 할 **미래**입니다. 미래를 가리는 마스크는 논문 3.2.3절에 나오며, 패딩 마스크는 길이가 다른 문장을 한 배치로 묶을 때마다
# 필요합니다.

# %% [markdown]
# ## 수식
#
# 마스크는 가릴 키의 점수를 소프트맥스 **이전에** $-\infty$로 바꿉니다. 그러면 지수 함수를 거치며 가중치가 0이 됩니다.
#
# $$
# \alpha = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d_k}} + M\right), \qquad
# M_{ij} = \begin{cases} 0 & i \to j \\ -\infty & \text{otherwise} \end{cases}
# $$
#
# 여기서 $i \to j$는 쿼리 $i$가 키 $j$를 보아도 된다는 뜻입니다. 반드시 소프트맥스보다 먼저 해야 합니다. 소프트맥스를 거친 뒤에 가중치를
# 0으로 바꾸면 행의 합이 1이 되지 않습니다.

# %% [markdown]
# ## 그림으로 보는 마스크
#
# 행이 쿼리, 열이 키이고, 파란 칸은 보아도 되는 곳입니다. 문장은 네 단어와 패딩 두 개로 이루어져 있습니다.

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import VanillaConfig, VanillaModel
from hf_vanilla.models.modeling_vanilla import eager_attention_forward

words = ["I", "love", "play", "game", "패딩", "패딩"]
is_token = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
padding = is_token[None].expand(6, 6)
look_ahead = torch.ones(6, 6).tril().bool()
masks = {"패딩 마스크": padding, "룩 어헤드 마스크": look_ahead, "둘 다": padding & look_ahead}

figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.2), sharey=True)
for axes, (title, mask) in zip(panels, masks.items(), strict=True):
    axes.imshow(mask.float(), vmin=0, vmax=1)
    axes.set(title=title, xticks=range(6), yticks=range(6), yticklabels=words)
    axes.set_xticklabels(words, rotation=60)
panels[0].set_ylabel("쿼리")
figure.supxlabel("키")

# %% [markdown]
# - 인코더는 패딩 마스크를 씁니다.
# - 디코더의 셀프 어텐션은 둘을 함께 씁니다.
# - 크로스 어텐션의 키는 원문의 단어이므로 **원문의** 패딩 마스크를 씁니다. 원문은 비밀이 아니어서, 현재 위치보다 한참 뒤에 있는
#   단어까지 모두 볼 수 있습니다.
#
# ## 직접 짠 코드


# %%
def masked_attention(q, k, v, mask):
    scores = q @ k.T / k.shape[1] ** 0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights @ v, weights


q, k, v = torch.randn(3, 6, 8)
for mask in masks.values():
    output, weights = masked_attention(q, k, v, mask)
    given = [each[None, None] for each in (q, k, v, mask)]
    its_output, its_weights = eager_attention_forward(None, *given, scaling=8**-0.5)
    torch.testing.assert_close(its_output[0, :, 0], output)
    torch.testing.assert_close(its_weights[0, 0], weights)
    assert (weights[~mask] == 0).all()
print("세 마스크 모두에서 두 결과가 같다.")

# %% [markdown]
# 한 가지는 다릅니다. 아무것도 볼 수 없는 쿼리는 모든 점수가 $-\infty$여서, 직접 짠 소프트맥스는 0을 0으로 나누게 됩니다. 이 패키지는
# 학습 노트와 마찬가지로 $-\infty$ 대신 float32에서 가장 작은 수를 씁니다. 그러면 그런 행은 고른 가중치를 얻고, 배치 전체를 망칠 NaN이
# 생기지 않습니다.

# %%
nothing = torch.zeros(6, 6).bool()
print("직접 짠 코드:", masked_attention(q, k, v, nothing)[1][0].tolist())
blind = eager_attention_forward(None, *[each[None, None] for each in (q, k, v, nothing)], scaling=8**-0.5)
print("패키지:", [round(weight, 4) for weight in blind[1][0, 0, 0].tolist()])
assert masked_attention(q, k, v, nothing)[1].isnan().all() and not blind[1].isnan().any()

# %% [markdown]
# ## 마스크가 보장하는 것
#
# 마스크가 올바르다면 가려진 것은 **아무 영향도** 주지 않아야 합니다. 모델 전체에서 이를 확인하려면 기울기를 보면 됩니다. 칸 $(i, j)$는
# 모든 층과 층 정규화와 잔차 연결을 거친 출력 $i$가 입력 $j$에 얼마나 의존하는지를 나타냅니다.

# %%
torch.manual_seed(0)
model = VanillaModel(VanillaConfig(vocab_size=50, d_model=32, num_attention_heads=4, N=2, initializer="xavier")).eval()
mask = is_token.long()[None]


def influence(run, x):
    """각 출력이 각 입력에 얼마나 의존하는지 (출력, 입력)으로 돌려준다."""
    jacobian = torch.autograd.functional.jacobian(lambda x: run(x).last_hidden_state[0], x)
    return jacobian[:, :, 0].pow(2).sum(dim=(1, 3)).sqrt()


source, target = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
encoded = model.encoder(inputs_embeds=source, attention_mask=mask).last_hidden_state.detach()
to_source = {"encoder_hidden_states": encoded, "encoder_attention_mask": mask}
found = {
    "인코더, 패딩 마스크": influence(lambda x: model.encoder(inputs_embeds=x, attention_mask=mask), source),
    "디코더, 룩 어헤드 마스크": influence(lambda x: model.decoder(inputs_embeds=x, **to_source), target),
}
encoder, decoder = found.values()
assert (encoder[:4, 4:] == 0).all() and (encoder[:4, :4] > 0).all()
assert (decoder.triu(1) == 0).all() and (decoder[look_ahead] > 0).all()

figure, panels = plt.subplots(1, 2, figsize=(7, 3.2))
for axes, (title, matrix) in zip(panels, found.items(), strict=True):
    axes.imshow(matrix**0.5)
    axes.set(title=title, xlabel="입력", xticks=range(6), xticklabels=range(1, 7), yticks=range(6))
    axes.set_yticklabels(range(1, 7))
panels[0].set_ylabel("출력")

# %% [markdown]
# 디코더의 대각선 위쪽은 모두 정확히 0입니다. 덕분에 병렬 학습이 반칙이 되지 않습니다. 번역문의 모든 위치가 한 번의 호출로 학습하면서도
# 어느 위치도 다음 위치에서 정답을 베낄 수 없습니다.
#
# ## 연습 문제
#
# 1. 패딩 마스크는 왜 행이 아니라 열을 가립니까?
# 2. 문장을 생성할 때 디코더에는 볼 미래가 없습니다. 그래도 룩 어헤드 마스크가 필요합니까?
# 3. 패딩이 왼쪽에 있다면 세 번째 그림에는 어느 칸이 남습니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 열은 키입니다. 열을 가리면 다른 위치가 그것을 읽지 못합니다. 패딩 위치의 행도 무언가를 계산하지만, 아무도 읽지 않고 손실에도
#    들어가지 않습니다.
# 2. 새 단어는 언제나 마지막 위치이므로 그 행에는 가릴 것이 없습니다. 그러나 프롬프트를 한 번에 읽을 때는 각 단어가 학습 때와 같은
#    것만 보아야 하므로 마스크를 그대로 둡니다.
# 3. 단어의 열인 3–6열에서 대각선과 그 아래가 남습니다. 1행과 2행은 비어서, 아무것도 볼 수 없는 행이 됩니다.
#
# </details>
