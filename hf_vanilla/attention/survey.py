"""What each head of a model does: what it looks at over a corpus, how well it aligns words, what goes without it."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_vanilla.attention.maps import AttentionMap
from hf_vanilla.attention.reader import PAIRS, Reader, batched
from hf_vanilla.attention.switching import EFFECTS, find_switches, measure_of, switched_off
from hf_vanilla.data.files import read_lines
from hf_vanilla.translation.loading import words_of_tokens

OFFSETS = range(-5, 6)
MOSTLY = 0.5
"""A head has a type if so many of the words look at what it names more than at anything else."""
TYPES = {
    "previous token": "the token before",
    "next token": "the token after",
    "same token": "the token itself",
    "positional": "the token a fixed number of places away, from 2 to 5",
    "first token": "the first token",
    "delimiter": "punctuation and tokens that are no text",
    "rare word": "one of the two tokens of the text that are rarest in the corpus",
    "alignment": "other words of the source for other words of the target; with gold alignments, half of them right",
    "mixed": "none of these",
}

Links = set[tuple[int, int]]


@dataclass(frozen=True)
class Head:
    """What one head does.

    Attributes:
        kind: "encoder", "decoder" or "cross".
        layer, head: from 0.
        type: the key of `TYPES` whose share is largest, and at least `MOSTLY`.
        shares: by type, the share of the text's tokens that look there most.
        statistics: means of what `hf_vanilla.attention.maps.STATISTICS` names.
        alignment_error: the alignment error rate, from 0 to 1, where there are gold alignments.
        effect: by how much perplexity rises or BLEU falls where the head is switched off.
    """

    kind: str
    layer: int
    head: int
    type: str
    shares: dict[str, float]
    statistics: dict[str, float]
    alignment_error: float | None = None
    effect: float | None = None


@dataclass(frozen=True)
class Survey:
    """What the heads of a model do over a corpus.

    Attributes:
        model: its name.
        sentences: how many texts were read.
        heads: all of them, by kind, layer and head.
        metric: "perplexity", "bleu" or "none": that of the effects.
        score: of the whole model.
        layer_alignment_errors: of the mean of each cross-attention layer's heads, where there are gold alignments.
        note: why something is missing, "" if nothing is.
    """

    model: str
    sentences: int
    heads: list[Head]
    metric: str
    score: float | None = None
    layer_alignment_errors: tuple[float, ...] = ()
    note: str = ""

    @property
    def effect_name(self) -> str:
        """What the effects are."""
        return "loss of BLEU" if self.metric == "bleu" else f"rise of {self.metric}"

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def to_markdown(self) -> str:
        """A table, a row for each head; layers and heads are counted from 1."""
        aligned = any(head.alignment_error is not None for head in self.heads)
        effects = any(head.effect is not None for head in self.heads)
        names = ["kind", "layer", "head", "type", "share", "entropy", "distance", "first", "special", "punctuation"]
        names += ["AER"] * aligned + [self.effect_name] * effects
        rows = []
        for head in self.heads:
            share = max(head.shares.values()) if head.type == "mixed" else head.shares[head.type.split(" (")[0]]
            measures = [f"{head.statistics[name]:.2f}" for name in names[5:10]]
            row = [head.kind, str(head.layer + 1), str(head.head + 1), head.type, f"{share:.2f}", *measures]
            row += ["" if head.alignment_error is None else f"{head.alignment_error:.3f}"] * aligned
            row += ["" if head.effect is None else f"{head.effect + 0:+.3f}"] * effects
            rows.append(row)
        lines = [names, ["---"] * len(names), *rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        after = [f"{self.sentences} texts"]
        if self.score is not None:
            after.append(f"{self.metric} of the whole model {self.score:.3f}")
        for layer, error in enumerate(self.layer_alignment_errors, start=1):
            after.append(f"AER of the mean of layer {layer}'s heads {error:.3f}")
        return "\n".join([table, "", "; ".join(after), *([self.note] if self.note else [])])

    def plot(self, theme: str = "light") -> Any:
        """A matplotlib figure: the types of all heads, and what goes without each."""
        from hf_vanilla.attention.survey_figure import plot_survey

        return plot_survey(self, theme)


def survey(
    model: PreTrainedModel,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str] | None = None,
    *,
    gold: Sequence[tuple[Links, Links]] | None = None,
    metric: str = "perplexity",
    progress: bool = False,
) -> Survey:
    """What each head does, over texts.

    Args:
        model: any that [`hf_vanilla.attention_maps`] takes.
        tokenizer: the model's.
        sources: texts.
        targets: of an encoder-decoder, their translations; by default, the model's own.
        gold: sure and possible alignments of each pair, pairs (source word, target word) from 0, words being what is
            between blanks; see [`read_alignments`].
        metric: what to measure with each head switched off (its output 0, as in Michel et al., 2019,
            arXiv:1905.10650): "perplexity" (of targets, of texts, or of each seventh token masked), "bleu" of greedy
            translations against `targets`, or "none".
        progress: show a bar.

    Raises:
        ValueError: for what `attention_maps` refuses, no texts, alignments of other words than the texts', and a
            metric that the model does not have.
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
    readings = [
        reader.read(source, targets[row] if targets and is_seq2seq else None, f" {row + 1}")
        for row, source in enumerate(sources)
    ]
    rank = Counter(label for reading in readings for queries, _ in reading.sides.values() for label in queries.labels)
    counts: dict[str, Counts] = {}
    maps = (each for batch in batched(readings, PAIRS) for each in reader.look(batch, words=False))
    bar = tqdm(maps, "looking", len(readings), unit=" texts", mininterval=1, disable=not progress)
    for row, each in enumerate(bar):
        for kind, attention in each.kinds.items():
            own = counts.setdefault(kind, Counts(attention))
            own.add(attention, rank)
            if gold is not None and kind == "cross":
                own.align(attention, tokenizer, each.source, readings[row].target, gold[row], row + 1)
    score, effects, note = None, dict[tuple[str, int, int], float](), ""
    if metric != "none":
        places = [
            (kind, layer, head)
            for kind, own in counts.items()
            for layer, head in itertools.product(range(own.layers), range(own.heads))
        ]
        measure, note = measure_of(reader, readings, targets, metric)
        switches, why = find_switches(reader, counts)
        note = note or why
        if measure and switches:
            score = measure()
            sign = 1 if metric == "perplexity" else -1
            bar = tqdm(places, "switching off", unit=" heads", mininterval=1, disable=not progress)
            for place in bar:
                with switched_off(reader.model, switches[place[:2]], place[2]):
                    effects[place] = sign * (measure() - score)
    heads = [head for kind, own in counts.items() for head in own.heads_of(kind, effects)]
    errors = counts["cross"].layer_errors() if gold is not None and "cross" in counts else ()
    return Survey(reader.name, len(sources), heads, metric, score, errors, note)


class Counts:
    """What the heads of one kind looked at so far."""

    def __init__(self, attention: AttentionMap):
        self.layers, self.heads = attention.weights.shape[:2]
        self.is_cross = attention.kind == "cross"
        self.rows = 0
        self.all_rows = 0
        self.covered_of = 0
        shape = (self.layers, self.heads)
        self.offsets = torch.zeros(*shape, len(OFFSETS))
        self.votes = {name: torch.zeros(shape) for name in ("first token", "delimiter", "rare word")}
        self.covered = torch.zeros(shape)
        self.statistics: dict[str, Tensor] = {}
        self.links: Tensor | None = None
        self.sure = 0

    def add(self, attention: AttentionMap, rank: dict[str, int]) -> None:
        """Count one text. The first token, which in a decoder sees but itself, and special ones do not vote."""
        count = len(attention.queries)
        for name, values in attention.statistics().items():
            self.statistics[name] = self.statistics.get(name, 0) + values * count
        self.all_rows += count
        first = 0 if self.is_cross else 1
        rows = [row for row in range(first, count) if not attention.queries.special[row]]
        if not rows:
            return
        self.rows += len(rows)
        looked = attention.weights[:, :, rows].argmax(-1)  # (layers, heads, rows)
        for place, offset in enumerate(OFFSETS):
            self.offsets[..., place] += (looked == torch.tensor(rows) + offset).sum(-1)
        keys = attention.keys
        delimiters = torch.tensor(keys.special) | torch.tensor(keys.punctuation)
        words = [column for column, delimiter in enumerate(delimiters.tolist()) if not delimiter]
        rare = torch.zeros(len(keys), dtype=torch.bool)
        rare[sorted(words, key=lambda column: rank.get(keys.labels[column], 0))[:2]] = True
        self.votes["first token"] += (looked == 0).sum(-1)
        self.votes["delimiter"] += delimiters[looked].sum(-1)
        self.votes["rare word"] += rare[looked].sum(-1)
        seen = F.one_hot(looked, len(keys)).amax(2) * ~delimiters
        self.covered += seen.sum(-1)
        self.covered_of += max(1, min(len(rows), len(words)))

    def align(
        self, attention: AttentionMap, tokenizer: Any, source: str, target: str, gold: tuple[Links, Links], number: int
    ) -> None:
        """Count the links between words that each head, and each layer's mean, has in common with gold alignments."""
        if not tokenizer.is_fast:
            raise ValueError(f"alignments take a fast tokenizer, and this is {type(tokenizer).__name__}")
        groups = []
        for text, options in ((target, {"text_target": target}), (source, {"text": source})):
            offsets = tokenizer(**options, return_offsets_mapping=True)["offset_mapping"]
            of_words: list[list[int]] = [[] for _ in text.split()]
            for token, word in enumerate(words_of_tokens(text, offsets)):
                if word is not None:
                    of_words[word].append(token)
            groups.append(of_words)
        sure, possible = gold
        for i, j in sorted(sure | possible):
            if i >= len(groups[1]) or j >= len(groups[0]):
                sizes = f"the source has {len(groups[1])} words, the target {len(groups[0])}"
                raise ValueError(f"gold alignment {number} has {i}-{j}, but {sizes}")
        rows, columns = ([word for word, tokens in enumerate(side) if tokens] for side in groups)
        weights = attention.grouped([groups[0][row] for row in rows], [groups[1][column] for column in columns])
        best = torch.cat([weights, weights.mean(1, keepdim=True)], 1).argmax(-1)  # (layers, heads + 1, rows)
        if self.links is None:
            self.links = torch.zeros(self.layers, self.heads + 1, 3)
        for layer, head in itertools.product(range(self.layers), range(self.heads + 1)):
            links = {(columns[column], rows[row]) for row, column in enumerate(best[layer, head].tolist())}
            shared = (len(links & sure), len(links & (sure | possible)), len(links))
            self.links[layer, head] += torch.tensor(shared)
        self.sure += len(sure)

    def errors(self) -> Tensor | None:
        """Alignment error rates (Och and Ney, 2003): 1 - (|A & S| + |A & P|) / (|A| + |S|), (layers, heads + 1), the
        last one that of the mean of the heads."""
        if self.links is None:
            return None
        return 1 - (self.links[..., 0] + self.links[..., 1]) / (self.links[..., 2] + self.sure)

    def layer_errors(self) -> tuple[float, ...]:
        """Those of the layers' means."""
        errors = self.errors()
        return () if errors is None else tuple(errors[:, -1].tolist())

    def heads_of(self, kind: str, effects: dict[tuple[str, int, int], float]) -> Iterator[Head]:
        """What each head does."""
        errors = self.errors()
        for layer, head in itertools.product(range(self.layers), range(self.heads)):
            error = None if errors is None else float(errors[layer, head])
            shares, offset = self.shares(layer, head, error)
            best = max(shares, key=lambda name: shares[name])
            name = best if shares[best] >= MOSTLY else "mixed"
            yield Head(
                kind,
                layer,
                head,
                f"positional ({offset:+d})" if name == "positional" else name,
                shares,
                {name: float(values[layer, head]) / self.all_rows for name, values in self.statistics.items()},
                error,
                effects.get((kind, layer, head)),
            )

    def shares(self, layer: int, head: int, error: float | None) -> tuple[dict[str, float], int]:
        """The share of each type, and the offset of a positional head."""
        of = max(1, self.rows)
        others = {name: float(values[layer, head]) / of for name, values in self.votes.items()}
        if self.is_cross:
            covered = float(self.covered[layer, head]) / max(1, self.covered_of)
            return {"alignment": covered if error is None else 1 - error, **others}, 0
        by_offset = {offset: float(self.offsets[layer, head, place]) / of for place, offset in enumerate(OFFSETS)}
        far = max((offset for offset in OFFSETS if abs(offset) > 1), key=lambda offset: by_offset[offset])
        near = {"previous token": by_offset[-1], "next token": by_offset[1], "same token": by_offset[0]}
        return {**near, "positional": by_offset[far], **others}, far


def read_alignments(path: Path) -> list[tuple[Links, Links]]:
    """Sure and possible alignments of each line of a file in the Pharaoh format: `0-0 1-2 2?1`, words of the source
    and of the target from 0, with `?` where they are only possible.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has something else.
    """
    alignments = []
    for number, line in enumerate(read_lines(path), start=1):
        links: dict[str, Links] = {"-": set(), "?": set()}
        for part in line.split():
            match = re.fullmatch(r"(\d+)([-?p])(\d+)", part, re.ASCII)
            if match is None:
                raise ValueError(f"{path}:{number}: {part!r:.40} is no alignment; expected pairs such as 0-0 or 1?2")
            links["-" if match[2] == "-" else "?"].add((int(match[1]), int(match[3])))
        alignments.append((links["-"], links["?"]))
    return alignments
