"""The functions behind `trimtab steer`: they take a steering on disk and its model by their names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.data.records import Columns
from trimtab.errors import ConfigProblems, Problem, TrimtabError
from trimtab.models.chat import Prompt
from trimtab.models.load import Model, load
from trimtab.runs.config import read_config
from trimtab.runs.folder import read_config_of
from trimtab.steer.lineas.job import SteeringConfig, completions, examples_of
from trimtab.steer.samples import key_of, read_examples
from trimtab.steer.steering import Steering
from trimtab.steer.strength import Calibration, calibrate, strength_curve

_STEERING = Path("artifacts", "steering")
"""Where a run keeps its steering."""


def complete(
    steering: str, model: str, prompts: Sequence[Prompt], strengths: Sequence[float], max_new_tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt, strength, text.

    Args:
        steering: a steering's folder, that of a run that fitted one, or a hub name.
        model: a folder or hub name.
        prompts: to go on with: texts, or conversations as lists of messages.
        strengths: in [0, 1].
        max_new_tokens: of each completion.

    Raises:
        ModelError: a model that makes pictures, not texts.
    """
    return completions(*_both(steering, model), prompts, strengths, max_new_tokens)


def measure(
    steering: str,
    model: str,
    files: Mapping[str, str],
    texts: int,
    strengths: Sequence[float],
    budget: float | None = None,
    max_strength: float = 1.0,
    columns: Columns = None,
) -> tuple[pd.DataFrame, Calibration | None]:
    """Strength curve on texts of the user's, and the largest strength within a budget of KL on neutral text.

    Of a run's folder the texts that its steering was fitted with are left out.

    Args:
        steering: see `complete`.
        model: see `complete`.
        files: source, target and perhaps neutral -> a file or glob.
        texts: how many of each file.
        strengths: of the curve.
        budget: nats per token; None asks for no strength.
        max_strength: the largest that is tried; see `trimtab.steer.strength.calibrate`.
        columns: of the files, see `ExampleFile`.

    Raises:
        ConfigProblems: a budget without neutral texts.
        DataError: a file with fewer texts.
    """
    if budget is not None and "neutral" not in files:
        raise ConfigProblems([Problem("--budget", "no neutral texts", "--neutral FILE")])
    fitted = fitted_texts(Path(steering))
    read: dict[str, Any] = {
        n: read_examples(file, n, 0, texts, without=fitted, columns=columns).held_out
        for n, file in files.items()
    }
    steered = _both(steering, model)
    curve = strength_curve(*steered, **read, strengths=strengths)
    if budget is None:
        return curve, None
    return curve, calibrate(*steered, read["neutral"], budget, max_strength=max_strength)


def fitted_texts(run: Path) -> frozenset[str | bytes]:
    """Keys of the texts that a run fitted its steering with; none, with a warning, where its files are not there.

    A folder or hub name of a steering alone does not say what it was fitted with: none.
    """
    if not (run / _STEERING).is_dir():
        return frozenset()
    content = {key: value for key, value in read_config_of(run).items() if key != "system"}
    try:
        sides = examples_of(read_config(content, SteeringConfig))
    except (TrimtabError, OSError) as error:
        told = (
            f"{run}: its texts cannot be read, so those given may be among what it was fitted with ({error})"
        )
        warnings.warn(told, stacklevel=2)
        return frozenset()
    return frozenset(key_of(one) for name in ("source", "target") for one in sides[name].fit)


def fuse(steering: str, model: str, strength: float, out: Path) -> None:
    """Plain checkpoint with the steering in its weights, read back and compared.

    Raises:
        ModelError: the maps cannot be folded, or not saved; see `trimtab.steer.files`.
    """
    fitted, base = _both(steering, model)
    fitted.fuse(base, strength).save_pretrained(out)


def _both(steering: str, model: str) -> tuple[Steering, Model]:
    """The steering is read first, since it is the smaller."""
    inside = Path(steering) / _STEERING
    fitted = Steering.from_pretrained(str(inside) if inside.is_dir() else steering)
    return fitted, load(model)
