"""The paper's beam search (section 6.1; Wu et al., 2016, arXiv:1609.08144, section 7): `beam_search`, for
`model.generate(..., custom_generate=beam_search)`; and the guard that all fast paths of the package ask. A checkpoint
carries this file as `custom_generate/generate.py`, so it imports nothing of the package.

Shapes: batch is the number of sentences that are not done, beams that of each one's hypotheses, length their tokens.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import signature
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.module import _has_any_global_hook
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

BeamSearchOutput = Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput
Inputs = dict[str, Any]  # of a model, as `generate` prepared them
LayerStates = list[list[Tensor]]  # the key and the value (batch, heads, length, d_k or d_v) of each layer

# The score of an empty slot for a hypothesis: far below any log-probability, yet finite.
MISSING_SCORE = -1.0e9
# Finished sentences leave the batch once they are this share of it, for each time the others are copied.
LEAVING_SHARE = 0.125
# Once a sentence's cache holds this many tokens, drop dead branches each time it doubles.
PRUNE_FROM = 256
# Tokens that a cache has room for at first; it doubles when it is full.
FIRST_ROOM = 32
# Classes of torch that a fast path may find in a model beside the package's own and activations.
TORCH_CLASSES = {nn.Linear, nn.Embedding, nn.LayerNorm, nn.Identity, nn.Dropout, nn.ModuleList}
# The class of each child whose `forward` a fast path replaces, by the child's name.
ROLES = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "linear1", "linear2", "lm_head"), "Linear")
ROLES |= dict.fromkeys(("self_attention", "cross_attention"), "MultiHeadAttention") | {"feed_forward": "FeedForward"}
FSDP2 = "torch.distributed.fsdp._fully_shard"
GLOBAL_HOOKS: list[dict[int, Any]] = [
    getattr(torch_modules, f"_global_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")
]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What calling a module goes through, and what `generate` calls in a model.
CALLED = {"__call__", "_wrapped_call_impl", "_call_impl", "forward"}
CALLED |= {"prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_prefill", "_reorder_cache"}
# The inputs of a model that the decoders below follow.
FOLLOWED = {"encoder_outputs", "attention_mask", "decoder_attention_mask", "position_ids"}
FOLLOWED |= {"past_key_values", "use_cache", "logits_to_keep"}

logger = logging.get_logger(__name__)

# The guard


class NotPlain(ValueError):
    """Raised where a fast path would not compute what calling the model does: see [`find_obstacle`]."""


def find_obstacle(
    root: nn.Module,
    home: str | None = None,
    without: nn.Module | None = None,
    may_train: bool = True,
    may_shard: bool = False,
) -> str | None:
    """Return what may keep a fast path, which reads weights instead of calling modules, from computing what calling
    `root` does; None if nothing does.

    Such are hooks, except those by which transformers captures outputs; modules of other classes than the package's
    and a few of torch's; methods that were replaced in an instance or a class; and weights that are no plain
    parameters of one device. So adapters, quantised, pruned, normalised, sharded and offloaded weights are all found.

    Args:
        root: a model or a part of it.
        home: the Python package whose classes are known; by default, that of the family's base class in `root`.
        without: a part of `root` that is called, or not used, and may be anything.
        may_train: whether modules may be in training mode.
        may_shard: whether modules may be of FSDP2, for a path that calls them, or gathers their weights itself.
    """
    if _has_any_global_hook() and not all(map(is_tracker, chain.from_iterable(map(dict.values, GLOBAL_HOOKS)))):
        return "hooks are registered for all modules"
    own = (base.__module__ for base in type(root).__mro__ if base.__name__ == "FamilyPreTrainedModel")
    home = home or next(own, "").rpartition(".")[0] or None
    seen, classes, waiting, devices = {without}, set[type](), [root], set[torch.device]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        cls = class_of(module) if may_shard else type(module)
        found = None if cls in classes else obstacle_of_class(cls, home)
        classes.add(cls)
        found = found or obstacle_of_module(module, may_shard)
        if module.training and not may_train:
            found = found or "is in training mode"
        devices.update(weight.device for weight in module._parameters.values() if weight is not None)
        if found is None and (len(devices) > 1 or torch.device("meta") in devices):
            found = "has weights elsewhere than other modules have theirs"
        if found is not None:
            name = next(name for name, each in root.named_modules() if each is module)
            return f"{name or type(root).__name__} {found}"
        waiting += [child for child in module._modules.values() if child is not None]
    return None


def class_of(module: nn.Module) -> type:
    """Return the class of a module, or that which it had before FSDP2 gave it one of its own."""
    return next(base for base in type(module).__mro__ if not base.__module__.startswith(FSDP2))


def is_tracker(hook: Any) -> bool:
    """True for hooks by which torch, counting operations, notes which module is at work; they change nothing."""
    return getattr(hook, "__module__", None) == "torch.utils.module_tracker"


def obstacle_of_class(cls: type, home: str | None) -> str | None:
    """Return what [`find_obstacle`] objects to in the class of a module."""
    is_activation = cls.__module__ in ("transformers.activations", "torch.nn.modules.activation")
    if cls not in TORCH_CLASSES and not is_activation and cls.__module__.rpartition(".")[0] != home:
        return f"is of another class, {cls.__module__}.{cls.__qualname__}"
    for name in written_in(cls, home):
        if (method := getattr(cls, name, None)) is not None and not is_native(method, home):
            return f"has another `{name}` in its class"
    return None


def obstacle_of_module(module: nn.Module, may_shard: bool = False) -> str | None:
    """Return what [`find_obstacle`] objects to in a module by itself, other than its class."""
    fields, cls = vars(module), class_of(module) if may_shard else type(module)
    known = ("transformers.utils.output_capturing", *([FSDP2] if may_shard else []))
    for name in HOOKS:
        for hook in fields.get(name, {}).values():
            if not (getattr(hook, "__module__", None) or "").startswith(known):
                return "has hooks"
    methods = methods_of(cls)
    for name in () if methods.isdisjoint(fields) else methods.intersection(fields):
        # Who takes a replacement back may leave the method itself there, and remote code puts `generate` there.
        is_same = getattr(fields[name], "__func__", None) is getattr(cls, name, None)
        if name != "generate" and not (is_same and fields[name].__self__ is module):
            return f"has another `{name}`"
    if cls is nn.Linear and fields["_parameters"].get("weight") is None:
        return "has a weight that is no parameter"
    for weight in fields["_parameters"].values():
        if weight is not None and type(weight) is not nn.Parameter:
            return f"has a weight of type {type(weight).__name__}"
    for name, child in fields["_modules"].items():
        kind = (class_of(child) if may_shard and child is not None else type(child)).__name__
        if kind != ROLES.get(name, kind) or (cls is nn.ModuleList and not kind.endswith("Layer")):
            return f"has a {kind} as its {name}"
    return None


@lru_cache(maxsize=256)
def methods_of(cls: type) -> frozenset[str]:
    """Return the names of the methods of a class."""
    names = (name for name in dir(cls) if callable(value := getattr(cls, name, None)) and not isinstance(value, type))
    return frozenset(names).union(CALLED)


@lru_cache(maxsize=256)
def written_in(cls: type, home: str | None) -> frozenset[str]:
    """Return the names of the methods of a class that the package `home` defines, and of those in `CALLED`."""
    own = (vars(base) for base in cls.__mro__ if base.__module__.rpartition(".")[0] == home)
    return methods_of(cls).intersection(set().union(*own)).union(CALLED)


def is_native(function: Any, home: str | None = None) -> bool:
    """True if a function, and each that it wraps, was written in torch, in transformers or in the package `home`."""
    while function is not None:
        module = getattr(function, "__globals__", {}).get("__name__", "")
        if module.partition(".")[0] not in ("torch", "transformers") and module.rpartition(".")[0] != home:
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def require_plain(model: PreTrainedModel) -> None:
    """Raise [`NotPlain`], saying what was found, where incremental decoding would not give what the model gives."""
    has_source = getattr(model.config, "is_encoder_decoder", False)
    # The encoder is called as it is.
    found = find_obstacle(model, without=model.get_encoder() if has_source else None, may_train=False)
    if found is None:
        decoder: Any = model.get_decoder()
        name = decoder.config._attn_implementation
        functions = [table.get(name) for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)]
        if torch.is_autocast_enabled(model.device.type):
            found = "autocast is on"
        elif any(function is not None and not is_native(function) for function in functions):
            found = f"its attention is {name!r}, which is not transformers' own"
        elif not getattr(decoder.config, "is_causal", True):
            found = "its attention is not causal"
    if found is not None:
        raise NotPlain(f"{type(model).__name__} cannot be decoded incrementally: {found}. Call the model itself.")


def is_plain(model: PreTrainedModel) -> bool:
    """True if incremental decoding gives what the model gives: see [`require_plain`]."""
    with suppress(NotPlain):
        require_plain(model)
        return True
    return False


# The decoder, one step at a time


class PackedLinear(nn.Module):
    """x W^T + b for inference alone, with W (features, inner) laid out for products of few rows, or in fewer bits.

    On CPU, "float32" (and a bfloat16 W, where the CPU computes in it) has oneDNN's own layout, exact and up to 4 times
    as fast for few rows; "float16" holds W in half the bits; "int8" rounds W by row, and x as it comes, to 8 bits.
    "plain", and elsewhere any other, is `nn.Linear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: str):
        super().__init__()
        ops, onednn = torch.ops, torch.backends.mkldnn.is_available()
        # Some of these layouts are no tensors but objects of torch's own.
        self.weight: Any = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.kind = "plain"
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            self.kind = precision if precision != "float32" else "onednn" if onednn else "plain"
        elif weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and onednn:
            self.kind = "onednn" if ops.mkldnn._is_mkldnn_bf16_supported() else "plain"
        if self.kind == "onednn":
            self.weight = ops.mkldnn._reorder_linear_weight(self.weight)
        elif self.kind == "float16":
            self.weight = ops.quantized.linear_prepack_fp16(self.weight, self.bias)
        elif self.kind == "int8":
            scales = (self.weight.abs().amax(1).double() / 127).clamp(min=1e-12)
            with warnings.catch_warnings():  # of a release of torch to come
                warnings.simplefilter("ignore", UserWarning)
                zeros = torch.zeros_like(scales).long()
                rounded = torch.quantize_per_channel(self.weight, scales, zeros, 0, torch.qint8)
            self.weight = self.weight_for_many_rows = ops.quantized.linear_prepack(rounded, self.bias)
            quantized: Any = torch.backends.quantized
            if torch.cpu.get_capabilities().get("amx_int8") and "onednn" in quantized.supported_engines:
                engine, quantized.engine = quantized.engine, "onednn"
                try:
                    self.weight_for_many_rows = ops.quantized.linear_prepack(rounded, self.bias)
                finally:
                    quantized.engine = engine

    def forward(self, states: Tensor) -> Tensor:
        if self.kind == "onednn":
            return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        if self.kind == "float16":
            return torch.ops.quantized.linear_dynamic_fp16(states, self.weight)
        if self.kind == "int8":
            # Both engines compute the same: fbgemm faster for few rows, oneDNN for many, where it has a matrix unit.
            many_rows = states.numel() // states.shape[-1] > 16
            weight = self.weight_for_many_rows if many_rows else self.weight
            return torch.ops.quantized.linear_dynamic(states, weight, True)
        return F.linear(states, self.weight, self.bias)


def packed(linears: list[nn.Linear], precision: str) -> Callable[[Tensor], Tensor]:
    """Return a function that computes several layers of the same input at once, their outputs side by side."""
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weight = torch.cat([linear.weight for linear in linears]) if len(linears) > 1 else linears[0].weight
    return PackedLinear(weight, torch.cat(biases) if biases else None, precision).forward


class IncrementalAttention:
    """Multi-head attention (section 3.2.2) of few queries, called as the module whose place it takes in a layer.

    Keys and values are kept from step to step: those of the past, to which each step adds its own, or of a source.
    """

    def __init__(self, attention: Any, number: int, precision: str, to_source: bool):
        linears = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.project = packed(linears[:1] if to_source else linears, precision)
        self.project_source: Any = packed(linears[1:], precision) if to_source else None
        self.o_proj = packed([attention.o_proj], precision)
        self.number, self.heads, self.scaling = number, attention.config.num_attention_heads, attention.scaling
        self.sizes = [linear.out_features for linear in linears]

    def split(self, states: Tensor, sizes: list[int]) -> list[Tensor]:
        """(batch, length, sum of sizes) to (batch, heads, length, each size / heads)."""
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in states.split(sizes, dim=2)]

    def read(self, encoded: Tensor) -> list[Tensor]:
        """Return key and value (batch, heads, source, d_k or d_v) of a source (batch, source, hidden_size)."""
        return [states.contiguous() for states in self.split(self.project_source(encoded), self.sizes[1:])]

    def __call__(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: LayerStates | None = None,
        attention_mask: Tensor | None = None,
        *,
        past_key_values: "list[GrowingCache]",
        position_ids: None = None,
    ) -> tuple[Tensor, None]:
        """Return the output (batch, length, hidden_size) for new tokens of that shape, and None in place of weights.
        Of a source, `encoder_hidden_states` are what [`read`] made; `attention_mask` (batch, 1, length, keys) is true
        where a query may look. `position_ids`, which a layer passes on, are not needed.
        """
        projected = self.project(hidden_states)
        if encoder_hidden_states is not None:
            (query,) = self.split(projected, self.sizes[:1])
            key, value = encoder_hidden_states[self.number]
        else:
            query, *states = self.split(projected, self.sizes)
            key, value = past_key_values[self.number].update(*states)
        if query.shape[2] == 1 or query.device.type != "cpu":
            heads = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=self.scaling)
        else:  # for few queries sdpa takes up to three times as long
            scores = torch.matmul(query * self.scaling, key.transpose(2, 3))
            if attention_mask is not None:
                scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
            heads = torch.matmul(scores.softmax(3, dtype=torch.float32).to(value.dtype), value)
        return self.o_proj(heads.transpose(1, 2).flatten(2)), None


def copy_with(module: nn.Module, **children: Callable[..., Any]) -> Any:
    """Return a copy of a module, in evaluation mode, that shares all but some children with it."""
    replica = copy.copy(module)
    vars(replica).pop("forward", None)  # that of the original, where a replacement was taken back
    # Attributes are found before modules, and calling a function costs less than calling a module.
    functions: dict[str, Callable[..., Any]] = {}
    for name, child in replica.named_children():
        if not isinstance(child, nn.ModuleList):
            functions[name] = as_it_is if isinstance(child, nn.Dropout) else child.forward
    vars(replica).update(functions | children, training=False)
    return replica


def as_it_is(states: Tensor) -> Tensor:
    """What dropout is in evaluation mode."""
    return states


class IncrementalDecoder:
    """The decoder of a model, made ready for many steps of few tokens each: see [`PackedLinear`] for the precisions.

    Its layers are copies of the model's with other attentions and linear layers. It holds the model's weights as they
    are now. Made once, it can serve any number of calls of [`beam_search`].

    Args:
        model: of the seq2seq or of the decoder family.
        precision: "float32" (or the model's own), "float16" or "int8"; the latter two on CPU, of a float32 model.

    Raises:
        NotPlain: a `ValueError`, for a model that others have changed, as an adapter or a hook does: see
            [`find_obstacle`]. [`beam_search`] calls such a model itself.
    """

    def __init__(self, model: Any, precision: str = "float32"):
        require_plain(model)
        stack = model.get_decoder()
        self.stack, self.head, self.layers = copy_with(stack), packed([model.lm_head], precision), []
        for number, layer in enumerate(stack.layers):
            children = {"self_attention": IncrementalAttention(layer.self_attention, number, precision, False)}
            if hasattr(layer, "cross_attention"):
                children["cross_attention"] = IncrementalAttention(layer.cross_attention, number, precision, True)
            linears = {name: packed([getattr(layer.feed_forward, name)], precision) for name in ("linear1", "linear2")}
            children["feed_forward"] = copy_with(layer.feed_forward, **linears).forward
            norms = (name for name, _ in layer.named_children() if name.endswith("_norm"))
            children |= {name: copy_with(getattr(layer, name)).forward for name in norms}
            self.layers.append(copy_with(layer, **children))

    def begin(self, prompts: Tensor, beams: int, max_length: int, inputs: Inputs) -> "Beams":
        return Beams(self, prompts, beams, max_length, inputs)


def make_incremental(model: PreTrainedModel, precision: str = "float32") -> Any:
    """Return the decoder of a model made ready for many steps: an [`IncrementalDecoder`], or its family's own kind.
    Raise [`NotPlain`], a `ValueError`, as these do."""
    family = getattr(model, "incremental_decoder_class", None)
    if family is None:
        return IncrementalDecoder(model, precision)
    require_plain(model)
    return family(model, precision)


class GrowingCache:
    """Keys and values of a layer, with room for up to `max_length` tokens, so that a step seldom copies the others."""

    def __init__(self, max_length: int):
        self.length, self.max_length = 0, max_length
        self.buffers: list[Tensor] = []

    def update(self, *states: Tensor) -> list[Tensor]:
        """Add keys and values of new tokens, and return all."""
        start, self.length = self.length, self.length + states[0].shape[2]
        if not self.buffers or self.length > self.buffers[0].shape[2]:
            room = max(self.length, min(self.max_length, max(FIRST_ROOM, 2 * self.length)))
            longer = [each.new_empty(*each.shape[:2], room, each.shape[3]) for each in states]
            for new, old in zip(longer, self.buffers, strict=False):  # at first there is no old one
                new[:, :, :start] = old[:, :, :start]
            self.buffers = longer
        for buffer, each in zip(self.buffers, states, strict=True):
            buffer[:, :, start : self.length] = each
        return [buffer[:, :, : self.length] for buffer in self.buffers]

    def keep(self, rows: Tensor) -> None:
        """Drop all sentences but those at `rows`."""
        # The room of short sentences would take longer to copy than what is in it.
        self.buffers = [buffer[:, :, : self.length][rows] for buffer in self.buffers]

    def keep_tokens(self, columns: Tensor) -> None:
        """Drop all tokens but those at `columns` (batch, length)."""
        self.length = columns.shape[1]
        self.buffers = [buffer.take_along_dim(columns[:, None, :, None], 2) for buffer in self.buffers]


class Beams:
    """The hypotheses of a batch that begin with `prompts` (batch, prompt) and come to at most `max_length` tokens, and
    what the decoder keeps of them. `logits` (batch, 1, vocab_size), in float32, are those after the prompt.

    Those of a sentence are decoded as if they were its next tokens: they share one cache, and a mask lets each see its
    own past alone. So the prompt and the encoder's output are there once for all of them, and no cache is reordered
    when some are dropped; tokens that only those had seen leave it from time to time.
    """

    def __init__(self, decoder: IncrementalDecoder, prompts: Tensor, beams: int, max_length: int, inputs: Inputs):
        self.decoder, self.stack = decoder, decoder.stack
        device, new = prompts.device, max_length - prompts.shape[1]
        encoded, source_mask = inputs.get("encoder_outputs"), inputs.get("attention_mask")
        mask = inputs.get("decoder_attention_mask") if encoded is not None else source_mask
        mask = torch.ones_like(prompts) if mask is None else mask[:, -prompts.shape[1] :].bool().long()
        self.source = [layer.cross_attention.read(encoded[0]) for layer in decoder.layers if encoded is not None]
        self.source_mask = None
        if self.source and source_mask is not None and not source_mask.all():
            self.source_mask = source_mask.bool()[:, None, None]
        self.past = [GrowingCache(prompts.shape[1] + beams * new) for _ in decoder.layers]
        self.prune_at = PRUNE_FROM
        self.own = torch.eye(beams, dtype=torch.bool, device=device)
        self.visible = mask.bool()[:, None].expand(-1, beams, -1)
        self.sees_all = beams == 1 and bool(mask.all())
        # A decoder alone counts from its first token, one with an encoder from its first place, as their models do.
        position_ids = (mask if encoded is None else torch.ones_like(mask)).cumsum(1).sub(1).clamp(min=0)
        if encoded is None and inputs.get("position_ids") is not None:
            position_ids = inputs["position_ids"].expand_as(prompts)
        self.next_position = position_ids[:, -1:] + 1
        if self.stack.config.position_embedding_type != "learned":  # sinusoids once for all steps
            positions = torch.arange(int(self.next_position.max()) + new, device=device)[None]
            encodings = self.stack.embed_positions(positions)[0]
            self.stack = copy_with(self.stack, embed_positions=encodings.__getitem__)
        causal = torch.ones(prompts.shape[1], prompts.shape[1], dtype=torch.bool, device=device).tril()
        self.logits = self.forward(prompts, position_ids, mask.bool()[:, None] & causal, slice(-1, None))

    def forward(self, tokens: Tensor, position_ids: Tensor, visible: Tensor | None, after: slice) -> Tensor:
        """Return the logits (batch, some, vocab_size), in float32, after those of `tokens` (batch, length) that
        `after` selects. `visible` (batch, length, past + length) is true where a token may look, None for everywhere.
        """
        stack, source = self.stack, self.source or None
        mask = None if visible is None else visible[:, None]
        hidden_states = stack.embed(stack.embed_tokens(tokens), position_ids)
        for layer in self.decoder.layers:
            hidden_states = layer.forward(hidden_states, mask, source, self.source_mask, self.past)
        return self.decoder.head(stack.norm(hidden_states[:, after])).float()

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return the logits (batch, beams, vocab_size) after `tokens` (batch, beams), each of which continues the
        hypothesis `parents` (batch, beams) of its sentence."""
        if not self.sees_all:
            self.visible = take(self.visible, parents)
            if self.visible.shape[2] >= self.prune_at:
                self.prune()
            self.visible = torch.cat((self.visible, self.own.expand(len(tokens), -1, -1)), dim=2)
        logits = self.forward(tokens, self.next_position, None if self.sees_all else self.visible, slice(None))
        self.next_position = self.next_position + 1
        return logits

    def prune(self) -> None:
        """Drop the tokens that no hypothesis descends from; where sentences have different numbers of the others, some
        of them stay, unseen."""
        seen = self.visible.any(1)
        columns = seen.long().argsort(dim=1, descending=True, stable=True)[:, : int(seen.sum(1).max())]
        for cache in self.past:
            cache.keep_tokens(columns)
        self.visible = self.visible.take_along_dim(columns[:, None], 2)
        self.prune_at = max(PRUNE_FROM, 2 * columns.shape[1])

    def keep(self, rows: Tensor) -> None:
        """Drop all sentences but those at `rows`."""
        for cache in self.past:
            cache.keep(rows)
        self.source = [[states[rows] for states in layer] for layer in self.source]
        self.visible, self.next_position = self.visible[rows], self.next_position[rows]
        self.source_mask = None if self.source_mask is None else self.source_mask[rows]


class ModelBeams:
    """The hypotheses of a batch, as [`Beams`], by calls of the model itself, whatever others have made of it.

    As in transformers' own beam search, each hypothesis has a row of its own, and all stay to the end, for a replaced
    method may count them. `inputs` and `tokens` (batch * beams, prompt) have those rows from the start. `logits`
    (batch, beams, vocab_size), in float32, are those after the prompt.
    """

    def __init__(self, model: Any, tokens: Tensor, config: GenerationConfig, inputs: Inputs):
        self.model, self.tokens, self.inputs, self.beams = model, tokens, inputs, config.num_beams
        outputs = model._prefill(tokens, config, inputs, is_first_iteration=not config.is_assistant)
        self.logits = self.read(outputs)

    def read(self, outputs: Any) -> Tensor:
        """Return the logits (batch, beams, vocab_size) of a call, and take over its cache."""
        has_source = self.model.config.is_encoder_decoder
        self.inputs = self.model._update_model_kwargs_for_generation(outputs, self.inputs, has_source)
        return outputs.logits[:, -1].to(torch.float32, copy=True).unflatten(0, (-1, self.beams))

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return the logits (batch, beams, vocab_size) after `tokens` (batch, beams), each of which continues the
        hypothesis `parents` (batch, beams) of its sentence."""
        rows = (torch.arange(len(parents), device=parents.device)[:, None] * self.beams + parents).flatten()
        self.tokens = torch.cat((self.tokens[rows], tokens.flatten()[:, None]), dim=1)
        cache = self.inputs.get("past_key_values")
        if cache is not None and hasattr(self.model, "_reorder_cache"):
            self.inputs["past_key_values"] = self.model._reorder_cache(cache, rows)
        elif cache is not None:
            cache.reorder_cache(rows)
        new = 1 if self.inputs.get("use_cache") else None
        inputs = self.model.prepare_inputs_for_generation(self.tokens, next_sequence_length=new, **self.inputs)
        return self.read(self.model(**inputs, return_dict=True))


def take(values: Tensor, indices: Tensor) -> Tensor:
    """(batch, many, length) at `indices` (batch, few) of its second dimension: (batch, few, length)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def fast_topk(scores: Tensor, count: int, chunk: int = 128) -> tuple[Tensor, Tensor]:
    """Return `scores.topk(count)` of (rows, many), faster: the best are in the `count` chunks whose own best are."""
    whole = scores.shape[1] // chunk * chunk
    if whole <= 4 * chunk * count:
        return scores.topk(count)
    chunks = scores[:, :whole].unflatten(1, (-1, chunk))
    chosen = chunks.amax(2).topk(count)[1]
    candidates = take(chunks, chosen).flatten(1)
    indices = (chosen[..., None] * chunk + torch.arange(chunk, device=scores.device)).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    values, where = torch.cat((candidates, scores[:, whole:]), dim=1).topk(count)
    return values, torch.cat((indices, rest), dim=1).gather(1, where)


def length_penalty(length: int | Tensor, alpha: float, form: str) -> float | Tensor:
    """Return what a log-probability is divided by: ((5 + length) / 6)^alpha (Wu et al., 2016, eq. 14), or for the form
    "transformers" length^alpha. The length is that of the generated tokens, the end included."""
    return length**alpha if form == "transformers" else ((5 + length) / 6) ** alpha


@dataclass
class Finished:
    """The best finished hypotheses of each sentence, best first."""

    sequences: Tensor  # token ids (batch, beams, length), padded on the right
    origins: Tensor  # which hypothesis each of their generated tokens continued (batch, beams, generated), or -1
    scores: Tensor  # log-probability over length penalty (batch, beams)
    lengths: Tensor  # generated tokens (batch, beams); 0 for an empty slot
    closed: Tensor  # true for sentences (batch) that take no more

    @classmethod
    def empty(cls, prompts: Tensor, beams: int) -> "Finished":
        """Return empty slots for sentences that begin with `prompts` (batch, prompt)."""
        lengths = torch.zeros(len(prompts), beams, dtype=torch.int64, device=prompts.device)
        scores = torch.full(lengths.shape, MISSING_SCORE, device=prompts.device)
        sequences = prompts[:, None].expand(-1, beams, -1)
        return cls(sequences, lengths[..., None][..., :0], scores, lengths, lengths[:, 0] > 0)

    def add(self, sequences: Tensor, origins: Tensor, scores: Tensor, ended: Tensor, padding: int) -> None:
        """Put those of `sequences` (batch, new, length) that have `ended` (batch, new) in the place of worse ones."""
        new = torch.where(ended & ~self.closed[:, None], scores, MISSING_SCORE)
        self.scores, chosen = torch.cat((self.scores, new), dim=1).topk(self.scores.shape[1])
        lengths = torch.where(new > MISSING_SCORE, origins.shape[2], 0)
        self.lengths = torch.cat((self.lengths, lengths), dim=1).gather(1, chosen)
        self.sequences = take(torch.cat((F.pad(self.sequences, (0, 1), value=padding), sequences), dim=1), chosen)
        self.origins = take(torch.cat((F.pad(self.origins, (0, 1), value=-1), origins), dim=1), chosen)

    def select(self, rows: Tensor) -> "Finished":
        return Finished(**{name: value[rows] for name, value in vars(self).items()})


# The search


class NotServed(ValueError):
    """Raised for what [`beam_search`] does not do."""


def refuse_unserved(
    model: PreTrainedModel, config: GenerationConfig, synced: bool, form: str, extra: int | None, inputs: Inputs
) -> None:
    """Raise [`NotServed`] for arguments of [`beam_search`] that it cannot follow; `synced` and `extra` are its
    `synced_gpus` and `max_extra_tokens`."""
    has_source, cache = model.config.is_encoder_decoder, inputs.get("past_key_values")
    asks_states = config.output_attentions or config.output_hidden_states
    names = ("decoder_inputs_embeds", "decoder_position_ids" if has_source else "inputs_embeds")
    unknown = [name for name in names if inputs.get(name) is not None]
    forms, sourceless = ("paper", "transformers"), extra is not None and not has_source
    mode, served = config.get_generation_mode(), (GenerationMode.GREEDY_SEARCH, GenerationMode.BEAM_SEARCH)
    # `generate` does not pass on to such a function what it finds out about this.
    is_sharded = is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled()
    refused = {
        "it does not sample: leave out `do_sample`, or `custom_generate`": config.do_sample,
        f"it does not do {mode.value}: leave out what asks for that, or `custom_generate`": mode not in served,
        "it cannot give attentions or hidden states: pass its sequences to `forward`": asks_states,
        "it does not run on parameters that are sharded (`synced_gpus`): leave out `custom_generate`": synced
        or (is_sharded and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1),
        f"`length_penalty_form` must be 'paper' or 'transformers', got {form!r}": form not in forms,
        "`num_return_sequences` must not exceed `num_beams`": config.num_return_sequences > config.num_beams,
        "it begins with a cache of its own: leave out `past_key_values`": cache and cache.get_seq_length(),
        "`max_extra_tokens` counts from the length of a source, and this model has none": sourceless,
        f"it does not take {' and '.join(unknown)}": bool(unknown),
        "`max_extra_tokens` must be at least 1": extra is not None and extra < 1,
        "`num_beams` must be at least 1": config.num_beams < 1,
        "it does not work with guidance scale, which doubles the batch": (config.guidance_scale or 1) != 1,
        "it takes all hypotheses at once: leave out `low_memory`": config.low_memory,
    }
    for reason, applies in refused.items():
        if applies:
            raise NotServed(f"beam_search: {reason}.")


def find_unfollowed(inputs: Inputs) -> str | None:
    """Return what, among the inputs of a model, only the model itself can follow; None if there is nothing."""
    for name, value in inputs.items():
        is_mask = name in ("attention_mask", "decoder_attention_mask") and isinstance(value, Tensor)
        if value is not None and (name not in FOLLOWED or (is_mask and value.ndim != 2)):
            return name
    cache = inputs.get("past_key_values")
    is_usual = type(cache) in (DynamicCache, EncoderDecoderCache, StaticCache)
    if cache is not None and (not is_usual or getattr(cache, "_is_user_defined", False)):
        return "past_key_values"
    if (positions := inputs.get("position_ids")) is not None:
        mask, follow = inputs.get("attention_mask"), positions.diff(dim=-1) == 1
        if not (follow if mask is None else follow | (mask[:, :-1] == 0)).all():
            return "position_ids"
    return None


def is_from_config(criterion: StoppingCriteria, config: GenerationConfig) -> bool:
    """True if `generate` made the criterion from the generation config, which the search follows itself."""
    if isinstance(criterion, MaxLengthCriteria):
        return criterion.max_length == config.max_length
    ends = config._eos_token_tensor
    return isinstance(criterion, EosTokenCriteria) and ends is not None and torch.equal(criterion.eos_token_id, ends)


def one_per_sentence(value: Any, beams: int) -> Any:
    """Return tensors, or nested tuples of them, with one row for each sentence where `generate` made `beams`."""
    if isinstance(value, Tensor) and value.ndim:
        return value[::beams]
    if isinstance(value, (tuple, list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return tuple(one_per_sentence(part, beams) for part in parts if part is not None)
    return value


@dataclass
class Search:
    """A beam search on its way; its open hypotheses are held as in [`Finished`], but without a length penalty."""

    prompts: Tensor  # what the hypotheses begin with (batch, prompt)
    limits: Tensor  # tokens that each sentence can get (batch, 1)
    config: GenerationConfig  # as `generate` completed it
    form: str  # of the length penalty, "paper" or "transformers"
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList  # those that did not come from `config`
    all_stay: bool = False  # whether sentences that are done stay in the batch to the end

    def __post_init__(self) -> None:
        config, self.beams = self.config, self.config.num_beams
        self.ends = self.prompts.new_empty(0) if config._eos_token_tensor is None else config._eos_token_tensor
        self.penalty = partial(length_penalty, alpha=config.length_penalty, form=self.form)
        self.padding = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
        # Enough that as many are open as there are beams, even if all others end.
        self.candidates = self.beams * max(2, 1 + len(self.ends))
        self.records = config.return_dict_in_generate and (config.output_scores or config.output_logits)
        # For each step (sentences * beams, vocab_size), where `config` asks for them.
        self.all_scores, self.all_logits = tuple[Tensor, ...](), tuple[Tensor, ...]()
        self.active = torch.arange(len(self.prompts), device=self.prompts.device)  # number of each sentence among all
        self.finished = Finished.empty(self.prompts, self.beams)
        self.results = list[tuple[Tensor, Finished]]()  # what has left the batch, with the numbers of its sentences
        self.hypotheses, self.origins = self.finished.sequences, self.finished.origins
        self.scores = self.finished.scores.clone()
        self.scores[:, 0] = 0  # the hypotheses of a sentence begin alike, so only the first takes part

    def rank_tokens(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids of the best next tokens, (batch * beams, candidates) each, by logits
        (batch * beams, vocab_size), which may be overwritten."""
        count = min(self.candidates, logits.shape[1])
        if self.processors or self.records:
            # Processors of a greedy search work on logits, as in transformers.
            steps = logits if self.beams == 1 else logits.log_softmax(1)
            steps = self.processors(self.hypotheses.flatten(0, 1), steps)  # type: ignore[arg-type]
            self.all_scores += (steps,) if self.records and self.config.output_scores else ()
            self.all_logits += (logits,) if self.records and self.config.output_logits else ()
            return fast_topk(steps.log_softmax(1) if self.beams == 1 else steps, count)
        values, tokens = fast_topk(logits, count)
        # The logarithm of the sum of exponentials, in place: a copy of the logits takes longer than the sum.
        most = values[:, :1].clone()
        return values - most - logits.sub_(most).exp_().sum(1, keepdim=True).log(), tokens

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Continue the open hypotheses by a token, by the logits (batch, beams, vocab_size) after them. Return the
        token of each one that is open now, and the number of the one that it continues, both (batch, beams)."""
        # The best continuations of each hypothesis, and of these the best of each sentence.
        values, tokens = self.rank_tokens(logits.flatten(0, 1))
        tokens, total = (each.view(len(self.active), -1) for each in (tokens, values + self.scores.view(-1, 1)))
        total, chosen = total.topk(min(self.candidates, tokens.shape[1]))
        parents, tokens = chosen // values.shape[1], tokens.gather(1, chosen)
        sequences = torch.cat((take(self.hypotheses, parents), tokens[..., None]), dim=2)
        numbers = self.active[:, None] * self.beams + parents
        origins = torch.cat((take(self.origins, parents), numbers[..., None]), dim=2)
        length = origins.shape[2]
        ended = torch.isin(tokens, self.ends) | (length >= self.limits)
        if self.criteria:
            ended = ended | self.criteria(sequences.flatten(0, 1), self.all_scores or None).view_as(ended)

        best = slice(self.beams)  # the others are there to go on in the place of those that have ended
        scores = total[:, best] / self.penalty(length)
        exists = total[:, best] > MISSING_SCORE / 2
        self.finished.add(sequences[:, best], origins[:, best], scores, ended[:, best] & exists, self.padding)
        self.scores, kept = (total + MISSING_SCORE * ended).topk(self.beams)
        self.hypotheses, self.origins = take(sequences, kept), take(origins, kept)
        at_best = self.penalty(self.limits if self.counts_to_limit else self.limits.new_tensor(length))
        is_best = self.cannot_improve(self.finished, self.scores, at_best)
        self.finished.closed = self.finished.closed | is_best | ended.all(1)
        return tokens.gather(1, kept), parents.gather(1, kept)

    @property
    def counts_to_limit(self) -> bool:
        """Whether an open hypothesis is judged by its length at the limit: with a penalty, its score could reach that
        if more tokens were to cost nothing."""
        config = self.config
        return config.length_penalty > 0 and (self.form == "paper" or config.early_stopping == "never")

    def cannot_improve(self, finished: Finished, scores: Tensor, penalty: Any) -> Tensor:
        """True for sentences (batch) whose `finished` hypotheses no open one can be better than, given the open ones'
        log-probabilities (batch, beams), and the `penalty` at the length that [`counts_to_limit`] says."""
        if self.beams == 1 or self.config.early_stopping is True:
            return finished.lengths.all(1)
        rank = self.beams if self.form == "transformers" else self.config.num_return_sequences
        return finished.scores[:, rank - 1] >= (scores[:, :1] / penalty).squeeze(1)

    def drop_closed(self) -> Tensor | None:
        """Take closed sentences out of the batch, and return which rows stay; None if too few are closed to do so."""
        closed = self.finished.closed
        leaving, batch = int(closed.sum()), len(self.active)
        # Processors, criteria and records may count sentences from the first.
        stay = self.all_stay or self.processors or self.criteria or self.records
        if leaving < batch and (stay or leaving < LEAVING_SHARE * batch):
            return None
        left = closed.nonzero().squeeze(1)
        self.results.append((self.active[left], self.finished.select(left)))
        rest = (~closed).nonzero().squeeze(1)
        self.active, self.limits, self.finished = self.active[rest], self.limits[rest], self.finished.select(rest)
        self.hypotheses, self.origins, self.scores = self.hypotheses[rest], self.origins[rest], self.scores[rest]
        return rest

    def output(self, has_source: bool) -> BeamSearchOutput:
        """Return the best hypotheses of all sentences, as `generate` does."""
        order = torch.cat([numbers for numbers, _ in self.results]).argsort()
        ranks = torch.arange(self.config.num_return_sequences, device=order.device)

        def together(field: str, padding: int = 0) -> Tensor:
            parts = [getattr(found, field) for _, found in self.results]
            longest = max(part.shape[-1] for part in parts)
            padded = [F.pad(part, (0, longest - part.shape[-1]), value=padding) for part in parts]
            return torch.cat(padded)[order]

        lengths = together("lengths")
        legal = (lengths[:, : len(ranks)] > 0).sum(1, keepdim=True)
        if (legal < len(ranks)).any():
            logger.warning_once("Fewer sequences are legal than `num_return_sequences`: they are repeated.")
        best = ranks % legal.clamp(min=1)  # (sentences, ranks)
        longest = int(lengths.gather(1, best).max())
        sequences = take(together("sequences", self.padding), best).flatten(0, 1)
        sequences = sequences[:, : self.prompts.shape[1] + longest]
        if not self.config.return_dict_in_generate:
            return sequences
        scores = together("scores").gather(1, best).flatten()
        origins = take(together("origins", -1), best).flatten(0, 1)[:, :longest]
        fields: dict[str, Any] = {"sequences": sequences, "sequences_scores": scores, "beam_indices": origins}
        fields |= {"scores": self.all_scores or None, "logits": self.all_logits or None}
        return GenerateBeamEncoderDecoderOutput(**fields) if has_source else GenerateBeamDecoderOnlyOutput(**fields)


@torch.no_grad()
def beam_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    length_penalty_form: str | None = None,
    max_extra_tokens: int | None = None,
    incremental_decoder: Any = None,
    **model_kwargs: Any,
) -> BeamSearchOutput:
    """Search for the most probable continuation, by `model.generate(..., custom_generate=beam_search)`.

    Of the generation config, it follows `num_beams` (1 is greedy search), `length_penalty` (alpha), `early_stopping`,
    `num_return_sequences`, the lengths, and all that works by logits processors or stopping criteria. Unless
    `early_stopping=True` ends a sentence once `num_beams` hypotheses are finished, it goes on until no open hypothesis
    can still be among the best `num_return_sequences`: the search is exact but for its beam. It cannot serve a
    `streamer`, which transformers does not pass on to such a function.

    A model of this package is decoded by [`make_incremental`]. One that others have changed (adapters, hooks,
    quantised or offloaded weights and the like, see [`find_obstacle`]) and any other model is called itself, more
    slowly, with the same search.

    Args:
        model: one that generates, such as those of the seq2seq, the decoder and the recurrent family.
        input_ids: what the hypotheses begin with, (batch * beams, prompt): those of a sentence alike.
        logits_processor: applied to the log-probabilities, as in transformers' beam search.
        stopping_criteria: asked about each continuation.
        generation_config: as `generate` completed it.
        synced_gpus: not served.
        length_penalty_form: "paper", ((5 + length) / 6)^alpha; or "transformers", length^alpha with the rules of
            transformers' own beam search for when a sentence is done. If not given, that of the generation config,
            which converted checkpoints have, or else the paper's.
        max_extra_tokens: how many tokens more than its source a sentence may get (the paper: 50), besides
            `max_length`, which holds for all; seq2seq only.
        incremental_decoder: the model's, by [`make_incremental`], to use again; made for this call if not given. A
            `StaticDecoder` makes equal steps, which a GPU takes in one launch each.
        model_kwargs: the model's inputs, each sentence's repeated for its beams.

    Returns token ids (batch * num_return_sequences, length), padded on the right; or, with `return_dict_in_generate`,
    a structure with `sequences_scores` and `beam_indices`, and on demand `scores` and `logits` by step. Where a
    sentence has fewer legal sequences than `num_return_sequences`, these are repeated, best first, with a warning.

    Raises:
        NotServed: a `ValueError`, for other modes of generation and whatever else it does not do.
        NotPlain: a `ValueError`, where others have changed the model since `incremental_decoder` was made.

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, beam_search
        >>> model = VanillaForConditionalGeneration(VanillaConfig(vocab_size=50, d_model=16, h=2, d_ff=32, N=1))
        >>> options = {"num_beams": 4, "num_return_sequences": 2, "max_length": 8}
        >>> len(model.generate(torch.tensor([[5, 6, 2]]), custom_generate=beam_search, **options))
        2
    """
    config, beams = generation_config, generation_config.num_beams
    form = length_penalty_form or getattr(config, "length_penalty_form", None) or "paper"
    has_source = model.config.is_encoder_decoder
    refuse_unserved(model, config, synced_gpus, form, max_extra_tokens, model_kwargs)
    unfollowed = find_unfollowed(model_kwargs)
    if incremental_decoder is not None:
        require_plain(model)
        if unfollowed is not None:
            raise NotServed(f"beam_search: `incremental_decoder` does not follow `{unfollowed}`: leave out either.")
    elif unfollowed is None:
        with suppress(NotPlain):
            incremental_decoder = make_incremental(model)
    inputs = {name: one_per_sentence(value, beams) for name, value in model_kwargs.items() if name in FOLLOWED}
    prompts = input_ids[::beams]
    limits = torch.full((len(prompts), 1), config.max_length - prompts.shape[1], device=prompts.device)
    if max_extra_tokens is not None:
        mask = inputs.get("attention_mask")
        sources = inputs["encoder_outputs"][0].shape[1] if mask is None else mask.sum(1, keepdim=True)
        limits = limits.clamp(max=sources + max_extra_tokens)
    criteria = StoppingCriteriaList(each for each in stopping_criteria if not is_from_config(each, config))
    search = Search(prompts, limits, config, form, logits_processor, criteria, incremental_decoder is None)
    if incremental_decoder is None:
        state: Any = ModelBeams(model, input_ids, config, model_kwargs)
    else:
        most = prompts.shape[1] + int(limits.max())
        state = incremental_decoder.begin(prompts, beams, most, inputs)
        if hasattr(incremental_decoder, "finish") and incremental_decoder.serves(search):
            incremental_decoder.finish(search, state)
            return search.output(has_source)
    logits = state.logits.repeat(1, beams // state.logits.shape[1], 1)
    while True:
        tokens, parents = search.advance(logits)
        rest = search.drop_closed()
        if len(search.active) == 0:
            return search.output(has_source)
        if rest is not None:
            state.keep(rest)
            tokens, parents = tokens[rest], parents[rest]
        logits = state.step(tokens, parents)


def generate(*inputs: Any, model: Any, **arguments: Any) -> Any:
    """Run `model.generate` by [`beam_search`] where it serves what is asked for, and as transformers does otherwise.

    transformers calls this for models loaded with `trust_remote_code=True`, and for `custom_generate=NAME`.
    """
    own = type(model).generate
    named = signature(own).bind_partial(model, *inputs, **arguments).arguments
    config = named.get("generation_config") or model.generation_config
    beams = arguments.get("num_beams") or config.num_beams or model.generation_config.num_beams or 1
    # What transformers does not pass on to a function, and what needs it: a tokenizer, for instance.
    kept = ("streamer", "assistant_model", "synced_gpus", "custom_generate")
    texts = any(arguments.get(name) or getattr(config, name, None) for name in ("stop_strings", "token_healing"))
    if beams > 1 and not texts and all(named.get(name) in (None, False) for name in kept):
        with suppress(NotServed):
            return own(model, *inputs, **arguments | {"custom_generate": beam_search})
    return own(model, *inputs, **arguments)
