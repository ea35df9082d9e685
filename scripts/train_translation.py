"""Train a translation model from scratch, on one process or on many, with the same result.

    python scripts/train_translation.py scripts/configs/tiny.yaml --output_dir runs/mine
    accelerate launch --num_processes 8 scripts/train_translation.py CONFIG.yaml
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/train_translation.py CONFIG.yaml

Any field of `TrainingConfig` can follow the file as `--field value`.
"""

import sys

from hf_vanilla.training import TrainingConfig, train

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} CONFIG.yaml [--field value ...]")
    train(TrainingConfig.load(sys.argv[1], sys.argv[2:]))
