"""What the heads look at."""

import logging
import math
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

MOST_SHOWN = 24
"""Tokens a side in a picture."""


@torch.no_grad()
def plot_attention(model: Any, tokenizer: Any, text: str, translation: str | None, path: Path) -> None:
    """Draw what each head of the last layer looks at, if matplotlib is installed.

    Args:
        model: of any family.
        tokenizer: the model's.
        text: what it reads.
        translation: for an encoder-decoder, of `text`: what its cross-attention is drawn for.
        path: of the PNG.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no %s: pip install matplotlib", path.name)
        return
    cut: dict[str, Any] = {"truncation": True, "max_length": MOST_SHOWN}
    rows = columns = tokenizer(text, **cut)["input_ids"]
    inputs = {"input_ids": torch.tensor([columns], device=model.device)}
    if translation is not None:
        rows = tokenizer(text_target=translation, **cut)["input_ids"]
        labels = torch.tensor([rows], device=model.device)
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
    output = model(**inputs, output_attentions=True)
    weights = (output.attentions if translation is None else output.cross_attentions)[-1][0].float().cpu()
    queries, keys = ([str(tokenizer.decode([token])).strip() for token in tokens] for tokens in (rows, columns))
    across = min(2, len(weights))
    down = math.ceil(len(weights) / across)
    size = (1.2 + 0.22 * len(keys), 1.0 + 0.22 * len(queries))
    figure = Figure(figsize=(across * size[0], down * size[1]), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for head, axes in enumerate(grid.flat):
        if head >= len(weights):
            axes.remove()
            continue
        image = axes.imshow(weights[head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"head {head + 1}", fontsize=9)
        # Text of data is shown as it is: "$" starts no formula.
        axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(queries)), queries, fontsize=7, parse_math=False)
    figure.colorbar(image, ax=grid, shrink=0.6, label="weight")
    figure.savefig(path, dpi=150)
