"""`hf-vanilla translate` and `hf-vanilla generate`: texts in, texts out, as they come."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hf_vanilla.cli.options import PRECISIONS, add_search_options, require_at_least, require_choice, require_writable

if TYPE_CHECKING:
    from hf_vanilla.translation.translator import Translator


def load_translator(name: str, options: argparse.Namespace) -> "Translator":
    """Return the translator of a model, with the options of `add_search_options`."""
    require_choice(options, "precision", PRECISIONS)
    require_at_least(options, num_beams=1, batch_tokens=1)
    from hf_vanilla.environment import keep_freed_memory
    from hf_vanilla.translation.translator import Translator

    keep_freed_memory()
    return Translator.from_pretrained(name, precision=options.precision, batch_tokens=options.batch_tokens)


def _add_translate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or Hub id of a sequence-to-sequence model")
    parser.add_argument("--input", type=Path, help="text file, one sentence a line (default: standard input)")
    parser.add_argument("--output", type=Path, help="file to write the translations to (default: standard output)")
    add_search_options(parser)


def run_translate(options: argparse.Namespace) -> None:
    """Translate a text line by line.

    example: echo 'In the beginning God made heaven.' | hf-vanilla translate runs/verses_demo
    """
    if not options.input and sys.stdin is None:
        raise ValueError("standard input is closed: give --input")
    if options.input and (not options.input.exists() or options.input.is_dir()):
        raise FileNotFoundError(f"{options.input}: no such file")
    require_writable(options.output)
    translator = load_translator(options.model, options)
    from hf_vanilla.translation.files import identity_of, translate_file

    # What exists and is no file is a pipe or a device: it must be written to, not replaced.
    replaceable = options.output and (options.output.is_file() or not options.output.exists())
    if options.input and options.input.is_file() and replaceable:
        names = ("precision", "batch_tokens", "num_beams")
        identity = identity_of(translator, options.model, **{name: getattr(options, name) for name in names})
        undecodable = translate_file(translator, options.input, options.output, identity, num_beams=options.num_beams)
    else:
        undecodable = translate_stream(translator, options)
    refuse_undecodable(undecodable, options.input or "standard input", "left empty")


def translate_stream(translator: "Translator", options: argparse.Namespace) -> list[int]:
    """Translate lines as they come, and return the numbers, from 1, of those that are not UTF-8."""
    from hf_vanilla.translation.files import texts_of_lines
    from hf_vanilla.translation.translator import POOL

    undecodable: list[int] = []
    with ExitStack() as opened:
        lines = opened.enter_context(options.input.open("rb")) if options.input else sys.stdin.buffer
        out = sys.stdout
        if options.output:
            out = opened.enter_context(options.output.open("w", encoding="utf-8", newline="\n"))
        elif hasattr(out, "reconfigure"):
            out.reconfigure(encoding="utf-8")
        # Somebody who types at a terminal waits for each line; a pipe's lines are translated many at a time.
        pool = 1 if lines.isatty() else POOL
        for text in translator.stream(texts_of_lines(lines, undecodable), pool=pool, num_beams=options.num_beams):
            out.write(f"{text}\n")
            out.flush()
    return undecodable


def refuse_undecodable(numbers: Sequence[int], name: str | Path, outcome: str) -> None:
    """Raise `ValueError` that names the first ten of the lines that are not UTF-8, if there are any."""
    if numbers:
        some = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
        raise ValueError(f"{name}: not UTF-8, and {outcome}: line {some}")


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder or Hub id of a causal language model")
    add("--prompt", action="append", help="beginning of a text; may be repeated (default: lines of standard input)")
    add("--max_new_tokens", type=int, default=100, help="longest continuation (default: 100)")
    temperature_help = "divisor of the logits before sampling; 0 takes the most probable token (default: 1)"
    add("--temperature", type=float, default=1.0, help=temperature_help)
    add("--top_k", type=int, default=50, help="number of most probable tokens to sample from, 0 for all (default: 50)")
    top_p_help = "sample from the fewest tokens that have this probability together (default: 1)"
    add("--top_p", type=float, default=1.0, help=top_p_help)
    add("--num_beams", type=int, default=1, help="above 1: beam search with this many, no sampling (default: 1)")
    add("--seed", type=int, default=0, help="seed of the sampling (default: 0)")


def run_generate(options: argparse.Namespace) -> None:
    """Continue texts with a language model, token by token.

    example: hf-vanilla generate runs/causal_lm --prompt 'In the beginning'
    """
    require_at_least(options, max_new_tokens=1, temperature=0, top_k=0, num_beams=1)
    if not 0 < options.top_p <= 1:
        raise ValueError(f"--top_p must be above 0 and at most 1, got {options.top_p}")
    if not options.prompt and sys.stdin is None:
        raise ValueError("standard input is closed: give --prompt")
    from transformers import set_seed

    from hf_vanilla.environment import keep_freed_memory
    from hf_vanilla.translation.files import texts_of_lines
    from hf_vanilla.translation.text_generation import generate_texts

    keep_freed_memory()
    set_seed(options.seed)
    undecodable: list[int] = []
    names = ("max_new_tokens", "num_beams", "temperature", "top_k", "top_p")
    prompts = options.prompt or texts_of_lines(sys.stdin.buffer, undecodable)
    generate_texts(options.model, prompts, **{name: getattr(options, name) for name in names})
    refuse_undecodable(undecodable, "standard input", "taken for empty")


VERBS = {"translate": (_add_translate_options, run_translate), "generate": (_add_generate_options, run_generate)}
