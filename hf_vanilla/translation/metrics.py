"""Scores of generated texts by sacreBLEU, with their uncertainty, and the base of all metrics of this package."""

import functools
import inspect
import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.lib_ter import translation_edit_rate
from sacrebleu.significance import PairedTest

from hf_vanilla.translation.error_rates import ErrorRate, ExactMatch
from hf_vanilla.translation.score_choices import (
    BY_BLANKS,
    FEWEST,
    GENERAL,
    NEAREST_SCORES,
    QUICK_SCORES,
    TRANSLATION_SCORES,
    check_scores,
    choose_tokenizer,
    require_tokenizer,
    tokenizer_of_language,
)

RESAMPLES = 1000  # of a test set, as many as sacreBLEU takes by default
EQUAL = 1e-9  # percent: scores that differ by less came about by the same counts


class OfflineMetric(evaluate.Metric):
    """A metric that is part of this package; what `evaluate.load` loads has to be fetched from the Hub first.

    A subclass has a docstring, the types of a single prediction and reference in `PREDICTION` and `REFERENCE`, and
    `_compute(predictions, references)`.
    """

    PREDICTION: datasets.Value
    REFERENCE: datasets.Value | datasets.List
    CITATION = ""

    def __init__(self, **options: Any) -> None:
        # In a file, each process that scores the same texts would wait a second for the lock of the first.
        in_memory = options.get("num_process", 1) == 1
        options = {"keep_in_memory": in_memory} | options
        try:
            super().__init__(**options)
        except OSError:  # the cache cannot be written to, where even a metric in memory makes a folder
            super().__init__(**options | {"cache_dir": tempfile.mkdtemp()})

    def _info(self) -> evaluate.MetricInfo:
        text = inspect.getdoc(type(self)) or ""
        return evaluate.MetricInfo(
            description=text.partition("\n")[0],
            citation=self.CITATION,
            inputs_description=text,
            features=datasets.Features({"predictions": self.PREDICTION, "references": self.REFERENCE}),
        )


class InFloats:
    """Has a metric of sacreBLEU compute with floats: its mean of resamples fails on some that are float32."""

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Any:
        return super()._compute_score_from_stats(list(map(float, stats)))  # type: ignore[misc]


class BLEUInFloats(InFloats, BLEU):
    """sacreBLEU's BLEU."""


class CHRFInFloats(InFloats, CHRF):
    """sacreBLEU's chrF."""


class RememberedTER(InFloats, TER):
    """sacreBLEU's TER, which remembers what it has compared: a pair of unlike texts can take a tenth of a second.

    In texts without blanks between words, it counts the tokens that BLEU takes, and its signature says so.
    """

    def __init__(self, tokenizer: str = GENERAL) -> None:
        super().__init__()
        self.words = None if tokenizer in BY_BLANKS else BLEU(tokenize=tokenizer).tokenizer
        if self.words:
            self.tokenizer_signature = f"{tokenizer}+{self.tokenizer_signature}"

    def _preprocess_segment(self, sent: str) -> str:
        return super()._preprocess_segment(self.words(sent) if self.words else sent)

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Mapping[str, Any]) -> list[float]:
        own = tuple(hypothesis.split())
        edits, lengths = zip(*(count_edits(own, tuple(words)) for words in ref_kwargs["ref_words"]), strict=True)
        return [min(edits), sum(lengths) / len(lengths)]


@functools.lru_cache(maxsize=2**18)
def count_edits(own: tuple[str, ...], right: tuple[str, ...]) -> tuple[int, int]:
    """Return how many edits and shifts of words make them those of a reference, and how many it has."""
    edits, length = translation_edit_rate(list(own), list(right))
    return edits, length


def build_metric(name: str, tokenizer: str) -> Metric:
    """Return the metric for one of [`SCORES`]; BLEU, and TER without blanks, cut words as `tokenizer` does."""
    if name == "bleu":
        return BLEUInFloats(tokenize=tokenizer)
    if name in ("chrf", "chrf++"):
        return CHRFInFloats(word_order=2 if name == "chrf++" else 0)
    if name == "ter":
        return RememberedTER(tokenizer)
    return ExactMatch() if name == "exact_match" else ErrorRate(name.partition("_")[0])


class TranslationQuality(OfflineMetric):
    """Scores of translations and other generated texts, computed as sacreBLEU does.

    Used as any metric of `evaluate`: `TranslationQuality().compute(predictions=[...], references=[[...], ...])`, each
    prediction with one or more references, the same number for all unless exact match and error rates of characters or
    tokens, for which the nearest counts, are all that is asked for. By default the scores are `bleu`, corpus BLEU
    (Papineni et al., 2002); `chrf` and `chrf++`, chrF2 of characters (Popović, 2015) and with pairs of words
    (Popović, 2017); and `ter`, the translation edit rate (Snover et al., 2006). All are percentages. There is also the
    signature of each, without which it cannot be compared, such as `bleu_signature`, and the number of `sentences`.

    Args:
        metrics: names of scores, out of those and `exact_match`, `character_error_rate` and `token_error_rate`; or
            metrics of sacreBLEU's kind, by name.
        language: code of the target's language, by which BLEU's tokenizer is chosen; see [`choose_tokenizer`].
        tokenize: the tokenizer itself.
        intervals: also give half of the width of the 95 % interval of each by bootstrap (Koehn, 2004), such as
            `bleu_confidence`; None for a single sentence, which has none.
    """

    PREDICTION = datasets.Value("string")
    REFERENCE = datasets.List(datasets.Value("string"))
    CITATION = "Matt Post. A Call for Clarity in Reporting BLEU Scores. WMT 2018."

    def __init__(
        self,
        *,
        metrics: Sequence[str] | Mapping[str, Metric] = TRANSLATION_SCORES,
        language: str | None = None,
        tokenize: str | None = None,
        intervals: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.metrics = metrics if isinstance(metrics, Mapping) else check_scores(metrics)
        # What is unknown is refused before anything is translated.
        if language:
            tokenizer_of_language(language)
        if tokenize:
            require_tokenizer(tokenize)
        self.language, self.tokenize, self.intervals = language, tokenize, intervals

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float | int | str | None]:
        names = self.metrics
        if not isinstance(names, Mapping) and all(name in NEAREST_SCORES for name in names):
            references = of_equal_number(references)
        metrics, enough = build_metrics(names, references, self.language, self.tokenize), len(predictions) > 1
        found: dict[str, float | int | str | None] = {}
        for name, metric in metrics.items():
            resamples = RESAMPLES if self.intervals and enough else 1
            score = metric.corpus_score(predictions, transposed(references), n_bootstrap=resamples)
            metric.n_bootstrap = metric.seed = None  # a signature says how the score came about, not its interval
            found |= {name: float(score.score), f"{name}_signature": str(metric.get_signature())}
            if self.intervals:
                found[f"{name}_confidence"] = float(score._ci) if enough else None
        return found | {"sentences": len(predictions)}


def build_metrics(
    metrics: Sequence[str] | Mapping[str, Metric],
    references: Sequence[Sequence[str]],
    language: str | None = None,
    tokenize: str | None = None,
) -> Mapping[str, Metric]:
    """Return metrics of sacreBLEU's kind by name, with the tokenizer that these references need."""
    if len({len(options) for options in references}) != 1:
        raise ValueError("references differ in number; expected as many for each prediction")
    if isinstance(metrics, Mapping):
        return metrics
    names = check_scores(metrics)
    cuts = {"bleu", "ter"}.intersection(names)
    tokenizer = choose_tokenizer(references, language, tokenize) if cuts else GENERAL
    return {name: build_metric(name, tokenizer) for name in names}


def of_equal_number(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return references, as many for each text as there are at most: the first of a text stands for those it lacks."""
    most = max(map(len, references), default=0)
    return [[*options, *list(options[:1]) * (most - len(options))] for options in references]


def transposed(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return references as sacreBLEU wants them: for each of several references, a list of that of every sentence."""
    return [list(stream) for stream in zip(*references, strict=True)]


def confidence(
    predictions: list[str],
    references: list[list[str]],
    metrics: Sequence[str] = QUICK_SCORES,
    **choice: str | None,
) -> dict[str, float | None]:
    """Return half of the width of the 95 % interval of each score, by bootstrap; None for a single sentence.

    `choice` is the `language` or `tokenize` of [`TranslationQuality`].
    """
    quality = TranslationQuality(metrics=metrics, intervals=True, **choice)
    scores = quality.compute(predictions=predictions, references=references)
    return {name: scores[f"{name}_confidence"] for name in metrics}


def compare(
    predictions: list[str],
    others: list[str],
    references: list[list[str]],
    metrics: Sequence[str] | Mapping[str, Metric] = QUICK_SCORES,
    **choice: str | None,
) -> dict[str, float | None]:
    """Return for each score the probability that two systems differ this much by chance, by paired bootstrap.

    It is 1 for equal scores, and None for different ones of fewer than [`FEWEST`] sentences, which show nothing.
    `choice` is the `language` or `tokenize` of [`TranslationQuality`].
    """
    built = build_metrics(metrics, references, **choice)
    if predictions == others:
        return dict.fromkeys(built, 1.0)
    streams = transposed(references)
    systems: list[tuple[str, Sequence[str]]] = [("others", others), ("predictions", predictions)]
    if len(predictions) < FEWEST:
        scores = {
            name: [metric.corpus_score(texts, streams).score for _, texts in systems] for name, metric in built.items()
        }
        return {name: 1.0 if math.isclose(*pair, abs_tol=EQUAL) else None for name, pair in scores.items()}
    results: Any = PairedTest(systems, built, streams, test_type="bs", n_samples=RESAMPLES)()[1]
    found: dict[str, float | None] = {}
    for name, (other, own) in zip(built, list(results.values())[1:], strict=True):  # the first has the systems' names
        # sacreBLEU takes no difference for one that chance hardly makes.
        found[name] = 1.0 if math.isclose(own.score, other.score, abs_tol=EQUAL) else float(own.p_value)
    return found
