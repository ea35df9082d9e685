"""Training runs of seconds, for the tests of every room that needs one.

The file is also the script of processes that train as each of the files says that they are given. Accelerate shards
on GPUs alone; where its environment asks for FSDP, these processes tell it that they are on some, and it shards on the
CPU, over gloo, by the calls that it makes there. Autocast then normalises in float32, as it does there.
"""

import dataclasses
import json
import os
import random
import sys
from pathlib import Path

import pytest

from hf_vanilla.training.config import TrainingConfig

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs", "ten": "zehn"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny model, without dropout, of a language that is translated word by word."""
    folder = tmp_path_factory.mktemp("corpus")
    randomness = random.Random(0)
    sentences = [randomness.choices(list(WORDS), k=randomness.randint(2, 7)) for _ in range(600)]
    (folder / "en").write_text("".join(" ".join(words) + "\n" for words in sentences), encoding="utf-8")
    translations = [" ".join(map(WORDS.get, words)) for words in sentences]
    (folder / "de").write_text("".join(f"{words}\n" for words in translations), encoding="utf-8")
    documents = [" ".join(randomness.choices(list(WORDS), k=randomness.randint(20, 60))) for _ in range(200)]
    (folder / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return TrainingConfig(
        output_dir=str(folder / "run"),
        corpus=str(folder / "en"),
        target_path=str(folder / "de"),
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        dropout=0.0,
        batch_tokens=400,
        schedule="linear",
        learning_rate=1e-2,
        warmup_steps=5,
        max_steps=20,
        log_every=1,
        average_last=1,
        evaluations=2,
        bleu_sentences=5,
        mixed_precision="no",
    )


def of_task(config, task, **changes):
    """The same for another task."""
    if task != "translation":
        corpus = str(Path(config.corpus).with_name("documents.jsonl"))
        changes |= {"corpus": corpus, "target_path": None, "max_length": 32, "label_smoothing": 0.0}
    return dataclasses.replace(config, task=task, **changes)


if __name__ == "__main__":
    from accelerate import Accelerator, DistributedType, PartialState
    from accelerate.state import AcceleratorState
    from torch.nn import functional as F

    from hf_vanilla.training import distributed, loop

    layer_norm = F.layer_norm

    def in_float32(states, shape, *parameters, eps=1e-5):
        return layer_norm(states.float(), shape, *(each.float() for each in parameters[:2]), *parameters[2:] or (eps,))

    leave_together = distributed.leave_together
    # Processes can form a group only once, so it must outlast all runs but the last.
    distributed.leave_together = Accelerator.wait_for_everyone
    for path in sys.argv[1:]:
        AcceleratorState._reset_state()  # which keeps the precision of the first
        if os.environ.get("ACCELERATE_USE_FSDP"):
            PartialState(cpu=True)._shared_state["distributed_type"] = DistributedType.MULTI_GPU
            F.layer_norm = in_float32
        loop.train(TrainingConfig.load(path))
    leave_together(Accelerator())
