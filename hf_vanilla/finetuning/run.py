"""What fine-tuning scripts do: get a tokenizer and a model, perhaps with LoRA, encode rows, and run stock Trainer."""

import copy
import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

import transformers
from datasets import DatasetDict
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_vanilla.data.labelled import cell
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.finetuning.arguments import SEARCH_FILE, FineTuningArguments, record_end, replace_json
from hf_vanilla.hub.model_card import FAMILY_NAMES, use_model_card
from hf_vanilla.models.texts_vanilla import read_special_tokens
from hf_vanilla.training.distributed import free_group_at_exit
from hf_vanilla.training.state import only_writer

logger = logging.getLogger(__name__)

PEFT_TASKS = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS", "CausalLM": "CAUSAL_LM"}
PEFT_TASKS |= {"QuestionAnswering": "QUESTION_ANS", "Seq2SeqLM": "SEQ_2_SEQ_LM"}
Family = Literal["seq2seq", "encoder", "decoder"]


def get_tokenizer(
    arguments: FineTuningArguments, training: transformers.TrainingArguments, texts: Iterable[str], family: Family
) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer that was named, the checkpoint's, or a new one that learns its vocabulary from `texts`.

    The `family` decides on the special tokens of a new one. Errors are those of [`FineTuningArguments.load`], and a
    ValueError for a tokenizer that is not a fast one.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if name is None:
        folder = Path(str(training.output_dir), "tokenizer")
        with training.main_process_first():
            # A run that never came to a checkpoint may have learned from other texts.
            learned = (folder / "tokenizer.json").exists() and last_checkpoint(folder.parent) is not None
            if training.local_process_index == 0 and not learned:
                config = arguments.load(transformers.AutoConfig, str(arguments.config_name))
                train_tokenizer(texts, config.vocab_size, family).save_pretrained(folder)
        name = str(folder)
    tokenizer = read_special_tokens(arguments.load(transformers.AutoTokenizer, name))
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name} is a slow one; expected one of the `tokenizers` library")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def get_model(
    auto_class: Any, arguments: FineTuningArguments, tokenizer: transformers.PreTrainedTokenizerBase, **fields: Any
) -> nn.Module:
    """Return the checkpoint, or a model with new weights for the vocabulary of `tokenizer`; with adapters if asked to.

    The `fields` are of its configuration. A tokenizer of more tokens than the model has raises ValueError.
    """
    if arguments.model_name_or_path:
        options = {**arguments.source, "ignore_mismatched_sizes": arguments.ignore_mismatched_sizes}
        model = auto_class.from_pretrained(arguments.model_name_or_path, **options, **fields)
    else:
        ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        fields |= {"vocab_size": len(tokenizer), **{name: value for name, value in ids.items() if value is not None}}
        config = transformers.AutoConfig.from_pretrained(str(arguments.config_name), **arguments.source, **fields)
        model = auto_class.from_config(config, trust_remote_code=arguments.trust_remote_code)
    if (size := model.get_input_embeddings().num_embeddings) < len(tokenizer):
        too_many = f"the tokenizer has {len(tokenizer)} tokens, the model {size}"
        raise ValueError(f"{too_many}: expected the tokenizer that it was trained with")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    head = auto_class.__name__.removeprefix("AutoModelFor")
    return add_adapters(model, arguments, PEFT_TASKS.get(head)) if arguments.use_peft else model


def add_adapters(model: transformers.PreTrainedModel, arguments: FineTuningArguments, task: str | None) -> nn.Module:
    """Return the model with LoRA adapters (Hu et al., 2021, arXiv:2106.09685); a new head is trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("use_peft needs the package peft: pip install peft") from None
    # The base_model_prefix of T5 with its output projection names a module that it does not have.
    stacks = [base] if hasattr(model, base := model.base_model_prefix) else ["encoder", "decoder"]
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)]
    adapted = arguments.lora_target_modules or [name for name in layers if name.partition(".")[0] in stacks]
    beside = [] if model.get_output_embeddings() else model.named_children()  # an output projection is no new head
    embedding, heads = model.get_input_embeddings(), [(name, head) for name, head in beside if name not in stacks]
    saved = [name for name, head in heads if head is not embedding and any(True for _ in head.parameters())]
    options: dict[str, Any] = {"target_modules": adapted, "modules_to_save": saved or None, "task_type": task}
    options |= {"r": arguments.lora_r, "lora_alpha": arguments.lora_alpha, "lora_dropout": arguments.lora_dropout}
    return get_peft_model(model, LoraConfig(**options))


def sequence_limit(
    model: nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, max_seq_length: int | None
) -> int | None:
    """Return how many tokens the model takes, None without limit; `ValueError` if `max_seq_length` does not fit it."""
    config: Any = model.config
    limit = tokenizer.model_max_length
    if getattr(config, "position_embedding_type", None) != "sinusoidal":
        tables = [layer for name, layer in model.named_modules() if name.endswith("position_embeddings")]
        padding = [index for table in tables if (index := getattr(table, "padding_idx", None)) is not None]
        positions = getattr(config, "max_position_embeddings", None) or limit
        limit = min(limit, positions - max(padding, default=-1) - 1)  # RoBERTa's begin after that of padding
    if max_seq_length is not None and max_seq_length > limit:
        raise ValueError(f"max_seq_length is {max_seq_length}, the model takes {limit} tokens")
    if max_seq_length is not None and max_seq_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"max_seq_length is {max_seq_length}, and the tokenizer adds {special}: no room for a text")
    return limit if limit < 10**9 else None  # a tokenizer without a limit has one of 10**30


def encode(
    splits: DatasetDict, training: transformers.TrainingArguments, function: Callable[..., object], **options: object
) -> DatasetDict:
    """Return what `function` makes of the rows. The first process does so first, and the others read its cache.

    It is called with columns of a batch of rows, the numbers of these rows, and, by name, their `split` and `options`;
    it returns columns.
    """
    encoded = DatasetDict()
    with training.main_process_first():
        for split, rows in splits.items():
            told = {"fn_kwargs": {"split": split, **options}, "with_indices": True, "batched": True}
            encoded[split] = rows.map(function, remove_columns=rows.column_names, **told)
    return encoded


def check_lengths(encoded: DatasetDict, column: str, limit: int | None, ids: str = "input_ids") -> None:
    """Raise `ValueError` for the first row of more tokens than a model takes, named by `column`, that of its text.

    The column `ids` holds its tokens, or a list of them for each choice.
    """
    if limit is None:
        return
    for split, rows in encoded.items():
        for row, tokens in enumerate(rows[ids] if ids in rows.column_names else ()):
            length = max(map(len, tokens)) if tokens and isinstance(tokens[0], list) else len(tokens)
            if length > limit:
                too_long = f"{cell(split, row, column)} has {length} tokens, the model takes {limit}"
                raise ValueError(f"{too_long}: shorten it, or give --max_seq_length")


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint that is complete: `trainer_state.json`, which is written last, can be read."""
    whole = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError):
            json.loads(path.read_text(encoding="utf-8"))
            whole[int(path.parent.name.rpartition("-")[2])] = str(path.parent)
    return whole[max(whole)] if whole else None


def fine_tune(
    trainer_class: type[transformers.Trainer],
    model: Any,
    tokenizer: transformers.PreTrainedTokenizerBase,
    collator: transformers.DataCollator,
    encoded: DatasetDict,
    arguments: FineTuningArguments,
    training: transformers.TrainingArguments,
    compute_metrics: Callable[..., dict[str, float]] | None = None,
    answers: Callable[[Any, str], Iterable[object]] | None = None,
    **options: Any,
) -> None:
    """Train, save, evaluate, predict the test split if there is one (`predictions.jsonl`), and write the card.

    An interrupted run in `output_dir` is continued. With LoRA, `output_dir` holds the model with the adapters merged
    in, and its folder `adapter` holds these alone. Training that ends with a loss that is no number raises ValueError.

    Args:
        compute_metrics: called with an `EvalPrediction` and `split=`, "validation" or "test"; returns scores.
        answers: called with what the model predicts and the name of the split; returns a JSON value for each row.
        options: for Trainer.
    """
    score = {split: compute_metrics and functools.partial(compute_metrics, split=split) for split in encoded}
    options |= {"args": training, "train_dataset": encoded["train"], "eval_dataset": encoded["validation"]}
    options |= {"processing_class": tokenizer, "data_collator": collator, "compute_metrics": score["validation"]}
    if (patience := arguments.early_stopping_patience) is not None:
        options["callbacks"] = [*options.get("callbacks", []), transformers.EarlyStoppingCallback(patience)]
    if arguments.search_trials:
        # Each trial trains a copy, so that all begin where the run itself does.
        search(trainer_class(model_init=lambda: copy.deepcopy(model), **options), arguments.search_trials)
    trainer = trainer_class(model=model, **options)
    if model.config.model_type in FAMILY_NAMES:
        use_model_card(trainer)
    with only_writer(Path(str(training.output_dir))):
        _train_and_publish(trainer, model, encoded, arguments, training, score, answers)


def _train_and_publish(
    trainer: transformers.Trainer,
    model: Any,
    encoded: DatasetDict,
    arguments: FineTuningArguments,
    training: transformers.TrainingArguments,
    score: dict[str, Any],
    answers: Callable[[Any, str], Iterable[object]] | None,
) -> None:
    folder = Path(str(training.output_dir))
    with without_logits(model):
        result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or last_checkpoint(folder))
    metrics = {"train": result.metrics, "eval": trainer.evaluate()}
    if not math.isfinite(loss := metrics["eval"].get("eval_loss", 0.0)):
        raise ValueError(f"the loss is {loss} in the end: take a lower learning_rate, and another output_dir")
    if arguments.use_peft:
        adapted: Any = trainer.model
        if trainer.is_world_process_zero():
            adapted.save_pretrained(str(folder / "adapter"))
        trainer.model = trainer.model_wrapped = adapted.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    if "test" in encoded:
        trainer.compute_metrics = score["test"]
        prediction = trainer.predict(encoded["test"], metric_key_prefix="test")
        metrics["test"] = prediction.metrics or {}
        if answers and trainer.is_world_process_zero():
            lines = [json.dumps(answer, ensure_ascii=False) for answer in answers(prediction.predictions, "test")]
            (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for split in metrics:
        trainer.log_metrics(split, metrics[split])
        trainer.save_metrics(split, metrics[split])
    trainer.accelerator.wait_for_everyone()  # before the push: sending may take longer than the others would wait
    publish(trainer, arguments)
    if trainer.is_world_process_zero():
        record_end(training, trainer.state.global_step)
    free_group_at_exit()


@contextmanager
def without_logits(model: Any) -> Iterator[None]:
    """Spare models of this package the logits of training, which stock Trainer does not use; afterwards, they return
    them again, and so does what is saved."""
    config = model.config
    if config.model_type not in FAMILY_NAMES:
        yield
        return
    before, config.output_logits = config.output_logits, False
    try:
        yield
    finally:
        config.output_logits = before


def publish(trainer: transformers.Trainer, arguments: FineTuningArguments) -> None:
    """Write the model card, and push the model if asked to."""
    checkpoint, model = arguments.model_name_or_path, cast(transformers.PreTrainedModel, trainer.model)
    if model.config.model_type not in FAMILY_NAMES and checkpoint and Path(checkpoint).exists():
        checkpoint = None  # Trainer's own card would name the folder as if it were on the Hub
    write = trainer.push_to_hub if trainer.args.push_to_hub else trainer.create_model_card
    write(dataset=arguments.dataset_name or Path(str(arguments.train_file)).name, finetuned_from=checkpoint)


def search(trainer: transformers.Trainer, trials: int) -> None:
    """Set learning rate and batch size in the arguments of `trainer` to the best that this many runs find.

    They are kept in `search.json` in `output_dir`, from where an interrupted run takes them. `ValueError`: there is no
    such metric, or it never was a number.
    """
    from optuna import Trial
    from optuna.pruners import NopPruner
    from optuna.samplers import TPESampler

    args = trainer.args
    metric = "eval_" + (args.metric_for_best_model or "loss").removeprefix("eval_")

    def space(trial: Trial) -> dict[str, float]:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
        batch_size = trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32])
        return {"learning_rate": rate, "per_device_train_batch_size": batch_size}

    def objective(metrics: dict[str, float]) -> float:
        if metric not in metrics:
            raise ValueError(f"metric_for_best_model: there is no {metric}, but {', '.join(metrics)}")
        return metrics[metric]

    path = Path(str(args.output_dir), SEARCH_FILE)
    if not path.exists():
        direction = "maximize" if args.greater_is_better else "minimize"
        sampler, pruner = TPESampler(seed=args.seed), NopPruner()  # others stop one process, and the rest waits for it
        try:
            best: Any = trainer.hyperparameter_search(
                space, objective, trials, direction, "optuna", sampler=sampler, pruner=pruner
            )
        except ValueError as error:  # optuna's, where each trial came to NaN
            raise ValueError(f"the search for the best {metric} failed: {error}") from error
        if best is not None:  # the first process alone has it
            logger.info("the best of %d runs: %s", trials, best)
            replace_json(path, best.hyperparameters)
        trainer.accelerator.wait_for_everyone()
    for name, value in json.loads(path.read_text(encoding="utf-8")).items():
        setattr(args, name, value)
