"""BLEU and chrF by sacreBLEU, as an `evaluate.Metric` that works offline."""

from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF


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
