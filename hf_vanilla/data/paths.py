"""Paths as people give them. Nothing but the standard library is imported, so that usage errors come at once."""

import os
from collections.abc import Sequence
from pathlib import Path


def local_path(path: str | Path) -> Path:
    """Return a path in which a leading `~` or `~user` stands for the home folder."""
    return Path(os.path.expanduser(path))


def local_name(name: str) -> str:
    """Return what may be a path as [`local_path`] does; other names, such as ids on the Hub, as they are."""
    return str(local_path(name)) if name.startswith("~") else name


def split_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of columns that are given one by one, or with commas between them, or both."""
    given = [names] if isinstance(names, str) else names or []
    return tuple(name.strip() for each in given for name in each.split(","))
