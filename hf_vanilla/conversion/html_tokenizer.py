"""A tokenizer as exported pages read it, and the guard against those that they cannot."""

import json
import re
from functools import cache
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from hf_vanilla.models.texts_vanilla import frame_tokens

# What `pre_tokenizers.ByteLevel(use_regex=True)` splits at: GPT-2's words.
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# What a pattern may consist of, so that JavaScript means the same by it.
ESCAPES = re.compile(r"\\p\{([LMN])\}|\\(s)|\\(S)|\\u[0-9a-fA-F]{4}")
UNKNOWN = re.compile(r"\\|\(\?(?![:!])|[*+?]\+|\{|\[\[|&&|[$.]")
FALLBACK = [{"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def tokenizer_for_html(tokenizer: PreTrainedTokenizerBase, masks: bool = False) -> dict[str, Any]:
    """Return what the page's `Tokenizer` is made of, so that it cuts texts as [`encode_texts`] does.

    Args:
        tokenizer: one with a byte-level BPE, or with a vocabulary of characters or words that falls back on bytes.
        masks: whether a text may spell masks, as where they are to be filled.

    Raises:
        ValueError: the tokenizer has a part that the page does not know; the error names it.
    """
    if not tokenizer.is_fast:
        raise refusal(f"is {type(tokenizer).__name__}, a slow one")
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        raise refusal("has clean_up_tokenization_spaces")
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    model = state["model"]
    special = {*tokenizer.all_special_ids, *(token["id"] for token in state["added_tokens"] if token["special"])}
    splitting = read_pre_tokenizer(state["pre_tokenizer"])
    is_byte_level = splitting["isByteLevel"]
    vocabulary = check_model(model, is_byte_level)
    all_ids = backend.get_vocab(with_added_tokens=True)
    tokens: list[str | None] = [None] * (1 + max(all_ids.values()))
    for token, number in all_ids.items():
        tokens[number] = token
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [[vocabulary[left], vocabulary[right], vocabulary[left + right]] for left, right in pairs]
    for token in state["added_tokens"]:
        if token["single_word"]:
            raise refusal(f"has the token {token['content']!r}, which is one only as a word of its own (single_word)")
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole, start = tokenizer("a")["input_ids"], 0
    while whole[start : start + len(inner)] != inner:
        start += 1
    fields = ("id", "content", "lstrip", "rstrip", "normalized")
    added = [{name: token[name] for name in fields} for token in state["added_tokens"]]
    splits_all = tokenizer.split_special_tokens
    frame = {token["content"] for token in state["added_tokens"] if token["special"]} if splits_all else set()
    return {
        "tokens": tokens,
        "addedAlone": sorted(set(all_ids.values()) - set(vocabulary.values())),
        "merges": merges,
        "ignoreMerges": bool(model.get("ignore_merges")),
        "prepend": read_normalizer(state["normalizer"]),
        "added": added,
        "frame": sorted(frame or frame_tokens(tokenizer, masks)),
        "specialIds": sorted(special),
        "prefix": whole[:start],
        "suffix": whole[start + len(inner) :],
        "stripsSpace": read_decoder(state["decoder"], is_byte_level),
        "classes": character_classes(),
        **splitting,
    }


def refusal(what: str) -> ValueError:
    """Return the error for a tokenizer with a part that the page does not know."""
    return ValueError(f"the tokenizer {what}: the page cannot cut texts like it")


def check_model(model: dict[str, Any], is_byte_level: bool) -> dict[str, int]:
    """Return the vocabulary of a BPE that has a token for each byte; raise `ValueError` for another model."""
    if model["type"] != "BPE":
        raise refusal(f"is a {model['type']} model, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise refusal(f"has `{name}` {model[name]!r}")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if is_byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    if not is_byte_level and not model.get("byte_fallback"):
        raise refusal("neither cuts bytes (ByteLevel) nor falls back on them (byte_fallback)")
    vocabulary: dict[str, int] = model["vocab"]
    if missing := sorted(set(alphabet) - vocabulary.keys()):
        raise refusal(f"has no token for {len(missing)} of the 256 bytes, such as {missing[0]!r}")
    return vocabulary


def read_normalizer(normalizer: dict[str, Any] | None) -> str:
    """Return what a normalizer puts before each text; raise `ValueError` for one that does anything else."""
    if normalizer is None:
        return ""
    if normalizer["type"] != "Prepend":
        raise refusal(f"has the normalizer {normalizer['type']}")
    return normalizer["prepend"]


def read_pre_tokenizer(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any]:
    """Return the patterns at which texts are split into words, in turn, and what becomes of these."""
    found: dict[str, Any] = {"patterns": [], "isByteLevel": False, "addPrefixSpace": False}
    kind = (pre_tokenizer or {}).get("type")
    for part in (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else []):
        kind = part["type"]
        if found["isByteLevel"]:
            raise refusal(f"has the pre-tokenizer {kind} behind ByteLevel")
        if kind == "Split":
            pattern = part["pattern"].get("Regex")
            if part["behavior"] != "Isolated" or part["invert"] or pattern is None:
                raise refusal(f"splits at {part['pattern']} by another way than 'isolated'")
            found["patterns"].append(translate_pattern(pattern))
        elif kind == "ByteLevel":
            if part["add_prefix_space"] and found["patterns"]:
                raise refusal("puts a blank before each word (add_prefix_space behind Split)")
            found |= {"isByteLevel": True, "addPrefixSpace": part["add_prefix_space"]}
            found["patterns"] += [translate_pattern(GPT2_WORDS)] if part["use_regex"] else []
        else:
            raise refusal(f"has the pre-tokenizer {kind}")
    return found


def translate_pattern(pattern: str) -> str:
    """Return a pattern of `tokenizers` for JavaScript, with `{L}` and the like for [`character_classes`]."""
    if UNKNOWN.search(ESCAPES.sub("x", pattern)) or re.search(r"\[[^\]]*\\S", pattern):
        raise refusal(f"splits at {pattern!r}, which may mean something else in JavaScript")

    def translate(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        if name is None:
            return match[0]
        is_inside = pattern.rfind("[", 0, match.start()) > pattern.rfind("]", 0, match.start())
        return f"{{{name}}}" if is_inside else f"[{'^' if name == 'S' else ''}{{{'s' if name == 'S' else name}}}]"

    return ESCAPES.sub(translate, pattern)


@cache
def character_classes() -> dict[str, str]:
    """Return the letters (L), marks (M), numbers (N) and blanks (s) that `tokenizers` knows, as ranges of a class.

    They go into the page, for a browser may know a newer Unicode, in which more characters are letters.
    """
    # Beyond these there are no letters, only characters for private use and none at all.
    codes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    every, classes = "".join(map(chr, codes)), {}
    for name, pattern in (("L", r"\p{L}"), ("M", r"\p{M}"), ("N", r"\p{N}"), ("s", r"\s")):
        others = [span for _, span in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(every)]
        runs = zip([stop for _, stop in others], [start for start, _ in others[1:]] + [len(every)], strict=True)
        ranges = [(codes[start], codes[stop - 1]) for start, stop in runs if start < stop]
        classes[name] = "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in ranges)
    return classes


def read_decoder(decoder: dict[str, Any] | None, is_byte_level: bool) -> bool:
    """Return whether a decoder takes the first blank off a text; raise `ValueError` for one that the page lacks."""
    kind = (decoder or {}).get("type")
    parts = (decoder or {}).get("decoders")
    if is_byte_level and kind == "ByteLevel":
        return False
    if not is_byte_level and kind == "Sequence" and parts in (FALLBACK, [*FALLBACK, STRIP]):
        return len(parts) == 3
    names = f"{kind}({', '.join(part['type'] for part in parts)})" if parts else kind
    raise refusal(f"has the decoder {names}")
