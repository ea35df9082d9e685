"""The training loop of translation models, by Accelerate: one process or many, the same result."""

import contextlib
import dataclasses
import difflib
import itertools
import json
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    AutoTokenizer,
    BatchEncoding,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedTokenizerBase,
)

from hf_vanilla.batching import TokenBatchSampler
from hf_vanilla.corpora import load_corpus
from hf_vanilla.decoding import side_by_side, translate
from hf_vanilla.objectives import label_smoothed_cross_entropy
from hf_vanilla.optim import adam, average_weights, linear_schedule, noam_schedule
from hf_vanilla.tokenization import train_tokenizer
from hf_vanilla.transformer.configuration_vanilla import VanillaConfig
from hf_vanilla.transformer.modeling_vanilla import VanillaForConditionalGeneration

logger = logging.getLogger(__name__)


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainingConfig:
    """What a training run is made of; the defaults are the paper's base model and recipe."""

    output_dir: str = _option("runs/translation", "where model, tokenizer, log and curves go")
    corpus: str = _option("verses", "'verses', a text, .jsonl, .csv or .tsv file, or a data set on the Hub")
    target_path: str | None = _option(None, "the target side, if `corpus` is a text file with one sentence a line")
    source_column: str = _option("source", "column to translate from, such as translation.en")
    target_column: str = _option("target", "column to translate to")
    corpus_configuration: str | None = _option(None, "configuration of a data set on the Hub, such as de-en")
    max_length: int = _option(256, "tokens; pairs with a longer side are left out of training and validation")

    vocab_size: int = _option(37000, "tokens of the byte-level BPE that source and target share")
    hidden_size: int = _option(512, "d_model")
    intermediate_size: int = _option(2048, "d_ff")
    num_attention_heads: int = _option(8, "h")
    encoder_layers: int = _option(6, "N of the encoder")
    decoder_layers: int = _option(6, "N of the decoder")
    dropout: float = _option(0.1, "P_drop")
    norm_position: Literal["post", "pre"] = _option("post", "layer norm after each residual sum, or before its branch")

    batch_tokens: int = _option(25000, "tokens a side in one update, over all processes and accumulation steps")
    accumulation_steps: int = _option(1, "micro-batches that each process makes of its share of an update")
    label_smoothing: float = _option(0.1, "epsilon_ls")
    schedule: Literal["noam", "linear"] = _option("noam", "equation 3, or to `learning_rate` and down to 0 at the end")
    learning_rate: float = _option(1.0, "factor on equation 3, or the peak of the linear schedule")
    warmup_steps: int = _option(4000, "updates")
    max_grad_norm: float | None = _option(None, "clip gradients to this norm")
    max_steps: int | None = _option(None, "stop after so many updates")
    train_minutes: float | None = _option(None, "stop after so long; the linear schedule reaches 0 just then")
    average_last: int = _option(5, "save the mean of so many snapshots, the last of them the final weights")
    average_every: int = _option(1000, "updates between two snapshots")

    log_every: int = _option(20, "updates between two lines of log.jsonl")
    evaluations: int = _option(10, "how often to measure the validation perplexity, evenly over the run")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _option("auto", "auto: bf16 where the hardware has it")
    seed: int = _option(1, "of initial weights, dropout and order")

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_tokens", "accumulation_steps", "learning_rate", "warmup_steps"):
            self._expect(name, getattr(self, name) > 0, "a positive number")
        for name in ("average_last", "average_every", "log_every", "evaluations"):
            self._expect(name, getattr(self, name) > 0, "a positive number")
        for name in ("max_steps", "train_minutes", "max_grad_norm"):
            self._expect(name, getattr(self, name) is None or getattr(self, name) > 0, "a positive number or nothing")
        self._expect("label_smoothing", 0 <= self.label_smoothing < 1, "a number in [0, 1)")
        self._expect("max_steps", self.max_steps or self.train_minutes, "a limit here or in train_minutes")

    def _expect(self, name: str, holds: Any, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)}; expected {expected}")

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "TrainingConfig":
        """Read a YAML file; `overrides` are command line arguments such as `["--seed", "2"]`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, a field is unknown (the nearest is named), or a value is out of range.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected lines of the form `field: value`")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                nearest = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; the fields are {', '.join(known)}"
                raise ValueError(f"{path}: unknown field {name!r}{hint}")
        parser = HfArgumentParser(cast(Any, cls), prog=f"hf-vanilla train {path}", allow_abbrev=False)
        # Text, so that the parser checks and converts what stands in the file as it does the command line.
        given = [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]
        (config,) = parser.parse_args_into_dataclasses([*given, *overrides])
        return config


class Progress:
    """How much of a run lies behind, in [0, 1]: of its updates or of its time, whichever is further on."""

    def __init__(self, max_steps: int | None, train_minutes: float | None) -> None:
        self.max_steps = max_steps or math.inf
        self.seconds = (train_minutes or math.inf) * 60
        self.start = time.monotonic()
        self.done = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def update(self, steps: int, elapsed: float) -> None:
        """Note that `steps` updates are done, `elapsed` seconds after the start."""
        self.done = min(1.0, max(steps / self.max_steps, elapsed / self.seconds))


def train(config: TrainingConfig) -> Path:
    """Train a `VanillaForConditionalGeneration` from scratch and save it, with its tokenizer, into `output_dir`.

    Beside the model lie `log.jsonl` (a line every `log_every` updates and at each validation), `curves.png`, and
    `samples.jsonl`: five pairs of the validation split, with the `translation` of their `source`.

    Returns:
        `output_dir`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError, FileNotFoundError: the corpus is not fit for use; see `load_corpus`.
    """
    accelerator = Accelerator(mixed_precision=choose_precision(config.mixed_precision))
    set_seed(config.seed)
    corpus = load_corpus(
        config.corpus,
        config.target_path,
        source_column=config.source_column,
        target_column=config.target_column,
        configuration=config.corpus_configuration,
    )
    if accelerator.is_main_process:
        texts = itertools.chain(corpus["train"]["source"], corpus["train"]["target"])
        train_tokenizer(texts, config.vocab_size).save_pretrained(config.output_dir)
    accelerator.wait_for_everyone()
    tokenizer = AutoTokenizer.from_pretrained(config.output_dir)
    model = build_model(config, tokenizer)
    pairs = {split: encode(corpus[split], tokenizer, config.max_length) for split in ("train", "validation")}
    train_batches, validation_batches = (
        make_batches(pairs[split], model, tokenizer, config, accelerator) for split in pairs
    )
    model, optimizer = accelerator.prepare(model, adam(model.parameters(), config.learning_rate))
    progress = Progress(config.max_steps, config.train_minutes)
    # Not prepared: Accelerate would step a prepared schedule once for each process.
    if config.schedule == "noam":
        scheduler = noam_schedule(optimizer.optimizer, config.hidden_size, config.warmup_steps)
    else:
        scheduler = linear_schedule(optimizer.optimizer, config.warmup_steps, lambda: progress.done)
    log = RunLog(Path(config.output_dir), accelerator.is_main_process)
    log.say(
        f"{len(pairs['train'])} training and {len(pairs['validation'])} validation pairs of at most "
        f"{config.max_length} tokens a side; {sum(weight.numel() for weight in model.parameters()):,} parameters; "
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}, "
        f"mixed precision: {accelerator.mixed_precision}"
    )

    snapshots: deque[dict[str, Tensor]] = deque(maxlen=config.average_last)
    loss_sum = torch.zeros((), device=accelerator.device)
    token_sum, window_start, validations = 0.0, 0.0, 0
    for step, (epoch, micro_batches) in enumerate(updates(train_batches), start=1):
        # What all processes must agree on: the target tokens of this update, and the time (the main process's).
        own_tokens = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
        own_elapsed = progress.elapsed if accelerator.is_main_process else 0.0
        shared = torch.tensor([own_tokens, own_elapsed], device=accelerator.device)
        tokens, elapsed = accelerator.reduce(shared).tolist()

        model.train()
        for number, batch in enumerate(micro_batches, start=1):
            with contextlib.nullcontext() if number == len(micro_batches) else accelerator.no_sync(model):
                batch = batch.to(accelerator.device)
                labels = batch.pop("labels")
                logits = model(**batch, use_cache=False).logits
                loss = label_smoothed_cross_entropy(logits, labels, config.label_smoothing, tokens)
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at update {step}, learning rate {scheduler.get_last_lr()[0]:.3g}; "
                        "try a lower learning_rate, a longer warm-up, or max_grad_norm"
                    )
                # The gradient of an update is the sum over the processes; DDP takes their mean.
                accelerator.backward(loss * accelerator.num_processes)
            loss_sum += loss.detach() * tokens
        if config.max_grad_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        learning_rate = float(scheduler.get_last_lr()[0])
        progress.update(step, elapsed)
        scheduler.step()
        token_sum += tokens

        finished = progress.done == 1
        if step % config.log_every == 0 or finished:
            loss_value = accelerator.reduce(loss_sum).item() / token_sum
            speed = token_sum / (progress.elapsed - window_start)
            log.write(step=step, epoch=epoch, loss=loss_value, learning_rate=learning_rate, tokens_per_second=speed)
            loss_sum.zero_()
            token_sum, window_start = 0.0, progress.elapsed
        log.advance(progress.done)
        if step % config.average_every == 0 or finished:
            weights = accelerator.unwrap_model(model).state_dict()
            snapshots.append({name: tensor.clone() for name, tensor in weights.items()})
        if finished:
            break
        if progress.done * config.evaluations >= validations + 1:
            validations += 1
            validation_start = progress.elapsed
            log.write(step=step, **validate(model, validation_batches, accelerator))
            window_start += progress.elapsed - validation_start

    # Without the wrapper of mixed precision: what is measured and shown here is what a user will load.
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.load_state_dict(average_weights(snapshots))
    log.write(step=step, **validate(model, validation_batches, accelerator))
    if accelerator.is_main_process:
        model.save_pretrained(config.output_dir)
        log.close()
        write_samples(model, tokenizer, corpus["validation"], Path(config.output_dir))
    accelerator.wait_for_everyone()
    return Path(config.output_dir)


def updates(batches: DataLoader) -> Iterator[tuple[int, list[BatchEncoding]]]:
    """Epoch after epoch: its number, and the micro-batches that this process adds to one update."""
    sampler = cast(TokenBatchSampler, batches.batch_sampler)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        micro_batches = iter(batches)
        while update := list(itertools.islice(micro_batches, sampler.accumulation_steps)):
            yield epoch, update


@torch.inference_mode()
def validate(model: nn.Module, batches: DataLoader, accelerator: Accelerator) -> dict[str, float]:
    """Cross-entropy in nats per target token, without smoothing, over all processes; and its perplexity."""
    model.eval()
    sums = torch.zeros(2, device=accelerator.device)
    for batch in batches:
        batch = batch.to(accelerator.device)
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        sums += torch.stack([label_smoothed_cross_entropy(logits, labels, num_items=1), (labels != -100).sum()])
    loss_sum, token_sum = accelerator.reduce(sums).tolist()
    return {"validation_loss": loss_sum / token_sum, "validation_perplexity": math.exp(loss_sum / token_sum)}


def choose_precision(requested: str) -> str:
    """`"auto"` is bf16 where the hardware computes in it, else float32: emulated bf16 can be 100 times slower."""
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"


def encode(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids of `source` and `target` as `input_ids` and `labels`, without the pairs that are longer.

    Raises:
        ValueError: no pair is short enough.
    """
    encoded = pairs.map(
        lambda rows: tokenizer(rows["source"], text_target=rows["target"]),
        batched=True,
        remove_columns=pairs.column_names,
        desc="encoding",
    )
    lengths = zip(encoded["input_ids"], encoded["labels"], strict=True)
    short = [row for row, sides in enumerate(lengths) if max(map(len, sides)) <= max_length]
    if not short:
        raise ValueError(f"max_length is {max_length}; expected more: no pair is as short")
    return encoded.select(short)


def build_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> VanillaForConditionalGeneration:
    """The model of `config`, its vocabulary and special tokens those of `tokenizer`; translates by beam search."""
    model = VanillaForConditionalGeneration(
        VanillaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            dropout=config.dropout,
            norm_position=config.norm_position,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.bos_token_id,
        )
    )
    model.generation_config.update(num_beams=4, length_penalty=1.0)
    return model


def make_batches(
    pairs: Dataset,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> DataLoader:
    """This process's share of `pairs` by tokens; not prepared by Accelerate, which would share it out once more."""
    sampler = TokenBatchSampler(
        [len(ids) for ids in pairs["input_ids"]],
        [len(ids) for ids in pairs["labels"]],
        config.batch_tokens,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
    )
    return DataLoader(pairs, batch_sampler=sampler, collate_fn=DataCollatorForSeq2Seq(tokenizer, model))


def write_samples(model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, folder: Path) -> None:
    """Translate five sentences, show them, and keep them for comparison with what the saved model makes of them."""
    some = pairs.select(range(0, len(pairs), math.ceil(len(pairs) / 5)))
    translations = translate(model, tokenizer, some["source"][:])
    print(side_by_side(some["source"], translations, [[target] for target in some["target"]], 5), end="\n\n")
    samples = some.select_columns(["source", "target"]).add_column("translation", translations)
    samples.to_json(folder / "samples.jsonl", force_ascii=False)


class RunLog:
    """The run as a user sees it: a progress bar with ETA on the main process, and `log.jsonl`."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self.folder = folder
        self.records: list[dict[str, float]] = []
        self.shown: dict[str, float] = {}
        self.bar = tqdm(
            total=1.0,
            disable=not enabled,
            bar_format="{percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}",
            mininterval=1 if sys.stderr.isatty() else 10,
        )
        self.file = (folder / "log.jsonl").open("w", encoding="utf-8") if enabled else None

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self.file:
            self.bar.write(message, file=sys.stderr)

    def advance(self, done: float) -> None:
        """Move the bar to the share `done` of the run."""
        self.bar.update(done - self.bar.n)

    def write(self, **record: float) -> None:
        """Append a line to `log.jsonl`, and show it beside the bar."""
        if self.file:
            self.records.append(record)
            print(json.dumps(record), file=self.file, flush=True)
            self.shown.update(record)
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.shown.items()}, refresh=False)

    def close(self) -> None:
        """End the bar and draw `curves.png`: loss and learning rate over the updates."""
        self.bar.close()
        if self.file:
            self.file.close()
            plot_curves(self.records, self.folder / "curves.png")


def plot_curves(records: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the losses and the learning rate of a log over its updates, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no curves.png: pip install matplotlib")
        return
    figure = Figure(figsize=(7, 5), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes, name, label in (
        (losses, "loss", "training, smoothed labels"),
        (losses, "validation_loss", "validation"),
        (rates, "learning_rate", None),
    ):
        points = [(record["step"], record[name]) for record in records if name in record]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if name == "validation_loss" else None)
    losses.set_ylabel("nats per target token")
    losses.legend()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("update")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
