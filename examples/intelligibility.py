"""Who understands whose captions? Two speakers and three listeners in a world of twelve figures, without a model.

python examples/intelligibility.py [OUT]        a few seconds; writes OUT/report.html
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from trimtab import intelligibility
from trimtab.refer.intelligibility.rules import RuleListener

SHAPES, COLOURS = ("disc", "star", "box", "bar"), ("red", "green", "blue")


def figure(colour: str, shape: str) -> Image.Image:
    """A picture of one figure."""
    picture = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(picture)
    if shape == "disc":
        draw.ellipse((8, 8, 40, 40), colour)
    elif shape == "star":
        for turn in (0, 60):
            draw.regular_polygon((24, 24, 18), 3, turn, colour)
    else:
        draw.rectangle((8, 8, 40, 40) if shape == "box" else (18, 4, 30, 44), colour)
    return picture


def main(out: Path) -> None:
    names = [f"{colour}-{shape}" for colour, shape in product(COLOURS, SHAPES)]
    scenes = {
        name: {"objects": [dict(zip(("colour", "shape"), name.split("-"), strict=True))]} for name in names
    }
    sets = pd.DataFrame({"item": names, "candidates": [names] * len(names), "target": names})

    full = {name: name.replace("-", " ") for name in names}
    people = {name: name.split("-")[1] for name in names}  # only the shape
    # A code between one speaker and one listener: colours are swapped.
    swap = dict(zip(COLOURS, ("green", "blue", "red"), strict=True))
    code = {name: " ".join((swap[name.split("-")[0]], name.split("-")[1])) for name in names}
    rule = RuleListener(scenes)

    def partner(captions: list[str], candidates: list[list[str]]) -> list[np.ndarray]:
        back = {new: old for old, new in swap.items()}
        return rule(
            [" ".join(back.get(word, word) for word in text.split()) for text in captions], candidates
        )

    result = intelligibility(
        speakers={"true full": full, "people": people, "code": code},
        listeners={"rule": rule, "partner": partner},
        candidates=sets,
        pictures={name: figure(*name.split("-")) for name in names},
        own={"people": "rule", "code": "partner"},
        control="true full",
        n_boot=500,
    )
    print(result.accuracy.round(3).to_string(index=False))
    print(
        f"accuracy at the mix of lengths of both speakers:\n{result.matched.round(3).to_string(index=False)}"
    )
    print(result.summary())
    out.mkdir(parents=True, exist_ok=True)
    print(result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-intelligibility"))
