"""Beam search in which no shape depends on what is found, for GPUs: a step is one CUDA graph, and the host waits for
the device every few tokens alone. It is the search of `generation_vanilla.py`, hypothesis for hypothesis.

Shapes: batch, beams, length as there; candidates are a sentence's best continuations, room the tokens that all its
hypotheses together may get.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .generation_vanilla import (
    MISSING_SCORE,
    Beams,
    Finished,
    IncrementalDecoder,
    Search,
    copy_with,
    make_incremental,
    take,
)

# The host looks whether all sentences are done each time so many tokens were launched.
CHECK_EVERY = 8
# New tokens and sources have room for the next multiple of so many: what fits into a bucket uses its graph.
BUCKET = 32
# Graphs that are kept, with their caches; the one that was not used for longest goes first.
BUCKETS_KEPT = 8


def make_decoder(model: PreTrainedModel, precision: str = "float32") -> Any:
    """Return the fastest decoder of a model for [`beam_search`] on its device: a [`StaticDecoder`] on a GPU, if its
    family has none of its own, or else what [`make_incremental`] makes. Raise [`NotPlain`], a `ValueError`, as it."""
    if model.device.type == "cuda" and getattr(model, "incremental_decoder_class", None) is None:
        return StaticDecoder(model)
    return make_incremental(model, precision)


class StaticDecoder(IncrementalDecoder):
    """A decoder whose searches are made of equal steps. See [`IncrementalDecoder`], whose place it takes in
    [`beam_search`]; searches with logits processors, criteria or scores of each step go as they do there.

    Args:
        model: of the seq2seq or of the decoder family.
        prepare: makes of a step, a function without arguments, one that is called instead; by default, a CUDA graph
            on a GPU, and the step itself elsewhere.
    """

    def __init__(self, model: Any, prepare: Callable[[Callable[[], None]], Callable[[], object]] | None = None):
        super().__init__(model, "plain")
        is_gpu = model.device.type == "cuda"
        self.prepare = prepare or (capture if is_gpu else as_given)
        self.buckets: OrderedDict[tuple[Any, ...], StaticBeams] = OrderedDict()

    def serves(self, search: Search) -> bool:
        """False for a search that has to look at each step from outside."""
        return not (search.processors or search.criteria or search.records)

    def finish(self, search: Search, beams: Beams) -> None:
        """Go on from the prompts until all sentences of `search` are done, and give it their results."""
        most = int(search.limits.max())
        with torch.inference_mode():
            bucket = self.bucket_for(search, beams, most)
            bucket.fill(search, beams)  # which finds the first token
            for done in range(1, most, CHECK_EVERY):
                for _ in range(min(CHECK_EVERY, most - done)):
                    bucket.run()
                if bucket.finished.closed.all():
                    break
        found = bucket.finished.select(search.active)
        prompts = search.prompts[:, None].expand(-1, search.beams, -1)
        found.sequences = torch.cat((prompts, found.sequences), dim=2)
        search.results.append((search.active, found))

    def bucket_for(self, search: Search, beams: Beams, most: int) -> "StaticBeams":
        """Return the state of the smallest bucket that the search fits into, with the step that advances it."""
        batch, prompt = search.prompts.shape
        rows = 1 << (batch - 1).bit_length()
        source = round_up(beams.source[0][0].shape[2]) if beams.source else 0
        table = beams.stack.config.position_embedding_type != "learned"
        positions = round_up(int(beams.next_position.max()) + most) if table else 0
        sizes = (rows, search.beams, source, prompt, round_up(most), positions)
        config = search.config
        rule = (search.form, config.length_penalty, config.early_stopping, config.num_return_sequences)
        key = (*sizes, *rule, tuple(search.ends.tolist()), search.padding)
        if key in self.buckets:
            self.buckets.move_to_end(key)
            return self.buckets[key]
        bucket = StaticBeams(self, search, beams, *sizes)
        bucket.run = self.prepare(bucket.step)
        self.buckets[key] = bucket
        if len(self.buckets) > BUCKETS_KEPT:
            self.buckets.popitem(last=False)
        return bucket


class Room:
    """Keys and values (batch, heads, room, width) of a layer, with room for all tokens that there may be."""

    def __init__(self, columns: Tensor):
        self.columns = columns  # where the next tokens go (beams,)
        self.buffers: list[Tensor] = []

    def update(self, *states: Tensor) -> list[Tensor]:
        """Add keys and values of new tokens, and return the whole room, of which a mask shows what is filled."""
        for buffer, each in zip(self.buffers, states, strict=True):
            buffer.index_copy_(2, self.columns, each)
        return self.buffers


class StaticBeams:
    """The hypotheses of a search, and what the decoder keeps of them, in tensors that stay where they are. `batch`,
    `source` and `new` are those of the bucket; what a search does not fill is masked, or closed from the start."""

    run: Callable[[], object]

    def __init__(
        self,
        decoder: StaticDecoder,
        search: Search,
        beams: Beams,
        batch: int,
        width: int,
        source: int,
        prompt: int,
        new: int,
        positions: int,
    ):
        self.decoder, self.search, self.beams, device = decoder, search, width, search.prompts.device
        self.vocabulary = beams.logits.shape[2]
        counted = torch.int64

        def zeros(*shape: int, dtype: torch.dtype = counted) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # Of the decoder
        self.stack = beams.stack
        if positions:
            table = decoder.stack.embed_positions(torch.arange(positions, device=device)[None])[0]
            self.stack = copy_with(decoder.stack, embed_positions=table.__getitem__)
        self.columns = zeros(width)
        self.past, self.room = [Room(self.columns) for _ in decoder.layers], prompt + width * new
        for room, cache in zip(self.past, beams.past, strict=True):
            room.buffers = [each.new_zeros(batch, each.shape[1], self.room, each.shape[3]) for each in cache.buffers]
        self.source = [
            [each.new_zeros(batch, each.shape[1], source, each.shape[3]) for each in layer] for layer in beams.source
        ]
        self.source_mask = zeros(batch, 1, 1, source, dtype=torch.bool) if self.source else None
        self.own = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
        self.visible = zeros(batch, width, self.room, dtype=torch.bool)
        self.position, self.tokens, self.parents = zeros(batch, 1), zeros(batch, width), zeros(batch, width)
        # Of the search
        self.ends = search.ends.clone()
        self.step_number, self.limits = zeros(1), zeros(batch, 1)
        self.numbers = torch.arange(batch, device=device)[:, None] * width
        self.penalties = torch.tensor([search.penalty(length) for length in range(1, new + 1)], device=device)
        self.best_penalties = torch.ones(batch, 1, device=device)
        self.hypotheses, self.origins = zeros(batch, width, new), zeros(batch, width, new)
        self.scores = zeros(batch, width, dtype=torch.float32)
        self.finished = Finished(
            sequences=zeros(batch, width, new),
            origins=zeros(batch, width, new),
            scores=zeros(batch, width, dtype=torch.float32),
            lengths=zeros(batch, width),
            closed=zeros(batch, dtype=torch.bool),
        )

    def fill(self, search: Search, beams: Beams) -> None:
        """Begin a search, whose prompts `beams` has read, and advance it by its first token."""
        batch, prompt = search.prompts.shape
        for room, cache in zip(self.past, beams.past, strict=True):
            for buffer, each in zip(room.buffers, cache.buffers, strict=True):
                buffer.zero_()  # what is masked must be a number
                buffer[:batch, :, :prompt] = each[:, :, :prompt]
        for own, layer in zip(self.source, beams.source, strict=True):
            for buffer, each in zip(own, layer, strict=True):
                buffer.zero_()
                buffer[:batch, :, : each.shape[2]] = each
        if self.source_mask is not None:
            self.source_mask.zero_()
            self.source_mask[:batch, ..., : beams.source[0][0].shape[2]] = (
                True if beams.source_mask is None else beams.source_mask
            )
            self.source_mask[batch:] = True
        self.visible.zero_()
        self.visible[:batch, :, :prompt] = beams.visible
        self.visible[batch:, :, :1] = True
        self.position.zero_()
        self.position[:batch] = beams.next_position
        self.columns.copy_(torch.arange(prompt, prompt + self.beams, device=self.columns.device))
        self.step_number.zero_()
        self.limits.fill_(1)
        self.limits[:batch] = search.limits
        self.best_penalties.copy_(torch.as_tensor(search.penalty(self.limits)))
        self.scores.fill_(MISSING_SCORE)
        self.scores[:, 0] = 0
        self.finished.scores.fill_(MISSING_SCORE)
        for sequences, origins in ((self.hypotheses, self.origins), (self.finished.sequences, self.finished.origins)):
            sequences.fill_(search.padding)
            origins.fill_(-1)
        self.finished.lengths.zero_()
        self.finished.closed.zero_()
        self.finished.closed[batch:] = True
        logits = beams.logits.new_zeros(len(self.position), self.beams, self.vocabulary)
        logits[:batch] = beams.logits
        self.advance(logits)

    def step(self) -> None:
        """Decode the newest token of each hypothesis, and advance the search by the logits after it."""
        self.visible.copy_(take(self.visible, self.parents))
        self.visible.index_copy_(2, self.columns, self.own)
        states = self.stack.embed(self.stack.embed_tokens(self.tokens), self.position)
        for layer in self.decoder.layers:
            states = layer.forward(states, self.visible[:, None], self.source or None, self.source_mask, self.past)
        self.columns.add_(self.beams)
        self.position.add_(1)
        self.advance(self.decoder.head(self.stack.norm(states)).float())

    def advance(self, logits: Tensor) -> None:
        """Do what [`Search.advance`] does, by the logits (batch, beams, vocab_size) after the open hypotheses."""
        search, finished, beams = self.search, self.finished, self.beams
        values, tokens = search.rank_tokens(logits.flatten(0, 1))
        per_hypothesis = values.shape[1]
        total, chosen = (
            (values + self.scores.view(-1, 1))
            .view(len(self.scores), -1)
            .topk(min(search.candidates, beams * per_hypothesis))
        )
        parents, tokens = chosen // per_hypothesis, tokens.view(len(self.scores), -1).gather(1, chosen)
        sequences = take(self.hypotheses, parents).index_copy_(2, self.step_number, tokens[..., None])
        origins = take(self.origins, parents).index_copy_(2, self.step_number, (self.numbers + parents)[..., None])
        length = self.step_number + 1
        ended = (tokens[..., None] == self.ends).any(2) | (length >= self.limits)

        penalty = self.penalties.index_select(0, self.step_number)
        exists = total[:, :beams] > MISSING_SCORE / 2
        takes = ended[:, :beams] & exists & ~finished.closed[:, None]
        new = torch.where(takes, total[:, :beams] / penalty, MISSING_SCORE)
        scores, places = torch.cat((finished.scores, new), dim=1).topk(beams)
        lengths = torch.cat((finished.lengths, torch.where(new > MISSING_SCORE, length, 0)), dim=1).gather(1, places)
        finished.sequences.copy_(take(torch.cat((finished.sequences, sequences[:, :beams]), dim=1), places))
        finished.origins.copy_(take(torch.cat((finished.origins, origins[:, :beams]), dim=1), places))
        finished.scores.copy_(scores)
        finished.lengths.copy_(lengths)

        open_scores, kept = (total + MISSING_SCORE * ended).topk(beams)
        self.scores.copy_(open_scores)
        self.hypotheses.copy_(take(sequences, kept))
        self.origins.copy_(take(origins, kept))
        self.tokens.copy_(tokens.gather(1, kept))
        self.parents.copy_(parents.gather(1, kept))
        at_best = self.best_penalties if search.counts_to_limit else penalty
        finished.closed.copy_(finished.closed | search.cannot_improve(finished, self.scores, at_best) | ended.all(1))
        self.step_number.add_(1)


def round_up(count: int) -> int:
    """Return the size of the bucket that `count` falls into."""
    return -(-count // BUCKET) * BUCKET


def as_given(step: Callable[[], None]) -> Callable[[], object]:
    """Return a step as it is."""
    return step


def capture(step: Callable[[], None]) -> Callable[[], object]:
    """Return what launches all that `step` does on the GPU as one CUDA graph. The step is made a few times for it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
