"""The documentation's page of results of the leak audit, written from the result files: every number is computed.

python benchmarks/leaks/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims import CLAIMS, CONTROL, judged
from more_pages import channels, lenses, memory, served
from tables import span

sys.path.append(str(Path(__file__).parents[1]))
from pages import joined, lines, main, number, prose, read

NOTHING = 0.001
"""Bits that are those of rounding."""
Found = Mapping[str, Any]
Row = Mapping[str, Any]


def name_of(run: Row) -> str:
    """Name of a model's column."""
    return f"seed {run['seed']}" if run["colour_questions"] else f"plain, seed {run['seed']}"


def audited(scenes: Found | None, *, colour: bool) -> list[Row]:
    """Runs that were not refused."""
    runs = [] if scenes is None else scenes["runs"]
    return [run for run in runs if run["colour_questions"] == colour and "refused" not in run]


def opening(scenes: Found | None, real: Found | None) -> Iterator[str]:
    """What was done."""
    yield "# Results: leak audit"
    yield "How it works: [audit.md](../audit.md)."
    yield prose(
        "This page is written by `python benchmarks/leaks/page.py --write` from the files in",
        "[benchmarks/results/leaks](../../benchmarks/results/leaks), which name commands, versions and settings.",
    )
    yield prose(
        "Bits are a difference of cross-entropies, per question: of an attacker who reads the words of the question,",
        "less one who reads the level too. They are a lower bound of what leaks.",
        "Intervals are at 95 %, over scenes. Differences are paired over the same questions.",
        "Attributes that a question mentions, that it does not mention, and those of the background stay apart.",
    )
    if scenes is not None:
        rows, plain = scenes["settings"]["rows"], audited(scenes, colour=False)
        yield prose(
            f"**Scenes**: small vision-language models of this machine, each asked {rows} questions about {rows // 2}",
            "rendered scenes that no model has seen. A seed is a model of its own; all are asked the same.",
            *(["`plain` models never learned to answer what colour something is."] if plain else []),
            f"A model that is not right in more than {scenes['settings']['least']} of held-out questions is refused.",
        )
    if real is not None:
        yield prose(
            f"**SmolLM2-135M-Instruct**, weights {real['weights']}: {real['facts']['prompts']} questions about texts",
            "of facts, as in a chat. Its numbers are those of the dequantised weights, not of the original ones.",
        )


def claims(scenes: Found | None, real: Found | None) -> Iterator[str]:
    """The verdicts, then the evidence."""
    yield "## Claims of the paper"
    yield prose(
        "The rules were written before the first full run, in `benchmarks/leaks/claims.py`.",
        "A claim is judged over all its evidence below: of each seed, attribute and cell that it names.",
        "Open: intervals are too wide to say.",
        "The last row is a control of ours, not a claim of the paper.",
    )
    groups = {
        f"{name}, {len(runs)} seed{'' if len(runs) == 1 else 's'}": runs
        for name, colour in (("scenes", True), ("plain scenes", False))
        if (runs := audited(scenes, colour=colour))
    }
    groups |= {"SmolLM2": [real]} if real is not None else {}
    verdicts = {name: judged([run["evidence"] for run in runs]) for name, runs in groups.items()}
    rows = [
        [claim.text, claim.rule, *(f"**{each[place]['verdict']}**" for each in verdicts.values())]
        for place, claim in enumerate((*CLAIMS, CONTROL))
    ]
    yield lines(["claim", "held if", *groups], rows)
    for name, some in groups.items():
        told = [one for run in some for one in run["evidence"]["background"] if " less " not in one["what"]]
        if told and all(one["low"] <= 0 for one in told):
            yield prose(
                f"Of the {name}, no trajectory tells anything of the background that an interval would show.",
                "So there the equality of logits and trajectories is one of two cells that tell nothing.",
            )
    yield "Evidence, scenes:"
    runs = [*audited(scenes, colour=True), *audited(scenes, colour=False)]
    yield proof({name_of(run): run["evidence"] for run in runs})
    if real is not None:
        yield "Evidence, SmolLM2:"
        yield proof({"SmolLM2": real["evidence"]})


def proof(columns: Mapping[str, Mapping[str, Sequence[Row]]]) -> str:
    """Every piece of evidence, a column for each model."""
    rows = []
    for claim in (*CLAIMS, CONTROL):
        each = {
            name: {one["what"]: one for one in found.get(claim.key, ())} for name, found in columns.items()
        }
        whats = dict.fromkeys(what for found in each.values() for what in found)
        for what in whats:
            ones = [found.get(what) for found in each.values()]
            kind = next(one["measure"] for one in ones if one is not None)
            n = max(one["n"] for one in ones if one is not None)
            rows.append([claim.key, what, kind, *(span(one, 3, sign="+") for one in ones), str(n)])
    return lines(["claim", "what", "measure", *columns, "n"], rows)


def rows_of(run: Row, pair: tuple[str, str]) -> Iterator[tuple[str, Row]]:
    """Cells and controls of an attribute in a role, by name."""
    for row in run["table"]:
        if (row["attribute"], row["role"]) == pair:
            parts = [row["level"], row.get("lens", ""), row.get("encoding", "")]
            parts += [f"{row['k']:.0f}"] if row.get("k") and row["level"] != "trajectory" else []
            parts += [f"{row['layer']:.0f}"] if "layer" in row else []
            parts += ["all"] if row["level"] == "logits" and not row.get("k") else []
            yield " ".join(filter(None, parts)), row
    for row in run["controls"]:
        if (row["attribute"], row["role"]) == pair:
            level = "" if row["control"] in ("random tokens", "answer-only") else row.get("level", "")
            parts = [f"*{row['control']}*", level, f"{row['k']:.0f}" if row.get("k") else ""]
            yield " ".join(filter(None, parts)), row


def levels(runs: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Every cell and control: accuracy of the first model, and bits of each."""
    for pair in pairs:
        each = [dict(rows_of(run, pair)) for run in runs]
        names = list(each[0])
        if not names:
            continue
        one = each[0][names[0]]
        if said := nothing_left(each):
            yield f"### {pair[0].replace('_', ' ')} ({pair[1]}): n = {one['n']}, chance {number(one['chance'])}"
            yield said
            continue
        yield f"### {pair[0].replace('_', ' ')} ({pair[1]}): n = {one['n']}, chance {number(one['chance'])}"
        rows = [
            [
                name,
                span(each[0][name], of="accuracy"),
                *(span(found.get(name), of="bits", sign="+", digits=3) for found in each),
            ]
            for name in names
        ]
        yield lines(
            [
                "level or *control*",
                f"accuracy, {name_of(runs[0])}",
                *(f"bits, {name_of(run)}" for run in runs),
            ],
            rows,
        )


def nothing_left(each: Sequence[Mapping[str, Row]]) -> str:
    """A sentence where the question tells all, so that no level has bits to add; empty elsewhere."""
    known = [row["question_only"] for found in each for row in found.values() if "question_only" in row]
    bits = [
        abs(row["bits"]) for found in each for name, row in found.items() if "bits" in row and name[0] != "*"
    ]
    if not known or min(known) < 1 or max(bits) > NOTHING:
        return ""
    return prose(
        "The question alone names it right in all rows, so that it proves nothing what a level names right: the bits",
        f"of all {len(bits)} cells, of any model, lie within {NOTHING} of 0.",
    )


def of_scenes(scenes: Found) -> Iterator[str]:
    """The vision-language models."""
    yield "## Vision-language models"
    every = scenes["runs"]
    rows = []
    for run in every:
        task = run.get("facts", {}).get("task_accuracy")
        card = run["card"]
        rows.append(
            [
                name_of(run),
                f"{number(card['yes_no']['right'], 3)} (n = {card['yes_no']['n']})",
                "-" if task is None else f"{span(task, 3)} (n = {task['n']})",
                f"{number(card['colour']['right'], 3)} (n = {card['colour']['n']})",
                run.get("refused", "audited"),
            ]
        )
    yield lines(["model", "yes or no, held out", "yes or no, audited questions", "what colour", ""], rows)
    runs = [*audited(scenes, colour=True), *audited(scenes, colour=False)]
    pairs = [("colour", "mentioned"), ("colour", "unmentioned"), ("background_colour", "background")]
    if runs:
        yield from levels(runs, [*pairs, ("noise", "background")])
        yield checks({name_of(run): run for run in runs})


def checks(runs: Mapping[str, Row]) -> str:
    """How many data-processing checks hold, and which do not."""
    every = [(name, row) for name, run in runs.items() for row in run["checks"]]
    failed = [
        f"{name}, {row['attribute']} ({row['role']}): {row['lesser']} less {row['greater']} "
        + span(row, of="bits", sign="+", digits=3)
        for name, row in every
        if not row["holds"]
    ]
    said = "The others: " + "; ".join(failed) + "." if failed else ""
    return prose(
        "Data-processing inequality (top k at most all logits, at most the final hidden state):",
        f"{len(every) - len(failed)} of {len(every)} checks hold.",
        said,
    )


def written(transcript: Found | None) -> Iterator[str]:
    """What the served model wrote."""
    if transcript is not None:
        read = transcript["readings"]
        parts = [
            f"{token!r} in {count} of {read['rows']} replies" for token, count in read["written"].items()
        ]
        yield f"It wrote {', '.join(parts)}."
        yield f"In any case of letters {span(read['right'], 3)} are right."
        if read["right"]["low"] <= 0.5:  # half of the answers are yes
            yield "That is no more than guessing: it leaks what it does not use."


def of_real(real: Found, transcript: Found | None) -> Iterator[str]:
    """The real language model."""
    yield "## SmolLM2"
    facts = real["facts"]
    told = {"greedy answer": "task_accuracy", "larger logit of yes and no": "task_accuracy_among_answers"}
    parts = [
        f"by the {what} {span(facts[name], 3)} (n = {facts[name]['n']})"
        for what, name in told.items()
        if name in facts
    ]
    yield prose(
        f"In its own task it is right {', '.join(parts)}.",
        "Answers count as they are written, yes or no. Half of them are yes.",
        *written(transcript),
    )
    for pair in (("colour", "unmentioned"), ("colour", "mentioned"), ("city", "background")):
        rows = [row for row in real["table"] if (row["attribute"], row["role"]) == pair]
        if not rows:
            continue
        yield f"### {pair[0]} ({pair[1]}): n = {rows[0]['n']}, chance {number(rows[0]['chance'])}"
        if said := nothing_left([dict(rows_of(real, pair))]):
            yield said
            continue
        yield by_k(real, pair, "accuracy")
        yield by_k(real, pair, "bits")
        rest = [
            [name, span(row, of="accuracy"), span(row, of="bits", sign="+", digits=3)]
            for name, row in rows_of(real, pair)
            if not row.get("k") or row.get("level") == "trajectory" or row.get("control") == "untrained model"
            or row.get("control") == "shuffled labels"
        ]  # fmt: skip
        yield lines(["level or *control*", "accuracy", "bits"], rest)
    yield checks({"SmolLM2": real})


def by_k(real: Found, pair: tuple[str, str], of: str) -> str:
    """An encoding a row, a number of tokens a column, as in the pilot's table."""
    rows = [row for row in real["table"] if (row["attribute"], row["role"]) == pair]
    rows = [row for row in rows if row["level"] in ("logits", "logprobs") and row.get("k")]
    random = [row for row in real["controls"] if (row["attribute"], row["role"]) == pair]
    kinds = {
        "sorted log-probabilities": [row for row in rows if row.get("encoding") == "sorted"],
        "log-probabilities as served": [row for row in rows if row.get("encoding") == "served"],
        "logits of fixed tokens": [row for row in rows if row.get("encoding") == "fixed"],
        "logits of random tokens": [row for row in random if row["control"] == "random tokens"],
    }
    ks = sorted({row["k"] for some in kinds.values() for row in some})
    cells = {name: {row["k"]: row for row in some} for name, some in kinds.items()}
    sign = "+" if of == "bits" else ""
    return lines(
        [of, *(f"k = {k:.0f}" for k in ks)],
        [[name, *(span(found.get(k), of=of, sign=sign) for k in ks)] for name, found in cells.items()],
    )


def network(columns: Mapping[str, Row]) -> Iterator[str]:
    """The paper's network at large numbers of logits."""
    yield "## Large numbers of logits"
    yield prose(
        f"The network of the paper has {', '.join(map(str, HIDDEN))} hidden units; ours has no dropout.",
        "It is trained on logits of fixed tokens, with inputs as they are and standardised.",
        "The classifiers of the audit always standardise theirs.",
    )
    rows = []
    for name, run in columns.items():
        rows += [
            [
                name,
                f"{row['attribute'].replace('_', ' ')} ({row['role']})",
                row["inputs"],
                str(row["k"]),
                span(row, of="accuracy"),
                str(row["n"]),
            ]
            for row in sorted(run["network"], key=lambda row: (row["attribute"], row["inputs"], row["k"]))
        ]
    yield lines(["model", "attribute", "inputs", "logits", "accuracy", "n"], rows)


HIDDEN = (64, 48, 32)
"""Units of each hidden layer of the paper's network, arXiv 2604.09885."""
UTILITY = {
    "same answer": "same_answer",
    "error of its log-probability, nats": "answer_error_nats",
    "kept": "kept",
}


def mitigations(columns: Mapping[str, Row]) -> Iterator[str]:
    """Bits against utility."""
    yield "## Mitigations"
    yield prose(
        "Each is put on the log-probabilities that are served, and the attacker is trained anew on what is left.",
        "Change: bits with it less without it, of the same questions.",
        "There are three utilities. *Same answer*: the share of replies whose most likely token is the same.",
        "*Error*: the mean absolute error of the answer's log-probability.",
        "*Kept*: the share of the served tokens, or of their mass, that is still there.",
    )
    for name, run in columns.items():
        rows = run["mitigations"]
        pairs = [
            pair
            for pair in dict.fromkeys((r["attribute"], r["role"]) for r in rows)
            if pair[1] != "mentioned"
        ]
        settings = dict.fromkeys((row["mitigation"], row.get("setting", "")) for row in rows)
        table = []
        for setting in settings:
            own = [row for row in rows if (row["mitigation"], row.get("setting", "")) == setting]
            cells = []
            for pair in pairs:
                row = next((row for row in own if (row["attribute"], row["role"]) == pair), None)
                change = None if row is None or "change" not in row else row
                cells += [
                    span(row, of="bits", sign="+", digits=3),
                    span(change, of="change", sign="+", digits=3),
                ]
            useful = (span(own[0], of=column) for column in UTILITY.values())
            table.append([" ".join(setting).strip(), *cells, *useful])
        heads = [head for pair in pairs for head in (f"{pair[0].replace('_', ' ')}, bits", "change")]
        yield f"### {name}"
        yield lines(["mitigation", *heads, *UTILITY], table)


def left_out(scenes: Found | None, real: Found | None) -> Iterator[str]:
    """What was not run."""
    yield "## Left out"
    seeds = len(audited(scenes, colour=True))
    yield prose(
        f"Seeds of models: {seeds} of the scenes, one of the real model's questions.",
        "Not measured here: other vision-language models, and pictures of the world.",
        "Of the real model neither its tuned and Jacobian lenses nor all of its logits at once were read.",
        "Neither networks with dropout nor gradient boosting (which `classifiers` can name) attacked.",
        "Answers beyond their first token were left out.",
        *(
            ["Models that never learned to answer what colour something is were not run, for want of time."]
            if not audited(scenes, colour=False)
            else []
        ),
        *(["The audit of the scenes was not run."] if scenes is None else []),
        *(["The audit of SmolLM2 was not run."] if real is None else []),
    )


def page() -> str:
    """The whole page."""
    scenes, real = read("leaks/scenes.json"), read("leaks/real.json")
    runs = {name_of(run): run for colour in (True, False) for run in audited(scenes, colour=colour)}
    every = {**runs, **({"SmolLM2": real} if real is not None else {})}
    parts = [
        *opening(scenes, real),
        *claims(scenes, real),
        *(of_scenes(scenes) if scenes is not None else ()),
        *(of_real(real, read("leaks/served.json")) if real is not None else ()),
        *network(every),
        *mitigations(every),
        *served(read("leaks/served.json")),
        *memory(read("leaks/memory.json")),
        *channels(read("leaks/channels.json")),
        *lenses(read("lenses/tuned.json")),
        *left_out(scenes, real),
    ]
    return joined(parts)


if __name__ == "__main__":
    main("leaks.md", page())
