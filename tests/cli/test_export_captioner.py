"""`trimtab export` of a run of DiscriTune: the tuned captioner, copied whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.cli.main import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned" / "model").mkdir(parents=True)
    (tmp_path / "tuned" / "config.yaml").write_text("system: discritune\n")
    return tmp_path / "tuned"


def test_a_captioner_is_copied_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model" / "config.json").write_text("{}")
    (run / "model" / "README.md").write_text("a card")
    assert main(["export", "tuned", "--out", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "captioner"
    assert sorted(path.name for path in (run.parent / "mine").iterdir()) == ["README.md", "config.json"]
    assert main(["export", "tuned", "--out", "mine"]) == 2
    assert "--out: got 'mine', where there is something, expected a new folder" in capsys.readouterr().err
    assert main(["export", "tuned", "--out", "other", "--merge"]) == 2
    assert "--merge: got a run of discritune, which leaves a whole model" in capsys.readouterr().err


def test_a_run_that_has_not_finished_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tuned", "--out", "mine"]) == 2
    assert (
        "got tuned, which has not finished, expected a finished run; try trimtab resume tuned"
        in capsys.readouterr().err
    )
