from __future__ import annotations

import hashlib
import json
import pickle
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tiny_models import build, inputs
from trimtab import Steering, __version__
from trimtab.errors import ModelError, ShapeError
from trimtab.models import hub
from trimtab.models.sites import resolve
from trimtab.steer import files
from trimtab.steer.maps import Base

CONFIG, WEIGHTS = "steering_config.json", "steering_model.safetensors"
SITE = "model.layers.0:out"


@pytest.fixture
def steering():
    module = build("llama")
    draw = torch.Generator().manual_seed(0)
    maps = {
        site.name: (torch.randn(16, generator=draw), torch.randn(16, generator=draw))
        for site in resolve(module, "residual")
    }
    made_by = {"estimator": "LinEAS", "steps": 1000, "sites": ["residual"], "gamma": 1e-3}
    return Steering(maps, Base.of(module, resolve(module, "residual")), made_by)


@pytest.fixture
def folder(steering, tmp_path):
    return steering.save_pretrained(tmp_path / "calm")


def rewrite(folder, **changed):
    config = json.loads((folder / CONFIG).read_text()) | changed
    (folder / CONFIG).write_text(json.dumps(config))


def put(folder, tensors):
    """Other tensors, with a checksum that fits."""
    save_file(tensors, folder / WEIGHTS)
    rewrite(folder, sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def test_what_is_read_is_what_was_saved(steering, folder):
    again = Steering.from_pretrained(folder)
    assert list(again.maps) == list(steering.maps)
    for site, pair in steering.maps.items():
        assert all(torch.equal(*both) for both in zip(again.maps[site], pair, strict=True))
    assert again.base == steering.base
    assert again.made_by == steering.made_by
    module = build("llama")
    with torch.no_grad():
        with steering.on(module, 0.5):
            expected = module(**inputs("llama")).logits
        with again.on(module, 0.5):
            assert torch.equal(module(**inputs("llama")).logits, expected)
    with (
        pytest.raises(ModelError, match="are not those of LlamaForCausalLM"),
        again.on(build("llama", seed=1)),
    ):
        pass


def test_double_precision_and_maps_that_share_memory_survive(tmp_path):
    line = torch.arange(8, dtype=torch.float64) / 3
    steering = Steering({"a:out": (line[:4], line[4:]), "b:in": (line[2:6], line[2:6])}, Base("x", {}))
    again = Steering.from_pretrained(steering.save_pretrained(tmp_path / "x"))
    for site, pair in steering.maps.items():
        assert all(torch.equal(*both) for both in zip(again.maps[site], pair, strict=True))


def test_the_configuration_says_what_it_belongs_to(steering, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    config = json.loads((folder / CONFIG).read_text())
    assert config == {
        "schema": 1,
        "base_model_name_or_path": "LlamaForCausalLM",
        "fingerprints": dict(steering.base.fingerprints),
        "sites": {"model.layers.0:out": 16, "model.layers.1:out": 16},
        "made_by": dict(steering.made_by),
        "trimtab_version": __version__,
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }


def test_the_card_says_how_to_use_it(steering, tmp_path):
    named = Steering(
        steering.maps, Base("someone/tiny-llama", {}), {**steering.made_by, "losses": [0.1] * 99}
    )
    text = (named.save_pretrained(tmp_path / "card") / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "someone/tiny-llama"
    assert head["library_name"] == "trimtab"
    for part in (
        "Steering.from_pretrained",
        SITE,
        "Made by: LinEAS",
        f"trimtab {__version__}",
        '"steps": 1000',
    ):
        assert part in text


def test_a_card_names_no_base_that_the_hub_would_not_know(folder):
    assert "base_model:" not in (folder / "README.md").read_text()


def test_an_old_steering_is_replaced_but_nothing_else(steering, folder):
    half = steering * 0.5
    half.save_pretrained(folder)
    assert torch.equal(Steering.from_pretrained(folder).maps[SITE][1], half.maps[SITE][1])
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"'thesis.tex' in it, which would be lost, expected a new folder"):
        steering.save_pretrained(folder)
    assert (folder / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ModelError, match="got the file"):
        steering.save_pretrained(folder / "README.md")


def test_settings_that_json_cannot_hold_are_refused_and_nothing_is_left(steering, tmp_path):
    odd = Steering(steering.maps, steering.base, {"model": object()})
    with pytest.raises(ModelError, match="made_by: got object"):
        odd.save_pretrained(tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_run_names_the_steering_inside(steering, tmp_path):
    inside = steering.save_pretrained(tmp_path / "run/artifacts/steering")
    with pytest.raises(ModelError, match=r"without steering_config.json.*; try ") as raised:
        Steering.from_pretrained(tmp_path / "run")
    assert str(raised.value).endswith(repr(str(inside)))


# What is damaged


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_flipped_bit_is_noticed(folder, place):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[place] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=r"cut short or was changed after it was saved.*SHA-256"):
        Steering.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 7, 100])
def test_a_file_that_is_cut_short_is_noticed(folder, kept):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])
    with pytest.raises(ModelError, match=f"a file of {kept} bytes that is cut short"):
        Steering.from_pretrained(folder)


@pytest.mark.parametrize("name", ["steering_model.bin", "weights.pt", "x.pkl"])
def test_a_pickle_is_refused_and_never_opened(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=rf"got {name} in .*, a pickle, which can run any code"):
        Steering.from_pretrained(folder)


def test_a_pickle_by_the_right_name_with_the_right_checksum_is_refused(folder):
    content = pickle.dumps(Bomb())
    (folder / WEIGHTS).write_bytes(content)
    rewrite(folder, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match="expected safetensors"):
        Steering.from_pretrained(folder)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_values_that_are_not_finite_are_refused(folder, steering):
    tensors = dict(files.named_tensors(steering.maps))
    tensors[f"{SITE}.shift"][3] = float("nan")
    put(folder, tensors)
    with pytest.raises(ModelError, match=f"{SITE} with values that are not finite"):
        Steering.from_pretrained(folder)


def test_another_width_than_the_configuration_says_is_refused(folder, steering):
    put(folder, dict(files.named_tensors(steering.maps)) | {f"{SITE}.weight": torch.ones(8)})
    with pytest.raises(ShapeError, match=rf"{SITE}.weight of shape \(8,\).*expected \(16,\) numbers"):
        Steering.from_pretrained(folder)


def test_whole_numbers_are_no_weights(folder, steering):
    put(
        folder,
        dict(files.named_tensors(steering.maps)) | {f"{SITE}.weight": torch.ones(16, dtype=torch.int64)},
    )
    with pytest.raises(ShapeError, match="int64"):
        Steering.from_pretrained(folder)


def test_tensors_must_be_those_of_the_sites(folder, steering):
    tensors = dict(files.named_tensors(steering.maps))
    put(folder, tensors | {"more": torch.ones(2)})
    with pytest.raises(ModelError, match=r"got 'more', which steering_config.json does not name"):
        Steering.from_pretrained(folder)
    del tensors[f"{SITE}.shift"]
    put(folder, tensors)
    with pytest.raises(ModelError, match=rf"got no '{SITE}.shift'"):
        Steering.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema": 2, "trimtab_version": "9.0"}, "got schema 2 by trimtab 9.0, expected schema 1"),
        ({"schema": None}, "got schema None"),
        ({"sha256": None}, "got sha256 None, expected a str"),
        ({"sites": ["a"]}, r"got sites \['a'\], expected a dict"),
        ({"sites": {SITE: "16"}}, "got '16' units at"),
        ({"sites": {"a:up": 16}}, "in or out"),
        ({"sites": {}}, "which steering_config.json does not name"),
        ({"fingerprints": {"a": 3}}, "got 3 as fingerprint of a"),
    ],
)
def test_a_configuration_that_is_none_is_refused(folder, changed, message):
    rewrite(folder, **changed)
    with pytest.raises(ModelError, match=message):
        Steering.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "got no JSON"), ("[]", "got a list"), ("\xff", "no JSON")]
)
def test_a_configuration_that_is_no_json_object_is_refused(folder, text, message):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=message):
        Steering.from_pretrained(folder)


def test_files_that_are_missing_are_named(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"without {WEIGHTS}"):
        Steering.from_pretrained(folder)
    with pytest.raises(ModelError, match=f"without {CONFIG}"):
        Steering.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="nowhere', which does not exist"):
        Steering.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"'./nowhere', which does not exist"):
        Steering.from_pretrained("./nowhere")


# The hub


def test_the_hub_is_asked_for_our_three_files_only(folder, monkeypatch):
    asked = {}

    def fetch(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(files, "snapshot_download", fetch)
    assert SITE in Steering.from_pretrained("someone/calm", revision="v2").maps
    assert asked == {
        "repo_id": "someone/calm",
        "revision": "v2",
        "allow_patterns": [CONFIG, WEIGHTS, "README.md"],
    }


def test_a_hub_that_cannot_be_reached_is_clear():
    with pytest.raises(ModelError, match=r"got someone/calm-and-kind: .*expected a folder"):
        Steering.from_pretrained("someone/calm-and-kind")


class Hub:
    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, *, private, exist_ok):
        if repo_id.startswith("other/"):
            raise OSError("403 Forbidden: you may not.\nmore")
        assert exist_ok
        Hub.private, Hub.token_used = private, self.token
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, create_pr):
        Hub.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return SimpleNamespace(
            commit_url=f"https://hub/{repo_id}/commit/1", pr_url=f"https://hub/{repo_id}/pr/1"
        )


def test_a_steering_is_pushed_as_the_folder_it_is_saved_to(steering, folder, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", Hub)
    assert (
        steering.push_to_hub("someone/calm", private=True, token="t") == "https://hub/someone/calm/commit/1"
    )
    assert Hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (Hub.private, Hub.token_used) == (True, "t")
    assert steering.push_to_hub("someone/calm", create_pr=True) == "https://hub/someone/calm/pr/1"
    with pytest.raises(
        ModelError, match=r"got other/calm: 403 Forbidden: you may not, expected a repository"
    ):
        steering.push_to_hub("other/calm")
