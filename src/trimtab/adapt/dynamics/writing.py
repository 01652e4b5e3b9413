"""Completions of held-out prompts on the page: before and after one run, and of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from trimtab.adapt.dynamics.compare import unique_labels
from trimtab.adapt.record import RunRecord
from trimtab.report.page import Section, Table, Text

MOST_WRITERS = 8
"""Runs whose completions are compared, at most: of thirty runs on twenty domains they would be half the page."""
_HOW = (
    "Each token is the most likely one; “…” stands where a text was cut. Prompts are the first that fit of the test "
    "split, and nothing is chosen by what was written. They show what a change of loss looks like, and measure nothing."
)


def completions_section(result: RunRecord) -> Iterator[Section]:
    """What the base model and the model of the run write after held-out prompts, folded; nothing without any."""
    texts = result.completions
    if not len(texts):
        return
    about = f"After: the checkpoint of step {result.step}. For {_differ(texts)} the two texts differ."
    columns = {"domain": "domain", "prompt": "prompt", "how the record goes on": "reference"}
    columns |= {"before": "before", "after": "after"}
    title = "What the model writes, before and after"
    if not result.step:
        about = "The run returned the base weights, so before and after are one."
        del columns["after"]
        title = "What the model writes"
    table = Table(pd.DataFrame({heading: _lines(texts[name]) for heading, name in columns.items()}))
    yield Section(
        title, [Text(f"{_prompts(result)} Before: the base model. {about} {_HOW}"), table], collapsed=True
    )


def _differ(texts: pd.DataFrame) -> str:
    """For how many prompts the two models write different texts."""
    return f"{int((texts['before'] != texts['after']).sum())} of {len(texts)}"


def _prompts(result: RunRecord) -> str:
    """How many prompts there are of each domain, and of which there is none."""
    counts = result.completions["domain"].value_counts(sort=False).to_dict()
    each = ", ".join(f"{count} of {name}" for name, count in counts.items())
    each = f"{next(iter(counts.values()))} per domain" if len(set(counts.values())) == 1 else each
    none = ", ".join(name for name in result.final["domain"] if name not in counts)
    told = f"n = {sum(counts.values())} held-out prompts: {each}."
    return f"{told} None that fits was found in {none}." if none else told


def compared_completions(results: Sequence[RunRecord]) -> Iterator[Section]:
    """What the base model and each run write after the first held-out prompt of each domain, folded.

    Of the runs that left tuned weights and read the same prompts with the same base model as the first that did.
    """
    tuned = [
        (label, result.completions)
        for label, result in zip(unique_labels(results), results, strict=True)
        if result.step and len(result.completions)
    ]
    asked = ["domain", "prompt", "reference", "before"]
    same = [(label, texts) for label, texts in tuned if texts[asked].equals(tuned[0][1][asked])]
    if len(same) < 2:
        return
    shown = same[:MOST_WRITERS]
    tables, prompts = [], tuned[0][1]
    for place in prompts.drop_duplicates("domain").index.tolist():
        domain, prompt, reference, before = prompts[asked].iloc[place].tolist()
        rows = [("how the record goes on", reference), ("base model", before)]
        rows += [(label, texts["after"].iloc[place]) for label, texts in shown]
        who, what = zip(*rows, strict=True)
        frame = pd.DataFrame({"who": who, "text": _lines(what)})
        tables.append(Table(frame, f"{domain}. Prompt: {_lines([prompt])[0]}"))
    about = f"{len(same)} runs that left tuned weights are asked {len(tables)} prompts, one per domain."
    if len(shown) < len(same):
        about += f" Shown are the first {len(shown)} of them."
    yield Section("What the models write", [Text(f"{about} {_HOW}"), *tables], collapsed=True)


def _lines(texts: Iterable[str]) -> list[str]:
    """Texts with their ends of lines as signs, as cells have one line."""
    return [str(text).replace("\n", "↵ ") for text in texts]
