"""What is lost when a head is switched off."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from hf_vanilla.attention.reader import PAIRS, Reader, Reading, batched, evaluation, padded
from hf_vanilla.translation.metrics import TranslationQuality

if TYPE_CHECKING:
    from hf_vanilla.attention.survey import Counts


EFFECTS = ("perplexity", "bleu", "none")
SWITCHED = "hf_vanilla_switched"
"""The attention implementation of a model while heads are switched off."""


def measure_of(
    reader: Reader, readings: Sequence[Reading], targets: Sequence[str] | None, metric: str
) -> tuple[Callable[[], float] | None, str]:
    """What measures the model as it is, and, where nothing can, why."""
    if metric == "bleu":
        return lambda: bleu(reader, [reading.source for reading in readings], targets or []), ""
    if reader.model.get_output_embeddings() is None:
        return None, f"no effects: {type(reader.model).__name__} has no language model's head, so no perplexity"
    if not reader.is_seq2seq and not reader.is_decoder and reader.tokenizer.mask_token_id is None:
        return None, "no effects: perplexity of an encoder takes a tokenizer with a mask token"
    return lambda: perplexity(reader, readings), ""


@torch.no_grad()
def perplexity(reader: Reader, readings: Sequence[Reading]) -> float:
    """exp of the mean cross-entropy of targets, of texts from the second token on, or of each seventh token masked."""
    total, count = 0.0, 0
    with evaluation(reader.model):
        for batch in batched(sorted(readings, key=lambda each: len(each.ids)), PAIRS // 8):
            inputs = padded([reading.ids for reading in batch], reader.padding)
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            if reader.is_seq2seq:
                inputs["decoder_input_ids"] = padded([list(reading.decoder_ids) for reading in batch], reader.padding)[
                    "input_ids"
                ]
                labels = padded([list(reading.written_ids) for reading in batch], -100)["input_ids"]
            elif reader.is_decoder:
                labels = F.pad(ids.masked_fill(mask == 0, -100)[:, 1:], (0, 1), value=-100)
            else:
                masked = torch.zeros_like(ids, dtype=torch.bool)
                for row, reading in enumerate(batch):
                    text = [place for place, special in enumerate(reading.sides["encoder"][0].special) if not special]
                    masked[row, text[:: min(7, len(text))]] = True
                labels = ids.masked_fill(~masked, -100)
                inputs["input_ids"] = ids.masked_fill(masked, reader.tokenizer.mask_token_id)
            inputs = {name: tensor.to(reader.model.device) for name, tensor in inputs.items()}
            logits = reader.model(**inputs).logits.float()
            labels = labels.to(logits.device)
            total += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
            count += int((labels != -100).sum())
    if not count:
        raise ValueError("no text has a token to predict: give longer ones")
    return math.exp(min(total / count, 700))


@torch.no_grad()
def bleu(reader: Reader, sources: Sequence[str], targets: Sequence[str]) -> float:
    """Corpus BLEU of greedy translations."""
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    translations = [""] * len(sources)
    with evaluation(reader.model):
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            inputs = padded([reader.encode(sources[row], "source").ids for row in rows], reader.padding)
            count = min(inputs["input_ids"].shape[1] + 50, reader.most - 1)
            inputs = {name: tensor.to(reader.model.device) for name, tensor in inputs.items()}
            output = reader.model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=count)
            for row, text in zip(rows, reader.tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
                translations[row] = " ".join(text.split())
    return TranslationQuality().compute(predictions=translations, references=[[each] for each in targets])["bleu"]


@contextlib.contextmanager
def attention_function(model: PreTrainedModel, function: Callable[..., Any]) -> Iterator[None]:
    """A model whose attention is a function of ours, which is called as those of `AttentionInterface` are."""
    AttentionInterface.register(SWITCHED, function)
    AttentionMaskInterface.register(SWITCHED, sdpa_mask)
    try:
        with evaluation(model, SWITCHED):
            yield
    finally:
        del AttentionInterface._global_mapping[SWITCHED], AttentionMaskInterface._global_mapping[SWITCHED]


@contextlib.contextmanager
def switched_off(model: PreTrainedModel, attention: nn.Module, head: int) -> Iterator[None]:
    """A model without one head: what this head of an attention module gives is 0."""

    def attend(module: nn.Module, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        output, weights = sdpa_attention_forward(module, *arguments, **options)
        if module is attention:  # (batch, length, heads, d_v)
            output = output.clone()
            output[:, :, head] = 0
        return output, weights

    with attention_function(model, attend):
        yield


def find_switches(reader: Reader, counts: dict[str, "Counts"]) -> tuple[dict[tuple[str, int], nn.Module], str]:
    """The attention module of each kind and layer, or why there is none."""
    called: list[nn.Module] = []

    def record(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        called.append(module)
        return sdpa_attention_forward(module, *arguments, **options)

    with attention_function(reader.model, record), torch.no_grad():
        ids = torch.tensor([[reader.config.vocab_size - 1] * 3], device=reader.model.device)
        reader.model.base_model(input_ids=ids, **({"decoder_input_ids": ids} if reader.is_seq2seq else {}))
    if reader.is_seq2seq:
        inside = set(reader.model.get_encoder().modules())
        encoder, decoder = ([m for m in called if (m in inside) == wanted] for wanted in (True, False))
        found = {"encoder": encoder, "decoder": decoder[::2], "cross": decoder[1::2]}
    else:
        found = {next(iter(counts)): called}
    if any(len(set(found[kind])) != own.layers for kind, own in counts.items()):
        kind = reader.config.model_type
        return {}, f"no effects: {kind} models do not call transformers' attention interface once for each layer"
    return {(kind, layer): module for kind, modules in found.items() for layer, module in enumerate(modules)}, ""
