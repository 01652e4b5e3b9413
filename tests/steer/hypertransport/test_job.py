"""A hypernetwork from a config to a folder and a page: numbers, resumption, and what stops it before it starts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hypertransport_world as world
from page_script import without_script
from trimtab import HyperTransport, load
from trimtab.errors import ConfigProblems, DataError
from trimtab.job import carry_out, survey_of
from trimtab.report.figures import to_svg
from trimtab.report.formats import estimate, number
from trimtab.steer.hypertransport import study
from trimtab.steer.hypertransport.job import HyperTransportConfig, concept_steering
from trimtab.steer.hypertransport.measuring import ALL_HELD_OUT, METHODS, SCORES, TABLE
from trimtab.steer.hypertransport.page import plane_figure
from trimtab.steer.hypertransport.result import HyperTransportResult


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> HyperTransportConfig:
    return world.config(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(config, tmp_path_factory) -> tuple[Path, HyperTransportResult, list[tuple[int, int]]]:
    folder, told = tmp_path_factory.mktemp("runs") / "run", []
    result = carry_out(config, folder, lambda *step: told.append(step))
    return folder, result, told


def test_every_method_has_both_fidelities_on_held_out_concepts(done, config):
    _, result, told = done
    table = result.to_frame()
    assert tuple(table.columns) == TABLE
    held = table[table["split"] != "training"]
    assert set(held["split"]) == {"held value", "held combination"}
    for _, rows in held.groupby("concept"):
        assert set(rows["method"]) == set(METHODS)
        assert len(rows) == 6 * len(config.strengths) + 3
    for name in SCORES:
        assert table[name].between(0, 1).all()
        assert (table[f"{name}_low"] <= table[name] + 1e-12).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-12).all()
    assert (table["n"] == config.prompts).all()
    total = told[-1][1]
    assert told[-1] == (total, total)
    assert [step for step, _ in told] == sorted({step for step, _ in told})


def test_the_truth_is_perfect_and_nothing_depends_on_the_concept_without_a_steering(done):
    table = done[1].table
    truth = table[table["method"] == "truth"]
    assert (truth[list(SCORES)] == 1).all().all()
    assert (truth["truth_distance"] == 0).all()
    assert (table.loc[table["method"] != "truth", "truth_distance"] > 0).all()
    judged = table[(table["method"] == "unsteered")]
    assert len(judged) == 3


def test_numbers_are_those_of_the_library(done, config):
    """What a user would do by hand in Python, for the hypernetwork and a held-out concept."""
    import tiny_judge
    from trimtab.seeds import derive
    from trimtab.steer.samples import read_examples

    folder, result, _ = done
    generator = load(config.model, device="cpu")
    fitted = HyperTransport.from_pretrained(folder / "artifacts/hypernetwork", generator)
    row = next(row for row in world.rows() if row["split"] == "held_combinations")
    prompts = list(
        read_examples(config.source, "source", config.examples, config.prompts, config.seed).held_out
    )
    with fitted(row["prompts"]).on(generator, 0.5):
        pictures = generator.generate(prompts, seed=derive(config.seed, "measured"))
    seen = tiny_judge.TinyJudge().see(pictures)
    hits = [(c, s) == ("blue", "ring") for c, s in zip(seen["colour"], seen["shape"], strict=True)]
    table = result.table
    told = table[(table["concept"] == row["concept"]) & (table["method"] == "hypertransport")]
    assert told[told["strength"] == 0.5]["concept_fidelity"].item() == np.mean(hits)
    facts = result.concepts.set_index("concept").loc[row["concept"]]
    assert facts["novelty"] == fitted.novelty(row["prompts"])
    assert (result.concepts[["hypertransport_seconds", "lineas_seconds"]] > 0).all().all()


def test_json_and_disk_have_every_number(done):
    folder, result, _ = done
    told = json.loads(result.to_json())
    row = next(one for one in told["table"] if one["method"] == "truth")
    assert set(TABLE) <= set(row)
    assert row["strength"] is None
    assert {one["method"] for one in told["means"] if one["split"] == ALL_HELD_OUT} == set(METHODS)
    assert "samples" not in told
    assert "break_even" in told
    again = HyperTransportResult.load(folder)
    for name in ("table", "means", "equal", "concepts", "samples"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name), check_dtype=False)
    assert again.summary() == result.summary()
    held = result.equal[result.equal["split"] == ALL_HELD_OUT]
    assert len(held)
    for row in held.to_dict("records"):
        assert estimate(row["concept_fidelity"], row["low"], row["high"]) in result.summary()
    assert again.headline().keys() == {"concept fidelity", "input fidelity"}


def test_the_page_is_whole_and_escapes_names(done):
    page = (done[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in without_script(page)
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    pictures = re.findall(r'<image [^>]*href="data:image/png;base64,[^"]+"[^>]*><title>([^<]+)</title>', page)
    columns = {title.rpartition(": ")[2] for title in pictures}
    assert {"unsteered", "strength 0.5", "strength 1", "true picture", "prompting", "LinEAS"} <= columns
    assert {"ridge", "nearest", "mean"} <= columns
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert len(page.encode()) < 1_000_000
    for title in ("What it makes", "Concept against input", "Novelty against quality", "When training pays"):
        assert f">{title}</h2>" in page
    both = HyperTransportResult.page([done[1], done[1]])
    assert "Compared" in both


def test_a_point_of_the_plane_says_its_strength_and_the_line_goes_by_rising_strength(done):
    result = done[1]
    drawing = to_svg(plane_figure(result.means.iloc[::-1]))
    told = re.findall(r"<title>HyperTransport(, strength [^:]*)?: fidelity to the input ([^;]*);", drawing)
    held = result.means[(result.means["split"] == ALL_HELD_OUT)]
    rows = held[held["method"].isin(["hypertransport", "unsteered"])].sort_values("strength")
    assert told == [(f", strength {row.strength:g}", number(row.input_fidelity)) for row in rows.itertuples()]
    assert [dial for dial, _ in told] == [", strength 0", ", strength 0.5", ", strength 1"]
    assert re.search(r"<title>prompting: fidelity to the input", drawing)  # which has no strength


def test_words_of_texts_that_the_unsteered_model_does_not_write_are_marked(done):
    result = done[1]
    dials = result.samples["strength"].map({1.0: "<red> ring"}).fillna("a ring")
    texts = dials.where(result.samples["method"] == "hypertransport", "a ring")
    html = without_script(
        HyperTransportResult.page([replace(result, samples=result.samples.assign(png="", text=texts))])
    )
    cells = (result.samples["method"] == "hypertransport") & (result.samples["strength"] == 1)
    assert html.count("<mark>") == cells.sum() > 0
    assert "<mark>&lt;red&gt;</mark> ring" in html
    assert "Marked: words that differ from those of the unsteered model." in html


def test_a_killed_run_goes_on_to_the_same_numbers(done, config, tmp_path, monkeypatch):
    """Stopped within the hypernetwork's training, within a LinEAS fit, then finished."""

    def stopping(at: int):
        def tell(step: int, total: int) -> None:
            if step == at:
                raise KeyboardInterrupt

        return tell

    for at in (3, 6 + 5 + 2, 6 + 5 + 4 + 1):
        with pytest.raises(KeyboardInterrupt):
            carry_out(config, tmp_path / "run", stopping(at))
    calls = []
    measured = study.Study._lineas
    monkeypatch.setattr(study.Study, "_lineas", lambda *given: calls.append(given[2]) or measured(*given))
    result = carry_out(config, tmp_path / "run")
    assert calls == [1, 2]
    pd.testing.assert_frame_equal(result.table, done[1].table)
    pd.testing.assert_frame_equal(result.equal, done[1].equal)
    pd.testing.assert_frame_equal(result.samples, done[1].samples)


def test_without_a_judge_another_encoder_measures_and_rivals_can_be_left_out(config, tmp_path):
    own = replace(config, judge="", rivals=False, shown_training=0, prompts=3, pictures=0)
    result = carry_out(own, tmp_path / "run")
    assert set(result.table["method"]) == {"hypertransport", "unsteered"}
    assert result.measured_by == "the encoder of training"
    assert np.isnan(result.break_even)
    assert json.loads(result.to_json())["break_even"] is None
    page = (tmp_path / "run/report.html").read_text()
    assert "Another one is safer" in page
    assert "Prompting was not measured of each concept" in page


def test_a_survey_counts_concepts_and_prompts(config):
    survey = survey_of(config)
    assert survey is not None
    assert survey.problems == ()
    counts = survey.tables["concepts"].set_index("split")["concepts"].to_dict()
    assert counts == {"training": 5, "held combination": 1, "held value": 1}
    assert survey.cost["steps"] == config.cost()["steps"] + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 1}, "held_out: got 1, expected at least 2"),
        ({"strengths": (0.0, 1.0)}, "strengths: got .* expected numbers above 0"),
        ({"strengths": (1.0, 0.5)}, "strengths: .* expected rising numbers"),
        ({"concepts": "no-file.jsonl"}, "concepts: .*no-file"),
        ({"source": "no-file.txt"}, "source: .*no-file"),
        ({"judge": "no_module_of_this_name:judge"}, "judge: .*no module"),
        ({"judge": "judge.py"}, "judge: got 'judge.py', expected module:name"),
        ({"judge_encoder": "self"}, "judge_encoder: got it beside a judge"),
        ({"hypertransport": HyperTransport(p=3)}, "hypertransport.p: got 3, expected 1 or 2"),
        ({"hypertransport": HyperTransport(encoder="x")}, "hypertransport.encoder: .*one level up"),
        ({"model": "./nowhere"}, "model: got './nowhere'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(config, tmp_path, change, message):
    with pytest.raises(ConfigProblems, match=message):
        carry_out(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_concepts_that_do_not_do_are_told_by_the_survey_too(config, tmp_path):
    few = replace(config, held_out=5)
    with pytest.raises(DataError, match=r"concepts: got 2 held out .* expected at least 5"):
        carry_out(few, tmp_path / "run")
    survey = survey_of(few)
    assert survey is not None
    assert survey.problems[0].where == "concepts"
    with pytest.raises(DataError, match=r"attributes \['size'\], of which no concept is, expected"):
        carry_out(replace(config, attributes=("size",)), tmp_path / "another")
    bare = tmp_path / "bare.jsonl"
    rows = [{name: value for name, value in row.items() if name != "values"} for row in world.rows()]
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="without values, and a judge, expected the values"):
        carry_out(replace(config, concepts=str(bare)), tmp_path / "other")


def test_a_steering_of_words_or_a_picture_from_the_folder_of_a_run(done, config, tmp_path):
    steering = concept_steering(str(done[0]), "red")
    assert steering.made_by["concept"] == "red"
    assert 0 <= steering.made_by["novelty"] <= 2
    half = concept_steering(str(done[0] / "artifacts/hypernetwork"), "red", 0.5, config.model)
    generator = load(config.model, device="cpu")
    with steering.on(generator, 0.5):
        one = generator.generate(["red cross"], seed=1)
    with half.on(generator):
        two = generator.generate(["red cross"], seed=1)
    assert np.abs(np.array(one[0]).astype(int) - np.array(two[0]).astype(int)).max() <= 1
    one[0].save(tmp_path / "seen.png")
    assert concept_steering(str(done[0]), tmp_path / "seen.png").made_by["concept"].startswith("the picture")
