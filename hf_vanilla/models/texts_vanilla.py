"""Texts as a tokenizer should read them: what frames a sequence is never taken from a user's text."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

OWN_TOKENS = ["<pad>", "<s>", "</s>", "<mask>"]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, text: Any = None, text_pair: Any = None, *, masks: bool = False, **options: Any
) -> BatchEncoding:
    """Call `tokenizer` on texts of a corpus or of a user, in which nothing that is spelled frames a sequence.

    A text that spells `</s>` gets the tokens of these four characters, not the end of a sequence; and so for padding,
    beginnings, classes and separators. Other special tokens, such as those of languages, are read as tokens, for one
    writes them on purpose. A tokenizer whose own `split_special_tokens` is true reads everything as text.

    Args:
        tokenizer: any tokenizer of transformers.
        text, text_pair: what the tokenizer takes: a text, or a list of texts, or of lists of words.
        masks: whether a mask that is spelled is one, as where masks are to be filled; otherwise it is text.
        options: the tokenizer's own, such as `text_target`, `truncation` and `return_tensors`.

    Returns:
        What the tokenizer returns.

    Raises:
        ValueError: a slow tokenizer gets texts that spell both, such as a language and `</s>`.
    """
    given = (text, text_pair, options.get("text_target"), options.get("text_pair_target"))
    together = "\0".join(each for texts in given for each in _flatten(texts))

    def is_spelled(tokens: set[str]) -> bool:
        return any(token in together for token in tokens)

    frame = frame_tokens(tokenizer, masks)
    if tokenizer.split_special_tokens or not is_spelled(frame):
        return tokenizer(text, text_pair, **options)
    added = tokenizer.added_tokens_decoder.values()
    # A slow tokenizer that is to split special tokens splits all that were added.
    if is_spelled({str(token) for token in added if token.special or not tokenizer.is_fast} - frame):
        tokenizer = _with_special(tokenizer, frame)
    return tokenizer(text, text_pair, split_special_tokens=True, **options)


def read_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return `tokenizer`, which from now on reads special tokens as such.

    Tokenizers that earlier versions of this package have saved take them for text, even where another library writes
    `tokenizer.eos_token` after a text so that a model learns to stop. Those of others stay as they are.
    """
    if tokenizer.split_special_tokens and tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == OWN_TOKENS:
        tokenizer.split_special_tokens = False
    return tokenizer


def frame_tokens(tokenizer: PreTrainedTokenizerBase, masks: bool) -> set[str]:
    """Return the tokens that frame sequences of a tokenizer, which a user's text cannot spell; masks unless it may."""
    names = ["pad_token", "bos_token", "eos_token", "cls_token", "sep_token", *([] if masks else ["mask_token"])]
    return {str(token) for name in names if (token := getattr(tokenizer, name, None)) is not None}


def _flatten(texts: Any) -> Iterator[str]:
    if isinstance(texts, str):
        yield texts
    elif isinstance(texts, list | tuple):
        for each in texts:
            yield from _flatten(each)


def _with_special(tokenizer: PreTrainedTokenizerBase, special: set[str]) -> PreTrainedTokenizerBase:
    """Return a copy of a fast tokenizer that splits `special` and no other tokens when it is to split special ones."""
    if not tokenizer.is_fast:
        message = f"texts spell special tokens of two kinds: some of {', '.join(sorted(special))} are to stay text"
        raise ValueError(f"{message}, which takes a fast tokenizer, and this is {type(tokenizer).__name__}")
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in special
    replica = copy.copy(tokenizer)
    replica._tokenizer = type(backend).from_str(json.dumps(state))
    return replica
