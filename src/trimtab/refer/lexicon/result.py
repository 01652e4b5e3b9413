"""Result of a lexicon job: its numbers, and its page.

The page shows where words are, what they tell, the plane with its frontier, and bits in context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.data.naming import each_row
from trimtab.data.tables import label_text
from trimtab.job import Result
from trimtab.refer.lexicon.contexts import HARD_LESS_EASY
from trimtab.report.formats import fixed, from_zero, span
from trimtab.report.intervals import Cloud, curve_and_clouds, small_map
from trimtab.report.named_points import NamedPoint
from trimtab.report.page import Gallery, Section, Table, gallery, picture, settings_section, written
from trimtab.report.text import plain_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COVERS = "Intervals are 95 % percentile bootstrap intervals"
EXTREMES = "A share of 0 or 1 has Wilson's interval over clusters, and a difference with one Newcombe's."
CUT = "How referents are cut into cells is not varied here, and another cut can turn the sign round."
MOST_WORDS = 40
MATCHED = "same referents, both contexts' mix"


@dataclass(frozen=True, kw_only=True, repr=False)
class LexiconResult(Result):
    """Result of a lexicon job.

    Attributes:
        words: name, info_bits, denotation, probability of the first lexicon (see `Lexicon.informativeness`).
        systems: one row per lexicon: lexicon, the fields of `System`, inefficiency_bits, beta.
        frontier: beta, complexity_bits, accuracy_bits, words.
        simulation: lexicon, flexibility, success and info_bits with their ends, n.
        contexts: treatment of modifiers, smoothing, then the columns of `InContext.comparison`; empty without contexts.
        accounting: step, reason, n_messages.
        places: referent, x, y, colour ("" where features are not colours), then p(w|m) of the words that are drawn.
        plane: the columns of `Lexicon.plane`, and the colour of each word ("" where features are not colours).
        aside: treatment, then the columns of `contexts.set_aside`: how many messages are not compared, by context.
    """

    words: pd.DataFrame
    systems: pd.DataFrame
    frontier: pd.DataFrame
    simulation: pd.DataFrame
    contexts: pd.DataFrame
    accounting: pd.DataFrame
    places: pd.DataFrame
    plane: pd.DataFrame = field(default_factory=pd.DataFrame)
    aside: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """Measures of the lexicons, one row each."""
        return self.systems.copy()

    def to_text(self) -> str:
        """Lexicons, the twelve most probable words, contexts at their common mix of referents, and the summary."""
        words = self.words.sort_values("probability", ascending=False).head(12)
        shown = ["treatment", "smoothing", "easy", "hard", "difference", "low", "high", "n_messages"]
        contexts = self.contexts
        contexts = contexts.loc[contexts["comparison"] == MATCHED, shown] if len(contexts) else contexts
        parts = (self.systems, words, contexts, self.aside, self.accounting)
        return "\n\n".join([*(plain_table(part) for part in parts if len(part)), self.summary()])

    def headline(self) -> dict[str, str]:
        """Size of the first lexicon, its bits per word, and how many of them tell of the world."""
        first = self.systems.iloc[0]
        bits = {name: f"{fixed(first[f'{name}_bits'], 2)} bits" for name in ("complexity", "accuracy")}
        return {"words": f"{int(first['n_words'])} for {int(first['n_referents'])} referents"} | bits

    def figure(self) -> Figure:
        """Plane of complexity and accuracy: the lexicons under the frontier, among the words of the first one."""
        names, x, y = ("complexity I(M;W), bits", "accuracy I(W;U), bits"), "complexity_bits", "accuracy_bits"
        parts = {"all names": self.systems[:1], "each lexicon": self.systems[1:]}
        clouds = {
            name: Cloud(part[x].tolist(), part[y].tolist()) for name, part in parts.items() if len(part)
        }
        curve = Cloud(self.frontier[x].tolist(), self.frontier[y].tolist()) if len(self.frontier) else None
        words = [
            NamedPoint(str(row.name), row.complexity_bits, row.accuracy_bits, row.probability, row.colour)
            for row in each_row(self.plane.head(MOST_WORDS))
        ]
        title, label = "What words cost and tell", "Words, lexicons and frontier"
        return curve_and_clouds(
            curve, clouds, words, axes_names=names, curve_name="frontier", title=title, label=label
        )

    def summary(self) -> str:
        """The lexicon as a whole, each treatment of modifiers by context, and what was set aside."""
        first = self.systems.iloc[0]
        text = (
            f"{int(first['n_words'])} words for {int(first['n_referents'])} referents: a word conveys "
            f"{fixed(first['complexity_bits'], 2)} bits on average, of which {fixed(first['accuracy_bits'], 2)} "
            "tell of the world"
        )
        text += (
            f", {fixed(first['inefficiency_bits'], 2)} bits from the frontier." if len(self.frontier) else "."
        )
        if not len(self.contexts):
            return text
        easy, hard = (label_text(self.config.get(name, name)) for name in ("easy", "hard"))
        matched = self.contexts[self.contexts["comparison"] == MATCHED]
        for treatment, rows in matched.groupby("treatment", sort=False):
            text += f" Modifiers {treatment}, same referents, {hard} less {easy}, bits per word: {_smoothings(rows)}"
        for treatment, rows in self.aside.groupby("treatment", sort=False) if len(self.aside) else ():
            far, close, less = each_row(rows)
            if less.n_aside:
                text += (
                    f" Modifiers {treatment}: set aside are {less.n_aside} of {less.n_messages} messages, "
                    f"{fixed(close.share)} of {close.context} and {fixed(far.share)} of {far.context} ones, a "
                    f"difference of {fixed(less.share, signed=True)} ({span(less.low, less.high, signed=True)}), "
                    f"{from_zero(less.low, less.high)}."
                )
        return text

    def sections(self) -> Iterator[Section]:
        """Sections of the page: words, the plane with its frontier, the simulation, contexts and the accounting."""
        yield Section("Where words are", [_maps(self.places)])
        yield Section("Words by bits", [_words(self)])
        yield Section(
            "Cost and accuracy", [picture(self.figure(), _plane_caption(self)), _systems(self.systems)]
        )
        flexible, n = self.simulation["flexibility"], int(self.simulation["n"].iloc[0])
        caption = (
            f"Each line goes from flexibility {flexible.min():g} to {flexible.max():g}: at 0 speakers have one word "
            "per referent, at 1 they choose among all its words in context."
        )
        headings = {"lexicon": "lexicon", "flexibility": ("flexibility", "g")}
        headings["success"] = ("success", "success_low", "success_high", ".3")
        headings["bits"] = ("info_bits", "info_low", "info_high", ".2")
        covers = f"{COVERS} over {n} trials, the same for every lexicon."
        table = Table(written(self.simulation, headings), covers)
        yield Section("Talking among distractors", [picture(simulation_figure(self), caption), table])
        if len(self.contexts):
            yield Section("Easy and hard contexts", list(_contexts(self)))
        caption = "Every name that was given, by what became of it."
        accounting = self.accounting.rename(columns={"n_messages": "messages"})
        yield Section("Accounting", [Table(accounting, caption, {"messages": str})])
        yield settings_section(self.config.items())

    @classmethod
    def compared(cls, results: Sequence[LexiconResult], labels: Sequence[str]) -> Iterator[Section]:
        """Comparison of jobs: the measures of their lexicons."""
        rows = [one.systems.head(1).assign(lexicon=label) for one, label in zip(results, labels, strict=True)]
        yield Section("Compared", [_systems(pd.concat(rows))])


def _words(result: LexiconResult) -> Table:
    """Table of the most frequent words: what they convey, and what of it tells of the world."""
    words = result.words.sort_values("probability", ascending=False)
    rest = len(words) - MOST_WORDS
    tail = f" The {rest} rarer ones are in the result file." if rest > 0 else ""
    headings: dict[str, Any] = {"word": "name", "bits": ("info_bits", ".2")}
    if len(result.plane):
        words = words.merge(result.plane[["name", "accuracy_bits"]], on="name", how="left")
        headings["tell of the world"] = ("accuracy_bits", ".2")
    headings |= {"referents": "denotation", "share of what is said": ("probability", ".3")}
    return Table(written(words.head(MOST_WORDS), headings), f"The most frequent words first.{tail}")


def _plane_caption(result: LexiconResult) -> str:
    """What the discs, the point and the line are."""
    n, parts = len(result.plane), []
    if n:
        which = f"the {MOST_WORDS} most frequent of {n}" if n > MOST_WORDS else f"all {n}"
        parts.append(f"A disc is one of {which} words, as large as its share of what is said.")
        parts.append("The lexicon of all names stands at the mean of its words, weighted by these shares.")
        if (result.plane["colour"] != "").any():
            parts.append("A disc has the mean colour of the referents that the word names.")
    if len(result.frontier):
        parts.append(
            "The line is the best for these referents that annealing finds; what it misses could lie a little above."
        )
        parts.append("It holds of whole lexicons: a word alone may lie above it.")
    else:
        parts.append("Without a frontier, which was not asked for.")
    return " ".join(parts)


def _smoothings(rows: pd.DataFrame) -> str:
    """Difference of contexts at each smoothing, and whether its signs agree."""
    each = [
        f"{fixed(row.difference, 2, signed=True)} ({span(row.low, row.high, 2, signed=True)}) "
        f"at smoothing {row.smoothing:g}"
        for row in each_row(rows)
    ]
    if len(rows) == 1:
        return f"{each[0]}, {from_zero(rows['low'].iloc[0], rows['high'].iloc[0])}."
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    text = f"{', '.join(each)}: above 0 at {above} and below 0 at {below} of {len(rows)} smoothings"
    if above and below:
        return f"{text}, so the sign depends on the smoothing."
    if lacking := int(rows[["low", "high"]].isna().any(axis=1).sum()):
        return f"{text}, {lacking} without an interval."
    return f"{text}." if above + below else f"{text}, not distinguishable from 0."


def simulation_figure(result: LexiconResult) -> Figure:
    """Accuracy against bits, from rigid to flexible speakers, by lexicon."""
    clouds = {
        str(name): Cloud(rows["info_bits"].tolist(), rows["success"].tolist(), joined=True)
        for name, rows in result.simulation.groupby("lexicon", sort=False)
    }
    names = ("bits conveyed per word", "listener's success")
    title, label = "Success for bits", "Success against bits conveyed"
    return curve_and_clouds(None, clouds, axes_names=names, title=title, label=label)


def _maps(places: pd.DataFrame) -> Gallery:
    """Maps of the most frequent words: where each of them is said."""
    words, x, y = list(places.columns[4:]), places["x"].tolist(), places["y"].tolist()
    colours = places["colour"].tolist() if (places["colour"] != "").all() else []
    drawn = []
    for word in words:
        shares = places[word].to_numpy(dtype=float)
        own = [mean_colour(colours, shares)] * len(places) if colours else None
        drawn.append(small_map(x, y, shares.tolist(), own, title=word, label=f"Where {word} is said"))
    where = "by hue angle (along) and lightness (up)" if colours else "by the first two features"
    caption = f"The {len(words)} most frequent words. A disc is a referent {where}, as large as the word's share there"
    caption += ", in the mean colour of the referents that the word names." if colours else "."
    return gallery(drawn, caption, small=True)


def _systems(table: pd.DataFrame) -> Table:
    headings: dict[str, Any] = {"lexicon": "lexicon", "words": "n_words", "referents": "n_referents"}
    decimals = {"complexity, bits": "complexity_bits", "accuracy, bits": "accuracy_bits"}
    decimals |= {"success": "success_rate", "words per referent": "words_per_referent"}
    decimals |= {"effective words": "effective_words", "from the frontier, bits": "inefficiency_bits"}
    headings |= {heading: (name, ".3") for heading, name in decimals.items()}
    caption = (
        "Success: a listener who hears a word picks the referent among all of them. Effective words: 2 to the power of "
        "the entropy of a referent's names."
    )
    return Table(written(table, headings), caption)


def _contexts(result: LexiconResult) -> Iterator[Table]:
    headings: dict[str, Sequence[str]] = {"modifiers": "treatment", "smoothing": ("smoothing", "g")}
    headings |= {"compared": "comparison", "easy, bits": ("easy", ".2"), "hard, bits": ("hard", ".2")}
    headings |= {"hard less easy": ("difference", "+.3"), "interval": ("low", "high", "+.3")}
    headings |= {"messages": "n_messages", "referents": "n_referents", "clusters": "n_clusters"}
    caption = (
        "Modifiers stripped: taken off names; kept: a modified name is a word of its own; bare: only names without "
        "one. Smoothing takes certainty from words that were said a few times only."
    )
    yield Table(written(result.contexts, headings), f"{caption} {CUT} {COVERS} over clusters.")
    if not len(result.aside):
        return
    headings = {"modifiers": "treatment", "context": "context"}
    headings |= {"messages": "n_messages", "set aside": "n_aside"}
    less = result.aside["context"] == HARD_LESS_EASY
    parts = [
        written(rows, headings | {"share": ("share", form), "interval": ("low", "high", form)}).set_axis(
            rows.index
        )
        for rows, form in ((result.aside[~less], ".3"), (result.aside[less], "+.3"))
    ]
    caption = "Messages that are not compared, by context; where one context loses more, its other messages are chosen."
    yield Table(pd.concat(parts).sort_index(), f"{caption} {COVERS} over clusters. {EXTREMES}")


_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def lab_to_hex(lab: Float[np.ndarray, "n 3"]) -> list[str]:
    """sRGB colours nearest to CIELAB ones under D65, as `#rrggbb`; what a screen cannot show is cut to its range.

    Source: CIE 15 for CIELAB, IEC 61966-2-1 for sRGB.

    >>> lab_to_hex(np.array([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [53.24, 80.09, 67.20]]))
    ['#ffffff', '#000000', '#ff0000']
    """
    middle = (lab[:, 0] + 16) / 116
    roots = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], axis=1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * _WHITE
    return [_hex(linear) for linear in np.clip(xyz @ _TO_RGB.T, 0, 1)]


def mean_colour(colours: Sequence[str], shares: Float[np.ndarray, " n"]) -> str:
    """The mean of sRGB colours as light adds up, weighted by shares; grey where all are 0.

    >>> mean_colour(["#ff0000", "#0000ff", "#00ff00"], np.array([1.0, 1.0, 0.0])), mean_colour(["#ff0000"], np.zeros(1))
    ('#bc00bc', '#808080')
    """
    if not shares.sum() > 0:
        return "#808080"
    parts = np.array([[int(one[k : k + 2], 16) for k in (1, 3, 5)] for one in colours]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return _hex(shares @ linear / shares.sum())


def _hex(linear: Float[np.ndarray, " 3"]) -> str:
    """Linear light of three primaries as `#rrggbb`."""
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{part:02x}" for part in np.rint(255 * rgb).astype(int))
