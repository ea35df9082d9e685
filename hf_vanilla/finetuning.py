"""What the fine-tuning scripts share: arguments, a model with its tokenizer, LoRA, and the run of a stock Trainer."""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetDict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import get_last_checkpoint

from hf_vanilla.labelled import load_rows
from hf_vanilla.model_card import FAMILIES, use_model_card
from hf_vanilla.tokenization import train_tokenizer

logger = logging.getLogger(__name__)

SETTINGS = "finetuning.json"
ADAPTER = "adapter"
PEFT_TASKS = {
    AutoModelForSequenceClassification: "SEQ_CLS",
    AutoModelForTokenClassification: "TOKEN_CLS",
    AutoModelForQuestionAnswering: "QUESTION_ANS",
    AutoModelForCausalLM: "CAUSAL_LM",
    AutoModelForSeq2SeqLM: "SEQ_2_SEQ_LM",
}


@dataclass
class ModelArguments:
    """Where training starts, and what of the model is trained."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "A checkpoint: a folder, or a Hub id."})
    config_name: str | None = field(
        default=None, metadata={"help": "In place of a checkpoint, the configuration of a model with new weights."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "A tokenizer, if not the checkpoint's; one is learned where there is neither."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub id."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the checkpoint."})
    use_peft: bool = field(default=False, metadata={"help": "Train LoRA adapters and the head in place of all."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=16, metadata={"help": "Their scale, times the rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before them."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the layers that get one; all linear layers but the head's if not."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one."}
    )
    search_trials: int = field(
        default=0, metadata={"help": "First search learning rate and batch size in so many runs, by optuna."}
    )


@dataclass
class DataArguments:
    """What is learned from."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "A Hub id, or a built-in corpus: see hf_vanilla.labelled.load_rows."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of a Hub data set."})
    train_file: str | None = field(default=None, metadata={"help": "A .jsonl, .csv, .tsv, .parquet or .txt file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same; a tenth of training if not given."})
    test_file: str | None = field(default=None, metadata={"help": "The same, to predict in the end."})
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Cut to so many tokens; what the model cannot take is an error if not given."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Learn from the first rows alone."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate the first rows alone."})

    def load(self) -> DatasetDict:
        """The rows, in splits."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        splits = load_rows(self.dataset_name, self.dataset_config_name, files)
        for split in splits:
            most = self.max_train_samples if split == "train" else self.max_eval_samples
            if most is not None and most < len(splits[split]):
                splits[split] = splits[split].select(range(most))
        return splits


def parse(
    data_class: type, arguments_class: type[TrainingArguments], args: Sequence[str] | None = None, **defaults: Any
) -> tuple[ModelArguments, Any, Any]:
    """The arguments of a script: a YAML file first, if the first one is its path, then `--field value`.

    Of itself a script evaluates and saves after each epoch, keeps the best, and pushes, if asked to, when it is done.
    """
    parser = HfArgumentParser((ModelArguments, data_class, arguments_class))  # type: ignore[arg-type]
    parser.set_defaults(
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        logging_steps=50,
        hub_strategy="end",
        **defaults,
    )
    given = list(sys.argv[1:] if args is None else args)
    if given and given[0].endswith((".yaml", ".yml")):
        values = yaml.safe_load(Path(given.pop(0)).read_text(encoding="utf-8")) or {}
        if unknown := set(values) - {action.dest for action in parser._actions}:
            parser.error(f"unknown fields in the file: {', '.join(sorted(unknown))}")
        parser.set_defaults(**values)
    model_arguments, data_arguments, arguments = parser.parse_args_into_dataclasses(given)
    logging.basicConfig(level=logging.INFO if arguments.process_index == 0 else logging.WARNING)
    if (model_arguments.model_name_or_path is None) == (model_arguments.config_name is None):
        parser.error("give either --model_name_or_path or --config_name")
    check_folder(arguments, {**dataclasses.asdict(model_arguments), **dataclasses.asdict(data_arguments)})
    set_seed(arguments.seed)
    return model_arguments, data_arguments, arguments


def check_folder(arguments: TrainingArguments, settings: dict[str, Any]) -> None:
    """Records what a run is of, and raises `ValueError` where `output_dir` holds checkpoints of another one."""
    path = Path(str(arguments.output_dir), SETTINGS)
    if path.exists() and get_last_checkpoint(str(path.parent)):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in settings if settings[name] != earlier.get(name)]:
            was = ", ".join(f"{name} was {earlier.get(name)!r}, is {settings[name]!r}" for name in changed)
            raise ValueError(f"{arguments.output_dir} holds a run with other settings: {was}; give another output_dir")
    if arguments.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def source_of(model_arguments: ModelArguments) -> dict[str, Any]:
    """What `from_pretrained` is told of a checkpoint beside its name."""
    return {"revision": model_arguments.model_revision, "trust_remote_code": model_arguments.trust_remote_code}


def load_tokenizer(
    model_arguments: ModelArguments, arguments: TrainingArguments, texts: Callable[[], Iterable[str]], family: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, the one that was named, or one that learns its vocabulary from `texts`.

    Raises:
        ValueError: it is not a fast one.
    """
    name = model_arguments.tokenizer_name or model_arguments.model_name_or_path
    options: dict[str, Any] = source_of(model_arguments)
    if name is None:
        folder = Path(str(arguments.output_dir), "tokenizer")
        with arguments.main_process_first():
            if not (folder / "tokenizer.json").exists():
                size = AutoConfig.from_pretrained(str(model_arguments.config_name), **options).vocab_size
                train_tokenizer(texts(), size, family).save_pretrained(folder)
        name = str(folder)
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name} is a slow one; expected one of the `tokenizers` library")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    auto_class: Any, model_arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, **fields: Any
) -> PreTrainedModel:
    """The checkpoint, or a model with new weights and the vocabulary of `tokenizer`; `fields` of its configuration.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    options = source_of(model_arguments)
    if model_arguments.model_name_or_path:
        model = auto_class.from_pretrained(model_arguments.model_name_or_path, **options, **fields)
    else:
        ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        fields |= {"vocab_size": len(tokenizer), **{name: value for name, value in ids.items() if value is not None}}
        config = AutoConfig.from_pretrained(str(model_arguments.config_name), **options, **fields)
        model = auto_class.from_config(config, trust_remote_code=model_arguments.trust_remote_code)
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {model.get_input_embeddings().num_embeddings}: "
            "expected the tokenizer that it was trained with"
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return with_lora(auto_class, model, model_arguments) if model_arguments.use_peft else model


def with_lora(auto_class: Any, model: PreTrainedModel, model_arguments: ModelArguments) -> Any:
    """The model with LoRA adapters (Hu et al., 2021, arXiv:2106.09685); its head, which is new, is trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("use_peft needs the package peft: pip install peft") from None
    base = model.base_model_prefix
    linear = [name for name, layer in getattr(model, base).named_modules() if isinstance(layer, nn.Linear | Conv1D)]
    heads = [name for name, head in model.named_children() if name != base and any(True for _ in head.parameters())]
    config = LoraConfig(
        r=model_arguments.lora_r,
        lora_alpha=model_arguments.lora_alpha,
        lora_dropout=model_arguments.lora_dropout,
        target_modules=model_arguments.lora_target_modules or [f"{base}.{name}" for name in linear],
        modules_to_save=None if model.get_output_embeddings() else heads,
        task_type=PEFT_TASKS.get(auto_class),
    )
    return get_peft_model(model, config)


def sequence_limit(model: Any, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None) -> int | None:
    """How many tokens the model takes; None for no limit, as with sinusoidal positions.

    Raises:
        ValueError: `max_seq_length` is more than that.
    """
    limits = [tokenizer.model_max_length]
    if getattr(model.config, "position_embedding_type", None) != "sinusoidal":
        limits.append(getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length)
    limit = min(limits) if min(limits) < 10**9 else None
    if limit is not None and max_seq_length is not None and max_seq_length > limit:
        raise ValueError(f"max_seq_length is {max_seq_length}, the model takes {limit} tokens")
    return limit


def fine_tune(
    trainer_class: type[Trainer],
    model: Any,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: TrainingArguments,
    splits: DatasetDict,
    build: Callable[[], Any],
    test_metrics: Callable[[Any], dict[str, float]] | None = None,
    **options: Any,
) -> tuple[Trainer, Any]:
    """Train, save, evaluate, predict the test split if there is one, and write the card.

    What a run that was interrupted left in `output_dir` is taken up. With LoRA, `output_dir` holds the model with the
    adapters merged in, and its folder `adapter` these alone.

    Args:
        splits: what the model reads, of each row.
        build: makes the model anew, for the runs of a search.
        test_metrics: those of the test split, if `compute_metrics` can but score the validation split.
        options: of the Trainer: its collator, metrics, tokenizer.

    Returns:
        The Trainer, and the `PredictionOutput` of the test split, or None.
    """
    if model_arguments.early_stopping_patience is not None:
        options["callbacks"] = [
            *options.get("callbacks", []),
            EarlyStoppingCallback(early_stopping_patience=model_arguments.early_stopping_patience),
        ]
    if model_arguments.search_trials:
        options["model_init"] = build
    else:
        options["model"] = model
    data = {"train_dataset": splits["train"], "eval_dataset": splits["validation"]}
    trainer = trainer_class(args=arguments, **data, **options)
    if model.config.model_type in FAMILIES:
        use_model_card(trainer)
    if model_arguments.search_trials:
        search(trainer, model_arguments.search_trials)
    checkpoint = arguments.resume_from_checkpoint or get_last_checkpoint(str(arguments.output_dir))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.use_peft:
        adapted: Any = trainer.model
        if trainer.is_world_process_zero():
            adapted.save_pretrained(str(Path(str(arguments.output_dir), ADAPTER)))
        trainer.model = trainer.model_wrapped = adapted.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    metrics = {"train": result.metrics, "eval": trainer.evaluate()}
    prediction = None
    if "test" in splits:
        trainer.compute_metrics = test_metrics or trainer.compute_metrics
        prediction = trainer.predict(splits["test"], metric_key_prefix="test")
        metrics["test"] = prediction.metrics or {}
    for split in metrics:
        trainer.log_metrics(split, metrics[split])
        trainer.save_metrics(split, metrics[split])
    origin: dict[str, Any] = {
        "dataset": data_arguments.dataset_name or data_arguments.train_file,
        "finetuned_from": model_arguments.model_name_or_path,
    }
    trainer.push_to_hub(**origin) if arguments.push_to_hub else trainer.create_model_card(**origin)
    return trainer, prediction


def search(trainer: Trainer, trials: int) -> None:
    """Sets the arguments to the best that so many runs found, which `output_dir/search.json` keeps for a run that goes
    on."""

    def space(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        }

    folder = Path(str(trainer.args.output_dir))
    if get_last_checkpoint(str(folder)) is None:
        metric = "eval_" + (trainer.args.metric_for_best_model or "loss").removeprefix("eval_")
        best: Any = trainer.hyperparameter_search(
            hp_space=space,
            compute_objective=lambda metrics: metrics[metric],
            n_trials=trials,
            direction="maximize" if trainer.args.greater_is_better else "minimize",
            backend="optuna",
        )
        if best is not None:  # the first process alone has it
            logger.info("the best of %d runs: %s", trials, best)
            (folder / "search.json").write_text(json.dumps(best.hyperparameters), encoding="utf-8")
        trainer.accelerator.wait_for_everyone()
    for name, value in json.loads((folder / "search.json").read_text(encoding="utf-8")).items():
        setattr(trainer.args, name, value)


def write_predictions(trainer: Trainer, predictions: Iterable[Any]) -> None:
    """One JSON value a line, a row of the test split each, in `output_dir/predictions.jsonl`."""
    if trainer.is_world_process_zero():
        with Path(str(trainer.args.output_dir), "predictions.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)
