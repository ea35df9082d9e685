"""Scores of translations by sacreBLEU, with their uncertainty, and the base of all metrics of this package."""

import inspect
import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

RESAMPLES = 1000  # of a test set, as many as sacreBLEU takes by default


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


class TranslationQuality(OfflineMetric):
    """Corpus BLEU (Papineni et al., 2002) and chrF2 (Popović, 2015), computed by sacreBLEU.

    Used as any metric of `evaluate`: `TranslationQuality().compute(predictions=[...], references=[[...], ...])`, each
    prediction with one or more references, the same number for all. Returns `bleu`, `chrf` (0 to 100), the signatures
    without which neither can be compared, `bleu_signature` and `chrf_signature`, and the number of `sentences`.
    """

    PREDICTION = datasets.Value("string")
    REFERENCE = datasets.List(datasets.Value("string"))
    CITATION = "Matt Post. A Call for Clarity in Reporting BLEU Scores. WMT 2018."

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float | int | str]:
        if len({len(options) for options in references}) != 1:
            raise ValueError("references differ in number; expected as many for each prediction")
        found: dict[str, float | int | str] = {}
        for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
            found[name] = metric.corpus_score(predictions, transposed(references)).score
            found[f"{name}_signature"] = str(metric.get_signature())
        return found | {"sentences": len(predictions)}


def transposed(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return references as sacreBLEU wants them: for each of several references, a list of that of every sentence."""
    return [list(stream) for stream in zip(*references, strict=True)]


def confidence(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Return half of the width of the 95 % intervals of BLEU and chrF, by bootstrap (Koehn, 2004): `bleu`, `chrf`."""
    widths = {}
    for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
        score = metric.corpus_score(predictions, transposed(references), n_bootstrap=RESAMPLES)
        widths[name] = float(score._ci)
    return widths


def compare(predictions: list[str], others: list[str], references: list[list[str]]) -> dict[str, float]:
    """Return the probability that two systems differ this much by chance, by paired bootstrap: `bleu`, `chrf`."""
    if predictions == others:  # sacreBLEU would find the difference significant
        return {"bleu": 1.0, "chrf": 1.0}
    systems: list[tuple[str, Sequence[str]]] = [("others", others), ("predictions", predictions)]
    metrics = {"bleu": BLEU(), "chrf": CHRF()}
    test = PairedTest(systems, metrics, transposed(references), test_type="bs", n_samples=RESAMPLES)
    results: Any = test()[1]
    return {"bleu": float(results["BLEU"][1].p_value), "chrf": float(results["chrF2"][1].p_value)}
