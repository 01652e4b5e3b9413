"""Tables of a comparison: changes with their verdicts, predictions, the examples that changed most, changed answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trimtab.adapt.compare.domains import Asked
from trimtab.adapt.compare.reading import Reading
from trimtab.adapt.compare.tasks import Answers
from trimtab.adapt.compare.verdicts import (
    LEVEL,
    RESOLUTION,
    Harm,
    accuracy_harm,
    holm,
    loss_harm,
    mean_with_ends,
    share_with_ends,
)
from trimtab.models.chat import is_talk

CHANGES = (
    *("domain", "measure", "unit", "base", "tuned", "change", "low", "high"),
    *("tolerance", "verdict", "shown", "p", "p_holm", "n", "units", "of"),
)
PREDICTIONS = ("domain", "positions", "kl", "kl_low", "kl_high", "changed", "changed_low", "changed_high")
EXAMPLES = ("domain", "text", "tokens", "base", "tuned", "change")
ANSWERS = ("domain", "prompt", "answer", "base", "tuned", "moved")
RISES, FALLS = 2, 1
"""Sequences of each domain that are shown: those whose loss rose most, and fell most."""
LOST, WON = 2, 1
"""Questions of each task that are shown: answers that were lost, and won."""
_EXCERPT = 280


def changes_frame(
    asked: Mapping[str, Asked], readings: Mapping[str, Reading], answers: Mapping[str, Answers], unit: str
) -> pd.DataFrame:
    """Changes with intervals and verdicts, one row per domain and measure, in `CHANGES`.

    The losses of all domains first, then the accuracies of tasks. `shown` and "broken" hold after Holm's correction
    over all rows, intervals are of each row alone.

    Args:
        asked: the domains.
        readings: of each domain.
        answers: of the domains with a task.
        unit: "token" or "byte".
    """
    rows: list[dict[str, Any]] = []
    harms: list[Harm] = []
    for name, reading in readings.items():
        tolerance, base, tuned = asked[name].tolerance, reading.base, reading.tuned
        harms.append(loss_harm(tuned, base, tolerance))
        row = {"domain": name, "measure": "loss", "unit": f"nats per {unit}", "tolerance": tolerance}
        rows.append({**row, "base": base.loss, "tuned": tuned.loss, **_read(base.records, len(base.nll))})
    for name, given in answers.items():
        points, same = asked[name].points, readings[name].identical
        harms.append(accuracy_harm(given.tuned, given.base, given.clusters, points, identical=same))
        row = {"domain": name, "measure": "accuracy", "unit": "points", "tolerance": points}
        row |= {"base": 100 * given.base.mean(), "tuned": 100 * given.tuned.mean()}
        rows.append({**row, **_read(given.clusters, len(given.base))})
    return pd.DataFrame(list(_judged(rows, harms)), columns=list(CHANGES))


def _read(clusters: NDArray[Any], n: int) -> dict[str, Any]:
    """How many records were read, and what the intervals over them are over."""
    return {"n": n, "of": "groups" if 1 < len(np.unique(clusters)) < n else "records"}


def _judged(rows: Sequence[dict[str, Any]], harms: Sequence[Harm]) -> Iterator[dict[str, Any]]:
    """Rows with what their harms come to, corrected over all of them."""
    p_holm, over = holm([harm.p for harm in harms]), holm([harm.p_over for harm in harms])
    for row, harm, p, p_over in zip(rows, harms, p_holm, over, strict=True):
        change, low, high = harm.value, harm.low, harm.high
        if row["measure"] == "accuracy":  # harm is what is lost of it
            change, low, high = 0.0 - change, 0.0 - high, 0.0 - low
        worse = harm.lost or harm.value > 0
        moved = harm.lost or (p < LEVEL and abs(harm.value) > RESOLUTION)
        shown = ("worse" if worse else "better") if moved else "no"
        judged = {"change": change, "low": low, "high": high, "shown": shown, "p": harm.p, "p_holm": p}
        yield {**row, **judged, "units": harm.units, "verdict": harm.verdict(row["tolerance"], p_over)}


def predictions_frame(readings: Mapping[str, Reading]) -> pd.DataFrame:
    """KL(base || tuned) and the share of changed greedy tokens of each domain, with intervals, in `PREDICTIONS`."""
    rows = []
    for name, reading in readings.items():
        if reading.changed is None:
            continue
        kl = (np.nan,) * 3 if reading.kl is None else mean_with_ends(reading.kl)
        share, low, high = share_with_ends(reading.changed)
        if reading.identical:
            high = 0.0  # bit for bit the same: no sample of records could have shown more
        rows.append((name, int(reading.changed.tokens.sum()), *kl, share, low, high))
    return pd.DataFrame(rows, columns=list(PREDICTIONS))


def examples_frame(readings: Mapping[str, Reading]) -> pd.DataFrame:
    """The sequences of each domain whose loss rose most and fell most per token, with both losses, in `EXAMPLES`."""
    rows = []
    for name, reading in readings.items():
        tokens = reading.base.tokens
        base, tuned = (side.nll / np.maximum(tokens, 1) for side in (reading.base, reading.tuned))
        change = np.where(np.isfinite(tuned - base), tuned - base, np.inf)
        order = np.argsort(-change, kind="stable")
        rises = [place for place in order[:RISES] if change[place] > 0]
        falls = [place for place in order[::-1][:FALLS] if change[place] < 0]
        for place in [*rises, *falls]:
            row = int(tokens[place]), base[place], tuned[place], tuned[place] - base[place]
            rows.append((name, excerpt(reading.texts[place]), *row))
    return pd.DataFrame(rows, columns=list(EXAMPLES))


def excerpt(text: str) -> str:
    """A text, long ones cut in the middle.

    >>> excerpt("a" * 300).count("a"), excerpt("short")
    (280, 'short')
    """
    half = _EXCERPT // 2
    return text if len(text) <= _EXCERPT else f"{text[:half]} … {text[-half:]}"


def answers_frame(asked: Mapping[str, Asked], answers: Mapping[str, Answers]) -> pd.DataFrame:
    """The first questions of each task that one model alone answered rightly, in `ANSWERS`."""
    rows = []
    for name, given in answers.items():
        difference = given.tuned - given.base
        for moved, sign, most in (("lost", -1, LOST), ("won", 1, WON)):
            for place in np.flatnonzero(difference == sign)[:most]:
                question, said = given.questions[place], [texts[place] for texts in given.texts]
                prompt = question.prompt if asked[name].task == "choice" else _spoken(question.prompt)
                rows.append((name, excerpt(prompt), question.answer.strip(), *map(excerpt, said), moved))
    return pd.DataFrame(rows, columns=list(ANSWERS), dtype=object)


def _spoken(prompt: Any) -> str:
    """A prompt as text: of a conversation what was said in it."""
    messages: Any = prompt.get("messages") if isinstance(prompt, Mapping) else prompt
    if not is_talk(messages):
        return str(prompt)
    return " / ".join(str(message.get("content") or "…") for message in messages)
