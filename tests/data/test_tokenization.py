"""Tokenizers of three types: lossless, special tokens where each family wants them, loadable without this package."""

import logging
import unicodedata

import pytest
from fresh import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_vanilla.data.tokenization import measure_tokenizer, train_tokenizer
from hf_vanilla.models.texts_vanilla import encode_texts

TEXTS = ["In the beginning God made heaven and earth.", "Im Anfang schuf Gott den Himmel und die Erde.", "ß ü 😀"] * 5
TOKENIZERS = {family: train_tokenizer(TEXTS, 320, family) for family in ("seq2seq", "encoder", "decoder")}


@pytest.mark.parametrize("family", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.text(alphabet="\x00\x07\r\n\t \u200b\ufeff😀👩‍👩‍👧ßé</s>pad"))
def test_any_text_survives_unchanged(family, text):
    tokenizer = TOKENIZERS[family]
    ids = encode_texts(tokenizer, text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    if not any(token in text for token in tokenizer.all_special_tokens):
        assert tokenizer(text)["input_ids"] == ids


def test_special_tokens_have_their_ids_and_their_places():
    for tokenizer in TOKENIZERS.values():
        assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<mask>"]) == [0, 1, 2, 3]
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    bare = TOKENIZERS["decoder"]("God made")["input_ids"]
    assert not set(bare) & {0, 1, 2, 3}
    assert TOKENIZERS["seq2seq"]("God made")["input_ids"] == [*bare, 2]
    assert TOKENIZERS["seq2seq"](text_target="God made")["input_ids"] == [*bare, 2]
    assert TOKENIZERS["encoder"]("God made")["input_ids"] == [1, *bare, 2]
    assert TOKENIZERS["encoder"]("God made", "God made")["input_ids"] == [1, *bare, 2, *bare, 2]


def test_a_batch_is_padded_where_its_family_wants_it():
    for family, tokenizer in TOKENIZERS.items():
        batch = tokenizer(["God", "God made heaven"], padding=True, return_tensors="pt")
        assert set(batch) == {"input_ids", "attention_mask"}
        masked = batch["attention_mask"][0] == 0
        assert masked.any() and (batch["input_ids"][0][masked] == 0).all()
        assert masked[0 if family == "decoder" else -1]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_a_saved_folder_loads_by_autotokenizer_without_this_package(tmp_path, family):
    text = "God made </s> 😀 heaven"
    TOKENIZERS[family].save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == TOKENIZERS[family](text)["input_ids"]
    if family == "seq2seq":
        code = f"""
import sys
sys.modules["hf_vanilla"] = None
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained({str(tmp_path)!r})({text!r})["input_ids"])"""
        output = run_python(code, check=True).stdout
        assert output.strip() == str(TOKENIZERS[family](text)["input_ids"])


def test_vocabulary_has_the_size_asked_for_and_training_is_deterministic():
    assert len(TOKENIZERS["seq2seq"]) == 320
    assert train_tokenizer(iter(TEXTS), 320).get_vocab() == TOKENIZERS["seq2seq"].get_vocab()


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="vocab_size is 100; expected at least 260"):
        train_tokenizer(TEXTS, 100)
    with pytest.raises(ValueError, match="texts are empty"):
        train_tokenizer([], 300)
    with pytest.raises(ValueError, match="family is 'bert'; expected one of seq2seq"):
        train_tokenizer(TEXTS, 300, "bert")
    with pytest.raises(ValueError, match="tokenizer_type is 'letters'; expected one of bpe, characters, words"):
        train_tokenizer(TEXTS, 300, tokenizer_type="letters")
    with pytest.raises(ValueError, match="min_frequency is 0; expected at least 1"):
        train_tokenizer(TEXTS, 300, min_frequency=0)
    for tag, problem in (("<2 de>", "has blanks"), ("", "is blank"), ("</s>", "is a special token already")):
        with pytest.raises(ValueError, match=f"language_tags: .* {problem}"):
            train_tokenizer(TEXTS, 300, language_tags=[tag])
    with pytest.raises(ValueError, match="language_tags: '<2de>' occurs twice"):
        train_tokenizer(TEXTS, 300, language_tags=["<2de>", "<2de>"])


# Scripts, and types of tokens

SENTENCES = {
    "Hindi": "यह एक छोटा सा वाक्य है जिसमें हिन्दी के शब्द हैं",
    "Hebrew with points": "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם וְאֵת הָאָרֶץ",
    "Arabic with vowels": "فِي الْبَدْءِ خَلَقَ اللَّهُ السَّمَاوَاتِ وَالأَرْضَ",
    "Thai": "ในปฐมกาล พระเจ้า ทรงเนรมิตสร้าง ฟ้าและแผ่นดิน",
    "Vietnamese, decomposed": unicodedata.normalize("NFD", "Ban đầu Đức Chúa Trời dựng nên trời đất"),
    "Persian with joiners": "می\u200cخواهم کتاب\u200cهای خوب را بخوانم",
    "Burmese": "အစအဦး ဘုရားသခင်သည် ကောင်းကင်နှင့် မြေကြီးကို ဖန်ဆင်းတော်မူ",
    "keycaps and emoji": "5️⃣ ❤️ 👩‍👩‍👧 👍🏽",
}
TYPES = ("bpe", "characters", "words")
BY_TYPE = {kind: train_tokenizer([*TEXTS, *SENTENCES.values()] * 5, 700, tokenizer_type=kind) for kind in TYPES}


@pytest.mark.parametrize("name", SENTENCES)
def test_no_word_of_any_script_is_cut_at_its_marks(name):
    """With enough of a text, a BPE makes each of its words one token: it merges within what it takes for a word."""
    sentence = SENTENCES[name]
    tokenizer = train_tokenizer([sentence] * 5, 2000)
    assert len(tokenizer(sentence, add_special_tokens=False)["input_ids"]) == len(sentence.split())
    assert tokenizer.decode(tokenizer(sentence)["input_ids"], skip_special_tokens=True) == sentence


ALPHABETS = st.text() | st.text("".join(SENTENCES.values()) + "\x00\r\n\t \u00a0\u3000\ufeff\ufffd<0x41>▁Ġ")


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=200, deadline=None)
@given(text=ALPHABETS)
def test_each_type_is_lossless_for_any_text(kind, text):
    tokenizer = BY_TYPE[kind]
    assert tokenizer.decode(encode_texts(tokenizer, text)["input_ids"], skip_special_tokens=True) == text
    if not any(token in text for token in tokenizer.all_special_tokens):  # which stay text in `encode_texts` alone
        assert tokenizer.batch_decode(tokenizer([text])["input_ids"], skip_special_tokens=True) == [text]


def test_characters_and_words_are_tokens_as_they_are():
    letters = train_tokenizer(["ʃ ə t͡ʃ", "a b"], 400, tokenizer_type="characters")
    assert letters.tokenize("t͡ʃa") == ["t", "\u0361", "ʃ", "a"]
    assert letters.tokenize("é") == ["<0xC3>", "<0xA9>"]
    phonemes = train_tokenizer(["t͡ʃ ə ʃ ə", "ʃ t͡ʃ"], 400, tokenizer_type="words")
    assert phonemes.tokenize("ʃ t͡ʃ ə") == [" ʃ", " t͡ʃ", " ə"]
    assert len(phonemes.tokenize("ə ə ə ʃ")) == 4
    assert len(phonemes) == 4 + 256 + 3


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_rare_gets_no_token(kind):
    texts = ["aa bb"] * 3 + ["c dd"] * 2
    often, always = (train_tokenizer(texts, 400, tokenizer_type=kind, min_frequency=each) for each in (3, 1))
    assert len(often) < len(always)
    for text in ("aa bb", "c dd"):
        assert often.decode(often(text)["input_ids"], skip_special_tokens=True) == text
    assert len(often("aa bb")["input_ids"]) == len(always("aa bb")["input_ids"])


@pytest.mark.parametrize("kind", ("characters", "words"))
def test_a_full_vocabulary_holds_what_is_most_frequent(kind):
    tokenizer = train_tokenizer(["b b b a a c"], 262, tokenizer_type=kind)
    assert len(tokenizer) == 262
    assert tokenizer.get_vocab().keys() >= ({" ", "b"} if kind == "characters" else {" b", " a"})


@pytest.mark.parametrize("kind", TYPES)
def test_language_tags_are_tokens_that_stay_special_when_saved(tmp_path, kind):
    tags = ["<2de>", "<2hi>"]
    tokenizer = train_tokenizer(TEXTS, 400, tokenizer_type=kind, language_tags=tags)
    assert tokenizer.convert_tokens_to_ids(tags) == [4, 5]
    text = "<2hi> God made"
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = encode_texts(each, text)["input_ids"]
        assert ids[0] == 5 and set(tags) <= set(each.all_special_tokens)
        assert each.decode(ids, skip_special_tokens=True).strip() == "God made"
        assert each.decode(ids[:-1]) == text


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_loads_without_this_package_and_knows_its_words(tmp_path, kind):
    BY_TYPE[kind].save_pretrained(tmp_path)
    text = "यह 😀 heaven \u0001 xyzzy"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text) == BY_TYPE[kind](text)
    encoded = loaded(text, return_offsets_mapping=True)
    for (start, end), word in zip(encoded["offset_mapping"][:-1], encoded.word_ids()[:-1], strict=True):
        assert start < end and len(set(text[start:end].split())) <= 1 and word is not None


def test_the_log_says_how_the_new_tokenizer_cuts(caplog):
    caplog.set_level(logging.INFO, "hf_vanilla")
    tokenizer = train_tokenizer(["ab ab"] * 9, 300, tokenizer_type="words")
    assert "the tokenizer has 261 tokens: 1.00 a word, 2.50 characters each, the longest is 'ab'" in caplog.text
    found = measure_tokenizer(tokenizer, ["ab ab", "é"])
    assert found == {
        "tokens_per_word": round(5 / 3, 3),
        "characters_per_token": round(6 / 5, 3),
        "longest_token": "ab",
        "share_of_bytes": 0.6,
    }
    assert measure_tokenizer(tokenizer, [])["tokens_per_word"] == 0
    assert measure_tokenizer(train_tokenizer(TEXTS, 300), ["ß"])["share_of_bytes"] in (0, 1)
