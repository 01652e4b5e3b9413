"""Mutual intelligibility as a job: speakers and listeners from files and models, one of them tuned first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

import pandas as pd

from trimtab.data.captions import speaker_captions
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import ConfigError, Problem, explain, not_among
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
from trimtab.models.captioner import captioner
from trimtab.models.load import name_problems
from trimtab.refer.candidates import hard_candidates, random_candidates, read_candidates
from trimtab.refer.captions.discritune import DiscriTune
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.training import captions_of, check_number
from trimtab.refer.captions.tuning import Tuning
from trimtab.refer.intelligibility.answers import Sets
from trimtab.refer.intelligibility.result import Intelligibility
from trimtab.refer.intelligibility.rules import RuleListener
from trimtab.refer.intelligibility.study import LENGTH, Missing, check_study, intelligibility
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file, missing_source
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem

RULE = "rule"
"""The listener by rule among the models."""
BUILT = ("hard", "random")
"""Candidate sets that are built: neighbours in a listener's space, or drawn."""
TABLE = "a table: .csv, .parquet, .json or .jsonl"
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Tune:
    """A captioner that is tuned for a listener before the study, as one more speaker.

    Attributes:
        speaker: the name of the captioner.
        listener: the name of the model that gives the rewards.
        independent: the name of a listener that gives none: does the gain survive it? Empty for none.
        name: of the new speaker.
        settings: of DiscriTune.
    """

    speaker: str
    listener: str
    independent: str = ""
    name: str = "tuned"
    settings: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class IntelligibilityConfig:
    """Config of a study of mutual intelligibility.

    Attributes:
        candidates: table of item, candidates and target; or "hard" or "random" sets of all pictures.
        captions: speaker -> table of its captions (item, caption), one an item.
        captioners: speaker -> hub name or folder of a captioner (VisionEncoderDecoder, BLIP, prefix model, Llava).
        listeners: listener -> hub name or folder of a pair of towers; "rule" for the listener by rule, which reads the
            column `scene` of the pictures.
        records: listener -> table of recorded answers: item, speaker, and choice or log-probabilities.
        pictures: folder of the candidates in the layout of Hugging Face's imagefolder; needed by models.
        tune: a captioner that is tuned for a listener first; null for none.
        tune_pictures: folder of the pictures it is tuned on.
        n_candidates: in a set that is built, the target among them.
        group: column over which intervals are clustered; empty for each item.
        own: speaker -> its own listener; empty for those of one name.
        control: a speaker that adapted to no listener; empty for none.
        strata: columns by which accuracy is shown; "length" is the number of words.
        missing: "refuse" items without a caption, or "drop" them with a note.
        max_new_tokens: of a caption.
        num_beams: of captions; 1 for greedy ones.
        n_boot: resamples.
        confidence: of the intervals.
        device: of the models; null for the first accelerator, else the CPU.
        seed: of everything drawn.
    """

    candidates: TableFile
    system: Literal["intelligibility"] = "intelligibility"
    captions: dict[str, TableFile] = field(default_factory=dict)
    captioners: dict[str, ModelName] = field(default_factory=dict)
    listeners: dict[str, ModelName] = field(default_factory=dict)
    records: dict[str, TableFile] = field(default_factory=dict)
    pictures: PictureFolder = ""
    tune: Tune | None = None
    tune_pictures: PictureFolder = ""
    n_candidates: int = 10
    group: str = ""
    own: dict[str, str] = field(default_factory=dict)
    control: str = ""
    strata: tuple[str, ...] = (LENGTH,)
    missing: Missing = "refuse"
    max_new_tokens: int = 32
    num_beams: int = 1
    n_boot: int = 2000
    confidence: float = 0.95
    device: str | None = None
    seed: int = 0

    result: ClassVar = Intelligibility

    __repr__ = brief

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers, the tuned one last."""
        return [*self.captions, *self.captioners, *([self.tune.name] if self.tune else [])]

    def problems(self) -> Iterator[Problem]:
        """Problems of the config that show without reading a table or loading a model."""
        if self.candidates not in BUILT:
            yield from missing_file("candidates", self.candidates, TABLE)
        for name in ("captions", "records"):
            for key, path in getattr(self, name).items():
                yield from missing_file(f"{name}.{key}", path, TABLE)
        for name in ("captioners", "listeners"):
            for key, model in getattr(self, name).items():
                if not (name == "listeners" and model == RULE):
                    yield from name_problems(model, f"{name}.{key}")
        yield from self._name_problems()
        needs = [*self.captioners, *self.listeners, *([self.candidates] if self.candidates in BUILT else [])]
        if self.pictures:
            yield from missing_source("pictures", self.pictures, "a folder of pictures")
        elif needs:
            yield Problem("pictures", "none", f"a folder of pictures, which {needs[0]!r} looks at")
        for name, least in (("max_new_tokens", 1), ("num_beams", 1), ("n_candidates", 2), ("n_boot", 1)):
            if not least <= getattr(self, name) <= MOST_DRAWS:
                yield Problem(name, str(getattr(self, name)), f"at least {least}, at most {MOST_DRAWS:,}")
        if not 0 < self.confidence < 1:
            yield Problem("confidence", str(self.confidence), "a number between 0 and 1", "0.95")
        if self.missing not in get_args(Missing):
            yield not_among("missing", self.missing, get_args(Missing))
        if problem := seed_problem("seed", self.seed):
            yield problem

    def _name_problems(self) -> Iterator[Problem]:
        """Problems of names: none at all, one twice, and those in other keys that are nobody's."""
        heard = [*self.listeners, *self.records]
        for where, names, what in (
            ("captions, captioners", self.speakers, "speaker"),
            ("listeners, records", heard, "listener"),
        ):
            if not names:
                yield Problem(where, "none", f"at least one {what}")
            for name in sorted({one for one in names if names.count(one) > 1}):
                yield Problem(where, f"two of the name {name!r}", f"one {what} a name")
        for speaker, listener in self.own.items():
            if speaker not in self.speakers:
                yield not_among("own", speaker, self.speakers)
            if listener not in heard:
                yield not_among(f"own.{speaker}", listener, heard)
        if self.control and self.control not in self.speakers:
            yield not_among("control", self.control, self.speakers)
        if self.tune is None:
            return
        models = [name for name, model in self.listeners.items() if model != RULE]
        if self.tune.speaker not in self.captioners:
            yield not_among("tune.speaker", self.tune.speaker, self.captioners)
        if self.tune.listener not in models:
            yield not_among("tune.listener", self.tune.listener, models)
        if self.tune.independent and self.tune.independent not in heard:
            yield not_among("tune.independent", self.tune.independent, heard)
        if self.tune.independent == self.tune.listener:
            yield Problem("tune.independent", "the same as tune.listener", "one that gives no rewards")
        yield from missing_source("tune_pictures", self.tune_pictures, "a folder of pictures")
        for problem in self.tune.settings.problems():
            yield replace(problem, where=f"tune.settings.{problem.where}")

    def cost(self) -> Mapping[str, Any]:
        """Planned cost: optimiser steps of the tuned speaker, a step for each other speaker and each listener."""
        tuning = self.tune.settings.steps if self.tune else 0
        return {"steps": tuning + len(self.speakers) + len(self.listeners) + len(self.records)}

    def survey(self) -> Survey:
        """Survey of the tables and pictures: sets, captions of each speaker, answers of each record."""
        files = {"candidates": self.candidates, "pictures": self.pictures}
        for key in ("captions", "records"):
            files |= {f"{key}.{name}": path for name, path in getattr(self, key).items()}
        if notes := tuple(filter(None, (unread_source(where, path) for where, path in files.items()))):
            return Survey(notes=notes)
        problems, rows = list[Problem](), list[dict[str, Any]]()
        shown: Pictures | None = None
        if self.pictures:
            with noting(problems, "pictures"):
                shown = read_pictures(self.pictures)
                problems += shown.problems("pictures")
                rows.append({"source": "pictures", "rows": len(shown)})
        if self.tune is not None and not unread_source("tune_pictures", self.tune_pictures):
            with noting(problems, "tune_pictures"):
                check_number(self.tune.settings, len(read_pictures(self.tune_pictures)))
        if self.candidates not in BUILT:
            with noting(problems, "candidates"):
                rows.append({"source": "candidates", "rows": len(read_candidates(self.candidates, shown))})
        for name, path in self.captions.items():
            with noting(problems, f"captions.{name}"):
                rows.append(
                    {"source": f"captions of {name}", "rows": len(speaker_captions(path, empty=True))}
                )
        if problems or self.candidates in BUILT:
            return Survey({"tables": pd.DataFrame(rows)}, problems=tuple(problems))
        with noting(problems, "records, group, strata" if self.records else "group, strata"):
            self._check(read_candidates(self.candidates, shown), shown)
        return Survey({"tables": pd.DataFrame(rows)}, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> Intelligibility:
        """Caption the targets, tune a captioner where one is to be tuned, and let every listener hear every speaker.

        Captions and the tuned speaker are kept in the folder, so that a run that was killed goes on where it was.

        Raises:
            DataError: tables or pictures that do not do.
            ModelError: no captioner, or no two towers.
            DivergedError: tuning left the finite numbers.
        """
        if isinstance(folder, Elsewhere):
            hint = "trimtab run"
            raise ConfigError(explain("several processes", "one process for a run of intelligibility", hint))
        start, done, steps = time.perf_counter(), 0, int(self.cost()["steps"])

        def tell(more: int = 1) -> None:
            nonlocal done
            done += more
            progress(done, steps)

        shown = read_pictures(self.pictures) if self.pictures else None
        models = {name: self._listener(model, shown) for name, model in self.listeners.items()}
        sets = self._sets(shown, models)
        self._check(sets, shown)
        speakers: dict[str, Any] = {
            name: self._captions_in(path, sets, shown) for name, path in self.captions.items()
        }
        for name, source in self.captioners.items():
            speakers[name] = self._generated(folder, name, source, shown, sets)
            tell()
        if self.tune is not None:
            speakers[self.tune.name] = self._tuned(
                folder, self.tune, models, shown, sets, lambda k: progress(done + k, steps)
            )
            tell(self.tune.settings.steps)
        result = intelligibility(
            speakers,
            {**models, **self.records},
            sets,
            shown,
            group=self.group or None,
            own=self.own or None,
            control=self.control or None,
            strata=self.strata,
            missing=self.missing,
            n_boot=self.n_boot,
            confidence=self.confidence,
            seed=self.seed,
        )
        progress(steps, steps)
        label = f"intelligibility: {len(result.speakers)} speakers, {len(result.listeners)} listeners"
        before_and_after = p_at_1(result, self.tune) if self.tune else {}
        seconds = time.perf_counter() - start
        return replace(result, label=label, p_at_1=before_and_after, config=plain(self), seconds=seconds)

    def _check(self, sets: pd.DataFrame, shown: Pictures | None) -> None:
        """Refuse what the study would refuse of the tables, before a captioner says a word or is tuned."""
        told: dict[str, Any] = {
            name: self._captions_in(path, sets, shown) for name, path in self.captions.items()
        }
        silent = dict.fromkeys(sets["item"], "")
        check_study(
            {name: told.get(name, silent) for name in self.speakers},
            {**dict.fromkeys(self.listeners, _unheard), **self.records},
            sets,
            shown,
            group=self.group or None,
            strata=self.strata,
            missing=self.missing,
        )

    def _listener(self, model: str, shown: Pictures | None) -> Any:
        if model == RULE:
            return RuleListener(shown.table if shown is not None else pd.DataFrame())
        return Listener.from_pretrained(model, device=self.device)

    def _sets(self, shown: Pictures | None, models: Mapping[str, Any]) -> pd.DataFrame:
        if self.candidates == "random":
            return random_candidates(shown, self.n_candidates, self.seed)
        if self.candidates == "hard":
            towers = [one for one in models.values() if isinstance(one, Listener)]
            if not towers:
                got = "hard candidates without a model that embeds pictures"
                raise ConfigError(explain(got, "a pair of towers among the listeners", "candidates: random"))
            vectors = towers[0].gallery(read_pictures(self.pictures)).vectors
            return hard_candidates(shown, vectors, self.n_candidates - 1, self.seed)
        return read_candidates(self.candidates, shown)

    @staticmethod
    def _captions_in(path: str, sets: pd.DataFrame, shown: Pictures | None) -> pd.DataFrame:
        """Captions of a table; one of more pictures than the candidates is cut to their items without a note."""
        frame = Sets.of(sets, shown).with_items(speaker_captions(path, empty=True))
        return frame[frame["item"].isin(sets["item"])].reset_index(drop=True) if len(frame) else frame

    def _generated(
        self, folder: RunFolder, name: str, source: Any, shown: Pictures | None, sets: pd.DataFrame
    ) -> dict[str, str]:
        """Captions of the targets by a captioner, written once."""
        kept = f"artifacts/captions-{[*self.speakers].index(name)}.json"
        if (folder.path / kept).is_file():
            said: dict[str, str] = folder.read_json(kept)
            return said
        assert shown is not None  # `problems` asks for pictures
        speaker = captioner(source, device=self.device)
        how = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        targets = list(dict.fromkeys(sets["target"]))
        texts = dict(zip(targets, captions_of(speaker, shown, targets, **how), strict=True))
        said = {item: texts[target] for item, target in zip(sets["item"], sets["target"], strict=True)}
        folder.write_json(kept, said)
        return said

    def _tuned(
        self,
        folder: RunFolder,
        tune: Tune,
        models: Mapping[str, Any],
        shown: Pictures | None,
        sets: pd.DataFrame,
        tell: Any,
    ) -> dict[str, str]:
        """Captions of a captioner after it was tuned; a run that was killed goes on in the middle of tuning."""
        kept = f"artifacts/captions-{self.speakers.index(tune.name)}.json"
        if (folder.path / kept).is_file():
            said: dict[str, str] = folder.read_json(kept)
            return said
        speaker = captioner(self.captioners[tune.speaker], device=self.device)
        settings = {one.name: getattr(tune.settings, one.name) for one in fields(Tuning)}
        discritune = DiscriTune(listener=models[tune.listener], **settings)
        out = folder.artifacts / "tuned"
        discritune.fit(speaker, self.tune_pictures, out=out, progress=lambda step, _: tell(step))
        return self._generated(folder, tune.name, speaker, shown, sets)


def _unheard(captions: list[str], candidates: list[list[str]]) -> list[Any]:
    """In the place of a model where only tables are checked."""
    raise AssertionError(f"{len(captions)} captions and {len(candidates)} sets are only checked")


def p_at_1(result: Intelligibility, tune: Tune) -> dict[str, dict[str, Any]]:
    """Accuracy before and after tuning, with the listener of the rewards and with an independent one."""
    found = {"before": (tune.speaker, tune.listener), "after": (tune.name, tune.listener)}
    if tune.independent:
        found |= {"independent_before": (tune.speaker, tune.independent)}
        found |= {"independent_after": (tune.name, tune.independent)}
    return {name: result.cell(*pair) for name, pair in found.items()}
