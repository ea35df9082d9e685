"""From a model and texts to translations, or to whatever else the model makes of them."""

import copy
import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import PackedLinear, beam_search, find_obstacle, is_plain
from hf_vanilla.models.static_generation_vanilla import make_decoder
from hf_vanilla.models.texts_vanilla import decode_texts, encode_texts, holds_sequences
from hf_vanilla.translation.cutting import find_cut, join_parts, one_line, split_sentences
from hf_vanilla.translation.loading import (
    EXTRA_TOKENS,
    extra_tokens,
    load_config_and_tokenizer,
    positions_of,
    words_of_tokens,
)
from hf_vanilla.translation.symbols import describe_symbols, unknown_ids, unknown_symbols

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
# Texts that are sorted by length together, so that batches have little padding; of sequences that are no sentences,
# which are short, many more, so that batches are full as well.
POOL, SHORT = 1024, 8


@dataclass(frozen=True)
class Hypothesis:
    """A translation (`text`) and its `score`, the log-probability divided by the length penalty.

    The score of a text that was cut is the mean over its parts; it is NaN if the model's own `generate` gives none.
    """

    text: str
    score: float


@dataclass
class Remarks:
    """What a user should know of texts that were translated: symbols and lengths that the model has not learned."""

    symbols: Counter[str] = field(default_factory=Counter)
    longer: Counter[str] = field(default_factory=Counter)  # how many texts are longer than what a sentence names
    first: dict[str, str] = field(default_factory=dict)  # the first of them

    def add_longer(self, text: str, than: str) -> None:
        """Count a text that is longer than what `than` says."""
        self.longer[than] += 1
        self.first.setdefault(than, text)

    def log(self) -> None:
        """Log a line for each remark, if there are any."""
        if self.symbols:
            logger.warning("texts have %s", describe_symbols(self.symbols))
        for than, count in self.longer.items():
            logger.warning("texts longer than %s: %s, such as %.60r", than, f"{count:,}", self.first[than])


class Translator:
    """Translates texts with the paper's beam search: `Translator.from_pretrained(name)(texts)`.

    Texts of a tokenizer that holds sequences of other symbols, such as letters and phonemes, are never cut. Symbols
    that the vocabulary lacks, and sequences longer than those of the training, are named in the log at the end.

    Args:
        model: a sequence-to-sequence model, which is put in evaluation mode; later changes of its weights are not
            seen. One that others have changed, as an adapter does, is called itself, more slowly, and so is any from
            when they do. Models of other libraries' families search with their own `generate`.
        tokenizer: the model's.
        precision: of the products with weights, on CPU: "float32", "float16" (weights take half the memory) or "int8",
            in which a translation depends a little on the other texts of its batch.
        batch_tokens: source tokens translated together, with padding, times beams: more are faster, but take memory.
        max_source_tokens: longer texts are cut into sentences, and longer sentences between words. Abbreviations are
            those of the tokenizer's `src_lang` or `source_lang`, by default of English.

    Raises:
        ValueError: the model cannot be run in this precision, or a number is too small.

    Examples:
        >>> from hf_vanilla import Translator, VanillaConfig, VanillaForConditionalGeneration, train_tokenizer
        >>> tokenizer = train_tokenizer(["the dog runs", "der Hund rennt"], vocab_size=300)
        >>> config = VanillaConfig(vocab_size=len(tokenizer), d_model=16, h=2, d_ff=32, N=1)
        >>> translator = Translator(VanillaForConditionalGeneration(config), tokenizer)
        >>> len(translator(["the dog runs", "the dog"]))  # a list gives a list, in its order
        2
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        precision: str = "float32",
        batch_tokens: int = 4096,
        max_source_tokens: int = 256,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        if batch_tokens < 1 or max_source_tokens < 2:
            raise ValueError("`batch_tokens` must be at least 1, `max_source_tokens` at least 2")
        kind, dtype, device = model.config.model_type, model.dtype, model.device.type
        if precision == "bfloat16" and dtype != torch.bfloat16:
            raise ValueError(f"precision is 'bfloat16', and the model {dtype}: give model.to(torch.bfloat16)")
        is_packed = self.is_packed = precision in ("float16", "int8")
        if is_packed and kind != "vanilla":
            raise ValueError(f"precision {precision} is for models of type 'vanilla', not {kind!r}")
        if is_packed and (dtype != torch.float32 or device != "cpu"):
            raise ValueError(f"precision {precision} is for float32 models on CPU, not {dtype} on {device}")
        self.model: Any = model.eval()
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens
        languages = (getattr(tokenizer, name, None) for name in ("src_lang", "source_lang"))
        self.language = str(next(filter(None, languages), "en"))[:2]
        self.is_language = not holds_sequences(tokenizer)
        self.remarks = Remarks()
        self.pool = POOL if self.is_language else POOL * SHORT
        self.unknown_ids = unknown_ids(tokenizer)
        self.max_positions = positions_of(model.config)
        self.max_source_tokens = min(max_source_tokens, self.max_positions)
        self.is_ours = kind in ("vanilla", "vanilla_recurrent")
        self.decoder: Any = None
        self.encoder: Any = None
        if is_packed and (obstacle := find_obstacle(model)) is not None:
            raise ValueError(f"precision {precision} is for models that nobody has changed, and {obstacle}")
        if self.is_ours and is_plain(model):
            self.decoder = make_decoder(model, precision if is_packed else "float32")
            self.encoder = pack_linears(model.get_encoder(), precision) if is_packed else model.get_encoder()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        precision: str = "float32",
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        **options: int,
    ) -> "Translator":
        """Return the translator of a model, given its folder or Hub id.

        Args:
            precision: as for the class; also "bfloat16" (anywhere) and, on a GPU, "float16": that of the whole model.
            device: by default, the fastest there is.
            trust_remote_code: whether code may run that comes with the model.
            options: `batch_tokens` and `max_source_tokens`.

        Raises:
            FileNotFoundError: there is no such folder or model.
            ValueError: it is no model that translates, has no tokenizer, or does not have the precision.
        """
        use_onednn_for_float32()
        hub = {"trust_remote_code": trust_remote_code}
        config, tokenizer = load_config_and_tokenizer(name, AutoModelForSeq2SeqLM, "one that translates", **hub)
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        device = torch.device(device or PartialState().device)
        on_cpu = device.type == "cpu"
        if precision == "int8" and not on_cpu:
            raise ValueError(f"precision int8 is for CPUs; on {device.type} take bfloat16 or float16")
        dtype = "float32" if on_cpu and precision in ("float16", "int8") else precision
        model = AutoModelForSeq2SeqLM.from_pretrained(name, config=config, dtype=dtype, **hub).to(device)
        return cls(model, tokenizer, precision if on_cpu else "float32", **options)

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        num_beams: int | None = None,
        n_best: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
    ) -> Any:
        """Return the translation of a text, or the list of those of many, in their order.

        A blank text stays blank; a long one is cut into sentences, which are joined again. `progress` shows a bar;
        [`stream`] explains the other arguments. What is no string is a TypeError, a number out of range a ValueError.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        bar = {"desc": "translating", "total": len(many), "unit": " texts", "mininterval": 1, "disable": not progress}
        translated = self.stream(many, num_beams=num_beams, n_best=n_best, length_penalty=length_penalty)
        translations = list(tqdm(translated, **bar))
        return translations[0] if isinstance(texts, str) else translations

    def stream(
        self,
        texts: Iterable[str],
        *,
        num_beams: int | None = None,
        n_best: int | None = None,
        length_penalty: float | None = None,
        pool: int | None = None,
    ) -> Iterator[Any]:
        """Yield the translation of each text, as they come; `pool` texts are held at a time, and sorted by length, by
        default 1,024 sentences or 8,192 other sequences.

        Args:
            num_beams: 1 is greedy; by default, what the model's generation config says.
            n_best: if given, yield this many of the best [`Hypothesis`] of each text instead of one string.
            length_penalty: alpha of the paper; by default, what the model's generation config says.
        """
        config = self.model.generation_config
        beams = (config.num_beams or 1) if num_beams is None else num_beams
        pool = self.pool if pool is None else pool
        if beams < 1 or pool < 1:
            raise ValueError(f"`num_beams` and `pool` must be at least 1, got {beams} and {pool}")
        vocabulary = getattr(self.model.config, "vocab_size", None) or beams
        if beams > vocabulary:
            raise ValueError(f"num_beams is {beams}; expected at most {vocabulary}, the tokens of the vocabulary")
        if length_penalty is not None and not math.isfinite(length_penalty):
            raise ValueError(f"`length_penalty` must be a number, got {length_penalty}")
        if n_best is not None and not 1 <= n_best <= beams:
            raise ValueError(f"n_best is {n_best}; expected 1 to {beams}, the number of beams")
        search: dict[str, Any] = {"num_beams": beams, "num_return_sequences": n_best or 1}
        if length_penalty is not None:
            search["length_penalty"] = length_penalty
        texts, self.remarks = iter(texts), Remarks()
        try:
            while pooled := list(islice(texts, pool)):
                for hypotheses in self.translate_pool(pooled, search):
                    yield hypotheses[0].text if n_best is None else hypotheses
        finally:
            self.remarks.log()

    def translate_pool(self, texts: list[str], search: dict[str, Any]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each text, best first; parts of about equal length are translated together."""
        parts = [(row, part) for row, text in enumerate(texts) for part in self.cut(text)]
        sides = [part for _, part in parts]
        encoded = encode_texts(self.tokenizer, sides, verbose=False)["input_ids"] if parts else []
        self.look_at(sides, encoded)
        translated: dict[int, list[Hypothesis]] = {}
        is_fit = (0 < len(ids) <= self.max_positions for ids in encoded)
        waiting = sorted((i for i, fits in enumerate(is_fit) if fits), key=lambda i: -len(encoded[i]))
        while waiting:
            size = max(1, self.batch_tokens // (len(encoded[waiting[0]]) * search["num_beams"]))
            batch, waiting = waiting[:size], waiting[size:]
            translated |= zip(batch, self.search([encoded[i] for i in batch], search), strict=True)
        of_text: list[list[list[Hypothesis]]] = [[] for _ in texts]
        for i in sorted(translated):
            of_text[parts[i][0]].append(translated[i])
        return [[join(ranks) for ranks in zip(*each, strict=True)] or [Hypothesis("", 0.0)] for each in of_text]

    def look_at(self, texts: list[str], encoded: list[list[int]]) -> None:
        """Add to `remarks` what texts have that the model has not learned, given their token ids."""
        remarks = self.remarks
        lacking = [text for text, ids in zip(texts, encoded, strict=True) if not self.unknown_ids.isdisjoint(ids)]
        if lacking and self.tokenizer.is_fast:
            remarks.symbols += unknown_symbols(self.tokenizer, lacking)
        if not self.is_language:
            for text, ids in zip(texts, encoded, strict=True):
                if len(ids) > self.max_positions:
                    remarks.add_longer(text, f"the model's {self.max_positions:,} positions, and left empty")
                elif len(ids) > (learned := self.tokenizer.model_max_length):
                    remarks.add_longer(text, f"the {learned:,} tokens that the model has learned from")

    def cut(self, text: str) -> list[str]:
        """Return the parts of a text: itself, none if it is blank, sentences or pieces of them if it is too long."""
        if not isinstance(text, str):
            raise TypeError(f"expected texts, got {type(text).__name__}: {text!r:.60}")
        # A file's lines come with their ends, and half of a surrogate pair is no text.
        text, most = text.strip().encode("utf-8", "replace").decode(), self.max_source_tokens
        # Each token has at least one byte, so that most texts need not be encoded to see that they are short.
        if (
            not self.is_language
            or len(text.encode()) < most
            or len(encode_texts(self.tokenizer, text)["input_ids"]) <= most
        ):
            return [text] if text else []
        sentences = split_sentences(text, self.language)
        if len(sentences) > 1:
            return [piece for sentence in sentences for piece in self.cut(sentence)]
        self.require_offsets("cut a text that is too long")
        encoded = encode_texts(self.tokenizer, text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        # Less what the tokenizer adds, and what a word may gain in tokens by being cut off from those beside it.
        most = max(1, most - 4)
        pieces, start, token = [], 0, 0
        while token + most < len(ends):
            end = find_cut(text, start, ends[token + most - 1])
            pieces.append(text[start:end].strip())
            start, token = end, bisect_right(ends, end)
        return [piece for piece in [*pieces, text[start:].strip()] if piece]

    def require_offsets(self, purpose: str) -> None:
        if not self.tokenizer.is_fast:
            raise ValueError(f"to {purpose} takes a fast tokenizer, and this is {type(self.tokenizer).__name__}")

    @torch.inference_mode()
    def search(self, sources: Sequence[list[int]], search: dict[str, Any]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source (token ids), best first; `search` are options of `generate`."""
        config, device, each = self.model.generation_config, self.model.device, search["num_return_sequences"]
        rows = [torch.tensor(source) for source in sources]
        ids = pad_sequence(rows, True, self.model.config.pad_token_id or 0)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True)
        batch = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        extra = EXTRA_TOKENS if self.is_language else extra_tokens(self.model, self.tokenizer)
        most = min(ids.shape[1] + extra, self.max_positions - 1, config.max_new_tokens or self.max_positions)
        options: dict[str, object] = {"max_new_tokens": most, "do_sample": False, "output_attentions": False, **search}
        options |= {"output_hidden_states": False, "return_dict_in_generate": True, "output_scores": not self.is_ours}
        if self.is_ours:
            options |= {"custom_generate": beam_search, "max_extra_tokens": extra}
        if self.decoder is not None and (self.is_packed or is_plain(self.model)):
            options |= {"incremental_decoder": self.decoder, "encoder_outputs": self.encoder(**batch)}
        output = self.model.generate(**batch, **options)
        texts = decode_texts(self.tokenizer, output.sequences)
        scores = getattr(output, "sequences_scores", None)
        values = [math.nan] * len(texts) if scores is None else scores.tolist()
        hypotheses = [Hypothesis(one_line(text), value) for text, value in zip(texts, values, strict=True)]
        return [hypotheses[start : start + each] for start in range(0, len(hypotheses), each)]

    @torch.inference_mode()
    def align(self, source: str, target: str) -> list[tuple[int, int]]:
        """Return pairs (source word, target word), counted from 0: for each word of a translation, the word of its
        source that cross-attention looks at most.

        The attention is the mean over the heads of the last layer but one, from the states that predict the word's
        tokens. Words are what is between blanks.

        Raises:
            ValueError: the model's attention cannot be read, or the tokenizer does not say where its tokens are.
        """
        self.require_offsets("align words")
        if not self.is_ours:
            raise ValueError(f"`align` is for models of type 'vanilla', not {self.model.config.model_type!r}")
        if getattr(self.model.config, "attention_type", None) == "none":
            raise ValueError("`align` reads attention, and this model has `attention_type` 'none'")
        encoded = encode_texts(self.tokenizer, source, return_offsets_mapping=True)
        decoded = encode_texts(self.tokenizer, text_target=target, return_offsets_mapping=True)
        source_words = words_of_tokens(source, encoded["offset_mapping"])
        target_words = words_of_tokens(target, decoded["offset_mapping"])
        ids, labels = (torch.tensor([each["input_ids"]], device=self.model.device) for each in (encoded, decoded))
        inputs = self.model.prepare_decoder_input_ids_from_labels(labels)
        output = self.model(input_ids=ids, decoder_input_ids=inputs, output_attentions=True, use_cache=False)
        weights = output.cross_attentions[-2:][0][0].float().mean(0).cpu()
        sums = torch.zeros(len(target.split()), len(source.split()))
        for (row, target_word), (column, source_word) in product(enumerate(target_words), enumerate(source_words)):
            if target_word is not None and source_word is not None:
                sums[target_word, source_word] += weights[row, column]
        return [(int(row.argmax()), word) for word, row in enumerate(sums) if len(row)]


def join(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Return the hypothesis of a whole text, given those of its parts."""
    return Hypothesis(join_parts([part.text for part in parts]), sum(part.score for part in parts) / len(parts))


def pack_linears(module: nn.Module, precision: str) -> nn.Module:
    """Return a copy of a module that holds its linear layers in `precision` and shares all other parameters."""
    replica = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    for parent in list(replica.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child.weight, child.bias, precision))
    return replica
