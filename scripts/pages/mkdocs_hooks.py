"""The file that MkDocs loads, by its path: it makes the hooks importable as a part of `pages`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from pages.hooks import on_files, on_page_content, on_page_context, on_post_build  # noqa: E402

__all__ = ["on_files", "on_page_content", "on_page_context", "on_post_build"]
