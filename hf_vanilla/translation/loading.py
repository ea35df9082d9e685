"""Models and tokenizers as they are loaded, and texts beside each other."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from hf_vanilla.models.pipeline_vanilla import EXTRA_TOKENS as EXTRA_TOKENS
from hf_vanilla.models.pipeline_vanilla import extra_tokens as extra_tokens
from hf_vanilla.models.pipeline_vanilla import positions_of as positions_of
from hf_vanilla.models.texts_vanilla import read_special_tokens


def load_config_and_tokenizer(
    name: str | Path, auto_class: Any, expected: str, **hub: Any
) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration and the tokenizer of a folder or a Hub id; `hub` are options of `from_pretrained`.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: it is no model of `auto_class`, which the error calls `expected`, or it has no tokenizer.
    """
    try:
        config = AutoConfig.from_pretrained(name, **hub)
    except OSError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(f"{name}: no such folder, and no model on the Hub that can be reached") from error
    remote = getattr(config, "auto_map", None) or {}
    if type(config) not in auto_class._model_mapping and auto_class.__name__ not in remote:
        raise ValueError(f"{name} is a {config.model_type} model; expected {expected}")
    try:
        return config, read_special_tokens(AutoTokenizer.from_pretrained(name, **hub))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} has no tokenizer that can be loaded: {error}") from error


def words_of_tokens(text: str, offsets: Iterable[tuple[int, int]]) -> list[int | None]:
    """Return the number, from 0, of the word that each token belongs to; None for special tokens."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    return [
        next((i for i, (start, end) in enumerate(spans) if start < last and first < end), None)
        for first, last in offsets
    ]


def side_by_side(sources: list[str], translations: list[str], references: list[list[str]], count: int) -> str:
    """Return a text that shows `count` sentences, evenly from the whole, with their translations and references."""
    blocks = []
    for row in range(0, len(sources), max(1, len(sources) // max(1, count)))[:count]:
        shown = "".join(f"\nreference:   {reference}" for reference in references[row])
        blocks.append(f"source:      {sources[row]}\ntranslation: {translations[row]}{shown}")
    return "\n\n".join(blocks)
