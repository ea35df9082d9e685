"""Exact match and error rates, for sequences that are no translation, in the form of sacreBLEU's own metrics."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import rapidfuzz
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.base import Metric, Score, Signature


class SequenceSignature(Signature):
    """What is compared, how it is normalised, and by which library."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self._abbr |= {"unit": "u", "norm": "n", "lib": "lib"}
        self.info |= {"unit": args["unit"], "norm": "nfc", "lib": "rapidfuzz", "version": rapidfuzz.__version__}


class ErrorRate(Metric):
    """Edits (Levenshtein, 1966) that make a prediction its reference, in percent of the reference's units.

    The units are characters or, with `unit="token"`, what stands between blanks. Sums are taken over all sentences. Of
    several references, the one with the lowest rate counts. Texts are compared in Unicode's form NFC, without white
    space around them, and with single blanks inside.
    """

    _SIGNATURE_TYPE = SequenceSignature
    NAME = {
        "character": "CER",
        "token": "token error rate",
        "sequence": "exact match",
        "best": "recall among the best",
    }

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def _preprocess_segment(self, sent: str) -> str:
        return " ".join(unicodedata.normalize("NFC", sent).split())

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"references": refs}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Mapping[str, Any]) -> list[float]:
        own, *others = (
            list(text) if self.unit == "character" else text.split()
            for text in (hypothesis, *ref_kwargs["references"])
        )
        pairs = [(float(Levenshtein.distance(own, other)), float(len(other))) for other in others]
        count, length = min(pairs, key=lambda pair: (pair[0] / max(1, pair[1]), pair[0]))
        return [count, length]

    def _aggregate_and_compute(self, stats: Sequence[Sequence[float]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        # Without a unit to be right about, each edit is one too many.
        return Score(self.NAME[self.unit], 100 * float(stats[0]) / max(1.0, float(stats[1])))


class ExactMatch(ErrorRate):
    """The share, in percent, of predictions that are one of their references; texts are compared as by the class."""

    def __init__(self) -> None:
        super().__init__("sequence")

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Mapping[str, Any]) -> list[float]:
        return [float(hypothesis in ref_kwargs["references"]), 1.0]


class RecallAmongBest(ErrorRate):
    """The share, in percent, of texts that have a reference among their hypotheses, compared as by the class.

    `hypotheses` are those of each text, by which those of whoever asks for a score are replaced.
    """

    def __init__(self, hypotheses: Sequence[Sequence[str]]) -> None:
        super().__init__("best")
        self.hypotheses = hypotheses

    def of(self, rows: Sequence[int]) -> "RecallAmongBest":
        """Return the metric for some of the texts."""
        return RecallAmongBest([self.hypotheses[row] for row in rows])

    def corpus_score(self, hypotheses: Sequence[str], references: Any, n_bootstrap: int = 1) -> Score:
        """Return the score of the hypotheses of all texts."""
        return super().corpus_score(["\0".join(texts) for texts in self.hypotheses], references, n_bootstrap)

    def _preprocess_segment(self, sent: str) -> str:
        return "\0".join(super(RecallAmongBest, self)._preprocess_segment(text) for text in sent.split("\0"))

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Mapping[str, Any]) -> list[float]:
        return [float(not set(hypothesis.split("\0")).isdisjoint(ref_kwargs["references"])), 1.0]
