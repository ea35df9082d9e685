"""Sharded over two processes (FSDP2), a model learns what one process learns from whole batches, and is saved whole.

The file is also the script that these processes run. Accelerate ignores its FSDP plugin on the CPU; what it calls on
GPUs, torch's `fully_shard`, runs here over gloo. `plan` is transformers' own way there, by the model's `_fsdp_plan`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from families import VOCABULARY, small_model, words
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.distributed import DistributedConfig

from hf_vanilla import VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM, VanillaForConditionalGeneration
from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.training.optim import adam, noam_schedule

AUTO_CLASSES = {
    VanillaForConditionalGeneration: AutoModelForSeq2SeqLM,
    VanillaEncoderForMaskedLM: AutoModelForMaskedLM,
    VanillaDecoderForCausalLM: AutoModelForCausalLM,
}
WAYS = ("layers", "plan")
PROCESSES, STEPS, WIDTH, ROWS = 2, 20, 32, 6


def untrained(head: type[PreTrainedModel]) -> PreTrainedModel:
    return small_model(head, hidden_size=WIDTH, intermediate_size=2 * WIDTH).train()


def batch_of(step: int, model: PreTrainedModel) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of 3 to 9 tokens: arguments of `model.forward`, and labels, -100 where there is none."""
    torch.manual_seed(step)
    inputs = {"input_ids": words(ROWS, 9), "attention_mask": torch.arange(9) < torch.randint(3, 10, (ROWS, 1))}
    used = inputs["attention_mask"]
    if model.config.is_encoder_decoder:
        used = torch.arange(9) < torch.randint(3, 10, (ROWS, 1))
    labels = words(ROWS, 9).masked_fill(~used, -100)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
    return inputs, labels


def train(model: PreTrainedModel, rows: slice, processes: int) -> PreTrainedModel:
    """Learn from the `rows` of each batch; the gradient is the mean over the processes."""
    optimizer = adam(model.parameters())
    schedule = noam_schedule(optimizer, WIDTH, warmup_steps=400)
    for step in range(STEPS):
        inputs, labels = batch_of(step, model)
        logits = model(**{name: tensor[rows] for name, tensor in inputs.items()}).logits
        tokens = (labels != -100).sum()
        (cross_entropy(logits, labels[rows], tokens, 0.1) * processes).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


def sharded(head: type[PreTrainedModel], way: str, folder: Path) -> PreTrainedModel:
    """The untrained model, a part of each parameter in each process."""
    model = untrained(head)
    if way == "plan":
        if dist.get_rank() == 0:
            model.save_pretrained(folder / "untrained" / head.__name__)
        dist.barrier()
        plan = DistributedConfig(fsdp_size=PROCESSES)
        return head.from_pretrained(folder / "untrained" / head.__name__, distributed_config=plan).train()
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module)
    return fully_shard(model)


def train_in_one_of_two_processes(folder: Path) -> None:
    """Train each head both ways, on this process's half of each batch; the first process saves `folder/way/head`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert dist.get_world_size() == PROCESSES
    for head in AUTO_CLASSES:
        for way in WAYS:
            model = sharded(head, way, folder)
            parameters: list[Any] = list(model.parameters())
            assert all(isinstance(parameter, DTensor) for parameter in parameters)
            share = sum(parameter.to_local().numel() for parameter in parameters) / model.num_parameters()
            assert 0.45 < share < 0.55, f"rank {rank} holds {share:.0%} of {head.__name__}"
            train(model, slice(rank * ROWS // PROCESSES, (rank + 1) * ROWS // PROCESSES), PROCESSES)
            whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
            if rank == 0:
                # Not by the sharded model: its class is made by torch, and torch's code would be saved beside it.
                unsharded = untrained(head)
                unsharded.load_state_dict(whole)
                unsharded.save_pretrained(folder / way / head.__name__)
            dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*launcher, __file__, str(folder)], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", AUTO_CLASSES, ids=lambda head: head.__name__)
def test_two_sharded_processes_train_and_save_the_model_of_one(head, way, folder):
    start, expected = untrained(head).state_dict(), train(untrained(head), slice(None), 1).state_dict()
    moved = max((expected[name] - start[name]).abs().max() for name in start)
    assert moved > 1e-3

    model = AUTO_CLASSES[head].from_pretrained(folder / way / head.__name__)
    assert (folder / way / head.__name__ / f"{head.__module__.rpartition('.')[2]}.py").exists()
    assert type(model) is head and model.config.vocab_size == VOCABULARY
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        if not name.endswith("k_proj.bias"):  # Softmax cancels it: its gradient is noise, which Adam scales up.
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=f"{name} differs")


if __name__ == "__main__":
    train_in_one_of_two_processes(Path(sys.argv[1]))
