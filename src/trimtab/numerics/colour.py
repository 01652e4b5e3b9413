"""CIELAB to what a screen shows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def lab_to_hex(lab: Float[np.ndarray, "n 3"]) -> list[str]:
    """The sRGB colours nearest to CIELAB ones under D65, as `#rrggbb`; what a screen cannot show is cut to its range.

    Source: CIE 15 for CIELAB, IEC 61966-2-1 for sRGB.

    >>> lab_to_hex(np.array([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [53.24, 80.09, 67.20]]))
    ['#ffffff', '#000000', '#ff0000']
    """
    middle = (lab[:, 0] + 16) / 116
    roots = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], axis=1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ _TO_RGB.T, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return ["#" + "".join(f"{part:02x}" for part in row) for row in np.rint(255 * shown).astype(int)]
