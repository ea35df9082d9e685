"""The tokenizer of exported pages cuts and joins texts as the library `tokenizers` does, or is refused by name."""

import functools
import random
import unicodedata

import pytest
from html_engine import in_node, run_node
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_vanilla import encode_texts
from hf_vanilla.conversion.html_tokenizer import tokenizer_for_html, translate_pattern
from hf_vanilla.data.tokenization import train_tokenizer

LINES = 10_000
SPELLED = ["</s>", "<s>", "<pad>", "<mask>", "<2de>", " <2fr> ", "<0x41>", "<0xFF>", "<unused>", "<2de", "<<s>"]
EDGES = [
    "\u200d",
    "\u200c",
    "\ufeff",
    "\x85",
    "\x1c",
    "\x00",
    "\u3000",
    "\u2028",
    "\r\n",
    "\t",
    "\xa0",
    "  ",
    "'ll",
    "'S",
]
EDGES += [
    "e\u0301",
    "\u0301",
    "👩\u200d👩\u200d👧",
    "🏳️\u200d🌈",
    "한국어",
    "ᄒ\u1161\u11ab",
    "שָׁלוֹם",
    "नमस्ते",
    "٣٤",
    "Ⅷ½",
    "𝒜",
    "𠀀",
]


@functools.cache
def lines_of_all_scripts(count):
    """Random lines: words of letters of a script each, marks, numbers, signs, edges and spelled special tokens."""
    draw = random.Random(0)
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x32000), *range(0xE0100, 0xE01F0)]]
    scripts = {}
    for character in characters:
        name = unicodedata.name(character, "UNASSIGNED").split()[0]
        scripts.setdefault(name, []).append(character)
    scripts = list(scripts.values())

    def word():
        kind = draw.random()
        if kind < 0.6:
            return "".join(draw.choices(draw.choice(scripts), k=draw.randint(1, 8)))
        if kind < 0.7:
            return "".join(draw.choices(characters, k=draw.randint(1, 5)))
        return draw.choice(EDGES if kind < 0.85 else SPELLED if kind < 0.92 else ["one", "two's", "three33", "!?"])

    return [
        "",
        " ",
        *(draw.choice(["", " "]).join(word() for _ in range(draw.randint(1, 9))) for _ in range(count - 2)),
    ]


def as_gpt2():
    """A tokenizer as GPT-2, RoBERTa and BART have it: its own words, a blank before the first."""
    trained = train_tokenizer(["one two's three33 über"] * 3, 300)
    tokenizer = Tokenizer.from_str(trained.backend_tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def learned(**options):
    corpus = ["one two's three33 über", "한국어 문장 하나", "नमस्ते e\u0301 日本語", "aaaa aaab baaa <2de>"] * 5
    return train_tokenizer(corpus, options.pop("vocab_size", 400), **options)


TOKENIZERS = {
    "bpe": lambda: learned(language_tags=["<2de>", "<2fr>"]),
    "characters": lambda: learned(tokenizer_type="characters", language_tags=["<2de>"]),
    "words": lambda: learned(tokenizer_type="words", language_tags=["<2de>", "<2fr>"]),
    "encoder": lambda: learned(family="encoder"),
    "decoder": lambda: learned(family="decoder"),
    "gpt2": as_gpt2,
}


@in_node
@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_of_all_scripts_are_cut_and_joined_as_by_tokenizers(name):
    tokenizer, draw = TOKENIZERS[name](), random.Random(1)
    masks = name == "encoder"
    # The byte-level pieces of the others are those of the first.
    texts = lines_of_all_scripts(LINES)[: LINES if name in ("bpe", "characters") else LINES // 4]
    rows = [draw.choices(range(len(tokenizer)), k=draw.randint(0, 12)) for _ in range(1000)]
    expected = [encode_texts(tokenizer, text, masks=masks)["input_ids"] for text in texts]
    data = {"tokenizer": tokenizer_for_html(tokenizer, masks)}
    tasks = [{"run": "encode", "texts": texts}, {"run": "decode", "rows": rows + expected[:1000]}]
    encoded, decoded = run_node(tasks, data)
    wrong = [(text, ours, own) for text, ours, own in zip(texts, encoded, expected, strict=True) if ours != own]
    assert not wrong, wrong[:3]
    assert decoded == tokenizer.batch_decode(rows + expected[:1000], skip_special_tokens=True)


@in_node
def test_old_tokenizers_that_split_special_tokens_do_so_here():
    tokenizer = learned(language_tags=["<2de>"])
    tokenizer.split_special_tokens = True
    texts = ["<2de> one</s>", "<mask>"]
    (encoded,) = run_node([{"run": "encode", "texts": texts}], {"tokenizer": tokenizer_for_html(tokenizer)})
    assert encoded == [encode_texts(tokenizer, text)["input_ids"] for text in texts]


@in_node
def test_tokens_are_labelled_by_their_characters():
    tokenizer = learned()
    text = "one über 한 e\u0301"
    ids = encode_texts(tokenizer, text)["input_ids"]
    (found,) = run_node([{"run": "labels", "rows": [ids]}], {"tokenizer": tokenizer_for_html(tokenizer)})
    assert found[0][-1] == "</s>" and len(found[0]) == len(ids)
    assert "".join(found[0][:-1]).replace("·", "").replace("\u25cc", "").replace("␣", "") == text.replace(" ", "")


def changed(**parts):
    tokenizer = Tokenizer.from_str(learned().backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def words_without_bytes():
    return Tokenizer(models.WordLevel({"one": 0, "a": 1}, unk_token="a"))


def single_word():
    tokenizer = changed()
    tokenizer.add_tokens([AddedToken("<x>", single_word=True)])
    return tokenizer


def incomplete():
    tokenizer = changed(model=models.BPE({"a": 0, "b": 1}, []))
    return tokenizer


REFUSED = [
    (words_without_bytes, "is a WordLevel model"),
    (single_word, "'<x>'.*single_word"),
    (incomplete, "no token for 254 of the 256 bytes"),
    (lambda: changed(normalizer=normalizers.NFC()), "the normalizer NFC"),
    (lambda: changed(pre_tokenizer=pre_tokenizers.Metaspace()), "the pre-tokenizer Metaspace"),
    (lambda: changed(decoder=decoders.Metaspace()), "the decoder Metaspace"),
    (lambda: changed(model=models.BPE({"a": 0}, [], dropout=0.1)), "`dropout` 0.1"),
    (lambda: changed(pre_tokenizer=pre_tokenizers.Split("x", "removed")), "another way than 'isolated'"),
]


@pytest.mark.parametrize(("make", "problem"), REFUSED)
def test_what_the_page_cannot_do_is_refused_by_name(make, problem):
    with pytest.raises(ValueError, match=problem):
        tokenizer_for_html(PreTrainedTokenizerFast(tokenizer_object=make()))


@pytest.mark.parametrize(
    "pattern", [r"(?i:a)", r"\d+", r"a++", r"\h", r"[[:alpha:]]", r"(?<=a)b", r"[^\S]", "^a$", "."]
)
def test_patterns_that_may_mean_something_else_in_javascript_are_refused(pattern):
    with pytest.raises(ValueError, match="may mean something else"):
        translate_pattern(pattern)
