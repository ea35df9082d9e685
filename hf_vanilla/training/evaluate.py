"""The validation loss and the scores of translations."""

import itertools
import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_vanilla.models.losses_vanilla import cross_entropy
from hf_vanilla.training.distributed import is_sharded
from hf_vanilla.training.tasks import Batches, Task
from hf_vanilla.translation.metrics import TranslationQuality
from hf_vanilla.translation.translator import Translator


@torch.inference_mode()
def evaluate(
    task: Task,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    corpus: Any,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Cross-entropy in nats per target token, without smoothing, over all processes; its perplexity; BLEU and chrF."""
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
    # `generate` takes as many steps as its sentences need: processes that share a model would wait for each other.
    if task.config.task == "translation" and task.config.bleu_sentences and not is_sharded(accelerator):
        scores |= translation_scores(
            task, accelerator.unwrap_model(model), tokenizer, corpus["validation"], accelerator
        )
    return scores


def translation_scores(
    task: Task, model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Any, accelerator: Accelerator
) -> dict[str, float]:
    """BLEU and chrF of the first sentences of a split, translated by all processes together."""
    some = list(itertools.islice(pairs, task.config.bleu_sentences))
    own = some[accelerator.process_index :: accelerator.num_processes]
    translations = Translator(model, tokenizer)([pair["source"] for pair in own], num_beams=task.config.bleu_beams)
    results = gather_object(list(zip(translations, [[pair["target"]] for pair in own], strict=True)))
    if not results:
        return {}
    predictions, references = zip(*results, strict=True)
    quality = TranslationQuality().compute(predictions=list(predictions), references=list(references))
    return {"bleu": quality["bleu"], "chrf": quality["chrf"]}
