"""Translations a second of ours beside those of its peers: the same shapes, sources and lengths, in turn.

    python scripts/benchmark_decoding.py                              # the paper's base model, all points
    python scripts/benchmark_decoding.py --batch 1 32 --beams 4 --rounds 5
    python scripts/benchmark_decoding.py --peers ctranslate2-int8 --precision int8
    python scripts/benchmark_decoding.py --by_length                  # recurrent models beside ours, small

Weights are random, sources have 20 to 32 tokens, and outputs exactly 40. Each peer is a process of its own, for the
thread pools of two engines in one process disturb each other, and they take turns. Prints output tokens a second, how
many times as fast as transformers' Marian that is (ratios of turns that followed each other: median and quartiles),
and the most memory that a process had beyond what it had with its model loaded.

With `--by_length` it prints what a token costs where targets are longer and longer: the state of a recurrent model
does not grow, the cache of a Transformer does.
"""

import argparse
import multiprocessing
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peers.measuring import DEVICE, seconds_of
from peers.models import SIZES, configure
from transformers import AutoModelForSeq2SeqLM
from transformers.utils import logging

import hf_vanilla
from hf_vanilla import IncrementalDecoder, beam_search
from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import use_onednn_for_float32

PEERS = ("marian", "bart", "ctranslate2-float32", "ctranslate2-int8")
TOKENS = 40
TARGET_LENGTHS = (64, 128, 256, 512, 1024)


def build(name: str, size: str, exported: str) -> Callable[[Any, Any, int], object]:
    """Return a function that translates ids and their mask, (sentences, 32) each, with a number of beams."""
    if name.startswith("ctranslate2"):
        import ctranslate2

        threads = {"inter_threads": 1, "intra_threads": torch.get_num_threads()}
        engine = ctranslate2.Translator(exported, compute_type=name.split("-")[1], **threads)

        def by_ctranslate2(ids: Any, mask: Any, beams: int) -> object:
            sources = [[str(i) for i in row[:n]] for row, n in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
            lengths = {"max_decoding_length": TOKENS, "min_decoding_length": TOKENS}
            return engine.translate_batch(sources, beam_size=beams, length_penalty=0.6, **lengths)

        return by_ctranslate2
    if name in ("marian", "bart"):
        model = AutoModelForSeq2SeqLM.from_config(configure(name, SIZES[size])).eval().to(DEVICE)
        lengths = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
        return lambda ids, mask, beams: model.generate(ids, attention_mask=mask, num_beams=beams, **lengths)
    from hf_vanilla.translation.translator import pack_linears

    ours, precision = random_model(size).to(DEVICE), name.removeprefix("hf_vanilla ")
    if precision == "bfloat16":
        ours, precision = ours.bfloat16(), "float32"
    decoder = IncrementalDecoder(ours, precision)
    encoder: Any = ours.get_encoder() if precision == "float32" else pack_linears(ours.get_encoder(), precision)
    options = {"max_new_tokens": TOKENS, "eos_token_id": None, "custom_generate": beam_search}

    def by_us(ids: Any, mask: Any, beams: int) -> object:
        inputs = {"attention_mask": mask, "encoder_outputs": encoder(input_ids=ids, attention_mask=mask)}
        return ours.generate(ids, **inputs, num_beams=beams, **options, incremental_decoder=decoder)

    return by_us


def random_model(size: str) -> Any:
    """Return this package's Transformer with random weights."""
    torch.manual_seed(0)
    shape, tokens = SIZES[size], {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"d_model": shape.width, "d_ff": shape.inner, "h": shape.heads, "N": shape.layers}
    config = hf_vanilla.VanillaConfig(vocab_size=shape.vocabulary, **sizes, **tokens)
    return hf_vanilla.VanillaForConditionalGeneration(config).eval()


def export(size: str, folder: str) -> None:
    """Write the model for CTranslate2, with ids as text for its tokens."""
    from hf_vanilla.conversion.export import export_to_ctranslate2

    model = random_model(size)
    tokenizer = mock.MagicMock(unk_token="3", __len__=lambda _: model.config.vocab_size)
    tokenizer.convert_ids_to_tokens = lambda ids: [str(i) for i in ids]
    export_to_ctranslate2(model, tokenizer, Path(folder) / "model")


def memory(name: str) -> float:
    """Return the MiB of this process: `VmRSS` is what it has, `VmHWM` the most since that was last reset; of its GPU,
    if it has one."""
    if DEVICE == "cuda":
        return (torch.cuda.memory_allocated() if name == "VmRSS" else torch.cuda.max_memory_allocated()) / 2**20
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def work(name: str, size: str, threads: int | None, exported: str, connection: Any) -> None:
    """Run a peer's process, which answers (sentences, beams) with seconds and MiB."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(threads or torch.get_num_threads())
    if name.startswith("hf_vanilla"):
        use_onednn_for_float32()
    translate = build(name, size, exported)
    loaded, device = memory("VmRSS"), "cpu" if name.startswith("ctranslate2") else DEVICE
    connection.send("ready")
    for sentences, beams in iter(connection.recv, None):
        torch.manual_seed(1)
        ids = torch.randint(5, SIZES[size].vocabulary, (sentences, 32)).to(device)
        mask = (torch.arange(32) < torch.linspace(32, 20, sentences).long()[:, None]).long().to(device)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        with torch.inference_mode():
            seconds = seconds_of(partial(translate, ids, mask, beams))
        connection.send((seconds, memory("VmHWM") - loaded))


def by_length(rounds: int) -> None:
    """Print the milliseconds a token of greedy search, 8 sources of 32 tokens, by the length of the targets."""
    shape, models = SIZES["small"], dict[str, Any]()
    sizes = {"vocab_size": shape.vocabulary, "hidden_size": shape.width, "N": shape.layers}
    for kind in ("none", "additive", "dot", "local"):
        config = hf_vanilla.RecurrentConfig(**sizes, attention_type=kind)
        models[f"recurrent, {kind}"] = hf_vanilla.RecurrentForConditionalGeneration(config).eval().to(DEVICE)
    models["Transformer"] = random_model("small").to(DEVICE)
    ids = torch.randint(5, shape.vocabulary, (8, 32), device=DEVICE)
    print("| ms a token | " + " | ".join(f"{length} tokens" for length in TARGET_LENGTHS) + " |")
    print("|---" * (1 + len(TARGET_LENGTHS)) + "|")
    for name, model in models.items():
        cells = []
        for length in TARGET_LENGTHS:
            options = {"attention_mask": torch.ones_like(ids), "do_sample": False}
            options |= {"min_new_tokens": length, "max_new_tokens": length}
            seconds = [seconds_of(partial(model.generate, ids, **options)) for _ in range(rounds)]
            cells.append(f"{1000 * statistics.median(seconds) / length:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def print_table(measured: dict[str, list[tuple[float, float]]], sentences: int) -> None:
    """Print a row for each peer from the seconds and MiB of its turns, of which the first one does not count."""
    print("| | tokens/s | times | quartiles | memory, MiB |\n|---|---|---|---|---|")
    for name, turns in measured.items():
        seconds = [each for each, _ in turns[1:]]
        ratios = [theirs / own for (theirs, _), own in zip(measured["marian"][1:], seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        speed, memory = sentences * TOKENS / statistics.median(seconds), max(each for _, each in turns)
        print(f"| {name} | {speed:,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} | {memory:,.0f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "small"), default="base")
    numbers: dict[str, Any] = {"nargs": "+", "type": int}
    parser.add_argument("--batch", **numbers, default=[1, 8, 32, 128], help="sentences (default: 1 8 32 128)")
    parser.add_argument("--beams", **numbers, default=[1, 4], help="(default: 1 4)")
    parser.add_argument("--precision", nargs="+", default=["float32", "float16", "int8"], help="of ours")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="besides Marian (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--by_length", action="store_true", help="only what a token costs in long targets")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.by_length:
        by_length(options.rounds)
        return
    context = multiprocessing.get_context("spawn")
    names = list(dict.fromkeys(["marian", *options.peers])) + [f"hf_vanilla {p}" for p in options.precision]
    connections: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if any(name.startswith("ctranslate2") for name in names):
            try:
                export(options.size, folder)
            except ImportError as error:
                print(error)
                names = [name for name in names if not name.startswith("ctranslate2")]
        for name in names:
            connections[name], other = context.Pipe()
            arguments = (name, options.size, options.threads, f"{folder}/model", other)
            context.Process(target=work, args=arguments, daemon=True).start()
            connections[name].recv()
        for beams in options.beams:
            for sentences in options.batch:
                measured: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
                for _ in range(options.rounds + 1):
                    for name in names:
                        connections[name].send((sentences, beams))
                        measured[name].append(connections[name].recv())
                        time.sleep(0.25)  # CTranslate2's threads spin for a while after their work
                print(f"\n{options.size}, {sentences} sentences, beam {beams}")
                print_table(measured, sentences)
        for connection in connections.values():
            connection.send(None)


if __name__ == "__main__":
    run_program(main)
