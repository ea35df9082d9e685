"""What each part of the Transformer is for: taken out, by a patch of a model that is as it was otherwise.

    python scripts/reproduce_ablations.py                                  # 10 minutes on 2 cores
    python scripts/reproduce_ablations.py --seeds 1 --updates 100          # to see that it works
    python scripts/reproduce_ablations.py --output runs/ablations.json     # keeps what runs measured, and goes on

First what needs no training, each claim with the test of tests/test_reproduce_ablations.py that holds it to account.
Then models that learn to reverse ten random symbols among 20, new ones in each update, so that nothing can be learned
by heart: the training loss, and the share of symbols that are right where the true ones before them are given, as in
training, and where the model goes on from its own, as in use. A guess has a loss of log 20 = 3.00, and is right in 5 %
of the cases. Each run has a process of its own with one thread.

Weights begin as N(0, 1 / d_model), which makes queries and keys what footnote 4 of the paper takes them for: of mean 0
and variance 1.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from reproduce_table3 import over_seeds
from torch import Tensor, nn

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration
from hf_vanilla.models.modeling_vanilla import AddNorm, MultiHeadAttention
from hf_vanilla.models.unpadding_vanilla import dropout
from hf_vanilla.training.optim import adam, noam_schedule

SYMBOLS, FIRST, LENGTH = 20, 3, 10  # ids 0 to 2 are those of padding, start and end
BATCH = 32
WIDTH = 64
SENTENCES = ("I am a cat", "cat I a am")


class NoPositions(nn.Module):
    """In the place of positional encodings: nothing."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, position_ids: Tensor) -> Tensor:
        """Zeros (batch or 1, length, hidden_size)."""
        return torch.zeros(*position_ids.shape, self.hidden_size)


class NormAlone(AddNorm):
    """LayerNorm(Dropout(Sublayer(x))): no residual connection."""

    def forward(self, hidden_states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(batch, length, hidden_size) to the same."""
        return nn.LayerNorm.forward(self, dropout(sublayer(hidden_states), self.dropout, self.training))


class AddAlone(AddNorm):
    """x + Dropout(Sublayer(x)): no normalisation."""

    def forward(self, hidden_states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(batch, length, hidden_size) to the same."""
        return hidden_states + dropout(sublayer(hidden_states), self.dropout, self.training)


def without_scaling(model: nn.Module) -> None:
    """softmax(Q K^T) V in all attention."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.scaling = 1.0


def without_positions(model: nn.Module) -> None:
    """In encoder and decoder."""
    for stack in (model.model.encoder, model.model.decoder):
        stack.embed_positions = NoPositions(model.config.hidden_size)


def without_residuals(model: nn.Module) -> None:
    """Around all sub-layers."""
    for module in [module for module in model.modules() if isinstance(module, AddNorm)]:
        module.__class__ = NormAlone


def without_normalisation(model: nn.Module) -> None:
    """After all sub-layers."""
    for module in [module for module in model.modules() if isinstance(module, AddNorm)]:
        module.__class__ = AddAlone


def without_causal_mask(model: nn.Module) -> None:
    """Each position of the target sees all of it: a mask of four dimensions is taken as it is."""

    def show_all(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        batch, length = kwargs["input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"].shape[:2]
        return args, kwargs | {"attention_mask": torch.ones(batch, 1, length, length, dtype=torch.bool)}

    model.model.decoder.register_forward_pre_hook(show_all, with_kwargs=True)


Patch = Callable[[nn.Module], None]
WIDE = {"qk_head_dim": 256}
VARIANTS: dict[str, tuple[dict[str, Any], Patch | None]] = {
    "the paper's": ({}, None),
    "without positions": ({}, without_positions),
    "without residuals": ({}, without_residuals),
    "without normalisation": ({}, without_normalisation),
    "without the causal mask": ({}, without_causal_mask),
    "without scaling, d_k = 16": ({}, without_scaling),
    "the paper's, d_k = 256": (WIDE, None),
    "without scaling, d_k = 256": (WIDE, without_scaling),
    "the paper's, N = 6": ({"N": 6}, None),
    "without normalisation, N = 6": ({"N": 6}, without_normalisation),
}


def make_model(seed: int, patch: Patch | None = None, **changes: Any) -> VanillaForConditionalGeneration:
    """A small model with new weights; `changes` are fields of its configuration."""
    torch.manual_seed(seed)
    fields = {"vocab_size": FIRST + SYMBOLS, "d_model": WIDTH, "d_ff": 2 * WIDTH, "h": 4, "N": 2, "dropout": 0.0}
    model = VanillaForConditionalGeneration(VanillaConfig(**fields | {"initializer_range": WIDTH**-0.5} | changes))
    if patch:
        patch(model)
    return model


# What needs no training


def scores_and_softmax(d_k: int, scaling: float, keys: int = 32, rows: int = 2000) -> tuple[float, float, float]:
    """Of random queries and keys, whose components have mean 0 and variance 1: the variance of the scores q . k times
    `scaling`; the mean entropy of their softmax over the `keys`, in nats; and the mean norm of its Jacobian
    diag(p) - p p^T, by which every gradient on its way to the scores is multiplied."""
    generator = torch.Generator().manual_seed(d_k)
    query, key = (torch.randn(rows, n, d_k, generator=generator) for n in (1, keys))
    scores = (query @ key.transpose(1, 2))[:, 0] * scaling
    p = scores.softmax(-1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    entropy = torch.special.entr(p).sum(-1)
    return float(scores.var()), float(entropy.mean()), float(torch.linalg.matrix_norm(jacobian).mean())


def shuffled_outputs(patch: Patch | None) -> tuple[float, float]:
    """How much "cat I a am" differs from "I am a cat", in float64: the largest difference of the encoder's outputs,
    each word's own compared; and of the logits of one and the same target."""
    words = [sentence.split() for sentence in SENTENCES]
    sources = torch.tensor([[FIRST + words[0].index(word) for word in sentence] for sentence in words])
    order = [words[1].index(word) for word in words[0]]
    model = make_model(1, patch).double().eval()
    with torch.no_grad():
        first, second = (model.model.encoder(input_ids=source[None]).last_hidden_state[0] for source in sources)
        target = torch.arange(FIRST, FIRST + 6).expand(2, -1)
        logits = model(input_ids=sources, decoder_input_ids=target).logits
    return float((second[order] - first).abs().max()), float((logits[1] - logits[0]).abs().max())


def layer_by_layer(patch: Patch | None, depth: int = 6) -> list[tuple[float, float]]:
    """Of the encoder's states after each layer, before any training: 1 less the cosine of the angle between two
    positions of a sequence, in the mean (0 where all are alike), and the standard deviation of a position's
    components."""
    model = make_model(1, patch, N=depth).double().eval()
    with torch.no_grad():
        states = model.model.encoder(input_ids=make_sources(32), output_hidden_states=True).hidden_states
    apart = ~torch.eye(LENGTH, dtype=torch.bool)
    found = []
    for state in states[1:]:
        unit = nn.functional.normalize(state, dim=-1)
        cosines = (unit @ unit.transpose(1, 2))[:, apart]
        found.append((1 - float(cosines.mean()), float(state.std(-1, correction=0).mean())))
    return found


def gradient_from_the_future(patch: Patch | None) -> float:
    """The largest derivative of the logits at a position by the embeddings of the target after it."""
    model = make_model(1, patch).double().eval()
    embeds = model.get_input_embeddings()(make_sources(1)).detach().requires_grad_()
    logits = model(input_ids=make_sources(1), decoder_inputs_embeds=embeds).logits[0]
    future = [torch.autograd.grad(row.sum(), embeds, retain_graph=True)[0][0, t + 1 :] for t, row in enumerate(logits)]
    return max(float(gradient.abs().max()) for gradient in future[:-1])


# What is trained


def make_sources(rows: int) -> Tensor:
    """Random symbols (rows, LENGTH)."""
    return torch.randint(FIRST, FIRST + SYMBOLS, (rows, LENGTH))


def train(model: VanillaForConditionalGeneration, updates: int) -> list[float]:
    """Teach a model to reverse, by the paper's optimiser and schedule; the loss of each update, up to one that is not
    finite."""
    optimizer = adam(model.parameters(), 0.2)
    schedule = noam_schedule(optimizer, WIDTH, max(1, updates // 10))
    losses: list[float] = []
    model.train()
    while len(losses) < updates and (not losses or math.isfinite(losses[-1])):
        sources = make_sources(BATCH)
        loss = model(input_ids=sources, labels=sources.flip(1)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def accuracy(model: VanillaForConditionalGeneration) -> tuple[float, float]:
    """The share of symbols that are right: given the true ones before them, and generated from the source alone."""
    model.eval()
    sources = make_sources(100)
    targets = sources.flip(1)
    forced = model(input_ids=sources, labels=targets).logits.argmax(-1)
    # Without a cache, so that what a position sees is what it saw in training.
    options: dict[str, Any] = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "do_sample": False}
    generated = model.generate(sources, attention_mask=torch.ones_like(sources), use_cache=False, **options)[:, 1:]
    return float((forced == targets).float().mean()), float((generated == targets).float().mean())


def measure(variant: str, seed: int, updates: int) -> dict[str, Any]:
    """One run."""
    changes, patch = VARIANTS[variant]
    model = make_model(seed, patch, **changes)
    start = time.monotonic()
    losses = train(model, updates)
    forced, generated = accuracy(model)
    last = losses[-max(1, updates // 20) :]
    return {
        "variant": variant,
        "seed": seed,
        "updates": len(losses),
        "of": updates,
        "loss": statistics.mean(last),
        "forced": forced,
        "generated": generated,
        "seconds": time.monotonic() - start,
    }


def report_claims() -> str:
    """The tables of what needs no training, in Markdown."""
    lines = [
        "Scores q . k of unit components, and their softmax over 32 keys (entropy at most 3.47 nats): "
        "`test_the_variance_of_scores_is_d_k_unless_they_are_scaled`, "
        "`test_a_softmax_of_large_scores_lets_no_gradient_by`",
        "",
        "| d_k | variance | entropy | norm of the Jacobian | scaled: variance | entropy | norm of the Jacobian |",
        "|---" * 7 + "|",
    ]
    for d_k in (1, 4, 16, 64, 256, 1024):
        cells = [f"{value:.3g}" for scaling in (1.0, d_k**-0.5) for value in scores_and_softmax(d_k, scaling)]
        lines.append(f"| {d_k} | {' | '.join(cells)} |")
    lines += [
        "",
        f'"{SENTENCES[0]}" and "{SENTENCES[1]}", largest differences in float64: '
        "`test_without_positions_outputs_are_permuted_not_changed`",
        "",
        "| | each word's encoder output | logits of the same target |",
        "|---|---|---|",
    ]
    for name, patch in (("with positions", None), ("without", without_positions)):
        lines.append(f"| {name} | {' | '.join(f'{value:.1e}' for value in shuffled_outputs(patch))} |")
    layers = {name: layer_by_layer(VARIANTS[name][1]) for name in list(VARIANTS)[:4] if "positions" not in name}
    lines += [
        "",
        "Six encoder layers before training, in float64, after each: 1 - cosine between two positions / standard "
        "deviation of a position's components: `test_without_residuals_positions_become_alike`, "
        "`test_normalisation_keeps_the_scale_of_every_position`",
        "",
        "| | 1 | 2 | 3 | 4 | 5 | 6 |",
        "|---" * 7 + "|",
    ]
    for name, values in layers.items():
        lines.append(f"| {name} | {' | '.join(f'{apart:.2g} / {std:.2f}' for apart, std in values)} |")
    future = [f"{gradient_from_the_future(patch):.2g}" for patch in (None, without_causal_mask)]
    lines += [
        "",
        "Largest derivative of a logit by a later position of the target: "
        f"{future[0]} with the causal mask, {future[1]} without: `test_the_causal_mask_is_what_hides_the_future`",
    ]
    return "\n".join(lines)


def report_runs(results: list[dict[str, Any]], updates: int) -> str:
    """The table of what was trained, in Markdown."""
    lines = [
        f"Reversing {LENGTH} symbols, {updates:,} updates of {BATCH} sequences:",
        "",
        "| | training loss | % right, given the true symbols before | % right, generated | seeds |",
        "|---" * 5 + "|",
    ]
    for variant in VARIANTS:
        if own := [result for result in results if result["variant"] == variant]:
            broken = [str(each["updates"]) for each in own if not math.isfinite(each["loss"])]
            loss = f"not finite at update {', '.join(broken)}" if broken else over_seeds(own, "loss", 3)
            cells = [loss, *(over_seeds(own, name, scale=100) for name in ("forced", "generated"))]
            lines.append(f"| {variant} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument("--updates", type=int, default=500, help="of each run (default: 500)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="runs side by side, a thread each (default: cores)")
    parser.add_argument("--output", type=Path, help="a JSON file for what each run measured")
    options = parser.parse_args()
    for name in ("updates", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    runs = [(variant, seed) for seed in dict.fromkeys(options.seeds) for variant in VARIANTS]
    results: list[dict[str, Any]] = []
    if options.output:  # before it has something to lose
        try:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.open("a").close()
            if text := options.output.read_text(encoding="utf-8"):
                results = [result for result in json.loads(text) if (result["variant"], result["seed"]) in runs]
        except OSError as error:
            parser.error(f"--output {options.output} cannot be written: {error.strerror}")
        except (ValueError, TypeError, KeyError):
            parser.error(f"--output {options.output} is something else: choose another, or delete it")
        if any(result.get("of") != options.updates for result in results):
            parser.error(f"--output {options.output} is of runs of other length: choose another, or delete it")
    done = {(result["variant"], result["seed"]) for result in results}
    todo = [run for run in runs if run not in done]
    print(report_claims(), flush=True)
    start, spawn, stopped = time.monotonic(), multiprocessing.get_context("spawn"), False
    pool = ProcessPoolExecutor(options.workers, spawn, torch.set_num_threads, (1,))
    try:
        futures = [pool.submit(measure, *run, options.updates) for run in todo]
        for number, future in enumerate(as_completed(futures), start=1):
            results.append(result := future.result())
            if options.output:
                unfinished = options.output.with_name(f"{options.output.name}.unfinished")
                unfinished.write_text(json.dumps(results, indent=1), encoding="utf-8")
                unfinished.replace(options.output)
            left = (time.monotonic() - start) / number * (len(todo) - number)
            print(
                f"{len(results)}/{len(runs)} {result['variant']}, seed {result['seed']}: loss {result['loss']:.3f}, "
                f"{100 * result['forced']:.0f} % right, generated {100 * result['generated']:.0f} %, "
                f"{result['seconds']:.0f} s; about {left / 60:.1f} minutes left",
                flush=True,
            )
    except KeyboardInterrupt:
        stopped = True
        for process in multiprocessing.active_children():
            process.terminate()
    pool.shutdown(cancel_futures=True)
    print(f"\n{report_runs(results, options.updates)}")
    if stopped:
        sys.exit("stopped" + f"; the same command goes on from {options.output}" * bool(options.output))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
