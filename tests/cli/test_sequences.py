"""Pairs that are no translations, from a table to a card, by every verb: letters and what they are called."""

import json
import logging
import random

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from hf_vanilla import Translator, attention_maps, cli
from hf_vanilla.data.pairs import group_answers
from hf_vanilla.models.tokenization_vanilla import PairTokenizer

NAMES = {"a": "EY", "b": "BIY", "c": "SIY", "d": "DIY", "e": "IY", "f": "EHF"}
FIELDS = {
    "tokenizer_type": "characters",
    "target_tokenizer_type": "words",
    "source_column": "letters",
    "target_column": "names",
    "vocab_size": 300,
    "max_length": 16,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "N": 1,
    "dropout": 0.0,
    "batch_tokens": 500,
    "schedule": "linear",
    "learning_rate": 2e-2,
    "warmup_steps": 10,
    "norm_position": "pre",
    "initializer": "xavier",
    "optimizer": "muon",
    "max_steps": 150,
    "average_last": 1,
    "evaluations": 1,
    "bleu_sentences": 20,
    "mixed_precision": "no",
}


def say(letters):
    return " ".join(NAMES[letter] for letter in letters)


def write_table(path, rows, names=("letters", "names")):
    path.write_text("\t".join(names) + "\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def options(**changes):
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    return [text for name, value in fields.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on words of 2 to 6 letters, of which those with an `f` have a second answer, "EF"."""
    folder, randomness = tmp_path_factory.mktemp("letters"), random.Random(0)
    words = sorted({"".join(randomness.choices("abcdef", k=randomness.randint(2, 6))) for _ in range(900)})
    rows = [(word, say(word)) for word in words]
    rows += [(word, say(word).replace("EHF", "EF")) for word in words if "f" in word]
    (folder / "config.yaml").write_text(f"output_dir: {folder / 'run'}\n")
    table = write_table(folder / "words.tsv", rows)
    assert cli.main(["train", str(folder / "config.yaml"), "--corpus", str(table), *options()]) in (0, None)
    return folder / "run"


def test_a_table_becomes_a_model_that_is_scored_as_sequences(run, capsys):
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["final"]["exact_match"] > 50 and summary["final"]["token_error_rate"] < 20
    assert "bleu" not in summary["final"] and summary["tokenizer"]["target"]["tokens_per_word"] == 1
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert type(tokenizer) is PairTokenizer and tokenizer.model_max_length == 16
    cli.main(["evaluate", str(run), "--num_beams", "3", "--json", "--show", "0"])
    (scores,) = json.loads(capsys.readouterr().out)
    assert scores["references"] == 2 and scores["exact_match"] > 50
    assert scores["recall_among_beams"] >= scores["exact_match"] and scores["token_error_rate"] < 20
    translator = Translator.from_pretrained(run)
    from hf_vanilla.data.corpora import load_corpus

    table = run.parent / "words.tsv"
    test = load_corpus(table, source_column="letters", target_column="names", sequences=True)["test"]
    right = group_answers(test)
    own = translator(list(right), num_beams=3)
    assert scores["sentences"] == len(right) < len(test)
    share = sum(text in right[source] for source, text in zip(right, own, strict=True)) / len(right)
    assert scores["exact_match"] == pytest.approx(100 * share)


def test_the_card_says_what_the_model_does_and_not_that_it_translates(run, tmp_path):
    cli.main(["card", str(run), "user/letters", str(tmp_path / "card")])
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.pipeline_tag == "text2text-generation"
    assert {result.task_type for result in card.data.eval_results} == {"text2text-generation"}
    assert "letters (characters) into names (symbols between blanks)" in card.text.replace("\\", "")
    assert (
        "translat" not in card.text.lower().replace("translator", "")
        and (tmp_path / "card" / "attention.png").exists()
    )
    # Rendered anew from the records that lie there, without a tokenizer, it says the same.
    cli.main(["card", str(tmp_path / "card"), "user/letters", str(tmp_path / "again")])
    assert ModelCard.load(tmp_path / "again" / "README.md").data.pipeline_tag == "text2text-generation"


def test_the_pipeline_the_translator_and_generate_agree(run):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    words = ["abc", "deed", "fa"]
    own = Translator(model, tokenizer)(words)
    batch = tokenizer(words, padding=True, return_tensors="pt")
    assert tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True) == own
    pipe = pipeline("text2text-generation", model=str(run))
    assert pipe(words) == [{"generated_text": text} for text in own]
    assert pipeline("translation", model=str(run))("abc") == [{"translation_text": own[0]}]


def test_the_attention_of_letters_and_names_can_be_seen(run, tmp_path):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    maps = attention_maps(model, tokenizer, "abc", "EY BIY")
    assert maps.cross.keys.labels == ("a", "b", "c", "</s>")
    assert maps.cross.queries.labels == ("EY", "BIY", "</s>")
    torch.testing.assert_close(maps.cross.weights.sum(-1), torch.ones_like(maps.cross.weights[..., 0]))
    cli.main(["attend", str(run), "--source", "abc", "--html", str(tmp_path / "page.html")])
    assert "EY" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_long_texts_are_not_cut_and_what_was_not_learned_is_named(run, caplog):
    translator = Translator.from_pretrained(run)
    long = "ab. " * 100 + "ab"
    assert translator.cut(long) == [long]
    with caplog.at_level(logging.WARNING, logger="hf_vanilla"):
        found = translator(["abc", long, "", "dé?d", "é"], num_beams=1)
    assert len(found) == 5 and found[2] == ""
    symbols, longer = caplog.messages
    assert "3 symbols that the vocabulary lacks" in symbols or "4 symbols that the vocabulary lacks" in symbols
    assert "'é' (2)" in symbols and "'?' (1)" in symbols
    assert longer.startswith("texts longer than the 16 tokens that the model has learned from: 1, such as 'ab. ab.")


def test_a_target_may_have_any_length(tmp_path):
    """The paper's limit, 50 tokens more than the source, is for sentences."""
    rows = [(f"{number}", "x " * (60 + number % 3)) for number in range(80)]
    table = write_table(tmp_path / "long.tsv", rows)
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    changes = options(max_length=70, max_steps=2, warmup_steps=1, bleu_sentences=0)
    cli.main(["train", str(tmp_path / "config.yaml"), "--corpus", str(table), *changes])
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = [len(json.loads(line)["translation"].split()) for line in lines]  # of a model that hardly ever ends
    assert lengths and min(lengths) > 3 + 50


@pytest.mark.parametrize("architecture", ["transformer", "recurrent"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_tied_or_not_and_of_any_architecture(architecture, tied, run, tmp_path):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    changes = {"architecture": architecture, "tie_word_embeddings": tied, "max_steps": 3, "bleu_sentences": 3}
    changes["warmup_steps"] = 1
    if architecture == "recurrent":
        changes |= {"optimizer": "adam", "norm_position": None, "initializer": None}
    changes |= {"corpus": run.parent / "words.tsv"}
    cli.main(["train", str(tmp_path / "config.yaml"), *options(**changes)])
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    source, target = model.get_encoder().embed_tokens.weight, model.get_decoder().embed_tokens.weight
    assert (source is target) == (tied == "true")
    assert isinstance(Translator(model, AutoTokenizer.from_pretrained(tmp_path / "run"))("abc"), str)


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({}, [(f"w{n}", f"K-AE-{n}") for n in range(100)], "target_tokenizer_type is words, .* no target has a blank"),
        (
            {"tokenizer_type": "words", "target_tokenizer_type": None},
            [(f"w{n}", f"K AE {n}") for n in range(100)],
            "tokenizer_type is words, .* no source has a blank, such as 'w",
        ),
        ({"target_tokenizer_type": "phones"}, [("a", "b")], "target-tokenizer-type: invalid choice: 'phones'"),
        ({"task": "causal_lm"}, [("a", "b")], "target_tokenizer_type is words; expected nothing"),
    ],
)
def test_bad_input_is_one_line(changes, rows, message, tmp_path, capsys):
    import re

    table = write_table(tmp_path / "words.tsv", rows)
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(tmp_path / "config.yaml"), "--corpus", str(table), *options(**changes)])
    (line,) = [each for each in f"{stop.value}\n{capsys.readouterr().err}".splitlines() if re.search(message, each)]
    assert "Traceback" not in line


def test_labels_that_are_one_word_each_are_words_without_a_blank(run, tmp_path):
    """What has no blank is refused only if nearly all of it differs."""
    words = ("a" * n + "b" * m for n in range(9) for m in range(9) if n + m)
    rows = [(word, "short" if len(word) < 4 else "long") for word in words]
    table = write_table(tmp_path / "words.tsv", rows)
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    cli.main(
        [
            "train",
            str(tmp_path / "config.yaml"),
            "--corpus",
            str(table),
            *options(max_steps=2, warmup_steps=1, bleu_sentences=0),
        ]
    )


def test_a_symbol_that_only_held_out_rows_have_is_named(tmp_path, caplog):
    rows = [(f"{number}", "x y") for number in range(200)]
    table = write_table(tmp_path / "words.tsv", [*rows, *((f"{number}", "x q") for number in range(200, 240))])
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    with caplog.at_level(logging.WARNING, logger="hf_vanilla"):
        changes = {"min_frequency": 60, "max_steps": 2, "warmup_steps": 1, "bleu_sentences": 0}
        cli.main(["train", str(tmp_path / "config.yaml"), "--corpus", str(table), *options(**changes)])
    assert any("validation, source: " in line and "that the vocabulary lacks" in line for line in caplog.messages)


def test_a_run_that_starts_from_one_of_sequences_is_one_of_sequences(run, tmp_path):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    own = {"initial_model": run, "tokenizer_type": None, "target_tokenizer_type": None, "vocab_size": None}
    changes = options(**own, corpus=run.parent / "words.tsv", max_steps=2, warmup_steps=1)
    cli.main(["train", str(tmp_path / "config.yaml"), *changes])
    final = json.loads((tmp_path / "run" / "training_summary.json").read_text())["final"]
    assert "exact_match" in final and "bleu" not in final
    cli.main(["evaluate", str(tmp_path / "run"), "--num_beams", "1", "--show", "0"])
