"""Train the in-tree model of the same size with the stock Trainer: same data, tokenizer, batches, updates, precision.

    hf-vanilla train scripts/configs/verses_small.yaml --max_steps 1000
    python scripts/train_peer.py scripts/configs/verses_small.yaml runs/marian --max_steps 1000
    hf-vanilla evaluate runs/marian --corpus verses

The peer of translation is MarianMTModel, of masked_lm BertForMaskedLM, of causal_lm GPT2LMHeadModel. A run that
`train_minutes` limits ends with them, as ours do. The model without averaging is saved as `last` beside the averaged
one, and the validation scores of both are printed. It cannot be restarted.
"""

import json
import sys
from pathlib import Path

from peers.training import train_peer

from hf_vanilla.cli.streams import run_program
from hf_vanilla.training.config import TrainingConfig


def main(config: TrainingConfig, folder: Path) -> None:
    """Train the peer, and print what it took and its validation scores."""
    print(json.dumps(train_peer(config, folder), indent=2))


if __name__ == "__main__":
    run_program(lambda: main(TrainingConfig.load(sys.argv[1], sys.argv[3:]), Path(sys.argv[2])), __doc__, least=2)
