"""What other engines make of our checkpoints: our tokens, our scores."""

import pytest
import torch
from families import small_config

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, beam_search, cli
from hf_vanilla.convert import export_to_ctranslate2
from hf_vanilla.tokenization import train_tokenizer

ctranslate2 = pytest.importorskip("ctranslate2")
TEXTS = ["one two three", "four", "five six seven eight nine ten", "ten two"]


def model_and_tokenizer(**changes):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(1)
    fields = {"vocab_size": len(tokenizer) + 3, "initializer_range": 0.4, **ids, **changes}
    config = small_config(VanillaConfig, decoder_start_token_id=tokenizer.bos_token_id, **fields)
    return VanillaForConditionalGeneration(config).eval(), tokenizer


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_position": "pre"},
        {"tie_word_embeddings": False},
        {"position_embedding_type": "learned", "activation_function": "gelu"},
        {"embedding_norm": True, "scale_embedding": False},
    ],
)
def test_ctranslate2_gives_our_tokens_and_scores(changes, beams, tmp_path):
    model, tokenizer = model_and_tokenizer(**changes)
    export_to_ctranslate2(model, tokenizer, tmp_path / "ct2")
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    ours = model.generate(
        **batch,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=0.0,
        early_stopping=True,
        max_new_tokens=20,
        custom_generate=beam_search,
        return_dict_in_generate=True,
    )
    engine = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="float32")
    sources = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in TEXTS]
    theirs = engine.translate_batch(
        sources,
        beam_size=beams,
        num_hypotheses=beams,
        length_penalty=0.0,
        max_decoding_length=20,
        min_decoding_length=0,
        return_scores=True,
        return_end_token=True,
    )
    for row, result in enumerate(theirs):
        best = result.hypotheses[0]
        own = model.generate(**tokenizer(TEXTS[row], return_tensors="pt"), max_new_tokens=20) if beams == 1 else None
        words = tokenizer.convert_ids_to_tokens((ours.sequences[row * beams] if own is None else own[0])[1:].tolist())
        assert words[: len(best)] == best
        assert float(ours.sequences_scores[row * beams]) == pytest.approx(result.scores[0], abs=1e-4)


def test_what_ctranslate2_cannot_express_is_refused(tmp_path):
    model, tokenizer = model_and_tokenizer(qk_head_dim=3)
    with pytest.raises(ValueError, match="heads of other sizes"):
        export_to_ctranslate2(model, tokenizer, tmp_path / "ct2")
    model, tokenizer = model_and_tokenizer()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        export_to_ctranslate2(model, tokenizer, tmp_path / "full")


def test_the_command(tmp_path):
    model, tokenizer = model_and_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "ctranslate2"])
    assert (tmp_path / "out" / "model.bin").is_file()
    with pytest.raises(SystemExit, match="expected one of ctranslate2"):
        cli.main(["export", str(tmp_path / "model"), str(tmp_path / "other"), "--format", "tensorrt"])
