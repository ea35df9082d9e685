"""What the paper replaced: recurrent encoder-decoders, and attention as it came to them.

- Sutskever et al., 2014 (arXiv:1409.3215) and Cho et al., 2014 (arXiv:1406.1078): one vector for the source.
- Bahdanau et al., 2015 (arXiv:1409.0473): attention, additive, scored with the decoder's previous state.
- Luong et al., 2015 (arXiv:1508.04025): scored with its current state; dot, general, concat; global and local.

Shapes: batch, source and target are sizes of a batch, its sources and its targets; length is either of the latter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .checks_vanilla import check_source, embed_inputs
from .configuration_recurrent import RecurrentConfig
from .generation_vanilla import packed
from .losses_vanilla import TensorMap
from .modeling_vanilla import EncoderDecoderForConditionalGeneration, EncoderDecoderModel
from .pretrained_vanilla import FamilyPreTrainedModel
from .unpadding_vanilla import Dropout, up_to_last

# What a recurrent layer starts from or ends with, each (1, batch, width): h of a GRU, h and c of an LSTM.
LayerState: TypeAlias = Tensor | tuple[Tensor, ...]

# Rows without their padding


class Rows:
    """Where the tokens of a batch are, so that recurrent layers can read them without padding, wherever it stands.

    `kept` (batch, length) is true for tokens. A row of nothing but padding is read as one token, whose result is 0.
    """

    def __init__(self, kept: Tensor):
        self.kept = kept
        self.counts = kept.sum(1)
        self.whole = bool(kept.all())
        if not self.whole:
            self.places = torch.arange(kept.shape[1], device=kept.device)
            self.in_front = bool((kept == (self.places < self.counts[:, None])).all())
            self.order = (~kept).long().argsort(dim=1, stable=True)  # tokens first
            self.lengths = self.counts.clamp(min=1)

    def to_front(self, states: Tensor) -> Tensor:
        """Return `states` (batch, length, width) with the tokens of each row before its padding."""
        return states if self.whole or self.in_front else along(states, self.order)

    def back(self, states: Tensor) -> Tensor:
        """Return `states` (batch, length, width) with tokens where they were, and zeros for padding."""
        if self.whole:
            return states
        states = states if self.in_front else along(states, self.order.argsort(1))
        return states.masked_fill(~self.kept[..., None], 0)

    def pack(self, states: Tensor) -> PackedSequence:
        return pack_padded_sequence(states, self.lengths.cpu(), batch_first=True, enforce_sorted=False)

    def unpack(self, states: PackedSequence) -> Tensor:
        return pad_packed_sequence(states, batch_first=True, total_length=len(self.places))[0]


def along(states: Tensor, order: Tensor) -> Tensor:
    """Return `states` (batch, length, width) with the positions of each row in another order (batch, length)."""
    return states.gather(1, order[..., None].expand_as(states))


# Layers


class RecurrentLayer(nn.RNNBase):
    """A layer of an LSTM or of a GRU. Nothing but its own call reads its weights: others may compute them, as pruning
    does, or bring them, as offloading and sharding do, just before it."""

    def forward(
        self, states: Tensor, before: LayerState | None = None, rows: Rows | None = None, keeps_state: bool = False
    ) -> tuple[Tensor, LayerState | None]:
        """Return the outputs (batch, length, width) for `states` with the tokens of `rows` in front, and the layer's
        state after them if `keeps_state`; without `rows`, the output (batch, width) of one step from `states` (batch,
        width), and the state after it.

        On CPU, the gradient of a packed layer takes time by the square of the length. There, padding is read behind
        the tokens instead, which changes nothing that is read of the outputs.
        """
        if rows is None:
            return self.step(states, before)
        # FSDP replaces the weights, of which torch's layers keep a list that does not notice.
        # trf-ignore: TRF046 (torch's own list of the layer's weights)
        self._flat_weights = [weight for weights in self.all_weights for weight in weights]
        if rows.whole or keeps_state or states.device.type != "cpu" or not torch.is_grad_enabled():
            outputs, after = super().forward(states if rows.whole else rows.pack(states), before)
            return outputs if rows.whole else rows.unpack(outputs), after
        if not self.bidirectional:
            return super().forward(states, before)[0], None
        # From the right, each row begins with its own last token.
        lengths = rows.lengths[:, None]
        mirrored = torch.where(rows.places < lengths, lengths - 1 - rows.places, rows.places)
        forward = self.run_direction(self.all_weights[0], states)
        backward = self.run_direction(self.all_weights[1], along(states, mirrored))
        return torch.cat((forward, along(backward, mirrored)), dim=2), None

    def run_direction(self, weights: list[nn.Parameter], states: Tensor) -> Tensor:
        """Return the outputs (batch, length, width / 2) of one direction of two, read from the left."""
        zeros = states.new_zeros(1, len(states), self.hidden_size)
        # Biases, layers, dropout, training, bidirectional, batch first
        options: Any = (weights, True, 1, 0.0, self.training, False, True)
        is_lstm = isinstance(self, nn.LSTM)
        return (torch.lstm(states, (zeros, zeros), *options) if is_lstm else torch.gru(states, zeros, *options))[0]

    def step(self, x: Tensor, before: Any) -> tuple[Tensor, LayerState]:
        """Return h (rows, hidden_size) after one step, and the states after it, from those `before`, as `nn.LSTMCell`
        or `nn.GRUCell` does."""
        weights: Any = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        if isinstance(self, nn.LSTM):
            after = torch.lstm_cell(x, before, *weights)
        else:
            after = (torch.gru_cell(x, before[0], *weights),)
        return after[0], after


class LSTMLayer(RecurrentLayer, nn.LSTM):  # type: ignore[misc]
    """A layer of long short-term memory (Hochreiter and Schmidhuber, 1997), with states h and c."""


class GRULayer(RecurrentLayer, nn.GRU):  # type: ignore[misc]
    """A layer of gated recurrent units (Cho et al., 2014), with state h alone."""


LAYERS: dict[str, Any] = {"lstm": LSTMLayer, "gru": GRULayer}

# Attention (Bahdanau et al., 2015, section 3.1; Luong et al., 2015, section 3)


@dataclass
class Source:
    """What a decoder looks at: `values`, the encoder's states h_j, 0 for padding; `keys`, these as compared with
    queries, both (batch, source, hidden_size); `hidden`, true for padding (batch, 1, source), None without any."""

    values: Tensor
    keys: Tensor
    hidden: Tensor | None

    def first(self, count: int) -> "Source":
        return self.map(lambda each: each[:count])

    def map(self, function: TensorMap) -> "Source":
        hidden = None if self.hidden is None else function(self.hidden)
        return Source(function(self.values), function(self.keys), hidden)


class Attention(nn.Module):
    r"""How much a decoder's state s looks at each encoder state h_j, and the sum of these by that: its context.

    Scores, all followed by a softmax over j without padding:
    additive and concat: v^T tanh(W s + U h_j) (Bahdanau A.1.2; Luong, eq. 8), where s is the previous state in the
    former, the current one in the latter; dot: s^T h_j; general and local: s^T W h_j (Luong, eq. 8).

    Local attention (Luong, section 3.2) sees j within D of the position p_t, of the 2D + 1 of which those beyond the
    source are ignored. Monotonic: p_t = t, or the last position. Predictive: p_t = S sigmoid(v_p^T tanh(W_p s))
    (eq. 9), S the length of the source, and weights are multiplied by exp(-(j - p_t)^2 / (2 (D/2)^2)) (eq. 10).
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.attention_type = config.attention_type
        width = config.hidden_size
        # CODEPATH: Luong's dot has no weights; his other scores and Bahdanau's have.
        if config.attention_type != "dot":
            self.key_proj = nn.Linear(width, width, bias=False)
        # CODEPATH: Bahdanau's score and Luong's concat are a small network.
        if config.attention_type in ("additive", "concat"):
            self.query_proj = nn.Linear(width, width, bias=False)
            self.energy = nn.Linear(width, 1, bias=False)
        self.window = config.attention_window or 0  # 0 for none
        self.is_predictive = config.local_alignment == "predictive"
        if self.is_predictive:
            self.position_proj = nn.Linear(width, width, bias=False)
            self.position_energy = nn.Linear(width, 1, bias=False)

    def look_at(self, values: Tensor, mask: Tensor | None) -> Source:
        """Return what queries look at: encoder states (batch, source, hidden_size), their mask (batch, source)."""
        hidden = None if mask is None or mask.all() else ~mask.bool()[:, None]
        keys = values if self.attention_type == "dot" else self.key_proj(values)
        return Source(values.to(keys), keys, hidden)  # once, not in each step, where autocast makes them shorter

    def forward(self, query: Tensor, source: Source, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts (batch, queries, hidden_size) and weights (batch, queries, source), tiny for padding, of
        decoder states `query` (batch, queries, hidden_size) at `positions` (batch or 1, queries) of the target."""
        if self.attention_type in ("additive", "concat"):
            scores = self.energy(torch.tanh(self.query_proj(query)[:, :, None] + source.keys[:, None])).squeeze(-1)
        else:
            scores = torch.matmul(query, source.keys.transpose(1, 2))
        lowest = torch.finfo(scores.dtype).min
        if source.hidden is not None:
            scores = scores.masked_fill(source.hidden, lowest)
        gaussian: Tensor | None = None
        if self.window:
            outside, gaussian = self.locate(query, source, positions)
            scores = scores.masked_fill(outside, lowest)
        weights = F.softmax(scores, dim=-1, dtype=at_least_float32(scores)).to(query.dtype)
        weights = weights if gaussian is None else weights * gaussian
        return torch.matmul(weights, source.values), weights

    def locate(self, query: Tensor, source: Source, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return where a source is outside of each query's window, bool (batch, queries, source), and with predictive
        alignment the Gaussian that weighs the window, of the same shape."""
        is_token = torch.ones_like(source.values[..., 0], dtype=at_least_float32(query))
        is_token = is_token if source.hidden is None else is_token.masked_fill(source.hidden[:, 0], 0)
        length = is_token.sum(1, keepdim=True).clamp(min=1)
        place = (is_token.cumsum(1) - 1)[:, None]
        centre = positions.to(length)
        if self.is_predictive:
            energy = self.position_energy(torch.tanh(self.position_proj(query))).squeeze(-1)
            centre = length * torch.sigmoid(energy.to(length))
        middle = torch.minimum(centre.detach().round(), length - 1)[..., None]
        outside = (place - middle).abs() > self.window
        if not self.is_predictive:
            return outside, None
        gaussian = torch.exp(-((place - centre[..., None]) ** 2) / (2 * (self.window / 2) ** 2))
        return outside, gaussian.to(query.dtype)


def at_least_float32(states: Tensor) -> torch.dtype:
    """Return the type in which to take the softmax of `states`, or to count: its own, but float32 instead of less."""
    return torch.promote_types(states.dtype, torch.float32)


# The decoder's state


class RecurrentCache(Cache):
    """The state of a recurrent decoder after some tokens: its size does not depend on how many.

    `states` has h and with LSTMs c (batch, hidden_size) of each layer, first to last, and with input feeding the last
    attentional vector; none before the first token. `source` is what it looks at, None without attention. `counts`
    (batch,) are the tokens read without padding, `length` those with it.
    """

    is_compileable = False

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: list[Tensor] = []
        self.source: Any = None
        self.counts = torch.zeros(0, dtype=torch.long)
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def map(self, function: TensorMap) -> None:
        """Replace each tensor by what `function` returns for it."""
        self.states = [function(state) for state in self.states]
        self.source = None if self.source is None else self.source.map(function)
        self.counts = function(self.counts) if self.states else self.counts

    def go_on(self, states: list[Tensor], rows: Rows) -> None:
        """Take over the states after some tokens; those of a row without a token stay as they were."""
        still = (rows.counts == 0)[:, None]
        pairs = zip(self.states, states, strict=True)
        self.states = states if rows.whole else [torch.where(still, old, new) for old, new in pairs]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.map(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.map(lambda state: state[indices])

    def crop(self, max_length: int) -> None:
        raise ValueError("A recurrent state cannot go back to an earlier token.")


# Encoder and decoder


class RecurrentPreTrainedModel(FamilyPreTrainedModel):
    """What the models of the recurrent family share: initial weights."""

    config: RecurrentConfig
    _no_split_modules = ["RecurrentEncoder", "RecurrentDecoder"]

    # trf-ignore: TRF018 (the Transformer's has other modules, and other distributions)
    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All weights uniform around 0, by default with variance 1 / hidden_size (Glorot and Bengio, 2010)."""
        bound = self.config.initializer_range or (3 / self.config.hidden_size) ** 0.5
        if isinstance(module, (nn.Linear, nn.Embedding, nn.RNNBase)):
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)


# trf-ignore: TRF013 (each stack calls `post_init`)
class RecurrentStack(RecurrentPreTrainedModel):
    """What encoder and decoder share."""

    embed_tokens: nn.Embedding

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        self.dropout = Dropout(config.dropout)

    def read(
        self, prefix: str, inputs: tuple[Tensor | None, ...], mask: Tensor | None, past_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings (batch, length, hidden_size), and where there are tokens, bool (batch, length), of
        `input_ids`, `inputs_embeds` and `position_ids`. Raise as [`embed_inputs`], and for positions and 4D masks."""
        input_ids, inputs_embeds, position_ids = inputs
        if position_ids is not None:
            name = f"{prefix}position_ids"
            raise ValueError(f"A recurrent model reads tokens in their order and takes no `{name}`: leave them out.")
        embeds = embed_inputs(self, prefix, input_ids, inputs_embeds, mask, None, past_length)
        embeds = self.scale(embeds)
        if mask is None:
            return embeds, torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        if mask.ndim != 2:
            got = tuple(mask.shape)
            raise ValueError(f"`{prefix}attention_mask` must be (batch, length) in a recurrent model, got {got}.")
        return embeds, mask[:, -embeds.shape[1] :].to(embeds.device).bool()

    def scale(self, embeds: Tensor) -> Tensor:
        """Return embeddings times sqrt(hidden_size): cells want large inputs, the projection to the vocabulary, which
        is the same matrix, small weights (Vaswani et al., 2017, section 3.4)."""
        return embeds * self.config.hidden_size**0.5

    def wants(self, name: str, options: Mapping[str, Any]) -> bool:
        """True if `name` is asked for, in a call's `options` or by the configuration."""
        asked = options.get(name)
        return bool(getattr(self.config, name) if asked is None else asked)


class RecurrentEncoder(RecurrentStack):
    """Bidirectional layers (Bahdanau et al., 2015, section 3.2): h_j is a half that has read up to j from the left,
    and one from the right."""

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            LAYERS[config.cell_type](width, width // 2, batch_first=True, bidirectional=True)
            for _ in range(config.encoder_layers)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        label_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Return `last_hidden_state` (batch, source, hidden_size), 0 for padding; see [`EncoderDecoderModel.forward`]
        for the arguments and what is raised. `label_mask` changes nothing, for padding is left out anyway."""
        embeds, kept = self.read("", (input_ids, inputs_embeds, position_ids), attention_mask)
        rows = Rows(kept)
        states = rows.to_front(embeds)
        hidden_states = []
        for layer in self.layers:
            states, _ = layer(self.dropout(states), rows=rows)
            hidden_states.append(states)
        last = rows.back(hidden_states.pop())
        every = (embeds, *map(rows.back, hidden_states), last) if self.wants("output_hidden_states", kwargs) else None
        return BaseModelOutput(last_hidden_state=last, hidden_states=every)


class RecurrentDecoder(RecurrentStack):
    """Layers that read the target from the left, and look at the source by [`Attention`]. s_t is the last one's state.

    - none: s_t = f(s_(t-1), y_(t-1)), which is the output; the source is in s_0 alone.
    - additive, a variant of Bahdanau et al., 2015, A.2.2: c_t by s_(t-1); s_t = f(s_(t-1), [y_(t-1); c_t]); output
      tanh(W [y_(t-1); c_t; s_t]), where theirs is a maxout layer of the same three.
    - the others (Luong et al., 2015, eq. 5): s_t = f(s_(t-1), y_(t-1)); c_t by s_t; output tanh(W [c_t; s_t]), the
      attentional vector, which is a part of the next input with input feeding.

    s_0 = tanh(W [last state from the left; last state from the right]) for each layer (theirs: of the state from the
    right alone), and so is an LSTM's first cell.

    Where no input waits for an output, layers and attention take a target as a whole; else one token after the other.
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        width, kind = config.hidden_size, config.attention_type
        self.feeds_context = kind == "additive"
        # CODEPATH: Bahdanau's decoder reads the context, Luong's with input feeding the attentional vector.
        fed = width if self.feeds_context or config.input_feeding else 0
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            LAYERS[config.cell_type](width + (0 if i else fed), width, batch_first=True)
            for i in range(config.decoder_layers)
        )
        self.input_feeding = config.input_feeding
        # CODEPATH: Sutskever's and Luong's LSTMs have a cell beside their state; Cho's and Bahdanau's GRUs have none.
        self.states_per_layer = 2 if config.cell_type == "lstm" else 1
        self.initial_proj = nn.Linear(width, width * self.states_per_layer * config.decoder_layers)
        self.attention: Any = None if kind == "none" else Attention(config)
        if self.attention is not None:
            self.output_proj = nn.Linear(width * (3 if self.feeds_context else 2), width)
        self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        label_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode a batch, or its next tokens after those of `past_key_values`; see [`EncoderDecoderModel.forward`] for
        the arguments and what is raised. Return `last_hidden_state` (batch, target, hidden_size), 0 for padding;
        `hidden_states`, embeddings and each layer's states; `cross_attentions`, one (batch, 1, target, source)."""
        if encoder_hidden_states is None:
            raise ValueError(f"{type(self).__name__} needs `encoder_hidden_states`.")
        if past_key_values is not None and not isinstance(past_key_values, RecurrentCache):
            kind = type(past_key_values).__name__
            raise ValueError(f"`past_key_values` must be a RecurrentCache that this model returned, got a {kind}.")
        cache = RecurrentCache() if past_key_values is None else past_key_values
        embeds, kept = self.read("decoder_", (input_ids, inputs_embeds, position_ids), attention_mask, cache.length)
        check_source(encoder_hidden_states, encoder_attention_mask, embeds)
        if not cache.states:
            self.begin(cache, encoder_hidden_states, encoder_attention_mask)
        if label_mask is not None and self.training and label_mask.shape == kept.shape:
            kept = kept & up_to_last(label_mask)
        rows = Rows(kept)
        positions = cache.counts[:, None] + torch.arange(embeds.shape[1], device=embeds.device)
        run = self.run_by_step if self.input_feeding or self.feeds_context else self.run_as_a_whole
        output, weights, states = run(self.dropout(rows.to_front(embeds)), rows, cache, positions, bool(use_cache))
        cache.counts, cache.length = cache.counts + rows.counts, cache.length + embeds.shape[1]
        every = (embeds, *map(rows.back, states)) if self.wants("output_hidden_states", kwargs) else None
        looks = weights if self.wants("output_attentions", kwargs) else None
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=rows.back(output),
            past_key_values=cache if use_cache else None,
            hidden_states=every,
            cross_attentions=None if looks is None else (rows.back(looks)[:, None],),
        )

    def begin(self, cache: RecurrentCache, encoder_states: Tensor, mask: Tensor | None) -> None:
        """Set `cache` to what a decoder knows before the first token of each target: encoder states (batch, source,
        hidden_size) and their mask (batch, source)."""
        batch, length, width = encoder_states.shape
        rows = torch.arange(batch, device=encoder_states.device)
        first, last = torch.zeros_like(rows), torch.full_like(rows, length - 1)
        if mask is not None:
            places = torch.arange(1, length + 1, device=mask.device) * mask.bool()
            first, last = mask.bool().long().argmax(1), places.argmax(1)
        half = width // 2
        ends = torch.cat((encoder_states[rows, last, :half], encoder_states[rows, first, half:]), dim=1)
        initial = torch.tanh(self.initial_proj(ends)).to(encoder_states.dtype)
        cache.states = list(initial.view(batch, -1, width).transpose(0, 1).contiguous())
        if self.input_feeding:
            cache.states.append(torch.zeros_like(cache.states[0]))
        if self.attention is not None:
            cache.source = self.attention.look_at(encoder_states, mask)
        cache.counts = torch.zeros_like(rows)

    def run_as_a_whole(
        self, inputs: Tensor, rows: Rows, cache: RecurrentCache, positions: Tensor, keeps_state: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return the output, the weights (batch, target, source), and the states h of each layer for `inputs` (batch,
        target, hidden_size), which have their tokens in front. The cache gets the state after it if `keeps_state`."""
        hidden_states, after = [], []
        for number, layer in enumerate(self.layers):
            inputs = self.dropout(inputs) if number else inputs
            start = number * self.states_per_layer
            initial = tuple(state[None] for state in cache.states[start : start + self.states_per_layer])
            inputs, final = layer(inputs, initial if len(initial) > 1 else initial[0], rows, keeps_state)
            hidden_states.append(inputs)
            after += [state[0] for state in (final if isinstance(final, tuple) else (final,)) if state is not None]
        if keeps_state:
            cache.go_on(after, rows)
        if self.attention is None:
            return self.finish(inputs), None, hidden_states
        context, weights = self.attention(inputs, cache.source, positions)
        return self.finish(torch.cat((context, inputs), dim=-1)), weights, hidden_states

    def run_by_step(
        self, inputs: Tensor, rows: Rows, cache: RecurrentCache, positions: Tensor, keeps_state: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return what `run_as_a_whole` does, step by step, each for only those rows that have not ended."""
        states, source = cache.states, cache.source
        if rows.whole:
            steps, positions = inputs.unbind(1), positions[:, :1]
        else:
            packed_inputs = rows.pack(inputs)
            steps, order = packed_inputs.data.split(packed_inputs.batch_sizes.tolist()), packed_inputs.sorted_indices
            states, source = [state[order] for state in states], source.map(lambda x: x[order])
            positions = positions[order, :1]
        ended: list[list[Tensor]] = []
        outputs, weights, hidden_states = [], [], []
        for x in steps:
            if len(x) < len(states[0]):
                ended.append([state[len(x) :] for state in states])
                states, positions = [state[: len(x)] for state in states], positions[: len(x)]
                source = source.first(len(x))
            output, states, looks = self.step(x, states, source, positions)
            positions = positions + 1
            outputs.append(output)
            weights.append(looks)
            hidden_states.append(states[:: self.states_per_layer][: len(self.layers)])
        ended.append(states)
        if keeps_state:
            after = [torch.cat(parts[::-1]) for parts in zip(*ended, strict=True)]
            cache.go_on(after if rows.whole else [state[packed_inputs.unsorted_indices] for state in after], rows)

        def together(parts: Any) -> Tensor:
            return torch.stack(parts, 1) if rows.whole else rows.unpack(packed_inputs._replace(data=torch.cat(parts)))

        output = together(outputs)
        output = output if self.input_feeding else self.finish(output)
        return output, together(weights), [together(parts) for parts in zip(*hidden_states, strict=True)]

    def step(
        self, x: Tensor, states: list[Tensor], source: Source | None, positions: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Read one token of each hypothesis, from embeddings `x` (hypotheses, hidden_size) and `states` as those of
        [`RecurrentCache`], at `positions` (sources or 1, 1). Hypotheses of one source stand in consecutive rows.

        Return what [`finish`] turns into the output, or with input feeding the output itself; the states after it; the
        weights (hypotheses, source).
        """
        weights = None
        if self.feeds_context:
            context, weights = self.look(states[-self.states_per_layer], source, positions)
            x = torch.cat((x, context), dim=1)
        elif self.input_feeding:
            x = torch.cat((x, states[-1]), dim=1)
        inner, after = x, []
        for number, layer in enumerate(self.layers):
            inner = self.dropout(inner) if number else inner
            start = number * self.states_per_layer
            inner, states_after = layer(inner, states[start : start + self.states_per_layer])
            after += states_after
        if self.attention is None:
            return inner, after, None
        if self.feeds_context:
            return torch.cat((x, inner), dim=1), after, weights
        context, weights = self.look(inner, source, positions)
        output = torch.cat((context, inner), dim=1)
        if self.input_feeding:
            output = self.finish(output)
            after.append(output)
        return output, after, weights

    def look(self, query: Tensor, source: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts (hypotheses, hidden_size) and weights (hypotheses, source) for queries like the contexts."""
        context, weights = self.attention(query.unflatten(0, (len(source.values), -1)), source, positions)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def finish(self, states: Tensor) -> Tensor:
        """Return the output (..., hidden_size) for the last layer's `states`, with attention after their contexts."""
        return self.dropout(states if self.attention is None else torch.tanh(self.output_proj(states)))


# Search


class RecurrentIncrementalDecoder:
    """The decoder of a model of the recurrent family, prepared for the many steps of [`beam_search`]."""

    def __init__(self, model: Any, precision: str = "float32"):
        if precision != "float32":
            raise ValueError(f"precision is {precision!r}; a recurrent model has float32 alone, or its own")
        self.decoder: RecurrentDecoder = model.get_decoder()
        self.head = packed([model.lm_head], precision)

    def begin(self, prompts: Tensor, beams: int, most: int, inputs: dict[str, Any]) -> "RecurrentBeams":
        """Return the hypotheses of a search; a recurrent state needs no room for `beams` or for `most` tokens."""
        return RecurrentBeams(self, prompts, inputs)


class RecurrentBeams:
    """The hypotheses of a batch, which begin with `prompts` (batch, prompt), and the decoder's state after each. Those
    of a sentence share its source. `logits` (batch, 1, vocab_size), in float32, are those after the prompt."""

    def __init__(self, incremental: RecurrentIncrementalDecoder, prompts: Tensor, inputs: dict[str, Any]):
        self.decoder, self.head = incremental.decoder, incremental.head
        target, source = inputs.get("decoder_attention_mask"), inputs.get("attention_mask")
        encoded = inputs["encoder_outputs"][0]
        outputs = self.decoder(prompts, target, None, encoded, source, use_cache=True, return_dict=True)
        self.cache: RecurrentCache = outputs.past_key_values
        self.cache.states = [state[:, None] for state in self.cache.states]  # (batch, hypotheses, hidden_size)
        self.logits = self.head(outputs.last_hidden_state[:, -1:]).float()

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return the logits (batch, beams, vocab_size) after `tokens` (batch, beams), each of which continues the
        hypothesis `parents` (batch, beams) of its sentence."""
        decoder, cache = self.decoder, self.cache
        # After the prompt there is but one.
        parents = parents.clamp(max=cache.states[0].shape[1] - 1)[..., None]
        states = [state.gather(1, parents.expand(-1, -1, state.shape[2])).flatten(0, 1) for state in cache.states]
        embeds = decoder.scale(decoder.embed_tokens(tokens.flatten()))
        output, states, _ = decoder.step(embeds, states, cache.source, cache.counts[:, None])
        output = output if decoder.input_feeding else decoder.finish(output)
        cache.states, cache.counts = [state.unflatten(0, tokens.shape) for state in states], cache.counts + 1
        return self.head(output).float().unflatten(0, tokens.shape)

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)


# Models


class RecurrentModel(RecurrentPreTrainedModel, EncoderDecoderModel):
    """The encoder-decoder without its output projection: `AutoModel` of the recurrent family. Arguments are those of
    [`EncoderDecoderModel.forward`], but for positions; `past_key_values` is a [`RecurrentCache`]."""

    def __init__(self, config: RecurrentConfig):
        super().__init__(config, RecurrentEncoder(config), RecurrentDecoder(config))
        self.post_init()


class RecurrentForConditionalGeneration(RecurrentPreTrainedModel, EncoderDecoderForConditionalGeneration):
    """The encoder-decoder and the projection of its output to the vocabulary. Arguments are those of
    [`EncoderDecoderForConditionalGeneration.forward`], but for positions.

    Examples:
        >>> import torch
        >>> from hf_vanilla import RecurrentConfig, RecurrentForConditionalGeneration
        >>> model = RecurrentForConditionalGeneration(RecurrentConfig(vocab_size=50, hidden_size=16))
        >>> model(input_ids=torch.tensor([[5, 6, 7, 2]]), labels=torch.tensor([[8, 9, 2]])).logits.shape
        torch.Size([1, 3, 50])
    """

    incremental_decoder_class = RecurrentIncrementalDecoder
    # Candidates of assisted generation are taken back; a recurrent state cannot be.
    _is_stateful = True

    def __init__(self, config: RecurrentConfig):
        super().__init__(config, RecurrentModel(config))
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: these models have no keys and values of the past, but a cache of their own."""
        return False


__all__ = ["RecurrentForConditionalGeneration", "RecurrentModel", "RecurrentPreTrainedModel"]
