"""The scripts that compare layers and systems: what they measure has a known answer, and a run that is done stays."""

import itertools
import json
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from paper import runs
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from hf_vanilla import RecurrentConfig, VanillaConfig, cli
from hf_vanilla.data.tokenization import train_tokenizer

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def layers():
    return runpy.run_path(str(SCRIPTS / "benchmark_layers.py"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("self-attention", lambda n: (1, 1)),
        ("recurrent", lambda n: (1, n)),
        ("convolutional", lambda n: (n - 1, n - 1)),  # one position a layer with k = 3
        ("restricted", lambda n: (-(-(n - 1) // 2),) * 2),  # two with r = 5
    ],
)
def test_path_length_is_that_of_the_paper_s_table(layers, name, expected):
    for n in (4, 9, 16):
        assert layers["path"](name, n, 3, 5) == expected(n)


def test_only_a_recurrent_layer_has_a_chain_that_grows(layers):
    def chain(name, n):
        make = layers["LAYERS"][name]
        layer = layers["Recurrent"](8, by_step=True) if name == "recurrent" else make(8, 3, 5)
        return layers["chain"](layer(torch.randn(n, 8, requires_grad=True)))

    for name in ("self-attention", "convolutional", "restricted"):
        assert chain(name, 10) == chain(name, 20) == chain(name, 40)
    assert chain("recurrent", 40) - chain("recurrent", 20) == 2 * (chain("recurrent", 20) - chain("recurrent", 10)) > 0


def test_restricted_attention_is_attention_with_a_band(layers):
    x, reach = torch.randn(12, 6), 2
    found = layers["RestrictedSelfAttention"](2 * reach + 1)(x)
    scores = torch.zeros(12, 12 + 2 * reach)
    scores[:, reach:-reach] = x @ x.t() / 6**0.5  # beyond the ends are zeros, which are looked at
    band = (torch.arange(12)[:, None] + reach - torch.arange(12 + 2 * reach)).abs() <= reach
    weights = scores.masked_fill(~band, -torch.inf).softmax(-1)[:, reach:-reach]
    torch.testing.assert_close(found, weights @ x)


def test_steps_of_torch_s_cell_are_its_layer(layers):
    whole, steps, x = layers["Recurrent"](5), layers["Recurrent"](5, by_step=True), torch.randn(7, 5)
    for name, parameter in steps.layer.named_parameters():
        parameter.data = getattr(whole.layer, f"{name}_l0").data
    torch.testing.assert_close(whole(x), steps(x))


def one_after_the_other(measure, todo, workers, report):
    for run in todo:
        report(run, measure(*run), 0.0)


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The comparison of recurrent models as a command, in this process."""
    main = runpy.run_path(str(SCRIPTS / "compare_recurrent.py"))["main"]
    monkeypatch.setattr(runs, "side_by_side", one_after_the_other)
    precision = torch.get_float32_matmul_precision()

    def run(task, *options):
        monkeypatch.setattr("sys.argv", ["compare_recurrent.py", task, str(tmp_path), *options])
        main()

    run.script = main.__globals__
    yield run
    torch.set_float32_matmul_precision(precision)


def test_a_comparison_goes_on_and_reports_all_that_is_done(compare, tmp_path, capsys):
    one_rate = ["--rates", "1e-3", "--seeds", "1"]
    compare("recall", "--minutes", "0.01", "--systems", "none", *one_rate)
    path = tmp_path / "recall" / "none-1" / "result.json"
    before = path.read_text()
    compare("recall", "--minutes", "0.01", "--systems", "none", "dot", *one_rate)
    assert path.read_text() == before and json.loads(before)["budget"] == "0.01 minutes"
    table = (tmp_path / "recall.md").read_text()
    assert "| recurrent |" in table and "| + dot product |" in table
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    for options, message in (
        (
            ["--minutes", "0.02", *one_rate],
            "none-1 is of budget 0.01 minutes, not 0.02 minutes: choose",
        ),
        (["--minutes", "0.01", "--rates", "2e-3", "--seeds", "1"], "none-1 is of rate 0.001, not 0.002"),
        (["--updates", "0"], "--updates must be positive, got 0"),
    ):
        with pytest.raises(SystemExit):
            compare("recall", "--systems", "none", *options)
        assert message in capsys.readouterr().err
    for options, message in (
        (["--hiden_size", "64"], "did you mean 'hidden_size'"),
        (
            ["--learning_rate", "1e-3"],
            "is the same for all systems, or searched for each: give --rates",
        ),
        (["--max-steps=9"], "--max_steps is the same for all systems, or searched for each: give --minutes or --up"),
    ):
        with pytest.raises(SystemExit):
            compare("verses", *options)
        assert message in capsys.readouterr().err


def test_each_system_has_the_best_of_the_rates_and_as_many_updates(compare, tmp_path):
    systems, rates = ("dot", "transformer"), (1e-9, 1e-2)
    compare("copy", "--updates", "6", "--systems", *systems, "--rates", *map(str, rates), "--seeds", "1", "2")
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    right = {name: sum(each["accuracy"] for each in result["scores"].values()) for name, result in results.items()}
    assert {result["updates"] for result in results.values()} == {6} and len(results) == 4 + 4
    for system in systems:
        best = max(rates, key=lambda rate: right[f"{system}-{rate:g}"])
        assert {results[f"{system}-{seed}"]["rate"] for seed in (1, 2)} == {best}
    assert "6 updates a run" in (tmp_path / "copy.md").read_text()
    assert (tmp_path / "copy-rates.md").read_text().startswith("| rate | 1e-09 | 0.01 |")


@pytest.mark.parametrize("kept", sorted((SCRIPTS / "results" / "compare_recurrent").rglob("none-1")))
def test_the_card_shows_what_was_kept(kept, tmp_path, capsys):
    script = runpy.run_path(str(SCRIPTS / "compare_recurrent.py"))
    task, done = kept.parent.name, runs.results_by_name(kept.parent, script["SYSTEMS"], "-")
    script["report"](task, tmp_path, done, "so many updates")
    rows = (tmp_path / f"{task}.md").read_text(encoding="utf-8").split("\n\n", 1)[1].strip().splitlines()
    card = (SCRIPTS.parent / "model_cards" / "recurrent.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2 + len(script["SYSTEMS"]) and set(rows) <= set(card)


def test_all_systems_start_by_one_rule():
    """Embeddings and square matrices, of which a gate is one, have a variance of 1 / d_model."""
    script = runpy.run_path(str(SCRIPTS / "compare_recurrent.py"))
    for system in script["SYSTEMS"]:
        config = script["training_config"](system, script["Budget"](1.0), {"output_dir": "unused"}, [])
        fields = {name: value for name, value in config.model_settings().items() if name != "vocab_size"}
        kind = VanillaConfig if system == "transformer" else RecurrentConfig
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(kind(vocab_size=500, **fields))
        width, gates = config.hidden_size, {1} if system == "transformer" else {1, 3, 4}
        shapes = {(number * width, width) for number in gates}
        square = [weight for weight in model.parameters() if tuple(weight.shape) in shapes]
        assert square and config.warmup_steps == 0.1
        for weight in (*square, model.get_input_embeddings().weight):
            assert float(weight.var()) * weight.shape[1] == pytest.approx(1, rel=0.05)


def test_a_step_is_measured_at_every_size_that_scaling_varies():
    measure = runpy.run_path(str(SCRIPTS / "benchmark_scaling.py"))["measure"]
    smallest = {"length": 8, "batch": 2, "depth": 1, "width": 64, "vocabulary": 50}
    seconds, memory = measure(1, **smallest)
    _, more = measure(1, **smallest | {"length": 64})
    assert seconds > 0 and more > 2 * memory > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--learning_rat", "1e-4"], "unrecognized arguments: --learning_rat"),
        (["--models", "ours", "minilm"], "--models minilm: expected ours, peer, or NAME=CHECKPOINT"),
        (["--models", "=runs/minilm"], "--models : expected ours, peer, or NAME=CHECKPOINT"),
        (["--models", "m=runs/a", "m=runs/b"], "a name is there twice"),
        (["--models", "peer=runs/minilm"], "--models peer: expected ours, peer, or NAME=CHECKPOINT"),
    ],
)
def test_options_are_checked_before_anything_is_trained(tmp_path, monkeypatch, capsys, wrong, message):
    command = ["compare_finetuning.py", str(tmp_path / "runs"), "--tasks", "sentiment", *wrong]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / command[0]), run_name="__main__")
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_fine_tuning_of_another_command_is_not_taken_for_this_one(tmp_path):
    script, done = runpy.run_path(str(SCRIPTS / "compare_finetuning.py")), tmp_path / "sentiment-m-new-0"
    done.mkdir()
    (done / "all_results.json").write_text('{"test_loss": 1}')
    (tmp_path / "sentiment-m-new-0.command").write_text("python finetune.py --config_name other")
    with pytest.raises(SystemExit, match="was made by another command, python finetune.py --config_name other"):
        script["finetune"](tmp_path, "sentiment", "m", "new", 0, 1.0, "runs/a", [])


def test_pretraining_goes_on_from_short_pieces_with_long_ones(tmp_path, monkeypatch):
    script = runpy.run_path(str(SCRIPTS / "compare_finetuning.py"))
    names = ("Ada", "Ben", "Eve", "Kim", "Leo", "Mia")
    texts = [f"{a} saw {b} by the river, and {c} was there." for a, b, c in itertools.product(names, repeat=3)]
    (tmp_path / "prose.txt").write_text("\n\n".join(texts))
    train_tokenizer(texts, 300, "encoder").save_pretrained(tmp_path / "encoder")
    monkeypatch.setitem(script["pretrain"].__globals__, "PRETRAINING", {16: 4, 32: 2})

    def run_here(command, **_):
        """The same commands, without a process each that imports torch again."""
        _, first, *rest = command
        if first == "-m":
            cli.main(rest[1:])
        else:
            monkeypatch.setattr("sys.argv", [first, *rest])
            runpy.run_path(first, run_name="__main__")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run_here)
    for model in ("ours", "peer"):
        script["pretrain"](tmp_path, model)
        short, long = (load_file(tmp_path / name / "model.safetensors") for name in (f"{model}-16", model))
        assert short.keys() == long.keys() and any((short[name] != long[name]).any() for name in short)
        # Two draws of new weights, with a standard deviation of 0.02, would be farther apart.
        assert all((short[name] - long[name]).abs().max() < 0.02 for name in short)
        assert yaml.safe_load((tmp_path / f"{model}.yaml").read_text())["initial_model"] == str(
            tmp_path / f"{model}-16"
        )
        assert AutoModelForMaskedLM.from_pretrained(tmp_path / model).config.num_hidden_layers == 4
    before = (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns
    script["pretrain"](tmp_path, "ours")  # what is done is not done again
    assert (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns == before


def test_minutes_may_be_counted_by_what_an_update_took(compare, tmp_path, capsys):
    systems = ["--systems", "none", "dot", "--seeds", "1", "2"]
    compare("copy", "--updates", "6", "--rates", "1e-3", "1e-9", *systems)
    for system, seconds in (("none", 3.0), ("dot", 6.0)):  # of 6 updates; the fastest run counts
        for number, path in enumerate((tmp_path / "copy").rglob(f"{system}-*/result.json")):
            result = json.loads(path.read_text()) | {"seconds": seconds * (1 + number)}
            path.write_text(json.dumps(result))
    first = tmp_path / "first"
    first.mkdir()
    (tmp_path / "copy").rename(first / "copy")
    compare("copy", "--minutes", "0.05", "--measured", str(first), *systems)
    found = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "copy").glob("*/result.json")}
    assert {name: result["updates"] for name, result in found.items()} == {
        **dict.fromkeys(("none-1", "none-2"), 6),
        **dict.fromkeys(("dot-1", "dot-2"), 3),
    }
    assert "the updates of 0.05 minutes, by the fastest run of each" in (tmp_path / "copy.md").read_text()
    for wrong, message in ((["--updates", "3"], "leave out --updates"), ([], "there is no run of transformer")):
        with pytest.raises(SystemExit):
            compare("copy", "--measured", str(first), "--systems", "transformer", *wrong)
        assert message in capsys.readouterr().err


def test_a_comparison_on_the_verses_trains_and_scores_translations(compare, tmp_path, monkeypatch, config):
    """On a corpus and a test of a few words: those of the verses take a minute."""
    few = {"source": ["one " * n for n in (5, 15, 25, 35)], "references": [["eins " * n] * 2 for n in (5, 15, 25, 35)]}
    monkeypatch.setitem(compare.script, "load_corpus", lambda name: {"test": few})
    fields = {"corpus": config.corpus, "target_path": config.target_path, "vocab_size": 300, "hidden_size": 16}
    options = ["--updates", "2", "--systems", "dot", "--rates", "1e-3", "--seeds", "1", *runs.as_options(fields)]
    compare("verses", *options)
    result = json.loads((tmp_path / "verses" / "dot-1" / "result.json").read_text())
    assert result["updates"] == 2 and result["scores"]["all"]["sentences"] == 4
    assert "BLEU / chrF by words of the source" in (tmp_path / "verses.md").read_text()
