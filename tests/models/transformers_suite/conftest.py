"""The marks of transformers' tests, which `--strict-markers` wants to know, and which of them are slow."""

import re

import pytest

MARKS = ["accelerate_tests", "torch_compile_test", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"]
MARKS += ["is_training_test", "is_tensor_parallel_test", "is_fsdp_test"]


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: a mark of transformers")


# What torch does with any sharded model alike: one family shows that ours may be sharded so. That the plan of each
# family is right is shown by the tests of FSDP2 against DDP, of its structure, and of saving and loading, in all.
OF_ONE_FAMILY = re.compile(r"transformers_suite.*(hsdp|save_load_dcp|tp_generation_quantized|plan_vs_ddp_0_untied)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if OF_ONE_FAMILY.search(item.nodeid) and "::Seq2SeqTest::" not in item.nodeid:
            item.add_marker("slow")
