"""The training loop, by Accelerate: one process or many, interrupted or not, the same result."""

import contextlib
import dataclasses
import logging
import math
import signal
from pathlib import Path

import torch
import transformers
import yaml
from accelerate.utils import broadcast_object_list, set_seed
from transformers import AutoTokenizer

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.training.checkpointing import (
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
from hf_vanilla.training.state import CONFIG, SUMMARY, WINDOW, Clock, RunState, check_folder, fill, means, resume
from hf_vanilla.training.tasks import TASKS

logger = logging.getLogger(__name__)


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
