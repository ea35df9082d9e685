"""A tokenizer whose two sides have vocabularies of their own, such as letters and phonemes."""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

TARGET_MARK = "→"
"""What the names of a target's tokens begin with: a letter and a phoneme of one spelling are two tokens."""


class PairTokenizer(PreTrainedTokenizerFast):
    """Encodes sources and, as `text_target`, targets by two rules into the ids of one vocabulary.

    The tokens of the target have [`TARGET_MARK`] before them in `tokenizer.json`, which encodes sources and decodes
    targets with no code but that of `tokenizers`. Only to encode targets takes this class.

    What holds for targets in place of the rules for sources, is in `init_kwargs["target_rules"]`: `normalizer`,
    `pre_tokenizer` and fields of `model`, as in `tokenizer.json`. There is no `__init__`, because transformers reads
    that file as it is for classes without one alone.
    """

    _source: Tokenizer | None = None  # while targets are encoded
    _target: tuple[Any, Tokenizer] | None = None  # of which source, and its size, and the tokenizer

    def _switch_to_target_mode(self) -> None:
        if self._source is None:
            self._source, self._tokenizer = self._tokenizer, self._target_of(self._tokenizer)

    def _switch_to_input_mode(self) -> None:
        if self._source is not None:
            self._source, self._tokenizer = None, self._source

    def _target_of(self, source: Any) -> Tokenizer:
        made_of = source, source.get_vocab_size()
        if self._target is None or self._target[0] != made_of:
            state = json.loads(source.to_str())
            shared = {token["content"] for token in state["added_tokens"]}
            vocabulary = {}
            for token, number in state["model"]["vocab"].items():
                if token in shared or (token.startswith("<0x") and token.endswith(">")):
                    vocabulary[token] = number
                else:  # names change sides, so that no target is read as a source's token
                    is_own = token.startswith(TARGET_MARK)
                    vocabulary[token.removeprefix(TARGET_MARK) if is_own else TARGET_MARK + token] = number
            rules = self.init_kwargs["target_rules"]
            state |= {"normalizer": rules["normalizer"], "pre_tokenizer": rules["pre_tokenizer"]}
            state["model"] |= {"vocab": vocabulary, **rules["model"]}
            self._target = made_of, Tokenizer.from_str(json.dumps(state))
        return self._target[1]
