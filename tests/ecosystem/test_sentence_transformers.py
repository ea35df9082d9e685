"""sentence-transformers and SetFit on a small encoder, beside BERT of the same size: train, encode, save and load."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, BertModel

from hf_vanilla import (
    VanillaEncoderConfig,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderModel,
    train_tokenizer,
)

sentence_transformers = pytest.importorskip("sentence_transformers")

ALIKE = {"God made the light": "light was made by God", "he went to the sea": "to the sea he went away"}
ALIKE |= {"bread and wine": "wine with bread", "a king of old": "an old king"}
TOKENIZER = train_tokenizer([*ALIKE, *ALIKE.values()] * 3, 400, "encoder")
SIZES = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
BASES = {"ours": (VanillaEncoderModel, VanillaEncoderConfig), "BERT": (BertModel, BertConfig)}
HEADS = {
    "ours": (VanillaEncoderForSequenceClassification, VanillaEncoderConfig),
    "BERT": (BertForSequenceClassification, BertConfig),
}


def save(classes, folder, **fields):
    model_class, config_class = classes
    torch.manual_seed(0)
    model_class(config_class(**SIZES, **fields)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def bi_encoder(classes, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(save(classes, folder), max_seq_length=32)
    return SentenceTransformer(modules=[words, Pooling(32, "mean")], device="cpu")


def arguments(class_, folder, **changes):
    fields = {"output_dir": str(folder), "max_steps": 40, "per_device_train_batch_size": 4, "learning_rate": 3e-3}
    fields |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return class_(**fields | changes)


@pytest.mark.parametrize("family", BASES)
def test_a_bi_encoder_learns_which_sentences_are_alike(family, tmp_path):
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = bi_encoder(BASES[family], tmp_path / "words")
    rows = Dataset.from_dict({"anchor": list(ALIKE), "positive": list(ALIKE.values())})
    trainer = SentenceTransformerTrainer(
        model,
        arguments(SentenceTransformerTrainingArguments, tmp_path / "run"),
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    anchors, others = (model.encode(texts) for texts in (list(ALIKE), list(ALIKE.values())))
    assert model.similarity(anchors, others).argmax(1).tolist() == [0, 1, 2, 3]
    # Padding changes nothing, and neither does saving.
    alone = np.stack([model.encode(text) for text in ALIKE])
    np.testing.assert_allclose(alone, anchors, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode(list(ALIKE)), anchors, atol=1e-6)


@pytest.mark.parametrize("family", HEADS)
def test_a_cross_encoder_learns_which_sentences_are_alike(family, tmp_path):
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(save(HEADS[family], tmp_path / "head", num_labels=1), num_labels=1, device="cpu")
    pairs = [(a, b, float(i == j)) for i, a in enumerate(ALIKE) for j, b in enumerate(ALIKE.values())]
    rows = Dataset.from_dict(dict(zip(("first", "second", "label"), map(list, zip(*pairs, strict=True)), strict=True)))
    changes = {"max_steps": 120, "per_device_train_batch_size": 16}
    trainer = CrossEncoderTrainer(
        model,
        arguments(CrossEncoderTrainingArguments, tmp_path / "run", **changes),
        train_dataset=rows,
        loss=BinaryCrossEntropyLoss(model),
    )
    trainer.train()
    scores = model.predict([pair[:2] for pair in pairs])
    assert scores.reshape(4, 4).argmax(1).tolist() == [0, 1, 2, 3]
    model.save_pretrained(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.predict([pair[:2] for pair in pairs]), scores, atol=1e-5)


@pytest.mark.parametrize("family", BASES)
def test_setfit_learns_classes_from_few_texts(family, tmp_path):
    setfit = pytest.importorskip("setfit")

    bi_encoder(BASES[family], tmp_path / "words").save(str(tmp_path / "model"))
    texts = [*ALIKE, *ALIKE.values()]
    rows = Dataset.from_dict({"text": texts, "label": [0, 1, 2, 3] * 2})
    model = setfit.SetFitModel.from_pretrained(str(tmp_path / "model"))
    training = setfit.TrainingArguments(output_dir=str(tmp_path / "run"), batch_size=8, max_steps=30, report_to="none")
    training.body_learning_rate = (3e-3, 3e-3)
    trainer = setfit.Trainer(model=model, args=training, train_dataset=rows)
    trainer.train()
    assert model.predict(texts).tolist() == [0, 1, 2, 3] * 2
