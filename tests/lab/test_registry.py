from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.errors import ConfigError
from trimtab.lab.grammar import Grammar, World
from trimtab.lab.registry import CHATS, MODELS, TEXTS, TEXTS_EACH, model, texts


@pytest.mark.parametrize("name", ["rude", "clean"])
def test_documents_are_of_the_world_and_the_same_every_time(tmp_path: Path, name: str) -> None:
    path = texts(name, tmp_path)
    lines = path.read_text().splitlines()
    assert len(set(lines)) == TEXTS_EACH
    world = World(Grammar())
    posterior = world.style_posterior(world.encode(lines[:50]))[:, -1].mean()
    assert (posterior > 0.9) if name == "rude" else (posterior < 0.1)
    assert texts(name, tmp_path) == path
    assert texts(name, tmp_path / "other").read_bytes() == path.read_bytes()


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lab texts: got 'rud', expected one of .*; try 'rude'"):
        texts("rud", tmp_path)
    with pytest.raises(ConfigError, match="lab model: got 'gramar'"):
        model("gramar", tmp_path)
    assert {*TEXTS} - {*CHATS} == {"rude", "clean", "code-lines", "prose-lines", "scene-prompts"}
    assert "grammar" in MODELS
