"""Turn insults down: a steering from Python, on a small model of a made-up language that is trained here.

python examples/steering.py [OUT]        about a minute, once; seconds after that; writes OUT/run/report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from trimtab import CAA, LinEAS, MeanAcT, Model, Steering, load
from trimtab.job import carry_out
from trimtab.lab.grammar import Grammar, World
from trimtab.lab.grammar_model import GrammarModel, grammar_model, insult_rate
from trimtab.lab.registry import texts
from trimtab.steer.lineas.job import SteeringConfig
from trimtab.steer.samples import read_examples
from trimtab.steer.strength import calibrate


def main(out: Path) -> None:
    folder = grammar_model(settings=GrammarModel(layers=2, steps=150))
    rude, clean = (read_examples(texts(name), name, fit=32, held_out=64) for name in ("rude", "clean"))
    model, estimator = load(folder), LinEAS(sites="attention_out", loss_sites="residual", steps=60, lr=3e-2)
    steering = estimator.fit(model, source=rude.fit, target=clean.fit)
    steering.save_pretrained(out / "steering")
    steering = Steering.from_pretrained(out / "steering")
    for strength in (0.0, 0.5, 1.0):
        with steering.on(model, strength):
            print(
                f"at strength {strength:g} a slot holds an insult with probability {insults(model, rude.held_out):.3f}"
            )
            print("  ", *model.generate(["lout heckler heckler every"], max_new_tokens=14))
    found = calibrate(steering, model, clean.held_out, budget=0.01)
    print(f"largest strength within .01 nats of KL on clean text: {found.strength:.2f}")

    config = SteeringConfig(
        model=str(folder),
        source=str(texts("rude")),
        target=str(texts("clean")),
        neutral=str(texts("clean")),
        estimator=estimator,
        rivals=(MeanAcT(sites="attention_out"), CAA()),
        budget=0.01,
        prompts=("lout heckler heckler every", "troll troll lout the"),
    )
    result = carry_out(config, out / "run")
    print(result)
    print(out / "run/report.html")


def insults(model: Model, documents: Sequence[str]) -> float:
    """The probability that the model gives to insults where documents have a modifier or an insult."""
    world = World(Grammar())
    ids = world.encode(documents)
    with torch.no_grad():
        probs = model.module(input_ids=ids).logits.double().softmax(-1)
    return float(insult_rate(world, ids, probs).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-steering"))
