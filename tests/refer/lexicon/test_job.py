"""Lexicons from a config to a folder and a page, and what stops a job before it starts."""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trimtab import Lexicon, NamingCounts
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out
from trimtab.lab.naming import chips, colour_names
from trimtab.refer.lexicon.job import LexiconConfig
from trimtab.refer.lexicon.result import LexiconResult, lab_to_hex, mean_colour
from trimtab.report.figures import to_svg
from trimtab.report.formats import number

NAMES = colour_names(games=20, rounds=30).assign(language=lambda frame: frame["game"] % 2)


@pytest.fixture
def config(tmp_path: Path) -> LexiconConfig:
    kept = NAMES["referent"] % 3 == 0
    NAMES[kept].to_csv(tmp_path / "names.csv", index=False)
    chips().to_csv(tmp_path / "chips.csv")
    return LexiconConfig(
        counts=str(tmp_path / "names.csv"),
        features=str(tmp_path / "chips.csv"),
        smoothings=(0.0, 1.0),
        lexicon="language",
        context="context",
        easy="far",
        hard="close",
        cluster="game",
        heads="colours-en",
        modifiers="modifiers-en",
        trials=100,
        n_boot=50,
    )


def test_a_job_is_the_library_and_its_result_reads_back(config: LexiconConfig, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    outcome = carry_out(config, tmp_path / "run", lambda done, total: told.append((done, total)))
    assert told == [(k, config.cost()["steps"]) for k in range(1, config.cost()["steps"] + 1)]
    loaded = LexiconResult.load(tmp_path / "run")
    for name in ("words", "systems", "frontier", "simulation", "contexts", "accounting", "places", "plane"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(outcome, name), check_dtype=False)
    bare = NAMES[NAMES["referent"] % 3 == 0].assign(
        name=lambda f: f["name"].str.replace("(dark|light) ", "", regex=True)
    )
    lexicon = Lexicon.fit(NamingCounts.from_frame(bare), chips())
    pd.testing.assert_frame_equal(loaded.words, lexicon.informativeness(), check_dtype=False)
    assert loaded.systems["lexicon"].astype(str).tolist() == ["all", "0", "1"]
    assert loaded.systems["complexity_bits"][0] == lexicon.system().complexity_bits
    assert (loaded.systems["inefficiency_bits"].dropna() > -1e-3).all()
    for _, own in loaded.accounting.groupby("step"):
        assert own["n_messages"].sum() == len(bare)
    assert set(loaded.contexts["treatment"]) == {"stripped", "kept", "bare"}
    assert set(loaded.simulation["lexicon"]) == {"as observed", "hard", "soft", "nested"}
    assert (tmp_path / "run/report.html").read_text().count("<svg") == 8 + 2
    said = lexicon.naming[:, lexicon.names.index("blue")]
    assert loaded.plane.set_index("name")["colour"]["blue"] == mean_colour(lab_to_hex(lexicon.features), said)
    svg = to_svg(outcome.figure())
    for row in loaded.plane.to_dict("records"):
        told = f"complexity I(M;W), bits {number(row['complexity_bits'])}; accuracy I(W;U), bits "
        assert f"<title>{row['name']}: {told}{number(row['accuracy_bits'])}</title>" in svg
        assert f"fill: {row['colour']}" in svg
    assert json.loads(outcome.to_json())["systems"][0]["lexicon"] == "all"
    assert "stripped" in outcome.to_text()
    text = LexiconResult.page([replace(loaded, label="<b>"), loaded], title="<i>")
    assert "<b>" not in text
    assert "1. &lt;b&gt;" in text
    wide = loaded.contexts.assign(low=-1.0, high=1.0)
    assert replace(loaded, contexts=wide).summary().count("of 2 smoothings, not distinguishable from 0.") == 3
    one = loaded.contexts[loaded.contexts["smoothing"] == 0]
    alone = replace(loaded, contexts=one.assign(difference=0.5, low=0.25, high=0.75)).summary()
    assert alone.count("+0.50 (+0.25 to +0.75) at smoothing 0, distinguishable from 0.") == 3
    unsure = replace(loaded, contexts=one.assign(difference=0.5, low=-0.25, high=0.75)).summary()
    assert unsure.count("at smoothing 0, not distinguishable from 0.") == 3
    endless = replace(loaded, contexts=loaded.contexts.assign(low=math.nan, high=math.nan)).summary()
    assert endless.count("of 2 smoothings, 2 without an interval.") == 3
    assert "smoothings, not distinguishable" not in endless
    many = pd.concat([loaded.plane] * 5, ignore_index=True).assign(name=lambda frame: frame.index.astype(str))
    text = LexiconResult.page([replace(loaded, plane=many)])
    assert f"A disc is one of the 40 most frequent of {len(many)} words" in text
    with pytest.raises(DataError, match="no result"):
        LexiconResult.page([])


def test_features_that_are_no_colours_and_no_contexts_no_frontier(
    config: LexiconConfig, tmp_path: Path
) -> None:
    chips()[["L", "a"]].rename(columns={"L": "x", "a": "y"}).to_csv(tmp_path / "plain.csv")
    small = replace(
        config,
        features=str(tmp_path / "plain.csv"),
        context="",
        heads="",
        modifiers="",
        frontier=False,
        lexicon="",
    )
    result = carry_out(small, tmp_path / "small")
    assert not len(result.frontier)
    assert not len(result.contexts)
    assert (result.places["colour"] == "").all()
    assert (result.plane["colour"] == "").all()
    assert "var(--line" in to_svg(result.figure())
    assert result.systems["inefficiency_bits"].isna().all()
    assert result.figure().axes[0].get_xlabel().startswith("complexity")
    assert len(LexiconResult.load(tmp_path / "small").frontier) == 0


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"counts": "no/such.csv"}, "counts"),
        ({"features": "no/such.csv"}, "features"),
        ({"heads": "nowhere.yaml"}, "heads"),
        ({"modifiers": ""}, "modifiers"),
        ({"hard": "far"}, "easy, hard"),
        ({"smoothings": ()}, "smoothings"),
        ({"smoothings": (-1.0,)}, "smoothings"),
        ({"smoothings": (0.0, math.nan)}, "smoothings"),
        ({"smoothings": (math.inf,)}, "smoothings"),
        ({"flexibilities": (math.nan,)}, "flexibilities"),
        ({"trials": 10**12}, "trials"),
        ({"seed": -1}, "seed"),
        ({"lexicon": "langage"}, "lexicon"),
        ({"context": "contxt"}, "context"),
        ({"cluster": "gam"}, "cluster"),
        ({"easy": 0, "hard": "0"}, "easy, hard"),
        ({"treatments": ()}, "treatments"),
        ({"flexibilities": (1.5,)}, "flexibilities"),
        ({"distractors": 0}, "distractors"),
        ({"trials": 0}, "trials"),
        ({"n_boot": 0}, "n_boot"),
    ],
)
def test_each_mistake_is_named_before_anything_starts(
    config: LexiconConfig, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    wrong = replace(config, **changes)
    assert [problem.where for problem in wrong.problems()] == [where]
    with pytest.raises(ConfigProblems, match=where):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failed_run_says_so(config: LexiconConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no messages in context 'nearby'"):
        carry_out(replace(config, hard="nearby", frontier=False), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    with pytest.raises(CheckpointError, match="no finished result"):
        LexiconResult.load(tmp_path / "run")


def test_tables_that_cannot_be_used_are_told_by_the_check(config: LexiconConfig, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("referent\n1\n")
    (tmp_path / "near.csv").write_text("referent,name,Counts,context,game,language\n1,a,1,far,1,1\n")
    wrong = replace(
        config, counts=str(tmp_path / "near.csv"), features=str(tmp_path / "bare.csv"), smoothings=(math.nan,)
    )
    found = {problem.where: problem.got for problem in wrong.problems()}
    assert list(found) == ["counts", "features", "smoothings"]
    assert "no column 'count'" in found["counts"]
    assert "no column of features" in found["features"]
    (tmp_path / "latin.csv").write_bytes("referent,naïve\n".encode("latin-1"))
    (problem,) = replace(config, features=str(tmp_path / "latin.csv")).problems()
    assert "not UTF-8" in problem.got


def test_trials_and_contexts_that_are_numbers_come_through(config: LexiconConfig, tmp_path: Path) -> None:
    trials = NAMES[NAMES["referent"] % 6 == 0].drop(columns="count")
    trials.assign(context=(trials["context"] == "close").astype(int)).to_csv(tmp_path / "t.csv", index=False)
    own = replace(
        config,
        counts=str(tmp_path / "t.csv"),
        easy=0,
        hard="1",
        frontier=False,
        lexicon="",
        smoothings=(0.0,),
        treatments=("stripped",),
    )
    result = carry_out(own, tmp_path / "trials")
    assert result.config["counts of rows"].startswith("1 each")
    assert result.aside["context"].tolist() == ["0", "1", "hard less easy"]
    assert result.accounting.query("step == 'names, stripped'")["n_messages"].sum() == len(trials)
    assert "A share of 0 or 1 has Wilson" in LexiconResult.page([result])
    # Results of before there was such a table read back.
    saved = json.loads((tmp_path / "trials/artifacts/result.json").read_text())
    del saved["aside"]
    (tmp_path / "trials/artifacts/result.json").write_text(json.dumps(saved))
    old = LexiconResult.load(tmp_path / "trials")
    assert not len(old.aside)
    assert "set aside are" not in LexiconResult.page([old])


def test_discs_have_the_colour_of_their_word() -> None:
    """Chips that are called purple look purple: the hue of their mean colour on a screen is that of the word."""
    hues = {
        "red": 0,
        "orange": 30,
        "yellow": 60,
        "green": 120,
        "turquoise": 180,
        "blue": 210,
        "purple": 270,
        "pink": 330,
    }
    colours = pd.Series(lab_to_hex(chips().to_numpy()), index=chips().index)
    for word, hue in hues.items():
        shown = NAMES[NAMES["name"] == word]["referent"].map(colours)
        mean = [sum(int(one[k : k + 2], 16) for one in shown) / len(shown) / 255 for k in (1, 3, 5)]
        away = (360 * colorsys.rgb_to_hsv(*mean)[0] - hue + 180) % 360 - 180
        assert abs(away) < 25, (word, away)


def test_progress_ends_where_the_cost_says_also_without_word_lists(
    config: LexiconConfig, tmp_path: Path
) -> None:
    bare = replace(config, heads="", modifiers="", frontier=False)
    steps: list[tuple[int, int]] = []
    carry_out(bare, tmp_path / "run", lambda done, total: steps.append((done, total)))
    assert steps[-1] == (bare.cost()["steps"], bare.cost()["steps"]) == (5, 5)


def test_a_survey_counts_messages_of_each_lexicon_and_context(config: LexiconConfig, tmp_path: Path) -> None:
    survey = config.survey()
    counts = survey.tables["counts"].set_index("rows of")
    assert list(counts.index) == ["all", "language 0", "language 1", "context close", "context far"]
    assert counts.loc["all", "messages"] == NamingCounts.read(config.counts).total
    assert survey.tables["features"].to_dict("records") == [{"referents": len(chips()), "columns": 3}]
    assert survey.problems == ()
    (tmp_path / "few.csv").write_text("referent,L\n1,2\n1,3\n")
    wrong = replace(config, easy="fra", features=str(tmp_path / "few.csv")).survey()
    assert [(problem.where, problem.hint) for problem in wrong.problems] == [
        ("easy", "'far'"),
        ("features", ""),
    ]
    assert "twice in the features" in wrong.problems[1].got
