"""What translators keep: translation memories (TMX, read by lxml) and catalogues of messages (PO, read by polib)."""

import re
from collections.abc import Iterator
from gettext import c2py
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from hf_vanilla.data.files import Placed, Row, open_bytes, unreadable

CHUNK = 1 << 20  # bytes
PO_COLUMNS = {"source": "msgid", "target": "msgstr"}
PLURAL_FORMS = re.compile(r"nplurals\s*=\s*\d+\s*;\s*plural\s*=\s*([^;]+)")


def read_tmx(path: Path, wanted: tuple[str, ...]) -> Iterator[Placed]:
    """Yield the units of a translation memory: text by language, as the file names these, and by those `wanted`.

    `en` stands for `en-US`, too, if no text is in `en`. What marks stand for (`<ph>`, `<bpt>` ...) is left out; what
    `<hi>` encloses is text. Nothing is fetched; entities that the file declares are refused.
    """
    try:
        from lxml import etree
    except ImportError:
        raise _missing_library("lxml", "TMX") from None

    options = {"resolve_entities": False, "no_network": True, "load_dtd": False, "events": ("end",), "tag": "{*}tu"}
    with open_bytes(path) as file:
        number = 0
        try:
            units = etree.iterparse(file, **options)
            for _, unit in units:
                number += 1
                document = unit.getroottree().docinfo.internalDTD
                if number == 1 and document is not None and any(True for _ in document.iterentities()):
                    raise unreadable(path, "it declares entities: write what they stand for in their place")
                if (reference := next(unit.iter(etree.Entity), None)) is not None:
                    raise unreadable(path, f"line {unit.sourceline}: {reference.text} is not declared")
                yield f"line {unit.sourceline}", _texts_by_language(unit, wanted)
                unit.clear()
                while unit.getprevious() is not None:
                    del unit.getparent()[0]
            if units.root is None or etree.QName(units.root).localname != "tmx":
                raise unreadable(path, "expected the element <tmx>")
        except etree.XMLSyntaxError as error:
            said = next(iter(error.error_log), None)  # the first error; the exception may have a later one
            reason = f"line {said.line}, column {said.column}: {said.message}" if said else error
            raise unreadable(path, reason) from None


def _texts_by_language(unit: Any, wanted: tuple[str, ...]) -> Row:
    row: Row = {}
    for variant in unit.iterchildren("{*}tuv"):
        language = variant.get("{http://www.w3.org/XML/1998/namespace}lang") or variant.get("lang") or ""
        segment = next(variant.iterchildren("{*}seg"), None)
        if segment is not None:
            row.setdefault(language, "".join(_text_of(segment)))
    codes = {name: name.lower().replace("_", "-") for name in row}
    for column in set(wanted) - set(row):
        code = column.lower().replace("_", "-")
        regions = [name for name in codes if codes[name] == code or codes[name].startswith(f"{code}-")]
        if regions:
            row[column] = row[min(regions, key=lambda name: codes[name] != code)]
    return row


def _text_of(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str) and child.tag.rpartition("}")[2] == "hi":
            yield from _text_of(child)
        yield child.tail or ""


def _missing_library(library: str, what: str) -> ImportError:
    return ImportError(f"{what} files are read by {library}: pip install 'hf-vanilla[translators]'")


def read_catalogue(path: Path) -> tuple[list[Placed], dict[str, int]]:
    """Return the translated messages of a PO file as `msgid` and `msgstr`, and for each reason how many were left out.

    A message with a plural gives a row for each form: the one for the number 1 translates `msgid`, the others
    `msgid_plural`. A language with one form has it in both.
    """
    try:
        import polib
    except ImportError:
        raise _missing_library("polib", "PO") from None

    with NamedTemporaryFile(suffix=".po") as copy, open_bytes(path) as file:  # polib wants a file, not compressed
        while chunk := file.read(CHUNK):
            copy.write(chunk)
        copy.flush()
        try:
            catalogue = polib.pofile(copy.name)
        except (OSError, UnicodeDecodeError, LookupError) as error:
            raise unreadable(path, str(error).replace(copy.name, str(path))) from None
    if not catalogue and not catalogue.metadata and path.stat().st_size:
        raise unreadable(path, "there is no message in it")
    form = PLURAL_FORMS.search(catalogue.metadata.get("Plural-Forms", ""))
    singular = c2py(form[1].strip())(1) if form else 0
    rows: list[Placed] = []
    left_out = {"fuzzy": 0, "untranslated": 0, "obsolete": 0}
    for entry in catalogue:
        reason = "obsolete" if entry.obsolete else "fuzzy" if entry.fuzzy else ""
        if reason or not entry.translated():
            left_out[reason or "untranslated"] += 1
            continue
        pairs = [(entry.msgid, entry.msgstr)]
        if entry.msgid_plural:
            forms = entry.msgstr_plural
            pairs = [(entry.msgid if n == singular else entry.msgid_plural, forms[n]) for n in sorted(forms)]
            pairs += [(entry.msgid_plural, forms[singular])] if len(forms) == 1 else []
        rows += [(f"line {entry.linenum}", {"msgid": source, "msgstr": target}) for source, target in pairs]
    return rows, left_out


def read_po(path: Path, wanted: tuple[str, ...]) -> Iterator[Placed]:
    """Yield the translated messages of a catalogue; `source` and `target` are other names of its columns."""
    for place, row in read_catalogue(path)[0]:
        yield place, row | {ours: row[theirs] for ours, theirs in PO_COLUMNS.items() if ours in wanted}
