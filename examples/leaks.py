"""What do served log-probabilities give away that the answer does not say? On a small model that is trained here.

python examples/leaks.py [OUT]        about a minute; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import Answer, TopLogprobs, audit, load
from trimtab.lab.facts import fact_questions
from trimtab.lab.facts_model import FactsModel, facts_model
from trimtab.lab.scene_towers import Schedule
from trimtab.read.leaks.mitigations import AnswerOnly, Round


def main(out: Path) -> None:
    # A short training: it knows what kind of word answers, not yet what the right one is, and leaks all the same.
    folder = facts_model(FactsModel(training=Schedule(150, 4e-3, 16)))
    result = audit(
        load(folder),
        fact_questions(160),
        ["colour"],
        levels=[TopLogprobs((5, 20), encodings=("served",)), Answer()],
        group="scene",
        background=["city"],
        mitigations=[Round(1), AnswerOnly()],
        classifiers=("logistic",),
        controls=False,
    )
    for row in result.table.itertuples():
        seen = "the answer" if row.level == "answer" else f"log-probabilities at k = {row.k:.0f}"
        print(f"{row.attribute}, {row.role}: {seen} give {row.bits:.2f} bits [{row.low:.2f}, {row.high:.2f}]")
    print(result.recommendation)
    out.mkdir(parents=True, exist_ok=True)
    print(result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-leaks"))
