"""Checks of labelled rows, their labels as numbers, and the scores of heads."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from families import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from hf_vanilla import VanillaEncoderConfig
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.finetuning.answers import check_choices, span_of
from hf_vanilla.finetuning.arguments import FineTuningArguments
from hf_vanilla.finetuning.labels import check_texts, class_names, encode_classes, encode_text_labels, name_of
from hf_vanilla.finetuning.metrics import (
    SCHEMES,
    AnswerScores,
    ClassScores,
    LabelScores,
    SpanScores,
    ValueScores,
    find_scheme,
    score_tags,
    spans_of,
)


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


def labels_of(values, problem_type=None, given=None, **splits):
    rows = {"train": values, **splits}
    data = DatasetDict({split: Dataset.from_dict({"label": labels}) for split, labels in rows.items()})
    return encode_text_labels(data, "label", given, FineTuningArguments(), problem_type)


def read_csv(folder, labels, name="codes.csv"):
    separator = "\t" if name.endswith(".tsv") else ","
    lines = [f"text{separator}label", *(f"text number {n}{separator}{label}" for n, label in enumerate(labels))]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    splits = load_rows(files={"train": str(folder / name)})
    return encode_text_labels(splits, "label", None, FineTuningArguments())


@pytest.mark.parametrize("name", ["codes.csv", "codes.tsv"])
@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["0111", "0112", "2834"], ["0111", "0112", "2834"]),
        (["01", "1", "2"], ["01", "1", "2"]),
        (["1.10", "1.1", "1.9"], ["1.1", "1.10", "1.9"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["NA", "null", "None"], ["NA", "None", "null"]),
        (["1e3", "1000"], ["1000", "1e3"]),
        (["+1", "1"], ["+1", "1"]),
        (["true", "True"], ["True", "true"]),
        (["007", "7", "-7"], ["-7", "007", "7"]),
        (["99999999999999999999", "99999999999999999998"], ["99999999999999999998", "99999999999999999999"]),
    ],
)
def test_labels_of_a_table_are_classes_as_they_are_written(written, names, name, tmp_path):
    labels = read_csv(tmp_path, written * 10, name)
    assert (labels.problem_type, labels.names) == ("single_label_classification", names)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(min_size=1).filter(lambda text: text.strip() and text not in ("-1",)), min_size=2, unique=True)
)
def test_every_text_is_a_class_of_its_own(texts):
    labels = labels_of(texts)
    assert [labels.names[i] for i in labels.encoded["train"]] == texts
    assert labels.config_fields["label2id"] == {name: i for i, name in enumerate(labels.names)}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1.0, 2.0, 10.0], ["1", "2", "10"]),
        ([3, -2, 10], ["-2", "3", "10"]),
        ([True, False], ["false", "true"]),
        (["0.5", "1.10"], ["0.5", "1.10"]),
    ],
)
def test_whole_numbers_and_truth_values_are_classes_in_their_canonical_form(values, names, caplog):
    caplog.set_level("INFO", logger="hf_vanilla")
    labels = labels_of(values, validation=values)
    assert (labels.problem_type, labels.names) == ("single_label_classification", names)
    assert labels.encoded["train"] == labels.encoded["validation"] == [names.index(name_of(value)) for value in values]
    assert ("--problem_type regression" in caplog.text) == (not isinstance(values[0], int))


def test_values_are_learned_where_they_are_not_whole_or_where_it_is_asked_for(caplog, tmp_path):
    caplog.set_level("INFO", logger="hf_vanilla")
    assert read_csv(tmp_path, ["0.5", "-1.25", "3"] * 10).problem_type == "regression"
    assert "numbers that are not whole" in caplog.text
    assert labels_of([1.0, 2.0], validation=[2.5, 1.0]).problem_type == "regression"
    for values in ([1, 2, 3], [1.0, 2.0, 3.0], ["1", "2.00", "03"]):
        labels = labels_of(values, "regression")
        assert (labels.problem_type, labels.encoded["train"]) == ("regression", [1.0, 2.0, 3.0])
    assert labels_of([0.5, 2.0], "single_label_classification").names == ["0.5", "2"]
    assert labels_of([0.5, 2.0], given=["2", "0.5"]).encoded["train"] == [1, 0]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (["1", "two"], {"problem_type": "regression"}, r"train\[1\].*'two', expected a number"),
        ([True, False], {"problem_type": "regression"}, "True, expected a number"),
        ([0.5, float("inf")], {}, "inf, expected a number"),
        ([0.5, float("nan"), 1.0], {}, "nan, expected a number"),
        ([1.0, float("nan"), 2.0], {}, r"train\[1\].*nan, none of the 2 classes 1, 2"),
        ([["a"], ["b"]], {"problem_type": "regression"}, "holds lists"),
        (["a", "b"], {"problem_type": "multi_label_classification"}, "one label in each row"),
        (["a", "b"], {"problem_type": "ranking"}, "problem_type is 'ranking'; expected one of"),
        ([0.5, 1.0], {"problem_type": "regression", "given": ["a"]}, "class_names are given"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        labels_of(values, **options)


@pytest.mark.parametrize("missing", [[-1, -1], ["", ""], ["-1", "-1"], [None, None], [float("nan")] * 2])
def test_a_test_split_without_labels_is_left_out_however_it_says_so(missing):
    splits = {"train": ["a", "b"] if isinstance(missing[0], str) else [1, 2], "test": missing}
    data = DatasetDict({split: Dataset.from_dict({"label": values}) for split, values in splits.items()})
    assert list(encode_text_labels(data, "label", None, FineTuningArguments()).encoded) == ["train"]


def test_a_missed_word_counts_in_every_scheme():
    for tag in ("S-PER", "U-PER", "W-PER", "B-PER", "I-PER", "E-PER", "B"):
        scores = SpanScores().compute(predictions=[["O", "O"]], references=[[tag, "O"]])
        assert scores["span_f1"] == 0
    right = [["S-PER", "O", "B-LOC", "I-LOC", "E-LOC"]]
    scores = SpanScores().compute(predictions=[["O", "O", "B-LOC", "I-LOC", "E-LOC"]], references=right)
    assert scores["span_f1"] == pytest.approx(2 / 3)
    bilou = [["U-PER", "O", "B-LOC", "I-LOC", "L-LOC"]]
    assert [spans_of(tags) for tags in (*right, *bilou)] == [{(0, 1, "PER"), (2, 5, "LOC")}] * 2


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["IO", "IOB", "IOE", "BIOES"]), st.data())
def test_spans_are_those_of_seqeval(scheme, data):
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    tags = ["O", *(f"{letter}-{kind}" for letter in SCHEMES[scheme] for kind in ("PER", "B-X"))]
    sentence = data.draw(st.lists(st.sampled_from(tags)))
    expected = {(first, last + 1, kind) for kind, first, last in sequence_labeling.get_entities(sentence)}
    assert spans_of(sentence) == expected


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "IOB"),
        (["O", "I-PER"], "IO"),
        (["O", "I-PER", "E-PER"], "IOE"),
        (["O", "B-PER", "I-PER", "E-PER", "S-PER"], "BIOES"),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], "BILOU"),
        (["O", "B-PER", "M-PER", "E-PER", "S-PER"], "BMES"),
        (["O", "B", "I"], "IOB"),
        (["NN", "VB", "--"], None),
        (["N", "V", "O", "I"], None),
    ],
)
def test_the_scheme_of_tags_is_found(tags, scheme):
    assert find_scheme(tags) == scheme and find_scheme(tags, "none") is None
    ids = np.array([range(len(tags))])
    assert ("span_f1" in score_tags(ids, ids, tags)) == (scheme is not None)


@pytest.mark.parametrize("tags", [["O", "X-PER"], ["O", "B-PER", "PER"], ["O", "B-A", "E-A", "U-A"], ["B-A", "O-A"]])
def test_tags_of_no_scheme_are_refused_by_name(tags):
    for refused in (lambda: find_scheme(tags), lambda: SpanScores().compute(predictions=[tags], references=[tags])):
        with pytest.raises(ValueError, match="not those of spans.*BIOES"):
            refused()
    with pytest.raises(ValueError, match="expected O and letters of IOB"):
        find_scheme(["O", "S-PER"], "IOB")
    with pytest.raises(ValueError, match="tag_scheme is 'IOBX'"):
        find_scheme(["O"], "IOBX")
