"""Checkpoints for other engines."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_new": "GELUTanh", "silu": "SWISH", "swish": "SWISH"}


def export_to_ctranslate2(model: Any, tokenizer: Any, folder: str | Path, quantization: str | None = None) -> None:
    """Write a seq2seq model as [CTranslate2](https://opennmt.net/CTranslate2) reads it, with the tokenizer's files.

    It takes tokens, the end of the sentence among them: `tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)`.

    Args:
        model: `VanillaForConditionalGeneration`.
        tokenizer: the model's.
        folder: where it goes; it must not exist, or be empty.
        quantization: as CTranslate2 names them: "int8", "float16", ...; float32 if not given.

    Raises:
        ImportError: ctranslate2 is not installed.
        ValueError: for a model that CTranslate2 cannot express, and a folder that holds something.
    """
    try:
        from ctranslate2.converters import utils
        from ctranslate2.specs import common_spec, transformer_spec
    except ImportError as error:
        raise ImportError("to export for CTranslate2: pip install ctranslate2") from error
    folder, config = Path(folder), model.config
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a folder that does not exist")
    width = config.hidden_size // config.num_attention_heads
    unfit = {
        f"model_type {config.model_type!r} (expected 'vanilla')": config.model_type != "vanilla",
        f"activation_function {config.activation_function!r}": config.activation_function not in ACTIVATIONS,
        "heads of other sizes than hidden_size / num_attention_heads": any(
            size not in (None, width) for size in (config.qk_head_dim, config.v_head_dim)
        ),
    }
    for what, applies in unfit.items():
        if applies:
            raise ValueError(f"CTranslate2 has no {what}")
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}")

    def numbers(tensor: torch.Tensor) -> Any:
        return tensor.detach().float().cpu().numpy()

    def set_linear(spec: Any, linear: nn.Linear) -> None:
        spec.weight = numbers(linear.weight)
        if linear.bias is not None:
            spec.bias = numbers(linear.bias)

    def set_norm(spec: Any, norm: Any) -> None:
        spec.gamma, spec.beta = numbers(norm.weight), numbers(norm.bias)

    def set_attention(spec: Any, attention: Any, groups: list[str]) -> None:
        for linear_spec, group in zip(spec.linear, groups, strict=False):
            specs = [common_spec.LinearSpec() for _ in group]
            for each, name in zip(specs, group, strict=True):
                set_linear(each, getattr(attention, f"{name}_proj"))
            utils.fuse_linear(linear_spec, specs)
        set_linear(spec.linear[-1], attention.o_proj)

    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.num_attention_heads,
        pre_norm=config.norm_position == "pre",
        activation=getattr(common_spec.Activation, ACTIVATIONS[config.activation_function]),
        layernorm_embedding=config.embedding_norm,
    )
    most = config.max_position_embeddings
    for stack, stack_spec in ((model.model.encoder, spec.encoder), (model.model.decoder, spec.decoder)):
        embeddings = stack_spec.embeddings
        (embeddings[0] if isinstance(embeddings, list) else embeddings).weight = numbers(stack.embed_tokens.weight)
        stack_spec.scale_embeddings = stack.embedding_scale
        positions = stack.embed_positions(torch.arange(most, device=model.device)[None])[0]
        stack_spec.position_encodings.encodings = numbers(positions)
        if config.embedding_norm:
            set_norm(stack_spec.layernorm_embedding, stack.embedding_norm)
        if config.norm_position == "pre":
            set_norm(stack_spec.layer_norm, stack.norm)
        for layer, layer_spec in zip(stack.layers, stack_spec.layer, strict=True):
            set_attention(layer_spec.self_attention, layer.self_attention, ["qkv"])
            set_norm(layer_spec.self_attention.layer_norm, layer.self_attention_norm)
            if hasattr(layer, "cross_attention"):
                set_attention(layer_spec.attention, layer.cross_attention, ["q", "kv"])
                set_norm(layer_spec.attention.layer_norm, layer.cross_attention_norm)
            set_linear(layer_spec.ffn.linear_0, layer.feed_forward.linear1)
            set_linear(layer_spec.ffn.linear_1, layer.feed_forward.linear2)
            set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)
    set_linear(spec.decoder.projection, model.lm_head)

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


EXPORTS = {"ctranslate2": export_to_ctranslate2}


def export(name: str, form: str, folder: Path) -> None:
    """Export a model and its tokenizer, from a folder or the Hub; nothing is left behind where it fails."""
    if form not in EXPORTS:
        raise ValueError(f"format is {form!r}; expected one of {', '.join(EXPORTS)}")
    model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype="float32")
    existed = folder.exists()
    try:
        EXPORTS[form](model, AutoTokenizer.from_pretrained(name), folder)
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
