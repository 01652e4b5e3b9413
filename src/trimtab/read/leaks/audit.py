"""Leak audit of a model: what a caller can learn about the input from what is served, and what stops it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from trimtab.job import Progress
from trimtab.models.load import Model
from trimtab.read.leaks.cells import Cell
from trimtab.read.leaks.estimate import DEFAULT
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogprobs, Trajectory
from trimtab.read.leaks.mitigations import Mitigation, Served
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.result import LeaksResult

LEVELS: tuple[Level, ...] = (Hidden(), Trajectory(), TopLogprobs((1, 2, 5, 10, 20)), Answer())
"""Levels of an audit where none are stated."""
Baseline = Literal["question", "classes"]


@dataclass(frozen=True)
class Assessment:
    """How cells are measured and judged; the same for models and transcripts.

    Attributes:
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        classifiers: of `estimate_leak`.
        controls: measure the controls and the data-processing checks.
        mitigations: tried on what is served, the classifiers trained anew on each.
        max_bits: stated bound on the bits that a served level may give away; None for none.
        seed: of all that is drawn.
        jobs: processes, one thread each.
        store: folder that keeps every finished cell; None for none.
        stamp: of what was read; kept cells of another stamp are measured again.
        progress: called with the cells done and in all.
    """

    baseline: Baseline = "question"
    classifiers: Any = DEFAULT
    controls: bool = True
    mitigations: Sequence[Mitigation] = ()
    max_bits: float | None = None
    seed: int = 0
    jobs: int = 1
    store: Path | None = None
    stamp: str = ""
    progress: Progress | None = None


def assess(
    questions: Questions,
    cells: Sequence[Cell],
    controls: Sequence[Cell] = (),
    *,
    served: Served | None = None,
    facts: Mapping[str, Any] | None = None,
    findings: Sequence[str] = (),
    how: Assessment,
) -> LeaksResult:
    """Result of an audit from its cells, whatever they were read from: a model or a transcript.

    Measures cells and controls (questions alone, shuffled labels and the majority are added), mitigations of what is
    served, checks the data-processing inequality, and puts a recommendation and the accounting beside.

    Args:
        questions: labels, roles, groups, what is known anyway; its accounting is taken over.
        cells: of the table.
        controls: cells with a name in `control`, such as `controls.answer_only`.
        served: what a caller gets, for mitigations; None tries none.
        facts: single numbers of the result.
        findings: sentences that a reader should know, before those found here.
        how: settings.
    """
    raise NotImplementedError


def audit(
    model: str | Path | Model,
    questions: str | Path | pd.DataFrame | Questions,
    attributes: Sequence[str],
    *,
    levels: Sequence[Level] = LEVELS,
    group: str | None = None,
    background: Sequence[str] = (),
    baseline: Baseline = "question",
    mitigations: Sequence[Mitigation] = (),
    classifiers: Any = DEFAULT,
    controls: bool = True,
    max_bits: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    jobs: int = 1,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> LeaksResult:
    """Audit of what each level of a model gives away about attributes of its input (arXiv 2604.09885).

    The model is read once. At every level classifiers are trained to recover every attribute, in nested
    cross-validation grouped by `group`; what they recover beyond the words of the question is the leak, in bits.
    Attributes that a question mentions, those that it does not, and those of the background are never pooled.

    Args:
        model: a handle, hub name or folder: a causal language model, or a Llava-class model with pictures.
        questions: frame or file with a column `prompt`, one per attribute, and perhaps `image`, `question` (what is
            known anyway), `answer` and `mentioned`; see `read_questions`.
        attributes: columns to recover.
        levels: depths to read: `Hidden`, `Trajectory`, `TopLogits`, `TopLogprobs`, `Answer`.
        group: column of what must not be on both sides of a fold, such as the scene; None for each row alone.
        background: attributes of things that the questions are not about.
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        mitigations: tried on the top log-probabilities, the classifiers trained anew on each.
        classifiers: of `estimate_leak`.
        controls: measure controls and checks as well; an audit without them proves little.
        max_bits: bound on the bits of any served level (`TopLogprobs`, `Answer`), see `LeaksResult.passed`.
        batch_size: prompts at a time.
        seed: of all that is drawn.
        jobs: processes for the classifiers, one thread each.
        folder: keeps readings and finished cells, so that a call that was killed goes on; None for a temporary one.
        progress: called with the steps done and in all.

    Raises:
        ConfigError: settings that do not go together.
        DataError: questions that cannot be used.
        ModelError: a model that cannot be read.
    """
    raise NotImplementedError
