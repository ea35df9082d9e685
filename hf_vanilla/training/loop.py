"""The training loop, by Accelerate. One process or many, interrupted or not, it ends with the same weights."""

import dataclasses
import logging
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import transformers
import yaml
from accelerate.utils import broadcast_object_list, set_seed
from transformers import AutoTokenizer, BatchEncoding

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.training.checkpointing import (
    CheckpointError,
    Checkpoints,
    discard_after,
    keep_newest,
    make_skeleton,
    numbered_folders,
    read_weights,
    save_model,
    with_weights,
)
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.distributed import (
    StopSignal,
    group_tied_embeddings,
    is_sharded,
    leave_together,
    make_accelerator,
)
from hf_vanilla.training.evaluate import evaluate
from hf_vanilla.training.optim import ExponentialMovingAverage, Progress, adam, average_weights, make_schedule
from hf_vanilla.training.records import describe_examples, write_samples, write_summary
from hf_vanilla.training.run_log import RunLog, plot_curves
from hf_vanilla.training.state import CONFIG, SUMMARY, Clock, RunState, check_folder, resume, share_counts
from hf_vanilla.training.step import training_step
from hf_vanilla.training.tasks import TASKS

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, command: str | None = None) -> Path:
    """Train a model from scratch, and save it with its tokenizer into `output_dir`; or resume an interrupted run.

    Beside the model lie `log.jsonl` (a line every `log_every` updates and at each validation), `curves.png`,
    `training_summary.json`, `checkpoints/` to resume from, `snapshots/` (the models that were averaged), `best/`
    (the model with the lowest validation loss on the way), and `samples.jsonl`: five examples of the validation split,
    for translation with the `translation` of their `source`.

    Args:
        config: what to train.
        command: what the user typed, for the summary.

    Returns:
        `output_dir`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError, FileNotFoundError: corpus, configuration or `output_dir` are not fit for use; nothing was changed.
        SystemExit: after SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    run = Run(config)
    if not run.begin():
        return run.folder
    state = run.state
    with StopSignal() as stop:
        for epoch, number, micro_batches in run.batches.updates(state.epoch, state.next_update):
            state.epoch, state.next_update = epoch, number
            if state.done == 1:
                break
            run.update(micro_batches, stop)
    run.finish(command)
    return run.folder


class Run:
    """A training run, as one of its processes sees it: data, model, where it is, and the folder that it fills."""

    def __init__(self, config: TrainingConfig) -> None:
        """Load corpus and tokenizer, and build the model. Nothing is written yet.

        Raises:
            ValueError, FileNotFoundError: see `train`.
        """
        transformers.utils.logging.disable_progress_bar()  # one bar is enough
        self.config, self.folder = config, Path(config.output_dir)
        self.uses_onednn = use_onednn_for_float32()
        self.accelerator = accelerator = make_accelerator(config)
        self.was_started = check_folder(self.folder, config, accelerator)

        self.task = task = TASKS[config.task](config)
        with accelerator.main_process_first():  # the others then read its cache
            self.corpus = task.load_corpus()
        if self.was_started:
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        else:
            own = task.load_tokenizer(self.corpus) if accelerator.is_main_process else None
            tokenizer = broadcast_object_list([own])[0]
        self.tokenizer = tokenizer
        with accelerator.main_process_first():
            examples, unseen = (task.examples(self.corpus, split, tokenizer) for split in ("train", "validation"))

        set_seed(config.seed)
        model = task.build_model(tokenizer)
        self.batches = task.batches(examples, tokenizer, model, accelerator)
        self.validation_batches = task.batches(unseen, tokenizer, model, accelerator, training=False)
        self.skeleton = make_skeleton(model)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if config.compile:
            model.compile(dynamic=True)
        group_tied_embeddings(model, accelerator)
        optimizer = adam(model.parameters(), config.learning_rate)
        self.progress = Progress(config.max_steps, config.train_minutes, config.warmup_steps)
        # Not prepared: Accelerate would step a prepared schedule once for each process.
        self.scheduler = make_schedule(
            config.schedule, optimizer, self.progress, model.config.hidden_size, config.warmup_steps, config.max_steps
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.average: ExponentialMovingAverage | None = None
        if config.ema_decay:
            self.average = ExponentialMovingAverage(accelerator.unwrap_model(self.model), config.ema_decay)
        set_seed(config.seed, device_specific=True)  # dropout differs between processes

        self.state = RunState(examples=None if config.streaming else len(examples))
        self.state.processes, self.state.lengths = accelerator.num_processes, self.batches.checksum
        self.checkpoints = Checkpoints(self.folder, accelerator, config.keep_checkpoints)

    def begin(self) -> bool:
        """Resume the newest checkpoint if there is one, and open the log.

        Returns:
            False if the run has come to its end before: there is nothing to do.
        """
        config, folder, accelerator = self.config, self.folder, self.accelerator
        if self.was_started and (newest := self.checkpoints.newest()):
            self.state = resume(self.checkpoints, newest, self.state, self.progress, self.scheduler, self.average)
            if self.state.done == 1 and (folder / SUMMARY).exists():
                message = "%s: trained already, %d updates; remove the folder to train anew"
                logger.warning(message, folder, self.state.step)
                leave_together(accelerator)
                return False
        state = self.state
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SUMMARY).unlink(missing_ok=True)
            discard_after(state.step, folder)
            if not state.step:
                text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
                (folder / CONFIG).write_text(text, encoding="utf-8")
                self.tokenizer.save_pretrained(folder)
        accelerator.wait_for_everyone()
        accelerator.init_trackers("hf_vanilla", config={name: str(value) for name, value in vars(config).items()})
        self.log = RunLog(folder, accelerator, after=state.step, done=state.done)
        parts = [
            f"{'streamed' if state.examples is None else f'{state.examples:,}'} training examples",
            f"{sum(weight.numel() for weight in self.model.parameters()):,} parameters",
            f"{accelerator.num_processes} process(es) on {accelerator.device.type}",
            f"mixed precision: {accelerator.mixed_precision}",
        ]
        if accelerator.num_processes > 1:
            parts[2] += f", {accelerator.distributed_type.value}"
        if self.uses_onednn:
            parts.append("float32 products by oneDNN")
        if state.step:
            parts.append(f"going on after update {state.step}")
        self.log.say("; ".join(parts))
        self.clock = Clock(state.elapsed)
        return True

    def update(self, micro_batches: Sequence[BatchEncoding], stop: StopSignal) -> None:
        """Make one update, unless the run was told to stop; then log, validate and save what is due after it."""
        config, state, model = self.config, self.state, self.model
        counts = share_counts(micro_batches, self.clock, stop, self.accelerator)
        state.elapsed, tokens = counts["elapsed"], max(int(counts["tokens"]), 1)  # all may be padding
        if counts["stopped"]:
            self.stop(stop.received or signal.SIGTERM)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        state.step += 1
        loss, own_loss, norm = training_step(
            self.task, model, self.optimizer, self.accelerator, micro_batches, tokens, config.max_grad_norm
        )
        if not math.isfinite(loss + norm):
            innocent = bool(own_loss.isfinite()) and not math.isfinite(loss)
            examples = describe_examples(micro_batches, self.tokenizer, self.folder, innocent)
            self.log.close()
            leave_together(self.accelerator)
            raise FloatingPointError(
                f"the loss is {loss}, the norm of the gradient {norm}, at update {state.step}, "
                f"learning rate {learning_rate:.3g}, in {examples}. Checkpoints are as they were. "
                "Look at these examples, or try a lower learning_rate"
            )
        self.progress.update(state.step, state.elapsed)
        self.scheduler.step()
        if self.average:
            self.average.update(self.accelerator.unwrap_model(model), state.step)
        state.done, state.end_of_warmup = self.progress.done, self.progress.end_of_warmup
        state.next_update += 1
        state.target_tokens += tokens
        state.add_to_window(loss * tokens, tokens, counts["filled"], counts["slots"], self.clock.lap(), 1)

        is_last = state.done == 1
        if state.step % config.log_every == 0 or is_last:
            means = state.take_means()
            self.log.write(step=state.step, epoch=state.epoch, **means, learning_rate=learning_rate)
        self.log.advance(state.done)
        if not self.average and (state.step % config.average_every == 0 or is_last):
            self.save_snapshot()
        if int(state.done * config.evaluations) > state.validations and not is_last:
            state.validations = int(state.done * config.evaluations)
            self.validate()
        if state.step % config.checkpoint_every == 0 or is_last:
            with self.log.going_on_after(CheckpointError):
                self.save_checkpoint()
        self.clock.lap()  # what was done since the update does not count for its speed

    def stop(self, number: int) -> NoReturn:
        """Save a checkpoint, and end the process as signal `number` asked for."""
        self.save_checkpoint()
        self.log.say(f"stopped, and saved after update {self.state.step}; the same command goes on from there")
        self.log.close()
        leave_together(self.accelerator)
        raise SystemExit(128 + number)

    def save_checkpoint(self) -> None:
        """Save all that `resume` needs."""
        content = dataclasses.asdict(self.state) | {"schedule": self.scheduler.state_dict()}
        self.checkpoints.save(self.state.step, content, self.average.weights if self.average else {})

    def save_snapshot(self) -> None:
        """Save the weights, to be averaged at the end, and remove the oldest of those that were."""
        snapshots = self.folder / "snapshots"
        with self.log.going_on_after(CheckpointError):
            self.save_weights(snapshots / f"step-{self.state.step}")
            keep_newest(snapshots, self.config.average_last, self.accelerator)

    def save_weights(self, folder: Path) -> None:
        """Save the model as it is now, gathered from all processes, for `from_pretrained`."""
        weights = self.accelerator.get_state_dict(self.model)
        save_model(folder, weights, self.skeleton, self.tokenizer, self.accelerator)

    def validate(self) -> None:
        """Measure the model, log it, and keep it in `best/` if it is better than before."""
        scores = evaluate(
            self.task, self.model, self.tokenizer, self.validation_batches, self.corpus, self.accelerator
        )
        self.log.write(step=self.state.step, **scores)
        if self.state.is_best(scores["validation_loss"]):
            with self.log.going_on_after(CheckpointError):
                self.save_weights(self.folder / "best")

    def finish(self, command: str | None) -> None:
        """Average the weights, measure the model that they make, and save it with all that belongs to it.

        What is measured and shown is what a user will load, in float32; but a sharded model is measured as it is.
        """
        config, folder, accelerator, tokenizer = self.config, self.folder, self.accelerator, self.tokenizer
        snapshots = numbered_folders(folder / "snapshots")[-config.average_last :]
        weights = self.average.weights if self.average else average_weights(map(read_weights, snapshots))
        final = with_weights(self.skeleton, weights)
        measured = self.model if is_sharded(accelerator) else final.to(accelerator.device)
        scores = evaluate(self.task, measured, tokenizer, self.validation_batches, self.corpus, accelerator)
        self.log.write(step=self.state.step, **scores)
        if self.state.is_best(scores["validation_loss"]):
            save_model(folder / "best", final.state_dict(), self.skeleton, tokenizer, accelerator)
        if accelerator.is_main_process:
            final.save_pretrained(folder)
            plot_curves(self.log.records, folder / "curves.png")
            write_samples(final, tokenizer, self.corpus["validation"], folder)
            write_summary(folder, config, command, self.state, scores, self.task, accelerator)
        self.log.close()
        leave_together(accelerator)
