"""The validation loss, and scores of translations."""

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_vanilla.data.pairs import group_answers, target_language
from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.training.tasks import Batches, Corpus, Task
from hf_vanilla.translation.metrics import TranslationQuality
from hf_vanilla.translation.score_choices import QUICK_SCORES
from hf_vanilla.translation.symbols import default_metrics
from hf_vanilla.translation.translator import Translator


@torch.inference_mode()
def evaluate(
    task: Task,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    corpus: Corpus,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Measure a model on the validation split, all processes together. One with nothing to predict is a ValueError.

    Return `validation_loss`, the cross-entropy in nats per target token, without smoothing; `validation_perplexity`;
    and for pairs the `metrics` of the configuration, by default `bleu` and `chrf` for sentences, and `exact_match` and
    an error rate for other sequences, if `bleu_sentences` is not 0.
    The model must be whole: how many steps `generate` takes depends on the sentences, and processes that share a model
    would wait for each other.
    """
    model.eval()
    sums = torch.zeros(2, device=accelerator.device)
    for batch in batches.epoch(0):
        logits, labels = task.logits_and_labels(model, batch.to(accelerator.device))
        sums += torch.stack([cross_entropy(logits, labels, num_items_in_batch=1), (labels != -100).sum()])
    loss_sum, token_sum = accelerator.reduce(sums).tolist()
    if not token_sum:
        raise ValueError("the validation split has nothing to predict; expected texts of at most max_length tokens")
    loss = loss_sum / token_sum
    scores = {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700))}
    if task.config.task == "translation" and task.config.bleu_sentences:
        pairs = answered_pairs(corpus["validation"], task.config.bleu_sentences, task.config.is_language)
        # Without the `forward` that Accelerate gives a model in mixed precision, which search would have to call.
        unwrapped = copy.copy(accelerator.unwrap_model(model))
        vars(unwrapped).pop("forward", None)
        translator = Translator(unwrapped, tokenizer)
        names, beams = task.config.metrics or default_metrics(tokenizer, QUICK_SCORES), task.config.bleu_beams
        scores |= translation_scores(translator, pairs, beams, names, target_language(vars(task.config)))
    return scores


def unigram_perplexity(
    tokenizer: PreTrainedTokenizerBase, examples: Dataset, batches: Batches, accelerator: Accelerator
) -> float:
    """Return the perplexity of the labels of validation `batches`, all processes together, by frequencies alone: those
    of the tokens in the training `examples`, each counted once more than it occurs.

    A language model that is no better has learned nothing but which tokens are frequent.
    """
    size = len(tokenizer)
    counts = np.ones(size)
    for rows in examples.select_columns("input_ids").with_format("numpy").iter(1000):
        counts += np.bincount(np.concatenate(rows["input_ids"]), minlength=size)
    own = np.zeros(size, dtype=np.int64)
    for batch in batches.epoch(0):
        own += np.bincount(batch["labels"][batch["labels"] != -100], minlength=size)
    wanted = accelerator.reduce(torch.from_numpy(own).to(accelerator.device)).cpu().numpy()
    never = [token for token in tokenizer.all_special_ids if not wanted[token]]
    counts[never] = 0  # what a text begins with, or is padded with, is not predicted
    seen = wanted > 0
    return float(np.exp(-wanted[seen] @ np.log(counts[seen] / counts.sum()) / wanted.sum()))


def answered_pairs(rows: Iterable[Mapping[str, Any]], most: int, is_language: bool) -> list[Mapping[str, Any]]:
    """Return at most so many rows; of sequences one for each source, with all `references`."""
    if is_language or not most:
        return list(itertools.islice(rows, most))
    answers = group_answers(rows if isinstance(rows, Dataset) else itertools.islice(rows, most))
    return [
        {"source": source, "target": targets[0], "references": targets}
        for source, targets in itertools.islice(answers.items(), most)
    ]


def translation_scores(
    translator: Translator,
    pairs: Sequence[Mapping[str, Any]],
    num_beams: int,
    metrics: Sequence[str] = QUICK_SCORES,
    language: str | None = None,
) -> dict[str, float]:
    """Return the scores of translations of `pairs`, made by all processes together; see [`TranslationQuality`]."""
    own = pairs[PartialState().process_index :: PartialState().num_processes]
    translations = translator([pair["source"] for pair in own], num_beams=num_beams)
    references = [pair.get("references") or [pair["target"]] for pair in own]
    results = gather_object(list(zip(translations, references, strict=True)))
    if not results:
        return {}
    predictions, references = map(list, zip(*results, strict=True))
    quality = TranslationQuality(metrics=metrics, language=language)
    scores = quality.compute(predictions=predictions, references=references)
    return {name: scores[name] for name in metrics}
