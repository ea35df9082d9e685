"""Beam search as in the paper (section 6.1; Wu et al., 2016, arXiv:1609.08144, section 7): `beam_search`, for
`model.generate(..., custom_generate=beam_search)`.

Shapes: batch is the sentences not yet done, beams the hypotheses of each; length is that of their tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.generation import (
    EosTokenCriteria,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

# Far below any log-probability, yet finite: the score of a hypothesis that there is not.
NONE = -1.0e9
# Sentences leave the batch once they are at least this share of it: to take them out copies the others.
LEAVE = 0.125
# From so many tokens in a sentence's cache on, those that nobody descends from leave it each time that it has doubled.
FORGET = 256

# The decoder, one step at a time


class PackedLinear(nn.Module):
    """x W^T + b for inference alone, with W laid out for products of few rows, or in fewer bits.

    On CPU, "float32" (and a bfloat16 W, where the CPU computes in it) has oneDNN's own layout, exact and up to 4 times
    as fast for few rows; "float16" holds W in half the bits; "int8" rounds W by row, and x as it comes, to 8.
    Elsewhere it is `nn.Linear`.

    Args:
        weight: (features, inner).
        bias: (features), or None.
        precision: "float32", "float16" or "int8".
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, precision: str):
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        ops: Any = torch.ops
        self.kind = "plain"
        if weight.device.type == "cpu":
            has_onednn = torch.backends.mkldnn.is_available()
            if weight.dtype == torch.float32 and precision != "float32":
                self.kind = precision
            elif weight.dtype == torch.float32 and has_onednn:
                self.kind = "onednn"
            elif weight.dtype == torch.bfloat16 and has_onednn and ops.mkldnn._is_mkldnn_bf16_supported():
                self.kind = "onednn"
        if self.kind == "onednn":
            self.weight = ops.mkldnn._reorder_linear_weight(self.weight)
        elif self.kind == "float16":
            self.weight = ops.quantized.linear_prepack_fp16(self.weight, self.bias)
        elif self.kind == "int8":
            scales = (self.weight.abs().amax(1).double() / 127).clamp(min=1e-12)
            rounded = torch.quantize_per_channel(self.weight, scales, torch.zeros_like(scales).long(), 0, torch.qint8)
            self.weight = self.weight_of_many = ops.quantized.linear_prepack(rounded, self.bias)
            quantized: Any = torch.backends.quantized
            if torch.cpu.get_capabilities().get("amx_int8") and "onednn" in quantized.supported_engines:
                engine, quantized.engine = quantized.engine, "onednn"
                try:
                    self.weight_of_many = ops.quantized.linear_prepack(rounded, self.bias)
                finally:
                    quantized.engine = engine

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., inner) to (..., features)."""
        ops: Any = torch.ops
        if self.kind == "onednn":
            return ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        if self.kind == "float16":
            return ops.quantized.linear_dynamic_fp16(states, self.weight)
        if self.kind == "int8":
            # For few rows fbgemm is faster, for many oneDNN, where it has a matrix unit; they compute the same.
            many = states.numel() // states.shape[-1] > 16
            return ops.quantized.linear_dynamic(states, self.weight_of_many if many else self.weight, True)
        return F.linear(states, self.weight, self.bias)


def packed(linears: list[Any], precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What computes several layers of the same input at once, their outputs side by side."""
    if any(type(linear) is not nn.Linear for linear in linears):  # one with an adapter, for example
        return lambda states: torch.cat([linear(states) for linear in linears], dim=-1)
    biases = [linear.bias for linear in linears if linear.bias is not None]
    weight = torch.cat([linear.weight for linear in linears]) if len(linears) > 1 else linears[0].weight
    return PackedLinear(weight, torch.cat(biases) if biases else None, precision).forward


class IncrementalAttention:
    """Multi-head attention (section 3.2.2) where keys and values are kept from step to step: to the past, for which a
    step has queries, keys and values of its own, or to a source, for which it has queries alone."""

    def __init__(self, attention: Any, precision: str, to_source: bool):
        linears = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.of_step = packed(linears[:1] if to_source else linears, precision)
        if to_source:
            self.of_source = packed(linears[1:], precision)
        self.output = packed([attention.o_proj], precision)
        self.heads, self.scaling = attention.config.num_attention_heads, attention.scaling
        self.sizes = [linear.out_features for linear in linears]

    def split(self, states: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
        """(batch, length, sum of sizes) to (batch, heads, length, each size / heads)."""
        each = states.split(sizes, dim=2)
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in each]

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The output (batch, length, hidden_size)."""
        if query.shape[2] == 1 or query.device.type != "cpu":
            heads = F.scaled_dot_product_attention(query, key, value, mask, scale=self.scaling)
        else:  # for few queries sdpa takes up to three times as long
            scores = torch.matmul(query * self.scaling, key.transpose(2, 3))
            scores = scores if mask is None else scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
            heads = torch.matmul(scores.softmax(3, dtype=torch.float32).to(value.dtype), value)
        return self.output(heads.transpose(1, 2).flatten(2))


class IncrementalDecoder:
    """The decoder of a model, made ready for many steps of few tokens each: see [`PackedLinear`] for the precisions.

    It holds the model's weights as they are now. Made once, it can serve any number of calls of [`beam_search`].

    Args:
        model: of the seq2seq or of the decoder family.
        precision: "float32" (or the model's own), "float16" or "int8"; the latter two on CPU, of a float32 model.
    """

    def __init__(self, model: Any, precision: str = "float32"):
        self.stack = model.get_decoder()
        self.head = packed([model.lm_head], precision)
        self.layers = []
        for layer in self.stack.layers:
            cross = getattr(layer, "cross_attention", None)
            self.layers.append(
                (
                    layer,
                    IncrementalAttention(layer.self_attention, precision, to_source=False),
                    None if cross is None else IncrementalAttention(cross, precision, to_source=True),
                    packed([layer.feed_forward.linear1], precision),
                    packed([layer.feed_forward.linear2], precision),
                )
            )

    def begin(self, prompts: torch.Tensor, beams: int, most: int, inputs: dict[str, Any]) -> "Beams":
        """The hypotheses of a search: see [`Beams`]."""
        return Beams(self, prompts, beams, most, inputs)

    def step(self, hidden_states: torch.Tensor, mask: torch.Tensor | None, state: "Beams") -> torch.Tensor:
        """What the layers make of embeddings (batch, length, hidden_size), after what `state` has kept of the past.

        `mask` (batch, 1, length, past + length) is true where self-attention may look.
        """
        for number, (layer, self_attention, cross_attention, linear1, linear2) in enumerate(self.layers):

            def look_back(x: torch.Tensor, attention: Any = self_attention, cache: Any = state.past[number]) -> Any:
                query, key, value = attention.split(attention.of_step(x), attention.sizes)
                return attention.attend(query, *cache.update(key, value), mask)

            def look_at_source(x: torch.Tensor, attention: Any = cross_attention, number: int = number) -> Any:
                query = attention.split(attention.of_step(x), attention.sizes[:1])[0]
                return attention.attend(query, *state.source[number], state.source_mask)

            def feed_forward(
                x: torch.Tensor, layer: Any = layer, linear1: Any = linear1, linear2: Any = linear2
            ) -> Any:
                return linear2(layer.feed_forward.activation(linear1(x)))

            hidden_states = layer.self_attention_norm.forward(hidden_states, look_back)
            if cross_attention is not None:
                hidden_states = layer.cross_attention_norm.forward(hidden_states, look_at_source)
            hidden_states = layer.feed_forward_norm.forward(hidden_states, feed_forward)
        return hidden_states


def make_incremental(model: Any, precision: str = "float32") -> Any:
    """The decoder of a model, made ready for many steps: an [`IncrementalDecoder`], or what the model's family has."""
    return getattr(model, "incremental_decoder_class", IncrementalDecoder)(model, precision)


class GrowingCache:
    """Keys (batch, heads, length, d_k) and values (batch, heads, length, d_v), with room for those to come, `most` in
    all: a step writes its own, and copies none."""

    def __init__(self, most: int):
        self.length, self.most = 0, most
        self.buffers: list[torch.Tensor] = []

    def update(self, *states: torch.Tensor) -> list[torch.Tensor]:
        """Takes keys and values of a step, and returns all."""
        start, self.length = self.length, self.length + states[0].shape[2]
        if not self.buffers or self.length > self.buffers[0].shape[2]:
            room = max(self.length, min(self.most, max(FORGET, 2 * self.length)))
            longer = [each.new_empty(*each.shape[:2], room, each.shape[3]) for each in states]
            for new, old in zip(longer, self.buffers, strict=False):
                new[:, :, :start] = old[:, :, :start]
            self.buffers = longer
        for buffer, each in zip(self.buffers, states, strict=True):
            buffer[:, :, start : self.length] = each
        return [buffer[:, :, : self.length] for buffer in self.buffers]

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all sentences but these."""
        self.buffers = [buffer[rows] for buffer in self.buffers]

    def take(self, columns: torch.Tensor) -> None:
        """Drops all tokens but those at `columns` (batch, length)."""
        self.length = columns.shape[1]
        self.buffers = [
            buffer.gather(2, columns[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3]))
            for buffer in self.buffers
        ]


class Beams:
    """The hypotheses of a batch, and what the decoder keeps of them.

    Those of a sentence are decoded as if they were its next tokens: they share one cache, and a mask lets each see its
    own past alone. So the prompt and the encoder's output are there once for all of them, and no cache is put into
    another order when some are dropped; what only those had seen leaves it from time to time.

    Args:
        decoder: the decoder.
        prompts: what the hypotheses begin with (batch, prompt).
        beams: hypotheses of a sentence.
        most: tokens that a hypothesis can grow to, the prompt's included.
        inputs: what `generate` prepared for the model, a row for each sentence.

    Attributes:
        logits: of the token after the prompt, float32 (batch, 1, vocab_size).
    """

    def __init__(
        self, decoder: IncrementalDecoder, prompts: torch.Tensor, beams: int, most: int, inputs: dict[str, Any]
    ):
        self.decoder, stack = decoder, decoder.stack
        encoded, source_mask = inputs.get("encoder_outputs"), inputs.get("attention_mask")
        mask = inputs.get("decoder_attention_mask") if encoded is not None else source_mask
        mask = torch.ones_like(prompts) if mask is None else mask[:, -prompts.shape[1] :].bool().long()
        self.source: list[list[torch.Tensor]] = []
        self.source_mask = None
        if encoded is not None:
            for _, _, attention, _, _ in decoder.layers:
                cross: Any = attention
                key_and_value = cross.split(cross.of_source(encoded[0]), cross.sizes[1:])
                self.source.append([states.contiguous() for states in key_and_value])
            if source_mask is not None and not source_mask.all():
                self.source_mask = source_mask.bool()[:, None, None]
        room = prompts.shape[1] + beams * (most - prompts.shape[1])
        self.past = [GrowingCache(room) for _ in decoder.layers]
        self.forget_at = FORGET
        self.own = torch.eye(beams, dtype=torch.bool, device=prompts.device)
        self.visible = mask.bool()[:, None].expand(-1, beams, -1)
        self.alone = beams == 1 and bool(mask.all())
        # A decoder alone counts from its first token, one with an encoder from its first place, as their models do.
        position_ids = (mask if encoded is None else torch.ones_like(mask)).cumsum(1).sub(1).clamp(min=0)
        if encoded is None and inputs.get("position_ids") is not None:
            position_ids = inputs["position_ids"].expand_as(prompts)
        self.next_position = position_ids[:, -1:] + 1
        # Sinusoids once for all steps; learned positions are looked up, and checked, as they come.
        self.positions = None
        if not any(True for _ in stack.embed_positions.parameters()):
            last = int(self.next_position.max()) + most - prompts.shape[1]
            self.positions = stack.embed_positions(torch.arange(last, device=prompts.device)[None])[0]
        causal = torch.ones(prompts.shape[1], prompts.shape[1], dtype=torch.bool, device=prompts.device).tril()
        self.logits = self.forward(prompts, position_ids, mask.bool()[:, None] & causal, slice(-1, None))

    def forward(
        self, tokens: torch.Tensor, position_ids: torch.Tensor, visible: torch.Tensor | None, after: slice
    ) -> torch.Tensor:
        """The logits (batch, some, vocab_size), in float32, after some of `tokens` (batch, length)."""
        stack = self.decoder.stack
        if self.positions is None:
            positions = stack.embed_positions(position_ids)
        else:
            positions = self.positions[position_ids]
        embeds = stack.embed_tokens(tokens)
        hidden_states = stack.embedding_norm(embeds * stack.embedding_scale + positions.to(embeds))
        hidden_states = self.decoder.step(hidden_states, None if visible is None else visible[:, None], self)
        return self.decoder.head(stack.norm(hidden_states[:, after])).float()

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """The logits (batch, beams, vocab_size) after `tokens` (batch, beams), each of which continues the hypothesis
        `parents` (batch, beams) of its sentence."""
        if not self.alone:
            self.visible = self.visible.gather(1, parents[..., None].expand(-1, -1, self.visible.shape[2]))
            if self.visible.shape[2] >= self.forget_at:
                self.forget()
            self.visible = torch.cat((self.visible, self.own.expand(len(tokens), -1, -1)), dim=2)
        logits = self.forward(tokens, self.next_position, None if self.alone else self.visible, slice(None))
        self.next_position = self.next_position + 1
        return logits

    def forget(self) -> None:
        """Drops the tokens that no hypothesis descends from; where sentences have different numbers of the others, the
        rest stays, unseen."""
        seen = self.visible.any(1)
        columns = seen.long().argsort(dim=1, descending=True, stable=True)[:, : int(seen.sum(1).max())]
        for cache in self.past:
            cache.take(columns)
        self.visible = self.visible.gather(2, columns[:, None].expand(-1, self.visible.shape[1], -1))
        self.forget_at = max(FORGET, 2 * columns.shape[1])

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all sentences but those at `rows`."""
        for cache in self.past:
            cache.keep(rows)
        self.source = [[states[rows] for states in layer] for layer in self.source]
        self.visible, self.next_position = self.visible[rows], self.next_position[rows]
        self.source_mask = None if self.source_mask is None else self.source_mask[rows]


# Scores


def best(scores: torch.Tensor, count: int, chunk: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """`scores.topk(count)` of (rows, many), faster: the best are in the chunks whose own best are."""
    whole = scores.shape[1] // chunk * chunk
    if whole <= 4 * chunk * count:
        return scores.topk(count)
    chunks = scores[:, :whole].unflatten(1, (-1, chunk))
    chosen = chunks.amax(2).topk(count)[1]
    candidates = chunks.gather(1, chosen[..., None].expand(-1, -1, chunk)).flatten(1)
    indices = (chosen[..., None] * chunk + torch.arange(chunk, device=scores.device)).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    values, where = torch.cat((candidates, scores[:, whole:]), dim=1).topk(count)
    return values, torch.cat((indices, rest), dim=1).gather(1, where)


@dataclass
class LengthPenalty:
    """What the log-probability of a hypothesis is divided by: ((5 + length) / 6)^alpha (Wu et al., 2016, eq. 14), or
    as transformers has it, length^alpha. The length is that of the generated tokens, its end included."""

    alpha: float
    form: str

    def __call__(self, length: Any) -> Any:
        """For one length, or a tensor of them."""
        return length**self.alpha if self.form == "transformers" else ((5 + length) / 6) ** self.alpha


@dataclass
class Finished:
    """The best finished hypotheses of each sentence, best first.

    Attributes:
        sequences: token ids (batch, beams, length), padded on the right.
        origins: which hypothesis each of their generated tokens continued (batch, beams, generated), or -1.
        scores: log-probability over length penalty (batch, beams).
        lengths: generated tokens (batch, beams); 0 for a hypothesis that there is not.
        closed: sentences (batch) that take no more.
    """

    sequences: torch.Tensor
    origins: torch.Tensor
    scores: torch.Tensor
    lengths: torch.Tensor
    closed: torch.Tensor

    @classmethod
    def none(cls, prompts: torch.Tensor, beams: int) -> "Finished":
        """For sentences that begin with `prompts` (batch, prompt)."""
        numbers = torch.zeros(len(prompts), beams, dtype=torch.int64, device=prompts.device)
        scores = torch.full(numbers.shape, NONE, device=prompts.device)
        return cls(
            prompts[:, None].expand(-1, beams, -1), numbers[..., None][..., :0], scores, numbers, numbers[:, 0] > 0
        )

    @property
    def full(self) -> torch.Tensor:
        """Sentences (batch) with as many as can be."""
        return self.lengths.all(1)

    def add(
        self, sequences: torch.Tensor, origins: torch.Tensor, scores: torch.Tensor, ended: torch.Tensor, padding: int
    ) -> None:
        """Takes those (batch, new) of `sequences` (batch, new, length) that have `ended`, where they are better."""
        beams = self.scores.shape[1]
        new = torch.where(ended & ~self.closed[:, None], scores, NONE)
        self.scores, chosen = torch.cat((self.scores, new), dim=1).topk(beams)
        lengths = torch.where(new > NONE, origins.shape[2], 0)
        self.lengths = torch.cat((self.lengths, lengths), dim=1).gather(1, chosen)
        self.sequences = along(torch.cat((F.pad(self.sequences, (0, 1), value=padding), sequences), dim=1), chosen)
        self.origins = along(torch.cat((F.pad(self.origins, (0, 1), value=-1), origins), dim=1), chosen)

    def rows(self, rows: torch.Tensor) -> "Finished":
        """Those of some sentences."""
        return Finished(
            *(value[rows] for value in (self.sequences, self.origins, self.scores, self.lengths, self.closed))
        )


def along(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(batch, many, length) at `indices` (batch, few) of its second dimension: (batch, few, length)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


# The search


class NotServed(ValueError):
    """What [`beam_search`] does not do."""


def check(
    model: Any, config: GenerationConfig, synced_gpus: bool, form: str, max_extra_tokens: int | None, inputs: Any
) -> None:
    """Raises [`NotServed`] for what `beam_search` does not do, and `ValueError` for what nobody can."""
    cache = inputs.get("past_key_values")
    positions = ("decoder_position_ids",) if model.config.is_encoder_decoder else ("inputs_embeds",)
    unknown = [name for name in ("decoder_inputs_embeds", *positions) if inputs.get(name) is not None]
    refused = {
        "it does not sample: leave out `do_sample`, or `custom_generate`": config.do_sample,
        "it cannot give attentions or hidden states: pass its sequences to `forward`": (
            config.output_attentions or config.output_hidden_states
        ),
        "it does not run on parameters that are sharded (`synced_gpus`): leave out `custom_generate`": synced_gpus,
        f"`length_penalty_form` must be 'paper' or 'transformers', got {form!r}": form
        not in ("paper", "transformers"),
        "`num_return_sequences` must not exceed `num_beams`": config.num_return_sequences > config.num_beams,
        "it begins with a cache of its own: leave out `past_key_values`": (
            cache is not None and cache.get_seq_length() > 0
        ),
        "`max_extra_tokens` counts from the length of a source, and this model has none": (
            max_extra_tokens is not None and not model.config.is_encoder_decoder
        ),
        f"it does not take {' and '.join(unknown)}": bool(unknown),
        "`max_extra_tokens` must be at least 1": max_extra_tokens is not None and max_extra_tokens < 1,
        "`num_beams` must be at least 1": config.num_beams < 1,
        "it does not work with guidance scale, which doubles the batch": (config.guidance_scale or 1) != 1,
    }
    for reason, applies in refused.items():
        if applies:
            raise NotServed(f"beam_search: {reason}.")


def is_known(criterion: StoppingCriteria, config: GenerationConfig) -> bool:
    """Whether it is one that `generate` made from the generation config, which the search follows itself."""
    if isinstance(criterion, MaxLengthCriteria):
        return criterion.max_length == config.max_length
    ends = config._eos_token_tensor
    return isinstance(criterion, EosTokenCriteria) and ends is not None and torch.equal(criterion.eos_token_id, ends)


def of_sentences(value: Any, rows: slice) -> Any:
    """What `generate` repeated for each hypothesis, once for each sentence."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return value[rows]
    if isinstance(value, (tuple, list, dict)):
        each = value.values() if isinstance(value, dict) else value
        return tuple(of_sentences(part, rows) for part in each if part is not None)
    return value


@torch.no_grad()
def beam_search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    length_penalty_form: str | None = None,
    max_extra_tokens: int | None = None,
    incremental_decoder: Any = None,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """Searches for the most probable continuation, by `model.generate(..., custom_generate=beam_search)`.

    Of the generation config, it follows `num_beams` (1 is greedy search), `length_penalty` (alpha), `early_stopping`,
    `num_return_sequences`, the lengths, and all that works by logits processors or stopping criteria. Unless
    `early_stopping=True` ends a sentence once `num_beams` hypotheses are finished, it goes on until no open hypothesis
    can still be among the best `num_return_sequences`: the search is exact but for its beam.

    A `streamer` cannot be served: transformers does not pass it on to a function of one's own.

    Args:
        model: of the seq2seq, the decoder or the recurrent family.
        input_ids: what the hypotheses begin with, (batch * beams, prompt): those of a sentence alike.
        logits_processor: applied to the log-probabilities, as in transformers' beam search.
        stopping_criteria: asked about each continuation.
        generation_config: as `generate` completed it.
        synced_gpus: not supported.
        length_penalty_form: "paper", ((5 + length) / 6)^alpha; or "transformers", length^alpha with the rules of
            transformers' own beam search for when a sentence is done. If not given, that of the generation config,
            which converted checkpoints have, or else the paper's.
        max_extra_tokens: at most so many tokens more than the sentence's source has (the paper: 50), besides
            `max_length`, for each sentence by itself; seq2seq only.
        incremental_decoder: the model's, by [`make_incremental`], to use again; made for this call if not given.
        model_kwargs: the model's inputs, each sentence's repeated for its beams.

    Returns:
        Token ids (batch * num_return_sequences, length), padded on the right; or, with `return_dict_in_generate`, a
        structure with `sequences_scores` and `beam_indices`, and on demand `scores` and `logits` by step.

    Raises:
        NotServed: a `ValueError`, for sampling and what else it does not do.
    """
    config = generation_config
    form: Any = length_penalty_form or getattr(config, "length_penalty_form", "paper")
    check(model, config, synced_gpus, form, max_extra_tokens, model_kwargs)
    beams, returned, alpha = config.num_beams, config.num_return_sequences, config.length_penalty
    penalty = LengthPenalty(alpha, form)
    inputs = {name: of_sentences(value, slice(None, None, beams)) for name, value in model_kwargs.items()}
    prompts = input_ids[::beams]
    device = prompts.device

    limits = torch.full((len(prompts), 1), config.max_length - prompts.shape[1], device=device)
    if max_extra_tokens is not None:
        mask = inputs.get("attention_mask")
        sources = inputs["encoder_outputs"][0].shape[1] if mask is None else mask.sum(1, keepdim=True)
        limits = limits.clamp(max=sources + max_extra_tokens)
    ends = config._eos_token_tensor
    padding = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
    criteria = StoppingCriteriaList(c for c in stopping_criteria if not is_known(c, config))
    # Enough that as many are open as there are beams, even if all others end.
    candidates = beams * max(2, 1 + (0 if ends is None else len(ends)))
    records = config.return_dict_in_generate and (config.output_scores or config.output_logits)
    # Processors and criteria may count sentences from the first.
    numbered = records or logits_processor or criteria
    all_scores: tuple[torch.Tensor, ...] = ()
    all_logits: tuple[torch.Tensor, ...] = ()

    active = torch.arange(len(prompts), device=device)
    finished = Finished.none(prompts, beams)
    results: list[Any] = [None] * len(prompts)
    hypotheses, origins, scores = finished.sequences, finished.origins, finished.scores.clone()
    scores[:, 0] = 0
    decoder = incremental_decoder or make_incremental(model)
    state = decoder.begin(prompts, beams, prompts.shape[1] + int(limits.max()), inputs)
    del inputs
    logits = state.logits.repeat(1, beams, 1)
    while True:
        length = origins.shape[2] + 1
        # The best continuations of each hypothesis, and of these the best of each sentence.
        logits = logits.flatten(0, 1)
        if logits_processor or records:
            # Those of a greedy search work on logits, as in transformers.
            given: Any = logits if beams == 1 else logits.log_softmax(1)
            steps: Any = logits_processor(hypotheses.flatten(0, 1), given)  # type: ignore[arg-type]
            all_scores += (steps,) if records and config.output_scores else ()
            all_logits += (logits,) if records and config.output_logits else ()
            steps = steps.log_softmax(1) if beams == 1 else steps
            values, tokens = best(steps, min(candidates, steps.shape[1]))
        else:
            values, tokens = best(logits, min(candidates, logits.shape[1]))
            # The logarithm of the sum of exponentials, in place: a copy of the logits takes longer than the sum.
            most = values[:, :1].clone()
            values = values - most - logits.sub_(most).exp_().sum(1, keepdim=True).log()
        tokens = tokens.view(len(active), -1)
        total, chosen = (values + scores.view(-1, 1)).view(len(active), -1).topk(min(candidates, tokens.shape[1]))
        parents, tokens = chosen // values.shape[1], tokens.gather(1, chosen)
        sequences = torch.cat((along(hypotheses, parents), tokens[..., None]), dim=2)
        chains = torch.cat((along(origins, parents), (active[:, None] * beams + parents)[..., None]), dim=2)

        ended = (length >= limits).expand_as(tokens)
        ended = ended if ends is None else ended | torch.isin(tokens, ends)
        if criteria:
            ended = ended | criteria(sequences.flatten(0, 1), all_scores or None).view_as(ended)
        top = slice(beams)  # the others are there to go on in the place of those that have ended
        over = ended & (total > NONE / 2)  # not of those that there are not
        finished.add(sequences[:, top], chains[:, top], (total / penalty(length))[:, top], over[:, top], padding)
        scores, kept = (total + NONE * ended).topk(beams)
        hypotheses, origins = along(sequences, kept), along(chains, kept)
        tokens, parents = tokens.gather(1, kept), parents.gather(1, kept)

        if beams == 1 or config.early_stopping is True:
            done = finished.full
        else:
            # With a penalty, what an open hypothesis can reach is its score if more tokens were to cost nothing.
            exact = form == "paper" or config.early_stopping == "never"
            reachable = scores[:, :1] / penalty(limits if exact and alpha > 0 else torch.full_like(limits, length))
            worst = finished.scores[:, beams - 1 if form == "transformers" else returned - 1]
            done = worst >= reachable.squeeze(1)
        finished.closed = finished.closed | done | ended.all(1)
        leaving = int(finished.closed.sum())
        if leaving == len(active) or (leaving >= LEAVE * len(active) and not numbered):
            for row in finished.closed.nonzero().squeeze(1):
                results[int(active[row])] = finished.rows(row[None])
            if leaving == len(active):
                break
            rest = (~finished.closed).nonzero().squeeze(1)
            state.keep(rest)
            active, limits, finished = active[rest], limits[rest], finished.rows(rest)
            hypotheses, origins, scores = hypotheses[rest], origins[rest], scores[rest]
            tokens, parents = tokens[rest], parents[rest]
        logits = state.step(tokens, parents)
    return output(results, model, config, all_scores, all_logits, padding)


def output(
    results: list[Finished],
    model: Any,
    config: GenerationConfig,
    all_scores: tuple[torch.Tensor, ...],
    all_logits: tuple[torch.Tensor, ...],
    padding: int,
) -> torch.Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """The best of each sentence, as transformers returns them."""
    top = slice(config.num_return_sequences)
    lengths = torch.cat([result.lengths[0, top] for result in results])
    prompt = results[0].sequences.shape[2] - results[0].origins.shape[2]

    def together(rows: list[torch.Tensor], width: int, value: int) -> torch.Tensor:
        return torch.cat([F.pad(row[0, top], (0, width - row.shape[2]), value=value) for row in rows])

    longest = int(lengths.max())
    sequences = together([result.sequences for result in results], prompt + longest, padding)
    beyond = torch.arange(prompt + longest, device=lengths.device) >= prompt + lengths[:, None]
    sequences = sequences.masked_fill(beyond, padding)
    if not config.return_dict_in_generate:
        return sequences
    fields: dict[str, Any] = {
        "sequences": sequences,
        "sequences_scores": torch.cat([result.scores[0, top] for result in results]),
        "beam_indices": together([result.origins for result in results], longest, -1).masked_fill(
            beyond[:, prompt:], -1
        ),
        "scores": all_scores or None,
        "logits": all_logits or None,
    }
    seq2seq = model.config.is_encoder_decoder
    return GenerateBeamEncoderDecoderOutput(**fields) if seq2seq else GenerateBeamDecoderOnlyOutput(**fields)


def generate(*inputs: Any, model: Any, **arguments: Any) -> Any:
    """What a checkpoint with this code makes of `model.generate`: [`beam_search`], where it serves what is asked for.

    transformers calls it for models loaded with `trust_remote_code=True`, and for `custom_generate=NAME`.
    """
    own = type(model).generate
    config = arguments.get("generation_config") or model.generation_config
    beams = arguments.get("num_beams") or config.num_beams or 1
    if beams > 1 and arguments.get("streamer") is None and arguments.get("custom_generate") is None:
        try:
            return own(model, *inputs, **{**arguments, "custom_generate": beam_search})
        except NotServed:
            pass
    return own(model, *inputs, **arguments)
