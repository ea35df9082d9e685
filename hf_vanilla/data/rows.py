"""Tokenised rows, read as a loader needs them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from hf_vanilla.data.batching import Example


class TokenRows(TorchDataset):
    """The columns of token ids of a tokenised split. A row is read from the memory or the file that holds it, without
    a copy; `datasets` itself takes longer to read a batch than a GPU takes to learn from it."""

    def __init__(self, examples: Dataset, columns: Sequence[str]) -> None:
        self.examples, self.columns = examples, tuple(columns)
        # A selection of rows is kept by `datasets` beside the table.
        chosen: Any = examples._indices
        self.chosen = None if chosen is None else chosen.column(0).to_numpy()
        self.parts = {name: [read_lists(chunk) for chunk in examples.data.column(name).chunks] for name in columns}
        self.starts = {
            name: np.cumsum([0, *(len(chunk[0]) - 1 for chunk in self.parts[name])])[:-1] for name in columns
        }

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> Example:
        return self.__getitems__([range(len(self))[number]])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Example]:
        """Return rows: each a dictionary of its columns, arrays (tokens,) that must not be written to."""
        rows = np.asarray(numbers) if self.chosen is None else self.chosen[numbers].astype(np.int64)
        columns = []
        for name in self.columns:
            of_name, starts, column = self.parts[name], self.starts[name], []
            parts = starts.searchsorted(rows, side="right") - 1
            for part, row in zip(parts.tolist(), (rows - starts[parts]).tolist(), strict=True):
                borders, tokens = of_name[part]
                column.append(tokens[borders[row] : borders[row + 1]])
            columns.append(column)
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*columns, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenRows, (self.examples, self.columns)


def read_lists(chunk: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where the lists of an Arrow array begin, and the last one ends (lists + 1,), and what they all hold."""
    if pa.types.is_fixed_size_list(chunk.type):
        chunk = chunk.cast(pa.list_(chunk.type.value_type))
    if chunk.null_count or (chunk.values.null_count and len(chunk.flatten())):
        raise ValueError("a row of tokens is null, or holds a null; expected lists of ids")
    empty = pa.types.is_null(chunk.type.value_type)  # no list holds anything
    return chunk.offsets.to_numpy(), np.zeros(0, np.int64) if empty else chunk.values.to_numpy(zero_copy_only=True)
