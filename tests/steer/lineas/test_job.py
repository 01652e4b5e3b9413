"""A steering from a config to a folder and a page, and what stops it before it starts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from page_script import without_script
from trimtab import CAA, LinEAS, MeanAcT, Steering, load
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out
from trimtab.report.formats import number
from trimtab.steer.lineas import page
from trimtab.steer.lineas.job import SteeringConfig, completions
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.samples import read_examples
from trimtab.steer.strength import strength_curve


@pytest.fixture
def config(llama_folder: Path, sides: dict[str, str]) -> SteeringConfig:
    return SteeringConfig(
        model=str(llama_folder),
        **sides,
        estimator=LinEAS(sites="residual", steps=8),
        examples=6,
        held_out=8,
        prompts=("you", "dear <b>"),
        strengths=(0.0, 0.5, 1.0),
        max_new_tokens=4,
        device="cpu",
    )


def test_a_job_fits_judges_and_reports(config: SteeringConfig, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    outcome = carry_out(config, tmp_path / "run", lambda done, total: told.append((done, total)))
    assert told == [(n, 8) for n in range(1, 9)]
    loaded = SteeringResult.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.curve, outcome.curve)
    pd.testing.assert_frame_equal(loaded.samples, outcome.samples)
    pd.testing.assert_frame_equal(loaded.costs, outcome.costs)
    for name, (weight, shift) in outcome.steering.maps.items():
        assert torch.equal(loaded.steering.maps[name][0], weight)
        assert torch.equal(loaded.steering.maps[name][1], shift)
    assert (tmp_path / "run/report.html").read_text().count("<svg") == 6
    assert len(loaded.samples) == 6
    assert json.loads(outcome.to_json())["curve"][2]["strength"] == 1.0


def test_its_numbers_are_those_of_the_library(config: SteeringConfig, tmp_path: Path) -> None:
    """What a user would do by hand in Python, with the same examples."""
    result = carry_out(config, tmp_path / "run")
    texts = {n: read_examples(getattr(config, n), n, 6, 8) for n in ("source", "target")}
    neutral = read_examples(config.neutral, "neutral", 0, 8).held_out
    model = load(config.model, device="cpu")
    steering = replace(config.estimator, max_tokens=128).fit(
        model, source=list(texts["source"].fit), target=list(texts["target"].fit)
    )
    held = {name: side.held_out for name, side in texts.items()}
    curve = strength_curve(
        steering, model, **held, neutral=neutral, strengths=config.strengths, max_tokens=128
    )
    pd.testing.assert_frame_equal(result.curve, curve)
    assert not {*texts["source"].fit} & {*texts["source"].held_out}


def test_rivals_are_fitted_and_judged_on_the_same_texts(config: SteeringConfig, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rivals = (MeanAcT(sites="residual"), LinEAS(sites="mlp_out", steps=2))
    with_rivals = replace(config, rivals=rivals)
    result = carry_out(with_rivals, tmp_path / "run", lambda done, total: told.append((done, total)))
    assert told == [
        (n, 11) for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
    ]  # a closed form is one step, which is not told
    assert with_rivals.cost() == {"steps": 11, "texts": (8 * 3 + 2) * 3 * 3}
    texts = {n: read_examples(getattr(config, n), n, 6, 8) for n in ("source", "target")}
    held = {name: side.held_out for name, side in texts.items()}
    held["neutral"] = read_examples(config.neutral, "neutral", 0, 8).held_out
    model = load(config.model, device="cpu")
    for name, rival in zip(("MeanAcT", "LinEAS 2"), rivals, strict=True):
        fitted = replace(rival, max_tokens=128).fit(
            model, list(texts["source"].fit), list(texts["target"].fit)
        )
        curve = strength_curve(fitted, model, **held, strengths=config.strengths, max_tokens=128)
        measured = result.rivals[result.rivals["method"] == name].drop(columns="method")
        pd.testing.assert_frame_equal(measured.reset_index(drop=True), curve)
        texts_of = completions(fitted, model, config.prompts, config.strengths, config.max_new_tokens)
        written = result.rival_samples[result.rival_samples["method"] == name].drop(columns="method")
        pd.testing.assert_frame_equal(written.reset_index(drop=True), texts_of)
    loaded = SteeringResult.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.rivals, result.rivals)
    pd.testing.assert_frame_equal(loaded.rival_samples, result.rival_samples)
    pd.testing.assert_frame_equal(loaded.curve, carry_out(config, tmp_path / "alone").curve)


def test_a_budget_suggests_a_strength_from_half_of_the_texts(config: SteeringConfig, tmp_path: Path) -> None:
    result = carry_out(replace(config, budget=100.0), tmp_path / "run")
    assert result.suggestion is not None
    assert result.suggestion.chosen_on == {"source": 4, "target": 4, "neutral": 4}
    assert SteeringResult.load(tmp_path / "run").suggestion == result.suggestion
    written = json.loads(result.to_json())["suggestion"]
    assert written["strength"] == result.suggestion.strength
    marked = replace(
        result, suggestion=replace(result.suggestion, strength=0.5), curve=result.curve.iloc[::-1]
    )
    blocks = [block for section in page.sections(marked) for block in section.blocks]
    (table,) = [block for block in blocks if getattr(block, "marked", ())]
    assert table.frame.iloc[list(table.marked)]["strength"].tolist() == ["0.5"]
    assert " ".join(result.suggestion.sentences()) in result.to_text()
    none = carry_out(replace(config, budget=1e-9), tmp_path / "none")
    assert none.suggestion.strength is None
    loaded = SteeringResult.load(tmp_path / "none").suggestion
    assert list(loaded.sentences()) == list(none.suggestion.sentences())
    assert json.loads(none.to_json())["suggestion"]["strength"] is None
    assert json.loads(carry_out(config, tmp_path / "without").to_json())["suggestion"] is None


def test_held_out_texts_come_from_files_of_their_own(config: SteeringConfig, tmp_path: Path) -> None:
    """Curve and counts are of the other files; texts to fit with, and those on both sides, judge nothing."""
    files = {
        "source": [f"oh you {a} clod" for a in "stuvwxyz"],
        "target": [f"thanks, {a}!" for a in "stuvwxyz"],
    }
    first = Path(config.source).read_text().splitlines()[0]
    extra = {"source": [first, "both of them"], "target": ["both of them"]}
    for name, lines in files.items():
        (tmp_path / f"{name}-test.txt").write_text("\n".join([*lines, *extra[name]]))
    own = {f"held_out_{name}": str(tmp_path / f"{name}-test.txt") for name in files}
    result = carry_out(replace(config, **own), tmp_path / "run")
    curve = strength_curve(
        result.steering,
        load(config.model, device="cpu"),
        **files,
        neutral=read_examples(config.neutral, "neutral", 0, 8).held_out,
        strengths=config.strengths,
        max_tokens=128,
    )
    for column in ("lean", "kl", "source_loss", "target_loss"):
        np.testing.assert_allclose(result.curve[column], curve[column], rtol=1e-5, atol=1e-7)
    plain = carry_out(config, tmp_path / "plain")
    assert not np.allclose(plain.curve["source_loss"], result.curve["source_loss"])
    shifts = [one.steering.maps["model.layers.0:out"][1] for one in (plain, result)]
    assert torch.equal(*shifts)  # the same examples were fitted with
    read = result.read.set_index("side")
    assert read.loc["source", ["fit", "held_out", "different", "shared"]].tolist() == [6, 8, 28, 2]
    survey = replace(config, **own).survey()
    assert survey.problems == ()
    shown = survey.tables["texts"].set_index("side")
    assert shown["different"].to_dict() == read["different"].to_dict()
    few = replace(config, **own, held_out=9)
    wrong = [one.where for one in few.survey().problems]
    assert wrong == ["source, held_out_source", "target, held_out_target", "neutral"]
    with pytest.raises(DataError, match=r"held_out_source: got 8 different texts in .*, expected 9"):
        carry_out(few, tmp_path / "few")
    with pytest.raises(ConfigProblems, match=r"held_out_target: got 'nowhere\.txt'"):
        carry_out(replace(config, held_out_target="nowhere.txt"), tmp_path / "none")


def test_the_costs_are_of_held_out_texts_and_fall_where_maps_help(
    config: SteeringConfig, tmp_path: Path
) -> None:
    config = replace(config, estimator=MeanAcT(sites="residual"))
    costs = carry_out(config, tmp_path / "run").costs
    assert list(costs["site"]) == ["model.layers.0:out", "model.layers.1:out"]
    assert (costs["after"] < costs["before"]).all()
    assert np.isfinite(costs[["before", "after"]].to_numpy()).all()


def test_a_finished_job_is_not_another_ones(config: SteeringConfig, tmp_path: Path) -> None:
    carry_out(config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="seed"):
        carry_out(replace(config, seed=1), tmp_path / "run")


def test_an_interrupted_fit_goes_on_where_it_was(config: SteeringConfig, tmp_path: Path) -> None:
    whole = carry_out(config, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path / "run", stop)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    resumed = carry_out(config, tmp_path / "run")
    for name, (weight, shift) in whole.steering.maps.items():
        assert torch.equal(resumed.steering.maps[name][0], weight)
        assert torch.equal(resumed.steering.maps[name][1], shift)


def test_a_rival_that_was_interrupted_goes_on_where_it_was(config: SteeringConfig, tmp_path: Path) -> None:
    config = replace(config, rivals=(LinEAS(sites="mlp_out", steps=4),))
    whole = carry_out(config, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path / "run", stop)
    told: list[int] = []
    resumed = carry_out(config, tmp_path / "run", lambda done, total: told.append(done))
    assert 8 not in told  # the fit that was finished is read
    assert told[-1] == 12
    pd.testing.assert_frame_equal(resumed.rivals, whole.rivals)


# What is wrong with a config


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"estimator": LinEAS(steps=0)}, "estimator.steps"),
        ({"estimator": CAA(position="first")}, "estimator.position"),
        ({"examples": 1}, "examples"),
        ({"held_out": 1}, "held_out"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"strengths": ()}, "strengths"),
        ({"strengths": (0.5, 1.5)}, "strengths"),
        ({"source": "no/such/file.txt"}, "source"),
        ({"neutral": "nothing*.txt"}, "neutral"),
        ({"model": "./no-folder"}, "model"),
        ({"budget": 0.0}, "budget"),
        ({"budget": 0.1, "neutral": ""}, "budget"),
        ({"budget": 0.1, "held_out": 3}, "held_out"),
        ({"rivals": (CAA(), LinEAS(steps=0))}, "rivals[1].steps"),
        ({"rivals": (LinEAS(sites="residual", steps=8),)}, "rivals[0]"),
    ],
)
def test_each_mistake_is_named_before_anything_starts(
    config: SteeringConfig, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    wrong = replace(config, **changes)
    assert [problem.where for problem in wrong.problems()] == [where]
    with pytest.raises(ConfigProblems, match=re.escape(where)):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_sides_from_one_file_are_refused(config: SteeringConfig) -> None:
    assert [str(p) for p in replace(config, target=config.source).problems()] == [
        "target: got the same file as source, expected another behaviour"
    ]


def test_too_few_texts_are_refused_and_the_run_says_failed(config: SteeringConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source: got 18 different texts .*, expected 40"):
        carry_out(replace(config, examples=32), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_an_estimate_counts_steps_and_texts(config: SteeringConfig) -> None:
    assert config.cost() == {"steps": 8, "texts": 8 * 3 * 3 + 2 * 3}


def test_there_is_no_result_before_the_end(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished result"):
        SteeringResult.load(tmp_path)


# The page


@pytest.fixture(scope="module")
def carried_out() -> list[SteeringResult]:
    """The one result that all tests of the page read; none changes it."""
    return []


@pytest.fixture
def result(config: SteeringConfig, tmp_path: Path, carried_out: list[SteeringResult]) -> SteeringResult:
    if not carried_out:
        carried_out.append(carry_out(config, tmp_path / "run"))
    return carried_out[0]


def test_a_page_escapes_what_models_and_users_write(result: SteeringResult) -> None:
    samples = result.samples.assign(text="<script>alert(1)</script>")
    text = SteeringResult.page([replace(result, samples=samples, label="<i>")], title="<b>")
    assert "<script>" not in without_script(text)
    assert "&lt;script&gt;" in text
    assert "dear &lt;b&gt;" in text


def test_a_verdict_says_when_chance_explains_it(result: SteeringResult) -> None:
    def told(low: float, high: float, lean: float) -> str:
        last = result.curve.assign(lean=lean, lean_low=low, lean_high=high)
        return replace(result, curve=last).summary()

    assert "towards the target" in told(0.1, 0.3, 0.2)
    assert "away from the target" in told(-0.3, -0.1, -0.2)
    assert "within what chance explains" in told(-0.1, 0.3, 0.1)
    assert "chance" not in told(0.1, 0.3, 0.2)


def test_several_results_are_compared_and_none_is_refused(result: SteeringResult) -> None:
    text = SteeringResult.page([result, replace(result, label="other")])
    assert "1. LinEAS" in text
    assert "2. other" in text
    with pytest.raises(DataError, match="no result"):
        SteeringResult.page([])


def test_a_result_draws_its_curve(result: SteeringResult) -> None:
    assert result.figure().axes[0].get_xlabel() == "KL on neutral text, nats per token"
    alone = replace(result, curve=result.curve.assign(kl=np.nan))
    assert alone.figure().axes[0].get_xlabel() == "strength"
    assert list(result.to_frame()["strength"]) == [0.0, 0.5, 1.0]
    assert isinstance(result.steering, Steering)


@pytest.mark.parametrize("name", ["curve", "costs", "samples"])
def test_a_result_that_lacks_a_part_is_named(result: SteeringResult, tmp_path: Path, name: str) -> None:
    path = result.save(tmp_path / "copy") / "artifacts/result.json"
    found = json.loads(path.read_text())
    del found[name]
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=f"result.json: got values that are no result .*{name}"):
        SteeringResult.load(tmp_path / "copy")


# Effect against side effect


def points(html: str, name: str) -> list[tuple[str, str]]:
    """Points of a method in the picture of effect against side effect, in the order of its line."""
    drawings = re.findall(r"<svg\b.*?</svg>", without_script(html), re.DOTALL)
    drawing = next(one for one in drawings if "effect against side effect" in one)
    told = rf"<title>{name}, strength ([^:]*): KL on neutral text, nats per token ([^;]*); lean"
    return re.findall(told, drawing)


def test_a_point_of_each_method_and_strength_is_drawn_by_rising_strength(result: SteeringResult) -> None:
    """Strengths come in the order of the config; a line through them in that order would go to and fro."""
    mixed = result.curve.iloc[[2, 0, 1]]
    other = result.curve.assign(method="<b>CAA</b>", kl=3 * result.curve["kl"]).iloc[[1, 2, 0]]
    html = SteeringResult.page([replace(result, curve=mixed, rivals=other)])
    wanted = [(f"{row.strength:g}", number(row.kl)) for row in result.curve.itertuples()]
    assert points(html, "LinEAS") == wanted
    assert [one for one, _ in wanted] == ["0", "0.5", "1"]
    tripled = [(f"{row.strength:g}", number(3 * row.kl)) for row in result.curve.itertuples()]
    assert points(html, "&lt;b&gt;CAA&lt;/b&gt;") == tripled
    assert "<b>CAA" not in html
    several = SteeringResult.page([replace(result, curve=mixed), replace(result, label="other")])
    assert [one for one, _ in points(several, "2. other")] == ["0", "0.5", "1"]


def test_the_table_of_the_picture_has_all_methods_by_rising_strength(result: SteeringResult) -> None:
    it = replace(result, curve=result.curve.iloc[::-1], rivals=result.curve.assign(method="CAA"))
    table = page.sections(it)
    (shown,) = [
        one
        for section in table
        if section.title == "Effect against side effect"
        for one in section.blocks
        if hasattr(one, "frame")
    ]
    assert shown.frame[["method", "strength"]].to_numpy().tolist() == [
        [method, strength] for method in ("LinEAS", "CAA") for strength in ("0", "0.5", "1")
    ]


def test_without_neutral_text_there_is_no_side_effect_to_draw(result: SteeringResult) -> None:
    ends = dict.fromkeys(("kl", "kl_low", "kl_high"), np.nan)
    html = without_script(SteeringResult.page([replace(result, curve=result.curve.assign(**ends))]))
    assert "The side effect was not measured" in html
    assert ", strength 0.5:" not in html


def test_words_that_changed_are_marked_at_their_strength(result: SteeringResult) -> None:
    rows = [("a <b>", 1.0, "the <hen> sees"), ("a <b>", 0.0, "the pig sees"), ("a <b>", 0.5, "the pig sees")]
    samples = pd.DataFrame(rows, columns=["prompt", "strength", "text"])
    html = without_script(SteeringResult.page([replace(result, samples=samples)]))
    assert html.count("<mark>") == 1
    assert "the <mark>&lt;hen&gt;</mark> sees" in html
    assert "differ from the completion at strength 0." in html
    assert "differ from" not in without_script(SteeringResult.page([replace(result, samples=samples[:1])]))


def test_completions_of_rivals_stand_under_their_names(result: SteeringResult) -> None:
    rows = [("a", 0.0, "the pig"), ("a", 1.0, "the hen")]
    samples = pd.DataFrame(rows, columns=["prompt", "strength", "text"])
    theirs = samples.assign(text=["the pig", "that <ox>"], method="CAA <1>")
    it = replace(result, samples=samples, rival_samples=theirs)
    (section,) = [one for one in page.sections(it) if one.title == "What the model writes"]
    _, first, second = section.blocks
    assert [table.caption.split(" Marked")[0] for table in (first, second)] == ["LinEAS.", "CAA <1>."]
    html = without_script(SteeringResult.page([it]))
    assert html.count("<mark>") == 2
    assert "<mark>that &lt;ox&gt;</mark>" in html
    assert "<1>" not in html
    (alone,) = [
        one for one in page.sections(replace(it, rival_samples=samples[:0])) if one.title == section.title
    ]
    assert alone.blocks[1].caption.startswith("Marked")


def test_a_long_prompt_is_shown_by_its_end_and_in_full_further_down(result: SteeringResult) -> None:
    turns = "\n".join(
        [f"user: Question {n}, of some length?\nassistant: <i>Answer</i> {n}." for n in range(4)]
    )
    long = f"{turns}\nuser: And who are you?"
    samples = pd.DataFrame([(long, 0.0, "a"), (long, 1.0, "b")], columns=["prompt", "strength", "text"])
    it = replace(result, samples=samples, rival_samples=samples.assign(method="CAA"))
    (section,) = [one for one in page.sections(it) if one.title == "What the model writes"]
    _, first, second, folded = section.blocks
    assert first.frame["prompt"].tolist() == second.frame["prompt"].tolist() == ["… user: And who are you?"]
    assert folded.collapsed
    assert folded.blocks[0].frame.to_dict("records") == [
        {"prompt": "… user: And who are you?", "in full": long}
    ]
    html = without_script(SteeringResult.page([it]))
    assert html.count("Question 0") == 1
    assert "<i>" not in html
    (short,) = [one for one in page.sections(result) if one.title == section.title]
    assert len(short.blocks) == 2
    assert page.ending("word " * 100).startswith("… word word")
    assert len(page.ending("x" * 500)) == page.LONGEST_PROMPT + 2
