"""The arguments of the fine-tuning scripts, and the record in `output_dir` of what a run was told."""

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from datasets import DatasetDict
from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed
from transformers.hf_argparser import DataClassType

from hf_vanilla.data.files import SPLITS
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.data.paths import local_name
from hf_vanilla.training.checkpointing import digest
from hf_vanilla.training.yaml_files import nearest, read_fields
from hf_vanilla.translation.score_choices import ERROR_RATES

SETTINGS_FILE = "finetuning.json"
SEARCH_FILE = "search.json"
LEFTOVERS = ("checkpoint-*", "*.safetensors", "pytorch_model*.bin", "adapter_model.bin", SEARCH_FILE)
LOWER_IS_BETTER = ("mse", "perplexity", *ERROR_RATES)  # Trainer itself knows that of what ends in "loss"


def option(default: Any, text: str) -> Any:
    """Return a field of a dataclass of arguments; `--help` shows `text`."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass
class FineTuningArguments:
    """Where training starts, what of the model is trained, and the rows that it learns from."""

    model_name_or_path: str | None = option(None, "A checkpoint: a folder, or a Hub id.")
    config_name: str | None = option(None, "In place of a checkpoint, the configuration of a model with new weights.")
    tokenizer_name: str | None = option(None, "Used instead of the checkpoint's; without either, one is learned.")
    model_revision: str = option("main", "Branch, tag or commit of a Hub id.")
    trust_remote_code: bool = option(False, "Run code that lies beside the checkpoint.")
    ignore_mismatched_sizes: bool = option(False, "Start a new head where the checkpoint's has other classes.")
    use_peft: bool = option(False, "Train LoRA adapters and the head, not all weights.")
    lora_r: int = option(8, "Rank of the adapters.")
    lora_alpha: int = option(16, "Scale of the adapters, times their rank.")
    lora_dropout: float = option(0.05, "Dropout before the adapters.")
    lora_target_modules: list[str] | None = option(None, "Layers to adapt; by default all linear ones but the head's.")
    early_stopping_patience: int | None = option(None, "Stop after this many evaluations without a better one.")
    search_trials: int = option(0, "First search learning rate and batch size in this many runs, with optuna.")
    dataset_name: str | None = option(None, "A Hub id, or a built-in corpus: see hf_vanilla.data.labelled.load_rows.")
    dataset_config_name: str | None = option(None, "The configuration of a Hub data set.")
    train_file: str | None = option(
        None, "A .jsonl, .json, .csv, .tsv, .parquet, .tmx, .po or .txt file, or .gz or .zst."
    )
    validation_file: str | None = option(None, "A file of the same kinds; by default a tenth of the training rows.")
    test_file: str | None = option(None, "A file of the same kinds, predicted in the end.")
    columns: list[str] | None = option(None, "Names of the columns of CSV and TSV files without a header.")
    max_seq_length: int | None = option(None, "Cut texts to this many tokens; by default a longer text is an error.")
    max_train_samples: int | None = option(None, "Learn from this many first rows alone.")
    max_eval_samples: int | None = option(None, "Evaluate this many first rows alone.")

    def __post_init__(self) -> None:
        for name in ("model_name_or_path", "config_name", "tokenizer_name"):
            if (given := getattr(self, name)) is not None:
                setattr(self, name, local_name(given))
        least = {"lora_r": 1, "early_stopping_patience": 1, "search_trials": 0}
        least |= dict.fromkeys(("max_seq_length", "max_train_samples", "max_eval_samples"), 1)
        least |= {"doc_stride": 0, "max_answer_length": 1, "block_size": 2}  # fields of single scripts
        for name, value in least.items():
            if (given := getattr(self, name, None)) is not None and given < value:
                raise ValueError(f"{name} is {given}; expected {value} at least")
        if self.search_trials:
            # optuna keeps the traceback of a failed import: imported in `search`, it would keep the models alive.
            import optuna  # noqa: F401
        folder = Path(self.model_name_or_path or "")
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds adapters alone; model_name_or_path must be a model with them merged in")

    def load_splits(self) -> DatasetDict:
        """Return the rows as [`load_rows`] does, at most as many of each split as asked for."""
        files = {split: getattr(self, f"{split}_file") for split in SPLITS}
        splits = load_rows(self.dataset_name, self.dataset_config_name, files, self.columns)
        for split, rows in splits.items():
            most = self.max_train_samples if split == "train" else self.max_eval_samples
            if most is not None:
                splits[split] = rows.take(min(most, len(rows)))
        return splits

    def load(self, auto_class: Any, name: str) -> Any:
        """Return what `auto_class` loads; FileNotFoundError if `name` is neither a folder nor on the Hub.

        Without a network, the errors of transformers for what is missing do not name it.
        """
        try:
            return auto_class.from_pretrained(name, **self.source)
        except OSError as error:
            if Path(name).exists():
                raise
            raise FileNotFoundError(f"{name}: no such folder, and not to be had from the Hub: {error}") from error

    @property
    def source(self) -> dict[str, str | bool]:
        """What every `from_pretrained` is told beside the name of the checkpoint."""
        return {"revision": self.model_revision, "trust_remote_code": self.trust_remote_code}

    @property
    def truncation(self) -> dict[str, int | None]:
        return {"truncation": self.max_seq_length is not None, "max_length": self.max_seq_length}


Arguments = TypeVar("Arguments", bound=FineTuningArguments)
Training = TypeVar("Training", bound=TrainingArguments)


def parse(
    own_class: type[Arguments], training_class: type[Training], args: Sequence[str] | None = None, **defaults: object
) -> tuple[Arguments, Training]:
    """Return the arguments of a script and those of Trainer, and claim `output_dir` for the run: see [`claim_folder`].

    `args` are `--field value`, perhaps after the path of a YAML file of such fields; by default the command line.
    Unless they or the `defaults` of a script say otherwise, it evaluates and saves after each epoch, keeps the best
    model, and pushes, if asked to, at the end. A wrong argument, or a run that is finished, raises SystemExit.
    """
    parser = HfArgumentParser([DataClassType(own_class), DataClassType(training_class)])
    parser.set_defaults(eval_strategy="epoch", save_strategy="epoch", save_total_limit=2, load_best_model_at_end=True)
    parser.set_defaults(logging_steps=50, hub_strategy="end", **defaults)
    given = list(sys.argv[1:] if args is None else args)
    if given and given[0].endswith((".yaml", ".yml")):
        given = [*read_options(Path(given[0]), parser), *given[1:]]
    arguments, training = parser.parse_args_into_dataclasses(given)
    logging.basicConfig(level=logging.INFO if training.process_index == 0 else logging.WARNING)
    if (arguments.model_name_or_path is None) == (arguments.config_name is None):
        parser.error("give either --model_name_or_path or --config_name")
    metric = (training.metric_for_best_model or "").removeprefix("eval_")
    if metric in LOWER_IS_BETTER and not any(text.startswith("--greater_is_better") for text in given):
        training.greater_is_better = False
    claim_folder(arguments, training)
    set_seed(training.seed)
    return arguments, training


def read_options(path: Path, parser: HfArgumentParser) -> list[str]:
    """Return the fields of a YAML file as they would stand on the command line."""
    try:
        entries = read_fields(path)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    actions = {action.dest: action for action in parser._actions}
    options = []
    for name, entry in entries.items():
        if name not in actions:
            parser.error(f"{path}, line {entry.line}: unknown field {name!r}{nearest(name, actions)}")
        value = entry.value
        if isinstance(value, list):
            options += [f"--{name}", *entry.texts] if value else []
        elif value is False and "no" in (actions[name].choices or ()):
            options.append(f"--{name}=no")  # as YAML 1.1 reads the word
        elif value is not None:
            options.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else entry.texts[0]}")
    return options


def claim_folder(arguments: FineTuningArguments, training: TrainingArguments) -> None:
    """Record in `output_dir` what the run is told. End the script where the folder holds that run, finished.

    `ValueError`: the folder holds another run, or a model that no fine-tuning script has left there;
    `FileNotFoundError`: there is no such checkpoint or configuration to start from.
    """
    settings, folder = dataclasses.asdict(arguments), Path(str(training.output_dir))
    for name in (f"{split}_file" for split in SPLITS):
        if settings[name] and Path(settings[name]).is_file():
            settings[f"{name}_sha256"] = digest(Path(settings[name]))
    if any(any(folder.glob(pattern)) for pattern in LEFTOVERS):
        if not (folder / SETTINGS_FILE).exists():
            raise ValueError(f"{folder} holds a model that no fine-tuning left there; give another output_dir")
        earlier = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        # A field that an earlier version did not know agrees with it if it is not set.
        known = [name for name in settings if name in earlier or (settings[name] and "sha256" not in name)]
        if changed := [name for name in known if settings[name] != earlier.get(name)]:
            was = ", ".join(f"{name} was {earlier.get(name)!r}, is {settings[name]!r}" for name in changed)
            raise ValueError(f"{folder} holds a run with other settings: {was}; give another output_dir")
        ended = earlier.get("finished")
        if ended and not training.resume_from_checkpoint and not trains_further(training, ended):
            if training.push_to_hub and not ended["push_to_hub"]:
                raise ValueError(f"{folder} is finished: `hf-vanilla push {folder} USER/NAME` sends it to the Hub")
            print(f"{folder} is finished: nothing was done; a larger max_steps or num_train_epochs trains on")
            raise SystemExit(0)
    arguments.load(AutoConfig, arguments.model_name_or_path or str(arguments.config_name))
    if training.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(folder / SETTINGS_FILE, settings)


def trains_further(training: TrainingArguments, ended: dict[str, float]) -> bool:
    """True if more updates or epochs are asked for than those after which a run `ended`."""
    if training.max_steps > 0:
        return training.max_steps > max(ended["max_steps"], ended["global_step"])
    return ended["max_steps"] > 0 or training.num_train_epochs > ended["num_train_epochs"]


def record_end(training: TrainingArguments, global_step: int) -> None:
    """Add to the record in `output_dir` that the run is finished, and after which settings of Trainer."""
    path = Path(str(training.output_dir), SETTINGS_FILE)
    names = ("max_steps", "num_train_epochs", "push_to_hub")
    finished = {"global_step": global_step, **{name: getattr(training, name) for name in names}}
    replace_json(path, json.loads(path.read_text(encoding="utf-8")) | {"finished": finished})


def replace_json(path: Path, value: dict[str, object]) -> None:
    """Write a file that is complete, or as it was before, whenever the process ends."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
