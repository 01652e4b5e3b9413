"""Comparison of two models as a job: its config, the checks of it, its cost and its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from trimtab.adapt.compare.compare import BATCH_SIZE, SEQ_LEN, SEQUENCES, compare, size_problems
from trimtab.adapt.compare.domains import ComparedDomain, domain_problems, read_domains
from trimtab.adapt.compare.reading import Switchable
from trimtab.adapt.compare.result import CompareResult
from trimtab.data.domains import path_of
from trimtab.errors import Problem
from trimtab.job import Corpus, Elsewhere, ModelName, Progress, Survey, noting, unread_source
from trimtab.models.adapter import is_adapter
from trimtab.models.devices import device_problems
from trimtab.models.folder import local_folder
from trimtab.models.load import load, name_problems
from trimtab.models.quantization import four_bit_problems
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import path_problem
from trimtab.runs.serialise import plain

SIZES = ("sequences", "seq_len", "batch_size")
STEERING = "steering_config.json"
"""The file by which the folder of a steering is known."""


@dataclass(frozen=True)
class CompareConfig:
    """A comparison of two models on several domains.

    Attributes:
        base: a hub name or a folder.
        tuned: the same, or the folder of an adapter of the base model.
        domains: domain name -> file, glob, folder or `hf:owner/name`; or a mapping with that as its `path`, and what
            the domain may lose: `tolerance`, `task`, `points`, `records`.
        sequences: per domain at most, and as many tasks.
        seq_len: tokens per sequence at most; a document is cut there.
        batch_size: sequences at a time.
        dtype: "float32", "bfloat16" or "float64"; null for each checkpoint's own.
        load_in_4bit: hold linear maps in 4 bits, as an adapter of QLoRA was trained on.
        device: where to read; null for the first accelerator, else the CPU.
    """

    base: ModelName
    tuned: ModelName
    domains: dict[str, Corpus | ComparedDomain]
    system: Literal["compare"] = "compare"
    sequences: int = SEQUENCES
    seq_len: int = SEQ_LEN
    batch_size: int = BATCH_SIZE
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    load_in_4bit: bool = False
    device: str | None = None

    result: ClassVar = CompareResult
    change: ClassVar[Switchable | None] = None
    """What is switched on in the base model in the place of `tuned`, see `changed_by`."""

    __repr__ = brief

    @classmethod
    def changed_by(cls, change: Switchable) -> type[CompareConfig]:
        """The class of jobs whose tuned model is the base with a change switched on: the steering that `tuned` names.

        This folder reads no steerings: whoever does hands it over.
        """
        return type("CompareConfig", (cls,), {"change": change})

    def problems(self) -> Iterator[Problem]:
        """Every mistake that can be seen without loading a model or reading records."""
        yield from name_problems(self.base, "base")
        folder = _folder(self.tuned)
        if folder is not None and (folder / STEERING).is_file():
            if self.change is None:
                hint = f"trimtab compare {self.base} {self.tuned} --domains FILE"
                yield Problem("tuned", f"{self.tuned!r}, a steering", "a model or an adapter", hint)
        elif self.change is None and not (folder is not None and is_adapter(folder)):
            yield from name_problems(self.tuned, "tuned")
        yield from domain_problems(self.domains)
        yield from size_problems({name: getattr(self, name) for name in SIZES})
        yield from device_problems(self.device)
        if self.load_in_4bit:
            yield from four_bit_problems(self.dtype)

    def cost(self) -> Mapping[str, Any]:
        """Sequences that both models read at most, in batches."""
        sequences = len(self.domains) * self.sequences
        return {"steps": 2 * -(-sequences // self.batch_size), "sequences": sequences}

    def survey(self) -> Survey:
        """Survey of the domains: their records, and every record of a task that is none."""
        problems, rows, notes = list[Problem](), list[dict[str, Any]](), list[str]()
        for name, given in self.domains.items():
            where = f"domains.{name}"
            if note := unread_source(where, path_of(given)):
                notes.append(note)
                continue
            with noting(problems, where):
                asked = read_domains({name: given}, {}, {}, {})[name]
                records = asked.domain.contents["test"].records
                read = min(records, self.sequences)
                rows.append({"domain": name, "records": records, "read": read, "task": asked.task or "-"})
        return Survey({"data": pd.DataFrame(rows)} if rows else {}, tuple(notes), problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> CompareResult:  # noqa: ARG002
        """Load both models, read the domains, and judge.

        Raises:
            DataError, ModelError: as `trimtab.compare`.
        """
        how: dict[str, Any] = {"kind": "language model"}
        how |= {name: getattr(self, name) for name in ("dtype", "device", "load_in_4bit")}
        base, place = load(self.base, **how), _folder(self.tuned)
        tuned: Any = self.change or self.tuned
        if self.change is None and not (place is not None and is_adapter(place)):
            tuned = load(self.tuned, **how)
        sizes: dict[str, Any] = {name: getattr(self, name) for name in SIZES}
        result = compare(base, tuned, self.domains, **sizes, progress=progress)
        return replace(result, config=plain(self))


def _folder(source: str) -> Path | None:
    """The local folder that a source names; None where it is none, or can be none."""
    return None if path_problem("path", source) is not None else local_folder(source)
