"""The command `hf-vanilla`."""

from hf_vanilla.cli.main import main

__all__ = ["main"]
