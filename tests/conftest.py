"""Fixtures of all tests: a training run of seconds, and what no test may leave to the next one."""

import pytest
from accelerate.state import AcceleratorState
from runs import config as config


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps the precision of a process's first run, which "auto" chooses by the CPU."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
