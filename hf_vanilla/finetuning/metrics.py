"""Scores of fine-tuned heads."""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
from datasets import List, Value
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_vanilla.translation.metrics import OfflineMetric


class ClassScores(OfflineMetric):
    """Accuracy of classes, and macro F1: the mean F1 of the classes that occur in the references."""

    PREDICTION = REFERENCE = Value("int64")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        own, right = np.array(predictions), np.array(references)
        size = max(own.max(), right.max()) + 1
        of_own, of_right, of_both = (np.bincount(ids, minlength=size) for ids in (own, right, own[own == right]))
        f1 = (2 * of_both / np.maximum(1, of_own + of_right))[of_right > 0]
        return {"accuracy": float((own == right).mean()), "macro_f1": float(f1.mean())}


class LabelScores(OfflineMetric):
    """Micro F1 of texts with several labels: a row is a 0 or 1 for each class."""

    PREDICTION = REFERENCE = List(Value("int64"))

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
        own, right = np.array(predictions), np.array(references)
        return {"f1": float(2 * (own & right).sum() / max(1, own.sum() + right.sum()))}


class ValueScores(OfflineMetric):
    """Mean squared error of values, and Pearson's correlation with the references."""

    PREDICTION = REFERENCE = Value("float64")

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        own, right = np.array(predictions), np.array(references)
        return {"mse": float(((own - right) ** 2).mean()), "pearson": float(np.corrcoef(own, right)[0, 1])}


# The metric of texts, by transformers' name for what their labels ask for.
TEXT_SCORES = {"single_label_classification": ClassScores, "multi_label_classification": LabelScores}
TEXT_SCORES |= {"regression": ValueScores}


class SpanScores(OfflineMetric):
    """F1 of spans in tagged sentences, with both ends and type right; see [`spans_of`].

    Tags that are of none of [`SCHEMES`] are a `ValueError`.
    """

    PREDICTION = REFERENCE = List(Value("string"))

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        tags = {"O"}.union(*references, *predictions)
        if find_scheme(tags) is None and tags != {"O"}:
            raise ValueError(f"{', '.join(sorted(tags)[:10])} are no tags of spans such as B-PER, I-PER, O")
        pairs = [(spans_of(own), spans_of(right)) for own, right in zip(predictions, references, strict=True)]
        total = sum(len(own) + len(right) for own, right in pairs)
        return {"span_f1": 2 * sum(len(own & right) for own, right in pairs) / max(1, total)}


SCHEMES = {"IO": "I", "IOB": "BI", "IOE": "IE", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEW": "BMEW"}
"""The ways to tag spans, and the letters beside O; IOB1 and IOB2 are read alike, and so are IOE1 and IOE2."""

ROLES = {"L": "E", "U": "S", "W": "S", "M": "I"}
"""What the letters of a scheme are in BIOES: a span's last word, its only word, and one inside."""


def split_tag(tag: str) -> tuple[str, str]:
    """Return the letter and the type of a tag such as `B-PER`, `o` or `S`; no letter for what is no tag of spans."""
    match = re.fullmatch(r"([A-Za-z])(?:-(.+))?", tag)
    return (match[1].upper(), match[2] or "") if match else ("", tag)


def find_scheme(tags: Iterable[str], given: str | None = None) -> str | None:
    """Return the scheme of [`SCHEMES`] that tags follow: the one `given`, or the first that has all their letters.

    It is None if they tag single words, as parts of speech do, and if "none" is given. Tags are of spans if one is as
    `B-PER` or `I-PER`, if a letter with a type stands beside O, or if O stands beside B or I without types. If no
    scheme has them all, or not the one given, that is a `ValueError`.
    """
    if given not in (None, "none", *SCHEMES):
        raise ValueError(f"tag_scheme is {given!r}; expected none or one of {', '.join(SCHEMES)}")
    parts = {tag: split_tag(tag) for tag in tags}
    outside = ("O", "") in parts.values()
    letters = {letter for letter, kind in parts.values() if (letter, kind) != ("O", "")}
    typed = {letter for letter, kind in parts.values() if letter and kind}
    if given == "none" or (not given and not typed & {"B", "I"} and not (outside and (typed or letters & {"B", "I"}))):
        return None
    fitting = [name for name in ([given] if given else SCHEMES) if letters <= set(SCHEMES[name])]
    if fitting or not (given or typed):
        return next(iter(fitting), None)
    some = ", ".join(sorted(parts)[:10])
    expected = f"expected O and letters of {given or 'one of ' + ', '.join(SCHEMES)}, such as B-PER"
    raise ValueError(f"the tags {some} are not those of spans: {expected}; --tag_scheme none scores words alone")


def spans_of(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the spans of a tagged sentence: first word, the word after the last, type.

    As in the evaluation of CoNLL-2000, a span also begins with a word inside or at its end where none of its type is
    open, and also ends where one of another type or none follows: what a model predicts need not be well-formed.
    """
    found: set[tuple[int, int, str]] = set()
    start, kind = None, ""
    for position, tag in enumerate([*tags, "O"]):
        letter, name = split_tag(tag)
        role = ROLES.get(letter, letter)
        if start is not None and (role not in ("I", "E") or name != kind):
            found.add((start, position, kind))
            start = None
        if start is None and role in ("B", "I", "E", "S"):
            start, kind = position, name
        if start is not None and role in ("E", "S"):
            found.add((start, position + 1, kind))
            start = None
    return found


def score_tags(
    classes: np.ndarray, labels: np.ndarray, names: Sequence[str], tag_scheme: str | None = None
) -> dict[str, float]:
    """Return accuracy and macro F1 of tags (rows, length) with labels not -100, and F1 of spans.

    [`find_scheme`] says whether the tags with these `names` are those of spans.
    """
    first = labels != -100
    scores = ClassScores().compute(predictions=classes[first], references=labels[first])
    if find_scheme(names, tag_scheme):
        own, right = (tags_of(ids, first, names) for ids in (classes, labels))
        scores |= SpanScores().compute(predictions=own, references=right)
    return scores


def tags_of(classes: np.ndarray, first: Sequence[Sequence[bool]], names: Sequence[str]) -> list[list[str]]:
    """Return the tag of each word, for classes of tokens (rows, length), of which the `first` of each word counts."""
    return [[names[i] for i in compress(row, of_row)] for row, of_row in zip(classes, first, strict=True)]


class AnswerScores(OfflineMetric):
    """Exact match and F1 of words, in percent, as SQuAD has them (Rajpurkar et al., 2016, arXiv:1606.05250).

    A prediction is an answer, "" to say that there is none; a reference is a list of the answers that are right,
    empty where there is none.
    """

    PREDICTION, REFERENCE = Value("string"), List(Value("string"))

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        pairs = [
            (words_of(own), [words_of(answer) for answer in right or [""]])
            for own, right in zip(predictions, references, strict=True)
        ]
        exact = np.mean([own in right for own, right in pairs])
        f1 = np.mean([max(overlap(own, answer) for answer in right) for own, right in pairs])
        return {"exact_match": 100 * float(exact), "f1": 100 * float(f1)}


def words_of(answer: str) -> list[str]:
    """Return the words of an answer in small letters, without articles and punctuation."""
    return re.sub(r"\b(a|an|the)\b", " ", re.sub(f"[{re.escape(string.punctuation)}]", "", answer.lower())).split()


def overlap(own: list[str], right: list[str]) -> float:
    """Return the F1 of the words of two answers, 0 to 1."""
    if not own or not right:
        return float(own == right)
    return 2 * (Counter(own) & Counter(right)).total() / (len(own) + len(right))


class Perplexity(TrainerCallback):
    """Puts the exponential of each loss of an evaluation beside it, and into its log, unless labels are smoothed."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: object
    ) -> None:
        for name in [name for name in metrics if name.endswith("_loss") and not args.label_smoothing_factor]:
            perplexity = math.exp(min(metrics[name], 700.0))  # e to the 710 is no float any more
            for told in (metrics, state.log_history[-1]):
                told[name.removesuffix("loss") + "perplexity"] = perplexity

    on_predict = on_evaluate
