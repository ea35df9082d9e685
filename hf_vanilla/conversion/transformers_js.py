"""Write models as graphs that [transformers.js](https://huggingface.co/docs/transformers.js) runs without a server."""

import copy
import logging
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from hf_vanilla.conversion.export import CachedDecoder, write_graph
from hf_vanilla.training.checkpointing import new_folder

GRAPHS = tuple(f"For{task}" for task in ("ConditionalGeneration", "MaskedLM", "CausalLM", "QuestionAnswering"))
GRAPHS += ("ForSequenceClassification", "ForTokenClassification", "EncoderModel")
"""How the classes end whose graphs transformers.js has a pipeline for."""


class Encoder(nn.Module):
    """Computes the encoder's hidden states."""

    def __init__(self, model: Any):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (batch, source, hidden_size) of ids and a mask (batch, source)."""
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


class MergedDecoder(CachedDecoder):
    """Continues a target by some tokens, with or without a past: what is given of the source's keys and values, all
    or none, is read, and the rest computed. One graph so serves the first step and all others, without a branch."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.attentions: Any = nn.ModuleList(layer.cross_attention for layer in self.decoder.layers)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        encoder_attention_mask: Tensor,
        encoder_hidden_states: Tensor,
        source: list[Tensor],
        past: list[Tensor],
    ) -> list[Tensor]:
        """Return logits (batch, length, vocab_size), the keys and values of the target, and those of the source."""
        missing = encoder_hidden_states[:, source[0].shape[2] :]
        pairs = [attention.keys_and_values(missing, missing, None) for attention in self.attentions]
        new = [states for pair in pairs for states in pair]
        source = [torch.cat((given, rest), dim=2) for given, rest in zip(source, new, strict=True)]
        return [*super().forward(input_ids, encoder_attention_mask, source, past), *source]


class LanguageModel(nn.Module):
    """Continues a text by some tokens, with the keys and values of its past given."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model: Any = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> list[Tensor]:
        """Return logits (batch, length, vocab_size), and the keys and values (batch, heads, past + length, ...), for
        ids and positions (batch, length) and a mask (batch, past + length)."""
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        length, past_length = input_ids.shape[1], past[0].shape[2]
        positions = torch.arange(past_length + length)
        visible = positions[past_length:, None] >= positions
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=visible[None, None] & attention_mask[:, None, None].bool(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = outputs.past_key_values.layers
        return [outputs.logits, *(each for layer in layers for each in (layer.keys, layer.values))]


class Outputs(nn.Module):
    """Gives what a model that reads a whole text returns, as tensors."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model: Any = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the logits, or else the hidden states, of ids and a mask (batch, length)."""
        return list(named_outputs(self.model(input_ids=input_ids, attention_mask=attention_mask)).values())


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return the logits among a model's outputs, or else its last hidden states, by their names."""
    logits = {name: value for name, value in outputs.items() if "logits" in name and value is not None}
    return logits or {"last_hidden_state": outputs["last_hidden_state"]}


def export_to_transformers_js(model: PreTrainedModel, folder: Path) -> None:
    """Write the graphs of a model into a new `folder`, the `onnx/` of a repository, in float32 and, as `*_fp16.onnx`,
    `*_int8.onnx` and `*_quantized.onnx`, with smaller weights; all take and give float32.

    A seq2seq model has `encoder_model.onnx` and `decoder_model_merged.onnx`, any other one `model.onnx`. Inputs and
    outputs have the names that transformers.js gives them; sizes of batch, texts and past are free, and a past may be
    of length 0.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise ImportError("graphs for transformers.js need pip install 'hf-vanilla[onnx]'")
    model = copy.deepcopy(model).float().cpu().eval()
    with new_folder(folder) as unfinished, torch.no_grad():
        if model.config.is_encoder_decoder:
            write_seq2seq(model, unfinished)
        elif model.can_generate():
            write_language_model(model, unfinished)
        else:
            ids, sizes = torch.ones(3, 7, dtype=torch.long), {0: Dim("batch_size"), 1: Dim("sequence_length")}
            names = list(named_outputs(model(input_ids=ids)))
            inputs = ["input_ids", "attention_mask"]
            # One tensor twice would be one input to torch.
            write_graph(
                Outputs(model), (ids, ids.clone()), (sizes, sizes), inputs, names, unfinished / "model.onnx", False
            )
        for path in sorted(unfinished.glob("*.onnx")):
            write_variants(path)


def write_seq2seq(model: Any, folder: Path) -> None:
    """Write the two graphs of a seq2seq model."""
    layers = range(model.config.decoder_layers)
    names = [f"{number}.{{}}.{part}" for number in layers for part in ("key", "value")]
    of_source, of_past = ([name.format(stack) for name in names] for stack in ("encoder", "decoder"))
    batch, cached, past, length = map(Dim, ("batch_size", "cached_source", "past", "length"))
    source = Dim("source", min=4)  # torch alone asks for a rest beyond the 3 cached here, not the graph that it writes
    ids, mask, targets = (torch.ones(3, size, dtype=torch.long) for size in (7, 7, 5))
    rows: Any = {0: batch, 1: source}
    encoder, inputs = Encoder(model), ["input_ids", "attention_mask"]
    path = folder / "encoder_model.onnx"
    write_graph(encoder, (ids, mask), (rows, rows), inputs, ["last_hidden_state"], path, False)
    hidden, decoder = encoder(ids, mask), MergedDecoder(model)
    pairs = [attention.keys_and_values(hidden, hidden, None) for attention in decoder.attentions]
    states = [each for pair in pairs for each in pair]
    arguments = (targets, mask, hidden, [each[:, :, :3] for each in states], [each[:, :, :2] for each in states])
    sizes = ({0: batch, 1: length}, rows, rows, *([{0: batch, 2: size}] * len(states) for size in (cached, past)))
    inputs = ["input_ids", "encoder_attention_mask", "encoder_hidden_states"]
    inputs += [f"past_key_values.{name}" for name in of_source + of_past]
    outputs = ["logits", *(f"present.{name}" for name in of_past + of_source)]
    write_graph(decoder, arguments, sizes, inputs, outputs, folder / "decoder_model_merged.onnx", False)


def write_language_model(model: Any, folder: Path) -> None:
    """Write the graph of a model that continues text."""
    names = [f"{number}.{part}" for number in range(model.config.num_hidden_layers) for part in ("key", "value")]
    ids = torch.ones(3, 5, dtype=torch.long)
    layers = model(input_ids=ids[:, :2], use_cache=True).past_key_values.layers
    states = [each for layer in layers for each in (layer.keys, layer.values)]
    batch, past, length = map(Dim, ("batch_size", "past", "length"))
    rows: Any = {0: batch, 1: length}
    positions = torch.arange(2, 7).expand(3, -1)
    arguments = (ids, torch.ones(3, 7, dtype=torch.long), positions, states)
    sizes = (rows, {0: batch, 1: Dim.AUTO}, rows, [{0: batch, 2: past}] * len(states))
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    write_graph(LanguageModel(model), arguments, sizes, inputs, outputs, folder / "model.onnx", False)


def write_variants(path: Path) -> None:
    """Write, beside a graph, those whose weights are of 16 and of 8 bits, under transformers.js's names for them."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to process the graph before, which here gains nothing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that float16 rounds
            small = path.with_stem(f"{path.stem}_int8")
            quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=True)
            shutil.copyfile(small, path.with_stem(f"{path.stem}_quantized"))  # "q8", which is theirs to choose
            half = convert_float_to_float16(onnx.load(path), keep_io_types=True)
            onnx.save(half, path.with_stem(f"{path.stem}_fp16"))
    finally:
        root.setLevel(level)
