"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import hf_vanilla

FIRST = """
VanillaConfig VanillaForConditionalGeneration VanillaEncoderForMaskedLM VanillaDecoderForCausalLM
RecurrentForConditionalGeneration train_tokenizer Translator beam_search attention_maps from_hf to_hf
MultiHeadAttention SinusoidalPositionalEmbedding shift_right noam_schedule cross_entropy
""".split()
EXAMPLES = {
    example.name.rpartition(".")[2]: example
    for module in pkgutil.walk_packages(hf_vanilla.__path__, "hf_vanilla.")
    if not module.ispkg and not module.name.endswith("__main__")
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name))
    if example.examples
}


def test_names_that_come_first_have_an_example():
    assert not set(FIRST) - set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_says(name):
    said = []
    failed, tried = doctest.DocTestRunner().run(EXAMPLES[name], out=said.append)
    assert tried and not failed, "".join(said)
