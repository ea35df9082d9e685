"""A tokenizer whose two sides have vocabularies of their own, such as letters and phonemes."""

import json
from typing import Any

from transformers import PreTrainedTokenizerFast


class PairTokenizer(PreTrainedTokenizerFast):
    """Encodes sources and, as `text_target`, targets by two rules into the ids of one vocabulary.

    The tokens of the target have a mark before them in `tokenizer.json`, which encodes sources and decodes targets
    with no code but that of `tokenizers`. Only to encode targets takes this class.

    What holds for targets in place of the rules for sources, is in `init_kwargs["target_rules"]`: `normalizer`,
    `pre_tokenizer` and fields of `model`, as in `tokenizer.json`, and the `mark`. There is no `__init__`, because
    transformers reads that file as it is for classes without one alone.
    """

    _source: Any = None  # the one for sources, while targets are encoded
    _target: Any = None  # the one for targets, after what it was made of: the one for sources, and its size

    def _switch_to_target_mode(self) -> None:
        if self._source is None:
            self._source, self._tokenizer = self._tokenizer, self._target_of(self._tokenizer)

    def _switch_to_input_mode(self) -> None:
        if self._source is not None:
            self._source, self._tokenizer = None, self._source

    def _target_of(self, source: Any) -> Any:
        made_of = source, source.get_vocab_size()
        if self._target is None or self._target[0] != made_of:
            state = json.loads(source.to_str())
            shared = {token["content"] for token in state["added_tokens"]}
            vocabulary, rules = {}, self.init_kwargs["target_rules"]
            mark = rules["mark"]
            for token, number in state["model"]["vocab"].items():
                if token in shared or (token.startswith("<0x") and token.endswith(">")):
                    vocabulary[token] = number
                else:  # names change sides, so that no target is read as a source's token
                    vocabulary[token.removeprefix(mark) if token.startswith(mark) else mark + token] = number
            state |= {"normalizer": rules["normalizer"], "pre_tokenizer": rules["pre_tokenizer"]}
            state["model"] |= {"vocab": vocabulary, **rules["model"]}
            self._target = made_of, type(source).from_str(json.dumps(state))
        return self._target[1]
