"""What the heads of a model look at: the weights of each head, and the words that they belong to.

The kinds are those of section 3.2.3: the encoder looks at itself, the decoder looks at what it has written so far, and
the decoder looks at the encoder.
"""

import contextlib
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

from hf_vanilla.attention.maps import AttentionMap, AttentionMaps
from hf_vanilla.attention.words import Tokens, begins_letter, begins_word, is_unspaced
from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.translation.loading import EXTRA_TOKENS, load_config_and_tokenizer, positions_of

PAIRS = 2**18
"""Pairs of tokens, padding included, whose weights are computed together."""
MOST_BYTES = 4 * 2**30
"""A text whose weights take more than this is refused."""


def attention_maps(
    model: PreTrainedModel,
    tokenizer: Any,
    source: str | Sequence[str],
    target: str | Sequence[str] | None = None,
    *,
    words: bool = False,
    max_new_tokens: int | None = None,
) -> Any:
    """What the heads look at in a text: the [`AttentionMaps`] of it, or a list of those of many.

    Works with every family here, and with models of transformers that give attentions (BERT, GPT-2, BART, Marian,
    Llama, ...), whatever attention implementation they run: for this call they run the eager one, in evaluation mode,
    and afterwards they are as they were.

    Args:
        model: with a language model's head where it is to write the target.
        tokenizer: the model's.
        source: a text, or many.
        target: of an encoder-decoder, the translation to look at, for each source one; by default, the model's own.
            Of a decoder, how the text goes on. Of an encoder, the second text of a pair.
        words: join tokens into words.
        max_new_tokens: how many tokens a model writes that is to write the target. A decoder writes none by default.

    Raises:
        TypeError: for what is not text.
        ValueError: a text is empty, longer than the model, or in a script that the tokenizer does not know; the model
            gives no attentions.
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
    tokenizer: Any,
    sources: Iterable[str],
    targets: Iterable[str] | None = None,
    *,
    words: bool = False,
    max_new_tokens: int | None = None,
) -> Iterator[AttentionMaps]:
    """As [`attention_maps`], for texts that come one by one, in bounded memory: no more weights are held than those of
    `PAIRS` pairs of tokens, or of one text."""
    reader = Reader(model, tokenizer, max_new_tokens)
    alone = isinstance(sources, list) and len(sources) == 1
    pairs = zip(sources, itertools.repeat(None) if targets is None else targets, strict=targets is not None)
    readings = (
        reader.read(source, target, "" if alone else f" {number}")
        for number, (source, target) in enumerate(pairs, start=1)
    )
    for batch in batched(readings, PAIRS):
        yield from reader.look(batch, words)


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: token ids, token types if it has any, and for each kind of attention what looks and
    what is looked at."""

    source: str
    target: str
    ids: list[int]
    sides: dict[str, tuple[Tokens, Tokens]]
    types: list[int] | None = None
    decoder_ids: Sequence[int] = ()
    written_ids: Sequence[int] = ()


def batched(readings: Iterable[Reading], most: int) -> Iterator[list[Reading]]:
    """Readings that follow each other together, as long as they have no more than `most` pairs of tokens, padding
    included; at least one."""
    batch: list[Reading] = []
    for reading in readings:
        longest = max(max(len(each.ids), len(each.decoder_ids)) for each in (*batch, reading))
        if batch and (len(batch) + 1) * longest**2 > most:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


@dataclass(frozen=True)
class Encoded:
    """Token ids, and where in a text each is; for special ones that is of no account."""

    ids: list[int]
    spans: list[tuple[int, int]]
    text: str


class Reader:
    """Reads texts with a model, and looks at what its heads look at.

    Raises:
        TypeError: for what is no model of transformers.
        ValueError: `max_new_tokens` is below 1.
    """

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int | None = None):
        model = getattr(model, "_orig_mod", model)  # of a compiled one
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"`model` is {type(model).__name__}; expected a model of transformers")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {max_new_tokens}")
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.config: Any = model.config.get_text_config()
        self.name = name_of(model)
        self.is_seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
        self.is_decoder = not self.is_seq2seq and is_causal(self.config)
        self.most = min(positions_of(self.config), tokenizer.model_max_length)
        self.padding = getattr(self.config, "pad_token_id", None) or 0

    def read(self, source: str, target: str | None, number: str = "") -> Reading:
        """A text's token ids, with those of its target, which the model writes where there is none.

        Args:
            source: the text.
            target: its translation, its continuation, or its second half; see [`attention_maps`].
            number: what to call it in errors, " 7" for the seventh.
        """
        source = clean(source, "source" + number)
        target = None if target is None else clean(target, "target" + number)
        if self.is_seq2seq:
            return self.read_seq2seq(source, target, number)
        if target is not None and not self.is_decoder:
            return self.read_pair(source, target, number)
        if target is not None:
            self.check_script(self.encode(target, "target" + number), "target" + number)
        text = source if target is None else continued(source, target)
        encoded = self.encode(text, "source" + number)
        start = self.tokenizer.bos_token_id if self.config.model_type == "vanilla_decoder" else None
        if start is not None and encoded.ids[0] != start:  # as in training
            encoded = Encoded([start, *encoded.ids], [(0, 0), *encoded.spans], encoded.text)
            self.check_length(encoded.ids, "source" + number)
        if self.is_decoder and self.max_new_tokens and target is None:
            # The first of its positions is where the text ended.
            past = len(encoded.ids)
            encoded = decode(self.tokenizer, self.write(encoded.ids, self.max_new_tokens, "source" + number))
            target = encoded.text[encoded.spans[past - 1][1] :].strip()
        tokens = self.tokens(encoded)
        kind = "decoder" if self.is_decoder else "encoder"
        return Reading(source, target or "", encoded.ids, {kind: (tokens, tokens)})

    def read_pair(self, source: str, target: str, number: str) -> Reading:
        """Two texts as an encoder reads them."""
        if not self.tokenizer.is_fast:
            raise ValueError(f"pairs take a fast tokenizer, and this is {type(self.tokenizer).__name__}")
        for name, text in (("source", source), ("target", target)):
            self.encode(text, name + number)
        pair = self.tokenizer(source, target, return_offsets_mapping=True)
        shifts = [(len(source) + 1) * (of == 1) for of in pair.sequence_ids()]
        offsets = zip(pair["offset_mapping"], shifts, strict=True)
        spans = [(first + shift, last + shift) for (first, last), shift in offsets]
        encoded = Encoded(list(pair["input_ids"]), spans, f"{source} {target}")
        self.check_length(encoded.ids, f"source{number} and target{number} together")
        tokens = self.tokens(encoded)
        return Reading(source, target, encoded.ids, {"encoder": (tokens, tokens)}, pair.get("token_type_ids"))

    def read_seq2seq(self, source: str, target: str | None, number: str) -> Reading:
        """A source, and its target as the decoder reads and as it writes it."""
        encoded = self.encode(source, "source" + number)
        if target is None:
            if not self.model.can_generate():
                raise ValueError(f"{type(self.model).__name__} writes no text; give a target")
            count = self.max_new_tokens or min(len(encoded.ids) + EXTRA_TOKENS, self.most - 1)
            start, *ids = self.write(encoded.ids, count, "source" + number)
            written = decode(self.tokenizer, ids)
            target = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        else:
            written = self.encode(target, "target" + number, text_target=True)
            self.check_script(written, "target" + number)
            start = self.decoder_start(written.ids)
        read = Encoded([start, *written.ids[:-1]], [(0, 0), *written.spans[:-1]], written.text)
        source_tokens, read_tokens, written_tokens = map(self.tokens, (encoded, read, written))
        sides = {
            "encoder": (source_tokens, source_tokens),
            "decoder": (read_tokens, read_tokens),
            "cross": (written_tokens, source_tokens),
        }
        return Reading(source, target, encoded.ids, sides, decoder_ids=read.ids, written_ids=written.ids)

    def decoder_start(self, written: list[int]) -> int:
        """The token that the decoder reads before it writes its first one."""
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            return int(self.model.prepare_decoder_input_ids_from_labels(torch.tensor([written]))[0, 0])
        start = self.config.decoder_start_token_id
        return self.config.bos_token_id if start is None else start

    @torch.no_grad()
    def write(self, ids: list[int], count: int, name: str) -> list[int]:
        """What the model makes of a text, at most `count` tokens more; greedy, or by beams where it says so."""
        if not self.model.can_generate():
            raise ValueError(f"{type(self.model).__name__} writes no text; give a target")
        if count + (0 if self.is_seq2seq else len(ids)) > self.most:
            raise ValueError(f"{name} has {len(ids)} tokens, with {count} new ones more than the model's {self.most}")
        inputs = torch.tensor([ids], device=self.model.device)
        options: dict[str, Any] = {"max_new_tokens": count, "do_sample": False, "num_return_sequences": 1}
        if self.model.config.model_type in ("vanilla", "vanilla_recurrent"):
            options["custom_generate"] = beam_search
        with evaluation(self.model):
            return self.model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[0].tolist()

    def encode(self, text: str, name: str, text_target: bool = False) -> Encoded:
        """A text's tokens.

        Raises:
            ValueError: there are none, too many, only unknown ones, or some that the model does not have.
        """
        texts = {"text_target" if text_target else "text": text}
        if self.tokenizer.is_fast:
            fast = self.tokenizer(**texts, return_offsets_mapping=True)
            encoded = Encoded(list(fast["input_ids"]), list(fast["offset_mapping"]), text)
        else:
            encoded = decode(self.tokenizer, list(self.tokenizer(**texts)["input_ids"]))
        self.check_length(encoded.ids, name)
        if max(encoded.ids, default=0) >= getattr(self.config, "vocab_size", math.inf):
            sizes = f"{len(self.tokenizer)} tokens, the model {self.config.vocab_size}"
            raise ValueError(f"the tokenizer has {sizes}: it is not the model's")
        of_text = [id_ for id_ in encoded.ids if not self.is_special(id_)]
        if not of_text:
            raise ValueError(f"{name} has no tokens: {text!r:.60}; expected words")
        if all(id_ == self.tokenizer.unk_token_id for id_ in of_text):
            raise ValueError(f"{name} is in a script that the tokenizer does not know at all: {text!r:.60}")
        return encoded

    def check_script(self, encoded: Encoded, name: str) -> None:
        """Raises `ValueError` where each letter takes several tokens: none is in a vocabulary learned from bytes."""
        tokens = Counter(place for span in encoded.spans for place in range(*span))
        letters = [place for place, letter in enumerate(encoded.text) if letter.isalpha()]
        if letters and all(tokens[place] > 1 for place in letters):
            raise ValueError(
                f"{name} is in a script that the tokenizer does not know: {encoded.text!r:.60}; no letter of it is in "
                "its vocabulary"
            )

    def check_length(self, ids: list[int], name: str) -> None:
        """Raises `ValueError` where a text has more tokens than the model, or more weights than memory should hold."""
        if len(ids) > self.most:
            raise ValueError(f"{name} has {len(ids)} tokens, more than the model's {self.most}: cut it")
        layers, heads = (getattr(self.config, name, 1) for name in ("num_hidden_layers", "num_attention_heads"))
        size = 4 * layers * heads * len(ids) ** 2 * (3 if self.is_seq2seq else 1)
        if size > MOST_BYTES:
            raise ValueError(f"{name} has {len(ids)} tokens, whose weights take {size / 2**30:.0f} GiB: cut it")

    def is_special(self, id_: int) -> bool:
        """Whether a token is no part of a text."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
        marks = {
            getattr(self.tokenizer, name, None) for name in names
        }  # GPT-2's token for them is also its unknown one
        return id_ in marks or id_ in self.tokenizer.all_special_ids and id_ != self.tokenizer.unk_token_id

    def tokens(self, encoded: Encoded) -> Tokens:
        """What token ids stand for."""
        text, labels, words, names = encoded.text, [], list[list[int]](), []
        special = [self.is_special(id_) for id_ in encoded.ids]
        end, blank = -1, False  # where the token before ends; whether it is nothing but blanks
        for i, (first, last) in enumerate(encoded.spans):
            if special[i]:
                labels.append(str(self.tokenizer.convert_ids_to_tokens(encoded.ids[i])))
                words.append([i])
                end, blank = -1, False
                continue
            piece = text[first:last]
            inside = 0 <= end and (first < end or first == last)
            label = piece.strip() or ("␣" if piece else "·")
            # A mark that combines with what was before it stands on a circle.
            label = f"\u25cc{label}" if unicodedata.category(label[0])[0] == "M" else label
            labels.append("·" if inside else label)
            if end >= 0 and (inside or blank or not begins_word(text, end, first + len(piece) - len(piece.lstrip()))):
                words[-1].append(i)
            else:
                words.append([i])
            end, blank = max(last, end), bool(piece) and not piece.strip()
        for word in words:
            if special[word[0]]:
                names.append(labels[word[0]])
                continue
            covered = text[encoded.spans[word[0]][0] : max(encoded.spans[i][1] for i in word)]
            names.append(" ".join(covered.split()) or labels[word[0]])
        return Tokens(tuple(labels), tuple(special), tuple(map(tuple, words)), tuple(names))

    def look(self, batch: Sequence[Reading], words: bool) -> Iterator[AttentionMaps]:
        """What the heads look at in texts, all at once.

        Raises:
            ValueError: the model gives no attentions, or not those of all tokens to all.
        """
        inputs = padded([reading.ids for reading in batch], self.padding)
        if batch[0].types is not None:
            inputs["token_type_ids"] = padded([reading.types or [] for reading in batch], 0)["input_ids"]
        fields = dict.fromkeys(batch[0].sides, "attentions")
        if self.is_seq2seq:
            # What lies behind a text's end is hidden from it by the decoder's own mask.
            decoder = padded([list(reading.decoder_ids) for reading in batch], self.padding)
            inputs["decoder_input_ids"] = decoder["input_ids"]
            fields = {kind: f"{kind}_attentions" for kind in batch[0].sides}
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        with evaluation(self.model, "eager"), torch.no_grad():
            outputs = self.model.base_model(**inputs, output_attentions=True, return_dict=True)
        layers = {
            kind: [layer for layer in (getattr(outputs, name, None) or ()) if layer is not None]
            for kind, name in fields.items()
        }
        del outputs
        if not any(layers.values()):
            raise ValueError(
                f"{self.name}, a {self.config.model_type} model, gives no attentions; expected one that does"
            )
        for row, reading in enumerate(batch):
            maps: dict[str, AttentionMap] = {}
            for kind, weights in layers.items():
                queries, keys = reading.sides[kind]
                if weights:
                    self.check_shape(weights[0], batch, kind)
                    own = torch.stack([layer[row, :, : len(queries), : len(keys)].float().cpu() for layer in weights])
                    maps[kind] = AttentionMap(kind, own, queries, keys)
            result = AttentionMaps(self.name, reading.source, reading.target, **maps)
            yield result.joined() if words else result

    def check_shape(self, weights: Tensor, batch: Sequence[Reading], kind: str) -> None:
        """Raises `ValueError` where weights are not those of all tokens to all."""
        longest = tuple(max(len(reading.sides[kind][side]) for reading in batch) for side in (0, 1))
        if weights.dim() != 4 or tuple(weights.shape[-2:]) != longest:
            shape, expected = tuple(weights.shape), f"(batch, heads, {longest[0]}, {longest[1]})"
            raise ValueError(f"{self.name} gives attentions of shape {shape}; expected {expected}")


def name_of(model: Any) -> str:
    """What to call a model: its Hub id, or its folder's name, which says nothing of whose machine it is on."""
    name = model.config.name_or_path or type(model).__name__
    return Path(name).resolve().name if Path(name).is_dir() else name


def is_causal(config: Any) -> bool:
    """Whether a model of one stack reads from left to right."""
    if getattr(config, "is_decoder", False) or config.model_type == "vanilla_decoder":
        return True
    classes = (AutoModelForCausalLM, AutoModelForMaskedLM)
    remote = getattr(config, "auto_map", None) or {}
    causal, masked = (type(config) in each._model_mapping or each.__name__ in remote for each in classes)
    return causal and not masked


def load_model(name: str | Path) -> tuple[PreTrainedModel, Any]:
    """A model of a folder or of the Hub with the head that it was saved with, in float32, and its tokenizer.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: it has no tokenizer, or is none that transformers knows.
    """
    from accelerate import PartialState

    use_onednn_for_float32()
    config, tokenizer = load_config_and_tokenizer(name, AutoModel, "one of transformers that reads text")
    loader: Any = AutoModel
    auto_classes: tuple[Any, ...] = (AutoModelForSeq2SeqLM, AutoModelForMaskedLM, AutoModelForCausalLM)
    for auto_class in auto_classes:
        heads = auto_class._model_mapping[type(config)] if type(config) in auto_class._model_mapping else ()
        if {head.__name__ for head in (heads if isinstance(heads, tuple) else (heads,))} & set(
            config.architectures or ()
        ):
            loader = auto_class
            break
    model = loader.from_pretrained(name, config=config, dtype=torch.float32)
    return model.to(PartialState().device).eval(), tokenizer


@contextlib.contextmanager
def evaluation(model: PreTrainedModel, attention: str | None = None) -> Iterator[None]:
    """A model in evaluation mode, and with another attention implementation; afterwards it is as it was."""
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts if part._can_set_attn_implementation()}
    before = [(config, config._attn_implementation) for config in configs.values()]
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        for config, _ in before if attention else ():
            config._attn_implementation = attention
        yield
    finally:
        for module in training:
            module.training = True
        for config, implementation in before if attention else ():
            config._attn_implementation = implementation


def padded(rows: Sequence[list[int]], padding: int) -> dict[str, Tensor]:
    """Rows of ids (batch, length), padded on the right, and their mask."""
    longest = max(map(len, rows))
    ids = [[*row, *[padding] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def clean(text: Any, name: str) -> str:
    """A text without halves of surrogate pairs.

    Raises:
        TypeError: it is none.
        ValueError: it is empty.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}; expected a text")
    if not text.strip():
        raise ValueError(f"{name} is empty; expected words")
    return text.encode("utf-8", "replace").decode()


def continued(source: str, target: str) -> str:
    """A text and what follows it, with a blank between two words."""
    apart = source[-1].isspace() or target[0].isspace() or not begins_letter(target, 0) or is_unspaced(target[0])
    return source + target if apart else f"{source} {target}"


def decode(tokenizer: Any, ids: list[int]) -> Encoded:
    """Token ids, and where each is in the text that they make."""
    spans, text, options = [], "", {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    for count in range(1, len(ids) + 1):
        start = len(text)
        text = tokenizer.decode(ids[:count], **options).rstrip("\ufffd")  # a character that is not complete yet
        spans.append((min(start, len(text)), len(text)))
    for i in reversed(range(len(ids) - 1)):  # what begins a character is where the character will be
        first, last = spans[i + 1]
        if spans[i][0] == spans[i][1] == first < last and not text[first].isascii():
            spans[i] = (first, first + 1)
    return Encoded(ids, spans, text)
