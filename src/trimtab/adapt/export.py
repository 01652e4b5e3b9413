"""Export of what a fine-tuning run left: its model or its adapter, as transformers and peft read them."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.adapt.dynamics.result import Comparison, FinetuneResult
from trimtab.errors import CheckpointError, ModelError, explain
from trimtab.models.adapter import CONFIG, has_adapter
from trimtab.models.families import refusal
from trimtab.models.folder import path_of
from trimtab.models.load import DTYPES, Model, load
from trimtab.models.save import CARD, at_place, write
from trimtab.runs.atomic import atomic_directory, sha256, write_atomic
from trimtab.runs.folder import read_config_of
from trimtab.runs.live import without_loading_bars
from trimtab.runs.paths import MODEL, RESULT
from trimtab.runs.serialise import is_sealed, read_object, to_json
from trimtab.train.state import load_weights, put_parameters

SUMS = Path("artifacts/model.json")
"""Where the folder of a run, or of a group, notes the SHA-256 of the files in its `model/`, but for the card."""
MEMBERS = "members"
"""The folder in that of a group which holds its runs."""
_LOADED = re.compile(r'(from_pretrained\((?:base, )?)"(?:[^"\\\n]|\\.)*"')
"""In a card, what is loaded."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where it is.
        kind: "model", for transformers, or "adapter", for peft.
        run: the folder of the run it is of; for a group, that of the run chosen.
        step: whose weights they are.
    """

    folder: Path
    kind: str
    run: Path
    step: int


def export_run(
    run: str | Path, out: str | Path, *, merged: bool = False, model: Model | None = None
) -> Exported:
    """Write the model or adapter that a run came to into a folder of its own, with tokenizer and card.

    It is copied from the run's `model/` where that is, else its kept weights are put on the base model.

    Args:
        run: the folder of a finished run, or of a group, of which the run chosen on validation is taken.
        out: a new or an empty folder; it appears whole or not at all.
        merged: fold an adapter into the weights of its base, as one whole model.
        model: the base model, with the adapter of the run on it if it had one; None loads what the run's config
            names. It is changed: it holds the tuned weights afterwards.

    Raises:
        CheckpointError: no finished run, one that returned base weights, or kept weights that are damaged.
        ModelError: `out` has files; or the base model cannot be loaded, or is not the one that was trained.
    """
    folder, target = Path(run), path_of(out, "a folder's path").absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        got = f"{target}, where there is something already"
        raise refusal(got, "a new folder or an empty one", f"{target.name}-2")
    group = read_group(folder)
    result = group.chosen if group else read_tuned(folder)
    if result is None:
        got = f"the group {folder}, of which no run is feasible"
        raise CheckpointError(explain(got, "a run with tuned weights", "larger tolerances, or its report"))
    member = folder if group is None else member_of(folder, result)
    if target.resolve().is_relative_to(folder.resolve()):
        raise refusal(f"{target}, in the folder of the run", "a folder outside of it", f"{target.name}")
    ready = next((each / MODEL for each in (folder, member) if (each / MODEL).is_dir()), None)
    adapted = (ready / CONFIG).is_file() if ready else None
    if ready:
        _check_files(ready)
    if ready and not (merged and adapted):
        with atomic_directory(target) as new:
            for file in _files(ready):
                (new / file.relative_to(ready)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, new / file.relative_to(ready))
            _readdress(new / CARD, out)
        return Exported(target, "adapter" if adapted else "model", member, result.step)
    rebuilt = tuned_model(member, result, model)
    adapted = has_adapter(rebuilt.module) and not merged
    card = (group or result).card(adapter=adapted)
    write(rebuilt, target, merged=merged, card=at_place(card, out))
    return Exported(target, "adapter" if adapted else "model", member, result.step)


def leave_model(folder: Path, model: Model, card: str) -> None:
    """Write `model/` into the folder of a run, and note the SHA-256 of its files; one that is there is replaced.

    Where it cannot be written, as that of a network that its configuration does not describe, that is warned of; the
    weights are in `artifacts/` all the same.
    """
    place = folder / MODEL
    try:
        with without_loading_bars():
            write(model, place, card=at_place(card, place), thorough=False)
    except ModelError as error:
        warnings.warn(f"no {place} was written: {error}", stacklevel=2)
        return
    sums = {file.relative_to(place).as_posix(): sha256(file) for file in _files(place) if file.name != CARD}
    write_atomic(folder / SUMS, to_json(sums, indent=1) + "\n")


def _files(place: Path) -> list[Path]:
    return [file for file in sorted(place.rglob("*")) if file.is_file()]


def _check_files(place: Path) -> None:
    """Raise a CheckpointError unless the files in `model/` are those that were written; its card may be another."""
    noted = place.parent / SUMS
    sums = read_object(noted) if noted.is_file() else {}
    for name, noted_sum in sums.items():
        file = place / name
        if not file.is_file() or sha256(file) != noted_sum:
            got, hint = f"damaged {file}", f"deleting {place}: the kept weights make it again"
            raise CheckpointError(explain(got, "the bytes that were written (SHA-256)", hint))


def leave_chosen(folder: Path, group: Comparison) -> None:
    """Write `model/` of a group: that of the run chosen on validation; nothing where none is feasible."""
    result = group.chosen
    if result is None:
        return
    try:
        model = tuned_model(member_of(folder, result), result)
    except ModelError as error:
        warnings.warn(f"no {folder / MODEL} was written: {error}", stacklevel=2)
        return
    leave_model(folder, model, group.card(adapter=has_adapter(model.module)))


def _readdress(card: Path, place: str | Path) -> None:
    """Let the lines of a card that load a model name where it is now, however its run was named then."""
    if card.is_file():
        text, named = card.read_text(encoding="utf-8"), json.dumps(str(place), ensure_ascii=False)
        card.write_text(_LOADED.sub(lambda found: found[1] + named, text), encoding="utf-8")


def read_group(folder: Path) -> Comparison | None:
    """The finished runs of a group; None for a folder that is no group.

    Raises:
        CheckpointError: none of its runs has finished.
    """
    members = folder / MEMBERS
    if not members.is_dir() or (folder / RESULT).is_file():
        return None
    runs = [FinetuneResult.load(each) for each in sorted(members.iterdir()) if (each / RESULT).is_file()]
    if not runs:
        got = f"no finished run in {folder}"
        raise CheckpointError(explain(got, "a group with finished runs", f"trimtab resume {folder}"))
    return Comparison(label=folder.name, runs=runs)


def member_of(folder: Path, result: FinetuneResult) -> Path:
    """The folder of a run in that of its group."""
    found = (each for each in sorted((folder / MEMBERS).iterdir()) if (each / RESULT).is_file())
    return next(each for each in found if FinetuneResult.load(each).label == result.label)


def read_tuned(folder: Path) -> FinetuneResult:
    """The result of a run that came to tuned weights.

    Raises:
        CheckpointError: there is no finished run, or it returned the base weights.
    """
    if not folder.is_dir() or not (folder / "config.yaml").is_file():
        got, hint = f"{folder}, which is no run", "trimtab runs, for their names"
        below = sorted(folder.glob("*/config.yaml")) if folder.is_dir() else []
        if below:
            got, hint = f"{folder}, which holds {len(below)} runs", f"{below[0].parent}, or another of them"
        raise CheckpointError(explain(got, "the folder of one run, or of a group", hint))
    if not (folder / RESULT).is_file():
        got = f"{folder}, which has not finished"
        raise CheckpointError(explain(got, "a finished run", f"trimtab resume {folder}"))
    is_sealed(folder)
    result = FinetuneResult.load(folder)
    if not result.step:
        got = f"{folder}, which is {result.status} and returned the base weights"
        raise CheckpointError(explain(got, "a run with tuned weights", "its base model"))
    return result


def tuned_model(folder: Path, result: FinetuneResult, model: Model | None = None) -> Model:
    """The base model of a run with the kept weights of its chosen step put on it.

    Args:
        folder: of the run.
        result: of it.
        model: the base model; None loads what the config names, onto the CPU.

    Raises:
        ModelError: the base model cannot be loaded, or is not the one that was trained.
        CheckpointError: weights are missing or damaged.
    """
    config = read_config_of(folder)
    model = _base(folder, config) if model is None else model
    parameters, artifacts = model.trainable(), folder / "artifacts"
    if has_adapter(model.module):  # its random start is not the base's; it was kept
        _put(folder, parameters, load_weights(artifacts / _weights(0)))
    identity = read_object(artifacts / "identity.json")
    if identity.get("model") != model.fingerprint():
        got = f"a base model {model.name} that is not the one trained in {folder}"
        raise refusal(
            got, "the same weights and adapter settings", "export_run(..., model=...), with that model"
        )
    _put(folder, parameters, load_weights(artifacts / _weights(result.step)))
    return model


def _put(folder: Path, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    try:
        put_parameters(parameters, values)
    except CheckpointError as error:
        raise refusal(f"a base model that {folder} was not trained on ({error})", "the same model") from error


def _weights(step: int) -> str:
    return f"weights-{step:08d}"


def _base(folder: Path, config: Mapping[str, Any]) -> Model:
    """The base model that a config names, with the adapter that the run had."""
    name, dtype, adapter = (config.get(key) for key in ("model", "dtype", "adapter"))
    if not isinstance(name, str):
        got = f"no base model in the config of {folder}"
        raise refusal(got, "its name", "export_run(..., model=...), with that model")
    try:
        model = load(
            name,
            dtype=dtype if dtype in DTYPES else None,
            device="cpu",
            kind="language model",
            load_in_4bit=config.get("load_in_4bit") is True,
        )
    except ModelError as error:
        raise ModelError(f"the base model of {folder}: {error}") from error
    if not adapter:
        return model
    from trimtab.models.weights import wrap

    return replace(model, module=wrap(model.module, _adapter(adapter)))


def _adapter(settings: Any) -> Any:
    """Settings of an adapter: ours of a config as they are, those of peft as its LoraConfig."""
    if not isinstance(settings, Mapping) or "peft_type" not in settings:
        return settings
    from peft import LoraConfig

    if settings["peft_type"] != "LORA":
        hint = "export_run(..., model=...), with the adapter on it"
        raise refusal(f"an adapter of kind {settings['peft_type']}", "a LoRA", hint)
    return LoraConfig(**{name: value for name, value in settings.items() if name != "peft_type"})
