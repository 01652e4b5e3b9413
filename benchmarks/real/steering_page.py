"""The section on steerings of the page on real models, from `benchmarks/results/real/steering.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import Claim, table, touch
from pages import joined, lines, link, listed, number, percent, prose, script, span
from verdicts import UNKNOWN, above, below

OURS, WARM, CONTROL = "LinEAS", "LinEAS from LinAcT", "MeanAcT"
SITE_BY_SITE, ONE_DIRECTION = ("MeanAcT", "LinAcT"), ("CAA", "ITI")
Found = Mapping[str, Any]
Row = Mapping[str, Any]


def section(found: Found | None) -> str:
    """Claims first, then the rows behind them; "" without a result or without a steering learned end to end."""
    if found is None or not rows(found, OURS):
        return ""
    return joined(
        [
            "## Steering a chat model between two registers",
            *opening(found),
            table(claims(found)),
            prose(*lowest(found), *judge(found), *misses(found), *convergence(found), *missing(found)),
            "### Scores at equal KL",
            scores(found),
            tuning(found),
            "### Completions",
            *completions(found),
        ]
    ).rstrip()


def opening(found: Found) -> Iterator[str]:
    size, pairs = found["settings"]["size"], [one["pair"] for one in found["untouched"]]
    yield prose(
        f"{found['model']['name']}, {found['model']['weights']} weights, held in {found['settings']['dtype']},",
        f"is steered from {listed(pairs)}.",
        f"Each steering is fitted on {size['examples']} and {size['examples']} examples, and goes on after",
        f"{size['prompts']} prompts of the source register.",
        f"Draws of examples: {len(found['seeds']['draws'])}.",
        f"Scripts: {script('real/steering.py')}, {script('real/steering_texts.py')}.",
        f"Numbers and all completions: {link('real/steering.json')}.",
    )
    yield prose(
        f"The score is the {found['score']}.",
        "Methods are compared where KL on neutral text is near",
        f"{listed(f'{one:g}' for one in found['settings']['budgets'])} nats per token.",
        "Brackets are 95 % intervals over prompts, each the mean over draws.",
        "They do not cover the choice of examples.",
    )


def tuning(found: Found) -> str:
    """How learning rates were chosen; "" where they were not."""
    if not found["tuning"]:
        return ""
    steps, rates = found["settings"]["methods"][OURS]["steps"], found["settings"]["learning_rates"]
    about = prose(
        f"LinEAS takes {steps} steps, for each costs a backward pass over all examples.",
        "The learning rate is that with the least transport cost afterwards, on a draw of its own.",
        "No completion was judged for it.",
    )
    every = [
        [
            one["pair"],
            one["method"],
            f"{one['lr']:g}",
            *(number(end, 3) for end in one["cost"]),
            "yes" if rates[one["method"]][one["pair"]] == one["lr"] else "",
        ]
        for one in found["tuning"]
    ]
    heads = ["pair", "method", "learning rate", "mean cost before", "after", "taken"]
    return f"### Learning rates\n\n{about}\n\n{lines(heads, every)}"


def claims(found: Found) -> list[Claim]:
    """Rules were written before the first full run."""
    largest = max(found["settings"]["budgets"])
    true, control = rows(found, OURS), rows(found, CONTROL, shuffled=True)
    whole = f"for each, in each pair, at KL {largest:g}, its score less that of LinEAS lies above 0"
    return [
        judged(
            "LinEAS takes completions out of the source register",
            "paper",
            "its score less that of the untouched model lies below 0, in each pair at each KL",
            true,
            "less_than_untouched",
            below,
        ),
        judged(
            "maps learned end to end do more than maps fitted site by site",
            "paper",
            whole,
            at(largest, *(rows(found, name) for name in SITE_BY_SITE)),
            "less_lineas",
            above,
        ),
        judged(
            "and more than one added direction",
            "paper",
            whole,
            at(largest, *(rows(found, name) for name in ONE_DIRECTION)),
            "less_lineas",
            above,
        ),
        judged(
            "steps end to end improve on the maps of LinAcT that they start from",
            "ours",
            f"in each pair, at KL {largest:g}, the score less that of LinAcT lies below 0",
            at(largest, rows(found, WARM)),
            "less_local",
            below,
        ),
        judged(
            f"control: {CONTROL} fitted on shuffled registers does less",
            "ours",
            f"in each pair, at KL {largest:g}, its score less that of the true fit lies above 0",
            at(largest, control),
            "less_true",
            above,
        ),
    ]


def judged(text: str, whose: str, held_if: str, every: Sequence[Row], key: str, rule: Any) -> Claim:
    """A claim on a difference of scores, not measured where one is missing."""
    measured = "; ".join(
        f"{row['pair']}, {row['method']}, {row['budget']:g}: {told(row[key])}" for row in every if key in row
    )
    whole = bool(every) and all(key in row for row in every)
    return Claim(
        text, whose, held_if, measured or "-", rule([row[key] for row in every]) if whole else UNKNOWN
    )


def told(one: Mapping[str, Any]) -> str:
    return f"{span(one, 3, sign='+')}, n = {one['n']}"


def rows(found: Found, method: str, *, shuffled: bool = False) -> list[Row]:
    return [row for row in found["table"] if (row["method"], row["shuffled"]) == (method, shuffled)]


def at(budget: float, *groups: Sequence[Row]) -> list[Row]:
    return [row for group in groups for row in group if row["budget"] == budget]


def judge(found: Found) -> Iterator[str]:
    """How well the classifier tells registers apart: of texts that it has not read, and of completions."""
    for one in found["untouched"]:
        right, unseen = percent(one["accuracy"]), one["accuracy"]["n"]
        yield f"In {one['pair']} the classifier is right on {right} of {unseen} unseen texts."
        yield (
            "Untouched, the model's completions after prompts of the two registers lie "
            f"{span(one['separation'], 2)} apart."
        )


def lowest(found: Found) -> Iterator[str]:
    """Which method has the lowest score in each pair, beside the untouched model, and whose intervals meet its own."""
    largest = max(found["settings"]["budgets"])
    for one in found["untouched"]:
        every = [
            row for row in at(largest, found["table"]) if row["pair"] == one["pair"] and not row["shuffled"]
        ]
        least = min(every, key=lambda row: row["score"]["value"])
        fall = f"{span(least['less_than_untouched'], 2, sign='+')} against the untouched model"
        yield f"In {one['pair']} the lowest score at KL {largest:g} is that of {least['method']}: {fall}."
        near = [row["method"] for row in every if row is not least and touch(row["score"], least["score"])]
        yield (
            f"Its interval meets those of {listed(near)}." if near else "No other method's interval meets it."
        )


def misses(found: Found) -> Iterator[str]:
    """Methods whose KL did not come near the budget."""
    if missed := [row for row in found["table"] if row["reached"] < 1]:
        every = listed(f"{row['method']} in {row['pair']} at {row['budget']:g}" for row in missed)
        yield f"KL did not come near the budget in every draw: {every}."
    else:
        yield "KL came near the budget in every draw."


def convergence(found: Found) -> Iterator[str]:
    """Whether LinEAS had steps enough: its cost is at least that of maps fitted site by site, were it learned out."""
    for one in found["untouched"]:
        mine, local = (
            [row["cost"] for row in rows(found, name) if row["pair"] == one["pair"]]
            for name in (OURS, "LinAcT")
        )
        if mine and local and mine[0] > local[0]:
            ends = f"{number(mine[0], 3)} against {number(local[0], 3)}"
            yield f"In {one['pair']} LinEAS is not learned out: its cost is above that of LinAcT, {ends}."


def missing(found: Found) -> Iterator[str]:
    cells = found["cells"]
    if cells["there"] < cells["planned"]:
        yield f"Of {cells['planned']} planned cells, {cells['there']} are there."


def scores(found: Found) -> str:
    heads = [
        "pair",
        "KL asked",
        "method",
        "score",
        "less untouched",
        "less LinEAS",
        "strength",
        "KL",
        "cost",
        "repeats",
    ]
    every = sorted(found["table"], key=lambda row: (row["pair"], row["budget"], row["shuffled"]))
    told_rows = [
        [
            row["pair"],
            f"{row['budget']:g}",
            row["method"] + " (shuffled)" * row["shuffled"],
            span(row["score"], 3),
            span(row.get("less_than_untouched"), 3, sign="+"),
            span(row.get("less_lineas"), 3, sign="+"),
            number(row["strength"]),
            number(row["kl"], 3),
            number(row["cost"], 3),
            number(row["repeats"]),
        ]
        for row in every
    ]
    about = prose(
        "A lower score is further from the source register.",
        "Cost is that of transport at strength 1, the mean over sites, in target variances.",
        "Repeats are the share of word pairs that a completion has had before.",
        "Beyond strength 1 a map is carried on in a straight line.",
    )
    return f"{about}\n\n{lines(heads, told_rows)}"


def completions(found: Found) -> Iterator[str]:
    """How the first prompt goes on, by the first draw, at the largest budget."""
    largest, draw = max(found["settings"]["budgets"]), min(found["seeds"]["draws"])
    yield prose(f"After the first prompt, draw {draw}, KL {largest:g}; all others are in the file.")
    for base in found["untouched"]:
        texts = {"untouched": base["source"]["completions"][0]}
        for run in found["runs"]:
            if (run["pair"], run["draw"], run["shuffled"]) == (base["pair"], draw, False):
                point = next(one for one in run["budgets"] if one["budget"] == largest)
                texts[run["method"]] = point["completions"][0]
        yield f"{base['pair'].capitalize()}:"
        yield "\n\n".join(f"{name}:\n\n{_block(text)}" for name, text in texts.items())


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines() or [""])
