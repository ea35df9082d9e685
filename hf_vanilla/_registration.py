"""Registration of the families with transformers' Auto classes and PEFT's tables, as soon as a program imports these.

Not before, because both import torch, and a command line that only prints its help needs none of them.
"""

import importlib
import re
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

TRANSLATION = re.compile(r"translation_[^_]+_to_[^_]+")
"""Tasks that are "translation" from one language to another, as in `translation_en_to_de`."""


def register() -> None:
    """Tell the Auto classes and the pipelines of transformers about the families."""
    import transformers
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast, pipelines

    from hf_vanilla.models.configuration_recurrent import RecurrentConfig
    from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig
    from hf_vanilla.models.pipeline_vanilla import TranslationPipeline
    from hf_vanilla.models.tokenization_vanilla import PairTokenizer

    PairTokenizer.register_for_auto_class()
    for config_class in (VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig, RecurrentConfig):
        AutoConfig.register(config_class.model_type, config_class)
        config_class.register_for_auto_class()
        for tokenizer_class in (PairTokenizer, PreTrainedTokenizerFast):  # both by name, the last where none is named
            AutoTokenizer.register(config_class, fast_tokenizer_class=tokenizer_class, exist_ok=True)
        for auto_class, reference in config_class.family_auto_map.items():
            if auto_class != "AutoConfig":
                module, name = reference.split(".")
                model_class = getattr(importlib.import_module(f"hf_vanilla.models.{module}"), name)
                getattr(transformers, auto_class).register(config_class, model_class)
                model_class.register_for_auto_class(auto_class)
    registry: Any = pipelines.PIPELINE_REGISTRY
    for task in ("translation", "text2text-generation"):
        # transformers 5 has no such pipeline, and says so before it asks its registry.
        getattr(pipelines, "REMOVED_TASKS", {}).pop(task, None)
        registry.register_pipeline(task, TranslationPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")
    check_task = registry.check_task
    registry.check_task = lambda task: check_task("translation" if TRANSLATION.fullmatch(task) else task)


# What the adapters of PEFT change unless they are told: the layers of a Transformer that they change in BART, and of a
# recurrent model all products but those inside of its cells.
ATTENTION, FEED_FORWARD = ["q_proj", "k_proj", "v_proj", "o_proj"], ["linear1", "linear2"]
NORMS = ["self_attention_norm", "cross_attention_norm", "feed_forward_norm"]
PRODUCTS = ["query_proj", "key_proj", "output_proj", "initial_proj"]
ADAPTED = {  # by what stands between TRANSFORMERS_MODELS_TO_ and _MAPPING in the name of PEFT's table
    "ADALORA_TARGET_MODULES": ATTENTION + FEED_FORWARD,
    "BEFT_TARGET_MODULES": ["v_proj"],
    "IA3_TARGET_MODULES": ["k_proj", "v_proj", "linear2"],
    "IA3_FEEDFORWARD_MODULES": ["linear2"],
    "LNTUNING_TARGET_MODULES": NORMS,
    "OSF_TARGET_MODULES": ATTENTION + FEED_FORWARD,
    "VBLORA_TARGET_MODULES": ATTENTION + FEED_FORWARD,
}
RECURRENT_ADAPTED: dict[str, list[str] | None] = {"IA3_FEEDFORWARD_MODULES": [], "LNTUNING_TARGET_MODULES": None}


def register_adapters() -> None:
    """Tell PEFT which layers of the families its adapters change where `target_modules` are not given."""
    from peft.utils import constants

    for name, table in vars(constants).items():
        if kind := re.fullmatch("TRANSFORMERS_MODELS_TO_(.+_MODULES)_MAPPING", name):
            layers = ADAPTED.get(kind[1], ["q_proj", "v_proj"])
            table.update(dict.fromkeys(("vanilla", "vanilla_encoder", "vanilla_decoder"), layers))
            if (products := RECURRENT_ADAPTED.get(kind[1], PRODUCTS)) is not None:
                table["vanilla_recurrent"] = products


class AfterImport(MetaPathFinder):
    """Finds a package as Python does, and has `then` called when it is loaded."""

    def __init__(self, package: str, then: Callable[[], None]) -> None:
        self.package, self.then = package, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of the package as the other finders have it, and None for every other module."""
        if name != self.package:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Following(spec.loader, self)
        return spec


class Following(Loader):
    """Loads a package by `loader`, then calls what `finder` has to call."""

    def __init__(self, loader: Loader, finder: AfterImport) -> None:
        self.loader, self.finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        """As the own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the own loader does; then the package is whole."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self.finder]
        self.finder.then()


def install() -> None:
    """Registers the families now with each library that is imported, and else when it will be."""
    for package, then in (("transformers", register), ("peft", register_adapters)):
        if package in sys.modules:
            then()
        else:
            sys.meta_path.insert(0, AfterImport(package, then))
