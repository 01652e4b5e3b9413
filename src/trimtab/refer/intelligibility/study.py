"""Mutual intelligibility: who understands whose captions, as a matrix of speakers and listeners with its controls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from trimtab.data.captions import CaptionSource, speaker_captions
from trimtab.data.naming import each_row
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.data.tables import labels
from trimtab.errors import ConfigError, DataError, explain, nearest, refusal
from trimtab.numerics.bootstrap import Resampling, check_choice
from trimtab.refer.candidates import names_in, read_candidates, read_rows
from trimtab.refer.captions.listener import TIE, Listener
from trimtab.refer.choices import CHOICES, shown_sets, thumbnail
from trimtab.refer.intelligibility.answers import (
    CHOSEN,
    MEASURES,
    Hears,
    Record,
    Sets,
    listed,
    live_answers,
    record_answers,
    recorded,
)
from trimtab.refer.intelligibility.calibration import calibration_table, reliability_table
from trimtab.refer.intelligibility.controls import controls_table
from trimtab.refer.intelligibility.matrix import Own, by_stratum, interactions, own_pairs
from trimtab.refer.intelligibility.result import Intelligibility
from trimtab.refer.intelligibility.statistics import (
    caption_statistics,
    length_labels,
    length_matched,
    words_of,
)
from trimtab.runs.paths import as_path
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem

Missing = Literal["refuse", "drop"]
LENGTH = "length"
"""A stratum that every caption has: bins of its number of words."""
BY = "by "
"""Before the name of a stratum's column among the answers, whose own columns may be called the same."""
WORDS = "words of the caption"
EXAMPLES = 8
ANSWER_ROW = '{"item": name, "speaker": name, "log_probabilities": [numbers]} or with "choice": name'


def intelligibility(
    speakers: Mapping[str, CaptionSource],
    listeners: Mapping[str, Any],
    candidates: Any,
    pictures: Any = None,
    *,
    group: str | None = None,
    own: Own | None = None,
    control: str | None = None,
    strata: Sequence[str] = (LENGTH,),
    missing: Missing = "refuse",
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intelligibility:
    """Accuracy matrix of speakers and listeners over given candidate sets, its interaction and its controls.

    A speaker's captions are about targets; a listener hears a caption and points at one of its candidates. A listener
    who points at several alike candidates is right by its share of them. Intervals of accuracies are
    Wilson's with the trials that groups are worth; those of differences are paired percentile bootstrap intervals.

    Args:
        speakers: name -> captions, one an item (see `trimtab.data.captions.speaker_captions`).
        listeners: name -> a `Listener`; a callable `f(captions, candidates)` that gives for each caption a name or a
            log-probability per candidate; or recorded answers, as a frame or a table file: `item`, `speaker` and either
            `choice` (empty where nothing was chosen, which counts as wrong) or log-probabilities, as a list
            `log_probabilities` in the order of the candidates or one column named after each candidate.
        candidates: `item`, `candidates`, `target`, as `trimtab.refer.candidates` makes or reads them.
        pictures: what names of candidates stand for; needed by a `Listener` alone.
        group: column over which intervals are clustered, such as the image set or the game, of recorded answers, of
            captions or of candidates; None: each item.
        own: speaker -> the listener(s) that are its own; None: those of one name, and the two that are left over.
        control: a speaker that adapted to no listener, such as true full descriptions. An interaction that it shows
            as well is no co-adaptation.
        strata: columns by which accuracy is shown; "length" is the number of words, in five bins.
        missing: "refuse" items without a caption and answers to them, or "drop" them with a note.
        n_boot: resamples.
        confidence: of the intervals.
        seed: of resamples and shuffled captions.

    Returns:
        The result: `.accuracy`, `.interaction`, `.interactions`, `.controls`, `.strata`, `.captions`, `.matched`,
        `.calibration`, `.reliability`, `.notes`, `.report(path)`.

    Raises:
        DataError: two captions of one item, items without a caption, a target that is not among its candidates, a
            choice that is no candidate, log-probabilities that are nan or of another number, no such group column, a
            listener that needs pictures without any.
        ConfigError: no speakers or listeners, or a name in own or control that is none of theirs.

    Source: Dessi, Gualdoni, Franzon, Boleda, Baroni 2022, "Communication breakdown: On the low mutual intelligibility
    between human and neural captioning" (arXiv 2210.11512).

    >>> candidates = pd.DataFrame({"item": ["x", "y"], "candidates": [["x", "y"]] * 2, "target": ["x", "y"]})
    >>> people = pd.DataFrame({"item": ["x", "y"], "choice": ["x", "x"]})
    >>> result = intelligibility({"captioner": {"x": "a cat", "y": "a pet"}}, {"people": people}, candidates, n_boot=9)
    >>> result.accuracy[["speaker", "listener", "accuracy", "chance"]].to_dict("records")
    [{'speaker': 'captioner', 'listener': 'people', 'accuracy': 0.5, 'chance': 0.5}]
    """
    start = time.perf_counter()
    if (problem := seed_problem("seed", seed)) is not None:
        raise ConfigError(str(problem))
    draws = Resampling(n_boot, confidence, seed)
    speakers, listeners = _named(speakers, "speakers"), _named(listeners, "listeners")
    strata = (strata,) if isinstance(strata, str) else tuple(strata)
    check_choice("missing", missing, get_args(Missing))
    pairs = own_pairs(own, list(speakers), list(listeners))
    control = None if control is None else str(control)
    if control is not None and control not in speakers:
        hint = nearest(control, speakers)
        raise ConfigError(explain(f"control {control!r}", f"one of the speakers {list(speakers)}", hint))
    study, captions, heard = _read(speakers, listeners, candidates, pictures, (group, strata, missing, seed))
    sets = study.sets
    words = np.concatenate([frame[WORDS].to_numpy() for frame in captions.values()])
    of_length, bins = length_labels(words)
    answers = study.answers(captions, heard, dict(zip(words.tolist(), of_length.tolist(), strict=True)))
    names = list(captions), list(heard)
    accuracy, table, interaction = interactions(answers, *names, pairs, control, draws)
    cells = [(s, x) for s in names[0] for x in names[1]]
    by = [by_stratum(answers, BY + one, draws, bins if one == LENGTH else None, called=one) for one in strata]
    clustered = {name: study.with_cluster(frame) for name, frame in captions.items()}
    settings: dict[str, Any] = {
        "group": group,
        "own": [list(pair) for pair in pairs],
        "control": control,
        "strata": list(strata),
    }
    settings |= {"missing": missing, "n_boot": n_boot, "confidence": confidence, "seed": seed}
    return Intelligibility(
        label="intelligibility",
        accuracy=accuracy,
        interaction=interaction,
        interactions=table,
        controls=controls_table(answers, *names, draws),
        strata=pd.concat(by, ignore_index=True) if by else pd.DataFrame(),
        captions=caption_statistics(clustered, study.sets, draws),
        matched=length_matched(answers, draws),
        calibration=calibration_table(answers, cells, draws),
        reliability=reliability_table(answers, cells, draws),
        **_shown(answers, captions, sets, seed),
        answers=answers.drop(columns=[CHOSEN, *(BY + one for one in dict.fromkeys(strata))]),
        notes=tuple(study.notes),
        config=plain({"speakers": names[0], "listeners": names[1], "items": len(sets.target), **settings}),
        seconds=time.perf_counter() - start,
    )


def check_study(
    speakers: Mapping[str, CaptionSource],
    listeners: Mapping[str, Any],
    candidates: Any,
    pictures: Any = None,
    *,
    group: str | None = None,
    strata: Sequence[str] = (LENGTH,),
    missing: Missing = "refuse",
) -> None:
    """Refuse the tables that `intelligibility` would refuse, before anybody is asked.

    The arguments are those of `intelligibility`; callables are not called.

    Raises:
        DataError: as `intelligibility`.
    """
    _read(speakers, listeners, candidates, pictures, (group, tuple(strata), missing, 0))


def _read(
    speakers: Mapping[str, CaptionSource],
    listeners: Mapping[str, Any],
    candidates: Any,
    pictures: Any,
    settings: tuple[str | None, tuple[str, ...], Missing, int],
) -> tuple[_Study, dict[str, pd.DataFrame], dict[str, Record | Hears]]:
    """The study with its captions and what answers them, all tables checked."""
    shown = None if pictures is None else read_pictures(pictures)
    study = _Study(Sets.of(read_candidates(candidates, shown), shown), *settings)
    captions = {name: study.captions_of(name, source) for name, source in speakers.items()}
    heard = {name: study.listener(name, one, captions, shown) for name, one in listeners.items()}
    study.spread_group(captions, heard)
    study.check_columns(captions, heard)
    return study, captions, heard


@dataclass
class _Study:
    """Settings of one study, and the notes that its data leave."""

    sets: Sets
    group: str | None
    strata: tuple[str, ...]
    missing: Missing
    seed: int
    notes: list[str] = field(default_factory=list)

    def captions_of(self, speaker: str, source: CaptionSource) -> pd.DataFrame:
        """Captions of the items that have candidates."""
        where = f"captions of {speaker}"
        frame = self.sets.with_items(speaker_captions(source, where, empty=True))
        twice = frame["item"].duplicated()
        if twice.any():
            raise refusal(
                where, f"two captions of item {frame['item'][twice].iloc[0]!r}", "one caption of each"
            )
        known = frame["item"].isin(list(self.sets.target))
        there = set(frame["item"])
        lacking = [item for item in self.sets.target if item not in there]
        if lacking:
            self._leave_out(
                where, lacking, "items without a caption", f"one of each of {len(self.sets.target)} items"
            )
        if not known.any():
            raise refusal(where, "no caption of an item that has candidates", "items of the candidates")
        if not known.all():
            self.notes.append(
                f"{where}: {int((~known).sum())} captions of items without candidates are not used"
            )
        frame = frame[known].reset_index(drop=True)
        return frame.assign(**{WORDS: [len(words_of(one)) for one in frame["caption"]]})

    def listener(
        self, name: str, given: Any, captions: Mapping[str, pd.DataFrame], pictures: Pictures | None
    ) -> Record | Hears:
        """A listener's checked record, or what asks it."""
        where = f"listener {name}"
        if isinstance(given, str | Path):
            given = read_rows(as_path(given, where, "a table of answers"), ANSWER_ROW, "answer")
        if isinstance(given, pd.DataFrame):
            record = recorded(given, where, self.sets, list(captions))
            if record.unanswered:
                self.notes.append(f"{where}: {record.unanswered} answers without a choice count as wrong")
            return self._captioned(record, where, captions)
        if isinstance(given, Listener):
            if pictures is None:
                raise refusal(
                    where, "no pictures", "pictures=, since it looks at them", "a folder of pictures"
                )
            return hearing(given, pictures, self.sets)
        if not callable(given):
            expected = "a Listener, a callable, or recorded answers as a frame or table file"
            raise refusal(where, f"a {type(given).__name__}", expected)
        hears: Hears = given
        return hears

    def _captioned(self, record: Record, where: str, captions: Mapping[str, pd.DataFrame]) -> Record:
        """The rows of a record whose items have captions."""
        of = {name: set(frame["item"]) for name, frame in captions.items()}
        if "speaker" in record.table:
            pairs = zip(record.table["speaker"], record.table["item"], strict=True)
            has = np.array([item in of[speaker] for speaker, item in pairs])
        else:
            has = record.table["item"].isin(next(iter(of.values()))).to_numpy()
        if has.all():
            return record
        without = record.table.loc[~has, "item"]
        items = list(dict.fromkeys(without))
        self._leave_out(where, items, "items answered without a caption", "captions of every item answered")
        return record.at(has)

    def _leave_out(self, where: str, items: Sequence[str], what: str, expected: str) -> None:
        if self.missing == "refuse":
            raise refusal(where, f"{len(items)} {what}: {listed(items)}", expected, "missing='drop'")
        self.notes.append(f"{where}: {len(items)} {what} are left out")

    def spread_group(self, captions: Mapping[str, pd.DataFrame], heard: Mapping[str, Record | Hears]) -> None:
        """Give every item the group that some captions or answers tell of it, where none of them disagree."""
        if self.group is None or self.group in self.sets.table:
            return
        tables = [*captions.values(), *(one.table for one in heard.values() if isinstance(one, Record))]
        told = [one.drop_duplicates(["item", self.group]) for one in tables if self.group in one]
        if not told:
            return
        pairs = pd.concat([one[["item", self.group]] for one in told]).dropna()
        values = labels(pairs[self.group])
        pairs = pairs.assign(**{self.group: values}).dropna().drop_duplicates()
        if not pairs["item"].duplicated().any():
            column = pairs.set_index("item")[self.group].reindex(self.sets.table.index)
            self.sets = replace(self.sets, table=self.sets.table.assign(**{self.group: column}))

    def check_columns(
        self, captions: Mapping[str, pd.DataFrame], heard: Mapping[str, Record | Hears]
    ) -> None:
        """Refuse a column of groups or strata that a pair's answers, captions and candidates all lack."""
        for column in filter(None, (self.group, *(one for one in self.strata if one != LENGTH))):
            for (speaker, frame), (listener, one) in (
                (s, x) for s in captions.items() for x in heard.items()
            ):
                table = one.table if isinstance(one, Record) else pd.DataFrame()
                there = [*table.columns, *frame.columns, *self.sets.table.columns]
                if column not in there:
                    kind = "group" if column == self.group else "strata"
                    where = f"the answers of {listener}, the captions of {speaker} or the candidates"
                    got = f"no column {column!r} in {where}"
                    shown = sorted({str(name) for name in there} - {"caption", WORDS, "candidates"})
                    raise refusal(kind, got, f"one of {shown}", nearest(column, shown))

    def answers(
        self,
        captions: Mapping[str, pd.DataFrame],
        heard: Mapping[str, Record | Hears],
        lengths: Mapping[int, str],
    ) -> pd.DataFrame:
        """Every answer of every pair, with its cluster, its strata and the length of its caption."""
        parts = []
        for speaker, frame in captions.items():
            for listener, one in heard.items():
                if isinstance(one, Record):
                    record = one.of_speaker(speaker)
                    if record.table.empty:
                        continue
                    table, own = record_answers(record, self.sets), record.table
                else:
                    where = f"listener {listener}"
                    table = live_answers(one, where, frame, self.sets, seed=self.seed, speaker=speaker)
                    own = table[["item"]]
                answers = self._with_columns(table, own, frame, lengths)
                parts.append(answers.assign(speaker=speaker, listener=listener))
        if not parts:
            raise DataError(explain("no answer of any listener to any speaker", "at least one"))
        every = pd.concat(parts, ignore_index=True)
        first = ["speaker", "listener", "item", "cluster", "words"]
        return every[[*first, *(one for one in every.columns if one not in first)]]

    def _with_columns(
        self, table: pd.DataFrame, own: pd.DataFrame, captions: pd.DataFrame, lengths: Mapping[int, str]
    ) -> pd.DataFrame:
        """Measures of answers, with strata and clusters by what the answers' own rows, captions or candidates say."""
        words = table["item"].map(captions.set_index("item")[WORDS])
        kept = table[["item", *MEASURES, CHOSEN]].assign(words=words.to_numpy())
        for column in self.strata:
            values = kept["words"].map(lengths) if column == LENGTH else self._values(column, own, captions)
            kept[BY + column] = list(values)
        return kept.assign(cluster=self._clusters(own, captions))

    def _values(self, column: str, own: pd.DataFrame, captions: pd.DataFrame) -> list[Any]:
        """A column of the answers' own rows, else of the captions, else of the candidates."""
        if column in own.columns and column != "item":
            return list(own[column])
        source = captions.set_index("item", drop=False) if column in captions else self.sets.table
        return list(source[column].reindex(own["item"]))

    def _clusters(self, own: pd.DataFrame, captions: pd.DataFrame) -> list[str]:
        if self.group is None:
            return [str(item) for item in own["item"]]
        values = labels(pd.Series(self._values(self.group, own, captions), dtype=object))
        if values.isna().any():
            items = list(dict.fromkeys(own.loc[values.isna().to_numpy(), "item"]))
            got = f"{len(items)} items without a value of {self.group!r}: {listed(items)}"
            raise refusal("group", got, "a value for each")
        return [str(one) for one in values]

    def with_cluster(self, captions: pd.DataFrame) -> pd.DataFrame:
        """Captions with their cluster, which is each item's own where only recorded answers know the group."""
        known = self.group is not None and self.group in [*captions.columns, *self.sets.table.columns]
        study = self if known else replace(self, group=None)
        return captions.assign(cluster=study._clusters(captions[["item"]], captions))


def _named(given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """Speakers or listeners by their names as texts.

    Raises:
        ConfigError: no mapping, an empty one, or two names that are the same text.
    """
    if not isinstance(given, Mapping) or not given:
        got = f"{what} {given!r:.60}"
        raise ConfigError(explain(got, f"a mapping from names to {what}, at least one"))
    names = [str(name) for name in given]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ConfigError(explain(f"two {what} of the name {twice!r}", "a name for each"))
    return dict(zip(names, given.values(), strict=True))


def hearing(listener: Listener, pictures: Pictures, sets: Sets) -> Hears:
    """A `Listener` as a callable over names of pictures, each of which it sees once.

    Candidates within `TIE` of the nearest one's cosine are ties, as for `Listener.hits`.
    """
    frame = pd.DataFrame({"candidates": [list(one) for one in sets.candidates.values()]})
    gallery = listener.gallery(pictures.select(names_in(frame)))
    rows = {name: row for row, name in enumerate(gallery.names)}

    def hears(captions: list[str], candidates: list[list[str]]) -> list[np.ndarray]:
        texts = list(dict.fromkeys(captions))
        place = {text: row for row, text in enumerate(texts)}
        cosines = listener.similarity(texts, gallery)
        answers = []
        for text, names in zip(captions, candidates, strict=True):
            near = cosines[place[text], [rows[name] for name in names]]
            near = torch.where(near >= near.max() - TIE, near.max(), near)
            answers.append((listener.tau * near).log_softmax(dim=-1).numpy())
        return answers

    return hears


def _shown(
    answers: pd.DataFrame, captions: Mapping[str, pd.DataFrame], sets: Sets, seed: int
) -> dict[str, Any]:
    """The fields of the result that show some items: captions, candidates, who chose what, and pictures."""
    examples, seen = _examples(answers, captions, sets, seed), sets.pictures
    shown, choices = _choices(answers, sets, list(dict.fromkeys(examples["item"])))
    drawn = {name: thumbnail(seen[name]) for name in dict.fromkeys(shown["candidate"])} if seen else {}
    return {"examples": examples, "sets": shown, "choices": choices, "pictures": drawn}


def _examples(
    answers: pd.DataFrame, captions: Mapping[str, pd.DataFrame], sets: Sets, seed: int, most: int = EXAMPLES
) -> pd.DataFrame:
    """Captions of a few items drawn by the seed, with each listener's mean score."""
    items = list(sets.target)
    drawn = np.random.default_rng(seed).permutation(len(items))[:most]
    texts = {
        name: dict(zip(frame["item"], frame["caption"], strict=True)) for name, frame in captions.items()
    }
    chosen = [items[place] for place in sorted(drawn)]
    some = answers[answers["item"].isin(chosen)]
    means = some.groupby(["item", "speaker", "listener"])["score"].mean().to_dict()
    listeners: Iterable[str] = dict.fromkeys(answers["listener"])
    rows = []
    for item in chosen:
        for speaker in captions:
            if item in texts[speaker]:
                scores = {name: means.get((item, speaker, name), np.nan) for name in listeners}
                rows.append(({"item": item, "speaker": speaker, "caption": texts[speaker][item]}, scores))
    texts_of, scores_of = (pd.DataFrame([row[part] for row in rows]) for part in (0, 1))
    return texts_of.join(scores_of, rsuffix=" (listener)")


def _choices(answers: pd.DataFrame, sets: Sets, items: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candidate sets of a few items as a page shows them, and how many answers chose each candidate; ties share one."""
    some = answers[answers["item"].isin(items)]
    rows = [
        (row.item, row.speaker, row.listener, sets.candidates[row.item][place], 1 / len(row.chosen))
        for row in each_row(some)
        for place in row.chosen
    ]
    choices = pd.DataFrame(rows, columns=list(CHOICES))
    choices = choices.groupby([*CHOICES[:-1]], sort=False)["answers"].sum().reset_index()
    listed = [(item, list(sets.candidates[item]), sets.target[item]) for item in items]
    return shown_sets(pd.DataFrame(listed, columns=["item", "candidates", "target"]), choices), choices
