"""What a process computes with, and what it can have for nothing."""

import ctypes
import functools
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "huggingface_hub")


@functools.cache
def use_onednn_for_float32() -> bool:
    """Let oneDNN make the float32 matrix products of this process, if it is on an AMD CPU and they are as exact there.

    MKL is slow on AMD's CPUs; torch goes round it where "medium" precision of products is allowed. That is float32 all
    the same unless the CPU multiplies bfloat16 matrices (AMX), so one product is made and looked at. A precision that
    was set before stays, and so does one where there is a GPU, which it would change.

    Returns:
        Whether oneDNN makes them.
    """
    if float32_precision() != "highest" or torch.cuda.is_available():
        return False
    if not is_amd() or not torch.backends.mkldnn.is_available():
        return False
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    if (left @ right - exact).norm() < 1e-6 * exact.norm():
        return True
    torch.set_float32_matmul_precision("highest")
    return False


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what a step frees for the next one. By default it returns large tensors to the system after every
    use, and a CPU step takes 1.0 to 1.9 times as long. What was set before by MALLOC_... or GLIBC_TUNABLES stays.

    Returns:
        Whether it does so now.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # as in malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, 2**30) for name in (m_trim_threshold, m_top_pad, m_mmap_threshold))


def float32_precision() -> str:
    """That of matrix products."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not mix two ways of setting it
        return "as torch.backends says"


def is_amd() -> bool:
    """Whether AMD made the processor, so far as Linux says."""
    return "AuthenticAMD" in read(Path("/proc/cpuinfo"))


def read(path: Path) -> str:
    """What Linux says there; nothing on other systems."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def choose_precision(requested: str) -> str:
    """`"auto"` is bf16 where the hardware computes faster in it, else float32.

    CPUs do with AMX, and AMD's with AVX-512's bf16. Intel's without AMX take 1.5 times as long for a step in it,
    others, which emulate it, up to 100 times.
    """
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and is_amd()) else "no"


def allocator() -> str:
    """What gives this process its memory, and what was set to keep it from returning what the next step needs."""
    loaded = read(Path("/proc/self/maps"))
    for name in ("tcmalloc", "jemalloc", "mimalloc"):
        if name in loaded:
            return name
    thresholds = [
        name for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES") if name in os.environ
    ]
    name = " ".join(filter(None, platform.libc_ver())) or "the system's"
    if keep_freed_memory.cache_info().currsize and keep_freed_memory():
        return f"{name}, which keeps what is freed"
    return f"{name}, {' and '.join(thresholds)} set" if thresholds else name


def cpu() -> str:
    """The processor's name."""
    names = [line.split(":")[1].strip() for line in read(Path("/proc/cpuinfo")).splitlines() if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def hardware() -> str:
    """What this process computes on, for a model card."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{cpu()}, {torch.get_num_threads()} thread(s)"


def describe() -> dict[str, str]:
    """What is in force in this process, for a report of a defect or of a speed: names and values to print."""
    # Not at the top: importing transformers registers the families, whose modules import this one.
    from transformers.utils.import_utils import is_flash_attn_2_available

    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    # These two switches are for CPUs, too.
    kernels = {"flash": torch.backends.cuda.flash_sdp_enabled(), "math": torch.backends.cuda.math_sdp_enabled()}
    if devices:
        kernels["memory-efficient"] = torch.backends.cuda.mem_efficient_sdp_enabled()
        kernels["cuDNN"] = torch.backends.cuda.cudnn_sdp_enabled()
    return {
        "hf_vanilla": importlib.metadata.version("hf_vanilla"),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "CPU": f"{cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "GPU": ", ".join(devices) or "none",
        "float32 products": float32_precision(),
        "bfloat16": "faster in training than float32" if choose_precision("auto") == "bf16" else "slower in training",
        "allocator": allocator(),
        "attention": "sdpa by " + ", ".join(kernel for kernel, enabled in kernels.items() if enabled),
        "flash_attention_2": "installed" if is_flash_attn_2_available() else "not installed",
    }
