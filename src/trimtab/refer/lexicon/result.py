"""What a look at lexicons came to: a value that knows its settings and every number of its page.

The page of lexicons: where words are, what they tell, the plane with its frontier, and bits in context.

CIELAB to what a screen shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.data.naming import each_row
from trimtab.data.tables import label_text
from trimtab.job import Result
from trimtab.refer.lexicon.contexts import HARD_LESS_EASY
from trimtab.report.formats import fixed, from_zero, span
from trimtab.report.intervals import Cloud, curve_and_clouds, small_map
from trimtab.report.page import (
    Gallery,
    Picture,
    Section,
    Table,
    gallery,
    picture,
    settings_section,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LexiconResult(Result):
    """The outcome of a job about lexicons.

    Attributes:
        words: name, info_bits, denotation, probability of the first lexicon (see `Lexicon.informativeness`).
        systems: one row per lexicon: lexicon, the fields of `System`, inefficiency_bits, beta.
        frontier: beta, complexity_bits, accuracy_bits, words.
        simulation: lexicon, flexibility, success and info_bits with their ends, n.
        contexts: treatment of modifiers, smoothing, then the columns of `InContext.comparison`; empty without contexts.
        accounting: step, reason, n_messages.
        places: referent, x, y, colour ("" where features are not colours), then p(w|m) of the words that are drawn.
        aside: treatment, then the columns of `contexts.set_aside`: how many messages are not compared, by context.
    """

    words: pd.DataFrame
    systems: pd.DataFrame
    frontier: pd.DataFrame
    simulation: pd.DataFrame
    contexts: pd.DataFrame
    accounting: pd.DataFrame
    places: pd.DataFrame
    aside: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The lexicons on the plane."""
        return self.systems.copy()

    def figure(self) -> Figure:
        """The plane of complexity and accuracy."""

        return plane_figure(self)

    def summary(self) -> str:
        """The lexicon as a whole, each treatment of modifiers by context, and what was set aside."""
        return verdict(self)

    def sections(self) -> Iterator[Section]:
        """Words, the plane with its frontier, the simulation, contexts and the accounting."""
        return _chapter(self)

    @classmethod
    def compared(cls, results: Sequence[LexiconResult], labels: Sequence[str]) -> Iterator[Section]:
        """The lexicons of several jobs on the plane."""
        yield Section("Compared", [_comparison(results, labels)])


COVERS = "Intervals are 95 % percentile bootstrap intervals"
EXTREMES = "A share of 0 or 1 has Wilson's interval over clusters, and a difference with one Newcombe's."
CUT = "How referents are cut into cells is not varied here, and another cut can turn the sign round."
MOST_WORDS = 40
MATCHED = "same referents, both contexts' mix"


def verdict(result: LexiconResult) -> str:
    """What was found: the lexicon as a whole, then each treatment of modifiers by context, and what was set aside."""
    first = result.systems.iloc[0]
    told = f"{int(first['n_words'])} words for {int(first['n_referents'])} referents: a word conveys "
    told += (
        f"{fixed(first['complexity_bits'], 2)} bits on average, of which {fixed(first['accuracy_bits'], 2)} "
    )
    told += "tell of the world"
    told += (
        f", {fixed(first['inefficiency_bits'], 2)} bits from the frontier." if len(result.frontier) else "."
    )
    if len(result.contexts):
        easy, hard = (label_text(result.config.get(name, name)) for name in ("easy", "hard"))
        for treatment, own in result.contexts[result.contexts["comparison"] == MATCHED].groupby(
            "treatment", sort=False
        ):
            told += f" Modifiers {treatment}, same referents, {hard} less {easy}, bits per word: {_smoothings(own)}"
        told += _set_aside(result)
    return told


def _smoothings(own: pd.DataFrame) -> str:
    """The difference at each smoothing, and whether they agree."""
    each = [
        f"{fixed(row.difference, 2, signed=True)} ({span(row.low, row.high, 2, signed=True)}) "
        f"at smoothing {row.smoothing:g}"
        for row in each_row(own)
    ]
    above, below = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
    told = f"{', '.join(each)}: above 0 at {above} and below 0 at {below} of {len(own)} smoothings"
    if above and below:
        return f"{told}, so the sign depends on the smoothing."
    return f"{told}." if above + below else f"{told}, not told apart from 0."


def _set_aside(result: LexiconResult) -> str:
    """Whether messages of one context are set aside more often, where any are."""
    told = ""
    for treatment, own in result.aside.groupby("treatment", sort=False) if len(result.aside) else ():
        easy, hard, less = each_row(own)
        if less.n_aside:
            told += (
                f" Modifiers {treatment}: set aside are {less.n_aside} of {less.n_messages} messages, "
                f"{fixed(hard.share)} of {hard.context} and {fixed(easy.share)} of {easy.context} ones, a difference "
                f"of {fixed(less.share, signed=True)} ({span(less.low, less.high, signed=True)}), "
                f"{from_zero(less.low, less.high)}."
            )
    return told


def plane_figure(result: LexiconResult) -> Figure:
    """Lexicons on the plane of complexity and accuracy, under the frontier."""
    table = result.systems
    clouds = {"all names": Cloud(table["complexity_bits"][:1].tolist(), table["accuracy_bits"][:1].tolist())}
    if len(table) > 1:
        clouds["each lexicon"] = Cloud(
            table["complexity_bits"][1:].tolist(), table["accuracy_bits"][1:].tolist()
        )
    front = result.frontier
    curve = Cloud(front["complexity_bits"].tolist(), front["accuracy_bits"].tolist()) if len(front) else None
    names = ("complexity I(M;W), bits", "accuracy I(W;U), bits")
    return curve_and_clouds(
        curve, clouds, axes_names=names, title="What words cost and tell", label="Lexicons and frontier"
    )


def simulation_figure(result: LexiconResult) -> Figure:
    """Accuracy against bits, from rigid to flexible speakers, by lexicon."""
    clouds = {
        str(name): Cloud(own["info_bits"].tolist(), own["success"].tolist(), joined=True)
        for name, own in result.simulation.groupby("lexicon", sort=False)
    }
    names = ("bits conveyed per word", "listener's success")
    return curve_and_clouds(
        None, clouds, axes_names=names, title="Success for bits", label="Success against bits conveyed"
    )


def _chapter(result: LexiconResult) -> Iterator[Section]:
    yield Section("Where words are", [_maps(result)])
    yield Section("Words by bits", [_words(result)])
    caption = "The line is the best for these referents that annealing finds; what it misses could lie a little above."
    shown = caption if len(result.frontier) else "Without a frontier, which was not asked for."
    yield Section("Cost and accuracy", [picture(plane_figure(result), shown), _systems(result.systems)])
    yield Section("Talking among distractors", list(_simulation(result)))
    if len(result.contexts):
        tables = [_contexts(result), *([_aside(result)] if len(result.aside) else [])]
        yield Section("Easy and hard contexts", tables)
    caption = "Every name that was given, by what became of it."
    yield Section("Accounting", [Table(result.accounting, caption, {"n_messages": str})])
    yield settings_section(result.config.items())


def _maps(result: LexiconResult) -> Gallery:
    places = result.places
    words = list(places.columns[4:])
    colours = places["colour"].tolist() if (places["colour"] != "").all() else None
    drawn = [
        small_map(
            places["x"].tolist(),
            places["y"].tolist(),
            places[word].tolist(),
            colours,
            title=word,
            label=f"Where {word} is said",
        )
        for word in words
    ]
    where = "by hue angle (along) and lightness (up)" if colours else "by the first two features"
    caption = f"The {len(words)} most frequent words. A disc is a referent {where}, as large as the word's share there"
    caption += ", in the colour of the referent." if colours else "."
    return gallery(drawn, caption, small=True)


def _words(result: LexiconResult) -> Table:
    own = result.words.sort_values("probability", ascending=False).head(MOST_WORDS)
    rest = len(result.words) - len(own)
    tail = f" The {rest} rarer ones are in the result file." if rest else ""
    frame = pd.DataFrame(
        {
            "word": own["name"],
            "bits": [fixed(v, 2) for v in own["info_bits"]],
            "referents": [str(int(v)) for v in own["denotation"]],
            "share of what is said": [fixed(v) for v in own["probability"]],
        }
    )
    return Table(frame, f"The most frequent words first.{tail}")


def _systems(table: pd.DataFrame) -> Table:
    names = {
        "complexity_bits": "complexity, bits",
        "accuracy_bits": "accuracy, bits",
        "success_rate": "success",
    }
    names |= {"words_per_referent": "words per referent", "effective_words": "effective words"}
    names |= {"inefficiency_bits": "from the frontier, bits"}
    frame = pd.DataFrame({"lexicon": table["lexicon"]})
    frame["words"], frame["referents"] = table["n_words"].astype(str), table["n_referents"].astype(str)
    for name, title in names.items():
        frame[title] = [fixed(value, 3) for value in table[name]]
    caption = (
        "Success: a listener who hears a word picks the referent among all of them. Effective words: 2 to the power of "
        "the entropy of a referent's names."
    )
    return Table(frame, caption)


def _comparison(results: Sequence[LexiconResult], labels: Sequence[str]) -> Table:
    rows = [one.systems.head(1).assign(run=label) for one, label in zip(results, labels, strict=True)]
    return _systems(pd.concat(rows).rename(columns={"lexicon": "of", "run": "lexicon"}))


def _simulation(result: LexiconResult) -> Iterator[Picture | Table]:
    flexible = result.simulation["flexibility"]
    yield picture(
        simulation_figure(result),
        f"Each line goes from flexibility {flexible.min():g} to {flexible.max():g}: at 0 speakers have one word per "
        "referent, at 1 they choose among all its words in context.",
    )
    rows = [
        {
            "lexicon": row.lexicon,
            "flexibility": f"{row.flexibility:g}",
            "success": fixed(row.success),
            "interval: success": span(row.success_low, row.success_high),
            "bits": fixed(row.info_bits, 2),
            "interval: bits": span(row.info_low, row.info_high, 2),
        }
        for row in each_row(result.simulation)
    ]
    n = int(result.simulation["n"].iloc[0])
    yield Table(pd.DataFrame(rows), f"{COVERS} over {n} trials, the same for every lexicon.")


def _contexts(result: LexiconResult) -> Table:
    rows = [
        {
            "modifiers": row.treatment,
            "smoothing": f"{row.smoothing:g}",
            "compared": row.comparison,
            "easy, bits": fixed(row.easy, 2),
            "hard, bits": fixed(row.hard, 2),
            "hard less easy": fixed(row.difference, 3, signed=True),
            "interval": span(row.low, row.high, signed=True),
            "messages": str(row.n_messages),
            "referents": str(row.n_referents),
            "clusters": str(row.n_clusters),
        }
        for row in each_row(result.contexts)
    ]
    caption = (
        "Modifiers stripped: taken off names; kept: a modified name is a word of its own; bare: only names without "
        "one. Smoothing takes certainty from words that were said a few times only."
    )
    return Table(pd.DataFrame(rows), f"{caption} {CUT} {COVERS} over clusters.")


def _aside(result: LexiconResult) -> Table:
    rows = [
        {
            "modifiers": row.treatment,
            "context": row.context,
            "messages": str(row.n_messages),
            "set aside": str(row.n_aside),
            "share": fixed(row.share, signed=row.context == HARD_LESS_EASY),
            "interval": span(row.low, row.high, signed=row.context == HARD_LESS_EASY),
        }
        for row in each_row(result.aside)
    ]
    caption = "Messages that are not compared, by context; where one context loses more, its other messages are chosen."
    return Table(pd.DataFrame(rows), f"{caption} {COVERS} over clusters. {EXTREMES}")


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
