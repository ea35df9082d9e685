"""The byte-level BPE: lossless, special tokens where each family wants them, and loadable without this package."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_vanilla.data.tokenization import train_tokenizer
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
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
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
