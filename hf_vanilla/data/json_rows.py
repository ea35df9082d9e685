"""The rows of JSON files: an object a line, an array of objects, or an object whose columns are lists."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_vanilla.data.files import Placed, Row, flatten, open_bytes, read_lines, unreadable

CHUNK = 1 << 20  # characters
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
BLANKS = re.compile(r"[ \t\r\n]*")
LONGEST_WORD = 16  # characters: more than any literal or escape of JSON has


def read_json_lines(path: Path, wanted: tuple[str, ...]) -> Iterator[Placed]:
    """Yield the object of each line; blank lines are passed over."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield f"line {number}", _require_object(path, f"line {number}", _parse_json(path, line, number), line)


def _parse_json(path: Path, text: str, number: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"line {number + error.lineno - 1}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:  # a number of too many digits, or lists in lists in lists ...
        reason = f"line {number}: {error}"
    raise unreadable(path, reason)


def _require_object(path: Path, place: str, value: object, text: str) -> Row:
    """Return the `value` of `text`; if it is no object, or holds half of a character, it is a ValueError."""
    if not isinstance(value, dict):
        raise unreadable(path, f"{place}: expected an object with the columns, got {type(value).__name__}")
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):x}"
            raise unreadable(path, f"{place}: {half} is half of a character (a lone surrogate)") from None
    return value


def read_json(path: Path, wanted: tuple[str, ...]) -> Iterator[Placed]:
    """Yield the rows of an array of objects, of an object that holds columns, or of one object a line."""
    lines = (line for line in read_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, None)
    lines.close()
    if first.lstrip().startswith("["):
        yield from _read_json_array(path)
        return
    if second is not None:
        try:
            json.loads(first)
        except ValueError:
            pass  # an object that goes on in the next line
        else:
            yield from read_json_lines(path, wanted)
            return
    content = "\n".join(read_lines(path))
    if not content.strip():
        return
    columns = flatten(_require_object(path, "line 1", _parse_json(path, content), content))
    if wanted and set(wanted) <= set(columns):
        columns = {name: columns[name] for name in wanted}  # what lies beside them need be no column
    lengths = {name: len(values) for name, values in columns.items() if isinstance(values, list)}
    if not lengths:
        yield "row 1", columns
    elif len(lengths) < len(columns) or len(set(lengths.values())) > 1:
        found = (f"{name} has {lengths.get(name, 'no list of')} rows" for name in columns)
        raise unreadable(path, f"expected columns of one length, but {', '.join(found)}")
    else:
        for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
            yield f"row {number}", dict(zip(columns, row, strict=True))


def _read_json_array(path: Path) -> Iterator[Placed]:
    """Yield the objects of an array, while the file is read piece by piece."""
    decoder, number, expected = json.JSONDecoder(), 0, "["
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as file:
        text, at, lines, before, more = "", 0, 1, 0, True  # `before` of the line that `text` begins in were read

        def fail(reason: str, position: int) -> ValueError:
            line_start = text.rfind("\n", 0, position) + 1
            column = position - line_start + (0 if line_start else before) + 1
            return unreadable(path, f"line {lines + text.count(chr(10), 0, position)}, column {column}: {reason}")

        while True:
            at = BLANKS.match(text, at).end()  # type: ignore[union-attr]
            if at < len(text) and expected != "value":
                mark = text[at]
                if expected == "end":
                    raise fail("nothing may follow the array", at)
                if mark not in expected:
                    raise fail(f"expected {' or '.join(expected)}", at)
                at, expected = at + 1, "end" if mark == "]" else "value"
                if mark == "[":
                    expected = "value"
                continue
            if at < len(text):
                if text[at] == "]" and number == 0:
                    at, expected = at + 1, "end"
                    continue
                try:
                    value, end = decoder.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    reason, position = getattr(error, "msg", str(error)), getattr(error, "pos", at)
                    cut = reason.startswith("Unterminated") or position > len(text) - LONGEST_WORD
                    if not more or not cut:
                        raise fail(reason, position) from None
                else:
                    number, expected = number + 1, ",]"
                    yield f"row {number}", _require_object(path, f"row {number}", value, text[at:end])
                    at = end
                    continue
            if not more:
                if expected == "end":
                    return
                raise fail("the array is not closed", at)
            line_start = text.rfind("\n", 0, at) + 1
            lines, before = lines + text.count("\n", 0, at), at - line_start + (0 if line_start else before)
            text, at = text[at:], 0
            try:
                piece = file.read(max(CHUNK, len(text)))
            except UnicodeDecodeError:
                for _ in read_lines(path):
                    pass  # its error names the line
                raise
            text, more = text + piece, bool(piece)
