"""A small model of every class, and a batch that it can take: what the property tests run over."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_vanilla import (
    RecurrentConfig,
    VanillaConfig,
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
    VanillaDecoderModel,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForMultipleChoice,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
    VanillaModel,
)

VOCABULARY, FIRST_WORD, LABELS = 40, 3, 4

BASES = [VanillaModel, VanillaEncoderModel, VanillaDecoderModel]
ENCODER_HEADS = [
    VanillaEncoderForMaskedLM,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForMultipleChoice,
]
DECODER_HEADS = [
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
]
HEADS = [VanillaForConditionalGeneration, *ENCODER_HEADS, *DECODER_HEADS]
LANGUAGE_MODELS = [VanillaForConditionalGeneration, VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM]
MODELS = [*BASES, *HEADS]


def small_config(config_class: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """Two layers of width 16 without dropout; `changes` override."""
    if config_class is RecurrentConfig:
        # Distributions that are not flat, and padding that is no word.
        fields = {"vocab_size": VOCABULARY, "hidden_size": 16, "dropout": 0.0, "initializer_range": 0.5}
        return config_class(**(fields | {"pad_token_id": VOCABULARY - 1} | changes))
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "dropout": 0.0,
        "max_position_embeddings": 32,
    }
    depths = ["encoder_layers", "decoder_layers"] if config_class is VanillaConfig else ["num_hidden_layers"]
    labels = {} if config_class is VanillaConfig else {"num_labels": LABELS, "classifier_dropout": 0.0}
    return config_class(**(fields | dict.fromkeys(depths, 2) | labels | changes))


def small_model(model_class: type[PreTrainedModel], **changes: Any) -> PreTrainedModel:
    """A model of `small_config` in evaluation mode, its weights drawn from seed 0."""
    torch.manual_seed(0)
    return model_class(small_config(model_class.config_class, **changes)).eval()


def words(*shape: int) -> Tensor:
    """Random ids of words, none of them special."""
    return torch.randint(FIRST_WORD, VOCABULARY, shape)


def batch_for(model_class: type[PreTrainedModel], batch: int = 3, length: int = 7, labels: bool = True) -> dict:
    """Arguments of `model_class.forward`, without padding; `labels` where it is a head."""
    torch.manual_seed(1)
    name = model_class.__name__
    choices = (2,) if "MultipleChoice" in name else ()
    inputs = {"input_ids": words(batch, *choices, length)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if name in ("VanillaModel", "RecurrentModel") or "ConditionalGeneration" in name:
        inputs["decoder_input_ids"] = words(batch, length - 2)
        inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
    if not labels or model_class in BASES:
        return inputs
    if "ConditionalGeneration" in name:
        return inputs | {"labels": words(batch, length - 2)}
    if "MaskedLM" in name or "CausalLM" in name:
        return inputs | {"labels": inputs["input_ids"].clone()}
    if "QuestionAnswering" in name:
        spans = torch.randint(length, (2, batch)).sort(0).values
        return inputs | {"start_positions": spans[0], "end_positions": spans[1]}
    if "TokenClassification" in name:
        return inputs | {"labels": torch.randint(LABELS, (batch, length))}
    return inputs | {"labels": torch.randint(2 if choices else LABELS, (batch,))}
