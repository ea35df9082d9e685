"""A byte-level BPE, trained with `tokenizers`: a stock fast tokenizer, which loads without this package."""

import itertools
from collections.abc import Iterable
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# The tokens with the ids 0 to 3. There is no unknown token, for each byte is in the vocabulary.
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<mask>"]
TEMPLATES = {
    "seq2seq": {"single": "$A </s>", "pair": "$A </s> $B </s>"},
    "encoder": {"single": "<s> $A </s>", "pair": "<s> $A </s> $B </s>"},
    "decoder": None,
}
# Each turn of a chat is a document: `<s>`, who speaks, a new line, the text, `</s>`.
CHAT_TEMPLATE = """\
{%- if tools -%}{{- raise_exception("tools are given: this template has no place for them") -}}{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in ["system", "user", "assistant"] or message.content is not string or message.tool_calls -%}
{{- raise_exception("expected texts, without calls of tools, with the role system, user or assistant") -}}
{%- endif -%}
{{- bos_token + message.role + "\\n" -}}
{%- if message.role == "assistant" -%}
{%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- message.content + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- bos_token + "assistant\\n" -}}{%- endif -%}
"""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, family: Literal["seq2seq", "encoder", "decoder"] = "seq2seq"
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE (section 5.1 of the paper: one vocabulary for source and target).

    Decoded without special tokens, every text comes back unchanged. The tokenizer reads `</s>` and the like as special
    tokens, as other libraries expect; [`hf_vanilla.encode_texts`] takes what a corpus spells for text.

    Args:
        texts: the sentences to learn from; for translation, those of both sides.
        vocab_size: the number of tokens, including the special ones and the 256 bytes; a small corpus may yield fewer.
        family: the kind of model, which determines how a sentence is encoded. `"seq2seq"`: its tokens and `</s>`, for
            source and `text_target` alike; `"encoder"`: `<s>`, its tokens, `</s>` (and a second sentence, `</s>`);
            `"decoder"`: its tokens alone, padded on the left, so that a prompt can be continued; with a chat template,
            in which each turn ends with `</s>`.

    Raises:
        ValueError: `texts` is empty, `vocab_size` has no room for the bytes, or there is no such `family`.
    """
    if vocab_size < (smallest := len(SPECIAL_TOKENS) + 256):
        raise ValueError(f"vocab_size is {vocab_size}; expected at least {smallest}: 256 bytes and the special tokens")
    if family not in TEMPLATES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(TEMPLATES)}")
    texts = iter(texts)
    if (first := next(texts, None)) is None:
        raise ValueError("texts are empty; expected sentences to learn a vocabulary from")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The encoder learns from masks that stand for a word and the space before it.
    mask = AddedToken("<mask>", lstrip=family == "encoder", special=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS[:-1], mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    if template := TEMPLATES[family]:
        special_ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL_TOKENS]
        tokenizer.post_processor = processors.TemplateProcessing(**template, special_tokens=special_ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token=mask,
        cls_token="<s>" if family == "encoder" else None,
        sep_token="</s>" if family == "encoder" else None,
        padding_side="left" if family == "decoder" else "right",
        chat_template=CHAT_TEMPLATE if family == "decoder" else None,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
