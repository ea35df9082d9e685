"""The marks of transformers' tests, which `--strict-markers` wants to know."""

import pytest

MARKS = ["accelerate_tests", "torch_compile_test", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"]
MARKS += ["is_training_test", "is_tensor_parallel_test", "is_fsdp_test"]


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: a mark of transformers")
