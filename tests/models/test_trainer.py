"""The stock Trainer with its options on our heads: what works on BERT, GPT-2 and Marian works here."""

import pytest
import torch
from families import ENCODER_HEADS, HEADS, LANGUAGE_MODELS, batch_for, small_model
from torch import Tensor, nn
from transformers import (
    DataCollatorForSeq2Seq,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaForConditionalGeneration,
)
from hf_vanilla.data.tokenization import train_tokenizer

LABELLED = [head for head in HEADS if head is not VanillaEncoderForQuestionAnswering]
TOKEN_LABELS = ("ConditionalGeneration", "LM", "TokenClassification")


def rows_for(head: type, count: int = 8) -> list[dict[str, Tensor]]:
    """Rows of one length; of labels for tokens, 1 to 6 in a row."""
    batch = batch_for(head, batch=count)
    if any(part in head.__name__ for part in TOKEN_LABELS):
        kept = torch.arange(batch["labels"].shape[1]) <= torch.arange(count)[:, None] % 6
        batch["labels"] = batch["labels"].masked_fill(~kept, -100)
        batch["labels"][:, 1] = 5 if "Token" not in head.__name__ else 1
    return [{name: tensor[row] for name, tensor in batch.items()} for row in range(count)]


def arguments_for(folder, **options) -> TrainingArguments:
    defaults = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "save_strategy": "no"}
    defaults |= {"lr_scheduler_type": "constant", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    kind = options.pop("kind", TrainingArguments)
    return kind(str(folder), **(defaults | options))


def trained(head: type, rows: list, folder, **options) -> nn.Module:
    model = small_model(head)
    Trainer(model, arguments_for(folder, **options), train_dataset=rows).train()
    return model


def assert_same(one: nn.Module, two: nn.Module) -> None:
    for (name, weight), other in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_trainer_knows_labels_and_columns(head, tmp_path):
    trainer = Trainer(small_model(head), arguments_for(tmp_path), train_dataset=rows_for(head))
    expected = {name for name in batch_for(head) if "label" in name or name.endswith("positions")}
    assert expected <= set(trainer.label_names) <= expected | {"labels", "start_positions", "end_positions"}
    trainer._set_signature_columns_if_needed()
    assert set(batch_for(head)) <= set(trainer._signature_columns)
    assert trainer._loss_shifts_labels == (head is VanillaDecoderForCausalLM)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head", LABELLED, ids=lambda head: head.__name__)
def test_accumulated_gradients_are_those_of_one_batch(head, smoothing, tmp_path):
    """Though rows differ in their number of labels; and smoothed labels mean what the head's own argument means."""
    rows = rows_for(head)
    options = {"label_smoothing_factor": smoothing}
    whole = trained(head, rows, tmp_path, per_device_train_batch_size=8, **options)
    parts = trained(head, rows, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert_same(whole, parts)

    by_hand = small_model(head).train()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    loss = by_hand(**batch, label_smoothing=smoothing).loss
    loss.backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= parameter.grad
    assert_same(whole, by_hand)


class Distiller(Trainer):
    """Reads what the model answers beside the loss, as subclasses do that distil or that count hits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        soft = outputs.logits.float().softmax(-1)
        loss = outputs.loss + (soft * soft.detach().log()).sum(-1).mean()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_a_subclass_reads_logits_in_training(head, tmp_path):
    model = small_model(head)
    Distiller(model, arguments_for(tmp_path), train_dataset=rows_for(head)).train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("head", LANGUAGE_MODELS, ids=lambda head: head.__name__)
def test_a_run_without_logits_learns_the_same_and_is_scored(head, tmp_path):
    """`output_logits=False` of the configuration holds in training alone."""

    def count(prediction):
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        return {"shape": len(logits.shape), "hits": float((logits.argmax(-1) == prediction.label_ids).sum())}

    models, scores, rows = [], [], rows_for(head)
    for declined in (None, False):
        model = small_model(head, output_logits=declined)
        options = {"train_dataset": rows, "eval_dataset": rows, "compute_metrics": count}
        trainer = Trainer(model, arguments_for(tmp_path, max_steps=2), **options)
        trainer.train()
        models.append(model)
        scores.append(trainer.evaluate())
    assert_same(*models)
    assert scores[0]["eval_shape"] == 3 and scores[0]["eval_hits"] == scores[1]["eval_hits"]
    assert scores[0]["eval_loss"] == pytest.approx(scores[1]["eval_loss"], rel=1e-5)


def test_a_question_answering_head_accumulates(tmp_path):
    head = VanillaEncoderForQuestionAnswering
    rows = rows_for(head)
    whole = trained(head, rows, tmp_path, per_device_train_batch_size=8)
    assert_same(whole, trained(head, rows, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4))


def test_padding_is_no_answer():
    """Its logits would count in the softmax over positions, and the loss depend on the longest text of a batch."""
    model = small_model(VanillaEncoderForQuestionAnswering)
    batch = batch_for(type(model), batch=3, length=7)
    padded = {name: torch.nn.functional.pad(batch[name], (0, 4)) for name in ("input_ids", "attention_mask")}
    plain, wide = model(**batch), model(**(batch | padded))
    torch.testing.assert_close(wide.loss, plain.loss)
    torch.testing.assert_close(wide.start_logits[:, :7], plain.start_logits)
    spans = {name: torch.full((3,), 8) for name in ("start_positions", "end_positions")}
    assert model(**(batch | padded | spans)).loss == 0


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_bf16_and_neftune(head, tmp_path):
    rows = rows_for(head)
    plain = trained(head, rows, tmp_path, learning_rate=0.01, max_steps=2)
    half = trained(head, rows, tmp_path, learning_rate=0.01, max_steps=2, bf16=True)
    noisy = trained(head, rows, tmp_path, learning_rate=0.01, max_steps=2, neftune_noise_alpha=5.0)
    for other, bound in ((half, 0.02), (noisy, 1.0)):
        distance = max((a - b).abs().max() for a, b in zip(plain.parameters(), other.parameters(), strict=True))
        assert 0 < distance < bound
    embeddings = noisy.get_input_embeddings()
    assert not embeddings._forward_hooks and not hasattr(embeddings, "neftune_noise_alpha")
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


@pytest.mark.parametrize(
    "head", [VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM, VanillaForConditionalGeneration]
)
def test_a_compiled_model_learns_the_same(head, tmp_path):
    """Traced by dynamo and run as traced: what the compiler of C++ would make of it takes minutes."""
    rows = rows_for(head)
    options = {"learning_rate": 0.1, "per_device_train_batch_size": 8}
    plain = trained(head, rows, tmp_path, **options)
    assert_same(plain, trained(head, rows, tmp_path, torch_compile=True, torch_compile_backend="eager", **options))
    torch._dynamo.reset()


@pytest.mark.parametrize("head", [VanillaDecoderForCausalLM, VanillaForConditionalGeneration, *ENCODER_HEADS])
def test_the_best_checkpoint_comes_back_whole(head, tmp_path):
    rows = rows_for(head)
    options = {"max_steps": 3, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    model = small_model(head)
    losses = iter([3.0, 1.0, 2.0])
    trainer = Trainer(
        model,
        arguments_for(tmp_path, load_best_model_at_end=True, metric_for_best_model="score", **options),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda prediction: {"score": -next(losses)},
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = head.from_pretrained(tmp_path / "checkpoint-2")
    assert_same(trainer.model, best)
    if model.get_output_embeddings() is not None:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_batch_that_does_not_fit_gives_way_to_a_smaller_one(tmp_path):
    model = small_model(VanillaEncoderForSequenceClassification)
    sizes = []

    def memory(module: nn.Module, arguments: tuple, inputs: dict) -> None:
        sizes.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 3:
            raise RuntimeError("CUDA out of memory.")

    model.register_forward_pre_hook(memory, with_kwargs=True)
    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 4, "max_steps": 2}
    Trainer(model, arguments_for(tmp_path, **options), train_dataset=rows_for(type(model))).train()
    assert sizes[0] == 4 and len(sizes) == 3 and max(sizes[1:]) <= 3


def test_rows_are_grouped_by_length(tmp_path):
    """Of 64 rows of 1 to 64 tokens, batches hold neighbours; the collator is the stock one."""
    tokenizer = train_tokenizer(["a b c"], 300, "encoder")
    rows = [{"input_ids": [5] * (1 + 7 * i % 64), "labels": i % 2} for i in range(64)]
    model = small_model(VanillaEncoderForSequenceClassification, vocab_size=300)
    padding = {}
    for strategy in ("random", "group_by_length"):
        seen: list[Tensor] = []
        hook = model.register_forward_pre_hook(
            lambda module, arguments, inputs, seen=seen: seen.append(inputs["attention_mask"]), with_kwargs=True
        )
        options = {"train_sampling_strategy": strategy, "max_steps": 8, "learning_rate": 0.0}
        Trainer(model, arguments_for(tmp_path, **options), train_dataset=rows, processing_class=tokenizer).train()
        hook.remove()
        padding[strategy] = sum((mask == 0).sum().item() for mask in seen)
        assert sum(mask.sum().item() for mask in seen) == sum(len(row["input_ids"]) for row in rows)
    assert padding["group_by_length"] < 0.7 * padding["random"]


def test_evaluation_generates(tmp_path):
    tokenizer = train_tokenizer(["a b c d e f"], 300)
    torch.manual_seed(0)
    model = small_model(VanillaForConditionalGeneration, vocab_size=len(tokenizer))
    rows = [dict(tokenizer(source, text_target="c d e")) for source in ("a b", "b a c", "c", "d a b c")]
    given: dict = {}

    def metrics(prediction) -> dict[str, float]:
        given["predictions"], given["labels"] = prediction.predictions, prediction.label_ids
        return {"rows": float(len(prediction.predictions))}

    options = {"per_device_eval_batch_size": 2, "label_smoothing_factor": 0.1, "predict_with_generate": True}
    trainer = Seq2SeqTrainer(
        model,
        arguments_for(
            tmp_path,
            kind=Seq2SeqTrainingArguments,
            generation_config=GenerationConfig(
                max_length=6, num_beams=2, bos_token_id=1, pad_token_id=0, eos_token_id=2, decoder_start_token_id=1
            ),
            **options,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=metrics,
    )
    trainer.train()
    results = trainer.evaluate()
    assert results["eval_rows"] == 4 and results["eval_loss"] > 0
    batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows[:2]], return_tensors="pt")
    expected = model.eval().generate(**batch, generation_config=trainer.model.generation_config)
    got = torch.tensor(given["predictions"][:2, : expected.shape[1]])
    assert torch.equal(got, expected)


def test_a_search_finds_the_better_of_two_rates(tmp_path):
    optuna = pytest.importorskip("optuna")
    rows = rows_for(VanillaDecoderForSequenceClassification)
    trainer = Trainer(
        model_init=lambda: small_model(VanillaDecoderForSequenceClassification),
        args=arguments_for(tmp_path, max_steps=4, eval_strategy="epoch"),
        train_dataset=rows,
        eval_dataset=rows,
    )
    rates = [0.0, 0.5]
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", rates)},
        n_trials=2,
        direction="minimize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler({"learning_rate": rates}),
    )
    assert best.hyperparameters == {"learning_rate": 0.5}
