"""`hf-vanilla push` and `hf-vanilla card`: models on the Hub, and their pages."""

import argparse
from pathlib import Path

from hf_vanilla.cli.options import SPACES, AddArgument, require, require_folder_to_write, require_model


def add_model_options(add: AddArgument) -> None:
    """Add the arguments that both verbs take."""
    add("source", type=Path, metavar="model", help="folder of a run, or of a model and its tokenizer")
    add("--languages", nargs="+", metavar="CODE", help="languages, such as en de (default: the built-in corpus's)")
    add("--license", help="license of the weights (default: apache-2.0 for new ones of `hf-vanilla train`, else none)")


def _add_push_options(add: AddArgument) -> None:
    add_model_options(add)
    add("repo_id", help="repository, as user/name; it is made if it is not there")
    add("--private", action="store_true", default=None, help="hide the repository from others, if it is made")
    add("--revision", default="main", help="branch; it is made if it is not there (default: main)")
    add("--tag", help="name to give to this state, such as v1.0")
    add("--message", help="message of the commit (default: what changed)")
    add("--max_shard_size", default="5GB", help="largest file of weights (default: 5GB)")
    kinds = "gradio, on a server (the default), or static, one page in the reader's browser"
    add(
        "--space",
        nargs="?",
        const="gradio",
        help=f"also make a Space that runs the model and shows attention: {kinds}",
    )
    twin = "also publish the weights as user/name-FAMILY: as the class of transformers that computes the same, without"
    add("--twin", action="store_true", help=f"{twin} custom code and with ONNX graphs for transformers.js")
    add("--dry_run", "--dry-run", action="store_true", help="print files and sizes, and send nothing")


def run_push(options: argparse.Namespace) -> None:
    """Send a model to the Hub, with card, code and records, after checking that it loads without hf_vanilla.

    example: hf-vanilla push runs/verses_demo user/verses --tag v1.0
    """
    require(options, space=SPACES)
    require_model(options.source)
    from hf_vanilla.hub.push import push

    print("would be" if options.dry_run else "see", push(**vars(options)))


def _add_card_options(add: AddArgument) -> None:
    add_model_options(add)
    add("repo_id", help="user/name, for the code in the card")
    add("folder", type=Path, help="folder to write to")
    add("--space", action="store_true", help="link the Space that a push with --space made")
    add("--twin", default="", metavar="user/NAME", help="link the twin that a push with --twin made, by its name")


def run_card(options: argparse.Namespace) -> None:
    """Write the card of a model, and the records and pictures that it is made of.

    example: hf-vanilla card runs/verses_demo user/verses model_cards/verses
    """
    require_folder_to_write(options.folder)
    from hf_vanilla.hub.push import write_card

    write_card(**vars(options))
    print(f"written to {options.folder}")


VERBS = {"push": (_add_push_options, run_push), "card": (_add_card_options, run_card)}
