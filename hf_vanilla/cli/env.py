"""`hf-vanilla env`."""

import argparse


def run_env(options: argparse.Namespace) -> None:
    """Print versions, hardware and settings, for a report of a defect or of a speed.

    example: hf-vanilla env
    """
    from hf_vanilla.environment import describe, keep_freed_memory, use_onednn_for_float32

    keep_freed_memory(), use_onednn_for_float32()  # as the other verbs do
    for name, value in describe().items():
        print(f"{name}: {value}")


VERBS = {"env": (None, run_env)}
