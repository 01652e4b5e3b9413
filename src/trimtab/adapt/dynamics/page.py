"""The page of a fine-tuning run, or of several that are compared.

The part of a run's page about its data: what was read, left out and cut, and what is learned of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from trimtab.adapt.data_table import counted, few_records, few_records_note, records_read, sequences_read
from trimtab.adapt.dynamics import figures as drawn
from trimtab.adapt.dynamics.calibration import calibration, calibration_sentence
from trimtab.adapt.dynamics.compare import (
    APART,
    constraint_names,
    kept_word,
    percent_gain,
    working_seconds,
)
from trimtab.adapt.dynamics.figures import COVERS, evenly, setting, tone
from trimtab.adapt.record import RunRecord
from trimtab.report.formats import NOTHING, fixed, missing, number, span
from trimtab.report.page import Gallery, Mark, Picture, Section, Table, Text, gallery, picture, shown

_MUCH = 0.05
_OPEN = 3
"""Examples shown unfolded."""


def data_sections(result: RunRecord) -> Iterator[Section]:
    """The section "Data"; none for a result that an earlier version wrote."""
    if len(result.data):
        blocks: list[Table | Section] = [_counts(result.data)]
        tables = [_example(name, result.examples[name]) for name in result.examples]
        if tables:
            title = "What is learned: the first sequence of each training domain"
            blocks.append(Section(title, tables, collapsed=len(tables) > _OPEN))
        yield Section("Data", blocks)


def _counts(data: pd.DataFrame) -> Table:
    columns: dict[str, tuple[Any, ...]] = {
        "domain": (str, "domain"),
        "split": (str, "split"),
        "records": (_count, "records"),
        "blank": (_count, "blank"),
        "left out": (_part, "skipped", "records"),
        "dropped": (_part, "dropped", "records"),
        "sequences": (_count, "sequences"),
        "cut": (_part, "truncated", "sequences"),
        "tokens": (_count, "tokens"),
        "tokens left over": (_count, "left_over"),
        "sequences read": (_count, "read"),
        "records read": (_count, "read_records"),
    }
    caption = (
        "Blank records are skipped, and not among the records. Left out: conversations that the chat template refuses "
        "or does not write as they are. Dropped: without a predicted token that carries loss within a sequence. Cut: "
        "sequences that were longer. Left over: tokens of packed text after the last full sequence. Read: by each "
        "evaluation of that split; a sequence of packed text counts as of one record, that of most of it."
    )
    return Table(shown(data, columns), caption)


def _count(value: Any) -> Any:
    return value


def _part(count: Any, of: Any) -> Mark:
    """A count with its share; unsure where that is more than a few per cent."""
    if not count:
        return Mark("0")
    share = count / of if of else 1.0
    percent = f"{100 * share:.0f}" if share >= 0.01 else "below 1"
    return Mark(f"{int(count)} ({percent} %)", "unsure" if share > _MUCH else "")


def _example(name: str, stretches: tuple[tuple[str, bool], ...]) -> Table:
    frame = pd.DataFrame(
        {
            "loss": ["yes" if learned else NOTHING for _, learned in stretches],
            "text": [text.replace("\n", "\u21b5 ") for text, _ in stretches],
        },
        dtype=object,
    )
    marked = [place for place, (_, learned) in enumerate(stretches) if learned]
    return Table(
        frame, f"{name}: the tokens of the marked rows carry loss, the others are only read.", marked=marked
    )


Block = Text | Table | Picture | Gallery | Section
MAPS, MAPS_OF_OTHERS = 8, 4
"""Slope maps shown per run, and as many more folded: a run may have sixty updates, a group thirty runs."""


def chapter(result: RunRecord, label: str, maps: int, shown: pd.DataFrame | None = None) -> list[Section]:
    """Everything about one run; parts that need slopes only where it has some, data only where not `shown` yet."""
    other_data = shown is None or not result.data.equals(shown)
    return [
        Section("Result on test", list(_result(result))),
        *_notes(result),
        Section("Mixture", [picture(drawn.mixture_figure(result, label), _mixture_caption(result))]),
        Section(
            "Losses on validation", [gallery(drawn.loss_figures(result, label), _losses_caption(result))]
        ),
        *_probes(result, label, maps),
        *(data_sections(result) if other_data else ()),
        Section("Cost", list(_costs(result))),
        Section("Settings and versions", [_settings(result)], collapsed=True),
    ]


def _mixture_caption(result: RunRecord) -> str:
    shares = setting(result, "fit", "shares") or "examples"
    return (
        f"Shares are of {shares} and constant between updates. The vertical line is the checkpoint kept. These are "
        "settings of the run, not estimates."
    )


def _result(result: RunRecord) -> Iterator[Block]:
    final, few = result.final.copy(), few_records(result)
    known = records_read(result, "test")
    units = [known.get(name) for name in final["domain"]] if known else final.get("units", math.nan)
    final["records"] = pd.Series(units, index=final.index, dtype=object)
    final["few"] = pd.Series([few.get(name) for name in final["domain"]], index=final.index, dtype=object)
    columns = {
        "domain": (str, "domain"),
        "role": (str, "role"),
        "base loss": (fixed, "reference"),
        "loss": (fixed, "loss"),
        "change": (partial(fixed, signed=True), "change"),
        "interval of the change": (partial(span, signed=True), "change_low", "change_high"),
        "records": (_count, "records"),
        "tolerance": (fixed, "tolerance"),
        "perplexity, %": (lambda change: fixed(-percent_gain(float(change)), 1, signed=True), "change"),
        "constraint": (_judged, "role", "kept", "tolerance", "change_low", "change_high", "few"),
    }
    if few:
        yield Text(few_records_note(few), "unsure")
    sequences = setting(result, "fit", "test_sequences")
    n = (
        f"at most n = {sequences} test sequences per domain"
        if sequences
        else "every test sequence of each domain"
    )
    if known := sequences_read(result, "test"):
        n = counted(known, "test sequences")
    yield Table(
        shown(final, columns),
        f"The checkpoint of step {result.step} on test, in nats per token; {n}. {COVERS}",
    )


def _notes(result: RunRecord) -> Iterator[Section]:
    """What the run wants its reader to know; folded when that is much."""
    if result.notes:
        title = f"Notes of the run ({len(result.notes)})"
        yield Section(title, [Text(note) for note in result.notes], collapsed=len(result.notes) > 3)


def _judged(
    role: str, kept: object, tolerance: float, low: float, high: float, few: int | None
) -> Mark | None:
    """Kept or not, and whether the interval, or the number of records, leaves that open."""
    if role != "constraint" or missing(kept):
        return None
    unclear = low <= tolerance < high
    word = kept_word(kept) + (", within the noise" if unclear else "")
    if few is not None:
        word += f", on {few} record{'s' * (few != 1)}"
    return Mark(word, "unsure" if kept and (unclear or few is not None) else tone(kept))


def _losses_caption(result: RunRecord) -> str:
    spans = drawn.feasible_spans(result)
    shaded = (
        "Green: steps at which every constraint holds (each evaluation speaks for half the way to the next)."
        if spans
        else "At no evaluation did every constraint hold, or none was set."
    )
    sequences = setting(result, "fit", "eval_sequences")
    n = f"at most n = {sequences} validation sequences per domain at each point; " if sequences else ""
    if known := sequences_read(result, "validation"):
        n = f"{counted(known, 'validation sequences')} at each point; "
    return (
        f"Dotted: the base model's loss. Dashed: the limit, base plus tolerance. {shaded} Vertical line: the "
        f"checkpoint kept. {n}the band is the 95 % interval of the paired change over their records, one seed."
    )


def _probes(result: RunRecord, label: str, maps: int) -> Iterator[Section]:
    if not result.slopes:
        return
    yield Section("Slopes at each update", list(_slopes(result, label, maps)))
    points = calibration(result)
    caption = (
        "One point per interval between updates and evaluation domain; bars are one standard error of the slopes, "
        f"carried to the interval. On the dotted line the prediction came true. {calibration_sentence(points)}"
    )
    yield Section("Did the slopes predict?", [picture(drawn.calibration_figure(result, label), caption)])
    yield Section("What the solver said", list(_solver(result)))


def _slopes(result: RunRecord, label: str, maps: int) -> Iterator[Block]:
    yield Text(
        "What one training step on a domain (column) does to the loss of a domain (row), in thousandths of a nat. "
        "Blue lowers the loss, red raises it. Pale and in parentheses: below 1.28 standard errors, so the sign is "
        "not known. Below each column's name is the share that the mixture then gave it. "
        f"{_errors_told(result)} All updates share one colour scale."
    )
    n = len(result.slopes)
    if n <= maps:
        yield gallery(drawn.slope_figures(result, label, range(n)))
        return
    half = maps // 2
    yield gallery(drawn.slope_figures(result, label, [*range(half), *range(n - half, n)]))
    between = evenly(range(half, n - half), maps)
    title = _between_title(len(between), n - maps)
    yield Section(title, [gallery(drawn.slope_figures(result, label, between))], collapsed=True)


def _between_title(drawn_maps: int, between: int) -> str:
    if drawn_maps < between:
        return f"{drawn_maps} of the {between} updates in between, evenly chosen"
    return f"The {between} updates in between" if between > 1 else "The update in between"


def _errors_told(result: RunRecord) -> str:
    """What the standard errors of the slopes cover: probes say it of themselves, other estimates in the docs."""
    if result.cost.probe_steps == 0:
        return "No probe was rolled back: slopes and their standard errors (±) are estimated from the run itself."
    sequences = setting(result, "fit", "probe_sequences")
    of = f"at most n = {sequences} probe sequences per domain" if sequences else "the probe sequences"
    if known := sequences_read(result, "validation", probe=True):
        of = counted(known, "probe sequences")
    covers = "the probe's own choice of training batches may not be in it"
    return f"± is the standard error over the records of {of}; {covers}."


def _solver(result: RunRecord) -> Iterator[Block]:
    relaxed = [update for update in result.slopes if update.solver_status != "optimal"]
    if relaxed:
        yield Text(
            f"At {len(relaxed)} of {len(result.slopes)} updates no mixture was predicted to keep every constraint; "
            "the solver then kept the largest violation as small as it could (“relaxed”).",
            "unsure",
        )
    names = constraint_names(result)
    frame = pd.DataFrame(
        {
            "at step": [update.step for update in result.slopes],
            "for steps": [update.horizon for update in result.slopes],
            "solution": [_solution(update.solver_status) for update in result.slopes],
            "constraints in conflict": [", ".join(update.conflicts) or NOTHING for update in result.slopes],
        },
        dtype=object,
    )
    for name in names:
        frame[f"price of {name}"] = [fixed(update.shadow_prices.get(name), 2) for update in result.slopes]
    caption = (
        "A price says how many nats the sum of predicted target losses would fall per nat of extra tolerance: 0 where "
        "the constraint did not bind, a dash where there is none (relaxed, or the grid solver)."
    )
    yield Table(frame, caption)


def _solution(status: str) -> Mark:
    return Mark(status, "good" if status == "optimal" else "unsure")


def _costs(result: RunRecord) -> Iterator[Block]:
    cost = result.cost
    counts = {
        "training steps": number(cost.training_steps),
        "probe steps, rolled back": number(cost.probe_steps),
        "evaluation batches": number(cost.evaluation_batches),
        "training steps alone, × one fixed-mixture run": fixed(cost.training_multiple, 2),
        "all-in (a forward pass is a third of a step), × the same": fixed(cost.all_in_multiple, 2),
    }
    yield Table(
        pd.DataFrame({"what": list(counts), "count": list(counts.values())}), "Counted, not measured."
    )
    total = working_seconds(result)
    parts = sorted(cost.seconds.items(), key=lambda part: (part[0] in APART, -part[1]))
    frame = pd.DataFrame(
        {
            "part": [name for name, _ in parts] + ["all but checkpoints and report"],
            "seconds": [fixed(value, 1) for _, value in parts] + [fixed(total, 1)],
            "share": [
                NOTHING if name in APART or not total else f"{100 * value / total:.0f} %"
                for name, value in parts
            ]
            + ["100 %" if total else NOTHING],
        }
    )
    yield Table(frame, "Wall-clock on one machine, once (n = 1).", marked=[len(parts)])


def _settings(result: RunRecord) -> Table:
    rows = list(_flat(result.config))
    return Table(
        pd.DataFrame(rows, columns=["setting", "value"], dtype=object), "The resolved settings of the run."
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
