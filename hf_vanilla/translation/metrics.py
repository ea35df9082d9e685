"""BLEU and chrF by sacreBLEU, as an `evaluate.Metric` that works offline, and the scores of fine-tuned heads."""

from typing import Any

import datasets
import evaluate
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
