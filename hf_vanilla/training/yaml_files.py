"""Files of settings, in YAML 1.2: `yes` and `on` are text, `1e-3` is a number, and no key occurs twice."""

import difflib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode


@dataclass(frozen=True)
class Entry:
    """What stands behind a key: its value, each text in it as written, and the line of the key, from 1."""

    value: Any
    texts: list[str]
    line: int


def parse_yaml(text: str, name: str | Path) -> Any:
    """Return what a text in YAML says. `ValueError`, with the line, if it is no YAML, or a key occurs twice."""
    with _errors_of(name):
        return _yaml().load(text)


def read_yaml(path: str | Path) -> Any:
    """Return what a file says; errors are those of [`read_text`] and [`parse_yaml`]."""
    return parse_yaml(read_text(path), path)


def read_text(path: str | Path) -> str:
    """Return the text of a file. `FileNotFoundError` if there is none, `ValueError`, with the line, if not UTF-8."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None


def read_fields(path: str | Path) -> dict[str, Entry]:
    """Return the entries of a file of lines `field: value`, by field.

    Beside the errors of [`read_yaml`], it is a ValueError with the line if a field has no value; `null` is one.
    """
    with _errors_of(path):
        yaml = _yaml()
        root = yaml.compose(read_text(path))
        if root is None:
            return {}
        if not isinstance(root, MappingNode):
            raise ValueError(f"{path}: not a configuration: expected lines of the form `field: value`")
        yaml.constructor.construct_object(root, deep=True)  # finds keys that occur twice
        entries = {}
        for key, node in root.value:
            line = key.start_mark.line + 1
            if isinstance(node, ScalarNode) and not node.value.strip():
                raise ValueError(f"{path}, line {line}: {key.value} is blank; give a value, or leave the line out")
            values = list(_scalars(node))
            texts = [_as_argument(each, yaml.constructor.construct_object(each)) for each in values]
            entries[str(key.value)] = Entry(yaml.constructor.construct_object(node, deep=True), texts, line)
        return entries


def write_yaml(values: dict[str, Any]) -> str:
    """Return the text of a file that [`read_yaml`] and [`read_fields`] read."""
    yaml, stream = _yaml(), io.StringIO()
    options = {"default_flow_style": False, "width": 10**6, "sort_base_mapping_type_on_output": False}
    for name, value in options.items():
        setattr(yaml, name, value)
    yaml.representer.add_representer(str, _represent_text)
    yaml.dump(values, stream)
    return stream.getvalue()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what an error adds about an unknown name: the known one that is most like it, if one is."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _represent_text(representer: Any, text: str) -> Any:
    """Quote what readers of YAML 1.1 take for true or false, and what must be escaped."""
    style = "'" if text.lower() in ("y", "n", "yes", "no", "on", "off") else None if text.isprintable() else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _scalars(node: Node) -> Iterator[ScalarNode]:
    if isinstance(node, ScalarNode):
        yield node
    else:
        yield from (each for each in node.value if isinstance(each, ScalarNode))


def _as_argument(node: ScalarNode, value: Any) -> str:
    """Return a scalar as the command line would have it: as written, but for numbers that only YAML writes so."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    written_so = node.value.lstrip("+-")[:2].lower() in ("0o", "0x", "0b", ".i", ".n")
    return str(value) if is_number and written_so else node.value


@contextmanager
def _errors_of(name: str | Path) -> Iterator[None]:
    """Turn what ruamel.yaml raises about a file into a ValueError that names the file and the line."""
    try:
        yield
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = f"{name}, line {mark.line + 1}" if mark else f"{name}"
        raise ValueError(f"{place}: not YAML: {' '.join(str(problem).split())}") from error
