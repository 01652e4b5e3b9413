"""The section on DynaMiCS of the page on real models, from `benchmarks/results/real/dynamics.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import Claim, table
from pages import joined, lines, link, listed, number, prose, script, span
from verdicts import UNKNOWN, above, all_do, not_below

OURS, SEARCH, CONTROL = "ours", "best of three fixed", "no target data"
OLD = "ours, old defaults"
CHEAP = ("uniform", "early-stopped target")
NAMES = {
    OURS: "DynaMiCS, defaults",
    OLD: "DynaMiCS, defaults of before",
    "feedback": "Feedback",
    "uniform": "even mixture",
    "early-stopped target": "target alone, stopped early",
    SEARCH: "best of three fixed mixtures",
    CONTROL: "no target data (control)",
}
Found = Mapping[str, Any]


def section(found: Found | None) -> str:
    """Claims first, then the rows behind them; "" without a result or without runs of the defaults."""
    if found is None or not any(row["method"] == OURS for row in found["table"]):
        return ""
    return joined(
        [
            "## Fine-tuning within constraints: DynaMiCS",
            *opening(found),
            table(claims(found)),
            prose(*pressure(found), *rate(found), *missing(found)),
            "### Methods",
            methods(found),
            "### Differences of gain",
            gaps(found),
            "### Data",
            data(found),
            *completion(found),
        ]
    ).rstrip()


def opening(found: Found) -> Iterator[str]:
    model, fit = found["model"], found["settings"]["fit"]
    weights = f" with {model['weights']} weights" if "weights" in model else ""
    limits = sorted(set(found["settings"]["constraints"].values()))
    yield prose(
        f"{model['name']}{weights}, held in {model['dtype']}, learns word problems by LoRA of rank",
        f"{model['adapter']['r']}.",
        f"Three other kinds of text may rise by {listed(f'{one:g}' for one in limits)} nats per token on test.",
        f"A run has {fit['steps']} steps of {fit['batch_size']} sequences of {fit['seq_len']} tokens,",
        f"on {seeds(found['seeds']['runs'])}.",
        f"Scripts: {script('real/dynamics.py')}, {script('real/dynamics_texts.py')}.",
        f"Numbers: {link('real/dynamics.json')}.",
    )
    yield prose(
        "Brackets are 95 % intervals over test records, or over their groups where they have them.",
        "They do not cover the choice of the seed.",
        "Passages of one play are not independent, so those of Shakespeare are too narrow.",
        "The model may have seen any of the texts before.",
    )


def seeds(every: Sequence[int]) -> str:
    return f"{len(every)} {'seed' if len(every) == 1 else 'seeds'}"


def claims(found: Found) -> list[Claim]:
    """Rules were written before the first full run."""
    row = rows(found)[OURS]
    whole = "its constrained gain less theirs lies at or above 0, with the interval"
    return [
        Claim(
            "the defaults keep every constraint on test",
            "ours",
            "on every seed",
            f"share of seeds {number(row['kept'])}, largest change beyond a limit {number(row['excess'], 4, '+')}",
            all_do([{"value": row["kept"]}]),
        ),
        compared(found, "they gain no less than the best of three fixed mixtures", whole, [SEARCH]),
        compared(found, "they gain no less than Feedback", whole, ["feedback"]),
        compared(found, "they gain no less than two cheap baselines", whole, CHEAP),
        compared(found, "they gain no less than the defaults of before", whole, [OLD]),
        compared(
            found,
            "control: without target data less is gained",
            "gain of the defaults less that of the control lies above 0",
            [CONTROL],
            of="gain",
            rule=above,
        ),
    ]


def compared(
    found: Found,
    text: str,
    held_if: str,
    others: Sequence[str],
    *,
    of: str = "constrained",
    rule: Any = not_below,
) -> Claim:
    """A claim on differences of gain, not measured where one of them is missing."""
    apart = {one["other"]: one[of] for one in found["differences"]}
    there = [name for name in others if name in apart]
    measured = "; ".join(f"{NAMES[name]}: {told(apart[name])}" for name in there)
    verdict = rule([apart[name] for name in others]) if len(there) == len(others) else UNKNOWN
    return Claim(text, "ours", held_if, measured or "-", verdict)


def told(one: Found) -> str:
    return f"{span(one, 4, sign='+')}, n = {one['n']}"


def rows(found: Found) -> dict[str, Found]:
    return {row["method"]: row for row in found["table"]}


def pressure(found: Found) -> Iterator[str]:
    """Whether there was anything to keep."""
    runs = [row for row in found["table"] if row["role"] not in ("search", "control")]
    beyond = [row for row in runs if row["reached"] > 0]
    broke = [NAMES.get(row["method"], row["method"]) for row in runs if row["kept"] < 1]
    yield f"Of {len(runs)} methods, {len(beyond)} came beyond a limit at some reading on validation."
    if not beyond:
        yield "So the limits did not press, and these runs say little about keeping them."
    yield (
        f"A constraint was broken on test by {listed(broke)}."
        if broke
        else "None broke a constraint on test."
    )


def rate(found: Found) -> Iterator[str]:
    chosen = found["settings"]["rate"]
    yield f"All methods take the learning rate {chosen['rate']:g}."
    if chosen["tuned"]:
        where = f"on validation, seed {found['seeds']['tuning']}"
        yield f"It is that of two at which `{chosen['tuned_by']}` gained most {where}."
    else:
        yield "It was not tuned."


def missing(found: Found) -> Iterator[str]:
    cells = found["cells"]
    if cells["there"] < cells["planned"]:
        yield f"Of {cells['planned']} planned runs, {cells['there']} are there."


def methods(found: Found) -> str:
    every = list(found["table"][0]["change"])
    heads = ["method", "constraints kept", "gain, %", "counted gain, %"]
    heads += [f"{name}, nats" for name in every]
    heads += ["beyond a limit, validation", "steps, ×", "all in, ×"]
    told_rows = [
        [
            NAMES.get(row["method"], row["method"]),
            number(row["kept"]),
            number(row["gain"]),
            number(row["constrained"]),
            *(span(row["change"][name], 3, sign="+") for name in every),
            number(row["reached"], 3, "+"),
            number(row["steps"]),
            number(row["all_in"]),
        ]
        for row in found["table"]
    ]
    about = prose(
        "Gain is the fall of the target's perplexity on test; it counts where every constraint held.",
        "Steps and all in are multiples of one fixed run, the second with evaluations.",
        "Wall-clock is in the file; runs were on several machines, beside others.",
        "The best of three is chosen on validation and pays for all three.",
    )
    return f"{about}\n\n{lines(heads, told_rows)}"


def gaps(found: Found) -> str:
    heads = ["defaults less", "gain, nats per token", "counted gain, nats per token", "seeds"]
    told_rows = [
        [
            NAMES.get(one["other"], one["other"]),
            told(one["gain"]),
            told(one["constrained"]),
            len(one["seeds"]),
        ]
        for one in found["differences"]
    ]
    return lines(heads, told_rows)


def data(found: Found) -> str:
    heads = ["domain", "split", "records", "groups", "sequences", "read", "groups read"]
    keys = ("domain", "split", "records", "groups", "sequences", "read", "read_groups")
    return lines(heads, [[_whole(row[key]) for key in keys] for row in found["data"]])


def _whole(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.0f}"


def completion(found: Found) -> Iterator[str]:
    """How a held-out word problem goes on before and after the run of the defaults."""
    run = next(one for one in found["runs"] if one["method"] == OURS)
    target = next(row["domain"] for row in run["run"]["test"] if row["role"] == "target")
    one = next((each for each in run["completions"] if each["domain"] == target), None)
    if one is None:
        return
    parts = {"prompt": "Prompt", "reference": "Text", "before": "Base model", "after": "Tuned"}
    yield "### A held-out problem, and how the models go on"
    yield "\n\n".join(
        f"{name}:\n\n" + "\n".join(f"    {line}" for line in one[key].splitlines() or [""])
        for key, name in parts.items()
    )
