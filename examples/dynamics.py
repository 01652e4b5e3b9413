"""Improve one domain, keep two others: DynaMiCS from Python, on a tiny model and text found in this installation.

python examples/dynamics.py [OUT]        under half a minute; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import Domain, DynaMiCS, Fit, finetune, load
from trimtab.lab.corpora import corpus
from trimtab.lab.models import lab_model


def main(out: Path) -> None:
    stubs, python, tests = (Domain.from_path(name, corpus(name)) for name in ("stubs", "python", "tests"))
    model = load(lab_model("text-tiny"))
    result = finetune(
        model,
        train={"stubs": stubs, "python": python},
        evaluate={"tests": tests},
        mixer=DynaMiCS(targets=["stubs"], constraints={"python": 0.02, "tests": 0.05}),
        fit=Fit(steps=20, seq_len=64, lr=1e-3, eval_sequences=32, probe_sequences=16, test_sequences=64),
        out=out,
    )
    print(result)
    print(result.status, "at step", result.step)
    print(result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"))
