"""Use a model in the browser: the best of its outputs, their scores, and what the model looked at for each.

python app.py               # the model that model.json names, as on the Hub
python app.py runs/mine     # a folder of your own
"""

import json
import sys
from pathlib import Path
from typing import Any

import gradio
from backend import Backend  # with hf_vanilla or, for a twin, with transformers alone
from PIL import Image

MOST_CHARACTERS, MOST_SHOWN = 500, 8


def build(backend: Backend, name: str, examples: list[str]) -> gradio.Blocks:
    """Return the page, with `examples` of texts to click."""

    def translate(text: str, n_best: int) -> tuple[Any, ...]:
        text = " ".join(text[:MOST_CHARACTERS].split())
        if not text:
            raise gradio.Error("Write a text first.")
        found = backend.search(text, n_best)
        rows = [[output, round(score, 3)] for output, score, _ in found]
        return rows, backend.look(text, found[0][2]), (text, [tokens for *_, tokens in found])

    def look_at_row(shown: tuple[str, list[Any]], event: gradio.SelectData) -> Image.Image | None:
        return backend.look(shown[0], shown[1][event.index[0]])

    with gradio.Blocks(title=name) as page:
        one, done = ("translation", "Translate") if backend.is_language else ("output", "Run")
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
    name = known.get("model") or sys.argv[1]
    backend = Backend(name, known.get("revision", "main"), known.get("is_language", True))
    build(backend, name, known.get("examples", [])).launch(show_error=True)
