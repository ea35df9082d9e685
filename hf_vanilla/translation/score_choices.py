"""Which scores there are, and which tokenizer BLEU takes: that of the target's language, or of the references' script.

Nothing here imports torch, so that wrong names are refused at once.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

logger = logging.getLogger(__name__)

SCORES = ("bleu", "chrf", "chrf++", "ter", "exact_match", "character_error_rate", "token_error_rate")
"""The names of scores, as `metrics` takes them; those of translations come first."""

TRANSLATION_SCORES = SCORES[:4]
NEAREST_SCORES = SCORES[4:]
"""Those of any sequences, for which the nearest of several references counts."""
QUICK_SCORES = SCORES[:2]
"""What is measured while a model is trained, unless `metrics` says otherwise; TER can be slow."""

ERROR_RATES = ("ter", "character_error_rate", "token_error_rate")
"""Scores of which the lowest is the best."""

OF_LANGUAGES = {
    "zh": "zh zho chi cmn yue wuu nan hak lzh",
    "ja-mecab": "ja jpn",
    "ko-mecab": "ko kor",
    "char": "th tha lo lao km khm my mya bur bo bod tib dz dzo shn mnw nod khb tdd",
}
"""For each of sacreBLEU's tokenizers but the general one, the codes of the languages that need it (ISO 639)."""

GENERAL = "13a"
BY_BLANKS = (GENERAL, "intl", "none")
TOKENIZERS = (*BY_BLANKS, "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "spBLEU-1K", "spm")
EXTRAS = {"ja-mecab": "ja", "ko-mecab": "ko"}
"""The extra of sacreBLEU, and of this package, that a tokenizer needs."""

IN_PLACE_OF_EXTRAS = "char"
"""What is taken where an extra is missing. Korean has blanks, but between them words with all of their endings."""

UNSPACED = (
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}"
)
KANA, HAN = r"\p{Hiragana}\p{Katakana}", r"\p{Han}\p{Bopomofo}\p{Yi}"
WORDS = regex.compile(
    rf"(?V1)(?P<kana>[{KANA}])|(?P<han>[{HAN}])|(?P<unspaced>[{UNSPACED}])|(?P<hangul>\p{{Hangul}}+)"
    rf"|(?P<other>[[\p{{L}}\p{{M}}\p{{N}}]--[{KANA}{HAN}{UNSPACED}\p{{Hangul}}]]+)"
)
"""A word of a script that is written with blanks, or a character of one that is not."""

FEWEST = 10  # sentences in which two systems can differ by more than chance
READ = 1000  # references, evenly from all, are read to find their script
LONG = 20  # a text of more characters without a blank is hardly one word


def check_scores(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of scores without repetitions; one that is none of [`SCORES`] is a `ValueError`."""
    for name in (found := tuple(dict.fromkeys(names))):
        if name not in SCORES:
            raise ValueError(f"there is no score {name!r}; expected some of {', '.join(SCORES)}")
    return found


def choose_tokenizer(
    references: Sequence[Sequence[str]], language: str | None = None, tokenize: str | None = None
) -> str:
    """Return the name of the tokenizer that BLEU takes for texts like these.

    Args:
        references: those of each sentence.
        language: ISO 639 code of the target side, such as `zh` or `pt-BR`; without it, the script of most words of the
            references decides.
        tokenize: one of [`TOKENIZERS`], which then is taken.

    Where the extra for Japanese or Korean is not installed, and `tokenize` does not insist, a warning says what is
    taken. References without blanks that are to be cut at blanks are warned of, too.

    Raises:
        ValueError: `tokenize` is unknown, cannot be had here (nothing is ever downloaded), or `language` is no code.
    """
    if tokenize is not None:
        require_tokenizer(tokenize)
        chosen = tokenize
    else:
        wanted = tokenizer_of_language(language) if language else tokenizer_of_script(references)
        chosen = wanted
        try:
            require_tokenizer(wanted)
        except ValueError as error:
            chosen = IN_PLACE_OF_EXTRAS
            logger.warning("%s; until then, BLEU takes the tokenizer %s", error, chosen)
    if chosen in BY_BLANKS and have_no_blanks(references):
        taken = f"the references have no blanks, and the tokenizer {chosen} takes a sentence for a word"
        logger.warning("%s: BLEU means little; another one, such as zh or char, is chosen with `tokenize`", taken)
    return chosen


def tokenizer_of_language(language: str) -> str:
    """Return the tokenizer for an ISO 639 code, which may have a script or a country after it."""
    code, *_ = regex.split(r"[-_]", language.strip().lower())
    if not regex.fullmatch(r"[a-z]{2,3}", code):
        raise ValueError(f"target_language is {language!r}; expected a code such as de, zh or pt-BR (ISO 639)")
    return next((name for name, codes in OF_LANGUAGES.items() if code in codes.split()), GENERAL)


def tokenizer_of_script(references: Sequence[Sequence[str]]) -> str:
    """Return the tokenizer for the script that most words of the references are written in."""
    counts: Counter[str] = Counter()
    for row in references[:: max(1, len(references) // READ)]:
        counts.update(match.lastgroup or "" for text in row for match in WORDS.finditer(text))
    kana, together = counts["kana"], counts["kana"] + counts["han"]
    # A tenth, because Chinese borrows a kana now and then, and Japanese has no sentence without several.
    east_asian = "ja-mecab" if kana * 10 >= together else "zh"
    found = {"ko-mecab": counts["hangul"], east_asian: together, "char": counts["unspaced"]}
    name, most = max(found.items(), key=lambda pair: pair[1])
    return name if most > counts["other"] else GENERAL


def have_no_blanks(references: Sequence[Sequence[str]]) -> bool:
    """True if a script that is written without blanks prevails, or most texts of some length have none."""
    if tokenizer_of_script(references) in ("zh", "ja-mecab", "char"):
        return True
    long = [text for row in references[:: max(1, len(references) // READ)] for text in row if len(text) > LONG]
    return sum(len(text.split()) == 1 for text in long) * 2 > len(long)


def require_tokenizer(name: str) -> None:
    """Raise `ValueError` for a tokenizer that sacreBLEU does not have, or could not load without a download."""
    if name not in TOKENIZERS:
        raise ValueError(f"there is no tokenizer {name!r} for BLEU; expected one of {', '.join(TOKENIZERS)}")
    from sacrebleu.metrics import BLEU
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    if name in SPM_MODELS:
        url = SPM_MODELS[name]["url"]
        path = os.path.join(SACREBLEU_DIR, "models", os.path.basename(url))
        if not os.path.exists(path):
            raise ValueError(f"the tokenizer {name} needs a file, and nothing is downloaded: put {url} at {path}")
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError, AssertionError) as error:
        extra = EXTRAS.get(name)
        remedy = f'pip install "sacrebleu[{extra}]"' if extra else "pip install sentencepiece"
        reason = "" if isinstance(error, RuntimeError | ImportError) else f" ({error})"
        raise ValueError(f"the tokenizer {name} needs a package that is not installed{reason}: {remedy}") from error
