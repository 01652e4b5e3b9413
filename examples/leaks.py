"""What do served log-probabilities give away that the answer does not say? On a small model that is trained here.

python examples/leaks.py [OUT]        two minutes, once; half a minute after that; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import Answer, TopLogprobs, audit, load
from trimtab.lab.facts import fact_questions
from trimtab.lab.facts_model import FactsModel, facts_model
from trimtab.read.leaks.mitigations import AnswerOnly, Round


def main(out: Path) -> None:
    result = audit(
        load(facts_model(FactsModel())),
        fact_questions(160),
        ["colour"],
        levels=[TopLogprobs(20, encodings=("served",)), Answer()],
        group="scene",
        mitigations=[Round(1), AnswerOnly()],
        classifiers=("logistic",),
        controls=False,
    )
    for row in result.table.itertuples():
        seen = "the answer gives" if row.level == "answer" else f"log-probabilities at k = {row.k:.0f} give"
        print(f"{row.attribute}, {row.role}: {seen} {row.bits:.2f} bits [{row.low:.2f}, {row.high:.2f}]")
    print(result.recommendation)
    out.mkdir(parents=True, exist_ok=True)
    print(result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-leaks"))
