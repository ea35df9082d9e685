"""The Space that shows a model: pushed, fetched again, started, and driven in a real browser."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from families import small_model
from fresh import run_python
from hub_server import HubServer, environment
from huggingface_hub import HfApi, SpaceCard
from test_hub import TOKEN, online, unchecked  # noqa: F401  fixtures
from test_twin import make_model

from hf_vanilla import VanillaForConditionalGeneration, cli
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.hub.push import push
from hf_vanilla.hub.staging import GRADIO
from hf_vanilla.hub.twin import OURS

ROOT = Path(__file__).parents[2]
SAMPLE = {"source": "<b>six</b> two", "target": "sechs zwei", "translation": "zwei"}


@pytest.fixture(scope="module")
def hub():
    with HubServer(tokens={TOKEN: "user"}) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """A translation model that has learned nothing, and a sample."""
    tokenizer = train_tokenizer(["six two ten", "sechs zwei zehn"], vocab_size=280)
    small_model(VanillaForConditionalGeneration, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    return tmp_path / "model"


def test_a_space_has_all_that_it_needs_and_shows_one_commit(folder, hub, online, unchecked):  # noqa: F811
    api = HfApi(endpoint=hub.url, token=TOKEN)
    push(folder, "user/files", space=True, api=api)
    files = hub.files("user/files", kind="spaces")
    commit = api.list_repo_commits("user/files")[0].commit_id
    assert json.loads(files["model.json"]) == {
        "model": "user/files",
        "revision": commit,
        "examples": [SAMPLE["source"]],
        "is_language": True,
    }
    assert {"app.py", "requirements.txt", "hf_vanilla/__init__.py", "hf_vanilla/translation/translator.py"} <= set(
        files
    )
    assert not any("templates" in name or "__pycache__" in name for name in files)
    # The package that goes with it knows the model: nobody's code is trusted.
    assert not any(b"trust_remote_code" in files[name] for name in ("app.py", "backend.py"))
    data = SpaceCard(files["README.md"].decode()).data
    assert (data.sdk, data.app_file, data.models, data.license) == ("gradio", "app.py", ["user/files"], "apache-2.0")
    assert f"gradio=={GRADIO}" in (ROOT / "constraints.txt").read_text().splitlines()
    # The same again changes nothing.
    push(folder, "user/files", space=True, api=api)
    assert len(api.list_repo_commits("user/files", repo_type="space")) == 2


STRANGER = """
import json, sys
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
sys.path.insert(0, ".")
from backend import Backend
known = json.load(open("model.json"))
backend = Backend(known["model"], known["revision"], known["is_language"])
found = backend.search(known["examples"][0], 3)
pictures = [backend.look(known["examples"][0], tokens) for *_, tokens in found]
assert all(picture.size[0] > 100 for picture in pictures if picture) and any(pictures)
print(json.dumps([[text, score] for text, score, _ in found]))
"""


def test_with_a_twin_a_space_needs_no_package(hub, online, unchecked, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr("hf_vanilla.hub.twin.GRAPHS", ("no class",))
    monkeypatch.setattr("hf_vanilla.hub.twin.check_twin", lambda *arguments: None)
    folder, api = make_model(tmp_path / "model", "seq2seq"), HfApi(endpoint=hub.url, token=TOKEN)
    push(folder, "user/stock", space=True, twin=True, api=api)
    files = hub.files("user/stock", kind="spaces")
    assert set(files) - {".gitattributes"} == {"README.md", "app.py", "backend.py", "model.json", "requirements.txt"}
    assert not any(b"hf_vanilla import" in content or b"trust_remote_code" in content for content in files.values())
    assert SpaceCard(files["README.md"].decode()).data.models == ["user/stock", "user/stock-marian"]
    known = json.loads(files["model.json"])
    newest = api.list_repo_commits("user/stock-marian")[0].commit_id
    assert (known["model"], known["revision"]) == ("user/stock-marian", newest)
    space = api.snapshot_download("user/stock", repo_type="space", local_dir=tmp_path / "space")
    done = run_python(STRANGER, env=environment(hub, tmp_path) | {"PYTHONPATH": ""}, cwd=space)
    assert done.returncode == 0, done.stderr[-2000:]
    # By transformers' rules, ours gives the same.
    from hf_vanilla import Translator

    translator = Translator.from_pretrained(str(folder))
    batch = translator.tokenizer(known["examples"], return_tensors="pt")
    tokens = translator.model.generate(**batch, num_beams=4, num_return_sequences=3, **OURS)
    expected = translator.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert [text for text, _ in json.loads(done.stdout.splitlines()[-1])] == expected


@pytest.mark.parametrize("family", ["seq2seq", "encoder"])
def test_a_static_space_is_one_page_that_needs_no_server_and_the_card_links_it(
    family,
    folder,
    hub,
    online,  # noqa: F811
    unchecked,  # noqa: F811
    tmp_path,
):
    from hf_vanilla import VanillaEncoderForMaskedLM

    if family == "encoder":
        folder = tmp_path / "encoder"
        tokenizer = train_tokenizer(["six two ten"], vocab_size=280, family="encoder")
        small_model(VanillaEncoderForMaskedLM, vocab_size=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    api, name = HfApi(endpoint=hub.url, token=TOKEN), f"user/page_{family}"
    push(folder, name, space="static", api=api)
    files = hub.files(name, kind="spaces")
    assert set(files) - {".gitattributes"} == {"README.md", "index.html"}
    data = SpaceCard(files["README.md"].decode()).data
    assert (data.sdk, data.app_file, data.models) == ("static", "index.html", [name])
    page = files["index.html"].decode()
    assert "Content-Security-Policy" in page and f"<title>page_{family}</title>" in page
    assert ("\\u003cb>six\\u003c/b> two" in page) == (family == "seq2seq")  # the run's sample
    assert f"https://huggingface.co/spaces/{name}" in hub.files(name)["README.md"].decode()
    push(folder, name, api=api)
    assert "huggingface.co/spaces" not in hub.files(name)["README.md"].decode()


def test_a_static_space_that_cannot_be_is_refused_before_anything_is_sent(folder, hub, online, unchecked):  # noqa: F811
    api = HfApi(endpoint=hub.url, token=TOKEN)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "mish"}))
    with pytest.raises(ValueError, match="`activation_function` is 'mish'"):
        push(folder, "user/refused", space="static", api=api)
    with pytest.raises(ValueError, match="space is 'docker'; expected one of gradio, static"):
        push(folder, "user/refused", space="docker", api=api)
    assert not api.repo_exists("user/refused")


def test_only_what_translates_has_a_space(tmp_path, capsys):
    from hf_vanilla import VanillaEncoderForMaskedLM

    tokenizer = train_tokenizer(["six two ten"], vocab_size=280, family="encoder")
    small_model(VanillaEncoderForMaskedLM, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="the Space translates: it is for models of AutoModelForSeq2SeqLM"):
        cli.main(["push", str(tmp_path), "user/encoder", "--space", "--dry-run"])


@pytest.fixture
def browser():
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1300,1000"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@contextlib.contextmanager
def started(space, variables, log):
    """The address of a Space's app. Gradio gives up where its own page takes three seconds: another try, then."""
    for _ in range(3):
        with log.open("w") as output:
            app = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=variables, stdout=output, stderr=output)
        while app.poll() is None and "To create a public link" not in log.read_text():
            time.sleep(0.1)
        if app.poll() is None:
            break
    try:
        assert app.poll() is None, log.read_text()[-2000:]
        yield re.search(r"http://127\.0\.0\.1:\d+", log.read_text().split("local URL")[1])[0]
    finally:
        app.terminate()
        app.wait()


@pytest.mark.slow
@pytest.mark.parametrize("twin", [False, True])
def test_a_space_translates_in_a_browser(twin, folder, hub, online, unchecked, browser, tmp_path):  # noqa: F811
    pytest.importorskip("gradio")
    pytest.importorskip("matplotlib")
    from selenium.webdriver.support.ui import WebDriverWait

    api = HfApi(endpoint=hub.url, token=TOKEN)
    push(folder, "user/shown", space=True, twin=twin, api=api)
    assert (b"Translator" in hub.files("user/shown", kind="spaces")["backend.py"]) != twin
    space = Path(api.snapshot_download("user/shown", repo_type="space", local_dir=tmp_path / "space"))
    variables = {"GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""}
    with started(space, environment(hub, tmp_path) | variables, tmp_path / "log") as address:
        wait = WebDriverWait(browser, 60)

        def find(selector):
            return browser.find_elements("css selector", selector)

        def picture():
            return [image.get_attribute("src") for image in find("img[src*='file=']")]

        browser.get(address)
        (text,) = wait.until(lambda _: find("textarea"))
        (button,) = [button for button in find("button") if button.text == "Translate"]
        text.send_keys(SAMPLE["source"])
        button.click()
        wait.until(lambda _: picture())
        rows = find("[role=gridcell][data-col='0']")
        assert len(rows) == 4  # n best
        first = picture()
        rows[1].click()
        wait.until(lambda _: picture() != first)
        # What was typed is text, not markup.
        assert not find("b") and SAMPLE["source"] in [example.text for example in find("table td, button, span")]
        if screenshots := os.environ.get("SCREENSHOTS"):
            browser.save_screenshot(f"{screenshots}/space_{twin}.png")
            browser.execute_script("document.body.classList.add('dark')")
            browser.save_screenshot(f"{screenshots}/space_{twin}_dark.png")
