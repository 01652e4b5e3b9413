"""Leak audit as a job: of a model and questions, or of a transcript of served responses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from transformers import AutoConfig

from trimtab.errors import ConfigError, ConfigProblems, DataError, Problem, explain, not_among
from trimtab.job import Elsewhere, ModelName, Progress, QuestionFile, Survey, Texts, noting, unread_source
from trimtab.models.devices import device_problems
from trimtab.models.folder import local_folder
from trimtab.models.load import load, name_problems
from trimtab.read.leaks.audit import audit, bound_problems
from trimtab.read.leaks.cells import FOLDS, samples_of
from trimtab.read.leaks.classifiers import ALL, DEFAULT
from trimtab.read.leaks.levels import DEFAULT as LEVELS
from trimtab.read.leaks.levels import Hidden, Level, TopLogits, TopLogprobs, levels_of
from trimtab.read.leaks.mitigations import DEFAULT as MITIGATIONS
from trimtab.read.leaks.mitigations import form_of, mitigation_of, mitigation_problems
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.transcript import KEY, audit_transcript, read_transcript
from trimtab.runs.brief import brief
from trimtab.runs.files import read_text
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem

Form = str | dict[str, Any]
"""A level or a mitigation as YAML has it: its name, or a mapping of its name to its main setting."""
OF_A_MODEL = ("model", "questions", "lens_texts", "dtype")
OF_A_TRANSCRIPT = ("labels", "question")
FILE = "a questions file: .jsonl, .csv, .tsv or .parquet"


@dataclass(frozen=True)
class LeaksConfig:
    """Config of a leak audit: of `model` with `questions`, or of a `transcript` alone.

    Attributes:
        model: hub name or folder of a causal language model, or of a Llava-class model.
        questions: file of questions, see `trimtab.read.leaks.questions.read_questions`.
        transcript: JSON lines of served responses, see `trimtab.read.leaks.transcript.read_transcript`.
        attributes: columns to recover.
        background: columns of things that the questions are not about; recovered too.
        group: column of what must not be on both sides of a fold; null for rows of one picture, prompt or response.
        labels: of a transcript, the table of its columns where they are not beside the responses.
        key: column that joins both.
        question: of a transcript, the column of what a caller knows anyway; "@user" for what the user says.
        positions: of a transcript, answer tokens that are audited together.
        levels: such as [hidden, {trajectory: tuned}, {logprobs: [1, 5, 20], decimals: 2}, answer]; [] for all.
        lens_texts: text file, a text a line, that lenses asked for by name are fitted on; null for the prompts.
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        mitigations: such as [{truncate: 5}, {round: 1}, {noise: 0.5}, answer-only]; [] for none.
        classifiers: "logistic", "k-nn" and others, the best of which is chosen in inner folds.
        controls: measure controls and checks as well.
        max_bits: most bits that a served level may give away of an attribute; null for no bound.
        batch_size: prompts at a time.
        dtype: "float32", "bfloat16" or "float64"; null for the checkpoint's own.
        device: null for the first accelerator, else the CPU.
        jobs: processes for the classifiers, one thread each.
        seed: of all that is drawn.
    """

    system: Literal["leaks"] = "leaks"
    model: ModelName | None = None
    questions: QuestionFile = ""
    transcript: str = ""
    attributes: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    group: str | None = None
    labels: str | None = None
    key: str = KEY
    question: str | None = None
    positions: int = 1
    levels: tuple[Form, ...] = ()
    lens_texts: Texts | None = None
    baseline: Literal["question", "classes"] = "question"
    mitigations: tuple[Form, ...] = tuple(map(form_of, MITIGATIONS))
    classifiers: tuple[str, ...] = DEFAULT
    controls: bool = True
    max_bits: float | None = None
    batch_size: int = 16
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    jobs: int = 1
    seed: int = 0

    result: ClassVar = LeaksResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the config that show without reading a file or loading a model."""
        yield from self._source_problems()
        if not self.attributes and not self.background:
            yield Problem("attributes", "none", "at least one column to recover", "attributes: [colour]")
        yield from self._level_problems()
        named = [*self.attributes, *self.background]
        yield from mitigation_problems(self.mitigations, named, model=not self.transcript)
        if not self.classifiers:
            yield Problem("classifiers", "none", "at least one", str(list(DEFAULT)))
        yield from (not_among("classifiers", name, ALL) for name in self.classifiers if name not in ALL)
        for name in ("batch_size", "jobs", "positions"):
            if getattr(self, name) < 1:
                yield Problem(name, str(getattr(self, name)), "at least 1")
        yield from device_problems(self.device)
        if problem := seed_problem("seed", self.seed):
            yield problem

    def _source_problems(self) -> Iterator[Problem]:
        """Problems of what is audited: nothing, both, or files that are not there."""
        if self.transcript:
            for name in OF_A_MODEL:
                if getattr(self, name):
                    yield Problem(
                        name, "it beside a transcript", "a transcript alone, or a model with questions"
                    )
            yield from missing_file("transcript", self.transcript, "served responses, one a line")
            if self.labels is not None:
                yield from missing_file("labels", self.labels, "a table of labels")
            return
        for name in OF_A_TRANSCRIPT:
            if getattr(self, name) is not None:
                yield Problem(name, "it without a transcript", "a column of the questions file")
        if self.model is None:
            yield Problem("model", "neither a model nor a transcript", "one of them")
        else:
            yield from name_problems(self.model)
        yield from missing_file("questions", self.questions, FILE)
        if self.lens_texts is not None:
            yield from missing_file("lens_texts", self.lens_texts, "a text file, a text a line")

    def _level_problems(self) -> Iterator[Problem]:
        try:
            levels = levels_of(self.levels) if self.levels else ()
        except ConfigProblems as error:
            yield from error.problems
            return
        served = ("logprobs", "answer")
        for number, level in enumerate(levels):
            if self.transcript and level.name not in served:
                yield Problem(
                    f"levels[{number}]", repr(level.name), "logprobs or answer: a transcript has no other"
                )
        yield from bound_problems(self.max_bits, levels)

    @property
    def depths(self) -> tuple[Level, ...]:
        """The levels; all of a model where none are named."""
        return levels_of(self.levels) if self.levels else LEVELS

    def cost(self) -> Mapping[str, Any]:
        """Cost in passes over the questions: the model, and with controls the untrained one."""
        return {"steps": 1 if self.transcript or not self.controls else 2}

    def survey(self) -> Survey:
        """Survey of the questions or the transcript: rows, groups and classes of each attribute in each role."""
        if note := unread_source("questions", self.questions):
            return Survey(notes=(note,))
        problems, notes, cost = list[Problem](), list[str](), dict[str, Any]()
        tables = dict[str, pd.DataFrame]()
        with noting(problems, "transcript" if self.transcript else "questions"):
            questions, notes = self._read()
            notes += few_class_notes(questions, self.max_bits)
            tables = {"attributes": attribute_table(questions), "rows": questions.accounting.frame}
            cost = self._cost_of(questions)
        return Survey(tables, tuple(notes), problems=tuple(problems), cost=cost)

    def _read(self) -> tuple[Questions, list[str]]:
        """The questions, or those of the transcript, and what a user has to know of them."""
        settings: dict[str, Any] = {"group": self.group, "background": self.background}
        if not self.transcript:
            questions, notes = read_questions(self.questions, self.attributes, **settings), list[str]()
        else:
            settings |= {"labels": self.labels, "key": self.key, "question": self.question}
            read = read_transcript(self.transcript, self.attributes, positions=self.positions, **settings)
            questions, notes = read.questions, list(read.findings)
        if questions.known is None and self.baseline == "question":
            notes.append("No column `question`: bits will be above the shares of the classes.")
        return questions, notes

    def _cost_of(self, questions: Questions) -> dict[str, Any]:
        """Rows, and of a model that is on this machine the bytes that its readings take."""
        cost: dict[str, Any] = {"rows": len(questions), "attributes_and_roles": len([*samples_of(questions)])}
        folder = local_folder(self.model) if self.model else None
        if folder is None:
            return cost
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config()
        depth, width, vocabulary = config.num_hidden_layers + 1, config.hidden_size, config.vocab_size
        states, numbers = (1 if self.controls else 0), 0
        for level in self.depths:
            if isinstance(level, Hidden):
                states += depth if level.states is None else len(level.states)
            elif isinstance(level, TopLogits) and level.k is None:
                numbers += vocabulary
            elif isinstance(level, TopLogits | TopLogprobs):
                numbers += 4 * max(level.ks)
        return cost | {"scratch_bytes": 4 * len(questions) * (min(states, depth) * width + numbers)}

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> LeaksResult:
        """Read the model once, or the transcript, and measure every cell; finished parts are kept in the folder.

        Raises:
            DataError: questions or a transcript that cannot be used.
            ModelError: a model that cannot be read.
        """
        if isinstance(folder, Elsewhere):
            raise ConfigError(explain("several processes", "one process for an audit", "trimtab run"))
        start = time.perf_counter()
        settings: dict[str, Any] = {
            "group": self.group,
            "background": self.background,
            "baseline": self.baseline,
        }
        settings |= {
            "mitigations": [mitigation_of(form) for form in self.mitigations],
            "controls": self.controls,
        }
        settings |= {"classifiers": self.classifiers, "max_bits": self.max_bits, "seed": self.seed}
        settings |= {"jobs": self.jobs, "folder": folder.artifacts / "audit", "progress": progress}
        if self.transcript:
            settings |= {"labels": self.labels, "key": self.key, "question": self.question}
            settings |= {
                "positions": self.positions,
                "levels": levels_of(self.levels) if self.levels else None,
            }
            result = audit_transcript(self.transcript, self.attributes, **settings)
        else:
            assert self.model is not None  # `problems` asks for one
            model = load(self.model, dtype=self.dtype, device=self.device)
            texts = None if self.lens_texts is None else texts_of(self.lens_texts)
            settings |= {"levels": self.depths, "lens_texts": texts, "batch_size": self.batch_size}
            result = audit(model, self.questions, self.attributes, **settings)
        return replace(result, config=plain(self), seconds=time.perf_counter() - start)


def attribute_table(questions: Questions) -> pd.DataFrame:
    """Rows, groups and classes of each attribute in each role, the share of its largest class, and rows set aside."""
    rows = []
    for one in samples_of(questions):
        _, counts = np.unique(one.labels, return_counts=True)
        row = {"attribute": one.attribute, "role": one.role, "rows": len(one.rows)}
        row |= {"groups": len(np.unique(one.groups)), "classes": len(counts)}
        largest = float(counts.max() / counts.sum()) if len(counts) else np.nan
        rows.append(row | {"largest class": largest, "set aside": sum(one.aside.values())})
    return pd.DataFrame(rows)


def few_class_notes(questions: Questions, max_bits: float | None = None) -> list[str]:
    """Notes on attributes that have fewer than two classes in a role, which cannot be measured there.

    A class counts where it stands in as many groups as there are folds.
    """
    notes, ends = (
        list[str](),
        "" if max_bits is None else "; the bound is not tested there, so the exit code is 1",
    )
    for one in samples_of(questions):
        if (classes := len(np.unique(one.labels))) < 2:
            got = f"{classes} class{'' if classes == 1 else 'es'} in at least {FOLDS} groups"
            notes.append(f"{one.attribute} ({one.role}): {got}, so it will not be measured{ends}.")
    return notes


def texts_of(path: str) -> list[str]:
    """Texts of a file, one a line; blank lines are left out.

    Raises:
        DataError: a file that cannot be read, or one without a text.
    """
    texts = [line.strip() for line in read_text(Path(path), "a text file, a text a line").splitlines()]
    texts = [text for text in texts if text]
    if not texts:
        raise DataError(f"lens_texts: {explain(f'no text in {path}', 'a text a line')}")
    return texts
