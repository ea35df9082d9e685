"""Text in, `datasets` out: built-in corpora, local files and Hub ids, checked, cleaned and split.

No corpus is held in memory: text goes through generators and builders into memory-mapped Arrow files, which `datasets`
keeps in its cache, and the search for repeated rows compares 64-bit hashes.
"""

from pathlib import Path

from hf_vanilla.data.built_in import BIBLE, BROWN, VERSES, read_built_in
from hf_vanilla.data.files import build_dataset, generate_documents, load_hub_or_table, read_text_pair, text_features
from hf_vanilla.data.splits import CleanCorpus, CleanStream, split_corpus, split_stream


def load_corpus(
    name_or_path: str | Path,
    target_path: str | Path | None = None,
    *,
    source_column: str = "source",
    target_column: str = "target",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> CleanCorpus | CleanStream:
    """Return parallel text for translation, in splits that share no sentence.

    Args:
        name_or_path: one of
            - `"verses"`, the built-in corpus: the Bible in Basic English and the German Elberfelder Bible;
            - a text file with one sentence a line, with `target_path` naming its translation;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` (a quotation mark is text) or `.parquet` file with two text columns;
            - the id of a data set on the Hub.
        target_path: the text file with the translations: line n translates line n of `name_or_path`.
        source_column, target_column: the columns to read; `translation.en` reaches into a nested one.
        configuration: the configuration of a Hub data set, such as `"de-en"` for `wmt14`.
        streaming: read the text while it is iterated over, and write nothing to disk.
        num_proc: the number of processes that hash the text (default: the calling process alone).

    Returns:
        The splits `train`, `validation` and `test` with the columns `source` and `target` (str), without surrounding
        white space. The test split of `verses` also has `references` (list[str]): Elberfelder, then Schlachter. If the
        corpus has no validation or no test split, a 40th of its rows is held out for it, all rows of a source
        together. Dropped are pairs with an empty side, repeated pairs, and training pairs whose source occurs in a
        held-out split (or whose target does, if the corpus comes with all splits); the log gives the number of each.
        The attribute `fingerprints` tells each split's rows from any others.

        When streaming, only `train` and `validation`, without pairs that have an empty side, but with repeated ones.
        If the corpus has no validation split, its first 1,000 pairs are held out (a 40th of a corpus no larger than
        that), and training pairs that share a sentence with them are dropped.

    Raises:
        FileNotFoundError: a file, or the package that holds `verses`, is missing.
        ValueError: the corpus is empty or too small to be split, a column is missing, a line (which is named) is not
            UTF-8, or two files differ in their number of lines. When streaming, a row is checked when it is read.
    """
    columns = {"source": source_column, "target": target_column}
    path, name = Path(name_or_path), str(name_or_path)
    if target_path is not None:
        splits = {"train": read_text_pair(path, Path(target_path), streaming)}
    elif name == VERSES:
        splits = read_built_in(name, streaming)
    else:
        alternative = "two text files (`target_path` names the second)"
        splits = load_hub_or_table(path, columns, configuration, streaming, num_proc, alternative)
    return split_stream(splits, name, columns) if streaming else split_corpus(splits, name, columns, num_proc)


def load_texts(
    name_or_path: str | Path,
    *,
    text_column: str = "text",
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> CleanCorpus | CleanStream:
    """Return text for masked or causal language modelling, one document a row, in splits that share no document.

    Args:
        name_or_path: one of
            - `"bible"`, built in: the World English Bible, whose documents are chapters;
            - `"brown"`, built in: the Brown corpus, whose documents are samples of 2,000 words;
            - a `.txt` file, with blank lines between its documents;
            - a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with a text column;
            - the id of a data set on the Hub.
        text_column: the column of a file or data set to read.
        configuration, streaming, num_proc: as for `load_corpus`, and so are the errors.

    Returns:
        Splits like those of `load_corpus`, with the one column `text` (str). Dropped are empty and repeated documents,
        and training documents that occur in a held-out split.
    """
    columns = {"text": text_column}
    path, name = Path(name_or_path), str(name_or_path)
    if name in (BIBLE, BROWN):
        splits = read_built_in(name, streaming)
    elif path.suffix.lower() == ".txt":
        splits = {"train": build_dataset(generate_documents, text_features(columns), streaming, path=path)}
    else:
        splits = load_hub_or_table(path, columns, configuration, streaming, num_proc, "a .txt file")
    return split_stream(splits, name, columns) if streaming else split_corpus(splits, name, columns, num_proc)
