"""The model behind the page, by hf_vanilla."""

import tempfile
from pathlib import Path

from PIL import Image
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

# The package lies beside this file, so that the model's code is this one, and none is loaded from the model's page.
from hf_vanilla import Hypothesis, Translator, attention_maps
from hf_vanilla.attention.figures import plot_heads, save_figure


class Backend:
    """A model of the Hub, or of a folder; it knows by itself whether it `is_language`."""

    def __init__(self, name: str, revision: str, is_language: bool):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision)
        self.translator = Translator(model, tokenizer)
        self.is_language = self.translator.is_language

    def search(self, text: str, count: int) -> list[tuple[str, float, Hypothesis]]:
        """Return the best outputs for a text, with their scores, and what `look` takes of each."""
        (found,) = self.translator([text], num_beams=max(4, count), n_best=count)
        return [(each.text, each.score, each) for each in found]

    def look(self, text: str, hypothesis: Hypothesis) -> Image.Image | None:
        """Return a picture of what each head of the last layer looked at."""
        if not hypothesis.text:
            return None
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "attention.png")
            try:
                maps = attention_maps(self.translator.model, self.translator.tokenizer, text, hypothesis.text)
            except ValueError:  # a model without attention, or a text that it does not know
                return None
            save_figure(plot_heads(maps.cross), picture)
            return Image.open(picture).copy()
