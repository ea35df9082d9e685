"""From text to batches: what is filtered and counted, cached, cut into pieces, packed."""

import itertools
import json
import logging

import pytest
from datasets import IterableDataset

from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.tasks import TASKS


@pytest.fixture
def make(tmp_path):
    """A task over some rows, its corpus, tokenizer and training examples."""

    def make(task, rows, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = TrainingConfig(task=task, corpus=str(path), vocab_size=300, max_steps=1, **fields)
        made = TASKS[task](config)
        corpus = made.load_corpus()
        tokenizer = made.load_tokenizer(corpus)
        return made, corpus, tokenizer, made.examples(corpus, "train", tokenizer)

    return make


def pairs(count=200):
    return [{"source": f"sentence {n}", "target": f"Satz {n}"} for n in range(count)]


def test_pairs_that_are_too_long_or_too_unequal_are_dropped_and_counted_by_reason(make, caplog):
    caplog.set_level(logging.INFO, "hf_vanilla")
    odd = [{"source": "x " * 300, "target": "long"}, {"source": "y", "target": "unequal " * 9}]
    task, corpus, _, examples = make("translation", pairs() + odd * 1, max_length=100, max_length_ratio=3)
    assert len(corpus["train"]) - len(examples) == 2
    assert task.dropped == {
        "train: longer than 100 tokens": 1,
        "train: one side more than 3 times as long as the other": 1,
    }
    assert "train: dropped 1 longer than 100 tokens, 1 one side more than 3 times" in caplog.text


@pytest.mark.parametrize("field", ["initial_model", "tokenizer"])
def test_what_a_run_starts_from_is_named_where_it_is_nowhere(make, field):
    with pytest.raises(FileNotFoundError, match=rf"{field} is runs/nowhere, which is no folder here; of the Hub: \w+"):
        make("translation", pairs(), **{field: "runs/nowhere"})


def test_what_a_stream_drops_is_counted_as_well(make):
    odd = [{"source": "x " * 300, "target": "long"}]
    task, _, _, examples = make("translation", pairs() + odd, max_length=100, streaming=True)
    assert 190 < len(list(examples)) < 200 and task.dropped == {"stream: longer than 100 tokens": 1}


def test_tokenising_happens_once_for_a_tokenizer_and_a_length(make, monkeypatch):
    task, corpus, tokenizer, examples = make("translation", pairs())
    tokenizer("changes the state of padding", padding="max_length", max_length=9, truncation=True)
    monkeypatch.setattr(task, "tokenise", None)
    assert task.examples(corpus, "train", tokenizer).to_list() == examples.to_list()
    tokenizer.add_tokens(["word"])
    with pytest.raises(TypeError):
        task.examples(corpus, "train", tokenizer)


def test_long_documents_are_cut_for_masked_and_packed_for_causal_language_models(make):
    documents = [{"text": " ".join(f"word{n}x{k}" for k in range(n % 50 + 1))} for n in range(100)]
    _, corpus, tokenizer, examples = make("masked_lm", documents, max_length=20, whole_word_masking=True)
    assert max(examples["input_ids_length"]) == 20
    for row in examples:
        assert (row["input_ids"][0], row["input_ids"][-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert (row["word_ids"][0], row["word_ids"][-1]) == (-1, -1) and min(row["word_ids"][1:-1]) >= 0
    text = "".join(tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in examples)
    assert text == "".join(corpus["train"]["text"])

    _, corpus, tokenizer, examples = make("causal_lm", documents, max_length=20)
    assert set(map(len, examples["input_ids"])) == {20}
    stream = list(itertools.chain(*examples["input_ids"]))
    ids = [tokenizer(text)["input_ids"] for text in corpus["train"]["text"]]
    expected = [token for document in ids for token in (tokenizer.bos_token_id, *document, tokenizer.eos_token_id)]
    assert stream[: len(expected)] == expected and set(stream[len(expected) :]) <= {tokenizer.pad_token_id}


@pytest.mark.parametrize("task", ["translation", "masked_lm", "causal_lm"])
def test_every_example_comes_once_an_epoch_and_an_epoch_can_be_entered_in_the_middle(make, task):
    rows = [row | {"text": " ".join(row.values())} for row in pairs()]
    made, _, tokenizer, examples = make(task, rows, max_length=20, batch_tokens=200, accumulation_steps=2)
    model = made.new_model(tokenizer)
    batches = made.batches(examples, tokenizer, model)
    updates = list(itertools.takewhile(lambda update: update[0] == 0, batches.updates(0, 0)))
    assert sum(len(batch["input_ids"]) for _, _, update in updates for batch in update) == len(examples)
    assert all(len(update) == 2 for _, _, update in updates)
    for again, update in zip(batches.updates(0, 3), updates[3:], strict=False):
        assert again[:2] == update[:2]
        assert all(a["input_ids"].equal(b["input_ids"]) for a, b in zip(again[2], update[2], strict=True))


def test_an_empty_stream_is_refused(make):
    made, _, tokenizer, _ = make("masked_lm", [{"text": f"a {n}"} for n in range(100)], streaming=True)
    nothing = IterableDataset.from_generator(lambda: iter(()))
    batches = made.batches(nothing, tokenizer, made.new_model(tokenizer))
    with pytest.raises(ValueError, match="the corpus is empty"):
        next(batches.updates(0, 0))


@pytest.mark.parametrize("task", TASKS)
def test_the_models_have_the_shape_that_the_configuration_says(make, task):
    shape = {
        "hidden_size": 20,
        "intermediate_size": 28,
        "num_attention_heads": 2,
        "qk_head_dim": 6,
        "dropout": 0.25,
        "norm_position": "pre",
        "activation_function": "gelu",
        "position_embedding_type": "learned",
        "scale_embedding": False,
        "embedding_norm": True,
        "v_head_dim": 4,
        "attention_dropout": 0.125,
        "activation_dropout": 0.5,
        "final_norm": True,
        "layer_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "initializer_range": 0.01,
        "max_position_embeddings": 600,
        "position_offset": 2,
    }
    rows = pairs() if task == "translation" else [{"text": f"sentence {n}"} for n in range(200)]
    made, _, tokenizer, _ = make(task, rows, encoder_layers=1, decoder_layers=1, **shape)
    model = made.build_model(tokenizer)
    assert {name: getattr(model.config, name) for name in shape} == shape
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_head_dim": 0}, "`qk_head_dim` must be at least 1, got 0"),
        ({"attention_dropout": 1.5}, r"`attention_dropout` must lie in \[0, 1\), got 1.5"),
        ({"activation_function": "rleu"}, "`activation_function` must be one of .*got 'rleu'"),
        ({"hidden_size": 100}, r"`hidden_size` \(100\) must be a multiple of `num_attention_heads`"),
    ],
)
def test_what_the_configuration_of_the_model_refuses_is_refused_before_anything_is_read(fields, message):
    with pytest.raises(ValueError, match=message):
        TASKS["translation"](TrainingConfig(max_steps=1, **fields))
