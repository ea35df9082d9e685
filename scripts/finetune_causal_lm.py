"""Fine-tune a model, by the stock Trainer, to go on with text, or train one from new weights.

    python scripts/fetch_labelled_corpora.py
    python scripts/finetune_causal_lm.py --dataset_name brown --model_name_or_path runs/causal_lm \
        --output_dir runs/brown_lm --block_size 128 --per_device_train_batch_size 32 --learning_rate 5e-4
    python scripts/finetune_causal_lm.py --train_file mine.txt --config_name my_config.json ...
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 scripts/finetune_causal_lm.py ...
    accelerate launch scripts/finetune_causal_lm.py ...

Texts, each with the token that ends one, are put in one row and cut into blocks; every token of a block but the first
is learned. Of a .txt file, paragraphs are the texts. `--use_peft true` trains LoRA adapters, `--help` explains all
arguments, a YAML file of them may come first. The same command goes on with a run that was interrupted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from datasets import DatasetDict
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

import hf_vanilla  # noqa: F401  registers the models
from hf_vanilla.finetuning.labels import check_texts
from hf_vanilla.finetuning.run import DataArguments, fine_tune, load_model, load_tokenizer, parse, sequence_limit


@dataclass
class Arguments(DataArguments):
    """The column to read, and how."""

    text_column_name: str = field(default="text", metadata={"help": "The text."})
    block_size: int = field(default=128, metadata={"help": "Tokens of a block."})


class Perplexity(TrainerCallback):
    """The exponential of the loss, beside it."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Into the metrics, and what was logged of them; a smoothed loss has none."""
        if args.label_smoothing_factor:
            return
        for name in [name for name in metrics if name.endswith("_loss")]:
            perplexity = math.exp(min(metrics[name], 700.0))
            metrics[name.removesuffix("loss") + "perplexity"] = perplexity
            state.log_history[-1][name.removesuffix("loss") + "perplexity"] = perplexity

    on_predict = on_evaluate


def main(args: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    model_arguments, data, arguments = parse(Arguments, TrainingArguments, args, prediction_loss_only=True)
    if data.max_seq_length is not None:
        raise ValueError("max_seq_length: what a language model learns from is cut into blocks, see block_size")
    splits = data.load()
    column, block_size = data.text_column_name, data.block_size
    check_texts(splits, column, "text_column_name")
    tokenizer = load_tokenizer(model_arguments, arguments, lambda: splits["train"][column], "decoder")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no token that ends a text: expected that of a decoder")

    def build() -> Any:
        return load_model(AutoModelForCausalLM, model_arguments, tokenizer)

    model = build()
    limit = sequence_limit(model, tokenizer, None)
    if limit is not None and block_size > limit:
        raise ValueError(f"block_size is {block_size}; the model takes {limit} tokens")

    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        end = [tokenizer.eos_token_id]
        return {"input_ids": [ids + end for ids in tokenizer(rows[column], add_special_tokens=False)["input_ids"]]}

    def cut(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = list(chain.from_iterable(rows["input_ids"]))
        blocks = [ids[i : i + block_size] for i in range(0, len(ids) - block_size + 1, block_size)]
        # Nothing predicts the first token; where a class is not called ...ForCausalLM, as GPT-2's, Trainer counts it.
        return {"input_ids": blocks, "labels": [[-100, *block[1:]] for block in blocks]}

    encoded = DatasetDict()
    with arguments.main_process_first():
        for split, rows in splits.items():
            encoded[split] = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
            encoded[split] = encoded[split].map(cut, batched=True)
    for split, rows in encoded.items():
        if not len(rows):
            raise ValueError(f"column {column!r} of the {split} split is shorter than a block of {block_size} tokens")
    fine_tune(
        Trainer,
        model,
        model_arguments,
        data,
        arguments,
        encoded,
        build,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        callbacks=[Perplexity()],
    )


if __name__ == "__main__":
    main()
