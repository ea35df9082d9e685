"""The decoder alone, the way to GPT (Radford et al., 2018), and its heads."""

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, modeling_outputs
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .checks_vanilla import check_ids
from .configuration_vanilla import VanillaDecoderConfig
from .losses_vanilla import (
    cross_entropy,
    find_read,
    logits_and_loss,
    make_output,
    returns_logits,
    sequence_classification_loss,
)
from .modeling_vanilla import DecoderLayer, MultiHeadAttention, VanillaBasePreTrainedModel, VanillaDecoder
from .unpadding_vanilla import Dropout, first_token


class VanillaDecoderPreTrainedModel(VanillaBasePreTrainedModel):
    """Loads a decoder-only model, also from the decoder of a seq2seq checkpoint, without its cross-attention."""

    config: VanillaDecoderConfig
    base_model_prefix = "decoder"
    _no_split_modules = ["DecoderLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^(model\.)?encoder\.", r"\.cross_attention"]


class VanillaDecoderModel(VanillaDecoderPreTrainedModel, VanillaDecoder):
    """The decoder alone, without cross-attention: `AutoModel` of the decoder family."""

    _can_record_outputs = {"hidden_states": DecoderLayer, "attentions": OutputRecorder(MultiHeadAttention, index=1)}


class VanillaDecoderForCausalLM(VanillaDecoderPreTrainedModel, GenerationMixin):
    """Predicts the next token (Radford et al., 2018).

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaDecoderConfig, VanillaDecoderForCausalLM
        >>> model = VanillaDecoderForCausalLM(VanillaDecoderConfig(vocab_size=50, d_model=16, h=2, d_ff=32, N=1))
        >>> model.generate(torch.tensor([[5, 6, 7]]), min_new_tokens=4, max_new_tokens=4).shape
        torch.Size([1, 7])
    """

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan: Any = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: VanillaDecoderConfig):
        super().__init__(config)
        self.decoder = VanillaDecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_logits: bool | None = None,
        loss_places: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> modeling_outputs.CausalLMOutputWithPast:
        """See [`VanillaDecoder`] for the inputs, and [`EncoderDecoderForConditionalGeneration.forward`] for the other
        arguments and what is returned.

        Args:
            labels: the same ids as `input_ids` (batch, target), -100 where there is no loss; they are shifted here, so
                that each position predicts the next. `shift_labels` are taken as they are. Behind padding on the left,
                padding predicts the first token, as in GPT-2, unless that has -100.
            loss_places: the positions that predict a label, not those of the labels.
        """
        use_cache = False if labels is not None and use_cache is None else use_cache
        next_tokens = kwargs.get("shift_labels")
        if next_tokens is None and labels is not None:
            if labels.ndim != 2:
                raise ValueError(f"`labels` must be (batch, target), got {tuple(labels.shape)}.")
            check_ids(labels, self.config.vocab_size, "labels", "vocab_size", ignored=-100)
            next_tokens = F.pad(labels[:, 1:], (0, 1), value=-100)
        with_logits = returns_logits(self, next_tokens, output_logits)
        if with_logits:
            kwargs.pop("row_lengths", None)  # all positions are read
        outputs = self.decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            label_mask=find_read(next_tokens, with_logits, attention_mask, logits_to_keep),
            **kwargs,
        )
        states, kwargs = outputs.last_hidden_state, kwargs | {"loss_places": loss_places}
        logits, loss = logits_and_loss(self.lm_head, states, next_tokens, with_logits, logits_to_keep, **kwargs)
        return make_output(modeling_outputs.CausalLMOutputWithPast, outputs, loss=loss, logits=logits)


# `Trainer` shifts smoothed labels for the classes that this table names, and for no others.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[VanillaDecoderConfig.model_type] = VanillaDecoderForCausalLM.__name__


# Named one by one, for libraries read what a head returns from its signature.
ClassifierOutput: TypeAlias = (
    modeling_outputs.SequenceClassifierOutputWithPast | modeling_outputs.TokenClassifierOutput
)


# trf-ignore: TRF013 (each head calls `post_init`)
class DecoderClassifier(VanillaDecoderPreTrainedModel):
    """What the heads that classify share: a head classifies each token, or a text by its last token, the only one that
    has seen all of it. That is the last that is not padding, by `attention_mask`, or else by `pad_token_id`."""

    output_class: type[ClassifierOutput]
    each_token: bool

    def __init__(self, config: VanillaDecoderConfig):
        super().__init__(config)
        self.decoder = VanillaDecoderModel(config)
        self.dropout = Dropout(config.classifier_dropout)

    def classify(self, states: Tensor) -> Tensor:
        """Return logits (..., num_labels) of states (..., hidden_size)."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClassifierOutput:
        """Return `logits` (batch, target, num_labels) of tokens or (batch, num_labels) of texts, and with `labels` the
        loss. See [`VanillaDecoder`] for the other arguments; positions count tokens, not padding, unless given.

        Args:
            labels: of tokens (batch, target), -100 where there is no loss; or see [`sequence_classification_loss`].
        """
        use_cache = False if self.training and labels is not None and use_cache is None else use_cache
        if position_ids is None and past_key_values is None:
            position_ids = token_positions(attention_mask)
        outputs = self.decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            label_mask=find_read(labels, True, attention_mask) if self.each_token else first_token(attention_mask),
            **kwargs,
        )
        states, loss = outputs.last_hidden_state, None
        if not self.each_token:
            states = last_token(states, input_ids, attention_mask, self.config.pad_token_id)
        logits = self.classify(self.dropout(states))
        if labels is not None and self.each_token:
            loss = cross_entropy(logits, labels, **kwargs)
        elif labels is not None:
            loss = sequence_classification_loss(logits, labels, self.config, **kwargs)
        return make_output(self.output_class, outputs, loss=loss, logits=logits)


class VanillaDecoderForSequenceClassification(DecoderClassifier):
    """Classes, labels or a value for a text, from its last token."""

    output_class = modeling_outputs.SequenceClassifierOutputWithPast
    each_token = False

    def __init__(self, config: VanillaDecoderConfig):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2, bias=False)
        self.post_init()

    def classify(self, states: Tensor) -> Tensor:
        return self.score(states)


class VanillaDecoderForTokenClassification(DecoderClassifier):
    """A class for each token, from it and the tokens before it."""

    output_class = modeling_outputs.TokenClassifierOutput
    each_token = True

    def __init__(self, config: VanillaDecoderConfig):
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def classify(self, states: Tensor) -> Tensor:
        return self.classifier(states)


def last_token(states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, padding: int | None) -> Tensor:
    """Return the states (batch, hidden_size) of each row's last token, from those of all (batch, length, hidden_size):
    the last that is not padding, by the mask (batch, cached + length), or else by the id of padding."""
    length = states.shape[1]
    is_token = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    if attention_mask is not None and attention_mask.ndim == 2:
        is_token = attention_mask[:, -length:].long()
    elif input_ids is not None and padding is not None:
        is_token = (input_ids != padding).long()
    last = (is_token * torch.arange(length, device=is_token.device)).argmax(-1).to(states.device)
    return states[torch.arange(states.shape[0], device=last.device), last]


def token_positions(attention_mask: Tensor | None) -> Tensor | None:
    """Return positions (batch, length) that count the tokens of a mask (batch, length), so that padding on the left
    moves none; None without a mask of that shape."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


__all__ = [
    "VanillaDecoderForCausalLM",
    "VanillaDecoderForSequenceClassification",
    "VanillaDecoderForTokenClassification",
    "VanillaDecoderModel",
    "VanillaDecoderPreTrainedModel",
]
