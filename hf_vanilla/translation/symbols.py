"""What a vocabulary lacks, by name, and which scores suit what it holds."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_vanilla.data.tokenization import BLANK_WORDS, BYTES, SAMPLE
from hf_vanilla.models.texts_vanilla import encode_texts, holds_sequences


def unknown_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of tokens for what a vocabulary lacks: the unknown one, or bytes that stand for characters."""
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[name] for name in BYTES if name in vocabulary}
    return frozenset(found | {tokenizer.unk_token_id} - {None})


def unknown_symbols(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], is_target: bool = False) -> Counter[str]:
    """Count the symbols of texts that a fast tokenizer lacks: words if it cuts at blanks, else characters."""
    unknown, found, rest = unknown_ids(tokenizer), Counter[str](), iter(texts)
    pattern = re.compile(r"\S+" if cuts_at_blanks(tokenizer, is_target) else r"(?s:.)")
    options: dict[str, Any] = {"return_offsets_mapping": True, "verbose": False}
    while unknown and (batch := list(islice(rest, SAMPLE))):
        options["text_target" if is_target else "text"] = batch
        encoded = encode_texts(tokenizer, **options)
        for text, ids, spans in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if not unknown.isdisjoint(ids):
                lost = {
                    place for id_, span in zip(ids, spans, strict=True) if id_ in unknown for place in range(*span)
                }
                matches = pattern.finditer(text)
                found.update(match[0] for match in matches if not lost.isdisjoint(range(*match.span())))
    return found


def cuts_at_blanks(tokenizer: PreTrainedTokenizerBase, is_target: bool = False) -> bool:
    """True if the tokens of a side are words, as [`train_tokenizer`] makes them."""
    rules = tokenizer.init_kwargs.get("target_rules") if is_target else None
    rules = rules or json.loads(tokenizer.backend_tokenizer.to_str())
    cutter = rules["pre_tokenizer"] or {}
    return cutter.get("pattern", {}).get("Regex") == BLANK_WORDS


def default_metrics(tokenizer: PreTrainedTokenizerBase, of_language: Sequence[str]) -> Sequence[str]:
    """Return the names of scores for a tokenizer's targets: `of_language`, or those of sequences if it holds these."""
    if not holds_sequences(tokenizer):
        return of_language
    return ("exact_match", "token_error_rate" if cuts_at_blanks(tokenizer, True) else "character_error_rate")


def describe_symbols(symbols: Counter[str]) -> str:
    """Return the count of different symbols and the most frequent of them, each with how often it occurs."""
    some = ", ".join(f"{symbol!r} ({count:,})" for symbol, count in symbols.most_common(5))
    more = ", ..." if len(symbols) > 5 else ""
    return f"{len(symbols):,} symbol{'s' * (len(symbols) > 1)} that the vocabulary lacks: {some}{more}"
