"""Train a masked language model (the way to BERT) from scratch, on one process or on many, with the same result.

    python scripts/train_masked_lm.py scripts/configs/masked_lm.yaml --output_dir runs/mine
    accelerate launch --config_file scripts/accelerate_configs/ddp.yaml scripts/train_masked_lm.py CONFIG.yaml
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/train_masked_lm.py CONFIG.yaml

`hf-vanilla train --help` explains the fields; any of them can follow the file as `--field value`. The same command
continues a run that was interrupted.
"""

import sys

from hf_vanilla import cli

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    cli.main(["train", sys.argv[1], "--task", "masked_lm", *sys.argv[2:]])
