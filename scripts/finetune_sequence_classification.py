"""Fine-tune a model, by the stock Trainer, to classify texts or pairs of texts, to label them, or to give a value.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_sequence_classification.py --dataset_name movie_reviews \
        --model_name_or_path runs/masked_lm --output_dir runs/sentiment --learning_rate 1e-4 \
        --num_train_epochs 3 --per_device_train_batch_size 32
    python scripts/finetune_sequence_classification.py --train_file mine.csv --label_column_name topic ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_sequence_classification.py ...
    accelerate launch scripts/finetune_sequence_classification.py ...

Classes are told from labels that are names or integers, values (regression) from labels that are floats, several
labels of a text from lists. `--use_peft true` trains LoRA adapters, `--help` explains all arguments, a YAML file of
them may come first. The same command goes on with a run that was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.data.labelled import require_column
from hf_vanilla.finetuning.labels import (
    agree_with_checkpoint,
    check_lengths,
    check_texts,
    class_names,
    encode_classes,
    encode_values,
    problem_type,
    with_labels,
)
from hf_vanilla.finetuning.metrics import macro_f1
from hf_vanilla.finetuning.run import (
    DataArguments,
    fine_tune,
    load_model,
    load_tokenizer,
    parse,
    sequence_limit,
    source_of,
)


@dataclass
class Arguments(DataArguments):
    """The columns to read."""

    text_column_name: str = field(default="text", metadata={"help": "The text, or the first of two."})
    text_pair_column_name: str | None = field(default=None, metadata={"help": "The second text."})
    label_column_name: str = field(default="label", metadata={"help": "What is learned."})
    class_names: list[str] | None = field(default=None, metadata={"help": "All classes, in their order."})


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro F1 of classes, micro F1 of labels, error and correlation of values."""
    scores, labels = prediction.predictions, prediction.label_ids
    if scores.shape[-1] == 1:
        values = scores[:, 0]
        return {"mse": float(((values - labels) ** 2).mean()), "pearson": float(np.corrcoef(values, labels)[0, 1])}
    if labels.ndim == 2:
        chosen, right = scores > 0, labels > 0.5
        return {"f1": float(2 * (chosen & right).sum() / max(1, chosen.sum() + right.sum()))}
    classes = scores.argmax(-1)
    return {"accuracy": float((classes == labels).mean()), "macro_f1": macro_f1(classes, labels)}


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, TrainingArguments, args)
    splits = data.load()
    texts = [column for column in (data.text_column_name, data.text_pair_column_name) if column]
    for column, argument in zip(texts, ("text_column_name", "text_pair_column_name"), strict=False):
        check_texts(splits, column, argument)
    require_column(DatasetDict(train=splits["train"]), data.label_column_name, "label_column_name")
    kind = problem_type(splits["train"], data.label_column_name)
    if kind != "single_label_classification" and arguments.label_smoothing_factor:
        raise ValueError(f"label_smoothing_factor is for one class a text; the labels ask for {kind}")
    fields: dict[str, Any] = {"problem_type": kind}
    if kind == "regression":
        if data.class_names:
            raise ValueError(f"class_names are given, but {data.label_column_name!r} holds numbers")
        fields["num_labels"] = 1
        labels = encode_values(splits, data.label_column_name, "label_column_name")
    else:
        names = class_names(splits, data.label_column_name, data.class_names)
        if not data.class_names:
            names = agree_with_checkpoint(names, model_arguments.model_name_or_path, **source_of(model_arguments))
        fields |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        labels = encode_classes(splits, data.label_column_name, names, "label_column_name")
    if kind == "multi_label_classification":
        labels = {split: [[float(i in row) for i in range(len(names))] for row in labels[split]] for split in labels}

    learned = (row[column] for column in texts for row in splits["train"])
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "encoder")

    def build() -> Any:
        return load_model(AutoModelForSequenceClassification, model_arguments, tokenizer, **fields)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)

    def tokenize(rows: dict[str, list[str]]) -> Any:
        cut = {"truncation": data.max_seq_length is not None, "max_length": data.max_seq_length}
        return tokenizer(*(rows[column] for column in texts), **cut)

    encoded = DatasetDict()
    with arguments.main_process_first():
        for split, rows in splits.items():
            encoded[split] = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
            check_lengths(map(len, encoded[split]["input_ids"]), split, texts[0], limit)

    def answers(prediction: Any) -> list[Any]:
        scores = prediction.predictions
        if kind == "regression":
            return [float(value) for value in scores[:, 0]]
        if kind == "multi_label_classification":
            return [[names[i] for i in np.flatnonzero(row > 0)] for row in scores]
        return [names[i] for i in scores.argmax(-1)]

    fine_tune(
        Trainer,
        model,
        model_arguments,
        data,
        arguments,
        with_labels(encoded, labels),
        build,
        answers,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        # BART and T5 give more than their scores.
        preprocess_logits_for_metrics=lambda scores, _: scores[0] if isinstance(scores, tuple) else scores,
    )


if __name__ == "__main__":
    main()
