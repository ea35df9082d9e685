"""From a model and sentences to translations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.environment import use_onednn_for_float32


def load_translator(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence-to-sequence model, on the fastest device there is, and its tokenizer, from a folder or the Hub."""
    use_onednn_for_float32()
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(f"{name}: no such folder, and no model on the Hub that can be reached") from error
    if not config.is_encoder_decoder:
        raise ValueError(f"{name} is a {config.model_type} model; expected one that translates")
    model = AutoModelForSeq2SeqLM.from_pretrained(name, config=config)
    return model.to(PartialState().device), AutoTokenizer.from_pretrained(name)


@torch.inference_mode()
def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    num_beams: int | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> list[str]:
    """Translate with `model.generate`, sentences of about equal length together; the order is kept.

    Args:
        model: its mode is set to evaluation.
        tokenizer: the model's.
        sentences: an empty one stays empty.
        num_beams: 1 is greedy; by default, what the model's generation config says.
        batch_size: sentences translated together.
        progress: show a bar.

    Returns:
        One translation for each sentence, on one line, of at most as many tokens as the longest source of its batch
        and 50 more (section 6.1).
    """
    if not sentences:
        return []
    model.eval()
    generate: Any = model.generate  # typed as a Tensor, as any attribute of a module
    search = {} if num_beams is None else {"num_beams": num_beams}
    translations = [""] * len(sentences)
    encoded = {row: ids for row, ids in enumerate(tokenizer(list(sentences))["input_ids"]) if sentences[row].strip()}
    longest_first = sorted(encoded, key=lambda row: -len(encoded[row]))
    with tqdm(
        total=len(longest_first), desc="translating", unit=" sentences", mininterval=1, disable=not progress
    ) as bar:
        for start in range(0, len(longest_first), batch_size):
            rows = longest_first[start : start + batch_size]
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(model.device)
            output = generate(**batch, max_new_tokens=batch["input_ids"].shape[1] + 50, **search)
            for row, text in zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
                translations[row] = " ".join(text.split())
            bar.update(len(rows))
    return translations


def side_by_side(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[Sequence[str]], count: int
) -> str:
    """`count` sentences, evenly from the whole, each with its translation and all of its references, as text."""
    blocks = []
    for row in range(0, len(sources), max(1, len(sources) // max(1, count)))[:count]:
        lines = [f"source:      {sources[row]}", f"translation: {translations[row]}"]
        blocks.append("\n".join(lines + [f"reference:   {reference}" for reference in references[row]]))
    return "\n\n".join(blocks)
