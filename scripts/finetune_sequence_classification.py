r"""Fine-tune a model, by the stock Trainer, to classify texts or pairs of texts, to label them, or to give a value.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_sequence_classification.py --dataset_name movie_reviews \
        --model_name_or_path runs/masked_lm --output_dir runs/sentiment --learning_rate 1e-4 \
        --num_train_epochs 3 --per_device_train_batch_size 32
    python scripts/finetune_sequence_classification.py --train_file mine.csv --label_column_name topic ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_sequence_classification.py ...
    accelerate launch scripts/finetune_sequence_classification.py ...

Names and whole numbers are classes, as they are written; numbers that are not whole are values to learn (regression),
which the log says; lists are several labels of a text. `--problem_type` decides it otherwise.
`--use_peft true` trains LoRA adapters, `--help` explains all arguments, and a YAML file of them may come first. The
same command continues a run that was interrupted.
"""

from dataclasses import dataclass
from itertools import chain

from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from hf_vanilla.cli.streams import run_program
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.labels import PROBLEM_TYPES, check_texts, encode_text_labels, with_labels
from hf_vanilla.finetuning.metrics import TEXT_SCORES
from hf_vanilla.finetuning.run import check_lengths, encode, fine_tune, get_model, get_tokenizer, sequence_limit
from hf_vanilla.models.texts_vanilla import encode_texts


@dataclass
class Arguments(FineTuningArguments):
    """The columns to read."""

    text_column_name: str = option("text", "The text, or the first of two.")
    text_pair_column_name: str | None = option(None, "The second text.")
    label_column_name: str = option("label", "What is learned.")
    class_names: list[str] | None = option(None, "All classes, in their order.")
    problem_type: str | None = option(None, f"{', '.join(PROBLEM_TYPES)}; by default, the labels say it.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, TrainingArguments, args)
    splits = arguments.load_splits()
    columns = [column for column in (arguments.text_column_name, arguments.text_pair_column_name) if column]
    for column, argument in zip(columns, ("text_column_name", "text_pair_column_name"), strict=False):
        check_texts(splits, column, argument)
    column, named, kind = arguments.label_column_name, arguments.class_names, arguments.problem_type
    labels = encode_text_labels(splits, column, named, arguments, kind)
    if labels.problem_type != "single_label_classification" and training.label_smoothing_factor:
        raise ValueError(f"label_smoothing_factor is for one class a text; the labels ask for {labels.problem_type}")

    texts = chain.from_iterable(splits["train"][column] for column in columns)
    tokenizer = get_tokenizer(arguments, training, texts, "encoder")
    model = get_model(AutoModelForSequenceClassification, arguments, tokenizer, **labels.config_fields)
    limit = sequence_limit(model, tokenizer, arguments.max_seq_length)

    def tokenize(rows, indices, split):
        return encode_texts(tokenizer, *(rows[column] for column in columns), masks=True, **arguments.truncation)

    def compute_metrics(prediction, split):
        metric = TEXT_SCORES[labels.problem_type]()
        return metric.compute(predictions=labels.decide(prediction.predictions), references=prediction.label_ids)

    def answers(scores, split):
        return labels.answers(scores)

    encoded = encode(splits, training, tokenize)
    check_lengths(encoded, columns[0], limit)
    collator, encoded = DataCollatorWithPadding(tokenizer), with_labels(encoded, labels.encoded)
    # BART and T5 give more than their scores.
    options = {"preprocess_logits_for_metrics": lambda scores, _: scores[0] if isinstance(scores, tuple) else scores}
    fine_tune(Trainer, model, tokenizer, collator, encoded, arguments, training, compute_metrics, answers, **options)


if __name__ == "__main__":
    run_program(main)
