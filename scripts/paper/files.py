"""Write files whole."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either whole or not there, even if this is interrupted."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
