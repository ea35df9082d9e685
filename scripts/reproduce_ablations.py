"""What each part of the Transformer is for, shown by models that lack it and are otherwise the paper's.

    python scripts/reproduce_ablations.py                                  # 10 minutes on 2 cores
    python scripts/reproduce_ablations.py --seeds 1 --updates 100          # to see that it works
    python scripts/reproduce_ablations.py --output runs/ablations.json     # keeps what runs measured, and goes on

First come claims that need no training, each with the test that checks it (tests/scripts/test_reproduce_ablations.py).
Then models learn to reverse ten random symbols among 20, new ones in each update; the table shows the training loss,
and the share of symbols that are right after the true ones, as in training, and after the model's own, as in use. A
guess has a loss of log 20 = 3.00, and is right in 5 % of the cases. Each run has a process of its own with one thread.
Weights begin as N(0, 1 / d_model), so that queries and keys have mean 0 and variance 1, as in the paper's footnote 4.
"""

import argparse
import inspect
import json
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paper.runs import Result, add_run_options, markdown_table, over_seeds, side_by_side, write_whole
from torch import Tensor, nn

from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration
from hf_vanilla.cli.streams import run_program
from hf_vanilla.models.modeling_vanilla import AddNorm, MultiHeadAttention
from hf_vanilla.training.optim import adam, noam_schedule

SYMBOLS, FIRST, LENGTH = 20, 3, 10  # ids 0 to 2 are those of padding, start and end
BATCH, WIDTH = 32, 64
SENTENCES = ("I am a cat", "cat I a am")


class NormAlone(AddNorm):
    """LayerNorm(Dropout(Sublayer(x))): no residual connection."""

    def forward(self, hidden_states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return nn.LayerNorm.forward(self, self.dropout(sublayer(hidden_states)))


class AddAlone(AddNorm):
    """x + Dropout(Sublayer(x)): no normalisation."""

    def forward(self, hidden_states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return hidden_states + self.dropout(sublayer(hidden_states))


def replace_class(model: nn.Module, own: type[AddNorm]) -> None:
    """Let each `AddNorm` compute what `own` does, a subclass with another `forward`."""
    for module in [module for module in model.modules() if isinstance(module, AddNorm)]:
        module.__class__ = own


without_residuals = partial(replace_class, own=NormAlone)
without_normalisation = partial(replace_class, own=AddAlone)


def without_scaling(model: nn.Module) -> None:
    """Let all attention compute softmax(Q K^T) V."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.scaling = 1.0


def without_positions(model: nn.Module) -> None:
    """Let the positional encodings of encoder and decoder be zeros."""
    for stack in (model.model.encoder, model.model.decoder):
        stack.embed_positions.register_forward_hook(lambda module, args, output: torch.zeros_like(output))


def without_causal_mask(model: nn.Module) -> None:
    """Let each position of the target see all of it: the decoder takes a mask of four dimensions as it is."""

    def show_all(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        ids = given.get("input_ids")
        batch, length = (given["inputs_embeds"] if ids is None else ids).shape[:2]
        return (), given | {"attention_mask": torch.ones(batch, 1, length, length, dtype=torch.bool)}

    model.model.decoder.register_forward_pre_hook(show_all, with_kwargs=True)


Patch = Callable[[VanillaForConditionalGeneration], None]
WIDE = {"qk_head_dim": 256}
VARIANTS: dict[str, tuple[dict[str, int], Patch | None]] = {
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


def make_model(seed: int, patch: Patch | None = None, **changes: int) -> VanillaForConditionalGeneration:
    """Make a small model with new weights; `changes` are fields of its configuration."""
    torch.manual_seed(seed)
    fields = {"vocab_size": FIRST + SYMBOLS, "d_model": WIDTH, "d_ff": 2 * WIDTH, "h": 4, "N": 2, "dropout": 0.0}
    model = VanillaForConditionalGeneration(VanillaConfig(**fields | {"initializer_range": WIDTH**-0.5} | changes))
    if patch:
        patch(model)
    return model


def scores_and_softmax(d_k: int, scaling: float, keys: int = 32, rows: int = 2000) -> tuple[float, float, float]:
    """Return the variance of scores, and the mean entropy (nats) and the mean norm of the Jacobian of their softmax.

    The scores are q . k times `scaling`, of unit normal queries and keys. The Jacobian diag(p) - p p^T multiplies
    every gradient on its way to the scores.
    """
    generator = torch.Generator().manual_seed(d_k)
    query, key = (torch.randn(rows, n, d_k, generator=generator) for n in (1, keys))
    scores = (query @ key.transpose(1, 2))[:, 0] * scaling
    p = scores.softmax(-1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    entropy = torch.special.entr(p).sum(-1)
    return float(scores.var()), float(entropy.mean()), float(torch.linalg.matrix_norm(jacobian).mean())


def shuffled_outputs(patch: Patch | None) -> tuple[float, float]:
    """Return the largest differences that "cat I a am" makes to a word's encoder output and to a target's logits."""
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
    """Return for each layer of an untrained encoder 1 - the mean cosine of two positions, and their mean deviation."""
    model = make_model(1, patch, N=depth).double().eval()
    with torch.no_grad():
        states = model.model.encoder(input_ids=make_sources(32), output_hidden_states=True).hidden_states
    apart, units = ~torch.eye(LENGTH, dtype=torch.bool), [nn.functional.normalize(state, dim=-1) for state in states]
    cosines = [(unit @ unit.transpose(1, 2))[:, apart].mean() for unit in units]
    deviations = [state.std(-1, correction=0).mean() for state in states]
    return [(1 - float(cosine), float(std)) for cosine, std in zip(cosines[1:], deviations[1:], strict=True)]


def gradient_from_the_future(patch: Patch | None) -> float:
    """Return the largest derivative of the logits at a position by the embeddings of the target after it."""
    model = make_model(1, patch).double().eval()
    embeds = model.get_input_embeddings()(make_sources(1)).detach().requires_grad_()
    logits = model(input_ids=make_sources(1), decoder_inputs_embeds=embeds).logits[0]
    future = [torch.autograd.grad(row.sum(), embeds, retain_graph=True)[0][0, t + 1 :] for t, row in enumerate(logits)]
    return max(float(gradient.abs().max()) for gradient in future[:-1])


def make_sources(rows: int) -> Tensor:
    """Return random symbols (rows, LENGTH)."""
    return torch.randint(FIRST, FIRST + SYMBOLS, (rows, LENGTH))


def train(model: VanillaForConditionalGeneration, updates: int) -> list[float]:
    """Teach a model to reverse as the paper trains; return the losses of updates, up to one that is not finite."""
    optimizer = adam(model.parameters(), 0.2)
    schedule = noam_schedule(optimizer, WIDTH, max(1, updates // 10))
    losses: list[float] = []
    model.train()
    while len(losses) < updates and (not losses or math.isfinite(losses[-1])):
        sources = make_sources(BATCH)
        loss = model(input_ids=sources, labels=sources.flip(1), output_logits=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def accuracy(model: VanillaForConditionalGeneration) -> tuple[float, float]:
    """Return the shares of symbols that are right after the true ones before them, and after generated ones."""
    model.eval()
    sources = make_sources(100)
    targets = sources.flip(1)
    forced = model(input_ids=sources, labels=targets).logits.argmax(-1)
    # Without a cache, so that what a position sees is what it saw in training.
    options = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "do_sample": False}
    generated = model.generate(sources, attention_mask=torch.ones_like(sources), use_cache=False, **options)[:, 1:]
    return float((forced == targets).float().mean()), float((generated == targets).float().mean())


def measure(variant: str, seed: int, updates: int) -> Result:
    """Train and test one model."""
    changes, patch = VARIANTS[variant]
    model, start = make_model(seed, patch, **changes), time.monotonic()
    losses = train(model, updates)
    forced, generated = accuracy(model)
    result = {"variant": variant, "seed": seed, "updates": len(losses), "of": updates}
    result |= {"loss": statistics.mean(losses[-max(1, updates // 20) :]), "forced": forced, "generated": generated}
    return {**result, "seconds": time.monotonic() - start}


def report_claims() -> str:
    """Return the tables of what needs no training, in Markdown."""
    of_scores = ["variance", "entropy", "norm of the Jacobian"]
    scores = [
        [f"{d_k}", *(f"{value:.3g}" for power in (0, 0.5) for value in scores_and_softmax(d_k, d_k**-power))]
        for d_k in (1, 4, 16, 64, 256, 1024)
    ]
    patches = {"with positions": None, "without": without_positions}
    shuffled = [[name, *(f"{value:.1e}" for value in shuffled_outputs(patches[name]))] for name in patches]
    patches = {"the paper's": None, "without residuals": without_residuals}
    patches["without normalisation"] = without_normalisation
    layers = [
        [name, *(f"{apart:.2g} / {std:.2f}" for apart, std in layer_by_layer(patch))]
        for name, patch in patches.items()
    ]
    future = [f"{gradient_from_the_future(patch):.2g}" for patch in (None, without_causal_mask)]
    return "\n\n".join(
        [
            "Scores q . k of unit components, and their softmax over 32 keys (entropy at most 3.47 nats): "
            "`test_the_variance_of_scores_is_d_k_unless_they_are_scaled`, "
            "`test_a_softmax_of_large_scores_lets_no_gradient_by`",
            markdown_table(["d_k", *of_scores, "scaled: variance", *of_scores[1:]], scores),
            f'"{SENTENCES[0]}" and "{SENTENCES[1]}", largest differences in float64: '
            "`test_without_positions_outputs_are_permuted_not_changed`",
            markdown_table(["", "each word's encoder output", "logits of the same target"], shuffled),
            "Six encoder layers before training, in float64, after each: 1 - cosine between two positions / standard "
            "deviation of a position's components: `test_without_residuals_positions_become_alike`, "
            "`test_normalisation_keeps_the_scale_of_every_position`",
            markdown_table(["", *"123456"], layers),
            "Largest derivative of a logit by a later position of the target: "
            f"{future[0]} with the causal mask, {future[1]} without: `test_the_causal_mask_is_what_hides_the_future`",
        ]
    )


def report_runs(results: list[Result], updates: int) -> str:
    """Return the table of what was trained, in Markdown."""
    rows = []
    for variant in VARIANTS:
        if own := [result for result in results if result["variant"] == variant]:
            broken = [str(each["updates"]) for each in own if not math.isfinite(each["loss"])]
            loss = f"not finite at update {', '.join(broken)}" if broken else over_seeds(own, "loss", 3)
            right = [over_seeds(own, name, scale=100) for name in ("forced", "generated")]
            rows.append([variant, loss, *right, str(len(own))])
    columns = ["", "training loss", "% right, given the true symbols before", "% right, generated", "seeds"]
    heading = f"Reversing {LENGTH} symbols, {updates:,} updates of {BATCH} sequences:"
    return f"{heading}\n\n{markdown_table(columns, rows)}"


def read_output(path: Path, runs: list[tuple[str, int]], updates: int) -> list[Result]:
    """Return what runs have left in the file of `--output`; raise a ValueError if that is something else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        text = path.read_text(encoding="utf-8")
        results = [each for each in json.loads(text or "[]") if (each["variant"], each["seed"]) in runs]
    except OSError as error:
        raise ValueError(f"--output {path} cannot be written: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"--output {path} is something else: choose another, or delete it") from None
    if any(result.get("of") != updates for result in results):
        raise ValueError(f"--output {path} is of runs of other length: choose another, or delete it")
    return results


def main() -> None:
    """Print the claims, do the runs that are missing, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser, seeds=(1, 2, 3))
    parser.add_argument("--updates", type=int, default=500, help="updates of each run (default: 500)")
    parser.add_argument("--output", type=Path, help="JSON file for what each run measures")
    options = parser.parse_args()
    for name in ("updates", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    runs = [(variant, seed) for seed in dict.fromkeys(options.seeds) for variant in VARIANTS]
    try:
        results = read_output(options.output, runs, options.updates) if options.output else []
    except ValueError as error:
        parser.error(str(error))
    todo = [
        (*run, options.updates) for run in runs if run not in {(each["variant"], each["seed"]) for each in results}
    ]
    print(report_claims(), flush=True)

    def report_end(run: tuple[str, int, int], result: Result | None, left: float) -> None:
        if result is None:
            sys.exit(f"reproduce_ablations.py: {run[0]}, seed {run[1]}: failed, see above")
        results.append(result)
        if options.output:
            write_whole(options.output, json.dumps(results, indent=1))
        line = f"{len(results)}/{len(runs)} {run[0]}, seed {run[1]}: loss {result['loss']:.3f}, "
        line += f"{100 * result['forced']:.0f} % right, generated {100 * result['generated']:.0f} %, "
        print(f"{line}{result['seconds']:.0f} s; about {left:.1f} minutes left", flush=True)

    stopped = False
    try:
        side_by_side(measure, todo, options.workers, report_end)
    except KeyboardInterrupt:
        stopped = True
    print(f"\n{report_runs(results, options.updates)}")
    if stopped:
        sys.exit("stopped" + f"; the same command goes on from {options.output}" * bool(options.output))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_program(main)
