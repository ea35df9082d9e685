r"""Fine-tune a model, by the stock Trainer, to tag words: parts of speech, names.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_token_classification.py --dataset_name brown_tags --model_name_or_path runs/masked_lm \
        --output_dir runs/tags --num_train_epochs 1 --per_device_train_batch_size 32 --learning_rate 2e-4
    python scripts/finetune_token_classification.py --train_file mine.jsonl --tag_column_name ner_tags ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_token_classification.py ...
    accelerate launch scripts/finetune_token_classification.py ...

A row holds a list of words and as many tags. The first token of a word stands for it. Tags such as B-PER, I-PER, O are
scored by spans as well, whatever their scheme (IOB, BIOES, BILOU, ...). `--use_peft true` trains LoRA adapters,
`--help` explains all arguments, and a YAML file of them may come first. The same command continues a run that was
interrupted.
"""

from dataclasses import dataclass

from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from hf_vanilla.cli.streams import run_program
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.labels import check_texts, encode_classes, encode_words, fields_of_classes, label_words
from hf_vanilla.finetuning.metrics import SCHEMES, find_scheme, score_tags, tags_of
from hf_vanilla.finetuning.run import check_lengths, encode, fine_tune, get_model, get_tokenizer, sequence_limit


@dataclass
class Arguments(FineTuningArguments):
    """The columns to read."""

    text_column_name: str = option("tokens", "The words of a text, a list.")
    tag_column_name: str = option("tags", "A tag for each word, a list.")
    class_names: list[str] | None = option(None, "All tags, in their order.")
    tag_scheme: str | None = option(None, f"Of {', '.join(SCHEMES)}, or none; by default, the tags say it.")
    unspaced: bool = option(False, "No spaces stand between the words.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, TrainingArguments, args, metric_for_best_model="accuracy")
    splits = arguments.load_splits()
    words, tags = arguments.text_column_name, arguments.tag_column_name
    check_texts(splits, words, "text_column_name", words=True)
    names, labels = encode_classes(splits, tags, arguments.class_names, arguments, words)

    scheme = find_scheme(names, arguments.tag_scheme)
    tokenizer = get_tokenizer(arguments, training, map(" ".join, splits["train"][words]), "encoder")
    tokenizer.padding_side = "right"  # the first tokens of words are counted from the left
    model = get_model(AutoModelForTokenClassification, arguments, tokenizer, **fields_of_classes(names))
    limit = sequence_limit(model, tokenizer, arguments.max_seq_length)
    how = {"tokenizer": tokenizer, "max_length": arguments.max_seq_length, "unspaced": arguments.unspaced}
    encoded = encode(splits, training, encode_words, column=words, **how)
    check_lengths(encoded, words, limit)

    def compute_metrics(prediction, split):
        return score_tags(prediction.predictions.argmax(-1), prediction.label_ids, names, scheme or "none")

    def answers(scores, split):
        return tags_of(scores.argmax(-1), encoded[split]["first"], names)

    collator, encoded = DataCollatorForTokenClassification(tokenizer), label_words(encoded, labels)
    fine_tune(Trainer, model, tokenizer, collator, encoded, arguments, training, compute_metrics, answers)


if __name__ == "__main__":
    run_program(main)
