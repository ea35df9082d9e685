"""`Translator`: order kept whatever comes in, batches that change nothing, files that survive a kill."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from families import small_config
from transformers import MarianConfig, MarianMTModel, pipeline

from hf_vanilla import (
    Hypothesis,
    Translator,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaForConditionalGeneration,
    cli,
)
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.models import pipeline_vanilla
from hf_vanilla.translation import files
from hf_vanilla.translation import translator as translator_module

WORDS = "one two three four five six seven eight nine ten".split()
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(10)]


@pytest.fixture(autouse=True)
def short_translations(monkeypatch):
    """Translations of at most 5 tokens more than the source has, as the model hardly ever ends one itself."""
    for module in (translator_module, pipeline_vanilla):
        monkeypatch.setattr(module, "EXTRA_TOKENS", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has learned nothing, but whose distributions are not flat, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([" ".join(WORDS), "zwei fünf eins. neun!"], vocab_size=320)
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    torch.manual_seed(3)
    config = small_config(
        VanillaConfig,
        vocab_size=len(tokenizer),
        initializer_range=0.5,
        decoder_start_token_id=tokenizer.bos_token_id,
        **ids,
    )
    model = VanillaForConditionalGeneration(config)
    model.generation_config.update(num_beams=3, length_penalty=0.6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def translator(folder):
    return Translator.from_pretrained(folder, device="cpu", max_source_tokens=20)


def test_many_texts_are_as_one_by_one(translator):
    together = translator(TEXTS)
    assert together == [translator(text) for text in TEXTS]
    assert len(set(together)) > 5
    assert together == Translator(translator.model, translator.tokenizer, batch_tokens=1)(TEXTS)
    assert together == list(translator.stream(iter(TEXTS), pool=7))


def test_blanks_around_a_text_change_nothing(translator):
    assert translator(["one two\n", " one two", "\tone two\r\n"]) == [translator("one two")] * 3
    assert translator.cut("one two\n") == ["one two"]


def test_a_stream_is_not_read_ahead_of(translator):
    endless = translator.stream(itertools.cycle(TEXTS), pool=4)
    assert list(itertools.islice(endless, 10)) == [translator(text) for text in TEXTS[:10]]


def test_it_takes_the_model_s_generation_config_and_what_the_call_says(translator):
    assert translator(TEXTS[:9]) == translator(TEXTS[:9], num_beams=3, length_penalty=0.6)
    assert translator(TEXTS[:9]) != translator(TEXTS[:9], num_beams=1)


def test_the_best_hypotheses_with_their_scores(translator):
    plain = translator(TEXTS[:5])
    for text, best in zip(plain, translator(TEXTS[:5], n_best=3), strict=True):
        assert best[0].text == text and len(best) == 3
        assert sorted(best, key=lambda hypothesis: -hypothesis.score) == best
    assert isinstance(translator(TEXTS[0], n_best=1)[0], Hypothesis)
    with pytest.raises(ValueError, match="expected 1 to 3"):
        translator(TEXTS[0], n_best=4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\t \n",
        "one\ntwo",
        "\x00\x07one",
        "😀🏳️‍🌈",
        "ነገር ግን",
        "世界。世界。",
        "é" * 70,
        "x" * 300,
        "one. " * 30,
    ],
)
def test_whatever_comes_is_one_line_in_its_place(translator, text):
    before, own, after = translator(["one two", text, "three"])
    assert (before, after) == (translator("one two"), translator("three"))
    assert "\n" not in own and (bool(text.strip()) or own == "")


def test_no_texts_are_no_translations(translator):
    assert translator([]) == []


def test_what_is_no_text_is_named(translator):
    with pytest.raises(TypeError, match="int: 7"):
        translator(["one", 7])
    with pytest.raises(TypeError, match="NoneType"):
        translator(None)


def test_a_long_text_is_cut_where_sentences_end_and_only_then_between_words(translator):
    assert translator.cut("one two. three four.") == ["one two. three four."]
    sentences = ["one two three four five six seven. ", "eight nine ten one two three four five six. ", "four five!"]
    stripped = [sentence.strip() for sentence in sentences]
    assert translator.cut("".join(sentences)) == stripped
    assert translator("".join(sentences)) == " ".join(filter(None, translator(stripped)))
    long = " ".join(WORDS * 8)
    pieces = translator.cut(long)
    assert " ".join(pieces) == long and len(pieces) > 3
    assert all(len(translator.tokenizer(piece).input_ids) <= 20 for piece in pieces)
    for blank in ("\t", "\u3000"):
        assert blank.join(translator.cut(long.replace(" ", blank))) == long.replace(" ", blank)


def test_a_line_of_100_000_characters(translator):
    pieces = translator.cut("a" * 50_000 + " b" * 25_000)
    assert "".join(pieces).replace(" ", "") == "a" * 50_000 + "b" * 25_000
    assert all(len(translator.tokenizer(piece).input_ids) <= 20 for piece in pieces)


def test_words_and_what_they_look_at(translator):
    pairs = translator.align("one two three", "eins zwei")
    assert [target for _, target in pairs] == [0, 1] and all(0 <= source < 3 for source, _ in pairs)
    assert translator.align("", "eins") == [] and translator.align("one", "") == []


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
def test_other_precisions(folder, precision):
    translator = Translator.from_pretrained(folder, precision=precision, device="cpu")
    assert len(translator(TEXTS)) == len(TEXTS)
    exact = Translator.from_pretrained(folder, device="cpu")
    own, theirs = (each(TEXTS, num_beams=1, n_best=1) for each in (translator, exact))
    alike = [
        abs(one[0].score - other[0].score) < 0.1 * abs(other[0].score) for one, other in zip(own, theirs, strict=True)
    ]
    assert sum(alike) > 0.6 * len(TEXTS)


def test_a_model_in_less_precision_leaves_the_given_one_as_it_is(folder):
    model = VanillaForConditionalGeneration.from_pretrained(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    translator = Translator(model, Translator.from_pretrained(folder).tokenizer, precision="int8")
    translator(TEXTS[:3])
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_of_other_families_translate_by_their_own_generate(folder, translator):
    size = len(translator.tokenizer)
    config = MarianConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    marian = MarianMTModel(config)
    assert len(Translator(marian, translator.tokenizer)(TEXTS[:4], num_beams=2)) == 4
    with pytest.raises(ValueError, match="'marian'"):
        Translator(marian, translator.tokenizer, precision="int8")


def test_what_cannot_translate_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Translator.from_pretrained(tmp_path / "missing")
    with pytest.raises(ValueError, match="expected one of float32"):
        Translator.from_pretrained(folder, precision="int4")
    VanillaDecoderForCausalLM(small_config(VanillaDecoderConfig)).save_pretrained(tmp_path / "decoder")
    with pytest.raises(ValueError, match="expected one that translates"):
        Translator.from_pretrained(tmp_path / "decoder")
    VanillaForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no tokenizer"):
        Translator.from_pretrained(tmp_path / "bare")


def test_arguments_that_make_no_sense_are_named(translator, folder):
    for options in ({"num_beams": 0}, {"length_penalty": float("nan")}):
        with pytest.raises(ValueError, match="must be"):
            translator("one", **options)
    with pytest.raises(ValueError, match="float32 models on CPU"):
        Translator(translator.model.to(torch.bfloat16), translator.tokenizer, precision="int8")
    translator.model.float()
    assert translator(["one \ud800 two", "one"])[1] == translator("one")


def test_positions_have_an_end_where_they_are_learned(translator):
    config = small_config(
        VanillaConfig, vocab_size=len(translator.tokenizer), position_embedding_type="learned", pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    short = Translator(VanillaForConditionalGeneration(config), translator.tokenizer)
    assert short.max_source_tokens == 32 and len(short(["one", " ".join(WORDS * 9)])) == 2


def test_a_sampling_model_translates_by_search(folder, translator):
    model = VanillaForConditionalGeneration.from_pretrained(folder)
    model.generation_config.do_sample = True
    assert Translator(model, translator.tokenizer)(TEXTS[:3]) == translator(TEXTS[:3])


def test_the_pipeline_of_transformers_is_back(folder, translator):
    pipe = pipeline("translation", model=str(folder), device="cpu")
    assert pipe("one two") == [{"translation_text": translator("one two")}]
    assert pipe(TEXTS[:3], num_beams=2) == [{"translation_text": text} for text in translator(TEXTS[:3], num_beams=2)]


# Files


def test_what_is_there_is_not_lost(folder, tmp_path):
    source = tmp_path / "out.txt.partial"
    source.write_text("one\n")
    for target in (tmp_path / "out.txt", source):
        with pytest.raises(SystemExit, match="in the way|is the input"):
            run(folder, source, target)
    other = tmp_path / "in.txt"
    other.write_text("one\n")
    with pytest.raises(SystemExit, match="in the way"):
        run(folder, other, tmp_path / "out.txt")
    assert source.read_text() == other.read_text() == "one\n"
    with pytest.raises(SystemExit, match="not a file"):
        run(folder, other, tmp_path)
    (tmp_path / "kept").write_text("old")
    (tmp_path / "kept").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    run(folder, other, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kept").read_text().count("\n") == 1


def test_one_process_at_a_time_writes_a_file(folder, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("one\n")
    with files.alone_at(tmp_path / "out.txt.partial.lock", "busy"):
        with pytest.raises(SystemExit, match="out.txt is being written by another process"):
            run(folder, source, target)
        assert not target.exists()
    run(folder, source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def run(folder, source, target, *options):
    cli.main(["translate", str(folder), "--input", str(source), "--output", str(target), *options])


def test_lines_that_are_not_utf8_are_named_and_the_others_translated(folder, translator, tmp_path, capsys):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"\xef\xbb\xbfone two\r\n\xff\xfe\n\nthree\n caf\xe9")
    with pytest.raises(SystemExit, match="not UTF-8, and left empty: line 2, 5"):
        run(folder, source, target)
    lines = target.read_text(encoding="utf-8").split("\n")
    assert lines == [translator("one two"), "", "", translator("three"), "", ""]


def test_an_interrupted_file_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "POOL", 3)
    source, whole, target = (tmp_path / name for name in ("in.txt", "whole.txt", "out.txt"))
    source.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    run(folder, source, whole)
    translated = Counter()
    original = Translator.translate_pool

    def interrupted(self, texts, search):
        translated[len(texts)] += 1
        if sum(translated.values()) == 3:
            raise KeyboardInterrupt
        return original(self, texts, search)

    monkeypatch.setattr(Translator, "translate_pool", interrupted)
    with pytest.raises(SystemExit):
        run(folder, source, target)
    partial = tmp_path / "out.txt.partial"
    assert not target.exists() and len(partial.read_bytes().splitlines()) == 6
    with partial.open("ab") as file:
        file.write(b"half a li")
    with pytest.raises(SystemExit, match="another input, model or search"):
        run(folder, source, target, "--num_beams", "1")
    translated.clear()
    translated[0] = 5
    run(folder, source, target)
    assert target.read_bytes() == whole.read_bytes()
    assert sum(translated.values()) == 5 + 2  # of four pools
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt", "whole.txt"]


def test_a_killed_process_leaves_whole_lines(folder, tmp_path, monkeypatch):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("".join(f"{text}\n" for text in TEXTS * 60), encoding="utf-8")
    code = """
from hf_vanilla.cli import main
from hf_vanilla.translation import files, translator
files.POOL, translator.EXTRA_TOKENS = 100, 5
main()
"""
    command = [sys.executable, "-c", code, "translate", str(folder), "--input", str(source), "--output", str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    partial = tmp_path / "out.txt.partial"
    deadline = time.monotonic() + 240
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.stat().st_size and not target.exists()
    assert json.loads((tmp_path / "out.txt.partial.json").read_text())["precision"] == "float32"
    monkeypatch.setattr(files, "POOL", 100)
    run(folder, source, target)
    expected = Translator.from_pretrained(folder, device="cpu")(TEXTS)
    assert target.read_text(encoding="utf-8").splitlines() == expected * 60


def test_scores_that_are_no_numbers_are_null_in_json():
    rows = [translator_module.Hypothesis("a", score) for score in (-1.5, float("nan"), float("-inf"))]
    assert [row["score"] for row in json.loads(files.line_of(rows))] == [-1.5, None, None]
