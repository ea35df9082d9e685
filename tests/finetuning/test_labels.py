"""Checks of labelled rows, their labels as numbers, and the scores of heads."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from families import small_config
from sklearn.metrics import f1_score

from hf_vanilla import VanillaEncoderConfig
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.finetuning.answers import check_choices, span_of
from hf_vanilla.finetuning.arguments import FineTuningArguments
from hf_vanilla.finetuning.labels import check_texts, class_names, encode_classes
from hf_vanilla.finetuning.metrics import AnswerScores, ClassScores, LabelScores, SpanScores, ValueScores


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


def test_classes_are_sorted_by_value_and_agree_with_a_checkpoint(tmp_path):
    splits = DatasetDict(train=Dataset.from_dict({"label": [10, 9, 2]}))
    assert class_names(splits, "label", None, FineTuningArguments()) == ["2", "9", "10"]
    config = small_config(VanillaEncoderConfig, num_labels=2, id2label={0: "b", 1: "a"}, label2id={"b": 0, "a": 1})
    config.save_pretrained(tmp_path)
    arguments = FineTuningArguments(model_name_or_path=str(tmp_path))
    for labels, names in ((["a", "b"], ["b", "a"]), (["a", "c"], ["a", "c"])):
        splits = DatasetDict(train=Dataset.from_dict({"label": labels}))
        assert class_names(splits, "label", None, arguments) == names
        assert class_names(splits, "label", labels, arguments) == labels  # the user's order comes first


def test_scores_against_hand_counts():
    own, right = np.random.default_rng(0).integers(0, 4, (2, 100))
    scores = ClassScores().compute(predictions=own, references=right)
    assert scores["macro_f1"] == pytest.approx(f1_score(right, own, average="macro"))
    assert scores["accuracy"] == pytest.approx(np.mean(own == right))
    own, right = np.random.default_rng(0).integers(0, 2, (2, 30, 3))
    scores = LabelScores().compute(predictions=own, references=right.astype(np.float32))
    assert scores["f1"] == pytest.approx(f1_score(right, own, average="micro"))
    scores = ValueScores().compute(predictions=np.float32([1, 2, 4]), references=np.float32([2, 2, 2.5]))
    assert scores == {"mse": pytest.approx((1 + 0 + 2.25) / 3), "pearson": pytest.approx(5 / 28**0.5)}
    tags = [["B-PER", "I-PER", "O", "B-LOC"], ["I-LOC", "I-PER"]]
    assert SpanScores().compute(predictions=tags, references=tags)["span_f1"] == 1.0
    scores = SpanScores().compute(predictions=[["B-PER", "O", "O", "B-LOC"], ["O", "O"]], references=tags)
    assert scores["span_f1"] == pytest.approx(2 * 1 / (2 + 4))
    answers = ["the red Box!", "", "old blue hat"]
    scores = AnswerScores().compute(predictions=answers, references=[["red box"], [], ["blue hat", "cap"]])
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


def test_labels_of_another_kind_in_another_split_are_refused_and_whole_floats_are_numbers():
    train, rows = Dataset.from_dict({"label": [0, 1]}), {"label": [1.0, 0.0]}
    splits = DatasetDict(train=train, validation=Dataset.from_dict(rows))
    assert encode_classes(splits, "label", None, FineTuningArguments())[1]["validation"] == [1, 0]
    splits["test"] = Dataset.from_dict({"label": [[0], [1]]})
    with pytest.raises(ValueError, match="holds lists in the test split, but not in the train split"):
        encode_classes(splits, "label", ["0", "1"], FineTuningArguments())
    signs = DatasetDict(train=Dataset.from_dict({"label": [-1, 1]}), test=Dataset.from_dict({"label": [-1, -1]}))
    assert encode_classes(signs, "label", None, FineTuningArguments()) == (
        ["-1", "1"],
        {"train": [0, 1], "test": [0, 0]},
    )
