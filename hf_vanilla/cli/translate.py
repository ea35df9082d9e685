"""`hf-vanilla translate` and `hf-vanilla generate`: texts in, texts out, as they come."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import hf_vanilla
from hf_vanilla.cli.options import (
    PRECISIONS,
    AddArgument,
    add_search_options,
    require,
    require_files,
    require_model,
    require_writable,
)


def check_search(options: argparse.Namespace) -> None:
    """Raise an error for values of `add_search_options` that no model takes, and for a model that is not there."""
    require(options, precision=PRECISIONS, num_beams=1, batch_tokens=1)
    require_model(options.model)


def load_translator(name: str, options: argparse.Namespace) -> "hf_vanilla.Translator":
    """Return the translator of a model, with the options of `add_search_options`."""
    check_search(options)
    from hf_vanilla.environment import keep_freed_memory

    keep_freed_memory()
    return hf_vanilla.Translator.from_pretrained(name, options.precision, batch_tokens=options.batch_tokens)


def _add_translate_options(add: AddArgument) -> None:
    add("model", help="folder or Hub id of a sequence-to-sequence model")
    add("--input", type=Path, help="text file, one sentence a line (default: standard input)")
    add("--output", type=Path, help="file to write the translations to (default: standard output)")
    add_search_options(add)
    add(
        "--n_best",
        type=int,
        help="write so many translations of each line: a JSON list of texts with scores, best first",
    )


def run_translate(options: argparse.Namespace) -> None:
    """Translate a text line by line.

    example: echo 'In the beginning God made heaven.' | hf-vanilla translate runs/verses_demo
    """
    source, target = options.input, options.output
    require(options, n_best=1)
    search = {"num_beams": options.num_beams, "n_best": options.n_best}
    if not source and sys.stdin is None:
        raise ValueError("standard input is closed: give --input")
    require_files(source)
    require_writable(target)
    translator = load_translator(options.model, options)
    from hf_vanilla.data.files import open_bytes
    from hf_vanilla.translation.files import identity_of, line_of, texts_of_lines, translate_file

    # What exists and is no file is a pipe or a device: it must be written to, not replaced.
    if source and source.is_file() and target and (target.is_file() or not target.exists()):
        settings = {"precision": options.precision, "batch_tokens": options.batch_tokens}
        identity = identity_of(translator, options.model, **settings, **search)
        undecodable = translate_file(translator, source, target, identity, **search)
    else:
        opened = open_bytes(source) if source else nullcontext(sys.stdin.buffer)
        written = target.open("w", encoding="utf-8", newline="\n") if target else nullcontext(sys.stdout)
        undecodable = []
        with opened as lines, written as out:
            # Somebody who types at a terminal waits for each line; a pipe's lines are translated many at a time.
            pool = 1 if lines.isatty() else None
            for translated in translator.stream(texts_of_lines(lines, undecodable), pool=pool, **search):
                print(line_of(translated), file=out, flush=True)
    refuse_undecodable(undecodable, source or "standard input", "left empty")


def refuse_undecodable(numbers: list[int], name: str | Path, outcome: str) -> None:
    """Raise `ValueError` that names the first ten of the lines that are not UTF-8, if there are any."""
    if numbers:
        some = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
        raise ValueError(f"{name}: not UTF-8, and {outcome}: line {some}")


def _add_generate_options(add: AddArgument) -> None:
    add("name", metavar="model", help="folder or Hub id of a causal language model")
    prompt_help = "beginning of a text; may be repeated (default: lines of standard input)"
    add("--prompt", action="append", dest="prompts", metavar="TEXT", help=prompt_help)
    add("--max_new_tokens", type=int, default=100, help="longest continuation (default: 100)")
    add("--temperature", type=float, default=1.0, help="divisor of logits; 0 takes the likeliest token (default: 1)")
    add("--top_k", type=int, default=50, help="number of most probable tokens to sample from, 0 for all (default: 50)")
    add("--top_p", type=float, default=1.0, help="sample from the fewest tokens with this probability (default: 1)")
    add("--num_beams", type=int, default=1, help="above 1: beam search with this many, no sampling (default: 1)")
    add("--seed", type=int, default=0, help="seed of the sampling (default: 0)")


def run_generate(options: argparse.Namespace) -> None:
    """Continue texts with a language model, token by token.

    example: hf-vanilla generate runs/causal_lm --prompt 'In the beginning'
    """
    require_model(options.name)
    require(options, max_new_tokens=1, temperature=0, top_k=0, num_beams=1)
    if not 0 < options.top_p <= 1:
        raise ValueError(f"--top_p must be above 0 and at most 1, got {options.top_p}")
    if not options.prompts and sys.stdin is None:
        raise ValueError("standard input is closed: give --prompt")
    from hf_vanilla.translation.files import texts_of_lines
    from hf_vanilla.translation.text_generation import generate_texts

    undecodable: list[int] = []
    options.prompts = options.prompts or texts_of_lines(sys.stdin.buffer, undecodable)
    generate_texts(**vars(options))
    refuse_undecodable(undecodable, "standard input", "taken for empty")


VERBS = {"translate": (_add_translate_options, run_translate), "generate": (_add_generate_options, run_generate)}
