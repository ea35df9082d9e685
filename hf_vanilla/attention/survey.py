"""A survey of heads: what each looks at over a corpus, how well it aligns words, and what is lost without it."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.attention.figures import plot_survey
from hf_vanilla.attention.heads import Head, HeadCounts, Links
from hf_vanilla.attention.reader import Reader, Reading
from hf_vanilla.attention.switching import EFFECTS, choose_measure, find_switches, switched_off
from hf_vanilla.data.files import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Survey:
    """What the heads of a model do over a corpus."""

    model: str  # the model's name
    sentences: int  # how many texts were read
    heads: list[Head]  # by kind, layer and head
    metric: str  # what the effects are measured by: "perplexity", "bleu" or "none"
    score: float | None = None  # the metric of the whole model
    layer_alignment_errors: tuple[float, ...] = ()  # of each layer's mean of cross-attention, with gold alignments
    note: str = ""  # why something is missing

    @property
    def effect_name(self) -> str:
        return "loss of BLEU" if self.metric == "bleu" else f"rise of {self.metric}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def to_markdown(self) -> str:
        """Return a table with a row for each head, and the scores below it. Layers and heads are counted from 1."""
        measures = ["entropy", "distance", "first", "special", "punctuation"]
        rows = []
        for head in self.heads:
            share = max(head.shares.values()) if head.type == "mixed" else head.shares[head.type.split(" (")[0]]
            row = {"kind": head.kind, "layer": str(head.layer + 1), "head": str(head.head + 1), "type": head.type}
            row |= {"share": f"{share:.2f}"} | {name: f"{head.statistics[name]:.2f}" for name in measures}
            row["AER"] = "" if head.alignment_error is None else f"{head.alignment_error:.3f}"
            # + 0 turns -0.0 into 0.0
            row[self.effect_name] = "" if head.effect is None else f"{head.effect + 0:+.3f}"
            rows.append(row)
        names = [name for name in rows[0] if any(row[name] for row in rows)]
        table = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
        after = [f"{self.sentences} texts"]
        if self.score is not None:
            after.append(f"{self.metric} of the whole model {self.score:.3f}")
        for layer, error in enumerate(self.layer_alignment_errors, start=1):
            after.append(f"AER of the mean of layer {layer}'s heads {error:.3f}")
        lines = [f"| {' | '.join(cells)} |" for cells in table]
        return "\n".join([*lines, "", "; ".join(after), *filter(None, [self.note])])

    def plot(self, theme: str = "light") -> "Figure":
        """Return a matplotlib figure of the types of all heads, and of what is lost without each."""
        return plot_survey(self.heads, self.effect_name, self.sentences, theme)


def survey(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    targets: Sequence[str] | None = None,
    *,
    gold: Sequence[tuple[Links, Links]] | None = None,
    metric: str = "perplexity",
    progress: bool = False,
) -> Survey:
    """Return what each head of a model does over some texts.

    Args:
        model, tokenizer: any that [`hf_vanilla.attention_maps`] takes.
        sources, targets: the texts and, for an encoder-decoder, their translations (default: those that it writes).
        gold: for each pair of texts its sure and its possible alignments; see [`read_alignments`].
        metric: what to measure with each head switched off, that is with 0 as its output (Michel et al., 2019,
            arXiv:1905.10650): "perplexity" (of targets, of texts, or of each seventh token masked), "bleu" of greedy
            translations against `targets`, or "none".
        progress: show a bar.

    Errors are those of `attention_maps`, and a ValueError if there are no texts, alignments have words that the texts
    do not have, or the metric does not fit the model.
    """
    if metric not in EFFECTS:
        raise ValueError(f"effect is {metric!r}; expected one of {', '.join(EFFECTS)}")
    if not sources:
        raise ValueError("there are no texts to survey")
    is_seq2seq = bool(model.config.is_encoder_decoder)
    if metric == "bleu" and (not is_seq2seq or targets is None or not model.can_generate()):
        raise ValueError("BLEU takes a model that translates, and reference translations")
    if gold is not None and (not is_seq2seq or targets is None):
        raise ValueError("gold alignments take an encoder-decoder and the translations that they align")
    if gold is not None and len(gold) != len(sources):
        raise ValueError(f"there are {len(gold)} gold alignments and {len(sources)} texts")
    reader = Reader(model, tokenizer)
    readings = list(reader.read_all(sources, targets if is_seq2seq else None))
    counts = count_heads(reader, readings, gold, progress)
    score, effects, note = None, dict[tuple[str, int, int], float](), ""
    if metric != "none":
        score, effects, note = measure_effects(reader, readings, metric, counts, progress)
    heads = [head for kind, own in counts.items() for head in own.heads_of(kind, effects)]
    errors = counts["cross"].errors() if "cross" in counts else None
    layer_errors = () if errors is None else tuple(errors[:, -1].tolist())
    return Survey(reader.name, len(sources), heads, metric, score, layer_errors, note)


def count_heads(
    reader: Reader, readings: Sequence[Reading], gold: Sequence[tuple[Links, Links]] | None, progress: bool
) -> dict[str, HeadCounts]:
    """Return the counts of the heads of each kind of attention that the model has."""
    tokens = [queries.labels for reading in readings for queries, _ in reading.sides.values()]
    frequencies = Counter(itertools.chain.from_iterable(tokens))
    counts: dict[str, HeadCounts] = {}
    bar = tqdm(reader.map_all(readings), "looking", len(readings), unit=" texts", mininterval=1, disable=not progress)
    for row, maps in enumerate(bar):
        for kind, attention in maps.kinds.items():
            own = counts.setdefault(kind, HeadCounts(attention))
            own.add(attention, frequencies)
            if gold is not None and kind == "cross":
                own.align(maps, reader.tokenizer, gold[row], row + 1)
    return counts


def measure_effects(
    reader: Reader, readings: Sequence[Reading], metric: str, counts: dict[str, HeadCounts], progress: bool
) -> tuple[float | None, dict[tuple[str, int, int], float], str]:
    """Return the score of the whole model, the effect of each head, and, if there are none, the reason."""
    measure, no_measure = choose_measure(reader, readings, metric)
    switches, no_switches = find_switches(reader, {kind: own.layers for kind, own in counts.items()})
    if measure is None or not switches:
        return None, {}, no_measure or no_switches
    score, effects = measure(), {}
    places = [(kind, *place) for kind, own in counts.items() for place in np.ndindex(own.layers, own.heads)]
    for kind, layer, head in tqdm(places, "switching off", unit=" heads", mininterval=1, disable=not progress):
        with switched_off(reader.model, switches[kind, layer], head):
            loss = measure() - score
        effects[kind, layer, head] = loss if metric == "perplexity" else -loss
    return score, effects, ""


def read_alignments(path: Path) -> list[tuple[Links, Links]]:
    """Return the sure and the possible alignments on each line of a file in the Pharaoh format, such as `0-0 1-2 2?1`.

    Numbers are of words of the source and of the target, from 0. Possible alignments are those with `?`, or `p`. A
    line that holds something else is a ValueError that names it; further errors are those of `read_lines`.
    """
    alignments = []
    for number, line in enumerate(read_lines(path), start=1):
        sure, possible = Links(), Links()
        for part in line.split():
            match = re.fullmatch(r"(\d+)([-?p])(\d+)", part, re.ASCII)
            if match is None:
                raise ValueError(f"{path}:{number}: {part!r:.40} is no alignment; expected pairs such as 0-0 or 1?2")
            (sure if match[2] == "-" else possible).add((int(match[1]), int(match[3])))
        alignments.append((sure, possible))
    return alignments
