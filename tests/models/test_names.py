"""Names of models that are not there: what is near is named, and a slip is not taken for a name of the hub."""

from __future__ import annotations

import pytest

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.load import load, name_problems
from trimtab.models.sites import resolve


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model, a script that makes models, and data."""
    (tmp_path / "models" / "tiny-llama").mkdir(parents=True)
    (tmp_path / "models" / "tiny-llama" / "config.json").write_text("{}")
    (tmp_path / "tiny-llama").mkdir()
    (tmp_path / "tiny-llama" / "config.json").write_text("{}")
    (tmp_path / "models" / "tiny_lama.py").write_text("")
    (tmp_path / "models" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("./tiny-lama", "tiny-llama"),
        ("tiny-lama", "tiny-llama"),
        ("models/tiny-lama", "models/tiny-llama"),
        ("./models/tiny-lama", "models/tiny-llama"),
        ("./models/nothing-like-it", ""),
        ("models/empty", "the folder that has config.json"),
        ("~nosuchuser/x", ""),
        ("a\0b", ""),
        ("", ""),
    ],
)
def test_the_nearest_model_s_folder_is_named(name, hint, here):
    (problem,) = name_problems(name)
    assert problem.where == "model"
    assert problem.hint.replace(f"{here}/", "") == (hint or problem.hint)
    assert ".py" not in problem.hint


@pytest.mark.parametrize(
    "name", ["tiny-llama", "models/tiny-llama", "gpt2", "Qwen/Qwen3-0.6B", "lab:words", "tiny"]
)
def test_no_problem(name, here):
    assert list(name_problems(name)) == []


def test_load_names_it_too(here):
    with pytest.raises(
        ModelError, match=r"which does not exist, expected a model's folder or hub name; try \S*tiny-llama"
    ):
        load("./tiny-lama")
    with pytest.raises(ModelError, match="try models/tiny-llama"):
        load("models/tiny-lama")


def test_an_alias_is_among_what_is_near():
    with pytest.raises(ModelError, match="try 'attention_out'"):
        resolve(tiny_models.build("llama"), "attn_out")
    with pytest.raises(ModelError, match="'mlp_out'"):
        resolve(tiny_models.build("gpt2"), "mlp_output")
