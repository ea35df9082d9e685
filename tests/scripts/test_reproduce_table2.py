"""Table 2: the paper's numbers in its configurations, a probe that measures real updates, and three kinds of BLEU."""

import dataclasses
import json
import math
import os
import random
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU

from hf_vanilla import Translator
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.run_log import RunLog, read_records
from hf_vanilla.training.tasks import TASKS
from hf_vanilla.translation.metrics import TranslationQuality

SCRIPTS = Path(__file__).parents[2] / "scripts"
PAPER = SCRIPTS / "configs" / "paper"
WORDS = {"one": "eins", "two": "zwei-drei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}
SHAPE = "--vocab_size 300 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2".split()
DEPTH = "--encoder_layers 1 --decoder_layers 1 --batch_tokens 400 --accumulation_steps 2 --mixed_precision no".split()


@pytest.fixture(scope="module")
def table2():
    precision = torch.get_float32_matmul_precision()
    import reproduce_table2

    yield reproduce_table2
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of pairs, one language being a translation of the other word by word."""
    randomness = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "pairs.tsv"
    sentences = [randomness.choices(list(WORDS), k=randomness.randint(2, 7)) for _ in range(600)]
    rows = [f"{' '.join(words)}\t{' '.join(map(WORDS.get, words))}\n" for words in sentences]
    path.write_text("".join(["source\ttarget\n", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def run(table2, monkeypatch, capsys):
    """The script as typed; gives what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce_table2.py", *map(str, arguments)])
        table2.main()
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    ("name", "vocabulary", "width", "inner", "heads", "dropout", "steps", "averaged", "millions"),
    [  # section 5, section 6.1, the last column of Table 3
        ("wmt14_en_de_base", 37_000, 512, 2048, 8, 0.1, 100_000, 5, 65),
        ("wmt14_en_de_big", 37_000, 1024, 4096, 16, 0.3, 300_000, 20, 213),
        ("wmt14_en_fr_base", 32_000, 512, 2048, 8, 0.1, 100_000, 5, None),
        ("wmt14_en_fr_big", 32_000, 1024, 4096, 16, 0.1, 300_000, 20, None),
    ],
)
def test_the_configurations_are_the_paper_s(
    table2, name, vocabulary, width, inner, heads, dropout, steps, averaged, millions
):
    config = TrainingConfig.load(PAPER / f"{name}.yaml")
    languages = (config.corpus_configuration, config.source_column, config.target_column)
    assert languages == (f"{name[9:11]}-en", "translation.en", f"translation.{name[9:11]}")
    assert (config.vocab_size, config.max_steps, config.average_last) == (vocabulary, steps, averaged)
    assert (config.batch_tokens, config.warmup_steps, config.schedule) == (25_000, 4000, "noam")
    assert (config.label_smoothing, config.dropout, config.max_grad_norm) == (0.1, dropout, None)
    assert config.average_every * table2.ROWS[width].step == 600  # seconds: "10-minute intervals"
    with torch.device("meta"):
        task = TASKS["translation"](config)
        model = task.auto_class.from_config(task.model_config(vocab_size=vocabulary))
    shape = model.config
    assert (shape.hidden_size, shape.intermediate_size, shape.num_attention_heads) == (width, inner, heads)
    assert (shape.encoder_layers, shape.decoder_layers, shape.tie_word_embeddings) == (6, 6, True)
    if millions:  # the paper counts 65 million for base, which its own sizes do not give: 63 million
        assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.04)


def test_the_paper_s_flops_follow_from_its_hours(table2):
    for row in table2.ROWS.values():
        assert row.hours * 3600 * table2.GPUS * table2.P100_TFLOPS * 1e12 == pytest.approx(row.flops, rel=0.01)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("das rich-text Format", "das rich ##AT##-##AT## text Format"),
        ("ein - Strich , 1-2 und -3", "ein - Strich , 1 ##AT##-##AT## 2 und -3"),
        ("E-Mail-Konto", "E ##AT##-##AT## Mail ##AT##-##AT## Konto"),
        ("A-B-C", "A ##AT##-##AT## B-C"),  # perl -pe 's{(\S)-(\S)}{$1 ##AT##-##AT## $2}g'
    ],
)
def test_compounds_are_split_as_by_the_perl_script(table2, text, expected):
    assert table2.split_compounds(text) == expected


def multi_bleu(hypotheses, references):
    """Papineni et al. (2002) on tokens between blanks: clipped n-grams up to 4, brevity penalty, no smoothing."""

    def grams(tokens, n):
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    pairs = [(own.split(), right.split()) for own, right in zip(hypotheses, references, strict=True)]
    logarithms = []
    for n in range(1, 5):
        matched = sum((grams(own, n) & grams(right, n)).total() for own, right in pairs)
        logarithms.append(math.log(matched / sum(grams(own, n).total() for own, _ in pairs)))
    ratio = sum(len(right) for _, right in pairs) / sum(len(own) for own, _ in pairs)
    return 100 * math.exp(sum(logarithms) / 4 + min(0, 1 - ratio))


@pytest.fixture(scope="module")
def noisy():
    """Tokenised references, and hypotheses with words left out and replaced."""
    randomness = random.Random(1)
    vocabulary = ["der", "die", "Groß-Stadt", "sah", "Nord-Süd-Achse", "nicht", ",", ".", "Mann", "20-mal"]
    references = [" ".join(randomness.choices(vocabulary, k=randomness.randint(5, 15))) for _ in range(200)]

    def damaged(text):
        draws = [(word, randomness.random()) for word in text.split()]
        return " ".join(randomness.choice(vocabulary) if draw < 0.2 else word for word, draw in draws if draw < 0.95)

    return [damaged(text) for text in references], references


def test_tokenised_bleu_is_that_of_multi_bleu(table2, noisy):
    found, signature = table2.tokenised_bleu(*noisy)
    assert 10 < found < 90 and found == pytest.approx(multi_bleu(*noisy))
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:none|")


def test_the_three_kinds_of_bleu(table2, noisy):
    sacremoses = pytest.importorskip("sacremoses")
    hypotheses, references = noisy
    # Not tokenised, Moses and 13a part other words: quotation marks, an apostrophe, a decimal comma.
    joined = [[f'"{re.sub(r" (?=[,.])", "", text)}" & 3,5 % geht\'s' for text in side] for side in noisy]
    found = table2.scores(*joined, table2.moses_tokenizer("de"))
    moses = sacremoses.MosesTokenizer("de")
    tokens = [[moses.tokenize(text, return_str=True) for text in side] for side in joined]
    none = BLEU(tokenize="none", force=True)
    assert found["tokenised"][0] == pytest.approx(none.corpus_score(tokens[0], [tokens[1]]).score)
    assert found["tokenised"][0] == pytest.approx(multi_bleu(*tokens))
    split = [[re.sub(r"(?<=\S)-(?=\S)", " ##AT##-##AT## ", text) for text in side] for side in tokens]
    assert found["tokenised, compounds split"][0] == pytest.approx(multi_bleu(*split))
    quality = TranslationQuality().compute(predictions=joined[0], references=[[text] for text in joined[1]])
    assert found["sacreBLEU"] == (quality["bleu"], quality["bleu_signature"])
    assert len({score for score, _ in found.values()}) == 3
    assert (
        f"sacremoses {sacremoses.__version__}, de" in found["tokenised"][1]
        and "##AT##" in found["tokenised, compounds split"][1]
    )


def test_without_the_tokenizer_of_moses_the_error_says_what_to_install(table2, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ImportError, match="pip install sacremoses"):
        table2.moses_tokenizer("de")


def test_a_probe_measures_real_updates_is_interrupted_and_goes_on(table2, corpus, run, tmp_path, monkeypatch, capsys):
    own = ("probe", PAPER / "wmt14_en_de_base.yaml", "--output_dir", tmp_path / "run", "--corpus", corpus)
    own = (*own, *SHAPE, *DEPTH, "--source_column", "source", "--target_column", "target")
    write = RunLog.write
    monkeypatch.setattr(table2, "measured_peak", lambda precision: {"float32": 100.0}[precision])  # GFLOP a second

    def interrupt(log, **record):
        write(log, **record)
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(RunLog, "write", interrupt)
        run(*own, "--steps", "5")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "1 update(s)) |" in capsys.readouterr().out  # without the first
    printed = run(*own, "--steps", "5")
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[1] for line in printed.splitlines() if line.startswith("| ")}
    assert "2 micro-batch(es)" in cells["on"] and "4 update(s)" in cells["seconds an update"]
    assert cells["all updates"].endswith(" for 100,000")

    records = [record for record in read_records(tmp_path / "run" / "log.jsonl") if "loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert records[0]["learning_rate"] == pytest.approx(32**-0.5 * 4000**-1.5)  # the recipe's, equation 3
    labels = [record["tokens_per_second"] * record["seconds_per_update"] for record in records]
    source, target = (
        float(number.replace(",", "")) for number in cells["source + target tokens an update"].split("+")
    )
    assert target == pytest.approx(sum(labels) / 5, abs=1) and 200 < source <= 400
    seconds = sorted(record["seconds_per_update"] for record in records[1:])
    middle = (seconds[1] + seconds[2]) / 2
    assert float(cells["seconds an update"].split()[0]) == pytest.approx(middle, rel=0.01)
    assert float(cells["all updates"].split()[0].replace(",", "")) * (24 if "days" in cells["all updates"] else 1) == (
        pytest.approx(middle * 100_000 / 3600, rel=0.1, abs=0.06)
    )
    weights = 32 * 32 * 4 * 1.5 + 2 * 32 * 64  # a layer's, those of cross-attention in half to either side
    vocabulary = len(json.loads((tmp_path / "run" / "tokenizer.json").read_text())["model"]["vocab"])
    flops = 6 * (source * weights + target * weights + target * vocabulary * 32)
    assert float(cells["matrix products of an update"].split()[0]) == pytest.approx(flops / 1e12, rel=0.01)
    assert float(cells["of the peak"].split("%")[0]) == pytest.approx(flops / middle / 1e9, abs=0.6)


def test_a_probe_refuses_what_it_cannot_measure(run):
    base = PAPER / "wmt14_en_de_base.yaml"
    for arguments, expected in (
        (("probe", base, "--steps", "0"), "--steps must be at least 1, got 0"),
        (("probe", base, "--acumulation_steps", "2"), "did you mean 'accumulation_steps'?"),
        (("probe", SCRIPTS / "configs" / "causal_lm.yaml"), "expected a Transformer that learns translation"),
        (("score", "runs/none"), "runs/none/training_config.yaml: no such file"),
    ):
        with pytest.raises(SystemExit, match=re.escape(expected)):
            run(*arguments)


@pytest.fixture(scope="module")
def trained(table2, corpus, tmp_path_factory):
    """A folder as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    own = "--schedule linear --learning_rate 1e-2 --warmup_steps 5 --max_steps 20 --average_last 1 --dropout 0".split()
    options = ["--corpus", str(corpus), "--output_dir", str(folder), *SHAPE, *DEPTH, *own, "--bleu_sentences", "0"]
    table2.train(TrainingConfig.load(SCRIPTS / "configs" / "tiny.yaml", options))
    return folder


def test_a_probe_of_the_paper_s_size_stands_beside_the_paper(table2, trained, monkeypatch, capsys):
    monkeypatch.setattr(table2, "measured_peak", lambda precision: 100.0)
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "encoder_layers": 6, "decoder_layers": 6}
    config = dataclasses.replace(TrainingConfig.load(trained / "training_config.yaml"), **shape)
    table2.report_probe(config, 300_000)
    printed = capsys.readouterr().out
    # 6 for each weight and token; the vocabulary is so small that its product does not count
    weights = 6 * (1.5 * 4 * 1024**2 + 2 * 1024 * 4096)
    share = 6 * 50_000 * weights / (3.5 * 86_400 / 300_000) / (8 * 9.5e12)
    assert float(re.search(r"\| (\d+)% of 8 x 9.5 TFLOP/s", printed)[1]) == pytest.approx(100 * share, abs=1)
    for cell in ("| Transformer (big) |", "| 25,000 + 25,000 |", "| 1.0 |", "| 3.5 days for 300,000 |", "| 2.3e+19 |"):
        assert cell in printed
    assert table2.row_of(config).name == "Transformer (big)"
    assert table2.row_of(dataclasses.replace(config, encoder_layers=1)) is None


def test_a_run_is_scored_on_files(trained, run, tmp_path):
    pytest.importorskip("sacremoses")
    source, reference = tmp_path / "news.en", tmp_path / "news.de"
    source.write_text("one two three\nfive six one four\ntwo two three\n", encoding="utf-8")
    reference.write_text("eins zwei-drei drei\nfünf sechs eins vier\nzwei-drei zwei-drei drei\n", encoding="utf-8")
    files = ("--source", source, "--reference", reference)
    printed = run("score", trained, *files, "--language", "de")
    translations = (trained / "table2" / "news.en.de").read_text(encoding="utf-8").splitlines()
    expected = Translator.from_pretrained(trained)(source.read_text().splitlines(), num_beams=4, length_penalty=0.6)
    assert translations == expected
    record = json.loads((trained / "table2" / "news.en.de.json").read_text(encoding="utf-8"))
    references = [[text] for text in reference.read_text(encoding="utf-8").splitlines()]
    quality = TranslationQuality().compute(predictions=translations, references=references)
    assert record["sacreBLEU"] == {"bleu": quality["bleu"], "signature": quality["bleu_signature"]}
    assert (record["sentences"], record["num_beams"], record["length_penalty"]) == (3, 4, 0.6)
    for name in ("tokenised", "tokenised, compounds split", "sacreBLEU"):
        assert f"| {name} | {record[name]['bleu']:.1f} | `{record[name]['signature']}` |" in printed
    reference.write_text("eins\n", encoding="utf-8")
    for arguments, message in (
        (files[:2], "--source and --reference need each other"),
        (files, "give --language"),
        ((*files, "--language", "de"), "news.en has 3 lines, .*news.de has 1"),
        (("--language", "de"), "not from the Hub: give --source and --reference"),
        (("--langage", "de"), "unrecognized arguments: --langage de"),
    ):
        with pytest.raises(SystemExit, match=message):
            run("score", trained, *arguments)


def test_the_test_set_of_the_hub_is_fetched_whole_and_once(table2, tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, configuration, *, split, streaming):
        asked.append((name, configuration, split, streaming))
        pairs = [("Yes.", "Oui."), ("Yes.", "Oui."), ("one\u2028two", "un\ndeux")]
        return [{"translation": {"en": en, "fr": fr}} for en, fr in pairs]

    monkeypatch.setattr(table2, "load_dataset", load_dataset)
    config = TrainingConfig.load(PAPER / "wmt14_en_fr_big.yaml")
    for _ in range(2):
        source, target = table2.fetch(config, "test", tmp_path / "table2")
    assert asked == [("wmt/wmt14", "fr-en", "test", True)]
    assert (source.name, target.name) == ("newstest2014.en", "newstest2014.fr")
    assert source.read_text(encoding="utf-8") == "Yes.\nYes.\none two\n"  # repeated sentences count as often
    assert target.read_text(encoding="utf-8") == "Oui.\nOui.\nun deux\n"
