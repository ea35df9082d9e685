"""Held-out splits: which rows they take, of how many, and by what they are known again."""

import json
from collections import Counter
from unicodedata import normalize

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla import load_corpus
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.data.splits import EVERY, key_of, split_corpus

COLUMNS = {"source": "source", "target": "target"}
LETTERS = st.characters(categories=("L",))
MARKED = [  # for each script, two words that differ by a mark alone
    ("जाता", "जाती"),  # Devanagari
    ("কাল", "কলা"),  # Bengali
    ("மணி", "மண"),  # Tamil
    ("ใกล้", "ใกล"),  # Thai
    ("שָׁלוֹם", "שלום"),  # Hebrew
    ("كَتَبَ", "كتب"),  # Arabic
    ("ကို", "ကု"),  # Burmese
    ("កី", "កិ"),  # Khmer
    ("ශ්‍රී", "ශරී"),  # Sinhala
    ("résumé", "resume"),
]
SETTINGS = settings(max_examples=40, deadline=None)


def split(pairs, **given_splits):
    """Return the splits of pairs that are in memory."""
    sources, targets = zip(*pairs, strict=True)
    rows = Dataset.from_dict({"source": list(sources), "target": list(targets)})
    return split_corpus({"train": rows, **given_splits}, "memory", COLUMNS, None)


def keys_of(corpus):
    return [{key_of(text) for text in rows["source"]} for rows in corpus.values()]


@pytest.mark.parametrize(("one", "other"), MARKED)
def test_a_mark_makes_another_word_but_its_encoding_does_not(one, other):
    assert key_of(one) != key_of(other)
    for word in (one, other):
        assert len({key_of(normalize(form, word)) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1


@SETTINGS
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_neither_form_case_nor_punctuation_makes_another_text(text):
    forms = {key_of(normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1 and forms == {key_of(text.casefold())}
    if any(character.isalnum() for character in text):
        assert {key_of(f"“{text}”, …"), key_of(f" {text}\u00a0!")} == forms


@given(st.lists(LETTERS, min_size=2, max_size=9, unique_by=lambda letter: normalize("NFKC", letter).casefold()))
def test_letters_of_every_script_count(letters):
    text = "".join(letters)
    assert key_of(text[:-1]) != key_of(text)


def test_sentences_that_differ_in_a_mark_are_all_kept_in_splits_of_a_fortieth():
    pairs = [(f"राम{number} {verb} है", f"{number} {verb}") for number in range(500) for verb in ("जाता", "जाती")]
    assert {name: len(rows) for name, rows in split(pairs).items()} == {"train": 950, "validation": 25, "test": 25}


def test_each_source_twice_gives_held_out_splits_of_a_fortieth():
    pairs = [(f"sentence {number}", f"{way} {number}") for number in range(2_000) for way in ("Satz", "Der Satz")]
    corpus = split(pairs)
    assert {name: len(rows) for name, rows in corpus.items()} == {"train": 3_800, "validation": 100, "test": 100}
    assert set(corpus["validation"]["source"]).isdisjoint(corpus["test"]["source"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=400), st.randoms(use_true_random=False))
def test_splits_share_no_source_lose_no_row_and_have_the_size_promised(times, randomness):
    pairs = [(f"Text {number}", f"{way} {number}") for number, count in enumerate(times) for way in range(count)]
    randomness.shuffle(pairs)
    corpus = split(pairs)
    train, validation, test = keys_of(corpus)
    assert not train & validation and not train & test and not validation & test
    assert sum(map(len, corpus.values())) == len(pairs)
    levels = {count: sum(time == count for time in times) for count in times}
    for name in ("validation", "test"):
        # Up to one text more or less of each number of rows that texts have.
        assert abs(len(corpus[name]) - len(pairs) / EVERY) <= sum(levels)


def test_a_frequent_answer_is_learned_from():
    pairs = [("Yes.", f"Ja {number}") for number in range(300)] + [(f"Is {n} odd?", str(n)) for n in range(600)]
    corpus = split(pairs)
    assert {name: len(rows) for name, rows in corpus.items()} == {"train": 855, "validation": 23, "test": 22}
    assert Counter(corpus["train"]["source"])["Yes."] == 300


def test_what_is_held_out_is_disjoint_from_a_test_split_that_is_given_and_whole():
    pairs = [(f"Text {number}", str(number)) for number in range(400)]
    test = Dataset.from_dict({"source": [f"text {number}!" for number in range(0, 400, 4)], "target": ["x"] * 100})
    corpus = split(pairs, test=test)
    assert {name: len(rows) for name, rows in corpus.items()} == {"train": 292, "validation": 8, "test": 100}


def test_too_few_sources_are_refused_even_with_many_rows():
    with pytest.raises(ValueError, match="too few pairs to hold out validation and test: 2, expected at least 3 that"):
        split([(f"source {number % 2}", f"target {number}") for number in range(100)])


def test_a_fingerprint_is_of_the_rows_and_of_nothing_else():
    pairs = [(f"Text {number}", str(number)) for number in range(200)]
    first = split(pairs).fingerprints
    assert first.keys() == {"train", "validation", "test"} and len(set(first.values())) == 3
    assert split(pairs).fingerprints == first
    assert split([*pairs[:-1], ("Text 199", "other")]).fingerprints["train"] != first["train"]
    grown = split([(f"New {number}", "x") for number in range(5)] + pairs).fingerprints
    assert not set(grown.values()) & set(first.values())
    one = Dataset.from_dict({"source": ["a", "b"], "target": ["x", "y"]})
    turned = Dataset.from_dict({"source": ["b", "a"], "target": ["y", "x"]})
    assert split(pairs, test=one).fingerprints == split(pairs, test=turned).fingerprints


def test_the_fingerprint_of_a_stream_is_that_of_its_validation_rows(tmp_path):
    def read(count, first=0):
        lines = (json.dumps({"source": f"a {n}", "target": f"b {n}"}) + "\n" for n in range(first, count))
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        return load_corpus(tmp_path / "rows.jsonl", streaming=True).fingerprints

    assert read(1_500) == read(1_600) != read(1_500, first=5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=60), st.sampled_from(["text", "tokens", "context", "mine"]))
def test_rows_with_labels_that_share_a_text_are_held_out_together(tmp_path_factory, times, column):
    rows = [
        {"label": way, column: ["Some", str(number)] if column == "tokens" else f"Some {number}{'!' * way}"}
        for number, count in enumerate(times)
        for way in range(count)
    ]
    path = tmp_path_factory.mktemp("labelled") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load_rows(files={"train": str(path)}, together="mine" if column == "mine" else None)
    train, held_out = (
        {key_of(" ".join(value) if column == "tokens" else value) for value in splits[name][column]}
        for name in ("train", "validation")
    )
    assert not train & held_out and sum(map(len, splits.values())) == len(rows)
    assert 1 <= len(splits["validation"]) <= max(min(times), len(rows) // 10)
