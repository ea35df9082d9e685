"""The three tasks: each turns a corpus into batches of token ids, and a batch into a loss."""

import functools
import inspect
import itertools
import json
import logging
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BatchEncoding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.data import collators, corpora
from hf_vanilla.data.batching import TokenBatchSampler, TokenBatchStream
from hf_vanilla.data.rows import TokenRows
from hf_vanilla.data.splits import CleanCorpus, CleanStream
from hf_vanilla.data.tokenization import measure_tokenizer, train_tokenizer
from hf_vanilla.models.configuration_recurrent import RecurrentConfig
from hf_vanilla.models.configuration_vanilla import (
    VanillaBaseConfig,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaEncoderConfig,
)
from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.models.pretrained_vanilla import FamilyPreTrainedModel
from hf_vanilla.models.texts_vanilla import encode_texts, read_special_tokens
from hf_vanilla.models.tokenization_vanilla import PairTokenizer
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.translation.symbols import describe_symbols, unknown_symbols

logger = logging.getLogger(__name__)

Family = Literal["seq2seq", "encoder", "decoder"]
AutoModel = transformers.AutoModelForSeq2SeqLM | transformers.AutoModelForMaskedLM | transformers.AutoModelForCausalLM
BatchSource: TypeAlias = TokenBatchSampler | TokenBatchStream
Corpus: TypeAlias = CleanCorpus | CleanStream
Examples: TypeAlias = Dataset | IterableDataset
TokenIds = list[list[int]]

CONFIGURATION_CLASSES: dict[str, Callable[..., PreTrainedConfig]] = {
    each.__name__: each for each in (VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig, RecurrentConfig)
}

TOKENIZER_TEXTS = 2_000_000
"""The most rows that a vocabulary is learned from: more of them change it little."""
LOADER_WORKERS = 2
"""Where the model is on a GPU, so many processes prepare its batches, each 25,000 tokens in less than 10 ms."""
LONG_EPOCH = 200
"""Epochs of fewer batches are prepared by the training process itself: to start others takes as long."""
MEASURED_ROWS = 1000
"""The most rows that the summary of a run measures its tokenizer on."""
NAMED_ROWS = 10_000
"""The most rows of a held-out split in which symbols are looked for that the vocabulary lacks."""


class Task:
    """What the tasks have in common. If the model's configuration class refuses a field, it is a ValueError."""

    family: Family
    auto_class: type[AutoModel]
    columns: tuple[str, ...]  # of token ids, one for each side: an example is as long as its longer side
    text_columns: tuple[str, ...]
    special_tokens: tuple[str, ...] = ("pad_token", "bos_token", "eos_token")  # those that a tokenizer must have

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        try:
            self.model_config(vocab_size=config.vocab_size)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error).strip().splitlines()[-1].strip()) from None
        self.dropped: Counter[str] = Counter()
        self.workers = config.preprocessing_workers if config.preprocessing_workers > 1 else None
        self.reading: dict[str, Any] = {"streaming": config.streaming, "num_proc": self.workers}
        self.reading["configuration"] = config.corpus_configuration

    def load_corpus(self) -> Corpus:
        """Return the corpus, in splits; see `hf_vanilla.data.corpora`."""
        raise NotImplementedError

    def load_tokenizer(self, corpus: Corpus) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the configuration names, or one trained on the training split.

        If it is a slow one, or lacks a special token that the task needs, it is a ValueError.
        """
        if given := self.config.initial_model or self.config.tokenizer:
            try:
                tokenizer = read_special_tokens(transformers.AutoTokenizer.from_pretrained(given))
            except OSError as error:
                if Path(given).is_dir():
                    raise
                field = "initial_model" if self.config.initial_model else "tokenizer"
                reason = str(error).splitlines()[0]
                raise FileNotFoundError(f"{field} is {given}, which is no folder here; of the Hub: {reason}") from None
            if not tokenizer.is_fast:
                raise ValueError(f"the tokenizer of {given} is a slow one; expected one of the `tokenizers` library")
            for name in self.special_tokens:
                if getattr(tokenizer, name) is None:
                    raise ValueError(f"the tokenizer of {given} has no {name}; {self.config.task} needs one")
            if self.family == "seq2seq":
                tokenizer.padding_side = "right"
                if self.config.is_language:
                    tokenizer.init_kwargs.pop("split_sentences", None)
                if tokenizer("a")["input_ids"][-1:] != [tokenizer.eos_token_id]:
                    raise ValueError(f"the tokenizer of {given} does not end a sentence with {tokenizer.eos_token}")
            return tokenizer
        config, columns = self.config, list(self.text_columns)
        kind: dict[str, Any] = {"tokenizer_type": config.tokenizer_type, "min_frequency": config.min_frequency}
        if config.target_tokenizer_type:
            kind["target_texts"] = self.sample_texts(corpus, TOKENIZER_TEXTS, (columns.pop(),))
            kind["target_tokenizer_type"] = config.target_tokenizer_type
        texts = self.sample_texts(corpus, TOKENIZER_TEXTS, columns)
        tokenizer = train_tokenizer(texts, config.vocab_size, self.family, language_tags=config.language_tags, **kind)
        if not config.is_language:
            tokenizer.init_kwargs |= {"split_sentences": False, "model_max_length": config.max_length}
            tokenizer.model_max_length = config.max_length
        if len(tokenizer) < config.vocab_size and config.tokenizer_type == "bpe":
            logger.info("vocab_size is %d: the corpus is too small for %d", len(tokenizer), config.vocab_size)
        return tokenizer

    def sample_texts(self, corpus: Corpus, most: int, columns: Sequence[str] | None = None) -> Iterator[str]:
        """Yield the texts of at most so many rows of the training split: the first of a stream, else evenly."""
        columns = self.text_columns if columns is None else columns
        rows = corpus["train"]
        if self.config.streaming:
            rows = itertools.islice(rows, most)
        else:
            rows = rows.select(range(0, len(rows), math.ceil(len(rows) / most)))
        return (row[column] for row in rows for column in columns)

    def measure_tokenizer(self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return how the tokenizer cuts a sample of the training split; see `hf_vanilla.data.tokenization`.

        Where the target has a vocabulary of its own, what is found of its texts is `target`.
        """
        if not isinstance(tokenizer, PairTokenizer):
            return measure_tokenizer(tokenizer, self.sample_texts(corpus, MEASURED_ROWS))
        sides = (self.sample_texts(corpus, MEASURED_ROWS, (column,)) for column in self.text_columns)
        source, target = (measure_tokenizer(tokenizer, texts, number == 1) for number, texts in enumerate(sides))
        return source | {"target": target}

    def build_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return a model with random weights, or `initial_model`. If that has fewer tokens, it is a ValueError."""
        if self.config.initial_model is None:
            return self.new_model(tokenizer)
        model = self.auto_class.from_pretrained(self.config.initial_model)
        if model.config.vocab_size < len(tokenizer):
            raise ValueError(
                f"the model in {self.config.initial_model} has a vocabulary of {model.config.vocab_size}, its "
                f"tokenizer one of {len(tokenizer)}; expected a model that was trained with this tokenizer"
            )
        return model

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return a model with random weights, and with the vocabulary and special tokens of `tokenizer`."""
        tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        model = self.auto_class.from_config(self.model_config(vocab_size=len(tokenizer), **tokens))
        if self.family == "seq2seq":  # the beam search of section 6.1
            limit = max(256, self.config.max_length) if self.config.is_language else self.config.max_length
            model.generation_config.update(num_beams=4, length_penalty=0.6, max_new_tokens=limit)
        return model

    def model_config(self, **tokens: int) -> PreTrainedConfig:
        """Return the model's configuration, with `vocab_size` and the ids of special tokens as given."""
        fields = self.config.model_settings()
        if self.family == "seq2seq":
            fields["decoder_start_token_id"] = tokens.get("bos_token_id", 1)
        config = CONFIGURATION_CLASSES[self.config.configuration_class](**fields, **tokens)
        if hasattr(config, "max_position_embeddings"):
            config.max_position_embeddings = max(self.config.max_length, config.max_position_embeddings)
        return config

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenIds]:
        """Return the columns of token ids that the collator expects, for a batch of rows of text."""
        raise NotImplementedError

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> collators.Collator:
        """Return the function that makes a batch of tensors from a list of examples."""
        raise NotImplementedError

    def length_multiple(self) -> int:
        """Return what lengths are padded to multiples of: of 8 for a compiled model on a GPU, whose kernels like such
        shapes, and which then sees fewer."""
        return 8 if self.config.compile and PartialState().device.type == "cuda" else 1

    def loss(self, model: nn.Module, batch: BatchEncoding, num_items: int) -> Tensor:
        """Return the label-smoothed cross-entropy, summed over the batch and divided by `num_items`: (), float32."""
        smoothing = self.config.label_smoothing or 0.0
        # Models of the package compute it without holding all logits at once; those of others get it from logits.
        batch.pop("counts", None)
        if isinstance(extract_model_from_parallel(model), FamilyPreTrainedModel):
            options = {"num_items_in_batch": num_items, "label_smoothing": smoothing, "output_logits": False}
            return model(**batch, **options).loss
        return cross_entropy(*self.logits_and_labels(model, batch), num_items, smoothing)

    def logits_and_labels(self, model: nn.Module, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        """Return logits (batch, length, vocabulary) and the labels for them (batch, length), -100 for none."""
        labels = batch.pop("labels")
        for name in ("counts", "loss_places", "row_lengths"):
            batch.pop(name, None)
        options = {} if self.family == "encoder" else {"use_cache": False}
        return model(**batch, **options).logits, labels

    def examples(self, corpus: Corpus, split: str, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Return a split as token ids, without examples that are too long: from a cache, or on the fly if streaming.

        If nothing is left, it is a ValueError.
        """
        rows = corpus[split]
        options: dict[str, Any] = {}
        if not self.config.streaming:
            # What the result depends on. A tokenizer also keeps how it padded and truncated last: that does not count.
            rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
            rules |= {"target": tokenizer.init_kwargs.get("target_rules")}
            content = [rules, tokenizer.special_tokens_map, inspect.getsource(type(self)), self.config.max_length]
            fingerprint = Hasher.hash([rows._fingerprint, self.config.whole_word_masking, *content])
            description = f"tokenising the {split} split"
            options = {"num_proc": self.workers, "new_fingerprint": fingerprint, "desc": description}
        tokenise = functools.partial(self._with_lengths, tokenizer=tokenizer)
        columns = rows.column_names or list(self.text_columns)
        encoded = self.assemble(rows.map(tokenise, batched=True, remove_columns=columns, **options), tokenizer)
        if self.config.streaming:
            return encoded.filter(self._is_wanted)
        wanted = self._select(lengths_of(encoded, self.columns), split)
        return encoded if wanted.all() else encoded.select(np.flatnonzero(wanted))

    def assemble(self, encoded: Examples, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Make examples of tokenised rows. By default, each row is one."""
        return encoded

    def _with_lengths(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list]:
        encoded = self.tokenise(rows, tokenizer)
        return {**encoded, **{f"{column}_length": list(map(len, encoded[column])) for column in self.columns}}

    def _select(self, lengths: np.ndarray, split: str) -> np.ndarray:
        """Return which examples to keep (examples), bool, by their lengths (sides, examples).

        It counts in `dropped` how many it leaves out and why. For a split that is not streamed, it logs that too, and
        raises a ValueError if nothing is left.
        """
        longest = lengths.max(axis=0, initial=0)
        reasons = {f"longer than {self.config.max_length} tokens": longest > self.config.max_length}
        if ratio := self.config.max_length_ratio:
            reasons[f"one side more than {ratio:g} times as long as the other"] = longest > ratio * lengths.min(axis=0)
        wanted = np.ones(lengths.shape[1], dtype=bool)
        for reason, unwanted in reasons.items():
            self.dropped[f"{split}: {reason}"] += int((wanted & unwanted).sum())
            wanted &= ~unwanted
        counts = {reason: self.dropped[f"{split}: {reason}"] for reason in reasons}
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none"
        if not wanted.any() and not self.config.streaming:
            raise ValueError(f"no example of the {split} split is left: dropped {dropped}; expected other limits")
        if not wanted.all() and not self.config.streaming:
            logger.info("%s: dropped %s; %s examples are left", split, dropped, f"{wanted.sum():,}")
        return wanted

    def _is_wanted(self, example: dict[str, int]) -> bool:
        return bool(self._select(np.array([[example[f"{column}_length"]] for column in self.columns]), "stream")[0])

    def batches(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, model: nn.Module, training: bool = True
    ) -> "Batches":
        """Return this process's share of batches of about equally many tokens.

        What an update learns from does not depend on the number of processes. If a batch cannot hold the longest
        examples, or there are too few examples, it is a ValueError.
        """
        parts, process = self.config.accumulation_steps, PartialState()
        share = {"num_processes": process.num_processes, "process_index": process.process_index}
        share |= {"batch_tokens": self.config.batch_tokens, "accumulation_steps": parts, "seed": self.config.seed}
        if not training:
            share |= {"batch_tokens": self.config.batch_tokens // parts, "accumulation_steps": 1}
        if self.config.streaming:
            source: BatchSource = TokenBatchStream(examples, self.columns, **share)
        else:
            try:
                source = TokenBatchSampler(lengths_of(examples, self.columns), **share)
            except ValueError as error:
                raise ValueError(f"the {'training' if training else 'validation'} split: {error}") from None
            columns = [name for name in examples.column_names if not name.endswith("_length")]
            examples = TokenRows(examples, columns)
        workers, on_gpu = self.config.loader_workers, process.device.type == "cuda"
        known = {"next_tokens": self.family == "decoder"}
        # A model that is compiled would be compiled anew for other lengths.
        known["row_lengths"] = on_gpu and isinstance(model.config, VanillaBaseConfig) and not self.config.compile
        counted = collators.Counted(self.collator(tokenizer, model), **known)
        if workers is None:  # which are started anew in each epoch
            is_long = isinstance(source, TokenBatchSampler) and len(source) >= LONG_EPOCH
            workers = LOADER_WORKERS if on_gpu and is_long else 0
        return Batches(source, examples, counted, workers, pin_memory=on_gpu)


class Batches:
    """Batches epoch by epoch, in the order of `source`. Making them does not touch torch's random state."""

    def __init__(
        self,
        source: BatchSource,
        examples: Examples | TokenRows,
        collator: collators.Counted,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self.source, self.collator = source, collator
        self.checksum = 0  # by it, a run that is resumed sees that the corpus has changed, unless it is a stream
        options: dict[str, Any] = {"collate_fn": collator, "num_workers": workers, "generator": torch.Generator()}
        options["pin_memory"] = pin_memory
        if isinstance(source, TokenBatchSampler):
            self.checksum = zlib.crc32(source.lengths.tobytes())
            self.loader = DataLoader(examples, batch_sampler=source, **options)
        else:
            self.loader = DataLoader(source, batch_size=None, **options)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BatchEncoding]:
        """Return the micro-batches of one epoch, from its update number `start` on."""
        self.source.set_epoch(epoch, start)
        if isinstance(self.collator.collator, collators.MaskedLanguageModelCollator):
            self.collator.collator.epoch = epoch
        return iter(self.loader)

    def updates(self, first_epoch: int, start: int) -> Iterator[tuple[int, int, list[BatchEncoding]]]:
        """Yield epoch, number of the update within it, and this process's micro-batches of the update, without end."""
        for epoch in itertools.count(first_epoch):
            micro_batches = self.epoch(epoch, start)
            for number in itertools.count(start):
                if not (update := list(itertools.islice(micro_batches, self.source.accumulation_steps))):
                    break
                yield epoch, number, update
            if number == 0:
                raise ValueError("the corpus is empty; expected at least one batch")
            start = 0


class Translation(Task):
    """The paper's task: predict each token of the target from the source and the tokens before it."""

    family: Family = "seq2seq"
    auto_class = transformers.AutoModelForSeq2SeqLM
    columns = ("input_ids", "labels")
    text_columns = ("source", "target")

    def load_corpus(self) -> Corpus:
        config = self.config
        columns: dict[str, Any] = {"source_column": config.source_column, "target_column": config.target_column}
        columns["columns"] = config.columns
        columns["sequences"] = not config.is_language
        return corpora.load_corpus(config.corpus, config.target_path, **columns, **self.reading)

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenIds]:
        # Without transformers' warning of long texts, which `examples` leaves out and counts.
        options: dict[str, Any] = {"text_target": rows["target"], "return_attention_mask": False, "verbose": False}
        encoded = encode_texts(tokenizer, rows["source"], **options)
        return {"input_ids": encoded["input_ids"], "labels": encoded["labels"]}

    def load_tokenizer(self, corpus: Corpus) -> PreTrainedTokenizerBase:
        """As for any task. If a side is cut at blanks, and has none, it is a ValueError that names the field."""
        kinds = {"source": self.config.tokenizer_type, "target": self.config.target_tokenizer_type}
        for column, field in (("source", "tokenizer_type"), ("target", "target_tokenizer_type")):
            if (kinds[column] or kinds["source"]) != "words":
                continue
            texts = list(itertools.islice(self.sample_texts(corpus, MEASURED_ROWS, (column,)), MEASURED_ROWS))
            different = dict.fromkeys(texts)
            if len(different) > max(1, len(texts) // 2) and not any(text.split(maxsplit=1)[1:] for text in different):
                name = field if kinds[column] else "tokenizer_type"
                said = (
                    f"{name} is words, what stands between blanks, and no {column} has a blank, such as {texts[0]!r}"
                )
                raise ValueError(f"{said}; expected blanks between its symbols, or characters")
        return super().load_tokenizer(corpus)

    def examples(self, corpus: Corpus, split: str, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """As for any task; the log says which symbols of held-out rows the vocabulary lacks."""
        if split != "train" and not self.config.streaming:
            for column in self.text_columns:
                texts = corpus[split][:NAMED_ROWS][column]
                if unknown := unknown_symbols(tokenizer, texts, column == "target"):
                    logger.warning("%s, %s: %s", split, column, describe_symbols(unknown))
        return super().examples(corpus, split, tokenizer)

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> collators.Collator:
        return collators.TranslationCollator(tokenizer, model, self.length_multiple())


class MaskedLanguageModel(Task):
    """BERT's task: predict masked tokens from those around them."""

    family: Family = "encoder"
    auto_class: type[AutoModel] = transformers.AutoModelForMaskedLM
    columns = ("input_ids",)
    text_columns = ("text",)
    special_tokens: tuple[str, ...] = ("pad_token", "mask_token")

    def load_corpus(self) -> Corpus:
        return corpora.load_texts(
            self.config.corpus, text_column=self.config.text_column, columns=self.config.columns, **self.reading
        )

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenIds]:
        """Return `input_ids`, a row for each piece of `max_length` tokens, and `word_ids` for masking whole words."""
        pieces: dict[str, Any] = {"truncation": True, "return_overflowing_tokens": True}
        pieces |= {"max_length": self.config.max_length, "return_attention_mask": False}
        encoded = encode_texts(tokenizer, rows["text"], **pieces)
        columns = {"input_ids": encoded["input_ids"]}
        if self.config.whole_word_masking:
            words = map(encoded.word_ids, range(len(encoded["input_ids"])))
            columns["word_ids"] = [[-1 if word is None else word for word in piece] for piece in words]
        return columns

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> collators.Collator:
        how = (self.config.seed, self.config.whole_word_masking, self.length_multiple())
        return collators.MaskedLanguageModelCollator(tokenizer, *how)


class CausalLanguageModel(MaskedLanguageModel):
    """GPT's task: predict each token from those before it, in documents that are packed into full blocks."""

    family: Family = "decoder"
    auto_class = transformers.AutoModelForCausalLM
    special_tokens = ("pad_token", "bos_token", "eos_token")

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenIds]:
        """Return `input_ids` of documents, each of which begins with `<s>` and ends with `</s>`."""
        begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        encoded = encode_texts(tokenizer, rows["text"], add_special_tokens=False, return_attention_mask=False)
        return {"input_ids": [begin + ids + end for ids in encoded["input_ids"]]}

    def assemble(self, encoded: Examples, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Join 10,000 documents at a time, and cut them into blocks of `max_length` tokens."""
        length, pad = self.config.max_length, tokenizer.pad_token_id

        def pack(rows: dict[str, TokenIds]) -> dict[str, list[Any]]:
            packed = collators.pack_documents(rows["input_ids"], length, pad)
            return packed | {"input_ids_length": [length] * len(packed["input_ids"])}

        options = {} if self.config.streaming else {"desc": "packing documents"}
        columns = ["input_ids", "input_ids_length"]
        return encoded.map(pack, batched=True, batch_size=10_000, remove_columns=columns, **options)

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> collators.Collator:
        return collators.causal_language_model_collator

    def logits_and_labels(self, model: nn.Module, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        logits, labels = super().logits_and_labels(model, batch)
        return logits[:, :-1], labels[:, 1:]  # those of the next position


TASKS: dict[str, type[Task]] = {
    "translation": Translation,
    "masked_lm": MaskedLanguageModel,
    "causal_lm": CausalLanguageModel,
}


def lengths_of(examples: Dataset, columns: tuple[str, ...]) -> np.ndarray:
    """Return the lengths of tokenised examples: (sides, examples), int64."""
    table = examples.with_format("numpy")
    return np.stack([np.asarray(table[f"{column}_length"][:], dtype=np.int64) for column in columns])
