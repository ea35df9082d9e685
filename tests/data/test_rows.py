"""Rows of tokens are those that `datasets` reads, however its table is cut, selected, kept or handed to a worker."""

import pickle

import datasets
import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla.data.rows import TokenRows

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), min_size=1, max_size=8)


def same(rows, examples):
    assert len(rows) == len(examples)
    numbers = [*range(len(examples)), *reversed(range(len(examples)))]
    for row, expected in zip(rows.__getitems__(numbers), examples.select(numbers), strict=True):
        assert {name: column.tolist() for name, column in row.items()} == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=3), st.randoms(), st.sampled_from(["int32", "int64"]))
def test_rows_are_those_of_the_table(parts, random, dtype):
    features = datasets.Features({name: datasets.List(datasets.Value(dtype)) for name in ("input_ids", "labels")})
    made = [Dataset.from_dict({"input_ids": part, "labels": part[::-1]}, features=features) for part in parts]
    examples = concatenate_datasets(made)
    columns = ("labels", "input_ids")
    same(TokenRows(examples, columns), examples)
    chosen = examples.select(random.sample(range(len(examples)), random.randint(1, len(examples))))
    same(TokenRows(chosen, columns), chosen)
    same(pickle.loads(pickle.dumps(TokenRows(chosen, ("input_ids",)))), chosen.select_columns("input_ids"))


def test_columns_may_be_cut_in_different_places():
    examples = concatenate_datasets([Dataset.from_dict({"input_ids": [[n]]}) for n in range(3)])
    examples = examples.add_column("labels", [[4], [5, 5], [6]])
    same(TokenRows(examples, ("input_ids", "labels")), examples)
    rows = TokenRows(examples, ("labels",))
    assert rows[-1]["labels"].tolist() == [6]
    with pytest.raises(IndexError):
        rows[3]


def test_lists_of_any_kind_are_read_and_nulls_refused():
    fixed = Dataset.from_dict(
        {"input_ids": [[1, 2], [3, 4]]},
        features=datasets.Features({"input_ids": datasets.List(datasets.Value("int32"), length=2)}),
    )
    same(TokenRows(fixed, ("input_ids",)), fixed)
    empty = Dataset.from_dict({"input_ids": [[], []]})
    same(TokenRows(empty, ("input_ids",)), empty)
    for rows in ([[1], None], [[1, None], [2]]):
        with pytest.raises(ValueError, match="a row of tokens is null, or holds a null"):
            TokenRows(Dataset.from_dict({"input_ids": rows}), ("input_ids",))


def test_rows_are_read_from_the_file_that_holds_them(tmp_path):
    Dataset.from_dict({"input_ids": [[n] * (n % 7) for n in range(3000)]}).save_to_disk(tmp_path / "rows")
    examples = Dataset.load_from_disk(tmp_path / "rows")
    rows = TokenRows(examples, ("input_ids",))
    same(rows, examples)
    one = rows[20]["input_ids"]
    assert one.tolist() == [20] * 6 and not one.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1
    assert np.shares_memory(one, rows[20]["input_ids"])
