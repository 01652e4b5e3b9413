"""What every mixer owes the loop: it fits a recipe, gives a mixture, remembers in JSON, and survives a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import trimtab
from fake_session import ROLES, session
from trimtab import (
    Aioli,
    DualAscent,
    DynaMiCS,
    EarlyStoppedTarget,
    Exp3,
    Feedback,
    Fixed,
    GradientAlignment,
    Proportional,
    ReferenceLoss,
    Replay,
    Uniform,
    finetune,
)
from trimtab.adapt.dynamics.job import AnyMixer, DynamicsConfig
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.mixer import Decision, Mixer, NoProbes, State
from trimtab.adapt.record import read_metrics
from trimtab.adapt.session import Session
from trimtab.data.tokens import tokenise
from trimtab.models.load import Model
from trimtab.runs.config import read_config, write_config
from trimtab.train import state as checkpoint
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, model, trainable

ASKED: dict[str, Any] = {"targets": ["math"], "constraints": {"web": 0.0, "safety": 0.3}}
DOMAINS = {"train": trainable(), "evaluate": evaluated()}
MIXERS: list[Mixer] = [
    Aioli(**ASKED, rounds=1, delta=0.8),
    Aioli(**ASKED, rounds=2, delta=0.5, ema=0.5),
    DualAscent(**ASKED, every=2),
    DynaMiCS(**ASKED),
    DynaMiCS(**ASKED, blocks=3, lean=0.9),
    DynaMiCS(**ASKED, blocks=6, mass="planned"),
    DynaMiCS(**ASKED, schedule=4, probe_steps=2),
    DynaMiCS(**ASKED, preset="paper", schedule=4, probe_steps=2),
    EarlyStoppedTarget(**ASKED, patience=9),
    Exp3(**ASKED, every=1),
    Exp3(**ASKED, every=3),
    Feedback(**ASKED, every=2),
    Fixed(**ASKED, target_mass=0.6),
    GradientAlignment(**ASKED, every=4, sequences=3),
    Proportional(**ASKED),
    ReferenceLoss(**ASKED, every=2),
    Replay(**ASKED),
    Uniform(**ASKED),
]
KINDS = get_args(AnyMixer)
NEW = (Aioli, DualAscent, Exp3, Feedback, GradientAlignment, ReferenceLoss)
"""Those whose mixture moves without probes."""


def test_every_mixer_is_here_and_public() -> None:
    assert {type(mixer) for mixer in MIXERS} == set(KINDS)
    for kind in KINDS:
        assert getattr(trimtab, kind.__name__) is kind


def test_every_mixer_has_a_name_of_its_own() -> None:
    assert len({kind().kind for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_can_name_it_and_is_written_back_equal(kind: Any, tmp_path: Path) -> None:
    config = read_config(
        {"model": "m", "train": {"math": "m.txt"}, "targets": ["math"], "mixer": {"kind": kind().kind}},
        DynamicsConfig,
    )
    assert config.mixer == kind()
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml", DynamicsConfig) == config


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer.kind)
def test_these_settings_are_fine(mixer: Mixer) -> None:
    assert list(mixer.problems(ROLES)) == []
    assert isinstance(mixer, DynaMiCS) or mixer.needs(QUICK, ROLES).probe_steps == 0


def test_shares_in_proportion_to_rows() -> None:
    now = session()
    now.sizes = {"math": 6, "code": 3, "web": 1}
    decision = Proportional().decide(now, {})
    assert decision.weights == pytest.approx((0.6, 0.3, 0.1), abs=1e-15)
    assert (decision.ask_at, decision.state) == (None, {})


# Inside a run


class AbortError(Exception):
    """A stop that no code of ours expects."""


def run(out: Path, mixer: Mixer) -> tuple[Model, FinetuneResult]:
    """One run of 12 steps on fresh base weights, saved at 5 and 10."""
    handle = model(dropout=0.1)
    return handle, finetune(handle, **DOMAINS, mixer=mixer, fit=QUICK, out=out)


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer.kind)
def test_a_stop_in_the_middle_changes_nothing(
    mixer: Mixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = run(tmp_path / "whole", mixer)
    original, calls = Loop.step, [0]

    def step(self: Loop, weights: Any, **options: Any) -> Any:
        calls[0] += not options
        if calls[0] == 8:
            raise AbortError
        return original(self, weights, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", step)
        with pytest.raises(AbortError):
            run(tmp_path / "stopped", mixer)
    assert checkpoint.checkpoints(tmp_path / "stopped/artifacts/checkpoints")
    stopped, again = run(tmp_path / "stopped", mixer)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    for key, value in whole.module.state_dict().items():
        assert torch.equal(stopped.module.state_dict()[key], value), key
    assert counted(again) == counted(result)


def metrics(out: Path) -> bytes:
    return (out / "metrics.jsonl").read_bytes()


def counted(result: FinetuneResult) -> Any:
    """All of the cost but the seconds."""
    return replace(result.cost, seconds={}, solver_seconds=0.0)


@dataclass(frozen=True)
class Watched(NoProbes):
    """Another mixer that notes what it was asked with and what it answered."""

    mixer: Any
    seen: list[tuple[int, dict[str, float], Decision]]
    targets: Any = ("math",)
    constraints: Any = None
    kind: str = "watched"

    def decide(self, session: Session, state: State) -> Decision:
        """What the other one says."""
        decision: Decision = self.mixer.decide(session, state)
        self.seen.append((session.step, dict(session.training_losses), decision))
        return decision


def watch(mixer: Any, out: Path | None = None) -> list[tuple[int, dict[str, float], Decision]]:
    watched = Watched(mixer, [], constraints=ASKED["constraints"])
    finetune(model(), **DOMAINS, mixer=watched, fit=QUICK, out=out, config={"watched": mixer.kind})
    return watched.seen


@pytest.fixture(scope="module")
def decisions() -> Callable[[Mixer], list[Decision]]:
    """What a mixer decides in a run; each mixer has one."""

    @cache
    def made(place: int) -> list[Decision]:
        return [decision for _, _, decision in watch(MIXERS[place])]

    return lambda mixer: made(MIXERS.index(mixer))


@pytest.mark.parametrize(
    "mixer", [m for m in MIXERS if isinstance(m, (*NEW, DynaMiCS))], ids=lambda mixer: mixer.kind
)
def test_mixtures_lie_on_the_simplex_and_states_are_json(
    mixer: Any, decisions: Callable[[Mixer], list[Decision]]
) -> None:
    for decision in decisions(mixer):
        assert min(decision.weights) >= 0
        assert sum(decision.weights) == pytest.approx(1, abs=1e-12)
        assert json.loads(json.dumps(decision.state)) == decision.state


@pytest.mark.parametrize("kind", NEW)
def test_they_move(kind: Any, decisions: Callable[[Mixer], list[Decision]]) -> None:
    mixer = next(mixer for mixer in MIXERS if isinstance(mixer, kind))
    assert len({decision.weights for decision in decisions(mixer)}) > 1


def test_a_mixer_is_told_the_training_losses_since_it_was_last_asked(tmp_path: Path) -> None:
    """Rows are packed, 15 predicted tokens each, so that losses per token weigh as sequences do."""
    seen = watch(Exp3(every=5), tmp_path / "run")
    rows = [row for row in read_metrics(tmp_path / "run") if row["event"] == "training"]
    assert [(step, sorted(losses)) for step, losses, _ in seen] == [
        (0, []),
        (5, ["code", "math", "web"]),
        (10, ["code", "math", "web"]),
    ]
    for step, losses, _ in seen[1:]:
        for name, loss in losses.items():
            drawn = [row for row in rows[step - 5 : step] if name in row["examples"]]
            counts = [row["examples"][name] for row in drawn]
            mean = np.average([row["loss_nats"][name] for row in drawn], weights=counts)
            assert loss == pytest.approx(mean, abs=1e-12)


def test_a_mixer_is_told_the_sizes(tmp_path: Path) -> None:
    sizes: list[Mapping[str, int]] = []

    class Sized(Uniform):
        def decide(self, session: Session, state: State) -> Decision:
            sizes.append(session.sizes)
            return super().decide(session, state)

    finetune(model(), **DOMAINS, mixer=Sized(**ASKED), fit=replace(QUICK, steps=1), out=tmp_path / "run")
    (found,) = sizes
    tokens = {name: tokenise(domain, model(), seq_len=16) for name, domain in DOMAINS["train"].items()}
    assert found == {name: len(domain.splits["train"]) for name, domain in tokens.items()}
    assert list(found) == ["math", "code", "web"]


# Checkpoints of an earlier version


def test_a_checkpoint_without_training_losses_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", Uniform(**ASKED))
    original = Loop.step

    def step(self: Loop, weights: Any) -> Any:
        if self.step_count == 7:
            raise AbortError
        return original(self, weights)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", step)
        with pytest.raises(AbortError):
            run(tmp_path / "old", Uniform(**ASKED))
    (saved,) = checkpoint.checkpoints(tmp_path / "old/artifacts/checkpoints")
    facts = json.loads((saved / "state.json").read_text())
    del facts["extra"]["training_nll"], facts["extra"]["training_tokens"]
    del facts["extra"]["ledger"]["gradient_sequences"], facts["checksums"]
    (saved / "state.json").write_text(json.dumps(facts))
    (saved / "checksums.json").unlink()
    run(tmp_path / "old", Uniform(**ASKED))
    assert metrics(tmp_path / "old") == metrics(tmp_path / "whole")
