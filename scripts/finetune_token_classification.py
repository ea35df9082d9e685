"""Fine-tune a model, by the stock Trainer, to tag words: parts of speech, names.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_token_classification.py --dataset_name brown_tags --model_name_or_path runs/masked_lm \
        --output_dir runs/tags --num_train_epochs 1 --per_device_train_batch_size 32 --learning_rate 2e-4
    python scripts/finetune_token_classification.py --train_file mine.jsonl --tag_column_name ner_tags ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_token_classification.py ...
    accelerate launch scripts/finetune_token_classification.py ...

A row holds a list of words and as many tags. A word is known by its first token. Tags such as B-PER, I-PER and O are
scored by spans as well. `--use_peft true` trains LoRA adapters, `--help` explains all arguments, a YAML file of them
may come first. The same command goes on with a run that was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.labels import agree_with_checkpoint, check_lengths, check_words, class_names, encode_classes
from hf_vanilla.finetuning.metrics import macro_f1, span_f1
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

    text_column_name: str = field(default="tokens", metadata={"help": "The words of a text, a list."})
    tag_column_name: str = field(default="tags", metadata={"help": "A tag for each word, a list."})
    class_names: list[str] | None = field(default=None, metadata={"help": "All tags, in their order."})
    unspaced: bool = field(default=False, metadata={"help": "The words are not to be separated by spaces."})


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, TrainingArguments, args, metric_for_best_model="accuracy")
    splits = data.load()
    words, tags = data.text_column_name, data.tag_column_name
    check_words(splits, words, "text_column_name")
    require_column(DatasetDict(train=splits["train"]), tags, "tag_column_name")
    names = class_names(splits, tags, data.class_names)
    if not data.class_names:
        names = agree_with_checkpoint(names, model_arguments.model_name_or_path, **source_of(model_arguments))
    labels = encode_classes(splits, tags, names, "tag_column_name", beside=words)
    fields = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    learned = (" ".join(row) for row in splits["train"][words])
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "encoder")
    tokenizer.padding_side = "right"  # what is read off a row counts from its first token
    # A byte-level tokenizer takes a word without a space before it for the start of a text.
    space = "" if data.unspaced or "".join(tokenizer.tokenize(" a")) == "a" else " "

    def build() -> Any:
        return load_model(AutoModelForTokenClassification, model_arguments, tokenizer, **fields)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)

    def tokenize(rows: dict[str, list[Any]], indices: list[int], split: str) -> Any:
        cut = {"truncation": data.max_seq_length is not None, "max_length": data.max_seq_length}
        texts = [[(space if i else "") + word for i, word in enumerate(row)] for row in rows[words]]
        batch = tokenizer(texts, is_split_into_words=True, **cut)
        words_of = [batch.word_ids(number) for number in range(len(indices))]
        batch["first"] = [
            [word is not None and word != before for word, before in zip(of, [None, *of], strict=False)]
            for of in words_of
        ]
        for row, own, of, first in zip(indices, rows[words], words_of, batch["first"], strict=True):
            seen = [word for word, is_first in zip(of, first, strict=True) if is_first]
            whole = data.max_seq_length is None or len(of) < data.max_seq_length
            if seen != list(range(len(own) if whole else len(seen))):
                raise ValueError(f"{cell(split, row, words)} holds a word that is no token: leave the row out")
        if split in labels:
            batch["labels"] = [
                [labels[split][row][word] if is_first else -100 for word, is_first in zip(of, first, strict=True)]
                for row, of, first in zip(
                    indices, map(batch.word_ids, range(len(indices))), batch["first"], strict=True
                )
            ]
        return batch

    with arguments.main_process_first():
        for split, rows in splits.items():
            options = {"with_indices": True, "batched": True, "fn_kwargs": {"split": split}}
            splits[split] = rows.map(tokenize, remove_columns=rows.column_names, **options)
            check_lengths(map(len, splits[split]["input_ids"]), split, words, limit)

    def tagged(classes: np.ndarray, kept: Any) -> list[list[str]]:
        return [[names[i] for i in row[: len(at)][at]] for row, at in zip(classes, map(np.array, kept), strict=True)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        classes, kept = prediction.predictions.argmax(-1), prediction.label_ids != -100
        own, right = classes[kept], prediction.label_ids[kept]
        scores = {"accuracy": float((own == right).mean()), "macro_f1": macro_f1(own, right)}
        if any(name.startswith("B-") for name in names):
            scores["span_f1"] = span_f1(tagged(classes, kept), tagged(prediction.label_ids, kept))
        return scores

    fine_tune(
        Trainer,
        model,
        model_arguments,
        data,
        arguments,
        splits,
        build,
        lambda prediction: tagged(prediction.predictions.argmax(-1), splits["test"]["first"]),
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    main()
