"""Captions that let a listener find the picture: DiscriTune from Python, on scenes and models that are made here.

python examples/discritune.py [OUT]        three minutes, once; half a minute after that; writes OUT/run/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import DiscriTune, Listener
from trimtab.data.pictures import read_pictures
from trimtab.job import carry_out
from trimtab.lab import registry
from trimtab.models.captioner import captioner
from trimtab.refer.captions.job import DiscriTuneConfig


def main(out: Path) -> None:
    names = ("captioner", "listener", "listener-other")
    speaker, ear, other = (str(registry.model(name)) for name in names)
    train, test = (read_pictures(registry.pictures(name)) for name in ("scenes", "scenes-test"))
    listener = Listener.from_pretrained(ear)
    tune = DiscriTune(
        listener, negatives="hard", kl=0.1, lr=3e-4, steps=10, max_new_tokens=24, evaluate_every=5
    )
    targets = test.select([name for name in test.names if name.count("-") == 1][:60])
    tuned = tune.fit(captioner(speaker), train, held_out={"test": targets})
    for row in tuned.evaluations.itertuples():
        print(
            f"at step {row.step}: of 60 pictures the listener finds {row.p_at_1:.2f}; {row.length:.1f} words"
        )

    config = DiscriTuneConfig(
        captioner=speaker,
        listener=ear,
        independent=other,
        pictures=str(registry.pictures("scenes")),
        test=str(registry.pictures("scenes-test")),
        candidates=str(registry.table("scenes-hard")),
        negatives="hard",
        kl=0.1,
        lr=3e-4,
        steps=10,
        max_new_tokens=24,
        test_pictures=60,
        watched=30,
    )
    result = carry_out(config, out / "run")
    print(result.summary())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-discritune"))
