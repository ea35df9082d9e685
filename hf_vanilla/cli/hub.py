"""`hf-vanilla push` and `hf-vanilla card`: models on the Hub, and their pages."""

import argparse
from pathlib import Path


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a verb that writes a card."""
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", help="languages, such as en de (default: the built-in corpus's)"
    )
    license_help = "license of the weights (default: apache-2.0 if `hf-vanilla train` began with new ones, else none)"
    parser.add_argument("--license", help=license_help)


def _add_push_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="folder of a run, or of a model and its tokenizer")
    add("repo_id", help="repository, as user/name; it is made if it is not there")
    add_card_options(parser)
    add("--private", action="store_true", default=None, help="hide the repository from others, if it is made")
    add("--revision", default="main", help="branch; it is made if it is not there (default: main)")
    add("--tag", help="name to give to this state, such as v1.0")
    add("--message", help="message of the commit (default: what changed)")
    add("--max_shard_size", default="5GB", help="largest file of weights (default: 5GB)")
    add("--space", action="store_true", help="also make a Space that translates and shows attention")
    add("--dry_run", "--dry-run", action="store_true", help="print files and sizes, and send nothing")


def run_push(options: argparse.Namespace) -> None:
    """Send a model to the Hub, with card, code and records, after checking that it loads without hf_vanilla.

    example: hf-vanilla push runs/verses_demo user/verses --tag v1.0
    """
    from hf_vanilla.hub.push import push

    names = ("private", "revision", "tag", "message", "languages", "license", "space", "max_shard_size", "dry_run")
    page = push(options.model, options.repo_id, **{name: getattr(options, name) for name in names})
    print(f"{'would be' if options.dry_run else 'see'} {page}")


def _add_card_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder of a run, or of a model and its tokenizer")
    parser.add_argument("repo_id", help="user/name, for the code in the card")
    parser.add_argument("folder", type=Path, help="folder to write to")
    add_card_options(parser)


def run_card(options: argparse.Namespace) -> None:
    """Write the card of a model, and the records and pictures that it is made of.

    example: hf-vanilla card runs/verses_demo user/verses model_cards/verses
    """
    from hf_vanilla.hub.push import write_card

    write_card(options.model, options.folder, options.repo_id, options.languages, options.license)
    print(f"written to {options.folder}")


VERBS = {"push": (_add_push_options, run_push), "card": (_add_card_options, run_card)}
