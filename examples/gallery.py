"""Draw the pictures of docs/gallery.md by running the code that the page shows.

From the repository, in less than a minute::

    pip install -e ".[plot]"
    python examples/gallery.py

A block of Python that is followed by a picture leaves axes named ``ax``; their figure is saved where the page looks for
it, under the heading of its section. All blocks run in one scope, in a temporary folder.
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
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in BLOCK.finditer(text):
            exec(compile(block["code"], page.name, "exec"), scope)
            if block["picture"]:
                file = out / block["picture"]
                file.parent.mkdir(parents=True, exist_ok=True)
                heading = text[: block.start()].rpartition("## ")[2].partition("\n")[0]
                save(scope["ax"].figure, heading, file)
                written.append(file)
            pyplot.close("all")
    return written


def save(figure: Any, title: str, file: Path) -> None:
    """Save a figure under its title, in 256 colours, which takes a third of the bytes."""
    from PIL import Image

    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2)  # inches of the title
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
    figure.savefig(file, dpi=200)
    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(256)
    few.save(file, optimize=True)


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
