"""The job of DiscriTune: captions before and after on files, killed anywhere, judged and written as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import small_speakers as small
from trimtab.errors import ConfigError, ConfigProblems, DataError
from trimtab.job import Elsewhere, carry_out
from trimtab.numerics.bootstrap import wilson
from trimtab.refer.captions import evaluation
from trimtab.refer.captions.evaluation import Judge, TestSet
from trimtab.refer.captions.job import DiscriTuneConfig, sets_of
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.result import DiscriTuneResult
from trimtab.refer.choices import CHOICES, thumbnail

HEARS = {
    "ear": {},
    "other": {"deaf_to": ("disc",), "name": "other"},
    "deaf": {"deaf_to": small.WORDS[:4], "name": "deaf"},
}


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the three models of a config, in folders that look like models."""
    at = "trimtab.refer.captions.job"
    monkeypatch.setattr(f"{at}.captioner", lambda source, prompt, device: small.Speaker())
    loads = lambda source, **how: small.listener(**HEARS[Path(source).name])  # noqa: E731
    monkeypatch.setattr(Listener, "from_pretrained", loads)
    monkeypatch.setattr(
        f"{at}.write",
        lambda model, target, card: (target.mkdir(exist_ok=True), (target / "README.md").write_text(card)),
    )


@pytest.fixture
def config(tmp_path: Path, models: None) -> DiscriTuneConfig:
    for name in ("speaker", *HEARS):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    shown = small.pictures()
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        for name in shown.names:
            shown[name].save(tmp_path / folder / f"{name}.png")
        scenes = [
            {"objects": [dict(zip(("colour", "shape"), name.split("-"), strict=True))]}
            for name in shown.names
        ]
        rows = {"file_name": [f"{n}.png" for n in shown.names], "scene": list(map(json.dumps, scenes))}
        rows["family"] = [name.split("-")[0] for name in shown.names]
        pd.DataFrame(rows).to_csv(tmp_path / folder / "metadata.csv", index=False)
    sets = [
        [
            name,
            *(other for other in shown.names if other.split("-")[0] == name.split("-")[0] and other != name),
        ]
        for name in shown.names
    ]
    hard = pd.DataFrame(
        {"item": shown.names, "candidates": list(map(json.dumps, sets)), "target": shown.names}
    )
    hard.to_csv(tmp_path / "hard.csv", index=False)
    said = small.full_captions()
    pd.DataFrame({"item": list(said), "caption": list(said.values())}).to_csv(
        tmp_path / "people.csv", index=False
    )
    places = {name: str(tmp_path / name) for name in ("train", "test", "ear", "other", "speaker")}
    return DiscriTuneConfig(
        captioner=places["speaker"],
        listener=places["ear"],
        independent=places["other"],
        pictures=places["train"],
        test=places["test"],
        candidates=str(tmp_path / "hard.csv"),
        references=str(tmp_path / "people.csv"),
        n_negatives=7,
        batch_size=8,
        lr=0.1,
        steps=30,
        evaluate_every=10,
        checkpoint_every=10,
        max_new_tokens=3,
        n_random=8,
        watched=8,
    )


def test_a_run_from_files_to_a_page(config: DiscriTuneConfig, tmp_path: Path) -> None:
    result = carry_out(config, tmp_path / "run")
    assert isinstance(result, DiscriTuneResult)
    kinds = result.retrieval[["listener", "candidates", "size", "n"]].to_numpy().tolist()
    assert kinds == [
        [who, kind, size, 16]
        for who in ("listener", "independent")
        for kind, size in (("random", 8), ("hard", 4))
    ]
    assert (result.retrieval["change"] > 0.1).all()
    assert result.p_at_1["after"]["value"] > result.p_at_1["before"]["value"] + 0.2
    values = json.loads(result.to_json())
    assert list(values)[:2] == ["p_at_1", "p_at_1_hard"]
    assert set(values["p_at_1"]) == {"before", "after", "independent_before", "independent_after"}
    assert all(set(one) == {"value", "low", "high", "n"} for one in values["p_at_1"].values())
    cider = result.scores.set_index("score").loc["CIDEr"]
    assert cider["after"] > cider["before"]
    truth = result.truth.set_index("captions")
    assert truth.loc["people", ["hallucinated", "omitted"]].tolist() == [0, 0]
    assert truth.loc["after", "omitted"] < truth.loc["before", "omitted"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 12 * 4  # a target and three distractors each
    for row in result.captions.head(12).itertuples():
        before, after = row.before or "–", row.after or "–"
        assert f"before: {before} · after: {after} · reference: {row.reference}<" in page
    changed = (result.captions["before"] != result.captions["after"]).sum()
    signatures = page.partition("Signatures of the scores</h3>")[2]
    assert all(f">{one}<" in signatures for one in result.scores["signature"])
    assert f">{changed} of 16 captions changed." in page
    assert page.index("● the listener of the training, ○ the independent listener") < page.index(
        ">target</text>"
    )
    assert page.count(">hard, independent</text>") == 2
    assert DiscriTuneResult.load(tmp_path / "run").to_json() == result.to_json()
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"| listener | random 8 | {result.retrieval['before'][0]:.3f} |" in card
    assert "`from_pretrained` of the class that `config.json` names reads it" in card
    assert "P@1" in repr(result)


@pytest.mark.parametrize("hard", [True, False])
def test_choices_are_those_that_p_at_1_counts(config: DiscriTuneConfig, hard: bool) -> None:
    _, test = sets_of(config if hard else replace(config, candidates=""))
    judges = [
        Judge.of(role, small.listener(**HEARS[name]), test)
        for role, name in (("listener", "ear"), ("independent", "other"))
    ]
    before = {name: name.split("-")[0] for name in test.names}
    after = small.full_captions()
    sets, choices = evaluation.choices(test, judges, before, after, 16)
    assert (choices.groupby(["item", "speaker", "listener"])["answers"].sum().round(12) == 1).all()
    found = (
        choices[choices["candidate"] == choices["item"]].groupby(["listener", "speaker"])["answers"].sum()
        / 16
    )
    rows = evaluation.retrieval(test, judges, before, after).set_index(["candidates", "listener"])
    for role in ("listener", "independent"):
        for when in ("before", "after"):
            expected = rows.loc[("hard" if hard else "random", role), when]
            assert found.get((role, when), 0.0) == pytest.approx(expected, abs=1e-12)
    assert found["listener", "before"] < 0.5 < found["listener", "after"]
    assert [len(names) for names in sets["candidates"]] == [4 if hard else 8] * 16
    by_item = sets.set_index("item")["candidates"]
    assert all(row.candidate in by_item[row.item] for row in choices.itertuples())


def test_a_page_of_photographs_stays_small(config: DiscriTuneConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    result = carry_out(replace(config, steps=2), tmp_path / "run")
    noise = [Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)) for _ in range(120)]
    names = [f"{item}-{place}" for item in range(12) for place in range(10)]
    sets = pd.DataFrame(
        {"item": np.repeat(result.captions["item"].head(12), 10), "size": 100, "candidate": names}
    )
    shown = dict(zip(names, map(thumbnail, noise), strict=True))
    page = DiscriTuneResult.page([replace(result, sets=sets, shown=shown)])
    assert page.count("data:image/jpeg;base64,") == 120
    assert len(page.encode()) < 1.5 * 2**20
    assert "hard set, 10 of 100 drawn" in page


def test_a_run_that_kept_no_choices_shows_its_pictures(config: DiscriTuneConfig, tmp_path: Path) -> None:
    result = carry_out(replace(config, steps=2), tmp_path / "run")
    bare = replace(result, sets=pd.DataFrame(), choices=pd.DataFrame(columns=list(CHOICES)))
    page = DiscriTuneResult.page([bare])
    assert page.count("data:image/png;base64,") == len(result.shown)
    assert "Marks tell" not in page


def test_killed_anywhere_it_ends_in_the_same_result(
    config: DiscriTuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, references="", independent="", candidates="", steps=20)
    whole = carry_out(config, tmp_path / "whole")

    def killed_at(step: int) -> Any:
        def progress(done: int, total: int) -> None:
            if done == step:
                raise RuntimeError("killed")

        return progress

    def killed_after(*_: object) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        carry_out(config, tmp_path / "training", killed_at(17))
    assert _facts(carry_out(config, tmp_path / "training")) == _facts(whole)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "truthfulness", killed_after)
        with pytest.raises(RuntimeError, match="killed"):
            carry_out(config, tmp_path / "evaluation")
    assert _facts(carry_out(config, tmp_path / "evaluation")) == _facts(whole)


def _facts(result: Any) -> str:
    return str(replace(result, seconds=0.0).to_json()) + result.history.to_json()


def test_without_tables_and_test_pictures_a_tenth_is_held_out(
    config: DiscriTuneConfig, tmp_path: Path
) -> None:
    bare = replace(config, test="", candidates="", references="", independent="", batch_size=7, steps=2)
    train, test = sets_of(bare)
    assert len(train) == 14
    assert len(test.names) == 2
    assert not set(train.names) & set(test.names)
    result = carry_out(bare, tmp_path / "run")
    assert result.p_at_1_hard["after"] == {"value": None, "low": None, "high": None, "n": 0}
    assert result.p_at_1["independent_after"]["value"] is None
    assert len(result.scores) == 0
    assert "report" not in result.summary()


def test_intervals_by_cluster_are_those_of_the_bootstrap_over_families(config: DiscriTuneConfig) -> None:
    _, test = sets_of(replace(config, cluster="family"))
    assert test.clusters == tuple(name.split("-")[0] for name in test.names)
    values = np.arange(16.0)
    assert test.interval(values).n == 4
    assert test.interval(np.ones(16)) == wilson(4, 4)
    assert replace(test, clusters=()).interval(np.zeros(16)) == wilson(0, 16)
    assert evaluation.share(np.zeros(5), np.ones(5), None, 0) == wilson(0, 5)
    assert np.isnan(evaluation.share(np.zeros(5), np.zeros(5), None, 0).value)
    assert test.change(values, values + 1).value == 1
    assert test.change(values, values + 1).low == 1


def test_problems_of_a_config_at_once(config: DiscriTuneConfig, tmp_path: Path) -> None:
    wrong = replace(
        config,
        pictures=str(tmp_path / "trian"),
        candidates=str(tmp_path / "hard.tsv"),
        independent=config.listener,
        references="",
        human=0.5,
        samples=1,
        num_beams=0,
    )
    text = "\n".join(map(str, wrong.problems()))
    for part in (
        "pictures: got",
        "candidates: got",
        "independent: got the same as listener, expected one that gives no rewards",
        "references: got none, with cross_entropy=0 and human=0.5",
        "samples: got 1",
        "num_beams: got 0",
    ):
        assert part in text, part
    assert not list(config.problems())


def test_data_that_does_not_do_is_refused_before_a_model_is_loaded(
    config: DiscriTuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.refer.captions.job.captioner", lambda *_, **__: pytest.fail("loaded"))
    table = pd.read_csv(tmp_path / "hard.csv")
    table.loc[0, "target"] = "blue-bar"
    table.to_csv(tmp_path / "no-target.csv", index=False)
    pd.DataFrame({"item": ["nobody"], "caption": ["red"]}).to_csv(tmp_path / "strange.csv", index=False)
    for change, message in (
        ({"candidates": str(tmp_path / "no-target.csv")}, "target 'blue-bar' of item 'red-disc'"),
        (
            {"references": str(tmp_path / "strange.csv")},
            "references: got no reference of any of 16 test pictures",
        ),
        ({"attributes": ("colour",)}, "test: got no column 'colour' in the metadata"),
    ):
        with pytest.raises(DataError, match=message):
            carry_out(replace(config, **change), tmp_path / "run")
    with pytest.raises(
        ConfigProblems, match=r"cluster: got 'famly', expected a column of the metadata.*; try 'family'"
    ):
        carry_out(replace(config, cluster="famly"), tmp_path / "run")
    with pytest.raises(ConfigError, match="got several processes, expected one process"):
        config.run(Elsewhere(tmp_path), lambda *_: None)


def test_a_survey_decodes_every_picture(config: DiscriTuneConfig, tmp_path: Path) -> None:
    survey = config.survey()
    assert survey.problems == ()
    assert survey.tables["pictures"].to_numpy().tolist() == [["pictures", 16, 0], ["test", 16, 16]]
    (tmp_path / "train" / "red-box.png").write_bytes(b"")
    (tmp_path / "test" / "blue-bar.png").write_bytes((tmp_path / "test" / "blue-bar.png").read_bytes()[:40])
    found = [str(problem) for problem in config.survey().problems]
    assert len(found) == 2
    assert found[0].startswith("pictures, picture 'red-box'")
    assert found[1].startswith("test, picture 'blue-bar'")
    with pytest.raises(DataError, match="blue-bar"):
        carry_out(config, tmp_path / "run")


def test_a_survey_counts_as_the_run_does(config: DiscriTuneConfig, tmp_path: Path) -> None:
    asked = replace(config, n_negatives=99)
    (problem,) = asked.survey().problems
    assert str(problem) == "pictures: got 16 pictures, expected more than n_negatives=99; try n_negatives: 15"
    with pytest.raises(DataError, match=r"got 16 pictures, expected more than n_negatives=99"):
        carry_out(asked, tmp_path / "run")
    (problem,) = replace(config, batch_size=17).survey().problems
    assert str(problem).startswith("pictures: got 16 pictures, expected at least batch_size=17")


def test_signs_of_reward_hacking() -> None:
    """A listener that is deaf to colours gains nothing from captions that the other learns from."""
    shown = small.pictures()
    test = TestSet(shown, shown.names, n=8)
    before = dict.fromkeys(shown.names, "box")
    after = small.full_captions()
    judges = [
        evaluation.Judge.of(evaluation.FIRST, small.listener(), test),
        evaluation.Judge.of(evaluation.OTHER, small.listener(deaf_to=small.WORDS, name="deaf"), test),
    ]
    table = evaluation.retrieval(test, judges, before, after)
    words = evaluation.wording(test, before, dict.fromkeys(shown.names, "red red red red"))
    signs = evaluation.warning_signs(table, words, pd.DataFrame())
    assert signs[0] == "Captions repeat themselves: 0.67 of their word pairs, nan before."
    assert signs[1] == "Captions have 4.0 words, 1.0 before."
    assert signs[2].startswith(
        "On random sets the listener of the training gained, and for the independent one no gain"
    )
    fine = evaluation.wording(test, after, after)
    assert evaluation.warning_signs(table.iloc[:1], fine, pd.DataFrame()) == ()
