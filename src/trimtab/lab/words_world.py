"""Colour words with known shape: chips, games in two kinds of context, and speakers who narrow words down."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trimtab.seeds import derive

HUES = {
    "red": 30.0,
    "orange": 60.0,
    "yellow": 95.0,
    "green": 140.0,
    "turquoise": 190.0,
    "blue": 265.0,
    "purple": 315.0,
    "pink": 350.0,
}
"""Hue word -> the angle in CIELAB, in degrees, at which chips of this chroma look so on a screen."""
FINE = {
    "red": "crimson",
    "yellow": "lemon",
    "green": "olive",
    "blue": "navy",
    "purple": "violet",
    "pink": "salmon",
}
LIGHTNESS, STEPS, CHROMA = (30.0, 45.0, 60.0, 75.0, 90.0), 24, 45.0


def chips() -> pd.DataFrame:
    """Features of 120 chips on a cylinder of CIELAB, by chip: columns L, a, b."""
    angles = np.arange(STEPS) * 2 * np.pi / STEPS
    rows = [(L, CHROMA * np.cos(angle), CHROMA * np.sin(angle)) for L in LIGHTNESS for angle in angles]
    return pd.DataFrame(rows, columns=["L", "a", "b"], index=pd.RangeIndex(len(rows), name="referent"))


def colour_names(games: int = 60, rounds: int = 40, seed: int = 0) -> pd.DataFrame:
    """Names of chips: referent, name, count, context ("far", "close"), game; one row per message.

    In close contexts speakers more often take the finer of two words, or put "light" or "dark" before a word; and close
    contexts show more of the chips whose words are wide. So raw means of bits mix both, and the same chips do not.
    """
    rng = np.random.default_rng(derive(seed, "colour names"))
    n = games * rounds
    place = np.arange(STEPS * len(LIGHTNESS))
    wide = (place % STEPS) >= STEPS // 2
    close = rng.random(n) < 0.5
    chance = np.where(close[:, None], 1.0 + 2.0 * wide, 1.0)
    chip = (rng.random((n, 1)) > np.cumsum(chance / chance.sum(axis=1, keepdims=True), axis=1)).sum(axis=1)
    table = _hue_chances()
    hue = (rng.random((n, 1)) > np.cumsum(table[chip % STEPS], axis=1)).sum(axis=1)
    fine, modified = rng.random(n), rng.random(n)
    words = list(HUES)
    names = [
        _name(words[h], LIGHTNESS[c // STEPS], f < (0.5 if near else 0.2), m < (0.3 if near else 0.1))
        for h, c, f, m, near in zip(hue, chip, fine, modified, close, strict=True)
    ]
    return pd.DataFrame(
        {
            "referent": chip,
            "name": names,
            "count": 1,
            "context": np.where(close, "close", "far"),
            "game": np.repeat(np.arange(games), rounds),
        }
    )


def _hue_chances() -> np.ndarray:
    """How likely each hue word is at each step round the circle; neighbours overlap."""
    steps, centres = np.arange(STEPS), np.array(list(HUES.values())) * STEPS / 360
    away = np.abs((steps[:, None] - centres + STEPS / 2) % STEPS - STEPS / 2)
    weights = np.exp(-(away**2) / 4.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _name(hue: str, lightness: float, fine: bool, modified: bool) -> str:
    if fine and hue in FINE and lightness <= 60:
        return FINE[hue]
    if modified and lightness != 60:
        return f"{'dark' if lightness < 60 else 'light'} {hue}"
    return hue
