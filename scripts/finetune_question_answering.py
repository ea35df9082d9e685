"""Fine-tune a model, by the stock Trainer, to find the answer to a question in a text.

    python scripts/generate_reading_tasks.py runs/reading
    python scripts/finetune_question_answering.py --train_file runs/reading/questions_train.jsonl \
        --validation_file runs/reading/questions_validation.jsonl --test_file runs/reading/questions_test.jsonl \
        --model_name_or_path runs/masked_lm --output_dir runs/questions --max_seq_length 128 --learning_rate 2e-4
    python scripts/finetune_question_answering.py --dataset_name rajpurkar/squad --max_seq_length 384 ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_question_answering.py ...
    accelerate launch scripts/finetune_question_answering.py ...

Rows are as in SQuAD; where some have no answer, add `--version_2_with_negative true`. `--use_peft true` trains LoRA
adapters, `--help` explains all arguments, a YAML file of them may come first. The same command goes on with a run that
was interrupted.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import DatasetDict
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.data.labelled import require_column
from hf_vanilla.finetuning.answers import best_answers, check_answers, encode_questions
from hf_vanilla.finetuning.labels import check_texts, with_test_labels
from hf_vanilla.finetuning.metrics import answer_scores
from hf_vanilla.finetuning.run import DataArguments, fine_tune, load_model, load_tokenizer, parse, sequence_limit


@dataclass
class Arguments(DataArguments):
    """The columns to read, and how."""

    question_column_name: str = field(default="question", metadata={"help": "What is asked."})
    context_column_name: str = field(default="context", metadata={"help": "The text that holds the answer."})
    answer_column_name: str = field(default="answers", metadata={"help": "The answers, with text and answer_start."})
    doc_stride: int = field(default=64, metadata={"help": "Tokens that windows of a long text share."})
    max_answer_length: int = field(default=30, metadata={"help": "Tokens of an answer at most."})
    version_2_with_negative: bool = field(default=False, metadata={"help": "Some questions have no answer."})


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, TrainingArguments, args, metric_for_best_model="f1")
    if arguments.label_smoothing_factor:
        raise ValueError("label_smoothing_factor: Trainer does not smooth where an answer starts and ends")
    splits = data.load()
    columns = (data.question_column_name, data.context_column_name, data.answer_column_name)
    question, context, answers = columns
    check_texts(splits, question, "question_column_name")
    check_texts(splits, context, "context_column_name")
    answered = with_test_labels(splits, answers)
    require_column(answered, answers, "answer_column_name")
    for split, rows in answered.items():
        check_answers(rows, split, context, answers, data.version_2_with_negative)

    learned = (row[column] for column in (question, context) for row in splits["train"])
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: learned, "encoder")
    tokenizer.padding_side = "right"  # what is read off a window counts from its first token

    def build() -> Any:
        return load_model(AutoModelForQuestionAnswering, model_arguments, tokenizer, num_labels=2)

    model = build()
    limit = sequence_limit(model, tokenizer, data.max_seq_length)
    settings = {
        "tokenizer": tokenizer,
        "columns": columns,
        "max_length": data.max_seq_length or limit or 384,
        "stride": data.doc_stride,
    }
    windows = DatasetDict()
    with arguments.main_process_first():
        for split, rows in splits.items():
            rows = rows if split in answered else rows.select_columns([question, context])
            options = {"with_indices": True, "batched": True, "fn_kwargs": settings | {"split": split}}
            windows[split] = rows.map(encode_questions, remove_columns=rows.column_names, **options)

    def read(prediction: Any, split: str) -> list[str]:
        rule = {"max_answer_length": data.max_answer_length, "may_be_missing": data.version_2_with_negative}
        return best_answers(*prediction.predictions[:2], windows[split], splits[split][context], **rule)

    def compute_metrics(prediction: EvalPrediction, split: str = "validation") -> dict[str, float]:
        return answer_scores(read(prediction, split), [row["text"] for row in splits[split][answers]])

    fine_tune(
        Trainer,
        model,
        model_arguments,
        data,
        arguments,
        windows,
        build,
        lambda prediction: read(prediction, "test"),
        functools.partial(compute_metrics, split="test"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    main()
