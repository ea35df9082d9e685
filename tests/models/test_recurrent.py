"""The recurrent family: its equations, one step after the other; what padding, caches and searches may not change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import VOCABULARY, batch_for, small_model, words
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from hf_vanilla import (
    RecurrentConfig,
    RecurrentForConditionalGeneration,
    RecurrentModel,
    Translator,
    VanillaForConditionalGeneration,
    beam_search,
)
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"
VARIANTS = {
    "none": {"attention_type": "none"},
    "additive": {"attention_type": "additive"},
    "dot": {"attention_type": "dot"},
    "general": {"attention_type": "general"},
    "concat": {"attention_type": "concat"},
    "monotonic": {"attention_type": "local", "local_alignment": "monotonic", "attention_window": 2},
    "predictive": {"attention_type": "local", "attention_window": 2},
    "dot, fed": {"attention_type": "dot", "input_feeding": True},
    "local, fed": {"attention_type": "local", "attention_window": 2, "input_feeding": True},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
cells = pytest.mark.parametrize("cell", ["lstm", "gru"])
THEIRS = {"custom_generate": beam_search, "length_penalty_form": "transformers"}


def model_of(variant, cell="lstm", model_class=RecurrentForConditionalGeneration, **changes):
    return small_model(model_class, **variant, cell_type=cell, **changes)


# The equations, written out


def lstm(x, before, w_ih, w_hh, b_ih, b_hh):
    h, c = before
    i, f, g, o = (w_ih @ x + b_ih + w_hh @ h + b_hh).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(x, before, w_ih, w_hh, b_ih, b_hh):
    (h,) = before
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (w_ih @ x + b_ih).chunk(3), (w_hh @ h + b_hh).chunk(3)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return ((1 - z) * n + z * h,)


def read(layer, step, inputs, suffix=""):
    """The states of one layer, from zero, over a list of vectors."""
    weights = [getattr(layer, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    zero = inputs[0].new_zeros(layer.hidden_size)
    state, states = (zero, zero) if step is lstm else (zero,), []
    for x in inputs:
        state = step(x, state, *weights)
        states.append(state[0])
    return states


def encode(encoder, step, ids):
    states = list(encoder.embed_tokens.weight[ids] * encoder.config.hidden_size**0.5)
    for layer in encoder.layers:
        left, right = read(layer, step, states), read(layer, step, states[::-1], "_reverse")[::-1]
        states = [torch.cat(pair) for pair in zip(left, right, strict=True)]
    return states


def attend(attention, kind, config, query, states, t):
    """Context and weights of one query over the states of one source."""
    if kind in ("additive", "concat"):
        w, u, v = attention.query_proj.weight, attention.key_proj.weight, attention.energy.weight[0]
        scores = torch.stack([v @ torch.tanh(w @ query + u @ h) for h in states])
    elif kind == "dot":
        scores = torch.stack([query @ h for h in states])
    else:
        scores = torch.stack([query @ (attention.key_proj.weight @ h) for h in states])
    if kind != "local":
        weights = torch.softmax(scores, 0)
    else:
        window, last = config.attention_window, len(states) - 1
        centre = torch.tensor(float(min(t, last)), dtype=query.dtype)
        if config.local_alignment == "predictive":
            energy = attention.position_energy.weight[0] @ torch.tanh(attention.position_proj.weight @ query)
            centre = len(states) * torch.sigmoid(energy)
        middle = min(round(float(centre.detach())), last)
        seen = [j for j in range(len(states)) if abs(j - middle) <= window]
        weights = torch.zeros_like(scores)
        for j, value in zip(seen, torch.softmax(scores[seen], 0), strict=True):
            if config.local_alignment == "predictive":
                value = value * torch.exp(-((j - centre) ** 2) / (2 * (window / 2) ** 2))
            weights = weights + value * (torch.arange(len(states)) == j)
    return sum(weight * h for weight, h in zip(weights, states, strict=True)), weights


def decode(model, step, states, targets):
    """The logits of one target, token by token."""
    decoder, config = model.model.decoder, model.config
    kind, attention, half = config.attention_type, decoder.attention, config.hidden_size // 2
    ends = torch.cat((states[-1][:half], states[0][half:]))
    initial = torch.tanh(decoder.initial_proj.weight @ ends + decoder.initial_proj.bias).split(config.hidden_size)
    each = 2 if step is lstm else 1
    layers = [tuple(initial[i : i + each]) for i in range(0, len(initial), each)]
    fed, logits = torch.zeros_like(ends), []
    for t, y in enumerate(decoder.embed_tokens.weight[targets] * config.hidden_size**0.5):
        x = y
        if kind == "additive":
            context, _ = attend(attention, kind, config, layers[-1][0], states, t)  # by the previous state
            x = torch.cat((y, context))
        elif config.input_feeding:
            x = torch.cat((y, fed))
        inner = x
        for number, layer in enumerate(decoder.layers):
            weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
            layers[number] = step(inner, layers[number], *weights)
            inner = layers[number][0]
        if kind == "none":
            output = inner
        else:
            if kind == "additive":
                parts = torch.cat((y, context, inner))
            else:
                parts = torch.cat(
                    (attend(attention, kind, config, inner, states, t)[0], inner)
                )  # by the current state
            output = fed = torch.tanh(decoder.output_proj.weight @ parts + decoder.output_proj.bias)
        logits.append(model.lm_head.weight @ output)
    return torch.stack(logits)


@cells
@variants
def test_logits_and_gradients_are_those_of_the_equations(variant, cell):
    """Of sentences of unequal length, so that padding, its order and each path through it are in the comparison."""
    model = model_of(variant, cell).double().train()
    step = {"lstm": lstm, "gru": gru}[cell]
    sources, targets = words(3, 6), words(3, 5)
    sizes = [(6, 5), (3, 2), (4, 4)]
    mask = torch.stack([torch.arange(6) < size for size, _ in sizes]).long()
    target_mask = torch.stack([torch.arange(5) < size for _, size in sizes]).long()
    generator = torch.Generator().manual_seed(3)
    factors = torch.randn(3, 5, VOCABULARY, generator=generator, dtype=torch.float64) * target_mask[..., None]
    inputs = {"attention_mask": mask, "decoder_attention_mask": target_mask}
    logits = model(input_ids=sources, decoder_input_ids=targets, **inputs).logits
    parameters = list(model.parameters())
    found = torch.autograd.grad((logits * factors).sum(), parameters)
    total = 0.0
    for row, (source, target) in enumerate(sizes):
        states = encode(model.model.encoder, step, sources[row, :source])
        expected = decode(model, step, states, targets[row, :target])
        torch.testing.assert_close(logits[row, :target], expected)
        total = total + (expected * factors[row, :target]).sum()
    for ours, theirs in zip(found, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layers", [1, 3])
@cells
def test_encoder_is_that_of_torch(cell, layers):
    model = small_model(RecurrentModel, cell_type=cell, encoder_layers=layers)
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](16, 8, layers, batch_first=True, bidirectional=True)
    for number, layer in enumerate(model.encoder.layers):
        for name, parameter in layer.named_parameters():
            getattr(theirs, name.replace("_l0", f"_l{number}")).data.copy_(parameter)
    ids = words(4, 9)
    expected = theirs(4 * model.encoder.embed_tokens(ids))[0]  # 4 is sqrt(16)
    torch.testing.assert_close(model.encoder(ids).last_hidden_state, expected)


@given(source=st.integers(1, 12), target=st.integers(1, 12), window=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("alignment", ["monotonic", "predictive"])
def test_local_attention_is_global_attention_with_a_mask(alignment, source, target, window, seed):
    variant = {"attention_type": "local", "local_alignment": alignment, "attention_window": window}
    attention = model_of(variant).model.decoder.attention
    generator = torch.Generator().manual_seed(seed)
    query, values = (torch.randn(2, length, 16, generator=generator) for length in (target, source))
    context, weights = attention(query, attention.look_at(values, None), torch.arange(target)[None])
    centre = torch.arange(target).clamp(max=source - 1).expand(2, -1).float()
    if alignment == "predictive":
        energy = attention.position_energy(torch.tanh(attention.position_proj(query)))[..., 0]
        centre = source * torch.sigmoid(energy)
    distance = torch.arange(source) - centre.round().clamp(max=source - 1)[..., None]
    scores = query @ attention.key_proj(values).transpose(1, 2)
    expected = scores.masked_fill(distance.abs() > window, -torch.inf).softmax(-1)
    assert ((expected > 0).sum(-1) <= 2 * window + 1).all()
    if alignment == "predictive":
        expected = expected * torch.exp(-2 * ((torch.arange(source) - centre[..., None]) / window) ** 2)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(context, expected @ values)


# What may change nothing


@cells
@variants
def test_padding_changes_nothing(variant, cell):
    """Wherever it stands, on either side, in training and not; the states of padding are 0."""
    model = model_of(variant, cell)
    source, target = words(1, 4), words(1, 3)
    expected = model(input_ids=source, decoder_input_ids=target, output_attentions=True)
    for places, target_places in (([0, 1, 2, 3], [0, 1, 2]), ([3, 4, 5, 6], [2, 3, 4]), ([0, 2, 5, 6], [0, 3, 4])):
        ids, mask = words(2, 7), torch.ones(2, 7, dtype=torch.long)
        decoder_ids, decoder_mask = words(2, 5), torch.ones(2, 5, dtype=torch.long)
        mask[0], decoder_mask[0] = 0, 0
        mask[0, places], decoder_mask[0, target_places] = 1, 1
        ids[0, places], decoder_ids[0, target_places] = source[0], target[0]
        batch = {"input_ids": ids, "attention_mask": mask}
        batch |= {"decoder_input_ids": decoder_ids, "decoder_attention_mask": decoder_mask}
        for train_mode in (False, True):
            found = model.train(train_mode)(**batch, output_attentions=True)
            torch.testing.assert_close(found.logits[0, target_places], expected.logits[0])
            states = found.encoder_last_hidden_state[0]
            assert (states[mask[0] == 0] == 0).all()
            if found.cross_attentions is not None:
                weights = found.cross_attentions[0][0, 0][target_places][:, places]
                torch.testing.assert_close(weights, expected.cross_attentions[0][0, 0])
        asked = {"min_new_tokens": 4, "max_new_tokens": 4}
        alone = {name: value[:1] for name, value in batch.items()}
        assert torch.equal(model.eval().generate(**batch, **asked)[:1], model.generate(**alone, **asked))


@cells
@variants
def test_step_by_step_is_all_at_once(variant, cell):
    """With padding in the target, in steps of unequal size, and with a state that does not grow."""
    model = model_of(variant, cell)
    source, target, mask = words(3, 6), words(3, 7), torch.ones(3, 7, dtype=torch.long)
    mask[1, 2:5], mask[2, 0:3] = 0, 0
    source_mask = torch.ones_like(source)
    source_mask[1, 4:] = 0
    inputs = {"input_ids": source, "attention_mask": source_mask}
    expected = model(**inputs, decoder_input_ids=target, decoder_attention_mask=mask).logits
    cache, found, sizes = None, [], set()
    for start, end in ((0, 2), (2, 3), (3, 6), (6, 7)):
        step = model(
            **inputs,
            decoder_input_ids=target[:, start:end],
            decoder_attention_mask=mask[:, :end],
            past_key_values=cache,
            use_cache=True,
        )
        cache = step.past_key_values
        assert cache.get_seq_length() == end
        sizes.add(sum(state.numel() for state in cache.states))
        found.append(step.logits)
    assert len(sizes) == 1
    tokens = mask.bool()
    torch.testing.assert_close(torch.cat(found, 1)[tokens], expected[tokens])


@cells
@variants
def test_loss_is_that_of_the_logits_in_training_as_in_evaluation(variant, cell):
    model = model_of(variant, cell)
    batch = batch_for(RecurrentForConditionalGeneration)
    del batch["decoder_input_ids"], batch["decoder_attention_mask"]
    batch["labels"][1, 2:], batch["labels"][2, 0] = -100, -100
    batch["attention_mask"][0, 5:] = 0
    with torch.no_grad():
        output = model(**batch)
    expected = cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(output.loss, expected)
    loss = model.train()(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@cells
@variants
def test_rows_of_nothing_but_padding_are_finite(variant, cell):
    """They have states of 0, and change nothing in the other rows."""
    model = model_of(variant, cell)
    batch = batch_for(RecurrentForConditionalGeneration)
    expected = model(**batch).logits
    batch["attention_mask"][1], batch["decoder_attention_mask"][2] = 0, 0
    output = model(**batch, output_attentions=True)
    assert (output.encoder_last_hidden_state[1] == 0).all() and output.logits.isfinite().all()
    torch.testing.assert_close(output.logits[0], expected[0])
    model.train()(**batch).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert (
        model.eval().generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3).shape[0]
        == 3
    )


@variants
def test_half_precision_is_finite(variant):
    for cell in ("lstm", "gru"):
        model, batch = model_of(variant, cell).train(), batch_for(RecurrentForConditionalGeneration)
        batch["attention_mask"][0, 4:] = 0
        # Under autocast, torch gives an LSTM to oneDNN even on a CPU on which that has none in bfloat16.
        if cell == "gru" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
            expected = model(**batch).loss
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.03)
        model = model.eval().to(torch.bfloat16)
        assert model(**batch).logits.isfinite().all()


# Searches


def sources(rows=4, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 1, (rows, length), generator=generator)
    kept = torch.arange(length) < torch.randint(1, length + 1, (rows, 1), generator=generator)
    return {"input_ids": torch.where(kept, ids, VOCABULARY - 1), "attention_mask": kept.long()}


@cells
@variants
def test_searches_agree(variant, cell):
    """Ours with transformers' penalty and theirs, ours with one beam and greedy, with a cache and without."""
    model = model_of(variant, cell)
    for seed in range(3):
        batch = sources(seed=seed)
        asked = {**batch, "max_new_tokens": 10, "return_dict_in_generate": True, "output_scores": True}
        theirs, ours = model.generate(**asked, num_beams=3), model.generate(**asked, num_beams=3, **THEIRS)
        width = min(theirs.sequences.shape[1], ours.sequences.shape[1])
        assert torch.equal(theirs.sequences[:, :width], ours.sequences[:, :width])
        torch.testing.assert_close(theirs.sequences_scores, ours.sequences_scores, atol=1e-4, rtol=1e-4)
        greedy = model.generate(**batch, max_new_tokens=10)
        assert torch.equal(greedy, model.generate(**batch, max_new_tokens=10, use_cache=False))
        assert torch.equal(
            greedy, model.generate(**batch, max_new_tokens=10, num_beams=1, custom_generate=beam_search)
        )


@variants
def test_a_batch_is_searched_as_its_sentences_are(variant):
    model = model_of(variant)
    batch, asked = sources(rows=9), {"num_beams": 3, "max_new_tokens": 9, "custom_generate": beam_search}
    together = model.generate(**batch, **asked, max_extra_tokens=4)
    for row in range(9):
        kept = batch["attention_mask"][row].bool()
        alone = model.generate(input_ids=batch["input_ids"][row : row + 1, kept], **asked, max_extra_tokens=4)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        assert (together[row, alone.shape[1] :] == model.config.pad_token_id).all()


def test_generation_goes_on_from_a_state_and_gives_attentions():
    model, batch = model_of(VARIANTS["additive"]), sources(rows=2)
    whole = model.generate(
        **batch, max_new_tokens=6, min_new_tokens=6, output_attentions=True, return_dict_in_generate=True
    )
    assert [step[0].shape for step in whole.cross_attentions] == [(2, 1, 1, 7)] * 6
    begun = model.generate(**batch, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True)
    rest = model.generate(
        **batch,
        decoder_input_ids=begun.sequences,
        decoder_attention_mask=torch.ones_like(begun.sequences),
        past_key_values=begun.past_key_values,
        max_new_tokens=4,
        min_new_tokens=4,
    )
    assert torch.equal(rest, whole.sequences)


def test_what_needs_a_state_to_go_back_is_refused():
    model = model_of(VARIANTS["dot"])
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(**sources(rows=1), assistant_model=model)


# Its place among models


@variants
def test_saved_and_loaded_it_is_the_same(variant, tmp_path):
    model, batch = model_of(variant), batch_for(RecurrentForConditionalGeneration)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is RecurrentForConditionalGeneration
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (
        loaded.lm_head.weight is loaded.model.encoder.embed_tokens.weight is loaded.model.decoder.embed_tokens.weight
    )
    assert type(AutoModel.from_pretrained(tmp_path)) is RecurrentModel
    code = {path.name for path in tmp_path.glob("*.py")}
    assert {
        "modeling_recurrent.py",
        "configuration_recurrent.py",
        "modeling_vanilla.py",
        "generation_vanilla.py",
    } <= code
    assert not any("hf_vanilla." in path.read_text().split('"""')[2] for path in tmp_path.glob("*.py"))


def test_trainer_trains_it(tmp_path):
    torch.manual_seed(0)
    texts = ["one two", "two three four", "four", "three one two four"]
    tokenizer = train_tokenizer(texts, 280)
    config = RecurrentConfig(vocab_size=len(tokenizer), hidden_size=32, N=1, dropout=0.0, pad_token_id=0)
    model = RecurrentForConditionalGeneration(config)
    rows = [tokenizer(text, text_target=text) for text in texts] * 8
    arguments = Seq2SeqTrainingArguments(
        tmp_path,
        max_steps=200,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        predict_with_generate=True,
        report_to=[],
        logging_steps=20,
        save_strategy="no",
        generation_max_length=12,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Seq2SeqTrainer(model, arguments, DataCollatorForSeq2Seq(tokenizer, model), rows, rows[:4])
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[-1] < losses[0] / 4
    predictions = trainer.predict(rows[:4]).predictions
    assert [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in predictions] == texts


@pytest.mark.parametrize("name", ["none", "additive", "dot", "local"])
def test_each_configuration_trains(name, tmp_path):
    (tmp_path / "en").write_text("".join(f"word {i % 7} and {i % 5}\n" for i in range(300)))
    (tmp_path / "de").write_text("".join(f"Wort {i % 7} und {i % 5}\n" for i in range(300)))
    config = TrainingConfig.load(CONFIGS / f"recurrent_{name}.yaml")
    assert config.architecture == "recurrent" and config.attention_type == name
    small = {"vocab_size": 300, "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1, "batch_tokens": 500}
    small |= {
        "max_steps": 8,
        "train_minutes": None,
        "warmup_steps": 2,
        "evaluations": 1,
        "average_last": 1,
        "log_every": 1,
    }
    corpus = {"corpus": str(tmp_path / "en"), "target_path": str(tmp_path / "de"), "output_dir": str(tmp_path / "run")}
    folder = train(replace(config, **small, **corpus, mixed_precision="no"))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < losses[0]
    assert json.loads((folder / "config.json").read_text())["attention_type"] == name
    translator = Translator.from_pretrained(folder)
    assert type(translator.model) is RecurrentForConditionalGeneration
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert translator([sample["source"] for sample in samples]) == [sample["translation"] for sample in samples]
    assert set(load_file(folder / "model.safetensors")) == set(
        RecurrentForConditionalGeneration(translator.model.config).state_dict()
    ) - {"lm_head.weight", "model.decoder.embed_tokens.weight"}
    if name == "none":
        with pytest.raises(ValueError, match="`align` reads attention"):
            translator.align("word 1", "Wort 1")
    else:
        assert [word for _, word in translator.align("word 1", "Wort 1")] == [0, 1]


# Bad input

BAD_FIELDS = [
    ({"attention_type": "bahdanau"}, r"`attention_type` must be one of none, additive, .*'bahdanau'"),
    ({"cell_type": "rnn"}, r"`cell_type` must be one of lstm, gru, got 'rnn'"),
    (
        {"local_alignment": "near", "attention_type": "local"},
        r"`local_alignment` must be one of monotonic, predictive",
    ),
    ({"attention_window": 3}, r"`attention_window` is for `attention_type=\"local\"`, not 'additive'"),
    ({"local_alignment": "monotonic", "attention_type": "dot"}, r"`local_alignment` is for .*not 'dot'"),
    ({"attention_type": "local", "attention_window": 0}, r"`attention_window` must be at least 1, got 0"),
    ({"hidden_size": 15}, r"`hidden_size` must be even.*15"),
    ({"hidden_size": 0}, r"`hidden_size` must be at least 1"),
    ({"encoder_layers": 0}, r"`encoder_layers` must be at least 1"),
    ({"dropout": 1.0}, r"`dropout` must lie in \[0, 1\)"),
    ({"initializer_range": 0.0}, r"`initializer_range` must be positive"),
    ({"input_feeding": True}, r"`input_feeding`.*\"additive\" feeds its context already"),
    ({"input_feeding": True, "attention_type": "none"}, r"`input_feeding`.*\"none\" has no attentional vector"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_field(fields, message):
    with pytest.raises(StrictDataclassError, match=f"ValueError: {message}"):
        RecurrentConfig(**fields)


BAD_BATCHES = [
    ({"input_ids": torch.full((3, 7), VOCABULARY)}, r"`input_ids`.*\[0, 40\)"),
    ({"decoder_input_ids": torch.full((3, 5), -1)}, r"`decoder_input_ids`.*\[0, 40\).*-1"),
    (
        {"input_ids": torch.zeros(3, 0, dtype=torch.long), "attention_mask": None},
        r"`input_ids`.*length >= 1.*\(3, 0\)",
    ),
    ({"decoder_input_ids": torch.zeros(3, 0, dtype=torch.long)}, r"`decoder_input_ids`.*length >= 1"),
    ({"attention_mask": torch.ones(3, 6)}, r"`attention_mask`.*\(3, 7\).*\(3, 6\)"),
    ({"attention_mask": torch.ones(3, 1, 7, 7)}, r"`attention_mask`.*\(batch, length\)"),
    ({"decoder_attention_mask": torch.ones(3, 4)}, r"`decoder_attention_mask`.*\(3, 5\).*\(3, 4\)"),
    ({"input_ids": None}, r"[Ee]xactly one of `input_ids`"),
    ({"inputs_embeds": torch.zeros(3, 7, 8), "input_ids": None}, r"`inputs_embeds`.*16"),
    ({"decoder_input_ids": words(2, 5), "decoder_attention_mask": None}, r"3 sources and 2 targets"),
    ({"position_ids": torch.arange(7)[None]}, r"takes no `position_ids`"),
    ({"decoder_position_ids": torch.arange(5)[None]}, r"takes no `decoder_position_ids`"),
    ({"past_key_values": DynamicCache()}, r"`past_key_values` must be a RecurrentCache.*DynamicCache"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_BATCHES, ids=lambda value: str(list(value))[:50])
def test_bad_batch(changes, message):
    model, batch = small_model(RecurrentModel), batch_for(RecurrentModel)
    model(**batch)
    with pytest.raises(ValueError, match=message):
        model(**{name: value for name, value in (batch | changes).items() if value is not None})


def test_models_of_the_two_families_do_not_load_each_other(tmp_path):
    small_model(RecurrentForConditionalGeneration).save_pretrained(tmp_path / "recurrent")
    small_model(VanillaForConditionalGeneration).save_pretrained(tmp_path / "vanilla")
    with pytest.raises(ValueError, match=r"(?s)vanilla_recurrent.*VanillaConfig"):
        VanillaForConditionalGeneration.from_pretrained(tmp_path / "recurrent")
    with pytest.raises(ValueError, match=r"(?s)'vanilla'.*RecurrentConfig"):
        RecurrentForConditionalGeneration.from_pretrained(tmp_path / "vanilla")


@pytest.mark.parametrize("model_class", [RecurrentModel, RecurrentForConditionalGeneration])
def test_there_are_no_recurrent_stacks_to_start_from(model_class):
    with pytest.raises(ValueError, match="no families of one stack"):
        model_class.from_encoder_decoder_pretrained("encoder", "decoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--norm_position", "pre"], r"norm_position is pre; expected nothing: it is not for architecture recurrent"),
        (["--attention_window", "3"], r"`attention_window` is for"),
        (["--attention_type", "luong"], r"invalid choice: 'luong'"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        from hf_vanilla.training.tasks import Translation

        Translation(TrainingConfig.load(CONFIGS / "recurrent_dot.yaml", options))
    with pytest.raises(ValueError, match="cell_type is gru; expected nothing: it is not for architecture transformer"):
        TrainingConfig.load(CONFIGS / "tiny.yaml", ["--cell_type", "gru"])
    with pytest.raises(ValueError, match="architecture is recurrent; expected 'transformer' for a language model"):
        TrainingConfig.load(CONFIGS / "causal_lm.yaml", ["--architecture", "recurrent"])
