"""Turn insults down: a steering from Python, on a small model of a made-up language that is trained here.

python examples/steering.py [OUT]        about a minute, once; seconds after that; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import LinEAS, Steering, load
from trimtab.lab.grammar_model import GrammarModel, grammar_model
from trimtab.lab.names import texts
from trimtab.steer.calibrate import calibrate
from trimtab.steer.examples import read_examples
from trimtab.steer.steering_job import SteeringConfig, run


def main(out: Path) -> None:
    folder = grammar_model(settings=GrammarModel(layers=2, steps=150))
    rude, clean = (read_examples(texts(name), name, fit=32, held_out=32) for name in ("rude", "clean"))
    model = load(folder)
    steering = LinEAS(sites="attention_out", steps=60, lr=3e-2).fit(model, source=rude.fit, target=clean.fit)
    steering.save_pretrained(out / "steering")
    steering = Steering.from_pretrained(out / "steering")
    prompts = ["lout heckler heckler every", "troll troll lout the"]
    for strength in (0.0, 1.0):
        with steering.on(model, strength):
            print(f"at strength {strength:g}:", *model.generate(prompts, max_new_tokens=8), sep="\n  ")
    found = calibrate(steering, model, clean.held_out, budget=0.01)
    print(f"largest strength within .01 nats of KL on clean text: {found.strength:.2f}")

    config = SteeringConfig(
        model=str(folder),
        source=str(texts("rude")),
        target=str(texts("clean")),
        estimator=LinEAS(sites="attention_out", steps=60, lr=3e-2),
        held_out=32,
        prompts=tuple(prompts),
    )
    print(run(config, out).report_path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-steering"))
