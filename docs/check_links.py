"""Check that every link of the built site that stays within it leads to a page and an anchor that exist.

Run ``python -m sphinx -b html docs docs/_build/html && python docs/check_links.py docs/_build/html``.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.targets = {""}, set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids, and whatever a browser would fetch or jump to."""
        for name, value in attrs:
            if value and (name == "id" or (tag, name) == ("a", "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.add(value)


def broken_links(folder: Path) -> list[str]:
    """Return what leads nowhere, one line per page and target."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (
                (path.parent / unquote(parts.path)).resolve() if parts.path else path
            )
            anchor = unquote(parts.fragment)
            if not other.exists() or (
                other in pages and anchor not in pages[other].anchors
            ):
                broken.append(f"{path.relative_to(folder.resolve())}: {target}")
    return broken


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print("\n".join(found) or "every link within the site leads somewhere")
    sys.exit(bool(found))
