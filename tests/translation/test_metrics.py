"""BLEU and chrF against sacreBLEU itself, with several references, and without a network."""

import pytest
import sacrebleu

from hf_vanilla.translation.metrics import TranslationQuality, compare, confidence

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
