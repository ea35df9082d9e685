"""The training loop, by Accelerate: one process or many, interrupted or not, the same result."""

import atexit
import contextlib
import dataclasses
import gc
import importlib.metadata
import itertools
import json
import logging
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    is_deepspeed_available,
    set_seed,
    str_to_bool,
)
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.checkpointing import (
    CheckpointError,
    Checkpoints,
    forget_what_came_after,
    keep_newest,
    make_skeleton,
    numbered,
    read_weights,
    save_model,
    with_weights,
)
from hf_vanilla.decoding import Translator, side_by_side
from hf_vanilla.environment import choose_precision, hardware, use_onednn_for_float32
from hf_vanilla.metrics import TranslationQuality
from hf_vanilla.optim import ExponentialMovingAverage, Progress, adam, average_weights, make_schedule
from hf_vanilla.run_log import RunLog, memory_gib, plot_curves
from hf_vanilla.tasks import TASKS, Batches, Task
from hf_vanilla.training_config import TrainingConfig
from hf_vanilla.transformer.losses_vanilla import cross_entropy

logger = logging.getLogger(__name__)

CONFIG = "training_config.yaml"
SUMMARY = "training_summary.json"
SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)
WINDOW = ("loss", "tokens", "filled", "slots", "seconds", "updates")


@dataclass
class RunState:
    """Where a run is: what a checkpoint holds beside weights, optimiser and random states."""

    step: int = 0
    """Updates done."""
    epoch: int = 0
    next_update: int = 0
    """Number of the next update within the epoch."""
    elapsed: float = 0.0
    """Seconds of training, those before an interruption included."""
    done: float = 0.0
    end_of_warmup: float = 0.0
    target_tokens: int = 0
    validations: int = 0
    best_validation_loss: float | None = None
    examples: int | None = None
    """Of the training split, None if streamed: another number, or checksum of their `lengths`, is another corpus."""
    lengths: int = 0
    processes: int = 1
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WINDOW, 0.0))
    """Sums over the updates since the last line of the log."""


def train(config: TrainingConfig, command: str | None = None) -> Path:
    """Train a model from scratch, and save it with its tokenizer into `output_dir`; or go on with an interrupted run.

    Beside the model lie `log.jsonl` (a line every `log_every` updates and at each validation), `curves.png`,
    `training_summary.json`, `checkpoints/` to resume from, `snapshots/` (the models that were averaged), `best/`
    (the model with the lowest validation loss on the way), and `samples.jsonl`: five examples of the validation split,
    for translation with the `translation` of their `source`.

    Args:
        config: what to train.
        command: what was typed to have it trained, for the summary.

    Returns:
        `output_dir`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError, FileNotFoundError: corpus, configuration or `output_dir` are not fit for use; nothing was changed.
        SystemExit: after SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    transformers.utils.logging.disable_progress_bar()  # one bar is enough
    onednn = use_onednn_for_float32()
    accelerator = make_accelerator(config)
    folder = Path(config.output_dir)
    started = check_folder(folder, config, accelerator)

    # What to learn from
    task = TASKS[config.task](config)
    with accelerator.main_process_first():  # the others then read its cache
        corpus = task.load_corpus()
    if started:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = broadcast_object_list([task.load_tokenizer(corpus) if accelerator.is_main_process else None])[0]
    with accelerator.main_process_first():
        examples = {split: task.examples(corpus, split, tokenizer) for split in ("train", "validation")}

    # What learns
    set_seed(config.seed)
    model = task.build_model(tokenizer)
    batches = task.batches(examples["train"], tokenizer, model, accelerator)
    validation_batches = task.batches(examples["validation"], tokenizer, model, accelerator, training=False)
    skeleton = make_skeleton(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.compile:
        model.compile(dynamic=True)
    group_tied_embeddings(model, accelerator)
    optimizer = adam(model.parameters(), config.learning_rate)
    progress = Progress(config.max_steps, config.train_minutes, config.warmup_steps)
    # Not prepared: Accelerate would step a prepared schedule once for each process.
    scheduler = make_schedule(
        config.schedule, optimizer, progress, model.config.hidden_size, config.warmup_steps, config.max_steps
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    average = ExponentialMovingAverage(accelerator.unwrap_model(model), config.ema_decay) if config.ema_decay else None
    set_seed(config.seed, device_specific=True)  # dropout differs between processes

    # Where it begins, or goes on
    state = RunState(examples=None if config.streaming else len(examples["train"]))
    state.processes, state.lengths = accelerator.num_processes, batches.checksum
    checkpoints = Checkpoints(folder, accelerator, config.keep_checkpoints)
    if started and (newest := checkpoints.newest()):
        state = resume(checkpoints, newest, state, progress, scheduler, average)
        if state.done == 1 and (folder / SUMMARY).exists():
            logger.warning("%s: trained already, %d updates; remove the folder to train anew", folder, state.step)
            leave_together(accelerator)
            return folder
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        forget_what_came_after(state.step, folder)
        if not state.step:
            (folder / CONFIG).write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False), encoding="utf-8")
            tokenizer.save_pretrained(folder)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("hf_vanilla", config={name: str(value) for name, value in vars(config).items()})
    log = RunLog(folder, accelerator, after=state.step, done=state.done)
    log.say(
        f"{'streamed' if state.examples is None else f'{state.examples:,}'} training examples; "
        f"{sum(weight.numel() for weight in model.parameters()):,} parameters; "
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
        + f", {accelerator.distributed_type.value}" * (accelerator.num_processes > 1)
        + f"; mixed precision: {accelerator.mixed_precision}"
        + "; float32 products by oneDNN" * onednn
        + (f"; going on after update {state.step}" * bool(state.step))
    )

    gather = accelerator.get_state_dict  # of what is sharded, the whole, on the main process

    def save_checkpoint() -> None:
        schedule = {"schedule": scheduler.state_dict()}
        checkpoints.save(state.step, dataclasses.asdict(state) | schedule, average.weights if average else {})

    clock = Clock(state.elapsed)
    with StopSignal() as stop:
        for epoch, number, micro_batches in batches.updates(state.epoch, state.next_update):
            state.epoch, state.next_update = epoch, number
            if state.done == 1:
                break
            # What all processes must agree on: the target tokens of this update, the time, and whether to stop.
            own_tokens = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
            own_elapsed = clock.seconds() if accelerator.is_main_process else 0.0
            own = [own_tokens, own_elapsed, stop.received is not None, *fill(micro_batches)]
            tokens, state.elapsed, stopped, filled, slots = accelerator.reduce(
                torch.tensor(own, device=accelerator.device, dtype=torch.float32)
            ).tolist()
            tokens = max(tokens, 1.0)  # all may be padding
            if stopped:
                save_checkpoint()
                log.say(f"stopped, and saved after update {state.step}; the same command goes on from there")
                log.close()
                leave_together(accelerator)
                raise SystemExit(128 + (stop.received or signal.SIGTERM))

            model.train()
            own_loss = torch.zeros((), device=accelerator.device)
            for number, batch in enumerate(micro_batches, start=1):
                last = number == len(micro_batches)
                accelerator.sync_gradients = last  # DeepSpeed then makes its step within `backward`
                with contextlib.nullcontext() if last else accelerator.no_sync(model):
                    loss = task.loss(model, batch.to(accelerator.device), int(tokens))
                    # The gradient of an update is the sum over the processes; DDP takes their mean.
                    accelerator.backward(loss * accelerator.num_processes)
                own_loss += loss.detach()
            update_loss = accelerator.reduce(own_loss).item()
            learning_rate = float(scheduler.get_last_lr()[0])
            state.step += 1
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf)
            # In fp16 the gradient may overflow: its scaler then leaves out this update.
            norm = 0.0 if norm is None or accelerator.mixed_precision == "fp16" else float(norm)
            if not math.isfinite(update_loss + norm):
                innocent = bool(own_loss.isfinite()) and not math.isfinite(update_loss)
                examples_named = describe_examples(micro_batches, tokenizer, folder, innocent)
                log.close()
                leave_together(accelerator)
                raise FloatingPointError(
                    f"the loss is {update_loss}, the norm of the gradient {norm}, at update {state.step}, "
                    f"learning rate {learning_rate:.3g}, in {examples_named}. Checkpoints are as they were. "
                    "Look at these examples, or try a lower learning_rate"
                )
            optimizer.step()
            optimizer.zero_grad()
            progress.update(state.step, state.elapsed)
            state.done, state.end_of_warmup = progress.done, progress.end_of_warmup
            scheduler.step()
            if average:
                average.update(accelerator.unwrap_model(model), state.step)

            # What is seen of it, and kept
            state.next_update += 1
            state.target_tokens += int(tokens)
            seconds = clock.lap()
            for name, value in zip(WINDOW, (update_loss * tokens, tokens, filled, slots, seconds, 1), strict=True):
                state.window[name] += value
            if state.step % config.log_every == 0 or state.done == 1:
                log.write(step=state.step, epoch=state.epoch, **means(state.window), learning_rate=learning_rate)
                state.window = dict.fromkeys(WINDOW, 0.0)
            log.advance(state.done)
            if not average and (state.step % config.average_every == 0 or state.done == 1):
                with log.going_on_after(CheckpointError):
                    save_model(
                        folder / "snapshots" / f"step-{state.step}", gather(model), skeleton, tokenizer, accelerator
                    )
                    keep_newest(folder / "snapshots", config.average_last, accelerator)
            if int(state.done * config.evaluations) > state.validations and state.done < 1:
                state.validations = int(state.done * config.evaluations)
                scores = evaluate(task, model, tokenizer, validation_batches, corpus, accelerator)
                log.write(step=state.step, **scores)
                if scores["validation_loss"] < (state.best_validation_loss or math.inf):
                    state.best_validation_loss = scores["validation_loss"]
                    with log.going_on_after(CheckpointError):
                        save_model(folder / "best", gather(model), skeleton, tokenizer, accelerator)
            if state.step % config.checkpoint_every == 0 or state.done == 1:
                with log.going_on_after(CheckpointError):
                    save_checkpoint()
            clock.lap()

    # What is measured and shown here is what a user will load, in float32; only a sharded model is measured as it is.
    snapshots = numbered(folder / "snapshots")[-config.average_last :]
    weights = average.weights if average else average_weights(map(read_weights, snapshots))
    final = with_weights(skeleton, weights)
    measured = model if is_sharded(accelerator) else final.to(accelerator.device)
    scores = evaluate(task, measured, tokenizer, validation_batches, corpus, accelerator)
    log.write(step=state.step, **scores)
    if scores["validation_loss"] < (state.best_validation_loss or math.inf):
        state.best_validation_loss = scores["validation_loss"]
        save_model(folder / "best", final.state_dict(), skeleton, tokenizer, accelerator)
    if accelerator.is_main_process:
        final.save_pretrained(folder)
        plot_curves(log.records, folder / "curves.png")
        write_samples(final, tokenizer, corpus["validation"], folder)
        write_summary(folder, config, command, state, scores, task, accelerator)
    log.close()
    leave_together(accelerator)
    return folder


def leave_together(accelerator: Accelerator) -> None:
    """Wait for the others, and close trackers and process group."""
    accelerator.wait_for_everyone()
    free_group_at_exit()
    accelerator.end_training()


def free_group_at_exit() -> None:
    """Have the process group freed after the models that use it, and before the interpreter.

    Freed with the last model that uses it, gloo's would join a thread that may be freeing the tensors of its last
    reduction, for which that thread needs the interpreter's lock, held by who joins: a deadlock. Kept until there is
    no interpreter, it would leave that thread to ask for a lock that is no more: it would abort the process.
    """
    if torch.distributed.is_initialized():
        atexit.register(free_last, [torch.distributed.group.WORLD])


def free_last(groups: list[Any]) -> None:
    """Free process groups once the models that use them are gone; Python lets go of its lock meanwhile."""
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    groups.clear()


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Accelerate, as the launcher set it up.

    Raises:
        ValueError: a tracker is not installed, or sharding was asked for and is not in force.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in available:
            raise ValueError(
                f"trackers names {tracker}, which is not installed; installed: {', '.join(available) or 'none'}"
            )
    asked_for = [kind for kind in SHARDING if str_to_bool(os.environ.get(f"ACCELERATE_USE_{kind.value}", "false"))]
    if DistributedType.DEEPSPEED in asked_for and not is_deepspeed_available():
        raise ValueError("DEEPSPEED was asked for, but it is not installed: pip install deepspeed")
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.mixed_precision),
        log_with=list(config.trackers) or None,
        project_dir=config.output_dir,
        # The others wait while the main process downloads and tokenises the corpus.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
    )
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # tied weights are no news
    for kind in asked_for:
        if accelerator.distributed_type != kind:
            raise ValueError(
                f"{kind.value} was asked for, but Accelerate runs {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}: parameters would not be sharded. Launch on GPUs, or without {kind.value}"
            )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        deepspeed = accelerator.state.deepspeed_plugin.deepspeed_config
        deepspeed["train_micro_batch_size_per_gpu"] = 1  # it varies here; DeepSpeed uses it for its accounts only
        deepspeed["gradient_clipping"] = config.max_grad_norm or 0.0
    if config.ema_decay and is_sharded(accelerator):
        raise ValueError(
            "ema_decay needs whole parameters; leave it out with FSDP and DeepSpeed, and average snapshots"
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process has the whole model."""
    return accelerator.distributed_type in SHARDING


def group_tied_embeddings(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Put all tied matrices of an encoder-decoder into one group of FSDP2.

    Accelerate does so for the embeddings of the input and the output, but does not know of the decoder's own.
    """
    if accelerator.is_fsdp2 and model.config.is_encoder_decoder and model.config.tie_word_embeddings:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = accelerator.state.fsdp_plugin.mixed_precision_policy or MixedPrecisionPolicy()
        tied = [model.get_input_embeddings(), model.get_decoder().embed_tokens, model.get_output_embeddings()]
        fully_shard(tied, reshard_after_forward=False, mp_policy=policy)


def check_folder(folder: Path, config: TrainingConfig, accelerator: Accelerator) -> bool:
    """Whether a run was started in `folder`; the answer, or the error, is the same on every process.

    Raises:
        ValueError: the run there was started with other settings, or what is there is no run.
        OSError: it cannot be written to.
    """
    problem: Exception | None = None
    started = False
    if accelerator.is_main_process:
        try:
            # A run that is refused leaves no folder behind.
            with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
                pass  # for its error
            started = bool(numbered(folder / "checkpoints"))
            if (folder / CONFIG).exists():
                earlier = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
                finished = (folder / SUMMARY).exists()
                if finished and not started:
                    raise ValueError(f"{folder} holds a trained model, but no checkpoint; choose another output_dir")
                if (started or finished) and (changes := config.changes(earlier)):
                    raise ValueError(
                        f"{folder} holds a run with other settings: {'; '.join(changes)}. "
                        "Set them back to go on with it, or choose another output_dir"
                    )
            elif folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} holds files, but no run to go on with; choose another output_dir")
        except (ValueError, OSError) as error:
            problem = error
    problem, started = broadcast_object_list([problem, started])
    if problem:
        raise problem
    return started


def resume(
    checkpoints: Checkpoints,
    newest: Path,
    fresh: RunState,
    progress: Progress,
    scheduler: LambdaLR,
    average: ExponentialMovingAverage | None,
) -> RunState:
    """Load the checkpoint `newest`.

    Raises:
        ValueError: it was trained on another corpus than `fresh` begins with.
    """
    loaded, weights = checkpoints.load(newest)
    scheduler.load_state_dict(loaded.pop("schedule"))
    if average:
        average.weights = {name: weights[name].to(weight.device) for name, weight in average.weights.items()}
    state = RunState(**loaded)
    if state.examples != fresh.examples:
        raise ValueError(f"{newest}: trained on {state.examples} examples; now the corpus gives {fresh.examples}")
    if state.lengths != fresh.lengths:
        raise ValueError(f"{newest}: trained on {state.examples} examples of other lengths: the corpus has changed")
    if state.processes != fresh.processes:
        logger.warning("%s: %d processes, now %d: dropout will differ", newest, state.processes, fresh.processes)
        state.processes = fresh.processes
    progress.end_of_warmup = state.end_of_warmup
    progress.update(state.step, state.elapsed)
    state.done = progress.done
    if state.done < loaded["done"]:  # a longer run now
        state.validations = int(state.validations * state.done / loaded["done"])
    return state


class Clock:
    """Seconds of training, those of an earlier part of the run included."""

    def __init__(self, earlier: float) -> None:
        self.start = time.monotonic() - earlier
        self.last = time.monotonic()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def lap(self) -> float:
        """Since the last lap."""
        now = time.monotonic()
        lap, self.last = now - self.last, now
        return lap


class StopSignal:
    """Takes note of SIGTERM and Ctrl-C, so that a run ends between two updates. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def fill(micro_batches: Sequence[BatchEncoding]) -> tuple[int, int]:
    """How many of the places in a batch, on all sides, hold tokens; and how many places there are."""
    filled = slots = 0
    for batch in micro_batches:
        if "attention_mask" not in batch:  # packed
            filled, slots = filled + batch["input_ids"].numel(), slots + batch["input_ids"].numel()
            continue
        filled, slots = filled + int(batch["attention_mask"].sum()), slots + batch["attention_mask"].numel()
        if "decoder_input_ids" in batch:
            filled, slots = filled + int((batch["labels"] != -100).sum()), slots + batch["labels"].numel()
    return filled, slots


def means(window: dict[str, float]) -> dict[str, float]:
    """A line of the log: loss per target token, speed, share of padding, peak memory in GiB."""
    return {
        "loss": window["loss"] / window["tokens"],
        "tokens_per_second": window["tokens"] / window["seconds"],
        "seconds_per_update": window["seconds"] / window["updates"],
        "padding": 1 - window["filled"] / window["slots"],
        "memory_gib": memory_gib(),
    }


def describe_examples(
    micro_batches: Sequence[BatchEncoding], tokenizer: PreTrainedTokenizerBase, folder: Path, innocent: bool
) -> str:
    """Name the examples of the processes whose loss is not finite, and write all of them to a file."""
    texts = [
        tokenizer.decode(row, skip_special_tokens=True)
        for batch in micro_batches
        for row in batch["input_ids"].tolist()
    ]
    found = gather_object([] if innocent else texts)
    path = folder / "bad_examples.json"
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    return f"a batch of {len(found)} examples (in {path}), the first of them {found[0][:80]!r}"


@torch.inference_mode()
def evaluate(
    task: Task,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    corpus: Any,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Cross-entropy in nats per target token, without smoothing, over all processes; its perplexity; BLEU and chrF."""
    model.eval()
    sums = torch.zeros(2, device=accelerator.device)
    for batch in batches.epoch(0):
        logits, labels = task.logits_and_labels(model, batch.to(accelerator.device))
        sums += torch.stack([cross_entropy(logits, labels, num_items_in_batch=1), (labels != -100).sum()])
    loss_sum, token_sum = accelerator.reduce(sums).tolist()
    if not token_sum:
        raise ValueError("the validation split has nothing to predict; expected texts of at most max_length tokens")
    loss = loss_sum / token_sum
    scores = {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700))}
    # `generate` takes as many steps as its sentences need: processes that share a model would wait for each other.
    if task.config.task == "translation" and task.config.bleu_sentences and not is_sharded(accelerator):
        scores |= translation_scores(
            task, accelerator.unwrap_model(model), tokenizer, corpus["validation"], accelerator
        )
    return scores


def translation_scores(
    task: Task, model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Any, accelerator: Accelerator
) -> dict[str, float]:
    """BLEU and chrF of the first sentences of a split, translated by all processes together."""
    some = list(itertools.islice(pairs, task.config.bleu_sentences))
    own = some[accelerator.process_index :: accelerator.num_processes]
    translations = Translator(model, tokenizer)([pair["source"] for pair in own], num_beams=task.config.bleu_beams)
    results = gather_object(list(zip(translations, [[pair["target"]] for pair in own], strict=True)))
    if not results:
        return {}
    predictions, references = zip(*results, strict=True)
    quality = TranslationQuality().compute(predictions=list(predictions), references=list(references))
    return {"bleu": quality["bleu"], "chrf": quality["chrf"]}


def write_samples(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Any, folder: Path) -> None:
    """Keep five validation examples for the model's card: texts, or sentences and what the model makes of them now,
    which is shown, too, and can be compared with what the saved model will make."""
    rows = list(itertools.islice(rows, 1000))
    some = rows[:: math.ceil(len(rows) / 5)]
    samples = [{"text": row["text"][:500]} for row in some if "text" in row]
    if not samples:
        sources, targets = [row["source"] for row in some], [row["target"] for row in some]
        translations = Translator(model, tokenizer)(sources)
        print(side_by_side(sources, translations, [[target] for target in targets], 5), end="\n\n")
        texts = zip(sources, targets, translations, strict=True)
        samples = [dict(zip(("source", "target", "translation"), text, strict=True)) for text in texts]
    lines = (json.dumps(sample, ensure_ascii=False) for sample in samples)
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_summary(
    folder: Path,
    config: TrainingConfig,
    command: str | None,
    state: RunState,
    scores: dict[str, float],
    task: Task,
    accelerator: Accelerator,
) -> None:
    """What a model card wants to know about a run, as `training_summary.json`."""
    packages = ("torch", "transformers", "datasets", "tokenizers", "accelerate")
    summary = {
        "command": command,
        "configuration": dataclasses.asdict(config),
        "updates": state.step,
        "epochs": state.epoch + bool(state.next_update),
        "seconds": state.elapsed,
        "target_tokens": state.target_tokens,
        "training_examples": state.examples,
        "dropped_examples": dict(task.dropped),
        "final": scores,
        "best_validation_loss": state.best_validation_loss,
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else accelerator.device.type,
        "hardware": hardware(),
        "distributed_type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "versions": {name: importlib.metadata.version(name) for name in ("hf-vanilla", *packages)},
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")
