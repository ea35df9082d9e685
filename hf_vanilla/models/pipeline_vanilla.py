"""The pipelines "translation" and "text2text-generation", which transformers 4 had: `pipeline(task, model=...)`.

They serve any encoder-decoder of transformers once `hf_vanilla` is imported, and travel with a checkpoint of a
translator, which `pipeline("translation", model=..., trust_remote_code=True)` reads where it is not.
"""

import inspect
from collections.abc import Iterable, Sequence
from functools import partial
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GenerationConfig, Pipeline, PreTrainedConfig, StoppingCriteria
from transformers.utils import logging

from .generation_vanilla import beam_search, generate
from .texts_vanilla import decode_texts, encode_texts, holds_sequences

logger = logging.get_logger(__name__)

# "At most source length + 50" (section 6.1 of the paper).
EXTRA_TOKENS = 50
# The families whose search is the paper's.
OWN_TYPES = ("vanilla", "vanilla_recurrent")
# What says how long a translation may be.
LIMITS = ("max_new_tokens", "max_length", "max_time")

Parameters = dict[str, Any]


def positions_of(config: PreTrainedConfig) -> int:
    """Return how many tokens a model has positions for; a million for sinusoids, which have no end."""
    endless = getattr(config, "position_embedding_type", None) in ("sinusoidal", "sinusoidal_halves")
    return 10**6 if endless else getattr(config, "max_position_embeddings", None) or 10**6


def extra_tokens(model: Any, tokenizer: Any) -> int:
    """Return how many tokens more than its source a target may have: the paper's 50 for sentences.

    Other sequences may be of any lengths: for them, the limit is what the model learned.
    """
    return (model.generation_config.max_new_tokens or 256) if holds_sequences(tokenizer) else EXTRA_TOKENS


class EndsByRow(StoppingCriteria):
    """Ends each sentence of a batch at its own length: `limits` (batch) are tokens, the first ones included."""

    def __init__(self, limits: Tensor):
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return input_ids.shape[1] >= self.limits.repeat_interleave(len(input_ids) // len(self.limits))


class TranslationPipeline(Pipeline):
    """Translates texts, or makes other sequences of them, with any encoder-decoder, as transformers 4 did.

    `pipe(texts, **options)` returns [{"translation_text": ...}] for a text, with a dictionary for each of
    `num_return_sequences`; for a list of texts the list of their dictionaries, or of lists of them if
    `num_return_sequences` is above 1; and for a data set or an iterator an iterator over those of each text. A blank
    text stays blank. As "text2text-generation" it returns `generated_text` and `generated_token_ids` instead.

    Unless something says how long a translation may be, it has at most 50 tokens more than its source, as in the
    paper; where texts are no sentences, what the generation config allows. Models of the paper's families search as it
    does.

    Args, each of which `pipeline("translation", ...)` and the call take:
        src_lang, tgt_lang: the languages, for a tokenizer that knows several; the task `translation_XX_to_YY` gives
            them, too.
        truncation: whether to cut sources to what the model has positions for, or a strategy of the tokenizer.
        return_text, return_tensors: whether to return `translation_text` (unless `return_tensors`) and
            `translation_token_ids` (length).
        return_type: 0 for token ids, 1 for texts.
        clean_up_tokenization_spaces: as for the tokenizer's `decode`.
        stop_sequence: a text of one token that ends a translation.
        batch_size, num_workers: as in all pipelines.
        options: those of `generate`.

    Raises:
        TypeError: an option or a text is none.
        ValueError: the tokenizer needs languages and got none, or nothing is to be returned.
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.eval()

    def __call__(self, inputs: Any, *args: Any, **options: Any) -> Any:
        if isinstance(inputs, Dataset) and len(inputs) == 0:  # type: ignore[arg-type]
            return iter(())  # a pipeline looks at the first one before it begins
        if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
            found = super().__call__(list(inputs), *args, **options) if len(inputs) else []
            return [records[0] for records in found] if all(len(records) == 1 for records in found) else found
        if isinstance(inputs, Iterable) and not isinstance(inputs, str | bytes | dict | Dataset | GeneratorType):
            inputs = (text for text in inputs)  # a pipeline knows lists, data sets and generators
        return super().__call__(inputs, *args, **options)

    def _sanitize_parameters(
        self,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        truncation: Any = None,
        return_text: bool | None = None,
        return_tensors: bool | None = None,
        return_type: int | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        stop_sequence: str | None = None,
        local_files_only: bool | None = None,
        **options: Any,
    ) -> tuple[Parameters, Parameters, Parameters]:
        self._refuse_unknown(options)
        parts = self.task.split("_")  # translation_XX_to_YY
        if len(parts) == 4 and src_lang is None and tgt_lang is None:
            src_lang, tgt_lang = parts[1], parts[3]
        if return_type is not None and return_tensors is None:
            return_tensors = return_type == 0
        if return_text is False and not return_tensors:
            raise ValueError("`return_text=False` leaves nothing to return: add `return_tensors=True`.")
        if stop_sequence is not None:
            (options["eos_token_id"], *rest) = self.tokenizer.encode(stop_sequence, add_special_tokens=False)
            if rest:
                raise ValueError(f"`stop_sequence` must be one token, and {stop_sequence!r} has {1 + len(rest)}.")
        before = {"src_lang": src_lang, "tgt_lang": tgt_lang, "truncation": truncation}
        after = {"return_text": return_text, "return_tensors": return_tensors}
        after["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        given = ({name: value for name, value in each.items() if value is not None} for each in (before, after))
        return next(given), options, next(given)

    def _refuse_unknown(self, options: Parameters) -> None:
        """Raise `TypeError` for options that neither this pipeline nor `generate` has."""
        known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        functions = [type(self)._sanitize_parameters, type(self.model).generate, self.model.forward]
        functions += [beam_search] if self.is_own else []
        for function in functions:
            kinds = inspect.signature(function).parameters.values()
            known |= {each.name for each in kinds if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        known = (known | {"batch_size", "num_workers"}) - {"self", "model", "inputs"}
        for name in options:
            if name not in known:
                raise TypeError(f"the pipeline has no option {name!r}; its options are {', '.join(sorted(known))}")

    @property
    def is_own(self) -> bool:
        """True for models of the paper's families, with the package and as remote code."""
        return self.model.config.model_type in OWN_TYPES

    def preprocess(  # type: ignore[override]
        self, text: str, src_lang: str | None = None, tgt_lang: str | None = None, truncation: Any = False
    ) -> Parameters:
        """Return the inputs of the model, (1, length) each, for a text."""
        if not isinstance(text, str):
            raise TypeError(f"expected texts, got {type(text).__name__}: {text!r:.60}")
        # A file's lines come with their ends, and half of a surrogate pair is no text.
        text = text.strip().encode("utf-8", "replace").decode()
        options: Parameters = {"truncation": truncation, "return_tensors": "pt"}
        longest = min(self.tokenizer.model_max_length, positions_of(self.model.config))
        if truncation and longest < 10**6:
            options["max_length"] = longest
        if hasattr(self.tokenizer, "_build_translation_inputs"):
            languages = {"src_lang": src_lang, "tgt_lang": tgt_lang}
            encoded = self.tokenizer._build_translation_inputs(text, **languages, **options)
        else:
            prefix = self.of_task["prefix"]
            if (src_lang or tgt_lang) and not prefix:
                logger.warning_once("The tokenizer knows no languages: `src_lang` and `tgt_lang` change nothing.")
            # What a user writes never frames a sequence, where the tokenizer is ours.
            encode = partial(encode_texts, self.tokenizer) if self.is_own else self.tokenizer
            encoded = encode(prefix + text, **options)
        names = ("input_ids", "attention_mask", "forced_bos_token_id")
        return {name: encoded[name] for name in names if name in encoded} | {"is_blank": not text}

    @property
    def name_of_output(self) -> str:
        """What the names of outputs begin with, as in transformers 4."""
        return "generated" if self.task == "text2text-generation" else "translation"

    @property
    def of_task(self) -> Parameters:
        """What the configuration of T5 and its kin has for this task: how a source begins, and options."""
        of_tasks = getattr(self.model.config, "task_specific_params", None) or {}
        return {"prefix": getattr(self.model.config, "prefix", None) or ""} | of_tasks.get(self.task, {})

    def _forward(self, inputs: Parameters, **options: Any) -> Parameters:  # type: ignore[override]
        """Return `output_ids` (batch, num_return_sequences, length)."""
        blank, first = inputs.pop("is_blank"), inputs.pop("forced_bos_token_id", None)
        if first is not None:  # of each text of a batch, alike
            options.setdefault("forced_bos_token_id", first[0] if isinstance(first, list) else first)
        options = {name: value for name, value in self.of_task.items() if name != "prefix"} | options
        options |= self.limit(inputs, options)
        search = partial(generate, model=self.model) if self.is_own else self.model.generate
        found = search(**inputs, **options)
        sequences = found if isinstance(found, Tensor) else found.sequences
        return {"output_ids": sequences.unflatten(0, (len(inputs["input_ids"]), -1)), "is_blank": blank}

    def limit(self, inputs: Parameters, options: Parameters) -> Parameters:
        """Return options that end each translation at 50 tokens more than its source, unless others say its length."""
        own, given = self.model.generation_config, options.get("generation_config")
        said = [options.get(name, getattr(given, name, None)) for name in LIMITS]
        said += [getattr(own, name) for name in LIMITS if name != "max_new_tokens" or not self.is_own]
        if any(value is not None for value in said):
            return {}
        ids = inputs["input_ids"]
        lengths = inputs.get("attention_mask", torch.ones_like(ids)).sum(1)
        positions = positions_of(self.model.config)
        new = (lengths + extra_tokens(self.model, self.tokenizer)).clamp(
            max=min(positions - 1, own.max_new_tokens or positions)
        )
        ends = [*(options.get("stopping_criteria") or []), EndsByRow(1 + new)]
        return {"max_new_tokens": int(new.max())} | ({"stopping_criteria": ends} if len(ids) > 1 else {})

    def postprocess(  # type: ignore[override]
        self,
        outputs: Parameters,
        return_text: bool | None = None,
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[Parameters]:
        """Return a dictionary for each translation of a text."""
        records = []
        for ids in outputs["output_ids"][0]:
            ids, record = (ids[:0] if outputs["is_blank"] else ids), dict[str, Any]()
            if return_tensors:
                record[f"{self.name_of_output}_token_ids"] = ids
            if return_text or not return_tensors:
                spaces = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
                (record[f"{self.name_of_output}_text"],) = decode_texts(self.tokenizer, [ids.tolist()], **spaces)
            records.append(record)
        return records
