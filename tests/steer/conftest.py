from __future__ import annotations

from pathlib import Path

import pytest

from tiny_models import build, tokenizer

RUDE = [f"you {a}{b} fool!" for a in "abcdef" for b in "xyz"]
POLITE = [f"dear {a}{b}, please." for a in "abcdef" for b in "xyz"]


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model on disk."""
    folder = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(folder)
    tokenizer(pad_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, str]:
    """Files of source, target and neutral texts."""
    files = {"source": RUDE, "target": POLITE, "neutral": [f"some {c} words" for c in "abcdefgh"]}
    for name, lines in files.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    return {name: str(tmp_path / f"{name}.txt") for name in files}
