"""Scores of labels, spans and answers."""

import re
import string
from collections import Counter

import numpy as np


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
