"""BLEU and chrF by sacreBLEU, as an `evaluate.Metric` that works offline, and the scores of fine-tuned heads."""

import re
import string
from collections import Counter
from typing import Any

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

# Resamples of a test set, as sacreBLEU takes them unless told otherwise.
RESAMPLES = 1000


class TranslationQuality(evaluate.Metric):
    """Corpus BLEU and chrF2 with the signatures without which neither can be compared.

    Used as any metric of `evaluate`: `TranslationQuality().compute(predictions=[...], references=[[...], ...])`, each
    prediction with one or more references, the same number for all. Returns `bleu`, `chrf` (0 to 100),
    `bleu_signature`, `chrf_signature` and `sentences`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU (Papineni et al., 2002) and chrF2 (Popović, 2015), computed by sacreBLEU.",
            citation="Matt Post. A Call for Clarity in Reporting BLEU Scores. WMT 2018.",
            inputs_description=str(type(self).__doc__),
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
            ),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        if len({len(options) for options in references}) != 1:
            raise ValueError("references differ in number; expected as many for each prediction")
        streams = [list(stream) for stream in zip(*references, strict=True)]
        bleu, chrf = BLEU(), CHRF()
        return {
            "bleu": bleu.corpus_score(predictions, streams).score,
            "chrf": chrf.corpus_score(predictions, streams).score,
            "bleu_signature": str(bleu.get_signature()),
            "chrf_signature": str(chrf.get_signature()),
            "sentences": len(predictions),
        }


def confidence(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Half of the width of the 95 % intervals of BLEU and chrF, by bootstrap (Koehn, 2004): `bleu` and `chrf`.

    Args:
        predictions: one translation a sentence.
        references: one list of references a sentence, all as long.
    """
    streams = [list(stream) for stream in zip(*references, strict=True)]
    scores = {"bleu": BLEU(), "chrf": CHRF()}
    return {
        name: float(metric.corpus_score(predictions, streams, n_bootstrap=RESAMPLES)._ci)
        for name, metric in scores.items()
    }


def compare(predictions: list[str], others: list[str], references: list[list[str]]) -> dict[str, float]:
    """The probability that `predictions` differ so much from `others` by chance, by paired bootstrap: `bleu`, `chrf`.

    Args:
        predictions: one translation a sentence.
        others: those of another system.
        references: one list of references a sentence, all as long.
    """
    if predictions == others:  # sacreBLEU finds that significant
        return {"bleu": 1.0, "chrf": 1.0}
    streams = [list(stream) for stream in zip(*references, strict=True)]
    systems: Any = [("others", others), ("predictions", predictions)]
    test = PairedTest(systems, {"bleu": BLEU(), "chrf": CHRF()}, streams, test_type="bs", n_samples=RESAMPLES)
    results: Any = test()[1]
    return {"bleu": float(results["BLEU"][1].p_value), "chrf": float(results["chrF2"][1].p_value)}


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The mean, over the classes that occur in `labels`, of the F1 of each: 2 TP / (predicted + labelled).

    Args:
        predictions, labels: classes (n,).
    """
    scores = [
        2
        * ((predictions == label) & (labels == label)).sum()
        / ((predictions == label).sum() + (labels == label).sum())
        for label in np.unique(labels)
    ]
    return float(np.mean(scores))


def span_f1(predictions: list[list[str]], labels: list[list[str]]) -> float:
    """F1 of the spans of sentences tagged B-TYPE, I-TYPE and O: a span counts with both its ends and its type.

    An I-TYPE that continues no span of its type starts one.
    """

    def spans(tags: list[str]) -> set[tuple[int, int, str]]:
        found, start, kind = set(), 0, ""
        for position, tag in enumerate([*tags, "O"]):
            prefix, _, name = tag.partition("-")
            if kind and (prefix != "I" or name != kind):
                found.add((start, position, kind))
                kind = ""
            if prefix in ("B", "I") and not kind:
                start, kind = position, name
        return found

    pairs = [(spans(own), spans(right)) for own, right in zip(predictions, labels, strict=True)]
    found, expected = sum(len(own) for own, _ in pairs), sum(len(right) for _, right in pairs)
    return 2 * sum(len(own & right) for own, right in pairs) / max(1, found + expected)


def answer_scores(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Exact match and F1 of words, in percent, as SQuAD has them (Rajpurkar et al., 2016, arXiv:1606.05250).

    Args:
        predictions: one answer a question; "" says that there is none.
        references: the answers that are right; none where there is no answer.
    """

    def words(answer: str) -> list[str]:
        return re.sub(r"\b(a|an|the)\b", " ", re.sub(f"[{re.escape(string.punctuation)}]", "", answer.lower())).split()

    def overlap(own: list[str], right: list[str]) -> float:
        if not own or not right:
            return float(own == right)
        return 2 * (Counter(own) & Counter(right)).total() / (len(own) + len(right))

    exact, overlaps = 0.0, 0.0
    for prediction, answers in zip(predictions, references, strict=True):
        options = [words(answer) for answer in answers or [""]]
        exact += max(float(words(prediction) == option) for option in options)
        overlaps += max(overlap(words(prediction), option) for option in options)
    count = max(1, len(predictions))
    return {"exact_match": 100 * exact / count, "f1": 100 * overlaps / count}
