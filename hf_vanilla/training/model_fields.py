"""The fields of the models' configuration classes, read from their source code.

To import these classes takes seconds, for it imports torch. `hf-vanilla train --help` and its usage errors cannot wait
for that, and a list of the fields here would be a second place to keep up to date.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("models/configuration_vanilla.py", "models/configuration_recurrent.py")
CLASSES = ("VanillaConfig", "VanillaEncoderConfig", "VanillaDecoderConfig", "RecurrentConfig")

SINGLE_STACKS = {"VanillaEncoderConfig": "encoder_layers", "VanillaDecoderConfig": "decoder_layers"}
"""What a training run calls `num_hidden_layers` of these classes, which understand the name as well."""


@dataclass
class ModelField:
    """A field that some of the configuration classes have."""

    name: str
    annotation: str  # the type as the source writes it, such as `int | None`
    default: bool | int | float | str | None
    help: str
    choices: list[str]  # the values that its documentation quotes, as in `"post"`; if it quotes none, any may do
    owners: list[str]  # the classes that have the field


@functools.cache
def model_fields() -> dict[str, ModelField]:
    """Return each field that a training run may set, by name.

    Where classes differ, the first of `CLASSES` gives type and default. If one of them computes a value for None, None
    is the default of all: a run leaves such a field to the class.
    """
    classes = {node.name: node for node in _statements() if isinstance(node, ast.ClassDef)}
    found: dict[str, ModelField] = {}
    for owner in CLASSES:
        for field in _fields_of(classes[owner], classes):
            # The tokenizer has the vocabulary and the special tokens, the task says which kind of model it is, and the
            # training loop wants no logits.
            if field.name in ("vocab_size", "is_encoder_decoder", "output_logits") or field.name.endswith("_token_id"):
                continue
            if field.name == "num_hidden_layers":
                field.name = SINGLE_STACKS[owner]
            known = found.setdefault(field.name, field)
            known.owners.append(owner)
            if field.default is None and known.default is not None:
                known.annotation, known.default = field.annotation, None
                known.help += f" {owner}: {field.help}"
    return found


@functools.cache
def paper_names() -> dict[str, str]:
    """Return the field that each of the paper's names, such as `d_model`, stands for."""
    assigned = {ast.unparse(node.targets[0]): node.value for node in _statements() if isinstance(node, ast.Assign)}
    return ast.literal_eval(assigned["PAPER_NAMES"])


def _statements() -> Iterator[ast.stmt]:
    for source in SOURCES:
        yield from ast.parse((Path(__file__).parents[1] / source).read_text(encoding="utf-8")).body


def _fields_of(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[ModelField]:
    """Yield the fields of a class, those of its bases first."""
    for base in node.bases:
        if (name := ast.unparse(base)) in classes:
            yield from _fields_of(classes[name], classes)
    # An entry of "Args:" is a line `name, name (type, default):`, and its text, which is indented further.
    entries = re.findall(r"^    (\w[\w, ]*) \(.*\):\n((?: {8}.*\n?)+)", ast.get_docstring(node) or "", re.M)
    texts = {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            name, annotation = ast.unparse(statement.target), ast.unparse(statement.annotation)
            if not annotation.startswith("ClassVar"):
                text = texts.get(name, "")
                choices = re.findall(r'`"(\w+)"`', text)
                yield ModelField(name, annotation, ast.literal_eval(statement.value), text, choices, [])
