"""What a training run is made of: one dataclass, read from a YAML file and the command line."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from transformers import HfArgumentParser

TASKS = ("translation", "masked_lm", "causal_lm")

UNLIMITED_SCHEDULES = ("noam", "constant", "constant_with_warmup", "inverse_sqrt")
LIMITED_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial")
"""Those that end at a learning rate of 0, and must know when."""

RECURRENT = ("cell_type", "attention_type", "input_feeding", "local_alignment", "attention_window")
TRANSFORMER = (
    "qk_head_dim",
    "norm_position",
    "activation_function",
    "position_embedding_type",
    "scale_embedding",
    "embedding_norm",
)
"""Fields that only one architecture has a use for."""

MAY_CHANGE = {
    "output_dir",
    "log_every",
    "evaluations",
    "bleu_sentences",
    "bleu_beams",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
    "preprocessing_workers",
    "loader_workers",
}
"""Fields that a run may be resumed with other values of: none of them changes what an update does."""


def _option(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class TrainingConfig:
    """What a training run is made of; the defaults are the paper's base model and recipe."""

    task: Literal["translation", "masked_lm", "causal_lm"] = _option("translation", "which family learns what")
    output_dir: str = _option("runs/translation", "where model, tokenizer, checkpoints, log and curves go")

    corpus: str = _option(
        "verses", "'verses' ('bible' for language models), a .txt, .jsonl, .csv, .tsv or .parquet file, or a Hub id"
    )
    target_path: str | None = _option(None, "the target side, if `corpus` is a text file with one sentence a line")
    source_column: str = _option("source", "column to translate from, such as translation.en")
    target_column: str = _option("target", "column to translate to")
    text_column: str = _option("text", "column that a language model learns from")
    corpus_configuration: str | None = _option(None, "configuration of a data set on the Hub, such as de-en")
    streaming: bool = _option(False, "read the corpus as it comes, for one that does not fit on the disk")
    max_length: int = _option(
        256, "tokens; longer pairs are left out (and counted), longer documents cut into pieces of this length"
    )
    max_length_ratio: float | None = _option(None, "leave out pairs one side of which is this many times the other")
    preprocessing_workers: int = _option(1, "processes that clean and tokenise the corpus, once")
    loader_workers: int = _option(0, "processes that prepare batches beside each training process")

    tokenizer: str | None = _option(None, "folder or Hub id of a tokenizer to use; by default one is trained")
    initial_model: str | None = _option(None, "folder or Hub id of a model to go on from, with its tokenizer")
    architecture: Literal["transformer", "recurrent"] = _option(
        "transformer", "translation: the paper's, or what it replaced, which has no num_attention_heads or d_ff"
    )
    cell_type: Literal["lstm", "gru"] = _option("lstm", "recurrent: its cells")
    attention_type: Literal["none", "additive", "dot", "general", "concat", "local"] = _option(
        "additive", "recurrent: its attention to the source"
    )
    input_feeding: bool = _option(False, "recurrent: feed the attentional vector to the next step")
    local_alignment: Literal["monotonic", "predictive"] | None = _option(
        None, "recurrent, attention_type local: where its window is; by default predictive"
    )
    attention_window: int | None = _option(None, "recurrent, attention_type local: D; it sees 2D + 1 positions (10)")
    vocab_size: int = _option(37000, "tokens of the byte-level BPE to train; source and target share it")
    hidden_size: int = _option(512, "d_model")
    intermediate_size: int = _option(2048, "d_ff")
    num_attention_heads: int = _option(8, "h")
    qk_head_dim: int | None = _option(None, "d_k; by default hidden_size / num_attention_heads, as d_v is")
    encoder_layers: int = _option(6, "N of the encoder (translation, masked_lm)")
    decoder_layers: int = _option(6, "N of the decoder (translation, causal_lm)")
    dropout: float = _option(0.1, "P_drop")
    norm_position: Literal["post", "pre"] = _option("post", "layer norm after each residual sum, or before its branch")
    activation_function: str = _option("relu", "of the feed-forward networks: BERT and GPT-2 have gelu")
    position_embedding_type: Literal["sinusoidal", "learned"] = _option("sinusoidal", "BERT and GPT-2 learn positions")
    scale_embedding: bool = _option(True, "multiply embeddings by sqrt(d_model): BERT and GPT-2 do not")
    embedding_norm: bool = _option(False, "layer norm of embeddings plus positions: BERT has it")

    label_smoothing: float | None = _option(None, "epsilon_ls; by default 0.1 for translation, 0 for language models")
    whole_word_masking: bool = _option(False, "masked_lm: predict whole words")

    batch_tokens: int = _option(25000, "tokens a side in one update, over all processes and accumulation steps")
    accumulation_steps: int = _option(1, "micro-batches that each process makes of its share of an update")
    schedule: str = _option(
        "noam", "equation 3, or one of transformers' schedules by name: linear, cosine, constant_with_warmup, ..."
    )
    learning_rate: float = _option(1.0, "factor on equation 3, or the peak of another schedule")
    warmup_steps: int = _option(4000, "updates")
    max_grad_norm: float | None = _option(None, "clip gradients to this norm")
    max_steps: int | None = _option(None, "stop after so many updates")
    train_minutes: float | None = _option(None, "stop after so long; the linear schedule then follows the clock")
    average_last: int = _option(5, "save the mean of so many snapshots, the last of them the final weights")
    average_every: int = _option(1000, "updates between two snapshots")
    ema_decay: float | None = _option(None, "save an exponential moving average of the weights, instead of that mean")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _option("auto", "auto: bf16 where it is faster")
    compile: bool = _option(False, "torch.compile the model: minutes at the start, faster updates after it")
    gradient_checkpointing: bool = _option(False, "less memory, more time: compute activations twice")
    seed: int = _option(1, "of initial weights, dropout, masks and order")

    log_every: int = _option(20, "updates between two lines of log.jsonl")
    evaluations: int = _option(10, "how often to measure the validation loss, evenly over the run")
    bleu_sentences: int = _option(100, "translation: validation sentences to translate at each evaluation; 0 for none")
    bleu_beams: int = _option(1, "beams for these; 1 is greedy")
    checkpoint_every: int = _option(1000, "updates between two checkpoints, from which a run resumes")
    keep_checkpoints: int = _option(2, "how many checkpoints to keep, the newest")
    trackers: list[str] = _option([], "report to tensorboard, trackio, wandb (as far as they are installed)")

    def __post_init__(self) -> None:
        at_least_one = (
            "max_length",
            "batch_tokens",
            "accumulation_steps",
            "average_last",
            "average_every",
            "log_every",
        )
        for name in (*at_least_one, "evaluations", "bleu_beams", "checkpoint_every", "keep_checkpoints"):
            self._expect(name, getattr(self, name) > 0, "a positive number")
        for name in ("learning_rate", "vocab_size", "preprocessing_workers"):
            self._expect(name, getattr(self, name) > 0, "a positive number")
        self._expect("max_length", self.max_length >= 3, "at least 3: a token between two special ones")
        self._expect("train_minutes", (self.train_minutes or 1) < 10**9, "a number of minutes")
        for name in ("bleu_sentences", "loader_workers", "warmup_steps", "seed"):
            self._expect(name, getattr(self, name) >= 0, "0 or a positive number")
        for name in ("max_steps", "train_minutes", "max_grad_norm", "qk_head_dim"):
            self._expect(name, getattr(self, name) is None or getattr(self, name) > 0, "a positive number or nothing")
        if self.label_smoothing is None:
            self.label_smoothing = 0.1 if self.task == "translation" else 0.0
        self._expect("label_smoothing", 0 <= self.label_smoothing < 1, "a number in [0, 1)")
        self._expect("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "a number between 0 and 1")
        self._expect("max_length_ratio", self.max_length_ratio is None or self.max_length_ratio >= 1, "1 or more")
        self._expect("max_steps", self.max_steps or self.train_minutes, "a limit here or in train_minutes")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        self._expect("task", self.task in TASKS, f"one of {', '.join(TASKS)}")
        if self.task != "masked_lm":
            self._expect("whole_word_masking", not self.whole_word_masking, "false: only masked_lm masks words")
        if self.task != "translation":
            for name in ("target_path", "max_length_ratio"):
                self._expect(name, getattr(self, name) is None, "nothing: only translation has two sides")
            self._expect("corpus", self.corpus != "verses", "'bible' for a language model: 'verses' are pairs")
        else:
            self._expect("corpus", self.corpus != "bible", "'verses' for translation: 'bible' has one side")
        if self.architecture == "recurrent":
            self._expect("architecture", self.task == "translation", "'transformer' for a language model")
        unused = TRANSFORMER if self.architecture == "recurrent" else RECURRENT
        for each in dataclasses.fields(self):
            if each.name in unused:
                kept = getattr(self, each.name) == each.default
                self._expect(each.name, kept, f"nothing: it is not for architecture {self.architecture}")
        if self.initial_model is not None:
            self._expect("tokenizer", self.tokenizer is None, "nothing: initial_model has its own")
        schedules = (*UNLIMITED_SCHEDULES, *LIMITED_SCHEDULES)
        hint = nearest(self.schedule, schedules)
        self._expect("schedule", self.schedule in schedules, f"one of {', '.join(schedules)}{hint}")
        if self.schedule in LIMITED_SCHEDULES and self.schedule != "linear":
            self._expect("max_steps", self.max_steps, f"a number: the schedule {self.schedule} ends there")
        if self.max_steps is not None and self.schedule in LIMITED_SCHEDULES:
            self._expect("warmup_steps", self.warmup_steps < self.max_steps, f"less than max_steps ({self.max_steps})")
        if self.schedule == "noam":
            self._expect("warmup_steps", self.warmup_steps > 0, "a positive number: equation 3 divides by it")
        if self.streaming:
            self._expect("loader_workers", self.loader_workers <= 1, "at most 1 with streaming")

    def _expect(self, name: str, holds: Any, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)}; expected {expected}")

    @classmethod
    def parser(cls, prog: str = "hf-vanilla train CONFIG.yaml") -> HfArgumentParser:
        """A command line parser that knows and explains each field."""
        return HfArgumentParser(cast(Any, cls), prog=prog, allow_abbrev=False)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "TrainingConfig":
        """Read a YAML file; `overrides` are command line arguments such as `["--seed", "2"]`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, a field is unknown (the nearest is named), a value is out of range, or two
                contradict each other.
        """
        try:
            values = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader) or {}
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: no such file; expected a configuration such as those in scripts/configs"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: not a configuration: expected lines of the form `field: value`")
        # Read as text (`no` is a precision here), which the parser checks and converts as it does the command line.
        given = []
        for name, value in values.items():
            cls._known(str(name), f"{path}: unknown field")
            if isinstance(value, dict):
                raise ValueError(f"{path}: {name} is {value}; expected a value")
            if value not in ("", "null", "~", []):
                given += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        for argument in overrides:
            if argument.startswith("--"):
                cls._known(argument[2:].split("=")[0].replace("-", "_"), "unknown option")
        parser = cls.parser(f"hf-vanilla train {path}")
        parser.error = _raise  # type: ignore[method-assign, assignment]  # a ValueError, as for everything else that is wrong
        try:
            (config,) = parser.parse_args_into_dataclasses([*given, *overrides])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return config

    @classmethod
    def _known(cls, name: str, problem: str) -> None:
        known = [field.name for field in dataclasses.fields(cls)]
        if name not in known:
            hint = nearest(name, known) or f"; the fields are {', '.join(known)}"
            raise ValueError(f"{problem} {name!r}{hint}")

    def changes(self, earlier: dict[str, Any]) -> list[str]:
        """What stands in the way of resuming a run that was started with the fields `earlier`: a line a field.

        A field that an earlier version did not have had the value that is now its default.
        """
        now = dataclasses.asdict(self)
        earlier = {field.name: field.default for field in dataclasses.fields(self)} | earlier
        fixed = now.keys() - MAY_CHANGE
        if self.streaming:
            fixed |= {"loader_workers"}  # a worker shuffles a stream by a generator of its own
        if self.schedule not in LIMITED_SCHEDULES:
            fixed -= {"max_steps", "train_minutes"}
        return [
            f"{name} was {earlier[name]}, now {now[name]}"
            for name in now
            if name in fixed and now[name] != earlier[name]
        ]


def nearest(name: str, known: Sequence[str]) -> str:
    """What an error adds about a name that is not known."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _raise(message: str) -> None:
    raise ValueError(message)
