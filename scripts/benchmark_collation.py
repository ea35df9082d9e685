"""How long a loader takes to read and collate a batch of each task, beside `datasets` and `transformers` alone.

    python scripts/benchmark_collation.py                           # 25,000 tokens, those of the paper's batches
    python scripts/benchmark_collation.py --batch_tokens 100000 --rounds 30

Batches are those of `hf-vanilla train` on the built-in corpora, on one core: rows from the tokenised split, padded,
masked or stacked, with what the host counts of them. Beside it stand the same rows, read as lists of Python, in the
collators of transformers, which mask other tokens than we do, and pack no documents. Prints medians in ms, and how
many times as long the latter took in the same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from datasets import Dataset

from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import hardware
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.tasks import TASKS

CONFIGS = Path(__file__).parent / "configs"
LONGEST = 128
NAMES = {"translation": "verses_demo", "masked_lm": "masked_lm_16", "causal_lm": "causal_lm"}


def stock_collator(task: str, tokenizer: Any, model: Any) -> Callable[[Sequence[dict[str, Any]]], Any]:
    """Return what makes a batch of rows by transformers alone."""
    if task == "translation":
        return transformers.DataCollatorForSeq2Seq(tokenizer, model)
    if task == "masked_lm":
        return transformers.DataCollatorForLanguageModeling(tokenizer)
    return transformers.default_data_collator


def measure(name: str, batch_tokens: int, rounds: int) -> tuple[float, float, float]:
    """Return the median ms of our batches and of the stock ones, and the median ratio of the latter to the former."""
    options = ["--batch_tokens", str(batch_tokens), "--output_dir", "unused", "--max_length", str(LONGEST)]
    task = TASKS[name](TrainingConfig.load(CONFIGS / f"{NAMES[name]}.yaml", options))
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    examples: Dataset = task.examples(corpus, "train", tokenizer)
    model = task.build_model(tokenizer)
    batches, stock = task.batches(examples, tokenizer, model), stock_collator(name, tokenizer, model)
    columns = [column for column in examples.column_names if not column.endswith("_length")]
    examples = examples.select_columns(columns)
    own, theirs = [], []
    if (found := len(batches.source.batches)) < 2:
        raise ValueError(
            f"--batch_tokens is {batch_tokens}: {name} has {found} batch(es) of it; expected fewer tokens"
        )
    for rows in batches.source.batches[: rounds + 1]:  # the first one warms up
        start = time.perf_counter()
        batches.collator(batches.loader.dataset.__getitems__(rows.tolist()))
        middle = time.perf_counter()
        stock(examples.__getitems__(rows.tolist()))
        own.append(1000 * (middle - start))
        theirs.append(1000 * (time.perf_counter() - middle))
    ratios = [after / before for before, after in zip(own[1:], theirs[1:], strict=True)]
    return statistics.median(own[1:]), statistics.median(theirs[1:]), statistics.median(ratios)


def main() -> None:
    """Measure the tasks in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_tokens", type=int, default=25_000, help="(default: 25,000)")
    parser.add_argument("--rounds", type=int, default=9, help="batches of each task (default: 9)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected at least 1")
    PartialState(cpu=True)
    torch.set_num_threads(1)
    print(f"{hardware()}; {options.batch_tokens:,} tokens a batch, ms\n")
    print("| task | ours | datasets and transformers | times as long |\n|---|---|---|---|")
    for name in NAMES:
        try:
            own, theirs, ratio = measure(name, options.batch_tokens, options.rounds)
        except ValueError as error:
            parser.error(str(error))
        print(f"| {name} | {own:.1f} | {theirs:.1f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    run_program(main)
