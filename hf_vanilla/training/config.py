"""The settings of a training run: one dataclass, read from a YAML file and the command line.

Nothing here imports torch, so that help and usage errors come at once.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_vanilla.data.pairs import PAIRS, is_language, is_reversed
from hf_vanilla.data.paths import local_name, split_names
from hf_vanilla.training.model_fields import model_fields, paper_names
from hf_vanilla.training.yaml_files import Entry, nearest, read_fields
from hf_vanilla.translation.score_choices import SCORES, check_scores, tokenizer_of_language

UNLIMITED_SCHEDULES = ("noam", "constant", "constant_with_warmup", "inverse_sqrt")
LIMITED_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial")
"""Schedules that end at a learning rate of 0, and therefore must know when the run ends."""

CONFIGURATION_CLASSES = {
    ("translation", "transformer"): "VanillaConfig",
    ("translation", "recurrent"): "RecurrentConfig",
    ("masked_lm", "transformer"): "VanillaEncoderConfig",
    ("causal_lm", "transformer"): "VanillaDecoderConfig",
}
"""The class of the model's configuration, by task and architecture."""

DEPTHS = ("encoder_layers", "decoder_layers")
"""What the paper's N stands for."""

SIZES = ("intermediate_size", "num_attention_heads", "encoder_layers", "decoder_layers")
"""Fields that are ignored, not refused, where the model has none, so that one file of sizes serves several models."""

RESUMABLE = (
    "output_dir log_every evaluations bleu_sentences bleu_beams metrics target_language checkpoint_every "
    "keep_checkpoints trackers preprocessing_workers loader_workers"
).split()
"""Fields that may have other values when a run is resumed, because they do not affect the updates."""

PATHS = ("output_dir", "corpus", "target_path", "tokenizer", "initial_model")
"""Fields that may be paths, in which `~` is the home folder."""

POSITIVE = (
    "batch_tokens accumulation_steps average_last average_every log_every evaluations bleu_beams checkpoint_every "
    "keep_checkpoints learning_rate vocab_size min_frequency preprocessing_workers"
).split()

C = TypeVar("C")


def _option(default: object, help: str, **metadata: object) -> Any:
    """Return a dataclass field that the command line explains by `help`."""
    kind = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(metadata={"help": help, **metadata}, **kind)


def _with_model_fields(cls: type[C]) -> type[C]:
    """Add a field for each field of the models' configuration classes to a class that becomes a dataclass next."""
    for each in model_fields().values():
        cls.__annotations__[each.name] = each.annotation
        setattr(cls, each.name, _option(each.default, each.help, model_field=each))
    return cls


@dataclass
@_with_model_fields
class TrainingConfig:
    """The settings of a training run; the defaults are the paper's base model and recipe.

    Beside the fields below, it has those of the models' configuration classes, but for what the tokenizer decides.
    """

    task: Literal["translation", "masked_lm", "causal_lm"] = _option("translation", "what the model learns")
    output_dir: str = _option("runs/translation", "folder for model, tokenizer, checkpoints, log and curves")

    corpus: str = _option(
        "verses",
        f"one of {', '.join(PAIRS)} ('bible' for language models), a .txt, .jsonl, .json, .csv, .tsv, .parquet, .tmx "
        "or .po file (.gz or .zst may follow), or a Hub id",
    )
    target_path: str | None = _option(None, "file of the target side, for a text file of one sentence a line")
    source_column: str = _option("source", "column to translate from, such as translation.en, or ko of verses_ko")
    target_column: str = _option("target", "column to translate to, or several with commas: references")
    columns: list[str] | None = _option(None, "names of the columns of a CSV or TSV file without a header")
    text_column: str = _option("text", "column that a language model learns from")
    corpus_configuration: str | None = _option(None, "configuration of a data set on the Hub, such as de-en")
    streaming: bool = _option(False, "read the corpus while training, for one that does not fit on the disk")
    max_length: int = _option(256, "tokens; longer pairs are left out and counted, longer documents are cut")
    max_length_ratio: float | None = _option(None, "leave out pairs if one side is this many times as long")
    preprocessing_workers: int = _option(1, "processes that clean and tokenise the corpus before training")
    loader_workers: int | None = _option(
        None,
        "processes that prepare batches for each training process (default: 2 for long epochs on a GPU, else 0)",
    )

    tokenizer: str | None = _option(None, "folder or Hub id of a tokenizer to use; by default one is trained")
    vocab_size: int = _option(
        37000, "the most tokens of the vocabulary to learn; source and target share it, or have one each"
    )
    tokenizer_type: Literal["bpe", "characters", "words"] = _option(
        "bpe", "bpe: byte-level, within words; characters; words: whatever stands between blanks, such as phonemes"
    )
    target_tokenizer_type: Literal["bpe", "characters", "words"] | None = _option(
        None, "the same for the target, with a vocabulary of its own (default: one vocabulary for both sides)"
    )
    min_frequency: int = _option(1, "how often a pair is to occur to be merged, a character or word to be a token")
    language_tags: list[str] = _option([], "special tokens that texts can begin with, such as <2de>")
    initial_model: str | None = _option(None, "folder or Hub id of a model to start from, with its tokenizer")
    architecture: Literal["transformer", "recurrent"] = _option("transformer", "recurrent: what the paper replaced")

    label_smoothing: float | None = _option(
        None, "epsilon_ls, shared by all classes as in torch; by default 0.1 for translation, 0 for language models"
    )
    whole_word_masking: bool = _option(False, "masked_lm: predict whole words")

    batch_tokens: int = _option(25000, "tokens a side in one update, over all processes and micro-batches")
    accumulation_steps: int = _option(1, "micro-batches that each process divides its share of an update into")
    optimizer: Literal["adam", "muon"] = _option(
        "adam", "adam: the paper's; muon: for the layers' matrices, which then learn in about half as many updates"
    )
    schedule: str = _option("noam", "equation 3, or a schedule of transformers: linear, cosine, polynomial, ...")
    learning_rate: float = _option(1.0, "factor on equation 3, or the peak of another schedule")
    warmup_steps: float | None = _option(
        None,
        "updates until the learning rate is at its peak; below 1, a share of the run (default: 0.1 where linear "
        "follows the clock, otherwise 4000)",
    )
    max_grad_norm: float | None = _option(None, "clip gradients to this norm; by default they are not clipped")
    max_steps: int | None = _option(None, "number of updates after which the run ends")
    train_minutes: float | None = _option(None, "minutes after which the run ends; linear then follows the clock")
    average_last: int = _option(5, "number of snapshots whose mean is saved; the last of them has the final weights")
    average_every: int = _option(1000, "updates between two snapshots")
    ema_decay: float | None = _option(None, "save an exponential moving average of the weights, instead of that mean")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _option("auto", "auto: bf16 where it is faster")
    compile: bool = _option(False, "torch.compile the model: minutes at the start, faster updates after it")
    gradient_checkpointing: bool = _option(False, "compute activations twice: less memory, more time")
    seed: int = _option(1, "seed of initial weights, dropout, masks and the order of examples")

    log_every: int = _option(20, "updates between two lines of log.jsonl")
    evaluations: int = _option(10, "number of times to measure the validation loss, evenly over the run")
    bleu_sentences: int = _option(100, "translation: validation sentences to translate at each evaluation; 0 for none")
    bleu_beams: int = _option(1, "beams for these translations; 1 is greedy")
    metrics: list[str] = _option(
        [],
        f"scores of these translations, of {', '.join(SCORES)} (default: bleu chrf; where a side is of characters or "
        "words and no target_language is given, exact_match and the error rate of the target's tokens)",
    )
    target_language: str | None = _option(None, "ISO 639 code of the target side, such as zh; BLEU cuts words by it")
    checkpoint_every: int = _option(1000, "updates between two checkpoints, from which a run resumes")
    keep_checkpoints: int = _option(2, "number of checkpoints to keep, the newest")
    trackers: list[str] = _option([], "trackers to report to: tensorboard, trackio, wandb (those that are installed)")

    def __post_init__(self) -> None:
        for name in PATHS:
            if (given := getattr(self, name)) is not None:
                setattr(self, name, local_name(given))
        if self.label_smoothing is None:
            self.label_smoothing = 0.1 if self.task == "translation" else 0.0
        if self.warmup_steps is None:
            self.warmup_steps = 0.1 if self.follows_the_clock else 4000
        if float(self.warmup_steps).is_integer():
            self.warmup_steps = int(self.warmup_steps)
        self._check_ranges()
        self._check_model()
        self._check_contradictions()

    def _check_ranges(self) -> None:
        for name in POSITIVE:
            self._expect(name, getattr(self, name) > 0, "a positive number")
        self._expect("max_length", self.max_length >= 3, "at least 3: a token between two special ones")
        self._expect("train_minutes", (self.train_minutes or 1) < 10**9, "a number of minutes")
        for name in ("bleu_sentences", "loader_workers", "warmup_steps", "seed"):
            self._expect(name, (getattr(self, name) or 0) >= 0, "0 or a positive number")
        for name in ("max_steps", "train_minutes", "max_grad_norm"):
            self._expect(name, getattr(self, name) is None or getattr(self, name) > 0, "a positive number or nothing")
        self._expect("label_smoothing", 0 <= (self.label_smoothing or 0) < 1, "a number in [0, 1)")
        self._expect("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "a number between 0 and 1")
        self._expect("max_length_ratio", self.max_length_ratio is None or self.max_length_ratio >= 1, "1 or more")
        self._expect("max_steps", self.max_steps or self.train_minutes, "a limit here or in train_minutes")

    def _check_model(self) -> None:
        """Refuse fields that the model does not have. Values are checked by its configuration class, see `Task`."""
        tasks = dict.fromkeys(task for task, _ in CONFIGURATION_CLASSES)
        self._expect("task", self.task in tasks, f"one of {', '.join(tasks)}")
        known = (self.task, self.architecture) in CONFIGURATION_CLASSES
        self._expect("architecture", known, "'transformer' for a language model")
        alike = {name for (_, kind), name in CONFIGURATION_CLASSES.items() if kind == self.architecture}
        for name, each in model_fields().items():
            if self.configuration_class not in each.owners and name not in SIZES:
                why = f"task {self.task}" if alike.intersection(each.owners) else f"architecture {self.architecture}"
                self._expect(name, getattr(self, name) == each.default, f"nothing: it is not for {why}")

    def _check_contradictions(self) -> None:
        translates, masks = self.task == "translation", self.task == "masked_lm"
        self._expect("whole_word_masking", masks or not self.whole_word_masking, "false: only masked_lm masks words")
        sides = self.source_column not in split_names(self.target_column)
        self._expect("target_column", not translates or sides, "another column than source_column")
        self._expect("columns", not (self.columns and self.target_path), "nothing: files of lines have no columns")
        for name in ("target_path", "max_length_ratio", "metrics", "target_language", "target_tokenizer_type"):
            self._expect(
                name, translates or getattr(self, name) in (None, []), "nothing: only translation has two sides"
            )
        self.metrics = list(check_scores(self.metrics))
        if self.target_language is not None:
            tokenizer_of_language(self.target_language)  # raises for what is no code
        pairs, texts = self.corpus in PAIRS, self.corpus == "bible"
        self._expect("corpus", translates or not pairs, f"'bible' for a language model: '{self.corpus}' are pairs")
        if translates and pairs and self.target_path is None:
            is_reversed(self.corpus, self.source_column, self.target_column)  # raises for columns that it lacks
        self._expect("corpus", not (translates and texts), "'verses' for translation: 'bible' has one side")
        self._expect("tokenizer", not (self.initial_model and self.tokenizer), "nothing: initial_model has its own")
        tags = self.language_tags
        whole = all(tag and not re.search(r"\s", tag) for tag in tags) and len(set(tags)) == len(tags)
        self._expect("language_tags", whole, "different tags without blanks, such as <2de>")
        given, smallest = self.initial_model or self.tokenizer, 260 + len(tags)
        own: dict[str, Any] = {"tokenizer_type": "bpe", "target_tokenizer_type": None}
        own |= {"min_frequency": 1, "language_tags": []}
        self._expect("vocab_size", given or self.vocab_size >= smallest, f"{smallest} or more: bytes and specials")
        for name, default in own.items():
            self._expect(name, not given or getattr(self, name) == default, f"nothing: {given} has a tokenizer")
        schedules = (*UNLIMITED_SCHEDULES, *LIMITED_SCHEDULES)
        hint = nearest(self.schedule, schedules)
        self._expect("schedule", self.schedule in schedules, f"one of {', '.join(schedules)}{hint}")
        if self.schedule in LIMITED_SCHEDULES and self.schedule != "linear":
            self._expect("max_steps", self.max_steps, f"a number: the schedule {self.schedule} ends there")
        if self.schedule in LIMITED_SCHEDULES and self.max_steps:
            self._expect(
                "warmup_steps", (self.warmup_steps or 0) < self.max_steps, f"less than max_steps ({self.max_steps})"
            )
        if self.schedule == "noam":
            self._expect("warmup_steps", self.warmup_steps, "a positive number: equation 3 divides by it")
        has_end = self.max_steps or self.follows_the_clock
        counts = isinstance(self.warmup_steps, int) or ((self.warmup_steps or 0) < 1 and has_end)
        self._expect("warmup_steps", counts, "updates, or below 1 a share of max_steps or of the minutes of linear")
        whole = self.optimizer == "adam" or self.architecture == "transformer"
        self._expect("optimizer", whole, "adam for recurrent models, whose matrices are several in one")
        self._expect(
            "loader_workers", (self.loader_workers or 0) <= 1 or not self.streaming, "at most 1 with streaming"
        )

    def _expect(self, name: str, holds: object, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)}; expected {expected}")

    @property
    def follows_the_clock(self) -> bool:
        """Whether the learning rate is at its end when the time is."""
        return bool(self.schedule == "linear" and self.train_minutes)

    @property
    def is_language(self) -> bool:
        """Whether texts are sentences; if not, they are sequences of other symbols, such as letters and phonemes."""
        return self.task != "translation" or is_language(vars(self))

    @property
    def configuration_class(self) -> str:
        return CONFIGURATION_CLASSES[self.task, self.architecture]

    def model_settings(self) -> dict[str, bool | int | float | str]:
        """Return the fields of the model's configuration, without those that its class gives a value by itself."""
        own = (name for name, each in model_fields().items() if self.configuration_class in each.owners)
        return {name: value for name in own if (value := getattr(self, name)) is not None}

    @classmethod
    def parser(cls, prog: str = "hf-vanilla train CONFIG.yaml") -> argparse.ArgumentParser:
        """Return a parser with an option for each field. It raises a ValueError for arguments that are wrong."""
        parser = _RaisingParser(prog=prog, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        groups: dict[str, argparse._ArgumentGroup] = {}
        hints = get_type_hints(cls)
        for each in dataclasses.fields(cls):
            owners = ", ".join(each.metadata["model_field"].owners) if "model_field" in each.metadata else ""
            if owners not in groups:
                groups[owners] = parser.add_argument_group(f"fields of {owners}" if owners else "fields of the run")
            _add_option(groups[owners], each, hints[each.name])
        run, said = groups[next(iter(groups))], "the layers of each stack"
        run.add_argument("--N", type=int, default=argparse.SUPPRESS, action=_Named, fields=DEPTHS, help=said)
        return parser

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "TrainingConfig":
        """Read a YAML file; `overrides` are command line arguments such as `["--seed", "2"]`.

        If there is no such file, it is a FileNotFoundError. If it is not YAML 1.2, a field is blank, occurs twice or
        is unknown (the nearest are named), a value is out of range, or two contradict each other, it is a ValueError
        that says whether the file, and in which line, or the command line is wrong.
        """
        try:
            entries = read_fields(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; expected a configuration such as those in scripts/configs") from None
        given: list[str] = []
        for name, entry in entries.items():
            place = f"{path}, line {entry.line}"
            cls._check_known(name, f"{place}: unknown field")
            if isinstance(entry.value, dict):
                raise ValueError(f"{place}: {name} is {entry.value}; expected a value")
            if isinstance(entry.value, list):
                given += [f"--{name}", *entry.texts] if entry.texts else []
            elif entry.value is not None:
                given.append(f"--{name}={entry.texts[0]}")
        options = [text[2:].split("=")[0].replace("-", "_") for text in overrides if text.startswith("--")]
        for option in options:
            cls._check_known(option, "unknown option")
        parser = cls.parser(f"hf-vanilla train {path}")
        try:
            # Values are given to the parser as text, which checks and converts them as it does the command line.
            values = parser.parse_args(given)
        except ValueError as error:
            raise ValueError(f"{_place(str(error), path, entries)}: {error}") from None
        try:
            # One after the other, for what follows the file may contradict it by another name.
            values = parser.parse_args(overrides, values)
        except ValueError as error:
            raise ValueError(f"after {path}, on the command line: {error}") from None
        try:
            return cls(**{each.name: getattr(values, each.name) for each in dataclasses.fields(cls)})
        except ValueError as error:
            place = _place(str(error), path, entries, options)
            raise ValueError(f"{place}: {error}") from None

    @classmethod
    def _check_known(cls, name: str, problem: str) -> None:
        known = [*(each.name for each in dataclasses.fields(cls)), *paper_names(), "N"]
        if name not in known:
            hint = nearest(name, known) or "; `hf-vanilla train --help` explains the fields"
            raise ValueError(f"{problem} {name!r}{hint}")

    def changes(self, earlier: Mapping[str, object]) -> list[str]:
        """Return a line for each setting that keeps a run from being resumed that was started with `earlier` fields.

        A field that an earlier version did not have had the value that is now its default.
        """
        now = dataclasses.asdict(self)
        earlier = {each.name: _default_of(each) for each in dataclasses.fields(self)} | dict(earlier)
        for fields in (now, earlier):  # sinusoids have no limit, and a table has 512 positions unless it is told
            positions = fields["max_position_embeddings"] or 512
            fields["max_position_embeddings"] = positions if fields["position_embedding_type"] == "learned" else None
            fields["loader_workers"] = fields["loader_workers"] or 0  # of a stream; of others it may change
        fixed = now.keys() - set(RESUMABLE)
        if self.streaming:
            fixed |= {"loader_workers"}  # a worker shuffles a stream by a generator of its own
        if self.schedule not in LIMITED_SCHEDULES and isinstance(self.warmup_steps, int):
            fixed -= {"max_steps", "train_minutes"}
        changed = [name for name in now if name in fixed and now[name] != earlier[name]]
        return [f"{name} was {earlier[name]}, now {now[name]}" for name in changed]


class _RaisingParser(argparse.ArgumentParser):
    given: dict[str, tuple[str, object]]

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self.given = {}
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Named(argparse.Action):
    """Sets fields that have several names, and refuses two names that give one field different values."""

    def __init__(self, fields: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.fields = fields or [self.dest]

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        name = (option_string or "").strip("-").replace("-", "_")
        for dest in self.fields:
            other, value = parser.given.get(dest, (name, values))
            if other != name and value != values:
                parser.error(f"{other} is {value} and {name} is {values}, but both are {dest}: give one of them")
            parser.given[dest] = name, values
            setattr(namespace, dest, values)


def _add_option(group: argparse._ArgumentGroup, each: dataclasses.Field, hint: Any) -> None:
    """Add the option of a field of this type: `--max_steps`, or `--max-steps`, or one of the paper's names for it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    kind = next(kind for kind in kinds if kind is not NoneType)
    options: dict[str, Any] = {"type": kind}
    if get_origin(kind) is Literal:
        options = {"choices": get_args(kind)}
    elif get_origin(kind) is list:
        options = {"type": get_args(kind)[0], "nargs": "+"}
    elif kind is bool:
        options = {"type": _truth, "nargs": "?", "const": True}
    elif "model_field" in each.metadata:
        options["choices"] = each.metadata["model_field"].choices or None
    names = [each.name, each.name.replace("_", "-"), *(name for name, of in paper_names().items() if of == each.name)]
    flags = dict.fromkeys(f"--{name}" for name in names)
    if len(names) > 2 or each.name in DEPTHS:
        options["action"] = _Named
    options["default"] = _default_of(each)
    group.add_argument(*flags, dest=each.name, help=each.metadata["help"].replace("%", "%%"), **options)


def _default_of(each: dataclasses.Field) -> Any:
    return each.default_factory() if callable(each.default_factory) else each.default


def _truth(text: str) -> bool:
    for value, words in ((True, ("yes", "true", "t", "y", "1")), (False, ("no", "false", "f", "n", "0"))):
        if text.lower() in words:
            return value
    raise argparse.ArgumentTypeError(f"expected true or false (or yes/no, y/n, t/f, 1/0), got {text!r}")


def _place(message: str, path: str | Path, entries: Mapping[str, Entry], options: Sequence[str] = ()) -> str:
    """Return where the value is that an error is about: the first field that it names decides."""
    of_field = {name: paper_names().get(name, name) for name in (*entries, *options)}
    for word in re.findall(r"\w+", message):
        if any(of_field[option] == word for option in options):
            return f"after {path}, on the command line"
        for name, entry in entries.items():
            if word in (name, of_field[name]):
                return f"{path}, line {entry.line}"
    return str(path)
