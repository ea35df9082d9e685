"""The training loop, by Accelerate. One process or many, interrupted or not, it ends with the same weights."""

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from transformers import AutoTokenizer, BatchEncoding

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.texts_vanilla import read_special_tokens
from hf_vanilla.training import checkpointing, distributed, optim, records
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.evaluation import evaluate, unigram_perplexity
from hf_vanilla.training.run_log import RunLog, plot_curves
from hf_vanilla.training.state import CONFIG, SUMMARY, RunState, check_folder, only_writer, share_counts
from hf_vanilla.training.step import Update, training_step
from hf_vanilla.training.tasks import TASKS
from hf_vanilla.training.yaml_files import write_yaml

logger = logging.getLogger(__name__)

MOST_SKIPPED = 20
"""So many updates in a row that fp16 skips are no search for its scale any more: the run is lost."""
UPDATES_TIMED = 10
"""After so many updates, a run that time limits can tell how many there will be."""


def train(config: TrainingConfig, command: str | None = None) -> Path:
    """Train a model from scratch, and save it with its tokenizer into `output_dir`; or resume an interrupted run.

    Beside the model lie `log.jsonl` (a line every `log_every` updates and at each validation), `curves.png`,
    `training_summary.json`, `checkpoints/` to resume from, `snapshots/` (the models that were averaged), `best/`
    (the model with the lowest validation loss on the way), and `samples.jsonl`: five examples of the validation split,
    for translation with the `translation` of their `source`. `command` is what the user typed, for the summary. It
    returns `output_dir`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError, FileNotFoundError: corpus, configuration or `output_dir` are not fit for use; nothing was changed.
        SystemExit: after SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    accelerator = distributed.make_accelerator(config)
    with only_writer(Path(config.output_dir)):
        return _train(config, accelerator, command)


def _train(config: TrainingConfig, accelerator: Accelerator, command: str | None) -> Path:
    run = Run(config, accelerator)
    if not run.begin():
        return run.folder
    state = run.state
    with distributed.StopSignal() as stop:
        for epoch, number, micro_batches in run.batches.updates(state.epoch, state.next_update):
            state.epoch, state.next_update = epoch, number
            if state.done == 1:
                break
            run.update(micro_batches, stop)
    run.finish(command)
    return run.folder


class Run:
    """A training run, as one process sees it. Making one loads and builds all that it needs, and writes nothing."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator) -> None:
        transformers.utils.logging.disable_progress_bar()  # one bar is enough
        self.config, self.folder = config, Path(config.output_dir)
        self.uses_onednn = use_onednn_for_float32()
        self.accelerator, self.hosts = accelerator, distributed.Hosts(accelerator)
        self.was_started = check_folder(self.folder, config, accelerator)

        self.task = task = TASKS[config.task](config)
        with self.hosts.main_process_first():  # the others then read its cache
            self.corpus = task.load_corpus()
        if self.was_started:
            tokenizer = read_special_tokens(AutoTokenizer.from_pretrained(self.folder))
        else:
            with self.hosts.main_process_first():
                own = task.load_tokenizer(self.corpus) if accelerator.is_main_process else None
            tokenizer = broadcast_object_list([own])[0]
        self.tokenizer = tokenizer
        with self.hosts.main_process_first():
            examples, unseen = (task.examples(self.corpus, split, tokenizer) for split in ("train", "validation"))

        self.examples = examples

        set_seed(config.seed)
        model = task.build_model(tokenizer)
        self.batches = task.batches(examples, tokenizer, model)
        self.validation_batches = task.batches(unseen, tokenizer, model, training=False)
        self.skeleton = checkpointing.make_skeleton(model)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if config.compile:  # but for the loss, which would hold all logits at once
            model.base_model.compile(dynamic=True)
        distributed.group_tied_embeddings(model, accelerator)
        if config.optimizer == "muon" and distributed.is_sharded(accelerator):
            kind = accelerator.distributed_type.value
            raise ValueError(f"optimizer is muon; expected adam: Muon needs whole matrices, which {kind} divides")
        precision = accelerator.mixed_precision
        optimizer = optim.make_optimizer(config.optimizer, model, config.learning_rate, precision)
        self.progress = optim.Progress(config.max_steps, config.train_minutes, config.warmup_steps or 0)
        # Not prepared: Accelerate would step a prepared schedule once for each process.
        self.scheduler = optim.make_schedule(config.schedule, optimizer, self.progress, model.config.hidden_size)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        decay, unwrapped = config.ema_decay, accelerator.unwrap_model(self.model)
        self.average = optim.ExponentialMovingAverage(unwrapped, decay) if decay else None
        set_seed(config.seed, device_specific=True)  # dropout differs between processes

        count = None if config.streaming else len(examples)
        told: dict[str, Any] = {
            "examples": count,
            "lengths": self.batches.checksum,
            "splits": self.corpus.fingerprints,
        }
        self.state = RunState(**told, processes=accelerator.num_processes)
        self.unsettled: tuple[Update, int, float] | None = None  # the last update, its number and learning rate
        self.checkpoints = checkpointing.Checkpoints(self.folder, accelerator, config.keep_checkpoints)

    def begin(self) -> bool:
        """Resume the newest checkpoint if there is one, and open the log; return false if the run was finished."""
        config, folder, accelerator = self.config, self.folder, self.accelerator
        if self.was_started and (newest := self.checkpoints.newest()):
            self.resume(newest)
        state = self.state
        if state.done == 1 and (folder / SUMMARY).exists():
            logger.warning("%s: trained already, %d updates; remove the folder to train anew", folder, state.step)
            distributed.leave_together(accelerator)
            return False
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SUMMARY).unlink(missing_ok=True)
            checkpointing.discard_after(state.step, folder)
            if not state.step:
                text = write_yaml(dataclasses.asdict(config))
                (folder / CONFIG).write_text(text, encoding="utf-8")
                self.tokenizer.save_pretrained(folder)
        accelerator.wait_for_everyone()
        accelerator.init_trackers("hf_vanilla", config={name: str(value) for name, value in vars(config).items()})
        self.log = RunLog(folder, accelerator, after=state.step, done=state.done)
        kind = f", {accelerator.distributed_type.value}" if accelerator.num_processes > 1 else ""
        parts = (
            f"{'streamed' if state.examples is None else f'{state.examples:,}'} training examples",
            f"{sum(weight.numel() for weight in self.model.parameters()):,} parameters",
            f"{accelerator.num_processes} process(es) on {accelerator.device.type}{kind}",
            f"mixed precision: {accelerator.mixed_precision}",
            "float32 products by oneDNN" if self.uses_onednn else "",
            f"going on after update {state.step}" if state.step else "",
        )
        self.log.say("; ".join(filter(None, parts)))
        self.warn_of_warmup()
        self.last_update = time.monotonic()
        self.start = self.last_update - state.elapsed
        return True

    def warn_of_warmup(self) -> None:
        """Say so if the run will end before its learning rate is at its peak, as far as can be seen by now."""
        warmup, expected = self.progress.warmup_steps, self.progress.updates_in_all(self.state.step)
        if warmup >= max(expected, 1):
            self.log.say(
                f"warning: the run will have about {expected:,.0f} updates, and its warm-up takes {warmup:,}: the "
                "learning rate will not reach its peak. Try a smaller warmup_steps"
            )

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint `path`; if it was trained on another corpus, raise a ValueError."""
        fresh = self.state
        loaded, weights = self.checkpoints.load(path)
        self.scheduler.load_state_dict(loaded.pop("schedule"))
        if average := self.average:
            average.weights = {name: weights[name].to(weight.device) for name, weight in average.weights.items()}
        self.state = state = RunState(**loaded)
        if state.examples != fresh.examples:
            raise ValueError(f"{path}: trained on {state.examples} examples; now the corpus gives {fresh.examples}")
        if state.lengths != fresh.lengths:
            raise ValueError(f"{path}: trained on {state.examples} examples of other lengths: the corpus has changed")
        state.splits = state.splits or fresh.splits  # versions before had no fingerprints
        if changed := [split for split in fresh.splits if state.splits.get(split) != fresh.splits[split]]:
            raise ValueError(f"{path}: the corpus has changed since, in other rows for {' and '.join(changed)}")
        if state.processes != fresh.processes:
            logger.warning("%s: %d processes, now %d: dropout will differ", path, state.processes, fresh.processes)
            state.processes = fresh.processes
        self.progress.end_of_warmup = state.end_of_warmup
        self.progress.update(state.step, state.elapsed)
        state.done = self.progress.done
        if state.done < loaded["done"]:  # the run was made longer: its evaluations are spread anew
            state.validations = int(state.validations * state.done / loaded["done"])

    def update(self, micro_batches: Sequence[BatchEncoding], stop: distributed.StopSignal) -> None:
        """Make one update, unless the run was told to stop; then log, validate and save what is due after it.

        The host reads what an update did when it has launched the next one, so that it does not wait for the device;
        or before anything is logged, measured or saved.
        """
        config, state, model = self.config, self.state, self.model
        counts = share_counts(micro_batches, time.monotonic() - self.start, stop, self.hosts)
        state.elapsed, tokens = counts["elapsed"], max(int(counts["tokens"]), 1)  # all may be padding
        if counts["stopped"]:
            self.stop(stop.received or signal.SIGTERM)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        update = training_step(self.task, model, self.optimizer, self.accelerator, micro_batches, tokens)
        self.settle()  # the one before
        state.step += 1
        self.unsettled = update, state.step, learning_rate
        self.progress.update(state.step, state.elapsed)
        self.scheduler.step()
        if self.average:
            self.average.update(self.accelerator.unwrap_model(model), state.step)
        state.done, state.end_of_warmup = self.progress.done, self.progress.end_of_warmup
        state.next_update += 1
        state.target_tokens += tokens
        seconds = time.monotonic() - self.last_update
        state.add_to_window(0.0, tokens, counts["filled"], counts["slots"], seconds, 1)

        is_last = state.done == 1
        if state.step % config.log_every == 0 or is_last:
            self.settle()
            means = state.take_means()
            means |= {"skipped_updates": state.skipped} if state.skipped else {}
            self.log.write(step=state.step, epoch=state.epoch, **means, learning_rate=learning_rate)
        self.log.advance(state.done)
        if state.step == UPDATES_TIMED and config.train_minutes:
            self.warn_of_warmup()
        if not self.average and (state.step % config.average_every == 0 or is_last):
            self.save_snapshot()
        if int(state.done * config.evaluations) > state.validations and not is_last:
            state.validations = int(state.done * config.evaluations)
            with self.log.going_on_after(checkpointing.CheckpointError):
                self.validate_now()
        if state.step % config.checkpoint_every == 0 or is_last:
            with self.log.going_on_after(checkpointing.CheckpointError):
                self.save_checkpoint()
        self.last_update = time.monotonic()  # what was done since does not count for the speed

    def settle(self) -> None:
        """Read what the last update did, if that is not done yet. Of one that failed, nothing has been saved.

        Raises:
            FloatingPointError: its loss or its gradient is not finite; or fp16 has skipped `MOST_SKIPPED` in a row.
        """
        if self.unsettled is None:
            return
        (update, step, learning_rate), self.unsettled = self.unsettled, None
        state, (loss, own_loss, norm, was_skipped) = self.state, update.outcome()
        problem = None
        if not math.isfinite(loss if was_skipped else loss + norm):
            problem = f"the loss is {loss}, the norm of the gradient {norm},"
        state.skipped += was_skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if was_skipped else 0
        if state.skipped_in_a_row == MOST_SKIPPED:
            problem = f"in fp16, {MOST_SKIPPED} updates in a row have overflowed and were skipped,"
        if problem is None:
            state.window["loss"] += loss * update.target_tokens
            return
        innocent = math.isfinite(own_loss) and not math.isfinite(loss)
        examples = records.describe_examples(update.micro_batches, self.tokenizer, self.folder, innocent)
        self.log.close()
        distributed.leave_together(self.accelerator)
        raise FloatingPointError(
            f"{problem} at update {step}, learning rate {learning_rate:.3g}, in {examples}. Checkpoints are as they "
            "were. Look at these examples, or try a lower learning_rate"
        )

    def stop(self, number: int) -> NoReturn:
        """Save a checkpoint, and end the process as signal `number` asked for."""
        self.save_checkpoint()
        self.log.say(f"stopped, and saved after update {self.state.step}; the same command goes on from there")
        self.log.close()
        distributed.leave_together(self.accelerator)
        raise SystemExit(128 + number)

    def save_checkpoint(self) -> None:
        self.settle()
        content = dataclasses.asdict(self.state) | {"schedule": self.scheduler.state_dict()}
        self.checkpoints.save(self.state.step, content, self.average.weights if self.average else {})

    def save_snapshot(self) -> None:
        """Save the weights, to be averaged at the end, and remove the oldest of those that were."""
        snapshots = self.folder / "snapshots"
        with self.log.going_on_after(checkpointing.CheckpointError):
            self.save_weights(snapshots / f"step-{self.state.step}")
            checkpointing.keep_newest(snapshots, self.config.average_last, self.accelerator)

    def save_weights(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Save tokenizer and model by `atomic_folder`, with whole weights as given or, if None, as they are now."""
        self.settle()
        if weights is None:
            weights = self.accelerator.get_state_dict(self.model)
        with checkpointing.atomic_folder(folder, self.accelerator) as unfinished:
            if self.accelerator.is_main_process:
                # Not by the model itself: sharding gives it another class, the code of which would be saved with it.
                checkpointing.with_weights(self.skeleton, weights).save_pretrained(unfinished)
                self.tokenizer.save_pretrained(unfinished)

    def validate_now(self) -> None:
        """Validate the weights as they are now; where they are sharded, each process gets a whole model to measure."""
        self.settle()
        if not distributed.is_sharded(self.accelerator):
            self.validate(self.model)
            return
        weights = self.accelerator.get_state_dict(self.model)
        weights = distributed.share_weights(weights, self.skeleton.state_dict(), self.accelerator)
        self.validate(checkpointing.with_weights(self.skeleton, weights).to(self.accelerator.device), weights)

    def validate(self, model: nn.Module, weights: dict[str, Tensor] | None = None) -> dict[str, float]:
        """Measure a model, log and return its scores, and keep its weights in `best/` if it is better than before."""
        scores = evaluate(self.task, model, self.tokenizer, self.validation_batches, self.corpus, self.accelerator)
        self.log.write(step=self.state.step, **scores)
        if self.state.is_best(scores["validation_loss"]):
            self.save_weights(self.folder / "best", weights)
        return scores

    def finish(self, command: str | None) -> None:
        """Average the weights, measure the model that they make, and save it with all that belongs to it.

        What is measured and shown is what a user will load, in float32.
        """
        folder, accelerator = self.folder, self.accelerator
        snapshots = checkpointing.numbered_folders(folder / "snapshots")[-self.config.average_last :]
        states = map(checkpointing.read_weights, snapshots)
        weights = self.average.weights if self.average else optim.average_weights(states)
        final = checkpointing.with_weights(self.skeleton, weights)
        scores = self.validate(final.to(accelerator.device), final.state_dict())
        if self.config.task != "translation" and not self.config.streaming:
            frequencies = unigram_perplexity(self.tokenizer, self.examples, self.validation_batches, accelerator)
            scores |= {"unigram_perplexity": frequencies}
        if accelerator.is_main_process:
            final.save_pretrained(folder)
            plot_curves(self.log.records, folder / "curves.png")
            records.write_samples(final, self.tokenizer, self.corpus["validation"], folder)
            cuts = self.task.measure_tokenizer(self.corpus, self.tokenizer)
            records.write_summary(self.task, command, self.state, scores, accelerator, tokenizer=cuts)
        self.log.close()
        distributed.leave_together(accelerator)
