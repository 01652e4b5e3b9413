"""Every dotted name of ours that a page or a docstring speaks of exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/trimtab/**/*.py")])
NAME = re.compile(r"(?<![\w./-])trimtab(?:\.[A-Za-z_]\w*)+")


def exists(name: str) -> bool:
    """Whether the longest part of a name that is a module has the rest as attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(thing, attribute) and attribute not in getattr(thing, "__dataclass_fields__", {}):
                return False
            thing = getattr(thing, attribute, None)
        return True
    return False


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_text_exist(path: Path) -> None:
    names = set(NAME.findall(path.read_text(encoding="utf-8")))
    assert sorted(name for name in names if not exists(name)) == []


def test_a_name_that_is_nowhere_is_seen() -> None:
    assert exists("trimtab.job.Result.page")
    assert not exists("trimtab.job.Result.pge")
    assert not exists("trimtab.jib")
