"""Pictures of the docs' gallery: runs the examples, and keeps one drawing of each page as docs/images/example-*.svg.

python benchmarks/gallery.py OUT [NAME ...]        some minutes; a page that lies in OUT already is not made again
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from PIL import Image

ROOT = Path(__file__).parents[1]
DRAWINGS = {
    "compare": 0,
    "discritune": 0,
    "dynamics": 2,
    "expertlens": 1,
    "forgetting": 0,
    "hypertransport": 2,
    "intelligibility": 0,
    "leaks": 2,
    "lexicon": 8,
    "naming_bias": 0,
    "steering": 0,
    "trainer": 0,
}
"""Which drawing of the example's page is kept."""
STYLE = "<style>svg { background: #ffffff; font-family: sans-serif }</style>"
"""A drawing on its own lacks the paper of its page."""


def page(name: str, out: Path) -> Path:
    """The page that an example writes."""
    if not list(out.rglob("report.html")):
        subprocess.run([sys.executable, ROOT / "examples" / f"{name}.py", out], check=True)
    (found,) = out.rglob("report.html")
    return found


def drawing(html: str, number: int) -> str:
    """A drawing of a page, as a file of its own."""
    found = re.findall(r"<svg\b.*?</svg>", html, re.DOTALL)[number]
    head, _, rest = found.partition(">")
    if "xmlns=" not in head:
        head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>{STYLE}{rest}\n"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sheet(name: str) -> Image.Image:
    """The pictures that `listener_reward` draws, side by side; it writes no page."""
    pictures = [*example(name).pictures(0).values()][::4]
    whole = Image.new("RGB", (68 * len(pictures) - 4, 64), "#ffffff")
    for place, picture in enumerate(pictures):
        whole.paste(picture.resize((64, 64), Image.Resampling.NEAREST), (68 * place, 0))
    return whole


def main(out: Path, *names: str) -> None:
    images = ROOT / "docs" / "images"
    for name in names or DRAWINGS:
        html = page(name, out / name).read_text(encoding="utf-8")
        (images / f"example-{name}.svg").write_text(drawing(html, DRAWINGS[name]), encoding="utf-8")
    sheet("listener_reward").save(images / "example-listener_reward.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
