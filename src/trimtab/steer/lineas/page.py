"""Page of a steering: effect against side effect, the strength curve, completions side by side, where it acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from trimtab.report import charts
from trimtab.report.formats import NOTHING, fixed, missing, number, percent
from trimtab.report.intervals import Cloud, curve_and_clouds
from trimtab.report.page import (
    Gallery,
    Picture,
    Section,
    Table,
    Text,
    changed_words,
    gallery,
    picture,
    settings_section,
    written,
)
from trimtab.runs.serialise import plain
from trimtab.steer.lineas.suggestion import Suggestion
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_PROMPT = 120
"""Characters of a prompt beside its completions; a conversation of several turns would fill the page."""
BINS = 32
"""Columns of the map of changed units, at most."""
COVERS = (
    "Intervals are 95 % over the choice of held-out texts; they do not cover the choice of fitting examples."
)
LEAN = (
    "Lean is how much likelier per token the target texts became than they were, less the same of the source texts. "
    "KL is how far next-token distributions moved on texts that should be left alone."
)
CURVES = {
    "lean": ("lean", "lean to the target", "nats per token"),
    "kl": ("KL, neutral", "moved on neutral text", "KL, nats per token"),
    "source_loss": ("loss, source", "loss on source text", "nats per token"),
    "target_loss": ("loss, target", "loss on target text", "nats per token"),
}
"""Column of the strength curve -> heading in tables, title and axis of its figure."""
READ = {"side": "side", "fit": "fitted with", "held_out": "held out"}
READ |= {"different": "different texts", "blank": "blank", "repeated": "repeated"}
READ |= {"shared": "elsewhere too", "fit_cut": "cut, of those fitted with"}
READ |= {"held_out_cut": "cut, of those held out"}
"""Column of `SteeringResult.read` -> heading."""


ENDS = ("", "_low", "_high")
METHOD = "method"
"""Column of the rivals' strength curves that says whose a row is."""


class Measured(Protocol):
    """What a page is made of; see `trimtab.steer.lineas.result.SteeringResult`."""

    @property
    def label(self) -> str:
        """The method."""
        ...

    @property
    def steering(self) -> Steering:
        """What was fitted."""
        ...

    @property
    def curve(self) -> pd.DataFrame:
        """Its strength curve."""
        ...

    @property
    def rivals(self) -> pd.DataFrame:
        """Strength curves of other methods."""
        ...

    @property
    def rival_samples(self) -> pd.DataFrame:
        """Completions with other methods."""
        ...

    @property
    def suggestion(self) -> Suggestion | None:
        """The suggested strength."""
        ...

    @property
    def costs(self) -> pd.DataFrame:
        """Transport costs by site."""
        ...

    @property
    def samples(self) -> pd.DataFrame:
        """Completions."""
        ...

    @property
    def read(self) -> pd.DataFrame:
        """Texts read, by side."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings."""
        ...

    @property
    def seconds(self) -> float:
        """The fit took."""
        ...

    def counts(self) -> dict[str, int]:
        """Side -> texts that its numbers are of."""
        ...


def sections(result: Measured) -> Iterator[Section]:
    """What was read, effect against side effect, the strength curve, completions, and where it acts."""
    if len(result.read):
        yield Section("What was read", list(_read(result.read)))
    yield Section("Effect against side effect", list(_trade_off(result)))
    yield Section("By strength", list(_by_strength(result)))
    if len(result.samples):
        yield Section("What the model writes", list(_completions(result)))
    yield Section("Where it acts", [_costs(result), picture(units_figure(result.steering))])
    facts = (("model", result.steering.base.name), ("seconds of the fit", f"{result.seconds:.1f}"))
    yield settings_section([*plain(dict(result.config)).items(), *facts])


def curves_of(result: Measured) -> dict[str, pd.DataFrame]:
    """Method -> its strength curve by rising strength: of the steering, then of its rivals."""
    every = result.rivals.groupby(METHOD, sort=False) if len(result.rivals) else ()
    curves = {result.label: result.curve} | {str(name): part for name, part in every}
    return {name: curve.sort_values("strength", kind="stable") for name, curve in curves.items()}


def trade_off_figure(curves: Mapping[str, pd.DataFrame], budget: float | None = None) -> Figure:
    """Lean against KL on neutral text: a line over strengths for each method, and the budget as an upright line."""
    clouds = dict[str, Cloud]()
    for name, curve in curves.items():
        x, y, low, high = (curve[column].tolist() for column in ("kl", "lean", "lean_low", "lean_high"))
        called = [f"strength {strength:g}" for strength in curve["strength"]]
        clouds[name] = Cloud(x, y, True, called, low, high)
    heights = [height for cloud in clouds.values() for height in cloud.heights if not missing(height)]
    bound = None
    if budget is not None and heights:
        bound = Cloud([budget, budget], [min(heights), max(heights)])
    axes = ("KL on neutral text, nats per token", "lean, nats per token")
    label = "Lean to the target against KL on neutral text, by method and strength"
    return curve_and_clouds(bound, clouds, axes_names=axes, title="effect against side effect", label=label)


def curve_figures(result: Measured) -> list[Figure]:
    """Lean, KL on neutral text, and both losses, by strength; what was not measured is left out."""
    curve, suggestion = result.curve.sort_values("strength", kind="stable"), result.suggestion
    budget = float("nan") if suggestion is None else suggestion.budget
    return [
        charts.line_band(
            curve["strength"].tolist(),
            *(curve[f"{name}{end}"].tolist() for end in ENDS),
            reference=0.0 if name == "lean" else float("nan"),
            limit=budget if name == "kl" else float("nan"),
            marked=None if suggestion is None else suggestion.strength,
            axis=axis,
            across="strength",
            title=title,
            label=f"{title} by strength, {axis}",
        )
        for name, (_, title, axis) in CURVES.items()
        if curve[name].notna().any()
    ]


def _trade_off(result: Measured) -> Iterator[Text | Picture | Table]:
    """Lean against KL of every method, with the suggested strength, and as a table."""
    suggestion = result.suggestion
    said = ("No strength is suggested, since no budget is stated.",)
    yield Text(" ".join(said if suggestion is None else suggestion.sentences()))
    curves, n = curves_of(result), _texts(result)
    if result.curve["kl"].isna().all():
        yield Text("The side effect was not measured, since there is no neutral text.", "unsure")
    else:
        budget = None if suggestion is None else suggestion.budget
        line = "" if budget is None else f" The upright line is the budget, {budget:g} nats per token."
        caption = (
            f"A point is a strength; up is more effect, right is more side effect.{line} {LEAN}{n} {COVERS}"
        )
        yield picture(trade_off_figure(curves, budget), caption)
    frame = pd.concat([curve.assign(**{METHOD: name}) for name, curve in curves.items()])
    method: dict[str, Any] = {METHOD: METHOD} if len(curves) > 1 else {}
    strengths = curves[result.label]["strength"].tolist()  # of the steering itself, which comes first
    marked = [place for place, one in enumerate(strengths) if suggestion and one == suggestion.strength]
    shown = written(frame, method | _headings(frame, ("lean", "kl")))
    yield Table(shown, f"In nats per token. {COVERS}", marked=marked)


def _by_strength(result: Measured) -> Iterator[Gallery | Table]:
    """The steering's own curves, with the suggested strength and the budget; its losses as a table."""
    lines = "The upright line is the suggested strength, and the dashed one the budget. "
    drawn = lines if result.suggestion is not None and result.suggestion.strength is not None else ""
    yield gallery(curve_figures(result), f"{drawn}{COVERS}")
    curve = result.curve.sort_values("strength", kind="stable")
    losses = _headings(curve, ("source_loss", "target_loss"))
    yield Table(written(curve, losses), f"Losses in nats per token. {COVERS}")


def _headings(curve: pd.DataFrame, names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Headings of some columns of a strength curve, without what was not measured."""
    headings: dict[str, Sequence[str]] = {"strength": ("strength", "g")}
    for name in names:
        if curve[name].notna().any():
            ends = (f"{name}{end}" for end in ENDS)
            headings[CURVES[name][0]] = (*ends, "+.3" if name == "lean" else ".3")
    return headings


def _texts(result: Measured) -> str:
    """The numbers of held-out texts as a sentence, after a space; nothing where the run did not note them."""
    texts = "; ".join(f"{side}: {count} held-out texts" for side, count in result.counts().items())
    return f" {texts[0].upper()}{texts[1:]}." if texts else ""


def _completions(result: Measured) -> Iterator[Text | Table | Section]:
    """Completions side by side, a table for each method and a column for each strength."""
    yield Text("Greedy completions of the same prompts at each strength; nothing is chosen or left out.")
    every = result.rival_samples.groupby(METHOD, sort=False) if len(result.rival_samples) else ()
    others = {str(name): part for name, part in every}
    yield _completed(result.samples, f"{result.label}." if others else "")
    for name, samples in others.items():
        yield _completed(samples, f"{name}.")
    prompts = pd.DataFrame({"in full": list(dict.fromkeys(result.samples["prompt"]))})
    prompts.insert(0, "prompt", [ending(prompt) for prompt in prompts["in full"]])
    if (prompts["prompt"] != prompts["in full"]).any():
        yield Section("Prompts in full", [Table(prompts)], collapsed=True)


def ending(prompt: str) -> str:
    """End of a long prompt: its last line where that is short, such as the last message; a short one is whole.

    >>> ending("system: " + 60 * "Be short. " + "\\nuser: Who are you?")
    '… user: Who are you?'
    >>> ending("Who are you?")
    'Who are you?'
    """
    if len(prompt) <= LONGEST_PROMPT:
        return prompt
    last = prompt.rstrip().rpartition("\n")[2]
    if len(last) > LONGEST_PROMPT:
        last = last[-LONGEST_PROMPT:].partition(" ")[2] or last[-LONGEST_PROMPT:]
    return f"… {last}"


def _completed(samples: pd.DataFrame, title: str) -> Table:
    """Completions of one method; words that differ from those at the smallest strength are marked."""
    # Two prompts may read alike: conversations that differ in variables of their template.
    numbered = samples.assign(number=samples.groupby("strength").cumcount())
    wide = numbered.pivot(index=["number", "prompt"], columns="strength", values="text")
    first = wide.columns[0]
    marked: dict[str, list[Any]] = {
        "prompt": [ending(prompt) for prompt in wide.index.get_level_values("prompt")]
    }
    for strength in wide.columns:
        pairs = zip(wide[first], wide[strength], strict=True)
        marked[f"strength {float(strength):g}"] = [changed_words(*pair) for pair in pairs]
    caption = f"Marked: words that differ from the completion at strength {float(first):g}."
    return Table(
        pd.DataFrame(marked), " ".join(filter(None, [title, caption if len(wide.columns) > 1 else ""]))
    )


def units_figure(steering: Steering) -> Figure:
    """The share of units that each site's map changes, along its units."""
    table = np.full((len(steering.maps), BINS), np.nan)
    for row, (weight, shift) in zip(table, steering.maps.values(), strict=True):
        changed = np.asarray((weight != 1) | (shift != 0), dtype=float)
        shares = [part.mean() for part in np.array_split(changed, BINS) if len(part)]
        row[: len(shares)] = shares
    return charts.raster(
        table[:, ~np.isnan(table).all(axis=0)],
        without_common_ends(list(steering.maps)),
        of=list(steering.maps),
        axis="share changed",
        across=f"units, in at most {BINS} groups",
        title="Where it acts",
        label="Share of units that the map of each site changes, along its units",
    )


def without_common_ends(names: Sequence[str]) -> list[str]:
    """Names of sites without their common beginning and end.

    >>> without_common_ends(["model.layers.0.mlp:out", "model.layers.11.mlp:out"])
    ['0', '11']
    >>> without_common_ends(["model.norm:out"])
    ['model.norm:out']
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    same = [len({tuple(part[:k]) for part in parts}) == 1 for k in range(shortest)]
    first = max(k for k in range(shortest) if same[k])
    ends = [len({tuple(part[len(part) - k :]) for part in parts}) == 1 for k in range(shortest - first)]
    last = max(k for k in range(shortest - first) if ends[k])
    return [".".join(part[first : len(part) - last]) for part in parts] if len(names) > 1 else list(names)


def _read(read: pd.DataFrame) -> Iterator[Text | Table]:
    """Counts of texts by side: used, left out and cut."""
    rows = read.to_dict("records")
    cut = [
        f"{row['fit_cut'] + row['held_out_cut']} of {row['fit'] + row['held_out']} {row['side']} texts"
        for row in rows
        if row["fit_cut"] + row["held_out_cut"]
    ]
    if cut:
        yield Text(f"Longer than the limit of tokens, and cut there: {', '.join(cut)}.", "unsure")
    short = [
        f"{row['held_out'] - row['scored']} {row['side']}"
        for row in rows
        if row["scored"] < row["held_out"] and row["side"] != "neutral"
    ]
    if short:
        text = f"Held-out texts of a single token, of which no loss is told: {', '.join(short)}."
        yield Text(text, "unsure")
    caption = "Texts. Blank and repeated ones were left out, and those of another side or to fit with."
    yield Table(read[list(READ)].rename(columns=READ), caption)


def _costs(result: Measured) -> Table:
    frame, untouched = result.costs.copy(), result.steering.sparsity()
    frame["share left"] = [
        NOTHING if missing(before) or before == 0 else fixed(after / before, 2)
        for before, after in zip(frame["before"], frame["after"], strict=True)
    ]
    frame["units left alone"] = [percent(untouched[site]) for site in frame["site"]]
    caption = (
        "Squared 1-D Wasserstein distance between pooled activations of source texts and of target texts, mean over "
        "units, each in units of the target's variance; at strength 0 and at 1, on held-out texts."
    )
    return Table(frame, caption, {"before": number, "after": number})
