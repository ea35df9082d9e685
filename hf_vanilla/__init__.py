"""The Transformer of "Attention Is All You Need" as a Hugging Face model.

Importing this package registers its configurations and models with the Auto classes of transformers, both ways: for
loading where the package is installed, and for saving checkpoints that load where it is not. What takes long to
import is imported when it is first asked for; so `hf-vanilla --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hf_vanilla import _former_names, _registration

if TYPE_CHECKING:
    from hf_vanilla.attention.maps import AttentionMap as AttentionMap
    from hf_vanilla.attention.maps import AttentionMaps as AttentionMaps
    from hf_vanilla.attention.reader import attention_maps as attention_maps
    from hf_vanilla.conversion.convert import from_hf as from_hf
    from hf_vanilla.conversion.convert import to_hf as to_hf
    from hf_vanilla.data.corpora import load_corpus as load_corpus
    from hf_vanilla.data.tokenization import train_tokenizer as train_tokenizer
    from hf_vanilla.models.configuration_recurrent import RecurrentConfig as RecurrentConfig
    from hf_vanilla.models.configuration_vanilla import VanillaConfig as VanillaConfig
    from hf_vanilla.models.configuration_vanilla import VanillaDecoderConfig as VanillaDecoderConfig
    from hf_vanilla.models.configuration_vanilla import VanillaEncoderConfig as VanillaEncoderConfig
    from hf_vanilla.models.generation_vanilla import IncrementalDecoder as IncrementalDecoder
    from hf_vanilla.models.generation_vanilla import beam_search as beam_search
    from hf_vanilla.models.modeling_recurrent import (
        RecurrentForConditionalGeneration as RecurrentForConditionalGeneration,
    )
    from hf_vanilla.models.modeling_recurrent import RecurrentModel as RecurrentModel
    from hf_vanilla.models.modeling_recurrent import RecurrentPreTrainedModel as RecurrentPreTrainedModel
    from hf_vanilla.models.modeling_vanilla import VanillaForConditionalGeneration as VanillaForConditionalGeneration
    from hf_vanilla.models.modeling_vanilla import VanillaModel as VanillaModel
    from hf_vanilla.models.modeling_vanilla import VanillaPreTrainedModel as VanillaPreTrainedModel
    from hf_vanilla.models.modeling_vanilla_decoder import VanillaDecoderForCausalLM as VanillaDecoderForCausalLM
    from hf_vanilla.models.modeling_vanilla_decoder import (
        VanillaDecoderForSequenceClassification as VanillaDecoderForSequenceClassification,
    )
    from hf_vanilla.models.modeling_vanilla_decoder import (
        VanillaDecoderForTokenClassification as VanillaDecoderForTokenClassification,
    )
    from hf_vanilla.models.modeling_vanilla_decoder import VanillaDecoderModel as VanillaDecoderModel
    from hf_vanilla.models.modeling_vanilla_decoder import (
        VanillaDecoderPreTrainedModel as VanillaDecoderPreTrainedModel,
    )
    from hf_vanilla.models.modeling_vanilla_encoder import VanillaEncoderForMaskedLM as VanillaEncoderForMaskedLM
    from hf_vanilla.models.modeling_vanilla_encoder import (
        VanillaEncoderForMultipleChoice as VanillaEncoderForMultipleChoice,
    )
    from hf_vanilla.models.modeling_vanilla_encoder import (
        VanillaEncoderForQuestionAnswering as VanillaEncoderForQuestionAnswering,
    )
    from hf_vanilla.models.modeling_vanilla_encoder import (
        VanillaEncoderForSequenceClassification as VanillaEncoderForSequenceClassification,
    )
    from hf_vanilla.models.modeling_vanilla_encoder import (
        VanillaEncoderForTokenClassification as VanillaEncoderForTokenClassification,
    )
    from hf_vanilla.models.modeling_vanilla_encoder import VanillaEncoderModel as VanillaEncoderModel
    from hf_vanilla.models.modeling_vanilla_encoder import (
        VanillaEncoderPreTrainedModel as VanillaEncoderPreTrainedModel,
    )
    from hf_vanilla.models.texts_vanilla import encode_texts as encode_texts
    from hf_vanilla.translation.translator import Hypothesis as Hypothesis
    from hf_vanilla.translation.translator import Translator as Translator

__version__ = "0.1.0"

# The module that each public name lives in: the same as above, for Python itself.
_MODULES = {
    "attention.maps": ["AttentionMap", "AttentionMaps"],
    "attention.reader": ["attention_maps"],
    "conversion.convert": ["from_hf", "to_hf"],
    "data.corpora": ["load_corpus"],
    "data.tokenization": ["train_tokenizer"],
    "models.configuration_recurrent": ["RecurrentConfig"],
    "models.configuration_vanilla": ["VanillaConfig", "VanillaDecoderConfig", "VanillaEncoderConfig"],
    "models.generation_vanilla": ["IncrementalDecoder", "beam_search"],
    "models.modeling_recurrent": ["RecurrentForConditionalGeneration", "RecurrentModel", "RecurrentPreTrainedModel"],
    "models.modeling_vanilla": ["VanillaForConditionalGeneration", "VanillaModel", "VanillaPreTrainedModel"],
    "models.modeling_vanilla_decoder": [
        "VanillaDecoderForCausalLM",
        "VanillaDecoderForSequenceClassification",
        "VanillaDecoderForTokenClassification",
        "VanillaDecoderModel",
        "VanillaDecoderPreTrainedModel",
    ],
    "models.modeling_vanilla_encoder": [
        "VanillaEncoderForMaskedLM",
        "VanillaEncoderForMultipleChoice",
        "VanillaEncoderForQuestionAnswering",
        "VanillaEncoderForSequenceClassification",
        "VanillaEncoderForTokenClassification",
        "VanillaEncoderModel",
        "VanillaEncoderPreTrainedModel",
    ],
    "models.texts_vanilla": ["encode_texts"],
    "translation.translator": ["Hypothesis", "Translator"],
}
_MODULE_OF = {name: f"hf_vanilla.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF and name in _former_names.FORMER:
        return importlib.import_module(f"hf_vanilla.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_vanilla' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_former_names.install()
_registration.install()
