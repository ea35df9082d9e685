"""Fine-tune a model, by the stock Seq2SeqTrainer, to translate, or to turn texts into texts in any other way.

    python scripts/finetune_translation.py --dataset_name verses --model_name_or_path runs/verses_demo \
        --output_dir runs/verses_tuned --label_smoothing_factor 0.1 --predict_with_generate true \
        --per_device_train_batch_size 32 --learning_rate 2e-4 --num_train_epochs 1
    python scripts/finetune_translation.py --dataset_name wmt16 --dataset_config_name de-en \
        --source_column_name translation.de --target_column_name translation.en ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_translation.py ...
    accelerate launch scripts/finetune_translation.py ...

With `--predict_with_generate true` it is scored by sacreBLEU and chrF, of translations with `--generation_num_beams`.
`--use_peft true` trains LoRA adapters, `--help` explains all arguments, a YAML file of them may come first. The same
command goes on with a run that was interrupted. `hf-vanilla train` trains from nothing, faster, by the paper's recipe.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.finetuning import (
    DataArguments,
    fine_tune,
    load_model,
    load_tokenizer,
    parse,
    sequence_limit,
    write_predictions,
)
from hf_vanilla.labelled import check_lengths, check_texts
from hf_vanilla.metrics import TranslationQuality


@dataclass
class Arguments(DataArguments):
    """The columns to read."""

    source_column_name: str = field(default="source", metadata={"help": "What is translated; `a.b` is b of a."})
    target_column_name: str = field(default="target", metadata={"help": "Its translation."})
    source_prefix: str = field(default="", metadata={"help": "Put before each source, as T5 wants it."})


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, Seq2SeqTrainingArguments, args)
    splits = data.load().flatten()
    source, target = data.source_column_name, data.target_column_name
    check_texts(splits, source, "source_column_name")
    check_texts(splits, target, "target_column_name")
    learned = (row[column] for column in (source, target) for row in splits["train"])
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "seq2seq")

    def build() -> Any:
        return load_model(AutoModelForSeq2SeqLM, model_arguments, tokenizer)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)

    def tokenize(rows: dict[str, list[str]]) -> Any:
        cut = {"truncation": data.max_seq_length is not None, "max_length": data.max_seq_length}
        return tokenizer([data.source_prefix + text for text in rows[source]], text_target=rows[target], **cut)

    with arguments.main_process_first():
        for split, rows in splits.items():
            splits[split] = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
    for split, rows in splits.items():
        check_lengths(map(len, rows["input_ids"]), split, source, limit)
        check_lengths(map(len, rows["labels"]), split, target, limit)

    def decode(ids: np.ndarray) -> list[str]:
        ids = np.where(ids == -100, tokenizer.pad_token_id, ids)
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def compute_metrics(prediction: EvalPrediction, split: str = "validation") -> dict[str, float]:
        # Of several processes, Seq2SeqTrainer returns what fills the last batch up as well.
        texts, references = (
            decode(ids[: len(splits[split])]) for ids in (prediction.predictions, prediction.label_ids)
        )
        scores = TranslationQuality().compute(predictions=texts, references=[[text] for text in references])
        return {"bleu": scores["bleu"], "chrf": scores["chrf"]}

    generates = arguments.predict_with_generate
    trainer, prediction = fine_tune(
        Seq2SeqTrainer,
        model,
        model_arguments,
        data,
        arguments,
        splits,
        build,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=compute_metrics if generates else None,
        test_metrics=functools.partial(compute_metrics, split="test") if generates else None,
    )
    if prediction is not None and generates:
        write_predictions(trainer, decode(prediction.predictions[: len(splits["test"])]))


if __name__ == "__main__":
    main()
