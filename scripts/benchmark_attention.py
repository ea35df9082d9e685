"""How long it takes from a loaded model to the page of its attention, and how fast that page opens and answers.

python scripts/benchmark_attention.py --tokens 40 512

The model is the paper's base model with random weights. The page is opened if Chromium and its driver are installed.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, attention_maps
from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32

ANSWERS = """const parts = [...document.querySelectorAll(arguments[0])].slice(0, 40);
return parts.map(part => { const start = performance.now(); part.dispatchEvent(new PointerEvent(arguments[1],
  {bubbles: true})); document.body.getBoundingClientRect(); return performance.now() - start; });"""


def opened(page: Path) -> str:
    """Say in how many seconds a page opens, and in how many milliseconds (medians) a word and a head answer."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "no Chromium here"
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        start = time.perf_counter()
        driver.get(page.as_uri())
        while not driver.execute_script("return document.body.dataset.ready"):
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        time.sleep(2)
        hover, click = (
            statistics.median(driver.execute_script(ANSWERS, *what))
            for what in (("#from .word", "pointerover"), ("#heads button", "click"))
        )
    finally:
        driver.quit()
    return f"opens in {seconds:.1f} s, a word in {hover:.0f} ms, a head in {click:.0f} ms"


def main() -> None:
    """Print a line for each number of tokens, with a target that is given and one that the model writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 512])
    options = parser.parse_args()
    use_onednn_for_float32(), keep_freed_memory()
    words = [f"word{number}" for number in range(300)]
    tokenizer = train_tokenizer([" ".join(words)] * 2, vocab_size=1000)
    torch.manual_seed(0)
    model = VanillaForConditionalGeneration(VanillaConfig()).eval()
    for count in options.tokens:
        text = "".join(random.Random(0).choices(words, k=count))
        text = tokenizer.decode(tokenizer(text)["input_ids"][: count - 1])
        for name, target in (("given", text), ("written", None)):
            if target is None and count > 100:
                continue
            attention_maps(model, tokenizer, "word1", "word2")
            start = time.perf_counter()
            maps = attention_maps(model, tokenizer, text, target, max_new_tokens=count)
            looked = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder, "page.html")
                maps.save_html(page)
                written = time.perf_counter()
                print(
                    f"{len(maps.cross.keys)} + {len(maps.cross.queries)} tokens, target {name}: "
                    f"{looked - start:.2f} s to the weights, {written - looked:.2f} s to the page, "
                    f"{page.stat().st_size / 1e6:.2f} MB; {opened(page)}",
                    flush=True,
                )


if __name__ == "__main__":
    run_program(main)
