"""The page of fine-tuning runs: a chapter about each, and the section that sets several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from trimtab.adapt.dynamics import figures as drawn
from trimtab.adapt.dynamics.compare import (
    APART,
    CHANGE,
    KEPT,
    LIMIT,
    calibration,
    calibration_points,
    calibration_sentence,
    calibration_table,
    comparison_table,
    constraint_names,
    constraints_of,
    feasibility_rates,
    feasibility_table,
    kept_word,
    percent_gain,
    violation_table,
    working_seconds,
)
from trimtab.adapt.dynamics.figures import evenly
from trimtab.adapt.dynamics.writing import compared_completions, completions_section
from trimtab.adapt.record import RunRecord
from trimtab.adapt.session import LEAST_SCALE_NATS
from trimtab.adapt.units import (
    counted,
    few_note,
    few_units,
    few_words,
    groups_read,
    read_counts,
    records_read,
)
from trimtab.report.formats import NOTHING, fixed, missing, number, percent
from trimtab.report.page import Gallery, Mark, Picture, Section, Table, Text, Tone, gallery, picture, written

Block = Text | Table | Picture | Gallery | Section
MAPS, MAPS_OF_OTHERS = 8, 4
"""Slope maps shown per run, and as many more folded: a run may have sixty updates, a group thirty runs."""
MOST_CELLS = 800
"""Cells of the slope maps shown per run, where that leaves two: maps of twenty domains make a page heavy."""
COVERS = (
    "Intervals: 95 % over test records, paired with the base model on the same sequences; they do not cover the "
    "training seed."
)
UNCHANGED = "base weights"
"""In the place of a verdict on a constraint, where nothing was changed that could have broken it."""
_MUCH = 0.05
_ALL_OPTIMAL = "At each of {} updates a mixture was predicted to keep every constraint."
_OPEN = 3
"""Examples, or notes, shown unfolded."""
_RATES = {
    "feasible on validation": "feasible on validation, of all runs",
    "feasible on validation, kept on test": "feasible on validation and kept on test, of all runs",
    "false feasible": "not kept on test, of those feasible on validation (feasible by luck)",
    "clearly false feasible": "the same, by more than the noise (a whole interval above its tolerance)",
}
_STATUS: dict[str, Tone] = {"feasible": "good", "infeasible": "bad", "diverged": "bad"}


def chapter(result: RunRecord, label: str, maps: int, first: pd.DataFrame | None = None) -> Iterator[Section]:
    """Everything about one run; slopes only where it has some, data only where other than `first`, the first run's.

    Completions are those of a run alone, or of the first; `comparison_section` has those of the others.
    """
    yield Section("Result on test", list(_result(result)))
    if first is None:
        yield from completions_section(result)
    if result.notes:
        title = f"Notes of the run ({len(result.notes)})"
        yield Section(title, [Text(note) for note in result.notes], collapsed=len(result.notes) > _OPEN)
    caption = (
        f"Shares are of {_setting(result, 'fit', 'shares') or 'examples'} and constant between updates. The vertical "
        "line is the checkpoint kept. These are settings of the run, not estimates."
    )
    yield Section("Mixture", [picture(drawn.mixture_figure(result, label), caption)])
    shaded = "At no evaluation did every constraint hold, or none was set."
    if drawn.feasible_spans(result):
        shaded = "Green: steps at which every constraint holds (each evaluation speaks for half the way to the next)."
    read = f"{n} at each point; " if (n := _sequences(result, "validation")) else ""
    caption = (
        f"Dotted: the base model's loss. Dashed: the limit, base plus tolerance. {shaded} Vertical line: the "
        f"checkpoint kept. {read}the band is the 95 % interval of the paired change over their records, one seed."
    )
    yield Section("Losses on validation", [gallery(drawn.loss_figures(result, label), caption)])
    if result.slopes:
        yield from _probes(result, label, maps)
    if len(result.data) and (first is None or not result.data.equals(first)):
        yield Section("Data", list(_data(result)))
    yield Section("Cost", list(_costs(result)))
    settings = pd.DataFrame(list(_flat(result.config)), columns=["setting", "value"], dtype=object)
    table = Table(settings, "The resolved settings of the run.")
    yield Section("Settings and versions", [table], collapsed=True)


def _setting(result: RunRecord, *path: str) -> Any:
    """A value of the run's config; None where it has none."""
    value: Any = result.config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _sequences(result: RunRecord, what: str) -> str:
    """How many test, validation or probe sequences were read: as counted, else at most as set; "" if not known."""
    split, column = ("validation", "probe") if what == "probe" else (what, "read")
    if counts := read_counts(result, split, column):
        return counted(counts, f"{what} sequences", groups_read(result, what))
    most = _setting(result, "fit", f"{'eval' if what == 'validation' else what}_sequences")
    return f"at most n = {most} {what} sequences per domain" if most else ""


def _covers(results: Sequence[RunRecord]) -> str:
    """What intervals on test are over, in sentences."""
    grouped = any(groups_read(one, "test") for one in results)
    return f"{COVERS} Where a domain has groups, they are over its groups." if grouped else COVERS


def _tone(kept: object) -> Tone:
    """The tone of whether something was kept; none where there is no answer."""
    return "" if missing(kept) else ("good" if kept else "bad")


def _verdict(word: str, kept: object, few: str, *, unclear: bool = False) -> Mark:
    """What a constraint came to; unsure where the interval, or few records or groups, leave open that it is kept."""
    return Mark(word + few, "unsure" if kept and (unclear or few) else _tone(kept))


def _result(result: RunRecord) -> Iterator[Block]:
    few, groups = few_units(result), groups_read(result, "test")

    def judged(name: str, role: str, kept: object, tolerance: float, low: float, high: float) -> Mark | None:
        if role != "constraint" or missing(kept):
            return None
        if not result.step:
            return Mark(UNCHANGED)
        unclear = low <= tolerance < high
        word = kept_word(kept) + (", within the noise" if unclear else "")
        return _verdict(word, kept, few_words(few, name), unclear=unclear)

    columns = {
        "domain": "domain",
        "change": ("change", "+.3"),
        "constraint": ("domain", "role", "kept", "tolerance", "change_low", "change_high", judged),
        "tolerance": ("tolerance", ".3"),
        "interval of the change": ("change_low", "change_high", "+.3"),
        "role": "role",
        "records": ("domain", records_read(result).get),
        **({"groups": ("domain", groups.get)} if groups else {}),
        "perplexity, %": ("change", lambda change: fixed(-percent_gain(change), 1, signed=True)),
        "base loss": ("reference", ".3"),
        "loss": ("loss", ".3"),
    }
    if few:
        yield Text(few_note(few), "unsure")
    n = _sequences(result, "test") or "every test sequence of each domain"
    caption = f"The checkpoint of step {result.step} on test, in nats per token; {n}. {_covers([result])}"
    yield Table(written(result.final, columns), caption)


def _probes(result: RunRecord, label: str, maps: int) -> Iterator[Section]:
    yield Section("Slopes at each update", list(_slopes(result, label, maps)))
    caption = (
        "One point per interval between updates and evaluation domain. Bars: one standard error of the slopes. On the "
        "dotted line the prediction came true. "
        f"{calibration_sentence(calibration(result))}"
    )
    yield Section("Did the slopes predict?", [picture(drawn.calibration_figure(result, label), caption)])
    told = {update.solver_status for update in result.slopes}
    yield _fed_back(result) if told & {"kept", "broken"} else _solved(result)


def _fed_back(result: RunRecord) -> Section:
    """What feedback on the constraints saw at each update, and the share of the targets that it chose."""
    statuses, n = [update.solver_status for update in result.slopes], len(result.slopes)
    text = Text(f"At each of {n} updates every constraint was kept at that moment.")
    if broken := statuses.count("broken"):
        told = f"At {broken} of {n} updates a constraint was broken at that moment (“broken”): the share of the targets"
        text = Text(f"{told} falls while one is, and rises while none is.", "unsure")
    targets = set(result.final.loc[result.final["role"] == "target", "domain"])
    shares = [
        sum(share for name, share in update.weights.items() if name in targets) for update in result.slopes
    ]
    columns = {
        "at step": [update.step for update in result.slopes],
        "for steps": [update.horizon for update in result.slopes],
        "share of the targets": [percent(share) for share in shares],
        "constraints": [Mark(status, "good" if status == "kept" else "unsure") for status in statuses],
        "broken": [", ".join(update.conflicts) or NOTHING for update in result.slopes],
    }
    caption = (
        "Broken: its validation loss at that step, with the reserve of `fit.margin`, was above its limit."
    )
    rows = Section("Every update", [Table(pd.DataFrame(columns, dtype=object), caption)], collapsed=True)
    return Section("Constraints at each update", [text, rows])


def _solved(result: RunRecord) -> Section:
    """What the solver said at each update."""
    statuses = [update.solver_status for update in result.slopes]
    blocks: list[Block] = []
    if relaxed := sum(status != "optimal" for status in statuses):
        text = (
            f"At {relaxed} of {len(statuses)} updates no mixture was predicted to keep every constraint; "
            "the solver then kept the largest violation as small as it could (“relaxed”)."
        )
        blocks.append(Text(text, "unsure"))
    columns: dict[str, list[Any]] = {
        "at step": [update.step for update in result.slopes],
        "for steps": [update.horizon for update in result.slopes],
        "solution": [Mark(status, "good" if status == "optimal" else "unsure") for status in statuses],
        "constraints in conflict": [", ".join(update.conflicts) or NOTHING for update in result.slopes],
    }
    for name in constraint_names(result):
        prices = [update.shadow_prices.get(name) for update in result.slopes]
        columns[f"price of {name}"] = [fixed(price, 2) for price in prices]
    caption = (
        "A price says how many nats the sum of predicted target losses would fall per nat of extra tolerance: 0 where "
        "the constraint did not bind, a dash where there is none (relaxed, or the grid solver)."
    )
    rows = Section("Every update", [Table(pd.DataFrame(columns, dtype=object), caption)], collapsed=True)
    return Section("What the solver said", [*(blocks or [Text(_ALL_OPTIMAL.format(len(statuses)))]), rows])


def _slopes(result: RunRecord, label: str, maps: int) -> Iterator[Block]:
    errors = "No probe was rolled back: slopes and standard errors (±) are estimated from the run itself."
    if result.cost.probe_steps:
        errors = (
            "± is the standard error over the records of "
            f"{_sequences(result, 'probe') or 'the probe sequences'}; "
            "the probe's own choice of training batches may not be in it."
        )
    names = ", ".join(map(str, drawn.unread(result)))
    without = (
        f" Without a row, as between evaluations only targets and constraints are read: {names}."
        if names
        else ""
    )
    yield Text(
        "What one step on a domain (column) does to the loss of a domain (row), in thousandths of a nat. Blue lowers "
        "it, red raises it. Pale and in parentheses: below 1.28 standard errors, the sign is not known. Below a "
        f"column's name: its share of the mixture. {errors} One colour scale for all."
        f"{without}"
    )
    maps = min(maps, max(2, MOST_CELLS // max(1, result.slopes[0].slopes.size)))
    n, half = len(result.slopes), maps // 2
    ends = range(n) if n <= maps else [*range(half), *range(n - half, n)]
    yield gallery(drawn.slope_figures(result, label, ends))
    if n > maps:
        between = evenly(range(half, n - half), maps)
        title = f"The {n - maps} updates in between" if n - maps > 1 else "The update in between"
        if len(between) < n - maps:
            title = f"{len(between)} of the {n - maps} updates in between, evenly chosen"
        yield Section(title, [gallery(drawn.slope_figures(result, label, between))], collapsed=True)


def _data(result: RunRecord) -> Iterator[Block]:
    grouped = "groups" in result.data and (result.data["groups"] > 0).any()
    names = ("domain", "split", "records", *(["groups"] if grouped else []), "blank")
    columns: dict[str, Any] = {name: name for name in names}
    columns |= {"left out": ("skipped", "records", _part), "dropped": ("dropped", "records", _part)}
    columns |= {"sequences": "sequences", "cut": ("truncated", "sequences", _part), "tokens": "tokens"}
    columns |= {"tokens left over": "left_over", "sequences read": "read", "records read": "read_records"}
    columns |= {"groups read": "read_groups"} if grouped else {}
    caption = (
        "Blank records are not among the records. Left out: conversations that the chat template does not write as "
        "they are. Dropped: no predicted token carries loss. Cut: sequences that were longer. Left over: tokens after "
        "the last full row. Read: by each evaluation; a packed sequence counts as of one record, that of most of it."
    )
    yield Table(written(result.data, columns), caption)
    tables = []
    for name, stretches in result.examples.items():
        rows = [("yes" if loss else NOTHING, text.replace("\n", "\u21b5 ")) for text, loss in stretches]
        frame = pd.DataFrame(rows, columns=["loss", "text"], dtype=object)
        caption = f"{name}: the tokens of the marked rows carry loss, the others are only read."
        marked = [place for place, (_, loss) in enumerate(stretches) if loss]
        tables.append(Table(frame, caption, marked=marked))
    if tables:
        title = "What is learned: the first sequence of each training domain"
        yield Section(title, tables, collapsed=len(tables) > _OPEN)


def _part(count: Any, of: Any) -> Mark:
    """A count with its share; unsure where that is more than a few per cent."""
    if not count:
        return Mark("0")
    share = count / of if of else 1.0
    rounded = f"{100 * share:.0f}" if share >= 0.01 else "below 1"
    return Mark(f"{int(count)} ({rounded} %)", "unsure" if share > _MUCH else "")


def _costs(result: RunRecord) -> Iterator[Block]:
    cost, total = result.cost, working_seconds(result)
    counts = [
        ("training steps", number(cost.training_steps)),
        ("probe steps, rolled back", number(cost.probe_steps)),
        ("evaluation batches", number(cost.evaluation_batches)),
        ("training steps alone, × one fixed-mixture run", fixed(cost.training_multiple, 2)),
        ("all-in (a forward pass is a third of a step), × the same", fixed(cost.all_in_multiple, 2)),
    ]
    yield Table(pd.DataFrame(counts, columns=["what", "count"]), "Counted, not measured.")
    parts = sorted(cost.seconds.items(), key=lambda part: (part[0] in APART, -part[1]))
    parts.append(("all but checkpoints and report", total))
    rows = [
        (name, fixed(value, 1), NOTHING if name in APART or not total else percent(value / total))
        for name, value in parts
    ]
    frame = pd.DataFrame(rows, columns=["part", "seconds", "share"])
    yield Table(frame, "Wall-clock on one machine, once (n = 1).", marked=[len(rows) - 1])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def comparison_section(results: Sequence[RunRecord]) -> Section:
    """Several runs side by side: a table, gain against cost, constraints, mixtures, and calibration."""
    caption = (
        f"n = {len(results)} runs, one training seed each. Bars: 95 % intervals of the gain over test records. Costs "
        "are multiples of one fixed-mixture run; runs of nearly the same cost stand side by side. Filled: trained "
        "weights that kept every constraint on test. Named: those of them that no other estimate beats in gain and in "
        "cost. Arrow: a value outside the axes."
    )
    blocks: list[Block] = [
        _summary(results),
        Section("Gain against cost", [gallery(drawn.cost_figures(results), caption)]),
        *_constraints(results),
        Section("Mixtures side by side", list(_mixtures(results))),
        *compared_completions(results),
        *_calibration(results),
    ]
    return Section("Comparison", blocks)


def _summary(results: Sequence[RunRecord]) -> Table:
    frame = comparison_table(results)
    few = dict(zip(frame["run"], map(few_units, results), strict=True))

    def held(name: str, run: str, step: int, change: float, kept: object) -> Mark | None:
        if not step and not missing(change):
            return Mark(UNCHANGED)
        word = f"{fixed(change, signed=True)} {kept_word(kept)}"
        return None if missing(change) else _verdict(word, kept, few_words(few[run], name))

    columns: dict[str, Any] = {
        "run": "run",
        "status": ("status", lambda status: Mark(status, _STATUS.get(status, "unsure"))),
        "step kept": "step",
        "target gain, %": ("gain_percent", ".1"),
        "95 % interval": ("gain_low", "gain_high", ".1"),
    }
    for name in constraints_of(frame):
        limits = frame[name + LIMIT].dropna().unique()
        limit = f"≤ {fixed(limits[0], signed=True)}" if len(limits) == 1 else "tolerances differ"
        columns[f"{name} ({limit})"] = ("run", "step", name + CHANGE, name + KEPT, partial(held, name))
    columns |= {"training steps, ×": ("training_multiple", ".2"), "all-in cost, ×": ("all_in_multiple", ".2")}
    columns["seconds"] = ("seconds", ".0")
    caption = (
        f"{len(results)} runs on test; the status is the verdict on validation. Gain: fall of target perplexity "
        "(geometric mean); the largest is flattered by being picked on these sequences. Constraints: change of loss, "
        f"nats per token, and whether it is within the tolerance. Costs: multiples of one fixed-mixture run. "
        f"{_covers(results)}"
    )
    return Table(written(frame, columns), caption, marked=[0])


def _constraints(results: Sequence[RunRecord]) -> Iterator[Section]:
    constraints, violations = feasibility_table(results), violation_table(results)
    if constraints.empty:
        return
    caption = (
        "Change of loss on test in tolerances: 0 (dotted) is the base model, 1 (dashed) the limit. Bars: 95 % "
        "intervals over test records, one training seed per run. Arrow: a value outside the axes. The first panel has "
        "each run's worst constraint; picked by the same sequences, it leans to the bad side."
    )
    if (constraints["tolerance"] == 0).any():
        caption += f" Where the tolerance is 0, a unit is {LEAST_SCALE_NATS} nats and the limit stays at 1."
    panels = gallery(drawn.constraint_figures(constraints, violations), caption)
    columns: dict[str, Any] = {
        "run": "run",
        "feasible on validation": ("feasible_on_validation", _yes),
        "kept on test": ("step", "kept_on_test", lambda step, kept: _yes(kept) if step else Mark(UNCHANGED)),
        "over the limit": ("broken", "constraints", "{} of {} constraints".format),
        "worst constraint": "worst",
        "over its limit by, nats": ("excess_nats", "+.3"),
        "95 % interval": ("excess_low", "excess_high", "+.3"),
        "in tolerances (limit 1)": ("used", ".2"),
        "interval": ("used_low", "used_high", ".2"),
    }
    caption = (
        "The largest violation of each run on test; below 0 nats there was room left. Base weights that were returned "
        "keep everything and gain nothing. "
        f"{_covers(results)}"
    )
    table = Table(written(violations[violations["constraints"] > 0], columns), caption)
    yield Section("Constraints side by side", [panels, table])
    yield Section("Was “feasible” luck?", [_luck(results)])


def _luck(results: Sequence[RunRecord]) -> Table:
    columns = {
        "": ("rate", _RATES.__getitem__),
        "runs": ("k", "n", "{} of {}".format),
        "share": ("share", percent),
        "95 % interval": ("low", "high", _percents),
    }
    caption = (
        "Checkpoints are chosen on validation sequences and judged again on test sequences that no choice has seen. "
        "A run keeps a constraint when the estimate is within the tolerance. Intervals are Wilson's, as if the runs "
        "were independent; they share data and base model, so they are too narrow."
    )
    return Table(written(feasibility_rates(results), columns), caption)


def _yes(value: object) -> Mark:
    return Mark(NOTHING if missing(value) else ("yes" if value else "no"), _tone(value))


def _percents(low: float, high: float) -> str:
    return NOTHING if missing(low) else f"{percent(low)} to {percent(high)}"


def _mixtures(results: Sequence[RunRecord]) -> Iterator[Block]:
    moving, constant = drawn.moving_mixtures(results), drawn.constant_mixtures(results)
    yield picture(
        drawn.mixture_key(results),
        "The same colour is the same training domain in every drawing. Targets are at the bottom (left) in full "
        "colour, other domains pale above (beside) them; the line tops the targets.",
    )
    if moving:
        caption = (
            f"Runs whose mixture changes, {len(moving)} of {len(results)}: share over training steps, the same axes "
            "for all. Vertical line: the checkpoint kept, where there is one. Settings of the runs, not estimates."
        )
        yield gallery(moving, caption, small=True)
    if constant is not None:
        yield picture(constant, "At the right of each bar: the share of the targets together.")


def _calibration(results: Sequence[RunRecord]) -> Iterator[Section]:
    points = calibration_points(results)
    if points.empty:
        return
    by_length, by_run = calibration_table(results), calibration_table(results, by="run")
    left_out, n = int(by_length["left_out"].iloc[-1]), int(by_length["n"].iloc[-1])
    runs = by_run["run"].nunique() - 1
    thinned = f"; {drawn.MOST_POINTS} of them drawn, evenly chosen" if n > drawn.MOST_POINTS else ""
    caption = (
        f"Runs with slopes: {runs}; n = {n} points (intervals between updates × evaluation domains, not independent "
        f"of each other){thinned}; {left_out} more were not read at both ends and are left out. On the dotted diagonal "
        "the prediction came true. By length: the error with its 95 % interval (bootstrap over whole intervals). "
        "Upright stroke: how far the losses moved, the error of predicting no change."
    )
    figures = [drawn.calibration_scatter(points), drawn.calibration_rows(by_length)] if n else []
    blocks: list[Block] = [gallery(figures, caption), _calibrated(by_length, "length", "interval, steps")]
    if runs > 1:
        blocks.append(Section("By run", [_calibrated(by_run, "run", "run")], collapsed=True))
    yield Section("Did the slopes predict? All runs", blocks)


def _calibrated(table: pd.DataFrame, by: str, heading: str) -> Table:
    columns: dict[str, Any] = {
        heading: by,
        "intervals": "intervals",
        "points, n": "n",
        "left out": "left_out",
    }
    columns |= {
        "root mean squared error, nats": ("rmse_nats", ".4"),
        "its 95 % interval": ("rmse_low", "rmse_high", ".4"),
        "realised change, nats": ("realised_rms_nats", ".4"),
        "correlation": ("correlation", ".2"),
        "within ±2 standard errors": (
            *("within", "judged", "within_share"),
            lambda k, n, share: f"{k} of {n}: {percent(share)}",
        ),
        "Wilson 95 %": ("within_low", "within_high", _percents),
    }
    caption = (
        "Realised change: root mean square, the error of predicting no change. Standard errors are the slopes', "
        "carried to the whole interval; about 95 % within two of them would be honest. The Wilson interval takes "
        "points as independent, which those of one interval are not, so it is too narrow."
    )
    return Table(written(table, columns), caption, marked=[len(table) - 1])
