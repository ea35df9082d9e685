"""One self-contained page of what the heads look at: it opens from a file, and asks no other computer for anything."""

import base64
import hashlib
import html
import json
import re
import zlib
from importlib import resources
from typing import Any

import numpy as np
import torch

from hf_vanilla.attention.maps import STATISTICS, AttentionMap, AttentionMaps
from hf_vanilla.attention.words import Tokens

STEPS = 2**20
"""Weights are rounded to multiples of one over this: to 5e-7."""
NAMES = {
    "encoder": ("encoder, self-attention", "These words look", "at these words of the same text"),
    "decoder": ("decoder, self-attention", "These words look", "at these words of the same text, up to themselves"),
    "cross": ("cross-attention", "These words, as they are written, look", "at these words of the source"),
}
FRAME = (
    '<iframe title="{title}" sandbox="allow-scripts" style="width: 100%; height: 850px; border: 0" '
    'srcdoc="{page}"></iframe>'
)


def render(maps: AttentionMaps) -> str:
    """The page: plain HTML, CSS and JavaScript in one text. Text of users is data in it, never markup or code, and its
    policy lets no other script run and no request leave.

    Weights are rounded to 5e-7, which keeps 12 layers of 12 heads and 40 tokens below 1 MB.
    """
    kinds = list(maps.kinds.values())
    data = {
        "model": maps.model,
        "source": maps.source,
        "target": maps.target,
        "kinds": [describe(attention) for attention in kinds],
        "start": len(kinds) - 1,
        "explained": STATISTICS,
    }
    weights = (
        f'<script type="text/plain" id="weights-{number}">{pack(attention)}</script>'
        for number, attention in enumerate(kinds)
    )
    # Nothing in a script can end it, or begin a comment, without "<".
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files("hf_vanilla").joinpath("templates/attention.html").read_text(encoding="utf-8")
    code = template[template.rindex("<script>") + len("<script>") : template.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    filled = {
        "POLICY": f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        "TITLE": html.escape(f"What {maps.model} looks at"),
        "DATA": text,
        "WEIGHTS": "\n".join(weights),
    }
    return re.sub("@(POLICY|TITLE|DATA|WEIGHTS)@", lambda match: filled[match[1]], template)


def frame(maps: AttentionMaps) -> str:
    """The page inside another one, apart from its styles and scripts: for notebooks and Spaces."""
    return FRAME.format(title=html.escape(f"What {maps.model} looks at"), page=html.escape(render(maps)))


def describe(attention: AttentionMap) -> dict[str, Any]:
    """All of an attention but its weights."""
    name, *titles = NAMES[attention.kind]
    layers, heads = attention.weights.shape[:2]
    return {
        "kind": attention.kind,
        "name": name,
        "titles": titles,
        "layers": layers,
        "heads": heads,
        "triangular": is_triangular(attention),
        "queries": read(attention.queries),
        "keys": read(attention.keys),
        "statistics": {
            name: [[round(value, 6) for value in row] for row in values.tolist()]
            for name, values in attention.statistics().items()
        },
    }


def read(tokens: Tokens) -> dict[str, Any]:
    """Tokens, and the words that they make."""
    return {
        "labels": tokens.labels,
        "special": [int(special) for special in tokens.special],
        "words": tokens.words,
        "names": tokens.names,
    }


def is_triangular(attention: AttentionMap) -> bool:
    """Whether nothing looks ahead, so that half of the weights need not be stored."""
    rows, columns = attention.weights.shape[-2:]
    return rows == columns and not bool(attention.weights.triu(1).any())


def pack(attention: AttentionMap) -> str:
    """Weights as the page reads them: in steps of 1 / `STEPS`, all lowest bytes, then the middle, then the highest,
    deflated, in base64."""
    weights = attention.weights
    if is_triangular(attention):
        rows, columns = torch.tril_indices(*weights.shape[-2:])
        weights = weights[..., rows, columns]
    steps = np.rint(weights.double().numpy().ravel() * STEPS).astype("<u4")
    planes = np.ascontiguousarray(steps.view(np.uint8).reshape(-1, 4)[:, :3].T)
    # Bytes do not repeat, some are only more frequent than others: Huffman's code alone is as short, and fast.
    deflate = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(deflate.compress(planes.tobytes()) + deflate.flush()).decode()
