"""Truth of generated scenes: what a judge sees, what a caption asks for, and what a perfect steering would paint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trimtab.lab.scene_captions import full_caption
from trimtab.lab.scene_concepts import ATTRIBUTES, changed, scene_of, true_renders
from trimtab.lab.scene_judge import Judge, scene_judge
from trimtab.lab.scenes import WHOLE


@dataclass(frozen=True)
class SceneTruth:
    """Judge of scenes with the truth of their captions, for `trimtab.steer.hypertransport.judging`.

    Attributes:
        judge: reads the attributes of pictures.
    """

    judge: Judge

    def see(self, outputs: Sequence[Any]) -> dict[str, list[str]]:
        """Attribute -> the value that is seen in each picture."""
        return self.judge.see(outputs)

    def asked(self, prompts: Sequence[str]) -> dict[str, list[str]]:
        """Attribute -> the value that each caption asks for; what it does not say is at its default.

        Raises:
            DataError: a prompt that is no full caption of one object.
        """
        scenes = [scene_of(prompt) for prompt in prompts]
        return {
            name: [str(getattr(one if name in WHOLE else one.objects[0], name)) for one in scenes]
            for name in ATTRIBUTES
        }

    def prompted(self, prompts: Sequence[str], values: Mapping[str, str]) -> list[str]:
        """Captions of the same scenes with a concept's values."""
        return [full_caption(changed(scene_of(prompt), values)) for prompt in prompts]

    def truth(self, prompts: Sequence[str], values: Mapping[str, str], seed: int) -> list[Image.Image]:
        """Renders of the same scenes and noise with a concept's values."""
        return [Image.fromarray(one) for one in true_renders(prompts, values, seed)]


def scene_truth() -> SceneTruth:
    """Truth by `lab:scene-judge`, which is trained on first use."""
    return SceneTruth(Judge.read(scene_judge()))
