"""transformers' pipelines on saved folders."""

import pytest
from families import small_model
from transformers import pipeline

from hf_vanilla import (
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
    VanillaDecoderModel,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaEncoderModel,
    VanillaModel,
)
from hf_vanilla.data.tokenization import train_tokenizer

TEXTS = ["In the beginning God made the heaven and the earth.", "And there was light."]


def pipe(task, model_class, folder, **kwargs):
    """The pipeline of a small model of `model_class` and a tokenizer of its family, both saved and loaded."""
    family = model_class.__name__.removeprefix("Vanilla").split("For")[0].lower().removesuffix("model")
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, family=family or "seq2seq")
    small_model(model_class, vocab_size=300, max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return pipeline(task, model=str(folder), **kwargs)


def test_fill_mask(tmp_path):
    filled = pipe("fill-mask", VanillaEncoderForMaskedLM, tmp_path, top_k=3)(f"{TEXTS[0]} And <mask> was light.")
    assert len(filled) == 3
    assert 0 < sum(guess["score"] for guess in filled) <= 1
    assert all(guess["sequence"].startswith("In the beginning") for guess in filled)


def test_text_generation_of_a_batch_is_that_of_each(tmp_path):
    generate = pipe("text-generation", VanillaDecoderForCausalLM, tmp_path)
    options = {"max_new_tokens": 5, "do_sample": False}
    one_by_one = [generate(text, **options) for text in TEXTS]
    assert generate(TEXTS, batch_size=2, **options) == one_by_one
    assert all(result[0]["generated_text"].startswith(text) for result, text in zip(one_by_one, TEXTS, strict=True))


@pytest.mark.parametrize(
    "model_class", [VanillaEncoderForSequenceClassification, VanillaDecoderForSequenceClassification]
)
def test_text_classification_of_a_batch_is_that_of_each(model_class, tmp_path):
    classify = pipe("text-classification", model_class, tmp_path, top_k=None)
    batched = classify(TEXTS, batch_size=2)
    for text, labels in zip(TEXTS, batched, strict=True):
        assert sum(label["score"] for label in labels) == pytest.approx(1, abs=1e-5)
        alone = {label["label"]: label["score"] for label in classify([text])[0]}
        assert {label["label"]: label["score"] for label in labels} == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("model_class", [VanillaEncoderForTokenClassification, VanillaDecoderForTokenClassification])
def test_token_classification(model_class, tmp_path):
    tags = pipe("token-classification", model_class, tmp_path)(TEXTS[1])
    assert tags
    assert all(tag["entity"].startswith("LABEL_") and 0 < tag["score"] <= 1 for tag in tags)


@pytest.mark.parametrize("model_class", [VanillaModel, VanillaEncoderModel, VanillaDecoderModel])
def test_feature_extraction(model_class, tmp_path):
    extract = pipe("feature-extraction", model_class, tmp_path)
    features = extract(TEXTS[0])
    assert len(features[0]) == len(extract.tokenizer(TEXTS[0]).input_ids)
    assert all(len(vector) == 16 for vector in features[0])
