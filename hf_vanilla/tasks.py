"""The three tasks: from a corpus to batches of token ids, and from a batch to the logits and labels to compare."""

import functools
import inspect
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BatchEncoding,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_vanilla.batching import (
    Collator,
    MaskedLanguageModelCollator,
    TokenBatchSampler,
    TokenBatchStream,
    causal_language_model_collator,
    pack_documents,
)
from hf_vanilla.corpora import load_corpus, load_texts
from hf_vanilla.tokenization import train_tokenizer
from hf_vanilla.training_config import TrainingConfig
from hf_vanilla.transformer.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig
from hf_vanilla.transformer.modeling_vanilla import VanillaForConditionalGeneration
from hf_vanilla.transformer.modeling_vanilla_decoder import VanillaDecoderForCausalLM
from hf_vanilla.transformer.modeling_vanilla_encoder import VanillaEncoderForMaskedLM

logger = logging.getLogger(__name__)

Family = Literal["seq2seq", "encoder", "decoder"]

TOKENIZER_SENTENCES = 2_000_000
"""A vocabulary is learned from so many texts at most: more change it little, and must be held in memory."""


class Task:
    """What the tasks have in common."""

    family: Family
    auto_class: Any
    columns: tuple[str, ...]
    """Those whose lengths count for the size of a batch; the first is read by the model."""
    text_columns: tuple[str, ...]
    rows_together = 1000

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.dropped: Counter[str] = Counter()
        self.workers = config.preprocessing_workers if config.preprocessing_workers > 1 else None

    def load_corpus(self) -> Any:
        """The corpus, in splits."""
        raise NotImplementedError

    def load_tokenizer(self, corpus: Any) -> PreTrainedTokenizerBase:
        """The tokenizer that the configuration names, or one that learns its vocabulary from the training split."""
        if given := self.config.initial_model or self.config.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(given)
            for name in ("pad_token", "bos_token", "eos_token"):
                if getattr(tokenizer, name) is None:
                    raise ValueError(f"the tokenizer of {given} has no {name}; expected one")
            return tokenizer
        rows = itertools.islice(corpus["train"], TOKENIZER_SENTENCES)
        texts = (row[column] for row in rows for column in self.text_columns)
        return train_tokenizer(texts, self.config.vocab_size, self.family)

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
        raise NotImplementedError

    def shape(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The fields of a model's configuration that all families have."""
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": self.config.hidden_size,
            "intermediate_size": self.config.intermediate_size,
            "num_attention_heads": self.config.num_attention_heads,
            "max_position_embeddings": max(512, self.config.max_length),
            "activation_function": self.config.activation_function,
            "dropout": self.config.dropout,
            "norm_position": self.config.norm_position,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """Token ids of a batch of rows, as the collator wants them."""
        raise NotImplementedError

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Collator:
        """What makes a batch of tensors of examples."""
        raise NotImplementedError

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
            return rows.map(tokenise, batched=True, remove_columns=columns).filter(self._is_wanted)
        # What decides the result: not the padding and truncation that a tokenizer did last, which it keeps as well.
        rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
        content = [rules, inspect.getsource(type(self)), self.config.max_length]
        encoded = rows.map(
            tokenise,
            batched=True,
            batch_size=self.rows_together,
            remove_columns=columns,
            num_proc=self.workers,
            new_fingerprint=Hasher.hash([rows._fingerprint, self.config.whole_word_masking, *content]),
            desc=f"tokenising the {split} split",
        )
        wanted = self._select(lengths_of(encoded, self.columns), split)
        return encoded if wanted.all() else encoded.select(np.flatnonzero(wanted))

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
        dropped = [
            f"{count:,} {reason}" for reason, count in self.dropped.items() if reason.startswith(split) and count
        ]
        if dropped and not self.config.streaming:
            logger.info(
                "%s; %s examples are left", "; ".join(f"dropped {part}" for part in dropped), f"{wanted.sum():,}"
            )
        if not wanted.any() and not self.config.streaming:
            raise ValueError(f"max_length is {self.config.max_length}; expected more: no example is as short")
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
            source = TokenBatchSampler(lengths_of(examples, self.columns), **share)
            examples = examples.remove_columns([f"{column}_length" for column in self.columns])
        return Batches(source, examples, self.collator(tokenizer, model), self.config.loader_workers)


class Batches:
    """Batches epoch by epoch: the order is the source's, and making them leaves torch's random state alone."""

    def __init__(self, source: Any, examples: Any, collator: Collator, workers: int) -> None:
        self.source = source
        self.collator = collator
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
        """Pairs of sentences; see `hf_vanilla.corpora.load_corpus`."""
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
        """An encoder-decoder that translates by beam search."""
        model = VanillaForConditionalGeneration(
            VanillaConfig(
                **self.shape(tokenizer),
                encoder_layers=self.config.encoder_layers,
                decoder_layers=self.config.decoder_layers,
                decoder_start_token_id=tokenizer.bos_token_id,
            )
        )
        model.generation_config.update(num_beams=4, length_penalty=1.0)
        return model

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

    def load_corpus(self) -> Any:
        """Documents; see `hf_vanilla.corpora.load_texts`."""
        return load_texts(
            self.config.corpus,
            text_column=self.config.text_column,
            configuration=self.config.corpus_configuration,
            streaming=self.config.streaming,
            num_proc=self.workers,
        )

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """An encoder with the masked language modelling head."""
        return VanillaEncoderForMaskedLM(
            VanillaEncoderConfig(**self.shape(tokenizer), num_hidden_layers=self.config.encoder_layers)
        )

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
    rows_together = 10_000

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """A decoder with the language modelling head."""
        return VanillaDecoderForCausalLM(
            VanillaDecoderConfig(**self.shape(tokenizer), num_hidden_layers=self.config.decoder_layers)
        )

    def tokenise(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """Blocks of `max_length` tokens; each document begins with `<s>` and ends with `</s>`."""
        begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        encoded = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return pack_documents((begin + ids + end for ids in encoded), self.config.max_length, tokenizer.pad_token_id)

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
