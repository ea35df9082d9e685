"""One HTML file that holds a model and an engine, and shows offline what the model computes."""

import base64
import hashlib
import html
import json
import logging
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_vanilla.conversion.html_tokenizer import tokenizer_for_html
from hf_vanilla.models.generation_vanilla import find_obstacle
from hf_vanilla.models.pipeline_vanilla import positions_of
from hf_vanilla.models.texts_vanilla import read_special_tokens

logger = logging.getLogger(__name__)

Precision = Literal["float16", "int8"]
# What templates/html/engine.js computes.
ARCHITECTURES: dict[str, Any] = {
    "VanillaForConditionalGeneration": AutoModelForSeq2SeqLM,
    "RecurrentForConditionalGeneration": AutoModelForSeq2SeqLM,
    "VanillaDecoderForCausalLM": AutoModelForCausalLM,
    "VanillaEncoderForMaskedLM": AutoModelForMaskedLM,
}
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "tanh", "sigmoid")
LANGUAGES = ("en", "ko")
MAX_MEGABYTES = 150
# Fields of configurations that say what a model computes.
FIELDS = (
    "vocab_size hidden_size intermediate_size num_attention_heads qk_head_dim v_head_dim activation_function "
    "position_embedding_type norm_position final_norm embedding_norm layer_norm_eps scale_embedding "
    "max_position_embeddings position_offset encoder_layers decoder_layers num_hidden_layers cell_type attention_type "
    "input_feeding local_alignment attention_window model_type"
).split()
# Fields of a generation config that the page follows, and those that change nothing in it.
FOLLOWED = {"num_beams", "length_penalty", "length_penalty_form", "early_stopping", "max_new_tokens", "temperature"}
FOLLOWED |= {"top_k", "top_p", "do_sample", "eos_token_id", "decoder_start_token_id", "bos_token_id", "pad_token_id"}
WITHOUT_EFFECT = {"max_length", "use_cache", "cache_implementation", "num_return_sequences", "transformers_version"}
WITHOUT_EFFECT |= {"output_attentions", "output_hidden_states", "output_scores", "output_logits"}
WITHOUT_EFFECT |= {"return_dict_in_generate"}
LONGEST_SOURCE = 256  # tokens, as by default in `Translator`, where positions have no end
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")


def export_to_html(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    precision: Precision = "float16",
    title: str | None = None,
    language: str | None = None,
    examples: Sequence[str] = (),
    max_megabytes: float = MAX_MEGABYTES,
) -> None:
    """Write a model as one HTML file that runs it in a browser and shows its attention.

    Args:
        model: of the seq2seq or the recurrent family, a decoder with the head that predicts the next token, or an
            encoder with the one that predicts masked tokens.
        tokenizer: the model's: a byte-level BPE, or one of characters or words that falls back on bytes.
        path: of the file, which is replaced.
        precision: of the weights in the file: "float16", or "int8", by which matrices are rounded row by row. The page
            computes with them in float32.
        title: of the page (default: the name of the model's folder).
        language: of the page's labels, "en" or "ko" (default: the reader's).
        examples: texts to choose from; the page opens with the first of them.
        max_megabytes: a larger file is not written.

    Raises:
        ValueError: the page cannot compute what the model does, or cut texts as its tokenizer does, or would become
            too large; the error names what it is, and nothing has been written.
    """
    path = Path(path)
    page = render_page(model, tokenizer, precision, title or path.stem, language, examples)
    parameters = sum(weight.numel() for weight in model.parameters())
    megabytes = len(page) / 1e6
    size = f"{path.name}: {megabytes:,.1f} MB, {parameters / 1e6:,.1f} million weights in {precision}"
    if megabytes > max_megabytes:
        smaller = ' Weights in "int8" take half as much.' if precision == "float16" else ""
        raise ValueError(f"{size}: more than max_megabytes, {max_megabytes:g}.{smaller}")
    logger.info(size)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_bytes(page)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def render_page(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    title: str,
    language: str | None,
    examples: Sequence[str],
) -> bytes:
    """Return the page of [`export_to_html`], in UTF-8.

    All that comes from the model or the user is in the page as data, never as markup or code; the page's policy allows
    no other script than its own, and no request.
    """
    if language not in (None, *LANGUAGES):
        raise ValueError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    data = describe(model, tokenizer)
    data["tensors"], weights = pack_weights(model, precision)
    folder = resources.files("hf_vanilla") / "templates" / "html"
    names = ("page.html", "engine.js", "page.js", "labels.json")
    files = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    data |= {"title": title, "language": language, "examples": list(examples), "precision": precision}
    data["labels"] = json.loads(files["labels.json"])
    # Without "<", nothing in the data can end the script that holds it, or begin a comment.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    code = files["engine.js"] + files["page.js"]
    guard = re.findall(r"<script>(.*?)</script>", files["page.html"], re.DOTALL)[0]
    hashes = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (guard, code))
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    others = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    filled = {
        "POLICY": f"default-src 'none'; script-src {allowed}; {others}",
        "TITLE": html.escape(title),
        "LANGUAGE": language or "en",
        "DATA": text,
        "WEIGHTS": base64.b64encode(weights).decode(),
        "CODE": code,
    }
    return re.sub("@([A-Z]+)@", lambda match: filled[match[1]], files["page.html"]).encode("utf-8", "replace")


def describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what the engine must know of a model beside its weights, and the tokenizer.

    Raises:
        ValueError: see [`export_to_html`].
    """
    config, name = model.config, type(model).__name__
    if name not in ARCHITECTURES:
        raise refused_class(name)
    if (obstacle := find_obstacle(model)) is not None:
        raise ValueError(f"the page computes what the weights alone say, and {obstacle}")
    if getattr(config, "activation_function", "relu") not in ACTIVATIONS:
        has = f"`activation_function` is {config.activation_function!r}"
        raise ValueError(f"{has}; the page has {', '.join(ACTIVATIONS)}")
    masks = name == "VanillaEncoderForMaskedLM"
    if masks and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token, and the model fills masks")
    described = tokenizer_for_html(tokenizer, masks)
    if len(described["tokens"]) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(described['tokens'])} tokens, the model {config.vocab_size}")
    described |= {"padId": tokenizer.pad_token_id, "maskId": tokenizer.mask_token_id}
    return {
        "config": {field: value for field, value in config.to_dict().items() if field in FIELDS} | {"class": name},
        "search": describe_search(model, tokenizer),
        "tokenizer": described,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def refused_class(name: str) -> ValueError:
    """Return the error for a model of a class that the page does not run."""
    return ValueError(f"the page cannot run {name}; it runs {', '.join(ARCHITECTURES)}")


def describe_search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return how the page searches by default: as [`Translator`] does, and [`generate_texts`]."""
    config: Any = model.config
    generation: Any = getattr(model, "generation_config", None) or GenerationConfig()
    given = {name: value for name, value in generation.to_diff_dict().items() if not name.startswith("_")}
    if unknown := sorted(name for name in given.keys() - FOLLOWED - WITHOUT_EFFECT if given[name] is not None):
        asked = ", ".join(f"{name}={given[name]!r}" for name in unknown)
        raise ValueError(f"the generation config asks for {asked}, which the page's search does not do")
    ends = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
    start = config.decoder_start_token_id if config.is_encoder_decoder else tokenizer.bos_token_id
    positions = positions_of(config)
    return {
        "beams": generation.num_beams or 1,
        "lengthPenalty": 1.0 if generation.length_penalty is None else generation.length_penalty,
        "lengthPenaltyForm": getattr(generation, "length_penalty_form", None) or "paper",
        "earlyStopping": generation.early_stopping or False,
        "temperature": generation.temperature or 1.0,
        "topK": 50 if generation.top_k is None else generation.top_k,
        "topP": generation.top_p or 1.0,
        "maxNewTokens": generation.max_new_tokens,
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "start": start,
        "positions": positions,
        "longestSource": min(positions, LONGEST_SOURCE),
    }


def pack_weights(model: PreTrainedModel, precision: Precision) -> tuple[dict[str, list[Any]], bytes]:
    """Return where each tensor of a model is in the bytes of all of them, and these, for the engine's `Weights`.

    Raises:
        ValueError: a weight is not a finite number, or too large for float16.
    """
    table: dict[str, list[Any]] = {}
    packed = bytearray()
    places: dict[tuple[int, ...], list[Any]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = (tensor.data_ptr(), *tensor.shape)
        if key not in places:
            values = tensor.detach().float().cpu()
            if not values.isfinite().all():
                raise ValueError(f"{name} holds values that are not finite numbers")
            packed.extend(bytes(-len(packed) % 4))
            is_int8 = precision == "int8" and values.ndim == 2
            places[key] = ["int8" if is_int8 else "float16", len(packed), *values.shape]
            if is_int8:
                scales = (values.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
                packed += scales.numpy().astype("<f4").tobytes()
                packed += (values / scales[:, None]).round().numpy().astype(np.int8).tobytes()
            else:
                halves = values.half()
                if not halves.isfinite().all():
                    raise ValueError(f"{name} holds {float(values.abs().max()):g}, which is too large for float16")
                packed += halves.numpy().astype("<f2").tobytes()
        table[name] = places[key]
    return table, bytes(packed)


def read_examples(path: Path) -> list[str]:
    """Return the texts of a file, one a line, blank ones left out."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def examples_of(folder: Path, tokenizer: PreTrainedTokenizerBase, architecture: str) -> list[str]:
    """Return up to five texts of what a run has left as samples, shortest first; none without any."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [row.get("source") or SENTENCE.split(row.get("text", ""))[0] for row in rows]
    texts = sorted(filter(None, (" ".join(text.split()[:40]) for text in texts)), key=len)[:5]
    if architecture == "VanillaDecoderForCausalLM":
        return [" ".join(text.split()[:5]) for text in texts]
    if architecture == "VanillaEncoderForMaskedLM":
        cut = [text.split() for text in texts]
        return [
            " ".join([*words[: len(words) // 2], tokenizer.mask_token, *words[len(words) // 2 + 1 :]]) for words in cut
        ]
    return texts


def export_html(
    name: str | Path,
    path: Path,
    *,
    examples: Path | None = None,
    title: str | None = None,
    precision: Precision = "float16",
    language: str | None = None,
    max_megabytes: float = MAX_MEGABYTES,
) -> None:
    """Export a model and its tokenizer, from a folder or the Hub, by [`export_to_html`]; `examples` is a file with one
    text a line (default: samples of the run).

    Raises:
        ValueError: as [`export_to_html`], and for a model of another class.
    """
    config = AutoConfig.from_pretrained(name)
    architecture = (config.architectures or [""])[0]
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"the page cannot run {architecture or config.model_type}; it runs {', '.join(ARCHITECTURES)}"
        )
    tokenizer = read_special_tokens(AutoTokenizer.from_pretrained(name))
    model = ARCHITECTURES[architecture].from_pretrained(name, dtype="float32").eval()
    texts = read_examples(examples) if examples else examples_of(Path(name), tokenizer, architecture)
    options: dict[str, Any] = {"precision": precision, "language": language, "max_megabytes": max_megabytes}
    export_to_html(model, tokenizer, path, title=title or Path(name).name, examples=texts, **options)
