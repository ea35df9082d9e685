"""A check of a built site: every link, image, stylesheet and script must be there, and so must every anchor.

Links to other sites are not followed. What a page loads must not come from another site: the pages work offline.
"""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        loads = tag == "link" and set((found.get("rel") or "").split()) & {"stylesheet", "icon", "preload"}
        if loads and found.get("href"):
            self.loaded.append(str(found["href"]))
        elif tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loaded.append(str(found["src"]))
        elif tag in ("a", "link", "use") and found.get("href"):
            self.links.append(str(found["href"]))


def find_broken(site: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere, and for each thing that a page loads from another site."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        if name.name == "404.html":  # served from any folder, it names files from the root
            continue
        for link in page.loaded:
            if urlsplit(link).netloc:
                yield f"{name} loads {link} from another site"
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{name} links to {link}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {link}, which has no such anchor"
