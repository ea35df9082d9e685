"""Modules that had another name once: programs that import them by it go on working, and are told the new one."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# For each former module, where its definitions are now; the first is named in the warning.
FORMER = {
    "attention_figures": ("attention.figures",),
    "attention_maps": ("attention.reader", "attention.maps", "attention.weights", "attention.words"),
    "attention_page": ("attention.page",),
    "attention_survey": ("attention.survey", "attention.heads", "attention.switching"),
    "batching": ("data.batching", "data.collators"),
    "checkpointing": ("training.checkpointing",),
    "convert": ("conversion.convert", "conversion.checkpoints", "conversion.torch_module"),
    "corpora": ("data.corpora", "data.files", "data.tables", "data.formats", "data.built_in", "data.splits"),
    "decoding": (
        "translation.translator",
        "translation.files",
        "models.pipeline_vanilla",
        "translation.text_generation",
        "translation.loading",
    ),
    "export": ("conversion.export",),
    "key_maps": ("conversion.formats",),
    "labelled": ("finetuning.labels", "finetuning.answers", "data.labelled"),
    "metrics": ("translation.metrics", "finetuning.metrics"),
    "model_card": ("hub.model_card",),
    "optim": ("training.optim",),
    "question_answering": ("finetuning.answers",),
    "recurrent": (),
    "recurrent.configuration_recurrent": ("models.configuration_recurrent",),
    "recurrent.modeling_recurrent": ("models.modeling_recurrent",),
    "run_log": ("training.run_log",),
    "tasks": ("training.tasks",),
    "tokenization": ("data.tokenization",),
    "training_config": ("training.config",),
    "transformer": (),
    "transformer.configuration_vanilla": ("models.configuration_vanilla",),
    "transformer.generation_vanilla": ("models.generation_vanilla",),
    "transformer.losses_vanilla": ("models.losses_vanilla", "models.fused_loss_vanilla", "models.checks_vanilla"),
    "transformer.modeling_vanilla": ("models.modeling_vanilla", "models.pretrained_vanilla", "models.checks_vanilla"),
    "transformer.modeling_vanilla_decoder": ("models.modeling_vanilla_decoder",),
    "transformer.modeling_vanilla_encoder": ("models.modeling_vanilla_encoder",),
    "transformer.padding_vanilla": ("models.unpadding_vanilla",),
    "translation.pipeline": ("models.pipeline_vanilla",),
}


def look_up_in(former: str, places: tuple[str, ...]) -> Callable[[str], object]:
    """Return the `__getattr__` of a module: it gives a name as one of `places` has it, and warns that it has moved.

    Args:
        former: the name of the module, without the package's.
        places: modules without the package's name, searched in this order.
    """

    def look_up(name: str) -> object:
        if name == "__all__":  # for `from hf_vanilla.decoding import *`
            modules = [importlib.import_module(f"hf_vanilla.{place}") for place in places]
            return [each for module in modules for each in vars(module) if not each.startswith("_")]
        # Python asks for a submodule here, too, before it imports it.
        is_module = importlib.util.find_spec(f"hf_vanilla.{former}.{name}") if is_package(former) else None
        for place in () if name.startswith("__") or is_module else places:
            if hasattr(found := importlib.import_module(f"hf_vanilla.{place}"), name):
                moved = f"hf_vanilla.{former}.{name} is deprecated: it is hf_vanilla.{place}.{name} now"
                warnings.warn(moved, DeprecationWarning, stacklevel=2)
                return getattr(found, name)
        raise AttributeError(f"module 'hf_vanilla.{former}' has no attribute {name!r}")

    return look_up


def is_package(former: str) -> bool:
    """True for a former module that is a room by now."""
    module = sys.modules.get(f"hf_vanilla.{former}")  # of which `hasattr` would ask the look-up again
    return module is not None and not isinstance(module, FormerModule) and "__path__" in vars(module)


class FormerModule(ModuleType):
    """A former module. Where it had the name of its main function, as `attention_maps`, it can be called as that."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the function."""
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)


class FormerModules(MetaPathFinder, Loader):
    """Finds the former modules. They are empty but for what looks a name up where it is now."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return a spec for `hf_vanilla.<former name>`, and None for every other module."""
        package, _, former = name.partition(".")
        if package != "hf_vanilla" or former not in FORMER:
            return None
        return ModuleSpec(name, self, is_package=former in ("transformer", "recurrent"))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return FormerModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module."""
        former = module.__name__.partition(".")[2]
        module.__dict__["__getattr__"] = look_up_in(former, FORMER[former])


def install() -> None:
    """Has Python find the former modules, after it has looked for files."""
    sys.meta_path.append(FormerModules())
