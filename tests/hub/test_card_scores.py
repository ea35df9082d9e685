"""A card has all scores that were recorded, and intervals where there are some."""

from hf_vanilla.hub.model_card import scores_of


def test_every_score_with_a_signature_is_told_and_a_missing_interval_is_none():
    row = {"set": "all", "split": "test", "num_beams": 1, "precision": "float32", "references": 1, "sentences": 1}
    values = {"bleu": 12.34, "chrf++": 40.0, "ter": 70.0, "exact_match": 0.0, "comet": 0.71234}
    for name, value in values.items():
        width = {"chrf++": 1.25, "comet": 0.0123}.get(name)
        row |= {name: value, f"{name}_signature": f"{name}|v", f"{name}_confidence": width}
    scores = {score.metric: score for score in scores_of({}, [row])}
    assert {name: score.value for name, score in scores.items()} == values
    assert (scores["bleu"].shown, scores["chrf++"].shown, scores["comet"].shown) == (
        "12.34",
        "40.0 ± 1.2",
        "0.7123 ± 0.0123",
    )
    assert [scores[name].metric_name for name in ("chrf++", "ter", "comet")] == ["chrF2++", "TER", "COMET"]
    assert scores["ter"].arguments["signature"] == "ter|v"
