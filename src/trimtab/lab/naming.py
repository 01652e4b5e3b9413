"""Simulated naming data with true gaps: names of sports people in two groups, and colour words in two contexts.

Members of two groups do different sports, and sports differ in how often they are named, so the raw gap between the
groups mixes how they are named with what they do (Simpson's paradox is possible). The true gaps follow from the
settings. Colour chips are named in games by speakers who narrow words down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from trimtab.numerics.cluster_bootstrap import gap, standardised_gap
from trimtab.seeds import derive

REFERENCE, OTHER = "male", "female"
_WORDS = {REFERENCE: ("man", "boy"), OTHER: ("woman", "girl")}


@dataclass(frozen=True)
class Sport:
    """One stratum: its weight in each group, and how often its name is given to members of each group."""

    men: float
    women: float
    named_men: float
    named_women: float


SPORTS: Mapping[str, Sport] = {
    "tennis": Sport(0.15, 0.55, 0.25, 0.22),
    "baseball": Sport(0.35, 0.05, 0.60, 0.55),
    "skateboard": Sport(0.30, 0.10, 0.50, 0.45),
    "soccer": Sport(0.10, 0.15, 0.30, 0.30),
    "ski": Sport(0.10, 0.15, 0.45, 0.35),
}


@dataclass(frozen=True)
class NamingWorld:
    """A population of photographs of sports people, and those who name them.

    Attributes:
        sports: the strata.
        women: share of the other group.
        answers: names given to each person.
        concentration: of the Beta distribution of each person's own chance of a sport name; small means very different.
        together: chance that a photograph shows a second person of the same sport.
        mistaken: chance that the second, independent annotation of gender is wrong; as often it is missing.
    """

    sports: Mapping[str, Sport] = field(default_factory=lambda: SPORTS)
    women: float = 0.28
    answers: int = 27
    concentration: float = 3.0
    together: float = 0.2
    mistaken: float = 0.04

    def truth(self) -> dict[str, float]:
        """The population's gaps: "raw", and at the mix of "male", "female" and "pooled"."""
        weights = self._weights()
        yes = weights * self._of_each("named_men", "named_women")
        mixes = {REFERENCE: weights[0], OTHER: weights[1], "pooled": weights.sum(axis=0)}
        gaps = {name: float(standardised_gap(yes, weights, mix)) for name, mix in mixes.items()}
        return {"raw": float(gap(yes, weights)), **gaps}

    def sample(self, photographs: int, seed: int = 0) -> pd.DataFrame:
        """Names of the people in so many photographs: one row per person and name.

        Columns: referent, image, gender, annotated (the second annotation; empty where missing), sport, name, count.
        """
        rng = np.random.default_rng(derive(seed, "naming world"))
        weights = self._weights()
        cell = rng.choice(weights.size, size=photographs, p=weights.ravel())
        other, place = np.divmod(cell, weights.shape[1])
        first = pd.DataFrame({"image": np.arange(photographs), "place": place, "other": other == 1})
        # A second person is of the same sport, and of a gender drawn for that sport.
        second = first[rng.random(photographs) < self.together].copy()
        of_women = weights[1] / weights.sum(axis=0)
        second["other"] = rng.random(len(second)) < of_women[second["place"]]
        people = pd.concat([first, second], ignore_index=True)
        mean = self._of_each("named_men", "named_women")[people["other"].astype(int), people["place"]]
        rate = rng.beta(self.concentration * mean + 1e-9, self.concentration * (1 - mean) + 1e-9)
        n = len(people)
        sporty = rng.binomial(self.answers, rate)
        rest = rng.multinomial(self.answers - sporty, [0.5, 0.2, 0.3])
        gender = np.where(people["other"], OTHER, REFERENCE)
        sport = np.array(list(self.sports))[people["place"]]
        wrong, gone = (rng.random(n) < self.mistaken for _ in range(2))
        annotated = np.where(wrong, np.where(people["other"], REFERENCE, OTHER), gender)
        nouns = np.array([[*_WORDS[one], "person"] for one in gender])
        answers = [(np.char.add(sport.astype(str), " player"), sporty), *zip(nouns.T, rest.T, strict=True)]
        base = {"referent": np.arange(n), "image": people["image"], "gender": gender}
        base |= {"annotated": np.where(gone, "", annotated), "sport": sport}
        rows = pd.concat([pd.DataFrame({**base, "name": name, "count": count}) for name, count in answers])
        return rows[rows["count"] > 0].sort_values(["referent", "name"], ignore_index=True)

    def _of_each(self, *names: str) -> np.ndarray:
        """Some numbers of every sport, one row each."""
        return np.array([[getattr(sport, name) for sport in self.sports.values()] for name in names])

    def _weights(self) -> np.ndarray:
        weights = self._of_each("men", "women")
        parts = np.array([[1 - self.women], [self.women]])
        return np.asarray(weights / weights.sum(axis=1, keepdims=True) * parts)


def predictions(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Names by two simulated models for a sample: one draws a name as people do, one always takes the most frequent.

    Columns model, referent, name. The first repeats the gap of people; the second turns shares into all or nothing.
    """
    rng = np.random.default_rng(derive(seed, "naming predictions"))
    shuffled = frame.assign(order=rng.random(len(frame)) ** (1.0 / frame["count"]))
    picked = {
        "draws as people do": shuffled.sort_values("order", ascending=False),
        "takes the most frequent": frame.sort_values("count", ascending=False, kind="stable"),
    }
    rows = [
        names.drop_duplicates("referent").sort_values("referent").assign(model=m)
        for m, names in picked.items()
    ]
    return pd.concat(rows, ignore_index=True)[["model", "referent", "name"]]


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
    steps, centres = np.arange(STEPS), np.array(list(HUES.values())) * STEPS / 360
    away = np.abs((steps[:, None] - centres + STEPS / 2) % STEPS - STEPS / 2)
    weights = np.exp(-(away**2) / 4.0)  # of each hue word at each step round the circle; neighbours overlap
    table = weights / weights.sum(axis=1, keepdims=True)
    hue = (rng.random((n, 1)) > np.cumsum(table[chip % STEPS], axis=1)).sum(axis=1)
    fine, modified = rng.random(n), rng.random(n)
    words = list(HUES)
    names = [
        _name(words[h], LIGHTNESS[c // STEPS], f < (0.5 if near else 0.2), m < (0.3 if near else 0.1))
        for h, c, f, m, near in zip(hue, chip, fine, modified, close, strict=True)
    ]
    columns = {"referent": chip, "name": names, "count": 1, "context": np.where(close, "close", "far")}
    return pd.DataFrame({**columns, "game": np.repeat(np.arange(games), rounds)})


def _name(hue: str, lightness: float, fine: bool, modified: bool) -> str:
    if fine and hue in FINE and lightness <= 60:
        return FINE[hue]
    if modified and lightness != 60:
        return f"{'dark' if lightness < 60 else 'light'} {hue}"
    return hue
