"""The model behind the page, by transformers alone."""

import io
import math

import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer


class Backend:
    """A model of the Hub, or of a folder, of a class of transformers; texts `is_language`, or else any symbols."""

    def __init__(self, name: str, revision: str, is_language: bool):
        self.tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision).eval()
        self.is_language = is_language

    def encode(self, text: str) -> dict[str, torch.Tensor]:
        longest = self.model.config.max_position_embeddings
        return self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")

    def search(self, text: str, count: int) -> list[tuple[str, float, list[int]]]:
        """Return the best outputs for a text, with their scores, and what `look` takes of each."""
        options = {"num_return_sequences": count, "return_dict_in_generate": True, "output_scores": True}
        found = self.model.generate(**self.encode(text), num_beams=max(4, count), do_sample=False, **options)
        texts = self.tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
        padding = self.model.config.pad_token_id
        rows = [row[:1] + [token for token in row[1:] if token != padding] for row in found.sequences.tolist()]
        return list(zip(texts, found.sequences_scores.tolist(), rows, strict=True))

    def look(self, text: str, tokens: list[int]) -> Image.Image | None:
        """Return a picture of what each head of the last layer looked at."""
        if len(tokens) < 2:
            return None
        batch = self.encode(text)
        inputs = torch.tensor([tokens[:-1]])
        self.model.set_attn_implementation("eager")  # the one that keeps the weights
        with torch.no_grad():
            seen = self.model(**batch, decoder_input_ids=inputs, output_attentions=True).cross_attentions[-1][0]
        sides = [[self.tokenizer.decode([token]) for token in row] for row in (batch["input_ids"][0], tokens[1:])]
        across = min(2, len(seen))
        down = math.ceil(len(seen) / across)
        width, height = (max(1.6, 0.22 * len(side) + 0.5) for side in sides)
        figure = Figure(figsize=(across * width + 1, down * height + 1), layout="constrained")
        places = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
        for head, axes in enumerate(places):
            if head >= len(seen):
                axes.remove()
                continue
            # Weights as their square roots, so that small ones are seen.
            axes.imshow(seen[head].sqrt(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
            axes.set_title(f"head {head + 1}", fontsize=9)
            axes.set_xticks(range(len(sides[0])), sides[0], rotation=90, fontsize=8, parse_math=False)
            axes.set_yticks(range(len(sides[1])), sides[1], fontsize=8, parse_math=False)
            axes.tick_params(length=0)
        file = io.BytesIO()
        figure.savefig(file, dpi=150)
        return Image.open(file).copy()
