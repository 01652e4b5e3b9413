"""The section of the page of results about other packages: effect, cost of decoding, behaviour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from claims import ABOVE, BELOW, UNCLEAR
from pages import lines, link, number, prose, span
from peer_effect import N
from peer_table import BUDGETS, OURS
from verdicts import side

Found = Mapping[str, Any]
COST = f"KL {BUDGETS[1]:g}"
HOOKED = ("repeng", "steering-vectors")
"""Packages that steer by hooks, in the race."""


def packages(found: Found | None) -> Iterator[str]:
    """All of it."""
    if found is None:
        return
    yield "## Beside other packages"
    yield from effects(found)
    yield from decoding(found)
    yield from behaviours(found)


def effects(found: Found) -> Iterator[str]:
    """Effects at the same cost."""
    rows = [row for row in found["effect"] if "failed" not in row]
    if not rows:
        return
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in (*HOOKED, "pyreft"))
    yield "### Effects"
    yield prose(
        f"The world with weak cues, {len(found['model_seeds'])} models, {N} + {N} unpaired documents,",
        f"{found['draws']} draws each ({link('steering/peers.json', 'result')}).",
        f"Versions: {versions}.",
        _patched(found["behaviour"]),
        "Ours are without penalty.",
        "The oracle and LoReFT are told more: the truth, and labels.",
    )
    yield prose(
        f"Compared at {number(BUDGETS[1])} nats per token of KL on clean text; intervals over models.",
        "*Reversed* turns a direction round; *the better way* is known from the result only.",
        "*True pairs* have one topic and differ in style alone.",
    )
    gap = f"insult_rate at {COST}, less {OURS}"
    told = [
        [
            row["contestant"],
            row["way"],
            span(row[f"insult_rate at {COST}"], 3),
            span(row[f"kl_to_clean at {COST}"], 3),
            "-" if row["contestant"] == OURS else span(row[gap], 3, sign="+"),
        ]
        for row in rows
    ]
    ours = "`LinEAS(gamma=0)`"
    yield lines(["contestant", "dial", "insults", "KL to the truth", f"insults, less {ours}, residual"], told)
    failed = [f"{row['contestant']} ({row['failed']})" for row in found["effect"] if "failed" in row]
    yield prose(f"Not fitted: {'; '.join(failed)}." if failed else "")
    first = [row for row in rows if row[gap] and row["contestant"] != OURS and row["way"] == rows[0]["way"]]
    names = {
        where: [row["contestant"] for row in first if side(row[gap]) == where]
        for where in (BELOW, ABOVE, UNCLEAR)
    }
    for where, word in ((BELOW, "Better than"), (ABOVE, "Worse than"), (UNCLEAR, "Not told apart from")):
        if names[where]:
            yield prose(f"{word} {ours} there, as their dials say: {'; '.join(names[where])}.")


def _patched(matrix: Found) -> str:
    """Packages that do not import, or fit, as they come."""
    asked = ("imports as it is", "fits as its manual says")
    names = [name for what in asked for name, one in matrix.get(what, {}).items() if not one["ok"]]
    return f"Patched to run: {', '.join(dict.fromkeys(names))}." if names else ""


def decoding(found: Found) -> Iterator[str]:
    """How long a token takes under steering."""
    blocks = found["speed"]
    if not blocks:
        return
    yield "### Cost of decoding"
    yield prose(
        f"A random Llama with {blocks[0]['layers']} steered sites, on a shared machine.",
        "Medians of the ratio to the untouched model, over rounds, with bootstrap intervals.",
        "Its plain copy shows what is noise.",
    )
    heads = [f"{block['width']} wide, batch {block['batch']}, n = {block['rounds']}" for block in blocks]
    names = list(dict.fromkeys(name for block in blocks for name in block["rows"]))
    rows = [
        [_titled(name), *(_ratio(block, name) for block in blocks)] for name in names if name != "untouched"
    ]
    yield lines(["ratio", *heads], rows)
    hooked = [
        name for name in names if name in HOOKED or (name.startswith("trimtab") and "fused" not in name)
    ]
    same = 0
    for block in blocks:
        ratios = [block["rows"][name]["ratio"] for name in hooked if name in block["rows"]]
        same += max(one["low"] for one in ratios) <= min(one["high"] for one in ratios)
    yield prose(
        f"The intervals of all {len(hooked)} hooked steerings, ours but the fused one, repeng and steering-vectors,",
        f"share a point in {same} of {len(blocks)} columns.",
    )


def _titled(name: str) -> str:
    """A name with a zero before the point of its strength."""
    head, _, last = name.rpartition(" ")
    return f"{head} {float(last):g}" if last.startswith(".") else name


def _ratio(block: Found, name: str) -> str:
    row = block["rows"].get(name)
    return span(row["ratio"]) if row else "-"


def behaviours(found: Found) -> Iterator[str]:
    """What each package does in attempts."""
    matrix = found["behaviour"]
    if not matrix:
        return
    names = list(next(iter(matrix.values())))
    counts = ", ".join(f"{name} {sum(row[name]['ok'] for row in matrix.values())}" for name in names)
    yield "### Behaviour"
    yield prose(
        f"Attempts that end well, of {len(matrix)} that we chose: {counts}.",
        f"What each said is in {link('steering/peers.json', 'the file')}.",
    )
    rows = [[what, *("yes" if row[name]["ok"] else "no" for name in names)] for what, row in matrix.items()]
    yield lines(["attempt", *names], rows)
