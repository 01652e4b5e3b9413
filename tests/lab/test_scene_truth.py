"""Truth of scenes: captions say their values, with a concept's in place; renders are those of the changed captions."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.errors import ConfigError
from trimtab.lab import registry
from trimtab.lab.scene_concepts import ATTRIBUTES, plain_prompts, true_renders
from trimtab.lab.scene_judge import Judge
from trimtab.lab.scene_truth import SceneTruth
from trimtab.steer.hypertransport.judging import judge_problem

PROMPTS = plain_prompts(12, 0)
VALUES = {"colour": "purple", "palette": "sepia"}


@pytest.fixture(scope="module")
def truth() -> SceneTruth:
    return SceneTruth(Judge(8).eval())


def test_changed_captions_ask_for_the_concept_and_for_all_else_as_before(truth):
    before, after = truth.asked(PROMPTS), truth.asked(truth.prompted(PROMPTS, VALUES))
    assert set(before) == set(ATTRIBUTES)
    for name in ATTRIBUTES:
        wanted = [VALUES[name]] * len(PROMPTS) if name in VALUES else before[name]
        assert after[name] == wanted


def test_true_pictures_are_renders_of_the_changed_captions_under_the_same_noise(truth):
    made = np.stack([np.array(one) for one in truth.truth(PROMPTS, VALUES, 3)])
    assert np.array_equal(made, true_renders(truth.prompted(PROMPTS, VALUES), None, 3))
    seen = truth.see(truth.truth(PROMPTS, VALUES, 3))
    assert {len(values) for values in seen.values()} == {len(PROMPTS)}


def test_its_name_in_the_lab_is_a_reference_to_a_judge_that_is_there(monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr(registry, "model", lambda *given: built.append(given[0]) or tmp_path)
    reference = registry.judge("scene-judge")
    assert built == ["scene-judge"]
    assert judge_problem(reference) is None
    assert reference == "trimtab.lab.scene_truth:scene_truth"
    with pytest.raises(
        ConfigError, match=r"lab judge: got 'scene-judg', expected one of .*; try 'scene-judge'"
    ):
        registry.judge("scene-judg")
