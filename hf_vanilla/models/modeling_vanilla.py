"""The Transformer of "Attention Is All You Need" (Vaswani et al., 2017, arXiv:1706.03762), in the paper's order:
positions, attention, feed-forward, layers, stacks, models, heads. Sections and equations are those of the paper.

Shapes: batch, source and target are sizes of a batch, its sources and its targets; length is either of the latter.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .checks_vanilla import check_ids, check_source, embed_inputs
from .configuration_vanilla import FamilyConfig, VanillaBaseConfig, VanillaConfig
from .losses_vanilla import find_read, logits_and_loss, make_output, returns_logits
from .masks_vanilla import default_positions, mask_of_cross_attention, mask_of_self_attention
from .pretrained_vanilla import EncoderDecoderPreTrainedModel, FamilyPreTrainedModel
from .unpadding_vanilla import (
    AttentionMask,
    Dropout,
    RowLengths,
    attend,
    find_unpadding,
    widest_float,
)

# The field that holds the depth of a decoder, which versions of transformers after 5.17 ask for.
DEPTH: Any = {"num_hidden_layers_key": "decoder_layers"}
DEPTH = DEPTH if "num_hidden_layers_key" in OutputRecorder.__dataclass_fields__ else {}

# Positions (section 3.5)


class SinusoidalPositionalEmbedding(nn.Module):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)) and PE(pos, 2i + 1) = cos(the same) (section 3.5).

    Computed for the positions asked for, not looked up: there is no upper length and no buffer to restore.

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaConfig
        >>> from hf_vanilla.models.modeling_vanilla import SinusoidalPositionalEmbedding
        >>> SinusoidalPositionalEmbedding(VanillaConfig(d_model=4, h=1))(torch.tensor([[0, 1]]))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
                 [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.hidden_size = config.hidden_size
        # CODEPATH: in Marian, all sines come before all cosines; the paper has them in turn.
        self.halves = config.position_embedding_type == "sinusoidal_halves"

    def forward(self, position_ids: Tensor) -> Tensor:
        """Return float32 encodings (batch or 1, length, hidden_size) of positions (batch or 1, length)."""
        dtype = widest_float(position_ids.device)  # in float32 the angle of position 10,000 would be off by 0.0005
        two_i = torch.arange(0, self.hidden_size, 2, dtype=dtype, device=position_ids.device)
        angles = position_ids[..., None].to(dtype) * 10000.0 ** (-two_i / self.hidden_size)
        waves = (angles.sin(), angles.cos())
        return (torch.cat(waves, dim=-1) if self.halves else torch.stack(waves, dim=-1).flatten(-2)).float()


class LearnedPositionalEmbedding(nn.Embedding):
    """One learned vector for each position (section 3.5 and Table 3 (E)), behind those rows that belong to none."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config.max_position_embeddings + config.position_offset, config.hidden_size)


# Attention (section 3.2)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    r"""Scaled dot-product attention (eq. 1): Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V.

    The scores of hidden positions are lowered to the smallest float32 before the softmax, which is taken in float32: a
    row that sees nothing gets equal weights, never NaN.

    Worked example, one head, d_k = d_v = 4, "I love play game", where each word's vectors are those of the word before
    it plus 0.1: Q_I = [.1 .2 .3 .4], K_I = [.5 .6 .7 .8], V_I = [.9 1. 1.1 1.2]. The first score is
    Q_I . K_I = .1 × .5 + .2 × .6 + .3 × .7 + .4 × .8 = .70, and each next key adds .1 × (.1 + .2 + .3 + .4) = .1:
    .70, .80, .90, 1.00. Divided by sqrt(4): .35, .40, .45, .50. Their softmax, how much "I" looks at each word:
    .2316, .2434, .2559, .2691, which add up to 1.
    The output for "I" is V_I plus .1 × (0 × .2316 + 1 × .2434 + 2 × .2559 + 3 × .2691) = .1562:
    [1.0562 1.1562 1.2562 1.3562].

    Args:
        module: the attention module that calls.
        query, key, value: Q (batch, heads, length, d_k), K (batch, heads, key length, d_k) and V (the same, d_v).
        attention_mask: added to the scores, or boolean and true where a query may look,
            (batch or 1, heads or 1, length, key length).
        scaling: 1 / sqrt(d_k).
        dropout: probability with which a weight is dropped, 0 outside of training.
        kwargs: arguments of other implementations, not used here.

    Returns:
        The output (batch, length, heads, d_v) and the weights (batch, heads, length, key length).
    """
    scores = torch.matmul(query, key.transpose(-2, -1)) * scaling
    if attention_mask is not None:
        lowest = torch.finfo(torch.float32).min
        if attention_mask.dtype == torch.bool:
            scores = scores.float().masked_fill(~attention_mask, lowest)
        else:
            scores = (scores.float() + attention_mask).clamp(min=lowest)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout)
    return torch.matmul(weights, value).transpose(1, 2), weights


class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V) (3.2.2).

    Its three uses (3.2.3): the encoder looks at itself; the decoder looks at itself up to the present position
    (`is_causal`); the decoder looks at the encoder (`encoder_hidden_states` are given).

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaConfig
        >>> from hf_vanilla.models.modeling_vanilla import MultiHeadAttention
        >>> attention = MultiHeadAttention(VanillaConfig(d_model=16, h=2), layer_idx=0)
        >>> output, weights = attention(torch.zeros(1, 5, 16), output_attentions=True)
        >>> output.shape, weights.shape  # weights: (batch, heads, length, key length)
        (torch.Size([1, 5, 16]), torch.Size([1, 2, 5, 5]))
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        heads = config.num_attention_heads
        self.qk_head_dim = config.qk_head_dim or config.hidden_size // heads
        self.v_head_dim = config.v_head_dim or config.hidden_size // heads
        self.scaling = self.qk_head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, heads * self.qk_head_dim)
        self.k_proj = nn.Linear(config.hidden_size, heads * self.qk_head_dim)
        self.v_proj = nn.Linear(config.hidden_size, heads * self.v_head_dim)
        self.o_proj = nn.Linear(heads * self.v_head_dim, config.hidden_size)
        self.dropout = Dropout(config.attention_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: AttentionMask = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from `hidden_states` (batch, length, hidden_size) to `encoder_hidden_states` (batch, source,
        hidden_size) if these are given, or else to themselves and what is cached of their past.

        Return the output, of the shape of `hidden_states`, and the weights (batch, heads, length, key length) if the
        implementation gives them, as it always does with `output_attentions=True`.
        """
        shape = hidden_states.shape[:-1]
        query = self.q_proj(hidden_states).view(*shape, -1, self.qk_head_dim).transpose(1, 2)
        states = (query, *self.keys_and_values(hidden_states, encoder_hidden_states, past_key_values), attention_mask)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout
        options = {"dropout": dropout.p if dropout.training else 0.0, "scaling": self.scaling, **kwargs}
        output, weights = attend(function, eager_attention_forward, self, *states, **options)
        return self.o_proj(output.reshape(*shape, -1)), weights

    def keys_and_values(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None, past_key_values: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """Return keys (batch, heads, key length, d_k) and values (batch, heads, key length, d_v), through the cache if
        there is one: those of the encoder are projected once and then read from it."""
        cache: Any = past_key_values
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if isinstance(past_key_values, EncoderDecoderCache):
            cache = past_key_values.self_attention_cache
            if encoder_hidden_states is not None:
                cache = past_key_values.cross_attention_cache
                if past_key_values.is_updated.get(self.layer_idx):
                    return cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
                past_key_values.is_updated[self.layer_idx] = True
        key = self.k_proj(source).view(*source.shape[:-1], -1, self.qk_head_dim).transpose(1, 2)
        value = self.v_proj(source).view(*source.shape[:-1], -1, self.v_head_dim).transpose(1, 2)
        return (key, value) if cache is None else cache.update(key, value, self.layer_idx)


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 (eq. 2), at each position alike."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.activation_function]
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(hidden_states))))


# Layers (section 3.1)


class AddNorm(nn.LayerNorm):
    """LayerNorm(x + Dropout(Sublayer(x))) (sections 3.1 and 5.4), or pre-norm: x + Dropout(Sublayer(LayerNorm(x)))."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config.hidden_size, eps=config.layer_norm_eps)
        self.norm_position = config.norm_position
        self.dropout = Dropout(config.dropout)

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return `hidden_states` (batch, length, hidden_size) after `sublayer`, which keeps their shape, too."""
        normalize = super().forward
        # CODEPATH: GPT-2 is pre-norm; the paper, BERT, Marian and BART are post-norm.
        if self.norm_position == "pre":
            return hidden_states + self.dropout(sublayer(normalize(hidden_states)))
        return normalize(hidden_states + self.dropout(sublayer(hidden_states)))


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention, then feed-forward (section 3.1; figure 1, left)."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.self_attention = MultiHeadAttention(config, layer_idx)
        self.self_attention_norm = AddNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = AddNorm(config)

    def forward(
        self, hidden_states: Tensor, attention_mask: AttentionMask = None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        """Return the states (batch, source, hidden_size) after this layer."""
        hidden_states = self.self_attention_norm(
            hidden_states, lambda x: self.self_attention(x, attention_mask=attention_mask, **kwargs)[0]
        )
        return self.feed_forward_norm(hidden_states, lambda x: self.feed_forward(x))


class DecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, attention to the encoder's output, which the decoder-only family lacks, then
    feed-forward (section 3.1; figure 1, right)."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.self_attention = MultiHeadAttention(config, layer_idx, is_causal=True)
        self.self_attention_norm = AddNorm(config)
        # CODEPATH: Marian and BART have an encoder, GPT-2 has none.
        if config.is_encoder_decoder:
            self.cross_attention = MultiHeadAttention(config, layer_idx)
            self.cross_attention_norm = AddNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = AddNorm(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: AttentionMask = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: AttentionMask = None,
        past_key_values: Cache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """Return the states (batch, target, hidden_size) after this layer. `position_ids` are for implementations of
        attention that look for packed documents by themselves."""

        def look_back(x: Tensor) -> Tensor:
            return self.self_attention(
                x,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )[0]

        def look_at_source(x: Tensor) -> Tensor:
            return self.cross_attention(
                x,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )[0]

        hidden_states = self.self_attention_norm(hidden_states, look_back)
        if encoder_hidden_states is not None:
            hidden_states = self.cross_attention_norm(hidden_states, look_at_source)
        return self.feed_forward_norm(hidden_states, lambda x: self.feed_forward(x))


# Stacks (sections 3.1, 3.4 and 3.5)


class VanillaBasePreTrainedModel(FamilyPreTrainedModel):
    """What the Transformer's models share: initial weights, and what transformers asks of its attention."""

    config: VanillaBaseConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Weights as `initializer` says; biases 0; norms the identity. The paper does not say.

        In pre-norm stacks that start "normal", the matrix that ends each of n sub-layers starts smaller by sqrt(n), as
        in GPT-2: no norm keeps the sum of so many from drowning the embeddings.
        """
        super()._init_weights(module)
        # CODEPATH: the authors' code starts by Xavier's rule; BERT, GPT-2, Marian and BART start normal.
        if self.config.initializer == "xavier":
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Embedding):
                init.normal_(module.weight, std=module.embedding_dim**-0.5)
        # CODEPATH: GPT-2 is pre-norm; the paper, BERT, Marian and BART are post-norm.
        elif self.config.norm_position == "pre" and isinstance(module, nn.Linear):
            # transformers calls this with the stack as `self`, for each of its modules.
            last = [each.o_proj for each in self.modules() if isinstance(each, MultiHeadAttention)]
            last += [each.linear2 for each in self.modules() if isinstance(each, FeedForward)]
            if module in last:
                init.normal_(module.weight, std=self.config.initializer_range / len(last) ** 0.5)
        if isinstance(module, AddNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class VanillaStack(VanillaBasePreTrainedModel):
    """What encoder and decoder share: embeddings and positions, N layers, and a final norm if they are pre-norm.

    Arguments of `forward`:
        input_ids: token ids (batch, length); or else `inputs_embeds` (batch, length, hidden_size), not yet scaled.
        attention_mask: 1 for tokens, 0 for padding (batch, length), in a decoder (batch, cached + length).
        position_ids: absolute positions (batch or 1, length); if not given 0, 1, 2, ... after the cached ones. Where
            they restart within a row, another document begins: documents do not look at each other.
        label_mask: true at positions whose output is read (batch, length). With it, a training step may leave others
            out, whose output is then 0: padding, and in a decoder what comes after the last of a row.
        row_lengths: how many tokens each row begins with, before padding alone, {"source": ints (batch,), "target":
            the same}, for the stacks that there are. Only with it can a training step on a GPU leave padding out.
        kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, arguments of attention implementations.
    """

    def __init__(self, config: VanillaBaseConfig, layers: list[nn.Module]):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        # CODEPATH: BERT and RoBERTa have token types; the paper, DistilBERT and the other families have none.
        types = getattr(config, "type_vocab_size", 0)
        self.embed_token_types = nn.Embedding(types, config.hidden_size) if types else None
        learned = config.position_embedding_type == "learned"
        self.embed_positions = (LearnedPositionalEmbedding if learned else SinusoidalPositionalEmbedding)(config)
        self.embedding_norm = (
            # CODEPATH: BERT and BART normalise the embeddings; the paper, GPT-2 and Marian do not.
            nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.embedding_norm else nn.Identity()
        )
        # CODEPATH: BERT, GPT-2 and BART do not scale; the paper and Marian do.
        self.embedding_scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(layers)
        # CODEPATH: GPT-2 is pre-norm and ends in a norm; the paper, BERT, Marian and BART are post-norm. What is
        # post-norm and ends in a norm all the same is `torch.nn.Transformer`.
        has_norm = config.norm_position == "pre" if config.final_norm is None else config.final_norm
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if has_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def init_parallel_plans(self) -> None:
        """As in transformers, but none for the stacks of an encoder-decoder, whose own plans name both."""
        super().init_parallel_plans()
        if self.config.is_encoder_decoder:
            self._tp_plan, self._fsdp_plan = {}, {}

    def is_first_stage(self) -> bool:
        """Return False where another process holds the first layer, and `inputs_embeds` are its states: engines that
        share layers out replace those of other processes by modules without weights."""
        return next(self.layers[0].parameters(), None) is not None

    def embed(self, inputs_embeds: Tensor, position_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return embeddings (batch, length, hidden_size) scaled (section 3.4), plus positions (3.5), after dropout
        (5.4). In models that have token types (batch or 1, length), which are 0 if not given, theirs are added."""
        hidden_states = inputs_embeds * self.embedding_scale
        if token_type_ids is not None:
            if token_type_ids.shape not in ((1, inputs_embeds.shape[1]), inputs_embeds.shape[:2]):
                expected = f"{tuple(inputs_embeds.shape[:2])} like the tokens"
                raise ValueError(f"`token_type_ids` must be {expected}, got {tuple(token_type_ids.shape)}.")
            types = getattr(self.config, "type_vocab_size", 0)
            check_ids(token_type_ids, max(1, types), "token_type_ids", "type_vocab_size, or 1 without any")
        if self.embed_token_types is not None:
            types_of = torch.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            hidden_states = hidden_states + self.embed_token_types(types_of)
        # CODEPATH: BERT, BART and GPT-2 have a table of positions; the paper and Marian compute them.
        if self.config.position_embedding_type == "learned":
            table_size: Any = self.config.max_position_embeddings
            check_ids(position_ids, table_size, "position_ids", "max_position_embeddings")
            # Added here and not by the table, for adapters stand around that.
            position_ids = position_ids + self.config.position_offset
        hidden_states = hidden_states + self.embed_positions(position_ids).to(inputs_embeds)
        return self.dropout(self.embedding_norm(hidden_states))


class VanillaEncoder(VanillaStack):
    """The encoder stack (section 3.1). Its `forward` takes, beside the arguments of [`VanillaStack`], `token_type_ids`
    (batch or 1, length): such as the sentence of a pair, 0 or 1, that a token is of; 0 if not given; and
    `past_key_values`, keys and values of a prefix, which all tokens see and which adapters learn."""

    _can_record_outputs = {"hidden_states": EncoderLayer, "attentions": OutputRecorder(MultiHeadAttention, index=1)}

    def __init__(self, config: VanillaBaseConfig):
        super().__init__(config, [EncoderLayer(config, i) for i in range(config.encoder_layers)])

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        label_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        row_lengths: RowLengths | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput | BaseModelOutputWithPooling:
        """Encode a batch; see [`VanillaStack`] for the arguments.

        Raises:
            ValueError: for ids or token types that there are not, a mask of another shape, neither or both inputs.
        """
        past_length = None if past_key_values is None else past_key_values.get_seq_length()
        inputs = (input_ids, inputs_embeds, attention_mask, position_ids)
        inputs_embeds = embed_inputs(self, "", *inputs, past_length)
        label_mask = label_mask if past_key_values is None else None  # a prefix is no token of the batch
        options = {**kwargs, "position_ids": position_ids}
        unpadding = find_unpadding(self, inputs_embeds, attention_mask, label_mask, options, row_lengths)
        mask = mask_of_self_attention(
            self.config, inputs_embeds, attention_mask, position_ids, kwargs, unpadding, cache=past_key_values
        )
        if position_ids is None:
            position_ids = default_positions(inputs_embeds, kwargs, past_length)
        hidden_states = inputs_embeds
        if self.is_first_stage():
            hidden_states = self.embed(inputs_embeds, position_ids, token_type_ids)
        hidden_states = unpadding.remove(hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, mask, position_ids=position_ids, past_key_values=past_key_values, **kwargs
            )
        return self.output(unpadding.restore(self.norm(hidden_states)))

    def output(self, hidden_states: Tensor) -> BaseModelOutput | BaseModelOutputWithPooling:
        """Return what `forward` does, from the last states (batch, source, hidden_size)."""
        return BaseModelOutput(last_hidden_state=hidden_states)


class VanillaDecoder(VanillaStack):
    """The decoder stack (section 3.1); without its attention to an encoder in the decoder-only family.

    Its `forward` takes, beside the arguments of [`VanillaStack`]:
        encoder_hidden_states: the encoder's output (batch, source, hidden_size).
        encoder_attention_mask: 1 for tokens, 0 for padding (batch, source).
        past_key_values: keys and values of the tokens before.
        use_cache: whether to return `past_key_values`.
    """

    _can_record_outputs = {
        "hidden_states": OutputRecorder(DecoderLayer, **DEPTH),
        "attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: VanillaBaseConfig):
        super().__init__(config, [DecoderLayer(config, i) for i in range(config.decoder_layers)])

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        label_mask: Tensor | None = None,
        row_lengths: RowLengths | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode a batch, or its next tokens after those of `past_key_values`; see the class for the arguments.

        Raises:
            ValueError: for ids outside of the vocabulary, a mask of another shape, neither or both kinds of input,
                and without the encoder's output, or with one that this family does not look at.
        """
        has_source = encoder_hidden_states is not None
        if has_source != self.config.is_encoder_decoder:
            needs = "has no cross-attention and takes no" if has_source else "needs"
            raise ValueError(f"{type(self).__name__} {needs} `encoder_hidden_states`.")
        past_length = None if past_key_values is None else past_key_values.get_seq_length()
        # What the target's arguments are called depends on whether there are those of a source, too.
        inputs = ("decoder_" if has_source else "", input_ids, inputs_embeds, attention_mask, position_ids)
        inputs_embeds = embed_inputs(self, *inputs, past_length)
        past_key_values = self.prepare_cache(past_key_values, use_cache)
        cache = getattr(past_key_values, "self_attention_cache", past_key_values)
        label_mask = label_mask if past_key_values is None else None  # every position is cached
        given = (inputs_embeds, attention_mask, label_mask, {**kwargs, "position_ids": position_ids}, row_lengths)
        unpadding = find_unpadding(self, *given, is_causal=True, side="target")
        mask = mask_of_self_attention(
            self.config, inputs_embeds, attention_mask, position_ids, kwargs, unpadding, is_causal=True, cache=cache
        )
        if position_ids is None:
            position_ids = default_positions(inputs_embeds, kwargs, past_length)
        hidden_states = self.embed(inputs_embeds, position_ids) if self.is_first_stage() else inputs_embeds
        hidden_states = unpadding.remove(hidden_states)
        source_mask: AttentionMask = None
        if encoder_hidden_states is not None:
            check_source(encoder_hidden_states, encoder_attention_mask, inputs_embeds)
            tokens = None if label_mask is None else encoder_attention_mask
            source = (encoder_hidden_states, encoder_attention_mask)
            source_unpadding = find_unpadding(self, *source, tokens, kwargs, row_lengths)
            source_mask = mask_of_cross_attention(
                self.config, inputs_embeds, *source[::-1], kwargs, unpadding, source_unpadding
            )
            encoder_hidden_states = source_unpadding.remove(encoder_hidden_states)
        passed: dict[str, Any] = {"past_key_values": past_key_values, "position_ids": position_ids, **kwargs}
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, encoder_hidden_states, source_mask, **passed)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=unpadding.restore(self.norm(hidden_states)),
            past_key_values=past_key_values if use_cache else None,
        )

    def prepare_cache(self, past_key_values: Cache | None, use_cache: bool | None) -> Cache | None:
        """Return the given cache, or a new one if `use_cache`; with an encoder, a pair of caches."""
        cache = DynamicCache(config=self.config) if past_key_values is None and use_cache else past_key_values
        if cache is None or not self.config.is_encoder_decoder or isinstance(cache, EncoderDecoderCache):
            return cache
        return EncoderDecoderCache(cache, DynamicCache(config=self.config))


# Models (section 3, figure 1)


# trf-ignore: TRF013 (each family's model calls `post_init`)
class EncoderDecoderModel(EncoderDecoderPreTrainedModel):
    """An encoder and a decoder, which looks at the encoder's output, without the projection to the vocabulary."""

    _tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}

    def __init__(self, config: FamilyConfig, encoder: PreTrainedModel, decoder: PreTrainedModel):
        super().__init__(config)
        self.encoder = encoder
        self.decoder = decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)
        if self.config.tie_word_embeddings:
            self.decoder.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        label_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """Encode a source, unless `encoder_outputs` are given, and decode a target.

        Args:
            input_ids: source ids (batch, source), or else `inputs_embeds` (batch, source, hidden_size), unscaled.
            attention_mask: 1 for source tokens, 0 for padding (batch, source).
            decoder_input_ids: target ids (batch, target), or else `decoder_inputs_embeds`; with neither, the source's
                ids shifted right, as in BART, so that features of a text can be had from the text alone.
            decoder_attention_mask: 1 for target tokens, 0 for padding (batch, cached + target).
            encoder_outputs: what the encoder returned for this source.
            past_key_values: what the decoder keeps of the target's tokens before.
            position_ids, decoder_position_ids: absolute positions; 0, 1, 2, ... if not given.
            use_cache: whether to return `past_key_values`.
            label_mask: true at positions of the target whose output is read (batch, target). With it, a training step
                may leave others out, whose output is then 0.
            kwargs: `row_lengths`, see [`VanillaStack`]; `output_hidden_states`, `output_attentions`, `return_dict`,
                arguments of attention implementations.

        Raises:
            ValueError: for ids outside of the vocabulary, masks of another shape, neither or both kinds of an input.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                label_mask=None if label_mask is None else attention_mask,
                **kwargs,
            )
        encoded = BaseModelOutput(*encoder_outputs) if isinstance(encoder_outputs, tuple) else encoder_outputs
        if decoder_input_ids is None and decoder_inputs_embeds is None and input_ids is not None:
            decoder_input_ids = shift_right(input_ids, self.config)
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            label_mask=label_mask,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


# trf-ignore: TRF013 (each family's model calls `post_init`)
class EncoderDecoderForConditionalGeneration(EncoderDecoderPreTrainedModel, GenerationMixin):
    """An encoder-decoder and the linear projection of its output to the vocabulary (section 3.4)."""

    _tied_weights_keys = {"lm_head.weight": "model.encoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: FamilyConfig, model: EncoderDecoderModel, logits_bias: bool = False):
        super().__init__(config)
        self.model = model
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=logits_bias)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return the target (batch, target) shifted right, so that each position predicts its label (figure 1)."""
        return shift_right(labels, self.config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_logits: bool | None = None,
        loss_places: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """Return `logits` (batch, target, vocab_size), and with `labels` the mean cross-entropy per token, or their
        sum over `num_items_in_batch`. See [`EncoderDecoderModel.forward`] for the other arguments and what it raises.

        Args:
            labels: target ids (batch, target), -100 where there is no loss; shifted right for `decoder_input_ids`.
            logits_to_keep: how many of the last logits, or which positions, to compute; 0 for all.
            output_logits: `False` computes the loss of `labels` in less memory, and returns no logits: see
                [`returns_logits`].
            loss_places: where in all positions of the batch there are labels (labels,), int64, for a loss without
                logits on a GPU, which else keeps the host waiting until it has found them.
            kwargs: `label_smoothing` and `num_items_in_batch`, see [`cross_entropy`]; `row_lengths`, see
                [`VanillaStack`], which counts only where no logits are returned.

        Raises:
            ValueError: for labels that do not fit the target, and where nothing says what to decode.
        """
        if labels is not None:
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                check_ids(labels, self.config.vocab_size, "labels", "vocab_size", ignored=-100)
                decoder_input_ids = shift_right(labels, self.config)
        elif decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError("Give `labels`, `decoder_input_ids` or `decoder_inputs_embeds`, or call `generate`.")
        with_logits = returns_logits(self, labels, output_logits)
        if with_logits:
            kwargs.pop("row_lengths", None)  # all positions are read
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            position_ids=position_ids,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            label_mask=find_read(labels, with_logits, decoder_attention_mask, logits_to_keep),
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kwargs = kwargs | {"loss_places": loss_places}
        logits, loss = logits_and_loss(self.lm_head, hidden_states, labels, with_logits, logits_to_keep, **kwargs)
        return make_output(Seq2SeqLMOutput, outputs, loss=loss, logits=logits)


def shift_right(ids: Tensor, config: FamilyConfig) -> Tensor:
    """Return `ids` (batch, target) with the start token put first and the last dropped ("shifted right" in figure 1),
    padding for -100; raise `ValueError` for ids of another shape, and where the configuration lacks either token.

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaConfig
        >>> from hf_vanilla.models.modeling_vanilla import shift_right
        >>> shift_right(torch.tensor([[8, 9, 2]]), VanillaConfig())  # the start token is 1
        tensor([[1, 8, 9]])
    """
    if ids.ndim != 2:
        raise ValueError(f"`labels` must be (batch, target), got {tuple(ids.shape)}.")
    start, padding = config.decoder_start_token_id, config.pad_token_id
    if start is None or padding is None:
        raise ValueError("To shift a target right, set `decoder_start_token_id` and `pad_token_id` in the config.")
    shifted = F.pad(ids[:, :-1], (1, 0), value=start)
    return shifted.masked_fill(shifted == -100, padding)


class VanillaPreTrainedModel(VanillaBasePreTrainedModel):
    """The paper's family, the encoder-decoder Transformer."""

    config: VanillaConfig


class VanillaModel(VanillaPreTrainedModel, EncoderDecoderModel):
    """The paper's encoder-decoder without its output projection: `AutoModel` of the seq2seq family."""

    def __init__(self, config: VanillaConfig):
        super().__init__(config, VanillaEncoder(config), VanillaDecoder(config))
        self.post_init()


class VanillaForConditionalGeneration(VanillaPreTrainedModel, EncoderDecoderForConditionalGeneration):
    """The paper's model: the encoder-decoder and the linear projection to the vocabulary (section 3.4).

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration
        >>> model = VanillaForConditionalGeneration(VanillaConfig(vocab_size=50, d_model=16, h=2, d_ff=32, N=1))
        >>> output = model(input_ids=torch.tensor([[5, 6, 7, 2]]), labels=torch.tensor([[8, 9, 2]]))
        >>> output.logits.shape  # (batch, target, vocabulary)
        torch.Size([1, 3, 50])
    """

    def __init__(self, config: VanillaConfig):
        # CODEPATH: Marian and BART add a bias to the logits; the paper does not.
        super().__init__(config, VanillaModel(config), config.logits_bias)
        self.post_init()


__all__ = ["VanillaForConditionalGeneration", "VanillaModel", "VanillaPreTrainedModel"]
