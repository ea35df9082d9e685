"""What the fine-tuning scripts share: arguments, a model with its tokenizer, LoRA, and the run of a stock Trainer."""

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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

from hf_vanilla.data.labelled import load_rows
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.model_card import FAMILIES, use_model_card
from hf_vanilla.training.checkpointing import digest
from hf_vanilla.training.distributed import free_group_at_exit

logger = logging.getLogger(__name__)

SETTINGS = "finetuning.json"
SEARCH = "search.json"
ADAPTER = "adapter"
LEFT = ("checkpoint-*", "*.safetensors", "pytorch_model*.bin", "adapter_model.bin")  # by a run, this one or another
LOWER_IS_BETTER = ("mse", "perplexity")  # and what ends in "loss", as Trainer knows
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
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "A new head where the checkpoint's is of other classes."}
    )
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

    def __post_init__(self) -> None:
        require_at_least(self, lora_r=1, early_stopping_patience=1, search_trials=0)
        if self.search_trials:
            # It keeps the traceback of a package that it did not find: imported in `search`, with the models in it.
            import optuna  # noqa: F401
        folder = Path(self.model_name_or_path or "")
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds adapters alone; model_name_or_path must be a model with them merged in")


@dataclass
class DataArguments:
    """What is learned from."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "A Hub id, or a built-in corpus: see hf_vanilla.data.labelled.load_rows."}
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

    def __post_init__(self) -> None:
        require_at_least(self, max_seq_length=1, max_train_samples=1, max_eval_samples=1)
        require_at_least(self, doc_stride=0, max_answer_length=1, block_size=2)

    def load(self) -> DatasetDict:
        """The rows, in splits."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        splits = load_rows(self.dataset_name, self.dataset_config_name, files)
        for split in splits:
            most = self.max_train_samples if split == "train" else self.max_eval_samples
            if most is not None and most < len(splits[split]):
                splits[split] = splits[split].select(range(most))
        return splits


def require_at_least(arguments: Any, **least: int) -> None:
    """Raises `ValueError` for the fields of `arguments` that are less."""
    for name, value in least.items():
        if (given := getattr(arguments, name, None)) is not None and given < value:
            raise ValueError(f"{name} is {given}; expected {value} at least")


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
        given = [*read_options(Path(given[0]), parser), *given[1:]]
    model_arguments, data_arguments, arguments = parser.parse_args_into_dataclasses(given)
    logging.basicConfig(level=logging.INFO if arguments.process_index == 0 else logging.WARNING)
    if (model_arguments.model_name_or_path is None) == (model_arguments.config_name is None):
        parser.error("give either --model_name_or_path or --config_name")
    metric = (arguments.metric_for_best_model or "").removeprefix("eval_")
    if metric in LOWER_IS_BETTER and not any(text.startswith("--greater_is_better") for text in given):
        arguments.greater_is_better = False
    check_folder(model_arguments, data_arguments, arguments)
    set_seed(arguments.seed)
    return model_arguments, data_arguments, arguments


def read_options(path: Path, parser: HfArgumentParser) -> list[str]:
    """The fields of a YAML file as they would stand on the command line."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"{path}: {error}")
    if not isinstance(values, dict):
        parser.error(f"{path}: expected `field: value` in each line")
    if unknown := set(values) - {action.dest for action in parser._actions}:
        parser.error(f"unknown fields in {path}: {', '.join(sorted(map(str, unknown)))}")
    options = []
    for action in parser._actions:
        value = values.get(action.dest)
        if value is False and "no" in (action.choices or ()):
            value = "no"  # which YAML takes for false
        if isinstance(value, list):
            options += [f"--{action.dest}", *map(str, value)] if value else []
        elif value is not None:
            options.append(f"--{action.dest}={json.dumps(value) if isinstance(value, bool | dict) else value}")
    return options


def check_folder(model_arguments: ModelArguments, data_arguments: Any, arguments: TrainingArguments) -> None:
    """Records what a run is of. Ends the script where `output_dir` holds that run and it is finished.

    Raises:
        ValueError: `output_dir` holds another run, or a model that no script here has left there.
        FileNotFoundError: there is nothing to begin with.
    """
    settings: dict[str, Any] = {**dataclasses.asdict(model_arguments), **dataclasses.asdict(data_arguments)}
    folder = Path(str(arguments.output_dir))
    for name in ("train_file", "validation_file", "test_file"):
        if settings[name] and Path(settings[name]).is_file():
            settings[f"{name}_sha256"] = digest(Path(settings[name]))
    if (folder / SEARCH).exists() or any(any(folder.glob(pattern)) for pattern in LEFT):
        if not (folder / SETTINGS).exists():
            raise ValueError(f"{folder} holds a model that no fine-tuning left there; give another output_dir")
        earlier = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        # A field that an earlier version did not have is as it was then where it is not set.
        now = {name: value for name, value in settings.items() if name in earlier or (value and "sha256" not in name)}
        if changed := [name for name in now if now[name] != earlier.get(name)]:
            was = ", ".join(f"{name} was {earlier.get(name)!r}, is {settings[name]!r}" for name in changed)
            raise ValueError(f"{folder} holds a run with other settings: {was}; give another output_dir")
        ended = earlier.get("finished")
        if ended and not arguments.resume_from_checkpoint and not asks_for_more(arguments, ended):
            if arguments.push_to_hub and not ended["push_to_hub"]:
                raise ValueError(f"{folder} is finished: `hf-vanilla push {folder} USER/NAME` sends it to the Hub")
            print(f"{folder} is finished: nothing was done; a larger max_steps or num_train_epochs trains on")
            raise SystemExit(0)
    checkpoint = model_arguments.model_name_or_path
    with named(str(model_arguments.config_name if checkpoint is None else checkpoint)) as name:
        AutoConfig.from_pretrained(name, **source_of(model_arguments))
    if arguments.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)


def asks_for_more(arguments: TrainingArguments, ended: dict[str, Any]) -> bool:
    """Whether a run that ended with these settings, or early, is to train on."""
    if arguments.max_steps > 0:
        return arguments.max_steps > max(ended["max_steps"], ended["global_step"])
    return ended["max_steps"] > 0 or arguments.num_train_epochs > ended["num_train_epochs"]


def write_json(path: Path, value: Any) -> None:
    """The file is whole, or as it was."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end, which is `trainer_state.json`."""
    whole = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError):
            json.loads(path.read_text(encoding="utf-8"))
            whole[int(path.parent.name.rpartition("-")[2])] = str(path.parent)
    return whole[max(whole)] if whole else None


def source_of(model_arguments: ModelArguments) -> dict[str, Any]:
    """What `from_pretrained` is told of a checkpoint beside its name."""
    return {"revision": model_arguments.model_revision, "trust_remote_code": model_arguments.trust_remote_code}


@contextmanager
def named(name: str) -> Iterator[str]:
    """Has the error for a checkpoint that is not there name it, which without a network that of transformers does not.

    Raises:
        FileNotFoundError: it is neither a folder nor on the Hub.
    """
    try:
        yield name
    except OSError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(f"{name}: no such folder, and not to be had from the Hub: {error}") from error


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
            # What a run left that never came to a checkpoint may have been of other texts.
            learned = (folder / "tokenizer.json").exists() and last_checkpoint(folder.parent) is not None
            if arguments.local_process_index == 0 and not learned:
                size = AutoConfig.from_pretrained(str(model_arguments.config_name), **options).vocab_size
                train_tokenizer(texts(), size, family).save_pretrained(folder)
        name = str(folder)
    with named(name):
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
        options |= {"ignore_mismatched_sizes": model_arguments.ignore_mismatched_sizes}
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
    # T5 with its output projection names a stack that it has not.
    stacks = [base] if hasattr(model, base := model.base_model_prefix) else ["encoder", "decoder"]
    linear = [
        f"{stack}.{name}"
        for stack in stacks
        for name, layer in getattr(model, stack).named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
    ]
    heads = [
        name
        for name, head in model.named_children()
        if name not in stacks and head is not model.get_input_embeddings() and any(True for _ in head.parameters())
    ]
    config = LoraConfig(
        r=model_arguments.lora_r,
        lora_alpha=model_arguments.lora_alpha,
        lora_dropout=model_arguments.lora_dropout,
        target_modules=model_arguments.lora_target_modules or linear,
        modules_to_save=None if model.get_output_embeddings() else heads,
        task_type=PEFT_TASKS.get(auto_class),
    )
    return get_peft_model(model, config)


def sequence_limit(model: Any, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None) -> int | None:
    """How many tokens the model takes; None for no limit, as with sinusoidal positions.

    Raises:
        ValueError: `max_seq_length` is more than that, or leaves no room for a text.
    """
    limits = [tokenizer.model_max_length]
    if getattr(model.config, "position_embedding_type", None) != "sinusoidal":
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        # RoBERTa's positions begin after that of padding.
        tables = [layer for name, layer in model.named_modules() if name.endswith("position_embeddings")]
        padded = [index for table in tables if (index := getattr(table, "padding_idx", None)) is not None]
        limits.append(positions - max(padded, default=-1) - 1)
    limit = min(limits) if min(limits) < 10**9 else None
    if limit is not None and max_seq_length is not None and max_seq_length > limit:
        raise ValueError(f"max_seq_length is {max_seq_length}, the model takes {limit} tokens")
    if max_seq_length is not None and max_seq_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"max_seq_length is {max_seq_length}, and the tokenizer adds {special}: no room for a text")
    return limit


def fine_tune(
    trainer_class: type[Trainer],
    model: Any,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: TrainingArguments,
    splits: DatasetDict,
    build: Callable[[], Any],
    answers: Callable[[Any], Iterable[Any]] | None = None,
    test_metrics: Callable[[Any], dict[str, float]] | None = None,
    **options: Any,
) -> None:
    """Train, save, evaluate, predict the test split if there is one (`predictions.jsonl`), and write the card.

    What a run that was interrupted left in `output_dir` is taken up. With LoRA, `output_dir` holds the model with the
    adapters merged in, and its folder `adapter` these alone.

    Args:
        splits: what the model reads, of each row.
        build: makes the model anew, for the runs of a search.
        answers: what to write of the `PredictionOutput` of the test split, a JSON value for each row.
        test_metrics: those of the test split, if `compute_metrics` can but score the validation split.
        options: of the Trainer: its collator, metrics, tokenizer.

    Raises:
        ValueError: training ended with a loss that is not a number.
    """
    options |= {"args": arguments, "train_dataset": splits["train"], "eval_dataset": splits["validation"]}
    if model_arguments.early_stopping_patience is not None:
        stopping = EarlyStoppingCallback(early_stopping_patience=model_arguments.early_stopping_patience)
        options["callbacks"] = [*options.get("callbacks", []), stopping]
    if model_arguments.search_trials:
        search(trainer_class(model_init=build, **options), model_arguments.search_trials)
    trainer = trainer_class(model=model, **options)
    if model.config.model_type in FAMILIES:
        use_model_card(trainer)
    folder = Path(str(arguments.output_dir))
    result = trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint or last_checkpoint(folder))
    metrics = {"train": result.metrics, "eval": trainer.evaluate()}
    if not math.isfinite(loss := metrics["eval"].get("eval_loss", 0.0)):
        raise ValueError(f"the loss is {loss} in the end: take a lower learning_rate, and another output_dir")
    if model_arguments.use_peft:
        adapted: Any = trainer.model
        if trainer.is_world_process_zero():
            adapted.save_pretrained(str(folder / ADAPTER))
        trainer.model = trainer.model_wrapped = adapted.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    if "test" in splits:
        trainer.compute_metrics = test_metrics or trainer.compute_metrics
        prediction = trainer.predict(splits["test"], metric_key_prefix="test")
        metrics["test"] = prediction.metrics or {}
        if answers and trainer.is_world_process_zero():
            lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers(prediction)]
            (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    for split in metrics:
        trainer.log_metrics(split, metrics[split])
        trainer.save_metrics(split, metrics[split])
    data_name = data_arguments.dataset_name or Path(str(data_arguments.train_file)).name
    checkpoint = model_arguments.model_name_or_path
    if model.config.model_type not in FAMILIES and checkpoint and Path(checkpoint).exists():
        checkpoint = None  # Trainer's own card would name the folder, as if it were on the Hub
    origin: dict[str, Any] = {"dataset": data_name, "finetuned_from": checkpoint}
    trainer.accelerator.wait_for_everyone()  # but not until all is sent to the Hub, which may take too long for them
    trainer.push_to_hub(**origin) if arguments.push_to_hub else trainer.create_model_card(**origin)
    if trainer.is_world_process_zero():
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        names = ("max_steps", "num_train_epochs", "push_to_hub")
        finished = {"global_step": trainer.state.global_step, **{name: getattr(arguments, name) for name in names}}
        write_json(folder / SETTINGS, settings | {"finished": finished})
    free_group_at_exit()


def search(trainer: Trainer, trials: int) -> None:
    """Sets the arguments to the best that so many runs found, which `output_dir/search.json` keeps for a run that goes
    on.

    Raises:
        ValueError: there is no such metric, or it never was a number.
    """
    from optuna.pruners import NopPruner
    from optuna.samplers import TPESampler

    metric = "eval_" + (trainer.args.metric_for_best_model or "loss").removeprefix("eval_")

    def space(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        }

    def objective(metrics: dict[str, float]) -> float:
        if metric not in metrics:
            raise ValueError(f"metric_for_best_model: there is no {metric}, but {', '.join(metrics)}")
        return metrics[metric]

    path = Path(str(trainer.args.output_dir), SEARCH)
    if not path.exists():
        try:
            best: Any = trainer.hyperparameter_search(
                hp_space=space,
                compute_objective=objective,
                n_trials=trials,
                direction="maximize" if trainer.args.greater_is_better else "minimize",
                backend="optuna",
                sampler=TPESampler(seed=trainer.args.seed),
                pruner=NopPruner(),  # of several processes one alone would stop
            )
        except ValueError as error:  # optuna's where each trial came to NaN
            raise ValueError(f"the search for the best {metric} failed: {error}") from error
        if best is not None:  # the first process alone has it
            logger.info("the best of %d runs: %s", trials, best)
            write_json(path, best.hyperparameters)
        trainer.accelerator.wait_for_everyone()
    for name, value in json.loads(path.read_text(encoding="utf-8")).items():
        setattr(trainer.args, name, value)
