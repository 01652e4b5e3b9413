"""One job and one result: a seventh system gets every verb, a page, a comparison and JSON from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from coin import COIN, CoinJob, CoinResult
from trimtab import systems
from trimtab.cli.main import main
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import Result, Survey, carry_out, cost_text, noting, survey_of
from trimtab.report.page import Page, Section, Table, Text, settings_section

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(systems.SYSTEMS, "coin", COIN)
    monkeypatch.setenv("TRIMTAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    Path("coin.yaml").write_text("system: coin\nfit: {steps: 6}\n")


@pytest.mark.usefixtures("coin")
def test_a_seventh_system_is_one_job_one_result_and_one_line(capsys: Capture) -> None:
    assert main(["ls"]) == 0
    assert "how often a coin falls on heads" in capsys.readouterr().out
    assert main(["check", "coin.yaml"]) == 0
    assert capsys.readouterr().out == "steps  6\n"
    assert main(["check", "coin.yaml", "--targets", "[x]"]) == 2
    assert "targets" in capsys.readouterr().out
    assert main(["run", "coin.yaml", "--behaves", "interrupted", "--out", "one"]) == 130
    for code in (130, 0):
        assert main(["resume", "one"]) == code
    assert main(["run", "coin.yaml", "--seed", "1", "--out", "two"]) == 0
    capsys.readouterr()
    assert main(["run", "coin.yaml", "--seed", "1", "--out", "two", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["throws"] == 6
    assert told["heads"] == CoinResult.load("two").heads.to_dict("records")
    assert main(["report", "one", "two", "-o", "both.html"]) == 0
    page = Path("both.html").read_text()
    assert all(part in page for part in ("2 runs side by side.", "Compared", "1. coin 0", "2. coin 1"))
    assert (Path("one/report.html")).read_text().count("were heads") == 1


def test_a_result_comes_back_from_its_folder(tmp_path: Path) -> None:
    result = carry_out(CoinJob("coin", seed=3), tmp_path)
    loaded = CoinResult.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.to_frame(), result.to_frame())
    assert (loaded.label, loaded.config, loaded.throws) == ("coin 3", result.config, 4)
    assert repr(loaded) == "CoinResult('coin 3': steps 4 seed 3)"
    assert "<table" in loaded._repr_html_()
    (tmp_path / "artifacts/result.json").write_text("{}")
    with pytest.raises(CheckpointError):
        CoinResult.load(tmp_path)


def test_a_job_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match="targets: got 'x'"):
        carry_out(CoinJob("coin", targets=("x",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_status_and_folder_of_a_run_that_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        carry_out(CoinJob("coin", behaves="broken"), tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    carry_out(CoinJob("coin", seed=5), tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "done"
    with pytest.raises(CheckpointError, match=r"seed \(was 5, now 6\)"):
        carry_out(CoinJob("coin", seed=6), tmp_path)


def test_other_processes_of_a_launch_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    result = carry_out(CoinJob("coin"), tmp_path / "run")
    assert result.summary() == "steps 4 seed 0"
    assert not (tmp_path / "run").exists()


def test_a_part_that_failed_is_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoinResult, "complete", property(lambda self: False))
    carry_out(CoinJob("coin"), tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def test_costs_have_units() -> None:
    cost = {
        "training_steps": 40,
        "training_multiple": 1.0,
        "memory_bytes": 1536.0,
        "disk_bytes": float("nan"),
    }
    assert cost_text(cost).splitlines() == [
        "training steps     40",
        "training multiple  1.00",
        "memory             1.5 KiB",
        "disk               unknown: the model is not on this machine, or is quantised already",
    ]


@dataclass(frozen=True, repr=False)
class Score(Result):
    value: int = 0

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"points": [self.value]})

    def summary(self) -> str:
        return f"It scored {self.value}."

    def sections(self) -> Iterator[Section]:
        yield Section("Score", [Text(f"{self.value} points")])


class Ranked(Score):
    @classmethod
    def compared(cls, results: Sequence[Score], labels: Sequence[str]) -> Iterator[Section]:
        return iter(())

    @classmethod
    def summary_of_several(cls, results: Sequence[Score]) -> str:
        return f"{len(results)} scores."


ONE, OTHER = Score(1, label="first"), Score(2, label="<i>")


def test_one_result_is_its_chapter_and_nothing_is_compared() -> None:
    assert (
        Score.page([ONE], "A") == Page("A", "It scored 1.", [Section("Score", [Text("1 points")])]).render()
    )
    assert Score.page([ONE]) == Score.page([ONE], "first")


def test_several_are_compared_and_folded_under_numbers() -> None:
    text = Score.page([ONE, OTHER], "A")
    table = Table(pd.DataFrame({"run": ["1. first", "2. <i>"], "points": [1, 2]}))
    chapters = [
        Section(label, [Text(score.summary()), *score.sections()], collapsed=True)
        for label, score in (("1. first", ONE), ("2. <i>", OTHER))
    ]
    assert text == Page("A", "2 runs side by side.", [Section("Compared", [table]), *chapters]).render()
    assert "<i>" not in text


def test_a_system_may_compare_in_its_own_way() -> None:
    text = Ranked.page([ONE, replace(ONE, value=3)], "A")
    assert "Compared" not in text
    assert "2 scores." in text


def test_a_page_about_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="got no result, expected at least one finished run"):
        Score.page([])


def test_settings_are_rows_in_their_order_even_under_one_name() -> None:
    section = settings_section([("model", "a"), ("model", None), ("sites", [1, 2])])
    assert section.collapsed
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert table.frame.to_numpy().tolist() == [["model", "a"], ["model", "None"], ["sites", "[1, 2]"]]


def test_only_a_job_is_carried_out(tmp_path: Path) -> None:
    for other in (3, CoinJob, "my.yaml"):
        with pytest.raises(ConfigProblems, match=r"job: got .*, expected a job; try a config of a system"):
            carry_out(other, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigProblems, match=r"model: got 'lab:text-small', .* try trimtab.systems.resolve\(job\)"
    ):
        carry_out(CoinJob("coin", model="lab:text-small"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_survey_as_text_and_as_json() -> None:
    table = pd.DataFrame({"domain": ["web"], "cut_share": [0.25], "judged_on": [float("nan")]})
    survey = Survey({"data": table, "none": pd.DataFrame()}, ("A note.",), {"web": "a [[b]]"})
    assert survey.to_text() == (
        "data\n          cut  judged\ndomain  share      on\nweb      0.25       -\n\nweb: a [[b]]\n\nA note."
    )
    assert survey.to_plain()["tables"]["data"][0]["domain"] == "web"
    assert Survey().to_text() == ""
    assert survey_of(CoinJob("coin")) is None


def test_mistakes_of_several_keys_are_noted() -> None:
    problems: list[Problem] = []
    for key in ("a", "b"):
        with noting(problems, key):
            raise DataError(f"{key}.csv:3: got 2 cells, expected 3; try quotes")
    assert [str(one) for one in problems] == [
        f"{key}, {key}.csv:3: got 2 cells, expected 3; try quotes" for key in ("a", "b")
    ]
    with pytest.raises(KeyError), noting(problems, "c"):
        raise KeyError
