"""Text in, `datasets` out: built-in corpora, local files and Hub ids, checked, cleaned and split.

No corpus is held in memory: text goes through generators and builders into memory-mapped Arrow files, which `datasets`
keeps in its cache, and the search for repeated rows compares 64-bit hashes.
"""

from collections.abc import Sequence
from pathlib import Path

from hf_vanilla.data.built_in import BIBLE, BROWN, read_built_in
from hf_vanilla.data.files import as_regular_file, build_dataset, generate_documents, read_text_pair, text_features
from hf_vanilla.data.formats import format_of
from hf_vanilla.data.pairs import PAIRS, SEQUENCES, is_reversed
from hf_vanilla.data.paths import local_name, local_path, split_names
from hf_vanilla.data.splits import CleanCorpus, CleanStream, split_corpus, split_stream
from hf_vanilla.data.tables import load_hub_or_table


def load_corpus(
    name_or_path: str | Path,
    target_path: str | Path | None = None,
    *,
    source_column: str = "source",
    target_column: str = "target",
    columns: str | Sequence[str] | None = None,
    configuration: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    sequences: bool = False,
) -> CleanCorpus | CleanStream:
    """Return pairs of texts, such as sentences and their translations, in splits that share no source.

    Args:
        name_or_path: one of
            - `"verses"`, built in: the Bible in Basic English and the German Elberfelder Bible;
            - `"verses_ko"`, built in: the World English Bible and the Korean Revised Version;
            - `"cmudict"` (words and phonemes), `"cmudict_stress"`, `"misspellings"` (and what was meant) or
              `"numbers"` (in digits and in words), built in: sequences that are no sentences;
            - a text file with one sentence a line, with `target_path` naming its translation;
            - a file with two text columns: `.jsonl`, `.json` (an array of objects, or an object whose columns are
              lists), `.csv` (RFC 4180), `.tsv` (a quotation mark is text) or `.parquet`;
            - a `.tmx` file, whose columns are languages, such as `en`, or a `.po` file, whose columns are `msgid` and
              `msgstr`, the default. Messages that are fuzzy, untranslated or obsolete are left out and counted;
            - the id of a data set on the Hub.
            Text is UTF-8, and only LF or CRLF ends a row. Files may be compressed by gzip or zstd, with `.gz` or
            `.zst` after the suffix. A path may begin with `~`, and be a pipe, which is read once.
        target_path: the text file with the translations: line n translates line n of `name_or_path`.
        source_column, target_column: the columns to read; `translation.en` reaches into a nested one. Several target
            columns, with commas between them, are `target` (the first) and `references` (all of them). `"verses"` and
            `"verses_ko"` have the columns `en` and `de`, `en` and `ko`, and are translated in either direction.
        columns: the names of the columns of a `.csv` or `.tsv` file without a header.
        configuration: the configuration of a Hub data set, such as `"de-en"` for `wmt14`.
        streaming: read the text while it is iterated over, and write nothing to disk.
        num_proc: the number of processes that hash the text (default: the calling process alone).
        sequences: the sides are sequences of any symbols, of which each counts: sources are one if they are equal,
            where sentences are if their letters and digits are; and a target may be that of several sources.

    Returns:
        The splits `train`, `validation` and `test` with the columns `source` and `target` (str), without surrounding
        white space. The test split of `verses` also has `references` (list[str]): Elberfelder, then Schlachter. If the
        corpus has no validation or no test split, a 40th of its rows is held out for it, all rows of a source
        together. Dropped are pairs with an empty side (what is missing or null is empty), repeated pairs, and training
        pairs whose source occurs in a held-out split (or whose target does, if the corpus comes with all splits); the
        log gives the number of each.
        The attribute `fingerprints` tells each split's rows from any others.

        When streaming, only `train` and `validation`, without pairs that have an empty side, but with repeated ones.
        If the corpus has no validation split, its first 1,000 pairs are held out (a 40th of a corpus no larger than
        that), and training pairs that share a sentence with them are dropped.

    Raises:
        FileNotFoundError: a file, or the package that holds a built-in corpus, is missing.
        ImportError: a library that reads `.tmx` or `.po` files is not installed.
        ValueError: the corpus is empty or too small to be split, a column is missing, a line (which is named) is not
            UTF-8 or holds a value that is no text, two files differ in their number of lines, or source and target are
            one column. When streaming, a row is checked when it is read.
    """
    name = local_name(str(name_or_path))
    path, targets, names = Path(name), split_names(target_column), split_names(columns)
    if source_column in targets or len(set(targets)) < len(targets):
        raise ValueError(
            f"source_column is {source_column!r} and target_column {target_column!r}: a column named twice"
        )
    sides = {"source": source_column, "target": targets[0]}
    if target_path is not None:
        splits = {"train": read_text_pair(path, local_path(target_path), streaming)}
    elif name in PAIRS:
        splits = read_built_in(name, streaming, is_reversed(name, source_column, target_column))
        sequences = sequences or name in SEQUENCES
    else:
        alternative = "two text files (`target_path` names the second)"
        references = targets if len(targets) > 1 and not streaming else ()
        options = {"names": names, "references": references}
        splits = load_hub_or_table(path, sides, configuration, streaming, num_proc, alternative, **options)
    if streaming:
        return split_stream(splits, name, sides, exact=sequences)
    return split_corpus(splits, name, sides, num_proc, exact=sequences)


def load_texts(
    name_or_path: str | Path,
    *,
    text_column: str = "text",
    columns: str | Sequence[str] | None = None,
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
            - a `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.tmx` or `.po` file with a text column;
            - the id of a data set on the Hub.
        text_column: the column of a file or data set to read.
        columns, configuration, streaming, num_proc: as for `load_corpus`, and so are the errors.

    Returns:
        Splits like those of `load_corpus`, with the one column `text` (str). Dropped are empty and repeated documents,
        and training documents that occur in a held-out split.
    """
    sides, name = {"text": text_column}, local_name(str(name_or_path))
    path = Path(name)
    if name in (BIBLE, BROWN):
        splits = read_built_in(name, streaming)
    elif format_of(path) is None and ".txt" in (suffix.lower() for suffix in path.suffixes[-2:]):
        text = as_regular_file(path)
        splits = {"train": build_dataset(generate_documents, text_features(sides), streaming, path=text)}
    else:
        names = split_names(columns)
        splits = load_hub_or_table(path, sides, configuration, streaming, num_proc, "a .txt file", names)
    return split_stream(splits, name, sides) if streaming else split_corpus(splits, name, sides, num_proc)
