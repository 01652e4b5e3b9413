"""Responses of a local model, written as a server would send them: chat completions with top log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.job import Progress
from trimtab.models.families import Handle
from trimtab.read.leaks.questions import Questions


def serve_transcript(
    model: Handle,
    questions: Questions | pd.DataFrame | str | Path,
    path: str | Path,
    *,
    attributes: Sequence[str] = (),
    top: int = 20,
    max_new_tokens: int = 4,
    batch_size: int = 16,
    progress: Progress | None = None,
    **columns: Any,
) -> Path:
    """Transcript of a model's greedy answers, in the form of chat completions with `top_logprobs`, a line each.

    Raises:
        NotImplementedError: always, as yet.
    """
    raise NotImplementedError
