"""What `import hf_vanilla` offers, what it costs, and the names that modules had before."""

import ast
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fresh import run_python

import hf_vanilla
from hf_vanilla import _former_names


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_transformers():
    assert run("import sys, hf_vanilla; print({'torch', 'transformers', 'datasets'} & set(sys.modules))") == "set()"


@pytest.mark.parametrize(
    "imports",
    [
        "import hf_vanilla",
        "import transformers, hf_vanilla",
        "import hf_vanilla.models.modeling_vanilla_decoder",  # as any module of the package
        "import hf_vanilla, peft",
    ],
)
def test_the_families_are_registered_whatever_is_imported_first(imports):
    code = f"""
{imports}
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
for auto_class, name in ((AutoModelForSeq2SeqLM, "vanilla"), (AutoModelForCausalLM, "vanilla_decoder")):
    small = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    print(type(auto_class.from_config(AutoConfig.for_model(name, **small))).__name__)
print(sys.modules["transformers"].__spec__.loader.__class__.__name__)
"""
    expected = ["VanillaForConditionalGeneration", "VanillaDecoderForCausalLM", "SourceFileLoader"]
    assert run_python(code, check=True).stdout.splitlines() == expected


def test_all_public_names_are_there_for_python_and_for_type_checkers():
    tree = ast.parse(Path(hf_vanilla.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert checked == hf_vanilla._MODULE_OF
    for name in hf_vanilla.__all__:
        assert getattr(hf_vanilla, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        _ = hf_vanilla.Transformer


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("tokenization", "train_tokenizer"),
        ("attention_figures", "plot_heads"),
        ("attention_figures", "plot_survey"),
        ("attention_maps", "AttentionMaps"),
        ("model_card", "use_model_card"),
        ("decoding", "Translator"),
        ("training", "train"),
        ("finetuning", "fine_tune"),
        ("transformer.modeling_vanilla", "MultiHeadAttention"),
        ("recurrent.configuration_recurrent", "RecurrentConfig"),
    ],
)
def test_a_former_module_works_with_one_line_of_deprecation(former, name):
    module = importlib.import_module(f"hf_vanilla.{former}")
    with pytest.warns(DeprecationWarning, match=f"hf_vanilla.{former}.{name} is deprecated: it is hf_vanilla") as said:
        found = getattr(module, name)
    assert len(said) == 1 and said[0].filename == __file__
    assert found.__name__ == name
    assert getattr(hf_vanilla, name, found) is found
    with pytest.raises(AttributeError, match=f"'hf_vanilla.{former}' has no attribute 'absent'"):
        _ = module.absent


def test_former_modules_are_there_as_they_were():
    code = """
import hf_vanilla
print(hf_vanilla.decoding.Translator.__name__, hf_vanilla.convert.convert.__name__)
from hf_vanilla.decoding import *
print(Translator is hf_vanilla.Translator)
from hf_vanilla.training import evaluate
import hf_vanilla.training.loop
from hf_vanilla.training import evaluate as again
print(evaluate is again)
import hf_vanilla.attention_maps  # a module's name before, and a function's still
try:
    hf_vanilla.attention_maps()
except TypeError as error:
    print(error)
"""
    *others, error = run(code).splitlines()
    assert " ".join(others).split() == ["Translator", "convert", "True", "True"]
    assert "missing 3 required positional arguments" in error


def test_former_modules_lead_to_modules_that_are_there():
    for former, places in _former_names.FORMER.items():
        assert find_spec(f"hf_vanilla.{former}"), former
        for place in places:
            importlib.import_module(f"hf_vanilla.{place}")


def test_a_room_that_was_a_module_gives_its_modules_without_a_warning():
    """Python asks a package for a name before it imports a module of that name."""
    code = "import warnings; warnings.simplefilter('error')\n"
    code += "from hf_vanilla.training import distributed, loop, state; from hf_vanilla.finetuning import run, labels\n"
    assert run(code + "print(distributed.__name__, run.__name__)").split() == [
        "hf_vanilla.training.distributed",
        "hf_vanilla.finetuning.run",
    ]
