"""The built-in labelled corpora, and rows from files."""

import importlib.util
import re
from itertools import islice
from pathlib import Path

import pytest

from hf_vanilla.data import built_in
from hf_vanilla.data.built_in import base_tag
from hf_vanilla.data.files import SPLITS
from hf_vanilla.data.labelled import load_rows


@pytest.fixture(scope="module")
def brown():
    try:
        return built_in.downloaded(built_in.BROWN_PACKAGE)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_movie_reviews_are_rated_sentences():
    try:
        splits = load_rows("movie_reviews")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert sum(map(len, splits.values())) == 10_603 - 37  # without two that repeat, and those rated 0
    texts = {split: set(rows["text"]) for split, rows in splits.items()}
    assert not texts["train"] & texts["test"] and not texts["validation"] & texts["test"]
    for rows in splits.values():
        assert all((score > 0) == label for score, label in zip(rows["score"], rows["label"], strict=True))
        assert 0.45 < sum(rows["label"]) / len(rows) < 0.55


def test_the_brown_corpus_is_split_by_sample_and_has_these_tags_and_genres(brown):
    seen = {split: list(built_in.brown_samples(brown, split)) for split in SPLITS}
    assert [len(samples) for samples in seen.values()] == [400, 50, 50]
    everything = [sentence for samples in seen.values() for _, sentences in samples for sentence in sentences]
    assert len(everything) == 57_340 and sum(map(len, everything)) == 1_161_192
    assert {base_tag(tag) for sentence in everything for _, tag in sentence} == set(built_in.BROWN_TAGS)
    assert {letter for letter, _ in seen["train"]} == set(built_in.BROWN_GENRES)
    text = next(built_in._generate_brown_texts(brown, "train"))["text"]
    assert text.startswith("The Fulton County Grand Jury said Friday an investigation of Atlanta's recent primary")
    assert 'produced "no evidence" that any irregularities took place. The' in text
    passages = list(islice(built_in._generate_genres(brown, "test"), 20))
    assert all(len(passage["text"].split()) >= 80 for passage in passages)


@pytest.mark.parametrize(
    ("tag", "base"), [("fw-nn-tl", "nn"), ("nn+bez", "nn"), ("md*", "md"), ("*", "*"), ("--", "--"), ("np$-hl", "np$")]
)
def test_a_base_tag(tag, base):
    assert base_tag(tag) == base


def test_a_tenth_is_held_out_and_always_the_same(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"NA {i},{i % 2}\n" for i in range(50)))
    splits = load_rows(files={"train": str(path), "test": None})
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 45, "validation": 5}
    assert splits["validation"]["text"] == load_rows(files={"train": str(path)})["validation"]["text"]
    with pytest.raises(ValueError, match="not both"):
        load_rows("movie_reviews", files={"train": str(path)})


def test_a_byte_order_mark_is_not_text(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("\ufeffone\n\ntwo\n", encoding="utf-8")
    splits = load_rows(files={"train": str(path), "validation": str(path)})
    assert splits["train"][0]["text"] == "one"


def test_splits_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("one\n")
    with pytest.raises(ValueError, match="one training row cannot be shared out"):
        load_rows(files={"train": str(path)})
    with pytest.raises(ValueError, match="no splits but train, validation, test, got dev"):
        load_rows(files={"train": str(path), "dev": str(path)})


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.csv: no such file"):
        load_rows(files={"train": str(tmp_path / "nothing.csv")})


def test_generated_rows_follow_the_rule():
    path = Path(__file__).parents[2] / "scripts" / "generate_reading_tasks.py"
    spec = importlib.util.spec_from_file_location("generate_reading_tasks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = list(module.rows(200, people=3, seed=1))
    assert len({question["context"] for question, _ in rows}) == 200
    for question, choice in rows:  # read here by other code than the script's
        thing, person = re.findall(r"the (\w+) of (\w+)\?", question["question"])[0]
        sentence = next(line for line in question["context"].split(". ") if line.startswith(f"{person} "))
        assert f" {thing} in the {question['answers']['text'][0]}" in sentence.rstrip(".")
        assert [option in choice["context"] for option in choice["choices"]].count(True) == 1
        assert choice["choices"][choice["label"]] in choice["context"]
    assert len({choice["label"] for _, choice in rows}) == module.CHOICES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,label\none,p,x\ntwo,q,x\n", "first row has 3 fields, the header names 2"),
        ("a.csv", "", "the file is empty"),
        ("a.jsonl", "", "the file is empty"),
        ("a.csv", "\n\ntext,label\none,p,x\n", "first row has 3 fields, the header names 2"),
    ],
)
def test_files_that_do_not_hold_together_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(files={"train": str(tmp_path / name)})


def test_quotes_in_tabs_are_text(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\tp\ntwo\tq\nthree"\tp\n')
    rows = load_rows(files={"train": str(tmp_path / "a.tsv"), "validation": str(tmp_path / "a.tsv")})["train"]
    assert rows["text"][:] == ['"one', "two", 'three"']
