"""The file that `hf-vanilla export --format html` writes, in a real browser; and what it refuses to write."""

import json
import re
import time

import pytest
import torch
from browser import Page, in_browser
from families import small_model
from html_engine import ENGINE, rounded, search_in_torch
from torch.testing import assert_close

import hf_vanilla
from hf_vanilla import (
    RecurrentForConditionalGeneration,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
    cli,
)
from hf_vanilla.attention.switching import switched_off
from hf_vanilla.conversion import html_page
from hf_vanilla.conversion.html_page import LANGUAGES, export_to_html
from hf_vanilla.data.tokenization import train_tokenizer

TEXTS = ["one two three", "four five", "five six seven eight nine ten"]
HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "<!--<script> @DATA@ @WEIGHTS@ @CODE@ ${1} {word} \\u003c \u2028.",
]
CLASSES = {
    "seq2seq": VanillaForConditionalGeneration,
    "decoder": VanillaDecoderForCausalLM,
    "encoder": VanillaEncoderForMaskedLM,
    "recurrent": RecurrentForConditionalGeneration,
}


def make(family, **changes):
    """A small model with weights as a page holds them, and its tokenizer."""
    kind = "seq2seq" if family == "recurrent" else family
    tokenizer = train_tokenizer([*TEXTS, *HOSTILE], vocab_size=300, family=kind)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    fields = {"vocab_size": len(tokenizer), "initializer_range": 0.4} | ids | changes
    if kind == "seq2seq":
        fields["decoder_start_token_id"] = tokenizer.bos_token_id
    model = rounded(small_model(CLASSES[family], **fields))
    if family != "encoder":
        model.generation_config.max_new_tokens = 8
    return model, tokenizer


class ModelPage(Page):
    """A page that runs a model."""

    def show(self, path, **how):
        self.open(path, **how)
        self.wait()

    def wait(self):
        end = time.monotonic() + 60
        while self.run("return document.querySelector('main').ariaBusy") != "false":
            assert time.monotonic() < end and self.run("return document.getElementById('failure').hidden")
            time.sleep(0.02)

    def translate(self, text):
        self.run("document.getElementById('input').value = arguments[0]", text)
        self.click("#go")
        self.wait()

    def click(self, selector, number=0):
        self.run("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, number)
        self.wait()

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def tokens(self, side="target"):
        selector = f"#{side} .word"
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => +e.dataset.token)", selector)

    def shares(self):
        """The probabilities of the alternatives that are offered."""
        return self.run(
            "return [...document.querySelectorAll('#alternatives button')].map(e => "
            "parseFloat(e.style.getPropertyValue('--share')) / 100)"
        )


@pytest.fixture(scope="module")
def page():
    page = ModelPage()
    yield page
    page.driver.quit()


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory):
    model, tokenizer = make("seq2seq", norm_position="pre")
    path = tmp_path_factory.mktemp("page") / "page.html"
    export_to_html(model, tokenizer, path, title="small", language="en", examples=TEXTS)
    return model, tokenizer, path


@in_browser
@pytest.mark.parametrize("family", CLASSES)
def test_a_page_writes_what_pytorch_writes_and_shows_where_it_looks(page, family, tmp_path):
    changes = {"attention_type": "general"} if family == "recurrent" else {"norm_position": "pre"}
    model, tokenizer = make(family, **changes)
    path, text = tmp_path / "page.html", "one <mask> three" if family == "encoder" else TEXTS[2]
    export_to_html(model, tokenizer, path, examples=[text], language="en")
    page.show(path)
    ids = tokenizer(text)["input_ids"]
    if family == "encoder":
        assert page.tokens("source") == ids
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_attentions=True)
        place = ids.index(tokenizer.mask_token_id)
        best = output.logits[0, place].softmax(-1).topk(10)
        assert page.shares() == pytest.approx(best.values.tolist(), abs=1e-5)
        page.point("source", place)
        assert_close(page.weights("source"), output.attentions[-1][0, 0, place], atol=1e-5, rtol=0)
        page.check_quiet()
        return
    for beams in (1, 4):
        page.set(search=str(beams))
        page.wait()
        if family == "decoder":
            start = [1, *ids]
            tokens, scores = search_in_torch(model, start, beams, max_new_tokens=8)
        else:
            start, limit = [1], min(len(ids) + 50, 8)
            tokens, scores = search_in_torch(model, ids, beams, max_new_tokens=limit)
        assert page.tokens() == [*start, *tokens[0]]
        shown = [float(re.search(r"score (\S+)$", each)[1]) for each in page.texts("#hypotheses button")]
        assert shown == pytest.approx(scores[: len(shown)], abs=2e-3)
    written = start + tokens[0]
    inputs = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([written])}
    inputs = {"input_ids": torch.tensor([written])} if family == "decoder" else inputs
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    looks = output.attentions if family == "decoder" else output.cross_attentions
    place = len(start) + 2
    page.point("target", place)
    weights = page.weights("target" if family == "decoder" else "source")
    # A word of a decoder can look at those before it alone; the others of the text carry 0.
    expected = torch.zeros_like(weights)
    seen = looks[-1][0, 0, place - 1, : place if family == "decoder" else None]
    expected[: len(seen)] = seen
    assert_close(weights, expected, atol=1e-5, rtol=0)
    page.click("#target .word", place)
    probabilities = output.logits[0, place - 1].softmax(-1).topk(10).values
    assert page.shares()[:10] == pytest.approx(probabilities.tolist(), abs=1e-5)
    page.check_quiet()


@in_browser
def test_another_word_changes_what_follows_as_in_pytorch(page, seq2seq):
    model, tokenizer, path = seq2seq
    page.show(path)
    page.set(search="4")
    page.wait()
    ids, before = tokenizer(TEXTS[0])["input_ids"], page.tokens()
    page.click("#target .word", 2)
    page.click("#alternatives button", 4)
    after = page.tokens()
    prefix = after[:3]
    assert prefix[:2] == before[:2] and prefix[2] != before[2]
    tokens, _ = search_in_torch(model, ids, 4, prefix, max_new_tokens=8 - 2)
    assert after == prefix + tokens[0]
    # Words of one's own take the place of a word, too, and can be taken back.
    page.run("document.getElementById('own-text').value = 'nine ten'")
    page.click("#own button")
    assert tokenizer.decode(page.tokens()[:8]).startswith(tokenizer.decode(before[:2]) + " nine ten")
    page.click("#release")
    assert page.tokens() == before
    page.check_quiet()


@in_browser
def test_a_head_that_is_switched_off_changes_the_probabilities_as_in_pytorch(page, seq2seq):
    model, tokenizer, path = seq2seq
    page.show(path)
    page.set(search="1")
    page.wait()
    before = page.tokens()
    page.click("#heads button[data-layer='1'][data-head='2']")
    page.click("#switch")
    page.click("#target .word", 1)
    inputs = {"input_ids": torch.tensor([tokenizer(TEXTS[0])["input_ids"]]), "decoder_input_ids": torch.tensor([[1]])}
    with switched_off(model, model.get_decoder().layers[1].cross_attention, 2), torch.no_grad():
        expected = model(**inputs).logits[0, 0].softmax(-1).topk(10).values
    assert page.shares()[:10] == pytest.approx(expected.tolist(), abs=1e-5)
    assert page.run("return document.querySelector('#heads .off').getAttribute('aria-label')").endswith("switched off")
    page.click("#all-on")
    assert page.tokens() == before and page.run("return !document.querySelector('#heads .off')")
    page.check_quiet()


@in_browser
def test_a_layer_step_by_step_has_the_numbers_of_the_model(page, seq2seq):
    model, tokenizer, path = seq2seq
    page.show(path)
    page.set(search="1", **{"all-numbers": True})
    page.wait()
    page.click("#heads button[data-layer='0'][data-head='3']")
    page.click("#target .word", 3)
    for _ in range(5):
        page.click("#next")
    attention, seen = model.get_decoder().layers[0].cross_attention, {}
    hooks = [
        getattr(attention, f"{name}_proj").register_forward_hook(
            lambda module, x, y, name=name: seen.update({name: y})
        )
        for name in "qkv"
    ]
    inputs = {"input_ids": torch.tensor([tokenizer(TEXTS[0])["input_ids"]])}
    inputs["decoder_input_ids"] = torch.tensor([page.tokens()[:3]])
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    query, keys, values = (seen[name][0].unflatten(-1, (4, 4))[:, 3] for name in "qkv")
    scores = keys @ query[2] / 2
    rows = page.run(
        "return [...document.querySelectorAll('#numbers tbody tr')].map(row => "
        "[...row.querySelectorAll('td')].filter(cell => cell.textContent).map(cell => parseFloat(cell.textContent)))"
    )
    assert rows[0] == pytest.approx(query[2].tolist(), abs=0.006)
    for row, *expected in zip(rows[1:-1], keys, scores, scores.softmax(0), values, strict=True):
        assert row == pytest.approx(torch.cat([each.view(-1) for each in expected]).tolist(), abs=0.006)
    assert rows[-1] == pytest.approx([1.0, *(scores.softmax(0) @ values).tolist()], abs=0.006)
    assert page.run("return document.querySelectorAll('#equation .on').length") == 1
    page.check_quiet()


@in_browser
def test_keyboard_and_screen_reader(page, seq2seq):
    from selenium.webdriver import Keys

    _, _, path = seq2seq
    page.show(path)
    page.run("document.querySelector('#target .word[tabindex=\"0\"]').focus()")
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    selected = "return [...document.querySelectorAll('#target .word')].map(e => e.ariaSelected).indexOf('true')"
    assert page.run(selected) == 2
    page.run("document.querySelector('#heads button[tabindex=\"0\"]').focus()")
    page.press(Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert page.run("return document.activeElement.ariaLabel") == "layer 1, head 2"
    page.run("document.querySelector('#tree g[tabindex=\"0\"]').focus()")
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    second = page.run("return document.activeElement.ariaLabel")
    assert second.startswith("step 1, ")
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.ariaLabel") == second
    named = page.named()
    roles = {role for role, _ in named}
    assert {"listbox", "grid", "tree", "treeitem", "gridcell", "status", "table"} <= roles
    controls = ("combobox", "button", "checkbox", "listbox", "textbox", "gridcell", "treeitem", "option", "tree")
    assert not {role for role, name in named if role in controls and not name}
    assert page.run("return document.querySelectorAll('h1').length") == 1
    page.check_quiet()


@in_browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_theme(page, seq2seq, width, theme):
    _, _, path = seq2seq
    page.show(path, width=width, theme=theme)
    assert page.run("return document.documentElement.scrollWidth") <= width
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 400) == (theme == "light")
    page.check_quiet()


@in_browser
def test_both_languages_have_every_sentence_and_the_page_speaks_them(page, seq2seq, tmp_path):
    model, tokenizer, _ = seq2seq
    path = tmp_path / "korean.html"
    export_to_html(model, tokenizer, path, language="ko", examples=TEXTS)
    page.show(path)
    assert page.text("go") == "번역" and page.run("return document.documentElement.lang") == "ko"
    labels = json.loads((ENGINE.parent / "labels.json").read_text(encoding="utf-8"))
    holes = [{name: sorted(re.findall(r"\{\w+\}", text)) for name, text in labels[each].items()} for each in LANGUAGES]
    assert holes[0] == holes[1]
    assert not page.run("return /undefined|\\{\\w+\\}/.test(document.body.innerText)")
    words = "“날”는 “하나님이”를 “빛”가 “자”는 “Gott”를"
    agree = re.search(r"function agree.*?\n}\n", (ENGINE.parent / "page.js").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert page.run(f"{agree} return agree(arguments[0])", words) == "“날”은 “하나님이”를 “빛”이 “자”는 “Gott”를"
    assert page.run("return getComputedStyle(document.getElementById('about')).wordBreak") == "keep-all"
    page.set(language="en")
    assert page.text("go") == "Translate" and page.run("return document.documentElement.lang") == "en"
    page.check_quiet()


@in_browser
def test_hostile_text_stays_text(page, tmp_path):
    model, tokenizer = make("seq2seq")
    path = tmp_path / "hostile.html"
    export_to_html(model, tokenizer, path, title=" ".join(HOSTILE), examples=HOSTILE, language="en")
    page.show(path)
    expected = " ".join(HOSTILE)
    assert page.run("return document.querySelector('title').textContent") == expected
    assert page.text("title") == expected
    assert (
        page.run("return [...document.getElementById('example').options].map(e => e.text).slice(1)")[0] == HOSTILE[0]
    )
    for number, text in enumerate(HOSTILE):
        page.set(example=str(number))
        page.wait()
        assert page.run("return document.getElementById('input').value") == text
        assert tokenizer.decode(page.tokens("source"), skip_special_tokens=True) == text
    assert page.run("return document.scripts.length") == 3 and not page.run("return document.images.length")
    page.check_quiet()


@in_browser
def test_the_policy_lets_no_other_script_run_and_no_request_leave(page, seq2seq, tmp_path):
    _, _, path = seq2seq
    forged = tmp_path / "forged.html"
    attack = "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x'>"
    forged.write_text(
        path.read_text(encoding="utf-8").replace("<main hidden>", f"{attack}<main hidden>"), encoding="utf-8"
    )
    page.show(forged)
    assert page.run("return document.title") == "small"
    blocked = " ".join(entry["message"] for entry in page.driver.get_log("browser"))
    assert blocked.count("Content Security Policy") == 2


@in_browser
@pytest.mark.parametrize("feature", ["window.TextDecoder", "Array.prototype.at"])
def test_a_browser_that_lacks_something_is_told_so_in_one_sentence(page, seq2seq, feature):
    _, _, path = seq2seq
    script = page.command("Page.addScriptToEvaluateOnNewDocument", source=f"delete {feature}")
    try:
        page.open(path, ready="document.readyState === 'complete'")
        said = page.text("failure")
        assert feature.removeprefix("window.") in said and said.endswith(".")
        assert page.run("return !document.getElementById('failure').hidden && document.querySelector('main').hidden")
    finally:
        page.command("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


@in_browser
def test_long_empty_and_unknown_texts(page, tmp_path):
    model, tokenizer = make("seq2seq", position_embedding_type="learned", max_position_embeddings=20)
    path = tmp_path / "short.html"
    export_to_html(model, tokenizer, path, language="en")
    page.open(path)
    assert page.run("return document.getElementById('example-label').hidden")
    page.translate("one two three " * 30)
    count = len(tokenizer("one two three " * 30)["input_ids"]) - 1
    said = re.search(r"has (\d+) tokens and the model reads (\d+)", page.text("notice"))
    assert int(said[1]) == pytest.approx(count, abs=1) and said[2] == "20"
    assert len(page.tokens("source")) == 20 and page.tokens("source")[-1] == tokenizer.eos_token_id
    page.translate("  ")
    assert page.text("notice") == "Write a text first."
    page.translate("\u200d한👩\u200d👧 \udcff".replace("\udcff", ""))
    assert tokenizer.decode(page.tokens("source"), skip_special_tokens=True) == "\u200d한👩\u200d👧"
    assert page.text("notice") == "" and len(page.tokens()) > 1
    page.check_quiet()


@in_browser
def test_a_model_without_attention_says_so(page, tmp_path):
    model, tokenizer = make("recurrent", attention_type="none")
    path = tmp_path / "none.html"
    export_to_html(model, tokenizer, path, examples=TEXTS, language="en")
    page.show(path)
    assert "no attention" in page.text("heads-help")
    assert page.run("return document.getElementById('steps-section').hidden")
    assert page.tokens()[1:] == search_in_torch(model, tokenizer(TEXTS[0])["input_ids"], 1, max_new_tokens=8)[0][0]
    page.check_quiet()


# Writing the file


def save(folder, family="seq2seq", **changes):
    model, tokenizer = make(family, **changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_command_says_the_size_and_writes_one_file(tmp_path, caplog, capsys):
    folder, path = tmp_path / "model", tmp_path / "page.html"
    save(folder)
    samples = [{"source": "five six"}, {"source": "one"}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (tmp_path / "texts.txt").write_text("eins\n\n<b>zwei</b>\n", encoding="utf-8")
    with caplog.at_level("INFO", "hf_vanilla"):
        cli.main(["export", str(folder), str(path), "--format", "html"])
    assert capsys.readouterr().out == f"written to {path}\n"
    size = path.stat().st_size / 1e6
    assert f"page.html: {size:.1f} MB, 0.0 million weights in float16" in caplog.text
    data = data_of(path)
    assert (data["title"], data["examples"], data["language"]) == ("model", ["one", "five six"], None)
    given = ["--title", "T", "--language", "ko", "--examples", str(tmp_path / "texts.txt"), "--precision", "int8"]
    cli.main(["export", str(folder), str(path), "--format", "html", *given])
    data = data_of(path)
    assert (data["title"], data["examples"], data["language"]) == ("T", ["eins", "<b>zwei</b>"], "ko")
    assert data["precision"] == "int8" and sorted(each.name for each in tmp_path.iterdir()) == [
        "model",
        "page.html",
        "texts.txt",
    ]


def test_examples_of_language_models_are_beginnings_and_masks(tmp_path):
    text = "One two three four five six seven. Eight nine."
    for family, expected in (
        ("decoder", "One two three four five"),
        ("encoder", "One two three <mask> five six seven."),
    ):
        folder, path = tmp_path / family, tmp_path / f"{family}.html"
        save(folder, family)
        (folder / "samples.jsonl").write_text(json.dumps({"text": text}) + "\n")
        cli.main(["export", str(folder), str(path), "--format", "html"])
        assert data_of(path)["examples"] == [expected]


@pytest.mark.parametrize("name", ["VanillaEncoderForSequenceClassification", "VanillaModel", "VanillaDecoderModel"])
def test_a_head_that_the_page_cannot_run_is_named_and_nothing_is_written(name, tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    model = small_model(getattr(hf_vanilla, name), vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match=f"cannot run {name}; it runs Vanilla"):
        cli.main(["export", str(tmp_path / "model"), str(tmp_path / "page.html"), "--format", "html"])
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def spoil_weight(value):
    def spoil(model):
        with torch.no_grad():
            model.lm_head.weight[0, 0] = value

    return spoil


REFUSED = [
    ({"activation_function": "mish"}, lambda model: None, "`activation_function` is 'mish'"),
    ({}, lambda model: model.generation_config.update(repetition_penalty=1.2), "repetition_penalty=1.2"),
    ({}, lambda model: model.generation_config.update(forced_bos_token_id=5), "forced_bos_token_id=5"),
    ({}, lambda model: model.lm_head.register_forward_hook(lambda *each: None), "lm_head has hooks"),
    ({}, spoil_weight(torch.nan), "not finite"),
    ({}, spoil_weight(1e6), "1e\\+06, which is too large for float16"),
    ({"vocab_size": 280}, lambda model: None, "tokenizer has .* tokens, the model 280"),
]


def test_a_field_of_which_the_page_knows_nothing_is_refused(tmp_path, monkeypatch):
    model, tokenizer = make("seq2seq")
    monkeypatch.setattr(html_page, "FIELDS", [name for name in html_page.FIELDS if name != "norm_position"])
    with pytest.raises(ValueError, match="does not know what `norm_position` of VanillaConfig changes"):
        export_to_html(model, tokenizer, tmp_path / "page.html")


@pytest.mark.parametrize(("changes", "spoil", "problem"), REFUSED)
def test_what_the_page_would_compute_otherwise_is_refused(changes, spoil, problem, tmp_path):
    tokenizer = train_tokenizer([*TEXTS, *HOSTILE], vocab_size=300)
    model = small_model(VanillaForConditionalGeneration, **{"vocab_size": len(tokenizer)} | changes)
    spoil(model)
    with pytest.raises(ValueError, match=problem):
        export_to_html(model, tokenizer, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_page_that_is_too_large_is_not_written_and_an_older_one_stays(tmp_path):
    model, tokenizer = make("seq2seq")
    path = tmp_path / "page.html"
    path.write_text("older")
    with pytest.raises(ValueError, match=r"page.html: 0.\d MB, .* more than max_megabytes, 0.05. Weights in \"int8\""):
        export_to_html(model, tokenizer, path, max_megabytes=0.05)
    assert path.read_text() == "older"
