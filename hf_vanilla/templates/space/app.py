"""Use a model in the browser: the best of its outputs, their scores, and what the model looked at for each.

python app.py               # the model that model.json names, as on the Hub
python app.py runs/mine     # a folder of your own
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gradio
from PIL import Image
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

# The package lies beside this file, so that the model's code is this one, and none is loaded from the model's page.
from hf_vanilla import Hypothesis, Translator, attention_maps
from hf_vanilla.attention.figures import plot_heads, save_figure

MOST_CHARACTERS, MOST_SHOWN = 500, 8


def build(translator: Translator, name: str, examples: list[str]) -> gradio.Blocks:
    """Return the page, with `examples` of texts to click."""

    def look(text: str, hypothesis: Hypothesis) -> Image.Image | None:
        if not hypothesis.text:
            return None
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "attention.png")
            try:
                maps = attention_maps(translator.model, translator.tokenizer, text, hypothesis.text)
            except ValueError:  # a model without attention, or a text that it does not know
                return None
            save_figure(plot_heads(maps.cross), picture)
            return Image.open(picture).copy()

    def translate(text: str, n_best: int) -> tuple[Any, ...]:
        text = " ".join(text[:MOST_CHARACTERS].split())
        if not text:
            raise gradio.Error("Write a text first.")
        (hypotheses,) = translator([text], num_beams=max(4, n_best), n_best=n_best)
        rows = [[hypothesis.text, round(hypothesis.score, 3)] for hypothesis in hypotheses]
        return rows, look(text, hypotheses[0]), (text, hypotheses)

    def look_at_row(shown: tuple[str, list[Hypothesis]], event: gradio.SelectData) -> Image.Image | None:
        return look(shown[0], shown[1][event.index[0]])

    with gradio.Blocks(title=name) as page:
        one, done = ("translation", "Translate") if translator.is_language else ("output", "Run")
        gradio.Markdown(f"# {done}, and see where the model looks")
        with gradio.Row():
            with gradio.Column():
                text = gradio.Textbox(label="Text", lines=3, max_length=MOST_CHARACTERS)
                n_best = gradio.Slider(1, MOST_SHOWN, 4, step=1, label=f"How many {one}s")
                button = gradio.Button(done, variant="primary")
                table = gradio.Dataframe(
                    headers=[one, "score"],
                    datatype="str",
                    interactive=False,
                    wrap=True,
                    column_widths=["85%", "15%"],
                    label="Best first; click one to see what it looked at",
                )
                if examples:
                    gradio.Examples(examples, text)
            with gradio.Column():
                gradio.Markdown(f"What each head of the last layer looks at: the {one} down, the text across.")
                picture = gradio.Image(show_label=False, buttons=["fullscreen"])
        shown = gradio.State()
        gradio.on([button.click, text.submit], translate, [text, n_best], [table, picture, shown])
        table.select(look_at_row, shown, picture)
    return page


if __name__ == "__main__":
    beside = Path(__file__).with_name("model.json")
    known = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() and len(sys.argv) == 1 else {}
    if not known and len(sys.argv) != 2:
        sys.exit(__doc__)
    name, pinned = known.get("model") or sys.argv[1], {"revision": known.get("revision", "main")}
    tokenizer = AutoTokenizer.from_pretrained(name, **pinned)
    model = AutoModelForSeq2SeqLM.from_pretrained(name, **pinned)
    build(Translator(model, tokenizer), name, known.get("examples", [])).launch(show_error=True)
