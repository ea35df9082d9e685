"""transformers' tests of models, configs, training, tensor parallelism and FSDP, on the three families.

Each family runs all of them in its default form, and those of models and configs also with the knobs that a well-known
checkpoint of its kind needs.
"""

from typing import Any
from unittest import TestCase, skip

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    RecurrentModel,
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

from .family import AllTests, ModelTests
from .skips import SKIPS
from .test_modeling_common import GenerationTesterMixin

POST_NORM = {
    "position_embedding_type": "learned",
    "embedding_norm": True,
    "scale_embedding": False,
    "activation_function": "gelu",
    "attention_dropout": 0.1,
}
BERT = {**POST_NORM, "type_vocab_size": 2, "add_pooling_layer": True}
BART = {**POST_NORM, "activation_dropout": 0.1, "position_offset": 2, "logits_bias": True}
GPT2 = {
    "position_embedding_type": "learned",
    "norm_position": "pre",
    "scale_embedding": False,
    "activation_function": "gelu_new",
    "attention_dropout": 0.1,
}


class Seq2Seq(GenerationTesterMixin):
    all_model_classes = (VanillaModel, VanillaForConditionalGeneration)
    is_encoder_decoder = True


class OfOneText(VanillaForConditionalGeneration):
    """The tensor-parallel tests have but one text: it is source and target."""

    _auto_class = None  # no code for the Hub: `save_pretrained` shall not copy this file

    def forward(self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if labels is None:
            kwargs.setdefault("decoder_input_ids", input_ids)
        return super().forward(input_ids, labels=labels, **kwargs)


class FromOneTokenTests(AllTests):
    """Training of what has a source and a target."""

    def _create_text_training_batch(self, batch_size: int, seq_length: int, vocab_size: int) -> dict[str, Any]:
        """As when the result is tested by `generate`: the source is the first token alone, the target what follows."""
        tokens = super()._create_text_training_batch(batch_size, seq_length + 1, vocab_size)["input_ids"]
        first = (torch.arange(seq_length) == 0).expand(batch_size, -1)
        return {"input_ids": tokens[:, :-1], "attention_mask": first, "labels": tokens[:, 1:]}


class Seq2SeqTest(Seq2Seq, FromOneTokenTests, TestCase):
    trained_class = VanillaForConditionalGeneration
    auto_class = AutoModelForSeq2SeqLM

    def _get_tp_model_class(self) -> type[VanillaForConditionalGeneration]:
        return OfOneText

    def _get_tiny_config(self) -> tuple[type[PreTrainedConfig], dict[str, Any]]:
        """With one decoder layer: FSDP adds up the gradients of two in another order, and Adam makes steps of the
        rounding in key biases, whose gradients are nothing but that (a softmax ignores what all scores share)."""
        config_class, fields = super()._get_tiny_config()
        return config_class, {**fields, "decoder_layers": 1}


class Seq2SeqLikeBartTest(Seq2Seq, ModelTests, TestCase):
    config_fields = BART


class Encoder:
    all_model_classes = (
        VanillaEncoderModel,
        VanillaEncoderForMaskedLM,
        VanillaEncoderForSequenceClassification,
        VanillaEncoderForTokenClassification,
        VanillaEncoderForQuestionAnswering,
        VanillaEncoderForMultipleChoice,
    )


class EncoderTest(Encoder, AllTests, TestCase):
    trained_class = VanillaEncoderForMaskedLM
    auto_class = AutoModelForMaskedLM

    @skip("no `generate`")
    def test_tp_generation(self) -> None: ...

    @skip("no `generate`")
    def test_tp_generation_quantized(self) -> None: ...


class EncoderLikeBertTest(Encoder, ModelTests, TestCase):
    config_fields = BERT


class Decoder(GenerationTesterMixin):
    all_model_classes = (
        VanillaDecoderModel,
        VanillaDecoderForCausalLM,
        VanillaDecoderForSequenceClassification,
        VanillaDecoderForTokenClassification,
    )


class DecoderTest(Decoder, AllTests, TestCase):
    trained_class = VanillaDecoderForCausalLM


class DecoderLikeGPT2Test(Decoder, ModelTests, TestCase):
    config_fields = GPT2


class Recurrent(GenerationTesterMixin):
    all_model_classes = (RecurrentModel, RecurrentForConditionalGeneration)
    is_encoder_decoder = True
    has_attentions = False  # of a model to itself, which these tests are about
    common_properties = ("hidden_size", "num_hidden_layers")


class RecurrentTest(Recurrent, FromOneTokenTests, TestCase):
    trained_class = RecurrentForConditionalGeneration
    training_overfit_steps = 1200
    auto_class = AutoModelForSeq2SeqLM

    @pytest.mark.slow
    def test_training_overfit(self) -> None:
        """So many updates, each token by token, are a minute."""
        super().test_training_overfit()


class RecurrentWithoutAttentionTest(Recurrent, ModelTests, TestCase):
    config_fields = {"attention_type": "none", "cell_type": "gru"}


class RecurrentWithLocalAttentionTest(Recurrent, ModelTests, TestCase):
    config_fields = {"attention_type": "local", "attention_window": 2}


def test_each_line_of_skips_names_a_test() -> None:
    tests = {"Seq2Seq": Seq2SeqTest, "Encoder": EncoderTest, "Decoder": DecoderTest, "Recurrent": RecurrentTest}
    for line in SKIPS:
        *family, name = line.split(".")
        assert all(hasattr(tests[each], name) for each in family or tests), line
