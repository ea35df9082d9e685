"""The three tasks: from a corpus to batches of token ids, and from a batch to the logits and labels to compare."""

import functools
import inspect
import itertools
import json
import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from datasets.fingerprint import Hasher
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BatchEncoding,
    DataCollatorForSeq2Seq,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_vanilla.data.batching import TokenBatchSampler, TokenBatchStream
from hf_vanilla.data.collators import (
    Collator,
    MaskedLanguageModelCollator,
    causal_language_model_collator,
    pack_documents,
)
from hf_vanilla.data.corpora import load_corpus, load_texts
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.models.configuration_recurrent import RecurrentConfig
from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig
from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.models.modeling_vanilla import VanillaBasePreTrainedModel
from hf_vanilla.training.config import RECURRENT, TrainingConfig

logger = logging.getLogger(__name__)

Family = Literal["seq2seq", "encoder", "decoder"]

TOKENIZER_TEXTS = 2_000_000
"""A vocabulary is learned from so many rows at most: more change it little."""


class Task:
    """What the tasks have in common."""

    family: Family
    auto_class: Any
    columns: tuple[str, ...]
    """Those whose lengths count for the size of a batch; the first is read by the model."""
    text_columns: tuple[str, ...]
    special_tokens: tuple[str, ...] = ("pad_token", "bos_token", "eos_token")

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        try:
            self.model_config(vocab_size=config.vocab_size)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error).strip().splitlines()[-1].strip()) from None
        self.dropped: Counter[str] = Counter()
        self.workers = config.preprocessing_workers if config.preprocessing_workers > 1 else None

    def load_corpus(self) -> Any:
        """The corpus, in splits."""
        raise NotImplementedError

    def load_tokenizer(self, corpus: Any) -> PreTrainedTokenizerBase:
        """The tokenizer that the configuration names, or one that learns its vocabulary from the training split."""
        if given := self.config.initial_model or self.config.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(given)
            if not tokenizer.is_fast:
                raise ValueError(f"the tokenizer of {given} is a slow one; expected one of the `tokenizers` library")
            for name in self.special_tokens:
                if getattr(tokenizer, name) is None:
                    raise ValueError(f"the tokenizer of {given} has no {name}; {self.config.task} needs one")
            if self.family == "seq2seq":
                tokenizer.padding_side = "right"
                if tokenizer("a")["input_ids"][-1:] != [tokenizer.eos_token_id]:
                    raise ValueError(f"the tokenizer of {given} does not end a sentence with {tokenizer.eos_token}")
            return tokenizer
        rows = corpus["train"]
        if self.config.streaming:
            rows = itertools.islice(rows, TOKENIZER_TEXTS)
        else:  # from all parts of the corpus
            rows = rows.select(range(0, len(rows), math.ceil(len(rows) / TOKENIZER_TEXTS)))
        texts = (row[column] for row in rows for column in self.text_columns)
        tokenizer = train_tokenizer(texts, self.config.vocab_size, self.family)
        if len(tokenizer) < self.config.vocab_size:
            logger.info("vocab_size is %d: the corpus is too small for %d", len(tokenizer), self.config.vocab_size)
        return tokenizer

    def build_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """A model with new weights, or `initial_model`.

        Raises:
            ValueError: the tokenizer has more tokens than `initial_model`.
        """
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
        """A model of this configuration, its vocabulary and special tokens those of `tokenizer`."""
        tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        return self.auto_class.from_config(self.model_config(vocab_size=len(tokenizer), **tokens))

    def model_config(self, **fields: Any) -> PreTrainedConfig:
        """The model's configuration.

        Raises:
            StrictDataclassError: a field is out of range.
        """
        raise NotImplementedError

    def shape(self) -> dict[str, Any]:
        """The fields of a model's configuration that all families have."""
        return {
            "hidden_size": self.config.hidden_size,
            "intermediate_size": self.config.intermediate_size,
            "num_attention_heads": self.config.num_attention_heads,
            "qk_head_dim": self.config.qk_head_dim,
            "max_position_embeddings": max(512, self.config.max_length),
            "activation_function": self.config.activation_function,
            "dropout": self.config.dropout,
            "norm_position": self.config.norm_position,
            "position_embedding_type": self.config.position_embedding_type,
            "scale_embedding": self.config.scale_embedding,
            "embedding_norm": self.config.embedding_norm,
        }

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """Token ids of a batch of rows, as the collator wants them."""
        raise NotImplementedError

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Collator:
        """What makes a batch of tensors of examples."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: BatchEncoding, num_items: int) -> Tensor:
        """Label-smoothed cross-entropy, summed over the batch and divided by `num_items`, float32."""
        smoothing = self.config.label_smoothing or 0.0
        if isinstance(extract_model_from_parallel(model), VanillaBasePreTrainedModel):  # it needs no logits
            return model(**batch, num_items_in_batch=num_items, label_smoothing=smoothing).loss
        return cross_entropy(*self.logits_and_labels(model, batch), num_items, smoothing)

    def logits_and_labels(self, model: nn.Module, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        """Logits (batch, length, vocabulary), and the labels (batch, length), -100 for none, that they predict."""
        labels = batch.pop("labels")
        return model(**batch).logits, labels

    def examples(self, corpus: Any, split: str, tokenizer: PreTrainedTokenizerBase) -> Any:
        """A split as token ids, without what is too long; computed once and cached, or on the fly if streaming.

        Raises:
            ValueError: nothing is left.
        """
        rows = corpus[split]
        tokenise = functools.partial(self._with_lengths, tokenizer=tokenizer)
        columns = rows.column_names or list(self.text_columns)
        if self.config.streaming:
            return self.assemble(rows.map(tokenise, batched=True, remove_columns=columns), tokenizer).filter(
                self._is_wanted
            )
        # What decides the result: not the padding and truncation that a tokenizer did last, which it keeps as well.
        rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
        content = [rules, inspect.getsource(type(self)), self.config.max_length]
        encoded = rows.map(
            tokenise,
            batched=True,
            remove_columns=columns,
            num_proc=self.workers,
            new_fingerprint=Hasher.hash([rows._fingerprint, self.config.whole_word_masking, *content]),
            desc=f"tokenising the {split} split",
        )
        encoded = self.assemble(encoded, tokenizer)
        wanted = self._select(lengths_of(encoded, self.columns), split)
        return encoded if wanted.all() else encoded.select(np.flatnonzero(wanted))

    def assemble(self, encoded: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Examples of tokenised rows: these themselves, unless the task joins some."""
        return encoded

    def _with_lengths(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        encoded = self.tokenise(rows, tokenizer)
        return encoded | {f"{column}_length": [len(ids) for ids in encoded[column]] for column in self.columns}

    def _select(self, lengths: np.ndarray, split: str) -> np.ndarray:
        """Which examples to keep, of their lengths (sides, examples); says how many it drops, and why."""
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

    def _is_wanted(self, example: dict[str, Any]) -> bool:
        return bool(self._select(np.array([[example[f"{column}_length"]] for column in self.columns]), "stream")[0])

    def batches(
        self,
        examples: Any,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        accelerator: Accelerator,
        training: bool = True,
    ) -> "Batches":
        """This process's share of `examples`, by tokens; the same global batches whatever the number of processes."""
        steps = self.config.accumulation_steps
        share: dict[str, Any] = {
            "batch_tokens": self.config.batch_tokens if training else self.config.batch_tokens // steps,
            "num_processes": accelerator.num_processes,
            "process_index": accelerator.process_index,
            "accumulation_steps": steps if training else 1,
            "seed": self.config.seed,
        }
        if self.config.streaming:
            source: Any = TokenBatchStream(examples, self.columns, **share)
        else:
            try:
                source = TokenBatchSampler(lengths_of(examples, self.columns), **share)
            except ValueError as error:
                raise ValueError(f"the {'training' if training else 'validation'} split: {error}") from None
            examples = examples.remove_columns([f"{column}_length" for column in self.columns])
        return Batches(source, examples, self.collator(tokenizer, model), self.config.loader_workers)


class Batches:
    """Batches epoch by epoch: the order is the source's, and making them leaves torch's random state alone."""

    def __init__(self, source: Any, examples: Any, collator: Collator, workers: int) -> None:
        self.source = source
        self.collator = collator
        self.checksum = zlib.crc32(source.lengths.tobytes()) if isinstance(source, TokenBatchSampler) else 0
        options: dict[str, Any] = {"num_workers": workers, "generator": torch.Generator()}
        if isinstance(source, TokenBatchSampler):
            self.loader = DataLoader(examples, batch_sampler=source, collate_fn=collator, **options)
        else:
            self.loader = DataLoader(source, batch_size=None, collate_fn=collator, **options)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BatchEncoding]:
        """The micro-batches of one epoch, from update `start` of it on."""
        self.source.set_epoch(epoch, start)
        if isinstance(self.collator, MaskedLanguageModelCollator):
            self.collator.epoch = epoch
        return iter(self.loader)

    def updates(self, first_epoch: int, start: int) -> Iterator[tuple[int, int, list[BatchEncoding]]]:
        """Without end: epoch, number of the update within it, and the micro-batches that this process adds to it."""
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
    """The paper's task: the target's tokens from the source and the target's tokens before them."""

    family: Family = "seq2seq"
    auto_class = AutoModelForSeq2SeqLM
    columns = ("input_ids", "labels")
    text_columns = ("source", "target")

    def load_corpus(self) -> Any:
        """Pairs of sentences; see `hf_vanilla.data.corpora.load_corpus`."""
        return load_corpus(
            self.config.corpus,
            self.config.target_path,
            source_column=self.config.source_column,
            target_column=self.config.target_column,
            configuration=self.config.corpus_configuration,
            streaming=self.config.streaming,
            num_proc=self.workers,
        )

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """An encoder-decoder that translates by beam search as in section 6.1."""
        model = super().new_model(tokenizer)
        limit = max(256, self.config.max_length)
        model.generation_config.update(num_beams=4, length_penalty=0.6, max_new_tokens=limit)
        return model

    def model_config(self, **fields: Any) -> PreTrainedConfig:
        """An encoder-decoder's, the paper's or a recurrent one's."""
        fields |= {"encoder_layers": self.config.encoder_layers, "decoder_layers": self.config.decoder_layers}
        fields |= {"decoder_start_token_id": fields.get("bos_token_id", 1)}
        if self.config.architecture == "recurrent":
            own = ("hidden_size", "dropout", *RECURRENT)
            return RecurrentConfig(**{name: getattr(self.config, name) for name in own}, **fields)
        return VanillaConfig(**self.shape(), **fields)

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """`input_ids` of the source, `labels` of the target."""
        encoded = tokenizer(rows["source"], text_target=rows["target"], return_attention_mask=False)
        return {"input_ids": encoded["input_ids"], "labels": encoded["labels"]}

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Collator:
        """Pads both sides, and shifts the labels to the right for the decoder."""
        return DataCollatorForSeq2Seq(tokenizer, model)

    def logits_and_labels(self, model: nn.Module, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        """The decoder's logits."""
        labels = batch.pop("labels")
        return model(**batch, use_cache=False).logits, labels


class MaskedLanguageModel(Task):
    """BERT's task: masked tokens from those around them."""

    family: Family = "encoder"
    auto_class: Any = AutoModelForMaskedLM
    columns = ("input_ids",)
    text_columns = ("text",)
    special_tokens: tuple[str, ...] = ("pad_token", "mask_token")

    def load_corpus(self) -> Any:
        """Documents; see `hf_vanilla.data.corpora.load_texts`."""
        return load_texts(
            self.config.corpus,
            text_column=self.config.text_column,
            configuration=self.config.corpus_configuration,
            streaming=self.config.streaming,
            num_proc=self.workers,
        )

    def model_config(self, **fields: Any) -> PreTrainedConfig:
        """An encoder's."""
        return VanillaEncoderConfig(**self.shape(), num_hidden_layers=self.config.encoder_layers, **fields)

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """`input_ids`, a row for each piece of `max_length` tokens; and `word_ids` for masking whole words."""
        encoded = tokenizer(
            rows["text"],
            truncation=True,
            max_length=self.config.max_length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        columns = {"input_ids": encoded["input_ids"]}
        if self.config.whole_word_masking:
            pieces = range(len(encoded["input_ids"]))
            columns["word_ids"] = [[-1 if w is None else w for w in encoded.word_ids(piece)] for piece in pieces]
        return columns

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Collator:
        """Pads and masks."""
        return MaskedLanguageModelCollator(tokenizer, self.config.seed, self.config.whole_word_masking)


class CausalLanguageModel(MaskedLanguageModel):
    """GPT's task: each token from those before it, documents packed into full blocks."""

    family: Family = "decoder"
    auto_class: Any = AutoModelForCausalLM
    special_tokens = ("pad_token", "bos_token", "eos_token")

    def model_config(self, **fields: Any) -> PreTrainedConfig:
        """A decoder's."""
        return VanillaDecoderConfig(**self.shape(), num_hidden_layers=self.config.decoder_layers, **fields)

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """Documents, each of which begins with `<s>` and ends with `</s>`."""
        begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        encoded = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [begin + ids + end for ids in encoded]}

    def assemble(self, encoded: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Blocks of `max_length` tokens, of 10,000 documents at a time."""
        length, pad = self.config.max_length, tokenizer.pad_token_id

        def pack(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            packed = pack_documents(rows["input_ids"], length, pad)
            return packed | {"input_ids_length": [length] * len(packed["input_ids"])}

        options = {} if self.config.streaming else {"desc": "packing documents"}
        columns = ["input_ids", "input_ids_length"]
        return encoded.map(pack, batched=True, batch_size=10_000, remove_columns=columns, **options)

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Collator:
        """Stacks blocks."""
        return causal_language_model_collator

    def logits_and_labels(self, model: nn.Module, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        """Logits at t and labels at t + 1."""
        labels = batch.pop("labels")
        return model(**batch, use_cache=False).logits[:, :-1], labels[:, 1:]


TASKS: dict[str, type[Task]] = {
    "translation": Translation,
    "masked_lm": MaskedLanguageModel,
    "causal_lm": CausalLanguageModel,
}


def lengths_of(examples: Dataset, columns: tuple[str, ...]) -> np.ndarray:
    """(sides, examples), int64, from the columns that tokenising adds."""
    table = examples.with_format("numpy")
    return np.stack([np.asarray(table[f"{column}_length"][:], dtype=np.int64) for column in columns])
