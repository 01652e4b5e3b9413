"""Pictures, references and candidate sets of DiscriTune that do not do: told before the first step, or done right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pictured
import small_speakers as small
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import CheckpointError, ConfigProblems, DataError, ModelError
from trimtab.job import carry_out
from trimtab.models.captioner import captioner
from trimtab.models.load import load
from trimtab.refer.captions.discritune import DiscriTune, prepared
from trimtab.refer.captions.evaluation import FIRST, Judge, TestSet, retrieval
from trimtab.refer.captions.job import DiscriTuneConfig
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.result import DiscriTuneResult
from trimtab.refer.captions.training import HeldOut, Training
from trimtab.refer.captions.tuning import Tuning

QUICK: dict[str, Any] = {"n_negatives": 3, "n_hard": 2, "batch_size": 4, "steps": 6, "max_new_tokens": 3}


def copies(n: int) -> Pictures:
    """n copies of one picture, and one other."""
    shown = small.pictures()
    return read_pictures({**{f"copy {k}": shown["red-disc"] for k in range(n)}, "other": shown["grey-bar"]})


def a_training(pictures: Pictures, **how: Any) -> Training:
    return prepared(Tuning(**QUICK | how), small.listener(), small.Speaker(), pictures, None, {})


@pytest.mark.parametrize("kind", ["random", "hard", "batch"])
def test_among_copies_each_picture_has_one_negative_that_is_none(kind: Any) -> None:
    """With one other picture in all, the reward is that of two candidates: by hand."""
    training = a_training(copies(12), negatives=kind)
    other = training.pictures.names.index("other")
    rows = [row for row in range(5) if row != other][:4]
    others = training.distractors(rows, 0)
    assert ((others == other).sum(dim=1) >= 1).all()
    values, _ = training.heard(["red disc"] * 4, rows, others)
    cosines = training.listener.similarity(["red disc"], training.gallery)[0]
    number = (others == other).sum(dim=1).numpy()
    gap = training.listener.tau * float(cosines[other] - cosines[rows[0]])
    assert values.tolist() == pytest.approx((-np.log1p(number * np.exp(gap))).tolist(), abs=1e-6)
    done = DiscriTune(small.listener(), **QUICK, negatives=kind).fit(small.Speaker(), copies(12))
    assert np.isfinite(done.history["reward"]).all()


def test_without_masking_copies_are_negatives_as_they_were_drawn() -> None:
    training = a_training(copies(12), negatives="batch", masking=False)
    assert training.distractors([0, 1, 2, 3], 0).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_watched_copies_of_one_picture_have_no_p_at_1() -> None:
    shown = read_pictures({"a": small.pictures()["red-disc"], "b": small.pictures()["red-disc"]})
    one = HeldOut(shown, small.listener().gallery(shown), {})
    scores = one.scores(small.Speaker(), small.listener(), Tuning(**QUICK))
    assert np.isnan(scores["p_at_1"])
    assert scores["vocabulary"] >= 0


def test_test_pictures_that_a_listener_cannot_tell_apart_are_refused_before_captions() -> None:
    shown = copies(3)
    alike = TestSet(shown, ("copy 0", "copy 1"))
    with pytest.raises(DataError, match="test: got 1 different pictures to caption, expected at least 2"):
        Judge.of(FIRST, small.listener(), alike)
    sets = pd.DataFrame({"item": ["copy 0"], "candidates": [["copy 0", "copy 1"]], "target": ["copy 0"]})
    with pytest.raises(DataError, match="got a set of 'copy 0' and its copies"):
        Judge.of(FIRST, small.listener(), TestSet(shown, ("copy 0", "other"), sets))


def test_rows_of_retrieval_count_captions_and_not_clusters() -> None:
    shown = small.pictures()
    test = TestSet(shown, shown.names, clusters=tuple(name[0] for name in shown.names), n=4)
    said = dict.fromkeys(shown.names, "red disc")
    table = retrieval(test, [Judge.of(FIRST, small.listener(), test)], said, said)
    assert table["n"].tolist() == [16]


def test_a_reference_beyond_the_captioner_s_places_is_refused_before_a_step() -> None:
    processor = pictured.clip_processor()
    ear = Listener.from_pretrained(pictured.clip(), tokenizer=pictured.words(), processor=processor)
    speaker = captioner(pictured.CAPTIONERS["prefix"](), tokenizer=pictured.words(), processor=processor)
    shown = dict(zip("abcde", pictured.random_pictures(), strict=True))
    tune = DiscriTune(ear, **QUICK | {"batch_size": 2}, samples=2, cross_entropy=0.1)
    fine = dict.fromkeys(shown, "(())")
    message = (
        r"references: got a caption of the picture 'd' that the captioner cannot score \(got 3 prefix vectors and "
        r"\d+ tokens, expected at most \d+, the model's limit\), expected captions that fit it"
    )
    with pytest.raises(DataError, match=message):
        tune.fit(speaker, shown, {**fine, "d": "(" * 400})
    watch = {"far": {"d": shown["d"]}}
    with pytest.raises(DataError, match=message):
        replace(tune, cross_entropy=0.0).fit(speaker, shown, {"d": "(" * 400}, held_out=watch)
    assert len(tune.fit(speaker, shown, fine).history) == 6


def _files(tmp_path: Path) -> dict[str, Any]:
    for name in ("speaker", "ear"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "shown").mkdir()
    shown = small.pictures()
    for name in shown.names:
        shown[name].save(tmp_path / "shown" / f"{name}.png")
    people = pd.DataFrame({"item": shown.names, "caption": [name.replace("-", " ") for name in shown.names]})
    people.to_csv(tmp_path / "people.csv", index=False)
    return {
        "captioner": str(tmp_path / "speaker"),
        "listener": str(tmp_path / "ear"),
        "pictures": str(tmp_path / "shown"),
        "test": str(tmp_path / "shown"),
        "watched": 4,
    } | QUICK


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    at = "trimtab.refer.captions.job"
    monkeypatch.setattr(f"{at}.captioner", lambda source, prompt, device: small.Speaker())
    monkeypatch.setattr(Listener, "from_pretrained", lambda source, **how: small.listener())
    monkeypatch.setattr(f"{at}.write", lambda model, target, card: target.mkdir(exist_ok=True))


def test_every_table_is_read_before_a_model_is_loaded(tmp_path: Path, models: None) -> None:
    files = _files(tmp_path)
    (tmp_path / "broken.csv").write_text("items,caption\nred-disc,a\n")
    (tmp_path / "strange.csv").write_text("item,caption\nnobody,a\n")
    for name, message in (
        ("broken", "got no column 'item'"),
        ("strange", "other_references.far: got no reference of any of 16 test pictures"),
    ):
        config = DiscriTuneConfig(**files, other_references={"far": str(tmp_path / f"{name}.csv")})
        assert message in "".join(map(str, config.survey().problems))
        with pytest.raises(DataError, match=message):
            carry_out(config, tmp_path / "run")
        assert not (tmp_path / "run" / "artifacts" / "captions-before.json").exists()
    config = DiscriTuneConfig(**files, other_references={"far": str(tmp_path / "people.csv")})
    assert set(carry_out(config, tmp_path / "fine").scores["references"]) == {"far"}


def test_too_few_pictures_are_a_problem_of_the_survey(tmp_path: Path) -> None:
    config = DiscriTuneConfig(**_files(tmp_path) | {"n_negatives": 99})
    assert "pictures: got 16 pictures, expected more than n_negatives=99; try n_negatives: 15" in str(
        config.survey().problems[0]
    )


def test_a_run_whose_test_pictures_changed_meanwhile_says_so(tmp_path: Path, models: None) -> None:
    config = DiscriTuneConfig(**_files(tmp_path) | {"test": str(tmp_path / "more")})
    (tmp_path / "more").mkdir()
    for name in ("a", "b", "c"):
        small.picture("abc".index(name), 1).save(tmp_path / "more" / f"{name}.png")

    def killed(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        carry_out(config, tmp_path / "run", killed)
    assert list(json.loads((tmp_path / "run" / "artifacts" / "captions-before.json").read_text())) == [*"abc"]
    small.picture(3, 3).save(tmp_path / "more" / "d.png")
    with pytest.raises(CheckpointError, match="captions of other test pictures"):
        carry_out(config, tmp_path / "run")


def test_one_name_of_two_pictures_does_not_mix_up_captions_by_people(tmp_path: Path, models: None) -> None:
    files = _files(tmp_path) | {"test": str(tmp_path / "far"), "references": str(tmp_path / "people.csv")}
    (tmp_path / "far").mkdir()
    small.picture(3, 3).save(tmp_path / "far" / "red-disc.png")
    small.picture(1, 1).save(tmp_path / "far" / "green-box.png")
    with pytest.raises(
        DataError, match="references: got two pictures named 'red-disc', one of pictures and one of"
    ):
        carry_out(DiscriTuneConfig(**files, cross_entropy=0.1), tmp_path / "run")
    notes = carry_out(DiscriTuneConfig(**files), tmp_path / "fine").notes
    assert notes == ("2 of 2 captioned test pictures are copies of pictures that were trained on.",)


WRONG: tuple[Any, ...] = (float("nan"), "3", [1], {}, True, 1.5, 10**12, -1)


@pytest.mark.parametrize(
    "name", ["n_negatives", "n_hard", "samples", "steps", "batch_size", "seed", "max_new_tokens"]
)
def test_counts_of_another_kind_are_problems_and_never_crashes(name: str) -> None:
    for value in WRONG[:6]:
        problems = list(Tuning(**{name: value}).problems())
        assert [problem.where for problem in problems] == [name], value
        assert "expected a whole number" in str(problems[0])
    assert (
        str(next(iter(Tuning(steps=10**12).problems())))
        == "steps: got 1000000000000, expected at most 10,000,000"
    )


def test_settings_and_models_of_another_kind_are_told_together(tmp_path: Path) -> None:
    wrong = {"lr": "fast", "kl": None, "masking": 1, "betas": (0.9,), "preset": None, "clip_norm": [1]}
    assert {problem.where.partition("[")[0] for problem in Tuning(**wrong).problems()} == set(wrong)  # type: ignore[arg-type]
    files = _files(tmp_path) | {
        "captioner": 3,
        "listener": 4,
        "pictures": None,
        "other_references": "x",
        "n_random": "9",
    }
    told = {problem.where for problem in DiscriTuneConfig(**files).problems()}
    assert told == {"captioner", "listener", "pictures", "other_references", "n_random"}
    with pytest.raises(ConfigProblems, match="out: got a int, expected the folder of a run, or None"):
        DiscriTune(small.listener()).fit(small.Speaker(), small.pictures(), out=3)  # type: ignore[arg-type]


def test_weights_that_are_nan_are_refused_before_a_step() -> None:
    speaker = small.Speaker()
    speaker.map.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"got weights of the captioner that are nan or infinite \(map\)"):
        DiscriTune(small.listener(), **QUICK).fit(speaker, small.pictures())


def test_a_captioner_in_4_bits_is_refused_before_a_step(tmp_path: Path) -> None:
    """Its embeddings, norms and biases alone would be trained, or with an adapter nothing before a repacked map."""
    processor, network = pictured.vit_processor(), pictured.ved()
    for part in (network, pictured.words(), processor):
        part.save_pretrained(tmp_path)
    speaker = captioner(load(tmp_path, load_in_4bit=True, device="cpu"))
    with pytest.raises(ModelError, match=r"got a quantised model .* for training"):
        DiscriTune(small.listener(), **QUICK).fit(speaker, small.pictures())


def test_notes_on_a_listener_are_in_the_result_and_on_the_page(
    tmp_path: Path, models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = small.listener(notes=("texts are pooled at the tokenizer's end token 3",))
    monkeypatch.setattr(Listener, "from_pretrained", lambda source, **how: ear)
    result = carry_out(DiscriTuneConfig(**_files(tmp_path)), tmp_path / "run")
    assert result.notes == (
        "listener: texts are pooled at the tokenizer's end token 3.",
        "16 of 16 captioned test pictures are copies of pictures that were trained on.",
    )
    assert result.notes[0] in result.summary()
    assert "end token 3." in (tmp_path / "run" / "report.html").read_text()
    assert tuple(DiscriTuneResult.load(tmp_path / "run").notes) == result.notes
