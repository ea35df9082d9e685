"""Every format of files: what is written is read back, streamed or whole, and what cannot be read is named by line."""

import csv
import gzip
import io
import json
import os
import threading
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_vanilla.data.corpora import load_corpus, load_texts
from hf_vanilla.data.files import read_lines
from hf_vanilla.data.json_rows import CHUNK
from hf_vanilla.data.labelled import load_rows
from hf_vanilla.data.tables import generate_texts, load_file

SIDES = {"source": "source", "target": "target"}
# Of all scripts, and what some readers take for the end of a line, for a mark of their format, or for nothing.
ODD = list("\r\x00\x0b\x0c\x1c\x85\u2028\u2029\xa0\u200b\"'\\,;\t[]{}<&é\u0301\ufeff") + [
    '""',
    "\r\r",
    "null",
    "NA",
    "अ",
    "世界",
]
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(st.characters(codec="utf-8"), max_size=3)), max_size=6)
TEXTS = TEXTS.map("".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
NUMBERED = [(f"source sentence {number}", f"Zielsatz\u2028{number}") for number in range(100)]


@pytest.fixture(scope="module", autouse=True)
def empty_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def as_tsv(pairs):
    return "".join(f"{source}\t{target}\n" for source, target in [("source", "target"), *pairs]).encode()


def as_csv(pairs, **options):
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows([("source", "target"), *pairs])
    return file.getvalue().encode()


def as_rows(pairs):
    return [{"source": source, "target": target} for source, target in pairs]


def as_columns(pairs):
    return {name: list(side) for name, side in zip(SIDES, zip(*pairs, strict=True), strict=True)}


def as_parquet(pairs, kind=None):
    file = io.BytesIO()
    columns = {name: pa.array(side).cast(kind or pa.string()) for name, side in as_columns(pairs).items()}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def as_tmx(pairs):
    from xml.sax.saxutils import escape

    def unit(**sides):
        return "".join(f'<tuv xml:lang="{name}"><seg>{escape(text)}</seg></tuv>' for name, text in sides.items())

    units = "".join(f"<tu>{unit(source=source, target=target)}</tu>" for source, target in pairs)
    return f'<?xml version="1.0" encoding="UTF-8"?><tmx version="1.4"><body>{units}</body></tmx>'.encode()


def as_po(pairs):
    import polib

    catalogue = polib.POFile()
    catalogue.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    for number, (source, target) in enumerate(pairs):
        catalogue.append(polib.POEntry(msgid=source, msgstr=target, msgctxt=str(number)))
    return str(catalogue).encode()


WRITERS = {
    "csv": as_csv,
    "quoted.csv": lambda pairs: as_csv(pairs, quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "tsv": as_tsv,
    "jsonl": lambda pairs: "".join(f"{json.dumps(row)}\n" for row in as_rows(pairs)).encode(),
    "utf8.jsonl": lambda pairs: "".join(
        f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in as_rows(pairs)
    ).encode(),
    "lines.json": lambda pairs: "".join(f"{json.dumps(row)}\n" for row in as_rows(pairs)).encode(),
    "array.json": lambda pairs: json.dumps(as_rows(pairs), indent=1).encode(),
    "columns.json": lambda pairs: json.dumps(as_columns(pairs), ensure_ascii=False).encode(),
    "parquet": as_parquet,
    "large.parquet": lambda pairs: as_parquet(pairs, pa.large_string()),
    "view.parquet": lambda pairs: as_parquet(pairs, pa.string_view()),
    "dictionary.parquet": lambda pairs: as_parquet(pairs, pa.dictionary(pa.int32(), pa.string())),
}


def zstd(content):
    return pa.compress(content, "zstd", asbytes=True)


COMPRESSORS = {"": lambda content: content, ".gz": gzip.compress, ".zst": zstd}


def write(path, content):
    path.write_bytes(content)
    return path


def read(path, **options):
    arguments = {"columns": SIDES, "names": (), "references": ()} | options
    return [tuple(row.values()) for row in generate_texts(path, **arguments)]


def fits(name, text):
    """Whether a format can hold a text: TSV has no tabs, and none but CSV and JSON has line feeds in a row."""
    return not (name == "tsv" and set(text) & set("\t\n"))


@pytest.mark.parametrize("name", WRITERS)
@SETTINGS
@given(pairs=PAIRS, compression=st.sampled_from(list(COMPRESSORS)))
def test_what_is_written_is_read_back(tmp_path, name, pairs, compression):
    pairs = [pair for pair in pairs if all(fits(name, text) for text in pair)]
    if not pairs:
        return
    path = write(tmp_path / f"pairs.{name}{compression}", COMPRESSORS[compression](WRITERS[name](pairs)))
    assert read(path) == [(source.strip(), target.strip()) for source, target in pairs]


@SETTINGS
@given(pairs=PAIRS, compression=st.sampled_from(list(COMPRESSORS)), end=st.sampled_from(["\n", "\r\n"]))
def test_lines_are_read_back(tmp_path, pairs, compression, end):
    lines = [text.replace("\n", " ") for pair in [("first", ""), *pairs] for text in pair]
    path = write(
        tmp_path / f"lines.en{compression}", COMPRESSORS[compression]("".join(f"{x}{end}" for x in lines).encode())
    )
    assert list(read_lines(path)) == [line.removesuffix("\r") if end == "\n" else line for line in lines]


@SETTINGS
@given(pairs=PAIRS)
def test_catalogues_and_memories_are_read_back(tmp_path, pairs):
    for name, writer, lost in (("po", as_po, "\x0b\x0c\x1c\x85"), ("tmx", as_tmx, "\x0b\x0c\x1c\x00\r\ufffe\uffff")):
        kept = [
            tuple("".join(c for c in text if c.isprintable() or (c not in lost and ord(c) > 31)) for text in pair)
            for pair in pairs
        ]
        kept = [pair for pair in kept if all(text.strip() for text in pair)]
        if kept:
            path = write(tmp_path / f"pairs.{name}", writer(kept))
            assert read(path) == [(source.strip(), target.strip()) for source, target in kept]


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("name", WRITERS)
def test_streamed_and_whole_are_the_same_rows(tmp_path, name, compression):
    path = write(tmp_path / f"pairs.{name}{compression}", COMPRESSORS[compression](WRITERS[name](NUMBERED)))
    for streaming in (False, True):
        splits = load_corpus(path, streaming=streaming)
        rows = [tuple(row.values()) for split in splits.values() for row in split]
        assert sorted(rows) == sorted(NUMBERED)


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_compressed_text_pairs_and_documents(tmp_path, compression):
    compress = COMPRESSORS[compression]
    paths = [
        write(tmp_path / f"t.{side}{compression}", compress("".join(f"{text}\n" for text in lines).encode()))
        for side, lines in zip(("en", "de"), zip(*NUMBERED, strict=True), strict=True)
    ]
    assert sorted(load_corpus(*paths)["train"]["source"])[0] == "source sentence 0"
    documents = write(tmp_path / f"t.txt{compression}", compress(b"one\nline\n\ntwo\n\nthree\n"))
    assert sorted(row["text"] for split in load_texts(documents).values() for row in split) == [
        "one\nline",
        "three",
        "two",
    ]
    cut = write(tmp_path / f"cut.jsonl{compression}", compress(WRITERS["jsonl"](NUMBERED))[:-30])
    with pytest.raises(ValueError, match=r"cut\.jsonl.*, line \d+: cannot be decompressed"):
        load_corpus(cut)


def test_an_unclosed_quotation_mark_is_named_where_it_opens(tmp_path):
    lines = [f"source {number},Ziel {number}" for number in range(60)]
    lines[20], lines[40] = '"open quote,offen', '"closed",zu'
    path = write(tmp_path / "a.csv", "\n".join(["source,target", *lines]).encode())
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"a\.csv, line 22: the quotation mark .* in line 42"):
            load_corpus(path, streaming=streaming)
    lines[40] = "nothing"
    write(path, "\n".join(["source,target", *lines]).encode())
    with pytest.raises(ValueError, match=r"a\.csv, line 22: .* never closed"):
        load_file(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_carriage_returns_alone_end_no_row(tmp_path, name):
    mark = "," if name.endswith("csv") else "\t"
    text = f"source{mark}target\r" + "".join(f"a{n}{mark}b{n}\r" for n in range(9))
    for load in (load_corpus, load_file):
        with pytest.raises(ValueError, match=rf"{name}, line 1: lines end in CR alone"):
            load(write(tmp_path / name, text.encode()))
    pair = [write(tmp_path / side, b"a\rb\rc\r") for side in ("a.en", "a.de")]
    with pytest.raises(ValueError, match=r"a\.en, line 1: lines end in CR alone"):
        load_corpus(*pair)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("value", "found"),
    [(5, "int, expected text: 5"), (True, "bool"), (0.5, "float"), (["a"], "list"), ({"de": "a"}, "dict.*target.de")],
)
@pytest.mark.parametrize("name", ["late.jsonl", "late.json"])
def test_what_is_no_text_is_named_by_its_row_and_column(tmp_path, name, value, found, streaming):
    rows = [*as_rows(NUMBERED[:60]), {"source": "x", "target": value}]
    content = json.dumps(rows) if name == "late.json" else "\n".join(map(json.dumps, rows))
    with pytest.raises(ValueError, match=rf"{name}, (line|row) 61: column 'target' holds {found}"):
        load_corpus(write(tmp_path / name, content.encode()), streaming=streaming)


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], [b"\xff", b"a"]])
def test_parquet_columns_that_hold_no_text_are_named(tmp_path, values):
    pq.write_table(pa.table({"source": ["a", "b"], "target": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: column 'target' holds (int|list|bytes)"):
        load_corpus(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["jsonl", "array.json", "columns.json", "parquet"])
def test_null_is_an_empty_side_however_late_the_first_text_is(tmp_path, name, caplog):
    caplog.set_level("INFO", logger="hf_vanilla.data")
    nulls = [(f"{number} {'long ' * 2_000}", None) for number in range(1_100)]  # 11 MB
    path = write(tmp_path / f"pairs.{name}", WRITERS[name]([*nulls, *NUMBERED]))
    assert sum(load_corpus(path).num_rows.values()) == 100
    assert "1,100 with an empty side" in caplog.text
    assert len(list(load_corpus(path, streaming=True)["train"])) == 98


def test_rows_without_the_language_are_left_out_and_a_column_that_no_row_has_is_an_error(tmp_path):
    rows = [{"translation": {"en": en, ("fr", "de")[n % 2]: de}} for n, (en, de) in enumerate(NUMBERED)]
    path = write(tmp_path / "wmt.jsonl", "\n".join(map(json.dumps, rows)).encode())
    for streaming in (False, True):
        columns = {"source_column": "translation.en", "target_column": "translation.de", "streaming": streaming}
        splits = load_corpus(path, **columns)
        assert sorted(row["source"] for split in splits.values() for row in split) == sorted(
            en for en, _ in NUMBERED[1::2]
        )
        with pytest.raises(ValueError, match=r"no column 'translation\.es'; .* translation\.en, translation\.fr"):
            load_corpus(path, **columns | {"target_column": "translation.es"})


def test_names_with_dots_and_nested_names_are_both_found(tmp_path):
    rows = [{"a.b": "plain", "c": {"d.e": "inner", "f": None}, "g": None}]
    path = write(tmp_path / "a.jsonl", json.dumps(rows[0]).encode())
    assert read(path, columns={"source": "a.b", "target": "c.d.e"}) == [("plain", "inner")]
    assert read(path, columns={"source": "c.f", "target": "g.h"}) == [("", "")]


@pytest.mark.parametrize("mark", [",", "\t"])
def test_files_without_a_header_are_read_by_the_names_given(tmp_path, mark):
    path = tmp_path / ("a.csv" if mark == "," else "a.tsv")
    write(path, "".join(f"{n}{mark}{a}{mark}{b}\n" for n, (a, b) in enumerate(NUMBERED)).encode())
    for names in ("id,source,target", ["id", "source", "target"], ["id,source", "target"]):
        splits = load_corpus(path, columns=names)
        assert sorted((r["source"], r["target"]) for s in splits.values() for r in s) == sorted(NUMBERED)
    assert load_rows(files={"train": str(path)}, columns="n,a,b")["train"].features["n"].dtype == "int64"
    with pytest.raises(ValueError, match=r"line 1: the first row has 3 fields, columns name 2"):
        load_corpus(path, columns="source,target")
    lines = write(tmp_path / "a.jsonl", WRITERS["jsonl"](NUMBERED))
    with pytest.raises(ValueError, match=r"a\.jsonl: its columns have names of their own"):
        load_corpus(lines, columns="source,target")


def test_a_column_cannot_be_both_sides(tmp_path):
    path = write(tmp_path / "a.jsonl", WRITERS["jsonl"](NUMBERED))
    for target in ("source", "target,source", "target,target"):
        with pytest.raises(ValueError, match="a column named twice"):
            load_corpus(path, target_column=target)
    with pytest.raises(ValueError, match=r"several columns are called 'source'"):
        load_corpus(write(tmp_path / "a.csv", b"source,source\na,b\n"))


def test_several_target_columns_are_references(tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_vanilla.data")
    rows = [{"en": en, "de": de, "de2": f"{de}, anders"} for en, de in NUMBERED]
    rows.append({"en": "without a second", "de": "eins", "de2": None})
    path = write(tmp_path / "a.json", json.dumps(rows).encode())
    splits = load_corpus(path, source_column="en", target_column="de,de2")
    assert sum(splits.num_rows.values()) == 100 and "1 with an empty side" in caplog.text
    for row in splits["test"]:
        assert row["references"] == [row["target"], f"{row['target']}, anders"]
    stream = load_corpus(path, source_column="en", target_column="de,de2", streaming=True)
    assert next(iter(stream["train"])).keys() == {"source", "target"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"source": "a", "target": "b"},\n {"source" "c"}]', "line 2, column 12"),
        ('[{"source": "a", "target": "b"}\n {"source": "c"}]', "line 2, column 2: expected , or ]"),
        ('[{"source": "a", "target": "b"}, ["c"]]', "row 2: expected an object .* got list"),
        ('[{"source": "a", "target": "b"}', "the array is not closed"),
        ('[{"source": "a", "target": "b"}] {}', "nothing may follow"),
        ('[{"source": "a", "target": "b"},]', "line 1, column 33"),
        ('{"source": ["a", "b"], "target": ["c"]}', "source has 2 rows, target has 1 rows"),
        ('{"source": ["a"], "target": "c"}', "target has no list of rows"),
        ('{"source": "a"}\n"b"\n', "line 2: expected an object"),
        ('{"source":\n "a"', "line 2, column 5"),
        ('[{"source": "caf\udce9"}]', "a.json, line 1: not UTF-8"),
        ("7", "expected an object"),
    ],
)
def test_broken_json_is_named_by_line(tmp_path, content, message):
    path = write(tmp_path / "a.json", content.encode("utf-8", "surrogateescape"))
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            load_corpus(path, streaming=streaming)


@SETTINGS
@given(length=st.integers(CHUNK - 40, CHUNK + 40), text=TEXTS)
def test_an_array_is_read_across_the_pieces_that_it_is_read_in(tmp_path, length, text):
    rows = [("x" * length, text), (text, "y" * 3 * CHUNK), ("z", "z")]
    path = write(tmp_path / "a.json", json.dumps(as_rows(rows), ensure_ascii=False).encode())
    assert read(path) == [(a.strip(), b.strip()) for a, b in rows]


def test_lone_surrogates_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "\\ud83d", "target": "b"}\n')
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"a\.jsonl: .*line 2: .*surrogate"):
            load_corpus(path, streaming=streaming)


def test_a_file_of_the_same_time_and_size_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    for word in ("alt", "neu"):
        write(path, WRITERS["jsonl"]([(a, f"{word} {b}") for a, b in NUMBERED]))
        os.utime(path, (0, 0))
        assert load_corpus(path)["train"][0]["target"].startswith(word)
        assert load_rows(files={"train": str(path)})["train"][0]["target"].startswith(word)


@pytest.mark.parametrize("streaming", [False, True])
def test_pipes_are_read_once(tmp_path, streaming):
    def feed(path, content):
        thread = threading.Thread(target=path.write_bytes, args=[content], daemon=True)
        os.mkfifo(path)
        thread.start()

    feed(tmp_path / "a.jsonl", WRITERS["jsonl"](NUMBERED))
    splits = load_corpus(tmp_path / "a.jsonl", streaming=streaming)
    assert sorted(tuple(row.values()) for split in splits.values() for row in split) == sorted(NUMBERED)
    for side, lines in zip(("en", "de"), zip(*NUMBERED, strict=True), strict=True):
        feed(tmp_path / side, "".join(f"{line}\n" for line in lines).encode())
    assert len(list(load_corpus(tmp_path / "en", tmp_path / "de", streaming=streaming)["train"])) > 90


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.tsv", as_tsv(NUMBERED))
    assert load_corpus("~/a.tsv")["train"].num_rows == 95
    assert load_rows(files={"train": "~/a.tsv"})["train"].num_rows == 90
    assert load_texts("~/a.tsv", text_column="source")["train"].num_rows == 95


PO = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=3; plural=(n==0 ? 0 : n==1 ? 1 : 2);\\n"

msgid "Open\\u2028 the \\"file\\"\\n"
msgstr "\\u00d6ffne die \\"Datei\\"\\n"

#, fuzzy
msgid "guess"
msgstr "geraten"

msgid "untranslated"
msgstr ""

msgid "one file"
msgid_plural "%d files"
msgstr[0] "keine"
msgstr[1] "eine"
msgstr[2] "viele"

#~ msgid "old"
#~ msgstr "alt"
""".replace("\\u2028", "\u2028").replace("\\u00d6", "\u00d6")


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_catalogue_of_messages(tmp_path, caplog, compression):
    caplog.set_level("INFO", logger="hf_vanilla.data")
    path = write(tmp_path / f"de.po{compression}", COMPRESSORS[compression](PO.encode()))
    pairs = [
        ('Open\u2028 the "file"', 'Öffne die "Datei"'),
        ("%d files", "keine"),
        ("one file", "eine"),
        ("%d files", "viele"),
    ]
    assert read(path) == pairs
    assert read(path, columns={"source": "msgstr", "target": "msgid"}) == [pair[::-1] for pair in pairs]
    more = "".join(f'\nmsgid "message {n}"\nmsgstr "Nachricht {n}"\n' for n in range(80))
    write(path, COMPRESSORS[compression]((PO + more).encode()))
    assert sum(map(len, load_corpus(path).values())) == 84
    assert "84 translations; left out 1 fuzzy, 1 untranslated, 1 obsolete" in caplog.text
    with pytest.raises(ValueError, match="no column 'en'; its columns are msgid, msgstr"):
        load_corpus(path, source_column="en")
    with pytest.raises(ValueError, match=r"bad\.po: cannot be read as \.po: .*line 3"):
        load_corpus(write(tmp_path / "bad.po", b'msgid "a"\nmsgstr "b"\nnonsense\n'))


TMX = """<?xml version="1.0"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="en-US">
  <seg>Press <bpt i="1">&lt;b&gt;</bpt>OK<ept i="1">&lt;/b&gt;</ept> &amp; <hi>go</hi>.</seg></tuv>
  <tuv lang="DE"><seg>Dr\u00fccke\u00a0OK.</seg></tuv></tu>
<tu><tuv xml:lang="en-GB"><seg>Colour</seg></tuv><tuv xml:lang="de-AT"><seg>Farbe</seg></tuv>
  <tuv xml:lang="de"><seg>F.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Alone</seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_translation_memory(tmp_path, encoding):
    path = write(tmp_path / "a.tmx", TMX.encode(encoding))
    columns = {"source": "en", "target": "de"}
    assert read(path, columns=columns) == [("Press OK & go.", "Drücke\xa0OK."), ("Colour", "F."), ("Alone", "")]
    assert read(path, columns=columns | {"target": "de-at"})[1] == ("Colour", "Farbe")
    with pytest.raises(ValueError, match="no column 'source'; its columns are en-US, DE"):
        load_corpus(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]>', "it declares entities"),
        (b'<!DOCTYPE tmx [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]>', "it declares entities"),
        (b"", "line 2, column .*'a' not defined"),
        (b'<!DOCTYPE tmx SYSTEM "tmx14.dtd">', "line 2: &a; is not declared"),
    ],
)
def test_dangerous_and_broken_memories_are_refused(tmp_path, content, message):
    unit = b'<tu><tuv xml:lang="en"><seg>&a;</seg></tuv><tuv xml:lang="de"><seg>b</seg></tuv></tu>'
    path = write(tmp_path / "a.tmx", content + b"\n<tmx><body>" + unit + b"</body></tmx>")
    with pytest.raises(ValueError, match=rf"a\.tmx: cannot be read as \.tmx: .*({message})"):
        load_corpus(path, source_column="en", target_column="de")
    with pytest.raises(ValueError, match=r"a\.tmx: cannot be read as \.tmx: expected the element <tmx>"):
        load_corpus(write(path, b"<html/>"), source_column="en", target_column="de")


@pytest.mark.parametrize("name", ["a.tmx", "a.po"])
def test_a_library_that_is_missing_is_named(tmp_path, name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lxml" if name == "a.tmx" else "polib", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-vanilla\[translators\]'"):
        load_corpus(write(tmp_path / name, b"x"))


def test_labels_stay_as_they_are_written_unless_all_are_numbers(tmp_path):
    columns = {"code": ["0111", "01", "1"], "version": ["1.10", "1.9", "2"], "count": ["7", "", "-12"]}
    columns |= {"score": ["0.5", "1", "-2.25"], "long": ["12345678901234567890", "1", "2"], "text": ["NA", "1", " x "]}
    rows = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    table = load_file(write(tmp_path / "a.csv", "\n".join(rows).encode()))
    expected = {"count": [7, None, -12], "score": [0.5, 1.0, -2.25]}
    assert table.to_dict() == columns | expected


def test_values_of_json_keep_their_types_and_a_mixture_is_named(tmp_path):
    rows = [{"tokens": ["a", "b"], "label": 1}, {"label": 2, "answers": {"text": ["x"]}}] * 1_000
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    table = load_file(path)
    assert table[1] == {"tokens": None, "label": 2, "answers": {"text": ["x"]}}
    rows[1_234] = {"label": "two"}
    with pytest.raises(ValueError, match=r"line 1235: column 'label' holds str \('two'\)"):
        load_file(write(path, "\n".join(map(json.dumps, rows)).encode()))


def test_a_cache_that_cannot_be_written_is_said_before_a_row_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", write(tmp_path / "cache", b"") / "below")
    with pytest.raises(OSError, match="below"):
        load_corpus(write(tmp_path / "a.tsv", as_tsv(NUMBERED)))
    assert not list(Path(tmp_path).glob("**/*.partial"))
