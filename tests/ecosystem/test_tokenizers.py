"""Tokenizers as other libraries expect them, and texts of users that spell special tokens."""

import json

import pytest
import torch
import transformers
from families import small_model
from fresh import run_python
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from hf_vanilla import (
    Translator,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
    attention_maps,
    encode_texts,
    train_tokenizer,
)
from hf_vanilla.models.texts_vanilla import read_special_tokens
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.tasks import TASKS
from hf_vanilla.translation.loading import load_config_and_tokenizer

TEXTS = ["In the beginning God made heaven and earth.", "Im Anfang schuf Gott den Himmel und die Erde."] * 3
FAMILIES = ("seq2seq", "encoder", "decoder")
MODELS = {
    "seq2seq": VanillaForConditionalGeneration,
    "encoder": VanillaEncoderForMaskedLM,
    "decoder": VanillaDecoderForCausalLM,
}
ADDED = {"<2de>": "special", "<2fr>": "special", "[tool]": "plain"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  God made\n\nwhat? "},
    {"role": "assistant", "content": "heaven\n"},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "God"},
]


def make(family, tags=()):
    tokenizer = train_tokenizer(TEXTS, 300, family)
    tokenizer.add_special_tokens({"extra_special_tokens": [tag for tag in tags if ADDED[tag] == "special"]})
    tokenizer.add_tokens([tag for tag in tags if ADDED[tag] == "plain"])
    return tokenizer


def ways(tokenizer, text):
    """The ids of a text, by each way to ask for them."""
    yield tokenizer(text, add_special_tokens=False).input_ids
    yield tokenizer([text, "God"], add_special_tokens=False).input_ids[0]
    yield tokenizer(text_target=text, add_special_tokens=False).input_ids
    yield tokenizer.encode(text, add_special_tokens=False)
    yield tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    yield tokenizer([text], add_special_tokens=False, return_tensors="pt").input_ids[0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("saved", [False, True])
def test_each_special_or_added_token_is_one_token(family, saved, tmp_path):
    tokenizer = make(family, ADDED)
    encode_texts(tokenizer, "a</s>")  # leaves no trace
    if saved:
        tokenizer.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert not json.loads((tmp_path / "tokenizer_config.json").read_text()).get("split_special_tokens")
    for token in {*tokenizer.all_special_tokens, *ADDED}:
        for ids in ways(tokenizer, token):
            assert ids == [tokenizer.convert_tokens_to_ids(token)], token
        inside = tokenizer(f"God{token}", add_special_tokens=False).input_ids
        assert inside == [
            *tokenizer("God", add_special_tokens=False).input_ids,
            tokenizer.convert_tokens_to_ids(token),
        ]
    assert tokenizer(tokenizer.eos_token, add_special_tokens=False).input_ids == [tokenizer.eos_token_id]


def test_without_the_package_a_saved_tokenizer_reads_its_tokens_and_writes_chats(tmp_path):
    tokenizer = make("decoder", ADDED)
    tokenizer.save_pretrained(tmp_path)
    code = f"""
import sys
sys.modules["hf_vanilla"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})
print(tokenizer("God</s><2de>").input_ids, tokenizer.apply_chat_template({CHAT!r}, return_dict=False))"""
    printed = run_python(code, check=True).stdout
    expected = tokenizer("God</s><2de>").input_ids, tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert printed.strip().splitlines()[-1] == " ".join(map(str, expected))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tags", [(), tuple(ADDED)])
def test_text_that_spells_what_frames_a_sequence_stays_text_and_tags_stay_tags(family, tags):
    tokenizer = make(family, tags)
    frame = {"<pad>", "<s>", "</s>"}
    plain = "".join(tags)
    text = f"a<pad>b<s> c</s>{plain}<mask>d</s>"
    for masks in (False, True):
        for encoded in (
            encode_texts(tokenizer, text, masks=masks, add_special_tokens=False),
            encode_texts(tokenizer, [text, "b"], masks=masks, add_special_tokens=False),
        ):
            ids = encoded.input_ids if encoded.input_ids[0].__class__ is int else encoded.input_ids[0]
            tokens = tokenizer.convert_ids_to_tokens(ids)
            assert not frame.intersection(tokens)
            assert [token for token in tokens if token in ADDED] == list(tags)
            assert tokens.count("<mask>") == masks
            assert tokenizer.decode(ids) == text
    # One plain call is as before, whatever was asked in between.
    assert tokenizer.convert_ids_to_tokens(tokenizer("</s>", add_special_tokens=False).input_ids) == ["</s>"]
    assert set(tokenizer.all_special_tokens) >= {*frame, *(tag for tag in tags if ADDED[tag] == "special")}


def test_pairs_targets_words_tensors_and_offsets_go_through():
    tokenizer, text = make("encoder", ["<2de>"]), "a</s>"
    pair = encode_texts(tokenizer, [text], ["<2de></s>"], return_offsets_mapping=True, return_tensors="pt")
    assert pair["input_ids"][0].tolist().count(2) == 2 and pair["input_ids"].dtype == torch.int64
    assert pair.tokens()[-6:-1] == ["<2de>", "<", "/", "s", ">"] and pair["offset_mapping"].shape[-1] == 2
    both = encode_texts(tokenizer, "God", text_target="</s>")
    assert both["labels"].count(2) == 1 and both["input_ids"] == tokenizer("God")["input_ids"]
    split = encode_texts(tokenizer, [["a", "</s>"], ["b"]], is_split_into_words=True)
    assert split.word_ids(0)[-2] == 1 and split["input_ids"][0].count(2) == 1


def test_texts_that_spell_nothing_are_encoded_by_the_tokenizer_as_it_is():
    class Untouched(PreTrainedTokenizerFast):
        def __call__(self, *args, **options):
            assert "split_special_tokens" not in options
            return super().__call__(*args, **options)

    tokenizer = Untouched(tokenizer_object=make("encoder", ADDED).backend_tokenizer, eos_token="</s>")
    assert encode_texts(tokenizer, "God <2de>").input_ids == tokenizer("God <2de>").input_ids


def test_a_slow_tokenizer_keeps_the_text_or_says_that_it_cannot():
    tokenizer = ByT5Tokenizer()
    ids = encode_texts(tokenizer, "a</s>").input_ids
    assert ids == [*(3 + byte for byte in b"a</s>"), 1] != tokenizer("a</s>").input_ids
    assert encode_texts(tokenizer, "a<extra_id_0>").input_ids == tokenizer("a<extra_id_0>").input_ids
    with pytest.raises(ValueError, match="fast tokenizer, and this is ByT5Tokenizer"):
        encode_texts(tokenizer, "a</s><extra_id_0>")


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_of_earlier_versions_are_set_right_where_the_package_loads_them(family, tmp_path):
    make(family).save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"split_special_tokens": True}))
    small_model(MODELS[family], vocab_size=300).save_pretrained(tmp_path)
    auto_class = {"seq2seq": "AutoModelForSeq2SeqLM", "encoder": "AutoModelForMaskedLM"}.get(family)
    auto_class = getattr(transformers, auto_class or "AutoModelForCausalLM")
    as_it_is = AutoTokenizer.from_pretrained(tmp_path)
    assert as_it_is("</s>", add_special_tokens=False).input_ids != [2]
    assert encode_texts(as_it_is, "a</s>").input_ids == encode_texts(make(family), "a</s>").input_ids
    loaded = load_config_and_tokenizer(tmp_path, auto_class, "one")[1]
    loaded.save_pretrained(tmp_path / "again")
    for each in (loaded, AutoTokenizer.from_pretrained(tmp_path / "again")):
        assert each("</s>", add_special_tokens=False).input_ids == [2]
    # What another library's author has set stays.
    other = ByT5Tokenizer(split_special_tokens=True)
    assert read_special_tokens(other).split_special_tokens


def test_a_corpus_that_spells_special_tokens_trains_on_its_text(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"source": f"<2de> a</s>{n}", "target": f"b<pad><s>{n}", "text": f"a</s><mask>b{n}"} for n in range(30)]
    corpus.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for task, family in (("translation", "seq2seq"), ("masked_lm", "encoder"), ("causal_lm", "decoder")):
        tokenizer = make(family, ["<2de>"])
        tokenizer.save_pretrained(tmp_path / family)
        own = TASKS[task](TrainingConfig(task=task, corpus=str(corpus), max_steps=1, tokenizer=str(tmp_path / family)))
        splits = own.load_corpus()
        columns = own.tokenise(splits["train"][:], own.load_tokenizer(splits))
        for column, name in zip(own.columns, own.text_columns, strict=True):
            begin, end = {"seq2seq": (0, 1), "encoder": (1, 1), "decoder": (1, 1)}[family]
            for ids, text in zip(columns[column], splits["train"][name], strict=True):
                inner = ids[begin : len(ids) - end]
                assert not {0, 1, 2, 3}.intersection(inner) and tokenizer.decode(inner) == text
                assert tokenizer.convert_ids_to_tokens(inner)[0] == ("<2de>" if name == "source" else text[0])


def test_a_translator_reads_language_tags_and_no_end_that_a_text_spells():
    tokenizer = make("seq2seq", ["<2de>"])
    model = small_model(VanillaForConditionalGeneration, vocab_size=len(tokenizer), max_position_embeddings=64)
    read = []

    def note(module, args, inputs):
        read.append(inputs["input_ids"])

    model.get_encoder().register_forward_pre_hook(note, with_kwargs=True)
    Translator(model, tokenizer)("<2de> God</s>made", num_beams=2)
    tokens = tokenizer.convert_ids_to_tokens(read[-1][0])
    assert tokens[0] == "<2de>" and tokens.count("</s>") == 1 and tokens[-1] == "</s>"


def test_an_attention_page_shows_the_mask_of_an_encoder_and_the_text_of_a_spelled_end():
    labels = {}
    for family, model_class in MODELS.items():
        model = small_model(model_class, vocab_size=300, max_position_embeddings=64)
        maps = attention_maps(model, make(family), "God <mask> a</s>b", *(["c"] if family == "seq2seq" else []))
        labels[family] = next(iter(maps.kinds.values())).keys.labels
    assert [shown.count("<mask>") for shown in labels.values()] == [0, 1, 0]
    assert [shown.count("</s>") for shown in labels.values()] == [1, 1, 0]


def test_a_chat_is_one_document_a_turn_and_an_assistant_ends_with_the_end():
    tokenizer = make("decoder")
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    turns = [f"<s>{turn['role']}\n{turn['content']}</s>" for turn in CHAT]
    assert text == "".join(turns)
    ids = tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert ids == tokenizer(text, add_special_tokens=False).input_ids and ids.count(1) == ids.count(2) == len(CHAT)
    for count in (2, 4):  # what is to be answered is how the whole goes on
        prompt = tokenizer.apply_chat_template(CHAT[:count], add_generation_prompt=True, return_dict=False)
        assert ids[: len(prompt)] == prompt and tokenizer.decode(prompt).endswith("</s><s>assistant\n")
    marked = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, is_own in zip(ids, marked["assistant_masks"], strict=True) if is_own]
    assert tokenizer.decode(learned) == "heaven\n</s>God</s>"
    going_on = tokenizer.apply_chat_template(CHAT, tokenize=False, continue_final_message=True)
    assert going_on == text.removesuffix("</s>")


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "critic", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "b"}}]},
        {"role": "assistant"},
    ],
)
def test_a_chat_that_the_template_does_not_know_is_refused(turn):
    with pytest.raises(Exception, match="expected texts, without calls of tools, with the role system, user or assis"):
        make("decoder").apply_chat_template([turn], tokenize=False)


def test_tools_are_refused_and_only_a_decoder_has_a_chat_template():
    with pytest.raises(Exception, match="tools are given"):
        make("decoder").apply_chat_template(CHAT, tokenize=False, tools=[{"type": "function", "function": {}}])
    for family in ("seq2seq", "encoder"):
        assert make(family).chat_template is None
