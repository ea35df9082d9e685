"""Scores in training: of translations as the configuration says; of language models beside frequencies alone."""

import math

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset

from hf_vanilla.data.built_in import target_language
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.training.evaluation import translation_scores, unigram_perplexity


def copy_targets(pairs, wrong=0):
    """Return what stands in for a translator that is right but for the first so many texts."""
    known = {pair["source"]: pair["target"] for pair in pairs[wrong:]}
    return lambda texts, num_beams: [known.get(text, "x") for text in texts]


def test_sequence_scores_are_measured_instead_of_bleu_where_the_configuration_says_so():
    pairs = [{"source": str(n), "target": f"a b {n}"} for n in range(4)]
    names = ["exact_match", "character_error_rate", "token_error_rate"]
    scores = translation_scores(copy_targets(pairs, wrong=1), pairs, 1, names)
    assert list(scores) == names
    assert scores == pytest.approx({"exact_match": 75, "character_error_rate": 25, "token_error_rate": 25})


def test_chinese_is_scored_by_its_script_and_by_its_language():
    pairs = [{"source": "a", "target": "猫坐在桌子上。"}, {"source": "b", "target": "他明天会来看我们的新房子。"}]
    for language in (None, "zh"):
        scores = translation_scores(copy_targets(pairs), pairs, 1, language=language)
        assert scores == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    half = translation_scores(copy_targets(pairs, wrong=1), pairs, 1)
    assert 0 < half["bleu"] < 100
    assert translation_scores(copy_targets(pairs, wrong=1), pairs, 1, language="de")["bleu"] == 0  # two words in all


def test_a_run_says_its_language_or_its_built_in_corpus_does():
    assert target_language({"corpus": "verses"}) == "de"
    assert target_language({"corpus": "verses", "target_language": "zh"}) == "zh"
    assert target_language({"corpus": "verses_ko"}) == "ko"
    assert target_language({"corpus": "verses_ko", "source_column": "ko", "target_column": "en"}) == "en"
    assert target_language({"corpus": "mine.tsv"}) is None and target_language({}) is None


class OneBatch:
    """Stands for validation batches: labels as given."""

    def __init__(self, labels):
        self.labels = torch.tensor(labels)

    def epoch(self, number):
        return iter([{"labels": self.labels}])


@pytest.mark.parametrize("family, predicted", [("encoder", []), ("decoder", [2])])
def test_frequencies_alone_have_a_perplexity(family, predicted):
    """Laplace's rule of succession by hand; only the decoder predicts ends of texts."""
    tokenizer = train_tokenizer(["a b c d"] * 3, 300, family=family)
    rows = [[1, 9, 9, 10, 2], [1, 10, 9, 2, 0]]
    labels = [9, 9, 11, *predicted]
    examples = Dataset.from_list([{"input_ids": row} for row in rows])
    batches = OneBatch([[-100, *labels, -100]])
    never = {token for token in tokenizer.all_special_ids if token not in predicted}
    counts = {
        token: 1 + sum(row.count(token) for row in rows) for token in range(len(tokenizer)) if token not in never
    }
    logs = [math.log(counts[token] / sum(counts.values())) for token in labels]
    measured = unigram_perplexity(tokenizer, examples, batches, Accelerator(cpu=True))
    assert measured == pytest.approx(math.exp(-sum(logs) / len(logs)))
