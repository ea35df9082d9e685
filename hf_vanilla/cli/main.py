"""`hf-vanilla VERB ...`: finds the verb's parser and function, and turns errors into one line.

The verbs' modules import torch and what needs it inside their functions, so that help and mistakes answer at once.
"""

import inspect
import logging
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from hf_vanilla import __version__
from hf_vanilla.cli import attend, convert, evaluate, hub, train, translate
from hf_vanilla.cli.options import expand_paths
from hf_vanilla.cli.streams import decode_arguments, plain_streams
from hf_vanilla.training.yaml_files import nearest

# How long threads of GNU's OpenMP spin while they wait for each other. By default it is ten times as long: beside one
# other busy process they then keep each other from the cores, and training takes 2 to 3 times as long as with this.
SPIN_COUNT = "30000"


def run_env(options: Namespace) -> None:
    """Print versions, hardware and settings, for a report of a defect or of a speed.

    example: hf-vanilla env
    """
    from hf_vanilla.environment import describe, keep_freed_memory, use_onednn_for_float32

    keep_freed_memory(), use_onednn_for_float32()  # as the other verbs do
    print(*(f"{name}: {value}" for name, value in describe().items()), sep="\n")


# For each verb what declares its options and what runs it, whose docstring is the verb's help.
VERBS = train.VERBS | translate.VERBS | evaluate.VERBS | attend.VERBS | convert.VERBS | hub.VERBS
VERBS |= {"env": (lambda add: None, run_env)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb that `arguments` (by default the command line's) begin with.

    It exits with a line that says what is wrong, with 2 for an unknown verb or option, with 130 if
    interrupted, and with 141 if nobody reads what it writes.
    """
    with plain_streams("hf-vanilla"):
        _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: list[str]) -> None:
    parser, verbs = make_parsers()
    try:
        arguments = decode_arguments(arguments)
    except ValueError as error:
        parser.error(str(error))
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    if not arguments[0].startswith("-") and arguments[0] not in VERBS:
        hint = nearest(arguments[0], VERBS) or f"; expected one of {', '.join(VERBS)}"
        parser.error(f"unknown verb {arguments[0]!r}{hint}")
    options, rest = parser.parse_known_args(arguments)
    verb = vars(options).pop("verb")  # the rest are the verb's own
    if verb == "train":
        options.overrides = rest
    elif rest:
        known = sorted(set(re.findall(r"--\w+", verbs[verb].format_usage())))
        unknown = [argument.split("=")[0] for argument in rest if argument.startswith("--")]
        hint = next(filter(None, (nearest(argument, known) for argument in unknown)), "").replace("'", "")
        verbs[verb].error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # torch, which reads it, is not imported yet
    logging.basicConfig(format="%(message)s")
    # The package logs, for one, what is dropped from a corpus; of many processes only the first says so.
    logging.getLogger("hf_vanilla").setLevel(logging.WARNING if int(os.environ.get("RANK", 0)) else logging.INFO)
    try:
        expand_paths(options)
        VERBS[verb][1](options)
    except BrokenPipeError:
        raise  # whoever read the output has gone: nothing is wrong
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"hf-vanilla {verb}: {error}")
    except KeyboardInterrupt:
        print(f"hf-vanilla {verb}: interrupted", file=sys.stderr)
        sys.exit(130)


def make_parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of the whole command line, and that of each verb."""
    parser = ArgumentParser(
        prog="hf-vanilla", description='Train and use the Transformer of "Attention Is All You Need".'
    )
    parser.add_argument("--version", action="version", version=f"hf-vanilla {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (add_options, run) in VERBS.items():
        help, _, example = (inspect.getdoc(run) or "").partition("\n\n")
        # "resolve", because `train` replaces the `--help` that each parser has.
        verb = verbs.add_parser(name, help=help, allow_abbrev=False, conflict_handler="resolve")
        verb.description, verb.epilog = help, example
        add_options(verb.add_argument)
    return parser, verbs.choices
