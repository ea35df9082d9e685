"""`hf-vanilla VERB ...`: finds the verb's parser and function, and turns errors into one line.

The verbs' modules import torch and what needs it inside their functions, so that help and mistakes answer at once.
"""

import argparse
import difflib
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hf_vanilla import __version__
from hf_vanilla.cli import attend, convert, env, evaluate, hub, train, translate

Parser = argparse.ArgumentParser
# For each verb what declares its options, if it has any, and what runs it, whose docstring is the verb's help.
VERBS: dict[str, tuple[Callable[[Parser], None] | None, Callable[[argparse.Namespace], None]]] = {
    **train.VERBS,
    **translate.VERBS,
    **evaluate.VERBS,
    **attend.VERBS,
    **convert.VERBS,
    **hub.VERBS,
    **env.VERBS,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb that `arguments` (by default the command line's) begin with.

    Raises:
        SystemExit: with a line that says what would be right if the verb refuses its input; with 2 if there is no such
            verb or option; with 130 if the user interrupts it.
    """
    parser, verbs = make_parsers()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    options, rest = parser.parse_known_args(arguments)
    if options.verb == "train":
        options.overrides = rest
    elif rest:
        refuse_arguments(verbs[options.verb], rest)
    logging.basicConfig(format="%(message)s")
    # The package logs, for one, what is dropped from a corpus; of many processes only the first says so.
    logging.getLogger("hf_vanilla").setLevel(logging.WARNING if int(os.environ.get("RANK", 0)) else logging.INFO)
    try:
        VERBS[options.verb][1](options)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"hf-vanilla {options.verb}: {error}")
    except KeyboardInterrupt:
        print(f"hf-vanilla {options.verb}: interrupted", file=sys.stderr)
        sys.exit(130)


def make_parsers() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the whole command line, and that of each verb."""
    parser = Parser(prog="hf-vanilla", description='Train and use the Transformer of "Attention Is All You Need".')
    parser.add_argument("--version", action="version", version=f"hf-vanilla {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (add_options, run) in VERBS.items():
        help, _, example = (inspect.getdoc(run) or "").partition("\n\n")
        # "resolve", because `train` replaces the `--help` that each parser has.
        verb = verbs.add_parser(name, help=help, allow_abbrev=False, conflict_handler="resolve")
        verb.description, verb.epilog = help, example
        if add_options:
            add_options(verb)
    return parser, verbs.choices


def refuse_arguments(parser: Parser, arguments: Sequence[str]) -> NoReturn:
    """Exit with the usage of a verb, the arguments that it does not know, and for each the option nearest to it."""
    known = re.findall(r"--\w+", parser.format_usage())
    unknown = [argument for argument in arguments if argument.startswith("--")]
    nearest = [option for argument in unknown for option in difflib.get_close_matches(argument, known, n=1)]
    hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
    parser.error(f"unrecognized arguments: {' '.join(arguments)}{hint}")
