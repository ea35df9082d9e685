"""Options that several verbs share, and checks of values that need neither torch nor a model."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from hf_vanilla.data.paths import local_name, local_path

AddArgument = Callable[..., argparse.Action]  # the `add_argument` of a verb's parser
# Repeated from the rooms that use them, because importing those takes seconds.
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
FIGURE_FORMATS = (".png", ".svg", ".pdf")
EFFECTS = ("perplexity", "bleu", "none")
EXPORT_FORMATS = ("ctranslate2", "onnx", "html")
PAGE_PRECISIONS = ("float16", "int8")
PAGE_LANGUAGES = ("en", "ko")
MAX_MEGABYTES = 150
SPACES = ("gradio", "static")
NAMES = ("model", "name", "compare", "config", "corpus", "target_path")  # of options that may be paths
SPLITS = ("train", "validation", "test")


def add_search_options(add: AddArgument) -> None:
    """Add the options of a verb that translates."""
    add("--num_beams", type=int, help="beams of the search, 1 for greedy (default: the model's generation config)")
    add("--precision", default="float32", help=f"{', '.join(PRECISIONS)}, the fastest on CPUs (default: float32)")
    add("--batch_tokens", type=int, default=4096, help="source tokens per batch, times beams (default: 4096)")


def add_corpus_options(add: AddArgument) -> None:
    """Add the options of a verb that reads pairs of sentences from a corpus."""
    add("--corpus", help="corpus, named as for train (default: the one the model was trained on)")
    add("--target_path", help="file of the target side, if the corpus is a text file")
    add("--source_column", help="column of the source side (default: the run's, or source)")
    add("--target_column", help="column of the target side, or several: a,b (default: the run's, or target)")
    add("--columns", help="names of the columns of a CSV or TSV file without a header: source,target")
    add("--split", default="test", help="train, validation or test (default: test)")


def expand_paths(options: argparse.Namespace) -> None:
    """Replace a leading `~` of options that are, or may be, paths by the home folder; texts stay as they are."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, local_path(value))
        elif isinstance(value, list):
            setattr(options, name, [local_path(each) if isinstance(each, Path) else each for each in value])
        elif isinstance(value, str) and name in NAMES:
            setattr(options, name, local_name(value))


def require(options: argparse.Namespace, **allowed: int | Iterable[str]) -> None:
    """Raise `ValueError` if an option that was given is below the number, or none of the choices, allowed for it."""
    for name, bound in allowed.items():
        value = getattr(options, name)
        if value is None:
            continue
        if isinstance(bound, int) and not value >= bound:  # unlike `value < bound`, this refuses NaN
            raise ValueError(f"--{name} must be at least {bound}, got {value}")
        if not isinstance(bound, int) and value not in bound:
            raise ValueError(f"--{name} is {value!r}; expected one of {', '.join(bound)}")


def require_writable(*paths: Path | None) -> None:
    """Raise `FileNotFoundError` for a path that is a folder, or lies in none; None is passed over."""
    for path in paths:
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise FileNotFoundError(f"{path}: not a file in a folder that exists")


def require_files(*paths: str | Path | None) -> None:
    """Raise `FileNotFoundError` for a path that is a folder, or not there; a pipe or a device will do, and so None."""
    for path in paths:
        if path and (not Path(path).expanduser().exists() or Path(path).expanduser().is_dir()):
            raise FileNotFoundError(f"{path}: no such file")


def require_model(*names: str | Path | None) -> None:
    """Raise an error for what is neither a folder of a model nor may be the id of one on the Hub; None is passed over.

    It is a FileNotFoundError if there is no such folder, and a ValueError if there is no model in it.
    """
    for name in names:
        folder = Path(name or ".")
        if name is None or (not folder.exists() and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name))):
            continue
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: no such folder")
        if not any((folder / each).exists() for each in ("config.json", "adapter_config.json")):
            raise ValueError(f"{name}: a folder without a model: it has no config.json")


def require_folder_to_write(folder: str | Path) -> None:
    """Raise `ValueError` if a folder, or the nearest one above it that exists, is a file or cannot be written to."""
    folder = Path(folder).expanduser().absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{folder}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: {nearest} cannot be written to")
