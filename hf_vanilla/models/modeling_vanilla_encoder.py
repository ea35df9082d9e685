"""The encoder alone, the way to BERT (Devlin et al., 2019, arXiv:1810.04805), and its heads."""

from typing import Any, TypeAlias

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_vanilla import VanillaEncoderConfig
from .losses_vanilla import cross_entropy, has_label, logits_and_loss, make_output, sequence_classification_loss
from .modeling_vanilla import VanillaBasePreTrainedModel, VanillaEncoder
from .unpadding_vanilla import first_token

EncoderInputs: TypeAlias = tuple[torch.Tensor | None, ...]


class VanillaEncoderPreTrainedModel(VanillaBasePreTrainedModel):
    """Loads an encoder-only model, also from the encoder of a seq2seq checkpoint."""

    config: VanillaEncoderConfig
    base_model_prefix = "encoder"
    _no_split_modules = ["EncoderLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^(model\.)?decoder\."]


class Pooler(nn.Module):
    """What BERT makes of the first token, for a text as a whole: linear and tanh."""

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return vectors (batch, hidden_size) for texts with states (batch, length, hidden_size)."""
        return torch.tanh(self.dense(hidden_states[:, 0]))


class VanillaEncoderModel(VanillaEncoder, VanillaEncoderPreTrainedModel):
    """The encoder alone: `AutoModel` of the encoder family.

    Args:
        add_pooling_layer: whether to have a pooler; what the configuration says if not given. Heads need none.
    """

    config: VanillaEncoderConfig
    base_model_prefix = "encoder"

    def __init__(self, config: VanillaEncoderConfig, add_pooling_layer: bool | None = None):
        super().__init__(config)
        has_pooler = config.add_pooling_layer if add_pooling_layer is None else add_pooling_layer
        # CODEPATH: the base models of BERT and RoBERTa have a pooler, DistilBERT's has none.
        self.pooler = Pooler(config) if has_pooler else None
        self.post_init()

    def output(self, hidden_states: torch.Tensor) -> BaseModelOutputWithPooling:
        """Return states (batch, length, hidden_size) and, with a pooler, `pooler_output` (batch, hidden_size)."""
        pooled = None if self.pooler is None else self.pooler(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class MaskedLMTransform(nn.Module):
    """BERT's transform of hidden states before the output projection: linear, activation, layer normalization."""

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.activation_function]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.activation(self.dense(hidden_states)))


class VanillaEncoderForMaskedLM(VanillaEncoderPreTrainedModel):
    """Predicts masked tokens (Devlin et al., 2019, section 3.1)."""

    _tied_weights_keys = {"lm_head.weight": "encoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.encoder = VanillaEncoderModel(config, add_pooling_layer=False)
        self.transform = MaskedLMTransform(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """See [`VanillaEncoder`] for the other arguments.

        Args:
            labels: the tokens that were masked (batch, source), -100 elsewhere.
            output_logits: whether to return `logits` (batch, source, vocab_size); by default they are, except in
                training with `labels`: see [`logits_and_loss`].
            kwargs: `label_smoothing` and `num_items_in_batch`, see [`cross_entropy`].
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids)
        outputs = self.encoder(*inputs, has_label(labels), **kwargs)
        states = outputs.last_hidden_state
        logits, loss = logits_and_loss(self.lm_head, states, labels, output_logits, transform=self.transform, **kwargs)
        return make_output(MaskedLMOutput, outputs, loss=loss, logits=logits)


class ClassificationHead(nn.Module):
    """Class scores from the first token: linear and tanh (BERT's pooler; DistilBERT: ReLU), then the output layer."""

    def __init__(self, config: VanillaEncoderConfig, num_labels: int | None = None):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.classifier_activation]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, num_labels or config.num_labels or 2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return logits (..., labels) of states (..., length, hidden_size)."""
        pooled = self.activation(self.dense(self.dropout(hidden_states[..., 0, :])))
        return self.out_proj(self.dropout(pooled))


# trf-ignore: TRF013 (each head calls `post_init`)
class EncoderClassifier(VanillaEncoderPreTrainedModel):
    """What the heads that classify share: a head classifies each token, or a text by its first token."""

    output_class: type[ModelOutput] = SequenceClassifierOutput
    each_token = False

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.encoder = VanillaEncoderModel(config, add_pooling_layer=False)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ModelOutput:
        """See [`VanillaEncoder`] for the inputs, and the class for `labels`.

        Returns:
            `logits`, of the shape that the class says, and the loss with `labels`.
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids)
        outputs = self.encode(inputs, labels, **kwargs)
        logits = self.classify(outputs.last_hidden_state)
        loss = None if labels is None else self.classification_loss(logits, labels, **kwargs)
        return make_output(self.output_class, outputs, loss=loss, logits=logits)

    def encode(self, inputs: EncoderInputs, labels: torch.Tensor | None, **kwargs: Any) -> Any:
        """Return what the encoder does for its first arguments, in their order."""
        label_mask = has_label(labels) if self.each_token else first_token(inputs[1])
        return self.encoder(*inputs, label_mask, **kwargs)

    def classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_labels) or (batch, source, num_labels) of states (batch, source, hidden_size)."""
        raise NotImplementedError

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the loss of `labels`, one for each row of `logits`, or -100."""
        return cross_entropy(logits, labels, **kwargs)


class VanillaEncoderForSequenceClassification(EncoderClassifier):
    """Classes, labels or a value for a text, from its first token.

    `logits` are (batch, num_labels); for `labels`, see [`sequence_classification_loss`].
    """

    _pooler = "classifier"

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.classifier = ClassificationHead(config)
        self.post_init()

    def classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.classifier(hidden_states)

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return sequence_classification_loss(logits, labels, self.config, **kwargs)


class VanillaEncoderForTokenClassification(EncoderClassifier):
    """A class for each token.

    `logits` are (batch, source, num_labels), `labels` classes (batch, source), -100 where there is no loss.
    """

    output_class = TokenClassifierOutput
    each_token = True

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(hidden_states))


class VanillaEncoderForMultipleChoice(EncoderClassifier):
    """Which of several texts is right.

    Inputs have one dimension more than those of [`VanillaEncoder`]: `input_ids` are (batch, choices, source), others
    alike. `logits` are (batch, choices), `labels` the right choices (batch,).
    """

    output_class = MultipleChoiceModelOutput
    _pooler = "score"

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.score = ClassificationHead(config, num_labels=1)
        self.post_init()

    def encode(self, inputs: EncoderInputs, labels: torch.Tensor | None, **kwargs: Any) -> Any:
        """Return the states of all texts (batch, choices, source, hidden_size).

        Raises:
            ValueError: for inputs that have no dimension of choices.
        """
        input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids = inputs
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or given.ndim != (3 if input_ids is not None else 4):
            got = "none" if given is None else tuple(given.shape)
            raise ValueError(f"`input_ids` must be (batch, choices, length), got {got}.")
        others = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        for name, other in others.items():
            if other is not None and other.ndim != 3:
                raise ValueError(f"`{name}` must be (batch, choices, length), got {tuple(other.shape)}.")
        flat = tuple(None if x is None else x.flatten(0, 1) for x in inputs)
        outputs = super().encode(flat, labels, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state.unflatten(0, given.shape[:2])
        return outputs

    def classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.score(hidden_states).squeeze(-1)


class VanillaEncoderForQuestionAnswering(VanillaEncoderPreTrainedModel):
    """Where in a text an answer starts and ends."""

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.encoder = VanillaEncoderModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """See [`VanillaEncoder`] for the other arguments.

        Args:
            start_positions, end_positions: the answer's first and last token (batch,); positions outside of the input
                and in padding add nothing to the loss.

        Returns:
            `start_logits` and `end_logits` (batch, source), and with both positions the mean of their losses, to which
            padding is no answer: how much of it a batch has changes nothing.
        """
        outputs = self.encoder(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        logits = self.qa_outputs(outputs.last_hidden_state)
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if (start_positions is None) != (end_positions is None):
            raise ValueError("Give both `start_positions` and `end_positions`, or neither.")
        if start_positions is not None and end_positions is not None:
            is_text = torch.ones_like(start_logits, dtype=torch.bool)
            if attention_mask is not None and attention_mask.ndim == 2:
                is_text = attention_mask != 0
            scores = logits.masked_fill(~is_text[..., None], torch.finfo(logits.dtype).min).unbind(-1)
            positions = {"start_positions": start_positions, "end_positions": end_positions}
            losses = [
                cross_entropy(each, inside(at.view(-1), is_text), **{**kwargs, "name": name})
                for each, (name, at) in zip(scores, positions.items(), strict=True)
            ]
            loss = (losses[0] + losses[1]) / 2
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def inside(positions: torch.Tensor, is_text: torch.Tensor) -> torch.Tensor:
    """Return positions (batch,) with -100 for those at which `is_text` (batch, length) is not true."""
    if positions.shape[0] != is_text.shape[0]:
        return positions  # for the error, which names the argument
    last = is_text.shape[1] - 1
    within = (positions >= 0) & (positions <= last) & is_text.gather(1, positions.clamp(0, last)[:, None])[:, 0]
    return positions.masked_fill(~within, -100)


__all__ = [
    "VanillaEncoderForMaskedLM",
    "VanillaEncoderForMultipleChoice",
    "VanillaEncoderForQuestionAnswering",
    "VanillaEncoderForSequenceClassification",
    "VanillaEncoderForTokenClassification",
    "VanillaEncoderModel",
    "VanillaEncoderPreTrainedModel",
]
