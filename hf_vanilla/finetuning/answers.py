"""Questions and texts as a model reads them, and its scores as answers (Devlin et al., 2019, section 4.2)."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_vanilla.data.labelled import cell, require_column
from hf_vanilla.finetuning.encoding import Batch
from hf_vanilla.finetuning.labels import check_texts, labelled_splits


def check_questions(splits: DatasetDict, columns: tuple[str, str, str], may_be_missing: bool) -> list[str]:
    """Return the splits with answers, which are all but a test split whose answers are not published.

    Args:
        columns: those of questions, texts, and answers `{"text": [...], "answer_start": [...]}`, as in SQuAD.
        may_be_missing: true if a question may have no answer.

    Raises:
        ValueError: a column is missing, a text is empty, or an answer does not stand in its text at the character
            where it says that it does.
    """
    question, context, answers = columns
    check_texts(splits, question, "question_column_name")
    check_texts(splits, context, "context_column_name")
    answered = labelled_splits(splits, answers)
    require_column(answered, answers, "answer_column_name")
    for split, rows in answered.items():
        for row, (text, given) in enumerate(zip(rows[context], rows[answers], strict=True)):
            _check_answer(given, text, cell(split, row, answers), cell(split, row, context), may_be_missing)
    return list(answered)


def _check_answer(given: object, text: str, at: str, text_at: str, may_be_missing: bool) -> None:
    if not isinstance(given, dict) or not isinstance(given.get("text"), list):
        expected = '{"text": [...], "answer_start": [...]}'
        raise ValueError(f"{at} is {given!r}, expected {expected}")
    if not given["text"] and not may_be_missing:
        raise ValueError(f"{at} has no answer: leave the row out, or allow it by argument")
    starts = given.get("answer_start")
    if not isinstance(starts, list) or len(starts) != len(given["text"]):
        raise ValueError(f"{at}: answer_start is {starts!r}, expected one for each text")
    for answer, start in zip(given["text"], starts, strict=True):
        if not isinstance(answer, str) or not isinstance(start, int):
            raise ValueError(f"{at} is {given!r}, expected texts, and characters from 0")
        if not answer.strip():
            raise ValueError(f"{at} holds an empty text; no answer is an empty list")
        if not 0 <= start <= len(text) - len(answer):
            raise ValueError(f"{at}: {answer!r} at {start} lies outside of the {len(text)} characters of {text_at}")
        if (found := text[start : start + len(answer)]) != answer:
            raise ValueError(f"{at}: at {start} of {text_at} stands {found!r}, not {answer!r}")


def encode_questions(
    rows: Batch,
    indices: Sequence[int],
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    columns: tuple[str, str, str],
    answered: Collection[str],
    max_length: int,
    stride: int,
) -> BatchEncoding:
    """Return windows of question and text, as many as the text needs, with the place of the answer in each.

    Args:
        columns: those of questions, texts and answers.
        answered: the splits with answers.
        max_length, stride: tokens of a window, and of a text that two windows share.

    Returns:
        `input_ids` and what else the tokenizer gives; `row`, the number of the row; `offsets`, where each token stands
        in the text, (0, 0) for tokens outside it; and, where there are answers, `start_positions` and `end_positions`,
        their first and last token, or 0 for a window that does not hold the whole answer.

    Raises:
        ValueError: a question leaves no room for its text.
    """
    questions, texts, answers = (rows.get(column, []) for column in columns)
    for index, question in zip(indices, questions, strict=True):
        length = len(tokenizer(question)["input_ids"])
        if length + stride + 2 >= max_length:
            raise ValueError(
                f"{cell(split, index, columns[0])} has {length} tokens: windows of {max_length} that share {stride} "
                "leave no room for a text; give a larger --max_seq_length or a smaller --doc_stride"
            )
    batch = tokenizer(
        questions,
        texts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = batch.pop("overflow_to_sample_mapping")
    offsets = [
        [place if of == 1 else (0, 0) for place, of in zip(places, batch.sequence_ids(window), strict=True)]
        for window, places in enumerate(batch.pop("offset_mapping"))
    ]
    batch["row"] = [indices[owner] for owner in owners]
    batch["offsets"] = offsets
    if split in answered:
        spans = [span_of(answers[owner], places) for owner, places in zip(owners, offsets, strict=True)]
        batch["start_positions"], batch["end_positions"] = (list(side) for side in zip(*spans, strict=True))
    return batch


def span_of(answer: Batch, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first and the last token of the first answer, without the blanks around it.

    (0, 0) if there is no answer, or a window with these `offsets` does not hold all of it.
    """
    if not answer["text"]:
        return 0, 0
    text = answer["text"][0]
    start = answer["answer_start"][0] + len(text) - len(text.lstrip())
    end = start + len(text.strip())
    tokens = [i for i, (first, last) in enumerate(offsets) if last > first]
    if not tokens or offsets[tokens[0]][0] > start or offsets[tokens[-1]][1] < end:
        return 0, 0
    inside = [i for i in tokens if offsets[i][0] < end and offsets[i][1] > start]
    return (inside[0], inside[-1]) if inside else (0, 0)


def best_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    windows: Dataset,
    contexts: Sequence[str],
    longest: int,
    may_be_missing: bool,
) -> list[str]:
    """Return for each text the span of the highest score, the sum of its start's and its end's, in all its windows.

    Args:
        start_logits, end_logits: (windows, length).
        windows: what [`encode_questions`] makes.
        longest: tokens of an answer at most.
        may_be_missing: true if "" is the answer where, in all windows, the first token scores higher than any span.
    """
    best: dict[int, tuple[float, str]] = defaultdict(lambda: (-np.inf, ""))
    missing: dict[int, float] = defaultdict(lambda: np.inf)
    for start, end, row, offsets in zip(start_logits, end_logits, windows["row"], windows["offsets"], strict=True):
        places = np.array(offsets)
        length = len(places)
        scores = start[:length, None] + end[None, :length]
        is_text = places[:, 1] > places[:, 0]
        allowed = np.triu(np.outer(is_text, is_text)) & ~np.triu(np.ones((length, length), bool), longest)
        scores_of_spans = np.where(allowed, scores, -np.inf)
        first, last = np.unravel_index(scores_of_spans.argmax(), scores.shape)
        if scores_of_spans[first, last] > best[row][0]:
            best[row] = (float(scores_of_spans[first, last]), contexts[row][places[first, 0] : places[last, 1]])
        missing[row] = min(missing[row], float(scores[0, 0]))
    return ["" if may_be_missing and missing[row] > best[row][0] else best[row][1] for row in range(len(contexts))]
