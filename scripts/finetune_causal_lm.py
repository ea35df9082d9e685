r"""Fine-tune a model, by the stock Trainer, to go on with text, or train one from new weights.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_causal_lm.py --dataset_name brown --model_name_or_path runs/causal_lm \
        --output_dir runs/brown_lm --block_size 128 --per_device_train_batch_size 32 --learning_rate 5e-4
    python scripts/finetune_causal_lm.py --train_file mine.txt --config_name my_config.json ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_causal_lm.py ...
    accelerate launch scripts/finetune_causal_lm.py ...

Texts, each with the token that ends one, are put in one row and cut into blocks; every token of a block but the first
is learned. Of a .txt file, paragraphs are the texts. `--use_peft true` trains LoRA adapters, `--help` explains all
arguments, and a YAML file of them may come first. The same command continues a run that was interrupted.
"""

from dataclasses import dataclass

from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

from hf_vanilla.cli.streams import run_program
from hf_vanilla.finetuning.arguments import FineTuningArguments, option, parse
from hf_vanilla.finetuning.labels import check_texts
from hf_vanilla.finetuning.metrics import Perplexity
from hf_vanilla.finetuning.run import encode, fine_tune, get_model, get_tokenizer, sequence_limit
from hf_vanilla.models.texts_vanilla import encode_texts


@dataclass
class Arguments(FineTuningArguments):
    """The column to read, and how."""

    text_column_name: str = option("text", "The text.")
    block_size: int = option(128, "Tokens of a block.")


def main(args: list[str] | None = None) -> None:
    """Fine-tune as the arguments say, by default those of the command line."""
    arguments, training = parse(Arguments, TrainingArguments, args, prediction_loss_only=True)
    if arguments.max_seq_length is not None:
        raise ValueError("max_seq_length: what a language model learns from is cut into blocks, see block_size")
    splits = arguments.load_splits()
    column, block_size = arguments.text_column_name, arguments.block_size
    check_texts(splits, column, "text_column_name")
    tokenizer = get_tokenizer(arguments, training, splits["train"][column], "decoder")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no token that ends a text: expected that of a decoder")
    model = get_model(AutoModelForCausalLM, arguments, tokenizer)
    limit = sequence_limit(model, tokenizer, None)
    if limit is not None and block_size > limit:
        raise ValueError(f"block_size is {block_size}; the model takes {limit} tokens")

    def cut(rows, indices, split):
        texts = encode_texts(tokenizer, rows[column], add_special_tokens=False)["input_ids"]
        ids = [token for text in texts for token in (*text, tokenizer.eos_token_id)]
        blocks = [ids[i : i + block_size] for i in range(0, len(ids) - block_size + 1, block_size)]
        # Nothing predicts the first token; where a class is not called ...ForCausalLM, as GPT-2's, Trainer counts it.
        return {"input_ids": blocks, "labels": [[-100, *block[1:]] for block in blocks]}

    encoded = encode(splits, training, cut)
    for split, rows in encoded.items():
        if not len(rows):
            raise ValueError(f"column {column!r} of the {split} split is shorter than a block of {block_size} tokens")
    callbacks = [Perplexity()]
    fine_tune(Trainer, model, tokenizer, default_data_collator, encoded, arguments, training, callbacks=callbacks)


if __name__ == "__main__":
    run_program(main)
