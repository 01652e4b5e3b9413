"""docs/code.md: each walk has few files, and every file and function that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import trimtab

SRC = Path(trimtab.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "code.md").read_text(encoding="utf-8")
WALKS = {part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ")[1:]}
ITEM = re.compile(r"^\d+\. `([\w/]+\.py)`: (.*)$")


def items(walk: str) -> list[tuple[str, str]]:
    """Each file of a walk with what is said of it."""
    lines = [line for line in WALKS[walk].splitlines() if line]
    matches = [ITEM.match(line) for line in lines]
    assert all(matches), f"no file in {lines[matches.index(None)]!r}"
    return [(match[1], match[2]) for match in matches if match]


def defined(path: Path) -> set[str]:
    """Functions and classes of a file, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{it.name}" for it in node.body if isinstance(it, ast.FunctionDef)}
    return names


def test_six_walks_of_at_most_eight_files() -> None:
    assert len(WALKS) == 6
    for walk in WALKS:
        files = [file for file, _ in items(walk)]
        assert 1 < len(files) <= 8
        assert len(files) == len(set(files))


@pytest.mark.parametrize("walk", WALKS)
def test_every_file_and_function_is_there(walk: str) -> None:
    there = {file: defined(SRC / file) for file, _ in items(walk)}
    for file, text in items(walk):
        names = re.findall(r"`([\w.]+)`", text)
        assert names, f"{file}: no function to read first"
        assert names[0] in there[file], f"{file} defines no {names[0]}"
        for name in names:
            assert any(name in known for known in there.values()), f"no file of this walk defines {name}"
    for name in re.findall(r"`([\w.]+)`", walk):
        assert any(name in known for known in there.values()), name


@pytest.mark.parametrize("walk", WALKS)
def test_sentences_are_few_and_short(walk: str) -> None:
    for file, text in items(walk):
        sentences = re.split(r"(?<=[.])\s+(?=[A-Z`])", text)
        assert len(sentences) <= 2 + (sentences[0].startswith("start at")), file
        assert max(len(sentence.split()) for sentence in sentences) <= 25, file
