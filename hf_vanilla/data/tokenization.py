"""Vocabularies for texts of any script: stock fast tokenizers of `tokenizers`, which load without this package."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

logger = logging.getLogger(__name__)

Special = list[AddedToken]
TokenizerType = Literal["bpe", "characters", "words"]
# The tokens with the ids 0 to 3. There is no unknown token, for each byte is in the vocabulary.
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<mask>"]
# Tokens of vocabularies of characters and words for what is in none: the bytes of UTF-8.
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# GPT-2's words, but marks stay with the letter, digit or symbol that they stand on, and joiners within a word.
BPE_WORDS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}[\p{L}\p{M}\u200c\u200d]*| ?\p{N}[\p{N}\p{M}]*| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
CHARACTER = "(?m:.)"
# A blank belongs to the word after it; any other white space stands alone.
BLANK_WORDS = r" ?\S+|\s"
TARGET_MARK = "→ "
"""What the names of a target's tokens begin with, if it has a vocabulary of its own: each spelling is then two tokens.
No text is ever cut into a piece with a blank behind another character, so that none is taken for such a name."""
SAMPLE = 1000
"""The least number of texts, if there are so many, that a new tokenizer is measured on."""

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
    texts: Iterable[str],
    vocab_size: int,
    family: Literal["seq2seq", "encoder", "decoder"] = "seq2seq",
    *,
    tokenizer_type: TokenizerType = "bpe",
    min_frequency: int = 1,
    language_tags: Sequence[str] = (),
    target_texts: Iterable[str] = (),
    target_tokenizer_type: TokenizerType | None = None,
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary: by default a byte-level BPE (section 5.1 of the paper: one for source and target).

    Decoded without special tokens, every text comes back unchanged. The tokenizer reads `</s>` and the like as special
    tokens, as other libraries expect; [`hf_vanilla.encode_texts`] takes what a corpus spells for text. At the end, the
    log says what [`measure_tokenizer`] finds on a sample of the texts.

    Args:
        texts: the sentences to learn from; for translation, those of both sides.
        vocab_size: the most tokens, including the special ones and the 256 bytes; a small corpus may yield fewer.
        family: the kind of model, which determines how a sentence is encoded. `"seq2seq"`: its tokens and `</s>`, for
            source and `text_target` alike; `"encoder"`: `<s>`, its tokens, `</s>` (and a second sentence, `</s>`);
            `"decoder"`: its tokens alone, padded on the left, so that a prompt can be continued; with a chat template,
            in which each turn ends with `</s>`.
        tokenizer_type: what a token is. `"bpe"`: a byte pair encoding within words, whose combining marks stay with
            their letters; `"characters"`: each Unicode character, so that a combining mark is a token of its own;
            `"words"`: whatever stands between two blanks, such as words, phonemes or symbols, with the blank before
            it. What is not in a vocabulary of characters or words becomes the bytes of its UTF-8.
        min_frequency: how often a pair must occur to be merged, or a character or a word to get a token.
        language_tags: special tokens, such as `"<2de>"`, that a text can begin with.
        target_tokenizer_type: what a token of the target side is, for a vocabulary of its own, of at most `vocab_size`
            tokens, that is learned from `target_texts`. The same spelling on both sides is then two tokens; special
            ones are shared. By default there is one vocabulary, and `texts` are those of both sides.

    Raises:
        ValueError: `texts` is empty, `vocab_size` has no room for the bytes, there is no such `family` or
            `tokenizer_type`, `min_frequency` is below 1, or a language tag is blank, has blanks or occurs twice.

    Examples:
        >>> from hf_vanilla import train_tokenizer
        >>> tokenizer = train_tokenizer(["the cat", "the dog"], vocab_size=300)
        >>> tokenizer.tokenize("the cat")
        ['the', 'Ġcat']
        >>> tokenizer.decode(tokenizer("the cat").input_ids)
        'the cat</s>'
    """
    if vocab_size < (smallest := len(SPECIAL_TOKENS) + len(language_tags) + len(BYTES)):
        raise ValueError(f"vocab_size is {vocab_size}; expected at least {smallest}: 256 bytes and the special tokens")
    if family not in TEMPLATES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(TEMPLATES)}")
    for name, kind in (("tokenizer_type", tokenizer_type), ("target_tokenizer_type", target_tokenizer_type)):
        if kind not in (*get_args(TokenizerType), *([None] if name.startswith("target") else [])):
            raise ValueError(f"{name} is {kind!r}; expected one of {', '.join(get_args(TokenizerType))}")
    if target_tokenizer_type and family != "seq2seq":
        raise ValueError(f"target_tokenizer_type is {target_tokenizer_type!r}; expected None: {family} has one side")
    if min_frequency < 1:
        raise ValueError(f"min_frequency is {min_frequency}; expected at least 1")
    if problem := find_problem(language_tags):
        raise ValueError(f"language_tags: {problem}")
    # The encoder learns from masks that stand for a word and the space before it.
    mask = AddedToken("<mask>", lstrip=family == "encoder", special=True)
    # Where each word has a blank before it, the one after a tag would be another.
    tags = [AddedToken(tag, rstrip=tokenizer_type == "words", special=True) for tag in language_tags]
    special = [*(AddedToken(token, special=True) for token in SPECIAL_TOKENS[:-1]), mask, *tags]
    sampled, targets = Sampled(texts), Sampled(target_texts)
    rules, is_pair = dict[str, Any](), target_tokenizer_type is not None
    learn = {"bpe": _learn_bpe, "characters": _learn_characters, "words": _learn_words}
    tokenizer = learn[tokenizer_type](sampled, vocab_size, min_frequency, special)
    if target_tokenizer_type is not None:
        target = learn[target_tokenizer_type](targets, vocab_size, min_frequency, special)
        tokenizer, rules = _join_sides(tokenizer, target)
    if not sampled.count or (is_pair and not targets.count):
        raise ValueError("texts are empty; expected sentences to learn a vocabulary from")
    if template := TEMPLATES[family]:
        special_ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL_TOKENS]
        tokenizer.post_processor = processors.TemplateProcessing(**template, special_tokens=special_ids)
    # The class is one of the models', and registered with transformers by its name.
    tokenizer_class: Any = tokenizer_class_from_name("PairTokenizer") if is_pair else PreTrainedTokenizerFast
    trained = tokenizer_class(
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
        **({"extra_special_tokens": tags} if tags else {}),
        **({"target_rules": rules} if is_pair else {}),
    )
    found = ", ".join(describe_measures(measure_tokenizer(trained, sampled.sample)))
    if is_pair:
        of_target = describe_measures(measure_tokenizer(trained, targets.sample, is_target=True))
        found = f"sources {found}; targets {', '.join(of_target)}"
    logger.info("the tokenizer has %s tokens: %s", f"{len(trained):,}", found)
    return trained


def _join_sides(source: Tokenizer, target: Tokenizer) -> tuple[Tokenizer, dict[str, Any]]:
    """Return one tokenizer that encodes as `source` and decodes as `target`, and the rules of `PairTokenizer`."""
    own, other = (json.loads(each.to_str()) for each in (source, target))
    for each in (own, other):
        if each["pre_tokenizer"].get("pattern") == {"Regex": BPE_WORDS}:  # of characters, which are cut one by one
            each["pre_tokenizer"]["pattern"] = {"Regex": CHARACTER}
    vocabulary = own["model"]["vocab"]
    for token in sorted(other["model"]["vocab"], key=other["model"]["vocab"].__getitem__):
        is_shared = token in BYTES or any(token == each["content"] for each in own["added_tokens"])
        vocabulary.setdefault(token if is_shared else TARGET_MARK + token, len(vocabulary))
    unmarked = {"type": "Replace", "pattern": {"String": TARGET_MARK}, "content": ""}
    steps = other["decoder"].get("decoders", [other["decoder"]])
    own["decoder"] = {"type": "Sequence", "decoders": [unmarked, *steps]}
    fields = {name: other["model"][name] for name in ("merges", "byte_fallback", "ignore_merges")}
    rules = {"mark": TARGET_MARK, "model": fields}
    rules |= {name: other[name] for name in ("normalizer", "pre_tokenizer")}
    return Tokenizer.from_str(json.dumps(own)), rules


def find_problem(language_tags: Sequence[str]) -> str | None:
    """Return what keeps these from being language tags, or None."""
    for tag in language_tags:
        if not tag or re.search(r"\s", tag):
            return f"{tag!r} is blank or has blanks; expected tags such as '<2de>'"
        if tag in SPECIAL_TOKENS:
            return f"{tag!r} is a special token already"
    twice = next((tag for tag in language_tags if list(language_tags).count(tag) > 1), None)
    return f"{twice!r} occurs twice" if twice else None


class Sampled:
    """Iterates over texts, counts them (`count`), and keeps some, evenly from the whole (`sample`)."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.count, self.sample = texts, 0, list[str]()

    def __iter__(self) -> Iterator[str]:
        step = 1
        for text in self.texts:
            self.count += 1
            if self.count % step == 0:
                self.sample.append(text)
            if len(self.sample) == 2 * SAMPLE:
                self.sample, step = self.sample[1::2], 2 * step
            yield text


def _learn_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int, special: Special) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(BPE_WORDS), behavior="isolated")
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _learn_characters(texts: Iterable[str], vocab_size: int, min_frequency: int, special: Special) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTER), behavior="isolated")
    _learn_units(tokenizer, texts, vocab_size, min_frequency, special)
    # Of no effect on the tokens, but masks of whole words want to know the words.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(BPE_WORDS), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _learn_words(texts: Iterable[str], vocab_size: int, min_frequency: int, special: Special) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel())
    tokenizer.normalizer = normalizers.Prepend(" ")  # so that a word is the same token wherever it stands
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(BLANK_WORDS), behavior="isolated")
    _learn_units(tokenizer, texts, vocab_size, min_frequency, special)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def _learn_units(
    tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, min_frequency: int, special: Special
) -> None:
    """Let each unit that the pre-tokenizer finds often enough be a token, the most frequent first."""
    counter = trainers.WordLevelTrainer(vocab_size=vocab_size, min_frequency=min_frequency, show_progress=False)
    tokenizer.train_from_iterator(texts, counter)
    counts = tokenizer.get_vocab()
    tokens = dict.fromkeys(
        [*(token.content for token in special), *BYTES, *sorted(counts, key=lambda unit: counts[unit])]
    )
    vocabulary = {token: number for number, token in enumerate(list(tokens)[:vocab_size])}
    # A BPE without merges, because it alone falls back on bytes; it takes a whole unit that it knows as a token.
    tokenizer.model = models.BPE(vocabulary, [], byte_fallback=True, ignore_merges=True)
    tokenizer.add_special_tokens(special)


def measure_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], is_target: bool = False
) -> dict[str, float | str]:
    """Return how a fast tokenizer cuts texts, of the target side or else the source, without special tokens.

    Returns:
        `tokens_per_word`, where words are what stands between blanks; `characters_per_token`; `longest_token`, of
        those in the texts; `share_of_bytes`: the share of tokens that are a part of a character. All but the third
        are 0 without texts.
    """
    texts = list(texts)
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    side = "text_target" if is_target else "text"
    ids = [token for row in tokenizer(**{side: texts}, **options)["input_ids"] for token in row] if texts else []
    decoded = {token: tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in set(ids)}
    names = dict(zip(decoded, tokenizer.convert_ids_to_tokens(list(decoded)), strict=True))
    parts = {token for token, text in decoded.items() if "\ufffd" in text or names[token] in BYTES}
    words = sum(len(text.split()) for text in texts)
    return {
        "tokens_per_word": round(len(ids) / words, 3) if words else 0,
        "characters_per_token": round(sum(map(len, texts)) / len(ids), 3) if ids else 0,
        "longest_token": max((str(decoded[token]) for token in sorted(decoded)), key=len, default=""),
        "share_of_bytes": round(sum(token in parts for token in ids) / len(ids), 4) if ids else 0,
    }


def describe_measures(found: dict[str, float | str]) -> Iterator[str]:
    """Yield in words what [`measure_tokenizer`] found."""
    yield f"{found['tokens_per_word']:.2f} a word"
    yield f"{found['characters_per_token']:.2f} characters each"
    yield f"the longest is {found['longest_token']!r}"
    yield f"{found['share_of_bytes']:.1%} are bytes of characters without one"
