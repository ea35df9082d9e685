"""What a run writes for its user: the examples of a loss that is not finite, samples, and a summary."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.data.built_in import BUILT_IN
from hf_vanilla.data.hub_names import hub_id
from hf_vanilla.environment import hardware
from hf_vanilla.training.state import SUMMARY, RunState
from hf_vanilla.training.tasks import Task
from hf_vanilla.translation.loading import side_by_side
from hf_vanilla.translation.translator import Translator


def describe_examples(
    micro_batches: Sequence[BatchEncoding], tokenizer: PreTrainedTokenizerBase, folder: Path, innocent: bool
) -> str:
    """Return a description of the examples of the update, and write them to `bad_examples.json`.

    A process is `innocent` if its own loss is finite, and that of another is not: its examples are left out.
    """
    ids = [row for batch in micro_batches for row in batch["input_ids"].tolist()]
    found = gather_object([] if innocent else tokenizer.batch_decode(ids, skip_special_tokens=True))
    path = folder / "bad_examples.json"
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    return f"a batch of {len(found)} examples (in {path}), the first of them {found[0][:80]!r}"


def write_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, str]], folder: Path
) -> None:
    """Write five validation examples for the model's card into `samples.jsonl`: texts, or sentences and translations.

    Translations are printed as well. Those of the saved model can be compared with them.
    """
    rows = list(itertools.islice(rows, 1000))
    some = rows[:: math.ceil(len(rows) / 5)]
    samples = [{"text": row["text"][:500]} for row in some if "text" in row]
    if not samples:
        sources = [row["source"] for row in some]
        translations = Translator(model, tokenizer)(sources)
        print(side_by_side(sources, translations, [[row["target"]] for row in some], 5), end="\n\n")
        pairs = zip(some, translations, strict=True)
        samples = [{"source": row["source"], "target": row["target"], "translation": text} for row, text in pairs]
    lines = (json.dumps(sample, ensure_ascii=False) for sample in samples)
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_summary(
    task: Task,
    command: str | None,
    state: RunState,
    scores: dict[str, float],
    accelerator: Accelerator,
    **measured: Mapping[str, object],
) -> None:
    """Write what a model card says about a run into `training_summary.json`; `measured` are further entries."""
    config = task.config
    packages = ("hf-vanilla", "torch", "transformers", "datasets", "tokenizers", "accelerate")
    summary = {
        "command": command,
        "configuration": dataclasses.asdict(config),
        "updates": state.step,
        "skipped_updates": state.skipped,
        "epochs": state.epoch + bool(state.next_update),
        "seconds": state.elapsed,
        "target_tokens": state.target_tokens,
        "training_examples": state.examples,
        "dropped_examples": dict(task.dropped),
        "splits": state.splits,
        "hub": {
            "dataset": None if config.target_path or config.corpus in BUILT_IN else hub_id(config.corpus),
            "base_model": hub_id(config.initial_model),
        },
        "final": scores,
        "best_validation_loss": state.best_validation_loss,
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else accelerator.device.type,
        "hardware": hardware(),
        "distributed_type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        **measured,
    }
    Path(config.output_dir, SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")
