"""What became of the records of a run's domains: how many there are, what was left out or cut, and what is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from trimtab.adapt.record import RunRecord, Stretch
from trimtab.data.tokens import TokenDomain, TokenSplit, left_out
from trimtab.train.loop import evaluation_rows
from trimtab.train.settings import Fit

FEW_RECORDS = 30
"""Records below which a verdict on a constraint is marked: an interval over them says little."""

COLUMNS = (
    "domain",
    "split",
    "records",
    "blank",
    "skipped",
    "dropped",
    "beyond",
    "sequences",
    "truncated",
    "tokens",
    "left_over",
    "read",
    "read_records",
    "probe",
)


def data_table(domains: Mapping[str, TokenDomain], train: Sequence[str], fit: Fit) -> pd.DataFrame:
    """One row per domain and split that a run uses.

    Args:
        domains: tokenised, by name.
        train: which of them are trained on.
        fit: how many sequences are read.

    Returns:
        Columns: domain, split; records (read, blank ones not counted), blank, skipped (conversations left out), dropped
        (without a predicted token that carries loss), beyond (of those, how many a longer sequence would keep);
        sequences, truncated, tokens, left_over; read (sequences that an evaluation reads), read_records (records that
        they are of), probe (sequences that a probe reads); the last three are nan for a train split.
    """
    rows = [
        _row(name, split, tokens, fit)
        for name, domain in domains.items()
        for split, tokens in domain.splits.items()
        if split != "train" or name in train
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(name: str, split: str, tokens: TokenSplit, fit: Fit) -> dict[str, Any]:
    counts = tokens.counts
    row = {
        "domain": name,
        "split": split,
        "sequences": len(tokens),
        "read": np.nan,
        "read_records": np.nan,
        "probe": np.nan,
        **{part: getattr(counts, part) for part in COLUMNS if hasattr(counts, part)},
    }
    if split == "train":
        return row
    limit = fit.eval_sequences if split == "validation" else fit.test_sequences
    rows = evaluation_rows(name, len(tokens), limit)
    row |= {"read": float(len(rows)), "read_records": float(len(np.unique(tokens.records[rows])))}
    if split == "validation":
        row["probe"] = float(min(len(tokens), fit.probe_sequences))
    return row


def data_notes(domains: Mapping[str, TokenDomain], table: pd.DataFrame, fit: Fit) -> Iterator[str]:
    """What of the data a reader of the result has to know, a sentence each.

    Args:
        domains: tokenised, by name.
        table: from `data_table`.
        fit: how long sequences are.
    """
    for name, domain in domains.items():
        used = table.loc[table["domain"] == name, "split"].to_list()
        for phrase in (*left_out(domain, used, fit.seq_len), *domain.unread):
            yield f"Data of {name}: {phrase.rstrip('.')}."


def few_records_note(names: Mapping[str, int]) -> str:
    """The sentence on constraints that are judged on few records.

    >>> few_records_note({"web": 7})
    'Judged on fewer than 30 test records (a packed sequence counts as one): web (7). Its interval says little ...'
    """
    listed = ", ".join(f"{name} ({count})" for name, count in names.items())
    own = "Its interval says" if len(names) == 1 else "Their intervals say"
    few = f"Judged on fewer than {FEW_RECORDS} test records (a packed sequence counts as one)"
    return f"{few}: {listed}. {own} little about other data of its kind."


def few_records(result: RunRecord) -> dict[str, int]:
    """The constraints whose verdict on test is over fewer than `FEW_RECORDS` records, and how many there are."""
    known = records_read(result, "test")
    if not known and "units" in result.final:
        known = dict(zip(result.final["domain"], result.final["units"], strict=True))
    constraints = result.final.loc[result.final["role"] == "constraint", "domain"]
    return {name: int(known[name]) for name in constraints if name in known and known[name] < FEW_RECORDS}


def records_read(result: RunRecord, split: str) -> dict[str, int]:
    """Per evaluation domain, the records that a split's evaluations read; empty for a result of an earlier version."""
    return _column(result, split, "read_records")


def sequences_read(result: RunRecord, split: str, *, probe: bool = False) -> dict[str, int]:
    """Per evaluation domain, the sequences that an evaluation, or a probe, reads of a split; see `records_read`."""
    return _column(result, split, "probe" if probe else "read")


def _column(result: RunRecord, split: str, column: str) -> dict[str, int]:
    if not len(result.data):
        return {}
    own = result.data[result.data["split"] == split]
    evaluated = set(result.final["domain"])
    pairs = zip(own["domain"], own[column], strict=True)
    return {str(name): int(value) for name, value in pairs if name in evaluated}


def counted(numbers: Mapping[str, int], what: str) -> str:
    """How many of something each domain has; one number where all are alike.

    >>> counted({"a": 8, "b": 8}, "test sequences"), counted({"a": 8, "b": 5}, "test sequences")
    ('n = 8 test sequences per domain', 'n test sequences: 8 of a, 5 of b')
    """
    if len(set(numbers.values())) == 1:
        return f"n = {next(iter(numbers.values()))} {what} per domain"
    return f"n {what}: {', '.join(f'{value} of {name}' for name, value in numbers.items())}"


def examples(
    domains: Mapping[str, TokenDomain], train: Sequence[str], tokenizer: Any
) -> dict[str, tuple[Stretch, ...]]:
    """Per training domain, its first sequence as stretches of text, each with whether it carries loss."""
    return {name: domains[name].splits["train"].example(tokenizer) for name in train}


def example_line(stretches: Sequence[Stretch]) -> str:
    r"""An example on one line of plain text, what is learned in double brackets.

    >>> example_line([("[user]hi\n[assistant]", False), ("ho</s>", True)])
    '[user]hi\\n[assistant][[ho</s>]]'
    """
    parts = [f"[[{text}]]" if learned else text for text, learned in stretches]
    return "".join(parts).replace("\n", "\\n").replace("\r", "\\r")
