"""Whatever a tool does to a model, beams are those of the model as it is: those of transformers' own search of it.

Each change is made to a small model of each family that generates; searched by the package's function and by the one
that a checkpoint carries, with the penalty of transformers, it gives transformers' sequences and scores.
"""

import contextlib
import functools
import inspect
import logging

import pytest
import torch
import transformers
from families import VOCABULARY, small_model
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from hf_vanilla import (
    IncrementalDecoder,
    RecurrentForConditionalGeneration,
    Translator,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
    beam_search,
)
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.models import generation_vanilla
from hf_vanilla.models.generation_vanilla import NotPlain, NotServed, find_obstacle, is_plain, make_incremental
from hf_vanilla.models.modeling_vanilla import FeedForward
from hf_vanilla.translation.loading import EXTRA_TOKENS

TRANSFORMERS = [VanillaForConditionalGeneration, VanillaDecoderForCausalLM]
FAMILIES = [*TRANSFORMERS, RecurrentForConditionalGeneration]
SEARCH = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9, "length_penalty": 0.7}
SEARCH |= {"return_dict_in_generate": True, "output_scores": True}
PENALTY = {"length_penalty_form": "transformers"}
families = pytest.mark.parametrize("model_class", FAMILIES)


def model_of(model_class, **changes):
    """A model whose distributions are not flat, and padding that is no word."""
    tokens = {"pad_token_id": VOCABULARY - 1, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.4}
    if model_class is not VanillaDecoderForCausalLM:
        tokens["decoder_start_token_id"] = 1
    return small_model(model_class, **(tokens | {"tie_word_embeddings": False} | changes))


def batch_of(model, rows=3, length=6):
    ids = torch.randint(3, VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    (mask[1:2, 4:] if model.config.is_encoder_decoder else mask[1:2, :2]).zero_()
    return {"input_ids": ids, "attention_mask": mask}


def parts(model):
    """The decoder, its first layer, and one of its linear layers."""
    decoder = model.get_decoder()
    layer = decoder.layers[0]
    linear = decoder.output_proj if isinstance(layer, nn.LSTM) else layer.feed_forward.linear1
    return decoder, layer, linear


def twice(module, inputs, output):
    """A hook that changes what a layer returns, whatever this is made of."""
    if isinstance(output, tuple):
        return tuple(1.5 * each if isinstance(each, torch.Tensor) else each for each in output)
    return 1.5 * output if isinstance(output, torch.Tensor) else output


def more_logits(module, inputs, output):
    output.logits = output.logits + torch.linspace(-2, 2, VOCABULARY)
    return output


# What others do to a model


def hook_on_the_projection(model):
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + torch.linspace(-2, 2, VOCABULARY))


def hook_on_a_linear_layer(model):
    parts(model)[2].register_forward_hook(twice)


def hook_on_a_layer(model):
    parts(model)[1].register_forward_hook(twice)


def hook_before_a_layer(model):
    parts(model)[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 1.5, *inputs[1:]))


def hook_with_kwargs(model):
    parts(model)[2].register_forward_pre_hook(lambda m, args, kwargs: ((1.5 * args[0],), kwargs), with_kwargs=True)


def hook_on_the_embeddings(model):
    parts(model)[0].embed_tokens.register_forward_hook(twice)


def hook_on_the_model(model):
    model.register_forward_hook(more_logits)


def replaced_forward(model):
    linear = parts(model)[2]
    forward = linear.forward
    linear.forward = lambda states: 1.5 * forward(states)


def partial_forward(model):
    head = model.lm_head
    head.forward = functools.partial(lambda scale, states: type(head).forward(head, states) * scale, 1.5)


def replaced_forward_of_the_model(model):
    forward = model.forward
    model.forward = functools.wraps(forward)(lambda *args, **kwargs: more_logits(None, None, forward(*args, **kwargs)))


def replaced_inputs(model):
    """As PEFT's prompts are put in: other inputs at each step."""
    prepare = model.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def prepare_others(input_ids, *args, **kwargs):
        return prepare(torch.where(input_ids == 5, 6, input_ids).roll(0), *args, **kwargs) | {"logits_to_keep": 0}

    model.prepare_inputs_for_generation = prepare_others
    hook_on_the_projection(model)


def pruned(model):
    for linear in (model.lm_head, parts(model)[2]):
        prune.l1_unstructured(linear, "weight", amount=0.6)
        linear.weight_orig.data *= 1.5  # which the pruned weight shows at the next call


def normalised(model):
    for linear in (model.lm_head, parts(model)[2]):
        parametrizations.weight_norm(linear)
        linear.parametrizations.weight.original0.data *= 1.5


def normalised_as_before(model):
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.lm_head)
    model.lm_head.weight_g.data *= 1.5


def spectral(model):
    parametrizations.spectral_norm(parts(model)[2])


def orthogonal(model):
    parametrizations.orthogonal(parts(model)[2])


class Scaled(torch.Tensor):
    """A weight that is more than its numbers, as quantised ones are."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            output = function(*args, **(kwargs or {}))
        if function is torch.Tensor.detach:
            return output.as_subclass(cls)
        return 1.5 * output if function is nn.functional.linear else output


def subclass_of_tensor(model):
    for linear in (model.lm_head, parts(model)[2]):
        linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Scaled))


def quantised(model):
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model.get_decoder(), quantization.Int8WeightOnlyConfig())
    quantization.quantize_(model.lm_head, quantization.Int8WeightOnlyConfig())


class Louder(nn.Linear):
    def forward(self, states):
        return 1.5 * super().forward(states)


def subclass_of_linear(model):
    model.lm_head.__class__ = Louder


def sequential_projection(model):
    model.lm_head = nn.Sequential(model.lm_head, nn.Softsign())


def compiled_layer(model):
    """Of the decoder, with a function in the place of its compiler."""
    decoder, layer, _ = parts(model)
    hook_on_a_linear_layer(model)
    if not isinstance(layer, nn.LSTM):
        layer.feed_forward = torch.compile(layer.feed_forward, backend="eager")


def subclass_of_the_model(model):
    class Mine(type(model)):
        def forward(self, *args, **kwargs):
            return more_logits(None, None, super().forward(*args, **kwargs))

    Mine.forward.__signature__ = inspect.signature(model.forward)
    model.__class__ = Mine


CHANGES = [
    hook_on_the_projection,
    hook_on_a_linear_layer,
    hook_on_a_layer,
    hook_before_a_layer,
    hook_with_kwargs,
    hook_on_the_embeddings,
    hook_on_the_model,
    replaced_forward,
    partial_forward,
    replaced_forward_of_the_model,
    replaced_inputs,
    pruned,
    normalised,
    normalised_as_before,
    spectral,
    orthogonal,
    subclass_of_tensor,
    quantised,
    subclass_of_linear,
    sequential_projection,
    compiled_layer,
    subclass_of_the_model,
]


def own_search(model, **asked):
    """What transformers finds, also where remote code has given the model another `generate`."""
    return GenerationMixin.generate(model, **asked)


def with_the_checkpoint_s_search(model, folder):
    """Let a model search as remote code does: by the file that its checkpoint carries."""
    model.save_pretrained(folder)
    search = model.load_custom_generate(str(folder), trust_remote_code=True)
    model.generate = functools.partial(search, model=model)
    return model


def assert_same(found, expected):
    width = min(found.sequences.shape[1], expected.sequences.shape[1])
    assert torch.equal(found.sequences[:, :width], expected.sequences[:, :width])
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


def assert_beams_are_those_of(model, before=None, theirs=own_search):
    """That all searches of `model` agree, and that they differ from those `before` it was changed."""
    batch, generate = batch_of(model), model.generate
    expected = theirs(model, **batch, **SEARCH)
    assert_same(generate(**batch, **SEARCH, **PENALTY, custom_generate=beam_search), expected)
    if before is not None:
        assert not torch.allclose(expected.sequences_scores, before.sequences_scores, atol=1e-3)
    greedy = {"num_beams": 1, "max_new_tokens": 9}
    one = theirs(model, **batch, **greedy)
    assert torch.equal(generate(**batch, **greedy, custom_generate=beam_search), one)
    return expected


@families
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_beams_are_those_of_the_model_as_it_is(model_class, change, tmp_path):
    model = model_of(model_class)
    before = own_search(model, **batch_of(model), **SEARCH)
    with_the_checkpoint_s_search(model, tmp_path)
    change(model)
    assert not is_plain(model)
    expected = assert_beams_are_those_of(model, before=before)
    assert_same(model.generate(**batch_of(model), **SEARCH, **PENALTY), expected)
    with pytest.raises(NotPlain, match="decoded incrementally"):
        make_incremental(model)


class Noisy(FeedForward):
    """A class that differs from the package's in nothing but its place."""


@contextlib.contextmanager
def hook_of_all_modules(model):
    hook = torch_module.register_module_forward_hook(lambda m, inputs, out: 1.5 * out if m is model.lm_head else None)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def class_patched(model):
    with pytest.MonkeyPatch.context() as patch:
        forward = FeedForward.forward
        patch.setattr(FeedForward, "forward", functools.wraps(forward)(lambda *inputs: 1.5 * forward(*inputs)))
        yield


@contextlib.contextmanager
def linear_patched(model):
    with pytest.MonkeyPatch.context() as patch:
        forward = nn.Linear.forward
        patch.setattr(nn.Linear, "forward", functools.partialmethod(lambda self, states: 1.5 * forward(self, states)))
        yield


@contextlib.contextmanager
def autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextlib.contextmanager
def other_attention(model):
    def louder(module, query, *states, **kwargs):
        output, weights = sdpa_attention_forward(module, query, *states, **kwargs)
        return 1.5 * output, weights

    AttentionInterface.register("louder", louder)
    AttentionMaskInterface.register("louder", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("louder")
    yield


@contextlib.contextmanager
def replaced_attention(model):
    with pytest.MonkeyPatch.context() as patch:
        theirs = AttentionInterface._global_mapping["sdpa"]

        def quieter(*states, **kwargs):
            output, weights = theirs(*states, **kwargs)
            return output / 2, weights

        patch.setitem(AttentionInterface._global_mapping, "sdpa", quieter)
        yield


@contextlib.contextmanager
def bidirectional(model):
    model.config.is_causal = False
    yield


CONTEXTS = [hook_of_all_modules, class_patched, linear_patched, autocast, other_attention, replaced_attention]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.__name__)
@families
def test_beams_see_what_holds_for_all_modules(model_class, context):
    if model_class is RecurrentForConditionalGeneration and context not in (hook_of_all_modules, linear_patched):
        pytest.skip("it has no such parts")
    model = model_of(model_class)
    before = own_search(model, **batch_of(model), **SEARCH)
    with context(model):
        assert not is_plain(model)
        assert_beams_are_those_of(model, before)


def test_beams_of_a_decoder_that_sees_what_follows():
    model = model_of(VanillaDecoderForCausalLM)
    model.config.is_causal = False
    assert_beams_are_those_of(model)


@pytest.mark.parametrize("model_class", TRANSFORMERS)
def test_dropout_that_is_on_is_on_in_beams(model_class):
    model = model_of(model_class, dropout=0.3).train()

    def seeded(model, **asked):
        torch.manual_seed(7)
        return own_search(model, **asked)

    model.generate = functools.partial(seeded, model)
    assert_beams_are_those_of(model, theirs=seeded)


@families
def test_what_was_taken_back_leaves_the_fast_path(model_class):
    """Hooks that were removed, methods that were put back, and hooks by which transformers captures outputs."""
    model = model_of(model_class)
    model.lm_head.register_forward_hook(twice).remove()
    prepare, model.prepare_inputs_for_generation = model.prepare_inputs_for_generation, None
    model.prepare_inputs_for_generation = prepare
    layer = parts(model)[1]
    forward, layer.forward = layer.forward, twice
    assert not is_plain(model)
    layer.forward = forward
    linear = parts(model)[2]
    prune.random_unstructured(linear, "weight", amount=0.5)
    assert not is_plain(model)
    prune.remove(linear, "weight")
    batch = batch_of(model)
    decoded = {"decoder_input_ids": batch["input_ids"]} if model.config.is_encoder_decoder else {}
    model(**batch, **decoded, output_attentions=True, output_hidden_states=True)
    assert find_obstacle(model) is None and is_plain(model)
    assert_beams_are_those_of(model)


def test_an_obstacle_is_named():
    model = model_of(VanillaForConditionalGeneration)
    parts(model)[1].feed_forward.linear2.register_forward_hook(twice)
    with pytest.raises(ValueError, match=r"model.decoder.layers.0.feed_forward.linear2 has hooks"):
        IncrementalDecoder(model)
    other = model_of(VanillaDecoderForCausalLM)
    other.decoder.layers[1].feed_forward = Noisy(other.config)
    with pytest.raises(ValueError, match=r"decoder.layers.1 has a Noisy as its feed_forward"):
        make_incremental(other)
    with pytest.raises(ValueError, match="is in training mode"):
        make_incremental(model_of(VanillaDecoderForCausalLM).train())


def test_a_decoder_that_was_made_before_a_change_is_refused():
    model = model_of(VanillaForConditionalGeneration)
    decoder = IncrementalDecoder(model)
    hook_on_the_projection(model)
    with pytest.raises(NotPlain, match="lm_head has hooks"):
        model.generate(**batch_of(model), **SEARCH, custom_generate=beam_search, incremental_decoder=decoder)


# Models of other libraries


@pytest.mark.parametrize(
    ("auto", "fields"),
    [
        (AutoModelForCausalLM, {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}),
        (AutoModelForSeq2SeqLM, {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}),
    ],
)
def test_models_of_other_libraries_are_searched_too(auto, fields):
    torch.manual_seed(0)
    tokens = {"pad_token_id": VOCABULARY - 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(**fields, vocab_size=VOCABULARY, forced_eos_token_id=None, init_std=0.4, **tokens)
    config.initializer_range = 0.4
    assert_beams_are_those_of(auto.from_config(config).eval())


# Adapters


def adapters(causal):
    peft = pytest.importorskip("peft")
    task = {"task_type": "CAUSAL_LM" if causal else "SEQ_2_SEQ_LM"}
    names = ["linear1", "linear2", "q_proj", "v_proj", "output_proj", "initial_proj"]
    targets = {**task, "target_modules": names}
    yield "lora", peft.LoraConfig(**targets, init_lora_weights=False)
    yield "dora", peft.LoraConfig(**targets, use_dora=True, init_lora_weights=False)
    yield "lora of the projection", peft.LoraConfig(**task, target_modules=["lm_head"], init_lora_weights=False)
    yield "ia3", peft.IA3Config(**targets, feedforward_modules=["linear2"], init_ia3_weights=False)
    yield "loha", peft.LoHaConfig(**targets, init_weights=False)
    yield "adalora", peft.AdaLoraConfig(**targets, init_lora_weights=False, total_step=10)
    tokens = {**task, "num_virtual_tokens": 4, "num_attention_heads": 4}  # a recurrent model has no heads to read
    yield "prompt", peft.PromptTuningConfig(**tokens)
    yield "p-tuning", peft.PromptEncoderConfig(**tokens, encoder_hidden_size=8)
    yield "prefix", peft.PrefixTuningConfig(**task, num_virtual_tokens=4)


def adapted(model, kind):
    """The model with an adapter of one kind, whose weights change what it says; skip where PEFT itself fails."""
    peft = pytest.importorskip("peft")
    config = dict(adapters(not model.config.is_encoder_decoder))[kind]
    torch.manual_seed(3)
    wrapped = peft.get_peft_model(model, config).eval()
    for name, weight in wrapped.named_parameters():
        if "prompt" in name or "ia3" in name or "lora" in name:
            weight.data.normal_(1 if "ia3" in name else 0, 0.6)
    return wrapped


KINDS = ["lora", "dora", "lora of the projection", "ia3", "loha", "adalora", "prompt", "p-tuning", "prefix"]


@pytest.mark.parametrize("kind", KINDS)
@families
def test_beams_are_those_of_the_adapted_model(model_class, kind, tmp_path):
    """And once it is merged, those of the model that is left, by the fast path."""
    model = model_of(model_class)
    if model_class is RecurrentForConditionalGeneration and kind == "prefix":
        pytest.skip("a recurrent decoder has no keys and values to put before others")
    before = own_search(model, **batch_of(model), **SEARCH)
    with_the_checkpoint_s_search(model, tmp_path)
    remote = vars(model).pop("generate")
    wrapped, batch = adapted(model, kind), batch_of(model)
    expected = wrapped.generate(**batch, **SEARCH)
    assert not torch.allclose(expected.sequences_scores, before.sequences_scores, atol=1e-3)
    assert_same(wrapped.generate(**batch, **SEARCH, **PENALTY, custom_generate=beam_search), expected)
    greedy = {**batch, "max_new_tokens": 9, "num_beams": 1}
    assert torch.equal(wrapped.generate(**greedy, custom_generate=beam_search), wrapped.generate(**greedy))
    model.generate = remote
    assert_same(wrapped.generate(**batch, **SEARCH, **PENALTY), expected)
    del model.generate
    if hasattr(wrapped.base_model, "merge_and_unload"):
        merged = wrapped.merge_and_unload()
        assert is_plain(merged)
        assert_same(merged.generate(**batch, **SEARCH, **PENALTY, custom_generate=beam_search), expected)


@pytest.mark.parametrize("model_class", FAMILIES)
def test_beams_are_those_of_the_offloaded_model(model_class):
    accelerate = pytest.importorskip("accelerate")
    model = model_of(model_class)
    expected = own_search(model, **batch_of(model), **SEARCH)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert not is_plain(model)
    found = model.generate(**batch_of(model), **SEARCH, **PENALTY, custom_generate=beam_search)
    assert_same(found, expected)


# What is searched by others


MODES = [
    ({"force_words_ids": [[5]]}, "constrained_beam_search"),
    ({"num_beam_groups": 3, "diversity_penalty": 1.0}, "group_beam_search"),
    ({"num_beams": 1, "penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
    ({"num_beams": 1, "dola_layers": "high"}, "dola_generation"),
    ({"num_beams": 1, "prompt_lookup_num_tokens": 2}, "assisted_generation"),
    ({"do_sample": True}, "sample"),
    ({"low_memory": True}, "low_memory"),
]


@pytest.mark.parametrize(("options", "name"), MODES, ids=[name for _, name in MODES])
def test_other_modes_are_refused_by_name_and_handed_on_by_remote_code(options, name, tmp_path):
    model = model_of(VanillaDecoderForCausalLM)
    asked = {**batch_of(model, rows=1), "num_beams": 3, "max_new_tokens": 5, **options}

    def outcome(generate):
        torch.manual_seed(0)
        try:
            return generate(**asked).tolist()
        except (ValueError, OSError) as error:
            return str(error)

    with pytest.raises(NotServed, match=name):
        model.generate(**asked, custom_generate=beam_search)
    expected = outcome(model.generate)
    assert outcome(with_the_checkpoint_s_search(model, tmp_path).generate) == expected


def test_remote_code_hands_on_what_a_function_is_not_given(tmp_path):
    """Transformers passes neither tokenizers nor streamers nor assistants on to a function."""
    model = model_of(VanillaDecoderForCausalLM)
    model.generation_config.pad_token_id = VOCABULARY - 1
    asked = {**batch_of(model, rows=1), "max_new_tokens": 8, "num_beams": 3}
    config = transformers.GenerationConfig(num_beams=3, max_new_tokens=8, length_penalty=3.0, eos_token_id=2)
    expected = {"paper": own_search(model, **batch_of(model), generation_config=config, custom_generate=beam_search)}
    tokenizer = train_tokenizer(["a b c d e f g"], vocab_size=270)
    with_the_checkpoint_s_search(model, tmp_path)
    stopped = model.generate(**asked, stop_strings=["zz"], tokenizer=tokenizer)
    assert torch.equal(stopped, own_search(model, **asked))
    # The configuration may be the second argument, without its name.
    batch = batch_of(model)
    found = model.generate(batch["input_ids"], config, attention_mask=batch["attention_mask"])
    assert torch.equal(found, expected["paper"])


# Inputs that only the model itself can follow


def test_a_cache_of_the_caller_is_used_by_the_model():
    class Fading(transformers.DynamicCache):
        """Keeps half of each key, as caches that compress do."""

        def update(self, key, value, *args, **kwargs):
            return super().update(0.5 * key, value, *args, **kwargs)

    model = model_of(VanillaDecoderForCausalLM)
    batch = batch_of(model)
    expected = own_search(model, **batch, **SEARCH, past_key_values=Fading())
    assert not torch.equal(expected.sequences_scores, own_search(model, **batch, **SEARCH).sequences_scores)
    ours = model.generate(**batch, **SEARCH, **PENALTY, custom_generate=beam_search, past_key_values=Fading())
    assert_same(ours, expected)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}, {}])
@pytest.mark.parametrize("model_class", TRANSFORMERS)
def test_other_caches_give_the_same_beams(model_class, options):
    model = model_of(model_class)
    asked = {**batch_of(model), **SEARCH, **options}
    ours = model.generate(**asked, **PENALTY, custom_generate=beam_search)
    assert_same(ours, own_search(model, **asked))


def test_prompts_of_packed_documents():
    model = model_of(VanillaDecoderForCausalLM)
    batch = {"input_ids": batch_of(model)["input_ids"], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]] * 3)}
    asked = {**batch, **SEARCH, **PENALTY, "custom_generate": beam_search}
    assert_same(model.generate(**asked, use_cache=False), own_search(model, **batch, **SEARCH, use_cache=False))
    with pytest.raises(ValueError, match="packed documents"):
        model.generate(**asked)


def test_a_sentence_with_fewer_legal_sequences_than_asked_for_repeats_them(caplog):
    model = model_of(VanillaForConditionalGeneration)
    asked = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 3, "custom_generate": beam_search}
    asked |= {"prefix_allowed_tokens_fn": lambda row, ids: [2] if row == 0 or len(ids) > 1 else [4, 5]}
    asked |= {"return_dict_in_generate": True, **batch_of(model)}
    logger, found = "hf_vanilla.models.generation_vanilla", None
    logging.getLogger("transformers").propagate = True
    generation_vanilla.logger.warning_once.cache_clear()
    with caplog.at_level("WARNING", logger=logger):
        found = model.generate(**asked)
    sequences = found.sequences.view(3, 4, -1)
    assert (sequences[0] == sequences[0, :1]).all() and (found.sequences_scores > -1e6).all()
    assert torch.equal(sequences[1, :2], sequences[1, 2:]) and not torch.equal(sequences[1, 0], sequences[1, 1])
    assert "they are repeated" in caplog.text


# The other fast paths


WATCHED = {
    VanillaForConditionalGeneration: ("model.encoder.layers.0", "model.decoder.layers.1.feed_forward", "lm_head"),
    VanillaDecoderForCausalLM: ("decoder.layers.0.self_attention.q_proj", "lm_head"),
    VanillaEncoderForMaskedLM: ("encoder.layers.0.feed_forward.linear2", "transform.dense", "lm_head"),
}


@pytest.mark.parametrize("model_class", WATCHED)
def test_hooks_in_training_see_the_shapes_that_the_model_says(model_class):
    """Neither the fused loss nor training without padding is for models that others watch."""
    model = small_model(model_class).train()
    batch = batch_of(model, length=12)
    batch["attention_mask"][2, 3:] = 0
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    expected, seen = model(**batch, output_logits=False).loss, []
    for name in WATCHED[model_class]:
        watched = model.get_submodule(name)
        hook = watched.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[:2])))
        torch.testing.assert_close(model(**batch, output_logits=False).loss, expected)
        hook.remove()
    assert seen == [(3, 12)] * len(seen) and len(seen) >= len(WATCHED[model_class])


@pytest.mark.parametrize("change", [hook_on_the_projection, pruned, normalised, subclass_of_linear, replaced_forward])
@families
def test_the_loss_is_that_of_the_logits_of_a_changed_model(model_class, change):
    model = model_of(model_class)
    change(model)
    batch = batch_of(model)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    expected = model(**batch).loss
    loss = model.train()(**batch, output_logits=False).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()


# Translators


@pytest.mark.parametrize("changed_first", [True, False])
def test_a_translator_translates_as_the_model_is(changed_first):
    model = model_of(VanillaForConditionalGeneration, vocab_size=300, pad_token_id=0)
    tokenizer = train_tokenizer(["some words that are translated", "and others"], vocab_size=300)

    def louder(module, inputs, output):
        return output + torch.linspace(-3, 3, output.shape[-1])

    if changed_first:
        model.lm_head.register_forward_hook(louder)
    translator = Translator(model, tokenizer)
    before = translator("words", num_beams=3, n_best=1)
    if not changed_first:
        model.lm_head.register_forward_hook(louder)
        assert translator("words", num_beams=3, n_best=1) != before
    encoded = tokenizer("words", return_tensors="pt")
    most = min(encoded["input_ids"].shape[1] + EXTRA_TOKENS, translator.max_positions - 1)
    options = {"num_beams": 3, "max_new_tokens": most, "return_dict_in_generate": True}
    (hypothesis,) = translator("words", num_beams=3, n_best=1)
    expected = model.generate(encoded["input_ids"], **options, custom_generate=beam_search)
    assert hypothesis.score == pytest.approx(float(expected.sequences_scores[0]), abs=1e-4)
    with pytest.raises(ValueError, match="lm_head has hooks"):
        Translator(model, tokenizer, precision="int8")


def test_a_translator_of_a_model_with_prompts():
    peft = pytest.importorskip("peft")
    model = model_of(VanillaForConditionalGeneration, vocab_size=300, pad_token_id=0)
    tokenizer = train_tokenizer(["some words that are translated", "and others"], vocab_size=300)
    plain = Translator(model, tokenizer)("words", num_beams=3, n_best=1)
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "prompt" in name:
            weight.data.normal_(0, 3)
    found = Translator(wrapped, tokenizer)("words", num_beams=3, n_best=1)
    assert found[0].score != pytest.approx(plain[0].score, abs=1e-3)
