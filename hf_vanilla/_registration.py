"""Registration of the families with the Auto classes of transformers, as soon as a program imports transformers.

Not before, because transformers imports torch, and a command line that only prints its help needs neither.
"""

import importlib
import re
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

TRANSLATION = re.compile(r"translation_[^_]+_to_[^_]+")
"""Tasks that are "translation" from one language to another, as in `translation_en_to_de`."""


def register() -> None:
    """Tell the Auto classes and the pipeline "translation" of transformers about the families."""
    import transformers
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast, pipelines

    from hf_vanilla.models.configuration_recurrent import RecurrentConfig
    from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig
    from hf_vanilla.models.pipeline_vanilla import TranslationPipeline

    for config_class in (VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig, RecurrentConfig):
        AutoConfig.register(config_class.model_type, config_class)
        config_class.register_for_auto_class()
        AutoTokenizer.register(config_class, fast_tokenizer_class=PreTrainedTokenizerFast)
        for auto_class, reference in config_class.family_auto_map.items():
            if auto_class != "AutoConfig":
                module, name = reference.split(".")
                model_class = getattr(importlib.import_module(f"hf_vanilla.models.{module}"), name)
                getattr(transformers, auto_class).register(config_class, model_class)
                model_class.register_for_auto_class(auto_class)
    # transformers 5 has no such pipeline, and says so before it asks its registry.
    getattr(pipelines, "REMOVED_TASKS", {}).pop("translation", None)
    registry: Any = pipelines.PIPELINE_REGISTRY
    registry.register_pipeline("translation", TranslationPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")
    check_task = registry.check_task
    registry.check_task = lambda task: check_task("translation" if TRANSLATION.fullmatch(task) else task)


class AfterTransformers(MetaPathFinder):
    """Finds transformers as Python does, and has [`register`] called when it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of transformers as the other finders have it, and None for every other module."""
        if name != "transformers":
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, AfterTransformers))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Registering(spec.loader)
        return spec


class Registering(Loader):
    """Loads transformers by `loader`, then registers the families."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        """As the own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the own loader does; then transformers is whole, and the families are registered."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AfterTransformers)]
        register()


def install() -> None:
    """Registers the families now if transformers is imported, and else when it will be."""
    if "transformers" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, AfterTransformers())
