"""`trimtab steer concept`: an ordinary steering from words or a picture, by the hypernetwork of a folder or a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import hypertransport_world as world
from tiny_generator import SMALL
from trimtab import HyperTransport, Steering, load
from trimtab.cli.main import main
from trimtab.runs.serialise import read_object


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generator, a CLIP, a hypernetwork, and the same in the artifacts of a run."""
    home = tmp_path_factory.mktemp("concept")
    generator = load(world.generator(home / "generator"), device="cpu")
    settings = HyperTransport(encoder=str(world.encoder(home / "clip")), steps=3, sizes=SMALL, examples=4)
    concepts = {row["concept"]: row["prompts"] for row in world.rows() if row["split"] == "train"}
    fitted = settings.fit(generator, concepts, ["left red", "right blue", "up ring"])
    fitted.save_pretrained(home / "hyper")
    fitted.save_pretrained(home / "runs/made/artifacts/hypernetwork")
    Image.new("RGB", (16, 16), (200, 20, 20)).save(home / "seen.png")
    return home


@pytest.fixture(autouse=True)
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("TRIMTAB_RUNS", str(home / "runs"))


def test_words_become_a_steering_that_says_what_it_is(home, capsys):
    assert main(["steer", "concept", "hyper", "red", "-o", "red", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"folder", "strength", "novelty", "usual_novelty", "nearest_concept", "unheard"}
    steering = Steering.from_pretrained("red")
    assert steering.made_by["concept"] == "red"
    assert steering.made_by["novelty"] == told["novelty"]
    generator = load(home / "generator", device="cpu")
    hyper = HyperTransport.from_pretrained("hyper", generator)
    own, before = hyper("red"), generator.generate(["left red"])
    with own.on(generator):
        wanted = generator.generate(["left red"])
    with steering.on(generator):
        assert generator.generate(["left red"]) == wanted
    for more in ([], ["--json"]):  # pictures have no place in a terminal
        assert main(["steer", "try", "red", "generator", "left red", *more]) == 2
        assert "which makes pictures, expected a language model" in capsys.readouterr().err
    assert generator.generate(["left red"]) == before


def test_a_run_by_its_name_a_picture_and_a_strength(capsys):
    assert main(["steer", "concept", "made", "--image", "seen.png", "-o", "seen", "--strength", "0.5"]) == 0
    out, _ = capsys.readouterr()
    assert "novelty" in out
    assert "nearest to" in out
    half = Steering.from_pretrained("seen")
    assert main(["steer", "concept", "made", "--image", "seen.png", "-o", "full"]) == 0
    full = Steering.from_pretrained("full")
    for site, (weight, shift) in full.maps.items():
        assert half.maps[site][0].sub(1).mul(2).add(1).allclose(weight, atol=1e-6)
        assert half.maps[site][1].mul(2).allclose(shift, atol=1e-6)


def test_a_concept_far_from_training_is_told(capsys, monkeypatch):
    monkeypatch.setattr(
        "trimtab.steer.hypertransport.fitted.FittedHyperTransport.usual_novelty", property(lambda _: 0.0)
    )
    assert main(["steer", "concept", "hyper", "left up", "-o", "far"]) == 0
    assert "lies outside what was trained on" in capsys.readouterr().err


def test_an_encoder_that_was_moved_is_named(home, capsys):
    (home / "clip").rename(home / "moved")
    try:
        assert main(["steer", "concept", "hyper", "red", "-o", "elsewhere"]) == 2
        assert re.search("--encoder: got '.*clip'", capsys.readouterr().err)
        assert main(["steer", "concept", "hyper", "red", "--encoder", "moved", "-o", "elsewhere"]) == 0
    finally:
        (home / "moved").rename(home / "clip")
    assert Steering.from_pretrained("elsewhere").made_by["concept"] == "red"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hyper", "-o", "x"], "concept: got neither words and --image, expected one of them"),
        (["hyper", "red", "--image", "seen.png", "-o", "x"], "concept: got both words and --image"),
        (["hyper", "  ", "-o", "x"], "concept: got blank words"),
        (["hyper", "--image", "nowhere.png", "-o", "x"], "--image: got .*nowhere.png"),
        (["hyper", "red", "--strength", "2", "-o", "x"], "--strength: got 2, expected a number in"),
        (["nothing", "red", "-o", "x"], "no folder 'nothing'"),
        (["clip", "red", "-o", "x"], "clip without hypertransport_config.json, expected a hypernetwork"),
        (["hyper", "red", "--model", "./away", "-o", "x"], "--model: got './away'"),
        (
            ["hyper", "red", "--encoder", "generator", "-o", "x"],
            "got a OneStepGenerator|got the encoder|generator",
        ),
        (["hyper", "red", "-o", "hyper"], "hyper"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(home, capsys, arguments, message):
    before = read_object(home / "hyper/hypertransport_config.json")
    assert main(["steer", "concept", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (home / "x").exists()
    assert read_object(home / "hyper/hypertransport_config.json") == before


def test_help_and_completion_know_it(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    line = next(line for line in script.splitlines() if '"steer concept")' in line)
    assert {"--image", "--out", "--strength", "--model", "--json"} <= set(line.replace('"', " ").split())
    assert main(["steer", "concept", "--help"]) == 0
    assert "red-cross" in capsys.readouterr().out
