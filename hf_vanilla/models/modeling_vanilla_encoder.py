"""The encoder alone, the way to BERT (Devlin et al., 2019, arXiv:1810.04805), and its heads."""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import Cache, modeling_outputs
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_vanilla import VanillaEncoderConfig
from .losses_vanilla import (
    cross_entropy,
    find_read,
    logits_and_loss,
    make_output,
    returns_logits,
    sequence_classification_loss,
)
from .modeling_vanilla import VanillaBasePreTrainedModel, VanillaEncoder
from .unpadding_vanilla import Dropout, first_token


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

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))


class VanillaEncoderModel(VanillaEncoderPreTrainedModel, VanillaEncoder):
    """The encoder alone: `AutoModel` of the encoder family. `add_pooling_layer` says whether to have a pooler, which
    heads do not need; if not given, the configuration does."""

    def __init__(self, config: VanillaEncoderConfig, add_pooling_layer: bool | None = None):
        super().__init__(config)
        has_pooler = config.add_pooling_layer if add_pooling_layer is None else add_pooling_layer
        # CODEPATH: the base models of BERT and RoBERTa have a pooler, DistilBERT's has none.
        self.pooler = Pooler(config) if has_pooler else None
        self.post_init()

    def output(self, hidden_states: Tensor) -> modeling_outputs.BaseModelOutputWithPooling:
        """Return states (batch, length, hidden_size) and, with a pooler, `pooler_output` (batch, hidden_size)."""
        pooled = None if self.pooler is None else self.pooler(hidden_states)
        return modeling_outputs.BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class MaskedLMTransform(nn.Module):
    """BERT's transform of hidden states before the output projection: linear, activation, layer normalization."""

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.activation_function]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden_states)))


class VanillaEncoderForMaskedLM(VanillaEncoderPreTrainedModel):
    """Predicts masked tokens (Devlin et al., 2019, section 3.1).

    Examples:
        >>> import torch
        >>> from hf_vanilla import VanillaEncoderConfig, VanillaEncoderForMaskedLM
        >>> model = VanillaEncoderForMaskedLM(VanillaEncoderConfig(vocab_size=50, d_model=16, h=2, d_ff=32, N=1))
        >>> model(input_ids=torch.tensor([[1, 5, 4, 2]])).logits.shape  # (batch, length, vocabulary)
        torch.Size([1, 4, 50])
    """

    _tied_weights_keys = {"lm_head.weight": "encoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan: Any = {"transform": (["hidden_states"], ["hidden_states"]), "lm_head": (["hidden_states"], ["logits"])}
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
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_logits: bool | None = None,
        loss_places: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> modeling_outputs.MaskedLMOutput:
        """See [`VanillaEncoder`] for the other arguments.

        Args:
            labels: the tokens that were masked (batch, source), -100 elsewhere.
            output_logits: whether to return `logits` (batch, source, vocab_size) with a loss: see [`returns_logits`].
            loss_places: see [`EncoderDecoderForConditionalGeneration.forward`].
            kwargs: `label_smoothing` and `num_items_in_batch`, see [`cross_entropy`].
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids)
        with_logits = returns_logits(self, labels, output_logits)
        if with_logits:
            kwargs.pop("row_lengths", None)  # all positions are read
        outputs = self.encoder(*inputs, find_read(labels, with_logits, attention_mask), **kwargs)
        states, kwargs = outputs.last_hidden_state, kwargs | {"loss_places": loss_places}
        logits, loss = logits_and_loss(self.lm_head, states, labels, with_logits, transform=self.transform, **kwargs)
        return make_output(modeling_outputs.MaskedLMOutput, outputs, loss=loss, logits=logits)


# Named one by one, for libraries read what a head returns from its signature.
ClassifierOutput: TypeAlias = (
    modeling_outputs.SequenceClassifierOutput
    | modeling_outputs.TokenClassifierOutput
    | modeling_outputs.MultipleChoiceModelOutput
)


class ClassificationHead(nn.Module):
    """Class scores from the first token: linear and tanh (BERT's pooler; DistilBERT: ReLU), then the output layer."""

    def __init__(self, config: VanillaEncoderConfig, num_labels: int | None = None):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.classifier_activation]
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, num_labels or config.num_labels or 2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return logits (..., labels) of states (..., length, hidden_size)."""
        pooled = self.activation(self.dense(self.dropout(hidden_states[..., 0, :])))
        return self.out_proj(self.dropout(pooled))


# trf-ignore: TRF013 (each head calls `post_init`)
class EncoderClassifier(VanillaEncoderPreTrainedModel):
    """What the heads that classify share: a head classifies each token, or a text by its first token."""

    output_class: type[ClassifierOutput] = modeling_outputs.SequenceClassifierOutput
    each_token = False

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.encoder = VanillaEncoderModel(config, add_pooling_layer=False)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClassifierOutput:
        """See [`VanillaEncoder`] for the inputs, and the class for `labels` and the shape of `logits`."""
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids)
        outputs = self.encode(inputs, labels, past_key_values=past_key_values, **kwargs)
        logits = self.classify(outputs.last_hidden_state)
        loss = None if labels is None else self.classification_loss(logits, labels, **kwargs)
        return make_output(self.output_class, outputs, loss=loss, logits=logits)

    def encode(self, inputs: tuple[Tensor | None, ...], labels: Tensor | None, **kwargs: Any) -> Any:
        """Return what the encoder does for its first arguments, in their order."""
        label_mask = find_read(labels, True, inputs[1]) if self.each_token else first_token(inputs[1])
        return self.encoder(*inputs, label_mask, **kwargs)

    def classify(self, hidden_states: Tensor) -> Tensor:
        """Return logits (batch, num_labels) or (batch, source, num_labels) of states (batch, source, hidden_size)."""
        raise NotImplementedError

    def classification_loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """Return the loss of `labels`, one for each row of `logits`, or -100."""
        return cross_entropy(logits, labels, **kwargs)


class VanillaEncoderForSequenceClassification(EncoderClassifier):
    """Classes, labels or a value for a text, from its first token: `logits` are (batch, num_labels); for `labels`, see
    [`sequence_classification_loss`]."""

    _pooler = "classifier"

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.classifier = ClassificationHead(config)
        self.post_init()

    def classify(self, hidden_states: Tensor) -> Tensor:
        return self.classifier(hidden_states)

    def classification_loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        return sequence_classification_loss(logits, labels, self.config, **kwargs)


class VanillaEncoderForTokenClassification(EncoderClassifier):
    """A class for each token: `logits` are (batch, source, num_labels), `labels` classes (batch, source), -100 where
    there is no loss."""

    output_class = modeling_outputs.TokenClassifierOutput
    each_token = True

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def classify(self, hidden_states: Tensor) -> Tensor:
        return self.classifier(self.dropout(hidden_states))


class VanillaEncoderForMultipleChoice(EncoderClassifier):
    """Which of several texts is right. Inputs have a dimension more than those of [`VanillaEncoder`]: `input_ids` are
    (batch, choices, source), others alike. `logits` are (batch, choices), `labels` the right choices (batch,)."""

    output_class = modeling_outputs.MultipleChoiceModelOutput
    _pooler = "score"

    def __init__(self, config: VanillaEncoderConfig):
        super().__init__(config)
        self.score = ClassificationHead(config, num_labels=1)
        self.post_init()

    def encode(self, inputs: tuple[Tensor | None, ...], labels: Tensor | None, **kwargs: Any) -> Any:
        """Return states (batch, choices, source, hidden_size); raise `ValueError` for inputs of another dimension."""
        names = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "token_type_ids")
        given = {name: each for name, each in zip(names, inputs, strict=True) if each is not None}
        for name, each in given.items():
            if each.ndim != (4 if name == "inputs_embeds" else 3):
                raise ValueError(f"`{name}` must be (batch, choices, length), got {tuple(each.shape)}.")
        outputs = super().encode(tuple(None if x is None else x.flatten(0, 1) for x in inputs), labels, **kwargs)
        shape = given["input_ids" if "input_ids" in given else "inputs_embeds"].shape[:2]
        outputs.last_hidden_state = outputs.last_hidden_state.unflatten(0, shape)
        return outputs

    def classify(self, hidden_states: Tensor) -> Tensor:
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
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> modeling_outputs.QuestionAnsweringModelOutput:
        """Return `start_logits` and `end_logits` (batch, source), and with both positions the mean of their losses, to
        which padding is no answer. See [`VanillaEncoder`] for the other arguments.

        Args:
            start_positions, end_positions: the answer's first and last token (batch,); positions outside of the input
                and in padding add nothing to the loss.
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids)
        outputs = self.encoder(*inputs, past_key_values=past_key_values, **kwargs)
        both = self.qa_outputs(outputs.last_hidden_state)
        start_logits, end_logits = both.unbind(-1)
        loss = None
        if (start_positions is None) != (end_positions is None):
            raise ValueError("Give both `start_positions` and `end_positions`, or neither.")
        if start_positions is not None and end_positions is not None:
            is_text = torch.ones_like(start_logits, dtype=torch.bool)
            if attention_mask is not None and attention_mask.ndim == 2:
                is_text = attention_mask[:, -is_text.shape[1] :] != 0  # less a prefix
            scores = both.masked_fill(~is_text[..., None], torch.finfo(both.dtype).min).unbind(-1)
            positions = {"start_positions": start_positions, "end_positions": end_positions}
            losses = [
                cross_entropy(each, inside(at.view(-1), is_text), **{**kwargs, "name": name})
                for each, (name, at) in zip(scores, positions.items(), strict=True)
            ]
            loss = (losses[0] + losses[1]) / 2
        logits = {"start_logits": start_logits, "end_logits": end_logits}
        return make_output(modeling_outputs.QuestionAnsweringModelOutput, outputs, loss=loss, **logits)


def inside(positions: Tensor, is_text: Tensor) -> Tensor:
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
