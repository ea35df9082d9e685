"""Train the in-tree model of the same size with the stock Trainer: same data, tokenizer, batches, updates, precision.

    hf-vanilla train scripts/configs/verses_small.yaml --max_steps 1000
    python scripts/train_peer.py scripts/configs/verses_small.yaml runs/marian --max_steps 1000
    hf-vanilla evaluate runs/marian --corpus verses

The peer of translation is MarianMTModel, of masked_lm BertForMaskedLM, of causal_lm GPT2LMHeadModel. The model without
averaging is saved as `last` beside the averaged one, and the validation loss of both printed. It cannot be restarted.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from peers.models import Shape, configure
from torch.utils.data import DataLoader, IterableDataset

from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import choose_precision
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.evaluation import evaluate
from hf_vanilla.training.optim import average_weights
from hf_vanilla.training.tasks import TASKS, Batches


def build_peer(
    config: TrainingConfig, tokenizer: transformers.PreTrainedTokenizerBase
) -> transformers.PreTrainedModel:
    """Build the task's peer in the shape of `config`, with dropout where the paper has it, or load `initial_model`."""
    auto_class = TASKS[config.task].auto_class
    if config.initial_model is not None:
        return auto_class.from_pretrained(config.initial_model)
    width, heads, positions = config.hidden_size, config.num_attention_heads, max(512, config.max_length)
    if config.qk_head_dim not in (None, width // heads):
        sys.exit(f"train_peer.py: qk_head_dim is {config.qk_head_dim}, but the peers' is hidden_size / heads")
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
    """Collects the weights to average after the updates at which our loop takes them."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.config.average_every == 0 or state.global_step == state.max_steps:
            copied = {name: weight.clone() for name, weight in kwargs["model"].state_dict().items()}
            self.states = [*self.states, copied][-self.config.average_last :]


def main(config: TrainingConfig, folder: Path) -> None:
    """Train the peer, then print its validation scores and save it, without averaging as `last` and averaged."""
    if config.max_steps is None:
        sys.exit("train_peer.py: give --max_steps, as many as our run made: `updates` in its training_summary.json")
    precision = choose_precision(config.mixed_precision)
    task, accelerator = TASKS[config.task](config), Accelerator(mixed_precision=precision)
    corpus = task.load_corpus()
    tokenizer = task.load_tokenizer(corpus)
    set_seed(config.seed)
    model = build_peer(config, tokenizer)
    train, validation = (
        task.batches(task.examples(corpus, split, tokenizer), tokenizer, model, split == "train")
        for split in ("train", "validation")
    )

    class Trainer(transformers.Seq2SeqTrainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(SameBatches(train), batch_size=None)

    snapshots = Snapshots(config)
    own = {"max_steps": config.max_steps, "warmup_steps": config.warmup_steps, "lr_scheduler_type": config.schedule}
    own |= {"learning_rate": config.learning_rate, "label_smoothing_factor": config.label_smoothing or 0.0}
    own |= {"optim": "adamw_torch_fused", "adam_beta2": 0.98, "adam_epsilon": 1e-9, "seed": config.seed}
    own |= {"max_grad_norm": config.max_grad_norm or 0.0, "bf16": precision == "bf16", "fp16": precision == "fp16"}
    own |= {"logging_steps": config.log_every, "save_strategy": "no", "report_to": []}
    own["use_cpu"] = accelerator.device.type == "cpu"  # without it, Trainer takes bf16 for a GPU's alone
    arguments = transformers.Seq2SeqTrainingArguments(str(folder), **own)
    start = time.monotonic()
    Trainer(model=model, args=arguments, callbacks=[snapshots], processing_class=tokenizer).train()
    print(f"{model.num_parameters():,} parameters, {time.monotonic() - start:.0f} seconds")
    for name, states in (("last", snapshots.states[-1:]), ("", snapshots.states)):
        model.load_state_dict(average_weights(states))
        print(name or "averaged", evaluate(task, model, tokenizer, validation, corpus, accelerator))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


if __name__ == "__main__":
    run_program(lambda: main(TrainingConfig.load(sys.argv[1], sys.argv[3:]), Path(sys.argv[2])), __doc__, least=2)
