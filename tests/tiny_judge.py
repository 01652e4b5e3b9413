"""A judge of three attributes by the means of channels, for jobs that name one of a user's own."""

from __future__ import annotations

import numpy as np
from PIL import Image

COLOURS, SHAPES, SIDES = ("red", "blue"), ("cross", "ring"), ("left", "right")


class TinyJudge:
    """Red where the first channel is above the third, a cross where the second is bright, left by a corner."""

    def see(self, outputs):
        means = np.array([np.asarray(one).mean((0, 1)) / 255 for one in outputs])
        colours = np.where(means[:, 0] > means[:, 2], *COLOURS)
        corners = np.array([np.asarray(one)[0, 0, 0] > 127 for one in outputs])
        seen = {"colour": colours, "shape": np.where(means[:, 1] > 0.5, *SHAPES)}
        return {name: it.tolist() for name, it in (seen | {"side": np.where(corners, *SIDES)}).items()}

    def asked(self, prompts):
        def named(values, prompt):
            return next((one for one in values if one in prompt.split()), "")

        return {
            "colour": [named(COLOURS, one) for one in prompts],
            "shape": [named(SHAPES, one) for one in prompts],
            "side": [named(SIDES, one) for one in prompts],
        }

    def prompted(self, prompts, values):
        taken = {"colour": COLOURS, "shape": SHAPES}
        other = {word for name in values for word in taken[name]}
        return [
            " ".join([*values.values(), *(word for word in one.split() if word not in other)])
            for one in prompts
        ]

    def truth(self, prompts, values, seed):
        red = [values.get("colour", "red" if "red" in one else "blue") == "red" for one in prompts]
        cross = [values.get("shape", "cross" if "cross" in one else "ring") == "cross" for one in prompts]
        fills = [(255 * r, 255 * c, 255 * (not r)) for r, c in zip(red, cross, strict=True)]
        made = [Image.new("RGB", (16, 16), fill) for fill in fills]
        for one, fill, prompt in zip(made, fills, prompts, strict=True):
            one.putpixel((0, 0), (255 * ("left" in prompt), *fill[1:]))
        return made
