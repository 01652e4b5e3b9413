"""Every example runs, and the README shows code that exists."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

import trimtab

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "run")])
    runpy.run_path(str(example), run_name="__main__")
    (page,) = (tmp_path / "run").rglob("report.html")
    assert page.stat().st_size > 10_000
    assert re.search("at (step|strength|the mix|distractors|AUC|a share)", capsys.readouterr().out)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_readme_uses_public_names_and_real_options(snippet: str) -> None:
    tree = ast.parse(snippet)
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "trimtab"
        for alias in node.names
    ]
    assert imported
    assert set(imported) <= set(trimtab.__all__)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in imported:
            known = getattr(trimtab, call.func.id)
            names = (
                known.__init__.__code__.co_varnames if isinstance(known, type) else known.__code__.co_varnames
            )
            assert {keyword.arg for keyword in call.keywords} <= set(names)


def test_the_readme_names_only_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link
