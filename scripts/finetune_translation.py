"""Fine-tune a model, by the stock Seq2SeqTrainer, to translate, or to turn texts into texts in any other way.

    python scripts/finetune_translation.py --dataset_name verses --model_name_or_path runs/verses_demo \
        --output_dir runs/verses_tuned --label_smoothing_factor 0.1 \
        --per_device_train_batch_size 32 --learning_rate 2e-4 --num_train_epochs 1
    python scripts/finetune_translation.py --dataset_name wmt16 --dataset_config_name de-en \
        --source_column_name translation.de --target_column_name translation.en ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_translation.py ...
    accelerate launch scripts/finetune_translation.py ...

It is scored by sacreBLEU and chrF, of translations with `--generation_num_beams`, unless `--predict_with_generate
false` leaves that out. `--use_peft true` trains LoRA adapters, `--help` explains all arguments, a YAML file of them
may come first. The same command goes on with a run that was interrupted. `hf-vanilla train` trains from nothing,
faster, by the paper's recipe.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.finetuning.labels import check_lengths, check_texts, with_test_labels
from hf_vanilla.finetuning.run import DataArguments, fine_tune, load_model, load_tokenizer, parse, sequence_limit
from hf_vanilla.translation.metrics import TranslationQuality


@dataclass
class Arguments(DataArguments):
    """The columns to read."""

    source_column_name: str = field(default="source", metadata={"help": "What is translated; `a.b` is b of a."})
    target_column_name: str = field(default="target", metadata={"help": "Its translation."})
    source_prefix: str = field(default="", metadata={"help": "Put before each source, as T5 wants it."})


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, Seq2SeqTrainingArguments, args, predict_with_generate=True)
    splits = data.load().flatten()
    source, target = data.source_column_name, data.target_column_name
    check_texts(splits, source, "source_column_name")
    translated = with_test_labels(splits, target)
    check_texts(translated, target, "target_column_name")
    learned = (row[column] for column in (source, target) for row in splits["train"])
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "seq2seq")

    def build() -> Any:
        return load_model(AutoModelForSeq2SeqLM, model_arguments, tokenizer)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)

    def tokenize(rows: dict[str, list[str]], targets: str | None) -> Any:
        cut = {"truncation": data.max_seq_length is not None, "max_length": data.max_seq_length}
        texts = [data.source_prefix + text for text in rows[source]]
        return tokenizer(texts, text_target=rows[targets] if targets else None, **cut)

    encoded = DatasetDict()
    with arguments.main_process_first():
        for split, rows in splits.items():
            options: dict[str, Any] = {"fn_kwargs": {"targets": target if split in translated else None}}
            encoded[split] = rows.map(tokenize, batched=True, remove_columns=rows.column_names, **options)
    for split, rows in encoded.items():
        check_lengths(map(len, rows["input_ids"]), split, source, limit)
        check_lengths(map(len, rows["labels"] if split in translated else []), split, target, limit)

    def decode(ids: np.ndarray) -> list[str]:
        ids = np.where(ids == -100, tokenizer.pad_token_id, ids)
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def answers(prediction: Any, split: str) -> list[str]:
        # Of several processes, Seq2SeqTrainer returns what fills the last batch up as well.
        return decode(prediction.predictions[: len(splits[split])])

    def compute_metrics(prediction: EvalPrediction, split: str = "validation") -> dict[str, float]:
        references = [[text.strip()] for text in splits[split][target]]
        scores = TranslationQuality().compute(predictions=answers(prediction, split), references=references)
        return {"bleu": scores["bleu"], "chrf": scores["chrf"]}

    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    generates = arguments.predict_with_generate
    fine_tune(
        Seq2SeqTrainer,
        model,
        model_arguments,
        data,
        arguments,
        encoded,
        build,
        functools.partial(answers, split="test") if generates else None,
        functools.partial(compute_metrics, split="test") if generates else None,
        processing_class=tokenizer,
        # Without labels the stock collator gives None for them, which Seq2SeqTrainer takes for labels.
        data_collator=lambda rows: {name: ids for name, ids in collate(rows).items() if ids is not None},
        compute_metrics=compute_metrics if generates else None,
    )


if __name__ == "__main__":
    main()
