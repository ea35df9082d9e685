"""`pipeline("translation")` as transformers 4 had it, for our models and in-tree ones, and without the package."""

import json
import os

import pytest
import torch
from datasets import Dataset
from families import small_config
from fresh import run_python
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from hf_vanilla import RecurrentForConditionalGeneration, Translator, VanillaForConditionalGeneration
from hf_vanilla.data.tokenization import train_tokenizer

TEXTS = ["one two", "three", "four five six seven"]
TOKENIZER = train_tokenizer(["one two three four five six seven", "eins zwei drei"], vocab_size=300)
IDS = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PREFIX = "translate English to German: "
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
SMALL |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.6}
SMALL |= {"max_position_embeddings": 100, "forced_eos_token_id": None, "decoder_start_token_id": 1, **IDS}


def ours(model_class):
    ids = IDS | {"decoder_start_token_id": 1}
    return model_class(small_config(model_class.config_class, initializer_range=0.6, **ids))


def t5():
    special = {"translation_en_to_de": {"prefix": PREFIX, "num_beams": 2}}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "initializer_factor": 3.0}
    return T5ForConditionalGeneration(T5Config(**sizes, **IDS, decoder_start_token_id=0, task_specific_params=special))


MODELS = {
    "vanilla": lambda: ours(VanillaForConditionalGeneration),
    "recurrent": lambda: ours(RecurrentForConditionalGeneration),
    "marian": lambda: MarianMTModel(MarianConfig(**SMALL)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**SMALL)),
    "t5": t5,
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """A model that has learned nothing, but whose distributions are not flat, and its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("translation", model=str(folder), device="cpu")


def texts_of(records):
    return [record["translation_text"] for record in records]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 5},
        {"max_length": 6},
        {"max_new_tokens": 5, "num_beams": 3},
        {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2},
        {"generation_config": GenerationConfig(max_new_tokens=3, decoder_start_token_id=1, eos_token_id=2)},
        {},
    ],
)
def test_a_batch_gives_what_each_text_gives(pipe, options):
    alone = [pipe(text, **options) for text in TEXTS]
    together = pipe(TEXTS, batch_size=2, **options)
    assert all(record.keys() == {"translation_text"} for records in alone for record in records)
    assert [len(records) for records in alone] == [options.get("num_return_sequences", 1)] * 3
    assert together == (alone if "num_return_sequences" in options else [records[0] for records in alone])


def test_options_of_the_pipeline_hold_for_its_calls(folder, pipe):
    options = {"max_new_tokens": 3, "num_beams": 2, "batch_size": 2}
    assert pipeline("translation", model=str(folder), device="cpu", **options)(TEXTS) == pipe(TEXTS, **options)


def test_greedy_search_is_that_of_generate(pipe):
    for text in TEXTS:
        ids = pipe.model.generate(**TOKENIZER(text, return_tensors="pt"), max_new_tokens=6)
        assert texts_of(pipe(text, max_new_tokens=6)) == TOKENIZER.batch_decode(ids, skip_special_tokens=True)


def test_sampling_depends_on_the_seed_alone(pipe):
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 5, "temperature": 2.0}
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(pipe("one two", **options))
    assert found[0] == found[1] and len(found[0]) == 3


def test_token_ids_are_returned(pipe):
    (record,) = pipe("one two", max_new_tokens=4, return_tensors=True)
    assert record.keys() == {"translation_token_ids"}
    text = TOKENIZER.decode(record["translation_token_ids"], skip_special_tokens=True)
    assert pipe("one two", max_new_tokens=4, return_type=1, return_text=True) == [{"translation_text": text}]
    both = pipe(["one two"], max_new_tokens=4, return_tensors=True, return_text=True)
    assert both[0].keys() == {"translation_token_ids", "translation_text"}
    with pytest.raises(ValueError, match="`return_text=False` leaves nothing"):
        pipe("one two", return_text=False)


def test_what_holds_texts(pipe):
    options = {"max_new_tokens": 4}
    expected, rows = pipe(TEXTS, **options), Dataset.from_dict({"text": TEXTS})
    assert pipe(tuple(TEXTS), **options) == pipe(rows["text"], **options) == expected
    for texts in (KeyDataset(rows, "text"), (text for text in TEXTS), iter(TEXTS), map(str, TEXTS)):
        found = pipe(texts, batch_size=2, **options)
        assert [records[0] for records in found] == expected and not isinstance(found, list)
    assert pipe([]) == pipe(()) == list(pipe(iter([]))) == list(pipe(KeyDataset(rows.select([]), "text"))) == []


@pytest.mark.parametrize("texts", [7, [7], None, {"text": "one"}, [["one"], ["two"]], b"one"])
def test_what_is_no_text_is_named(pipe, texts):
    with pytest.raises(TypeError, match=r"expected texts, got (int|NoneType|dict|list|bytes)"):
        pipe(texts)


def test_a_blank_text_stays_blank(pipe):
    assert pipe(" \n") == [{"translation_text": ""}]
    assert texts_of(pipe(["", "one"], batch_size=2, max_new_tokens=4))[0] == ""
    assert pipe("one two\n", max_new_tokens=4) == pipe("one two", max_new_tokens=4)


def test_a_text_that_spells_a_special_token_stays_text_to_ours(pipe):
    """Others read it as transformers 4 did."""
    ends = pipe.preprocess("one</s>two")["input_ids"].tolist()[0].count(TOKENIZER.eos_token_id)
    assert ends == (1 if pipe.is_own else 2)


def test_an_unknown_option_is_named_beside_those_that_there_are(pipe, folder):
    with pytest.raises(TypeError, match=r"no option 'num_beam'; its options are .*num_beams.*src_lang"):
        pipe("one two", num_beam=3)
    with pytest.raises(TypeError, match="no option 'beams'"):
        pipeline("translation", model=str(folder), beams=3)


def test_options_that_say_what_holds_anyway(pipe):
    options = {"src_lang": "en", "tgt_lang": "de", "truncation": True, "clean_up_tokenization_spaces": False}
    assert pipe("one two", max_new_tokens=4, **options) == pipe("one two", max_new_tokens=4)


def test_the_task_names_the_languages(pipe):
    named = pipeline("translation_en_to_de", model=pipe.model, tokenizer=TOKENIZER, device="cpu", max_new_tokens=4)
    if pipe.model.config.model_type == "t5":
        assert named("one two") == pipe(PREFIX + "one two", max_new_tokens=4, num_beams=2)
    else:
        assert named("one two") == pipe("one two", max_new_tokens=4)
    with pytest.raises(KeyError, match="Unknown task translation_en_de"):
        pipeline("translation_en_de", model=pipe.model, tokenizer=TOKENIZER)


def test_a_source_is_cut_to_the_positions_that_there_are(tmp_path):
    model = ours(VanillaForConditionalGeneration)
    config = model.config.__class__(**model.config.to_dict() | {"position_embedding_type": "learned"})
    pipe = pipeline("translation", model=VanillaForConditionalGeneration(config), tokenizer=TOKENIZER, device="cpu")
    text = "one two three " * 20
    assert pipe.preprocess(text, truncation=True)["input_ids"].shape[1] == config.max_position_embeddings == 32
    assert len(pipe(text, truncation=True, return_tensors=True)[0]["translation_token_ids"]) <= 32


def test_a_stop_sequence_ends_a_translation(pipe):
    text, step = pipe("one two", max_new_tokens=6)[0]["translation_text"], "e"
    (token,) = TOKENIZER.encode(step, add_special_tokens=False)
    ids = pipe("one two", max_new_tokens=6, stop_sequence=step, return_tensors=True)[0]["translation_token_ids"]
    assert (ids[1:-1] != token).all() and (step not in text or ids[-1] == token)
    with pytest.raises(ValueError, match="`stop_sequence` must be one token"):
        pipe("one two", stop_sequence="eins zwei!")


def test_a_tokenizer_of_several_languages_gets_them():
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in "one two three".split()]
    vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[])
    french, english = (tokenizer.convert_tokens_to_ids(code) for code in ("fra_Latn", "eng_Latn"))
    model = MarianMTModel(MarianConfig(**SMALL | {"vocab_size": len(tokenizer), "pad_token_id": 1}))
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu", max_new_tokens=4)
    languages = {"src_lang": "eng_Latn", "tgt_lang": "fra_Latn", "return_tensors": True}
    assert english in pipe.preprocess("one two", "eng_Latn", "fra_Latn")["input_ids"]
    for records in (
        pipe("one two", **languages),
        *([found] for found in pipe(["one", "two"], batch_size=2, **languages)),
    ):
        assert records[0]["translation_token_ids"][1] == french
    with pytest.raises(ValueError, match="src_lang"):
        pipe("one two")


def test_ours_searches_as_the_translator_does():
    model = ours(VanillaForConditionalGeneration)
    model.generation_config.max_new_tokens = 12
    pipe = pipeline("translation", model=model, tokenizer=TOKENIZER, device="cpu", num_beams=3)
    assert [" ".join(text.split()) for text in texts_of(pipe(TEXTS))] == Translator(model, TOKENIZER)(
        TEXTS, num_beams=3
    )


SNIPPET = """
import json, sys
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
from transformers import AutoModelForSeq2SeqLM, pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
pipe = pipeline("translation", model=folder, trust_remote_code=True)
assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
print(json.dumps([pipe(texts, **options) for options in json.loads(sys.argv[3])]))
AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True).save_pretrained(folder + "/again")
pipe.tokenizer.save_pretrained(folder + "/again")
print(json.dumps([pipeline("translation", model=folder + "/again", trust_remote_code=True)(texts)]))
"""


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, RecurrentForConditionalGeneration])
def test_the_snippet_of_the_hub_works_without_the_package(model_class, tmp_path):
    """It translates as with the package, and so does a model that was saved again there."""
    torch.manual_seed(0)
    ours(model_class).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    options = [{}, {"num_beams": 3, "batch_size": 2}, {"num_beams": 2, "num_return_sequences": 2, "max_length": 7}]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    arguments = str(tmp_path), json.dumps(TEXTS), json.dumps(options)
    result = run_python(SNIPPET, *arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    theirs, again = (json.loads(line) for line in result.stdout.splitlines() if line.startswith("[["))
    here = pipeline("translation", model=str(tmp_path), device="cpu")  # nothing needs to be trusted
    assert type(here).__module__ == "hf_vanilla.models.pipeline_vanilla"
    assert theirs == [here(TEXTS, **each) for each in options] and again == theirs[:1]


@pytest.mark.parametrize("name", MODELS)
def test_a_pipeline_is_saved_with_its_model(name, tmp_path):
    torch.manual_seed(0)
    pipe = pipeline("translation", model=MODELS[name](), tokenizer=TOKENIZER, device="cpu", max_new_tokens=4)
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("translation", model=str(tmp_path), device="cpu", max_new_tokens=4, trust_remote_code=True)
    assert loaded(TEXTS) == pipe(TEXTS)
