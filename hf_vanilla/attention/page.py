"""A self-contained page of attention maps: it opens from a file, and sends no request to any computer."""

import base64
import dataclasses
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from importlib import resources

import numpy as np
import torch

from hf_vanilla.attention.weights import STATISTICS, AttentionMap

STEPS = 2**20  # weights are rounded to multiples of 1 / STEPS, that is by at most 5e-7
TITLES = {
    "encoder": ("encoder, self-attention", "These words look", "at these words of the same text"),
    "decoder": ("decoder, self-attention", "These words look", "at these words of the same text, up to themselves"),
    "cross": ("cross-attention", "These words, as they are written, look", "at these words of the source"),
}
STYLE = "width: 100%; height: 850px; border: 0"


def render_page(model: str, source: str, target: str, attentions: Sequence[AttentionMap]) -> str:
    """Return a page in plain HTML, CSS and JavaScript that shows attention maps of one text, of each kind one.

    The text is in the page as data, never as markup or code, and the page's policy allows no other script and no
    request. Rounding the weights keeps 12 layers of 12 heads and 40 tokens below 1 MB. The last map is open at first.
    """
    data = {"model": model, "source": source, "target": target, "start": len(attentions) - 1, "explained": STATISTICS}
    data["kinds"] = [_attention_data(attention) for attention in attentions]
    weights = (
        f'<script type="text/plain" id="weights-{number}">{pack_weights(attention)}</script>'
        for number, attention in enumerate(attentions)
    )
    # Without "<", nothing in the data can end the script that holds it, or begin a comment.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files("hf_vanilla").joinpath("templates/attention.html").read_text(encoding="utf-8")
    code = template[template.rindex("<script>") + len("<script>") : template.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    filled = {
        "POLICY": f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        "TITLE": html.escape(f"What {model} looks at"),
        "DATA": text,
        "WEIGHTS": "\n".join(weights),
    }
    return re.sub("@(POLICY|TITLE|DATA|WEIGHTS)@", lambda match: filled[match[1]], template)


def frame_page(model: str, page: str) -> str:
    """Return an element that shows the page inside another one, such as a notebook, and shares no style or script."""
    title = html.escape(f"What {model} looks at")
    return f'<iframe title="{title}" sandbox="allow-scripts" style="{STYLE}" srcdoc="{html.escape(page)}"></iframe>'


def _attention_data(attention: AttentionMap) -> dict[str, object]:
    """Return what the page's script needs to know of a map, except its weights."""
    name, *titles = TITLES[attention.kind]
    layers, heads = attention.weights.shape[:2]
    tokens = {side: dataclasses.asdict(getattr(attention, side)) for side in ("queries", "keys")}
    statistics = {
        measure: [[round(value, 6) for value in row] for row in values.tolist()]
        for measure, values in attention.statistics().items()
    }
    shape = {"layers": layers, "heads": heads, "triangular": is_triangular(attention)}
    return {"kind": attention.kind, "name": name, "titles": titles, "statistics": statistics, **shape, **tokens}


def is_triangular(attention: AttentionMap) -> bool:
    """True if no token looks at a later one, so that the upper half of the weights need not be stored."""
    rows, columns = attention.weights.shape[-2:]
    return rows == columns and not bool(attention.weights.triu(1).any())


def pack_weights(attention: AttentionMap) -> str:
    """Return the weights as the page's script reads them, as text.

    Each weight is a whole number of steps of 1 / `STEPS`, in three bytes. All lowest bytes come first, then all middle
    and all highest ones; they are deflated, and encoded in base64.
    """
    weights = attention.weights
    if is_triangular(attention):
        rows, columns = torch.tril_indices(*weights.shape[-2:])
        weights = weights[..., rows, columns]
    steps = np.rint(weights.double().numpy().ravel() * STEPS).astype("<u4")
    planes = np.ascontiguousarray(steps.view(np.uint8).reshape(-1, 4)[:, :3].T)
    # Sequences of bytes hardly repeat, but some bytes are frequent: Huffman's code alone is as short, and faster.
    deflate = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(deflate.compress(planes.tobytes()) + deflate.flush()).decode()
