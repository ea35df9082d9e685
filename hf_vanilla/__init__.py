"""The Transformer of "Attention Is All You Need" as a Hugging Face model.

Importing this package registers its configurations and models with the Auto classes of transformers, both ways: for
loading where the package is installed, and for saving checkpoints that load where it is not.
"""

from types import ModuleType

import transformers
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast, pipelines

from .attention_maps import AttentionMap, AttentionMaps, attention_maps
from .convert import from_hf, to_hf
from .decoding import Hypothesis, TranslationPipeline, Translator
from .recurrent import modeling_recurrent
from .recurrent.configuration_recurrent import RecurrentConfig
from .recurrent.modeling_recurrent import (
    RecurrentForConditionalGeneration,
    RecurrentModel,
    RecurrentPreTrainedModel,
)
from .transformer import modeling_vanilla, modeling_vanilla_decoder, modeling_vanilla_encoder
from .transformer.configuration_vanilla import (
    FamilyConfig,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaEncoderConfig,
)
from .transformer.generation_vanilla import IncrementalDecoder, beam_search
from .transformer.modeling_vanilla import VanillaForConditionalGeneration, VanillaModel, VanillaPreTrainedModel
from .transformer.modeling_vanilla_decoder import (
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
    VanillaDecoderModel,
    VanillaDecoderPreTrainedModel,
)
from .transformer.modeling_vanilla_encoder import (
    VanillaEncoderForMaskedLM,
    VanillaEncoderForMultipleChoice,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaEncoderModel,
    VanillaEncoderPreTrainedModel,
)

FAMILIES: dict[type[FamilyConfig], ModuleType] = {
    VanillaConfig: modeling_vanilla,
    VanillaEncoderConfig: modeling_vanilla_encoder,
    VanillaDecoderConfig: modeling_vanilla_decoder,
    RecurrentConfig: modeling_recurrent,
}

for _config_class, _modeling in FAMILIES.items():
    AutoConfig.register(_config_class.model_type, _config_class)
    _config_class.register_for_auto_class()
    AutoTokenizer.register(_config_class, fast_tokenizer_class=PreTrainedTokenizerFast)
    for _auto_class, _reference in _config_class.family_auto_map.items():
        if _auto_class != "AutoConfig":
            _model_class = getattr(_modeling, _reference.split(".")[1])
            getattr(transformers, _auto_class).register(_config_class, _model_class)
            _model_class.register_for_auto_class(_auto_class)

# transformers 5 has no such pipeline, and says so before it asks its registry.
getattr(pipelines, "REMOVED_TASKS", {}).pop("translation", None)
pipelines.PIPELINE_REGISTRY.register_pipeline("translation", TranslationPipeline, pt_model=AutoModelForSeq2SeqLM)

__version__ = "0.1.0"

__all__ = [
    "AttentionMap",
    "AttentionMaps",
    "Hypothesis",
    "IncrementalDecoder",
    "RecurrentConfig",
    "RecurrentForConditionalGeneration",
    "RecurrentModel",
    "RecurrentPreTrainedModel",
    "Translator",
    "VanillaConfig",
    "VanillaDecoderConfig",
    "VanillaDecoderForCausalLM",
    "VanillaDecoderForSequenceClassification",
    "VanillaDecoderForTokenClassification",
    "VanillaDecoderModel",
    "VanillaDecoderPreTrainedModel",
    "VanillaEncoderConfig",
    "VanillaEncoderForMaskedLM",
    "VanillaEncoderForMultipleChoice",
    "VanillaEncoderForQuestionAnswering",
    "VanillaEncoderForSequenceClassification",
    "VanillaEncoderForTokenClassification",
    "VanillaEncoderModel",
    "VanillaEncoderPreTrainedModel",
    "VanillaForConditionalGeneration",
    "VanillaModel",
    "VanillaPreTrainedModel",
    "attention_maps",
    "beam_search",
    "from_hf",
    "to_hf",
]
