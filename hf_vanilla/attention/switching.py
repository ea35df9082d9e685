"""What is lost when a head is switched off."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from hf_vanilla.attention.reader import MAX_PAIRS, Reader, Reading, batch_readings, evaluation_mode, pad
from hf_vanilla.translation.loading import extra_tokens
from hf_vanilla.translation.metrics import TranslationQuality

EFFECTS = ("perplexity", "bleu", "none")
SWITCHED = "hf_vanilla_switched"  # the name of a model's attention implementation while a head is switched off


def choose_measure(reader: Reader, readings: Sequence[Reading], metric: str) -> tuple[Callable[[], float] | None, str]:
    """Return a function that measures the model as it is, or None and the reason why there is no such function."""
    if metric == "bleu":
        return lambda: bleu(reader, readings), ""
    if reader.model.get_output_embeddings() is None:
        return None, f"no effects: {type(reader.model).__name__} has no language model's head, so no perplexity"
    if not reader.is_seq2seq and not reader.is_decoder and reader.tokenizer.mask_token_id is None:
        return None, "no effects: perplexity of an encoder takes a tokenizer with a mask token"
    return lambda: perplexity(reader, readings), ""


@torch.no_grad()
def perplexity(reader: Reader, readings: Sequence[Reading]) -> float:
    """Return exp of the mean cross-entropy of `predictions`; if there is nothing to predict, raise a ValueError."""
    total, count = 0.0, 0
    with evaluation_mode(reader.model):
        # An eighth of the pairs that attention maps allow, for logits take memory, too.
        for batch in batch_readings(sorted(readings, key=lambda each: len(each.ids)), MAX_PAIRS // 8):
            inputs, labels = predictions(reader, batch)
            logits = reader.model(**inputs).logits.float()
            total += float(F.cross_entropy(logits.flatten(0, 1), labels.to(logits.device).flatten(), reduction="sum"))
            count += int((labels != -100).sum())
    if not count:
        raise ValueError("no text has a token to predict: give longer ones")
    return math.exp(min(total / count, 700))  # exp of more overflows


def predictions(reader: Reader, batch: Sequence[Reading]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the inputs of a model, and the labels (batch, length) of its logits, -100 where nothing is predicted.

    An encoder-decoder predicts the targets, a decoder each token but the first, an encoder each seventh, masked.
    """
    inputs = reader.inputs_of(batch)
    ids = inputs["input_ids"]
    if reader.is_seq2seq:
        return inputs, pad([reading.written_ids for reading in batch], -100)
    if reader.is_decoder:
        labels = ids.masked_fill(inputs["attention_mask"] == 0, -100)
        return inputs, F.pad(labels[:, 1:], (0, 1), value=-100)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    for row, reading in enumerate(batch):
        text = [place for place, special in enumerate(reading.sides["encoder"][0].special) if not special]
        masked[row, text[:: min(7, len(text))]] = True
    inputs["input_ids"] = ids.masked_fill(masked, reader.tokenizer.mask_token_id)
    return inputs, ids.masked_fill(~masked, -100)


@torch.no_grad()
def bleu(reader: Reader, readings: Sequence[Reading]) -> float:
    """Return the corpus BLEU of greedy translations against the targets of the readings."""
    readings = sorted(readings, key=lambda reading: len(reading.source))
    translations: list[str] = []
    with evaluation_mode(reader.model):
        for start in range(0, len(readings), 32):
            inputs = reader.inputs_of(readings[start : start + 32])
            del inputs["decoder_input_ids"]
            count = min(
                inputs["input_ids"].shape[1] + extra_tokens(reader.model, reader.tokenizer), reader.max_length - 1
            )
            output = reader.model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=count)
            texts = reader.tokenizer.batch_decode(output, skip_special_tokens=True)
            translations += [" ".join(text.split()) for text in texts]
    references = [[reading.target] for reading in readings]
    return TranslationQuality(metrics=["bleu"]).compute(predictions=translations, references=references)["bleu"]


@contextlib.contextmanager
def changed_outputs(model: PreTrainedModel, change: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """Let a model, in evaluation mode, `change` the output (batch, length, heads, d_v) of each attention module."""

    def attend(module: nn.Module, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        output, weights = sdpa_attention_forward(module, *arguments, **options)
        return change(module, output), weights

    AttentionInterface.register(SWITCHED, attend)
    AttentionMaskInterface.register(SWITCHED, sdpa_mask)
    try:
        with evaluation_mode(model, SWITCHED):
            yield
    finally:
        del AttentionInterface._global_mapping[SWITCHED], AttentionMaskInterface._global_mapping[SWITCHED]


def switched_off(model: PreTrainedModel, attention: nn.Module, head: int) -> AbstractContextManager[None]:
    """Let a model run, in evaluation mode, with 0 as the output of one head of the module `attention`."""

    def clear_head(module: nn.Module, output: Tensor) -> Tensor:
        places = torch.tensor([head], device=output.device)
        return output.index_fill(2, places, 0) if module is attention else output

    return changed_outputs(model, clear_head)


def find_switches(reader: Reader, layers: Mapping[str, int]) -> tuple[dict[tuple[str, int], nn.Module], str]:
    """Return the attention module of each kind and layer, or none and the reason why its heads cannot be switched off.

    `layers` has the number of layers of each kind of attention. The modules are those that call transformers'
    attention interface, in the order in which they do so on a text of three tokens.
    """
    called: list[nn.Module] = []

    def record(module: nn.Module, output: Tensor) -> Tensor:
        called.append(module)
        return output

    with changed_outputs(reader.model, record), torch.no_grad():
        ids = torch.tensor([[reader.config.vocab_size - 1] * 3], device=reader.model.device)
        reader.model.base_model(input_ids=ids, **({"decoder_input_ids": ids} if reader.is_seq2seq else {}))
    if reader.is_seq2seq:
        inside = set(reader.model.get_encoder().modules())
        encoder, decoder = ([m for m in called if (m in inside) == wanted] for wanted in (True, False))
        found = {"encoder": encoder, "decoder": decoder[::2], "cross": decoder[1::2]}
    else:
        found = {next(iter(layers)): called}
    if any(len(set(found[kind])) != count for kind, count in layers.items()):
        kind = reader.config.model_type
        return {}, f"no effects: {kind} models do not call transformers' attention interface once for each layer"
    return {(kind, layer): module for kind, modules in found.items() for layer, module in enumerate(modules)}, ""
