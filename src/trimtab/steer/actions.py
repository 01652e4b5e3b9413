"""What can be done with a steering on disk and its model, by their names: the commands behind `trimtab steer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.errors import ConfigProblems, Problem
from trimtab.models.load import Model, load
from trimtab.steer.calibrate import Calibration, calibrate
from trimtab.steer.curve import strength_curve
from trimtab.steer.examples import read_examples
from trimtab.steer.steering import Steering
from trimtab.steer.steering_job import written


def complete(
    steering: str, model: str, prompts: Sequence[str], strengths: Sequence[float], max_new_tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt, strength, text.

    Args:
        steering: a steering's folder, that of a run that fitted one, or a hub name.
        model: a folder or hub name.
        prompts: to go on with.
        strengths: in [0, 1].
        max_new_tokens: of each completion.
    """
    return written(*_both(steering, model), prompts, strengths, max_new_tokens)


def measure(
    steering: str,
    model: str,
    files: Mapping[str, str],
    texts: int,
    strengths: Sequence[float],
    budget: float | None = None,
    max_strength: float = 1.0,
) -> tuple[pd.DataFrame, Calibration | None]:
    """The strength curve on texts of the user's, and the largest strength within a budget of KL on neutral text.

    Args:
        steering: see `complete`.
        model: see `complete`.
        files: source, target and perhaps neutral -> a file or glob.
        texts: how many of each file.
        strengths: of the curve.
        budget: nats per token; None asks for no strength.
        max_strength: the largest that may be found; see `trimtab.steer.calibrate.calibrate`.

    Raises:
        ConfigProblems: a budget without neutral texts.
        DataError: a file with fewer texts.
    """
    if budget is not None and "neutral" not in files:
        raise ConfigProblems([Problem("--budget", "no neutral texts", "--neutral FILE")])
    read: dict[str, Any] = {n: read_examples(file, n, 0, texts).held_out for n, file in files.items()}
    steered = _both(steering, model)
    curve = strength_curve(*steered, **read, strengths=strengths)
    if budget is None:
        return curve, None
    return curve, calibrate(*steered, read["neutral"], budget, max_strength=max_strength)


def fuse(steering: str, model: str, strength: float, out: Path) -> None:
    """A plain checkpoint with the steering in its weights, read back and compared.

    Raises:
        ModelError: the maps cannot be folded, or not saved; see `trimtab.steer.fuse`.
    """
    fitted, base = _both(steering, model)
    fitted.fuse(base, strength).save_pretrained(out)


def _both(steering: str, model: str) -> tuple[Steering, Model]:
    """The steering is read first, since it is the smaller."""
    inside = Path(steering) / "artifacts" / "steering"
    fitted = Steering.from_pretrained(str(inside) if inside.is_dir() else steering)
    return fitted, load(model)
