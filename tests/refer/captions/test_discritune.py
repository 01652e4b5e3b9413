"""DiscriTune on a speaker of sixteen pictures: it learns, resumes bit for bit, and refuses before work."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pictured
import small_speakers as small
from trimtab.data.pictures import read_pictures
from trimtab.errors import CheckpointError, ConfigProblems, DataError, DivergedError
from trimtab.models.captioner import captioner
from trimtab.refer.captions.discritune import DiscriTune, prepared
from trimtab.refer.captions.estimators import RunningMean, advantages
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.training import Training, cross_entropy, repetition
from trimtab.refer.captions.tuning import Tuning

QUICK: dict[str, Any] = {
    "n_negatives": 7,
    "n_hard": 3,
    "batch_size": 8,
    "lr": 0.1,
    "steps": 12,
    "max_new_tokens": 3,
}


def a_training(speaker: Any = None, references: Any = None, pictures: Any = None, **how: Any) -> Training:
    tuning = Tuning(**QUICK | how)
    assert not list(tuning.problems())
    shown = small.pictures() if pictures is None else pictures
    return prepared(tuning, small.listener(), speaker or small.Speaker(), shown, references, {})


@pytest.mark.parametrize(
    "how",
    [
        {"estimator": "leave-one-out"},
        {"estimator": "group", "whitening": "group"},
        {"estimator": "sampled", "samples": 1},
        {"estimator": "self-critical", "negatives": "hard"},
        {"estimator": "leave-one-out", "length": "sum", "reward": "margin", "lr": 0.03},
        {"estimator": "leave-one-out", "negatives": "batch", "reward": "accuracy", "whitening": "batch"},
        {"kl": 0.05, "kl_estimator": "k1", "entropy": 0.02},
        {"kl": 0.05, "kl_estimator": "k3", "reward": "similarity"},
        {"human": 1.0, "cross_entropy": 0.1},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_the_listener_finds_more_after_it(how: dict[str, Any]) -> None:
    speaker, held = small.Speaker(), {"all": small.pictures()}
    people = small.full_captions() if "human" in how else None
    tune = DiscriTune(small.listener(), **QUICK | {"steps": 40, "evaluate_every": 40} | how)
    tuned = tune.fit(speaker, small.pictures(), people, held_out=held)
    before, after = tuned.evaluations["p_at_1"]
    assert after > before + 0.2
    assert tuned.to_frame().shape[0] == 2
    assert repr(tuned).startswith("Tuned(")
    assert repr(tuned).endswith(", 40 steps, 2 evaluations)")
    assert len(tuned.history) == 40
    assert tuned.history["reward"].iloc[-5:].mean() > tuned.history["reward"].iloc[:5].mean()
    assert np.isfinite(tuned.history.select_dtypes("number").to_numpy()).all()


def test_greedy_without_exploration_learns_too_and_has_one_caption_a_picture() -> None:
    tuned = DiscriTune(small.listener(), **QUICK | {"steps": 40}, estimator="greedy").fit(
        small.Speaker(), small.pictures()
    )
    assert tuned.history["reward"].iloc[-1] > tuned.history["reward"].iloc[0]
    assert tuned.to_frame()["step"].tolist() == [1, 40]


def every_caption() -> list[list[int]]:
    """Ids of every caption of at most two words."""
    return [[], *([a] for a in range(small.END)), *map(list, itertools.product(range(small.END), repeat=2))]


def test_the_gradient_of_a_step_is_that_of_the_expected_reward() -> None:
    """The mean over many seeds of one step's gradient, against enumeration of all 73 captions of each picture."""
    how: dict[str, Any] = {
        "length": "sum",
        "max_new_tokens": 2,
        "batch_size": 2,
        "samples": 16,
        "n_negatives": 15,
    }
    training = a_training(**how)
    rows = training.batch(0)
    others = training.distractors(rows, 0)
    features = training.speaker.features([training.pictures[training.pictures.names[row]] for row in rows])
    ids = every_caption()
    objective = torch.zeros(())
    for place, row in enumerate(rows):
        texts = [" ".join(small.WORDS[word] for word in each) for each in ids]
        values, _ = training.heard(texts, [row] * len(ids), others[[place] * len(ids)])
        tokens, mask = training.speaker.log_probabilities(
            features[[place] * len(ids)], ids, [len(each) < 2 for each in ids]
        )
        chance = torch.where(mask, tokens, 0.0).sum(1).exp()
        assert float(chance.sum().detach()) == pytest.approx(1, abs=1e-5)
        objective = objective + (chance * values.float()).sum() / len(rows)
    (exact,) = torch.autograd.grad(objective, training.speaker.map)
    slopes = []
    for seed in range(150):
        other = a_training(training.speaker, **how, seed=seed)
        other.batch = lambda step: rows  # type: ignore[method-assign]
        loss, _, _ = other._loss(0)
        slopes.append(-torch.autograd.grad(loss, training.speaker.map)[0].flatten())
    found = torch.stack(slopes)
    z = (found.mean(0) - exact.flatten()) / (found.std(0) / math.sqrt(len(slopes)) + 1e-6)
    assert torch.cosine_similarity(found.mean(0), exact.flatten(), dim=0) > 0.97
    assert z.abs().mean() < 1.1  # a standard normal has .8


def test_killed_and_gone_on_with_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    def tune(out: Path, stop: int = 0) -> small.Speaker:
        def progress(done: int, total: int) -> None:
            if stop and done == stop:
                raise RuntimeError("killed")

        speaker = small.Speaker()
        how = QUICK | {
            "kl": 0.1,
            "estimator": "sampled",
            "samples": 2,
            "checkpoint_every": 4,
            "evaluate_every": 5,
        }
        fit = DiscriTune(small.listener(), **how).fit
        held = {"all": small.pictures()}
        fit(speaker, small.pictures(), small.full_captions(), out, held_out=held, progress=progress)
        return speaker

    whole = tune(tmp_path / "whole")
    for stop in (2, 4, 7, 11):
        folder = tmp_path / f"killed-{stop}"
        with pytest.raises(RuntimeError, match="killed"):
            tune(folder, stop)
        again = tune(folder)
        assert torch.equal(again.map, whole.map), stop
        assert (folder / "metrics.jsonl").read_bytes() == (
            tmp_path / "whole" / "metrics.jsonl"
        ).read_bytes(), stop
    finished = tune(tmp_path / "whole")
    assert torch.equal(finished.map, whole.map)


def test_a_speaker_that_was_changed_meanwhile_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    tune = DiscriTune(small.listener(), **QUICK)
    first = small.Speaker()
    tune.fit(first, small.pictures(), out=tmp_path / "run")
    again = tune.fit(first, small.pictures(), out=tmp_path / "run")
    assert torch.equal(again.model.map, first.map)
    with pytest.raises(CheckpointError, match="other pictures, another listener or another speaker"):
        tune.fit(small.Speaker(), small.pictures().select(small.pictures().names[:9]), out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="another config: steps"):
        DiscriTune(small.listener(), **QUICK | {"steps": 13}).fit(
            first, small.pictures(), out=tmp_path / "run"
        )


def test_a_reward_that_is_nan_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    speaker = small.Speaker()
    with pytest.raises(DivergedError, match=r"got the reward nan of '.*', expected a finite number"):
        DiscriTune(small.listener(broken_after=5), **QUICK).fit(
            speaker, small.pictures(), out=tmp_path / "run"
        )
    assert [path.name for path in (tmp_path / "run" / "artifacts" / "checkpoints").iterdir()] == [
        "step-00000005"
    ]
    gone_on = DiscriTune(small.listener(), **QUICK).fit(speaker, small.pictures(), out=tmp_path / "run")
    straight = DiscriTune(small.listener(), **QUICK).fit(small.Speaker(), small.pictures())
    assert torch.equal(gone_on.model.map, straight.model.map)


def test_a_planted_copy_costs_reward_without_masking_only() -> None:
    """A second file with the same pixels, under another name."""
    shown = small.pictures()
    planted = read_pictures({**shown.sources, "copy": shown["red-disc"]})
    rewards = {}
    for key, pictures, masking in (
        ("alone", shown, True),
        ("masked", planted, True),
        ("naive", planted, False),
    ):
        training = a_training(pictures=pictures, masking=masking, n_negatives=len(pictures) - 1)
        row = training.pictures.names.index("red-disc")
        others = training.distractors([row], 0)
        assert row not in others
        rewards[key] = float(training.heard(["red disc"], [row], others)[0])
    assert rewards["alone"] == pytest.approx(rewards["masked"], abs=1e-9)
    assert rewards["naive"] < rewards["alone"] - 0.5


def test_equal_captions_of_different_pictures_are_never_masked() -> None:
    training = a_training(negatives="batch", batch_size=4)
    rows = [training.pictures.names.index(name) for name in ("red-disc", "red-box")]
    others = training.distractors(rows, 0)
    assert others.tolist() == [[rows[1]], [rows[0]]]
    values, _ = training.heard(["red", "red"], rows, others)
    assert values.exp().tolist() == pytest.approx([0.5, 0.5])


def test_negatives_hold_neither_the_picture_nor_one_twice_and_hard_ones_are_the_nearest() -> None:
    training = a_training(negatives="hard", n_hard=6, n_negatives=10)
    rows = training.batch(3)
    others = training.distractors(rows, 3)
    assert others.shape == (8, 10)
    for row, line in zip(rows, others.tolist(), strict=True):
        assert row not in line
        colour, shape = training.pictures.names[row].split("-")
        near = {name for name in training.pictures.names if (colour in name) != (shape in name)}
        assert {training.pictures.names[other] for other in line[:6]} == near
        assert len(set(line)) == 10
    assert torch.equal(others, training.distractors(rows, 3))
    assert not torch.equal(others, training.distractors(rows, 4))


def test_every_picture_comes_once_an_epoch() -> None:
    training = a_training(batch_size=6)
    seen = [row for step in range(8) for row in training.batch(step)]
    for epoch in range(3):
        assert sorted(seen[16 * epoch : 16 * (epoch + 1)]) == list(range(16))
    assert seen[:16] != seen[16:32]


def test_the_baseline_of_a_step_is_the_mean_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(values: Any, *args: Any, running: float, **how: Any) -> Any:
        seen.append((values.clone(), running))
        return advantages(values, *args, running=running, **how)

    monkeypatch.setattr("trimtab.refer.captions.training.advantages", spy)
    training = a_training(estimator="greedy", batch_size=4)
    for _ in range(4):
        training.step()
    mean = RunningMean()
    for values, running in seen:
        assert running == pytest.approx(mean.value)
        mean = mean.after(values)
    assert mean.count == 16


def test_captions_without_words_earn_the_infimum() -> None:
    training = a_training()
    values, found = training.heard(["", "  "], [0, 1], training.distractors([0, 1], 0))
    assert values.tolist() == pytest.approx([-math.log1p(7 * math.exp(20.0))] * 2)
    assert found == 0


def test_kl_in_the_diagnostics_is_that_of_two_speakers_and_weights_come_back() -> None:
    training = a_training(estimator="leave-one-out", samples=64, batch_size=16)
    _, row, _ = training._loss(0)
    assert row["kl_nats"] == 0
    with torch.no_grad():
        training.speaker.map += 0.2 * torch.randn_like(training.speaker.map)
    held = training.speaker.map.clone()
    _, row, _ = training._loss(0)
    assert torch.equal(training.speaker.map, held)
    assert 0 < row["kl_nats"] < 1


def test_cross_entropy_by_hand() -> None:
    speaker, shown = small.Speaker(), small.pictures()
    (found,) = cross_entropy(speaker, shown, {"blue-bar": "blue bar"}, ["blue-bar"])
    table = speaker._table(speaker.features([shown["blue-bar"]]))[0].detach()
    by_hand = -(table[0, 2] + table[1, 6] + table[2, small.END]) / 3
    assert found == pytest.approx(float(by_hand), abs=1e-6)


def test_repetition_by_hand() -> None:
    assert repetition(["on a mat on a mat", "one"]) == pytest.approx(2 / 5)
    assert math.isnan(repetition(["word", ""]))


def test_settings_that_cannot_work_are_told_at_once() -> None:
    wrong = Tuning(estimator="leave-one-out", samples=1, lr=0.0, kl=-1.0, negatives="batch", batch_size=1)
    text = "\n".join(map(str, wrong.problems()))
    assert (
        "samples: got 1, expected at least 2 captions of a picture for leave-one-out; try samples: 4" in text
    )
    assert "batch_size: got batch_size 1 whose own pictures are the negatives, expected at least 2" in text
    assert "lr: got 0.0" in text
    assert "kl: got -1.0, expected zero or more" in text
    (problem,) = Tuning(estimator="gready").problems()  # type: ignore[arg-type]
    assert (problem.where, problem.got, problem.hint) == ("estimator", "'gready'", "'greedy'")
    assert "1: the likeliest caption is one" in str(
        next(iter(Tuning(estimator="greedy", samples=2).problems()))
    )
    with pytest.raises(ConfigProblems, match="samples: got 1"):
        DiscriTune(small.listener(), samples=1).fit(small.Speaker(), small.pictures())


def test_the_paper_s_preset() -> None:
    paper = Tuning(preset="paper")
    names = ("estimator", "negatives", "samples", "batch_size", "lr", "length")
    assert [paper.setting(name) for name in names] == ["greedy", "batch", 1, 100, 1e-7, "mean"]
    assert (paper.kl, paper.entropy, paper.whitening) == (0, 0, "none")
    assert not list(paper.problems())


def test_pictures_that_do_not_do_are_refused_before_work() -> None:
    few = small.pictures().select(small.pictures().names[:5])
    for how, message in (
        ({"batch_size": 8}, "pictures: got 5 pictures, expected at least batch_size=8; try batch_size: 5"),
        ({"batch_size": 4}, "pictures: got 5 pictures, expected more than n_negatives=7; try n_negatives: 4"),
    ):
        with pytest.raises(DataError, match=message):
            a_training(pictures=few, **how)
    some = {name: text for name, text in small.full_captions().items() if "red" not in name}
    with pytest.raises(
        DataError, match=r"references: got no reference of the picture 'red-.*4 such pictures of 16"
    ):
        a_training(references=some, human=1.0)
    with pytest.raises(DataError, match="references: got no reference"):
        a_training(cross_entropy=0.1)


@pytest.mark.parametrize("kind", list(pictured.CAPTIONERS))
def test_every_kind_of_captioner_learns_but_its_vision_and_resumes_bit_for_bit(
    kind: str, tmp_path: Path
) -> None:
    processor = pictured.clip_processor()
    ear = Listener.from_pretrained(pictured.clip(), tokenizer=pictured.words(), processor=processor)
    how: dict[str, Any] = {
        "n_negatives": 3,
        "batch_size": 2,
        "samples": 2,
        "steps": 3,
        "lr": 1e-2,
        "max_new_tokens": 4,
    }
    tune = DiscriTune(ear, **how, checkpoint_every=1)

    def speak() -> Any:
        return captioner(pictured.CAPTIONERS[kind](), tokenizer=pictured.words(), processor=processor)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError("killed")

    images, whole = pictured.random_pictures(), speak()
    start = {name: one.detach().clone() for name, one in whole.model.module.state_dict().items()}
    tune.fit(whole, images, out=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        tune.fit(speak(), images, out=tmp_path / "run", progress=stop)
    again = tune.fit(speak(), images, out=tmp_path / "run").model
    ends, sees = (one.model.module.state_dict() for one in (whole, again)), whole.speaker.vision
    for (name, value), other in zip(next(ends).items(), next(ends).values(), strict=True):
        assert torch.equal(value, other), name
        assert not name.startswith(f"{sees}.") or torch.equal(value, start[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in whole.model.module.state_dict().items())
