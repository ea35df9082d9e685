"""Options that several verbs share, and checks of values that need neither torch nor a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

# Repeated from the rooms that use them, because importing those takes seconds.
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
FIGURE_FORMATS = (".png", ".svg", ".pdf")
EFFECTS = ("perplexity", "bleu", "none")
EXPORT_FORMATS = ("ctranslate2", "onnx")


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that translates."""
    add = parser.add_argument
    add("--num_beams", type=int, help="beams of the search, 1 for greedy (default: the model's generation config)")
    precision_help = f"{', '.join(PRECISIONS)}: fewer bits are faster, on CPU int8 the most (default: float32)"
    add("--precision", default="float32", help=precision_help)
    batch_help = "source tokens translated together, times beams (default: 4096)"
    add("--batch_tokens", type=int, default=4096, help=batch_help)


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that reads pairs of sentences from a corpus."""
    add = parser.add_argument
    add("--corpus", help="corpus, named as for train (default: the one the model was trained on)")
    add("--target_path", help="file of the target side, if the corpus is a text file")
    add("--source_column", default="source", help="column of the source side (default: source)")
    add("--target_column", default="target", help="column of the target side (default: target)")
    add("--split", default="test", help="train, validation or test (default: test)")


def require_choice(options: argparse.Namespace, name: str, choices: Sequence[str]) -> None:
    """Raise `ValueError` if the option `name` was given and is none of `choices`."""
    value = getattr(options, name)
    if value is not None and value not in choices:
        raise ValueError(f"--{name} is {value!r}; expected one of {', '.join(choices)}")


def require_at_least(options: argparse.Namespace, **least: int) -> None:
    """Raise `ValueError` if one of the options named was given and is below its least value, or not a number."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:  # unlike `value < bound`, this refuses NaN
            raise ValueError(f"--{name} must be at least {bound}, got {value}")


def require_writable(*paths: Path | None) -> None:
    """Raise `FileNotFoundError` for a path that is a folder, or lies in none; None is passed over."""
    for path in paths:
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise FileNotFoundError(f"{path}: not a file in a folder that exists")
