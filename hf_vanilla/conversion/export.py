"""Write models as other engines read them: CTranslate2 and ONNX."""

import copy
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from hf_vanilla.models.modeling_vanilla import VanillaForConditionalGeneration
from hf_vanilla.models.texts_vanilla import read_special_tokens
from hf_vanilla.training.checkpointing import new_folder

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_new": "GELUTanh", "silu": "SWISH", "swish": "SWISH"}
# Where CTranslate2 has the weights of a layer's modules, several of them fused into one.
LAYER = {
    "self_attention/linear_0": ["self_attention.q_proj", "self_attention.k_proj", "self_attention.v_proj"],
    "self_attention/linear_1": ["self_attention.o_proj"],
    "self_attention/layer_norm": ["self_attention_norm"],
    "ffn/linear_0": ["feed_forward.linear1"],
    "ffn/linear_1": ["feed_forward.linear2"],
    "ffn/layer_norm": ["feed_forward_norm"],
}
LAYER_WITH_SOURCE = LAYER | {
    "attention/linear_0": ["cross_attention.q_proj"],
    "attention/linear_1": ["cross_attention.k_proj", "cross_attention.v_proj"],
    "attention/linear_2": ["cross_attention.o_proj"],
    "attention/layer_norm": ["cross_attention_norm"],
}


def export_to_ctranslate2(
    model: VanillaForConditionalGeneration, tokenizer: Any, folder: str | Path, quantization: str | None = None
) -> None:
    """Write a seq2seq model as [CTranslate2](https://opennmt.net/CTranslate2) reads it, with the tokenizer's files.

    It takes tokens, the end of the sentence among them: `tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)`.
    `folder` must not exist, or be empty; `quantization` is named as there ("int8", "float16", ...), or None: float32.

    Raises:
        ImportError: ctranslate2 is not installed.
        ValueError: for a model that CTranslate2 cannot express, and a folder that holds something.
    """
    try:
        from ctranslate2.specs import common_spec, transformer_spec
    except ImportError as error:
        raise ImportError("to export for CTranslate2: pip install ctranslate2") from error
    folder, config = Path(folder), model.config
    check_export(model, tokenizer, folder)
    pre_norm, sizes = config.norm_position == "pre", {None, config.hidden_size // config.num_attention_heads}
    unfit = {
        f"activation_function {config.activation_function!r}": config.activation_function not in ACTIVATIONS,
        "heads of other sizes than hidden_size / num_attention_heads": {config.qk_head_dim, config.v_head_dim} - sizes,
        "norm behind a stack but where sub-layers are pre-norm": config.final_norm not in (None, pre_norm),
    }
    for what, applies in unfit.items():
        if applies:
            raise ValueError(f"CTranslate2 has no {what}")
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.num_attention_heads,
        pre_norm=pre_norm,
        activation=getattr(common_spec.Activation, ACTIVATIONS[config.activation_function]),
        layernorm_embedding=config.embedding_norm,
    )
    fill_stack(spec.encoder, "embeddings_0", model.model.encoder, LAYER)
    fill_stack(spec.decoder, "embeddings", model.model.decoder, LAYER_WITH_SOURCE)
    fill(spec.decoder, "projection", model.lm_head)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens += [f"<unused{number}>" for number in range(len(tokens), config.vocab_size)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token = spec.config.decoder_start_token = tokens[config.decoder_start_token_id]
    spec.config.eos_token = tokens[config.eos_token_id]
    spec.config.unk_token = tokenizer.unk_token or tokens[config.pad_token_id]
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    tokenizer.save_pretrained(folder)


def fill_stack(spec: Any, embeddings: str, stack: Any, table: dict[str, list[str]]) -> None:
    """Set the weights of CTranslate2's encoder or decoder; `table` says which those of a layer are."""
    fill(spec, embeddings, stack.embed_tokens)
    positions = torch.arange(getattr(stack.config, "max_position_embeddings", 512), device=stack.device)[None]
    spec.scale_embeddings = stack.embedding_scale
    spec.position_encodings.encodings = stack.embed_positions(positions)[0].detach().float().cpu().numpy()
    for name, norm in (("layernorm_embedding", stack.embedding_norm), ("layer_norm", stack.norm)):
        if isinstance(norm, nn.LayerNorm):
            fill(spec, name, norm)
    for number, layer in enumerate(stack.layers):
        for place, names in table.items():
            fill(spec.layer[number], place, *map(layer.get_submodule, names))


def fill(spec: Any, place: str, *modules: Any) -> None:
    """Set the weights at a place of CTranslate2's specification to those of our modules, the one below the other."""
    from ctranslate2.specs.model_spec import index_spec

    is_norm = isinstance(modules[0], nn.LayerNorm)
    for name, theirs in (("weight", "gamma" if is_norm else "weight"), ("bias", "beta" if is_norm else "bias")):
        tensors = [tensor for module in modules if (tensor := getattr(module, name, None)) is not None]
        if tensors:
            setattr(index_spec(spec, place), theirs, torch.cat(tensors).detach().float().cpu().numpy())


class SourceEncoder(nn.Module):
    """Computes the keys and values that each decoder layer's cross-attention has of a source."""

    def __init__(self, model: VanillaForConditionalGeneration):
        super().__init__()
        self.encoder = model.get_encoder()
        self.attentions: Any = nn.ModuleList(layer.cross_attention for layer in model.get_decoder().layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the key and the value, each (batch, heads, source, d_k or d_v), of each layer in turn."""
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pairs = [attention.keys_and_values(encoded, encoded, None) for attention in self.attentions]
        return [states for pair in pairs for states in pair]


class CachedDecoder(nn.Module):
    """Continues a target by some tokens, with the keys and values of its source and its past given."""

    def __init__(self, model: VanillaForConditionalGeneration):
        super().__init__()
        self.decoder, self.lm_head = model.get_decoder(), model.lm_head

    def forward(
        self, input_ids: Tensor, encoder_attention_mask: Tensor, source: list[Tensor], past: list[Tensor]
    ) -> list[Tensor]:
        """Return logits (batch, length, vocab_size), then the key and the value (batch, heads, past + length, ...) of
        each layer in turn, for ids (batch, length) and a mask (batch, source). `source` and `past` hold the key and
        the value (batch, heads, source or past, ...) of each layer."""
        caches = [DynamicCache(list(zip(states[::2], states[1::2], strict=True))) for states in (past, source)]
        length, past_length = input_ids.shape[1], past[0].shape[2]
        # `(query, key)` is true where a token of the target may look: at its past and itself.
        positions = torch.arange(past_length + length)
        visible = positions[past_length:, None] >= positions
        outputs = self.decoder(
            input_ids=input_ids,
            attention_mask=visible[None, None].expand(input_ids.shape[0], -1, -1, -1),
            position_ids=positions[None, past_length:],
            # Only its shape is read: its keys and values are in the cache.
            encoder_hidden_states=encoder_attention_mask[..., None].expand(-1, -1, self.decoder.config.hidden_size),
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=EncoderDecoderCache(*caches),
            use_cache=True,
        )
        layers = outputs.past_key_values.self_attention_cache.layers
        states = [each for layer in layers for each in (layer.keys, layer.values)]
        return [self.lm_head(outputs.last_hidden_state), *states]


def export_to_onnx(
    model: VanillaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write a seq2seq model as two [ONNX](https://onnx.ai) graphs in float32, with its configuration and the
    tokenizer's files. Sizes of batch, source, target and past are free; a past may be of length 0.

    - `encoder_model.onnx`: `input_ids` and `attention_mask` (batch, source), int64, to `present.I.encoder.key` and
      `.value` (batch, heads, source, d_k or d_v) for each decoder layer I.
    - `decoder_model.onnx`: `input_ids` (batch, length), `encoder_attention_mask` (batch, source), and
      `past_key_values.I.encoder.key`, `.value`, `past_key_values.I.decoder.key`, `.value` (batch, heads, past, ...)
      to `logits` (batch, length, vocab_size) and `present.I.decoder.key`, `.value`.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: for a model of another family, a tokenizer with more tokens than it, and a folder with something.
    """
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise ImportError("to export to ONNX: pip install 'hf-vanilla[onnx]'")
    folder, config = Path(folder), model.config
    check_export(model, tokenizer, folder)
    model = copy.deepcopy(model).float().cpu().eval()
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.{{}}.{part}" for number in range(config.decoder_layers) for part in ("key", "value")]
    of_source, of_past = ([name.format(stack) for name in names] for stack in ("encoder", "decoder"))
    sources, mask, targets = (torch.ones(3, size, dtype=torch.long) for size in (7, 7, 5))
    batch, source, past, length = map(torch.export.Dim, ("batch", "source", "past", "length"))
    ids, many = {0: batch, 1: source}, len(names)
    dimensions = ({0: batch, 1: length}, ids, [{0: batch, 2: source}] * many, [{0: batch, 2: past}] * many)
    with torch.no_grad():
        encoder, outputs = SourceEncoder(model), [f"present.{name}" for name in of_source]
        inputs = ["input_ids", "attention_mask"]
        write_graph(encoder, (sources, mask), (ids, ids), inputs, outputs, folder / "encoder_model.onnx")
        states, outputs = encoder(sources, mask), ["logits", *(f"present.{name}" for name in of_past)]
        arguments = (targets, mask, states, [each[:, :, :2] for each in states])
        inputs = ["input_ids", "encoder_attention_mask", *(f"past_key_values.{name}" for name in of_source + of_past)]
        write_graph(CachedDecoder(model), arguments, dimensions, inputs, outputs, folder / "decoder_model.onnx")
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_graph(
    module: nn.Module,
    inputs: Any,
    dynamic_shapes: Any,
    input_names: list[str],
    output_names: list[str],
    path: Path,
    external_data: bool = True,
) -> None:
    """Write what a module computes from `inputs` as an ONNX graph to `path`, and its weights beside it, or, without
    `external_data`, into it. The dimensions of each input that `dynamic_shapes` names are free:
    `torch.export.export` raises where the module fixes one."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision's operations are not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
            names = {"input_names": input_names, "output_names": output_names, "dynamic_shapes": dynamic_shapes}
            torch.onnx.export(program, (), path, **names, dynamo=True, external_data=external_data, verbose=False)
    finally:
        logger.setLevel(level)


def check_export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raise `ValueError` for a folder that holds something, another family, and a tokenizer with too many tokens."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a folder that does not exist")
    if model.config.model_type != "vanilla":
        raise ValueError(f"model_type is {model.config.model_type!r}; expected 'vanilla', an encoder-decoder")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}")


EXPORTS = {"ctranslate2": export_to_ctranslate2, "onnx": export_to_onnx}


def export(name: str, form: str, folder: Path) -> None:
    """Export a model and its tokenizer, from a folder or the Hub, and leave nothing behind if it fails.

    Raises:
        ValueError: for a `form` that is not one of `EXPORTS`, and as the functions there do.
    """
    if form not in EXPORTS:
        raise ValueError(f"format is {form!r}; expected one of {', '.join(EXPORTS)}")
    with new_folder(folder) as unfinished:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype="float32")
        EXPORTS[form](model, read_special_tokens(AutoTokenizer.from_pretrained(name)), unfinished)
