"""What pairs a run learns from: sentences of two languages, or any other sequences.

Nothing but the standard library is imported, so that usage errors come at once.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERSES = "verses"
SOUNDS, STRESSED_SOUNDS, MISSPELLINGS, NUMBERS = "cmudict", "cmudict_stress", "misspellings", "numbers"
SEQUENCES = (SOUNDS, STRESSED_SOUNDS, MISSPELLINGS, NUMBERS)
PAIRS = (VERSES, *SEQUENCES)
"""The built-in corpora that have two sides; those of `SEQUENCES` are no translations."""


def target_language(run: Mapping[str, Any]) -> str | None:
    """Return the code of the language that a run translates to, if its fields or its built-in corpus say so."""
    if run.get("target_language"):
        return str(run["target_language"])
    return "de" if run.get("corpus") == VERSES else None


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
