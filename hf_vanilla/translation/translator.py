"""From a model and texts to translations."""

import copy
import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import PackedLinear, beam_search, make_incremental
from hf_vanilla.translation.loading import EXTRA_TOKENS, load_config_and_tokenizer, positions_of, words_of_tokens

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
# Texts that are sorted by length together, so that batches have little padding.
POOL = 1024
# Where a text that is too long is cut: after what ends a sentence.
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Hypothesis:
    """A translation, and its log-probability over the length penalty: the mean over the parts of a text cut up; NaN
    where the model's own `generate` gives none."""

    text: str
    score: float


def join(parts: tuple[Hypothesis, ...]) -> Hypothesis:
    """The parts of a text together."""
    text = " ".join(part.text for part in parts if part.text)
    return Hypothesis(text, sum(part.score for part in parts) / len(parts))


class Translator:
    """Translates texts with the paper's beam search: `Translator.from_pretrained(name)(texts)`.

    Args:
        model: a sequence-to-sequence model; it is put in evaluation mode, its weights are held as they are now. Models
            of other libraries' families search with their own `generate`.
        tokenizer: the model's.
        precision: of the products with weights, on CPU: "float32", "float16" (weights in half the bits) or "int8",
            by which a text's translation depends a little on what is translated with it.
        batch_tokens: source tokens translated together, padding included, times beams: memory and speed follow it.
        max_source_tokens: longer texts are cut into sentences, and these, if they must be, between words.
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
        self.model: Any = model.eval()
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.most = positions_of(model.config)
        self.max_source_tokens = min(max_source_tokens, self.most)
        self.is_ours = model.config.model_type in ("vanilla", "vanilla_recurrent")
        self.encoder: Any = self.model.get_encoder()
        self.decoder = None
        if precision == "bfloat16" and model.dtype != torch.bfloat16:
            raise ValueError(f"precision is 'bfloat16', and the model {model.dtype}: give model.to(torch.bfloat16)")
        if precision in ("float16", "int8"):
            if model.config.model_type != "vanilla":
                kind = model.config.model_type
                raise ValueError(f"precision {precision} is for models of type 'vanilla', not {kind!r}")
            if model.dtype != torch.float32 or model.device.type != "cpu":
                kind = f"{model.dtype} on {model.device.type}"
                raise ValueError(f"precision {precision} is for float32 models on CPU, not {kind}")
        if self.is_ours:
            precision = "float32" if precision == "bfloat16" else precision
            self.decoder = make_incremental(self.model, precision)
            self.encoder = self.encoder if precision == "float32" else pack_linears(self.encoder, precision)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        precision: str = "float32",
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "Translator":
        """A folder's or a Hub model's, on the fastest device there is unless `device` says which.

        `precision` may also be "bfloat16" (anywhere) or, on a GPU, "float16": that of the whole model.

        Raises:
            FileNotFoundError: there is no such folder or model.
            ValueError: it is no model that translates, or has no tokenizer.
        """
        from accelerate import PartialState

        use_onednn_for_float32()
        hub = {"trust_remote_code": trust_remote_code}
        config, tokenizer = load_config_and_tokenizer(name, AutoModelForSeq2SeqLM, "one that translates", **hub)
        device = torch.device(device or PartialState().device)
        dtype = "float32" if device.type == "cpu" and precision in ("float16", "int8") else precision
        if dtype == "int8":
            raise ValueError(f"precision int8 is for CPUs; on {device.type} take bfloat16 or float16")
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        model = AutoModelForSeq2SeqLM.from_pretrained(name, config=config, dtype=dtype, **hub).to(device)
        return cls(model, tokenizer, precision if device.type == "cpu" else "float32", **options)

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        num_beams: int | None = None,
        n_best: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
    ) -> Any:
        """The translation of a text, or a list of those of many, in their order.

        Args:
            texts: one, or many; what is blank stays blank, what is long is cut into sentences and joined again.
            num_beams: 1 is greedy; by default, what the model's generation config says.
            n_best: if given, the so many best [`Hypothesis`] of each text instead of one string.
            length_penalty: alpha; by default, what the model's generation config says.
            progress: show a bar.

        Raises:
            TypeError: for what is not text.
        """
        options: dict[str, Any] = {"num_beams": num_beams, "n_best": n_best, "length_penalty": length_penalty}
        if isinstance(texts, str):
            return next(self.stream([texts], **options))
        if not isinstance(texts, Iterable):
            raise TypeError(f"expected a text or an iterable of texts, got {type(texts).__name__}")
        texts = list(texts)
        bar = tqdm(
            self.stream(texts, **options),
            "translating",
            len(texts),
            unit=" texts",
            mininterval=1,
            disable=not progress,
        )
        return list(bar)

    def stream(
        self,
        texts: Iterable[str],
        *,
        num_beams: int | None = None,
        n_best: int | None = None,
        length_penalty: float | None = None,
        pool: int = POOL,
    ) -> Iterator[Any]:
        """As the call, for texts that come one by one; no more than `pool` of them are held at a time."""
        config = self.model.generation_config
        beams = (config.num_beams or 1) if num_beams is None else num_beams
        if beams < 1 or pool < 1:
            raise ValueError(f"`num_beams` and `pool` must be at least 1, got {beams} and {pool}")
        if length_penalty is not None and not math.isfinite(length_penalty):
            raise ValueError(f"`length_penalty` must be a number, got {length_penalty}")
        if n_best is not None and not 1 <= n_best <= beams:
            raise ValueError(f"n_best is {n_best}; expected 1 to {beams}, the number of beams")
        search: dict[str, Any] = {"num_beams": beams, "num_return_sequences": n_best or 1}
        if length_penalty is not None:
            search["length_penalty"] = length_penalty
        texts = iter(texts)
        while some := list(itertools.islice(texts, pool)):
            for hypotheses in self.translate_pool(some, search):
                yield hypotheses[0].text if n_best is None else hypotheses

    def translate_pool(self, texts: list[str], search: dict[str, Any]) -> list[list[Hypothesis]]:
        """The hypotheses of each text, all texts at once, sentences of about equal length together."""
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"expected texts, got {type(text).__name__}: {text!r:.60}")
        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # half of a surrogate pair is no text
        parts = [(row, part) for row, text in enumerate(clean) for part in self.cut(text)]
        encoded = self.tokenizer([part for _, part in parts])["input_ids"] if parts else []
        kept = [i for i, ids in enumerate(encoded) if ids]
        parts, encoded = [parts[i] for i in kept], [encoded[i] for i in kept]
        longest_first = sorted(range(len(parts)), key=lambda i: -len(encoded[i]))
        translated: list[list[Hypothesis]] = [[] for _ in parts]
        start = 0
        while start < len(longest_first):
            size = max(1, self.batch_tokens // (len(encoded[longest_first[start]]) * search["num_beams"]))
            batch = longest_first[start : start + size]
            for i, hypotheses in zip(batch, self.search([encoded[i] for i in batch], search), strict=True):
                translated[i] = hypotheses
            start += size
        own: list[list[list[Hypothesis]]] = [[] for _ in texts]
        for (row, _), hypotheses in zip(parts, translated, strict=True):
            own[row].append(hypotheses)
        return [[join(ranks) for ranks in zip(*each, strict=True)] or [Hypothesis("", 0.0)] for each in own]

    def cut(self, text: str) -> list[str]:
        """A text as it is; one that is too long in its sentences, and these in pieces; nothing of a blank one."""
        text = text.strip()  # a file's lines come with their ends
        if not text:
            return []
        if not self.is_long(text):
            return [text]
        return [piece for sentence in SENTENCE_END.split(text) for piece in self.pieces(sentence.strip())]

    def pieces(self, text: str) -> list[str]:
        """A sentence, cut between words where it is too long; a word that is too long alone is cut, too."""
        if not self.is_long(text):
            return [text] if text else []
        self.require_offsets("cut a text that is too long")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        most = max(1, self.max_source_tokens - 4)  # less what the tokenizer adds, and what other cuts may cost
        pieces, start, token = [], 0, 0
        while token + most < len(ends):
            end = ends[token + most - 1]
            spaces = [match.start() for match in re.finditer(r"\s", text[start + 1 : end + 1])]
            end = start + 1 + spaces[-1] if spaces else max(end, start + 1)
            pieces.append(text[start:end].strip())
            start, token = end, bisect_right(ends, end)
        return [piece for piece in [*pieces, text[start:].strip()] if piece]

    def require_offsets(self, purpose: str) -> None:
        """Raises `ValueError` for a tokenizer that does not say where in a text its tokens are."""
        if not self.tokenizer.is_fast:
            raise ValueError(f"to {purpose} takes a fast tokenizer, and this is {type(self.tokenizer).__name__}")

    def is_long(self, text: str) -> bool:
        """Whether it has more tokens than are translated together; a byte is at most one token."""
        most = self.max_source_tokens
        return len(text.encode()) >= most and len(self.tokenizer(text)["input_ids"]) > most

    @torch.inference_mode()
    def search(self, sources: Sequence[list[int]], search: dict[str, Any]) -> Iterator[list[Hypothesis]]:
        """The hypotheses of each source, a list of token ids."""
        config = self.model.generation_config
        longest = max(map(len, sources))
        padding = self.model.config.pad_token_id or 0
        ids = torch.tensor([[*source, *[padding] * (longest - len(source))] for source in sources])
        mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
        batch = {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}
        most = min(longest + EXTRA_TOKENS, self.most - 1, config.max_new_tokens or self.most)
        options: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "output_attentions": False, **search}
        options["output_hidden_states"] = False
        if self.is_ours:
            states = self.encoder(**batch).last_hidden_state
            options |= {
                "encoder_outputs": BaseModelOutput(last_hidden_state=states),
                "custom_generate": beam_search,
                "incremental_decoder": self.decoder,
                "max_extra_tokens": EXTRA_TOKENS,
            }
        output = self.model.generate(**batch, **options, return_dict_in_generate=True, output_scores=not self.is_ours)
        texts = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        scores = getattr(output, "sequences_scores", None)
        values = [math.nan] * len(texts) if scores is None else scores.tolist()
        hypotheses = [Hypothesis(" ".join(text.split()), value) for text, value in zip(texts, values, strict=True)]
        each = search["num_return_sequences"]
        return (hypotheses[start : start + each] for start in range(0, len(hypotheses), each))

    @torch.inference_mode()
    def align(self, source: str, target: str) -> list[tuple[int, int]]:
        """For each word of a translation, the word of its source that cross-attention looks at most: pairs (source
        word, target word), counted from 0. Words are what is between blanks.

        It is the mean over the heads of the last layer but one, from the states that predict the word's tokens.
        """
        self.require_offsets("align words")
        if not self.is_ours:
            raise ValueError(f"`align` is for models of type 'vanilla', not {self.model.config.model_type!r}")
        if getattr(self.model.config, "attention_type", None) == "none":
            raise ValueError("`align` reads attention, and this model has `attention_type` 'none'")
        encoded = self.tokenizer(source, return_offsets_mapping=True)
        decoded = self.tokenizer(text_target=target, return_offsets_mapping=True)
        of_source = words_of_tokens(source, encoded["offset_mapping"])
        of_target = words_of_tokens(target, decoded["offset_mapping"])
        ids, labels = (torch.tensor([e["input_ids"]], device=self.model.device) for e in (encoded, decoded))
        inputs = self.model.prepare_decoder_input_ids_from_labels(labels)
        attentions = self.model(
            input_ids=ids, decoder_input_ids=inputs, output_attentions=True, use_cache=False
        ).cross_attentions
        weights = attentions[max(0, len(attentions) - 2)][0].float().mean(0)
        looks = torch.zeros(len(target.split()), len(source.split()))
        for t, target_word in enumerate(of_target):
            for s, source_word in enumerate(of_source):
                if target_word is not None and source_word is not None:
                    looks[target_word, source_word] += weights[t, s].cpu()
        return [(int(looks[word].argmax()), word) for word in range(len(looks)) if looks.shape[1]]


def pack_linears(module: nn.Module, precision: str) -> nn.Module:
    """A copy of a module that shares all parameters but those of its linear layers, which it holds in `precision`."""
    replica = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    for name, linear in list(replica.named_modules()):
        if type(linear) is nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(replica.get_submodule(parent), own, PackedLinear(linear.weight, linear.bias, precision))
    return replica
