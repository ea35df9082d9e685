"""Parity with independent implementations on random float32 weights: outputs, loss and every gradient.

Our model runs on *their* parameters: `torch.func.functional_call` gives it what the converter makes of them, which can
be differentiated, so that both losses are functions of the same tensors and autograd carries our gradients back into
their layout. What is fused or transposed on the way needs no inverse.
"""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
)

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderModel,
    from_hf,
)
from hf_vanilla.conversion.checkpoints import Plan, Step, Weights
from hf_vanilla.conversion.convert import match
from hf_vanilla.conversion.formats import TORCH_NAMES, pair_names
from hf_vanilla.conversion.torch_module import plan_torch

PAD, START, END, FIRST_WORD, VOCABULARY, TABLE = 0, 1, 2, 3, 29, 20
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}


def like_theirs(theirs: PreTrainedModel, attention: str) -> tuple[nn.Module, Callable]:
    """Our model of their configuration, and what turns their parameters, by name, into its own."""
    ours = from_hf(theirs)
    ours.set_attn_implementation(attention)

    def convert(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = Weights({**theirs.state_dict(), **parameters})
        return match(weights, theirs, ours).tensors()

    return ours.train(), convert


def of_one_stack(ours: nn.Module, prefix: str) -> Callable:
    """What turns the parameters of a `TorchTransformer` that has but an encoder into those of `ours`."""
    table = [
        (prefix + own.removeprefix("{stack}.").removeprefix("encoder."), theirs.replace("{stack}", "encoder"))
        for own, theirs in TORCH_NAMES
    ]
    steps = [Step([theirs], own) for theirs, own in pair_names(dict(ours.named_parameters()), tuple(table)).items()]
    return lambda parameters: Plan(Weights(as_torch(parameters)), steps, ours).tensors()


def as_torch(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a `TorchTransformer`, its embeddings called as `from_hf` wants them."""
    return {f"encoder.{name}" if name == "embed_tokens.weight" else name: p for name, p in parameters.items()}


def randomize(model: nn.Module) -> nn.Module:
    """Weights far from their initial values, so that no term is too small to be wrong.

    Their embeddings withhold the gradient of padding's row, which is Marian's start token too; not here.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_gain = "norm" in name.lower() and name.endswith("weight")
            nn.init.normal_(
                parameter, mean=float(is_gain), std=0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            )
    return model.train()  # with every dropout at 0


def assert_close(ours: Tensor, theirs: Tensor, what: str, scale: float = 0.0) -> None:
    """The largest difference is below 1e-5 of the largest value (of `scale`, where that is larger)."""
    limit = 1e-5 * max(theirs.abs().max().item(), scale)
    difference = (ours - theirs).abs().max().item()
    assert difference <= limit, f"{what}: {difference:.2e} > {limit:.2e}"


def assert_parity(ours: nn.Module, theirs: nn.Module, convert: Callable, inputs: dict, shown: Tensor, **also) -> None:
    """Same outputs where `shown` (batch, length), same loss, same gradient of every parameter of theirs.

    Args:
        convert: their parameters by name to ours.
        inputs: arguments of both models.
        also: arguments of theirs alone.
    """
    parameters = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    converted = convert(parameters)
    expected = {name for name, _ in ours.named_parameters(remove_duplicate=False)}
    missing = {n for n, _ in ours.named_parameters()} - set(converted)
    assert not missing and not set(converted) - expected, (missing, set(converted) - expected)

    our_output = torch.func.functional_call(ours, converted, kwargs=inputs)
    their_output = theirs(**inputs, **also)
    if "labels" in inputs:
        losses = [our_output.loss, their_output.loss]
        assert_close(*losses, "loss")
        with_logits = torch.func.functional_call(ours, converted, kwargs=inputs | {"output_logits": True})
        outputs = with_logits.logits, their_output.logits
    else:  # a loss that weighs every output differently
        outputs = our_output[0], their_output[0]
        weights = torch.rand_like(outputs[1])
        losses = [(output * weights)[shown].sum() for output in outputs]
    assert_close(*(output[shown] for output in outputs), "output")

    gradients = [torch.autograd.grad(loss, list(parameters.values()), allow_unused=True) for loss in losses]
    # A key's bias moves all scores of a row alike: its gradient is 0 up to the rounding of the larger terms around it.
    largest = max(gradient.abs().max().item() for gradient in gradients[1] if gradient is not None)
    for name, our_gradient, their_gradient in zip(parameters, *gradients, strict=True):
        assert (our_gradient is None) == (their_gradient is None), f"{name}: a gradient on one side only"
        if their_gradient is not None:
            scale = largest * (1 if re.search(r"(k_proj|key)\.bias", name) else 0.1)
            assert_close(our_gradient, their_gradient, f"gradient of {name}", scale)


class TorchTransformer(nn.Module):
    """The paper's model from torch's own layers: the independent reference for the model as a whole.

    Args:
        causal: for a single stack (no decoder layers), whether a position sees only those before it.
    """

    def __init__(self, config, encoder_layers: int, decoder_layers: int, causal: bool = False):
        super().__init__()
        pre_norm = config.norm_position == "pre"
        size = (config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.0)
        options = {"activation": config.activation_function, "batch_first": True, "norm_first": pre_norm}

        def final_norm():
            return nn.LayerNorm(config.hidden_size) if pre_norm else None

        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        encoder_layer = nn.TransformerEncoderLayer(*size, **options)
        self.encoder = nn.TransformerEncoder(encoder_layer, encoder_layers, final_norm(), enable_nested_tensor=False)
        if decoder_layers:
            decoder_layer = nn.TransformerDecoderLayer(*size, **options)
            self.decoder = nn.TransformerDecoder(decoder_layer, decoder_layers, final_norm())
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.heads, self.causal = config.num_attention_heads, causal

    def embed(self, ids: Tensor) -> Tensor:
        """Scaled embeddings plus sinusoids, the latter in float64 until the sum. ids: (batch, length)."""
        embeddings = self.embed_tokens(ids)
        hidden_size = embeddings.shape[-1]
        pairs = torch.arange(0, hidden_size, 2, dtype=torch.float64)
        angles = torch.arange(ids.shape[1], dtype=torch.float64)[:, None] / 10_000 ** (pairs / hidden_size)
        positions = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return math.sqrt(hidden_size) * embeddings + positions.float()

    def causal_mask(self, mask: Tensor) -> Tensor:
        """(batch * heads, length, length), true where hidden; padding sees itself: torch's empty rows are NaN."""
        length = mask.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, :]
        return ~(visible | torch.eye(length, dtype=torch.bool)).repeat_interleave(self.heads, dim=0)

    def forward(self, input_ids, attention_mask, decoder_input_ids=None, decoder_attention_mask=None, **_):
        source = self.embed(input_ids)
        if self.causal:
            return (self.lm_head(self.encoder(source, mask=self.causal_mask(attention_mask))),)
        hidden = attention_mask == 0
        memory = self.encoder(source, src_key_padding_mask=hidden)
        if decoder_input_ids is None:
            return (memory,)
        target, target_mask = self.embed(decoder_input_ids), self.causal_mask(decoder_attention_mask)
        return (self.lm_head(self.decoder(target, memory, tgt_mask=target_mask, memory_key_padding_mask=hidden)),)


@st.composite
def sizes(draw) -> dict:
    """Sizes of a small model and batch: heads and widths that differ, so that no two axes can be swapped unseen."""
    heads = draw(st.sampled_from([1, 2, 3]))
    return {
        "heads": heads,
        "hidden": heads * 2 * draw(st.integers(4, 7)),
        "inner": draw(st.integers(5, 30)),
        "layers": draw(st.integers(1, 2)),
        "batch": draw(st.integers(1, 4)),
        "length": draw(st.integers(2, 12)),
        "seed": draw(st.integers(0, 999)),
    }


def shapes(size: dict) -> dict:
    """The fields that our three configs share."""
    return {
        "hidden_size": size["hidden"],
        "num_attention_heads": size["heads"],
        "intermediate_size": size["inner"],
        "max_position_embeddings": TABLE,
        "dropout": 0.0,
    } | TOKENS


def padded(size: dict, side: str, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Random ids and their mask, both (batch, length): every row has one word or more, padding is on `side`."""
    shape = size["batch"], length or size["length"]
    words = torch.randint(1, shape[1] + 1, (shape[0], 1))
    mask = (torch.arange(shape[1]) < words).long()
    if side == "left":
        mask = mask.flip(1)
    return torch.randint(FIRST_WORD, VOCABULARY, shape) * mask + PAD * (1 - mask), mask


def translation_batch(size: dict, side: str) -> tuple[dict, Tensor]:
    """Arguments of a seq2seq model without labels, and the target's mask."""
    source, source_mask = padded(size, side)
    target, target_mask = padded(size, side, size["length"] + 1)
    inputs = {"input_ids": source, "attention_mask": source_mask, "decoder_input_ids": target}
    return inputs | {"decoder_attention_mask": target_mask, "use_cache": False}, target_mask.bool()


def parity(test: Callable) -> Callable:
    """Run a test over random sizes, both sides of padding, and both attention implementations that CPUs have."""
    test = settings(deadline=None, derandomize=True, max_examples=4, phases=[Phase.generate])(
        given(size=sizes())(test)
    )
    test = pytest.mark.parametrize("side", ["right", "left"])(test)
    return pytest.mark.parametrize("attention", ["eager", "sdpa"])(test)


@parity
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_seq2seq_equals_torch_transformer(norm_position, tied, attention, side, size):
    torch.manual_seed(size["seed"])
    layers = {"encoder_layers": size["layers"], "decoder_layers": 3 - size["layers"]}
    fields = {**shapes(size), "norm_position": norm_position, "attn_implementation": attention}
    theirs = randomize(TorchTransformer(VanillaConfig(**fields, tie_word_embeddings=tied), **layers))

    def plan(parameters):
        parameters = as_torch(parameters)
        if not tied:
            parameters["decoder.embed_tokens.weight"] = parameters["encoder.embed_tokens.weight"]
        return plan_torch(Weights(parameters), fields)

    inputs, shown = translation_batch(size, side)
    ours = plan(dict(theirs.named_parameters())).model().train()
    assert (ours.config.tie_word_embeddings, ours.config.final_norm) == (tied, norm_position == "pre")
    assert_parity(ours, theirs, lambda parameters: plan(parameters).tensors(), inputs, shown)


@parity
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_encoder_equals_torch_encoder(norm_position, attention, side, size):
    torch.manual_seed(size["seed"])
    options = {"norm_position": norm_position, "attn_implementation": attention}
    config = VanillaEncoderConfig(**shapes(size), num_hidden_layers=size["layers"], **options)
    theirs = randomize(TorchTransformer(config, size["layers"], 0))
    del theirs.lm_head
    ids, mask = padded(size, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    ours = VanillaEncoderModel(config).train()
    assert_parity(ours, theirs, of_one_stack(ours, ""), inputs, shown=mask.bool())


@parity
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_decoder_equals_masked_torch_encoder(norm_position, attention, side, size):
    torch.manual_seed(size["seed"])
    options = {"norm_position": norm_position, "attn_implementation": attention}
    config = VanillaDecoderConfig(**shapes(size), num_hidden_layers=size["layers"], **options)
    theirs = randomize(TorchTransformer(config, size["layers"], 0, causal=True))
    ids, mask = padded(size, side)
    # The reference counts positions from the left edge, padding or not.
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    ours = VanillaDecoderForCausalLM(config).train()
    assert_parity(ours, theirs, of_one_stack(ours, "decoder."), inputs, shown=mask.bool())


@parity
def test_masked_language_model_equals_bert(attention, side, size):
    torch.manual_seed(size["seed"])
    theirs = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            pad_token_id=PAD,
            hidden_size=size["hidden"],
            num_attention_heads=size["heads"],
            intermediate_size=size["inner"],
            num_hidden_layers=size["layers"],
            max_position_embeddings=TABLE,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )
    randomize(theirs)
    ids, mask = padded(size, side)
    labels = ids.where((torch.rand(ids.shape) < 0.5) & mask.bool(), -100)
    labels[0, 0 if side == "right" else -1] = FIRST_WORD
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.randint(0, 2, ids.shape)}
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    ours, convert = like_theirs(theirs, attention)
    assert_parity(ours, theirs, convert, inputs | {"labels": labels}, mask.bool())

    theirs = randomize(BertModel(theirs.config, add_pooling_layer=False))
    ours, convert = like_theirs(theirs, attention)
    assert_parity(ours, theirs, convert, inputs, mask.bool())


@parity
@pytest.mark.parametrize("tied", [True, False])
def test_causal_language_model_equals_gpt2(tied, attention, side, size):
    torch.manual_seed(size["seed"])
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=size["hidden"],
            n_head=size["heads"],
            n_inner=size["inner"],
            n_layer=size["layers"],
            n_positions=TABLE,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=tied,
            attn_implementation="eager",
        )
    )

    ids, mask = padded(size, side)
    ids[0], mask[0] = FIRST_WORD, 1  # a causal loss needs two words
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    labels = ids.where(mask.bool(), -100)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}
    ours, convert = like_theirs(randomize(theirs), attention)
    # The logits of padding differ, and a left-padded row's last padding predicts its first word: not a word's loss.
    if side == "left":
        labels[:, 1:] = labels[:, 1:].masked_fill(mask[:, :-1] == 0, -100)
    assert_parity(ours, theirs, convert, inputs | {"use_cache": False}, mask.bool())


@parity
def test_seq2seq_equals_bart(attention, side, size):
    torch.manual_seed(size["seed"])
    layers = {"encoder_layers": size["layers"], "decoder_layers": 3 - size["layers"]}
    theirs = BartForConditionalGeneration(BartConfig(**bart_sizes(size), **layers, decoder_start_token_id=END))
    inputs, shown = translation_batch(size, side)
    inputs["labels"] = torch.randint(FIRST_WORD, VOCABULARY, shown.shape).where(shown, -100)
    ours, convert = like_theirs(randomize(theirs), attention)
    assert_parity(ours, theirs, convert, inputs, shown)


@parity
@pytest.mark.parametrize("tied", [True, False])
def test_seq2seq_equals_marian(tied, attention, side, size):
    torch.manual_seed(size["seed"])
    layers = {"encoder_layers": size["layers"], "decoder_layers": 3 - size["layers"]}
    theirs = MarianMTModel(
        MarianConfig(
            **bart_sizes(size),
            **layers,
            activation_function="swish",
            scale_embedding=True,
            decoder_start_token_id=PAD,
            share_encoder_decoder_embeddings=tied,
            tie_word_embeddings=tied,
        )
    )
    # The decoder's input comes from the labels here: <pad> first, then the labels shifted by one.
    source, source_mask = padded(size, side)
    labels, _ = padded(size, "right", size["length"] + 1)
    labels = labels.where(labels != PAD, -100)
    inputs = {"input_ids": source, "attention_mask": source_mask, "labels": labels}
    ours, convert = like_theirs(randomize(theirs), attention)
    assert_parity(ours, theirs, convert, inputs, labels != -100)


def bart_sizes(size: dict) -> dict:
    """The fields that BART's and Marian's configs share."""
    return {
        "d_model": size["hidden"],
        "encoder_attention_heads": size["heads"],
        "decoder_attention_heads": size["heads"],
        "encoder_ffn_dim": size["inner"],
        "decoder_ffn_dim": size["inner"],
        "max_position_embeddings": TABLE,
        "dropout": 0.0,
        "attn_implementation": "eager",
        "forced_eos_token_id": None,
    } | TOKENS
