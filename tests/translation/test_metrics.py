"""BLEU and chrF against sacreBLEU itself, with several references, and without a network."""

import sys
import types
import unicodedata

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla.translation.comet import Comet
from hf_vanilla.translation.metrics import TRANSLATION_SCORES, TranslationQuality, compare, confidence
from hf_vanilla.translation.score_choices import SCORES

PREDICTIONS = ["Im Anfang schuf Gott die Himmel.", "Und die Erde war wüst und leer."]
REFERENCES = [
    ["Im Anfang schuf Gott die Himmel und die Erde.", "Im Anfang schuf Gott den Himmel."],
    ["Und die Erde war wüst und leer.", "Die Erde aber war wüst."],
]


@pytest.mark.parametrize("count", [1, 2])
def test_scores_are_those_of_sacrebleu(count):
    references = [options[:count] for options in REFERENCES]
    scores = TranslationQuality().compute(predictions=PREDICTIONS, references=references)
    streams = [list(stream) for stream in zip(*references, strict=True)]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, streams).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, streams).score)
    assert scores["sentences"] == 2


def test_signatures_say_how_the_scores_came_about():
    scores = TranslationQuality().compute(predictions=PREDICTIONS, references=REFERENCES)
    assert "nrefs:2" in scores["bleu_signature"] and "tok:13a" in scores["bleu_signature"]
    assert f"version:{sacrebleu.__version__}" in scores["chrf_signature"]


def test_a_second_reference_never_lowers_bleu_and_a_perfect_translation_has_100():
    one, two = (
        TranslationQuality().compute(predictions=PREDICTIONS, references=[options[:count] for options in REFERENCES])
        for count in (1, 2)
    )
    assert two["bleu"] > one["bleu"]
    perfect = TranslationQuality().compute(predictions=[options[1] for options in REFERENCES], references=REFERENCES)
    assert perfect["bleu"] == pytest.approx(100)


def test_an_unequal_number_of_references_is_refused():
    with pytest.raises(ValueError, match="references differ in number"):
        TranslationQuality().compute(predictions=PREDICTIONS, references=[REFERENCES[0], REFERENCES[1][:1]])


def test_scores_leave_no_file_that_another_process_would_wait_for(tmp_path):
    TranslationQuality(cache_dir=str(tmp_path)).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_intervals_and_chances():
    references = [[f"the number {n} is here and there"] for n in range(60)]
    good = [f"the number {n} is here or there" for n in range(60)]
    bad = [f"a number {n} was there" if n % 2 else good[n] for n in range(60)]
    widths = confidence(bad, references)
    assert all(0 < widths[name] < 30 for name in ("bleu", "chrf")) and confidence(good, references)["bleu"] < 5
    assert compare(good, bad, references)["bleu"] < 0.01
    assert compare(good, list(good), references) == {"bleu": 1.0, "chrf": 1.0}
    worse = compare([*good[:59], "nothing"], good, references)
    assert worse["bleu"] > 0.05


def test_the_scores_of_translations_are_those_of_sacrebleu_with_their_signatures():
    scores = TranslationQuality(intervals=True).compute(predictions=PREDICTIONS, references=REFERENCES)
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)]
    assert scores["chrf++"] == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, streams, word_order=2).score)
    assert scores["ter"] == pytest.approx(sacrebleu.corpus_ter(PREDICTIONS, streams).score)
    assert "nw:2" in scores["chrf++_signature"] and "tok:tercom" in scores["ter_signature"]
    assert all(scores[f"{name}_confidence"] >= 0 for name in TRANSLATION_SCORES)
    assert "bs:" not in scores["bleu_signature"]


def rate(name, predictions, references):
    return TranslationQuality(metrics=[name]).compute(predictions=predictions, references=references)[name]


def test_sequences_are_scored_by_matches_and_edits_and_the_best_reference_counts():
    predictions = ["A B C", " a  b", "x"]
    references = [["A B D", "A B"], ["a b", "q"], ["y z", "yz"]]
    assert rate("exact_match", predictions, references) == pytest.approx(100 / 3)
    # "A B C" has one edit in 5 characters, of "A B" 2 in 3; "x" two in "yz".
    assert rate("character_error_rate", predictions, references) == pytest.approx(100 * (1 + 0 + 2) / (5 + 3 + 2))
    assert rate("token_error_rate", predictions, references) == pytest.approx(100 * (1 + 0 + 1) / (3 + 2 + 1))


def edits(own, right):
    """The number of insertions, deletions and substitutions, as its definition says."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(own):
        row, before = [i + 1], row
        for j, b in enumerate(right):
            row.append(min(before[j] + (a != b), before[j + 1] + 1, row[j] + 1))
    return row[-1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=4))
def test_error_rates_follow_their_definition_in_every_script(pairs):
    predictions, references = [own for own, _ in pairs], [[right] for _, right in pairs]
    sides = [[" ".join(unicodedata.normalize("NFC", text).split()) for text in pair] for pair in pairs]
    for name, units in (("character_error_rate", list), ("token_error_rate", str.split)):
        counts = [(edits(units(own), units(right)), len(units(right))) for own, right in sides]
        expected = 100 * sum(count for count, _ in counts) / max(1, sum(size for _, size in counts))
        assert rate(name, predictions, references) == pytest.approx(expected)
    matches = sum(own == right for own, right in sides)
    assert rate("exact_match", predictions, references) == pytest.approx(100 * matches / len(sides))
    for name in ("character_error_rate", "token_error_rate"):
        assert rate(name, [unicodedata.normalize("NFD", text) for [text] in references], references) == 0


def test_one_sentence_has_no_interval_and_few_have_no_significance():
    assert confidence(PREDICTIONS[:1], REFERENCES[:1]) == {"bleu": None, "chrf": None}
    assert all(width > 0 for width in confidence(PREDICTIONS, REFERENCES).values())
    others = ["Im Anfang.", "Leer."]
    assert compare(PREDICTIONS, others, REFERENCES) == {"bleu": None, "chrf": None}
    assert compare(PREDICTIONS, PREDICTIONS, REFERENCES) == {"bleu": 1.0, "chrf": 1.0}


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("names", [("bleu",), ("chrf", "chrf++"), ("ter",), ("exact_match", "character_error_rate")])
def test_equal_scores_of_different_outputs_are_no_difference(count, names):
    """One system is right where the other is not, and the other way round: sacreBLEU alone calls that significant."""
    right = "the number 4 is here and there"
    references = [[right]] * 2 * count
    one, two = ([right if n % 2 == side else f"{right} not" for n in range(2 * count)] for side in (0, 1))
    assert compare(one, two, references, names) == dict.fromkeys(names, 1.0)


def test_two_systems_that_never_match_are_equally_bad():
    references = [[f"the number {n} is here"] for n in range(40)]
    assert compare(["x"] * 40, ["y"] * 40, references)["bleu"] == 1.0


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("count", [2, 3, 12])
def test_resamples_without_a_match_or_without_a_word_have_intervals_and_p_values(name, count):
    references = [["a b c d e"], *[[""]] * (count - 1)]
    predictions, others = ["a b c d", *["x"] * (count - 1)], ["a b", *[""] * (count - 1)]
    assert confidence(predictions, references, [name])[name] >= 0
    assert compare(predictions, others, references, [name])[name] in (None, pytest.approx(0.5, abs=0.5))


class Judge:
    """Stands in for a model of COMET: scores by the length that prediction and reference share."""

    asked = 0

    def predict(self, data, batch_size, gpus, progress_bar):
        Judge.asked += len(data)
        return {"scores": [len(set(row["mt"]) & set(row["ref"])) / len(set(row["ref"])) for row in data]}


def stand_in(monkeypatch, load=lambda path, local_files_only=False: Judge() if local_files_only else pytest.fail()):
    module = types.ModuleType("comet")
    module.load_from_checkpoint, module.__version__ = load, "2.2.7"
    monkeypatch.setitem(sys.modules, "comet", module)


def test_comet_scores_by_a_local_checkpoint_alone(monkeypatch, tmp_path):
    checkpoint = tmp_path / "wmt22" / "checkpoints" / "model.ckpt"
    with pytest.raises(FileNotFoundError, match="no checkpoint of COMET"):
        Comet(checkpoint, [])
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(ImportError, match="pip install unbabel-comet"):
        Comet(checkpoint, [])
    stand_in(monkeypatch)
    Judge.asked, metric = 0, Comet(checkpoint.parents[1], ["s", "t"])
    quality = TranslationQuality(metrics={"comet": metric}, intervals=True)
    scores = quality.compute(predictions=["ab", "cd"], references=[["ab", "xy"], ["xy", "ce"]])
    assert scores["comet"] == pytest.approx((1 + 0.5) / 2)
    assert scores["comet_signature"] == "nrefs:2|model:wmt22|version:2.2.7"
    compare(["ab", "cd"], ["xy", "cd"], [["ab", "xy"], ["xy", "ce"]], {"comet": metric})
    assert Judge.asked == 6  # each pair of texts once
    stand_in(monkeypatch, lambda path: pytest.fail("it might download"))
    with pytest.raises(ValueError, match="may download files"):
        Comet(checkpoint, [])


def test_resamples_without_a_single_match_have_an_interval_too():
    predictions = ["the number one is here", "x", "", "y", "z"]
    references = [["the number one is here", "one is here"], *([f"nothing {n}", "none"] for n in range(4))]
    found = TranslationQuality(intervals=True).compute(predictions=predictions, references=references)
    assert all(found[f"{name}_confidence"] >= 0 for name in ("bleu", "chrf"))
