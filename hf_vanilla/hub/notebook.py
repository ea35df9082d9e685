"""The notebook beside the weights: it loads the model from the Hub, uses it, shows its attention and trains it."""

import json
import re
from pathlib import Path
from typing import Any

from hf_vanilla.hub.model_card import (
    EXAMPLE,
    NOTEBOOK,
    Records,
    describe_model,
    first_example,
    literal,
    render_template,
    usage_of_records,
)
from hf_vanilla.translation.loading import positions_of

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
FEW, LONGEST = 8, 128
"""How many rows a notebook holds to train on at most, and to how many tokens it cuts them."""


def write_notebook(folder: Path, repo_id: str) -> None:
    """Write the notebook of the model in a `folder`, which also holds the records of its run."""
    records = Records(folder)
    rows, about = rows_of(records)
    attends = getattr(records.config, "attention_type", None) != "none"
    text = render_template(
        "notebook.jinja",
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        config=records.config,
        auto_class=records.auto_class,
        summary=describe_model(records),
        usage=usage_of_records(records, repo_id),
        shows_attention=attends and records.auto_class != "AutoModelForMultipleChoice",
        example=first_example(records),
        mask='.replace("<mask>", tokenizer.mask_token)' if records.pipeline_tag == "fill-mask" else "",
        rows=rows,
        about_rows=about,
        longest=min(LONGEST, positions_of(records.config)),
    )
    marks_and_texts = CELL.split(text)[1:]
    cells = [
        cell(number, "markdown" in mark, source.strip("\n"))
        for number, (mark, source) in enumerate(zip(marks_and_texts[::2], marks_and_texts[1::2], strict=True))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (folder / NOTEBOOK).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cell(number: int, is_prose: bool, source: str) -> dict[str, Any]:
    """Return a cell of a notebook, by the format that nbformat describes."""
    kept: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    if is_prose:
        return kept | {"cell_type": "markdown"}
    return kept | {"cell_type": "code", "execution_count": None, "outputs": []}


def rows_of(records: Records) -> tuple[list[str], str]:
    """Return rows to train on, as literals of Python, and what they are; none for a head that needs other labels."""
    samples = records.samples[:FEW]
    labels = [json.dumps(label) for label in (records.config.id2label or {}).values()]
    if records.auto_class == "AutoModelForSequenceClassification" and len(labels) > 1:
        # A run does not record which text has which label.
        return [f"[{literal(EXAMPLE)}, {label}]" for label in labels[:2]], "These rows show the form alone."
    rows: list[str] = []
    if records.auto_class == "AutoModelForSeq2SeqLM":
        rows = [f"[{literal(row['source'])}, {literal(row['target'])}]" for row in samples if "source" in row]
    elif records.auto_class in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):
        rows = [literal(row["text"]) for row in samples if "text" in row]
        if not rows:
            return [literal(EXAMPLE)], "This row shows the form alone."
    return rows, "These rows are samples of the run's validation split."
