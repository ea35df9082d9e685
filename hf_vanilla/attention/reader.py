"""The attention maps of texts: the weights of each head of a model, and the words that they belong to."""

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_vanilla.attention.maps import AttentionMaps
from hf_vanilla.attention.weights import AttentionMap
from hf_vanilla.attention.words import EncodedText, Tokens, encode_decoded, join_texts, special_ids, to_tokens
from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.translation.loading import extra_tokens, load_config_and_tokenizer, positions_of

MAX_PAIRS = 2**18  # of tokens, padding included, whose weights are computed together
MAX_BYTES = 4 * 2**30  # a text whose weights take more memory is refused


def attention_maps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | Sequence[str],
    target: str | Sequence[str] | None = None,
    *,
    words: bool = False,
    max_new_tokens: int | None = None,
) -> Any:
    """Return what the heads of a model look at in a text, as [`AttentionMaps`], or a list of them for many texts.

    Works with every family of this package, and with models of transformers that return attentions (BERT, GPT-2, BART,
    Marian, Llama, ...). The model runs in evaluation mode with the eager attention implementation, whatever its own
    is; afterwards it is as it was.

    Args:
        model, tokenizer: the model needs a language model's head only if it is to write the target.
        source: a text, or many.
        target: for an encoder-decoder, the translation of each source (default: the one that the model writes); for a
            decoder, the continuation of the text; for an encoder, the second text of a pair.
        words: join tokens into words.
        max_new_tokens: the most tokens that the model writes as the target. By default, a decoder writes none.

    Raises:
        TypeError: a text is not a `str`, or the model is none of transformers.
        ValueError: a text is empty, longer than the model allows, or in a script that the tokenizer does not know; the
            model returns no attentions.

    Examples:
        >>> from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, attention_maps, train_tokenizer
        >>> tokenizer = train_tokenizer(["the dog runs", "der Hund rennt"], vocab_size=300)
        >>> config = VanillaConfig(vocab_size=len(tokenizer), d_model=16, h=2, d_ff=32, N=1)
        >>> model = VanillaForConditionalGeneration(config)
        >>> maps = attention_maps(model, tokenizer, "the dog", "der Hund", words=True)
        >>> maps.cross.weights.shape  # (layers, heads, target, source)
        torch.Size([1, 2, 3, 3])
    """
    options: dict[str, Any] = {"words": words, "max_new_tokens": max_new_tokens}
    if isinstance(source, str):
        if not isinstance(target, str | None):
            raise TypeError(f"`target` is {type(target).__name__}; expected a text, as `source` is one")
        targets = None if target is None else [target]
        return next(stream_attention_maps(model, tokenizer, [source], targets, **options))
    if isinstance(target, str) or (target is not None and len(target) != len(source)):
        raise ValueError(f"`target` must be as many texts as `source`: {len(source)}")
    return list(stream_attention_maps(model, tokenizer, source, target, **options))


def stream_attention_maps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Iterable[str],
    targets: Iterable[str] | None = None,
    *,
    words: bool = False,
    max_new_tokens: int | None = None,
) -> Iterator[AttentionMaps]:
    """Yield the maps that [`attention_maps`] returns, holding the weights of `MAX_PAIRS` pairs of tokens at most."""
    reader = Reader(model, tokenizer, max_new_tokens)
    yield from reader.map_all(reader.read_all(sources, targets), words)


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it."""

    source: str
    target: str
    ids: list[int]  # read by the model, or by its encoder
    sides: dict[str, tuple[Tokens, Tokens]]  # for each kind of attention, its queries and its keys
    types: list[int] | None = None  # token types, if the tokenizer gives any
    decoder_ids: Sequence[int] = ()  # read by the decoder of an encoder-decoder
    written_ids: Sequence[int] = ()  # what it writes: the same, one position later


def batch_readings(readings: Iterable[Reading], max_pairs: int) -> Iterator[list[Reading]]:
    """Yield successive readings in batches of one text, or of at most `max_pairs` pairs of tokens, with padding."""
    batch: list[Reading] = []
    for reading in readings:
        longest = max(max(len(each.ids), len(each.decoder_ids)) for each in (*batch, reading))
        if batch and (len(batch) + 1) * longest**2 > max_pairs:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


class Reader:
    """Encodes texts for a model, and computes what its heads look at in them.

    A model that is none of transformers is a TypeError, and `max_new_tokens` below 1 a ValueError.
    """

    def __init__(self, model: object, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int | None = None):
        model = getattr(model, "_orig_mod", model)  # torch.compile wraps the model that it compiles
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"`model` is {type(model).__name__}; expected a model of transformers")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {max_new_tokens}")
        self.model: Any = model
        self.config: Any = model.config.get_text_config()
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens
        # Of a folder, the page shows the last part alone: the rest of the path may name people and machines.
        name = model.config.name_or_path or type(model).__name__
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self.is_seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
        self.is_decoder = not self.is_seq2seq and is_causal(self.config)
        # A text may have masks for a model to fill; the generating families of this package learn no masks.
        self.has_masks = model.config.model_type not in ("vanilla", "vanilla_recurrent", "vanilla_decoder")
        self.max_length = min(positions_of(self.config), tokenizer.model_max_length)
        self.padding = getattr(self.config, "pad_token_id", None) or 0

    def read_all(self, sources: Iterable[str], targets: Iterable[str] | None) -> Iterator[Reading]:
        """Yield the tokens of each text and its target; errors number them, unless `sources` is a list of one text."""
        alone = isinstance(sources, list) and len(sources) == 1
        pairs = zip(sources, itertools.repeat(None) if targets is None else targets, strict=targets is not None)
        for number, (source, target) in enumerate(pairs, start=1):
            yield self.read(source, target, "" if alone else f" {number}")

    def read(self, source: str, target: str | None, number: str = "") -> Reading:
        source = check_text(source, "source" + number)
        target = None if target is None else check_text(target, "target" + number)
        if self.is_seq2seq:
            return self.read_seq2seq(source, target, number)
        if target is None or self.is_decoder:
            return self.read_single(source, target, number)
        return self.read_pair(source, target, number)

    def read_single(self, source: str, target: str | None, number: str) -> Reading:
        if target is not None:
            self.check_script(self.encode(target, "target" + number), "target" + number)
        encoded = self.encode(source if target is None else join_texts(source, target), "source" + number)
        start = self.tokenizer.bos_token_id if self.config.model_type == "vanilla_decoder" else None
        if start is not None and encoded.ids[0] != start:  # as in training
            encoded = EncodedText([start, *encoded.ids], [(0, 0), *encoded.spans], encoded.text)
            self.check_length(encoded.ids, "source" + number)
        if self.is_decoder and self.max_new_tokens and target is None:
            count = len(encoded.ids)
            ids = self.generate(encoded.ids, self.max_new_tokens, "source" + number)
            encoded = encode_decoded(self.tokenizer, ids)
            target = encoded.text[encoded.spans[count - 1][1] :].strip()
        tokens = to_tokens(encoded, self.tokenizer)
        kind = "decoder" if self.is_decoder else "encoder"
        return Reading(source, target or "", encoded.ids, {kind: (tokens, tokens)})

    def read_pair(self, source: str, target: str, number: str) -> Reading:
        if not self.tokenizer.is_fast:
            raise ValueError(f"pairs take a fast tokenizer, and this is {type(self.tokenizer).__name__}")
        for name, text in (("source", source), ("target", target)):
            self.encode(text, name + number)
        pair = encode_texts(self.tokenizer, source, target, masks=self.has_masks, return_offsets_mapping=True)
        shifts = [(len(source) + 1) * (side == 1) for side in pair.sequence_ids()]  # of the second text
        offsets = zip(pair["offset_mapping"], shifts, strict=True)
        spans = [(first + shift, last + shift) for (first, last), shift in offsets]
        encoded = EncodedText(list(pair["input_ids"]), spans, f"{source} {target}")
        self.check_length(encoded.ids, f"source{number} and target{number} together")
        tokens = to_tokens(encoded, self.tokenizer)
        return Reading(source, target, encoded.ids, {"encoder": (tokens, tokens)}, pair.get("token_type_ids"))

    def read_seq2seq(self, source: str, target: str | None, number: str) -> Reading:
        """Return a source, and its target as the decoder reads it and as it writes it."""
        encoded = self.encode(source, "source" + number)
        if target is None:
            count = self.max_new_tokens or min(
                len(encoded.ids) + extra_tokens(self.model, self.tokenizer), self.max_length - 1
            )
            start, *ids = self.generate(encoded.ids, count, "source" + number)
            written = encode_decoded(self.tokenizer, ids)
            target = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        else:
            written = self.encode(target, "target" + number, text_target=True)
            self.check_script(written, "target" + number)
            start = self.decoder_start(written.ids)
        read = EncodedText([start, *written.ids[:-1]], [(0, 0), *written.spans[:-1]], written.text)
        source_tokens, read_tokens, written_tokens = (to_tokens(e, self.tokenizer) for e in (encoded, read, written))
        sides = {"encoder": (source_tokens, source_tokens), "decoder": (read_tokens, read_tokens)}
        sides["cross"] = (written_tokens, source_tokens)
        return Reading(source, target, encoded.ids, sides, decoder_ids=read.ids, written_ids=written.ids)

    def decoder_start(self, written: list[int]) -> int:
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            return int(self.model.prepare_decoder_input_ids_from_labels(torch.tensor([written]))[0, 0])
        start = self.config.decoder_start_token_id
        return self.config.bos_token_id if start is None else start

    @torch.no_grad()
    def generate(self, ids: list[int], count: int, name: str) -> list[int]:
        """Return what `generate` of the model does: up to `count` new tokens, greedily unless its config has beams."""
        if not self.model.can_generate():
            raise ValueError(f"{type(self.model).__name__} writes no text; give a target")
        if count + (0 if self.is_seq2seq else len(ids)) > self.max_length:
            limit = f"with {count} new ones more than the model's {self.max_length}"
            raise ValueError(f"{name} has {len(ids)} tokens, {limit}")
        inputs = torch.tensor([ids], device=self.model.device)
        options: dict[str, object] = {"max_new_tokens": count, "do_sample": False, "num_return_sequences": 1}
        if self.model.config.model_type in ("vanilla", "vanilla_recurrent"):
            options["custom_generate"] = beam_search
        with evaluation_mode(self.model):
            return self.model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[0].tolist()

    def encode(self, text: str, name: str, text_target: bool = False) -> EncodedText:
        """Return a text's tokens; none, too many, only unknown or foreign ones are a ValueError, which says `name`."""
        texts: dict[str, Any] = {"text_target" if text_target else "text": text, "masks": self.has_masks}
        if self.tokenizer.is_fast:
            fast = encode_texts(self.tokenizer, **texts, return_offsets_mapping=True)
            encoded = EncodedText(list(fast["input_ids"]), list(fast["offset_mapping"]), text)
        else:
            encoded = encode_decoded(self.tokenizer, list(encode_texts(self.tokenizer, **texts)["input_ids"]))
        self.check_length(encoded.ids, name)
        if max(encoded.ids, default=0) >= (size := getattr(self.config, "vocab_size", math.inf)):
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens, the model {size}: it is not the model's"
            )
        ids = set(encoded.ids) - special_ids(self.tokenizer)
        if not ids:
            raise ValueError(f"{name} has no tokens: {text!r:.60}; expected words")
        if ids == {self.tokenizer.unk_token_id}:
            raise ValueError(f"{name} is in a script that the tokenizer does not know at all: {text!r:.60}")
        return encoded

    def check_script(self, encoded: EncodedText, name: str) -> None:
        """Raise a ValueError if each letter takes several tokens, as in scripts that a byte-level BPE has not seen."""
        tokens = Counter(place for span in encoded.spans for place in range(*span))
        letters = [place for place, letter in enumerate(encoded.text) if letter.isalpha()]
        if letters and all(tokens[place] > 1 for place in letters):
            reason = f"{encoded.text!r:.60}; no letter of it is in its vocabulary"
            raise ValueError(f"{name} is in a script that the tokenizer does not know: {reason}")

    def check_length(self, ids: list[int], name: str) -> None:
        """Raise a ValueError for more tokens than the model allows, or more weights than `MAX_BYTES`."""
        if len(ids) > self.max_length:
            raise ValueError(f"{name} has {len(ids)} tokens, more than the model's {self.max_length}: cut it")
        layers, heads = (getattr(self.config, name, 1) for name in ("num_hidden_layers", "num_attention_heads"))
        size = 4 * layers * heads * len(ids) ** 2 * (3 if self.is_seq2seq else 1)
        if size > MAX_BYTES:
            raise ValueError(f"{name} has {len(ids)} tokens, whose weights take {size / 2**30:.0f} GiB: cut it")

    def map_all(self, readings: Iterable[Reading], words: bool = False) -> Iterator[AttentionMaps]:
        """Yield the maps of texts, of which the model reads as many at once as `MAX_PAIRS` allows."""
        for batch in batch_readings(readings, MAX_PAIRS):
            yield from self.compute_maps(batch, words)

    def compute_maps(self, batch: Sequence[Reading], words: bool) -> Iterator[AttentionMaps]:
        """Yield the maps of each text of a batch, which the model reads at once; `words` joins tokens into words.

        A model that returns no attentions, or other weights than those of all tokens to all, is a ValueError.
        """
        with evaluation_mode(self.model, "eager"), torch.no_grad():
            outputs = self.model.base_model(**self.inputs_of(batch), output_attentions=True, return_dict=True)
        attentions: dict[str, list[Tensor]] = {}  # of each layer, (batch, heads, queries, keys)
        for kind in batch[0].sides:
            field = f"{kind}_attentions" if self.is_seq2seq else "attentions"
            if layers := [layer for layer in getattr(outputs, field, None) or () if layer is not None]:
                attentions[kind], shape = layers, tuple(layers[0].shape)
                longest = tuple(max(len(reading.sides[kind][side]) for reading in batch) for side in (0, 1))
                if len(shape) != 4 or shape[-2:] != longest:
                    expected = f"(batch, heads, {longest[0]}, {longest[1]})"
                    raise ValueError(f"{self.name} gives attentions of shape {shape}; expected {expected}")
        if not attentions:
            described = f"{self.name}, a {self.config.model_type} model"
            raise ValueError(f"{described}, gives no attentions; expected one that does")
        for row, reading in enumerate(batch):
            maps: dict[str, AttentionMap] = {}
            for kind, layers in attentions.items():
                queries, keys = reading.sides[kind]
                weights = torch.stack([layer[row, :, : len(queries), : len(keys)].float().cpu() for layer in layers])
                maps[kind] = AttentionMap(kind, weights, queries, keys)
            result = AttentionMaps(self.name, reading.source, reading.target, **maps)
            yield result.joined() if words else result

    def inputs_of(self, batch: Sequence[Reading]) -> dict[str, Tensor]:
        """Return what the model takes to read a batch: tensors (batch, longest) on its device."""
        rows = {"input_ids": [each.ids for each in batch], "attention_mask": [[1] * len(each.ids) for each in batch]}
        if batch[0].types is not None:
            rows["token_type_ids"] = [each.types or [] for each in batch]
        if self.is_seq2seq:
            # The decoder needs no mask: padding comes after the text, which its causal mask hides.
            rows["decoder_input_ids"] = [list(each.decoder_ids) for each in batch]
        paddings = {name: self.padding if name.endswith("input_ids") else 0 for name in rows}
        return {name: pad(rows[name], padding).to(self.model.device) for name, padding in paddings.items()}


def is_causal(config: PreTrainedConfig) -> bool:
    """True if a model of one stack reads from left to right."""
    if getattr(config, "is_decoder", False) or config.model_type == "vanilla_decoder":
        return True
    classes = (AutoModelForCausalLM, AutoModelForMaskedLM)
    remote = getattr(config, "auto_map", None) or {}
    causal, masked = (type(config) in each._model_mapping or each.__name__ in remote for each in classes)
    return causal and not masked


def load_attention_model(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model from a folder or the Hub with the head that it was saved with, in float32, and its tokenizer.

    Errors are those of `load_config_and_tokenizer`.
    """
    from accelerate import PartialState

    use_onednn_for_float32()
    config, tokenizer = load_config_and_tokenizer(name, AutoModel, "one of transformers that reads text")
    loader: Any = AutoModel
    for auto_class in (AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM):
        heads = auto_class._model_mapping.get(type(config), ())
        names = {head.__name__ for head in (heads if isinstance(heads, tuple) else (heads,)) if head is not None}
        if names & set(config.architectures or ()):
            loader = auto_class
    model = loader.from_pretrained(name, config=config, dtype=torch.float32)
    return model.to(PartialState().device).eval(), tokenizer


@contextlib.contextmanager
def evaluation_mode(model: PreTrainedModel, attention: str | None = None) -> Iterator[None]:
    """Put a model into evaluation mode, with another attention implementation if given; afterwards it is as it was."""
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts if part._can_set_attn_implementation()}
    changes: list[tuple[object, str, object]] = [(module, "training", False) for module in model.modules()]
    changes += [(config, "_attn_implementation", attention) for config in configs.values() if attention]
    before = [(changed, name, getattr(changed, name)) for changed, name, _ in changes]
    try:
        for change in changes:
            setattr(*change)
        yield
    finally:
        for change in before:
            setattr(*change)


def pad(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Return rows of ids as one tensor (batch, longest), padded on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)


def check_text(text: object, name: str) -> str:
    """Return a text with "?" in place of lone surrogates, which cannot be encoded; raise an error if it is no text."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}; expected a text")
    if not text.strip():
        raise ValueError(f"{name} is empty; expected words")
    return text.encode("utf-8", "replace").decode()
