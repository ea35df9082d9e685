"""What the training loop costs beyond forward, backward and optimiser step.

    python scripts/benchmark_training.py scripts/configs/verses_demo.yaml --updates 40 --rounds 5

Rounds of the loop of `hf_vanilla.training` (its log, but no validation or checkpoint) alternate with rounds of a
bare loop over the same batches, already collated; the table shows the median time of an update of each, and the ratio
with its spread over the rounds.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from hf_vanilla.objectives import label_smoothed_cross_entropy
from hf_vanilla.optim import adam, noam_schedule
from hf_vanilla.run_log import read_records
from hf_vanilla.tasks import TASKS
from hf_vanilla.training import choose_precision, train
from hf_vanilla.training_config import TrainingConfig


def time_loop(config: TrainingConfig, updates: int) -> list[float]:
    """Seconds an update in our loop, one figure for each line of its log."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"output_dir": folder, "max_steps": updates, "train_minutes": None, "log_every": 10, "average_last": 1}
        own |= {"schedule": "noam", "evaluations": 1, "bleu_sentences": 0, "average_every": 10**6}
        train(dataclasses.replace(config, learning_rate=1.0, checkpoint_every=10**6, **own))
        records = [record for record in read_records(Path(folder) / "log.jsonl") if "seconds_per_update" in record]
    return [record["seconds_per_update"] for record in records[1:]]


def time_bare(config: TrainingConfig, updates: int) -> list[float]:
    """Seconds an update of forward, backward and optimiser step alone, one figure for each ten of them."""
    task, accelerator = (
        TASKS[config.task](config),
        Accelerator(mixed_precision=choose_precision(config.mixed_precision)),
    )
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    set_seed(config.seed)
    model = task.build_model(tokenizer)
    batches = task.batches(task.examples(corpus, "train", tokenizer), tokenizer, model, accelerator)
    optimizer = adam(model.parameters())
    schedule = noam_schedule(optimizer, config.hidden_size, config.warmup_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    prepared = [batch for _, (_, _, (batch,)) in zip(range(updates), batches.updates(0, 0), strict=False)]
    seconds = []
    for start in range(0, updates, 10):
        before = time.perf_counter()
        for batch in prepared[start : start + 10]:
            logits, labels = task.logits_and_labels(model, batch.to(accelerator.device))
            loss = label_smoothed_cross_entropy(logits, labels, config.label_smoothing or 0.0)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        loss.item()  # waits for the GPU
        seconds.append((time.perf_counter() - before) / 10)
    return seconds[1:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--updates", type=int, default=40, help="of each round; the first ten warm up (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    options = parser.parse_args()
    config = TrainingConfig.load(options.config)
    rounds = []
    for _ in range(options.rounds):
        bare = statistics.median(time_bare(config, options.updates))
        rounds.append((bare, statistics.median(time_loop(config, options.updates))))
    ratios = sorted(loop / bare for bare, loop in rounds)
    print("| | milliseconds an update, median of rounds |\n|---|---|")
    for name, column in zip(("bare", "loop"), zip(*rounds, strict=True), strict=True):
        print(f"| {name} | {1000 * statistics.median(column):.1f} |")
    print(f"\nloop / bare: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
