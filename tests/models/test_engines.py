"""What inference engines ask of a model, asked as they ask it: vLLM's Transformers backend, and transformers' own.

vLLM replaces the modules that other processes hold by identities, embeddings and linear layers by its own, and
attention by a function that knows what is in a row. None of that needs vLLM: its calls are made here.
"""

import copy
import re

import pytest
import torch
from families import batch_for, small_config, small_model, words
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaDecoderModel,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
    VanillaModel,
)

STACKS = [VanillaDecoderModel, VanillaEncoderModel]
LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
)
LAYERS = 5
LAYER = re.compile(r"\.\d+\.")


class Missing(nn.Identity):
    """Stands for a module that another process holds: returns its first argument."""

    def forward(self, *arguments, **named):  # type: ignore[override]
        return arguments[0] if arguments else next(iter(named.values()))


def stage_of(model: nn.Module, rank: int, ranks: int) -> nn.Module:
    """Return what one of several processes keeps of a base model, by its plan."""
    stage = copy.deepcopy(model)
    names = list(stage._pp_plan)
    (number,) = (number for number, name in enumerate(names) if isinstance(getattr(stage, name), nn.ModuleList))
    is_first, is_last = rank == 0, rank == ranks - 1
    for name in names[:number]:
        if not (is_first or (stage.config.tie_word_embeddings and is_last)):
            setattr(stage, name, Missing())
    layers = getattr(stage, names[number])
    own = torch.arange(stage.config.get_text_config().num_hidden_layers).tensor_split(ranks)[rank].tolist()
    for layer in range(len(layers)):
        if layer not in own:
            layers[layer] = Missing()
    for name in names[number + 1 :]:
        if not is_last:
            setattr(stage, name, Missing())
    return stage


@pytest.mark.parametrize("model_class", STACKS)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"norm_position": "pre", "position_embedding_type": "learned", "scale_embedding": False},
        {"embedding_norm": True, "position_embedding_type": "sinusoidal_halves"},
        {"type_vocab_size": 2, "embedding_norm": True, "add_pooling_layer": True, "tie_word_embeddings": False},
    ],
)
def test_stages_of_a_pipeline_compute_what_the_whole_model_does(model_class, ranks, changes):
    """Later stages get the states of the one before as `inputs_embeds`, with the positions of all."""
    if model_class is VanillaDecoderModel and "type_vocab_size" in changes:
        pytest.skip("decoders have no token types")
    model = small_model(model_class, num_hidden_layers=LAYERS, initializer_range=0.3, **changes)
    ids, positions = words(1, 7), torch.arange(7)[None] + 2
    asked = {"use_cache": False} if model_class is VanillaDecoderModel else {}
    with torch.no_grad():
        expected = model(ids, position_ids=positions, **asked)
        given = {"input_ids": ids}
        for rank in range(ranks):
            outputs = stage_of(model, rank, ranks)(**given, position_ids=positions, return_dict=False, **asked)
            given = {"inputs_embeds": outputs[0]}
    torch.testing.assert_close(outputs[0], expected[0], atol=1e-6, rtol=1e-6)
    if changes.get("add_pooling_layer"):
        torch.testing.assert_close(outputs[1], expected.pooler_output)


@pytest.mark.parametrize("model_class", [*STACKS, VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM])
def test_plans_name_modules_that_there_are(model_class):
    model = small_model(model_class, position_embedding_type="learned", type_vocab_size=2, add_pooling_layer=True)
    modules = {LAYER.sub(".*.", f"{name}.").removesuffix(".") for name, _ in model.named_modules()}
    assert model.supports_pp_plan
    for plan in (model.tp_plan, model.fsdp_plan):
        assert plan and set(plan) <= modules
    absent = {"embed_token_types", "pooler"}  # of a decoder, and of a head
    assert {name for name in model.pp_plan if name.rpartition(".")[2] not in absent} <= modules


@pytest.mark.parametrize("model_class", [VanillaModel, VanillaForConditionalGeneration])
def test_an_encoder_decoder_has_no_stages_and_says_so(model_class):
    """Its two lists of layers are no pipeline; engines ask, and refuse. Tensors and parameters are shared out."""
    model = small_model(model_class)
    assert not model.supports_pp_plan and model.tp_plan and model.fsdp_plan
    linears = {LAYER.sub(".*.", name) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linears <= set(model.tp_plan)


# Attention and tensor parallelism


def engine_attention(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **options):
    """What stands for vLLM's attention: one row of tokens, without batch, of several requests."""
    assert attention_mask is None and options["position_ids"].shape == (1, query.shape[2])
    length = query.shape[2]
    query, key, value = (states.transpose(1, 2).reshape(length, -1) for states in (query, key, value))
    return attention_instances[module.layer_idx](query, key, value, scaling, bool(module.is_causal)), None


class Requests:
    """Attention of one layer within each request; heads as the configuration says."""

    def __init__(self, config, lengths: list[int], ranks: int = 1):
        self.heads, self.width, self.lengths = config.num_attention_heads // ranks, config.head_dim, lengths

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, is_causal: bool) -> Tensor:
        rows = [states.view(-1, self.heads, self.width).split(self.lengths) for states in (query, key, value)]
        outputs = [
            nn.functional.scaled_dot_product_attention(
                *(states.transpose(0, 1)[None] for states in row), scale=scaling, is_causal=is_causal
            )
            for row in zip(*rows, strict=True)
        ]
        return torch.cat([output[0].transpose(0, 1) for output in outputs]).flatten(1)


class Embedding(nn.Module):
    """An engine's table, which is none of torch's."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight
        self.num_embeddings, self.embedding_dim = weight.shape

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class Share(nn.Module):
    """The share that one process has of a linear layer: of its outputs, or of its inputs, whose sum is still due."""

    def __init__(self, linear: nn.Linear, style: str, rank: int, ranks: int):
        super().__init__()
        self.style, bias = style, linear.bias
        self.weight = linear.weight.chunk(ranks, dim=0 if style == "colwise" else 1)[rank]
        self.bias = bias.chunk(ranks)[rank] if style == "colwise" else bias if rank == 0 else torch.zeros_like(bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("model_class", STACKS)
@pytest.mark.parametrize(
    "changes", [{}, {"qk_head_dim": 6, "v_head_dim": 6}, {"head_dim": 2, "num_attention_heads": 3}]
)
def test_requests_in_one_row_with_the_attention_of_an_engine(model_class, changes):
    """Positions restart with each request; the engine lays out its cache by `head_dim`, also where that is not
    hidden_size / heads; the table is its own."""
    model = small_model(model_class, initializer_range=0.3, **changes)
    lengths = [4, 1, 6]
    requests = [words(1, length) for length in lengths]
    with torch.no_grad():
        expected = torch.cat([model(request).last_hidden_state[0] for request in requests])
        model.config._attn_implementation = "engine"
        model.set_input_embeddings(Embedding(model.get_input_embeddings().weight))
        instances = {layer: Requests(model.config, lengths) for layer in range(model.config.num_hidden_layers)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "engine", engine_attention)
            states = model(
                input_ids=torch.cat(requests, dim=1),
                inputs_embeds=None,
                use_cache=False,
                position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
                attention_instances=instances,
                return_dict=False,
            )[0][0]
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", STACKS)
def test_layers_split_by_the_tensor_plan_add_up(model_class):
    """Each of two processes has half of the heads and of the inner units; what `rowwise` layers give is summed."""
    model, states = small_model(model_class, initializer_range=0.3), torch.randn(1, 5, 16)
    plan = {name: style for name, style in model.tp_plan.items() if name.startswith("layers")}
    for name in ("self_attention", "feed_forward"):
        part = model.layers[0].get_submodule(name)
        outputs = []
        for rank in range(2):
            share = copy.deepcopy(part)
            for child, linear in list(share.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(share, child, Share(linear, plan[f"layers.*.{name}.{child}"], rank, 2))
            with torch.no_grad():
                outputs.append(share(states))
        whole = part(states)
        if name == "self_attention":
            outputs, whole = [output[0] for output in outputs], whole[0]
        torch.testing.assert_close(outputs[0] + outputs[1], whole, atol=1e-5, rtol=1e-5)


# Sizes and limits


@pytest.mark.parametrize("config_class", [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig])
def test_head_dim_is_the_width_of_a_head_or_says_why_there_is_none(config_class, tmp_path):
    assert config_class().head_dim == 64
    assert config_class(d_k=32, d_v=32).head_dim == 32
    assert config_class(hidden_size=510, num_attention_heads=8, qk_head_dim=16, v_head_dim=16).head_dim == 16
    config = config_class(head_dim=24)
    assert (config.qk_head_dim, config.v_head_dim) == (24, 24)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).head_dim == 24
    with pytest.raises(ValueError, match="`qk_head_dim` is 16 and `v_head_dim` is 64.*`head_dim`"):
        config_class(qk_head_dim=16).head_dim  # noqa: B018
    small_model(VanillaDecoderModel, qk_head_dim=3)(**batch_for(VanillaDecoderModel))


def longest(config) -> float:
    """How long vLLM thinks that a row may be: the least of all limits that are there."""
    found = [getattr(config, name, None) for name in LIMITS]
    return min((limit for limit in found if limit is not None), default=float("inf"))


@pytest.mark.parametrize("config_class", [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig])
def test_a_model_without_a_limit_names_none(config_class, tmp_path):
    """lm-eval and sentence-transformers ask whether there is such an attribute, so None would not do."""
    for kind in ("sinusoidal", "sinusoidal_halves"):
        config = config_class(position_embedding_type=kind)
        config.save_pretrained(tmp_path)
        for each in (
            config,
            AutoConfig.from_pretrained(tmp_path),
            copy.deepcopy(config),
            config_class(**config.to_dict()),
        ):
            assert longest(each) == float("inf") and not hasattr(each, "max_position_embeddings")
    config = config_class()
    assert config == copy.deepcopy(config) and not config != config.get_text_config()
    assert longest(config_class(position_embedding_type="learned")) == 512
    assert longest(config_class(position_embedding_type="learned", max_position_embeddings=30)) == 30
    assert longest(config_class(max_position_embeddings=30)) == 30  # for engines; the model takes more
    assert config_class(max_position_embeddings=30) != config_class()
    with pytest.raises(ValueError, match="`max_position_embeddings`"):
        config = small_config(config_class)
        config.position_embedding_type = "learned"
        del config.max_position_embeddings
        config.validate_architecture()


@pytest.mark.parametrize("config_class", [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig])
def test_positions_that_are_to_be_learned_after_all_have_a_table(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    changed = config_class()
    changed.position_embedding_type = "learned"
    loaded = config_class.from_pretrained(tmp_path, position_embedding_type="learned")
    assert changed.max_position_embeddings == loaded.max_position_embeddings == 512
    loaded = config_class.from_pretrained(tmp_path, position_embedding_type="learned", max_position_embeddings=7)
    assert loaded.max_position_embeddings == 7
