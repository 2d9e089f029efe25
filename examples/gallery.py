"""Draw the pictures of docs/gallery.md by running the code that the page shows.

From the repository, in less than a minute::

    pip install -e ".[plot]"
    python examples/gallery.py

A block of Python that is followed by a picture leaves axes named ``ax``; their figure is saved where the page looks for
it. All blocks run in one scope, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\s*!\[[^\]]*\]\((?P<picture>[^)]+)\))?", re.DOTALL)


def draw(page: Path, out: Path) -> list[Path]:
    """Run a page's code and return the pictures it was saved in, below ``out`` as the page names them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scope: dict[str, Any] = {}
    written = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in BLOCK.finditer(page.read_text()):
            exec(compile(block["code"], page.name, "exec"), scope)
            if block["picture"]:
                file = out / block["picture"]
                file.parent.mkdir(parents=True, exist_ok=True)
                scope["ax"].figure.savefig(file, dpi=150, metadata={"Software": None}, pil_kwargs={"optimize": True})
                written.append(file)
            pyplot.close("all")
    return written


def main(argv: list[str] | None = None) -> int:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE.parent, help="folder of the pictures (default: the page's)")
    options = parser.parse_args(argv)
    for file in draw(PAGE, options.out.resolve()):
        print(f"{file} {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
