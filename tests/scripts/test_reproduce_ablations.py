"""What each part of the Transformer is for: the claims that scripts/reproduce_ablations.py prints, held to account."""

import itertools
import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import reproduce_ablations as ablations
import torch
from torch import nn

from hf_vanilla.models.modeling_vanilla import AddNorm, MultiHeadAttention


def encode(model, sources, **options):
    with torch.no_grad():
        return model.eval().model.encoder(input_ids=sources, **options)


def test_the_variance_of_scores_is_d_k_unless_they_are_scaled():
    """Footnote 4; exactly so for components that are 1 or -1, over all queries and keys that there are."""
    for d_k in (1, 2, 5):
        vectors = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d_k)), dtype=torch.float64)
        scores = vectors @ vectors.t()
        assert scores.mean() == 0 and scores.var(correction=0) == d_k
        scaling = MultiHeadAttention(ablations.make_model(1, qk_head_dim=d_k).config, layer_idx=0).scaling
        torch.testing.assert_close((scores * scaling).var(correction=0), torch.ones((), dtype=torch.float64))
    for d_k in (4, 64, 256):
        assert ablations.scores_and_softmax(d_k, 1.0)[0] == pytest.approx(d_k, rel=0.05)
        assert ablations.scores_and_softmax(d_k, d_k**-0.5)[0] == pytest.approx(1, rel=0.05)


def test_a_softmax_of_large_scores_lets_no_gradient_by():
    unscaled, scaled = (
        torch.tensor([ablations.scores_and_softmax(d_k, d_k**-power) for d_k in (4, 16, 64, 256, 1024)])
        for power in (0.0, 0.5)
    )
    assert (unscaled[1:, 1] < unscaled[:-1, 1] / 1.3).all()  # entropy
    assert (scaled[:, 1:] / scaled[0, 1:] - 1).abs().max() < 0.05  # with scaling, neither depends on d_k
    assert unscaled[-1, 2] < scaled[-1, 2] / 2 and unscaled[-1, 2] < unscaled[1, 2] / 3
    one_hot = torch.tensor([0.0, 1000.0, 0.0])  # in the limit there is nothing left
    assert (torch.autograd.functional.jacobian(lambda x: x.softmax(-1), one_hot) == 0).all()


def test_without_scaling_weights_are_the_softmax_of_plain_products():
    model, sources = ablations.make_model(1, ablations.without_scaling, qk_head_dim=32), ablations.make_sources(3)
    weights = encode(model, sources, output_attentions=True).attentions[0]
    encoder = model.model.encoder
    states = encoder.embed(encoder.embed_tokens(sources), torch.arange(ablations.LENGTH)[None])
    attention = encoder.layers[0].self_attention
    query, key = (of(states).view(3, ablations.LENGTH, 4, 32) for of in (attention.q_proj, attention.k_proj))
    torch.testing.assert_close(weights, torch.einsum("bqhd,bkhd->bhqk", query, key).softmax(-1))


def test_without_positions_outputs_are_permuted_not_changed():
    """ "I am a cat" = "cat I a am", to rounding in float64; and so is what any target makes of either."""
    assert max(ablations.shuffled_outputs(ablations.without_positions)) < 1e-13
    assert min(ablations.shuffled_outputs(None)) > 1e-2
    model, sources = ablations.make_model(2, ablations.without_positions).double(), ablations.make_sources(1)
    for order in itertools.islice(itertools.permutations(range(ablations.LENGTH)), 0, None, 500_000):
        whole, moved = (encode(model, ids).last_hidden_state[0] for ids in (sources, sources[:, list(order)]))
        torch.testing.assert_close(moved, whole[list(order)], rtol=0, atol=1e-13)


def test_without_residuals_positions_become_alike():
    """Where attention looks at all alike, nothing else says which position a state is of; and it begins so, nearly."""
    with_residuals, without = (ablations.layer_by_layer(patch) for patch in (None, ablations.without_residuals))
    assert with_residuals[-1][0] > 0.02 and without[-1][0] < 1e-4
    for patch, alike in ((None, False), (ablations.without_residuals, True)):
        model = ablations.make_model(1, patch)
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                nn.init.zeros_(module.q_proj.weight)
        states = encode(model, ablations.make_sources(4)).last_hidden_state
        assert torch.allclose(states, states[:, :1].expand_as(states), atol=1e-5) == alike


def test_normalisation_keeps_the_scale_of_every_position():
    """To mean 0 and variance 1 after each layer, as long as gamma is 1 and beta 0; without it, each adds to it."""
    states = encode(ablations.make_model(1, N=6), ablations.make_sources(4), output_hidden_states=True).hidden_states
    for state in states[1:]:
        torch.testing.assert_close(state.mean(-1), torch.zeros(4, ablations.LENGTH), rtol=0, atol=1e-6)
        torch.testing.assert_close(state.var(-1, correction=0), torch.ones(4, ablations.LENGTH), rtol=0, atol=1e-3)
    deviations = [deviation for _, deviation in ablations.layer_by_layer(ablations.without_normalisation)]
    assert all(after > 1.1 * before for before, after in itertools.pairwise(deviations))


def test_the_patched_sublayers_are_the_paper_s_without_one_part():
    config, x = ablations.make_model(1).config, torch.randn(2, 5, ablations.WIDTH)
    parts = {of: of(config) for of in (AddNorm, ablations.NormAlone, ablations.AddAlone)}
    whole, norm_alone, add_alone = (part(x, torch.sin) for part in parts.values())
    norm = nn.LayerNorm(ablations.WIDTH)
    torch.testing.assert_close(whole, norm(x + x.sin()))
    torch.testing.assert_close(norm_alone, norm(x.sin()))
    torch.testing.assert_close(add_alone, x + x.sin())


def test_the_causal_mask_is_what_hides_the_future():
    """Targets that nothing foretells cannot be learned; who does learn them has looked, and cannot use it."""
    assert ablations.gradient_from_the_future(None) == 0
    assert ablations.gradient_from_the_future(ablations.without_causal_mask) > 1e-3
    losses = {}
    for patch in (None, ablations.without_causal_mask):
        model = ablations.make_model(1, patch, N=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(100):
            loss = model(input_ids=ablations.make_sources(16), labels=ablations.make_sources(16)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses[patch] = float(loss.detach())
    assert losses[None] > math.log(ablations.SYMBOLS) - 0.1
    assert losses[ablations.without_causal_mask] < math.log(ablations.SYMBOLS) - 0.5
    forced, generated = ablations.accuracy(model)  # of the last model, the one without the mask
    assert forced > 0.2 and forced > 3 * generated


def stub(result, variant, seed, updates):
    assert [variant, seed, updates] == [result["variant"], result["seed"], result["of"]]
    return result


def in_this_process(measure, runs, workers, report):
    for run in runs:
        report(run, measure(*run), 0.0)


@pytest.mark.slow
def test_one_command_prints_all_and_names_tests_that_there_are(tmp_path, monkeypatch, capsys):
    path = tmp_path / "runs" / "ablations.json"
    options = ["--seeds", "1", "--updates", "2", "--workers", "1", "--output", str(path)]
    monkeypatch.setattr("sys.argv", ["reproduce_ablations.py", *options])
    monkeypatch.setattr(ablations, "VARIANTS", dict(list(ablations.VARIANTS.items())[:2]))
    ablations.main()
    out = capsys.readouterr().out
    named = re.findall(r"`(test_\w+)`", out)
    assert len(named) == 6 and all(name in globals() for name in named)
    results = json.loads(path.read_text())
    assert {result["variant"] for result in results} == set(ablations.VARIANTS)
    for variant in ablations.VARIANTS:
        assert f"\n| {variant} | " in out
    path.write_text(json.dumps(results[1:]))  # as if it had been stopped: the rest stays
    monkeypatch.setattr(ablations, "measure", partial(stub, results[0]))
    monkeypatch.setattr(ablations, "report_claims", str)
    monkeypatch.setattr(ablations, "side_by_side", in_this_process)
    ablations.main()
    assert json.loads(path.read_text()) == [*results[1:], results[0]]
    for wrong, said in (
        ([*options, "--updates", "3"], "is of runs of other length"),
        (["--updates", "0"], "--updates must be at least 1, got 0"),
        (["--output", str(path / "below.json")], "cannot be written"),  # before anything is trained
    ):
        monkeypatch.setattr("sys.argv", ["reproduce_ablations.py", *wrong])
        with pytest.raises(SystemExit):
            ablations.main()
        assert said in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_a_run_and_is_said():
    model = ablations.make_model(1)
    model.lm_head.weight.data.fill_(math.nan)
    assert len(ablations.train(model, 5)) == 1
    result = {"variant": "without residuals", "updates": 1, "loss": math.nan, "forced": 0.0, "generated": 0.0}
    assert "| without residuals | not finite at update 1 | 0.0 | 0.0 | 1 |" in ablations.report_runs([result], 5)


def test_the_card_s_table_is_of_the_results_that_are_kept():
    root = Path(ablations.__file__).parents[1]
    results = json.loads((root / "scripts" / "results" / "ablations.json").read_text(encoding="utf-8"))
    table = ablations.report_runs(results, results[0]["of"])
    assert len(results) == 30 and table in (root / "model_cards" / "paper.md").read_text(encoding="utf-8")
