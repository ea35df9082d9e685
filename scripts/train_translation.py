"""Train a translation model from scratch, on one process or on many, with the same result.

    python scripts/train_translation.py scripts/configs/base.yaml --output_dir runs/mine
    accelerate launch --config_file scripts/accelerate_configs/ddp.yaml scripts/train_translation.py CONFIG.yaml
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/train_translation.py CONFIG.yaml

`hf-vanilla train --help` explains the fields; any of them can follow the file as `--field value`. The same command
continues a run that was interrupted.
"""

import sys

from hf_vanilla import cli
from hf_vanilla.cli.streams import run_program

if __name__ == "__main__":
    run_program(lambda: cli.main(["train", sys.argv[1], "--task", "translation", *sys.argv[2:]]), __doc__)
