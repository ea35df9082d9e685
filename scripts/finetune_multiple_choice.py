"""Fine-tune a model, by the stock Trainer, to choose which of several continuations or answers is right.

    python scripts/generate_reading_tasks.py runs/reading
    python scripts/finetune_multiple_choice.py --train_file runs/reading/choices_train.jsonl \
        --validation_file runs/reading/choices_validation.jsonl --test_file runs/reading/choices_test.jsonl \
        --model_name_or_path runs/masked_lm --output_dir runs/choices --learning_rate 2e-4
    python scripts/finetune_multiple_choice.py --dataset_name allenai/swag --context_column_name sent1 \
        --question_column_name sent2 --choice_column_names ending0 ending1 ending2 ending3 ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_multiple_choice.py ...
    accelerate launch scripts/finetune_multiple_choice.py ...

The model reads the context and, after it, the question (if there is one) with each of the choices, which stand in one
column as a list or in a column each. `--use_peft true` trains LoRA adapters, `--help` explains all arguments, a YAML
file of them may come first. The same command goes on with a run that was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import DatasetDict
from transformers import (
    AutoModelForMultipleChoice,
    DataCollatorForMultipleChoice,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.data.labelled import cell
from hf_vanilla.finetuning.labels import check_choices, check_lengths, check_texts, encode_choice, with_labels
from hf_vanilla.finetuning.run import DataArguments, fine_tune, load_model, load_tokenizer, parse, sequence_limit


@dataclass
class Arguments(DataArguments):
    """The columns to read."""

    context_column_name: str = field(default="context", metadata={"help": "What comes before each choice."})
    question_column_name: str | None = field(default=None, metadata={"help": "What each choice is to go on with."})
    choice_column_names: list[str] = field(
        default_factory=lambda: ["choices"], metadata={"help": "One column of lists, or one of texts for each choice."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Which choice is right, from 0."})


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, TrainingArguments, args, metric_for_best_model="accuracy")
    splits = data.load()
    context, question, columns = data.context_column_name, data.question_column_name, data.choice_column_names
    for column, argument in ((context, "context_column_name"), (question, "question_column_name")):
        if column is not None:
            check_texts(splits, column, argument)
    count = check_choices(splits, columns)
    labels = encode_choice(splits, data.label_column_name, count)

    def choices_of(row: dict[str, Any]) -> list[str]:
        choices = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
        return [f"{row[question]} {choice}" for choice in choices] if question else choices

    learned = (text for row in splits["train"] for text in (row[context], *choices_of(row)))
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "encoder")

    def build() -> Any:
        return load_model(AutoModelForMultipleChoice, model_arguments, tokenizer)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)
    # Of the two texts the context gives way: a choice that is cut might be another one.
    cut = {"truncation": "only_first" if data.max_seq_length else False, "max_length": data.max_seq_length}

    def tokenize(row: dict[str, Any], index: int, split: str) -> dict[str, Any]:
        choices = choices_of(row)
        longest = max(map(len, tokenizer(["" for _ in choices], choices)["input_ids"]))
        if data.max_seq_length and longest >= data.max_seq_length:
            raise ValueError(
                f"{cell(split, index, columns[0])}: a choice has {longest} tokens, max_seq_length is "
                f"{data.max_seq_length}: no room for the context"
            )
        batch = tokenizer([row[context]] * len(choices), choices, **cut)
        return {**batch, "length": max(map(len, batch["input_ids"]))}  # for `group_by_length`

    encoded = DatasetDict()
    with arguments.main_process_first():
        for split, rows in splits.items():
            options = {"with_indices": True, "fn_kwargs": {"split": split}}
            encoded[split] = rows.map(tokenize, remove_columns=rows.column_names, **options)
            check_lengths(encoded[split]["length"], split, context, limit)
    collate = DataCollatorForMultipleChoice(tokenizer)

    def collate_any(rows: list[dict[str, Any]]) -> dict[str, Any]:
        if "labels" in rows[0]:
            return collate(rows)
        # The stock collator wants labels, which the test split need not have.
        return {name: ids for name, ids in collate([{**row, "labels": 0} for row in rows]).items() if name != "labels"}

    fine_tune(
        Trainer,
        model,
        model_arguments,
        data,
        arguments,
        with_labels(encoded, labels),
        build,
        lambda prediction: prediction.predictions.argmax(-1).tolist(),
        processing_class=tokenizer,
        data_collator=collate_any,
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    main()
