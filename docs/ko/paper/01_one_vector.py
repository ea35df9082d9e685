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
# # 문장 하나를 벡터 하나에 담기
#
# 트랜스포머가 나오기 전의 번역기는 순환 신경망 두 개로 이루어졌습니다. **인코더**는 원문을 왼쪽부터 한 단어씩 읽으며
# 은닉 상태를 갱신하고, **디코더**는 인코더가 남긴 상태에서 출발해 번역문을 한 단어씩 써 나갑니다. 논문 *Attention Is All
# You Need*의 1절은 이 구조의 약점을 짚습니다. 각 단계는 앞 단계가 끝나야 시작할 수 있고, 문장 전체가 벡터 하나를 통과해야
# 합니다. 이 노트북에서는 두 약점을 직접 계산해 확인합니다.
#
# 여기서 다루는 모델은 Sutskever 등(2014, [arXiv:1409.3215](https://arxiv.org/abs/1409.3215))과 Cho 등(2014,
# [arXiv:1406.1078](https://arxiv.org/abs/1406.1078))의 seq2seq입니다.

# %% [markdown]
# ## 수식
#
# GRU(gated recurrent unit)는 현재 단어 $x_t$와 직전 상태 $h_{t-1}$로 다음 상태 $h_t$를 계산합니다.
#
# $$
# \begin{aligned}
# r_t &= \sigma(W_r x_t + U_r h_{t-1}) \\
# z_t &= \sigma(W_z x_t + U_z h_{t-1}) \\
# \tilde h_t &= \tanh(W x_t + r_t \odot U h_{t-1}) \\
# h_t &= (1 - z_t) \odot \tilde h_t + z_t \odot h_{t-1}
# \end{aligned}
# $$
#
# 리셋 게이트 $r_t$는 후보 상태 $\tilde h_t$를 만들 때 과거를 얼마나 쓸지 정하고, 업데이트 게이트 $z_t$는 이전 상태를 얼마나
# 남길지 정합니다. (편향은 코드에만 적었습니다.) 디코더도 자기 가중치로 같은 계산을 하며, 첫 상태는 $s_0 = \tanh(W_0 c)$입니다.
# 여기서 $c$가 인코더의 마지막 상태, 곧 **컨텍스트 벡터**입니다.

# %% [markdown]
# ## 직접 짠 코드

# %%
import matplotlib.pyplot as plt
import torch

from hf_vanilla import RecurrentConfig, RecurrentForConditionalGeneration


def read(x, h, layer, suffix=""):
    """길이가 length인 x를 읽는 GRU의 상태 (length, width)를 돌려준다."""
    states = []
    w, u = getattr(layer, "weight_ih_l0" + suffix), getattr(layer, "weight_hh_l0" + suffix)
    b, c = getattr(layer, "bias_ih_l0" + suffix), getattr(layer, "bias_hh_l0" + suffix)
    for word in x:
        (r, z, new), (r_h, z_h, new_h) = (w @ word + b).chunk(3), (u @ h + c).chunk(3)
        r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
        h = (1 - z) * torch.tanh(new + r * new_h) + z * h
        states.append(h)
    return torch.stack(states)


# %% [markdown]
# 반복문에서 첫 번째 약점이 드러납니다. 프로세서가 아무리 많아도 앞 단계가 끝나기 전에는 다음 단계를 시작할 수 없습니다.
# 논문 4절은 이를 순차 연산 $O(n)$이라고 적습니다.
#
# ## 이 패키지의 클래스
#
# `RecurrentForConditionalGeneration`(`hf_vanilla/models/modeling_recurrent.py`)이 바로 이런 번역기입니다.
# `attention_type="none"`으로 만들면 디코더는 벡터 하나로만 원문을 압니다. 인코더는 Bahdanau 등의 논문처럼 문장을 양방향으로
# 읽고 방향마다 너비의 절반을 씁니다. 따라서 $c$는 왼쪽에서 읽은 마지막 상태와 오른쪽에서 읽은 마지막 상태를 이은 것입니다.

# %%
sizes = {"vocab_size": 30, "hidden_size": 16, "N": 1, "cell_type": "gru"}
model = RecurrentForConditionalGeneration(RecurrentConfig(**sizes, attention_type="none")).eval()
encoder, decoder = model.model.encoder, model.model.decoder
source, target = torch.randint(4, 30, (7,)), torch.randint(4, 30, (5,))

with torch.no_grad():
    x = encoder.embed_tokens(source) * 16**0.5
    forward = read(x, torch.zeros(8), encoder.layers[0])
    backward = read(x.flip(0), torch.zeros(8), encoder.layers[0], "_reverse")
    c = torch.cat((forward[-1], backward[-1]))
    s_0 = torch.tanh(decoder.initial_proj(c))
    states = read(decoder.embed_tokens(target) * 16**0.5, s_0, decoder.layers[0])
    plain = states @ model.lm_head.weight.T
    packaged = model(input_ids=source[None], decoder_input_ids=target[None]).logits[0]

torch.testing.assert_close(plain, packaged)
print("로짓", tuple(plain.shape), "최대 차이", f"{(plain - packaged).abs().max():.1e}")
print("두 신경망 사이를 지나는 수:", c.numel())

# %% [markdown]
# ## 거리가 멀수록 잃는 것
#
# 단어가 일곱 개든 일흔 개든 인코더에서 디코더로 건너가는 벡터의 크기는 같습니다. 아래 그림은 학습하지 않은 신경망의 마지막
# 상태가 각 단어에 얼마나 의존하는지를 기울기의 크기로 보여 줍니다. 게이트가 없는 단순 순환 신경망(*Elman* 신경망)에서는 기울기가
# 빠르게 사라집니다. 게이트가 있으면 천천히 줄어들지만, 그래도 줄어듭니다.

# %%
torch.manual_seed(1)
figure, axes = plt.subplots()
for name, network in {"단순 RNN": torch.nn.RNN(64, 64), "GRU": torch.nn.GRU(64, 64)}.items():
    words = torch.randn(60, 64, requires_grad=True)
    network(words)[0][-1].norm().backward()
    influence = words.grad.norm(dim=1)
    axes.semilogy(range(59, -1, -1), influence / influence[-1], label=name)
axes.set_xlabel("단어와 문장 끝 사이의 거리(단어 수)")
axes.set_ylabel("기울기(마지막 단어 = 1)")
axes.legend()

# %% [markdown]
# ## 벡터 하나의 대가
#
# 두 모델에게 기호열을 거꾸로 쓰는 일을 가르칩니다. 셀도 같고 학습하는 예도 같지만, 두 번째 모델은 인코더의 모든 상태를 볼 수
# 있습니다([다음 노트북](02_attention_before.md)에서 다루는 닷 프로덕트 어텐션). 학습이 끝나면 길이별로 맞힌 기호의 비율을
# 셉니다.


# %%
def examples(length, count):
    symbols = torch.randint(4, 30, (count, length))
    return {"input_ids": symbols, "labels": symbols.flip(1)}


def learn(attention_type):
    torch.manual_seed(0)
    config = RecurrentConfig(**sizes | {"hidden_size": 48}, attention_type=attention_type, dropout=0.0)
    model = RecurrentForConditionalGeneration(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for update in range(250):
        loss = model(**examples(4 + update % 17, 32)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def share_right(model, length):
    batch = examples(length, 100)
    with torch.no_grad():
        return (model(**batch).logits.argmax(-1) == batch["labels"]).float().mean().item()


lengths = [4, 8, 12, 16, 20]
one_vector, attention = ([share_right(learn(kind), each) for each in lengths] for kind in ("none", "dot"))
assert attention[-1] > one_vector[-1] + 0.2

figure, axes = plt.subplots()
axes.plot(lengths, attention, "o-", label="어텐션 있음")
axes.plot(lengths, one_vector, "o-", label="벡터 하나")
axes.set(xlabel="기호열의 길이", ylabel="맞힌 기호의 비율", ylim=(0, 1.05))
axes.legend()

# %% [markdown]
# (각 기호는 학습할 때처럼 앞의 정답 기호들을 보고 예측합니다.) 벡터 하나는 짧은 기호열에는 충분하지만 긴 기호열에는 부족합니다.
# 어텐션은 **단어마다** 벡터를 남겨 두고 디코더가 골라 보게 합니다.
#
# ## 연습 문제
#
# 1. 단어가 7개인 문장과 70개인 문장에서, 벡터 하나를 쓸 때와 어텐션을 쓸 때 인코더에서 디코더로 건너가는 수는 각각 몇 개입니까?
# 2. 디코더는 나중에 한 단어씩 써야 하는데, 학습할 때는 왜 배치 하나를 한 번의 호출로 처리할 수 있습니까?
# 3. 상태의 너비를 늘리면 문제가 완전히 해결됩니까?
#
# <details markdown="1"><summary>정답</summary>
#
# 1. 벡터 하나라면 두 경우 모두 `hidden_size`개입니다. 어텐션을 쓰면 그 7배와 70배가 되어, 문장이 길수록 기억도 커집니다.
# 2. 학습할 때는 정답 번역을 알고 있으므로 각 단계가 직전의 정답 단어를 읽으면 됩니다(교사 강요, *teacher forcing*). 단계끼리는
#    여전히 기다려야 하지만, 중간에 단어를 고를 필요는 없습니다.
# 3. 아닙니다. 너비가 얼마든 어떤 길이를 넘으면 문장을 다 담지 못하고, 처음 읽은 단어는 뒤따르는 모든 단계를 버텨야 합니다.
#    Sutskever 등은 수 8,000개를 쓰고도 원문을 뒤집어 일부 경로를 줄여야 했습니다.
#
# </details>
