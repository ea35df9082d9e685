r"""Fine-tune a model, by the stock Trainer, to find the answer to a question in a text.

    python scripts/generate_reading_tasks.py runs/reading
    python scripts/finetune_question_answering.py --train_file runs/reading/questions_train.jsonl \
        --validation_file runs/reading/questions_validation.jsonl --test_file runs/reading/questions_test.jsonl \
        --model_name_or_path runs/masked_lm --output_dir runs/questions --max_seq_length 128 --learning_rate 2e-4
    python scripts/finetune_question_answering.py --dataset_name rajpurkar/squad --max_seq_length 384 ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_question_answering.py ...
    accelerate launch scripts/finetune_question_answering.py ...

Rows are as in SQuAD; `--version_2_with_negative true` allows some without an answer. `--use_peft true` trains LoRA
adapters, `--help` explains all arguments, and a YAML file may hold them. The same command goes on with a run.
"""

from dataclasses import dataclass
from itertools import chain

from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, Trainer, TrainingArguments

from hf_vanilla.cli.streams import run_program
from hf_vanilla.finetuning.answers import best_answers, check_questions, encode_questions
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.metrics import AnswerScores
from hf_vanilla.finetuning.run import encode, fine_tune, get_model, get_tokenizer, sequence_limit


@dataclass
class Arguments(FineTuningArguments):
    """The columns to read, and how."""

    question_column_name: str = option("question", "What is asked.")
    context_column_name: str = option("context", "The text that holds the answer.")
    answer_column_name: str = option("answers", "The answers, with text and answer_start.")
    doc_stride: int = option(64, "Tokens that windows of a long text share.")
    max_answer_length: int = option(30, "Tokens of an answer at most.")
    version_2_with_negative: bool = option(False, "Some questions have no answer.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, TrainingArguments, args, metric_for_best_model="f1")
    if training.label_smoothing_factor:
        raise ValueError("label_smoothing_factor: Trainer does not smooth where an answer starts and ends")
    splits = arguments.load_splits()
    columns = (arguments.question_column_name, arguments.context_column_name, arguments.answer_column_name)
    question, context, answers = columns
    splits = check_questions(splits, columns, arguments.version_2_with_negative)

    texts = chain(splits["train"][question], splits["train"][context])
    tokenizer = get_tokenizer(arguments, training, texts, "encoder")
    tokenizer.padding_side = "right"  # the places of an answer are counted from the left
    model = get_model(AutoModelForQuestionAnswering, arguments, tokenizer, num_labels=2)
    limit = sequence_limit(model, tokenizer, arguments.max_seq_length)
    how = {"max_length": arguments.max_seq_length or limit or 384, "stride": arguments.doc_stride}
    windows = encode(splits, training, encode_questions, tokenizer=tokenizer, columns=columns, **how)

    def find_answers(logits, split):
        rule = {"longest": arguments.max_answer_length, "may_be_missing": arguments.version_2_with_negative}
        return best_answers(logits, windows[split], splits[split][context], **rule)

    def compute_metrics(prediction, split):
        right = [row["text"] for row in splits[split][answers]]
        return AnswerScores().compute(predictions=find_answers(prediction.predictions, split), references=right)

    collator = DataCollatorWithPadding(tokenizer)
    fine_tune(Trainer, model, tokenizer, collator, windows, arguments, training, compute_metrics, find_answers)


if __name__ == "__main__":
    run_program(main)
