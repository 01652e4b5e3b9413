"""Faithfulness against captions whose mistakes are known."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import DataError
from trimtab.lab.scene_captions import full_caption
from trimtab.lab.scenes import DEFAULTS, SceneWorld
from trimtab.refer.captions.faithfulness import faithfulness, truth_of, truths, values_said

WORLD = SceneWorld()
RNG = np.random.default_rng(0)
SCENES = {f"p{k}": WORLD.draw(RNG) for k in range(60)}
TOLD = {name: truth_of(WORLD.graph(scene)) for name, scene in SCENES.items()}
SAID = {value for name in TOLD for value in TOLD[name].values()} - set(DEFAULTS.values())


def totals(captions: dict[str, str], said: set[str] | None = SAID) -> list[int]:
    columns = ["named", "hallucinated", "true", "omitted"]
    return [int(total) for total in faithfulness(captions, TOLD, said)[columns].sum()]


def test_full_captions_hallucinate_and_omit_nothing() -> None:
    captions = {name: full_caption(scene) for name, scene in SCENES.items()}
    named, hallucinated, true, omitted = totals(captions)
    words = sum(len([w for w in text.split() if w not in ("and", "on")]) for text in captions.values())
    assert (named, hallucinated, true, omitted) == (words, 0, words, 0)
    assert values_said(captions.values(), TOLD.values()) <= SAID


def test_defaults_that_nobody_names_are_omitted_only_without_the_words_that_people_say() -> None:
    captions = {name: full_caption(scene) for name, scene in SCENES.items()}
    assert totals(captions, None)[3] > 0


def test_a_changed_attribute_is_one_hallucination_and_one_omission() -> None:
    """The caption of a one-attribute variant, of the picture it was made from."""
    wrong = 0
    for name, scene in SCENES.items():
        for variant in WORLD.variants(scene)[:12]:
            old = scene.attributes()[variant.attribute, variant.number]
            new = variant.scene.attributes()[variant.attribute, variant.number]
            row = faithfulness({name: full_caption(variant.scene)}, TOLD, SAID).iloc[0]
            expected = (int(new in SAID), int(old in SAID))
            # Two objects of a scene may both have become what the other was; the assignment takes the better reading.
            wrong += (row["hallucinated"], row["omitted"]) != expected
    assert wrong == 0


def test_colours_that_change_places_are_hallucinated() -> None:
    told = {
        "a": truth_of(
            {"objects": [{"shape": "circle", "colour": "red"}, {"shape": "square", "colour": "blue"}]}
        )
    }
    right = faithfulness({"a": "a red circle and a blue square"}, told).iloc[0]
    swapped = faithfulness({"a": "a blue circle and a red square"}, told).iloc[0]
    turned = faithfulness({"a": "a blue square and a red circle"}, told).iloc[0]
    assert (right["hallucinated"], turned["hallucinated"], swapped["hallucinated"]) == (0, 0, 2)
    assert faithfulness({"a": ""}, told).iloc[0].tolist() == ["a", 0, 0, 4, 4]


def test_the_assignment_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        objects = [{f"k{i}": str(v) for i, v in enumerate(rng.choice(6, 3))} for _ in range(3)]
        phrases = [{str(v) for v in rng.choice(6, 2)} for _ in range(3)]
        told = {
            "a": truth_of({"objects": objects}),
            "b": truth_of({"objects": [{"x": str(v)} for v in range(6)]}),
        }
        row = faithfulness({"a": " and ".join(" ".join(sorted(p)) for p in phrases)}, told).iloc[0]
        values = [set(one.values()) for one in objects]
        best = max(
            sum(len(p & values[o]) for p, o in zip(phrases, order, strict=True))
            for order in permutations(range(3))
        )
        assert row["named"] - row["hallucinated"] == best


def test_truth_of_columns_and_of_graphs() -> None:
    image = Image.new("RGB", (2, 2))
    table = pd.DataFrame({"kind": ["dog", None], "coat": ["light brown", "black"]}, index=["a", "b"])
    shown = Pictures({"a": image, "b": image}, table)
    told = truths(shown, ["kind", "coat"])
    assert told["a"].whole == {"kind": "dog", "coat": "light brown"}
    assert told["b"].whole == {"coat": "black"}
    row = faithfulness({"a": "a Light Brown dog, not black", "b": "lightbrown"}, told)
    assert row[["named", "hallucinated", "omitted"]].to_numpy().tolist() == [[3, 1, 0], [0, 0, 1]]
    assert truths(shown) == {}
    assert truths(read_pictures({"a": image})) == {}
    graphs = Pictures(
        {"a": image}, pd.DataFrame({"scene": [json.dumps(WORLD.graph(SCENES["p0"]))]}, index=["a"])
    )
    assert truths(graphs)["a"] == TOLD["p0"]


def test_refusals() -> None:
    image = Image.new("RGB", (2, 2))
    shown = Pictures({"a": image}, pd.DataFrame({"scene": ["[1]"], "color": ["red"]}, index=["a"]))
    with pytest.raises(DataError, match="pictures, picture 'a': got a list, expected a scene graph"):
        truths(shown)
    with pytest.raises(DataError, match=r"got no column 'colour'.*; try 'color'"):
        truths(shown, ["colour"])
    with pytest.raises(DataError, match="objects that are no list of mappings"):
        truth_of({"objects": ["red"]})
    with pytest.raises(DataError, match="got a caption of 'p', expected pictures whose truth is known"):
        faithfulness({"p": "red"}, TOLD)
