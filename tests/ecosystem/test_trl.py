"""TRL's trainers on a small decoder, beside GPT-2 of the same size: each runs, and what is fine-tuned stops."""

import math

import pytest
import torch
from datasets import Dataset
from families import small_config
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from hf_vanilla import (
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    train_tokenizer,
)

trl = pytest.importorskip("trl")

ANSWERS = {"Who made heaven?": "God", "What was made?": "light", "When?": "in the beginning", "Who rested?": "he"}
TOKENIZER = train_tokenizer([*ANSWERS, *ANSWERS.values()] * 3, 400, "decoder")
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def make_config(peer=False, **changes):
    fields = {"vocab_size": len(TOKENIZER), **SPECIAL, **changes}
    if peer:
        return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **fields)
    sizes = {"hidden_size": 32, "intermediate_size": 128, "max_position_embeddings": 128, "dropout": 0.1}
    return small_config(VanillaDecoderConfig, **sizes | fields)


def make_model(peer=False):
    torch.manual_seed(0)
    return (GPT2LMHeadModel if peer else VanillaDecoderForCausalLM)(make_config(peer))


def options(folder, steps, **changes):
    """Arguments that all of TRL's trainers take."""
    fields = {"output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    fields |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False}
    return fields | {"gradient_checkpointing": False, "disable_tqdm": True} | changes


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def turns(question, answer=None):
    asked = [{"role": "user", "content": question}]
    return asked if answer is None else [*asked, {"role": "assistant", "content": answer}]


def texts():
    return Dataset.from_list([{"text": f"{question} {answer}"} for question, answer in ANSWERS.items()])


def completions():
    rows = [{"prompt": question, "completion": f" {answer}"} for question, answer in ANSWERS.items()]
    return Dataset.from_list(rows)


def chats():
    return Dataset.from_list([{"messages": turns(*pair)} for pair in ANSWERS.items()])


def chat_completions():
    rows = [{"prompt": turns(*pair)[:1], "completion": turns(*pair)[1:]} for pair in ANSWERS.items()]
    return Dataset.from_list(rows)


def preferences():
    """Answers, and those of another question, which are worse."""
    others = [*list(ANSWERS.values())[1:], next(iter(ANSWERS.values()))]
    rows = zip(ANSWERS.items(), others, strict=True)
    return Dataset.from_list([{"prompt": q, "chosen": f" {a}", "rejected": f" {b}"} for (q, a), b in rows])


SFT = {
    "text": (texts, {}),
    "prompt and completion": (completions, {}),
    "chat": (chats, {}),
    "chat, the assistant alone": (chats, {"assistant_only_loss": True}),
    "chat, prompt and completion": (chat_completions, {}),
    "packing": (texts, {"packing": True, "max_length": 32}),
    "packing, wrapped": (texts, {"packing": True, "packing_strategy": "wrapped", "max_length": 32}),
    "packing of chats": (chats, {"packing": True, "max_length": 64}),
    "without padding": (texts, {"padding_free": True, "max_length": None}),
}


@pytest.mark.parametrize(("kind", "peer"), [*((kind, False) for kind in SFT), ("text", True), ("chat", True)])
def test_what_is_fine_tuned_writes_an_answer_and_stops(kind, peer, tmp_path):
    make_data, changes = SFT[kind]
    model, data = make_model(peer), make_data()
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(**options(tmp_path, 100, logging_steps=10), **changes),
        train_dataset=data,
        processing_class=TOKENIZER,
    )
    trainer.train()
    seen = losses(trainer)
    assert all(map(math.isfinite, seen)) and seen[-1] < 0.3 * seen[0]
    model.eval()
    for question in ANSWERS:
        if "chat" in kind:
            as_tensors = {"return_dict": True, "return_tensors": "pt"}
            prompt = TOKENIZER.apply_chat_template(turns(question), add_generation_prompt=True, **as_tensors)
        else:
            prompt = TOKENIZER(question, return_tensors="pt")
        written = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        text, end, rest = TOKENIZER.decode(written).partition("</s>")
        assert text.strip() in ANSWERS.values() and end and not rest


def test_the_first_loss_of_fine_tuning_is_the_models_own_on_the_labels(tmp_path):
    torch.manual_seed(0)
    model = VanillaDecoderForCausalLM(make_config(dropout=0.0))
    rows = [TOKENIZER(f"{row['text']}</s>")["input_ids"] for row in texts()]
    batch = TOKENIZER.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = model(**batch, labels=labels).loss.item()
    for changes in ({}, {"padding_free": True, "max_length": None}, {"packing": True, "max_length": 128}):
        arguments = trl.SFTConfig(**options(tmp_path, 1, learning_rate=0.0), **changes)
        trainer = trl.SFTTrainer(model, arguments, train_dataset=texts(), processing_class=TOKENIZER)
        trainer.train()
        assert losses(trainer)[0] == pytest.approx(expected, abs=1e-3), changes


@pytest.mark.parametrize("is_loaded", [False, True], ids=["given", "loaded"])
def test_preference_optimisation_starts_at_ln_2_and_learns_to_prefer(is_loaded, tmp_path):
    """Model and reference are the same at first, for TRL switches dropout off."""
    make_model().save_pretrained(tmp_path / "model")
    model, reference = (VanillaDecoderForCausalLM.from_pretrained(tmp_path / "model") for _ in range(2))
    assert model.config.dropout > 0
    trainer = trl.DPOTrainer(
        model,
        None if is_loaded else reference,
        trl.DPOConfig(**options(tmp_path, 25)),
        train_dataset=preferences(),
        processing_class=TOKENIZER,
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["loss"] < 0.4 and rows[-1]["rewards/accuracies"] == 1


@pytest.mark.parametrize("peer", [False, True], ids=["ours", "GPT-2"])
def test_a_reward_model_learns_which_answer_is_right(peer, tmp_path):
    torch.manual_seed(0)
    model_class = GPT2ForSequenceClassification if peer else VanillaDecoderForSequenceClassification
    model = model_class(make_config(peer, num_labels=1))
    arguments = trl.RewardConfig(**options(tmp_path, 40))
    trainer = trl.RewardTrainer(model, arguments, train_dataset=preferences(), processing_class=TOKENIZER)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["accuracy"] == 1


def test_kto_starts_at_one_half_and_learns(tmp_path):
    """Where model and reference are the same, each example's loss is 1 - sigmoid(0)."""
    data = preferences()
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in data
        for side in ("chosen", "rejected")
    ]
    trainer = trl.KTOTrainer(
        make_model(),
        make_model(),
        trl.KTOConfig(**options(tmp_path, 25)),
        train_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
    )
    trainer.train()
    seen = losses(trainer)
    assert seen[0] == pytest.approx(0.5, abs=1e-4) and seen[-1] < 0.47


@pytest.mark.parametrize("peer", [False, True], ids=["ours", "GPT-2"])
@pytest.mark.parametrize("is_chat", [False, True], ids=["text", "chat"])
def test_grpo_raises_the_reward(peer, is_chat, tmp_path):
    """The reward is the share of one letter, which a model with new weights hardly writes."""

    def share(completions, **_):
        written = [each[0]["content"] if is_chat else each for each in completions]
        return [text.count("e") / max(1, len(text)) for text in written]

    prompts = [{"prompt": turns(question) if is_chat else question} for question in ANSWERS]
    sampling = {"num_generations": 8, "max_completion_length": 8, "per_device_train_batch_size": 16}
    trainer = trl.GRPOTrainer(
        make_model(peer),
        share,
        args=trl.GRPOConfig(**options(tmp_path, 20, **sampling), beta=0.0),
        train_dataset=Dataset.from_list(prompts),
        processing_class=TOKENIZER,
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert all(map(math.isfinite, rewards)) and sum(rewards[-5:]) > 1.4 * sum(rewards[:5])


def test_trl_counts_our_chat_template_among_those_it_trains_with():
    from trl.chat_template_utils import (
        has_generation_markers,
        is_chat_template_stop_token_trained,
        supports_tool_calling,
    )

    assert has_generation_markers(TOKENIZER.chat_template) and is_chat_template_stop_token_trained(TOKENIZER)
    assert not supports_tool_calling(TOKENIZER)
