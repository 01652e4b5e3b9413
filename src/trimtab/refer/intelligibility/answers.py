"""Answers of listeners: what each of them made of a speaker's captions, one row per answer.

A listener looks at a caption and a set of candidates, and answers with a choice or with log-probabilities. Models and
callables are asked here, also with controls: a caption of another item, and none. Choices of people and
log-probabilities that someone recorded are only checked and scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.data.pictures import Pictures
from trimtab.data.tables import check_columns, has_value, label_text, labels, list_of_text, show
from trimtab.errors import DataError, explain, nearest, refusal
from trimtab.runs.files import parse_json
from trimtab.seeds import derive

Belief = Float[np.ndarray, " candidates"]
"""Probability of each candidate; of a choice 1 at what was chosen, and all 0 where nothing was."""
Hears = Callable[[list[str], list[list[str]]], Sequence[Any]]
"""Captions and the candidates of each -> for each a candidate's name, or one log-probability per candidate."""

ALIKE = 1e-9
"""Log-probabilities (normalised) that differ by less are ties."""
_SUM = 1e-4
"""How far from 1 the sum of probabilities may be, in half precision or rounded."""
LISTED = 5
"""Items that a message lists."""
SCORES = ("score", "shuffled", "silent", "chance")
MEASURES = (*SCORES, "p_target", "confidence", "brier")
CHOSEN = "chosen"
"""Places of the candidates that an answer chose: several at a tie, none where nothing was answered."""


@dataclass(frozen=True)
class Sets:
    """Candidate sets by item.

    Attributes:
        candidates: item -> names of its candidates.
        target: item -> which of them the caption is about.
        table: further columns of the items, indexed by item.
        pictures: what the candidates are names of, whose files' endings they may carry elsewhere; None for texts.
    """

    candidates: Mapping[str, tuple[str, ...]]
    target: Mapping[str, str]
    table: pd.DataFrame
    pictures: Pictures | None = None

    @classmethod
    def of(cls, frame: pd.DataFrame, pictures: Pictures | None = None) -> Sets:
        """Sets of a checked frame of item, candidates and target (see `trimtab.refer.candidates.read_candidates`)."""
        items = frame["item"].tolist()
        return cls(
            dict(zip(items, map(tuple, frame["candidates"]), strict=True)),
            dict(zip(items, frame["target"], strict=True)),
            frame.drop(columns="candidates").set_index("item", drop=False),
            pictures,
        )

    def name(self, text: str) -> str:
        """The name of a picture as candidates have it; a text that names none stays."""
        if self.pictures is None or text not in self.pictures:
            return text
        return self.pictures.name_of(text)

    def with_items(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table whose items are called as here, where they are pictures and carry their files' endings."""
        if self.pictures is None or frame["item"].isin(list(self.target)).all():
            return frame
        names = {item: self.name(item) for item in frame["item"].unique() if item not in self.target}
        found = {item: name for item, name in names.items() if name in self.target}
        return frame.assign(item=[found.get(item, item) for item in frame["item"]])

    def place(self, item: str) -> int:
        """Place of an item's target among its candidates."""
        return self.candidates[item].index(self.target[item])


@dataclass(frozen=True)
class Record:
    """Recorded answers of a listener, checked.

    Attributes:
        table: column item, a column speaker where the listener heard several, and any further ones.
        beliefs: one per row.
        gives_probabilities: whether they are log-probabilities, not choices.
        unanswered: rows without a choice, which count as wrong.
    """

    table: pd.DataFrame
    beliefs: tuple[Belief, ...]
    gives_probabilities: bool
    unanswered: int = 0

    def of_speaker(self, speaker: str) -> Record:
        """The rows on one speaker's captions; all of them where the table names no speaker."""
        if "speaker" not in self.table:
            return self
        mask = (self.table["speaker"] == speaker).to_numpy()
        beliefs = tuple(one for one, taken in zip(self.beliefs, mask, strict=True) if taken)
        return Record(self.table[mask].reset_index(drop=True), beliefs, self.gives_probabilities)

    def at(self, mask: np.ndarray) -> Record:
        """The rows of a mask."""
        beliefs = tuple(one for one, taken in zip(self.beliefs, mask, strict=True) if taken)
        return Record(self.table[mask].reset_index(drop=True), beliefs, self.gives_probabilities)


def listed(items: Sequence[str]) -> str:
    """The first of several items, for a message."""
    shown = ", ".join(repr(one) for one in items[:LISTED])
    return shown + (f" and {len(items) - LISTED} more" if len(items) > LISTED else "")


def recorded(frame: pd.DataFrame, where: str, sets: Sets, speakers: Sequence[str]) -> Record:
    """Recorded answers of a listener, checked against the candidates.

    Args:
        frame: rows of item and choice (a candidate's name; empty where nothing was chosen), or of item and
            log-probabilities: a list `log_probabilities` in the order of the item's candidates, or one column named
            after each candidate. A column speaker tells whose caption was heard; it is needed when there are several
            speakers. Several rows of one item are several answers, as by several people.
        where: what to call it in messages.
        sets: candidates of the items.
        speakers: their names.

    Raises:
        DataError: a column is missing, an unknown item or speaker, a choice that is no candidate, log-probabilities
            that are nan, infinite upwards, all minus infinity, or of another number than the candidates, or a
            listener (`listener_id`) who answered twice.
    """
    _check_record_columns(frame, where, speakers)
    table = frame.reset_index(drop=True)
    table = sets.with_items(table.assign(item=labels(table["item"])))
    if "speaker" in table:
        table = table.assign(speaker=labels(table["speaker"]))
        strangers = [one for one in table["speaker"].unique() if one not in speakers]
        if strangers:
            hint = nearest(str(strangers[0]), speakers)
            raise refusal(where, f"speaker {strangers[0]!r}", f"one of {list(speakers)}", hint)
    unknown = [str(one) for one in table["item"].unique() if one not in sets.candidates]
    if unknown:
        got = f"answers to {len(unknown)} items without candidates: {listed(unknown)}"
        raise refusal(where, got, "items of the candidates")
    _check_once(table, where)
    if "log_probabilities" in table:
        columns = table["log_probabilities"].tolist()
        beliefs = [
            belief_of(_unpacked(row), sets.candidates[item], f"{where}, item {item!r}")
            for item, row in zip(table["item"], columns, strict=True)
        ]
        return Record(table.drop(columns="log_probabilities"), tuple(beliefs), True)
    if "choice" in table:
        chosen = labels(table["choice"].astype(object))
        beliefs = [
            _choice(
                None if one is None else sets.name(str(one)), sets.candidates[item], f"{where}, item {item!r}"
            )
            for item, one in zip(table["item"], chosen, strict=True)
        ]
        return Record(table, tuple(beliefs), False, int(chosen.isna().sum()))
    table = table.rename(columns={name: sets.name(_column_text(name)) for name in table.columns})
    names = sorted({name for item in table["item"] for name in sets.candidates[item]})
    if lacking := [name for name in names if name not in table]:
        there = [str(one) for one in table.columns]
        got = f"neither a choice nor log-probabilities of {listed(lacking)} among columns {there[:12]}"
        hint = nearest("choice", there) or nearest("log_probabilities", there)
        raise refusal(where, got, "choice, log_probabilities, or a column for each candidate", hint)
    check_columns(table, names)
    values = {name: table[name].to_numpy() for name in names}
    beliefs = [
        belief_of(
            [values[name][row] for name in sets.candidates[item]],
            sets.candidates[item],
            f"{where}, item {item!r}",
        )
        for row, item in enumerate(table["item"])
    ]
    return Record(table.drop(columns=names), tuple(beliefs), True)


def _unpacked(value: Any) -> Any:
    """A list of numbers; of the text of a list, as CSV has it, the list."""
    told = list_of_text(value) if isinstance(value, str) else None
    return value if told is None else told


def _column_text(name: Any) -> str:
    """The name of a column as candidates are named: 1 and "1" are one."""
    try:
        return label_text(name)
    except DataError:
        return str(name)


def _check_record_columns(frame: pd.DataFrame, where: str, speakers: Sequence[str]) -> None:
    try:
        if not len(frame):
            raise DataError(explain("no rows", "at least one answer"))
        check_columns(frame, ["item"])
        if len(speakers) > 1:
            check_columns(frame, ["speaker"])
        for column in ("item", *(["speaker"] if "speaker" in frame else [])):
            if not has_value(frame[column]).all():
                raise DataError(explain(f"a row without {column!r}", "a value in every row"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check_once(table: pd.DataFrame, where: str) -> None:
    """Refuse two answers of one listener to one caption, where the rows tell listeners apart."""
    if "listener_id" not in table:
        return
    keys = [key for key in ("item", "speaker", "listener_id") if key in table]
    twice = table.duplicated(keys)
    if twice.any():
        row = table[twice].iloc[0]
        got = f"two answers of listener {show(row['listener_id'])} to item {row['item']!r}"
        raise refusal(where, got, "one answer of a listener to a caption")


def belief_of(values: Any, candidates: Sequence[str], where: str) -> Belief:
    """Probabilities of the candidates from log-probabilities, normalised over them.

    Raises:
        DataError: another number of them than of candidates, a nan, plus infinity, nothing above minus infinity, or
            probabilities, which are not negative and add to 1.

    >>> belief_of([0.0, 0.0], ["a", "b"], "listener").tolist()
    [0.5, 0.5]
    """
    if isinstance(values, str):  # a list in a cell of a CSV file
        values = parse_json(values, where, "a list of log-probabilities")
    try:
        row = np.asarray(values.detach().cpu().tolist() if hasattr(values, "detach") else values, dtype=float)
    except (TypeError, ValueError):
        raise refusal(where, f"{values!r:.60}", "log-probabilities, a number per candidate") from None
    if row.shape != (len(candidates),):
        expected = f"{len(candidates)}, one per candidate"
        raise refusal(where, f"log-probabilities of shape {row.shape}", expected)
    if np.isnan(row).any() or np.isposinf(row).any() or np.isneginf(row).all():
        got = f"log-probabilities {np.round(row[:6], 3).tolist()}"
        raise refusal(where, got, "numbers that are not nan, at least one of them finite")
    if (row >= 0).all() and abs(row.sum() - 1.0) < _SUM and (row != row[0]).any():
        got = f"numbers that add to 1, as probabilities do: {np.round(row[:6], 3).tolist()}"
        raise refusal(where, got, "log-probabilities", "numpy.log of them")
    belief: Belief = np.exp(row - row.max())
    return np.asarray(belief / belief.sum())


def _choice(chosen: str | None, candidates: Sequence[str], where: str) -> Belief:
    belief = np.zeros(len(candidates))
    if chosen is None:
        return belief
    if chosen not in candidates:
        hint = nearest(chosen[:60], candidates)
        raise refusal(where, f"choice {chosen!r}", f"one of its {len(candidates)} candidates", hint)
    belief[candidates.index(chosen)] = 1.0
    return belief


def decision(belief: Belief) -> Belief:
    """How often each candidate is chosen: the most probable one, ties shared; all 0 where nothing was answered.

    >>> decision(np.array([0.4, 0.4, 0.2])).tolist()
    [0.5, 0.5, 0.0]
    """
    if not belief.any():
        return belief
    with np.errstate(divide="ignore"):
        top = np.log(belief) >= np.log(belief.max()) - ALIKE
    return np.asarray(top / top.sum())


def asked(
    hears: Hears, captions: list[str], candidates: list[list[str]], where: str
) -> tuple[list[Belief], bool]:
    """Answers of a callable, checked: beliefs, and whether it gives probabilities.

    Raises:
        DataError: not one answer per caption, or one that is neither a candidate nor log-probabilities of them.
    """
    given = hears(list(captions), [list(one) for one in candidates])
    if isinstance(given, str | bytes | pd.DataFrame) or not isinstance(given, Iterable):
        expected = "a list with a name, or a log-probability per candidate, for each caption"
        raise refusal(where, f"a {type(given).__name__}", expected)
    answers = list(given)
    if len(answers) != len(captions):
        raise refusal(where, f"{len(answers)} answers", f"one for each of {len(captions)} captions")
    choices = [isinstance(one, str) for one in answers]
    beliefs = [
        (_choice if chose else belief_of)(one, names, f"{where}, caption {caption!r:.60}")
        for one, chose, names, caption in zip(answers, choices, candidates, captions, strict=True)
    ]
    return beliefs, not any(choices)


def deranged(n: int, seed: int, speaker: str) -> np.ndarray:
    """A permutation that leaves nothing in its place: one cycle through all places, in an order by chance.

    >>> order = deranged(5, 0, "people")
    >>> sorted(order.tolist()), bool((order == np.arange(5)).any())
    ([0, 1, 2, 3, 4], False)
    """
    cycle = np.random.default_rng(derive(seed, "shuffled captions", speaker)).permutation(n)
    order = np.empty(n, dtype=int)
    order[cycle] = np.roll(cycle, 1)
    return order


def live_answers(
    hears: Hears, where: str, captions: pd.DataFrame, sets: Sets, *, seed: int, speaker: str
) -> pd.DataFrame:
    """Answers of a callable to a speaker's captions, with its controls: the caption of another item, and none.

    Args:
        hears: the listener.
        where: what to call it in messages.
        captions: item and caption, of items that have candidates.
        sets: the candidates.
        seed: of the shuffled captions.
        speaker: whose captions they are.

    Returns:
        Columns item, `MEASURES` and `CHOSEN`; a row per caption.
    """
    items, texts = captions["item"].tolist(), captions["caption"].tolist()
    candidates = [list(sets.candidates[item]) for item in items]
    places = [sets.place(item) for item in items]
    beliefs, gives = asked(hears, texts, candidates, where)
    table = _scored(items, beliefs, places, gives)
    if len(items) > 1:
        order = deranged(len(items), seed, speaker)
        shuffled, _ = asked(hears, [texts[place] for place in order], candidates, where)
        table["shuffled"] = _scores(shuffled, places)
    silent, _ = asked(hears, [""] * len(items), candidates, where)
    return table.assign(silent=_scores(silent, places))


def record_answers(record: Record, sets: Sets) -> pd.DataFrame:
    """Answers of a record with its shuffled control; what was said nothing about is nan.

    Shuffled: the mean score when an item is given the answer to another one, over all items with the same candidates;
    exact, nothing is drawn.

    Returns:
        The columns of the record, `MEASURES` and `CHOSEN`; a row per answer.
    """
    items = record.table["item"].tolist()
    places = [sets.place(item) for item in items]
    scored = _scored(items, list(record.beliefs), places, record.gives_probabilities)
    scored["shuffled"] = _shuffled(items, record.beliefs, sets)
    further = record.table.drop(columns=[one for one in scored.columns if one in record.table])
    return pd.concat([scored, further], axis=1)


def _shuffled(items: Sequence[str], beliefs: Sequence[Belief], sets: Sets) -> np.ndarray:
    alike: dict[tuple[str, ...], list[int]] = {}
    for row, item in enumerate(items):
        alike.setdefault(tuple(sorted(sets.candidates[item])), []).append(row)
    scores = np.full(len(items), np.nan)
    for names, rows in alike.items():
        column = {name: place for place, name in enumerate(names)}
        chosen = np.zeros((len(rows), len(names)))
        for line, row in enumerate(rows):
            order = [column[name] for name in sets.candidates[items[row]]]
            chosen[line, order] = decision(beliefs[row])
        codes, own = np.unique([items[row] for row in rows], return_inverse=True)
        of_item = np.zeros((len(codes), len(names)))
        np.add.at(of_item, own, chosen)
        others = len(rows) - np.bincount(own)[own]
        targets = np.array([column[sets.target[items[row]]] for row in rows])
        sums = chosen.sum(axis=0)[targets] - of_item[own, targets]
        scores[rows] = np.divide(sums, others, out=np.full(len(rows), np.nan), where=others > 0)
    return scores


def _scores(beliefs: Sequence[Belief], places: Sequence[int]) -> np.ndarray:
    return np.array([decision(one)[place] for one, place in zip(beliefs, places, strict=True)])


def _scored(
    items: Sequence[str], beliefs: Sequence[Belief], places: Sequence[int], gives_probabilities: bool
) -> pd.DataFrame:
    """Rows of item and measures; probabilities are nan for choices, and controls nan until someone knows them."""
    nothing = np.full(len(items), np.nan)
    table = pd.DataFrame({"item": list(items), "score": _scores(beliefs, places), "shuffled": nothing})
    chosen = [tuple(np.flatnonzero(decision(one)).tolist()) for one in beliefs]
    table = table.assign(silent=nothing, chance=[1.0 / len(one) for one in beliefs])
    table[CHOSEN] = pd.Series(chosen, dtype=object)
    if not gives_probabilities:
        return table.assign(p_target=nothing, confidence=nothing, brier=nothing)
    p_target = np.array([one[place] for one, place in zip(beliefs, places, strict=True)])
    squares = np.array([float((one**2).sum()) for one in beliefs])
    # Brier 1950: sum_k (p_k - y_k)^2, of a single right answer.
    brier = squares - 2.0 * p_target + 1.0
    return table.assign(p_target=p_target, confidence=[float(one.max()) for one in beliefs], brier=brier)
