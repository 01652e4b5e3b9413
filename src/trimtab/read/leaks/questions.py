"""Questions of an audit: prompts with the attributes of what they are about, read and checked before any work starts.

Every row that goes in is accounted for: it is used, or set aside for a reason that is counted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from trimtab.data.record_files import lines
from trimtab.data.tables import check_columns, has_value, label_text, labels, list_of_text, read_table
from trimtab.errors import DataError, TrimtabError, nearest, refusal
from trimtab.models.chat import Prompt, as_lists, is_missing, read_prompt
from trimtab.runs.brief import one_line
from trimtab.runs.files import has_halves, parse_json
from trimtab.runs.paths import neighbour, path_problem

Role = Literal["mentioned", "unmentioned", "background"]
ROLES: tuple[Role, ...] = ("mentioned", "unmentioned", "background")
RESERVED = ("prompt", "image", "question", "answer", "mentioned")
"""Columns of a questions file that are no attributes."""
LEAST_GROUPS = 5
"""Groups that a class must occur in: one for each fold of cross-validation."""
_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True, eq=False)
class Accounting:
    """Accounting of rows: how many went in, were set aside and why, and are used.

    Attributes:
        frame: where ("questions", or an attribute), rows, why. Of each place the first row is "in", the last is "used",
            and those between add up to what is missing.

    Raises:
        DataError: rows that do not add up.

    >>> Accounting.of("city", 10, {"no label": 3, "blank": 0}).frame.values.tolist()
    [['city', 10, 'in'], ['city', 3, 'no label'], ['city', 7, 'used']]
    """

    frame: pd.DataFrame

    def __post_init__(self) -> None:
        for where, part in self.frame.groupby("where", sort=False):
            why, rows = part["why"].tolist(), part["rows"].tolist()
            if (
                len(rows) < 2
                or (why[0], why[-1]) != ("in", "used")
                or rows[0] != sum(rows[1:])
                or min(rows) < 0
            ):
                got = f"{rows} for {why}"
                raise refusal(
                    f"accounting of {where}", got, "in = set aside + used, with these first and last"
                )

    @classmethod
    def of(cls, where: str, rows: int, aside: Mapping[str, int]) -> Accounting:
        """Accounting of one place.

        Args:
            where: the place.
            rows: how many went in.
            aside: why -> how many rows were set aside; reasons without rows are left out.
        """
        given = [(why, int(count)) for why, count in aside.items() if count]
        used = rows - sum(count for _, count in given)
        table = [("in", rows), *given, ("used", used)]
        frame = pd.DataFrame(
            {"where": where, "rows": [count for _, count in table], "why": [why for why, _ in table]}
        )
        return cls(frame.astype({"where": object, "why": object}))

    def __add__(self, other: Accounting) -> Accounting:
        """Both, one after the other."""
        return Accounting(pd.concat([self.frame, other.frame], ignore_index=True))

    def used(self, where: str) -> int:
        """Rows that are used at a place."""
        part = self.frame[(self.frame["where"] == where) & (self.frame["why"] == "used")]
        return int(part["rows"].iloc[0])


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions of an audit, one row each, checked.

    Attributes:
        prompts: texts or conversations, as the model is to read them; () where there is no model to read them.
        attributes: (n, attributes) labels as texts; None where this row has no such attribute.
        roles: same shape: whether the question mentions the attribute, does not, or is not about its thing at all.
        groups: (n,) rows that must not be split between folds, numbered from 0.
        images: a picture for each prompt; None for texts alone.
        known: what the caller knows anyway: the column `question`; with pictures the prompt itself; None where it is
            not given.
        answers: the right answers, "" where there is none; None where no row has one.
        accounting: of all rows, then of each attribute.
    """

    prompts: Sequence[Prompt]
    attributes: pd.DataFrame
    roles: pd.DataFrame
    groups: Int[np.ndarray, " n"]
    accounting: Accounting
    images: Sequence[Path] | None = None
    known: Sequence[str] | None = None
    answers: Sequence[str] | None = None

    def __repr__(self) -> str:
        names = [str(name) for name in self.attributes.columns]
        facts = (f"{len(self)} rows in {len(np.unique(self.groups))} groups", *names)
        return one_line("Questions", *facts, *(["with pictures"] if self.images is not None else []))

    def __len__(self) -> int:
        return len(self.groups)

    def of(self, attribute: str, role: Role) -> Int[np.ndarray, " m"]:
        """Rows that have a label of an attribute, in a role."""
        kept = self.attributes[attribute].notna() & (self.roles[attribute] == role)
        return np.flatnonzero(kept.to_numpy())

    @cached_property
    def texts(self) -> list[str]:
        """Prompts as texts: of a conversation role and content of each message."""
        return [str(read_prompt(one, f"prompt {row}")) for row, one in enumerate(self.prompts)]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the prompts and with the names, sizes and times of the pictures."""
        digest = hashlib.sha256(json.dumps(list(self.prompts), default=str).encode("utf-8", "surrogatepass"))
        for path in self.images or ():
            status = path.stat()
            digest.update(
                f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()[:16]


def read_questions(
    source: pd.DataFrame | str | Path,
    attributes: Sequence[str],
    *,
    group: str | None = None,
    background: Sequence[str] = (),
) -> Questions:
    """Questions of a table: a column `prompt`, one for each attribute, and others where they are there.

    Columns: `prompt` (a text, or the messages of a conversation); `image` (path of a picture, relative to the file);
    `question` (what the caller knows anyway); `answer` (the right one); `mentioned` (names of the attributes that the
    question mentions: a list, or a text with commas; without the column none is mentioned); an attribute a column; the
    group.

    Set aside, and counted: rows without a prompt, picture, question or group where there is such a column, and rows
    without any label; for an attribute, rows without its label, and classes in fewer than five groups.

    Args:
        source: a frame, or a file: JSON lines, CSV, TSV or Parquet.
        attributes: columns to audit.
        group: column of what must not be split between folds, such as a scene or a user. None: rows of one picture, or
            of one prompt where there are none, are a group.
        background: attributes of things that the question is not about; audited too.

    Raises:
        DataError: a file that cannot be read; a column that is missing or there twice; no row left; a picture that is
            missing; `mentioned` naming what is no column; a prompt of another form; fewer than five groups; an
            attribute with fewer than two classes.
    """
    frame, folder = _table(source)
    names = _names(frame, attributes, background, group)
    present = [column for column in ("image", "question") if column in frame]
    check_columns(frame, ["prompt", *present, *[one for one in ("answer", "mentioned") if one in frame]])
    frame = frame.reset_index(drop=True)
    aside = pd.Series([None] * len(frame), dtype=object)
    for column in ("prompt", *present):
        aside[~_given(frame[column]) & aside.isna()] = f"no {column}"
    kept = frame[aside.isna()]
    prompts = {row: _prompt(value, f"row {row}") for row, value in kept["prompt"].items()}
    images = _images(kept["image"], folder) if "image" in frame else None
    same = images if images is not None else {row: repr(prompt) for row, prompt in prompts.items()}
    twins = None if group is not None else pd.Series(same, dtype=object).reindex(frame.index)
    read = label_rows(frame, names, group=group, background=background, aside=aside, twins=twins)
    rows = read.rows.tolist()
    given = [prompts[row] for row in rows]
    questions = Questions(
        prompts=given,
        attributes=read.attributes,
        roles=read.roles,
        groups=read.groups,
        accounting=read.accounting,
        images=None if images is None else [images[row] for row in rows],
        known=_texts(frame, "question", rows),
        answers=_texts(frame, "answer", rows),
    )
    if questions.known is None and images is not None:
        object.__setattr__(questions, "known", questions.texts)
    return questions


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels, roles and groups of the rows of a table that can be used.

    Attributes:
        rows: (n,) places of these rows in the table, rising.
        attributes: (n, attributes) labels as texts, None where there is none.
        roles: same shape.
        groups: (n,) numbered from 0.
        accounting: of all rows, then of each attribute.
    """

    rows: Int[np.ndarray, " n"]
    attributes: pd.DataFrame
    roles: pd.DataFrame
    groups: Int[np.ndarray, " n"]
    accounting: Accounting


def label_rows(
    frame: pd.DataFrame,
    attributes: Sequence[str],
    *,
    group: str | None = None,
    background: Sequence[str] = (),
    aside: pd.Series[Any] | None = None,
    twins: pd.Series[Any] | None = None,
    where: str = "questions",
) -> Labelled:
    """Labels, roles and groups of a table's rows, with what is set aside.

    Args:
        frame: with a column for each attribute and the group, and `mentioned` where it is there.
        attributes: columns to audit.
        group: see `read_questions`.
        background: of the attributes, those of things that the question is not about; others are added.
        aside: (rows,) why a row is set aside already, None where it is not.
        twins: (rows,) equal values make a group where no column is named; None: every row is its own.
        where: what the rows are called.

    Raises:
        DataError: what `read_questions` refuses of labels, groups and `mentioned`.
    """
    names = _names(frame, attributes, background, group)
    if where in names:
        got = f"{where!r}, which the accounting calls the rows themselves"
        raise refusal("attributes", got, "columns of attributes", "a copy of another name")
    frame = frame.reset_index(drop=True)
    why = (
        pd.Series([None] * len(frame), dtype=object) if aside is None else aside.reset_index(drop=True).copy()
    )
    texts = pd.DataFrame({name: _labels(frame, name) for name in names}, index=frame.index, dtype=object)
    if group is not None:
        groups = _labels(frame, group)
        why[groups.isna() & why.isna()] = f"no group {group!r}"
    else:
        groups = pd.Series(range(len(frame)), dtype=object) if twins is None else twins.reset_index(drop=True)
    why[texts.isna().all(axis=1) & why.isna()] = "no label of any attribute"
    keep = np.flatnonzero(why.isna().to_numpy())
    if not len(keep):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(why).items()) or "no rows"
        raise refusal(where, f"no row that can be used ({reasons})", "rows with a prompt and a label")
    numbers = pd.factorize(groups.iloc[keep])[0].astype(np.int64)
    if (count := int(numbers.max()) + 1) < LEAST_GROUPS:
        what = f"{group!r}" if group is not None else "rows that are not alike"
        got = f"{count} group{'s' if count > 1 else ''} by {what}"
        raise refusal(
            where, got, f"at least {LEAST_GROUPS}, one for each fold", "another group, or more rows"
        )
    kept = texts.iloc[keep].reset_index(drop=True)
    roles = _roles(frame, kept.columns, keep, background, where)
    accounting = Accounting.of(where, len(frame), Counter(why.dropna()))
    for name in names:
        classes = kept[name].nunique()
        kept[name], missing = _common(kept[name], numbers)
        if kept[name].nunique() < 2:
            got = f"{kept[name].nunique()} of {classes} classes in at least {LEAST_GROUPS} groups"
            raise refusal(f"attribute {name!r}", got, "at least 2 classes", "leaving it out, or more rows")
        accounting += Accounting.of(name, len(keep), missing)
    return Labelled(keep, kept, roles, numbers, accounting)


def _table(source: pd.DataFrame | str | Path) -> tuple[pd.DataFrame, Path]:
    """A table of questions, and the folder from which its pictures are named."""
    if isinstance(source, pd.DataFrame):
        return source, Path()
    if not isinstance(source, str | Path):
        raise refusal("questions", f"a {type(source).__name__}", "a pandas DataFrame, or the path of a file")
    if (problem := path_problem("questions", source, "a file of questions")) is not None:
        raise DataError(str(problem))
    path = Path(source).expanduser()
    if not path.name.lower().endswith(_LINES):
        if path.suffix.lower() == ".json":
            got, hint = f"{path.name!r}", "one JSON object a line, in a .jsonl file"
            raise refusal("questions", got, "a .jsonl, .csv, .tsv or .parquet file", hint)
        return read_table(path), path.parent
    if not path.exists():
        raise refusal("questions", f"no file {str(path)!r}", "a file of questions", neighbour(path))
    rows = []
    for at, line in lines(path, "one JSON object per line, in UTF-8"):
        if not line.strip():
            continue
        row = parse_json(line, at, "a JSON object")
        if not isinstance(row, dict):
            raise refusal(at, f"a {type(row).__name__}", "a JSON object")
        rows.append(row)
    if not rows:
        raise refusal(path, "no rows", "one JSON object per line")
    return frame_of(rows, str(path)), path.parent


def frame_of(rows: Sequence[Mapping[str, Any]], where: str) -> pd.DataFrame:
    """A table of rows that were read as JSON.

    Raises:
        DataError: a text with half a character, which no other file could hold.
    """
    try:
        return pd.DataFrame(rows)
    except UnicodeEncodeError as error:
        number = next((n for n, row in enumerate(rows) if has_halves(json.dumps(row, ensure_ascii=False))), 0)
        got = f"half a character in row {number}"
        raise refusal(where, got, "whole characters", "writing that row anew") from error


def listed_names(attributes: Sequence[str], background: Sequence[str]) -> list[str]:
    """Attributes to audit, those of the background among them, each once.

    Raises:
        DataError: no list of names, none, or one twice.
    """
    for what, given in (("attributes", attributes), ("background", background)):
        listed = isinstance(given, Sequence | pd.Index | np.ndarray) and not isinstance(given, str)
        if not listed or not all(isinstance(one, str) for one in given):
            hint = f"[{given!r}]" if isinstance(given, str) else ""
            raise refusal(what, repr(given)[:60], "a list of columns", hint)
        if twice := [name for name, times in Counter(given).items() if times > 1]:
            raise refusal(what, f"{twice[0]!r} twice", "each once")
    names = list(dict.fromkeys([*attributes, *background]))
    if not names:
        raise refusal("attributes", "none", "at least one column", "attributes=['colour']")
    return names


def _names(
    frame: pd.DataFrame, attributes: Sequence[str], background: Sequence[str], group: str | None
) -> list[str]:
    """Attributes to audit, those of the background among them; their columns and the group's are there."""
    names = listed_names(attributes, background)
    taken = [name for name in names if name in RESERVED or name == group]
    if taken:
        what = "the group" if taken[0] == group else "a column with a meaning of its own"
        raise refusal(
            "attributes", f"{taken[0]!r}, which is {what}", "columns of attributes", "a copy of another name"
        )
    for at, column in [
        *(("attributes", name) for name in names),
        *([] if group is None else [("group", group)]),
    ]:
        try:
            check_columns(frame, [column])
        except DataError as error:
            raise DataError(f"{at}: {error}") from error
    return names


def _labels(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    try:
        return labels(frame[column])
    except TrimtabError as error:
        raise DataError(f"column {column!r}: {error}") from error
    except TypeError as error:  # what cannot be hashed, and is no label
        kinds = sorted({type(one).__name__ for one in frame[column] if not is_missing(one)})
        raise refusal(
            f"column {column!r}", f"values of kind {', '.join(kinds)}", "labels: texts or numbers"
        ) from error


def _given(values: pd.Series[Any]) -> np.ndarray:
    """Whether each row has a value: no missing or blank one, and no empty list."""
    empty = [isinstance(one, list | tuple | np.ndarray) and len(one) == 0 for one in values]
    given: np.ndarray = has_value(values).to_numpy() & ~np.array(empty, dtype=bool)
    return given


def _prompt(value: Any, where: str) -> Prompt:
    value = as_lists(value)
    read_prompt(value, where)
    return value  # type: ignore[no-any-return]


def _images(paths: pd.Series[Any], folder: Path) -> dict[int, Path]:
    """Row -> path of its picture, all of which are there."""
    found, absent = dict[int, Path](), list[tuple[int, Path]]()
    for row, value in paths.items():
        if not isinstance(value, str | Path):
            raise refusal(f"row {row}, 'image'", f"a {type(value).__name__}", "the path of a picture")
        if (problem := path_problem(f"row {row}, 'image'", value, "the path of a picture")) is not None:
            raise DataError(str(problem))
        path = folder / Path(os.path.expanduser(value))  # noqa: PTH111 (`~nobody` is a problem above)
        found[int(str(row))] = path
        if not path.is_file():
            absent.append((int(str(row)), path))
    if absent:
        row, path = absent[0]
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise refusal(f"row {row}, 'image'", f"no file {str(path)!r}{more}", "a picture", neighbour(path))
    return found


def _texts(frame: pd.DataFrame, column: str, rows: Sequence[int]) -> list[str] | None:
    """Texts of a column, "" where there is none; None where no row has one."""
    if column not in frame:
        return None
    try:
        texts = ["" if is_missing(one) else label_text(one) for one in frame[column].iloc[list(rows)]]
    except DataError as error:
        raise DataError(f"column {column!r}: {error}") from error
    return texts if any(texts) else None


def _roles(
    frame: pd.DataFrame, names: Iterable[str], keep: np.ndarray, background: Sequence[str], where: str
) -> pd.DataFrame:
    listed = list(names)
    roles = np.full((len(keep), len(listed)), "unmentioned", dtype=object)
    roles[:, [name in background for name in listed]] = "background"
    if "mentioned" not in frame:
        return pd.DataFrame(roles, columns=listed, dtype=object)
    columns = [str(one) for one in frame.columns]
    for place, row in enumerate(keep):
        for name in _mentioned(frame["mentioned"].iloc[row], f"{where}, row {row}, 'mentioned'"):
            if name not in columns:
                raise refusal(
                    f"{where}, row {row}, 'mentioned'",
                    repr(name),
                    "names of attributes",
                    nearest(name, columns),
                )
            if name in background:
                got = f"{name!r}, which is of the background"
                raise refusal(f"{where}, row {row}, 'mentioned'", got, "attributes of what is asked about")
            if name in listed:
                roles[place, listed.index(name)] = "mentioned"
    return pd.DataFrame(roles, columns=listed, dtype=object)


def _mentioned(value: Any, at: str) -> list[str]:
    """Names in a cell: a list, the text of one, or a text with commas; a missing cell names none."""
    value = as_lists(value)
    if not isinstance(value, list) and is_missing(value):
        return []
    if isinstance(value, str):
        read = list_of_text(value)
        value = [part.strip() for part in value.split(",") if part.strip()] if read is None else read
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        got = f"{value!r:.60}"
        raise refusal(at, got, "a list of names, or a text with commas", "['colour', 'size']")
    return value


def _common(values: pd.Series[Any], groups: Int[np.ndarray, " n"]) -> tuple[pd.Series[Any], dict[str, int]]:
    """Labels without those of classes in too few groups, and why how many rows have none."""
    spread = pd.DataFrame({"label": values, "group": groups}).groupby("label")["group"].nunique()
    rare = spread.index[spread < LEAST_GROUPS]
    reasons = {"no label": int(values.isna().sum())}
    few = values.isin(list(rare))
    if len(rare):
        told = ", ".join(map(repr, rare[:3])) + (f" and {len(rare) - 3} more" if len(rare) > 3 else "")
        reasons[f"a class in fewer than {LEAST_GROUPS} groups ({told})"] = int(few.sum())
    return values.where(~few, None), reasons
