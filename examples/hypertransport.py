"""A steering from words alone: a hypernetwork from Python, on a small generator of pictures that is trained here.

python examples/hypertransport.py [OUT]        about a minute, once; half of it after that; writes OUT/run/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import HyperTransport, LinEAS
from trimtab.job import carry_out
from trimtab.lab import registry
from trimtab.lab.scene_encoder import SceneEncoder, scene_encoder
from trimtab.lab.scene_generator import SceneGenerator, scene_generator
from trimtab.lab.scene_towers import Schedule
from trimtab.steer.hypertransport.job import HyperTransportConfig, concept_steering


def main(out: Path) -> None:
    generator = scene_generator(
        SceneGenerator(scenes=2000, plain=0, schedule=Schedule(700, 8e-3, 24), width=24, blocks=2, grounds=80)
    )
    small = {
        "scenes": 2000,
        "width": 48,
        "text_width": 48,
        "vision": Schedule(120),
        "text": Schedule(200, 2e-3, 128),
    }
    encoder, other = (scene_encoder(SceneEncoder(**small, seed=seed)) for seed in (0, 1))
    config = HyperTransportConfig(
        model=str(generator),
        encoder=str(encoder),
        judge_encoder=str(other),
        concepts=str(registry.concepts("scene-concepts")),
        attributes=("palette", "size"),
        source=str(registry.texts("scene-prompts")),
        hypertransport=HyperTransport(sites="*norm*", steps=300),
        lineas=LinEAS(p=1.0, gamma=0.0, lr=0.1, steps=30),
        held_out=4,
        shown_training=1,
        examples=32,
        prompts=16,
    )
    result = carry_out(config, out / "run")
    print(result)
    steering = concept_steering(str(out / "run"), "rosy palette", strength=0.5)
    steering.save_pretrained(out / "rosy")
    print(f"'rosy palette' at strength 0.5: a steering of {len(steering.maps)} sites in {out / 'rosy'}")
    print(out / "run/report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-hypertransport"))
