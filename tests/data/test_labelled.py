"""The built-in labelled corpora, and what is asked of labelled rows."""

import importlib.util
import json
import re
from itertools import islice
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from hf_vanilla.data import corpora
from hf_vanilla.data.built_in import base_tag
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.finetuning import labels as labelled
from hf_vanilla.finetuning.answers import span_of
from hf_vanilla.finetuning.labels import agree_with_checkpoint, check_choices, check_texts, class_names, encode_classes
from hf_vanilla.finetuning.metrics import answer_scores, macro_f1, span_f1


@pytest.fixture(scope="module")
def brown():
    try:
        return corpora.downloaded(corpora.BROWN_PACKAGE)
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
    seen = {split: list(corpora.brown_samples(brown, split)) for split in corpora.SPLITS}
    assert [len(samples) for samples in seen.values()] == [400, 50, 50]
    everything = [sentence for samples in seen.values() for _, sentences in samples for sentence in sentences]
    assert len(everything) == 57_340 and sum(map(len, everything)) == 1_161_192
    assert {base_tag(tag) for sentence in everything for _, tag in sentence} == set(labelled.BROWN_TAGS)
    assert {letter for letter, _ in seen["train"]} == set(labelled.BROWN_GENRES)
    text = next(corpora._generate_brown_texts(brown, "train"))["text"]
    assert text.startswith("The Fulton County Grand Jury said Friday an investigation of Atlanta's recent primary")
    assert 'produced "no evidence" that any irregularities took place. The' in text
    passages = list(islice(labelled._generate_genres(brown, "test"), 20))
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


@pytest.mark.parametrize("row", [0, 17, 49, *range(3, 9)])
def test_an_error_counts_rows_in_the_file_wherever_they_were_drawn(row, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": " " if i == row else f"NA {i}"}) + "\n" for i in range(50)))
    with pytest.raises(ValueError, match=rf'train\[{row}\]\["text"\] is empty'):
        check_texts(load_rows(files={"train": str(path)}), "text", "text_column_name")


def test_choices_that_differ_from_the_first_row_name_both_rows_of_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"choices": ["a", "b", "c"][: 2 + (i == 0)]}) + "\n" for i in range(40)))
    splits = load_rows(files={"train": str(path)})
    first = splits["train"][0]["choices"]
    assert first == ["a", "b"]  # or the row that differs is the one that others are compared with
    place = next(iter(splits)).places[0]
    with pytest.raises(ValueError, match=rf'train\[0\]\["choices"\] has 3 choices, train\[{place}\]\["choices"\] 2'):
        check_choices(splits, ["choices"])


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


def test_classes_are_sorted_by_value_and_agree_with_a_checkpoint(tmp_path):
    from families import small_config

    from hf_vanilla import VanillaEncoderConfig

    splits = DatasetDict(train=Dataset.from_dict({"label": [10, 9, 2]}))
    assert class_names(splits, "label") == ["2", "9", "10"]
    config = small_config(VanillaEncoderConfig, num_labels=2, id2label={0: "b", 1: "a"}, label2id={"b": 0, "a": 1})
    config.save_pretrained(tmp_path)
    assert agree_with_checkpoint(["a", "b"], str(tmp_path)) == ["b", "a"]
    assert agree_with_checkpoint(["a", "c"], str(tmp_path)) == ["a", "c"]


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


def test_scores_against_hand_counts():
    import numpy as np
    from sklearn.metrics import f1_score

    own, right = np.random.default_rng(0).integers(0, 4, (2, 100))
    assert macro_f1(own, right) == pytest.approx(f1_score(right, own, average="macro"))
    tags = [["B-PER", "I-PER", "O", "B-LOC"], ["I-LOC", "I-PER"]]
    assert span_f1(tags, tags) == 1.0
    assert span_f1([["B-PER", "O", "O", "B-LOC"], ["O", "O"]], tags) == pytest.approx(2 * 1 / (2 + 4))
    scores = answer_scores(["the red Box!", "", "old blue hat"], [["red box"], [], ["blue hat", "cap"]])
    assert scores == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(100 * (1 + 1 + 0.8) / 3)}


@pytest.mark.parametrize(
    ("text", "start", "tokens"),
    [("ball", 12, (3, 3)), (" ball", 11, (3, 3)), ("ball ", 12, (3, 3)), ("al", 13, (3, 3)), ("red ball", 8, (2, 3))]
    + [("here", 17, (0, 0)), ("Ann", 0, (0, 0))],
)
def test_the_tokens_of_an_answer(text, start, tokens):
    """Of "Ann has red ball here", where a window shows "has red ball"."""
    offsets = [(0, 0), (4, 7), (8, 11), (12, 16), (0, 0)]
    assert span_of({"text": [text], "answer_start": [start]}, offsets) == tokens


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


def test_labels_of_another_kind_in_another_split_are_refused_and_whole_floats_are_numbers():
    train, rows = Dataset.from_dict({"label": [0, 1]}), {"label": [1.0, 0.0]}
    splits = DatasetDict(train=train, validation=Dataset.from_dict(rows))
    assert encode_classes(splits, "label", ["0", "1"], "x")["validation"] == [1, 0]
    splits["test"] = Dataset.from_dict({"label": [[0], [1]]})
    with pytest.raises(ValueError, match="holds lists in the test split, but not in the train split"):
        encode_classes(splits, "label", ["0", "1"], "x")
    signs = DatasetDict(train=Dataset.from_dict({"label": [-1, 1]}), test=Dataset.from_dict({"label": [-1, -1]}))
    assert encode_classes(signs, "label", ["-1", "1"], "x")["test"] == [0, 0]
