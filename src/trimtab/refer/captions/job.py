"""DiscriTune as a job: its config, the checks of its data, and its run from captions before to captions after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trimtab.data.captions import references as read_references
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import CheckpointError, ConfigError, ConfigProblems, Problem, explain, nearest, refusal
from trimtab.job import (
    Elsewhere,
    ModelName,
    PictureFolder,
    Progress,
    Survey,
    TableFile,
    noting,
    unread_source,
)
from trimtab.models.captioner import Captioner, captioner
from trimtab.models.load import name_problems
from trimtab.models.save import at_place, write
from trimtab.refer.candidates import names_in, read_candidates
from trimtab.refer.captions import evaluation
from trimtab.refer.captions.discritune import check_references, prepared, tuned
from trimtab.refer.captions.evaluation import FIRST, OTHER, Judge, TestSet
from trimtab.refer.captions.faithfulness import truths
from trimtab.refer.captions.listener import Gallery, Listener
from trimtab.refer.captions.result import DiscriTuneResult
from trimtab.refer.captions.training import captions_of, check_number
from trimtab.refer.captions.tuning import Tuning
from trimtab.refer.choices import shown_sets, thumbnail
from trimtab.refer.scores.scores import caption_scores
from trimtab.runs.brief import brief
from trimtab.runs.config import typed_problems
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file, missing_source
from trimtab.runs.serialise import plain
from trimtab.seeds import derive
from trimtab.train.state import float32_weights

FOLDER = "a folder of pictures"
TABLE = "a table: .csv, .parquet, .json or .jsonl"
HELD_OUT = 0.1
"""Share of the pictures that is held out where no test pictures are given."""
SHOWN = 12
"""Test pictures that the page shows, the first ones."""


@dataclass(frozen=True, kw_only=True)
class DiscriTuneConfig(Tuning):
    """Config of a DiscriTune job: the models, the pictures, and what the captions are judged by; and all of `Tuning`.

    Attributes:
        captioner: hub name or folder of a captioner: VisionEncoderDecoder, BLIP, a prefix captioner or Llava.
        listener: hub name or folder of a pair of towers (CLIP, SigLIP, ...), which gives the rewards.
        pictures: folder of the pictures to train on, in the layout of Hugging Face's imagefolder.
        independent: another pair of towers, which gives none: does the gain survive it? Empty for none.
        test: folder of the pictures to judge by; empty for a tenth of `pictures`, which then is not trained on.
        candidates: table of hard candidate sets of test pictures (item, candidates, target); empty for none. Then its
            items are the test pictures that are captioned.
        references: table of captions by people (item, caption) of test pictures, and of training pictures where
            `cross_entropy` or `human` ask for them; empty for none.
        other_references: further tables of test pictures, by name: another dialect, another domain.
        attributes: metadata columns that say what is in a picture; empty for the column `scene` where there is one.
        cluster: metadata column of what is drawn together in intervals; empty for each picture.
        prompt: text before every caption; null for the captioner's own.
        test_pictures: test pictures that are captioned, at most.
        watched: of them, those that are captioned while it trains.
        num_beams: of test captions; 1 for greedy ones, 5 in the paper.
        n_random: pictures in a random candidate set.
        device: of the models; null for the first accelerator, else the CPU.
    """

    captioner: ModelName
    listener: ModelName
    pictures: PictureFolder
    system: Literal["discritune"] = "discritune"
    independent: ModelName = ""
    test: PictureFolder = ""
    candidates: TableFile = ""
    references: TableFile = ""
    other_references: dict[str, TableFile] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    cluster: str = ""
    prompt: str | None = None
    test_pictures: int = 500
    watched: int = 100
    num_beams: int = 1
    n_random: int = 100
    device: str | None = None

    result: ClassVar = DiscriTuneResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the config that show without loading a model or decoding a picture."""
        if mistyped := typed_problems(self):
            yield from mistyped
            return
        yield from super().problems()
        for name in ("captioner", "listener", *(["independent"] if self.independent else [])):
            yield from name_problems(getattr(self, name), name)
        for name in ("pictures", *(["test"] if self.test else [])):
            yield from missing_source(name, getattr(self, name), FOLDER)
        tables = {name: getattr(self, name) for name in ("candidates", "references") if getattr(self, name)}
        tables |= {f"other_references.{name}": path for name, path in self.other_references.items()}
        for where, path in tables.items():
            yield from missing_file(where, path, TABLE)
        if self.reads_people and not self.references:
            got = f"none, with cross_entropy={self.cross_entropy:g} and human={self.human:g}"
            yield Problem("references", got, "captions by people of the pictures to train on")
        if self.independent and self.independent == self.listener:
            yield Problem(
                "independent", "the same as listener", "one that gives no rewards", "leaving it out"
            )
        for name, least in (("test_pictures", 2), ("watched", 2), ("num_beams", 1), ("n_random", 2)):
            if getattr(self, name) < least:
                yield Problem(name, str(getattr(self, name)), f"at least {least}")

    def cost(self) -> Mapping[str, Any]:
        """Planned cost: optimiser steps, captions drawn in them, and captions of test pictures."""
        drawn = self.steps * self.setting("batch_size") * self.setting("samples")
        looks = 1 + -(-self.steps // self.evaluate_every)
        return {"steps": self.steps, "captions": drawn + 2 * self.test_pictures + looks * self.watched}

    def survey(self) -> Survey:
        """Survey of the pictures and tables; every picture is decoded once, no model is loaded."""
        given = {name: getattr(self, name) for name in ("pictures", "test", "candidates", "references")}
        notes = tuple(filter(None, (unread_source(name, path) for name, path in given.items() if path)))
        problems, rows = list[Problem](), list[dict[str, Any]]()
        if not notes:
            with noting(problems, "pictures"):
                train, test = sets_of(self)
                for where, shown in (
                    ("pictures", train),
                    ("test" if self.test else "pictures", test.pictures),
                ):
                    problems += [one for one in shown.problems(where) if one not in problems]
                with noting(problems, "pictures"):
                    check_number(self, len(train))
                rows.append({"set": "pictures", "pictures": len(train), "captioned": 0})
                rows.append({"set": "test", "pictures": len(test.pictures), "captioned": len(test.names)})
        return Survey({"pictures": pd.DataFrame(rows)}, notes, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> DiscriTuneResult:
        """Caption the test pictures, tune, caption them again, and judge both; goes on where it was killed.

        Raises:
            DataError: pictures or tables that do not do, before any model is loaded.
            ModelError: no captioner, no two towers, or a captioner of another vocabulary than its tokenizer.
            DivergedError: a reward, loss or gradient that is not finite; the checkpoint of the step before is kept.
        """
        if isinstance(folder, Elsewhere):
            raise ConfigError(
                explain("several processes", "one process for a run of discritune", "trimtab run")
            )
        start = time.perf_counter()
        train, test = sets_of(self)
        speaker = captioner(self.captioner, self.prompt, device=self.device)
        listener = Listener.from_pretrained(self.listener, device=self.device)
        judges = [Judge.of(FIRST, listener, test)]
        if self.independent:
            other = Listener.from_pretrained(self.independent, device=self.device)
            judges.append(Judge.of(OTHER, other, test))
        told = read_references(self.references, "references") if self.references else None
        settings = Tuning(**{one.name: getattr(self, one.name) for one in fields(Tuning)})
        watched = {"test": test.pictures.select(test.names[: self.watched])}
        with float32_weights(speaker.model):
            training = prepared(settings, listener, speaker, train, told, watched)
            if settings.reads_people:
                check_named_once(training.gallery, judges[0].targets)
            before = self._captions(folder, "before", speaker, test)
            training.run(folder, progress)
            after = self._captions(folder, "after", speaker, test)
        done = tuned(training)
        result = judged(test, judges, before, after)
        sets, choices = evaluation.choices(test, judges, before, after, SHOWN)
        sets = shown_sets(sets, choices)
        shown = {name: thumbnail(test.pictures[name]) for name in dict.fromkeys(sets["candidate"])}
        result = replace(
            result,
            sets=sets,
            choices=choices,
            label=f"discritune: {self.setting('estimator')}",
            config=plain(self),
            history=done.history,
            evaluations=done.evaluations,
            shown=shown,
            notes=(
                *(f"{one.role}: {note}." for one in judges for note in one.listener.encoder.notes),
                *trained_on(training.gallery, judges[0].targets),
            ),
            seconds=time.perf_counter() - start,
        )
        write(speaker.model, folder.path / "model", card=at_place(result.card(), "this folder"))
        return result

    def _captions(self, folder: RunFolder, when: str, speaker: Captioner, test: TestSet) -> dict[str, str]:
        """Captions of the test pictures, written once: the speaker of before is gone after the first step."""
        name = f"artifacts/captions-{when}.json"
        if (folder.path / name).is_file():
            kept: dict[str, str] = folder.read_json(name)
            if not isinstance(kept, dict) or tuple(kept) != test.names:
                got = f"captions of other test pictures in {name} than there are now"
                raise CheckpointError(f"{folder.path}: {explain(got, 'the same ones', 'another folder')}")
            return kept
        how = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        texts = captions_of(speaker, test.pictures, test.names, **how)
        said = dict(zip(test.names, texts, strict=True))
        folder.write_json(name, said)
        return said


def sets_of(config: DiscriTuneConfig) -> tuple[Pictures, TestSet]:
    """Pictures to train on, and those to judge by with their tables, checked; decodes none.

    Raises:
        DataError: a folder or table that cannot be read, too few pictures, a candidate set without its target or with
            a picture that is not there, references of no test picture, or a column that is not in the metadata.
    """
    train = read_pictures(config.pictures, "pictures")
    if config.test:
        shown = read_pictures(config.test, "test")
    else:
        order = np.random.default_rng(derive(config.seed, "held out")).permutation(len(train))
        away = sorted(order[: max(2, round(HELD_OUT * len(train)))].tolist())
        shown = train.select([train.names[row] for row in away])
        train = train.select([name for name in train.names if name not in shown])
    candidates, names = None, list(shown.names)
    if config.candidates:
        candidates = read_candidates(config.candidates, shown, "candidates")
        candidates = candidates.drop_duplicates("target").reset_index(drop=True)
        names = candidates["target"].tolist()
    if len(names) < 2:
        raise refusal("test", f"{len(names)} pictures to caption", "at least 2")
    draws = np.random.default_rng(derive(config.seed, "test pictures"))
    rows = sorted(draws.permutation(len(names))[: config.test_pictures].tolist())
    names = [names[row] for row in rows]
    if candidates is not None:
        candidates = candidates.iloc[rows].assign(item=names).reset_index(drop=True)
        shown = shown.select(list(dict.fromkeys([*names, *names_in(candidates)])))
    told = read_references(config.references, "references") if config.references else {}
    check_number(config, len(train))
    if config.reads_people:
        check_references(train.names, told)
    people = {"references": _of_test(told, names, "references")} if told else {}
    for name, path in config.other_references.items():
        where = f"other_references.{name}"
        people[name] = _of_test(read_references(path, where), names, where)
    captioned = shown.select(names)
    return train, TestSet(
        shown,
        tuple(names),
        candidates,
        people.get("references", {}),
        truths(captioned, config.attributes, "test"),
        _clusters(captioned, config.cluster),
        config.n_random,
        config.seed,
        {name: one for name, one in people.items() if name != "references"},
    )


def check_named_once(train: Gallery, test: Gallery) -> None:
    """Refuse a name of one picture to train on and of another to judge by, whose captions by people would be mixed up.

    Raises:
        DataError: naming the first.
    """
    keys = dict(zip(train.names, train.keys, strict=True))
    for name, key in zip(test.names, test.keys, strict=True):
        if keys.get(name, key) != key:
            got = f"two pictures named {name!r}, one of pictures and one of test"
            raise refusal("references", got, "captions of one picture under a name", "other file names")


def trained_on(train: Gallery, test: Gallery) -> Iterator[str]:
    """A note on test pictures that are copies of pictures to train on; none where there are none."""
    seen = set(train.keys)
    if copies := sum(key in seen for key in test.keys):
        yield f"{copies} of {len(test)} captioned test pictures are copies of pictures that were trained on."


def _of_test(told: Mapping[str, list[str]], names: Sequence[str], where: str) -> dict[str, list[str]]:
    """The references of test pictures."""
    kept = {name: told[name] for name in names if name in told}
    if not kept:
        got = f"no reference of any of {len(names)} test pictures"
        raise refusal(where, got, "captions of test pictures", nearest(names[0], told))
    return kept


def _clusters(pictures: Pictures, column: str) -> tuple[str, ...]:
    if not column:
        return ()
    if column not in pictures.table.columns:
        there = [str(name) for name in pictures.table.columns]
        problem = Problem(
            "cluster", repr(column), f"a column of the metadata, {there}", nearest(column, there)
        )
        raise ConfigProblems([problem])
    return tuple(map(str, pictures.table[column]))


def judged(
    test: TestSet,
    judges: Sequence[Judge],
    before: Mapping[str, str],
    after: Mapping[str, str],
) -> DiscriTuneResult:
    """Everything that is told of the captions before and after."""
    table = evaluation.retrieval(test, judges, before, after)
    words = evaluation.wording(test, before, after)
    truth = evaluation.truthfulness(test, before, after)
    people = {"references": test.references, **test.others}
    scores = [_scored(name, told, before, after) for name, told in people.items() if told]
    return DiscriTuneResult(
        p_at_1=evaluation.p_at_1(table),
        p_at_1_hard=evaluation.p_at_1(table, evaluation.HARD),
        retrieval=table,
        scores=pd.concat(scores, ignore_index=True) if scores else pd.DataFrame(),
        wording=words,
        truth=truth,
        captions=evaluation.with_captions(test, before, after),
        signs=evaluation.warning_signs(table, words, truth),
    )


def _scored(
    name: str, told: Mapping[str, Sequence[str]], before: Mapping[str, str], after: Mapping[str, str]
) -> pd.DataFrame:
    """Caption scores before and after against one set of references."""
    sides = []
    for when, captions in (("before", before), ("after", after)):
        kept = {item: captions[item] for item in told}
        frame = caption_scores(kept, {item: list(texts) for item, texts in told.items()})
        ends = {"value": when, "low": f"{when}_low", "high": f"{when}_high"}
        sides.append(frame.rename(columns=ends))
    columns = ["score", "after", "after_low", "after_high"]
    both = sides[0].merge(sides[1][columns], on="score")
    both.insert(0, "references", name)
    kept_columns = [
        "references",
        "score",
        "before",
        "before_low",
        "before_high",
        *columns[1:],
        "n",
        "signature",
    ]
    return both[kept_columns]
