"""Train the in-tree model of the same size with the stock Trainer, on the batches that our loop makes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from hf_vanilla.environment import choose_precision
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.evaluation import evaluate
from hf_vanilla.training.optim import Progress, average_weights, make_optimizer, make_schedule
from hf_vanilla.training.tasks import TASKS, Batches

from .models import Shape, configure

UNLIMITED = 10**9  # updates, where time ends the run
Builder = Callable[[TrainingConfig, transformers.PreTrainedTokenizerBase], transformers.PreTrainedModel]


@torch.no_grad()
def start_by_xavier(module: nn.Module) -> None:
    """Let a module start as ours do with `initializer="xavier"`; sinusoids stay."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif type(module) is nn.Embedding:
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def build_joey(
    config: TrainingConfig, tokenizer: transformers.PreTrainedTokenizerBase
) -> transformers.PreTrainedModel:
    """Build JoeyNMT's Transformer in the shape of `config`, with its norm; it starts as JoeyNMT has it."""
    from .joey import JoeyConfig, JoeyForConditionalGeneration

    own = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    own |= {"num_hidden_layers": config.encoder_layers, "num_decoder_layers": config.decoder_layers}
    own |= {"num_heads": config.num_attention_heads, "ff_size": config.intermediate_size, "dropout": config.dropout}
    own |= {"hidden_size": config.hidden_size, "layer_norm": config.norm_position, "vocab_size": len(tokenizer)}
    return JoeyForConditionalGeneration(JoeyConfig(**own, decoder_start_token_id=tokenizer.bos_token_id))


def build_peer(
    config: TrainingConfig, tokenizer: transformers.PreTrainedTokenizerBase
) -> transformers.PreTrainedModel:
    """Build the task's peer in the shape of `config`, with dropout where the paper has it, or load `initial_model`.

    It starts as transformers has it, from N(0, 0.02^2), or as `initializer` says, if that is "xavier".
    """
    auto_class = TASKS[config.task].auto_class
    if config.initial_model is not None:
        return auto_class.from_pretrained(config.initial_model)
    width, heads, positions = config.hidden_size, config.num_attention_heads, max(512, config.max_length)
    if config.qk_head_dim not in (None, width // heads):
        raise ValueError(f"qk_head_dim is {config.qk_head_dim}, but the peers' is hidden_size / heads")
    depth = config.decoder_layers if config.task == "causal_lm" else config.encoder_layers
    shape = Shape(depth, width, heads, config.intermediate_size, len(tokenizer), positions)
    activation, dropout = config.activation_function, config.dropout
    own = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    start = {"decoder_layers": config.decoder_layers, "decoder_start_token_id": tokenizer.bos_token_id}
    model_type, fields = {
        "translation": ("marian", {"activation_function": activation, "dropout": dropout} | start),
        "masked_lm": ("bert", {"hidden_act": activation, "hidden_dropout_prob": dropout}),
        "causal_lm": ("gpt2", {"activation_function": activation, "resid_pdrop": dropout, "embd_pdrop": dropout}),
    }[config.task]
    own |= fields | {"bert": {"attention_probs_dropout_prob": 0.0}, "gpt2": {"attn_pdrop": 0.0}}.get(model_type, {})
    model = auto_class.from_config(configure(model_type, shape, **own))
    if config.initializer == "xavier":
        model.apply(start_by_xavier)
    if config.task == "translation":
        model.generation_config.update(num_beams=4, length_penalty=1.0, max_length=None)
    return model


class SameBatches(IterableDataset):
    """The batches of our loop, one an update, in its order."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _, _, (batch,) in self.batches.updates(0, 0):
            yield dict(batch)


class Snapshots(transformers.TrainerCallback):
    """Collects the weights to average after the updates at which our loop takes them, the last of all among them."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.config.average_every == 0 or control.should_training_stop:
            copied = {name: weight.clone() for name, weight in kwargs["model"].state_dict().items()}
            self.states = [*self.states, copied][-self.config.average_last :]


class Clock(transformers.TrainerCallback):
    """Tells the schedule how far the run is, and ends it when its time is over."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.start = progress, time.monotonic()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.monotonic()

    def on_optimizer_step(
        self, args: Any, state: transformers.TrainerState, control: transformers.TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.update(state.global_step + 1, time.monotonic() - self.start)
        control.should_training_stop = self.progress.done == 1


def train_peer(config: TrainingConfig, folder: Path, build: Builder = build_peer) -> dict[str, Any]:
    """Train the peer that `build` makes as `config` says, save it, and return its validation scores and what it took.

    The model without averaging is saved as `last` beside the averaged one, with its scores as `last`.
    """
    precision = choose_precision(config.mixed_precision)
    task, accelerator = TASKS[config.task](config), Accelerator(mixed_precision=precision)
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    set_seed(config.seed)
    model = build(config, tokenizer)
    train, validation = (
        task.batches(task.examples(corpus, split, tokenizer), tokenizer, model, split == "train")
        for split in ("train", "validation")
    )

    class Trainer(transformers.Seq2SeqTrainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(SameBatches(train), batch_size=None)

    progress = Progress(config.max_steps, config.train_minutes, config.warmup_steps or 0)
    optimizer = make_optimizer(config.optimizer, model, config.learning_rate, precision)
    schedule = make_schedule(config.schedule, optimizer, progress, config.hidden_size)
    snapshots = Snapshots(config)
    own = {"max_steps": config.max_steps or UNLIMITED, "label_smoothing_factor": config.label_smoothing or 0.0}
    own |= {"max_grad_norm": config.max_grad_norm or 0.0, "bf16": precision == "bf16", "fp16": precision == "fp16"}
    own |= {"logging_steps": config.log_every, "save_strategy": "no", "report_to": [], "seed": config.seed}
    own["use_cpu"] = accelerator.device.type == "cpu"  # without it, Trainer takes bf16 for a GPU's alone
    arguments = transformers.Seq2SeqTrainingArguments(str(folder), **own)
    trainer = Trainer(
        model=model,
        args=arguments,
        callbacks=[snapshots, Clock(progress)],
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
    )
    start = time.monotonic()
    trainer.train()
    result: dict[str, Any] = {"parameters": model.num_parameters(), "seconds": time.monotonic() - start}
    result |= {"updates": trainer.state.global_step, "precision": precision}
    for name, states in (("last", snapshots.states[-1:]), ("", snapshots.states)):
        model.load_state_dict(average_weights(states))
        scores = evaluate(task, model, tokenizer, validation, corpus, accelerator)
        result |= {name: scores} if name else scores
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return result
