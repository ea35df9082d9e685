"""Accelerate's offload: weights lie on the CPU or on disk, and are there while their own module is called."""

import copy
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights, load_checkpoint_and_dispatch
from families import MODELS, batch_for, small_model
from torch import Tensor, nn

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    RecurrentModel,
    VanillaDecoderForCausalLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)

CASES: list[tuple[type, dict[str, Any]]] = [(each, {}) for each in [*MODELS, RecurrentModel]]
CASES += [
    (VanillaForConditionalGeneration, {"tie_word_embeddings": False, "position_embedding_type": "learned"}),
    (VanillaForConditionalGeneration, {"embedding_norm": True, "final_norm": True, "logits_bias": True}),
    (VanillaEncoderModel, {"type_vocab_size": 2, "add_pooling_layer": True}),
    (VanillaDecoderForCausalLM, {"norm_position": "pre", "position_embedding_type": "learned", "position_offset": 2}),
]
CASES += [
    (RecurrentForConditionalGeneration, {"cell_type": cell, "attention_type": kind} | more)
    for cell in ("lstm", "gru")
    for kind, more in (("none", {}), ("additive", {}), ("dot", {"input_feeding": True}), ("local", {}), ("concat", {}))
]


def offload_to_cpu(model, folder):
    return cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))


def offload_to_disk(model, folder):
    return disk_offload(copy.deepcopy(model), str(folder), execution_device=torch.device("cpu"))


def dispatch(model, folder):
    """Each other part on disk."""
    parts = [name for name, _ in model.named_children()]
    places = {name: "disk" if number % 2 == 0 else "cpu" for number, name in enumerate(parts)}
    return dispatch_model(copy.deepcopy(model), places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def memory_for(model: nn.Module, share: float) -> dict[Any, int]:
    return {"cpu": int(share * sum(each.numel() * each.element_size() for each in model.parameters()))}


def load_with_little_memory(model, folder):
    model.save_pretrained(folder / "saved")
    options = {"device_map": "auto", "max_memory": memory_for(model, 0.6), "offload_folder": str(folder / "offloaded")}
    return type(model).from_pretrained(folder / "saved", **options)


def load_into_an_empty_model(model, folder):
    model.save_pretrained(folder / "saved")
    with init_empty_weights():
        empty = type(model)(copy.deepcopy(model.config))
    empty.tie_weights()
    options: dict[str, Any] = {"device_map": "auto", "max_memory": memory_for(model, 0.6)}
    options["no_split_module_classes"] = model._no_split_modules
    if "Recurrent" in type(model).__name__:  # whose two stacks are not split
        stacks = [name for name, part in model.named_modules() if type(part).__name__ in model._no_split_modules]
        options = {"device_map": dict(zip(stacks, ("cpu", "disk"), strict=True)) | {"lm_head": "cpu"}}
    options["offload_folder"] = str(folder / "offloaded")
    return load_checkpoint_and_dispatch(empty, str(folder / "saved"), **options).eval()


WAYS = [offload_to_cpu, offload_to_disk, dispatch, load_with_little_memory, load_into_an_empty_model]


def tensors(output: Any) -> list[Tensor]:
    return [each for each in output.values() if isinstance(each, Tensor)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("model_class", "fields"), CASES)
def test_an_offloaded_model_gives_the_same(model_class, fields, way, tmp_path):
    if way is load_into_an_empty_model and "Recurrent" in model_class.__name__:
        fields = fields | {"tie_word_embeddings": False}  # Accelerate loads no matrix that two places share
    model, batch = small_model(model_class, **fields), batch_for(model_class)
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in batch:
            batch[name][0, ..., 3:] = 0
    offloaded = way(model, tmp_path)
    assert any(parameter.device.type == "meta" for parameter in offloaded.parameters())
    expected = model(**batch)
    torch.testing.assert_close(tensors(offloaded(**batch)), tensors(expected), rtol=0, atol=0)
    if model.can_generate():
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        inputs = {"input_ids": batch["input_ids"]}
        assert torch.equal(offloaded.generate(**inputs, **options), model.generate(**inputs, **options))
    if "loss" in expected:
        declined = {"output_logits": False} if model.can_generate() else {}
        output = offloaded.train()(**batch, **declined)
        torch.testing.assert_close(output.loss, expected.loss)
        output.loss.backward()
