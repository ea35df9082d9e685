"""What every fine-tuning script does: get a tokenizer and a model, perhaps with LoRA, and run the stock Trainer."""

import copy
import functools
import json
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from datasets import DatasetDict
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollator,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.pytorch_utils import Conv1D

from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.finetuning.arguments import (
    SEARCH_FILE,
    FineTuningArguments,
    errors_that_name,
    record_end,
    replace_json,
)
from hf_vanilla.hub.model_card import FAMILY_NAMES, use_model_card
from hf_vanilla.training.distributed import free_group_at_exit

logger = logging.getLogger(__name__)

PEFT_TASKS = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
}


def get_tokenizer(
    arguments: FineTuningArguments,
    training: TrainingArguments,
    texts: Iterable[str],
    family: Literal["seq2seq", "encoder", "decoder"],
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that was named, the checkpoint's, or a new one that learns its vocabulary from `texts`.

    Args:
        texts: read only if the vocabulary is learned.
        family: decides on the special tokens of a new tokenizer.

    Raises:
        FileNotFoundError: there is no such tokenizer.
        ValueError: it is not a fast one.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if name is None:
        folder = Path(str(training.output_dir), "tokenizer")
        with training.main_process_first():
            # A run that never came to a checkpoint may have learned from other texts.
            learned = (folder / "tokenizer.json").exists() and last_checkpoint(folder.parent) is not None
            if training.local_process_index == 0 and not learned:
                size = AutoConfig.from_pretrained(str(arguments.config_name), **arguments.source).vocab_size
                train_tokenizer(texts, size, family).save_pretrained(folder)
        name = str(folder)
    with errors_that_name(name):
        tokenizer = AutoTokenizer.from_pretrained(name, **arguments.source)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name} is a slow one; expected one of the `tokenizers` library")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def get_model(
    auto_class: Any, arguments: FineTuningArguments, tokenizer: PreTrainedTokenizerBase, **fields: Any
) -> nn.Module:
    """Return the checkpoint, or a model with new weights for the vocabulary of `tokenizer`; with adapters if asked to.

    Args:
        auto_class: an Auto class of transformers, for the head.
        fields: of the configuration.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    if arguments.model_name_or_path:
        options = {**arguments.source, "ignore_mismatched_sizes": arguments.ignore_mismatched_sizes}
        model = auto_class.from_pretrained(arguments.model_name_or_path, **options, **fields)
    else:
        ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        fields |= {"vocab_size": len(tokenizer), **{name: value for name, value in ids.items() if value is not None}}
        config = AutoConfig.from_pretrained(str(arguments.config_name), **arguments.source, **fields)
        model = auto_class.from_config(config, trust_remote_code=arguments.trust_remote_code)
    if (size := model.get_input_embeddings().num_embeddings) < len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {size}: "
            "expected the tokenizer that it was trained with"
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return add_adapters(model, arguments, PEFT_TASKS.get(auto_class.__name__)) if arguments.use_peft else model


def add_adapters(model: PreTrainedModel, arguments: FineTuningArguments, task: str | None) -> nn.Module:
    """Return the model with LoRA adapters (Hu et al., 2021, arXiv:2106.09685); a new head is trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("use_peft needs the package peft: pip install peft") from None
    # The base_model_prefix of T5 with its output projection names a module that it does not have.
    stacks = [base] if hasattr(model, base := model.base_model_prefix) else ["encoder", "decoder"]
    linear = [
        name
        for name, layer in model.named_modules()
        if name.partition(".")[0] in stacks and isinstance(layer, nn.Linear | Conv1D)
    ]
    heads = [
        name
        for name, head in model.named_children()
        if name not in stacks and head is not model.get_input_embeddings() and any(True for _ in head.parameters())
    ]
    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules or linear,
        modules_to_save=None if model.get_output_embeddings() else heads,
        task_type=task,
    )
    return get_peft_model(model, config)


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint that is complete: `trainer_state.json`, which is written last, can be read."""
    whole = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError):
            json.loads(path.read_text(encoding="utf-8"))
            whole[int(path.parent.name.rpartition("-")[2])] = str(path.parent)
    return whole[max(whole)] if whole else None


def fine_tune(
    trainer_class: type[Trainer],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    collator: DataCollator,
    encoded: DatasetDict,
    arguments: FineTuningArguments,
    training: TrainingArguments,
    compute_metrics: Callable[..., dict[str, float]] | None = None,
    answers: Callable[[Any, str], Iterable[object]] | None = None,
    **options: Any,
) -> None:
    """Train, save, evaluate, predict the test split if there is one (`predictions.jsonl`), and write the card.

    An interrupted run in `output_dir` is continued. With LoRA, `output_dir` holds the model with the adapters merged
    in, and its folder `adapter` holds these alone.

    Args:
        compute_metrics: called with an `EvalPrediction` and `split=`, "validation" or "test"; returns scores.
        answers: called with what the model predicts and the name of the split; returns a JSON value for each row.
        options: for Trainer.

    Raises:
        ValueError: training ended with a loss that is not a number.
    """
    score = {split: compute_metrics and functools.partial(compute_metrics, split=split) for split in encoded}
    options |= {"args": training, "train_dataset": encoded["train"], "eval_dataset": encoded["validation"]}
    options |= {"processing_class": tokenizer, "data_collator": collator, "compute_metrics": score["validation"]}
    if arguments.early_stopping_patience is not None:
        stopping = EarlyStoppingCallback(early_stopping_patience=arguments.early_stopping_patience)
        options["callbacks"] = [*options.get("callbacks", []), stopping]
    if arguments.search_trials:
        # Each trial trains a copy, so that all begin where the run itself does.
        search(trainer_class(model_init=lambda: copy.deepcopy(model), **options), arguments.search_trials)
    trainer = trainer_class(model=model, **options)
    if model.config.model_type in FAMILY_NAMES:
        use_model_card(trainer)
    folder = Path(str(training.output_dir))
    result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or last_checkpoint(folder))
    metrics = {"train": result.metrics, "eval": trainer.evaluate()}
    if not math.isfinite(loss := metrics["eval"].get("eval_loss", 0.0)):
        raise ValueError(f"the loss is {loss} in the end: take a lower learning_rate, and another output_dir")
    if arguments.use_peft:
        merge_adapters(trainer, folder / "adapter")
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


def merge_adapters(trainer: Trainer, folder: Path) -> None:
    """Write the adapters of the trained model to `folder`, and put the model with them merged in into its place."""
    adapted: Any = trainer.model
    if trainer.is_world_process_zero():
        adapted.save_pretrained(str(folder))
    trainer.model = trainer.model_wrapped = adapted.merge_and_unload()


def publish(trainer: Trainer, arguments: FineTuningArguments) -> None:
    """Write the model card, and push the model if asked to."""
    checkpoint, model = arguments.model_name_or_path, cast(PreTrainedModel, trainer.model)
    if model.config.model_type not in FAMILY_NAMES and checkpoint and Path(checkpoint).exists():
        checkpoint = None  # Trainer's own card would name the folder as if it were on the Hub
    write = trainer.push_to_hub if trainer.args.push_to_hub else trainer.create_model_card
    data_name = arguments.dataset_name or Path(str(arguments.train_file)).name
    write(dataset=data_name, finetuned_from=checkpoint)


def search(trainer: Trainer, trials: int) -> None:
    """Set learning rate and batch size in the arguments of `trainer` to the best that this many runs find.

    They are kept in `search.json` in `output_dir`, from where an interrupted run takes them.

    Raises:
        ValueError: there is no such metric, or it never was a number.
    """
    from optuna import Trial
    from optuna.pruners import NopPruner
    from optuna.samplers import TPESampler

    metric = "eval_" + (trainer.args.metric_for_best_model or "loss").removeprefix("eval_")

    def space(trial: Trial) -> dict[str, float]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        }

    def objective(metrics: dict[str, float]) -> float:
        if metric not in metrics:
            raise ValueError(f"metric_for_best_model: there is no {metric}, but {', '.join(metrics)}")
        return metrics[metric]

    path = Path(str(trainer.args.output_dir), SEARCH_FILE)
    if not path.exists():
        try:
            best: Any = trainer.hyperparameter_search(
                hp_space=space,
                compute_objective=objective,
                n_trials=trials,
                direction="maximize" if trainer.args.greater_is_better else "minimize",
                backend="optuna",
                sampler=TPESampler(seed=trainer.args.seed),
                pruner=NopPruner(),  # others would stop one process and leave the rest waiting for it
            )
        except ValueError as error:  # optuna's, where each trial came to NaN
            raise ValueError(f"the search for the best {metric} failed: {error}") from error
        if best is not None:  # the first process alone has it
            logger.info("the best of %d runs: %s", trials, best)
            replace_json(path, best.hyperparameters)
        trainer.accelerator.wait_for_everyone()
    for name, value in json.loads(path.read_text(encoding="utf-8")).items():
        setattr(trainer.args, name, value)
