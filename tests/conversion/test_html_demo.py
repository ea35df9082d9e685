"""The demo's model as a page: PyTorch's translation of each test verse, in time; and one of 26 million weights."""

from pathlib import Path

import pytest
import torch
from browser import Page, in_browser
from html_engine import in_node, rounded, run_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, beam_search, cli, load_corpus
from hf_vanilla.conversion.html_page import export_html, export_to_html
from hf_vanilla.translation.metrics import TranslationQuality

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROOT = Path(__file__).parents[2]
TEXT = "And God said, Let there be light: and there was light."


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run that `make demo` has left, or else one of two minutes by the same configuration."""
    run = ROOT / "runs" / "verses_demo"
    if not (run / "model.safetensors").exists():
        run = tmp_path_factory.mktemp("runs") / "verses_demo"
        configuration = str(ROOT / "scripts" / "configs" / "verses_demo.yaml")
        cli.main(["train", configuration, "--output_dir", str(run), "--train_minutes", "2"])
    return run


@pytest.fixture(scope="module")
def tokenizer(demo):
    return AutoTokenizer.from_pretrained(demo)


@pytest.fixture(scope="module")
def verses():
    return load_corpus("verses")["test"]


def load(demo):
    return AutoModelForSeq2SeqLM.from_pretrained(demo, dtype="float32").eval()


@torch.inference_mode()
def translate(model, rows, beams):
    """Token ids of the best translation of each row, as `Translator` finds them."""
    found = {}
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for batch in (order[start : start + 32] for start in range(0, len(order), 32)):
        ids = [torch.tensor(rows[i]) for i in batch]
        output = model.generate(
            input_ids=pad_sequence(ids, True, model.config.pad_token_id),
            attention_mask=pad_sequence([torch.ones_like(each) for each in ids], True),
            num_beams=beams,
            do_sample=False,
            custom_generate=beam_search,
            max_extra_tokens=50,
            return_dict_in_generate=True,
        )
        lengths = (output.beam_indices >= 0).sum(1).tolist()
        tokens = zip(output.sequences.tolist(), lengths, strict=True)
        found |= zip(batch, (row[1 : 1 + length] for row, length in tokens), strict=True)
    return [found[i] for i in range(len(rows))]


@in_node
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_all_test_verses_are_translated_as_by_pytorch(precision, beams, demo, tokenizer, verses):
    rows = [tokenizer(text)["input_ids"] for text in verses["source"]]
    tasks = [{"run": "search", "ids": ids, "beams": beams} for ids in rows]
    ours = [found[0]["tokens"] for found in run_model(load(demo), tokenizer, tasks, precision)]
    expected = translate(rounded(load(demo), precision), rows, beams)
    assert sum(a == b for a, b in zip(ours, expected, strict=True)) >= (
        len(rows) if precision == "float16" else 0.98 * len(rows)
    )
    scores = [
        TranslationQuality(metrics=["bleu"]).compute(
            predictions=tokenizer.batch_decode(tokens, skip_special_tokens=True), references=verses["references"]
        )["bleu"]
        for tokens in (ours, translate(load(demo), rows, beams))
    ]
    assert abs(scores[0] - scores[1]) < 0.3


@in_node
def test_thirty_tokens_a_second(demo, tokenizer, verses):
    rows = [tokenizer(text)["input_ids"] for text in verses["source"][:30]]
    (rate,) = run_model(load(demo), tokenizer, [{"run": "speed", "rows": rows}])
    assert rate >= 30


class Timed(Page):
    """A page whose clock is read."""

    def times(self, path):
        """Milliseconds until the first token could be seen, and tokens a second of the translation."""
        self.open(path, ready="document.body.dataset.rate")
        assert self.run("return document.querySelectorAll('#target .word').length") > 2
        self.check_quiet()
        return [float(self.run(f"return document.body.dataset.{name}")) for name in ("first", "rate")]


@pytest.fixture(scope="module")
def page():
    page = Timed()
    yield page
    page.driver.quit()


@in_browser
def test_the_first_token_is_there_within_a_second(page, demo, tmp_path):
    (tmp_path / "texts").write_text(TEXT)
    export_html(demo, tmp_path / "page.html", examples=tmp_path / "texts")
    firsts, rates = zip(*(page.times(tmp_path / "page.html") for _ in range(5)), strict=True)
    assert min(firsts) < 1000 and max(rates) >= 30


@in_browser
def test_a_model_of_twenty_six_million_weights_opens_and_translates(page, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = VanillaConfig(vocab_size=8000, d_model=512, d_ff=2048, h=8, N=3, decoder_start_token_id=1)
    model = VanillaForConditionalGeneration(config).eval()
    assert sum(weight.numel() for weight in model.parameters()) > 25e6
    model.generation_config.update(max_new_tokens=20)
    export_to_html(model, tokenizer, tmp_path / "large.html", examples=[TEXT])
    page.times(tmp_path / "large.html")
