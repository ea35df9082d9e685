"""What pairs a run learns from: sentences of two languages, or any other sequences.

Nothing but the standard library is imported, so that usage errors come at once.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SIDES = ("source", "target")
VERSES, VERSES_KO = "verses", "verses_ko"
SOUNDS, STRESSED_SOUNDS, MISSPELLINGS, NUMBERS = "cmudict", "cmudict_stress", "misspellings", "numbers"
SEQUENCES = (SOUNDS, STRESSED_SOUNDS, MISSPELLINGS, NUMBERS)
LANGUAGES = {VERSES: ("en", "de"), VERSES_KO: ("en", "ko")}
"""For each built-in corpus of translations, the languages of its columns `source` and `target`."""
PAIRS = (*LANGUAGES, *SEQUENCES)
"""The built-in corpora that have two sides; those of `SEQUENCES` are no translations."""


def is_reversed(corpus: str, source_column: str = "source", target_column: str = "target") -> bool:
    """True if columns say that a built-in corpus is to be translated from its second language to its first.

    `source` and `target` may be called by their languages. Columns that it does not have are a ValueError.
    """
    first, second = LANGUAGES.get(corpus, SIDES)
    chosen = (source_column, target_column)
    if chosen in (SIDES, (first, second)):
        return False
    if corpus in LANGUAGES and chosen in (SIDES[::-1], (second, first)):
        return True
    either = f"{first} and {second}" + (f", or {second} and {first}," if corpus in LANGUAGES else "")
    given = f"source_column is {source_column} and target_column {target_column}"
    raise ValueError(f"{given}; expected {either} for {corpus}")


def columns_of(corpus: str | None, source_column: str, target_column: str) -> tuple[str, str]:
    """Return where a data set has the two sides: a built-in one as [`is_reversed`] says, another one as it is told."""
    if corpus not in LANGUAGES:
        return source_column, target_column
    return SIDES[::-1] if is_reversed(corpus, source_column, target_column) else SIDES


def built_in_languages(run: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the codes of the languages from which and to which a run translates, if its built-in corpus says so."""
    if (corpus := run.get("corpus")) not in LANGUAGES or run.get("target_path"):
        return None
    first, second = LANGUAGES[corpus]
    columns = (run.get(f"{side}_column", side) for side in SIDES)
    return (second, first) if is_reversed(corpus, *columns) else (first, second)


def target_language(run: Mapping[str, Any]) -> str | None:
    """Return the code of the language that a run translates to, if its fields or its built-in corpus say so."""
    if run.get("target_language"):
        return str(run["target_language"])
    built_in = built_in_languages(run)
    return built_in[1] if built_in else None


def is_language(run: Mapping[str, Any]) -> bool:
    """True if a run, given its fields, translates sentences; false if its pairs are sequences of any other kind.

    Sides of characters or words are sequences, unless `target_language` or a built-in corpus says that they are not,
    or the run is of an earlier version, which took every text for language. A tokenizer that is given says it itself.
    """
    if run.get("corpus") in SEQUENCES or target_language(run):
        return bool(target_language(run))
    if given := run.get("initial_model") or run.get("tokenizer"):
        return not reads_sequences(given)
    of_sides = {run.get("tokenizer_type"), run.get("target_tokenizer_type")}
    return "target_tokenizer_type" not in run or of_sides <= {"bpe", None}


def reads_sequences(folder: str | Path) -> bool:
    """True if the tokenizer in a folder says that its texts are no sentences: `split_sentences` is false."""
    path = Path(folder) / "tokenizer_config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("split_sentences") is False


def group_answers(rows: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return for each `source` of some rows its answers, the different `target`s, in their order."""
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        answers.setdefault(row["source"], {})[row["target"]] = None
    return {source: list(targets) for source, targets in answers.items()}
