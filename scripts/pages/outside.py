"""What MkDocs calls to show files from outside of docs/: pages of model_cards/ and pictures of scripts/figures/.

Links between them and docs/ are written as they work in the repository, and changed to where files lie in the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
PATTERNS = ("model_cards/*.md", "scripts/figures/*.png")
NOTEBOOK = re.compile(r"(\]\((?:[^)\s:]*/)?\d\d_\w+)\.py(?=[)#])")
FOLDERS = "|".join(pattern.rpartition("/")[0] for pattern in PATTERNS)


def on_files(files: Any, config: Any) -> Any:
    """Add these files to the English site, in folders of the same names."""
    if config["theme"]["language"] == "en":
        for path in sorted(each for pattern in PATTERNS for each in ROOT.glob(pattern)):
            name, urls = path.relative_to(ROOT).as_posix(), config["use_directory_urls"]
            files.append(File(name, str(ROOT), config["site_dir"], urls, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the text of a page with such links changed."""
    return place_links(markdown, page.file.src_uri)


def place_links(markdown: str, name: str) -> str:
    """Return the text of the page `name`, as the site calls it, with links that hold in the site.

    A page of docs/ is one folder nearer to the files outside than it is in the repository, and these are to it. A
    notebook, which is a program in the repository, is a page in the site.
    """
    markdown = NOTEBOOK.sub(r"\1.md", markdown)
    if re.match(FOLDERS, name):
        return markdown.replace("](../docs/", "](../")
    up = "../" * name.count("/")
    return re.sub(rf"\]\(\.\./{re.escape(up)}(?=({FOLDERS})/)", f"]({up}", markdown)
