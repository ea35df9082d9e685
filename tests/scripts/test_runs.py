"""What the tables of the paper share: runs side by side, each of which ends, fails or is stopped with the others."""

import math
import multiprocessing
import time

import pytest
from paper.runs import markdown_table, over_seeds, read_results, side_by_side


def test_each_run_is_reported_with_its_result_or_as_failed():
    ended = {}
    side_by_side(math.factorial, [(3,), (-1,)], 2, lambda run, result, left: ended.update({run: result}))
    assert ended == {(3,): 6, (-1,): None}


def test_what_stops_a_table_stops_its_runs():
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(time.sleep, [(0,), (600,)], 2, stop)
    assert not multiprocessing.active_children()


def test_results_are_read_by_name_and_seed_and_reported(tmp_path):
    for seed, text in ((2, '{"bleu": 1.5}'), (10, '{"bleu": 2.5}')):
        (tmp_path / f"d_k=16-seed{seed}").mkdir()
        (tmp_path / f"d_k=16-seed{seed}" / "result.json").write_text(text)
    results = read_results(tmp_path)
    assert results == {("d_k=16", 2): {"bleu": 1.5}, ("d_k=16", 10): {"bleu": 2.5}}
    bleu = over_seeds(list(results.values()), "bleu", 2, scale=10)
    assert bleu == "20.00 ± 7.07" and over_seeds([{"bleu": 1}], "bleu") == "1.0"
    assert (
        markdown_table(["", "BLEU", "seeds"], [["d_k=16", bleu]])
        == f"| | BLEU | seeds |\n|---|---|---|\n| d_k=16 | {bleu} | |"
    )
