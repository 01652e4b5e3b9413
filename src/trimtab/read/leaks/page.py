"""Page of a leak audit: what is served gives away, by tokens and layer, mitigations with utility, controls, accounting.

Every number on the page is of a frame of the result. Roles stand apart throughout: what a question mentions, what it
does not mention, and what is in the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from trimtab.read.leaks import figures as drawn
from trimtab.read.leaks.recommendation import (
    ABOVE,
    BY_ESTIMATE,
    LEAST_BITS,
    NO_LEAK,
    RISK,
    SHOWN,
    UNKNOWN,
    UNMITIGATED,
    reads,
    risk_of,
    risk_table,
    served_rows,
    unmeasured,
)
from trimtab.report.formats import fixed, missing, number, span
from trimtab.report.page import (
    Gallery,
    Mark,
    Picture,
    Section,
    Table,
    Text,
    Tone,
    gallery,
    settings_section,
    written,
)
from trimtab.runs.serialise import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 6
"""Attributes and roles that are drawn, at most."""


class Audited(Protocol):
    """What a page is made of; see `trimtab.read.leaks.result.LeaksResult`."""

    @property
    def table(self) -> pd.DataFrame:
        """Leak of each level."""
        ...

    @property
    def controls(self) -> pd.DataFrame:
        """Leak of each control."""
        ...

    @property
    def checks(self) -> pd.DataFrame:
        """Data-processing inequality."""
        ...

    @property
    def mitigations(self) -> pd.DataFrame:
        """Leak and utility under each mitigation."""
        ...

    @property
    def accounting(self) -> pd.DataFrame:
        """Rows in, set aside, used; and what could not be measured."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Single numbers."""
        ...

    @property
    def max_bits(self) -> float | None:
        """The stated bound."""
        ...

    @property
    def findings(self) -> tuple[str, ...]:
        """What a reader should know."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings."""
        ...

    @property
    def seconds(self) -> float:
        """The run took."""
        ...


COVERS = "Intervals are 95 %, over groups."
BITS = (
    "Bits: how far the cross-entropy of the best classifier is below that of the question alone. "
    "They are a lower bound on what a caller can learn."
)
TONES: dict[str, Tone] = {
    NO_LEAK: "good",
    SHOWN: "unsure",
    BY_ESTIMATE: "unsure",
    ABOVE: "bad",
    UNKNOWN: "unsure",
}
Block = Text | Table | Picture | Gallery | Section
ESTIMATES: dict[str, Sequence[Any]] = {
    "bits": ("bits", "low", "high", "+.3"),
    "accuracy": ("accuracy", "accuracy_low", "accuracy_high", ".3"),
}


def sections(result: Audited) -> Iterator[Section]:
    """Sections of the page, in the order in which a reader asks."""
    yield Section("What is served gives away", list(_risks(result)))
    yield Section("Levels", list(_levels(result)))
    for title, blocks in (
        ("By number of tokens", _by_tokens(result)),
        ("By layer", _by_layer(result)),
        ("Trajectory against logits", _trajectory(result)),
        ("Mitigations", _mitigations(result)),
        ("Controls", _controls(result)),
        ("Checks", _checks(result)),
    ):
        if found := list(blocks):
            yield Section(title, found)
    yield Section("What was not measured", list(_missing(result)))
    if result.findings:
        yield Section("What to know", [Text(finding) for finding in result.findings])
    yield Section("Accounting", list(_accounting(result)), collapsed=len(result.accounting) > 20)
    yield settings_section([*plain(result.config).items(), ("seconds", f"{result.seconds:.1f}")])


def figure(result: Audited) -> Figure:
    """The main figure, of the attribute that leaks most: bits by number of tokens, or by level where that is one."""
    pairs = _pairs(result.table)
    if not pairs:
        return drawn.bits_figure([], result.table, "nothing measured", "Bits by level", result.max_bits)
    rows = _of(result.table, pairs[0])
    with_tokens = rows[rows["k"].notna() & rows["level"].isin(["logits", "logprobs"])]
    if with_tokens["k"].nunique() > 1:
        return drawn.tokens_figure(with_tokens, _random(result, pairs[0]), _title(pairs[0]), result.max_bits)
    return _by_level(result, pairs[0])


def _risks(result: Audited) -> Iterator[Block]:
    """The risk of each attribute and role, the recommendation, and the answers' accuracy."""
    unknown = unmeasured(result.table, result.accounting)
    risks = risk_table(result.table, result.max_bits, unknown)
    bound = "" if result.max_bits is None else f" The bound is {number(result.max_bits)} bits."
    if not len(risks):
        yield Text("No level that a caller sees was measured.", "unsure")
    else:
        frame = risks.reindex(columns=list(RISK))
        columns: dict[str, Any] = {"attribute": "attribute", "role": "role"}
        columns |= {"risk": ("risk", lambda risk: Mark(risk, TONES.get(risk, "")))}
        columns |= {"bits": ESTIMATES["bits"], "accuracy": ("accuracy", ".3"), "chance": ("chance", ".3")}
        columns |= {"by": "served", "picked from": "looks"}
        caption = (
            f"{BITS} {COVERS} A leak is shown where the interval is above 0.{bound} Each line is the strongest of "
            "the served rows that it was picked from. No interval is corrected for that choice."
        )
        yield Table(written(frame, columns), caption)
    if result.facts:
        yield Table(pd.DataFrame(_facts(result.facts)), "Single numbers of this audit; intervals are 95 %.")


def _facts(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Single numbers, with their intervals and n where they have them."""
    for name, fact in facts.items():
        known: Mapping[str, Any] = fact if isinstance(fact, Mapping) else {"value": fact}
        value, ends = known.get("value"), span(known.get("low"), known.get("high"))
        text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        text = fixed(value, 3) if known.get("low") is not None else text
        measured = FACTS.get(str(name), str(name).replace("_", " "))
        yield {"measured": measured, "value": text, "interval": ends, "n": known.get("n")}


FACTS = {
    "served": "log-probabilities per answer token",
    "sampled": "share of answers that are not the likeliest token",
    "readings_bytes": "readings of the model, bytes",
    "reading_seconds": "time to read the model, seconds",
}
"""Names of single numbers that are not plain words already."""


def _levels(result: Audited) -> Iterator[Block]:
    """The strongest row of each level, drawn and as a table, then every row."""
    if not len(result.table):
        yield Text("Nothing could be measured.", "unsure")
        return
    if shown := _pairs(result.table)[:MOST_PANELS]:
        drawn_ones = f"The strongest row of each level. Dotted: the question alone.{_dashed(result)} {COVERS}"
        panels = [_by_level(result, pair) for pair in shown]
        yield gallery(panels, drawn_ones + _left_out(result.table, shown))
    best = pd.concat([_best(_of(result.table, pair)) for pair in _pairs(result.table, in_order=True)])
    caption = (
        "The strongest row of each level. Question alone: accuracy of a classifier of its words, which needs no model. "
        f"{BITS} {COVERS}"
    )
    yield Table(_rows(best).drop(columns=["groups", "classifier"]), caption)
    every = Table(_rows(result.table), f"Classifier: the one chosen in most folds. {COVERS}")
    yield Section("Every row", [every], collapsed=True)


def _by_level(result: Audited, pair: tuple[str, str]) -> Figure:
    best = _best(_of(result.table, pair))
    names = [drawn.short_name(row) for row in best.to_dict("records")]
    return drawn.bits_figure(names, best, _title(pair), f"Bits by level: {_title(pair)}", result.max_bits)


def _rows(rows: pd.DataFrame) -> pd.DataFrame:
    frame = rows.assign(read=[reads(row) for row in rows.to_dict("records")])
    columns: dict[str, Any] = {"attribute": "attribute", "role": "role", "read": "read"} | ESTIMATES
    columns |= {"chance": ("chance", ".3"), "question alone": ("question_only", ".3")}
    return written(frame, columns | {"n": "n", "groups": "groups", "classifier": "classifier"})


def _by_tokens(result: Audited) -> Iterator[Block]:
    rows = result.table[result.table["k"].notna() & result.table["level"].isin(["logits", "logprobs"])]
    if rows["k"].nunique() < 2:
        return
    panels = []
    for pair in (shown := _pairs(rows)[:MOST_PANELS]):
        panels.append(
            drawn.tokens_figure(_of(rows, pair), _random(result, pair), _title(pair), result.max_bits)
        )
    if panels:
        drawn_too = {*rows["encoding"]} | (
            {"random"} if any(len(_random(result, pair)) for pair in shown) else set()
        )
        lines = " ".join(words for name, words in LINES.items() if name in drawn_too)
        caption = f"{lines} Dotted: the question alone.{_dashed(result)} {COVERS}{_left_out(rows, shown)}"
        yield gallery(panels, caption)


LINES = {
    "sorted": "Sorted values are those of the weakest attacker, who ignores the tokens.",
    "served": "Ids with values are what a server sends.",
    "fixed": "Fixed tokens can be read with logit biases or with the weights.",
    "random": "Random tokens are the control: as many logits, drawn by chance.",
}
"""What each encoding is."""


def _by_layer(result: Audited) -> Iterator[Block]:
    rows = result.table[result.table["level"] == "hidden"]
    if rows["layer"].nunique() < 2:
        return
    panels = []
    for pair in (shown := _pairs(rows)[:MOST_PANELS]):
        of = _of(rows, pair)
        references = {"largest class": float(of["chance"].iloc[0])}
        if not missing(of["question_only"].iloc[0]):
            references["question alone"] = float(of["question_only"].iloc[0])
        controls = _of(result.controls, pair)
        for name in ("text", "pixels", "untrained model"):
            value = controls.loc[controls["control"] == name, "accuracy"].astype(float).max()
            if not missing(value) and len(references) < 4:
                references[name] = float(value)
        panels.append(drawn.layers_figure(of, references, _title(pair)))
    if panels:
        caption = (
            "Accuracy out of fold from the hidden state at the answer position. Across: controls. Text or pixels are "
            f"the input itself, read by the same classifiers. {COVERS}{_left_out(rows, shown)}"
        )
        yield gallery(panels, caption)


def _trajectory(result: Audited) -> Iterator[Block]:
    """Trajectories beside outputs: the strongest row of each lens, of outputs of about as many numbers, of controls."""
    rows = result.table[result.table["level"] == "trajectory"]
    panels = []
    for pair in (shown := _pairs(rows)[:MOST_PANELS]):
        of = _of(result.table, pair)
        outputs = of[of["level"].isin(["logits", "logprobs"])].sort_values(
            ["level", "encoding", "k"], kind="stable"
        )
        largest = outputs.groupby(["level", "encoding"], sort=False).tail(1)
        random = _random(result, pair).sort_values("k", kind="stable").tail(1)
        lines = pd.concat([_of(rows, pair), largest, random])
        names = [drawn.short_name(row) for row in pd.concat([_of(rows, pair), largest]).to_dict("records")]
        names += [f"{k:.0f} random tokens" for k in random["k"]]
        label = f"Bits of trajectories and outputs: {_title(pair)}"
        panels.append(drawn.bits_figure(names, lines, _title(pair), label, result.max_bits))
    if panels:
        caption = (
            "A trajectory follows the likeliest tokens through a lens over all layers. No caller sees it. Outputs are "
            f"those with the most tokens. It reads all layers, so it may give away more than any output. {COVERS}"
        )
        yield gallery(panels, caption + _left_out(rows, shown))


def _mitigations(result: Audited) -> Iterator[Block]:
    rows = result.mitigations
    if not len(rows):
        return
    plain = rows[(rows["mitigation"] == UNMITIGATED) & rows["bits"].notna()]
    forests, trades = [], []
    for pair in (shown := _pairs(plain)[:MOST_PANELS]):
        of = _of(rows, pair)
        label = f"Bits under each mitigation: {_title(pair)}"
        forests.append(drawn.bits_figure(drawn.served_as(of), of, _title(pair), label, result.max_bits))
        if (_of(plain, pair)["low"].astype(float) > LEAST_BITS).all():
            trades.append(drawn.trade_figure(of, _title(pair)))
    caption = (
        f"Bits that are left when the attacker is trained anew on what is served. Dotted: the question alone."
        f"{_dashed(result)} {COVERS}{_left_out(plain, shown)}"
    )
    if forests:
        yield gallery(forests, caption)
    if trades:
        caption = (
            "Bits that are left, against what an honest caller loses, where a leak is shown without a mitigation. "
            "Settings of nearly equal cost stand side by side."
        )
        yield gallery(trades, f"{caption} {COVERS}")
    yield _utilities(rows)
    yield Section("Leak and change of each", [_changes(rows, result.max_bits)], collapsed=True)


def _utilities(rows: pd.DataFrame) -> Table:
    """Utility by setting, over all rows that are served."""
    settings = rows.drop_duplicates(["mitigation", "setting"])
    columns: dict[str, Any] = {"mitigation": "mitigation", "setting": "setting"}
    columns |= {"same first token": ("same_answer", "same_answer_low", "same_answer_high", ".3")}
    columns["answer's error, nats"] = (*(f"answer_error_nats{end}" for end in ("", "_low", "_high")), ".3")
    columns["tokens kept"] = ("kept", "kept_low", "kept_high", ".3")
    if settings["answer_brier_error"].notna().any():
        columns["Brier error"] = (*(f"answer_brier_error{end}" for end in ("", "_low", "_high")), ".3")
    caption = (
        "Utility for a caller who asks once, over all rows that are served. Answer's error: mean absolute change of "
        "the answer's log-probability. Brier error: mean squared error of the answer's probability against its being "
        f"right. Truncation by itself changes no value. {COVERS}"
    )
    return Table(written(settings, columns), caption)


def _changes(rows: pd.DataFrame, max_bits: float | None) -> Table:
    risks = [risk_of(row["bits"], row["low"], row["high"], max_bits) for row in rows.to_dict("records")]
    columns: dict[str, Any] = {name: name for name in ("mitigation", "setting", "attribute", "role")}
    columns["risk"] = ("risk", lambda risk: Mark(risk, TONES.get(risk, "")))
    columns |= ESTIMATES | {"change, bits": ("change", "change_low", "change_high", "+.3"), "n": "n"}
    caption = (
        "Change: bits with the mitigation less those without it, paired over the same questions. Erasure is fitted on "
        f"one half of the groups and tested on the other, so its n is smaller. {COVERS}"
    )
    return Table(written(rows.assign(risk=risks), columns), caption)


def _controls(result: Audited) -> Iterator[Block]:
    if not len(result.controls):
        return
    columns: dict[str, Any] = {"attribute": "attribute", "role": "role", "control": "control"}
    if "level" in result.controls:
        columns["reads"] = "level"
    columns |= {"tokens": "k"} | ESTIMATES | {"chance": ("chance", ".3"), "n": "n"}
    caption = (
        "Question-only needs no model. Random tokens have as many numbers as the outputs. Text or pixels are the input "
        "itself, read by the same classifiers. Shuffled labels have nothing to find. An untrained model has learned "
        f"nothing. {COVERS}"
    )
    yield Table(written(result.controls, columns), caption)


def _checks(result: Audited) -> Iterator[Block]:
    if not len(result.checks):
        return
    columns: dict[str, Any] = {name: name for name in ("attribute", "role", "lesser", "greater")}
    columns |= {"lesser minus greater, bits": ("bits", "low", "high", "+.3"), "n": "n"}
    columns["holds"] = ("holds", lambda holds: Mark("yes", "good") if holds else Mark("no", "bad"))
    caption = (
        "Outputs are made from the last hidden state, so they cannot hold more about the input. Where a check fails, "
        f"the classifier of the greater side was too weak. Differences are paired. {COVERS}"
    )
    yield Table(written(result.checks, columns), caption)


def _missing(result: Audited) -> Iterator[Block]:
    """What was not measured: cells that failed, levels that were not asked for, mitigations that were not tried."""
    failed = (
        result.accounting[result.accounting["rows"].isna()] if len(result.accounting) else result.accounting
    )
    if len(failed):
        yield Table(failed[["where", "why"]].reset_index(drop=True), "Cells that could not be measured.")
    if len(result.mitigations) and len(gone := result.mitigations[result.mitigations["bits"].isna()]):
        names = ["mitigation", "setting", "attribute", "role", *(["why"] if "why" in gone else [])]
        yield Table(gone[names].reset_index(drop=True), "Mitigated outputs that could not be measured.")
    read = set(result.table["level"])
    if absent := [words for level, words in LEVELS.items() if level not in read]:
        yield Text(f"Not read: {', '.join(absent)}.")
    if not len(result.mitigations):
        yield Text("No mitigation was tried.")
    if not len(result.controls):
        yield Text("No controls were measured, so no leak here is set against them.", "unsure")
    yield Text(
        "A stronger classifier, more questions or other attributes may show more. What is not shown here is not "
        "excluded."
    )


LEVELS = {
    "hidden": "hidden states",
    "trajectory": "trajectories of a lens",
    "logits": "logits",
    "logprobs": "served log-probabilities",
    "answer": "the answer alone",
}
"""Levels in words."""


def _accounting(result: Audited) -> Iterator[Block]:
    frame = result.accounting
    counted = frame[frame["rows"].notna()] if len(frame) else frame
    if len(counted):
        caption = "Rows that came in, were set aside and why, and were used."
        yield Table(counted.astype({"rows": int}).reset_index(drop=True), caption)
    else:
        yield Text("No rows were counted.")


def _pairs(rows: pd.DataFrame, *, in_order: bool = False) -> list[tuple[str, str]]:
    """Attributes with their roles, those with the most bits first, or in the order of the table."""
    pairs = [
        (str(attribute), str(role))
        for attribute, role in dict.fromkeys(zip(rows["attribute"], rows["role"], strict=True))
    ]
    if in_order:
        return pairs
    seen = served_rows(rows) if "level" in rows and len(served_rows(rows)) else rows
    most = seen.groupby(["attribute", "role"])["bits"].max().to_dict() if len(seen) else {}
    return sorted(pairs, key=lambda pair: -np.nan_to_num(float(most.get(pair, np.nan)), nan=-np.inf))


def _of(rows: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return rows[(rows["attribute"] == pair[0]) & (rows["role"] == pair[1])]


def _random(result: Audited, pair: tuple[str, str]) -> pd.DataFrame:
    rows = _of(result.controls, pair)
    return rows[(rows["control"] == "random tokens") & rows["k"].notna()]


def _best(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of most bits of each level, in the order of the levels; those of one attribute and role."""
    ranked = rows.sort_values("bits", ascending=False, kind="stable").drop_duplicates("level")
    order = {level: place for place, level in enumerate(LEVELS)}
    return ranked.sort_values("level", key=lambda names: names.map(order), kind="stable")


def _title(pair: tuple[str, str]) -> str:
    return f"{pair[0]} ({pair[1]})"


def _dashed(result: Audited) -> str:
    return "" if result.max_bits is None else " Dashed: the bound."


def _left_out(rows: pd.DataFrame, shown: Sequence[tuple[str, str]]) -> str:
    """A sentence on what is not drawn; empty where all is."""
    every = len(_pairs(rows))
    return f" Drawn are {len(shown)} of {every} attributes with their roles, those with the most bits." * (
        every > len(shown)
    )
