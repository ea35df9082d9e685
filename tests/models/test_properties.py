"""What has to hold for any weights: masks, caches, losses, gradients. Each is a bug that users of others met."""

import copy
import dataclasses
from typing import get_args, get_type_hints

import pytest
import torch
from families import (
    BASES,
    DECODER_HEADS,
    ENCODER_HEADS,
    HEADS,
    LANGUAGE_MODELS,
    MODELS,
    VOCABULARY,
    batch_for,
    small_model,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderForTokenClassification,
    VanillaDecoderModel,
    VanillaEncoderForMultipleChoice,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)
from hf_vanilla.models.unpadding_vanilla import Dropout

IMPLEMENTATIONS = ["eager", "sdpa"]
# Text classifiers of the encoder read the first position, which padding on the left would take.
READING_THE_FIRST_TOKEN = [VanillaEncoderForSequenceClassification, VanillaEncoderForMultipleChoice]
SINGLE_STACKS = [VanillaEncoderModel, VanillaDecoderModel, *ENCODER_HEADS, *DECODER_HEADS]
both_implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def examples(count: int):
    """Hypothesis with `count` examples, the same ones in every run."""
    return settings(deadline=None, derandomize=True, max_examples=count)


def equal(ours: Tensor, theirs: Tensor, atol: float = 2e-6) -> None:
    """Equal up to the rounding of another order of summation; values here are about 1."""
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5)


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of `loss` by parameter, all of them."""
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("model_class", MODELS)
def test_a_signature_says_what_a_call_returns(model_class):
    """Libraries read there which fields an output has."""
    returned = get_type_hints(model_class.forward)["return"]
    named = get_args(returned) or (returned,)
    assert all(map(dataclasses.is_dataclass, named))
    assert type(small_model(model_class)(**batch_for(model_class, labels=False))) in named


# Masks: padding and causality


def pad(tensor: Tensor, count: int, side: str, value: int) -> Tensor:
    """`count` more columns of `value` on `side`."""
    return F.pad(tensor, (count, 0) if side == "left" else (0, count), value=value)


def outputs_at_tokens(outputs, mask: Tensor) -> list[Tensor]:
    """What a model says about tokens, without padding: scores and states (batch, length, ...), or scores of a text."""
    tensors = [value for value in outputs.values() if isinstance(value, Tensor) and value.ndim > 0]
    is_token = mask.flatten(0, -2)[0].bool()
    return [value[:, is_token] if value.shape[1] == len(is_token) else value for value in tensors]


PADDED = [(model_class, "right") for model_class in SINGLE_STACKS] + [
    (model_class, "left") for model_class in SINGLE_STACKS if model_class not in READING_THE_FIRST_TOKEN
]


@both_implementations
@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize(("model_class", "side"), PADDED)
def test_padded_sentence_is_as_if_alone(model_class, side, norm_position, implementation):
    """Padding on the right changes nothing; on the left, given `position_ids` that start at the first word."""
    model = small_model(model_class, norm_position=norm_position, attn_implementation=implementation)
    inputs = batch_for(model_class, labels=False)
    padded = {name: pad(value, 4, side, 0) for name, value in inputs.items()}
    if side == "left":
        padded["position_ids"] = (padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    alone, batched = model(**inputs), model(**padded)
    for ours, theirs in zip(
        outputs_at_tokens(batched, padded["attention_mask"]),
        outputs_at_tokens(alone, inputs["attention_mask"]),
        strict=True,
    ):
        equal(ours, theirs)


@both_implementations
@pytest.mark.parametrize("sides", [("right", "right"), ("left", "right"), ("left", "left"), ("right", "left")])
def test_padded_translation_is_as_if_alone(sides, implementation):
    """Encoder and decoder masks that are swapped, or spread over the wrong axis, show here: the lengths all differ."""
    model = small_model(VanillaForConditionalGeneration, attn_implementation=implementation)
    source, target = words(1, 5), words(1, 8)
    alone = model(input_ids=source, decoder_input_ids=target)
    source_side, target_side = sides
    inputs = {
        "input_ids": pad(source, 6, source_side, 0),
        "attention_mask": pad(torch.ones_like(source), 6, source_side, 0),
        "decoder_input_ids": pad(target, 3, target_side, 0),
        "decoder_attention_mask": pad(torch.ones_like(target), 3, target_side, 0),
    }
    # Beside a sentence of full length.
    inputs = {
        name: torch.cat([value, torch.ones_like(value) if "mask" in name else words(*value.shape)])
        for name, value in inputs.items()
    }
    for prefix in ("", "decoder_"):
        positions = inputs[f"{prefix}attention_mask"].cumsum(-1) - 1
        inputs[f"{prefix}position_ids"] = positions.clamp(min=0)
    batched = model(**inputs)
    is_target, is_source = (inputs[name][0].bool() for name in ("decoder_attention_mask", "attention_mask"))
    equal(batched.logits[0, is_target], alone.logits[0])
    equal(batched.encoder_last_hidden_state[0, is_source], alone.encoder_last_hidden_state[0])


@both_implementations
@examples(10)
@given(length=st.integers(2, 12), changed=st.integers(0, 11), seed=st.integers(0, 99))
def test_no_decoder_sees_the_future(implementation, length, changed, seed):
    """Another token at t changes outputs from t on, and none before."""
    changed %= length
    torch.manual_seed(seed)
    ids = words(2, length)
    other = ids.clone()
    other[:, changed] = (ids[:, changed] - 2) % (VOCABULARY - 3) + 3
    assert (ids != other).sum() == 2
    source = words(2, 4)
    for model_class in (VanillaDecoderForCausalLM, VanillaDecoderForTokenClassification):
        model = small_model(model_class, attn_implementation=implementation)
        before, after = (model(input_ids=x).logits for x in (ids, other))
        equal(before[:, :changed], after[:, :changed], atol=1e-6)
        assert ((before - after)[:, changed:].abs().amax((0, 2)) > 1e-5).all()
    model = small_model(VanillaForConditionalGeneration, attn_implementation=implementation)
    before, after = (model(input_ids=source, decoder_input_ids=x).logits for x in (ids, other))
    equal(before[:, :changed], after[:, :changed], atol=1e-6)
    assert ((before - after)[:, changed:].abs().amax((0, 2)) > 1e-5).all()


@both_implementations
def test_encoder_and_cross_attention_see_everything(implementation):
    """The last source token reaches every state of the encoder, and through it the decoder's first logits."""
    ids = words(2, 6)
    other = ids.clone()
    other[:, -1] = (ids[:, -1] - 2) % (VOCABULARY - 3) + 3
    encoder = small_model(VanillaEncoderModel, attn_implementation=implementation)
    assert ((encoder(ids)[0] - encoder(other)[0]).abs().amax((0, 2)) > 1e-5).all()
    model = small_model(VanillaForConditionalGeneration, attn_implementation=implementation)
    target = words(2, 4)
    difference = model(ids, decoder_input_ids=target).logits - model(other, decoder_input_ids=target).logits
    assert (difference.abs().amax((0, 2)) > 1e-5).all()


# Caches


def new_cache(kind: str, config, is_pair: bool):
    """A cache of each kind, for eleven tokens where its length is fixed."""
    text_config = config.get_text_config(decoder=True)

    def one(length: int):
        static = StaticCache(config=text_config, max_cache_len=length)
        return static if kind == "static" else DynamicCache(config=text_config)

    return EncoderDecoderCache(one(11), one(5)) if is_pair else one(11)


@both_implementations
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("steps", [[1] * 9, [4, 1, 1, 1, 1, 1], [2, 3, 4], [9]], ids=str)
@pytest.mark.parametrize("position_embedding_type", ["sinusoidal", "learned"])
def test_cached_decoder_equals_full_forward(position_embedding_type, steps, side, kind, implementation):
    options = {"attn_implementation": implementation, "position_embedding_type": position_embedding_type}
    model = small_model(VanillaDecoderForCausalLM, norm_position="pre", **options)
    ids, mask = words(2, 9), torch.ones(2, 9, dtype=torch.long)
    if side == "left":
        mask[0, :3] = 0
    if side == "right":  # a hole in the middle, as padding of a prompt leaves it
        mask[0, 1:3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0) if side else None
    full = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    cache, done, logits = new_cache(kind, model.config, is_pair=False), 0, []
    for step in steps:
        now = slice(done, done + step)
        done += step
        output = model(
            ids[:, now],
            attention_mask=mask[:, :done] if side else None,
            position_ids=positions[:, now] if side else None,
            past_key_values=cache,
            use_cache=True,
        )
        assert output.past_key_values is cache
        logits.append(output.logits)
    equal(torch.cat(logits, dim=1)[mask.bool()], full[mask.bool()])


@both_implementations
@pytest.mark.parametrize("kind", ["dynamic", "static", None])
@pytest.mark.parametrize("steps", [[1] * 9, [4, 1, 1, 1, 1, 1], [2, 3, 4]], ids=str)
def test_cached_translation_equals_full_forward(steps, kind, implementation):
    """The source's keys and values are computed in the first step, and read from then on."""
    model = small_model(VanillaForConditionalGeneration, attn_implementation=implementation)
    source, target = words(2, 5), words(2, 9)
    source_mask = torch.ones_like(source)
    source_mask[0, 3:] = 0
    full = model(source, attention_mask=source_mask, decoder_input_ids=target, use_cache=False)
    cache = kind and new_cache(kind, model.config, is_pair=True)
    states, done, logits = (full.encoder_last_hidden_state,), 0, []
    for step in steps:
        output = model(
            attention_mask=source_mask,
            encoder_outputs=states,
            decoder_input_ids=target[:, done : done + step],
            past_key_values=cache,
            use_cache=True,
        )
        done += step
        cache = output.past_key_values
        states = (torch.full_like(states[0], float("nan")),)  # a second look at the encoder's states would show
        logits.append(output.logits)
    equal(torch.cat(logits, dim=1), full.logits)


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_logits_to_keep(model_class):
    model = small_model(model_class)
    inputs = batch_for(model_class, labels=False)
    full = model(**inputs).logits
    equal(model(**inputs, logits_to_keep=2).logits, full[:, -2:], atol=1e-6)
    equal(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, full[:, [0, 3]], atol=1e-6)


@pytest.mark.parametrize("model_class", MODELS)
def test_embeddings_instead_of_ids(model_class):
    """`inputs_embeds` are rows of the embedding table, as `get_input_embeddings` looks them up."""
    model = small_model(model_class)
    inputs = batch_for(model_class)
    expected = model(**inputs)
    for prefix in ("", "decoder_"):
        if f"{prefix}input_ids" in inputs:
            ids = inputs.pop(f"{prefix}input_ids")
            inputs[f"{prefix}inputs_embeds"] = model.get_input_embeddings()(ids)
    output = model(**inputs)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            equal(output[name], value, atol=1e-6)


# Losses


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """By hand: minus the log of the softmax's value at each label, over labels that are not -100."""
    terms = [
        (scores.double().exp().sum().log() - scores[label].double()).item()
        for scores, label in zip(logits.flatten(0, -2), labels.flatten(), strict=True)
        if label != -100
    ]
    return sum(terms) / len(terms)


def expected_loss(model_class, logits: dict[str, Tensor], batch: dict[str, Tensor]) -> float:
    """The loss of each kind of head."""
    if model_class is VanillaEncoderForQuestionAnswering:
        start = mean_cross_entropy(logits["start_logits"], batch["start_positions"])
        return (start + mean_cross_entropy(logits["end_logits"], batch["end_positions"])) / 2
    if model_class is VanillaDecoderForCausalLM:  # position t predicts token t + 1
        return mean_cross_entropy(logits["logits"][:, :-1], batch["labels"][:, 1:])
    return mean_cross_entropy(logits["logits"], batch["labels"])


@pytest.mark.parametrize("model_class", HEADS)
def test_loss_is_cross_entropy_by_hand(model_class):
    model = small_model(model_class)
    batch = batch_for(model_class)
    if "labels" in batch and batch["labels"].ndim == 2:
        batch["labels"][0, 2:] = -100
        batch["labels"][1, 0] = -100
    output = model(**batch)
    assert output.loss.item() == pytest.approx(expected_loss(model_class, output, batch), rel=1e-5)


def test_translation_labels_are_shifted_once():
    """Without decoder inputs, the decoder reads <s> and the labels but the last; each position predicts its label."""
    model = small_model(VanillaForConditionalGeneration)
    source, labels = words(2, 5), words(2, 6)
    labels[1, 4:] = -100
    output = model(source, labels=labels)
    decoder_input = torch.cat([torch.full((2, 1), model.config.decoder_start_token_id), labels[:, :-1]], dim=1)
    decoder_input[decoder_input == -100] = model.config.pad_token_id
    expected = model(source, decoder_input_ids=decoder_input).logits
    equal(output.logits, expected, atol=1e-6)
    assert output.loss.item() == pytest.approx(mean_cross_entropy(expected, labels), rel=1e-5)
    assert model.prepare_decoder_input_ids_from_labels(labels).equal(decoder_input)


@pytest.mark.parametrize("model_class", [VanillaEncoderForSequenceClassification, DECODER_HEADS[1]])
def test_losses_of_sequence_classification(model_class):
    """Classes by cross-entropy, labels by binary cross-entropy, values by squared error; told from the labels."""
    inputs = batch_for(model_class, labels=False)

    multi = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    for problem_type in ("multi_label_classification", None):
        output = small_model(model_class, problem_type=problem_type)(**inputs, labels=multi)
        chance = output.logits.sigmoid()
        by_hand = -(multi * chance.log() + (1 - multi) * (1 - chance).log()).mean()
        equal(output.loss, by_hand)

    values = torch.tensor([0.5, -1.0, 2.0])
    for problem_type in ("regression", None):
        output = small_model(model_class, problem_type=problem_type, num_labels=1)(**inputs, labels=values)
        equal(output.loss, (output.logits[:, 0] - values).square().mean())

    classes = torch.tensor([0, 3, 1])
    for problem_type in ("single_label_classification", None):
        output = small_model(model_class, problem_type=problem_type)(**inputs, labels=classes)
        assert output.loss.item() == pytest.approx(mean_cross_entropy(output.logits, classes), rel=1e-5)


@pytest.mark.parametrize("model_class", [head for head in HEADS if head is not VanillaEncoderForQuestionAnswering])
def test_num_items_in_batch_divides_the_sum(model_class):
    """What `Trainer` passes, so that accumulated micro-batches are weighed by their labels."""
    model = small_model(model_class)
    batch = batch_for(model_class)
    counted = batch["labels"][:, 1:] if model_class is VanillaDecoderForCausalLM else batch["labels"]
    mean = model(**batch).loss
    for items in (1, 7, torch.tensor(50)):
        equal(model(**batch, num_items_in_batch=items).loss, mean * counted.numel() / items, atol=1e-5)


@pytest.mark.parametrize("model_class", HEADS)
def test_no_label_no_loss(model_class):
    """A micro-batch whose labels are all -100 (positions outside of the text, for answers) has loss 0, gradient 0."""
    model = small_model(model_class)
    batch = batch_for(model_class)
    for name in ("labels", "start_positions", "end_positions"):
        if name in batch:
            batch[name] = torch.full_like(batch[name], -100)
    for items in (None, 0, torch.tensor(0)):  # what `Trainer` counts in such a batch
        loss = model(**batch, num_items_in_batch=items).loss
        assert loss.item() == 0
        assert all((gradient == 0).all() for gradient in gradients(model, loss).values())


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("model_class", HEADS)
def test_micro_batches_add_up_to_one_batch(model_class, parts):
    """Gradients of k micro-batches with uneven numbers of labels sum to those of the whole batch."""
    model = small_model(model_class)
    batch = batch_for(model_class, batch=6)
    if "labels" in batch and batch["labels"].ndim == 2:
        for row, empty in enumerate([5, 0, 3, 1, 4, 2]):
            batch["labels"][row, 5 - empty :] = -100
    name = "start_positions" if "start_positions" in batch else "labels"
    labels = batch[name][:, 1:] if model_class is VanillaDecoderForCausalLM else batch[name]
    items = (labels != -100).sum()
    whole = gradients(model, model(**batch).loss)
    added = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(parts):
        part = {name: value[i * 6 // parts : (i + 1) * 6 // parts] for name, value in batch.items()}
        for name, gradient in gradients(model, model(**part, num_items_in_batch=items).loss).items():
            added[name] += gradient
    for name, gradient in whole.items():
        equal(added[name], gradient)


# Choices have a dimension more.
NOT_BY_TOKEN = [VanillaEncoderForMultipleChoice]


@pytest.mark.parametrize("model_class", [head for head in HEADS if head not in NOT_BY_TOKEN])
def test_padding_leaves_loss_and_gradients_unchanged(model_class):
    model = small_model(model_class)
    batch = batch_for(model_class)
    padded = {
        name: pad(value, 5, "right", -100 if name == "labels" else 0) if value.ndim == 2 else value
        for name, value in batch.items()
    }
    loss, padded_loss = model(**batch).loss, model(**padded).loss
    equal(padded_loss, loss)
    expected = gradients(model, loss)
    for name, gradient in gradients(model, padded_loss).items():
        equal(gradient, expected[name])


# Training


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_class", MODELS)
def test_every_parameter_gets_a_gradient(model_class, tied, norm_position):
    """Or else `DistributedDataParallel` fails on it."""
    options = {"position_embedding_type": "learned", "embedding_norm": True, "num_attention_heads": 2}
    model = small_model(model_class, tie_word_embeddings=tied, norm_position=norm_position, **options).train()
    output = model(**batch_for(model_class))
    loss = output.loss if model_class in HEADS else (output[0] * torch.rand_like(output[0])).sum()
    for name, gradient in gradients(model, loss).items():
        assert gradient.abs().max() > 0 or name.endswith("k_proj.bias"), name


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")  # renamed in 5.23, by its old name in all of 5
@both_implementations
@pytest.mark.parametrize("model_class", MODELS)
def test_gradient_checkpointing_changes_nothing(model_class, implementation):
    model = small_model(model_class, attn_implementation=implementation).train()
    batch = batch_for(model_class)

    def run():
        output = model(**batch, use_cache=False) if "use_cache" in accepted else model(**batch)
        return gradients(model, output.loss if model_class in HEADS else output[0].square().sum())

    accepted = model_class.forward.__code__.co_varnames
    plain = run()
    model.gradient_checkpointing_enable()
    calls = []
    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0"))
    layer.feed_forward.register_forward_hook(lambda *_: calls.append(1))
    for name, gradient in run().items():
        equal(gradient, plain[name])
    assert len(calls) == 2, "the layer was not computed a second time for the backward pass"


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("model_class", BASES)
def test_dropout_is_on_sublayers_and_on_embeddings_plus_positions(model_class, norm_position):
    """Section 5.4: where (almost) all is dropped, the residual stream of each stack is 0, and so is its output."""
    model = small_model(model_class, norm_position=norm_position, dropout=1 - 1e-9)
    batch = batch_for(model_class)
    assert model(**batch)[0].abs().max() > 0.1
    assert (model.train()(**batch)[0] == 0).all()


def test_each_dropout_is_where_it_belongs(monkeypatch):
    """One behind the embeddings and one behind each sub-layer; on attention weights; inside feed-forwards."""
    seen = []

    def note(tensor, p):
        seen.append((p, tuple(tensor.shape)))
        return tensor

    monkeypatch.setattr(F, "dropout", note)
    monkeypatch.setattr(Dropout, "forward", lambda self, states: note(states, self.p))
    rates = {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3}
    model = small_model(VanillaForConditionalGeneration, **rates, attn_implementation="eager").train()
    model(input_ids=words(1, 5), decoder_input_ids=words(1, 7))
    assert {p: sorted(shape for q, shape in seen if q == p) for p in (0.1, 0.2, 0.3)} == {
        0.1: [(1, 5, 16)] * (1 + 2 * 2) + [(1, 7, 16)] * (1 + 2 * 3),
        0.2: [(1, 4, 5, 5)] * 2 + [(1, 4, 7, 5)] * 2 + [(1, 4, 7, 7)] * 2,
        0.3: [(1, 5, 24)] * 2 + [(1, 7, 24)] * 2,
    }


@examples(20)
@given(p=st.floats(0.01, 0.9), training=st.booleans(), seed=st.integers(0, 2**31))
def test_dropout_drops_as_torch_does(p, training, seed):
    """Each element with probability `p`; what stays, and its gradient, is larger by 1 / (1 - p)."""
    torch.manual_seed(seed)
    states = torch.ones(200, 300, requires_grad=True)
    output = Dropout(p).train(training)(states)
    (gradient,) = torch.autograd.grad(output.sum(), states)
    equal(gradient, output)
    if not training:
        assert (output == 1).all()
        return
    dropped = output == 0
    equal(output[~dropped], torch.full_like(output[~dropped], 1 / (1 - p)))
    assert dropped.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / dropped.numel()) ** 0.5)


# What users ask of any model


@both_implementations
@pytest.mark.parametrize("model_class", MODELS)
def test_attentions_and_hidden_states_arrive(model_class, implementation):
    """Whatever the implementation: the weights of each layer, whose rows sum to 1 and leave padding out."""
    model = small_model(model_class, attn_implementation=implementation)
    batch = batch_for(model_class)
    batch["attention_mask"][..., 5:] = 0
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    reference = small_model(model_class, attn_implementation="eager")(**batch, output_attentions=True)
    plain = model(**batch)
    equal(output[0], plain[0])

    is_pair = "decoder_input_ids" in batch
    texts = batch["input_ids"].flatten(0, -2).shape[0]
    lengths = {"attentions": (7, 7)}
    if is_pair:
        lengths = {"encoder_attentions": (7, 7), "decoder_attentions": (5, 5), "cross_attentions": (5, 7)}
    for name, shape in lengths.items():
        assert plain.get(name) is None
        assert [tuple(layer.shape) for layer in output[name]] == [(texts, 4, *shape)] * 2
        for layer, expected in zip(output[name], reference[name], strict=True):
            equal(layer, expected)
            equal(layer.sum(-1), torch.ones(layer.shape[:-1]))
            assert shape[1] == 5 or (layer[..., 5:] == 0).all()
    for name in ("encoder_hidden_states", "decoder_hidden_states") if is_pair else ("hidden_states",):
        assert len(output[name]) == 3  # the embeddings, and behind each of two layers


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("model_class", BASES)
def test_last_hidden_state_is_behind_the_final_norm(model_class, norm_position):
    model = small_model(model_class, norm_position=norm_position)
    output = model(**batch_for(model_class), output_hidden_states=True)
    states = output.decoder_hidden_states if "decoder_hidden_states" in output else output.hidden_states
    equal(states[-1], output.last_hidden_state)
    equal(output.last_hidden_state.mean(-1), torch.zeros(output.last_hidden_state.shape[:-1]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch and transformers
@pytest.mark.parametrize("model_class", BASES)
def test_flex_attention_equals_eager(model_class):
    """In its uncompiled form: compiling it for a CPU takes minutes."""
    batch = batch_for(model_class)
    batch["attention_mask"][0, 5:] = 0
    names = ("flex_attention", "eager")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        flex, eager = (small_model(model_class, attn_implementation=name)(**batch)[0] for name in names)
    equal(flex[1:], eager[1:])
    equal(flex[0, :5], eager[0, :5])


@pytest.mark.parametrize("model_class", BASES)
def test_compiled_in_one_graph_equals_eager(model_class):
    torch._dynamo.reset()
    model = small_model(model_class)
    batch = batch_for(model_class)
    batch["attention_mask"][0, 5:] = 0
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        equal(compiled(**batch)[0], model(**batch)[0])


@both_implementations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", MODELS)
def test_half_precision_is_close(model_class, dtype, implementation):
    """Finite forward and backward, in the dtype asked for, and near to float32."""
    model = small_model(model_class, attn_implementation=implementation)
    batch = batch_for(model_class)
    expected = model(**batch)
    half = copy.deepcopy(model).to(dtype).train()
    output = half(**batch, **({"output_logits": True} if model_class in LANGUAGE_MODELS else {}))
    score = "start_logits" if "start_logits" in output else "logits" if "logits" in output else "last_hidden_state"
    assert output[score].dtype == dtype
    torch.testing.assert_close(output[score].float(), expected[score], atol=0.1, rtol=0.05)
    loss = half(**batch).loss if model_class in HEADS else output[0].float().square().mean()
    assert all(gradient.isfinite().all() for gradient in gradients(half, loss).values())


@pytest.mark.parametrize("model_class", MODELS)
def test_an_exported_program_takes_batches_of_any_size(model_class):
    model, free = small_model(model_class, use_cache=False), torch.export.Dim.DYNAMIC
    inputs = batch_for(model_class, labels=False)
    shapes = {name: {0: free, ids.ndim - 1: free} for name, ids in inputs.items()}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    other = batch_for(model_class, batch=5, length=9, labels=False)
    torch.testing.assert_close(program.module()(**other)[0], model(**other)[0])
