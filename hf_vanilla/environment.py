"""What a process computes with, and settings that make it faster at no cost."""

import ctypes
import functools
import importlib.metadata
import os
import platform
from pathlib import Path

import torch


@functools.cache
def use_onednn_for_float32() -> bool:
    """Let oneDNN compute float32 matrix products on an AMD CPU, if it is as exact as MKL, and return whether it does.

    MKL is slow on CPUs of AMD, and torch avoids it only if products may have "medium" precision. These still are
    float32, unless the CPU multiplies bfloat16 matrices (AMX), so the error of one product is measured. Nothing
    changes if a precision was set before, or if there is a GPU, whose products would change as well.
    """
    possible = is_amd() and torch.backends.mkldnn.is_available() and not torch.cuda.is_available()
    if not possible or float32_precision() != "highest":
        return False
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    is_exact = bool((left @ right - exact).norm() < 1e-6 * exact.norm())
    torch.set_float32_matmul_precision("medium" if is_exact else "highest")
    return is_exact


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep the memory that a step frees for the next step, and return whether it does.

    By default it returns large tensors to the system after every use, and a step on the CPU takes 1.0 to 1.9 times as
    long. Nothing changes if the environment has MALLOC_... or GLIBC_TUNABLES.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # the parameters' numbers in malloc.h
    return all(ctypes.CDLL(None).mallopt(name, 2**30) for name in (m_trim_threshold, m_top_pad, m_mmap_threshold))


def float32_precision() -> str:
    """Return torch's setting for the precision of float32 matrix products."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not mix two ways of setting it
        return "as torch.backends says"


def is_amd() -> bool:
    """True if Linux says that AMD made the processor."""
    return "AuthenticAMD" in read(Path("/proc/cpuinfo"))


def read(path: Path) -> str:
    """Return the text of a file of Linux, and an empty one on other systems."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def choose_precision(requested: str) -> str:
    """Return the precision to train in: for `"auto"`, `"bf16"` where the hardware is faster in it, else `"no"`.

    CPUs with AMX are faster in it, and those of AMD with the bf16 of AVX-512. Those of Intel without AMX take 1.5
    times as long for a step, and others, which emulate it, up to 100 times.
    """
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and is_amd()) else "no"


def allocator() -> str:
    """Return the name of the memory allocator, and which settings keep it from returning memory to the system."""
    loaded = read(Path("/proc/self/maps"))
    for name in ("tcmalloc", "jemalloc", "mimalloc"):
        if name in loaded:
            return name
    settings = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
    thresholds = [setting for setting in settings if setting in os.environ]
    name = " ".join(filter(None, platform.libc_ver())) or "the system's"
    if keep_freed_memory.cache_info().currsize and keep_freed_memory():
        return f"{name}, which keeps what is freed"
    return f"{name}, {' and '.join(thresholds)} set" if thresholds else name


def cpu() -> str:
    """Return the name of the processor."""
    names = (line.split(":")[1].strip() for line in read(Path("/proc/cpuinfo")).splitlines() if "model name" in line)
    return next(names, platform.processor() or platform.machine())


def hardware() -> str:
    """Return what this process computes on, for a model card."""
    gpu = torch.cuda.is_available()
    return torch.cuda.get_device_name() if gpu else f"{cpu()}, {torch.get_num_threads()} thread(s)"


def waiting() -> str:
    """Return what the environment says about how threads wait for each other."""
    chosen = [f"{name}={os.environ[name]}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ]
    return ", ".join(chosen) or "they wait as OpenMP has it"


def describe() -> dict[str, str]:
    """Return versions, hardware and settings of this process by name, for a report of a bug or of a speed."""
    # Not at the top: importing transformers registers the families, whose modules import this one.
    from transformers.utils.import_utils import is_flash_attn_2_available

    packages = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "huggingface_hub")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cuda = torch.backends.cuda  # its first two switches hold for CPUs, too
    kernels = {"flash": cuda.flash_sdp_enabled(), "math": cuda.math_sdp_enabled()}
    if devices:
        kernels |= {"memory-efficient": cuda.mem_efficient_sdp_enabled(), "cuDNN": cuda.cudnn_sdp_enabled()}
    return {
        "hf_vanilla": importlib.metadata.version("hf_vanilla"),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{name: importlib.metadata.version(name) for name in packages},
        "CPU": f"{cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores; {waiting()}",
        "GPU": ", ".join(devices) or "none",
        "float32 products": float32_precision(),
        "bfloat16": "faster in training than float32" if choose_precision("auto") == "bf16" else "slower in training",
        "allocator": allocator(),
        "attention": "sdpa by " + ", ".join(kernel for kernel, enabled in kernels.items() if enabled),
        "flash_attention_2": "installed" if is_flash_attn_2_available() else "not installed",
    }
