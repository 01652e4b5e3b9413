"""Page of HyperTransport: pictures by strength, fidelities against each other, novelty, and when training pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from trimtab.report.formats import fixed, missing, number
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
from trimtab.report.picture_grid import picture_grid
from trimtab.runs.serialise import plain
from trimtab.steer.hypertransport.measuring import (
    ALL_HELD_OUT,
    BUDGET,
    DISTANCE,
    HYPER,
    LINEAS,
    MEAN,
    NEAREST,
    ORACLE,
    PROMPTING,
    RIDGE,
    SCORES,
    TRUTH,
    UNSTEERED,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    HYPER: "HyperTransport",
    LINEAS: "LinEAS, fitted to each",
    RIDGE: "ridge regression",
    NEAREST: "nearest concept",
    MEAN: "mean of all",
    ORACLE: "affine oracle",
    PROMPTING: "prompting",
    TRUTH: "true picture",
    UNSTEERED: "unsteered",
}
"""Method -> its name on the page."""
AXES = ("fidelity to the input", "fidelity to the concept")
COVERS = "Intervals are 95 %, over concepts."
MOST_DIALS = 3
"""Strengths whose pictures are shown, at most."""
Block = Text | Table | Picture | Gallery | Section


class Measured(Protocol):
    """What a page is made of; see `trimtab.steer.hypertransport.result.HyperTransportResult`."""

    @property
    def table(self) -> pd.DataFrame:
        """Fidelities of each concept."""
        ...

    @property
    def means(self) -> pd.DataFrame:
        """Mean fidelities."""
        ...

    @property
    def equal(self) -> pd.DataFrame:
        """Concept fidelity at equal input fidelity."""
        ...

    @property
    def concepts(self) -> pd.DataFrame:
        """Novelty and seconds."""
        ...

    @property
    def samples(self) -> pd.DataFrame:
        """Outputs."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Single numbers."""
        ...

    @property
    def measured_by(self) -> str:
        """Judge or encoder."""
        ...

    @property
    def break_even(self) -> float:
        """Concepts from which training pays."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings."""
        ...

    @property
    def seconds(self) -> float:
        """The run took."""
        ...


def sections(result: Measured) -> Iterator[Section]:
    """Sections of the page, in the order in which a reader asks."""
    if len(result.samples):
        yield Section("What it makes", list(_samples(result)))
    yield Section("Concept against input", list(_plane(result)))
    yield Section("Novelty against quality", list(_novelty(result)))
    yield Section("When training pays", list(_paying(result)))
    yield Section("Every concept", [_every(result)], collapsed=True)
    yield settings_section([*plain(dict(result.config)).items(), ("seconds", f"{result.seconds:.1f}")])


def _samples(result: Measured) -> Iterator[Block]:
    """A grid of pictures for each of a few concepts, or a table of texts; the first ones of each split."""
    chosen = (
        result.samples.drop_duplicates("concept").groupby("split", sort=False).head(2)["concept"].tolist()
    )
    novelty = dict(zip(result.concepts["concept"], result.concepts["novelty"], strict=True))
    text = "The same prompts and the same noise in each column. Concepts are the first of each split; none is chosen."
    yield Text(text)
    for concept in chosen:
        part = result.samples[result.samples["concept"] == concept]
        title = f"{concept} ({part['split'].iloc[0]}, novelty {fixed(novelty[concept], 2)})"
        if part["png"].astype(bool).any():
            yield Section(title, [_grid(part, title)])
        else:
            yield Section(title, [_texts(part)])


def _texts(part: pd.DataFrame) -> Table:
    """Texts of each method and strength; words that the unsteered model does not write there are marked."""
    columns = [_column(*pair) for pair in zip(part["method"], part["strength"], strict=True)]
    wide = part.assign(column=columns).pivot_table(
        index="prompt", columns="column", values="text", aggfunc="first", sort=False
    )
    marked: dict[str, list[Any]] = {"prompt": wide.index.tolist()}
    for name in wide.columns:
        pairs = zip(wide[UNSTEERED], wide[name], strict=True)
        marked[str(name)] = [changed_words(*pair) for pair in pairs]
    return Table(pd.DataFrame(marked), "Marked: words that differ from those of the unsteered model.")


def _grid(part: pd.DataFrame, title: str) -> Picture:
    dials = sorted(part.loc[part["method"] == HYPER, "strength"].unique())
    kept = dials if len(dials) <= MOST_DIALS else [dials[0], dials[(len(dials) - 1) // 2], dials[-1]]
    wanted: list[tuple[str, float]] = [
        (UNSTEERED, 0.0),
        *((HYPER, one) for one in kept),
        (TRUTH, float("nan")),
    ]
    fitted = (LINEAS, RIDGE, NEAREST, MEAN, ORACLE)
    wanted += [(PROMPTING, float("nan")), *((method, dials[-1]) for method in fitted)]
    cells: dict[str, dict[str, str]] = {}
    for row in part.to_dict("records"):
        key = _column(row["method"], row["strength"])
        cells.setdefault(key, {}).setdefault(row["prompt"], row["png"])
    columns = [name for pair in wanted if (name := _column(*pair)) in cells]
    prompts = list(dict.fromkeys(part["prompt"]))
    rows = [(prompt, [cells[name].get(prompt, "") for name in columns]) for prompt in prompts]
    return picture_grid(rows, columns, label=f"Pictures by strength and method: {title}")


def _column(method: str, strength: float) -> str:
    """The heading of a column."""
    if method == HYPER:
        return f"strength {strength:g}"
    return {LINEAS: "LinEAS", RIDGE: "ridge", NEAREST: "nearest", MEAN: "mean", TRUTH: "true picture"}.get(
        method, method
    )


def _plane(result: Measured) -> Iterator[Block]:
    how = (
        "shares of pictures, as a judge sees them"
        if result.measured_by == "judge"
        else f"cosines by {result.measured_by}"
    )
    if result.measured_by == "the encoder of training":
        yield Text(
            "Fidelities are by the encoder that conditions came from. Another one is safer: judge_encoder.",
            "unsure",
        )
    lacking = result.table.groupby("method")["concept"].nunique()
    if int(lacking.get(PROMPTING, 0)) < int(lacking.max()):
        yield Text(
            "Prompting was not measured of each concept: the generator does not know the words.", "unsure"
        )
    splits = dict.fromkeys(result.means["split"])
    drawn = [one for one in splits if one != ALL_HELD_OUT or len(splits) > 2]
    caption = f"A point is a strength; up is more of the concept, right is more of the input. {COVERS}"
    yield gallery([plane_figure(result.means, split) for split in drawn], caption)
    columns: dict[str, Any] = {
        "method": ("method", NAMES.__getitem__),
        "strength": ("strength", _dial),
    }
    for name, heading in zip(SCORES, ("concept", "input"), strict=True):
        columns[heading] = (name, f"{name}_low", f"{name}_high", ".3")
    far = ""
    if result.means[DISTANCE].notna().any():
        columns["distance"] = (DISTANCE, f"{DISTANCE}_low", f"{DISTANCE}_high", ".3")
        far = " Distance: mean difference of pixels in [0, 1] from the true picture, lower is better."
    frame = result.means[result.means["split"] == ALL_HELD_OUT]
    yield Table(
        written(frame, columns | {"n": "n"}), f"Of all held-out concepts. Fidelities are {how}.{far} {COVERS}"
    )
    frame = result.equal.assign(method=[NAMES[one] for one in result.equal["method"]])
    columns = {
        "concepts": "split",
        "method": "method",
        "concept": ("concept_fidelity", "low", "high", ".3"),
        "n": "n",
    }
    caption = (
        f"Fidelity to the concept at equal input fidelity: at the strength that loses {BUDGET:g} of it, or at the "
        f"largest. Strengths of different methods do not compare otherwise. {COVERS}"
    )
    yield Table(written(frame, columns), caption)


def _dial(strength: float) -> str:
    return "" if missing(strength) else f"{strength:g}"


def plane_figure(means: pd.DataFrame, split: str = ALL_HELD_OUT) -> Figure:
    """Fidelity to the concept against that to the input, a line over strengths for each method."""
    clouds = dict[str, Cloud]()
    part = means[means["split"] == split]
    start = part[part["method"] == UNSTEERED]
    for method in dict.fromkeys(part["method"]):
        line = part[part["method"] == method]
        if joined := bool(line["strength"].gt(0).any()):
            line = pd.concat([start, line])
        line = line.sort_values("strength", kind="stable")
        x, y = (line[name].tolist() for name in reversed(SCORES))
        called = ["" if missing(dial) else f"strength {dial:g}" for dial in line["strength"]]
        low, high = (line[f"{SCORES[0]}_{end}"].tolist() for end in ("low", "high"))
        clouds[NAMES[method]] = Cloud(x, y, joined, called, low, high)
    label = f"Fidelity to the concept against fidelity to the input, {split}, by method and strength"
    return curve_and_clouds(None, clouds, axes_names=AXES, title=split, label=label)


def _novelty(result: Measured) -> Iterator[Block]:
    full = result.table[
        (result.table["method"] == HYPER) & (result.table["strength"] == result.table["strength"].max())
    ]
    frame = full.merge(result.concepts[["concept", "novelty"]], on="concept")
    clouds = {
        str(split): Cloud(part["novelty"].tolist(), part["concept_fidelity"].tolist())
        for split, part in frame.groupby("split", sort=False)
    }
    names, usual = ("novelty", AXES[1]), result.facts.get("usual_novelty")
    label = "Fidelity to the concept of HyperTransport by novelty of the concept, at the largest strength"
    caption = (
        "Novelty is 1 less the cosine to the nearest training concept. "
        f"Of training concepts among themselves, 95 % are below {number(usual)}. What lies beyond was not trained on."
    )
    figure = curve_and_clouds(None, clouds, axes_names=names, title="novelty against quality", label=label)
    yield picture(figure, caption)
    beyond = result.concepts[
        result.concepts["novelty"] > (float("inf") if missing(usual) else float(str(usual)))
    ]
    if len(beyond):
        yield Text(f"Outside of what was trained on: {', '.join(map(str, beyond['concept']))}.", "unsure")


def _paying(result: Measured) -> Iterator[Block]:
    training, each, rival, maps = (
        float("nan") if (it := result.facts.get(f"{name}_seconds")) is None else float(it)
        for name in ("training", HYPER, LINEAS, "maps")
    )
    columns = {
        "what": [
            "training, once",
            "a steering by HyperTransport",
            "a steering by LinEAS",
            "maps of all training concepts",
        ]
    }
    times = [training, each, rival, maps]
    yield Table(pd.DataFrame(columns | {"seconds": times}), "Seconds of this run, on this machine.")
    if missing(result.break_even):
        yield Text(
            "No number of concepts is known from which training once is quicker than fitting each.", "unsure"
        )
        return
    yield Text(
        f"From {result.break_even:.0f} concepts on, training once is quicker than fitting LinEAS to each."
    )
    ends = [0.0, 2 * result.break_even]
    clouds = {
        NAMES[HYPER]: Cloud(ends, [training + n * each for n in ends], joined=True),
        NAMES[LINEAS]: Cloud(ends, [n * rival for n in ends], joined=True),
    }
    label = "Seconds by number of concepts, of training once and of fitting each"
    yield picture(
        curve_and_clouds(
            None, clouds, axes_names=("concepts", "seconds"), title="seconds in all", label=label
        )
    )


def _every(result: Measured) -> Table:
    columns: dict[str, Any] = {
        "concept": "concept",
        "split": "split",
        "method": ("method", NAMES.__getitem__),
    }
    columns["strength"] = ("strength", _dial)
    for name, heading in zip(SCORES, ("to concept", "to input"), strict=True):
        columns[heading] = (name, f"{name}_low", f"{name}_high", ".3")
    return Table(written(result.table, columns | {"n": "n"}), "Intervals are 95 %, over prompts.")


def short_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """The scores of one row of means, in words for a summary."""
    if not rows:
        return "not measured"
    row = rows[0]
    told = [
        f"{fixed(row[name])} ({fixed(row[f'{name}_low'])} to {fixed(row[f'{name}_high'])})" for name in SCORES
    ]
    return f"{told[0]} to the concept and {told[1]} to the input"
