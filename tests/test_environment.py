"""What a process computes with, and what it can have for nothing."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from hf_vanilla import environment
from hf_vanilla.cli.main import main


@pytest.fixture(autouse=True)
def amd(monkeypatch):
    """A CPU of AMD, and the precision as it was afterwards."""
    monkeypatch.setattr(environment, "read", lambda path: "vendor_id : AuthenticAMD\nmodel name : EPYC\n")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    environment.use_onednn_for_float32.cache_clear()
    environment.keep_freed_memory.cache_clear()
    yield
    environment.use_onednn_for_float32.cache_clear()
    torch.set_float32_matmul_precision(before)


def test_products_stay_exact_where_onednn_makes_them():
    used = environment.use_onednn_for_float32()
    # A CPU with AMX rounds where this is allowed, whoever made it.
    assert used == environment.use_onednn_for_float32()
    assert used == (torch.backends.mkldnn.is_available() and not torch.cpu.get_capabilities().get("amx_bf16"))
    assert torch.get_float32_matmul_precision() == ("medium" if used else "highest")
    left, right = torch.randn(2, 300, 300)
    exact = left.double() @ right.double()
    assert (left @ right - exact).norm() < 1e-6 * exact.norm()


def test_a_cpu_that_rounds_is_left_alone(monkeypatch):
    """As one with AMX would, which multiplies bfloat16."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: randn(*args, **kwargs).bfloat16())
    assert not environment.use_onednn_for_float32()
    assert torch.get_float32_matmul_precision() == "highest"


def test_other_cpus_and_choices_are_left_alone(monkeypatch):
    torch.set_float32_matmul_precision("high")
    assert not environment.use_onednn_for_float32()
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    environment.use_onednn_for_float32.cache_clear()
    monkeypatch.setattr(environment, "read", lambda path: "vendor_id : GenuineIntel")
    assert not environment.use_onednn_for_float32()
    assert torch.get_float32_matmul_precision() == "highest"


def after(code: str, **variables: str) -> str:
    """What `code` left in `kept`, and whether its fresh process then gets what it frees again, pages and all.

    It does so once it has used all of the 1 GiB that it takes from the system at a time, 128 MiB at every turn.
    """
    code += """
import resource, torch
for _ in range(16):
    torch.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(2**25)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_freed_memory_is_kept_unless_the_user_has_a_say():
    keep = "from hf_vanilla.environment import keep_freed_memory; kept = keep_freed_memory()"
    assert after("kept = False") == "False False"
    assert after(keep) == "True True"
    for chosen in ({"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}):
        assert after(keep, **chosen) == "False False"


@pytest.mark.parametrize(
    ("maps", "variables", "expected"),
    [
        ("/usr/lib/libtcmalloc_minimal.so.4", {}, "tcmalloc"),
        ("/usr/lib/libc.so.6", {"MALLOC_TOP_PAD_": "1"}, "MALLOC_TOP_PAD_ set"),
    ],
)
def test_the_allocator_is_named(monkeypatch, maps, variables, expected):
    monkeypatch.setattr(environment, "read", lambda path: maps)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert expected in environment.allocator()


def test_env_prints_what_is_in_force(capsys):
    main(["env"])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"].startswith(torch.__version__.split("+")[0])
    assert lines["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert lines["float32 products"] == torch.get_float32_matmul_precision() and lines["CPU"].startswith("EPYC")
