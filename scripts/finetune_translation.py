r"""Fine-tune a model, by the stock Seq2SeqTrainer, to translate, or to turn texts into texts in any other way.

    python scripts/finetune_translation.py --dataset_name verses --model_name_or_path runs/verses_demo \
        --output_dir runs/verses_tuned --label_smoothing_factor 0.1 --learning_rate 2e-4 --num_train_epochs 1
    python scripts/finetune_translation.py --dataset_name wmt16 --dataset_config_name de-en \
        --source_column_name translation.de --target_column_name translation.en ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_translation.py ...

Translations with `--generation_num_beams` are scored by sacreBLEU and chrF, or by `--metrics`, such as exact_match;
`--predict_with_generate false` leaves that out. `--use_peft true` trains LoRA adapters, `--help` explains all, a YAML
file of arguments may come first. The same command resumes a run. `hf-vanilla train` trains from new weights, faster.
"""

from dataclasses import dataclass
from itertools import chain

from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer, Seq2SeqTrainingArguments

from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.pairs import columns_of, target_language
from hf_vanilla.finetuning.answers import TranslationCollator, decode
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.labels import check_texts, labelled_splits
from hf_vanilla.finetuning.run import check_lengths, encode, fine_tune, get_model, get_tokenizer, sequence_limit
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.translation.metrics import TranslationQuality
from hf_vanilla.translation.score_choices import QUICK_SCORES, SCORES


@dataclass
class Arguments(FineTuningArguments):
    """The columns to read."""

    source_column_name: str = option("source", "What is translated; `a.b` is b of a, `ko` a side of verses_ko.")
    target_column_name: str = option("target", "Its translation.")
    source_prefix: str = option("", "Put before each source, as T5 wants it.")
    metrics: list[str] | None = option(None, f"Some of {', '.join(SCORES)}; by default bleu and chrf.")
    target_language: str | None = option(None, "ISO 639 code; BLEU cuts words by it, or else by script.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, Seq2SeqTrainingArguments, args, predict_with_generate=True)
    metrics, corpus = arguments.metrics or QUICK_SCORES, arguments.dataset_name
    source, target = columns_of(corpus, arguments.source_column_name, arguments.target_column_name)
    told = {"corpus": corpus, "source_column": source, "target_column": target, **vars(arguments)}
    quality = TranslationQuality(metrics=metrics, language=target_language(told))
    splits = arguments.load_splits().flatten()
    check_texts(splits, source, "source_column_name")
    translated = labelled_splits(splits, target)
    check_texts(translated, target, "target_column_name")
    texts = chain(splits["train"][source], splits["train"][target])
    tokenizer = get_tokenizer(arguments, training, texts, "seq2seq")
    model = get_model(AutoModelForSeq2SeqLM, arguments, tokenizer)
    limit = sequence_limit(model, tokenizer, arguments.max_seq_length)

    def tokenize(rows, indices, split):
        texts = [arguments.source_prefix + text for text in rows[source]]
        targets = rows[target] if split in translated else None
        return encode_texts(tokenizer, texts, text_target=targets, **arguments.truncation)

    encoded = encode(splits, training, tokenize)
    check_lengths(encoded, source, limit)
    check_lengths(encoded, target, limit, "labels")

    def translations_of(ids, split):  # of several processes, Seq2SeqTrainer returns what fills the last batch up, too
        return decode(ids, tokenizer)[: len(splits[split])]

    def compute_metrics(prediction, split):
        references = [[text.strip()] for text in splits[split][target]]
        scores = quality.compute(predictions=translations_of(prediction.predictions, split), references=references)
        return {name: scores[name] for name in metrics}

    scored = (compute_metrics, translations_of) if training.predict_with_generate else (None, None)
    collator = TranslationCollator(tokenizer, model)
    fine_tune(Seq2SeqTrainer, model, tokenizer, collator, encoded, arguments, training, *scored)


if __name__ == "__main__":
    run_program(main)
