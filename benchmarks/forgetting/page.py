"""The documentation's page of results of the laws of forgetting, from the result files: every number is computed.

python benchmarks/forgetting/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import bases
from claims import CLAIMED, LAW, NOTHING, behind, ends_of, judged, laws, rivals_less_law, share
from promise_page import promises

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import table, touch
from pages import bullets, joined, lines, link, listed, main, number, percent, prose, read, script, span
from verdicts import FEW, side

PAPER_TOKENS = 30_000_000
"""The largest number of unique tokens of the paper (Bethune et al. 2025)."""
TEXTS = {
    "python": "Python source",
    "docstrings": "docstrings",
    "tests": "unit tests",
    "stubs": "type stubs (Python without bodies)",
    "headers": "C++ headers",
}
DIRECTIONS = {"above": "too high", "below": "too low"}
NEITHER = "not distinguishable from what came"
Found = Mapping[str, Any]


def grouped(places: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Where each word holds: what was held out, with the domains; of word, what was held out, and domain."""
    where: dict[str, dict[str, list[str]]] = {}
    for word, name, domain in places:
        where.setdefault(word, {}).setdefault(name, []).append(domain)
    return {
        word: "; ".join(f"{name} ({listed(domains)})" for name, domains in names.items())
        for word, names in where.items()
    }


def opening(points: Mapping[str, Found]) -> Iterator[str]:
    """The question and what was run."""
    yield "# Results: laws of forgetting"
    yield "How it works: [forgetting.md](../forgetting.md). Made by `python benchmarks/forgetting/page.py --write`."
    named = next(iter(points.values()))["setting"]["domains"]
    texts = listed([f"*{domain}*, of {TEXTS[name]}" for domain, name in named.items()])
    yield prose(
        "How much do small language models forget when they are fine-tuned, and what does pretraining data prevent?",
        "They are fine-tuned on text near to that of their pretraining, or far from it.",
        f"The domains are {texts}.",
        "Forgetting is the rise of the pretraining loss on test, in nats per token.",
        "Brackets are 95 % intervals over runs, and n counts runs.",
        f"Those of means over fewer than {FEW} runs are Student's.",
    )


def verdicts(found: Found, promise: Found | None, planned: Found | None) -> Iterator[str]:
    """Each claim with its verdict."""
    yield "## What a benchmark of real runs showed"
    yield table(judged(found, promise, planned))
    yield prose(
        "A claim of the paper holds here where it does on these small models; the rules stand in",
        f"{script('forgetting/claims.py')}.",
        "Partly: in some domains or fits. Open: the intervals are too wide to say.",
    )


def forgotten(domains: Mapping[str, Found]) -> Iterator[str]:
    """Forgetting before anything is fitted."""
    yield "## Is anything forgotten?"
    shown = {domain: told["forgetting without injection"] for domain, told in domains.items()}
    rows = [
        [
            domain,
            f"{span(one['rise'])}, n = {one['rise']['n']}",
            f"{one['clear']} of {one['runs']}",
            f"{domains[domain]['minimum not reached']} of {domains[domain]['runs']}",
        ]
        for domain, one in shown.items()
    ]
    heads = ["domain", "rise without injection, nats", "rise beyond noise", "no minimum of the target loss"]
    yield lines(heads, rows)
    if all(one["clear"] == one["runs"] for one in shown.values()):
        yield "Every run without injection forgets more than the noise of its own test documents."


def removal(domains: Mapping[str, Found]) -> Iterator[str]:
    """What injection removes, and what it is worth in sequences."""
    yield f"## Does {share(CLAIMED)} of pretraining data prevent it?"
    most = max(int(row["tokens"] or 0) for told in domains.values() for row in told["share removed"])
    cells = {
        (domain, row["inject"], row["tokens"]): row
        for domain, told in domains.items()
        for row in told["share removed"]
    }
    shares = sorted({inject for _, inject, _ in cells})
    columns = [(domain, tokens) for domain in domains for tokens in (None, most)]
    heads = [
        f"{d}, {'all' if tokens is None else f'{tokens:,} tokens'} (n = {cells[d, shares[0], tokens]['n']})"
        for d, tokens in columns
    ]
    rows = [
        [
            share(inject),
            *(percent(cells[domain, inject, tokens]) for domain, tokens in columns),
        ]
        for inject in shares
    ]
    yield "Share of forgetting removed, over pairs of runs that differ in nothing else:"
    yield lines(["injected", *heads], rows)
    few = sorted({n for column in columns if (n := cells[(column[0], shares[0], column[1])]["n"]) < FEW})
    if few:
        yield prose(
            "These shares are ratios of sums, with percentile bootstraps over pairs.",
            f"Over so few as n = {listed(few)} these are too narrow.",
        )
    yield from apart(cells, list(domains), shares, most)
    yield from sequences(domains, shares)
    yield f"The paper's runs go up to {PAPER_TOKENS / most:.0f} times as many tokens."


def sequences(domains: Mapping[str, Found], shares: Sequence[float]) -> Iterator[str]:
    """How many sequences were injected."""
    injected = {(domain, row["inject"]): row for domain, told in domains.items() for row in told["injected"]}
    heads = [
        f"{domain}, {what}" for domain in domains for what in ("mean", "runs with less than one expected")
    ]
    rows = []
    for inject in shares:
        told = [injected[domain, inject] for domain in domains]
        cells = ([number(row["mean"], 1), f"{row['below_one']} of {row['runs']}"] for row in told)
        rows.append([share(inject), *chain.from_iterable(cells)])
    yield "Sequences of pretraining data that a run meets until the minimum of its target loss:"
    yield lines(["injected", *heads], rows)


def apart(
    cells: Mapping[tuple[str, float, int | None], Found], domains: list[str], shares: list[float], most: int
) -> Iterator[str]:
    """Which pairs of intervals do not overlap: many tokens against all, and one domain against the other."""
    many, compared = f"{most:,} tokens", []
    for inject in shares:
        for domain in domains:
            ends = (f"on {many} than over all ({domain})", f"over all than on {many} ({domain})")
            compared.append((inject, ends, cells[domain, inject, most], cells[domain, inject, None]))
        for first, second in pairwise(domains):
            for tokens, which in ((None, "all"), (most, many)):
                ends = (
                    f"on {first} than on {second} text ({which})",
                    f"on {second} than on {first} text ({which})",
                )
                compared.append((inject, ends, cells[first, inject, tokens], cells[second, inject, tokens]))
    found: dict[float, list[str]] = {}
    for inject, ends, one, other in compared:
        if not touch(one, other):
            found.setdefault(inject, []).append(ends[0] if one["low"] > other["high"] else ends[1])
    count = sum(map(len, found.values()))
    yield prose(
        f"{count} of {len(compared)} pairs of intervals do not overlap: {many} and all, or the two domains.",
        "There more is removed:" if found else "",
    )
    if found:
        yield bullets([f"at {share(inject)}: {'; '.join(names)}" for inject, names in found.items()])


def places(frames: Mapping[str, Found]) -> dict[str, str]:
    """What was held out, with how far beyond the fitted runs it lies."""
    rows = next(iter(frames.values()))["rows"]
    four = [row for row in rows if row["size"] != bases.BEYOND]
    sizes, tokens = (sorted({row[name] for row in four}) for name in ("params", "tokens"))
    told = {"largest size": sizes[-1] / sizes[-2], "largest token count": tokens[-1] / tokens[-2]}
    beyond = {row["params"] for row in rows} - set(sizes)
    told |= {"a size beyond": max(beyond) / sizes[-1]} if beyond else {}
    return {name: f"{name} ({number(times, 1)} times the largest fitted)" for name, times in told.items()}


def extrapolation(domains: Mapping[str, Found], points: Mapping[str, Found]) -> Iterator[str]:
    """Errors on runs that were held out."""
    every, far = laws(domains), places(points)
    rises = {
        (name, domain): rise
        for domain, told in domains.items()
        for part in (told, told.get("a size beyond", {}))
        for name, rise in part.get("mean rise, held out", {}).items()
    }
    yield "## Does the law carry over to runs that were held out?"
    rows = [
        [
            far.get(name, name),
            f"{domain}, n = {forms[LAW]['n_held_out']}",
            percent(ends_of(forms[LAW], "loss"), 1),
            percent(ends_of(forms[LAW], "rise")),
            f"{number(rises[name, domain]['predicted'])} / {number(rises[name, domain]['real'])}",
            span(rises[name, domain]["predicted less real"], sign="+"),
        ]
        for (name, domain), forms in every.items()
    ]
    heads = ["held out", "domain", "error of the loss", "error of the rise"]
    yield lines([*heads, "mean rise, predicted / real", "predicted less real, nats"], rows)
    nothing = [100 * forms[NOTHING]["loss_error"] for forms in every.values()]
    yield prose(
        f"The form *{NOTHING}* errs by {number(min(nothing), 0)} to {number(max(nothing), 0)} % of the loss.",
        "So a small error of the loss alone says little.",
        "Mean rises that the law predicts are:",
    )
    sides = ((DIRECTIONS.get(side(one["predicted less real"]), NEITHER), *key) for key, one in rises.items())
    yield bullets([f"{word}: {names}" for word, names in grouped(sides).items()])
    yield from target_errors(domains)


def target_errors(domains: Mapping[str, Found]) -> Iterator[str]:
    """Errors of the fine-tuning law on runs that were held out."""
    name = "fine-tuning error, held out"
    told = {
        what: [part.get(name) for part in parts]
        for what, parts in (
            ("both", list(domains.values())),
            ("a size beyond", [told.get("a size beyond", {}) for told in domains.values()]),
        )
    }
    rows = [
        [what, *(f"{percent(one, 1)}, n = {one['n']}" if one else "-" for one in errors)]
        for what, errors in told.items()
        if any(errors)
    ]
    yield "Error of the fine-tuning law, of the target loss:"
    yield lines(["held out", *domains], rows)


def rivals(domains: Mapping[str, Found]) -> Iterator[str]:
    """Other forms, by AICc and beside the law."""
    every = laws(domains)
    names = list(rivals_less_law(next(iter(every.values()))))
    yield "## Do rival forms do better?"
    yield "Error of the rise of each form less that of the law, in points of per cent, over the same runs:"
    rows = [
        [", ".join(key), *(span(rivals_less_law(forms)[rival], 1, sign="+", scale=100) for rival in names)]
        for key, forms in every.items()
    ]
    yield lines(["held out", *names], rows)
    every_gap = {key: behind(forms) for key, forms in every.items()}
    yield "AICc of each form less that of the law, on the runs that were fitted:"
    rows = [
        [", ".join(key), *(number(gaps[form], 1, "+") for form in (*names, NOTHING))]
        for key, gaps in every_gap.items()
    ]
    yield lines(["held out", *names, NOTHING], rows)
    nearest = min(names, key=lambda form: max(gaps[form] for gaps in every_gap.values()))
    told = [gaps[nearest] for gaps in every_gap.values()]
    yield prose(
        f"By AICc *{nearest}* is nearest: {number(min(told), 1)} to {number(max(told), 1)} behind the law.",
        "Errors of the rise are below the law's, by their interval:",
    )
    better = (
        (f"*{form}*", *key)
        for key, forms in every.items()
        for form, gap in rivals_less_law(forms).items()
        if side(gap) == "below"
    )
    yield bullets([f"{form}: {where}" for form, where in grouped(better).items()] or ["of no form"])


def coefficients(domains: Mapping[str, Found]) -> Iterator[str]:
    """Coefficients of both laws."""
    yield "## Coefficients"
    names = list(
        dict.fromkeys(
            row["coefficient"]
            for told in domains.values()
            for row in (*told["forgetting"], *told["fine-tuning"])
        )
    )
    rows = []
    for kind in ("forgetting", "fine-tuning"):
        for domain, told in domains.items():
            own = {row["coefficient"]: row for row in told[kind]}
            cells = [coefficient(own.get(name)) for name in names]
            rows.append([f"{kind}, {domain} (n = {told[kind][0]['n']})", *cells])
    yield lines(["law", *names], rows)
    ended = [
        f"{name} of the {kind} law ({domain})"
        for domain, told in domains.items()
        for kind, names in told["at bounds"].items()
        for name in names
    ]
    yield prose(
        "They are those of the runs left when the largest size and token count are held out.",
        f"At a bound ended {listed(ended)}." if ended else "None ended at a bound.",
    )


def coefficient(row: Found | None) -> str:
    """A coefficient with its interval, with places as its size asks for."""
    return span(row, 2 if row is not None and row["value"] < 1 else 1)


def devices(found: Found) -> Iterator[str]:
    """The same runs on two devices."""
    yield "## Do a GPU and a CPU give the same runs?"
    widest = max(found["largest difference, nats"].values())
    yield prose(
        f"{found['runs']} runs of the smallest size were made on both ({link('forgetting/devices.json')}).",
        f"The step of the minimum differs in {found['other step of the minimum']} of them.",
        f"Losses differ by at most {widest:.1e} nats.",
    )


def on_device(name: str) -> str:
    """The name of a device as it is written."""
    return name.upper() if name == "cpu" else name


def settings(points: Mapping[str, Found]) -> Iterator[str]:
    """What was run, and where."""
    yield "## Settings"
    first = next(iter(points.values()))
    fit, sizes = first["setting"]["fit"], first["bases"]
    rows = [row for found in points.values() for row in found["rows"]]
    seeds = {size: len({row["seed"] for row in rows if row["size"] == size}) for size in sizes}
    on = {size: Counter(row["device"] for row in rows if row["size"] == size) for size in sizes}
    table = []
    for size, base in sizes.items():
        with_fit = bases.settings(size).fit
        table.append(
            [
                f"{base['parameters']:,}",
                f"{with_fit.batch_size} x {with_fit.seq_len}, rate {with_fit.lr:g}",
                on_device(base["device"]),
                sum(on[size].values()) // len(points),
                seeds[size],
                ", ".join(f"{count} {on_device(device)}" for device, count in on[size].items()),
            ]
        )
    heads = [
        "parameters",
        "batch of pretraining, tokens",
        "pretrained on",
        "runs a domain",
        "seeds",
        "runs made on",
    ]
    yield lines(heads, table)
    pool = listed([TEXTS[name] for name in first["setting"]["pool"]])
    shared = [
        f"base models: Llamas of {bases.settings(bases.BEYOND).layers} blocks, pretrained on {pool}: "
        f"{bases.TOKENS_PER_PARAMETER} tokens a parameter",
        f"fine-tuning: rate {fit['lr']:g}, batches of {fit['batch_size']} x {fit['seq_len']} tokens, "
        f"at most {fit['steps']:,} steps",
        f"unique tokens: {listed([f'{tokens:,}' for tokens in sorted({row['tokens'] for row in rows})])}",
        f"shares injected: {listed([share(one) for one in sorted({row['inject'] for row in rows})])}",
        f"runs: {', '.join(link(f'forgetting/points-{domain}.json', domain) for domain in points)}, "
        f"by {script('forgetting/run.py')}",
        f"laws: {link('forgetting/laws.json')}, by {script('forgetting/table.py')}",
        f"promises: {link('forgetting/promise.json')}, by {script('forgetting/promise.py')}",
        f"where the law is exact: {link('forgetting/planned.json')}, by {script('forgetting/planned.py')}",
    ]
    yield bullets(shared)


def page() -> str:
    """The whole page."""
    found = needed("laws", "table.py")
    domains = found["domains"]
    points = {domain: needed(f"points-{domain}", "run.py") for domain in domains}
    promise, device = (read(f"forgetting/{name}.json") for name in ("promise", "devices"))
    fitted = {domain: told for domain, told in domains.items() if "not fitted" not in told}
    return joined(
        [
            *opening(points),
            *verdicts(found, promise, read("forgetting/planned.json")),
            *forgotten(domains),
            *removal(domains),
            *(extrapolation(fitted, points) if fitted else ()),
            *(rivals(fitted) if fitted else ()),
            *(coefficients(fitted) if fitted else ()),
            *(promises(promise, points) if promise is not None else ()),
            *(devices(device) if device is not None else ()),
            *settings(points),
        ]
    )


def needed(name: str, maker: str) -> Any:
    """A result file without which there is no page."""
    found = read(f"forgetting/{name}.json")
    if found is None:
        sys.exit(f"benchmarks/results/forgetting/{name}.json is missing: run {maker} first")
    return found


if __name__ == "__main__":
    main("forgetting.md", page())
