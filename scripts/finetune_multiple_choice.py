r"""Fine-tune a model, by the stock Trainer, to choose which of several continuations or answers is right.

    python scripts/generate_reading_tasks.py runs/reading
    python scripts/finetune_multiple_choice.py --train_file runs/reading/choices_train.jsonl \
        --validation_file runs/reading/choices_validation.jsonl --test_file runs/reading/choices_test.jsonl \
        --model_name_or_path runs/masked_lm --output_dir runs/choices --learning_rate 2e-4
    python scripts/finetune_multiple_choice.py --dataset_name allenai/swag --context_column_name sent1 \
        --question_column_name sent2 --choice_column_names ending0 ending1 ending2 ending3 ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_multiple_choice.py ...
    accelerate launch scripts/finetune_multiple_choice.py ...

The model reads the context and, after it, the question (if there is one) with each of the choices, which stand in one
column as a list or in a column each. `--use_peft true` trains LoRA adapters, `--help` explains all arguments, and a
YAML file of them may come first. The same command continues a run that was interrupted.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForMultipleChoice, Trainer, TrainingArguments

from hf_vanilla.cli.streams import run_program
from hf_vanilla.finetuning import answers
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.labels import check_texts, with_labels
from hf_vanilla.finetuning.metrics import ClassScores
from hf_vanilla.finetuning.run import check_lengths, encode, fine_tune, get_model, get_tokenizer, sequence_limit


@dataclass
class Arguments(FineTuningArguments):
    """The columns to read."""

    context_column_name: str = option("context", "What comes before each choice.")
    question_column_name: str | None = option(None, "What each choice is to go on with.")
    choice_column_names: list[str] = field(
        default_factory=lambda: ["choices"], metadata={"help": "One column of lists, or one of texts for each choice."}
    )
    label_column_name: str = option("label", "Which choice is right, from 0.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, TrainingArguments, args, metric_for_best_model="accuracy")
    splits = arguments.load_splits()
    context, question = arguments.context_column_name, arguments.question_column_name
    check_texts(splits, context, "context_column_name")
    if question is not None:
        check_texts(splits, question, "question_column_name")
    columns = arguments.choice_column_names
    count = answers.check_choices(splits, columns)
    labels = answers.encode_right_choices(splits, arguments.label_column_name, count)

    texts = (text for row in splits["train"] for text in (row[context], *answers.choices_of(row, columns, question)))
    tokenizer = get_tokenizer(arguments, training, texts, "encoder")
    model = get_model(AutoModelForMultipleChoice, arguments, tokenizer)
    limit = sequence_limit(model, tokenizer, arguments.max_seq_length)
    how = {"context": context, "question": question, "columns": columns, "max_length": arguments.max_seq_length}
    encoded = encode(splits, training, answers.encode_choices, tokenizer=tokenizer, **how)
    check_lengths(encoded, context, limit)

    def compute_metrics(prediction, split):
        chosen = prediction.predictions.argmax(-1)
        return {"accuracy": ClassScores().compute(predictions=chosen, references=prediction.label_ids)["accuracy"]}

    def choose(scores, split):
        return scores.argmax(-1).tolist()

    collator, encoded = answers.ChoiceCollator(tokenizer), with_labels(encoded, labels)
    fine_tune(Trainer, model, tokenizer, collator, encoded, arguments, training, compute_metrics, choose)


if __name__ == "__main__":
    run_program(main)
