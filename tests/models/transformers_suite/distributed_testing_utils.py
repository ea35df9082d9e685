"""Start the processes of a distributed test, under the names by which transformers' tests import what does so.

They run on the CPU and talk over gloo. They come from a fork server, which imports torch and transformers once.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(
    ["torch", "torch.distributed.fsdp", "transformers.testing_utils", "transformers.modeling_utils"]
)


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    """Nothing to choose: all ranks share the CPU."""


def _one_thread(rank: int, function: Callable[..., None], *args: Any) -> None:
    torch.set_num_threads(1)
    function(rank, *args)


def _start_rank_processes(function: Callable[..., None], args: tuple = (), nprocs: int = 2) -> None:
    """Run `function(rank, *args)` in `nprocs` processes, wait for all, and raise what the first to fail raised."""
    mp.start_processes(_one_thread, args=(function, *args), nprocs=nprocs, start_method="forkserver")


def _join_group(rank: int, world_size: int, store: str, function: Callable[..., None], *args: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate `function(rank, *args)` to run in a process group of `world_size` ranks when called with `*args`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                store = os.path.join(folder, "store")
                _start_rank_processes(_join_group, (world_size, store, function, *args), world_size)

        return run

    return decorate
